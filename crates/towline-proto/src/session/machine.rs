//! The session: its state and its doors.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::closing::Closing;
use super::config::Config;
use super::error::{CloseCode, Refusal, WireError};
use super::event::{Event, WireLoss};
use super::frame::{MAX_FRAGMENT, VERSION, Violation};
use super::handshake::Hello;
use super::log::{Freed, Log, Place};
use super::message::{LANES, Lane, SessionId};
use super::outgoing::{Outgoing, Progress};
use super::receive::{Item, Lanes, Reader};

/// S7.2: after so many violations in a row without any progress the session is given up.
const MAX_FAILURES: u8 = 8;

/// Where to read the rest of a large payload to.
#[derive(Debug)]
pub struct Direct {
    /// Append here, into spare capacity that is already there; nothing else may be done to it.
    pub buffer: BytesMut,
    /// At most so many octets; what arrives beyond goes to `handle_input` as usual, after `handle_direct`.
    pub want: usize,
}

/// Where a session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// No wire.
    Down,
    /// Client: a wire, and no WELCOME yet.
    Greeting,
    /// Both ends have agreed.
    Up,
    /// Over.
    Ended,
}

/// A PING that is not answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ping {
    pub(super) token: u64,
    pub(super) at: Instant,
    /// Still to be handed out.
    pub(super) due: bool,
}

/// One end of a session: everything between messages and the octets of whichever wire there is.
///
/// Not synchronized: it belongs to one thread at a time. It never blocks, and takes memory for what is
/// unacknowledged ([`Limits`](super::Limits)) and for one unfinished message per lane
/// ([`Config::max_message`]); messages handed out are bounded by [`Config::window`].
#[derive(Debug)]
pub struct Session {
    pub(super) config: Arc<Config>,
    id: SessionId,
    pub(super) client: bool,
    pub(super) phase: Phase,
    pub(super) attempt: u64,
    /// S3.6: the attempt that created the server's side; 0 before the first WELCOME.
    pub(super) epoch: u64,
    failures: u8,
    pub(super) now: Instant,

    pub(super) logs: [Option<Box<Log>>; LANES],
    /// Bits of lanes that have something unsent, whether the window allows it or not.
    pub(super) unsent: u8,
    pub(super) peer_limits: [u64; LANES],
    pub(super) peer_max_message: u64,
    /// Runs of more urgent lanes that each lane has waited for (S6.1).
    pub(super) waited: [u8; LANES],

    pub(super) incoming: Lanes,
    pub(super) reader: Reader,
    pub(super) events: VecDeque<Event>,
    pub(super) freed: Freed,

    pub(super) control: BytesMut,
    /// What the wire or the session ends with.
    pub(super) last_words: Bytes,
    pub(super) greeting_due: bool,
    /// Bits of lanes: to acknowledge with the next DATA or at `ack_at`, and to acknowledge now.
    pub(super) ack_pending: u8,
    pub(super) ack_now: u8,
    pub(super) ack_wanted: bool,
    pub(super) pong: Option<u64>,
    pub(super) ping: Option<Ping>,
    pings: u64,
    rtt: Option<Duration>,

    pub(super) heard: Instant,
    pub(super) ack_at: Option<Instant>,
    /// When acknowledgements went out last.
    pub(super) acked_at: Instant,
    pub(super) greeting_until: Option<Instant>,
    give_up_at: Option<Instant>,
    pub(super) closing: Option<Box<Closing>>,
    pub(super) stats: Stats,
}

/// Counts of a session since it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Messages enqueued.
    pub messages_enqueued: u64,
    /// Messages received whole.
    pub messages_received: u64,
    /// Octets handed out by `poll_transmit`.
    pub bytes_sent: u64,
    /// Octets taken from wires.
    pub bytes_received: u64,
    /// What had to be handed out again after resumes, in positions (octets, and 32 for each frame).
    pub bytes_resent: u64,
    /// Resumes.
    pub resumes: u64,
    /// Times the peer had forgotten the session.
    pub resets: u64,
    /// Wires that were lost or failed.
    pub wires_lost: u64,
    /// Control frames of unknown type, skipped.
    pub unknown_frames: u64,
    /// Octets that arrived when there was no wire for them, dropped.
    pub bytes_ignored: u64,
}

