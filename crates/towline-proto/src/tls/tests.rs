//! Both ends against each other and against rustls' own connections, at every chunking, with every refusal there is.

use super::*;
use bytes::{Bytes, BytesMut};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::crypto::cipher::{MessageEncrypter, OutboundPlainMessage};
use rustls::{AlertDescription, ConnectionTrafficSecrets, ContentType};
use std::io::{Read, Write};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

/// A CA and what it signs.
struct Ca {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

struct Leaf {
    pem: String,
    key: String,
    der: Vec<u8>,
}

impl Ca {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    fn sign(&self, name: &str) -> Leaf {
        self.sign_with(name, |_| ())
    }

    fn sign_with(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Leaf {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Leaf { pem: certificate.pem(), key: key.serialize_pem(), der: certificate.der().to_vec() }
    }
}

impl Leaf {
    fn config(&self) -> Config {
        Config::new().identity_pem(self.pem.clone(), self.key.clone())
    }
}

/// A client and a server, and what has come out of each.
struct Pair {
    client: Stream,
    server: Stream,
    to_client: Vec<Bytes>,
    to_server: Vec<Bytes>,
}

impl Pair {
    fn new(client: &ClientConfig, server: &ServerConfig) -> Self {
        Self::named(client, server, "server.test")
    }

    fn named(client: &ClientConfig, server: &ServerConfig, name: &str) -> Self {
        Self {
            client: Stream::client(client, name).unwrap(),
            server: Stream::server(server).unwrap(),
            to_client: Vec::new(),
            to_server: Vec::new(),
        }
    }

    /// Moves bytes in chunks of `chunk` until none are left; the failure of each end, if any.
    fn drive(&mut self, chunk: usize) -> (Option<Error>, Option<Error>) {
        let (mut client, mut server) = (None, None);
        loop {
            let moved =
                carry(&mut self.client, &mut self.server, &mut self.to_server, chunk, &mut server)
                    + carry(
                        &mut self.server,
                        &mut self.client,
                        &mut self.to_client,
                        chunk,
                        &mut client,
                    );
            if moved == 0 {
                return (client, server);
            }
        }
    }

    fn connected(client: &ClientConfig, server: &ServerConfig) -> Self {
        let mut pair = Self::new(client, server);
        assert_eq!(named(pair.drive(usize::MAX)), (None, None));
        assert!(!pair.client.is_handshaking() && !pair.server.is_handshaking());
        pair
    }
}

fn carry(
    from: &mut Stream,
    to: &mut Stream,
    out: &mut Vec<Bytes>,
    chunk: usize,
    failure: &mut Option<Error>,
) -> usize {
    let mut wire = Vec::new();
    let n = from.poll_transmit(&mut wire);
    assert!(!from.wants_write());
    for piece in wire.concat().chunks(chunk) {
        if let Err(error) = to.handle_input(BytesMut::from(piece), out) {
            failure.get_or_insert(error);
        }
    }
    n
}

/// Errors compared by their kind, as they carry no equality.
fn named((client, server): (Option<Error>, Option<Error>)) -> (Option<String>, Option<String>) {
    let kind = |error: Error| format!("{error:?}").split([' ', '{']).next().unwrap().to_owned();
    (client.map(kind), server.map(kind))
}

fn kinds(client: &Config, server: &Config) -> (Option<String>, Option<String>) {
    named(Pair::new(&client.client().unwrap(), &server.server().unwrap()).drive(usize::MAX))
}

fn some(kind: &str) -> Option<String> {
    Some(kind.to_owned())
}

fn ca_and_server() -> (Ca, Leaf) {
    let ca = Ca::new("test CA");
    let leaf = ca.sign("server.test");
    (ca, leaf)
}

fn trusting(ca: &Ca) -> Config {
    Config::new().ca_pem(ca.pem.clone())
}

fn pattern(length: usize) -> Bytes {
    (0..length).map(|i| (i * 31 + i / 251) as u8).collect()
}

fn at(day: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(day * 86_400)
}

fn providers() -> Vec<Provider> {
    let mut providers = Vec::new();
    if cfg!(feature = "ring") {
        providers.push(Provider::Ring);
    }
    if cfg!(feature = "aws-lc-rs") {
        providers.push(Provider::AwsLcRs);
    }
    providers
}

#[test]
fn handshake_and_data_cross_at_every_chunking() {
    let (ca, leaf) = ca_and_server();
    let plain: Vec<Bytes> =
        [1usize, 0, 16_384, 3, 16_385, 60_000].into_iter().map(pattern).collect();
    for legacy in [false, true] {
        let server = leaf.config().alpn(["towline/1"]).server().unwrap();
        let mut client =
            trusting(&ca).alpn(["other", "towline/1"]).resumption(false).client().unwrap();
        if legacy {
            client = tls12_only(&client);
        }
        let server = if legacy {
            leaf.config().alpn(["towline/1"]).legacy_tls12().server().unwrap()
        } else {
            server
        };
        for chunk in [1, 2, 3, 5, 6, 21, 100, 1000, 16_384, 16_406, 16_407, 65_536, usize::MAX] {
            let mut pair = Pair::new(&client, &server);
            assert_eq!(named(pair.drive(chunk)), (None, None), "chunks of {chunk}");
            let state = pair.client.state().unwrap().clone();
            assert_eq!(state.version(), if legacy { Version::Tls12 } else { Version::Tls13 });
            assert_eq!(state.alpn(), Some(&b"towline/1"[..]));
            assert_eq!(state.peer_certificates()[0].as_ref(), leaf.der);
            assert_eq!((state.server_name(), state.resumed()), (Some("server.test"), false));
            assert_eq!(pair.server.state().unwrap().server_name(), Some("server.test"));
            assert!(matches!(pair.client.poll_event(), Some(Event::HandshakeDone(_))));
            assert!(matches!(pair.server.poll_event(), Some(Event::HandshakeDone(_))));

            pair.client.seal(&plain).unwrap();
            pair.server.seal(&plain[..3]).unwrap();
            pair.client.close();
            assert_eq!(named(pair.drive(chunk)), (None, None), "chunks of {chunk}");
            assert_eq!(pair.to_server.concat(), plain.concat());
            assert_eq!(pair.to_client.concat(), plain[..3].concat());
            assert!(matches!(pair.server.poll_event(), Some(Event::PeerClosed)));
            assert!(pair.server.handle_end().is_ok());
            // The other direction is still open (RFC 8446 section 6.1).
            assert!(matches!(pair.client.seal(&plain[..1]), Err(Error::NotWritable { .. })));
            pair.server.seal(&plain[..1]).unwrap();
            pair.server.close();
            pair.drive(chunk);
            assert_eq!(
                pair.to_client.concat(),
                [plain[..3].concat(), plain[..1].concat()].concat()
            );
            assert!(pair.client.handle_end().is_ok());
        }
    }
}

/// The same trust, for a client that speaks only TLS 1.2.
fn tls12_only(config: &ClientConfig) -> ClientConfig {
    let (ours, mut limits) = (&config.rustls, config.limits);
    limits.legacy_tls12 = true;
    let provider = ours.crypto_provider().clone();
    let mut rustls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(
            ours.crypto_provider().signature_verification_algorithms,
        )))
        .with_no_client_auth();
    rustls.alpn_protocols.clone_from(&ours.alpn_protocols);
    rustls.resumption = rustls::client::Resumption::disabled();
    ClientConfig { rustls: Arc::new(rustls), limits }
}

