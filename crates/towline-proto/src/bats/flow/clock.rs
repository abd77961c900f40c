//! The round trip from end to end, and when to ask whether anybody is there.

use std::time::{Duration, Instant};

use crate::bats::hop::Path;

/// The shortest silence before a probe.
const MIN_PROBE: Duration = Duration::from_millis(50);
/// The longest silence before a probe.
const MAX_PROBE: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct EndClock {
    smoothed: Option<Duration>,
    /// The newest symbol that gave a sample.
    sampled: Option<u64>,
    /// When a report or the like was last heard, or a wait began.
    heard: Instant,
    probes: u32,
}

impl EndClock {
    pub(super) fn new(now: Instant) -> EndClock {
        EndClock { smoothed: None, sampled: None, heard: now, probes: 0 }
    }

    /// The smoothed round trip to the far end, or to the neighbour as long as nothing better is known.
    pub(super) fn round_trip(&self, path: &Path) -> Duration {
        self.smoothed.unwrap_or(path.rtt).max(path.min_rtt)
    }

    /// How long what was lost behind the neighbour takes to be repaired there at most, by all experience.
    pub(super) fn patience(&self, path: &Path) -> Duration {
        self.round_trip(path) * 4 + Duration::from_millis(200)
    }

    pub(super) fn is_newest(&self, number: u64) -> bool {
        self.sampled.is_none_or(|sampled| number > sampled)
    }

    pub(super) fn on_sample(&mut self, now: Instant, sent: Instant, number: u64) {
        let sample = now.saturating_duration_since(sent);
        self.sampled = Some(number);
        // RFC 6298, section 2: an eighth of each new sample.
        self.smoothed = Some(self.smoothed.map_or(sample, |old| (old * 7 + sample) / 8));
    }

    pub(super) fn on_heard(&mut self, now: Instant) {
        self.heard = now;
        self.probes = 0;
    }

    pub(super) fn on_progress(&mut self, now: Instant) {
        self.heard = self.heard.max(now);
    }

    pub(super) fn probe_at(&self, path: &Path) -> Instant {
        let wait = self.round_trip(path) * 2 + MIN_PROBE;
        self.heard + (wait * (1 << self.probes.min(5))).min(MAX_PROBE.max(wait))
    }

    /// Whether nothing was heard for too long; counts as a probe.
    pub(super) fn poll_probe(&mut self, now: Instant, path: &Path) -> bool {
        let due = now >= self.probe_at(path);
        if due {
            self.heard = now;
            self.probes += 1;
        }
        due
    }
}
