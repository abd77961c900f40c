//! Byte-stream connections in virtual time, for engines that run over TCP.
//!
//! A connection is a pair of [pipes](StreamConfig) with what TCP shows to a program: connecting takes a round
//! trip and may be refused or never answered; bytes arrive in order in pieces of any size; buffers are bounded
//! and push back; ends are orderly (FIN), abrupt (RST), or never told. It is no model of TCP's own behaviour.

mod config;
mod connection;
mod pipe;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;

pub use config::{Attempt, Chunking, Cut, Direction, Fault, StreamConfig};
use connection::Connection;

use crate::link::ConfigError;
use crate::random::{Random, key};
use crate::time::{Clock, NEVER, Nanos, nanos};
use crate::trace::{Digest, address};

/// Names one end of one connection. Never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId {
    connection: u32,
    acceptor: bool,
}

impl StreamId {
    /// The other end of the connection.
    pub fn peer(self) -> Self {
        StreamId { acceptor: !self.acceptor, ..self }
    }

    /// Which connection of the network it is, counted from 0 in the order of the attempts.
    pub fn connection(self) -> usize {
        self.connection as usize
    }

    /// Whether this is the end that connected.
    pub fn is_connector(self) -> bool {
        !self.acceptor
    }

    /// The direction of what this end writes.
    pub fn direction(self) -> Direction {
        if self.acceptor { Direction::FromAcceptor } else { Direction::FromConnector }
    }

    fn side(self) -> usize {
        usize::from(self.acceptor)
    }
}

/// Who is told about a connection: whatever number the caller likes. The scenario runner uses node numbers.
pub type Owner = usize;

/// What happened at one end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamEvent {
    /// When.
    pub at: Instant,
    /// Who opened or accepted the connection.
    pub owner: Owner,
    /// At which end.
    pub stream: StreamId,
    /// What.
    pub kind: StreamEventKind,
}

/// The kinds of [`StreamEvent`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StreamEventKind {
    /// The attempt of this end succeeded.
    Connected,
    /// The attempt of this end failed; the stream is gone.
    Failed(ConnectFailure),
    /// A listener accepted this stream.
    Accepted {
        /// The listening address.
        local: SocketAddr,
        /// The address that connected.
        peer: SocketAddr,
    },
    /// Bytes arrived.
    Readable,
    /// A write was cut short before and there is room again.
    Writable,
    /// The peer's direction is over. After [`Closure::Fin`] this end can go on writing.
    Closed(Closure),
}

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Closure {
    /// In order: the peer wrote all that it had.
    Fin,
    /// By a reset: both directions are over. What arrived before can still be read.
    Reset,
}

/// Why an attempt to connect failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConnectFailure {
    /// Nobody listens there, or the listener refused.
    Refused,
    /// No answer within the connect timeout.
    TimedOut,
}

/// A mistake in using a [`StreamNetwork`], or a stream that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// A stream of another network.
    #[error("no such stream")]
    Unknown,
    /// It is not connected yet.
    #[error("the stream is not connected yet")]
    NotConnected,
    /// This end has finished its direction.
    #[error("written after the end")]
    Finished,
    /// The connection was reset.
    #[error("the stream was reset")]
    Reset,
    /// The address has a listener already.
    #[error("{0} is in use")]
    AddressInUse(SocketAddr),
}

/// What one direction of a connection counted, in bytes.
///
/// At any time `written = arrived + lost` + what waits or is on the way; `read <= arrived`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamStats {
    /// Accepted from the writer.
    pub written: u64,
    /// Put into the reader's buffer.
    pub arrived: u64,
    /// Taken by the reader.
    pub read: u64,
    /// Lost to a fault.
    pub lost: u64,
}

#[derive(Debug)]
struct Listener {
    address: SocketAddr,
    owner: Owner,
}

