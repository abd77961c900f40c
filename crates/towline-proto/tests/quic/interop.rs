//! The cases of the QUIC interop runner that make sense with both ends ours, by its names.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use towline_proto::quic::*;

use crate::congestion::transfer;
use crate::pair::*;

const MB: usize = 1 << 20;

#[test]
fn handshake() {
    let mut pair = Setup::new().build();
    let (client, server) = pair.established();
    transfer(&mut pair, client, server, 1_000).unwrap();
    assert_eq!(pair.server.stats().retries, 0);
}

#[test]
fn transfer_several_files() {
    let mut pair = Setup::new().build();
    pair.links(|l| l.rate = Some((1_250_000, 50_000)));
    let (client, server) = pair.established();
    for len in [2 * MB, 3 * MB, MB] {
        transfer(&mut pair, client, server, len).unwrap();
    }
}

#[test]
fn longrtt() {
    let mut pair = Setup::new().build();
    pair.links(|l| l.delay = Duration::from_millis(750));
    let client = pair.connect();
    let (client, server) = pair.establish(client);
    transfer(&mut pair, client, server, 10_000).unwrap();
    assert_eq!(pair.server.stats().accepted, 1, "a repeated Initial is no second connection");
}

#[test]
fn chacha20() {
    let log = lines();
    let sink = log.clone();
    let mut pair = Setup::new()
        .client(|c| {
            c.ciphers = vec![Cipher::ChaCha20Poly1305];
            c.key_log = Some(sink);
        })
        .build();
    let (client, server) = pair.established();
    transfer(&mut pair, client, server, MB).unwrap();
    // Secrets of SHA-256 suites are 32 bytes; AES-256 would have 48.
    assert!(
        log.0.lock().unwrap().iter().all(|line| line.split(' ').next_back().unwrap().len() == 64)
    );
    let refused = Setup::new().client(|c| c.ciphers = vec![Cipher::ChaCha20Poly1305]).server(|s| {
        s.ciphers = vec![Cipher::Aes256Gcm];
    });
    let mut pair = refused.build();
    let client = pair.connect();
    pair.drive(Duration::from_secs(2));
    assert!(
        !of(&pair.client_events, client).any(|e| matches!(e, Event::Connected { .. })),
        "no common cipher"
    );
}

#[test]
fn multiplexing() {
    let mut pair = Setup::new().options(|o| o.active = ReadMode::Active).build();
    let (client, _) = pair.established();
    let files = 2_000;
    let flags = OpenFlags::default();
    let fin = SendOptions { fin: true, ..SendOptions::default() };
    let mut sent = 0;
    let mut seen = 0;
    let mut arrived = 0;
    let ok = pair.drive_until(Duration::from_secs(60), |pair| {
        while sent < files {
            let open = OpenFlags { fail_blocked: true, ..flags };
            let Ok(Opened::Stream(stream)) =
                pair.client_conn(client).open(Direction::Unidirectional, open)
            else {
                break;
            };
            pair.client_conn(client).send(stream, Bytes::from(pattern(32)), fin).unwrap();
            sent += 1;
        }
        let new = &pair.server_events[seen..];
        arrived +=
            new.iter().filter(|(_, e)| matches!(e, Event::Stream(_, StreamEvent::Closed))).count();
        seen = pair.server_events.len();
        arrived == files
    });
    assert!(ok, "{arrived} of {sent}");
}

#[test]
fn retry() {
    let mut pair = Setup::new().server_endpoint(|e| e.retry = RetryPolicy::Always).build();
    pair.links(|l| l.loss = 0.05);
    let (client, server) = pair.established();
    transfer(&mut pair, client, server, 100_000).unwrap();
    assert!(pair.server.stats().retries >= 1);
    assert_eq!(pair.server.stats().accepted, 1);
}

fn resuming(level: Resumption) -> Pair {
    let mut pair = Setup::new().server(|s| s.options.server_resumption_level = level).build();
    let (client, _) = pair.established();
    pair.drive(Duration::from_millis(100));
    let now = pair.now;
    pair.client_conn(client).close(now, 0, Bytes::new());
    pair.drive(Duration::from_secs(1));
    pair
}

