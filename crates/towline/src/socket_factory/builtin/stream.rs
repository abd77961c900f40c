//! Sockets of the operating system, as a factory: TCP and Unix.

use std::io;
use std::net::ToSocketAddrs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use socket2::{Domain, SockAddr, Socket, Type};
use towline_io::completion::{
    Failure, Operation, Port, PortConfig, ReadBuffer, Service, SocketHandle,
};

use super::super::{FactorySocket, OpenOptions, RECEIVE_WINDOW, SocketFactory};
use crate::address::Address;
use crate::error::{ListenError, WireError};
use crate::listener::Attacher;

/// What an address means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Tcp,
    Unix,
}

/// Stream sockets of the operating system. They do what Towline's own sockets do, on threads of their own; there is no
/// need for them but as a part of something else, as a pattern, or for Unix sockets: with the factory named `unix`,
/// `unix+tcp:///run/app.sock` is a Towline session over that socket.
pub struct StreamSockets {
    kind: Kind,
    port: Port<Streams>,
}

impl StreamSockets {
    /// TCP: an address's host and port.
    ///
    /// # Errors
    ///
    /// The system gave no driver or no thread.
    pub fn tcp() -> io::Result<StreamSockets> {
        StreamSockets::new(Kind::Tcp)
    }

    /// Unix stream sockets: an address's path.
    ///
    /// # Errors
    ///
    /// The system gave no driver or no thread.
    pub fn unix() -> io::Result<StreamSockets> {
        StreamSockets::new(Kind::Unix)
    }

    fn new(kind: Kind) -> io::Result<StreamSockets> {
        // Towline bounds what is queued.
        let mut config = PortConfig::default();
        config.send_limit = usize::MAX / 2;
        Ok(StreamSockets { kind, port: Port::new(Streams, &config)? })
    }

    /// Accepts on the host and port, or the path, of an address, and brings what comes to a listener, until the result is
    /// dropped. A path must not exist yet.
    ///
    /// # Errors
    ///
    /// The system refused.
    pub fn listen(self: &Arc<Self>, on: &Address, to: Attacher) -> io::Result<StreamListener> {
        let address = self.resolve(on)?.into_iter().next().ok_or(io::ErrorKind::NotFound)?;
        let socket = Socket::new(address.domain(), Type::STREAM, None)?;
        if self.kind == Kind::Tcp {
            socket.set_reuse_address(true)?;
        }
        socket.bind(&address)?;
        socket.listen(1024)?;
        let local = socket.local_addr()?;
        let accepting = socket.try_clone()?;
        let factory = Arc::clone(self);
        let name = "towline-accept".to_owned();
        let thread = std::thread::Builder::new()
            .name(name)
            .spawn(move || accept(&factory, &accepting, &to))?;
        Ok(StreamListener { socket, local, thread: Some(thread) })
    }

    fn resolve(&self, address: &Address) -> io::Result<Vec<SockAddr>> {
        match self.kind {
            Kind::Unix => Ok(vec![SockAddr::unix(address.path())?]),
            Kind::Tcp => {
                let found = (address.host(), address.port()).to_socket_addrs()?;
                Ok(found.map(SockAddr::from).collect())
            }
        }
    }

