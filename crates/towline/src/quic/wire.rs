//! `quic://`: a session on the streams of a QUIC connection (ALPN `towline/1`): one both ways for what has to be in order, and one for each
//! lane and direction, so that what is lost on one lane holds up no other (`session::Spreader` and `Gatherer` take it apart and together).
//!
//! It is a socket factory of our own over this module's handlers: links, sessions and redialling see a stream of bytes like any other,
//! one that can be moved to another thread while the QUIC connection stays where its packets arrive.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use towline_proto::quic as proto;
use towline_proto::session::{Gatherer, LANES, Lane, Spreader, Strand};

use crate::address::Address;
use crate::config::Config;
use crate::error::WireError;
use crate::listener::Attacher;
use crate::socket_factory::{FactorySocket, OpenOptions, RECEIVE_WINDOW, SocketFactory};
use crate::tls::TlsState;

use super::connection::Phase;
use super::{
    AckFrequency, Active, ClientConfig, Closed, ConfigError, ConnectError, Connected, Connection,
    Decision, Direction, Ended, Endpoint, Handler, Incoming, ListenError, Listener, NewStream,
    OpenFlags, Opened, Options, Resumption, SendOptions, ServerConfig, StreamError, StreamId,
};

/// The application protocol of a session between two Towline peers.
pub(crate) const ALPN: &[u8] = b"towline/1";

/// Bytes read at a time.
const CHUNK: usize = 64 << 10;

/// The priority of the main stream: acknowledgements are small, and lanes wait for them. Lanes take turns, packet by packet.
const FIRST: u16 = u16::MAX;

/// The application codes that this wire closes with.
mod code {
    /// The session is over, or has moved on.
    pub(super) const DONE: u64 = 0;
    /// A stream too many, none where one was needed, or octets that are no frames.
    pub(super) const STREAMS: u64 = 1;
    /// The listener takes no more for now.
    pub(super) const BUSY: u64 = 2;
}

/// What a configuration's TLS options come to in QUIC, made at first use.
#[derive(Default)]
pub(crate) struct WireConfigs {
    client: OnceLock<ClientConfig>,
}

/// The options of a session's connection: the session has keep-alives and time limits of its own.
fn options(config: &Config) -> Options {
    let plain = &config.0.plain;
    Options {
        handshake_idle_timeout: plain.connect_timeout,
        idle_timeout: None,
        server_resumption_level: Resumption::Resume,
        // One acknowledgement for so many packets: less work at both ends.
        ack_frequency: Some(AckFrequency::default()),
        peer_bidi_stream_count: 1,
        // One for each lane. A peer that allows none gets everything on the first stream.
        peer_unidi_stream_count: LANES as u64,
        streams_available_events: false,
        ..Options::default()
    }
}

fn refused(error: &proto::ConfigError) -> WireError {
    WireError::Quic(error.to_string().into())
}

/// QUIC for the sessions of one configuration on one context.
pub(crate) struct QuicWire {
    endpoint: Endpoint,
    config: Config,
}

impl QuicWire {
    pub(crate) fn new(threads: Arc<[Arc<crate::context::Thread>]>, config: Config) -> QuicWire {
        QuicWire { endpoint: Endpoint::of_threads(threads), config }
    }

    /// Whether it is this configuration's.
    pub(crate) fn is_of(&self, config: &Config) -> bool {
        Arc::ptr_eq(&self.config.0, &config.0)
    }

    fn client(&self) -> Result<ClientConfig, WireError> {
        let made = &self.config.0.quic.client;
        if let Some(client) = made.get() {
            return Ok(client.clone());
        }
        let tls = self.config.tls_client().map_err(WireError::Tls)?;
        let alpn = [Bytes::from_static(ALPN)];
        let client = ClientConfig::from_tls(tls, alpn, options(&self.config));
        let client = client.map_err(|error| refused(&error))?;
        Ok(made.get_or_init(|| client).clone())
    }

