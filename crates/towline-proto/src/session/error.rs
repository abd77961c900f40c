//! What goes wrong, whose fault it is, and the code that tells the peer.

use std::fmt;

use super::frame::Violation;
use super::message::Lane;

/// Why a message was not accepted. The message is not queued; nothing else has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The lane holds as much as its limits allow; try again after an acknowledgement.
    #[error(
        "the queue of {lane:?} is full ({bytes} bytes, {messages} messages): wait until the peer acknowledges"
    )]
    Full {
        /// The lane.
        lane: Lane,
        /// Octets of payload that it holds.
        bytes: usize,
        /// Messages that it holds.
        messages: usize,
    },
    /// Above the sender's or the receiver's limit; no retry helps.
    #[error("a message of {len} bytes is over the limit of {max} bytes")]
    TooLarge {
        /// Octets of the message.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// The session is closing or over.
    #[error("the session is closed for sending")]
    Closed,
}

/// A reason in a number. Codes below 256 are the protocol's, the others the application's (S8.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CloseCode(pub u64);

impl CloseCode {
    /// Done, nothing wrong.
    pub const NORMAL: CloseCode = CloseCode(0);
    /// The peer broke a rule of the frame format.
    pub const PROTOCOL: CloseCode = CloseCode(1);
    /// A frame or message over a stated limit.
    pub const TOO_LARGE: CloseCode = CloseCode(2);
    /// More than the window allows.
    pub const WINDOW: CloseCode = CloseCode(3);
    /// A position that cannot be.
    pub const POSITION: CloseCode = CloseCode(4);
    /// No version in common.
    pub const VERSION: CloseCode = CloseCode(5);
    /// A later attempt of the same session is already there.
    pub const STALE: CloseCode = CloseCode(6);
    /// Nothing was heard in time.
    pub const TIMEOUT: CloseCode = CloseCode(7);
    /// No room for another session now; later perhaps.
    pub const BUSY: CloseCode = CloseCode(8);
    /// Not allowed.
    pub const DENIED: CloseCode = CloseCode(9);
    /// The program is going away.
    pub const GOING_AWAY: CloseCode = CloseCode(10);
    /// Ended without draining, by the application.
    pub const ABORTED: CloseCode = CloseCode(11);
    /// The session was closed before.
    pub const ENDED: CloseCode = CloseCode(12);

    /// Whether a client that is refused with it may try again.
    pub fn is_transient(self) -> bool {
        matches!(
            self,
            CloseCode::STALE | CloseCode::TIMEOUT | CloseCode::BUSY | CloseCode::GOING_AWAY
        )
    }
}

impl fmt::Debug for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match *self {
            CloseCode::NORMAL => "normal",
            CloseCode::PROTOCOL => "protocol violation",
            CloseCode::TOO_LARGE => "too large",
            CloseCode::WINDOW => "window exceeded",
            CloseCode::POSITION => "impossible position",
            CloseCode::VERSION => "no common version",
            CloseCode::STALE => "stale attempt",
            CloseCode::TIMEOUT => "timed out",
            CloseCode::BUSY => "busy",
            CloseCode::DENIED => "denied",
            CloseCode::GOING_AWAY => "going away",
            CloseCode::ABORTED => "aborted",
            CloseCode::ENDED => "session ended",
            CloseCode(code) => return write!(f, "code {code}"),
        };
        f.write_str(name)
    }
}

/// Why a wire is of no more use. The session itself survives it (S7.1).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The peer broke a rule.
    #[error("the peer broke the protocol: {0}")]
    Violation(#[from] Violation),
    /// The peer says that this end broke a rule.
    #[error("the peer gave the connection up: {code}: {reason}")]
    PeerFailed {
        /// Its code.
        code: CloseCode,
        /// Its words, at most 1,024 octets.
        reason: String,
    },
    /// The server does not take this client.
    #[error("the peer refused the session: {code}: {reason}")]
    Refused {
        /// Its code; [`CloseCode::is_transient`] says whether trying again can help.
        code: CloseCode,
        /// Its words, at most 1,024 octets.
        reason: String,
    },
    /// A PING went unanswered: the peer is gone, or the path to it.
    #[error("nothing heard from the peer in time: the connection is half open")]
    PeerSilent,
    /// No WELCOME in time.
    #[error("the peer did not answer the greeting in time")]
    HandshakeTimeout,
}

impl WireError {
    /// The code that stands for it on the wire.
    pub fn code(&self) -> CloseCode {
        match self {
            WireError::Violation(violation) => violation.code(),
            WireError::PeerFailed { code, .. } | WireError::Refused { code, .. } => *code,
            WireError::PeerSilent | WireError::HandshakeTimeout => CloseCode::TIMEOUT,
        }
    }
}

/// Why a HELLO is not taken; [`Refusal::encode`](Refusal::encode) is what to answer on that wire.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the session is refused: {code}: {reason}")]
pub struct Refusal {
    /// The code.
    pub code: CloseCode,
    /// A sentence for people, cut to 1,024 octets on the wire.
    pub reason: String,
}
