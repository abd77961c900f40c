//! The service behind a state: completions become calls of the application's four functions.

use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::io;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, Weak};

use socket2::SockAddr;
use towline_io::completion::{
    Failure as Failed, ListenHandle, Operation, Port, ReadBuffer, Service, SocketHandle,
};

use crate::entry::Failure;
use crate::gate::{User, timed};
use crate::handle::Table;

pub type Accept = unsafe extern "C" fn(
    socket: RawFd,
    local_address: *mut libc::sockaddr,
    remote_address: *mut libc::sockaddr,
    listen_socket_user_state: *mut c_void,
    per_socket_user_state: *mut *mut c_void,
);
pub type Recv = unsafe extern "C" fn(
    socket: RawFd,
    read_buffer: *mut c_void,
    byte_count: u32,
    per_socket_user_state: *mut c_void,
);
pub type Send = unsafe extern "C" fn(
    socket: RawFd,
    per_socket_user_state: *mut c_void,
    per_write_user_state: *mut c_void,
);
pub type Tell = unsafe extern "C" fn(socket: RawFd, per_socket_user_state: *mut c_void);

/// The cause of an error callback.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct socket_iocp_error {
    pub struct_size: usize,
    pub operation: c_int,
    pub system_error: c_int,
    pub socket_iocp_socket_state: *mut c_void,
    pub per_write_user_state: *mut c_void,
}

const OPERATION_ACCEPT: c_int = 1;
const OPERATION_ADD: c_int = 2;
const OPERATION_RECV: c_int = 3;
const OPERATION_SYNC_SEND: c_int = 4;
const OPERATION_ASYNC_SEND: c_int = 5;

thread_local! {
    /// The state, the socket and its handle that the present callback is about.
    static CURRENT: Cell<(usize, RawFd, usize)> = const { Cell::new((0, -1, 0)) };
    /// The state that the present thread works for.
    static WORKS_FOR: Cell<usize> = const { Cell::new(0) };
    static CAUSE: Cell<Option<socket_iocp_error>> = const { Cell::new(None) };
}

/// The handle of the socket that the present callback is about.
pub(super) fn current(state: usize, socket: RawFd) -> Option<usize> {
    let (of, descriptor, handle) = CURRENT.get();
    (of == state && descriptor == socket && handle != 0).then_some(handle)
}

/// Whether the present thread is a worker of this state, in one of its callbacks.
pub(super) fn is_worker_of(state: usize) -> bool {
    WORKS_FOR.get() == state && state != 0
}

/// Why the present error callback was called.
pub(super) fn cause() -> Option<socket_iocp_error> {
    CAUSE.get()
}

/// A `void **socket_iocp_state`.
pub struct State {
    /// `None` once it was deleted.
    pub(super) port: RwLock<Option<Port<Callbacks>>>,
    sockets: Mutex<HashMap<RawFd, usize>>,
    listeners: Mutex<HashMap<RawFd, ListenHandle<Callbacks>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    pub(super) fn new(port: Port<Callbacks>) -> State {
        State {
            port: RwLock::new(Some(port)),
            sockets: Mutex::default(),
            listeners: Mutex::default(),
        }
    }

    pub(super) fn with_port<T>(
        &self,
        action: impl FnOnce(&Port<Callbacks>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let port = self.port.read().unwrap_or_else(PoisonError::into_inner);
        let port = port.as_ref();
        action(port.ok_or_else(|| Failure::stale("the socket_iocp state was deleted already"))?)
    }

    pub(super) fn find(&self, socket: RawFd) -> Option<usize> {
        lock(&self.sockets).get(&socket).copied()
    }

    /// A socket is gone. Its number may be another one's by now.
    pub(super) fn forget(&self, socket: RawFd, handle: usize) {
        {
            let mut sockets = lock(&self.sockets);
            if sockets.get(&socket) == Some(&handle) {
                sockets.remove(&socket);
            }
        }
        SOCKETS.remove(handle).ok();
    }

    /// Everything is over: handles that are left become stale.
    pub(super) fn forget_sockets(&self) {
        for (_, handle) in lock(&self.sockets).drain() {
            SOCKETS.remove(handle).ok();
        }
        lock(&self.listeners).clear();
    }

    pub(super) fn keep_listener(&self, socket: RawFd, listening: ListenHandle<Callbacks>) {
        lock(&self.listeners).insert(socket, listening);
    }

    pub(super) fn take_listener(&self, socket: RawFd) -> Option<ListenHandle<Callbacks>> {
        lock(&self.listeners).remove(&socket)
    }
}

/// What a socket's handle leads to.
pub(super) struct Held {
    pub(super) state: usize,
    pub(super) handle: OnceLock<SocketHandle<Callbacks>>,
    /// The port as callbacks are given it, on accepted sockets.
    pub(super) inside: Option<Port<Callbacks>>,
}

pub(super) static SOCKETS: Table<Held> = Table::new(9, "socket_iocp socket state");

/// The state of one socket, kept by the port.
pub struct PerSocket {
    owner: Weak<State>,
    state: usize,
    socket: RawFd,
    pub(super) handle: usize,
    user: User,
}

impl PerSocket {
    pub(super) fn new(
        owner: &Arc<State>,
        state: usize,
        socket: RawFd,
        user: *mut c_void,
    ) -> Result<PerSocket, Failure> {
        let held = Held { state, handle: OnceLock::new(), inside: None };
        PerSocket::insert(owner, held, socket, user)
            .ok_or_else(|| Failure::internal("too many sockets"))
    }

