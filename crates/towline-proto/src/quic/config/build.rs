//! Checks settings and turns them into what the engine and the TLS library want.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use noq_proto as engine;
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::CertificateDer;

use super::options::{Options, Resumption};
use super::table::VARINT_MAX;
use super::tls::{
    self, ClientVerification, KeyLog, LooseClientVerifier, LooseServerVerifier, ServerVerification,
};
use super::{ClientInner, ClientSettings, EndpointConfig, ServerInner, ServerSettings};
use crate::quic::congestion::{Factory, Recipe};
use crate::quic::crypto::SessionCache;
use crate::quic::error::ConfigError;
use crate::quic::observe::Observed;
#[cfg(feature = "qlog")]
use crate::quic::qlog;

/// Handshake bytes that may wait out of order, per encryption level.
pub(super) const CRYPTO_BUFFER: usize = 64 << 10;

/// Runs of bytes that the engine keeps apart in one stream before it gives the connection up.
const MAX_RUNS: u64 = 1_024;
/// Bytes of a packet that are not stream data: header, frame header, tag.
const OVERHEAD: u16 = 50;

const UDP_IPV4: u16 = 20 + 8;
const UDP_IPV6: u16 = 40 + 8;

/// The engine's transport settings by the peer's address family, since options give the size of IP packets and the engine wants that of UDP payloads.
#[derive(Clone)]
pub(in crate::quic) struct TransportPair {
    v4: engine::TransportConfig,
    v6: engine::TransportConfig,
    recipe: Recipe,
}

impl TransportPair {
    /// The settings of one connection, with its own watched congestion controller.
    pub(in crate::quic) fn for_connection(
        &self,
        remote: SocketAddr,
        observed: &Arc<Observed>,
    ) -> Arc<engine::TransportConfig> {
        let mut config = if remote.is_ipv4() { self.v4.clone() } else { self.v6.clone() };
        let factory = Factory { recipe: self.recipe.clone(), observed: observed.clone() };
        config.congestion_controller_factory(Arc::new(factory));
        Arc::new(config)
    }

    /// The settings of no connection in particular.
    pub(in crate::quic) fn plain(&self) -> Arc<engine::TransportConfig> {
        Arc::new(self.v6.clone())
    }
}

fn out_of_range(
    option: &'static str,
    value: impl ToString,
    range: impl Into<String>,
    why: &'static str,
) -> ConfigError {
    ConfigError::OutOfRange { option, value: value.to_string(), range: range.into(), why }
}

impl EndpointConfig {
    /// Checks ranges.
    pub(in crate::quic) fn check(&self) -> Result<(), ConfigError> {
        if !(1..=64).contains(&self.max_segments) {
            return Err(out_of_range(
                "max_segments",
                self.max_segments,
                "1 to 64",
                "the kernel takes 64 segments",
            ));
        }
        if !(1_200..=65_527).contains(&self.max_udp_payload) {
            let why = "QUIC packets are 1,200 bytes at least and UDP takes 65,527 at most";
            return Err(out_of_range(
                "max_udp_payload",
                self.max_udp_payload,
                "1200 to 65527",
                why,
            ));
        }
        if self.max_train < usize::from(self.max_udp_payload) {
            let range = format!("{} or more", self.max_udp_payload);
            return Err(out_of_range(
                "max_train",
                self.max_train,
                range,
                "a train is one datagram at least",
            ));
        }
        if self.max_stateless_operations == 0 {
            let why = "no client could be told anything before it has a connection";
            return Err(out_of_range("max_stateless_operations", 0, "1 or more", why));
        }
        self.cid.check()
    }

    /// Refuses options that allow one connection more memory than the endpoint does.
    pub(in crate::quic) fn check_memory(&self, options: &Options) -> Result<(), ConfigError> {
        let bound = options.memory_bound();
        if bound <= self.max_memory_per_connection {
            return Ok(());
        }
        let why = "windows and queues of one connection together; lower conn_flow_control_window, send_window or the datagram queues, or raise it";
        let range = format!("{bound} or more");
        Err(out_of_range("max_memory_per_connection", self.max_memory_per_connection, range, why))
    }
}

