//! A bound on what is answered without a connection, so that nobody can make us a reflector or keep us busy.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Answers within the last while, each remembered with its address.
pub(super) struct StatelessLimit {
    max: usize,
    period: Duration,
    recent: VecDeque<(Instant, IpAddr, u16)>,
}

impl StatelessLimit {
    pub(super) fn new(max: usize, period: Duration) -> Self {
        Self { max, period, recent: VecDeque::with_capacity(max.min(1_024)) }
    }

    /// Whether an answer to this address may go now; counts it if so.
    pub(super) fn allows(&mut self, now: Instant, ip: IpAddr, port: u16) -> bool {
        while self
            .recent
            .front()
            .is_some_and(|(at, ..)| now.saturating_duration_since(*at) >= self.period)
        {
            self.recent.pop_front();
        }
        if self.recent.len() >= self.max
            || self.recent.iter().any(|(_, a, p)| (*a, *p) == (ip, port))
        {
            return false;
        }
        self.recent.push_back((now, ip, port));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_once_and_all_together_at_most_so_many() {
        let mut limit = StatelessLimit::new(2, Duration::from_millis(100));
        let start = Instant::now();
        let ip = |last| IpAddr::from([192, 0, 2, last]);
        assert!(limit.allows(start, ip(1), 1));
        assert!(!limit.allows(start, ip(1), 1), "the same address again");
        assert!(limit.allows(start, ip(1), 2));
        assert!(!limit.allows(start, ip(2), 1), "two are out");
        assert!(limit.allows(start + Duration::from_millis(100), ip(2), 1));
    }
}
