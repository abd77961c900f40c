//! The runner: nodes on hosts, driven through one virtual time.

mod node;

use std::any::Any;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

pub use node::{Node, StreamIo, Transmit};

use crate::agenda::Agenda;
use crate::network::{HostId, Network, NetworkError, SocketId};
use crate::stream::StreamNetwork;
use crate::time::{Clock, NEVER, Nanos, nanos};

/// Names a node of one [`Simulation`], with its type.
pub struct NodeId<T> {
    index: usize,
    kind: PhantomData<fn() -> T>,
}

impl<T> NodeId<T> {
    /// Its number, counted from 0 in order of creation; also the owner number of its streams.
    pub fn index(self) -> usize {
        self.index
    }
}

impl<T> Clone for NodeId<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for NodeId<T> {}

impl<T> fmt::Debug for NodeId<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeId({})", self.index)
    }
}

/// Why a run stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The condition holds.
    Condition,
    /// The time has come.
    Deadline,
    /// Nothing is left that could happen: no packet on its way, no deadline, no step of a schedule.
    Idle,
}

/// What a node did last, in an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// Its deadline fired.
    Timeout,
    /// It sent.
    Transmit,
    /// It was given a datagram.
    Datagram,
    /// It was told about a stream.
    Stream,
}

/// A run that cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScenarioError {
    /// A node keeps itself busy and time does not move. Its engine is at fault (a deadline that stays in the
    /// past, two nodes that answer each other over links without delay), or the limit is too low for the load.
    #[error(
        "node {node} did {events} things at {at:?} without letting time move, the last of them {last:?}"
    )]
    Livelock {
        /// Its name.
        node: String,
        /// Virtual time since the base.
        at: Duration,
        /// How many things it did at that instant.
        events: u64,
        /// The last of them.
        last: Activity,
    },
    /// A node sends but has no socket. The scenario is at fault.
    #[error("node {node} sends but has no socket")]
    NoSocket {
        /// Its name.
        node: String,
    },
    /// The network refused something.
    #[error(transparent)]
    Network(#[from] NetworkError),
}

struct Entry {
    name: String,
    host: HostId,
    node: Box<dyn Node>,
    sockets: Vec<SocketId>,
    queued: bool,
    refused: u64,
    /// Things done at the instant `counted_at`.
    events: u64,
    counted_at: Nanos,
}

type Script = Box<dyn FnOnce(&mut Simulation)>;

/// A network, nodes on its hosts, and one virtual time for all of them.
///
/// At one instant the order is: scripts, datagrams, stream events, deadlines (by node number); then each
/// node that was touched is drained, in the order in which they were touched.
pub struct Simulation {
    /// The datagram network. Schedules and statistics are there.
    pub network: Network,
    /// The byte-stream network.
    pub streams: StreamNetwork,
    clock: Clock,
    now: Nanos,
    entries: Vec<Entry>,
    /// The node of each socket.
    owners: Vec<Option<usize>>,
    /// One slot for each node's deadline.
    agenda: Agenda,
    /// Nodes to be drained.
    touched: Vec<usize>,
    scripts: BinaryHeap<Reverse<(Nanos, usize)>>,
    script_bodies: Vec<Option<Script>>,
    limit: u64,
}

