//! What can be set, with its bounds.

use std::fmt;
use std::time::Duration;

use towline_code::BatchSize;

/// How a flow trades delay against certainty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Mode {
    /// Low latency: coded, never sent again; what its deadline has passed is dropped.
    Btp = 0,
    /// Reliable and in order.
    #[default]
    Brtp = 1,
    /// Rateless: the receiver only ever says "done".
    Brctp = 2,
    /// Plain UDP datagrams: no header, no coding. It needs no flow; see [`FlowConfig::check`].
    Transparent = 3,
}

impl Mode {
    /// The mode of this number on the wire and in the SDK's configuration.
    pub fn from_number(number: u8) -> Option<Mode> {
        [Mode::Btp, Mode::Brtp, Mode::Brctp, Mode::Transparent].into_iter().nth(number.into())
    }
}

impl fmt::Display for Mode {
    /// The name that addresses and the command have for it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Btp => "btp",
            Mode::Brtp => "brtp",
            Mode::Brctp => "brctp",
            Mode::Transparent => "transparent",
        })
    }
}

/// What the application gives and gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Framing {
    /// BRTP only: bytes without boundaries, by `write` and `read`.
    #[default]
    Stream,
    /// Messages, by `send` and `recv`.
    Messages,
}

/// How a flow that uses little of its path is protected, at its source and at every relay.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Protection {
    /// The share of packets that may stay lost on one hop after all repeats. Default 0.0003; 1 turns protection off.
    pub residual: f64,
    /// The most that repeats may take of the link's rate, 0 to 1. Default 0.2.
    pub share: f64,
    /// How long after a packet its last repeat may leave: what protection may add to the delay of one hop. Default 18 ms.
    pub horizon: Duration,
}

impl Default for Protection {
    fn default() -> Self {
        Protection { residual: 0.0003, share: 0.2, horizon: Duration::from_millis(18) }
    }
}

/// The parameters of a flow. Those marked "client" hold for both directions and are told to the server and to the relays.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FlowConfig {
    /// Client. Default BRTP.
    pub mode: Mode,
    /// Client. BTP and BRCTP always carry messages. Default a stream.
    pub framing: Framing,
    /// Client. Columns in a batch: 16 by default; 8 for thin flows, 32 for long chains without feedback at each hop.
    pub batch: BatchSize,
    /// Client. Batches filled in turn, 1 to 64, so that losses in a row hit different ones. Default 8.
    pub interleave: u8,
    /// Client. Whether each hop answers losses by itself. Off is for relays that acknowledge nothing: redundancy then follows measured
    /// loss, and what is still missing is asked for end to end. Default on.
    pub hop_feedback: bool,
    /// Client. Whether relays are in the path: packets then leave room for a relay's coefficients where relays mix. Default off.
    pub relayed: bool,
    /// Compress what this end sends, with LZ4, where it becomes shorter by it. The client's says also whether anything may be compressed on the flow: where it is off,
    /// a server's changes nothing. Lengths then tell an observer how well the payload compresses. Default off.
    pub compress: bool,
    /// Client, BTP. How old a message may become, from when it is sent to when it is delivered, above the path's own delay. Default
    /// 100 ms.
    pub deadline: Duration,
    /// Symbols (of at most one packet each) that the peer may have under way, arrived out of order, or not read.
    /// It bounds memory, and throughput to window / round trip. Default 131,072: about 190 MB, which only a path of 1 Gb/s, 200 ms and
    /// 10 % loss comes to use.
    pub receive_window: u64,
    /// BRCTP: how many receivers the sender waits for, at least 1. More than one take a hop that brings packets to all of them. Default 1.
    pub receivers: u16,
    /// BRCTP: how long a receiver may say nothing although more than enough was sent, before it is given up. With the last one the flow
    /// ends. Default 30 s.
    pub patience: Duration,
    /// Bytes that are accepted and not yet acknowledged, at most; how many of these are used follows the path, see
    /// [`ideal_buffer_length`](super::Flow::ideal_buffer_length). Default 192 MiB.
    pub max_send_buffer: usize,
    /// The largest message in bytes, sent or received. Default 16 MiB.
    pub max_message: usize,
    /// Thin flow protection.
    pub protection: Protection,
    /// How long `close` tries to get everything acknowledged. Default 10 s.
    pub close_timeout: Duration,
    /// Seeds random combinations. Nodes should not share one.
    pub seed: u64,
}

