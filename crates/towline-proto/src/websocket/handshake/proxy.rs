//! Through an HTTP proxy with CONNECT (RFC 9110 section 9.3.6), before TLS and the handshake.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::super::http::{HeadError, HeadReader, HeaderError, Headers, Response, line};
use super::{Credentials, HandshakeError, Target};

/// What to tell a proxy, and within which limits.
#[derive(Debug, Clone, PartialEq)]
pub struct ProxyOptions {
    /// Shown to the proxy at once.
    pub credentials: Option<Credentials>,
    /// Further headers for the proxy.
    pub headers: Headers,
    /// The largest head of its response, in bytes. Default 16 KiB.
    pub max_head: usize,
    /// The most headers of its response. Default 100.
    pub max_headers: usize,
    /// The time for the tunnel to open. Default 15 s.
    pub timeout: Duration,
}

impl Default for ProxyOptions {
    fn default() -> ProxyOptions {
        ProxyOptions {
            credentials: None,
            headers: Headers::new(),
            max_head: 16 << 10,
            max_headers: 100,
            timeout: Duration::from_secs(15),
        }
    }
}

/// How the proxy answered.
#[derive(Debug)]
pub enum ProxyOutcome {
    /// The tunnel is open; these bytes came through it already.
    Open(BytesMut),
    /// The proxy wants credentials, or others (407).
    Unauthorized(Box<Response>),
    /// It failed; a status means that the proxy refused.
    Failed(HandshakeError),
}

/// One CONNECT request and the response to it.
#[derive(Debug)]
pub struct ProxyTunnel {
    request: Option<Bytes>,
    head: HeadReader,
    deadline: Option<Instant>,
    done: bool,
    outcome: Option<ProxyOutcome>,
}

impl ProxyTunnel {
    /// Asks the proxy, over a transport that is up, for a tunnel to `target`.
    ///
    /// # Errors
    /// When the credentials cannot be written as a header.
    pub fn new(
        options: &ProxyOptions,
        target: &Target,
        now: Instant,
    ) -> Result<ProxyTunnel, HeaderError> {
        let authority = target.authority();
        let mut request = format!("CONNECT {authority} HTTP/1.1\r\n");
        line(&mut request, "Host", &authority);
        if let Some(credentials) = &options.credentials {
            line(&mut request, "Proxy-Authorization", &credentials.header_value()?);
        }
        options.headers.write(&mut request);
        request.push_str("\r\n");
        Ok(ProxyTunnel {
            request: Some(request.into()),
            head: HeadReader::new(options.max_head, options.max_headers),
            deadline: now.checked_add(options.timeout),
            done: false,
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
    pub fn handle_input(&mut self, _now: Instant, mut data: BytesMut) {
        while !self.done {
            let head = match self.head.feed(std::mem::take(&mut data)) {
                Ok(None) => return,
                Ok(Some(head)) => head,
                Err(HeadError::TooLarge) => {
                    return self.finish(ProxyOutcome::Failed(HandshakeError::HeadTooLarge));
                }
                Err(HeadError::Malformed) => {
                    return self.finish(ProxyOutcome::Failed(HandshakeError::Malformed));
                }
            };
            let Ok(response) = self.head.parse_response(&head) else {
                return self.finish(ProxyOutcome::Failed(HandshakeError::Malformed));
            };
            let rest = self.head.take_rest();
            match response.status {
                // An interim response; the final one follows.
                100..=199 => {
                    self.head.restart();
                    data = rest;
                }
                200..=299 => self.finish(ProxyOutcome::Open(rest)),
                407 => self.finish(ProxyOutcome::Unauthorized(Box::new(response))),
                _ => self.finish(ProxyOutcome::Failed(HandshakeError::Status(Box::new(response)))),
            }
        }
    }

    /// The transport ended.
    pub fn handle_eof(&mut self, _now: Instant) {
        if !self.done {
            self.finish(ProxyOutcome::Failed(HandshakeError::Ended));
        }
    }

    /// The time that [`ProxyTunnel::poll_timeout`] named has come; harmless at any other time.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_some_and(|deadline| deadline <= now) {
            self.finish(ProxyOutcome::Failed(HandshakeError::Timeout));
        }
    }

    /// When [`ProxyTunnel::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.done { None } else { self.deadline }
    }

    /// The outcome, once.
    pub fn poll_outcome(&mut self) -> Option<ProxyOutcome> {
        self.outcome.take()
    }

    fn finish(&mut self, outcome: ProxyOutcome) {
        self.done = true;
        self.outcome = Some(outcome);
    }
}
