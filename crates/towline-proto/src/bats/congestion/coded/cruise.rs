//! Cruising: each interval corrects what is thought of the path, and the pace.

use std::time::Instant;

use super::{Coded, MIN_INTERVAL, MIN_RATE, Sample};

/// An interval has so many packets at least.
const MIN_PACKETS: u64 = 10;
/// The share of the queue's error that one interval corrects. Up to 1 would be stable with one interval of delay; this much leaves room for noise.
const QUEUE_GAIN: f64 = 0.4;
/// Unused capacity is looked for in steps that a queue of this length holds, seconds.
const STEP: f64 = 0.003;
/// The largest such step, as a share of the rate.
const MAX_STEP: f64 = 0.25;
/// What a shaper may save up, seconds: so much passes without a queue, however little the path carries.
const RESERVE: f64 = 0.015;

impl Coded {
    pub(super) fn on_cruise(&mut self, now: Instant, number: u64) {
        let Some(interval) = &self.interval else { return };
        let length = now.saturating_duration_since(interval.start);
        if interval.counts.all() < MIN_PACKETS || number < interval.first || length < MIN_INTERVAL {
            return;
        }
        let sample = self.sample(now);
        self.begin_interval(now);
        if let Some(sample) = sample {
            self.cruised = self.cruised.saturating_add(1);
            if self.rivals.are_contended() {
                self.on_contest(now, &sample);
            } else if !self.judge(now, &sample) {
                self.estimate(now, &sample);
                self.cruise(now, &sample);
                self.watch_rivals(now, &sample);
            }
        }
    }

    /// Corrects the capacity.
    fn estimate(&mut self, now: Instant, sample: &Sample) {
        let target = self.target();
        self.limited = sample.limited;
        if sample.highest > self.high() {
            self.refresh_soon(now);
        }
        if sample.queue > self.empty() {
            self.estimate_by_queue(sample, target);
        } else if sample.limited {
            // Nothing queued and not all was used: nothing to be learnt.
            (self.idle, self.spare, self.growth) = (0, 0.0, 0);
        } else {
            self.estimate_by_spare(now, sample);
        }
        if sample.marked {
            // Somebody wants the queue shorter; where there is none to be seen, less has to be sent.
            self.depth = self.depth.min(sample.highest * 0.7).max(self.empty());
            if sample.queue <= self.empty() {
                self.capacity *= 0.95;
            }
        }
        // A path that once overflowed early may hold more by now.
        self.depth += sample.length * (0.000_5 + 0.15 * self.depth.min(1.0));
    }

    /// A queue stood all the time, so what passed is what the bottleneck carries, of this flow.
    fn estimate_by_queue(&mut self, sample: &Sample, target: f64) {
        (self.idle, self.spare, self.growth) = (0, 0.0, 0);
        // Some of it may have been dropped there, and so did not pass.
        let passed = sample.passed.min(self.not_dropped(sample));
        let long = sample.queue > 1.5 * target;
        if sample.limited && passed < self.capacity {
            // What the application did not send is no measure, though a long queue says that there is less than was thought.
            if long {
                self.capacity = passed.max(0.9 * self.capacity);
            }
            return;
        }
        let weight = if passed < self.capacity && long { 1.0 } else { 0.5 };
        self.capacity += weight * (passed - self.capacity);
        self.capacity = self.capacity.max(MIN_RATE);
    }

    /// The queue is empty although everything allowed was sent: the path carries this at least, unless a shaper had saved it up.
    fn estimate_by_spare(&mut self, now: Instant, sample: &Sample) {
        self.idle += 1;
        if !self.may_grow(now) {
            return;
        }
        let beyond = sample.passed / self.capacity.max(1.0) - 1.0;
        self.spare = (self.spare + beyond * sample.length).max(0.0);
        if self.spare > RESERVE && beyond > 0.0 {
            self.capacity = self.capacity.max(sample.passed.min(self.not_dropped(sample)));
            self.spare = 0.0;
            self.growth += 1;
            self.doubt.on_growth();
        }
    }

    /// Whether more than is known to pass may be tried: not while more is lost than should be.
    fn may_grow(&self, now: Instant) -> bool {
        self.doubt.allows_probes(now) && self.loss.excess(self.window.counts()) == 0.0
    }

    /// Sets the pace.
    fn cruise(&mut self, now: Instant, sample: &Sample) {
        let length = sample.length.max(MIN_INTERVAL.as_secs_f64());
        // A slow flow's intervals are long for want of packets. It corrects more in each, or it would come to its share much later than a fast one leaves it.
        let horizon = (length * self.round().as_secs_f64().min(length)).sqrt();
        let mut change = QUEUE_GAIN * (self.target() - sample.queue) / horizon;
        if self.idle > 2 {
            // Nothing queues: look for more, in steps that would not overflow a short queue at first.
            let step = STEP / length * f64::from(1_u32 << self.growth.min(8));
            change = change.max(step).min(MAX_STEP);
        }
        let held = self.idle > 0 && !self.may_grow(now);
        // Right after the queue was filled again, that does not show yet.
        let fresh = self.cruised <= 2 && self.emptied > self.born || self.cruised <= 1;
        if sample.limited || held || fresh {
            change = change.min(0.0);
        }
        self.set_rate(now, self.capacity * (1.0 + change.max(-0.5)));
        if now >= self.refresh_at && !sample.limited {
            self.refresh(now, sample.queue);
        }
    }
}
