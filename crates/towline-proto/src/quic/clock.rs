//! Wall-clock time for certificates, tickets and tokens, without reading a clock: the endpoint's start plus the `now` that it was last given.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustls_pki_types::UnixTime;

#[derive(Debug)]
pub(super) struct Clock {
    start: Instant,
    wall: SystemTime,
    elapsed_ns: AtomicU64,
}

impl Clock {
    pub(super) fn new(start: Instant, wall: SystemTime) -> Self {
        Self { start, wall, elapsed_ns: AtomicU64::new(0) }
    }

    pub(super) fn advance(&self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.start).as_nanos();
        self.elapsed_ns.store(u64::try_from(elapsed).unwrap_or(u64::MAX), Relaxed);
    }

    /// The last `now` that was given.
    pub(super) fn now(&self) -> Instant {
        self.start + Duration::from_nanos(self.elapsed_ns.load(Relaxed))
    }

    pub(super) fn wall(&self) -> SystemTime {
        self.wall + Duration::from_nanos(self.elapsed_ns.load(Relaxed))
    }

    pub(super) fn unix(&self) -> Duration {
        self.wall().duration_since(UNIX_EPOCH).unwrap_or_default()
    }
}

impl rustls::time_provider::TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(self.unix()))
    }
}

impl noq_proto::TimeSource for Clock {
    fn now(&self) -> SystemTime {
        self.wall()
    }
}