    fn insert(
        owner: &Arc<State>,
        held: Held,
        socket: RawFd,
        user: *mut c_void,
    ) -> Option<PerSocket> {
        let state = held.state;
        let handle = SOCKETS.insert(Arc::new(held))?;
        lock(&owner.sockets).insert(socket, handle);
        Some(PerSocket { owner: Arc::downgrade(owner), state, socket, handle, user: User(user) })
    }

    /// The port has taken the socket.
    pub(super) fn complete(handle: usize, added: SocketHandle<Callbacks>) {
        if let Ok(held) = SOCKETS.get(handle) {
            held.handle.set(added).ok();
        }
    }
}

/// The state of a listening socket.
pub struct Listen {
    owner: Weak<State>,
    state: usize,
    socket: RawFd,
    user: User,
}

impl Listen {
    pub(super) fn new(
        owner: &Arc<State>,
        state: usize,
        socket: RawFd,
        user: *mut c_void,
    ) -> Listen {
        Listen { owner: Arc::downgrade(owner), state, socket, user: User(user) }
    }
}

/// The state of a write: the application's pointer.
pub struct Write(pub(super) *mut c_void);

// SAFETY: it is only handed back to the application, on the socket's worker as the header says.
unsafe impl std::marker::Send for Write {}

/// The application's functions.
pub struct Callbacks {
    accept: Accept,
    recv: Recv,
    send: Send,
    error: Tell,
    pub(super) writable: Option<Tell>,
    pub(super) removed: Option<Tell>,
}

impl Callbacks {
    /// `None` when one of the four is missing.
    pub(super) fn new(
        accept: Option<Accept>,
        recv: Option<Recv>,
        send: Option<Send>,
        error: Option<Tell>,
    ) -> Option<Callbacks> {
        let (accept, recv, send, error) = (accept?, recv?, send?, error?);
        Some(Callbacks { accept, recv, send, error, writable: None, removed: None })
    }

    fn fail(
        &self,
        of: (usize, RawFd, usize),
        user: User,
        operation: c_int,
        write: *mut c_void,
        error: &io::Error,
    ) {
        let cause = socket_iocp_error {
            struct_size: size_of::<socket_iocp_error>(),
            operation,
            system_error: error.raw_os_error().unwrap_or(libc::EIO),
            socket_iocp_socket_state: of.2 as *mut c_void,
            per_write_user_state: write,
        };
        let outer = CAUSE.replace(Some(cause));
        about(of, || {
            // SAFETY: the application promised a function of this type.
            unsafe { (self.error)(of.1, user.0) };
        });
        CAUSE.set(outer);
    }
}

/// Runs a callback about a socket.
fn about<T>(of: (usize, RawFd, usize), callback: impl FnOnce() -> T) -> T {
    WORKS_FOR.set(of.0);
    let outer = CURRENT.replace(of);
    let value = timed(callback);
    CURRENT.set(outer);
    value
}

/// The address as C programs see it, in memory of its own: it may be written to.
fn raw(address: &SockAddr) -> libc::sockaddr_storage {
    // SAFETY: all zeroes are a `sockaddr_storage`; the address fits into one and does not overlap it.
    unsafe {
        let mut storage: libc::sockaddr_storage = std::mem::zeroed();
        let length = (address.len() as usize).min(size_of::<libc::sockaddr_storage>());
        std::ptr::copy_nonoverlapping(
            address.as_ptr().cast::<u8>(),
            (&raw mut storage).cast::<u8>(),
            length,
        );
        storage
    }
}

fn of(per: &PerSocket) -> (usize, RawFd, usize) {
    (per.state, per.socket, per.handle)
}

impl Service for Callbacks {
    type Listen = Listen;
    type Socket = PerSocket;
    type Write = Write;

