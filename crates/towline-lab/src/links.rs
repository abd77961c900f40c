//! What the links of a run are like, hop by hop, in both directions and over time.

use std::time::Duration;

use towline_sim::{Bitrate, Burst, LinkChange, LinkConfig, Loss, QueueLimit};

/// A value of one hop in place of that of all.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Override {
    /// Bits per second.
    pub rate: Option<Bitrate>,
    /// One way.
    pub delay: Option<Duration>,
    /// 0 to 1.
    pub loss: Option<f64>,
}

/// A change while the run goes on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Change {
    /// When.
    pub at: Duration,
    /// Which hop, from 0; all of them if none is named.
    pub hop: Option<usize>,
    /// To what, in both directions.
    pub to: Override,
}

/// A time without anything passing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outage {
    /// When it begins.
    pub from: Duration,
    /// How long it lasts.
    pub length: Duration,
    /// Which hop, from 0; all of them if none is named.
    pub hop: Option<usize>,
}

/// The links in a row: what all are like, and what sets single ones apart.
#[derive(Clone, Debug, PartialEq)]
pub struct Links {
    /// How many, 1 to 32.
    pub hops: usize,
    /// Each link's rate.
    pub rate: Bitrate,
    /// Each link's delay, one way.
    pub delay: Duration,
    /// Each link's loss, 0 to 1.
    pub loss: f64,
    /// The mean length of loss bursts, packets; 1 is independent loss.
    pub burst: f64,
    /// How far the delay varies to either side, in order.
    pub jitter: Duration,
    /// The share of packets that are held back, 0 to 1.
    pub reorder: f64,
    /// How long they are held back.
    pub reorder_by: Duration,
    /// The share of packets that arrive twice, 0 to 1.
    pub duplicate: f64,
    /// What the token bucket saves up, at the rate.
    pub bucket: Duration,
    /// What the queue holds, at the rate.
    pub queue: Duration,
    /// The direction back: its rate, delay and loss where they are others.
    pub back: Override,
    /// Single hops, counted from 0, both directions.
    pub single: Vec<(usize, Override)>,
    /// What changes, in order of time.
    pub changes: Vec<Change>,
    /// When nothing passes.
    pub outages: Vec<Outage>,
}

impl Default for Links {
    fn default() -> Self {
        Links {
            hops: 1,
            rate: Bitrate::from_mbps(100),
            delay: Duration::from_millis(10),
            loss: 0.0,
            burst: 1.0,
            jitter: Duration::ZERO,
            reorder: 0.0,
            reorder_by: Duration::from_millis(5),
            duplicate: 0.0,
            bucket: Duration::from_millis(10),
            queue: Duration::from_millis(11),
            back: Override::default(),
            single: Vec::new(),
            changes: Vec::new(),
            outages: Vec::new(),
        }
    }
}

impl Links {
    /// What is wrong with them, if anything is.
    pub(crate) fn check(&self) -> Result<(), String> {
        let share = |loss: f64| (0.0..1.0).contains(&loss);
        if !(1..=32).contains(&self.hops) {
            return Err("a chain has 1 to 32 hops".into());
        }
        let others = self.single.iter().map(|(_, other)| other);
        let others = others.chain(self.changes.iter().map(|change| &change.to));
        let losses = others.chain([&self.back]).filter_map(|other| other.loss);
        if !losses.chain([self.loss, self.reorder, self.duplicate]).all(share) {
            return Err("loss, reordering and duplication are shares from 0 to below 1".into());
        }
        if self.burst < 1.0 {
            return Err("a burst has at least 1 packet".into());
        }
        let named = self.single.iter().map(|(hop, _)| Some(*hop));
        let named = named.chain(self.changes.iter().map(|change| change.hop));
        let mut named = named.chain(self.outages.iter().map(|outage| outage.hop));
        if named.any(|hop| hop.is_some_and(|hop| hop >= self.hops)) {
            return Err("a hop is named that the chain does not have".into());
        }
        Ok(())
    }

