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
    /// `ws://`: WebSocket. A Towline session in binary messages with a Towline peer, plain messages with any other.
    Ws,
    /// `wss://`: the same over TLS.
    Wss,
    /// `quic://`: a Towline session on a stream of a QUIC connection.
    Quic,
    /// `bats://`: a Towline session over coded packets and relays, BRTP.
    Bats,
    /// `bats://...?mode=btp`: messages over coded packets and relays, none of which is sent again.
    Btp,
    /// `bats://...?mode=brctp`: messages in order over a rateless code, where the receiver only ever says what it has whole.
    Brctp,
    /// `udp://`: UDP datagrams as they are. The same as `bats://...?mode=transparent`.
    Udp,
}

impl Wire {
    /// Every wire that this library knows, in the order in which messages about them list them.
    pub const ALL: [Wire; 11] = [
        Wire::Tcp,
        Wire::Tls,
        Wire::Ftcp,
        Wire::Ftcps,
        Wire::Ws,
        Wire::Wss,
        Wire::Quic,
        Wire::Bats,
        Wire::Btp,
        Wire::Brctp,
        Wire::Udp,
    ];

    /// The scheme in front of `://`. That of BTP and BRCTP is `bats`, and their addresses say `mode=btp` and `mode=brctp`.
    pub const fn scheme(self) -> &'static str {
        match self {
            Wire::Tcp => "tcp",
            Wire::Tls => "tls",
            Wire::Ftcp => "ftcp",
            Wire::Ftcps => "ftcps",
            Wire::Ws => "ws",
            Wire::Wss => "wss",
            Wire::Quic => "quic",
            Wire::Bats | Wire::Btp | Wire::Brctp => "bats",
            Wire::Udp => "udp",
        }
    }

    /// Whether the bytes on this wire are encrypted and the peer is authenticated.
    pub const fn is_encrypted(self) -> bool {
        self.is_coded() || matches!(self, Wire::Tls | Wire::Ftcps | Wire::Wss | Wire::Quic)
    }

    /// Whether TLS runs over the wire's stream of bytes. What travels in datagrams has it inside.
    pub(crate) const fn runs_tls(self) -> bool {
        self.is_encrypted() && !self.is_udp()
    }

    /// Whether it travels in UDP datagrams, over sockets of its own.
    pub(crate) const fn is_udp(self) -> bool {
        self.is_coded() || matches!(self, Wire::Quic | Wire::Udp)
    }

    /// Whether each message is on its own: it arrives whole or not at all, in any order, and none is sent again.
    pub const fn is_datagram(self) -> bool {
        matches!(self, Wire::Btp | Wire::Udp)
    }

    /// Whether what it moves are the application's messages themselves, without a session.
    pub(crate) const fn moves_messages(self) -> bool {
        self.is_datagram() || matches!(self, Wire::Brctp)
    }

    /// Whether it is one of BATS' modes that have a flow.
    pub(crate) const fn is_coded(self) -> bool {
        matches!(self, Wire::Bats | Wire::Btp | Wire::Brctp)
    }

    /// Whether this wire carries a Towline session (acknowledged, resumed after a loss). `ws` and `wss` do with a Towline
    /// peer; [`Capabilities::session`](crate::Capabilities::session) tells what was agreed with this one.
    pub const fn has_session(self) -> bool {
        matches!(self, Wire::Tcp | Wire::Tls | Wire::Ws | Wire::Wss | Wire::Quic | Wire::Bats)
    }

    /// Whether it is WebSocket: its addresses may have a path and a query, and need no port.
    pub const fn is_websocket(self) -> bool {
        matches!(self, Wire::Ws | Wire::Wss)
    }

    /// The port of addresses that name none, on wires that have such a port (RFC 6455 section 3).
    const fn default_port(self) -> Option<u16> {
        match self {
            Wire::Ws => Some(80),
            Wire::Wss => Some(443),
            _ => None,
        }
    }

    /// The Cargo feature that this wire needs and that this build lacks.
    const fn missing_feature(self) -> Option<&'static str> {
        if matches!(self, Wire::Quic) && !cfg!(feature = "quic") {
            return Some("quic");
        }
        if (self.is_coded() || matches!(self, Wire::Udp)) && !cfg!(feature = "bats") {
            return Some("bats");
        }
        if self.is_encrypted() && !cfg!(feature = "tls") {
            return Some("tls");
        }
        if self.is_websocket() && !cfg!(feature = "websocket") {
            return Some("websocket");
        }
        None
    }

    fn from_scheme(scheme: &str) -> Option<Wire> {
        Wire::ALL.into_iter().find(|wire| wire.scheme().eq_ignore_ascii_case(scheme))
    }
}

impl fmt::Display for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Wire::Btp => "btp",
            Wire::Brctp => "brctp",
            wire => wire.scheme(),
        })
    }
}

