//! QUIC itself: streams, datagrams, resumption and migration with any QUIC peer, by futures or by a handler with one method per event.
//!
//! For Towline's messages over QUIC, connect to a `quic://` address with [`towline::Endpoint`](crate::Endpoint) instead.
//!
//! - [`Endpoint`] connects and listens; configurations are [`ClientConfig`] and [`ServerConfig`], every option is in [`Options`], and
//!   `docs/quic.md` has them in a table.
//! - [`Connection`] is the handle for any thread: streams ([`SendStream`], [`RecvStream`]) and datagrams as futures that need no runtime.
//! - [`Handler`] hears every event on the connection's I/O thread, where [`Active`] does everything at once and without a queue between.

mod active;
mod connection;
mod endpoint;
mod error;
mod files;
mod handler;
mod stream;
mod wire;

pub use towline_proto::quic::{
    Acceptance, AckFrequency, AckedPacket, Chunk, CidConfig, CidReader, Cipher, ClientConfig,
    ClientSettings, ClientVerification, CongestionControl, CongestionController, CongestionFactory,
    CongestionSignal, ConnectParams, ConnectionStats, DatagramId, DatagramOptions, DatagramState,
    Decision, Direction, EarlyData, EndpointConfig, EndpointStats, Identity, Incoming, KeyLog,
    OPTIONS, OpenFlags, OpenRequest, Opened, OptionKind, OptionSpec, Options, Provider, QlogSink,
    ReadMode, Resumption, RetryPolicy, STREAM_OPTIONS, SendId, SendOptions, ServerConfig,
    ServerSettings, ServerVerification, Side, StreamId, Ticket, Verdict,
};

pub use self::active::Active;
pub use self::connection::{Connecting, Connection, MigrateFailed};
pub use self::endpoint::{Endpoint, Listener, ThreadStats};
pub use self::error::{
    CloseReason, ConfigError, ConnectError, DatagramError, DatagramIoError, Ended, IoError,
    ListenError, MigrateError, StartError, StreamError, TooLate,
};
pub use self::files::{
    FileError, KeyLogFile, QlogDirectory, certificates, certificates_file, identity_files,
    identity_pkcs12,
};
pub use self::handler::{Acceptor, Closed, Connected, Handler, NewStream};
pub use self::stream::{RecvStream, SendStream};
pub use self::wire::{client_config, server_config};
pub use crate::runtime::PortStats;

/// Runs a future on this thread until it is done: the blocking twin of every future here, for programs without a runtime. Not for handlers.
pub fn block_on<F: Future>(future: F) -> F::Output {
    crate::waiter::block_on(future)
}

pub(crate) use self::connection::{Answer, DATAGRAM_INBOX, NOWHERE, Op, Phase, Shared};
pub(crate) use self::endpoint::{EndpointShared, HANDOVER, ListenerShared};
pub(crate) use self::stream::{READ_AHEAD, ReadEnd, SEND_AHEAD, StreamShared, WriteEnd};
pub(crate) use self::wire::{QuicWire, WireConfigs, agreed};
