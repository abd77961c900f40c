//! Frames of the control stream: a type, a length, a body.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use towline_code::BatchSize;

use super::flow::{Framing, Mode};
use super::wire::{MAX_CONTROL, MAX_REASON, PacketError, Reader, put_number};
use crate::varint;

/// The version of the format.
pub(crate) const VERSION: u8 = 1;

const OPEN: u64 = 1;
const ACCEPT: u64 = 2;
const CLOSE: u64 = 3;
const SEAL: u64 = 4;

/// What the client lays down for both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Open {
    pub(crate) mode: Mode,
    pub(crate) framing: Framing,
    pub(crate) size: BatchSize,
    pub(crate) interleave: u8,
    pub(crate) hop_feedback: bool,
    pub(crate) sealed: bool,
    /// Payload is packed, so that it may be compressed.
    pub(crate) packed: bool,
    pub(crate) deadline: Duration,
    /// Symbols that the client can take at first.
    pub(crate) window: u64,
}

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    Open(Open),
    /// The server agrees; the symbols that it can take at first.
    Accept {
        window: u64,
    },
    /// The flow ends at once.
    Close {
        code: u64,
        reason: String,
    },
    /// Bytes of the handshake between the ends, which relays pass on.
    Seal(Bytes),
}

impl Frame {
    pub(crate) fn encode(&self, out: &mut BytesMut) {
        let mut body = BytesMut::new();
        let kind = match self {
            Frame::Open(open) => {
                open.encode(&mut body);
                OPEN
            }
            Frame::Accept { window } => {
                body.extend_from_slice(&[VERSION]);
                put_number(*window, &mut body);
                ACCEPT
            }
            Frame::Close { code, reason } => {
                put_number(*code, &mut body);
                let end = reason.floor_char_boundary(MAX_REASON);
                body.extend_from_slice(reason.get(..end).unwrap_or_default().as_bytes());
                CLOSE
            }
            Frame::Seal(data) => {
                body.extend_from_slice(data);
                SEAL
            }
        };
        put_number(kind, out);
        put_number(body.len() as u64, out);
        out.extend_from_slice(&body);
    }

    fn parse(kind: u64, body: &Bytes) -> Result<Option<Frame>, PacketError> {
        let mut reader = Reader(body);
        Ok(Some(match kind {
            OPEN => Frame::Open(Open::parse(reader)?),
            ACCEPT => {
                if reader.byte()? != VERSION {
                    return Err(PacketError::List);
                }
                Frame::Accept { window: reader.number()? }
            }
            CLOSE => {
                let code = reader.number()?;
                let text = reader.rest();
                let text = text.get(..text.len().min(MAX_REASON)).unwrap_or_default();
                Frame::Close { code, reason: String::from_utf8_lossy(text).into_owned() }
            }
            SEAL => Frame::Seal(body.clone()),
            // Types that a later version adds in this range may be passed over.
            64.. => return Ok(None),
            other => return Err(PacketError::UnknownType(other as u8)),
        }))
    }
}

impl Open {
    /// What keys are bound to, so that a relay which alters any of it is found out.
    pub(crate) fn parameters(&self) -> Bytes {
        let mut out = BytesMut::new();
        self.encode(&mut out);
        out.freeze()
    }

    fn encode(&self, out: &mut BytesMut) {
        let flags = u8::from(self.hop_feedback)
            | u8::from(self.framing == Framing::Messages) << 1
            | u8::from(self.sealed) << 2
            | u8::from(self.packed) << 3;
        let columns = self.size.columns() as u8;
        out.extend_from_slice(&[VERSION, self.mode as u8, columns, self.interleave, flags]);
        put_number(self.window, out);
        put_number(self.deadline.as_micros().min(u128::from(varint::MAX)) as u64, out);
    }

    fn parse(mut reader: Reader<'_>) -> Result<Open, PacketError> {
        let (version, mode) = (reader.byte()?, reader.byte()?);
        let mode =
            Mode::from_number(mode).filter(|_| version == VERSION).ok_or(PacketError::List)?;
        let size =
            BatchSize::try_from(usize::from(reader.byte()?)).map_err(|_| PacketError::List)?;
        let (interleave, flags) = (reader.byte()?, reader.byte()?);
        if !(1..=64).contains(&interleave) {
            return Err(PacketError::List);
        }
        Ok(Open {
            mode,
            framing: if flags & 2 != 0 { Framing::Messages } else { Framing::Stream },
            size,
            interleave,
            hop_feedback: flags & 1 != 0,
            sealed: flags & 4 != 0,
            packed: flags & 8 != 0,
            window: reader.number()?,
            deadline: Duration::from_micros(reader.number()?),
        })
    }
}

/// Cuts a control stream into frames.
#[derive(Debug, Default)]
pub(crate) struct FrameReader {
    buffer: BytesMut,
}

impl FrameReader {
    /// Takes bytes. What is not yet a whole frame is kept: at most a frame of [`MAX_CONTROL`] bytes and what came with it.
    pub(crate) fn push(&mut self, data: &[u8]) {
        self.buffer.extend_from_slice(data);
    }

    /// The next whole frame.
    pub(crate) fn poll(&mut self) -> Result<Option<Frame>, PacketError> {
        loop {
            let Some((kind, first)) = varint::read(&self.buffer) else { return Ok(None) };
            let rest = self.buffer.get(first..).unwrap_or_default();
            let Some((length, second)) = varint::read(rest) else { return Ok(None) };
            if length > MAX_CONTROL as u64 {
                return Err(PacketError::List);
            }
            let (head, length) = (first + second, length as usize);
            if self.buffer.len() < head + length {
                return Ok(None);
            }
            self.buffer.advance(head);
            let body = self.buffer.split_to(length).freeze();
            if let Some(frame) = Frame::parse(kind, &body)? {
                return Ok(Some(frame));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn frames() -> Vec<Frame> {
        let open = Open {
            mode: Mode::Brtp,
            framing: Framing::Messages,
            size: BatchSize::M16,
            interleave: 8,
            hop_feedback: true,
            sealed: false,
            packed: true,
            deadline: Duration::from_millis(100),
            window: 131_072,
        };
        vec![
            Frame::Open(open),
            Frame::Accept { window: 4096 },
            Frame::Seal(Bytes::from_static(b"hello")),
            Frame::Close { code: 7, reason: "enough".into() },
        ]
    }

    #[test]
    fn frames_read_as_they_were_written_in_pieces_of_any_size() {
        let mut stream = BytesMut::new();
        frames().iter().for_each(|frame| frame.encode(&mut stream));
        // One of a type that only a later version knows.
        stream.extend_from_slice(&[0x40, 64, 2, 0, 0]);
        frames()[1].encode(&mut stream);
        for piece in 1..stream.len() {
            let (mut reader, mut read) = (FrameReader::default(), Vec::new());
            for chunk in stream.chunks(piece) {
                reader.push(chunk);
                while let Some(frame) = reader.poll().unwrap() {
                    read.push(frame);
                }
            }
            let mut expected = frames();
            expected.push(frames()[1].clone());
            assert_eq!(read, expected);
        }
    }

    #[test]
    fn frames_out_of_bounds_are_refused() {
        for bytes in [&[63u8, 0][..], &[1, 0x80, 1, 0, 0], &[2, 1, 9], &[1, 5, 1, 9, 16, 1, 0]] {
            let mut reader = FrameReader::default();
            reader.push(bytes);
            assert!(reader.poll().is_err(), "{bytes:?}");
        }
    }
}