#[derive(Debug)]
struct AnyCertificate(rustls::crypto::WebPkiSupportedAlgorithms);

impl rustls::client::danger::ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &[rustls_pki_types::CertificateDer<'_>],
        _: &rustls_pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls_pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &rustls_pki_types::CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &rustls_pki_types::CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.supported_schemes()
    }
}

#[test]
fn every_provider_and_suite_carries_data() {
    let (ca, leaf) = ca_and_server();
    for provider in providers() {
        for suite in [
            "TLS13_AES_128_GCM_SHA256",
            "TLS13_AES_256_GCM_SHA384",
            "TLS13_CHACHA20_POLY1305_SHA256",
        ] {
            let client = trusting(&ca).provider(provider).cipher_suites([suite]).client().unwrap();
            let server = leaf.config().provider(provider).server().unwrap();
            let mut pair = Pair::connected(&client, &server);
            assert_eq!(pair.client.state().unwrap().cipher_suite(), suite);
            for _ in 0..20 {
                pair.server.seal(&[pattern(50_000)]).unwrap();
                pair.client.seal(&[pattern(20_000)]).unwrap();
            }
            assert_eq!(named(pair.drive(7777)), (None, None));
            assert_eq!(pair.to_client.concat(), pattern(50_000).repeat(20));
            assert_eq!(pair.to_server.concat(), pattern(20_000).repeat(20));
        }
    }
}

#[test]
fn data_cut_at_every_byte_reads_the_same() {
    let (ca, leaf) = ca_and_server();
    let mut pair =
        Pair::connected(&trusting(&ca).client().unwrap(), &leaf.config().server().unwrap());
    for cut in 0.. {
        pair.client.seal(&[pattern(40)]).unwrap();
        pair.client.seal(&[pattern(1), pattern(2)]).unwrap();
        let mut wire = Vec::new();
        pair.client.poll_transmit(&mut wire);
        let wire = wire.concat();
        if cut > wire.len() {
            break;
        }
        let mut plain = Vec::new();
        pair.server.handle_input(BytesMut::from(&wire[..cut]), &mut plain).unwrap();
        pair.server.handle_input(BytesMut::from(&wire[cut..]), &mut plain).unwrap();
        assert_eq!(plain.concat(), [pattern(40), pattern(1), pattern(2)].concat(), "cut at {cut}");
    }
}

/// Records go to the caller's memory up to what it wants, and each rest to the list, in order and completely, however the
/// wire is cut.
#[test]
fn what_is_opened_goes_to_the_callers_memory_first() {
    let (ca, leaf) = ca_and_server();
    let mut pair =
        Pair::connected(&trusting(&ca).client().unwrap(), &leaf.config().server().unwrap());
    let data = pattern(100_000);
    for (cut, want) in [(1, 70_000), (4096, 1), (20_000, 16_384), (65_536, 100_000), (65_536, 0)] {
        pair.client.seal(std::slice::from_ref(&data)).unwrap();
        let mut wire = Vec::new();
        pair.client.poll_transmit(&mut wire);
        let (mut read, mut out) = (Vec::new(), Vec::new());
        for piece in wire.concat().chunks(cut) {
            pair.server.push_input(BytesMut::from(piece)).unwrap();
            loop {
                let mut direct = BytesMut::with_capacity(want);
                let before = direct.as_ptr();
                let target = (want > 0).then_some((&mut direct, want));
                let more = pair.server.open_next(target, &mut out).unwrap();
                assert_eq!(direct.as_ptr(), before, "within the room that it has");
                assert!(out.is_empty() || direct.len() == want, "the caller's memory first");
                read.extend_from_slice(&direct);
                out.drain(..).for_each(|rest| read.extend_from_slice(&rest));
                if !more {
                    break;
                }
            }
        }
        assert!(read == data, "cut at {cut}, wanting {want}");
    }
}

/// The lengths of the records in `wire`, headers included.
fn record_lengths(wire: &[Bytes]) -> Vec<usize> {
    let wire = wire.concat();
    let (mut rest, mut lengths) = (&wire[..], Vec::new());
    while let [_, _, _, high, low, ..] = rest {
        lengths.push(5 + usize::from(u16::from_be_bytes([*high, *low])));
        rest = &rest[lengths[lengths.len() - 1]..];
    }
    assert!(rest.is_empty());
    lengths
}

#[test]
fn a_batch_is_sealed_into_as_few_records_and_buffers_as_hold_it() {
    let (ca, leaf) = ca_and_server();
    let mut pair =
        Pair::connected(&trusting(&ca).client().unwrap(), &leaf.config().server().unwrap());
    let many = |n: usize, length: usize| vec![pattern(length); n];
    for (pieces, records) in [
        (vec![pattern(64 << 10)], 4),
        (many(1000, 65), 4),
        (many(3, 16_384), 3),
        (vec![pattern(1), pattern(16_384), pattern(16_383)], 2),
        (vec![pattern(1), pattern(0), pattern(40_000), pattern(7)], 3),
        (vec![pattern(0)], 0),
        (vec![pattern(1 << 20)], 64),
    ] {
        pair.client.seal(&pieces).unwrap();
        let mut wire = Vec::new();
        pair.client.poll_transmit(&mut wire);
        let total = pieces.concat().len();
        assert_eq!(record_lengths(&wire).len(), records, "{total} bytes");
        assert_eq!(wire.len(), total.div_ceil(250 << 10), "{total} bytes");
        assert!(wire.iter().all(|buffer| buffer.len() <= 256 << 10));
        let mut plain = Vec::new();
        pair.server.handle_input(BytesMut::from(&wire.concat()[..]), &mut plain).unwrap();
        assert_eq!(plain.concat(), pieces.concat());
        assert!(plain.len() <= 1, "one input, one piece of plaintext");
    }
}

