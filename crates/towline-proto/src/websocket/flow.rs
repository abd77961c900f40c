//! The ledgers: bytes received and returned, bytes queued and written, and the rate of control frames.

use std::time::Instant;

use super::config::Config;
use super::error::{OverCredited, OverWritten};

/// Whether to go on sending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pressure {
    /// The queue is below `send_high`.
    Low,
    /// The queue is above `send_high`: wait for [`Event::Writable`](super::Event::Writable). What was sent is queued.
    High,
}

/// Received bytes, from the transport to the application and back as credit.
///
/// At every moment: received = taken as credit + `ready` + `held_wire` + input not yet decoded.
#[derive(Debug)]
pub(crate) struct ReceiveLedger {
    window: u64,
    /// Delivered payload that the application has not returned.
    held: u64,
    /// Input bytes that `held` came from; other than `held` only with compression, and for messages put together.
    held_wire: u64,
    /// Input bytes that the transport may count as done.
    ready: u64,
    stopped: bool,
}

impl ReceiveLedger {
    pub(crate) fn new(config: &Config) -> ReceiveLedger {
        ReceiveLedger {
            window: config.receive_window,
            held: 0,
            held_wire: 0,
            ready: 0,
            stopped: false,
        }
    }

    /// Input bytes that never reach the application.
    #[inline]
    pub(crate) fn release(&mut self, bytes: u64) {
        self.ready += bytes;
    }

    /// Payload went up; `wire` of the bytes released just now come back to be returned when it is.
    #[inline]
    pub(crate) fn deliver(&mut self, payload: u64, wire: u64) {
        self.ready = self.ready.saturating_sub(wire);
        self.held += payload;
        self.held_wire += wire;
        if self.held == 0 {
            self.ready += std::mem::take(&mut self.held_wire);
        }
        self.stopped |= self.held >= self.window;
    }

    /// The application is done with payload.
    #[inline]
    pub(crate) fn credit(&mut self, payload: u64) -> Result<(), OverCredited> {
        let excess = payload.saturating_sub(self.held);
        let payload = payload - excess;
        if payload == self.held {
            self.held = 0;
            self.ready += std::mem::take(&mut self.held_wire);
        } else {
            let share = u128::from(self.held_wire) * u128::from(payload) / u128::from(self.held);
            let share = u64::try_from(share).unwrap_or(self.held_wire).min(self.held_wire);
            self.held -= payload;
            self.held_wire -= share;
            self.ready += share;
        }
        if self.held <= self.window / 2 {
            self.stopped = false;
        }
        if excess > 0 { Err(OverCredited { excess }) } else { Ok(()) }
    }

    #[inline]
    pub(crate) fn is_open(&self) -> bool {
        !self.stopped
    }

    pub(crate) fn held(&self) -> u64 {
        self.held
    }

    pub(crate) fn take_ready(&mut self) -> u64 {
        std::mem::take(&mut self.ready)
    }

    #[cfg(test)]
    pub(crate) fn outstanding_wire(&self) -> u64 {
        self.ready + self.held_wire
    }
}

/// Bytes handed to the transport and not yet written, and the pause that a full queue asks for.
#[derive(Debug)]
pub(crate) struct SendLedger {
    high: u64,
    low: u64,
    flying: u64,
    paused: bool,
}

impl SendLedger {
    pub(crate) fn new(config: &Config) -> SendLedger {
        SendLedger { high: config.send_high, low: config.send_low, flying: 0, paused: false }
    }

    pub(crate) fn flying(&self) -> u64 {
        self.flying
    }

    #[inline]
    pub(crate) fn handed_out(&mut self, bytes: u64) {
        self.flying += bytes;
    }

    /// After queueing: `queued` bytes wait in the encoder.
    #[inline]
    pub(crate) fn pressure(&mut self, queued: u64) -> Pressure {
        if queued + self.flying > self.high {
            self.paused = true;
        }
        if self.paused { Pressure::High } else { Pressure::Low }
    }

    #[inline]
    pub(crate) fn written(&mut self, bytes: u64) -> Result<(), OverWritten> {
        let excess = bytes.saturating_sub(self.flying);
        self.flying -= bytes - excess;
        if excess > 0 { Err(OverWritten { excess }) } else { Ok(()) }
    }

    /// True once per pause, when the queue has fallen to `send_low`.
    #[inline]
    pub(crate) fn pause_ends(&mut self, queued: u64) -> bool {
        self.paused && queued + self.flying <= self.low && std::mem::take(&mut self.paused)
    }
}

/// A bucket that each control frame takes one drop from.
#[derive(Debug)]
pub(crate) struct RateLimit {
    /// Millionths of a frame.
    drops: u64,
    most: u64,
    rate: u64,
    at: Instant,
}

impl RateLimit {
    const FRAME: u64 = 1_000_000;

    pub(crate) fn new(config: &Config, now: Instant) -> RateLimit {
        let most = u64::from(config.control_burst) * Self::FRAME;
        RateLimit { drops: most, most, rate: u64::from(config.control_rate), at: now }
    }

    /// Counts one frame; false above the limit.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.at).as_micros();
        self.at = self.at.max(now);
        let earned = u64::try_from(elapsed).unwrap_or(u64::MAX).saturating_mul(self.rate);
        self.drops = self.drops.saturating_add(earned).min(self.most);
        match self.drops.checked_sub(Self::FRAME) {
            Some(rest) => {
                self.drops = rest;
                true
            }
            None => false,
        }
    }
}
