//! Opens copies of clients' Initial packets (RFC 9000 section 17.2.2), so that the gate sees the ClientHello before the engine does anything with it.

use rustls::quic::{DirectionalKeys, Suite, Version};

use super::VERSION;
use crate::quic::frames::{Frame, scan};

/// The parts of an Initial packet that come before its packet number.
struct Header<'a> {
    dcid: &'a [u8],
    pn_offset: usize,
    /// Where the packet ends in the datagram.
    end: usize,
}

/// Whether a datagram starts with an Initial packet of version 1, and then its destination connection id.
pub(in crate::quic) fn is_initial(datagram: &[u8]) -> Option<&[u8]> {
    parse(datagram).map(|header| header.dcid)
}

fn parse(datagram: &[u8]) -> Option<Header<'_>> {
    let (&first, rest) = datagram.split_first()?;
    // Long header, type Initial; the fixed bit may be greased (RFC 9287).
    if first & 0x80 == 0 || first & 0x30 != 0 {
        return None;
    }
    let (&version, rest) = rest.split_first_chunk::<4>()?;
    if u32::from_be_bytes(version) != VERSION {
        return None;
    }
    let (dcid, rest) = take_u8(rest)?;
    let (_, rest) = take_u8(rest)?;
    let (token_len, rest) = varint(rest)?;
    let (_, rest) = rest.split_at_checked(token_len)?;
    let (len, rest) = varint(rest)?;
    let pn_offset = datagram.len() - rest.len();
    let end = pn_offset.checked_add(len)?;
    (end <= datagram.len()).then_some(Header { dcid, pn_offset, end })
}

fn take_u8(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&len, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(len))
}

fn varint(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let first = *bytes.first()?;
    let (head, rest) = bytes.split_at_checked(1 << (first >> 6))?;
    let value = head
        .iter()
        .skip(1)
        .fold(u64::from(first & 0x3f), |value, &byte| (value << 8) | u64::from(byte));
    Some((usize::try_from(value).ok()?, rest))
}

/// The client's Initial keys of one connection attempt.
pub(in crate::quic) struct InitialOpener(DirectionalKeys);

impl InitialOpener {
    pub(in crate::quic) fn new(suite: &Suite, dcid: &[u8]) -> Self {
        Self(suite.keys(dcid, rustls::Side::Server, Version::V1).remote)
    }

    /// Opens every Initial packet in the datagram and passes on the pieces of the ClientHello in them.
    pub(in crate::quic) fn open(&self, datagram: &mut [u8], mut piece: impl FnMut(u64, &[u8])) {
        let mut rest = datagram;
        while let Some(Header { pn_offset, end, .. }) = parse(rest) {
            let Some((packet, next)) = rest.split_at_mut_checked(end) else { return };
            if let Some(payload) = self.open_packet(packet, pn_offset) {
                scan(payload, |frame| {
                    if let Frame::Crypto { offset, data } = frame {
                        piece(offset, data);
                    }
                });
            }
            rest = next;
        }
    }

    fn open_packet<'a>(&self, packet: &'a mut [u8], pn_offset: usize) -> Option<&'a [u8]> {
        let (head, rest) = packet.split_at_mut_checked(pn_offset.checked_add(4)?)?;
        let sample = rest.get(..self.0.header.sample_len())?;
        let (first, after) = head.split_first_mut()?;
        let number = after.get_mut(pn_offset.checked_sub(1)?..)?;
        self.0.header.decrypt_in_place(sample, first, number).ok()?;
        let pn_len = usize::from(*first & 0x03) + 1;
        // Numbers of a first flight are small, so what is on the wire is all of them.
        let pn = number.get(..pn_len)?.iter().fold(0_u64, |pn, &byte| (pn << 8) | u64::from(byte));
        let (header, payload) = packet.split_at_mut_checked(pn_offset + pn_len)?;
        self.0.packet.decrypt_in_place(pn, header, payload).ok()
    }
}