#[test]
fn an_untrusted_certificate_is_refused_with_the_pin_that_would_trust_it() {
    let (ca, leaf) = ca_and_server();
    let other = Ca::new("another CA");
    let server = leaf.config();
    let mut pair = Pair::new(&trusting(&other).client().unwrap(), &server.server().unwrap());
    let (client, peer) = pair.drive(usize::MAX);
    let Some(Error::NotTrusted { certificate_pin, key_pin: Some(key_pin), .. }) = &client else {
        panic!("{client:?}")
    };
    let said = client.as_ref().unwrap().to_string();
    assert!(said.contains(&certificate_pin.to_string()) && said.contains("CA file"), "{said}");
    let Some(Error::AlertReceived { hint, .. }) = &peer else { panic!("{peer:?}") };
    assert!(hint.contains("does not trust"));
    for pin in [certificate_pin, key_pin] {
        assert_eq!(kinds(&Config::new().pin(*pin), &server), (None, None), "the printed pin works");
    }
    assert_eq!(kinds(&trusting(&ca), &server), (None, None));
    let chain = format!("{}{}", other.pem, ca.pem);
    assert_eq!(
        kinds(&Config::new().ca_pem(chain), &server),
        (None, None),
        "several CAs in one file"
    );
    assert_eq!(kinds(&Config::new().dangerous_accept_any_certificate(), &server), (None, None));
}

#[test]
fn a_pin_alone_ignores_name_and_time_and_with_a_ca_adds_to_it() {
    let (ca, leaf) = ca_and_server();
    let (server, pin, wrong) =
        (leaf.config().server().unwrap(), Pin::of_certificate(&leaf.der), Pin::from_hash([7; 32]));
    let far = || at(365 * 10_000);
    let pinned = Config::new().pin(wrong).pin(pin).clock(far).client().unwrap();
    assert_eq!(named(Pair::named(&pinned, &server, "10.1.2.3").drive(usize::MAX)), (None, None));

    let both = |pin| trusting(&ca).pin(pin).client().unwrap();
    assert_eq!(named(Pair::new(&both(pin), &server).drive(usize::MAX)), (None, None));
    assert_eq!(named(Pair::new(&both(wrong), &server).drive(usize::MAX)).0, some("PinMismatch"));
    assert_eq!(
        named(Pair::named(&both(pin), &server, "other.test").drive(usize::MAX)).0,
        some("WrongName")
    );
    let (client, _) = Pair::new(&both(wrong), &server).drive(usize::MAX);
    assert!(client.unwrap().to_string().contains(&pin.to_string()), "the actual pin is told");
}

#[test]
fn a_certificate_out_of_its_time_or_for_another_name_is_refused() {
    let ca = Ca::new("test CA");
    let leaf = ca.sign_with("server.test", |params| {
        params.not_before = rcgen::date_time_ymd(2030, 1, 1);
        params.not_after = rcgen::date_time_ymd(2031, 1, 1);
    });
    let day_of_2030 = 21_915;
    let expired = |day: u64| {
        let client = trusting(&ca).clock(move || at(day)).client().unwrap();
        Pair::new(&client, &leaf.config().server().unwrap()).drive(usize::MAX).0
    };
    assert!(matches!(expired(day_of_2030 - 2), Some(Error::Expired { not_yet: true })));
    assert!(expired(day_of_2030 + 100).is_none());
    let error = expired(day_of_2030 + 400).unwrap();
    assert!(matches!(error, Error::Expired { not_yet: false }), "{error}");
    assert!(error.to_string().contains("has expired"));

    let client = trusting(&ca).clock(move || at(day_of_2030 + 1)).client().unwrap();
    let (client, server) =
        Pair::named(&client, &leaf.config().server().unwrap(), "other.test").drive(usize::MAX);
    let error = client.unwrap();
    assert!(matches!(&error, Error::WrongName { name, .. } if name == "other.test"));
    assert!(error.to_string().contains("server.test"), "the names in it are told: {error}");
    assert!(matches!(server, Some(Error::AlertReceived { .. })));
    let unnameable = Stream::client(&trusting(&ca).client().unwrap(), "no name at all");
    assert!(matches!(unnameable, Err(Error::BadServerName { .. })));
}

#[test]
fn client_certificates_are_asked_for_verified_and_reported() {
    let (ca, leaf) = ca_and_server();
    let clients = Ca::new("client CA");
    let own = clients.sign("client.test");
    let with = |identity: &Leaf| identity.config().ca_pem(ca.pem.clone());
    let server = |auth| leaf.config().ca_pem(clients.pem.clone()).client_auth(auth);
    let bare = trusting(&ca);

    assert_eq!(kinds(&bare, &server(ClientAuth::None)), (None, None));
    assert_eq!(kinds(&bare, &server(ClientAuth::Optional)), (None, None));
    let (client, peer) = kinds(&bare, &server(ClientAuth::Required));
    assert_eq!((client, peer), (some("ClientCertificateRequired"), some("NoClientCertificate")));
    for auth in [ClientAuth::Optional, ClientAuth::Required] {
        let mut pair =
            Pair::connected(&with(&own).client().unwrap(), &server(auth).server().unwrap());
        assert_eq!(pair.server.state().unwrap().peer_certificates()[0].as_ref(), own.der);
        let stranger = Ca::new("stranger").sign("client.test");
        let (client, peer) = kinds(&with(&stranger), &server(auth));
        assert_eq!(
            (client, peer),
            (some("AlertReceived"), some("NotTrusted")),
            "also when optional"
        );
        pair.client.seal(&[pattern(3)]).unwrap();
        pair.drive(1);
        assert_eq!(pair.to_server.concat(), pattern(3));
    }
    let pinned = leaf.config().pin(Pin::of_certificate(&own.der)).client_auth(ClientAuth::Required);
    assert_eq!(kinds(&with(&own), &pinned), (None, None));
    assert_eq!(kinds(&with(&leaf), &pinned).1, some("PinMismatch"));
    let any = leaf.config().dangerous_accept_any_certificate().client_auth(ClientAuth::Required);
    assert_eq!(kinds(&with(&leaf), &any), (None, None));
    assert_eq!(kinds(&bare, &any).1, some("NoClientCertificate"), "any, but one");
    assert!(matches!(
        leaf.config().client_auth(ClientAuth::Required).server(),
        Err(Error::NoTrust { .. })
    ));
}

