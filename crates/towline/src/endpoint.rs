//! Endpoints: connecting and listening with one configuration.

use std::collections::HashMap;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use socket2::{Domain, Protocol, Socket, Type};
use towline_proto::session::SessionId;

use crate::address::{Address, IntoAddresses};
use crate::config::Config;
use crate::connection::{Connecting, Connection, Phase, Shared};
use crate::context::{Context, Thread, lightest};
use crate::error::{ConnectError, Ended, ListenError, WireError};
use crate::handler::Handler;
use crate::listener::{HandlerFactory, Listener, ListenerShared};
use crate::runtime::{Command, Dial};
use crate::waiter::block_on;

/// What an endpoint shares with its connections and the I/O threads.
pub(crate) struct EndpointShared {
    pub(crate) config: Config,
    pub(crate) threads: Arc<[Arc<Thread>]>,
    sessions: Mutex<HashMap<SessionId, Weak<Shared>>>,
}

impl EndpointShared {
    /// The accepted sessions by their ids, so that one can come back over any listener of this endpoint.
    pub(crate) fn sessions(&self) -> MutexGuard<'_, HashMap<SessionId, Weak<Shared>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A session has ended. Another one may have its id by now: it stays.
    pub(crate) fn forget(&self, id: &SessionId, session: &Arc<Shared>) {
        let mut sessions = self.sessions();
        if sessions.get(id).is_some_and(|known| std::ptr::eq(known.as_ptr(), Arc::as_ptr(session)))
        {
            sessions.remove(id);
        }
    }
}

/// Connects and listens. Cloning it costs a reference count.
///
/// ```
/// use std::time::Duration;
/// use towline::{Config, Connection, Context, Endpoint, Message};
///
/// let context = Context::new()?;
/// let endpoint = Endpoint::new(&context, &Config::default());
///
/// let listener = endpoint.listen_with("tcp://127.0.0.1:0", |_: &Connection| {
///     |connection: &Connection, message: Message| {
///         connection.try_send(Message::reply_to(&message, "pong")).ok();
///     }
/// })?;
///
/// let connection = endpoint.connect_blocking(listener.url())?;
/// let reply = connection.request_blocking("ping", Duration::from_secs(5))?;
/// assert_eq!(reply.data, "pong");
/// connection.close_blocking()?;
/// # Ok::<(), towline::Error>(())
/// ```
#[derive(Clone)]
pub struct Endpoint {
    shared: Arc<EndpointShared>,
}

impl Endpoint {
    /// An endpoint on the context's threads.
    pub fn new(context: &Context, config: &Config) -> Endpoint {
        let shared = EndpointShared {
            config: config.clone(),
            threads: Arc::clone(&context.threads),
            sessions: Mutex::default(),
        };
        Endpoint { shared: Arc::new(shared) }
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.shared.config
    }

    /// Connects to an address or to the first of a list that answers. A list is tried in order, each entry with a head
    /// start over the next.
    ///
    /// # Errors
    ///
    /// [`ConnectError`] when every address has failed once. Once established, the connection redials by itself.
    pub fn connect(&self, to: impl IntoAddresses) -> Connecting {
        self.dial(to, None)
    }

    /// The blocking twin of [`Endpoint::connect`].
    pub fn connect_blocking(&self, to: impl IntoAddresses) -> Result<Connection, ConnectError> {
        block_on(self.connect(to))
    }

    /// Connects with a handler for the connection's events.
    pub fn connect_with(&self, to: impl IntoAddresses, handler: impl Handler) -> Connecting {
        self.dial(to, Some(Box::new(handler)))
    }

