//! Streams: opening, reading with credit, ending, priorities, limits.

use std::time::Duration;

use bytes::Bytes;
use towline_proto::quic::*;

use crate::pair::*;

fn open(pair: &mut Pair, client: ConnectionId, direction: Direction) -> StreamId {
    match pair.client_conn(client).open(direction, OpenFlags::default()).unwrap() {
        Opened::Stream(stream) => stream,
        Opened::Waiting(_) => panic!("a stream is allowed"),
    }
}

fn on_stream(events: &[(ConnectionId, Event)], id: StreamId) -> Vec<&StreamEvent> {
    events
        .iter()
        .filter_map(|(_, event)| match event {
            Event::Stream(of, event) if *of == id => Some(event),
            _ => None,
        })
        .collect()
}

fn fin() -> SendOptions {
    SendOptions { fin: true, ..SendOptions::default() }
}

#[test]
fn an_echo_with_every_event_in_its_order() {
    let mut pair = Setup::new().build();
    let (client, server) = pair.established();
    let stream = open(&mut pair, client, Direction::Bidirectional);
    let notify = SendOptions { notify: true, ..fin() };
    let sent = pair.client_conn(client).send(stream, Bytes::from_static(b"hello"), notify).unwrap();
    pair.drive(Duration::from_secs(1));
    assert!(
        of(&pair.server_events, server)
            .any(|e| matches!(e, Event::NewStream { stream: s, early: false } if *s == stream))
    );
    assert_eq!(on_stream(&pair.server_events, stream), [&StreamEvent::Readable]);
    let chunk = pair.server_conn(server).read(stream, 100).unwrap();
    assert_eq!(chunk, Chunk { data: Bytes::from_static(b"hello"), offset: 0, fin: true });
    assert_eq!(pair.server_conn(server).read(stream, 100), Err(StreamError::Closed));
    pair.server_conn(server).send(stream, Bytes::from_static(b"hello back"), fin()).unwrap();
    pair.drive(Duration::from_secs(1));
    let mut got = Vec::new();
    assert!(read_all(&mut pair.client_conn(client), stream, &mut got));
    assert_eq!(got, b"hello back");
    pair.drive(Duration::from_secs(1));
    assert_eq!(
        on_stream(&pair.client_events, stream),
        [
            &StreamEvent::SendComplete { id: sent, canceled: false },
            &StreamEvent::SendShutdownComplete { graceful: true },
            &StreamEvent::Readable,
            &StreamEvent::PeerSendShutdown,
            &StreamEvent::Closed
        ]
    );
    assert_eq!(
        on_stream(&pair.server_events, stream),
        [
            &StreamEvent::Readable,
            &StreamEvent::PeerSendShutdown,
            &StreamEvent::SendShutdownComplete { graceful: true },
            &StreamEvent::Closed
        ]
    );
}

#[test]
fn active_streams_come_as_events() {
    let mut pair = Setup::new().options(|o| o.active = ReadMode::Active).build();
    let (client, _) = pair.established();
    let stream = open(&mut pair, client, Direction::Unidirectional);
    let data = pattern(300_000);
    pair.client_conn(client).send(stream, Bytes::from(data.clone()), fin()).unwrap();
    pair.drive(Duration::from_secs(5));
    let mut got = Vec::new();
    let mut ended = false;
    for event in on_stream(&pair.server_events, stream) {
        if let StreamEvent::Data { data, offset, fin, .. } = event {
            assert_eq!(*offset, got.len() as u64);
            got.extend_from_slice(data);
            ended |= fin;
        }
    }
    assert!(ended && got == data);
    assert_eq!(on_stream(&pair.server_events, stream).last(), Some(&&StreamEvent::Closed));
}

