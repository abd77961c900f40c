//! A cookie jar: what servers set with `Set-Cookie` goes back to them with the next handshake (RFC 6265, its section 5, and of
//! its successor draft-ietf-httpbis-rfc6265bis the rules about secure cookies and name prefixes).
//!
//! Wall-clock time is an argument, because `Expires` is a date.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::{Duration, SystemTime};

use super::super::http::{Headers, is_token};
use super::Target;
use super::cookie_date::parse_date;

/// The longest name and value together, in bytes (RFC 6265 section 6.1).
pub const MAX_COOKIE: usize = 4096;

/// The most cookies of one domain (section 6.1); the oldest makes room.
pub const MAX_COOKIES_PER_DOMAIN: usize = 50;

/// The most cookies of a jar; the oldest makes room.
pub const MAX_COOKIES: usize = 1000;

/// The longest that a cookie lives, whatever it says (the successor's section 5.5): 400 days.
const LONGEST: Duration = Duration::from_secs(400 * 86_400);

/// One cookie, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cookie {
    /// Its name.
    pub name: String,
    /// Its value, quotes included if it came with any.
    pub value: String,
    /// The host that it goes to, in lower case.
    pub domain: String,
    /// It goes to that host only, and not to hosts below it.
    pub host_only: bool,
    /// It goes to this path and those below it.
    pub path: String,
    /// It goes over TLS only.
    pub secure: bool,
    /// When it ends; `None`: with the program, unless whoever keeps the jar keeps it longer.
    pub expires: Option<SystemTime>,
}

/// Why a `Set-Cookie` was not taken; the server's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CookieError {
    /// No `name=value`, or characters that cannot be in one.
    #[error("not a cookie")]
    Malformed,
    /// Longer than [`MAX_COOKIE`].
    #[error("cookie too large")]
    TooLarge,
    /// For a domain that the host is not in, or one above it ([`CookieJar::accept_parent_domains`]).
    #[error("cookie for a foreign domain")]
    Domain,
    /// Secure, and set without TLS, or in the place of one that is secure.
    #[error("secure cookie over an insecure connection")]
    Insecure,
    /// A name that begins with `__Secure-` or `__Host-`, without what that promises.
    #[error("cookie prefix without its attributes")]
    Prefix,
}

/// Cookies of any number of hosts, within bounds.
#[derive(Debug, Clone, Default)]
pub struct CookieJar {
    /// In order of creation.
    cookies: Vec<Cookie>,
    parents: bool,
}

impl CookieJar {
    /// An empty jar.
    pub fn new() -> CookieJar {
        CookieJar::default()
    }

    /// Whether `Domain` may name a domain above the host that sets the cookie, so that it goes to sibling hosts as well. Default no:
    /// without a list of public suffixes nobody can tell `example.com`, which is one owner's, from `co.uk`, which is not.
    pub fn accept_parent_domains(&mut self, accept: bool) {
        self.parents = accept;
    }

    /// Takes each `Set-Cookie` of a response of `target`, whatever its status, and returns how many were taken.
    /// Those that are refused change nothing.
    pub fn store(&mut self, target: &Target, headers: &Headers, now: SystemTime) -> usize {
        headers.all("Set-Cookie").filter(|line| self.set(target, line, now).is_ok()).count()
    }

    /// Takes one `Set-Cookie` value that came from `target`. One of the same name, domain and path is replaced; one that has ended
    /// removes it (RFC 6265 section 5.3).
    ///
    /// # Errors
    /// Says why it was refused.
    pub fn set(&mut self, target: &Target, line: &str, now: SystemTime) -> Result<(), CookieError> {
        let cookie = parse(target, line, now, self.parents)?;
        let same = |other: &Cookie| {
            (&other.name, &other.domain, &other.path)
                == (&cookie.name, &cookie.domain, &cookie.path)
        };
        let guarded = |other: &Cookie| other.secure && other.name == cookie.name;
        if !target.secure
            && self.cookies.iter().any(|other| guarded(other) && touches(other, &cookie))
        {
            return Err(CookieError::Insecure);
        }
        if cookie.expires.is_some_and(|at| at <= now) {
            self.cookies.retain(|other| !same(other));
            return Ok(());
        }
        match self.cookies.iter_mut().find(|other| same(other)) {
            // It keeps its place: the time of creation is that of the first (section 5.3 step 11.3).
            Some(old) => *old = cookie,
            None => self.insert(cookie, now),
        }
        Ok(())
    }