    /// Listens, and brings each client's stream to a listener of sessions.
    pub(crate) fn listen(
        self: &Arc<Self>,
        on: &Address,
        attacher: impl FnOnce(std::net::SocketAddr) -> Result<Attacher, crate::ListenError>,
    ) -> Result<Listener, crate::ListenError> {
        let tls = self.config.0.tls.server.as_ref();
        let tls = tls.ok_or(crate::ListenError::NoCertificate { wire: on.wire() })?;
        let alpn = [Bytes::from_static(ALPN)];
        let io = |error: std::io::Error| crate::ListenError::Io {
            address: on.to_string().into(),
            error: Arc::new(error),
        };
        let server = ServerConfig::from_tls(tls, alpn, options(&self.config))
            .map_err(|error| io(std::io::Error::other(error)))?;
        let to = host_port(on);
        let acceptor = Arc::new(WireAcceptor { wire: Arc::clone(self), attacher: OnceLock::new() });
        let listener = self.endpoint.listen_for_wire(&server, &to, Arc::new(Arc::clone(&acceptor)));
        let listener = listener.map_err(|error| match error {
            ListenError::Io { error, .. } => {
                crate::ListenError::Io { address: on.to_string().into(), error }
            }
            ListenError::Resolve { host, reason } => {
                let reason = Arc::from(&*reason);
                crate::ListenError::Resolve(WireError::Resolve { host, reason })
            }
            ListenError::Stopped => crate::ListenError::Stopped,
            error => io(std::io::Error::other(error)),
        })?;
        let attacher = attacher(listener.local_address())?;
        // Clients that came in between are turned away as by a busy listener, and come again.
        acceptor.attacher.set(attacher).ok();
        Ok(listener)
    }
}

/// A client's configuration with the trust, identity and other TLS options of a [`Config`](crate::Config), read by it already.
///
/// # Errors
/// TLS options that do not serve a client, or QUIC options out of range.
pub fn client_config(
    config: &Config,
    alpn: impl IntoIterator<Item = Bytes>,
    options: Options,
) -> Result<ClientConfig, ConfigError> {
    let tls = config.tls_client().map_err(|error| ConfigError::Tls(error.to_string()))?;
    ClientConfig::from_tls(tls, alpn, options)
}

/// A server's configuration with the certificate, client authentication and other TLS options of a [`Config`](crate::Config).
///
/// # Errors
/// No certificate, or QUIC options out of range.
pub fn server_config(
    config: &Config,
    alpn: impl IntoIterator<Item = Bytes>,
    options: Options,
) -> Result<ServerConfig, ConfigError> {
    let tls = config.0.tls.server.as_ref();
    let missing =
        || ConfigError::Missing { option: "certificate", why: "QUIC servers prove themselves" };
    ServerConfig::from_tls(tls.ok_or_else(missing)?, alpn, options)
}

fn host_port(address: &Address) -> String {
    match address.host().contains(':') {
        true => format!("[{}]:{}", address.host(), address.port()),
        false => format!("{}:{}", address.host(), address.port()),
    }
}

impl SocketFactory for QuicWire {
    fn may_block(&self) -> bool {
        false
    }

    fn open(&self, socket: &FactorySocket, address: &Address, _: &OpenOptions) {
        let client = match self.client() {
            Ok(client) => client,
            Err(error) => {
                socket.closed(Err(error)).ok();
                return;
            }
        };
        let carried = Arc::new(Carried::default());
        socket.set_native(Some(Arc::clone(&carried) as _));
        let handler =
            WireHandler { carried: Arc::clone(&carried), role: Role::Socket(socket.clone()) };
        let name = self.config.0.plain.server_name.as_deref().unwrap_or(address.host());
        let to = host_port(address);
        let dial = self.endpoint.connect_for_wire(&client, &to, name, Box::new(handler));
        carried.connection.set(dial.connection().clone()).ok();
        // A dial that failed at once has no handler any more that could tell.
        if let Some(error) = failure(dial.connection()) {
            socket.closed(Err(error)).ok();
        }
    }

    fn attached(&self, socket: &FactorySocket) {
        let Some(carried) = socket.native_as::<Carried>() else { return };
        carried.state().opened = true;
        socket.opened().ok();
        // What came before.
        let (again, socket) = (Arc::clone(&carried), socket.clone());
        carried.run(move |active| again.read(active, &socket));
    }

    fn write(&self, socket: &FactorySocket, data: Bytes) {
        let Some(carried) = socket.native_as::<Carried>() else { return };
        let run = {
            let mut state = carried.state();
            state.pending.push(data);
            !std::mem::replace(&mut state.scheduled, true)
        };
        if run {
            carried.flush_later(socket);
        }
    }

    fn completed_receive(&self, socket: &FactorySocket, _: usize) {
        let Some(carried) = socket.native_as::<Carried>() else { return };
        if socket.unprocessed() < RECEIVE_WINDOW / 2
            && std::mem::replace(&mut carried.state().paused, false)
        {
            let (again, socket) = (Arc::clone(&carried), socket.clone());
            carried.run(move |active| again.read(active, &socket));
        }
    }