#[test]
fn protocols_must_meet_when_both_sides_name_some() {
    let (ca, leaf) = ca_and_server();
    let (client, server) = (|| trusting(&ca), || leaf.config());
    assert_eq!(kinds(&client().alpn(["a", "b"]), &server().alpn(["b"])), (None, None));
    assert_eq!(
        kinds(&client().alpn(["a"]), &server().alpn(["b"])),
        (some("AlpnMismatch"), some("AlpnMismatch"))
    );
    assert_eq!(kinds(&client().alpn(["a"]), &server()), (None, None));
    assert_eq!(kinds(&client().alpn(["a"]).require_alpn(), &server()).0, some("AlpnMismatch"));
    assert_eq!(
        kinds(&client(), &server().alpn(["a"]).require_alpn()),
        (some("AlertReceived"), some("AlpnMismatch"))
    );
    assert_eq!(
        kinds(&client().alpn(["b"]), &server().alpn(["a"]).require_alpn()),
        (some("AlpnMismatch"), some("AlpnMismatch"))
    );
    assert_eq!(
        kinds(&client().alpn(["a"]).require_alpn(), &server().alpn(["a"]).require_alpn()),
        (None, None)
    );
    // Data that came along is not handed out when the protocol is refused at the end.
    let mut pair = Pair::new(
        &client().alpn(["a"]).require_alpn().client().unwrap(),
        &server().server().unwrap(),
    );
    carry(&mut pair.client, &mut pair.server, &mut pair.to_server, usize::MAX, &mut None);
    let mut failure = None;
    carry(&mut pair.server, &mut pair.client, &mut pair.to_client, usize::MAX, &mut failure);
    assert!(matches!(failure, Some(Error::AlpnMismatch { .. })));
    assert!(pair.client.is_handshaking() && pair.client.poll_event().is_none());
    carry(&mut pair.client, &mut pair.server, &mut pair.to_server, usize::MAX, &mut None);
    assert!(matches!(pair.server.handle_end(), Err(Error::Truncated)), "no good ending");
}

#[test]
fn version_1_2_needs_the_legacy_option() {
    let (ca, leaf) = ca_and_server();
    let old = tls12_only(&trusting(&ca).client().unwrap());
    let (client, server) = Pair::new(&old, &leaf.config().server().unwrap()).drive(usize::MAX);
    assert!(
        matches!(server, Some(Error::VersionMismatch { lowest: Version::Tls13 })),
        "{server:?}"
    );
    assert!(
        matches!(client, Some(Error::VersionMismatch { lowest: Version::Tls12 })),
        "{client:?}"
    );
    let legacy = leaf.config().legacy_tls12().server().unwrap();
    assert_eq!(named(Pair::new(&old, &legacy).drive(usize::MAX)), (None, None));
    let pair = Pair::connected(&trusting(&ca).legacy_tls12().client().unwrap(), &legacy);
    assert_eq!(pair.client.state().unwrap().version(), Version::Tls13, "1.3 is still preferred");
}

#[test]
fn a_second_connection_resumes_the_first() {
    let (ca, leaf) = ca_and_server();
    for on in [true, false] {
        let client = trusting(&ca).client().unwrap();
        let server = leaf.config().resumption(on).server().unwrap();
        let resumed: Vec<_> = (0..3)
            .map(|_| {
                let mut pair = Pair::connected(&client, &server);
                pair.server.seal(&[pattern(5)]).unwrap();
                assert_eq!(named(pair.drive(1)), (None, None));
                assert_eq!(pair.to_client.concat(), pattern(5));
                let state = pair.client.state().unwrap();
                assert_eq!(state.peer_certificates()[0].as_ref(), leaf.der);
                assert_eq!(pair.server.state().unwrap().resumed(), state.resumed());
                state.resumed()
            })
            .collect();
        assert_eq!(resumed, [false, on, on]);
    }
    let client = trusting(&ca).resumption(false).client().unwrap();
    let server = leaf.config().server().unwrap();
    for _ in 0..2 {
        assert!(!Pair::connected(&client, &server).client.state().unwrap().resumed());
    }
}