#[test]
fn credit_is_counted_and_adds_up() {
    let mut pair = Setup::new().build();
    let (client, server) = pair.established();
    let stream = open(&mut pair, client, Direction::Unidirectional);
    let piece = Bytes::from_static(b"0123456789");
    let send = |pair: &mut Pair| {
        pair.client_conn(client).send(stream, piece.clone(), SendOptions::default()).unwrap();
        pair.drive(Duration::from_millis(100));
    };
    let data = |pair: &Pair| {
        on_stream(&pair.server_events, stream)
            .iter()
            .filter(|e| matches!(e, StreamEvent::Data { .. }))
            .count()
    };
    send(&mut pair);
    assert_eq!(pair.server_conn(server).read(stream, 100).unwrap().data, piece);
    pair.server_conn(server).set_active(stream, ReadMode::Count(1)).unwrap();
    pair.server_conn(server).set_active(stream, ReadMode::Count(2)).unwrap();
    for _ in 0..4 {
        send(&mut pair);
    }
    assert_eq!(data(&pair), 3, "1 + 2");
    assert_eq!(
        on_stream(&pair.server_events, stream)
            .iter()
            .filter(|e| ***e == StreamEvent::Passive)
            .count(),
        1
    );
    assert_eq!(pair.server_conn(server).read(stream, 100).unwrap().data, piece, "the fourth waits");
    pair.server_conn(server).set_active(stream, ReadMode::Once).unwrap();
    send(&mut pair);
    send(&mut pair);
    assert_eq!(data(&pair), 4);
    pair.server_conn(server).set_active(stream, ReadMode::Active).unwrap();
    pair.drive(Duration::from_millis(1));
    assert_eq!(data(&pair), 5);
    assert_eq!(pair.server_conn(server).read(stream, 1), Err(StreamError::Active));
    pair.server_conn(server).set_active(stream, ReadMode::Count(0)).unwrap();
    assert_eq!(pair.server_conn(server).read(stream, 1), Err(StreamError::Blocked));
}

#[test]
fn a_passive_reader_holds_the_sender_back() {
    let mut pair = Setup::new().options(|o| o.stream_recv_window = 65_536).build();
    let (client, server) = pair.established();
    let stream = open(&mut pair, client, Direction::Unidirectional);
    let data = pattern(500_000);
    let mut at = 0;
    for _ in 0..20 {
        while let Ok(n) = pair.client_conn(client).write(stream, &data[at..]) {
            at += n;
        }
        pair.drive(Duration::from_millis(200));
    }
    let stats = pair.server_conn(server).stats();
    assert!(
        stats.bytes_received < 150_000,
        "{} bytes came although nobody reads",
        stats.bytes_received
    );
    assert!(!on_stream(&pair.client_events, stream).contains(&&StreamEvent::Writable));
    let mut got = Vec::new();
    for _ in 0..100 {
        read_all(&mut pair.server_conn(server), stream, &mut got);
        while at < data.len()
            && let Ok(n) = pair.client_conn(client).write(stream, &data[at..])
        {
            at += n;
        }
        pair.drive(Duration::from_millis(50));
    }
    assert_eq!(at, data.len());
    assert!(got == data);
    assert!(on_stream(&pair.client_events, stream).contains(&&StreamEvent::Writable));
}

#[test]
fn reset_and_stop_carry_their_codes() {
    let mut pair = Setup::new().build();
    let (client, server) = pair.established();
    let stream = open(&mut pair, client, Direction::Bidirectional);
    pair.client_conn(client)
        .send(stream, Bytes::from_static(b"x"), SendOptions::default())
        .unwrap();
    pair.drive(Duration::from_millis(100));
    pair.client_conn(client).reset(stream, 7).unwrap();
    pair.server_conn(server).reset(stream, 8).unwrap();
    pair.drive(Duration::from_millis(100));
    assert_eq!(pair.server_conn(server).read(stream, 10), Err(StreamError::Reset(7)));
    assert_eq!(pair.client_conn(client).read(stream, 10), Err(StreamError::Reset(8)));
    pair.drive(Duration::from_millis(100));
    let events = on_stream(&pair.server_events, stream);
    assert!(
        events.ends_with(&[&StreamEvent::PeerSendAborted(7), &StreamEvent::Closed]),
        "{events:?}"
    );
    assert!(
        on_stream(&pair.client_events, stream)
            .contains(&&StreamEvent::SendShutdownComplete { graceful: false })
    );

    let stream = open(&mut pair, client, Direction::Unidirectional);
    pair.client_conn(client)
        .send(stream, Bytes::from_static(b"x"), SendOptions::default())
        .unwrap();
    pair.drive(Duration::from_millis(100));
    pair.server_conn(server).stop(stream, 9).unwrap();
    pair.drive(Duration::from_millis(100));
    let events = on_stream(&pair.client_events, stream);
    assert_eq!(
        events,
        [
            &StreamEvent::PeerReceiveAborted(9),
            &StreamEvent::SendShutdownComplete { graceful: false },
            &StreamEvent::Closed
        ]
    );
    let too_large = pair.client_conn(client).reset(stream, 1 << 62);
    assert_eq!(too_large, Err(StreamError::CodeTooLarge));
}

