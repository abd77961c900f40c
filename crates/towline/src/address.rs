//! Addresses: a URL whose scheme picks the wire.

use std::fmt;
use std::str::FromStr;

use crate::error::AddressError;

/// What carries the messages, picked by an address's scheme.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Wire {
    /// `tcp://`: a Towline session over TCP.
    Tcp,
    /// `tls://`: a Towline session over TLS 1.3 over TCP.
    Tls,
    /// `ftcp://`: ftcp's own bytes over TCP, for peers that speak ftcp.
    Ftcp,
    /// `ftcps://`: ftcp's own bytes over TLS.
    Ftcps,
}

impl Wire {
    /// Every wire that this library knows, in the order in which messages about them list them.
    pub const ALL: [Wire; 4] = [Wire::Tcp, Wire::Tls, Wire::Ftcp, Wire::Ftcps];

    /// The scheme in front of `://`.
    pub const fn scheme(self) -> &'static str {
        match self {
            Wire::Tcp => "tcp",
            Wire::Tls => "tls",
            Wire::Ftcp => "ftcp",
            Wire::Ftcps => "ftcps",
        }
    }

    /// Whether the bytes on this wire are encrypted and the peer is authenticated.
    pub const fn is_encrypted(self) -> bool {
        matches!(self, Wire::Tls | Wire::Ftcps)
    }

    /// Whether this wire carries a Towline session (acknowledged, resumed after a loss).
    pub const fn has_session(self) -> bool {
        matches!(self, Wire::Tcp | Wire::Tls)
    }

    fn from_scheme(scheme: &str) -> Option<Wire> {
        Wire::ALL.into_iter().find(|wire| wire.scheme().eq_ignore_ascii_case(scheme))
    }
}

impl fmt::Display for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.scheme())
    }
}

/// A parsed address, such as `tcp://example.org:7000` or `tls://[::1]:7000`.
///
/// A port is always needed: none of these wires has a registered one. Port 0 is for listening and
/// means "any free port"; [`Listener::local_address`](crate::Listener::local_address) tells which.
///
/// ```
/// use towline::{Address, Wire};
///
/// let address: Address = "tcp://[::1]:7000".parse()?;
/// assert_eq!(address.wire(), Wire::Tcp);
/// assert_eq!(address.host(), "::1");
/// assert_eq!(address.port(), 7000);
/// assert_eq!(address.to_string(), "tcp://[::1]:7000");
/// # Ok::<(), towline::AddressError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    wire: Wire,
    host: Box<str>,
    port: u16,
}

impl Address {
    /// Parses a URL. The same as [`str::parse`].
    pub fn parse(url: &str) -> Result<Address, AddressError> {
        let (scheme, rest) =
            url.split_once("://").ok_or_else(|| AddressError::NoScheme { url: url.into() })?;
        let wire = Wire::from_scheme(scheme)
            .ok_or_else(|| AddressError::UnknownScheme { scheme: scheme.into() })?;
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if let Some(at) = authority.find(['/', '?', '#', '@']) {
            return Err(AddressError::Unexpected {
                url: url.into(),
                part: authority.get(at..).unwrap_or_default().into(),
            });
        }
        let (host, port) = split_host_port(url, authority)?;
        if host.is_empty() {
            return Err(AddressError::NoHost { url: url.into() });
        }
        let port = port
            .parse()
            .map_err(|_| AddressError::BadPort { url: url.into(), port: port.into() })?;
        Ok(Address { wire, host: host.into(), port })
    }

    pub(crate) fn from_parts(wire: Wire, host: &str, port: u16) -> Address {
        Address { wire, host: host.into(), port }
    }

    /// The wire that the scheme picked.
    pub fn wire(&self) -> Wire {
        self.wire
    }

    /// The host: a name or an IP address, without the brackets of IPv6.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The same address with another port.
    #[must_use]
    pub fn with_port(mut self, port: u16) -> Address {
        self.port = port;
        self
    }
}

/// Splits `host:port` or `[v6]:port`.
fn split_host_port<'a>(url: &str, authority: &'a str) -> Result<(&'a str, &'a str), AddressError> {
    let no_port = || AddressError::NoPort { url: url.into() };
    if let Some(bracketed) = authority.strip_prefix('[') {
        let (host, rest) = bracketed
            .split_once(']')
            .ok_or_else(|| AddressError::BadHost { url: url.into(), host: authority.into() })?;
        if host.parse::<std::net::Ipv6Addr>().is_err() {
            return Err(AddressError::BadHost { url: url.into(), host: host.into() });
        }
        return Ok((host, rest.strip_prefix(':').ok_or_else(no_port)?));
    }
    let (host, port) = authority.rsplit_once(':').ok_or_else(no_port)?;
    if host.contains(':') || host.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(AddressError::BadHost { url: url.into(), host: host.into() });
    }
    Ok((host, port))
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(url: &str) -> Result<Address, AddressError> {
        Address::parse(url)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "{}://[{}]:{}", self.wire, self.host, self.port)
        } else {
            write!(f, "{}://{}:{}", self.wire, self.host, self.port)
        }
    }
}

