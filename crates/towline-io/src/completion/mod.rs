//! Completion-based sockets with callbacks: one port, a few worker threads, four callbacks and two more.
//!
//! A [`Port`] owns worker threads, one [`Driver`](crate::Driver) each. Sockets added to it do nothing until an
//! operation is issued on them; when it completes, a method of the application's [`Service`] is called. Listening
//! sockets accept on their own.
//!
//! # The contract
//!
//! **Handles.** Adding a socket returns a handle, and so does the accept callback's argument. A handle is a cheap
//! clone; it may outlive its socket and even the port, calls on it are then refused ([`Refusal::Gone`]).
//!
//! **Threads.** There are as many workers as [`PortConfig::threads`]; each socket belongs to one of them for its whole
//! life (added ones in turn, accepted ones in turn, too). All callbacks of a socket run on its worker, one at a time,
//! never concurrently; callbacks of different sockets may run at the same time. A callback must not block: it holds
//! up all sockets of its worker. Every function here may be called from any thread, except that [`Port::delete`] must
//! not be called by a callback.
//!
//! **Re-entrancy.** A callback may issue any operation on any socket, also on its own, also [`Port::remove`]. Issuing
//! never calls back: a completion comes later, when the callback has returned.
//!
//! **Exactly once.** Each operation that was accepted (`Ok`) ends with exactly one callback: `received`, `sent`, or
//! `failed` with that operation. An operation that was refused (`Err`) ends with none, and what was given with it is
//! in the error.
//!
//! **Receives.** One-shot, one outstanding per socket; a second is [`Refusal::Busy`]. The buffer belongs to the port
//! and is valid during the callback; [`ReadBuffer::take`] keeps it without a copy. All sockets of a port use buffers
//! of one size ([`DriverConfig::recv_buffer_size`](crate::DriverConfig)); a waiting socket holds none. **The end of
//! the stream** is `received` with an empty buffer, not an error; a receive issued after it ends the same way.
//!
//! **Sends.** All bytes of a socket's sends are written in the order of issue and never interleave; the callbacks come
//! in that order, too. Sends issued by several threads at once are ordered as the port met them. There are no short
//! sends: `sent` means that all bytes were copied to the kernel, not that the peer has them. `issue_sync_send`
//! allocates nothing and admits one at a time per socket ([`Refusal::Busy`]); any number of `issue_async_send`s may be
//! outstanding. After one failed, all later ones of the socket end with `failed`, `ECANCELED`. The data may not change
//! until the callback, which `Bytes` guarantees.
//!
//! **Back-pressure.** At most [`PortConfig::send_limit`] bytes of a socket may be queued; beyond that a send is
//! [`Refusal::Full`], and when half of the limit is free again, `writable` is called once.
//!
//! **Errors.** `failed` says which operation it was, gives back the write's state and the system's error. An error of
//! a receive does not end sends and the other way round; the socket stays until it is removed.
//!
//! **Cancelling.** [`Port::cancel_recv`] and [`Port::cancel_sends`] end what is outstanding with `failed`,
//! `ECANCELED`, unless it was faster. No byte is lost by a cancelled receive; sends of which the kernel has a part are
//! finished.
//!
//! **Ownership and removal.** The port owns a socket from the moment it is added. [`Port::remove`] closes it: whatever
//! is outstanding ends with `failed`, `ECANCELED`, unless it was faster, then `removed` is called as the last callback
//! of that socket, and then its state is dropped with the last handle.
//!
//! **Accepting.** A listening socket keeps room for `ready` connections that are accepted and not yet seen by the
//! `accepted` callback; when so many wait, the rest stays in the kernel's backlog (`listen(2)`'s, a different
//! number), and accepting goes on when half of them are gone. When descriptors run out, accepting pauses and goes on
//! by itself; `accept_failed` tells.
//!
//! **Deletion.** [`Port::delete`], or dropping the port, removes all sockets as above and joins the workers: when it
//! returns, no callback runs any more. Dropping the last owner inside a callback is allowed and does not wait.
//!
//! **Panics.** A callback that panics is logged and its socket removed; the worker goes on.
//!
//! ```
//! use std::sync::mpsc::{Sender, channel};
//! use bytes::Bytes;
//! use socket2::{Domain, SockAddr, Socket, Type};
//! use towline_io::completion::{Failure, Port, PortConfig, ReadBuffer, Service, SocketHandle};
//!
//! /// Sends back what comes.
//! struct Echo(Sender<usize>);
//!
//! impl Service for Echo {
//!     type Listen = ();
//!     type Socket = ();
//!     type Write = ();
//!     fn accepted(&self, port: &Port<Echo>, socket: &SocketHandle<Echo>, _: &SockAddr, _: &SockAddr, _: &()) {
//!         port.issue_recv(socket).unwrap();
//!     }
//!     fn received(&self, port: &Port<Echo>, socket: &SocketHandle<Echo>, data: &mut ReadBuffer) {
//!         if data.is_empty() {
//!             port.remove(socket);
//!         } else {
//!             self.0.send(data.len()).unwrap();
//!             port.issue_async_send(socket, data.take(), ()).unwrap();
//!             port.issue_recv(socket).unwrap();
//!         }
//!     }
//!     fn sent(&self, _: &Port<Echo>, _: &SocketHandle<Echo>, _: ()) {}
//!     fn failed(&self, port: &Port<Echo>, socket: &SocketHandle<Echo>, _: Failure<()>) {
//!         port.remove(socket);
//!     }
//! }
//!
//! let (tell, told) = channel();
//! let port = Port::new(Echo(tell), &PortConfig::default())?;
//! let (ours, theirs) = Socket::pair(Domain::UNIX, Type::STREAM, None)?;
//! let handle = port.add_connected_socket(theirs, ())?;
//! port.issue_recv(&handle)?;
//! ours.send(b"hello")?;
//! assert_eq!(told.recv()?, 5);
//! port.delete();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod worker;

