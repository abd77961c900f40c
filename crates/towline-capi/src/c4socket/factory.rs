//! A C program's factory as one of the crate's, and the sockets that it sees.

use std::cell::UnsafeCell;
use std::collections::{HashMap, VecDeque};
use std::ffi::{c_int, c_void};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use towline_core::Address;
use towline_core::socket_factory::{FactorySocket, Framing, OpenOptions, SocketFactory};

use super::fleece::Dict;
use super::{C4Address, C4Slice, C4SliceResult, C4Socket, C4SocketFactory};
use crate::entry::Failure;
use crate::gate::timed;

const WEBSOCKET_CLIENT_FRAMING: u8 = 0;
const NO_FRAMING: u8 = 1;
const WEBSOCKET_SERVER_FRAMING: u8 = 2;
const BYTE_STREAM_FRAMING: u8 = 3;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What C sees of a socket, which it may write to.
struct Seen(UnsafeCell<C4Socket>);

// SAFETY: this side reads and writes it only before C gets to know it; afterwards it is C's.
unsafe impl Send for Seen {}
// SAFETY: as above.
unsafe impl Sync for Seen {}

/// A socket that a C program has.
pub(super) struct Sock {
    seen: Arc<Seen>,
    socket: OnceLock<FactorySocket>,
}

#[derive(Default)]
struct Sockets {
    live: Option<HashMap<usize, Arc<Sock>>>,
    /// Memory of sockets that were disposed of, kept for a while: a late call finds nothing, and not another socket.
    gone: VecDeque<Arc<Seen>>,
}

/// How many disposed sockets keep their places.
const KEPT: usize = 1024;

static SOCKETS: Mutex<Sockets> = Mutex::new(Sockets { live: None, gone: VecDeque::new() });

impl Sock {
    /// A socket that C may know from now on.
    pub(super) fn new(native_handle: *mut c_void) -> Arc<Sock> {
        let seen = Arc::new(Seen(UnsafeCell::new(C4Socket { native_handle })));
        let sock = Arc::new(Sock { seen, socket: OnceLock::new() });
        let mut sockets = lock(&SOCKETS);
        sockets.live.get_or_insert_default().insert(sock.raw() as usize, Arc::clone(&sock));
        sock
    }

    pub(super) fn raw(&self) -> *mut C4Socket {
        self.seen.0.get()
    }

    pub(super) fn bind(&self, socket: &FactorySocket) {
        self.socket.get_or_init(|| socket.clone());
    }

    pub(super) fn socket(&self) -> Result<&FactorySocket, Failure> {
        self.socket.get().ok_or_else(|| Failure::stale("the socket is not there yet"))
    }

    /// The socket behind a pointer of C's.
    pub(super) fn find(raw: *mut C4Socket) -> Result<Arc<Sock>, Failure> {
        if raw.is_null() {
            return Err(Failure::invalid("the socket is NULL"));
        }
        let sockets = lock(&SOCKETS);
        let found = sockets.live.as_ref().and_then(|live| live.get(&(raw as usize)));
        found.cloned().ok_or_else(|| Failure::stale("this is no socket, or it was disposed of"))
    }

    /// The pointer is stale from now on.
    pub(super) fn forget(raw: *mut C4Socket) {
        let mut sockets = lock(&SOCKETS);
        let gone = sockets.live.as_mut().and_then(|live| live.remove(&(raw as usize)));
        if let Some(sock) = &gone {
            if sockets.gone.len() == KEPT {
                sockets.gone.pop_front();
            }
            sockets.gone.push_back(Arc::clone(&sock.seen));
        }
        drop(sockets);
        drop(gone);
    }
}

/// Slices given to C, by their address, and how often.
static SLICES: Mutex<Option<HashMap<usize, (Bytes, usize)>>> = Mutex::new(None);

/// Gives bytes to C without copying them.
fn give(data: Bytes) -> C4SliceResult {
    if data.is_empty() {
        return C4SliceResult { buf: std::ptr::null(), size: 0 };
    }
    let (buf, size) = (data.as_ptr(), data.len());
    let mut slices = lock(&SLICES);
    let entry =
        slices.get_or_insert_default().entry(buf as usize).or_insert_with(|| (data.clone(), 0));
    entry.1 += 1;
    if entry.0.len() < data.len() {
        entry.0 = data;
    }
    C4SliceResult { buf: buf.cast(), size }
}

/// Takes bytes back from C.
pub(super) fn free(at: usize, size: usize) -> Result<(), Failure> {
    if at == 0 && size == 0 {
        return Ok(());
    }
    let mut slices = lock(&SLICES);
    let slices = slices.get_or_insert_default();
    let Some(entry) = slices.get_mut(&at) else {
        return Err(Failure::stale("this is no slice, or it was freed already"));
    };
    entry.1 -= 1;
    if entry.1 == 0 {
        slices.remove(&at);
    }
    Ok(())
}

/// A C program's factory.
pub(super) struct CFactory(C4SocketFactory);

