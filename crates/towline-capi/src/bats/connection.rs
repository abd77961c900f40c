//! `bats_connection_*`.

use std::ffi::{CString, c_char, c_int, c_void};
use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::JoinHandle;

use towline_core::{
    ConnectError, Connecting, Connection, Ended, Endpoint, Event, Handler, SendError, TrySendError,
    WireError,
};

use super::protocol::Protocol;
use super::transport::Mode;
use super::{bats_error_t, checked, kind};
use crate::entry::{Failure, bytes, code, put, text};
use crate::gate::{Gate, User};
use crate::handle::Table;
use crate::towline::payload;

/// `bats_connection_callback_t`. What it returns is not looked at; a byte, because any of its values is one.
pub type Function = unsafe extern "C" fn(
    conn: usize,
    event: c_int,
    data: *const u8,
    length: c_int,
    user_data: *mut c_void,
) -> u8;

/// `bats_conn_event_t`.
pub(super) mod event {
    use std::ffi::c_int;

    pub(in crate::bats) const FAILED: c_int = 1;
    pub(in crate::bats) const ESTABLISHED: c_int = 2;
    pub(in crate::bats) const TIMEOUT: c_int = 3;
    pub(in crate::bats) const SHUTDOWN_BY_PEER: c_int = 4;
    pub(in crate::bats) const WRITABLE: c_int = 5;
    pub(in crate::bats) const DATA_RECEIVED: c_int = 6;
    pub(in crate::bats) const SEND_COMPLETE: c_int = 7;
    pub(in crate::bats) const SEND_DATA_ERROR: c_int = 8;
    pub(in crate::bats) const BUFFER_FULL: c_int = 9;
    pub(in crate::bats) const CLOSED: c_int = 10;
    pub(in crate::bats) const ERROR: c_int = 11;
    pub(in crate::bats) const ALREADY_CONNECTED: c_int = 12;
    pub(in crate::bats) const IDEAL_BUFFER_LENGTH: c_int = 13;
    pub(in crate::bats) const ALL_DATA_ACKED: c_int = 14;
}

/// Where a connection's events go.
#[derive(Clone, Copy)]
pub(super) struct Callback {
    pub(super) function: Function,
    pub(super) user: User,
}

/// A connection as the SDK's programs hold it.
pub(super) struct Conn {
    handle: AtomicUsize,
    protocol: Weak<Protocol>,
    mode: Mode,
    /// What a client asked for.
    url: Option<String>,
    connection: OnceLock<Connection>,
    connecting: Mutex<Option<Connecting>>,
    callback: Mutex<Option<Callback>>,
    gate: Gate,
    closed: AtomicBool,
    files: Mutex<Vec<JoinHandle<()>>>,
}

static CONNECTIONS: Table<Conn> = Table::new(kind::CONNECTION, "BATS connection");