#[test]
fn the_key_log_has_every_secret_of_both_sides() {
    let (ca, leaf) = ca_and_server();
    let lines = Arc::new(Mutex::new(Vec::new()));
    let log = KeyLog::Callback(Arc::new({
        let lines = lines.clone();
        move |line: &str| lines.lock().unwrap().push(line.to_owned())
    }));
    let directory = std::env::temp_dir().join(format!("towline-keylog-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join("keys");
    let client = trusting(&ca).key_log(log).client().unwrap();
    let server = leaf.config().key_log(KeyLog::File(path.clone())).server().unwrap();
    Pair::connected(&client, &server);
    let mut lines = lines.lock().unwrap().clone();
    let file = std::fs::read_to_string(&path).unwrap();
    let mut written: Vec<_> = file.lines().map(str::to_owned).collect();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
    std::fs::remove_dir_all(&directory).unwrap();
    lines.sort();
    written.sort();
    assert_eq!(lines, written, "both sides log the same secrets");
    for label in [
        "CLIENT_HANDSHAKE_TRAFFIC_SECRET ",
        "CLIENT_TRAFFIC_SECRET_0 ",
        "SERVER_TRAFFIC_SECRET_0 ",
        "EXPORTER_SECRET ",
    ] {
        assert!(lines.iter().any(|line| line.starts_with(label)), "{label}");
    }
    let nowhere = leaf.config().key_log(KeyLog::File(directory.join("gone/keys"))).server();
    assert!(matches!(nowhere, Err(Error::KeyLog { .. })));
}

#[test]
fn unusable_files_are_refused_by_name() {
    let (ca, leaf) = ca_and_server();
    let other = ca.sign("server.test");
    let pem = |certificate: &str, key: &str| {
        Config::new().identity_pem(certificate, key).server().unwrap_err()
    };
    let error =
        Config::new().identity_files("/no/such/file.pem", "/no/such/key.pem").server().unwrap_err();
    assert!(
        matches!(&error, Error::Unreadable { .. })
            && error.to_string().contains("/no/such/file.pem")
    );
    assert!(matches!(
        Config::new().ca_file("/no/such/ca.pem").client(),
        Err(Error::Unreadable { .. })
    ));
    assert!(matches!(Config::new().ca_pem("nothing").client(), Err(Error::MalformedPem { .. })));
    assert!(matches!(pem(&leaf.pem, &other.key), Error::WrongKey { .. }));
    assert!(matches!(pem("", &leaf.key), Error::MalformedPem { what: "certificate", .. }));
    assert!(matches!(pem(&leaf.pem, ""), Error::MalformedPem { what: "private key", .. }));
    let exchanged = pem(&leaf.pem, &leaf.pem);
    assert!(exchanged.to_string().contains("exchanged"), "{exchanged}");
    let cut = pem(&leaf.pem[..leaf.pem.len() / 2], &leaf.key);
    assert!(cut.to_string().contains("cut off"), "{cut}");
    let damaged = leaf.pem.replacen("MII", "M!I", 1);
    assert!(matches!(pem(&damaged, &leaf.key), Error::MalformedPem { .. }));
    for encrypted in [
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n",
        "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nMIIB\n-----END RSA PRIVATE KEY-----\n",
    ] {
        let error = pem(&leaf.pem, encrypted);
        assert!(
            matches!(error, Error::EncryptedKey { .. }) && error.to_string().contains("openssl"),
            "{error}"
        );
    }
    let empty = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert!(matches!(pem(empty, &leaf.key), Error::UnusableIdentity { .. }));
    assert!(matches!(Config::new().server(), Err(Error::NoIdentity)));
    assert!(matches!(Config::new().client(), Err(Error::NoTrust { .. })));
}

#[test]
fn options_that_cannot_be_honoured_are_refused_by_name() {
    let (ca, _) = ca_and_server();
    let refused = |config: Config| match config.client() {
        Err(Error::BadOption { option, .. }) => option,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(trusting(&ca).max_handshake_bytes(100)), "max_handshake_bytes");
    assert_eq!(refused(trusting(&ca).alpn([""])), "alpn");
    assert_eq!(refused(trusting(&ca).alpn(["x".repeat(256)])), "alpn");
    assert_eq!(refused(trusting(&ca).require_alpn()), "require_alpn");
    assert_eq!(refused(trusting(&ca).cipher_suites(["TLS_NULL"])), "cipher_suites");
    if !cfg!(feature = "aws-lc-rs") {
        assert_eq!(refused(trusting(&ca).provider(Provider::AwsLcRs)), "provider");
    }
    if !cfg!(feature = "system-roots") {
        assert_eq!(refused(Config::new().system_roots()), "system_roots");
    }
}

#[test]
fn every_error_is_lower_case_and_says_what_to_do() {
    let pin = Pin::from_hash([1; 32]);
    for error in [
        Error::NoIdentity,
        Error::NotTrusted { reason: "it is new".into(), certificate_pin: pin, key_pin: None },
        Error::PinMismatch { certificate_pin: pin, key_pin: None },
        Error::Expired { not_yet: true },
        Error::WrongName { name: "a".into(), presented: vec![] },
        Error::NoClientCertificate,
        Error::ClientCertificateRequired,
        Error::AlpnMismatch { offered: vec!["a".into()] },
        Error::VersionMismatch { lowest: Version::Tls13 },
        Error::HandshakeCut,
        Error::NotTls,
    ] {
        let said = error.to_string();
        assert!(!said.starts_with(char::is_uppercase) && said.contains(':'), "{said}");
    }
}

#[test]
fn truncation_is_told_from_closing() {
    let (ca, leaf) = ca_and_server();
    let (client, server) = (trusting(&ca).client().unwrap(), leaf.config().server().unwrap());
    let mut pair = Pair::connected(&client, &server);
    assert!(matches!(pair.client.handle_end(), Err(Error::Truncated)));
    assert!(
        matches!(
            pair.client.handle_input(BytesMut::from(&b"x"[..]), &mut Vec::new()),
            Err(Error::Truncated)
        ),
        "and stays so"
    );
    let mut cut = Pair::new(&client, &server);
    assert!(matches!(cut.server.handle_end(), Err(Error::HandshakeCut)));
    assert!(matches!(cut.client.handle_end(), Err(Error::HandshakeCut)));
    assert!(matches!(cut.client.seal(&[pattern(1)]), Err(Error::NotWritable { .. })));

    let mut early = Pair::new(&client, &server);
    early.client.close();
    assert_eq!(named(early.drive(1)), (None, None));
    assert!(matches!(early.client.seal(&[pattern(1)]), Err(Error::NotWritable { .. })));
    fn threads<T: Send + 'static>(_: &T) {}
    threads(&early.client);
}

#[test]
fn what_is_not_tls_is_called_so() {
    let (ca, leaf) = ca_and_server();
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"SSH-2.0-OpenSSH\r\n", &[0; 40]] {
        let mut server = Stream::server(&leaf.config().server().unwrap()).unwrap();
        assert!(matches!(
            server.handle_input(BytesMut::from(bytes), &mut Vec::new()),
            Err(Error::NotTls)
        ));
        let mut client = Stream::client(&trusting(&ca).client().unwrap(), "server.test").unwrap();
        assert!(matches!(
            client.handle_input(BytesMut::from(bytes), &mut Vec::new()),
            Err(Error::NotTls)
        ));
    }
}

#[test]
fn a_flipped_bit_anywhere_in_a_record_is_found_and_told() {
    let (ca, leaf) = ca_and_server();
    let (client, server) = (trusting(&ca).client().unwrap(), leaf.config().server().unwrap());
    let length = 5 + 10 + 1 + 16;
    for place in 0..length {
        let mut pair = Pair::connected(&client, &server);
        pair.client.seal(&[pattern(10)]).unwrap();
        let mut wire = Vec::new();
        pair.client.poll_transmit(&mut wire);
        let mut bytes = BytesMut::from(&wire.concat()[..]);
        assert_eq!(bytes.len(), length);
        bytes[place] ^= 1;
        let mut plain = Vec::new();
        let result = pair.server.handle_input(bytes, &mut plain);
        match (place, &result) {
            // RFC 8446 section 5.1: the version is ignored. rustls ignores the outer type as well, which says nothing that the sealed one does not.
            (0..3, Ok(())) => assert_eq!(plain.concat(), pattern(10)),
            (0..3, Err(Error::PeerMisbehaved { .. })) => assert!(plain.is_empty()),
            (3 | 4, Ok(())) => assert!(plain.is_empty(), "a longer record, whose rest is awaited"),
            (4.., Err(Error::BadRecord)) => assert!(plain.is_empty()),
            _ => panic!("{place}: {result:?}"),
        }
        if result.is_err() {
            let (told, _) = pair.drive(usize::MAX);
            assert!(matches!(told, Some(Error::AlertReceived { .. })), "{told:?}");
        }
    }
}

/// A client whose keys are known, so that it can seal what rustls would not.
struct Forger {
    server: Stream,
    encrypter: Box<dyn MessageEncrypter>,
    seq: u64,
}

impl Forger {
    fn new(client: &ClientConfig, server: &ServerConfig) -> Self {
        let mut own = rustls::ClientConfig::clone(&client.rustls);
        own.enable_secret_extraction = true;
        let name = "server.test".try_into().unwrap();
        let mut client = rustls::ClientConnection::new(Arc::new(own), name).unwrap();
        let mut server = Stream::server(server).unwrap();
        for _ in 0..4 {
            let mut hello = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut hello).unwrap();
            }
            server.handle_input(BytesMut::from(&hello[..]), &mut Vec::new()).unwrap();
            let mut answer = Vec::new();
            server.poll_transmit(&mut answer);
            let answer = answer.concat();
            let mut rest = &answer[..];
            while !rest.is_empty() {
                client.read_tls(&mut rest).unwrap();
                client.process_new_packets().unwrap();
            }
        }
        assert!(!server.is_handshaking());
        let Some(rustls::SupportedCipherSuite::Tls13(suite)) = client.negotiated_cipher_suite()
        else {
            panic!("TLS 1.3")
        };
        let (seq, secrets) = client.dangerous_extract_secrets().unwrap().tx;
        let encrypter = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv }
            | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
            | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => {
                suite.aead_alg.encrypter(key, iv)
            }
            _ => panic!("an unknown cipher"),
        };
        Self { server, encrypter, seq }
    }

    /// The server's refusal of a record of any type, if any.
    fn send(&mut self, typ: ContentType, payload: &[u8]) -> Option<String> {
        let message = OutboundPlainMessage {
            typ,
            version: rustls::ProtocolVersion::TLSv1_3,
            payload: payload.into(),
        };
        let record = self.encrypter.encrypt(message, self.seq).unwrap().encode();
        self.seq += 1;
        self.send_raw(&record)
    }

    fn send_raw(&mut self, bytes: &[u8]) -> Option<String> {
        let error = self.server.handle_input(BytesMut::from(bytes), &mut Vec::new()).err();
        named((error, None)).0
    }
}

