//! How many packets of a batch to send over a lossy link.

use crate::error::ParameterError;

/// Without feedback: for each rank a batch may arrive with, how many packets of it to send on.
///
/// The table is the greedy optimum: starting from nothing, each next packet goes to the rank where it adds most
/// to the expected rank behind the link, until the average over the rank distribution reaches the budget. The expected rank
/// is concave in the number of packets, so the greedy choice is the best one.
#[derive(Clone, Debug, PartialEq)]
pub struct RecodingTable {
    packets: Vec<f64>,
}

impl RecodingTable {
    /// The table for batches whose rank is r with probability `ranks[r]` (r from 0; any positive weights do), for a next
    /// link that loses packets with probability `loss`, and for `budget` packets sent for each batch on average.
    ///
    /// No rank is given more than `max_packets`, which bounds what a loss near 1 would ask for.
    ///
    /// # Errors
    ///
    /// [`ParameterError::Limit`] naming the argument when it is not finite, negative or empty, or a loss is not in 0..1.
    pub fn new(
        ranks: &[f64],
        loss: f64,
        budget: f64,
        max_packets: usize,
    ) -> Result<RecodingTable, ParameterError> {
        let total: f64 = ranks.iter().sum();
        if ranks.is_empty() || !total.is_finite() || total <= 0.0 || ranks.iter().any(|&h| h < 0.0)
        {
            return Err(ParameterError::Limit("ranks"));
        }
        if !(0.0..1.0).contains(&loss) {
            return Err(ParameterError::Limit("loss"));
        }
        if !budget.is_finite() || budget < 0.0 {
            return Err(ParameterError::Limit("budget"));
        }
        let mut rows: Vec<Row> = (0..ranks.len()).map(|rank| Row::new(rank, loss)).collect();
        let mut left = budget;
        // Each step fills one cell, so there are at most ranks.len() * max_packets of them.
        while left > 1e-12 {
            let best = rows
                .iter()
                .enumerate()
                .filter(|(rank, row)| {
                    ranks[*rank] > 0.0 && row.sent < max_packets && row.gain() > 0.0
                })
                .max_by(|(_, a), (_, b)| a.gain().total_cmp(&b.gain()))
                .map(|(rank, _)| rank);
            let Some(rank) = best else { break };
            let weight = ranks[rank] / total;
            let share = (left / weight).min(1.0);
            left -= share * weight;
            rows[rank].send(share);
        }
        Ok(RecodingTable { packets: rows.iter().map(|row| row.packets).collect() })
    }

    /// The average number of packets to send for a batch of this rank; ranks beyond the table are as its last one.
    pub fn mean(&self, rank: usize) -> f64 {
        self.packets.get(rank).or(self.packets.last()).copied().unwrap_or(0.0)
    }

    /// The number of packets to send for a batch of this rank. A fraction is rounded up as often as it says, decided by `random`,
    /// a uniform 64-bit word from the caller.
    pub fn packets(&self, rank: usize, random: u64) -> usize {
        round(self.mean(rank), random)
    }
}

/// With feedback: how many fresh combinations to send so that `deficit` of them arrive on average over a link that loses packets with
/// probability `loss` (taken as at most 0.99). `random` is a uniform 64-bit word.
pub fn packets_for_deficit(deficit: usize, loss: f64, random: u64) -> usize {
    let loss = if loss.is_nan() { 0.0 } else { loss.clamp(0.0, 0.99) };
    round(deficit as f64 / (1.0 - loss), random)
}

/// Rounds up with the probability of the fraction.
fn round(mean: f64, random: u64) -> usize {
    let whole = mean.floor();
    let fraction = mean - whole;
    // 53 random bits make a uniform number in 0..1.
    let uniform = (random >> 11) as f64 / (1u64 << 53) as f64;
    whole as usize + usize::from(uniform < fraction)
}

