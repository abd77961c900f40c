//! When to dial which address: back-off with full jitter, several addresses with head starts, and an end.

use std::time::{Duration, Instant};

/// How to redial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The longest first delay; each further round doubles it. Default 20 ms.
    pub base: Duration,
    /// The longest delay of all. Default 5 s.
    pub cap: Duration,
    /// After so long without a wire it is over. Default 60 s.
    pub window: Duration,
    /// What an address is given before the next one is dialled beside it. Default 250 ms.
    pub head_start: Duration,
    /// How long one dial may take. Default 10 s.
    pub dial_timeout: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            base: Duration::from_millis(20),
            cap: Duration::from_secs(5),
            window: Duration::from_secs(60),
            head_start: Duration::from_millis(250),
            dial_timeout: Duration::from_secs(10),
        }
    }
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Dial the address of this index; others may be under way and go on.
    Dial {
        /// Index into the list of addresses.
        address: usize,
        /// Counts the dials since the wire was lost, from 1.
        attempt: u64,
    },
    /// This dial has taken too long: cancel it. It counts as failed.
    Cancel {
        /// Index into the list of addresses.
        address: usize,
    },
    /// The window is over. Nothing follows until `start`.
    GiveUp,
}

/// The state of redialling for one connection.
#[derive(Debug)]
pub struct Redial {}

impl Redial {
    /// For `addresses` addresses (at least 1 is assumed, at most 64 are used); `seed` feeds the jitter.
    pub fn new(policy: Policy, addresses: usize, seed: u64) -> Redial {
        let _ = (policy, addresses, seed);
        Redial {}
    }

    /// There is no wire and one is wanted: the first dial is due at once unless the last wire was short-lived.
    pub fn start(&mut self, now: Instant) {
        let _ = now;
    }

    /// What is due at `now`; call until `None`.
    pub fn poll(&mut self, now: Instant) -> Option<Action> {
        let _ = now;
        None
    }

    /// When `poll` has something next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// A dial failed, or the wire failed before the session was established on it.
    pub fn handle_failed(&mut self, now: Instant, address: usize) {
        let _ = (now, address);
    }

    /// The session is established over this address. Abandon the other dials.
    pub fn handle_established(&mut self, now: Instant, address: usize) {
        let _ = (now, address);
    }

    /// Stops; nothing is due until `start`.
    pub fn stop(&mut self) {}
}
