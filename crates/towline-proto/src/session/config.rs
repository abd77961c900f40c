//! What can be set, with its bounds.

use std::time::Duration;

use super::frame::{MAX_FRAGMENT, MIN_MAX_MESSAGE};

/// What one [`Outgoing`](super::Outgoing) accepts. The bounds hold for each lane by itself, so that a lane
/// full of bulk does not keep an urgent message out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Octets of payload that are accepted and not yet acknowledged. A single message is always accepted
    /// when the lane holds none. Default 16 MiB.
    pub max_bytes: usize,
    /// Messages that are accepted and not yet acknowledged. Default 65,536.
    pub max_messages: usize,
    /// Octets of one message; the peer's own limit holds as well once it is known. Default 16 MiB.
    pub max_message: usize,
    /// Octets of one fragment: what a more urgent message may have to wait for. Default 64 KiB, at most
    /// [`MAX_FRAGMENT`].
    pub fragment: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_bytes: 16 << 20,
            max_messages: 65_536,
            max_message: 16 << 20,
            fragment: 64 << 10,
        }
    }
}

/// The parameters of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// What is accepted for sending.
    pub limits: Limits,
    /// The largest message, in octets, that the peer may send: the most that each of its [`LANES`](super::LANES)
    /// lanes can make this end reserve for an unfinished message. Default 16 MiB, at least 64 KiB.
    pub max_message: usize,
    /// Octets, each frame with 32 more, that the peer may have under way or unconsumed on each lane. It
    /// bounds memory, and throughput to `window / round trip`. Default 4 MiB, at least 512 KiB.
    pub window: u64,
    /// How long an acknowledgement waits for company. Default 20 ms.
    pub ack_delay: Duration,
    /// Received octets, each frame with 32 more, after which an acknowledgement leaves without waiting.
    /// Default 512 KiB, at most a quarter of `window`.
    pub ack_bytes: u64,
    /// Silence after which a PING asks whether the peer lives; `None` never asks. Default 15 s.
    pub keep_alive: Option<Duration>,
    /// How long a PING may go without any octet received until the wire counts as dead. Default 10 s.
    pub ping_timeout: Duration,
    /// How long a client waits for the WELCOME. Default 10 s.
    pub handshake_timeout: Duration,
    /// How long a session without a wire is kept, on both sides. Default 60 s.
    pub redial_window: Duration,
    /// How long `close` tries to get everything acknowledged. Default 10 s.
    pub close_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            limits: Limits::default(),
            max_message: 16 << 20,
            window: 4 << 20,
            ack_delay: Duration::from_millis(20),
            ack_bytes: 512 << 10,
            keep_alive: Some(Duration::from_secs(15)),
            ping_timeout: Duration::from_secs(10),
            handshake_timeout: Duration::from_secs(10),
            redial_window: Duration::from_secs(60),
            close_timeout: Duration::from_secs(10),
        }
    }
}

/// An option out of its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("session option {option} must be {expected}")]
#[non_exhaustive]
pub struct ConfigError {
    /// The field's name.
    pub option: &'static str,
    /// What it may be.
    pub expected: &'static str,
}

impl Config {
    /// Checks every option against its range.
    ///
    /// # Errors
    /// Names the first option that is out of range.
    pub fn check(&self) -> Result<(), ConfigError> {
        let refuse = |option, expected| Err(ConfigError { option, expected });
        if self.limits.max_bytes == 0 {
            return refuse("limits.max_bytes", "at least 1");
        }
        if self.limits.max_messages == 0 || self.limits.max_messages > u32::MAX as usize {
            return refuse("limits.max_messages", "from 1 to 2^32 - 1");
        }
        if self.limits.max_message as u64 > u64::from(u32::MAX) {
            return refuse("limits.max_message", "below 4 GiB");
        }
        if !(1024..=MAX_FRAGMENT).contains(&self.limits.fragment) {
            return refuse("limits.fragment", "from 1 KiB to 256 KiB");
        }
        if self.max_message < MIN_MAX_MESSAGE || self.max_message as u64 > u64::from(u32::MAX) {
            return refuse("max_message", "from 64 KiB to below 4 GiB");
        }
        if !(2 * MAX_FRAGMENT as u64..=1 << 40).contains(&self.window) {
            return refuse("window", "from 512 KiB to 1 TiB");
        }
        if self.ack_bytes == 0 || self.ack_bytes > self.window / 4 {
            return refuse("ack_bytes", "from 1 to a quarter of the window");
        }
        for (option, value) in [
            ("ping_timeout", self.ping_timeout),
            ("handshake_timeout", self.handshake_timeout),
            ("keep_alive", self.keep_alive.unwrap_or(Duration::from_secs(1))),
        ] {
            if value.is_zero() {
                return refuse(option, "more than zero");
            }
        }
        Ok(())
    }
}
