//! The server's side of the handshake (RFC 6455 section 4.2).

use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use bytes::{Bytes, BytesMut};

use super::super::config::Role;
use super::super::connection::Compression;
use super::super::deflate::{DeflateConfig, DeflateParams};
use super::super::http::{
    HeadError, HeadReader, HeaderError, Headers, RequestHead, Response, line, reason_phrase,
};
use super::{HandshakeError, Opened, accept_key};

/// What a server offers, and within which limits.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerOptions {
    /// Subprotocols that are spoken. The client's first one among them is chosen.
    pub subprotocols: Vec<String>,
    /// Refuse clients that ask for no subprotocol of ours. Default false.
    pub require_subprotocol: bool,
    /// Accept permessage-deflate. Default `None`.
    pub deflate: Option<DeflateConfig>,
    /// The origins that browsers may come from, exactly as they write them (`https://example.org`); others get 403.
    /// Clients without an origin are no browsers and pass (RFC 6455 section 10.2). Default `None`: any.
    pub origins: Option<Vec<String>>,
    /// The largest head of a request, in bytes; above it 431. Default 16 KiB.
    pub max_head: usize,
    /// The most headers of a request; above it 431. Default 100.
    pub max_headers: usize,
    /// The time from the transport's begin to the whole request; after it 408. Default 10 s.
    pub timeout: Duration,
}

impl Default for ServerOptions {
    fn default() -> ServerOptions {
        ServerOptions {
            subprotocols: Vec::new(),
            require_subprotocol: false,
            deflate: None,
            origins: None,
            max_head: 16 << 10,
            max_headers: 100,
            timeout: Duration::from_secs(10),
        }
    }
}

/// A client's valid request for a WebSocket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The path, as sent, without the query.
    pub path: String,
    /// What follows the question mark.
    pub query: Option<String>,
    /// The `Host` header.
    pub host: String,
    /// The `Origin` header: the page that a browser shows.
    pub origin: Option<String>,
    /// The subprotocols that the client asks for, in its order.
    pub subprotocols: Vec<String>,
    /// All headers.
    pub headers: Headers,
}

/// What an application adds to an acceptance.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Acceptance {
    /// The subprotocol, one of the request's; `None` takes the client's first one among ours.
    pub subprotocol: Option<String>,
    /// Further headers, such as cookies.
    pub headers: Headers,
}

/// An answer that is no WebSocket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The status, 200 to 599.
    pub status: u16,
    /// Further headers, such as `Location` or `WWW-Authenticate`.
    pub headers: Headers,
    /// The body, plain text unless a header says otherwise.
    pub body: String,
}

impl Refusal {
    /// A status with a line for people.
    pub fn new(status: u16, body: impl Into<String>) -> Refusal {
        Refusal { status, headers: Headers::new(), body: body.into() }
    }

    fn with(mut self, name: &str, value: &str) -> Refusal {
        // Only called with constants, which are valid.
        let _ = self.headers.push(name, value);
        self
    }

    fn encode(&self, head_only: bool) -> String {
        let status = if (200..=599).contains(&self.status) { self.status } else { 500 };
        let mut out = format!("HTTP/1.1 {status} {}\r\n", reason_phrase(status));
        self.headers.write(&mut out);
        if self.headers.first("Content-Type").is_none() {
            line(&mut out, "Content-Type", "text/plain; charset=utf-8");
        }
        line(&mut out, "Content-Length", &self.body.len().to_string());
        line(&mut out, "Connection", "close");
        out.push_str("\r\n");
        if !head_only {
            out.push_str(&self.body);
        }
        out
    }
}

/// What a server's handshake tells.
#[derive(Debug)]
pub enum ServerEvent {
    /// A valid request: answer with [`ServerHandshake::accept`] or [`ServerHandshake::refuse`]. Routing by path,
    /// authentication and whatever else decides belongs here.
    Request(Request),
    /// It failed. Write what [`ServerHandshake::poll_transmit`] gives, then close the transport.
    Failed(HandshakeError),
}

#[derive(Debug)]
enum State {
    Reading,
    /// The application decides.
    Deciding {
        key: String,
        request: Request,
    },
    Done,
}

/// One request and the answer to it.
#[derive(Debug)]
pub struct ServerHandshake {
    options: Arc<ServerOptions>,
    head: HeadReader,
    state: State,
    deadline: Option<Instant>,
    event: Option<ServerEvent>,
    out: Option<Bytes>,
    eof: bool,
}

impl ServerHandshake {
    /// Waits for a request on a transport that is up since `now`.
    pub fn new(options: Arc<ServerOptions>, now: Instant) -> ServerHandshake {
        ServerHandshake {
            head: HeadReader::new(options.max_head, options.max_headers),
            state: State::Reading,
            deadline: now.checked_add(options.timeout),
            event: None,
            out: None,
            eof: false,
            options,
        }
    }

