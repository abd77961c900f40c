//! Reaching the first of several addresses that answers.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::leg::Leg;
use crate::bats::hop::Hop;
use crate::quic::{self, ClientConfig, ConnectError, ConnectParams};

/// How long an address may go without an answer before the next one is tried; twice as long in each further round, for paths that are slow.
const PATIENCE: Duration = Duration::from_secs(1);

/// Addresses that a name's connection is tried at.
const MAX_ADDRESSES: usize = 8;

/// A hop that is being connected: one address after the other, round and round, until one answers or all have failed.
pub(super) struct Dialing {
    client: ClientConfig,
    name: String,
    /// What is said first on each connection.
    route: Bytes,
    /// Those that have not failed.
    addresses: Vec<SocketAddr>,
    next: usize,
    patience: Duration,
    /// When the present one has had its time, if there is another.
    until: Option<Instant>,
}

impl std::fmt::Debug for Dialing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dialing").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

impl Dialing {
    pub(super) fn new(
        client: ClientConfig,
        name: String,
        route: Bytes,
        addresses: &[SocketAddr],
    ) -> Dialing {
        let addresses = addresses.iter().take(MAX_ADDRESSES).copied().collect();
        Dialing { client, name, route, addresses, next: 0, patience: PATIENCE, until: None }
    }

    /// Begins a connection to the next address that one can be begun to.
    ///
    /// # Errors
    /// The last one's, when there is none left.
    pub(super) fn attempt(
        &mut self,
        now: Instant,
        quic: &mut quic::Endpoint,
    ) -> Result<(Leg, SocketAddr), ConnectError> {
        loop {
            if self.next >= self.addresses.len() {
                self.next = 0;
                self.patience *= 2;
            }
            let unknown = || ConnectError::InvalidRemoteAddress(SocketAddr::from(([0; 4], 0)));
            let remote = self.addresses.get(self.next).copied().ok_or_else(unknown)?;
            let params = ConnectParams::default();
            match quic.connect(now, &self.client, remote, &self.name, params) {
                Ok(id) => {
                    let mut leg = Leg::new(id, true);
                    leg.hop.write_control(&self.route);
                    self.until = (self.addresses.len() > 1).then(|| now + self.patience);
                    return Ok((leg, remote));
                }
                Err(error) if self.addresses.len() == 1 => return Err(error),
                Err(_) => drop(self.addresses.remove(self.next)),
            }
        }
    }

    /// Whether it is the next one's turn: the present one has failed, or had its time.
    pub(super) fn is_due(&mut self, now: Instant, leg: &Leg) -> bool {
        if self.addresses.len() < 2 {
            return false;
        }
        if leg.end().is_some() {
            self.addresses.remove(self.next);
            return true;
        }
        let due = self.until.is_some_and(|until| until <= now);
        self.next += usize::from(due);
        due
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.until
    }
}