use std::io;
use std::ops::Deref;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;

use bytes::{Bytes, BytesMut};
use socket2::{SockAddr, Socket};

use crate::{DriverConfig, DriverKind};
use worker::{Command, Mailbox};

/// What an application does with its sockets. All methods run on a worker thread and must not block; see the
/// [module](self) for when each is called.
pub trait Service: Sized + Send + Sync + 'static {
    /// State of a listening socket.
    type Listen: Send + Sync + 'static;
    /// State of a connection.
    type Socket: Send + Sync + 'static;
    /// State of one write, given back with its completion.
    type Write: Send + 'static;

    /// A connection was accepted. Returns its state; operations may be issued on it already.
    fn accepted(
        &self,
        port: &Port<Self>,
        socket: &SocketHandle<Self>,
        local: &SockAddr,
        peer: &SockAddr,
        listen: &Self::Listen,
    ) -> Self::Socket;

    /// A receive ended: with data, or with none at the end of the stream.
    fn received(&self, port: &Port<Self>, socket: &SocketHandle<Self>, data: &mut ReadBuffer);

    /// A send ended: all of its bytes are in the kernel.
    fn sent(&self, port: &Port<Self>, socket: &SocketHandle<Self>, write: Self::Write);

    /// An operation failed or was cancelled.
    fn failed(&self, port: &Port<Self>, socket: &SocketHandle<Self>, failure: Failure<Self::Write>);

    /// Sends are taken again after one was [`Refusal::Full`].
    fn writable(&self, _port: &Port<Self>, _socket: &SocketHandle<Self>) {}

    /// Accepting failed; it goes on by itself.
    fn accept_failed(&self, _port: &Port<Self>, _listen: &Self::Listen, _error: io::Error) {}

    /// The socket was removed and closed; nothing follows.
    fn removed(&self, _port: &Port<Self>, _socket: &SocketHandle<Self>) {}
}

/// A failed operation.
#[derive(Debug)]
pub struct Failure<W> {
    /// Which one.
    pub operation: Operation<W>,
    /// Why: `ECANCELED` for one that was cancelled, or removed with its socket, or that was behind one that failed.
    pub error: io::Error,
}