impl fmt::Debug for Simulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulation")
            .field("elapsed", &self.elapsed())
            .field("nodes", &self.entries.iter().map(|entry| &entry.name).collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

impl Simulation {
    /// An empty simulation; see [`Network::new`] for the arguments.
    pub fn new(seed: u64, base: Instant) -> Self {
        Simulation {
            network: Network::new(seed, base),
            streams: StreamNetwork::new(seed, base),
            clock: Clock::new(base),
            now: 0,
            entries: Vec::new(),
            owners: Vec::new(),
            agenda: Agenda::default(),
            touched: Vec::new(),
            scripts: BinaryHeap::new(),
            script_bodies: Vec::new(),
            limit: 1_000_000,
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

    /// How many things one node may do at one instant before the run fails. Default: 1,000,000.
    pub fn set_livelock_limit(&mut self, events: u64) {
        self.limit = events;
    }

    /// Puts a node on a host. The name appears in errors.
    pub fn add_node<T: Node>(&mut self, name: &str, host: HostId, node: T) -> NodeId<T> {
        let index = self.entries.len();
        self.entries.push(Entry {
            name: name.to_owned(),
            host,
            node: Box::new(node),
            sockets: Vec::new(),
            queued: false,
            refused: 0,
            events: 0,
            counted_at: 0,
        });
        self.agenda.add();
        self.touch(index);
        NodeId { index, kind: PhantomData }
    }

    /// Opens a datagram socket for a node on its host; port 0 takes a free one.
    ///
    /// # Errors
    ///
    /// As [`Network::bind`].
    pub fn bind<T>(
        &mut self,
        node: NodeId<T>,
        address: SocketAddr,
    ) -> Result<SocketId, NetworkError> {
        let entry = self.entries.get_mut(node.index);
        let entry = entry.ok_or_else(|| NetworkError::Unknown(format!("node {}", node.index)))?;
        let socket = self.network.bind(entry.host, address)?;
        entry.sockets.push(socket);
        if self.owners.len() <= socket.index() {
            self.owners.resize(socket.index() + 1, None);
        }
        self.owners[socket.index()] = Some(node.index);
        Ok(socket)
    }

    /// A node.
    ///
    /// # Panics
    ///
    /// When `id` is of another simulation.
    pub fn node<T: Node>(&self, id: NodeId<T>) -> &T {
        let node: &dyn Any = &*self.entries[id.index].node;
        node.downcast_ref().expect("the identifier is of this simulation")
    }

    /// A node, to command it or to put another one in its place. It is drained when the run goes on.
    ///
    /// # Panics
    ///
    /// When `id` is of another simulation.
    pub fn node_mut<T: Node>(&mut self, id: NodeId<T>) -> &mut T {
        self.touch(id.index);
        let node: &mut dyn Any = &mut *self.entries[id.index].node;
        node.downcast_mut().expect("the identifier is of this simulation")
    }

    /// How many datagrams of a node were refused because it has no socket with the source that they named, as a
    /// kernel refuses them after an address is gone.
    pub fn refused_transmits<T>(&self, id: NodeId<T>) -> u64 {
        self.entries.get(id.index).map_or(0, |entry| entry.refused)
    }

    /// Runs `script` at a virtual time since the base, at once when that has passed. What is given for one instant
    /// runs in the order of the calls.
    pub fn at(&mut self, time: Duration, script: impl FnOnce(&mut Simulation) + 'static) {
        self.scripts.push(Reverse((nanos(time).max(self.now), self.script_bodies.len())));
        self.script_bodies.push(Some(Box::new(script)));
    }

    /// Runs until a virtual time since the base. Time stands there afterwards, also when nothing was left to do;
    /// with [`Duration::MAX`] it runs until nothing is left and time stays at the last event.
    ///
    /// # Errors
    ///
    /// [`ScenarioError`].
    pub fn run_to(&mut self, time: Duration) -> Result<Stop, ScenarioError> {
        self.run_until(time, |_| false)
    }

    /// Runs for a while.
    ///
    /// # Errors
    ///
    /// [`ScenarioError`].
    pub fn run_for(&mut self, time: Duration) -> Result<Stop, ScenarioError> {
        self.run_to(self.elapsed().saturating_add(time))
    }

    /// Runs until `condition` holds, at most until a virtual time since the base. The condition is looked at before
    /// anything happens and after each instant.
    ///
    /// # Errors
    ///
    /// [`ScenarioError`].
    pub fn run_until(
        &mut self,
        time: Duration,
        mut condition: impl FnMut(&Simulation) -> bool,
    ) -> Result<Stop, ScenarioError> {
        let until = nanos(time);
        loop {
            self.settle()?;
            if condition(self) {
                return Ok(Stop::Condition);
            }
            let next = self.next_event();
            if next > until || next == NEVER {
                if until != NEVER {
                    self.move_to(until.max(self.now));
                }
                return Ok(if next == NEVER { Stop::Idle } else { Stop::Deadline });
            }
            self.move_to(next);
            self.run_scripts();
            self.run_deadlines()?;
        }
    }

    fn next_event(&mut self) -> Nanos {
        let network = self.network.next_event();
        let streams = self.streams.next_event();
        let nodes = self.agenda.first().map_or(NEVER, |(at, _)| at);
        let scripts = self.scripts.peek().map_or(NEVER, |Reverse((at, _))| *at);
        let next = network.min(streams).min(nodes).min(scripts);
        if next == NEVER { NEVER } else { next.max(self.now) }
    }

    fn move_to(&mut self, at: Nanos) {
        self.now = at;
        self.network.advance(at);
        self.streams.advance(at);
    }

    fn touch(&mut self, index: usize) {
        if let Some(entry) = self.entries.get_mut(index)
            && !entry.queued
        {
            entry.queued = true;
            self.touched.push(index);
        }
    }

    /// Counts one thing done, so that a node that never ends is found.
    fn count(&mut self, index: usize, last: Activity) -> Result<(), ScenarioError> {
        let Some(entry) = self.entries.get_mut(index) else { return Ok(()) };
        if entry.counted_at != self.now {
            entry.counted_at = self.now;
            entry.events = 0;
        }
        entry.events += 1;
        if entry.events <= self.limit {
            return Ok(());
        }
        let at = Duration::from_nanos(self.now);
        Err(ScenarioError::Livelock { node: entry.name.clone(), at, events: entry.events, last })
    }

    fn run_scripts(&mut self) {
        while let Some(Reverse((_, index))) =
            self.scripts.peek().copied().filter(|Reverse((at, _))| *at <= self.now)
        {
            self.scripts.pop();
            if let Some(script) = self.script_bodies.get_mut(index).and_then(Option::take) {
                script(self);
            }
        }
    }

    fn run_deadlines(&mut self) -> Result<(), ScenarioError> {
        self.hand_out()?;
        let now = self.now();
        while let Some((_, index)) = self.agenda.first().filter(|(at, _)| *at <= self.now) {
            self.count(index, Activity::Timeout)?;
            self.agenda.set(index, NEVER);
            if let Some(entry) = self.entries.get_mut(index) {
                entry.node.handle_timeout(now);
            }
            self.touch(index);
        }
        Ok(())
    }

    /// Gives the nodes everything that has come out of the networks.
    fn hand_out(&mut self) -> Result<(), ScenarioError> {
        let now = self.now();
        while let Some(change) = self.network.poll_readdressed() {
            if let Some(index) = self.owner(change.socket) {
                self.entries[index].node.handle_readdressed(now, change);
                self.touch(index);
            }
        }
        while let Some(delivery) = self.network.poll_delivery() {
            if let Some(index) = self.owner(delivery.socket) {
                self.count(index, Activity::Datagram)?;
                self.entries[index].node.handle_datagram(now, delivery);
                self.touch(index);
            }
        }
        while let Some(event) = self.streams.poll_event() {
            let index = event.owner;
            self.count(index, Activity::Stream)?;
            if let Some(entry) = self.entries.get_mut(index) {
                entry.node.handle_stream(
                    now,
                    event,
                    &mut StreamIo { streams: &mut self.streams, owner: index },
                );
                self.touch(index);
            }
        }
        Ok(())
    }

    fn owner(&self, socket: SocketId) -> Option<usize> {
        self.owners.get(socket.index()).copied().flatten()
    }

    /// Drains the touched nodes until nothing more happens at this instant without the networks.
    fn settle(&mut self) -> Result<(), ScenarioError> {
        self.hand_out()?;
        while !self.touched.is_empty() {
            let mut touched = std::mem::take(&mut self.touched);
            for index in touched.drain(..) {
                self.drain(index)?;
            }
            if self.touched.is_empty() {
                // Keeps the allocation.
                self.touched = touched;
            }
            self.hand_out()?;
        }
        Ok(())
    }

    fn drain(&mut self, index: usize) -> Result<(), ScenarioError> {
        let now = self.now();
        let Some(entry) = self.entries.get_mut(index) else { return Ok(()) };
        entry.queued = false;
        entry.node.poll_streams(now, &mut StreamIo { streams: &mut self.streams, owner: index });
        while let Some(transmit) =
            self.entries.get_mut(index).and_then(|entry| entry.node.poll_transmit(now))
        {
            self.transmit(index, transmit)?;
        }
        let deadline = self.entries.get_mut(index).and_then(|entry| entry.node.poll_timeout());
        self.agenda.set(index, deadline.map_or(NEVER, |at| self.clock.nanos(at)));
        Ok(())
    }

    fn transmit(&mut self, index: usize, transmit: Transmit) -> Result<(), ScenarioError> {
        let Some(entry) = self.entries.get_mut(index) else { return Ok(()) };
        let first = *entry
            .sockets
            .first()
            .ok_or_else(|| ScenarioError::NoSocket { node: entry.name.clone() })?;
        let socket = match transmit.source {
            None => Some(first),
            Some(source) => {
                let network = &self.network;
                entry
                    .sockets
                    .iter()
                    .copied()
                    .find(|socket| network.local_address(*socket) == Ok(source))
            }
        };
        let Some(socket) = socket else {
            entry.refused += 1;
            return self.count(index, Activity::Transmit);
        };
        let mut rest = transmit.contents;
        let size = transmit.segment_size.filter(|size| *size > 0).unwrap_or(rest.len());
        loop {
            self.count(index, Activity::Transmit)?;
            let segment = rest.split_to(size.min(rest.len()));
            self.network.send(socket, transmit.destination, transmit.ecn, segment)?;
            if rest.is_empty() {
                return Ok(());
            }
        }
    }

    /// A digest of both networks; see [`Network::enable_digest`].
    pub fn digest(&mut self) -> u64 {
        self.network.digest() ^ self.streams.digest().rotate_left(32)
    }
}
