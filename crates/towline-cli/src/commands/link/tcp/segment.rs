//! What the emulated TCP puts on the link: 24 bytes of header, which with the 28 of a datagram are the 52 of IP and TCP with
//! timestamps (RFC 793, RFC 7323), so that segments count against rate and MTU as real ones do.

use bytes::{BufMut, Bytes, BytesMut};

/// Bytes before the payload.
pub(super) const HEADER: usize = 24;

/// Ranges in one acknowledgement (RFC 2018 section 3: three beside timestamps).
pub(super) const MAX_RANGES: usize = 3;

/// The unit of an advertised window.
const WINDOW_UNIT: u64 = 256;

/// A range of the stream that was received beyond what was received without a gap: first byte, and the one after the last.
pub(super) type Range = (u64, u64);

/// One packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Segment {
    /// Asks for a connection.
    Open,
    /// The target has answered.
    Opened,
    /// The target was not there.
    Refused,
    Data {
        /// Where in the stream it begins.
        offset: u64,
        /// Counts transmissions, so that a second one of the same bytes is told from the first.
        number: u32,
        /// The stream ends behind it.
        last: Option<Ending>,
        data: Bytes,
    },
    Ack(Ack),
}

/// How a stream ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// FIN.
    Orderly,
    /// RST: what was not sent yet never will be.
    Reset,
}

/// What a receiver has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ack {
    /// Everything before it.
    pub(super) next: u64,
    /// How many bytes beyond it may be sent.
    pub(super) window: u64,
    /// The transmission that it answers.
    pub(super) echo: u32,
    /// The latest first.
    pub(super) ranges: Vec<Range>,
}

const OPEN: u8 = 0;
const OPENED: u8 = 1;
const REFUSED: u8 = 2;
const DATA: u8 = 3;
const ACK: u8 = 4;

/// Adds up 16-bit words (RFC 1071): what is corrupted under way is as good as lost, as with the real one.
fn checksum(data: &[u8]) -> u16 {
    let words = data.chunks(2).map(|pair| match *pair {
        [high, low] => u64::from(u16::from_be_bytes([high, low])),
        [high] => u64::from(high) << 8,
        _ => 0,
    });
    let mut sum: u64 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

impl Segment {
    /// `connection` tells it from earlier ones on the same channel.
    pub(super) fn encode(&self, connection: u32) -> Bytes {
        let data: &[u8] = match self {
            Segment::Data { data, .. } => data,
            _ => &[],
        };
        let mut out = BytesMut::with_capacity(HEADER + data.len() + 8 * MAX_RANGES);
        out.put_u32(connection);
        let (kind, flags, first, second, third) = match self {
            Segment::Open => (OPEN, 0, 0, 0, 0),
            Segment::Opened => (OPENED, 0, 0, 0, 0),
            Segment::Refused => (REFUSED, 0, 0, 0, 0),
            Segment::Data { offset, number, last, .. } => {
                let flags = match last {
                    None => 0,
                    Some(Ending::Orderly) => 1,
                    Some(Ending::Reset) => 2,
                };
                (DATA, flags, *offset, *number, 0)
            }
            Segment::Ack(ack) => {
                let window = u32::try_from(ack.window / WINDOW_UNIT).unwrap_or(u32::MAX);
                (ACK, 0, ack.next, ack.echo, window)
            }
        };
        out.put_u8(kind);
        out.put_u8(flags);
        out.put_u16(0);
        out.put_u64(first);
        out.put_u32(second);
        out.put_u32(third);
        if let Segment::Ack(ack) = self {
            for (start, end) in ack.ranges.iter().take(MAX_RANGES) {
                let from = u32::try_from(start.saturating_sub(ack.next)).unwrap_or(u32::MAX);
                let length = u32::try_from(end.saturating_sub(*start)).unwrap_or(u32::MAX);
                out.put_u32(from);
                out.put_u32(length);
            }
        }
        out.extend_from_slice(data);
        let sum = checksum(&out);
        if let Some(place) = out.get_mut(6..8) {
            place.copy_from_slice(&sum.to_be_bytes());
        }
        out.freeze()
    }

    /// The connection's number and the segment; `None` when it was corrupted.
    pub(super) fn decode(packet: &Bytes) -> Option<(u32, Segment)> {
        let (header, rest) = packet.split_first_chunk::<HEADER>()?;
        // With its own complement in it the sum is all ones.
        if checksum(packet) != 0 {
            return None;
        }
        let word = |at: usize| -> Option<u32> {
            let bytes = header.get(at..at + 4)?;
            Some(u32::from_be_bytes(bytes.try_into().ok()?))
        };
        let first = (u64::from(word(8)?) << 32) | u64::from(word(12)?);
        let segment = match header[4] {
            OPEN => Segment::Open,
            OPENED => Segment::Opened,
            REFUSED => Segment::Refused,
            DATA => Segment::Data {
                offset: first,
                number: word(16)?,
                last: match header[5] {
                    0 => None,
                    1 => Some(Ending::Orderly),
                    _ => Some(Ending::Reset),
                },
                data: packet.slice(HEADER..),
            },
            ACK => {
                let range = |bytes: &[u8]| -> Option<Range> {
                    let (from, length) = bytes.split_first_chunk::<4>()?;
                    let from = first.checked_add(u64::from(u32::from_be_bytes(*from)))?;
                    let length = u32::from_be_bytes(length.try_into().ok()?);
                    Some((from, from.checked_add(u64::from(length))?))
                };
                Segment::Ack(Ack {
                    next: first,
                    window: u64::from(word(20)?) * WINDOW_UNIT,
                    echo: word(16)?,
                    ranges: rest.chunks(8).take(MAX_RANGES).filter_map(range).collect(),
                })
            }
            _ => return None,
        };
        Some((word(0)?, segment))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> Vec<Segment> {
        let data = |data: &'static [u8], last| Segment::Data {
            offset: 1 << 40,
            number: 77,
            last,
            data: Bytes::from_static(data),
        };
        vec![
            Segment::Open,
            Segment::Opened,
            Segment::Refused,
            data(b"abc", None),
            data(b"abcd", Some(Ending::Orderly)),
            data(b"", Some(Ending::Reset)),
            Segment::Ack(Ack {
                next: 5000,
                window: 65_536,
                echo: u32::MAX,
                ranges: vec![(7000, 8448), (6000, 6001)],
            }),
        ]
    }

    #[test]
    fn segments_survive_and_have_the_size_of_real_ones() {
        for segment in samples() {
            let packet = segment.encode(9);
            assert_eq!(Segment::decode(&packet), Some((9, segment.clone())), "{segment:?}");
        }
        assert_eq!(Segment::Open.encode(0).len() + 28, 52);
    }

    #[test]
    fn any_flipped_bit_is_noticed() {
        for segment in samples() {
            let packet = segment.encode(3);
            for bit in 0..packet.len() * 8 {
                let mut bad = packet.to_vec();
                bad[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(Segment::decode(&bad.into()), None, "bit {bit} of {segment:?}");
            }
        }
        assert_eq!(Segment::decode(&Bytes::new()), None);
    }
}
