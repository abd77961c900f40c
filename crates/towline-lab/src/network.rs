//! Networks and the flows over them.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use towline_sim::{HostId, LinkConfig, LinkId, NodeId, Simulation};

use crate::cell::{Cell, LabError};
use crate::load::{Load, Tally};
use crate::node::{FlowNode, Place};
use crate::report::Report;
use crate::transport::RelayNode;

/// How far apart flows start.
const STAGGER: Duration = Duration::from_secs(2);
/// How long the last messages may take beyond the links' delay before they count as lost.
const LAST: Duration = Duration::from_secs(2);
/// The port of every node.
const PORT: u16 = 4_000;

/// Where the two ends of a flow are, and whom the first one connects to: the other one, or the first relay.
#[derive(Clone, Copy, Debug)]
struct Ends {
    from: HostId,
    to: HostId,
    target: HostId,
}

/// The two nodes of a flow.
#[derive(Clone, Copy)]
struct Pair {
    sender: NodeId<FlowNode>,
    receiver: NodeId<FlowNode>,
}

fn address(simulation: &Simulation, host: HostId) -> Result<SocketAddr, LabError> {
    Ok(SocketAddr::new(simulation.network.address(host)?, PORT))
}

/// Puts a flow on its hosts. `number` tells the flows of a run apart.
fn add(
    simulation: &mut Simulation,
    cell: &Cell,
    ends: Ends,
    number: u8,
    start: Duration,
) -> Result<Pair, LabError> {
    let now = simulation.now();
    let target = address(simulation, ends.target)?;
    let mut place = |host, dials: bool| -> Result<NodeId<FlowNode>, LabError> {
        let place = Place {
            now,
            seed: cell.seed_of(2 * u64::from(number) + u64::from(dials)),
            dials: dials.then_some((target, now + start)),
            relayed: ends.target != ends.to,
        };
        let name = if dials { "sender" } else { "receiver" };
        let node = FlowNode::new(cell, &place)?;
        let node = simulation.add_node(&format!("{name} {number}"), host, node);
        let address = address(simulation, host)?;
        simulation.bind(node, address)?;
        Ok(node)
    };
    Ok(Pair { receiver: place(ends.to, false)?, sender: place(ends.from, true)? })
}

/// The first failure of a flow's ends.
fn check(simulation: &Simulation, pair: Pair) -> Result<(), LabError> {
    for node in [pair.sender, pair.receiver] {
        if let Some(failure) = simulation.node(node).failure() {
            return Err(LabError::Connection(failure.to_owned()));
        }
    }
    Ok(())
}

/// One flow over links in a row, with a relay at every host in between where the mode has such.
pub(crate) fn chain(cell: &Cell) -> Result<Report, LabError> {
    let mut simulation = cell.simulation();
    let links = &cell.links;
    let chain = simulation.network.chain_with(links.hops, |hop, way| links.link(hop, way))?;
    let (from, to) = (chain.hosts[0], chain.hosts[links.hops]);
    let mut target = to;
    if cell.mode.is_relayed() && links.hops > 1 {
        target = chain.hosts[1];
        for hop in 1..links.hops {
            let (host, next) = (chain.hosts[hop], chain.hosts[hop + 1]);
            let next = address(&simulation, next)?;
            // Seeds of ends come first.
            let seed = cell.seed_of(1_000 + hop as u64);
            let node = RelayNode::new(cell, seed, next, simulation.now())?;
            let node = simulation.add_node(&format!("relay {hop}"), host, node);
            let address = address(&simulation, host)?;
            simulation.bind(node, address)?;
        }
    }
    let pair = add(&mut simulation, cell, Ends { from, to, target }, 0, Duration::ZERO)?;
    let receiver = pair.receiver;
    match cell.load {
        Load::Object { .. } => {
            simulation.run_until(cell.duration, |simulation| {
                simulation.node(receiver).app.tally.done.is_some()
            })?;
        }
        Load::Bulk => drop(simulation.run_to(cell.duration)?),
        Load::Echo { .. } | Load::Paced { .. } => {
            let last = links.one_way(true) + links.one_way(false) + LAST;
            simulation.run_to(cell.duration + last)?;
        }
    }
    check(&simulation, pair)?;
    let ran = simulation.elapsed().min(cell.duration);
    let [sent, came] = [pair.sender, pair.receiver].map(|end| &simulation.node(end).app.tally);
    let mut report = summary(cell, sent, came);
    wire(&mut simulation, chain.forward[0], ran, &mut report)?;
    Ok(report)
}

