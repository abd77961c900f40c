//! Errors: one enum per action. Each says whose fault it is, whether trying again can help, and what to do.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::address::Wire;
use crate::message::Message;
use crate::tls;

/// Whose fault an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// The calling program asked for something that cannot be.
    Caller,
    /// The peer, or its operator.
    Peer,
    /// The network in between.
    Network,
    /// This machine: its limits, files or memory.
    Local,
}

/// An address that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// There is no `://`.
    #[error(
        "`{url}` has no scheme; write it as `tcp://host:port` (schemes: tcp, tls, quic, bats, udp, ws, wss, ftcp, ftcps)"
    )]
    NoScheme {
        /// What was given.
        url: Box<str>,
    },
    /// The scheme names no wire of this library.
    #[error(
        "unknown scheme `{scheme}`; the schemes are tcp, tls, quic, bats, udp, ws, wss, ftcp and ftcps"
    )]
    UnknownScheme {
        /// The scheme.
        scheme: Box<str>,
    },
    /// The wire exists and was left out of this build.
    #[error("{wire}:// is not in this build; enable the Cargo feature `{feature}`")]
    NotBuilt {
        /// The wire.
        wire: Wire,
        /// The feature of the crate `towline`.
        feature: &'static str,
    },
    /// There is no host between `://` and the port.
    #[error("`{url}` names no host")]
    NoHost {
        /// What was given.
        url: Box<str>,
    },
    /// The host is not a name or an address.
    #[error(
        "`{host}` in `{url}` is no host; write IPv6 addresses in brackets, as in `tcp://[::1]:7000`"
    )]
    BadHost {
        /// What was given.
        url: Box<str>,
        /// The part that was taken for the host.
        host: Box<str>,
    },
    /// There is no port.
    #[error("`{url}` has no port; add one, as in `tcp://host:7000`")]
    NoPort {
        /// What was given.
        url: Box<str>,
    },
    /// The port is not a number from 0 to 65535.
    #[error(
        "`{port}` in `{url}` is no port; ports are numbers from 1 to 65535 (0 to listen on any)"
    )]
    BadPort {
        /// What was given.
        url: Box<str>,
        /// The part that was taken for the port.
        port: Box<str>,
    },
    /// Something that this wire's addresses do not have: a path, a query, a user.
    #[error("`{part}` in `{url}` means nothing on this wire; take it out")]
    Unexpected {
        /// What was given.
        url: Box<str>,
        /// What is too much.
        part: Box<str>,
    },
    /// An option in the query of a `bats` address.
    #[error("`{option}{equals}{value}` in `{url}` is to be {expected}", equals = if value.is_empty() { "" } else { "=" })]
    BadOption {
        /// What was given.
        url: Box<str>,
        /// The option's name.
        option: Box<str>,
        /// Its value, as far as it matters.
        value: Box<str>,
        /// What it may be.
        expected: &'static str,
    },
    /// A listener has one address.
    #[error("a listener listens on one address; start one for each")]
    Several,
    /// The list of addresses is empty.
    #[error("no address was given")]
    Empty,
}

/// A configuration that cannot be honoured.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A value outside of its range.
    #[error("option `{option}` is {value}; it must be {range}")]
    OutOfRange {
        /// The option's name, as the builder spells it.
        option: &'static str,
        /// The value that was given.
        value: String,
        /// What is allowed.
        range: &'static str,
    },
    /// Certificates, keys, trust or other parts of TLS.
    #[error("{0}")]
    Tls(#[from] Arc<tls::Error>),
}

