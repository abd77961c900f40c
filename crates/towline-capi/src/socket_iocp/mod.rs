//! `socket_iocp.h`: completion-based sockets over [`towline_io::completion`].
//!
//! The state behind `void *` is a [`State`]; the system below it is `towline-io`'s business, so that completion ports of Windows are one
//! more driver there and nothing here.

mod service;

use std::ffi::{c_int, c_void};
use std::mem::ManuallyDrop;
use std::os::fd::{FromRawFd, RawFd};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use socket2::{Socket, Type};
use towline_io::DriverChoice;
use towline_io::completion::{Port, PortConfig, Refusal, Refused, SocketHandle};

use crate::entry::{Failure, attempt, code, towline_result};
use crate::gate::in_callback;
use crate::handle::Table;
use crate::log;
use service::{Callbacks, Listen, PerSocket, SOCKETS, State, Tell, Write};

static STATES: Table<State> = Table::new(8, "socket_iocp state");

/// Runs an entry that returns 0 or an error number of the system.
fn numbered(entry: impl FnOnce() -> Result<(), Failure>) -> c_int {
    match attempt(entry) {
        Ok(()) => 0,
        Err(code::TOWLINE_ERROR_STALE_HANDLE) => libc::EBADF,
        Err(code::TOWLINE_ERROR_WOULD_DEADLOCK) => libc::EDEADLK,
        Err(code::TOWLINE_ERROR_INTERNAL) => libc::EIO,
        // Failures made here carry the system's number itself.
        Err(number @ 1..) => number,
        Err(_) => libc::EINVAL,
    }
}

fn system(number: c_int, text: impl std::fmt::Display) -> Failure {
    Failure::new(number as towline_result, text)
}

fn io(error: &std::io::Error) -> Failure {
    let number = match (error.raw_os_error(), error.kind()) {
        (Some(number), _) => number,
        (None, std::io::ErrorKind::InvalidInput) => libc::EINVAL,
        _ => libc::EIO,
    };
    system(number, error)
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Failure {
        let number = match refusal {
            Refusal::Busy => libc::EBUSY,
            Refusal::Full => libc::EAGAIN,
            _ => libc::EBADF,
        };
        system(number, refusal)
    }
}

/// What `socket_iocp_new_with` takes beside the callbacks; see the header.
#[repr(C)]
pub struct socket_iocp_options {
    struct_size: usize,
    threads: u32,
    driver: c_int,
    send_limit: usize,
    spin_us: u64,
    writable_callback_function: Option<Tell>,
    removed_callback_function: Option<Tell>,
}

fn port_config(read_buffer_size: usize) -> PortConfig {
    let mut config = PortConfig::default();
    config.driver.recv_buffer_size = read_buffer_size;
    config.driver.kind = match std::env::var("TOWLINE_DRIVER").as_deref() {
        Ok("io_uring") => DriverChoice::IoUring,
        Ok("epoll") => DriverChoice::Epoll,
        _ => DriverChoice::Auto,
    };
    config
}

fn apply(options: &socket_iocp_options, config: &mut PortConfig) -> Result<(), Failure> {
    if options.struct_size != size_of::<socket_iocp_options>() {
        return Err(Failure::invalid(
            "options.struct_size is not sizeof(struct socket_iocp_options)",
        ));
    }
    if options.threads != 0 {
        config.threads = options.threads as usize;
    }
    if options.send_limit != 0 {
        config.send_limit = options.send_limit;
    }
    if options.spin_us > 1_000_000 {
        return Err(Failure::invalid("options.spin_us is above 1,000,000"));
    }
    config.driver.spin = Duration::from_micros(options.spin_us);
    config.driver.kind = match options.driver {
        0 => config.driver.kind,
        1 => DriverChoice::IoUring,
        2 => DriverChoice::Epoll,
        other => return Err(Failure::invalid(format!("{other} is no driver"))),
    };
    Ok(())
}

