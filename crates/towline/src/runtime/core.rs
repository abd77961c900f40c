//! A connection on its I/O thread: what the engine tells goes to the application, what the application accepted goes to
//! the engine, and what the engine writes goes to the present link.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use towline_proto::session::{CloseCode, FRAME_CHARGE, SessionId, WireError as SessionWireError};

use crate::connection::{Connection, NO_SLOT, Phase, Shared, ask, inbox_options};
use crate::engine::{Engine, Output};
use crate::error::{ConnectError, Ended, RecvError, RequestError, WireError};
use crate::handler::{Closed, Connected, Event, Handler};
use crate::listener::ListenerShared;
use crate::message::Message;
use crate::request::Claim;
use crate::tls::TlsState;

use super::dial::Dialing;
use super::link::{LinkKey, Owner};
use super::{CoreKey, Runtime, Timed};

/// Bytes that may wait in the driver for one socket: enough to keep it busy, few enough that urgent messages, which
/// cannot overtake there, do not wait long.
const IN_DRIVER: usize = 512 << 10;

/// Received messages up to this size are copied out of the receive buffer when they go to a queue, where they may stay.
const COMPACT: usize = 4 << 10;

/// The storage that compacted messages share.
const COMPACT_STORE: usize = 16 << 10;

/// How often TCP is asked what it has acknowledged, for wires that have no acknowledgements of their own.
const TRANSPORT_POLL: std::time::Duration = std::time::Duration::from_millis(50);

/// How a connection came to be, and so who brings it back.
pub(super) enum Origin {
    /// This side dialed.
    Dialed(Box<Dialing>),
    /// The peer dialed.
    Accepted { listener: Arc<ListenerShared>, session: Option<SessionId>, offered: bool },
}

/// A connection.
pub(super) struct Core {
    pub(super) shared: Arc<Shared>,
    pub(super) connection: Connection,
    pub(super) handler: Option<Box<dyn Handler>>,
    pub(super) engine: Engine,
    pub(super) origin: Origin,
    pub(super) link: Option<LinkKey>,
    /// The connection has been established at least once.
    pub(super) born: bool,
    /// The wire is usable: the session's handshakes are done.
    pub(super) up: bool,
    armed: Option<Instant>,
    deadlines: Option<Instant>,
    /// When an ordered close without a session ends at the latest.
    closing: Option<Instant>,
    closing_asked: bool,
    pub(super) last_error: Option<WireError>,
    pub(super) secured: Option<TlsState>,
    store: BytesMut,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    messages_received: u64,
    bytes_received: u64,
    bytes_sent: u64,
    wires_lost: u64,
    resets: u64,
    transport_polled: Option<Instant>,
}

impl Core {
    pub(super) fn new(
        shared: Arc<Shared>,
        handler: Option<Box<dyn Handler>>,
        engine: Engine,
        origin: Origin,
    ) -> Core {
        Core {
            connection: Connection { shared: Arc::clone(&shared) },
            shared,
            handler,
            engine,
            origin,
            link: None,
            born: false,
            up: false,
            armed: None,
            deadlines: None,
            closing: None,
            closing_asked: false,
            last_error: None,
            secured: None,
            store: BytesMut::new(),
            counts: Counts::default(),
        }
    }

    /// Tells the handler and the subscribers.
    pub(super) fn tell(&mut self, event: Event) {
        let subscribers = self.shared.link().events.clone();
        for subscriber in subscribers {
            subscriber.push(event.clone());
        }
        if let Some(handler) = &mut self.handler {
            handler.event(&self.connection, event);
        }
    }

    pub(super) fn set_phase(&self, phase: Phase) {
        let wakers = {
            let mut link = self.shared.link();
            link.phase = phase;
            link.changed.take()
        };
        wakers.wake();
    }

    /// A message goes to the request that waits for it, to the handler, or to `queued` for readers and inbox.
    #[inline]
    fn deliver(&mut self, mut message: Message, queued: &mut Vec<Message>, readers: bool) {
        self.counts.messages_received += 1;
        if self.secured.is_some() {
            message.tls.clone_from(&self.secured);
        }
        let lane = message.lane;
        let cost = message.data.len() as u64 + FRAME_CHARGE;
        if let Some(reply_to) = message.reply_to
            && !matches!(self.claim(reply_to, &message), Claim::Unclaimed)
        {
            match readers {
                true => queued.push(message),
                false => self.engine.consumed(lane, cost),
            }
            return;
        }
        let Some(handler) = &mut self.handler else { return queued.push(message) };
        match readers {
            true => queued.push(message.clone()),
            false => self.engine.consumed(lane, cost),
        }
        handler.event(&self.connection, Event::Message(message));
    }