/// A parsed address, such as `tcp://example.org:7000` or `tls://[::1]:7000`.
///
/// A port is always needed, except on `ws` (80) and `wss` (443): the other wires have no registered one. Port 0 is for
/// listening and means "any free port"; [`Listener::local_address`](crate::Listener::local_address) tells which. Only
/// `ws` and `wss` have a path and a query, and `bats` has a query of options, see the module `bats`.
///
/// `name+tcp://...`, and the same of the other wires, is opened by the [socket factory](crate::socket_factory) of that name;
/// host, port and path are then whatever it makes of them.
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
    /// The socket factory in front of the wire.
    factory: Option<Box<str>>,
    wire: Wire,
    host: Box<str>,
    port: u16,
    /// Path and query, beginning with a slash; empty for `/`.
    path: Box<str>,
}

impl Address {
    /// Parses a URL. The same as [`str::parse`].
    pub fn parse(url: &str) -> Result<Address, AddressError> {
        let (scheme, rest) =
            url.split_once("://").ok_or_else(|| AddressError::NoScheme { url: url.into() })?;
        let (factory, name) = match scheme.split_once('+') {
            Some((factory, name)) => (Some(factory), name),
            None => (None, scheme),
        };
        let wire = Wire::from_scheme(name)
            .filter(|_| factory.is_none_or(is_factory_name))
            .ok_or_else(|| AddressError::UnknownScheme { scheme: scheme.into() })?;
        if let Some(feature) = wire.missing_feature() {
            return Err(AddressError::NotBuilt { wire, feature });
        }
        if let Some(factory) = factory {
            return Address::through_factory(url, factory, wire, rest);
        }
        let (authority, path) = match wire.is_websocket() || wire.is_coded() {
            true => split_path(url, rest)?,
            false => (rest.strip_suffix('/').unwrap_or(rest), Box::default()),
        };
        #[cfg(feature = "bats")]
        let (wire, path) = match wire.is_coded() {
            true => crate::bats::wire_of(url, path)?,
            false => (wire, path),
        };
        if let Some(at) = authority.find(['/', '?', '#', '@']) {
            return Err(AddressError::Unexpected {
                url: url.into(),
                part: authority.get(at..).unwrap_or_default().into(),
            });
        }
        let (host, port) = split_host_port(url, authority, wire.default_port())?;
        if host.is_empty() {
            return Err(AddressError::NoHost { url: url.into() });
        }
        let port = match port {
            Port::Default(port) => port,
            Port::Written(port) => port
                .parse()
                .map_err(|_| AddressError::BadPort { url: url.into(), port: port.into() })?,
        };
        Ok(Address { factory: None, wire, host: host.into(), port, path })
    }

    /// What follows the scheme of an address that names a factory: host, port and path are the factory's matter, and any of
    /// them may be missing.
    fn through_factory(
        url: &str,
        factory: &str,
        wire: Wire,
        rest: &str,
    ) -> Result<Address, AddressError> {
        let (authority, path) = split_path(url, rest)?;
        let (host, port) = match split_host_port(url, authority, Some(0))? {
            (host, Port::Default(port)) => (host, port),
            (host, Port::Written(port)) => {
                let number = port.parse();
                let bad = |_| AddressError::BadPort { url: url.into(), port: port.into() };
                (host, number.map_err(bad)?)
            }
        };
        let factory = Some(factory.to_ascii_lowercase().into());
        Ok(Address { factory, wire, host: host.into(), port, path })
    }

    /// The same, opened by the factory of another address.
    #[cfg(feature = "websocket")]
    pub(crate) fn with_factory_of(mut self, other: &Address) -> Address {
        self.factory.clone_from(&other.factory);
        self
    }

    /// The URL without the factory, as a WebSocket's server is to see it.
    #[cfg(feature = "websocket")]
    pub(crate) fn url(&self) -> String {
        if self.factory.is_none() {
            return self.to_string();
        }
        let host = if self.host.is_empty() { "localhost" } else { &*self.host };
        let port = match (self.port, self.wire.default_port()) {
            (0, Some(port)) => port,
            (port, _) => port,
        };
        Address::from_parts(self.wire, host, port, &self.path).to_string()
    }

    /// The name of the [socket factory](crate::socket_factory) that opens it: what is in front of the `+` of
    /// `serial+tcp://board`.
    pub fn factory(&self) -> Option<&str> {
        self.factory.as_deref()
    }

    pub(crate) fn from_parts(wire: Wire, host: &str, port: u16, path: &str) -> Address {
        let path = if path == "/" { "" } else { path };
        Address { factory: None, wire, host: host.into(), port, path: path.into() }
    }

    /// The wire that the scheme picked.
    pub fn wire(&self) -> Wire {
        self.wire
    }

    /// The host: a name or an IP address, without the brackets of IPv6.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port; 0 if an address that names a factory has none.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The path and the query, as sent to the server: `/` if there is none. Only `ws` and `wss` have others, and the options of `bats`.
    pub fn path(&self) -> &str {
        if self.path.is_empty() { "/" } else { &self.path }
    }

    /// The same address with another port.
    #[must_use]
    pub fn with_port(mut self, port: u16) -> Address {
        self.port = port;
        self
    }
}

/// Whether it may name a factory: letters, digits, `-` and `.` (RFC 3986 section 3.1, without the plus).
pub(crate) fn is_factory_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '.')
}

