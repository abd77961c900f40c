//! The start: trains, each faster than the one before, with what is known to pass in between. So what a train does beyond the path's rate lasts no longer than the train.

use std::time::{Duration, Instant};

use super::super::loss::Counts;
use super::{Coded, MIN_RATE, State};

/// How much faster a train is than what is known to pass: between BBR's 2.77 and slow start with full bursts.
pub(super) const GAIN: f64 = 2.89;
/// How long a train takes: a quarter of the round trip, within these. Shorter ones would fit what a shaper saves up.
const TRAIN: (Duration, Duration) = (Duration::from_millis(25), Duration::from_millis(60));
/// And so many packets at least.
const TRAIN_PACKETS: f64 = 32.0;
/// A queue of this length, seconds, ends the start.
const QUEUE: f64 = 0.003;

/// A moment in the arrival of a train.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Mark {
    at: Instant,
    total: u64,
    allowed: f64,
    counts: Counts,
}

/// Where the start is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Start {
    /// How long the train takes, when that is over once its first packet has left, and then its last packet's number.
    length: Duration,
    until: Option<Instant>,
    last: Option<u64>,
    /// The train's first packet.
    first: u64,
    /// From this one on what is lost is not of the train before.
    calm: u64,
    /// The first acknowledgement of it, and the first with a queue.
    arrived: Option<Mark>,
    queued: Option<Mark>,
    /// The queue was long.
    full: bool,
    counts: Counts,
    /// What arrived of the fastest train, bytes per second.
    best: f64,
    /// Nothing has come back yet of what was sent.
    blind: bool,
}

impl Start {
    pub(super) fn new(length: Duration, first: u64) -> Start {
        Start {
            length,
            until: None,
            last: None,
            first,
            calm: first,
            arrived: None,
            queued: None,
            full: false,
            counts: Counts::default(),
            best: 0.0,
            blind: true,
        }
    }

    /// Whether the packets up to `number` were sent no faster than is known to pass.
    pub(super) fn is_tame(&self, number: u64) -> bool {
        number < self.first && number >= self.calm && !self.blind
    }
}

impl Coded {
    /// Begins anew, with what is thought to pass.
    pub(super) fn begin_start(&mut self, now: Instant, rate: f64) {
        self.capacity = rate;
        self.rivals.forget();
        self.train(now, 0.0, true);
    }

    fn train(&mut self, now: Instant, best: f64, blind: bool) {
        let length = (self.last_rtt / 4).clamp(TRAIN.0, TRAIN.1);
        let least = TRAIN_PACKETS * self.mtu as f64 / (self.capacity * GAIN).max(MIN_RATE);
        let length = length.max(Duration::from_secs_f64(least));
        let calm = match self.state {
            State::Start(Start { last: Some(last), .. }) => last + 8,
            _ => self.log.next(),
        };
        let start = Start::new(length, self.log.next());
        self.state = State::Start(Start { best, blind, calm, ..start });
        self.set_rate(now, self.capacity * GAIN);
        self.begin_interval(now);
    }

    pub(super) fn step_start(&mut self, now: Instant, mut start: Start) {
        if !self.heard || start.last.is_some() || self.log.next() == start.first {
            return;
        }
        let until = *start.until.get_or_insert(now + start.length);
        if now >= until || start.full {
            start.last = Some(self.log.next().saturating_sub(1));
            let share = if start.blind { 1.0 / GAIN } else { 1.0 };
            self.set_rate(now, self.capacity * share);
        }
        self.state = State::Start(start);
    }

    pub(super) fn on_start(&mut self, now: Instant, mut start: Start, number: u64, queue: f64) {
        let Some((_, newest)) = self.newest else { return };
        if number < start.first {
            return;
        }
        if let Some(interval) = &self.interval {
            start.counts = interval.counts;
        }
        let mark =
            Mark { at: now, total: newest.total, allowed: newest.allowed, counts: start.counts };
        start.arrived.get_or_insert(mark);
        if queue > 2.0 * self.empty().min(QUEUE / 2.0) {
            start.queued.get_or_insert(mark);
        } else if !start.full {
            start.queued = None;
        }
        start.full |= queue > QUEUE;
        self.state = State::Start(start);
        self.step_start(now, start);
        let marked = self.interval.as_ref().is_some_and(|interval| interval.marked);
        if start.last.is_some_and(|last| number >= last) || marked {
            self.end_train(now, &start, mark, marked);
        }
    }

    /// The whole train has arrived, or what the path let through of it.
    fn end_train(&mut self, now: Instant, start: &Start, end: Mark, marked: bool) {
        let Some(begin) = start.arrived else { return };
        let over = |from: Mark| {
            let time = end.at.saturating_duration_since(from.at).as_secs_f64();
            let share = Counts {
                arrived: end.counts.arrived - from.counts.arrived,
                lost: end.counts.lost - from.counts.lost,
            };
            (time, end.total.saturating_sub(from.total) as f64, share.share())
        };
        let (time, bytes, lost) = over(begin);
        let filled = bytes >= 0.75 * (end.allowed - begin.allowed);
        let enough = time > 0.004 && bytes >= 16.0 * self.mtu as f64;
        if start.full || marked {
            let (time, bytes, lost) = start.queued.map_or((time, bytes, lost), over);
            let known = time > 0.002 && bytes >= 8.0 * self.mtu as f64 && filled;
            let passed = bytes.min(self.but_excess(bytes, lost)) / time.max(1e-6);
            let capacity = if known { passed.min(GAIN * self.capacity) } else { self.capacity };
            return self.end_start(now, capacity);
        }
        if !enough {
            // Too little came back to measure a rate; where most was lost, less goes.
            let flooded = end.counts.all() >= 8 && end.counts.share() - self.loss.base() > 0.5;
            if flooded {
                self.capacity = (self.capacity / GAIN).max(MIN_RATE);
            }
            return self.train(now, start.best, start.blind && flooded);
        }
        let passed = if self.loss.excess(end.counts) > 0.0 {
            bytes.min(self.but_excess(bytes, lost)) / time
        } else {
            bytes / time
        };
        let arrived = bytes * (1.0 - lost) / time;
        if filled && arrived < 1.2 * start.best {
            // More was sent and no more arrived.
            return self.end_start(now, self.but_excess(start.best.max(arrived), 0.0).min(passed));
        }
        // Only a train that was full tells how little passes.
        let known = if start.blind && filled { 0.0 } else { self.capacity };
        self.capacity = passed.min(GAIN * self.capacity).max(known);
        let best = if filled { arrived.max(start.best) } else { start.best };
        self.train(now, best, false);
    }

    /// What would have arrived of this without the path's own loss is what passed.
    fn but_excess(&self, bytes: f64, lost: f64) -> f64 {
        bytes * (1.0 - lost) / (1.0 - self.loss.base()).max(0.1)
    }

    fn end_start(&mut self, now: Instant, capacity: f64) {
        self.capacity = capacity.max(MIN_RATE);
        let round = self.round();
        self.state = State::Settle { until: now + round };
        self.set_rate(now, self.capacity * 0.95);
        self.cruised = 0;
        self.refresh_soon(now);
    }
}
