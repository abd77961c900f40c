//! What every entry does: check, catch panics, and keep the text of the error for the calling thread.

use std::any::Any;
use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What a call returns: `TOWLINE_OK` or one of the negative `TOWLINE_ERROR_` values.
pub type towline_result = i32;

/// The values of [`towline_result`].
pub mod code {
    use super::towline_result;

    /// All is well.
    pub const TOWLINE_OK: towline_result = 0;
    /// An argument is NULL or out of range.
    pub const TOWLINE_ERROR_INVALID_ARGUMENT: towline_result = -1;
    /// The handle was freed already, or is of another kind.
    pub const TOWLINE_ERROR_STALE_HANDLE: towline_result = -2;
    /// A fault of this library; it was contained. Please report it with the log.
    pub const TOWLINE_ERROR_INTERNAL: towline_result = -3;
    /// An option's value cannot be honoured, or a certificate or key cannot be used.
    pub const TOWLINE_ERROR_CONFIG: towline_result = -4;
    /// A URL cannot be used.
    pub const TOWLINE_ERROR_ADDRESS: towline_result = -5;
    /// No connection could be made.
    pub const TOWLINE_ERROR_CONNECT: towline_result = -6;
    /// Listening failed; often the port is taken.
    pub const TOWLINE_ERROR_LISTEN: towline_result = -7;
    /// The send queue is full: wait for `TOWLINE_EVENT_WRITABLE`.
    pub const TOWLINE_ERROR_FULL: towline_result = -8;
    /// The message cannot be sent on this wire: too large, a bad id, or text that is not UTF-8.
    pub const TOWLINE_ERROR_MESSAGE: towline_result = -9;
    /// The connection or the context has ended; the text says how.
    pub const TOWLINE_ERROR_ENDED: towline_result = -10;
    /// The time given was over.
    pub const TOWLINE_ERROR_TIMED_OUT: towline_result = -11;
    /// The wire under the connection cannot do this.
    pub const TOWLINE_ERROR_UNSUPPORTED: towline_result = -12;
    /// The connection is not established yet.
    pub const TOWLINE_ERROR_NOT_CONNECTED: towline_result = -13;
    /// The call would wait for the thread that makes it: blocking calls are refused inside callbacks.
    pub const TOWLINE_ERROR_WOULD_DEADLOCK: towline_result = -14;
    /// The operating system refused something.
    pub const TOWLINE_ERROR_IO: towline_result = -15;
    /// The peer restarted: whether it had seen what was not acknowledged is not known.
    pub const TOWLINE_ERROR_RESET: towline_result = -16;
    /// Not everything was acknowledged before the end; the closed event gives it back.
    pub const TOWLINE_ERROR_UNACKNOWLEDGED: towline_result = -17;
    /// The same request id is already waiting.
    pub const TOWLINE_ERROR_DUPLICATE: towline_result = -18;
    /// A file cannot be read or written.
    pub const TOWLINE_ERROR_FILE: towline_result = -19;
}

/// A few words about a result, the same every time; the details of a failure are in the thread's last error.
pub(crate) fn describe(code: towline_result) -> &'static CStr {
    match code {
        code::TOWLINE_OK => c"success",
        code::TOWLINE_ERROR_INVALID_ARGUMENT => c"invalid argument",
        code::TOWLINE_ERROR_STALE_HANDLE => c"stale handle",
        code::TOWLINE_ERROR_INTERNAL => c"internal fault",
        code::TOWLINE_ERROR_CONFIG => c"bad configuration",
        code::TOWLINE_ERROR_ADDRESS => c"bad address",
        code::TOWLINE_ERROR_CONNECT => c"cannot connect",
        code::TOWLINE_ERROR_LISTEN => c"cannot listen",
        code::TOWLINE_ERROR_FULL => c"send queue full",
        code::TOWLINE_ERROR_MESSAGE => c"message cannot be sent",
        code::TOWLINE_ERROR_ENDED => c"connection ended",
        code::TOWLINE_ERROR_TIMED_OUT => c"timed out",
        code::TOWLINE_ERROR_UNSUPPORTED => c"not supported by this wire",
        code::TOWLINE_ERROR_NOT_CONNECTED => c"not connected yet",
        code::TOWLINE_ERROR_WOULD_DEADLOCK => c"blocking call inside a callback",
        code::TOWLINE_ERROR_IO => c"input or output error",
        code::TOWLINE_ERROR_RESET => c"the peer restarted",
        code::TOWLINE_ERROR_UNACKNOWLEDGED => c"not everything was acknowledged",
        code::TOWLINE_ERROR_DUPLICATE => c"duplicate request id",
        code::TOWLINE_ERROR_FILE => c"file error",
        _ => c"unknown result",
    }
}