#[test]
fn a_rejected_stream_is_over_for_both() {
    let mut pair = Setup::new().build();
    let (client, server) = pair.established();
    let stream = open(&mut pair, client, Direction::Bidirectional);
    pair.client_conn(client)
        .send(stream, Bytes::from(pattern(10_000)), SendOptions::default())
        .unwrap();
    pair.drive(Duration::from_millis(50));
    pair.server_conn(server).reject_stream(stream, 5).unwrap();
    pair.drive(Duration::from_millis(200));
    assert!(on_stream(&pair.client_events, stream).contains(&&StreamEvent::PeerReceiveAborted(5)));
    assert_eq!(pair.client_conn(client).read(stream, 10), Err(StreamError::Reset(5)));
    assert_eq!(on_stream(&pair.server_events, stream).last(), Some(&&StreamEvent::Closed));
}

#[test]
fn streams_beyond_the_limit_wait_and_the_peer_hears_of_it() {
    let mut pair = Setup::new().server(|s| s.options.peer_bidi_stream_count = 2).build();
    let (client, server) = pair.established();
    assert_eq!(pair.client_conn(client).streams_available(Direction::Bidirectional), 2);
    let first = open(&mut pair, client, Direction::Bidirectional);
    open(&mut pair, client, Direction::Bidirectional);
    let fail = OpenFlags { fail_blocked: true, ..OpenFlags::default() };
    assert_eq!(
        pair.client_conn(client).open(Direction::Bidirectional, fail),
        Err(StreamError::LimitReached)
    );
    let accept = OpenFlags { indicate_peer_accept: true, ..OpenFlags::default() };
    let Opened::Waiting(request) =
        pair.client_conn(client).open(Direction::Bidirectional, accept).unwrap()
    else {
        panic!("over the limit")
    };
    pair.drive(Duration::from_millis(200));
    let needs = of(&pair.server_events, server)
        .filter(|e| matches!(e, Event::PeerNeedsStreams(Direction::Bidirectional)));
    assert_eq!(needs.count(), 1);
    assert!(first.initiator() == Side::Client && first.index() == 0);
    // The application's answer decides.
    pair.server_conn(server).set_peer_streams(Direction::Bidirectional, 10);
    pair.drive(Duration::from_millis(200));
    let started = of(&pair.client_events, client).find_map(|event| match event {
        Event::StreamStarted { request: of, stream } if *of == request => Some(*stream),
        _ => None,
    });
    let stream = started.unwrap().unwrap();
    assert_eq!(on_stream(&pair.client_events, stream), [&StreamEvent::PeerAccepted]);
    let available: Vec<_> = of(&pair.client_events, client)
        .filter_map(|event| match event {
            Event::StreamsAvailable { bidirectional, unidirectional } => {
                Some((*bidirectional, *unidirectional))
            }
            _ => None,
        })
        .collect();
    assert_eq!(available, [(2, 100), (7, 100)]);
}

#[test]
fn requests_that_never_start_hear_of_the_end() {
    let mut pair = Setup::new().server(|s| s.options.peer_unidi_stream_count = 0).build();
    let (client, _) = pair.established();
    let Opened::Waiting(request) =
        pair.client_conn(client).open(Direction::Unidirectional, OpenFlags::default()).unwrap()
    else {
        panic!("none allowed")
    };
    let now = pair.now;
    pair.client_conn(client).close(now, 0, Bytes::new());
    pair.drive(Duration::from_secs(1));
    assert!(of(&pair.client_events, client).any(
        |e| matches!(e, Event::StreamStarted { request: of, stream: None } if *of == request)
    ));
}

