//! The queue is emptied once in a while, so that the delay and the loss of the path itself are seen. Flows beside each other see that, and do it together.

use std::time::{Duration, Instant};

use super::{Coded, State};

/// How often.
pub(super) const EVERY: Duration = Duration::from_secs(4);
/// How far beyond empty, seconds.
const BEYOND: f64 = 0.001;

impl Coded {
    /// Sends less for a round trip, so that the queue empties.
    pub(super) fn refresh(&mut self, now: Instant, queue: f64) {
        let round = self.round();
        // More than what stands, since flows beside this one may not help.
        let drain = (1.5 * queue + BEYOND) / round.as_secs_f64();
        self.set_rate(now, self.capacity * (1.0 - drain.min(0.35)));
        // Twice as long: flows beside this one see it after the first, and join for the second.
        self.state = State::Refresh { until: now + 2 * round };
        self.note_emptied(now);
    }

    pub(super) fn note_emptied(&mut self, now: Instant) {
        self.emptied = now;
        self.refresh_at = now + EVERY;
        self.cruised = 0;
        self.stood = false;
        self.window.reset();
    }

    /// The queue is longer than anybody wants: there may be a flow that does not know how long the path is without it.
    pub(super) fn refresh_soon(&mut self, now: Instant) {
        let soon = (now + EVERY / 8).max(self.emptied + EVERY / 2);
        self.refresh_at = self.refresh_at.min(soon);
    }

    pub(super) fn hold(&mut self, now: Instant) {
        self.state = State::Hold { until: now + self.round() };
        self.set_rate(now, self.capacity);
    }

    pub(super) fn refill(&mut self, now: Instant) {
        let round = self.round();
        self.state = State::Refill { until: now + round };
        let missing = (self.target() - self.recent_queue()).max(0.0);
        let more = missing / round.as_secs_f64();
        self.set_rate(now, self.capacity * (1.0 + more.min(0.5)));
    }

    /// Another flow empties the queue: together it becomes empty. That the path is shorter than was known shows as well that a queue is.
    pub(super) fn join_refresh(&mut self, now: Instant) {
        let queue = self.recent_queue();
        let old = now.saturating_duration_since(self.emptied) > EVERY / 4;
        self.stood |= queue > 0.8 * self.target();
        let known = self.interval.as_ref().map_or(Duration::ZERO, |interval| interval.base);
        let lower = known.saturating_sub(self.base_delay()).as_secs_f64() > self.empty();
        let short = lower || self.stood && queue < 0.5 * self.target();
        if self.cruised > 4 && old && short {
            self.refresh(now, queue.max(0.5 * self.target()));
        }
    }
}
