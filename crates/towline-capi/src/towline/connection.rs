//! Connections.

use std::ffi::{c_char, c_void};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use towline_core::{Connecting, Connection, Endpoint, Event, Handler, Lane, TrySendError};

use super::event::{show, towline_event, towline_event_callback};
use super::message::{self, payload, towline_message, towline_received};
use super::{kind, text_out};
use crate::entry::{Failure, bytes, code, put, run, text, towline_result, wanted};
use crate::gate::{Gate, User};
use crate::handle::Table;
use crate::wait::{block_on, may_wait};

/// A connection to a peer. Any number of threads may use it.
pub struct towline_connection {
    _opaque: [u8; 0],
}

type EventFunction =
    unsafe extern "C" fn(*mut towline_connection, *const towline_event, *mut c_void);

/// What the dial came to.
#[derive(Default)]
struct Outcome {
    /// While it is under way.
    dialing: Option<Connecting>,
    failed: Option<Failure>,
    waiting: Vec<Waker>,
}

/// A connection as C programs hold it.
#[derive(Default)]
pub(super) struct Conn {
    handle: AtomicUsize,
    connection: OnceLock<Connection>,
    outcome: Mutex<Outcome>,
    callback: OnceLock<(EventFunction, User)>,
    pub(super) gate: Gate,
}

static CONNECTIONS: Table<Conn> = Table::new(kind::CONNECTION, "connection");

/// The connection behind a handle.
pub(super) fn get(connection: *const towline_connection) -> Result<Arc<Conn>, Failure> {
    CONNECTIONS.get(connection as usize)
}

/// The connection behind a handle, once it is one.
pub(super) fn established(connection: *const towline_connection) -> Result<Connection, Failure> {
    get(connection)?.established().cloned()
}

impl Conn {
    fn outcome(&self) -> MutexGuard<'_, Outcome> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn has_callback(&self) -> bool {
        self.callback.get().is_some()
    }

    fn insert(self: &Arc<Self>) -> Option<usize> {
        let handle = CONNECTIONS.insert(Arc::clone(self))?;
        self.handle.store(handle, Ordering::Release);
        Some(handle)
    }

    /// Begins to connect.
    pub(super) fn dial(
        endpoint: &Endpoint,
        urls: &str,
        callback: Option<(EventFunction, User)>,
        tell: impl FnOnce(usize),
    ) -> Result<(), Failure> {
        let conn = Arc::new(Conn::default());
        let handle = conn.insert().ok_or_else(|| Failure::internal("too many connections"))?;
        tell(handle);
        let connecting = match callback {
            Some(callback) => {
                conn.callback.set(callback).ok();
                endpoint.connect_with(urls, Forward::to(Arc::clone(&conn)))
            }
            None => endpoint.connect(urls),
        };
        conn.outcome().dialing = Some(connecting);
        conn.poll();
        // What is refused at once had no dial: there are no events, and nothing to free.
        let refused = match &conn.outcome().failed {
            Some(failure) if failure.code != code::TOWLINE_ERROR_CONNECT => {
                Some(Failure::new(failure.code, &failure.text))
            }
            _ => None,
        };
        match refused {
            Some(failure) => {
                Conn::forget(handle);
                Err(failure)
            }
            None => Ok(()),
        }
    }

    /// A connection that a listener accepted, with its handle.
    pub(super) fn accepted(connection: &Connection) -> Option<(Arc<Conn>, usize)> {
        let conn = Arc::new(Conn::default());
        conn.connection.set(connection.clone()).ok();
        let handle = conn.insert()?;
        Some((conn, handle))
    }

    /// Takes a handle back that no program got to know.
    pub(super) fn forget(handle: usize) {
        CONNECTIONS.remove(handle).ok();
    }

    /// Looks whether the dial is over.
    fn poll(self: &Arc<Self>) {
        let waker = Waker::from(Arc::clone(self));
        let mut outcome = self.outcome();
        let Some(dialing) = &mut outcome.dialing else { return };
        let Poll::Ready(result) = Pin::new(dialing).poll(&mut Context::from_waker(&waker)) else {
            return;
        };
        let over = outcome.dialing.take();
        match result {
            Ok(connection) => {
                self.connection.set(connection).ok();
            }
            Err(error) => outcome.failed = Some(error.into()),
        }
        let waiting = std::mem::take(&mut outcome.waiting);
        drop(outcome);
        drop(over);
        waiting.into_iter().for_each(Waker::wake);
    }

    pub(super) fn established(&self) -> Result<&Connection, Failure> {
        if let Some(connection) = self.connection.get() {
            return Ok(connection);
        }
        match &self.outcome().failed {
            Some(failure) => Err(Failure::new(failure.code, &failure.text)),
            None => {
                let text =
                    "the connection is not established yet; wait with towline_connection_wait";
                Err(Failure::new(code::TOWLINE_ERROR_NOT_CONNECTED, text))
            }
        }
    }

    /// Tells the application of an event.
    fn tell(&self, event: Event) {
        let Some((function, user)) = self.callback.get() else { return };
        let handle = self.handle.load(Ordering::Acquire) as *mut towline_connection;
        show(event, |event| {
            self.gate.enter(|| {
                // SAFETY: the application promised a function of this type; the event lives for the call.
                unsafe { function(handle, event, user.0) };
            });
        });
    }
}