    fn claim(&mut self, reply_to: crate::MessageId, message: &Message) -> Claim {
        let message = self.compact(message.clone());
        let claim = self.shared.requests().claim(reply_to, &message);
        if let Claim::Taken(Some(waker)) = claim {
            waker.wake();
            return Claim::Taken(None);
        }
        claim
    }

    /// Copies a small message out of the receive buffer, so that the buffer can be used again.
    fn compact(&mut self, mut message: Message) -> Message {
        let size = message.data.len();
        if size > 0 && size <= COMPACT {
            if self.store.capacity() < size {
                self.store = BytesMut::with_capacity(COMPACT_STORE.max(size));
            }
            self.store.extend_from_slice(&message.data);
            message.data = self.store.split().freeze();
        }
        message
    }

    /// Hands what `deliver` queued to readers or inbox.
    fn queue(&mut self, messages: &mut Vec<Message>) {
        if messages.is_empty() {
            return;
        }
        for message in messages.iter_mut() {
            *message = self.compact(std::mem::take(message));
        }
        let handled = self.handler.is_some();
        let inbox = inbox_options(&self.shared.config);
        let wakers = self.shared.readers().deliver(&self.shared, messages, handled, inbox);
        for wakers in wakers {
            wakers.wake();
        }
        if self.store.is_empty() && self.store.capacity() < COMPACT {
            self.store = BytesMut::new();
        }
    }

    /// Moves accepted messages into the engine, and wakes those who wait for room or for acknowledgements.
    fn exchange(&mut self, now: Instant) -> bool {
        for (lane, cost) in self.shared.consumption.take() {
            self.engine.consumed(lane, cost);
        }
        let mut out = self.shared.out();
        self.engine.enqueue(now, &mut out.outgoing);
        let acknowledged = self.engine.acknowledged();
        let progressed = acknowledged != out.acknowledged;
        out.acknowledged = acknowledged;
        let mut writable = false;
        let mut room = crate::waiter::Wakers::default();
        if out.refused && out.outgoing.has_room() {
            out.refused = false;
            writable = true;
            room = out.room.take();
        }
        let flushed = match progressed && !out.flushed.is_empty() {
            true => out.flushed.take(),
            false => crate::waiter::Wakers::default(),
        };
        let all =
            progressed && out.outgoing.is_empty() && acknowledged.reached(&out.outgoing.accepted());
        self.publish(&mut out.stats);
        drop(out);
        room.wake();
        flushed.wake();
        if all {
            self.tell(Event::Flushed);
        }
        if writable {
            self.tell(Event::Writable);
        }
        all || writable
    }

    /// After writing: `true` when that made room for somebody who was told about it.
    fn note_transmitted(&mut self, now: Instant) -> bool {
        self.engine.is_ftcp() && self.shared.out().refused && self.exchange(now)
    }

    fn publish(&self, stats: &mut crate::ConnectionStats) {
        if let Engine::Session(session) = &self.engine {
            let session_stats = session.stats();
            stats.messages_sent = session_stats.messages_enqueued;
            stats.bytes_resent = session_stats.bytes_resent;
            stats.round_trip = session.rtt();
        }
        stats.messages_received = self.counts.messages_received;
        stats.bytes_sent = self.counts.bytes_sent;
        stats.bytes_received = self.counts.bytes_received;
        stats.unacknowledged = self.engine.unacknowledged();
        stats.wires_lost = self.counts.wires_lost;
        stats.resets = self.counts.resets;
        if let Origin::Dialed(dialing) = &self.origin {
            stats.dials = dialing.dials;
        }
    }
}

/// What a turn with one output of the engine leads to.
enum Turn {
    Go,
    WireFailed(WireError),
    Rejected(u64, Arc<str>),
    End(Ended, Vec<Message>),
}