impl Default for FlowConfig {
    fn default() -> Self {
        FlowConfig {
            mode: Mode::Brtp,
            framing: Framing::Stream,
            batch: BatchSize::M16,
            interleave: 8,
            hop_feedback: true,
            relayed: false,
            compress: false,
            deadline: Duration::from_millis(100),
            receive_window: 131_072,
            receivers: 1,
            patience: Duration::from_secs(30),
            max_send_buffer: 192 << 20,
            max_message: 16 << 20,
            protection: Protection::default(),
            close_timeout: Duration::from_secs(10),
            seed: 0,
        }
    }
}

/// An option out of its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bats option {option} must be {expected}")]
#[non_exhaustive]
pub struct ConfigError {
    /// The field's name.
    pub option: &'static str,
    /// What it may be.
    pub expected: &'static str,
}

/// Symbols that may be sent before the receiver has said what it can take. Receivers grant at least this.
pub const INITIAL_WINDOW: u64 = 4096;

/// Symbols that may be sent on a hop before its neighbour has said what it can take. What is behind a relay may be slow.
pub const HOP_WINDOW: u64 = 512;

/// Most symbols between the oldest one unacknowledged and the newest: what keeps 28-bit numbers unambiguous, with room to spare.
pub const MAX_WINDOW: u64 = 1 << 24;

impl FlowConfig {
    /// The configuration for BTP: batches of 8, no interleaving, messages.
    pub fn btp() -> FlowConfig {
        FlowConfig {
            mode: Mode::Btp,
            framing: Framing::Messages,
            batch: BatchSize::M8,
            interleave: 1,
            // Combinations are all that it has against losses, and of a link that it leaves idle it knows a part only.
            protection: Protection { share: 0.5, ..Protection::default() },
            ..FlowConfig::default()
        }
    }

    /// The configuration for BRCTP: no interleaving, as losses in a row matter no more than others; messages.
    pub fn brctp() -> FlowConfig {
        FlowConfig {
            mode: Mode::Brctp,
            framing: Framing::Messages,
            interleave: 1,
            ..FlowConfig::default()
        }
    }

    /// Checks every option against its range.
    ///
    /// # Errors
    /// Names the first option that is out of range.
    pub fn check(&self) -> Result<(), ConfigError> {
        let refuse = |option, expected| Err(ConfigError { option, expected });
        if self.mode == Mode::Transparent {
            return refuse("mode", "btp, brtp or brctp: transparent is plain UDP and has no flow");
        }
        if self.mode != Mode::Brtp && self.framing == Framing::Stream {
            return refuse("framing", "messages, in every mode but brtp");
        }
        if !(1..=64).contains(&self.interleave) {
            return refuse("interleave", "from 1 to 64");
        }
        if self.mode == Mode::Brctp && self.interleave != 1 {
            return refuse("interleave", "1 in brctp");
        }
        if self.receivers == 0 {
            return refuse("receivers", "at least 1");
        }
        if self.patience < Duration::from_millis(100) {
            return refuse("patience", "at least 100 ms");
        }
        if self.mode == Mode::Btp && self.deadline < Duration::from_millis(1) {
            return refuse("deadline", "at least 1 ms");
        }
        if self.deadline > Duration::from_secs(8) {
            return refuse("deadline", "at most 8 s");
        }
        if !(INITIAL_WINDOW..=MAX_WINDOW).contains(&self.receive_window) {
            return refuse("receive_window", "from 4,096 to 16,777,216 symbols");
        }
        if self.max_send_buffer < 64 << 10 {
            return refuse("max_send_buffer", "at least 64 KiB");
        }
        if self.max_message == 0 || self.max_message > 1 << 30 {
            return refuse("max_message", "from 1 byte to 1 GiB");
        }
        let Protection { residual, share, horizon } = self.protection;
        if !(residual > 0.0 && residual <= 1.0) {
            return refuse("protection.residual", "above 0 and at most 1");
        }
        if !(0.0..=1.0).contains(&share) {
            return refuse("protection.share", "from 0 to 1");
        }
        if horizon > Duration::from_secs(1) {
            return refuse("protection.horizon", "at most 1 s");
        }
        Ok(())
    }
}