/// Why a wire was lost, or could not be had.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The operating system reported it.
    #[error("{0}")]
    Io(Arc<io::Error>),
    /// The peer closed the wire without closing the connection, as when its process ends.
    #[error("the peer's end of the wire closed")]
    End,
    /// The peer was silent for too long, and did not answer a ping.
    #[error("nothing was heard from the peer for {0:?}")]
    Silent(Duration),
    /// Connecting, or the handshakes after it, took too long.
    #[error("no connection within {0:?}; is the address right, and the peer running?")]
    TimedOut(Duration),
    /// TLS failed.
    #[error("{0}")]
    Tls(Arc<tls::Error>),
    /// The peer broke the protocol, or speaks another.
    #[error("the peer broke the protocol: {0}")]
    Protocol(Arc<str>),
    /// The host's name could not be resolved.
    #[error("`{host}` could not be resolved: {reason}")]
    Resolve {
        /// The name.
        host: Box<str>,
        /// What the resolver said.
        reason: Arc<str>,
    },
    /// The server, or a proxy on the way, answered with HTTP instead of opening a WebSocket.
    #[error("the server answered {status}{} instead of opening a WebSocket{}", said(message), http_hint(*status))]
    Http {
        /// The status, such as 404.
        status: u16,
        /// What it said: the status line's reason, or the begin of the body.
        message: Arc<str>,
    },
    /// No WebSocket was agreed on: wrong key, subprotocol, extension, too many redirects.
    #[error("no WebSocket was agreed on: {0}")]
    Upgrade(Arc<str>),
    /// The peer closed the WebSocket under a session.
    #[error("the peer closed the WebSocket with code {code}{}", said(reason))]
    WebSocketClosed {
        /// The close code (RFC 6455 section 7.4).
        code: u16,
        /// Its words.
        reason: Arc<str>,
    },
    /// QUIC failed; who ended it and what to do is in the text.
    #[error("{0}")]
    Quic(Arc<str>),
    /// A flow of coded packets could not be had or ended: who ended it, why, and what to do about it.
    #[cfg(feature = "bats")]
    #[error("{0}")]
    Bats(Arc<crate::bats::FlowError>),
    /// Another wire of the same session took over.
    #[error("the peer came back on another wire")]
    Replaced,
}

impl From<io::Error> for WireError {
    fn from(error: io::Error) -> WireError {
        WireError::Io(Arc::new(error))
    }
}

impl WireError {
    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        match self {
            WireError::Io(error) => match error.kind() {
                io::ErrorKind::ConnectionRefused => Fault::Peer,
                io::ErrorKind::PermissionDenied | io::ErrorKind::AddrNotAvailable => Fault::Local,
                _ => Fault::Network,
            },
            WireError::End | WireError::Protocol(_) | WireError::Quic(_) => Fault::Peer,
            WireError::Http { status: 400..=499, .. } => Fault::Caller,
            WireError::Http { .. } | WireError::Upgrade(_) | WireError::WebSocketClosed { .. } => {
                Fault::Peer
            }
            WireError::Silent(_) | WireError::TimedOut(_) | WireError::Replaced => Fault::Network,
            #[cfg(feature = "bats")]
            WireError::Bats(error) => error.fault(),
            WireError::Tls(error) if tls::is_local(error) => Fault::Local,
            WireError::Tls(_) => Fault::Peer,
            WireError::Resolve { .. } => Fault::Network,
        }
    }

    /// Whether the same attempt can succeed later without anyone changing a configuration.
    pub fn can_retry(&self) -> bool {
        match self {
            WireError::Tls(_) | WireError::Protocol(_) | WireError::Upgrade(_) => false,
            #[cfg(feature = "bats")]
            WireError::Bats(error) => error.can_retry(),
            WireError::Http { status, .. } => matches!(status, 408 | 425 | 429 | 500..=599),
            _ => true,
        }
    }
}

fn said(words: &str) -> String {
    if words.is_empty() { String::new() } else { format!(" ({words})") }
}

/// What to do about an answer of HTTP.
fn http_hint(status: u16) -> &'static str {
    match status {
        401 => "; set credentials with `websocket_credentials`",
        403 => "; the origin or the credentials are not allowed there",
        404 => "; check the path of the address",
        407 => "; the proxy wants credentials, set them with `websocket_proxy`",
        426 | 400 => "; does it speak WebSocket version 13, and this subprotocol?",
        408 | 425 | 429 | 500..=599 => "; try again later",
        _ => "",
    }
}

/// Why a connection could not be made.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The address.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// Every address was tried; this is what the last one said.
    #[error("cannot connect to {address}: {error}")]
    Wire {
        /// The address as it was given, or what it resolved to.
        address: Box<str>,
        /// What happened.
        error: WireError,
    },
    /// The peer answered and said no.
    #[error("{address} refused the connection with code {code}: {reason}")]
    Rejected {
        /// The address as it was given.
        address: Box<str>,
        /// The close code, see `docs/session.md`.
        code: u64,
        /// The peer's words.
        reason: Arc<str>,
    },
    /// The addresses of one list cannot serve one connection.
    #[error(
        "the addresses of one connection must all be session wires (tcp, tls, ws, wss, quic, bats), all be ftcp wires, or all carry single messages (udp, bats with mode=btp)"
    )]
    MixedWires,
    /// The handle's context was dropped.
    #[error("the context has stopped")]
    Stopped,
    /// `close` or `abort` was called before there was a connection.
    #[error("the connection was closed before it was established")]
    Closed,
}