#[test]
fn records_out_of_place_are_refused() {
    let (ca, leaf) = ca_and_server();
    let (client, server) = (trusting(&ca).client().unwrap(), leaf.config().server().unwrap());
    let forger = || Forger::new(&client, &server);
    let misbehaved = some("PeerMisbehaved");
    for (typ, payload, expected) in [
        (ContentType::Handshake, &[24, 0, 0, 1, 2][..], misbehaved.clone()), // a key update of no kind
        (ContentType::Handshake, &[24, 0, 0, 1, 0, 24], misbehaved.clone()), // something behind it
        (ContentType::Handshake, &[4, 0, 0, 0], misbehaved.clone()), // a ticket from a client
        (ContentType::Handshake, &[13, 0, 0, 0], misbehaved.clone()), // a certificate request
        (ContentType::Handshake, &[4, 255, 0, 0], misbehaved.clone()), // larger than rustls takes
        (ContentType::Alert, &[2], misbehaved.clone()),
        (ContentType::Alert, &[2, 80], some("AlertReceived")),
        (ContentType::Alert, &[1, 90], None), // user_canceled
        (ContentType::ChangeCipherSpec, &[1], misbehaved.clone()),
        (ContentType::Heartbeat, &[1], misbehaved.clone()),
        (ContentType::Handshake, &[24, 0, 0, 1, 0], None),
    ] {
        assert_eq!(forger().send(typ, payload), expected, "{typ:?} {payload:?}");
        // The same after our own close_notify, where rustls asserts what only a bad peer makes false.
        let mut closed = forger();
        closed.server.close();
        assert_eq!(closed.send(typ, payload).is_some(), expected.is_some(), "{typ:?} {payload:?}");
    }
    // A handshake message in pieces is put together, but not with data between.
    let mut pieces = forger();
    assert_eq!(pieces.send(ContentType::Handshake, &[24, 0]), None);
    pieces.server.seal(&[pattern(5)]).unwrap();
    assert_eq!(pieces.send(ContentType::Handshake, &[0]), None);
    assert_eq!(pieces.send(ContentType::ApplicationData, b"x"), misbehaved);
    // Nor without end, however small the pieces.
    let mut unending = forger();
    assert_eq!(unending.send(ContentType::Handshake, &[4, 0, 255, 255]), None);
    let refused = (0..40).find_map(|_| unending.send(ContentType::Handshake, &[0; 16_000]));
    assert!(refused.is_some());
    // Empty records are allowed, within reason.
    let mut empty = forger();
    let refused = (0..100).find(|_| empty.send(ContentType::ApplicationData, b"").is_some());
    assert!(matches!(refused, Some(8..)), "{refused:?}");
    // Plaintext records and oversized lengths.
    for bytes in [
        &[22, 3, 3, 0, 1, 0][..],
        &[20, 3, 3, 0, 1, 1],
        &[21, 3, 3, 0, 2, 2, 40],
        &[23, 3, 3, 255, 255],
        &[23, 3, 3, 0, 3, 1, 2, 3], // too short for its tag
    ] {
        for cut in 0..bytes.len() {
            for close in [false, true] {
                let mut forger = forger();
                if close {
                    forger.server.close();
                }
                let refused =
                    forger.send_raw(&bytes[..cut]).or_else(|| forger.send_raw(&bytes[cut..]));
                assert!(
                    matches!(refused.as_deref(), Some("PeerMisbehaved" | "BadRecord")),
                    "{bytes:?}: {refused:?}"
                );
                assert!(forger.server.wants_write() || close, "the peer is told: {bytes:?}");
            }
        }
    }
}

#[test]
fn little_is_kept_of_what_is_not_whole() {
    let (ca, leaf) = ca_and_server();
    let client = trusting(&ca).client().unwrap();
    // A record of data is larger than the smallest limit for handshakes.
    let server = leaf.config().max_handshake_bytes(4096).server().unwrap();
    let mut pair = Pair::connected(&client, &server);
    pair.client.seal(&[pattern(100_000)]).unwrap();
    assert_eq!(named(pair.drive(10)), (None, None));
    assert_eq!(pair.to_server.concat(), pattern(100_000));

    let mut forger = Forger::new(&client, &server);
    assert_eq!(forger.send(ContentType::Handshake, &[4, 0, 255, 255]), None);
    let refused = (0..).find_map(|n| Some((n, forger.send(ContentType::Handshake, &[0; 1000])?)));
    let (records, kind) = refused.unwrap();
    assert_eq!(kind, "HandshakeTooLarge");
    assert!(records * 1000 < 4096 + (18 << 10), "{records}");
}