    /// Bytes from the transport.
    pub fn handle_input(&mut self, _now: Instant, data: BytesMut) {
        match self.state {
            State::Reading => match self.head.feed(data) {
                Ok(None) => {}
                Ok(Some(head)) => self.on_head(&head),
                Err(error) => self.refuse_head(error),
            },
            // Frames before our answer are a client's mistake, but they lose nothing. Only so many, though.
            State::Deciding { .. } => {
                if self.head.hold(data).is_err() {
                    self.fail(Refusal::new(400, "data before the answer\n"), false);
                }
            }
            State::Done => {}
        }
    }

    /// The transport ended.
    pub fn handle_eof(&mut self, _now: Instant) {
        self.eof = true;
        if !matches!(self.state, State::Done) {
            self.state = State::Done;
            self.event = Some(ServerEvent::Failed(HandshakeError::Ended));
        }
    }

    /// The time that [`ServerHandshake::poll_timeout`] named has come; harmless at any other time.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_some_and(|deadline| deadline <= now) {
            // Whoever said nothing gets no answer (RFC 9110 section 15.5.9 allows one, nobody reads it).
            if !self.head.is_empty() {
                self.out = Some(Refusal::new(408, "request took too long\n").encode(false).into());
            }
            self.state = State::Done;
            self.event = Some(ServerEvent::Failed(HandshakeError::Timeout));
        }
    }

    /// When [`ServerHandshake::handle_timeout`] wants to be called. The application's decision has no deadline here.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if matches!(self.state, State::Reading) { self.deadline } else { None }
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<ServerEvent> {
        self.event.take()
    }

    /// Bytes to write; returns how many were added.
    pub fn poll_transmit(&mut self, out: &mut Vec<Bytes>) -> usize {
        self.out.take().map_or(0, |answer| {
            let length = answer.len();
            out.push(answer);
            length
        })
    }

    /// Accepts the request: the answer is ready for [`ServerHandshake::poll_transmit`] and the WebSocket is open.
    /// `None` when there is no request to accept, for instance because the transport ended meanwhile.
    ///
    /// # Errors
    /// When the subprotocol is not one that the client asked for, or a header is one that the handshake writes itself; the
    /// request is then still to be answered.
    pub fn accept(&mut self, acceptance: Acceptance) -> Result<Option<Opened>, HeaderError> {
        let State::Deciding { key, request } = &self.state else { return Ok(None) };
        let subprotocol = match acceptance.subprotocol {
            Some(chosen) if request.subprotocols.contains(&chosen) => Some(chosen),
            Some(_) => return Err(HeaderError { name: "Sec-WebSocket-Protocol".into() }),
            None => common(&self.options.subprotocols, &request.subprotocols),
        };
        let offers = request.headers.joined("Sec-WebSocket-Extensions");
        let compression = self.options.deflate.as_ref().zip(offers).and_then(|(config, offers)| {
            let params = DeflateParams::accept(config, &offers)?;
            Some(Compression { config: config.clone(), params })
        });
        let mut headers = Headers::new();
        headers.push("Upgrade", "websocket")?;
        headers.push("Connection", "Upgrade")?;
        headers.push("Sec-WebSocket-Accept", accept_key(key))?;
        if let Some(subprotocol) = &subprotocol {
            headers.push("Sec-WebSocket-Protocol", subprotocol.as_str())?;
        }
        if let Some(compression) = &compression {
            headers.push("Sec-WebSocket-Extensions", compression.params.answer())?;
        }
        for (name, value) in acceptance.headers.iter() {
            if is_reserved(name) {
                return Err(HeaderError { name: name.to_owned() });
            }
            headers.push(name, value)?;
        }
        let mut answer = String::from("HTTP/1.1 101 Switching Protocols\r\n");
        headers.write(&mut answer);
        answer.push_str("\r\n");
        self.out = Some(answer.into());
        self.state = State::Done;
        let response = Response {
            status: 101,
            reason: reason_phrase(101).into(),
            headers,
            body: Bytes::new(),
        };
        let rest = self.head.take_rest();
        Ok(Some(Opened { role: Role::Server, subprotocol, compression, response, rest }))
    }

    /// Answers the request with something else; [`ServerEvent::Failed`] follows.
    pub fn refuse(&mut self, refusal: Refusal) {
        if matches!(self.state, State::Deciding { .. }) {
            self.fail(refusal, false);
        }
    }

    fn fail(&mut self, refusal: Refusal, head_only: bool) {
        self.state = State::Done;
        self.out = Some(refusal.encode(head_only).into());
        self.event = Some(ServerEvent::Failed(HandshakeError::Refused(refusal.status)));
    }

    fn refuse_head(&mut self, error: HeadError) {
        self.fail(
            match error {
                HeadError::TooLarge => Refusal::new(431, "request header fields too large\n"),
                HeadError::Malformed => Refusal::new(400, "malformed request\n"),
            },
            false,
        );
    }

    fn on_head(&mut self, head: &[u8]) {
        let head = match self.head.parse_request(head) {
            Ok(head) => head,
            Err(error) => return self.refuse_head(error),
        };
        match self.check(&head) {
            Ok((key, request)) => {
                self.event = Some(ServerEvent::Request(request.clone()));
                self.state = State::Deciding { key, request };
            }
            Err(refusal) => self.fail(refusal, head.method == "HEAD"),
        }
    }

    /// RFC 6455 section 4.2.1, with the answer for each fault.
    fn check(&self, head: &RequestHead) -> Result<(String, Request), Refusal> {
        let headers = &head.headers;
        if head.minor_version < 1 {
            return Err(Refusal::new(505, "HTTP/1.1 is needed\n"));
        }
        if head.method != "GET" {
            return Err(Refusal::new(405, "only GET is allowed\n").with("Allow", "GET"));
        }
        let Some(host) = headers.only("Host") else {
            return Err(Refusal::new(400, "exactly one host header is needed\n"));
        };
        // A body would be read as frames.
        let body = headers.all("Content-Length").any(|length| length != "0");
        if body || headers.first("Transfer-Encoding").is_some() {
            return Err(Refusal::new(400, "a request body is not allowed\n"));
        }
        if !headers.has_token("Upgrade", "websocket") || !headers.has_token("Connection", "upgrade")
        {
            return Err(
                Refusal::new(426, "this is a WebSocket server\n").with("Upgrade", "websocket")
            );
        }
        if headers.only("Sec-WebSocket-Version") != Some("13") {
            // Section 4.4.
            let refusal = Refusal::new(426, "WebSocket version 13 is needed\n");
            return Err(refusal.with("Upgrade", "websocket").with("Sec-WebSocket-Version", "13"));
        }
        let key = headers.only("Sec-WebSocket-Key").filter(|key| is_key(key));
        let Some(key) = key else { return Err(Refusal::new(400, "invalid Sec-WebSocket-Key\n")) };
        let Some((path, query)) = split_target(&head.target) else {
            return Err(Refusal::new(400, "invalid request target\n"));
        };
        let origin = headers.first("Origin");
        if let (Some(allowed), Some(origin)) = (&self.options.origins, origin)
            && !allowed.iter().any(|allowed| allowed.eq_ignore_ascii_case(origin))
        {
            return Err(Refusal::new(403, "origin not allowed\n"));
        }
        let subprotocols: Vec<String> =
            headers.list("Sec-WebSocket-Protocol").map(str::to_owned).collect();
        if self.options.require_subprotocol
            && common(&self.options.subprotocols, &subprotocols).is_none()
        {
            return Err(Refusal::new(400, "no common subprotocol\n"));
        }
        let request = Request {
            path,
            query,
            host: host.to_owned(),
            origin: origin.map(str::to_owned),
            subprotocols,
            headers: headers.clone(),
        };
        Ok((key.to_owned(), request))
    }
}

