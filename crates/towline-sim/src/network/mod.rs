//! Hosts, links between them, routes over several hops, datagram sockets; and the clock that drives them.

mod build;
mod routes;
mod types;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;

pub use build::Chain;
use routes::Routes;
pub use types::{
    Action, Delivery, Ecn, HostId, LinkId, NetworkError, NetworkStats, Readdressed, SocketId,
};

use crate::agenda::Agenda;
use crate::link::{Link, LinkConfig, LinkStats, Packet};
use crate::time::{Clock, NEVER, Nanos, nanos};
use crate::trace::{Digest, Dropped, PacketId, TraceEvent, TraceKind, Tracer};

/// A datagram crosses at most this many links (the default TTL of an IP host), so that a loop of routes ends.
pub const HOP_LIMIT: u8 = 64;

#[derive(Debug)]
struct Host {
    name: String,
    address: IpAddr,
    next_port: u16,
}

#[derive(Debug)]
struct Socket {
    host: u32,
    /// The address that its owner knows.
    local: SocketAddr,
    /// The address that the others see: another one behind a NAT.
    public: SocketAddr,
    open: bool,
}

/// Orders scheduled actions by time, then by the order in which they were given.
type Scheduled = Reverse<(Nanos, usize)>;

/// A deterministic datagram network in virtual time.
///
/// The module documentation of the crate shows how to use it. Nothing here reads a clock: time moves when
/// [`step`](Network::step) or [`advance_to`](Network::advance_to) is called.
#[derive(Debug)]
pub struct Network {
    clock: Clock,
    now: Nanos,
    seed: u64,
    hosts: Vec<Host>,
    /// Sorted by address.
    addresses: Vec<(IpAddr, u32)>,
    sockets: Vec<Socket>,
    /// Sorted by public address.
    bindings: Vec<(SocketAddr, u32)>,
    links: Vec<Link>,
    routes: Routes,
    /// Slot 0 is the schedule, slot `n + 1` is link `n`.
    agenda: Agenda,
    schedule: BinaryHeap<Scheduled>,
    actions: Vec<Action>,
    inbox: VecDeque<Delivery>,
    readdressed: VecDeque<Readdressed>,
    tracer: Tracer,
    digest: Digest,
    stats: NetworkStats,
    next_packet: u64,
}

const SCHEDULE: usize = 0;

