//! Bit rates and the shaper that turns them into departure times, exactly.

use std::fmt;
use std::time::Duration;

use crate::time::{Nanos, SECOND, nanos};

/// A rate in bits per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bitrate(u64);

impl Bitrate {
    /// From bits per second.
    pub const fn from_bps(bits: u64) -> Self {
        Bitrate(bits)
    }

    /// From 10^3 bits per second.
    pub const fn from_kbps(kilobits: u64) -> Self {
        Bitrate(kilobits.saturating_mul(1_000))
    }

    /// From 10^6 bits per second.
    pub const fn from_mbps(megabits: u64) -> Self {
        Bitrate(megabits.saturating_mul(1_000_000))
    }

    /// From 10^9 bits per second.
    pub const fn from_gbps(gigabits: u64) -> Self {
        Bitrate(gigabits.saturating_mul(1_000_000_000))
    }

    /// Bits per second.
    pub const fn as_bps(self) -> u64 {
        self.0
    }

    /// Whole bytes that pass in `time`, saturating.
    pub fn bytes_in(self, time: Duration) -> u64 {
        let bytes = u128::from(self.0) * u128::from(nanos(time)) / (8 * u128::from(SECOND));
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }

    /// The time that `bytes` take, rounded up to a nanosecond, saturating.
    pub fn time_of(self, bytes: u64) -> Duration {
        let time = (u128::from(bytes) * 8 * u128::from(SECOND)).div_ceil(u128::from(self.0.max(1)));
        Duration::from_nanos(u64::try_from(time).unwrap_or(u64::MAX))
    }
}

impl fmt::Display for Bitrate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bits if bits >= 1_000_000_000 && bits % 1_000_000_000 == 0 => {
                write!(f, "{} Gb/s", bits / 1_000_000_000)
            }
            bits if bits >= 1_000_000 && bits % 1_000_000 == 0 => {
                write!(f, "{} Mb/s", bits / 1_000_000)
            }
            bits if bits >= 1_000 && bits % 1_000 == 0 => write!(f, "{} kb/s", bits / 1_000),
            bits => write!(f, "{bits} b/s"),
        }
    }
}

/// A token bucket before a first-in first-out line, in closed form.
///
/// The state is the time at which the bucket was, or will be, empty: the credit at `t` is `t - empty`, at
/// most the burst. A packet of cost `c` (its bits over the rate) leaves when the credit reaches `c`. With a
/// burst of nothing that is a plain serial line: a packet leaves when its last bit does. A packet larger
/// than the burst starts with what credit there is and is serialised for the rest.
///
/// Times are exact: the part below a nanosecond is carried as a fraction with the rate as denominator, so a
/// rate is kept over any number of packets, and a departure is rounded up.
#[derive(Clone, Debug)]
pub(crate) struct Shaper {
    /// Bits per second; 0 is infinite.
    rate: u64,
    burst: i64,
    empty: i64,
    /// Fraction of a nanosecond to add to `empty`, in units of 1 / rate.
    fraction: u64,
    last: Nanos,
    /// Credit beyond the burst belongs to the next packet: a part of it is on the line already.
    half_sent: bool,
    /// Size, quotient and remainder of the last cost: packets of one size come in rows.
    cached: (u64, i64, u64),
}

impl Shaper {
    /// A shaper whose bucket is full.
    pub(crate) fn new(rate: Option<Bitrate>, burst: Duration, now: Nanos) -> Self {
        let rate = rate.map_or(0, Bitrate::as_bps);
        let burst = signed(nanos(burst));
        Shaper {
            rate,
            burst,
            empty: signed(now) - burst,
            fraction: 0,
            last: now,
            half_sent: false,
            cached: (0, 0, 0),
        }
    }

    /// Takes `bytes` handed in at `now` and says when they have left. Never before an earlier packet.
    #[inline]
    pub(crate) fn depart(&mut self, now: Nanos, bytes: u64) -> Nanos {
        let head = now.max(self.last);
        self.last = head;
        if self.rate == 0 {
            return head;
        }
        let floor = signed(head).saturating_sub(self.burst);
        // Compared as rounded up: a line that is busy must not lose its fraction at each packet.
        if self.empty.saturating_add(i64::from(self.fraction > 0)) < floor && !self.half_sent {
            self.empty = floor;
            self.fraction = 0;
        }
        self.half_sent = false;
        let (whole, part) = self.cost(bytes);
        self.empty = self.empty.saturating_add(whole);
        self.fraction += part;
        if self.fraction >= self.rate {
            self.fraction -= self.rate;
            self.empty = self.empty.saturating_add(1);
        }
        let ready = self.empty.saturating_add(i64::from(self.fraction > 0));
        if ready > signed(head) {
            self.last = ready as u64;
        }
        self.last
    }

    /// When the last packet leaves; a packet handed in now cannot leave earlier.
    pub(crate) fn last_departure(&self) -> Nanos {
        self.last
    }

