//! The ftcp wires, with and without TLS: ftcp's behaviour over real sockets.
#![allow(clippy::print_stdout, reason = "figures are for people")]
#![allow(clippy::field_reassign_with_default)]

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::Ordering;
use std::time::Instant;

use common::proxy::{Cut, Plan, Proxy};
use common::{
    PATIENCE, Recorder, Side, block_on, each_driver, eventually, identified, in_time, ms,
};
use towline::{
    Connection, Ended, Event, FlushError, Message, RequestError, TrySendError, WireError,
};

const SCHEMES: [&str; 2] = ["ftcp", "ftcps"];

fn hex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2);
    digits.map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap()).collect()
}

fn pair(
    side: Side,
    scheme: &str,
    config: &towline::Config,
) -> (Connection, Connection, [towline::Context; 2]) {
    let (client_context, client_endpoint) = side.endpoint(config);
    let (server_context, server_endpoint) = side.endpoint(config);
    let listener = server_endpoint.listen(format!("{scheme}://127.0.0.1:0")).unwrap();
    let client = client_endpoint.connect_blocking(listener.url()).unwrap();
    let server = listener.accept_blocking().unwrap();
    (client, server, [client_context, server_context])
}

#[test]
fn the_bytes_on_the_wire_are_those_of_ftcp_and_nothing_else() {
    each_driver(|side| {
        let (_context, endpoint) = side.endpoint(&identified().build().unwrap());
        let peer = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("ftcp://{}", peer.local_addr().unwrap());
        let client = endpoint.connect_blocking(&url).unwrap();
        let (mut stream, _) = peer.accept().unwrap();
        client.send_blocking(Message::new("Hello framed world").with_id(59)).unwrap();
        client.send_blocking("a").unwrap();
        client.send_blocking("b").unwrap();
        let mut reply = Message::new(vec![0xff]).with_id(300);
        reply.reply_to = Some(towline::MessageId(16_384));
        client.send_blocking(reply).unwrap();
        let expected = [
            "22003b00000000000000000000000000000048656c6c6f206672616d656420776f726c64",
            "11000100000000000000000000000000000061",
            "11000200000000000000000000000000000062",
            "1100ac020000000000008080010000000000ff",
        ]
        .map(hex)
        .concat();
        let mut got = vec![0; expected.len()];
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.read_exact(&mut got).unwrap();
        assert_eq!(got, expected);
        stream.write_all(&hex("1300ffffffffffffff7fffffffffffffff7f010203")).unwrap();
        let message = client.recv_blocking().unwrap();
        assert_eq!(message.id.unwrap().0, (1 << 56) - 1);
        assert_eq!(message.reply_to.unwrap().0, (1 << 56) - 1);
        assert_eq!(message.data, [1, 2, 3][..]);
        client.close_blocking().unwrap();
        assert_eq!(stream.read(&mut [0; 16]).unwrap(), 0, "no goodbye but the end");
    });
}

#[test]
fn flush_and_close_end_as_soon_as_the_transport_has_everything() {
    each_driver(|side| {
        for scheme in SCHEMES {
            let config = identified().close_timeout(PATIENCE).build().unwrap();
            let (client, server, _contexts) = pair(side, scheme, &config);
            let begun = Instant::now();
            for i in 0..20u32 {
                client.send_blocking(i.to_le_bytes().to_vec()).unwrap();
                client.flush_blocking().unwrap();
            }
            assert!(begun.elapsed() < ms(1800), "20 flushes took {:?}", begun.elapsed());
            client.send_blocking("last").unwrap();
            let closing = client.clone();
            let begun = Instant::now();
            in_time("close", PATIENCE, move || closing.close_blocking()).unwrap();
            assert!(begun.elapsed() < ms(3000), "{:?}", begun.elapsed());
            for i in 0..20u32 {
                assert_eq!(server.recv_blocking().unwrap().data, i.to_le_bytes()[..]);
            }
            assert_eq!(server.recv_blocking().unwrap().data, "last");
            let end = server.recv_blocking().unwrap_err();
            assert!(end.to_string().contains("closed"), "{end}");
            assert!(matches!(server.ended(), Some(Ended::Lost(WireError::End))));
        }
    });
}

#[test]
fn a_queue_of_a_thousand_does_not_wait_for_acknowledgements() {
    each_driver(|side| {
        for scheme in SCHEMES {
            let (client, server, _contexts) = pair(side, scheme, &identified().build().unwrap());
            const COUNT: u32 = 30_000;
            let begun = Instant::now();
            let sender = std::thread::spawn(move || {
                for i in 0..COUNT {
                    client.send_blocking(i.to_le_bytes().to_vec()).unwrap();
                }
                client.flush_blocking().unwrap();
                assert_eq!(client.stats().messages_sent, u64::from(COUNT));
                client
            });
            for i in 0..COUNT {
                assert_eq!(server.recv_blocking().unwrap().data, i.to_le_bytes()[..]);
            }
            let client = sender.join().unwrap();
            println!("{scheme}: {COUNT} messages in {:?}", begun.elapsed());
            client.close_blocking().unwrap();
        }
    });
}

