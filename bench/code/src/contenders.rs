//! What is compared. Every contender gets its input in the form that it takes; making that form is not counted, handing it
//! over and everything after it is.

use std::{hint::black_box, rc::Rc};

use rand::{Rng, SeedableRng, rngs::SmallRng};
use raptorq::{
    EncodingPacket, ObjectTransmissionInformation, SourceBlockDecoder, SourceBlockEncoder,
    SourceBlockEncodingPlan,
};
use towline_code::*;

use crate::{Contender, Measure, SYMBOL};

/// Different blocks that a contender alternates between, so that none is in the second-level cache from the call before.
const BLOCKS: usize = 8;

pub fn all() -> Vec<Measure> {
    let mut all = Vec::new();
    for k in [256, 1024] {
        all.push(encode(k, 0.10));
    }
    for (k, loss) in [(256, 0.10), (1024, 0.10), (256, 0.01), (1024, 0.01)] {
        all.push(decode(k, loss));
    }
    all.push(recode());
    all
}

/// Seconds of processor time that this thread spends on the work: what other programs do meanwhile does not count.
fn timed<T>(work: impl FnOnce() -> T) -> f64 {
    let began = processor_time();
    let result = black_box(work());
    let elapsed = processor_time() - began;
    drop(result);
    elapsed
}

fn processor_time() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clock id is a constant of the platform and the pointer is to a live timespec.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    assert_eq!(result, 0, "the clock of a thread");
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

fn contender(name: &'static str, run: impl FnMut() -> f64 + 'static) -> Contender {
    Contender { name, run: Box::new(run) }
}

fn blocks(k: usize) -> Vec<Vec<u8>> {
    let mut random = SmallRng::seed_from_u64(k as u64);
    (0..BLOCKS).map(|_| (0..k * SYMBOL).map(|_| random.random()).collect()).collect()
}

/// Gives one number after another below `BLOCKS`.
fn turn() -> impl FnMut() -> usize {
    let mut at = 0;
    move || {
        at = (at + 1) % BLOCKS;
        at
    }
}

fn code(k: usize, loss: f64, nonce: u64) -> BlockCode {
    BlockCode::new(BlockParameters {
        source_symbols: k as u32,
        symbol_size: SYMBOL,
        batch_size: BatchSize::M16,
        degrees: Degrees::for_missing(k as u32, k as f64 * loss),
        nonce,
    })
    .expect("a code")
}

fn raptorq_config(k: usize) -> ObjectTransmissionInformation {
    ObjectTransmissionInformation::new((k * SYMBOL) as u64, SYMBOL as u16, 1, 1, 8)
}

fn encode(k: usize, loss: f64) -> Measure {
    let repairs = (k as f64 * loss / (1.0 - loss)).ceil() as usize;
    let mut contenders = Vec::new();
    let shared = Rc::new(blocks(k));
    let (data, mut next) = (Rc::clone(&shared), turn());
    let mut out = vec![vec![0u8; SYMBOL]; repairs];
    contenders.push(contender("towline", move || {
        let at = next();
        timed(|| {
            let mut encoder = BlockEncoder::over(code(k, loss, at as u64), &data[at], SYMBOL)
                .expect("an encoder");
            encoder.repair(0, &mut out).expect("repair");
        })
    }));
    let (data, mut next) = (Rc::clone(&shared), turn());
    contenders.push(contender("raptorq", move || {
        let data = &data[next()];
        timed(|| {
            SourceBlockEncoder::new(0, &raptorq_config(k), data).repair_packets(0, repairs as u32)
        })
    }));
    let (data, mut next) = (Rc::clone(&shared), turn());
    let plan = SourceBlockEncodingPlan::generate(k as u16);
    contenders.push(contender("raptorq, its plan made before", move || {
        let data = &data[next()];
        timed(|| {
            SourceBlockEncoder::with_encoding_plan(0, &raptorq_config(k), data, &plan)
                .repair_packets(0, repairs as u32)
        })
    }));
    let (data, mut next) = (Rc::clone(&shared), turn());
    let mut rs =
        reed_solomon_simd::ReedSolomonEncoder::new(k, repairs, SYMBOL).expect("an encoder");
    contenders.push(contender("reed-solomon-simd", move || {
        let data = &data[next()];
        timed(|| {
            for symbol in data.chunks(SYMBOL) {
                rs.add_original_shard(symbol).expect("a shard");
            }
            black_box(rs.encode().expect("repair").recovery_iter().count())
        })
    }));
    let (data, mut next) = (Rc::clone(&shared), turn());
    let mut random = SmallRng::seed_from_u64(1);
    contenders.push(contender("rlnc", move || {
        let data = data[next()].clone();
        timed(|| {
            let encoder = rlnc::full::Encoder::new(data, k).expect("an encoder");
            (0..repairs).for_each(|_| drop(black_box(encoder.code(&mut random))));
        })
    }));
    Measure {
        name: format!("encode K={k}, {repairs} repair"),
        bits: (k * SYMBOL * 8) as f64,
        target: Some(20.0),
        ratio_target: Some(("raptorq", 4.0)),
        contenders,
    }
}

