//! A hop over one QUIC connection: coded packets as DATAGRAM frames (RFC 9221), control bytes on one stream.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::congestion::Control;
use super::hop::{Fate, Hop, Outcome, Packet, Path};
use crate::quic::{
    AckFrequency, CidConfig, Connection, DatagramOptions, DatagramState, Direction, EndpointConfig,
    Event, OpenFlags, Opened, Options, ReadMode, StreamError, StreamEvent, StreamId,
};

/// The application protocol of a hop (RFC 7301).
pub const ALPN: &[u8] = b"towline-bats/1";

/// Packets that may wait in QUIC: what two trains take, within these.
const QUEUE: (usize, usize) = (4, 256);
const QUEUE_TIME: Duration = Duration::from_millis(2);
/// Packets accepted beyond what the hop wants; more are dropped, and their fate says so.
const MAX_EXCESS: usize = 256;
/// Control bytes that wait for the stream.
const MAX_CONTROL: usize = 256 << 10;
/// While nothing comes back, a packet is tried after each eighth of the time since, within these: acknowledgements are lost in bursts of their own, which only
/// what calls for more of them brings to an end.
const PROBE_EVERY: (Duration, Duration) = (Duration::from_millis(4), Duration::from_millis(100));

/// Beyond one and a half round trips, how long nothing may come back before that.
const PATIENCE: Duration = Duration::from_millis(25);

/// What every hop's connection is set to.
#[derive(Clone, Debug)]
pub struct HopConfig {
    /// The congestion controller.
    pub control: Control,
    /// Packets sent before anything is known of the path, spread over its first round trip. Default 100.
    pub initial_window_packets: u32,
    /// The size of IP packets to begin with, bytes, at least 1,248. Default 1,500: a path that carries less costs a few round trips at its start.
    pub mtu: u16,
    /// After how long without any packet the hop is given up. Default 30 s.
    pub idle_timeout: Duration,
    /// How long sent packets may stay without any acknowledgement before the hop is given up. Default 20 s.
    pub disconnect_timeout: Duration,
}

impl Default for HopConfig {
    fn default() -> Self {
        HopConfig {
            control: Control::default(),
            initial_window_packets: 100,
            mtu: 1_500,
            idle_timeout: Duration::from_secs(30),
            disconnect_timeout: Duration::from_secs(20),
        }
    }
}

impl HopConfig {
    /// The options of a hop's connection, either end.
    pub fn options(&self) -> Options {
        Options {
            congestion_control: self.control.to_quic(),
            initial_window_packets: self.initial_window_packets,
            // The controller knows by itself what a pause means.
            send_idle_timeout: Duration::ZERO,
            // Handshakes meet losses too, and each waits three times this, then twice as long (RFC 9002, section 6.2.2).
            initial_rtt: Duration::from_millis(100),
            minimum_mtu: self.mtu,
            maximum_mtu: self.mtu.max(1_500),
            // Heavy loss looks like a path that has become smaller, now and then.
            mtu_discovery_interval: Duration::from_secs(1),
            idle_timeout: Some(self.idle_timeout),
            keep_alive_interval: Some(self.idle_timeout / 3),
            disconnect_timeout: self.disconnect_timeout,
            datagram_receive: true,
            datagram_states: true,
            datagram_receive_queue: 4 << 20,
            // Loss is the rule here: it must neither call for acknowledgements nor keep them from being late.
            ack_frequency: Some(AckFrequency {
                packets: 64,
                max_delay: Some(Duration::from_millis(2)),
                reordering: 0,
            }),
            streams_available_events: false,
            active: ReadMode::Active,
            ..Options::default()
        }
    }

    /// Adapts an endpoint's settings to hops: short connection ids, since each byte is paid for in every packet.
    pub fn adapt(endpoint: EndpointConfig) -> EndpointConfig {
        EndpointConfig { cid: CidConfig { nonce_len: 4, ..endpoint.cid }, ..endpoint }
    }
}

/// Tags of the packets that were handed to QUIC, by the numbers that it gave them.
#[derive(Debug, Default)]
struct Tags {
    first: u64,
    tags: VecDeque<Option<u64>>,
}

impl Tags {
    fn push(&mut self, id: u64, tag: u64) {
        if self.tags.is_empty() {
            self.first = id;
        }
        let next = self.first + self.tags.len() as u64;
        self.tags.extend((next..id).map(|_| None));
        self.tags.push_back(Some(tag));
    }

    fn take(&mut self, id: u64) -> Option<u64> {
        let index = usize::try_from(id.checked_sub(self.first)?).ok()?;
        let tag = self.tags.get_mut(index)?.take();
        while self.tags.front().is_some_and(Option::is_none) {
            self.tags.pop_front();
            self.first += 1;
        }
        tag
    }
}

