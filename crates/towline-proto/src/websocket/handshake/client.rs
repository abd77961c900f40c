//! The client's side of the handshake (RFC 6455 section 4.1).

use std::time::{Duration, Instant};

use base64::Engine;
use bytes::{Bytes, BytesMut};

use super::super::config::Role;
use super::super::connection::Compression;
use super::super::deflate::{DeflateConfig, DeflateParams};
use super::super::http::{HeadError, HeadReader, HeaderError, Headers, Response, is_token, line};
use super::super::random::Entropy;
use super::{Credentials, HandshakeError, Opened, Target, accept_key};

/// Headers that the handshake writes itself.
const RESERVED: [&str; 9] = [
    "Host",
    "Upgrade",
    "Connection",
    "Content-Length",
    "Transfer-Encoding",
    "Sec-WebSocket-Key",
    "Sec-WebSocket-Version",
    "Sec-WebSocket-Protocol",
    "Sec-WebSocket-Extensions",
];

/// What a client asks for, and within which limits.
#[derive(Debug, Clone, PartialEq)]
pub struct ClientOptions {
    /// Further headers: cookies, an origin, whatever the server wants. Those that the handshake writes itself are refused.
    pub headers: Headers,
    /// Subprotocols in order of preference.
    pub subprotocols: Vec<String>,
    /// If subprotocols are asked for, fail unless the server chooses one. Default true.
    pub require_subprotocol: bool,
    /// Offer permessage-deflate. Default `None`.
    pub deflate: Option<DeflateConfig>,
    /// Shown to the first server and to redirects within its origin.
    pub credentials: Option<Credentials>,
    /// Show the credentials only after the server asked with 401. Default false: at once.
    pub wait_for_challenge: bool,
    /// The `User-Agent`, unless it is among `headers`. Default `towline/` and the version.
    pub user_agent: String,
    /// Redirects to follow. Default 10; 0 follows none.
    pub max_redirects: usize,
    /// The largest head of a response, in bytes. Default 64 KiB.
    pub max_head: usize,
    /// The most headers of a response. Default 100.
    pub max_headers: usize,
    /// How much of the body of a refusal is kept, in bytes. Default 4 KiB.
    pub max_body: usize,
    /// The time for one handshake, from the first byte to the outcome. Default 15 s.
    pub timeout: Duration,
}

impl Default for ClientOptions {
    fn default() -> ClientOptions {
        ClientOptions {
            headers: Headers::new(),
            subprotocols: Vec::new(),
            require_subprotocol: true,
            deflate: None,
            credentials: None,
            wait_for_challenge: false,
            user_agent: concat!("towline/", env!("CARGO_PKG_VERSION")).into(),
            max_redirects: 10,
            max_head: 64 << 10,
            max_headers: 100,
            max_body: 4 << 10,
            timeout: Duration::from_secs(15),
        }
    }
}

impl ClientOptions {
    /// Checks what goes into the request.
    ///
    /// # Errors
    /// Names the header that cannot be sent.
    pub fn validate(&self) -> Result<(), HeaderError> {
        let refused = |name: &str| HeaderError { name: name.to_owned() };
        if let Some((name, _)) = self
            .headers
            .iter()
            .find(|(name, _)| RESERVED.iter().any(|own| own.eq_ignore_ascii_case(name)))
        {
            return Err(refused(name));
        }
        // RFC 6455 section 4.1 item 10: tokens, all different.
        let unique = |at: usize, name: &String| {
            !self.subprotocols.iter().take(at).any(|before| before == name)
        };
        if !self
            .subprotocols
            .iter()
            .enumerate()
            .all(|(at, name)| is_token(name) && unique(at, name))
        {
            return Err(refused("Sec-WebSocket-Protocol"));
        }
        if self.deflate.as_ref().is_some_and(|deflate| deflate.validate().is_err()) {
            return Err(refused("Sec-WebSocket-Extensions"));
        }
        Headers::new().push("User-Agent", self.user_agent.as_str())?;
        self.credentials.as_ref().map(Credentials::header_value).transpose().map(|_| ())
    }
}

/// How one handshake of a client ended.
#[derive(Debug)]
pub enum ClientOutcome {
    /// The WebSocket is open.
    Open(Opened),
    /// The server is elsewhere: close this transport and give the target to [`Navigation`](super::Navigation).
    Redirect {
        /// Where to go.
        target: Target,
        /// The response with the redirect.
        response: Response,
    },
    /// The server asks for credentials that were held back: close this transport and repeat with them.
    Challenge(Response),
    /// It failed: close the transport.
    Failed(HandshakeError),
}

#[derive(Debug)]
enum State {
    Head,
    /// Reading the body of a refusal; the number is what is still wanted at most.
    Body(Box<Response>, BytesMut, usize),
    Done,
}

