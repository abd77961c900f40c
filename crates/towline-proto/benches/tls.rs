//! What TLS costs in memory: our filter beside rustls' buffered connections, by provider and suite.
//!
//! `cargo bench -p towline-proto --bench tls --features cert,aws-lc-rs [-- SECONDS_PER_CASE]`. Both move messages one way from a client to a
//! server on one thread, through a copy out and a copy in where a socket would copy; rounds alternate, and the median of the ratios is what counts.

#![expect(clippy::print_stdout, reason = "it prints its table")]

use bytes::{Bytes, BytesMut};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::io::{Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};
use towline_proto::tls::{Config, Provider, SelfSigned, Stream, self_signed};

const SUITES: [&str; 3] =
    ["TLS13_AES_128_GCM_SHA256", "TLS13_AES_256_GCM_SHA384", "TLS13_CHACHA20_POLY1305_SHA256"];
const SIZES: [usize; 4] = [64, 1024, 64 << 10, 1 << 20];
const ROUNDS: usize = 15;

fn main() {
    let seconds =
        std::env::args().filter_map(|argument| argument.parse::<f64>().ok()).next().unwrap_or(1.5);
    let slice = Duration::from_secs_f64(seconds / (2 * ROUNDS) as f64);
    let own = self_signed(&["bench"]).expect("a certificate");
    println!(
        "{:<10} {:<30} {:>8} {:>12} {:>12} {:>8}",
        "provider", "suite", "message", "ours MB/s", "rustls MB/s", "ratio"
    );
    for provider in [Provider::Ring, Provider::AwsLcRs] {
        for suite in SUITES {
            for size in SIZES {
                let Some(mut ours) = Ours::new(&own, provider, suite) else { continue };
                let mut theirs = Theirs::new(&own, provider, suite);
                let message = Bytes::from(vec![0x5a; size]);
                let mut rounds: Vec<(f64, f64)> = (0..ROUNDS)
                    .map(|_| {
                        (
                            rate(slice, &message, |m| ours.pass(m)),
                            rate(slice, &message, |m| theirs.pass(m)),
                        )
                    })
                    .collect();
                rounds.sort_by(|a, b| (a.0 / a.1).total_cmp(&(b.0 / b.1)));
                let (a, b) = rounds[ROUNDS / 2];
                println!(
                    "{:<10} {suite:<30} {size:>8} {a:>12.0} {b:>12.0} {:>8.2}",
                    format!("{provider:?}"),
                    a / b
                );
            }
        }
    }
}

/// Megabytes per second.
fn rate(slice: Duration, message: &Bytes, mut pass: impl FnMut(&Bytes) -> usize) -> f64 {
    let start = Instant::now();
    let mut bytes = 0;
    while start.elapsed() < slice {
        bytes += pass(message);
    }
    bytes as f64 / start.elapsed().as_secs_f64() / 1e6
}

struct Ours {
    client: Stream,
    server: Stream,
    sealed: Vec<Bytes>,
    wire: Vec<u8>,
    plain: Vec<Bytes>,
}

impl Ours {
    fn new(own: &SelfSigned, provider: Provider, suite: &str) -> Option<Self> {
        let client =
            Config::new().pin(own.pin).provider(provider).cipher_suites([suite]).client().ok()?;
        let server = Config::new().identity_pem(own.certificate_pem.clone(), own.key_pem.clone());
        let server = server.provider(provider).server().ok()?;
        let (mut client, mut server) =
            (Stream::client(&client, "bench").ok()?, Stream::server(&server).ok()?);
        let (mut wire, mut plain) = (Vec::new(), Vec::new());
        for _ in 0..4 {
            client.poll_transmit(&mut wire);
            wire.drain(..)
                .try_for_each(|bytes| server.handle_input(bytes.into(), &mut plain))
                .ok()?;
            server.poll_transmit(&mut wire);
            wire.drain(..)
                .try_for_each(|bytes| client.handle_input(bytes.into(), &mut plain))
                .ok()?;
        }
        Some(Self { client, server, sealed: wire, wire: Vec::new(), plain })
    }

    fn pass(&mut self, message: &Bytes) -> usize {
        self.client.seal(std::slice::from_ref(message)).expect("a connection");
        self.client.poll_transmit(&mut self.sealed);
        self.wire.clear();
        for bytes in self.sealed.drain(..) {
            self.wire.extend_from_slice(&bytes);
        }
        for chunk in self.wire.chunks(64 << 10) {
            self.server.handle_input(BytesMut::from(chunk), &mut self.plain).expect("good records");
        }
        self.plain.drain(..).map(|bytes| std::hint::black_box(bytes).len()).sum()
    }
}

struct Theirs {
    client: rustls::ClientConnection,
    server: rustls::ServerConnection,
    wire: Vec<u8>,
    plain: Vec<u8>,
}

impl Theirs {
    fn new(own: &SelfSigned, provider: Provider, suite: &str) -> Self {
        let mut crypto = match provider {
            #[cfg(feature = "aws-lc-rs")]
            Provider::AwsLcRs => rustls::crypto::aws_lc_rs::default_provider(),
            _ => rustls::crypto::ring::default_provider(),
        };
        crypto.cipher_suites.retain(|known| known.suite().as_str() == Some(suite));
        let crypto = Arc::new(crypto);
        let certificate =
            CertificateDer::from_pem_slice(own.certificate_pem.as_bytes()).expect("its own PEM");
        let key = PrivateKeyDer::from_pem_slice(own.key_pem.as_bytes()).expect("its own PEM");
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate.clone()).expect("a root");
        let versions = [&rustls::version::TLS13];
        let client = rustls::ClientConfig::builder_with_provider(crypto.clone())
            .with_protocol_versions(&versions);
        let client = client.expect("TLS 1.3").with_root_certificates(roots).with_no_client_auth();
        let server =
            rustls::ServerConfig::builder_with_provider(crypto).with_protocol_versions(&versions);
        let server =
            server.expect("TLS 1.3").with_no_client_auth().with_single_cert(vec![certificate], key);
        let name = "bench".try_into().expect("a name");
        let mut both = Self {
            client: rustls::ClientConnection::new(Arc::new(client), name).expect("a client"),
            server: rustls::ServerConnection::new(Arc::new(server.expect("a pair")))
                .expect("a server"),
            wire: Vec::new(),
            plain: vec![0; 64 << 10],
        };
        both.client.set_buffer_limit(None);
        for _ in 0..4 {
            both.carry();
            let mut back = Vec::new();
            while both.server.wants_write() {
                both.server.write_tls(&mut back).expect("a vector");
            }
            let mut rest = &back[..];
            while !rest.is_empty() {
                both.client.read_tls(&mut rest).expect("a slice");
                both.client.process_new_packets().expect("a handshake");
            }
        }
        both
    }

    fn carry(&mut self) -> usize {
        self.wire.clear();
        while self.client.wants_write() {
            self.client.write_tls(&mut self.wire).expect("a vector");
        }
        let mut received = 0;
        let mut rest = &self.wire[..];
        while !rest.is_empty() {
            self.server.read_tls(&mut rest).expect("a slice");
            self.server.process_new_packets().expect("good records");
            while let Ok(n @ 1..) = self.server.reader().read(&mut self.plain) {
                received += std::hint::black_box(n);
            }
        }
        received
    }

    fn pass(&mut self, message: &Bytes) -> usize {
        self.client.writer().write_all(message).expect("no limit");
        self.carry()
    }
}