/// Why listening failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// The address.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The host's name could not be resolved.
    #[error(transparent)]
    Resolve(WireError),
    /// The operating system refused; often the port is taken.
    #[error("cannot listen on {address}: {error}{}", hint(error))]
    Io {
        /// The address.
        address: Box<str>,
        /// What it said.
        error: Arc<io::Error>,
    },
    /// An encrypted wire needs a certificate and its key.
    #[error(
        "{wire}:// needs a certificate and a key to listen; set them with `certificate_files` (`towline cert` makes them)"
    )]
    NoCertificate {
        /// The wire.
        wire: Wire,
    },
    /// The handle's context was dropped.
    #[error("the context has stopped")]
    Stopped,
    /// The listener was closed.
    #[error("the listener is closed")]
    Closed,
    /// As many peers are being dealt with as the configuration allows.
    #[error("the listener deals with as many peers as it may")]
    Busy,
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; choose another port, or 0 for any free one",
        io::ErrorKind::PermissionDenied => "; ports below 1024 need a privilege",
        io::ErrorKind::AddrNotAvailable => "; this host has no such address",
        _ => "",
    }
}

/// How a connection ended. Cloned into every call that waits for it.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Ended {
    /// Closed by `close` or `abort` on this side.
    #[error("the connection was closed on this side")]
    Closed,
    /// Closed by the peer.
    #[error("the peer closed the connection with code {code}: {reason}")]
    ByPeer {
        /// The code that it gave.
        code: u64,
        /// Its words.
        reason: Arc<str>,
    },
    /// The wire was lost and, as far as redialing was possible, it did not come back within the redial window.
    #[error("the connection was lost: {0}")]
    Lost(WireError),
    /// Its handler panicked; the connection was aborted.
    #[error("the connection was aborted because its handler panicked")]
    Panicked,
    /// The connection could never be made.
    #[error(transparent)]
    NeverConnected(#[from] Box<ConnectError>),
    /// The context was dropped.
    #[error("the context has stopped")]
    Stopped,
}

/// Why a message was not accepted for sending.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The message is larger than the wire or the peer allows.
    #[error("the message has {bytes} bytes and the limit is {limit}{}", limit_hint(*session))]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The most that is possible here.
        limit: usize,
        /// Whether the limit can be configured (session wires) or is the wire's (ftcp, datagrams).
        session: bool,
    },
    /// The message says that it is text, and is not UTF-8.
    #[error(
        "the message is marked as text and is not UTF-8; send it as binary (`is_text = false`)"
    )]
    NotText,
    /// The id is 0 or larger than the wire can carry.
    #[error("{id} is no message id on this wire; ids are 1 to {limit}")]
    BadId {
        /// The id.
        id: u64,
        /// The largest one.
        limit: u64,
    },
    /// The connection has ended.
    #[error(transparent)]
    Ended(#[from] Ended),
    /// The write deadline passed while the queue was full.
    #[error("the write deadline passed while the send queue was full")]
    Deadline,
}

fn limit_hint(session: bool) -> &'static str {
    if session { "; raise `max_message` on both sides" } else { ", fixed by the wire" }
}

/// Why [`Connection::try_send`](crate::Connection::try_send) did not take a message; the message comes back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrySendError {
    /// The queue is full: wait for `writable`, or use `send`.
    #[error("the send queue is full")]
    Full(Message),
    /// It cannot be sent at all.
    #[error("{error}")]
    Failed {
        /// The message.
        message: Message,
        /// Why.
        error: SendError,
    },
}

/// Why no message was received.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecvError {
    /// The connection has ended, and every message that had arrived was read.
    #[error(transparent)]
    Ended(#[from] Ended),
    /// This reader's policy is to fail when it falls behind, and it did.
    #[error("the reader fell more than {limit} bytes behind")]
    Overflow {
        /// The reader's limit.
        limit: usize,
    },
    /// The read deadline passed.
    #[error("the read deadline passed")]
    Deadline,
}

/// Why a request got no reply.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// It was not accepted for sending.
    #[error(transparent)]
    Send(#[from] SendError),
    /// No reply came in time. One that comes later is counted and dropped.
    #[error("no reply within {after:?}")]
    TimedOut {
        /// The time that was given.
        after: Duration,
    },
    /// The connection ended first.
    #[error(transparent)]
    Ended(#[from] Ended),
    /// Another request with the same chosen id is still waiting.
    #[error("a request with id {id} is already waiting")]
    DuplicateId {
        /// The id.
        id: u64,
    },
    /// The wire carries no ids, so that no reply could be told from other messages.
    #[error(
        "{wire} with this peer has no request and reply; match answers in the messages themselves"
    )]
    Unsupported {
        /// The wire.
        wire: Wire,
    },
    /// The peer restarted and the request may or may not have reached it.
    #[error("the peer restarted before it answered")]
    Reset,
}

