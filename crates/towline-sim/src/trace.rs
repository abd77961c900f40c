//! What happened: events for observers, and a digest of all of them for tests of determinism.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use crate::network::LinkId;
use crate::time::Nanos;

/// Names one datagram from the moment it is sent; copies made on the way share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PacketId(pub(crate) u64);

impl PacketId {
    /// Its number, counted from 0 in the order of sending.
    pub fn number(self) -> u64 {
        self.0
    }
}

/// Why the network dropped a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Dropped {
    /// It did not fit into a link's queue.
    Queue,
    /// A link's loss model took it.
    Loss,
    /// The link was down, or the network partitioned there.
    Outage,
    /// It was larger than the link's MTU.
    Mtu,
    /// No host has the destination address, or no route leads to it.
    Unroutable,
    /// Nothing is bound to the destination address any more, or yet.
    Unbound,
    /// It had crossed [`HOP_LIMIT`](crate::HOP_LIMIT) links.
    HopLimit,
}

/// What happened to a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TraceKind {
    /// A socket handed it to the network.
    Sent,
    /// A link accepted it into its queue or passed it through.
    Offered,
    /// A link marked it Congestion Experienced.
    Marked,
    /// Its last bit left a link's queue.
    Departed,
    /// A link flipped bits of it.
    Corrupted,
    /// A link made a second copy of it.
    Duplicated,
    /// A link held it back so that later ones can pass it.
    Delayed,
    /// It came out of a link.
    Arrived,
    /// It was handed to a socket.
    Delivered,
    /// It is gone.
    Dropped(Dropped),
}

/// One event in the life of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceEvent {
    /// Virtual time since the base.
    pub at: Duration,
    /// The link it happened on; `None` at the sending and receiving sockets.
    pub link: Option<LinkId>,
    /// What happened.
    pub kind: TraceKind,
    /// Which datagram.
    pub packet: PacketId,
    /// Its source as it is on the wire.
    pub source: SocketAddr,
    /// Its destination as it is on the wire.
    pub destination: SocketAddr,
    /// Bytes of payload.
    pub len: usize,
}

/// A 64-bit running digest. It tells runs apart; it is no cryptographic hash.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Digest(u64);

impl Digest {
    pub(crate) const fn new() -> Self {
        Digest(0x243F_6A88_85A3_08D3)
    }

    #[inline]
    pub(crate) fn word(&mut self, word: u64) {
        let product = u128::from(self.0 ^ word) * 0x9E37_79B9_7F4A_7C15;
        self.0 = (product as u64) ^ ((product >> 64) as u64).rotate_left(29) ^ word.rotate_left(17);
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        words.iter().for_each(|word| self.word(u64::from_le_bytes(*word)));
        let mut last = [0; 8];
        last.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
        self.word(u64::from_le_bytes(last));
        self.word(bytes.len() as u64);
    }

    pub(crate) fn value(self) -> u64 {
        self.0
    }
}

type Observer = Box<dyn FnMut(&TraceEvent)>;

/// Where the parts of the network report.
pub(crate) struct Tracer {
    pub(crate) digesting: bool,
    observer: Option<Observer>,
}

impl fmt::Debug for Tracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracer").field("digesting", &self.digesting).finish_non_exhaustive()
    }
}

impl Tracer {
    pub(crate) fn new() -> Self {
        Tracer { digesting: false, observer: None }
    }

    pub(crate) fn observe(&mut self, observer: Observer) {
        self.observer = Some(observer);
    }

    pub(crate) fn observing(&self) -> bool {
        self.observer.is_some()
    }

    /// Records into the digest of the place where it happened. Each place has its own, in its own order in
    /// time, so that the whole does not depend on when a link gets round to its departures.
    #[inline]
    pub(crate) fn record(
        &mut self,
        digest: &mut Digest,
        at: Nanos,
        kind: TraceKind,
        subject: &impl Subject,
    ) {
        if self.digesting || self.observer.is_some() {
            self.record_slowly(digest, at, kind, subject);
        }
    }

    #[cold]
    fn record_slowly(
        &mut self,
        digest: &mut Digest,
        at: Nanos,
        kind: TraceKind,
        subject: &impl Subject,
    ) {
        let event = subject.event(at, kind);
        if self.digesting {
            digest.word(at);
            digest.word(code(kind));
            digest.word(event.packet.0);
            if matches!(kind, TraceKind::Sent | TraceKind::Delivered | TraceKind::Corrupted) {
                address(digest, event.source);
                address(digest, event.destination);
                digest.word(subject.ecn_bits());
                digest.bytes(subject.payload());
            }
        }
        if let Some(observer) = &mut self.observer {
            observer(&event);
        }
    }
}

/// A datagram, as far as a trace is concerned.
pub(crate) trait Subject {
    fn event(&self, at: Nanos, kind: TraceKind) -> TraceEvent;
    fn payload(&self) -> &[u8];
    fn ecn_bits(&self) -> u64;
}

pub(crate) fn address(digest: &mut Digest, address: SocketAddr) {
    match address {
        SocketAddr::V4(v4) => digest.word(u64::from(v4.ip().to_bits())),
        SocketAddr::V6(v6) => digest.bytes(&v6.ip().octets()),
    }
    digest.word(u64::from(address.port()));
}

/// Numbers that stay when a kind is added: they are part of pinned digests.
fn code(kind: TraceKind) -> u64 {
    match kind {
        TraceKind::Sent => 1,
        TraceKind::Offered => 2,
        TraceKind::Marked => 3,
        TraceKind::Departed => 4,
        TraceKind::Corrupted => 5,
        TraceKind::Duplicated => 6,
        TraceKind::Delayed => 7,
        TraceKind::Arrived => 8,
        TraceKind::Delivered => 9,
        TraceKind::Dropped(Dropped::Queue) => 16,
        TraceKind::Dropped(Dropped::Loss) => 17,
        TraceKind::Dropped(Dropped::Outage) => 18,
        TraceKind::Dropped(Dropped::Mtu) => 19,
        TraceKind::Dropped(Dropped::Unroutable) => 20,
        TraceKind::Dropped(Dropped::Unbound) => 21,
        TraceKind::Dropped(Dropped::HopLimit) => 22,
    }
}