impl Session {
    fn new(config: Arc<Config>, id: SessionId, now: Instant) -> Session {
        let window = config.redial_window;
        Session {
            config,
            id,
            client: true,
            phase: Phase::Down,
            attempt: 0,
            epoch: 0,
            failures: 0,
            now,
            logs: Default::default(),
            unsent: 0,
            peer_limits: [0; LANES],
            peer_max_message: u64::MAX,
            waited: [0; LANES],
            incoming: Default::default(),
            reader: Reader::default(),
            events: VecDeque::with_capacity(1),
            freed: Freed::default(),
            control: BytesMut::new(),
            last_words: Bytes::new(),
            greeting_due: false,
            ack_pending: 0,
            ack_now: 0,
            ack_wanted: false,
            pong: None,
            ping: None,
            pings: 0,
            rtt: None,
            heard: now,
            ack_at: None,
            acked_at: now,
            greeting_until: None,
            give_up_at: now.checked_add(window),
            closing: None,
            stats: Stats::default(),
        }
    }

    /// A client's session, with no wire yet; the redial window runs from `now`.
    ///
    /// `id` must come from a strong source of randomness and be used once. `config` is taken as checked by
    /// [`Config::check`].
    pub fn client(config: Arc<Config>, id: SessionId, now: Instant) -> Session {
        Session::new(config, id, now)
    }

    /// A server's session from the first HELLO that names it; the wire that brought it is attached.
    ///
    /// # Errors
    /// Versions do not fit: answer with [`Refusal::encode`].
    pub fn server(config: Arc<Config>, hello: Hello, now: Instant) -> Result<Session, Refusal> {
        check_version(&hello)?;
        let mut session = Session::new(config, hello.session, now);
        session.client = false;
        session.epoch = hello.attempt;
        session.attempt = hello.attempt;
        session.peer_max_message = hello.max_message;
        // S7.7: positions of an earlier epoch mean nothing here, but the room does.
        session.peer_limits = hello.lanes.map(|lane| lane.limit - lane.received.min(lane.limit));
        session.attach(now);
        session.phase = Phase::Up;
        session.events.push_back(Event::Established { resumed: false });
        Ok(session)
    }

    /// Client: a wire is up. Any earlier one is forgotten. Queues the HELLO.
    pub fn handle_open(&mut self, now: Instant) {
        self.now = now;
        if self.phase == Phase::Ended {
            return;
        }
        self.drop_wire();
        self.attempt += 1;
        self.attach(now);
        self.phase = Phase::Greeting;
        // Until the WELCOME the redial window goes on (S7.1).
        if self.give_up_at.is_none() {
            self.give_up_at = now.checked_add(self.config.redial_window);
        }
        self.greeting_until = now.checked_add(self.config.handshake_timeout);
    }

    /// Server: the session came back on another wire, which replaces the present one, if any (S7.3).
    ///
    /// # Errors
    /// A stale attempt or positions that cannot be: answer with [`Refusal::encode`] on that wire and close
    /// it; the session is as before.
    pub fn handle_resume(&mut self, now: Instant, hello: Hello) -> Result<(), Refusal> {
        self.now = now;
        let refuse = |code, reason: &str| Err(Refusal { code, reason: reason.to_owned() });
        check_version(&hello)?;
        if self.phase == Phase::Ended || hello.session != self.id || self.client {
            return refuse(CloseCode::ENDED, "the session is over");
        }
        if hello.attempt <= self.attempt {
            return refuse(CloseCode::STALE, "a later attempt is already here");
        }
        if hello.epoch > self.epoch {
            // S7.7: the client has gone on with another incarnation since; this one is over.
            self.give_up(None);
            return refuse(CloseCode::BUSY, "the session has moved on");
        }
        let resumed = hello.epoch == self.epoch;
        let lanes = if resumed {
            hello.lanes.map(|lane| (lane.received, lane.limit))
        } else {
            // S7.7: the client has not seen this epoch's WELCOME, so nothing has crossed in it yet.
            if self.incoming.iter().flatten().any(|lane| lane.received > 0) {
                return refuse(CloseCode::POSITION, "the client has lost its state");
            }
            hello.lanes.map(|lane| (0, lane.limit.saturating_sub(lane.received)))
        };
        if hello.max_message < self.peer_max_message {
            return refuse(CloseCode::PROTOCOL, "max_message was reduced");
        }
        let places = self.locate(&lanes)?;
        self.drop_wire();
        self.attempt = hello.attempt;
        self.peer_max_message = hello.max_message;
        self.attach(now);
        self.phase = Phase::Up;
        self.give_up_at = None;
        self.resume(&lanes, &places);
        self.stats.resumes += 1;
        tracing::debug!(session = ?self.id, attempt = self.attempt, "session resumed");
        self.events.push_back(Event::Established { resumed: true });
        Ok(())
    }

