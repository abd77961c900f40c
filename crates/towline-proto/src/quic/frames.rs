//! A look at the frames of a decrypted packet (RFC 9000 section 19), for the facts that the engine does not tell.
//!
//! Nothing here decides whether a packet is legal; the engine does. A frame that is not known, or not whole, ends the look.

/// What of a packet's frames somebody here cares about.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame<'a> {
    /// A piece of the handshake (section 19.6).
    Crypto { offset: u64, data: &'a [u8] },
    /// A piece of a stream (section 19.8), without its bytes.
    Stream { id: u64, end: u64 },
    /// A new limit on our streams (section 19.11).
    MaxStreams { bidirectional: bool, limit: u64 },
    /// The peer would open more streams (section 19.14).
    StreamsBlocked { bidirectional: bool, limit: u64 },
    /// A datagram of this length (RFC 9221 section 4).
    Datagram { len: usize },
}

/// Reads from the front of a packet; every step is checked.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// A variable-length integer (RFC 9000 section 16).
    fn varint(&mut self) -> Option<u64> {
        let (&first, _) = self.0.split_first()?;
        let len = 1_usize << (first >> 6);
        let bytes = self.take(len)?;
        let mut value = u64::from(first & 0x3f);
        for &byte in bytes.get(1..)? {
            value = (value << 8) | u64::from(byte);
        }
        Some(value)
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(len)?;
        self.0 = tail;
        Some(head)
    }

    fn take_prefixed(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.varint()?).ok()?;
        self.take(len)
    }

    fn skip_varints(&mut self, count: usize) -> Option<()> {
        for _ in 0..count {
            self.varint()?;
        }
        Some(())
    }
}

/// Calls `found` for each frame of interest, in their order, and returns how long the payload is without the padding at its end, of which one byte counts as the
/// frame that it is.
pub(super) fn scan<'a>(payload: &'a [u8], mut found: impl FnMut(Frame<'a>)) -> usize {
    let mut reader = Reader(payload);
    let mut last = payload;
    while !reader.0.is_empty() {
        last = reader.0;
        if step(&mut reader, &mut found).is_none() {
            return payload.len();
        }
    }
    let padding = if last.first() == Some(&PADDING) { last.len().saturating_sub(1) } else { 0 };
    payload.len().saturating_sub(padding)
}

/// The same for a packet in which nothing is of interest; a look at its end spares most packets the rest.
pub(super) fn without_padding(payload: &[u8]) -> usize {
    if payload.ends_with(&[PADDING; 16]) { scan(payload, |_| {}) } else { payload.len() }
}

const PADDING: u8 = 0;

fn step<'a>(reader: &mut Reader<'a>, found: &mut impl FnMut(Frame<'a>)) -> Option<()> {
    match reader.varint()? {
        // PADDING: runs of it are common, so they are skipped at once.
        0x00 => {
            let padding = reader.0.iter().take_while(|&&byte| byte == 0).count();
            reader.take(padding)?;
        }
        // PING, IMMEDIATE_ACK, HANDSHAKE_DONE
        0x01 | 0x1f | 0x1e => {}
        kind @ (0x02 | 0x03) => ack(reader, kind == 0x03)?,
        // RESET_STREAM
        0x04 => reader.skip_varints(3)?,
        // STOP_SENDING, MAX_STREAM_DATA, STREAM_DATA_BLOCKED
        0x05 | 0x11 | 0x15 => reader.skip_varints(2)?,
        0x06 => {
            let offset = reader.varint()?;
            found(Frame::Crypto { offset, data: reader.take_prefixed()? });
        }
        // NEW_TOKEN
        0x07 => {
            reader.take_prefixed()?;
        }
        kind @ 0x08..=0x0f => stream(reader, kind, found)?,
        // MAX_DATA, DATA_BLOCKED, RETIRE_CONNECTION_ID
        0x10 | 0x14 | 0x19 => reader.skip_varints(1)?,
        kind @ (0x16 | 0x17) => {
            found(Frame::StreamsBlocked { bidirectional: kind == 0x16, limit: reader.varint()? })
        }
        kind @ (0x12 | 0x13) => {
            found(Frame::MaxStreams { bidirectional: kind == 0x12, limit: reader.varint()? })
        }
        // NEW_CONNECTION_ID
        0x18 => {
            reader.skip_varints(2)?;
            let len = usize::from(*reader.take(1)?.first()?);
            reader.take(len)?;
            reader.take(16)?;
        }
        // PATH_CHALLENGE, PATH_RESPONSE
        0x1a | 0x1b => {
            reader.take(8)?;
        }
        0x30 => {
            let len = reader.0.len();
            reader.take(len)?;
            found(Frame::Datagram { len });
        }
        0x31 => found(Frame::Datagram { len: reader.take_prefixed()?.len() }),
        // ACK_FREQUENCY (draft-ietf-quic-ack-frequency)
        0xaf => reader.skip_varints(4)?,
        _ => return None,
    }
    Some(())
}

/// ACK (section 19.3).
fn ack(reader: &mut Reader<'_>, ecn: bool) -> Option<()> {
    reader.skip_varints(2)?;
    let ranges = usize::try_from(reader.varint()?).ok()?;
    reader.varint()?;
    // Each range is two integers of a byte or more, so the packet's end bounds the loop.
    for _ in 0..ranges {
        reader.skip_varints(2)?;
    }
    reader.skip_varints(if ecn { 3 } else { 0 })
}

