//! Flows on an I/O thread: engines with their sockets, and which socket of a factory each flow carries.
//!
//! - [`node`]: the engines;
//! - [`flows`]: what goes between a flow and the link over it, in bounded steps.

mod flows;
mod node;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use slab::Slab;
use socket2::Socket;
use towline_io::{Event, SocketId};
use towline_proto::bats::endpoint::{ConnectConfig, HopAddress, refusal};

use crate::bats::{Carried, Dialed, FlowError, ListenerShared, NOWHERE, Target};
use crate::error::WireError;

use super::datagram::{Misplaced, Port, bind_client};
use super::{Command, Runtime, Timed, resolve};

use self::flows::Flow;
pub(crate) use self::node::Node as BatsEngine;
use self::node::{Id, any_of_family};

/// An engine's place in its thread.
pub(super) type PortKey = usize;

/// A flow's place in its thread.
type FlowKey = usize;

/// What other threads tell this one.
pub(crate) enum BatsCommand {
    /// Something was written, read or closed above a flow.
    Serve(Arc<Carried>),
    /// Begin a flow.
    Connect(Box<Dialed>),
    /// The addresses of a flow's first node.
    Resolved(Box<Dialed>, std::io::Result<Vec<SocketAddr>>),
    /// Take flows on this socket.
    Listen { socket: Socket, engine: Box<BatsEngine>, listener: Arc<ListenerShared> },
    /// Take no more.
    Unlisten(Arc<ListenerShared>),
}

/// An engine on this thread.
pub(super) struct BatsPort {
    port: Port<BatsEngine>,
    /// Flows out have none.
    listener: Option<Arc<ListenerShared>>,
    flows: HashMap<Id, FlowKey>,
    /// In the list of those to be driven.
    dirty: bool,
    /// Nothing new comes: it closes with its last flow.
    retired: bool,
}

/// All flows on one thread.
#[derive(Default)]
pub(super) struct BatsThread {
    ports: Slab<BatsPort>,
    flows: Slab<Flow>,
    /// The engine of flows out.
    client: Option<PortKey>,
    dirty: Vec<PortKey>,
    misplaced: Vec<Misplaced>,
}

/// Tags of this module's sockets have this bit, and the port's place.
pub(super) const BATS: u64 = 1 << 61;

/// Rounds of events and transmits for one port before others have their turn.
const ROUNDS: usize = 16;

/// How soon a port whose sockets are full is looked at without a word from the driver.
const FULL_SOCKET: Duration = Duration::from_millis(5);

/// `ECANCELED`, by which the driver says that we asked for the end.
const CANCELED: i32 = 125;

impl Runtime {
    pub(super) fn bats_command(&mut self, command: BatsCommand) {
        match command {
            BatsCommand::Serve(carried) => self.bats_serve(carried.place()),
            BatsCommand::Connect(dialed) => self.bats_connect(dialed),
            BatsCommand::Resolved(dialed, result) => {
                let host = dialed.target.first().map(|first| first.host().to_owned());
                let reason = match result {
                    Ok(found) if !found.is_empty() => return self.bats_dial(*dialed, &found),
                    Ok(_) => "it has no addresses".into(),
                    Err(error) => error.to_string().into(),
                };
                let host = host.unwrap_or_default().into();
                dialed.socket.closed(Err(WireError::Resolve { host, reason })).ok();
            }
            BatsCommand::Listen { socket, engine, listener } => {
                self.bats_listen(socket, *engine, listener);
            }
            BatsCommand::Unlisten(listener) => self.bats_unlisten(&listener),
        }
    }

    /// A command that came when the thread had stopped.
    pub(super) fn bats_refuse(command: BatsCommand) {
        if let BatsCommand::Connect(dialed) | BatsCommand::Resolved(dialed, _) = command {
            dialed.socket.closed(Err(WireError::End)).ok();
        }
    }

    // ---- flows out ----

    fn bats_connect(&mut self, dialed: Box<Dialed>) {
        let Some(first) = dialed.target.first() else { return };
        if let Some(address) = first.literal() {
            return self.bats_dial(*dialed, &[address]);
        }
        let (host, port) = (first.host().to_owned(), first.port());
        resolve::lookup(host, port, move |result| {
            let thread = Arc::clone(&dialed.carried.thread);
            let command = Command::Bats(BatsCommand::Resolved(dialed, result));
            thread.command(command).ok();
        });
    }