impl Runtime {
    pub(super) fn engine_input(&mut self, key: CoreKey, data: Bytes) {
        let now = self.now;
        let Some(core) = self.cores.get_mut(key) else { return };
        core.counts.bytes_received += data.len() as u64;
        core.engine.handle_input(now, data.clone());
        self.drain(key);
        // The receive buffer goes back unless somebody keeps a slice of it.
        self.driver.recycle(data);
    }

    /// Looks after a connection to which something has happened: the one way from engine to application and back.
    pub(super) fn serve(&mut self, key: CoreKey) {
        // What handlers ask for from inside is done below, without another turn.
        for _ in 0..4 {
            self.drain(key);
            let now = self.now;
            let Some(core) = self.cores.get_mut(key) else { return };
            let asks = core.shared.take_asks();
            let told = core.exchange(now);
            if asks != 0 {
                self.asked(key, asks);
            }
            self.transmit(key);
            // What the transport took is no longer in the queue of a wire that has no acknowledgements of its own.
            let told =
                told || self.cores.get_mut(key).is_some_and(|core| core.note_transmitted(now));
            if !told {
                break;
            }
        }
        self.read_on(key);
        self.rearm(key);
    }

    /// Takes everything that the engine has to tell.
    fn drain(&mut self, key: CoreKey) {
        let mut queued = std::mem::take(&mut self.scratch.messages);
        let mut turn = Turn::Go;
        let now = self.now;
        if let Some(core) = self.cores.get_mut(key) {
            core.shared.hold();
            let readers = core.shared.readers().any_open();
            while let Some(output) = core.engine.poll_output() {
                // The usual case by the short way.
                if let Output::Message(message) = output {
                    core.deliver(message, &mut queued, readers);
                    continue;
                }
                turn = core.output(now, output);
                if !matches!(turn, Turn::Go) {
                    break;
                }
            }
            core.queue(&mut queued);
        }
        queued.clear();
        self.scratch.messages = queued;
        match turn {
            Turn::Go => {}
            Turn::WireFailed(error) => {
                self.wire_failed(key, error);
                self.drain(key);
            }
            Turn::Rejected(code, reason) => self.rejected(key, code, reason),
            Turn::End(ended, unacknowledged) => self.end(key, ended, unacknowledged),
        }
    }

    fn transmit(&mut self, key: CoreKey) {
        let now = self.now;
        let Some(core) = self.cores.get_mut(key) else { return };
        let Some(link_key) = core.link else { return };
        let Some(link) = self.links.get(link_key.0) else { return };
        let queued = self.driver.queued(link.socket);
        if queued >= IN_DRIVER || (!core.up && matches!(core.engine, Engine::Ftcp { .. })) {
            return;
        }
        let room = IN_DRIVER - queued;
        let sent = core.engine.poll_transmit(now, room, &mut self.scratch.plaintext);
        core.counts.bytes_sent += sent as u64;
        if sent == 0 {
            return;
        }
        // With more to come, the completion is the time for it; without, nobody needs to be told.
        let report = core.engine.wants_transmit() && !link.sending;
        if let Err(error) = self.write(link_key, report) {
            self.link_failed(link_key, error);
        }
    }

    fn read_on(&mut self, key: CoreKey) {
        let Some(core) = self.cores.get_mut(key) else { return };
        let Some(link) = core.link else { return };
        if matches!(core.engine, Engine::Ftcp { .. }) {
            if core.shared.readers().is_over_limit() {
                return;
            }
        }
        let Some(state) = self.links.get(link.0) else { return };
        if state.receiving {
            return;
        }
        #[cfg(feature = "tls")]
        let plain = state.tls.is_none();
        #[cfg(not(feature = "tls"))]
        let plain = true;
        let direct = match plain {
            true => core.engine.direct().map(|direct| (direct.buffer, direct.want)),
            false => None,
        };
        self.receive(link, direct);
    }

    fn rearm(&mut self, key: CoreKey) {
        let now = self.now;
        let Some(core) = self.cores.get_mut(key) else { return };
        core.poll_transport(now, &self.driver, &mut self.links);
        let dialing = match &core.origin {
            Origin::Dialed(dialing) => dialing.poll_timeout(),
            Origin::Accepted { .. } => None,
        };
        let transport = core.counts.transport_polled.map(|at| at + TRANSPORT_POLL);
        let next = [core.engine.poll_timeout(), core.deadlines, core.closing, dialing, transport];
        let Some(next) = next.into_iter().flatten().min() else { return };
        // A timer that is armed for earlier looks again when it fires.
        if core.armed.is_none_or(|armed| next < armed) {
            core.armed = Some(next);
            self.arm(next, Timed::Core(key));
        }
    }