/// # Safety
///
/// `place` is NULL or writable, `options` NULL or readable.
unsafe fn new(
    place: *mut *mut c_void,
    read_buffer_size: usize,
    callbacks: Option<Callbacks>,
    options: *const socket_iocp_options,
) -> c_int {
    log::install();
    numbered(|| {
        crate::entry::wanted(place, "socket_iocp_state")?;
        let mut callbacks = callbacks.ok_or_else(|| Failure::invalid("a callback is NULL"))?;
        let mut config = port_config(read_buffer_size);
        // SAFETY: by contract NULL or readable.
        if let Some(options) = unsafe { options.as_ref() } {
            apply(options, &mut config)?;
            callbacks.writable = options.writable_callback_function;
            callbacks.removed = options.removed_callback_function;
        }
        let port = Port::new(callbacks, &config).map_err(|error| io(&error))?;
        let handle = STATES.insert(Arc::new(State::new(port)));
        let handle = handle.ok_or_else(|| Failure::internal("too many states"))?;
        // SAFETY: checked above, and by contract writable.
        unsafe { place.write(handle as *mut c_void) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn socket_iocp_new(
    socket_iocp_state: *mut *mut c_void,
    read_buffer_size: usize,
    accept_callback_function: Option<service::Accept>,
    recv_callback_function: Option<service::Recv>,
    send_callback_function: Option<service::Send>,
    error_callback_function: Option<Tell>,
) -> c_int {
    let callbacks = Callbacks::new(
        accept_callback_function,
        recv_callback_function,
        send_callback_function,
        error_callback_function,
    );
    // SAFETY: the caller's promises; there are no options.
    unsafe { new(socket_iocp_state, read_buffer_size, callbacks, std::ptr::null()) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn socket_iocp_new_with(
    socket_iocp_state: *mut *mut c_void,
    read_buffer_size: usize,
    accept_callback_function: Option<service::Accept>,
    recv_callback_function: Option<service::Recv>,
    send_callback_function: Option<service::Send>,
    error_callback_function: Option<Tell>,
    options: *const socket_iocp_options,
) -> c_int {
    let callbacks = Callbacks::new(
        accept_callback_function,
        recv_callback_function,
        send_callback_function,
        error_callback_function,
    );
    // SAFETY: the caller's promises.
    unsafe { new(socket_iocp_state, read_buffer_size, callbacks, options) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn socket_iocp_delete(socket_iocp_state: *mut c_void) {
    let deleted = numbered(|| {
        STATES.get(socket_iocp_state as usize)?;
        if in_callback() {
            let text =
                "a socket_iocp state cannot be deleted inside a callback, which it would wait for";
            return Err(Failure::new(code::TOWLINE_ERROR_WOULD_DEADLOCK, text));
        }
        let state = STATES.remove(socket_iocp_state as usize)?;
        let port = state.port.write().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(port) = port {
            port.delete();
        }
        state.forget_sockets();
        Ok(())
    });
    if deleted != 0 {
        tracing::error!(errno = deleted, "socket_iocp_delete was refused");
    }
}

/// The driver that a state runs on: 1 io_uring, 2 epoll, 0 for what is no state.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn socket_iocp_driver(socket_iocp_state: *mut c_void) -> c_int {
    let mut kind = 0;
    numbered(|| {
        let state = STATES.get(socket_iocp_state as usize)?;
        state.with_port(|port| {
            kind = match port.driver() {
                towline_io::DriverKind::IoUring => 1,
                _ => 2,
            };
            Ok(())
        })
    });
    kind
}

/// A stream socket of the caller's, which stays the caller's when it is refused.
fn borrow(socket: RawFd) -> Result<ManuallyDrop<Socket>, Failure> {
    // SAFETY: asking for the flags of a number that is no descriptor is an error and nothing else.
    if socket < 0 || unsafe { libc::fcntl(socket, libc::F_GETFD) } < 0 {
        return Err(system(libc::EBADF, format!("{socket} is no socket")));
    }
    // SAFETY: it is open; it is not closed here, and given away only when it was taken.
    let socket = ManuallyDrop::new(unsafe { Socket::from_raw_fd(socket) });
    let kind = socket.r#type().map_err(|error| io(&error))?;
    if kind != Type::STREAM {
        return Err(Failure::invalid("this is no stream socket"));
    }
    Ok(socket)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn socket_iocp_add_listen_socket(
    socket_iocp_state: *mut c_void,
    socket: RawFd,
    accept_socket_backlog: usize,
    listen_user_state: *mut c_void,
) -> c_int {
    numbered(|| {
        let state = STATES.get(socket_iocp_state as usize)?;
        let borrowed = borrow(socket)?;
        if !borrowed.is_listener().map_err(|error| io(&error))? {
            return Err(Failure::invalid("the socket does not listen; call listen(2) before"));
        }
        if accept_socket_backlog == 0 {
            return Err(Failure::invalid("accept_socket_backlog is 0"));
        }
        let listen = Listen::new(&state, socket_iocp_state as usize, socket, listen_user_state);
        state.with_port(|port| {
            let owned = ManuallyDrop::into_inner(borrowed);
            let added = port.add_listen_socket(owned, accept_socket_backlog, listen);
            state.keep_listener(socket, added.map_err(|error| io(&error))?);
            Ok(())
        })
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn socket_iocp_remove_listen_socket(
    socket_iocp_state: *mut c_void,
    socket: RawFd,
) -> c_int {
    numbered(|| {
        let state = STATES.get(socket_iocp_state as usize)?;
        let listening = state.take_listener(socket);
        let none = || system(libc::EBADF, format!("{socket} does not listen here"));
        let listening = listening.ok_or_else(none)?;
        state.with_port(|port| {
            port.remove_listen_socket(&listening);
            Ok(())
        })
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn socket_iocp_add_connected_socket(
    socket_iocp_state: *mut c_void,
    socket: RawFd,
    per_socket_user_state: *mut c_void,
) -> c_int {
    numbered(|| {
        let state = STATES.get(socket_iocp_state as usize)?;
        let borrowed = borrow(socket)?;
        let per =
            PerSocket::new(&state, socket_iocp_state as usize, socket, per_socket_user_state)?;
        let handle = per.handle;
        let added = state.with_port(|port| {
            borrowed.set_nonblocking(true).map_err(|error| io(&error))?;
            // A port that has ended meanwhile closes it.
            let owned = ManuallyDrop::into_inner(borrowed);
            port.add_connected_socket(owned, per).map_err(|error| io(&error))
        });
        match added {
            Ok(added) => {
                PerSocket::complete(handle, added);
                Ok(())
            }
            Err(failure) => {
                state.forget(socket, handle);
                Err(failure)
            }
        }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn socket_iocp_get_socket_state(
    socket_iocp_state: *mut c_void,
    socket: RawFd,
    socket_iocp_socket_state: *mut *mut c_void,
) -> c_int {
    numbered(|| {
        crate::entry::wanted(socket_iocp_socket_state, "socket_iocp_socket_state")?;
        let handle = match service::current(socket_iocp_state as usize, socket) {
            Some(handle) => handle,
            None => {
                let state = STATES.get(socket_iocp_state as usize)?;
                let none = || system(libc::EBADF, format!("{socket} is no socket of this state"));
                state.find(socket).ok_or_else(none)?
            }
        };
        // SAFETY: checked above, and by contract writable.
        unsafe { socket_iocp_socket_state.write(handle as *mut c_void) };
        Ok(())
    })
}

/// Does something with a socket of a state.
fn with_socket(
    state: *mut c_void,
    socket: *mut c_void,
    action: impl FnOnce(&Port<Callbacks>, &SocketHandle<Callbacks>) -> Result<(), Failure>,
) -> c_int {
    numbered(|| {
        let socket = SOCKETS.get(socket as usize)?;
        if socket.state != state as usize {
            STATES.get(state as usize)?;
            return Err(Failure::invalid("the socket belongs to another state"));
        }
        let unknown = || system(libc::EBADF, "the socket is being added by another thread");
        let handle = socket.handle.get().ok_or_else(unknown)?;
        match &socket.inside {
            // The usual way, which takes no lock of the state.
            Some(port) if service::is_worker_of(state as usize) => action(port, handle),
            _ => STATES.get(state as usize)?.with_port(|port| action(port, handle)),
        }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn socket_iocp_issue_recv(
    socket_iocp_state: *mut c_void,
    socket_iocp_socket_state: *mut c_void,
) -> c_int {
    with_socket(socket_iocp_state, socket_iocp_socket_state, |port, socket| {
        port.issue_recv(socket).map_err(|refusal| match refusal {
            Refusal::Busy => {
                system(libc::EALREADY, "a receive is already outstanding on the socket")
            }
            other => other.into(),
        })
    })
}

/// The caller's bytes, which stay where they are until the send completes.
///
/// # Safety
///
/// `buffer` is NULL, or readable for `length` bytes and unchanged until the completion of the send that gets them.
unsafe fn borrowed(buffer: *mut c_void, length: u32) -> Result<Bytes, Failure> {
    // SAFETY: the caller's promise; the slice ends with the operation, before the completion is told.
    Ok(Bytes::from_static(unsafe { crate::entry::bytes(buffer.cast(), length as usize) }?))
}

/// Either kind of send.
///
/// # Safety
///
/// As for [`borrowed`].
unsafe fn issue_send(
    state: *mut c_void,
    socket: *mut c_void,
    buffer: *mut c_void,
    length: u32,
    per_write: *mut c_void,
    send: impl FnOnce(
        &Port<Callbacks>,
        &SocketHandle<Callbacks>,
        Bytes,
        Write,
    ) -> Result<(), Refused<Write>>,
) -> c_int {
    with_socket(state, socket, |port, socket| {
        // SAFETY: the caller's promise.
        let data = unsafe { borrowed(buffer, length) }?;
        send(port, socket, data, Write(per_write)).map_err(|refused| refused.reason.into())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn socket_iocp_issue_sync_send(
    socket_iocp_state: *mut c_void,
    socket_iocp_socket_state: *mut c_void,
    write_buffer: *mut c_void,
    number_bytes_to_write: u32,
    per_write_user_state: *mut c_void,
) -> c_int {
    // SAFETY: by contract the buffer is readable and unchanged until the completion.
    unsafe {
        issue_send(
            socket_iocp_state,
            socket_iocp_socket_state,
            write_buffer,
            number_bytes_to_write,
            per_write_user_state,
            Port::issue_sync_send,
        )
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn socket_iocp_issue_async_send(
    socket_iocp_state: *mut c_void,
    socket_iocp_socket_state: *mut c_void,
    write_buffer: *mut c_void,
    number_bytes_to_write: u32,
    per_write_user_state: *mut c_void,
) -> c_int {
    // SAFETY: by contract the buffer is readable and unchanged until the completion.
    unsafe {
        issue_send(
            socket_iocp_state,
            socket_iocp_socket_state,
            write_buffer,
            number_bytes_to_write,
            per_write_user_state,
            Port::issue_async_send,
        )
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn socket_iocp_cancel_recv(
    socket_iocp_state: *mut c_void,
    socket_iocp_socket_state: *mut c_void,
) -> c_int {
    with_socket(socket_iocp_state, socket_iocp_socket_state, |port, socket| {
        port.cancel_recv(socket);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn socket_iocp_cancel_sends(
    socket_iocp_state: *mut c_void,
    socket_iocp_socket_state: *mut c_void,
) -> c_int {
    with_socket(socket_iocp_state, socket_iocp_socket_state, |port, socket| {
        port.cancel_sends(socket);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn socket_iocp_remove(
    socket_iocp_state: *mut c_void,
    socket_iocp_socket_state: *mut c_void,
) -> c_int {
    with_socket(socket_iocp_state, socket_iocp_socket_state, |port, socket| {
        port.remove(socket);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn socket_iocp_get_error(error: *mut service::socket_iocp_error) -> c_int {
    numbered(|| {
        crate::entry::wanted(error, "error")?;
        // SAFETY: not NULL, and by contract readable.
        if unsafe { (*error).struct_size } != size_of::<service::socket_iocp_error>() {
            return Err(Failure::invalid(
                "error.struct_size is not sizeof(struct socket_iocp_error)",
            ));
        }
        let cause = service::cause();
        let cause = cause.ok_or_else(|| Failure::invalid("this is no error callback"))?;
        // SAFETY: checked above, and by contract writable.
        unsafe { error.write(cause) };
        Ok(())
    })
}