/// A deterministic network of byte-stream connections in virtual time.
///
/// ```
/// use std::time::{Duration, Instant};
/// use bytes::Bytes;
/// use towline_sim::{StreamConfig, StreamEventKind, StreamNetwork};
///
/// let mut streams = StreamNetwork::new(1, Instant::now());
/// streams.set_default(StreamConfig::new().delay(Duration::from_millis(20))).unwrap();
/// let server = "10.0.0.2:80".parse().unwrap();
/// streams.listen(2, server).unwrap();
/// let client = streams.connect(1, "10.0.0.1:5000".parse().unwrap(), server);
///
/// streams.step(); // half a round trip: accepted
/// streams.step(); // the whole: connected
/// streams.write(client, &mut Bytes::from_static(b"hello")).unwrap();
/// while streams.step().is_some() {}
/// assert_eq!(streams.elapsed(), Duration::from_millis(60));
///
/// let events: Vec<_> = std::iter::from_fn(|| streams.poll_event()).map(|event| event.kind).collect();
/// assert_eq!(events[1..], [StreamEventKind::Connected, StreamEventKind::Readable]);
/// assert_eq!(streams.read(client.peer(), 100).unwrap(), "hello");
/// ```
#[derive(Debug)]
pub struct StreamNetwork {
    clock: Clock,
    now: Nanos,
    seed: u64,
    default: StreamConfig,
    /// One direction each, from an address to another.
    paths: Vec<(IpAddr, IpAddr, StreamConfig)>,
    connect_timeout: Nanos,
    listeners: Vec<Listener>,
    scripts: Vec<(SocketAddr, VecDeque<Attempt>)>,
    unreachable: Vec<(IpAddr, IpAddr)>,
    /// Kept after their end, so that their statistics can be asked for.
    connections: Vec<Connection>,
    /// When to look at which connection; superseded entries are recognised by the connection's own time.
    due: BinaryHeap<Reverse<(Nanos, u32)>>,
    events: VecDeque<StreamEvent>,
    digest: Digest,
}

impl StreamNetwork {
    /// An empty network; see [`Network::new`](crate::Network::new) for the arguments.
    pub fn new(seed: u64, base: Instant) -> Self {
        StreamNetwork {
            clock: Clock::new(base),
            now: 0,
            seed,
            default: StreamConfig::new(),
            paths: Vec::new(),
            connect_timeout: nanos(Duration::from_secs(10)),
            listeners: Vec::new(),
            scripts: Vec::new(),
            unreachable: Vec::new(),
            connections: Vec::new(),
            due: BinaryHeap::new(),
            events: VecDeque::new(),
            digest: Digest::new(),
        }
    }

    /// The virtual now.
    pub fn now(&self) -> Instant {
        self.clock.instant(self.now)
    }

