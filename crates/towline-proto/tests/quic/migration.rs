//! Paths that change: on demand, by a NAT, by the network.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use towline_proto::quic::*;

use crate::pair::*;

fn other() -> SocketAddr {
    SocketAddr::from(([203, 0, 113, 9], 41_000))
}

/// A transfer that runs while something happens to the path: the server gets everything.
fn transfer(
    pair: &mut Pair,
    client: ConnectionId,
    server: ConnectionId,
    mut at_half: impl FnMut(&mut Pair),
) {
    let Opened::Stream(stream) =
        pair.client_conn(client).open(Direction::Unidirectional, OpenFlags::default()).unwrap()
    else {
        panic!("allowed")
    };
    let data = pattern(1 << 20);
    let (mut at, mut got, mut half) = (0, Vec::new(), false);
    let ok = pair.drive_until(Duration::from_secs(60), |pair| {
        while at < data.len()
            && let Ok(n) = pair.client_conn(client).write(stream, &data[at..])
        {
            at += n;
        }
        if got.len() > data.len() / 2 && !std::mem::replace(&mut half, true) {
            at_half(pair);
        }
        read_all(&mut pair.server_conn(server), stream, &mut got);
        got.len() == data.len()
    });
    assert!(ok, "{} of {} bytes", got.len(), data.len());
    assert!(got == data);
}

#[test]
fn migrate_tries_the_path_and_then_moves() {
    let mut pair = Setup::new().build();
    let (client, server) = pair.established();
    pair.drive(Duration::from_millis(500));
    let now = pair.now;
    pair.client_conn(client).migrate(now, other()).unwrap();
    assert_eq!(pair.client_conn(client).migrate(now, other()), Err(MigrateError::UnderWay));
    pair.drive(Duration::from_millis(200));
    assert!(
        of(&pair.client_events, client)
            .any(|e| matches!(e, Event::LocalAddressChanged(a) if *a == other()))
    );
    assert!(
        of(&pair.server_events, server)
            .any(|e| matches!(e, Event::PeerAddressChanged(a) if *a == other()))
    );
    assert_eq!(pair.client_conn(client).local_address(), Some(LocalAddress::Socket(other())));
    assert_eq!(pair.server_conn(server).remote_address(), other());
    assert!(
        pair.client_conn(client).stats().path_challenges_received >= 1,
        "the server validated the path"
    );
}

#[test]
fn a_transfer_survives_a_migration() {
    let mut pair = Setup::new().build();
    let (client, server) = pair.established();
    transfer(&mut pair, client, server, |pair| {
        let now = pair.now;
        pair.client_conn(client).migrate(now, other()).unwrap();
    });
    assert!(of(&pair.client_events, client).any(|e| matches!(e, Event::LocalAddressChanged(_))));
    assert_eq!(pair.server_conn(server).remote_address(), other());
}

#[test]
fn a_path_that_does_not_work_is_not_moved_to() {
    let mut pair = Setup::new().build();
    pair.dead.push(other());
    let (client, server) = pair.established();
    transfer(&mut pair, client, server, |pair| {
        let now = pair.now;
        pair.client_conn(client).migrate(now, other()).unwrap();
    });
    assert!(
        of(&pair.client_events, client)
            .any(|e| matches!(e, Event::MigrationFailed { local } if *local == other()))
    );
    assert!(!of(&pair.client_events, client).any(|e| matches!(e, Event::LocalAddressChanged(_))));
    assert!(!of(&pair.server_events, server).any(|e| matches!(e, Event::PeerAddressChanged(_))));
    // It can be tried again.
    pair.dead.clear();
    let now = pair.now;
    pair.client_conn(client).migrate(now, other()).unwrap();
    pair.drive(Duration::from_secs(1));
    assert!(of(&pair.client_events, client).any(|e| matches!(e, Event::LocalAddressChanged(_))));
}

#[test]
fn a_lost_probe_is_sent_again() {
    let mut pair = Setup::new().build();
    let (client, _) = pair.established();
    pair.drive(Duration::from_secs(1));
    pair.up.down = true;
    let now = pair.now;
    pair.client_conn(client).migrate(now, other()).unwrap();
    pair.work();
    pair.up.down = false;
    pair.drive(Duration::from_secs(1));
    assert!(of(&pair.client_events, client).any(|e| matches!(e, Event::LocalAddressChanged(_))));
}

#[test]
fn a_server_that_forbids_migration_is_heeded() {
    let mut pair = Setup::new().server(|s| s.options.migration = false).build();
    let (client, server) = pair.established();
    let now = pair.now;
    assert_eq!(pair.client_conn(client).migrate(now, other()), Err(MigrateError::Forbidden));
    assert_eq!(pair.server_conn(server).migrate(now, other()), Err(MigrateError::Server));
    let v6 = SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, 9], 1));
    let mut pair = Setup::new().build();
    let client = pair.connect();
    assert_eq!(pair.client_conn(client).migrate(now, other()), Err(MigrateError::TooEarly));
    let (client, _) = pair.establish(client);
    let now = pair.now;
    assert_eq!(pair.client_conn(client).migrate(now, v6), Err(MigrateError::Family));
}

#[test]
fn a_rebound_socket_is_told_to_both() {
    let mut pair = Setup::new().build();
    let (client, server) = pair.established();
    pair.drive(Duration::from_secs(1));
    pair.client_address = other();
    let now = pair.now;
    pair.client_conn(client).rebound(now, other());
    pair.drive(Duration::from_secs(1));
    assert!(
        of(&pair.client_events, client)
            .any(|e| matches!(e, Event::LocalAddressChanged(a) if *a == other()))
    );
    assert!(
        of(&pair.server_events, server)
            .any(|e| matches!(e, Event::PeerAddressChanged(a) if *a == other()))
    );
}

#[test]
fn datagrams_of_the_old_path_are_not_left_without_a_word() {
    let mut pair = Setup::new().options(|o| o.datagram_states = true).build();
    let (client, server) = pair.established();
    pair.drive(Duration::from_millis(500));
    pair.down.down = true;
    let id = pair
        .server_conn(server)
        .send_datagram(Bytes::from_static(b"x"), DatagramOptions::default())
        .unwrap();
    pair.work();
    pair.down.down = false;
    pair.nat.insert(client_address(), other());
    pair.client_conn(client).ping();
    pair.drive(Duration::from_secs(2));
    let states: Vec<_> = of(&pair.server_events, server)
        .filter_map(|e| match e {
            Event::DatagramSendState { id: of, state } if *of == id => Some(*state),
            _ => None,
        })
        .collect();
    assert_eq!(states, [DatagramState::Sent, DatagramState::Unknown]);
}