/// Which source symbols are lost: as many as the loss says, the same for every contender.
fn lost(k: usize, loss: f64, block: usize) -> Vec<bool> {
    let mut random = SmallRng::seed_from_u64((k + block) as u64);
    let mut lost = vec![false; k];
    let mut left = ((k as f64 * loss).round() as usize).max(1);
    while left > 0 {
        let at = random.random_range(0..k);
        left -= usize::from(!std::mem::replace(&mut lost[at], true));
    }
    lost
}

fn decode(k: usize, loss: f64) -> Measure {
    let mut contenders = vec![
        towline_decoder(k, loss, false),
        towline_decoder(k, loss, true),
        raptorq_decoder(k, loss),
    ];
    contenders.push(reed_solomon_decoder(k, loss));
    if k <= 256 {
        contenders.push(rlnc_decoder(k, loss));
    }
    let near = loss < 0.05;
    Measure {
        name: format!("decode K={k}, {}% lost", loss * 100.0),
        bits: (k * SYMBOL * 8) as f64,
        target: Some(if near { 40.0 } else { 12.0 }),
        ratio_target: (!near).then_some(("raptorq", 2.5)),
        contenders,
    }
}

/// Symbols by reference, as they would lie in receive buffers.
type Received = Vec<(BatchId, u16, Vec<u8>)>;

fn towline_decoder(k: usize, loss: f64, copied: bool) -> Contender {
    let received = |(block, data): (usize, Vec<u8>)| -> (BlockCode, Received) {
        let code = code(k, loss, block as u64);
        let mut encoder = BlockEncoder::over(code, &data, SYMBOL).expect("an encoder");
        let lost = lost(k, loss, block);
        let mut all = Received::new();
        for index in (0..k as u32).filter(|&i| !lost[i as usize]) {
            let (batch, column) = code.position_of(index);
            all.push((batch, column, encoder.source(index).expect("a symbol").to_vec()));
        }
        for n in 0..(k - all.len()) as u64 + 8 {
            let (batch, column) = code.repair_position(n).expect("a batch");
            let mut out = vec![0; SYMBOL];
            encoder.symbol(batch, column, &mut out).expect("a symbol");
            all.push((batch, column, out));
        }
        (code, all)
    };
    let received: Vec<(BlockCode, Received)> =
        blocks(k).into_iter().enumerate().map(received).collect();
    let mut next = turn();
    let mut object = vec![0u8; k * SYMBOL];
    contender(if copied { "towline, copied into one buffer" } else { "towline" }, move || {
        let (code, symbols) = &received[next()];
        timed(|| {
            let mut decoder = BlockDecoder::new(*code, DecoderLimits::default());
            for (batch, column, symbol) in symbols {
                if decoder
                    .push(*batch, Combination::Column(*column), symbol.as_slice())
                    .expect("a symbol")
                    .deficit
                    == 0
                {
                    break;
                }
            }
            assert!(decoder.is_complete());
            if copied {
                for (index, out) in (0u32..).zip(object.chunks_mut(SYMBOL)) {
                    out.copy_from_slice(decoder.symbol(index).expect("a symbol"));
                }
            }
            decoder
        })
    })
}

fn raptorq_decoder(k: usize, loss: f64) -> Contender {
    let received = |(block, data): (usize, Vec<u8>)| -> Vec<EncodingPacket> {
        let encoder = SourceBlockEncoder::new(0, &raptorq_config(k), &data);
        let lost = lost(k, loss, block);
        let mut all: Vec<EncodingPacket> = encoder
            .source_packets()
            .into_iter()
            .zip(&lost)
            .filter(|(_, lost)| !**lost)
            .map(|(p, _)| p)
            .collect();
        all.extend(encoder.repair_packets(0, (k - all.len()) as u32 + 8));
        all
    };
    let received: Vec<Vec<EncodingPacket>> =
        blocks(k).into_iter().enumerate().map(received).collect();
    let mut next = turn();
    contender("raptorq", move || {
        // It takes packets by value.
        let packets = received[next()].clone();
        timed(|| {
            let mut decoder = SourceBlockDecoder::new(0, &raptorq_config(k), (k * SYMBOL) as u64);
            let mut packets = packets.into_iter();
            // All that is needed at once, then one at a time.
            let mut result = decoder.decode(packets.by_ref().take(k));
            while result.is_none() {
                result = decoder.decode(packets.next());
            }
            result
        })
    })
}

