//! Encoded frames, at once the send queue and what is kept for another wire.
//!
//! Offsets count every encoded byte of the connection from its first on, over all wires. `base <= cursor <= end`:
//! what is before `base` is forgotten, what is before `cursor` went out on the present wire, and `base` begins a frame.

use super::wire::{HEADER_LEN, Header, Message, PREFIX_LEN};
use bytes::{Buf, Bytes};
use std::collections::VecDeque;

/// A run of frames. The last one's payload may be a segment of its own behind this one, so that a large payload is shared, not copied.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) data: Bytes,
    /// Frames whose header is in here.
    pub(super) frames: usize,
    /// Whether the last byte ends a frame.
    pub(super) whole: bool,
}

/// An amount of encoded frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Amount {
    pub(super) messages: usize,
    pub(super) bytes: usize,
}

impl std::ops::AddAssign for Amount {
    fn add_assign(&mut self, other: Self) {
        self.messages += other.messages;
        self.bytes += other.bytes;
    }
}

/// One frame in the log: where it begins and ends, and the message.
pub(super) struct Frame {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) message: Message,
}

#[derive(Debug, Default)]
pub(super) struct Log {
    segments: VecDeque<Segment>,
    base: u64,
    cursor: u64,
    /// The cursor once more: the segment that it is in, and the byte in that.
    next_segment: usize,
    next_byte: usize,
    held: Amount,
    /// Messages whose header is in `next_segment` or later.
    unsent_messages: usize,
}

impl Log {
    pub(super) fn append(&mut self, segment: Segment) {
        self.held += Amount { messages: segment.frames, bytes: segment.data.len() };
        self.unsent_messages += segment.frames;
        self.segments.push_back(segment);
    }

    pub(super) fn segments(&self) -> usize {
        self.segments.len()
    }

    /// Offset of the next byte to transmit.
    pub(super) fn cursor(&self) -> u64 {
        self.cursor
    }

    /// Offset behind the last byte.
    pub(super) fn end(&self) -> u64 {
        self.base + self.held.bytes as u64
    }

    /// Everything not forgotten.
    pub(super) fn held(&self) -> Amount {
        self.held
    }

    /// What has not been transmitted on the present wire; messages by whole segments.
    pub(super) fn unsent(&self) -> Amount {
        Amount { messages: self.unsent_messages, bytes: (self.end() - self.cursor) as usize }
    }

    /// Moves the cursor over up to `max` bytes and appends them to `out`; how many bytes.
    pub(super) fn transmit(&mut self, max: usize, out: &mut Vec<Bytes>) -> usize {
        let mut sent = 0;
        while let Some(segment) = self.segments.get(self.next_segment) {
            let left = segment.data.len() - self.next_byte;
            let n = left.min(max - sent);
            if n > 0 {
                out.push(segment.data.slice(self.next_byte..self.next_byte + n));
                sent += n;
            }
            if n < left {
                self.next_byte += n;
                break;
            }
            self.unsent_messages -= segment.frames;
            self.next_segment += 1;
            self.next_byte = 0;
        }
        self.cursor += sent as u64;
        sent
    }

    /// Forgets every frame that ends at or before `upto` and was transmitted.
    pub(super) fn release(&mut self, upto: u64) -> Amount {
        let upto = upto.min(self.cursor);
        let mut released = Amount::default();
        while let Some(first) = self.segments.front() {
            let bytes = first.data.len();
            let amount = if first.whole && self.base + bytes as u64 <= upto {
                Amount { messages: first.frames, bytes }
            } else {
                match self.first_frame_len() {
                    Some(length) if self.base + length as u64 <= upto => {
                        Amount { messages: 1, bytes: length }
                    }
                    _ => break,
                }
            };
            self.forget(amount);
            released += amount;
        }
        released
    }

