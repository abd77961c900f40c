//! Configuration: built once, checked when built, shared by everything that is made from it.

#[cfg(feature = "tls")]
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub use towline_proto::frame::Resend;

use crate::error::ConfigError;
#[cfg(feature = "tls")]
use crate::tls::{ClientAuth, KeyLog, Pin, Provider};

/// A checked configuration. Cloning it costs a reference count.
///
/// `Config::default()` works for every client and for servers on plain wires; an encrypted server needs a certificate.
///
/// ```
/// use std::time::Duration;
/// use towline::Config;
///
/// let config = Config::builder()
///     .max_message(64 << 20)
///     .redial_window(Duration::from_secs(300))
///     .build()?;
/// # Ok::<(), towline::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct Config(pub(crate) Arc<Options>);

/// The checked values.
pub(crate) struct Options {
    pub(crate) plain: Plain,
    /// Shared by all sessions, made with the first.
    session: std::sync::OnceLock<Arc<towline_proto::session::Config>>,
    #[cfg(feature = "tls")]
    pub(crate) tls: Tls,
    #[cfg(feature = "websocket")]
    pub(crate) websocket: crate::websocket::Checked,
    pub(crate) factories: crate::socket_factory::Factories,
    #[cfg(feature = "quic")]
    pub(crate) quic: crate::quic::WireConfigs,
}

/// Everything but TLS. The builder's methods say what each value means.
#[derive(Clone, Debug)]
pub(crate) struct Plain {
    pub(crate) max_message: usize,
    pub(crate) fragment_size: usize,
    pub(crate) receive_window: u64,
    pub(crate) send_queue_bytes: usize,
    pub(crate) send_queue_messages: usize,
    pub(crate) ack_delay: Duration,
    pub(crate) keep_alive: Duration,
    pub(crate) silence_limit: Duration,
    pub(crate) redial: bool,
    pub(crate) redial_window: Duration,
    pub(crate) backoff: Duration,
    pub(crate) backoff_cap: Duration,
    pub(crate) head_start: Duration,
    pub(crate) return_to_better: Option<Duration>,
    pub(crate) connect_timeout: Duration,
    pub(crate) close_timeout: Duration,
    pub(crate) max_connections: usize,
    pub(crate) max_handshakes: usize,
    pub(crate) max_unaccepted: usize,
    pub(crate) ftcp_queue_depth: usize,
    pub(crate) ftcp_resend: Resend,
    pub(crate) tcp_keep_alive: Option<Duration>,
    pub(crate) tcp_user_timeout: Option<Duration>,
    #[cfg_attr(not(feature = "tls"), expect(dead_code, reason = "a name to verify needs TLS"))]
    pub(crate) server_name: Option<Box<str>>,
}

impl Default for Plain {
    fn default() -> Plain {
        Plain {
            max_message: 16 << 20,
            fragment_size: 64 << 10,
            receive_window: 4 << 20,
            send_queue_bytes: 16 << 20,
            send_queue_messages: 65_536,
            ack_delay: Duration::from_millis(10),
            keep_alive: Duration::from_secs(15),
            silence_limit: Duration::from_secs(30),
            redial: true,
            redial_window: Duration::from_secs(60),
            backoff: Duration::from_millis(20),
            backoff_cap: Duration::from_secs(5),
            head_start: Duration::from_millis(250),
            return_to_better: None,
            connect_timeout: Duration::from_secs(10),
            close_timeout: Duration::from_secs(5),
            max_connections: 65_536,
            max_handshakes: 1024,
            max_unaccepted: 1024,
            ftcp_queue_depth: 1000,
            ftcp_resend: Resend::Unacked,
            tcp_keep_alive: Some(Duration::from_secs(15)),
            tcp_user_timeout: Some(Duration::from_secs(30)),
            server_name: None,
        }
    }
}

#[cfg(feature = "tls")]
pub(crate) struct Tls {
    /// Read lazily, on the first encrypted connection: most programs have none, and system roots take a while to read.
    pub(crate) client: std::sync::OnceLock<
        Result<towline_proto::tls::ClientConfig, Arc<towline_proto::tls::Error>>,
    >,
    client_options: towline_proto::tls::Config,
    pub(crate) server: Option<towline_proto::tls::ServerConfig>,
}

impl Config {
    /// Starts from the defaults.
    pub fn builder() -> ConfigBuilder {
        ConfigBuilder::default()
    }

