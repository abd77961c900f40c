//! What a link does, one direction of it.

use std::sync::Arc;
use std::time::Duration;

use crate::random::Chance;
use crate::rate::Bitrate;

/// How long a queue may grow before it drops what comes (drop-tail). The bytes counted are whole packets
/// with their overhead, as against the rate. A packet that finds nothing waiting is always taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueLimit {
    /// No limit. Memory is then bounded only by what the senders keep in flight.
    Unlimited,
    /// Bytes.
    Bytes(u64),
    /// What the link sends in this time at its rate; follows the rate when that changes. No limit on a link
    /// of infinite rate.
    Time(Duration),
    /// Packets of any size.
    Packets(u64),
}

/// How much a token bucket saves up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Burst {
    /// Bytes.
    Bytes(u64),
    /// What the link sends in this time at its rate; follows the rate when that changes.
    Time(Duration),
}

/// How the time of a packet on the link varies around the delay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum JitterShape {
    /// Every value from `delay - jitter` to `delay + jitter` equally likely.
    #[default]
    Uniform,
    /// The same range with a bell shape: the mean of four uniform draws (standard deviation 0.29 jitter).
    Bell,
}

/// Which packets a link loses. Loss comes after the queue: a lost packet has used its share of the rate.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub enum Loss {
    /// None.
    #[default]
    None,
    /// Each packet by itself, with this probability (0 to 1).
    Independent(f64),
    /// Gilbert's model by what one can measure: the share of packets lost over a long time (0 to 1,
    /// exclusive), and how many in a row a loss takes in the mean (at least 1 and at least
    /// `mean / (1 - mean)`, below which no such channel exists).
    Burst {
        /// Share of packets lost, 0 to 1.
        mean: f64,
        /// Mean number of packets lost in a row.
        burst: f64,
    },
    /// The Gilbert-Elliott model by its parameters, all probabilities per packet. The state changes
    /// before each packet; it starts in proportion to how long each state lasts.
    GilbertElliott {
        /// Good to bad.
        to_bad: f64,
        /// Bad to good.
        to_good: f64,
        /// Loss in the good state.
        loss_good: f64,
        /// Loss in the bad state.
        loss_bad: f64,
    },
    /// Exactly these packets, counted from 0 in the order in which they leave the queue (ascending).
    Listed(Arc<[u64]>),
}

/// Holds single packets back so that later ones overtake them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reorder {
    /// Probability per packet, 0 to 1.
    pub probability: f64,
    /// Added to the delay of the packet held back.
    pub extra: Duration,
}

/// One step of a link's schedule.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum LinkChange {
    /// A new rate; what waits in the queue leaves at the new one.
    Rate(Option<Bitrate>),
    /// A new delay for packets that leave the queue from now on.
    Delay(Duration),
    /// A new jitter.
    Jitter(Duration),
    /// A new loss model.
    Loss(Loss),
    /// A new probability of duplication.
    Duplicate(f64),
    /// A new probability of corruption.
    Corrupt(f64),
    /// A new reordering.
    Reorder(Option<Reorder>),
    /// A new queue limit; what waits already stays.
    Queue(QueueLimit),
    /// A new MTU in bytes.
    Mtu(u32),
    /// The medium is dead: the queue goes on draining and everything that leaves it is lost. What is on the
    /// way already arrives.
    Down,
    /// The end of [`LinkChange::Down`].
    Up,
    /// The sender's end stops: packets wait in the queue, which drops when it is full (a radio that waits
    /// for its cell).
    Hold,
    /// The end of [`LinkChange::Hold`].
    Release,
}

