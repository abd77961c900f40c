//! Packet keys as the engine wants them, each with the look into the clear that its place needs.

use std::sync::Arc;

use bytes::BytesMut;
use noq_proto::PathId;
use noq_proto::crypto::{CryptoError, HeaderKey, KeyPair, Keys, PacketKey};
use rustls::quic;

use super::Hold;
use crate::quic::frames::without_padding;
use crate::quic::observe::Observed;

/// Who looks at packets that this key opens or seals.
pub(super) enum Watch {
    /// Nobody.
    None,
    /// Sent packets, for the datagrams in them.
    Sent(Arc<Observed>),
    /// Received 1-RTT packets, for the peer's limits.
    Received(Arc<Observed>),
    /// Received 0-RTT packets, for how much came early.
    ReceivedEarly(Arc<Observed>),
    /// Received handshake packets, which stay outside while a certificate is being judged.
    Handshake(Arc<Hold>),
}

struct SealedKey {
    inner: Box<dyn quic::PacketKey>,
    watch: Watch,
}

impl PacketKey for SealedKey {
    fn encrypt(&self, _: PathId, packet: u64, buf: &mut [u8], header_len: usize) {
        let tag_len = self.inner.tag_len();
        let Some((header, rest)) = buf.split_at_mut_checked(header_len) else { return };
        let Some((payload, tag)) =
            rest.len().checked_sub(tag_len).and_then(|at| rest.split_at_mut_checked(at))
        else {
            return;
        };
        if let Watch::Sent(observed) = &self.watch {
            observed.on_written(packet, payload);
        }
        // Sealing fails only when the packet is larger than the AEAD takes, which a datagram never is; the packet then goes out without its tag and is dropped by the peer.
        if let Ok(sealed) = self.inner.encrypt_in_place(packet, header, payload) {
            tag.copy_from_slice(sealed.as_ref());
        }
    }

    fn decrypt(
        &self,
        _: PathId,
        packet: u64,
        header: &[u8],
        payload: &mut BytesMut,
    ) -> Result<(), CryptoError> {
        let len =
            self.inner.decrypt_in_place(packet, header, payload).map_err(|_| CryptoError)?.len();
        payload.truncate(len);
        let len = match &self.watch {
            Watch::None | Watch::Sent(_) => without_padding(payload),
            Watch::Received(observed) => observed.on_received(payload),
            Watch::ReceivedEarly(observed) => observed.on_received_early(payload),
            Watch::Handshake(hold) => {
                if hold.keeps_out(payload) {
                    return Err(CryptoError);
                }
                without_padding(payload)
            }
        };
        // The engine takes padding byte by byte, as so many frames: it gets one, which stands for all.
        payload.truncate(len);
        Ok(())
    }

    fn tag_len(&self) -> usize {
        self.inner.tag_len()
    }

    fn confidentiality_limit(&self) -> u64 {
        self.inner.confidentiality_limit()
    }

    fn integrity_limit(&self) -> u64 {
        self.inner.integrity_limit()
    }
}

/// No protection at all: 1-RTT packets when both ends gave it up.
struct PlainKey {
    watch: Watch,
}

impl PacketKey for PlainKey {
    fn encrypt(&self, _: PathId, packet: u64, buf: &mut [u8], header_len: usize) {
        if let (Watch::Sent(observed), Some(payload)) = (&self.watch, buf.get(header_len..)) {
            observed.on_written(packet, payload);
        }
    }

    fn decrypt(
        &self,
        _: PathId,
        _: u64,
        _: &[u8],
        payload: &mut BytesMut,
    ) -> Result<(), CryptoError> {
        if let Watch::Received(observed) = &self.watch {
            observed.on_received(payload);
        }
        Ok(())
    }

    fn tag_len(&self) -> usize {
        0
    }

    fn confidentiality_limit(&self) -> u64 {
        u64::MAX
    }

    fn integrity_limit(&self) -> u64 {
        u64::MAX
    }
}

struct PlainHeaderKey;

impl HeaderKey for PlainHeaderKey {
    fn decrypt(&self, _: usize, _: &mut [u8]) {}

    fn encrypt(&self, _: usize, _: &mut [u8]) {}

    fn sample_size(&self) -> usize {
        0
    }
}

struct MaskedHeaderKey(Box<dyn quic::HeaderProtectionKey>);

impl MaskedHeaderKey {
    /// The parts that header protection works on (RFC 9001 section 5.4.2): the first byte, up to four bytes of packet number, and the sample.
    fn parts<'a>(
        &self,
        pn_offset: usize,
        packet: &'a mut [u8],
    ) -> Option<(&'a mut u8, &'a mut [u8], &'a [u8])> {
        let (header, rest) = packet.split_at_mut_checked(pn_offset.checked_add(4)?)?;
        let sample = rest.get(..self.0.sample_len())?;
        let (first, after) = header.split_first_mut()?;
        let number = after.get_mut(pn_offset.checked_sub(1)?..)?;
        Some((first, number, sample))
    }
}

impl HeaderKey for MaskedHeaderKey {
    fn decrypt(&self, pn_offset: usize, packet: &mut [u8]) {
        if let Some((first, number, sample)) = self.parts(pn_offset, packet) {
            // Fails only for a sample of the wrong length, which `parts` excludes.
            let _ = self.0.decrypt_in_place(sample, first, number);
        }
    }

    fn encrypt(&self, pn_offset: usize, packet: &mut [u8]) {
        if let Some((first, number, sample)) = self.parts(pn_offset, packet) {
            let _ = self.0.encrypt_in_place(sample, first, number);
        }
    }

    fn sample_size(&self) -> usize {
        self.0.sample_len()
    }
}

pub(super) fn header_key(key: Box<dyn quic::HeaderProtectionKey>) -> Box<dyn HeaderKey> {
    Box::new(MaskedHeaderKey(key))
}

pub(super) fn packet_key(inner: Box<dyn quic::PacketKey>, watch: Watch) -> Box<dyn PacketKey> {
    Box::new(SealedKey { inner, watch })
}

pub(super) fn all(keys: quic::Keys, local: Watch, remote: Watch) -> Keys {
    Keys {
        header: KeyPair {
            local: header_key(keys.local.header),
            remote: header_key(keys.remote.header),
        },
        packet: KeyPair {
            local: packet_key(keys.local.packet, local),
            remote: packet_key(keys.remote.packet, remote),
        },
    }
}

pub(super) fn plain(local: Watch, remote: Watch) -> Keys {
    Keys {
        header: KeyPair { local: Box::new(PlainHeaderKey), remote: Box::new(PlainHeaderKey) },
        packet: plain_packet_keys(local, remote),
    }
}

pub(super) fn plain_packet_keys(local: Watch, remote: Watch) -> KeyPair<Box<dyn PacketKey>> {
    KeyPair {
        local: Box::new(PlainKey { watch: local }),
        remote: Box::new(PlainKey { watch: remote }),
    }
}
