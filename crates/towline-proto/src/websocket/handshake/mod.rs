//! The opening handshake (RFC 6455 sections 1.3 and 4): an HTTP/1.1 upgrade, with what surrounds it in practice.
//!
//! [`ClientHandshake`] asks and [`ServerHandshake`] answers; both end with [`Opened`], from which
//! [`Opened::into_connection`] makes the connection. [`Navigation`] keeps a client's way over redirects and
//! authentication, and [`ProxyTunnel`] gets through a proxy first.
//!
//! The doors are those of [`Connection`]: bytes, the end of the transport, and time go in; bytes to write and one outcome
//! come out.

mod auth;
mod client;
mod cookie;
mod cookie_date;
mod navigation;
mod proxy;
mod server;
mod socks;
mod target;

use std::sync::Arc;
use std::time::Instant;

use base64::Engine;
use bytes::BytesMut;
use sha1::Digest;

pub use super::http::{HeaderError, Headers, Response};
pub use auth::Credentials;
pub use client::{ClientHandshake, ClientOptions, ClientOutcome};
pub use cookie::{Cookie, CookieError, CookieJar, MAX_COOKIE, MAX_COOKIES, MAX_COOKIES_PER_DOMAIN};
pub use navigation::Navigation;
pub use proxy::{ProxyKind, ProxyOptions, ProxyOutcome, ProxyTunnel};
pub use server::{Acceptance, Refusal, Request, ServerEvent, ServerHandshake, ServerOptions};
pub use target::{Target, TargetError};

use super::config::{Config, Role};
use super::connection::{Compression, Connection};
use super::deflate::NegotiateError;
use super::random::Entropy;

/// A WebSocket whose handshake is complete.
#[derive(Debug)]
pub struct Opened {
    /// Which end this is.
    pub role: Role,
    /// The subprotocol in use.
    pub subprotocol: Option<String>,
    /// Permessage-deflate, if agreed.
    pub compression: Option<Compression>,
    /// The server's response; at the server, the one that was sent.
    pub response: Response,
    /// Bytes that came behind the handshake already.
    pub rest: BytesMut,
}

impl Opened {
    /// The connection, fed with the bytes that came already: poll it for events at once.
    pub fn into_connection(
        self,
        config: Arc<Config>,
        entropy: Box<dyn Entropy + Send>,
        now: Instant,
    ) -> Connection {
        let mut connection =
            Connection::new(self.role, config, self.compression.as_ref(), entropy, now);
        connection.handle_input(now, self.rest);
        connection
    }
}

/// Why a handshake failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The time for the handshake is over. The peer's or the network's doing; a retry may help.
    #[error("handshake timed out")]
    Timeout,
    /// The transport ended in the middle. A retry may help.
    #[error("connection ended during the handshake")]
    Ended,
    /// The peer's head is above its limit.
    #[error("head too large")]
    HeadTooLarge,
    /// The peer does not speak HTTP/1.1.
    #[error("malformed head")]
    Malformed,
    /// The server answered with something other than 101; whether a retry helps is in the status.
    #[error("server answered {}", .0.status)]
    Status(Box<Response>),
    /// A SOCKS proxy refused.
    #[error("the proxy refused: {0}")]
    Proxy(&'static str),
    /// The server's 101 is none: a header is missing or wrong (RFC 6455 section 4.1).
    #[error("invalid upgrade: {0}")]
    Upgrade(&'static str),
    /// The server's choice of extensions was not offered.
    #[error(transparent)]
    Extensions(#[from] NegotiateError),
    /// The server chose a subprotocol that was not asked for, or none where one is required.
    #[error("subprotocol not agreed")]
    Subprotocol,
    /// More than `max_redirects`.
    #[error("too many redirects")]
    TooManyRedirects,
    /// A redirect without a usable `Location`.
    #[error("invalid redirect: {0}")]
    Redirect(TargetError),
    /// A redirect from `wss` to `ws` is not followed.
    #[error("redirect to an insecure address refused")]
    InsecureRedirect,
    /// The server wants credentials, and there are none or they were refused.
    #[error("authentication required")]
    Unauthorized(Box<Response>),
    /// At the server: the request was answered with this status.
    #[error("request refused with {0}")]
    Refused(u16),
}

/// RFC 6455 section 4.2.2: what a server makes of the client's key.
pub fn accept_key(key: &str) -> String {
    let mut hash = sha1::Sha1::new();
    hash.update(key.as_bytes());
    hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    base64::engine::general_purpose::STANDARD.encode(hash.finalize())
}
