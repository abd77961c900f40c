//! One TLS connection.

use super::config::Limits;
use super::connection::{Connection, MAX_RECORD, Opened, Step};
use super::error::{self, Context};
use super::outbox::Outbox;
use super::state::Agreed;
use super::{ClientConfig, Error, ServerConfig, TlsState, Version};
use bytes::{Bytes, BytesMut};
use rustls::client::UnbufferedClientConnection;
use rustls::server::{ClientHello, ResolvesServerCert, UnbufferedServerConnection};
use rustls::sign::CertifiedKey;
use rustls::{CommonState, HandshakeKind, ProtocolVersion};
use rustls_pki_types::ServerName;
use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

/// What happened on a TLS connection.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// The handshake is done and the peer verified: data may be sealed from here on. Comes before any plaintext of the same input.
    HandshakeDone(TlsState),
    /// The peer closed its direction with `close_notify`: no more plaintext will come. Comes behind all plaintext of the same input.
    PeerClosed,
}

/// One TLS connection: a filter between a byte stream and the engine above. It reads no clock but the one in its configuration, and never waits.
///
/// ```
/// # #[cfg(feature = "cert")] {
/// use towline_proto::tls::{Config, Event, Stream, self_signed};
///
/// let own = self_signed(&["localhost"]).unwrap();
/// let server = Config::new().identity_pem(own.certificate_pem, own.key_pem).server().unwrap();
/// let client = Config::new().pin(own.pin).client().unwrap();
/// let (mut a, mut b) = (Stream::client(&client, "localhost").unwrap(), Stream::server(&server).unwrap());
///
/// let (mut wire, mut plaintext) = (Vec::new(), Vec::new());
/// while a.is_handshaking() || b.is_handshaking() {
///     a.poll_transmit(&mut wire);
///     wire.drain(..).for_each(|bytes| b.handle_input(bytes.into(), &mut plaintext).unwrap());
///     b.poll_transmit(&mut wire);
///     wire.drain(..).for_each(|bytes| a.handle_input(bytes.into(), &mut plaintext).unwrap());
/// }
/// assert!(matches!(a.poll_event(), Some(Event::HandshakeDone(state)) if state.version().to_string() == "TLS 1.3"));
///
/// a.seal(&["hello".into()]).unwrap();
/// a.poll_transmit(&mut wire);
/// wire.drain(..).for_each(|bytes| b.handle_input(bytes.into(), &mut plaintext).unwrap());
/// assert_eq!(plaintext, ["hello"]);
/// # }
/// ```
pub struct Stream {
    phase: Phase,
    outbox: Outbox,
    events: VecDeque<Event>,
    state: Option<TlsState>,
    context: Context,
    limits: Limits,
    server_name: ServerNameSeen,
    /// Input that rustls has not seen.
    input: BytesMut,
    /// Opening stopped before all that rustls has seen was opened.
    stopped: bool,
    /// Anything was received.
    started: bool,
    peer_closed: bool,
    closed: bool,
}

enum Phase {
    Running(Box<Connection>),
    Failed(Error),
}

enum ServerNameSeen {
    Client(String),
    Server(Arc<Asked>),
}

/// What a client asked a server for, where nothing else of rustls tells.
#[derive(Debug, Default)]
struct Asked {
    name: OnceLock<String>,
    /// No application protocol, where one is required.
    no_alpn: OnceLock<()>,
}

/// Notes what a client asks for on its way to the one certificate there is, which is refused without a protocol that is required.
#[derive(Debug)]
struct NoteAsked {
    identity: Arc<CertifiedKey>,
    require_alpn: bool,
    asked: Arc<Asked>,
}

impl ResolvesServerCert for NoteAsked {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        if let Some(name) = hello.server_name() {
            let _ = self.asked.name.set(name.to_owned());
        }
        if self.require_alpn && hello.alpn().is_none() {
            let _ = self.asked.no_alpn.set(());
            return None;
        }
        Some(self.identity.clone())
    }
}

