//! What an ftcp connection may keep and how it treats a lost wire.

use super::wire::MAX_PAYLOAD;

/// Which frames go out again on the next wire after one is lost.
///
/// ftcp has no acknowledgements of its own, so none of these is exactly-once; `docs/ftcp.md` says what each can lose or repeat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Resend {
    /// Nothing goes out twice: a frame counts as sent when its first byte was given to the transport. What was in flight is lost.
    Never,
    /// Every frame that the transport has not acknowledged to its last byte goes out again, in order.
    ///
    /// The receiver may see a frame twice (its acknowledgement was lost), and misses what its kernel had acknowledged
    /// and its program had not read.
    #[default]
    Unacked,
    /// Every frame goes out again that is not followed or met by a reply: a reply to a message shows that the peer's program
    /// has read it and all before it.
    ///
    /// Nothing is missed, and frames may be repeated. Frames are kept until a reply comes, so a connection whose
    /// messages are never replied to fills its queue ([`Config::queue_bytes`]) and stays full.
    UntilReply,
}

/// Limits and policy of one ftcp connection. Checked by [`Config::validate`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// Messages that may wait for the transport before a send is refused as full. Default 1,000, ftcp's own depth.
    ///
    /// Under [`Resend::UntilReply`] messages waiting for a reply count too.
    pub queue_messages: usize,
    /// Encoded bytes that may wait for the transport before a send is refused as full. Default 64 MiB.
    ///
    /// One message is always accepted by an empty queue. Under [`Resend::UntilReply`] bytes waiting for a reply count too.
    pub queue_bytes: usize,
    /// Largest payload sent or accepted, in bytes. Default and maximum [`MAX_PAYLOAD`].
    pub max_payload: usize,
    /// What happens to frames in flight when a wire is lost. Default [`Resend::Unacked`].
    pub resend: Resend,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            queue_messages: 1000,
            queue_bytes: 64 << 20,
            max_payload: MAX_PAYLOAD,
            resend: Resend::default(),
        }
    }
}

impl Config {
    /// Checks every field against its limits.
    ///
    /// # Errors
    /// [`ConfigError`], naming the field.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.queue_messages == 0 {
            return Err(ConfigError::EmptyQueue { field: "queue_messages" });
        }
        if self.queue_bytes == 0 {
            return Err(ConfigError::EmptyQueue { field: "queue_bytes" });
        }
        if self.max_payload > MAX_PAYLOAD {
            return Err(ConfigError::PayloadTooLarge { value: self.max_payload });
        }
        Ok(())
    }
}

/// A field of [`Config`] that is out of its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A queue that could hold nothing.
    #[error("`{field}` is 0, so nothing could be sent: set it to 1 or more")]
    EmptyQueue {
        /// The field.
        field: &'static str,
    },
    /// A payload that a frame cannot hold.
    #[error("`max_payload` is {value}, and a frame holds at most {MAX_PAYLOAD} bytes")]
    PayloadTooLarge {
        /// What was set.
        value: usize,
    },
}
