//! Sockets of the application's factories as carriers; see [`crate::socket_factory`].
//!
//! What a factory tells waits in its socket until this thread looks, which the socket asks for once. So nothing that a
//! factory calls is ever inside of what this thread does.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use towline_io::Received;

use crate::address::Address;
use crate::context::Thread;
use crate::error::WireError;
use crate::listener::ListenerShared;
use crate::socket_factory::{
    Arrival, CLOSE_BUDGET, Call, Framing, OpenOptions, Owner as SocketOwner, Phase, SocketShared,
};

use super::carrier::Carrier;
use super::core::Origin;
use super::link::{LINGER, Link, LinkKey, Owner};
use super::{Command, CoreKey, Runtime, Timed};

/// A factory's socket on this thread.
pub(crate) struct FactoryCarrier {
    pub(super) shared: Arc<SocketShared>,
    /// Whom it carries; `None` when it only has to close.
    link: Option<LinkKey>,
    arrivals: VecDeque<Arrival>,
    /// A receive was asked for.
    armed: bool,
    /// It is in `stirred` already.
    queued: bool,
    /// The link has been told how it ended.
    told: bool,
    /// When a close counts as answered.
    deadline: Option<Instant>,
}

/// Something that a carrier has to tell, outside of its doors.
pub(super) enum Stirred {
    /// A factory's socket.
    Socket(usize),
    /// A link whose carrier is done with it.
    Closed(LinkKey),
    /// A link whose carrier moves to another thread.
    Detached(LinkKey, usize),
}

/// Arrivals that one socket hands on before it is the others' turn.
const AT_ONCE: usize = 64;

impl SocketOwner for Thread {
    fn stirred(&self, socket: &Arc<SocketShared>) {
        // A thread that has stopped has closed its sockets.
        self.command(Command::Stirred(Arc::clone(socket))).ok();
    }
}

impl Runtime {
    // ---- how they come ----

    /// Opens a socket by a factory, for a dial.
    pub(super) fn open_by_factory(&mut self, key: CoreKey, index: usize, to: Address) {
        let Some(core) = self.cores.get(key) else { return };
        let config = &core.shared.config;
        let factory = config.factory_for(&to);
        #[cfg(feature = "quic")]
        let factory = factory.or_else(|| {
            (to.wire() == crate::Wire::Quic)
                .then(|| quic_wire(&mut self.quic_wires, &self.threads, config))
        });
        #[cfg(feature = "bats")]
        let factory = factory.or_else(|| {
            let wire = to.wire();
            (wire.is_udp() && wire != crate::Wire::Quic)
                .then(|| bats_wire(&mut self.bats_wires, &self.threads, config, wire))
        });
        let Some(factory) = factory else { return };
        let options = open_options(config, &to, core.born);
        let timeout = options.timeout;
        let shared = SocketShared::new(
            factory,
            None,
            config.0.plain.max_message,
            config.0.factories.check.clone(),
        );
        if let Origin::Dialed(dialing) = &mut self.cores[key].origin {
            dialing.runs(index);
        }
        let link = self.insert_factory_link(&shared, Owner::Dial { core: key, address: index });
        let deadline = self.now + timeout;
        if let Some(link) = self.links.get_mut(link.0) {
            link.deadline = Some(deadline);
        }
        self.arm(deadline, Timed::Link(link));
        shared.start(Call::Open(Box::new((to, options))));
    }

    /// Serves a connection that a factory accepted.
    pub(super) fn attach_socket(
        &mut self,
        shared: Arc<SocketShared>,
        listener: Arc<ListenerShared>,
    ) {
        if self.stopping.is_some() {
            shared.life().close();
            shared.dispose();
            return self.handshake_over(&listener);
        }
        let deadline = Instant::now() + listener.endpoint.config.0.plain.connect_timeout;
        let handshake = towline_proto::session::Handshake::new();
        let key = self.insert_factory_link(&shared, Owner::Accepting { listener, handshake });
        if let Some(link) = self.links.get_mut(key.0) {
            link.deadline = Some(deadline);
        }
        self.arm(deadline, Timed::Link(key));
        shared.start(Call::Attached);
    }

