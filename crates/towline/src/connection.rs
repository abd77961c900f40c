//! Connections: the handles that applications hold, and what they share with their I/O thread.

mod futures;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use towline_proto::session::{FRAME_CHARGE, Progress};

use self::futures::RequestState;
pub use self::futures::{Close, Connecting, Flush, Request, Send, Writable};
use crate::address::{Address, Wire};
use crate::config::Config;
use crate::context::Thread;
use crate::engine::{Outgoing, Refused};
use crate::error::{Ended, Error, FlushError, RecvError, RequestError, SendError, TrySendError};
use crate::events::{EventQueue, Events};
use crate::message::{Lane, Message, MessageId};
use crate::reader::{Consumption, Reader, ReaderOptions, Readers, Recv};
use crate::request::Requests;
use crate::stats::ConnectionStats;
use crate::tls::TlsState;
use crate::waiter::{WaitKey, WakerSet, Wakers, block_on};

/// What application threads ask of the I/O thread, as bits.
pub(crate) mod ask {
    pub(crate) const CLOSE: u8 = 1;
    pub(crate) const ABORT: u8 = 2;
    pub(crate) const READ_ON: u8 = 4;
    pub(crate) const DEADLINES: u8 = 8;
    pub(crate) const HURRY: u8 = 16;
}

/// The slot of a connection that its I/O thread has not adopted yet, or has let go of.
pub(crate) const NO_SLOT: u32 = u32::MAX;

/// The sending half's state, behind one lock.
pub(crate) struct Out {
    pub(crate) outgoing: Outgoing,
    pub(crate) acknowledged: Progress,
    /// Somebody was refused for want of room and is to be told when there is some.
    pub(crate) refused: bool,
    pub(crate) room: WakerSet,
    pub(crate) flushed: WakerSet,
    pub(crate) resets: u32,
    pub(crate) returned: u64,
    // Boxes for what comes once, at the end: a connection is idle for much longer.
    pub(crate) ended: Option<Box<(Ended, u64)>>,
    /// The last event has been told, so that `close` may return.
    pub(crate) told: bool,
    pub(crate) close: Option<Box<(u64, Box<str>)>>,
    pub(crate) stats: ConnectionStats,
    /// The peer closes: why nothing more is accepted although the connection has not ended yet.
    pub(crate) peer_closing: Option<Box<Ended>>,
    write_deadline: Option<Instant>,
    /// The earliest deadline of the requests that wait for room.
    room_deadline: Option<Instant>,
}

impl Out {
    /// Why nothing is accepted any more, if so.
    fn refusal(&self) -> Option<Ended> {
        if let Some((ended, _)) = self.ended.as_deref() {
            return Some(ended.clone());
        }
        match self.close {
            Some(_) => Some(Ended::Closed),
            None => self.peer_closing.as_deref().cloned(),
        }
    }
}

/// Where a connection is in its life.
#[derive(Clone, Debug)]
pub(crate) enum Phase {
    Connecting,
    Connected,
    Down,
    Ended(Ended),
}

/// The wire's description, which changes with each new wire.
pub(crate) struct Link {
    pub(crate) phase: Phase,
    /// The first `Connected` has been told.
    pub(crate) handed_over: bool,
    pub(crate) wire: Wire,
    pub(crate) local: Option<SocketAddr>,
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) tls: Option<TlsState>,
    #[cfg(feature = "websocket")]
    pub(crate) websocket: Option<Arc<crate::websocket::Upgraded>>,
    /// The flow under it, if there is one.
    #[cfg(feature = "bats")]
    pub(crate) flow: Option<Arc<crate::bats::Carried>>,
    pub(crate) changed: WakerSet,
    pub(crate) events: Vec<Arc<EventQueue>>,
    read_deadline: Option<Instant>,
}

