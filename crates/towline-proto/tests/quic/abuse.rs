//! Load and abuse: limits, pressure, garbage.

use std::net::SocketAddr;
use std::time::Duration;

use towline_proto::quic::*;

use crate::pair::*;

fn ask_from(pair: &mut Pair, port: u16) -> ConnectionId {
    let config = pair.client_config.clone();
    let local = SocketAddr::from(([192, 0, 2, 1], port));
    pair.connect_with(
        &config,
        ConnectParams { local_address: Some(local), ..ConnectParams::default() },
    )
}

#[test]
fn connections_beyond_the_limit_are_refused() {
    let mut pair = Setup::new().server_endpoint(|e| e.max_connections = 2).build();
    for port in 1..=3 {
        ask_from(&mut pair, port);
        pair.drive(Duration::from_millis(200));
    }
    let stats = pair.server.stats();
    assert_eq!((stats.connections, stats.refused_connections), (2, 1));
    assert!(
        pair.client_events
            .iter()
            .any(|(_, e)| matches!(e, Event::TransportShutdown(CloseReason::Refused)))
    );
    let mut setup = Setup::new();
    setup.client_endpoint.max_connections = 0;
    let mut pair = setup.build();
    let config = pair.client_config.clone();
    let error = pair
        .client
        .connect(pair.now, &config, server_address(), NAME, ConnectParams::default())
        .unwrap_err();
    assert!(matches!(error, ConnectError::TooManyConnections(0)));
}

#[test]
fn handshakes_beyond_the_limit_are_ignored_and_come_again() {
    let mut pair = Setup::new().server_endpoint(|e| e.max_handshakes = 1).build();
    for port in 1..=3 {
        ask_from(&mut pair, port);
    }
    pair.drive(Duration::from_secs(20));
    let confirmed =
        pair.client_events.iter().filter(|(_, e)| matches!(e, Event::HandshakeConfirmed)).count();
    assert!(confirmed >= 2, "{confirmed}");
    assert!(pair.server.stats().ignored_handshakes >= 1);
    assert_eq!(pair.server.stats().handshakes, 0);
}

#[test]
fn requests_beyond_the_gates_limit_are_ignored() {
    let mut pair = Setup::new().server_endpoint(|e| e.max_incoming = 2).build();
    pair.decide = Box::new(|_| None);
    for port in 1..=5 {
        ask_from(&mut pair, port);
    }
    pair.drive(Duration::from_millis(100));
    assert_eq!(pair.server.stats().incoming, 2);
    assert!(pair.server.stats().ignored_incoming >= 3);
}

#[test]
fn under_pressure_clients_prove_their_address() {
    for by_memory in [false, true] {
        let mut pair = Setup::new()
            .server_endpoint(|e| {
                if by_memory {
                    // One handshake is counted with 64 KiB.
                    e.memory = 65_535 * 1_000;
                } else {
                    e.retry = RetryPolicy::AboveHandshakes(3);
                }
            })
            .build();
        // The server's flights are lost: handshakes pile up.
        pair.down.lose = (0..6).collect();
        for port in 1..=6 {
            ask_from(&mut pair, port);
            pair.drive(Duration::from_millis(30));
        }
        let stats = pair.server.stats();
        assert!(stats.retries >= 1 && stats.retries < 6, "{stats:?}");
        pair.drive(Duration::from_secs(20));
        let confirmed = pair
            .client_events
            .iter()
            .filter(|(_, e)| matches!(e, Event::HandshakeConfirmed))
            .count();
        assert_eq!(confirmed, 6);
    }
}

#[test]
fn garbage_and_mutated_packets_do_no_harm() {
    let mut pair = Setup::new().seed(77).build();
    pair.capture = Some(Vec::new());
    let (client, server) = pair.established();
    crate::congestion::transfer(&mut pair, client, server, 50_000).unwrap();
    let real: Vec<_> = pair.capture.take().unwrap();
    let mut rng = Rng(5);
    let stranger = SocketAddr::from(([192, 0, 2, 66], 6_666));
    for round in 0..4_000 {
        let (up, bytes) = &real[rng.below(real.len() as u64) as usize];
        let mut bytes = bytes.to_vec();
        for _ in 0..=rng.below(8) {
            let at = rng.below(bytes.len() as u64) as usize;
            bytes[at] = rng.next() as u8;
        }
        bytes.truncate(1 + rng.below(bytes.len() as u64 * 2).min(bytes.len() as u64 - 1) as usize);
        let remote = if round % 3 == 0 { stranger } else { client_address() };
        let path = if *up {
            Path { remote, local: server_address() }
        } else {
            Path { remote: server_address(), local: client_address() }
        };
        pair.inject(*up, path, &bytes);
        if round % 50 == 0 {
            pair.drive(Duration::from_millis(1));
        }
    }
    pair.drive(Duration::from_secs(1));
    crate::congestion::transfer(&mut pair, client, server, 50_000).expect("the connection lives");
    assert_eq!(pair.server_conn(server).remote_address(), client_address());
    assert!(pair.server.stats().stateless_sent <= 100);
}