    fn insert_factory_link(&mut self, shared: &Arc<SocketShared>, owner: Owner) -> LinkKey {
        let entry = self.links.vacant_entry();
        let key = LinkKey(entry.key());
        let slot = self.sockets.vacant_key();
        let carrier = Carrier::Factory { slot, id: shared.id() };
        entry.insert(Link::new(carrier, owner));
        self.insert_socket(FactoryCarrier {
            shared: Arc::clone(shared),
            link: Some(key),
            arrivals: VecDeque::new(),
            armed: false,
            queued: false,
            told: false,
            deadline: None,
        });
        key
    }

    fn insert_socket(&mut self, carrier: FactoryCarrier) -> Carrier {
        let shared = Arc::clone(&carrier.shared);
        let slot = self.sockets.insert(carrier);
        shared.slot.store(slot, std::sync::atomic::Ordering::Release);
        shared.set_owner(Arc::clone(&self.thread) as Arc<dyn SocketOwner>);
        Carrier::Factory { slot, id: shared.id() }
    }

    /// A socket that moves here from another thread.
    pub(super) fn adopt_socket(&mut self, mut carrier: FactoryCarrier, link: LinkKey) -> Carrier {
        (carrier.link, carrier.queued, carrier.armed) = (Some(link), false, false);
        let carrier = self.insert_socket(carrier);
        if let Carrier::Factory { slot, .. } = carrier {
            self.stir(slot);
        }
        carrier
    }

    // ---- doors ----

    pub(super) fn socket(&mut self, slot: usize, id: u64) -> Option<&mut FactoryCarrier> {
        self.sockets.get_mut(slot).filter(|socket| socket.shared.id() == id)
    }

    pub(super) fn socket_receive(&mut self, slot: usize, id: u64) -> bool {
        let Some(socket) = self.socket(slot, id) else { return false };
        socket.armed = true;
        if !socket.arrivals.is_empty() || socket.shared.has_outcome() {
            self.stir(slot);
        }
        true
    }

    pub(super) fn socket_send(&mut self, slot: usize, id: u64, report: bool) -> bool {
        let Some(shared) = self.socket(slot, id).map(|socket| Arc::clone(&socket.shared)) else {
            self.scratch.wire.clear();
            return false;
        };
        for data in self.scratch.wire.drain(..) {
            if !data.is_empty() {
                // One that is closed already has a reason, which the link hears behind what has arrived.
                shared.write(data, false);
            }
        }
        if report {
            shared.report_room();
        }
        true
    }

    pub(super) fn socket_queued(&self, slot: usize) -> usize {
        let unwritten = self.sockets.get(slot).map_or(0, |socket| socket.shared.unwritten());
        usize::try_from(unwritten).unwrap_or(usize::MAX)
    }

    pub(super) fn socket_finish(&mut self, slot: usize, id: u64, status: u16, message: &str) {
        let Some(shared) = self.socket(slot, id).map(|socket| Arc::clone(&socket.shared)) else {
            return;
        };
        if shared.close(status, message) {
            // Our own waits for the peer, which may be gone; an application's has had its say.
            let budget = if is_quic(&shared) { LINGER } else { CLOSE_BUDGET };
            let deadline = Instant::now() + budget;
            if let Some(socket) = self.socket(slot, id) {
                socket.deadline = Some(deadline);
            }
            self.arm(deadline, Timed::Socket(slot));
        }
    }

    pub(super) fn socket_close(&mut self, slot: usize, id: u64) {
        let link = self.socket(slot, id).and_then(|socket| socket.link.take());
        let Some(link) = link else { return };
        self.socket_finish(slot, id, GOING_AWAY, "");
        self.stirred.push(Stirred::Closed(link));
        self.stir(slot);
    }

    pub(super) fn socket_detach(&mut self, slot: usize, id: u64) {
        if let Some(link) = self.socket(slot, id).and_then(|socket| socket.link.take()) {
            self.stirred.push(Stirred::Detached(link, slot));
        }
    }

    fn stir(&mut self, slot: usize) {
        if let Some(socket) = self.sockets.get_mut(slot)
            && !std::mem::replace(&mut socket.queued, true)
        {
            self.stirred.push(Stirred::Socket(slot));
        }
    }

