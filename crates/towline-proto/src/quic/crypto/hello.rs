//! The ClientHello (RFC 8446 section 4.1.2), read for the gate before anything is spent on the handshake.

use bytes::Bytes;

use super::hold::message;

/// What the gate shows of a ClientHello.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::quic) struct ClientHello {
    /// The whole message.
    pub(in crate::quic) raw: Bytes,
    /// RFC 6066 section 3, if it is a valid UTF-8 name.
    pub(in crate::quic) server_name: Option<String>,
    /// RFC 7301 section 3.1.
    pub(in crate::quic) alpns: Vec<Bytes>,
    /// The first ticket offered (RFC 8446 section 4.2.11).
    pub(in crate::quic) ticket: Option<Bytes>,
}

const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
const PRE_SHARED_KEY: u16 = 41;

/// Whether a whole ClientHello stands at the start of the bytes; `None` also when it is no ClientHello at all.
pub(in crate::quic) fn parse(bytes: &[u8]) -> Option<ClientHello> {
    let (kind, body, rest) = message(bytes)?;
    if kind != CLIENT_HELLO {
        return None;
    }
    let raw = Bytes::copy_from_slice(bytes.get(..bytes.len() - rest.len())?);
    // A hello whose inside is malformed still reaches the gate, raw; TLS will refuse it.
    let mut hello = fields(body).unwrap_or_default();
    hello.raw = raw;
    Some(hello)
}

/// Whether the bytes can still become a ClientHello of at most `limit` bytes.
pub(in crate::quic) fn may_become(bytes: &[u8], limit: usize) -> bool {
    match bytes {
        [] => true,
        [kind, ..] if *kind != CLIENT_HELLO => false,
        [_, a, b, c, ..] => {
            (u32::from_be_bytes([0, *a, *b, *c]) as usize).saturating_add(4) <= limit
        }
        _ => true,
    }
}

fn fields(body: &[u8]) -> Option<ClientHello> {
    let mut hello = ClientHello::default();
    // Version and random, session id, cipher suites, compression methods.
    let (_, rest) = body.split_at_checked(2 + 32)?;
    let (_, rest) = take_u8(rest)?;
    let (_, rest) = take_u16(rest)?;
    let (_, rest) = take_u8(rest)?;
    let (mut extensions, _) = take_u16(rest)?;
    while !extensions.is_empty() {
        let (&kind, rest) = extensions.split_first_chunk::<2>()?;
        let (data, rest) = take_u16(rest)?;
        extensions = rest;
        match u16::from_be_bytes(kind) {
            SERVER_NAME => hello.server_name = server_name(data),
            ALPN => hello.alpns = alpns(data).unwrap_or_default(),
            PRE_SHARED_KEY => {
                let (identities, _) = take_u16(data)?;
                let (identity, _) = take_u16(identities)?;
                hello.ticket = Some(Bytes::copy_from_slice(identity));
            }
            _ => {}
        }
    }
    Some(hello)
}

fn server_name(data: &[u8]) -> Option<String> {
    let (list, _) = take_u16(data)?;
    let (&kind, rest) = list.split_first()?;
    let (name, _) = take_u16(rest)?;
    (kind == 0).then(|| std::str::from_utf8(name).ok().map(str::to_owned)).flatten()
}

fn alpns(data: &[u8]) -> Option<Vec<Bytes>> {
    let (mut list, _) = take_u16(data)?;
    let mut names = Vec::new();
    while !list.is_empty() {
        let (name, rest) = take_u8(list)?;
        names.push(Bytes::copy_from_slice(name));
        list = rest;
    }
    Some(names)
}

fn take_u8(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&len, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(len))
}

fn take_u16(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&len, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(len)))
}
