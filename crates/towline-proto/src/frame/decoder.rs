//! From bytes in any chunking to messages.

use super::wire::{self, Error, HEADER_LEN, Header, MAX_PAYLOAD, Message, PREFIX_LEN};
use bytes::{Buf, Bytes, BytesMut};

/// Cuts a byte stream into messages.
///
/// A frame that is whole in one input is a slice of it, without a copy. Of a frame that straddles inputs the parts are put together in
/// a buffer of its own size, allocated when its header has arrived and was found good: at most [`super::Config::max_payload`] bytes.
#[derive(Debug)]
pub struct Decoder {
    /// The begun frame's header, as far as it has come.
    head: [u8; HEADER_LEN],
    head_len: usize,
    /// The same as a value, once whole.
    header: Option<Header>,
    body: BytesMut,
    max_payload: usize,
}

impl Decoder {
    /// A decoder at the start of a stream, refusing payloads over `max_payload` bytes.
    pub fn new(max_payload: usize) -> Self {
        Self {
            head: [0; HEADER_LEN],
            head_len: 0,
            header: None,
            body: BytesMut::new(),
            max_payload: max_payload.min(MAX_PAYLOAD),
        }
    }

    /// The next message, advancing `input` past it. `None` when all of `input` was taken.
    ///
    /// # Errors
    /// [`Error`], as soon as the bytes that show it have come. The stream cannot be read any further.
    pub fn decode(&mut self, input: &mut Bytes) -> Result<Option<Message>, Error> {
        if self.head_len == 0
            && let Some(head) = input.first_chunk()
        {
            let header = self.check(head)?;
            let length = usize::from(header.payload_len);
            if input.len() - HEADER_LEN >= length {
                input.advance(HEADER_LEN);
                return Ok(Some(message(header, input.split_to(length))));
            }
        }
        self.assemble(input)
    }

    /// Bytes of an unfinished frame.
    pub fn pending(&self) -> usize {
        self.head_len + self.body.len()
    }

    fn check(&self, head: &[u8; HEADER_LEN]) -> Result<Header, Error> {
        // The length first, as it comes first: the same bytes get the same error in any chunking.
        let [low, high, ..] = head;
        self.check_len([*low, *high])?;
        Header::decode(head)
    }

    fn check_len(&self, prefix: [u8; PREFIX_LEN]) -> Result<(), Error> {
        let length = usize::from(wire::payload_len(u16::from_le_bytes(prefix))?);
        let max = self.max_payload;
        if length > max { Err(Error::PayloadTooLarge { length, max }) } else { Ok(()) }
    }

    fn assemble(&mut self, input: &mut Bytes) -> Result<Option<Message>, Error> {
        let header = match self.header {
            Some(header) => header,
            None => {
                let room = self.head.get_mut(self.head_len..).unwrap_or_default();
                let n = room.len().min(input.len());
                input.split_to(n).copy_to_slice(room.get_mut(..n).unwrap_or_default());
                self.head_len += n;
                if let Some(prefix) = self.head.first_chunk::<PREFIX_LEN>()
                    && self.head_len >= PREFIX_LEN
                {
                    self.check_len(*prefix)?;
                }
                if self.head_len < HEADER_LEN {
                    return Ok(None);
                }
                let header = self.check(&self.head)?;
                self.body = BytesMut::with_capacity(usize::from(header.payload_len));
                *self.header.insert(header)
            }
        };
        let missing = usize::from(header.payload_len) - self.body.len();
        let n = missing.min(input.len());
        self.body.extend_from_slice(&input.split_to(n));
        if n < missing {
            return Ok(None);
        }
        self.head_len = 0;
        self.header = None;
        Ok(Some(message(header, std::mem::take(&mut self.body).freeze())))
    }
}

fn message(header: Header, data: Bytes) -> Message {
    let reply_to = Some(header.reply_to).filter(|id| id.value() != 0);
    Message { id: header.id, reply_to, data }
}
