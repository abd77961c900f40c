//! `c4socket.h`: sockets that a C program brings, over [`towline_core::socket_factory`].

mod factory;
mod fleece;

use std::ffi::{c_char, c_int, c_void};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use towline_core::WireError;
use towline_core::socket_factory::{FactorySocket, SocketError, SocketFactory};

use crate::entry::{Failure, attempt, code, put, run, text, towline_result, wanted};
use crate::towline::{
    change_config, listener_attacher, set_socket_factory, towline_config, towline_listener,
};
use factory::{CFactory, Sock};

/// Bytes of somebody else's.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct C4Slice {
    buf: *const c_void,
    size: usize,
}

/// Bytes that whoever gets them has to free.
#[repr(C)]
pub struct C4SliceResult {
    buf: *const c_void,
    size: usize,
}

/// Where to.
#[repr(C)]
pub struct C4Address {
    scheme: C4Slice,
    hostname: C4Slice,
    port: u16,
    path: C4Slice,
}

/// A socket, of which C sees this.
#[repr(C)]
pub struct C4Socket {
    native_handle: *mut c_void,
}

/// An error.
#[repr(C)]
pub struct C4Error {
    domain: c_int,
    code: c_int,
    internal_info: c_int,
}

/// See the header.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct C4SocketFactory {
    framing: u8,
    context: *mut c_void,
    open: Option<unsafe extern "C" fn(*mut C4Socket, *const C4Address, C4Slice, *mut c_void)>,
    write: Option<unsafe extern "C" fn(*mut C4Socket, C4SliceResult)>,
    completed_receive: Option<unsafe extern "C" fn(*mut C4Socket, usize)>,
    close: Option<unsafe extern "C" fn(*mut C4Socket)>,
    request_close: Option<unsafe extern "C" fn(*mut C4Socket, c_int, C4Slice)>,
    dispose: Option<unsafe extern "C" fn(*mut C4Socket)>,
    attached: Option<unsafe extern "C" fn(*mut C4Socket)>,
}

const POSIX_DOMAIN: c_int = 2;
const WEBSOCKET_DOMAIN: c_int = 6;

impl C4Slice {
    fn of(bytes: &[u8]) -> C4Slice {
        C4Slice { buf: bytes.as_ptr().cast(), size: bytes.len() }
    }

    /// # Safety
    ///
    /// It is empty, or readable for the call.
    unsafe fn bytes<'a>(self) -> Result<&'a [u8], Failure> {
        // SAFETY: the caller's promise.
        unsafe { crate::entry::bytes(self.buf.cast(), self.size) }
    }
}

/// The factory of the whole process.
static REGISTERED: Mutex<Option<Arc<CFactory>>> = Mutex::new(None);

/// The registered factory, for configurations that name none.
pub(crate) fn registered() -> Option<Arc<dyn SocketFactory>> {
    let registered = REGISTERED.lock().unwrap_or_else(PoisonError::into_inner);
    registered.clone().map(|factory| factory as Arc<dyn SocketFactory>)
}

/// Runs an entry that returns nothing: failures are logged.
fn logged(call: &str, entry: impl FnOnce() -> Result<(), Failure>) {
    if run(entry) != code::TOWLINE_OK {
        // SAFETY: the text is this thread's own and NUL-terminated.
        let text = unsafe { std::ffi::CStr::from_ptr(crate::entry::last()) };
        tracing::error!("{call}: {}", text.to_string_lossy());
    }
}

