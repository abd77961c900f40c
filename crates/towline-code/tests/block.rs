//! Blocks from end to end, with the source as the oracle.

#![allow(clippy::print_stdout)]

#[path = "../examples/simulation/mod.rs"]
mod simulation;

use simulation::{Chain, Packet, Random, Relaying, trial};
use towline_code::*;

fn code(k: u32, symbol_size: usize, m: usize, degrees: Degrees, nonce: u64) -> BlockCode {
    let batch_size = m.try_into().expect("a batch size");
    BlockCode::new(BlockParameters { source_symbols: k, symbol_size, batch_size, degrees, nonce })
        .expect("a code")
}

fn bytes(random: &mut Random, count: usize) -> Vec<u8> {
    (0..count).map(|_| random.word() as u8).collect()
}

#[test]
fn one_hop_loss_is_repaired_for_every_shape_of_block() {
    let mut random = Random(1);
    for k in [1u32, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 64, 100, 255, 256, 257, 500] {
        for (m, size) in [(4, 1), (8, 3), (16, 63), (16, 64), (32, 65), (64, 200)] {
            for degrees in [
                Degrees::Even(k as u16),
                Degrees::for_missing(k, f64::from(k) * 0.1),
                Degrees::Fountain,
            ] {
                let code = code(k, size, m, degrees, u64::from(k));
                let data = bytes(&mut random, k as usize * size);
                let mut encoder = BlockEncoder::over(code, &data, size).unwrap();
                let mut decoder = BlockDecoder::new(code, DecoderLimits::default());
                let mut available = 0;
                for index in (0..k).filter(|_| !random.chance(0.2)).collect::<Vec<_>>() {
                    let (batch, column) = code.position_of(index);
                    let symbol = *encoder.source(index).unwrap();
                    let progress =
                        decoder.push(batch, Combination::Column(column), symbol.to_vec()).unwrap();
                    assert_eq!((progress.outcome, progress.available), (Outcome::Accepted, 1));
                    assert_eq!(decoder.symbol(index), Some(symbol));
                    available += 1;
                }
                for n in 0.. {
                    if decoder.is_complete() {
                        break;
                    }
                    assert!(
                        n < 20 * u64::from(k) + 50,
                        "k {k} {degrees:?} rank {}",
                        decoder.rank()
                    );
                    let (batch, column) = code.repair_position(n).unwrap();
                    let mut out = vec![0; size];
                    encoder.symbol(batch, column, &mut out).unwrap();
                    let progress = decoder.push(batch, Combination::Column(column), out).unwrap();
                    assert_eq!(progress.deficit, decoder.deficit());
                    available += progress.available;
                }
                assert_eq!(available, k as usize);
                assert!(
                    (0..k).all(|index| decoder.symbol(index) == encoder.source(index).copied())
                );
            }
        }
    }
}

