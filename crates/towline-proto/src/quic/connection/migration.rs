//! Moving a client's connection to another local address: one packet goes ahead, the rest follows when the answer comes.
//!
//! RFC 9000 section 8.2 probes a path with PATH_CHALLENGE beforehand. The engine does so only with its multipath extension, so the probe here is an ordinary packet: it
//! leaves from the new address with a connection id not used before (section 9.5), and everything else waits for at most `ATTEMPTS` probe timeouts. If the path works, the
//! server validates it from its side and answers there; if not, one small packet is lost and the connection goes on where it was. Nothing is sent on the old path in
//! between, since the server would take that for a migration back.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use noq_proto as engine;

use super::Conn;
use crate::quic::error::MigrateError;
use crate::quic::event::Event;
use crate::quic::types::{LocalAddress, Side};

/// Packets sent ahead before a path is given up.
const ATTEMPTS: u8 = 3;

/// A new path that is being tried.
#[derive(Debug)]
pub(super) struct Probe {
    pub(super) local: SocketAddr,
    pub(super) deadline: Instant,
    attempts: u8,
    sent: bool,
}

impl Conn {
    pub(super) fn migrate(&mut self, now: Instant, local: SocketAddr) -> Result<(), MigrateError> {
        if self.life.ending || self.inner.is_closed() {
            return Err(MigrateError::Closed);
        }
        if self.side == Side::Server {
            return Err(MigrateError::Server);
        }
        if !self.life.confirmed {
            return Err(MigrateError::TooEarly);
        }
        if self.shared.peer_params().disable_active_migration {
            return Err(MigrateError::Forbidden);
        }
        if self.probe.is_some() {
            return Err(MigrateError::UnderWay);
        }
        if local.is_ipv4() != self.remote.is_ipv4() {
            return Err(MigrateError::Family);
        }
        // Takes a connection id that was not used on the old path, and asks for an answer.
        self.inner.handle_network_change(None, now);
        self.probe =
            Some(Probe { local, deadline: now + self.probe_timeout(), attempts: 1, sent: false });
        Ok(())
    }

    /// Twice the round trip and some: the new path may be slower.
    fn probe_timeout(&self) -> Duration {
        let rtt = self.inner.rtt(engine::PathId::ZERO).unwrap_or(Duration::from_millis(333));
        rtt * 2 + Duration::from_millis(50)
    }

    pub(super) fn poll_probe(
        &mut self,
        now: Instant,
        buf: &mut Vec<u8>,
    ) -> Option<(engine::Transmit, Option<LocalAddress>)> {
        let probe = self.probe.as_mut()?;
        if probe.sent {
            return None;
        }
        let transmit = self.inner.poll_transmit(now, NonZeroUsize::MIN, buf)?;
        probe.sent = true;
        Some((transmit, Some(LocalAddress::Socket(probe.local))))
    }

    pub(super) fn handle_probe_timeout(&mut self, now: Instant) {
        let timeout = self.probe_timeout();
        let Some(probe) = self.probe.as_mut().filter(|probe| probe.deadline <= now) else { return };
        if probe.attempts < ATTEMPTS {
            probe.attempts += 1;
            probe.sent = false;
            probe.deadline = now + timeout;
            self.inner.ping();
            return;
        }
        let local = probe.local;
        self.probe = None;
        // Another id again: the old path's observers saw the first one, the new path's may have seen the second.
        self.inner.handle_network_change(None, now);
        self.events.push_back(Event::MigrationFailed { local });
    }

    /// An authentic packet came on the new path.
    pub(super) fn confirm_migration(&mut self, _now: Instant) {
        if let Some(probe) = self.probe.take() {
            self.local = Some(LocalAddress::Socket(probe.local));
            self.events.push_back(Event::LocalAddressChanged(probe.local));
        }
    }

    /// The socket under the connection has another address now, of its own accord.
    pub(super) fn rebound(&mut self, now: Instant, local: SocketAddr) {
        if self.life.ending {
            return;
        }
        self.inner.handle_network_change(None, now);
        if self.local.is_some() {
            self.local = Some(LocalAddress::Socket(local));
        }
        self.events.push_back(Event::LocalAddressChanged(local));
    }
}