/// The behaviour of one direction of a link.
///
/// A packet passes these stages in this order: MTU, queue (drop-tail, ECN marking), token bucket at the
/// rate, outage, loss, corruption, duplication, and for each copy delay, jitter and reordering.
///
/// ```
/// use std::time::Duration;
/// use towline_sim::{Bitrate, LinkConfig, Loss, QueueLimit};
///
/// let adsl_up = LinkConfig::new()
///     .rate(Bitrate::from_kbps(768))
///     .queue(QueueLimit::Time(Duration::from_millis(300)))
///     .delay(Duration::from_millis(18))
///     .loss(Loss::Independent(0.001));
/// adsl_up.check().unwrap();
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct LinkConfig {
    pub(crate) rate: Option<Bitrate>,
    pub(crate) burst: Burst,
    pub(crate) queue: QueueLimit,
    pub(crate) ecn_threshold: Option<QueueLimit>,
    pub(crate) headers: Option<u32>,
    pub(crate) framing: u32,
    pub(crate) mtu: u32,
    pub(crate) delay: Duration,
    pub(crate) jitter: Duration,
    pub(crate) jitter_shape: JitterShape,
    pub(crate) jitter_reorders: bool,
    pub(crate) loss: Loss,
    pub(crate) reorder: Option<Reorder>,
    pub(crate) duplicate: f64,
    pub(crate) corrupt: f64,
    pub(crate) corrupt_bits: u32,
    pub(crate) schedule: Vec<(Duration, LinkChange)>,
}

impl Default for LinkConfig {
    fn default() -> Self {
        Self::new()
    }
}

impl LinkConfig {
    /// A perfect link: infinite rate, no delay, nothing lost, MTU 1,500 bytes.
    pub fn new() -> Self {
        LinkConfig {
            rate: None,
            burst: Burst::Bytes(0),
            queue: QueueLimit::Time(Duration::from_millis(100)),
            ecn_threshold: None,
            headers: None,
            framing: 14,
            mtu: 1500,
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            jitter_shape: JitterShape::Uniform,
            jitter_reorders: false,
            loss: Loss::None,
            reorder: None,
            duplicate: 0.0,
            corrupt: 0.0,
            corrupt_bits: 1,
            schedule: Vec::new(),
        }
    }

    /// The link of Towline's laboratory: a token bucket with a burst of 10 ms at the link rate, a drop-tail
    /// queue of 11 ms at the link rate (what Linux' `tbf rate R burst R*10ms latency 1ms` does), then delay and
    /// independent loss. Packets are IP packets of up to 1,500 bytes, and the rate counts them whole plus 14
    /// bytes of Ethernet, so that full IPv4 datagrams carry at most 1472 / 1514 of it.
    pub fn lab(rate: Bitrate, delay: Duration, loss: f64) -> Self {
        Self::new()
            .rate(rate)
            .burst(Burst::Time(Duration::from_millis(10)))
            .queue(QueueLimit::Time(Duration::from_millis(11)))
            .delay(delay)
            .loss(if loss == 0.0 { Loss::None } else { Loss::Independent(loss) })
    }

    /// Bits per second, counting payload, headers and framing. Default: infinite.
    pub fn rate(mut self, rate: Bitrate) -> Self {
        self.rate = Some(rate);
        self
    }

    /// What the token bucket holds; it starts full, and what it holds leaves at once. Default: 0 bytes, a
    /// plain serial line.
    pub fn burst(mut self, burst: Burst) -> Self {
        self.burst = burst;
        self
    }

    /// The queue's limit. Default: 100 ms at the rate.
    pub fn queue(mut self, limit: QueueLimit) -> Self {
        self.queue = limit;
        self
    }

    /// Marks a packet Congestion Experienced when it is ECN-capable and comes to a queue that holds more than
    /// this (RFC 3168 section 5; a step as in RFC 8257 section 3.1). Others pass unmarked. Default: never.
    pub fn ecn_threshold(mut self, threshold: QueueLimit) -> Self {
        self.ecn_threshold = Some(threshold);
        self
    }

    /// Bytes of network and transport header per datagram, counted against rate and MTU. Default: 28 for IPv4
    /// destinations (20 IP, 8 UDP), 48 for IPv6.
    pub fn headers(mut self, bytes: u32) -> Self {
        self.headers = Some(bytes);
        self
    }

    /// Bytes of link-layer framing per packet, counted against the rate only. Default: 14 (Ethernet).
    pub fn framing(mut self, bytes: u32) -> Self {
        self.framing = bytes;
        self
    }