#[test]
fn an_unending_handshake_is_bounded() {
    let (_, leaf) = ca_and_server();
    for size in [1usize, 100, 16_000] {
        let config = leaf.config().max_handshake_bytes(20_000).server().unwrap();
        let mut server = Stream::server(&config).unwrap();
        let mut given = 0;
        let error = loop {
            // A ClientHello of 65,535 bytes, in records of `size`.
            let mut record = BytesMut::from(&[22, 3, 1][..]);
            let body = if given == 0 {
                [&[1, 0, 255, 255][..], &vec![0; size]].concat()
            } else {
                vec![0; size]
            };
            record.extend_from_slice(&(body.len() as u16).to_be_bytes());
            record.extend_from_slice(&body);
            given += record.len();
            if let Err(error) = server.handle_input(record, &mut Vec::new()) {
                break error;
            }
            assert!(given < 40_000);
        };
        assert!(matches!(error, Error::HandshakeTooLarge { max: 20_000 }), "{error}");
    }
}

/// The same client with keys that are worn out after `limit` records.
fn short_lived_keys(config: &ClientConfig, limit: u64) -> ClientConfig {
    let ours = &config.rustls;
    let mut provider = rustls::crypto::CryptoProvider::clone(ours.crypto_provider());
    for suite in &mut provider.cipher_suites {
        if let rustls::SupportedCipherSuite::Tls13(known) = suite {
            *suite = rustls::SupportedCipherSuite::Tls13(Box::leak(Box::new(
                rustls::Tls13CipherSuite {
                    common: rustls::crypto::CipherSuiteCommon {
                        suite: known.common.suite,
                        hash_provider: known.common.hash_provider,
                        confidentiality_limit: limit,
                    },
                    hkdf_provider: known.hkdf_provider,
                    aead_alg: known.aead_alg,
                    quic: known.quic,
                },
            )));
        }
    }
    let verifier = AnyCertificate(provider.signature_verification_algorithms);
    let rustls = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    ClientConfig { rustls: Arc::new(rustls), limits: config.limits }
}

#[test]
fn keys_are_updated_at_their_limit_and_data_goes_on() {
    let (ca, leaf) = ca_and_server();
    let client = short_lived_keys(&trusting(&ca).client().unwrap(), 3);
    let mut pair = Pair::connected(&client, &leaf.config().server().unwrap());
    pair.client.track_acked();
    let (mut sent, mut records) = (Vec::new(), 0);
    for i in 0..40 {
        pair.client.seal(&[pattern(i * 1000)]).unwrap();
        sent.extend_from_slice(&pattern(i * 1000));
        let mut wire = Vec::new();
        pair.client.poll_transmit(&mut wire);
        records += record_lengths(&wire).len() - (i * 1000).div_ceil(16_384);
        for chunk in wire.concat().chunks(1500) {
            pair.server.handle_input(BytesMut::from(chunk), &mut pair.to_server).unwrap();
        }
    }
    assert_eq!(pair.to_server.concat(), sent);
    assert!(records > 20, "key updates");
    assert_eq!(pair.client.plaintext_acked(u64::MAX), sent.len() as u64);
}

#[test]
fn asking_for_many_key_updates_gets_one_answer() {
    let (ca, leaf) = ca_and_server();
    let client = trusting(&ca).client().unwrap();
    let mut server = Stream::server(&leaf.config().server().unwrap()).unwrap();
    let name = "server.test".try_into().unwrap();
    let mut client = rustls::ClientConnection::new(client.rustls.clone(), name).unwrap();
    let mut exchange = |client: &mut rustls::ClientConnection| {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        server.handle_input(BytesMut::from(&wire[..]), &mut Vec::new()).unwrap();
        if !server.is_handshaking() {
            server.seal(&[pattern(9)]).unwrap();
        }
        let mut answer = Vec::new();
        server.poll_transmit(&mut answer);
        let records = record_lengths(&answer).len();
        let answer = answer.concat();
        let mut rest = &answer[..];
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets().unwrap();
        }
        records
    };
    for _ in 0..3 {
        exchange(&mut client);
    }
    for _ in 0..10 {
        client.refresh_traffic_keys().unwrap();
    }
    assert_eq!(exchange(&mut client), 2, "one key update, in front of the data");
    assert_eq!(exchange(&mut client), 1);
    let mut got = [0; 64];
    assert_eq!(client.reader().read(&mut got).unwrap() % 9, 0);
}

/// Our client against rustls' own server, and the other way round, with key updates that it asks for.
#[test]
fn rustls_itself_understands_us() {
    let (ca, leaf) = ca_and_server();
    let (client, server) = (trusting(&ca).client().unwrap(), leaf.config().server().unwrap());
    for ours_is_client in [true, false] {
        let (mut ours, mut theirs): (Stream, rustls::Connection) = if ours_is_client {
            let theirs = rustls::ServerConnection::new(server.rustls.clone()).unwrap();
            (Stream::client(&client, "server.test").unwrap(), theirs.into())
        } else {
            let name = "server.test".try_into().unwrap();
            let theirs = rustls::ClientConnection::new(client.rustls.clone(), name).unwrap();
            (Stream::server(&server).unwrap(), theirs.into())
        };
        let (mut got, mut answer) = (Vec::new(), Vec::new());
        for round in 0..30usize {
            if round > 4 {
                ours.seal(&[pattern(round * 1777)]).unwrap();
                theirs.writer().write_all(&pattern(round * 999)).unwrap();
            }
            if round % 7 == 6 {
                theirs.refresh_traffic_keys().unwrap();
            }
            for _ in 0..3 {
                let mut wire = Vec::new();
                ours.poll_transmit(&mut wire);
                let wire = wire.concat();
                let mut rest = &wire[..];
                while !rest.is_empty() {
                    theirs.read_tls(&mut rest).unwrap();
                    theirs.process_new_packets().unwrap();
                    let mut buffer = [0; 1 << 16];
                    while let Ok(n @ 1..) = theirs.reader().read(&mut buffer) {
                        got.extend_from_slice(&buffer[..n]);
                    }
                }
                let mut wire = Vec::new();
                while theirs.wants_write() {
                    theirs.write_tls(&mut wire).unwrap();
                }
                for chunk in wire.chunks(5000) {
                    ours.handle_input(BytesMut::from(chunk), &mut answer).unwrap();
                }
            }
        }
        let sent: Vec<u8> = (5..30).flat_map(|round| pattern(round * 1777)).collect();
        assert_eq!(got, sent);
        let sent: Vec<u8> = (5..30).flat_map(|round| pattern(round * 999)).collect();
        assert_eq!(answer.concat(), sent);
    }
}

