//! Our controller for coded hops.
//!
//! It keeps a small queue at the bottleneck. While there is one, the rate at which packets pass it is what the path carries, measured between acknowledgements by
//! the numbers of the packets, so that packets lost behind the bottleneck count as well: random loss does not enter. The pace is that capacity, a little more or less
//! as the queue is shorter or longer than its target. A flow that sends more aims at a shorter queue, so flows that share a bottleneck come to
//! equal rates. Loss beyond what is the path's own says that a queue overflows, and how deep it is.

use std::time::{Duration, Instant};

use super::delay::{BaseDelay, Recent};
use super::loss::{Counts, LossMeter};
use super::sent::{Sent, SentLog};
use crate::quic::{AckedPacket, CongestionController, CongestionSignal, PathReport};

/// Growth of the rate per round trip at the start: between BBR's 2.77 and slow start with full bursts.
const START_GAIN: f64 = 2.89;
/// The share of the queue's error that one interval corrects. Up to 1 would be stable with one interval of delay; this much leaves room for noise.
const QUEUE_GAIN: f64 = 0.3;
/// The shortest interval between corrections.
const MIN_INTERVAL: Duration = Duration::from_millis(25);
/// The same at the start.
const MIN_START_INTERVAL: Duration = Duration::from_millis(5);
/// The target of a flow of 100 Mb/s, and how much shorter it is for each doubling of the rate, seconds.
const TARGET: f64 = 0.004_3;
const TARGET_SLOPE: f64 = 0.000_7;
const TARGET_RANGE: (f64, f64) = (0.001_5, 0.009);
/// Below this a queue counts as empty, seconds.
const EMPTY: f64 = 0.000_5;
/// The queue is emptied once in a while, so that the delay of the path itself is seen, and this much beyond, seconds.
const REFRESH_EVERY: Duration = Duration::from_secs(4);
const REFRESH_BEYOND: f64 = 0.001_5;
/// Unused capacity is looked for in steps that a queue of this length holds, seconds.
const STEP: f64 = 0.004;
/// No slower than this, bytes per second.
const MIN_RATE: f64 = 6_000.0;

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    /// Finding the rate: it multiplies until the queue grows or no more arrives.
    Start { best: f64, grew: Instant },
    /// The start overshot; its queue drains while the rate is measured.
    Settle { until: Instant },
    /// Holding the queue at its target.
    Cruise,
    /// Emptying the queue for a moment.
    Refresh { until: Instant },
}

/// What is gathered between two corrections.
#[derive(Clone, Debug)]
struct Interval {
    start: Instant,
    /// The newest acknowledged packet when it began, by its totals.
    total: u64,
    allowed: f64,
    /// Packets from this number on were sent after it began.
    first: u64,
    counts: Counts,
    smallest: Duration,
    /// The longest queue that stood for several samples, seconds.
    highest: f64,
    marked: bool,
}

/// A rise of loss without a queue: is it ours?
#[derive(Clone, Copy, Debug)]
struct Suspicion {
    capacity: f64,
    share: f64,
    excess: f64,
    rounds: u32,
}

/// What one interval showed.
#[derive(Clone, Copy, Debug)]
struct Sample {
    /// Bytes per second that passed the bottleneck.
    passed: f64,
    /// The share of loss beyond the path's own.
    excess: f64,
    /// The shortest queue in it, seconds.
    queue: f64,
    highest: f64,
    length: f64,
    counts: Counts,
    marked: bool,
    /// Less was sent than the pace allowed.
    limited: bool,
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Coded {
    mtu: u64,
    initial_window: u64,
    state: State,
    /// Bytes per second that the bottleneck is thought to carry.
    capacity: f64,
    rate: f64,
    log: SentLog,
    allowed: f64,
    accounted: Instant,
    interval: Option<Interval>,
    newest: Option<(u64, Sent)>,
    base: BaseDelay,
    recent: Recent,
    last_rtt: Duration,
    smoothed_rtt: Duration,
    loss: LossMeter,
    last_ack: Option<Instant>,
    /// What was sent before this was lost in an outage, which says nothing.
    forgive: Instant,
    /// Bytes passed and when, while the queue stood, for the rate at the end of the start.
    standing: Option<(Instant, u64)>,
    /// When the queue was last empty.
    empty: Instant,
    /// Intervals in a row with an empty queue although everything allowed was sent.
    idle: u32,
    /// How long a queue the path is thought to hold, seconds.
    depth: f64,
    suspicion: Option<Suspicion>,
}

impl Coded {
    pub(super) fn new(now: Instant, mtu: u16, initial_window: u64) -> Self {
        let initial_window = initial_window.max(2 * u64::from(mtu));
        Coded {
            mtu: mtu.into(),
            initial_window,
            state: State::Start { best: 0.0, grew: now },
            capacity: 0.0,
            // Before the first round trip time is known: as if it were 100 ms.
            rate: initial_window as f64 * 10.0,
            log: SentLog::default(),
            allowed: 0.0,
            accounted: now,
            interval: None,
            newest: None,
            base: BaseDelay::default(),
            recent: Recent::default(),
            last_rtt: Duration::ZERO,
            smoothed_rtt: Duration::ZERO,
            loss: LossMeter::default(),
            last_ack: None,
            forgive: now,
            standing: None,
            empty: now,
            idle: 0,
            depth: f64::INFINITY,
            suspicion: None,
        }
    }