impl Wake for Conn {
    fn wake(self: Arc<Self>) {
        self.poll();
    }
}

/// The handler of a connection with a callback.
pub(super) struct Forward(Option<Arc<Conn>>);

impl Forward {
    pub(super) fn to(conn: Arc<Conn>) -> Forward {
        Forward(Some(conn))
    }

    /// For a connection that is being aborted.
    pub(super) fn nobody() -> Forward {
        Forward(None)
    }
}

impl Handler for Forward {
    fn event(&mut self, connection: &Connection, event: Event) {
        let Some(conn) = &self.0 else { return };
        if conn.connection.get().is_none() && matches!(event, Event::Connected(_)) {
            conn.connection.set(connection.clone()).ok();
        }
        conn.tell(event);
    }
}

/// Sets where the events of an accepted connection go. Only inside its towline_accept_callback, and once.
///
/// Errors: TOWLINE_ERROR_UNSUPPORTED when it has one already.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn towline_connection_set_callback(
    connection: *mut towline_connection,
    callback: towline_event_callback,
    user: *mut c_void,
) -> towline_result {
    run(|| {
        let function = callback.ok_or_else(|| Failure::invalid("the callback is NULL"))?;
        let set = get(connection)?.callback.set((function, User(user)));
        set.map_err(|_| {
            Failure::new(code::TOWLINE_ERROR_UNSUPPORTED, "the connection has a callback already")
        })
    })
}

/// Waits until the connection is established for the first time, as long as `timeout_ms` says (negative: for ever).
///
/// Any thread, in callbacks only with 0. Errors: TOWLINE_ERROR_CONNECT and what else towline_last_error says; TOWLINE_ERROR_TIMED_OUT, after which
/// connecting goes on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn towline_connection_wait(
    connection: *mut towline_connection,
    timeout_ms: i64,
) -> towline_result {
    run(|| {
        let conn = get(connection)?;
        let over = std::future::poll_fn(|cx| {
            if conn.connection.get().is_some() {
                return Poll::Ready(());
            }
            let mut outcome = conn.outcome();
            if conn.connection.get().is_some() || outcome.dialing.is_none() {
                return Poll::Ready(());
            }
            outcome.waiting.push(cx.waker().clone());
            Poll::Pending
        });
        block_on(over, timeout_ms)?;
        conn.established().map(drop)
    })
}

/// Accepts a message for sending, waiting for room in the queue as long as `timeout_ms` says (0: not at all, negative: for ever). `id`, when not NULL, gets the
/// message's id. The data is copied: it is the caller's again when this returns.
///
/// Any thread, in callbacks only with 0. Errors: TOWLINE_ERROR_FULL with 0, and TOWLINE_EVENT_WRITABLE when there is room; TOWLINE_ERROR_TIMED_OUT;
/// TOWLINE_ERROR_MESSAGE; TOWLINE_ERROR_ENDED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn towline_connection_send(
    connection: *mut towline_connection,
    message: *const towline_message,
    timeout_ms: i64,
    id: *mut u64,
) -> towline_result {
    run(|| {
        // SAFETY: by contract NULL or readable, with its data.
        let message = unsafe { towline_message::read(message) }?;
        may_wait(timeout_ms)?;
        let tried = CONNECTIONS.with(connection as usize, |conn| {
            match conn.established()?.try_send(message) {
                Ok(id) => Ok(Ok(id)),
                Err(TrySendError::Full(message)) if timeout_ms != 0 => Ok(Err(message)),
                Err(error) => Err(error.into()),
            }
        })?;
        let given = match tried {
            Ok(id) => id,
            Err(message) => block_on(established(connection)?.send(message), timeout_ms)??,
        };
        // SAFETY: by contract NULL or writable.
        unsafe { put(id, given.0) };
        Ok(())
    })
}