fn reed_solomon_decoder(k: usize, loss: f64) -> Contender {
    let repairs = (k as f64 * loss).ceil() as usize + 2;
    let data = blocks(k);
    let recovery: Vec<Vec<Vec<u8>>> = data
        .iter()
        .map(|d| reed_solomon_simd::encode(k, repairs, d.chunks(SYMBOL)).expect("repair"))
        .collect();
    let lost: Vec<Vec<bool>> = (0..BLOCKS).map(|block| lost(k, loss, block)).collect();
    let mut decoder =
        reed_solomon_simd::ReedSolomonDecoder::new(k, repairs, SYMBOL).expect("a decoder");
    let mut next = turn();
    contender("reed-solomon-simd", move || {
        let at = next();
        timed(|| {
            for (index, symbol) in
                data[at].chunks(SYMBOL).enumerate().filter(|(i, _)| !lost[at][*i])
            {
                decoder.add_original_shard(index, symbol).expect("a shard");
            }
            let needed = lost[at].iter().filter(|lost| **lost).count();
            for (index, symbol) in recovery[at].iter().enumerate().take(needed) {
                decoder.add_recovery_shard(index, symbol).expect("a shard");
            }
            let restored = decoder.decode().expect("a block").restored_original_iter().count();
            assert_eq!(restored, needed);
        })
    })
}

fn rlnc_decoder(k: usize, loss: f64) -> Contender {
    let mut random = SmallRng::seed_from_u64(2);
    let mut received = |(block, data): (usize, Vec<u8>)| -> (usize, Vec<Vec<u8>>) {
        let encoder = rlnc::full::Encoder::new(data.clone(), k).expect("an encoder");
        let piece = encoder.get_piece_byte_len();
        let lost = lost(k, loss, block);
        let mut all = Vec::new();
        let mut padded = data;
        padded.push(0x81);
        padded.resize(piece * k, 0);
        for (index, symbol) in padded.chunks(piece).enumerate().filter(|(i, _)| !lost[*i]) {
            let mut full = vec![0; k];
            full[index] = 1;
            full.extend_from_slice(symbol);
            all.push(full);
        }
        (0..k - all.len() + 4).for_each(|_| all.push(encoder.code(&mut random)));
        (piece, all)
    };
    let received: Vec<(usize, Vec<Vec<u8>>)> =
        blocks(k).into_iter().enumerate().map(&mut received).collect();
    let mut next = turn();
    contender("rlnc", move || {
        let (piece, pieces) = &received[next()];
        timed(|| {
            let mut decoder = rlnc::full::Decoder::new(*piece, k).expect("a decoder");
            for one in pieces {
                if decoder.is_already_decoded() {
                    break;
                }
                let _ = decoder.decode(one);
            }
            decoder.get_decoded_data().expect("a block")
        })
    })
}

/// A relay with batches of 16 of which 10 % were lost: what arrives goes on, and combinations fill up to 16.
fn recode() -> Measure {
    const M: usize = 16;
    const BATCHES: usize = 64;
    let arrived: Vec<Vec<(u16, Vec<u8>)>> = (0..BATCHES)
        .map(|batch| {
            let lost = lost(M * BATCHES, 0.10, 3);
            (0..M as u16)
                .filter(|&j| !lost[batch * M + usize::from(j)])
                .map(|j| (j, vec![j as u8 ^ batch as u8; SYMBOL]))
                .collect()
        })
        .collect();
    let again = arrived.clone();
    let towline = contender("towline", move || {
        let config = RecoderConfig {
            batch_size: BatchSize::M16,
            symbol_size: SYMBOL,
            max_batches: BATCHES,
            seed: 1,
        };
        let (mut symbol, mut vector) = (vec![0; SYMBOL], vec![0; M]);
        timed(|| {
            let mut recoder = Recoder::<&[u8]>::new(config).expect("a recoder");
            for (batch, packets) in (0u32..).map(BatchId).zip(&arrived) {
                for (column, packet) in packets {
                    let pushed = recoder
                        .push(batch, Combination::Column(*column), packet)
                        .expect("a packet");
                    assert_eq!(pushed.verdict, Verdict::Forward);
                }
                for _ in packets.len()..M {
                    recoder.combine(batch, &mut symbol, &mut vector).expect("a batch");
                    black_box((&symbol, &vector));
                }
                recoder.close(batch);
            }
        })
    });
    // It knows coded pieces only: the vector in front of each, and all pieces of a batch in one buffer.
    let rlnc = contender("rlnc", move || {
        let mut random = SmallRng::seed_from_u64(3);
        timed(|| {
            for packets in &again {
                let mut pieces = Vec::with_capacity(packets.len() * (M + SYMBOL));
                for (column, packet) in packets {
                    let mut vector = [0; M];
                    vector[usize::from(*column)] = 1;
                    pieces.extend_from_slice(&vector);
                    pieces.extend_from_slice(packet);
                }
                let mut recoder =
                    rlnc::full::Recoder::new(pieces, M + SYMBOL, M).expect("a recoder");
                (packets.len()..M).for_each(|_| drop(black_box(recoder.recode(&mut random))));
            }
        })
    });
    Measure {
        name: "recode M=16, 10% lost".into(),
        bits: (BATCHES * M * SYMBOL * 8) as f64,
        target: Some(10.0),
        ratio_target: None,
        contenders: vec![towline, rlnc],
    }
}
