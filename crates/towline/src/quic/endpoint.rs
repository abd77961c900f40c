//! Endpoints and listeners of QUIC itself.

use std::collections::VecDeque;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::{Instant, SystemTime};

use towline_proto::quic as proto;

use crate::context::{Context, Thread, lightest};
use crate::runtime::{Command, QuicCommand, QuicDial, bind_listeners};
use crate::waiter::{WakerSet, block_on};

use super::connection::{Answer, Connecting, Phase, Shared};
use super::{
    Acceptor, ClientConfig, ConfigError, ConnectError, ConnectParams, Connection, EndpointConfig,
    EndpointStats, Handler, ListenError, PortStats, ServerConfig,
};

/// What endpoints, dials and listeners share.
pub(crate) struct EndpointShared {
    pub(crate) id: u64,
    pub(crate) config: EndpointConfig,
    pub(crate) threads: Arc<[Arc<Thread>]>,
}

impl EndpointShared {
    /// An engine for one thread.
    pub(crate) fn engine(
        &self,
        thread: usize,
        server: Option<ServerConfig>,
    ) -> Result<proto::Endpoint, ConfigError> {
        let mut config = self.config.clone();
        config.cid.thread = u8::try_from(thread).unwrap_or(u8::MAX);
        let gate = config.gate && server.is_some();
        config.gate = gate;
        proto::Endpoint::new(config, server, random(), Instant::now(), SystemTime::now())
    }
}

impl Drop for EndpointShared {
    fn drop(&mut self) {
        for thread in &*self.threads {
            thread.command(Command::Quic(QuicCommand::Retire(self.id))).ok();
        }
    }
}

fn random() -> [u8; 32] {
    let mut bytes = [0; 32];
    if let Err(error) = getrandom::fill(&mut bytes) {
        // Keys cannot be made without randomness: this is a broken system, not a case to go on from.
        tracing::error!(%error, "the system gives no randomness");
        std::process::abort();
    }
    bytes
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// What one I/O thread's part of an endpoint or listener has done and can do.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ThreadStats {
    /// The protocol's counters.
    pub endpoint: EndpointStats,
    /// What went over its sockets, and which of the system's offloads they have.
    pub sockets: PortStats,
    /// The driver under them: `io_uring`, or `epoll` where the system has no io_uring.
    pub driver: &'static str,
}

/// Connects and listens by QUIC itself. Cheap to clone.
///
/// Connections out share one socket per I/O thread and address family; a listener has one per I/O thread.
///
/// ```
/// use towline::{Context, quic};
///
/// # fn certificate() -> (Vec<u8>, Vec<u8>) {
/// #     let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
/// #     (made.cert.pem().into_bytes(), made.signing_key.serialize_pem().into_bytes())
/// # }
/// # let (cert, key) = certificate();
/// let context = Context::new()?;
/// let endpoint = quic::Endpoint::new(&context);
///
/// let identity = quic::Identity::from_pem(&cert, &key)?;
/// let server = quic::ServerConfig::new(quic::ServerSettings::new(identity, ["echo".into()]))?;
/// let listener = endpoint.listen(&server, "127.0.0.1:0")?;
///
/// let trust = quic::ServerVerification::Roots(quic::certificates(&cert)?);
/// let client = quic::ClientConfig::new(quic::ClientSettings::new(trust, ["echo".into()]))?;
/// let to = format!("localhost:{}", listener.local_address().port());
/// let connection = endpoint.connect(&client, &to).wait()?;
/// let accepted = listener.accept_blocking()?;
///
/// quic::block_on(async {
///     let (mut send, mut recv) = connection.open_bi().await?;
///     send.write_last("by the mark, five").await?;
///     let (mut reply, mut asked) = accepted.accept_bi().await?;
///     reply.write_last(asked.read_to_end(1024).await?).await?;
///     assert_eq!(recv.read_to_end(1024).await?, b"by the mark, five");
///     Ok::<(), Box<dyn std::error::Error>>(())
/// })?;
/// connection.close(0, "done");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Endpoint {
    shared: Arc<EndpointShared>,
}

