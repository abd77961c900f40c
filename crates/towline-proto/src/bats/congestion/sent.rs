//! The packets in flight, with what the sender had sent and could have sent by then.

use std::collections::VecDeque;
use std::time::Instant;

/// One packet as it was sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    pub(super) at: Instant,
    /// All bytes sent up to this packet, with it.
    pub(super) total: u64,
    /// All bytes that the pace would have allowed by then.
    pub(super) allowed: f64,
    bytes: u32,
}

/// Packets by number. Bounded: numbers that are missing in between count too.
#[derive(Clone, Debug, Default)]
pub(super) struct SentLog {
    first: u64,
    packets: VecDeque<Option<Sent>>,
    total: u64,
}

/// Packets remembered at most, of which 2 Gb/s over a second of round trip has 170,000 in flight.
const MAX_PACKETS: usize = 1 << 19;
/// Numbers skipped at most; more is another number space.
const MAX_GAP: u64 = 1 << 10;

impl SentLog {
    /// The next number.
    pub(super) fn next(&self) -> u64 {
        self.first + self.packets.len() as u64
    }

    pub(super) fn push(&mut self, number: u64, bytes: u64, at: Instant, allowed: f64) {
        let next = self.next();
        // The handshake's number spaces begin at 0 again (RFC 9000 section 12.3); their last packets are forgotten.
        if number < next || number - next > MAX_GAP {
            self.packets.clear();
            self.first = number;
        } else {
            let skipped = number - next;
            self.packets.extend((0..skipped).map(|_| None));
        }
        self.total += bytes;
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.packets.push_back(Some(Sent { at, total: self.total, allowed, bytes }));
        while self.packets.len() > MAX_PACKETS {
            self.packets.pop_front();
            self.first += 1;
        }
    }

    /// Takes a packet out, if it is the one that was sent then.
    pub(super) fn take(&mut self, number: u64, bytes: u64, at: Option<Instant>) -> Option<Sent> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        let slot = self.packets.get_mut(index)?;
        let same =
            |sent: &Sent| u64::from(sent.bytes) == bytes && at.is_none_or(|at| at == sent.at);
        let taken = if slot.as_ref().is_some_and(same) { slot.take() } else { None };
        while self.packets.front().is_some_and(Option::is_none) {
            self.packets.pop_front();
            self.first += 1;
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_new_number_space_is_not_taken_for_the_old_one() {
        let (mut log, start) = (SentLog::default(), Instant::now());
        let later = start + Duration::from_millis(1);
        log.push(0, 1_200, start, 0.0);
        log.push(0, 1_200, later, 0.0);
        assert!(log.take(0, 1_200, Some(start)).is_none());
        assert_eq!(log.take(0, 1_200, Some(later)).map(|sent| sent.total), Some(2_400));
        assert_eq!(log.next(), 1);
    }

    #[test]
    fn a_log_forgets_the_oldest_and_skips_gaps() {
        let (mut log, start) = (SentLog::default(), Instant::now());
        log.push(5, 100, start, 0.0);
        log.push(9, 100, start, 0.0);
        assert!(log.take(7, 100, None).is_none());
        assert!(log.take(9, 99, None).is_none());
        assert!(log.take(9, 100, None).is_some() && log.take(5, 100, None).is_some());
        for number in 10..10 + 2 * MAX_PACKETS as u64 {
            log.push(number, 1, start, 0.0);
        }
        assert_eq!(log.packets.len(), MAX_PACKETS);
    }
}
