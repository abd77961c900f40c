//! The frames of docs/session.md: constants, header encoding and total decoding.

use super::error::CloseCode;

/// The largest payload of one DATA frame in octets (S2.4): 256 KiB.
pub const MAX_FRAGMENT: usize = 256 << 10;
/// The largest body of a control frame in octets (S2.6).
pub const MAX_CONTROL: usize = 4096;
/// No peer may announce a smaller limit for messages (S3.5): 64 KiB.
pub const MIN_MAX_MESSAGE: usize = 64 << 10;
/// The longest reason in octets (S8.2).
pub const MAX_REASON: usize = 1024;
/// The protocol version spoken here.
pub const VERSION: u64 = 1;

/// A rule that a peer broke. Always the peer's fault, or that of something that damaged the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// S2.1: not a Towline peer.
    #[error("the first bytes are not a towline greeting")]
    NotTowline,
}

impl Violation {
    /// The code that tells the peer.
    pub fn code(&self) -> CloseCode {
        CloseCode::PROTOCOL
    }
}
