//! ftcp: framed messages, byte for byte, over any reliable byte stream.
//!
//! [`Engine`] is one connection's state machine. It outlives the wires under it: after a loss the layer above redials, calls
//! [`Engine::handle_open`] again, and what the transport had not acknowledged goes out once more ([`Resend`]).
//! The wire is specified in `docs/ftcp.md`, with vectors in `docs/vectors/ftcp.txt`.
//!
//! ```
//! use std::{sync::Arc, time::Instant};
//! use towline_proto::frame::{Config, Engine, Event, Outgoing, Payload};
//!
//! # let now = Instant::now();
//! let config = Arc::new(Config::default());
//! let (mut a, mut b) = (Engine::new(config.clone()), Engine::new(config.clone()));
//! a.handle_open(now);
//! b.handle_open(now);
//!
//! let mut outgoing = Outgoing::new(&config);
//! let id = outgoing.push(None, None, Payload::Slice(b"hello")).unwrap();
//! a.enqueue(now, &mut outgoing);
//!
//! let mut wire = Vec::new();
//! a.poll_transmit(now, usize::MAX, &mut wire);
//! for bytes in wire {
//!     b.handle_input(now, bytes);
//! }
//! let Some(Event::Message(message)) = b.poll_event() else { panic!() };
//! assert_eq!((message.id, &message.data[..]), (id, &b"hello"[..]));
//! ```

mod config;
mod decoder;
mod engine;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod log;
mod outgoing;
#[cfg(test)]
mod tests;
mod wire;

pub use config::{Config, ConfigError, Resend};
pub use decoder::Decoder;
pub use engine::{Engine, Event, Stats};
pub use outgoing::{Outgoing, Payload, SendError};
pub use wire::{Error, HEADER_LEN, Header, MAX_ID, MAX_PAYLOAD, Message, MessageId};