    fn close(&self, socket: &FactorySocket) {
        let Some(carried) = socket.native_as::<Carried>() else { return };
        let begun = {
            let mut state = carried.state();
            state.finishing = true;
            state.stream.is_some()
        };
        if !begun || !carried.flush_later(socket) {
            carried.end(code::DONE);
            socket.closed(Ok(())).ok();
        }
    }

    fn dispose(&self, socket: &FactorySocket) {
        if let Some(carried) = socket.native_as::<Carried>() {
            carried.end(code::DONE);
        }
        socket.set_native(None);
    }
}

/// What a link knows of its connection.
#[derive(Clone)]
pub(crate) struct Agreed {
    pub(crate) tls: Option<TlsState>,
    pub(crate) local: Option<SocketAddr>,
    pub(crate) peer: SocketAddr,
}

/// What was agreed on by the connection under a socket, if that is one of QUIC's.
pub(crate) fn agreed(socket: &FactorySocket) -> Option<Agreed> {
    socket.native_as::<Carried>()?.state().agreed.clone()
}

/// What a socket and its QUIC connection share. The lock is held for moments, by one of the two threads.
#[derive(Default)]
struct Carried {
    connection: OnceLock<Connection>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    stream: Option<StreamId>,
    /// The socket takes what comes.
    opened: bool,
    /// Handed over by the socket, and not yet taken apart.
    pending: Vec<Bytes>,
    out: Outflow,
    /// A flush is on its way.
    scheduled: bool,
    /// No more is written; the end goes behind what is pending.
    finishing: bool,
    finished: bool,
    /// Reading waits for `completed_receive`.
    paused: bool,
    /// The peer's streams for its lanes, as they came.
    lanes: Vec<StreamId>,
    gatherer: Gatherer,
    /// The main stream has ended.
    ended: bool,
    agreed: Option<Agreed>,
}

/// What is to go out, by stream. The session keeps all of it until it is acknowledged, and its windows bound it: here are references.
#[derive(Default)]
struct Outflow {
    spreader: Spreader,
    main: VecDeque<Bytes>,
    lanes: [(Option<StreamId>, VecDeque<Bytes>); LANES],
}

impl Outflow {
    fn push(&mut self, active: &mut Active<'_>, data: Bytes) {
        let Outflow { spreader, main, lanes } = self;
        let mut opened = [None; LANES];
        let opens = |lane: Lane| {
            let flags = OpenFlags { fail_blocked: true, ..OpenFlags::default() };
            let stream = match active.open(Direction::Unidirectional, flags) {
                Ok(Opened::Stream(stream)) => Some(stream),
                _ => None,
            };
            if let Some(place) = opened.get_mut(lane.index()) {
                *place = stream;
            }
            stream.is_some()
        };
        spreader.push(data, opens, |strand, data| match strand {
            Strand::Main => main.push_back(data),
            Strand::Lane(lane) => {
                if let Some((_, queue)) = lanes.get_mut(lane.index()) {
                    queue.push_back(data);
                }
            }
        });
        for ((stream, _), opened) in lanes.iter_mut().zip(opened) {
            *stream = stream.or(opened);
        }
    }

    /// Gives the transport what it has room for. `false`: a stream is over, of which another event tells.
    fn send(&mut self, active: &mut Active<'_>, main: StreamId) -> bool {
        let lanes = self.lanes.iter_mut().filter_map(|(stream, queue)| Some(((*stream)?, queue)));
        for (stream, queue) in std::iter::once((main, &mut self.main)).chain(lanes) {
            while let Some(data) = queue.front() {
                match active.send(stream, data.clone(), SendOptions::default()) {
                    Ok(_) => drop(queue.pop_front()),
                    Err(StreamError::QueueFull) => break,
                    Err(_) => return false,
                }
            }
        }
        true
    }

    fn is_empty(&self) -> bool {
        self.main.is_empty() && self.lanes.iter().all(|(_, queue)| queue.is_empty())
    }
}

impl Carried {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, act: impl FnOnce(&mut Active<'_>) + Send + 'static) -> bool {
        self.connection.get().is_some_and(|connection| connection.run(act).is_ok())
    }

    fn end(&self, code: u64) {
        if let Some(connection) = self.connection.get() {
            connection.close(code, "");
        }
    }

