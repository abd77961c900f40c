//! Loss: how much there is, how much of it would be there anyway, and how it comes in bursts.

/// Packets over which the smoothed share looks back.
const MEMORY: f64 = 1_000.0;
/// Packets over which the base looks back.
const BASE_MEMORY: f64 = 2_000.0;

/// Before anything is known, it is as if so many packets had been sent and none lost.
const PRIOR: f64 = 50.0;

/// What became of the packets of one interval.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Counts {
    pub(super) arrived: u64,
    pub(super) lost: u64,
}

impl Counts {
    pub(super) fn all(&self) -> u64 {
        self.arrived + self.lost
    }

    pub(super) fn add(&mut self, other: Counts) {
        self.arrived += other.arrived;
        self.lost += other.lost;
    }

    pub(super) fn share(&self) -> f64 {
        if self.lost == 0 { 0.0 } else { self.lost as f64 / self.all() as f64 }
    }
}

/// The shares of loss of one path.
#[derive(Clone, Debug)]
pub(super) struct LossMeter {
    smoothed: f64,
    /// The loss that does not come from sending too fast, as far as is known.
    base: f64,
    /// How many packets the base was learnt from.
    learnt: f64,
    last_lost: Option<u64>,
    lost: f64,
    runs: f64,
}

impl Default for LossMeter {
    fn default() -> Self {
        LossMeter { smoothed: 0.0, base: 0.0, learnt: PRIOR, last_lost: None, lost: 0.0, runs: 0.0 }
    }
}

impl LossMeter {
    pub(super) fn smoothed(&self) -> f64 {
        self.smoothed
    }

    pub(super) fn base(&self) -> f64 {
        self.base
    }

    /// Lost packets per run of lost packets.
    pub(super) fn burst(&self) -> f64 {
        if self.runs < 1.0 { 1.0 } else { (self.lost / self.runs).max(1.0) }
    }

    /// One packet was lost; they come in order of their numbers.
    pub(super) fn on_lost(&mut self, number: u64) {
        self.lost += 1.0;
        if self.last_lost.is_none_or(|last| last.checked_add(1) != Some(number)) {
            self.runs += 1.0;
        }
        self.last_lost = Some(number);
        if self.runs > 256.0 {
            self.lost /= 2.0;
            self.runs /= 2.0;
        }
    }

    pub(super) fn smooth(&mut self, counts: Counts) {
        let n = counts.all() as f64;
        self.smoothed += (counts.share() - self.smoothed) * n / (n + MEMORY);
    }

    /// Takes what was lost in these for the path's own loss.
    pub(super) fn learn(&mut self, counts: Counts) {
        let n = counts.all() as f64;
        if n > 0.0 {
            self.learnt = (self.learnt + n).min(BASE_MEMORY);
            self.base += (counts.share() - self.base) * (n / self.learnt).min(1.0);
        }
    }

    /// The path's own loss is this from now on.
    pub(super) fn relearn(&mut self, counts: Counts) {
        self.base = counts.share();
        self.learnt = counts.all() as f64;
    }

    /// Nothing is known of the path's own loss.
    pub(super) fn forget(&mut self) {
        (self.base, self.learnt) = (0.0, PRIOR);
    }

    /// The share of loss beyond the base, or 0 when that may be chance: three and a half standard deviations of both the sample and the base.
    pub(super) fn excess(&self, counts: Counts) -> f64 {
        let n = counts.all() as f64;
        let excess = counts.share() - self.base;
        if n < 8.0 || excess <= 0.02 {
            return 0.0;
        }
        let spread = self.base.max(1.0 / n);
        // Losses in runs vary more than independent ones.
        let variance =
            spread * (1.0 - spread) * (1.0 / n + 1.0 / self.learnt.max(n)) * self.burst();
        if excess > 3.5 * variance.sqrt() { excess } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chance_is_no_excess_and_a_rise_is() {
        let mut meter = LossMeter::default();
        for _ in 0..20 {
            meter.learn(Counts { arrived: 180, lost: 20 });
        }
        assert!((meter.base() - 0.1).abs() < 2e-3);
        assert_eq!(meter.excess(Counts { arrived: 85, lost: 15 }), 0.0);
        assert!((meter.excess(Counts { arrived: 60, lost: 40 }) - 0.3).abs() < 2e-3);
        meter.relearn(Counts { arrived: 60, lost: 40 });
        assert_eq!(meter.excess(Counts { arrived: 60, lost: 40 }), 0.0);
    }

    #[test]
    fn bursts_are_runs_of_lost_packets() {
        let mut meter = LossMeter::default();
        assert_eq!(meter.burst(), 1.0);
        for run in 0..1_000_u64 {
            (0..8).for_each(|at| meter.on_lost(run * 100 + at));
        }
        assert!((meter.burst() - 8.0).abs() < 0.1);
    }
}