/// Everything that the fuzz target does, over seeds, as a test.
#[test]
fn random_bytes_into_both_kinds_of_endpoint() {
    let mut pair = Setup::new().build();
    pair.decide = Box::new(|_| Some(Decision::Accept));
    let mut rng = Rng(9);
    for _ in 0..5_000 {
        let len = rng.below(1_500) as usize;
        let mut bytes: Vec<u8> = (0..len).map(|_| rng.next() as u8).collect();
        if let Some(first) = bytes.first_mut() {
            *first |= 0x40;
        }
        if rng.chance(0.5) && bytes.len() > 5 {
            bytes[1..5].copy_from_slice(&1_u32.to_be_bytes());
            bytes[5] = rng.below(21) as u8;
        }
        let up = rng.chance(0.5);
        let path = if up {
            Path { remote: client_address(), local: server_address() }
        } else {
            Path { remote: server_address(), local: client_address() }
        };
        pair.inject(up, path, &bytes);
    }
    pair.drive(Duration::from_secs(1));
    assert!(
        pair.server.stats().datagrams_received + pair.client.stats().datagrams_received >= 5_000
    );
    pair.established();
}

#[test]
fn connection_ids_lead_to_their_thread_and_survive_a_key() {
    for key in [None, Some([3; 16])] {
        let mut pair = Setup::new()
            .server_endpoint(|e| {
                e.cid.server_id = CidConfig::server_address(server_address().ip());
                e.cid.thread = 5;
                e.cid.key = key;
            })
            .build();
        pair.capture = Some(Vec::new());
        let (client, server) = pair.established();
        crate::congestion::transfer(&mut pair, client, server, 100_000).unwrap();
        let cid = pair.server.config().cid.reader();
        let mut short = 0;
        for (up, datagram) in pair.capture.as_ref().unwrap() {
            if *up && datagram[0] & 0x80 == 0 {
                short += 1;
                assert_eq!(cid.thread_of_datagram(datagram), Some(5));
                let visible = datagram.windows(4).any(|w| w == [198, 51, 100, 1]);
                assert!(key.is_none() || !visible);
            }
        }
        assert!(short > 20);
    }
}

#[test]
fn a_client_that_stops_in_the_middle_is_forgotten() {
    let mut pair = Setup::new().build();
    pair.connect();
    pair.drive(Duration::from_millis(15));
    pair.links(|l| l.down = true);
    assert_eq!(pair.server.stats().handshakes, 1);
    pair.drive(Duration::from_secs(11));
    let stats = pair.server.stats();
    assert_eq!((stats.handshakes, stats.connections, stats.handshake_timeouts), (0, 0, 1));
    assert!(matches!(
        pair.server_events.last(),
        Some((_, Event::Closed { is_handshake_completed: false, .. }))
    ));
}

#[test]
fn many_connections_come_and_go_without_a_trace() {
    let mut pair = Setup::new().build();
    for round in 0..50 {
        let clients: Vec<_> = (0..4).map(|n| ask_from(&mut pair, 1_000 + round * 4 + n)).collect();
        pair.drive(Duration::from_millis(100));
        let now = pair.now;
        for client in clients {
            pair.client_conn(client).close(now, 0, bytes::Bytes::new());
        }
        pair.drive(Duration::from_secs(2));
    }
    for endpoint in [&pair.client, &pair.server] {
        assert_eq!((endpoint.stats().connections, endpoint.stats().handshakes), (0, 0));
    }
    assert_eq!(pair.server.stats().accepted, 200);
    let closed = |events: &[(ConnectionId, Event)]| {
        events.iter().filter(|(_, e)| matches!(e, Event::Closed { .. })).count()
    };
    assert_eq!((closed(&pair.client_events), closed(&pair.server_events)), (200, 200));
}
