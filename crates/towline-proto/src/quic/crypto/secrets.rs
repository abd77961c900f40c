//! Keys derived from the endpoint's secret: stateless reset, address tokens, tickets, connection ids.

use noq_proto::ConnectionId;
use noq_proto::crypto::{CryptoError, HandshakeTokenKey, HmacKey};
use ring::{aead, hkdf, hmac};

/// HKDF with SHA-256 (RFC 5869) over the endpoint's secret.
pub(in crate::quic) struct Secret(hkdf::Prk);

struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

impl Secret {
    pub(in crate::quic) fn new(secret: &[u8; 32]) -> Self {
        Self(hkdf::Salt::new(hkdf::HKDF_SHA256, b"towline quic endpoint").extract(secret))
    }

    pub(in crate::quic) fn derive<const N: usize>(
        &self,
        purpose: &[u8],
        context: &[u8],
    ) -> [u8; N] {
        let mut out = [0; N];
        // Fails only for outputs of more than 255 hashes.
        if let Ok(okm) = self.0.expand(&[purpose, context], Length(N)) {
            let _ = okm.fill(&mut out);
        }
        out
    }
}

/// HMAC-SHA-256 for stateless reset tokens (RFC 9000 section 10.3.2).
pub(in crate::quic) struct ResetKey(hmac::Key);

impl ResetKey {
    pub(in crate::quic) fn new(secret: &Secret) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, &secret.derive::<32>(b"stateless reset", &[])))
    }
}

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        let tag = hmac::sign(&self.0, data);
        for (out, byte) in signature_out.iter_mut().zip(tag.as_ref()) {
            *out = *byte;
        }
    }

    fn signature_len(&self) -> usize {
        32
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        hmac::verify(&self.0, data, signature).map_err(|_| CryptoError)
    }
}

/// Seals address tokens (RFC 9000 section 8.1.4). Each nonce gets a key of its own, so the AEAD's own nonce can stay zero.
pub(in crate::quic) struct TokenKey(Secret);

impl TokenKey {
    pub(in crate::quic) fn new(secret: &Secret) -> Self {
        Self(Secret::new(&secret.derive::<32>(b"address token", &[])))
    }

    fn key(&self, nonce: u128) -> Result<aead::LessSafeKey, CryptoError> {
        seal_key(&self.0.derive::<32>(b"token", &nonce.to_le_bytes()))
    }
}

pub(super) fn seal_key(bytes: &[u8; 32]) -> Result<aead::LessSafeKey, CryptoError> {
    aead::UnboundKey::new(&aead::AES_256_GCM, bytes)
        .map(aead::LessSafeKey::new)
        .map_err(|_| CryptoError)
}

impl HandshakeTokenKey for TokenKey {
    fn seal(&self, token_nonce: u128, data: &mut Vec<u8>) -> Result<(), CryptoError> {
        let nonce = aead::Nonce::assume_unique_for_key([0; 12]);
        self.key(token_nonce)?
            .seal_in_place_append_tag(nonce, aead::Aad::empty(), data)
            .map_err(|_| CryptoError)
    }

    fn open<'a>(&self, token_nonce: u128, data: &'a mut [u8]) -> Result<&'a [u8], CryptoError> {
        let nonce = aead::Nonce::assume_unique_for_key([0; 12]);
        let opened = self.key(token_nonce)?.open_in_place(nonce, aead::Aad::empty(), data);
        opened.map(|data| &*data).map_err(|_| CryptoError)
    }
}

/// The integrity tag of a Retry packet of version 1 (RFC 9001 section 5.8).
pub(super) fn retry_tag(orig_dst_cid: &ConnectionId, packet: &[u8]) -> Option<[u8; 16]> {
    const KEY: [u8; 16] = [
        0xbe, 0x0c, 0x69, 0x0b, 0x9f, 0x66, 0x57, 0x5a, 0x1d, 0x76, 0x6b, 0x54, 0xe3, 0x68, 0xc8,
        0x4e,
    ];
    const NONCE: [u8; 12] =
        [0x46, 0x15, 0x99, 0xd3, 0x5d, 0x63, 0x2b, 0xf2, 0x23, 0x98, 0x25, 0xbb];
    let mut pseudo = Vec::with_capacity(1 + orig_dst_cid.len() + packet.len());
    pseudo.push(u8::try_from(orig_dst_cid.len()).ok()?);
    pseudo.extend_from_slice(orig_dst_cid);
    pseudo.extend_from_slice(packet);
    let key = aead::LessSafeKey::new(aead::UnboundKey::new(&aead::AES_128_GCM, &KEY).ok()?);
    let nonce = aead::Nonce::assume_unique_for_key(NONCE);
    let tag = key.seal_in_place_separate_tag(nonce, aead::Aad::from(pseudo), &mut []).ok()?;
    tag.as_ref().try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 9001 appendix A.4.
    #[test]
    fn retry_integrity_tag_of_the_rfc() {
        let odcid = ConnectionId::new(&[0x83, 0x94, 0xc8, 0xf0, 0x3e, 0x51, 0x57, 0x08]);
        let packet = [
            0xff, 0, 0, 0, 1, 0, 8, 0xf0, 0x67, 0xa5, 0x50, 0x2a, 0x42, 0x62, 0xb5, b't', b'o',
            b'k', b'e', b'n',
        ];
        let tag = [
            0x04, 0xa2, 0x65, 0xba, 0x2e, 0xff, 0x4d, 0x82, 0x90, 0x58, 0xfb, 0x3f, 0x0f, 0x24,
            0x96, 0xba,
        ];
        assert_eq!(retry_tag(&odcid, &packet), Some(tag));
    }

    #[test]
    fn address_tokens_open_only_with_their_nonce_and_secret() {
        let key = TokenKey::new(&Secret::new(&[7; 32]));
        let mut data = b"an address".to_vec();
        key.seal(99, &mut data).unwrap();
        assert_eq!(key.open(99, &mut data.clone()).unwrap(), b"an address");
        assert!(key.open(98, &mut data.clone()).is_err());
        assert!(TokenKey::new(&Secret::new(&[8; 32])).open(99, &mut data).is_err());
    }
}