/// A counter with one writer, the connection's I/O thread, that anybody reads.
#[derive(Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Adds; on the I/O thread only, so that no locked instruction is needed.
    #[inline]
    pub(crate) fn add(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What passed, counted before anybody hears of it: whoever has received a message finds it here.
#[derive(Default)]
pub(crate) struct Traffic {
    pub(crate) messages_received: Counter,
    pub(crate) bytes_sent: Counter,
    pub(crate) bytes_received: Counter,
}

/// What a connection's handles and its I/O thread share.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) thread: Arc<Thread>,
    pub(crate) slot: AtomicU32,
    scheduled: AtomicBool,
    asks: AtomicU8,
    /// Open readers, so that delivering a message takes no lock to learn of them.
    pub(crate) open_readers: AtomicUsize,
    /// There has been a request, so that a message may be a reply.
    pub(crate) has_requested: AtomicBool,
    pub(crate) consumption: Consumption,
    pub(crate) traffic: Traffic,
    unreported: AtomicUsize,
    out: Mutex<Out>,
    readers: Mutex<Readers>,
    requests: Mutex<Requests>,
    link: Mutex<Link>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(crate) fn new(config: Config, thread: Arc<Thread>, wire: Wire) -> Shared {
        let outgoing = Outgoing::new(wire, &config.0.plain);
        Shared {
            config,
            thread,
            slot: AtomicU32::new(NO_SLOT),
            scheduled: AtomicBool::new(false),
            asks: AtomicU8::new(0),
            open_readers: AtomicUsize::new(0),
            has_requested: AtomicBool::new(false),
            consumption: Consumption::default(),
            traffic: Traffic::default(),
            unreported: AtomicUsize::new(0),
            out: Mutex::new(Out {
                outgoing,
                acknowledged: Progress::default(),
                refused: false,
                room: WakerSet::default(),
                flushed: WakerSet::default(),
                resets: 0,
                returned: 0,
                ended: None,
                told: false,
                close: None,
                stats: ConnectionStats::default(),
                peer_closing: None,
                write_deadline: None,
                room_deadline: None,
            }),
            readers: Mutex::default(),
            requests: Mutex::default(),
            link: Mutex::new(Link {
                phase: Phase::Connecting,
                handed_over: false,
                wire,
                local: None,
                peer: None,
                tls: None,
                #[cfg(feature = "websocket")]
                websocket: None,
                #[cfg(feature = "bats")]
                flow: None,
                changed: WakerSet::default(),
                events: Vec::new(),
                read_deadline: None,
            }),
        }
    }

    pub(crate) fn out(&self) -> MutexGuard<'_, Out> {
        lock(&self.out)
    }

    pub(crate) fn readers(&self) -> MutexGuard<'_, Readers> {
        lock(&self.readers)
    }

    pub(crate) fn requests(&self) -> MutexGuard<'_, Requests> {
        lock(&self.requests)
    }

    pub(crate) fn link(&self) -> MutexGuard<'_, Link> {
        lock(&self.link)
    }

    /// Has the I/O thread look at this connection. Many calls until it does are one.
    pub(crate) fn notify(self: &Arc<Self>) {
        if !self.scheduled.swap(true, Ordering::SeqCst) {
            self.thread.schedule(Arc::clone(self));
        }
    }

    /// [`Self::notify`] for what is found under the lock of `out`, which the caller held since it put it there.
    ///
    /// Looking first saves a locked instruction: the I/O thread takes that lock after it has begun to look, so either it
    /// finds what was put there, or it had begun before, and this thread sees that it had.
    #[inline]
    fn notify_of_out(self: &Arc<Self>) {
        if !self.scheduled.load(Ordering::Acquire) {
            self.notify();
        }
    }

    /// The I/O thread is about to look: until it has, nobody needs to notify it.
    pub(crate) fn hold(&self) {
        self.scheduled.store(true, Ordering::Release);
    }

    /// The I/O thread begins to look: what is asked from now on notifies again.
    #[inline]
    pub(crate) fn take_asks(&self) -> u8 {
        // The swap orders the look at `asks` behind it, against `ask`, which does the same the other way round.
        self.scheduled.swap(false, Ordering::SeqCst);
        if self.asks.load(Ordering::SeqCst) == 0 {
            return 0;
        }
        self.asks.swap(0, Ordering::AcqRel)
    }

    fn ask(self: &Arc<Self>, what: u8) {
        self.asks.fetch_or(what, Ordering::SeqCst);
        self.notify();
    }

    /// A consumer let go of a message: its share of the window goes back to the peer, in portions.
    pub(crate) fn consumed(self: &Arc<Self>, lane: Lane, bytes: u64) {
        let cost = bytes + FRAME_CHARGE;
        self.consumption.add(lane, cost);
        let portion = (self.config.0.plain.receive_window / 8) as usize;
        let cost = cost as usize;
        if self.unreported.fetch_add(cost, Ordering::AcqRel) + cost >= portion {
            self.unreported.store(0, Ordering::Release);
            self.notify();
        }
    }

    /// A blocking reader has room again.
    pub(crate) fn resume_reading(self: &Arc<Self>) {
        self.ask(ask::READ_ON);
    }

    pub(crate) fn read_deadline(&self) -> Option<Instant> {
        self.link().read_deadline
    }

    /// The earliest of the calls' deadlines that is still to come; wakes those that have passed.
    pub(crate) fn expire_deadlines(&self, now: Instant) -> Option<Instant> {
        let mut wake: Vec<Waker> = Vec::new();
        let requests = self.requests().expire(now, &mut wake);
        let read = self.link().read_deadline;
        if read.is_some_and(|at| at <= now) {
            let readers = self.readers().waiting();
            readers.into_iter().for_each(Wakers::wake);
        }
        let (write, room, wakers) = {
            let mut out = self.out();
            let passed = |at: Option<Instant>| at.is_some_and(|at| at <= now);
            let wakers = match passed(out.write_deadline) || passed(out.room_deadline) {
                true => {
                    // Those with later deadlines register again.
                    out.room_deadline = None;
                    out.room.take()
                }
                false => Wakers::default(),
            };
            (out.write_deadline, out.room_deadline, wakers)
        };
        wakers.wake();
        wake.into_iter().for_each(Waker::wake);
        [requests, read.filter(|at| *at > now), write.filter(|at| *at > now), room]
            .into_iter()
            .flatten()
            .min()
    }

    /// Accepts a message for sending, perhaps taking its payload, and with `wait_for_reply` registers the request in the same step.
    fn push(
        self: &Arc<Self>,
        message: &mut Message,
        request: Option<Option<Instant>>,
    ) -> Result<MessageId, Push> {
        let mut earliest = false;
        let id = {
            let mut out = self.out();
            if let Some(ended) = out.refusal() {
                return Err(Push::Never(RequestError::Ended(ended)));
            }
            if request.is_some() && !out.outgoing.has_replies() {
                let wire = self.link().wire;
                return Err(Push::Never(RequestError::Unsupported { wire }));
            }
            let mut requests = request.map(|deadline| (self.requests(), deadline));
            if requests.is_some() {
                // Before the message is: a reply comes later.
                self.has_requested.store(true, Ordering::Release);
            }
            if let (Some((requests, _)), Some(id)) = (&requests, message.id)
                && requests.contains(id)
            {
                return Err(Push::Never(RequestError::DuplicateId { id: id.0 }));
            }
            if let (Some((requests, _)), None) = (&requests, message.id) {
                // Somebody may have chosen for another request the id that would come next by itself.
                out.outgoing.skip_ids(|id| requests.contains(id));
            }
            let id = match out.outgoing.push(message) {
                Ok(id) => id,
                Err(Refused::Never(error)) => return Err(Push::Never(RequestError::Send(error))),
                Err(Refused::Full) => {
                    out.refused = true;
                    return Err(Push::Full);
                }
            };
            if let Some((requests, deadline)) = &mut requests {
                if !requests.insert(id, *deadline) {
                    return Err(Push::Never(RequestError::DuplicateId { id: id.0 }));
                }
                earliest = requests.is_next(*deadline);
            }
            id
        };
        match earliest {
            true => self.ask(ask::DEADLINES),
            false => self.notify_of_out(),
        }
        Ok(id)
    }

    /// Why waiting for room is over, if it is. A caller with a `deadline` of its own is woken when that has come.
    fn poll_room(
        self: &Arc<Self>,
        key: &mut WaitKey,
        waker: &Waker,
        deadline: Option<Instant>,
    ) -> Option<SendError> {
        let mut out = self.out();
        if let Some(ended) = out.refusal() {
            return Some(SendError::Ended(ended));
        }
        if out.write_deadline.is_some_and(|at| Instant::now() >= at) {
            return Some(SendError::Deadline);
        }
        out.refused = true;
        out.room.register(key, waker);
        if deadline.is_some_and(|at| out.room_deadline.is_none_or(|next| at < next)) {
            out.room_deadline = deadline;
            drop(out);
            self.ask(ask::DEADLINES);
        }
        None
    }
}