impl Endpoint {
    /// An endpoint on the context's threads, with a fresh secret and everything else at its default.
    pub fn new(context: &Context) -> Endpoint {
        Endpoint { shared: Self::share(context, EndpointConfig::default()) }
    }

    /// The same with settings. A secret of only zeros, the default, is replaced by a fresh one; `cid.thread`, `memory` where it is the default, and the limits
    /// per endpoint are for each I/O thread.
    ///
    /// # Errors
    /// Names the first setting out of range.
    pub fn with_config(context: &Context, config: EndpointConfig) -> Result<Endpoint, ConfigError> {
        let shared = Self::share(context, config);
        shared.engine(0, None)?;
        Ok(Endpoint { shared })
    }

    /// With defaults, for the sessions of a context's endpoints.
    pub(crate) fn of_threads(threads: Arc<[Arc<Thread>]>) -> Endpoint {
        Endpoint { shared: Self::share_threads(threads, EndpointConfig::default()) }
    }

    fn share(context: &Context, config: EndpointConfig) -> Arc<EndpointShared> {
        Self::share_threads(Arc::clone(&context.threads), config)
    }

    fn share_threads(
        threads: Arc<[Arc<Thread>]>,
        mut config: EndpointConfig,
    ) -> Arc<EndpointShared> {
        if config.secret == [0; 32] {
            config.secret = random();
        }
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        Arc::new(EndpointShared { id, config, threads })
    }

    /// Connects to `host:port`; the host's name, which the server has to prove, is the host. Streams and datagrams are for futures.
    pub fn connect(&self, config: &ClientConfig, to: &str) -> Connecting {
        self.dial(config, to, None, ConnectParams::default(), None)
    }

    /// Connects with a handler for the connection's events, and what else one connection can be started with: a ticket of an earlier session, a local address.
    pub fn connect_with(
        &self,
        config: &ClientConfig,
        to: &str,
        params: ConnectParams,
        handler: impl Handler,
    ) -> Connecting {
        self.dial(config, to, None, params, Some(Box::new(handler)))
    }

    /// Connects to an address whose server has another name than its host's.
    pub fn connect_named(
        &self,
        config: &ClientConfig,
        to: &str,
        server_name: &str,
        params: ConnectParams,
        handler: Option<Box<dyn Handler>>,
    ) -> Connecting {
        self.dial(config, to, Some(server_name), params, handler)
    }

    /// For the stream under a session, which is let go after the session and not before.
    pub(crate) fn connect_for_wire(
        &self,
        config: &ClientConfig,
        to: &str,
        server_name: &str,
        handler: Box<dyn Handler>,
    ) -> Connecting {
        let params = ConnectParams::default();
        self.dial_as(config, to, Some(server_name), params, Some(handler), true)
    }

    fn dial(
        &self,
        config: &ClientConfig,
        to: &str,
        server_name: Option<&str>,
        params: ConnectParams,
        handler: Option<Box<dyn Handler>>,
    ) -> Connecting {
        self.dial_as(config, to, server_name, params, handler, false)
    }

    fn dial_as(
        &self,
        config: &ClientConfig,
        to: &str,
        server_name: Option<&str>,
        params: ConnectParams,
        handler: Option<Box<dyn Handler>>,
        wire: bool,
    ) -> Connecting {
        // Who dials on an I/O thread has the connection there: nothing between the two has to change threads.
        let here = self.shared.threads.iter().find(|thread| thread.is_current());
        let Some(thread) = here.or_else(|| lightest(&self.shared.threads)) else {
            unreachable!("a context has at least one thread");
        };
        let shared = Shared::new(Arc::clone(thread));
        let connection = Connection::new(Arc::clone(&shared), handler.is_none());
        let fail = |error| shared.state().phase = Phase::Failed(error);
        match split_host_port(to) {
            None => fail(ConnectError::Address(to.into())),
            Some((host, port)) => {
                let dial = QuicDial {
                    endpoint: Arc::clone(&self.shared),
                    shared: Arc::clone(&shared),
                    handler: handler.unwrap_or_else(|| Box::new(())),
                    config: config.clone(),
                    params,
                    server_name: server_name.unwrap_or(host).to_owned(),
                    host: host.to_owned(),
                    port,
                    wire,
                };
                let command = Command::Quic(QuicCommand::Connect(Box::new(dial)));
                if thread.command(command).is_err() {
                    fail(ConnectError::Stopped);
                }
            }
        }
        Connecting { connection, key: None }
    }

