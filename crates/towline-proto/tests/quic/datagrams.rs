//! Datagrams: limits, priority, expiry, and what became of each.

use std::time::Duration;

use bytes::Bytes;
use towline_proto::quic::*;

use crate::pair::*;

fn received(events: &[(ConnectionId, Event)]) -> Vec<Bytes> {
    events
        .iter()
        .filter_map(|(_, event)| match event {
            Event::Datagram { data, .. } => Some(data.clone()),
            _ => None,
        })
        .collect()
}

fn states(events: &[(ConnectionId, Event)], id: DatagramId) -> Vec<DatagramState> {
    events
        .iter()
        .filter_map(|(_, event)| match event {
            Event::DatagramSendState { id: of, state } if *of == id => Some(*state),
            _ => None,
        })
        .collect()
}

#[test]
fn datagrams_go_both_ways_up_to_the_limit() {
    let mut pair = Setup::new().build();
    let (client, server) = pair.established();
    let max = pair.client_conn(client).max_datagram().unwrap();
    let data = Bytes::from(pattern(max));
    pair.client_conn(client).send_datagram(data.clone(), DatagramOptions::default()).unwrap();
    pair.server_conn(server).send_datagram(Bytes::new(), DatagramOptions::default()).unwrap();
    pair.drive(Duration::from_millis(50));
    assert_eq!(received(&pair.server_events), [data]);
    assert_eq!(received(&pair.client_events), [Bytes::new()]);
    let limit = pair.client_conn(client).max_datagram().unwrap();
    let refused = pair
        .client_conn(client)
        .send_datagram(Bytes::from(vec![0; limit + 1]), DatagramOptions::default());
    assert_eq!(refused, Err(DatagramError::TooLarge { size: limit + 1, limit }));
}

#[test]
fn the_limit_is_told_and_grows_with_the_path() {
    let mut pair = Setup::new().build();
    let (client, _) = pair.established();
    pair.drive(Duration::from_secs(2));
    let told: Vec<_> = of(&pair.client_events, client)
        .filter_map(|event| match event {
            Event::DatagramStateChanged { send_enabled: true, max_length } => Some(*max_length),
            _ => None,
        })
        .collect();
    assert!(told.len() >= 2 && told.windows(2).all(|w| w[0] < w[1]), "{told:?}");
    assert_eq!(pair.client_conn(client).max_datagram(), told.last().copied());
    // 1,472 less header, tag and frame.
    assert!((1_425..1_450).contains(told.last().unwrap()), "{told:?}");
}

#[test]
fn a_peer_that_takes_none_says_so() {
    let mut pair = Setup::new().server(|s| s.options.datagram_receive = false).build();
    let (client, server) = pair.established();
    let refused = pair.client_conn(client).send_datagram(Bytes::new(), DatagramOptions::default());
    assert_eq!(refused, Err(DatagramError::Unsupported));
    assert!(
        of(&pair.client_events, client)
            .any(|e| matches!(e, Event::DatagramStateChanged { send_enabled: false, .. }))
    );
    // It may still send.
    pair.server_conn(server)
        .send_datagram(Bytes::from_static(b"x"), DatagramOptions::default())
        .unwrap();
    pair.drive(Duration::from_millis(50));
    assert_eq!(received(&pair.client_events).len(), 1);
}

#[test]
fn every_datagram_has_its_fate() {
    let mut pair = Setup::new().seed(3).options(|o| o.datagram_states = true).build();
    let (client, _) = pair.established();
    pair.up.loss = 0.2;
    let mut ids = Vec::new();
    for n in 0..200_u32 {
        let data = Bytes::copy_from_slice(&n.to_be_bytes());
        ids.push(pair.client_conn(client).send_datagram(data, DatagramOptions::default()).unwrap());
        pair.drive(Duration::from_millis(3));
    }
    pair.up.loss = 0.0;
    pair.client_conn(client).ping();
    pair.drive(Duration::from_secs(3));
    let came: std::collections::HashSet<u32> = received(&pair.server_events)
        .iter()
        .map(|d| u32::from_be_bytes(d[..].try_into().unwrap()))
        .collect();
    let mut lost = 0;
    for (n, id) in ids.iter().enumerate() {
        match states(&pair.client_events, *id)[..] {
            [DatagramState::Sent, DatagramState::Acknowledged] => {
                assert!(came.contains(&(n as u32)), "{n}")
            }
            [DatagramState::Sent, DatagramState::Lost] => {
                lost += 1;
                assert!(!came.contains(&(n as u32)), "{n} came although it was called lost");
            }
            ref other => panic!("{n}: {other:?}"),
        }
    }
    assert!((20..70).contains(&lost), "{lost}");
}