/// Loss, reordering across batches, duplication and relays that recode what relays recoded, against the source.
#[test]
fn any_mixture_of_faults_over_any_number_of_relays_decodes_to_the_source() {
    for seed in 0..150 {
        println!("seed {seed}");
        let mut random = Random(seed);
        let k = 1 + (random.word() % 200) as u32;
        let m = [4, 8, 16, 32, 64][random.word() as usize % 5];
        let size = 1 + random.word() as usize % 70;
        let hops = 1 + random.word() as usize % 5;
        let loss = (random.word() % 40) as f64 / 100.0;
        let degrees = match random.word() % 3 {
            0 => Degrees::Fountain,
            1 => Degrees::Even(k as u16),
            _ => Degrees::for_missing(k, f64::from(k) * 0.3),
        };
        let relaying = if random.chance(0.5) { Relaying::Systematic } else { Relaying::Dense };
        let code = code(k, size, m, degrees, seed);
        let data = bytes(&mut random, k as usize * size);
        let mut encoder = BlockEncoder::over(code, &data, size).unwrap();
        let mut decoder = BlockDecoder::new(code, DecoderLimits::default());
        let mut chain = Chain::new(hops, loss, m, size, relaying, seed);
        let mut seen = vec![false; k as usize];
        let mut batch = 0;
        while !decoder.is_complete() {
            assert!(
                batch < 40 * k + 400,
                "seed {seed}: rank {} of {k} after {batch} batches",
                decoder.rank()
            );
            // Eight batches in flight, in any order, some packets twice.
            let mut arrived: Vec<(BatchId, Packet)> = Vec::new();
            for id in (batch..batch + 8).map(BatchId) {
                let packets = (0..code.columns_of(id) as u16).map(|column| {
                    let mut symbol = vec![0; size];
                    encoder.symbol(id, column, &mut symbol).unwrap();
                    Packet { column: Some(column), vector: Vec::new(), symbol }
                });
                let packets = packets.collect();
                for packet in chain.carry(id, packets, |_, _| {}) {
                    if random.chance(0.1) {
                        arrived.push((id, packet.clone()));
                    }
                    arrived.push((id, packet));
                }
            }
            batch += 8;
            while !arrived.is_empty() {
                let (id, packet) = arrived.swap_remove(random.word() as usize % arrived.len());
                let rank = decoder.rank();
                let progress =
                    decoder.push(id, packet.combination(), packet.symbol.clone()).unwrap();
                assert!(
                    progress.outcome == Outcome::Accepted
                        || (progress.available == 0 && progress.rank == rank)
                );
                let mut named = 0;
                while let Some(index) = decoder.poll_available() {
                    let at = index as usize;
                    assert!(
                        !std::mem::replace(&mut seen[at], true),
                        "seed {seed}: {index} delivered twice"
                    );
                    assert_eq!(
                        decoder.symbol(index),
                        Some(&data[at * size..][..size]),
                        "seed {seed}"
                    );
                    named += 1;
                }
                assert_eq!(named, progress.available);
                let again = decoder.push(id, packet.combination(), packet.symbol.clone()).unwrap();
                assert_eq!(
                    (again.outcome, again.available),
                    (Outcome::Redundant, 0),
                    "seed {seed}: a repetition"
                );
            }
        }
        assert!(seen.iter().all(|s| *s));
    }
}

/// The same numbers on every machine: a change in the code's overhead shows as a difference here.
#[test]
fn the_overhead_table_is_as_recorded() {
    let mut table = String::from("   K   M hops loss  overhead worst inactive\n");
    for (k, m) in [(64, 8), (256, 16), (1024, 16)] {
        for (hops, loss) in [(1, 0.02), (1, 0.10), (1, 0.20), (3, 0.05), (3, 0.20)] {
            let ratio = simulation::rank_ratio(hops, loss, m, Relaying::Systematic, 200, 1);
            let degrees = Degrees::for_missing(k, f64::from(k) * (1.0 - ratio));
            let mut chain = Chain::new(hops, loss, m, 2, Relaying::Systematic, 11);
            let trials: Vec<_> =
                (0..20).map(|nonce| trial(code(k, 2, m, degrees, nonce), &mut chain)).collect();
            let overhead: usize = trials.iter().map(|t| t.overhead).sum();
            let worst = trials.iter().map(|t| t.overhead).max().unwrap_or(0);
            let inactive: usize = trials.iter().map(|t| t.inactive).sum();
            assert!(worst <= 2);
            table +=
                &format!("{k:4} {m:3} {hops:4} {loss:.2} {overhead:9} {worst:5} {inactive:8}\n");
        }
    }
    let recorded = include_str!("overhead.txt");
    assert!(table == recorded, "the table is now\n{table}and was\n{recorded}");
}

#[test]
fn many_columns_at_once_are_the_columns_one_by_one() {
    let mut random = Random(4);
    for degrees in [Degrees::Even(90), Degrees::Even(31), Degrees::Fountain] {
        let code = code(90, 130, 16, degrees, 8);
        let data = bytes(&mut random, 90 * 130);
        let mut encoder = BlockEncoder::over(code, &data, 130).unwrap();
        let mut together = vec![vec![0; 130]; 27];
        encoder.repair(5, &mut together).unwrap();
        for (n, symbol) in (5..).zip(&together) {
            let (batch, column) = code.repair_position(n).unwrap();
            let mut one = vec![0; 130];
            encoder.symbol(batch, column, &mut one).unwrap();
            assert_eq!(&one, symbol, "{degrees:?} {n}");
        }
    }
}

