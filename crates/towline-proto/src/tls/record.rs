//! The TLS 1.3 record layer after the handshake (RFC 8446 section 5), with the provider's own AEADs.
//!
//! rustls does the handshake, keeps the secrets and the tickets, and hands out the traffic keys (`rustls::kernel`). Its own record layer
//! copies every received record out of the buffer that it was decrypted in, and every sent one twice; this one decrypts in place and
//! hands out slices, and encrypts into the buffer that goes to the socket.

use super::Error;
use super::error::{self, alert_received};
use bytes::{Buf, Bytes, BytesMut};
use rustls::client::ClientConnectionData;
use rustls::crypto::cipher::{
    InboundOpaqueMessage, MessageDecrypter, MessageEncrypter, OutboundChunks, OutboundPlainMessage,
};
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;
use rustls::{
    AlertDescription, ConnectionTrafficSecrets, ContentType, ExtractedSecrets, HandshakeType,
    ProtocolVersion, SupportedCipherSuite, Tls13CipherSuite,
};
use std::collections::VecDeque;

/// Type, version and length before each record (section 5.1).
pub(super) const HEADER_LEN: usize = 5;
/// Largest plaintext of a record (section 5.1).
pub(super) const MAX_PLAINTEXT: usize = 1 << 14;
/// Largest encrypted record (section 5.2).
const MAX_CIPHERTEXT: usize = MAX_PLAINTEXT + 256;
/// Records without content in a row before the peer is taken to waste our time; section 5.4 allows them, without bound.
const MAX_EMPTY_RECORDS: u8 = 32;
/// Type and length before each handshake message (section 4).
const HANDSHAKE_HEADER_LEN: usize = 4;
/// Largest post-handshake message: a ticket (section 4.6.1), at most this with its fields.
const MAX_POST_HANDSHAKE: usize = 1 << 17;
/// Chunks of one sealing that are gathered without an allocation.
const GATHERED: usize = 16;

/// The length of the record at the front of `bytes`, header included, once its header is there.
pub(super) fn record_len(bytes: &[u8]) -> Option<usize> {
    let [_, _, _, high, low] = bytes.first_chunk::<HEADER_LEN>()?;
    Some(HEADER_LEN + usize::from(u16::from_be_bytes([*high, *low])))
}

/// The secrets' keeper after the handshake.
enum Keeper {
    Client(Box<KernelConnection<ClientConnectionData>>),
    Server(Box<KernelConnection<ServerConnectionData>>),
}

impl Keeper {
    fn next_tx(&mut self) -> Result<(u64, ConnectionTrafficSecrets), rustls::Error> {
        match self {
            Self::Client(kernel) => kernel.update_tx_secret(),
            Self::Server(kernel) => kernel.update_tx_secret(),
        }
    }

    fn next_rx(&mut self) -> Result<(u64, ConnectionTrafficSecrets), rustls::Error> {
        match self {
            Self::Client(kernel) => kernel.update_rx_secret(),
            Self::Server(kernel) => kernel.update_rx_secret(),
        }
    }
}

/// What one record was.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received {
    More,
    Closed,
}

/// Both directions of a connection whose handshake is done.
pub(super) struct Records {
    keeper: Keeper,
    suite: &'static Tls13CipherSuite,
    encrypter: Box<dyn MessageEncrypter>,
    tx_seq: u64,
    /// Records under one key before it is updated (section 5.5).
    tx_limit: u64,
    decrypter: Box<dyn MessageDecrypter>,
    rx_seq: u64,
    /// The begun record, as far as it has come.
    partial: BytesMut,
    /// The begun post-handshake message, as far as it has come.
    message: Vec<u8>,
    empty_records: u8,
    /// The peer asked for our next key; answered before the next record, once however often it asked (section 4.6.3).
    update_requested: bool,
}

impl Records {
    pub(super) fn client(
        secrets: ExtractedSecrets,
        kernel: KernelConnection<ClientConnectionData>,
    ) -> Result<Self, Error> {
        let suite = kernel.negotiated_cipher_suite();
        Self::new(secrets, suite, Keeper::Client(Box::new(kernel)))
    }

