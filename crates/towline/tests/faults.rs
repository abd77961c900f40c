//! Sessions over wires that are cut, swallow, refuse and disappear.
#![allow(clippy::print_stdout, reason = "figures for those who look")]

mod common;

use std::time::{Duration, Instant};

use common::oracle::{exchange, finish, receive};
use common::proxy::{BlackHole, Cut, Nobody, Plan, Proxy, Way};
use common::{
    PATIENCE, Random, Recorder, Side, each_driver, eventually, everywhere, identified, in_time, ms,
    quick,
};
use towline::{
    ConnectError, Connection, Ended, Endpoint, Event, FlushError, Lane, Listener, Message,
    WireError,
};

/// A client and a server with a proxy between them.
struct Bench {
    // Before the proxy, so that they can still say goodbye.
    _contexts: [towline::Context; 2],
    proxy: Proxy,
    client: Connection,
    server: Connection,
    seen: Recorder,
    listener: Listener,
    endpoints: (Endpoint, Endpoint),
}

impl Bench {
    fn new(
        side: Side,
        config: &towline::Config,
        plan: impl FnMut(usize) -> Plan + Send + 'static,
    ) -> Bench {
        Bench::over("tcp", side, config, plan)
    }

    fn over(
        scheme: &str,
        side: Side,
        config: &towline::Config,
        plan: impl FnMut(usize) -> Plan + Send + 'static,
    ) -> Bench {
        let (client_context, client_endpoint) = side.endpoint(config);
        let (server_context, server_endpoint) = side.endpoint(config);
        let listener = server_endpoint.listen(format!("{scheme}://127.0.0.1:0")).unwrap();
        let proxy = Proxy::planned(&listener.url(), plan);
        let client = client_endpoint.connect_blocking(proxy.url(scheme)).unwrap();
        let server = listener.accept_blocking().unwrap();
        let seen = Recorder::default();
        watch(&client, &seen);
        Bench {
            proxy,
            client,
            server,
            seen,
            listener,
            endpoints: (client_endpoint, server_endpoint),
            _contexts: [client_context, server_context],
        }
    }
}

/// Records the events of a connection that pulls its messages.
fn watch(connection: &Connection, seen: &Recorder) {
    let mut events = connection.events();
    let (mut seen, connection) = (seen.clone(), connection.clone());
    std::thread::spawn(move || {
        while let Some(event) = events.next_blocking() {
            towline::Handler::event(&mut seen, &connection, event);
        }
    });
}

fn connected(event: &Event) -> bool {
    matches!(event, Event::Connected(_))
}

fn disconnected(event: &Event) -> bool {
    matches!(event, Event::Disconnected(_))
}

#[test]
fn a_cut_at_any_byte_of_the_first_frames_loses_and_repeats_nothing() {
    cut_everywhere("tcp");
}

#[test]
fn the_same_inside_and_behind_the_handshake_of_tls() {
    cut_everywhere("tls");
}

fn cut_everywhere(scheme: &str) {
    each_driver(|side| {
        let mut random = Random::from_env(1);
        let config = identified().build().unwrap();
        // Every wire but the last is cut at its own offset, so one connection lives through all of them.
        let offsets: Vec<usize> = match scheme {
            "tcp" => (0..48).chain((48..200).step_by(13)).collect(),
            _ => (0..6).chain((6..3000).step_by(97)).collect(),
        };
        for way in [Way::ToServer, Way::ToClient] {
            for how in [Cut::Fin, Cut::Reset] {
                let plans = offsets.clone();
                // The very first one is whole until there is a session to lose.
                let bench = Bench::over(scheme, side, &config, move |number| Plan {
                    cut: match number {
                        0 => Some((way, 6000, how)),
                        _ => plans.get(number - 1).map(|at| (way, *at, how)),
                    },
                    ..Plan::default()
                });
                exchange(&bench.client, &bench.server, &mut random, 30, 60_000);
                // Small talk until the last offset has been cut at.
                while bench.proxy.cuts() <= offsets.len() {
                    exchange(&bench.client, &bench.server, &mut random, 4, 1000);
                }
                assert!(bench.client.stats().resets == 0, "no session was forgotten");
                bench.client.close_blocking().unwrap();
                eventually("the server's end", || bench.server.ended().is_some());
            }
        }
    });
}

