//! When a report or a credit leaves. Both carry the whole state, so only the latest matters, and a lost one is made good by a newer one.

use std::time::{Duration, Instant};

use crate::bats::hop::Path;

/// The shortest and longest wait of a report for company.
const WAIT: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(20));

#[derive(Debug, Default)]
pub(in crate::bats) struct Reporting {
    due: Option<Instant>,
    /// The serial of the latest one.
    latest: u64,
}

impl Reporting {
    /// Something changed.
    pub(in crate::bats) fn on_change(&mut self, now: Instant, path: &Path) {
        self.again_at(now + (path.rtt / 16).clamp(WAIT.0, WAIT.1));
    }

    /// Something changed that should not wait.
    pub(in crate::bats) fn on_urgent(&mut self, now: Instant) {
        self.due = Some(now);
    }

    /// Comes back even if nothing changes.
    pub(in crate::bats) fn again_at(&mut self, at: Instant) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    /// A report was lost; only the latest one is worth another.
    pub(in crate::bats) fn on_lost(&mut self, now: Instant, serial: u64) {
        if serial == self.latest {
            self.on_urgent(now);
        }
    }

    pub(in crate::bats) fn is_due(&self, now: Instant) -> bool {
        self.due.is_some_and(|due| due <= now)
    }

    pub(in crate::bats) fn on_sent(&mut self, serial: u64) {
        self.due = None;
        self.latest = serial;
    }

    pub(in crate::bats) fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }
}
