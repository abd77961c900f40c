//! A connection on its I/O thread: what the engine tells goes to the application, what the application accepted goes to
//! the engine, and what the engine writes goes to the present link.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use towline_proto::session::{CloseCode, FRAME_CHARGE, SessionId, WireError as SessionWireError};

use crate::connection::{Connection, NO_SLOT, Phase, Shared, ask, inbox_options};
#[cfg(feature = "websocket")]
use crate::engine::Outgoing;
use crate::engine::{Engine, Output};
use crate::error::{ConnectError, Ended, RecvError, RequestError, WireError};
use crate::handler::{Closed, Connected, Event, Handler};
use crate::listener::ListenerShared;
use crate::message::Message;
use crate::reader::Arrived;
use crate::request::Claim;
use crate::tls::TlsState;
use crate::waiter::Wakers;

use super::alarms::Alarms;
use super::dial::Dialing;
use super::link::{LinkKey, Owner};
use super::{CoreKey, Runtime, Timed};

/// Bytes that may wait in one carrier's queue: enough to keep it busy, few enough that urgent messages, which
/// cannot overtake there, do not wait long.
pub(super) const IN_DRIVER: usize = 512 << 10;

/// The same for an encrypted wire.
const IN_DRIVER_SEALED: usize = 128 << 10;

/// Received messages up to this size are copied out of the receive buffer when they go to a queue, where they may stay.
const COMPACT: usize = 4 << 10;

/// The storage that compacted messages share.
const COMPACT_STORE: usize = 16 << 10;

/// After so many wires in a row on which an ftcp peer sent something else before any message, it is not dialed again. A
/// session has the same bound of its own.
const MAX_BROKEN: u8 = 8;

/// How often TCP is asked what it has acknowledged, for wires that have no acknowledgements of their own.
const TRANSPORT_POLL: Duration = Duration::from_millis(50);