/// One hop: a [`Hop`] for the coded engine, and the other side for whoever has the connection.
///
/// It holds what passes between the two, so that an engine can be given two hops of one endpoint: [`begin`](Self::begin) before the engine is driven, [`finish`](Self::finish)
/// afterwards, [`handle_event`](Self::handle_event) for each event of the connection.
#[derive(Debug)]
pub struct QuicHop {
    path: Path,
    max_packet: usize,
    room: usize,
    outgoing: VecDeque<Packet>,
    tags: Tags,
    fates: VecDeque<Fate>,
    packets: VecDeque<Bytes>,
    control_out: VecDeque<u8>,
    control_in: VecDeque<Bytes>,
    stream: Option<StreamId>,
    /// Whether we open the control stream.
    opens: bool,
    /// Nothing more will be written to it, and whether it has been told so.
    ending: bool,
    ended: bool,
    ready: bool,
    probed: Option<Instant>,
    deadline: Option<Instant>,
}

impl QuicHop {
    /// A hop whose connection is not established yet. The end that connects opens the control stream.
    pub fn new(connects: bool) -> Self {
        QuicHop {
            path: Path {
                rtt: Duration::ZERO,
                min_rtt: Duration::ZERO,
                pause: Duration::ZERO,
                loss: 0.0,
                burst: 1.0,
                rate: 0,
            },
            max_packet: 0,
            room: 0,
            outgoing: VecDeque::new(),
            tags: Tags::default(),
            fates: VecDeque::new(),
            packets: VecDeque::new(),
            control_out: VecDeque::new(),
            control_in: VecDeque::new(),
            stream: None,
            opens: connects,
            ending: false,
            ended: false,
            ready: false,
            probed: None,
            deadline: None,
        }
    }

    /// Whether the connection is established, so that packets can be sent.
    pub fn is_ready(&self) -> bool {
        self.ready
    }

    /// Takes what happened on the connection; gives back what does not concern the hop.
    pub fn handle_event(&mut self, event: Event) -> Option<Event> {
        match event {
            Event::Datagram { data, .. } => self.packets.push_back(data),
            Event::DatagramSendState { id, state } => self.on_state(id.as_u64(), state),
            Event::DatagramStateChanged { .. } | Event::DatagramsUnblocked => {}
            Event::NewStream { stream, .. } if self.stream.is_none() => {
                self.stream = Some(stream);
            }
            Event::Stream(stream, event) if self.stream == Some(stream) => {
                return self.on_stream(event).map(|event| Event::Stream(stream, event));
            }
            event @ Event::Connected { .. } => {
                self.ready = true;
                return Some(event);
            }
            other => return Some(other),
        }
        None
    }

    fn on_state(&mut self, id: u64, state: DatagramState) {
        let outcome = match state {
            DatagramState::Sent => return,
            DatagramState::Acknowledged => Outcome::Arrived,
            DatagramState::Lost
            | DatagramState::Expired
            | DatagramState::Canceled
            | DatagramState::Unknown => Outcome::Lost,
        };
        if let Some(tag) = self.tags.take(id) {
            self.fates.push_back(Fate { tag, outcome });
        }
    }

    fn on_stream(&mut self, event: StreamEvent) -> Option<StreamEvent> {
        match event {
            StreamEvent::Data { data, fin, .. } => {
                if !data.is_empty() {
                    self.control_in.push_back(data);
                }
                fin.then_some(StreamEvent::PeerSendShutdown)
            }
            StreamEvent::Writable | StreamEvent::Readable | StreamEvent::SendComplete { .. } => {
                None
            }
            other => Some(other),
        }
    }

    /// Looks at the connection, before the engine is driven.
    pub fn begin(&mut self, now: Instant, connection: &mut Connection<'_>) {
        if !self.ready {
            return;
        }
        self.max_packet = connection.max_datagram().unwrap_or(0);
        self.look(connection);
        self.room = 0;
        if self.max_packet > 0 {
            let worth = self.path.rate as f64 * QUEUE_TIME.as_secs_f64() / self.max_packet as f64;
            let wanted = (worth as usize).clamp(QUEUE.0, QUEUE.1);
            let queued = connection.datagrams_queued().div_ceil(self.max_packet);
            self.room = wanted.saturating_sub(queued).saturating_sub(self.outgoing.len());
        }
        self.probe(now, connection);
    }

    fn look(&mut self, connection: &mut Connection<'_>) {
        if let Some(report) = connection.path_report() {
            self.path = Path {
                rtt: report.last_rtt,
                min_rtt: report.min_rtt,
                pause: report.pause,
                loss: report.loss,
                burst: report.burst,
                rate: report.rate.max(report.pacing / 2),
            };
            return;
        }
        let stats = connection.stats();
        let rtt = stats.rtt.max(Duration::from_micros(1));
        let sent = stats.packets_sent.max(1) as f64;
        self.path = Path {
            rtt,
            min_rtt: if self.path.min_rtt.is_zero() { rtt } else { self.path.min_rtt.min(rtt) },
            pause: Duration::ZERO,
            loss: stats.packets_lost as f64 / sent,
            burst: 1.0,
            rate: (stats.congestion_window as f64 / rtt.as_secs_f64()) as u64,
        };
    }