/// Why a message was not accepted.
enum Push {
    Full,
    Never(RequestError),
}

impl Push {
    fn into_send_error(error: RequestError) -> SendError {
        match error {
            RequestError::Ended(ended) => SendError::Ended(ended),
            RequestError::Send(error) => error,
            RequestError::DuplicateId { id } => SendError::BadId { id, limit: u64::MAX },
            _ => SendError::Ended(Ended::Closed),
        }
    }
}

/// What the wire under a connection can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// Messages are acknowledged by the peer's program and survive the loss of a wire exactly once, in order.
    pub session: bool,
    /// How many lanes of different urgency there are.
    pub lanes: usize,
    /// The most bytes that one message may have now.
    pub max_message: usize,
    /// Bytes are encrypted and the peer is authenticated.
    pub encrypted: bool,
    /// The connection closes with a code and a reason that the peer gets to see.
    pub close_codes: bool,
    /// Messages travel with their ids and with what they answer, so that [`Connection::request`] finds its reply.
    pub requests: bool,
    /// Messages are text or binary, and the peer gets to see which: [`Message::is_text`].
    pub text: bool,
}

/// A connection to a peer: a cheap handle that any number of threads may share.
///
/// Messages accepted for sending leave in order (per [`Lane`]). On session wires (`tcp`, `tls`) each is delivered
/// exactly once, whatever happens to the wire underneath, as long as the outages are shorter than the redial window;
/// afterwards [`Closed`](crate::Closed) tells which were not acknowledged.
///
/// Every waiting call has three forms: `try_x` never waits, `x` is a future for any executor, `x_blocking` blocks the
/// calling thread and must not be used inside a [`Handler`](crate::Handler).
///
/// Dropping the last handle of a connection that has neither a handler nor an open [`Reader`] does not close it; call
/// [`close`](Connection::close), or drop the [`Context`](crate::Context).
#[derive(Clone)]
pub struct Connection {
    pub(crate) shared: Arc<Shared>,
}