/// Headers of a response that the handshake writes itself.
fn is_reserved(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.starts_with("sec-websocket-")
        || ["upgrade", "connection", "content-length", "transfer-encoding"].contains(&name.as_str())
}

/// The client's first subprotocol that is ours too; compared exactly.
fn common(ours: &[String], theirs: &[String]) -> Option<String> {
    theirs.iter().find(|name| ours.contains(name)).cloned()
}

/// Section 4.2.1 item 5: base64 of 16 bytes.
fn is_key(key: &str) -> bool {
    base64::engine::general_purpose::STANDARD.decode(key).is_ok_and(|nonce| nonce.len() == 16)
}

/// Origin form, or absolute form as for a proxy (RFC 9112 section 3.2).
fn split_target(target: &str) -> Option<(String, Option<String>)> {
    let origin_form = if target.starts_with('/') {
        target
    } else {
        let (scheme, rest) = target.split_once("://")?;
        if !["http", "https", "ws", "wss"].iter().any(|known| known.eq_ignore_ascii_case(scheme)) {
            return None;
        }
        rest.find('/').and_then(|at| rest.get(at..)).unwrap_or("/")
    };
    if origin_form.contains('#') {
        return None;
    }
    Some(match origin_form.split_once('?') {
        Some((path, query)) => (path.to_owned(), Some(query.to_owned())),
        None => (origin_form.to_owned(), None),
    })
}