    pub(super) fn core_timeout(&mut self, key: CoreKey, at: Instant) {
        let now = self.now;
        let Some(core) = self.cores.get_mut(key) else { return };
        if core.armed != Some(at) {
            return;
        }
        core.armed = None;
        if core.engine.poll_timeout().is_some_and(|at| at <= now) {
            core.engine.handle_timeout(now);
        }
        if core.deadlines.is_some_and(|at| at <= now) {
            core.deadlines = core.shared.expire_deadlines(now);
        }
        if core.closing.is_some_and(|at| at <= now) {
            let unacknowledged = core.engine.abort();
            return self.end(key, Ended::Closed, unacknowledged);
        }
        self.poll_dialing(key);
        self.serve(key);
    }

    /// Does what application threads asked for.
    fn asked(&mut self, key: CoreKey, asks: u8) {
        let now = self.now;
        let Some(core) = self.cores.get_mut(key) else { return };
        if asks & ask::DEADLINES != 0 {
            core.deadlines = core.shared.expire_deadlines(now);
        }
        if asks & ask::HURRY != 0 {
            core.engine.hurry();
        }
        if asks & ask::ABORT != 0 {
            let unacknowledged = core.engine.abort();
            return self.end(key, Ended::Closed, unacknowledged);
        }
        if asks & ask::CLOSE != 0 {
            let (code, reason) = core.shared.out().close.clone().unwrap_or_default();
            self.begin_close(key, code, &reason);
        }
    }

    fn begin_close(&mut self, key: CoreKey, code: u64, reason: &str) {
        let now = self.now;
        let Some(core) = self.cores.get_mut(key) else { return };
        if std::mem::replace(&mut core.closing_asked, true) {
            return;
        }
        if !core.born && matches!(core.origin, Origin::Dialed(_)) {
            let unacknowledged = core.engine.abort();
            return self.end(key, Ended::Closed, unacknowledged);
        }
        match &mut core.engine {
            Engine::Session(session) => session.close(now, CloseCode(code), reason),
            Engine::Ftcp { .. } => {
                core.closing = Some(now + core.shared.config.0.plain.close_timeout);
            }
        }
        self.drain(key);
        self.check_drained(key);
    }

    /// An ordered close on a wire without a session is over when the transport has everything.
    pub(super) fn check_drained(&mut self, key: CoreKey) {
        let Some(core) = self.cores.get_mut(key) else { return };
        if core.closing.is_some() && core.engine.unacknowledged() == 0 {
            self.end(key, Ended::Closed, Vec::new());
        }
    }

    /// The link is gone: the engine keeps what it has, and somebody brings another one.
    pub(super) fn wire_lost(&mut self, key: CoreKey, link: LinkKey, error: WireError) {
        let now = self.now;
        if let Some(core) = self.cores.get_mut(key) {
            // What arrived before the end counts, and so does what TCP has acknowledged until now.
            core.counts.transport_polled = None;
            core.poll_transport(now, &self.driver, &mut self.links);
            core.link = None;
            core.engine.handle_lost(now);
        }
        self.close_link(link);
        self.down(key, error);
        self.serve(key);
    }

    /// The engine says that the wire is of no more use: its last words go out, then it closes.
    fn wire_failed(&mut self, key: CoreKey, error: WireError) {
        self.transmit(key);
        let Some(core) = self.cores.get_mut(key) else { return };
        if let Some(link) = core.link.take() {
            self.linger(link);
        }
        self.down(key, error);
    }

    fn down(&mut self, key: CoreKey, error: WireError) {
        let Some(core) = self.cores.get_mut(key) else { return };
        core.last_error = Some(error.clone());
        let was_up = std::mem::replace(&mut core.up, false);
        if was_up {
            core.counts.wires_lost += 1;
            core.set_phase(Phase::Down);
            core.tell(Event::Disconnected(error.clone()));
        }
        let redials = core.shared.config.0.plain.redial;
        let over = match (&core.origin, &core.engine) {
            (Origin::Dialed(_), _) => core.born && !redials,
            (Origin::Accepted { .. }, Engine::Session(_)) => false,
            (Origin::Accepted { .. }, Engine::Ftcp { .. }) => true,
        };
        if over {
            let unacknowledged = core.engine.abort();
            return self.end(key, Ended::Lost(error), unacknowledged);
        }
        if matches!(core.origin, Origin::Dialed(_)) {
            self.redial(key, was_up, error);
        }
    }

