//! Close codes and the body of a close frame (RFC 6455 sections 5.5.1 and 7.4).

use bytes::Bytes;

use super::error::{CloseError, Violation};

/// The longest reason: a control frame's 125 bytes less the code.
pub const MAX_REASON: usize = 123;

/// A close code (RFC 6455 section 7.4 and the IANA registry "WebSocket Close Code Number").
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CloseCode(pub u16);

impl CloseCode {
    /// The purpose is fulfilled.
    pub const NORMAL: CloseCode = CloseCode(1000);
    /// The endpoint goes away: a server stops, a page is left.
    pub const AWAY: CloseCode = CloseCode(1001);
    /// The peer broke the protocol.
    pub const PROTOCOL: CloseCode = CloseCode(1002);
    /// A kind of data that this endpoint does not take.
    pub const UNSUPPORTED: CloseCode = CloseCode(1003);
    /// Never on the wire: the close frame had no code.
    pub const NO_STATUS: CloseCode = CloseCode(1005);
    /// Never on the wire: the connection ended without a close frame.
    pub const ABNORMAL: CloseCode = CloseCode(1006);
    /// Data that does not fit its type, such as text that is not UTF-8.
    pub const INVALID_DATA: CloseCode = CloseCode(1007);
    /// The endpoint's policy was broken.
    pub const POLICY: CloseCode = CloseCode(1008);
    /// A message too large to process.
    pub const TOO_LARGE: CloseCode = CloseCode(1009);
    /// A client missed an extension that it needs.
    pub const EXTENSION_REQUIRED: CloseCode = CloseCode(1010);
    /// An unexpected condition in the endpoint.
    pub const INTERNAL: CloseCode = CloseCode(1011);
    /// The service restarts.
    pub const RESTART: CloseCode = CloseCode(1012);
    /// Try again later.
    pub const TRY_AGAIN: CloseCode = CloseCode(1013);
    /// A gateway got an invalid answer.
    pub const BAD_GATEWAY: CloseCode = CloseCode(1014);

    /// Whether the code may stand in a close frame (section 7.4.2): 1000 to 1003, 1007 to 1014, 3000 to 4999.
    pub const fn is_sendable(self) -> bool {
        matches!(self.0, 1000..=1003 | 1007..=1014 | 3000..=4999)
    }

    /// The nearest code that may be sent, for numbers from other spaces such as HTTP's.
    ///
    /// Sendable codes stay. 503 becomes 1013, other 5xx become 1011, other statuses of HTTP 1008, and the rest 1011.
    pub const fn for_wire(number: u16) -> CloseCode {
        match number {
            n if CloseCode(n).is_sendable() => CloseCode(n),
            503 => CloseCode::TRY_AGAIN,
            500..=599 => CloseCode::INTERNAL,
            100..=499 => CloseCode::POLICY,
            _ => CloseCode::INTERNAL,
        }
    }
}

impl std::fmt::Display for CloseCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// The content of a close frame.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CloseFrame {
    /// The code, if the frame had a body.
    pub code: Option<CloseCode>,
    /// The reason; valid UTF-8, at most 123 bytes, and empty without a code.
    pub reason: String,
}

impl CloseFrame {
    /// The body as a value (sections 5.5.1, 7.4 and 8.1).
    pub fn parse(body: &[u8]) -> Result<CloseFrame, Violation> {
        if body.is_empty() {
            return Ok(CloseFrame::default());
        }
        let Some((code, reason)) = body.split_first_chunk::<2>() else {
            return Err(Violation::CloseTooShort);
        };
        let code = CloseCode(u16::from_be_bytes(*code));
        if !code.is_sendable() {
            return Err(Violation::CloseCode(code.0));
        }
        match std::str::from_utf8(reason) {
            Ok(reason) => Ok(CloseFrame { code: Some(code), reason: reason.to_owned() }),
            Err(_) => Err(Violation::InvalidUtf8),
        }
    }

    /// A close frame to send.
    ///
    /// # Errors
    /// When the code is not sendable or the reason is above 123 bytes.
    pub fn new(code: CloseCode, reason: &str) -> Result<CloseFrame, CloseError> {
        if !code.is_sendable() {
            return Err(CloseError::Code(code.0));
        }
        if reason.len() > MAX_REASON {
            return Err(CloseError::ReasonTooLong);
        }
        Ok(CloseFrame { code: Some(code), reason: reason.to_owned() })
    }

    /// The body on the wire.
    pub fn encode(&self) -> Bytes {
        match self.code {
            None => Bytes::new(),
            Some(code) => [&code.0.to_be_bytes()[..], self.reason.as_bytes()].concat().into(),
        }
    }
}
