//! One direction of a link: queue, shaper, medium.
//!
//! Packets wait in the link itself and not in a heap of events: first in `queue`, each with the time at
//! which it will have left (the shaper is in closed form), then in `medium`, in order of arrival. Departures
//! are settled when somebody looks: when a packet is handed in, one is taken out, the link changes or its
//! statistics are read. The result is the same as if each had been an event, which the tests check.

mod config;
mod loss;
mod stats;

use std::cmp::Ordering;
use std::collections::{BinaryHeap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

pub use config::{
    Burst, ConfigError, JitterShape, LinkChange, LinkConfig, Loss, QueueLimit, Reorder,
};
pub(crate) use config::{check_rate, probability};
use loss::LossProcess;
pub use stats::{Count, DelayHistogram, LinkStats};

use crate::network::{Ecn, LinkId};
use crate::random::{Chance, Random};
use crate::rate::Shaper;
use crate::time::{NEVER, Nanos, nanos};
use crate::trace::{Digest, Dropped, PacketId, Subject, TraceEvent, TraceKind, Tracer};

/// A datagram on its way.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) data: Bytes,
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
    pub(crate) id: PacketId,
    /// Index of the host that had the destination address when the packet was sent.
    pub(crate) target: u32,
    pub(crate) ecn: Ecn,
    pub(crate) hops: u8,
}

/// A packet at a link, as traces see it.
struct OnLink<'a>(LinkId, &'a Packet);

impl Subject for OnLink<'_> {
    fn event(&self, at: Nanos, kind: TraceKind) -> TraceEvent {
        TraceEvent { link: Some(self.0), ..self.1.event(at, kind) }
    }

    fn payload(&self) -> &[u8] {
        &self.1.data
    }

    fn ecn_bits(&self) -> u64 {
        self.1.ecn_bits()
    }
}

impl Subject for Packet {
    fn event(&self, at: Nanos, kind: TraceKind) -> TraceEvent {
        TraceEvent {
            at: Duration::from_nanos(at),
            link: None,
            kind,
            packet: self.id,
            source: self.source,
            destination: self.destination,
            len: self.data.len(),
        }
    }

    fn payload(&self) -> &[u8] {
        &self.data
    }

    fn ecn_bits(&self) -> u64 {
        u64::from(self.ecn.bits())
    }
}

#[derive(Debug)]
struct Queued {
    packet: Packet,
    wire: u64,
    since: Nanos,
    departs: Nanos,
}

#[derive(Debug)]
struct InFlight {
    packet: Packet,
    wire: u64,
    arrives: Nanos,
    /// Ties go to the one that left first.
    order: u64,
}

