//! Counters.

use std::time::Duration;

/// Counters of one connection since it was made. See [`Connection::stats`](crate::Connection::stats).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionStats {
    /// Messages accepted for sending and handed to the protocol.
    pub messages_sent: u64,
    /// Messages received.
    pub messages_received: u64,
    /// Bytes given to wires, framing and repetitions included, encryption not.
    pub bytes_sent: u64,
    /// Bytes taken from wires, framing included, encryption not.
    pub bytes_received: u64,
    /// Bytes sent once more after a wire was lost.
    pub bytes_resent: u64,
    /// Messages accepted and not acknowledged.
    pub unacknowledged: u64,
    /// Wires that were lost.
    pub wires_lost: u64,
    /// Dials begun since the connection was made, the first ones included.
    pub dials: u64,
    /// Times that the peer came back without its memory of the session.
    pub resets: u64,
    /// Replies that came after their request's deadline.
    pub late_replies: u64,
    /// Replies to requests that had been answered already.
    pub duplicate_replies: u64,
    /// The smoothed round-trip time as the keep-alive saw it, once it has.
    pub round_trip: Option<Duration>,
}

/// What the I/O threads of a context hold now. See [`Context::stats`](crate::Context::stats).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ContextStats {
    /// Connections that have not ended, with or without a wire, dialing ones included.
    pub connections: usize,
    /// Sockets: of connections, of peers in their handshakes, of dials, and those that linger for their last words.
    pub wires: usize,
    /// Entries in the queues of timers. Some may be out of date; each connection has at most a few.
    pub timers: usize,
}