// SAFETY: functions may be called by any thread, as the header says; the context is only handed to `open`.
unsafe impl Send for CFactory {}
// SAFETY: as above.
unsafe impl Sync for CFactory {}

impl CFactory {
    pub(super) fn new(factory: &C4SocketFactory) -> Result<CFactory, Failure> {
        let missing = |what: &str| Failure::invalid(format!("the factory's `{what}` is NULL"));
        factory.open.ok_or_else(|| missing("open"))?;
        factory.write.ok_or_else(|| missing("write"))?;
        match factory.framing {
            NO_FRAMING => drop(factory.request_close.ok_or_else(|| missing("requestClose"))?),
            WEBSOCKET_CLIENT_FRAMING | WEBSOCKET_SERVER_FRAMING | BYTE_STREAM_FRAMING => {
                factory.close.ok_or_else(|| missing("close"))?;
            }
            other => return Err(Failure::invalid(format!("{other} is no framing"))),
        }
        Ok(CFactory(*factory))
    }

    /// Calls the program about one of its sockets.
    fn call(&self, socket: &FactorySocket, action: impl FnOnce(&C4SocketFactory, *mut C4Socket)) {
        let Some(sock) = socket.native_as::<Sock>() else { return };
        timed(|| action(&self.0, sock.raw()));
    }
}

/// The options as Fleece; nothing when there are none.
fn encode(options: &OpenOptions) -> Vec<u8> {
    let mut dict = Dict::default();
    if !options.subprotocols.is_empty() {
        dict.text("WS-Protocols", options.subprotocols.join(","));
    }
    let mut headers = Dict::default();
    for (name, value) in &options.headers {
        headers.text(name, value);
    }
    if !headers.is_empty() {
        dict.dict("headers", headers);
    }
    if dict.is_empty() { Vec::new() } else { dict.encode().unwrap_or_default() }
}

impl SocketFactory for CFactory {
    fn framing(&self) -> Framing {
        match self.0.framing {
            NO_FRAMING => Framing::None,
            WEBSOCKET_CLIENT_FRAMING => Framing::WebSocketClient,
            WEBSOCKET_SERVER_FRAMING => Framing::WebSocketServer,
            _ => Framing::Bytes,
        }
    }

    fn may_block(&self) -> bool {
        // The header forbids it; one that does is told about in the log.
        false
    }

    fn open(&self, socket: &FactorySocket, address: &Address, options: &OpenOptions) {
        let sock = Sock::new(std::ptr::null_mut());
        sock.bind(socket);
        let raw = sock.raw();
        socket.set_native(Some(sock));
        let to = C4Address {
            scheme: C4Slice::of(address.wire().scheme().as_bytes()),
            hostname: C4Slice::of(address.host().as_bytes()),
            port: address.port(),
            path: C4Slice::of(address.path().as_bytes()),
        };
        let encoded = encode(options);
        if let Some(open) = self.0.open {
            // SAFETY: the program promised a function of this type; address and options live for the call.
            timed(|| unsafe { open(raw, &raw const to, C4Slice::of(&encoded), self.0.context) });
        }
    }

    fn attached(&self, socket: &FactorySocket) {
        if let Some(sock) = socket.native_as::<Sock>() {
            sock.bind(socket);
        }
        match self.0.attached {
            // SAFETY: the program promised a function of this type.
            Some(attached) => self.call(socket, |_, raw| unsafe { attached(raw) }),
            None => drop(socket.opened()),
        }
    }

    fn write(&self, socket: &FactorySocket, data: Bytes) {
        self.call(socket, |functions, raw| {
            if let Some(write) = functions.write {
                // SAFETY: the program promised a function of this type; the data is its own until it frees it.
                unsafe { write(raw, give(data)) };
            }
        });
    }

    fn completed_receive(&self, socket: &FactorySocket, byte_count: usize) {
        self.call(socket, |functions, raw| {
            if let Some(completed_receive) = functions.completed_receive {
                // SAFETY: the program promised a function of this type.
                unsafe { completed_receive(raw, byte_count) };
            }
        });
    }

    fn close(&self, socket: &FactorySocket) {
        self.call(socket, |functions, raw| {
            if let Some(close) = functions.close {
                // SAFETY: the program promised a function of this type.
                unsafe { close(raw) };
            }
        });
    }

    fn request_close(&self, socket: &FactorySocket, status: u16, message: &str) {
        self.call(socket, |functions, raw| {
            if let Some(request_close) = functions.request_close {
                let message = C4Slice::of(message.as_bytes());
                // SAFETY: the program promised a function of this type; the message lives for the call.
                unsafe { request_close(raw, c_int::from(status), message) };
            }
        });
    }

    fn dispose(&self, socket: &FactorySocket) {
        let Some(sock) = socket.native_as::<Sock>() else { return };
        if let Some(dispose) = self.0.dispose {
            // SAFETY: the program promised a function of this type.
            timed(|| unsafe { dispose(sock.raw()) });
        }
        Sock::forget(sock.raw());
        socket.set_native(None);
    }
}
