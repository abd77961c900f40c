//! Which symbols a relay has had.

use std::collections::VecDeque;

/// Numbers that are remembered: 32 KiB of bits.
const SPAN: u64 = 1 << 18;
/// What is kept below the first number that a relay sees.
const BEFORE: u64 = 1 << 12;

#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// The number of the first bit.
    base: u64,
    words: VecDeque<u64>,
    /// The smallest number seen, and the number after the largest.
    start: u64,
    end: u64,
    /// Numbers between `start` and `end` that were seen or are forgotten.
    count: u64,
}

impl Seen {
    /// The number after the largest one seen.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// The smallest number remembered.
    pub(crate) fn start(&self) -> u64 {
        self.start
    }

    /// Numbers that should still come.
    pub(crate) fn gaps(&self) -> u64 {
        (self.end - self.start).saturating_sub(self.count)
    }

    fn place(&self, number: u64) -> Option<(usize, u64)> {
        let offset = number.checked_sub(self.base)?;
        Some(((offset / 64) as usize, 1 << (offset % 64)))
    }

    /// Whether a number was seen, or is too old to tell.
    pub(crate) fn contains(&self, number: u64) -> bool {
        match self.place(number) {
            None => !self.words.is_empty(),
            Some((word, bit)) => self.words.get(word).is_some_and(|word| word & bit != 0),
        }
    }

    /// Notes a number; false when it was seen, or is too old to tell.
    pub(crate) fn insert(&mut self, number: u64) -> bool {
        if self.words.is_empty() {
            self.base = number.saturating_sub(BEFORE) / 64 * 64;
            (self.start, self.end) = (number, number);
        }
        if self.contains(number) {
            return false;
        }
        if number >= self.base + SPAN {
            self.forget_below((number + 64 - SPAN) / 64 * 64);
        }
        let Some((word, bit)) = self.place(number) else { return false };
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        if let Some(word) = self.words.get_mut(word) {
            *word |= bit;
        }
        self.start = self.start.min(number);
        self.end = self.end.max(number + 1);
        self.count += 1;
        true
    }

    fn forget_below(&mut self, base: u64) {
        let words = ((base - self.base) / 64) as usize;
        self.words.drain(..words.min(self.words.len()));
        self.base = base;
        // What did not come by now is not waited for.
        let kept: u32 = self.words.iter().map(|word| word.count_ones()).sum();
        self.start = self.start.max(base);
        self.count = u64::from(kept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bats::toy::Dice;

    #[test]
    fn agrees_with_a_set() {
        for seed in 0..50 {
            let (mut dice, mut seen) = (Dice::new(seed), Seen::default());
            let mut model = std::collections::BTreeSet::new();
            let mut newest = dice.below(1 << 20);
            for _ in 0..2000 {
                newest += dice.below(20);
                let number = newest.saturating_sub(dice.below(40));
                assert_eq!(seen.insert(number), model.insert(number), "seed {seed}: {number}");
                let (first, last) = (model.first().unwrap(), model.last().unwrap());
                assert_eq!(seen.end(), last + 1);
                assert_eq!(seen.gaps(), last + 1 - first - model.len() as u64, "seed {seed}");
            }
        }
    }

    #[test]
    fn a_leap_forgets_what_lies_behind() {
        let mut seen = Seen::default();
        (0..1000).step_by(2).for_each(|number| assert!(seen.insert(number)));
        assert!(seen.insert(1 << 40));
        assert!(!seen.insert(1), "too old to tell");
        assert!(seen.words.len() as u64 <= SPAN / 64 + 1);
        assert!(seen.gaps() <= SPAN);
    }
}