impl Connection {
    /// Which wire carries it now. After a change among the addresses of a list, the present one.
    pub fn wire(&self) -> Wire {
        self.shared.link().wire
    }

    /// This end's address on the present or last wire.
    pub fn local_address(&self) -> Option<SocketAddr> {
        self.shared.link().local
    }

    /// The peer's address on the present or last wire.
    pub fn peer_address(&self) -> Option<SocketAddr> {
        self.shared.link().peer
    }

    /// How the present or last wire is secured; `None` on plain wires.
    pub fn tls(&self) -> Option<TlsState> {
        self.shared.link().tls.clone()
    }

    /// What was agreed with the peer when the present or last WebSocket was opened; `None` on other wires.
    #[cfg(feature = "websocket")]
    pub fn websocket(&self) -> Option<Arc<crate::websocket::Upgraded>> {
        self.shared.link().websocket.clone()
    }

    /// What the flow under this connection did and dropped, as of its last event; `None` on other wires than `bats` and `udp`. A session that redials has a
    /// flow of its own each time.
    #[cfg(feature = "bats")]
    pub fn flow_stats(&self) -> Option<crate::bats::FlowStats> {
        let flow = self.shared.link().flow.clone()?;
        let stats = flow.state().stats;
        Some(stats)
    }

    /// How many bytes it is worth to have under way so that the path never waits, as the flow sees it now; `None` on other wires than `bats` and `udp`.
    #[cfg(feature = "bats")]
    pub fn ideal_buffer_length(&self) -> Option<usize> {
        let flow = self.shared.link().flow.clone()?;
        let length = flow.state().ideal_buffer_length;
        Some(length)
    }

    /// Whether there is a wire right now. Sending does not depend on it.
    pub fn is_connected(&self) -> bool {
        matches!(self.shared.link().phase, Phase::Connected)
    }

    /// How the connection ended, once it has.
    pub fn ended(&self) -> Option<Ended> {
        match &self.shared.link().phase {
            Phase::Ended(ended) => Some(ended.clone()),
            _ => None,
        }
    }