    fn account(&mut self, now: Instant) {
        self.allowed += self.rate * now.saturating_duration_since(self.accounted).as_secs_f64();
        self.accounted = self.accounted.max(now);
    }

    fn set_rate(&mut self, now: Instant, rate: f64) {
        self.account(now);
        self.rate = rate.max(MIN_RATE);
    }

    fn base_delay(&self) -> Duration {
        self.base.smallest().unwrap_or(self.last_rtt)
    }

    fn queue_of(&self, rtt: Duration) -> f64 {
        rtt.saturating_sub(self.base_delay()).as_secs_f64()
    }

    /// The queue as the newest samples have it, without jitter, seconds.
    fn recent_queue(&self) -> f64 {
        self.recent.smallest().map_or(0.0, |rtt| self.queue_of(rtt))
    }

    /// The length of queue that this flow aims at, seconds.
    fn target(&self) -> f64 {
        let by_rate = TARGET - TARGET_SLOPE * log2(self.capacity / 12_500_000.0);
        by_rate.clamp(TARGET_RANGE.0, TARGET_RANGE.1).min(self.depth * 0.6)
    }

    fn begin_interval(&mut self, now: Instant) {
        let (total, allowed) =
            self.newest.map_or((0, 0.0), |(_, sent)| (sent.total, sent.allowed));
        self.interval = Some(Interval {
            start: now,
            total,
            allowed,
            first: self.log.next(),
            counts: Counts::default(),
            smallest: Duration::MAX,
            highest: 0.0,
            marked: false,
        });
    }

    /// Whether the interval is long enough to be judged.
    fn interval_is_over(&self, now: Instant, number: u64) -> bool {
        let Some(interval) = &self.interval else { return false };
        let length = now.saturating_duration_since(interval.start);
        if interval.counts.all() < 8 {
            return false;
        }
        match self.state {
            State::Start { .. } => length >= MIN_START_INTERVAL.max(self.last_rtt / 4),
            State::Settle { until } => now >= until,
            State::Cruise | State::Refresh { .. } => {
                number >= interval.first && length >= MIN_INTERVAL
            }
        }
    }

    fn sample(&mut self, now: Instant) -> Option<Sample> {
        let interval = self.interval.as_ref()?;
        let (_, newest) = self.newest?;
        let length = now.saturating_duration_since(interval.start).as_secs_f64();
        let bytes = newest.total.saturating_sub(interval.total) as f64;
        if length <= 0.0 || bytes <= 0.0 {
            return None;
        }
        let counts = interval.counts;
        Some(Sample {
            passed: bytes / length,
            excess: self.loss.excess(counts),
            queue: self.queue_of(interval.smallest),
            highest: interval.highest,
            length,
            counts,
            marked: interval.marked,
            limited: bytes < 0.9 * (newest.allowed - interval.allowed),
        })
    }

    fn on_interval(&mut self, now: Instant) {
        let sample = self.sample(now);
        self.begin_interval(now);
        let Some(sample) = sample else { return };
        self.loss.smooth(sample.counts);
        match self.state {
            State::Start { best, grew } => self.on_start(now, &sample, best, grew),
            State::Settle { .. } => {
                self.capacity = sample.passed * (1.0 - sample.excess);
                self.state = State::Cruise;
                self.cruise(now, &sample);
            }
            State::Cruise => self.on_cruise(now, &sample),
            State::Refresh { .. } => {}
        }
    }

    // The start.

    fn on_start(&mut self, now: Instant, sample: &Sample, best: f64, grew: Instant) {
        // Only what arrived counts: here, where loss is unknown yet, what passed is what was sent.
        let arrived = sample.passed * (1.0 - sample.excess);
        if sample.highest < 0.002 {
            self.loss.learn(sample.counts);
        }
        let (mut best, mut grew) = (best, grew);
        if arrived > best * 1.2 || sample.limited {
            grew = now;
        }
        best = best.max(arrived);
        self.state = State::Start { best, grew };
        self.capacity = best;
        if sample.marked {
            self.end_start(now, best);
            return;
        }
        let patience = self.last_rtt.mul_f64(1.25) + 2 * MIN_START_INTERVAL;
        if now.saturating_duration_since(grew) > patience {
            self.end_start(now, best);
        } else {
            self.set_rate(now, self.rate.max(START_GAIN * arrived));
        }
    }

