//! The handshake, the gate, and how a connection ends.

use std::time::Duration;

use bytes::Bytes;
use towline_proto::quic::*;

use crate::pair::*;

#[test]
fn both_ends_connect_and_agree() {
    let mut pair = Setup::new().build();
    let (client, server) = pair.established();
    for (events, id) in [(&pair.client_events, client), (&pair.server_events, server)] {
        let connected = of(events, id).find_map(|event| match event {
            Event::Connected { is_resumed, alpn, early_data, encryption_disabled } => {
                Some((*is_resumed, alpn.clone(), *early_data, *encryption_disabled))
            }
            _ => None,
        });
        assert_eq!(
            connected,
            Some((false, Some(Bytes::from_static(ALPN)), EarlyData::None, false))
        );
    }
    assert_eq!(pair.client_conn(client).alpn().as_deref(), Some(ALPN));
    assert!(!pair.client_conn(client).is_handshaking());
    assert_eq!(pair.client_conn(client).peer_certificates().unwrap(), [root()]);
    let stats = pair.server.stats();
    assert_eq!((stats.accepted, stats.connections, stats.handshakes, stats.incoming), (1, 1, 0, 0));
}

#[test]
fn both_ends_export_the_same_keys() {
    let mut pair = Setup::new().build();
    let (client, server) = pair.established();
    let (mut ours, mut theirs) = ([0; 32], [0; 32]);
    assert!(pair.client_conn(client).export_keying_material(&mut ours, b"label", b"context"));
    assert!(pair.server_conn(server).export_keying_material(&mut theirs, b"label", b"context"));
    assert_eq!(ours, theirs);
    assert_ne!(ours, [0; 32]);
}

#[test]
fn the_gate_shows_what_the_client_says() {
    let mut pair = Setup::new().client(|c| c.alpn.insert(0, Bytes::from_static(b"other"))).build();
    pair.established();
    let incoming = &pair.incoming[0];
    assert_eq!(incoming.server_name.as_deref(), Some(NAME));
    assert_eq!(incoming.client_alpns, [Bytes::from_static(b"other"), Bytes::from_static(ALPN)]);
    assert_eq!(incoming.alpn.as_deref(), Some(ALPN));
    assert_eq!(incoming.remote, client_address());
    assert_eq!(incoming.local, server_address());
    assert_eq!(
        (incoming.version, incoming.may_retry, incoming.address_validated),
        (1, true, false)
    );
    assert_eq!(incoming.client_hello[0], 1, "a ClientHello");
    assert_eq!(incoming.resumption, None);
}

#[test]
fn a_client_hello_over_several_packets_reaches_the_gate_whole() {
    // So many protocols that the ClientHello does not fit one packet.
    let mut pair = Setup::new()
        .client(|c| {
            c.alpn.extend((0..90).map(|n| Bytes::from(format!("a-rather-long-protocol-name/{n}"))))
        })
        .build();
    pair.up.jitter = Duration::from_millis(5);
    pair.established();
    assert_eq!(pair.incoming.len(), 1);
    assert_eq!(pair.incoming[0].client_alpns.len(), 91);
    assert!(pair.incoming[0].client_hello.len() > 2_000);
}

#[test]
fn a_refused_client_hears_so() {
    let mut pair = Setup::new().build();
    pair.decide = Box::new(|_| Some(Decision::Refuse));
    let client = pair.connect();
    pair.drive(Duration::from_secs(2));
    let events: Vec<_> = of(&pair.client_events, client).collect();
    assert!(
        matches!(
            events[..],
            [
                Event::TransportShutdown(CloseReason::Refused),
                Event::Closed {
                    is_handshake_completed: false,
                    is_peer_acked: true,
                    is_app_closing: false
                }
            ]
        ),
        "{events:?}"
    );
    assert_eq!(pair.server.stats().refused, 1);
    assert_eq!(pair.server.stats().connections, 0);
}