    /// What the wire under this connection can do.
    pub fn capabilities(&self) -> Capabilities {
        let wire = self.wire();
        let out = self.shared.out();
        let session = out.outgoing.is_session();
        Capabilities {
            session,
            lanes: if session { Lane::ALL.len() } else { 1 },
            max_message: out.outgoing.max_message(),
            encrypted: wire.is_encrypted(),
            close_codes: session || wire.is_websocket(),
            requests: out.outgoing.has_replies(),
            text: wire.is_websocket() && !session,
        }
    }

    /// Counters. A message that was received is counted, with its bytes, and one that was accepted is counted as unacknowledged;
    /// what the protocol counts besides is as of the I/O thread's last look at this connection.
    pub fn stats(&self) -> ConnectionStats {
        let mut stats = {
            let out = self.shared.out();
            let mut stats = out.stats;
            stats.unacknowledged += out.outgoing.waiting() as u64;
            stats
        };
        let traffic = &self.shared.traffic;
        stats.messages_received = traffic.messages_received.get();
        stats.bytes_sent = traffic.bytes_sent.get();
        stats.bytes_received = traffic.bytes_received.get();
        (stats.late_replies, stats.duplicate_replies) = self.shared.requests().counts();
        stats
    }

    /// Accepts a message for sending if there is room for it now, and returns its id.
    ///
    /// # Errors
    ///
    /// [`TrySendError::Full`] when the queue is full: [`Connection::writable`] or the `writable` event tells when it is not.
    /// Both variants give the message back.
    pub fn try_send(&self, message: impl Into<Message>) -> Result<MessageId, TrySendError> {
        let mut message = message.into();
        match self.shared.push(&mut message, None) {
            Ok(id) => Ok(id),
            Err(Push::Full) => Err(TrySendError::Full(message)),
            Err(Push::Never(error)) => {
                Err(TrySendError::Failed { message, error: Push::into_send_error(error) })
            }
        }
    }

