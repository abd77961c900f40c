//! Tickets, the application's data in them, 0-RTT.

use std::time::Duration;

use bytes::Bytes;
use towline_proto::quic::*;

use crate::pair::*;

fn setup(level: Resumption) -> Setup {
    Setup::new().server(|s| s.options.server_resumption_level = level)
}

fn with_data() -> Decision {
    let data = Some(Bytes::from_static(b"the application's data"));
    Decision::AcceptWith(Acceptance { ticket_data: data, ..Acceptance::default() })
}

fn resumed(events: &[(ConnectionId, Event)], id: ConnectionId) -> (bool, EarlyData) {
    of(events, id)
        .find_map(|event| match event {
            Event::Connected { is_resumed, early_data, .. } => Some((*is_resumed, *early_data)),
            _ => None,
        })
        .expect("connected")
}

/// A first connection that leaves a ticket in the client's cache.
fn first(pair: &mut Pair) {
    pair.decide = Box::new(|_| Some(with_data()));
    let (client, _) = pair.established();
    pair.drive(Duration::from_millis(200));
    let now = pair.now;
    pair.client_conn(client).close(now, 0, Bytes::new());
    pair.drive(Duration::from_secs(2));
}

#[test]
fn without_the_option_nothing_is_resumed() {
    let mut pair = setup(Resumption::None).build();
    first(&mut pair);
    let (client, _) = pair.established();
    assert_eq!(resumed(&pair.client_events, client), (false, EarlyData::None));
}

fn resumes_with_data(stateless: bool) {
    let mut pair = setup(Resumption::Resume).server(|s| s.stateless_tickets = stateless).build();
    first(&mut pair);
    let (client, server) = pair.established();
    assert_eq!(resumed(&pair.client_events, client), (true, EarlyData::None));
    assert_eq!(resumed(&pair.server_events, server), (true, EarlyData::None));
    let data = Some(Bytes::from_static(b"the application's data"));
    assert_eq!(pair.incoming[1].resumption, data, "the gate sees it");
    let events: Vec<_> = of(&pair.server_events, server).collect();
    let at = events.iter().position(|e| matches!(e, Event::Resumed { .. })).expect("resumed");
    assert!(matches!(events[at], Event::Resumed { data: d } if Some(d) == data.as_ref()));
    assert!(matches!(events[at + 1], Event::Connected { .. }), "before connected: {events:?}");
}

#[test]
fn stateful_tickets_resume_with_the_applications_data() {
    resumes_with_data(false);
}

#[test]
fn stateless_tickets_resume_with_the_applications_data() {
    resumes_with_data(true);
}

#[test]
fn stateless_tickets_work_on_another_server_with_the_secret_and_not_without() {
    for same_secret in [true, false] {
        let mut pair = setup(Resumption::Resume).server(|s| s.stateless_tickets = true).build();
        first(&mut pair);
        let mut settings = server_settings();
        settings.options.server_resumption_level = Resumption::Resume;
        settings.stateless_tickets = true;
        let mut config = pair.server.config().clone();
        config.secret = if same_secret { config.secret } else { [99; 32] };
        let server = ServerConfig::new(settings).unwrap();
        pair.server = Endpoint::new(config, Some(server), [3; 32], pair.now, wall()).unwrap();
        let (client, _) = pair.established();
        assert_eq!(resumed(&pair.client_events, client).0, same_secret);
    }
}

#[test]
fn the_application_can_refuse_a_ticket() {
    for stateless in [false, true] {
        let mut pair =
            setup(Resumption::Resume).server(|s| s.stateless_tickets = stateless).build();
        first(&mut pair);
        pair.decide = Box::new(|incoming| {
            let reject_resumption = incoming.resumption.is_some();
            Some(Decision::AcceptWith(Acceptance { reject_resumption, ..Acceptance::default() }))
        });
        let (client, server) = pair.established();
        assert!(pair.incoming[1].resumption.is_some());
        assert!(!resumed(&pair.client_events, client).0);
        assert!(!of(&pair.server_events, server).any(|e| matches!(e, Event::Resumed { .. })));
    }
}

