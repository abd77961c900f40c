//! Plain datagrams (mode TRANSPARENT): UDP as it is. No header, no coding, no congestion control, nothing that says hello or goodbye.
//!
//! A [`Plain`] keeps peers by their addresses, so that those who use it can treat each as a connection. It has the doors of an
//! [`Endpoint`](super::endpoint::Endpoint) and no socket.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use crate::quic::{Ecn, LocalAddress, Path, Transmit};

/// The longest payload of a UDP datagram over IPv4, bytes: 65,535 less the headers of IP and UDP (RFC 768, RFC 791). Over IPv6 it is 20 more, which are not used.
pub const MAX_DATAGRAM: usize = 65_507;

/// Datagrams of one size that leave as one train.
const MAX_TRAIN: usize = 64;

/// What a datagram in a queue is counted with beside its bytes.
const OVERHEAD: usize = 64;

/// Limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlainConfig {
    /// Whether datagrams of unknown senders make peers. Default no.
    pub accepts: bool,
    /// Peers at one time. Datagrams of others are dropped. Default 4,096.
    pub max_peers: usize,
    /// After how long without a datagram a peer that was not connected to counts as gone. Default 30 s.
    pub idle: Duration,
    /// Bytes of datagrams that wait to leave, for each peer. Default 4 MiB.
    pub send_queue: usize,
    /// Bytes of datagrams that have come and are not read, for each peer; more are dropped. Default 1 MiB.
    pub receive_queue: usize,
}

impl Default for PlainConfig {
    fn default() -> Self {
        PlainConfig {
            accepts: false,
            max_peers: 4096,
            idle: Duration::from_secs(30),
            send_queue: 4 << 20,
            receive_queue: 1 << 20,
        }
    }
}

/// A peer. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(u64);

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A sender that was not known.
    Incoming(PeerId),
    /// There is something to read where there was nothing.
    DataReceived(PeerId),
    /// Everything has left.
    SendComplete(PeerId),
    /// The peer is closed, or was silent for too long (`idle`). The last event.
    Closed {
        /// Which.
        peer: PeerId,
        /// Not asked for.
        idle: bool,
    },
}

/// Why a datagram was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// It is longer than UDP can carry.
    #[error("a datagram of {0} bytes, more than {MAX_DATAGRAM}")]
    TooLarge(usize),
    /// As much waits as may.
    #[error("no room in the send queue")]
    Full,
    /// The peer is closed.
    #[error("the peer is closed")]
    Closed,
}

/// Counters of one peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerStats {
    /// Datagrams handed to the network.
    pub sent: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Datagrams received and kept.
    pub received: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Datagrams dropped because nobody read those before them.
    pub unread: u64,
}

/// Counters of all peers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PlainStats {
    /// Peers at present.
    pub peers: u64,
    /// Datagrams of unknown senders that were dropped: nobody accepts, or there are as many peers as may be.
    pub strangers: u64,
}

#[derive(Debug)]
struct Peer {
    remote: SocketAddr,
    /// Where its datagrams arrive, so that answers leave from there.
    local: Option<SocketAddr>,
    connected: bool,
    closing: bool,
    heard: Instant,
    outgoing: VecDeque<Bytes>,
    incoming: VecDeque<Bytes>,
    /// Bytes in the two, with overheads.
    waiting: usize,
    unread: usize,
    /// In the queue of those with something to send.
    ready: bool,
    stats: PeerStats,
}

/// Peers over one socket, without the socket.
#[derive(Debug)]
pub struct Plain {
    config: PlainConfig,
    peers: HashMap<PeerId, Peer>,
    addresses: HashMap<SocketAddr, PeerId>,
    ready: VecDeque<PeerId>,
    events: VecDeque<Event>,
    next: u64,
    /// When silence is looked for next.
    sweep: Option<Instant>,
    strangers: u64,
}

impl Plain {
    /// Without peers.
    pub fn new(config: PlainConfig) -> Plain {
        Plain {
            config,
            peers: HashMap::new(),
            addresses: HashMap::new(),
            ready: VecDeque::new(),
            events: VecDeque::new(),
            next: 0,
            sweep: None,
            strangers: 0,
        }
    }

