//! Errors of the QUIC surface, one type per action.

use std::net::SocketAddr;
use std::sync::Arc;

/// Why a configuration was refused when it was built. The caller's fault; a retry with the same configuration cannot help.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A value outside its range.
    #[error("option `{option}` is {value}, outside {range}: {why}")]
    OutOfRange {
        /// The option's name, as in [`OPTIONS`](super::OPTIONS).
        option: &'static str,
        /// What was given.
        value: String,
        /// What is allowed.
        range: String,
        /// Why the limit stands there.
        why: &'static str,
    },
    /// An option that the engine cannot honour.
    #[error("option `{option}` cannot be honoured: {reason}")]
    Refused {
        /// The option's name.
        option: &'static str,
        /// Why the engine cannot do it.
        reason: &'static str,
    },
    /// No option has this name.
    #[error("no option is called `{0}`")]
    UnknownOption(String),
    /// Two options that contradict each other.
    #[error("option `{option}` contradicts `{other}`: {why}")]
    Conflict {
        /// The option that cannot stand.
        option: &'static str,
        /// The option that it stands against.
        other: &'static str,
        /// Why they exclude each other.
        why: &'static str,
    },
    /// A required option is missing.
    #[error("option `{option}` is required: {why}")]
    Missing {
        /// The option's name.
        option: &'static str,
        /// What needs it.
        why: &'static str,
    },
    /// Certificates, keys or trust anchors that the TLS library refuses.
    #[error("TLS configuration: {0}")]
    Tls(String),
}

/// Why a connection could not be started. Nothing was sent.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The server name is neither a DNS name nor an IP address.
    #[error("`{0}` is not a server name")]
    InvalidServerName(String),
    /// Port 0 or an unspecified address.
    #[error("{0} is not an address to connect to")]
    InvalidRemoteAddress(SocketAddr),
    /// The endpoint's limit `max_connections` is reached; a retry can help later.
    #[error("the endpoint has its {0} connections already")]
    TooManyConnections(usize),
    /// The configuration does not fit the endpoint.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The engine refused for another reason.
    #[error("the engine refused: {0}")]
    Engine(String),
}

/// Why a stream operation did nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// The connection has no such stream (any more), or not in this direction.
    #[error("no such stream, or it is closed in this direction")]
    Closed,
    /// Nothing can be done now; an event tells when to try again.
    #[error("blocked until the peer reads or allows more")]
    Blocked,
    /// The peer gave the stream up with this application code.
    #[error("the peer abandoned the stream with code {0}")]
    Reset(u64),
    /// The peer does not read the stream any more (STOP_SENDING) and gave this application code.
    #[error("the peer stopped reading with code {0}")]
    Stopped(u64),
    /// The peer allows no further stream now and the caller asked not to wait.
    #[error("the peer allows no further stream now")]
    LimitReached,
    /// As many requests for streams wait as the configuration allows (`max_waiting_opens`).
    #[error("too many requests for streams wait already")]
    TooManyWaiting,
    /// More bytes wait in the stream's send queue than the configuration allows (`stream_send_queue`).
    #[error("the stream's send queue is full")]
    QueueFull,
    /// A code above 2^62 - 1.
    #[error("error codes end at 2^62 - 1")]
    CodeTooLarge,
    /// The stream is read actively; its data comes as events.
    #[error("the stream is read actively")]
    Active,
    /// An ordered read after an unordered one.
    #[error("a stream read without order cannot be read in order afterwards")]
    Unordered,
    /// The connection is closed.
    #[error("the connection is closed")]
    ConnectionClosed,
}

/// Why a datagram was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DatagramError {
    /// The peer does not receive datagrams (RFC 9221 section 3), or has not said so yet.
    #[error("the peer does not receive datagrams")]
    Unsupported,
    /// Longer than the path or the peer allows now.
    #[error("{size} bytes, but {limit} is the longest datagram now")]
    TooLarge {
        /// What was given.
        size: usize,
        /// What would fit now.
        limit: usize,
    },
    /// The send queue (`datagram_send_queue`) is full; a `DatagramsUnblocked` event follows.
    #[error("the queue of datagrams is full")]
    QueueFull,
    /// The connection is closed.
    #[error("the connection is closed")]
    ConnectionClosed,
}