impl Stream {
    /// A client's connection to `server_name`, a DNS name or an IP address, against which the certificate is checked. Its first bytes are
    /// ready in [`poll_transmit`](Self::poll_transmit).
    ///
    /// # Errors
    /// [`Error::BadServerName`].
    pub fn client(config: &ClientConfig, server_name: &str) -> Result<Self, Error> {
        let name = ServerName::try_from(server_name.to_owned())
            .map_err(|_| Error::BadServerName { name: server_name.to_owned() })?;
        let connection = UnbufferedClientConnection::new(config.rustls.clone(), name)
            .map_err(|error| error::failed(error.to_string()))?;
        let context = Context::new(
            &config.rustls.alpn_protocols,
            config.limits.legacy_tls12,
            Some(server_name),
        );
        let name = ServerNameSeen::Client(server_name.to_owned());
        let mut stream = Self::new(connection.into(), context, config.limits, name);
        stream.advance(&mut Opened::new(0))?;
        Ok(stream)
    }

    /// A server's connection.
    ///
    /// # Errors
    /// [`Error::Failed`] when the provider cannot begin one.
    pub fn server(config: &ServerConfig) -> Result<Self, Error> {
        let asked = Arc::new(Asked::default());
        let mut own = rustls::ServerConfig::clone(&config.rustls);
        own.cert_resolver = Arc::new(NoteAsked {
            identity: config.identity.clone(),
            require_alpn: config.limits.require_alpn,
            asked: asked.clone(),
        });
        let connection = UnbufferedServerConnection::new(Arc::new(own))
            .map_err(|error| error::failed(error.to_string()))?;
        let context = Context::new(&config.rustls.alpn_protocols, config.limits.legacy_tls12, None);
        let name = ServerNameSeen::Server(asked);
        Ok(Self::new(connection.into(), context, config.limits, name))
    }

    fn new(
        connection: Connection,
        context: Context,
        limits: Limits,
        server_name: ServerNameSeen,
    ) -> Self {
        Self {
            phase: Phase::Running(Box::new(connection)),
            outbox: Outbox::default(),
            events: VecDeque::new(),
            state: None,
            context,
            limits,
            server_name,
            input: BytesMut::new(),
            stopped: false,
            started: false,
            peer_closed: false,
            closed: false,
        }
    }

    /// Ciphertext from the wire, in any chunking; plaintext is appended to `out`.
    ///
    /// Whole records are decrypted in place, and the plaintext of all of them is one [`Bytes`]; of a record that straddles inputs the parts are put
    /// together first. What comes behind the peer's `close_notify` is dropped.
    ///
    /// # Errors
    /// The connection is over, and says the same to every later input: transmit what [`poll_transmit`](Self::poll_transmit) still has
    /// (the alert that tells the peer), then close the wire.
    pub fn handle_input(&mut self, input: BytesMut, out: &mut Vec<Bytes>) -> Result<(), Error> {
        let length = self.take_input(input)?;
        let mut opened = Opened::new(length);
        let result = self.open(&mut opened);
        // What came before a bad record is good.
        out.extend(opened.take());
        result.map(drop)
    }

    /// Ciphertext from the wire, which [`open_next`](Self::open_next) opens: call that until it says `false`.
    ///
    /// # Errors
    /// As [`handle_input`](Self::handle_input).
    pub fn push_input(&mut self, input: BytesMut) -> Result<(), Error> {
        self.take_input(input).map(drop)
    }

    /// Opens some of what [`push_input`](Self::push_input) brought: up to so many bytes are appended to the buffer of `direct`, which has room for
    /// them, and if one record brings more, its rest to `out`. `false` when there is no more for now. For long messages, whose plaintext so
    /// gets to its place by one copy.
    ///
    /// # Errors
    /// As [`handle_input`](Self::handle_input).
    pub fn open_next(
        &mut self,
        direct: Option<(&mut BytesMut, usize)>,
        out: &mut Vec<Bytes>,
    ) -> Result<bool, Error> {
        let mut opened = Opened::by_record(direct);
        let result = self.open(&mut opened);
        out.extend(opened.take());
        result
    }

