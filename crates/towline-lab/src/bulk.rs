//! The baseline: QUIC streams, one after the other and several at a time, with a controller of the engine's.

use std::time::{Duration, Instant};

use bytes::Bytes;
use towline_proto::bats::congestion::Control;
use towline_proto::quic::{
    Direction, EndpointConfig, Event, OpenFlags, Opened, Options, ReadMode, SendOptions,
    StreamEvent,
};
use towline_sim::{Delivery, Node, Transmit};

use crate::cell::Cell;
use crate::engine;
use crate::flow::{Flow, Place};
use crate::quic_node::QuicNode;
use crate::report::Meter;

const ALPN: &[u8] = b"towline-lab";
/// Bytes per stream: as much as one stream may have under way without the receiver giving up on its gaps.
const STREAM: usize = 512 << 10;
/// Streams under way at a time: 32 MiB, more than 1 Gb/s has in flight over 200 ms.
const STREAMS: usize = 64;

pub(crate) struct BulkNode {
    quic: QuicNode,
    sends: bool,
    connected: bool,
    open: usize,
    meter: Meter,
    payload: Bytes,
}

fn options(control: Control) -> Options {
    Options {
        congestion_control: control.to_quic(),
        stream_recv_window: 700_000,
        conn_flow_control_window: 64 << 20,
        send_window: 64 << 20,
        stream_send_queue: STREAM,
        peer_unidi_stream_count: 2 * STREAMS as u64,
        minimum_mtu: 1_500,
        send_idle_timeout: Duration::ZERO,
        active: ReadMode::Active,
        ..Options::default()
    }
}

impl BulkNode {
    /// One end of a flow.
    pub(crate) fn new(cell: &Cell, control: Control, place: &Place) -> Self {
        let server = place.dials.is_none().then(|| engine::server(options(control), ALPN));
        let endpoint = engine::endpoint(EndpointConfig::default(), server, place.seed, place.now);
        let dial = place.dials.map(|(to, at)| (engine::client(options(control), ALPN), to, at));
        BulkNode {
            sends: dial.is_some(),
            quic: QuicNode::new(endpoint, dial),
            connected: false,
            open: 0,
            meter: Meter::new(place.now, cell.warmup),
            payload: Bytes::from(vec![0x5a; STREAM]),
        }
    }

    fn pump(&mut self, now: Instant) -> bool {
        self.quic.start(now);
        while let Some(event) = self.quic.poll_event(now) {
            match event {
                Event::Connected { .. } => self.connected = true,
                Event::Stream(_, StreamEvent::Data { data, .. }) => {
                    self.meter.add(now, data.len() as u64);
                }
                Event::Stream(_, StreamEvent::SendShutdownComplete { .. }) => {
                    self.open = self.open.saturating_sub(1);
                }
                _ => {}
            }
        }
        let mut moved = false;
        while self.sends && self.connected && self.open < STREAMS {
            let payload = self.payload.clone();
            let Some(mut connection) = self.quic.connection() else { break };
            let flags = OpenFlags::default();
            let Ok(Opened::Stream(stream)) = connection.open(Direction::Unidirectional, flags)
            else {
                break;
            };
            let options = SendOptions { fin: true, allow_early: false, notify: false };
            if connection.send(stream, payload, options).is_err() {
                break;
            }
            self.open += 1;
            moved = true;
        }
        moved
    }
}

impl Flow for BulkNode {
    fn meter(&self) -> &Meter {
        &self.meter
    }

    fn failure(&self) -> Option<&str> {
        self.quic.failure.as_deref()
    }
}

impl Node for BulkNode {
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
        self.quic.poll_timeout(None)
    }
}
