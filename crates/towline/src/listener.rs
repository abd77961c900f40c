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
use crate::context::{Thread, lightest};
use crate::endpoint::EndpointShared;
use crate::error::ListenError;
use crate::handler::Handler;
use crate::runtime::Command;
use crate::socket_factory::{FactorySocket, Native, SocketFactory, SocketShared};
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
    /// As it was asked for; its path is what WebSocket clients have to ask for.
    pub(crate) given: Address,
    queue: Mutex<Queue>,
}

impl ListenerShared {
    pub(crate) fn new(
        endpoint: Arc<EndpointShared>,
        wire: Wire,
        thread: Arc<Thread>,
        factory: Option<Box<HandlerFactory>>,
        address: SocketAddr,
        given: Address,
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
            given,
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
    /// What `quic://` listens by.
    #[cfg(feature = "quic")]
    quic: Option<crate::quic::Listener>,
    /// What `bats://` and `udp://` listen by.
    #[cfg(feature = "bats")]
    flows: Option<crate::bats::BatsListener>,
}

impl Listener {
    pub(crate) fn new(shared: Arc<ListenerShared>) -> Listener {
        Listener {
            shared,
            #[cfg(feature = "quic")]
            quic: None,
            #[cfg(feature = "bats")]
            flows: None,
        }
    }

    #[cfg(feature = "bats")]
    pub(crate) fn with_flows(mut self, flows: crate::bats::BatsListener) -> Listener {
        self.flows = Some(flows);
        self
    }

    #[cfg(feature = "quic")]
    pub(crate) fn with_quic(mut self, quic: crate::quic::Listener) -> Listener {
        self.quic = Some(quic);
        self
    }

    /// The address that it listens on, with the real port where 0 was asked for. All zeros for a listener that only takes
    /// what is attached.
    pub fn local_address(&self) -> SocketAddr {
        self.shared.address
    }

    /// The same as a URL that clients on this host, or any host for a bound address, can connect to.
    pub fn url(&self) -> Address {
        let given = &self.shared.given;
        if given.factory().is_some() {
            return given.clone();
        }
        let address = self.shared.address;
        let host = address.ip().to_string();
        Address::from_parts(self.shared.wire, &host, address.port(), given.path())
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

    /// Serves a connection that a [socket factory](crate::socket_factory) accepted, as if it had come in here. `native` is the
    /// factory's own state of it; the factory is then asked to attend to it by
    /// [`attached`](crate::socket_factory::SocketFactory::attached).
    ///
    /// # Errors
    ///
    /// [`ListenError::Busy`] while as many peers are in their handshakes, or wait to be accepted, as the configuration
    /// allows; try again later, or turn the peer away. [`ListenError::Closed`] and [`ListenError::Stopped`]. The factory
    /// is not called then.
    pub fn attach(
        &self,
        factory: Arc<dyn SocketFactory>,
        native: Option<Native>,
    ) -> Result<FactorySocket, ListenError> {
        self.attacher().attach(factory, native)
    }

    /// [`Listener::attach`] for other threads; it keeps nothing open.
    pub fn attacher(&self) -> Attacher {
        Attacher { shared: Arc::clone(&self.shared) }
    }

    /// Connections that were accepted and have not ended.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Stops accepting. The same as dropping it.
    pub fn close(self) {}
}

/// Brings connections of socket factories to a [`Listener`]. Cloning it costs a reference count.
#[derive(Clone)]
pub struct Attacher {
    shared: Arc<ListenerShared>,
}

impl Attacher {
    /// See [`Listener::attach`].
    pub fn attach(
        &self,
        factory: Arc<dyn SocketFactory>,
        native: Option<Native>,
    ) -> Result<FactorySocket, ListenError> {
        self.attach_to(None, factory, native)
    }

    /// The same, to be served by this thread.
    #[cfg(feature = "quic")]
    pub(crate) fn attach_on(
        &self,
        thread: &Arc<Thread>,
        factory: Arc<dyn SocketFactory>,
        native: Option<Native>,
    ) -> Result<FactorySocket, ListenError> {
        self.attach_to(Some(thread), factory, native)
    }

    /// Whether another peer would be served now.
    #[cfg(feature = "quic")]
    pub(crate) fn has_room(&self) -> bool {
        !self.shared.is_saturated()
    }

    fn attach_to(
        &self,
        thread: Option<&Arc<Thread>>,
        factory: Arc<dyn SocketFactory>,
        native: Option<Native>,
    ) -> Result<FactorySocket, ListenError> {
        let listener = Arc::clone(&self.shared);
        if listener.queue().closed {
            return Err(ListenError::Closed);
        }
        if listener.is_saturated() {
            return Err(ListenError::Busy);
        }
        let config = &listener.endpoint.config.0;
        let check = config.factories.check.clone();
        let socket = SocketShared::new(factory, native, config.plain.max_message, check);
        let light = || lightest(&listener.endpoint.threads);
        let thread = Arc::clone(thread.or_else(light).ok_or(ListenError::Stopped)?);
        listener.handshakes.fetch_add(1, Ordering::AcqRel);
        let command = Command::Attach { socket: Arc::clone(&socket), listener };
        if thread.command(command).is_err() {
            self.shared.handshakes.fetch_sub(1, Ordering::AcqRel);
            return Err(ListenError::Stopped);
        }
        Ok(FactorySocket::from(socket))
    }
}

impl std::fmt::Debug for Attacher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Attacher").field("to", &self.shared.given).finish_non_exhaustive()
    }
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
