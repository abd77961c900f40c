//! Virtual time: integer nanoseconds since a base, shown to the outside as [`Instant`].

use std::time::{Duration, Instant};

/// Nanoseconds since the base. 2^64 ns are 584 years.
pub(crate) type Nanos = u64;

/// A time that never comes.
pub(crate) const NEVER: Nanos = Nanos::MAX;

/// Nanoseconds in a second.
pub(crate) const SECOND: u64 = 1_000_000_000;

/// Translates between offsets and the instants that the engines take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    base: Instant,
}

impl Clock {
    pub(crate) fn new(base: Instant) -> Self {
        Clock { base }
    }

    pub(crate) fn base(self) -> Instant {
        self.base
    }

    pub(crate) fn instant(self, at: Nanos) -> Instant {
        self.base + Duration::from_nanos(at)
    }

    /// Instants before the base count as the base.
    pub(crate) fn nanos(self, at: Instant) -> Nanos {
        nanos(at.saturating_duration_since(self.base))
    }
}

/// A duration in nanoseconds, saturating at [`NEVER`].
pub(crate) fn nanos(duration: Duration) -> Nanos {
    Nanos::try_from(duration.as_nanos()).unwrap_or(NEVER)
}
