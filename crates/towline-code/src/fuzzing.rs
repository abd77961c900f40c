//! Bodies of the fuzz targets. Each reads a script from arbitrary bytes, drives a decoder or a relay with it, and panics when a
//! promise is broken; the seeds also run as ordinary tests.

use std::collections::HashMap;

use crate::{window::*, *};

/// Reads a script; past its end everything is zero.
struct Script<'a>(&'a [u8]);

impl Script<'_> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    fn number(&mut self) -> u32 {
        u32::from_le_bytes([self.byte(), self.byte(), self.byte(), self.byte()])
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.byte()).collect()
    }

    fn is_over(&self) -> bool {
        self.0.is_empty()
    }
}

fn code(script: &mut Script<'_>) -> Option<BlockCode> {
    let batch_size = [BatchSize::M4, BatchSize::M8, BatchSize::M16, BatchSize::M32, BatchSize::M64]
        [usize::from(script.byte() % 5)];
    let source_symbols = u32::from(script.byte()) + 1;
    let degrees = match script.byte() {
        0 => Degrees::Fountain,
        columns => Degrees::Even(u16::from(columns)),
    };
    let symbol_size = usize::from(script.byte() % 8) + 1;
    BlockCode::new(BlockParameters {
        source_symbols,
        symbol_size,
        batch_size,
        degrees,
        nonce: u64::from(script.byte()),
    })
    .ok()
}

/// Random source data for a code.
fn source(code: &BlockCode) -> Vec<u8> {
    (0..code.source_symbols() * code.symbol_size()).map(|i| (i * 167 + i / 251) as u8).collect()
}

/// A block decoder fed with honest symbols, honest mixtures of them, repetitions and refused garbage, in any order: it never panics, its
/// rank and deficit agree, and whatever it delivers is the source.
pub fn block_decoder(data: &[u8]) {
    let mut script = Script(data);
    let Some(code) = code(&mut script) else { return };
    let (size, m) = (code.symbol_size(), code.batch_columns());
    let source = source(&code);
    let mut encoder = BlockEncoder::over(code, &source, size).expect("the buffer has the size");
    let limits = DecoderLimits { max_dependent: 64, ..DecoderLimits::default() };
    let mut decoder = BlockDecoder::new(code, limits);
    let mut delivered = vec![false; code.source_symbols()];
    for _ in 0..2048 {
        if script.is_over() {
            break;
        }
        let kind = script.byte();
        let batch = BatchId(match kind % 4 {
            0 => script.number(),
            _ => u32::from(script.byte()) % (2 * code.source_batches() + 8),
        });
        let rank = decoder.rank();
        let mut symbol = vec![0; size];
        let result = if kind & 0x80 == 0 {
            let column = u16::from(script.byte());
            let known = encoder.symbol(batch, column, &mut symbol).is_ok();
            let result = decoder.push(batch, Combination::Column(column), symbol);
            assert_eq!(known, !matches!(result, Err(DecodeError::NoSuchColumn)));
            result
        } else {
            // A mixture of a few columns, or one with as many coefficients as the script says.
            let mut vector = vec![0; if kind & 0x40 == 0 { m } else { usize::from(script.byte()) }];
            for _ in 0..script.byte() % 5 {
                let at = usize::from(script.byte());
                if let Some(slot) = vector.get_mut(at) {
                    *slot = script.byte();
                }
            }
            for (column, &coefficient) in (0u16..).zip(&vector).filter(|(_, c)| **c != 0) {
                let mut one = vec![0; size];
                if encoder.symbol(batch, column, &mut one).is_ok() {
                    gf256::mul_add(&mut symbol, &one, coefficient);
                }
            }
            decoder.push(batch, Combination::Coefficients(&vector), symbol)
        };
        if let Ok(progress) = result {
            assert!(progress.rank <= code.source_symbols());
            assert!(progress.outcome == Outcome::Accepted || progress.rank == rank);
            assert_eq!(progress.deficit == 0, decoder.is_complete());
        }
        assert!(decoder.push(batch, Combination::Column(0), vec![0; size + 1]).is_err());
        while let Some(index) = decoder.poll_available() {
            let at = index as usize;
            assert!(!std::mem::replace(&mut delivered[at], true), "delivered twice");
            assert_eq!(decoder.symbol(index), Some(&source[at * size..][..size]));
        }
    }
    assert_eq!(delivered.iter().all(|d| *d), decoder.is_complete());
}