    /// Puts a cookie in that was kept elsewhere, within the bounds.
    pub fn insert(&mut self, cookie: Cookie, now: SystemTime) {
        self.cookies.retain(|other| other.expires.is_none_or(|at| at > now));
        let of_domain = self.cookies.iter().filter(|other| other.domain == cookie.domain).count();
        let oldest = match of_domain >= MAX_COOKIES_PER_DOMAIN {
            true => self.cookies.iter().position(|other| other.domain == cookie.domain),
            false => (self.cookies.len() >= MAX_COOKIES).then_some(0),
        };
        if let Some(oldest) = oldest {
            self.cookies.remove(oldest);
        }
        self.cookies.push(cookie);
    }

    /// The value of the `Cookie` header for a request to `target` (section 5.4): longer paths first, then older cookies. `None` when there is
    /// nothing to say.
    pub fn header(&self, target: &Target, now: SystemTime) -> Option<String> {
        let mut fitting: Vec<&Cookie> =
            self.cookies.iter().filter(|cookie| cookie.goes_to(target, now)).collect();
        // Stable, so that older ones stay in front.
        fitting.sort_by_key(|cookie| std::cmp::Reverse(cookie.path.len()));
        let pairs: Vec<String> = fitting.iter().map(|cookie| cookie.pair()).collect();
        (!pairs.is_empty()).then(|| pairs.join("; "))
    }

    /// Puts the cookies for `target` into the headers of a request, behind those that are there already: in one line, for a request has no
    /// more than one (section 5.4).
    pub fn add_to(&self, headers: &mut Headers, target: &Target, now: SystemTime) {
        let Some(own) = self.header(target, now) else { return };
        let mut all: Vec<&str> = headers.all("Cookie").collect();
        all.push(&own);
        let all = all.join("; ");
        *headers = headers.without(&["Cookie"]);
        // Values are of printable characters only.
        headers.push("Cookie", all).ok();
    }

    /// All cookies, the oldest first: to show them, or to keep those with an end.
    pub fn iter(&self) -> impl Iterator<Item = &Cookie> {
        self.cookies.iter()
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.cookies.clear();
    }
}

impl Cookie {
    fn pair(&self) -> String {
        format!("{}={}", self.name, self.value)
    }

    fn goes_to(&self, target: &Target, now: SystemTime) -> bool {
        let host = match self.host_only {
            true => target.host == self.domain,
            false => domain_matches(&target.host, &self.domain),
        };
        host && path_matches(path_of(target), &self.path)
            && (target.secure || !self.secure)
            && self.expires.is_none_or(|at| at > now)
    }
}

/// Whether some request would get both.
fn touches(guarded: &Cookie, cookie: &Cookie) -> bool {
    (domain_matches(&guarded.domain, &cookie.domain)
        || domain_matches(&cookie.domain, &guarded.domain))
        && path_matches(&cookie.path, &guarded.path)
}

