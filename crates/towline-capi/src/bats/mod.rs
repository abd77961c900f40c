//! `c_bats_api.h`: the SDK, over `towline`'s contexts, endpoints and connections.
//!
//! What it needs of the crate below is in [`transport`]: which URL a mode is, and with which options.

mod config;
mod connection;
mod context;
mod protocol;
mod signal;
mod transport;

use std::ffi::c_int;

use crate::entry::{Failure, attempt, code, towline_result};

/// `bats_error_t`.
pub type bats_error_t = c_int;

const ERROR_NONE: bats_error_t = 0;
const ERROR_INVALID_PARAM: bats_error_t = 1;
const ERROR_LISTEN_FAILED: bats_error_t = 2;
const ERROR_CONNECT_FAILED: bats_error_t = 3;
const ERROR_MEMORY: bats_error_t = 5;
const ERROR_TIMEOUT: bats_error_t = 6;
const ERROR_CONNECTION_CLOSED: bats_error_t = 7;
const ERROR_SEND_FAILED: bats_error_t = 8;

/// Runs an entry; failures become the SDK's errors, and are logged, because most programs do not look.
fn checked(call: &str, entry: impl FnOnce() -> Result<(), Failure>) -> bats_error_t {
    match attempt(entry) {
        Ok(()) => ERROR_NONE,
        Err(result) => {
            // SAFETY: the text is this thread's own and NUL-terminated.
            let text = unsafe { std::ffi::CStr::from_ptr(crate::entry::last()) };
            match result {
                // What happens all the time and is told by events.
                code::TOWLINE_ERROR_FULL
                | code::TOWLINE_ERROR_NOT_CONNECTED
                | code::TOWLINE_ERROR_ENDED => {}
                _ => tracing::warn!("{call}: {}", text.to_string_lossy()),
            }
            error(result)
        }
    }
}

/// A result as one of the SDK's errors.
fn error(result: towline_result) -> bats_error_t {
    match result {
        code::TOWLINE_OK => ERROR_NONE,
        code::TOWLINE_ERROR_LISTEN => ERROR_LISTEN_FAILED,
        code::TOWLINE_ERROR_CONNECT => ERROR_CONNECT_FAILED,
        code::TOWLINE_ERROR_INTERNAL => ERROR_MEMORY,
        code::TOWLINE_ERROR_TIMED_OUT => ERROR_TIMEOUT,
        code::TOWLINE_ERROR_ENDED => ERROR_CONNECTION_CLOSED,
        code::TOWLINE_ERROR_FULL | code::TOWLINE_ERROR_NOT_CONNECTED => ERROR_SEND_FAILED,
        _ => ERROR_INVALID_PARAM,
    }
}

/// The kinds of this module's handles.
mod kind {
    pub(super) const CONTEXT: usize = 10;
    pub(super) const CONFIG: usize = 11;
    pub(super) const PROTOCOL: usize = 12;
    pub(super) const CONNECTION: usize = 13;
}
