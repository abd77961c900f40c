//! A hop by itself: full datagrams, as many as it takes.

use std::time::Instant;

use bytes::Bytes;
use towline_proto::bats::hop::{Hop, Packet};
use towline_proto::bats::quic_hop::{ALPN, HopConfig, QuicHop};
use towline_proto::quic::EndpointConfig;
use towline_sim::{Delivery, Node, Transmit};

use crate::cell::Cell;
use crate::engine;
use crate::flow::{Flow, Place};
use crate::quic_node::QuicNode;
use crate::report::Meter;

pub(crate) struct RawNode {
    quic: QuicNode,
    hop: QuicHop,
    sends: bool,
    meter: Meter,
    tag: u64,
    payload: Bytes,
}

impl RawNode {
    /// One end of a flow of a cell.
    pub(crate) fn new(cell: &Cell, place: &Place) -> Self {
        let config = HopConfig { control: cell.control, ..HopConfig::default() };
        let server = place.dials.is_none().then(|| engine::server(config.options(), ALPN));
        let settings = HopConfig::adapt(EndpointConfig::default());
        let endpoint = engine::endpoint(settings, server, place.seed, place.now);
        let dial = place.dials.map(|(to, at)| (engine::client(config.options(), ALPN), to, at));
        let sends = dial.is_some();
        RawNode {
            quic: QuicNode::new(endpoint, dial),
            hop: QuicHop::new(sends),
            sends,
            meter: Meter::new(place.now, cell.warmup),
            tag: 0,
            payload: Bytes::from(vec![0x5a; 1_500]),
        }
    }

    /// Moves events, packets and fates; whether there is something to send now.
    fn pump(&mut self, now: Instant) -> bool {
        self.quic.start(now);
        while let Some(event) = self.quic.poll_event(now) {
            self.hop.handle_event(event);
        }
        let Some(mut connection) = self.quic.connection() else { return false };
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

impl Flow for RawNode {
    fn meter(&self) -> &Meter {
        &self.meter
    }

    fn failure(&self) -> Option<&str> {
        self.quic.failure.as_deref()
    }
}

impl Node for RawNode {
    fn handle_datagram(&mut self, now: Instant, datagram: Delivery) {
        self.quic.handle_datagram(now, datagram);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.quic.endpoint.handle_timeout(now);
    }

    fn poll_transmit(&mut self, now: Instant) -> Option<Transmit> {
        loop {
            if let Some(transmit) = self.quic.poll_transmit(now) {
                return Some(transmit);
            }
            if !self.pump(now) {
                return None;
            }
        }
    }

    fn poll_timeout(&mut self) -> Option<Instant> {
        self.quic.poll_timeout(self.hop.poll_timeout())
    }
}