#[test]
fn a_first_wire_that_dies_in_its_greeting_is_dialed_again_or_reported() {
    cut_greetings("tcp");
}

#[test]
fn a_first_wire_that_dies_in_its_tls_handshake_is_reported() {
    cut_greetings("tls");
}

fn cut_greetings(scheme: &str) {
    each_driver(|side| {
        let config = identified().build().unwrap();
        for way in [Way::ToServer, Way::ToClient] {
            for at in (0..40).map(|at| if scheme == "tcp" { at } else { at * 67 }) {
                let (_client_context, client_endpoint) = side.endpoint(&config);
                let (_server_context, server_endpoint) = side.endpoint(&config);
                let listener = server_endpoint.listen(format!("{scheme}://127.0.0.1:0")).unwrap();
                let proxy = Proxy::planned(&listener.url(), move |_| Plan {
                    cut: Some((way, at, Cut::Fin)),
                    ..Plan::default()
                });
                let started = Instant::now();
                match client_endpoint.connect_blocking(proxy.url(scheme)) {
                    // The greeting fits.
                    Ok(connection) => connection.abort(),
                    Err(ConnectError::Wire {
                        error: WireError::End | WireError::Io(_) | WireError::Tls(_),
                        ..
                    }) => {}
                    Err(other) => panic!("cut at {at} {way:?}: {other}"),
                }
                assert!(started.elapsed() < PATIENCE);
            }
        }
    });
}

#[test]
fn random_cuts_while_both_sides_send_lose_and_repeat_nothing() {
    cut_at_random("tcp");
}

#[test]
fn random_cuts_under_tls_lose_and_repeat_nothing() {
    cut_at_random("tls");
}

#[test]
fn random_cuts_under_websocket_lose_and_repeat_nothing() {
    cut_at_random("ws");
    cut_at_random("wss");
}

fn cut_at_random(scheme: &str) {
    everywhere(|side| {
        let mut random = Random::from_env(2);
        let config = identified().build().unwrap();
        let mut planner = Random(random.next());
        let bench = Bench::over(scheme, side, &config, move |_| {
            let way = if planner.below(2) == 0 { Way::ToServer } else { Way::ToClient };
            let how = if planner.below(2) == 0 { Cut::Fin } else { Cut::Reset };
            Plan { cut: Some((way, 200 + planner.below(1 << 20) as usize, how)), ..Plan::default() }
        });
        exchange(&bench.client, &bench.server, &mut random, 250, 3 << 20);
        let stats = bench.client.stats();
        println!("{} wires, {} cuts, {stats:?}", bench.proxy.accepted(), bench.proxy.cuts());
        assert!(bench.proxy.cuts() > 5, "the wires were cut");
        assert_eq!(stats.resets, 0);
        bench.client.close_blocking().unwrap();
    });
}

#[test]
fn a_session_comes_back_to_its_thread_over_another_thread_and_another_listener() {
    move_between_threads("tcp");
}

#[test]
fn a_session_under_tls_comes_back_to_its_thread_over_another_thread() {
    move_between_threads("tls");
}

#[test]
fn a_session_over_websocket_comes_back_to_its_thread_over_another_thread() {
    move_between_threads("ws");
    move_between_threads("wss");
}

fn move_between_threads(scheme: &str) {
    for driver in [towline::DriverChoice::Epoll, towline::DriverChoice::IoUring] {
        let side = Side { driver, threads: 4 };
        let mut random = Random::from_env(3);
        let config = identified().build().unwrap();
        let bench = Bench::over(scheme, side, &config, |_| Plan::default());
        let second = bench.endpoints.1.listen(format!("{scheme}://127.0.0.1:0")).unwrap();
        // Each round parks idle connections on the server, so that the next wire is accepted by the thread with the
        // fewest of them, which changes.
        let mut parked = Vec::new();
        for round in 0..8 {
            exchange(&bench.client, &bench.server, &mut random, 40, 200_000);
            let target = if round % 2 == 0 { &second } else { &bench.listener };
            bench.proxy.retarget(&target.url());
            for _ in 0..=round % 3 {
                parked.push(bench.endpoints.0.connect_blocking(bench.listener.url()).unwrap());
            }
            assert_eq!(bench.proxy.cut(Cut::Reset), 1);
            bench.seen.wait_for("the connection back", round + 1, connected);
            let remote = bench.client.peer_address().unwrap();
            assert!(bench.client.is_connected(), "{remote}");
        }
        exchange(&bench.client, &bench.server, &mut random, 40, 200_000);
        let stats = bench.client.stats();
        assert_eq!((stats.resets, stats.wires_lost), (0, 8));
        assert_eq!(
            bench.listener.connections(),
            1 + parked.len(),
            "the session stayed one connection"
        );
        assert_eq!(second.connections(), 0);
    }
}

