//! The baseline: QUIC streams with a controller of the engine's. Bulk goes in several streams at a time, each message in one of its own.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use towline_proto::bats::congestion::Control;
use towline_proto::quic::{
    Connection, Direction, EndpointConfig, Event, OpenFlags, Opened, Options, ReadMode,
    SendOptions, StreamEvent, StreamId,
};

use super::quic::{Carrier, OverQuic, QuicNode};
use crate::cell::Cell;
use crate::engine;
use crate::node::Place;

const ALPN: &[u8] = b"towline-lab";
/// Bytes per stream: as much as one stream may have under way without the receiver giving up on its gaps.
const STREAM: usize = 512 << 10;
/// Streams under way at a time: 32 MiB, more than 1 Gb/s has in flight over 200 ms.
const STREAMS: usize = 64;
/// The same for messages.
const MESSAGES: usize = 4096;

pub(crate) struct QuicStreams {
    connected: bool,
    /// Streams that the peer has not acknowledged.
    open: usize,
    /// Messages whose end has not come.
    partial: HashMap<StreamId, BytesMut>,
    received: VecDeque<Bytes>,
    /// Whether streams are messages.
    messages: bool,
}

fn options(control: Control) -> Options {
    Options {
        congestion_control: control.to_quic(),
        stream_recv_window: 700_000,
        conn_flow_control_window: 64 << 20,
        send_window: 64 << 20,
        stream_send_queue: STREAM,
        peer_unidi_stream_count: 2 * MESSAGES as u64,
        minimum_mtu: 1_500,
        send_idle_timeout: Duration::ZERO,
        active: ReadMode::Active,
        ..Options::default()
    }
}

impl QuicStreams {
    pub(crate) fn end(control: Control, cell: &Cell, place: &Place) -> OverQuic<Self> {
        let server = place.dials.is_none().then(|| engine::server(options(control), ALPN));
        let endpoint = engine::endpoint(EndpointConfig::default(), server, place.seed, place.now);
        let dial = place.dials.map(|(to, at)| (engine::client(options(control), ALPN), to, at));
        let streams = QuicStreams {
            connected: false,
            open: 0,
            partial: HashMap::new(),
            received: VecDeque::new(),
            messages: cell.load.messages().is_some(),
        };
        OverQuic::new(QuicNode::new(endpoint, dial), streams)
    }

    fn on_stream(&mut self, stream: StreamId, event: StreamEvent) {
        match event {
            StreamEvent::Data { data, .. } if !self.messages => self.received.push_back(data),
            StreamEvent::Data { data, fin, .. } => {
                let mut whole = self.partial.remove(&stream).unwrap_or_default();
                whole.extend_from_slice(&data);
                if fin {
                    self.received.push_back(whole.freeze());
                } else {
                    self.partial.insert(stream, whole);
                }
            }
            StreamEvent::SendShutdownComplete { .. } => self.open = self.open.saturating_sub(1),
            _ => {}
        }
    }

    /// Sends something in a stream of its own.
    fn put(&mut self, data: Bytes, most: usize, connection: Option<Connection<'_>>) -> bool {
        if !self.connected || self.open >= most {
            return false;
        }
        let Some(mut connection) = connection else { return false };
        let flags = OpenFlags::default();
        let Ok(Opened::Stream(stream)) = connection.open(Direction::Unidirectional, flags) else {
            return false;
        };
        let options = SendOptions { fin: true, allow_early: false, notify: false };
        let sent = connection.send(stream, data, options).is_ok();
        self.open += usize::from(sent);
        sent
    }
}

impl Carrier for QuicStreams {
    fn on_event(&mut self, event: Event) {
        match event {
            Event::Connected { .. } => self.connected = true,
            Event::Stream(stream, event) => self.on_stream(stream, event),
            _ => {}
        }
    }

    fn is_open(&self) -> bool {
        self.connected
    }

    fn write(&mut self, _: Instant, data: &Bytes, connection: Option<Connection<'_>>) -> usize {
        let data = data.slice(..data.len().min(STREAM));
        let length = data.len();
        if self.put(data, STREAMS, connection) { length } else { 0 }
    }

    fn send(&mut self, _: Instant, message: &Bytes, connection: Option<Connection<'_>>) -> bool {
        self.put(message.clone(), MESSAGES, connection)
    }

    fn recv(&mut self) -> Option<Bytes> {
        self.received.pop_front()
    }
}