    fn flush_later(self: &Arc<Self>, socket: &FactorySocket) -> bool {
        let (carried, socket) = (Arc::clone(self), socket.clone());
        self.run(move |active| carried.flush(active, &socket))
    }

    /// Takes apart what was handed over, and gives the transport what it has room for.
    ///
    /// To the session all of it is on its way then: it keeps within each lane's window, so that no lane has to wait for another's room here.
    fn flush(&self, active: &mut Active<'_>, socket: &FactorySocket) {
        let mut state = self.state();
        let State { stream, pending, out, finishing, .. } = &mut *state;
        let Some(stream) = *stream else {
            state.scheduled = false;
            return;
        };
        let mut taken = 0;
        for data in pending.drain(..) {
            taken += data.len();
            out.push(active, data);
        }
        if *finishing {
            out.main.extend(out.spreader.finish());
        }
        let open = out.send(active, stream);
        state.scheduled = false;
        if open && state.finishing && state.out.is_empty() && !state.finished {
            state.finished = true;
            active.finish(stream).ok();
        }
        drop(state);
        if taken > 0 {
            socket.completed_write(taken).ok();
        }
    }

    /// Hands up what has come, as far as it is processed.
    fn read(&self, active: &mut Active<'_>, socket: &FactorySocket) {
        let Some(main) = Some(self.state()).filter(|s| s.opened).and_then(|s| s.stream) else {
            return;
        };
        // Each stream one run at a time, until none has any.
        let mut index = 0;
        let mut empty = 0;
        loop {
            let (stream, count) = {
                let state = self.state();
                let count = 1 + state.lanes.len();
                index %= count;
                let stream = match index.checked_sub(1) {
                    None => Some(main).filter(|_| state.gatherer.takes_main() && !state.ended),
                    Some(lane) => {
                        let takes = state.gatherer.takes_lanes();
                        state.lanes.get(lane).copied().filter(|_| takes)
                    }
                };
                (stream, count)
            };
            let came = stream.is_some_and(|stream| self.read_one(active, socket, index, stream));
            if self.state().paused {
                return;
            }
            index += 1;
            empty = if came { 0 } else { empty + 1 };
            if empty == count {
                return;
            }
        }
    }

    /// One run of one stream, 0 the main one. Whether there was any.
    fn read_one(
        &self,
        active: &mut Active<'_>,
        socket: &FactorySocket,
        index: usize,
        stream: StreamId,
    ) -> bool {
        if socket.unprocessed() >= RECEIVE_WINDOW {
            self.state().paused = true;
            // It may have been processed in between.
            if socket.unprocessed() >= RECEIVE_WINDOW / 2
                || !std::mem::replace(&mut self.state().paused, false)
            {
                return false;
            }
        }
        let chunk = match active.read(stream, CHUNK) {
            Ok(chunk) => chunk,
            Err(StreamError::Reset(_)) => {
                socket.closed(Err(WireError::End)).ok();
                return false;
            }
            Err(_) => return false,
        };
        let mut state = self.state();
        let hand_up = |data: Bytes| drop(socket.received(data));
        let taken = match index.checked_sub(1) {
            _ if chunk.data.is_empty() => Ok(()),
            None => state.gatherer.main(chunk.data, hand_up),
            Some(lane) => state.gatherer.lane(lane, chunk.data, hand_up),
        };
        state.ended |= chunk.fin && index == 0;
        let over = state.ended && state.gatherer.is_through();
        drop(state);
        if let Err(violation) = taken {
            socket.closed(Err(WireError::Protocol(violation.to_string().into()))).ok();
            active.close(code::STREAMS, violation.to_string());
        } else if over {
            socket.end_of_stream().ok();
        }
        true
    }
}

/// Whose events they are.
enum Role {
    /// A socket's.
    Socket(FactorySocket),
    /// A client's that has not opened its stream.
    Waiting(Arc<WireAcceptor>),
}

/// Hears of one QUIC connection for one socket.
struct WireHandler {
    carried: Arc<Carried>,
    role: Role,
}

impl Handler for WireHandler {
    fn connected(&mut self, active: &mut Active<'_>, _: &Connected) {
        let local = active.connection().local_address();
        let (tls, peer) = (active.inner.tls_state(), active.remote_address());
        self.carried.state().agreed = Some(Agreed { tls, local, peer });
        let Role::Socket(socket) = &self.role else { return };
        match active.open(Direction::Bidirectional, OpenFlags::default()) {
            Ok(Opened::Stream(stream)) => {
                active.set_priority(stream, FIRST).ok();
                let mut state = self.carried.state();
                (state.stream, state.opened) = (Some(stream), true);
                drop(state);
                socket.opened().ok();
            }
            _ => active.close(code::STREAMS, "no stream for the session"),
        }
    }