    pub(super) fn server(
        secrets: ExtractedSecrets,
        kernel: KernelConnection<ServerConnectionData>,
    ) -> Result<Self, Error> {
        let suite = kernel.negotiated_cipher_suite();
        Self::new(secrets, suite, Keeper::Server(Box::new(kernel)))
    }

    fn new(
        secrets: ExtractedSecrets,
        suite: SupportedCipherSuite,
        keeper: Keeper,
    ) -> Result<Self, Error> {
        let SupportedCipherSuite::Tls13(suite) = suite else {
            return Err(error::failed("not a TLS 1.3 cipher suite"));
        };
        let (tx_seq, tx) = secrets.tx;
        let (rx_seq, rx) = secrets.rx;
        let mut encrypter = encrypter(suite, tx)?;
        if tx_seq > 0 {
            // aws-lc takes the first nonce that it sees for that of record 0, and refuses those that then seem to run backwards. So it is
            // shown that one; what it makes of it never leaves this line.
            let nothing = OutboundPlainMessage {
                typ: ContentType::ApplicationData,
                version: ProtocolVersion::TLSv1_3,
                payload: OutboundChunks::new_empty(),
            };
            encrypter.encrypt(nothing, 0).map_err(|error| error::from_records(&error))?;
        }
        Ok(Self {
            keeper,
            suite,
            encrypter,
            tx_seq,
            tx_limit: suite.common.confidentiality_limit,
            decrypter: decrypter(suite, rx)?,
            rx_seq,
            partial: BytesMut::new(),
            message: Vec::new(),
            empty_records: 0,
            update_requested: false,
        })
    }

    /// Whether a key update waits to be sent.
    pub(super) fn wants_write(&self) -> bool {
        self.update_requested
    }

    #[cfg(test)]
    pub(super) fn set_tx_limit(&mut self, limit: u64) {
        self.tx_limit = limit;
    }

    /// Decrypts every whole record of `input`, in place, and keeps the begun one. Stops behind the peer's `close_notify`.
    pub(super) fn open(
        &mut self,
        mut input: BytesMut,
        out: &mut Vec<Bytes>,
    ) -> Result<Received, Error> {
        while !input.is_empty() {
            let record = if self.partial.is_empty() {
                match checked_len(&input)? {
                    Some(length) if length <= input.len() => input.split_to(length),
                    length => {
                        // Copied, so that a few bytes do not hold a whole receive buffer.
                        self.partial.reserve(length.unwrap_or(HEADER_LEN));
                        self.partial.extend_from_slice(&input);
                        return Ok(Received::More);
                    }
                }
            } else {
                let length = checked_len(&self.partial)?.unwrap_or(HEADER_LEN);
                let n = length.saturating_sub(self.partial.len()).min(input.len());
                self.partial.reserve(length.saturating_sub(self.partial.len()));
                self.partial.extend_from_slice(&input.split_to(n));
                match checked_len(&self.partial)? {
                    Some(length) if length <= self.partial.len() => {
                        std::mem::take(&mut self.partial)
                    }
                    _ => continue,
                }
            };
            if self.record(record, out)? == Received::Closed {
                return Ok(Received::Closed);
            }
        }
        Ok(Received::More)
    }

