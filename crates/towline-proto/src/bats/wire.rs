//! Packets of a hop and frames of its control stream, byte by byte as `docs/bats.md` has them. Every parser is total.

use bytes::{Buf, Bytes, BytesMut};

use crate::varint;

/// Most columns in a batch that the format carries.
pub const MAX_COLUMNS: usize = 64;
/// Bytes before the symbol of an unmixed packet.
pub const SOURCE_HEADER: usize = 4;
/// Bytes before the coefficients of a mixed packet.
pub const MIXED_HEADER: usize = 5;
/// Most deficits in one report.
pub const MAX_DEFICITS: usize = 512;
/// Most generations in the list of a [`Done`].
pub const MAX_WHOLE: usize = 64;
/// Most bytes in the body of a control frame.
pub const MAX_CONTROL: usize = 16 * 1024;
/// Most bytes in the reason of a Close.
pub const MAX_REASON: usize = 256;

/// Numbers travel with their low 28 bits.
const NUMBER_BITS: u32 = 28;
const NUMBER_MASK: u64 = (1 << NUMBER_BITS) - 1;

const SOURCE: u8 = 0;
const MIXED: u8 = 1;
const REPORT: u8 = 2;
const CREDIT: u8 = 3;
const PART: u8 = 4;
const DONE: u8 = 5;
/// Bit 4 of the first byte of source and mixed packets.
const AGAIN: u8 = 0x10;

/// Restores a number from its low 28 bits: the one nearest to `expected`.
pub fn expand(low: u32, expected: u64) -> u64 {
    let low = u64::from(low) & NUMBER_MASK;
    let half = 1 << (NUMBER_BITS - 1);
    let candidate = (expected & !NUMBER_MASK) | low;
    if candidate + half < expected {
        candidate + (1 << NUMBER_BITS)
    } else if candidate > expected + half && candidate > NUMBER_MASK {
        candidate - (1 << NUMBER_BITS)
    } else {
        candidate
    }
}

/// Why a packet was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PacketError {
    /// The packet ends within its header, or has no symbol.
    #[error("packet too short")]
    TooShort,
    /// The type is none that this version knows.
    #[error("unknown packet type {0}")]
    UnknownType(u8),
    /// No coefficients, or more than 64.
    #[error("{0} coefficients")]
    Coefficients(usize),
    /// A list is longer than its bound, or a number runs over.
    #[error("list out of bounds")]
    List,
}

/// A packet from the neighbour, its symbol a slice of what was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// One symbol as its source made it.
    Source {
        /// Low 28 bits of the symbol's number.
        number: u32,
        /// Asked for again by the receiver: relays pass it on though they had it.
        again: bool,
        /// The symbol.
        symbol: Bytes,
    },
    /// A combination of the columns of one batch.
    Mixed(Mixed),
    /// What the receiver at the far end has; relays pass it on.
    Report(Report),
    /// What the neighbour can take.
    Credit(Credit),
    /// A piece of a packet that did not fit the hop.
    Part(Part),
    /// What a receiver of BRCTP has whole; relays pass it on.
    Done(Done),
}

/// A combination of the columns of one batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mixed {
    /// Low 28 bits of the batch's number.
    pub batch: u32,
    /// Answers what the receiver asked for: relays pass it on in any case.
    pub again: bool,
    /// One for each column from the first on; those left out are zero.
    pub coefficients: Bytes,
    /// The symbol.
    pub symbol: Bytes,
}

/// What the receiver has, end to end. A later one replaces an earlier one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Counts the reports of this receiver.
    pub serial: u64,
    /// Every symbol before this one has arrived.
    pub next: u64,
    /// The first symbol that may not be sent yet.
    pub limit: u64,
    /// The number after the largest one seen.
    pub end: u64,
    /// Batches that lack something, in order: number and how many more combinations they want.
    pub deficits: Vec<(u64, u8)>,
}

/// What the neighbour can take. A later one replaces an earlier one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Credit {
    /// Counts the credits of this neighbour.
    pub serial: u64,
    /// The first symbol that may not be sent on this hop yet.
    pub limit: u64,
    /// The longest packet that fits the rest of the path, bytes.
    pub max_packet: u64,
}

