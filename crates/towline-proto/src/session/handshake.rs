//! HELLO, WELCOME, REFUSE.

use bytes::Bytes;

use super::error::Refusal;
use super::frame::Violation;
use super::message::{LANES, SessionId};

/// How far one lane is, as told in HELLO and WELCOME (S3.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct LaneState {
    /// The position up to which whole frames were received.
    pub received: u64,
    /// The position up to which the other side may send.
    pub limit: u64,
}

/// What a client says first on every wire (S3.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The lowest version the client speaks.
    pub min_version: u64,
    /// The highest version the client speaks.
    pub max_version: u64,
    /// Which session.
    pub session: SessionId,
    /// Counts the client's wires of this session, from 1.
    pub attempt: u64,
    /// Whether the client has had a WELCOME of this session before.
    pub resume: bool,
    /// The largest message the client takes, in octets.
    pub max_message: u64,
    /// The lanes towards the client.
    pub lanes: [LaneState; LANES],
}

/// The server's side of a wire's beginning: takes octets until the HELLO is whole.
///
/// Give up on a wire that stays here longer than [`Config::handshake_timeout`](super::Config::handshake_timeout).
#[derive(Debug, Default)]
pub struct Handshake {}

impl Handshake {
    /// Nothing received yet.
    pub fn new() -> Handshake {
        Handshake::default()
    }

    /// Takes the next octets of the wire. `Some` with the HELLO and what came behind it, which goes to
    /// `handle_input` of the session, or `None` when more is needed. At most about 4 KiB are kept.
    ///
    /// # Errors
    /// The first rule broken, as early as the first octet: answer with [`Refusal::encode`] if at all, close.
    pub fn handle_input(&mut self, _data: Bytes) -> Result<Option<(Hello, Bytes)>, Violation> {
        Ok(None)
    }
}

impl Refusal {
    /// The REFUSE frame to answer a HELLO with, before the wire is closed (S3.7).
    pub fn encode(&self) -> Bytes {
        Bytes::new()
    }
}

impl From<Violation> for Refusal {
    fn from(violation: Violation) -> Refusal {
        Refusal { code: violation.code(), reason: violation.to_string() }
    }
}