impl PartialEq for InFlight {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for InFlight {}

impl PartialOrd for InFlight {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for InFlight {
    /// Reversed, so that the heap's greatest is the first to arrive.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.arrives, other.order).cmp(&(self.arrives, self.order))
    }
}

/// The description in integers.
#[derive(Debug)]
struct Parameters {
    queue_bytes: u64,
    queue_packets: u64,
    mark_bytes: u64,
    mark_packets: u64,
    delay: Nanos,
    jitter: Nanos,
    reorder: Chance,
    reorder_extra: Nanos,
    duplicate: Chance,
    corrupt: Chance,
}

impl Parameters {
    fn new(config: &LinkConfig) -> Self {
        let limits = |limit: Option<QueueLimit>| match (limit, config.rate) {
            (Some(QueueLimit::Bytes(bytes)), _) => (bytes, u64::MAX),
            (Some(QueueLimit::Packets(packets)), _) => (u64::MAX, packets),
            (Some(QueueLimit::Time(time)), Some(rate)) => (rate.bytes_in(time), u64::MAX),
            (Some(QueueLimit::Time(_) | QueueLimit::Unlimited) | None, _) => (u64::MAX, u64::MAX),
        };
        let chance = |probability| Chance::new(probability).unwrap_or(Chance::NEVER);
        let (queue_bytes, queue_packets) = limits(Some(config.queue));
        let (mark_bytes, mark_packets) = limits(config.ecn_threshold);
        Parameters {
            queue_bytes,
            queue_packets,
            mark_bytes,
            mark_packets,
            delay: nanos(config.delay),
            jitter: nanos(config.jitter),
            reorder: config.reorder.map_or(Chance::NEVER, |reorder| chance(reorder.probability)),
            reorder_extra: config.reorder.map_or(0, |reorder| nanos(reorder.extra)),
            duplicate: chance(config.duplicate),
            corrupt: chance(config.corrupt),
        }
    }
}

/// One stream for each impairment, so that switching one on leaves the draws of the others as they were.
#[derive(Debug)]
struct Streams {
    loss: Random,
    jitter: Random,
    reorder: Random,
    duplicate: Random,
    corrupt: Random,
}

impl Streams {
    fn new(seed: u64) -> Self {
        let stream = |name| Random::keyed(seed, &[crate::random::key(name)]);
        Streams {
            loss: stream("loss"),
            jitter: stream("jitter"),
            reorder: stream("reorder"),
            duplicate: stream("duplicate"),
            corrupt: stream("corrupt"),
        }
    }
}

/// One direction of a link at work.
#[derive(Debug)]
pub(crate) struct Link {
    id: LinkId,
    /// Indices of the hosts at the ends.
    pub(crate) from: u32,
    pub(crate) to: u32,
    config: LinkConfig,
    parameters: Parameters,
    shaper: Shaper,
    loss: LossProcess,
    streams: Streams,
    queue: VecDeque<Queued>,
    /// In order of arrival.
    medium: VecDeque<InFlight>,
    /// Those that arrive out of order.
    late: BinaryHeap<InFlight>,
    last_arrival: Nanos,
    departures: u64,
    order: u64,
    down: bool,
    held: bool,
    partitioned: bool,
    stats: LinkStats,
    digest: Digest,
}

impl Link {
    /// From a checked description.
    pub(crate) fn new(
        id: LinkId,
        from: u32,
        to: u32,
        config: LinkConfig,
        seed: u64,
        now: Nanos,
    ) -> Self {
        Link {
            id,
            from,
            to,
            parameters: Parameters::new(&config),
            shaper: Shaper::new(config.rate, config.burst_time(), now),
            loss: LossProcess::new(&config.loss),
            config,
            streams: Streams::new(seed),
            queue: VecDeque::new(),
            medium: VecDeque::new(),
            late: BinaryHeap::new(),
            last_arrival: 0,
            departures: 0,
            order: 0,
            down: false,
            held: false,
            partitioned: false,
            stats: LinkStats::default(),
            digest: Digest::new(),
        }
    }

    pub(crate) fn config(&self) -> &LinkConfig {
        &self.config
    }

    /// The bytes that a datagram takes of the rate.
    #[inline]
    fn wire_size(&self, packet: &Packet) -> (u64, u64) {
        let headers =
            self.config.headers.unwrap_or(if packet.destination.is_ipv4() { 28 } else { 48 });
        let network = packet.data.len() as u64 + u64::from(headers);
        (network, network + u64::from(self.config.framing))
    }

    /// A packet is handed to the link. Says whether it was taken.
    pub(crate) fn offer(&mut self, now: Nanos, mut packet: Packet, tracer: &mut Tracer) {
        self.settle(now, tracer);
        let (network, wire) = self.wire_size(&packet);
        self.stats.offered.add(wire);
        if network > u64::from(self.config.mtu) {
            return self.drop_packet(now, &packet, wire, Dropped::Mtu, tracer);
        }
        let waiting = self.queue.len() as u64;
        let bytes = self.stats.queued_bytes;
        let limits = &self.parameters;
        if waiting > 0
            && (bytes.saturating_add(wire) > limits.queue_bytes || waiting >= limits.queue_packets)
        {
            return self.drop_packet(now, &packet, wire, Dropped::Queue, tracer);
        }
        tracer.record(&mut self.digest, now, TraceKind::Offered, &OnLink(self.id, &packet));
        if (bytes > limits.mark_bytes || waiting > limits.mark_packets) && packet.ecn.is_capable() {
            packet.ecn = Ecn::Ce;
            self.stats.marked += 1;
            tracer.record(&mut self.digest, now, TraceKind::Marked, &OnLink(self.id, &packet));
        }
        let departs = if self.held { NEVER } else { self.shaper.depart(now, wire) };
        let queued = Queued { packet, wire, since: now, departs };
        if departs <= now {
            self.depart(queued, tracer);
        } else {
            self.stats.queued_bytes += wire;
            self.stats.max_queued_bytes = self.stats.max_queued_bytes.max(self.stats.queued_bytes);
            self.queue.push_back(queued);
        }
    }