    fn bats_dial(&mut self, dialed: Dialed, first: &[SocketAddr]) {
        let Dialed { carried, socket, target } = dialed;
        if carried.state().abandoned {
            return;
        }
        if carried.state().finishing || self.stopping.is_some() {
            // Given up meanwhile.
            socket.closed(Ok(())).ok();
            return;
        }
        let begun = match target {
            Target::Coded { path, config } => self.bats_begin(&path, &config, first),
            Target::Plain { .. } => self.bats_datagrams(first),
        };
        match begun {
            Ok((port, id)) => {
                let plain = matches!(id, Id::Plain(_));
                let key = self.bats_insert(Flow::new(carried, Some(socket), port, id));
                if plain {
                    // Nobody has to agree.
                    self.bats_established(key);
                }
                self.bats_touch(port);
            }
            Err(error) => drop(socket.closed(Err(error))),
        }
    }

    /// Datagrams to one peer, by a port of their own, so that it can tell them from those of other connections.
    fn bats_datagrams(&mut self, to: &[SocketAddr]) -> Result<(PortKey, Id), WireError> {
        let to = *to.first().ok_or(WireError::End)?;
        let (engine, peer) = BatsEngine::datagrams(self.now, to);
        let peer = peer.ok_or(WireError::End)?;
        let key = self.bats_insert_port(engine, None);
        if let Some(port) = self.bats.ports.get_mut(key) {
            port.retired = true;
        }
        match self.bats_reach(key, &[to]) {
            Ok(()) => Ok((key, Id::Plain(peer))),
            Err(error) => {
                self.bats.ports.remove(key);
                Err(error.into())
            }
        }
    }

    fn bats_begin(
        &mut self,
        path: &[HopAddress],
        config: &ConnectConfig,
        first: &[SocketAddr],
    ) -> Result<(PortKey, Id), WireError> {
        let key = match self.bats.client.filter(|key| self.bats.ports.contains(*key)) {
            Some(key) => key,
            None => {
                let engine = BatsEngine::dialing().map_err(FlowError::Config)?;
                self.bats_insert_port(engine, None)
            }
        };
        self.bats.client = Some(key);
        self.bats_reach(key, first)?;
        let now = self.now;
        let seed = super::dial::random_u64();
        let port = self.bats.ports.get_mut(key).ok_or(WireError::End)?;
        let endpoint = port.port.engine.coded_mut().ok_or(WireError::End)?;
        let flow = endpoint.connect_to_any(now, path, first, config, seed);
        Ok((key, Id::Coded(flow.map_err(FlowError::Connect)?)))
    }

    fn bats_insert_port(
        &mut self,
        engine: BatsEngine,
        listener: Option<Arc<ListenerShared>>,
    ) -> PortKey {
        let mut port = Port::new(engine);
        if let BatsEngine::Plain(_) = port.engine {
            port.fragment();
        }
        self.bats.ports.insert(BatsPort {
            port,
            listener,
            flows: HashMap::new(),
            dirty: false,
            retired: false,
        })
    }

    /// Opens sockets for the families of these peers where there are none; one that can be had is enough.
    fn bats_reach(&mut self, key: PortKey, peers: &[SocketAddr]) -> std::io::Result<()> {
        let Some(port) = self.bats.ports.get_mut(key) else { return Ok(()) };
        let mut last = Ok(());
        for peer in peers {
            if !port.port.reaches(*peer) {
                let tag = BATS | key as u64;
                let bound = bind_client(any_of_family(*peer));
                let bound = bound.and_then(|it| port.port.add(&mut self.driver, it, tag));
                last = bound.map(drop);
            }
        }
        match peers.iter().any(|peer| port.port.reaches(*peer)) {
            true => Ok(()),
            false => last,
        }
    }

    fn bats_insert(&mut self, flow: Flow) -> FlowKey {
        let (port, id) = (flow.port, flow.id);
        let carried = Arc::clone(&flow.carried);
        let key = self.bats.flows.insert(flow);
        carried.slot.store(key, Ordering::Release);
        // What was asked for before found nobody here.
        carried.state().scheduled = false;
        if let Some(port) = self.bats.ports.get_mut(port) {
            port.flows.insert(id, key);
        }
        key
    }

    // ---- listeners ----

    fn bats_listen(&mut self, socket: Socket, engine: BatsEngine, listener: Arc<ListenerShared>) {
        let key = self.bats_insert_port(engine, Some(Arc::clone(&listener)));
        let tag = BATS | key as u64;
        let Some(port) = self.bats.ports.get_mut(key) else { return };
        if let Err(error) = port.port.add(&mut self.driver, socket, tag) {
            tracing::error!(%error, "cannot listen");
            self.bats.ports.remove(key);
            return;
        }
        listener.port.store(key, Ordering::Release);
        self.bats_touch(key);
    }

    fn bats_unlisten(&mut self, listener: &Arc<ListenerShared>) {
        let key = listener.port.load(Ordering::Acquire);
        let is_it = |port: &&mut BatsPort| {
            port.listener.as_ref().is_some_and(|known| Arc::ptr_eq(known, listener))
        };
        if let Some(port) = self.bats.ports.get_mut(key).filter(is_it) {
            port.retired = true;
            port.port.engine.stop();
            self.bats_touch(key);
        }
    }

