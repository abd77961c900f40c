//! permessage-deflate (RFC 7692): what the two ends agree on, and the two directions.
//!
//! The DEFLATE algorithm is `flate2` over `zlib-rs`: of the pure-Rust backends it is the one that can limit the
//! window, which the negotiation needs, and it is also the faster one.

mod negotiate;
mod stream;

pub use negotiate::{DeflateParams, NegotiateError};
pub(crate) use stream::{Deflater, Inflater};

use super::config::ConfigError;

/// How to compress, and what to ask of the peer. Off unless given to a handshake.
///
/// Memory per connection: about 64 KiB plus four times the window to send, and about 10 KiB plus the window to receive. Compressing secrets
/// together with data that an attacker chooses can reveal the secrets by the length (as in CRIME); leave it off there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeflateConfig {
    /// Effort, 1 (fast) to 9 (small). Default 1: on a network path the gain beyond it is small against its cost.
    pub level: u32,
    /// Messages below this many bytes are sent as they are. Default 128.
    pub min_length: usize,
    /// The largest window of the client's compressor, 8 to 15 (its size is 2 to this power, in bytes). Default 15.
    pub client_window_bits: u8,
    /// The largest window of the server's compressor, 8 to 15. Default 15.
    pub server_window_bits: u8,
    /// The client forgets its window after each message: less memory, larger messages. Default false.
    pub client_no_context_takeover: bool,
    /// The server forgets its window after each message. Default false.
    pub server_no_context_takeover: bool,
}

impl Default for DeflateConfig {
    fn default() -> DeflateConfig {
        DeflateConfig {
            level: 1,
            min_length: 128,
            client_window_bits: 15,
            server_window_bits: 15,
            client_no_context_takeover: false,
            server_no_context_takeover: false,
        }
    }
}

impl DeflateConfig {
    /// Checks every option against its range.
    ///
    /// # Errors
    /// Names the first option that cannot be honoured.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let check = ConfigError::check;
        check((1..=9).contains(&self.level), "level", "must be 1 to 9")?;
        check(
            (8..=15).contains(&self.client_window_bits),
            "client_window_bits",
            "must be 8 to 15",
        )?;
        check((8..=15).contains(&self.server_window_bits), "server_window_bits", "must be 8 to 15")
    }
}
