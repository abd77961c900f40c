//! Transport parameters (RFC 9000 section 18) as bytes: what the engine writes, changed where an option asks for it, and what it reads but does not show.

use bytes::BufMut;
use noq_proto::transport_parameters::TransportParameters;

const INITIAL_MAX_STREAMS_BIDI: u64 = 0x08;
const INITIAL_MAX_STREAMS_UNI: u64 = 0x09;
const DISABLE_ACTIVE_MIGRATION: u64 = 0x0c;
const MAX_DATAGRAM_FRAME_SIZE: u64 = 0x20;
/// Both ends sending it agree on 1-RTT packets without encryption; MsQuic's code point.
const DISABLE_1RTT_ENCRYPTION: u64 = 0xbaad;

/// What to change in our own parameters.
#[derive(Clone, Copy, Debug)]
pub(super) struct Changes {
    pub(super) disable_1rtt_encryption: bool,
    pub(super) datagram_receive: bool,
}

/// The peer's parameters, as far as the engine keeps them to itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::quic) struct PeerParams {
    /// By direction.
    pub(in crate::quic) max_streams: [u64; 2],
    pub(in crate::quic) disable_active_migration: bool,
    pub(in crate::quic) disable_1rtt_encryption: bool,
}

impl PeerParams {
    pub(super) fn read(bytes: &[u8]) -> Self {
        let mut params = Self::default();
        for (id, value) in Iter(bytes) {
            match id {
                INITIAL_MAX_STREAMS_BIDI => {
                    params.max_streams[0] = whole_varint(value).unwrap_or(0)
                }
                INITIAL_MAX_STREAMS_UNI => params.max_streams[1] = whole_varint(value).unwrap_or(0),
                DISABLE_ACTIVE_MIGRATION => params.disable_active_migration = true,
                DISABLE_1RTT_ENCRYPTION => params.disable_1rtt_encryption = true,
                _ => {}
            }
        }
        params
    }
}

/// Our parameters as they go into the handshake.
pub(super) fn write(params: &TransportParameters, changes: Changes) -> Vec<u8> {
    let mut written = Vec::with_capacity(256);
    params.write(&mut written);
    let mut out = Vec::with_capacity(written.len() + 8);
    for (id, value) in Iter(&written) {
        if id == MAX_DATAGRAM_FRAME_SIZE && !changes.datagram_receive {
            continue;
        }
        put_varint(&mut out, id);
        put_varint(&mut out, value.len() as u64);
        out.extend_from_slice(value);
    }
    if changes.disable_1rtt_encryption {
        put_varint(&mut out, DISABLE_1RTT_ENCRYPTION);
        put_varint(&mut out, 0);
    }
    out
}

struct Iter<'a>(&'a [u8]);

impl<'a> Iterator for Iter<'a> {
    type Item = (u64, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (id, rest) = varint(self.0)?;
        let (len, rest) = varint(rest)?;
        let (value, rest) = rest.split_at_checked(usize::try_from(len).ok()?)?;
        self.0 = rest;
        Some((id, value))
    }
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let first = *bytes.first()?;
    let (head, rest) = bytes.split_at_checked(1 << (first >> 6))?;
    let value = head
        .iter()
        .skip(1)
        .fold(u64::from(first & 0x3f), |value, &byte| (value << 8) | u64::from(byte));
    Some((value, rest))
}

fn whole_varint(bytes: &[u8]) -> Option<u64> {
    varint(bytes).filter(|(_, rest)| rest.is_empty()).map(|(value, _)| value)
}

fn put_varint(out: &mut Vec<u8>, value: u64) {
    match value {
        0..=0x3f => out.put_u8(value as u8),
        0x40..=0x3fff => out.put_u16(0x4000 | value as u16),
        0x4000..=0x3fff_ffff => out.put_u32(0x8000_0000 | value as u32),
        _ => out.put_u64(0xc000_0000_0000_0000 | value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_engine_keeps_to_itself() {
        // initial_max_streams_bidi = 100, an unknown one, disable_active_migration, 0xbaad.
        let bytes =
            [0x08, 0x02, 0x40, 0x64, 0x1b, 0x01, 0xff, 0x0c, 0x00, 0x80, 0x00, 0xba, 0xad, 0x00];
        let params = PeerParams::read(&bytes);
        let expected = PeerParams {
            max_streams: [100, 0],
            disable_active_migration: true,
            disable_1rtt_encryption: true,
        };
        assert_eq!(params, expected);
    }

    #[test]
    fn stops_at_what_is_not_whole() {
        assert_eq!(PeerParams::read(&[0x08, 0x02, 0x40]), PeerParams::default());
        assert_eq!(PeerParams::read(&[0xff]), PeerParams::default());
    }
}
