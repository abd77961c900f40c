//! `towline lab`: scenarios in virtual time.

mod show;
mod svg;

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use clap::{Args, ValueEnum};
use towline_lab::{Cell, Changes, Mode, Report, Scenario};
use towline_sim::Bitrate;

use crate::failure::{Failure, Outcome};
use crate::output::progress::Progress;
use crate::output::{Notes, Output};
use crate::units;

/// Run endpoints, relays and baselines over simulated networks, in virtual time.
///
/// Every link has, in both directions, a token bucket of 10 ms at its rate, a drop-tail queue of 11 ms, delay and
/// loss. The same seed gives the same table on every machine.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
        towline lab brtp-matrix --rate 100mbit --svg matrix.svg\n  \
        towline lab chain --rate 1gbit --delay 100ms --loss 0.0001 --json\n  \
        towline lab fairness --json")]
pub(crate) struct Arguments {
    /// What to run.
    scenario: Name,
    /// What runs over the network.
    #[arg(long, value_name = "MODE", value_parser = mode)]
    mode: Option<Mode>,
    /// A baseline beside each cell; may be repeated.
    #[arg(long = "peer", value_name = "MODE", value_parser = mode)]
    peers: Vec<Mode>,
    /// Links in a row.
    #[arg(long, value_name = "NUMBER")]
    hops: Option<usize>,
    /// The rate of each link, for instance 100mbit or 1gbit.
    #[arg(long, value_name = "RATE", value_parser = rate)]
    rate: Option<Bitrate>,
    /// The delay of each link, one way; several make several rows.
    #[arg(long, value_name = "TIME", value_delimiter = ',', value_parser = units::duration)]
    delay: Vec<Duration>,
    /// The loss of each link, 0 to 1; several make several rows.
    #[arg(long, value_name = "SHARE", value_delimiter = ',', value_parser = share)]
    loss: Vec<f64>,
    /// The mean length of loss bursts in packets; 1 is independent loss.
    #[arg(long, value_name = "PACKETS")]
    burst: Option<f64>,
    /// Whether each hop answers losses by itself, in coded modes.
    #[arg(long, value_name = "ON|OFF", value_parser = on_off)]
    hop_feedback: Option<bool>,
    /// Virtual time to run.
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    duration: Option<Duration>,
    /// How much of its beginning the steady figures leave out.
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    warmup: Option<Duration>,
    /// Decides every loss.
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// Print one JSON object per cell in place of the table.
    #[arg(long)]
    json: bool,
    /// Draw the steady goodput of a matrix into this file.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Cells run at a time. Default: one for each core.
    #[arg(long, value_name = "NUMBER")]
    jobs: Option<usize>,
}

/// The scenarios.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Name {
    /// One hop: delays of 10 to 100 ms by losses of 0 to 10 %.
    BrtpMatrix,
    /// One flow over links in a row.
    Chain,
    /// Two and four flows, and one beside a CUBIC flow, over one link.
    Fairness,
}

impl Name {
    fn scenario(self) -> Scenario {
        match self {
            Name::BrtpMatrix => Scenario::BrtpMatrix,
            Name::Chain => Scenario::Chain,
            Name::Fairness => Scenario::Fairness,
        }
    }
}

fn mode(text: &str) -> Result<Mode, String> {
    let names = Mode::ALL.map(Mode::name).join(", ");
    Mode::ALL.into_iter().find(|mode| mode.name() == text).ok_or(format!("one of {names}"))
}

/// `tc`'s way of writing rates, and our own.
fn rate(text: &str) -> Result<Bitrate, String> {
    let number = text.strip_suffix("bit").unwrap_or(text);
    units::rate(number).map(Bitrate::from_bps)
}

fn on_off(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("on or off".into()),
    }
}

fn share(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| format!("`{text}` is not a number"))?;
    if (0.0..1.0).contains(&value) {
        Ok(value)
    } else {
        Err(format!("`{text}` is not a share from 0 to below 1"))
    }
}

/// Runs the sub-command.
pub(crate) fn run(arguments: &Arguments, notes: &Notes) -> Outcome {
    let changes = Changes {
        mode: arguments.mode,
        hops: arguments.hops,
        rate: arguments.rate,
        delays: arguments.delay.clone(),
        losses: arguments.loss.clone(),
        burst: arguments.burst,
        hop_feedback: arguments.hop_feedback,
        duration: arguments.duration,
        warmup: arguments.warmup,
        seed: arguments.seed,
        peers: arguments.peers.clone(),
    };
    let cells = arguments.scenario.scenario().cells(&changes);
    let reports = run_all(&cells, jobs(arguments), notes)?;
    let mut output = Output::open()?;
    if arguments.json {
        for report in &reports {
            output.line(&show::json(report).to_string())?;
        }
    } else {
        output.line(show::table(&reports).trim_end())?;
    }
    if let Some(file) = &arguments.svg {
        std::fs::write(file, svg::plot(&reports)).map_err(|error| {
            Failure::Failed(format!("cannot write {}: {error}", file.display()))
        })?;
    }
    Ok(())
}

fn jobs(arguments: &Arguments) -> usize {
    let cores = || thread::available_parallelism().map_or(1, usize::from);
    arguments.jobs.unwrap_or_else(cores).max(1)
}

/// Runs the cells side by side and gives their reports in order.
fn run_all(cells: &[Cell], jobs: usize, notes: &Notes) -> Outcome<Vec<Report>> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    let mut progress = Progress::new(notes);
    thread::scope(|scope| {
        let work = || {
            loop {
                // The longest cells stand last and would otherwise run alone.
                let number = next.fetch_add(1, Ordering::Relaxed);
                let Some(index) = cells.len().checked_sub(number + 1) else { return };
                let Some(cell) = cells.get(index) else { return };
                let report = towline_lab::run(cell);
                if let Ok(mut done) = done.lock() {
                    done.push((index, report));
                }
            }
        };
        let workers: Vec<_> = (0..jobs.min(cells.len())).map(|_| scope.spawn(work)).collect();
        while workers.iter().any(|worker| !worker.is_finished()) {
            let count = done.lock().map_or(0, |done| done.len());
            progress.set("cells", count as u64, cells.len() as u64, "");
            thread::park_timeout(Duration::from_millis(100));
        }
    });
    progress.clear();
    let mut done = done.into_inner().unwrap_or_default();
    done.sort_by_key(|(index, _)| *index);
    let reports = done.into_iter().map(|(_, report)| report.map_err(Failure::failed));
    reports.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_written_as_tc_writes_them() {
        assert_eq!(rate("100mbit"), Ok(Bitrate::from_mbps(100)));
        assert_eq!(rate("1gbit"), Ok(Bitrate::from_gbps(1)));
        assert_eq!(rate("2.5G"), Ok(Bitrate::from_mbps(2_500)));
        assert!(rate("fast").is_err() && share("1").is_err() && mode("tcp").is_err());
    }
}