    fn connect(&self, address: &Address, timeout: Duration) -> io::Result<Socket> {
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for to in self.resolve(address)? {
            let attempt = || {
                let socket = Socket::new(to.domain(), Type::STREAM, None)?;
                match self.kind {
                    Kind::Tcp => {
                        socket.connect_timeout(&to, timeout.max(Duration::from_millis(1)))?
                    }
                    Kind::Unix => socket.connect(&to)?,
                }
                Ok(socket)
            };
            match attempt() {
                Ok(socket) => return Ok(socket),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

/// Accepts for a listener until it is dropped.
#[derive(Debug)]
pub struct StreamListener {
    socket: Socket,
    local: SockAddr,
    thread: Option<JoinHandle<()>>,
}

impl StreamListener {
    /// The port, where 0 was asked for; `None` on Unix sockets.
    pub fn port(&self) -> Option<u16> {
        self.local.as_socket().map(|address| address.port())
    }
}

impl Drop for StreamListener {
    fn drop(&mut self) {
        // Wakes the thread that accepts.
        self.socket.shutdown(std::net::Shutdown::Both).ok();
        if self.local.domain() == Domain::UNIX
            && let Some(path) = self.local.as_pathname()
        {
            std::fs::remove_file(path).ok();
        }
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// How long accepting pauses when the system, or the listener, has no room.
const PAUSE: Duration = Duration::from_millis(20);

fn accept(factory: &Arc<StreamSockets>, listening: &Socket, to: &Attacher) {
    loop {
        match listening.accept() {
            Ok((socket, _)) => {
                let native = Arc::new(Arrived(Mutex::new(Some(socket))));
                let attached =
                    to.attach(Arc::clone(factory) as Arc<dyn SocketFactory>, Some(native));
                match attached {
                    Ok(_) => {}
                    Err(ListenError::Busy) => std::thread::sleep(PAUSE),
                    Err(_) => return,
                }
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => return,
            Err(error) => {
                tracing::warn!(%error, "cannot accept for now");
                std::thread::sleep(PAUSE);
            }
        }
    }
}

/// A connection between its acceptance and `attached`.
struct Arrived(Mutex<Option<Socket>>);

/// A connection's state.
struct Stream {
    handle: OnceLock<SocketHandle<Streams>>,
    /// For what the port has no words: closing one side.
    raw: Socket,
    outstanding: AtomicUsize,
    paused: AtomicBool,
    closing: AtomicBool,
    shut: AtomicBool,
    ended: AtomicBool,
    failed: Mutex<Option<WireError>>,
}

impl Stream {
    /// Asked to close, with everything sent: says so to the peer, and is done when the peer has said the same.
    fn settle(&self, port: &Port<Streams>) {
        if !self.closing.load(Ordering::SeqCst) || self.outstanding.load(Ordering::SeqCst) > 0 {
            return;
        }
        if !self.shut.swap(true, Ordering::SeqCst) {
            self.raw.shutdown(std::net::Shutdown::Write).ok();
        }
        if self.ended.load(Ordering::SeqCst)
            && let Some(handle) = self.handle.get()
        {
            port.remove(handle);
        }
    }

    fn read_on(&self, port: &Port<Streams>, socket: &FactorySocket) {
        let Some(handle) = self.handle.get() else { return };
        if socket.unprocessed() < RECEIVE_WINDOW {
            port.issue_recv(handle).ok();
            return;
        }
        self.paused.store(true, Ordering::SeqCst);
        // Room that was made between the two is announced by nobody.
        if socket.unprocessed() < RECEIVE_WINDOW && self.paused.swap(false, Ordering::SeqCst) {
            port.issue_recv(handle).ok();
        }
    }
}

/// The callbacks of all connections.
struct Streams;

fn stream_of(handle: &SocketHandle<Streams>) -> Option<(&FactorySocket, Arc<Stream>)> {
    let socket = handle.state()?;
    Some((socket, socket.native_as::<Stream>()?))
}

impl Service for Streams {
    type Listen = ();
    type Socket = FactorySocket;
    type Write = usize;

    fn accepted(
        &self,
        _: &Port<Self>,
        _: &SocketHandle<Self>,
        _: &SockAddr,
        _: &SockAddr,
        (): &(),
    ) -> FactorySocket {
        unreachable!("this port has no listeners")
    }

    fn received(&self, port: &Port<Self>, handle: &SocketHandle<Self>, data: &mut ReadBuffer) {
        let Some((socket, stream)) = stream_of(handle) else { return port.remove(handle) };
        if data.is_empty() {
            stream.ended.store(true, Ordering::SeqCst);
            socket.end_of_stream().ok();
            return stream.settle(port);
        }
        socket.received(data.take()).ok();
        stream.read_on(port, socket);
    }

    fn sent(&self, port: &Port<Self>, handle: &SocketHandle<Self>, bytes: usize) {
        let Some((socket, stream)) = stream_of(handle) else { return port.remove(handle) };
        stream.outstanding.fetch_sub(bytes, Ordering::SeqCst);
        socket.completed_write(bytes).ok();
        stream.settle(port);
    }

    fn failed(&self, port: &Port<Self>, handle: &SocketHandle<Self>, failure: Failure<usize>) {
        if let Some((_, stream)) = stream_of(handle)
            && !matches!(&failure.operation, Operation::Recv if stream.closing.load(Ordering::SeqCst))
        {
            let mut failed = stream.failed.lock().unwrap_or_else(PoisonError::into_inner);
            failed.get_or_insert(failure.error.into());
        }
        port.remove(handle);
    }

    fn removed(&self, _: &Port<Self>, handle: &SocketHandle<Self>) {
        if let Some((socket, stream)) = stream_of(handle) {
            let failed = stream.failed.lock().unwrap_or_else(PoisonError::into_inner).take();
            let asked = stream.closing.load(Ordering::SeqCst);
            socket.closed(failed.filter(|_| !asked).map_or(Ok(()), Err)).ok();
        }
    }
}

/// Puts a connected socket to work.
fn begin(port: &Port<Streams>, socket: &FactorySocket, connected: Socket) -> io::Result<()> {
    connected.set_tcp_nodelay(true).ok();
    let stream = Arc::new(Stream {
        handle: OnceLock::new(),
        raw: connected.try_clone()?,
        outstanding: AtomicUsize::new(0),
        paused: AtomicBool::new(false),
        closing: AtomicBool::new(false),
        shut: AtomicBool::new(false),
        ended: AtomicBool::new(false),
        failed: Mutex::new(None),
    });
    let handle = port.add_connected_socket(connected, socket.clone())?;
    stream.handle.set(handle.clone()).ok();
    socket.set_native(Some(stream));
    // Given up in the meantime: `close` found nothing to close.
    if !socket.is_wanted() || socket.opened().is_err() {
        port.remove(&handle);
        return Ok(());
    }
    port.issue_recv(&handle).ok();
    Ok(())
}

impl SocketFactory for StreamSockets {
    fn may_block(&self) -> bool {
        false
    }

    fn open(&self, socket: &FactorySocket, address: &Address, options: &OpenOptions) {
        // Looking up a name and connecting may take long; nothing else here does.
        let factory = StreamSockets { kind: self.kind, port: self.port.clone() };
        let (opening, address, timeout) = (socket.clone(), address.clone(), options.timeout);
        let connect = move || {
            let connected = factory.connect(&address, timeout);
            let begun = connected.and_then(|connected| begin(&factory.port, &opening, connected));
            if let Err(error) = begun {
                opening.closed(Err(error.into())).ok();
            }
        };
        if let Err(error) =
            std::thread::Builder::new().name("towline-connect".into()).spawn(connect)
        {
            socket.closed(Err(error.into())).ok();
        }
    }

    fn attached(&self, socket: &FactorySocket) {
        let arrived = socket.native_as::<Arrived>();
        let arrived = arrived
            .and_then(|arrived| arrived.0.lock().unwrap_or_else(PoisonError::into_inner).take());
        let begun = match arrived {
            Some(connected) => begin(&self.port, socket, connected),
            None => Err(io::ErrorKind::InvalidInput.into()),
        };
        if let Err(error) = begun {
            socket.closed(Err(error.into())).ok();
        }
    }

    fn write(&self, socket: &FactorySocket, data: Bytes) {
        let Some(stream) = socket.native_as::<Stream>() else { return };
        let Some(handle) = stream.handle.get() else { return };
        let bytes = data.len();
        stream.outstanding.fetch_add(bytes, Ordering::SeqCst);
        // Refused only when it is gone, which `removed` tells.
        self.port.issue_async_send(handle, data, bytes).ok();
    }

    fn completed_receive(&self, socket: &FactorySocket, _: usize) {
        if let Some(stream) = socket.native_as::<Stream>()
            && socket.unprocessed() < RECEIVE_WINDOW
            && stream.paused.swap(false, Ordering::SeqCst)
            && let Some(handle) = stream.handle.get()
        {
            self.port.issue_recv(handle).ok();
        }
    }

    fn close(&self, socket: &FactorySocket) {
        match socket.native_as::<Stream>() {
            Some(stream) => {
                stream.closing.store(true, Ordering::SeqCst);
                stream.settle(&self.port);
            }
            None => {
                socket.closed(Ok(())).ok();
            }
        }
    }

    fn dispose(&self, socket: &FactorySocket) {
        if let Some(stream) = socket.native_as::<Stream>()
            && let Some(handle) = stream.handle.get()
        {
            self.port.remove(handle);
        }
        socket.set_native(None);
    }
}