    /// Listens on `host:port`, port 0 for any; connections come out of [`Listener::accept`] when their handshakes are complete. A host's name is resolved on the
    /// calling thread.
    ///
    /// # Errors
    /// See [`ListenError`]; an address in use is [`ListenError::Io`].
    pub fn listen(&self, config: &ServerConfig, on: &str) -> Result<Listener, ListenError> {
        self.start(config, on, None, false)
    }

    /// Listens with an acceptor, which decides about clients and makes a handler for each. A closure that takes a `&Connection` and makes a handler is one.
    ///
    /// # Errors
    /// See [`ListenError`].
    pub fn listen_with(
        &self,
        config: &ServerConfig,
        on: &str,
        acceptor: impl Acceptor,
    ) -> Result<Listener, ListenError> {
        self.start(config, on, Some(Arc::new(acceptor)), false)
    }

    /// For streams under sessions.
    pub(crate) fn listen_for_wire(
        &self,
        config: &ServerConfig,
        on: &str,
        acceptor: Arc<dyn Acceptor>,
    ) -> Result<Listener, ListenError> {
        self.start(config, on, Some(acceptor), true)
    }

    fn start(
        &self,
        config: &ServerConfig,
        on: &str,
        acceptor: Option<Arc<dyn Acceptor>>,
        wire: bool,
    ) -> Result<Listener, ListenError> {
        let address = resolve(on)?;
        let io =
            |error: std::io::Error| ListenError::Io { address: on.into(), error: Arc::new(error) };
        // A connection id has one byte for the thread.
        let threads = self.shared.threads.iter().take(256);
        let sockets = bind_listeners(address, threads.len()).map_err(io)?;
        let local = sockets.first().map_or(Ok(address), |socket| {
            socket.local_addr().map(|local| local.as_socket().unwrap_or(address))
        });
        let shared = Arc::new(ListenerShared {
            endpoint: Arc::clone(&self.shared),
            local: local.map_err(io)?,
            acceptor,
            ports: threads.clone().map(|_| AtomicUsize::new(usize::MAX)).collect(),
            handed: AtomicUsize::new(0),
            wire,
            ended: AtomicBool::new(false),
            queue: Mutex::default(),
        });
        for ((index, thread), socket) in threads.enumerate().zip(sockets) {
            let engine = self.shared.engine(index, Some(config.clone()))?;
            let command = QuicCommand::Listen {
                socket,
                listener: Arc::clone(&shared),
                engine: Box::new(engine),
            };
            thread.command(Command::Quic(command)).map_err(|_| ListenError::Stopped)?;
        }
        Ok(Listener { shared })
    }

    /// What each I/O thread's connections out have done; listeners have their own.
    pub async fn stats(&self) -> Vec<ThreadStats> {
        gather(&self.shared.threads, |answer| QuicCommand::ClientStats(self.shared.id, answer))
            .await
    }
}

async fn gather(
    threads: &[Arc<Thread>],
    ask: impl Fn(Arc<Answer<Option<ThreadStats>>>) -> QuicCommand,
) -> Vec<ThreadStats> {
    let mut all = Vec::new();
    for thread in threads {
        let answer = Answer::new();
        if thread.command(Command::Quic(ask(Arc::clone(&answer)))).is_ok() {
            all.extend(answer.wait().await);
        }
    }
    all
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint").field("id", &self.shared.id).finish_non_exhaustive()
    }
}

/// `host:port`, an IPv6 address in brackets.
fn split_host_port(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let port = port.parse().ok()?;
    let host = match host.strip_prefix('[') {
        Some(host) => host.strip_suffix(']')?,
        None if host.contains(':') => return None,
        None => host,
    };
    (!host.is_empty()).then_some((host, port))
}

fn resolve(on: &str) -> Result<SocketAddr, ListenError> {
    let (host, port) = split_host_port(on).ok_or_else(|| ListenError::Address(on.into()))?;
    let failed = |reason: String| ListenError::Resolve { host: host.into(), reason: reason.into() };
    let mut found = (host, port).to_socket_addrs().map_err(|error| failed(error.to_string()))?;
    found.next().ok_or_else(|| failed("it has no address".into()))
}

