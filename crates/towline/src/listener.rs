//! Listeners: where connections come in.

use std::collections::VecDeque;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use crate::address::{Address, Wire};
use crate::connection::Connection;
use crate::context::Thread;
use crate::endpoint::EndpointShared;
use crate::error::ListenError;
use crate::handler::Handler;
use crate::runtime::Command;
use crate::waiter::{WaitKey, WakerSet, block_on};

/// Makes a handler for each accepted connection.
pub(crate) type HandlerFactory = dyn Fn(&Connection) -> Box<dyn Handler> + Send + Sync;

#[derive(Default)]
struct Queue {
    connections: VecDeque<Connection>,
    closed: bool,
    wakers: WakerSet,
}

/// What a listener and the I/O threads share.
pub(crate) struct ListenerShared {
    pub(crate) endpoint: Arc<EndpointShared>,
    pub(crate) wire: Wire,
    pub(crate) thread: Arc<Thread>,
    pub(crate) factory: Option<Box<HandlerFactory>>,
    /// Nothing is accepted for now.
    pub(crate) saturated: AtomicBool,
    /// Peers in their handshakes.
    pub(crate) handshakes: AtomicUsize,
    /// Connections accepted and not ended.
    pub(crate) connections: AtomicUsize,
    address: SocketAddr,
    /// What WebSocket clients have to ask for.
    pub(crate) path: Box<str>,
    queue: Mutex<Queue>,
}

impl ListenerShared {
    pub(crate) fn new(
        endpoint: Arc<EndpointShared>,
        wire: Wire,
        thread: Arc<Thread>,
        factory: Option<Box<HandlerFactory>>,
        address: SocketAddr,
        path: &str,
    ) -> ListenerShared {
        ListenerShared {
            endpoint,
            wire,
            thread,
            factory,
            saturated: AtomicBool::new(false),
            handshakes: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            address,
            path: path.into(),
            queue: Mutex::default(),
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Offers a connection to `accept`.
    pub(crate) fn offer(&self, connection: Connection) {
        let wakers = {
            let mut queue = self.queue();
            if queue.closed {
                // Nobody will ever take it.
                return connection.abort();
            }
            queue.connections.push_back(connection);
            queue.wakers.take()
        };
        wakers.wake();
    }

    /// Whether so many peers are being dealt with that the rest should wait in the kernel.
    pub(crate) fn is_saturated(&self) -> bool {
        let options = &self.endpoint.config.0.plain;
        self.handshakes.load(Ordering::Acquire) >= options.max_handshakes
            || (self.factory.is_none() && self.queue().connections.len() >= options.max_unaccepted)
    }

    /// A place became free: the listener's thread may want to accept again.
    pub(crate) fn relieve(self: &Arc<Self>) {
        if self.saturated.load(Ordering::Acquire) {
            self.thread.command(Command::Relieve(Arc::clone(self))).ok();
        }
    }

    pub(crate) fn end(&self) {
        let wakers = {
            let mut queue = self.queue();
            queue.closed = true;
            queue.wakers.take()
        };
        wakers.wake();
    }
}

/// Accepts connections on one address. Dropping it stops accepting; accepted connections stay.
pub struct Listener {
    shared: Arc<ListenerShared>,
}

impl Listener {
    pub(crate) fn new(shared: Arc<ListenerShared>) -> Listener {
        Listener { shared }
    }

    /// The address that it listens on, with the real port where 0 was asked for.
    pub fn local_address(&self) -> SocketAddr {
        self.shared.address
    }

    /// The same as a URL that clients on this host, or any host for a bound address, can connect to.
    pub fn url(&self) -> Address {
        let address = self.shared.address;
        let host = address.ip().to_string();
        Address::from_parts(self.shared.wire, &host, address.port(), &self.shared.path)
    }

    /// The next connection whose handshakes are done. With a handler factory, connections go to it instead and this
    /// never ends before the listener does.
    pub fn accept(&self) -> Accept<'_> {
        Accept { listener: self, key: None }
    }

    /// The blocking twin of [`Listener::accept`].
    pub fn accept_blocking(&self) -> Result<Connection, ListenError> {
        block_on(self.accept())
    }

    /// The next connection if one is ready.
    pub fn try_accept(&self) -> Result<Option<Connection>, ListenError> {
        let (connection, relieved) = {
            let mut queue = self.shared.queue();
            let connection = queue.connections.pop_front();
            if connection.is_none() && queue.closed {
                return Err(ListenError::Closed);
            }
            let limit = self.shared.endpoint.config.0.plain.max_unaccepted;
            (connection, queue.connections.len() + 1 == limit)
        };
        if connection.is_some() && relieved {
            self.shared.relieve();
        }
        Ok(connection)
    }

    /// Connections that were accepted and have not ended.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Stops accepting. The same as dropping it.
    pub fn close(self) {}
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.shared.end();
        self.shared.thread.command(Command::Unlisten(Arc::clone(&self.shared))).ok();
        let waiting = std::mem::take(&mut self.shared.queue().connections);
        for connection in waiting {
            connection.abort();
        }
    }
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listener").field("url", &self.url()).finish_non_exhaustive()
    }
}

/// The future of [`Listener::accept`]. Dropping it loses no connection.
#[must_use = "futures do nothing unless polled"]
pub struct Accept<'a> {
    listener: &'a Listener,
    key: WaitKey,
}

impl Future for Accept<'_> {
    type Output = Result<Connection, ListenError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        for _ in 0..2 {
            if let Some(connection) = this.listener.try_accept()? {
                return Poll::Ready(Ok(connection));
            }
            this.listener.shared.queue().wakers.register(&mut this.key, cx.waker());
        }
        Poll::Pending
    }
}

impl Drop for Accept<'_> {
    fn drop(&mut self) {
        if self.key.is_some() {
            self.listener.shared.queue().wakers.forget(self.key);
        }
    }
}