/// Why a migration was not started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MigrateError {
    /// Only clients migrate (RFC 9000 section 9).
    #[error("only the client end of a connection can migrate")]
    Server,
    /// The handshake is not confirmed yet (RFC 9000 section 9-2).
    #[error("the handshake is not confirmed yet")]
    TooEarly,
    /// The server forbids it (transport parameter disable_active_migration, RFC 9000 section 18.2).
    #[error("the server forbids migration")]
    Forbidden,
    /// Another migration is still being probed.
    #[error("a migration is under way already")]
    UnderWay,
    /// The local address is of another family than the peer's.
    #[error("the local address and the peer's are of different families")]
    Family,
    /// The connection is closed.
    #[error("the connection is closed")]
    Closed,
}

/// A decision for something that is not (or no longer) waiting for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nothing waits for this decision: it was taken, timed out or went away")]
pub struct TooLate;

/// Why a connection ended, for `TransportShutdown` and for logs.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum CloseReason {
    /// No packet came for the idle timeout.
    IdleTimeout,
    /// The handshake did not finish within `handshake_idle_timeout`.
    HandshakeTimeout,
    /// Packets stayed unacknowledged for `disconnect_timeout`.
    Unreachable,
    /// The peer forgot the connection (stateless reset, RFC 9000 section 10.3).
    StatelessReset,
    /// The peer speaks no version that we speak.
    VersionMismatch,
    /// We found the peer, or the path, at fault: a transport error code of RFC 9000 section 20.1 and its text.
    LocalTransportError {
        /// The code.
        code: u64,
        /// What happened.
        reason: String,
    },
    /// The peer's transport closed the connection (CONNECTION_CLOSE, type 0x1c).
    PeerTransportError {
        /// The code.
        code: u64,
        /// The text that the peer gave.
        reason: String,
    },
    /// A certificate was refused, by the application's verdict or by our verification.
    CertificateRejected {
        /// The TLS alert (RFC 8446 section 6.2).
        alert: u8,
        /// What was wrong.
        reason: Arc<str>,
    },
    /// The peer refused us at its gate (CONNECTION_REFUSED).
    Refused,
}

impl CloseReason {
    /// The transport error code of RFC 9000 section 20.1 that goes with it; 0 where none was sent or received.
    pub fn code(&self) -> u64 {
        match self {
            CloseReason::LocalTransportError { code, .. }
            | CloseReason::PeerTransportError { code, .. } => *code,
            CloseReason::CertificateRejected { alert, .. } => 0x100 + u64::from(*alert),
            CloseReason::Refused => 0x02,
            _ => 0,
        }
    }

    /// A short name in the manner of the owner's status atoms: `connection_idle`, `handshake_failure` and so on.
    pub fn status(&self) -> &'static str {
        match self {
            CloseReason::IdleTimeout => "connection_idle",
            CloseReason::HandshakeTimeout => "connection_timeout",
            CloseReason::Unreachable => "unreachable",
            CloseReason::StatelessReset => "aborted",
            CloseReason::VersionMismatch => "ver_neg_error",
            CloseReason::Refused => "connection_refused",
            CloseReason::CertificateRejected { .. } => "bad_certificate",
            CloseReason::LocalTransportError { code, .. }
            | CloseReason::PeerTransportError { code, .. } => status_of_code(*code),
        }
    }
}

/// Names of transport error codes (RFC 9000 section 20.1, RFC 9001 section 4.8).
fn status_of_code(code: u64) -> &'static str {
    match code {
        0x00 => "no_error",
        0x01 => "internal_error",
        0x02 => "connection_refused",
        0x178 => "alpn_neg_failure",
        0x100..=0x1ff => "tls_error",
        _ => "protocol_error",
    }
}
