//! The sliding window over a lossy link, with the sent symbols as the oracle.

#![allow(clippy::print_stdout)]

#[path = "../examples/simulation/mod.rs"]
mod simulation;

use simulation::Random;
use towline_code::*;

fn symbol(number: u64, size: usize) -> Vec<u8> {
    (0..size as u64).map(|i| (number * 131 + number / 256 * 7 + i * 13) as u8).collect()
}

/// Random loss, delay and repetition: everything delivered is right and delivered once, and with enough repair next to nothing is lost.
#[test]
fn what_is_delivered_is_what_was_sent() {
    for seed in 0..60 {
        println!("seed {seed}");
        let mut random = Random(seed);
        let window = 1 + random.word() as usize % 256;
        let size = 1 + random.word() as usize % 100;
        let loss = (random.word() % 20) as f64 / 100.0;
        let config = WindowConfig::new(window, size, seed);
        let mut encoder = WindowEncoder::new(config).unwrap();
        let mut decoder = WindowDecoder::new(config).unwrap();
        let mut pace = RepairPace::new(2.0 * loss + 0.05);
        let total = 2000;
        let mut delivered = vec![false; total as usize];
        let mut delayed: Vec<(u64, Option<WindowRepair>, Vec<u8>)> = Vec::new();
        for number in 0..total {
            encoder.push(symbol(number, size)).unwrap();
            let mut packets = vec![(number, None, symbol(number, size))];
            for _ in 0..pace.on_source() {
                let mut out = vec![0; size];
                let repair = encoder.repair(&mut out).unwrap();
                packets.push((number, Some(repair), out));
            }
            for packet in packets {
                if random.chance(loss) {
                    continue;
                }
                if random.chance(0.1) {
                    delayed.push(packet.clone());
                }
                if random.chance(0.05) {
                    delayed.push(packet);
                    continue;
                }
                receive(&mut decoder, packet);
            }
            if !delayed.is_empty() && random.chance(0.3) {
                let packet = delayed.swap_remove(random.word() as usize % delayed.len());
                receive(&mut decoder, packet);
            }
            while let Some(number) = decoder.poll_available() {
                assert!(
                    !std::mem::replace(&mut delivered[number as usize], true),
                    "seed {seed}: {number} twice"
                );
                assert_eq!(decoder.symbol(number), Some(&symbol(number, size)[..]), "seed {seed}");
            }
        }
        let missing = delivered.iter().filter(|d| !**d).count();
        if window >= 32 {
            assert!(
                missing <= 40,
                "seed {seed}: window {window}, loss {loss}, {missing} of {total} missing"
            );
        }
    }
}

fn receive(
    decoder: &mut WindowDecoder<Vec<u8>>,
    (number, repair, symbol): (u64, Option<WindowRepair>, Vec<u8>),
) {
    let before = decoder.deficit();
    let progress = match repair {
        Some(repair) => decoder.push_repair(repair, &symbol),
        None => decoder.push_source(number, symbol),
    }
    .unwrap();
    assert_eq!(progress.deficit, decoder.deficit());
    assert!(progress.outcome == WindowOutcome::Accepted || progress.available == 0 || before > 0);
}

#[test]
fn repairs_are_spread_evenly() {
    let mut pace = RepairPace::new(0.1);
    let due: Vec<usize> = (0..1000).map(|_| pace.on_source()).collect();
    assert!((99..=100).contains(&due.iter().sum::<usize>()));
    let places: Vec<usize> =
        due.iter().enumerate().filter(|(_, n)| **n > 0).map(|(i, _)| i).collect();
    assert!(places.windows(2).all(|pair| (9..=11).contains(&(pair[1] - pair[0]))));
}

#[test]
fn parameters_out_of_range_are_refused() {
    let new = |config: WindowConfig| WindowDecoder::<Vec<u8>>::new(config).map(|_| ());
    assert_eq!(new(WindowConfig::new(0, 10, 0)), Err(ParameterError::Window(0)));
    assert_eq!(new(WindowConfig::new(257, 10, 0)), Err(ParameterError::Window(257)));
    assert_eq!(new(WindowConfig::new(256, 0, 0)), Err(ParameterError::SymbolSize(0)));
    assert_eq!(
        new(WindowConfig { depth: 3, ..WindowConfig::new(4, 10, 0) }),
        Err(ParameterError::Limit("depth"))
    );
    assert_eq!(new(WindowConfig::new(256, 10, 0)), Ok(()));
}