/// One request and the response to it.
#[derive(Debug)]
pub struct ClientHandshake {
    target: Target,
    subprotocols: Vec<String>,
    require_subprotocol: bool,
    deflate: Option<DeflateConfig>,
    max_body: usize,
    expected: String,
    /// Credentials that the request does not show but could.
    held_back: bool,
    request: Option<Bytes>,
    head: HeadReader,
    state: State,
    deadline: Option<Instant>,
    response: Option<Response>,
    outcome: Option<ClientOutcome>,
}

impl ClientHandshake {
    /// A handshake with `target` over a transport that is up (through TLS and proxies already).
    ///
    /// `show`: put the credentials into the request.
    ///
    /// # Errors
    /// Those of [`ClientOptions::validate`].
    pub fn new(
        options: &ClientOptions,
        target: &Target,
        show: bool,
        entropy: &mut dyn Entropy,
        now: Instant,
    ) -> Result<ClientHandshake, HeaderError> {
        options.validate()?;
        // Section 4.1 item 7: 16 random bytes.
        let mut nonce = [0; 16];
        entropy.fill(&mut nonce);
        let key = base64::engine::general_purpose::STANDARD.encode(nonce);
        let request = write_request(options, target, show, &key)?;
        Ok(ClientHandshake {
            target: target.clone(),
            subprotocols: options.subprotocols.clone(),
            require_subprotocol: options.require_subprotocol,
            deflate: options.deflate.clone(),
            max_body: options.max_body,
            expected: accept_key(&key),
            held_back: !show && options.credentials.is_some(),
            request: Some(request.into()),
            head: HeadReader::new(options.max_head, options.max_headers),
            state: State::Head,
            deadline: now.checked_add(options.timeout),
            response: None,
            outcome: None,
        })
    }

    /// Bytes to write; returns how many were added.
    pub fn poll_transmit(&mut self, out: &mut Vec<Bytes>) -> usize {
        self.request.take().map_or(0, |request| {
            let length = request.len();
            out.push(request);
            length
        })
    }

    /// Bytes from the transport.
    pub fn handle_input(&mut self, _now: Instant, data: BytesMut) {
        match &mut self.state {
            State::Head => match self.head.feed(data) {
                Ok(None) => {}
                Ok(Some(head)) => self.on_head(&head),
                Err(error) => self.fail(head_error(error)),
            },
            State::Body(_, body, want) => {
                let take = data.len().min(*want);
                body.extend_from_slice(data.get(..take).unwrap_or_default());
                *want -= take;
                if *want == 0 {
                    self.finish_body();
                }
            }
            State::Done => {}
        }
    }

    /// The transport ended.
    pub fn handle_eof(&mut self, _now: Instant) {
        match self.state {
            State::Head => self.fail(HandshakeError::Ended),
            State::Body(..) => self.finish_body(),
            State::Done => {}
        }
    }

