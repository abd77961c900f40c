//! Messages on a byte stream: a variable-length integer (RFC 9000, section 16) with the length, then the bytes.

use bytes::{Buf, Bytes, BytesMut};

use super::sealing::{Sealing, Source};
use crate::varint;

/// The length in front of a message.
pub(super) fn header(length: usize) -> Bytes {
    let mut out = [0; varint::MAX_LEN];
    let end = varint::write(length as u64, &mut out);
    Bytes::copy_from_slice(out.get(..end).unwrap_or_default())
}

/// Why there is no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// A message exceeds the limit.
    TooLarge,
    /// What came was altered on the way.
    Forged,
    /// What came is not packed as it should be.
    Packed,
}

/// Puts messages together, one at a time: what is not asked for stays in the receiver and its window.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    header: BytesMut,
    /// Bytes that the message still lacks.
    missing: Option<usize>,
    /// Its bytes so far, when they come in more than one piece.
    partial: BytesMut,
    /// What was read beyond it.
    rest: Bytes,
    whole: Option<Bytes>,
}

impl Assembly {
    pub(super) fn has_message(&self) -> bool {
        self.whole.is_some()
    }

    pub(super) fn take(&mut self) -> Option<Bytes> {
        self.whole.take()
    }

    /// Reads on until a message is whole.
    pub(super) fn advance(
        &mut self,
        receiver: &mut dyn Source,
        sealing: &mut Sealing,
        max_message: usize,
    ) -> Result<(), Broken> {
        while self.whole.is_none() {
            if self.rest.is_empty() {
                let Some(bytes) = sealing.read(receiver).map_err(|_| Broken::Forged)? else {
                    // An empty message has nothing to wait for.
                    self.complete();
                    return Ok(());
                };
                self.rest = bytes;
            }
            if self.missing.is_none() && !self.read_header(max_message)? {
                continue;
            }
            self.complete();
        }
        Ok(())
    }

    /// Whether the header is whole.
    fn read_header(&mut self, max_message: usize) -> Result<bool, Broken> {
        while !self.rest.is_empty() {
            self.header.extend_from_slice(&self.rest.split_to(1));
            if let Some((length, _)) = varint::read(&self.header) {
                let length = usize::try_from(length).ok().filter(|&length| length <= max_message);
                self.missing = Some(length.ok_or(Broken::TooLarge)?);
                self.header.clear();
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn complete(&mut self) {
        let Some(missing) = self.missing else { return };
        let part = missing.min(self.rest.len());
        if part == missing && self.partial.is_empty() {
            self.whole = Some(self.rest.split_to(part));
            self.missing = None;
            return;
        }
        self.partial.extend_from_slice(self.rest.chunk().get(..part).unwrap_or_default());
        self.rest.advance(part);
        self.missing = Some(missing - part);
        if part == missing {
            self.missing = None;
            self.whole = Some(self.partial.split().freeze());
        }
    }
}
