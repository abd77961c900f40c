//! Our controller for coded hops.
//!
//! It keeps a small queue at the bottleneck. While there is one, the rate at which packets pass it is what the path carries, measured between acknowledgements by
//! the numbers of the packets, so that packets lost behind the bottleneck count as well: random loss does not enter. The pace is that capacity, a little more or less
//! as the queue is shorter or longer than its target. A flow that sends more aims at a shorter queue, so flows that share a bottleneck come to
//! equal rates. What the sender did not use says nothing against the path: an estimate falls by a queue only. Loss beyond the path's own is looked into by a
//! [trial](judge): for a moment less is sent, and where it stays, it is the path's.

mod cruise;
mod judge;
mod refresh;
mod rival;
mod start;

use std::time::{Duration, Instant};

use self::judge::{Doubt, Trial, Window};
use self::refresh::EVERY;
use self::rival::Rivals;
use self::start::Start;
use super::delay::{BaseDelay, Pauses, Recent};
use super::loss::{Counts, LossMeter};
use super::sent::{Sent, SentLog};
use crate::quic::{AckedPacket, CongestionController, CongestionSignal, PathReport};

/// The shortest interval between corrections.
const MIN_INTERVAL: Duration = Duration::from_millis(25);
/// The target of a flow of 100 Mb/s, and how much shorter it is for each doubling of the rate, seconds.
const TARGET: f64 = 0.004;
const TARGET_SLOPE: f64 = 0.001;
const TARGET_RANGE: (f64, f64) = (0.001_2, 0.009_5);
/// Below this a queue counts as empty, seconds, and in packets.
const EMPTY: f64 = 0.000_5;
const EMPTY_PACKETS: f64 = 1.2;
/// No slower than this, bytes per second.
const MIN_RATE: f64 = 6_000.0;
/// What was sent before a silence of this length says nothing, and of a path that was not used for so long little is known.
const SILENCE: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    /// Finding the rate.
    Start(Start),
    /// The start is over; what it left in the queue drains.
    Settle { until: Instant },
    /// Holding the queue at its target.
    Cruise,
    /// Emptying the queue for a moment.
    Refresh { until: Instant },
    /// Waiting for flows beside this one, which see it and empty theirs.
    Hold { until: Instant },
    /// Less is sent, to see whether less is lost.
    Trial(Trial),
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
    /// The path's own delay, as it was known when it began.
    base: Duration,
    smallest: Duration,
    /// The longest queue that stood for several samples, seconds.
    highest: f64,
    marked: bool,
}

/// What one interval showed.
#[derive(Clone, Copy, Debug)]
struct Sample {
    /// Bytes per second that passed the bottleneck, or were dropped by it.
    passed: f64,
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
    /// When it was acknowledged.
    newest_at: Instant,
    base: BaseDelay,
    recent: Recent,
    /// The queue at the last acknowledgement, seconds.
    last_queue: f64,
    pauses: Pauses,
    last_rtt: Duration,
    smoothed_rtt: Duration,
    loss: LossMeter,
    /// What the acknowledgements that came together told, and how much of the loss is that of a train.
    batch: Counts,
    of_train: u64,
    /// Whether anything was ever acknowledged, when a packet was last sent, and when the first one since the last acknowledgement was.
    heard: bool,
    last_sent: Instant,
    unheard: Option<Instant>,
    /// What was sent before this was lost in an outage, which says nothing.
    forgive: Instant,
    /// When the queue was last emptied, and when that is due again.
    born: Instant,
    emptied: Instant,
    refresh_at: Instant,
    /// Whether the queue reached its target since it was last emptied.
    stood: bool,
    /// When a queue was last seen to stand.
    standing: Option<Instant>,
    /// When there was none and no more was sent than is known to pass.
    cleared: Option<Instant>,
    /// Less was sent than the pace allowed.
    limited: bool,
    /// Intervals in cruise since the queue was last emptied.
    cruised: u32,
    /// Intervals in a row with an empty queue although everything allowed was sent.
    idle: u32,
    /// What was sent beyond the capacity since then, seconds.
    spare: f64,
    /// How often that turned out to be capacity.
    growth: u32,
    /// How long a queue the path is thought to hold, seconds.
    depth: f64,
    window: Window,
    doubt: Doubt,
    rivals: Rivals,
}

