//! Who is next: the earliest time over a fixed set of slots.

use crate::time::{NEVER, Nanos};

/// A tournament over slots (one per link, one per node), each with one time. Setting a time walks from the
/// leaf to the root; the earliest slot is at the root. Equal times go to the lower slot, so the order never
/// depends on how the tree was built.
///
/// Packets wait in their link, in order, and only the link's first one takes part, so the tree has tens of
/// slots where a heap of packets would have tens of thousands; the ignored test below measures both.
#[derive(Clone, Debug, Default)]
pub(crate) struct Agenda {
    /// Times of the slots, padded with [`NEVER`] to a power of two.
    times: Vec<Nanos>,
    /// `winners[1]` is the root, `winners[n]` has the children `2n` and `2n + 1`; leaves are implied.
    winners: Vec<u32>,
    slots: usize,
}

impl Agenda {
    /// Adds a slot that has nothing to do, and returns its number.
    pub(crate) fn add(&mut self) -> usize {
        let slot = self.slots;
        self.slots += 1;
        if self.slots > self.times.len() {
            self.times.resize(self.slots.next_power_of_two(), NEVER);
            self.rebuild();
        }
        slot
    }

    fn rebuild(&mut self) {
        let leaves = self.times.len();
        self.winners = vec![0; leaves];
        for node in (1..leaves).rev() {
            self.winners[node] = self.play(node);
        }
    }

    #[inline]
    fn play(&self, node: usize) -> u32 {
        let leaves = self.times.len();
        let contender = |child: usize| {
            if child >= leaves { (child - leaves) as u32 } else { self.winners[child] }
        };
        let (left, right) = (contender(2 * node), contender(2 * node + 1));
        if self.times[right as usize] < self.times[left as usize] { right } else { left }
    }

    /// Sets when `slot` is due, in nanoseconds; `u64::MAX` is never.
    #[inline]
    pub(crate) fn set(&mut self, slot: usize, at: Nanos) {
        if self.times[slot] == at {
            return;
        }
        self.times[slot] = at;
        let mut node = (slot + self.times.len()) / 2;
        while node > 0 {
            self.winners[node] = self.play(node);
            node /= 2;
        }
    }

    /// The earliest time and its slot; `None` when every slot is idle.
    #[inline]
    pub(crate) fn first(&self) -> Option<(Nanos, usize)> {
        let slot = if self.times.len() > 1 { self.winners[1] as usize } else { 0 };
        self.times.get(slot).filter(|at| **at != NEVER).map(|at| (*at, slot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn an_empty_agenda_has_nothing() {
        let mut agenda = Agenda::default();
        assert_eq!(agenda.first(), None);
        agenda.add();
        assert_eq!(agenda.first(), None);
        agenda.set(0, 5);
        assert_eq!(agenda.first(), Some((5, 0)));
    }

    #[test]
    fn it_agrees_with_a_scan_for_every_size() {
        let mut random = Random::new(11);
        for size in 1..40usize {
            let mut agenda = Agenda::default();
            let mut oracle = vec![NEVER; size];
            for _ in 0..size {
                agenda.add();
            }
            for _ in 0..200 {
                let slot = random.below(size as u64) as usize;
                let at = if random.below(4) == 0 { NEVER } else { random.below(20) };
                agenda.set(slot, at);
                oracle[slot] = at;
                let first = oracle.iter().copied().zip(0..).min().filter(|(at, _)| *at != NEVER);
                assert_eq!(agenda.first(), first, "size {size}");
            }
        }
    }
}
