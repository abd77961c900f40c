//! Tells loss that is the path's own from loss that comes from sending too fast: less is sent for a moment, and the former stays the same share of less.

use std::time::{Duration, Instant};

use super::super::loss::Counts;
use super::{Coded, Sample, State};

/// After how long a loss that is thought the path's own is put to the test again, the first time, where queues do not tell of the path's rate.
const DOUBT_AFTER: Duration = Duration::from_secs(2);
/// How long it is believed what was lost with a queue and without.
const BELIEVED: Duration = Duration::from_secs(9);
/// For how long no more is looked for after that turned out to be lost: the first time, and at most.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(16));
/// Loss that stays beyond the path's own for so long while others keep the queue full is taken for its own.
const ACCEPT_AFTER: Duration = Duration::from_secs(2);
/// No path is thought to lose more than this by itself. Flows that fill a short queue together all see that their loss does not depend on what they send.
const MOST: f64 = 0.5;
/// How many standard deviations less has to be lost for it to be our doing.
const FELL: f64 = 2.0;
/// No more packets are waited for than come in this time.
const LONGEST: Duration = Duration::from_secs(4);

/// Packets together, for what single intervals are too short to tell.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Window {
    counts: Counts,
    since: Option<Instant>,
    highest: f64,
    last: Option<Instant>,
}

impl Window {
    pub(super) fn add(&mut self, now: Instant, counts: Counts, queue: f64) {
        self.since.get_or_insert(now);
        self.last = Some(now);
        self.counts.add(counts);
        self.highest = self.highest.max(queue);
    }

    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    pub(super) fn reset(&mut self) {
        *self = Window::default();
    }

    fn length(&self) -> Duration {
        match (self.since, self.last) {
            (Some(since), Some(last)) => last.saturating_duration_since(since),
            _ => Duration::ZERO,
        }
    }

    /// Whether it tells enough, when it takes `inflation` times as many packets as it would if losses were independent.
    fn is_full(&self, inflation: f64) -> bool {
        let (all, length) = (self.counts.all() as f64, self.length());
        all >= 256.0 * inflation
            || all >= 64.0 * inflation && length > Duration::from_secs(1)
            || all >= 64.0 && length > LONGEST
    }
}

/// Less is sent, to see whether less is lost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Trial {
    capacity: f64,
    before: Window,
    /// The loss that follows if too much was sent before.
    ours: f64,
    /// The share of the capacity that is sent.
    sent: f64,
    /// The first packet that was sent at the lower rate, and whether it, or one after it, has arrived.
    first: u64,
    begun: bool,
    until: Instant,
}

/// What is not believed for good.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Doubt {
    /// When the path's own loss is put to the test again, and after how long the next time.
    due: Option<(Instant, Duration)>,
    /// Nothing beyond the capacity is tried before this.
    probe_from: Option<Instant>,
    back_off: Duration,
    /// Since when more is lost than the path's own while the queue is long.
    excess_since: Option<Instant>,
    /// More was lost than the path's own, which may have been chance: the next packets will tell.
    suspected: bool,
}

impl Doubt {
    /// Whether more than is known to pass may be tried.
    pub(super) fn allows_probes(&self, now: Instant) -> bool {
        self.probe_from.is_none_or(|from| now >= from)
    }

    /// There was more.
    pub(super) fn on_growth(&mut self) {
        self.back_off = Duration::ZERO;
    }
}

impl Coded {
    /// Looks at the loss of late; true when a trial began.
    pub(super) fn judge(&mut self, now: Instant, sample: &Sample) -> bool {
        let counts = self.window.counts;
        let evident = counts.all() >= 64 && self.loss.is_evident(counts);
        if !evident && !self.window.is_full(self.loss.inflation()) {
            return false;
        }
        let window = std::mem::take(&mut self.window);
        let excess = self.loss.excess(window.counts);
        let suspected = std::mem::replace(&mut self.doubt.suspected, excess > 0.0);
        if excess == 0.0 {
            self.doubt.excess_since = None;
            let lately = |at: Instant| now.saturating_duration_since(at) < BELIEVED;
            let seen = self.standing.is_some_and(lately) && self.cleared.is_some_and(lately);
            let due = self.doubt.due.map_or(self.born + DOUBT_AFTER, |(at, _)| at) <= now;
            if due && !seen && !sample.limited && self.loss.base() > 0.02 {
                self.begin_trial(now, window, 0.0, 0.85);
                return true;
            }
            return false;
        }
        if window.highest > self.high() {
            // That the queue is too long is known; the estimate takes it into account.
            self.depth = self.depth.min(window.highest);
            let since = *self.doubt.excess_since.get_or_insert(now);
            if now.saturating_duration_since(since) > ACCEPT_AFTER {
                self.doubt.excess_since = None;
                self.accept(window.counts);
            }
            return false;
        }
        if sample.limited && window.highest < self.empty() {
            return false;
        }
        // Of many looks one will find much by chance, and what is looked at after that would seem to be less for any reason.
        if !suspected && !evident {
            return false;
        }
        let floor = self.loss.base();
        let passes = 1.0 - excess / (1.0 - floor).max(0.1);
        self.begin_trial(now, window, floor, 0.97 * passes.clamp(0.5, 0.95));
        true
    }

