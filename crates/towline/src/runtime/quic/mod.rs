//! QUIC on an I/O thread: its endpoints with their sockets, and to whom each connection belongs.
//!
//! - [`dial`]: connections out, over all addresses of a host;
//! - [`accept`]: clients, the gate, and datagrams that came to the wrong thread;
//! - [`app`]: a connection of an application: handler, futures, streams.

mod accept;
mod app;
mod dial;
mod streams;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use slab::Slab;
use socket2::Socket;
use towline_io::{Event, SocketId};
use towline_proto::quic::{
    CidReader, ConnectionId, Endpoint as Engine, EndpointEvent, Event as ConnectionEvent,
};

use crate::quic::{
    Answer, EndpointShared, ListenerShared, NOWHERE, ServerConfig, Shared, ThreadStats,
};

use super::datagram::{Misplaced, Port};
use super::{Runtime, Timed};

use self::app::App;
pub(crate) use self::dial::QuicDial;

/// A QUIC endpoint's place in its thread.
pub(super) type PortKey = usize;

/// An application's connection's place in its thread.
pub(super) type AppKey = usize;

/// What other threads tell this one.
pub(crate) enum QuicCommand {
    /// A connection has something in its queue.
    Serve(Arc<Shared>),
    /// Connect.
    Connect(Box<QuicDial>),
    /// The addresses of a dial's host.
    Resolved(Arc<Shared>, std::io::Result<Vec<std::net::SocketAddr>>),
    /// Listen on this socket.
    Listen { socket: Socket, listener: Arc<ListenerShared>, engine: Box<Engine> },
    /// Accept no more.
    Unlisten(Arc<ListenerShared>),
    /// What new clients meet from now on.
    SetServer { listener: Arc<ListenerShared>, config: ServerConfig },
    /// Datagrams of connections that live here.
    Misplaced(Arc<ListenerShared>, Vec<Misplaced>),
    /// An endpoint's last handle is gone.
    Retire(u64),
    /// Counters of an endpoint's connections out.
    ClientStats(u64, Arc<Answer<Option<ThreadStats>>>),
    /// Counters of a listener.
    ListenerStats(Arc<ListenerShared>, Arc<Answer<Option<ThreadStats>>>),
}

/// To whom a connection belongs.
#[derive(Clone, Copy)]
enum Owner {
    /// An application that wants QUIC itself.
    App(AppKey),
}

/// An endpoint on this thread.
pub(super) struct QuicPort {
    port: Port<Engine>,
    kind: Kind,
    /// By the index in the connection's id.
    owners: Vec<Option<(ConnectionId, Owner)>>,
    connections: usize,
    /// In the list of those to be driven.
    dirty: bool,
    /// Nothing new comes: it closes with its last connection.
    retired: bool,
}

enum Kind {
    /// Connections out of this endpoint.
    Client(u64),
    /// A listener's part on this thread, and who reads which thread a datagram belongs to where there are several.
    Server(Arc<ListenerShared>, Option<Box<CidReader>>),
}

impl QuicPort {
    fn new(engine: Engine, kind: Kind) -> QuicPort {
        QuicPort {
            port: Port::new(engine),
            kind,
            owners: Vec::new(),
            connections: 0,
            dirty: false,
            retired: false,
        }
    }

    fn owner(&self, id: ConnectionId) -> Option<Owner> {
        let (known, owner) = self.owners.get(index(id))?.as_ref()?;
        (*known == id).then_some(*owner)
    }

    fn own(&mut self, id: ConnectionId, owner: Owner) {
        let index = index(id);
        if self.owners.len() <= index {
            self.owners.resize(index + 1, None);
        }
        if let Some(place) = self.owners.get_mut(index) {
            self.connections += usize::from(place.is_none());
            *place = Some((id, owner));
        }
    }

    fn disown(&mut self, id: ConnectionId) {
        if self.owner(id).is_some()
            && let Some(place) = self.owners.get_mut(index(id))
        {
            *place = None;
            self.connections -= 1;
        }
    }
}

/// The low half of an id is the engine's index, which it uses again: the table is as long as there were connections at once.
fn index(id: ConnectionId) -> usize {
    (id.as_u64() & u64::from(u32::MAX)) as usize
}

/// All of QUIC on one thread.
#[derive(Default)]
pub(super) struct QuicThread {
    ports: Slab<QuicPort>,
    apps: Slab<App>,
    dirty: Vec<PortKey>,
    /// Reused: what came to the wrong thread.
    misplaced: Vec<Misplaced>,
}

/// Tags of QUIC sockets have this bit, and the port's place.
pub(super) const QUIC: u64 = 1 << 62;

/// Rounds of events and transmits for one port before others have their turn.
const ROUNDS: usize = 16;

/// How soon a port whose sockets are full is looked at without a word from the driver.
const FULL_SOCKET: Duration = Duration::from_millis(5);

