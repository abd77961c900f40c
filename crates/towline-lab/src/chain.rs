//! One flow over links in a row.

use std::time::Duration;

use towline_proto::bats::hop::Path;
use towline_sim::Simulation;

use crate::cell::{Cell, LabError};
use crate::flow::{self, Ends, Flow, Place};
use crate::report::Report;

/// Runs a flow from one end of the chain to the other, without anything in between.
pub(crate) fn end_to_end<T: Flow>(
    cell: &Cell,
    make: impl FnMut(&Place) -> T,
) -> Result<Report, LabError> {
    let mut simulation = cell.simulation();
    let chain = simulation.network.chain(cell.hops, &cell.link())?;
    let ends = Ends { from: chain.hosts[0], to: chain.hosts[cell.hops] };
    let pair = flow::add(&mut simulation, cell, ends, 0, Duration::ZERO, make)?;
    let step = Duration::from_millis(100);
    let (mut at, mut shown) = (Duration::ZERO, (0, 0));
    while at < cell.duration {
        at = (at + step).min(cell.duration);
        simulation.run_to(at)?;
        if cell.trace {
            let total = simulation.node(pair.receiver).meter().total();
            let dropped =
                simulation.network.link_stats(chain.forward[0])?.dropped_queue.packets;
            let rate = (total - shown.0) as f64 * 8.0 / step.as_secs_f64() / 1e6;
            trace(at, rate, dropped - shown.1, simulation.node(pair.sender).path());
            shown = (total, dropped);
        }
    }
    flow::check(&simulation, &pair)?;
    let mut report = Report::new(cell, simulation.node(pair.receiver).meter());
    wire(&mut simulation, cell, chain.forward[0], &mut report)?;
    Ok(report)
}

/// What the first link carried and dropped.
pub(crate) fn wire(
    simulation: &mut Simulation,
    cell: &Cell,
    link: towline_sim::LinkId,
    report: &mut Report,
) -> Result<(), LabError> {
    let stats = simulation.network.link_stats(link)?;
    let (delivered, lost) = (stats.delivered, stats.dropped_loss);
    let packets = delivered.packets + lost.packets;
    // Payload, IP and UDP headers, Ethernet.
    let bytes = delivered.bytes + lost.bytes + packets * (28 + 14);
    report.wire = bytes as f64 * 8.0 / cell.duration.as_secs_f64();
    report.overflow = stats.dropped_queue.packets;
    Ok(())
}

#[expect(clippy::print_stderr, reason = "asked for")]
fn trace(at: Duration, mbps: f64, dropped: u64, path: Option<Path>) {
    let Some(path) = path else { return };
    let rate = path.rate as f64 * 8.0 / 1e6;
    let queue = path.rtt.saturating_sub(path.min_rtt).as_secs_f64() * 1e3;
    eprintln!(
        "{:7.1} s  {mbps:8.1} Mb/s arrived  {dropped:6} overflowed  capacity {rate:8.1}  queue {queue:6.2} ms  rtt {:6.1}  loss {:.4} burst {:.1}",
        at.as_secs_f64(),
        path.rtt.as_secs_f64() * 1e3,
        path.loss,
        path.burst
    );
}