/// What [`Endpoint::connect`](crate::Endpoint::connect) accepts: one address or a list, as text or parsed.
/// A list is tried in order with head starts, and one text may hold several URLs divided by commas.
pub trait IntoAddresses {
    /// The parsed list; never empty.
    fn into_addresses(self) -> Result<Vec<Address>, AddressError>;
}

impl IntoAddresses for Address {
    fn into_addresses(self) -> Result<Vec<Address>, AddressError> {
        Ok(vec![self])
    }
}

impl IntoAddresses for &Address {
    fn into_addresses(self) -> Result<Vec<Address>, AddressError> {
        Ok(vec![self.clone()])
    }
}

impl IntoAddresses for &str {
    fn into_addresses(self) -> Result<Vec<Address>, AddressError> {
        self.split(',').map(|url| Address::parse(url.trim())).collect()
    }
}

impl IntoAddresses for &String {
    fn into_addresses(self) -> Result<Vec<Address>, AddressError> {
        self.as_str().into_addresses()
    }
}

impl IntoAddresses for String {
    fn into_addresses(self) -> Result<Vec<Address>, AddressError> {
        self.as_str().into_addresses()
    }
}

impl<T: IntoAddresses + Clone> IntoAddresses for &[T] {
    fn into_addresses(self) -> Result<Vec<Address>, AddressError> {
        let mut all = Vec::with_capacity(self.len());
        for one in self {
            all.extend(one.clone().into_addresses()?);
        }
        if all.is_empty() { Err(AddressError::Empty) } else { Ok(all) }
    }
}

impl<T: IntoAddresses + Clone> IntoAddresses for Vec<T> {
    fn into_addresses(self) -> Result<Vec<Address>, AddressError> {
        self.as_slice().into_addresses()
    }
}

impl<T: IntoAddresses + Clone, const N: usize> IntoAddresses for [T; N] {
    fn into_addresses(self) -> Result<Vec<Address>, AddressError> {
        self.as_slice().into_addresses()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scheme_parses_and_prints_back() {
        for wire in Wire::ALL {
            for host in ["127.0.0.1", "localhost", "a-b.example", "[::1]", "[fe80::1]"] {
                let url = format!("{wire}://{host}:65535");
                let address = Address::parse(&url).unwrap();
                assert_eq!(address.to_string(), url);
                assert_eq!(address.wire(), wire);
            }
        }
        assert_eq!(Address::parse("TCP://h:1/").unwrap().to_string(), "tcp://h:1");
    }

    #[test]
    fn what_is_wrong_is_named() {
        use AddressError as E;
        assert!(matches!(Address::parse("127.0.0.1:1"), Err(E::NoScheme { .. })));
        assert!(
            matches!(Address::parse("smtp://h:1"), Err(E::UnknownScheme { scheme }) if &*scheme == "smtp")
        );
        assert!(matches!(Address::parse("tcp://h"), Err(E::NoPort { .. })));
        assert!(matches!(Address::parse("tcp://h:"), Err(E::BadPort { .. })));
        assert!(
            matches!(Address::parse("tcp://h:65536"), Err(E::BadPort { port, .. }) if &*port == "65536")
        );
        assert!(matches!(Address::parse("tcp://h:-1"), Err(E::BadPort { .. })));
        assert!(matches!(Address::parse("tcp://:1"), Err(E::NoHost { .. })));
        assert!(matches!(Address::parse("tcp://::1:1"), Err(E::BadHost { .. })));
        assert!(matches!(Address::parse("tcp://[::1:1"), Err(E::BadHost { .. })));
        assert!(matches!(Address::parse("tcp://[zz]:1"), Err(E::BadHost { .. })));
        assert!(matches!(Address::parse("tcp://[::1]"), Err(E::NoPort { .. })));
        assert!(
            matches!(Address::parse("tcp://h:1/path"), Err(E::Unexpected { part, .. }) if &*part == "/path")
        );
        assert!(matches!(Address::parse("tcp://u@h:1"), Err(E::Unexpected { .. })));
        let unknown = Address::parse("smtp://h:1").unwrap_err().to_string();
        assert!(unknown.contains("tcp") && unknown.contains("ftcps"), "{unknown}");
    }

    #[test]
    fn lists_come_from_commas_and_from_collections() {
        let two = "tcp://a:1, tls://b:2".into_addresses().unwrap();
        assert_eq!(two, ["tcp://a:1", "tls://b:2"].into_addresses().unwrap());
        assert_eq!(two.len(), 2);
        assert!(matches!(Vec::<&str>::new().into_addresses(), Err(AddressError::Empty)));
    }
}
