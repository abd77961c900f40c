//! The cookies of a program's WebSockets.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use towline_proto::websocket::handshake::{self, Cookie, CookieError, Headers, Target};

/// Cookies that servers set in WebSocket handshakes (RFC 6265), for
/// [`websocket_cookies`](crate::ConfigBuilder::websocket_cookies): a cheap handle; clones are the same jar.
///
/// At most 1,000 cookies of 4 KiB, 50 of a domain; the oldest make room. Nothing is written anywhere: [`CookieJar::cookies`] and
/// [`CookieJar::insert`] are for applications that keep them.
#[derive(Clone, Debug, Default)]
pub struct CookieJar(Arc<Mutex<handshake::CookieJar>>);

impl CookieJar {
    /// An empty jar.
    pub fn new() -> CookieJar {
        CookieJar::default()
    }

    fn jar(&self) -> MutexGuard<'_, handshake::CookieJar> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether `Domain` may name a domain above the host that sets the cookie, so that it goes to sibling hosts as well. Default no: there is
    /// no list here that tells one owner's domain from everybody's, such as `co.uk`.
    pub fn accept_parent_domains(&self, accept: bool) {
        self.jar().accept_parent_domains(accept);
    }

    /// Takes one `Set-Cookie` value as if the server at `url` (`ws://` or `wss://`) had sent it.
    ///
    /// # Errors
    /// Why it was refused; [`CookieError::Malformed`] also for a `url` that is none.
    pub fn set(&self, url: &str, line: &str) -> Result<(), CookieError> {
        let (target, _) = Target::parse(url).map_err(|_| CookieError::Malformed)?;
        self.jar().set(&target, line, SystemTime::now())
    }

    /// Puts a cookie in that was taken out by [`CookieJar::cookies`].
    pub fn insert(&self, cookie: Cookie) {
        self.jar().insert(cookie, SystemTime::now());
    }

    /// All cookies, the oldest first.
    pub fn cookies(&self) -> Vec<Cookie> {
        self.jar().iter().cloned().collect()
    }

    /// Forgets all cookies.
    pub fn clear(&self) {
        self.jar().clear();
    }

    pub(crate) fn add_to(&self, headers: &mut Headers, target: &Target) {
        self.jar().add_to(headers, target, SystemTime::now());
    }

    pub(crate) fn store(&self, target: &Target, headers: &Headers) {
        self.jar().store(target, headers, SystemTime::now());
    }
}