/// The largest stream window that cannot come to more runs of bytes than the engine keeps apart. Behind one lost packet every packet of the window is a run of its own, since
/// the engine joins only small ones; what is sent again is cut differently, which measured as half as many more at worst.
fn safe_window(minimum_mtu: u16) -> u64 {
    let packet = u64::from(minimum_mtu.saturating_sub(UDP_IPV6 + OVERHEAD));
    MAX_RUNS * packet * 2 / 3
}

fn check(options: &Options) -> Result<(), ConfigError> {
    for (option, value, least) in [
        ("conn_flow_control_window", options.conn_flow_control_window, 4_096),
        ("send_window", options.send_window, 4_096),
        ("max_bytes_per_key", options.max_bytes_per_key, 65_536),
    ] {
        if !(least..=VARINT_MAX).contains(&value) {
            let range = format!("{least} to {VARINT_MAX}");
            return Err(out_of_range(
                option,
                value,
                range,
                "less than a few packets would stand still",
            ));
        }
    }
    for (option, value) in [
        ("peer_bidi_stream_count", options.peer_bidi_stream_count),
        ("peer_unidi_stream_count", options.peer_unidi_stream_count),
    ] {
        if value > 1 << 60 {
            return Err(out_of_range(
                option,
                value,
                "0 to 2^60",
                "stream identifiers end there (RFC 9000 section 4.6)",
            ));
        }
    }
    if options.minimum_mtu < 1_200 + UDP_IPV6 {
        let why = "QUIC needs 1,200 bytes of UDP payload (RFC 9000 section 14)";
        return Err(out_of_range("minimum_mtu", options.minimum_mtu, "1248 to 65535", why));
    }
    if options.maximum_mtu < options.minimum_mtu {
        let why = "the search starts at minimum_mtu and ends at maximum_mtu";
        return Err(ConfigError::Conflict { option: "maximum_mtu", other: "minimum_mtu", why });
    }
    let safe = if options.risk_gap_overflow { 64 << 20 } else { safe_window(options.minimum_mtu) };
    if !(4_096..=safe).contains(&options.stream_recv_window) {
        let why = "with more, one lost packet can leave the engine with more runs of bytes than it keeps apart, which ends the connection; see `risk_gap_overflow`";
        let range = format!("4096 to {safe}");
        return Err(out_of_range(
            "stream_recv_window_default",
            options.stream_recv_window,
            range,
            why,
        ));
    }
    if options.initial_window_packets < 2 {
        let why = "RFC 9002 section 7.2: two packets at least";
        return Err(out_of_range(
            "initial_window_packets",
            options.initial_window_packets,
            "2 or more",
            why,
        ));
    }
    if options.max_operations_per_drain == 0 || options.max_chunk == 0 {
        let why = "nothing would ever be sent or read";
        return Err(out_of_range("max_operations_per_drain", 0, "1 to 255", why));
    }
    if !options.pacing && options.max_send_rate.is_some() {
        let why = "the pacer is what keeps to a rate";
        return Err(ConfigError::Conflict {
            option: "max_send_rate",
            other: "pacing_enabled",
            why,
        });
    }
    if options.qlog.is_some() && cfg!(not(feature = "qlog")) {
        let reason = "this program is built without the Cargo feature `qlog`";
        return Err(ConfigError::Refused { option: "qlog", reason });
    }
    check_times(options)
}

fn check_times(options: &Options) -> Result<(), ConfigError> {
    const LONGEST: Duration = Duration::from_secs(86_400 * 365);
    let ms = Duration::from_millis(1);
    let idle = options.idle_timeout.unwrap_or(ms);
    for (option, value) in [
        ("handshake_idle_timeout_ms", options.handshake_idle_timeout),
        ("disconnect_timeout_ms", options.disconnect_timeout),
        ("initial_rtt_ms", options.initial_rtt),
        ("idle_timeout_ms", idle),
        ("keep_alive_interval_ms", options.keep_alive_interval.unwrap_or(ms)),
        ("verdict_timeout", options.verdict_timeout),
    ] {
        if value < ms || value > LONGEST {
            let why = "below a millisecond, or beyond a year";
            return Err(out_of_range(option, format!("{value:?}"), "1 ms to 1 year", why));
        }
    }
    if let (Some(keep_alive), Some(idle)) = (options.keep_alive_interval, options.idle_timeout)
        && keep_alive >= idle
    {
        let why = "a connection would be given up before it is kept alive";
        return Err(ConfigError::Conflict {
            option: "keep_alive_interval_ms",
            other: "idle_timeout_ms",
            why,
        });
    }
    Ok(())
}

