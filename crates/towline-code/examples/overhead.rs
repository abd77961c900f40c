//! Measures the overhead of the code over a grid of parameters: symbols beyond K needed to decode.
//!
//! `cargo run --release -p towline-code --example overhead -- 100000` spreads that many trials over the grid.
#![allow(clippy::print_stdout)]

mod simulation;

use simulation::{Chain, Relaying, trial};
use towline_code::*;

fn main() {
    let total: usize = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(10_000);
    let grid = grid();
    let trials = total.div_ceil(grid.len());
    println!(
        "   K   M hops loss | degree  | mean overhead, worst | redundant | inactive | rank ratio"
    );
    let (mut sum, mut worst, mut count) = (0, 0, 0);
    for (k, m, hops, loss) in grid {
        let ratio = simulation::rank_ratio(hops, loss, m, Relaying::Systematic, 2000, 1);
        let degrees = Degrees::for_missing(k, f64::from(k) * (1.0 - ratio));
        let (mut overhead, mut most, mut redundant, mut inactive, mut rank, mut columns) =
            (0, 0, 0, 0, 0, 0);
        let mut chain =
            Chain::new(hops, loss, m, 2, Relaying::Systematic, 7 + u64::from(k) + m as u64);
        for nonce in 0..trials as u64 {
            let batch_size = m.try_into().expect("a batch size");
            let parameters =
                BlockParameters { source_symbols: k, symbol_size: 2, batch_size, degrees, nonce };
            let one = trial(BlockCode::new(parameters).expect("a code"), &mut chain);
            overhead += one.overhead;
            most = most.max(one.overhead);
            redundant += one.redundant;
            inactive += one.inactive;
            rank += one.rank;
            columns += one.columns;
        }
        let mean = |n: usize| n as f64 / trials as f64;
        println!(
            "{k:5} {m:3} {hops:4} {loss:.2} | {:7} | {:13.4} {most:6} | {:9.2} | {:8.1} | {:.4}",
            match degrees {
                Degrees::Even(n) => n,
                Degrees::Fountain => 0,
            },
            mean(overhead),
            mean(redundant),
            mean(inactive),
            rank as f64 / columns as f64,
        );
        sum += overhead;
        worst = worst.max(most);
        count += trials;
    }
    println!("{count} trials: mean overhead {:.5}, worst {worst}", sum as f64 / count as f64);
}

/// Every combination that the target names.
fn grid() -> Vec<(u32, usize, usize, f64)> {
    let mut grid = Vec::new();
    for k in [64, 128, 256, 512, 1024] {
        for m in [8, 16] {
            for hops in [1, 3] {
                for loss in [0.02, 0.05, 0.10, 0.20] {
                    grid.push((k, m, hops, loss));
                }
            }
        }
    }
    grid
}
