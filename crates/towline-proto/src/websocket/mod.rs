//! WebSocket: an RFC 6455 client and server with permessage-deflate (RFC 7692), as state machines over bytes.
//!
//! Nothing here opens a socket, reads a clock or seeds a generator: bytes, the present time and randomness are
//! arguments. A connection begins with a handshake, [`handshake::ClientHandshake`] or
//! [`handshake::ServerHandshake`], and goes on with a [`Connection`].
//!
//! # The doors
//!
//! | in | out |
//! | --- | --- |
//! | [`Connection::handle_input`], [`Connection::handle_direct`], [`Connection::handle_eof`], [`Connection::handle_error`] | [`Connection::poll_event`]: messages, close, closed |
//! | [`Connection::handle_written`] | [`Connection::poll_transmit`]: bytes to write |
//! | [`Connection::handle_timeout`] | [`Connection::poll_timeout`]: the next deadline |
//! | [`Connection::credit`]: the application is done with bytes | [`Connection::wants_read`], [`Connection::take_credit`]: so may the transport read on |
//! | [`Connection::send`], [`Connection::ping`], [`Connection::close`] | |
//!
//! **The rule**: after anything went in, call [`Connection::poll_event`] until it returns `None`, then
//! [`Connection::poll_transmit`] until it returns 0, and then wait for bytes, for a completed write, or for the time that
//! [`Connection::poll_timeout`] names. Input is decoded as events are taken, so that an application that stops taking
//! bounds the memory of its connection.
//!
//! # Example
//!
//! ```
//! use bytes::BytesMut;
//! use std::{sync::Arc, time::Instant};
//! use towline_proto::websocket::{ChaChaEntropy, Config, Connection, Event, Kind, Role};
//!
//! let now = Instant::now();
//! let config = Arc::new(Config::default());
//! let entropy = |seed| Box::new(ChaChaEntropy::from_seed([seed; 32]));
//! let mut client = Connection::new(Role::Client, config.clone(), None, entropy(1), now);
//! let mut server = Connection::new(Role::Server, config, None, entropy(2), now);
//!
//! client.send_text("hello")?;
//! let mut wire = Vec::new();
//! let length = client.poll_transmit(usize::MAX, &mut wire);
//! client.handle_written(now, length)?;
//! for bytes in wire {
//!     server.handle_input(now, BytesMut::from(bytes));
//! }
//! let Some(Event::Message(message)) = server.poll_event() else { panic!("no message") };
//! assert_eq!((message.kind, &message.data[..]), (Kind::Text, &b"hello"[..]));
//! server.credit(message.data.len())?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The wire format with vectors, the defaults and the list of tested cases are in `docs/websocket.md`.

mod close;
mod config;
mod connection;
mod decode;
mod deflate;
mod encode;
mod error;
mod flow;
pub mod frame;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod handshake;
mod http;
mod keepalive;
pub mod mask;
mod random;
#[cfg(test)]
mod tests;
mod utf8;

pub use close::{CloseCode, CloseFrame, MAX_REASON};
pub use config::{Config, ConfigError, Delivery, Role};
pub use connection::{Cause, Closed, Compression, Connection, Event, Message, Part};
pub use decode::{ControlPayload, Direct, Kind};
pub use deflate::{DeflateConfig, DeflateParams, NegotiateError};
pub use error::{CloseError, OverCredited, OverWritten, SendError, Violation};
pub use flow::Pressure;
pub use random::{ChaChaEntropy, Entropy};
pub use utf8::Utf8Validator;
