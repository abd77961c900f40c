//! One TLS connection.

use super::config::Limits;
use super::error::{self, Context};
use super::record::{HEADER_LEN, MAX_PLAINTEXT, Outbox, Received, Records, record_len};
use super::state::Agreed;
use super::{ClientConfig, Error, ServerConfig, TlsState, Version};
use bytes::{Buf, Bytes, BytesMut};
use rustls::client::UnbufferedClientConnection;
use rustls::server::{ClientHello, ResolvesServerCert, UnbufferedServerConnection};
use rustls::sign::CertifiedKey;
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::{AlertDescription, CommonState, HandshakeKind, ProtocolVersion};
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
    /// Anything was received.
    started: bool,
    peer_closed: bool,
    closed: bool,
}

enum Phase {
    /// rustls has the connection: the handshake, and all of TLS 1.2.
    Rustls(Box<Buffered>),
    /// TLS 1.3 after the handshake.
    Records(Box<Records>),
    Failed(Error),
}

/// A rustls connection and what it has not consumed.
struct Buffered {
    connection: Connection,
    input: BytesMut,
}

enum Connection {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

enum ServerNameSeen {
    Client(String),
    Server(Arc<OnceLock<String>>),
}

/// What rustls wants next.
enum Step {
    Again,
    Blocked,
    Writable,
    PeerClosed,
    Closed,
}

/// Notes the name that a client asks for on its way to the one certificate there is: rustls tells nobody else.
#[derive(Debug)]
struct NoteServerName {
    identity: Arc<CertifiedKey>,
    seen: Arc<OnceLock<String>>,
}

impl ResolvesServerCert for NoteServerName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        if let Some(name) = hello.server_name() {
            let _ = self.seen.set(name.to_owned());
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
        let mut stream = Self::new(Connection::Client(connection), context, config.limits, name);
        stream.advance(&mut Vec::new())?;
        Ok(stream)
    }

    /// A server's connection.
    ///
    /// # Errors
    /// [`Error::Failed`] when the provider cannot begin one.
    pub fn server(config: &ServerConfig) -> Result<Self, Error> {
        let seen = Arc::new(OnceLock::new());
        let mut own = rustls::ServerConfig::clone(&config.rustls);
        own.cert_resolver =
            Arc::new(NoteServerName { identity: config.identity.clone(), seen: seen.clone() });
        let connection = UnbufferedServerConnection::new(Arc::new(own))
            .map_err(|error| error::failed(error.to_string()))?;
        let context = Context::new(&config.rustls.alpn_protocols, config.limits.legacy_tls12, None);
        Ok(Self::new(
            Connection::Server(connection),
            context,
            config.limits,
            ServerNameSeen::Server(seen),
        ))
    }

    fn new(
        connection: Connection,
        context: Context,
        limits: Limits,
        server_name: ServerNameSeen,
    ) -> Self {
        Self {
            phase: Phase::Rustls(Box::new(Buffered { connection, input: BytesMut::new() })),
            outbox: Outbox::default(),
            events: VecDeque::new(),
            state: None,
            context,
            limits,
            server_name,
            started: false,
            peer_closed: false,
            closed: false,
        }
    }