    /// Moves everything onto the medium that has left the queue by `now`.
    #[inline]
    pub(crate) fn settle(&mut self, now: Nanos, tracer: &mut Tracer) {
        while self.queue.front().is_some_and(|first| first.departs <= now) {
            if let Some(queued) = self.queue.pop_front() {
                self.stats.queued_bytes -= queued.wire;
                self.depart(queued, tracer);
            }
        }
    }

    fn depart(&mut self, queued: Queued, tracer: &mut Tracer) {
        let Queued { mut packet, wire, since, departs } = queued;
        let number = self.departures;
        self.departures += 1;
        self.stats.departed.add(wire);
        self.stats.queue_delay.add(departs - since);
        tracer.record(&mut self.digest, departs, TraceKind::Departed, &OnLink(self.id, &packet));
        // An outage draws too, so that what happens after it does not depend on how many packets met it.
        let lost = self.loss.loses(number, &mut self.streams.loss);
        if self.down || self.partitioned {
            return self.drop_packet(departs, &packet, wire, Dropped::Outage, tracer);
        }
        if lost {
            return self.drop_packet(departs, &packet, wire, Dropped::Loss, tracer);
        }
        if self.streams.corrupt.chance(self.parameters.corrupt) && !packet.data.is_empty() {
            self.corrupt(&mut packet);
            self.stats.corrupted += 1;
            tracer.record(
                &mut self.digest,
                departs,
                TraceKind::Corrupted,
                &OnLink(self.id, &packet),
            );
        }
        if self.streams.duplicate.chance(self.parameters.duplicate) {
            self.stats.duplicated += 1;
            tracer.record(
                &mut self.digest,
                departs,
                TraceKind::Duplicated,
                &OnLink(self.id, &packet),
            );
            self.propagate(departs, packet.clone(), wire, tracer);
        }
        self.propagate(departs, packet, wire, tracer);
    }

    fn corrupt(&mut self, packet: &mut Packet) {
        let mut data = BytesMut::from(&packet.data[..]);
        for _ in 0..self.config.corrupt_bits {
            let bit = self.streams.corrupt.below(data.len() as u64 * 8);
            if let Some(byte) = data.get_mut((bit / 8) as usize) {
                *byte ^= 1 << (bit % 8);
            }
        }
        packet.data = data.freeze();
    }

    #[inline]
    fn propagate(&mut self, departed: Nanos, packet: Packet, wire: u64, tracer: &mut Tracer) {
        let delay = self.draw_delay();
        let mut arrives = departed.saturating_add(delay);
        let order = self.order;
        self.order += 1;
        if self.streams.reorder.chance(self.parameters.reorder) {
            self.stats.reordered += 1;
            tracer.record(
                &mut self.digest,
                departed,
                TraceKind::Delayed,
                &OnLink(self.id, &packet),
            );
            arrives = arrives.saturating_add(self.parameters.reorder_extra);
            self.late.push(InFlight { packet, wire, arrives, order });
        } else if self.config.jitter_reorders && arrives < self.last_arrival {
            self.late.push(InFlight { packet, wire, arrives, order });
        } else {
            arrives = arrives.max(self.last_arrival);
            self.last_arrival = arrives;
            self.medium.push_back(InFlight { packet, wire, arrives, order });
        }
    }

    #[inline]
    fn draw_delay(&mut self) -> Nanos {
        let Parameters { delay, jitter, .. } = self.parameters;
        if jitter == 0 {
            return delay;
        }
        let span = jitter.saturating_mul(2);
        let random = &mut self.streams.jitter;
        let offset = match self.config.jitter_shape {
            JitterShape::Uniform => random.within(0, span),
            JitterShape::Bell => {
                let bits = random.next_u64();
                let sum = [0, 16, 32, 48].map(|shift| (bits >> shift) & 0xFFFF).iter().sum::<u64>();
                ((u128::from(span) * u128::from(sum)) / (4 * 0xFFFF)) as u64
            }
        };
        delay.saturating_add(offset).saturating_sub(jitter)
    }