    fn new_stream(&mut self, active: &mut Active<'_>, stream: StreamId, _: bool) -> NewStream {
        let Role::Waiting(acceptor) = &self.role else {
            if stream.direction() == Direction::Unidirectional {
                // As many as there are lanes: the transport allows no more.
                self.carried.state().lanes.push(stream);
                return NewStream::Handle;
            }
            return NewStream::Reject(code::STREAMS);
        };
        if stream.direction() == Direction::Unidirectional {
            // A lane before the greeting.
            return NewStream::Reject(code::STREAMS);
        }
        active.set_priority(stream, FIRST).ok();
        self.carried.connection.set(active.connection().clone()).ok();
        self.carried.state().stream = Some(stream);
        let native = Some(Arc::clone(&self.carried) as _);
        let thread = &active.connection().shared.thread;
        let factory = Arc::clone(&acceptor.wire) as _;
        let attached = acceptor.attacher.get().map(|to| to.attach_on(thread, factory, native));
        match attached {
            Some(Ok(socket)) => {
                self.role = Role::Socket(socket);
                NewStream::Handle
            }
            _ => {
                active.close(code::BUSY, "the listener takes no more for now");
                NewStream::Reject(code::BUSY)
            }
        }
    }

    fn stream_readable(&mut self, active: &mut Active<'_>, _: StreamId) {
        if let Role::Socket(socket) = &self.role {
            self.carried.read(active, socket);
        }
    }

    fn stream_writable(&mut self, active: &mut Active<'_>, _: StreamId) {
        if let Role::Socket(socket) = &self.role {
            self.carried.flush(active, socket);
        }
    }

    fn peer_send_aborted(&mut self, _: &mut Active<'_>, _: StreamId, _: u64) {
        if let Role::Socket(socket) = &self.role {
            socket.closed(Err(WireError::End)).ok();
        }
    }

    fn send_shutdown_complete(
        &mut self,
        active: &mut Active<'_>,
        stream: StreamId,
        graceful: bool,
    ) {
        if graceful && self.carried.state().stream != Some(stream) {
            return;
        }
        if let Role::Socket(socket) = &self.role {
            // The peer has all of it: there is nothing to linger for.
            socket.closed(if graceful { Ok(()) } else { Err(WireError::End) }).ok();
        }
        active.close(code::DONE, "");
    }

    fn closed(&mut self, connection: &Connection, closed: &Closed) {
        let Role::Socket(socket) = &self.role else { return };
        let how = match (&closed.ended, failure(connection)) {
            (_, Some(error)) => Err(error),
            (Ended::ByPeer { code: code::DONE, .. } | Ended::Closed, None) => Ok(()),
            (ended, None) => Err(WireError::Quic(ended.to_string().into())),
        };
        socket.closed(how).ok();
    }
}

/// Why a dial did not become a connection, in the words of wires.
fn failure(connection: &Connection) -> Option<WireError> {
    let state = connection.shared.state();
    let Phase::Failed(error) = &state.phase else { return None };
    Some(match error {
        ConnectError::Resolve { host, reason } => {
            WireError::Resolve { host: host.clone(), reason: Arc::from(&**reason) }
        }
        ConnectError::Socket { error, .. } => WireError::Io(Arc::clone(error)),
        ConnectError::Failed { ended, .. } => WireError::Quic(ended.to_string().into()),
        error => WireError::Quic(error.to_string().into()),
    })
}

/// Brings clients to a listener of sessions.
struct WireAcceptor {
    wire: Arc<QuicWire>,
    attacher: OnceLock<Attacher>,
}

impl super::Acceptor for Arc<WireAcceptor> {
    fn new_conn(&self, _: &Incoming) -> Decision {
        match self.attacher.get().is_some_and(Attacher::has_room) {
            true => Decision::Accept,
            // It asks again.
            false => Decision::Ignore,
        }
    }

    fn handler(&self, _: &Connection) -> Box<dyn Handler> {
        let role = Role::Waiting(Arc::clone(self));
        Box::new(WireHandler { carried: Arc::default(), role })
    }
}