/// A relay fed with arbitrary packets whose symbols are honest combinations: ranks and batches stay within their bounds, it forwards
/// exactly what raises a rank, and every combination it makes is consistent with its vector.
pub fn recoder(data: &[u8]) {
    let mut script = Script(data);
    let batch_size = [BatchSize::M4, BatchSize::M8, BatchSize::M16, BatchSize::M32, BatchSize::M64]
        [usize::from(script.byte() % 5)];
    let (m, size) = (batch_size.columns(), usize::from(script.byte() % 5) + 1);
    let max_batches = usize::from(script.byte() % 6) + 1;
    let config = RecoderConfig {
        batch_size,
        symbol_size: size,
        max_batches,
        seed: u64::from(script.byte()),
    };
    let mut recoder = Recoder::<Vec<u8>, u8>::new(config).expect("in range");
    let column = |batch: u8, j: usize| -> Vec<u8> {
        (0..size).map(|i| (usize::from(batch) * 3 + j * 59 + i * 17) as u8).collect()
    };
    let combined = |batch: u8, vector: &[u8]| {
        let mut symbol = vec![0; size];
        vector
            .iter()
            .enumerate()
            .for_each(|(j, &c)| gf256::mul_add(&mut symbol, &column(batch, j), c));
        symbol
    };
    let mut ranks: HashMap<u8, usize> = HashMap::new();
    for _ in 0..2048 {
        if script.is_over() {
            break;
        }
        let (kind, batch) = (script.byte(), script.byte() % 12);
        match kind % 8 {
            0 => {
                assert_eq!(recoder.close(batch), ranks.remove(&batch).is_some());
            }
            1 | 2 => {
                let (mut symbol, mut vector) = (vec![0; size], vec![0; m]);
                let made = recoder.combine(batch, &mut symbol, &mut vector);
                assert_eq!(made.is_ok(), ranks.contains_key(&batch));
                if made.is_ok() {
                    assert_eq!(symbol, combined(batch, &vector));
                }
            }
            3 => {
                let len = usize::from(script.byte());
                let vector = script.bytes(len);
                let honest = len == m && vector.iter().any(|&c| c != 0);
                if !honest {
                    assert!(
                        recoder
                            .push(batch, Combination::Coefficients(&vector), vec![0; size])
                            .is_err()
                    );
                }
                assert!(recoder.push(batch, Combination::Column(m as u16), vec![0; size]).is_err());
                assert!(recoder.push(batch, Combination::Column(0), vec![0; size + 1]).is_err());
            }
            kind => {
                let j = usize::from(script.byte()) % m;
                let mut vector = vec![0; m];
                vector[j] = 1;
                let unmixed = kind < 6;
                if !unmixed {
                    for _ in 0..3 {
                        vector[usize::from(script.byte()) % m] = script.byte();
                    }
                    vector[j] |= 1;
                }
                let combination = if unmixed {
                    Combination::Column(j as u16)
                } else {
                    Combination::Coefficients(&vector)
                };
                let pushed = recoder
                    .push(batch, combination, combined(batch, &vector))
                    .expect("an honest packet");
                if let Some(evicted) = pushed.evicted {
                    assert!(ranks.remove(&evicted).is_some() && evicted != batch);
                }
                let before = ranks.insert(batch, pushed.rank).unwrap_or(0);
                assert_eq!(pushed.rank, before + usize::from(pushed.verdict == Verdict::Forward));
                assert!(pushed.rank <= m);
            }
        }
        assert_eq!(recoder.batches(), ranks.len());
        assert!(ranks.len() <= max_batches);
        assert_eq!(recoder.rank(batch), ranks.get(&batch).copied().unwrap_or(0));
    }
}