#[test]
fn a_reader_that_does_not_read_stops_the_peer_and_a_full_queue_says_so() {
    each_driver(|side| {
        for scheme in SCHEMES {
            let config =
                identified().receive_window(512 << 10).ftcp_queue_depth(10).build().unwrap();
            let (client, server, _contexts) = pair(side, scheme, &config);
            let reader = server.reader_with(towline::ReaderOptions {
                limit: 100_000,
                ..towline::ReaderOptions::default()
            });
            let data = vec![3; 60_000];
            let mut sent = 0;
            let mut full = None;
            // Until the kernel's buffers on both sides are full as well.
            while full.is_none_or(|since: Instant| since.elapsed() < ms(300)) {
                match client.try_send(data.clone()) {
                    Ok(_) => (sent, full) = (sent + 1, None),
                    Err(TrySendError::Full(_)) => {
                        full.get_or_insert_with(Instant::now);
                        std::thread::yield_now();
                    }
                    Err(other) => panic!("{other}"),
                }
                assert!(sent < 2000, "nothing holds the peer back");
            }
            for _ in 0..sent {
                assert_eq!(reader.recv_blocking().unwrap().data.len(), 60_000);
            }
            client.flush_blocking().unwrap();
            client.close_blocking().unwrap();
        }
    });
}

#[test]
fn requests_work_and_a_lost_wire_is_dialed_again_by_the_side_that_dialed() {
    each_driver(|side| {
        for scheme in SCHEMES {
            let config = identified().build().unwrap();
            let (_client_context, client_endpoint) = side.endpoint(&config);
            let (_server_context, server_endpoint) = side.endpoint(&config);
            let ended = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
            let counting = std::sync::Arc::clone(&ended);
            struct Echo(std::sync::Arc<std::sync::atomic::AtomicUsize>);
            impl towline::Handler for Echo {
                fn message(&mut self, connection: &Connection, message: Message) {
                    let data = message.data.clone();
                    connection.try_send(Message::reply_to(&message, data)).unwrap();
                }
                fn closed(&mut self, _: &Connection, closed: towline::Closed) {
                    assert!(matches!(closed.ended, Ended::Lost(_)), "{:?}", closed.ended);
                    self.0.fetch_add(1, Ordering::SeqCst);
                }
            }
            let listener = server_endpoint
                .listen_with(format!("{scheme}://127.0.0.1:0"), move |_: &Connection| {
                    Echo(std::sync::Arc::clone(&counting))
                })
                .unwrap();
            let mut proxy = Proxy::planned(&listener.url(), |_| Plan::default());
            let seen = Recorder::default();
            let url = proxy.url(scheme);
            let client = block_on(client_endpoint.connect_with(url, seen.clone())).unwrap();
            let is_connected = |event: &Event| matches!(event, Event::Connected(_));
            let mut last = 0;
            for round in 1..=4 {
                for _ in 0..20 {
                    let reply = client.request_blocking("ping", PATIENCE).unwrap();
                    let id = reply.reply_to.unwrap().0;
                    assert_eq!(id, last + 1, "ids go on over a redial");
                    last = id;
                }
                proxy.cut(if round % 2 == 0 { Cut::Fin } else { Cut::Reset });
                seen.wait_for("back", 1 + round, is_connected);
                let ended = &ended;
                eventually("the accepted one's end", || ended.load(Ordering::SeqCst) == round);
            }
            // What is accepted during an outage goes out after it.
            proxy.outage();
            proxy.cut(Cut::Fin);
            let waiting = {
                let client = client.clone();
                std::thread::spawn(move || client.request_blocking("waits", PATIENCE))
            };
            seen.wait_for("attempts", 3, |event| matches!(event, Event::Redialing(_)));
            proxy.open();
            assert_eq!(waiting.join().unwrap().unwrap().data, "waits");
            client.close_blocking().unwrap();
            eventually("nothing is left", || listener.connections() == 0);
        }
    });
}

#[test]
fn a_window_that_is_over_gives_back_what_tcp_had_not_acknowledged() {
    each_driver(|side| {
        let config = identified().redial_window(ms(300)).connect_timeout(ms(200)).build().unwrap();
        let (_client_context, client_endpoint) = side.endpoint(&config);
        let (_server_context, server_endpoint) = side.endpoint(&config);
        let listener = server_endpoint.listen("ftcp://127.0.0.1:0").unwrap();
        let mut proxy = Proxy::new(&listener.url());
        let seen = Recorder::default();
        let url = proxy.url("ftcp");
        let client = block_on(client_endpoint.connect_with(url, seen.clone())).unwrap();
        client.send_blocking("arrives").unwrap();
        client.flush_blocking().unwrap();
        proxy.outage();
        proxy.cut(Cut::Fin);
        seen.wait_for("the loss", 1, |event| matches!(event, Event::Disconnected(_)));
        for i in 0..50u8 {
            client.send_blocking(vec![i; 2000]).unwrap();
        }
        let flush = client.flush_blocking();
        assert!(matches!(flush, Err(FlushError::Ended { unacknowledged: 50, .. })), "{flush:?}");
        let closed = seen.closed();
        let back: Vec<u8> = closed.unacknowledged.iter().map(|message| message.data[0]).collect();
        assert_eq!(back, (0..50).collect::<Vec<u8>>());
        assert!(closed.unacknowledged.iter().all(|message| message.id.is_some()));
        let request = client.request_blocking("?", PATIENCE);
        assert!(matches!(request, Err(RequestError::Ended(Ended::Lost(_)))), "{request:?}");
    });
}

