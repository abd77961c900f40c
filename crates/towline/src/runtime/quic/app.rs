//! A connection of an application: what the engine tells goes to its handler and its futures, what they ask for goes to the engine.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::Bytes;
use towline_proto::quic::{
    ConnectionId, Endpoint as Engine, Event, OpenRequest, StreamHash, StreamId,
};

use crate::quic::{
    Active, Answer, Closed, ConnectError, Connected, Connection, Ended, Handler, IoError,
    ListenerShared, MigrateFailed, NOWHERE, Op, Phase, Shared, StreamShared,
};

use super::super::Runtime;
use super::super::datagram::bind_client;
use super::dial::Dialing;
use super::streams::Held;
use super::{AppKey, PortKey, QUIC, QuicPort};

/// Who waits for a stream to open.
pub(super) type Opening = Arc<Answer<Result<Arc<StreamShared>, IoError>>>;

/// Who waits for a migration.
type Migrating = Arc<Answer<Result<SocketAddr, MigrateFailed>>>;

/// A connection of an application.
pub(super) struct App {
    pub(super) shared: Arc<Shared>,
    connection: Connection,
    handler: Option<Box<dyn Handler>>,
    pub(super) port: PortKey,
    pub(super) id: Option<ConnectionId>,
    pub(super) dialing: Option<Box<Dialing>>,
    /// To whom it is offered once the handshake is complete.
    listener: Option<Arc<ListenerShared>>,
    /// Why it ends, once that is known.
    pub(super) ended: Option<Ended>,
    /// Streams of futures; the others are the handler's.
    pub(super) streams: HashMap<StreamId, Held, StreamHash>,
    pub(super) opening: HashMap<OpenRequest, Opening>,
    migrating: Option<Migrating>,
    /// A handler wants to move there.
    moves_to: Option<SocketAddr>,
    /// Sockets of its own.
    pub(super) sockets: Vec<SocketAddr>,
    /// It is under a session, which is over before it.
    pub(super) wire: bool,
}

impl App {
    fn new(shared: Arc<Shared>, handler: Box<dyn Handler>, port: PortKey) -> App {
        App {
            connection: Connection::new(Arc::clone(&shared), false),
            shared,
            handler: Some(handler),
            port,
            id: None,
            dialing: None,
            listener: None,
            ended: None,
            streams: HashMap::default(),
            opening: HashMap::new(),
            migrating: None,
            moves_to: None,
            sockets: Vec::new(),
            wire: false,
        }
    }

    pub(super) fn dialed(
        shared: Arc<Shared>,
        handler: Box<dyn Handler>,
        port: PortKey,
        dialing: Dialing,
        wire: bool,
    ) -> App {
        App { wire, dialing: Some(Box::new(dialing)), ..App::new(shared, handler, port) }
    }

    pub(super) fn accepted(
        shared: Arc<Shared>,
        handler: Box<dyn Handler>,
        port: PortKey,
        id: ConnectionId,
        listener: Arc<ListenerShared>,
    ) -> App {
        let wire = listener.wire;
        App { wire, id: Some(id), listener: Some(listener), ..App::new(shared, handler, port) }
    }

    /// A dial that failed: the handler hears of it by `closed` alone.
    pub(super) fn never_was(mut self) {
        let ended = self.shared.state().ended().unwrap_or(Ended::Stopped);
        let closed = Closed {
            ended: ended.clone(),
            is_handshake_completed: false,
            is_peer_acked: false,
            is_app_closing: false,
        };
        self.let_go(&ended, &closed);
    }

