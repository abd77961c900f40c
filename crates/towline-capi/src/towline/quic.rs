//! QUIC itself: streams and datagrams with any QUIC peer.

use std::ffi::{c_char, c_void};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use towline_core::quic::{
    self, ClientConfig, ClientSettings, Connection, Endpoint, Listener, RecvStream, SendStream,
    ServerConfig, ServerSettings, ServerVerification,
};

use super::context::{self, towline_context};
use super::message::{self, towline_received};
use super::{kind, text_out};
use crate::entry::{Failure, bytes, code, put, run, text, towline_result, wanted};
use crate::handle::Table;
use crate::wait::block_on;

/// Accepts QUIC connections.
pub struct towline_quic_listener {
    _opaque: [u8; 0],
}

/// A QUIC connection. Any number of threads may use it.
pub struct towline_quic_connection {
    _opaque: [u8; 0],
}

/// A QUIC stream. One thread may read while another one writes.
pub struct towline_quic_stream {
    _opaque: [u8; 0],
}

/// A stream's two halves, of which a stream in one direction has one.
struct Stream {
    id: u64,
    send: Option<Mutex<SendStream>>,
    receive: Option<Mutex<Receive>>,
}

struct Receive {
    stream: RecvStream,
    /// What came and did not fit into the caller's buffer.
    left: Bytes,
}

static LISTENERS: Table<Listener> = Table::new(kind::QUIC_LISTENER, "QUIC listener");
static CONNECTIONS: Table<Connection> = Table::new(kind::QUIC_CONNECTION, "QUIC connection");
static STREAMS: Table<Stream> = Table::new(kind::QUIC_STREAM, "QUIC stream");

macro_rules! failures {
    ($($error:ty => $code:expr;)*) => {
        $(impl From<$error> for Failure {
            fn from(error: $error) -> Failure {
                Failure::new($code, error)
            }
        })*
    };
}

failures! {
    quic::ConfigError => code::TOWLINE_ERROR_CONFIG;
    quic::FileError => code::TOWLINE_ERROR_CONFIG;
    quic::Ended => code::TOWLINE_ERROR_ENDED;
    quic::ListenError => code::TOWLINE_ERROR_LISTEN;
}

impl From<quic::ConnectError> for Failure {
    fn from(error: quic::ConnectError) -> Failure {
        let result = match &error {
            quic::ConnectError::Address(_) => code::TOWLINE_ERROR_ADDRESS,
            quic::ConnectError::Stopped => code::TOWLINE_ERROR_ENDED,
            _ => code::TOWLINE_ERROR_CONNECT,
        };
        Failure::new(result, error)
    }
}

impl From<quic::IoError> for Failure {
    fn from(error: quic::IoError) -> Failure {
        let result = match &error {
            quic::IoError::Ended(_) => code::TOWLINE_ERROR_ENDED,
            quic::IoError::Reset(_) | quic::IoError::Stopped(_) => code::TOWLINE_ERROR_RESET,
            _ => code::TOWLINE_ERROR_UNSUPPORTED,
        };
        Failure::new(result, error)
    }
}

impl From<quic::DatagramIoError> for Failure {
    fn from(error: quic::DatagramIoError) -> Failure {
        let result = match &error {
            quic::DatagramIoError::Ended(_) => code::TOWLINE_ERROR_ENDED,
            _ => code::TOWLINE_ERROR_MESSAGE,
        };
        Failure::new(result, error)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Application protocols from a list with commas.
fn protocols(alpn: &str) -> Vec<Bytes> {
    alpn.split(',').map(|name| Bytes::copy_from_slice(name.trim().as_bytes())).collect()
}

/// Gives an object to the program.
///
/// # Safety
///
/// `place` is writable.
unsafe fn give<T, H>(table: &Table<T>, object: T, place: *mut *mut H) -> Result<(), Failure> {
    let handle = table.insert(Arc::new(object));
    let handle = handle.ok_or_else(|| Failure::internal("too many objects"))?;
    // SAFETY: the caller's promise.
    unsafe { put(place, handle as *mut H) };
    Ok(())
}

/// Listens for QUIC on `address`, `host:port`, with a certificate chain and its key, PEM files, for clients that speak one of `alpn`, application protocols
/// separated by commas. Port 0 is any. Free it with towline_quic_listener_free.
///
/// Any thread; resolves names on the calling one. Errors: TOWLINE_ERROR_CONFIG, TOWLINE_ERROR_LISTEN.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn towline_quic_listen(
    context: *mut towline_context,
    address: *const c_char,
    chain: *const c_char,
    key: *const c_char,
    alpn: *const c_char,
    listener: *mut *mut towline_quic_listener,
) -> towline_result {
    run(|| {
        wanted(listener, "listener")?;
        // SAFETY: by contract NULL or C strings.
        let (address, chain) = unsafe { (text(address, "address")?, text(chain, "chain")?) };
        // SAFETY: as above.
        let (key, alpn) = unsafe { (text(key, "key")?, text(alpn, "alpn")?) };
        let identity = quic::identity_files(chain, key, None)?;
        let mut settings = ServerSettings::new(identity, protocols(alpn));
        settings.options.datagram_receive = true;
        let config = ServerConfig::new(settings)?;
        let endpoint = context::with(context, |context| Ok(Endpoint::new(context)))?;
        // SAFETY: checked above, and by contract writable.
        unsafe { give(&LISTENERS, endpoint.listen(&config, address)?, listener) }
    })
}

/// Where it listens, as `ip:port` in `buffer`, of which `length` bytes are yours; 64 are enough. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn towline_quic_listener_address(
    listener: *const towline_quic_listener,
    buffer: *mut c_char,
    length: usize,
) -> towline_result {
    run(|| {
        let held = LISTENERS.get(listener as usize)?;
        // SAFETY: by contract NULL, or writable for `length` bytes.
        unsafe { text_out(&held.local_address().to_string(), buffer, length) }
    })
}