    fn record(&mut self, mut record: BytesMut, out: &mut Vec<Bytes>) -> Result<Received, Error> {
        // After the handshake every record is encrypted and looks like application data (section 5.2); a change_cipher_spec is an error too (section 5).
        if record.first() != Some(&u8::from(ContentType::ApplicationData)) {
            return Err(error::misbehaved("it sent an unencrypted record after the handshake"));
        }
        record.advance(HEADER_LEN);
        let (start, end) = (record.as_ptr() as usize, record.len());
        let opaque = InboundOpaqueMessage::new(
            ContentType::ApplicationData,
            ProtocolVersion::TLSv1_2,
            &mut record,
        );
        let plain = self
            .decrypter
            .decrypt(opaque, self.rx_seq)
            .map_err(|error| error::from_records(&error))?;
        self.rx_seq = self
            .rx_seq
            .checked_add(1)
            .ok_or_else(|| error::failed("too many records under one key"))?;
        if plain.payload.len() > MAX_PLAINTEXT {
            return Err(error::misbehaved("it sent a record over the limit"));
        }
        if plain.typ != ContentType::Handshake && !self.message.is_empty() {
            // Section 5.1: handshake messages are not interleaved with other records.
            return Err(error::misbehaved("it interrupted a handshake message"));
        }
        match plain.typ {
            ContentType::ApplicationData if plain.payload.is_empty() => {
                self.empty_records += 1;
                if self.empty_records >= MAX_EMPTY_RECORDS {
                    return Err(error::misbehaved("it sent too many empty records"));
                }
            }
            ContentType::ApplicationData => {
                self.empty_records = 0;
                let (at, length) = (plain.payload.as_ptr() as usize, plain.payload.len());
                match at.checked_sub(start).and_then(|from| Some(from..from.checked_add(length)?)) {
                    Some(range) if range.end <= end => out.push(record.freeze().slice(range)),
                    // A provider that decrypts elsewhere.
                    _ => out.push(Bytes::copy_from_slice(plain.payload)),
                }
            }
            ContentType::Alert => return alert(plain.payload),
            ContentType::Handshake => {
                if plain.payload.is_empty() {
                    return Err(error::misbehaved("it sent an empty handshake record"));
                }
                self.message.extend_from_slice(plain.payload);
                self.messages()?;
            }
            _ => return Err(error::misbehaved("it sent a record of an unknown type")),
        }
        Ok(Received::More)
    }

    /// Every whole post-handshake message (section 4.6).
    fn messages(&mut self) -> Result<(), Error> {
        let mut buffer = std::mem::take(&mut self.message);
        let mut rest = buffer.as_slice();
        while let Some(([kind, a, b, c], behind)) = rest.split_first_chunk::<HANDSHAKE_HEADER_LEN>()
        {
            let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
            if length > MAX_POST_HANDSHAKE {
                return Err(Error::HandshakeTooLarge { max: MAX_POST_HANDSHAKE });
            }
            let Some((body, behind)) = behind.split_at_checked(length) else { break };
            rest = behind;
            self.message(HandshakeType::from(*kind), body, rest.is_empty())?;
        }
        let used = buffer.len() - rest.len();
        buffer.drain(..used);
        self.message = buffer;
        Ok(())
    }

    fn message(&mut self, kind: HandshakeType, body: &[u8], last: bool) -> Result<(), Error> {
        match (kind, &mut self.keeper) {
            (HandshakeType::NewSessionTicket, Keeper::Client(kernel)) => {
                kernel.handle_new_session_ticket(body).map_err(|error| error::from_records(&error))
            }
            (HandshakeType::KeyUpdate, keeper) => {
                // Section 5.1: the key changes with the message, so nothing may follow it in its record.
                let requested = match body {
                    [0] if last => false,
                    [1] if last => true,
                    _ => return Err(error::misbehaved("it sent a malformed key update")),
                };
                let (seq, secret) =
                    keeper.next_rx().map_err(|error| error::from_records(&error))?;
                self.decrypter = decrypter(self.suite, secret)?;
                self.rx_seq = seq;
                self.update_requested |= requested;
                Ok(())
            }
            _ => Err(error::misbehaved(
                "it sent a handshake message that has no place after the handshake",
            )),
        }
    }

    /// Encrypts `plaintext` as one run of bytes.
    pub(super) fn seal(&mut self, plaintext: &[Bytes], out: &mut Outbox) -> Result<(), Error> {
        let mut few: [&[u8]; GATHERED] = [&[]; GATHERED];
        let many: Vec<&[u8]>;
        let slices = match few.get_mut(..plaintext.len()) {
            Some(few) => {
                for (slice, bytes) in few.iter_mut().zip(plaintext) {
                    *slice = bytes;
                }
                &*few
            }
            None => {
                many = plaintext.iter().map(|bytes| &bytes[..]).collect();
                &many
            }
        };
        let mut rest = OutboundChunks::new(slices);
        while !rest.is_empty() {
            let (payload, behind) = rest.split_at(MAX_PLAINTEXT);
            rest = behind;
            self.flush_updates(out)?;
            let length = payload.len();
            self.encrypt(ContentType::ApplicationData, payload, length, out)?;
        }
        Ok(())
    }

