//! Loss: how much there is, how much of it would be there anyway, and how it comes in bursts.

/// Packets over which the smoothed share looks back, where losses are independent.
const MEMORY: f64 = 1_000.0;
/// Packets over which the base looks back, likewise.
const BASE_MEMORY: f64 = 2_000.0;
/// Before anything is known, it is as if so many packets had been sent and none lost.
const PRIOR: f64 = 50.0;
/// Runs of losses over which their mean length is taken: when there are as many, half of them are forgotten.
const MAX_RUNS: f64 = 256.0;
/// A share of loss is beyond another when it is so many standard deviations larger, and by this at least.
const DEVIATIONS: f64 = 3.5;
const LEAST: f64 = 0.02;

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

    /// How many times as many packets it takes to know a share of loss as it would if losses were independent. A channel of two states that loses
    /// a share p in runs of mean length L has a correlation of 1 - 1 / (L (1 - p)) from packet to packet, and the variance of a sum is that of
    /// independent losses times (1 + correlation) / (1 - correlation).
    pub(super) fn inflation(&self) -> f64 {
        (2.0 * self.burst() * (1.0 - self.smoothed) - 1.0).max(1.0)
    }

    /// One packet was lost; they come in order of their numbers.
    pub(super) fn on_lost(&mut self, number: u64) {
        if self.last_lost.is_none_or(|last| last.checked_add(1) != Some(number)) {
            if self.runs >= MAX_RUNS {
                self.lost /= 2.0;
                self.runs /= 2.0;
            }
            self.runs += 1.0;
        }
        self.lost += 1.0;
        self.last_lost = Some(number);
    }

    pub(super) fn smooth(&mut self, counts: Counts) {
        let n = counts.all() as f64;
        self.smoothed += (counts.share() - self.smoothed) * n / (n + MEMORY * self.inflation());
    }

    /// Takes what was lost in these for the path's own loss.
    pub(super) fn learn(&mut self, counts: Counts) {
        let n = counts.all() as f64;
        if n > 0.0 {
            self.learnt = (self.learnt + n).min(BASE_MEMORY * self.inflation());
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

    /// The share of loss beyond the base, or 0 when that may be chance.
    pub(super) fn excess(&self, counts: Counts) -> f64 {
        let excess = counts.share() - self.base;
        if excess > LEAST && self.beyond_base(counts) > DEVIATIONS { excess } else { 0.0 }
    }

    /// Whether loss is so far beyond the base that once is enough to know.
    pub(super) fn is_evident(&self, counts: Counts) -> bool {
        self.beyond_base(counts) > 1.5 * DEVIATIONS
    }

    /// Whether less is lost than the base says.
    pub(super) fn is_below(&self, counts: Counts) -> bool {
        self.beyond_base(counts) < -DEVIATIONS
    }

    fn beyond_base(&self, counts: Counts) -> f64 {
        self.deviations((counts.share(), counts.all() as f64), (self.base, self.learnt))
    }

    /// How many standard deviations more is lost in one of these than in the other.
    pub(super) fn rise(&self, from: Counts, to: Counts) -> f64 {
        self.deviations((to.share(), to.all() as f64), (from.share(), from.all() as f64))
    }

    /// Two shares, each with the number of packets that it is of, are compared with the share that both have together.
    fn deviations(&self, (share, n): (f64, f64), (other, m): (f64, f64)) -> f64 {
        if n < 8.0 || m < 8.0 {
            return 0.0;
        }
        let both = (share * n + other * m) / (n + m);
        let variance = both * (1.0 - both) * (1.0 / n + 1.0 / m) * self.inflation();
        if variance > 0.0 { (share - other) / variance.sqrt() } else { 0.0 }
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
        // Nine times 200 packets beside the 50 that are taken for granted; from the tenth on each 200 are a tenth of what is remembered.
        let base = 0.1 - 0.1 * 50.0 / 1_850.0 * 0.9_f64.powi(11);
        assert!((meter.base() - base).abs() < 1e-9, "{}", meter.base());
        assert_eq!(meter.excess(Counts { arrived: 85, lost: 15 }), 0.0);
        let excess = meter.excess(Counts { arrived: 60, lost: 40 });
        assert!((excess - (0.4 - base)).abs() < 1e-9, "{excess}");
        meter.relearn(Counts { arrived: 60, lost: 40 });
        assert_eq!(meter.excess(Counts { arrived: 60, lost: 40 }), 0.0);
    }

    #[test]
    fn bursts_are_runs_of_lost_packets() {
        let mut meter = LossMeter::default();
        assert_eq!(meter.burst(), 1.0);
        for run in 0..1_000_u64 {
            (0..8).for_each(|at| meter.on_lost(run * 100 + at));
            assert_eq!(meter.burst(), 8.0, "{run}");
        }
        // Nothing else is known of the share: 2 * 8 - 1.
        assert_eq!(meter.inflation(), 15.0);
    }

    #[test]
    fn what_would_be_a_rise_may_be_chance_in_bursts() {
        let (mut single, mut bursty) = (LossMeter::default(), LossMeter::default());
        for run in 0..200_u64 {
            single.on_lost(20 * run);
            (0..8).for_each(|at| bursty.on_lost(160 * run + at));
        }
        let counts = Counts { arrived: 225, lost: 30 };
        for meter in [&mut single, &mut bursty] {
            meter.relearn(Counts { arrived: 28_500, lost: 1_500 });
        }
        assert!(single.excess(counts) > 0.0);
        assert_eq!(bursty.excess(counts), 0.0);
        let longer = Counts { arrived: 15 * 225, lost: 15 * 30 };
        assert!(bursty.excess(longer) > 0.0);
    }
}