    /// The peer answered, and does not want this connection.
    fn rejected(&mut self, key: CoreKey, code: u64, reason: Arc<str>) {
        let Some(core) = self.cores.get_mut(key) else { return };
        let unacknowledged = core.engine.abort();
        let ended = match (&core.origin, core.born) {
            (Origin::Dialed(dialing), false) => {
                let address = dialing.last_address().into();
                Ended::NeverConnected(Box::new(ConnectError::Rejected { address, code, reason }))
            }
            _ => Ended::ByPeer { code, reason },
        };
        self.end(key, ended, unacknowledged);
    }

    /// The end of a connection: everybody who waits is told, and its place is free.
    pub(super) fn end(&mut self, key: CoreKey, ended: Ended, unacknowledged: Vec<Message>) {
        if !self.cores.contains(key) {
            return;
        }
        // Last words, such as why.
        self.transmit(key);
        let Some(mut core) = self.cores.try_remove(key) else { return };
        core.shared.slot.store(NO_SLOT, Ordering::Release);
        self.thread.load.fetch_sub(1, Ordering::Relaxed);
        if let Some(link) = core.link.take() {
            self.linger(link);
        }
        self.abandon_dials(key, &mut core);
        if let Origin::Accepted { listener, session, .. } = &core.origin {
            if let Some(session) = session {
                listener.endpoint.sessions().remove(session);
            }
            listener.connections.fetch_sub(1, Ordering::AcqRel);
        }
        let unacknowledged = core.finish(self.now, &ended, unacknowledged);
        core.tell(Event::Closed(Closed { ended, unacknowledged }));
    }

    /// The context is being dropped: the connection drains like one that is closed.
    pub(super) fn stop_core(&mut self, key: CoreKey) {
        self.begin_close(key, CloseCode::GOING_AWAY.0, "the program is stopping");
        self.serve(key);
    }

    /// The time for draining is over.
    pub(super) fn end_stopped(&mut self, key: CoreKey) {
        if let Some(core) = self.cores.get_mut(key) {
            let unacknowledged = core.engine.abort();
            self.end(key, Ended::Stopped, unacknowledged);
        }
    }
}

impl Core {
    /// One thing that the engine tells, other than a message.
    fn output(&mut self, now: Instant, output: Output) -> Turn {
        match output {
            Output::Message(_) | Output::Acknowledged | Output::PeerClosing => {}
            Output::Established { resumed } => {
                let connected = self.describe(resumed);
                if let Origin::Dialed(dialing) = &mut self.origin {
                    dialing.established(now);
                }
                self.establish(connected);
            }
            Output::Reset(unacknowledged) => self.reset(unacknowledged),
            Output::TooLargeForPeer(messages) => self.tell(Event::TooLarge(messages)),
            Output::WireFailed(SessionWireError::Refused { code, reason })
                if !code.is_transient() || !self.born =>
            {
                return Turn::Rejected(code.0, reason.into());
            }
            Output::WireFailed(error) => return Turn::WireFailed(self.wire_error(error)),
            Output::FormatBroken(error) => {
                return Turn::WireFailed(WireError::Protocol(error.to_string().into()));
            }
            Output::Closed { code, reason, unacknowledged } => {
                let ended = match self.closing_asked {
                    true => Ended::Closed,
                    false => Ended::ByPeer { code: code.0, reason: reason.into() },
                };
                return Turn::End(ended, unacknowledged);
            }
            Output::GaveUp { error, unacknowledged } => {
                if let Some(SessionWireError::Refused { code, reason }) = error {
                    let reason: Arc<str> = reason.into();
                    return Turn::End(Ended::ByPeer { code: code.0, reason }, unacknowledged);
                }
                let error = self.last_error.clone().unwrap_or(WireError::End);
                self.tell(Event::GaveUp(error.clone()));
                return Turn::End(Ended::Lost(error), unacknowledged);
            }
        }
        Turn::Go
    }

