//! Readers: bounded queues of received messages, each seeing every message from its creation on.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use towline_proto::session::LANES;

use crate::connection::Shared;
use crate::error::RecvError;
use crate::message::{Lane, Message};
use crate::waiter::{WaitKey, WakerSet, Wakers, block_on};

/// What a reader does when its queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Overflow {
    /// The peer is slowed down: it gets no more credit on the lane (session wires), or the socket is read no
    /// further (ftcp wires), until this reader catches up. Nothing is lost. The other readers of the same
    /// connection then wait for this one.
    #[default]
    Block,
    /// The oldest message in the queue is dropped and counted; the connection never waits for this reader.
    DropOldest,
    /// The reader ends with [`RecvError::Overflow`] after the messages that it holds; nothing else notices.
    Fail,
}

/// How a [`Reader`] is bounded.
#[derive(Clone, Copy, Debug)]
pub struct ReaderOptions {
    /// The most payload bytes that wait in the queue; a single larger message is still let in when the queue is
    /// empty. Default 16 MiB. For [`Overflow::Block`] on session wires, the session's receive window (see
    /// [`ConfigBuilder::receive_window`](crate::ConfigBuilder::receive_window)) is the bound and this value is not used.
    pub limit: usize,
    /// What happens beyond the limit. Default [`Overflow::Block`].
    pub overflow: Overflow,
}

impl Default for ReaderOptions {
    fn default() -> ReaderOptions {
        ReaderOptions { limit: 16 << 20, overflow: Overflow::Block }
    }
}

/// Bytes that consumers have taken, by lane, and not yet returned to the session as credit.
#[derive(Debug, Default)]
pub(crate) struct Consumption {
    lanes: [AtomicU64; LANES],
}

impl Consumption {
    pub(crate) fn add(&self, lane: Lane, cost: u64) {
        if let Some(counter) = self.lanes.get(lane.index()) {
            counter.fetch_add(cost, Ordering::AcqRel);
        }
    }

    /// Takes what has gathered on each lane.
    pub(crate) fn take(&self) -> impl Iterator<Item = (Lane, u64)> + '_ {
        Lane::ALL.into_iter().zip(&self.lanes).filter_map(|(lane, counter)| {
            if counter.load(Ordering::Acquire) == 0 {
                return None;
            }
            Some((lane, counter.swap(0, Ordering::AcqRel)))
        })
    }
}

