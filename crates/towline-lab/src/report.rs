//! What a run gives.

use std::time::{Duration, Instant};

use crate::cell::Cell;

/// Bytes that arrived, by time.
#[derive(Clone, Debug)]
pub(crate) struct Meter {
    base: Option<Instant>,
    warmup: Duration,
    total: u64,
    steady: u64,
}

impl Meter {
    pub(crate) fn new(base: Instant, warmup: Duration) -> Self {
        Meter { base: Some(base), warmup, total: 0, steady: 0 }
    }

    pub(crate) fn add(&mut self, now: Instant, bytes: u64) {
        self.total += bytes;
        if self.base.is_some_and(|base| now.saturating_duration_since(base) >= self.warmup) {
            self.steady += bytes;
        }
    }

    pub(crate) fn steady(&self) -> u64 {
        self.steady
    }

    /// Several together.
    pub(crate) fn sum(meters: &[&Meter]) -> Meter {
        let (base, warmup) =
            meters.first().map_or((None, Duration::ZERO), |first| (first.base, first.warmup));
        let total = meters.iter().map(|meter| meter.total).sum();
        let steady = meters.iter().map(|meter| meter.steady).sum();
        Meter { base, warmup, total, steady }
    }
}

/// The figures of one run. Rates are bits per second.
#[derive(Clone, Debug)]
pub struct Report {
    /// The cell that was run.
    pub cell: Cell,
    /// Application bytes delivered over the whole time.
    pub goodput: f64,
    /// The same without the warm-up.
    pub steady: f64,
    /// What is possible.
    pub limit: f64,
    /// What the first link carried, whole packets.
    pub wire: f64,
    /// Packets dropped by the first link's queue.
    pub overflow: u64,
    /// What each of several flows got without the warm-up, those with CUBIC first.
    pub shares: Vec<f64>,
}

impl Report {
    pub(crate) fn new(cell: &Cell, meter: &Meter) -> Self {
        let rate = |bytes: u64, time: Duration| bytes as f64 * 8.0 / time.as_secs_f64().max(1e-9);
        Report {
            goodput: rate(meter.total, cell.duration),
            steady: rate(meter.steady, cell.duration.saturating_sub(cell.warmup)),
            limit: cell.limit(),
            wire: 0.0,
            overflow: 0,
            shares: Vec::new(),
            cell: cell.clone(),
        }
    }

    /// Goodput over what is possible.
    pub fn ratio(&self) -> f64 {
        self.goodput / self.limit
    }

    /// Jain's index of our own flows' shares: 1 when all are equal, 1/n when one has all.
    pub fn jain(&self) -> Option<f64> {
        let shares =
            self.shares.get(usize::from(self.cell.cubic)..).filter(|own| !own.is_empty())?;
        let sum: f64 = shares.iter().sum();
        let squares: f64 = shares.iter().map(|share| share * share).sum();
        Some(sum * sum / (shares.len() as f64 * squares.max(1.0)))
    }

    /// What is on the wire beyond what is delivered, as a share of the latter.
    pub fn overhead(&self) -> f64 {
        if self.goodput > 0.0 { self.wire / self.goodput - 1.0 } else { 0.0 }
    }

    /// The same without the warm-up.
    pub fn steady_ratio(&self) -> f64 {
        self.steady / self.limit
    }
}
