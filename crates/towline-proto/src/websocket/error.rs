//! What can go wrong, and whose fault it is.

use super::close::CloseCode;

/// What the peer did that RFC 6455 or RFC 7692 forbids, or which limit of ours it passed.
///
/// The connection fails (RFC 6455 section 7.1.7): the code of [`Violation::code`] goes out in a close frame and
/// nothing more of the peer's bytes is used. Always the peer's fault; the same peer will do it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// A reserved bit is set that no negotiated extension gives a meaning (section 5.2).
    #[error("reserved bit set")]
    ReservedBits,
    /// Opcodes 3 to 7 and 11 to 15 (section 5.2).
    #[error("reserved opcode {0:#x}")]
    ReservedOpcode(u8),
    /// A control frame without FIN (section 5.5).
    #[error("fragmented control frame")]
    FragmentedControl,
    /// A control frame of more than 125 bytes (section 5.5).
    #[error("control frame too long")]
    ControlTooLong,
    /// A length that does not use the shortest encoding (section 5.2).
    #[error("length not minimally encoded")]
    LengthNotMinimal,
    /// A 64-bit length with the top bit set (section 5.2).
    #[error("length has its top bit set")]
    LengthTopBit,
    /// A client's frame without a mask (section 5.1).
    #[error("frame from a client is not masked")]
    Unmasked,
    /// A server's frame with a mask (section 5.1).
    #[error("frame from a server is masked")]
    Masked,
    /// A continuation frame outside a message (section 5.4).
    #[error("continuation without a message")]
    UnexpectedContinuation,
    /// A new message inside an unfinished one (section 5.4).
    #[error("new message inside a fragmented one")]
    InterruptedMessage,
    /// Text, or the reason of a close frame, that is not UTF-8 (section 8.1).
    #[error("invalid utf-8")]
    InvalidUtf8,
    /// A close frame with a body of one byte (section 5.5.1).
    #[error("close frame with a one-byte body")]
    CloseTooShort,
    /// A close code that must not be sent (section 7.4).
    #[error("invalid close code {0}")]
    CloseCode(u16),
    /// A frame above `max_frame` bytes.
    #[error("frame too large")]
    FrameTooLarge,
    /// A message, after inflating, above `max_message` bytes.
    #[error("message too large")]
    MessageTooLarge,
    /// Compressed data that is not DEFLATE (RFC 7692 section 6.2).
    #[error("invalid compressed data")]
    Inflate,
    /// More control frames, or empty fragments, than `control_rate` and `control_burst` allow.
    #[error("too many control frames")]
    ControlFlood,
}

impl Violation {
    /// The close code that tells the peer (RFC 6455 section 7.4.1).
    pub const fn code(self) -> CloseCode {
        match self {
            Violation::InvalidUtf8 | Violation::Inflate => CloseCode::INVALID_DATA,
            Violation::FrameTooLarge | Violation::MessageTooLarge => CloseCode::TOO_LARGE,
            Violation::ControlFlood => CloseCode::POLICY,
            _ => CloseCode::PROTOCOL,
        }
    }
}

/// Why a message or a control frame was not taken for sending. Nothing of it was queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// A close frame was sent or the connection is closed; a retry cannot help.
    #[error("connection is closing")]
    Closing,
    /// `max_queued` bytes wait for the transport; retry after [`Event::Writable`](super::Event::Writable).
    #[error("send queue is full")]
    Full,
    /// The payload of a control frame is above 125 bytes.
    #[error("control payload too long")]
    ControlTooLong,
    /// A text payload is not UTF-8 (checked for streamed parts and byte slices sent as text).
    #[error("text is not utf-8")]
    InvalidUtf8,
    /// A streamed message is unfinished, or its part has another kind than its first one.
    #[error("another message is unfinished")]
    Unfinished,
}

/// Why [`Connection::close`](super::Connection::close) refused its arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CloseError {
    /// The code must not appear on the wire (section 7.4); [`CloseCode::for_wire`] maps any number.
    #[error("close code {0} may not be sent")]
    Code(u16),
    /// The reason is above 123 bytes (section 5.5).
    #[error("close reason longer than 123 bytes")]
    ReasonTooLong,
}

/// The transport reported more bytes as written than it was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{excess} bytes reported as written that were never handed out")]
pub struct OverWritten {
    /// Bytes beyond those handed out.
    pub excess: u64,
}

/// The application returned more bytes than it was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{excess} bytes credited that were never delivered")]
pub struct OverCredited {
    /// Bytes beyond those delivered.
    pub excess: u64,
}