/// towline_connection_send of bytes on the normal lane, with the next id and without waiting.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn towline_connection_send_bytes(
    connection: *mut towline_connection,
    data: *const c_void,
    length: usize,
) -> towline_result {
    run(|| {
        // SAFETY: by contract NULL or readable for the call.
        let data = payload(unsafe { bytes(data.cast(), length) }?);
        CONNECTIONS.with(connection as usize, |conn| {
            conn.established()?.try_send(data)?;
            Ok(())
        })
    })
}

/// The next message of a connection without a callback, waiting for it as long as `timeout_ms` says (negative: for ever). Free it with
/// towline_received_free.
///
/// Any thread, in callbacks only with 0. Errors: TOWLINE_ERROR_TIMED_OUT; TOWLINE_ERROR_ENDED after the last message.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn towline_connection_receive(
    connection: *mut towline_connection,
    timeout_ms: i64,
    received: *mut *mut towline_received,
) -> towline_result {
    run(|| {
        wanted(received, "received")?;
        let conn = get(connection)?;
        if conn.has_callback() {
            let text = "the messages of this connection go to its callback";
            return Err(Failure::new(code::TOWLINE_ERROR_UNSUPPORTED, text));
        }
        let message = block_on(conn.established()?.recv(), timeout_ms)??;
        // SAFETY: checked above, and by contract writable.
        unsafe { message::give(message, received) }
    })
}

/// Waits until everything accepted before was acknowledged by the peer, as long as `timeout_ms` says (negative: for ever).
///
/// Any thread but those of callbacks. Errors: TOWLINE_ERROR_TIMED_OUT, TOWLINE_ERROR_RESET, TOWLINE_ERROR_UNACKNOWLEDGED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn towline_connection_flush(
    connection: *mut towline_connection,
    timeout_ms: i64,
) -> towline_result {
    run(|| Ok(block_on(established(connection)?.flush(), timeout_ms)??))
}

/// Closes in order: nothing more is accepted, what was accepted is delivered, the peer is told `code` and `reason` (which may be NULL), all
/// within `TOWLINE_OPTION_CLOSE_TIMEOUT_MS`. With `timeout_ms` 0 it returns at once, and TOWLINE_EVENT_CLOSED tells the end; else it waits for that
/// (negative: for ever). The handle stays and is still to be freed.
///
/// Any thread, in callbacks only with 0. Errors: TOWLINE_ERROR_UNACKNOWLEDGED, TOWLINE_ERROR_TIMED_OUT, after which closing goes on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn towline_connection_close(
    connection: *mut towline_connection,
    code: u64,
    reason: *const c_char,
    timeout_ms: i64,
) -> towline_result {
    run(|| {
        let conn = get(connection)?;
        let reason = match reason.is_null() {
            true => "",
            // SAFETY: not NULL, and by contract a C string.
            false => unsafe { text(reason, "reason") }?,
        };
        if conn.connection.get().is_none() {
            // Gives the dial up, outside of the lock.
            let dialing = conn.outcome().dialing.take();
            if dialing.is_some() {
                drop(dialing);
                let closed = "the connection was closed before it was established";
                conn.outcome().failed = Some(Failure::new(code::TOWLINE_ERROR_ENDED, closed));
                let waiting = std::mem::take(&mut conn.outcome().waiting);
                waiting.into_iter().for_each(Waker::wake);
                return Ok(());
            }
        }
        let closing = conn.established()?.close_with(code, reason);
        if timeout_ms != 0 {
            block_on(closing, timeout_ms)??;
        }
        Ok(())
    })
}

/// Ends at once. What was not acknowledged comes with TOWLINE_EVENT_CLOSED.
///
/// Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn towline_connection_abort(
    connection: *mut towline_connection,
) -> towline_result {
    run(|| {
        established(connection)?.abort();
        Ok(())
    })
}

/// Frees a connection. If it is open it is closed in order, in the background. When this returns, its callbacks do not run, except one that
/// is the caller itself, and will not be called again, TOWLINE_EVENT_CLOSED neither.
///
/// Any thread, also in its own callback. Twice is TOWLINE_ERROR_STALE_HANDLE.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn towline_connection_free(
    connection: *mut towline_connection,
) -> towline_result {
    run(|| {
        let conn = CONNECTIONS.remove(connection as usize)?;
        conn.gate.close();
        let dialing = conn.outcome().dialing.take();
        drop(dialing);
        if let Some(connection) = conn.connection.get()
            && connection.ended().is_none()
        {
            drop(connection.close());
        }
        Ok(())
    })
}

