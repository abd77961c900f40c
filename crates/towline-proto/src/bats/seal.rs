//! Sealing from end to end: what relays carry and mix they can neither read nor alter unnoticed.
//!
//! The ends make a TLS 1.3 handshake (RFC 8446) on the control stream and export keys from it (section 7.5), bound to the flow's parameters.
//! Payload is sealed with AES-128-GCM before it is coded; a nonce is the direction's initialisation vector xor a
//! number that both ends count.

use std::collections::VecDeque;
use std::fmt;

use bytes::{Buf, Bytes, BytesMut};
use ring::aead::{AES_128_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use rustls_pki_types::ServerName;

use crate::tls::{ClientConfig, ServerConfig};

/// Bytes that sealing adds.
pub(crate) const TAG: usize = 16;
/// Most bytes of a stream's record before sealing.
const MAX_RECORD: usize = 16 * 1024;
/// Bytes in front of a record: its sealed length.
const LENGTH: usize = 2;

const LABEL: &[u8] = b"EXPORTER-towline-bats-1";
const KEY: usize = 16;

/// Who this end is, and whom it trusts, for a flow that is sealed from end to end.
#[derive(Clone)]
pub enum Seal {
    /// The client's part: its trust, and the name that the server's certificate must have.
    Client(ClientConfig, ServerName<'static>),
    /// The server's part: its certificate, and perhaps whom it lets in.
    Server(ServerConfig),
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Seal::Client(..) => "Seal::Client",
            Seal::Server(_) => "Seal::Server",
        })
    }
}

/// The handshake as it goes.
pub(crate) struct Handshake {
    connection: rustls::Connection,
    client: bool,
}

impl fmt::Debug for Handshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handshake").finish_non_exhaustive()
    }
}

impl Handshake {
    pub(crate) fn new(seal: &Seal) -> Result<Handshake, rustls::Error> {
        Ok(match seal {
            Seal::Client(config, name) => {
                let connection =
                    rustls::ClientConnection::new(config.rustls.clone(), name.clone())?;
                Handshake { connection: connection.into(), client: true }
            }
            Seal::Server(config) => {
                let connection = rustls::ServerConnection::new(config.rustls.clone())?;
                Handshake { connection: connection.into(), client: false }
            }
        })
    }

    pub(crate) fn handle_input(&mut self, mut data: &[u8]) -> Result<(), rustls::Error> {
        while !data.is_empty() {
            let taken = self.connection.read_tls(&mut data);
            if !taken.is_ok_and(|taken| taken > 0) {
                return Err(rustls::Error::General("the handshake does not end".into()));
            }
            self.connection.process_new_packets()?;
        }
        Ok(())
    }

    /// What the peer should get.
    pub(crate) fn output(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        while self.connection.wants_write() {
            // Writing to a vector does not fail.
            if !self.connection.write_tls(&mut out).is_ok_and(|written| written > 0) {
                break;
            }
        }
        out
    }

    /// The keys, once the handshake is done: to seal with and to open with. `context` is what both ends must agree on.
    pub(crate) fn keys(&self, context: &[u8]) -> Option<(Key, Key)> {
        if self.connection.is_handshaking() {
            return None;
        }
        let material = [0; 2 * (KEY + NONCE_LEN)];
        let material =
            self.connection.export_keying_material(material, LABEL, Some(context)).ok()?;
        let (client, server) = material.split_at(KEY + NONCE_LEN);
        let (own, peer) = if self.client { (client, server) } else { (server, client) };
        Some((Key::new(own)?, Key::new(peer)?))
    }
}

/// The key of one direction.
pub(crate) struct Key {
    key: LessSafeKey,
    vector: [u8; NONCE_LEN],
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").finish_non_exhaustive()
    }
}