impl Runtime {
    pub(super) fn quic_command(&mut self, command: QuicCommand) {
        match command {
            QuicCommand::Serve(shared) => {
                let key = shared.slot.load(Ordering::Acquire);
                if key != NOWHERE {
                    self.serve_app(key);
                }
            }
            QuicCommand::Connect(dial) => self.quic_connect(*dial),
            QuicCommand::Resolved(shared, result) => self.quic_resolved(&shared, result),
            QuicCommand::Listen { socket, listener, engine } => {
                self.quic_listen(socket, listener, *engine);
            }
            QuicCommand::Unlisten(listener) => self.quic_unlisten(&listener),
            QuicCommand::SetServer { listener, config } => {
                if let Some(port) =
                    self.quic_port_of(&listener).and_then(|k| self.quic.ports.get_mut(k))
                    && let Err(error) = port.port.engine.set_server_config(Some(config))
                {
                    tracing::error!(%error, "the configuration stays as it was");
                }
            }
            QuicCommand::Misplaced(listener, datagrams) => {
                self.quic_handed_over(&listener, datagrams);
            }
            QuicCommand::Retire(id) => self.quic_retire(id),
            QuicCommand::ClientStats(id, answer) => {
                let key = self.quic_client_port(id);
                answer.give(key.and_then(|key| self.quic_stats(key)));
            }
            QuicCommand::ListenerStats(listener, answer) => {
                let key = self.quic_port_of(&listener);
                answer.give(key.and_then(|key| self.quic_stats(key)));
            }
        }
    }

    /// A command that came when the thread had stopped.
    pub(super) fn quic_refuse(&mut self, command: QuicCommand) {
        match command {
            QuicCommand::Connect(dial) => dial.stopped(),
            QuicCommand::Listen { listener, .. } => listener.end(),
            QuicCommand::ClientStats(_, answer) | QuicCommand::ListenerStats(_, answer) => {
                answer.give(None);
            }
            _ => {}
        }
    }

    fn quic_stats(&self, key: PortKey) -> Option<ThreadStats> {
        let port = self.quic.ports.get(key)?;
        let mut stats = ThreadStats::default();
        stats.endpoint = port.port.engine.stats();
        stats.sockets = port.port.stats(&self.driver);
        stats.driver = match self.driver.kind() {
            towline_io::DriverKind::IoUring => "io_uring",
            _ => "epoll",
        };
        Some(stats)
    }

    fn quic_client_port(&self, endpoint: u64) -> Option<PortKey> {
        let is_it = |port: &QuicPort| matches!(port.kind, Kind::Client(id) if id == endpoint);
        self.quic.ports.iter().find(|(_, port)| is_it(port)).map(|(key, _)| key)
    }

    fn quic_port_of(&self, listener: &ListenerShared) -> Option<PortKey> {
        let key = listener.ports.get(self.thread.index)?.load(Ordering::Relaxed);
        let is_it = |port: &QuicPort| match &port.kind {
            Kind::Server(shared, _) => std::ptr::eq(Arc::as_ptr(shared), listener),
            Kind::Client(_) => false,
        };
        self.quic.ports.get(key).is_some_and(is_it).then_some(key)
    }

    /// The port of this endpoint's connections out, made when there is none yet.
    fn quic_client(
        &mut self,
        endpoint: &EndpointShared,
    ) -> Result<PortKey, crate::quic::ConfigError> {
        if let Some(key) = self.quic_client_port(endpoint.id) {
            return Ok(key);
        }
        let engine = endpoint.engine(self.thread.index, None)?;
        Ok(self.quic.ports.insert(QuicPort::new(engine, Kind::Client(endpoint.id))))
    }

    /// Has a port driven before the thread sleeps.
    pub(super) fn quic_touch(&mut self, key: PortKey) {
        if let Some(port) = self.quic.ports.get_mut(key)
            && !std::mem::replace(&mut port.dirty, true)
        {
            self.quic.dirty.push(key);
        }
    }

    pub(super) fn quic_completed(&mut self, key: PortKey, socket: SocketId, event: Event) {
        let QuicThread { ports, misplaced, .. } = &mut self.quic;
        let Some(QuicPort { port, kind, .. }) = ports.get_mut(key) else {
            if let Event::Datagrams(came) = event {
                self.driver.recycle_mut(came.data);
            }
            return;
        };
        match event {
            Event::Datagrams(came) => {
                let here = self.thread.index as u8;
                let elsewhere = |datagram: &[u8]| match kind {
                    Kind::Server(_, Some(reader)) => {
                        reader.thread_of_datagram(datagram).filter(|thread| *thread != here)
                    }
                    _ => None,
                };
                port.received(self.now, socket, came, &mut self.scratch.lent, elsewhere, misplaced);
                if !self.quic.misplaced.is_empty() {
                    self.quic_hand_over(key);
                }
            }
            Event::DatagramsSent(_) => port.sent(socket),
            Event::DatagramsEnded(error) if error.raw_os_error() != Some(libc_ecanceled()) => {
                tracing::warn!(%error, "a datagram socket is read again after an error");
                port.resume(&mut self.driver, socket);
            }
            Event::DatagramError(error) => tracing::debug!(%error, "a datagram socket"),
            _ => return,
        }
        self.quic_touch(key);
    }