    /// The factory that opens an address, if one does.
    pub(crate) fn factory_for(
        &self,
        address: &crate::Address,
    ) -> Option<Arc<dyn crate::socket_factory::SocketFactory>> {
        self.0.factories.find(address).cloned()
    }

    /// The session's part.
    pub(crate) fn session(&self) -> Arc<towline_proto::session::Config> {
        let options = &self.0;
        let make = || Arc::new(crate::engine::session_config(&options.plain));
        Arc::clone(options.session.get_or_init(make))
    }

    #[cfg(feature = "tls")]
    pub(crate) fn tls_client(
        &self,
    ) -> Result<&towline_proto::tls::ClientConfig, Arc<towline_proto::tls::Error>> {
        let tls = &self.0.tls;
        tls.client
            .get_or_init(|| tls.client_options.client().map_err(Arc::new))
            .as_ref()
            .map_err(Arc::clone)
    }
}

impl Default for Config {
    fn default() -> Config {
        let plain = Plain::default();
        Config(Arc::new(Options {
            #[cfg(feature = "websocket")]
            websocket: crate::websocket::Options::default().assemble(
                &plain,
                crate::websocket::Headers::new(),
                None,
            ),
            plain,
            factories: Default::default(),
            #[cfg(feature = "quic")]
            quic: crate::quic::WireConfigs::default(),
            session: std::sync::OnceLock::new(),
            #[cfg(feature = "tls")]
            tls: Tls {
                client: std::sync::OnceLock::new(),
                client_options: towline_proto::tls::Config::new().system_roots(),
                server: None,
            },
        }))
    }
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Config").field(&self.0.plain).finish()
    }
}

/// Builds a [`Config`]. Every option is honoured or refused by [`ConfigBuilder::build`].
#[derive(Clone, Default)]
#[must_use = "a builder does nothing until `build`"]
pub struct ConfigBuilder {
    plain: Plain,
    #[cfg(feature = "websocket")]
    pub(crate) websocket: crate::websocket::Options,
    #[cfg(feature = "tls")]
    tls: TlsOptions,
    pub(crate) factories: crate::socket_factory::Factories,
}

#[cfg(feature = "tls")]
#[derive(Clone)]
struct TlsOptions {
    shared: towline_proto::tls::Config,
    has_identity: bool,
    has_trust: bool,
}

#[cfg(feature = "tls")]
impl Default for TlsOptions {
    fn default() -> TlsOptions {
        TlsOptions {
            shared: towline_proto::tls::Config::new(),
            has_identity: false,
            has_trust: false,
        }
    }
}

impl ConfigBuilder {
    /// The largest message to send or to accept, in bytes. 64 KiB to 1 GiB; default 16 MiB. A receiver may hold one
    /// unfinished message of this size for each lane in use. ftcp's own limit of 65,519 bytes stays.
    pub fn max_message(mut self, bytes: usize) -> Self {
        self.plain.max_message = bytes;
        self
    }

    /// Larger messages travel in pieces of this size, between which messages on more urgent lanes pass, in bytes.
    /// 1 KiB to 256 KiB; default 64 KiB. Smaller means less waiting for urgent messages and more overhead.
    pub fn fragment_size(mut self, bytes: usize) -> Self {
        self.plain.fragment_size = bytes;
        self
    }

    /// How many bytes the peer may send on each lane beyond what this program has consumed: the bound of the inbox
    /// and of blocking readers. 512 KiB to 1 GiB; default 4 MiB. Throughput is at most this much per round trip.
    pub fn receive_window(mut self, bytes: u64) -> Self {
        self.plain.receive_window = bytes;
        self
    }

    /// Bytes that may be accepted for sending on one lane and not yet acknowledged; beyond, `try_send` is refused and
    /// `send` waits, to be told when half of it is free. 1 KiB to 16 GiB; default 16 MiB. One message is always accepted
    /// when nothing waits. Each [`Lane`](crate::Lane) has as much, so that a full one does not shut out more urgent messages: the connection's
    /// bound is that times the lanes in use.
    pub fn send_queue_bytes(mut self, bytes: usize) -> Self {
        self.plain.send_queue_bytes = bytes;
        self
    }

    /// The same bound in messages, on each lane. 1 to 16,777,216; default 65,536. The ftcp wires have their own, see
    /// [`ConfigBuilder::ftcp_queue_depth`].
    pub fn send_queue_messages(mut self, messages: usize) -> Self {
        self.plain.send_queue_messages = messages;
        self
    }

