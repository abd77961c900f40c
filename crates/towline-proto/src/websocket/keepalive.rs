//! Pings after silence and the deadline for an answer.
//!
//! Any byte from the peer is a sign of life, not only a pong; the clock is armed again after every expiry, so a peer
//! that talks and never answers pings is still watched.

use std::time::{Duration, Instant};

/// What an expired deadline asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pulse {
    Nothing,
    Ping,
    Dead,
}

#[derive(Debug)]
pub(crate) struct Keepalive {
    after: Option<Duration>,
    timeout: Duration,
    heard: Instant,
    pinged: Option<Instant>,
    /// The deadline was passed by so much that this process must have slept; it got a second chance.
    forgiven: bool,
}

impl Keepalive {
    pub(crate) fn new(after: Option<Duration>, timeout: Duration, now: Instant) -> Keepalive {
        Keepalive { after, timeout, heard: now, pinged: None, forgiven: false }
    }

    /// Bytes arrived.
    #[inline]
    pub(crate) fn on_input(&mut self, now: Instant) {
        self.heard = now;
        self.pinged = None;
        self.forgiven = false;
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        let after = self.after?;
        match self.pinged {
            Some(at) => at.checked_add(self.timeout),
            None => self.heard.checked_add(after),
        }
    }

    /// `reading`: the transport is being read. If not, the silence is ours and proves nothing.
    pub(crate) fn on_timeout(&mut self, now: Instant, reading: bool) -> Pulse {
        let Some(deadline) = self.deadline().filter(|deadline| *deadline <= now) else {
            return Pulse::Nothing;
        };
        if !reading {
            self.on_input(now);
            return Pulse::Ping;
        }
        // Late by a whole timeout: the answer may lie unread in the transport since before we slept.
        let slept = now.duration_since(deadline) >= self.timeout;
        if self.pinged.is_some() && (!slept || self.forgiven) {
            return Pulse::Dead;
        }
        self.forgiven |= self.pinged.is_some();
        self.pinged = Some(now);
        Pulse::Ping
    }
}
