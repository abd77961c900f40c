//! Listeners.

use std::ffi::{c_char, c_void};
use std::sync::{Arc, OnceLock};

use towline_core::{Attacher, Connection, Listener};

use super::connection::{Conn, Forward, towline_connection};
use super::endpoint::{self, towline_endpoint};
use super::kind;
use super::text_out;
use crate::entry::{Failure, code, put, run, text, towline_result, wanted};
use crate::gate::{Gate, User};
use crate::handle::Table;
use crate::wait::block_on;

/// Accepts connections on one address.
pub struct towline_listener {
    _opaque: [u8; 0],
}

/// Takes an accepted connection, which is the program's from now on: free it with towline_connection_free. Comes on the connection's I/O thread when its
/// handshakes are done, before its first event; connections of different threads may come at the same time. It must call
/// towline_connection_set_callback before it returns, else the connection is aborted and the log says so. It must not block. Inside, the same calls
/// are allowed as in a towline_event_callback.
pub type towline_accept_callback = Option<
    unsafe extern "C" fn(
        listener: *mut towline_listener,
        connection: *mut towline_connection,
        user: *mut c_void,
    ),
>;

type AcceptFunction =
    unsafe extern "C" fn(*mut towline_listener, *mut towline_connection, *mut c_void);

/// What accepting needs of a listener.
struct Door {
    /// The listener's handle, which is there a little later than the first connection can come.
    handle: OnceLock<usize>,
    function: AcceptFunction,
    user: User,
    gate: Gate,
}

impl Door {
    /// Shows a new connection to the application.
    fn admit(&self, connection: &Connection) -> Forward {
        let Some((conn, handle)) = Conn::accepted(connection) else {
            connection.abort();
            return Forward::nobody();
        };
        let listener = *self.handle.wait() as *mut towline_listener;
        let shown = self.gate.enter(|| {
            // SAFETY: the application promised a function of this type.
            unsafe { (self.function)(listener, handle as *mut towline_connection, self.user.0) };
        });
        if shown.is_none() {
            // The listener was freed: nobody will ever hear of this connection.
            Conn::forget(handle);
            connection.abort();
            return Forward::nobody();
        }
        if !conn.has_callback() {
            tracing::error!("a connection is aborted: its accept callback set no event callback");
            connection.abort();
        }
        Forward::to(conn)
    }
}

pub(super) struct Held {
    listener: Listener,
    door: Option<Arc<Door>>,
}

/// Brings sockets of factories to a listener.
pub(crate) fn attacher(listener: *const towline_listener) -> Result<Attacher, Failure> {
    Ok(LISTENERS.get(listener as usize)?.listener.attacher())
}

static LISTENERS: Table<Held> = Table::new(kind::LISTENER, "listener");

/// Listens on a URL; port 0 is any free port, towline_listener_url tells which. With a `callback`, connections come to it; without (NULL), towline_listener_accept
/// fetches them. Free it with towline_listener_free.
///
/// Any thread; resolves names on the calling one. Errors: TOWLINE_ERROR_ADDRESS, TOWLINE_ERROR_LISTEN, TOWLINE_ERROR_CONFIG without a certificate
/// on an encrypted wire.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn towline_listen(
    endpoint: *mut towline_endpoint,
    url: *const c_char,
    callback: towline_accept_callback,
    user: *mut c_void,
    listener: *mut *mut towline_listener,
) -> towline_result {
    run(|| {
        wanted(listener, "listener")?;
        let endpoint = endpoint::get(endpoint)?;
        // SAFETY: by contract NULL or a C string.
        let url = unsafe { text(url, "url") }?;
        let held = match callback {
            None => Held { listener: endpoint.listen(url)?, door: None },
            Some(function) => {
                let user = User(user);
                let handle = OnceLock::new();
                let door = Arc::new(Door { handle, function, user, gate: Gate::default() });
                let inside = Arc::clone(&door);
                let admit = move |connection: &Connection| inside.admit(connection);
                Held { listener: endpoint.listen_with(url, admit)?, door: Some(door) }
            }
        };
        let door = held.door.clone();
        let inserted = LISTENERS.insert(Arc::new(held));
        let handle = inserted.unwrap_or(0) as *mut towline_listener;
        // SAFETY: checked above, and by contract writable.
        unsafe { put(listener, handle) };
        if let Some(door) = door {
            // Whoever came already has waited for this.
            door.handle.set(handle as usize).ok();
        }
        inserted.map(drop).ok_or_else(|| Failure::internal("too many listeners"))
    })
}

/// The next connection, waiting for it as long as `timeout_ms` says (negative: for ever). Messages are pulled from it by
/// towline_connection_receive. Free it with towline_connection_free.
///
/// Any thread. Errors: TOWLINE_ERROR_TIMED_OUT; TOWLINE_ERROR_ENDED when the context or the listener ended; TOWLINE_ERROR_UNSUPPORTED with an
/// accept callback, which gets all connections.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn towline_listener_accept(
    listener: *mut towline_listener,
    timeout_ms: i64,
    connection: *mut *mut towline_connection,
) -> towline_result {
    run(|| {
        wanted(connection, "connection")?;
        let held = LISTENERS.get(listener as usize)?;
        if held.door.is_some() {
            let text = "the accept callback gets all connections of this listener";
            return Err(Failure::new(code::TOWLINE_ERROR_UNSUPPORTED, text));
        }
        let accepted = block_on(held.listener.accept(), timeout_ms)??;
        let Some((_, handle)) = Conn::accepted(&accepted) else {
            accepted.abort();
            return Err(Failure::internal("too many connections"));
        };
        // SAFETY: checked above, and by contract writable.
        unsafe { put(connection, handle as *mut towline_connection) };
        Ok(())
    })
}

/// The URL that clients on this host can connect to, with the real port, as a C string in `buffer`; `length` says what it holds, 256 is enough for all
/// but WebSocket paths.
///
/// Any thread. Errors: TOWLINE_ERROR_INVALID_ARGUMENT when it does not fit.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn towline_listener_url(
    listener: *const towline_listener,
    buffer: *mut c_char,
    length: usize,
) -> towline_result {
    run(|| {
        let held = LISTENERS.get(listener as usize)?;
        // SAFETY: by contract NULL, or writable for `length` bytes.
        unsafe { text_out(&held.listener.url().to_string(), buffer, length) }
    })
}

/// Stops accepting and frees the listener. Its accept callback does not run when this returns, unless it is what calls this, and will not be called
/// again. Accepted connections stay.
///
/// Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn towline_listener_free(listener: *mut towline_listener) -> towline_result {
    run(|| {
        let held = LISTENERS.remove(listener as usize)?;
        if let Some(door) = &held.door {
            door.gate.close();
        }
        Ok(())
    })
}