fn varint(value: u64) -> engine::VarInt {
    engine::VarInt::from_u64(value).unwrap_or(engine::VarInt::MAX)
}

fn transport(options: &Options) -> TransportPair {
    let recipe = Recipe {
        control: options.congestion_control.clone(),
        initial_window_packets: options.initial_window_packets,
        send_idle_timeout: options.send_idle_timeout,
        pacing: options.pacing,
    };
    TransportPair {
        v4: transport_for(options, UDP_IPV4),
        v6: transport_for(options, UDP_IPV6),
        recipe,
    }
}

/// RFC 9000 section 14: what every path carries, and what is left when a path seems to carry no more.
const SMALLEST_MTU: u16 = 1_248;
/// How long that is believed, unless the search is repeated sooner anyway.
const BLACK_HOLE_COOLDOWN: Duration = Duration::from_secs(60);

fn transport_for(options: &Options, headers: u16) -> engine::TransportConfig {
    let mut config = engine::TransportConfig::default();
    let idle = options.idle_timeout.and_then(|idle| engine::IdleTimeout::try_from(idle).ok());
    let mut search = engine::MtuDiscoveryConfig::default();
    search
        .interval(options.mtu_discovery_interval)
        .black_hole_cooldown(options.mtu_discovery_interval.min(BLACK_HOLE_COOLDOWN))
        .upper_bound(options.maximum_mtu.saturating_sub(headers));
    let ack_frequency = options.ack_frequency.map(|asked| {
        let mut config = engine::AckFrequencyConfig::default();
        config
            .ack_eliciting_threshold(asked.packets.into())
            .max_ack_delay(asked.max_delay)
            .reordering_threshold(asked.reordering.into());
        config
    });
    config
        .max_idle_timeout(idle)
        .keep_alive_interval(options.keep_alive_interval)
        .stream_receive_window(varint(options.stream_recv_window))
        .receive_window(varint(options.conn_flow_control_window))
        .send_window(options.send_window)
        .send_fairness(options.send_fairness)
        .max_concurrent_bidi_streams(varint(options.peer_bidi_stream_count))
        .max_concurrent_uni_streams(varint(options.peer_unidi_stream_count))
        .initial_rtt(options.initial_rtt)
        .initial_mtu(options.minimum_mtu.saturating_sub(headers))
        // Where the first packets are as large as any, there is nothing to search for until losses are taken for a smaller path.
        .mtu_discovery_config((options.maximum_mtu > SMALLEST_MTU).then_some(search))
        .pad_to_mtu(options.pad_to_mtu)
        .ack_frequency_config(ack_frequency)
        .max_outgoing_bytes_per_second(options.max_send_rate)
        .crypto_buffer_size(CRYPTO_BUFFER)
        // The engine only sends datagrams when it could receive them; what the peer is told is decided where our parameters are written.
        .datagram_receive_buffer_size(Some(options.datagram_receive_queue.max(1 << 16)))
        .datagram_send_buffer_size(options.datagram_send_queue.max(1 << 16));
    #[cfg(feature = "qlog")]
    if let Some(sink) = &options.qlog {
        config.qlog_factory(Arc::new(qlog::Factory(sink.clone())));
    }
    config
}

fn check_alpn(alpn: &[Bytes]) -> Result<Vec<Vec<u8>>, ConfigError> {
    if alpn.is_empty() {
        let why = "RFC 9001 section 8.1: both ends agree on an application protocol";
        return Err(ConfigError::Missing { option: "alpn", why });
    }
    for name in alpn {
        if name.is_empty() || name.len() > 255 {
            let value = format!("a name of {} bytes", name.len());
            return Err(out_of_range("alpn", value, "1 to 255 bytes", "RFC 7301 section 3.1"));
        }
    }
    Ok(alpn.iter().map(|name| name.to_vec()).collect())
}

