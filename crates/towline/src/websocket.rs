//! WebSocket as applications see it: its options, and what was agreed with the peer.
//!
//! On `ws://` and `wss://` a connection is one of two things, and the handshake decides which. Two Towline programs agree on
//! the subprotocol `towline.1` and run a session in binary messages, the same as on any other session wire: everything
//! that is promised there holds. Any other peer gets and sends plain WebSocket messages, text and binary; such a
//! connection ends with its WebSocket. [`Capabilities::session`](crate::Capabilities::session) tells which it is,
//! [`SessionUse`] restricts it, and `docs/websocket.md` has the bytes.

#[cfg(feature = "websocket")]
mod cookies;

#[cfg(feature = "websocket")]
use std::time::Duration;

#[cfg(feature = "websocket")]
pub use cookies::CookieJar;
#[cfg(feature = "websocket")]
pub use towline_proto::websocket::{
    DeflateConfig,
    handshake::{Cookie, CookieError, Credentials, Headers},
};

#[cfg(feature = "websocket")]
use crate::config::{ConfigBuilder, Plain};
#[cfg(feature = "websocket")]
use crate::error::ConfigError;

/// The subprotocol of Towline's session.
#[cfg(feature = "websocket")]
pub(crate) const SUBPROTOCOL: &str = "towline.1";

/// The header by which a server confirms the subprotocol. There are servers that answer with whatever was asked for
/// first, without speaking it.
#[cfg(feature = "websocket")]
pub(crate) const CONFIRMATION: &str = "Towline-Session";

/// Whether a WebSocket may, must, or must not carry a Towline session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum SessionUse {
    /// A session with peers that speak it, plain messages with the others.
    #[default]
    Prefer,
    /// Only a session: other peers are refused.
    Require,
    /// Only plain messages, also between two Towline programs.
    Never,
}

/// What was agreed when a WebSocket was opened; see [`Connection::websocket`](crate::Connection::websocket).
#[cfg(feature = "websocket")]
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Upgraded {
    /// The subprotocol in use: `towline.1` with a session, else one of the application's.
    pub subprotocol: Option<String>,
    /// Path and query, as the client asked for them (after redirects, the last ones).
    pub target: String,
    /// The peer's headers: of the request at a server, of the response at a client.
    pub headers: Headers,
    /// Whether messages are compressed (permessage-deflate).
    pub compressed: bool,
}

/// The options of all WebSockets of a configuration.
#[cfg(feature = "websocket")]
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) session: SessionUse,
    pub(crate) subprotocols: Vec<String>,
    pub(crate) origins: Option<Vec<String>>,
    headers: Vec<(String, String)>,
    credentials: Option<Credentials>,
    wait_for_challenge: bool,
    max_redirects: usize,
    pub(crate) deflate: Option<DeflateConfig>,
    proxy: Option<(String, Option<Credentials>)>,
    cookies: Option<CookieJar>,
}

#[cfg(feature = "websocket")]
impl Default for Options {
    fn default() -> Options {
        Options {
            session: SessionUse::Prefer,
            subprotocols: Vec::new(),
            origins: None,
            headers: Vec::new(),
            credentials: None,
            wait_for_challenge: false,
            max_redirects: 10,
            deflate: None,
            proxy: None,
            cookies: None,
        }
    }
}

/// What a socket factory that does the handshake itself has to ask for.
#[cfg(feature = "websocket")]
pub(crate) fn fill_open_options(
    options: &Checked,
    needs_session: bool,
    open: &mut crate::socket_factory::OpenOptions,
) {
    open.needs_session = needs_session || options.session == SessionUse::Require;
    if !open.needs_session {
        open.subprotocols.clone_from(&options.client.subprotocols);
    }
    if options.session != SessionUse::Never {
        open.subprotocols.push(SUBPROTOCOL.to_owned());
    }
    let headers = options.client.headers.iter();
    open.headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
}

/// The most redirects that can be asked for.
#[cfg(feature = "websocket")]
const MAX_REDIRECTS: usize = 100;

/// WebSocket.
#[cfg(feature = "websocket")]
impl ConfigBuilder {
    /// Whether `ws` and `wss` carry a Towline session. Default [`SessionUse::Prefer`].
    pub fn websocket_session(mut self, session: SessionUse) -> Self {
        self.websocket.session = session;
        self
    }

    /// The application's subprotocols (RFC 6455 section 1.9), the preferred first. A client asks for them, and a server
    /// that chooses none is left; a listener chooses the client's first one among them, and refuses clients that ask for
    /// none of them with 400. A Towline session, where both ends allow it, comes before them. Default: none, and any peer is fine.
    pub fn websocket_subprotocols(
        mut self,
        names: impl IntoIterator<Item = impl Into<String>>,
    ) -> Self {
        self.websocket.subprotocols = names.into_iter().map(Into::into).collect();
        self
    }