    fn drop_packet(
        &mut self,
        at: Nanos,
        packet: &Packet,
        wire: u64,
        why: Dropped,
        tracer: &mut Tracer,
    ) {
        let counter = match why {
            Dropped::Queue => &mut self.stats.dropped_queue,
            Dropped::Mtu => &mut self.stats.dropped_mtu,
            Dropped::Outage => &mut self.stats.dropped_outage,
            _ => &mut self.stats.dropped_loss,
        };
        counter.add(wire);
        tracer.record(&mut self.digest, at, TraceKind::Dropped(why), &OnLink(self.id, packet));
    }

    /// The next packet that has arrived by `now`; the caller settles first.
    pub(crate) fn poll_arrival(&mut self, now: Nanos, tracer: &mut Tracer) -> Option<Packet> {
        let in_order = self.medium.front().filter(|first| first.arrives <= now);
        let late = self.late.peek().filter(|first| first.arrives <= now);
        // The greater of the two is the earlier one.
        let arrived = match (in_order, late) {
            (None, None) => return None,
            (Some(in_order), Some(late)) if late > in_order => self.late.pop(),
            (None, Some(_)) => self.late.pop(),
            (Some(_), _) => self.medium.pop_front(),
        }?;
        self.stats.delivered.add(arrived.wire);
        let subject = OnLink(self.id, &arrived.packet);
        tracer.record(&mut self.digest, arrived.arrives, TraceKind::Arrived, &subject);
        Some(arrived.packet)
    }

    /// When something can come out, or [`NEVER`]. It may turn out that nothing does (a loss), but nothing
    /// comes out earlier. With `departures` each departure counts as well.
    #[inline]
    pub(crate) fn next_event(&self, departures: bool) -> Nanos {
        let in_order = self.medium.front().map_or(NEVER, |first| first.arrives);
        let late = self.late.peek().map_or(NEVER, |first| first.arrives);
        let arrival = in_order.min(late);
        // What is in the queue arrives after all that is on the medium in order, unless order is not kept.
        let overtaken = departures || in_order == NEVER || self.config.jitter_reorders;
        if overtaken {
            arrival.min(self.queue.front().map_or(NEVER, |first| first.departs))
        } else {
            arrival
        }
    }

    /// One step of a schedule, checked before.
    pub(crate) fn change(&mut self, now: Nanos, change: &LinkChange, tracer: &mut Tracer) {
        self.settle(now, tracer);
        self.config.apply(change);
        match change {
            LinkChange::Loss(loss) => self.loss = LossProcess::new(loss),
            LinkChange::Down => self.down = true,
            LinkChange::Up => self.down = false,
            LinkChange::Hold => self.held = true,
            LinkChange::Release => self.held = false,
            _ => {}
        }
        self.parameters = Parameters::new(&self.config);
        if matches!(change, LinkChange::Rate(_) | LinkChange::Hold | LinkChange::Release) {
            self.reschedule(now);
        }
    }

    /// Gives what waits new departures.
    fn reschedule(&mut self, now: Nanos) {
        let given: u64 = self
            .queue
            .iter()
            .filter(|queued| queued.departs != NEVER)
            .map(|queued| queued.wire)
            .sum();
        self.shaper.change(now, given, self.config.rate, self.config.burst_time());
        for queued in &mut self.queue {
            queued.departs = if self.held { NEVER } else { self.shaper.depart(now, queued.wire) };
        }
    }

    pub(crate) fn set_partitioned(&mut self, now: Nanos, partitioned: bool, tracer: &mut Tracer) {
        self.settle(now, tracer);
        self.partitioned = partitioned;
    }

    pub(crate) fn stats(&mut self, now: Nanos, tracer: &mut Tracer) -> LinkStats {
        self.settle(now, tracer);
        LinkStats {
            queued: self.queue.len() as u64,
            in_flight: (self.medium.len() + self.late.len()) as u64,
            ..self.stats.clone()
        }
    }

    pub(crate) fn digest(&mut self, now: Nanos, tracer: &mut Tracer) -> u64 {
        self.settle(now, tracer);
        self.digest.value()
    }
}
