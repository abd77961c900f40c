//! `towline lab`: scenarios in virtual time.

mod arguments;
mod show;
mod svg;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use towline_lab::{Cell, Report};

pub(crate) use self::arguments::Arguments;
use crate::failure::{Failure, Outcome};
use crate::output::progress::Progress;
use crate::output::{Notes, Output};

/// Runs the sub-command.
pub(crate) fn run(arguments: &Arguments, notes: &Notes) -> Outcome {
    let changes = arguments.changes();
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