    /// The longest that an acknowledgement waits for something to travel with. 0 to 1 s; default 10 ms.
    pub fn ack_delay(mut self, delay: Duration) -> Self {
        self.plain.ack_delay = delay;
        self
    }

    /// After this much silence a session asks whether the peer is still there. 100 ms to 1 hour; default 15 s.
    pub fn keep_alive(mut self, interval: Duration) -> Self {
        self.plain.keep_alive = interval;
        self
    }

    /// After this much silence, questions included, the wire counts as lost. Must exceed [`ConfigBuilder::keep_alive`];
    /// at most 2 hours; default 30 s.
    pub fn silence_limit(mut self, limit: Duration) -> Self {
        self.plain.silence_limit = limit;
        self
    }

    /// Whether a dialed connection redials when its wire is lost. Default yes. An accepted one never does: it waits
    /// for the peer to come back (session wires) or ends (ftcp wires).
    pub fn redial(mut self, redial: bool) -> Self {
        self.plain.redial = redial;
        self
    }

    /// How long a connection without a wire is kept, on both sides. 1 ms to 30 days; default 60 s, ftcp's redial time-out.
    pub fn redial_window(mut self, window: Duration) -> Self {
        self.plain.redial_window = window;
        self
    }

    /// The pause before the second redial is drawn from 0 to this, doubled for each further one up to `cap`. The first
    /// redial is immediate. Base 1 ms to 1 minute, cap not below it and at most 1 hour; defaults 20 ms and 5 s.
    pub fn backoff(mut self, base: Duration, cap: Duration) -> Self {
        self.plain.backoff = base;
        self.plain.backoff_cap = cap;
        self
    }

    /// How long an address of a list may try alone before the next one starts beside it. 1 ms to 1 minute; default
    /// 250 ms (RFC 8305 section 5).
    pub fn head_start(mut self, time: Duration) -> Self {
        self.plain.head_start = time;
        self
    }

    /// Addresses are listed in order of preference. While a session runs over another one than the first, try the better
    /// ones again this often, with up to a quarter of jitter, and move the session to the first that answers: nothing is
    /// lost or doubled by it. A wire that answers and then does not carry the session is tried half as often each time, down
    /// to a 64th. 10 ms to 1 day. Default: stay with what works until it is lost.
    pub fn return_to_better(mut self, every: Duration) -> Self {
        self.plain.return_to_better = Some(every);
        self
    }

    /// How long one attempt may take, with all its handshakes, on both sides. 1 ms to 10 minutes; default 10 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.plain.connect_timeout = timeout;
        self
    }

    /// How long `close` waits for acknowledgements and for the peer's goodbye, and how long dropping a context lets
    /// its connections drain. 0 to 10 minutes; default 5 s.
    pub fn close_timeout(mut self, timeout: Duration) -> Self {
        self.plain.close_timeout = timeout;
        self
    }

    /// Accepted connections that one listener serves at once, those without a wire included. Beyond, new peers are
    /// turned away. 1 to 16,777,216; default 65,536.
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.plain.max_connections = connections;
        self
    }

    /// Peers of one listener that may be in their handshakes at once; more wait in the kernel's backlog. 1 to 65,536; default
    /// 1,024.
    pub fn max_handshakes(mut self, handshakes: usize) -> Self {
        self.plain.max_handshakes = handshakes;
        self
    }

    /// Connections of one listener that may wait for `accept`; more wait in the kernel's backlog. Those that are in their
    /// handshakes when the bound is reached come on top. 1 to 65,536; default 1,024.
    pub fn max_unaccepted(mut self, connections: usize) -> Self {
        self.plain.max_unaccepted = connections;
        self
    }

    /// Messages in the queue of an ftcp connection before sending waits. 1 to 16,777,216; default 1,000, ftcp's own.
    pub fn ftcp_queue_depth(mut self, messages: usize) -> Self {
        self.plain.ftcp_queue_depth = messages;
        self
    }

    /// What an ftcp connection sends again after a redial. Default [`Resend::Unacked`].
    pub fn ftcp_resend(mut self, resend: Resend) -> Self {
        self.plain.ftcp_resend = resend;
        self
    }

    /// TCP's own keep-alive on the ftcp wires, which have no other: probes after this much silence. `None`
    /// turns it off. 1 s to 2 hours, whole seconds; default 15 s.
    pub fn tcp_keep_alive(mut self, interval: Option<Duration>) -> Self {
        self.plain.tcp_keep_alive = interval;
        self
    }

    /// How long bytes on an ftcp wire may stay unacknowledged by the peer's TCP before the wire counts as lost (Linux'
    /// `TCP_USER_TIMEOUT`). `None` leaves it to the system, usually 15 minutes. 1 ms to 1 hour; default 30 s.
    pub fn tcp_user_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.plain.tcp_user_timeout = timeout;
        self
    }
}