    fn wire_error(&self, error: SessionWireError) -> WireError {
        let options = &self.shared.config.0.plain;
        match error {
            SessionWireError::PeerSilent => WireError::Silent(options.silence_limit),
            SessionWireError::HandshakeTimeout => WireError::TimedOut(options.connect_timeout),
            error => WireError::Protocol(error.to_string().into()),
        }
    }

    pub(super) fn describe(&self, resumed: bool) -> Connected {
        let link = self.shared.link();
        let address = match &self.origin {
            Origin::Dialed(dialing) => dialing.present_address().cloned(),
            Origin::Accepted { .. } => None,
        };
        Connected { address, local: link.local, peer: link.peer, resumed, tls: link.tls.clone() }
    }

    /// The wire is usable: says so everywhere, and offers a new accepted connection.
    pub(super) fn establish(&mut self, connected: Connected) {
        self.up = true;
        let first = !std::mem::replace(&mut self.born, true);
        if let Origin::Accepted { listener, offered, .. } = &mut self.origin
            && !std::mem::replace(offered, true)
        {
            match &listener.factory {
                Some(factory) => self.handler = Some(factory(&self.connection)),
                None => listener.offer(self.connection.clone()),
            }
        }
        tracing::debug!(peer = ?connected.peer, first, resumed = connected.resumed, "connected");
        self.set_phase(Phase::Connected);
        self.tell(Event::Connected(connected));
    }

    /// The peer forgot the session.
    fn reset(&mut self, unacknowledged: Vec<Message>) {
        self.counts.resets += 1;
        let wakers = {
            let mut out = self.shared.out();
            out.resets += 1;
            out.returned = unacknowledged.len() as u64;
            out.flushed.take()
        };
        wakers.wake();
        for waker in self.shared.requests().fail(&RequestError::Reset, false) {
            waker.wake();
        }
        self.tell(Event::Reset(unacknowledged));
    }

    /// Tells everybody who waits that it is over, and takes back what never reached the engine.
    fn finish(
        &mut self,
        now: Instant,
        ended: &Ended,
        mut unacknowledged: Vec<Message>,
    ) -> Vec<Message> {
        let wakers = {
            let mut out = self.shared.out();
            unacknowledged.append(&mut self.engine.take_back(now, &mut out.outgoing));
            out.ended = Some((ended.clone(), unacknowledged.len() as u64));
            self.publish(&mut out.stats);
            (out.room.take(), out.flushed.take())
        };
        wakers.0.wake();
        wakers.1.wake();
        let failed = RequestError::Ended(ended.clone());
        for waker in self.shared.requests().fail(&failed, true) {
            waker.wake();
        }
        self.shared.readers().end(&RecvError::Ended(ended.clone()));
        self.set_phase(Phase::Ended(ended.clone()));
        unacknowledged
    }

    /// Tells an engine without acknowledgements of its own what TCP has acknowledged.
    fn poll_transport(
        &mut self,
        now: Instant,
        driver: &towline_io::Driver,
        links: &mut slab::Slab<super::link::Link>,
    ) {
        let Engine::Ftcp { engine, .. } = &mut self.engine else { return };
        if engine.unacknowledged().1 == 0 {
            self.counts.transport_polled = None;
            return;
        }
        let due = self.counts.transport_polled.is_none_or(|at| now >= at + TRANSPORT_POLL);
        let Some(link) = self.link.and_then(|link| links.get_mut(link.0)).filter(|_| due) else {
            return;
        };
        self.counts.transport_polled = Some(now);
        let Some(socket) = driver.socket(link.socket) else { return };
        if let Some(total) = towline_io::tcp_acknowledged(&socket) {
            engine.handle_transport_acked(now, link.plaintext_acked(total));
        }
    }
}

impl Runtime {
    /// A link that carries this connection from now on.
    pub(super) fn attach(&mut self, key: CoreKey, link_key: LinkKey) {
        let Some(core) = self.cores.get_mut(key) else { return };
        let Some(link) = self.links.get_mut(link_key.0) else { return };
        link.owner = Owner::Core(key);
        link.deadline = None;
        core.secured.clone_from(&link.state);
        {
            let mut shared = core.shared.link();
            shared.local = link.local;
            shared.peer = link.peer;
            shared.tls.clone_from(&link.state);
        }
        if let Some(old) = core.link.replace(link_key) {
            self.linger(old);
        }
    }
}