#[test]
fn an_ignored_client_times_out() {
    let mut pair =
        Setup::new().options(|o| o.handshake_idle_timeout = Duration::from_secs(3)).build();
    pair.decide = Box::new(|_| Some(Decision::Ignore));
    let client = pair.connect();
    pair.drive(Duration::from_secs(4));
    let events: Vec<_> = of(&pair.client_events, client).collect();
    assert!(
        matches!(
            events[..],
            [
                Event::TransportShutdown(CloseReason::HandshakeTimeout),
                Event::Closed { is_handshake_completed: false, is_peer_acked: false, .. }
            ]
        ),
        "{events:?}"
    );
    assert_eq!(pair.client.stats().handshake_timeouts, 1);
    assert_eq!(pair.client.stats().connections, 0);
    assert!(pair.server_events.is_empty());
}

#[test]
fn a_decision_can_come_later_and_packets_wait() {
    let mut pair = Setup::new().build();
    pair.decide = Box::new(|_| None);
    let client = pair.connect();
    pair.drive(Duration::from_secs(2));
    assert!(pair.client_events.is_empty());
    let id = pair.incoming[0].id;
    let now = pair.now;
    let accepted = pair.server.decide(now, id, Decision::Accept).unwrap();
    assert!(accepted.is_some());
    assert_eq!(pair.server.decide(now, id, Decision::Accept), Err(TooLate));
    pair.establish(client);
}

#[test]
fn a_client_without_a_decision_is_forgotten() {
    let mut pair = Setup::new().build();
    pair.decide = Box::new(|_| None);
    pair.connect();
    pair.drive(Duration::from_millis(100));
    assert_eq!(pair.server.stats().incoming, 1);
    pair.up.down = true;
    pair.drive(Duration::from_secs(6));
    assert_eq!((pair.server.stats().incoming, pair.server.stats().gate_timeouts), (0, 1));
    let id = pair.incoming[0].id;
    assert_eq!(pair.server.decide(pair.now, id, Decision::Accept), Err(TooLate));
}

#[test]
fn retry_proves_the_address() {
    let mut pair = Setup::new().build();
    pair.decide = Box::new(|incoming| {
        Some(if incoming.address_validated { Decision::Accept } else { Decision::Retry })
    });
    pair.established();
    assert_eq!(pair.server.stats().retries, 1);
    let last = pair.incoming.last().unwrap();
    assert!(last.address_validated && !last.may_retry);
    // The ClientHello is read behind the token, too.
    assert_eq!(last.server_name.as_deref(), Some(NAME));
}

#[test]
fn without_a_gate_clients_are_accepted_at_once() {
    let mut pair = Setup::new().server_endpoint(|e| e.gate = false).build();
    pair.established();
    assert!(pair.incoming.is_empty());
}

#[test]
fn no_common_protocol_fails_with_the_tls_alert() {
    let mut pair = Setup::new().client(|c| c.alpn = vec![Bytes::from_static(b"other")]).build();
    let client = pair.connect();
    pair.drive(Duration::from_secs(2));
    assert_eq!(pair.incoming[0].alpn, None);
    let reason = of(&pair.client_events, client).find_map(|event| match event {
        Event::TransportShutdown(reason) => Some((reason.code(), reason.status())),
        _ => None,
    });
    // 0x100 + no_application_protocol (120).
    assert_eq!(reason, Some((0x178, "alpn_neg_failure")));
}

#[test]
fn an_unknown_version_is_answered_with_ours() {
    let mut pair = Setup::new().build();
    let mut packet = vec![0; 1_200];
    packet[0] = 0xc0;
    packet[1..5].copy_from_slice(&0x6b33_43cf_u32.to_be_bytes());
    packet[5] = 8;
    packet[6..14].copy_from_slice(b"12345678");
    pair.capture = Some(Vec::new());
    pair.inject(true, Path { remote: client_address(), local: server_address() }, &packet);
    pair.drive(Duration::from_millis(1));
    let capture = pair.capture.take().unwrap();
    let [(false, answer)] = &capture[..] else { panic!("{capture:?}") };
    assert_eq!(answer[1..5], [0; 4], "version negotiation");
    assert!(answer.windows(4).any(|w| w == 1_u32.to_be_bytes()));
    // An address gets one such answer within its time.
    pair.inject(true, Path { remote: client_address(), local: server_address() }, &packet);
    pair.drive(Duration::from_millis(1));
    assert_eq!((pair.server.stats().stateless_sent, pair.server.stats().stateless_dropped), (1, 1));
}