    /// Sends the key update that is due, if any.
    pub(super) fn flush_updates(&mut self, out: &mut Outbox) -> Result<(), Error> {
        if self.update_requested || self.tx_seq >= self.tx_limit {
            self.update_requested = false;
            self.update_key(false, out)?;
        }
        Ok(())
    }

    /// Moves on to the next key, telling the peer, and asking for the same if `request` (section 4.6.3).
    pub(super) fn update_key(&mut self, request: bool, out: &mut Outbox) -> Result<(), Error> {
        let message = [u8::from(HandshakeType::KeyUpdate), 0, 0, 1, u8::from(request)];
        self.encrypt(ContentType::Handshake, message[..].into(), 0, out)?;
        let (seq, secret) = self.keeper.next_tx().map_err(|error| error::from_records(&error))?;
        self.encrypter = encrypter(self.suite, secret)?;
        self.tx_seq = seq;
        Ok(())
    }

    pub(super) fn alert(
        &mut self,
        description: AlertDescription,
        out: &mut Outbox,
    ) -> Result<(), Error> {
        const WARNING: u8 = 1;
        const FATAL: u8 = 2;
        let level = if description == AlertDescription::CloseNotify { WARNING } else { FATAL };
        self.encrypt(ContentType::Alert, [level, u8::from(description)][..].into(), 0, out)
    }

    pub(super) fn encrypt(
        &mut self,
        typ: ContentType,
        payload: OutboundChunks<'_>,
        plaintext: usize,
        out: &mut Outbox,
    ) -> Result<(), Error> {
        let message = OutboundPlainMessage { typ, version: ProtocolVersion::TLSv1_3, payload };
        let record = self
            .encrypter
            .encrypt(message, self.tx_seq)
            .map_err(|error| error::from_records(&error))?;
        self.tx_seq = self
            .tx_seq
            .checked_add(1)
            .ok_or_else(|| error::failed("too many records under one key"))?;
        out.push(record.encode().into(), plaintext);
        Ok(())
    }
}

fn checked_len(bytes: &[u8]) -> Result<Option<usize>, Error> {
    match record_len(bytes) {
        Some(length) if length > HEADER_LEN + MAX_CIPHERTEXT => {
            Err(error::misbehaved("it sent a record over the limit"))
        }
        length => Ok(length),
    }
}

fn alert(payload: &[u8]) -> Result<Received, Error> {
    let [_, description] = payload else {
        return Err(error::misbehaved("it sent a malformed alert"));
    };
    match AlertDescription::from(*description) {
        AlertDescription::CloseNotify => Ok(Received::Closed),
        // Section 6.1: followed by a close_notify.
        AlertDescription::UserCanceled => Ok(Received::More),
        description => Err(alert_received(description)),
    }
}

fn encrypter(
    suite: &Tls13CipherSuite,
    secrets: ConnectionTrafficSecrets,
) -> Result<Box<dyn MessageEncrypter>, Error> {
    match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv }
        | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
        | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => {
            Ok(suite.aead_alg.encrypter(key, iv))
        }
        _ => Err(error::failed("the provider's cipher is unknown here")),
    }
}

fn decrypter(
    suite: &Tls13CipherSuite,
    secrets: ConnectionTrafficSecrets,
) -> Result<Box<dyn MessageDecrypter>, Error> {
    match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv }
        | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
        | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => {
            Ok(suite.aead_alg.decrypter(key, iv))
        }
        _ => Err(error::failed("the provider's cipher is unknown here")),
    }
}

/// Ciphertext to be sent, and which plaintext each byte of it carried.
#[derive(Default)]
pub(super) struct Outbox {
    ready: Vec<Bytes>,
    tracked: bool,
    ciphertext: u64,
    plaintext: u64,
    /// (ciphertext, plaintext) offsets behind each record that carried any.
    marks: VecDeque<(u64, u64)>,
    acked: u64,
}

impl Outbox {
    pub(super) fn push(&mut self, ciphertext: Bytes, plaintext: usize) {
        self.ciphertext += ciphertext.len() as u64;
        self.plaintext += plaintext as u64;
        if self.tracked && plaintext > 0 {
            self.marks.push_back((self.ciphertext, self.plaintext));
        }
        self.ready.push(ciphertext);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ready.is_empty()
    }

    pub(super) fn take(&mut self, out: &mut Vec<Bytes>) -> usize {
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
