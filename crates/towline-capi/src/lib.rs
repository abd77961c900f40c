//! Towline for C and C++: `libtowline`, by the headers that it serves.
//!
//! - [`towline`]: `towline.h`, Towline's own API;
//! - [`socket_iocp`]: `socket_iocp.h`, completion-based sockets;
//! - [`bats`]: `c_bats_api.h`, the SDK;
//! - [`c4socket`]: `c4socket.h`, sockets that the application brings.
//!
//! What they share: [`handle`] tells a live object from a stale or foreign pointer, [`entry`] catches panics and keeps the text of
//! the last error, [`gate`] sees to it that no callback comes after an object was freed, [`log`] writes the log.
#![allow(
    unsafe_code,
    non_camel_case_types,
    unreachable_pub,
    clippy::missing_safety_doc,
    reason = "this is the C border: types have C's names, what the header has is public, and the header says what callers owe"
)]

mod bats;
mod c4socket;
mod entry;
mod gate;
mod handle;
mod log;
mod socket_iocp;
mod towline;
mod wait;