/// The next connection, waiting for it as long as `timeout_ms` says (negative: for ever). Free it with towline_quic_connection_free.
///
/// Any thread, in callbacks only with 0. Errors: TOWLINE_ERROR_TIMED_OUT, TOWLINE_ERROR_LISTEN when the context was freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn towline_quic_listener_accept(
    listener: *mut towline_quic_listener,
    timeout_ms: i64,
    connection: *mut *mut towline_quic_connection,
) -> towline_result {
    run(|| {
        wanted(connection, "connection")?;
        let held = LISTENERS.get(listener as usize)?;
        let accepted = block_on(held.accept(), timeout_ms)??;
        // SAFETY: checked above, and by contract writable.
        unsafe { give(&CONNECTIONS, accepted, connection) }
    })
}

/// Stops listening. Connections stay.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn towline_quic_listener_free(
    listener: *mut towline_quic_listener,
) -> towline_result {
    run(|| LISTENERS.remove(listener as usize).map(drop))
}

/// Connects by QUIC to `address`, `host:port`, whose certificate has to be the host's and signed by an authority in `ca_file`, a PEM file, speaking one of `alpn`. Waits
/// as long as `timeout_ms` says (negative: until the handshake ends), then gives up. Free the connection with towline_quic_connection_free.
///
/// Any thread but those of callbacks. Errors: TOWLINE_ERROR_CONFIG, TOWLINE_ERROR_ADDRESS, TOWLINE_ERROR_CONNECT, TOWLINE_ERROR_TIMED_OUT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn towline_quic_connect(
    context: *mut towline_context,
    address: *const c_char,
    ca_file: *const c_char,
    alpn: *const c_char,
    timeout_ms: i64,
    connection: *mut *mut towline_quic_connection,
) -> towline_result {
    run(|| {
        wanted(connection, "connection")?;
        // SAFETY: by contract NULL or C strings.
        let (address, ca_file) = unsafe { (text(address, "address")?, text(ca_file, "ca_file")?) };
        // SAFETY: as above.
        let alpn = unsafe { text(alpn, "alpn") }?;
        let roots = ServerVerification::Roots(quic::certificates_file(ca_file)?);
        let mut settings = ClientSettings::new(roots, protocols(alpn));
        settings.options.datagram_receive = true;
        let config = ClientConfig::new(settings)?;
        let endpoint = context::with(context, |context| Ok(Endpoint::new(context)))?;
        let connected = block_on(endpoint.connect(&config, address), timeout_ms)??;
        // SAFETY: checked above, and by contract writable.
        unsafe { give(&CONNECTIONS, connected, connection) }
    })
}

/// Closes with a code of the application's, at most 2^62 - 1, and a reason, which may be NULL. What is not acknowledged is given up. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn towline_quic_connection_close(
    connection: *mut towline_quic_connection,
    code: u64,
    reason: *const c_char,
) -> towline_result {
    run(|| {
        let held = CONNECTIONS.get(connection as usize)?;
        let reason = match reason.is_null() {
            true => String::new(),
            // SAFETY: not NULL, and by contract a C string.
            false => unsafe { text(reason, "reason") }?.to_owned(),
        };
        if code >= 1 << 62 {
            return Err(Failure::invalid("the code is above 2^62 - 1"));
        }
        held.close(code, reason);
        Ok(())
    })
}

/// Waits for the connection's end, as long as `timeout_ms` says (negative: for ever): then the result is TOWLINE_ERROR_ENDED and towline_last_error has how. Any
/// thread, in callbacks only with 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn towline_quic_connection_wait_closed(
    connection: *mut towline_quic_connection,
    timeout_ms: i64,
) -> towline_result {
    run(|| {
        let held = CONNECTIONS.get(connection as usize)?;
        Err(block_on(held.closed(), timeout_ms)?.into())
    })
}

