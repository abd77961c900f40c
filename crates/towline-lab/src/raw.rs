//! A hop by itself: full datagrams, as many as it takes.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use towline_proto::bats::hop::{Hop, Packet};
use towline_proto::bats::quic_hop::{ALPN, HopConfig, QuicHop};
use towline_proto::quic::{
    ClientConfig, ConnectParams, ConnectionId, Endpoint, EndpointConfig, EndpointEvent, Event,
};
use towline_sim::{Delivery, Node, Transmit};

use crate::cell::{Cell, LabError};
use crate::engine;
use crate::report::{Meter, Report};

struct RawNode {
    endpoint: Endpoint,
    dial: Option<(ClientConfig, SocketAddr)>,
    connection: Option<ConnectionId>,
    hop: QuicHop,
    sends: bool,
    meter: Meter,
    tag: u64,
    payload: Bytes,
    buf: Vec<u8>,
    last_train: Option<Instant>,
    failure: Option<String>,
}

impl RawNode {
    /// Moves events, packets and fates; whether anything moved.
    fn pump(&mut self, now: Instant) -> bool {
        if let Some((config, to)) = self.dial.take() {
            let params = ConnectParams::default();
            match self.endpoint.connect(now, &config, to, "lab", params) {
                Ok(id) => self.connection = Some(id),
                Err(error) => self.failure = Some(error.to_string()),
            }
        }
        while let Some(event) = self.endpoint.poll_event(now) {
            let EndpointEvent::Connection(id, event) = event else { continue };
            self.connection.get_or_insert(id);
            match self.hop.handle_event(event) {
                Some(Event::TransportShutdown(reason)) => self.failure = Some(format!("{reason:?}")),
                Some(_) | None => {}
            }
        }
        let Some(mut connection) = self.connection.and_then(|id| self.endpoint.connection(id))
        else {
            return false;
        };
        self.hop.begin(now, &mut connection);
        while let Some(packet) = self.hop.poll_packet() {
            self.meter.add(now, packet.len() as u64);
        }
        while self.hop.poll_fate().is_some() {}
        let mut moved = false;
        while self.sends && self.hop.room(now) > 0 {
            let size = self.hop.max_packet();
            let data = self.payload.slice(..size.min(self.payload.len()));
            self.hop.send(now, Packet { data, tag: self.tag, urgent: false });
            self.tag += 1;
            moved = true;
        }
        self.hop.finish(&mut connection);
        moved
    }
}

impl Node for RawNode {
    fn handle_datagram(&mut self, now: Instant, datagram: Delivery) {
        engine::deliver(&mut self.endpoint, now, datagram);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.endpoint.handle_timeout(now);
    }

    fn poll_transmit(&mut self, now: Instant) -> Option<Transmit> {
        loop {
            if let Some(transmit) = self.endpoint.poll_transmit(now, &mut self.buf) {
                self.last_train = Some(now);
                return Some(engine::train(&transmit, &self.buf));
            }
            if !self.pump(now) {
                return None;
            }
        }
    }

    fn poll_timeout(&mut self) -> Option<Instant> {
        let own = [self.endpoint.poll_timeout(), self.hop.poll_timeout()];
        engine::coalesce(own.into_iter().flatten().min(), self.last_train)
    }
}

pub(crate) fn run(cell: &Cell) -> Result<Report, LabError> {
    if cell.hops != 1 {
        return Err(LabError::Parameter("the raw mode has one hop".into()));
    }
    let mut simulation = cell.simulation();
    let chain = simulation.network.chain(1, &cell.link())?;
    let config = HopConfig { control: cell.control, ..HopConfig::default() };
    let mut ends = Vec::new();
    for (side, host) in chain.hosts.iter().enumerate() {
        let address = SocketAddr::new(simulation.network.address(*host)?, 4000);
        ends.push((side, *host, address));
    }
    let to = ends[1].2;
    let mut nodes = Vec::new();
    for (side, host, address) in ends {
        let sends = side == 0;
        let server = (!sends).then(|| engine::server(config.options(), ALPN));
        let settings = HopConfig::adapt(EndpointConfig::default());
        let seed = cell.seed_of(side as u64);
        let node = RawNode {
            endpoint: engine::endpoint(settings, server, seed, simulation.now()),
            dial: sends.then(|| (engine::client(config.options(), ALPN), to)),
            connection: None,
            hop: QuicHop::new(sends),
            sends,
            meter: Meter::new(simulation.now(), cell.warmup),
            tag: 0,
            payload: Bytes::from(vec![0x5a; 1_500]),
            buf: Vec::new(),
            last_train: None,
            failure: None,
        };
        let node = simulation.add_node(if sends { "sender" } else { "receiver" }, host, node);
        simulation.bind(node, address)?;
        nodes.push(node);
    }
    let mut shown = (0, 0);
    let forward = chain.forward[0];
    let step = Duration::from_millis(100);
    let mut at = Duration::ZERO;
    while at < cell.duration {
        at = (at + step).min(cell.duration);
        simulation.run_to(at)?;
        if cell.trace {
            let path = simulation.node(nodes[0]).hop.path();
            let total = simulation.node(nodes[1]).meter.total();
            let dropped = simulation.network.link_stats(forward)?.dropped_queue.packets;
            let mbps = (total - shown.0) as f64 * 8.0 / step.as_secs_f64() / 1e6;
            println_trace(at, mbps, dropped - shown.1, &path);
            shown = (total, dropped);
        }
    }
    if let Some(failure) = nodes.iter().find_map(|node| simulation.node(*node).failure.clone()) {
        return Err(LabError::Connection(failure));
    }
    let stats = simulation.network.link_stats(forward)?;
    let mut report = Report::new(cell, &simulation.node(nodes[1]).meter);
    report.wire = stats.delivered.bytes as f64 * 8.0 / cell.duration.as_secs_f64();
    report.overflow = stats.dropped_queue.packets;
    Ok(report)
}

#[expect(clippy::print_stderr, reason = "asked for")]
fn println_trace(at: Duration, mbps: f64, dropped: u64, path: &towline_proto::bats::hop::Path) {
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
