//! Endpoints: connecting and listening with one configuration.

use std::ffi::{c_char, c_void};
use std::sync::Arc;

use towline_core::Endpoint;

use super::config::{self, towline_config};
use super::connection::{Conn, towline_connection};
use super::context::{self, towline_context};
use super::event::towline_event_callback;
use super::kind;
use crate::entry::{Failure, put, run, text, towline_result, wanted};
use crate::gate::User;
use crate::handle::Table;

/// Connects and listens.
pub struct towline_endpoint {
    _opaque: [u8; 0],
}

static ENDPOINTS: Table<Endpoint> = Table::new(kind::ENDPOINT, "endpoint");

/// The endpoint behind a handle.
pub(super) fn get(endpoint: *const towline_endpoint) -> Result<Arc<Endpoint>, Failure> {
    ENDPOINTS.get(endpoint as usize)
}

/// An endpoint on the context's threads. `config` may be NULL for the defaults; it is copied. Free it with towline_endpoint_free.
///
/// Any thread. Errors: TOWLINE_ERROR_CONFIG, by the name of the option.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn towline_endpoint_new(
    context: *mut towline_context,
    config: *const towline_config,
    endpoint: *mut *mut towline_endpoint,
) -> towline_result {
    run(|| {
        wanted(endpoint, "endpoint")?;
        let config = config::build(config)?;
        let made = context::with(context, |context| Ok(Endpoint::new(context, &config)))?;
        let handle = ENDPOINTS.insert(Arc::new(made));
        let handle = handle.ok_or_else(|| Failure::internal("too many endpoints"))?;
        // SAFETY: checked above, and by contract writable.
        unsafe { put(endpoint, handle as *mut towline_endpoint) };
        Ok(())
    })
}

/// Frees an endpoint. Its listeners and connections stay.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn towline_endpoint_free(endpoint: *mut towline_endpoint) -> towline_result {
    run(|| ENDPOINTS.remove(endpoint as usize).map(drop))
}

/// Begins to connect to a URL, or to the first that answers of several separated by commas, and returns at once.
/// towline_connection_wait waits for the outcome.
///
/// With a `callback`, the events of the connection come to it, TOWLINE_EVENT_CONNECTED first; when no connection can be made, TOWLINE_EVENT_CLOSED
/// is the only one. Without (NULL), messages are pulled by towline_connection_receive. Free the connection with
/// towline_connection_free in either case.
///
/// Any thread. Errors, without a connection and without events: TOWLINE_ERROR_ADDRESS, TOWLINE_ERROR_ENDED when the context was freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn towline_connect(
    endpoint: *mut towline_endpoint,
    urls: *const c_char,
    callback: towline_event_callback,
    user: *mut c_void,
    connection: *mut *mut towline_connection,
) -> towline_result {
    run(|| {
        wanted(connection, "connection")?;
        let endpoint = get(endpoint)?;
        // SAFETY: by contract NULL or a C string.
        let urls = unsafe { text(urls, "urls") }?;
        let handle = Conn::dial(
            &endpoint,
            urls,
            callback.map(|function| (function, User(user))),
            |handle| {
                // Before the first callback can come. SAFETY: checked above, and by contract writable.
                unsafe { put(connection, handle as *mut towline_connection) };
            },
        );
        handle.inspect_err(|_| {
            // SAFETY: as above.
            unsafe { put(connection, std::ptr::null_mut()) };
        })
    })
}