/// Which generations a receiver of BRCTP has whole. A later one replaces an earlier one of the same receiver.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Counts what this receiver says.
    pub serial: u64,
    /// Tells receivers of one flow apart.
    pub receiver: u32,
    /// Every generation before this one is whole.
    pub next: u64,
    /// The first generation that may not be sent yet.
    pub limit: u64,
    /// Others that are whole, ascending, at most 64.
    pub whole: Vec<u64>,
}

/// A piece of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Names the packet on this hop.
    pub packet: u16,
    /// Which piece, from 0.
    pub index: u8,
    /// How many there are, 2 to 4.
    pub count: u8,
    /// The bytes.
    pub data: Bytes,
}

impl Packet {
    /// Reads a packet.
    ///
    /// # Errors
    ///
    /// When it is none of this version.
    pub fn parse(mut data: Bytes) -> Result<Packet, PacketError> {
        let first = *data.first().ok_or(PacketError::TooShort)?;
        match first >> 5 {
            SOURCE => {
                let number = number(&mut data)?;
                if data.is_empty() {
                    return Err(PacketError::TooShort);
                }
                Ok(Packet::Source { number, again: first & AGAIN != 0, symbol: data })
            }
            MIXED => {
                let batch = number(&mut data)?;
                let count = usize::from(data.try_get_u8().map_err(|_| PacketError::TooShort)?);
                if count == 0 || count > MAX_COLUMNS {
                    return Err(PacketError::Coefficients(count));
                }
                if data.len() <= count {
                    return Err(PacketError::TooShort);
                }
                let coefficients = data.split_to(count);
                let again = first & AGAIN != 0;
                Ok(Packet::Mixed(Mixed { batch, again, coefficients, symbol: data }))
            }
            REPORT => Report::parse(&data).map(Packet::Report),
            CREDIT => Credit::parse(&data).map(Packet::Credit),
            PART => Part::parse(data).map(Packet::Part),
            DONE => Done::parse(&data).map(Packet::Done),
            other => Err(PacketError::UnknownType(other)),
        }
    }
}

fn number(data: &mut Bytes) -> Result<u32, PacketError> {
    let word = data.try_get_u32().map_err(|_| PacketError::TooShort)?;
    Ok(word & NUMBER_MASK as u32)
}

fn head(kind: u8, again: bool, number: u64) -> [u8; 4] {
    let flag = if again { u32::from(AGAIN) << 24 } else { 0 };
    ((u32::from(kind) << 29) | flag | (number & NUMBER_MASK) as u32).to_be_bytes()
}

/// The header of an unmixed packet.
pub fn source_header(number: u64, again: bool) -> [u8; SOURCE_HEADER] {
    head(SOURCE, again, number)
}

/// Appends header and coefficients of a mixed packet; zeros at the end of the coefficients are left out. The symbol follows.
pub fn put_mixed_header(batch: u64, again: bool, coefficients: &[u8], out: &mut BytesMut) {
    let used = coefficients.iter().rposition(|&c| c != 0).map_or(1, |last| last + 1);
    out.extend_from_slice(&head(MIXED, again, batch));
    out.extend_from_slice(&[used.min(MAX_COLUMNS) as u8]);
    out.extend_from_slice(coefficients.get(..used).unwrap_or(coefficients));
}

/// The same packet, marked as asked for again; `None` when it carries no symbol.
pub fn mark_again(packet: &[u8]) -> Option<Bytes> {
    let mut copy = BytesMut::from(packet);
    let first = copy.first_mut().filter(|first| **first >> 5 <= MIXED)?;
    *first |= AGAIN;
    Some(copy.freeze())
}

impl Report {
    fn parse(data: &[u8]) -> Result<Report, PacketError> {
        let mut reader = Reader(data.get(1..).unwrap_or_default());
        let (serial, next) = (reader.number()?, reader.number()?);
        let (limit, ahead) = (reader.number()?, reader.number()?);
        let (mut report, mut batch) = (
            Report {
                serial,
                next,
                limit: next.saturating_add(limit),
                end: next.saturating_add(ahead),
                deficits: Vec::new(),
            },
            0u64,
        );
        while !reader.0.is_empty() {
            if report.deficits.len() == MAX_DEFICITS {
                return Err(PacketError::List);
            }
            batch = batch.checked_add(reader.number()?).ok_or(PacketError::List)?;
            let deficit = u8::try_from(reader.number()?).map_err(|_| PacketError::List)?;
            report.deficits.push((batch, deficit));
        }
        Ok(report)
    }

