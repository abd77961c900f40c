//! The options of a connection and its streams, as typed fields.

use std::sync::Arc;
use std::time::Duration;

use crate::quic::congestion::CongestionFactory;

/// Which congestion controller a connection uses.
#[derive(Clone, Debug, Default)]
pub enum CongestionControl {
    /// CUBIC (RFC 9438). Number 0 by name.
    #[default]
    Cubic,
    /// BBR version 3. Number 1 by name. Measured far from full where the queue is shallow: see `docs/quic.md`.
    Bbr3,
    /// NewReno (RFC 9002 section 7). Number 2 by name.
    NewReno,
    /// The application's own.
    Custom(Arc<dyn CongestionFactory>),
}

/// What a server lets clients resume (`server_resumption_level`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resumption {
    /// No tickets. Number 0 by name.
    #[default]
    None,
    /// Tickets. Number 1.
    Resume,
    /// Tickets that allow 0-RTT data, each taken once (RFC 8446 section 8.1). Number 2.
    ResumeAndEarlyData,
}

/// How a stream's incoming bytes reach the application (`active`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadMode {
    /// As `StreamEvent::Data`, without end.
    Active,
    /// On `Connection::read`; `StreamEvent::Readable` tells when.
    Passive,
    /// One `StreamEvent::Data`, then passive.
    Once,
    /// This many `StreamEvent::Data`, then `StreamEvent::Passive`. Given again, it adds to what is left; at 0 or less the stream is passive at once.
    Count(i16),
}

/// What we ask of the peer's acknowledgements (draft-ietf-quic-ack-frequency-04), if it knows the extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AckFrequency {
    /// Packets that may come without an acknowledgement. Default 20.
    pub packets: u32,
    /// The longest an acknowledgement may wait; `None` leaves the peer's own 25 ms.
    pub max_delay: Option<Duration>,
    /// Packets out of order that call for an acknowledgement at once. Default 2.
    pub reordering: u32,
}

impl Default for AckFrequency {
    fn default() -> Self {
        Self { packets: 20, max_delay: None, reordering: 2 }
    }
}