/// Connections that wait to be accepted at most; further clients are refused.
const BACKLOG: usize = 1024;

/// Bytes of datagrams on their way between threads of one listener; more are dropped, as a full socket drops them.
pub(crate) const HANDOVER: usize = 1 << 20;

/// What a listener shares with the I/O threads.
pub(crate) struct ListenerShared {
    pub(crate) endpoint: Arc<EndpointShared>,
    pub(crate) local: SocketAddr,
    pub(crate) acceptor: Option<Arc<dyn Acceptor>>,
    /// Its place on each thread.
    pub(crate) ports: Box<[AtomicUsize]>,
    /// Bytes on their way from one thread to another.
    pub(crate) handed: AtomicUsize,
    /// Its connections are under sessions, and are let go after them.
    pub(crate) wire: bool,
    pub(crate) ended: AtomicBool,
    queue: Mutex<(VecDeque<Connection>, WakerSet)>,
}

impl ListenerShared {
    /// Whether the queue has room for another.
    pub(crate) fn has_room(&self) -> bool {
        self.acceptor.is_some() || self.queue().0.len() < BACKLOG
    }

    fn queue(&self) -> std::sync::MutexGuard<'_, (VecDeque<Connection>, WakerSet)> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn offer(&self, connection: Connection) {
        let wakers = {
            let mut queue = self.queue();
            queue.0.push_back(connection);
            queue.1.take()
        };
        wakers.wake();
    }

    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::Release);
        let (left, wakers) = {
            let mut queue = self.queue();
            (std::mem::take(&mut queue.0), queue.1.take())
        };
        wakers.wake();
        drop(left);
    }
}

/// Accepts connections. Dropping it stops that; connections go on.
pub struct Listener {
    shared: Arc<ListenerShared>,
}

impl Listener {
    /// The address that it listens on.
    pub fn local_address(&self) -> SocketAddr {
        self.shared.local
    }

    /// The next connection whose handshake is complete. With an acceptor none comes here.
    ///
    /// # Errors
    /// [`ListenError::Stopped`] when it listens no more.
    pub async fn accept(&self) -> Result<Connection, ListenError> {
        let mut key = None;
        std::future::poll_fn(|cx| {
            let mut queue = self.shared.queue();
            if let Some(connection) = queue.0.pop_front() {
                return Poll::Ready(Ok(connection));
            }
            if self.shared.ended.load(Ordering::Acquire) {
                return Poll::Ready(Err(ListenError::Stopped));
            }
            queue.1.register(&mut key, cx.waker());
            Poll::Pending
        })
        .await
    }

    /// The blocking twin of [`accept`](Self::accept).
    ///
    /// # Errors
    /// Those of `accept`.
    pub fn accept_blocking(&self) -> Result<Connection, ListenError> {
        block_on(self.accept())
    }

    /// What new clients meet from now on, for instance a renewed certificate.
    ///
    /// # Errors
    /// Options that allow one connection more memory than the endpoint does.
    pub fn set_config(&self, config: &ServerConfig) -> Result<(), ConfigError> {
        self.shared.endpoint.engine(0, Some(config.clone()))?;
        for thread in self.shared.endpoint.threads.iter() {
            let listener = Arc::clone(&self.shared);
            let command = QuicCommand::SetServer { listener, config: config.clone() };
            thread.command(Command::Quic(command)).ok();
        }
        Ok(())
    }

    /// What each I/O thread's part of it has done.
    pub async fn stats(&self) -> Vec<ThreadStats> {
        gather(&self.shared.endpoint.threads, |answer| {
            QuicCommand::ListenerStats(Arc::clone(&self.shared), answer)
        })
        .await
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        for thread in self.shared.endpoint.threads.iter() {
            let command = QuicCommand::Unlisten(Arc::clone(&self.shared));
            thread.command(Command::Quic(command)).ok();
        }
        self.shared.end();
    }
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listener").field("local", &self.shared.local).finish_non_exhaustive()
    }
}