    /// Writes the report, with as many deficits as fit `room` bytes.
    pub fn encode(&self, room: usize) -> Bytes {
        let mut out = BytesMut::with_capacity(64);
        out.extend_from_slice(&[REPORT << 5]);
        put_number(self.serial, &mut out);
        put_number(self.next, &mut out);
        put_number(self.limit.saturating_sub(self.next), &mut out);
        put_number(self.end.saturating_sub(self.next), &mut out);
        let mut last = 0;
        for &(batch, deficit) in self.deficits.iter().take(MAX_DEFICITS) {
            let delta = batch.saturating_sub(last);
            if out.len() + varint::len(delta) + varint::len(u64::from(deficit)) > room {
                break;
            }
            put_number(delta, &mut out);
            put_number(u64::from(deficit), &mut out);
            last = batch;
        }
        out.freeze()
    }
}

impl Credit {
    fn parse(data: &[u8]) -> Result<Credit, PacketError> {
        let mut reader = Reader(data.get(1..).unwrap_or_default());
        let (serial, limit, max_packet) = (reader.number()?, reader.number()?, reader.number()?);
        Ok(Credit { serial, limit, max_packet })
    }

    /// Writes the credit.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(25);
        out.extend_from_slice(&[CREDIT << 5]);
        put_number(self.serial, &mut out);
        put_number(self.limit, &mut out);
        put_number(self.max_packet, &mut out);
        out.freeze()
    }
}

impl Done {
    fn parse(data: &[u8]) -> Result<Done, PacketError> {
        let mut reader = Reader(data.get(1..).unwrap_or_default());
        let serial = reader.number()?;
        let receiver = u32::try_from(reader.number()?).map_err(|_| PacketError::List)?;
        let (next, ahead) = (reader.number()?, reader.number()?);
        let limit = next.saturating_add(ahead);
        let mut done = Done { serial, receiver, next, limit, whole: Vec::new() };
        let mut last = next;
        while !reader.0.is_empty() {
            if done.whole.len() == MAX_WHOLE {
                return Err(PacketError::List);
            }
            last = last.checked_add(reader.number()?).ok_or(PacketError::List)?;
            done.whole.push(last);
        }
        Ok(done)
    }

    /// Writes it.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(32);
        out.extend_from_slice(&[DONE << 5]);
        put_number(self.serial, &mut out);
        put_number(self.receiver.into(), &mut out);
        put_number(self.next, &mut out);
        put_number(self.limit.saturating_sub(self.next), &mut out);
        let mut last = self.next;
        for &generation in self.whole.iter().take(MAX_WHOLE) {
            put_number(generation.saturating_sub(last), &mut out);
            last = generation;
        }
        out.freeze()
    }
}

impl Part {
    /// Bytes before the data.
    pub const HEADER: usize = 4;
    /// Most pieces of a packet.
    pub const MAX_COUNT: u8 = 4;

    fn parse(mut data: Bytes) -> Result<Part, PacketError> {
        if data.len() <= Part::HEADER {
            return Err(PacketError::TooShort);
        }
        let head = data.split_to(Part::HEADER);
        let [_, high, low, place] = *head else { return Err(PacketError::TooShort) };
        let (index, count) = (place >> 4, place & 0x0f);
        if !(2..=Part::MAX_COUNT).contains(&count) || index >= count {
            return Err(PacketError::List);
        }
        Ok(Part { packet: u16::from_be_bytes([high, low]), index, count, data })
    }

    /// Writes the piece.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(Part::HEADER + self.data.len());
        let [high, low] = self.packet.to_be_bytes();
        out.extend_from_slice(&[PART << 5, high, low, self.index << 4 | self.count]);
        out.extend_from_slice(&self.data);
        out.freeze()
    }
}

