//! `bats_context_*`.

use std::ffi::{c_char, c_int};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use towline_core::{Context, DriverChoice};

use super::signal::{Callback, Watch};
use super::{bats_error_t, checked, kind};
use crate::entry::{Failure, code, text};
use crate::gate::in_callback;
use crate::handle::Table;
use crate::log;

/// A context of the SDK.
pub(super) struct Held {
    context: RwLock<Option<Context>>,
    signals: Mutex<Option<Watch>>,
}

static CONTEXTS: Table<Held> = Table::new(kind::CONTEXT, "BATS context");

/// Does something with a context that lives.
pub(super) fn with<T>(
    held: &Held,
    action: impl FnOnce(&Context) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let context = held.context.read().unwrap_or_else(PoisonError::into_inner);
    let gone = || Failure::new(code::TOWLINE_ERROR_ENDED, "the BATS context was destroyed");
    action(context.as_ref().ok_or_else(gone)?)
}

/// The context behind a handle.
pub(super) fn get(ctx: usize) -> Result<Arc<Held>, Failure> {
    CONTEXTS.get(ctx)
}

#[unsafe(no_mangle)]
pub extern "C" fn bats_context_create() -> usize {
    log::install();
    let mut handle = 0;
    checked("bats_context_create", || {
        let driver = match std::env::var("TOWLINE_DRIVER").as_deref() {
            Ok("io_uring") => DriverChoice::IoUring,
            Ok("epoll") => DriverChoice::Epoll,
            _ => DriverChoice::Auto,
        };
        // One thread: the SDK's programs expect all events on "the context's thread".
        let context = Context::builder().threads(1).driver(driver).build()?;
        let held = Held { context: RwLock::new(Some(context)), signals: Mutex::default() };
        handle = CONTEXTS
            .insert(Arc::new(held))
            .ok_or_else(|| Failure::internal("too many contexts"))?;
        Ok(())
    });
    handle
}

#[unsafe(no_mangle)]
pub extern "C" fn bats_context_destroy(ctx: usize) {
    checked("bats_context_destroy", || {
        CONTEXTS.get(ctx)?;
        if in_callback() {
            let text = "a context cannot be destroyed inside a callback, which it would wait for";
            return Err(Failure::new(code::TOWLINE_ERROR_WOULD_DEADLOCK, text));
        }
        let held = CONTEXTS.remove(ctx)?;
        let signals = held.signals.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(signals);
        let context = held.context.write().unwrap_or_else(PoisonError::into_inner).take();
        drop(context);
        Ok(())
    });
}

#[unsafe(no_mangle)]
pub extern "C" fn bats_context_set_log_level(ctx: usize, level: c_int) -> bats_error_t {
    checked("bats_context_set_log_level", || {
        CONTEXTS.get(ctx)?;
        match level {
            0..=4 => {
                log::set_level(level as u8);
                Ok(())
            }
            _ => Err(Failure::invalid(format!("{level} is no log level"))),
        }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn bats_context_set_log_file_path(
    ctx: usize,
    path: *const c_char,
) -> bats_error_t {
    checked("bats_context_set_log_file_path", || {
        CONTEXTS.get(ctx)?;
        let path = match path.is_null() {
            true => None,
            // SAFETY: not NULL, and by contract a C string.
            false => Some(unsafe { text(path, "path") }?),
        };
        log::set_file(path).map_err(|error| Failure::new(code::TOWLINE_ERROR_FILE, error))
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn bats_context_set_signal_callback(
    ctx: usize,
    callback: Option<Callback>,
) -> bats_error_t {
    checked("bats_context_set_signal_callback", || {
        let held = CONTEXTS.get(ctx)?;
        let watch = callback.map(Watch::start).transpose();
        let watch = watch.map_err(|error| Failure::new(code::TOWLINE_ERROR_IO, error))?;
        let old = {
            let mut signals = held.signals.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *signals, watch)
        };
        drop(old);
        Ok(())
    })
}
