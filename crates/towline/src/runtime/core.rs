//! A connection on its I/O thread: what the engine tells goes to the application, what the application accepted goes to
//! the engine. [`serve`] is the other side: what the engine writes goes to the present link.

mod serve;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use towline_proto::session::{CloseCode, FRAME_CHARGE, SessionId, WireError as SessionWireError};

use crate::connection::{Connection, Phase, Shared, inbox_options};
#[cfg(feature = "websocket")]
use crate::engine::Outgoing;
use crate::engine::{Engine, Output};
use crate::error::{Ended, RecvError, RequestError, WireError};
use crate::handler::{Connected, Event, Handler};
use crate::listener::ListenerShared;
use crate::message::Message;
use crate::reader::Arrived;
use crate::request::Claim;
use crate::tls::TlsState;
use crate::waiter::Wakers;

use super::alarms::Alarms;
use super::dial::Dialing;
use super::link::LinkKey;

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
        self.shared.traffic.messages_received.add(1);
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
        self.count_received(length);
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

    pub(super) fn count_received(&self, bytes: usize) {
        self.shared.traffic.bytes_received.add(bytes as u64);
    }

    pub(super) fn count_sent(&self, bytes: usize) {
        self.shared.traffic.bytes_sent.add(bytes as u64);
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
