//! Coded flows: a sender that always has more, and a receiver that reads.

use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use towline_proto::bats::endpoint::{Endpoint, Event};
use towline_proto::bats::flow::{self, FlowConfig};
use towline_proto::bats::quic_hop::{ALPN, HopConfig};
use towline_proto::bats::route::Route;
use towline_proto::quic::{ClientConfig, ConnectionId, Ecn, EndpointConfig, Path};
use towline_sim::{Delivery, Node, Transmit};

use crate::cell::Cell;
use crate::engine;
use crate::flow::{Flow, Place};
use crate::report::Meter;

pub(crate) struct CodedNode {
    endpoint: Endpoint,
    dial: Option<(ClientConfig, SocketAddr, Instant)>,
    config: FlowConfig,
    id: Option<ConnectionId>,
    sends: bool,
    established: bool,
    rest: Bytes,
    payload: Bytes,
    meter: Meter,
    failure: Option<String>,
    buf: Vec<u8>,
    last_train: Option<Instant>,
}

impl CodedNode {
    /// One end of a flow of a cell.
    pub(crate) fn new(cell: &Cell, place: &Place) -> Self {
        let hop = HopConfig { control: cell.control, ..HopConfig::default() };
        let seed = place.seed.iter().fold(1, |sum: u64, byte| sum.wrapping_mul(31) + u64::from(*byte));
        let config = FlowConfig { seed, ..FlowConfig::default() };
        let server = place.dials.is_none().then(|| engine::server(hop.options(), ALPN));
        let settings = engine::settings(HopConfig::adapt(EndpointConfig::default()), place.seed);
        let endpoint =
            Endpoint::new(settings, server, config, place.seed, place.now, engine::wall())
                .expect("the laboratory's settings are valid");
        let dial = place.dials.map(|(to, at)| (engine::client(hop.options(), ALPN), to, at));
        CodedNode {
            endpoint,
            sends: dial.is_some(),
            dial,
            config,
            id: None,
            established: false,
            rest: Bytes::new(),
            payload: Bytes::from(vec![0x5a; 256 << 10]),
            meter: Meter::new(place.now, cell.warmup),
            failure: None,
            buf: Vec::new(),
            last_train: None,
        }
    }

    fn start(&mut self, now: Instant) {
        let Some((config, to, _)) = self.dial.take_if(|(_, _, at)| *at <= now) else { return };
        let route = Route::default();
        match self.endpoint.connect(now, &config, to, "lab", &route, self.config) {
            Ok(id) => self.id = Some(id),
            Err(error) => self.failure = Some(error.to_string()),
        }
    }

    /// Takes events, reads and writes; whether anything was written.
    fn pump(&mut self, now: Instant) -> bool {
        self.start(now);
        while let Some((id, event)) = self.endpoint.poll_event(now) {
            self.id.get_or_insert(id);
            match event {
                Event::Flow(flow::Event::Established) => self.established = true,
                Event::Flow(flow::Event::DataReceived) => self.read(now),
                Event::Flow(flow::Event::Closed(why)) => self.failure = Some(why.to_string()),
                Event::HopLost(why) => self.failure = Some(format!("{why:?}")),
                _ => {}
            }
        }
        self.sends && self.established && self.write()
    }

    fn read(&mut self, now: Instant) {
        let Some(flow) = self.id.and_then(|id| self.endpoint.flow(id)) else { return };
        while let Some(data) = flow.read() {
            self.meter.add(now, data.len() as u64);
        }
    }

    fn write(&mut self) -> bool {
        let Some(flow) = self.id.and_then(|id| self.endpoint.flow(id)) else { return false };
        let mut wrote = false;
        while flow.is_writable() {
            if self.rest.is_empty() {
                self.rest = self.payload.clone();
            }
            match flow.write_bytes(&mut self.rest) {
                Ok(0) | Err(_) => return wrote,
                Ok(_) => wrote = true,
            }
        }
        wrote
    }
}

impl Flow for CodedNode {
    fn meter(&self) -> &Meter {
        &self.meter
    }

    fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }
}

impl Node for CodedNode {
    fn handle_datagram(&mut self, now: Instant, datagram: Delivery) {
        let path = Path { remote: datagram.source, local: datagram.local };
        let ecn = Ecn::from_bits(datagram.ecn.bits());
        self.endpoint.handle_datagram(now, path, ecn, engine::owned(datagram.data));
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
        let own = engine::coalesce(self.endpoint.poll_timeout(), self.last_train);
        let start = self.dial.as_ref().map(|(_, _, at)| *at);
        [own, start].into_iter().flatten().min()
    }
}