    /// Forgets the first frame if only a part of it was transmitted, moving the cursor behind it. For a wire that is gone.
    pub(super) fn forget_begun(&mut self) -> Amount {
        let Some(length) = self.first_frame_len().filter(|_| self.base < self.cursor) else {
            return Amount::default();
        };
        let missing = (self.base + length as u64).saturating_sub(self.cursor);
        self.transmit(missing as usize, &mut Vec::new());
        let amount = Amount { messages: 1, bytes: length };
        self.forget(amount);
        amount
    }

    /// Moves the cursor back to the first frame kept; how many messages go out again, wholly or in part, and the bytes of them
    /// that had gone out.
    pub(super) fn rewind(&mut self) -> Amount {
        let messages = self.frames().take_while(|frame| frame.start < self.cursor).count();
        let bytes = usize::try_from(self.cursor.saturating_sub(self.base)).unwrap_or(usize::MAX);
        self.cursor = self.base;
        (self.next_segment, self.next_byte) = (0, 0);
        self.unsent_messages = self.held.messages;
        Amount { messages, bytes }
    }

    /// Every frame kept, the oldest first.
    pub(super) fn frames(&self) -> Frames<'_> {
        self.frames_from(0, self.base)
    }

    /// Frames from a segment on, which begins with one at offset `start`.
    pub(super) fn frames_from(&self, segment: usize, start: u64) -> Frames<'_> {
        Frames { log: self, segment, byte: 0, start }
    }

    /// Forgets everything, whether transmitted or not.
    pub(super) fn clear(&mut self) {
        let end = self.end();
        *self = Self { base: end, cursor: end, ..Self::default() };
    }

    fn first_frame_len(&self) -> Option<usize> {
        let prefix = self.segments.front()?.data.first_chunk::<PREFIX_LEN>()?;
        Some(PREFIX_LEN + usize::from(u16::from_le_bytes(*prefix)))
    }

    /// Drops `amount` from the front: the whole first segment, or its first frame. All of it is before the cursor.
    fn forget(&mut self, amount: Amount) {
        let mut bytes = amount.bytes;
        while bytes > 0
            && let Some(first) = self.segments.front_mut()
        {
            if bytes >= first.data.len() {
                bytes -= first.data.len();
                self.segments.pop_front();
                self.next_segment = self.next_segment.saturating_sub(1);
                continue;
            }
            first.data.advance(bytes);
            first.frames -= 1;
            if self.next_segment == 0 {
                self.next_byte -= bytes;
                self.unsent_messages -= 1;
            }
            bytes = 0;
        }
        self.base += amount.bytes as u64;
        self.held.messages -= amount.messages;
        self.held.bytes -= amount.bytes;
        if self.segments.is_empty() && self.segments.capacity() > 64 {
            // A quiet connection keeps little memory.
            self.segments = VecDeque::new();
        }
    }
}

pub(super) struct Frames<'a> {
    log: &'a Log,
    segment: usize,
    byte: usize,
    start: u64,
}

impl Iterator for Frames<'_> {
    type Item = Frame;

    fn next(&mut self) -> Option<Frame> {
        let segment = self.log.segments.get(self.segment)?;
        let bytes = segment.data.get(self.byte..)?.first_chunk::<HEADER_LEN>()?;
        let header = Header::decode(bytes).ok()?;
        let payload = self.byte + HEADER_LEN;
        let length = usize::from(header.payload_len);
        let data = match segment.data.len().checked_sub(payload + length) {
            Some(rest) => {
                (self.segment, self.byte) = if rest == 0 {
                    (self.segment + 1, 0)
                } else {
                    (self.segment, payload + length)
                };
                segment.data.slice(payload..payload + length)
            }
            None => {
                let shared = self.log.segments.get(self.segment + 1)?.data.clone();
                (self.segment, self.byte) = (self.segment + 2, 0);
                shared
            }
        };
        let start = self.start;
        self.start += (HEADER_LEN + length) as u64;
        let reply_to = Some(header.reply_to).filter(|id| id.value() != 0);
        Some(Frame { start, end: self.start, message: Message { id: header.id, reply_to, data } })
    }
}
