//! Towline's protocols as state machines: bytes and `now` in; transmits, events and the next deadline out.
//!
//! Nothing here opens a socket, reads a clock, starts a thread or seeds itself.

#[cfg(feature = "quic")]
pub mod quic;
