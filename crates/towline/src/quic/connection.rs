//! Connections as other threads hold them: a queue of what to do, and futures for what comes.

use std::collections::VecDeque;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use rustls_pki_types::CertificateDer;

use crate::context::Thread;
use crate::runtime::{Command, QuicCommand};
use crate::waiter::{WaitKey, WakerSet, block_on};

use super::stream::StreamShared;
use super::{
    Active, Closed, ConnectError, Connected, ConnectionStats, DatagramIoError, DatagramOptions,
    Direction, Ended, IoError, MigrateError, RecvStream, SendStream, StreamError, StreamId,
    TooLate, Verdict,
};

/// No place on the I/O thread: not yet, or not any more.
pub(crate) const NOWHERE: usize = usize::MAX;

/// What other threads want of a connection.
pub(crate) enum Op {
    /// Open a stream for futures.
    Open(Direction, Arc<Answer<Result<Arc<StreamShared>, IoError>>>),
    /// Bytes for a stream of futures; `true`: its end.
    Send(StreamId, Bytes, bool),
    /// The reader has room again.
    ReadOn(StreamId),
    /// Anything.
    Run(Box<dyn FnOnce(&mut Active<'_>) + Send>),
    /// Move to another address.
    Migrate(SocketAddr, Arc<Answer<Result<SocketAddr, MigrateFailed>>>),
    /// The last handle of a connection without a handler is gone.
    Orphaned,
}

/// What the I/O thread and the handles share.
pub(crate) struct Shared {
    pub(crate) thread: Arc<Thread>,
    /// The connection's place in its thread.
    pub(crate) slot: AtomicUsize,
    state: Mutex<State>,
}

/// Inside the lock.
pub(crate) struct State {
    pub(crate) ops: Vec<Op>,
    pub(crate) scheduled: bool,
    pub(crate) phase: Phase,
    pub(crate) local: Option<SocketAddr>,
    pub(crate) remote: Option<SocketAddr>,
    pub(crate) chain: Option<Vec<CertificateDer<'static>>>,
    /// Streams that the peer opened, by direction, for whoever accepts them.
    pub(crate) incoming: [VecDeque<Arc<StreamShared>>; 2],
    pub(crate) datagrams: VecDeque<Bytes>,
    pub(crate) datagram_bytes: usize,
    pub(crate) waiting: WakerSet,
}

/// How far a connection is.
pub(crate) enum Phase {
    Connecting,
    Connected(Connected),
    Failed(ConnectError),
    Ended(Closed),
}

/// Bytes of datagrams that wait for [`Connection::read_datagram`]; the oldest are dropped beyond.
pub(crate) const DATAGRAM_INBOX: usize = 1 << 20;

impl Shared {
    pub(crate) fn new(thread: Arc<Thread>) -> Arc<Shared> {
        let state = State {
            ops: Vec::new(),
            scheduled: false,
            phase: Phase::Connecting,
            local: None,
            remote: None,
            chain: None,
            incoming: Default::default(),
            datagrams: VecDeque::new(),
            datagram_bytes: 0,
            waiting: WakerSet::default(),
        };
        Arc::new(Shared { thread, slot: AtomicUsize::new(NOWHERE), state: Mutex::new(state) })
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues an op; the thread is told of the first of them.
    pub(crate) fn push(self: &Arc<Self>, op: Op) -> Result<(), Ended> {
        {
            let mut state = self.state();
            if let Some(ended) = state.ended() {
                return Err(ended);
            }
            state.ops.push(op);
            if std::mem::replace(&mut state.scheduled, true) {
                return Ok(());
            }
        }
        let command = Command::Quic(QuicCommand::Serve(Arc::clone(self)));
        self.thread.command(command).map_err(|_| Ended::Stopped)
    }
}

impl State {
    pub(crate) fn ended(&self) -> Option<Ended> {
        match &self.phase {
            Phase::Ended(closed) => Some(closed.ended.clone()),
            Phase::Failed(ConnectError::Failed { ended, .. }) => Some(ended.clone()),
            Phase::Failed(_) => Some(Ended::Stopped),
            Phase::Connecting | Phase::Connected(_) => None,
        }
    }
}

/// An answer from the I/O thread, given once.
pub(crate) struct Answer<T> {
    state: Mutex<(Option<T>, WakerSet)>,
}

impl<T> Answer<T> {
    pub(crate) fn new() -> Arc<Answer<T>> {
        Arc::new(Answer { state: Mutex::new((None, WakerSet::default())) })
    }

    pub(crate) fn give(&self, value: T) {
        let wakers = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.0 = Some(value);
            state.1.take()
        };
        wakers.wake();
    }

    fn poll(&self, key: &mut WaitKey, cx: &mut Context<'_>) -> Poll<T> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match state.0.take() {
            Some(value) => Poll::Ready(value),
            None => {
                state.1.register(key, cx.waker());
                Poll::Pending
            }
        }
    }

    pub(crate) async fn wait(self: Arc<Self>) -> T {
        let mut key = None;
        std::future::poll_fn(|cx| self.poll(&mut key, cx)).await
    }
}

/// An answer that comes for certain: with the end of the connection if nothing else comes first.
struct Owed<T: FnOnce()>(Option<T>);

impl<T: FnOnce()> Owed<T> {
    fn settle(&mut self) {
        self.0 = None;
    }
}

impl<T: FnOnce()> Drop for Owed<T> {
    fn drop(&mut self) {
        if let Some(last) = self.0.take() {
            last();
        }
    }
}

/// Closes a connection without a handler with its last handle.
pub(crate) struct Guard(Arc<Shared>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.push(Op::Orphaned).ok();
    }
}

