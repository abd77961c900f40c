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
const QUEUE_GAIN: f64 = 0.4;
/// The shortest interval between corrections.
const MIN_INTERVAL: Duration = Duration::from_millis(25);
/// The same at the start.
const MIN_START_INTERVAL: Duration = Duration::from_millis(5);
/// The target of a flow of 100 Mb/s, and how much shorter it is for each doubling of the rate, seconds.
const TARGET: f64 = 0.004_8;
const TARGET_SLOPE: f64 = 0.001;
const TARGET_RANGE: (f64, f64) = (0.001_2, 0.009);
/// Below this a queue counts as empty, seconds.
const EMPTY: f64 = 0.000_5;
/// The queue is emptied once in a while, so that the delay of the path itself is seen, and this much beyond, seconds.
const REFRESH_EVERY: Duration = Duration::from_secs(4);
const REFRESH_BEYOND: f64 = 0.001;
/// How long a loss that is thought the path's own is believed, the first time.
const DOUBT_AFTER: Duration = Duration::from_secs(2);
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
    /// Waiting for flows beside this one, which see it and empty theirs.
    Hold { until: Instant },
    /// Back to the queue's target.
    Refill { until: Instant },
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

/// A rise of loss without a queue: is it ours? Less is sent, to see whether less arrives.
#[derive(Clone, Copy, Debug)]
struct Suspicion {
    capacity: f64,
    before: Window,
}

/// Intervals together, for what single ones are too short to tell.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    counts: Counts,
    passed: f64,
    time: f64,
    highest: f64,
    /// Intervals to leave out first: what was decided last shows only after a round trip.
    skip: u32,
}

impl Window {
    fn add(&mut self, sample: &Sample) {
        if self.skip > 0 {
            self.skip -= 1;
            return;
        }
        self.counts.add(sample.counts);
        self.passed += sample.passed * sample.length;
        self.time += sample.length;
        self.highest = self.highest.max(sample.highest);
    }

    fn is_full(&self) -> bool {
        self.counts.all() >= 256 || self.counts.all() >= 64 && self.time > 1.0
    }

    fn sent_rate(&self) -> f64 {
        self.passed / self.time.max(1e-9)
    }

    fn arrived_rate(&self) -> f64 {
        self.sent_rate() * (1.0 - self.counts.share())
    }
}

/// What one interval showed.
#[derive(Clone, Copy, Debug)]
struct Sample {
    /// Bytes per second that passed the bottleneck.
    passed: f64,
    /// Bytes per second that arrived.
    arrived: f64,
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
    /// When the queue was last emptied, and when that is due again.
    born: Instant,
    emptied: Instant,
    refresh_at: Instant,
    /// Whether the queue reached its target since it was last emptied.
    stood: bool,
    /// Intervals in cruise since the queue was last emptied.
    cruised: u32,
    /// Intervals in a row with an empty queue although everything allowed was sent.
    idle: u32,
    /// How long a queue the path is thought to hold, seconds.
    depth: f64,
    suspicion: Option<Suspicion>,
    window: Window,
    /// The share of loss beyond the path's own, as it was last judged.
    excess: f64,
    /// When the path's own loss is put to the test again, and after how long the next time.
    doubt: Option<(Instant, Duration)>,
}

impl Coded {
    pub(super) fn new(now: Instant, mtu: u16, initial_window: u64) -> Self {
        let initial_window = initial_window.max(2 * u64::from(mtu));
        Coded {
            mtu: mtu.into(),
            initial_window,
            state: Self::start(now),
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
            born: now,
            emptied: now,
            refresh_at: now + REFRESH_EVERY,
            stood: false,
            cruised: 0,
            idle: 0,
            depth: f64::INFINITY,
            suspicion: None,
            window: Window::default(),
            excess: 0.0,
            doubt: None,
        }
    }

    fn start(now: Instant) -> State {
        State::Start { best: 0.0, grew: now }
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
        by_rate.clamp(TARGET_RANGE.0, TARGET_RANGE.1).min(self.depth * 0.7)
    }