    /// Largest network packet (payload and headers) in bytes; larger ones are dropped, silently as far as the
    /// sender knows. Default: 1,500.
    pub fn mtu(mut self, bytes: u32) -> Self {
        self.mtu = bytes;
        self
    }

    /// Time from leaving the queue to arriving. Default: 0.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// The delay that is set.
    pub fn one_way_delay(&self) -> Duration {
        self.delay
    }

    /// Variation of the delay, to either side (what would be negative is 0). Order is kept: a packet arrives no
    /// earlier than the one before it. Default: 0.
    pub fn jitter(mut self, jitter: Duration) -> Self {
        self.jitter = jitter;
        self
    }

    /// How the jitter is distributed. Default: uniform.
    pub fn jitter_shape(mut self, shape: JitterShape) -> Self {
        self.jitter_shape = shape;
        self
    }

    /// Whether packets overtake each other by their jitter, or by a delay that shrinks. Default: no.
    pub fn jitter_reorders(mut self, reorders: bool) -> Self {
        self.jitter_reorders = reorders;
        self
    }

    /// Which packets are lost. Default: none.
    pub fn loss(mut self, loss: Loss) -> Self {
        self.loss = loss;
        self
    }

    /// Holds packets back with a probability. Default: none.
    pub fn reorder(mut self, probability: f64, extra: Duration) -> Self {
        self.reorder = Some(Reorder { probability, extra });
        self
    }

    /// Probability that a packet arrives twice, 0 to 1. The copy has its own jitter. Default: 0.
    pub fn duplicate(mut self, probability: f64) -> Self {
        self.duplicate = probability;
        self
    }

    /// Probability that bits of a packet's payload are flipped, 0 to 1. (On a real path the UDP checksum
    /// catches most of that; what arrives here is what it would let through.) Default: 0.
    pub fn corrupt(mut self, probability: f64) -> Self {
        self.corrupt = probability;
        self
    }

    /// How many bits are flipped in a corrupted packet, at random places, at least 1. Default: 1.
    pub fn corrupt_bits(mut self, bits: u32) -> Self {
        self.corrupt_bits = bits;
        self
    }

    /// Changes the link at a time since the base of the network (at once, when that has passed). Steps at one
    /// time happen in the order in which they were added.
    pub fn at(mut self, time: Duration, change: LinkChange) -> Self {
        self.schedule.push((time, change));
        self
    }

    /// The medium is dead from one time to another; see [`LinkChange::Down`].
    pub fn outage(self, from: Duration, until: Duration) -> Self {
        self.at(from, LinkChange::Down).at(until, LinkChange::Up)
    }

    /// Whether every value is within its range. [`Network`](crate::Network) checks it too.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names the first field that is not, the schedule's included.
    pub fn check(&self) -> Result<(), ConfigError> {
        check_rate(self.rate)?;
        check_loss(&self.loss)?;
        probability("duplicate", self.duplicate)?;
        probability("corrupt", self.corrupt)?;
        self.reorder
            .map_or(Ok(()), |reorder| probability("reorder.probability", reorder.probability))?;
        if self.corrupt_bits == 0 {
            return Err(ConfigError { field: "corrupt_bits", reason: "must be at least 1" });
        }
        self.schedule.iter().try_for_each(|(_, change)| change.check())
    }

    /// Applies one change of the description (not the states of outage, which are the link's own).
    pub(crate) fn apply(&mut self, change: &LinkChange) {
        match change {
            LinkChange::Rate(rate) => self.rate = *rate,
            LinkChange::Delay(delay) => self.delay = *delay,
            LinkChange::Jitter(jitter) => self.jitter = *jitter,
            LinkChange::Loss(loss) => self.loss = loss.clone(),
            LinkChange::Duplicate(probability) => self.duplicate = *probability,
            LinkChange::Corrupt(probability) => self.corrupt = *probability,
            LinkChange::Reorder(reorder) => self.reorder = *reorder,
            LinkChange::Queue(limit) => self.queue = *limit,
            LinkChange::Mtu(bytes) => self.mtu = *bytes,
            LinkChange::Down | LinkChange::Up | LinkChange::Hold | LinkChange::Release => {}
        }
    }