/// Why a connection is where it was.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MigrateFailed {
    /// It may not move, or not now.
    #[error(transparent)]
    Refused(#[from] MigrateError),
    /// No socket could be bound there.
    #[error("no socket at {address}: {reason}")]
    Socket {
        /// The address wanted.
        address: SocketAddr,
        /// What the system says.
        reason: Arc<str>,
    },
    /// Nothing answered on the new path.
    #[error("nothing answered on the path from {0}")]
    NoAnswer(SocketAddr),
    /// The connection ended.
    #[error("the connection ended: {0}")]
    Ended(Ended),
}

/// A QUIC connection, for any thread. Cheap to clone.
///
/// What is asked here is done by the connection's I/O thread, in order. A connection made without a [`Handler`](super::Handler) ends, with code 0, when its last handle and its last stream are
/// dropped; one with a handler belongs to the handler.
#[derive(Clone)]
pub struct Connection {
    pub(crate) shared: Arc<Shared>,
    _guard: Option<Arc<Guard>>,
}

impl Connection {
    pub(crate) fn new(shared: Arc<Shared>, guarded: bool) -> Connection {
        let guard = guarded.then(|| Arc::new(Guard(Arc::clone(&shared))));
        Connection { shared, _guard: guard }
    }

    /// Does something on the connection's I/O thread, at once and in order with everything else that is asked. The closure must not block.
    ///
    /// # Errors
    /// The connection has ended. If it ends before its turn, the closure is dropped.
    pub fn run(&self, act: impl FnOnce(&mut Active<'_>) + Send + 'static) -> Result<(), Ended> {
        self.shared.push(Op::Run(Box::new(act)))
    }

    /// [`run`](Self::run) with an answer.
    ///
    /// # Errors
    /// The connection ended before its turn.
    pub async fn ask<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut Active<'_>) -> T + Send + 'static,
    ) -> Result<T, Ended> {
        let answer = Answer::new();
        let (told, shared) = (Arc::clone(&answer), Arc::clone(&self.shared));
        let unanswered = Arc::clone(&answer);
        let mut owed = Owed(Some(move || {
            unanswered.give(Err(shared.state().ended().unwrap_or(Ended::Stopped)));
        }));
        self.run(move |active| {
            owed.settle();
            told.give(Ok(act(active)));
        })?;
        answer.wait().await
    }

    /// What the handshake agreed on, once it is complete.
    pub fn connected(&self) -> Option<Connected> {
        match &self.shared.state().phase {
            Phase::Connected(connected) => Some(connected.clone()),
            _ => None,
        }
    }

    /// How it ended, once it has.
    pub fn ended(&self) -> Option<Ended> {
        self.shared.state().ended()
    }

    /// The peer's address now, once known.
    pub fn remote_address(&self) -> Option<SocketAddr> {
        self.shared.state().remote
    }

    /// The local address, once one is known: that of a listener's, or the one that the connection moved to.
    pub fn local_address(&self) -> Option<SocketAddr> {
        self.shared.state().local
    }

