//! What a link counted.

use std::time::Duration;

use crate::time::Nanos;

/// Packets, and their bytes on the wire (payload, headers, framing).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Bytes with all overhead.
    pub bytes: u64,
}

impl Count {
    #[inline]
    pub(crate) fn add(&mut self, bytes: u64) {
        self.packets += 1;
        self.bytes += bytes;
    }
}

/// Everything one direction of a link counted since the start.
///
/// At any time `offered.packets + duplicated = delivered.packets + dropped() + queued + in_flight`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkStats {
    /// Handed to the link.
    pub offered: Count,
    /// Left the queue towards the medium, lost there or not.
    pub departed: Count,
    /// Came out at the other end, copies included.
    pub delivered: Count,
    /// Dropped because the queue was full.
    pub dropped_queue: Count,
    /// Dropped by the loss model.
    pub dropped_loss: Count,
    /// Dropped because the link was down or the network partitioned.
    pub dropped_outage: Count,
    /// Dropped because they were larger than the MTU.
    pub dropped_mtu: Count,
    /// Marked Congestion Experienced.
    pub marked: u64,
    /// Copies made.
    pub duplicated: u64,
    /// Held back for reordering.
    pub reordered: u64,
    /// With bits flipped.
    pub corrupted: u64,
    /// Waiting in the queue now.
    pub queued: u64,
    /// Bytes waiting in the queue now.
    pub queued_bytes: u64,
    /// The most bytes that ever waited.
    pub max_queued_bytes: u64,
    /// On the medium now.
    pub in_flight: u64,
    /// Time from being handed in to leaving the queue, of packets that left it.
    pub queue_delay: DelayHistogram,
}

impl LinkStats {
    /// Packets dropped for any reason.
    pub fn dropped(&self) -> u64 {
        self.dropped_queue.packets
            + self.dropped_loss.packets
            + self.dropped_outage.packets
            + self.dropped_mtu.packets
    }
}

const STEPS: usize = 4;
const BUCKETS: usize = 34 * STEPS;

/// Delays in buckets that grow by a quarter of a power of two, from 1 microsecond; those above some hours share the last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DelayHistogram {
    buckets: Box<[u64; BUCKETS]>,
    count: u64,
    sum: Nanos,
    max: Nanos,
}

impl Default for DelayHistogram {
    fn default() -> Self {
        DelayHistogram { buckets: Box::new([0; BUCKETS]), count: 0, sum: 0, max: 0 }
    }
}

impl DelayHistogram {
    /// The bucket of a delay in units of 1.024 microseconds: exact below `STEPS`, then two bits of mantissa.
    #[inline]
    fn bucket(delay: Nanos) -> usize {
        let units = delay >> 10;
        if units < STEPS as u64 {
            return units as usize;
        }
        let exponent = 63 - units.leading_zeros() as usize;
        let mantissa = (units >> (exponent - 2)) as usize & (STEPS - 1);
        ((exponent - 1) * STEPS + mantissa).min(BUCKETS - 1)
    }

    /// The smallest delay beyond the bucket.
    fn upper_edge(bucket: usize) -> Nanos {
        let next = bucket + 1;
        let units = if next < STEPS {
            next as u64
        } else {
            ((STEPS + next % STEPS) as u64) << (next / STEPS - 1)
        };
        units << 10
    }

    #[inline]
    pub(crate) fn add(&mut self, delay: Nanos) {
        if let Some(bucket) = self.buckets.get_mut(Self::bucket(delay)) {
            *bucket += 1;
        }
        self.count += 1;
        self.sum = self.sum.saturating_add(delay);
        self.max = self.max.max(delay);
    }

    /// How many delays were counted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The longest, exactly.
    pub fn max(&self) -> Duration {
        Duration::from_nanos(self.max)
    }

    /// The mean, exactly (rounded down to a nanosecond); zero when nothing was counted.
    pub fn mean(&self) -> Duration {
        Duration::from_nanos(self.sum.checked_div(self.count).unwrap_or(0))
    }

    /// A value that `percent` of 100 delays do not exceed: the upper edge of the bucket, at most 25 % (or 1
    /// microsecond) above the truth, and never above the maximum. Zero when nothing was counted.
    pub fn percentile(&self, percent: u8) -> Duration {
        let rank = (u128::from(self.count) * u128::from(percent.min(100))).div_ceil(100).max(1);
        let mut seen = 0u128;
        for (bucket, count) in self.buckets.iter().enumerate() {
            seen += u128::from(*count);
            if seen >= rank {
                return Duration::from_nanos(Self::upper_edge(bucket).min(self.max));
            }
        }
        self.max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_contiguous_and_ordered() {
        let mut before = 0;
        for delay in (0..5_000_000u64).step_by(97) {
            let bucket = DelayHistogram::bucket(delay);
            assert!(bucket == before || bucket == before + 1, "{delay}");
            assert!(delay < DelayHistogram::upper_edge(bucket), "{delay}");
            assert!(bucket == 0 || delay >= DelayHistogram::upper_edge(bucket - 1), "{delay}");
            before = bucket;
        }
        assert_eq!(DelayHistogram::bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn percentiles_are_close_and_ordered() {
        let mut histogram = DelayHistogram::default();
        assert_eq!(histogram.percentile(50), Duration::ZERO);
        (1..=1000u64).for_each(|delay| histogram.add(delay * 10_000));
        assert_eq!(histogram.mean(), Duration::from_nanos(5_005_000));
        assert_eq!(histogram.max(), Duration::from_millis(10));
        let p50 = histogram.percentile(50);
        assert!(p50 >= Duration::from_millis(5) && p50 <= Duration::from_micros(6250), "{p50:?}");
        assert_eq!(histogram.percentile(100), histogram.max());
        assert!(histogram.percentile(1) <= p50 && p50 <= histogram.percentile(99));
    }
}
