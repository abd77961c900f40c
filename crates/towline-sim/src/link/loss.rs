//! Which packets are lost, drawn in integers.

use super::config::Loss;
use crate::random::{Chance, Random};

/// A [`Loss`] at work. The arithmetic that turns its probabilities into integers is +, -, x and / on `f64`,
/// which IEEE 754 rounds alike everywhere.
#[derive(Clone, Debug)]
pub(crate) enum LossProcess {
    None,
    Independent(Chance),
    Channel {
        to_bad: Chance,
        to_good: Chance,
        good: Chance,
        bad: Chance,
        start: Chance,
        state: State,
    },
    Listed {
        list: std::sync::Arc<[u64]>,
        next: usize,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Unknown,
    Good,
    Bad,
}

impl LossProcess {
    /// From a checked description.
    pub(crate) fn new(loss: &Loss) -> Self {
        let chance =
            |probability: f64| Chance::new(probability.clamp(0.0, 1.0)).unwrap_or(Chance::NEVER);
        match loss {
            Loss::None => LossProcess::None,
            Loss::Independent(probability) => LossProcess::Independent(chance(*probability)),
            Loss::Burst { mean, burst } => LossProcess::Channel {
                to_bad: chance(mean / (burst * (1.0 - mean))),
                to_good: chance(1.0 / burst),
                good: Chance::NEVER,
                bad: chance(1.0),
                start: chance(*mean),
                state: State::Unknown,
            },
            Loss::GilbertElliott { to_bad, to_good, loss_good, loss_bad } => {
                let turnover = to_bad + to_good;
                let start = if turnover > 0.0 { to_bad / turnover } else { 0.0 };
                LossProcess::Channel {
                    to_bad: chance(*to_bad),
                    to_good: chance(*to_good),
                    good: chance(*loss_good),
                    bad: chance(*loss_bad),
                    start: chance(start),
                    state: State::Unknown,
                }
            }
            Loss::Listed(list) => LossProcess::Listed { list: list.clone(), next: 0 },
        }
    }

    /// Whether the packet with this number (counted on this link from 0) is lost.
    #[inline]
    pub(crate) fn loses(&mut self, number: u64, random: &mut Random) -> bool {
        match self {
            LossProcess::None => false,
            LossProcess::Independent(chance) => random.chance(*chance),
            LossProcess::Channel { to_bad, to_good, good, bad, start, state } => {
                let turns_bad = match state {
                    State::Unknown => random.chance(*start),
                    State::Good => random.chance(*to_bad),
                    State::Bad => !random.chance(*to_good),
                };
                *state = if turns_bad { State::Bad } else { State::Good };
                random.chance(if turns_bad { *bad } else { *good })
            }
            LossProcess::Listed { list, next } => {
                while list.get(*next).is_some_and(|listed| *listed < number) {
                    *next += 1;
                }
                list.get(*next) == Some(&number)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Losses, and runs of losses, among `packets`.
    fn measure(loss: Loss, seed: u64, packets: u64) -> (u64, u64) {
        let mut process = LossProcess::new(&loss);
        let mut random = Random::new(seed);
        let (mut lost, mut runs, mut before) = (0, 0, false);
        for number in 0..packets {
            let now = process.loses(number, &mut random);
            lost += u64::from(now);
            runs += u64::from(now && !before);
            before = now;
        }
        (lost, runs)
    }

    #[test]
    fn independent_loss_has_its_mean_and_its_run_length() {
        for (seed, probability) in [(1, 0.001), (2, 0.05), (3, 0.3), (4, 0.9)] {
            let packets = 400_000;
            let (lost, runs) = measure(Loss::Independent(probability), seed, packets);
            let n = packets as f64;
            // Four standard deviations of the binomial distribution.
            let bound = 4.0 * (n * probability * (1.0 - probability)).sqrt();
            assert!(
                (lost as f64 - n * probability).abs() < bound,
                "seed {seed}: {lost} of {packets}"
            );
            let mean_run = lost as f64 / runs as f64;
            let expected = 1.0 / (1.0 - probability);
            assert!(
                (mean_run / expected - 1.0).abs() < 0.05,
                "seed {seed}: runs of {mean_run}, not {expected}"
            );
        }
    }

    #[test]
    fn bursty_loss_has_its_mean_and_its_burst_length() {
        for (seed, mean, burst) in
            [(1, 0.05, 8.0), (2, 0.01, 3.0), (3, 0.2, 20.0), (4, 0.1, 1.0), (5, 0.5, 1.0)]
        {
            let packets = 2_000_000;
            let (lost, runs) = measure(Loss::Burst { mean, burst }, seed, packets);
            let share = lost as f64 / packets as f64;
            // The variance of the mean is that of independent loss times at most 2 x burst.
            let bound = 4.0 * (mean * (1.0 - mean) * 2.0 * burst / packets as f64).sqrt();
            assert!((share - mean).abs() < bound, "seed {seed}: {share} lost, not {mean}");
            let run = lost as f64 / runs as f64;
            // Runs are geometric: the deviation of one is below its mean.
            let bound = 4.0 * burst / (runs as f64).sqrt() + 1e-9;
            assert!((run - burst).abs() < bound, "seed {seed}: runs of {run}, not {burst}");
        }
    }

    #[test]
    fn a_channel_with_loss_in_both_states_has_the_mixed_mean() {
        let loss =
            Loss::GilbertElliott { to_bad: 0.01, to_good: 0.04, loss_good: 0.02, loss_bad: 0.5 };
        let (lost, _) = measure(loss, 9, 1_000_000);
        let expected = 0.8 * 0.02 + 0.2 * 0.5;
        assert!((lost as f64 / 1e6 / expected - 1.0).abs() < 0.05, "{lost}");
    }

    #[test]
    fn listed_packets_are_lost_and_no_others() {
        let mut process = LossProcess::new(&Loss::Listed([0, 3, 3, 7].into()));
        let mut random = Random::new(0);
        let lost: Vec<u64> = (0..10).filter(|number| process.loses(*number, &mut random)).collect();
        assert_eq!(lost, [0, 3, 7]);
    }
}
