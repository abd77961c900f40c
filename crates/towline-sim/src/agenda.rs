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

    /// The measurement behind the choice: nanoseconds per event for 20 links with 4,000 packets in flight each.
    ///
    ///     cargo test --release -p towline-sim agenda -- --ignored --nocapture
    #[test]
    #[ignore = "a measurement, for people"]
    #[allow(clippy::print_stderr, reason = "its result is what it prints")]
    fn measure_against_heaps() {
        use std::cmp::Reverse;
        use std::collections::BinaryHeap;
        use std::time::Instant;

        const LINKS: usize = 20;
        const IN_FLIGHT: u64 = 4_000;
        const EVENTS: u64 = 4_000_000;
        let per_event = |start: Instant| start.elapsed().as_nanos() as f64 / EVENTS as f64;
        for round in 0..3 {
            let mut random = Random::new(round);
            let mut agenda = Agenda::default();
            (0..LINKS).for_each(|slot| {
                agenda.add();
                agenda.set(slot, random.below(12_000));
            });
            let start = Instant::now();
            for _ in 0..EVENTS {
                let (at, slot) = agenda.first().unwrap();
                agenda.set(slot, at + 6_000 + random.below(12_000));
            }
            let tournament = per_event(start);

            let heap = |entries: u64, gap: u64, random: &mut Random| {
                let fill = (0..entries).map(|slot| Reverse((random.below(gap), slot)));
                let mut heap: BinaryHeap<_> = fill.collect();
                let start = Instant::now();
                for _ in 0..EVENTS {
                    let Reverse((at, slot)) = heap.pop().unwrap();
                    heap.push(Reverse((at + gap / 2 + random.below(gap), slot)));
                }
                per_event(start)
            };
            let of_links = heap(LINKS as u64, 12_000, &mut random);
            let of_packets = heap(LINKS as u64 * IN_FLIGHT, 12_000 * IN_FLIGHT, &mut random);
            eprintln!(
                "tournament {tournament:.1} ns, heap of links {of_links:.1} ns, heap of packets {of_packets:.1} ns"
            );
        }
    }
}