    // ---- what happens ----

    pub(super) fn bats_completed(&mut self, key: PortKey, socket: SocketId, event: Event) {
        let BatsThread { ports, misplaced, .. } = &mut self.bats;
        let Some(BatsPort { port, .. }) = ports.get_mut(key) else {
            if let Event::Datagrams(came) = event {
                self.driver.recycle_mut(came.data);
            }
            return;
        };
        match event {
            Event::Datagrams(came) => {
                let lent = &mut self.scratch.lent;
                port.received(self.now, socket, came, lent, |_| None, misplaced);
            }
            Event::DatagramsSent(_) => port.sent(socket),
            Event::DatagramsEnded(error) if error.raw_os_error() != Some(CANCELED) => {
                tracing::warn!(%error, "a datagram socket is read again after an error");
                port.resume(&mut self.driver, socket);
            }
            Event::DatagramError(error) => tracing::debug!(%error, "a datagram socket"),
            _ => return,
        }
        self.bats_touch(key);
    }

    /// Has a port driven before the thread sleeps.
    fn bats_touch(&mut self, key: PortKey) {
        if let Some(port) = self.bats.ports.get_mut(key)
            && !std::mem::replace(&mut port.dirty, true)
        {
            self.bats.dirty.push(key);
        }
    }

    /// Works on every port to which something has happened.
    pub(super) fn bats_drive(&mut self) {
        while let Some(key) = self.bats.dirty.pop() {
            self.bats_drive_one(key);
        }
        self.scratch.lent.give_back(&mut self.driver);
    }

    fn bats_drive_one(&mut self, key: PortKey) {
        let mut more = true;
        for _ in 0..ROUNDS {
            self.bats_tell(key);
            let Some(BatsPort { port, .. }) = self.bats.ports.get_mut(key) else { return };
            let swept = port.sweep(self.now, &mut self.driver, &mut self.scratch.trains);
            // Sending makes room, room makes events, and what they set off may want to be sent.
            let told = self.bats_tell(key);
            let Some(BatsPort { port, .. }) = self.bats.ports.get_mut(key) else { return };
            more = swept || told || port.poll_timeout().is_some_and(|at| at <= self.now);
            if !more || port.is_blocked() {
                break;
            }
        }
        self.bats_rest(key, more);
    }

    /// Tells what has happened; whether anything has.
    fn bats_tell(&mut self, key: PortKey) -> bool {
        let now = self.now;
        let mut any = false;
        while let Some(told) =
            self.bats.ports.get_mut(key).and_then(|port| port.port.poll_event(now))
        {
            any = true;
            self.bats_told(key, told);
        }
        any
    }

    /// Until the next time: arms the timer, or closes what is over.
    fn bats_rest(&mut self, key: PortKey, more: bool) {
        let Some(port) = self.bats.ports.get_mut(key) else { return };
        port.dirty = false;
        let at = port.port.poll_timeout();
        let silent = at.is_none() || matches!(port.port.engine, BatsEngine::Plain(_));
        if port.retired && port.flows.is_empty() && silent {
            // Nothing is left to be said either.
            port.port.close(&mut self.driver);
            self.bats.ports.remove(key);
            return;
        }
        let earliest = match more && port.port.is_blocked() {
            true => self.now + FULL_SOCKET,
            false => self.now,
        };
        // With more to do, at once, but after the other sockets.
        let Some(at) = at.or(more.then_some(earliest)) else { return };
        let at = if more { earliest } else { at.max(earliest) };
        if port.port.alarms.set(at) {
            self.arm(at, Timed::Bats(key));
        }
    }

    pub(super) fn bats_timeout(&mut self, key: PortKey, at: Instant) {
        let Some(port) = self.bats.ports.get_mut(key) else { return };
        if port.port.alarms.fired(at) {
            port.port.timeout(self.now);
            self.bats_touch(key);
        }
    }

    /// The context is being dropped.
    pub(super) fn bats_stop(&mut self) {
        let listeners: Vec<_> =
            self.bats.ports.iter().filter_map(|(_, port)| port.listener.clone()).collect();
        for listener in listeners {
            self.bats_unlisten(&listener);
        }
        self.bats_drive();
    }

    /// The time for last words is over.
    pub(super) fn bats_end(&mut self) {
        let left: Vec<(PortKey, Id)> =
            self.bats.flows.iter().map(|(_, flow)| (flow.port, flow.id)).collect();
        for (port, id) in left {
            if let Some(found) = self.bats.ports.get_mut(port) {
                found.port.engine.abort(id, refusal::STOPPING, "the program is stopping");
                self.bats_touch(port);
            }
        }
        self.bats_drive();
        for (_, flow) in &self.bats.flows {
            flow.carried.slot.store(NOWHERE, Ordering::Release);
        }
    }
}