    /// Moves everything that was accepted into the session, in O(runs), and tells `outgoing` what room there is.
    ///
    /// Once the session ends in order, `outgoing` is closed by it; once the end was announced to the peer, what
    /// is in `outgoing` stays there, for [`Outgoing::take`].
    pub fn enqueue(&mut self, now: Instant, outgoing: &mut Outgoing) {
        self.now = now;
        if self.closing.is_some() || self.phase == Phase::Ended {
            outgoing.close();
        }
        if self.phase == Phase::Ended
            || self.closing.as_ref().is_some_and(|closing| closing.announced)
        {
            return;
        }
        let had = outgoing.max_message() as u64;
        if !outgoing.is_empty() {
            let (logs, stats, unsent) = (&mut self.logs, &mut self.stats, &mut self.unsent);
            outgoing.drain(|lane, run| {
                stats.messages_enqueued += u64::from(run.messages);
                *unsent |= 1 << lane.index();
                logs[lane.index()].get_or_insert_default().push(run);
            });
            if had > self.peer_max_message {
                self.withdraw();
            }
        }
        let held = |log: &Option<Box<Log>>| {
            log.as_ref().map_or((0, 0), |log| (log.held().bytes, log.held().messages))
        };
        outgoing.update(self.logs.iter().map(held), self.peer_max_message);
    }

    /// Octets from the wire, cut in any way. Then drain `poll_event`.
    #[inline]
    pub fn handle_input(&mut self, now: Instant, data: Bytes) {
        self.now = now;
        match self.phase {
            Phase::Up => {}
            // S2.1: said at the first octet.
            Phase::Greeting => {
                if self.reader.is_fresh()
                    && data.first().is_some_and(|first| !(2..=3).contains(first))
                {
                    self.violated(Violation::NotTowline);
                    return;
                }
            }
            Phase::Down | Phase::Ended => {
                self.stats.bytes_ignored += data.len() as u64;
                return;
            }
        }
        self.heard = now;
        self.stats.bytes_received += data.len() as u64;
        self.reader.push(data);
    }

    /// Inside a large payload, with `poll_event` drained: the buffer to read the rest into.
    pub fn direct(&mut self) -> Option<Direct> {
        let (buffer, want) = self.reader.lend(&mut self.incoming)?;
        Some(Direct { buffer, want })
    }

    /// Takes the buffer of [`direct`](Self::direct) back, with 0 to `want` octets appended. Call it before
    /// `handle_input` with what arrived behind them. A buffer that comes after its wire was lost is dropped.
    pub fn handle_direct(&mut self, now: Instant, buffer: BytesMut) {
        self.now = now;
        let len = buffer.len() as u64;
        if !self.reader.restore(&mut self.incoming, buffer) {
            self.stats.bytes_ignored += len;
            return;
        }
        if len == 0 {
            return;
        }
        self.heard = now;
        self.stats.bytes_received += len;
        match self.reader.finish_direct(&mut self.incoming) {
            Ok(Some(Item::Message(message))) => {
                self.on_received(message.lane);
                self.stats.messages_received += 1;
                self.events.push_back(Event::Message(message));
            }
            Ok(Some(Item::Fragment(lane))) => self.on_received(lane),
            Ok(_) => {}
            Err(violation) => self.violated(violation),
        }
    }

    /// The transport lost the wire.
    pub fn handle_lost(&mut self, now: Instant, loss: WireLoss) {
        self.now = now;
        // S7.4: told about a wire that was replaced, or that failed before.
        if loss.attempt != self.attempt || !matches!(self.phase, Phase::Greeting | Phase::Up) {
            return;
        }
        self.last_words = Bytes::new();
        self.lose();
    }