    /// While nothing comes back, lets a packet out now and then.
    fn probe(&mut self, now: Instant, connection: &mut Connection<'_>) {
        self.deadline = None;
        let Some(since) = connection.silent_since() else {
            self.probed = None;
            return;
        };
        let patience = self.path.rtt + self.path.rtt / 2 + PATIENCE;
        let gap = now.saturating_duration_since(since) / 8;
        let gap = gap.clamp(PROBE_EVERY.0, PROBE_EVERY.1);
        let mut due = self.probed.map_or(since + patience, |last| last + gap);
        if due <= now {
            connection.allow_probe();
            // In case nothing waits that could go.
            connection.ping();
            self.probed = Some(now);
            due = now + gap;
        }
        self.deadline = Some(due);
    }

    /// Hands what the engine left to the connection.
    pub fn finish(&mut self, connection: &mut Connection<'_>) {
        if !self.ready {
            return;
        }
        while let Some(packet) = self.outgoing.pop_front() {
            let options =
                DatagramOptions { priority: u8::from(packet.urgent), ..DatagramOptions::default() };
            match connection.send_datagram(packet.data, options) {
                Ok(id) => self.tags.push(id.as_u64(), packet.tag),
                Err(_) => self.fates.push_back(Fate { tag: packet.tag, outcome: Outcome::Lost }),
            }
        }
        self.write_stream(connection);
    }

    /// Ends the control stream behind what was written; whether there is one, so that its `SendShutdownComplete` will tell of the end.
    pub fn finish_control(&mut self, connection: &mut Connection<'_>) -> bool {
        self.ending = true;
        if self.ready {
            self.write_stream(connection);
        }
        self.ready && self.stream.is_some()
    }

    /// Gives back control bytes that were polled and are another's to read.
    pub fn unread_control(&mut self, data: Bytes) {
        if !data.is_empty() {
            self.control_in.push_front(data);
        }
    }

    /// Adds control bytes as if the neighbour had sent them last.
    pub(super) fn append_control(&mut self, data: Bytes) {
        self.control_in.push_back(data);
    }

    /// Control bytes and packets from the neighbour that nobody has polled.
    pub fn waiting(&self) -> (usize, usize) {
        (self.control_in.iter().map(Bytes::len).sum(), self.packets.len())
    }

    fn write_stream(&mut self, connection: &mut Connection<'_>) {
        if self.control_out.is_empty() && (!self.ending || self.ended) {
            return;
        }
        if self.stream.is_none() && self.opens {
            let opened = connection.open(Direction::Bidirectional, OpenFlags::default());
            if let Ok(Opened::Stream(stream)) = opened {
                self.stream = Some(stream);
                // An own stream begins passive.
                let _ = connection.set_active(stream, ReadMode::Active);
            }
        }
        let Some(stream) = self.stream else { return };
        loop {
            let (chunk, _) = self.control_out.as_slices();
            if chunk.is_empty() {
                if self.ending && !self.ended {
                    self.ended = true;
                    let _over_already = connection.finish(stream);
                }
                return;
            }
            match connection.write(stream, chunk) {
                Ok(written) if written > 0 => drop(self.control_out.drain(..written)),
                Ok(_) | Err(StreamError::Blocked) => return,
                Err(_) => {
                    self.control_out.clear();
                    return;
                }
            }
        }
    }

    /// When the hop wants to be looked at again, beside the connection's own deadlines.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadline
    }
}

impl Hop for QuicHop {
    fn max_packet(&self) -> usize {
        self.max_packet
    }

    fn room(&mut self, _now: Instant) -> usize {
        self.room
    }

    fn send(&mut self, _now: Instant, packet: Packet) {
        let full = self.outgoing.len() >= self.room.saturating_add(MAX_EXCESS);
        if full || packet.data.len() > self.max_packet {
            self.fates.push_back(Fate { tag: packet.tag, outcome: Outcome::Lost });
            return;
        }
        self.room = self.room.saturating_sub(1);
        self.outgoing.push_back(packet);
    }

    fn poll_packet(&mut self) -> Option<Bytes> {
        self.packets.pop_front()
    }

    fn poll_fate(&mut self) -> Option<Fate> {
        self.fates.pop_front()
    }

    fn write_control(&mut self, data: &[u8]) -> usize {
        let taken = data.len().min(MAX_CONTROL.saturating_sub(self.control_out.len()));
        self.control_out.extend(data.iter().take(taken));
        taken
    }

    fn poll_control(&mut self) -> Option<Bytes> {
        self.control_in.pop_front()
    }

    fn path(&self) -> Path {
        self.path
    }
}