/// STREAM (section 19.8): the type's bits say which fields are there.
fn stream<'a>(reader: &mut Reader<'a>, kind: u64, found: &mut impl FnMut(Frame<'a>)) -> Option<()> {
    let id = reader.varint()?;
    let offset = if kind & 0x04 != 0 { reader.varint()? } else { 0 };
    let len = if kind & 0x02 != 0 {
        reader.take_prefixed()?.len()
    } else {
        let len = reader.0.len();
        reader.take(len)?;
        len
    };
    found(Frame::Stream { id, end: offset.saturating_add(len as u64) });
    Some(())
}

/// Puts pieces of a CRYPTO stream together, up to a limit.
#[derive(Debug, Default)]
pub(super) struct CryptoStream {
    bytes: Vec<u8>,
    /// Disjoint ranges that are filled, ascending.
    filled: Vec<(usize, usize)>,
}

impl CryptoStream {
    /// Ranges kept at most: a handshake message is not cut into more.
    const MAX_RANGES: usize = 64;

    /// Takes a piece; pieces that end beyond `limit` are ignored. Returns whether it was taken.
    pub(super) fn insert(&mut self, offset: u64, data: &[u8], limit: usize) -> bool {
        let Ok(start) = usize::try_from(offset) else { return false };
        let Some(end) = start.checked_add(data.len()).filter(|&end| end <= limit) else {
            return false;
        };
        if self.filled.len() >= Self::MAX_RANGES {
            return false;
        }
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        if let Some(place) = self.bytes.get_mut(start..end) {
            place.copy_from_slice(data);
        }
        self.filled.push((start, end));
        self.filled.sort_unstable();
        self.filled.dedup_by(|next, last| {
            let joins = next.0 <= last.1;
            if joins {
                last.1 = last.1.max(next.1);
            }
            joins
        });
        true
    }

    /// What is whole from the start on.
    pub(super) fn contiguous(&self) -> &[u8] {
        match self.filled.first() {
            Some(&(0, end)) => self.bytes.get(..end).unwrap_or_default(),
            _ => &[],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(payload: &[u8]) -> Vec<Frame<'_>> {
        let mut frames = Vec::new();
        scan(payload, |frame| frames.push(frame));
        frames
    }

    #[test]
    fn finds_the_frames_of_interest_behind_others() {
        // ACK with one more range and ECN counts, MAX_STREAMS, STREAM with offset and length, PADDING, DATAGRAM to the end.
        let mut payload = vec![0x03, 0x40, 0x50, 0x01, 0x01, 0x02, 0x00, 0x01, 0x01, 0x00, 0x02];
        payload.extend([
            0x12, 0x40, 0x64, 0x0e, 0x04, 0x07, 0x03, b'a', b'b', b'c', 0x00, 0x00, 0x00, 0x30, 1,
            2,
        ]);
        assert_eq!(
            all(&payload),
            [
                Frame::MaxStreams { bidirectional: true, limit: 100 },
                Frame::Stream { id: 4, end: 10 },
                Frame::Datagram { len: 2 }
            ]
        );
    }

    #[test]
    fn the_padding_at_the_end_is_found_and_nothing_that_looks_like_it() {
        let padded = |front: &[u8], zeros: usize| [front, &vec![0; zeros]].concat();
        assert_eq!(without_padding(&padded(&[0x01], 1_200)), 2, "PING and one byte of padding");
        assert_eq!(without_padding(&padded(&[], 100)), 1);
        // CRYPTO of two bytes.
        assert_eq!(without_padding(&padded(&[0x06, 0x00, 0x02, 7, 7], 50)), 6);
        // A stream and a datagram to the packet's end, whose bytes are zeros; a length that reaches beyond the end; a frame nobody knows.
        for front in [&[0x08, 0x00][..], &[0x30], &[0x06, 0x00, 0x40, 0xff], &[0x21]] {
            let whole = padded(front, 100);
            assert_eq!(without_padding(&whole), whole.len(), "{front:?}");
        }
        assert_eq!(without_padding(&[]), 0);
    }

    #[test]
    fn any_bytes_end_without_panic() {
        let mut state = 0x1234_5678_9abc_def0_u64;
        for round in 0..20_000_u32 {
            let mut bytes = [0_u8; 48];
            for byte in &mut bytes {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                *byte = (state >> 56) as u8 & if round % 2 == 0 { 0x3f } else { 0xff };
            }
            assert!(scan(&bytes, |_| {}) <= bytes.len());
        }
    }

    #[test]
    fn crypto_pieces_join_in_any_order_and_with_overlap() {
        let mut stream = CryptoStream::default();
        assert!(stream.insert(5, b"fghij", 64));
        assert!(stream.contiguous().is_empty());
        assert!(stream.insert(0, b"abc", 64));
        assert_eq!(stream.contiguous(), b"abc");
        assert!(stream.insert(2, b"cdef", 64));
        assert_eq!(stream.contiguous(), b"abcdefghij");
        assert!(!stream.insert(60, b"12345", 64), "beyond the limit");
    }
}
