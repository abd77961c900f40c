//! One flow over links in a row.

use std::time::Duration;

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
    simulation.run_to(cell.duration)?;
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