    // ---- what they tell ----

    /// Lets carriers tell what they could not tell inside of their doors; `false` when there was nothing.
    pub(super) fn stir_carriers(&mut self) -> bool {
        if self.stirred.is_empty() {
            return false;
        }
        for stirred in std::mem::take(&mut self.stirred) {
            match stirred {
                Stirred::Socket(slot) => self.look_at_socket(slot),
                Stirred::Closed(link) => self.link_closed(link),
                Stirred::Detached(link, slot) => {
                    if let Some(socket) = self.sockets.try_remove(slot) {
                        self.detached(link, super::accept::Moved::Factory(Box::new(socket)));
                    }
                }
            }
        }
        true
    }

    /// A factory told a socket something.
    pub(super) fn socket_stirred(&mut self, shared: &Arc<SocketShared>) {
        let slot = shared.slot.load(std::sync::atomic::Ordering::Acquire);
        if self.sockets.get(slot).is_some_and(|socket| Arc::ptr_eq(&socket.shared, shared)) {
            self.look_at_socket(slot);
        }
    }

    fn look_at_socket(&mut self, slot: usize) {
        let Some(socket) = self.sockets.get_mut(slot) else { return };
        socket.queued = false;
        let shared = Arc::clone(&socket.shared);
        shared.looking();
        let opened = shared.life().take(&mut socket.arrivals);
        if opened && let Some(link) = socket.link {
            self.socket_opened(link, &shared);
        }
        self.hand_on(slot, &shared);
        #[cfg(feature = "bats")]
        if let Some(link) = self.sockets.get(slot).and_then(|socket| socket.link) {
            self.look_at_flow(link);
        }
        let link = self.sockets.get(slot).and_then(|socket| socket.link);
        if let Some(link) = link.filter(|_| shared.take_room()) {
            self.sent(link);
        }
        #[cfg(feature = "websocket")]
        if let Some(link) = link {
            self.messages_completed(link, shared.completed());
        }
        self.tell_outcome(slot, &shared);
        let Some(socket) = self.sockets.get_mut(slot) else { return };
        if socket.link.is_none() {
            let left: usize = socket.arrivals.drain(..).map(|arrival| arrival.len()).sum();
            shared.processed(left);
            if shared.life().phase() == Phase::Closed {
                self.sockets.remove(slot);
                shared.dispose();
            }
        }
    }

    /// Tells the application what has changed about the flow under its link.
    #[cfg(feature = "bats")]
    fn look_at_flow(&mut self, key: LinkKey) {
        let Some(link) = self.links.get(key.0) else { return };
        let (Owner::Core(core), Some((flow, _))) = (&link.owner, &link.flow) else { return };
        let Some(length) = flow.state().take_ideal_buffer_length() else { return };
        if let Some(core) = self.cores.get_mut(*core) {
            core.tell(crate::Event::IdealBufferLength(length));
        }
    }

    /// Hands on what has arrived, as long as it is asked for.
    fn hand_on(&mut self, slot: usize, shared: &Arc<SocketShared>) {
        for _ in 0..AT_ONCE {
            let Some(socket) = self.sockets.get_mut(slot) else { return };
            let Some(link) = socket.link.filter(|_| socket.armed) else { return };
            let Some(mut arrival) = socket.arrivals.pop_front() else { return };
            if shared.framing() != Framing::None {
                arrival = gather(arrival, &mut socket.arrivals);
            }
            socket.armed = false;
            let bytes = arrival.len();
            self.arrived(link, arrival);
            shared.processed(bytes);
        }
        self.stir(slot);
    }

    fn arrived(&mut self, key: LinkKey, arrival: Arrival) {
        #[cfg(feature = "websocket")]
        let Some(arrival) = self.message_arrived(key, arrival) else { return };
        match arrival {
            Arrival::Data(data) => self.received(key, received(own(data), false)),
            Arrival::End => self.received(key, received(BytesMut::new(), true)),
            Arrival::Text(_) => {
                let words = "text in a session, over a socket factory that moves messages";
                self.link_failed(key, WireError::Protocol(words.into()));
            }
            Arrival::CloseRequested { status, message } => {
                let reason = message.into();
                self.link_failed(key, WireError::WebSocketClosed { code: status, reason });
            }
        }
    }