/// Why a call failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: towline_result,
    pub(crate) text: String,
}

impl Failure {
    pub(crate) fn new(code: towline_result, text: impl std::fmt::Display) -> Failure {
        Failure { code, text: text.to_string() }
    }

    pub(crate) fn invalid(text: impl std::fmt::Display) -> Failure {
        Failure::new(code::TOWLINE_ERROR_INVALID_ARGUMENT, text)
    }

    pub(crate) fn stale(text: impl std::fmt::Display) -> Failure {
        Failure::new(code::TOWLINE_ERROR_STALE_HANDLE, text)
    }

    pub(crate) fn internal(text: impl std::fmt::Display) -> Failure {
        Failure::new(code::TOWLINE_ERROR_INTERNAL, text)
    }
}

thread_local! {
    static LAST: RefCell<CString> = RefCell::default();
}

/// Keeps the text of an error for the calling thread.
pub(crate) fn remember(text: &str) {
    // A text with a NUL in it came out of a C string; it ends there.
    let end = text.find('\0').unwrap_or(text.len());
    let text = CString::new(text.get(..end).unwrap_or_default()).unwrap_or_default();
    // Fails only while the thread ends.
    LAST.try_with(|last| last.replace(text)).ok();
}

/// The text of the calling thread's last error: valid until its next failing call.
pub(crate) fn last() -> *const c_char {
    LAST.try_with(|last| last.borrow().as_ptr()).unwrap_or(c"".as_ptr())
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("a panic")
}

/// Runs an entry. A failure's text is kept for the thread; a panic becomes a failure, too.
pub(crate) fn attempt<T>(entry: impl FnOnce() -> Result<T, Failure>) -> Result<T, towline_result> {
    let failure = match catch_unwind(AssertUnwindSafe(entry)) {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(failure)) => failure,
        Err(panic) => {
            let text = panic_text(&*panic).to_owned();
            tracing::error!(panic = text, "a call panicked; this is a fault of the library");
            // Dropping a panic's value may panic again.
            catch_unwind(AssertUnwindSafe(|| drop(panic))).ok();
            Failure::internal(text)
        }
    };
    remember(&failure.text);
    Err(failure.code)
}

/// [`attempt`] for entries that return a result and nothing else.
pub(crate) fn run(entry: impl FnOnce() -> Result<(), Failure>) -> towline_result {
    attempt(entry).err().unwrap_or(code::TOWLINE_OK)
}

/// A C string that has to be there and be UTF-8.
///
/// # Safety
///
/// `text` is NULL or a NUL-terminated string that lives for the call.
pub(crate) unsafe fn text<'a>(text: *const c_char, name: &str) -> Result<&'a str, Failure> {
    if text.is_null() {
        return Err(Failure::invalid(format!("{name} is NULL")));
    }
    // SAFETY: it is not NULL, and by contract NUL-terminated.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str().map_err(|_| Failure::invalid(format!("{name} is not UTF-8")))
}

/// Bytes of the caller. NULL is fine when there are none.
///
/// # Safety
///
/// `data` is NULL or points to `length` bytes that live and do not change for the call.
pub(crate) unsafe fn bytes<'a>(data: *const u8, length: usize) -> Result<&'a [u8], Failure> {
    match (data.is_null(), length) {
        (_, 0) => Ok(&[]),
        (true, _) => Err(Failure::invalid(format!("the data is NULL and its length {length}"))),
        (false, length) if isize::try_from(length).is_err() => {
            Err(Failure::invalid(format!("{length} is no length")))
        }
        // SAFETY: not NULL, at most `isize::MAX` long, and by contract readable for the call.
        (false, length) => Ok(unsafe { std::slice::from_raw_parts(data, length) }),
    }
}

/// Writes a result to where the caller wants it.
///
/// # Safety
///
/// `place` is NULL or writable for a `T`.
pub(crate) unsafe fn put<T>(place: *mut T, value: T) {
    if !place.is_null() {
        // SAFETY: not NULL and by contract writable.
        unsafe { place.write(value) };
    }
}

/// Refuses NULL where a result goes, before anything is done.
pub(crate) fn wanted<T>(place: *mut T, name: &str) -> Result<(), Failure> {
    if place.is_null() { Err(Failure::invalid(format!("{name} is NULL"))) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_a_result_with_its_text() {
        assert_eq!(run(|| panic!("on purpose {}", 1)), code::TOWLINE_ERROR_INTERNAL);
        // SAFETY: `last` returns a NUL-terminated string of this thread.
        let text = unsafe { CStr::from_ptr(last()) };
        assert_eq!(text, c"on purpose 1");
        assert_eq!(run(|| Ok(())), 0);
    }
}