#[test]
fn a_source_batch_is_completed_by_its_own_mixed_packets_before_the_block_is() {
    let code = code(64, 10, 16, Degrees::Even(64), 1);
    let data: Vec<u8> = (0..640).map(|i| i as u8).collect();
    let mut decoder = BlockDecoder::new(code, DecoderLimits::default());
    let symbol = |index: usize| data[index * 10..][..10].to_vec();
    for j in 0..14 {
        decoder.push(BatchId(1), Combination::Column(j), symbol(16 + usize::from(j))).unwrap();
    }
    for c in 1..=2u8 {
        let mut vector = [c; 16];
        vector[14] = 3 * c;
        vector[15] = c ^ 7;
        let mut mixed = vec![0; 10];
        vector
            .iter()
            .enumerate()
            .for_each(|(j, &c)| gf256::mul_add(&mut mixed, &symbol(16 + j), c));
        let progress = decoder.push(BatchId(1), Combination::Coefficients(&vector), mixed).unwrap();
        assert_eq!(progress.available, if c == 1 { 0 } else { 2 });
    }
    assert_eq!(
        (decoder.symbol(30), decoder.symbol(31)),
        (Some(&symbol(30)[..]), Some(&symbol(31)[..]))
    );
    assert_eq!((decoder.rank(), decoder.deficit()), (16, 48));
}

#[test]
fn refused_symbols_change_nothing_and_say_why() {
    let code = code(20, 8, 16, Degrees::Even(20), 1);
    let mut decoder = BlockDecoder::new(code, DecoderLimits::default());
    let mut push = |batch, combination: Combination<'_>, size| {
        decoder.push(BatchId(batch), combination, vec![1; size])
    };
    assert_eq!(
        push(0, Combination::Column(0), 7),
        Err(DecodeError::WrongSize { expected: 8, actual: 7 })
    );
    assert_eq!(push(0, Combination::Column(16), 8), Err(DecodeError::NoSuchColumn));
    // The second source batch has four columns.
    assert_eq!(push(1, Combination::Column(4), 8), Err(DecodeError::NoSuchColumn));
    let mut vector = [0; 16];
    assert_eq!(push(2, Combination::Coefficients(&vector), 8), Err(DecodeError::Zero));
    vector[4] = 1;
    assert_eq!(push(1, Combination::Coefficients(&vector), 8), Err(DecodeError::NoSuchColumn));
    for len in [0, 3, 15] {
        let expected = DecodeError::WrongCoefficients { expected: 16, actual: len };
        assert_eq!(push(2, Combination::Coefficients(&vector[..len]), 8), Err(expected));
    }
    assert_eq!(
        push(1, Combination::Coefficients(&[1; 17]), 8),
        Err(DecodeError::WrongCoefficients { expected: 16, actual: 17 })
    );
    assert_eq!((decoder.rank(), decoder.deficit(), decoder.accepted()), (0, 20, 0));
}

#[test]
fn limits_end_a_decoder_with_their_name_and_source_symbols_still_get_through() {
    let code = code(64, 4, 16, Degrees::Even(64), 1);
    let data = vec![9; 256];
    let mut encoder = BlockEncoder::over(code, &data, 4).unwrap();
    let fill = |limits: DecoderLimits, encoder: &mut BlockEncoder<&[u8]>| {
        let mut decoder = BlockDecoder::new(code, limits);
        let mut last = Ok(());
        for n in 0..64 {
            let (batch, column) = code.repair_position(n).unwrap();
            let mut out = vec![0; 4];
            encoder.symbol(batch, column, &mut out).unwrap();
            last = decoder.push(batch, Combination::Column(column), out).map(|_| ());
        }
        (decoder, last)
    };
    let limits = DecoderLimits { max_entries: 1000, ..DecoderLimits::default() };
    let (mut decoder, last) = fill(limits, &mut encoder);
    assert_eq!(last, Err(DecodeError::TooDense("max_entries")));
    assert_eq!(
        decoder.push(BatchId(4), Combination::Column(0), vec![0; 4]),
        Err(DecodeError::TooDense("max_entries"))
    );
    for index in 0..64 {
        let (batch, column) = code.position_of(index);
        decoder.push(batch, Combination::Column(column), vec![9; 4]).unwrap();
    }
    assert!(decoder.is_complete());
    let limits = DecoderLimits { max_inactive: 10, ..DecoderLimits::default() };
    assert_eq!(fill(limits, &mut encoder).1, Err(DecodeError::TooDense("max_inactive")));
    assert!(fill(DecoderLimits::default(), &mut encoder).0.is_complete());
}