    /// How it ended comes behind everything that arrived.
    fn tell_outcome(&mut self, slot: usize, shared: &Arc<SocketShared>) {
        let Some(socket) = self.sockets.get_mut(slot) else { return };
        let Some(link) = socket.link.filter(|_| socket.arrivals.is_empty() && !socket.told) else {
            return;
        };
        let (outcome, response) = {
            let life = shared.life();
            if life.has_arrivals() {
                // They came since the last look, and were told of: the next one hands them on first.
                return;
            }
            (life.outcome(), life.response.clone())
        };
        let Some(mut outcome) = outcome else { return };
        socket.told = true;
        if outcome.is_ok()
            && let Some(response) = response.filter(|response| response.status >= 300)
        {
            let message = "".into();
            outcome = Err(WireError::Http { status: response.status, message });
        }
        #[cfg(feature = "websocket")]
        if self.messages_over(link, &outcome) {
            return;
        }
        match outcome {
            Ok(()) => {
                if let Some(link) = self.links.get_mut(link.0) {
                    link.receiving = false;
                }
                self.received(link, received(BytesMut::new(), true));
            }
            Err(error) => self.link_failed(link, error),
        }
    }

    pub(super) fn socket_timeout(&mut self, slot: usize) {
        let now = self.now;
        let Some(socket) = self.sockets.get_mut(slot) else { return };
        if socket.deadline.is_none_or(|at| at > now) {
            return;
        }
        socket.deadline = None;
        let expired = socket.shared.life().expire();
        if expired {
            let id = socket.shared.id();
            if is_quic(&socket.shared) {
                tracing::debug!(socket = id, "the peer did not acknowledge the end of its stream");
            } else {
                tracing::error!(socket = id, "a socket factory did not answer `close` by `closed`");
            }
        }
        self.look_at_socket(slot);
    }

    /// An open socket goes on as its framing and its wire want it.
    fn socket_opened(&mut self, key: LinkKey, shared: &Arc<SocketShared>) {
        let Some(link) = self.links.get(key.0) else { return };
        let wire = match &link.owner {
            Owner::Dial { core, address } => {
                let core = self.cores.get(*core);
                core.and_then(|core| core.dialed_wire(*address))
            }
            Owner::Accepting { listener, .. } => Some(listener.wire),
            _ => None,
        };
        let Some(wire) = wire else { return };
        #[cfg(feature = "quic")]
        if let Some(agreed) = crate::quic::agreed(&Arc::clone(shared).into())
            && let Some(link) = self.links.get_mut(key.0)
        {
            (link.state, link.local, link.peer) = (agreed.tls, agreed.local, Some(agreed.peer));
        }
        #[cfg(feature = "bats")]
        if let Some((flow, agreed)) = crate::bats::agreed(&Arc::clone(shared).into())
            && let Some(link) = self.links.get_mut(key.0)
        {
            (link.state, link.local, link.peer) = (agreed.tls, agreed.local, Some(agreed.peer));
            link.flow = Some((flow, agreed.max_message));
        }
        #[cfg(feature = "bats")]
        if wire.moves_messages() {
            return self.datagrams_opened(key, shared, wire);
        }
        let Some(link) = self.links.get(key.0) else { return };
        let framing = shared.framing();
        let framed = match framing {
            Framing::Bytes => false,
            Framing::None => wire.is_websocket(),
            Framing::WebSocketClient | Framing::WebSocketServer => true,
        };
        if !framed {
            return match &link.owner {
                Owner::Accepting { .. } => self.accept_opened(key),
                _ => self.connected(key, Ok(())),
            };
        }
        #[cfg(feature = "websocket")]
        if wire.is_websocket() {
            return self.framed_opened(key, shared);
        }
        let words = format!("its socket factory frames WebSocket, and the wire is `{wire}`");
        self.link_failed(key, WireError::Upgrade(words.into()));
    }

    /// The context is being dropped and nothing has words left: what still is there is asked to close.
    pub(super) fn close_sockets(&mut self) {
        let left: Vec<LinkKey> =
            self.sockets.iter().filter_map(|(_, socket)| socket.link).collect();
        for link in left {
            self.close_link(link);
        }
    }