    /// The origins that browsers may come from, as they write them (`https://example.org`): others get 403 from a listener.
    /// Programs that are no browsers send no origin and pass. Default: any.
    pub fn websocket_origins(
        mut self,
        origins: impl IntoIterator<Item = impl Into<String>>,
    ) -> Self {
        self.websocket.origins = Some(origins.into_iter().map(Into::into).collect());
        self
    }

    /// Adds a header to a client's request, such as `Origin` or `Cookie`. Those of the handshake itself are refused by
    /// `build`. Cookies and authorization stay within the origin when a redirect leaves it.
    pub fn websocket_header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.websocket.headers.push((name.into(), value.into()));
        self
    }

    /// Keeps the cookies that servers set, of redirects and refusals too, and shows them in later handshakes, redials included. Several
    /// configurations may share a jar. Default: none, and cookies are ignored. A factory that does the handshake itself has its own.
    pub fn websocket_cookies(mut self, jar: CookieJar) -> Self {
        self.websocket.cookies = Some(jar);
        self
    }

    /// What a client shows to the server: Basic or a bearer token, at once. Default: nothing.
    pub fn websocket_credentials(mut self, credentials: Credentials) -> Self {
        self.websocket.credentials = Some(credentials);
        self
    }

    /// Show the credentials only when the server asks for them (401), which costs a connection more. Default no.
    pub fn websocket_wait_for_challenge(mut self, wait: bool) -> Self {
        self.websocket.wait_for_challenge = wait;
        self
    }

    /// How many redirects a client follows. 0 to 100; default 10. None leads from `wss` to `ws`.
    pub fn websocket_redirects(mut self, redirects: usize) -> Self {
        self.websocket.max_redirects = redirects;
        self
    }

    /// Compresses messages with peers that can, too (permessage-deflate, RFC 7692). Default no: it costs memory and time per
    /// connection, and where secrets and a stranger's text are in one message it can betray the secrets. The limit on
    /// messages counts inflated bytes.
    pub fn websocket_deflate(mut self, deflate: DeflateConfig) -> Self {
        self.websocket.deflate = Some(deflate);
        self
    }

    /// Dials WebSockets through a proxy, and what to show to it: `http://host:port` (CONNECT, RFC 9110 section 9.3.6), or
    /// `socks5://host:port` (RFC 1928; credentials are a user and a password, RFC 1929). Default: directly. The proxy resolves the server's name.
    pub fn websocket_proxy(
        mut self,
        url: impl Into<String>,
        credentials: Option<Credentials>,
    ) -> Self {
        self.websocket.proxy = Some((url.into(), credentials));
        self
    }
}

#[cfg(feature = "websocket")]
pub(crate) use checked::{Checked, Proxy};

#[cfg(feature = "websocket")]
mod checked {
    use std::sync::Arc;

    use towline_proto::websocket::handshake::{
        ClientOptions, ProxyKind, ProxyOptions, ServerOptions, Target,
    };
    use towline_proto::websocket::{Config, Delivery};

    use super::*;

    /// A proxy.
    #[derive(Clone, Debug)]
    pub(crate) struct Proxy {
        pub(crate) host: Box<str>,
        pub(crate) port: u16,
        pub(crate) options: ProxyOptions,
    }

    /// The options in the engine's words.
    #[derive(Clone, Debug)]
    pub(crate) struct Checked {
        pub(crate) session: SessionUse,
        /// Without subprotocols: those depend on the dial.
        pub(crate) client: ClientOptions,
        pub(crate) server: Arc<ServerOptions>,
        pub(crate) proxy: Option<Proxy>,
        pub(crate) cookies: Option<CookieJar>,
        /// For plain messages.
        pub(crate) messages: Arc<Config>,
        /// For the bytes of a session.
        pub(crate) carrier: Arc<Config>,
    }

    impl Options {
        pub(crate) fn check(&self, plain: &Plain) -> Result<Checked, ConfigError> {
            let refused = |option, value: &dyn std::fmt::Display, range| ConfigError::OutOfRange {
                option,
                value: value.to_string(),
                range,
            };
            if self.max_redirects > MAX_REDIRECTS {
                return Err(refused("websocket_redirects", &self.max_redirects, "0 to 100"));
            }
            if let Some(Err(error)) = self.deflate.as_ref().map(DeflateConfig::validate) {
                return Err(refused("websocket_deflate", &error.option, error.why));
            }
            let mut headers = Headers::new();
            for (name, value) in &self.headers {
                headers.push(name.as_str(), value.as_str()).map_err(|error| {
                    refused("websocket_header", &error.name, "a token, and a value on one line")
                })?;
            }
            if self.subprotocols.iter().any(|name| name == SUBPROTOCOL) {
                let range = "the application's own; `websocket_session` is for the session's";
                return Err(refused("websocket_subprotocols", &SUBPROTOCOL, range));
            }
            let checked = self.assemble(plain, headers, self.proxy(plain)?);
            checked.client.validate().map_err(|error| match error.name.as_str() {
                "Sec-WebSocket-Protocol" => refused(
                    "websocket_subprotocols",
                    &self.subprotocols.join(", "),
                    "tokens, all different",
                ),
                "Authorization" => refused(
                    "websocket_credentials",
                    &"what was given",
                    "a user without colon and a password, or a token of RFC 6750",
                ),
                name => refused("websocket_header", &name, "none that the handshake writes itself"),
            })?;
            Ok(checked)
        }

