//! Coded flows: a sender that always has more, relays, and a receiver that reads.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use towline_proto::bats::endpoint::{
    ConnectConfig, Endpoint, Event, FlowId, HopAddress, ListenConfig, NodeConfig, Relay,
    RelaySettings,
};
use towline_proto::bats::flow::FlowConfig;
use towline_proto::bats::quic_hop::HopConfig;
use towline_proto::quic::{
    ClientSettings, Ecn, EndpointConfig, Path, ServerSettings, ServerVerification,
};
use towline_sim::{Delivery, Node, NodeId, Simulation, Transmit};

use crate::cell::{Cell, LabError};
use crate::report::{Meter, Report};
use crate::{chain, engine};

fn hop_config(cell: &Cell) -> HopConfig {
    HopConfig { control: cell.control, ..HopConfig::default() }
}

fn flow_config(cell: &Cell) -> FlowConfig {
    FlowConfig { hop_feedback: cell.hop_feedback, ..FlowConfig::default() }
}

fn client_tls() -> ClientSettings {
    ClientSettings::new(ServerVerification::DangerousNone, [])
}

fn server_tls() -> ServerSettings {
    ServerSettings::new(engine::identity(), [])
}

fn node_config(seed: [u8; 32]) -> NodeConfig {
    let quic = engine::settings(HopConfig::adapt(EndpointConfig::default()), seed);
    NodeConfig { quic, ..NodeConfig::default() }
}

fn path_of(datagram: &Delivery) -> (Path, Option<Ecn>) {
    let path = Path { remote: datagram.source, local: datagram.local };
    (path, Ecn::from_bits(datagram.ecn.bits()))
}

/// One end of a flow.
struct EndNode {
    endpoint: Endpoint,
    flow: Option<FlowId>,
    sends: bool,
    rest: Bytes,
    payload: Bytes,
    meter: Meter,
    failure: Option<String>,
    buf: Vec<u8>,
    last_train: Option<Instant>,
}

impl EndNode {
    fn new(cell: &Cell, number: u64, sends: bool, now: Instant) -> Result<Self, LabError> {
        let seed = cell.seed_of(number);
        let refused = |error: &dyn std::fmt::Display| LabError::Parameter(error.to_string());
        let listen = if sends {
            None
        } else {
            let flow = FlowConfig { seed: cell.seed ^ 1, ..flow_config(cell) };
            let listen = ListenConfig::new(server_tls(), &hop_config(cell), flow);
            Some(listen.map_err(|error| refused(&error))?)
        };
        let endpoint = Endpoint::new(node_config(seed), listen, seed, now, engine::wall());
        Ok(EndNode {
            endpoint: endpoint.map_err(|error| refused(&error))?,
            flow: None,
            sends,
            rest: Bytes::new(),
            payload: Bytes::from(vec![0x5a; 256 << 10]),
            meter: Meter::new(now, cell.warmup),
            failure: None,
            buf: Vec::new(),
            last_train: None,
        })
    }

    fn pump(&mut self, now: Instant) {
        while let Some(event) = self.endpoint.poll_event(now) {
            match event {
                Event::Incoming { flow, .. } => self.flow = Some(flow),
                Event::Closed(_, why) => self.failure = Some(why.to_string()),
                _ => {}
            }
            self.exchange(now);
        }
        self.exchange(now);
    }

    /// Reads what came, and fills the flow's buffer.
    fn exchange(&mut self, now: Instant) {
        let Some(mut flow) = self.flow.and_then(|flow| self.endpoint.flow(flow)) else { return };
        while !self.sends
            && let Some(data) = flow.read()
        {
            self.meter.add(now, data.len() as u64);
        }
        while self.sends && flow.is_writable() {
            if self.rest.is_empty() {
                self.rest = self.payload.clone();
            }
            match flow.write(&mut self.rest) {
                Ok(written) if written > 0 => {}
                _ => return,
            }
        }
    }
}

impl Node for EndNode {
    fn handle_datagram(&mut self, now: Instant, datagram: Delivery) {
        let (path, ecn) = path_of(&datagram);
        self.endpoint.handle_datagram(now, path, ecn, engine::owned(datagram.data));
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.endpoint.handle_timeout(now);
    }

    fn poll_transmit(&mut self, now: Instant) -> Option<Transmit> {
        self.pump(now);
        let transmit = self.endpoint.poll_transmit(now, &mut self.buf)?;
        self.last_train = Some(now);
        Some(engine::train(&transmit, &self.buf))
    }