/// An operation on a connection, with the state of a write.
#[derive(Debug)]
#[non_exhaustive]
pub enum Operation<W> {
    /// Adding the socket to its worker's driver. Only removing is left.
    Add,
    /// A receive.
    Recv,
    /// A send by [`Port::issue_sync_send`].
    SyncSend(W),
    /// A send by [`Port::issue_async_send`].
    AsyncSend(W),
}

/// Why an operation was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The socket was removed, or the port is gone.
    #[error("the socket was removed")]
    Gone,
    /// One is outstanding and only one may be. Retry from its callback.
    #[error("an operation of this kind is already outstanding on the socket")]
    Busy,
    /// As many bytes are queued as may be. Retry when `writable` is called.
    #[error("the socket's send queue is full")]
    Full,
}

/// A send that was refused, with what was given.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct Refused<W> {
    /// Why.
    pub reason: Refusal,
    /// The data.
    pub data: Bytes,
    /// The state.
    pub write: W,
}

/// How to build a [`Port`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PortConfig {
    /// Worker threads; 1 to 1,024, default 1.
    pub threads: usize,
    /// Most bytes queued for sending per socket; default 16 MiB. A single send may exceed it if nothing is queued.
    pub send_limit: usize,
    /// The drivers of the workers.
    pub driver: DriverConfig,
}

impl Default for PortConfig {
    fn default() -> Self {
        PortConfig { threads: 1, send_limit: 16 << 20, driver: DriverConfig::default() }
    }
}

/// What a receive brought; see [`Service::received`].
#[derive(Debug)]
pub struct ReadBuffer {
    data: BytesMut,
}

impl ReadBuffer {
    /// Keeps the data beyond the callback, without a copy. It keeps the whole buffer's memory alive.
    pub fn take(&mut self) -> Bytes {
        std::mem::take(&mut self.data).freeze()
    }
}

impl Deref for ReadBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.data
    }
}

/// A connection of a port.
pub struct SocketHandle<S: Service> {
    inner: Arc<Connection<S>>,
}

impl<S: Service> std::fmt::Debug for SocketHandle<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SocketHandle").field("worker", &self.inner.worker).finish_non_exhaustive()
    }
}

impl<S: Service> Clone for SocketHandle<S> {
    fn clone(&self) -> Self {
        SocketHandle { inner: self.inner.clone() }
    }
}

impl<S: Service> PartialEq for SocketHandle<S> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }
}

impl<S: Service> Eq for SocketHandle<S> {}

impl<S: Service> SocketHandle<S> {
    /// The state given when the socket was added. `None` only inside its `accepted` callback.
    pub fn state(&self) -> Option<&S::Socket> {
        self.inner.state.get()
    }

    /// The socket's descriptor, for looking at it and for naming it: reading, writing and closing stay the port's. Once the
    /// socket was removed the number may belong to another one.
    pub fn descriptor(&self) -> RawFd {
        self.inner.descriptor
    }

    /// Bytes issued for sending whose completion has not come.
    pub fn queued(&self) -> usize {
        self.inner.queued.load(Ordering::Relaxed)
    }

    fn new(worker: usize, descriptor: RawFd) -> Self {
        SocketHandle {
            inner: Arc::new(Connection {
                worker,
                descriptor,
                place: AtomicU64::new(NOWHERE),
                state: OnceLock::new(),
                receiving: AtomicBool::new(false),
                sync_sending: AtomicBool::new(false),
                queued: AtomicUsize::new(0),
                refused_full: AtomicBool::new(false),
                gone: AtomicBool::new(false),
            }),
        }
    }
}

/// The place of a connection that its worker has not met, or has forgotten.
const NOWHERE: u64 = u64::MAX;
/// The place of a connection that the driver refused to take.
const REFUSED: u64 = u64::MAX - 1;