/// One rank of the table while it is filled.
struct Row {
    loss: f64,
    packets: f64,
    sent: usize,
    /// `arrived[a]`: probability that a of the packets sent so far have arrived, for a below the rank.
    arrived: Vec<f64>,
}

impl Row {
    fn new(rank: usize, loss: f64) -> Row {
        let mut arrived = vec![0.0; rank];
        if let Some(none) = arrived.first_mut() {
            *none = 1.0;
        }
        Row { loss, packets: 0.0, sent: 0, arrived }
    }

    /// What one more packet adds to the expected rank: it counts when it arrives and fewer than the rank have.
    fn gain(&self) -> f64 {
        (1.0 - self.loss) * self.arrived.iter().sum::<f64>()
    }

    fn send(&mut self, share: f64) {
        self.packets += share;
        self.sent += 1;
        let mut previous = 0.0;
        for probability in &mut self.arrived {
            let here = *probability;
            *probability = here * self.loss + previous * (1.0 - self.loss);
            previous = here;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lossless_link_gets_the_rank_of_each_batch() {
        let table = RecodingTable::new(&[0.1, 0.2, 0.3, 0.4], 0.0, 4.0, 100).unwrap();
        for rank in 0..4 {
            assert_eq!(table.mean(rank), rank as f64);
        }
    }

    #[test]
    fn the_budget_is_spent_and_higher_ranks_get_more() {
        let ranks = [0.0, 0.0, 0.1, 0.1, 0.2, 0.3, 0.2, 0.05, 0.05];
        let table = RecodingTable::new(&ranks, 0.1, 8.0, 100).unwrap();
        let spent: f64 = ranks.iter().enumerate().map(|(r, h)| h * table.mean(r)).sum();
        assert!((spent - 8.0).abs() < 1e-9, "spent {spent}");
        for rank in 2..8 {
            assert!(table.mean(rank) <= table.mean(rank + 1), "rank {rank}");
        }
    }

    #[test]
    fn no_other_split_of_the_budget_gives_more_rank() {
        // Two equally likely ranks and an even budget: try every whole split.
        let (loss, budget) = (0.2, 10usize);
        let ranks = [0.0, 0.0, 0.0, 0.5, 0.0, 0.0, 0.5];
        let expected = |rank: usize, sent: usize| {
            let mut row = Row::new(rank, loss);
            (0..sent)
                .map(|_| {
                    let gain = row.gain();
                    row.send(1.0);
                    gain
                })
                .sum::<f64>()
        };
        let best = (0..=2 * budget)
            .map(|t| 0.5 * expected(3, t) + 0.5 * expected(6, 2 * budget - t))
            .fold(0.0, f64::max);
        let table = RecodingTable::new(&ranks, loss, budget as f64, 100).unwrap();
        let own =
            0.5 * expected(3, table.mean(3) as usize) + 0.5 * expected(6, table.mean(6) as usize);
        assert!((own - best).abs() < 1e-12, "{own} instead of {best}");
    }

    #[test]
    fn bad_arguments_are_refused_by_name() {
        assert_eq!(RecodingTable::new(&[], 0.1, 1.0, 9), Err(ParameterError::Limit("ranks")));
        assert_eq!(RecodingTable::new(&[1.0], 1.0, 1.0, 9), Err(ParameterError::Limit("loss")));
        assert_eq!(
            RecodingTable::new(&[1.0], 0.1, f64::NAN, 9),
            Err(ParameterError::Limit("budget"))
        );
    }

    #[test]
    fn a_deficit_is_met_on_average() {
        let words = (0..10_000u64).map(|i| i.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let sum: usize = words.map(|w| packets_for_deficit(3, 0.1, w)).sum();
        assert!((sum as f64 / 10_000.0 - 3.0 / 0.9).abs() < 0.02);
        assert_eq!(packets_for_deficit(0, 0.5, 1), 0);
        assert_eq!(packets_for_deficit(2, 0.0, u64::MAX), 2);
    }
}
