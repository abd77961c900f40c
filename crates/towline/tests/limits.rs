//! Limits of listeners, hostile peers, events, and what is left when everything has ended.

#![allow(
    clippy::print_stdout,
    clippy::field_reassign_with_default,
    reason = "tests print what repeats them"
)]

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use common::proxy::{Cut, Proxy};
use common::{
    PATIENCE, Random, Recorder, block_on, each_driver, eventually, everywhere, ms, quick,
};
use towline::{Config, ConfigError, ConnectError, Context, Event, Message};

/// Reads until the peer closes; true if it did within patience.
fn closes(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => true,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    }
}

#[test]
fn connections_beyond_the_limit_are_turned_away_until_one_has_ended() {
    each_driver(|side| {
        let (_context, endpoint) = side.endpoint(&quick().max_connections(3).build().unwrap());
        let listener = endpoint.listen("tcp://127.0.0.1:0").unwrap();
        let mut clients: Vec<_> =
            (0..3).map(|_| endpoint.connect_blocking(listener.url()).unwrap()).collect();
        let error = endpoint.connect_blocking(listener.url()).unwrap_err();
        match &error {
            ConnectError::Rejected { code: 8, reason, .. } => {
                assert!(reason.contains("as many connections"), "{reason}");
                assert!(error.can_retry());
            }
            other => panic!("{other:?}"),
        }
        clients.pop().unwrap().close_blocking().unwrap();
        eventually("a free place", || listener.connections() == 2);
        endpoint.connect_blocking(listener.url()).unwrap();
    });
}

#[test]
fn peers_that_connect_and_say_nothing_time_out_and_others_get_in() {
    everywhere(|side| {
        let config = quick().max_handshakes(4).connect_timeout(ms(400)).build().unwrap();
        let (_context, endpoint) = side.endpoint(&config);
        let listener = endpoint.listen("tcp://127.0.0.1:0").unwrap();
        let (_client_context, patient) = side.endpoint(&quick().build().unwrap());
        let mut silent: Vec<_> =
            (0..40).map(|_| TcpStream::connect(listener.local_address()).unwrap()).collect();
        for _ in 0..3 {
            patient.connect_blocking(listener.url()).unwrap();
        }
        for stream in &mut silent {
            assert!(closes(stream), "a silent peer was kept");
        }
        // Nothing has leaked: as many again, and still others get in.
        drop(silent);
        let _more: Vec<_> =
            (0..8).map(|_| TcpStream::connect(listener.local_address()).unwrap()).collect();
        patient.connect_blocking(listener.url()).unwrap();
    });
}

#[test]
fn connections_that_nobody_accepts_are_bounded() {
    each_driver(|side| {
        let config = quick().max_unaccepted(4).max_handshakes(8).build().unwrap();
        let (_context, endpoint) = side.endpoint(&config);
        let listener = endpoint.listen("tcp://127.0.0.1:0").unwrap();
        let (_client_context, client_endpoint) = side.endpoint(&quick().build().unwrap());
        let connecting: Vec<_> =
            (0..300).map(|_| client_endpoint.connect(listener.url())).collect();
        // Some are in, the rest wait in the kernel, and all get in once somebody accepts.
        let mut accepted = Vec::new();
        while accepted.len() < 300 {
            // What a burst brings on top: those in their handshakes, and the driver's ready ones.
            assert!(listener.connections() - accepted.len() <= 4 + 8 + 64 + 64);
            accepted.push(listener.accept_blocking().unwrap());
        }
        for connecting in connecting {
            block_on(connecting).unwrap();
        }
    });
}

