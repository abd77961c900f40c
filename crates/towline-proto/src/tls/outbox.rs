//! What waits to be sent.

use super::Error;
use super::error;
use bytes::{Bytes, BytesMut};
use rustls::unbuffered::{EncryptError, InsufficientSizeError};
use std::collections::VecDeque;

/// Where one buffer ends and the next begins: a buffer is held until its last byte is sent.
const PORTION: usize = 256 << 10;

/// Ciphertext to be sent, gathered into few buffers, and which plaintext each byte of it carried.
#[derive(Default)]
pub(super) struct Outbox {
    ready: Vec<Bytes>,
    buffer: BytesMut,
    tracked: bool,
    ciphertext: u64,
    plaintext: u64,
    /// (ciphertext, plaintext) offsets behind each record that carried any.
    marks: VecDeque<(u64, u64)>,
    acked: u64,
}

impl Outbox {
    /// Makes room at once for a batch of so many bytes, or for its first portion.
    pub(super) fn reserve(&mut self, bytes: usize) {
        self.buffer.reserve(bytes.min(PORTION.saturating_sub(self.buffer.len())));
    }

    /// Appends what `write` writes, which carries `plaintext` bytes of data: it is given `room` bytes, and as many as it asks for when they are few.
    pub(super) fn write(
        &mut self,
        room: usize,
        plaintext: usize,
        mut write: impl FnMut(&mut [u8]) -> Result<usize, EncryptError>,
    ) -> Result<(), Error> {
        if !self.buffer.is_empty() && self.buffer.len() + room > PORTION {
            self.ready.push(self.buffer.split().freeze());
            // A batch that needed one whole portion likely needs most of another.
            self.buffer = BytesMut::with_capacity(PORTION);
        }
        let start = self.buffer.len();
        let mut end = start.saturating_add(room);
        loop {
            self.buffer.resize(end, 0);
            let written = write(self.buffer.get_mut(start..).unwrap_or_default());
            match written {
                Ok(written) => {
                    self.buffer.truncate(start.saturating_add(written));
                    break;
                }
                Err(EncryptError::InsufficientSize(InsufficientSizeError { required_size }))
                    if start.saturating_add(required_size) > end =>
                {
                    end = start.saturating_add(required_size);
                }
                Err(error) => {
                    self.buffer.truncate(start);
                    return Err(error::failed(error.to_string()));
                }
            }
        }
        self.ciphertext += (self.buffer.len() - start) as u64;
        self.plaintext += plaintext as u64;
        if self.tracked && plaintext > 0 {
            self.marks.push_back((self.ciphertext, self.plaintext));
        }
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.buffer.is_empty()
    }

    pub(super) fn take(&mut self, out: &mut Vec<Bytes>) -> usize {
        // Nothing is kept back for the next batch: an idle connection has no buffer.
        let last = std::mem::take(&mut self.buffer);
        if !last.is_empty() {
            self.ready.push(last.freeze());
        }
        let bytes = self.ready.iter().map(Bytes::len).sum();
        out.append(&mut self.ready);
        bytes
    }

    pub(super) fn track(&mut self) {
        self.tracked = true;
    }

    pub(super) fn acked(&mut self, ciphertext: u64) -> u64 {
        while let Some((_, plaintext)) = self.marks.pop_front_if(|mark| mark.0 <= ciphertext) {
            self.acked = plaintext;
        }
        self.acked
    }
}
