//! What a relay may use, and what it did.

use crate::bats::flow::{ConfigError, INITIAL_WINDOW, MAX_WINDOW, Protection};

/// The parameters of a relay, for each flow.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RelayConfig {
    /// Packets that may be kept for each direction, at most. How many are granted follows the paths. Default 32,768: about 47 MB, which
    /// hops of 1 Gb/s and 200 ms come to use.
    pub max_packets: usize,
    /// Thin flow protection on the way out.
    pub protection: Protection,
    /// Seeds random combinations. Nodes should not share one.
    pub seed: u64,
}

impl Default for RelayConfig {
    fn default() -> Self {
        RelayConfig { max_packets: 32_768, protection: Protection::default(), seed: 0 }
    }
}

impl RelayConfig {
    /// Checks every option against its range.
    ///
    /// # Errors
    /// Names the first option that is out of range.
    pub fn check(&self) -> Result<(), ConfigError> {
        let refuse = |option, expected| Err(ConfigError { option, expected });
        if !(INITIAL_WINDOW..=MAX_WINDOW).contains(&(self.max_packets as u64)) {
            return refuse("max_packets", "from 4,096 to 16,777,216");
        }
        if !(self.protection.residual > 0.0 && (0.0..=1.0).contains(&self.protection.share)) {
            return refuse("protection", "a residual above 0 and a share from 0 to 1");
        }
        Ok(())
    }
}

/// What a relay did for one direction of a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RelayStats {
    /// Packets received, of every kind.
    pub received: u64,
    /// Packets sent on as they came, once each.
    pub forwarded: u64,
    /// Combinations that this relay made.
    pub recoded: u64,
    /// Packets sent again because the next hop lost them.
    pub repaired: u64,
    /// Repeats for thin flows and BTP.
    pub protective: u64,
    /// Repeats that the link's budget did not allow.
    pub protective_withheld: u64,
    /// Reports passed on.
    pub reports: u64,
    /// Packets kept at present.
    pub held: u64,
    /// What was dropped.
    pub dropped: RelayDropped,
}

/// Packets dropped, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RelayDropped {
    /// Told nothing new.
    pub redundant: u64,
    /// No version of this format has them.
    pub malformed: u64,
    /// Beyond what was granted.
    pub over_credit: u64,
    /// Came before the flow's parameters and did not fit the queue for such.
    pub early: u64,
    /// Batches forgotten to make room.
    pub evicted_batches: u64,
}