    /// Keeps input to be opened; how much there is.
    fn take_input(&mut self, input: BytesMut) -> Result<usize, Error> {
        if input.is_empty() || self.peer_closed {
            return Ok(0);
        }
        if !self.started {
            self.started = true;
            // A TLS connection begins with a handshake record, or an alert (RFC 8446 section 5.1).
            if !matches!(input.first(), Some(21 | 22)) {
                return Err(self.fail(Error::NotTls));
            }
        }
        let kept = match &self.phase {
            Phase::Running(connection) => connection.buffered(),
            Phase::Failed(error) => return Err(error.clone()),
        };
        if self.input.is_empty() {
            self.input = input;
        } else {
            self.input.extend_from_slice(&input);
        }
        Ok(self.input.len().saturating_add(kept))
    }

    /// Opens what there is, or as much as is enough: then `true`.
    fn open(&mut self, opened: &mut Opened<'_>) -> Result<bool, Error> {
        let mut result = Ok(());
        loop {
            if !std::mem::take(&mut self.stopped) {
                if result.is_err() || self.input.is_empty() || self.peer_closed {
                    break;
                }
                if let Phase::Running(connection) = &mut self.phase {
                    connection.append(&mut self.input);
                }
            }
            result = self.advance(opened);
            if self.stopped {
                return Ok(true);
            }
        }
        self.input = BytesMut::new();
        if let Phase::Running(connection) = &mut self.phase {
            connection.settle();
        }
        result.map(|()| false)
    }

    /// The wire's end of stream.
    ///
    /// # Errors
    /// [`Error::Truncated`] unless the peer had closed with `close_notify`; [`Error::HandshakeCut`] during the handshake; the failure of before, if any.
    pub fn handle_end(&mut self) -> Result<(), Error> {
        match &self.phase {
            Phase::Failed(error) => Err(error.clone()),
            _ if self.peer_closed => Ok(()),
            _ if self.is_handshaking() => Err(self.fail(Error::HandshakeCut)),
            _ => Err(self.fail(Error::Truncated)),
        }
    }

    /// Encrypts `plaintext` as one run of bytes, into as few records as hold it, for [`poll_transmit`](Self::poll_transmit).
    ///
    /// Hand over all there is at once: a record costs 22 bytes however little is in it. Pieces smaller than a record are copied together once more.
    /// Ciphertext comes in buffers of at most 256 KiB.
    ///
    /// # Errors
    /// [`Error::NotWritable`] before the handshake is done or after [`close`](Self::close); the failure of before, if any.
    pub fn seal(&mut self, plaintext: &[Bytes]) -> Result<(), Error> {
        if self.closed {
            return Err(Error::NotWritable { reason: "this side has closed the TLS connection" });
        }
        if self.is_handshaking() {
            return Err(Error::NotWritable { reason: "the TLS handshake is not done yet" });
        }
        match &mut self.phase {
            Phase::Running(connection) => connection.seal(plaintext, &mut self.outbox),
            Phase::Failed(error) => Err(error.clone()),
        }
    }

