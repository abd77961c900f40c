//! What a flow tells, and how it ends.

use super::config::Mode;

/// What happened. The names are those of the SDK's connection callback.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Both ends agree. Comes once, before any other but `Closed`.
    Established,
    /// There is room again after `BufferFull`.
    Writable,
    /// There is something to read where there was nothing. Read until there is nothing left.
    DataReceived,
    /// Everything accepted so far was handed to the hop at least once. Comes each time that becomes true.
    SendComplete,
    /// A message was given up: BTP's deadline passed before it could leave. How many since the last such event.
    SendError {
        /// Messages.
        dropped: u64,
    },
    /// Less was taken than was offered.
    BufferFull,
    /// Everything accepted so far has been acknowledged by the peer. Comes each time that becomes true. Never in BTP.
    AllDataAcknowledged,
    /// [`ideal_buffer_length`](super::Flow::ideal_buffer_length) has changed by a quarter or more.
    IdealBufferLengthChanged {
        /// The new value, bytes.
        length: usize,
    },
    /// The peer has finished sending, and everything before that was delivered or is ready to read.
    ShutdownByPeer,
    /// The flow is over. The last event, and comes once.
    Closed(Closed),
}

/// How a flow ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Closed {
    /// Both directions were finished and acknowledged.
    #[error("finished")]
    Finished,
    /// This end closed.
    #[error("closed here")]
    Local,
    /// This end closed and the peer did not acknowledge everything in time.
    #[error("closed here, with data that the peer did not acknowledge")]
    LocalTimeout,
    /// The peer, or a relay, closed.
    #[error("closed by the peer: code {code} {reason:?}")]
    Peer {
        /// The application's, or one of [`code`].
        code: u64,
        /// For people.
        reason: String,
    },
    /// Payload was altered on the way: by a relay, for hops keep everybody else out. Nothing altered was delivered.
    #[error("payload was altered on the way")]
    Forged,
    /// BRCTP: no receiver said in time that it has what was sent.
    #[error("no receiver said that it has what was sent")]
    Unanswered,
    /// Through relays, the ends did not agree on how to seal: mostly because the far end could not prove who it is.
    #[error("the far end did not prove itself: {reason}")]
    Seal {
        /// What TLS says.
        reason: String,
    },
    /// The client asked for another mode or framing than this server serves.
    #[error("the server serves mode {serves}")]
    OtherMode {
        /// What it serves.
        serves: Mode,
    },
    /// The neighbour broke the protocol. Its fault; the same neighbour will do it again.
    #[error("protocol violation: {0}")]
    Violation(&'static str),
}

/// Codes of a Close that the protocol itself sends. Applications use those from 256 on.
pub mod code {
    /// Nothing is wrong.
    pub const NONE: u64 = 0;
    /// The peer broke the protocol.
    pub const VIOLATION: u64 = 1;
    /// A message was larger than the receiver accepts.
    pub const TOO_LARGE: u64 = 2;
    /// Payload failed authentication.
    pub const FORGED: u64 = 3;
    /// The ends did not agree on how to seal.
    pub const SEAL: u64 = 4;
    /// No receiver said that it has what was sent.
    pub const UNANSWERED: u64 = 5;
    /// The server serves another mode, or messages where the flow is a stream.
    pub const OTHER_MODE: u64 = 24;
}

/// Why something was not accepted for sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The flow is finished or over. Trying again does not help.
    #[error("the flow is closed for sending")]
    Closed,
    /// No room: wait for [`Event::Writable`].
    #[error("no room in the send buffer")]
    Full,
    /// The message exceeds `max_message`.
    #[error("a message of {length} bytes, more than {limit}")]
    TooLarge {
        /// Its bytes.
        length: usize,
        /// The limit.
        limit: usize,
    },
    /// The call does not fit the framing: `write` on messages, `send` on a stream.
    #[error("the flow carries {0}")]
    WrongFraming(&'static str),
}
