//! Accepting: how a link gets a connection, new or already there.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::Bytes;
use socket2::Socket;
use towline_io::{Event, SocketId};
use towline_proto::session::{CloseCode, Handshake, Hello, Refusal, Session, SessionId};

use crate::connection::Shared;
use crate::context::lightest;
use crate::engine::Engine;
use crate::error::WireError;
use crate::listener::ListenerShared;
use crate::tls::TlsState;

use super::carrier::Carrier;
use super::core::{Core, Origin};
use super::dial::prepare;
use super::factory::FactoryCarrier;
use super::link::{Link, LinkKey, Owner};
#[cfg(feature = "websocket")]
use super::upgrade::Layer;
use super::{Command, LISTENER, Runtime, Timed};

/// Connections that a listener keeps ready inside the driver.
const READY: usize = 64;

/// A listener on its thread.
pub(super) struct ListenerCore {
    pub(super) shared: Arc<ListenerShared>,
    /// None accepts only what is attached.
    socket: Option<SocketId>,
}

/// A carrier on its way to another thread.
pub(super) enum Moved {
    Socket(Socket),
    Factory(Box<FactoryCarrier>),
}

/// A wire on its way to the thread where its session lives.
pub(crate) struct Resume {
    pub(super) session: Arc<Shared>,
    hello: Hello,
    left_over: VecDeque<Bytes>,
    listener: Arc<ListenerShared>,
    pub(super) carrier: Option<Moved>,
    #[cfg(feature = "tls")]
    pub(super) tls: Option<Box<towline_proto::tls::Stream>>,
    pub(super) state: Option<TlsState>,
    #[cfg(feature = "websocket")]
    pub(super) layer: Layer,
    #[cfg(feature = "websocket")]
    pub(super) upgraded: Option<Arc<crate::websocket::Upgraded>>,
    #[cfg(feature = "bats")]
    flow: Option<(Arc<crate::bats::Carried>, usize)>,
    local: Option<SocketAddr>,
    peer: Option<SocketAddr>,
}

impl Resume {
    pub(super) fn push(&mut self, data: Bytes) {
        self.left_over.push_back(data);
    }

    pub(super) fn listener(&self) -> &Arc<ListenerShared> {
        &self.listener
    }
}

impl Runtime {
    pub(super) fn listen(&mut self, socket: Option<Socket>, shared: Arc<ListenerShared>) {
        let Some(socket) = socket else {
            self.listeners.insert(ListenerCore { shared, socket: None });
            return;
        };
        let entry = self.listeners.vacant_entry();
        let tag = entry.key() as u64 | LISTENER;
        match self.driver.listen(socket, READY, tag) {
            Ok(socket) => {
                entry.insert(ListenerCore { shared, socket: Some(socket) });
            }
            Err(error) => {
                tracing::error!(%error, "cannot accept");
                shared.end();
            }
        }
    }

    pub(super) fn unlisten(&mut self, listener: &Arc<ListenerShared>) {
        let found = self.listeners.iter().find(|(_, l)| Arc::ptr_eq(&l.shared, listener));
        if let Some(key) = found.map(|(key, _)| key)
            && let Some(core) = self.listeners.try_remove(key)
        {
            if let Some(socket) = core.socket {
                self.driver.close(socket);
            }
            core.shared.end();
        }
    }

    pub(super) fn accepted(&mut self, key: usize, event: Event) {
        let Some(core) = self.listeners.get_mut(key) else { return };
        match event {
            Event::Accepted(accepted) => {
                let (local, peer) = (accepted.local.as_socket(), accepted.peer.as_socket());
                let (Some(local), Some(peer)) = (local, peer) else { return };
                let listener = Arc::clone(&core.shared);
                listener.handshakes.fetch_add(1, Ordering::AcqRel);
                if listener.is_saturated() && !listener.saturated.swap(true, Ordering::AcqRel) {
                    core.socket.map(|socket| self.driver.set_ready(socket, 0));
                }
                let socket = accepted.socket;
                match lightest(&self.threads) {
                    Some(thread) if !Arc::ptr_eq(thread, &self.thread) => {
                        thread.command(Command::Adopt { socket, local, peer, listener }).ok();
                    }
                    _ => self.adopt(socket, local, peer, listener),
                }
            }
            Event::AcceptFailed(error) => tracing::warn!(%error, "cannot accept for now"),
            _ => {}
        }
    }