#[test]
fn an_application_close_reaches_the_peer() {
    let mut pair = Setup::new().build();
    let (client, server) = pair.established();
    let now = pair.now;
    pair.client_conn(client).close(now, 4_242, Bytes::from_static(b"done"));
    pair.drive(Duration::from_secs(2));
    let events: Vec<_> = of(&pair.server_events, server)
        .skip_while(|e| !matches!(e, Event::Shutdown { .. }))
        .collect();
    assert!(
        matches!(&events[..], [
            Event::Shutdown { code: 4_242, reason },
            Event::Closed { is_handshake_completed: true, is_peer_acked: true, is_app_closing: false }
        ] if reason == "done"),
        "{events:?}"
    );
    let last: Vec<_> = of(&pair.client_events, client).collect();
    assert!(
        matches!(
            last.last(),
            Some(Event::Closed { is_app_closing: true, is_peer_acked: true, .. })
        ),
        "{last:?}"
    );
    assert!(
        !last.iter().any(|e| matches!(e, Event::Shutdown { .. } | Event::TransportShutdown(_)))
    );
    assert!(pair.client.connection(client).is_none() && pair.server.connection(server).is_none());
    assert_eq!((pair.client.stats().connections, pair.server.stats().connections), (0, 0));
}

#[test]
fn a_close_that_nobody_answers_still_ends() {
    let mut pair = Setup::new().build();
    let (client, _) = pair.established();
    pair.up.down = true;
    let now = pair.now;
    pair.client_conn(client).close(now, 1, Bytes::new());
    pair.drive(Duration::from_secs(5));
    let closed: Vec<_> =
        of(&pair.client_events, client).filter(|e| matches!(e, Event::Closed { .. })).collect();
    assert!(
        matches!(closed[..], [Event::Closed { is_peer_acked: false, is_app_closing: true, .. }]),
        "{closed:?}"
    );
    assert_eq!(pair.client.stats().connections, 0);
}

#[test]
fn an_abandoned_connection_says_nothing() {
    let mut pair = Setup::new().options(|o| o.idle_timeout = Some(Duration::from_secs(3))).build();
    let (client, server) = pair.established();
    pair.drive(Duration::from_secs(1));
    let sent = pair.seen_up.datagrams;
    pair.client_conn(client).abandon();
    pair.drive(Duration::from_secs(1));
    assert_eq!(pair.seen_up.datagrams, sent);
    assert!(matches!(
        of(&pair.client_events, client).last(),
        Some(Event::Closed { is_app_closing: true, .. })
    ));
    pair.drive(Duration::from_secs(4));
    assert!(
        of(&pair.server_events, server)
            .any(|e| matches!(e, Event::TransportShutdown(CloseReason::IdleTimeout)))
    );
}

#[test]
fn an_idle_connection_ends_after_the_smaller_timeout() {
    let mut pair =
        Setup::new().client(|c| c.options.idle_timeout = Some(Duration::from_secs(5))).build();
    let (client, server) = pair.established();
    pair.drive(Duration::from_secs(4));
    assert!(pair.client.connection(client).is_some());
    pair.drive(Duration::from_secs(3));
    for (events, id) in [(&pair.client_events, client), (&pair.server_events, server)] {
        let end: Vec<_> =
            of(events, id).skip_while(|e| !matches!(e, Event::TransportShutdown(_))).collect();
        assert!(
            matches!(
                end[..],
                [Event::TransportShutdown(CloseReason::IdleTimeout), Event::Closed { .. }]
            ),
            "{end:?}"
        );
    }
}

#[test]
fn keep_alive_keeps_it_alive() {
    let mut pair = Setup::new()
        .options(|o| o.idle_timeout = Some(Duration::from_secs(5)))
        .client(|c| c.options.keep_alive_interval = Some(Duration::from_secs(2)))
        .build();
    let (client, server) = pair.established();
    pair.drive(Duration::from_secs(60));
    assert!(pair.client.connection(client).is_some() && pair.server.connection(server).is_some());
}