/// The connection behind a handle.
pub(super) fn get(conn: usize) -> Result<Arc<Conn>, Failure> {
    CONNECTIONS.get(conn)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Conn {
    pub(super) fn new(
        protocol: Weak<Protocol>,
        mode: Mode,
        url: Option<String>,
        callback: Option<Callback>,
    ) -> Result<Arc<Conn>, Failure> {
        let conn = Arc::new(Conn {
            handle: AtomicUsize::new(0),
            protocol,
            mode,
            url,
            connection: OnceLock::new(),
            connecting: Mutex::default(),
            callback: Mutex::new(callback),
            gate: Gate::default(),
            closed: AtomicBool::new(false),
            files: Mutex::default(),
        });
        let handle = CONNECTIONS.insert(Arc::clone(&conn));
        let handle = handle.ok_or_else(|| Failure::internal("too many connections"))?;
        conn.handle.store(handle, Ordering::Release);
        Ok(conn)
    }

    pub(super) fn handle(&self) -> usize {
        self.handle.load(Ordering::Acquire)
    }

    pub(super) fn has_callback(&self) -> bool {
        lock(&self.callback).is_some()
    }

    /// Whether a client asked for exactly this connection.
    pub(super) fn is_for(&self, url: &str, callback: &Callback) -> bool {
        let same = |own: &Callback| {
            std::ptr::fn_addr_eq(own.function, callback.function) && own.user.0 == callback.user.0
        };
        self.url.as_deref() == Some(url) && lock(&self.callback).as_ref().is_some_and(same)
    }

    /// Takes a connection that came in.
    pub(super) fn adopt(&self, connection: &Connection) {
        self.connection.set(connection.clone()).ok();
    }

    /// Begins to connect.
    pub(super) fn dial(self: &Arc<Self>, endpoint: &Endpoint, url: &str) -> Result<(), Failure> {
        let connecting = endpoint.connect_with(url, Forward::to(Arc::clone(self)));
        *lock(&self.connecting) = Some(connecting);
        // What is refused at once, such as an address, had no dial and tells nobody.
        match self.poll() {
            Some(Err(error)) if self.fail(&error) => {
                Err(Failure::new(code::TOWLINE_ERROR_CONNECT, error))
            }
            _ => Ok(()),
        }
    }

    /// Looks whether the dial is over.
    fn poll(self: &Arc<Self>) -> Option<Result<(), String>> {
        let waker = Waker::from(Arc::clone(self));
        let mut connecting = lock(&self.connecting);
        let polled = Pin::new(connecting.as_mut()?).poll(&mut Context::from_waker(&waker));
        let Poll::Ready(result) = polled else { return None };
        let over = connecting.take();
        drop(connecting);
        drop(over);
        Some(match result {
            Ok(_) => Ok(()),
            // A dial tells the handler of its end, which is here before or after this.
            Err(
                error @ (ConnectError::Wire { .. }
                | ConnectError::Rejected { .. }
                | ConnectError::Closed),
            ) => {
                tracing::debug!(%error, "a connection was not made");
                Ok(())
            }
            Err(error) => Err(error.to_string()),
        })
    }

    /// Tells the application of an event.
    pub(super) fn tell(&self, event: c_int, data: &[u8]) {
        let Some(Callback { function, user }) = *lock(&self.callback) else { return };
        let handle = self.handle();
        let at = if data.is_empty() { std::ptr::null() } else { data.as_ptr() };
        self.gate.enter(|| {
            // SAFETY: the application promised a function of this type; the data lives for the call.
            unsafe { function(handle, event, at, data.len() as c_int, user.0) }
        });
    }

    /// Could not be made. Whether that is news.
    pub(super) fn fail(self: &Arc<Self>, why: &str) -> bool {
        if self.closed.load(Ordering::Acquire) {
            return false;
        }
        tracing::warn!("cannot connect: {why}");
        self.end(&[event::FAILED])
    }

    /// The last events, once: then the handle is stale.
    fn end(self: &Arc<Self>, before: &[c_int]) -> bool {
        if self.closed.swap(true, Ordering::AcqRel) {
            return false;
        }
        for event in before {
            self.tell(*event, &[]);
        }
        self.tell(event::CLOSED, &[]);
        CONNECTIONS.remove(self.handle()).ok();
        if let Some(protocol) = self.protocol.upgrade() {
            protocol.forget(self);
        }
        true
    }

    /// Closes in order, in the background.
    pub(super) fn close(&self) {
        let connecting = lock(&self.connecting).take();
        drop(connecting);
        if let Some(connection) = self.connection.get()
            && connection.ended().is_none()
        {
            drop(connection.close());
        }
    }

    /// Lets no event come any more, and closes.
    pub(super) fn shut(&self) {
        self.gate.close();
        self.closed.store(true, Ordering::Release);
        self.close();
        CONNECTIONS.remove(self.handle()).ok();
        let files = std::mem::take(&mut *lock(&self.files));
        for file in files {
            // It has been told by the closing: it does not wait for room any more.
            file.join().ok();
        }
    }

    fn on_closed(self: &Arc<Self>, ended: &Ended) {
        let timed_out = |error: &ConnectError| {
            matches!(error, ConnectError::Wire { error: WireError::TimedOut(_), .. })
        };
        let before: &[c_int] = match ended {
            Ended::NeverConnected(error) if timed_out(error) => &[event::TIMEOUT],
            Ended::NeverConnected(_) => &[event::FAILED],
            Ended::ByPeer { .. } => &[event::SHUTDOWN_BY_PEER],
            Ended::Lost(_) | Ended::Panicked => &[event::ERROR],
            _ => &[],
        };
        tracing::info!("a connection has ended: {ended}");
        self.end(before);
    }

    fn send(&self, data: &[u8]) -> Result<(), Failure> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Failure::new(code::TOWLINE_ERROR_ENDED, "the connection is closed"));
        }
        let not_yet = || {
            Failure::new(code::TOWLINE_ERROR_NOT_CONNECTED, "the connection is not established yet")
        };
        let connection = self.connection.get().ok_or_else(not_yet)?;
        match connection.try_send(payload(data)) {
            Ok(_) => Ok(()),
            Err(TrySendError::Full(_)) => {
                self.tell(event::BUFFER_FULL, &[]);
                Err(Failure::new(code::TOWLINE_ERROR_FULL, "the buffer is full"))
            }
            Err(TrySendError::Failed { error: error @ SendError::Ended(_), .. }) => {
                Err(error.into())
            }
            Err(error) => {
                self.tell(event::SEND_DATA_ERROR, &[]);
                Err(error.into())
            }
        }
    }

    /// Sends what is in a file, message by message.
    fn send_file(&self, mut file: File, name: &str) -> Result<(), String> {
        let Some(connection) = self.connection.get() else { return Ok(()) };
        let mut piece = vec![0; self.mode.ideal_buffer_length()];
        loop {
            let length =
                read_full(&mut file, &mut piece).map_err(|error| format!("{name}: {error}"))?;
            let Some(read) = piece.get(..length).filter(|read| !read.is_empty()) else {
                return Ok(());
            };
            match connection.send_blocking(payload(read)) {
                Ok(_) => {}
                // The end of the connection is an event of its own.
                Err(SendError::Ended(_)) => return Ok(()),
                Err(error) => return Err(format!("{name}: {error}")),
            }
        }
    }
}