#[test]
fn a_restarted_server_gives_back_exactly_what_was_not_acknowledged() {
    each_driver(|side| {
        let config = quick().close_timeout(Duration::ZERO).build().unwrap();
        let (client_context, client_endpoint) = side.endpoint(&config);
        let (server_context, server_endpoint) = side.endpoint(&config);
        let listener = server_endpoint.listen("tcp://127.0.0.1:0").unwrap();
        let url = listener.url();
        // The proxy keeps the server's goodbye from the client: it is to look like a crash.
        let mut proxy = Proxy::new(&url);
        let client = client_endpoint.connect_blocking(proxy.url("tcp")).unwrap();
        let server = listener.accept_blocking().unwrap();
        let seen = Recorder::default();
        watch(&client, &seen);
        for i in 0..10u8 {
            client.send_blocking(vec![i]).unwrap();
        }
        client.flush_blocking().unwrap();
        proxy.cut(Cut::Swallow);
        let lost: Vec<_> = (10..30u8)
            .map(|i| (client.send_blocking(Message::new(vec![i]).on(lane(i))).unwrap(), i))
            .collect();
        proxy.outage();
        drop((server, listener));
        drop(server_context);
        proxy.cut(Cut::Reset);
        seen.wait_for("the loss", 1, disconnected);

        let (_server_context, server_endpoint) = side.endpoint(&config);
        let listener = server_endpoint.listen(url).unwrap();
        proxy.open();
        let server = listener.accept_blocking().unwrap();
        let reset = seen.wait_for("the reset", 1, |event| matches!(event, Event::Reset(_)));
        let Event::Reset(back) = reset else { unreachable!() };
        let mut back: Vec<_> = back.iter().map(|m| (m.id.unwrap(), m.data[0], m.lane)).collect();
        let expected = |wanted: Lane| lost.iter().filter(move |(_, i)| lane(*i) == wanted);
        for lane in Lane::ALL {
            let back: Vec<_> = back.iter().filter(|m| m.2 == lane).map(|m| (m.0, m.1)).collect();
            assert_eq!(back, expected(lane).copied().collect::<Vec<_>>(), "{lane:?}");
        }
        back.sort();
        assert_eq!(back.len(), lost.len());
        // And it goes on as new.
        client.send_blocking("again").unwrap();
        assert_eq!(server.recv_blocking().unwrap().data, "again");
        server.send_blocking("hello").unwrap();
        assert_eq!(client.recv_blocking().unwrap().data, "hello");
        client.flush_blocking().unwrap();
        assert_eq!(client.stats().resets, 1);
        assert!(client.ended().is_none());
        client.close_blocking().unwrap();
        drop(client_context);
    });
}

fn lane(i: u8) -> Lane {
    Lane::ALL[usize::from(i) % 4]
}

