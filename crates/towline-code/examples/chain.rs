//! Sends blocks over a chain of lossy hops with recoding relays and reports what it took.
//!
//! `cargo run --release -p towline-code --example chain -- --hops 3 --loss 0.05 --k 1024 --m 16 --trials 1000 --json`
//!
//! Overhead and ranks come from `--trials` blocks of tiny symbols, because they do not depend on the symbol size; the
//! speeds from blocks with symbols of `--symbol-size` bytes on one thread.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod simulation;
#[path = "simulation/speed.rs"]
mod speed;

use std::{process::ExitCode, time::Duration};

use simulation::{Chain, Relaying, trial};
use towline_code::*;

const USAGE: &str = "chain [--hops N] [--loss P] [--k N] [--m 4|8|16|32|64] [--trials N] [--symbol-size BYTES] \
    [--degrees even|fountain] [--seed N] [--json]";

struct Arguments {
    hops: usize,
    loss: f64,
    k: u32,
    m: usize,
    trials: usize,
    symbol_size: usize,
    fountain: bool,
    seed: u64,
    json: bool,
}

fn main() -> ExitCode {
    let arguments = match parse(std::env::args().skip(1)) {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(message) => {
            eprintln!("{message}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Option<Arguments>, String> {
    let mut a = Arguments {
        hops: 3,
        loss: 0.05,
        k: 1024,
        m: 16,
        trials: 1000,
        symbol_size: 1408,
        fountain: false,
        seed: 1,
        json: false,
    };
    while let Some(word) = words.next() {
        match word.as_str() {
            "--json" => a.json = true,
            "--help" => return Ok(None),
            name => {
                let value = words.next().ok_or(format!("{name} needs a value"))?;
                let bad = format!("{name} {value}: not a value for it");
                match name {
                    "--hops" => a.hops = value.parse().map_err(|_| bad)?,
                    "--loss" => a.loss = value.parse().map_err(|_| bad)?,
                    "--k" => a.k = value.parse().map_err(|_| bad)?,
                    "--m" => a.m = value.parse().map_err(|_| bad)?,
                    "--trials" => a.trials = value.parse().map_err(|_| bad)?,
                    "--symbol-size" => a.symbol_size = value.parse().map_err(|_| bad)?,
                    "--degrees" if value == "even" || value == "fountain" => {
                        a.fountain = value == "fountain"
                    }
                    "--seed" => a.seed = value.parse().map_err(|_| bad)?,
                    "--degrees" => return Err(bad),
                    _ => return Err(format!("{name}: no such option")),
                }
            }
        }
    }
    if a.hops == 0 || a.trials == 0 || !(0.0..0.95).contains(&a.loss) {
        return Err("hops and trials are at least 1, loss is 0 to 0.95".into());
    }
    Ok(Some(a))
}

fn run(a: &Arguments) -> Result<(), ParameterError> {
    let batch_size: BatchSize = a.m.try_into()?;
    let ratio =
        simulation::rank_ratio(a.hops, a.loss, a.m, Relaying::Systematic, 4000, a.seed).max(0.01);
    let missing = f64::from(a.k) * (1.0 - ratio);
    let degrees = if a.fountain { Degrees::Fountain } else { Degrees::for_missing(a.k, missing) };
    let parameters = |symbol_size, nonce| BlockParameters {
        source_symbols: a.k,
        symbol_size,
        batch_size,
        degrees,
        nonce,
    };
    let (mut overhead, mut max, mut redundant, mut inactive, mut rank, mut columns) =
        (0, 0, 0, 0, 0, 0);
    let mut chain = Chain::new(a.hops, a.loss, a.m, 2, Relaying::Systematic, a.seed);
    for nonce in 0..a.trials as u64 {
        let one = trial(BlockCode::new(parameters(2, nonce))?, &mut chain);
        overhead += one.overhead;
        max = max.max(one.overhead);
        redundant += one.redundant;
        inactive += one.inactive;
        rank += one.rank;
        columns += one.columns;
    }
    let mean = |n: usize| n as f64 / a.trials as f64;
    let code = BlockCode::new(parameters(a.symbol_size, 0))?;
    let mut chain = Chain::new(a.hops, a.loss, a.m, a.symbol_size, Relaying::Systematic, a.seed);
    let repairs = (f64::from(a.k) * (1.0 / ratio - 1.0)).ceil() as u64;
    let speed = speed::measure(code, &mut chain, repairs, Duration::from_millis(300));
    let rank_ratio = rank as f64 / columns as f64;
    if a.json {
        println!(
            "{{\"hops\":{},\"loss\":{},\"k\":{},\"m\":{},\"symbol_size\":{},\"trials\":{},\"kernel\":\"{}\",\"mean_overhead\":{:.5},\
             \"max_overhead\":{max},\"mean_rank_ratio\":{rank_ratio:.5},\"mean_redundant\":{:.3},\"mean_inactive\":{:.1},\
             \"repair_symbols\":{repairs},\"encode_gbps\":{:.2},\"recode_gbps\":{:.2},\"decode_gbps\":{:.2}}}",
            a.hops,
            a.loss,
            a.k,
            a.m,
            a.symbol_size,
            a.trials,
            gf256::Kernel::active().name(),
            mean(overhead),
            mean(redundant),
            mean(inactive),
            speed.encode,
            speed.recode,
            speed.decode,
        );
    } else {
        println!(
            "hops {}, loss {}, K {}, M {}, symbols of {} bytes, {degrees:?}",
            a.hops, a.loss, a.k, a.m, a.symbol_size
        );
        println!("overhead    mean {:.5}, worst {max}, over {} blocks", mean(overhead), a.trials);
        println!(
            "rank ratio  {rank_ratio:.5}; redundant within batches {:.2}; inactive {:.1}",
            mean(redundant),
            mean(inactive)
        );
        println!(
            "encode      {:.2} Gb/s of source data with {repairs} repair symbols",
            speed.encode
        );
        println!("recode      {:.2} Gb/s forwarded", speed.recode);
        println!("decode      {:.2} Gb/s of source data", speed.decode);
    }
    Ok(())
}