    /// Ends the start as soon as a queue stands.
    fn check_start(&mut self, now: Instant) {
        let State::Start { best, .. } = self.state else { return };
        let queue = self.recent_queue();
        let Some((_, newest)) = self.newest else { return };
        if queue <= 2.0 * EMPTY {
            self.standing = None;
            return;
        }
        let (since, from) = *self.standing.get_or_insert((now, newest.total));
        if queue < (1.25 * self.target()).max(0.004) {
            return;
        }
        let length = now.saturating_duration_since(since).as_secs_f64();
        let bytes = newest.total.saturating_sub(from);
        let passed = if bytes >= 16 * self.mtu && length > 0.002 {
            (bytes as f64 / length).min(self.rate)
        } else {
            best
        };
        self.end_start(now, passed.max(best));
    }

    fn end_start(&mut self, now: Instant, capacity: f64) {
        self.capacity = capacity;
        let round = self.last_rtt.max(MIN_INTERVAL);
        let drain = (0.012 / round.as_secs_f64()).clamp(0.05, 0.5);
        self.set_rate(now, capacity * (1.0 - drain));
        self.state = State::Settle { until: now + round };
        self.standing = None;
        self.begin_interval(now);
    }

    // Afterwards.

    fn on_cruise(&mut self, now: Instant, sample: &Sample) {
        let target = self.target();
        self.judge_loss(sample, target);
        let passed = sample.passed * (1.0 - sample.excess);
        if sample.limited {
            self.idle = 0;
        } else if sample.queue > EMPTY {
            // A queue stood all the time, so this is what the bottleneck carries.
            let weight = if passed < self.capacity && sample.queue > 1.5 * target { 1.0 } else { 0.5 };
            self.capacity += weight * (passed - self.capacity);
            self.idle = 0;
        } else if sample.excess == 0.0 {
            self.capacity = self.capacity.max(passed);
            self.idle += 1;
        }
        if sample.marked {
            self.depth = (sample.highest * 0.7).max(EMPTY);
            self.capacity *= 0.9;
        }
        // A path that once overflowed early may hold more by now.
        self.depth += sample.length * 0.000_5;
        self.cruise(now, sample);
    }

    fn cruise(&mut self, now: Instant, sample: &Sample) {
        let length = sample.length.max(MIN_INTERVAL.as_secs_f64());
        let mut change = QUEUE_GAIN * (self.target() - sample.queue) / length;
        if self.idle > 2 {
            // Nothing queues: look for more, in steps that would not overflow a short queue at first.
            let doubled = change * f64::from(1_u32 << (self.idle - 2).min(12));
            let step = STEP / length * f64::from(1_u32 << self.idle.saturating_sub(6).min(12));
            change = change.max(doubled.min(step)).min(1.0);
        }
        if sample.limited {
            change = change.min(0.0);
        }
        self.set_rate(now, self.capacity * (1.0 + change.max(-0.5)));
        if now.saturating_duration_since(self.empty) > REFRESH_EVERY && !sample.limited {
            self.refresh(now, sample.queue);
        }
    }

    /// Sends less for a round trip, so that the queue empties.
    fn refresh(&mut self, now: Instant, queue: f64) {
        let round = self.last_rtt.max(MIN_INTERVAL);
        let drain = (queue + REFRESH_BEYOND) / round.as_secs_f64();
        self.set_rate(now, self.capacity * (1.0 - drain.min(0.5)));
        self.state = State::Refresh { until: now + round };
        self.empty = now;
    }

    /// Tells loss that is the path's own from loss that comes from sending too fast: the latter comes with a queue, or goes away when less is sent.
    fn judge_loss(&mut self, sample: &Sample, target: f64) {
        if sample.excess == 0.0 {
            if self.suspicion.take().is_some() {
                self.depth = self.depth.min(sample.highest.max(EMPTY));
            }
            self.loss.learn(sample.counts);
            return;
        }
        if sample.highest > target + 0.001 {
            self.depth = self.depth.min(sample.highest);
            self.suspicion = None;
            return;
        }
        let share = sample.counts.share();
        let Some(suspicion) = &mut self.suspicion else {
            let excess = sample.excess;
            self.suspicion =
                Some(Suspicion { capacity: self.capacity, share, excess, rounds: 0 });
            self.capacity *= (1.0 - excess).max(0.7);
            return;
        };
        suspicion.rounds += 1;
        if suspicion.rounds < 2 {
            return;
        }
        if share > suspicion.share - 0.5 * suspicion.excess {
            // Less was sent, and as much was lost.
            self.capacity = self.capacity.max(suspicion.capacity);
            self.loss.relearn(sample.counts);
            self.suspicion = None;
        } else {
            suspicion.rounds = 0;
            suspicion.share = share;
            suspicion.excess = sample.excess;
            self.capacity *= (1.0 - sample.excess).max(0.7);
        }
    }

