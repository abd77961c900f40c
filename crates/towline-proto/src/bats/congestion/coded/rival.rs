//! Flows beside this one that fill the queue until it overflows, as loss-based controllers do. A flow that keeps a short queue would leave them nearly everything, so that for a while it
//! does as they do: a window that grows as CUBIC's (RFC 9438), and shrinks when they shrink theirs. They are not asked for: where yielding does not shorten the queue, somebody fills it.

use std::time::{Duration, Instant};

use super::{Coded, EVERY, Sample};

/// A queue is too long by this, seconds: flows like this one that come to equal rates are closer to their targets.
const LONG: f64 = 0.000_8;
/// For how long it stays so, and how much less this flow sends by then, before it contends.
const PRESSED: Duration = Duration::from_millis(2_500);
const YIELDED: f64 = 0.93;
/// Where more than this is lost, no flow that goes by loss fills a queue.
const HARMLESS: f64 = 0.02;
/// How long it contends before it looks whether it still has to, at first and at most.
const CONTEND: (Duration, Duration) = (Duration::from_secs(4), Duration::from_secs(16));
/// When a contest ends at the latest beyond that, if nobody gives way.
const GRACE: Duration = Duration::from_secs(4);
/// CUBIC's constants (RFC 9438, sections 4.1 and 4.6).
const C: f64 = 0.4;
const BETA: f64 = 0.7;
const ALPHA: f64 = 3.0 * (1.0 - BETA) / (1.0 + BETA);
/// A queue that falls by this share of its peak and this time, seconds, fell because somebody gave way.
const FALLEN: (f64, f64) = (0.12, 0.000_4);

/// What is known of such flows.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rivals {
    /// Since when the queue is too long, and what was sent then.
    pressed: Option<(Instant, f64)>,
    contest: Option<Contest>,
    /// How long the last contest was to last, and when it ended.
    last: Option<(Duration, Instant)>,
}

#[derive(Clone, Copy, Debug)]
struct Contest {
    /// The window before it last shrank, packets, and when that was.
    before: f64,
    since: Instant,
    /// The longest queue since, seconds.
    peak: f64,
    until: Instant,
}

impl Rivals {
    pub(super) fn are_contended(&self) -> bool {
        self.contest.is_some()
    }

    /// Nothing is known of the path, nor of who else uses it.
    pub(super) fn forget(&mut self) {
        *self = Rivals::default();
    }
}

impl Coded {
    /// Looks whether somebody fills the queue.
    pub(super) fn watch_rivals(&mut self, now: Instant, sample: &Sample) {
        let long = sample.queue > self.target() + LONG;
        if !long || sample.limited || self.loss.smoothed() > HARMLESS {
            self.rivals.pressed = None;
            return;
        }
        let (since, rate) = *self.rivals.pressed.get_or_insert((now, self.rate));
        let known =
            self.rivals.last.is_some_and(|(_, at)| now.saturating_duration_since(at) < EVERY);
        let pressed = now.saturating_duration_since(since);
        let yielded = self.capacity < YIELDED * rate;
        if pressed >= PRESSED && yielded || known && pressed >= PRESSED / 6 {
            self.contend(now, sample, rate);
        }
    }

    fn contend(&mut self, now: Instant, sample: &Sample, rate: f64) {
        let last = self.rivals.last.filter(|(length, at)| *at + *length > now);
        let length = last.map_or(CONTEND.0, |(length, _)| (2 * length).min(CONTEND.1));
        self.rivals.pressed = None;
        self.rivals.last = Some((length, now));
        let before = self.window_at(rate, sample);
        // As if it had just grown back to that.
        let back = Duration::from_secs_f64(plateau(before));
        let since = now.checked_sub(back).unwrap_or(now);
        self.rivals.contest = Some(Contest { before, since, peak: 0.0, until: now + length });
        self.window.reset();
    }

    /// The packets in flight at a rate.
    fn window_at(&self, rate: f64, sample: &Sample) -> f64 {
        rate * self.round_with(sample) / self.mtu.max(1) as f64
    }

    fn round_with(&self, sample: &Sample) -> f64 {
        (self.base_delay().as_secs_f64() + sample.queue).max(0.001)
    }

    /// One interval of a contest.
    pub(super) fn on_contest(&mut self, now: Instant, sample: &Sample) {
        let Some(mut contest) = self.rivals.contest else { return };
        let round = self.round_with(sample);
        let elapsed = now.saturating_duration_since(contest.since).as_secs_f64();
        let queue = self.recent_queue();
        contest.peak = contest.peak.max(queue);
        let fell = queue < (1.0 - FALLEN.0) * contest.peak - FALLEN.1;
        let lost = self.window.counts().all() >= 64 && self.loss.is_evident(self.window.counts());
        let mut window = grown(contest.before, elapsed, round);
        let gave_way = elapsed > 3.0 * round && (fell || lost);
        if gave_way {
            contest = Contest { before: window, since: now, peak: 0.0, ..contest };
            window *= BETA;
            self.window.reset();
        } else if elapsed <= 3.0 * round {
            // What was sent before is still what queues.
            contest.peak = queue;
        }
        // No more than a little beyond what passes.
        let rate = (window * self.mtu as f64 / round).min(1.25 * self.not_dropped(sample));
        self.capacity = rate.max(super::MIN_RATE);
        self.set_rate(now, self.capacity);
        self.rivals.contest = Some(contest);
        if sample.limited || now >= contest.until && gave_way || now >= contest.until + GRACE {
            self.rivals.contest = None;
            if let Some((_, ended)) = &mut self.rivals.last {
                *ended = now;
            }
            self.refresh_at = now + EVERY;
        }
    }
}

/// A window after this time, seconds, that was `before` when it shrank (RFC 9438, sections 4.2 and 4.3).
fn grown(before: f64, elapsed: f64, round: f64) -> f64 {
    let beyond = elapsed - plateau(before);
    let cubic = before + C * beyond * beyond * beyond;
    let friendly = before * BETA + ALPHA * elapsed / round;
    cubic.max(friendly).max(2.0)
}

/// How long a window takes to be as it was, seconds.
fn plateau(before: f64) -> f64 {
    cube_root(before * (1.0 - BETA) / C)
}

/// By Newton's method, with nothing that differs between machines.
fn cube_root(value: f64) -> f64 {
    let mut root = value.max(1.0);
    for _ in 0..64 {
        root -= (root - value / (root * root)) / 3.0;
    }
    root
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_grows_back_as_cubics_does() {
        assert!((cube_root(27.0) - 3.0).abs() < 1e-12 && (cube_root(0.008) - 0.2).abs() < 1e-12);
        // 0.3 / 0.4 of 1000 packets: the cube root of 750 seconds until it is back.
        let back = cube_root(750.0);
        assert!((grown(1_000.0, 0.0, 10.0) - 700.0).abs() < 1e-6);
        assert!((grown(1_000.0, back, 10.0) - 1_000.0).abs() < 1e-6);
        // Over a short round trip as Reno's would.
        assert!((grown(100.0, 1.0, 0.01) - (70.0 + ALPHA * 100.0)).abs() < 1e-9);
    }
}