#[test]
fn acknowledged_ciphertext_is_translated_to_plaintext() {
    let (ca, leaf) = ca_and_server();
    let mut pair = Pair::new(&trusting(&ca).client().unwrap(), &leaf.config().server().unwrap());
    pair.client.track_acked();
    let mut handshake = 0;
    while pair.client.is_handshaking() || pair.client.wants_write() || pair.server.wants_write() {
        let mut wire = Vec::new();
        handshake += pair.client.poll_transmit(&mut wire) as u64;
        let _ = pair.server.handle_input(BytesMut::from(&wire.concat()[..]), &mut Vec::new());
        carry(&mut pair.server, &mut pair.client, &mut pair.to_client, usize::MAX, &mut None);
    }
    pair.client.seal(&[pattern(100)]).unwrap();
    pair.client.seal(&[pattern(16_384 + 50)]).unwrap();
    let mut wire = Vec::new();
    pair.client.poll_transmit(&mut wire);
    let ends: Vec<u64> = record_lengths(&wire)
        .into_iter()
        .scan(handshake, |end, length| {
            *end += length as u64;
            Some(*end)
        })
        .collect();
    assert_eq!(ends.len(), 3);
    assert_eq!(pair.client.plaintext_acked(handshake), 0);
    assert_eq!(pair.client.plaintext_acked(ends[0] - 1), 0);
    assert_eq!(pair.client.plaintext_acked(ends[0]), 100);
    assert_eq!(pair.client.plaintext_acked(ends[2] - 1), 100 + 16_384);
    assert_eq!(pair.client.plaintext_acked(3), 100 + 16_384, "never back");
    assert_eq!(pair.client.plaintext_acked(u64::MAX), 100 + 16_384 + 50);
}

#[test]
fn self_signed_certificates_serve_by_pin_and_as_ca() {
    let own = self_signed(&["localhost", "127.0.0.1", "::1", "*.example.test"]).unwrap();
    let server = Config::new()
        .identity_pem(own.certificate_pem.clone(), own.key_pem.clone())
        .server()
        .unwrap();
    assert_eq!(server.pin(), own.pin);
    let pinned = Config::new().pin(own.pin).client().unwrap();
    let as_ca = Config::new().ca_pem(own.certificate_pem.clone()).client().unwrap();
    for name in ["localhost", "127.0.0.1", "::1", "a.example.test"] {
        assert_eq!(named(Pair::named(&pinned, &server, name).drive(usize::MAX)), (None, None));
        assert_eq!(
            named(Pair::named(&as_ca, &server, name).drive(usize::MAX)),
            (None, None),
            "{name}"
        );
    }
    assert_eq!(
        named(Pair::named(&as_ca, &server, "10.0.0.1").drive(usize::MAX)).0,
        some("WrongName")
    );
    assert!(matches!(self_signed(&["two words"]), Err(Error::BadServerName { .. })));
    assert!(matches!(self_signed(&[] as &[&str]), Err(Error::BadServerName { .. })));
    assert_eq!(
        format!("{own:?}"),
        format!("SelfSigned {{ pin: Pin({}), .. }}", own.pin),
        "no key in logs"
    );
}

#[cfg(feature = "system-roots")]
#[test]
fn system_roots_trust_nobody_of_ours() {
    let (_, leaf) = ca_and_server();
    match Config::new().system_roots().client() {
        Ok(client) => {
            let (client, _) =
                Pair::new(&client, &leaf.config().server().unwrap()).drive(usize::MAX);
            assert!(matches!(client, Some(Error::NotTrusted { .. })));
        }
        // A system may have none.
        Err(error) => assert!(matches!(error, Error::NoSystemRoots { .. }), "{error}"),
    }
}

#[test]
#[allow(clippy::print_stdout, reason = "a failing run shows its seed")]
fn random_traffic_arrives_as_it_was_sent() {
    let (ca, leaf) = ca_and_server();
    let (client, server) = (trusting(&ca).client().unwrap(), leaf.config().server().unwrap());
    for seed in 1..20u64 {
        println!("seed {seed}");
        let mut state = seed;
        let mut random = move |n: usize| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % n
        };
        let client = short_lived_keys(&client, 2 + random(5) as u64);
        let mut pair = Pair::new(&client, &server);
        assert_eq!(named(pair.drive(1 + random(400))), (None, None));
        let (mut sent, mut answered) = (Vec::new(), Vec::new());
        for _ in 0..60 {
            let chunks: Vec<Bytes> =
                (0..random(40)).map(|_| pattern(random(2) * random(3000))).collect();
            if random(2) == 0 {
                sent.extend_from_slice(&chunks.concat());
                pair.client.seal(&chunks).unwrap();
            } else {
                answered.extend_from_slice(&chunks.concat());
                pair.server.seal(&chunks).unwrap();
            }
            if random(3) == 0 {
                assert_eq!(named(pair.drive(1 + random(30_000))), (None, None));
            }
        }
        pair.client.close();
        pair.server.close();
        assert_eq!(named(pair.drive(1 + random(100))), (None, None));
        assert_eq!(pair.to_server.concat(), sent);
        assert_eq!(pair.to_client.concat(), answered);
        assert!(pair.client.handle_end().is_ok() && pair.server.handle_end().is_ok());
    }
}

#[test]
fn alerts_are_named() {
    assert!(matches!(
        error::alert_received(AlertDescription::CertificateRequired),
        Error::ClientCertificateRequired
    ));
    let Error::AlertReceived { description, .. } =
        error::alert_received(AlertDescription::from(200))
    else {
        panic!()
    };
    assert_eq!(description, "number 200");
}

#[test]
fn fuzz_seeds_hold() {
    let mut state = 7u64;
    let mut random = move || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    };
    for round in 0..400 {
        let mut bytes = vec![round as u8, random()];
        if round % 3 == 0 {
            bytes.extend([22, 3, 3, 0]);
        }
        for _ in 0..usize::from(random()) {
            bytes.push(if round % 4 == 3 && bytes.len() % 3 == 2 {
                random() % 8
            } else {
                random()
            });
        }
        fuzzing::input(&bytes);
    }
    fuzzing::input(&[]);
    for mode in 0..4 {
        fuzzing::input(&[mode, 1]);
    }
}