#[test]
fn a_flush_and_a_request_that_wait_are_told_of_a_reset() {
    each_driver(|side| {
        let config = quick().close_timeout(Duration::ZERO).build().unwrap();
        let (_client_context, client_endpoint) = side.endpoint(&config);
        let (server_context, server_endpoint) = side.endpoint(&config);
        let listener = server_endpoint.listen("tcp://127.0.0.1:0").unwrap();
        let url = listener.url();
        let mut proxy = Proxy::new(&url);
        let client = client_endpoint.connect_blocking(proxy.url("tcp")).unwrap();
        proxy.cut(Cut::Swallow);
        let asking = client.clone();
        let request = std::thread::spawn(move || asking.request_blocking("?", PATIENCE));
        eventually("the request to be sent", || client.stats().unacknowledged == 1);
        let flushing = client.clone();
        let flush = std::thread::spawn(move || flushing.flush_blocking());
        proxy.outage();
        drop((listener, server_context));
        proxy.cut(Cut::Fin);
        let (_server_context, server_endpoint) = side.endpoint(&config);
        let _listener = server_endpoint.listen(url).unwrap();
        proxy.open();
        assert!(matches!(request.join().unwrap(), Err(towline::RequestError::Reset)));
        match flush.join().unwrap() {
            Err(FlushError::Reset { unacknowledged: 1 }) => {}
            // It began after the reset.
            Ok(()) => assert_eq!(client.stats().resets, 1),
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn when_the_window_is_over_both_sides_get_back_exactly_what_was_not_acknowledged() {
    everywhere(|side| {
        let config = quick().redial_window(ms(400)).connect_timeout(ms(200)).build().unwrap();
        let mut bench = Bench::new(side, &config, |_| Plan::default());
        let server_seen = Recorder::default();
        watch(&bench.server, &server_seen);
        for i in 0..5u8 {
            bench.client.send_blocking(vec![i]).unwrap();
            bench.server.send_blocking(vec![i]).unwrap();
        }
        bench.client.flush_blocking().unwrap();
        bench.server.flush_blocking().unwrap();
        bench.proxy.outage();
        bench.proxy.cut(Cut::Reset);
        bench.seen.wait_for("the loss", 1, disconnected);
        server_seen.wait_for("the loss", 1, disconnected);
        let mut expected = Vec::new();
        for connection in [&bench.client, &bench.server] {
            let sent: Vec<_> = (0..200u32)
                .map(|i| {
                    let data = vec![i as u8; if i % 50 == 0 { 100_000 } else { i as usize }];
                    let id = connection.send_blocking(data.clone()).unwrap();
                    (id, data)
                })
                .collect();
            expected.push(sent);
        }
        for ((connection, seen), expected) in
            [(&bench.client, &bench.seen), (&bench.server, &server_seen)].into_iter().zip(expected)
        {
            let closed = seen.closed();
            assert!(matches!(closed.ended, Ended::Lost(_)), "{:?}", closed.ended);
            let back: Vec<_> = closed
                .unacknowledged
                .into_iter()
                .map(|message| (message.id.unwrap(), message.data.to_vec()))
                .collect();
            assert!(back == expected, "ids, order and data of what comes back");
            let names = seen.names();
            assert_eq!(names.iter().filter(|name| **name == "gave up").count(), 1, "{names:?}");
            assert_eq!(names[names.len() - 2..], ["gave up", "closed"]);
            let flush = connection.flush_blocking();
            assert!(
                matches!(flush, Err(FlushError::Ended { unacknowledged: 200, .. })),
                "{flush:?}"
            );
        }
    });
}

#[test]
fn a_half_open_wire_is_noticed_by_silence_and_replaced() {
    half_open("tcp");
}

#[test]
fn a_half_open_wire_under_tls_is_noticed_by_silence_and_replaced() {
    half_open("tls");
}

fn half_open(scheme: &str) {
    everywhere(|side| {
        let config = identified().keep_alive(ms(150)).silence_limit(ms(400)).build().unwrap();
        let bench = Bench::over(scheme, side, &config, |_| Plan::default());
        let server_seen = Recorder::default();
        watch(&bench.server, &server_seen);
        bench.proxy.cut(Cut::Swallow);
        bench.client.send_blocking("into the void").unwrap();
        bench.server.send_blocking("likewise").unwrap();
        let lost = bench.seen.wait_for("the client's notice", 1, disconnected);
        assert!(matches!(lost, Event::Disconnected(WireError::Silent(_))), "{lost:?}");
        bench.seen.wait_for("the connection back", 1, connected);
        assert_eq!(bench.server.recv_blocking().unwrap().data, "into the void");
        assert_eq!(bench.client.recv_blocking().unwrap().data, "likewise");
        let lost = server_seen.wait_for("the server's notice", 1, disconnected);
        let noticed = Event::Disconnected(WireError::Replaced);
        assert!(
            matches!(&lost, Event::Disconnected(WireError::Silent(_) | WireError::Replaced)),
            "{lost:?} instead of {noticed:?}"
        );
    });
}

#[test]
fn an_idle_connection_stays_by_its_keep_alive() {
    each_driver(|side| {
        let config = quick().keep_alive(ms(100)).silence_limit(ms(300)).build().unwrap();
        let bench = Bench::new(side, &config, |_| Plan::default());
        eventually("round trips by keep-alive alone", || {
            bench.client.stats().bytes_received > 130 && bench.client.stats().round_trip.is_some()
        });
        assert_eq!(bench.client.stats().wires_lost, 0);
        assert_eq!(bench.proxy.accepted(), 1);
    });
}

#[test]
fn the_first_address_that_answers_is_taken_and_a_dead_one_costs_its_head_start() {
    each_driver(|side| {
        let config = quick().head_start(ms(150)).build().unwrap();
        let (_context, endpoint) = side.endpoint(&config);
        let listener = endpoint.listen("tcp://127.0.0.1:0").unwrap();
        let (nobody, hole) = (Nobody::new(), BlackHole::new());

        let begun = Instant::now();
        let urls = [nobody.url("tcp"), listener.url().to_string()];
        let connection = endpoint.connect_blocking(urls).unwrap();
        assert!(
            begun.elapsed() < ms(140),
            "a refusal brings the next at once: {:?}",
            begun.elapsed()
        );
        assert_eq!(connection.peer_address(), Some(listener.local_address()));

        let begun = Instant::now();
        let urls = format!("{},{}", hole.url("tcp"), listener.url());
        let connection = endpoint.connect_blocking(urls).unwrap();
        let took = begun.elapsed();
        assert!(took >= ms(140) && took < ms(2500), "one head start: {took:?}");
        assert_eq!(connection.peer_address(), Some(listener.local_address()));
        connection.close_blocking().unwrap();
    });
}

#[test]
fn a_session_moves_to_another_address_when_its_own_dies() {
    each_driver(|side| {
        let mut random = Random::from_env(4);
        let config = quick().head_start(ms(50)).build().unwrap();
        let (_client_context, client_endpoint) = side.endpoint(&config);
        let (_server_context, server_endpoint) = side.endpoint(&config);
        let listener = server_endpoint.listen("tcp://127.0.0.1:0").unwrap();
        let (mut first, second) = (Proxy::new(&listener.url()), Proxy::new(&listener.url()));
        let client =
            client_endpoint.connect_blocking([first.url("tcp"), second.url("tcp")]).unwrap();
        let server = listener.accept_blocking().unwrap();
        exchange(&client, &server, &mut random, 50, 100_000);
        assert_eq!((first.accepted(), second.accepted()), (1, 0));
        first.outage();
        first.cut(Cut::Reset);
        exchange(&client, &server, &mut random, 50, 100_000);
        assert_eq!(second.accepted(), 1);
        assert_eq!(client.stats().resets, 0);
        client.close_blocking().unwrap();
    });
}

#[test]
fn a_connection_that_cannot_be_made_says_why() {
    each_driver(|side| {
        let config = quick().connect_timeout(ms(300)).build().unwrap();
        let (_context, endpoint) = side.endpoint(&config);
        let nobody = Nobody::new();
        let error = endpoint.connect_blocking(nobody.url("tcp")).unwrap_err();
        let text = error.to_string();
        assert!(
            matches!(&error, ConnectError::Wire { error: WireError::Io(io), .. } if io.kind() == std::io::ErrorKind::ConnectionRefused),
            "{error:?}"
        );
        assert!(text.contains(&nobody.url("tcp")) && text.contains("refused"), "{text}");

        let hole = BlackHole::new();
        let begun = Instant::now();
        let error = endpoint.connect_blocking(hole.url("tcp")).unwrap_err();
        assert!(
            matches!(&error, ConnectError::Wire { error: WireError::TimedOut(after), .. } if *after == ms(300)),
            "{error:?}"
        );
        assert!((ms(290)..ms(2500)).contains(&begun.elapsed()), "{:?}", begun.elapsed());
        let text = error.to_string();
        assert!(text.contains(&hole.url("tcp")) && text.contains("300ms"), "{text}");

        let error = endpoint.connect_blocking("tcp://no-such-host.invalid:7000").unwrap_err();
        assert!(
            matches!(
                &error,
                ConnectError::Wire {
                    error: WireError::Resolve { .. } | WireError::TimedOut(_),
                    ..
                }
            ),
            "{error:?}"
        );
        assert!(error.to_string().contains("no-such-host.invalid"), "{error}");

        // All of a list: the last word counts.
        let urls = [nobody.url("tcp"), Nobody::new().url("tcp")];
        assert!(matches!(
            endpoint.connect_blocking(urls),
            Err(ConnectError::Wire { error: WireError::Io(_), .. })
        ));
        assert!(matches!(
            endpoint.connect_blocking("tcp://127.0.0.1:1,ftcp://127.0.0.1:1"),
            Err(ConnectError::MixedWires)
        ));
        assert!(matches!(endpoint.connect_blocking("smtp://h:1"), Err(ConnectError::Address(_))));
    });
}

#[test]
fn a_listener_that_takes_the_connection_and_says_nothing_times_out() {
    each_driver(|side| {
        let config = quick().connect_timeout(ms(300)).build().unwrap();
        let (_context, endpoint) = side.endpoint(&config);
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("tcp://{}", silent.local_addr().unwrap());
        let begun = Instant::now();
        let error = endpoint.connect_blocking(&url).unwrap_err();
        assert!(
            matches!(&error, ConnectError::Wire { error: WireError::TimedOut(_), .. }),
            "{error:?}"
        );
        assert!((ms(290)..ms(2500)).contains(&begun.elapsed()), "{:?}", begun.elapsed());
        assert!(error.to_string().contains(&url), "{error}");
    });
}

#[test]
fn a_server_that_is_another_program_is_named_as_that() {
    each_driver(|side| {
        let config = quick().connect_timeout(ms(2000)).build().unwrap();
        let (_context, endpoint) = side.endpoint(&config);
        let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("tcp://{}", other.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            use std::io::{Read, Write};
            let (mut stream, _) = other.accept().unwrap();
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).ok();
        });
        let error = in_time("connect", PATIENCE, move || {
            let error = endpoint.connect_blocking(&url).unwrap_err();
            drop(endpoint);
            error
        });
        assert!(
            matches!(&error, ConnectError::Wire { error: WireError::Protocol(_), .. }),
            "{error:?}"
        );
        server.join().unwrap();
    });
}

#[test]
fn a_wire_without_redial_ends_with_its_loss() {
    each_driver(|side| {
        let config = quick().redial(false).build().unwrap();
        let bench = Bench::new(side, &config, |_| Plan::default());
        bench.proxy.cut(Cut::Swallow);
        bench.client.send_blocking("lost").unwrap();
        eventually("it to be sent", || bench.client.stats().unacknowledged == 1);
        bench.proxy.cut(Cut::Reset);
        let closed = bench.seen.closed();
        assert!(matches!(closed.ended, Ended::Lost(_)));
        assert_eq!(closed.unacknowledged.len(), 1);
        assert_eq!(bench.seen.names(), ["disconnected", "closed"]);
    });
}

#[test]
fn messages_wait_through_an_outage_and_arrive_after_it() {
    everywhere(|side| {
        let config = quick().build().unwrap();
        let mut bench = Bench::new(side, &config, |_| Plan::default());
        bench.proxy.outage();
        bench.proxy.cut(Cut::Fin);
        bench.seen.wait_for("the loss", 1, disconnected);
        let receiving = bench.server.clone();
        let receiver = std::thread::spawn(move || receive(&receiving));
        let mut random = Random::from_env(5);
        let log = common::oracle::send(&bench.client, Random(random.next()), 300_000, |n| n < 300);
        bench.seen.wait_for("attempts in vain", 3, |event| matches!(event, Event::Redialing(_)));
        bench.proxy.open();
        finish(&bench.client);
        log.assert_same(&receiver.join().unwrap(), "through the outage");
        let attempts: Vec<u32> = bench
            .seen
            .events()
            .iter()
            .filter_map(|event| match event {
                Event::Redialing(redialing) => Some(redialing.attempt),
                _ => None,
            })
            .collect();
        let counted: Vec<u32> = (1..=attempts.len() as u32).collect();
        assert_eq!(attempts, counted, "attempts are counted from 1");
        let names = bench.seen.names();
        assert_eq!(names.first(), Some(&"disconnected"));
        assert_eq!(names.last(), Some(&"connected"));
    });
}