    pub(super) fn relieve(&mut self, listener: &Arc<ListenerShared>) {
        let found = self.listeners.iter_mut().find(|(_, l)| Arc::ptr_eq(&l.shared, listener));
        if let Some((_, core)) = found
            && !listener.is_saturated()
            && listener.saturated.swap(false, Ordering::AcqRel)
        {
            core.socket.map(|socket| self.driver.set_ready(socket, READY));
        }
    }

    /// A peer is done with its handshakes, one way or the other: there is room for the next.
    pub(super) fn handshake_over(&mut self, listener: &Arc<ListenerShared>) {
        listener.handshakes.fetch_sub(1, Ordering::AcqRel);
        listener.relieve();
    }

    /// Serves an accepted socket.
    pub(super) fn adopt(
        &mut self,
        socket: Socket,
        local: SocketAddr,
        peer: SocketAddr,
        listener: Arc<ListenerShared>,
    ) {
        if self.stopping.is_some() {
            return self.handshake_over(&listener);
        }
        socket.set_tcp_nodelay(true).ok();
        let entry = self.links.vacant_entry();
        let key = LinkKey(entry.key());
        let Ok(id) = self.driver.attach(socket, key.0 as u64) else {
            return self.handshake_over(&listener);
        };
        let deadline = Instant::now() + listener.endpoint.config.0.plain.connect_timeout;
        let owner =
            Owner::Accepting { listener: Arc::clone(&listener), handshake: Handshake::new() };
        let mut link = Link::new(Carrier::Socket(id), owner);
        (link.local, link.peer, link.deadline) = (Some(local), Some(peer), Some(deadline));
        entry.insert(link);
        self.arm(deadline, Timed::Link(key));
        self.accept_opened(key);
    }

    /// An accepted carrier is open: its bytes come as they do on the listener's wire.
    pub(super) fn accept_opened(&mut self, key: LinkKey) {
        let Some(link) = self.links.get_mut(key.0) else { return };
        let Owner::Accepting { listener, .. } = &link.owner else { return };
        let listener = Arc::clone(listener);
        #[cfg(feature = "websocket")]
        if listener.wire.is_websocket() {
            link.layer = Layer::server(&listener.endpoint.config.0, Instant::now());
        }
        match listener.wire.runs_tls() {
            true => self.accept_tls(key, &listener),
            false => self.accept_secured(key),
        }
    }

    #[cfg(feature = "tls")]
    fn accept_tls(&mut self, key: LinkKey, listener: &ListenerShared) {
        let tls = &listener.endpoint.config.0.tls;
        let stream = tls.server.as_ref().map(towline_proto::tls::Stream::server);
        match (self.links.get_mut(key.0), stream) {
            (Some(link), Some(Ok(mut stream))) => {
                if !listener.wire.has_session() {
                    stream.track_acked();
                }
                link.tls = Some(Box::new(stream));
                self.receive(key, None);
            }
            (_, Some(Err(error))) => self.link_failed(key, WireError::Tls(Arc::new(error))),
            _ => self.close_link(key),
        }
    }

    #[cfg(not(feature = "tls"))]
    fn accept_tls(&mut self, key: LinkKey, _: &ListenerShared) {
        self.close_link(key);
    }

    /// The link is as secure as it will be: ftcp peers are connected, session peers say who they are first.
    pub(super) fn accept_secured(&mut self, key: LinkKey) {
        let Some(link) = self.links.get(key.0) else { return };
        let Owner::Accepting { listener, .. } = &link.owner else { return };
        if listener.wire.has_session() {
            return self.receive(key, None);
        }
        let listener = Arc::clone(listener);
        let engine = Engine::ftcp(&listener.endpoint.config.0.plain);
        let shared = self.new_shared(&listener);
        if let Some(core) = self.new_connection(key, &listener, shared, engine, None) {
            let now = self.now;
            if let Some(core) = self.cores.get_mut(core) {
                core.engine.handle_open(now);
                let connected = core.describe(false);
                core.establish(connected);
            }
            self.serve(core);
        }
    }