impl Key {
    fn new(material: &[u8]) -> Option<Key> {
        let (key, vector) = material.split_at_checked(KEY)?;
        let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, key).ok()?);
        Some(Key { key, vector: vector.try_into().ok()? })
    }

    fn nonce(&self, number: u64) -> Nonce {
        let mut nonce = self.vector;
        nonce.iter_mut().rev().zip(number.to_le_bytes()).for_each(|(n, byte)| *n ^= byte);
        Nonce::assume_unique_for_key(nonce)
    }

    /// Seals `data` in place and appends the tag. Each number may be used once.
    pub(crate) fn seal(
        &self,
        number: u64,
        bound: &[u8],
        data: &mut BytesMut,
        from: usize,
    ) -> Option<()> {
        let plain = data.get_mut(from..)?;
        let sealed =
            self.key.seal_in_place_separate_tag(self.nonce(number), Aad::from(bound), plain);
        data.extend_from_slice(sealed.ok()?.as_ref());
        Some(())
    }

    /// Opens what was sealed under this number; `None` when anything was altered.
    pub(crate) fn open(&self, number: u64, bound: &[u8], mut data: BytesMut) -> Option<Bytes> {
        let plain = self.key.open_in_place(self.nonce(number), Aad::from(bound), &mut data).ok()?;
        let length = plain.len();
        data.truncate(length);
        Some(data.freeze())
    }
}

/// Cuts a stream into records and seals them.
#[derive(Debug)]
pub(crate) struct Sealer {
    key: Key,
    next: u64,
}

impl Sealer {
    pub(crate) fn new(key: Key) -> Sealer {
        Sealer { key, next: 0 }
    }

    /// The records of `data`, one after another.
    pub(crate) fn seal(&mut self, data: &[u8]) -> Option<Bytes> {
        let records = data.len().div_ceil(MAX_RECORD);
        let mut out = BytesMut::with_capacity(data.len() + records * (LENGTH + TAG));
        for plain in data.chunks(MAX_RECORD) {
            let length = ((plain.len() + TAG) as u16).to_be_bytes();
            out.extend_from_slice(&length);
            let from = out.len();
            out.extend_from_slice(plain);
            self.key.seal(self.next, &length, &mut out, from)?;
            self.next += 1;
        }
        Some(out.freeze())
    }
}

/// A record was altered on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Forged;

/// Opens records as they become whole.
#[derive(Debug)]
pub(crate) struct Opener {
    key: Key,
    next: u64,
    /// At most a record that is not whole and what came with its last byte.
    buffer: BytesMut,
    opened: VecDeque<Bytes>,
}

impl Opener {
    pub(crate) fn new(key: Key) -> Opener {
        Opener { key, next: 0, buffer: BytesMut::new(), opened: VecDeque::new() }
    }

    pub(crate) fn poll(&mut self) -> Option<Bytes> {
        self.opened.pop_front()
    }

    pub(crate) fn has_opened(&self) -> bool {
        !self.opened.is_empty()
    }

    pub(crate) fn push(&mut self, data: &[u8]) -> Result<(), Forged> {
        self.buffer.extend_from_slice(data);
        while let Some(&[high, low]) = self.buffer.get(..LENGTH) {
            let bound = [high, low];
            let length = usize::from(u16::from_be_bytes(bound));
            if length <= TAG || length > MAX_RECORD + TAG {
                return Err(Forged);
            }
            if self.buffer.len() < LENGTH + length {
                return Ok(());
            }
            self.buffer.advance(LENGTH);
            let sealed = self.buffer.split_to(length);
            self.opened.push_back(self.key.open(self.next, &bound, sealed).ok_or(Forged)?);
            self.next += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> Key {
        Key::new(&[byte; KEY + NONCE_LEN]).unwrap()
    }

    #[test]
    fn records_open_in_order_and_only_as_they_were_sealed() {
        let data: Vec<u8> = (0..50_000u32).map(|i| i as u8).collect();
        let sealed = Sealer::new(key(7)).seal(&data).unwrap();
        for piece in [1, 17, 1435, 60_000] {
            let (mut opener, mut opened) = (Opener::new(key(7)), Vec::new());
            for chunk in sealed.chunks(piece) {
                opener.push(chunk).unwrap();
                while let Some(plain) = opener.poll() {
                    opened.extend_from_slice(&plain);
                }
            }
            assert_eq!(opened, data);
        }
        for place in [0, 1, 2, 9_000, 16_400, 16_420, sealed.len() - 1] {
            let mut altered = sealed.to_vec();
            altered[place] ^= 1;
            let mut opener = Opener::new(key(7));
            let forged = opener.push(&altered).is_err();
            let mut opened = Vec::new();
            while let Some(plain) = opener.poll() {
                opened.extend_from_slice(&plain);
            }
            assert!(forged || opened.len() < data.len(), "{place}");
            assert!(data.starts_with(&opened), "{place}");
        }
        assert_eq!(Opener::new(key(8)).push(&sealed), Err(Forged));
    }
}