    fn dial(&self, to: impl IntoAddresses, handler: Option<Box<dyn Handler>>) -> Connecting {
        let stopped = || ConnectError::Stopped;
        let (addresses, refused) = match to.into_addresses() {
            Ok(addresses) => (addresses, None),
            Err(error) => (Vec::new(), Some(ConnectError::Address(error))),
        };
        let wire = addresses.first().map_or(crate::Wire::Tcp, Address::wire);
        let kind =
            |wire: crate::Wire| (wire.has_session(), wire.moves_messages(), wire.is_datagram());
        let mixed = addresses.iter().any(|address| kind(address.wire()) != kind(wire));
        let refused = refused.or(mixed.then_some(ConnectError::MixedWires));
        let config = &self.shared.config;
        let unknown = |to: &&Address| to.factory().is_some() && config.factory_for(to).is_none();
        let refused = refused.or_else(|| {
            let unknown = addresses.iter().find(unknown)?;
            let scheme = format!("{}+{}", unknown.factory().unwrap_or_default(), unknown.wire());
            let scheme = scheme.into();
            Some(ConnectError::Address(crate::AddressError::UnknownScheme { scheme }))
        });
        let Some(thread) = lightest(&self.shared.threads) else {
            return self.refused(wire, stopped());
        };
        if let Some(error) = refused {
            return self.refused(wire, error);
        }
        let shared = Arc::new(Shared::new(self.shared.config.clone(), Arc::clone(thread), wire));
        let connection = Connection { shared: Arc::clone(&shared) };
        let dial = Dial { shared, addresses: addresses.into(), handler };
        match thread.command(Command::Dial(Box::new(dial))) {
            Ok(()) => Connecting { connection: Some(connection), key: None },
            Err(_) => self.refused(wire, stopped()),
        }
    }

    fn refused(&self, wire: crate::Wire, error: ConnectError) -> Connecting {
        let thread = match self.shared.threads.first() {
            Some(thread) => Arc::clone(thread),
            None => return Connecting { connection: None, key: None },
        };
        let shared = Arc::new(Shared::new(self.shared.config.clone(), thread, wire));
        shared.link().phase = Phase::Ended(Ended::NeverConnected(Box::new(error)));
        Connecting { connection: Some(Connection { shared }), key: None }
    }

    /// Listens; connections come out of [`Listener::accept`]. A host name is resolved on the calling thread. An address with
    /// the name of a socket factory in front, any name, opens no socket: connections come by [`Listener::attach`].
    pub fn listen(&self, on: impl IntoAddresses) -> Result<Listener, ListenError> {
        self.start_listening(on, None)
    }

    /// Listens with a handler for each connection, made by `factory` on the connection's I/O thread when its handshakes
    /// are done.
    pub fn listen_with<H: Handler>(
        &self,
        on: impl IntoAddresses,
        factory: impl Fn(&Connection) -> H + Send + Sync + 'static,
    ) -> Result<Listener, ListenError> {
        let factory: Box<HandlerFactory> =
            Box::new(move |connection| Box::new(factory(connection)));
        self.start_listening(on, Some(factory))
    }

    fn start_listening(
        &self,
        on: impl IntoAddresses,
        factory: Option<Box<HandlerFactory>>,
    ) -> Result<Listener, ListenError> {
        let addresses = on.into_addresses()?;
        let [address] = addresses.as_slice() else {
            return Err(ListenError::Address(crate::AddressError::Several));
        };
        let wire = address.wire();
        #[cfg(feature = "bats")]
        if wire.is_coded() {
            crate::bats::check_listener(address)?;
        }
        if !wire.is_coded()
            && let Some((_, query)) = address.path().split_once('?')
        {
            // A listener serves a path, with whatever query clients send.
            return Err(ListenError::Address(crate::AddressError::Unexpected {
                url: address.to_string().into(),
                part: format!("?{query}").into(),
            }));
        }
        #[cfg(feature = "tls")]
        if wire.is_encrypted()
            && address.factory().is_none()
            && self.shared.config.0.tls.server.is_none()
        {
            return Err(ListenError::NoCertificate { wire });
        }
        #[cfg(feature = "quic")]
        if wire == crate::Wire::Quic && address.factory().is_none() {
            return self.listen_quic(address, factory);
        }
        #[cfg(feature = "bats")]
        if wire.is_udp() && wire != crate::Wire::Quic && address.factory().is_none() {
            return self.listen_bats(address, factory);
        }
        let (socket, local) = match address.factory() {
            Some(_) => (None, SocketAddr::from(([0; 4], 0))),
            None => {
                let (socket, local) = bind(address)?;
                (Some(socket), local)
            }
        };
        self.serve_listener(socket, local, address, factory)
    }