/// RFC 6265 section 5.2, then the checks of section 5.3.
fn parse(
    target: &Target,
    line: &str,
    now: SystemTime,
    parents: bool,
) -> Result<Cookie, CookieError> {
    if line.bytes().any(|byte| (byte < b' ' && byte != b'\t') || byte == 0x7F) {
        return Err(CookieError::Malformed);
    }
    let mut parts = line.split(';');
    let pair = parts.next().unwrap_or_default();
    let (name, value) = pair.split_once('=').ok_or(CookieError::Malformed)?;
    let (name, value) = (name.trim(), value.trim());
    if !is_token(name) || !value.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') {
        return Err(CookieError::Malformed);
    }
    if name.len() + value.len() > MAX_COOKIE {
        return Err(CookieError::TooLarge);
    }
    let mut cookie = Cookie {
        name: name.to_owned(),
        value: value.to_owned(),
        domain: target.host.clone(),
        host_only: true,
        path: default_path(path_of(target)).to_owned(),
        secure: false,
        expires: None,
    };
    let (mut max_age, mut expires, mut domain, mut path) = (None, None, None, None);
    // Of several of one name the last counts (section 5.3), and what is unknown or unreadable is ignored (section 5.2).
    for attribute in parts {
        let (key, value) = attribute.split_once('=').unwrap_or((attribute, ""));
        let value = value.trim();
        match key.trim().to_ascii_lowercase().as_str() {
            "max-age" => max_age = seconds(value).or(max_age),
            "expires" => expires = parse_date(value).or(expires),
            "domain" => {
                domain = Some(value.strip_prefix('.').unwrap_or(value).to_ascii_lowercase());
            }
            "path" => path = Some(value),
            "secure" => cookie.secure = true,
            _ => {}
        }
    }
    if let Some(domain) = domain.filter(|domain| !domain.is_empty()) {
        cookie.host_only = check_domain(&target.host, &domain, parents)?;
        cookie.domain = domain;
    }
    let whole = path.is_some_and(|path| path == "/");
    if let Some(path) = path.filter(|path| path.starts_with('/')) {
        cookie.path = path.to_owned();
    }
    // Max-Age comes before Expires (section 5.3 step 3).
    cookie.expires = match max_age {
        Some(None) => Some(now),
        Some(Some(age)) => now.checked_add(age.min(LONGEST)),
        None => expires.map(|at| at.min(now.checked_add(LONGEST).unwrap_or(at))),
    };
    if cookie.secure && !target.secure {
        return Err(CookieError::Insecure);
    }
    let prefixed = |prefix: &str| {
        name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
    };
    let host = cookie.host_only && whole;
    if (prefixed("__Secure-") && !cookie.secure)
        || (prefixed("__Host-") && !(cookie.secure && host))
    {
        return Err(CookieError::Prefix);
    }
    Ok(cookie)
}

/// `Max-Age` (section 5.2.2): `Some(None)` has ended.
fn seconds(value: &str) -> Option<Option<Duration>> {
    let digits = value.strip_prefix('-').unwrap_or(value);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // More digits than a number has is longer than any cookie lives.
    let seconds = digits.parse::<u64>().unwrap_or(u64::MAX);
    let over = value.starts_with('-') || seconds == 0;
    Some((!over).then(|| Duration::from_secs(seconds)))
}

/// Whether the cookie of a `Domain` attribute is for one host only, if it may be set at all (section 5.3 steps 5 and 6).
fn check_domain(host: &str, domain: &str, parents: bool) -> Result<bool, CookieError> {
    if host == domain {
        return Ok(is_address(host));
    }
    // A domain of one label, such as `com`, is nobody's.
    let fits = parents && domain.contains('.') && domain_matches(host, domain);
    if fits { Ok(false) } else { Err(CookieError::Domain) }
}

/// Section 5.1.3.
fn domain_matches(host: &str, domain: &str) -> bool {
    host == domain
        || (!is_address(host)
            && host.strip_suffix(domain).is_some_and(|before| before.ends_with('.')))
}

fn is_address(host: &str) -> bool {
    host.parse::<Ipv4Addr>().is_ok() || host.parse::<Ipv6Addr>().is_ok()
}

fn path_of(target: &Target) -> &str {
    target.path.split_once('?').map_or(target.path.as_str(), |(path, _)| path)
}

/// Section 5.1.4: up to the last slash, without it.
fn default_path(path: &str) -> &str {
    match path.rfind('/') {
        Some(at @ 1..) => path.get(..at).unwrap_or("/"),
        _ => "/",
    }
}

/// Section 5.1.4.
fn path_matches(path: &str, cookie: &str) -> bool {
    path.strip_prefix(cookie)
        .is_some_and(|rest| rest.is_empty() || cookie.ends_with('/') || rest.starts_with('/'))
}