/// Frees a connection, which is closed with code 0 if it is open. Its streams stay to be freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn towline_quic_connection_free(
    connection: *mut towline_quic_connection,
) -> towline_result {
    run(|| {
        let held = CONNECTIONS.remove(connection as usize)?;
        held.close(0, "");
        Ok(())
    })
}

fn stream(send: Option<SendStream>, receive: Option<RecvStream>) -> Stream {
    let id = match (&send, &receive) {
        (Some(send), _) => send.id().as_u64(),
        (_, Some(receive)) => receive.id().as_u64(),
        _ => 0,
    };
    let receive = receive.map(|stream| Mutex::new(Receive { stream, left: Bytes::new() }));
    Stream { id, send: send.map(Mutex::new), receive }
}

/// Opens a stream, in both directions or, with `both_ways` 0, to the peer; waits while the peer allows no more, as long as `timeout_ms` says. Free it with towline_quic_stream_free.
///
/// Any thread, in callbacks only with 0. Errors: TOWLINE_ERROR_TIMED_OUT, TOWLINE_ERROR_ENDED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn towline_quic_open_stream(
    connection: *mut towline_quic_connection,
    both_ways: i32,
    timeout_ms: i64,
    opened: *mut *mut towline_quic_stream,
) -> towline_result {
    run(|| {
        wanted(opened, "opened")?;
        let held = CONNECTIONS.get(connection as usize)?;
        let made = match both_ways {
            0 => stream(Some(block_on(held.open_uni(), timeout_ms)??), None),
            _ => {
                let (send, receive) = block_on(held.open_bi(), timeout_ms)??;
                stream(Some(send), Some(receive))
            }
        };
        // SAFETY: checked above, and by contract writable.
        unsafe { give(&STREAMS, made, opened) }
    })
}

/// The next stream that the peer opened, in both directions or, with `both_ways` 0, to this side. Free it with towline_quic_stream_free.
///
/// Any thread, in callbacks only with 0. Errors: TOWLINE_ERROR_TIMED_OUT, TOWLINE_ERROR_ENDED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn towline_quic_accept_stream(
    connection: *mut towline_quic_connection,
    both_ways: i32,
    timeout_ms: i64,
    accepted: *mut *mut towline_quic_stream,
) -> towline_result {
    run(|| {
        wanted(accepted, "accepted")?;
        let held = CONNECTIONS.get(connection as usize)?;
        let made = match both_ways {
            0 => stream(None, Some(block_on(held.accept_uni(), timeout_ms)??)),
            _ => {
                let (send, receive) = block_on(held.accept_bi(), timeout_ms)??;
                stream(Some(send), Some(receive))
            }
        };
        // SAFETY: checked above, and by contract writable.
        unsafe { give(&STREAMS, made, accepted) }
    })
}

fn sender(stream: &Stream) -> Result<MutexGuard<'_, SendStream>, Failure> {
    let none = || Failure::new(code::TOWLINE_ERROR_UNSUPPORTED, "the stream is for reading only");
    stream.send.as_ref().map(lock).ok_or_else(none)
}

fn receiver(stream: &Stream) -> Result<MutexGuard<'_, Receive>, Failure> {
    let none = || Failure::new(code::TOWLINE_ERROR_UNSUPPORTED, "the stream is for writing only");
    stream.receive.as_ref().map(lock).ok_or_else(none)
}

/// Writes all of the bytes, which are copied; waits, as long as `timeout_ms` says, while 512 KiB wait already, and takes nothing when the time is over.
///
/// Any thread, in callbacks only with 0. Errors: TOWLINE_ERROR_TIMED_OUT, TOWLINE_ERROR_RESET when the peer stopped reading, TOWLINE_ERROR_ENDED, TOWLINE_ERROR_UNSUPPORTED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn towline_quic_stream_write(
    stream: *mut towline_quic_stream,
    data: *const c_void,
    length: usize,
    timeout_ms: i64,
) -> towline_result {
    run(|| {
        let held = STREAMS.get(stream as usize)?;
        // SAFETY: by contract NULL or readable for the call.
        let data = Bytes::copy_from_slice(unsafe { bytes(data.cast(), length) }?);
        let mut send = sender(&held)?;
        Ok(block_on(send.write(data), timeout_ms)??)
    })
}

/// Ends the stream behind what was written. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn towline_quic_stream_finish(
    stream: *mut towline_quic_stream,
) -> towline_result {
    run(|| Ok(sender(&*STREAMS.get(stream as usize)?)?.finish()?))
}