    /// Nothing came for long. Where the flow stood before is a fair guess, half of it a safe one.
    fn resume(&mut self, now: Instant) {
        self.forgive = now;
        self.suspicion = None;
        self.idle = 0;
        self.recent = Recent::default();
        if self.capacity > 0.0 {
            self.set_rate(now, self.capacity / 2.0);
        }
        self.state = State::Start { best: 0.0, grew: now };
        self.begin_interval(now);
    }
}

impl CongestionController for Coded {
    fn on_packet_sent(&mut self, now: Instant, bytes: u64, number: u64) {
        self.account(now);
        self.log.push(number, bytes, now, self.allowed);
        if let State::Refresh { until } = self.state
            && now >= until
        {
            self.state = State::Cruise;
            self.set_rate(now, self.capacity);
            self.begin_interval(now);
        }
    }

    fn on_packet_acked(&mut self, packet: &AckedPacket) {
        self.smoothed_rtt = packet.smoothed_rtt;
        let Some(sent) = self.log.take(packet.number, packet.bytes, Some(packet.sent)) else {
            return;
        };
        if let Some(interval) = &mut self.interval {
            interval.counts.arrived += 1;
        }
        if self.newest.is_none_or(|(_, newest)| newest.total < sent.total) {
            self.newest = Some((packet.number, sent));
            self.last_rtt = packet.now.saturating_duration_since(sent.at);
        }
    }

    fn on_acks_end(&mut self, now: Instant, _in_flight: u64, _app_limited: bool) {
        let Some((number, _)) = self.newest else { return };
        let rtt = self.last_rtt;
        self.base.add(now, rtt);
        self.recent.add(rtt);
        let silence = self.last_ack.map(|last| now.saturating_duration_since(last));
        if self.last_ack.is_none() {
            // The handshake has shown the round trip time.
            let round = rtt.max(Duration::from_millis(10)).as_secs_f64();
            self.set_rate(now, self.initial_window as f64 / round);
        }
        self.last_ack = Some(now);
        if silence.is_some_and(|time| time > Duration::from_millis(500).max(rtt.min(time) * 4)) {
            self.resume(now);
            return;
        }
        let queue = self.recent_queue();
        if queue < EMPTY {
            self.empty = now;
        }
        match &mut self.interval {
            Some(interval) => {
                interval.smallest = interval.smallest.min(rtt);
                interval.highest = interval.highest.max(queue);
            }
            None => self.begin_interval(now),
        }
        self.check_start(now);
        if self.interval_is_over(now, number) {
            self.on_interval(now);
        }
    }

    fn on_packet_lost(&mut self, _now: Instant, bytes: u64, number: u64) {
        let Some(sent) = self.log.take(number, bytes, None) else { return };
        if sent.at < self.forgive {
            return;
        }
        self.loss.on_lost(number);
        if let Some(interval) = &mut self.interval {
            interval.counts.lost += 1;
        }
    }

    fn on_congestion(&mut self, signal: &CongestionSignal) {
        if let Some(interval) = &mut self.interval {
            interval.marked |= signal.marked;
        }
    }

    fn on_mtu_update(&mut self, mtu: u16) {
        self.mtu = mtu.into();
    }

    /// Wide, since the pace is what bounds the queue: the window bounds what an outage costs.
    fn window(&self) -> u64 {
        let round = self.smoothed_rtt.max(self.last_rtt).mul_f64(1.5) + 2 * MIN_INTERVAL;
        let window = self.rate.max(self.capacity) * round.as_secs_f64();
        (window as u64).max(self.initial_window)
    }

    fn initial_window(&self) -> u64 {
        self.initial_window
    }

    fn pacing_rate(&self) -> Option<u64> {
        Some(self.rate as u64)
    }

    fn report(&self) -> Option<PathReport> {
        Some(PathReport {
            rate: self.capacity.max(MIN_RATE) as u64,
            pacing: self.rate as u64,
            min_rtt: self.base_delay(),
            last_rtt: self.last_rtt,
            loss: self.loss.smoothed(),
            burst: self.loss.burst(),
        })
    }

    fn clone_box(&self) -> Box<dyn CongestionController> {
        Box::new(self.clone())
    }
}

/// The logarithm to base 2, straight between powers of two: the same to the bit on every machine, which a library's logarithm is not.
fn log2(value: f64) -> f64 {
    let bits = value.max(1e-9).to_bits();
    let exponent = (bits >> 52) as f64 - 1_023.0;
    let mantissa = f64::from_bits((bits & ((1 << 52) - 1)) | (1_023 << 52));
    exponent + (mantissa - 1.0)
}
