//! ring against aws-lc-rs inside QUIC, both ends in memory on one core, in turns in one run:
//! `cargo test --release -p towline-proto --features aws-lc-rs --test quic providers -- --ignored --nocapture`

use std::time::{Duration, Instant};

use towline_proto::quic::*;

use crate::pair::*;

fn providers() -> Vec<Provider> {
    vec![
        Provider::Ring,
        #[cfg(feature = "aws-lc-rs")]
        Provider::AwsLcRs,
    ]
}

fn pair(provider: Provider, cipher: Cipher) -> Pair {
    let mut pair = Setup::new()
        .client(|c| {
            c.provider = provider;
            c.ciphers = vec![cipher];
        })
        .server(|s| s.provider = provider)
        .options(|o| o.pacing = false)
        .build();
    pair.links(|l| l.delay = Duration::from_micros(50));
    pair
}

#[test]
fn every_provider_completes_a_handshake_with_every_cipher() {
    for provider in providers() {
        for cipher in [Cipher::Aes128Gcm, Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305] {
            pair(provider, cipher).established();
        }
    }
}

#[test]
#[ignore = "a measurement"]
fn measure() {
    for cipher in [Cipher::Aes128Gcm, Cipher::ChaCha20Poly1305] {
        let mut best = vec![(f64::MAX, f64::MAX); providers().len()];
        for _ in 0..5 {
            for (at, provider) in providers().into_iter().enumerate() {
                let mut pair = pair(provider, cipher);
                let (client, server) = pair.established();
                let start = Instant::now();
                crate::congestion::transfer(&mut pair, client, server, 64 << 20)
                    .expect("delivered");
                best[at].0 = best[at].0.min(start.elapsed().as_secs_f64());
                let start = Instant::now();
                for _ in 0..50 {
                    let (client, _) = pair.established();
                    let now = pair.now;
                    pair.client_conn(client).close(now, 0, bytes::Bytes::new());
                    pair.client_events.clear();
                    pair.server_events.clear();
                }
                best[at].1 = best[at].1.min(start.elapsed().as_secs_f64());
            }
        }
        for (provider, (bulk, handshakes)) in providers().iter().zip(&best) {
            println!(
                "{cipher:?} {provider:?}: stream {:.2} Gb/s ({:.2} of the first), {:.0} handshakes/s ({:.2})",
                64.0 * 8.0 * 1.048_576 / 1_000.0 / bulk,
                best[0].0 / bulk,
                50.0 / handshakes,
                best[0].1 / handshakes
            );
        }
    }
}
