//! Protection by combinations: how many of a batch to add and when, for what is never sent again.
//!
//! A run is what follows one another of a batch without a pause. While it lasts, a combination goes out now and then; when it
//! ends, as many as the loss on the hop makes necessary, spread over half of the horizon.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::flow::Protection;
use super::flow::repeats::{Budget, Usage};
use super::hop::Path;

/// From a symbol to the first combination with it.
const SPACING: Duration = Duration::from_micros(1500);
/// Most combinations that wait.
const MAX_WAITING: usize = 1024;

#[derive(Debug)]
struct Run {
    batch: u64,
    symbols: u32,
    /// Combinations owed so far, and the whole part of it already given.
    owed: f64,
    given: u32,
    last: Instant,
}

#[derive(Debug)]
pub(crate) struct Runs {
    protection: Protection,
    budget: Budget,
    usage: Usage,
    run: Option<Run>,
    due: BTreeMap<(Instant, u64), u64>,
    order: u64,
    /// Combinations that the budget did not allow.
    pub(crate) withheld: u64,
}

impl Runs {
    pub(crate) fn new(protection: Protection) -> Runs {
        Runs {
            protection,
            budget: Budget::new(protection.share),
            usage: Usage::default(),
            run: None,
            due: BTreeMap::new(),
            order: 0,
            withheld: 0,
        }
    }

    /// Something new of a batch went out; `last` says that the batch will not grow.
    pub(crate) fn on_new(
        &mut self,
        now: Instant,
        batch: u64,
        bytes: usize,
        last: bool,
        path: &Path,
    ) {
        if self.protection.residual >= 1.0 {
            return;
        }
        if self.run.as_ref().is_some_and(|run| run.batch != batch) {
            self.close(now, path);
        }
        let used = self.usage.on_sent(now, bytes);
        let thin = used * 2.0 <= self.protection.share * path.rate as f64;
        let loss = known(path.loss);
        let mean = loss / (1.0 - loss);
        let run = self.run.get_or_insert(Run { batch, symbols: 0, owed: 0.0, given: 0, last: now });
        run.symbols += 1;
        run.last = now;
        run.owed += if thin { 1.0 } else { mean };
        let give = (run.owed as u32).saturating_sub(run.given);
        run.given += give;
        for _ in 0..give {
            self.schedule(now + SPACING, batch);
        }
        if last {
            self.close(now, path);
        }
    }

    fn close(&mut self, now: Instant, path: &Path) {
        let Some(run) = self.run.take() else { return };
        let wanted = repairs(run.symbols, known(path.loss), self.protection.residual);
        let rest = wanted.saturating_sub(run.given);
        if rest > 0 {
            let spacing = SPACING.min(self.protection.horizon / 2 / rest);
            (1..=rest).for_each(|i| self.schedule(now + spacing * i, run.batch));
        }
    }

    fn schedule(&mut self, at: Instant, batch: u64) {
        if self.due.len() < MAX_WAITING {
            self.order += 1;
            self.due.insert((at, self.order), batch);
        } else {
            self.withheld += 1;
        }
    }

    /// The next batch that a combination is due of; `bytes` is what one takes.
    pub(crate) fn poll(&mut self, now: Instant, bytes: usize, path: &Path) -> Option<u64> {
        if self.run.as_ref().is_some_and(|run| run.last + self.pause() <= now) {
            self.close(now, path);
        }
        while let Some(entry) = self.due.first_entry()
            && entry.key().0 <= now
        {
            let batch = entry.remove();
            if self.budget.take(now, bytes, path) {
                return Some(batch);
            }
            self.withheld += 1;
        }
        None
    }

    fn pause(&self) -> Duration {
        self.protection.horizon / 4
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let run = self.run.as_ref().map(|run| run.last + self.pause());
        [run, self.due.first_key_value().map(|(key, _)| key.0)].into_iter().flatten().min()
    }
}

/// Loss that was never seen is taken as 1 in 1,000.
fn known(loss: f64) -> f64 {
    if loss.is_finite() { loss.clamp(0.001, 0.9) } else { 0.9 }
}

/// How many combinations of `symbols` symbols leave no more than `residual` of them lost, when each packet is lost with probability
/// `loss`: a symbol stays lost when it is lost itself and fewer than `symbols` of the other packets arrive.
pub(crate) fn repairs(symbols: u32, loss: f64, residual: f64) -> u32 {
    let symbols = symbols.clamp(1, 64);
    let most = symbols * 4 + 8;
    (0..most)
        .find(|&r| loss * fewer(symbols + r - 1, symbols, 1.0 - loss) <= residual)
        .unwrap_or(most)
}

/// The probability that fewer than `wanted` of `sent` arrive, each with probability `p`.
fn fewer(sent: u32, wanted: u32, p: f64) -> f64 {
    let mut term = (1.0 - p).powi(sent as i32);
    let mut sum = 0.0;
    for arrived in 0..wanted.min(sent + 1) {
        sum += term;
        term *= f64::from(sent - arrived) / f64::from(arrived + 1) * p / (1.0 - p);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repairs_follow_loss_and_length() {
        // One symbol: copies until loss^(1 + copies) is small enough.
        assert_eq!(repairs(1, 0.05, 0.0003), 2);
        assert_eq!(repairs(1, 0.2, 0.0003), 5);
        // More symbols share their repairs.
        let eight = repairs(8, 0.2, 0.001);
        assert!((5..=9).contains(&eight), "{eight}");
        assert!(repairs(8, 0.3, 0.01) <= 9);
        assert_eq!(repairs(8, 0.001, 0.01), 0);
        assert!(repairs(64, 0.9, 1e-9) <= 264);
    }
}