#[test]
fn a_ticket_can_be_kept_and_given_and_serves_once() {
    let mut pair = setup(Resumption::Resume).client(|c| c.options.nst_events = true).build();
    let (client, _) = pair.established();
    pair.drive(Duration::from_millis(200));
    let ticket = of(&pair.client_events, client)
        .find_map(|event| match event {
            Event::NewSessionTicket(ticket) => Some(ticket.clone()),
            _ => None,
        })
        .expect("a ticket");
    assert_eq!((ticket.server_name().as_str(), ticket.allows_early_data()), (NAME, false));
    let config = pair.client_config.clone();
    for expected in [true, false] {
        let params = ConnectParams { nst: Some(ticket.clone()), ..ConnectParams::default() };
        let client = pair.connect_with(&config, params);
        let (client, _) = pair.establish(client);
        assert_eq!(resumed(&pair.client_events, client).0, expected);
    }
    // Without one the cache is asked, which gets none while they are reported.
    let (client, _) = pair.established();
    assert!(!resumed(&pair.client_events, client).0);
}

#[test]
fn early_data_arrives_with_the_first_flight() {
    let mut pair = setup(Resumption::ResumeAndEarlyData).build();
    first(&mut pair);
    let start = pair.now;
    let client = pair.connect();
    assert!(pair.client_conn(client).early_data_available());
    let Opened::Stream(stream) =
        pair.client_conn(client).open(Direction::Bidirectional, OpenFlags::default()).unwrap()
    else {
        panic!("the remembered limits allow it")
    };
    let early = SendOptions { fin: true, allow_early: true, ..SendOptions::default() };
    pair.client_conn(client).send(stream, Bytes::from_static(b"early"), early).unwrap();
    let datagram = DatagramOptions { allow_early: true, ..DatagramOptions::default() };
    pair.client_conn(client).send_datagram(Bytes::from_static(b"early, too"), datagram).unwrap();
    let arrived = pair.drive_until(Duration::from_millis(11), |pair| {
        pair.server_events.iter().any(|(_, e)| matches!(e, Event::Datagram { early: true, .. }))
    });
    assert!(arrived && pair.now - start == Duration::from_millis(10), "half a round trip");
    let server = pair.server_events.last().unwrap().0;
    assert!(
        of(&pair.server_events, server).any(|e| matches!(e, Event::NewStream { early: true, .. }))
    );
    assert_eq!(pair.server_conn(server).early_length(stream), 5);
    let mut got = Vec::new();
    assert!(read_all(&mut pair.server_conn(server), stream, &mut got));
    assert_eq!(got, b"early");
    pair.establish(client);
    assert_eq!(resumed(&pair.client_events, client), (true, EarlyData::Accepted));
    assert_eq!(resumed(&pair.server_events, server), (true, EarlyData::Accepted));
}

#[test]
fn what_is_not_allowed_early_waits_for_the_handshake() {
    let mut pair = setup(Resumption::ResumeAndEarlyData).build();
    first(&mut pair);
    let start = pair.now;
    let client = pair.connect();
    let Opened::Stream(stream) =
        pair.client_conn(client).open(Direction::Bidirectional, OpenFlags::default()).unwrap()
    else {
        panic!("allowed")
    };
    assert_eq!(pair.client_conn(client).write(stream, b"x"), Err(StreamError::Blocked));
    pair.client_conn(client)
        .send(stream, Bytes::from_static(b"late"), SendOptions::default())
        .unwrap();
    pair.client_conn(client)
        .send_datagram(Bytes::from_static(b"late"), DatagramOptions::default())
        .unwrap();
    pair.drive_until(Duration::from_secs(1), |pair| {
        pair.server_events.iter().any(|(_, e)| matches!(e, Event::Datagram { .. }))
    });
    assert_eq!(pair.now - start, Duration::from_millis(30), "one and a half round trips");
    assert!(
        pair.server_events.iter().any(|(_, e)| matches!(e, Event::NewStream { early: false, .. }))
    );
    assert!(
        !pair.server_events.iter().any(|(_, e)| matches!(e, Event::Datagram { early: true, .. }))
    );
}