/// Columns that cover only half of the source never decode it: the decoder notices, waits, and gives up at its limit.
#[test]
fn equations_that_can_never_suffice_cost_bounded_work() {
    // Each column is one symbol. Symbol i is (i, 1), so a column (c * i, c) tells its i.
    let code = code(64, 2, 16, Degrees::Even(1), 3);
    let data: Vec<u8> = (0..64).flat_map(|i| [i, 1]).collect();
    let mut encoder = BlockEncoder::over(code, &data, 2).unwrap();
    let mut decoder =
        BlockDecoder::new(code, DecoderLimits { max_dependent: 100, ..DecoderLimits::default() });
    let mut deficits = std::collections::BTreeSet::new();
    for n in 0.. {
        let (batch, column) = code.repair_position(n).unwrap();
        let mut out = vec![0; 2];
        encoder.symbol(batch, column, &mut out).unwrap();
        if gf256::product(out[0], gf256::inverse(out[1])) >= 32 {
            continue;
        }
        match decoder.push(batch, Combination::Column(column), out) {
            Ok(progress) => deficits.insert(progress.deficit),
            Err(error) => {
                assert_eq!(error, DecodeError::TooManyDependent);
                break;
            }
        };
        assert!(n < 1000, "it never gave up");
    }
    assert!(!deficits.contains(&0) && !decoder.is_complete());
    assert!(decoder.accepted() <= 64 + 100);
}

#[test]
fn parameters_out_of_range_are_refused_by_name() {
    let good = BlockParameters {
        source_symbols: 10,
        symbol_size: 100,
        batch_size: BatchSize::M16,
        degrees: Degrees::Even(2),
        nonce: 0,
    };
    let new = |change: fn(&mut BlockParameters)| {
        let mut parameters = good;
        change(&mut parameters);
        BlockCode::new(parameters).map(|_| ())
    };
    assert_eq!(new(|_| ()), Ok(()));
    assert_eq!(new(|p| p.source_symbols = 0), Err(ParameterError::SourceSymbols(0)));
    assert_eq!(new(|p| p.source_symbols = 65_536), Err(ParameterError::SourceSymbols(65_536)));
    assert_eq!(new(|p| p.symbol_size = 0), Err(ParameterError::SymbolSize(0)));
    assert_eq!(new(|p| p.symbol_size = 65_536), Err(ParameterError::SymbolSize(65_536)));
    assert_eq!(new(|p| p.degrees = Degrees::Even(0)), Err(ParameterError::Degrees(0)));
    assert_eq!(new(|p| p.degrees = Degrees::Even(11)), Err(ParameterError::Degrees(11)));
    assert_eq!(BatchSize::try_from(5), Err(ParameterError::BatchSize(5)));
}

#[test]
fn the_largest_symbols_and_the_largest_block_fit() {
    let large = code(3, 65_535, 4, Degrees::Even(3), 1);
    let data: Vec<u8> = (0..3 * 65_535).map(|i| (i % 253) as u8).collect();
    let mut encoder = BlockEncoder::over(large, &data, 65_535).unwrap();
    let mut decoder = BlockDecoder::new(large, DecoderLimits::default());
    for n in 0..3 {
        let (batch, column) = large.repair_position(n).unwrap();
        let mut out = vec![0; 65_535];
        encoder.symbol(batch, column, &mut out).unwrap();
        decoder.push(batch, Combination::Column(column), out).unwrap();
    }
    assert!((0..3).all(|i| decoder.symbol(i) == encoder.source(i).copied()));
    let many = code(65_535, 1, 64, Degrees::for_missing(65_535, 300.0), 1);
    let data: Vec<u8> = (0..65_535).map(|i| (i % 251) as u8).collect();
    let mut encoder = BlockEncoder::over(many, &data, 1).unwrap();
    let mut decoder = BlockDecoder::new(many, DecoderLimits::default());
    for index in (0..65_535).filter(|i| i % 219 != 7) {
        let (batch, column) = many.position_of(index);
        decoder
            .push(batch, Combination::Column(column), encoder.source(index).unwrap().to_vec())
            .unwrap();
    }
    let lost = decoder.deficit();
    for n in 0..lost as u64 + 2 {
        let (batch, column) = many.repair_position(n).unwrap();
        let mut out = vec![0];
        encoder.symbol(batch, column, &mut out).unwrap();
        decoder.push(batch, Combination::Column(column), out).unwrap();
    }
    assert!(decoder.is_complete());
    assert!((0..65_535).all(|i| decoder.symbol(i) == encoder.source(i).copied()));
}