#[test]
fn an_unreachable_peer_ends_the_connection_after_the_disconnect_timeout() {
    let mut pair = Setup::new().options(|o| o.disconnect_timeout = Duration::from_secs(4)).build();
    let (client, _) = pair.established();
    pair.drive(Duration::from_secs(1));
    pair.links(|l| l.down = true);
    pair.client_conn(client).ping();
    let start = pair.now;
    let ended = pair.drive_until(Duration::from_secs(20), |pair| {
        of(&pair.client_events, client)
            .any(|e| matches!(e, Event::TransportShutdown(CloseReason::Unreachable)))
    });
    assert!(ended);
    let took = pair.now - start;
    assert!((3_900..4_500).contains(&took.as_millis()), "{took:?}");
    assert!(matches!(of(&pair.client_events, client).last(), Some(Event::Closed { .. })));
    assert_eq!(pair.client.stats().disconnect_timeouts, 1);
}

#[test]
fn a_server_that_forgot_resets_at_once() {
    let mut pair = Setup::new().build();
    let (client, _) = pair.established();
    pair.drive(Duration::from_secs(1));
    // Another server process with the same secret.
    let config = pair.server.config().clone();
    pair.server =
        Endpoint::new(config, Some(pair.server_config.clone()), [9; 32], pair.now, wall()).unwrap();
    let now = pair.now;
    let Opened::Stream(stream) =
        pair.client_conn(client).open(Direction::Bidirectional, OpenFlags::default()).unwrap()
    else {
        panic!("a stream")
    };
    pair.client_conn(client)
        .send(stream, Bytes::from(pattern(5_000)), SendOptions::default())
        .unwrap();
    pair.drive(Duration::from_secs(1));
    assert!(
        of(&pair.client_events, client)
            .any(|e| matches!(e, Event::TransportShutdown(CloseReason::StatelessReset)))
    );
    assert!(pair.now - now <= Duration::from_secs(1));
    assert!(pair.server.stats().stateless_sent >= 1);
}

#[test]
fn closed_is_told_once_and_last_also_when_both_close() {
    let mut pair = Setup::new().build();
    let (client, server) = pair.established();
    let now = pair.now;
    pair.client_conn(client).close(now, 1, Bytes::new());
    pair.server_conn(server).close(now, 2, Bytes::new());
    pair.drive(Duration::from_secs(3));
    for (events, id) in [(&pair.client_events, client), (&pair.server_events, server)] {
        let closed = of(events, id).filter(|e| matches!(e, Event::Closed { .. })).count();
        assert_eq!(closed, 1);
        assert!(matches!(of(events, id).last(), Some(Event::Closed { .. })));
    }
}

#[test]
fn invalid_names_and_addresses_are_refused_before_anything_is_sent() {
    let mut pair = Setup::new().build();
    let config = pair.client_config.clone();
    let now = pair.now;
    let mut connect = |remote, name: &str| {
        pair.client.connect(now, &config, remote, name, ConnectParams::default())
    };
    assert!(matches!(
        connect(server_address(), "not a name"),
        Err(ConnectError::InvalidServerName(_))
    ));
    let zero = std::net::SocketAddr::from(([198, 51, 100, 1], 0));
    assert!(matches!(connect(zero, NAME), Err(ConnectError::InvalidRemoteAddress(_))));
    assert_eq!(pair.client.stats().connected, 0);
}

#[test]
fn key_logs_of_both_ends_hold_the_same_secrets() {
    let (ours, theirs) = (lines(), lines());
    let (client_log, server_log) = (ours.clone(), theirs.clone());
    let mut pair = Setup::new()
        .client(|c| c.key_log = Some(client_log))
        .server(|s| s.key_log = Some(server_log))
        .build();
    pair.established();
    let sorted = |lines: &Lines| {
        let mut lines = lines.0.lock().unwrap().clone();
        lines.sort();
        lines
    };
    let lines = sorted(&ours);
    assert_eq!(lines, sorted(&theirs));
    assert!(
        lines.iter().any(|line| line.starts_with("CLIENT_TRAFFIC_SECRET_0 ") && line.len() > 150),
        "{lines:?}"
    );
}