fn tls_error(error: impl std::fmt::Display) -> ConfigError {
    ConfigError::Tls(error.to_string())
}

fn roots(anchors: Vec<CertificateDer<'static>>) -> Result<Arc<RootCertStore>, ConfigError> {
    let mut store = RootCertStore::empty();
    let given = anchors.len();
    let (added, _) = store.add_parsable_certificates(anchors);
    if added == 0 {
        return Err(ConfigError::Tls(format!("none of {given} trust anchors can be read")));
    }
    Ok(Arc::new(store))
}

fn key_log(sink: Option<Arc<dyn KeyLog>>) -> Arc<dyn rustls::KeyLog> {
    match sink {
        Some(sink) => Arc::new(tls::KeyLogAdapter(sink)),
        None => Arc::new(rustls::NoKeyLog),
    }
}

pub(super) fn client(settings: ClientSettings) -> Result<ClientInner, ConfigError> {
    let options = settings.options;
    check(&options)?;
    let provider = tls::provider(settings.provider, &settings.ciphers)?;
    let suite = tls::initial_suite(settings.provider)?;
    let verifies = matches!(settings.verification, ServerVerification::Roots(_));
    let verifier = server_verifier(settings.verification, &provider)?;
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(tls_error)?
        .dangerous()
        .with_custom_certificate_verifier(verifier.clone());
    let mut tls = match settings.identity {
        Some(identity) => {
            builder.with_client_auth_cert(identity.chain, identity.key).map_err(tls_error)?
        }
        None => builder.with_no_client_auth(),
    };
    tls.alpn_protocols = check_alpn(&settings.alpn)?;
    tls.enable_early_data = true;
    tls.key_log = key_log(settings.key_log);
    Ok(ClientInner {
        transport: transport(&options),
        options,
        tls,
        verifier,
        verifies,
        sessions: Arc::new(rustls::client::ClientSessionMemoryCache::new(settings.session_cache)),
        tokens: Arc::new(engine::TokenMemoryCache::default()),
        suite,
    })
}

/// What judges certificates in a configuration that was made elsewhere, and cannot be asked a second time.
#[cfg(feature = "tls")]
fn refuse_custom_verify(options: &Options) -> Result<(), ConfigError> {
    if options.custom_verify {
        let why = "the trust comes with the TLS options";
        return Err(ConfigError::Conflict { option: "custom_verify", other: "tls", why });
    }
    Ok(())
}

#[cfg(feature = "tls")]
pub(super) fn client_from_tls(
    tls: &rustls::ClientConfig,
    alpn: &[Bytes],
    options: Options,
) -> Result<ClientInner, ConfigError> {
    check(&options)?;
    refuse_custom_verify(&options)?;
    let suite = tls::initial_suite(tls::Provider::default())?;
    let algorithms = tls.crypto_provider().signature_verification_algorithms;
    let mut tls = tls.clone();
    tls.alpn_protocols = check_alpn(alpn)?;
    tls.enable_early_data = true;
    Ok(ClientInner {
        transport: transport(&options),
        options,
        tls,
        // Asked for `custom_verify` only.
        verifier: Arc::new(LooseServerVerifier { algorithms, pins: Some(Vec::new()) }),
        verifies: false,
        sessions: Arc::new(rustls::client::ClientSessionMemoryCache::new(256)),
        tokens: Arc::new(engine::TokenMemoryCache::default()),
        suite,
    })
}

