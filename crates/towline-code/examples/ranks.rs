//! E[rank]/M over a chain of relays, from the real recoder, beside the reference table in docs/vectors/code-ranks.txt.
//!
//! `cargo run --release -p towline-code --example ranks -- [batches] [line]` prints the table and the largest difference; `line`
//! picks the lines that begin so, for example "0.1 16 adapt".
#![allow(clippy::print_stdout)]

mod simulation;

use simulation::{Relaying, rank_ratio};

/// "p M relaying" and one value for each of `HOPS`.
const REFERENCE: &str = include_str!("../../../docs/vectors/code-ranks.txt");

const HOPS: [usize; 8] = [1, 2, 3, 4, 5, 6, 8, 10];

fn main() {
    let batches: usize = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(40_000);
    // The target concerns batches of 8 and more.
    let (mut worst, mut worst_of_four) = (0.0f64, 0.0f64);
    println!("   p   M relay   {}", HOPS.map(|h| format!("L={h:<10}")).join(" "));
    let only = std::env::args().nth(2).unwrap_or_default();
    for line in REFERENCE.lines().filter(|line| !line.starts_with('#') && line.starts_with(&only)) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [loss, m, relay, values @ ..] = &words[..] else { continue };
        let (Ok(loss), Ok(m)) = (loss.parse::<f64>(), m.parse::<usize>()) else { continue };
        let relaying = match *relay {
            "dense" => Relaying::Dense,
            "sys" => Relaying::Systematic,
            _ => Relaying::Adaptive,
        };
        let mut cells = Vec::new();
        for (hops, value) in HOPS.into_iter().zip(values) {
            let expected: f64 = value.parse().unwrap_or(f64::NAN);
            // Large batches vary less: the same accuracy from fewer of them.
            let ratio = rank_ratio(hops, loss, m, relaying, batches * 16 / m.max(8), 1);
            let worst = if m < 8 { &mut worst_of_four } else { &mut worst };
            *worst = worst.max((ratio - expected).abs());
            cells.push(format!("{ratio:.4}{:+.4}", ratio - expected));
        }
        println!("{loss:.2} {m:3} {relay:6}  {}", cells.join(" "));
    }
    println!("largest difference {worst:.4} for M from 8 to 64, {worst_of_four:.4} for M = 4");
}
