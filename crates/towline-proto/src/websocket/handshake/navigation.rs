//! A client's way to its server over redirects and a challenge.

use std::sync::Arc;
use std::time::Instant;

use super::super::http::HeaderError;
use super::super::random::Entropy;
use super::{ClientHandshake, ClientOptions, Credentials, HandshakeError, Target, TargetError};

/// Headers that tell who the user is: they stay within the origin they were meant for.
const SECRETS: [&str; 3] = ["Authorization", "Cookie", "Proxy-Authorization"];

/// Where the client is on its way. Each step takes a fresh transport to [`Navigation::target`].
#[derive(Debug, Clone)]
pub struct Navigation {
    options: Arc<ClientOptions>,
    target: Target,
    redirects: usize,
    show: bool,
}

impl Navigation {
    /// A way that begins at `url`. Credentials in the address count if the options have none.
    ///
    /// # Errors
    /// When it is no `ws` or `wss` address.
    pub fn new(url: &str, mut options: ClientOptions) -> Result<Navigation, TargetError> {
        let (target, credentials) = Target::parse(url)?;
        options.credentials = options.credentials.or(credentials);
        let show = !options.wait_for_challenge;
        Ok(Navigation { options: Arc::new(options), target, redirects: 0, show })
    }

    /// Where to connect now, and whether with TLS.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// The redirects so far.
    pub fn redirects(&self) -> usize {
        self.redirects
    }

    /// The credentials that the present target may see.
    pub fn credentials(&self) -> Option<&Credentials> {
        self.options.credentials.as_ref()
    }

    /// A handshake with the present target.
    ///
    /// # Errors
    /// Those of [`ClientOptions::validate`].
    pub fn handshake(
        &self,
        entropy: &mut dyn Entropy,
        now: Instant,
    ) -> Result<ClientHandshake, HeaderError> {
        ClientHandshake::new(&self.options, &self.target, self.show, entropy, now)
    }

    /// [`Navigation::handshake`] with options that differ this time, such as other subprotocols.
    ///
    /// # Errors
    /// Those of [`ClientOptions::validate`].
    pub fn handshake_with(
        &self,
        entropy: &mut dyn Entropy,
        now: Instant,
        change: impl FnOnce(&mut ClientOptions),
    ) -> Result<ClientHandshake, HeaderError> {
        let mut options = ClientOptions::clone(&self.options);
        change(&mut options);
        ClientHandshake::new(&options, &self.target, self.show, entropy, now)
    }

    /// Follows a redirect. Credentials and cookies are dropped for good when it leaves the origin.
    ///
    /// # Errors
    /// After `max_redirects`, and from `wss` to `ws`.
    pub fn follow(&mut self, target: Target) -> Result<(), HandshakeError> {
        if self.redirects >= self.options.max_redirects {
            return Err(HandshakeError::TooManyRedirects);
        }
        if self.target.secure && !target.secure {
            return Err(HandshakeError::InsecureRedirect);
        }
        if !self.target.same_origin(&target) {
            let mut options = ClientOptions::clone(&self.options);
            options.credentials = None;
            options.headers = options.headers.without(&SECRETS);
            self.options = Arc::new(options);
        }
        self.redirects += 1;
        self.target = target;
        Ok(())
    }

    /// Shows the credentials from now on: the server asked for them.
    pub fn authenticate(&mut self) {
        self.show = true;
    }
}
