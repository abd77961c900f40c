//! Flows over a network: who sends to whom, from when on, and what arrives.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use towline_sim::{HostId, LinkConfig, LinkId, Node, NodeId, Simulation};

use crate::cell::{Cell, LabError};
use crate::report::Meter;

/// Where a node stands.
pub(crate) struct Place {
    pub(crate) now: Instant,
    pub(crate) seed: [u8; 32],
    /// Whom to connect to and when; the other end waits.
    pub(crate) dials: Option<(SocketAddr, Instant)>,
}

/// A node at the end of a flow.
pub(crate) trait Flow: Node {
    /// What arrived here.
    fn meter(&self) -> &Meter;
    /// Why it failed, if it did.
    fn failure(&self) -> Option<&str>;
}

/// Where the two ends of a flow are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends {
    pub(crate) from: HostId,
    pub(crate) to: HostId,
}

/// The two nodes of a flow.
pub(crate) struct Pair<T> {
    pub(crate) sender: NodeId<T>,
    pub(crate) receiver: NodeId<T>,
}

/// Puts a flow on its hosts. `number` tells the flows of a run apart.
pub(crate) fn add<T: Flow>(
    simulation: &mut Simulation,
    cell: &Cell,
    ends: Ends,
    number: u16,
    start: Duration,
    mut make: impl FnMut(&Place) -> T,
) -> Result<Pair<T>, LabError> {
    let now = simulation.now();
    let target = SocketAddr::new(simulation.network.address(ends.to)?, 4_000);
    let mut place = |host, dials: Option<bool>| -> Result<NodeId<T>, LabError> {
        let end = u64::from(dials == Some(true));
        let place = Place {
            now,
            seed: cell.seed_of(2 * u64::from(number) + end),
            dials: dials.map(|_| (target, now + start)),
        };
        let name = if end == 1 { "sender" } else { "receiver" };
        let node = simulation.add_node(&format!("{name} {number}"), host, make(&place));
        let address = SocketAddr::new(simulation.network.address(host)?, 4_000);
        simulation.bind(node, address)?;
        Ok(node)
    };
    Ok(Pair { receiver: place(ends.to, None)?, sender: place(ends.from, Some(true))? })
}

/// One bottleneck in both directions, and at each side as many hosts as there are flows.
pub(crate) fn dumbbell(
    simulation: &mut Simulation,
    link: &LinkConfig,
    flows: u8,
) -> Result<(Vec<Ends>, LinkId), LabError> {
    let network = &mut simulation.network;
    let left = network.add_host("left", IpAddr::from([10, 0, 0, 1]))?;
    let right = network.add_host("right", IpAddr::from([10, 0, 0, 2]))?;
    let (forward, backward) = network.connect(left, right, link)?;
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
        ends.push(Ends { from, to });
    }
    Ok((ends, forward))
}

/// The first failure of a flow's ends.
pub(crate) fn check<T: Flow>(simulation: &Simulation, pair: &Pair<T>) -> Result<(), LabError> {
    for node in [pair.sender, pair.receiver] {
        if let Some(failure) = simulation.node(node).failure() {
            return Err(LabError::Connection(failure.to_owned()));
        }
    }
    Ok(())
}
