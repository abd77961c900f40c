//! A hop as the coded engines see it: packets that may be lost, a stream that is not, and what is known of the path.

use std::time::{Duration, Instant};

use bytes::Bytes;

/// One coded packet for the neighbour.
#[derive(Clone, Debug)]
pub struct Packet {
    /// Header and symbol as `docs/bats.md` has them.
    pub data: Bytes,
    /// Handed back with the packet's [`Fate`].
    pub tag: u64,
    /// Ahead of what is not urgent: thin flows and messages with a deadline.
    pub urgent: bool,
}

/// What became of a packet, as far as this end can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The neighbour has it.
    Arrived,
    /// The neighbour does not seem to have it. It may still arrive.
    Lost,
}

/// The fate of one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fate {
    /// The packet's own tag.
    pub tag: u64,
    /// What became of it.
    pub outcome: Outcome,
}

/// What is known of the path to the neighbour.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Path {
    /// Smoothed round trip time.
    pub rtt: Duration,
    /// The smallest round trip time of late.
    pub min_rtt: Duration,
    /// The longest time of late in which nothing was heard of packets on their way: acknowledgements are lost in bursts too.
    pub pause: Duration,
    /// The share of packets lost on the way to the neighbour, 0 to 1, smoothed.
    pub loss: f64,
    /// How many packets are lost in a row on average, at least 1.
    pub burst: f64,
    /// What the path carries, bytes of QUIC payload per second, whether or not it is used at the moment.
    pub rate: u64,
}

/// One hop of one flow: a connection to the neighbour, which carries nothing else.
///
/// Every call is cheap. Nothing blocks, and nothing is called back: an engine asks when it is driven, which is after every datagram, timeout and command.
pub trait Hop {
    /// The longest packet that fits now, bytes.
    fn max_packet(&self) -> usize;
    /// How many more packets the hop wants now: what its window, its pace and its shallow queue let it send soon. Packets are best made
    /// as late as possible, when it is known what arrived, so an engine keeps what does not fit to itself.
    fn room(&mut self, now: Instant) -> usize;
    /// Queues a packet. Beyond [`room`](Self::room) it is accepted up to the hop's bound and dropped after that, which its fate then tells.
    fn send(&mut self, now: Instant, packet: Packet);
    /// The next packet from the neighbour.
    fn poll_packet(&mut self) -> Option<Bytes>;
    /// The next packet's fate. Every packet that was sent has exactly one, but for those whose hop ended.
    fn poll_fate(&mut self) -> Option<Fate>;
    /// Bytes for the neighbour, reliable and in order; how many were taken.
    fn write_control(&mut self, data: &[u8]) -> usize;
    /// Bytes from the neighbour, reliable and in order.
    fn poll_control(&mut self) -> Option<Bytes>;
    /// The path as it is known at present.
    fn path(&self) -> Path;
}
