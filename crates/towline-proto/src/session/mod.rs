//! Messages that survive their connection: the session between two Towline peers.
//!
//! A [`Session`] runs over any reliable, ordered stream of octets (a *wire*), one after the other: it numbers
//! what is sent, keeps it until it is acknowledged, and goes on at the right frame when the next wire is up,
//! so that every accepted message arrives once and in order within its [`Lane`]. The format and the rules (S1.1
//! and so on, cited throughout) are in `docs/session.md`.
//!
//! The machine does no I/O. The order of calls is always the same: after any `handle_*`, `enqueue`, `consumed` or
//! `close`, drain [`Session::poll_event`], then [`Session::poll_transmit`], then read
//! [`Session::poll_timeout`].
//!
//! [`Outgoing`] is the part that application threads touch: it encodes messages, and
//! [`Session::enqueue`] moves them over.

mod closing;
mod config;
mod error;
mod event;
mod frame;
mod handshake;
mod inbound;
mod log;
mod machine;
mod message;
mod outgoing;
mod receive;
mod transmit;

#[cfg(any(test, feature = "fuzzing"))]
pub mod testing;
#[cfg(test)]
mod tests;

pub use config::{Config, ConfigError, Limits};
pub use error::{CloseCode, Refusal, SendError, WireError};
pub use event::{Event, WireLoss};
pub use frame::{MAX_CONTROL, MAX_FRAGMENT, MAX_REASON, MIN_MAX_MESSAGE, VERSION, Violation};
pub use handshake::{Handshake, Hello, LaneState};
pub use machine::{Direct, Session, Stats};
pub use message::{
    FRAME_CHARGE, LANES, Lane, Message, MessageId, Payload, SessionId, Unacknowledged,
};
pub use outgoing::{Outgoing, Progress};
