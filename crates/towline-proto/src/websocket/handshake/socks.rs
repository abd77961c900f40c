//! Through a SOCKS 5 proxy (RFC 1928), with a user and a password if there are any (RFC 1929).

use std::net::IpAddr;

use bytes::{BufMut, Bytes, BytesMut};

use super::super::http::HeaderError;
use super::{Credentials, HandshakeError, Target};

/// The protocol's version, and that of the sub-negotiation of RFC 1929.
const VERSION: u8 = 5;
const LOGIN_VERSION: u8 = 1;

/// Methods (RFC 1928 section 3).
const NO_AUTHENTICATION: u8 = 0;
const USER_AND_PASSWORD: u8 = 2;

/// The longest name, user and password: each has one octet for its length.
const MAX_TEXT: usize = 255;

/// The longest reply: four octets, a name with its length, a port.
const MAX_REPLY: usize = 4 + 1 + MAX_TEXT + 2;

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    Method,
    Login,
    Reply,
}

/// What came of some input.
#[derive(Debug)]
pub(super) enum Step {
    /// More has to come, perhaps after these bytes were sent.
    More(Option<Bytes>),
    /// The tunnel is open; these bytes came through it already.
    Open(BytesMut),
    Failed(HandshakeError),
}

/// One negotiation.
#[derive(Debug)]
pub(super) struct Socks {
    wait: Wait,
    held: BytesMut,
    login: Option<Bytes>,
    request: Bytes,
}

impl Socks {
    /// The negotiation, and its first bytes.
    ///
    /// # Errors
    /// When the credentials are no user and password of 1 to 255 bytes each, or the host is longer than that.
    pub(super) fn new(
        credentials: Option<&Credentials>,
        target: &Target,
    ) -> Result<(Socks, Bytes), HeaderError> {
        let login = credentials.map(login).transpose()?;
        let mut greeting = vec![VERSION];
        match login {
            // The proxy may do without.
            Some(_) => greeting.extend([2, NO_AUTHENTICATION, USER_AND_PASSWORD]),
            None => greeting.extend([1, NO_AUTHENTICATION]),
        }
        let request = request(target)?;
        let socks = Socks { wait: Wait::Method, held: BytesMut::new(), login, request };
        Ok((socks, greeting.into()))
    }

    /// Bytes from the proxy.
    pub(super) fn handle_input(&mut self, data: &[u8]) -> Step {
        self.held.extend_from_slice(data);
        match self.wait {
            Wait::Method => self.method(),
            Wait::Login => self.logged_in(),
            Wait::Reply => self.reply(),
        }
    }

    fn method(&mut self) -> Step {
        let [version, method, ..] = self.held[..] else { return Step::More(None) };
        if version != VERSION {
            return Step::Failed(HandshakeError::Proxy("it speaks no SOCKS 5"));
        }
        let _ = self.held.split_to(2);
        match (method, self.login.take()) {
            (NO_AUTHENTICATION, _) => {
                self.wait = Wait::Reply;
                Step::More(Some(self.request.clone()))
            }
            (USER_AND_PASSWORD, Some(login)) => {
                self.wait = Wait::Login;
                Step::More(Some(login))
            }
            _ => Step::Failed(HandshakeError::Proxy("it wants another way to log in")),
        }
    }

    fn logged_in(&mut self) -> Step {
        let [version, status, ..] = self.held[..] else { return Step::More(None) };
        if version != LOGIN_VERSION {
            return Step::Failed(HandshakeError::Malformed);
        }
        if status != 0 {
            return Step::Failed(HandshakeError::Proxy("it refuses the user or the password"));
        }
        let _ = self.held.split_to(2);
        self.wait = Wait::Reply;
        Step::More(Some(self.request.clone()))
    }

    /// RFC 1928 section 6. The address in it is of no use to us.
    fn reply(&mut self) -> Step {
        let [version, reply, _, kind, first, ..] = self.held[..] else { return Step::More(None) };
        if version != VERSION {
            return Step::Failed(HandshakeError::Malformed);
        }
        if let Some(reason) = refusal(reply) {
            return Step::Failed(HandshakeError::Proxy(reason));
        }
        let address = match kind {
            1 => 4,
            3 => 1 + usize::from(first),
            4 => 16,
            _ => return Step::Failed(HandshakeError::Malformed),
        };
        let length = 4 + address + 2;
        debug_assert!(length <= MAX_REPLY);
        if self.held.len() < length {
            return Step::More(None);
        }
        let _ = self.held.split_to(length);
        Step::Open(std::mem::take(&mut self.held))
    }
}

/// A text behind its length.
fn put_text(out: &mut Vec<u8>, text: &str) -> Result<(), HeaderError> {
    let length = u8::try_from(text.len()).ok().filter(|length| *length > 0);
    out.put_u8(length.ok_or_else(|| HeaderError { name: "Proxy-Authorization".into() })?);
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

/// A user and a password (RFC 1929 section 2).
pub(super) fn login(credentials: &Credentials) -> Result<Bytes, HeaderError> {
    let Credentials::Basic { user, password } = credentials else {
        return Err(HeaderError { name: "Proxy-Authorization".into() });
    };
    let mut out = vec![LOGIN_VERSION];
    put_text(&mut out, user)?;
    put_text(&mut out, password)?;
    Ok(out.into())
}

/// CONNECT to the target (RFC 1928 section 4); names are the proxy's to resolve.
fn request(target: &Target) -> Result<Bytes, HeaderError> {
    let mut out = vec![VERSION, 1, 0];
    match target.host.parse() {
        Ok(IpAddr::V4(address)) => {
            out.put_u8(1);
            out.extend_from_slice(&address.octets());
        }
        Ok(IpAddr::V6(address)) => {
            out.put_u8(4);
            out.extend_from_slice(&address.octets());
        }
        Err(_) => {
            out.put_u8(3);
            put_text(&mut out, &target.host)?;
        }
    }
    out.put_u16(target.port);
    Ok(out.into())
}

/// What a reply that is not "succeeded" says (RFC 1928 section 6).
fn refusal(reply: u8) -> Option<&'static str> {
    Some(match reply {
        0 => return None,
        2 => "its rules do not allow the connection",
        3 => "the network is unreachable from it",
        4 => "the host is unreachable from it",
        5 => "the server refused its connection",
        6 => "its connection to the server timed out",
        7 => "it does not connect for others",
        8 => "it does not know this kind of address",
        _ => "it failed",
    })
}