impl Coded {
    pub(super) fn new(now: Instant, mtu: u16, initial_window: u64) -> Self {
        let initial_window = initial_window.max(2 * u64::from(mtu));
        Coded {
            mtu: mtu.into(),
            initial_window,
            state: State::Start(Start::new(Duration::ZERO, 0)),
            capacity: 0.0,
            // Before the first round trip time is known: as if it were 100 ms.
            rate: initial_window as f64 * 10.0,
            log: SentLog::default(),
            allowed: 0.0,
            accounted: now,
            interval: None,
            newest: None,
            newest_at: now,
            pauses: Pauses::default(),
            base: BaseDelay::default(),
            recent: Recent::default(),
            last_queue: 0.0,
            last_rtt: Duration::ZERO,
            smoothed_rtt: Duration::ZERO,
            loss: LossMeter::default(),
            batch: Counts::default(),
            of_train: 0,
            heard: false,
            last_sent: now,
            unheard: None,
            forgive: now,
            born: now,
            emptied: now,
            refresh_at: now + EVERY,
            stood: false,
            standing: None,
            cleared: None,
            limited: false,
            cruised: 0,
            idle: 0,
            spare: 0.0,
            growth: 0,
            depth: f64::INFINITY,
            window: Window::default(),
            doubt: Doubt::default(),
            rivals: Rivals::default(),
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

    /// How long one packet takes at the bottleneck, seconds.
    fn packet_time(&self) -> f64 {
        if self.capacity > 0.0 { self.mtu as f64 / self.capacity } else { 0.0 }
    }

    /// A queue of this length is none, seconds.
    fn empty(&self) -> f64 {
        EMPTY.max(EMPTY_PACKETS * self.packet_time())
    }

    /// The length of queue that this flow aims at, seconds.
    fn target(&self) -> f64 {
        let by_rate = TARGET - TARGET_SLOPE * log2(self.capacity / 12_500_000.0);
        let by_rate = by_rate.clamp(TARGET_RANGE.0, TARGET_RANGE.1);
        // What the path does not hold is pressed together below what it does, and not cut off: flows with one target would not come to equal rates.
        let most = self.depth * 0.7;
        let knee = 0.8 * most;
        if by_rate <= knee || most >= TARGET_RANGE.1 {
            return by_rate;
        }
        knee + (by_rate - knee) * (most - knee) / (TARGET_RANGE.1 - knee)
    }

    /// Of a queue that grows beyond this, something may be dropped, seconds.
    fn high(&self) -> f64 {
        1.6 * self.target() + 0.001
    }

    fn round(&self) -> Duration {
        self.last_rtt.max(MIN_INTERVAL)
    }

    fn begin_interval(&mut self, now: Instant) {
        let (total, allowed) = self.newest.map_or((0, 0.0), |(_, sent)| (sent.total, sent.allowed));
        // What had passed by then is known of the last acknowledgement, not of now.
        let start = self.newest.map_or(now, |_| self.newest_at);
        self.interval = Some(Interval {
            start,
            total,
            allowed,
            first: self.log.next(),
            counts: Counts::default(),
            base: self.base_delay(),
            smallest: Duration::MAX,
            highest: 0.0,
            marked: false,
        });
    }

    fn sample(&self, now: Instant) -> Option<Sample> {
        let interval = self.interval.as_ref()?;
        let (_, newest) = self.newest?;
        let length = now.saturating_duration_since(interval.start).as_secs_f64();
        let bytes = newest.total.saturating_sub(interval.total) as f64;
        (length > 0.0 && bytes > 0.0).then(|| Sample {
            passed: bytes / length,
            queue: self.queue_of(interval.smallest),
            highest: interval.highest,
            length,
            counts: interval.counts,
            marked: interval.marked,
            limited: bytes < 0.9 * (newest.allowed - interval.allowed),
        })
    }

    /// The steps that take a time, not a measurement.
    fn step(&mut self, now: Instant) {
        match self.state {
            State::Start(start) => self.step_start(now, start),
            State::Settle { until } if now >= until => {
                self.window.reset();
                self.enter_cruise(now);
            }
            State::Refresh { until } if now >= until => self.hold(now),
            State::Hold { until } if now >= until => self.refill(now),
            State::Refill { until } if now >= until => self.enter_cruise(now),
            _ => {}
        }
    }

    fn enter_cruise(&mut self, now: Instant) {
        self.state = State::Cruise;
        (self.idle, self.spare) = (0, 0.0);
        self.set_rate(now, self.capacity);
        self.begin_interval(now);
    }

    /// Nothing came for long. Where the flow stood before is a fair guess, half of it a safe one.
    fn resume(&mut self, now: Instant) {
        self.forgive = now;
        self.last_rtt = self.base_delay();
        self.recent = Recent::default();
        self.last_queue = 0.0;
        self.window = Window::default();
        self.begin_start(now, self.capacity / 2.0);
    }

    /// Files what came together under what it tells.
    fn on_batch(&mut self, now: Instant, number: u64, queue: f64) {
        let counts = std::mem::take(&mut self.batch);
        self.loss.smooth(counts);
        let highest = queue.max(self.last_queue);
        self.last_queue = queue;
        if queue > self.empty() {
            self.standing = Some(now);
        }
        // Without a queue, and without sending more than was known to pass, nothing is lost for our sake.
        let clear = highest < self.empty().max(0.25 * self.target());
        let tame = match self.state {
            State::Start(start) => start.is_tame(number),
            State::Cruise => self.limited,
            State::Refresh { .. } => true,
            _ => false,
        };
        let lost = counts.lost - std::mem::take(&mut self.of_train).min(counts.lost);
        if clear && tame {
            self.cleared = Some(now);
            self.loss.learn(Counts { lost, ..counts });
        }
        self.window.add(now, counts, highest);
    }
}

impl CongestionController for Coded {
    fn on_packet_sent(&mut self, now: Instant, bytes: u64, number: u64) {
        if self.heard && now.saturating_duration_since(self.last_sent) > PAUSE {
            self.begin_start(now, self.capacity / 2.0);
        }
        self.last_sent = now;
        self.unheard.get_or_insert(now);
        self.account(now);
        self.log.push(number, bytes, now, self.allowed);
        self.step(now);
    }

    fn on_packet_acked(&mut self, packet: &AckedPacket) {
        self.smoothed_rtt = packet.smoothed_rtt;
        let Some(sent) = self.log.take(packet.number, packet.bytes, Some(packet.sent)) else {
            return;
        };
        self.batch.arrived += 1;
        if let Some(interval) = &mut self.interval {
            interval.counts.arrived += 1;
        }
        if self.newest.is_none_or(|(_, newest)| newest.total < sent.total) {
            self.newest = Some((packet.number, sent));
            self.newest_at = packet.now;
            // What waited out an outage says nothing of the path's delay.
            if sent.at >= self.forgive {
                self.last_rtt = packet.now.saturating_duration_since(sent.at);
            }
        }
    }

    fn on_acks_end(&mut self, now: Instant, _in_flight: u64, _app_limited: bool) {
        let Some((number, _)) = self.newest else { return };
        let silence = self.unheard.take().map(|since| now.saturating_duration_since(since));
        if self.heard && silence.is_some_and(|time| time > SILENCE.max(4 * self.base_delay())) {
            self.resume(now);
            return;
        }
        self.pauses.add(now, silence.unwrap_or_default().saturating_sub(self.last_rtt));
        let rtt = self.last_rtt;
        self.base.add(now, rtt);
        self.recent.add(rtt);
        if !std::mem::replace(&mut self.heard, true) {
            // The handshake has shown the round trip time.
            let round = rtt.max(Duration::from_millis(10)).as_secs_f64();
            self.begin_start(now, self.initial_window as f64 / round / start::GAIN);
        }
        let queue = self.recent_queue();
        self.on_batch(now, number, queue);
        if queue < self.empty() {
            self.refresh_at = self.refresh_at.max(now + EVERY);
        }
        match &mut self.interval {
            Some(interval) => {
                interval.smallest = interval.smallest.min(rtt);
                interval.highest = interval.highest.max(queue);
            }
            None => self.begin_interval(now),
        }
        self.step(now);
        match self.state {
            State::Start(start) => self.on_start(now, start, number, queue),
            State::Trial(trial) => self.on_trial(now, trial, number),
            State::Cruise => {
                if !self.rivals.are_contended() {
                    self.join_refresh(now);
                }
                self.on_cruise(now, number);
            }
            _ => {}
        }
    }

    fn on_packet_lost(&mut self, _now: Instant, bytes: u64, number: u64) {
        let Some(sent) = self.log.take(number, bytes, None) else { return };
        if sent.at < self.forgive {
            return;
        }
        self.batch.lost += 1;
        if matches!(self.state, State::Start(start) if !start.is_tame(number)) {
            self.of_train += 1;
        } else {
            self.loss.on_lost(number);
        }
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
        let rounds = if matches!(self.state, State::Start(_)) { 3.0 } else { 1.5 };
        let round = self.smoothed_rtt.max(self.last_rtt);
        let time = round.mul_f64(rounds) + 2 * MIN_INTERVAL + 2 * self.pauses.longest();
        let window = self.rate.max(self.capacity) * time.as_secs_f64();
        (window as u64).max(self.initial_window)
    }

    fn initial_window(&self) -> u64 {
        self.initial_window
    }

    fn pacing_rate(&self) -> Option<u64> {
        Some(self.rate as u64)
    }

    fn report(&self) -> Option<PathReport> {
        // At the start, what is to come soon: buffers have to be there by then.
        let ahead = if matches!(self.state, State::Start(_)) { start::GAIN } else { 1.0 };
        Some(PathReport {
            rate: (ahead * self.capacity).max(MIN_RATE) as u64,
            pacing: self.rate as u64,
            min_rtt: self.base_delay(),
            last_rtt: self.last_rtt,
            pause: self.pauses.longest(),
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
