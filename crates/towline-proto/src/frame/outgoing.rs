//! What application threads fill, and the engine empties.

use super::log::{Amount, Log, Segment};
use super::wire::{HEADER_LEN, Header, MAX_ID, MAX_PAYLOAD, MessageId};
use super::{Config, Resend};
use bytes::{Bytes, BytesMut};

/// Shared payloads from this size on go to the transport as they are; copying smaller ones is cheaper than one more buffer.
const SHARE_FROM: usize = 4096;
/// A new buffer holds at least this, so that a quiet connection keeps little memory ...
const SMALLEST_BUFFER: usize = 512;
/// ... and about as much as was queued since the engine last came, up to this.
const LARGEST_BUFFER: usize = 64 << 10;

/// A payload to send.
#[derive(Clone, Debug)]
pub enum Payload<'a> {
    /// Copied into the queue, once.
    Slice(&'a [u8]),
    /// Shared with the queue from 4 KiB on, copied below.
    Bytes(Bytes),
}

impl Payload<'_> {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Slice(slice) => slice,
            Self::Bytes(bytes) => bytes,
        }
    }
}

/// Why a message was not taken. Nothing of it was queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The queue is full. A retry helps once the connection is writable.
    #[error(
        "the send queue is full ({messages} messages, {bytes} bytes): wait until the connection is writable, or raise `queue_messages` or `queue_bytes`"
    )]
    Full {
        /// Messages in the queue.
        messages: usize,
        /// Encoded bytes in the queue.
        bytes: usize,
    },
    /// The payload does not fit a frame. A retry does not help.
    #[error(
        "the message has {length} bytes, and here a frame holds {max}: split it, or use a wire with larger messages"
    )]
    TooLarge {
        /// Payload bytes.
        length: usize,
        /// Largest payload.
        max: usize,
    },
}

/// The queue that application threads fill, under the connection's lock and without touching the [`Engine`](super::Engine).
///
/// A message is encoded here at once, with its id: one copy of a small payload, none of a large shared one, and no allocation but
/// that of a buffer now and then. It belongs to one connection for life and numbers its messages, over all its wires.
#[derive(Debug)]
pub struct Outgoing {
    segments: Vec<Segment>,
    tail: BytesMut,
    tail_frames: usize,
    amount: Amount,
    /// What the engine held of the queue when it last came.
    held: Amount,
    next_id: u64,
    queue: Amount,
    max_payload: usize,
}

impl Outgoing {
    /// An empty queue whose automatic ids start at 1.
    pub fn new(config: &Config) -> Self {
        Self {
            segments: Vec::new(),
            tail: BytesMut::new(),
            tail_frames: 0,
            amount: Amount::default(),
            held: Amount::default(),
            next_id: 1,
            queue: Amount { messages: config.queue_messages, bytes: config.queue_bytes },
            max_payload: config.max_payload.min(MAX_PAYLOAD),
        }
    }

    /// Queues one message and says its id. `None` (or 0) takes the next automatic one: 1, 2, 3 and so on; any other is used as it is
    /// and reserves nothing.
    ///
    /// # Errors
    /// [`SendError`]; a refused message uses up no id.
    pub fn push(
        &mut self,
        id: Option<MessageId>,
        reply_to: Option<MessageId>,
        payload: Payload<'_>,
    ) -> Result<MessageId, SendError> {
        let length = payload.as_slice().len();
        let too_large = SendError::TooLarge { length, max: self.max_payload };
        if length > self.max_payload {
            return Err(too_large);
        }
        if self.is_full_for(HEADER_LEN + length) {
            let Amount { messages, bytes } = self.queued();
            return Err(SendError::Full { messages, bytes });
        }
        let given = id.filter(|id| id.value() != 0);
        let id = given.or(MessageId::new(self.next_id)).unwrap_or_default();
        let payload_len = u16::try_from(length).map_err(|_| too_large)?;
        let header = Header { payload_len, id, reply_to: reply_to.unwrap_or_default() }
            .encode()
            .ok_or(too_large)?;

        match payload {
            Payload::Bytes(shared) if length >= SHARE_FROM => {
                self.reserve(HEADER_LEN);
                self.tail.extend_from_slice(&header);
                self.tail_frames += 1;
                self.cut_tail(false);
                self.segments.push(Segment { data: shared, frames: 0, whole: true });
            }
            payload => {
                self.reserve(HEADER_LEN + length);
                self.tail.extend_from_slice(&header);
                self.tail.extend_from_slice(payload.as_slice());
                self.tail_frames += 1;
            }
        }
        if given.is_none() {
            self.skip_id();
        }
        self.amount += Amount { messages: 1, bytes: HEADER_LEN + length };
        Ok(id)
    }

    /// The next automatic id.
    pub fn next_id(&self) -> u64 {
        self.next_id
    }

    /// Leaves an automatic id out.
    pub fn skip_id(&mut self) {
        self.next_id = if self.next_id >= MAX_ID { 1 } else { self.next_id + 1 };
    }

    /// Encoded bytes in here, not yet with the engine.
    pub fn bytes(&self) -> usize {
        self.amount.bytes
    }

    /// Messages in here, not yet with the engine.
    pub fn messages(&self) -> usize {
        self.amount.messages
    }

    /// Whether nothing is in here.
    pub fn is_empty(&self) -> bool {
        self.amount.messages == 0
    }

    /// Whether an empty message would be refused, counting what the engine held as of the last [`Engine::enqueue`](super::Engine::enqueue).
    pub fn is_full(&self) -> bool {
        self.is_full_for(HEADER_LEN)
    }

    fn queued(&self) -> Amount {
        let mut queued = self.amount;
        queued += self.held;
        queued
    }

    fn is_full_for(&self, frame: usize) -> bool {
        let Amount { messages, bytes } = self.queued();
        messages >= self.queue.messages
            || (messages > 0 && bytes.saturating_add(frame) > self.queue.bytes)
    }

    /// Makes room for `length` bytes in one piece behind the tail, in a new buffer if need be.
    fn reserve(&mut self, length: usize) {
        if self.tail.capacity() - self.tail.len() < length {
            self.cut_tail(true);
            let like_lately = self.amount.bytes.clamp(SMALLEST_BUFFER, LARGEST_BUFFER);
            // Takes the old buffer again if all that was in it has been forgotten meanwhile.
            self.tail.reserve(length.max(like_lately));
        }
    }

    fn cut_tail(&mut self, whole: bool) {
        if !self.tail.is_empty() {
            let data = self.tail.split().freeze();
            self.segments.push(Segment {
                data,
                frames: std::mem::take(&mut self.tail_frames),
                whole,
            });
        }
    }

    /// Moves everything to the engine's log.
    pub(super) fn drain_into(&mut self, log: &mut Log) {
        self.cut_tail(true);
        for segment in self.segments.drain(..) {
            log.append(segment);
        }
        if self.segments.capacity() > 64 {
            self.segments = Vec::new();
        }
        self.amount = Amount::default();
    }

    /// Hears how much of the queue the engine holds.
    pub(super) fn set_held(&mut self, log: &Log, resend: Resend) {
        self.held = match resend {
            Resend::UntilReply => log.held(),
            Resend::Never | Resend::Unacked => log.unsent(),
        };
    }
}
