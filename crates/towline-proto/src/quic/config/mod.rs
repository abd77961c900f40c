//! Configuration: typed options, checked when it is built.

mod build;
mod options;
mod table;
mod tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

pub use options::{AckFrequency, CongestionControl, Options, ReadMode, Resumption};
pub use table::{OPTIONS, OptionKind, OptionSpec, STREAM_OPTIONS};
pub use tls::{Cipher, ClientVerification, Identity, KeyLog, Provider, ServerVerification};

pub(super) use build::TransportPair;

use super::cid::CidConfig;
use super::error::ConfigError;
use super::ticket::Ticket;

/// The longest application data inside a ticket, bytes: a ticket travels in the ClientHello, which should stay within two packets.
pub const MAX_TICKET_DATA: usize = 512;

/// When a server asks for proof of the client's address before it spends anything on it (RFC 9000 section 8.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryPolicy {
    /// Only when the application decides so.
    Never,
    /// Every client without a token.
    Always,
    /// When this many handshakes are going on, or their memory passes `retry_memory_limit`.
    AboveHandshakes(usize),
}

/// Settings of an [`Endpoint`](super::Endpoint): what all its connections share.
#[derive(Clone, Debug)]
pub struct EndpointConfig {
    /// The secret that stateless reset tokens, address tokens, stateless tickets and encrypted connection ids are derived from. All endpoints that may get each other's
    /// packets (the threads of one server, the servers behind one address) need the same; keep it over a restart so that clients are reset at once instead of waiting.
    pub secret: [u8; 32],
    /// The shape of our connection ids.
    pub cid: CidConfig,
    /// Connections at one time, both kinds together. Further ones are refused. Default 65,536.
    pub max_connections: usize,
    /// Handshakes of clients going on at one time. Further ones are ignored, so that the client asks again. Default 4,096.
    pub max_handshakes: usize,
    /// Ask the application about each client ([`EndpointEvent::Incoming`](super::EndpointEvent::Incoming)); else all are accepted. Default true.
    pub gate: bool,
    /// Requests waiting for a [`Decision`](super::Decision). Further ones are ignored. Default 1,024.
    pub max_incoming: usize,
    /// How long a request waits for its decision before it is ignored. Default 5 s.
    pub gate_timeout: Duration,
    /// Bytes kept of one client's packets while it waits for its decision: 0-RTT data, mostly. Default 64 KiB.
    pub incoming_buffer: u64,
    /// The same for all waiting clients together. Default 16 MiB.
    pub incoming_buffer_total: u64,
    /// The longest ClientHello that is put together from several packets for the gate, bytes. Default 16 KiB.
    pub client_hello_limit: usize,
    /// When to ask for proof of address. Default: above 1,000 handshakes.
    pub retry: RetryPolicy,
    /// The machine's memory as the driver read it, bytes; `retry_memory_limit` is a share of it. Default 4 GiB.
    pub memory: u64,
    /// The share of `memory`, in 65,535ths, that handshakes may take before clients are asked to prove their address. Default 65 (about 0.1 %).
    pub retry_memory_limit: u16,
    /// The most that one connection's buffers may come to, bytes; options that allow more are refused. Default 64 MiB.
    pub max_memory_per_connection: u64,
    /// Answers without a connection (version negotiation, Retry, refusal, stateless reset) within `stateless_operation_expiration`. Further ones are dropped.
    /// Default 100.
    pub max_stateless_operations: usize,
    /// How long such an answer counts, and how soon the same address may get another. Default 100 ms.
    pub stateless_operation_expiration: Duration,
    /// The least time between two stateless resets (RFC 9000 section 10.3.3). Default 20 ms.
    pub min_reset_interval: Duration,
    /// The longest datagram that our receive buffers take, UDP payload bytes, 1,200 to 65,527. Peers are told. Default 1,472.
    pub max_udp_payload: u16,
    /// Datagrams in one train at most, 1 to 64 (the kernel's UDP_MAX_SEGMENTS), as the socket can. Default 64.
    pub max_segments: usize,
    /// Bytes in one train at most. Linux takes 65,507 over IPv4 and refuses longer ones. Default 65,000.
    pub max_train: usize,
    /// Whether the socket promises not to fragment (IP_PMTUDISC_PROBE and the like): path MTU discovery needs it. Default true.
    pub path_mtu_discovery: bool,
    /// Whether to accept and send packets with the fixed bit unset (RFC 9287). Default true.
    pub grease_quic_bit: bool,
}