#[test]
fn rejected_early_data_closes_its_streams() {
    let mut pair = setup(Resumption::ResumeAndEarlyData).build();
    first(&mut pair);
    pair.decide = Box::new(|_| {
        Some(Decision::AcceptWith(Acceptance { reject_resumption: true, ..Acceptance::default() }))
    });
    let client = pair.connect();
    let Opened::Stream(stream) =
        pair.client_conn(client).open(Direction::Bidirectional, OpenFlags::default()).unwrap()
    else {
        panic!("allowed")
    };
    let early = SendOptions { allow_early: true, ..SendOptions::default() };
    pair.client_conn(client).send(stream, Bytes::from_static(b"early"), early).unwrap();
    let (client, server) = pair.establish(client);
    assert_eq!(resumed(&pair.client_events, client), (false, EarlyData::Rejected));
    let events: Vec<_> = of(&pair.client_events, client).collect();
    let closed = events
        .iter()
        .position(|e| matches!(e, Event::Stream(s, StreamEvent::Closed) if *s == stream));
    let connected = events.iter().position(|e| matches!(e, Event::Connected { .. }));
    assert!(closed.is_some() && closed < connected, "{events:?}");
    assert!(!of(&pair.server_events, server).any(|e| matches!(e, Event::NewStream { .. })));
    // The same identifier serves again, and the count of streams is right.
    assert_eq!(pair.client_conn(client).streams_available(Direction::Bidirectional), 100);
    let again =
        pair.client_conn(client).open(Direction::Bidirectional, OpenFlags::default()).unwrap();
    assert_eq!(again, Opened::Stream(stream));
    pair.client_conn(client)
        .send(stream, Bytes::from_static(b"again"), SendOptions::default())
        .unwrap();
    pair.drive(Duration::from_millis(100));
    assert!(
        of(&pair.server_events, server).any(|e| matches!(e, Event::NewStream { early: false, .. }))
    );
}

#[test]
fn replayed_early_data_is_not_taken_twice() {
    let mut pair = setup(Resumption::ResumeAndEarlyData).build();
    first(&mut pair);
    pair.capture = Some(Vec::new());
    let client = pair.connect();
    let Opened::Stream(stream) =
        pair.client_conn(client).open(Direction::Unidirectional, OpenFlags::default()).unwrap()
    else {
        panic!("allowed")
    };
    let early = SendOptions { fin: true, allow_early: true, ..SendOptions::default() };
    pair.client_conn(client).send(stream, Bytes::from_static(b"pay once"), early).unwrap();
    pair.work();
    let flight: Vec<_> = pair
        .capture
        .take()
        .unwrap()
        .into_iter()
        .filter(|(up, _)| *up)
        .map(|(_, data)| data)
        .collect();
    pair.establish(client);
    let streams = |pair: &Pair| {
        pair.server_events.iter().filter(|(_, e)| matches!(e, Event::NewStream { .. })).count()
    };
    assert_eq!(streams(&pair), 1);
    let now = pair.now;
    pair.client_conn(client).close(now, 0, Bytes::new());
    pair.drive(Duration::from_secs(5));
    for datagram in &flight {
        pair.inject(true, Path { remote: client_address(), local: server_address() }, datagram);
    }
    let accepted = pair.server.stats().accepted;
    pair.drive(Duration::from_secs(1));
    assert_eq!(pair.server.stats().accepted, accepted + 1, "the replay gets a handshake");
    assert_eq!(streams(&pair), 1, "but its early data is not read");
}

#[test]
fn stateless_tickets_and_early_data_exclude_each_other() {
    let mut settings = server_settings();
    settings.stateless_tickets = true;
    settings.options.server_resumption_level = Resumption::ResumeAndEarlyData;
    assert!(matches!(
        ServerConfig::new(settings).unwrap_err(),
        ConfigError::Conflict { option: "stateless_tickets", other: "server_resumption_level", .. }
    ));
}