    /// The peer's certificate chain, its own first, once the handshake is complete.
    pub fn peer_certificates(&self) -> Option<Vec<CertificateDer<'static>>> {
        self.shared.state().chain.clone()
    }

    /// Waits for the end.
    pub async fn closed(&self) -> Ended {
        self.wait(|state| state.ended()).await
    }

    async fn wait<T>(&self, mut ready: impl FnMut(&mut State) -> Option<T>) -> T {
        let mut key = None;
        std::future::poll_fn(|cx| {
            let mut state = self.shared.state();
            match ready(&mut state) {
                Some(value) => Poll::Ready(value),
                None => {
                    state.waiting.register(&mut key, cx.waker());
                    Poll::Pending
                }
            }
        })
        .await
    }

    async fn open(&self, direction: Direction) -> Result<Arc<StreamShared>, IoError> {
        let answer = Answer::new();
        let op = Op::Open(direction, Arc::clone(&answer));
        self.shared.push(op).map_err(IoError::Ended)?;
        answer.wait().await
    }

    /// Opens a stream that carries data both ways; waits while the peer allows no more.
    ///
    /// # Errors
    /// The connection ended, or too many wait already.
    pub async fn open_bi(&self) -> Result<(SendStream, RecvStream), IoError> {
        let stream = self.open(Direction::Bidirectional).await?;
        Ok((
            SendStream::new(Arc::clone(&stream), self.clone()),
            RecvStream::new(stream, self.clone()),
        ))
    }

    /// Opens a stream that carries data to the peer; waits while the peer allows no more.
    ///
    /// # Errors
    /// The connection ended, or too many wait already.
    pub async fn open_uni(&self) -> Result<SendStream, IoError> {
        let stream = self.open(Direction::Unidirectional).await?;
        Ok(SendStream::new(stream, self.clone()))
    }

    async fn accept(&self, direction: usize) -> Result<Arc<StreamShared>, Ended> {
        self.wait(|state| {
            let next = state.incoming.get_mut(direction).and_then(VecDeque::pop_front);
            next.map(Ok).or_else(|| state.ended().map(Err))
        })
        .await
    }

    /// The next stream both ways that the peer opened.
    ///
    /// # Errors
    /// The connection ended.
    pub async fn accept_bi(&self) -> Result<(SendStream, RecvStream), Ended> {
        let stream = self.accept(0).await?;
        Ok((
            SendStream::new(Arc::clone(&stream), self.clone()),
            RecvStream::new(stream, self.clone()),
        ))
    }

    /// The next stream to us that the peer opened.
    ///
    /// # Errors
    /// The connection ended.
    pub async fn accept_uni(&self) -> Result<RecvStream, Ended> {
        let stream = self.accept(1).await?;
        Ok(RecvStream::new(stream, self.clone()))
    }

    /// Sends a datagram (RFC 9221): once, unordered, and lost when its packet is.
    ///
    /// # Errors
    /// The peer takes none, it is too long for the path, or the queue is full.
    pub async fn send_datagram(&self, data: Bytes) -> Result<(), DatagramIoError> {
        let sent = self
            .ask(move |active| active.send_datagram(data, DatagramOptions::default()).map(|_| ()));
        sent.await.map_err(DatagramIoError::Ended)?.map_err(DatagramIoError::Refused)
    }

    /// The next datagram that came. At most 1 MiB of them wait; the oldest are dropped beyond.
    ///
    /// # Errors
    /// The connection ended.
    pub async fn read_datagram(&self) -> Result<Bytes, Ended> {
        self.wait(|state| {
            let next = state.datagrams.pop_front();
            if let Some(data) = &next {
                state.datagram_bytes -= data.len();
            }
            next.map(Ok).or_else(|| state.ended().map(Err))
        })
        .await
    }

    /// Moves to another local address, port 0 for any: tries the path first, and tells where the connection is then.
    ///
    /// # Errors
    /// The connection stays where it was; see [`MigrateFailed`].
    pub async fn migrate(&self, local: SocketAddr) -> Result<SocketAddr, MigrateFailed> {
        let answer = Answer::new();
        let op = Op::Migrate(local, Arc::clone(&answer));
        self.shared.push(op).map_err(MigrateFailed::Ended)?;
        answer.wait().await
    }

    /// The verdict that [`Handler::peer_cert_received`](super::Handler::peer_cert_received) put off.
    ///
    /// # Errors
    /// The connection has ended. A verdict that comes too late changes nothing.
    pub fn certificate_verdict(&self, verdict: Verdict) -> Result<(), Ended> {
        self.run(move |active| {
            let _: Result<(), TooLate> = active.certificate_verdict(verdict);
        })
    }

    /// Counters.
    ///
    /// # Errors
    /// The connection has ended.
    pub async fn stats(&self) -> Result<ConnectionStats, Ended> {
        self.ask(|active| active.stats()).await
    }

    /// Closes with the application's code, at most 2^62 - 1, and text. What is unacknowledged is given up.
    pub fn close(&self, code: u64, reason: impl Into<Bytes>) {
        let reason = reason.into();
        self.run(move |active| active.close(code, reason)).ok();
    }

    /// Whether both are the same connection.
    pub fn is_same(&self, other: &Connection) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.shared.state();
        let mut f = f.debug_struct("Connection");
        f.field("remote", &state.remote).field("ended", &state.ended()).finish_non_exhaustive()
    }
}

/// A connection on its way: a future that is done when the handshake is.
#[must_use = "a dial that is dropped without `connection` is given up"]
#[derive(Debug)]
pub struct Connecting {
    pub(crate) connection: Connection,
    pub(crate) key: WaitKey,
}

impl Connecting {
    /// The handle already now. With a ticket that allows it, streams opened at once go as 0-RTT data when that is allowed for each send.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Waits on this thread.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub fn wait(self) -> Result<Connection, ConnectError> {
        block_on(self)
    }
}

impl Future for Connecting {
    type Output = Result<Connection, ConnectError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let mut state = this.connection.shared.state();
        match &state.phase {
            Phase::Connecting => {
                state.waiting.register(&mut this.key, cx.waker());
                Poll::Pending
            }
            Phase::Failed(error) => Poll::Ready(Err(error.clone())),
            // One that ended so soon says so at its first use.
            Phase::Connected(_) | Phase::Ended(_) => {
                drop(state);
                Poll::Ready(Ok(this.connection.clone()))
            }
        }
    }
}

impl From<StreamError> for IoError {
    fn from(error: StreamError) -> IoError {
        match error {
            StreamError::Reset(code) => IoError::Reset(code),
            StreamError::Stopped(code) => IoError::Stopped(code),
            error => IoError::Stream(error),
        }
    }
}
