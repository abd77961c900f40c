//! Receive buffers that an engine still holds slices of.

use std::collections::VecDeque;

use bytes::BytesMut;
use towline_io::Driver;

/// Buffers remembered at most: with more on loan the oldest are left to the allocator.
const REMEMBERED: usize = 128;

/// Received runs up to this size are the driver's copies in shared storage, which it looks after itself.
const PACKED: usize = 4096;

/// Remembers the empty rest of each buffer whose datagrams went to an engine. When the slices are gone, the rest is the whole buffer
/// again, and goes back to the driver's pool.
#[derive(Default)]
pub(in crate::runtime) struct Lent {
    rests: VecDeque<BytesMut>,
}

impl Lent {
    /// Whether this is a pooled buffer of its own.
    pub(super) fn is_pooled(data: &BytesMut) -> bool {
        data.len() > PACKED
    }

    pub(super) fn push(&mut self, rest: BytesMut) {
        if self.rests.len() == REMEMBERED {
            self.rests.pop_front();
        }
        self.rests.push_back(rest);
    }

    /// Gives back what is free. Streams are read in order, so the oldest is the first to be.
    pub(in crate::runtime) fn give_back(&mut self, driver: &mut Driver) {
        for _ in 0..self.rests.len() {
            let Some(mut rest) = self.rests.pop_front() else { return };
            if rest.try_reclaim(PACKED) {
                driver.recycle_mut(rest);
            } else {
                // One that is held for long must not keep the others: it has its next look after them.
                self.rests.push_back(rest);
                return;
            }
        }
    }
}
