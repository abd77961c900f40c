//! How fast whole symbols go through, on one thread.

#![allow(unreachable_pub)]

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use super::simulation::{Chain, Packet};
use towline_code::*;

/// Gigabits of source (or forwarded) data each second; the best of several rounds.
#[derive(Clone, Copy, Debug)]
pub struct Speed {
    pub encode: f64,
    pub recode: f64,
    pub decode: f64,
}

/// Blocks that are alternated, so that one is not found in the second-level cache from the round before.
const BLOCKS: usize = 8;

struct Prepared {
    code: BlockCode,
    data: Vec<u8>,
    /// What arrives at the end, in order, until the block is decoded.
    arrived: Vec<(BatchId, Packet)>,
    /// What arrives at the first relay, by batch.
    relayed: Vec<Vec<(BatchId, Packet)>>,
}

/// Measures blocks of `code`'s shape over `chain`, whose symbols must be of the same size, for about `time` each.
pub fn measure(code: BlockCode, chain: &mut Chain, repairs: u64, time: Duration) -> Speed {
    let blocks: Vec<Prepared> =
        (0..BLOCKS as u64).map(|nonce| prepare(code, chain, nonce)).collect();
    let source_bits = (code.source_symbols() * code.symbol_size() * 8) as f64;
    let mut out = vec![vec![0u8; code.symbol_size()]; repairs as usize];
    let encode = best(time, &blocks, |block| {
        let mut encoder =
            BlockEncoder::over(block.code, &block.data, code.symbol_size()).expect("an encoder");
        encoder.repair(0, &mut out).expect("repair symbols");
        black_box(&out);
        source_bits
    });
    let decode = best(time, &blocks, |block| {
        let mut decoder = BlockDecoder::new(block.code, DecoderLimits::default());
        for (batch, packet) in &block.arrived {
            decoder.push(*batch, packet.combination(), &packet.symbol[..]).expect("a packet");
        }
        assert!(decoder.is_complete());
        black_box(decoder.symbol(0));
        source_bits
    });
    let recode = best(time, &blocks, |block| relay(block, chain.m));
    Speed { encode, recode, decode }
}

fn prepare(code: BlockCode, chain: &mut Chain, nonce: u64) -> Prepared {
    let code = BlockCode::new(BlockParameters { nonce, ..*code.parameters() }).expect("a code");
    let (k, size) = (code.source_symbols(), code.symbol_size());
    let data: Vec<u8> = (0..k * size).map(|_| chain.random.word() as u8).collect();
    let mut encoder = BlockEncoder::over(code, &data, size).expect("an encoder");
    let mut decoder = BlockDecoder::new(code, DecoderLimits::default());
    let (mut arrived, mut relayed) = (Vec::new(), Vec::new());
    for batch in (0..).map(BatchId) {
        let packets = (0..code.columns_of(batch) as u16).map(|column| {
            let mut symbol = vec![0; size];
            encoder.symbol(batch, column, &mut symbol).expect("a column");
            Packet { column: Some(column), vector: Vec::new(), symbol }
        });
        let packets: Vec<Packet> = packets.collect();
        let lost: Vec<bool> = packets.iter().map(|_| chain.random.chance(chain.loss)).collect();
        relayed.push(
            packets
                .iter()
                .zip(&lost)
                .filter(|(_, lost)| !**lost)
                .map(|(p, _)| (batch, p.clone()))
                .collect(),
        );
        for packet in chain.carry(batch, packets, |_, _| {}) {
            decoder.push(batch, packet.combination(), packet.symbol.clone()).expect("a packet");
            arrived.push((batch, packet));
            if decoder.is_complete() {
                return Prepared { code, data, arrived, relayed };
            }
        }
    }
    unreachable!("batch ids do not run out")
}

/// One block's batches through a relay that fills each up to M; the bits it forwards.
fn relay(block: &Prepared, m: usize) -> f64 {
    let size = block.code.symbol_size();
    let config = RecoderConfig {
        batch_size: block.code.parameters().batch_size,
        symbol_size: size,
        max_batches: 64,
        seed: block.code.parameters().nonce,
    };
    let mut recoder = Recoder::new(config).expect("a recoder");
    let (mut symbol, mut vector) = (vec![0; size], vec![0; m]);
    let mut sent = 0;
    for packets in &block.relayed {
        let mut own = 0;
        for (batch, packet) in packets {
            let pushed =
                recoder.push(*batch, packet.combination(), &packet.symbol[..]).expect("a packet");
            own += usize::from(pushed.verdict == Verdict::Forward);
        }
        if let Some((batch, _)) = packets.first() {
            while own < m {
                recoder.combine(*batch, &mut symbol, &mut vector).expect("a held batch");
                black_box((&symbol, &vector));
                own += 1;
            }
            recoder.close(*batch);
        }
        sent += own;
    }
    (sent * size * 8) as f64
}

/// Runs `work` over the blocks in turn for about `time`; bits per second of the fastest round over all of them, in 10^9.
fn best(time: Duration, blocks: &[Prepared], mut work: impl FnMut(&Prepared) -> f64) -> f64 {
    let began = Instant::now();
    let mut best: f64 = 0.0;
    while best == 0.0 || began.elapsed() < time {
        let round = Instant::now();
        let bits: f64 = blocks.iter().map(&mut work).sum();
        best = best.max(bits / round.elapsed().as_secs_f64() / 1e9);
    }
    best
}