/// Waits until the peer has acknowledged everything, its end included. Any thread, in callbacks only with 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn towline_quic_stream_acknowledged(
    stream: *mut towline_quic_stream,
    timeout_ms: i64,
) -> towline_result {
    run(|| {
        let held = STREAMS.get(stream as usize)?;
        let mut send = sender(&held)?;
        Ok(block_on(send.acknowledged(), timeout_ms)??)
    })
}

/// Abandons what this side sends, with a code of the application's, at most 2^62 - 1. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn towline_quic_stream_reset(
    stream: *mut towline_quic_stream,
    code: u64,
) -> towline_result {
    run(|| {
        sender(&*STREAMS.get(stream as usize)?)?.reset(code);
        Ok(())
    })
}

/// Reads the next bytes, at most `length`, waiting for them as long as `timeout_ms` says; `read` gets how many, 0 at the end of the stream.
///
/// Any thread, in callbacks only with 0. Errors: TOWLINE_ERROR_TIMED_OUT, TOWLINE_ERROR_RESET when the peer abandoned it, TOWLINE_ERROR_ENDED, TOWLINE_ERROR_UNSUPPORTED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn towline_quic_stream_read(
    stream: *mut towline_quic_stream,
    buffer: *mut c_void,
    length: usize,
    timeout_ms: i64,
    read: *mut usize,
) -> towline_result {
    run(|| {
        wanted(buffer, "buffer")?;
        wanted(read, "read")?;
        let held = STREAMS.get(stream as usize)?;
        let mut receive = receiver(&held)?;
        if receive.left.is_empty() {
            match block_on(receive.stream.read(), timeout_ms)?? {
                Some(data) => receive.left = data,
                None => {
                    // SAFETY: checked above, and by contract writable.
                    unsafe { put(read, 0) };
                    return Ok(());
                }
            }
        }
        let taken = receive.left.len().min(length);
        let taken = receive.left.split_to(taken);
        // SAFETY: checked above, and by contract writable for `length` bytes and for a number.
        unsafe {
            std::ptr::copy_nonoverlapping(taken.as_ptr(), buffer.cast(), taken.len());
            put(read, taken.len());
        }
        Ok(())
    })
}

/// Reads no more, and asks the peer to stop with this code of the application's, at most 2^62 - 1. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn towline_quic_stream_stop(
    stream: *mut towline_quic_stream,
    code: u64,
) -> towline_result {
    run(|| {
        receiver(&*STREAMS.get(stream as usize)?)?.stream.stop(code);
        Ok(())
    })
}

/// The stream's identifier (RFC 9000 section 2.1). Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn towline_quic_stream_id(
    stream: *const towline_quic_stream,
    id: *mut u64,
) -> towline_result {
    run(|| {
        wanted(id, "id")?;
        let held = STREAMS.get(stream as usize)?;
        // SAFETY: checked above, and by contract writable.
        unsafe { put(id, held.id) };
        Ok(())
    })
}

/// Frees a stream. What it sends and has not finished is abandoned, what it reads is stopped.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn towline_quic_stream_free(
    stream: *mut towline_quic_stream,
) -> towline_result {
    run(|| STREAMS.remove(stream as usize).map(drop))
}

/// Sends a datagram (RFC 9221): once, unordered, lost when its packet is. The data is copied.
///
/// Any thread, in callbacks only with 0. Errors: TOWLINE_ERROR_MESSAGE when the peer takes none or it is too long for the path, TOWLINE_ERROR_TIMED_OUT, TOWLINE_ERROR_ENDED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn towline_quic_send_datagram(
    connection: *mut towline_quic_connection,
    data: *const c_void,
    length: usize,
    timeout_ms: i64,
) -> towline_result {
    run(|| {
        let held = CONNECTIONS.get(connection as usize)?;
        // SAFETY: by contract NULL or readable for the call.
        let data = Bytes::copy_from_slice(unsafe { bytes(data.cast(), length) }?);
        Ok(block_on(held.send_datagram(data), timeout_ms)??)
    })
}

/// The next datagram, waiting for it as long as `timeout_ms` says. At most 1 MiB of them wait; the oldest are dropped beyond. Free it with towline_received_free.
///
/// Any thread, in callbacks only with 0. Errors: TOWLINE_ERROR_TIMED_OUT, TOWLINE_ERROR_ENDED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn towline_quic_receive_datagram(
    connection: *mut towline_quic_connection,
    timeout_ms: i64,
    received: *mut *mut towline_received,
) -> towline_result {
    run(|| {
        wanted(received, "received")?;
        let held = CONNECTIONS.get(connection as usize)?;
        let data = block_on(held.read_datagram(), timeout_ms)??;
        // SAFETY: checked above, and by contract writable.
        unsafe { message::give(towline_core::Message::new(data), received) }
    })
}
