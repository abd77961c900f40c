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
//!
//! A message crosses, with the octets carried by hand:
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Instant;
//! use towline_proto::session::*;
//!
//! let (config, now) = (Arc::new(Config::default()), Instant::now());
//! config.check()?;
//! let mut wire = Vec::new();
//!
//! // The client dials and greets.
//! let mut client = Session::client(config.clone(), SessionId([0x5e; 16]), now);
//! client.handle_open(now);
//! client.poll_transmit(now, 65_536, &mut wire);
//!
//! // The server decodes the greeting, makes its side and answers.
//! let (hello, _) = Handshake::new().handle_input(wire.remove(0)).expect("a towline client").expect("whole");
//! let mut server = Session::server(config.clone(), hello, now).expect("taken");
//! assert_eq!(server.poll_event(), Some(Event::Established { resumed: false }));
//! server.poll_transmit(now, 65_536, &mut wire);
//! client.handle_input(now, wire.remove(0));
//! assert_eq!(client.poll_event(), Some(Event::Established { resumed: false }));
//!
//! // A message.
//! let mut outgoing = Outgoing::new(&config.limits);
//! let id = outgoing.push(Lane::NORMAL, None, None, Payload::Slice(b"hello"))?;
//! client.enqueue(now, &mut outgoing);
//! client.poll_transmit(now, 65_536, &mut wire);
//! server.handle_input(now, wire.remove(0));
//! let Some(Event::Message(message)) = server.poll_event() else { panic!("a message is there") };
//! assert_eq!((message.id, &message.data[..]), (id, &b"hello"[..]));
//! server.consumed(message.lane, message.cost());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

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
mod spread;
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
pub use spread::{Gatherer, Spreader, Strand};