    /// Bytes from a peer that has not said yet who it is.
    pub(super) fn greeting(&mut self, key: LinkKey, data: Bytes) {
        let Some(link) = self.links.get_mut(key.0) else { return };
        let Owner::Accepting { listener, handshake } = &mut link.owner else { return };
        if !listener.wire.has_session() {
            // TLS and the first frame came in one piece.
            self.accept_secured(key);
            if let Some(Owner::Core(core)) = self.links.get(key.0).map(|link| &link.owner) {
                let core = *core;
                self.engine_input(core, data);
            }
            return;
        }
        match handshake.handle_input(data) {
            Ok(None) => {}
            Ok(Some((hello, left_over))) => {
                let listener = Arc::clone(listener);
                self.greeted(key, &listener, hello, left_over);
            }
            Err(violation) => self.turn_away(key, &Refusal::from(violation)),
        }
    }

    fn turn_away(&mut self, key: LinkKey, refusal: &Refusal) {
        tracing::debug!(%refusal, "a peer is turned away");
        self.scratch.wire.clear();
        let words = refusal.encode();
        let saved = std::mem::replace(&mut self.scratch.plaintext, vec![words]);
        self.write(key, false).ok();
        self.scratch.plaintext = saved;
        let owner = self.links.get(key.0).map(|link| &link.owner);
        if let Some(Owner::Accepting { listener, .. }) = owner {
            let listener = Arc::clone(listener);
            self.handshake_over(&listener);
        }
        self.linger(key);
    }

    /// The peer has said which session it is: one that is here, on another thread, or new.
    fn greeted(
        &mut self,
        key: LinkKey,
        listener: &Arc<ListenerShared>,
        hello: Hello,
        left_over: Bytes,
    ) {
        let id = hello.session;
        let shared = self.new_shared(listener);
        // In one step, because another thread may be just as far with another wire of the same session.
        let known = {
            let mut sessions = listener.endpoint.sessions();
            let known = sessions.get(&id).and_then(std::sync::Weak::upgrade);
            if known.is_none() {
                sessions.insert(id, Arc::downgrade(&shared));
            }
            known
        };
        if let Some(session) = known {
            return self.come_back(key, listener, session, hello, left_over);
        }
        let config = listener.endpoint.config.session();
        match Session::server(config, hello, self.now) {
            Err(refusal) => {
                listener.endpoint.forget(&id, &shared);
                self.turn_away(key, &refusal);
            }
            Ok(session) => {
                let engine = Engine::Session(Box::new(session));
                if let Some(core) = self.new_connection(key, listener, shared, engine, Some(id)) {
                    if !left_over.is_empty() {
                        self.engine_input(core, left_over);
                    }
                    self.serve(core);
                }
            }
        }
    }

    pub(super) fn new_shared(&self, listener: &ListenerShared) -> Arc<Shared> {
        let config = listener.endpoint.config.clone();
        Arc::new(Shared::new(config, Arc::clone(&self.thread), listener.wire))
    }

    pub(super) fn new_connection(
        &mut self,
        key: LinkKey,
        listener: &Arc<ListenerShared>,
        shared: Arc<Shared>,
        engine: Engine,
        session: Option<SessionId>,
    ) -> Option<super::CoreKey> {
        let config = &listener.endpoint.config;
        let refusal = if self.stopping.is_some() {
            Some((CloseCode::GOING_AWAY, "the program is stopping"))
        } else if listener.connections.fetch_add(1, Ordering::AcqRel)
            >= config.0.plain.max_connections
        {
            listener.connections.fetch_sub(1, Ordering::AcqRel);
            Some((CloseCode::BUSY, "the listener serves as many connections as it may"))
        } else {
            None
        };
        if let Some((code, reason)) = refusal {
            if let Some(session) = &session {
                listener.endpoint.forget(session, &shared);
            }
            #[cfg(feature = "websocket")]
            if let Engine::Messages(_) = engine {
                return self.turn_away_messages(key, listener, code.0, reason);
            }
            #[cfg(feature = "websocket")]
            if let Engine::WebSocket(mut engine) = engine {
                self.close_unserved(key, listener, &mut engine, code.0, reason);
                return None;
            }
            self.turn_away(key, &Refusal { code, reason: reason.to_owned() });
            return None;
        }
        let carrier = self.links.get(key.0).map(|link| link.carrier);
        if let Some(Carrier::Socket(id)) = carrier
            && let Some(socket) = self.driver.socket(id)
        {
            prepare(&socket, engine.is_ftcp(), &shared).ok();
        }
        let origin = Origin::Accepted { listener: Arc::clone(listener), session, offered: false };
        let core = self.insert_core(Core::new(shared, None, engine, origin));
        self.handshake_over(listener);
        self.attach(core, key);
        Some(core)
    }