/// Why `flush` or `close` did not end with everything acknowledged.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FlushError {
    /// The connection ended first.
    #[error("{ended}; {unacknowledged} messages were not acknowledged")]
    Ended {
        /// How.
        ended: Ended,
        /// How many messages the peer had not acknowledged. The `closed` event gives them back.
        unacknowledged: u64,
    },
    /// The time for closing was over.
    #[error("{unacknowledged} messages were not acknowledged within {after:?}")]
    TimedOut {
        /// The time that was given.
        after: Duration,
        /// How many messages were left.
        unacknowledged: u64,
    },
    /// The peer restarted: what it had not acknowledged came back with the `reset` event.
    #[error("the peer restarted; {unacknowledged} messages were not acknowledged")]
    Reset {
        /// How many messages came back.
        unacknowledged: u64,
    },
}

/// Why a context could not be made.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContextError {
    /// A value outside of its range.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The operating system gave no driver or no thread.
    #[error("cannot start I/O: {0}")]
    Io(Arc<io::Error>),
}

/// Any error of this crate, for programs that use `?` throughout.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant is the error of the action that it is named after")]
pub enum Error {
    #[error(transparent)]
    Address(#[from] AddressError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Context(#[from] ContextError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error(transparent)]
    Send(#[from] SendError),
    #[error(transparent)]
    TrySend(#[from] TrySendError),
    #[error(transparent)]
    Recv(#[from] RecvError),
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error(transparent)]
    Flush(#[from] FlushError),
    /// The wire under the connection cannot do what was asked; [`Connection::capabilities`](crate::Connection::capabilities) tells beforehand.
    #[error("{wire} has no {call}")]
    Unsupported { call: &'static str, wire: Wire },
}

impl Ended {
    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        match self {
            Ended::Closed | Ended::Panicked | Ended::Stopped => Fault::Caller,
            Ended::ByPeer { .. } => Fault::Peer,
            Ended::Lost(error) => error.fault(),
            Ended::NeverConnected(error) => error.fault(),
        }
    }

    /// Whether a new connection to the same address can be expected to work.
    pub fn can_retry(&self) -> bool {
        match self {
            Ended::Closed | Ended::ByPeer { .. } => true,
            Ended::Panicked | Ended::Stopped => false,
            Ended::Lost(error) => error.can_retry(),
            Ended::NeverConnected(error) => error.can_retry(),
        }
    }
}

impl ConnectError {
    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        match self {
            ConnectError::Wire { error, .. } => error.fault(),
            ConnectError::Rejected { .. } => Fault::Peer,
            _ => Fault::Caller,
        }
    }

    /// Whether the same call can succeed later.
    pub fn can_retry(&self) -> bool {
        match self {
            ConnectError::Wire { error, .. } => error.can_retry(),
            ConnectError::Rejected { .. } => true,
            _ => false,
        }
    }
}

impl Error {
    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        match self {
            Error::Connect(error) => error.fault(),
            Error::Listen(ListenError::Io { .. }) | Error::Context(ContextError::Io(_)) => {
                Fault::Local
            }
            Error::Listen(ListenError::Resolve(error)) => error.fault(),
            Error::Send(SendError::Ended(ended))
            | Error::Recv(RecvError::Ended(ended))
            | Error::Request(RequestError::Ended(ended))
            | Error::Flush(FlushError::Ended { ended, .. }) => ended.fault(),
            Error::Request(RequestError::TimedOut { .. } | RequestError::Reset)
            | Error::Flush(_) => Fault::Peer,
            _ => Fault::Caller,
        }
    }

    /// Whether the same call can succeed later.
    pub fn can_retry(&self) -> bool {
        match self {
            Error::Connect(error) => error.can_retry(),
            Error::Listen(error) => {
                matches!(error, ListenError::Io { .. } | ListenError::Resolve(_))
            }
            Error::TrySend(TrySendError::Full(_)) => true,
            Error::Send(SendError::Deadline) | Error::Recv(RecvError::Deadline) => true,
            Error::Request(RequestError::TimedOut { .. } | RequestError::Reset) => true,
            _ => false,
        }
    }
}

/// The address of a peer for error messages.
pub(crate) fn display_peer(url: &str, peer: Option<SocketAddr>) -> Box<str> {
    match peer {
        Some(peer) if !url.contains(&peer.to_string()) => format!("{url} ({peer})").into(),
        _ => url.into(),
    }
}