    /// The time that [`ClientHandshake::poll_timeout`] named has come; harmless at any other time.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_some_and(|deadline| deadline <= now) {
            match self.state {
                State::Body(..) => self.finish_body(),
                _ => self.fail(HandshakeError::Timeout),
            }
        }
    }

    /// When [`ClientHandshake::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if matches!(self.state, State::Done) { None } else { self.deadline }
    }

    /// With whom the handshake is.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// The head of the server's final response, whatever came of it, once it is read.
    pub fn response(&self) -> Option<&Response> {
        self.response.as_ref()
    }

    /// The outcome, once.
    pub fn poll_outcome(&mut self) -> Option<ClientOutcome> {
        self.outcome.take()
    }

    fn fail(&mut self, error: HandshakeError) {
        self.done(ClientOutcome::Failed(error));
    }

    fn done(&mut self, outcome: ClientOutcome) {
        self.state = State::Done;
        self.outcome = Some(outcome);
    }

    fn on_head(&mut self, head: &[u8]) {
        let response = match self.head.parse_response(head) {
            Ok(response) => response,
            Err(error) => return self.fail(head_error(error)),
        };
        if !matches!(response.status, 100 | 102..=199) {
            self.response = Some(response.clone());
        }
        match response.status {
            101 if !head.starts_with(b"HTTP/1.1 ") => {
                self.fail(HandshakeError::Upgrade("not HTTP/1.1"))
            }
            101 => match self.check_upgrade(&response) {
                Ok((subprotocol, compression)) => {
                    let rest = self.head.take_rest();
                    self.done(ClientOutcome::Open(Opened {
                        role: Role::Client,
                        subprotocol,
                        compression,
                        response,
                        rest,
                    }));
                }
                Err(error) => self.fail(error),
            },
            // RFC 9110 section 15.2: an interim response; the final one follows.
            100..=199 => {
                let rest = self.head.take_rest();
                self.head.restart();
                self.handle_head_again(rest);
            }
            301 | 302 | 303 | 307 | 308 => {
                match self.target.resolve(response.headers.first("Location").unwrap_or_default()) {
                    Ok(target) => self.done(ClientOutcome::Redirect { target, response }),
                    Err(error) => self.fail(HandshakeError::Redirect(error)),
                }
            }
            401 if self.held_back => self.done(ClientOutcome::Challenge(response)),
            _ => self.begin_body(response),
        }
    }

    fn handle_head_again(&mut self, rest: BytesMut) {
        match self.head.feed(rest) {
            Ok(None) => {}
            Ok(Some(head)) => self.on_head(&head),
            Err(error) => self.fail(head_error(error)),
        }
    }

    /// The body of a refusal often says why.
    fn begin_body(&mut self, response: Response) {
        let length =
            response.headers.only("Content-Length").and_then(|length| length.parse::<usize>().ok());
        let want = length.unwrap_or(self.max_body).min(self.max_body);
        let rest = self.head.take_rest();
        self.state = State::Body(Box::new(response), BytesMut::new(), want);
        if want == 0 {
            self.finish_body();
        } else if let State::Body(_, body, want) = &mut self.state {
            let take = rest.len().min(*want);
            body.extend_from_slice(rest.get(..take).unwrap_or_default());
            *want -= take;
            if *want == 0 {
                self.finish_body();
            }
        }
    }

    fn finish_body(&mut self) {
        let State::Body(mut response, body, _) = std::mem::replace(&mut self.state, State::Done)
        else {
            return;
        };
        response.body = body.freeze();
        self.fail(if response.status == 401 {
            HandshakeError::Unauthorized(response)
        } else {
            HandshakeError::Status(response)
        });
    }

    /// RFC 6455 section 4.1, what the client must check.
    fn check_upgrade(
        &self,
        response: &Response,
    ) -> Result<(Option<String>, Option<Compression>), HandshakeError> {
        let headers = &response.headers;
        if !headers.has_token("Upgrade", "websocket") {
            return Err(HandshakeError::Upgrade("upgrade header is not websocket"));
        }
        if !headers.has_token("Connection", "upgrade") {
            return Err(HandshakeError::Upgrade("connection header is not upgrade"));
        }
        if headers.only("Sec-WebSocket-Accept") != Some(self.expected.as_str()) {
            return Err(HandshakeError::Upgrade("wrong accept key"));
        }
        let subprotocol = match headers.all("Sec-WebSocket-Protocol").count() {
            0 if self.subprotocols.is_empty() || !self.require_subprotocol => None,
            1 => headers.only("Sec-WebSocket-Protocol").map(str::to_owned),
            _ => return Err(HandshakeError::Subprotocol),
        };
        if subprotocol.as_ref().is_some_and(|chosen| !self.subprotocols.contains(chosen)) {
            return Err(HandshakeError::Subprotocol);
        }
        let extensions = headers.joined("Sec-WebSocket-Extensions").unwrap_or_default();
        let params = DeflateParams::confirm(self.deflate.as_ref(), &extensions)?;
        let compression =
            params.zip(self.deflate.clone()).map(|(params, config)| Compression { config, params });
        Ok((subprotocol, compression))
    }
}

fn head_error(error: HeadError) -> HandshakeError {
    match error {
        HeadError::TooLarge => HandshakeError::HeadTooLarge,
        HeadError::Malformed => HandshakeError::Malformed,
    }
}

fn write_request(
    options: &ClientOptions,
    target: &Target,
    show: bool,
    key: &str,
) -> Result<String, HeaderError> {
    let mut out = format!("GET {} HTTP/1.1\r\n", target.path);
    line(&mut out, "Host", &target.host_header());
    line(&mut out, "Upgrade", "websocket");
    line(&mut out, "Connection", "Upgrade");
    line(&mut out, "Sec-WebSocket-Version", "13");
    line(&mut out, "Sec-WebSocket-Key", key);
    if !options.subprotocols.is_empty() {
        line(&mut out, "Sec-WebSocket-Protocol", &options.subprotocols.join(", "));
    }
    if let Some(deflate) = &options.deflate {
        line(&mut out, "Sec-WebSocket-Extensions", &DeflateParams::offer(deflate));
    }
    if options.headers.first("User-Agent").is_none() && !options.user_agent.is_empty() {
        line(&mut out, "User-Agent", &options.user_agent);
    }
    if let Some(credentials) = options.credentials.as_ref().filter(|_| show) {
        line(&mut out, "Authorization", &credentials.header_value()?);
    }
    options.headers.write(&mut out);
    out.push_str("\r\n");
    Ok(out)
}