#[test]
fn resumption() {
    let mut pair = resuming(Resumption::Resume);
    let before = pair.seen_down.bytes;
    let (client, server) = pair.established();
    assert!(
        of(&pair.client_events, client)
            .any(|e| matches!(e, Event::Connected { is_resumed: true, .. }))
    );
    assert!(pair.seen_down.bytes > before);
    transfer(&mut pair, client, server, 100_000).unwrap();
}

#[test]
fn zerortt() {
    let mut pair = resuming(Resumption::ResumeAndEarlyData);
    let client = pair.connect();
    let early = SendOptions { fin: true, allow_early: true, ..SendOptions::default() };
    for _ in 0..40 {
        let opened =
            pair.client_conn(client).open(Direction::Unidirectional, OpenFlags::default()).unwrap();
        let Opened::Stream(stream) = opened else { panic!("allowed") };
        pair.client_conn(client).send(stream, Bytes::from(pattern(250)), early).unwrap();
    }
    let (client, _) = pair.establish(client);
    let accepted =
        |e: &Event| matches!(e, Event::Connected { early_data: EarlyData::Accepted, .. });
    assert!(of(&pair.client_events, client).any(accepted));
    // The first ones come with the first flight; pacing spreads the others beyond the handshake.
    let new = |e: &Event| matches!(e, Event::NewStream { early: true, .. });
    assert!(pair.server_events.iter().any(|(_, e)| new(e)));
    pair.drive(Duration::from_secs(1));
    let all =
        pair.server_events.iter().filter(|(_, e)| matches!(e, Event::NewStream { .. })).count();
    assert_eq!(all, 40);
}

#[test]
fn blackhole() {
    let mut pair = Setup::new().build();
    let (client, server) = pair.established();
    let opened =
        pair.client_conn(client).open(Direction::Unidirectional, OpenFlags::default()).unwrap();
    let Opened::Stream(stream) = opened else { panic!("allowed") };
    pair.client_conn(client)
        .send(stream, Bytes::from(pattern(900_000)), SendOptions::default())
        .unwrap();
    pair.drive(Duration::from_millis(35));
    pair.links(|l| l.down = true);
    pair.drive(Duration::from_secs(5));
    pair.links(|l| l.down = false);
    let mut got = Vec::new();
    let ok = pair.drive_until(Duration::from_secs(20), |pair| {
        read_all(&mut pair.server_conn(server), stream, &mut got);
        got.len() == 900_000
    });
    assert!(ok && got == pattern(900_000), "{}", got.len());
}

#[test]
fn keyupdate() {
    let mut pair = Setup::new().build();
    let (client, server) = pair.established();
    for _ in 0..5 {
        assert!(pair.client_conn(client).update_keys());
        assert!(
            !pair.client_conn(client).update_keys(),
            "not before the peer has acknowledged the last one"
        );
        transfer(&mut pair, client, server, 100_000).unwrap();
        pair.server_conn(server).update_keys();
        pair.server_conn(server).ping();
        pair.drive(Duration::from_millis(500));
    }
    assert_eq!(pair.client_conn(client).stats().key_updates, 5);
}

#[test]
fn ecn() {
    let mut pair = Setup::new().build();
    let (client, server) = pair.established();
    transfer(&mut pair, client, server, MB).unwrap();
    assert_eq!(pair.seen_up.marked, pair.seen_up.datagrams - pair.seen_up.lost);
    assert!(pair.seen_down.marked > 0);
}

#[test]
fn amplificationlimit() {
    // A chain so long that it does not fit into three times the client's first datagram.
    let mut pair = Setup::new()
        .server(|s| {
            let main = identity_pem();
            let more: String =
                (0..12).map(|n| certificate(&[&format!("ca{n}.example")]).cert.pem()).collect();
            s.identity =
                Identity::from_pem((main.0 + &more).as_bytes(), main.1.as_bytes()).unwrap();
        })
        .build();
    // The client says no more than its first datagram for a while.
    pair.up.lose = (1..4).collect();
    pair.connect();
    pair.drive(Duration::from_millis(500));
    let (up, down) = (pair.seen_up.bytes - 1_200 * pair.seen_up.lost, pair.seen_down.bytes);
    assert!(down > 2_000 && down <= 3 * up.max(1_252), "{down} bytes for {up}");
    pair.up.lose.clear();
    pair.drive(Duration::from_secs(5));
    assert!(pair.client_events.iter().any(|(_, e)| matches!(e, Event::HandshakeConfirmed)));
}

