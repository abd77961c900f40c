//! Counters: what went through, and every refusal with its reason.

use std::time::Duration;

/// Counters of an endpoint, from its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EndpointStats {
    /// Datagrams that came.
    pub datagrams_received: u64,
    /// Their bytes.
    pub bytes_received: u64,
    /// Datagrams sent.
    pub datagrams_sent: u64,
    /// Their bytes.
    pub bytes_sent: u64,
    /// Trains sent: calls of `poll_transmit` that gave something.
    pub trains_sent: u64,
    /// Connections that were asked for by clients and accepted.
    pub accepted: u64,
    /// Connections started by us.
    pub connected: u64,
    /// Requests refused by the application.
    pub refused: u64,
    /// Requests refused because `max_connections` was reached.
    pub refused_connections: u64,
    /// Requests ignored because `max_handshakes` was reached.
    pub ignored_handshakes: u64,
    /// Requests ignored because `max_incoming` waited for a decision.
    pub ignored_incoming: u64,
    /// Requests ignored by the application.
    pub ignored: u64,
    /// Requests that got no decision in time, or whose ClientHello never came whole.
    pub gate_timeouts: u64,
    /// Retry packets sent, by the application's decision or under pressure.
    pub retries: u64,
    /// Answers without a connection that were sent: version negotiation, Retry, refusal, stateless reset.
    pub stateless_sent: u64,
    /// Such answers that were not sent: over `max_stateless_operations`, or the address had one already.
    pub stateless_dropped: u64,
    /// Handshakes that ended at `handshake_idle_timeout`.
    pub handshake_timeouts: u64,
    /// Connections that ended at `disconnect_timeout`.
    pub disconnect_timeouts: u64,
    /// Connections open now, both kinds.
    pub connections: u64,
    /// Handshakes of clients going on now.
    pub handshakes: u64,
    /// Requests waiting for a decision now.
    pub incoming: u64,
    /// Datagrams for connections that are gone.
    pub stale: u64,
}

/// What is known of one connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionStats {
    /// The smoothed round trip time.
    pub rtt: Duration,
    /// The congestion window, bytes.
    pub congestion_window: u64,
    /// The controller's estimate of the path's bandwidth, bits per second, if it makes one.
    pub bandwidth: Option<u64>,
    /// The largest UDP payload that the path is known to carry.
    pub mtu: u16,
    /// Datagrams sent.
    pub datagrams_sent: u64,
    /// Their bytes.
    pub bytes_sent: u64,
    /// Datagrams that came.
    pub datagrams_received: u64,
    /// Their bytes.
    pub bytes_received: u64,
    /// Packets sent that are tracked for acknowledgement.
    pub packets_sent: u64,
    /// Packets thought lost, with path MTU probes.
    pub packets_lost: u64,
    /// Bytes thought lost.
    pub bytes_lost: u64,
    /// Congestion events: losses or marks that the controller was told of.
    pub congestion_events: u64,
    /// Congestion events that turned out to be none.
    pub spurious_congestion_events: u64,
    /// Times the path was found to carry less than believed.
    pub black_holes: u64,
    /// Acknowledgements sent.
    pub acks_sent: u64,
    /// Acknowledgements that came.
    pub acks_received: u64,
    /// STREAM frames sent.
    pub stream_frames_sent: u64,
    /// STREAM frames that came.
    pub stream_frames_received: u64,
    /// DATAGRAM frames sent.
    pub datagram_frames_sent: u64,
    /// DATAGRAM frames that came.
    pub datagram_frames_received: u64,
    /// STREAMS_BLOCKED frames that came.
    pub streams_blocked_received: u64,
    /// PATH_CHALLENGE frames that came.
    pub path_challenges_received: u64,
    /// Key updates that we began.
    pub key_updates: u64,
    /// Datagrams that were given and expired, or did not fit any more, before they were sent.
    pub datagrams_expired: u64,
}