    /// The bucket's depth as a time at the rate.
    pub(crate) fn burst_time(&self) -> Duration {
        match (self.burst, self.rate) {
            (Burst::Time(time), _) => time,
            (Burst::Bytes(bytes), Some(rate)) => rate.time_of(bytes),
            (Burst::Bytes(_), None) => Duration::ZERO,
        }
    }
}

impl LinkChange {
    /// Whether the new value is within its range.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names what is not.
    pub fn check(&self) -> Result<(), ConfigError> {
        match self {
            LinkChange::Rate(rate) => check_rate(*rate),
            LinkChange::Loss(loss) => check_loss(loss),
            LinkChange::Duplicate(value) => probability("duplicate", *value),
            LinkChange::Corrupt(value) => probability("corrupt", *value),
            LinkChange::Reorder(Some(reorder)) => {
                probability("reorder.probability", reorder.probability)
            }
            _ => Ok(()),
        }
    }
}

/// A value of a [`LinkConfig`] or a stream configuration that makes no sense. The caller's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {reason}")]
#[non_exhaustive]
pub struct ConfigError {
    /// The field.
    pub field: &'static str,
    /// What is wrong with its value.
    pub reason: &'static str,
}

pub(crate) fn probability(field: &'static str, value: f64) -> Result<(), ConfigError> {
    Chance::new(value)
        .map(|_| ())
        .ok_or(ConfigError { field, reason: "must be a probability from 0 to 1" })
}

pub(crate) fn check_rate(rate: Option<Bitrate>) -> Result<(), ConfigError> {
    match rate {
        Some(rate) if rate.as_bps() == 0 => Err(ConfigError {
            field: "rate",
            reason: "must be above 0 (a link that stops is LinkChange::Hold)",
        }),
        _ => Ok(()),
    }
}

fn check_loss(loss: &Loss) -> Result<(), ConfigError> {
    match loss {
        Loss::None => Ok(()),
        Loss::Independent(value) => probability("loss", *value),
        Loss::Burst { mean, burst } => {
            probability("loss.mean", *mean)?;
            if *mean >= 1.0 {
                return Err(ConfigError { field: "loss.mean", reason: "must be below 1" });
            }
            if !burst.is_finite() || *burst < 1.0 || *burst < mean / (1.0 - mean) {
                return Err(ConfigError {
                    field: "loss.burst",
                    reason: "must be at least 1 and at least mean / (1 - mean)",
                });
            }
            Ok(())
        }
        Loss::GilbertElliott { to_bad, to_good, loss_good, loss_bad } => {
            probability("loss.to_bad", *to_bad)?;
            probability("loss.to_good", *to_good)?;
            probability("loss.loss_good", *loss_good)?;
            probability("loss.loss_bad", *loss_bad)
        }
        Loss::Listed(list) if !list.is_sorted() => {
            Err(ConfigError { field: "loss.listed", reason: "must be in ascending order" })
        }
        Loss::Listed(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        let field = |config: LinkConfig| config.check().unwrap_err().field;
        let new = LinkConfig::new;
        assert_eq!(field(new().rate(Bitrate::from_bps(0))), "rate");
        assert_eq!(field(new().loss(Loss::Independent(1.5))), "loss");
        assert_eq!(field(new().loss(Loss::Burst { mean: 0.9, burst: 2.0 })), "loss.burst");
        assert_eq!(field(new().loss(Loss::Burst { mean: 1.0, burst: 2.0 })), "loss.mean");
        assert_eq!(field(new().loss(Loss::Listed([3, 1].into()))), "loss.listed");
        assert_eq!(field(new().duplicate(-0.1)), "duplicate");
        assert_eq!(field(new().corrupt(f64::NAN)), "corrupt");
        assert_eq!(field(new().corrupt_bits(0)), "corrupt_bits");
        assert_eq!(field(new().reorder(2.0, Duration::ZERO)), "reorder.probability");
        assert_eq!(field(new().at(Duration::ZERO, LinkChange::Corrupt(3.0))), "corrupt");
        assert_eq!(LinkConfig::lab(Bitrate::from_gbps(1), Duration::ZERO, 0.1).check(), Ok(()));
    }
}