/// Whether there is a wire right now: 1 or 0; 0 also for a handle that is none. Sending does not depend on it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn towline_connection_is_connected(
    connection: *const towline_connection,
) -> i32 {
    let mut connected = 0;
    run(|| {
        connected = established(connection)?.is_connected().into();
        Ok(())
    });
    connected
}

/// What the wire under a connection can do; 1 yes, 0 no.
#[repr(C)]
pub struct towline_capabilities {
    /// `sizeof(towline_capabilities)`, filled in by you.
    pub struct_size: usize,
    /// The most bytes that one message may have.
    pub max_message: usize,
    /// How many lanes of different urgency there are.
    pub lanes: u32,
    /// Messages are acknowledged by the peer's program and survive the loss of a wire, once and in order.
    pub session: i32,
    /// Bytes are encrypted and the peer is authenticated.
    pub encrypted: i32,
    /// The peer sees the code and the reason of a close.
    pub close_codes: i32,
    /// Replies find their requests.
    pub requests: i32,
    /// The peer sees whether a message is text.
    pub text: i32,
    /// The wire's scheme, such as "tls"; never to be freed.
    pub wire: *const c_char,
}

/// What the wire under the connection can do now. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn towline_connection_capabilities(
    connection: *const towline_connection,
    capabilities: *mut towline_capabilities,
) -> towline_result {
    run(|| {
        wanted(capabilities, "capabilities")?;
        // SAFETY: not NULL, and by contract readable.
        if unsafe { (*capabilities).struct_size } != size_of::<towline_capabilities>() {
            return Err(Failure::invalid("capabilities.struct_size is not the size of the struct"));
        }
        let connection = established(connection)?;
        let can = connection.capabilities();
        let value = towline_capabilities {
            struct_size: size_of::<towline_capabilities>(),
            max_message: can.max_message,
            lanes: can.lanes as u32,
            session: can.session.into(),
            encrypted: can.encrypted.into(),
            close_codes: can.close_codes.into(),
            requests: can.requests.into(),
            text: can.text.into(),
            wire: scheme(connection.wire()),
        };
        // SAFETY: checked above, and by contract writable.
        unsafe { put(capabilities, value) };
        Ok(())
    })
}

/// The scheme of a wire as a C string that lives for ever.
fn scheme(wire: towline_core::Wire) -> *const c_char {
    static NAMES: OnceLock<Vec<(towline_core::Wire, std::ffi::CString)>> = OnceLock::new();
    let names = NAMES.get_or_init(|| {
        let name =
            |wire: towline_core::Wire| std::ffi::CString::new(wire.scheme()).unwrap_or_default();
        towline_core::Wire::ALL.into_iter().map(|wire| (wire, name(wire))).collect()
    });
    let found = names.iter().find(|(known, _)| *known == wire);
    found.map_or(c"".as_ptr(), |(_, name)| name.as_ptr())
}

/// This end's address on the present or last wire, as `ip:port` in `buffer`, of which `length` bytes are yours; 64 are enough.
///
/// Any thread. Errors: TOWLINE_ERROR_UNSUPPORTED on wires without such addresses.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn towline_connection_local_address(
    connection: *const towline_connection,
    buffer: *mut c_char,
    length: usize,
) -> towline_result {
    run(|| {
        // SAFETY: by contract NULL, or writable for `length` bytes.
        unsafe { address_out(established(connection)?.local_address(), buffer, length) }
    })
}

/// The peer's address, as towline_connection_local_address.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn towline_connection_peer_address(
    connection: *const towline_connection,
    buffer: *mut c_char,
    length: usize,
) -> towline_result {
    run(|| {
        // SAFETY: by contract NULL, or writable for `length` bytes.
        unsafe { address_out(established(connection)?.peer_address(), buffer, length) }
    })
}

/// # Safety
///
/// `buffer` is NULL, or writable for `length` bytes.
unsafe fn address_out(
    address: Option<std::net::SocketAddr>,
    buffer: *mut c_char,
    length: usize,
) -> Result<(), Failure> {
    let none = || Failure::new(code::TOWLINE_ERROR_UNSUPPORTED, "there is no address");
    // SAFETY: the caller's promise.
    unsafe { text_out(&address.ok_or_else(none)?.to_string(), buffer, length) }
}

/// Keeps the lanes of the two APIs in step: a lane that is new in one needs a name in the other.
const _: () = assert!(Lane::ALL.len() == 4);