    /// A session that is known here comes back.
    fn come_back(
        &mut self,
        key: LinkKey,
        listener: &Arc<ListenerShared>,
        session: Arc<Shared>,
        hello: Hello,
        left_over: Bytes,
    ) {
        if Arc::ptr_eq(&session.thread, &self.thread) {
            self.handshake_over(listener);
            return self.resume_here(key, &session, hello, [left_over]);
        }
        let Some(link) = self.links.get_mut(key.0) else { return };
        let mut resume = Resume {
            session,
            hello,
            left_over: VecDeque::new(),
            listener: Arc::clone(listener),
            carrier: None,
            #[cfg(feature = "tls")]
            tls: None,
            state: None,
            #[cfg(feature = "websocket")]
            layer: Layer::None,
            #[cfg(feature = "websocket")]
            upgraded: None,
            #[cfg(feature = "bats")]
            flow: link.flow.take(),
            local: link.local,
            peer: link.peer,
        };
        resume.push(left_over);
        link.owner = Owner::Leaving(Some(Box::new(resume)));
        link.deadline = None;
        let carrier = link.carrier;
        self.carrier_detach(carrier);
    }

    /// Sends a wire on to its session's thread.
    pub(super) fn forward(&mut self, resume: Box<Resume>) {
        let listener = Arc::clone(&resume.listener);
        self.handshake_over(&listener);
        let thread = Arc::clone(&resume.session.thread);
        thread.command(Command::Resume(resume)).ok();
    }

    /// A wire of a session that lives here, from another thread.
    pub(super) fn resume(&mut self, resume: Resume) {
        let key = LinkKey(self.links.vacant_key());
        let carrier = match resume.carrier {
            Some(Moved::Socket(socket)) => match self.driver.attach(socket, key.0 as u64) {
                Ok(id) => Carrier::Socket(id),
                Err(_) => return,
            },
            Some(Moved::Factory(socket)) => self.adopt_socket(*socket, key),
            None => return,
        };
        let mut link = Link::new(carrier, Owner::Lingering);
        (link.local, link.peer, link.state) = (resume.local, resume.peer, resume.state);
        #[cfg(feature = "tls")]
        {
            link.tls = resume.tls;
        }
        #[cfg(feature = "websocket")]
        {
            link.layer = resume.layer;
            link.upgraded = resume.upgraded;
        }
        #[cfg(feature = "bats")]
        {
            link.flow = resume.flow;
        }
        self.links.insert(link);
        self.resume_here(key, &resume.session, resume.hello, resume.left_over);
    }

    fn resume_here(
        &mut self,
        key: LinkKey,
        session: &Arc<Shared>,
        hello: Hello,
        left_over: impl IntoIterator<Item = Bytes>,
    ) {
        let now = self.now;
        let core_key = session.slot.load(Ordering::Acquire) as super::CoreKey;
        let core = self.cores.get_mut(core_key).filter(|core| Arc::ptr_eq(&core.shared, session));
        let Some(core) = core else {
            let reason = "the session has just ended".to_owned();
            return self.turn_away_quietly(key, &Refusal { code: CloseCode::BUSY, reason });
        };
        let Engine::Session(engine) = &mut core.engine else { return };
        match engine.handle_resume(now, hello) {
            Err(refusal) => self.turn_away_quietly(key, &refusal),
            Ok(()) => {
                if std::mem::replace(&mut core.up, false) {
                    core.tell(crate::Event::Disconnected(WireError::Replaced));
                }
                self.attach(core_key, key);
                for data in left_over {
                    if !data.is_empty() {
                        self.engine_input(core_key, data);
                    }
                }
                self.serve(core_key);
            }
        }
    }

    /// [`Self::turn_away`] for a peer whose handshake is counted as over already.
    fn turn_away_quietly(&mut self, key: LinkKey, refusal: &Refusal) {
        if let Some(link) = self.links.get_mut(key.0) {
            link.owner = Owner::Lingering;
        }
        self.turn_away(key, refusal);
    }
}
