//! Through a proxy, before TLS and the handshake: HTTP's CONNECT (RFC 9110 section 9.3.6), or SOCKS 5.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::super::http::{HeadError, HeadReader, HeaderError, Headers, Response, line};
use super::socks::{self, Socks, Step};
use super::{Credentials, HandshakeError, Target};

/// What a proxy speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum ProxyKind {
    /// HTTP/1.1, asked for a tunnel by CONNECT (RFC 9110 section 9.3.6).
    #[default]
    Http,
    /// SOCKS 5 (RFC 1928). Credentials are a user and a password (RFC 1929) of at most 255 bytes each; headers do not exist.
    Socks5,
}

/// What to tell a proxy, and within which limits.
#[derive(Debug, Clone, PartialEq)]
pub struct ProxyOptions {
    /// What it speaks. Default HTTP.
    pub kind: ProxyKind,
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
            kind: ProxyKind::default(),
            credentials: None,
            headers: Headers::new(),
            max_head: 16 << 10,
            max_headers: 100,
            timeout: Duration::from_secs(15),
        }
    }
}

impl ProxyOptions {
    /// Whether the credentials can be written as a header, or as SOCKS has them.
    ///
    /// # Errors
    /// When they cannot.
    pub fn validate(&self) -> Result<(), HeaderError> {
        let Some(credentials) = &self.credentials else { return Ok(()) };
        match self.kind {
            ProxyKind::Http => credentials.header_value().map(drop),
            ProxyKind::Socks5 => socks::login(credentials).map(drop),
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

/// How it is talked to.
#[derive(Debug)]
enum Talk {
    Http(HeadReader),
    Socks(Box<Socks>),
}

/// One tunnel being asked for.
#[derive(Debug)]
pub struct ProxyTunnel {
    /// To be written.
    words: Option<Bytes>,
    talk: Talk,
    deadline: Option<Instant>,
    done: bool,
    outcome: Option<ProxyOutcome>,
}

impl ProxyTunnel {
    /// Asks the proxy, over a transport that is up, for a tunnel to `target`.
    ///
    /// # Errors
    /// When the credentials cannot be written as a header, or as SOCKS has them.
    pub fn new(
        options: &ProxyOptions,
        target: &Target,
        now: Instant,
    ) -> Result<ProxyTunnel, HeaderError> {
        let (talk, words) = match options.kind {
            ProxyKind::Http => {
                let head = HeadReader::new(options.max_head, options.max_headers);
                (Talk::Http(head), connect(options, target)?)
            }
            ProxyKind::Socks5 => {
                let (socks, words) = Socks::new(options.credentials.as_ref(), target)?;
                (Talk::Socks(Box::new(socks)), words)
            }
        };
        Ok(ProxyTunnel {
            words: Some(words),
            talk,
            deadline: now.checked_add(options.timeout),
            done: false,
            outcome: None,
        })
    }

    /// Bytes to write; returns how many were added.
    pub fn poll_transmit(&mut self, out: &mut Vec<Bytes>) -> usize {
        self.words.take().map_or(0, |words| {
            let length = words.len();
            out.push(words);
            length
        })
    }

    /// Bytes from the transport. There may be something to [write](ProxyTunnel::poll_transmit) afterwards.
    pub fn handle_input(&mut self, _now: Instant, mut data: BytesMut) {
        while !self.done {
            let outcome = match &mut self.talk {
                Talk::Http(head) => match answered(head, &mut data) {
                    Some(outcome) => outcome,
                    None => return,
                },
                Talk::Socks(socks) => match socks.handle_input(&std::mem::take(&mut data)) {
                    Step::Open(rest) => ProxyOutcome::Open(rest),
                    Step::Failed(error) => ProxyOutcome::Failed(error),
                    Step::More(None) => return,
                    // What follows the words may have come already.
                    Step::More(Some(words)) => {
                        self.say(words);
                        continue;
                    }
                },
            };
            self.finish(outcome);
        }
    }

    /// A proxy that answers before it was asked gets everything in one piece.
    fn say(&mut self, words: Bytes) {
        self.words = Some(match self.words.take() {
            Some(before) => [before, words].concat().into(),
            None => words,
        });
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

/// The request of an HTTP proxy.
fn connect(options: &ProxyOptions, target: &Target) -> Result<Bytes, HeaderError> {
    let authority = target.authority();
    let mut request = format!("CONNECT {authority} HTTP/1.1\r\n");
    line(&mut request, "Host", &authority);
    if let Some(credentials) = &options.credentials {
        line(&mut request, "Proxy-Authorization", &credentials.header_value()?);
    }
    options.headers.write(&mut request);
    request.push_str("\r\n");
    Ok(request.into())
}

/// What an HTTP proxy has answered, when all of it is there.
fn answered(head: &mut HeadReader, data: &mut BytesMut) -> Option<ProxyOutcome> {
    loop {
        let found = match head.feed(std::mem::take(data)) {
            Ok(found) => found?,
            Err(HeadError::TooLarge) => {
                return Some(ProxyOutcome::Failed(HandshakeError::HeadTooLarge));
            }
            Err(HeadError::Malformed) => {
                return Some(ProxyOutcome::Failed(HandshakeError::Malformed));
            }
        };
        let Ok(response) = head.parse_response(&found) else {
            return Some(ProxyOutcome::Failed(HandshakeError::Malformed));
        };
        let rest = head.take_rest();
        return Some(match response.status {
            // An interim response; the final one follows.
            100..=199 => {
                head.restart();
                *data = rest;
                continue;
            }
            200..=299 => ProxyOutcome::Open(rest),
            407 => ProxyOutcome::Unauthorized(Box::new(response)),
            _ => ProxyOutcome::Failed(HandshakeError::Status(Box::new(response))),
        });
    }
}