    /// The time of `poll_timeout` has come. Calling it early or late does no harm.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.now = now;
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if due(self.ack_at) {
            self.ack_at = None;
            self.ack_now |= self.ack_pending;
        }
        if due(self.greeting_until) {
            self.fail(WireError::HandshakeTimeout, false);
        }
        if self.phase == Phase::Up && due(self.keep_alive_at()) {
            match self.ping {
                Some(_) => self.fail(WireError::PeerSilent, true),
                None => {
                    self.send_ping(now);
                    self.shrink();
                }
            }
        }
        if due(self.closing.as_ref().and_then(|closing| closing.until)) {
            self.finish(CloseCode::TIMEOUT);
        }
        if due(self.give_up_at) {
            self.give_up(None);
        }
    }

    /// When `handle_timeout` is next due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let keep_alive = if self.phase == Phase::Up { self.keep_alive_at() } else { None };
        let closing = self.closing.as_ref().and_then(|closing| closing.until);
        [self.ack_at, self.greeting_until, keep_alive, self.give_up_at, closing]
            .into_iter()
            .flatten()
            .min()
    }

    /// S7.8: when to ask, or when to stop waiting for an answer.
    fn keep_alive_at(&self) -> Option<Instant> {
        match self.ping {
            Some(ping) => self.heard.max(ping.at).checked_add(self.config.ping_timeout),
            None => self.heard.checked_add(self.config.keep_alive?),
        }
    }

    pub(super) fn send_ping(&mut self, now: Instant) {
        self.pings += 1;
        self.ping = Some(Ping { token: self.pings, at: now, due: true });
    }

    pub(super) fn on_pong(&mut self, token: u64) {
        let Some(ping) = self.ping.filter(|ping| ping.token == token && !ping.due) else { return };
        self.ping = None;
        let sample = self.now.saturating_duration_since(ping.at);
        self.rtt = Some(self.rtt.map_or(sample, |rtt| (rtt * 7 + sample) / 8));
    }

    /// The application has taken messages of this lane, of this total [`Message::cost`](super::Message::cost):
    /// returns window. Then look at `poll_transmit`.
    #[inline]
    pub fn consumed(&mut self, lane: Lane, cost: u64) {
        let window = self.config.window;
        let Some(incoming) = &mut self.incoming[lane.index()] else { return };
        incoming.unconsumed = incoming.unconsumed.saturating_sub(cost);
        // S5.6: not for every message, and never so late that the peer stands still.
        let more = incoming.limit(window) - incoming.advertised;
        let room = incoming.advertised - incoming.received;
        if more >= window / 4 || (more > 0 && room < (MAX_FRAGMENT as u64 * 2).min(window / 2)) {
            self.ack_now |= 1 << lane.index();
        }
    }

    /// Asks the peer for its acknowledgements at once (a PING behind the data): makes `flush` one round trip.
    pub fn request_acknowledgement(&mut self) {
        self.ack_wanted = true;
    }

    /// Octets of payload and messages that were enqueued and not acknowledged, to a run of frames.
    pub fn unacknowledged(&self) -> (u64, u64) {
        let held = self.logs.iter().flatten().map(|log| log.held());
        held.fold((0, 0), |(bytes, messages), held| (bytes + held.bytes, messages + held.messages))
    }

    /// How much was acknowledged or given back: see [`Progress::reached`].
    pub fn acknowledged(&self) -> Progress {
        Progress(std::array::from_fn(|lane| {
            self.logs[lane].as_ref().map_or(0, |log| log.progress())
        }))
    }

    /// The session's id.
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// The number of the present or last wire, from 1; 0 before the first.
    pub fn attempt(&self) -> u64 {
        self.attempt
    }

    /// Both ends have agreed on the present wire.
    pub fn is_established(&self) -> bool {
        self.phase == Phase::Up
    }

    /// There is no wire, and one would be of use.
    pub fn is_down(&self) -> bool {
        self.phase == Phase::Down
    }

    /// Over; `poll_transmit` may still have last words.
    pub fn is_ended(&self) -> bool {
        self.phase == Phase::Ended
    }

    /// An orderly end is under way, begun by either side.
    pub fn is_closing(&self) -> bool {
        self.closing.is_some() && self.phase != Phase::Ended
    }

    /// Smoothed round-trip time, from PING and PONG; `None` before the first PONG.
    pub fn rtt(&self) -> Option<Duration> {
        self.rtt
    }

    /// Counts since the session began.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// The largest message that the peer takes, once it is known.
    pub fn peer_max_message(&self) -> Option<u64> {
        (self.peer_max_message != u64::MAX).then_some(self.peer_max_message)
    }

    /// Gives spare memory back; done by itself when the session is idle.
    pub fn shrink(&mut self) {
        self.logs.iter_mut().flatten().for_each(|log| log.shrink());
        self.reader.shrink();
        self.events.shrink_to_fit();
        self.control = BytesMut::new();
    }
}

/// Wires that come and go.
impl Session {
    fn attach(&mut self, now: Instant) {
        self.heard = now;
        self.greeting_due = true;
        self.last_words = Bytes::new();
        if !self.client {
            self.give_up_at = None;
        }
    }

    /// Forgets everything that belongs to the wire.
    pub(super) fn drop_wire(&mut self) {
        self.reader.reset(&mut self.incoming);
        (self.ack_pending, self.ack_now, self.ack_at) = (0, 0, None);
        (self.pong, self.ping, self.greeting_until) = (None, None, None);
        self.greeting_due = false;
        if let Some(closing) = &mut self.closing {
            closing.sent = None;
        }
    }

