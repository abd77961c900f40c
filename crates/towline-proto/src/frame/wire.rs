//! The frame header as a value, and its bytes. The rule for each field is in `docs/ftcp.md`.

use bytes::Bytes;

/// Bytes before the payload: length (2), id (8), reply-to (8).
pub const HEADER_LEN: usize = 18;
/// Bytes that the length field itself takes.
pub(super) const PREFIX_LEN: usize = 2;
/// Bytes of a frame's length that are not payload: the two id fields.
const ID_FIELDS_LEN: usize = HEADER_LEN - PREFIX_LEN;
/// Largest payload of a frame: the length field counts the ids too and has 16 bits.
pub const MAX_PAYLOAD: usize = u16::MAX as usize - ID_FIELDS_LEN;
/// Largest id: eight groups of seven bits.
pub const MAX_ID: u64 = (1 << 56) - 1;

/// A message's id, at most [`MAX_ID`]. 0 asks for the next automatic one when sent, and is not special when received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(u64);

impl MessageId {
    /// The id, or `None` above [`MAX_ID`].
    pub const fn new(id: u64) -> Option<Self> {
        if id <= MAX_ID { Some(Self(id)) } else { None }
    }

    /// The id as a number.
    pub const fn value(self) -> u64 {
        self.0
    }
}

impl std::fmt::Display for MessageId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A received message, or one given back unsent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The sender's id for it.
    pub id: MessageId,
    /// The message it replies to, if any (0 on the wire means none).
    pub reply_to: Option<MessageId>,
    /// The payload: a slice of the receive buffer when the frame arrived whole in one input.
    pub data: Bytes,
}

/// What is wrong with the peer's bytes. The stream cannot be read further: close this connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The length field is below the 16 bytes of the two ids.
    #[error(
        "the peer sent a frame of length {length}, which cannot hold its two ids (16 bytes): it does not speak ftcp, or the stream is damaged"
    )]
    ShortFrame {
        /// The length field.
        length: u16,
    },
    /// All eight bytes of an id field have the high bit set, so the number does not end.
    #[error(
        "the peer sent an id that does not end within its 8 bytes: it does not speak ftcp, or the stream is damaged"
    )]
    UnendingId,
    /// The payload is longer than [`super::Config::max_payload`].
    #[error(
        "the peer sent a payload of {length} bytes, and the limit here is {max}: raise `max_payload` or have it send less"
    )]
    PayloadTooLarge {
        /// Its payload length.
        length: usize,
        /// The limit.
        max: usize,
    },
}

/// The header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Payload bytes, at most [`MAX_PAYLOAD`].
    pub payload_len: u16,
    /// The message's id.
    pub id: MessageId,
    /// The id of the message it replies to; 0 for none.
    pub reply_to: MessageId,
}

impl Header {
    /// The header's bytes, or `None` when the payload length is above [`MAX_PAYLOAD`].
    pub fn encode(&self) -> Option<[u8; HEADER_LEN]> {
        let length = self.payload_len.checked_add(ID_FIELDS_LEN as u16)?;
        let mut bytes = [0; HEADER_LEN];
        let (prefix, ids) = bytes.split_first_chunk_mut::<PREFIX_LEN>()?;
        *prefix = length.to_le_bytes();
        let (id, reply_to) = ids.split_at_mut(8);
        id.copy_from_slice(&encode_id(self.id));
        reply_to.copy_from_slice(&encode_id(self.reply_to));
        Some(bytes)
    }

    /// Reads a header. Bytes behind an id inside its field are ignored, as ftcp ignores them.
    ///
    /// # Errors
    /// [`Error::ShortFrame`], [`Error::UnendingId`].
    pub fn decode(bytes: &[u8; HEADER_LEN]) -> Result<Self, Error> {
        let [l0, l1, ids @ ..] = bytes;
        let payload_len = payload_len(u16::from_le_bytes([*l0, *l1]))?;
        let (id, reply_to) = ids.split_at(8);
        Ok(Self { payload_len, id: decode_id(id)?, reply_to: decode_id(reply_to)? })
    }
}

/// Payload bytes of a frame whose length field is `length`.
pub(super) fn payload_len(length: u16) -> Result<u16, Error> {
    length.checked_sub(ID_FIELDS_LEN as u16).ok_or(Error::ShortFrame { length })
}

/// Unsigned LEB128, left-aligned in 8 bytes, the rest zero.
fn encode_id(id: MessageId) -> [u8; 8] {
    let mut rest = id.0;
    let mut field = [0; 8];
    for byte in &mut field {
        *byte = (rest & 0x7f) as u8;
        rest >>= 7;
        if rest == 0 {
            break;
        }
        *byte |= 0x80;
    }
    field
}

fn decode_id(field: &[u8]) -> Result<MessageId, Error> {
    let mut id = 0;
    for (i, byte) in field.iter().take(8).enumerate() {
        id |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Ok(MessageId(id));
        }
    }
    Err(Error::UnendingId)
}