impl Default for EndpointConfig {
    fn default() -> Self {
        Self {
            secret: [0; 32],
            cid: CidConfig::default(),
            max_connections: 65_536,
            max_handshakes: 4_096,
            gate: true,
            max_incoming: 1_024,
            gate_timeout: Duration::from_secs(5),
            incoming_buffer: 64 << 10,
            incoming_buffer_total: 16 << 20,
            client_hello_limit: 16 << 10,
            retry: RetryPolicy::AboveHandshakes(1_000),
            memory: 4 << 30,
            retry_memory_limit: 65,
            max_memory_per_connection: 64 << 20,
            max_stateless_operations: 100,
            stateless_operation_expiration: Duration::from_millis(100),
            min_reset_interval: Duration::from_millis(20),
            max_udp_payload: 1_472,
            max_segments: 64,
            max_train: 65_000,
            path_mtu_discovery: true,
            grease_quic_bit: true,
        }
    }
}

/// What a client wants of its connections. Built once with [`ClientConfig::new`], shared by any number of them.
#[derive(Clone)]
pub struct ClientConfig {
    pub(super) inner: Arc<ClientInner>,
}

pub(super) struct ClientInner {
    pub(super) options: Options,
    pub(super) transport: TransportPair,
    pub(super) tls: rustls::ClientConfig,
    pub(super) verifier: Arc<dyn rustls::client::danger::ServerCertVerifier>,
    pub(super) verifies: bool,
    pub(super) sessions: Arc<dyn rustls::client::ClientSessionStore>,
    pub(super) tokens: Arc<dyn noq_proto::TokenStore>,
    pub(super) suite: rustls::quic::Suite,
}

/// What a [`ClientConfig`] is built from.
#[derive(Debug)]
pub struct ClientSettings {
    /// The application protocols to offer, most wanted first, each 1 to 255 bytes (RFC 7301 section 3.1). Required.
    pub alpn: Vec<Bytes>,
    /// How the server proves itself.
    pub verification: ServerVerification,
    /// Our certificate, if the server asks for one.
    pub identity: Option<Identity>,
    /// The cryptographic library.
    pub provider: Provider,
    /// The ciphers to offer, most wanted first; empty for the library's own choice.
    pub ciphers: Vec<Cipher>,
    /// Where TLS secrets are logged (`sslkeylogfile`): anyone who reads the log can decrypt the traffic.
    pub key_log: Option<Arc<dyn KeyLog>>,
    /// Sessions remembered for resumption, over all servers. 0 turns resumption off. Default 256.
    pub session_cache: usize,
    /// Everything else.
    pub options: Options,
}

impl ClientSettings {
    /// Settings with everything at its default.
    pub fn new(verification: ServerVerification, alpn: impl IntoIterator<Item = Bytes>) -> Self {
        Self {
            alpn: alpn.into_iter().collect(),
            verification,
            identity: None,
            provider: Provider::default(),
            ciphers: Vec::new(),
            key_log: None,
            session_cache: 256,
            options: Options::default(),
        }
    }
}

/// What a server wants of its connections. Built once with [`ServerConfig::new`].
#[derive(Clone)]
pub struct ServerConfig {
    pub(super) inner: Arc<ServerInner>,
}

pub(super) struct ServerInner {
    pub(super) options: Options,
    pub(super) transport: TransportPair,
    pub(super) tls: rustls::ServerConfig,
    pub(super) alpn: Vec<Bytes>,
    pub(super) verifier: Option<Arc<dyn rustls::server::danger::ClientCertVerifier>>,
    pub(super) verifies: bool,
    pub(super) sessions: Arc<super::crypto::SessionCache>,
    pub(super) stateless_tickets: bool,
    pub(super) token_log: Arc<noq_proto::BloomTokenLog>,
    pub(super) suite: rustls::quic::Suite,
    pub(super) preferred: Option<SocketAddr>,
}

