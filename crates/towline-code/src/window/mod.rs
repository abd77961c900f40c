//! The sliding window: low latency instead of blocks.
//!
//! Source symbols are numbered without end. A repair symbol sums a run of the latest ones, so a loss is repaired as soon as
//! as many repairs arrived as symbols are missing, however long the stream goes on. Nothing is ever waited for twice: what
//! leaves the window is given up.

mod decoder;
mod encoder;

pub use decoder::{WindowDecoder, WindowOutcome, WindowProgress};
pub use encoder::{RepairPace, WindowEncoder};

use crate::{
    batch::check_symbol_size,
    error::ParameterError,
    prng::{Domain, Stream},
};

/// Most source symbols that a repair may span.
pub const MAX_WINDOW: usize = 256;

/// Most source symbols that a decoder keeps.
pub const MAX_DEPTH: usize = 4096;

/// The parameters of a sliding window, which both ends must share (`depth` and `max_skip` concern the decoder alone).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowConfig {
    /// Most source symbols in a repair, W: 1 to 256.
    pub window: usize,
    /// Bytes in a symbol: 1 to 65,535.
    pub symbol_size: usize,
    /// Names the random choices.
    pub nonce: u64,
    /// Source symbols that the decoder keeps, from `window` to 4,096. What it has beyond the window lets repairs be late: a repair
    /// that spans a symbol no longer kept is useless. Memory is at most `depth * (2 * symbol_size + depth)` bytes.
    pub depth: usize,
    /// How far ahead of the newest symbol a number may be; further ones are refused, because they would empty the window.
    pub max_skip: u64,
}

impl WindowConfig {
    /// A window of `window` symbols of `symbol_size` bytes, kept twice over, from which numbers may skip 65,536.
    pub fn new(window: usize, symbol_size: usize, nonce: u64) -> WindowConfig {
        WindowConfig { window, symbol_size, nonce, depth: 2 * window, max_skip: 1 << 16 }
    }

    fn check(&self) -> Result<(), ParameterError> {
        check_symbol_size(self.symbol_size)?;
        if self.window == 0 || self.window > MAX_WINDOW {
            return Err(ParameterError::Window(self.window));
        }
        if self.depth < self.window || self.depth > MAX_DEPTH {
            return Err(ParameterError::Limit("depth"));
        }
        Ok(())
    }
}

/// What a window repair symbol is; travels with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowRepair {
    /// Names its coefficients; no two repairs of a window may share one.
    pub id: u64,
    /// The first source symbol that it spans.
    pub first: u64,
    /// How many it spans: 1 to W.
    pub count: u16,
}

impl WindowRepair {
    fn coefficients(&self, nonce: u64, out: &mut Vec<u8>) {
        out.clear();
        Stream::new(nonce, Domain::Window, self.id, 0).coefficients(usize::from(self.count), out);
    }
}