    /// Virtual time since the base.
    pub fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.now)
    }

    /// The behaviour of both directions of connections to be made, where no path says otherwise.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] when the configuration does not check.
    pub fn set_default(&mut self, config: StreamConfig) -> Result<(), ConfigError> {
        config.check()?;
        self.default = config;
        Ok(())
    }

    /// The behaviour of the direction from one IP address to another, of connections to be made.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] when the configuration does not check.
    pub fn set_path(
        &mut self,
        from: IpAddr,
        to: IpAddr,
        config: StreamConfig,
    ) -> Result<(), ConfigError> {
        config.check()?;
        self.paths.retain(|(a, b, _)| (*a, *b) != (from, to));
        self.paths.push((from, to, config));
        Ok(())
    }

    /// After how long an attempt without an answer fails. Default: 10 s.
    pub fn set_connect_timeout(&mut self, timeout: Duration) {
        self.connect_timeout = nanos(timeout);
    }

    /// Accepts connections at an address.
    ///
    /// # Errors
    ///
    /// [`StreamError::AddressInUse`].
    pub fn listen(&mut self, owner: Owner, address: SocketAddr) -> Result<(), StreamError> {
        if self.listeners.iter().any(|listener| listener.address == address) {
            return Err(StreamError::AddressInUse(address));
        }
        self.listeners.push(Listener { address, owner });
        Ok(())
    }

    /// Stops to accept. Connections made before stay; attempts from now on are refused.
    pub fn unlisten(&mut self, address: SocketAddr) {
        self.listeners.retain(|listener| listener.address != address);
    }

    /// What the next attempts to connect to `address` meet, one after another. Those after the last are accepted
    /// without cuts, or refused when nobody listens.
    pub fn script(&mut self, address: SocketAddr, attempts: impl IntoIterator<Item = Attempt>) {
        match self.scripts.iter_mut().find(|(scripted, _)| *scripted == address) {
            Some((_, queue)) => queue.extend(attempts),
            None => self.scripts.push((address, attempts.into_iter().collect())),
        }
    }

    /// Starts to connect. [`StreamEventKind::Connected`] or [`StreamEventKind::Failed`] follows, never within
    /// this call.
    pub fn connect(&mut self, owner: Owner, local: SocketAddr, peer: SocketAddr) -> StreamId {
        let index = self.connections.len() as u32;
        let script = self.scripts.iter_mut().find(|(address, _)| *address == peer);
        let attempt = script.and_then(|(_, queue)| queue.pop_front());
        let attempt = attempt.unwrap_or_else(|| Attempt::Accept(Vec::new()));
        let config = |from: IpAddr, to: IpAddr| {
            let path = self.paths.iter().find(|(a, b, _)| (*a, *b) == (from, to));
            path.map_or(&self.default, |(_, _, config)| config).clone()
        };
        let configs = [config(local.ip(), peer.ip()), config(peer.ip(), local.ip())];
        let seed = Random::keyed(self.seed, &[key("stream"), u64::from(index)]).next_u64();
        let mut connection = Connection::new(owner, local, peer, configs, seed, self.now);
        connection.set_partitioned(self.is_unreachable(local.ip(), peer.ip()));
        connection.attempt(self.now, attempt, self.now.saturating_add(self.connect_timeout));
        self.connections.push(connection);
        self.refresh(index);
        StreamId { connection: index, acceptor: false }
    }

    /// Writes as much of `data` as there is room for and takes that off its front. Returns how much that was;
    /// when it was not all, [`StreamEventKind::Writable`] follows once there is room.
    ///
    /// # Errors
    ///
    /// [`StreamError`] when this end cannot write (any more, or yet).
    pub fn write(&mut self, id: StreamId, data: &mut Bytes) -> Result<usize, StreamError> {
        let written = self.connection(id)?.write(id.side(), data);
        self.refresh(id.connection);
        written
    }

    /// Bytes that a write would take now.
    pub fn room(&self, id: StreamId) -> usize {
        self.look(id).map_or(0, |connection| connection.room(id.side()))
    }

    /// Reads up to `max` bytes of the next piece, as the [`Chunking`] made it; empty when nothing is there. Read on
    /// until it is: several pieces may arrive at one instant, with one event.
    ///
    /// # Errors
    ///
    /// [`StreamError::Unknown`], [`StreamError::NotConnected`]. A reset does not stop reading what came before.
    pub fn read(&mut self, id: StreamId, max: usize) -> Result<Bytes, StreamError> {
        let data = self.connection(id)?.read(id.side(), max)?;
        if !data.is_empty() {
            self.digest.word(self.now);
            self.digest.bytes(&data);
        }
        self.refresh(id.connection);
        Ok(data)
    }

    /// Bytes that can be read now.
    pub fn readable(&self, id: StreamId) -> usize {
        self.look(id).map_or(0, |connection| connection.readable(id.side()))
    }

    /// Ends this end's direction behind what it has written (FIN). The other direction goes on.
    ///
    /// # Errors
    ///
    /// [`StreamError`] when this end cannot write (any more, or yet).
    pub fn finish(&mut self, id: StreamId) -> Result<(), StreamError> {
        let finished = self.connection(id)?.finish(id.side());
        self.refresh(id.connection);
        finished
    }

    /// Drops the connection at this end (RST, or a process that died): what is on its way in either direction
    /// is lost, this end hears nothing more, and the peer is told after the delay towards it. Also gives up an
    /// attempt to connect. Nothing happens when the stream is over.
    pub fn abort(&mut self, id: StreamId) {
        let now = self.now;
        if let Ok(connection) = self.connection(id) {
            connection.abort(now, id.side());
            self.refresh(id.connection);
        }
    }

    /// Makes something happen to a connection now. `direction` is the one that [`Fault`] speaks of.
    ///
    /// # Errors
    ///
    /// [`StreamError::Unknown`].
    pub fn inject(
        &mut self,
        id: StreamId,
        direction: Direction,
        fault: Fault,
    ) -> Result<(), StreamError> {
        let now = self.now;
        self.connection(id)?.strike(now, direction, fault);
        self.refresh(id.connection);
        Ok(())
    }

    /// Cuts two IP addresses off from each other: connections between them stand still, and so do attempts, until
    /// they time out.
    pub fn partition(&mut self, a: IpAddr, b: IpAddr) {
        if !self.is_unreachable(a, b) {
            self.unreachable.push((a, b));
        }
        self.set_partitioned(a, b, true);
    }

    /// Ends a [`partition`](StreamNetwork::partition): connections go on where they stood.
    pub fn heal(&mut self, a: IpAddr, b: IpAddr) {
        self.unreachable.retain(|pair| *pair != (a, b) && *pair != (b, a));
        self.set_partitioned(a, b, false);
    }

    fn set_partitioned(&mut self, a: IpAddr, b: IpAddr, partitioned: bool) {
        for index in 0..self.connections.len() {
            if let Some(connection) = self.connections.get_mut(index)
                && connection.is_between(a, b)
            {
                connection.set_partitioned(partitioned);
                self.refresh(index as u32);
            }
        }
    }

    fn is_unreachable(&self, a: IpAddr, b: IpAddr) -> bool {
        self.unreachable.iter().any(|pair| *pair == (a, b) || *pair == (b, a))
    }

    /// What a direction counted; `None` for a stream of another network.
    pub fn stats(&self, id: StreamId, direction: Direction) -> Option<StreamStats> {
        self.look(id).map(|connection| connection.stats(direction))
    }

    /// When something happens next; `None` when nothing will.
    pub fn next_event_time(&mut self) -> Option<Instant> {
        self.first_due().map(|(at, _)| self.clock.instant(at.max(self.now)))
    }

    /// The same for the runner, without a detour over instants.
    pub(crate) fn next_event(&mut self) -> Nanos {
        self.first_due().map_or(NEVER, |(at, _)| at)
    }

    /// Moves time to the next event and handles everything that happens at that instant.
    pub fn step(&mut self) -> Option<Instant> {
        let (at, _) = self.first_due()?;
        self.now = self.now.max(at);
        self.run();
        Some(self.now())
    }

    /// Handles everything until `to`, included, and moves time there.
    pub fn advance_to(&mut self, to: Instant) {
        self.advance(self.clock.nanos(to));
    }

    pub(crate) fn advance(&mut self, to: Nanos) {
        while let Some((at, _)) = self.first_due().filter(|(at, _)| *at <= to) {
            self.now = self.now.max(at);
            self.run();
        }
        self.now = self.now.max(to);
    }

    /// The next event, in order of time.
    pub fn poll_event(&mut self) -> Option<StreamEvent> {
        self.events.pop_front()
    }

    /// A digest of all events and of everything that was read so far.
    pub fn digest(&self) -> u64 {
        self.digest.value()
    }

    fn first_due(&mut self) -> Option<(Nanos, u32)> {
        while let Some(Reverse((at, index))) = self.due.peek().copied() {
            let current = self.connections.get(index as usize);
            if current.is_some_and(|connection| connection.due == at) {
                return Some((at, index));
            }
            self.due.pop();
        }
        None
    }

    fn run(&mut self) {
        while let Some((_, index)) = self.first_due().filter(|(at, _)| *at <= self.now) {
            let owner_at = |address: SocketAddr| {
                self.listeners
                    .iter()
                    .find(|listener| listener.address == address)
                    .map(|listener| listener.owner)
            };
            if let Some(connection) = self.connections.get_mut(index as usize) {
                connection.run(self.now, &owner_at);
            }
            self.refresh(index);
        }
    }

    /// Collects what a connection has to tell, and notes when to look at it again.
    fn refresh(&mut self, index: u32) {
        let Some(connection) = self.connections.get_mut(index as usize) else { return };
        while let Some((side, owner, kind)) = connection.poll_event() {
            let stream = StreamId { connection: index, acceptor: side == 1 };
            self.digest.word(self.now);
            self.digest.word(u64::from(index) * 2 + side as u64);
            digest_kind(&mut self.digest, kind, connection.readable(side));
            self.events.push_back(StreamEvent {
                at: self.clock.instant(self.now),
                owner,
                stream,
                kind,
            });
        }
        let next = connection.next_event();
        if next != connection.due {
            connection.due = next;
            if next != NEVER {
                self.due.push(Reverse((next, index)));
            }
        }
    }

    fn connection(&mut self, id: StreamId) -> Result<&mut Connection, StreamError> {
        self.connections.get_mut(id.connection()).ok_or(StreamError::Unknown)
    }

    fn look(&self, id: StreamId) -> Option<&Connection> {
        self.connections.get(id.connection())
    }
}

fn digest_kind(digest: &mut Digest, kind: StreamEventKind, readable: usize) {
    match kind {
        StreamEventKind::Connected => digest.word(1),
        StreamEventKind::Failed(ConnectFailure::Refused) => digest.word(2),
        StreamEventKind::Failed(ConnectFailure::TimedOut) => digest.word(3),
        StreamEventKind::Accepted { local, peer } => {
            digest.word(4);
            address(digest, local);
            address(digest, peer);
        }
        StreamEventKind::Readable => {
            digest.word(5);
            digest.word(readable as u64);
        }
        StreamEventKind::Writable => digest.word(6),
        StreamEventKind::Closed(Closure::Fin) => digest.word(7),
        StreamEventKind::Closed(Closure::Reset) => digest.word(8),
    }
}