/// What all threads share of a connection.
struct Connection<S: Service> {
    worker: usize,
    descriptor: RawFd,
    /// Index and generation in its worker's table; only the worker uses it.
    place: AtomicU64,
    state: OnceLock<S::Socket>,
    receiving: AtomicBool,
    sync_sending: AtomicBool,
    queued: AtomicUsize,
    refused_full: AtomicBool,
    gone: AtomicBool,
}

/// A listening socket of a port.
pub struct ListenHandle<S: Service> {
    inner: Arc<Listening<S>>,
}

impl<S: Service> std::fmt::Debug for ListenHandle<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ListenHandle").finish_non_exhaustive()
    }
}

struct Listening<S: Service> {
    worker: usize,
    place: AtomicU64,
    state: S::Listen,
    ready: usize,
    /// Accepted and not seen by a callback.
    waiting: AtomicUsize,
    paused: AtomicBool,
}

/// Completion-based sockets; see the [module](self). A cheap clone; the workers end with the last clone outside of
/// callbacks (the port that a callback is given does not keep them).
pub struct Port<S: Service> {
    shared: Arc<Shared<S>>,
    owner: Option<Arc<Owner<S>>>,
}

impl<S: Service> std::fmt::Debug for Port<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Port").field("driver", &self.shared.kind).finish_non_exhaustive()
    }
}

impl<S: Service> Clone for Port<S> {
    fn clone(&self) -> Self {
        Port { shared: self.shared.clone(), owner: self.owner.clone() }
    }
}

/// Ends the workers when the last port of the application is dropped.
struct Owner<S: Service> {
    shared: Arc<Shared<S>>,
}

impl<S: Service> Drop for Owner<S> {
    fn drop(&mut self) {
        self.shared.end();
    }
}