    /// Calls the handler. One that panics is called no more, and its connection is abandoned; the thread and its other connections go on.
    pub(super) fn call<R>(
        &mut self,
        engine: &mut Engine,
        now: Instant,
        f: impl FnOnce(&mut dyn Handler, &mut Active<'_>) -> R,
    ) -> Option<R> {
        let id = self.id?;
        let inner = engine.connection(id)?;
        let mut handler = self.handler.take()?;
        let mut active =
            Active { inner, connection: &self.connection, now, migrate: &mut self.moves_to };
        match catch_unwind(AssertUnwindSafe(|| f(&mut *handler, &mut active))) {
            Ok(result) => {
                self.handler = Some(handler);
                Some(result)
            }
            Err(_) => {
                tracing::error!("a handler panicked: its connection is abandoned");
                active.abandon();
                self.ended = Some(Ended::Panicked);
                // Its drop may panic too.
                catch_unwind(AssertUnwindSafe(|| drop(handler))).ok();
                None
            }
        }
    }

    /// Runs what another thread asked for.
    fn run(
        &mut self,
        engine: &mut Engine,
        now: Instant,
        act: Box<dyn FnOnce(&mut Active<'_>) + Send>,
    ) {
        let Some(inner) = self.id.and_then(|id| engine.connection(id)) else { return };
        let mut active =
            Active { inner, connection: &self.connection, now, migrate: &mut self.moves_to };
        if catch_unwind(AssertUnwindSafe(|| act(&mut active))).is_err() {
            tracing::error!("a closure panicked: its connection is abandoned");
            active.abandon();
            self.ended = Some(Ended::Panicked);
        }
    }

    /// Everybody who waits is told, and the handler last.
    fn let_go(&mut self, ended: &Ended, closed: &Closed) {
        for (_, held) in self.streams.drain() {
            held.lost(ended);
        }
        for (_, opening) in self.opening.drain() {
            opening.give(Err(IoError::Ended(ended.clone())));
        }
        if let Some(migrating) = self.migrating.take() {
            migrating.give(Err(MigrateFailed::Ended(ended.clone())));
        }
        let (ops, wakers) = {
            let mut state = self.shared.state();
            (std::mem::take(&mut state.ops), state.waiting.take())
        };
        for op in ops {
            match op {
                Op::Open(_, answer) => answer.give(Err(IoError::Ended(ended.clone()))),
                Op::Migrate(_, answer) => answer.give(Err(MigrateFailed::Ended(ended.clone()))),
                _ => {}
            }
        }
        wakers.wake();
        if let Some(mut handler) = self.handler.take() {
            let connection = &self.connection;
            let last = AssertUnwindSafe(move || handler.closed(connection, closed));
            if catch_unwind(last).is_err() {
                tracing::error!("a handler panicked at the end of its connection");
            }
        }
    }
}

impl Runtime {
    pub(super) fn insert_app(&mut self, app: App) -> AppKey {
        let shared = Arc::clone(&app.shared);
        let key = self.quic.apps.insert(app);
        shared.slot.store(key, Ordering::Release);
        self.thread.load.fetch_add(1, Ordering::Relaxed);
        key
    }

    pub(super) fn remove_app(&mut self, key: AppKey) -> Option<App> {
        let app = self.quic.apps.try_remove(key)?;
        app.shared.slot.store(NOWHERE, Ordering::Release);
        self.thread.load.fetch_sub(1, Ordering::Relaxed);
        if let Some(port) = self.quic.ports.get_mut(app.port) {
            for socket in &app.sockets {
                port.port.remove(&mut self.driver, *socket);
            }
        }
        Some(app)
    }

    /// Does what other threads asked of a connection.
    pub(super) fn serve_app(&mut self, key: AppKey) {
        let now = self.now;
        let Some(app) = self.quic.apps.get_mut(key) else { return };
        if app.id.is_none() {
            // Once one of the dial's attempts is the connection.
            return;
        }
        let port_key = app.port;
        let ops = {
            let mut state = app.shared.state();
            state.scheduled = false;
            std::mem::take(&mut state.ops)
        };
        for op in ops {
            let Some(app) = self.quic.apps.get_mut(key) else { return };
            let Some(port) = self.quic.ports.get_mut(port_key) else { return };
            let engine = &mut port.port.engine;
            match op {
                Op::Open(direction, answer) => app.open_for(engine, direction, answer),
                Op::Send(stream, data, fin) => app.send_for(engine, stream, data, fin),
                Op::ReadOn(stream) => app.read_for(engine, stream),
                Op::Run(act) => app.run(engine, now, act),
                Op::Migrate(local, answer) => self.migrate_app(key, local, Some(answer)),
                Op::Orphaned => {
                    if let Some(mut conn) = app.id.and_then(|id| engine.connection(id)) {
                        conn.close(now, 0, Bytes::new());
                    }
                }
            }
        }
        self.after_call(key);
        self.quic_touch(port_key);
    }

    /// A handler or closure may have asked for a new address.
    fn after_call(&mut self, key: AppKey) {
        if let Some(local) = self.quic.apps.get_mut(key).and_then(|app| app.moves_to.take()) {
            self.migrate_app(key, local, None);
        }
    }

    fn migrate_app(&mut self, key: AppKey, local: SocketAddr, answer: Option<Migrating>) {
        let now = self.now;
        let Some(app) = self.quic.apps.get_mut(key) else { return };
        let Some(port) = self.quic.ports.get_mut(app.port) else { return };
        let tag = QUIC | app.port as u64;
        let mut bound = None;
        let moved = (|| {
            let at = match local.port() != 0 && port.port.has(local) {
                true => local,
                false => {
                    let refused = |error: std::io::Error| MigrateFailed::Socket {
                        address: local,
                        reason: error.to_string().into(),
                    };
                    let socket = bind_client(local).map_err(refused)?;
                    let at = port.port.add(&mut self.driver, socket, tag).map_err(refused)?;
                    *bound.insert(at)
                }
            };
            let ended = MigrateFailed::Ended(Ended::Closed);
            let conn = app.id.and_then(|id| port.port.engine.connection(id));
            Ok(conn.ok_or(ended)?.migrate(now, at)?)
        })();
        match moved {
            Ok(()) => {
                app.sockets.extend(bound);
                app.migrating = answer;
            }
            Err(error) => {
                if let Some(bound) = bound {
                    port.port.remove(&mut self.driver, bound);
                }
                match answer {
                    Some(answer) => answer.give(Err(error)),
                    None => {
                        tracing::debug!(%error, "no migration");
                        let engine = &mut port.port.engine;
                        app.call(engine, now, |h, a| h.migration_failed(a, local));
                    }
                }
            }
        }
    }

    /// Something that the engine tells of a connection.
    pub(super) fn app_event(
        &mut self,
        port_key: PortKey,
        id: ConnectionId,
        key: AppKey,
        event: Event,
    ) {
        let Some(app) = self.quic.apps.get_mut(key) else { return };
        match &event {
            Event::TransportShutdown(reason) => {
                app.ended.get_or_insert(Ended::Transport(Arc::new(reason.clone())));
            }
            Event::Shutdown { code, reason } => {
                let reason = String::from_utf8_lossy(reason).into();
                app.ended.get_or_insert(Ended::ByPeer { code: *code, reason });
            }
            _ => {}
        }
        if app.dialing.is_some() {
            match &event {
                Event::TransportShutdown(_) | Event::Shutdown { .. } => return,
                Event::Closed { .. } => return self.quic_attempt_failed(key, id),
                // The first that answers is the connection.
                _ => self.quic_choose(key, id),
            }
        }
        match event {
            Event::Closed { is_handshake_completed, is_peer_acked, is_app_closing } => {
                let ended = self.quic.apps.get_mut(key).and_then(|app| app.ended.take());
                let ended = ended.unwrap_or(Ended::Closed);
                let closed =
                    Closed { ended, is_handshake_completed, is_peer_acked, is_app_closing };
                self.finish_app(key, closed);
            }
            Event::LocalAddressChanged(local) => self.app_moved(key, Ok(local)),
            Event::MigrationFailed { local } => self.app_moved(key, Err(local)),
            event => self.tell_app(port_key, key, event),
        }
        self.after_call(key);
    }

    fn tell_app(&mut self, port_key: PortKey, key: AppKey, event: Event) {
        let now = self.now;
        let Some(app) = self.quic.apps.get_mut(key) else { return };
        let Some(QuicPort { port, .. }) = self.quic.ports.get_mut(port_key) else { return };
        let engine = &mut port.engine;
        match event {
            Event::Connected { is_resumed, alpn, early_data, encryption_disabled } => {
                let connected = Connected { is_resumed, alpn, early_data, encryption_disabled };
                app.connected(engine, now, connected);
            }
            Event::HandshakeConfirmed => {
                app.call(engine, now, |h, a| h.handshake_confirmed(a));
            }
            Event::PeerCertificate { chain, verified } => {
                let judge = |h: &mut dyn Handler, a: &mut Active<'_>| {
                    if let Some(verdict) = h.peer_cert_received(a, &chain, verified.as_ref()) {
                        a.certificate_verdict(verdict).ok();
                    }
                };
                app.call(engine, now, judge);
            }
            Event::Resumed { data } => {
                app.call(engine, now, |h, a| {
                    if !h.resumed(a, &data) {
                        a.close(0, "the session is not taken up again");
                    }
                });
            }
            Event::NewSessionTicket(ticket) => {
                app.call(engine, now, |h, a| h.nst_received(a, ticket));
            }
            Event::TransportShutdown(reason) => {
                app.call(engine, now, |h, a| h.transport_shutdown(a, &reason));
            }
            Event::Shutdown { code, reason } => {
                app.call(engine, now, |h, a| h.shutdown(a, code, &reason));
            }
            Event::PeerAddressChanged(peer) => {
                app.shared.state().remote = Some(peer);
                app.call(engine, now, |h, a| h.peer_address_changed(a, peer));
            }
            event => app.tell_of_streams(engine, now, event),
        }
    }

    fn app_moved(&mut self, key: AppKey, moved: Result<SocketAddr, SocketAddr>) {
        let now = self.now;
        let Some(app) = self.quic.apps.get_mut(key) else { return };
        let Some(port) = self.quic.ports.get_mut(app.port) else { return };
        let answer = app.migrating.take();
        // Sockets of its own that it is not at are of no more use.
        let (Ok(local) | Err(local)) = moved;
        let keep = |socket: &SocketAddr| (*socket == local) == moved.is_ok();
        for socket in app.sockets.iter().filter(|socket| !keep(socket)) {
            port.port.remove(&mut self.driver, *socket);
        }
        app.sockets.retain(keep);
        let engine = &mut port.port.engine;
        match moved {
            Ok(local) => {
                app.shared.state().local = Some(local);
                app.call(engine, now, |h, a| h.local_address_changed(a, local));
            }
            Err(local) => {
                app.call(engine, now, |h, a| h.migration_failed(a, local));
            }
        }
        if let Some(answer) = answer {
            answer.give(moved.map_err(MigrateFailed::NoAnswer));
        }
    }

    /// The end of a connection.
    pub(super) fn finish_app(&mut self, key: AppKey, closed: Closed) {
        let Some(mut app) = self.remove_app(key) else { return };
        if let Some(port) = self.quic.ports.get_mut(app.port)
            && let Some(id) = app.id
        {
            port.disown(id);
        }
        tracing::debug!(ended = %closed.ended, "a QUIC connection ended");
        let ended = closed.ended.clone();
        {
            let mut state = app.shared.state();
            let connecting = matches!(state.phase, Phase::Connecting);
            state.phase = match (connecting, state.remote) {
                (true, Some(remote)) => {
                    Phase::Failed(ConnectError::Failed { remote, ended: ended.clone() })
                }
                _ => Phase::Ended(closed.clone()),
            };
        }
        app.let_go(&ended, &closed);
        self.quic_touch(app.port);
    }

    pub(super) fn stop_app(&mut self, key: AppKey) {
        let now = self.now;
        let Some(app) = self.quic.apps.get_mut(key) else { return };
        if app.id.is_none() {
            return self.dial_failed_for_good(key, ConnectError::Stopped);
        }
        app.ended.get_or_insert(Ended::Stopped);
        if let Some(port) = self.quic.ports.get_mut(app.port)
            && let Some(mut conn) = app.id.and_then(|id| port.port.engine.connection(id))
        {
            conn.close(now, 0, Bytes::from_static(b"the program is stopping"));
        }
        let port = app.port;
        self.quic_touch(port);
    }

    pub(super) fn end_app(&mut self, key: AppKey) {
        let closed = Closed {
            ended: Ended::Stopped,
            is_handshake_completed: false,
            is_peer_acked: false,
            is_app_closing: true,
        };
        self.finish_app(key, closed);
    }
}

impl App {
    fn connected(&mut self, engine: &mut Engine, now: Instant, connected: Connected) {
        let Some(conn) = self.id.and_then(|id| engine.connection(id)) else { return };
        let (remote, chain) = (conn.remote_address(), conn.peer_certificates());
        {
            let mut state = self.shared.state();
            state.phase = Phase::Connected(connected.clone());
            state.remote = Some(remote);
            state.chain = chain;
        }
        self.call(engine, now, |h, a| h.connected(a, &connected));
        let wakers = self.shared.state().waiting.take();
        wakers.wake();
        if let Some(listener) = self.listener.take().filter(|listener| listener.acceptor.is_none())
        {
            listener.offer(Connection::new(Arc::clone(&self.shared), true));
        }
    }
}
