//! `towline.h`: contexts, configurations, endpoints, listeners, connections, messages, events.

use std::ffi::c_char;

use crate::entry::{Failure, wanted};

mod config;
mod connection;
mod context;
mod endpoint;
mod event;
mod failure;
mod listener;
mod message;
mod quic;
mod request;
mod stats;

pub(crate) use config::{change as change_config, set_socket_factory, towline_config};
pub(crate) use listener::{attacher as listener_attacher, towline_listener};
pub(crate) use message::payload;

/// Kinds of handles, each with a number of its own in the whole library.
pub(crate) mod kind {
    pub(crate) const CONTEXT: usize = 1;
    pub(crate) const CONFIG: usize = 2;
    pub(crate) const ENDPOINT: usize = 3;
    pub(crate) const LISTENER: usize = 4;
    pub(crate) const CONNECTION: usize = 5;
    pub(crate) const RECEIVED: usize = 6;
    pub(crate) const EVENTS: usize = 7;
    // 8 to 13 are those of `socket_iocp` and `bats`.
    pub(crate) const QUIC_LISTENER: usize = 14;
    pub(crate) const QUIC_CONNECTION: usize = 15;
    pub(crate) const QUIC_STREAM: usize = 16;
}

/// Writes a text where the caller wants it, with a NUL behind it.
///
/// # Safety
///
/// `buffer` is NULL, or writable for `length` bytes.
unsafe fn text_out(text: &str, buffer: *mut c_char, length: usize) -> Result<(), Failure> {
    wanted(buffer, "buffer")?;
    if text.len() >= length {
        let needed = text.len() + 1;
        return Err(Failure::invalid(format!(
            "the buffer has {length} bytes and {needed} are needed"
        )));
    }
    // SAFETY: by contract writable for `length`, which is more than the text.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr().cast(), buffer, text.len());
        buffer.add(text.len()).write(0);
    }
    Ok(())
}
