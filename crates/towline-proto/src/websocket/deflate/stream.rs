//! The two directions of compression (RFC 7692 section 7.2).

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::super::config::Role;
use super::super::error::Violation;
use super::{DeflateConfig, DeflateParams};

/// What the sender removes from the end of a message and the receiver puts back (section 7.2.1).
pub(crate) const TAIL: [u8; 4] = [0x00, 0x00, 0xFF, 0xFF];

/// The output of one step of the inflater, in bytes: no message can pass its limit by more.
const STEP: usize = 16 * 1024;

/// zlib has no raw windows below 2^9.
const MIN_WINDOW_BITS: u8 = 9;

/// Inflates the messages of the peer.
pub(crate) struct Inflater {
    stream: Decompress,
    forgets: bool,
    /// The output of the last step.
    out: Vec<u8>,
    /// The last step filled `out`, so there may be more without more input.
    full: bool,
    /// The message had a final block (section 7.2.3.4): the stream starts anew.
    ended: bool,
    /// How much of the tail was fed.
    tail: usize,
}

impl std::fmt::Debug for Inflater {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inflater").field("forgets", &self.forgets).finish_non_exhaustive()
    }
}

impl Inflater {
    /// For the end with this role, which inflates what the other one deflated.
    pub(crate) fn new(role: Role, params: &DeflateParams) -> Inflater {
        let (bits, forgets) = match role {
            Role::Client => (params.server_window_bits, params.server_no_context_takeover),
            Role::Server => (params.client_window_bits, params.client_no_context_takeover),
        };
        let bits = bits.clamp(MIN_WINDOW_BITS, 15);
        Inflater {
            stream: Decompress::new_with_window_bits(false, bits),
            forgets,
            out: Vec::new(),
            full: false,
            ended: false,
            tail: 0,
        }
    }

    /// One step over `input`: how much of it was used. The output is in [`Inflater::output`].
    pub(crate) fn step(&mut self, input: &[u8]) -> Result<usize, Violation> {
        self.out.clear();
        self.out.reserve(STEP);
        let before = self.stream.total_in();
        let status = self
            .stream
            .decompress_vec(input, &mut self.out, FlushDecompress::Sync)
            .map_err(|_| Violation::Inflate)?;
        let used = self.stream.total_in().wrapping_sub(before) as usize;
        self.full = self.out.len() == self.out.capacity();
        if status == Status::BufError && !input.is_empty() && used == 0 && !self.full {
            return Err(Violation::Inflate);
        }
        if status == Status::StreamEnd {
            self.stream.reset(false);
            self.ended = true;
            self.full = false;
        }
        Ok(used)
    }

    /// One step over what is left of the tail; true when the message is complete.
    pub(crate) fn step_tail(&mut self) -> Result<bool, Violation> {
        let rest = TAIL.get(self.tail..).unwrap_or_default();
        let used = self.step(rest)?;
        self.tail = self.tail.saturating_add(used);
        if self.full || (used > 0 && self.tail < TAIL.len()) {
            return Ok(false);
        }
        self.tail = 0;
        if self.forgets || self.ended {
            self.stream.reset(false);
            self.ended = false;
        }
        Ok(true)
    }

    /// What the last step produced, at most 16 KiB.
    pub(crate) fn output(&self) -> &[u8] {
        &self.out
    }

    /// Whether a step without input may produce more.
    pub(crate) fn has_more(&self) -> bool {
        self.full
    }

    /// The same for the message's own bytes, with the tail still to come.
    pub(crate) fn has_more_before_tail(&self) -> bool {
        self.full && self.tail == 0
    }
}

/// Deflates our messages.
pub(crate) struct Deflater {
    stream: Compress,
    forgets: bool,
    min_length: usize,
    out: Vec<u8>,
}

impl std::fmt::Debug for Deflater {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Deflater").field("forgets", &self.forgets).finish_non_exhaustive()
    }
}

impl Deflater {
    /// For the end with this role.
    ///
    /// `None` when the peer allows a window of 256 bytes only: zlib cannot do that, and an end may
    /// always send messages uncompressed (section 6).
    pub(crate) fn new(
        role: Role,
        config: &DeflateConfig,
        params: &DeflateParams,
    ) -> Option<Deflater> {
        let (bits, forgets) = match role {
            Role::Client => (params.client_window_bits, params.client_no_context_takeover),
            Role::Server => (params.server_window_bits, params.server_no_context_takeover),
        };
        if bits < MIN_WINDOW_BITS {
            return None;
        }
        Some(Deflater {
            stream: Compress::new_with_window_bits(
                Compression::new(config.level.clamp(1, 9)),
                false,
                bits.min(15),
            ),
            forgets,
            min_length: config.min_length.max(1),
            out: Vec::new(),
        })
    }

    /// Whether a message that starts with `length` bytes is worth it.
    pub(crate) fn wants(&self, length: usize) -> bool {
        length >= self.min_length
    }

    /// Deflates a part of a message; the last one ends without the tail (section 7.2.1).
    ///
    /// The result stands in the deflater and may be changed in place; it is gone with the next call.
    pub(crate) fn deflate(&mut self, mut input: &[u8], last: bool) -> &mut Vec<u8> {
        self.out.clear();
        loop {
            // Room enough that the marker of the flush is never cut off at the end of the buffer.
            self.out.reserve(input.len() / 2 + 64);
            let before = self.stream.total_in();
            let status = self.stream.compress_vec(input, &mut self.out, FlushCompress::Sync);
            let stuck = !matches!(status, Ok(Status::Ok));
            let used = self.stream.total_in().wrapping_sub(before) as usize;
            input = input.get(used..).unwrap_or_default();
            let room = self.out.capacity() - self.out.len();
            // With room left the flush is complete (zlib's manual, `deflate`). Without progress there is nothing to flush.
            if (stuck && used == 0) || (input.is_empty() && room > 0) {
                break;
            }
        }
        if last {
            match self.out.len().checked_sub(TAIL.len()) {
                Some(end) if self.out.ends_with(&TAIL) => self.out.truncate(end),
                // Nothing since the last flush: an empty block (section 7.2.3.6).
                _ => self.out.push(0),
            }
            if self.forgets {
                self.stream.reset();
            }
        }
        &mut self.out
    }
}