/// TLS. Verification is on unless `dangerous_accept_any_certificate` is called; with no CA and no pin given, the
/// system's roots are trusted.
#[cfg(feature = "tls")]
impl ConfigBuilder {
    /// This side's certificate chain and private key, PEM files. Servers on encrypted wires need them; clients use them
    /// when the server asks.
    pub fn certificate_files(mut self, chain: impl AsRef<Path>, key: impl AsRef<Path>) -> Self {
        self.tls.shared = self.tls.shared.identity_files(chain, key);
        self.tls.has_identity = true;
        self
    }

    /// The same from PEM text in memory.
    pub fn certificate_pem(mut self, chain: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        self.tls.shared = self.tls.shared.identity_pem(chain, key);
        self.tls.has_identity = true;
        self
    }

    /// Trusts the certificate authorities in a PEM file, and no longer the system's roots unless asked to.
    pub fn ca_file(mut self, path: impl AsRef<Path>) -> Self {
        self.tls.shared = self.tls.shared.ca_file(path);
        self.tls.has_trust = true;
        self
    }

    /// The same from PEM text in memory.
    pub fn ca_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.tls.shared = self.tls.shared.ca_pem(pem);
        self.tls.has_trust = true;
        self
    }

    /// Trusts the system's roots beside what else is given.
    pub fn system_roots(mut self) -> Self {
        self.tls.shared = self.tls.shared.system_roots();
        self.tls.has_trust = true;
        self
    }

    /// Accepts only peers whose certificate or public key has this SHA-256; may be called several times.
    pub fn pin(mut self, pin: Pin) -> Self {
        self.tls.shared = self.tls.shared.pin(pin);
        self.tls.has_trust = true;
        self
    }

    /// Whether a server asks its clients for certificates. Default no.
    pub fn client_auth(mut self, auth: ClientAuth) -> Self {
        self.tls.shared = self.tls.shared.client_auth(auth);
        self
    }

    /// The name that the server's certificate must have, where it differs from the address's host.
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.plain.server_name = Some(name.into().into());
        self
    }

    /// Application protocols to offer or accept, the preferred first. Default: none; the session of `tls://` and the
    /// frames of `ftcps://` need none.
    pub fn alpn(mut self, protocols: impl IntoIterator<Item = impl Into<Vec<u8>>>) -> Self {
        self.tls.shared = self.tls.shared.alpn(protocols);
        self
    }

    /// Refuses peers with no application protocol in common.
    pub fn require_alpn(mut self) -> Self {
        self.tls.shared = self.tls.shared.require_alpn();
        self
    }

    /// Writes the session secrets for tools such as Wireshark. Whoever reads them reads the traffic.
    pub fn key_log(mut self, log: KeyLog) -> Self {
        self.tls.shared = self.tls.shared.key_log(log);
        self
    }

    /// Whether TLS resumes earlier connections by tickets. Default yes.
    pub fn tls_resumption(mut self, on: bool) -> Self {
        self.tls.shared = self.tls.shared.resumption(on);
        self
    }

    /// Speaks TLS 1.2 with peers that have nothing better.
    pub fn legacy_tls12(mut self) -> Self {
        self.tls.shared = self.tls.shared.legacy_tls12();
        self
    }

    /// Where the cryptography comes from. Default: the faster one of those built in.
    pub fn crypto_provider(mut self, provider: Provider) -> Self {
        self.tls.shared = self.tls.shared.provider(provider);
        self
    }

    /// Accepts every certificate: whoever sits on the path can read and change everything. For tests only.
    pub fn dangerous_accept_any_certificate(mut self) -> Self {
        self.tls.shared = self.tls.shared.dangerous_accept_any_certificate();
        self.tls.has_trust = true;
        self
    }
}