    /// The end of this thread: nobody waits for a factory any more.
    pub(super) fn dispose_sockets(&mut self) {
        for socket in self.sockets.drain() {
            socket.shared.close(GOING_AWAY, "");
            socket.shared.life().expire();
            socket.shared.dispose();
        }
    }
}

/// Whether the factory is the one of `quic://`.
fn is_quic(shared: &Arc<SocketShared>) -> bool {
    #[cfg(feature = "quic")]
    return crate::quic::agreed(&Arc::clone(shared).into()).is_some();
    #[cfg(not(feature = "quic"))]
    {
        let _ = shared;
        false
    }
}

/// The status of a socket that nobody needs any more (RFC 6455 section 7.4.1).
const GOING_AWAY: u16 = 1001;

fn received(pooled: BytesMut, end: bool) -> Received {
    Received { direct: None, direct_len: 0, pooled, end, drained: true }
}

/// Small pieces of a stream that came one by one are handed on as one: what they lead to then leaves in one write, too.
fn gather(first: Arrival, arrivals: &mut VecDeque<Arrival>) -> Arrival {
    let Arrival::Data(data) = &first else { return first };
    let (mut total, mut count) = (data.len(), 0);
    for arrival in arrivals.iter() {
        match arrival {
            Arrival::Data(next) if total + next.len() <= GATHERED => total += next.len(),
            _ => break,
        }
        count += 1;
    }
    if count == 0 {
        return first;
    }
    let mut all = BytesMut::with_capacity(total);
    all.extend_from_slice(data);
    for arrival in arrivals.drain(..count) {
        if let Arrival::Data(next) = arrival {
            all.extend_from_slice(&next);
        }
    }
    Arrival::Data(all.freeze())
}

/// The most bytes that pieces are gathered to: what a system's socket brings at once.
const GATHERED: usize = 64 << 10;

/// Without a copy where nobody else holds the memory.
fn own(data: Bytes) -> BytesMut {
    data.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]))
}

fn open_options(config: &crate::Config, to: &Address, born: bool) -> OpenOptions {
    #[cfg_attr(
        not(feature = "websocket"),
        expect(unused_mut, reason = "only WebSocket has more to say")
    )]
    let mut options =
        OpenOptions { timeout: config.0.plain.connect_timeout, ..OpenOptions::default() };
    #[cfg(feature = "websocket")]
    if to.wire().is_websocket() {
        crate::websocket::fill_open_options(&config.0.websocket, born, &mut options);
    }
    let _ = (to, born);
    options
}

/// The factory of `quic://` for this configuration, made when there is none yet. Those that nobody uses any more go.
#[cfg(feature = "quic")]
fn quic_wire(
    wires: &mut Vec<Arc<crate::quic::QuicWire>>,
    threads: &Arc<[Arc<Thread>]>,
    config: &crate::Config,
) -> Arc<dyn crate::socket_factory::SocketFactory> {
    if let Some(wire) = wires.iter().find(|wire| wire.is_of(config)) {
        return Arc::clone(wire) as _;
    }
    wires.retain(|wire| Arc::strong_count(wire) > 1);
    let wire = Arc::new(crate::quic::QuicWire::new(Arc::clone(threads), config.clone()));
    wires.push(Arc::clone(&wire));
    wire
}

/// The same of `bats://` and `udp://`.
#[cfg(feature = "bats")]
fn bats_wire(
    wires: &mut Vec<Arc<crate::bats::BatsWire>>,
    threads: &Arc<[Arc<Thread>]>,
    config: &crate::Config,
    wire: crate::Wire,
) -> Arc<dyn crate::socket_factory::SocketFactory> {
    if let Some(known) = wires.iter().find(|known| known.is_for(config, wire)) {
        return Arc::clone(known) as _;
    }
    wires.retain(|wire| Arc::strong_count(wire) > 1);
    let made =
        crate::bats::BatsWire::new(Arc::clone(threads), config.clone(), wire.moves_messages());
    let made = Arc::new(made);
    wires.push(Arc::clone(&made));
    made
}