#[test]
fn hostile_frames_end_that_connection_with_an_error_and_nothing_else() {
    each_driver(|side| {
        let (_context, endpoint) = side.endpoint(&identified().build().unwrap());
        let listener = endpoint.listen("ftcp://127.0.0.1:0").unwrap();
        let client = endpoint.connect_blocking(listener.url()).unwrap();
        let server = listener.accept_blocking().unwrap();
        let hostile = [
            // Too short for its header; ids that do not end; and cut off in the middle.
            (hex("0f00"), true),
            (hex("0000"), true),
            (hex("1000ffffffffffffffff0000000000000000"), true),
            (hex("10000100000000000000ffffffffffffffff"), true),
            (hex("ffff0100000000000000"), false),
        ];
        for (bytes, broken) in hostile {
            let mut stream = TcpStream::connect(listener.local_address()).unwrap();
            let accepted = listener.accept_blocking().unwrap();
            stream.write_all(&bytes).unwrap();
            if !broken {
                stream.shutdown(std::net::Shutdown::Write).unwrap();
            }
            let error = accepted.recv_blocking().unwrap_err();
            let ended = accepted.ended().unwrap();
            match (&ended, broken) {
                (Ended::Lost(WireError::Protocol(_)), true)
                | (Ended::Lost(WireError::End), false) => {}
                _ => panic!("{bytes:?}: {error}"),
            }
        }
        client.send_blocking("unharmed").unwrap();
        assert_eq!(server.recv_blocking().unwrap().data, "unharmed");
        eventually("only one is left", || listener.connections() == 1);
    });
}

#[test]
fn a_message_of_a_tls_wire_tells_how_it_came() {
    each_driver(|side| {
        for scheme in ["tls", "ftcps"] {
            let (client, server, _contexts) = pair(side, scheme, &identified().build().unwrap());
            client.send_blocking("x").unwrap();
            let message = server.recv_blocking().unwrap();
            assert!(message.tls.is_some());
            assert!(client.tls().is_some() && server.tls().is_some());
            assert!(client.capabilities().encrypted);
            client.close_blocking().unwrap();
        }
    });
}

#[test]
fn who_is_not_trusted_and_who_does_not_speak_tls_are_told_apart() {
    each_driver(|side| {
        let (_context, endpoint) = side.endpoint(&identified().build().unwrap());
        let listener = endpoint.listen("tls://127.0.0.1:0").unwrap();
        let plain = endpoint.listen("tcp://127.0.0.1:0").unwrap();
        let others = common::quick().build().unwrap();
        let stranger = towline::Endpoint::new(&_context, &others);
        let error = stranger.connect_blocking(listener.url()).unwrap_err();
        assert!(
            matches!(&error, towline::ConnectError::Wire { error: WireError::Tls(_), .. }),
            "{error:?}"
        );
        // TLS to a plain listener, and the other way round.
        let url = format!("tls://{}", plain.local_address());
        let error = endpoint.connect_blocking(url).unwrap_err();
        assert!(matches!(error, towline::ConnectError::Wire { .. }), "{error:?}");
        let url = format!("tcp://{}", listener.local_address());
        let error = endpoint.connect_blocking(url).unwrap_err();
        assert!(matches!(error, towline::ConnectError::Wire { .. }), "{error:?}");
        // And the listeners go on.
        endpoint.connect_blocking(listener.url()).unwrap();
        endpoint.connect_blocking(plain.url()).unwrap();
    });
}

#[test]
fn a_server_that_always_answers_something_else_is_given_up() {
    each_driver(|side| {
        let (_context, endpoint) = side.endpoint(&common::quick().build().unwrap());
        let peer = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("ftcp://{}", peer.local_addr().unwrap());
        let events = Recorder::default();
        let connecting = endpoint.connect_with(&url, events.clone());
        // Each wire gets ids that do not end.
        let server = std::thread::spawn(move || {
            for _ in 0..8 {
                let (mut stream, _) = peer.accept().unwrap();
                stream.write_all(&hex("1000ffffffffffffffff0000000000000000")).unwrap();
                stream.read_to_end(&mut Vec::new()).ok();
            }
            peer
        });
        let closed = events.closed();
        assert!(matches!(closed.ended, Ended::Lost(WireError::Protocol(_))), "{closed:?}");
        let peer = server.join().unwrap();
        peer.set_nonblocking(true).unwrap();
        assert!(peer.accept().is_err(), "it is not dialed again");
        assert!(events.names().contains(&"gave up"), "{:?}", events.names());
        drop(connecting);
    });
}