/// What a [`ServerConfig`] is built from.
#[derive(Debug)]
pub struct ServerSettings {
    /// The application protocols that we speak, most wanted first. Required.
    pub alpn: Vec<Bytes>,
    /// Our certificate. Required.
    pub identity: Identity,
    /// Whether clients prove themselves, and how.
    pub client_verification: ClientVerification,
    /// The cryptographic library.
    pub provider: Provider,
    /// The ciphers to accept, most wanted first; empty for the library's own choice.
    pub ciphers: Vec<Cipher>,
    /// Where TLS secrets are logged.
    pub key_log: Option<Arc<dyn KeyLog>>,
    /// Sessions remembered for resumption with tickets that only name them (stateful). Default 1,024. Each thread's endpoint may share one configuration, so that a
    /// client is remembered whichever thread it meets.
    pub session_cache: usize,
    /// Tickets that carry the session themselves, sealed with a key from `EndpointConfig::secret`: any server with the secret resumes them. They exclude 0-RTT.
    pub stateless_tickets: bool,
    /// Another address of ours that clients are offered (RFC 9000 section 9.6). The engine's own clients do not follow it.
    pub preferred_address: Option<SocketAddr>,
    /// Everything else.
    pub options: Options,
}

impl ServerSettings {
    /// Settings with everything at its default.
    pub fn new(identity: Identity, alpn: impl IntoIterator<Item = Bytes>) -> Self {
        Self {
            alpn: alpn.into_iter().collect(),
            identity,
            client_verification: ClientVerification::None,
            provider: Provider::default(),
            ciphers: Vec::new(),
            key_log: None,
            session_cache: 1_024,
            stateless_tickets: false,
            preferred_address: None,
            options: Options::default(),
        }
    }
}

impl ClientConfig {
    /// Checks the settings and builds the configuration.
    ///
    /// # Errors
    /// Names the first option that is out of range, contradicts another, or cannot be honoured.
    pub fn new(settings: ClientSettings) -> Result<Self, ConfigError> {
        build::client(settings).map(|inner| Self { inner: Arc::new(inner) })
    }

    /// The options that it was built with.
    pub fn options(&self) -> &Options {
        &self.inner.options
    }
}

#[cfg(feature = "tls")]
impl ClientConfig {
    /// From the checked options of [`tls`](crate::tls): the same trust, pins, identity, key log and provider. `custom_verify` is refused: the trust is the other's.
    ///
    /// # Errors
    /// Names the first option that is out of range.
    pub fn from_tls(
        tls: &crate::tls::ClientConfig,
        alpn: impl IntoIterator<Item = Bytes>,
        options: Options,
    ) -> Result<Self, ConfigError> {
        let alpn: Vec<Bytes> = alpn.into_iter().collect();
        build::client_from_tls(tls.rustls(), &alpn, options)
            .map(|inner| Self { inner: Arc::new(inner) })
    }
}

#[cfg(feature = "tls")]
impl ServerConfig {
    /// From the checked options of [`tls`](crate::tls): the same identity, client authentication, key log and provider. `custom_verify` is refused.
    ///
    /// # Errors
    /// Names the first option that is out of range.
    pub fn from_tls(
        tls: &crate::tls::ServerConfig,
        alpn: impl IntoIterator<Item = Bytes>,
        options: Options,
    ) -> Result<Self, ConfigError> {
        let alpn: Vec<Bytes> = alpn.into_iter().collect();
        build::server_from_tls(tls.rustls(), alpn, options)
            .map(|inner| Self { inner: Arc::new(inner) })
    }
}

impl ServerConfig {
    /// Checks the settings and builds the configuration.
    ///
    /// # Errors
    /// Names the first option that is out of range, contradicts another, or cannot be honoured.
    pub fn new(settings: ServerSettings) -> Result<Self, ConfigError> {
        build::server(settings).map(|inner| Self { inner: Arc::new(inner) })
    }

    /// The options that it was built with.
    pub fn options(&self) -> &Options {
        &self.inner.options
    }

    pub(super) fn secure_random(&self) -> &'static dyn rustls::crypto::SecureRandom {
        self.inner.tls.crypto_provider().secure_random
    }
}

impl std::fmt::Debug for ClientConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientConfig").field("options", &self.inner.options).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for ServerConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerConfig").field("options", &self.inner.options).finish_non_exhaustive()
    }
}

/// What one connection is started with, beyond its configuration.
#[derive(Clone, Debug, Default)]
pub struct ConnectParams {
    /// A ticket of an earlier session (`nst`); without one the configuration's own cache is asked.
    pub nst: Option<Ticket>,
    /// The local socket to use (`local_address`), if the driver has several.
    pub local_address: Option<SocketAddr>,
}
