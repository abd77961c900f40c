//! Errors of QUIC itself, one type per action.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

pub use towline_proto::quic::{
    CloseReason, ConfigError, ConnectError as StartError, DatagramError, MigrateError, StreamError,
    TooLate,
};

/// Why a connection ended, or never came to be.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Ended {
    /// This side closed it.
    #[error("closed by this side")]
    Closed,
    /// The peer's application closed it.
    #[error("the peer closed the connection with code {code}{}", text(.reason))]
    ByPeer {
        /// The peer's code, at most 2^62 - 1.
        code: u64,
        /// The peer's text.
        reason: Arc<str>,
    },
    /// The transport ended it: what happened, and whose fault it was.
    #[error("{}", describe(.0))]
    Transport(Arc<CloseReason>),
    /// A handler panicked.
    #[error("its handler panicked")]
    Panicked,
    /// The context was dropped.
    #[error("the context was dropped")]
    Stopped,
}

fn text(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(": {reason}") }
}

/// Why a dial did not become a connection.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The address is not `host:port`.
    #[error("`{0}` is not `host:port`")]
    Address(Box<str>),
    /// The host's name has no address, or could not be looked up; the name or the resolver's fault.
    #[error("cannot resolve `{host}`: {reason}")]
    Resolve {
        /// The name.
        host: Box<str>,
        /// What the resolver says.
        reason: Box<str>,
    },
    /// No socket could be opened or bound for it.
    #[error("no socket for {address}: {error}")]
    Socket {
        /// The local address wanted.
        address: SocketAddr,
        /// What the system says.
        error: Arc<io::Error>,
    },
    /// The configuration or the server's name does not fit.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The handshake failed: what happened, and whose fault it was.
    #[error("cannot connect to {remote}: {ended}")]
    Failed {
        /// The address tried last.
        remote: SocketAddr,
        /// How it ended.
        ended: Ended,
    },
    /// The context was dropped.
    #[error("the context was dropped")]
    Stopped,
}

/// Why nothing listens.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// The address is not `host:port`.
    #[error("`{0}` is not `host:port`")]
    Address(Box<str>),
    /// The host's name has no address, or could not be looked up.
    #[error("cannot resolve `{host}`: {reason}")]
    Resolve {
        /// The name.
        host: Box<str>,
        /// What the resolver says.
        reason: Box<str>,
    },
    /// The system refused the address; most often another program has it.
    #[error("cannot listen on {address}: {error}")]
    Io {
        /// The address wanted.
        address: Box<str>,
        /// What the system says.
        error: Arc<io::Error>,
    },
    /// Options that do not go together.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The context was dropped.
    #[error("the context was dropped")]
    Stopped,
}

/// Why nothing was read or written.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IoError {
    /// The peer abandoned its side with this application code.
    #[error("the peer abandoned the stream with code {0}")]
    Reset(u64),
    /// The peer stopped reading with this application code.
    #[error("the peer stopped reading with code {0}")]
    Stopped(u64),
    /// This side has ended the stream already.
    #[error("this side has ended the stream")]
    Finished,
    /// The connection ended before.
    #[error("the connection ended: {0}")]
    Ended(Ended),
    /// The stream is longer than this many bytes, which the caller set as its limit.
    #[error("the stream is longer than {0} bytes")]
    TooLong(usize),
    /// The peer allows no further stream, or not this one.
    #[error(transparent)]
    Stream(StreamError),
}

impl From<IoError> for io::Error {
    fn from(error: IoError) -> io::Error {
        let kind = match &error {
            IoError::Reset(_) => io::ErrorKind::ConnectionReset,
            IoError::Stopped(_) | IoError::Finished => io::ErrorKind::BrokenPipe,
            IoError::Ended(_) => io::ErrorKind::NotConnected,
            IoError::TooLong(_) | IoError::Stream(_) => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}

/// Why a datagram was not taken, or none will come.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatagramIoError {
    /// It was refused.
    #[error(transparent)]
    Refused(#[from] DatagramError),
    /// The connection ended.
    #[error("the connection ended: {0}")]
    Ended(Ended),
}

/// Alerts of TLS (RFC 8446 section 6) that are worth a word on what to do.
fn advice(alert: u8) -> Option<&'static str> {
    Some(match alert {
        42 => "the certificate cannot be read or its signature is wrong (bad_certificate)",
        43 => "the certificate is of a kind that is not taken (unsupported_certificate)",
        44 => "the certificate was revoked (certificate_revoked)",
        45 => {
            "the certificate has expired or is not valid yet (certificate_expired): renew it, or set the clock"
        }
        46 => "the certificate was not accepted (certificate_unknown)",
        48 => {
            "the certificate's issuer is not trusted (unknown_ca): give its CA, or pin the certificate"
        }
        49 => "access is denied (access_denied)",
        70 => "no version of TLS in common (protocol_version)",
        71 => "no safe parameters in common (insufficient_security)",
        112 => "the server does not know this name (unrecognized_name)",
        116 => "the peer wants a certificate of ours (certificate_required): give one and its key",
        120 => {
            "no application protocol in common (no_application_protocol): give the same ALPN at both ends"
        }
        _ => return None,
    })
}

/// A close reason in words, with the alert of TLS spelled out where there is one (CRYPTO_ERROR, RFC 9001 section 4.8).
pub(crate) fn describe(reason: &CloseReason) -> String {
    let with = |side: &str, code: u64, reason: &str| {
        let alert = (0x100..0x200).contains(&code).then_some((code & 0xff) as u8).and_then(advice);
        match (alert, reason.is_empty()) {
            (Some(alert), true) => format!("{side}: {alert}"),
            (Some(alert), false) => format!("{side}: {alert}; {reason}"),
            (None, true) => format!("{side}: transport error {code:#x}"),
            (None, false) => format!("{side}: transport error {code:#x}, {reason}"),
        }
    };
    match reason {
        CloseReason::LocalTransportError { code, reason } => {
            with("this side ended the connection", *code, reason)
        }
        CloseReason::PeerTransportError { code, reason } => {
            with("the peer ended the connection", *code, reason)
        }
        CloseReason::IdleTimeout => "nothing came from the peer for the idle timeout".into(),
        CloseReason::HandshakeTimeout => {
            "the peer did not finish the handshake in time: it may not be there, not speak QUIC, or a firewall drops UDP".into()
        }
        CloseReason::Unreachable => "what was sent was not acknowledged in time".into(),
        CloseReason::StatelessReset => "the peer has forgotten the connection".into(),
        CloseReason::VersionMismatch => "no version of QUIC in common with the peer".into(),
        // Words of our own verifier, which say it all.
        CloseReason::CertificateRejected { reason, .. } if reason.starts_with("the peer's") => {
            reason.to_string()
        }
        CloseReason::CertificateRejected { alert, reason } => match advice(*alert) {
            // 46, certificate_unknown, is for reasons that no alert has: they speak for themselves.
            Some(advice) if *alert != 46 => {
                format!("the peer's certificate was refused: {reason}; {advice}")
            }
            _ => format!("the peer's certificate was refused: {reason}"),
        },
        CloseReason::Refused => "the peer refused the connection".into(),
        other => other.status().into(),
    }
}