/// The same at first, while somebody waits for it; doubled each time.
const TRANSPORT_HURRY: Duration = Duration::from_millis(1);

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
    alarms: Alarms,
    deadlines: Option<Instant>,
    /// When an ordered close without a session ends at the latest.
    closing: Option<Instant>,
    pub(super) closing_asked: bool,
    pub(super) last_error: Option<WireError>,
    pub(super) secured: Option<TlsState>,
    /// The handler panicked.
    panicked: bool,
    /// The peer has been asked to acknowledge, for those who wait for room.
    waited_for: bool,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    messages_received: u64,
    bytes_received: u64,
    bytes_sent: u64,
    wires_lost: u64,
    resets: u64,
    /// Wires in a row on which the format was broken.
    broken: u8,
    /// When TCP is asked next what it has acknowledged, and how long after that again.
    transport_due: Option<Instant>,
    transport_wait: Duration,
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
            alarms: Alarms::default(),
            deadlines: None,
            closing: None,
            closing_asked: false,
            last_error: None,
            secured: None,
            panicked: false,
            waited_for: false,
            counts: Counts::default(),
        }
    }

    /// Tells the handler and the subscribers.
    pub(super) fn tell(&mut self, event: Event) {
        let subscribers = self.shared.link().events.clone();
        for subscriber in subscribers {
            subscriber.push(event.clone());
        }
        self.handle(event);
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
    fn deliver(&mut self, mut message: Message, queued: &mut Vec<Arrived>, store: &mut BytesMut) {
        self.counts.messages_received += 1;
        self.counts.broken = 0;
        if self.secured.is_some() {
            message.tls.clone_from(&self.secured);
        }
        let readers = self.shared.open_readers.load(Ordering::Acquire) > 0;
        let lane = message.lane;
        let cost = message.data.len() as u64 + FRAME_CHARGE;
        let replied = match message.reply_to {
            Some(reply_to) if self.shared.has_requested.load(Ordering::Acquire) => {
                !matches!(self.claim(reply_to, &message, store), Claim::Unclaimed)
            }
            _ => false,
        };
        let handled = !replied && (self.handler.is_some() || self.panicked);
        match readers {
            true if handled => queued.push(Arrived { message: message.clone(), taken: true }),
            true => return queued.push(Arrived { message, taken: replied }),
            false if handled || replied => self.engine.consumed(lane, cost),
            false => return queued.push(Arrived { message, taken: false }),
        }
        if handled {
            self.handle(Event::Message(message));
        }
    }

    /// Takes back a buffer that the engine had lent, now so much longer.
    pub(super) fn take_direct(&mut self, now: Instant, buffer: BytesMut, length: usize) {
        self.counts.bytes_received += length as u64;
        self.engine.handle_direct(now, buffer);
    }

    /// Calls the handler. One that panics is called no more, and its connection ends as by `abort`; this thread and its
    /// other connections go on.
    #[inline]
    fn handle(&mut self, event: Event) {
        let Some(handler) = &mut self.handler else { return };
        let connection = &self.connection;
        if catch_unwind(AssertUnwindSafe(|| handler.event(connection, event))).is_err() {
            self.handler_panicked();
        }
    }

    #[cold]
    fn handler_panicked(&mut self) {
        tracing::error!(peer = ?self.shared.link().peer, "a handler panicked: its connection is aborted");
        self.panicked = true;
        let handler = self.handler.take();
        if catch_unwind(AssertUnwindSafe(|| drop(handler))).is_err() {
            tracing::error!("and it panicked again when it was dropped");
        }
        self.connection.abort();
    }

    fn claim(
        &mut self,
        reply_to: crate::MessageId,
        message: &Message,
        store: &mut BytesMut,
    ) -> Claim {
        let message = compact(message.clone(), store);
        let claim = self.shared.requests().claim(reply_to, &message);
        if let Claim::Taken(Some(waker)) = claim {
            waker.wake();
            return Claim::Taken(None);
        }
        claim
    }

    /// Hands what `deliver` queued to readers or inbox.
    fn queue(&mut self, messages: &mut Vec<Arrived>, store: &mut BytesMut) {
        if messages.is_empty() {
            return;
        }
        for arrived in messages.iter_mut() {
            arrived.message = compact(std::mem::take(&mut arrived.message), store);
        }
        let inbox = inbox_options(&self.shared.config);
        let wakers = self.shared.readers().deliver(&self.shared, messages, inbox);
        for wakers in wakers {
            wakers.wake();
        }
    }

    /// Nothing has happened for a while: spare memory goes back.
    fn rest(&mut self) {
        if self.engine.unacknowledged() == 0 {
            self.shared.out().outgoing.shrink();
            self.shared.requests().shrink();
            self.shared.readers().shrink();
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
        let mut room = None;
        if out.refused {
            if out.outgoing.is_low() {
                (out.refused, self.waited_for) = (false, false);
                writable = true;
                room = Some(out.room.take());
            } else if !std::mem::replace(&mut self.waited_for, true) {
                // Somebody waits for acknowledgements, however many octets the peer would rather wait for.
                self.engine.hurry_for_room();
            }
        }
        let flushed = (progressed && !out.flushed.is_empty()).then(|| out.flushed.take());
        let all =
            progressed && out.outgoing.is_empty() && acknowledged.reached(&out.outgoing.accepted());
        self.publish(&mut out.stats);
        drop(out);
        room.into_iter().chain(flushed).for_each(Wakers::wake);
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
        #[cfg(feature = "websocket")]
        if let Engine::Messages(engine) = &mut self.engine {
            let stirred = engine.take_stirred();
            let refused = {
                let mut out = self.shared.out();
                if let Outgoing::WebSocket(queue) = &mut out.outgoing {
                    engine.report(queue);
                }
                out.refused
            };
            return stirred | (refused && self.exchange(now));
        }
        #[cfg(feature = "websocket")]
        if let Engine::WebSocket(engine) = &mut self.engine {
            let stirred = engine.take_stirred();
            let refused = {
                let mut out = self.shared.out();
                if let Outgoing::WebSocket(queue) = &mut out.outgoing {
                    engine.report(queue);
                }
                out.refused
            };
            return stirred | (refused && self.exchange(now));
        }
        self.engine.is_ftcp() && self.shared.out().refused && self.exchange(now)
    }

    fn publish(&self, stats: &mut crate::ConnectionStats) {
        match &self.engine {
            Engine::Session(session) => {
                let session_stats = session.stats();
                stats.messages_sent = session_stats.messages_enqueued;
                stats.bytes_resent = session_stats.bytes_resent;
                stats.round_trip = session.rtt();
            }
            Engine::Ftcp { engine, .. } => {
                let done = engine.stats();
                let held = engine.unacknowledged().1 as u64;
                stats.messages_sent = done.messages_acknowledged + done.messages_cut + held;
                stats.bytes_resent = done.bytes_resent;
            }
            #[cfg(feature = "websocket")]
            Engine::WebSocket(engine) => stats.messages_sent = engine.sent(),
            #[cfg(feature = "websocket")]
            Engine::Messages(engine) => stats.messages_sent = engine.sent(),
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

/// Copies a small message out of the receive buffer into storage that the thread's connections share, so that the buffer
/// can be used again.
fn compact(mut message: Message, store: &mut BytesMut) -> Message {
    let size = message.data.len();
    if size > 0 && size <= COMPACT {
        if store.capacity() < size {
            *store = BytesMut::with_capacity(COMPACT_STORE);
        }
        store.extend_from_slice(&message.data);
        message.data = store.split().freeze();
    }
    message
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
        #[cfg(feature = "websocket")]
        if let Engine::WebSocket(_) = &core.engine {
            return self.websocket_input(key, data);
        }
        core.engine.handle_input(now, data.clone());
        self.drain(key);
        // The receive buffer goes back unless somebody keeps a slice of it.
        self.driver.recycle(data);
    }

    /// Looks after a connection to which something has happened: the one way from engine to application and back.
    pub(super) fn serve(&mut self, key: CoreKey) {
        self.serve_from(key, false);
    }

    /// [`Self::serve`], perhaps for an engine that has nothing to tell, because it was drained after the last that it was given.
    pub(super) fn serve_from(&mut self, key: CoreKey, mut drained: bool) {
        // What handlers ask for from inside is done below, without another turn.
        for _ in 0..4 {
            self.poll_transport(key, false);
            if !std::mem::take(&mut drained) {
                self.drain(key);
            }
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
        self.check_drained(key);
        self.read_on(key);
        self.rearm(key);
    }

    /// Takes everything that the engine has to tell.
    pub(super) fn drain(&mut self, key: CoreKey) {
        let mut queued = std::mem::take(&mut self.scratch.messages);
        let mut store = std::mem::take(&mut self.scratch.store);
        let mut turn = Turn::Go;
        let now = self.now;
        if let Some(core) = self.cores.get_mut(key) {
            core.shared.hold();
            while let Some(output) = core.engine.poll_output() {
                // The usual case by the short way.
                if let Output::Message(message) = output {
                    core.deliver(message, &mut queued, &mut store);
                    continue;
                }
                turn = core.output(now, output);
                if !matches!(turn, Turn::Go) {
                    break;
                }
            }
            core.queue(&mut queued, &mut store);
        }
        queued.clear();
        self.scratch.messages = queued;
        self.scratch.store = store;
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
        let Some(link_key) = self.cores.get(key).and_then(|core| core.link) else { return };
        #[cfg(feature = "websocket")]
        if self.cores.get(key).is_some_and(|core| matches!(core.engine, Engine::Messages(_))) {
            return self.transmit_messages(key, link_key);
        }
        let Some(link) = self.links.get(link_key.0) else { return };
        let queued = self.carrier_queued(link.carrier);
        let Some(core) = self.cores.get_mut(key) else { return };
        // Encrypted bytes are new memory: little at a time is used again while it is warm.
        let most = if link.state.is_some() { IN_DRIVER_SEALED } else { IN_DRIVER };
        if queued >= most || (!core.up && matches!(core.engine, Engine::Ftcp { .. })) {
            return;
        }
        let room = most - queued;
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
        if core.engine.is_ftcp() && core.shared.readers().is_over_limit() {
            return;
        }
        #[cfg(feature = "websocket")]
        match &core.engine {
            Engine::WebSocket(engine) if !engine.wants_read() => return,
            Engine::Messages(engine) if !engine.wants_read() => return,
            _ => {}
        }
        let Some(state) = self.links.get(link.0) else { return };
        if state.receiving {
            return;
        }
        let direct = match state.takes_direct() {
            true => core.engine.direct().map(|direct| (direct.buffer, direct.want)),
            false => None,
        };
        self.receive(link, direct);
    }

    fn rearm(&mut self, key: CoreKey) {
        let Some(core) = self.cores.get_mut(key) else { return };
        let dialing = match &core.origin {
            Origin::Dialed(dialing) => dialing.poll_timeout(),
            Origin::Accepted { .. } => None,
        };
        let transport = core.link.and(core.counts.transport_due);
        let next = [core.engine.poll_timeout(), core.deadlines, core.closing, dialing, transport];
        let Some(next) = next.into_iter().flatten().min() else { return };
        if core.alarms.set(next) {
            self.arm(next, Timed::Core(key));
        }
    }

    pub(super) fn core_timeout(&mut self, key: CoreKey, at: Instant) {
        let now = self.now;
        let Some(core) = self.cores.get_mut(key) else { return };
        if !core.alarms.fired(at) {
            return;
        }
        if core.engine.poll_timeout().is_some_and(|at| at <= now) {
            core.engine.handle_timeout(now);
            core.rest();
            // Its word goes first: the dialing below may give up at the same moment.
            self.drain(key);
        }
        let Some(core) = self.cores.get_mut(key) else { return };
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
            core.hurry_transport(now);
        }
        if asks & ask::ABORT != 0 {
            let unacknowledged = core.engine.abort();
            let ended = if core.panicked { Ended::Panicked } else { Ended::Closed };
            return self.end(key, ended, unacknowledged);
        }
        if asks & ask::CLOSE != 0 {
            let (code, reason) = core.shared.out().close.as_deref().cloned().unwrap_or_default();
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
                core.hurry_transport(now);
            }
            #[cfg(feature = "websocket")]
            Engine::WebSocket(engine) => {
                engine.close(code, reason);
                core.closing = Some(now + core.shared.config.0.plain.close_timeout);
            }
            #[cfg(feature = "websocket")]
            Engine::Messages(engine) => {
                engine.close(code, reason);
                core.closing = Some(now + core.shared.config.0.plain.close_timeout);
            }
        }
        self.drain(key);
        self.check_drained(key);
    }

    /// An ordered close on a wire without a session is over when the transport has everything.
    pub(super) fn check_drained(&mut self, key: CoreKey) {
        let Some(core) = self.cores.get_mut(key) else { return };
        if core.closing.is_some() && core.engine.is_ftcp() && core.engine.unacknowledged() == 0 {
            self.end(key, Ended::Closed, Vec::new());
        }
    }

    /// The link is gone: the engine keeps what it has, and somebody brings another one.
    pub(super) fn wire_lost(&mut self, key: CoreKey, link: LinkKey, error: WireError) {
        let now = self.now;
        #[cfg(feature = "websocket")]
        if self.websocket_lost(key, link, &error) {
            return;
        }
        // What arrived before the end counts, and so does what TCP has acknowledged until now.
        self.poll_transport(key, true);
        if let Some(core) = self.cores.get_mut(key) {
            core.counts.transport_due = None;
            core.link = None;
            core.engine.handle_lost(now);
        }
        self.close_link(link);
        self.down(key, error);
        self.serve(key);
    }

    /// The engine says that the wire is of no more use: its last words go out, then it closes.
    pub(super) fn wire_failed(&mut self, key: CoreKey, error: WireError) {
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
            #[cfg(feature = "websocket")]
            (Origin::Accepted { .. }, Engine::WebSocket(_) | Engine::Messages(_)) => true,
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
                listener.endpoint.forget(session, &core.shared);
            }
            listener.connections.fetch_sub(1, Ordering::AcqRel);
        }
        let unacknowledged = core.finish(self.now, &ended, unacknowledged);
        core.tell(Event::Closed(Closed { ended, unacknowledged }));
        core.release();
    }

    /// The context is being dropped: the connection drains like one that is closed.
    pub(super) fn stop_core(&mut self, key: CoreKey) {
        if let Some(core) = self.cores.get(key)
            && core.link.is_none()
            && core.born
        {
            // Nobody can come back to a listener that is closed, and nothing but words of farewell would be worth a dial.
            let waiting =
                core.engine.unacknowledged() > 0 || !core.shared.out().outgoing.is_empty();
            if !waiting || matches!(core.origin, Origin::Accepted { .. }) {
                return self.end_stopped(key);
            }
        }
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
    /// Whether the connection can go on over another wire without loss.
    pub(super) fn may_move(&self) -> bool {
        matches!(self.engine, Engine::Session(_)) && !self.closing_asked
    }

    /// The wire of one of the addresses that this connection dials.
    pub(super) fn dialed_wire(&self, address: usize) -> Option<crate::Wire> {
        match &self.origin {
            Origin::Dialed(dialing) => Some(dialing.addresses().get(address)?.wire()),
            Origin::Accepted { .. } => None,
        }
    }

    #[cfg(feature = "websocket")]
    pub(super) fn count_received(&mut self, bytes: usize) {
        self.counts.bytes_received += bytes as u64;
    }

    #[cfg(feature = "websocket")]
    pub(super) fn count_sent(&mut self, bytes: usize) {
        self.counts.bytes_sent += bytes as u64;
    }

    /// One thing that the engine tells, other than a message.
    fn output(&mut self, now: Instant, output: Output) -> Turn {
        match output {
            Output::Message(_) | Output::Acknowledged => {}
            Output::PeerClosing { code, reason } => self.peer_closing(code, reason),
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
                let error = WireError::Protocol(error.to_string().into());
                self.counts.broken += 1;
                if self.counts.broken < MAX_BROKEN || !matches!(self.origin, Origin::Dialed(_)) {
                    return Turn::WireFailed(error);
                }
                self.last_error = Some(error.clone());
                self.tell(Event::GaveUp(error.clone()));
                return Turn::End(Ended::Lost(error), self.engine.abort());
            }
            Output::Closed { code, reason, unacknowledged } => {
                let ended = match self.closing_asked {
                    true => Ended::Closed,
                    false => Ended::ByPeer { code: code.0, reason: reason.into() },
                };
                return Turn::End(ended, unacknowledged);
            }
            #[cfg(feature = "websocket")]
            Output::Lost { error, unacknowledged } => {
                let ended = match self.closing_asked {
                    true => Ended::Closed,
                    false => self.lose(error),
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

    /// The wire is lost for good.
    #[cfg(feature = "websocket")]
    fn lose(&mut self, error: WireError) -> Ended {
        if std::mem::replace(&mut self.up, false) {
            self.counts.wires_lost += 1;
            self.set_phase(Phase::Down);
            self.tell(Event::Disconnected(error.clone()));
        }
        Ended::Lost(error)
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

    /// The wire is usable: says so everywhere, and hands a new connection over. Whoever gets it by `connect` or `accept`
    /// gets it after the event has been told, so that what a later subscriber sees does not depend on chance.
    pub(super) fn establish(&mut self, connected: Connected) {
        self.up = true;
        let first = !std::mem::replace(&mut self.born, true);
        let offer = match &mut self.origin {
            Origin::Accepted { listener, offered, .. } => {
                (!std::mem::replace(offered, true)).then(|| Arc::clone(listener))
            }
            Origin::Dialed(_) => None,
        };
        if let Some(factory) = offer.as_ref().and_then(|listener| listener.factory.as_ref()) {
            match catch_unwind(AssertUnwindSafe(|| factory(&self.connection))) {
                Ok(handler) => self.handler = Some(handler),
                Err(_) => self.handler_panicked(),
            }
        }
        tracing::debug!(peer = ?connected.peer, first, resumed = connected.resumed, "connected");
        self.shared.link().phase = Phase::Connected;
        self.tell(Event::Connected(connected));
        let wakers = {
            let mut link = self.shared.link();
            link.handed_over = true;
            link.changed.take()
        };
        wakers.wake();
        if let Some(listener) = offer.filter(|listener| listener.factory.is_none()) {
            listener.offer(self.connection.clone());
        }
    }

    /// Somebody waits for TCP's acknowledgements.
    fn hurry_transport(&mut self, now: Instant) {
        if self.engine.is_ftcp() {
            self.counts.transport_wait = TRANSPORT_HURRY;
            self.counts.transport_due = Some(now + TRANSPORT_HURRY);
        }
    }

    /// The peer will take no more messages: whoever wants to send is told so now, not at the end.
    fn peer_closing(&mut self, code: CloseCode, reason: String) {
        let wakers = {
            let mut out = self.shared.out();
            out.peer_closing =
                Some(Box::new(Ended::ByPeer { code: code.0, reason: reason.into() }));
            out.room.take()
        };
        wakers.wake();
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
        let failed = self.shared.requests().fail(&RequestError::Reset, false);
        failed.into_iter().for_each(std::task::Waker::wake);
        self.tell(Event::Reset(unacknowledged));
    }

    /// Tells everybody who waits that it is over, and takes back what never reached the engine.
    pub(super) fn finish(
        &mut self,
        now: Instant,
        ended: &Ended,
        mut unacknowledged: Vec<Message>,
    ) -> Vec<Message> {
        // First, so that whoever is told of the end by any call finds it here.
        self.shared.link().phase = Phase::Ended(ended.clone());
        let wakers = {
            let mut out = self.shared.out();
            unacknowledged.append(&mut self.engine.take_back(now, &mut out.outgoing));
            out.ended = Some(Box::new((ended.clone(), unacknowledged.len() as u64)));
            self.publish(&mut out.stats);
            out.room.take()
        };
        wakers.wake();
        let failed = RequestError::Ended(ended.clone());
        let failed = self.shared.requests().fail(&failed, true);
        failed.into_iter().for_each(std::task::Waker::wake);
        let readers = self.shared.readers().end(&RecvError::Ended(ended.clone()));
        readers.into_iter().for_each(Wakers::wake);
        let connecting = self.shared.link().changed.take();
        connecting.wake();
        unacknowledged
    }

    /// Lets those go who wait for the end, which has been told.
    pub(super) fn release(&self) {
        let wakers = {
            let mut out = self.shared.out();
            out.told = true;
            out.flushed.take()
        };
        wakers.wake();
    }
}

impl Runtime {
    /// Tells an engine without acknowledgements of its own what TCP has acknowledged, when that is due. `last`: once more
    /// for a wire that is lost.
    fn poll_transport(&mut self, key: CoreKey, last: bool) {
        let now = self.now;
        let Some(core) = self.cores.get_mut(key) else { return };
        let Engine::Ftcp { engine, .. } = &mut core.engine else { return };
        if engine.unacknowledged().1 == 0 {
            core.counts.transport_due = None;
            core.counts.transport_wait = TRANSPORT_POLL;
            return;
        }
        let wait = core.counts.transport_wait;
        let due = *core.counts.transport_due.get_or_insert(now + wait) <= now;
        let Some(link_key) = core.link else { return };
        if !due && !last {
            return;
        }
        core.counts.transport_wait = (wait * 2).min(TRANSPORT_POLL);
        core.counts.transport_due = Some(now + core.counts.transport_wait);
        let Some(carrier) = self.links.get(link_key.0).map(|link| link.carrier) else { return };
        let Some(total) = self.carrier_acknowledged(carrier) else { return };
        let Some(link) = self.links.get_mut(link_key.0) else { return };
        let total = link.plaintext_acked(total);
        if let Some(core) = self.cores.get_mut(key)
            && let Engine::Ftcp { engine, .. } = &mut core.engine
        {
            engine.handle_transport_acked(now, total);
        }
    }

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
            #[cfg(feature = "websocket")]
            {
                shared.websocket = link.upgraded.take();
            }
        }
        if let Some(old) = core.link.replace(link_key) {
            self.linger(old);
        }
    }
}
