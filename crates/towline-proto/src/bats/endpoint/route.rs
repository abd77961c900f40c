//! Where a flow goes: the first message on every hop's control stream.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use bytes::{Buf, Bytes, BytesMut};

use crate::varint;

/// Most nodes that a route names, the target included, and most relays that a flow passes.
pub const MAX_HOPS: usize = 16;
/// The longest name of a host, octets (RFC 1035, section 2.3.4).
pub(super) const MAX_HOST: usize = 255;
/// Most bytes of a route on the wire.
pub const MAX_ROUTE: usize = 8 + MAX_HOPS * (2 + MAX_HOST + 8);

/// The version of the format.
const VERSION: u8 = 1;
/// The type of the message, as of a control frame. The frames of the flow begin at 1.
const ROUTE: u8 = 0;

/// A host and a port: a relay, or the target.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HopAddress {
    host: Box<str>,
    port: u16,
}

impl HopAddress {
    /// An address. `host` is a name or an IP address without brackets.
    ///
    /// # Errors
    /// When the host is empty, too long or has what no host has, or the port is 0.
    pub fn new(host: &str, port: u16) -> Result<HopAddress, RouteError> {
        let written = host.bytes().all(|byte| {
            byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b':' | b'%')
        });
        let v6 = host.contains(':');
        let bad = host.is_empty() || host.len() > MAX_HOST || !written || port == 0;
        if bad || v6 && host.split('%').next().is_none_or(|ip| ip.parse::<IpAddr>().is_err()) {
            return Err(RouteError::Address);
        }
        Ok(HopAddress { host: host.into(), port })
    }

    /// The host, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The socket address, if the host is an IP address and nothing has to be looked up.
    pub fn literal(&self) -> Option<SocketAddr> {
        self.host.parse().ok().map(|ip: IpAddr| SocketAddr::new(ip, self.port))
    }
}

impl From<SocketAddr> for HopAddress {
    /// Of port 0, an address that nothing can connect to.
    fn from(address: SocketAddr) -> HopAddress {
        HopAddress { host: address.ip().to_string().into(), port: address.port() }
    }
}

impl FromStr for HopAddress {
    type Err = RouteError;

    fn from_str(text: &str) -> Result<HopAddress, RouteError> {
        let (host, port) = text.rsplit_once(':').ok_or(RouteError::Address)?;
        let host = match host.strip_prefix('[') {
            Some(host) => host
                .strip_suffix(']')
                .filter(|host| host.contains(':'))
                .ok_or(RouteError::Address)?,
            None if host.contains(':') => return Err(RouteError::Address),
            None => host,
        };
        HopAddress::new(host, port.parse().map_err(|_| RouteError::Address)?)
    }
}

impl fmt::Display for HopAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// Why a route was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RouteError {
    /// No host and port, or out of bounds.
    #[error("an address is host:port, [v6]:port in brackets, with a port from 1 to 65535")]
    Address,
    /// More nodes than [`MAX_HOPS`], behind this one or before it.
    #[error("more than {MAX_HOPS} nodes in a row")]
    TooLong,
    /// None of this version.
    #[error("not a route of version {VERSION}")]
    Format,
}

/// The rest of a flow's path, as the node that receives it sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// Relays that the flow has passed so far, this one not counted.
    pub passed: u8,
    /// The nodes to come, the target last. Empty: the receiver is the target, or knows by itself where to go on.
    pub rest: Vec<HopAddress>,
}

impl Route {
    /// What the next node gets to see: one relay more passed.
    ///
    /// # Errors
    /// [`RouteError::TooLong`] after [`MAX_HOPS`] relays, so that relays that send flows in a circle do not do so for ever.
    pub fn onward(&self, rest: Vec<HopAddress>) -> Result<Route, RouteError> {
        let passed = self.passed.saturating_add(1);
        if usize::from(passed) > MAX_HOPS || rest.len() > MAX_HOPS {
            return Err(RouteError::TooLong);
        }
        Ok(Route { passed, rest })
    }

    /// The message, byte by byte as `docs/bats.md` has it.
    pub fn encode(&self) -> Bytes {
        let mut body = BytesMut::new();
        body.extend_from_slice(&[VERSION, self.passed, self.rest.len() as u8]);
        for address in &self.rest {
            put(address.host.len() as u64, &mut body);
            body.extend_from_slice(address.host.as_bytes());
            body.extend_from_slice(&address.port.to_be_bytes());
        }
        let mut out = BytesMut::new();
        out.extend_from_slice(&[ROUTE]);
        put(body.len() as u64, &mut out);
        out.extend_from_slice(&body);
        out.freeze()
    }

    fn parse(mut body: &[u8]) -> Result<Route, RouteError> {
        let [version, passed, count] = take(&mut body)?;
        if version != VERSION {
            return Err(RouteError::Format);
        }
        if usize::from(count) > MAX_HOPS || usize::from(passed) > MAX_HOPS {
            return Err(RouteError::TooLong);
        }
        let mut rest = Vec::with_capacity(usize::from(count));
        for _ in 0..count {
            let (length, read) = varint::read(body).ok_or(RouteError::Format)?;
            body = body.get(read..).unwrap_or_default();
            let length = usize::try_from(length).map_err(|_| RouteError::Format)?;
            let (host, after) = body.split_at_checked(length).ok_or(RouteError::Format)?;
            body = after;
            let port = u16::from_be_bytes(take(&mut body)?);
            let host = std::str::from_utf8(host).map_err(|_| RouteError::Address)?;
            rest.push(HopAddress::new(host, port)?);
        }
        // What a later version adds behind is passed over.
        Ok(Route { passed, rest })
    }
}