/// Every option of a connection and its streams that can be honoured.
///
/// Names follow the owner's contract; `OPTIONS` lists them all, also those that are refused and why. [`Options::set`] takes them by that name and in its units.
#[derive(Clone, Debug)]
pub struct Options {
    /// Pause the handshake at the peer's certificate and ask the application. A server then asks clients for a certificate. Default false.
    pub custom_verify: bool,
    /// How long the application may take for its verdict before the handshake fails. Default 5 s.
    pub verdict_timeout: Duration,
    /// How long a handshake may take. Default 10 s.
    pub handshake_idle_timeout: Duration,
    /// How long nothing may come before the connection ends; the smaller of both ends' counts (RFC 9000 section 10.1). `None` is for ever. Default 30 s.
    pub idle_timeout: Option<Duration>,
    /// How long sent packets may stay without any acknowledgement before the connection ends. Default 16 s.
    pub disconnect_timeout: Duration,
    /// After how long without traffic a PING keeps the connection alive. `None` never. Default none.
    pub keep_alive_interval: Option<Duration>,
    /// 1-RTT packets without encryption and header protection, if the peer wants it too (transport parameter 0xBAAD). Anyone on the path can read and change the traffic.
    /// Default false.
    pub disable_1rtt_encryption: bool,
    /// Bytes sent under one key before it is updated (RFC 9001 section 6). Default 274,877,906,944. The engine updates earlier when it sees fit.
    pub max_bytes_per_key: u64,
    /// Bytes that the peer may send on a stream ahead of what was read. Default 768,000: the engine ends a connection whose stream holds
    /// more than 1,024 runs of bytes apart, and behind a lost packet each packet is one, so the window may not hold more; see `risk_gap_overflow`.
    pub stream_recv_window: u64,
    /// Bytes that the peer may send on all streams ahead of what was read. Default 16 MiB.
    pub conn_flow_control_window: u64,
    /// Bytes sent and not yet acknowledged, at most. Default 8 MiB.
    pub send_window: u64,
    /// Allow a larger `stream_recv_window` than is safe: on a path that loses packets the engine may then end the connection. For paths that do not, such as within one machine
    /// or one rack. Default false.
    pub risk_gap_overflow: bool,
    /// The congestion window at the start, packets. Default 10.
    pub initial_window_packets: u32,
    /// After how long without sending the congestion controller starts afresh. Default 1 s.
    pub send_idle_timeout: Duration,
    /// The round trip time assumed before the first sample. Default 333 ms.
    pub initial_rtt: Duration,
    /// The congestion controller. Default CUBIC.
    pub congestion_control: CongestionControl,
    /// Spread packets over the round trip. Default true.
    pub pacing: bool,
    /// No faster than this, bytes per second. Default none.
    pub max_send_rate: Option<u64>,
    /// Bidirectional streams that the peer may have open. Default 100.
    pub peer_bidi_stream_count: u64,
    /// Unidirectional streams that the peer may have open. Default 100.
    pub peer_unidi_stream_count: u64,
    /// Allow the client to change its address (server). Default true.
    pub migration: bool,
    /// Take datagrams. Default false.
    pub datagram_receive: bool,
    /// Bytes of received datagrams that wait to be polled; the oldest are dropped beyond. Default 1 MiB.
    pub datagram_receive_queue: usize,
    /// Bytes of datagrams that wait to be sent. Default 1 MiB.
    pub datagram_send_queue: usize,
    /// Tell what became of each datagram. Costs a look into each sent packet. Default false.
    pub datagram_states: bool,
    /// What a server lets clients resume. Default none.
    pub server_resumption_level: Resumption,
    /// The IP packet size to start with, bytes: 1,248 at least, for QUIC's 1,200 within IPv6 and UDP headers. Default 1,248.
    pub minimum_mtu: u16,
    /// The IP packet size to search up to. Default 1,500.
    pub maximum_mtu: u16,
    /// After how long the search is repeated. Default 600 s.
    pub mtu_discovery_interval: Duration,
    /// Trains sent for one connection before the next one has its turn. Default 16.
    pub max_operations_per_drain: u8,
    /// Report tickets (`quic_event_mask` bit 0). Default false: they go to the configuration's cache either way.
    pub nst_events: bool,
    /// Report `StreamsAvailable` (inverse of `quic_event_mask` bit 1). Default true.
    pub streams_available_events: bool,
    /// Mark packets as ECN-capable and report marks back (RFC 9000 section 13.4). Default true.
    pub ecn: bool,
    /// What to ask of the peer's acknowledgements. Default nothing.
    pub ack_frequency: Option<AckFrequency>,
    /// Streams of one priority take turns; else first come, first served. Default true.
    pub send_fairness: bool,
    /// Pad packets with application data to full size, against traffic analysis. Default false.
    pub pad_to_mtu: bool,
    /// How streams that the peer opens are read. Default passive.
    pub active: ReadMode,
    /// The longest `StreamEvent::Data`, bytes. Default 64 KiB.
    pub max_chunk: usize,
    /// Bytes that may wait in one stream's send queue. Default 1 MiB.
    pub stream_send_queue: usize,
    /// Requests for streams that may wait for the peer's limit. Default 1,024.
    pub max_waiting_opens: usize,
    /// A qlog trace of each connection. Default none; refused in a program that is built without the Cargo feature `qlog`.
    pub qlog: Option<Arc<dyn crate::quic::QlogSink>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            custom_verify: false,
            verdict_timeout: Duration::from_secs(5),
            handshake_idle_timeout: Duration::from_secs(10),
            idle_timeout: Some(Duration::from_secs(30)),
            disconnect_timeout: Duration::from_secs(16),
            keep_alive_interval: None,
            disable_1rtt_encryption: false,
            max_bytes_per_key: 274_877_906_944,
            stream_recv_window: 768_000,
            conn_flow_control_window: 16 << 20,
            send_window: 8 << 20,
            risk_gap_overflow: false,
            initial_window_packets: 10,
            send_idle_timeout: Duration::from_secs(1),
            initial_rtt: Duration::from_millis(333),
            congestion_control: CongestionControl::Cubic,
            pacing: true,
            max_send_rate: None,
            peer_bidi_stream_count: 100,
            peer_unidi_stream_count: 100,
            migration: true,
            datagram_receive: false,
            datagram_receive_queue: 1 << 20,
            datagram_send_queue: 1 << 20,
            datagram_states: false,
            server_resumption_level: Resumption::None,
            minimum_mtu: 1_248,
            maximum_mtu: 1_500,
            mtu_discovery_interval: Duration::from_secs(600),
            max_operations_per_drain: 16,
            nst_events: false,
            streams_available_events: true,
            ecn: true,
            ack_frequency: None,
            send_fairness: true,
            pad_to_mtu: false,
            active: ReadMode::Passive,
            max_chunk: 64 << 10,
            stream_send_queue: 1 << 20,
            max_waiting_opens: 1_024,
            qlog: None,
        }
    }
}

impl Options {
    /// The most bytes that one connection's buffers can come to with these options: what the peer may send ahead, what we may have in flight and queued, datagrams both ways,
    /// and handshake data.
    pub fn memory_bound(&self) -> u64 {
        const HANDSHAKE: u64 = 3 * super::build::CRYPTO_BUFFER as u64;
        self.conn_flow_control_window
            .saturating_add(self.send_window)
            .saturating_add(self.datagram_receive_queue as u64)
            .saturating_add(self.datagram_send_queue as u64)
            .saturating_add(HANDSHAKE)
    }
}