#[test]
fn an_immediate_start_announces_the_stream_without_data() {
    let mut pair = Setup::new().build();
    let (client, server) = pair.established();
    let flags = OpenFlags { immediate: true, start_event: true, ..OpenFlags::default() };
    let Opened::Stream(stream) =
        pair.client_conn(client).open(Direction::Bidirectional, flags).unwrap()
    else {
        panic!("allowed")
    };
    let silent = open(&mut pair, client, Direction::Bidirectional);
    pair.drive(Duration::from_millis(100));
    let new: Vec<_> = of(&pair.server_events, server)
        .filter_map(|e| match e {
            Event::NewStream { stream, .. } => Some(*stream),
            _ => None,
        })
        .collect();
    assert_eq!(new, [stream]);
    assert_ne!(stream, silent);
    assert_eq!(on_stream(&pair.client_events, stream), [&StreamEvent::Started]);
}

#[test]
fn a_stream_of_higher_priority_overtakes() {
    let mut pair = Setup::new().build();
    pair.links(|l| l.rate = Some((1_000_000, 100_000)));
    let (client, server) = pair.established();
    let low = open(&mut pair, client, Direction::Unidirectional);
    let high = open(&mut pair, client, Direction::Unidirectional);
    pair.client_conn(client).set_priority(low, 0).unwrap();
    pair.client_conn(client).set_priority(high, 65_535).unwrap();
    for stream in [low, high] {
        pair.client_conn(client).send(stream, Bytes::from(pattern(500_000)), fin()).unwrap();
    }
    let mut got = [Vec::new(), Vec::new()];
    let finished = pair.drive_until(Duration::from_secs(20), |pair| {
        for (at, stream) in [low, high].into_iter().enumerate() {
            read_all(&mut pair.server_conn(server), stream, &mut got[at]);
        }
        got[1].len() == 500_000
    });
    assert!(finished);
    assert!(got[0].len() < 100_000, "{} bytes of the low stream came first", got[0].len());
}

#[test]
fn streams_of_one_priority_share() {
    let mut pair = Setup::new().build();
    pair.links(|l| l.rate = Some((1_000_000, 100_000)));
    let (client, server) = pair.established();
    let streams: Vec<_> =
        (0..4).map(|_| open(&mut pair, client, Direction::Unidirectional)).collect();
    for &stream in &streams {
        pair.client_conn(client).send(stream, Bytes::from(pattern(200_000)), fin()).unwrap();
    }
    let mut got = vec![Vec::new(); 4];
    pair.drive_until(Duration::from_secs(20), |pair| {
        for (at, &stream) in streams.iter().enumerate() {
            read_all(&mut pair.server_conn(server), stream, &mut got[at]);
        }
        got.iter().any(|got| got.len() == 200_000)
    });
    for got in &got {
        assert!(got.len() > 150_000, "{:?}", got.len());
    }
}

#[test]
fn unordered_bytes_come_before_the_gap_is_filled() {
    let mut pair = Setup::new().build();
    let (client, server) = pair.established();
    pair.drive(Duration::from_millis(500));
    let stream = open(&mut pair, client, Direction::Unidirectional);
    // Announce it, then lose the next packet.
    pair.client_conn(client).write(stream, b"first").unwrap();
    pair.drive(Duration::from_millis(50));
    pair.server_conn(server).set_ordered(stream, false).unwrap();
    assert_eq!(pair.server_conn(server).set_ordered(stream, true), Err(StreamError::Unordered));
    pair.up.down = true;
    pair.client_conn(client).write(stream, b"second").unwrap();
    pair.work();
    pair.up.down = false;
    pair.client_conn(client).write(stream, b"third").unwrap();
    pair.drive(Duration::from_millis(12));
    let mut offsets = Vec::new();
    while let Ok(chunk) = pair.server_conn(server).read(stream, 100) {
        offsets.push((chunk.offset, chunk.data));
    }
    assert_eq!(offsets, [(0, Bytes::from_static(b"first")), (11, Bytes::from_static(b"third"))]);
    pair.drive(Duration::from_secs(1));
    let chunk = pair.server_conn(server).read(stream, 100).unwrap();
    assert_eq!((chunk.offset, chunk.data), (5, Bytes::from_static(b"second")));
}

