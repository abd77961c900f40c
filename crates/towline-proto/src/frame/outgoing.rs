//! What application threads fill.
use super::{Config, MessageId};
use bytes::Bytes;

/// A payload to send.
#[derive(Clone, Debug)]
pub enum Payload<'a> {
    /// Copied into the queue, once.
    Slice(&'a [u8]),
    /// Small ones are copied; large ones go to the transport as they are.
    Bytes(Bytes),
}

/// Why a message was not taken. Nothing of it was queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The queue is full: wait for the writable event, or drop the message.
    #[error(
        "the send queue is full ({messages} messages, {bytes} bytes): wait until the connection is writable"
    )]
    Full {
        /// Messages in the queue.
        messages: usize,
        /// Encoded bytes in the queue.
        bytes: usize,
    },
    /// The payload does not fit a frame.
    #[error(
        "the message has {length} bytes, and a frame holds {max}: split it, or use a wire with larger messages"
    )]
    TooLarge {
        /// Payload bytes.
        length: usize,
        /// Largest payload.
        max: usize,
    },
}

/// The queue that application threads fill under the connection's lock.
#[derive(Debug)]
pub struct Outgoing;
impl Outgoing {
    /// An empty queue whose automatic ids start at 1.
    pub fn new(config: &Config) -> Self {
        let _ = config;
        unimplemented!()
    }
    /// Queues one message; id `None` (or 0) takes the next automatic one.
    ///
    /// # Errors
    /// [`SendError`]
    pub fn push(
        &mut self,
        id: Option<MessageId>,
        reply_to: Option<MessageId>,
        payload: Payload<'_>,
    ) -> Result<MessageId, SendError> {
        let _ = (id, reply_to, payload);
        unimplemented!()
    }
    /// Encoded bytes in here.
    pub fn bytes(&self) -> usize {
        unimplemented!()
    }
    /// Messages in here.
    pub fn messages(&self) -> usize {
        unimplemented!()
    }
    /// Whether nothing is in here.
    pub fn is_empty(&self) -> bool {
        unimplemented!()
    }
    /// Whether the next push would be refused, counting what the engine still holds as of the last [`super::Engine::enqueue`].
    pub fn is_full(&self) -> bool {
        unimplemented!()
    }
}