#[test]
fn hostile_first_bytes_end_that_connection_and_nothing_else() {
    everywhere(|side| {
        let mut random = Random::from_env(21);
        let (_context, endpoint) = side.endpoint(&quick().build().unwrap());
        let listener = endpoint.listen("tcp://127.0.0.1:0").unwrap();
        let client = endpoint.connect_blocking(listener.url()).unwrap();
        let server = listener.accept_blocking().unwrap();
        let mut hostile: Vec<Vec<u8>> = vec![
            b"GET / HTTP/1.1\r\nHost: towline\r\n\r\n".to_vec(),
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
            b"SSH-2.0-OpenSSH_9.6\r\n".to_vec(),
            vec![0; 100_000],
            vec![0xff; 100_000],
            vec![1],
        ];
        for _ in 0..60 {
            let size = 1 + random.below(400) as usize;
            hostile.push((0..size).map(|_| random.next() as u8).collect());
        }
        for bytes in &hostile {
            let mut stream = TcpStream::connect(listener.local_address()).unwrap();
            stream.write_all(bytes).ok();
            stream.shutdown(std::net::Shutdown::Write).ok();
            assert!(closes(&mut stream), "{:?}", &bytes[..bytes.len().min(16)]);
        }
        client.send_blocking("unharmed").unwrap();
        assert_eq!(server.recv_blocking().unwrap().data, "unharmed");
        assert_eq!(listener.connections(), 1);
        endpoint.connect_blocking(listener.url()).unwrap();
        assert_eq!(client.stats().wires_lost + server.stats().wires_lost, 0);
    });
}

#[test]
fn garbage_inside_a_session_costs_the_wire_and_not_the_session() {
    each_driver(|side| {
        let (_context, endpoint) = side.endpoint(&quick().build().unwrap());
        let listener = endpoint.listen("tcp://127.0.0.1:0").unwrap();
        // A middle that writes nonsense between two frames towards the client when told to. (Inside a frame it would be
        // taken for data: a plain wire has no protection against that, and TLS has.)
        let middle = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("tcp://{}", middle.local_addr().unwrap());
        let target = listener.local_address();
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            while let Ok((client, _)) = middle.accept() {
                let server = TcpStream::connect(target).unwrap();
                tell.send(client.try_clone().unwrap()).ok();
                for (mut from, mut to) in
                    [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)]
                {
                    std::thread::spawn(move || {
                        std::io::copy(&mut from, &mut to).ok();
                        to.shutdown(std::net::Shutdown::Both).ok();
                        from.shutdown(std::net::Shutdown::Both).ok();
                    });
                }
            }
        });
        let seen = Recorder::default();
        let client = block_on(endpoint.connect_with(url, seen.clone())).unwrap();
        let server = listener.accept_blocking().unwrap();
        let mut wire = told.recv().unwrap();
        for i in 0..200u32 {
            server.send_blocking(vec![i as u8; 100]).unwrap();
            if i == 100 {
                server.flush_blocking().unwrap();
                // A control frame that is longer than any may be.
                wire.write_all(&[0x07, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]).unwrap();
                seen.wait_for("the loss", 1, |event| matches!(event, Event::Disconnected(_)));
            }
        }
        let lost = seen.wait_for("the loss", 1, |event| matches!(event, Event::Disconnected(_)));
        assert!(matches!(&lost, Event::Disconnected(towline::WireError::Protocol(_))), "{lost:?}");
        seen.wait_for("all messages", 200, |event| matches!(event, Event::Message(_)));
        seen.wait_for("the next wire", 2, |event| matches!(event, Event::Connected(_)));
        let messages: Vec<_> = seen
            .events()
            .into_iter()
            .filter_map(|event| match event {
                Event::Message(message) => Some(message.data[0]),
                _ => None,
            })
            .collect();
        assert_eq!(messages, (0..200).collect::<Vec<u8>>());
        server.flush_blocking().unwrap();
        assert_eq!(client.stats().resets, 0);
    });
}

#[test]
fn events_come_in_their_order_and_the_end_once_and_last() {
    each_driver(|side| {
        let config = quick().redial_window(ms(300)).build().unwrap();
        let (_client_context, client_endpoint) = side.endpoint(&config);
        let (_server_context, server_endpoint) = side.endpoint(&config);
        let listener = server_endpoint.listen("tcp://127.0.0.1:0").unwrap();
        let mut proxy = Proxy::new(&listener.url());
        let seen = Recorder::default();
        let client =
            block_on(client_endpoint.connect_with(proxy.url("tcp"), seen.clone())).unwrap();
        assert_eq!(seen.names(), ["connected"], "told before connect returns");
        for round in 1..=3 {
            proxy.cut(Cut::Fin);
            seen.wait_for("back", 1 + round, |event| matches!(event, Event::Connected(_)));
        }
        let expected = ["connected", "disconnected", "redialing"];
        let names = seen.names();
        let steps: Vec<_> = names
            .iter()
            .enumerate()
            .filter(|(at, name)| **name != "redialing" || names[at - 1] != "redialing")
            .map(|(_, name)| *name)
            .collect();
        assert_eq!(&steps[..9], [expected, expected, expected].as_flattened());
        assert_eq!(steps.len(), 10);
        proxy.outage();
        proxy.cut(Cut::Fin);
        let closed = seen.closed();
        assert!(closed.unacknowledged.is_empty());
        let names = seen.names();
        assert_eq!(names[names.len() - 2..], ["gave up", "closed"]);
        client.abort();
        assert!(client.close_blocking().is_ok());
        assert_eq!(seen.names(), names, "nothing follows");
        for event in seen.events() {
            if let Event::Redialing(redialing) = event {
                assert!(redialing.attempt >= 1 && redialing.since < PATIENCE);
                assert_eq!(redialing.address.to_string(), proxy.url("tcp"));
            }
        }
    });
}