impl ConfigBuilder {
    /// Checks every option, reads the files that they name, and builds.
    pub fn build(self) -> Result<Config, ConfigError> {
        self.plain.check()?;
        #[cfg(feature = "websocket")]
        let websocket = self.websocket.check(&self.plain)?;
        #[cfg(feature = "tls")]
        let tls = {
            let TlsOptions { shared, has_identity, has_trust } = self.tls;
            let server = match has_identity {
                true => Some(shared.server().map_err(Arc::new)?),
                false => None,
            };
            let client_options = if has_trust { shared } else { shared.system_roots() };
            let client = std::sync::OnceLock::new();
            if has_trust || has_identity {
                // What was configured is checked now; only the bare default waits for its first use.
                let checked = client_options.client().map_err(Arc::new);
                if has_trust {
                    client.set(Ok(checked?)).ok();
                }
            }
            Tls { client, client_options, server }
        };
        Ok(Config(Arc::new(Options {
            plain: self.plain,
            session: std::sync::OnceLock::new(),
            #[cfg(feature = "tls")]
            tls,
            #[cfg(feature = "websocket")]
            websocket,
            factories: self.factories.check()?,
            #[cfg(feature = "quic")]
            quic: crate::quic::WireConfigs::default(),
        })))
    }
}

impl Plain {
    fn check(&self) -> Result<(), ConfigError> {
        const KIB: usize = 1 << 10;
        const GIB: usize = 1 << 30;
        let ms = Duration::from_millis;
        let hour = Duration::from_secs(3600);
        size("max_message", self.max_message, 64 * KIB..=GIB, "64 KiB to 1 GiB")?;
        size("fragment_size", self.fragment_size, KIB..=256 * KIB, "1 KiB to 256 KiB")?;
        size("receive_window", self.receive_window as usize, 512 * KIB..=GIB, "512 KiB to 1 GiB")?;
        size("send_queue_bytes", self.send_queue_bytes, KIB..=16 * GIB, "1 KiB to 16 GiB")?;
        let counts = 1..=1 << 24;
        size("send_queue_messages", self.send_queue_messages, counts.clone(), "1 to 16,777,216")?;
        size("max_connections", self.max_connections, counts.clone(), "1 to 16,777,216")?;
        size("ftcp_queue_depth", self.ftcp_queue_depth, counts, "1 to 16,777,216")?;
        size("max_handshakes", self.max_handshakes, 1..=65_536, "1 to 65,536")?;
        size("max_unaccepted", self.max_unaccepted, 1..=65_536, "1 to 65,536")?;
        time("ack_delay", self.ack_delay, Duration::ZERO, ms(1000), "0 to 1 s")?;
        time("keep_alive", self.keep_alive, ms(100), hour, "100 ms to 1 h")?;
        let above = self.keep_alive + ms(1);
        time(
            "silence_limit",
            self.silence_limit,
            above,
            2 * hour,
            "above keep_alive and at most 2 h",
        )?;
        time("redial_window", self.redial_window, ms(1), 720 * hour, "1 ms to 30 days")?;
        time("backoff base", self.backoff, ms(1), ms(60_000), "1 ms to 1 min")?;
        time("backoff cap", self.backoff_cap, self.backoff, hour, "from the base to 1 h")?;
        time("head_start", self.head_start, ms(1), ms(60_000), "1 ms to 1 min")?;
        if let Some(every) = self.return_to_better {
            time("return_to_better", every, ms(10), 24 * hour, "10 ms to 1 day")?;
        }
        time("connect_timeout", self.connect_timeout, ms(1), hour / 6, "1 ms to 10 min")?;
        time("close_timeout", self.close_timeout, Duration::ZERO, hour / 6, "0 to 10 min")?;
        if let Some(interval) = self.tcp_keep_alive {
            time("tcp_keep_alive", interval, ms(1000), 2 * hour, "1 s to 2 h")?;
        }
        if let Some(timeout) = self.tcp_user_timeout {
            time("tcp_user_timeout", timeout, ms(1), hour, "1 ms to 1 h")?;
        }
        Ok(())
    }
}

fn size(
    option: &'static str,
    value: usize,
    allowed: std::ops::RangeInclusive<usize>,
    range: &'static str,
) -> Result<(), ConfigError> {
    if allowed.contains(&value) {
        return Ok(());
    }
    Err(ConfigError::OutOfRange { option, value: value.to_string(), range })
}

fn time(
    option: &'static str,
    value: Duration,
    low: Duration,
    high: Duration,
    range: &'static str,
) -> Result<(), ConfigError> {
    if (low..=high).contains(&value) {
        return Ok(());
    }
    Err(ConfigError::OutOfRange { option, value: format!("{value:?}"), range })
}
