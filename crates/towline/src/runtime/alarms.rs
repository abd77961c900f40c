//! Which entries a connection has in its thread's queue of timers.

use std::time::Instant;

/// Entries that one connection can tell apart; the usual ones are keep-alive, a call's deadline and an acknowledgement.
const DEPTH: usize = 4;

/// The entries of one connection, each earlier than the one before. An entry cannot be taken out of the queue, so a
/// later time is not entered again while an earlier entry is to come: that one looks again when it fires. Without this
/// memory every acknowledgement would leave an entry for the next keep-alive behind.
#[derive(Debug, Default)]
pub(super) struct Alarms {
    entries: [Option<Instant>; DEPTH],
    len: usize,
}

impl Alarms {
    fn next(&self) -> Option<Instant> {
        self.entries.get(self.len.checked_sub(1)?).copied().flatten()
    }

    /// Something is due at `at`: whether that needs an entry.
    pub(super) fn set(&mut self, at: Instant) -> bool {
        if self.next().is_some_and(|next| next <= at) {
            return false;
        }
        // With no place left the latest of them is forgotten, and ignored when it fires.
        self.len = (self.len + 1).min(DEPTH);
        if let Some(entry) = self.entries.get_mut(self.len - 1) {
            *entry = Some(at);
        }
        true
    }

    /// An entry has fired: whether it is one that counts.
    pub(super) fn fired(&mut self, at: Instant) -> bool {
        let counts = self.next() == Some(at);
        self.len -= usize::from(counts);
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn acknowledgements_leave_no_trail_of_keep_alives() {
        let begin = Instant::now();
        let at = |ms| begin + Duration::from_millis(ms);
        let mut alarms = Alarms::default();
        assert!(alarms.set(at(15_000)));
        let mut entries = 1;
        for now in (0..14_000).step_by(10) {
            entries += usize::from(alarms.set(at(now + 10)));
            assert!(alarms.fired(at(now + 10)));
            assert!(!alarms.set(at(now + 15_000)), "the earlier keep-alive looks again");
        }
        assert_eq!(entries, 1 + 1400);
        assert!(alarms.fired(at(15_000)));
        assert!(alarms.set(at(29_000)));
    }

    #[test]
    fn ever_earlier_times_all_fire_and_strangers_do_not() {
        let begin = Instant::now();
        let at = |ms| begin + Duration::from_millis(ms);
        let mut alarms = Alarms::default();
        for ms in (1..=10).rev() {
            assert!(alarms.set(at(ms)));
            assert!(!alarms.set(at(ms)));
        }
        assert!(!alarms.fired(at(99)));
        assert!(alarms.fired(at(1)));
        assert!(!alarms.fired(at(2)), "forgotten for want of room");
        assert!(alarms.set(at(2)), "but the next look enters it again");
    }
}
