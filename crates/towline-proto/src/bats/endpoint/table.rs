//! Entries by number, and which of them have something to do, and when. Each is in each queue once at most.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Instant;

/// An entry's number. Never reused: a stale one finds nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Key {
    index: u32,
    generation: u32,
}

impl Key {
    pub(super) fn as_u64(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }
}

#[derive(Debug)]
struct Slot<E> {
    generation: u32,
    entry: Option<Box<E>>,
    dirty: bool,
    busy: bool,
    armed: Option<Instant>,
}

/// The entries of a node.
#[derive(Debug)]
pub(super) struct Table<E> {
    slots: Vec<Slot<E>>,
    free: Vec<u32>,
    count: usize,
    /// Something happened to them.
    dirty: VecDeque<u32>,
    /// They may go on when packets have left.
    busy: Vec<u32>,
    /// Deadlines. An entry may be out of date: `Slot::armed` says which one counts.
    timers: BinaryHeap<Reverse<(Instant, u32)>>,
}

impl<E> Default for Table<E> {
    fn default() -> Self {
        Table {
            slots: Vec::new(),
            free: Vec::new(),
            count: 0,
            dirty: VecDeque::new(),
            busy: Vec::new(),
            timers: BinaryHeap::new(),
        }
    }
}

impl<E> Table<E> {
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Adds an entry, which has something to do at once.
    pub(super) fn insert(&mut self, entry: E) -> Key {
        let index = self.free.pop().unwrap_or_else(|| {
            let (entry, armed) = (None, None);
            self.slots.push(Slot { generation: 0, entry, dirty: false, busy: false, armed });
            self.slots.len() as u32 - 1
        });
        let Some(slot) = self.slots.get_mut(index as usize) else {
            return Key { index, generation: 0 };
        };
        slot.generation = slot.generation.wrapping_add(1);
        slot.entry = Some(Box::new(entry));
        slot.armed = None;
        self.count += 1;
        let key = Key { index, generation: slot.generation };
        self.touch(key);
        key
    }

    fn slot(&mut self, key: Key) -> Option<&mut Slot<E>> {
        let slot = self.slots.get_mut(key.index as usize)?;
        (slot.generation == key.generation).then_some(slot)
    }

    pub(super) fn get(&self, key: Key) -> Option<&E> {
        let slot = self.slots.get(key.index as usize)?;
        slot.entry.as_deref().filter(|_| slot.generation == key.generation)
    }

    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut E> {
        self.slot(key)?.entry.as_deref_mut()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &E> {
        self.slots.iter().filter_map(|slot| slot.entry.as_deref())
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = Key> {
        let slots = self.slots.iter().zip(0..);
        slots
            .filter(|(slot, _)| slot.entry.is_some())
            .map(|(slot, index)| Key { index, generation: slot.generation })
    }

    pub(super) fn remove(&mut self, key: Key) -> Option<E> {
        let slot = self.slot(key)?;
        let entry = slot.entry.take()?;
        slot.armed = None;
        self.free.push(key.index);
        self.count -= 1;
        Some(*entry)
    }

    /// Something happened to an entry.
    pub(super) fn touch(&mut self, key: Key) {
        if let Some(slot) = self.slot(key)
            && !slot.dirty
        {
            slot.dirty = true;
            self.dirty.push_back(key.index);
        }
    }

    /// An entry wants to be looked at again when packets have left.
    pub(super) fn set_busy(&mut self, key: Key) {
        if let Some(slot) = self.slot(key)
            && !slot.busy
        {
            slot.busy = true;
            self.busy.push(key.index);
        }
    }

    /// Touches those that are busy and of which `left` holds, and forgets that they were.
    pub(super) fn touch_busy(&mut self, mut left: impl FnMut(&E) -> bool) {
        let Table { slots, busy, dirty, .. } = self;
        busy.retain(|&index| {
            let Some(slot) = slots.get_mut(index as usize) else { return false };
            let stays = slot.entry.as_deref().is_some_and(|entry| !left(entry));
            slot.busy = stays;
            if !stays && slot.entry.is_some() && !slot.dirty {
                slot.dirty = true;
                dirty.push_back(index);
            }
            stays
        });
    }

    pub(super) fn has_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// The next entry to which something happened.
    pub(super) fn pop_dirty(&mut self) -> Option<Key> {
        while let Some(index) = self.dirty.pop_front() {
            let Some(slot) = self.slots.get_mut(index as usize) else { continue };
            slot.dirty = false;
            if slot.entry.is_some() {
                return Some(Key { index, generation: slot.generation });
            }
        }
        None
    }

    /// Makes sure that an entry's deadline is not missed.
    pub(super) fn arm(&mut self, key: Key, at: Option<Instant>) {
        let Some(at) = at else { return };
        if let Some(slot) = self.slot(key)
            && slot.armed.is_none_or(|armed| at < armed)
        {
            slot.armed = Some(at);
            self.timers.push(Reverse((at, key.index)));
        }
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        self.timers.peek().map(|Reverse((at, _))| *at)
    }

    /// Touches every entry whose deadline has come.
    pub(super) fn touch_due(&mut self, now: Instant) {
        while self.next_due().is_some_and(|at| at <= now) {
            let Some(Reverse((at, index))) = self.timers.pop() else { return };
            let Some(slot) = self.slots.get_mut(index as usize) else { continue };
            if slot.armed != Some(at) {
                continue;
            }
            slot.armed = None;
            let key = Key { index, generation: slot.generation };
            self.touch(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn entries_come_once_and_stale_numbers_find_nothing() {
        let mut table = Table::default();
        let first = table.insert("first");
        table.touch(first);
        assert_eq!((table.pop_dirty(), table.pop_dirty()), (Some(first), None));
        assert_eq!(table.remove(first), Some("first"));
        let second = table.insert("second");
        assert_eq!((table.get(first), table.get(second)), (None, Some(&"second")));
        assert_ne!(first.as_u64(), second.as_u64());
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn deadlines_touch_in_time_and_the_earliest_counts() {
        let (mut table, now) = (Table::default(), Instant::now());
        let key = table.insert(());
        table.pop_dirty();
        let at = |ms| now + Duration::from_millis(ms);
        table.arm(key, Some(at(20)));
        table.arm(key, Some(at(10)));
        assert_eq!(table.next_due(), Some(at(10)));
        table.touch_due(at(9));
        assert_eq!(table.pop_dirty(), None);
        table.touch_due(at(10));
        assert_eq!(table.pop_dirty(), Some(key));
        table.touch_due(at(20));
        assert_eq!(table.pop_dirty(), None, "the later entry was replaced");
    }

    #[test]
    fn the_busy_are_touched_when_something_left() {
        let mut table = Table::default();
        let keys = [table.insert(1), table.insert(2)];
        while table.pop_dirty().is_some() {}
        keys.iter().for_each(|&key| table.set_busy(key));
        table.touch_busy(|&entry| entry == 2);
        assert_eq!((table.pop_dirty(), table.pop_dirty()), (Some(keys[1]), None));
        table.touch_busy(|_| true);
        assert_eq!((table.pop_dirty(), table.pop_dirty()), (Some(keys[0]), None));
    }
}
