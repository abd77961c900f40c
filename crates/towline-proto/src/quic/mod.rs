//! QUIC (RFC 9000) for those who want QUIC itself, and for Towline's sessions over it: an [`Endpoint`] without socket, clock or thread.
//!
//! The engine below is `noq-proto`, unmodified, and no type of it shows here. What the owner's contract asks for beyond it is reached through the engine's own seams:
//! its cryptographic session ([`crypto`](self) over rustls), its packet keys, its congestion controller, its connection id generator. `docs/quic.md` lists every event
//! and option, and how each is done.
//!
//! The rule of use: put datagrams in, then take events and transmits out until both give nothing, then sleep until the deadline.
//!
//! ```text
//! datagrams ──> handle_datagram ─┐                 ┌─> poll_event     ──> application
//! timer     ──> handle_timeout  ─┼─> connections ──┼─> poll_transmit  ──> socket
//! commands  ──> connection(id)  ─┘                 └─> poll_timeout   ──> timer
//! ```

mod cid;
mod clock;
mod config;
mod congestion;
mod connection;
mod crypto;
mod endpoint;
mod error;
mod event;
mod frames;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod observe;
mod qlog;
mod stats;
mod stream_hash;
mod ticket;
mod types;

pub use cid::{CidConfig, CidReader};
pub use config::{
    AckFrequency, Cipher, ClientConfig, ClientSettings, ClientVerification, CongestionControl,
    ConnectParams, EndpointConfig, Identity, KeyLog, MAX_TICKET_DATA, OPTIONS, OptionKind,
    OptionSpec, Options, Provider, ReadMode, Resumption, RetryPolicy, STREAM_OPTIONS, ServerConfig,
    ServerSettings, ServerVerification,
};
pub use congestion::{
    AckedPacket, CongestionController, CongestionFactory, CongestionSignal, PathReport,
};
pub use connection::{Chunk, Connection, DatagramOptions, OpenFlags, Opened, SendOptions};
pub use crypto::Verdict;
pub use endpoint::Endpoint;
pub use error::{
    CloseReason, ConfigError, ConnectError, DatagramError, MigrateError, StreamError, TooLate,
};
pub use event::{
    Acceptance, DatagramState, Decision, EarlyData, EndpointEvent, Event, Incoming, StreamEvent,
};
pub use qlog::QlogSink;
pub use stats::{ConnectionStats, EndpointStats};
pub use stream_hash::{StreamHash, StreamHasher};
pub use ticket::Ticket;
pub use types::{
    ConnectionId, DatagramId, Direction, Ecn, IncomingId, LocalAddress, OpenRequest, Path, SendId,
    Side, StreamId, Transmit,
};
