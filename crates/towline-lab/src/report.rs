//! What a run gives.

use std::time::{Duration, Instant};

use crate::cell::Cell;

/// Bytes that arrived, by time.
#[derive(Clone, Debug)]
pub(crate) struct Meter {
    base: Instant,
    warmup: Duration,
    end: Duration,
    total: u64,
    steady: u64,
}

impl Meter {
    /// From `base` to `end` after it; the steady part begins after `warmup`.
    pub(crate) fn new(base: Instant, warmup: Duration, end: Duration) -> Self {
        Meter { base, warmup, end, total: 0, steady: 0 }
    }

    pub(crate) fn add(&mut self, now: Instant, bytes: u64) {
        let elapsed = now.saturating_duration_since(self.base);
        if elapsed > self.end {
            return;
        }
        self.total += bytes;
        if elapsed >= self.warmup {
            self.steady += bytes;
        }
    }

    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    pub(crate) fn steady(&self) -> u64 {
        self.steady
    }
}

/// Times of many messages, all kept.
#[derive(Clone, Debug, Default)]
pub(crate) struct Times {
    samples: Vec<Duration>,
}

impl Times {
    pub(crate) fn add(&mut self, sample: Duration) {
        self.samples.push(sample);
    }

    /// The figures, if there is anything to tell.
    pub(crate) fn percentiles(&self) -> Option<Percentiles> {
        let mut sorted = self.samples.clone();
        sorted.sort_unstable();
        // Nearest rank: the smallest sample that at least this share of all are no larger than.
        let at = |share: f64| {
            let rank = (share * sorted.len() as f64).ceil() as usize;
            sorted.get(rank.max(1) - 1).copied()
        };
        Some(Percentiles { p50: at(0.5)?, p90: at(0.9)?, p99: at(0.99)?, max: at(1.0)? })
    }
}

/// How times are distributed, by nearest rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Percentiles {
    /// The median.
    pub p50: Duration,
    /// Nine in ten are no longer.
    pub p90: Duration,
    /// 99 in 100 are no longer.
    pub p99: Duration,
    /// The longest.
    pub max: Duration,
}

/// Jain's index of shares: 1 when all are equal, 1/n when one of n has all.
pub(crate) fn jain(shares: &[f64]) -> Option<f64> {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|share| share * share).sum();
    (squares > 0.0).then(|| sum * sum / (shares.len() as f64 * squares))
}

/// The figures of one run. Rates are bits per second.
#[derive(Clone, Debug)]
pub struct Report {
    /// The cell that was run.
    pub cell: Cell,
    /// Application bytes delivered over the whole time; of a transfer, over the time that it took.
    pub goodput: f64,
    /// The same without the warm-up; of a transfer, the same.
    pub steady: f64,
    /// What is possible.
    pub limit: f64,
    /// What the first link carried, whole packets.
    pub wire: f64,
    /// Packets dropped by the first link's queue.
    pub overflow: u64,
    /// What each of several flows got without the warm-up, those with CUBIC first.
    pub shares: Vec<f64>,
    /// Round trips of messages.
    pub rtt: Option<Percentiles>,
    /// The share of messages that did not arrive, or not in time.
    pub residual: Option<f64>,
    /// How long a transfer took.
    pub transfer: Option<Duration>,
}

impl Report {
    pub(crate) fn new(cell: &Cell, total: u64, steady: u64) -> Self {
        let rate = |bytes: u64, time: Duration| bytes as f64 * 8.0 / time.as_secs_f64().max(1e-9);
        Report {
            goodput: rate(total, cell.duration),
            steady: rate(steady, cell.duration.saturating_sub(cell.warmup)),
            limit: cell.limit(),
            wire: 0.0,
            overflow: 0,
            shares: Vec::new(),
            rtt: None,
            residual: None,
            transfer: None,
            cell: cell.clone(),
        }
    }

    /// Goodput over what is possible.
    pub fn ratio(&self) -> f64 {
        self.goodput / self.limit
    }

    /// Jain's index of our own flows' shares: 1 when all are equal, 1/n when one has all.
    pub fn jain(&self) -> Option<f64> {
        jain(self.shares.get(usize::from(self.cell.cubic)..)?)
    }

    /// What is on the wire beyond what is delivered, as a share of the latter.
    pub fn overhead(&self) -> f64 {
        if self.goodput > 0.0 { self.wire / self.goodput - 1.0 } else { 0.0 }
    }

    /// Goodput without the warm-up over what is possible.
    pub fn steady_ratio(&self) -> f64 {
        self.steady / self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_go_by_nearest_rank() {
        let mut times = Times::default();
        assert_eq!(times.percentiles(), None);
        let ms = Duration::from_millis;
        times.add(ms(7));
        let one = Percentiles { p50: ms(7), p90: ms(7), p99: ms(7), max: ms(7) };
        assert_eq!(times.percentiles(), Some(one));
        let mut times = Times::default();
        (1..=200).rev().for_each(|sample| times.add(ms(sample)));
        let all = Percentiles { p50: ms(100), p90: ms(180), p99: ms(198), max: ms(200) };
        assert_eq!(times.percentiles(), Some(all));
        times.add(ms(1000));
        let more = Percentiles { p50: ms(101), p90: ms(181), p99: ms(199), max: ms(1000) };
        assert_eq!(times.percentiles(), Some(more));
    }

    #[test]
    fn jains_index_is_1_for_equals_and_1_in_n_for_one_that_has_all() {
        assert_eq!(jain(&[3.0, 3.0, 3.0]), Some(1.0));
        assert_eq!(jain(&[0.0, 8.0, 0.0, 0.0]), Some(0.25));
        // (1 + 2)^2 / (2 * (1 + 4)).
        assert_eq!(jain(&[1.0, 2.0]), Some(0.9));
        assert_eq!(jain(&[]), None);
        assert_eq!(jain(&[0.0, 0.0]), None);
    }

    #[test]
    fn the_meter_leaves_out_the_warm_up_and_what_comes_after_the_end() {
        let base = Instant::now();
        let mut meter = Meter::new(base, Duration::from_secs(5), Duration::from_secs(10));
        for second in [0, 4, 5, 9, 10, 11] {
            meter.add(base + Duration::from_secs(second), 1);
        }
        assert_eq!((meter.total(), meter.steady()), (5, 3));
    }
}
