//! Timers: all time of a driver in one heap.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

use crate::slots::Slots;
use crate::{SocketId, TimerId};

/// What a timer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Set by the user, with its tag.
    User(u64),
    /// Accepting may be tried again.
    Accept(SocketId),
}

/// Running timers, ordered by time and then by the order in which they were set.
#[derive(Debug)]
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<(Instant, u64, u32, u32)>>,
    slots: Slots<Purpose>,
    sequence: u64,
}

impl Timers {
    pub(crate) fn new() -> Self {
        Timers { heap: BinaryHeap::new(), slots: Slots::new(), sequence: 0 }
    }

    pub(crate) fn set(&mut self, at: Instant, purpose: Purpose) -> TimerId {
        let (index, generation) = self.slots.insert(|_, _| purpose);
        self.sequence += 1;
        self.heap.push(Reverse((at, self.sequence, index, generation)));
        TimerId { index, generation }
    }

    pub(crate) fn cancel(&mut self, id: TimerId) -> bool {
        let found = self.slots.remove(id.index, id.generation).is_some();
        // A cancelled timer stays in the heap until its time; many of them are swept out together.
        if self.heap.len() > 64 && self.heap.len() > 2 * self.slots.len() {
            let slots = &self.slots;
            self.heap.retain(|Reverse((_, _, index, generation))| {
                slots.get(*index, *generation).is_some()
            });
        }
        found
    }

    /// The earliest time that a running timer waits for.
    pub(crate) fn next(&mut self) -> Option<Instant> {
        while let Some(Reverse((at, _, index, generation))) = self.heap.peek() {
            if self.slots.get(*index, *generation).is_some() {
                return Some(*at);
            }
            self.heap.pop();
        }
        None
    }

    /// Takes the earliest timer that is due at `now`.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<(TimerId, Purpose)> {
        while self.next()? <= now {
            let Reverse((_, _, index, generation)) = self.heap.pop()?;
            if let Some(purpose) = self.slots.remove(index, generation) {
                return Some((TimerId { index, generation }, purpose));
            }
        }
        None
    }

    /// Whether no timer runs.
    pub(crate) fn is_empty(&self) -> bool {
        self.slots.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn timers_come_in_order_of_time_and_then_of_setting_and_cancelled_ones_not_at_all() {
        let mut timers = Timers::new();
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        timers.set(at(20), Purpose::User(1));
        let gone = timers.set(at(5), Purpose::User(2));
        timers.set(at(10), Purpose::User(3));
        timers.set(at(10), Purpose::User(4));
        assert!(timers.cancel(gone));
        assert!(!timers.cancel(gone));
        assert_eq!(timers.next(), Some(at(10)));
        assert_eq!(timers.pop(at(9)), None);
        let mut order = Vec::new();
        while let Some((_, Purpose::User(tag))) = timers.pop(at(30)) {
            order.push(tag);
        }
        assert_eq!(order, [3, 4, 1]);
        assert!(timers.is_empty());
    }

    #[test]
    fn setting_and_cancelling_for_ever_takes_bounded_memory() {
        let mut timers = Timers::new();
        let at = Instant::now() + Duration::from_secs(1000);
        for _ in 0..10_000 {
            let id = timers.set(at, Purpose::User(0));
            assert!(timers.cancel(id));
        }
        assert!(timers.heap.len() <= 65);
    }
}
