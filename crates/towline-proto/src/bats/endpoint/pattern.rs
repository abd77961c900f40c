//! Where a relay lets flows go.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use super::route::{HopAddress, RouteError};

/// A set of addresses: `host:port`, where the host may be `*`, a name, `*.domain`, an IP address or a network such as
/// `10.0.0.0/8` (`[2001:db8::]/32` for IPv6), and the port a number or `*`. A lone `*` is everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    host: Host,
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    Any,
    Name(Box<str>),
    /// A domain, with the dot in front.
    Domain(Box<str>),
    Network(IpAddr, u8),
}

impl Pattern {
    /// Everything.
    pub const ANY: Pattern = Pattern { host: Host::Any, port: None };

    /// Whether an address whose name has not been looked up can be in the set.
    pub fn may_match(&self, address: &HopAddress) -> bool {
        if self.port.is_some_and(|port| port != address.port()) {
            return false;
        }
        let host = address.host();
        match &self.host {
            Host::Any => true,
            Host::Name(name) => name.eq_ignore_ascii_case(host),
            Host::Domain(domain) => {
                let start = host.len().checked_sub(domain.len());
                let end = start.filter(|&start| start > 0).and_then(|start| host.get(start..));
                end.is_some_and(|end| end.eq_ignore_ascii_case(domain))
            }
            Host::Network(network, bits) => {
                address.literal().is_none_or(|literal| within(literal.ip(), *network, *bits))
            }
        }
    }

    /// Whether an address is in the set, when its name stands for `resolved`.
    pub fn matches(&self, address: &HopAddress, resolved: SocketAddr) -> bool {
        let network = match &self.host {
            Host::Network(network, bits) => within(resolved.ip(), *network, *bits),
            _ => true,
        };
        network && self.may_match(address)
    }
}

fn within(ip: IpAddr, network: IpAddr, bits: u8) -> bool {
    let (ip, network, width) = match (ip.to_canonical(), network) {
        (IpAddr::V4(ip), IpAddr::V4(net)) => {
            (u128::from(u32::from(ip)), u128::from(u32::from(net)), 32)
        }
        (IpAddr::V6(ip), IpAddr::V6(net)) => (u128::from(ip), u128::from(net), 128u32),
        _ => return false,
    };
    let shift = width.saturating_sub(u32::from(bits));
    ip.checked_shr(shift).unwrap_or(0) == network.checked_shr(shift).unwrap_or(0)
}

impl FromStr for Pattern {
    type Err = RouteError;

    fn from_str(text: &str) -> Result<Pattern, RouteError> {
        if text == "*" {
            return Ok(Pattern::ANY);
        }
        let (host, port) = text.rsplit_once(':').ok_or(RouteError::Address)?;
        let port = match port {
            "*" => None,
            port => {
                let port = port.parse().map_err(|_| RouteError::Address)?;
                Some(port).filter(|&port| port > 0).ok_or(RouteError::Address).map(Some)?
            }
        };
        Ok(Pattern { host: parse_host(host)?, port })
    }
}

fn parse_host(host: &str) -> Result<Host, RouteError> {
    let (ip, bits) = match host.split_once('/') {
        Some((ip, bits)) => (ip, Some(bits.parse::<u8>().map_err(|_| RouteError::Address)?)),
        None => (host, None),
    };
    let bare = ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']')).unwrap_or(ip);
    if let Ok(ip) = bare.parse::<IpAddr>() {
        let width = if ip.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(width);
        return (bits <= width).then_some(Host::Network(ip, bits)).ok_or(RouteError::Address);
    }
    if bits.is_some() {
        return Err(RouteError::Address);
    }
    if host == "*" {
        return Ok(Host::Any);
    }
    let name = host.strip_prefix('*').unwrap_or(host);
    let domain = name.len() < host.len();
    // The port does not matter here.
    HopAddress::new(name.trim_start_matches('.'), 1)?;
    match (domain, name.starts_with('.')) {
        (true, true) => Ok(Host::Domain(name.into())),
        (false, false) => Ok(Host::Name(name.into())),
        _ => Err(RouteError::Address),
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Any => f.write_str("*")?,
            Host::Name(name) => f.write_str(name)?,
            Host::Domain(domain) => write!(f, "*{domain}")?,
            Host::Network(IpAddr::V4(ip), bits) => write!(f, "{ip}/{bits}")?,
            Host::Network(IpAddr::V6(ip), bits) => write!(f, "[{ip}]/{bits}")?,
        }
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => f.write_str(":*"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, address: &str, resolved: &str) -> bool {
        let pattern: Pattern = pattern.parse().unwrap();
        assert_eq!(pattern.to_string().parse::<Pattern>().unwrap(), pattern);
        let address: HopAddress = address.parse().unwrap();
        pattern.matches(&address, resolved.parse().unwrap())
    }

    #[test]
    fn names_domains_networks_and_ports() {
        assert!(matches("*", "any:1", "9.9.9.9:1"));
        assert!(matches("relay.example:7000", "Relay.Example:7000", "9.9.9.9:7000"));
        assert!(!matches("relay.example:7000", "relay.example:7001", "9.9.9.9:7001"));
        assert!(matches("*.example:*", "a.example:1", "9.9.9.9:1"));
        assert!(!matches("*.example:*", "example:1", "9.9.9.9:1"));
        assert!(!matches("*.example:*", "badexample:1", "9.9.9.9:1"));
        assert!(matches("10.0.0.0/8:*", "10.1.2.3:1", "10.1.2.3:1"));
        assert!(matches("10.0.0.0/8:*", "inside:1", "10.1.2.3:1"));
        assert!(!matches("10.0.0.0/8:*", "outside:1", "11.1.2.3:1"));
        assert!(matches("[2001:db8::]/32:*", "[2001:db8::7]:1", "[2001:db8::7]:1"));
        assert!(!matches("127.0.0.1:9", "127.0.0.2:9", "127.0.0.2:9"));
        assert!(matches("0.0.0.0/0:*", "1.2.3.4:1", "1.2.3.4:1"));
        assert!(matches("*:7000", "x:7000", "1.2.3.4:7000"));
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for text in
            ["", "a", "a:", "a:0", "a:x", "*x:1", "**:1", "10.0.0.0/33:1", "name/8:1", "a b:1"]
        {
            assert!(text.parse::<Pattern>().is_err(), "{text}");
        }
    }
}