    fn accepted(
        &self,
        port: &Port<Self>,
        socket: &SocketHandle<Self>,
        local: &SockAddr,
        peer: &SockAddr,
        listen: &Listen,
    ) -> PerSocket {
        let descriptor = socket.descriptor();
        let nobody = PerSocket {
            owner: Weak::new(),
            state: listen.state,
            socket: descriptor,
            handle: 0,
            user: User(std::ptr::null_mut()),
        };
        // A state that is being deleted takes no more sockets.
        let Some(owner) = listen.owner.upgrade() else {
            port.remove(socket);
            return nobody;
        };
        let held = Held {
            state: listen.state,
            handle: OnceLock::from(socket.clone()),
            inside: Some(port.clone()),
        };
        let Some(mut per) = PerSocket::insert(&owner, held, descriptor, std::ptr::null_mut())
        else {
            port.remove(socket);
            return nobody;
        };
        let (mut local, mut peer) = (raw(local), raw(peer));
        about(of(&per), || {
            // SAFETY: the application promised a function of this type; addresses and place live for the call.
            unsafe {
                (self.accept)(
                    descriptor,
                    (&raw mut local).cast(),
                    (&raw mut peer).cast(),
                    listen.user.0,
                    &raw mut per.user.0,
                );
            }
        });
        per
    }

    fn received(&self, _: &Port<Self>, socket: &SocketHandle<Self>, data: &mut ReadBuffer) {
        let Some(per) = socket.state() else { return };
        about(of(per), || {
            // SAFETY: the application promised a function of this type; the buffer lives for the call, and nobody else looks at it.
            unsafe {
                (self.recv)(
                    per.socket,
                    data.as_ptr().cast_mut().cast(),
                    data.len() as u32,
                    per.user.0,
                );
            }
        });
    }

    fn sent(&self, _: &Port<Self>, socket: &SocketHandle<Self>, write: Write) {
        let Some(per) = socket.state() else { return };
        about(of(per), || {
            // SAFETY: the application promised a function of this type.
            unsafe { (self.send)(per.socket, per.user.0, write.0) };
        });
    }

    fn failed(&self, _: &Port<Self>, socket: &SocketHandle<Self>, failure: Failed<Write>) {
        let Some(per) = socket.state() else { return };
        let none = std::ptr::null_mut();
        let (operation, write) = match failure.operation {
            Operation::Recv => (OPERATION_RECV, none),
            Operation::SyncSend(write) => (OPERATION_SYNC_SEND, write.0),
            Operation::AsyncSend(write) => (OPERATION_ASYNC_SEND, write.0),
            _ => (OPERATION_ADD, none),
        };
        self.fail(of(per), per.user, operation, write, &failure.error);
    }

    fn writable(&self, _: &Port<Self>, socket: &SocketHandle<Self>) {
        let (Some(per), Some(writable)) = (socket.state(), self.writable) else { return };
        about(of(per), || {
            // SAFETY: the application promised a function of this type.
            unsafe { writable(per.socket, per.user.0) };
        });
    }

    fn accept_failed(&self, _: &Port<Self>, listen: &Listen, error: io::Error) {
        let of = (listen.state, listen.socket, 0);
        self.fail(of, listen.user, OPERATION_ACCEPT, std::ptr::null_mut(), &error);
    }

    fn removed(&self, _: &Port<Self>, socket: &SocketHandle<Self>) {
        let Some(per) = socket.state() else { return };
        if let Some(removed) = self.removed.filter(|_| per.handle != 0) {
            about(of(per), || {
                // SAFETY: the application promised a function of this type.
                unsafe { removed(per.socket, per.user.0) };
            });
        }
        match per.owner.upgrade() {
            Some(owner) => owner.forget(per.socket, per.handle),
            None => drop(SOCKETS.remove(per.handle)),
        }
    }
}