    /// Works on every port to which something has happened.
    pub(super) fn quic_drive(&mut self) {
        while let Some(key) = self.quic.dirty.pop() {
            self.quic_drive_one(key);
        }
        self.scratch.lent.give_back(&mut self.driver);
    }

    fn quic_drive_one(&mut self, key: PortKey) {
        let mut more = true;
        for _ in 0..ROUNDS {
            self.quic_tell(key);
            let Some(QuicPort { port, .. }) = self.quic.ports.get_mut(key) else { return };
            let swept = port.sweep(self.now, &mut self.driver, &mut self.scratch.trains);
            // Sending makes room, room makes events, and what they set off may want to be sent.
            let told = self.quic_tell(key);
            let Some(QuicPort { port, .. }) = self.quic.ports.get_mut(key) else { return };
            more = swept || told || port.poll_timeout().is_some_and(|at| at <= self.now);
            if !more || port.is_blocked() {
                break;
            }
        }
        self.quic_rest(key, more);
    }

    /// Tells what has happened; whether anything has.
    fn quic_tell(&mut self, key: PortKey) -> bool {
        let now = self.now;
        let mut any = false;
        while let Some(event) =
            self.quic.ports.get_mut(key).and_then(|port| port.port.poll_event(now))
        {
            any = true;
            match event {
                EndpointEvent::Incoming(incoming) => self.quic_incoming(key, *incoming),
                EndpointEvent::Connection(id, event) => self.quic_event(key, id, event),
            }
        }
        any
    }

    /// Until the next time: arms the timer, or closes what is over.
    fn quic_rest(&mut self, key: PortKey, more: bool) {
        let Some(port) = self.quic.ports.get_mut(key) else { return };
        port.dirty = false;
        if port.retired && port.connections == 0 {
            port.port.close(&mut self.driver);
            self.quic.ports.remove(key);
            return;
        }
        let earliest = match more && port.port.is_blocked() {
            true => self.now + FULL_SOCKET,
            false => self.now,
        };
        // With more to do, at once, but after the other sockets.
        let Some(at) = port.port.poll_timeout().or(more.then_some(earliest)) else { return };
        let at = if more { earliest } else { at.max(earliest) };
        if port.port.alarms.set(at) {
            self.arm(at, Timed::Quic(key));
        }
    }

    pub(super) fn quic_timeout(&mut self, key: PortKey, at: Instant) {
        let Some(port) = self.quic.ports.get_mut(key) else { return };
        if port.port.alarms.fired(at) {
            port.port.timeout(self.now);
            self.quic_touch(key);
        }
    }

    fn quic_event(&mut self, key: PortKey, id: ConnectionId, event: ConnectionEvent) {
        let owner = self.quic.ports.get(key).and_then(|port| port.owner(id));
        let owner = match owner {
            Some(owner) => Some(owner),
            // Without a gate the first event is how a client shows.
            None => self.quic_accepted(key, id),
        };
        match owner {
            Some(Owner::App(app)) => self.app_event(key, id, app, event),
            None => {}
        }
    }

    fn quic_retire(&mut self, endpoint: u64) {
        if let Some(key) = self.quic_client_port(endpoint) {
            if let Some(port) = self.quic.ports.get_mut(key) {
                port.retired = true;
            }
            self.quic_touch(key);
        }
    }

    /// The context is being dropped.
    pub(super) fn quic_stop(&mut self) {
        let listeners: Vec<_> = (self.quic.ports.iter())
            .filter_map(|(_, port)| match &port.kind {
                Kind::Server(listener, _) => Some(Arc::clone(listener)),
                Kind::Client(_) => None,
            })
            .collect();
        for listener in listeners {
            self.quic_unlisten(&listener);
        }
        let apps: Vec<AppKey> =
            (self.quic.apps.iter()).filter(|(_, app)| !app.wire).map(|(key, _)| key).collect();
        for key in apps {
            self.stop_app(key);
        }
        self.quic_drive();
    }

    pub(super) fn quic_is_idle(&self) -> bool {
        !self.quic.apps.iter().any(|(_, app)| !app.wire)
    }

    /// The time for last words is over.
    pub(super) fn quic_end(&mut self) {
        let apps: Vec<AppKey> = self.quic.apps.iter().map(|(key, _)| key).collect();
        for key in &apps {
            self.stop_app(*key);
        }
        self.quic_drive();
        for key in apps {
            self.end_app(key);
        }
    }
}

/// `ECANCELED`, by which the driver says that we asked for the end.
fn libc_ecanceled() -> i32 {
    125
}
