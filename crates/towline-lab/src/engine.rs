//! A QUIC endpoint as a node of the simulation.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use towline_proto::quic::{
    ClientConfig, ClientSettings, Ecn, Endpoint, EndpointConfig, Identity, LocalAddress, Options,
    Path, ServerConfig, ServerSettings, ServerVerification, Transmit,
};
use towline_proto::tls;
use towline_sim as sim;

/// A wake-up for each packet would be most of the work, so packets leave in trains of this length at least.
pub(crate) const GRANULARITY: Duration = Duration::from_micros(200);

/// The moment at which all runs begin, for certificates.
pub(crate) fn wall() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

/// A certificate and its key, known to everybody: it proves nothing. Its signatures are all of one length, so that the same packets leave in every run.
const IDENTITY: &[u8] = include_bytes!("identity.pem");

pub(crate) fn identity() -> Identity {
    Identity::from_pem(IDENTITY, IDENTITY).expect("the laboratory's certificate fits its key")
}

/// What the far end of a sealed flow proves itself with.
pub(crate) fn seal_server() -> tls::ServerConfig {
    let config = tls::Config::new().identity_pem(IDENTITY, IDENTITY);
    config.clock(wall).server().expect("the laboratory's certificate fits its key")
}

/// How the near end of a sealed flow checks that.
pub(crate) fn seal_client() -> tls::ClientConfig {
    let config = tls::Config::new().dangerous_accept_any_certificate();
    config.clock(wall).client().expect("nothing is checked")
}

pub(crate) fn client(options: Options, alpn: &'static [u8]) -> ClientConfig {
    let alpn = [Bytes::from_static(alpn)];
    let mut settings = ClientSettings::new(ServerVerification::DangerousNone, alpn);
    settings.options = options;
    ClientConfig::new(settings).expect("the laboratory's options are valid")
}

pub(crate) fn server(options: Options, alpn: &'static [u8]) -> ServerConfig {
    let mut settings = ServerSettings::new(identity(), [Bytes::from_static(alpn)]);
    settings.options = options;
    ServerConfig::new(settings).expect("the laboratory's options are valid")
}

pub(crate) fn endpoint(
    config: EndpointConfig,
    server: Option<ServerConfig>,
    seed: [u8; 32],
    now: Instant,
) -> Endpoint {
    Endpoint::new(settings(config, seed), server, seed, now, wall())
        .expect("the laboratory's settings are valid")
}

/// An endpoint's settings in the laboratory, where nobody attacks.
pub(crate) fn settings(config: EndpointConfig, seed: [u8; 32]) -> EndpointConfig {
    EndpointConfig {
        gate: false,
        max_memory_per_connection: u64::MAX,
        secret: seed,
        max_segments: 64,
        ..config
    }
}

/// Hands a delivery of the network to an endpoint.
pub(crate) fn deliver(endpoint: &mut Endpoint, now: Instant, delivery: sim::Delivery) {
    let path = Path { remote: delivery.source, local: delivery.local };
    let ecn = Ecn::from_bits(delivery.ecn.bits());
    endpoint.handle_datagram(now, path, ecn, owned(delivery.data));
}

/// Nobody else has the datagram but, perhaps, the train that it was cut from.
pub(crate) fn owned(data: Bytes) -> BytesMut {
    data.try_into_mut().unwrap_or_else(|data| BytesMut::from(&data[..]))
}

/// A train as the simulation takes it.
pub(crate) fn train(transmit: &Transmit, buf: &[u8]) -> sim::Transmit {
    let contents = Bytes::copy_from_slice(buf.get(..transmit.size).unwrap_or_default());
    let source = match transmit.source {
        Some(LocalAddress::Socket(address)) => Some(address),
        _ => None,
    };
    sim::Transmit {
        source,
        destination: transmit.destination,
        ecn: sim::Ecn::from_bits(transmit.ecn.map_or(0, Ecn::bits)),
        segment_size: transmit.segment_size,
        contents,
    }
}

/// A deadline that lets packets gather for a moment after the last train.
pub(crate) fn coalesce(deadline: Option<Instant>, last_train: Option<Instant>) -> Option<Instant> {
    let earliest = last_train.map(|last| last + GRANULARITY);
    deadline.map(|at| earliest.map_or(at, |earliest| at.max(earliest)))
}