    /// S7.1: the wire is gone, the session waits for the next.
    fn lose(&mut self) {
        self.drop_wire();
        self.phase = Phase::Down;
        self.stats.wires_lost += 1;
        if self.give_up_at.is_none() {
            self.give_up_at = self.now.checked_add(self.config.redial_window);
        }
        tracing::debug!(session = ?self.id, attempt = self.attempt, "wire lost");
    }

    /// The peer broke a rule: tell it and leave this wire.
    pub(super) fn violated(&mut self, violation: Violation) {
        self.fail(WireError::Violation(violation), true);
    }

    /// This wire is of no more use (S7.2).
    pub(super) fn fail(&mut self, error: WireError, tell: bool) {
        if !matches!(self.phase, Phase::Greeting | Phase::Up) {
            return;
        }
        tracing::debug!(session = ?self.id, attempt = self.attempt, %error, "wire failed");
        self.last_words = if tell { self.failure(&error) } else { Bytes::new() };
        self.lose();
        self.events.push_back(Event::WireFailed(error.clone()));
        match &error {
            WireError::Refused { code, .. } if !code.is_transient() => self.give_up(Some(error)),
            WireError::Violation(_) | WireError::PeerFailed { .. } => {
                self.failures += 1;
                if self.failures >= MAX_FAILURES {
                    self.give_up(Some(error));
                }
            }
            _ => {}
        }
    }

    /// S7.9: the end, without the peer.
    fn give_up(&mut self, error: Option<WireError>) {
        if self.phase == Phase::Ended {
            return;
        }
        if self.closing.is_some() {
            return self.finish(error.map_or(CloseCode::TIMEOUT, |error| error.code()));
        }
        let unacknowledged = self.end();
        self.events.push_back(Event::GaveUp { error, unacknowledged });
    }

    /// Ends; last words stay. Returns what was not acknowledged.
    pub(super) fn end(&mut self) -> Vec<super::Unacknowledged> {
        self.report_freed();
        self.drop_wire();
        self.phase = Phase::Ended;
        self.give_up_at = None;
        if let Some(closing) = &mut self.closing {
            closing.until = None;
        }
        self.incoming = Default::default();
        self.give_back()
    }

    pub(super) fn give_back(&mut self) -> Vec<super::Unacknowledged> {
        let mut out = Vec::new();
        self.logs.iter_mut().flatten().for_each(|log| log.give_back(&mut out));
        self.unsent = 0;
        out
    }

    /// The wire is agreed on, at this end's place (client).
    pub(super) fn settle(&mut self) {
        self.phase = Phase::Up;
        self.greeting_until = None;
        self.give_up_at = None;
    }

    pub(super) fn progressed(&mut self) {
        self.failures = 0;
    }

    /// S7.5: finds every lane's place for a resume, or says which has none. Changes nothing.
    pub(super) fn locate(&self, lanes: &[(u64, u64); LANES]) -> Result<[Place; LANES], Violation> {
        let mut places = [Place::default(); LANES];
        for (lane, place) in Lane::ALL.into_iter().zip(&mut places) {
            let (received, limit) = lanes[lane.index()];
            *place = match &self.logs[lane.index()] {
                Some(log) => log.locate(received).ok_or(Violation::BadResume(lane))?,
                None if received == 0 => Place::default(),
                None => return Err(Violation::BadResume(lane)),
            };
            if limit < self.peer_limits[lane.index()] {
                return Err(Violation::WindowReduced(lane));
            }
        }
        Ok(places)
    }

    /// Goes on at those places.
    pub(super) fn resume(&mut self, lanes: &[(u64, u64); LANES], places: &[Place; LANES]) {
        for lane in 0..LANES {
            let (received, limit) = lanes[lane];
            self.peer_limits[lane] = limit;
            if let Some(log) = &mut self.logs[lane] {
                self.stats.bytes_resent += log.resume(places[lane], received, &mut self.freed);
                self.unsent |= u8::from(!log.all_sent()) << lane;
            }
        }
    }

    /// Gives back what is too large for the peer.
    pub(super) fn withdraw(&mut self) {
        let mut messages = Vec::new();
        let max = self.peer_max_message;
        self.logs.iter_mut().flatten().for_each(|log| log.withdraw(max, &mut messages));
        if !messages.is_empty() {
            self.events.push_back(Event::TooLargeForPeer { max: max as usize, messages });
        }
    }
}

fn check_version(hello: &Hello) -> Result<(), Refusal> {
    let (min, max) = (hello.min_version, hello.max_version);
    if (min..=max).contains(&VERSION) {
        Ok(())
    } else {
        Err(Violation::NoCommonVersion { min, max }.into())
    }
}