#[test]
fn the_send_queue_has_a_bound() {
    let mut pair = Setup::new()
        .options(|o| {
            o.stream_send_queue = 10_000;
            o.stream_recv_window = 4_096;
        })
        .build();
    let (client, server) = pair.established();
    let stream = open(&mut pair, client, Direction::Unidirectional);
    let piece = Bytes::from(pattern(6_000));
    let mut taken = 0;
    let refused = loop {
        match pair.client_conn(client).send(stream, piece.clone(), SendOptions::default()) {
            Ok(_) => taken += 1,
            Err(error) => break error,
        }
        assert!(taken < 10_000);
    };
    assert_eq!(refused, StreamError::QueueFull);
    pair.drive(Duration::from_millis(100));
    let mut got = Vec::new();
    for _ in 0..20_000 {
        read_all(&mut pair.server_conn(server), stream, &mut got);
        pair.drive(Duration::from_millis(25));
        if got.len() == taken * 6_000 {
            break;
        }
    }
    assert_eq!(got.len(), taken * 6_000);
    assert!(on_stream(&pair.client_events, stream).contains(&&StreamEvent::Writable));
}

#[test]
fn whole_trains_leave_in_one_piece() {
    let mut pair = Setup::new().options(|o| o.pacing = false).build();
    let (client, server) = pair.established();
    let stream = open(&mut pair, client, Direction::Unidirectional);
    let data = pattern(4 << 20);
    let mut at = 0;
    let mut got = Vec::new();
    pair.drive_until(Duration::from_secs(20), |pair| {
        while at < data.len()
            && let Ok(n) = pair.client_conn(client).write(stream, &data[at..])
        {
            at += n;
        }
        read_all(&mut pair.server_conn(server), stream, &mut got);
        got.len() == data.len()
    });
    assert!(got == data);
    // 65,000 bytes of 1,472: trains are as long as the kernel takes them over IPv4.
    assert_eq!(pair.seen_up.longest_train, 44);
}

#[test]
fn what_nobody_has_read_is_given_out_before_the_peers_close_is_told() {
    for mode in [ReadMode::Passive, ReadMode::Once, ReadMode::Active] {
        let mut pair = Setup::new().server(|s| s.options.active = mode).build();
        let (client, server) = pair.established();
        let stream = open(&mut pair, client, Direction::Unidirectional);
        let unfinished = open(&mut pair, client, Direction::Unidirectional);
        let data = pattern(300_000);
        pair.client_conn(client).send(stream, Bytes::from(data.clone()), fin()).unwrap();
        let half = Bytes::from_static(b"half of it");
        pair.client_conn(client).send(unfinished, half, SendOptions::default()).unwrap();
        pair.drive(Duration::from_secs(1));
        let now = pair.now;
        pair.client_conn(client).close(now, 7, Bytes::new());
        pair.drive(Duration::from_secs(1));
        let bytes = |of: StreamId| -> Vec<u8> {
            let data = on_stream(&pair.server_events, of).into_iter().filter_map(|e| match e {
                StreamEvent::Data { data, .. } => Some(data.to_vec()),
                _ => None,
            });
            data.flatten().collect()
        };
        assert!(bytes(stream) == data, "{mode:?}");
        assert_eq!(bytes(unfinished), b"half of it");
        let place = |what: &dyn Fn(&Event) -> bool| {
            of(&pair.server_events, server).position(what).expect("the event")
        };
        let end = place(
            &|e| matches!(e, Event::Stream(s, StreamEvent::PeerSendShutdown) if *s == stream),
        );
        let told = place(&|e| matches!(e, Event::Shutdown { code: 7, .. }));
        assert!(end < told, "{mode:?}");
        let last = on_stream(&pair.server_events, unfinished);
        assert_eq!(last.last(), Some(&&StreamEvent::Closed));
        assert!(!last.contains(&&StreamEvent::PeerSendShutdown));
    }
}