    /// A peer to send to, whether it exists or not. `None` when it is known already, or there are as many as may be.
    pub fn connect(&mut self, now: Instant, remote: SocketAddr) -> Option<PeerId> {
        let peer = self.add(now, remote, None)?;
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.connected = true;
        }
        Some(peer)
    }

    fn add(
        &mut self,
        now: Instant,
        remote: SocketAddr,
        local: Option<SocketAddr>,
    ) -> Option<PeerId> {
        if self.peers.len() >= self.config.max_peers || self.addresses.contains_key(&remote) {
            return None;
        }
        let id = PeerId(self.next);
        self.next += 1;
        self.addresses.insert(remote, id);
        self.peers.insert(
            id,
            Peer {
                remote,
                local,
                connected: false,
                closing: false,
                heard: now,
                outgoing: VecDeque::new(),
                incoming: VecDeque::new(),
                waiting: 0,
                unread: 0,
                ready: false,
                stats: PeerStats::default(),
            },
        );
        self.sweep.get_or_insert(now + self.config.idle / 4);
        Some(id)
    }

    /// Accepts no peers from here on.
    pub fn stop(&mut self) {
        self.config.accepts = false;
    }

    /// A peer's address.
    pub fn remote_address(&self, peer: PeerId) -> Option<SocketAddr> {
        self.peers.get(&peer).map(|peer| peer.remote)
    }

    /// Queues a datagram. One is always taken when none waits.
    ///
    /// # Errors
    /// [`SendError::Full`] until [`Event::SendComplete`] or until some have left; the others are for good.
    pub fn send(&mut self, id: PeerId, data: Bytes) -> Result<(), SendError> {
        let peer = self.peers.get_mut(&id).filter(|peer| !peer.closing).ok_or(SendError::Closed)?;
        if data.len() > MAX_DATAGRAM {
            return Err(SendError::TooLarge(data.len()));
        }
        if peer.waiting > 0 && peer.waiting + data.len() + OVERHEAD > self.config.send_queue {
            return Err(SendError::Full);
        }
        peer.waiting += data.len() + OVERHEAD;
        peer.outgoing.push_back(data);
        if !std::mem::replace(&mut peer.ready, true) {
            self.ready.push_back(id);
        }
        Ok(())
    }

    /// The next datagram that has come.
    pub fn recv(&mut self, id: PeerId) -> Option<Bytes> {
        let peer = self.peers.get_mut(&id)?;
        let data = peer.incoming.pop_front()?;
        peer.unread -= data.len() + OVERHEAD;
        Some(data)
    }

    /// Payload that has not left, bytes.
    pub fn waiting(&self, id: PeerId) -> usize {
        self.peers.get(&id).map_or(0, |peer| peer.waiting - peer.outgoing.len() * OVERHEAD)
    }

    /// Lets go of a peer when what was queued has left.
    pub fn close(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.closing = true;
        if peer.outgoing.is_empty() {
            self.remove(id, false);
        }
    }

    /// Lets go of a peer at once.
    pub fn abort(&mut self, id: PeerId) {
        self.remove(id, false);
    }

    fn remove(&mut self, id: PeerId, idle: bool) {
        if let Some(peer) = self.peers.remove(&id) {
            self.addresses.remove(&peer.remote);
            self.events.push_back(Event::Closed { peer: id, idle });
        }
    }

    /// Counters of a peer.
    pub fn peer_stats(&self, id: PeerId) -> Option<PeerStats> {
        self.peers.get(&id).map(|peer| peer.stats)
    }

    /// Counters.
    pub fn stats(&self) -> PlainStats {
        PlainStats { peers: self.peers.len() as u64, strangers: self.strangers }
    }

    /// Takes a datagram.
    pub fn handle_datagram(&mut self, now: Instant, path: Path, _: Option<Ecn>, data: BytesMut) {
        let known = self.addresses.get(&path.remote).copied();
        let id = match known {
            Some(id) => id,
            None => {
                let added =
                    self.config.accepts.then(|| self.add(now, path.remote, Some(path.local)));
                let Some(id) = added.flatten() else {
                    self.strangers += 1;
                    return;
                };
                self.events.push_back(Event::Incoming(id));
                id
            }
        };
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.heard = now;
        peer.local = Some(path.local);
        let cost = data.len() + OVERHEAD;
        if peer.unread > 0 && peer.unread + cost > self.config.receive_queue {
            peer.stats.unread += 1;
            return;
        }
        peer.stats.received += 1;
        peer.stats.received_bytes += data.len() as u64;
        if peer.incoming.is_empty() {
            self.events.push_back(Event::DataReceived(id));
        }
        peer.unread += cost;
        peer.incoming.push_back(data.freeze());
    }

    /// Tells that a deadline of [`poll_timeout`](Self::poll_timeout) may have passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.sweep.is_none_or(|at| at > now) {
            return;
        }
        let idle = self.config.idle;
        let is_gone = |peer: &Peer| {
            !peer.connected && peer.outgoing.is_empty() && now.duration_since(peer.heard) >= idle
        };
        let mut gone: Vec<PeerId> =
            self.peers.iter().filter(|(_, peer)| is_gone(peer)).map(|(id, _)| *id).collect();
        gone.sort_unstable();
        for id in gone {
            self.remove(id, true);
        }
        self.sweep = (!self.peers.is_empty()).then(|| now + idle / 4);
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self, _: Instant) -> Option<Event> {
        self.events.pop_front()
    }

    /// Writes datagrams of one size to one peer into `buf`, and says how to send them.
    pub fn poll_transmit(&mut self, _: Instant, buf: &mut Vec<u8>) -> Option<Transmit> {
        buf.clear();
        let (id, segment) = loop {
            let id = self.ready.pop_front()?;
            // Those that were let go of meanwhile have nothing to send.
            if let Some(first) = self.peers.get(&id).and_then(|peer| peer.outgoing.front()) {
                break (id, first.len());
            }
        };
        let peer = self.peers.get_mut(&id)?;
        let mut count = 0;
        while let Some(data) = peer.outgoing.front() {
            // An empty datagram would be no segment of its own.
            let joins = !data.is_empty() && data.len() <= segment;
            let fits = count == 0 || joins && buf.len() + data.len() <= MAX_DATAGRAM;
            if !fits || count == MAX_TRAIN {
                break;
            }
            let last = data.len() < segment;
            buf.extend_from_slice(data);
            peer.waiting -= data.len() + OVERHEAD;
            peer.outgoing.pop_front();
            count += 1;
            if last {
                break;
            }
        }
        peer.stats.sent += count as u64;
        peer.stats.sent_bytes += buf.len() as u64;
        let transmit = Transmit {
            destination: peer.remote,
            source: peer.local.map(|local| LocalAddress::Ip(local.ip())),
            ecn: None,
            size: buf.len(),
            segment_size: (count > 1).then_some(segment),
        };
        peer.ready = !peer.outgoing.is_empty();
        if peer.ready {
            self.ready.push_back(id);
        } else if peer.closing {
            self.remove(id, false);
        } else {
            self.events.push_back(Event::SendComplete(id));
        }
        Some(transmit)
    }

    /// When [`handle_timeout`](Self::handle_timeout) must be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.sweep
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn receive(plain: &mut Plain, now: Instant, from: u16, data: &[u8]) {
        let path = Path { remote: address(from), local: address(1) };
        plain.handle_datagram(now, path, None, BytesMut::from(data));
    }

    #[test]
    fn each_source_address_is_a_peer_up_to_a_bound() {
        let now = Instant::now();
        let mut plain =
            Plain::new(PlainConfig { accepts: true, max_peers: 2, ..PlainConfig::default() });
        receive(&mut plain, now, 10, b"one");
        receive(&mut plain, now, 11, b"");
        receive(&mut plain, now, 10, b"two");
        receive(&mut plain, now, 12, b"too many");
        let Some(Event::Incoming(first)) = plain.poll_event(now) else { panic!() };
        assert_eq!(plain.poll_event(now), Some(Event::DataReceived(first)));
        let Some(Event::Incoming(second)) = plain.poll_event(now) else { panic!() };
        assert_eq!(plain.recv(first).unwrap(), "one");
        assert_eq!(plain.recv(first).unwrap(), "two");
        assert_eq!(plain.recv(second).unwrap(), "");
        assert_eq!(plain.stats(), PlainStats { peers: 2, strangers: 1 });
        plain.stop();
        plain.close(first);
        receive(&mut plain, now, 12, b"nobody accepts");
        assert_eq!(plain.stats(), PlainStats { peers: 1, strangers: 2 });
    }

    #[test]
    fn silent_peers_go_and_those_connected_to_stay() {
        let now = Instant::now();
        let idle = Duration::from_secs(8);
        let mut plain = Plain::new(PlainConfig { accepts: true, idle, ..PlainConfig::default() });
        let kept = plain.connect(now, address(9)).unwrap();
        receive(&mut plain, now, 10, b"x");
        let Some(Event::Incoming(peer)) = plain.poll_event(now) else { panic!() };
        plain.poll_event(now);
        for seconds in 1..20 {
            plain.handle_timeout(now + Duration::from_secs(seconds));
            let over = plain.poll_event(now);
            if let Some(event) = over {
                assert_eq!(event, Event::Closed { peer, idle: true });
                assert!((8..=10).contains(&seconds), "{seconds}");
                assert!(plain.remote_address(kept).is_some());
                return;
            }
        }
        panic!("it stayed");
    }

    #[test]
    fn datagrams_leave_as_they_are_in_trains_of_one_size() {
        let now = Instant::now();
        let mut plain = Plain::new(PlainConfig::default());
        let peer = plain.connect(now, address(9)).unwrap();
        for size in [100, 100, 40, 100, 0, 300] {
            plain.send(peer, vec![1; size].into()).unwrap();
        }
        assert_eq!(plain.waiting(peer), 640);
        assert_eq!(
            plain.send(peer, vec![0; MAX_DATAGRAM + 1].into()),
            Err(SendError::TooLarge(MAX_DATAGRAM + 1))
        );
        let mut sent = Vec::new();
        let mut buf = Vec::new();
        while let Some(transmit) = plain.poll_transmit(now, &mut buf) {
            assert_eq!((transmit.destination, transmit.size), (address(9), buf.len()));
            sent.push((transmit.size, transmit.segment_size));
        }
        assert_eq!(sent, [(240, Some(100)), (100, None), (0, None), (300, None)]);
        assert_eq!(plain.poll_event(now), Some(Event::SendComplete(peer)));
        assert_eq!(plain.waiting(peer), 0);
        assert_eq!(plain.peer_stats(peer).unwrap().sent, 6);
    }

    #[test]
    fn queues_are_bounded_and_what_was_queued_leaves_before_the_end() {
        let now = Instant::now();
        let config = PlainConfig {
            accepts: true,
            send_queue: 1000,
            receive_queue: 1000,
            ..PlainConfig::default()
        };
        let mut plain = Plain::new(config);
        for _ in 0..20 {
            receive(&mut plain, now, 10, &[0; 100]);
        }
        let Some(Event::Incoming(peer)) = plain.poll_event(now) else { panic!() };
        assert_eq!(plain.peer_stats(peer).unwrap().unread, 14);
        while plain.send(peer, vec![0; 100].into()).is_ok() {}
        assert_eq!(plain.send(peer, vec![0; 100].into()), Err(SendError::Full));
        plain.close(peer);
        assert_eq!(plain.send(peer, Bytes::new()), Err(SendError::Closed));
        let transmit = plain.poll_transmit(now, &mut Vec::new()).unwrap();
        assert_eq!(transmit.size, 600);
        plain.poll_event(now);
        assert_eq!(plain.poll_event(now), Some(Event::Closed { peer, idle: false }));
        assert_eq!(plain.poll_event(now), None);
    }
}
