//! What an application can set, with units, defaults and costs.

use std::time::Duration;

/// Which end of the connection this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Masks what it sends and refuses masked frames.
    Client,
    /// Sends unmasked, refuses unmasked frames, and closes the transport first (RFC 6455 section 7.1.1).
    Server,
}

/// How messages are handed up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// Every message in one piece. Costs up to `max_message` bytes of memory per connection.
    Whole,
    /// Messages up to `above` bytes in one piece; larger ones in parts while they arrive, at no more memory than
    /// `above` bytes, whatever their size.
    Streamed {
        /// The largest message, in bytes, that is still put together.
        above: usize,
    },
}

/// The settings of a [`Connection`](super::Connection).
///
/// The default suits messages of up to 16 MiB between programs. A server facing the open network may want smaller
/// `max_message` or [`Delivery::Streamed`].
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The largest frame to accept, in bytes on the wire. A longer one fails with 1009 at its header. Default 16 MiB.
    pub max_frame: u64,
    /// The largest message to accept, in bytes after inflating. A longer one fails with 1009. In [`Delivery::Whole`]
    /// this bounds the memory of an unfinished message. Default 16 MiB.
    pub max_message: u64,
    /// How messages are handed up. Default [`Delivery::Whole`].
    pub delivery: Delivery,
    /// Payload bytes that may be in the application's hands (delivered and not yet returned with
    /// [`Connection::credit`](super::Connection::credit)) before reading stops. It starts again at half of this. Default 256 KiB.
    pub receive_window: u64,
    /// Queued bytes above which `send` asks for a pause. Default 64 KiB.
    pub send_high: u64,
    /// Queued bytes at which [`Event::Writable`](super::Event::Writable) ends the pause. Default 32 KiB.
    pub send_low: u64,
    /// Queued bytes above which `send` refuses. One message may pass it, so a message of any size can be sent when
    /// the queue is empty. Default 16 MiB.
    pub max_queued: u64,
    /// Messages longer than this are sent in frames of this many bytes, so that pings and pongs pass between them.
    /// `None` sends every message in one frame. Default 256 KiB.
    pub fragment: Option<usize>,
    /// Silence after which a ping is sent; `None` for never. Any byte from the peer is a sign of life. Default 30 s.
    pub ping_after: Option<Duration>,
    /// Silence after a ping that ends the connection. Default 10 s.
    pub pong_timeout: Duration,
    /// The time for the whole closing handshake, from the first intent on either side to the end, whatever arrives
    /// in between. Default 5 s.
    pub close_timeout: Duration,
    /// The part of `close_timeout` that may be spent waiting for the peer to close the transport after both close
    /// frames went through. Default 1 s.
    pub linger: Duration,
    /// Control frames and empty fragments per second that the peer may send on average. More fail with 1008.
    /// Default 100.
    pub control_rate: u32,
    /// Control frames and empty fragments that the peer may send at once. Default 1,000.
    pub control_burst: u32,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            max_frame: 16 << 20,
            max_message: 16 << 20,
            delivery: Delivery::Whole,
            receive_window: 256 << 10,
            send_high: 64 << 10,
            send_low: 32 << 10,
            max_queued: 16 << 20,
            fragment: Some(256 << 10),
            ping_after: Some(Duration::from_secs(30)),
            pong_timeout: Duration::from_secs(10),
            close_timeout: Duration::from_secs(5),
            linger: Duration::from_secs(1),
            control_rate: 100,
            control_burst: 1000,
        }
    }
}

/// An option of [`Config`] or [`DeflateConfig`](super::DeflateConfig) that cannot be honoured.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("option {option}: {why}")]
pub struct ConfigError {
    /// The field's name.
    pub option: &'static str,
    /// What is wrong with its value.
    pub why: &'static str,
}

impl ConfigError {
    pub(super) fn check(
        ok: bool,
        option: &'static str,
        why: &'static str,
    ) -> Result<(), ConfigError> {
        if ok { Ok(()) } else { Err(ConfigError { option, why }) }
    }
}

impl Config {
    /// Checks every option against its range and against the others.
    ///
    /// # Errors
    /// Names the first option that cannot be honoured.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let check = ConfigError::check;
        let whole = match self.delivery {
            Delivery::Whole => self.max_message,
            Delivery::Streamed { above } => above as u64,
        };
        check(self.max_frame > 0, "max_frame", "must be above zero")?;
        check(self.max_message > 0, "max_message", "must be above zero")?;
        check(
            whole <= isize::MAX as u64,
            "max_message",
            "whole messages must fit into memory; use streamed delivery",
        )?;
        check(self.receive_window > 0, "receive_window", "must be above zero")?;
        check(self.send_low <= self.send_high, "send_low", "must not be above send_high")?;
        check(self.send_high <= self.max_queued, "send_high", "must not be above max_queued")?;
        check(
            self.fragment.is_none_or(|size| size >= 125),
            "fragment",
            "must be at least 125 bytes",
        )?;
        check(
            self.ping_after.is_none_or(|idle| !idle.is_zero()),
            "ping_after",
            "must be above zero; none turns pings off",
        )?;
        check(!self.pong_timeout.is_zero(), "pong_timeout", "must be above zero")?;
        check(!self.close_timeout.is_zero(), "close_timeout", "must be above zero")?;
        check(self.control_rate > 0, "control_rate", "must be above zero")?;
        check(self.control_burst > 0, "control_burst", "must be above zero")
    }
}
