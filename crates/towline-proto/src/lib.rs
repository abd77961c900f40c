//! Towline's protocols as state machines: bytes and `now` in, bytes, events and deadlines out. No socket, no clock, no thread.

pub mod frame;
#[cfg(feature = "tls")]
pub mod tls;