    fn begin_trial(&mut self, now: Instant, before: Window, floor: f64, share: f64) {
        let round = self.round();
        let drain = (1.5 * self.recent_queue() + 0.001) / round.as_secs_f64();
        let until = now + 4 * round + Duration::from_millis(1_500);
        let first = self.log.next();
        let capacity = self.capacity;
        let sent = share.min(1.0 - drain.min(0.35));
        let ours = (1.0 - (1.0 - before.counts.share()) / sent).max(floor);
        self.state =
            State::Trial(Trial { capacity, before, ours, sent, first, begun: false, until });
        self.set_rate(now, capacity * sent);
        self.note_emptied(now);
    }

    pub(super) fn on_trial(&mut self, now: Instant, trial: Trial, number: u64) {
        if !trial.begun {
            if number >= trial.first {
                self.window.reset();
                self.state = State::Trial(Trial { begun: true, ..trial });
            }
        } else if self.window.is_full(self.loss.inflation()) || now >= trial.until {
            self.conclude(now, &trial);
            self.refill(now);
        }
    }

    fn conclude(&mut self, now: Instant, trial: &Trial) {
        let window = std::mem::take(&mut self.window);
        let (before, after) = (trial.before.counts.share(), window.counts.share());
        let fell = self.loss.rise(window.counts, trial.before.counts) > FELL;
        let mut both = trial.before.counts;
        both.add(window.counts);
        let stays = !fell || after > 0.5 * (trial.ours + before);
        if stays && self.accept(both) {
            // As much of less is lost: it is not for our sake.
            let wait =
                self.doubt.due.map_or(DOUBT_AFTER, |(_, wait)| (2 * wait).min(60 * DOUBT_AFTER));
            self.doubt.due = Some((now + wait, wait));
            return;
        }
        if stays {
            self.capacity = trial.capacity * trial.sent;
            return self.back_off(now);
        }
        let (arrived, arrives) = (1.0 - before, trial.sent * (1.0 - after));
        if arrives > 0.93 * arrived {
            // No less arrives: even this is too much, so that no loss is known to be the path's.
            self.capacity = trial.capacity * arrives;
            self.loss.forget();
        } else {
            self.capacity = trial.capacity * (arrived / (1.0 - after)).clamp(0.5, 1.0);
            if self.loss.is_below(window.counts) {
                self.loss.relearn(window.counts);
            }
        }
        if trial.before.highest > 2.0 * self.empty() {
            self.depth = self.depth.min(trial.before.highest);
        }
        self.back_off(now);
    }

    /// Takes a loss for the path's own; false when it is too large for that.
    fn accept(&mut self, counts: Counts) -> bool {
        let may = counts.share() <= MOST;
        if may {
            self.loss.relearn(counts);
        }
        may
    }

    /// No more is looked for at first.
    fn back_off(&mut self, now: Instant) {
        let wait = (2 * self.doubt.back_off).clamp(BACK_OFF.0, BACK_OFF.1);
        self.doubt.back_off = wait;
        self.doubt.probe_from = Some(now + wait);
        self.doubt.due = Some((now + DOUBT_AFTER, DOUBT_AFTER / 2));
    }

    /// What passed of a sample, bytes per second, if all loss beyond the path's own came before the bottleneck.
    pub(super) fn not_dropped(&self, sample: &Sample) -> f64 {
        let share = sample.counts.share();
        let variance =
            share * (1.0 - share) * self.loss.inflation() / sample.counts.all().max(1) as f64;
        let kept = (1.0 - share + 2.5 * variance.sqrt()) / (1.0 - self.loss.base()).max(0.1);
        sample.passed * kept.min(1.0)
    }
}