/// A sliding window under arbitrary loss, order, repetition, expiry and garbage: whatever it delivers is what was sent, once.
pub fn window(data: &[u8]) {
    let mut script = Script(data);
    let (window, size) = (usize::from(script.byte() % 32) + 1, usize::from(script.byte() % 5) + 1);
    let config = WindowConfig {
        window,
        symbol_size: size,
        nonce: u64::from(script.byte()),
        depth: window + usize::from(script.byte() % 16),
        max_skip: 64,
    };
    let mut encoder = WindowEncoder::new(config).expect("in range");
    let mut decoder = WindowDecoder::new(config).expect("in range");
    let symbol = |number: u64| -> Vec<u8> {
        (0..size as u64).map(|i| (number * 89 + number / 256 + i * 7) as u8).collect()
    };
    let mut held: Vec<(WindowRepair, Vec<u8>)> = Vec::new();
    let mut delivered = std::collections::BTreeSet::new();
    for _ in 0..2048 {
        if script.is_over() {
            break;
        }
        match script.byte() % 8 {
            0 | 1 => {
                encoder.push(symbol(encoder.next())).expect("the size");
            }
            2 | 3 => {
                let number = encoder.push(symbol(encoder.next())).expect("the size");
                let _ = decoder.push_source(number, symbol(number));
            }
            4 => {
                let mut out = vec![0; size];
                if let Ok(repair) = encoder.repair(&mut out) {
                    held.push((repair, out));
                }
            }
            5 => {
                let at = usize::from(script.byte());
                if let Some((repair, out)) = held.get(at % held.len().max(1)) {
                    let _ = decoder.push_repair(*repair, out);
                }
            }
            6 => {
                let number = encoder.next().saturating_sub(u64::from(script.byte() % 40));
                if script.byte() % 2 == 0 {
                    let _ = decoder.push_source(number, symbol(number));
                } else if number <= encoder.next() {
                    decoder.expire(number);
                }
            }
            _ => {
                // A wrong size, or an impossible span.
                let wrong = usize::from(script.byte() % 2);
                let count = u16::from(script.byte());
                let count = if wrong == 0 && usize::from(count) <= window { 0 } else { count };
                let repair = WindowRepair { id: 0, first: u64::from(script.number()) << 31, count };
                assert!(decoder.push_repair(repair, &vec![0; size + wrong]).is_err());
            }
        }
        assert!(decoder.end() - decoder.base() <= config.depth as u64);
        assert!(decoder.deficit() <= decoder.missing().count());
        while let Some(number) = decoder.poll_available() {
            assert!(delivered.insert(number), "delivered twice");
            assert_eq!(decoder.symbol(number), Some(&symbol(number)[..]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prng::{Domain, Stream};

    fn run(target: fn(&[u8]), name: &str) {
        target(&[]);
        for seed in 0..300 {
            let stream = Stream::new(seed, Domain::Recoding, 77, 0);
            let bytes: Vec<u8> = (0..40 + seed * 20).map(|i| stream.word(i) as u8).collect();
            let outcome = std::panic::catch_unwind(|| target(&bytes));
            assert!(outcome.is_ok(), "{name} seed {seed}");
        }
    }

    #[test]
    fn random_scripts_keep_the_promises_of_the_block_decoder() {
        run(block_decoder, "block_decoder");
    }

    #[test]
    fn random_scripts_keep_the_promises_of_the_recoder() {
        run(recoder, "recoder");
    }

    #[test]
    fn random_scripts_keep_the_promises_of_the_window() {
        run(window, "window");
    }
}