impl Network {
    /// An empty network. `seed` decides every random draw; `base` is the instant at which virtual time starts
    /// and influences nothing but the instants handed out.
    pub fn new(seed: u64, base: Instant) -> Self {
        let mut agenda = Agenda::default();
        agenda.add();
        Network {
            clock: Clock::new(base),
            now: 0,
            seed,
            hosts: Vec::new(),
            addresses: Vec::new(),
            sockets: Vec::new(),
            bindings: Vec::new(),
            links: Vec::new(),
            routes: Routes::default(),
            agenda,
            schedule: BinaryHeap::new(),
            actions: Vec::new(),
            inbox: VecDeque::new(),
            readdressed: VecDeque::new(),
            tracer: Tracer::new(),
            digest: Digest::new(),
            stats: NetworkStats::default(),
            next_packet: 0,
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

    /// The instant at which virtual time started.
    pub fn base(&self) -> Instant {
        self.clock.base()
    }

    /// The seed.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Sends a datagram at the virtual now. Whatever happens to it happens silently, as with UDP: look at the
    /// statistics.
    ///
    /// # Errors
    ///
    /// [`NetworkError::Unknown`] and [`NetworkError::Closed`] for a socket that is not there.
    pub fn send(
        &mut self,
        from: SocketId,
        to: SocketAddr,
        ecn: Ecn,
        data: Bytes,
    ) -> Result<PacketId, NetworkError> {
        let socket = self.socket(from)?;
        let (host, source) = (socket.host, socket.public);
        let id = PacketId(self.next_packet);
        self.next_packet += 1;
        self.stats.sent += 1;
        let target = self.host_of(to.ip());
        let packet = Packet {
            data,
            source,
            destination: to,
            id,
            target: target.unwrap_or(u32::MAX),
            ecn,
            hops: 0,
        };
        self.tracer.record(&mut self.digest, self.now, TraceKind::Sent, &packet);
        if target.is_none() {
            self.drop_packet(&packet, Dropped::Unroutable);
        } else {
            self.forward(host, packet);
        }
        Ok(id)
    }

    /// When something happens next inside the network; `None` when nothing will. The network may find then that
    /// it has nothing to deliver (a lost packet), but never delivers earlier.
    pub fn next_event_time(&self) -> Option<Instant> {
        self.agenda.first().map(|(at, _)| self.clock.instant(at.max(self.now)))
    }

    /// The same for the runner, without a detour over instants.
    pub(crate) fn next_event(&self) -> Nanos {
        self.agenda.first().map_or(NEVER, |(at, _)| at)
    }

    /// Moves time to the next event and handles everything that happens at that instant. Returns it, or `None`
    /// when nothing is left to happen. [`poll_delivery`](Network::poll_delivery) has what came out.
    pub fn step(&mut self) -> Option<Instant> {
        let (at, _) = self.agenda.first()?;
        self.now = self.now.max(at);
        self.run();
        Some(self.now())
    }

    /// Handles everything until `to`, included, and moves time there. An instant in the past changes nothing.
    pub fn advance_to(&mut self, to: Instant) {
        self.advance(self.clock.nanos(to));
    }

    pub(crate) fn advance(&mut self, to: Nanos) {
        while let Some((at, _)) = self.agenda.first().filter(|(at, _)| *at <= to) {
            self.now = self.now.max(at);
            self.run();
        }
        self.now = self.now.max(to);
    }

    /// The next datagram that came out, in order of time.
    pub fn poll_delivery(&mut self) -> Option<Delivery> {
        self.inbox.pop_front()
    }

    /// The next change of a socket's own address.
    pub fn poll_readdressed(&mut self) -> Option<Readdressed> {
        self.readdressed.pop_front()
    }

    /// Everything due now.
    fn run(&mut self) {
        while let Some((_, slot)) = self.agenda.first().filter(|(at, _)| *at <= self.now) {
            match slot.checked_sub(1) {
                None => self.run_schedule(),
                Some(link) => self.run_link(link),
            }
        }
    }

    fn run_link(&mut self, index: usize) {
        let Some(link) = self.links.get_mut(index) else { return };
        let to = link.to;
        link.settle(self.now, &mut self.tracer);
        while let Some(packet) =
            self.links.get_mut(index).and_then(|link| link.poll_arrival(self.now, &mut self.tracer))
        {
            if packet.target == to { self.deliver(packet) } else { self.forward(to, packet) }
        }
        self.refresh(index);
    }

    fn refresh(&mut self, index: usize) {
        if let Some(link) = self.links.get(index) {
            self.agenda.set(index + 1, link.next_event(self.tracer.observing()));
        }
    }

    fn forward(&mut self, at: u32, mut packet: Packet) {
        if at == packet.target {
            return self.deliver(packet);
        }
        if packet.hops >= HOP_LIMIT {
            return self.drop_packet(&packet, Dropped::HopLimit);
        }
        packet.hops += 1;
        let ends = |link: &Link| (link.from, link.to);
        match self.routes.next(at, packet.target, self.hosts.len(), &self.links, ends) {
            None => self.drop_packet(&packet, Dropped::Unroutable),
            Some(index) => {
                self.stats.hops += 1;
                if let Some(link) = self.links.get_mut(index as usize) {
                    link.offer(self.now, packet, &mut self.tracer);
                }
                self.refresh(index as usize);
            }
        }
    }

    fn deliver(&mut self, packet: Packet) {
        let bound =
            self.bindings.binary_search_by_key(&packet.destination, |(address, _)| *address);
        let socket =
            bound.ok().and_then(|at| self.bindings.get(at)).map(|(_, socket)| SocketId(*socket));
        let Some((socket, local)) =
            socket.and_then(|id| self.sockets.get(id.index()).map(|socket| (id, socket.local)))
        else {
            return self.drop_packet(&packet, Dropped::Unbound);
        };
        self.stats.delivered += 1;
        self.tracer.record(&mut self.digest, self.now, TraceKind::Delivered, &packet);
        self.inbox.push_back(Delivery {
            at: self.clock.instant(self.now),
            socket,
            local,
            source: packet.source,
            ecn: packet.ecn,
            packet: packet.id,
            data: packet.data,
        });
    }

    fn drop_packet(&mut self, packet: &Packet, why: Dropped) {
        match why {
            Dropped::HopLimit => self.stats.hop_limit += 1,
            Dropped::Unbound => self.stats.unbound += 1,
            _ => self.stats.unroutable += 1,
        }
        self.tracer.record(&mut self.digest, self.now, TraceKind::Dropped(why), packet);
    }

    fn run_schedule(&mut self) {
        while let Some(Reverse((_, index))) =
            self.schedule.peek().copied().filter(|Reverse((at, _))| *at <= self.now)
        {
            self.schedule.pop();
            if let Some(action) = self.actions.get(index).cloned() {
                // Checked when it was scheduled; a socket that has been closed since has nothing to change.
                let _ = self.apply(&action);
            }
        }
        let next = self.schedule.peek().map_or(NEVER, |Reverse((at, _))| *at);
        self.agenda.set(SCHEDULE, next);
    }

    /// Does something at a virtual time since the base; at once when that has passed. What is scheduled for one
    /// instant happens in the order of the calls and before packets arrive at that instant.
    ///
    /// # Errors
    ///
    /// [`NetworkError`] when the action names something that is not there, or a value out of range.
    pub fn schedule(&mut self, at: Duration, action: Action) -> Result<(), NetworkError> {
        self.check(&action)?;
        self.schedule.push(Reverse((nanos(at).max(self.now), self.actions.len())));
        self.actions.push(action);
        let next = self.schedule.peek().map_or(NEVER, |Reverse((at, _))| *at);
        self.agenda.set(SCHEDULE, next);
        Ok(())
    }

    /// Does something now.
    ///
    /// # Errors
    ///
    /// As [`schedule`](Network::schedule).
    pub fn act(&mut self, action: &Action) -> Result<(), NetworkError> {
        self.check(action)?;
        self.apply(action)
    }

    fn check(&self, action: &Action) -> Result<(), NetworkError> {
        match action {
            Action::Link(link, change) => {
                self.link(*link)?;
                change.check()?;
                Ok(())
            }
            Action::Partition(hosts) => {
                hosts.iter().try_for_each(|host| self.host(*host).map(|_| ()))
            }
            Action::Heal => Ok(()),
            Action::Rebind(socket, address) | Action::Readdress(socket, address) => {
                let host = self.socket(*socket)?.host;
                match self.host_of(address.ip()) {
                    Some(owner) if owner != host => {
                        Err(NetworkError::AddressInUse(address.ip().to_string()))
                    }
                    _ => Ok(()),
                }
            }
        }
    }

    fn apply(&mut self, action: &Action) -> Result<(), NetworkError> {
        match action {
            Action::Link(id, change) => {
                let now = self.now;
                if let Some(link) = self.links.get_mut(id.index()) {
                    link.change(now, change, &mut self.tracer);
                }
                self.refresh(id.index());
                Ok(())
            }
            Action::Partition(hosts) => {
                self.partition(hosts);
                Ok(())
            }
            Action::Heal => {
                self.partition(&[]);
                Ok(())
            }
            Action::Rebind(socket, address) => self.rebind(*socket, *address, false),
            Action::Readdress(socket, address) => self.rebind(*socket, *address, true),
        }
    }

    fn partition(&mut self, hosts: &[HostId]) {
        let inside = |host: u32| hosts.contains(&HostId(host));
        for link in &mut self.links {
            let cut = inside(link.from) != inside(link.to);
            link.set_partitioned(self.now, cut, &mut self.tracer);
        }
        (0..self.links.len()).for_each(|index| self.refresh(index));
    }

    fn rebind(&mut self, id: SocketId, address: SocketAddr, own: bool) -> Result<(), NetworkError> {
        let (host, old, old_public) = {
            let socket = self.socket(id)?;
            (socket.host, socket.local, socket.public)
        };
        if let Some(SocketId(other)) = self.bound(address).filter(|other| *other != id) {
            return Err(NetworkError::AddressInUse(format!("{address} (socket {other})")));
        }
        self.own_address(host, address.ip())?;
        self.unbind(old_public);
        self.bind_public(address, id);
        if let Some(socket) = self.sockets.get_mut(id.index()) {
            socket.public = address;
            if own {
                socket.local = address;
                self.readdressed.push_back(Readdressed { socket: id, old, new: address });
            }
        }
        Ok(())
    }

    /// What a link counted until now.
    ///
    /// # Errors
    ///
    /// [`NetworkError::Unknown`] for a link of another network.
    pub fn link_stats(&mut self, id: LinkId) -> Result<LinkStats, NetworkError> {
        let now = self.now;
        let tracer = &mut self.tracer;
        let link =
            self.links.get_mut(id.index()).ok_or_else(|| NetworkError::Unknown(id.to_string()))?;
        let stats = link.stats(now, tracer);
        self.refresh(id.index());
        Ok(stats)
    }

    /// A link's description as it is now.
    ///
    /// # Errors
    ///
    /// [`NetworkError::Unknown`] for a link of another network.
    pub fn link_config(&self, id: LinkId) -> Result<&LinkConfig, NetworkError> {
        self.link(id).map(Link::config)
    }

    /// What was counted outside the links.
    pub fn stats(&self) -> NetworkStats {
        self.stats
    }

    /// Starts to digest what happens, payloads included. Costs about as much again as a packet costs. Call it
    /// before anything is sent.
    pub fn enable_digest(&mut self) {
        self.tracer.digesting = true;
    }

    /// A digest of all that happened since [`enable_digest`](Network::enable_digest): equal for equal runs on
    /// every machine, and practically never for others.
    pub fn digest(&mut self) -> u64 {
        let mut whole = self.digest;
        for link in &mut self.links {
            whole.word(link.digest(self.now, &mut self.tracer));
        }
        (0..self.links.len()).for_each(|index| self.refresh(index));
        whole.value()
    }

    /// Calls `observer` for each event in the life of each datagram, in order of time. Replaces an earlier one.
    /// It costs an extra event for each packet and link, and changes nothing else.
    pub fn observe(&mut self, observer: impl FnMut(&TraceEvent) + 'static) {
        self.tracer.observe(Box::new(observer));
        (0..self.links.len()).for_each(|index| self.refresh(index));
    }
}