fn identity_pem() -> (String, String) {
    (pair_certificate().cert.pem(), pair_certificate().signing_key.serialize_pem())
}

fn handshakes(n: u64, change: impl Fn(&mut Link)) {
    let mut done = 0;
    for seed in 0..n {
        let mut pair = Setup::new()
            .seed(seed)
            .options(|o| o.handshake_idle_timeout = Duration::from_secs(60))
            .build();
        pair.links(|l| change(l));
        let client = pair.connect();
        let ok = pair.drive_until(Duration::from_secs(60), |pair| {
            of(&pair.client_events, client).any(|e| matches!(e, Event::HandshakeConfirmed))
        });
        assert!(ok, "seed {seed}: {:?}", pair.client_events);
        let server = pair
            .server_events
            .iter()
            .find(|(_, e)| matches!(e, Event::Connected { .. }))
            .unwrap()
            .0;
        transfer(&mut pair, client, server, 1_000).unwrap_or_else(|| panic!("seed {seed}"));
        done += 1;
    }
    assert_eq!(done, n);
}

#[test]
fn handshakeloss() {
    handshakes(50, |l| l.loss = 0.3);
}

#[test]
fn handshakecorruption() {
    handshakes(50, |l| l.corrupt = 0.3);
}

#[test]
fn handshakeduplication_and_reordering() {
    handshakes(20, |l| {
        l.duplicate = 0.5;
        l.jitter = Duration::from_millis(40);
    });
}

fn transfers(seeds: std::ops::Range<u64>, change: impl Fn(&mut Link)) {
    for seed in seeds {
        let mut pair = Setup::new().seed(seed).build();
        pair.links(|l| change(l));
        let (client, server) = pair.established();
        transfer(&mut pair, client, server, MB)
            .unwrap_or_else(|| panic!("seed {seed}: {:?}", pair.client_events));
    }
}

#[test]
fn transferloss() {
    transfers(0..4, |l| l.loss = 0.02);
}

#[test]
fn transfercorruption() {
    transfers(0..4, |l| l.corrupt = 0.02);
}

#[test]
fn transferduplication_and_reordering() {
    transfers(0..4, |l| {
        l.duplicate = 0.1;
        l.jitter = Duration::from_millis(15);
    });
}

#[test]
fn ipv6() {
    let mut pair = Setup { ipv6: true, ..Setup::new() }.build();
    let (client, server) = pair.established();
    transfer(&mut pair, client, server, MB).unwrap();
    assert!(pair.client_conn(client).remote_address().is_ipv6());
    assert_eq!(pair.client_conn(client).stats().mtu, 1_452, "1,500 less 48");
}

fn rebind(to: SocketAddr) {
    let mut pair = Setup::new().build();
    let (client, server) = pair.established();
    transfer(&mut pair, client, server, MB).unwrap();
    pair.nat.insert(client_address(), to);
    transfer(&mut pair, client, server, MB).unwrap();
    assert!(
        of(&pair.server_events, server)
            .any(|e| matches!(e, Event::PeerAddressChanged(a) if *a == to))
    );
    assert!(pair.client_conn(client).stats().path_challenges_received >= 1);
}

#[test]
fn rebind_port() {
    rebind(SocketAddr::from(([192, 0, 2, 1], 50_000)));
}

#[test]
fn rebind_addr() {
    rebind(SocketAddr::from(([203, 0, 113, 77], 50_000)));
}

#[test]
fn connectionmigration() {
    let mut pair = Setup::new().build();
    let (client, server) = pair.established();
    transfer(&mut pair, client, server, MB).unwrap();
    let to = SocketAddr::from(([203, 0, 113, 5], 40_001));
    let now = pair.now;
    pair.client_conn(client).migrate(now, to).unwrap();
    transfer(&mut pair, client, server, MB).unwrap();
    assert_eq!(pair.server_conn(server).remote_address(), to);
}
