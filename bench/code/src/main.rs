//! The network code beside its peers: one thread, symbols of 1,408 bytes, the same data and the same losses for all, in interleaved rounds.
//!
//!     cargo run --release --manifest-path bench/code/Cargo.toml [-- --json] [-- --rounds 20]
//!
//! Time is the processor time of the thread. A row gives gigabits per second (the best round) and how many times faster Towline is (the median over rounds of the ratio within the
//! round, so that what disturbs a round disturbs both).

mod contenders;

use std::time::Instant;

/// Bytes in a symbol.
pub const SYMBOL: usize = 1408;

/// One way to do the work of a measure. Each call is one block and returns the seconds that count.
pub struct Contender {
    pub name: &'static str,
    pub run: Box<dyn FnMut() -> f64>,
}

/// One row group of the table. The first contender is the one that the others are compared with.
pub struct Measure {
    pub name: String,
    /// Bits that one call of a contender stands for.
    pub bits: f64,
    /// Target in Gb/s for the first contender, and for its ratio to the contender of this name.
    pub target: Option<f64>,
    pub ratio_target: Option<(&'static str, f64)>,
    pub contenders: Vec<Contender>,
}

struct Row {
    measure: String,
    name: &'static str,
    gbps: f64,
    ratio: f64,
    target: Option<f64>,
}

fn main() {
    let words: Vec<String> = std::env::args().collect();
    let json = words.iter().any(|w| w == "--json");
    let rounds = words
        .iter()
        .position(|w| w == "--rounds")
        .and_then(|at| words.get(at + 1)?.parse().ok())
        .unwrap_or(15);
    let mut rows = Vec::new();
    for measure in contenders::all() {
        rows.extend(run(measure, rounds));
    }
    if json {
        let rows: Vec<String> = rows.iter().map(json_row).collect();
        println!(
            "{{\"symbol_size\":{SYMBOL},\"kernel\":\"{}\",\"rows\":[{}]}}",
            towline_code::gf256::Kernel::active().name(),
            rows.join(",")
        );
        return;
    }
    println!(
        "symbols of {SYMBOL} bytes, one thread, kernel {}, {rounds} rounds",
        towline_code::gf256::Kernel::active().name()
    );
    println!("{:34} {:34} {:>10} {:>14} {:>8}", "measure", "who", "Gb/s", "towline is x", "target");
    for row in rows {
        let target = row.target.map_or(String::new(), |t| format!("{t}"));
        println!(
            "{:34} {:34} {:10.2} {:14.2} {target:>8}",
            row.measure, row.name, row.gbps, row.ratio
        );
    }
}

fn run(mut measure: Measure, rounds: usize) -> Vec<Row> {
    let count = measure.contenders.len();
    let mut times = vec![Vec::with_capacity(rounds); count];
    // One round unmeasured, then interleaved ones; within a round each contender runs for at least five milliseconds.
    for round in 0..=rounds {
        for (contender, times) in measure.contenders.iter_mut().zip(&mut times) {
            let began = Instant::now();
            let (mut sum, mut calls) = (0.0, 0);
            while calls == 0 || began.elapsed().as_millis() < 5 {
                sum += (contender.run)();
                calls += 1;
            }
            if round > 0 {
                times.push(sum / f64::from(calls));
            }
        }
    }
    let ratio = |other: usize| {
        let mut ratios: Vec<f64> =
            times[other].iter().zip(&times[0]).map(|(other, own)| other / own).collect();
        ratios.sort_by(f64::total_cmp);
        ratios[ratios.len() / 2]
    };
    let row = |(at, contender): (usize, &Contender)| Row {
        measure: measure.name.clone(),
        name: contender.name,
        gbps: measure.bits / times[at].iter().copied().fold(f64::INFINITY, f64::min) / 1e9,
        ratio: ratio(at),
        target: match measure.ratio_target {
            Some((name, target)) if name == contender.name => Some(target),
            _ if at == 0 => measure.target,
            _ => None,
        },
    };
    measure.contenders.iter().enumerate().map(row).collect()
}

fn json_row(row: &Row) -> String {
    let target = row.target.map_or("null".into(), |t| t.to_string());
    format!(
        "{{\"measure\":\"{}\",\"who\":\"{}\",\"gbps\":{:.3},\"towline_ratio\":{:.3},\"target\":{target}}}",
        row.measure, row.name, row.gbps, row.ratio
    )
}