    fn poll_timeout(&mut self) -> Option<Instant> {
        engine::coalesce(self.endpoint.poll_timeout(), self.last_train)
    }
}

/// A relay.
struct RelayNode {
    relay: Relay,
    buf: Vec<u8>,
    last_train: Option<Instant>,
}

impl RelayNode {
    fn new(cell: &Cell, number: u64, next: SocketAddr, now: Instant) -> Result<Self, LabError> {
        let seed = cell.seed_of(number);
        let settings = RelaySettings { next: Some(next.into()), ..RelaySettings::default() };
        let tls = (server_tls(), client_tls());
        let time = (now, engine::wall());
        let relay = Relay::new(node_config(seed), settings, tls, &hop_config(cell), seed, time);
        let relay = relay.map_err(|error| LabError::Parameter(error.to_string()))?;
        Ok(RelayNode { relay, buf: Vec::new(), last_train: None })
    }
}

impl Node for RelayNode {
    fn handle_datagram(&mut self, now: Instant, datagram: Delivery) {
        let (path, ecn) = path_of(&datagram);
        self.relay.handle_datagram(now, path, ecn, engine::owned(datagram.data));
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.relay.handle_timeout(now);
    }

    fn poll_transmit(&mut self, now: Instant) -> Option<Transmit> {
        while self.relay.poll_event(now).is_some() {}
        let transmit = self.relay.poll_transmit(now, &mut self.buf)?;
        self.last_train = Some(now);
        Some(engine::train(&transmit, &self.buf))
    }

    fn poll_timeout(&mut self) -> Option<Instant> {
        engine::coalesce(self.relay.poll_timeout(), self.last_train)
    }
}

/// A flow over a chain with a relay at every host in between.
pub(crate) fn run(cell: &Cell) -> Result<Report, LabError> {
    let mut simulation = cell.simulation();
    let links = simulation.network.chain(cell.hops, &cell.link())?;
    let now = simulation.now();
    let mut addresses = Vec::new();
    for host in &links.hosts {
        addresses.push(SocketAddr::new(simulation.network.address(*host)?, 4_000));
    }
    let mut sender: Option<NodeId<EndNode>> = None;
    let mut receiver: Option<NodeId<EndNode>> = None;
    for (number, (host, address)) in links.hosts.iter().zip(&addresses).enumerate() {
        let seed = number as u64;
        match addresses.get(number + 1) {
            Some(&next) if number > 0 => {
                let node = RelayNode::new(cell, seed, next, now)?;
                let node = simulation.add_node(&format!("relay {number}"), *host, node);
                simulation.bind(node, *address)?;
            }
            next => {
                let node = EndNode::new(cell, seed, next.is_some(), now)?;
                let name = if next.is_some() { "sender" } else { "receiver" };
                let node = simulation.add_node(name, *host, node);
                simulation.bind(node, *address)?;
                let end = if next.is_some() { &mut sender } else { &mut receiver };
                *end = Some(node);
            }
        }
    }
    let (Some(sender), Some(receiver)) = (sender, receiver) else {
        return Err(LabError::Parameter("a chain has two ends".into()));
    };
    connect(&mut simulation, cell, sender, &addresses)?;
    simulation.run_to(cell.duration)?;
    for node in [sender, receiver] {
        if let Some(failure) = simulation.node(node).failure.clone() {
            return Err(LabError::Connection(failure));
        }
    }
    let mut report = Report::new(cell, &simulation.node(receiver).meter);
    chain::wire(&mut simulation, cell, links.forward[0], &mut report)?;
    Ok(report)
}

/// Begins the flow. Relays know where to go on by themselves.
fn connect(
    simulation: &mut Simulation,
    cell: &Cell,
    sender: NodeId<EndNode>,
    addresses: &[SocketAddr],
) -> Result<(), LabError> {
    let now = simulation.now();
    let flow = FlowConfig { relayed: cell.hops > 1, ..flow_config(cell) };
    let config = ConnectConfig::new(client_tls(), &hop_config(cell), flow)
        .map_err(|error| LabError::Parameter(error.to_string()))?
        .connect_timeout(Duration::from_secs(30));
    let first = addresses.get(1).copied().unwrap_or(addresses[0]);
    let path = [HopAddress::from(first)];
    let end = simulation.node_mut(sender);
    let flow = end.endpoint.connect(now, &path, first, &config, cell.seed);
    end.flow = Some(flow.map_err(|error| LabError::Connection(error.to_string()))?);
    Ok(())
}