    /// Accepts a message for sending, waiting for room in the queue. The id comes when it is accepted, which is before
    /// it is sent. A dropped future has not accepted it.
    pub fn send(&self, message: impl Into<Message>) -> Send<'_> {
        Send { shared: &self.shared, message: message.into(), key: None }
    }

    /// The blocking twin of [`Connection::send`].
    pub fn send_blocking(&self, message: impl Into<Message>) -> Result<MessageId, SendError> {
        let mut message = message.into();
        match self.shared.push(&mut message, None) {
            Ok(id) => Ok(id),
            Err(Push::Never(error)) => Err(Push::into_send_error(error)),
            Err(Push::Full) => block_on(self.send(message)),
        }
    }

    /// Waits until there is room in the send queue.
    pub fn writable(&self) -> Writable<'_> {
        Writable { shared: &self.shared, key: None }
    }

    /// Sends a message and waits for its reply: a message whose reply-to is this one's id.
    ///
    /// Any number of requests may be in flight. A reply that comes after `timeout` is counted and dropped, and so is a
    /// second reply. Dropping the future cancels the waiting, not the sending.
    pub fn request(&self, message: impl Into<Message>, timeout: Duration) -> Request<'_> {
        Request {
            shared: &self.shared,
            state: RequestState::Sending(message.into()),
            after: timeout,
            deadline: Instant::now().checked_add(timeout),
            key: None,
        }
    }

    /// The blocking twin of [`Connection::request`].
    pub fn request_blocking(
        &self,
        message: impl Into<Message>,
        timeout: Duration,
    ) -> Result<Message, RequestError> {
        block_on(self.request(message, timeout))
    }

    /// The next message from the inbox, where messages go that no handler, open reader or request takes.
    pub fn recv(&self) -> Recv<'_> {
        let inbox = self.shared.readers().inbox(self.inbox_options());
        Recv::from_inbox(&self.shared, inbox)
    }

    /// The blocking twin of [`Connection::recv`].
    pub fn recv_blocking(&self) -> Result<Message, RecvError> {
        block_on(self.recv())
    }

    /// The next message from the inbox if there is one now.
    pub fn try_recv(&self) -> Result<Option<Message>, RecvError> {
        let inbox = self.shared.readers().inbox(self.inbox_options());
        inbox.pop(&self.shared)
    }

    fn inbox_options(&self) -> ReaderOptions {
        inbox_options(&self.shared.config)
    }

    /// Opens a reader: a queue of its own that sees every message from now on.
    pub fn reader(&self) -> Reader {
        self.reader_with(ReaderOptions::default())
    }

    /// Opens a reader with a bound and policy of its own.
    pub fn reader_with(&self, options: ReaderOptions) -> Reader {
        Reader::open(Arc::clone(&self.shared), options)
    }

    /// The connection's events from now on, without messages, for programs without a handler.
    pub fn events(&self) -> Events {
        Events::open(Arc::clone(&self.shared))
    }

    /// Waits until everything accepted before this call has been acknowledged by the peer.
    ///
    /// # Errors
    ///
    /// [`FlushError`] when that cannot be any more. It always returns: at the latest when the redial window is over.
    pub fn flush(&self) -> Flush<'_> {
        let (goal, resets) = {
            let out = self.shared.out();
            (out.outgoing.accepted(), out.resets)
        };
        self.shared.ask(ask::HURRY);
        Flush { shared: &self.shared, goal, resets, key: None }
    }

    /// The blocking twin of [`Connection::flush`].
    pub fn flush_blocking(&self) -> Result<(), FlushError> {
        block_on(self.flush())
    }

    /// Closes in order: nothing more is accepted, what was accepted is delivered, the peer is told, and the future
    /// ends, all within [`close_timeout`](crate::ConfigBuilder::close_timeout). The closing goes on if the future is dropped.
    pub fn close(&self) -> Close<'_> {
        self.close_with(0, "")
    }

    /// [`Connection::close`] with a code and a reason for the peer. Codes below 256 are the protocol's own, 0 means that
    /// nothing is wrong. The ftcp wires carry neither. A plain WebSocket sends codes that RFC 6455 section 7.4 allows as
    /// they are, 1000 in place of 0, and the nearest one for others; of the reason it sends the first 123 bytes.
    pub fn close_with(&self, code: u64, reason: &str) -> Close<'_> {
        let waiting = {
            let mut out = self.shared.out();
            out.close.get_or_insert_with(|| Box::new((code, reason.into())));
            out.room.take()
        };
        waiting.wake();
        self.shared.ask(ask::CLOSE);
        Close { shared: &self.shared, key: None }
    }

    /// The blocking twin of [`Connection::close`].
    pub fn close_blocking(&self) -> Result<(), FlushError> {
        block_on(self.close())
    }

    /// Ends at once. What was not acknowledged comes back with the `closed` event.
    pub fn abort(&self) {
        self.shared.ask(ask::ABORT);
    }

    /// Until when the waiting calls that receive may wait, those that wait now included. `None` lifts it.
    pub fn set_read_deadline(&self, deadline: Option<Instant>) {
        self.shared.link().read_deadline = deadline;
        self.shared.ask(ask::DEADLINES);
    }

    /// Until when the waiting calls that send may wait for room, those that wait now included. `None` lifts it.
    pub fn set_write_deadline(&self, deadline: Option<Instant>) {
        self.shared.out().write_deadline = deadline;
        self.shared.ask(ask::DEADLINES);
    }

    /// Both deadlines.
    pub fn set_deadline(&self, deadline: Option<Instant>) {
        self.set_read_deadline(deadline);
        self.set_write_deadline(deadline);
    }

    /// Refuses what the present wire cannot do, by the name of the call.
    #[expect(dead_code, reason = "streams and datagrams come with the wires that have them")]
    pub(crate) fn unsupported<T>(&self, call: &'static str) -> Result<T, Error> {
        Err(Error::Unsupported { call, wire: self.wire() })
    }
}

pub(crate) fn inbox_options(config: &Config) -> ReaderOptions {
    let limit = config.0.plain.receive_window as usize;
    ReaderOptions { limit, ..ReaderOptions::default() }
}

impl PartialEq for Connection {
    fn eq(&self, other: &Connection) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }
}

impl Eq for Connection {}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let link = self.shared.link();
        f.debug_struct("Connection")
            .field("wire", &link.wire)
            .field("phase", &link.phase)
            .field("local", &link.local)
            .field("peer", &link.peer)
            .finish_non_exhaustive()
    }
}

/// The addresses that a dialed connection tries, kept with it for redialing.
pub(crate) type Addresses = Arc<[Address]>;