/// What the workers and the application share.
struct Shared<S: Service> {
    service: S,
    mailboxes: Vec<Mailbox<S>>,
    next_worker: AtomicUsize,
    send_limit: usize,
    kind: DriverKind,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl<S: Service> Port<S> {
    /// Starts the workers. Errors: the configuration is out of range, or the system refuses a driver or a thread.
    pub fn new(service: S, config: &PortConfig) -> io::Result<Port<S>> {
        if !(1..=1024).contains(&config.threads) {
            let message = format!("threads is {}, must be 1 to 1024", config.threads);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let shared = worker::start(service, config)?;
        let owner = Some(Arc::new(Owner { shared: shared.clone() }));
        Ok(Port { shared, owner })
    }

    /// The driver that the workers use.
    pub fn driver(&self) -> DriverKind {
        self.shared.kind
    }

    /// Adds a listening socket and accepts from now on, keeping room for `ready` connections (1 or more) that wait
    /// for their callback.
    pub fn add_listen_socket(
        &self,
        socket: Socket,
        ready: usize,
        state: S::Listen,
    ) -> io::Result<ListenHandle<S>> {
        if ready == 0 {
            let message = "a listening socket needs room for a connection";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        socket.set_nonblocking(true)?;
        let worker = self.shared.pick_worker();
        let inner = Arc::new(Listening {
            worker,
            place: AtomicU64::new(NOWHERE),
            state,
            ready,
            waiting: AtomicUsize::new(0),
            paused: AtomicBool::new(false),
        });
        let command = Command::Listen(socket, inner.clone());
        self.shared.tell(worker, command).map_err(|_| io::Error::other(Refusal::Gone))?;
        Ok(ListenHandle { inner })
    }

    /// Adds a connected stream socket with its state.
    pub fn add_connected_socket(
        &self,
        socket: Socket,
        state: S::Socket,
    ) -> io::Result<SocketHandle<S>> {
        socket.set_nonblocking(true)?;
        let worker = self.shared.pick_worker();
        let handle = SocketHandle::new(worker, socket.as_raw_fd());
        let _ = handle.inner.state.set(state);
        let command = Command::Add(socket, handle.clone());
        self.shared.tell(worker, command).map_err(|_| io::Error::other(Refusal::Gone))?;
        Ok(handle)
    }

    /// Receives once.
    pub fn issue_recv(&self, socket: &SocketHandle<S>) -> Result<(), Refusal> {
        let receiving = &socket.inner.receiving;
        if receiving.swap(true, Ordering::AcqRel) {
            let gone = socket.inner.gone.load(Ordering::Acquire);
            return Err(if gone { Refusal::Gone } else { Refusal::Busy });
        }
        self.shared.tell_for(socket, Command::Recv(socket.clone())).map_err(|_| {
            receiving.store(false, Ordering::Release);
            Refusal::Gone
        })
    }

    /// Sends without allocating; one at a time per socket.
    pub fn issue_sync_send(
        &self,
        socket: &SocketHandle<S>,
        data: Bytes,
        write: S::Write,
    ) -> Result<(), Refused<S::Write>> {
        let busy = &socket.inner.sync_sending;
        if busy.swap(true, Ordering::AcqRel) {
            let gone = socket.inner.gone.load(Ordering::Acquire);
            let reason = if gone { Refusal::Gone } else { Refusal::Busy };
            return Err(Refused { reason, data, write });
        }
        let result = self.issue_send(socket, data, write, true);
        if result.is_err() {
            busy.store(false, Ordering::Release);
        }
        result
    }

    /// Sends; any number may be outstanding, up to the limit in bytes.
    pub fn issue_async_send(
        &self,
        socket: &SocketHandle<S>,
        data: Bytes,
        write: S::Write,
    ) -> Result<(), Refused<S::Write>> {
        self.issue_send(socket, data, write, false)
    }

    fn issue_send(
        &self,
        socket: &SocketHandle<S>,
        data: Bytes,
        write: S::Write,
        sync: bool,
    ) -> Result<(), Refused<S::Write>> {
        let connection = &socket.inner;
        let length = data.len();
        let limit = self.shared.send_limit;
        let room = |queued: usize| {
            let after = queued.saturating_add(length);
            (queued == 0 || after <= limit).then_some(after)
        };
        let reserve = || connection.queued.fetch_update(Ordering::SeqCst, Ordering::SeqCst, room);
        if reserve().is_err() {
            connection.refused_full.store(true, Ordering::SeqCst);
            // Room that was made between the two is not announced by anybody: look again.
            if reserve().is_err() {
                return Err(Refused { reason: Refusal::Full, data, write });
            }
        }
        let command = Command::Send { socket: socket.clone(), data, write, sync };
        match self.shared.tell_for(socket, command) {
            Err(Command::Send { data, write, .. }) => {
                connection.queued.fetch_sub(length, Ordering::SeqCst);
                Err(Refused { reason: Refusal::Gone, data, write })
            }
            _ => Ok(()),
        }
    }

    /// Cancels an outstanding receive.
    pub fn cancel_recv(&self, socket: &SocketHandle<S>) {
        // A socket that is gone has nothing to cancel.
        let _ = self.shared.tell_for(socket, Command::CancelRecv(socket.clone()));
    }

    /// Cancels the outstanding sends of which the kernel has nothing.
    pub fn cancel_sends(&self, socket: &SocketHandle<S>) {
        let _ = self.shared.tell_for(socket, Command::CancelSends(socket.clone()));
    }

    /// Removes and closes a socket; see the [module](self).
    pub fn remove(&self, socket: &SocketHandle<S>) {
        self.shared.remove(socket);
    }

    /// Stops listening. Connections that were accepted are still handed to `accepted`.
    pub fn remove_listen_socket(&self, listen: &ListenHandle<S>) {
        let command = Command::StopListening(listen.inner.clone());
        let _ = self.shared.tell(listen.inner.worker, command);
    }

    /// Removes all sockets and waits for the workers; afterwards no callback runs any more. Calls on clones of the
    /// port are refused from now on.
    ///
    /// # Panics
    ///
    /// When called by a callback, which could wait for itself for ever.
    pub fn delete(self) {
        assert!(!self.shared.is_worker(), "a callback may not delete its port");
        self.shared.end();
    }
}