    /// Ciphertext from the wire, in any chunking; plaintext is appended to `out`.
    ///
    /// A TLS 1.3 record that is whole in `input` is decrypted in place, and its plaintext is a slice of `input`; of one that straddles inputs the
    /// parts are put together first. What comes behind the peer's `close_notify` is dropped.
    ///
    /// # Errors
    /// The connection is over, and says the same to every later input: transmit what [`poll_transmit`](Self::poll_transmit) still has
    /// (the alert that tells the peer), then close the wire.
    pub fn handle_input(&mut self, input: BytesMut, out: &mut Vec<Bytes>) -> Result<(), Error> {
        if input.is_empty() || self.peer_closed {
            return Ok(());
        }
        if !self.started {
            self.started = true;
            // A TLS connection begins with a handshake record, or an alert (RFC 8446 section 5.1).
            if !matches!(input.first(), Some(21 | 22)) {
                return Err(self.fail(Error::NotTls));
            }
        }
        match &mut self.phase {
            Phase::Rustls(buffered) => {
                buffered.append(input);
                self.advance(out)
            }
            Phase::Records(records) => {
                let received = records.open(input, out);
                self.received(received)
            }
            Phase::Failed(error) => Err(error.clone()),
        }
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
    /// Hand over all there is at once, up to a few hundred KiB: a record costs 22 bytes and an allocation however little is in it, and a MiB of them
    /// freed at once makes the allocator give pages back to the system that the next batch faults in again.
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
            Phase::Rustls(buffered) => buffered.seal(plaintext, &mut self.outbox),
            Phase::Records(records) => records.seal(plaintext, &mut self.outbox),
            Phase::Failed(error) => Err(error.clone()),
        }
    }

    /// Whether [`poll_transmit`](Self::poll_transmit) has anything.
    pub fn wants_write(&self) -> bool {
        !self.outbox.is_empty()
            || matches!(&self.phase, Phase::Records(records) if records.wants_write() && !self.closed)
    }

    /// Appends all ciphertext that is ready to `out`; how many bytes. Call it after every other call.
    pub fn poll_transmit(&mut self, out: &mut Vec<Bytes>) -> usize {
        if let Phase::Records(records) = &mut self.phase
            && !self.closed
            && let Err(error) = records.flush_updates(&mut self.outbox)
        {
            self.fail(error);
        }
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
            Phase::Rustls(buffered) => buffered.close(&mut self.outbox),
            Phase::Records(records) => {
                records.alert(AlertDescription::CloseNotify, &mut self.outbox)
            }
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

    #[cfg(test)]
    pub(super) fn records(&mut self) -> Option<&mut Records> {
        match &mut self.phase {
            Phase::Records(records) => Some(records),
            _ => None,
        }
    }

    fn received(&mut self, received: Result<Received, Error>) -> Result<(), Error> {
        match received {
            Ok(Received::More) => Ok(()),
            Ok(Received::Closed) => {
                self.on_peer_closed();
                Ok(())
            }
            Err(error) => {
                if let (Phase::Records(records), Some(description)) =
                    (&mut self.phase, error::alert_for(&error))
                {
                    // Nothing more can be told to a peer when this fails too.
                    let _ = records.alert(description, &mut self.outbox);
                }
                Err(self.fail(error))
            }
        }
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

    /// Lets rustls work until it is blocked.
    fn advance(&mut self, out: &mut Vec<Bytes>) -> Result<(), Error> {
        loop {
            let Phase::Rustls(buffered) = &mut self.phase else { return Ok(()) };
            match buffered.step(&mut self.outbox, out) {
                Ok(Step::Again) => {
                    // Application data may follow in the same input; the event comes first.
                    self.on_progress()?;
                }
                Ok(Step::PeerClosed) => {
                    self.on_progress()?;
                    self.on_peer_closed();
                    return Ok(());
                }
                Ok(Step::Blocked | Step::Writable | Step::Closed) => break,
                Err(error) => {
                    buffered.flush(&mut self.outbox);
                    let error = self.context.explain(error);
                    return Err(self.fail(error));
                }
            }
        }
        self.on_progress()?;
        let Phase::Rustls(buffered) = &self.phase else { return Ok(()) };
        if buffered.input.len() > self.limits.max_handshake_bytes {
            return Err(
                self.fail(Error::HandshakeTooLarge { max: self.limits.max_handshake_bytes })
            );
        }
        self.take_over(out)
    }

    /// Notices that the handshake is done.
    fn on_progress(&mut self) -> Result<(), Error> {
        let Phase::Rustls(buffered) = &self.phase else { return Ok(()) };
        let common = buffered.common();
        if self.state.is_some() || common.is_handshaking() {
            return Ok(());
        }
        let state = agreed(common, &self.server_name)?;
        if self.limits.require_alpn && state.alpn().is_none() {
            let error = self.context.no_alpn();
            self.take_over(&mut Vec::new())?;
            if let Phase::Records(records) = &mut self.phase {
                let _ = records.alert(AlertDescription::NoApplicationProtocol, &mut self.outbox);
            }
            return Err(self.fail(error));
        }
        self.events.push_back(Event::HandshakeDone(state.clone()));
        self.state = Some(state);
        Ok(())
    }

    /// Moves a TLS 1.3 connection from rustls to our own record layer.
    fn take_over(&mut self, out: &mut Vec<Bytes>) -> Result<(), Error> {
        let Phase::Rustls(buffered) = &self.phase else { return Ok(()) };
        // While a whole record is left in the buffer, it is part of a handshake message whose rest has not come: rustls must see it first.
        let whole_left =
            record_len(&buffered.input).is_some_and(|length| length <= buffered.input.len());
        if buffered.common().is_handshaking()
            || buffered.common().protocol_version() != Some(ProtocolVersion::TLSv1_3)
            || whole_left
        {
            return Ok(());
        }
        let taken = Phase::Failed(error::failed("the connection is being taken over"));
        let Phase::Rustls(buffered) = std::mem::replace(&mut self.phase, taken) else {
            return Ok(());
        };
        let Buffered { connection, input } = *buffered;
        let records = match connection {
            Connection::Client(client) => client
                .dangerous_into_kernel_connection()
                .map_err(|error| error::from_records(&error))
                .and_then(|(secrets, kernel)| Records::client(secrets, kernel)),
            Connection::Server(server) => server
                .dangerous_into_kernel_connection()
                .map_err(|error| error::from_records(&error))
                .and_then(|(secrets, kernel)| Records::server(secrets, kernel)),
        };
        match records {
            Ok(records) => self.phase = Phase::Records(Box::new(records)),
            Err(error) => {
                self.phase = Phase::Failed(error.clone());
                return Err(error);
            }
        }
        if let Phase::Records(records) = &mut self.phase {
            let received = records.open(input, out);
            self.received(received)?;
        }
        Ok(())
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

impl Buffered {
    fn common(&self) -> &CommonState {
        match &self.connection {
            Connection::Client(client) => client,
            Connection::Server(server) => server,
        }
    }

    fn append(&mut self, input: BytesMut) {
        if self.input.is_empty() {
            self.input = input;
        } else {
            self.input.extend_from_slice(&input);
        }
    }

    fn step(&mut self, outbox: &mut Outbox, out: &mut Vec<Bytes>) -> Result<Step, rustls::Error> {
        let (discard, step) = match &mut self.connection {
            Connection::Client(client) => {
                step(client.process_tls_records(&mut self.input), outbox, out)
            }
            Connection::Server(server) => {
                step(server.process_tls_records(&mut self.input), outbox, out)
            }
        };
        self.input.advance(discard.min(self.input.len()));
        step
    }

    /// Takes out what rustls still has to say after a failure: the alert. It must not look at its input again.
    fn flush(&mut self, outbox: &mut Outbox) {
        while self.common().wants_write() && self.step(outbox, &mut Vec::new()).is_ok() {}
    }

    fn seal(&mut self, plaintext: &[Bytes], outbox: &mut Outbox) -> Result<(), Error> {
        for chunk in plaintext.iter().flat_map(|bytes| bytes.chunks(MAX_PLAINTEXT)) {
            self.write(Some(chunk), outbox)?;
        }
        Ok(())
    }

    fn close(&mut self, outbox: &mut Outbox) -> Result<(), Error> {
        self.write(None, outbox)
    }

    /// One record by rustls: data, or `None` for `close_notify`.
    fn write(&mut self, data: Option<&[u8]>, outbox: &mut Outbox) -> Result<(), Error> {
        let plaintext = data.map_or(0, <[u8]>::len);
        // TLS 1.2 adds at most 5 bytes of header, 8 of nonce and 16 of tag; TLS 1.3 adds 22.
        let mut buffer = vec![0; plaintext + HEADER_LEN + 64];
        // The input goes along although nothing new is in it: rustls may remember places in it.
        let (discard, written) = match &mut self.connection {
            Connection::Client(client) => {
                write(client.process_tls_records(&mut self.input), data, &mut buffer)
            }
            Connection::Server(server) => {
                write(server.process_tls_records(&mut self.input), data, &mut buffer)
            }
        };
        self.input.advance(discard.min(self.input.len()));
        buffer.truncate(written?);
        outbox.push(buffer.into(), plaintext);
        Ok(())
    }
}

fn write<D>(
    status: UnbufferedStatus<'_, '_, D>,
    data: Option<&[u8]>,
    buffer: &mut [u8],
) -> (usize, Result<usize, Error>) {
    let written = match status.state {
        Ok(ConnectionState::WriteTraffic(mut traffic)) => match data {
            Some(data) => traffic.encrypt(data, buffer),
            None => traffic.queue_close_notify(buffer),
        }
        .map_err(|error| error::failed(error.to_string())),
        Ok(_) => Err(Error::NotWritable { reason: "the TLS connection is closed or not ready" }),
        Err(error) => Err(error::from_records(&error)),
    };
    (status.discard, written)
}

/// Handles one state of rustls; how many input bytes are done with, and what is next.
fn step<D>(
    status: UnbufferedStatus<'_, '_, D>,
    outbox: &mut Outbox,
    out: &mut Vec<Bytes>,
) -> (usize, Result<Step, rustls::Error>) {
    let mut discard = status.discard;
    let step = match status.state {
        Ok(ConnectionState::EncodeTlsData(mut data)) => {
            let mut buffer = match data.encode(&mut []) {
                Err(EncodeError::InsufficientSize(needed)) => vec![0; needed.required_size],
                Ok(_) | Err(EncodeError::AlreadyEncoded) => Vec::new(),
            };
            match data.encode(&mut buffer) {
                Ok(written) => {
                    buffer.truncate(written);
                    outbox.push(buffer.into(), 0);
                    Ok(Step::Again)
                }
                Err(error) => Err(rustls::Error::General(error.to_string())),
            }
        }
        Ok(ConnectionState::TransmitTlsData(data)) => {
            data.done();
            Ok(Step::Again)
        }
        Ok(ConnectionState::ReadTraffic(mut traffic)) => {
            let mut result = Ok(Step::Again);
            while let Some(record) = traffic.next_record() {
                match record {
                    Ok(record) => {
                        discard += record.discard;
                        out.push(Bytes::copy_from_slice(record.payload));
                    }
                    Err(error) => {
                        result = Err(error);
                        break;
                    }
                }
            }
            result
        }
        Ok(ConnectionState::BlockedHandshake) => Ok(Step::Blocked),
        Ok(ConnectionState::WriteTraffic(_)) => Ok(Step::Writable),
        Ok(ConnectionState::PeerClosed) => Ok(Step::PeerClosed),
        Ok(ConnectionState::Closed) => Ok(Step::Closed),
        // Early data is never offered or accepted.
        Ok(_) => Err(rustls::Error::General("an unexpected state of the TLS library".to_owned())),
        Err(error) => Err(error),
    };
    (discard, step)
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
            ServerNameSeen::Server(seen) => seen.get().cloned(),
        },
    }))
}
