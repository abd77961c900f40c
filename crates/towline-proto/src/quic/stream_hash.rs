//! A hash for tables by stream, which are looked into for every packet.

use std::hash::{BuildHasherDefault, Hasher};

/// Builds [`StreamHasher`]s.
pub type StreamHash = BuildHasherDefault<StreamHasher>;

/// Spreads stream identifiers, which are given out in order (RFC 9000 section 2.1). A peer cannot fill one bucket with those of its choice for long: it opens them in
/// order, and has no more of them at once than it is allowed.
#[derive(Clone, Copy, Debug, Default)]
pub struct StreamHasher(u64);

impl Hasher for StreamHasher {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, value: u64) {
        // 2^64 over the golden ratio, as in Fibonacci hashing.
        self.0 = (self.0 ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}