    fn serve_listener(
        &self,
        socket: Option<Socket>,
        local: SocketAddr,
        address: &Address,
        factory: Option<Box<HandlerFactory>>,
    ) -> Result<Listener, ListenError> {
        let thread = lightest(&self.shared.threads).ok_or(ListenError::Stopped)?;
        let shared = Arc::new(ListenerShared::new(
            Arc::clone(&self.shared),
            address.wire(),
            Arc::clone(thread),
            factory,
            local,
            address.clone(),
        ));
        let command = Command::Listen { socket, listener: Arc::clone(&shared) };
        thread.command(command).map_err(|_| ListenError::Stopped)?;
        Ok(Listener::new(shared))
    }

    /// A listener that is brought its connections by a listener of QUIC's.
    #[cfg(feature = "quic")]
    fn listen_quic(
        &self,
        address: &Address,
        factory: Option<Box<HandlerFactory>>,
    ) -> Result<Listener, ListenError> {
        let threads = Arc::clone(&self.shared.threads);
        let wire = crate::quic::QuicWire::new(threads, self.shared.config.clone());
        let mut sessions = None;
        let quic = Arc::new(wire).listen(address, |local| {
            let listener = self.serve_listener(None, local, address, factory)?;
            Ok(sessions.insert(listener).attacher())
        })?;
        sessions.map(|sessions| sessions.with_quic(quic)).ok_or(ListenError::Stopped)
    }

    /// A listener that is brought its connections by flows.
    #[cfg(feature = "bats")]
    fn listen_bats(
        &self,
        address: &Address,
        factory: Option<Box<HandlerFactory>>,
    ) -> Result<Listener, ListenError> {
        let (threads, config) = (Arc::clone(&self.shared.threads), self.shared.config.clone());
        let wire = crate::bats::BatsWire::new(threads, config, address.wire().moves_messages());
        let mut listener = None;
        let flows = Arc::new(wire).listen(address, |local| {
            let made = self.serve_listener(None, local, address, factory)?;
            Ok(listener.insert(made).attacher())
        })?;
        listener.map(|listener| listener.with_flows(flows)).ok_or(ListenError::Stopped)
    }
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint").field("config", &self.shared.config).finish_non_exhaustive()
    }
}

/// Connections that may wait in the kernel before they are accepted.
const BACKLOG: i32 = 1024;

fn bind(address: &Address) -> Result<(Socket, SocketAddr), ListenError> {
    let io = |error: std::io::Error| ListenError::Io {
        address: address.to_string().into(),
        error: Arc::new(error),
    };
    let resolved = (address.host(), address.port()).to_socket_addrs().map_err(|error| {
        ListenError::Resolve(WireError::Resolve {
            host: address.host().into(),
            reason: error.to_string().into(),
        })
    })?;
    let mut last = std::io::Error::from(std::io::ErrorKind::AddrNotAvailable);
    for resolved in resolved {
        let attempt = || {
            let domain = Domain::for_address(resolved);
            let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
            socket.set_reuse_address(true)?;
            socket.bind(&resolved.into())?;
            socket.listen(BACKLOG)?;
            socket.set_nonblocking(true)?;
            let local = socket.local_addr()?.as_socket();
            Ok((socket, local.ok_or(std::io::ErrorKind::Unsupported)?))
        };
        match attempt() {
            Ok(bound) => return Ok(bound),
            Err(error) => last = error,
        }
    }
    Err(io(last))
}