/// Splits what follows the scheme of a WebSocket address into authority, and path with query (RFC 6455 section 3).
fn split_path<'a>(url: &str, rest: &'a str) -> Result<(&'a str, Box<str>), AddressError> {
    let unexpected = |at: usize| AddressError::Unexpected {
        url: url.into(),
        part: rest.get(at..).unwrap_or_default().into(),
    };
    // What would not be one line of HTTP, and fragments, which section 3 forbids.
    if let Some(at) = rest.find(|c: char| !c.is_ascii_graphic() || c == '#') {
        return Err(unexpected(at));
    }
    let at = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(at);
    let path = match path {
        "" | "/" => Box::default(),
        query if query.starts_with('?') => format!("/{query}").into(),
        path => path.into(),
    };
    Ok((authority, path))
}

/// The port of an address.
enum Port<'a> {
    Default(u16),
    Written(&'a str),
}

/// Splits `host:port` or `[v6]:port`.
fn split_host_port<'a>(
    url: &str,
    authority: &'a str,
    default: Option<u16>,
) -> Result<(&'a str, Port<'a>), AddressError> {
    let no_port = || AddressError::NoPort { url: url.into() };
    if let Some(bracketed) = authority.strip_prefix('[') {
        let (host, rest) = bracketed
            .split_once(']')
            .ok_or_else(|| AddressError::BadHost { url: url.into(), host: authority.into() })?;
        if host.parse::<std::net::Ipv6Addr>().is_err() {
            return Err(AddressError::BadHost { url: url.into(), host: host.into() });
        }
        return match (rest.strip_prefix(':'), default) {
            (Some(port), _) => Ok((host, Port::Written(port))),
            (None, Some(port)) if rest.is_empty() => Ok((host, Port::Default(port))),
            _ => Err(no_port()),
        };
    }
    let (host, port) = match (authority.rsplit_once(':'), default) {
        (Some((host, port)), _) => (host, Port::Written(port)),
        (None, Some(port)) => (authority, Port::Default(port)),
        (None, None) => return Err(no_port()),
    };
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
        if let Some(factory) = &self.factory {
            write!(f, "{factory}+")?;
        }
        let (open, close) = if self.host.contains(':') { ("[", "]") } else { ("", "") };
        write!(f, "{}://{open}{}{close}", self.wire.scheme(), self.host)?;
        if self.factory.is_none() || self.port != 0 {
            write!(f, ":{}", self.port)?;
        }
        f.write_str(&self.path)
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

/// Whether it begins like an address whose path or query may have commas.
fn has_path(url: &str) -> bool {
    ["ws", "bats"].iter().any(|scheme| url.trim_start().starts_with(scheme))
}

impl IntoAddresses for &str {
    fn into_addresses(self) -> Result<Vec<Address>, AddressError> {
        let mut urls: Vec<String> = Vec::new();
        for piece in self.split(',') {
            match urls.last_mut() {
                // A comma inside of a path or query, not between two addresses.
                Some(last) if has_path(last) && !piece.contains("://") => {
                    last.push(',');
                    last.push_str(piece);
                }
                _ => urls.push(piece.to_owned()),
            }
        }
        urls.iter().map(|url| Address::parse(url.trim())).collect()
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
        for wire in Wire::ALL.into_iter().filter(|wire| wire.to_string() == wire.scheme()) {
            for host in ["127.0.0.1", "localhost", "a-b.example", "[::1]", "[fe80::1]"] {
                let url = format!("{wire}://{host}:65535");
                let address = Address::parse(&url).unwrap();
                assert_eq!(address.to_string(), url);
                assert_eq!(address.wire(), wire);
            }
        }
        assert_eq!(Address::parse("TCP://h:1/").unwrap().to_string(), "tcp://h:1");
    }

    #[cfg(all(feature = "websocket", feature = "tls"))]
    #[test]
    fn websocket_addresses_have_paths_queries_and_default_ports() {
        let parsed = |url: &str| Address::parse(url).unwrap();
        for (url, printed, port, path) in [
            ("ws://h", "ws://h:80", 80, "/"),
            ("ws://h/", "ws://h:80", 80, "/"),
            ("wss://h/chat", "wss://h:443/chat", 443, "/chat"),
            (
                "wss://[::1]/a/b?c=d&e=%20,f",
                "wss://[::1]:443/a/b?c=d&e=%20,f",
                443,
                "/a/b?c=d&e=%20,f",
            ),
            ("ws://h:8080?q", "ws://h:8080/?q", 8080, "/?q"),
        ] {
            let address = parsed(url);
            assert_eq!((address.port(), address.path()), (port, path), "{url}");
            assert_eq!(address.to_string(), printed);
            assert_eq!(parsed(printed), address);
        }
        for url in
            ["ws://h/a b", "ws://h/#x", "ws://h/\r\nX: y", "ws://h/é", "ws://h:0x/", "ws://:80/"]
        {
            assert!(Address::parse(url).is_err(), "{url}");
        }
        let two = "ws://a/x?p=1,2 , tcp://b:2".into_addresses().unwrap();
        assert_eq!((two.len(), two[0].path()), (2, "/x?p=1,2"));
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