#[cfg(feature = "tls")]
pub(super) fn server_from_tls(
    tls: &rustls::ServerConfig,
    alpn: Vec<Bytes>,
    options: Options,
) -> Result<ServerInner, ConfigError> {
    check(&options)?;
    refuse_custom_verify(&options)?;
    let suite = tls::initial_suite(tls::Provider::default())?;
    let mut tls = tls.clone();
    tls.alpn_protocols = check_alpn(&alpn)?;
    let level = options.server_resumption_level;
    tls.send_tls13_tickets = if level == Resumption::None { 0 } else { 2 };
    tls.max_early_data_size = if level == Resumption::ResumeAndEarlyData { u32::MAX } else { 0 };
    tls.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok(ServerInner {
        transport: transport(&options),
        options,
        tls,
        alpn,
        verifier: None,
        verifies: false,
        sessions: Arc::new(SessionCache::new(1_024)),
        stateless_tickets: false,
        token_log: Arc::new(engine::BloomTokenLog::default()),
        suite,
        preferred: None,
    })
}

fn server_verifier(
    verification: ServerVerification,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, ConfigError> {
    let algorithms = provider.signature_verification_algorithms;
    Ok(match verification {
        ServerVerification::Roots(anchors) => {
            WebPkiServerVerifier::builder_with_provider(roots(anchors)?, provider.clone())
                .build()
                .map_err(tls_error)?
        }
        ServerVerification::PinnedSha256(pins) => {
            Arc::new(LooseServerVerifier { algorithms, pins: Some(pins) })
        }
        ServerVerification::DangerousNone => {
            Arc::new(LooseServerVerifier { algorithms, pins: None })
        }
    })
}

pub(super) fn server(settings: ServerSettings) -> Result<ServerInner, ConfigError> {
    let options = settings.options;
    check(&options)?;
    if settings.stateless_tickets
        && options.server_resumption_level == Resumption::ResumeAndEarlyData
    {
        let why = "a ticket that carries its session can be replayed; only sessions in memory are taken once";
        return Err(ConfigError::Conflict {
            option: "stateless_tickets",
            other: "server_resumption_level",
            why,
        });
    }
    let provider = tls::provider(settings.provider, &settings.ciphers)?;
    let suite = tls::initial_suite(settings.provider)?;
    let mut verification = settings.client_verification;
    if options.custom_verify && matches!(verification, ClientVerification::None) {
        verification = ClientVerification::DangerousAny;
    }
    let verifies =
        matches!(verification, ClientVerification::Required(_) | ClientVerification::Optional(_));
    let verifier = client_verifier(verification, &provider)?;
    let builder = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(tls_error)?;
    let builder = match &verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier.clone()),
        None => builder.with_no_client_auth(),
    };
    let mut tls = builder
        .with_single_cert(settings.identity.chain, settings.identity.key)
        .map_err(tls_error)?;
    tls.alpn_protocols = check_alpn(&settings.alpn)?;
    tls.key_log = key_log(settings.key_log);
    let level = options.server_resumption_level;
    tls.send_tls13_tickets = if level == Resumption::None { 0 } else { 2 };
    tls.max_early_data_size = if level == Resumption::ResumeAndEarlyData { u32::MAX } else { 0 };
    tls.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok(ServerInner {
        transport: transport(&options),
        options,
        tls,
        alpn: settings.alpn,
        verifier,
        verifies,
        sessions: Arc::new(SessionCache::new(settings.session_cache)),
        stateless_tickets: settings.stateless_tickets,
        token_log: Arc::new(engine::BloomTokenLog::default()),
        suite,
        preferred: settings.preferred_address,
    })
}

fn client_verifier(
    verification: ClientVerification,
    provider: &Arc<CryptoProvider>,
) -> Result<Option<Arc<dyn ClientCertVerifier>>, ConfigError> {
    let webpki = |anchors| {
        Ok::<_, ConfigError>(WebPkiClientVerifier::builder_with_provider(
            roots(anchors)?,
            provider.clone(),
        ))
    };
    Ok(match verification {
        ClientVerification::None => None,
        ClientVerification::Required(anchors) => Some(webpki(anchors)?.build().map_err(tls_error)?),
        ClientVerification::Optional(anchors) => {
            Some(webpki(anchors)?.allow_unauthenticated().build().map_err(tls_error)?)
        }
        ClientVerification::DangerousAny => Some(Arc::new(LooseClientVerifier {
            algorithms: provider.signature_verification_algorithms,
        })),
    })
}