    fn of(&self, hop: usize, forward: bool) -> (Bitrate, Duration, f64) {
        let mut found = (self.rate, self.delay, self.loss);
        let single = self.single.iter().filter(|(number, _)| *number == hop);
        let back = Some(&self.back).filter(|_| !forward);
        for other in single.map(|(_, other)| other).chain(back) {
            found.0 = other.rate.unwrap_or(found.0);
            found.1 = other.delay.unwrap_or(found.1);
            found.2 = other.loss.unwrap_or(found.2);
        }
        found
    }

    fn losing(&self, share: f64) -> Loss {
        if share <= 0.0 {
            Loss::None
        } else if self.burst > 1.0 {
            // No channel loses this much in shorter bursts.
            Loss::Burst { mean: share, burst: self.burst.max(share / (1.0 - share)) }
        } else {
            Loss::Independent(share)
        }
    }

    /// One direction of a hop.
    pub(crate) fn link(&self, hop: usize, forward: bool) -> LinkConfig {
        let (rate, delay, loss) = self.of(hop, forward);
        let mut link = LinkConfig::lab(rate, delay, 0.0)
            .loss(self.losing(loss))
            .jitter(self.jitter)
            .duplicate(self.duplicate)
            .burst(Burst::Time(self.bucket))
            .queue(QueueLimit::Time(self.queue));
        if self.reorder > 0.0 {
            link = link.reorder(self.reorder, self.reorder_by);
        }
        let here = |named: Option<usize>| named.is_none_or(|named| named == hop);
        for change in self.changes.iter().filter(|change| here(change.hop)) {
            if let Some(rate) = change.to.rate {
                link = link.at(change.at, LinkChange::Rate(Some(rate)));
            }
            if let Some(delay) = change.to.delay {
                link = link.at(change.at, LinkChange::Delay(delay));
            }
            if let Some(loss) = change.to.loss {
                link = link.at(change.at, LinkChange::Loss(self.losing(loss)));
            }
        }
        for outage in self.outages.iter().filter(|outage| here(outage.hop)) {
            link = link.outage(outage.from, outage.from.saturating_add(outage.length));
        }
        link
    }

    /// Bits per second that the worst hop lets through, as whole packets: its rate less its loss. Changes and outages are not counted.
    pub(crate) fn capacity(&self) -> f64 {
        let hops = (0..self.hops).map(|hop| self.of(hop, true));
        let through = hops.map(|(rate, _, loss)| rate.as_bps() as f64 * (1.0 - loss));
        through.fold(f64::INFINITY, f64::min)
    }

    /// The delay of all hops together, one way.
    pub(crate) fn one_way(&self, forward: bool) -> Duration {
        (0..self.hops).map(|hop| self.of(hop, forward).1).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_hops_and_the_way_back_differ() {
        let slow = Override { rate: Some(Bitrate::from_mbps(10)), ..Override::default() };
        let lossy = Override { loss: Some(0.5), ..Override::default() };
        let far = Override { delay: Some(Duration::from_millis(40)), ..Override::default() };
        let single = vec![(1, slow), (2, lossy)];
        let links = Links { hops: 3, single, back: far, ..Links::default() };
        links.check().unwrap();
        assert!((links.capacity() - 10e6).abs() < 1.0);
        assert_eq!(links.one_way(true), Duration::from_millis(30));
        assert_eq!(links.one_way(false), Duration::from_millis(120));
        let lossy = Links { single: vec![(2, lossy)], ..links };
        assert!((lossy.capacity() - 50e6).abs() < 1.0);
    }

    #[test]
    fn hops_that_are_not_there_are_refused() {
        let outage = Outage { from: Duration::ZERO, length: Duration::ZERO, hop: Some(1) };
        assert!(Links { outages: vec![outage], ..Links::default() }.check().is_err());
        assert!(Links { hops: 0, ..Links::default() }.check().is_err());
        assert!(Links { loss: 1.0, ..Links::default() }.check().is_err());
        assert!(Links { burst: 0.5, ..Links::default() }.check().is_err());
    }
}