#[test]
fn many_datagrams_in_one_packet_are_told_apart() {
    let mut pair = Setup::new().options(|o| o.datagram_states = true).build();
    let (client, _) = pair.established();
    pair.drive(Duration::from_millis(200));
    let ids: Vec<_> = (0..300)
        .map(|n| {
            let data = Bytes::from(pattern(n % 97));
            pair.client_conn(client).send_datagram(data, DatagramOptions::default()).unwrap()
        })
        .collect();
    pair.drive(Duration::from_secs(1));
    assert!(pair.client_conn(client).stats().packets_sent < 100);
    for id in ids {
        assert_eq!(
            states(&pair.client_events, id),
            [DatagramState::Sent, DatagramState::Acknowledged]
        );
    }
}

#[test]
fn priority_goes_first_and_expiry_holds_in_the_queue() {
    let mut pair = Setup::new().options(|o| o.datagram_states = true).build();
    pair.links(|l| l.rate = Some((100_000, 20_000)));
    let (client, _) = pair.established();
    pair.drive(Duration::from_millis(300));
    let send = |pair: &mut Pair, tag: u8, priority, expires| {
        let mut data = vec![0; 1_000];
        data[0] = tag;
        let options = DatagramOptions { priority, expires, allow_early: false };
        pair.client_conn(client).send_datagram(Bytes::from(data), options).unwrap()
    };
    let expires = pair.now + Duration::from_millis(500);
    for _ in 0..300 {
        send(&mut pair, 0, 0, None);
    }
    let stale = send(&mut pair, 1, 0, Some(expires));
    pair.drive(Duration::from_millis(100));
    send(&mut pair, 2, 9, None);
    pair.drive(Duration::from_secs(30));
    let tags: Vec<u8> = received(&pair.server_events).iter().map(|data| data[0]).collect();
    assert!(!tags.contains(&1));
    assert_eq!(states(&pair.client_events, stale), [DatagramState::Expired]);
    assert_eq!(pair.client_conn(client).stats().datagrams_expired, 1);
    let urgent = tags.iter().position(|&tag| tag == 2).expect("the urgent one came");
    assert!(urgent < 200, "behind {urgent} others");
}

#[test]
fn a_full_queue_refuses_and_tells_when_it_has_room() {
    let mut pair = Setup::new().options(|o| o.datagram_send_queue = 10_000).build();
    let (client, _) = pair.established();
    let mut taken = 0;
    let error = loop {
        match pair
            .client_conn(client)
            .send_datagram(Bytes::from(vec![0; 1_000]), DatagramOptions::default())
        {
            Ok(_) => taken += 1,
            Err(error) => break error,
        }
    };
    assert_eq!((taken, error), (10, DatagramError::QueueFull));
    pair.drive(Duration::from_secs(1));
    assert!(of(&pair.client_events, client).any(|e| matches!(e, Event::DatagramsUnblocked)));
    assert_eq!(received(&pair.server_events).len(), 10);
}

#[test]
fn what_is_queued_at_the_end_is_canceled() {
    let mut pair = Setup::new().options(|o| o.datagram_states = true).build();
    let (client, _) = pair.established();
    let id = pair
        .client_conn(client)
        .send_datagram(Bytes::from_static(b"x"), DatagramOptions::default())
        .unwrap();
    let now = pair.now;
    pair.client_conn(client).close(now, 0, Bytes::new());
    pair.drive(Duration::from_secs(1));
    assert_eq!(states(&pair.client_events, id), [DatagramState::Canceled]);
    assert!(matches!(of(&pair.client_events, client).last(), Some(Event::Closed { .. })));
}

#[test]
fn unread_datagrams_make_room_for_newer_ones() {
    let mut pair = Setup::new().server(|s| s.options.datagram_receive_queue = 65_536).build();
    let (client, server) = pair.established();
    pair.drive(Duration::from_millis(300));
    for _ in 0..10 {
        for _ in 0..20 {
            let _ = pair
                .client_conn(client)
                .send_datagram(Bytes::from(vec![0; 1_000]), DatagramOptions::default());
        }
        pair.drive(Duration::from_millis(50));
    }
    let stats = pair.server_conn(server).stats();
    assert_eq!(stats.datagram_frames_received, 200);
    assert_eq!(received(&pair.server_events).len(), 200, "a polled endpoint drops none");
}