    #[inline]
    fn cost(&mut self, bytes: u64) -> (i64, u64) {
        if self.cached.0 != bytes {
            let scaled = u128::from(bytes) * 8 * u128::from(SECOND);
            let (whole, part) = match u64::try_from(scaled) {
                Ok(scaled) => (scaled / self.rate, scaled % self.rate),
                Err(_) => {
                    let rate = u128::from(self.rate);
                    (u64::try_from(scaled / rate).unwrap_or(u64::MAX), (scaled % rate) as u64)
                }
            };
            self.cached = (bytes, signed(whole), part);
        }
        (self.cached.1, self.cached.2)
    }

    /// Changes rate and burst at `now`, while `waiting` bytes have been given a departure after `now`: those
    /// are taken back, and the caller hands them in again. What has been earned or is owed is kept in bits.
    pub(crate) fn change(
        &mut self,
        now: Nanos,
        waiting: u64,
        rate: Option<Bitrate>,
        burst: Duration,
    ) {
        let burst = signed(nanos(burst));
        let rate = rate.map_or(0, Bitrate::as_bps);
        self.last = now;
        self.cached = (0, 0, 0);
        self.half_sent = waiting > 0;
        if self.rate == 0 || rate == 0 {
            *self = Shaper {
                rate,
                burst,
                empty: signed(now) - burst,
                fraction: 0,
                last: now,
                half_sent: false,
                cached: (0, 0, 0),
            };
            return;
        }
        // The debt (negative: credit) in units of 1 / rate nanoseconds, hence in bits x 10^9.
        let owed = (i128::from(self.empty) - i128::from(now)) * i128::from(self.rate)
            + i128::from(self.fraction)
            - i128::from(waiting) * 8 * i128::from(SECOND);
        let whole = owed.div_euclid(i128::from(rate));
        self.fraction = owed.rem_euclid(i128::from(rate)) as u64;
        self.empty = i64::try_from(i128::from(now) + whole).unwrap_or(i64::MAX);
        self.rate = rate;
        self.burst = burst;
    }
}

fn signed(at: u64) -> i64 {
    i64::try_from(at).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serial_line_keeps_its_rate_exactly() {
        // 3 b/s: a byte takes 2.666.. s; three of them exactly 8 s.
        let mut shaper = Shaper::new(Some(Bitrate::from_bps(3)), Duration::ZERO, 0);
        let times: Vec<u64> = (0..3).map(|_| shaper.depart(0, 1)).collect();
        assert_eq!(times, [2_666_666_667, 5_333_333_334, 8_000_000_000]);
        assert_eq!(shaper.depart(9_000_000_000, 3), 17_000_000_000);
    }

    #[test]
    fn a_bucket_lets_its_burst_pass_at_once() {
        // 8 Mb/s is a byte per microsecond; a burst of 3 ms is 3,000 bytes.
        let mut shaper = Shaper::new(Some(Bitrate::from_mbps(8)), Duration::from_millis(3), 0);
        let times: Vec<u64> = (0..5).map(|_| shaper.depart(0, 1000)).collect();
        assert_eq!(times, [0, 0, 0, 1_000_000, 2_000_000]);
        // After a long pause it is full again, not fuller.
        let times: Vec<u64> = (0..4).map(|_| shaper.depart(SECOND, 1000)).collect();
        assert_eq!(times, [SECOND, SECOND, SECOND, SECOND + 1_000_000]);
    }

    #[test]
    fn a_packet_above_the_burst_is_serialised_for_the_rest() {
        let mut shaper = Shaper::new(Some(Bitrate::from_mbps(8)), Duration::from_micros(400), 0);
        assert_eq!(shaper.depart(0, 1000), 600_000);
        assert_eq!(shaper.depart(0, 1000), 1_600_000);
    }

    #[test]
    fn a_change_of_rate_takes_the_waiting_bytes_back() {
        // 1,000 bytes in transmission and 1,000 waiting; half way through the first the rate halves.
        let mut shaper = Shaper::new(Some(Bitrate::from_mbps(8)), Duration::ZERO, 0);
        assert_eq!(shaper.depart(0, 1000), 1_000_000);
        assert_eq!(shaper.depart(0, 1000), 2_000_000);
        shaper.change(500_000, 2000, Some(Bitrate::from_mbps(4)), Duration::ZERO);
        // Nothing has left: 500 of the first 1,000 bytes are on the line already.
        assert_eq!(shaper.depart(500_000, 1000), 1_500_000);
        assert_eq!(shaper.depart(500_000, 1000), 3_500_000);
    }

    #[test]
    fn rates_convert_to_bytes_and_times() {
        assert_eq!(Bitrate::from_mbps(100).bytes_in(Duration::from_millis(11)), 137_500);
        assert_eq!(Bitrate::from_gbps(1).time_of(1514), Duration::from_nanos(12_112));
        assert_eq!(Bitrate::from_gbps(2).to_string(), "2 Gb/s");
        assert_eq!(Bitrate::from_bps(1_500).to_string(), "1500 b/s");
    }
}