/// Returns a message's bytes to the peer's credit once every blocking reader has let go of it.
#[derive(Clone)]
enum Credit {
    /// No one waits for this reader.
    None,
    /// The only blocking reader holds it: the bytes are returned when the entry goes.
    Sole,
    /// Several do: the last one returns them.
    Shared(#[expect(dead_code, reason = "its drop returns the bytes")] Arc<SharedCredit>),
}

struct SharedCredit {
    connection: Arc<Shared>,
    lane: Lane,
    bytes: u64,
}

impl Drop for SharedCredit {
    fn drop(&mut self) {
        self.connection.consumed(self.lane, self.bytes);
    }
}

struct Entry {
    message: Message,
    credit: Credit,
}

/// Why no more messages will come.
#[derive(Clone, Debug)]
enum End {
    Overflow,
    Connection(RecvError),
}

#[derive(Default)]
struct State {
    entries: VecDeque<Entry>,
    bytes: usize,
    dropped: u64,
    end: Option<End>,
    detached: bool,
    wakers: WakerSet,
}

/// One queue of received messages.
pub(crate) struct Queue {
    options: ReaderOptions,
    state: Mutex<State>,
}

impl Queue {
    fn new(options: ReaderOptions, ended: Option<RecvError>) -> Queue {
        let end = ended.map(End::Connection);
        Queue { options, state: Mutex::new(State { end, ..State::default() }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn blocks(&self) -> bool {
        self.options.overflow == Overflow::Block && !self.state().detached
    }

    /// Whether a blocking queue holds more than its limit; asked on wires without credit.
    pub(crate) fn is_over_limit(&self) -> bool {
        let state = self.state();
        self.options.overflow == Overflow::Block
            && !state.detached
            && state.bytes >= self.options.limit
    }

    fn push(&self, entries: impl Iterator<Item = Entry>) -> Wakers {
        let mut state = self.state();
        if state.end.is_some() || state.detached {
            return Wakers::default();
        }
        for entry in entries {
            let bytes = entry.message.data.len();
            if state.bytes.saturating_add(bytes) > self.options.limit && !state.entries.is_empty() {
                match self.options.overflow {
                    Overflow::Block => {}
                    Overflow::DropOldest => state.make_room(bytes, self.options.limit),
                    Overflow::Fail => {
                        state.end = Some(End::Overflow);
                        break;
                    }
                }
            }
            state.bytes += bytes;
            state.entries.push_back(entry);
        }
        if state.wakers.is_empty() { Wakers::default() } else { state.wakers.take() }
    }

    /// Ends the queue: what it holds is still read, then comes `reason`.
    fn end(&self, reason: RecvError) -> Wakers {
        let mut state = self.state();
        state.end.get_or_insert(End::Connection(reason));
        state.wakers.take()
    }

    pub(crate) fn pop(&self, connection: &Arc<Shared>) -> Result<Option<Message>, RecvError> {
        let mut state = self.state();
        if let Some(entry) = state.entries.pop_front() {
            let bytes = entry.message.data.len();
            state.bytes -= bytes;
            let was_over = state.bytes + bytes >= self.options.limit;
            drop(state);
            if matches!(entry.credit, Credit::Sole) {
                connection.consumed(entry.message.lane, bytes as u64);
            }
            if was_over && self.options.overflow == Overflow::Block {
                connection.resume_reading();
            }
            return Ok(Some(entry.message));
        }
        match &state.end {
            None => Ok(None),
            Some(End::Overflow) => Err(RecvError::Overflow { limit: self.options.limit }),
            Some(End::Connection(reason)) => Err(reason.clone()),
        }
    }

    /// Lets go of everything that the queue holds.
    fn detach(&self, connection: &Arc<Shared>) {
        let entries = {
            let mut state = self.state();
            state.detached = true;
            state.bytes = 0;
            std::mem::take(&mut state.entries)
        };
        for entry in entries {
            if matches!(entry.credit, Credit::Sole) {
                connection.consumed(entry.message.lane, entry.message.data.len() as u64);
            }
        }
        connection.resume_reading();
    }
}

impl State {
    fn make_room(&mut self, bytes: usize, limit: usize) {
        while self.bytes.saturating_add(bytes) > limit {
            let Some(oldest) = self.entries.pop_front() else { break };
            self.bytes -= oldest.message.data.len();
            self.dropped += 1;
        }
    }
}

/// A message for the readers or the inbox.
pub(crate) struct Arrived {
    pub(crate) message: Message,
    /// A handler or a request has it: readers see it too, the inbox does not.
    pub(crate) taken: bool,
}

/// Where the messages of one connection go that no handler takes: the open readers, else the inbox.
#[derive(Default)]
pub(crate) struct Readers {
    inbox: Option<Arc<Queue>>,
    open: Vec<Arc<Queue>>,
    ended: Option<Box<RecvError>>,
}

impl Readers {
    /// The inbox of [`Connection::recv`](crate::Connection::recv), made on first use.
    pub(crate) fn inbox(&mut self, options: ReaderOptions) -> Arc<Queue> {
        let ended = self.ended.as_deref();
        let made = || Arc::new(Queue::new(options, ended.cloned()));
        Arc::clone(self.inbox.get_or_insert_with(made))
    }

    fn open(&mut self, options: ReaderOptions) -> Arc<Queue> {
        let queue = Arc::new(Queue::new(options, self.ended.as_deref().cloned()));
        if self.ended.is_none() {
            self.open.push(Arc::clone(&queue));
        }
        queue
    }

    pub(crate) fn is_over_limit(&self) -> bool {
        self.inbox.iter().chain(&self.open).any(|queue| queue.is_over_limit())
    }

    /// Hands messages to the open readers, or to the inbox when there is none and no handler took them. Returns whom
    /// to wake, and the messages' bytes by which nobody's queue holds the peer back.
    pub(crate) fn deliver(
        &mut self,
        connection: &Arc<Shared>,
        messages: &mut Vec<Arrived>,
        inbox: ReaderOptions,
    ) -> Vec<Wakers> {
        if self.open.is_empty() {
            // The readers that these were meant for, too, may be gone by now.
            messages.retain(|arrived| {
                if arrived.taken {
                    let message = &arrived.message;
                    connection.consumed(message.lane, message.data.len() as u64);
                }
                !arrived.taken
            });
            if messages.is_empty() {
                return Vec::new();
            }
            let queue = self.inbox(inbox);
            let entries = messages
                .drain(..)
                .map(|arrived| Entry { message: arrived.message, credit: Credit::Sole });
            return vec![queue.push(entries)];
        }
        let blocking = self.open.iter().filter(|queue| queue.blocks()).count();
        if blocking == 0 {
            for Arrived { message, .. } in messages.iter() {
                connection.consumed(message.lane, message.data.len() as u64);
            }
        }
        let credits: Vec<Credit> = messages
            .iter()
            .map(|Arrived { message, .. }| match blocking {
                0 => Credit::None,
                1 => Credit::Sole,
                _ => Credit::Shared(Arc::new(SharedCredit {
                    connection: Arc::clone(connection),
                    lane: message.lane,
                    bytes: message.data.len() as u64,
                })),
            })
            .collect();
        let wakers = self.open.iter().map(|queue| {
            let blocks = queue.options.overflow == Overflow::Block;
            queue.push(messages.iter().zip(&credits).map(|(arrived, credit)| Entry {
                message: arrived.message.clone(),
                credit: if blocks { credit.clone() } else { Credit::None },
            }))
        });
        let wakers = wakers.collect();
        messages.clear();
        wakers
    }

    /// Ends every queue, those of today and those of later. Returns whom to wake.
    pub(crate) fn end(&mut self, reason: &RecvError) -> Vec<Wakers> {
        if self.ended.is_none() {
            self.ended = Some(Box::new(reason.clone()));
        }
        self.inbox.iter().chain(&self.open).map(|queue| queue.end(reason.clone())).collect()
    }

    /// Gives spare memory back.
    pub(crate) fn shrink(&self) {
        for queue in self.inbox.iter().chain(&self.open) {
            queue.state().entries.shrink_to_fit();
        }
    }

    /// Whoever waits, to be woken so that deadlines are looked at.
    pub(crate) fn waiting(&self) -> Vec<Wakers> {
        self.inbox.iter().chain(&self.open).map(|queue| queue.state().wakers.take()).collect()
    }

    fn remove(&mut self, queue: &Arc<Queue>) {
        self.open.retain(|open| !Arc::ptr_eq(open, queue));
    }
}

/// A queue of its own that sees every message of a connection from the moment of its creation on, in order.
///
/// Any number may be open on one connection, each with its [`ReaderOptions`]; while at least one is open, messages go
/// to the readers and not to the inbox behind [`Connection::recv`](crate::Connection::recv). Replies to
/// [`Connection::request`](crate::Connection::request) are seen by readers too. Dropping a reader closes it.
pub struct Reader {
    connection: Arc<Shared>,
    queue: Arc<Queue>,
}

impl Reader {
    pub(crate) fn open(connection: Arc<Shared>, options: ReaderOptions) -> Reader {
        let queue = {
            let mut readers = connection.readers();
            let queue = readers.open(options);
            connection.open_readers.store(readers.open.len(), Ordering::Release);
            queue
        };
        Reader { connection, queue }
    }

    /// The next message: a future for any executor.
    ///
    /// # Errors
    ///
    /// [`RecvError::Overflow`] when this reader's policy is [`Overflow::Fail`] and it fell behind, [`RecvError::Deadline`]
    /// when the connection's read deadline passed, else why the connection ended, after the last message.
    pub fn recv(&self) -> Recv<'_> {
        Recv { connection: &self.connection, queue: QueueRef::Borrowed(&self.queue), key: None }
    }

    /// The blocking twin of [`Reader::recv`].
    pub fn recv_blocking(&self) -> Result<Message, RecvError> {
        block_on(self.recv())
    }

    /// The next message if one has arrived: `Ok(None)` when there is none yet.
    pub fn try_recv(&self) -> Result<Option<Message>, RecvError> {
        self.queue.pop(&self.connection)
    }

    /// How many messages this reader has dropped by [`Overflow::DropOldest`].
    pub fn dropped(&self) -> u64 {
        self.queue.state().dropped
    }

    /// Closes the reader. The same as dropping it.
    pub fn close(self) {}
}

impl Drop for Reader {
    fn drop(&mut self) {
        {
            let mut readers = self.connection.readers();
            readers.remove(&self.queue);
            self.connection.open_readers.store(readers.open.len(), Ordering::Release);
        }
        self.queue.detach(&self.connection);
    }
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("options", &self.queue.options).finish_non_exhaustive()
    }
}

enum QueueRef<'a> {
    Borrowed(&'a Arc<Queue>),
    Owned(Arc<Queue>),
}

/// The future of [`Connection::recv`](crate::Connection::recv) and [`Reader::recv`]. Dropping it loses no message.
#[must_use = "futures do nothing unless polled"]
pub struct Recv<'a> {
    connection: &'a Arc<Shared>,
    queue: QueueRef<'a>,
    key: WaitKey,
}

impl<'a> Recv<'a> {
    pub(crate) fn from_inbox(connection: &'a Arc<Shared>, inbox: Arc<Queue>) -> Recv<'a> {
        Recv { connection, queue: QueueRef::Owned(inbox), key: None }
    }

    fn queue(&self) -> &Arc<Queue> {
        match &self.queue {
            QueueRef::Borrowed(queue) => queue,
            QueueRef::Owned(queue) => queue,
        }
    }
}

impl Future for Recv<'_> {
    type Output = Result<Message, RecvError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let queue = Arc::clone(this.queue());
        if let Some(message) = queue.pop(this.connection)? {
            return Poll::Ready(Ok(message));
        }
        queue.state().wakers.register(&mut this.key, cx.waker());
        // Once more, because a message or a new deadline may have come before the registration.
        if let Some(message) = queue.pop(this.connection)? {
            return Poll::Ready(Ok(message));
        }
        match this.connection.read_deadline() {
            Some(deadline) if Instant::now() >= deadline => Poll::Ready(Err(RecvError::Deadline)),
            _ => Poll::Pending,
        }
    }
}

impl Drop for Recv<'_> {
    fn drop(&mut self) {
        if self.key.is_some() {
            let key = self.key.take();
            self.queue().state().wakers.forget(key);
        }
    }
}

impl std::fmt::Debug for Recv<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Recv")
    }
}
