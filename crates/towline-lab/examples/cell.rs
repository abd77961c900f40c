//! One raw cell with a trace: `cell RATE_MBPS DELAY_MS LOSS SECONDS [trace]`.

use std::time::{Duration, Instant};

use towline_lab::{Cell, run};
use towline_sim::Bitrate;

#[expect(clippy::print_stdout, reason = "an example")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default: f64| -> f64 {
        args.get(at).and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let cell = Cell {
        rate: Bitrate::from_bps((number(0, 100.0) * 1e6) as u64),
        delay: Duration::from_secs_f64(number(1, 10.0) / 1e3),
        loss: number(2, 0.0),
        duration: Duration::from_secs_f64(number(3, 30.0)),
        trace: args.get(4).is_some_and(|word| word == "trace"),
        flows: number(5, 1.0) as u8,
        cubic: number(6, 0.0) as u8,
        warmup: if number(5, 1.0) + number(6, 0.0) > 1.0 { Duration::from_secs(10) } else { Duration::from_secs(5) },
        ..Cell::default()
    };
    let start = Instant::now();
    let report = run(&cell)?;
    println!(
        "{:6} Mb/s {:5} ms {:.3}: ratio {:.4} steady {:.4} overflow {} wall {:.2} s {:.1?} {:?}",
        cell.rate.as_bps() as f64 / 1e6,
        cell.delay.as_secs_f64() * 1e3,
        cell.loss,
        report.ratio(),
        report.steady_ratio(),
        report.overflow,
        start.elapsed().as_secs_f64(),
        report.shares.iter().map(|x| x / 1e6).collect::<Vec<_>>(),
        report.jain()
    );
    Ok(())
}
