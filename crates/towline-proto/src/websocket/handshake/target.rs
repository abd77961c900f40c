//! Where to connect: `ws://` and `wss://` addresses (RFC 6455 section 3), and what a redirect makes of them.

use super::auth::Credentials;

/// A WebSocket address, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// TLS: `wss`.
    pub secure: bool,
    /// The host: a name in lower case, an IPv4 address, or an IPv6 address without brackets.
    pub host: String,
    /// The port: 80 or 443 unless given.
    pub port: u16,
    /// Path and query, beginning with a slash.
    pub path: String,
}

/// What is wrong with an address; always the fault of whoever wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// Neither ws nor wss (nor, in a redirect, http or https).
    #[error("scheme is not ws or wss")]
    Scheme,
    /// No host, or characters that do not belong into one.
    #[error("invalid host")]
    Host,
    /// Not a number from 1 to 65535.
    #[error("invalid port")]
    Port,
    /// Spaces, control characters or characters beyond ASCII, or a fragment.
    #[error("invalid character in the address")]
    Character,
    /// A redirect without an address.
    #[error("no location")]
    Missing,
}

impl Target {
    /// Parses `ws://[user[:password]@]host[:port][/path][?query]`, or `wss://`.
    ///
    /// # Errors
    /// Says which part is wrong.
    pub fn parse(url: &str) -> Result<(Target, Option<Credentials>), TargetError> {
        if url.contains('#') {
            // RFC 6455 section 3: fragments must not be used.
            return Err(TargetError::Character);
        }
        Self::parse_with(url, |scheme| match scheme {
            "ws" => Some(false),
            "wss" => Some(true),
            _ => None,
        })
    }

    fn parse_with(
        url: &str,
        secure: impl Fn(&str) -> Option<bool>,
    ) -> Result<(Target, Option<Credentials>), TargetError> {
        if !url.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(TargetError::Character);
        }
        let (scheme, rest) = url.split_once("://").ok_or(TargetError::Scheme)?;
        let secure = secure(&scheme.to_ascii_lowercase()).ok_or(TargetError::Scheme)?;
        let (authority, path) = match rest.find(['/', '?']) {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let (userinfo, authority) = match authority.rsplit_once('@') {
            Some((userinfo, authority)) => (Some(userinfo), authority),
            None => (None, authority),
        };
        let (host, port) = split_port(authority)?;
        let port = match port {
            None | Some("") => {
                if secure {
                    443
                } else {
                    80
                }
            }
            Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
                port.parse().ok().filter(|&port| port > 0).ok_or(TargetError::Port)?
            }
            Some(_) => return Err(TargetError::Port),
        };
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        let credentials = userinfo.map(credentials).transpose()?;
        Ok((Target { secure, host, port, path }, credentials))
    }

    /// The address that a `Location` header means, seen from this one (RFC 9110 section 10.2.2).
    ///
    /// `http` and `https` stand for `ws` and `wss`. Credentials in it are not used; a fragment is dropped.
    ///
    /// # Errors
    /// When it is no address.
    pub fn resolve(&self, location: &str) -> Result<Target, TargetError> {
        let location = location.split_once('#').map_or(location, |(before, _)| before);
        if !location.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(TargetError::Character);
        }
        let (own, _) = self.path.split_once('?').unwrap_or((&self.path, ""));
        let path = if let Some(rest) = location.strip_prefix("//") {
            let scheme = if self.secure { "wss" } else { "ws" };
            return Ok(Self::parse(&format!("{scheme}://{rest}"))?.0);
        } else if location.starts_with('/') {
            location.to_owned()
        } else if has_scheme(location) {
            let secure = |scheme: &str| match scheme {
                "ws" | "http" => Some(false),
                "wss" | "https" => Some(true),
                _ => None,
            };
            return Ok(Self::parse_with(location, secure)?.0);
        } else if location.is_empty() {
            return Err(TargetError::Missing);
        } else if location.starts_with('?') {
            format!("{own}{location}")
        } else {
            let directory = own.rsplit_once('/').map_or("", |(directory, _)| directory);
            format!("{directory}/{location}")
        };
        Ok(Target { path: remove_dot_segments(&path), ..self.clone() })
    }

    /// `host` and, unless it is the scheme's own, `:port`, with brackets around IPv6: the `Host` header.
    pub fn host_header(&self) -> String {
        let port = if self.secure { 443 } else { 80 };
        if self.port == port { self.bracketed() } else { self.authority() }
    }

    /// `host:port`, with brackets around IPv6: what a proxy is asked for.
    pub fn authority(&self) -> String {
        format!("{}:{}", self.bracketed(), self.port)
    }

    fn bracketed(&self) -> String {
        if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() }
    }

    /// Same scheme, host and port: secrets may go there too.
    pub fn same_origin(&self, other: &Target) -> bool {
        (self.secure, &self.host, self.port) == (other.secure, &other.host, other.port)
    }
}

/// `scheme:` at the front, before any slash (RFC 3986 section 4.2).
fn has_scheme(location: &str) -> bool {
    location.find(':').is_some_and(|colon| !location[..colon].contains(['/', '?']))
}

/// RFC 3986 section 5.2.4, for the path before the query.
fn remove_dot_segments(path: &str) -> String {
    let (path, query) = match path.find('?') {
        Some(at) => path.split_at(at),
        None => (path, ""),
    };
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    kept.pop();
                }
                if last {
                    kept.push("");
                }
            }
            other => kept.push(other),
        }
    }
    format!("/{}{query}", kept.join("/"))
}

fn split_port(authority: &str) -> Result<(String, Option<&str>), TargetError> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or(TargetError::Host)?;
        host.parse::<std::net::Ipv6Addr>().map_err(|_| TargetError::Host)?;
        let port = match after {
            "" => None,
            after => Some(after.strip_prefix(':').ok_or(TargetError::Port)?),
        };
        return Ok((host.to_ascii_lowercase(), port));
    }
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    };
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%".contains(&byte);
    if host.is_empty() || !host.bytes().all(fits) {
        return Err(TargetError::Host);
    }
    Ok((host.to_ascii_lowercase(), port))
}

fn credentials(userinfo: &str) -> Result<Credentials, TargetError> {
    let (user, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
    Ok(Credentials::Basic { user: percent_decode(user)?, password: percent_decode(password)? })
}

/// RFC 3986 section 2.1.
fn percent_decode(text: &str) -> Result<String, TargetError> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|digit| char::from(digit).to_digit(16));
        let (Some(high), Some(low)) = (digit(), digit()) else {
            return Err(TargetError::Character);
        };
        out.push((high * 16 + low) as u8);
    }
    String::from_utf8(out).map_err(|_| TargetError::Character)
}
