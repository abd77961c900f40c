//! A hop by itself: full datagrams, as many as it takes.

use std::time::Instant;

use bytes::Bytes;
use towline_proto::bats::hop::{Hop, Packet};
use towline_proto::bats::quic_hop::{ALPN, HopConfig, QuicHop};
use towline_proto::quic::{Connection, EndpointConfig, Event};

use super::quic::{Carrier, OverQuic, QuicNode};
use crate::cell::Cell;
use crate::engine;
use crate::node::Place;

pub(crate) struct RawHop {
    hop: QuicHop,
    tag: u64,
}

impl RawHop {
    pub(crate) fn end(cell: &Cell, place: &Place) -> OverQuic<Self> {
        let config = HopConfig { control: cell.control(), ..HopConfig::default() };
        let server = place.dials.is_none().then(|| engine::server(config.options(), ALPN));
        let settings = HopConfig::adapt(EndpointConfig::default());
        let endpoint = engine::endpoint(settings, server, place.seed, place.now);
        let dial = place.dials.map(|(to, at)| (engine::client(config.options(), ALPN), to, at));
        let hop = QuicHop::new(dial.is_some());
        OverQuic::new(QuicNode::new(endpoint, dial), RawHop { hop, tag: 0 })
    }

    fn give(&mut self, now: Instant, data: Bytes) {
        self.hop.send(now, Packet { data, tag: self.tag, urgent: false });
        self.tag += 1;
    }
}

impl Carrier for RawHop {
    fn on_event(&mut self, event: Event) {
        self.hop.handle_event(event);
    }

    fn begin(&mut self, now: Instant, mut connection: Connection<'_>) {
        self.hop.begin(now, &mut connection);
        while self.hop.poll_fate().is_some() {}
    }

    fn finish(&mut self, mut connection: Connection<'_>) {
        self.hop.finish(&mut connection);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.hop.poll_timeout()
    }

    fn is_open(&self) -> bool {
        self.hop.is_ready()
    }

    fn write(&mut self, now: Instant, data: &Bytes, _: Option<Connection<'_>>) -> usize {
        if self.hop.room(now) == 0 {
            return 0;
        }
        let size = self.hop.max_packet().min(data.len());
        self.give(now, data.slice(..size));
        size
    }

    fn send(&mut self, now: Instant, message: &Bytes, _: Option<Connection<'_>>) -> bool {
        let fits = self.hop.room(now) > 0 && message.len() <= self.hop.max_packet();
        if fits {
            self.give(now, message.clone());
        }
        fits
    }

    fn recv(&mut self) -> Option<Bytes> {
        self.hop.poll_packet()
    }
}