/// What the two ends saw.
fn summary(cell: &Cell, sent: &Tally, came: &Tally) -> Report {
    let mut report = Report::new(cell, came.meter.total(), came.meter.steady());
    let lost = |arrived: u64| 1.0 - arrived as f64 / sent.sent.max(1) as f64;
    match cell.load {
        Load::Bulk => {}
        Load::Echo { .. } => {
            report.rtt = sent.times.percentiles();
            report.residual = Some(lost(sent.arrived));
        }
        Load::Paced { .. } => report.residual = Some(lost(came.arrived)),
        Load::Object { bytes } => {
            let took = sent.begun.zip(came.done).map(|(begun, done)| done - begun);
            let rate = |took: Duration| bytes as f64 * 8.0 / took.as_secs_f64().max(1e-9);
            report.transfer = took;
            report.goodput = took.map_or(0.0, rate);
            report.steady = report.goodput;
        }
    }
    report
}

/// Flows beside each other over one bottleneck: QUIC flows with CUBIC, which start first, and `cell.flows` of ours.
pub(crate) fn fairness(cell: &Cell) -> Result<Report, LabError> {
    let mut simulation = cell.simulation();
    let all = cell.flows + cell.cubic;
    let (ends, forward) = dumbbell(&mut simulation, cell, all)?;
    let cubic = Cell { mode: crate::Mode::QuicCubic, ..cell.clone() };
    let mut pairs = Vec::new();
    for (number, ends) in (0..all).zip(ends) {
        let start = STAGGER * u32::from(number);
        let cell = if number < cell.cubic { &cubic } else { cell };
        pairs.push(add(&mut simulation, cell, ends, number, start)?);
    }
    simulation.run_to(cell.duration)?;
    let tally = |pair: &Pair| &simulation.node(pair.receiver).app.tally.meter;
    let total = pairs.iter().map(|pair| tally(pair).total()).sum();
    let steady = pairs.iter().map(|pair| tally(pair).steady()).sum();
    let mut report = Report::new(cell, total, steady);
    let time = cell.duration.saturating_sub(cell.warmup).as_secs_f64().max(1e-9);
    let share = |pair| tally(pair).steady() as f64 * 8.0 / time;
    report.shares = pairs.iter().map(share).collect();
    for pair in pairs {
        check(&simulation, pair)?;
    }
    wire(&mut simulation, forward, cell.duration, &mut report)?;
    Ok(report)
}

/// One bottleneck in both directions, and at each side as many hosts as there are flows.
fn dumbbell(
    simulation: &mut Simulation,
    cell: &Cell,
    flows: u8,
) -> Result<(Vec<Ends>, LinkId), LabError> {
    let network = &mut simulation.network;
    let left = network.add_host("left", IpAddr::from([10, 0, 0, 1]))?;
    let right = network.add_host("right", IpAddr::from([10, 0, 0, 2]))?;
    let forward = network.add_link(left, right, &cell.links.link(0, true))?;
    let backward = network.add_link(right, left, &cell.links.link(0, false))?;
    let open = LinkConfig::new();
    let mut ends = Vec::new();
    for flow in 0..flows {
        let from =
            network.add_host(&format!("sender {flow}"), IpAddr::from([10, 0, 1, flow + 1]))?;
        let to =
            network.add_host(&format!("receiver {flow}"), IpAddr::from([10, 0, 2, flow + 1]))?;
        let (up, down) = network.connect(from, left, &open)?;
        let (out, back) = network.connect(right, to, &open)?;
        for (at, target, link) in [
            (from, to, up),
            (left, to, forward),
            (right, to, out),
            (to, from, back),
            (right, from, backward),
            (left, from, down),
        ] {
            network.route(at, target, link)?;
        }
        ends.push(Ends { from, to, target: to });
    }
    Ok((ends, forward))
}

/// What the first link carried and dropped.
fn wire(
    simulation: &mut Simulation,
    link: LinkId,
    ran: Duration,
    report: &mut Report,
) -> Result<(), LabError> {
    let stats = simulation.network.link_stats(link)?;
    let (delivered, lost) = (stats.delivered, stats.dropped_loss);
    let packets = delivered.packets + lost.packets;
    // Payload, IP and UDP headers, Ethernet.
    let bytes = delivered.bytes + lost.bytes + packets * (28 + 14);
    report.wire = bytes as f64 * 8.0 / ran.as_secs_f64().max(1e-9);
    report.overflow = stats.dropped_queue.packets;
    Ok(())
}