/// Appends a variable-length integer; values above 2^62 - 1 are written as that.
pub(crate) fn put_number(value: u64, out: &mut BytesMut) {
    let mut buffer = [0; varint::MAX_LEN];
    let length = varint::write(value.min(varint::MAX), &mut buffer);
    out.extend_from_slice(buffer.get(..length).unwrap_or_default());
}

/// Takes numbers and slices from the front.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn number(&mut self) -> Result<u64, PacketError> {
        let (value, length) = varint::read(self.0).ok_or(PacketError::TooShort)?;
        self.0 = self.0.get(length..).unwrap_or_default();
        Ok(value)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, PacketError> {
        let (&first, rest) = self.0.split_first().ok_or(PacketError::TooShort)?;
        self.0 = rest;
        Ok(first)
    }

    pub(crate) fn rest(self) -> &'a [u8] {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_restored_from_their_low_bits() {
        for expected in [0u64, 1, 1 << 27, (1 << 28) - 1, 1 << 28, (5 << 28) + 17, 1 << 50] {
            for offset in [-(1i64 << 26), -1000, -1, 0, 1, 1000, 1 << 26] {
                let Some(number) = expected.checked_add_signed(offset) else { continue };
                assert_eq!(
                    expand((number & NUMBER_MASK) as u32, expected),
                    number,
                    "{expected} {offset}"
                );
            }
        }
    }

    #[test]
    fn packets_read_as_they_were_written() {
        let mut data = BytesMut::from(&source_header(0x1234_5678_9abc, false)[..]);
        data.extend_from_slice(b"symbol");
        let packet = Packet::parse(data.clone().freeze());
        let symbol = Bytes::from_static(b"symbol");
        let number = 0x0678_9abc;
        assert_eq!(packet, Ok(Packet::Source { number, again: false, symbol: symbol.clone() }));
        let again = Packet::parse(mark_again(&data).unwrap());
        assert_eq!(again, Ok(Packet::Source { number, again: true, symbol: symbol.clone() }));

        let mut data = BytesMut::new();
        put_mixed_header(77, false, &[0, 3, 9, 0, 0, 0, 0, 0], &mut data);
        data.extend_from_slice(b"symbol");
        let coefficients = Bytes::from_static(&[0, 3, 9]);
        let mixed = Packet::Mixed(Mixed { batch: 77, again: false, coefficients, symbol });
        assert_eq!(Packet::parse(data.freeze()), Ok(mixed));

        let report = Report {
            serial: 9,
            next: 1000,
            limit: 5000,
            end: 1400,
            deficits: vec![(62, 3), (63, 1), (90, 16)],
        };
        assert_eq!(Packet::parse(report.encode(1200)), Ok(Packet::Report(report.clone())));
        let Ok(Packet::Report(cut)) = Packet::parse(report.encode(11)) else { panic!("a report") };
        assert_eq!(cut.deficits, report.deficits[..1]);

        let credit = Credit { serial: 3, limit: 4096, max_packet: 1400 };
        assert_eq!(Packet::parse(credit.encode()), Ok(Packet::Credit(credit)));
        let part = Part { packet: 513, index: 1, count: 2, data: Bytes::from_static(b"end") };
        assert_eq!(Packet::parse(part.encode()), Ok(Packet::Part(part)));
        let done = Done { serial: 2, receiver: 7, next: 5, limit: 21, whole: vec![6, 9, 10] };
        assert_eq!(Packet::parse(done.encode()), Ok(Packet::Done(done)));
    }

    #[test]
    fn packets_cut_anywhere_are_refused_or_read() {
        let mut data = BytesMut::new();
        put_mixed_header(77, true, &[1; 8], &mut data);
        assert_eq!(Packet::parse(data.clone().freeze()), Err(PacketError::TooShort));
        for end in 0..data.len() {
            assert!(Packet::parse(data.clone().freeze().slice(..end)).is_err());
        }
        assert_eq!(Packet::parse(Bytes::from_static(&[0; 4])), Err(PacketError::TooShort));
        assert_eq!(Packet::parse(Bytes::from_static(&[0xe0])), Err(PacketError::UnknownType(7)));
    }
}