fn put(value: u64, out: &mut BytesMut) {
    let mut buf = [0; varint::MAX_LEN];
    let end = varint::write(value, &mut buf);
    out.extend_from_slice(buf.get(..end).unwrap_or_default());
}

fn take<const N: usize>(body: &mut &[u8]) -> Result<[u8; N], RouteError> {
    let (head, rest) = body.split_first_chunk::<N>().ok_or(RouteError::Format)?;
    *body = rest;
    Ok(*head)
}

/// Reads the route from the front of a control stream.
#[derive(Debug, Default)]
pub struct RouteReader {
    buffer: BytesMut,
}

impl RouteReader {
    /// Takes bytes of the stream. When the route is whole, it is given together with what came behind it, which is the flow's.
    ///
    /// # Errors
    /// When the stream does not begin with a route. At most [`MAX_ROUTE`] bytes are ever kept.
    pub fn push(&mut self, data: &[u8]) -> Result<Option<(Route, Bytes)>, RouteError> {
        self.buffer.extend_from_slice(data);
        match self.buffer.first() {
            None => return Ok(None),
            Some(&ROUTE) => {}
            Some(_) => return Err(RouteError::Format),
        }
        let head = self.buffer.get(1..).unwrap_or_default();
        let Some((length, read)) = varint::read(head) else { return Ok(None) };
        let length = usize::try_from(length).ok().filter(|&length| length <= MAX_ROUTE);
        let length = length.ok_or(RouteError::TooLong)?;
        if self.buffer.len() < 1 + read + length {
            return Ok(None);
        }
        self.buffer.advance(1 + read);
        let body = self.buffer.split_to(length);
        Ok(Some((Route::parse(&body)?, self.buffer.split().freeze())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route() -> Route {
        let rest = ["relay.example:7000", "[2001:db8::1]:7001"].map(|text| text.parse().unwrap());
        Route { passed: 1, rest: rest.to_vec() }
    }

    #[test]
    fn the_vector_of_the_document() {
        let hex: String = route().encode().iter().map(|byte| format!("{byte:02x}")).collect();
        let vector = "00210101020d72656c61792e6578616d706c651b580b323030313a6462383a3a311b59";
        assert_eq!(hex, vector);
        let direct = Route::default().encode();
        assert_eq!(direct[..], [0, 3, 1, 0, 0]);
    }

    #[test]
    fn routes_read_as_they_were_written_in_pieces_of_any_size() {
        let mut stream = route().encode().to_vec();
        let length = stream.len();
        stream.extend_from_slice(b"what follows");
        for piece in 1..=stream.len() {
            let mut reader = RouteReader::default();
            let mut chunks = stream.chunks(piece);
            let (read, rest) = loop {
                if let Some(whole) = reader.push(chunks.next().unwrap()).unwrap() {
                    break whole;
                }
            };
            assert_eq!(read, route());
            let left: Vec<u8> = rest.iter().copied().chain(chunks.flatten().copied()).collect();
            assert_eq!(left, b"what follows", "{length} {piece}");
        }
    }

    #[test]
    fn what_is_out_of_bounds_is_refused() {
        let many = [&[0, 3, 1, 0, 17][..], &[0, 3, 1, 17, 0], &[0, 0x80, 0xff, 0xff, 0xff]];
        for bytes in many {
            assert_eq!(RouteReader::default().push(bytes), Err(RouteError::TooLong), "{bytes:?}");
        }
        for bytes in [
            &[1u8][..],
            &[0, 3, 2, 0, 0],
            &[0, 2, 1, 0],
            &[0, 4, 1, 0, 1, 5],
            &[0, 4, 1, 0, 1, 0xff],
            &[0, 6, 1, 0, 1, 1, b'a', 0],
        ] {
            assert_eq!(RouteReader::default().push(bytes), Err(RouteError::Format), "{bytes:?}");
        }
        for bytes in [&[0, 7, 1, 0, 1, 1, b'a', 0, 0][..], &[0, 7, 1, 0, 1, 1, b' ', 0, 1]] {
            assert_eq!(RouteReader::default().push(bytes), Err(RouteError::Address), "{bytes:?}");
        }
        let far = Route { passed: MAX_HOPS as u8, rest: Vec::new() };
        assert_eq!(far.onward(Vec::new()), Err(RouteError::TooLong));
    }

    #[test]
    fn addresses_are_hosts_and_ports() {
        for text in ["relay:1", "10.0.0.1:65535", "[::1]:7000", "a-b.c_d:80"] {
            assert_eq!(text.parse::<HopAddress>().unwrap().to_string(), text);
        }
        for text in ["relay", ":1", "relay:0", "relay:65536", "::1:7000", "[x]:1", "a b:1", "a/b:1"]
        {
            assert_eq!(text.parse::<HopAddress>(), Err(RouteError::Address), "{text}");
        }
        let literal: HopAddress = "[::1]:7000".parse().unwrap();
        assert_eq!(literal.literal(), Some("[::1]:7000".parse().unwrap()));
        assert_eq!(HopAddress::new("relay", 1).unwrap().literal(), None);
    }
}
