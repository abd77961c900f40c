//! From bytes in any chunking to messages.
use super::{Error, Message};
use bytes::{Bytes, BytesMut};

/// Cuts a byte stream into messages.
#[derive(Debug)]
pub struct Decoder {
    partial: BytesMut,
    max_payload: usize,
}
impl Decoder {
    /// A decoder at the start of a stream.
    pub fn new(max_payload: usize) -> Self {
        Self { partial: BytesMut::new(), max_payload }
    }
    /// The next message of `input`, which is advanced past it.
    pub fn decode(&mut self, input: &mut Bytes) -> Result<Option<Message>, Error> {
        let _ = (input, &self.partial, self.max_payload);
        unimplemented!()
    }
    /// Bytes of an unfinished frame.
    pub fn pending(&self) -> usize {
        unimplemented!()
    }
}