        pub(crate) fn assemble(
            &self,
            plain: &Plain,
            headers: Headers,
            proxy: Option<Proxy>,
        ) -> Checked {
            let client = ClientOptions {
                headers,
                subprotocols: self.subprotocols.clone(),
                require_subprotocol: !self.subprotocols.is_empty(),
                deflate: self.deflate.clone(),
                credentials: self.credentials.clone(),
                wait_for_challenge: self.wait_for_challenge,
                max_redirects: self.max_redirects,
                timeout: plain.connect_timeout,
                ..ClientOptions::default()
            };
            Checked {
                session: self.session,
                client,
                server: Arc::new(self.server(plain)),
                proxy,
                cookies: self.cookies.clone(),
                messages: Arc::new(messages_config(plain)),
                carrier: Arc::new(carrier_config(plain)),
            }
        }

        fn server(&self, plain: &Plain) -> ServerOptions {
            let mut subprotocols = match self.session {
                SessionUse::Require => Vec::new(),
                _ => self.subprotocols.clone(),
            };
            let require_subprotocol =
                !subprotocols.is_empty() || self.session == SessionUse::Require;
            if self.session != SessionUse::Never {
                subprotocols.push(SUBPROTOCOL.to_owned());
            }
            ServerOptions {
                subprotocols,
                require_subprotocol,
                deflate: self.deflate.clone(),
                origins: self.origins.clone(),
                timeout: plain.connect_timeout,
                ..ServerOptions::default()
            }
        }

        fn proxy(&self, plain: &Plain) -> Result<Option<Proxy>, ConfigError> {
            let Some((url, credentials)) = &self.proxy else { return Ok(None) };
            let refused = || ConfigError::OutOfRange {
                option: "websocket_proxy",
                value: url.clone(),
                range: "http://host:port or socks5://host:port, and credentials that fit",
            };
            let http = url.strip_prefix("http://").map(|rest| (ProxyKind::Http, rest));
            let socks = || url.strip_prefix("socks5://").map(|rest| (ProxyKind::Socks5, rest));
            let (kind, rest) = http.or_else(socks).ok_or_else(refused)?;
            let (target, _) = Target::parse(&format!("ws://{rest}")).map_err(|_| refused())?;
            if target.path != "/" {
                return Err(refused());
            }
            let options = ProxyOptions {
                kind,
                credentials: credentials.clone(),
                timeout: plain.connect_timeout,
                ..ProxyOptions::default()
            };
            options.validate().map_err(|_| refused())?;
            Ok(Some(Proxy { host: target.host.into(), port: target.port, options }))
        }
    }

    /// Plain messages: whole, within the limits that hold on every wire.
    fn messages_config(plain: &Plain) -> Config {
        Config {
            max_frame: plain.max_message as u64,
            max_message: plain.max_message as u64,
            delivery: Delivery::Whole,
            // What the application holds is bounded by the engine above, which counts more than payload.
            receive_window: u64::MAX,
            // The connection's own queue is the bound; what is here is on its way out.
            send_high: u64::MAX,
            send_low: 0,
            max_queued: u64::MAX,
            fragment: Some(plain.fragment_size),
            ping_after: Some(plain.keep_alive),
            pong_timeout: plain.silence_limit.saturating_sub(plain.keep_alive),
            close_timeout: plain.close_timeout.max(Duration::from_millis(1)),
            ..Config::default()
        }
    }

    /// The bytes of a session: handed up as they come, in messages of any size; the session has its own limits,
    /// flow control and keep-alive.
    fn carrier_config(plain: &Plain) -> Config {
        Config {
            max_frame: 1 << 40,
            max_message: 1 << 40,
            delivery: Delivery::Streamed { above: CARRIED_WHOLE },
            ping_after: None,
            ..messages_config(plain)
        }
    }

    /// Messages with a session's bytes up to this size are handed up whole, larger ones as they arrive.
    const CARRIED_WHOLE: usize = 4 << 10;
}