/// One of the calls that a factory makes back.
fn told(
    call: &str,
    socket: *mut C4Socket,
    action: impl FnOnce(&FactorySocket) -> Result<(), SocketError>,
) {
    logged(call, || match action(Sock::find(socket)?.socket()?) {
        // It may be Towline that closed it: a late call does no harm.
        Ok(()) | Err(SocketError::Closed) => Ok(()),
        Err(error) => Err(Failure::new(code::TOWLINE_ERROR_UNSUPPORTED, error)),
    });
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn c4socket_registerFactory(factory: C4SocketFactory) {
    crate::log::install();
    logged("c4socket_registerFactory", || {
        let factory = Arc::new(CFactory::new(&factory)?);
        let mut registered = REGISTERED.lock().unwrap_or_else(PoisonError::into_inner);
        if registered.is_some() {
            return Err(Failure::invalid("a factory was registered already; it stays"));
        }
        *registered = Some(factory);
        Ok(())
    });
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn towline_config_set_socket_factory(
    config: *mut towline_config,
    name: *const c_char,
    factory: *const C4SocketFactory,
) -> towline_result {
    // SAFETY: by contract NULL or readable.
    let made = attempt(|| CFactory::new(unsafe { factory.as_ref() }.ok_or_else(null_factory)?));
    match made {
        Err(result) => result,
        Ok(made) if name.is_null() => set_socket_factory(config, Arc::new(made)),
        Ok(made) => change_config(config, |builder| {
            // SAFETY: not NULL, and by contract a C string.
            Ok(builder.named_socket_factory(unsafe { text(name, "name") }?, Arc::new(made)))
        }),
    }
}

fn null_factory() -> Failure {
    Failure::invalid("the factory is NULL")
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn towline_listener_attach_socket(
    listener: *mut towline_listener,
    factory: *const C4SocketFactory,
    native_handle: *mut c_void,
    socket: *mut *mut C4Socket,
) -> towline_result {
    run(|| {
        wanted(socket, "socket")?;
        // SAFETY: by contract NULL or readable.
        let factory = unsafe { factory.as_ref() }.ok_or_else(null_factory)?;
        let factory = Arc::new(CFactory::new(factory)?);
        let attacher = listener_attacher(listener)?;
        let sock = Sock::new(native_handle);
        let raw = sock.raw();
        match attacher.attach(factory, Some(Arc::clone(&sock) as Arc<_>)) {
            Ok(attached) => {
                sock.bind(&attached);
                // SAFETY: checked above, and by contract writable.
                unsafe { put(socket, raw) };
                Ok(())
            }
            Err(error) => {
                Sock::forget(raw);
                Err(error.into())
            }
        }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn c4slice_free(slice: C4SliceResult) {
    logged("c4slice_free", || factory::free(slice.buf as usize, slice.size));
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn c4socket_gotHTTPResponse(
    socket: *mut C4Socket,
    http_status: c_int,
    response_headers_fleece: C4Slice,
) {
    logged("c4socket_gotHTTPResponse", || {
        let sock = Sock::find(socket)?;
        // SAFETY: by contract readable for the call.
        let encoded = unsafe { response_headers_fleece.bytes() }?;
        let headers = match encoded.is_empty() {
            true => Vec::new(),
            false => fleece::texts(encoded)
                .ok_or_else(|| Failure::invalid("the headers are no Fleece dictionary of texts"))?,
        };
        let status = u16::try_from(http_status);
        let status = status.map_err(|_| Failure::invalid(format!("{http_status} is no status")))?;
        match sock.socket()?.got_http_response(status, headers) {
            Ok(()) | Err(SocketError::Closed) => Ok(()),
            Err(error) => Err(Failure::new(code::TOWLINE_ERROR_UNSUPPORTED, error)),
        }
    });
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn c4socket_opened(socket: *mut C4Socket) {
    told("c4socket_opened", socket, FactorySocket::opened);
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn c4socket_closed(socket: *mut C4Socket, error_if_any: C4Error) {
    let how = match error_if_any {
        C4Error { code: 0, .. } => Ok(()),
        C4Error { domain: POSIX_DOMAIN, code, .. } => {
            Err(WireError::from(io::Error::from_raw_os_error(code)))
        }
        C4Error { domain: WEBSOCKET_DOMAIN, code, .. } => Err(WireError::WebSocketClosed {
            code: u16::try_from(code).unwrap_or(1006),
            reason: "".into(),
        }),
        C4Error { domain, code, .. } => {
            let text = format!("the socket failed with error {code} of domain {domain}");
            Err(WireError::from(io::Error::other(text)))
        }
    };
    told("c4socket_closed", socket, |socket| socket.closed(how));
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn c4socket_closeRequested(
    socket: *mut C4Socket,
    status: c_int,
    message: C4Slice,
) {
    // SAFETY: by contract readable for the call.
    let words = unsafe { message.bytes() }.map(String::from_utf8_lossy).unwrap_or_default();
    let status = u16::try_from(status).unwrap_or(1005);
    told("c4socket_closeRequested", socket, |socket| socket.close_requested(status, &words));
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn c4socket_completedWrite(socket: *mut C4Socket, byte_count: usize) {
    told("c4socket_completedWrite", socket, |socket| socket.completed_write(byte_count));
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn c4socket_received(socket: *mut C4Socket, data: C4Slice) {
    // SAFETY: by contract readable for the call.
    match unsafe { data.bytes() } {
        Ok(data) => {
            let data = Bytes::copy_from_slice(data);
            told("c4socket_received", socket, |socket| socket.received(data));
        }
        Err(failure) => tracing::error!("c4socket_received: {}", failure.text),
    }
}
