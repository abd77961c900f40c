//! Rateless use: an endless stream of repair batches over one large block.
//!
//! `cargo run --release -p towline-code --example rateless -- [--k 65000] [--loss 0.1] [--symbol-size 1408] [--trials 0]`
//!
//! Two receivers: one joins late and never sees a source symbol, so that it decodes from the fountain alone; one
//! listens from the beginning and lacks what was lost, so that it decodes from even columns.
#![allow(clippy::print_stdout)]

mod simulation;

use std::time::Instant;

use simulation::Random;
use towline_code::*;

fn main() {
    let words: Vec<String> = std::env::args().collect();
    let value = |name: &str, default: f64| {
        words
            .iter()
            .position(|w| w == name)
            .and_then(|at| words.get(at + 1)?.parse().ok())
            .unwrap_or(default)
    };
    let k = value("--k", 65_000.0) as u32;
    let (loss, symbol_size) = (value("--loss", 0.1), value("--symbol-size", 1408.0) as usize);
    let mut random = Random(1);
    let trials = value("--trials", 0.0) as u64;
    if trials > 0 {
        return overheads(k, loss, trials, &mut random);
    }
    let data: Vec<u8> = (0..k as usize * symbol_size).map(|_| random.word() as u8).collect();
    let parameters = |degrees| BlockParameters {
        source_symbols: k,
        symbol_size,
        batch_size: BatchSize::M16,
        degrees,
        nonce: 5,
    };
    println!(
        "K {k}, symbols of {symbol_size} bytes ({:.0} MB), loss {loss}",
        data.len() as f64 / 1e6
    );
    let fountain = BlockCode::new(parameters(Degrees::Fountain)).expect("a code");
    receive("joined late", fountain, &data, 1.0, loss, &mut random);
    let even =
        BlockCode::new(parameters(Degrees::for_missing(k, f64::from(k) * loss))).expect("a code");
    receive("from the beginning", even, &data, loss, loss, &mut random);
}

/// Symbols beyond K that late receivers of small blocks need.
fn overheads(k: u32, loss: f64, trials: u64, random: &mut Random) {
    let (mut sum, mut worst, mut inactive) = (0, 0, 0);
    for nonce in 0..trials {
        let parameters = BlockParameters {
            source_symbols: k,
            symbol_size: 1,
            batch_size: BatchSize::M16,
            degrees: Degrees::Fountain,
            nonce,
        };
        let code = BlockCode::new(parameters).expect("a code");
        let data = vec![7; k as usize];
        let mut encoder = BlockEncoder::over(code, &data, 1).expect("an encoder");
        let mut decoder = BlockDecoder::new(code, DecoderLimits::default());
        let mut n = random.word() >> 40;
        while !decoder.is_complete() {
            if !random.chance(loss) {
                let (batch, column) = code.repair_position(n).expect("a batch");
                let mut symbol = [0];
                encoder.symbol(batch, column, &mut symbol).expect("a symbol");
                decoder.push(batch, Combination::Column(column), symbol).expect("a symbol");
            }
            n += 1;
        }
        let overhead = decoder.accepted() - k as usize;
        (sum, worst, inactive) =
            (sum + overhead, worst.max(overhead), inactive + decoder.inactive());
    }
    let mean = |n: usize| n as f64 / trials as f64;
    println!(
        "K {k}, loss {loss}: {:.3} symbols beyond K, worst {worst}, {:.1} inactive, over {trials} blocks",
        mean(sum),
        mean(inactive)
    );
}

/// A receiver that lost `source_loss` of the source symbols and loses `loss` of the repair symbols.
fn receive(
    name: &str,
    code: BlockCode,
    data: &[u8],
    source_loss: f64,
    loss: f64,
    random: &mut Random,
) {
    let size = code.symbol_size();
    let mut encoder = BlockEncoder::over(code, data, size).expect("an encoder");
    let mut decoder = BlockDecoder::new(code, DecoderLimits::default());
    let before = resident();
    let (mut encoding, mut pushing, mut solving) = (0.0, 0.0, 0.0);
    for index in 0..code.source_symbols() as u32 {
        if !random.chance(source_loss) {
            let (batch, column) = code.position_of(index);
            let symbol = encoder.source(index).expect("a symbol").to_vec();
            decoder.push(batch, Combination::Column(column), symbol).expect("a symbol");
        }
    }
    let missing = decoder.deficit();
    // A late receiver meets the stream anywhere.
    let mut n = if source_loss >= 1.0 { 123_457 } else { 0 };
    let mut attempts = 0;
    while !decoder.is_complete() {
        if !random.chance(loss) {
            let (batch, column) = code.repair_position(n).expect("a batch");
            let mut symbol = vec![0; size];
            let began = Instant::now();
            encoder.symbol(batch, column, &mut symbol).expect("a symbol");
            encoding += began.elapsed().as_secs_f64();
            let last = decoder.deficit() == 1;
            let began = Instant::now();
            decoder.push(batch, Combination::Column(column), symbol).expect("a symbol");
            *(if last { &mut solving } else { &mut pushing }) += began.elapsed().as_secs_f64();
            attempts += u32::from(last);
        }
        n += 1;
    }
    for (index, symbol) in (0u32..).zip(data.chunks(size)) {
        assert_eq!(decoder.symbol(index), Some(symbol), "symbol {index}");
    }
    let repair_bits =
        (decoder.accepted() - (code.source_symbols() - missing)) as f64 * size as f64 * 8.0;
    println!("{name}: {:?}", code.parameters().degrees);
    println!(
        "  {missing} missing, {} symbols beyond K, {} inactive columns",
        decoder.accepted() - code.source_symbols(),
        decoder.inactive()
    );
    println!(
        "  encode {:.2} Gb/s of repair; push {:.3} s; solve {solving:.3} s in {attempts} attempts",
        repair_bits / encoding / 1e9,
        pushing
    );
    println!(
        "  decode {:.2} Gb/s of source; at most {:.0} MB above the data",
        data.len() as f64 * 8.0 / (pushing + solving) / 1e9,
        peak() - before
    );
}

/// Megabytes in memory now and at most, where the system tells.
fn resident() -> f64 {
    status("VmRSS:")
}

fn peak() -> f64 {
    status("VmHWM:")
}

fn status(name: &str) -> f64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("0");
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap_or(0.0) / 1e3
}