/// Reads until the buffer is full or the file ends.
fn read_full(file: &mut File, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut done = 0;
    while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match file.read(rest) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

impl Wake for Conn {
    fn wake(self: Arc<Self>) {
        if let Some(Err(error)) = self.poll() {
            self.fail(&error);
        }
    }
}

/// The handler of a connection.
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
    fn event(&mut self, connection: &Connection, happened: Event) {
        let Some(conn) = &self.0 else { return };
        match happened {
            Event::Connected(connected) if !connected.resumed => {
                conn.connection.set(connection.clone()).ok();
                conn.tell(event::ESTABLISHED, &[]);
                conn.tell(event::WRITABLE, &[]);
            }
            Event::Message(message) => conn.tell(event::DATA_RECEIVED, &message.data),
            Event::Writable => conn.tell(event::WRITABLE, &[]),
            Event::Flushed => {
                conn.tell(event::SEND_COMPLETE, &[]);
                // The others acknowledge nothing.
                if conn.mode.is_reliable() {
                    conn.tell(event::ALL_DATA_ACKED, &[]);
                }
            }
            Event::IdealBufferLength(_) => conn.tell(event::IDEAL_BUFFER_LENGTH, &[]),
            Event::TooLarge(_) => conn.tell(event::SEND_DATA_ERROR, &[]),
            Event::Closed(closed) => conn.on_closed(&closed.ended),
            _ => {}
        }
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn bats_connection_send_data(
    conn: usize,
    data: *const u8,
    length: c_int,
) -> bats_error_t {
    checked("bats_connection_send_data", || {
        let conn = get(conn)?;
        let length = usize::try_from(length).ok().filter(|length| *length > 0);
        let length = length.ok_or_else(|| Failure::invalid("the length is not positive"))?;
        // SAFETY: by contract NULL or readable for the call.
        conn.send(unsafe { bytes(data, length) }?)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn bats_connection_send_file(
    conn: usize,
    file_name: *const c_char,
) -> bats_error_t {
    checked("bats_connection_send_file", || {
        let conn = get(conn)?;
        // SAFETY: by contract NULL or a C string.
        let name = unsafe { text(file_name, "file_name") }?.to_owned();
        if !conn.mode.is_reliable() {
            return Err(Failure::invalid("files are sent in BRTP and BRCTP only"));
        }
        let not_yet = || {
            Failure::new(code::TOWLINE_ERROR_NOT_CONNECTED, "the connection is not established yet")
        };
        conn.connection.get().ok_or_else(not_yet)?;
        let opened = File::open(&name).and_then(|file| match file.metadata()?.is_file() {
            true => Ok(file),
            false => Err(std::io::Error::other("this is no file")),
        });
        let file = opened
            .map_err(|error| Failure::new(code::TOWLINE_ERROR_FILE, format!("{name}: {error}")))?;
        let sender = Arc::clone(&conn);
        let thread = std::thread::Builder::new().name("towline-file".to_owned()).spawn(move || {
            if let Err(error) = sender.send_file(file, &name) {
                tracing::warn!("a file was not sent: {error}");
                sender.tell(event::SEND_DATA_ERROR, &[]);
            }
        });
        let thread = thread.map_err(|error| Failure::new(code::TOWLINE_ERROR_IO, error))?;
        let mut files = lock(&conn.files);
        files.retain(|file| !file.is_finished());
        files.push(thread);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn bats_connection_set_callback(
    conn: usize,
    c_callback: Option<Function>,
    user_data: *mut c_void,
) -> bats_error_t {
    checked("bats_connection_set_callback", || {
        let function = c_callback.ok_or_else(|| Failure::invalid("the callback is NULL"))?;
        let conn = get(conn)?;
        *lock(&conn.callback) = Some(Callback { function, user: User(user_data) });
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn bats_connection_is_writable(conn: usize) -> c_int {
    let mut writable = 0;
    checked("bats_connection_is_writable", || {
        let conn = get(conn)?;
        if let Some(connection) = conn.connection.get() {
            let mut room = std::pin::pin!(connection.writable());
            let polled = room.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            writable = matches!(polled, Poll::Ready(Ok(()))).into();
        }
        Ok(())
    });
    writable
}

#[unsafe(no_mangle)]
pub extern "C" fn bats_connection_get_ideal_buffer_length(conn: usize) -> c_int {
    let mut length = 0;
    checked("bats_connection_get_ideal_buffer_length", || {
        let conn = get(conn)?;
        // What the path is good for, once that is known.
        let known = conn.connection.get().and_then(Connection::ideal_buffer_length);
        let ideal = known.filter(|known| *known > 0).unwrap_or(conn.mode.ideal_buffer_length());
        length = c_int::try_from(ideal).unwrap_or(c_int::MAX);
        Ok(())
    });
    length
}

#[unsafe(no_mangle)]
pub extern "C" fn bats_connection_close(conn: usize) -> bats_error_t {
    checked("bats_connection_close", || {
        get(conn)?.close();
        Ok(())
    })
}

/// The size of the places for addresses.
const ADDRESS_LENGTH: usize = 64;

/// # Safety
///
/// The places are NULL, or writable for [`ADDRESS_LENGTH`] bytes and for a port.
unsafe fn put_address(address: Option<SocketAddr>, text: *mut c_char, port: *mut u16) {
    let written = address.map_or(String::new(), |address| address.ip().to_string());
    let written = CString::new(written).unwrap_or_default();
    if !text.is_null() {
        let bytes = written.as_bytes_with_nul();
        let length = bytes.len().min(ADDRESS_LENGTH);
        // SAFETY: not NULL, and by contract writable for so much.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr().cast(), text, length) };
    }
    // SAFETY: by contract NULL or writable.
    unsafe { put(port, address.map_or(0, |address| address.port())) };
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn bats_connection_get_addresses(
    conn: usize,
    local_addr: *mut c_char,
    local_port: *mut u16,
    remote_addr: *mut c_char,
    remote_port: *mut u16,
) -> bats_error_t {
    checked("bats_connection_get_addresses", || {
        let conn = get(conn)?;
        let not_yet = || {
            Failure::new(code::TOWLINE_ERROR_NOT_CONNECTED, "the connection is not established yet")
        };
        let connection = conn.connection.get().ok_or_else(not_yet)?;
        // SAFETY: the caller's promise.
        unsafe {
            put_address(connection.local_address(), local_addr, local_port);
            put_address(connection.peer_address(), remote_addr, remote_port);
        }
        Ok(())
    })
}
