//! Contexts, and what belongs to the library as a whole.

use std::ffi::{c_char, c_void};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use towline_core::{Context, DriverChoice};

use super::kind;
use crate::entry::{self, Failure, code, put, run, text, towline_result, wanted};
use crate::gate::in_callback;
use crate::handle::{self, Table};
use crate::log::{self, towline_log_callback};

/// Owns the I/O threads. Everything else is made from one.
pub struct towline_context {
    _opaque: [u8; 0],
}

/// How a context is made. Fill in `struct_size` with `sizeof(towline_context_options)`; what is 0 has its default.
#[repr(C)]
pub struct towline_context_options {
    /// `sizeof(towline_context_options)`.
    pub struct_size: usize,
    /// I/O threads, 1 to 1,024. 0: one for each core.
    pub threads: u32,
    /// One of the `TOWLINE_DRIVER_` values. 0: what the environment variable `TOWLINE_DRIVER` says (`io_uring`, `epoll`), else what suits.
    pub driver: i32,
    /// How long an I/O thread polls before it sleeps, in microseconds, at most 1,000,000. It costs a core meanwhile.
    pub spin_us: u64,
}

/// What suits the system.
pub const TOWLINE_DRIVER_AUTO: i32 = 0;
/// io_uring, or an error.
pub const TOWLINE_DRIVER_IO_URING: i32 = 1;
/// epoll, which every Linux has.
pub const TOWLINE_DRIVER_EPOLL: i32 = 2;

/// A context, until it is freed.
pub(super) type Held = RwLock<Option<Context>>;

static CONTEXTS: Table<Held> = Table::new(kind::CONTEXT, "context");

/// Does something with a context that lives.
pub(super) fn with<T>(
    context: *const towline_context,
    action: impl FnOnce(&Context) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let held = CONTEXTS.get(context as usize)?;
    let held = held.read().unwrap_or_else(PoisonError::into_inner);
    match &*held {
        Some(context) => action(context),
        None => Err(Failure::stale("the context was freed already")),
    }
}

/// What the environment says about drivers.
fn driver_choice() -> DriverChoice {
    match std::env::var("TOWLINE_DRIVER").as_deref() {
        Ok("io_uring") => DriverChoice::IoUring,
        Ok("epoll") => DriverChoice::Epoll,
        _ => DriverChoice::Auto,
    }
}

/// Starts the I/O threads. `options` may be NULL. Free it with towline_context_free.
///
/// Any thread. Errors: TOWLINE_ERROR_CONFIG, TOWLINE_ERROR_IO.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn towline_context_new(
    options: *const towline_context_options,
    context: *mut *mut towline_context,
) -> towline_result {
    log::install();
    run(|| {
        wanted(context, "context")?;
        let mut builder = Context::builder();
        let mut driver = driver_choice();
        // SAFETY: NULL, or by contract readable.
        if let Some(options) = unsafe { options.as_ref() } {
            if options.struct_size != size_of::<towline_context_options>() {
                return Err(Failure::invalid(
                    "options.struct_size is not sizeof(towline_context_options)",
                ));
            }
            if options.threads != 0 {
                builder = builder.threads(options.threads as usize);
            }
            builder = builder.spin(Duration::from_micros(options.spin_us));
            driver = match options.driver {
                TOWLINE_DRIVER_AUTO => driver,
                TOWLINE_DRIVER_IO_URING => DriverChoice::IoUring,
                TOWLINE_DRIVER_EPOLL => DriverChoice::Epoll,
                other => return Err(Failure::invalid(format!("{other} is no driver"))),
            };
        }
        let made = builder.driver(driver).build()?;
        let handle = CONTEXTS.insert(Arc::new(RwLock::new(Some(made))));
        let handle = handle.ok_or_else(|| Failure::internal("too many contexts"))?;
        // SAFETY: checked above, and by contract writable.
        unsafe { put(context, handle as *mut towline_context) };
        Ok(())
    })
}

/// Stops everything of this context in order: listeners close, connections get the time of `TOWLINE_OPTION_CLOSE_TIMEOUT_MS` to have
/// what they accepted acknowledged, sockets are closed, threads end. When it returns no callback of this context runs, and none will.
/// Handles of its endpoints, listeners and connections stay, answer with TOWLINE_ERROR_ENDED, and are still to be freed.
///
/// Any thread but those of callbacks: there it is TOWLINE_ERROR_WOULD_DEADLOCK. Twice is TOWLINE_ERROR_STALE_HANDLE.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn towline_context_free(context: *mut towline_context) -> towline_result {
    run(|| {
        CONTEXTS.get(context as usize)?;
        if in_callback() {
            let text = "a context cannot be freed inside a callback, which it would wait for";
            return Err(Failure::new(code::TOWLINE_ERROR_WOULD_DEADLOCK, text));
        }
        let held = CONTEXTS.remove(context as usize)?;
        let context = held.write().unwrap_or_else(PoisonError::into_inner).take();
        drop(context);
        Ok(())
    })
}

/// A few words about a result. Never NULL, never to be freed.
#[unsafe(no_mangle)]
pub extern "C" fn towline_strerror(result: towline_result) -> *const c_char {
    entry::describe(result).as_ptr()
}

/// What exactly went wrong in the calling thread's last failing call, in English. Never NULL; valid until the thread's next failing call.
#[unsafe(no_mangle)]
pub extern "C" fn towline_last_error() -> *const c_char {
    entry::last()
}

/// The library's version, such as "0.1.0"; compare with TOWLINE_VERSION of the header. Never to be freed.
#[unsafe(no_mangle)]
pub extern "C" fn towline_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// How many objects of this library the program holds and has not freed. For tests.
#[unsafe(no_mangle)]
pub extern "C" fn towline_live_objects() -> usize {
    handle::live()
}

/// From which level on the log is written: 0 trace, 1 debug, 2 info, 3 warn (the default), 4 error, 5 nothing. For the whole process.
#[unsafe(no_mangle)]
pub extern "C" fn towline_set_log_level(level: i32) -> towline_result {
    run(|| match level {
        0..=5 => {
            log::set_level(level as u8);
            Ok(())
        }
        _ => Err(Failure::invalid(format!("{level} is no log level; they are 0 to 5"))),
    })
}

/// Appends the log to a file instead of writing it to standard error; NULL goes back to standard error.
///
/// Errors: TOWLINE_ERROR_FILE.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn towline_set_log_file(path: *const c_char) -> towline_result {
    run(|| {
        let path = match path.is_null() {
            true => None,
            // SAFETY: not NULL, and by contract a C string.
            false => Some(unsafe { text(path, "path") }?),
        };
        let name = path.unwrap_or_default();
        log::set_file(path).map_err(|error| {
            Failure::new(code::TOWLINE_ERROR_FILE, format!("cannot write `{name}`: {error}"))
        })
    })
}

/// Hands the log to the application, line by line; NULL goes back to standard error. The callback may come on any thread, also on several at
/// once, and may call everything. When this returns, the earlier callback is not running, and will not be called again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn towline_set_log_callback(
    callback: towline_log_callback,
    user: *mut c_void,
) -> towline_result {
    run(|| {
        log::set_callback(callback, user);
        Ok(())
    })
}