#[test]
fn a_subscription_that_nobody_reads_is_bounded_and_counts() {
    each_driver(|side| {
        let pair = side.pair(&quick().build().unwrap());
        let mut idle = pair.client.events();
        for _ in 0..600 {
            pair.client.send_blocking("x").unwrap();
            pair.client.flush_blocking().unwrap();
        }
        pair.client.close_blocking().unwrap();
        let mut count = 0;
        let mut last = None;
        while let Some(event) = idle.next_blocking() {
            count += 1;
            last = Some(event);
        }
        assert!(matches!(last, Some(Event::Closed(_))), "{last:?}");
        // The last one may have come while the others were being read.
        assert!((256..=257).contains(&count), "{count}");
        assert!(idle.dropped() > 0);
        assert!(idle.next_blocking().is_none());
    });
}

#[test]
fn options_out_of_range_are_refused_by_name() {
    let refused = [
        ("max_message", Config::builder().max_message(1000).build()),
        ("fragment_size", Config::builder().fragment_size(1 << 20).build()),
        ("receive_window", Config::builder().receive_window(64 << 10).build()),
        ("silence_limit", Config::builder().silence_limit(ms(1)).build()),
        ("max_handshakes", Config::builder().max_handshakes(0).build()),
    ];
    for (name, result) in refused {
        match result {
            Err(error @ ConfigError::OutOfRange { option, .. }) => {
                assert_eq!(option, name);
                assert!(error.to_string().contains(name), "{error}");
            }
            other => panic!("{name}: {:?}", other.map(|_| ())),
        }
    }
    assert!(Context::builder().threads(0).build().is_err());
}

#[test]
fn the_smallest_bounds_still_carry_everything() {
    each_driver(|side| {
        let mut random = Random::from_env(22);
        let config = quick()
            .max_message(64 << 10)
            .receive_window(512 << 10)
            .fragment_size(1024)
            .send_queue_bytes(1024)
            .send_queue_messages(1)
            .ack_delay(Duration::ZERO)
            .build()
            .unwrap();
        let pair = side.pair(&config);
        common::oracle::exchange(&pair.client, &pair.server, &mut random, 200, 64 << 10);
        let config = quick().fragment_size(256 << 10).receive_window(512 << 10).build().unwrap();
        let pair = side.pair(&config);
        common::oracle::exchange(&pair.client, &pair.server, &mut random, 100, 3 << 20);
    });
}

#[test]
fn nothing_is_left_of_connections_that_have_ended() {
    each_driver(|side| {
        let (_context, endpoint) = side.endpoint(&quick().build().unwrap());
        let listener = endpoint
            .listen_with("tcp://127.0.0.1:0", |_: &towline::Connection| {
                |connection: &towline::Connection, message: Message| {
                    connection.try_send(message.data).unwrap();
                }
            })
            .unwrap();
        let begun = Instant::now();
        for round in 0..150u32 {
            let client = endpoint.connect_blocking(listener.url()).unwrap();
            client.send_blocking("x").unwrap();
            client.recv_blocking().unwrap();
            match round % 3 {
                0 => client.abort(),
                1 => drop(client.close()),
                _ => client.close_blocking().unwrap(),
            }
        }
        eventually("no connections", || listener.connections() == 0);
        assert!(begun.elapsed() < PATIENCE);
        // Sockets linger for their last words, and then they are gone too.
        eventually("no sockets", || {
            let stats = _context.stats();
            (stats.connections, stats.wires) == (0, 0) && stats.timers < 700
        });
    });
}
