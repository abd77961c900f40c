//! Flows beside each other over one bottleneck.

use std::time::Duration;

use towline_proto::bats::congestion::Control;
use towline_sim::NodeId;

use crate::bulk::BulkNode;
use crate::cell::{Cell, LabError};
use crate::chain;
use crate::flow::{self, Flow};
use crate::raw::RawNode;
use crate::report::{Meter, Report};

/// How far apart flows start.
const STAGGER: Duration = Duration::from_secs(2);

/// Runs `cell.flows` of ours and `cell.cubic` QUIC flows with CUBIC, which start first.
pub(crate) fn run(cell: &Cell) -> Result<Report, LabError> {
    let mut simulation = cell.simulation();
    let all = cell.flows + cell.cubic;
    let (ends, forward) = flow::dumbbell(&mut simulation, &cell.link(), all)?;
    let mut cubic: Vec<NodeId<BulkNode>> = Vec::new();
    let mut ours: Vec<NodeId<RawNode>> = Vec::new();
    for (number, ends) in (0..all).zip(ends) {
        let start = STAGGER * u32::from(number);
        let number = number.into();
        if number < u16::from(cell.cubic) {
            let make = |place: &_| BulkNode::new(cell, Control::Cubic, place);
            cubic.push(flow::add(&mut simulation, cell, ends, number, start, make)?.receiver);
        } else {
            let make = |place: &_| RawNode::new(cell, place);
            ours.push(flow::add(&mut simulation, cell, ends, number, start, make)?.receiver);
        }
    }
    simulation.run_to(cell.duration)?;
    let meters: Vec<&Meter> = cubic
        .iter()
        .map(|node| simulation.node(*node).meter())
        .chain(ours.iter().map(|node| simulation.node(*node).meter()))
        .collect();
    let mut report = Report::new(cell, &Meter::sum(&meters));
    let time = cell.duration.saturating_sub(cell.warmup).as_secs_f64().max(1e-9);
    report.shares = meters.iter().map(|meter| meter.steady() as f64 * 8.0 / time).collect();
    chain::wire(&mut simulation, cell, forward, &mut report)?;
    Ok(report)
}