    fn begin_interval(&mut self, now: Instant) {
        let (total, allowed) = self.newest.map_or((0, 0.0), |(_, sent)| (sent.total, sent.allowed));
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
        if interval.counts.all() < 16 {
            return false;
        }
        match self.state {
            State::Start { .. } => length >= MIN_START_INTERVAL.max(self.last_rtt / 4),
            State::Settle { until } => now >= until,
            State::Cruise => number >= interval.first && length >= MIN_INTERVAL,
            State::Refresh { .. } | State::Hold { .. } | State::Refill { .. } => false,
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
            arrived: bytes / length * (1.0 - counts.share()),
            excess: self.excess,
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
        if matches!(self.state, State::Settle { .. }) {
            self.excess = self.loss.excess(sample.counts);
        }
        let sample = Sample { excess: self.excess, ..sample };
        match self.state {
            State::Start { .. } => self.on_start(now, &sample),
            State::Settle { .. } => {
                self.capacity = sample.passed * (1.0 - sample.excess);
                self.state = State::Cruise;
                self.refresh_soon(now);
                self.excess = 0.0;
                self.window = Window { skip: 1, ..Window::default() };
                self.cruise(now, &sample);
            }
            State::Cruise => self.on_cruise(now, &sample),
            State::Refresh { .. } | State::Hold { .. } | State::Refill { .. } => {}
        }
    }

    // The start.

    fn on_start(&mut self, now: Instant, sample: &Sample) {
        let State::Start { mut best, mut grew } = self.state else { return };
        // Only what arrived counts: of what was lost, nobody knows yet whether it was too much.
        let arrived = sample.arrived;
        if arrived > best * 1.2 || sample.limited {
            grew = now;
        }
        best = best.max(arrived);
        self.state = State::Start { best, grew };
        self.capacity = best;
        let patience = self.last_rtt.mul_f64(1.25) + 2 * MIN_START_INTERVAL;
        if sample.marked || now.saturating_duration_since(grew) > patience {
            self.end_start(now, self.capacity);
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
        let round = self.round();
        let drain = (0.012 / round.as_secs_f64()).clamp(0.05, 0.5);
        self.set_rate(now, capacity * (1.0 - drain));
        self.state = State::Settle { until: now + round };
        self.standing = None;
        self.begin_interval(now);
    }

    // Afterwards.

    fn on_cruise(&mut self, now: Instant, sample: &Sample) {
        let target = self.target();
        self.cruised = self.cruised.saturating_add(1);
        self.window.add(sample);
        if self.window.is_full() {
            self.judge_loss(now, target);
        }
        let sample = &Sample { excess: self.excess, ..*sample };
        if sample.highest > 1.6 * target + 0.001 {
            self.refresh_soon(now);
        }
        if self.suspicion.is_some() {
            // A trial: the rate stays where it is until the window is full.
            self.set_rate(now, self.capacity);
            return;
        }
        let passed = sample.passed * (1.0 - sample.excess);
        if sample.limited {
            self.idle = 0;
        } else if sample.queue > EMPTY {
            // A queue stood all the time, so this is what the bottleneck carries.
            let weight =
                if passed < self.capacity && sample.queue > 1.5 * target { 1.0 } else { 0.5 };
            self.capacity += weight * (passed - self.capacity);
            self.idle = 0;
        } else if sample.excess == 0.0 {
            // Right after a queue was emptied, what passes is a reserve of the path, not its rate.
            if self.cruised > 2 {
                self.capacity = self.capacity.max(passed);
            }
            self.idle += 1;
        }
        if sample.marked {
            self.depth = (sample.highest * 0.7).max(EMPTY);
            self.capacity *= 0.9;
        }
        // More than this cannot pass if at most half of it is lost.
        self.capacity = self.capacity.min((2.5 * sample.arrived).max(self.floor(sample)));
        // A path that once overflowed early may hold more by now.
        self.depth += sample.length * (0.001 + 0.3 * self.depth.min(1.0));
        self.cruise(now, sample);
    }

    /// Of an interval in which little was sent nothing follows.
    fn floor(&self, sample: &Sample) -> f64 {
        if sample.limited { self.capacity } else { MIN_RATE }
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
        // Right after the queue was filled again, that does not show yet.
        if sample.limited || self.cruised <= 2 && self.emptied > self.born {
            change = change.min(0.0);
        }
        self.set_rate(now, self.capacity * (1.0 + change.max(-0.5)));
        if now >= self.refresh_at && !sample.limited {
            self.refresh(now, sample.queue);
        }
    }

    /// Sends less for a round trip, so that the queue empties.
    fn refresh(&mut self, now: Instant, queue: f64) {
        let round = self.round();
        // More than what stands, since flows beside this one may not help.
        let drain = (1.5 * queue + REFRESH_BEYOND) / round.as_secs_f64();
        self.set_rate(now, self.capacity * (1.0 - drain.min(0.35)));
        self.state = State::Refresh { until: now + round };
        self.emptied = now;
        self.refresh_at = now + REFRESH_EVERY;
        self.cruised = 0;
        self.stood = false;
        self.window = Window { skip: 1, ..Window::default() };
    }

    /// The queue is longer than anybody wants: there may be a flow that does not know how long the path is without it.
    fn refresh_soon(&mut self, now: Instant) {
        let soon = (now + REFRESH_EVERY / 8).max(self.emptied + REFRESH_EVERY / 2);
        self.refresh_at = self.refresh_at.min(soon);
    }

    fn round(&self) -> Duration {
        self.last_rtt.max(MIN_INTERVAL)
    }

    /// The steps that take a time, not a measurement.
    fn step(&mut self, now: Instant) {
        let round = self.round();
        match self.state {
            State::Refresh { until } if now >= until => {
                self.state = State::Hold { until: now + 2 * round };
                self.set_rate(now, self.capacity);
            }
            State::Hold { until } if now >= until => {
                self.state = State::Refill { until: now + round };
                let missing = (self.target() - self.recent_queue()).max(0.0);
                let more = missing / round.as_secs_f64();
                self.set_rate(now, self.capacity * (1.0 + more.min(0.5)));
            }
            State::Refill { until } if now >= until => {
                self.state = State::Cruise;
                self.idle = 0;
                self.set_rate(now, self.capacity);
                self.begin_interval(now);
            }
            _ => {}
        }
    }

    /// Another flow empties the queue: together it becomes empty. `lower` says that the path is shorter than was known, which only shows when the queue is short.
    fn join_refresh(&mut self, now: Instant, lower: bool) {
        let queue = self.recent_queue();
        let old = now.saturating_duration_since(self.emptied) > REFRESH_EVERY / 4;
        self.stood |= queue > 0.8 * self.target();
        let short = lower || self.stood && queue < 0.5 * self.target();
        let settled = self.state == State::Cruise && self.cruised > 4 && self.suspicion.is_none();
        if settled && old && short {
            self.refresh(now, queue.max(0.5 * self.target()));
        }
    }

    /// Tells loss that is the path's own from loss that comes from sending too fast: the latter comes with a queue, or less is sent and as much arrives.
    fn judge_loss(&mut self, now: Instant, target: f64) {
        let window = std::mem::take(&mut self.window);
        let queued = window.highest > target + 0.002;
        if let Some(suspicion) = self.suspicion.take() {
            self.conclude(now, &suspicion, &window, queued);
            return;
        }
        self.excess = self.loss.excess(window.counts);
        if self.excess == 0.0 {
            self.loss.learn(window.counts);
            let due = self.doubt.is_some_and(|(at, _)| at <= now);
            if due && !queued && self.loss.base() > 0.02 {
                self.suspect(window, 0.85);
            }
        } else if queued {
            self.depth = self.depth.min(window.highest);
        } else {
            // What is suspected is not taken off the capacity a second time.
            let excess = std::mem::take(&mut self.excess);
            self.suspect(window, (1.0 - excess).clamp(0.5, 0.85));
        }
    }

    /// Begins a trial: sends this share of the capacity.
    fn suspect(&mut self, window: Window, share: f64) {
        self.suspicion = Some(Suspicion { capacity: self.capacity, before: window });
        self.capacity *= share;
        self.window.skip = 1;
    }

    /// Ends a trial. Random loss stays the same share of less.
    fn conclude(&mut self, now: Instant, suspicion: &Suspicion, window: &Window, queued: bool) {
        let before = &suspicion.before;
        let sent = window.sent_rate() / before.sent_rate();
        let fell = window.arrived_rate() < before.arrived_rate() * (1.0 + sent) / 2.0;
        let stayed = window.counts.share() > 0.7 * before.counts.share();
        if fell && stayed && !queued {
            self.capacity = self.capacity.max(suspicion.capacity);
            self.loss.relearn(window.counts);
            let after = self.doubt.map_or(DOUBT_AFTER, |(_, after)| 2 * after);
            self.doubt = Some((now + after, after));
            return;
        }
        self.depth = self.depth.min(before.highest.max(EMPTY));
        if window.counts.share() < self.loss.base() {
            self.loss.relearn(window.counts);
        }
        self.excess = self.loss.excess(window.counts);
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
        self.state = Self::start(now);
        self.begin_interval(now);
    }
}

impl CongestionController for Coded {
    fn on_packet_sent(&mut self, now: Instant, bytes: u64, number: u64) {
        self.account(now);
        self.log.push(number, bytes, now, self.allowed);
        self.step(now);
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
        let known = self.base_delay();
        self.base.add(now, rtt);
        let lower = rtt + Duration::from_micros(300) < known;
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
            self.refresh_at = self.refresh_at.max(now + REFRESH_EVERY);
        }
        match &mut self.interval {
            Some(interval) => {
                interval.smallest = interval.smallest.min(rtt);
                interval.highest = interval.highest.max(queue);
            }
            None => self.begin_interval(now),
        }
        self.check_start(now);
        self.join_refresh(now, lower);
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