    /// Whether [`poll_transmit`](Self::poll_transmit) has anything.
    pub fn wants_write(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Appends all ciphertext that is ready to `out`; how many bytes. Call it after every other call.
    pub fn poll_transmit(&mut self, out: &mut Vec<Bytes>) -> usize {
        self.outbox.take(out)
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Whether the handshake is still going on, so that nothing can be sealed yet.
    pub fn is_handshaking(&self) -> bool {
        self.state.is_none()
    }

    /// What was agreed, once the handshake is done.
    pub fn state(&self) -> Option<&TlsState> {
        self.state.as_ref()
    }

    /// Says `close_notify` behind all that was sealed: no more will be. Receiving goes on until the peer closes too. During the handshake
    /// nothing is said.
    pub fn close(&mut self) {
        if std::mem::replace(&mut self.closed, true) {
            return;
        }
        let result = match &mut self.phase {
            // Nothing was sent that could be taken for whole.
            _ if self.state.is_none() => Ok(()),
            Phase::Running(connection) => connection.close(&mut self.outbox),
            Phase::Failed(_) => Ok(()),
        };
        if let Err(error) = result {
            self.fail(error);
        }
    }

    /// Keeps track, from here on, of which plaintext is in which ciphertext, for [`plaintext_acked`](Self::plaintext_acked): 16 bytes for every record
    /// that is not acknowledged. Off unless asked for; ask before the first [`seal`](Self::seal).
    pub fn track_acked(&mut self) {
        self.outbox.track();
    }

    /// How many plaintext bytes are in records wholly within the first `ciphertext` bytes of all that was transmitted: what the transport's
    /// acknowledgement of so many bytes says about the data.
    pub fn plaintext_acked(&mut self, ciphertext: u64) -> u64 {
        self.outbox.acked(ciphertext)
    }

    fn on_peer_closed(&mut self) {
        self.peer_closed = true;
        self.events.push_back(Event::PeerClosed);
    }

    fn fail(&mut self, error: Error) -> Error {
        if let Phase::Failed(before) = &self.phase {
            return before.clone();
        }
        self.phase = Phase::Failed(error.clone());
        error
    }

    /// Lets rustls work until it is blocked, or until enough is opened: then `stopped`.
    fn advance(&mut self, opened: &mut Opened<'_>) -> Result<(), Error> {
        loop {
            let Phase::Running(connection) = &mut self.phase else { return Ok(()) };
            let step = match connection.step(&mut self.outbox, opened) {
                Ok(step) => step,
                Err(error) => {
                    connection.flush(&mut self.outbox);
                    let error = self.explain(error);
                    return Err(self.fail(error));
                }
            };
            if let Err(error) = self.on_progress() {
                // What was said under conditions that are not ours.
                opened.discard();
                return Err(self.fail(error));
            }
            match step {
                Step::Again if opened.is_enough() => {
                    self.stopped = true;
                    return Ok(());
                }
                Step::Again => {}
                Step::Blocked => break,
                Step::PeerClosed => {
                    self.on_peer_closed();
                    return Ok(());
                }
            }
        }
        let Phase::Running(connection) = &self.phase else { return Ok(()) };
        let max = self.limits.max_handshake_bytes;
        // Behind the handshake a begun record of data may be there besides.
        let data = if self.is_handshaking() { 0 } else { MAX_RECORD };
        if connection.buffered() > max.saturating_add(data) {
            return Err(self.fail(Error::HandshakeTooLarge { max }));
        }
        Ok(())
    }

    /// Notices that the handshake is done.
    fn on_progress(&mut self) -> Result<(), Error> {
        let Phase::Running(connection) = &self.phase else { return Ok(()) };
        let common = connection.common();
        if self.state.is_some() || common.is_handshaking() {
            return Ok(());
        }
        let state = agreed(common, &self.server_name)?;
        if self.limits.require_alpn && state.alpn().is_none() {
            return Err(self.context.no_alpn());
        }
        self.events.push_back(Event::HandshakeDone(state.clone()));
        self.state = Some(state);
        Ok(())
    }

    fn explain(&self, error: rustls::Error) -> Error {
        match &self.server_name {
            ServerNameSeen::Server(asked) if asked.no_alpn.get().is_some() => {
                self.context.no_alpn()
            }
            _ => self.context.explain(error),
        }
    }
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream")
            .field("state", &self.state)
            .field("peer_closed", &self.peer_closed)
            .field("closed", &self.closed)
            .finish_non_exhaustive()
    }
}

fn agreed(common: &CommonState, name: &ServerNameSeen) -> Result<TlsState, Error> {
    let version = match common.protocol_version() {
        Some(ProtocolVersion::TLSv1_3) => Version::Tls13,
        Some(ProtocolVersion::TLSv1_2) => Version::Tls12,
        _ => return Err(error::failed("an unknown protocol version was agreed")),
    };
    let suite = common.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str());
    Ok(TlsState::new(Agreed {
        version,
        cipher_suite: suite.unwrap_or("unknown"),
        alpn: common.alpn_protocol().map(<[u8]>::to_vec),
        peer_certificates: common.peer_certificates().unwrap_or_default().to_vec(),
        resumed: common.handshake_kind() == Some(HandshakeKind::Resumed),
        server_name: match name {
            ServerNameSeen::Client(name) => Some(name.clone()),
            ServerNameSeen::Server(asked) => asked.name.get().cloned(),
        },
    }))
}
