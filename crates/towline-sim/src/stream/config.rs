//! What a byte-stream connection does, one direction of it, and what goes wrong on it.

use std::time::Duration;

use crate::link::{ConfigError, check_rate, probability};
use crate::rate::Bitrate;

/// The sizes of the pieces in which bytes come out, whatever the pieces were in which they were written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chunking {
    /// At most this many bytes at a time; as many as there are.
    Fixed(usize),
    /// Each piece has at most a number of bytes drawn anew from this range, both ends included.
    Random {
        /// Smallest, at least 1.
        min: usize,
        /// Largest.
        max: usize,
    },
}

/// The behaviour of one direction of a byte-stream connection.
///
/// Bytes wait in the send buffer, leave it at the rate, piece by piece, and arrive after the delay; they stay
/// counted against the send buffer until then (they are not acknowledged before). They leave only when the
/// reader's buffer has room. So a slow reader fills first its own buffer and then the writer's, and at most
/// `send_buffer` bytes per `delay` get through. The window opens at once when the reader reads.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamConfig {
    pub(crate) rate: Option<Bitrate>,
    pub(crate) delay: Duration,
    pub(crate) chunking: Chunking,
    pub(crate) send_buffer: usize,
    pub(crate) receive_buffer: usize,
    pub(crate) stall: Option<(f64, Duration)>,
}

impl Default for StreamConfig {
    fn default() -> Self {
        Self::new()
    }
}

impl StreamConfig {
    /// No delay, infinite rate, pieces of up to 16 KiB, buffers of 256 KiB at both ends.
    pub fn new() -> Self {
        StreamConfig {
            rate: None,
            delay: Duration::ZERO,
            chunking: Chunking::Fixed(16 * 1024),
            send_buffer: 256 * 1024,
            receive_buffer: 256 * 1024,
            stall: None,
        }
    }

    /// Bits per second of stream data (no headers are counted). Default: infinite.
    pub fn rate(mut self, rate: Bitrate) -> Self {
        self.rate = Some(rate);
        self
    }

    /// Time from leaving the send buffer to arriving. Default: 0.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Sizes of the pieces. Default: at most 16 KiB.
    pub fn chunking(mut self, chunking: Chunking) -> Self {
        self.chunking = chunking;
        self
    }

    /// Bytes that a writer may have written and that have not arrived yet. Default: 256 KiB.
    pub fn send_buffer(mut self, bytes: usize) -> Self {
        self.send_buffer = bytes;
        self
    }

    /// Bytes that may have arrived, or be on their way, and have not been read yet. Default: 256 KiB.
    pub fn receive_buffer(mut self, bytes: usize) -> Self {
        self.receive_buffer = bytes;
        self
    }

    /// Models packets lost under the stream: with this probability (0 to 1) a piece, and so all behind it, is
    /// late by this time, as if it had to be sent again. Default: never.
    pub fn stall(mut self, probability: f64, time: Duration) -> Self {
        self.stall = Some((probability, time));
        self
    }

    /// Whether every value is within its range.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names the first field that is not.
    pub fn check(&self) -> Result<(), ConfigError> {
        check_rate(self.rate)?;
        let sizes = match self.chunking {
            Chunking::Fixed(size) => size >= 1,
            Chunking::Random { min, max } => min >= 1 && min <= max,
        };
        if !sizes {
            return Err(ConfigError { field: "chunking", reason: "must have 1 <= min <= max" });
        }
        if self.send_buffer == 0 {
            return Err(ConfigError { field: "send_buffer", reason: "must be at least 1 byte" });
        }
        if self.receive_buffer == 0 {
            return Err(ConfigError { field: "receive_buffer", reason: "must be at least 1 byte" });
        }
        self.stall.map_or(Ok(()), |(value, _)| probability("stall", value))
    }
}

/// What happens to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// It is reset in the middle: what is on the way in either direction is lost. The end that was to receive
    /// learns it now, the other one after the delay towards it.
    Reset,
    /// A clean end too early, made by something in the middle: the receiver reads the end of the stream behind what
    /// has arrived, the other end reads it behind what has left the receiver's send buffer. The rest, and what
    /// either writes afterwards, is lost.
    Fin,
    /// Both directions swallow everything from now on, what is on the way included, for ever, and nobody is told
    /// (a peer that lost its power, a NAT that forgot). Send buffers fill up and stay full.
    Silence,
    /// As [`Fault::Silence`], in the one direction only.
    Mute,
    /// Nothing moves in either direction for this time; then all goes on and nothing is lost.
    Outage(Duration),
}

/// A fault that waits for a position in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Which direction's bytes are counted, and to whom "receive" and "one direction" in [`Fault`] refer.
    pub direction: Direction,
    /// The fault happens as soon as exactly this many bytes have arrived; 0 is when the connection is made.
    pub offset: u64,
    /// What happens.
    pub fault: Fault,
}

/// One of the two directions of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the end that connected.
    FromConnector,
    /// From the end that accepted.
    FromAcceptor,
}

/// What a listening address does with one attempt to connect.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Attempt {
    /// Accepts, and the connection meets these cuts.
    Accept(Vec<Cut>),
    /// Refuses, which the connector learns after a round trip.
    Refuse,
    /// Never answers: the connector gives up after the network's connect timeout.
    Ignore,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        let field = |config: StreamConfig| config.check().unwrap_err().field;
        let new = StreamConfig::new;
        assert_eq!(field(new().chunking(Chunking::Fixed(0))), "chunking");
        assert_eq!(field(new().chunking(Chunking::Random { min: 3, max: 2 })), "chunking");
        assert_eq!(field(new().send_buffer(0)), "send_buffer");
        assert_eq!(field(new().receive_buffer(0)), "receive_buffer");
        assert_eq!(field(new().stall(1.5, Duration::ZERO)), "stall");
        assert_eq!(field(new().rate(Bitrate::from_bps(0))), "rate");
        assert_eq!(new().check(), Ok(()));
    }
}
