//! Towline's protocols as state machines without sockets, clocks, threads or randomness of their own.
//!
//! Every machine has the same few doors: `handle_*` takes what happened together with the time it happened
//! at, `poll_*` hands out what there is to send, to tell and to wait for. After each `handle_*` call drain
//! `poll_event` until it returns `None`, then `poll_transmit`, then read `poll_timeout`: nothing else has to
//! be remembered, and no call may be left out.

#[cfg(feature = "bats")]
pub mod bats;
pub mod frame;
#[cfg(feature = "quic")]
pub mod quic;
pub mod redial;
pub mod session;
#[cfg(feature = "tls")]
pub mod tls;
pub mod varint;
#[cfg(feature = "websocket")]
pub mod websocket;
