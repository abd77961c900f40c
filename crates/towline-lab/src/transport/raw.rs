//! A hop by itself: full datagrams, as many as it takes.

use std::time::Instant;

use bytes::Bytes;
use towline_proto::bats::hop::{Hop, Packet};
use towline_proto::bats::quic_hop::{ALPN, HopConfig, QuicHop};
use towline_proto::quic::EndpointConfig;
use towline_sim::{Delivery, Transmit};

use super::Transport;
use super::quic::QuicNode;
use crate::cell::Cell;
use crate::engine;
use crate::node::Place;

pub(crate) struct RawHop {
    quic: QuicNode,
    hop: QuicHop,
    tag: u64,
}

impl RawHop {
    pub(crate) fn new(cell: &Cell, place: &Place) -> Self {
        let config = HopConfig { control: cell.control(), ..HopConfig::default() };
        let server = place.dials.is_none().then(|| engine::server(config.options(), ALPN));
        let settings = HopConfig::adapt(EndpointConfig::default());
        let endpoint = engine::endpoint(settings, server, place.seed, place.now);
        let dial = place.dials.map(|(to, at)| (engine::client(config.options(), ALPN), to, at));
        let sends = dial.is_some();
        RawHop { quic: QuicNode::new(endpoint, dial), hop: QuicHop::new(sends), tag: 0 }
    }

    fn give(&mut self, now: Instant, data: Bytes) {
        self.hop.send(now, Packet { data, tag: self.tag, urgent: false });
        self.tag += 1;
    }
}

impl Transport for RawHop {
    fn handle_datagram(&mut self, now: Instant, datagram: Delivery) {
        self.quic.handle_datagram(now, datagram);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.quic.endpoint.handle_timeout(now);
    }

    fn poll_transmit(&mut self, now: Instant) -> Option<Transmit> {
        self.quic.poll_transmit(now)
    }

    fn poll_timeout(&mut self) -> Option<Instant> {
        self.quic.poll_timeout(self.hop.poll_timeout())
    }

    fn begin(&mut self, now: Instant) {
        self.quic.start(now);
        while let Some(event) = self.quic.poll_event(now) {
            self.hop.handle_event(event);
        }
        if let Some(mut connection) = self.quic.connection() {
            self.hop.begin(now, &mut connection);
        }
        while self.hop.poll_fate().is_some() {}
    }

    fn finish(&mut self, _now: Instant) {
        if let Some(mut connection) = self.quic.connection() {
            self.hop.finish(&mut connection);
        }
    }

    fn is_open(&self) -> bool {
        self.hop.is_ready()
    }

    fn write(&mut self, now: Instant, data: &Bytes) -> usize {
        if self.hop.room(now) == 0 {
            return 0;
        }
        let size = self.hop.max_packet().min(data.len());
        self.give(now, data.slice(..size));
        size
    }

    fn send(&mut self, now: Instant, message: &Bytes) -> bool {
        let fits = self.hop.room(now) > 0 && message.len() <= self.hop.max_packet();
        if fits {
            self.give(now, message.clone());
        }
        fits
    }

    fn recv(&mut self, _now: Instant) -> Option<Bytes> {
        self.hop.poll_packet()
    }

    fn failure(&self) -> Option<&str> {
        self.quic.failure.as_deref()
    }
}
