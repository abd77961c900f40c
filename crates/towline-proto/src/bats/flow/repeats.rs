//! Protection of a thin BRTP flow: what uses little of its path is sent more than once, against the link's budget.
//!
//! A loss on a hop costs a round trip, and a thin flow feels each of them, while a copy of a small packet costs next to
//! nothing. Copies leave 1 to 3 ms apart, so that a burst of losses does not take all of them.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::config::Protection;
use crate::bats::hop::Path;

/// From a packet to its first copy, and from there to the next.
const SPACING: Duration = Duration::from_micros(1500);
/// Most copies of a packet.
const MAX_COPIES: u32 = 3;
/// The budget saves up for this long.
const SAVING: Duration = Duration::from_millis(50);
/// Most copies that wait.
const MAX_WAITING: usize = 1024;

/// Bytes that may be spent on repeats: a share of the link's rate.
#[derive(Debug)]
pub(in crate::bats) struct Budget {
    share: f64,
    bytes: f64,
    filled: Option<Instant>,
}

impl Budget {
    pub(in crate::bats) fn new(share: f64) -> Budget {
        Budget { share, bytes: 0.0, filled: None }
    }

    /// Takes `bytes` if they are there.
    pub(in crate::bats) fn take(&mut self, now: Instant, bytes: usize, path: &Path) -> bool {
        let rate = path.rate as f64 * self.share;
        let most = (rate * SAVING.as_secs_f64()).max(3000.0);
        let elapsed = self.filled.map_or(SAVING, |at| now.saturating_duration_since(at));
        self.filled = Some(now);
        self.bytes = (self.bytes + rate * elapsed.as_secs_f64()).min(most);
        let enough = self.bytes >= bytes as f64;
        if enough {
            self.bytes -= bytes as f64;
        }
        enough
    }
}

/// The rate at which a flow sends of itself, over about 100 ms.
#[derive(Debug, Default)]
pub(in crate::bats) struct Usage {
    rate: f64,
    at: Option<Instant>,
}

impl Usage {
    const OVER: f64 = 0.1;

    /// Counts a packet; the rate in bytes per second.
    pub(in crate::bats) fn on_sent(&mut self, now: Instant, bytes: usize) -> f64 {
        let elapsed = self.at.map_or(1.0, |at| now.saturating_duration_since(at).as_secs_f64());
        self.at = Some(now);
        // Decays linearly, which is exact enough for a threshold.
        self.rate = self.rate * (1.0 - elapsed / Usage::OVER).max(0.0) + bytes as f64 / Usage::OVER;
        self.rate
    }
}

#[derive(Debug)]
pub(in crate::bats) struct Repeats {
    protection: Protection,
    budget: Budget,
    usage: Usage,
    first: VecDeque<(Instant, u64)>,
    later: VecDeque<(Instant, u64)>,
}

impl Repeats {
    pub(in crate::bats) fn new(protection: Protection) -> Repeats {
        Repeats {
            protection,
            budget: Budget::new(protection.share),
            usage: Usage::default(),
            first: VecDeque::new(),
            later: VecDeque::new(),
        }
    }

    /// A symbol left for the first time; `idle` says that nothing else waited. Whether it is protected, and how many
    /// of its copies the budget does not allow.
    pub(in crate::bats) fn on_sent(
        &mut self,
        now: Instant,
        number: u64,
        bytes: usize,
        idle: bool,
        path: &Path,
    ) -> (bool, u64) {
        let used = self.usage.on_sent(now, bytes);
        let copies = self.copies(path.loss);
        // The flow must stay thin with its copies.
        if !idle
            || copies == 0
            || used * f64::from(copies) > self.protection.share * path.rate as f64
        {
            return (false, 0);
        }
        for copy in 1..=copies {
            if self.waiting() >= MAX_WAITING || !self.budget.take(now, bytes, path) {
                return (true, u64::from(copies - copy + 1));
            }
            let queue = if copy == 1 { &mut self.first } else { &mut self.later };
            queue.push_back((now + SPACING * copy, number));
        }
        (true, 0)
    }

    /// How many copies leave no more than the residual lost. Loss that was never seen is taken as 1 in 1,000.
    fn copies(&self, loss: f64) -> u32 {
        let loss = loss.clamp(0.001, 0.9);
        let mut left = loss;
        let mut copies = 0;
        while left > self.protection.residual && copies < MAX_COPIES {
            left *= loss;
            copies += 1;
        }
        copies
    }

    fn waiting(&self) -> usize {
        self.first.len() + self.later.len()
    }

    /// The next symbol whose copy is due.
    pub(in crate::bats) fn poll(&mut self, now: Instant) -> Option<u64> {
        for queue in [&mut self.first, &mut self.later] {
            if let Some(&(at, number)) = queue.front()
                && at <= now
            {
                queue.pop_front();
                return Some(number);
            }
        }
        None
    }

    pub(in crate::bats) fn poll_timeout(&self) -> Option<Instant> {
        let at = |queue: &VecDeque<(Instant, u64)>| queue.front().map(|&(at, _)| at);
        [at(&self.first), at(&self.later)].into_iter().flatten().min()
    }
}
