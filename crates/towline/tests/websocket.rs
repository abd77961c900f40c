//! `ws://` and `wss://`: sessions between Towline peers, plain messages with everyone else, and what is refused.

#![allow(
    clippy::print_stdout,
    clippy::field_reassign_with_default,
    reason = "tests print what repeats them"
)]

mod common;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Instant;

use common::oracle::exchange;
use common::proxy::{Cut, Plan, Proxy, Way};
use common::{PATIENCE, Random, Recorder, each_driver, eventually, everywhere, ms, quick};
use towline::websocket::{CookieJar, Credentials, DeflateConfig, SessionUse};
use towline::{
    Config, ConfigBuilder, ConfigError, ConnectError, Connection, Context, Ended, Endpoint, Event,
    Message, RequestError, SendError, Wire, WireError,
};

fn echo(connection: &Connection, message: Message) {
    let answer = Message::reply_to(&message, message.data.clone());
    connection.try_send(answer).unwrap();
}

/// A configuration that can be both ends of `wss`.
fn secured(config: ConfigBuilder) -> ConfigBuilder {
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let params = rcgen::CertificateParams::new(names).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap().pem();
    config.certificate_pem(certificate.clone(), key.serialize_pem()).ca_pem(certificate)
}

fn plain() -> ConfigBuilder {
    quick().websocket_session(SessionUse::Never)
}

fn data(size: usize) -> Vec<u8> {
    (0..size).map(|i| (i * 31 % 251) as u8).collect()
}

fn endpoint(config: ConfigBuilder) -> (Context, Endpoint) {
    let context = Context::builder().threads(2).build().unwrap();
    let endpoint = Endpoint::new(&context, &config.build().unwrap());
    (context, endpoint)
}

fn receive(connection: &Connection) -> Message {
    connection.set_read_deadline(Some(Instant::now() + PATIENCE));
    connection.recv_blocking().unwrap()
}

// ---- sessions ----

#[test]
fn towline_peers_run_a_session() {
    each_driver(|side| {
        let mut random = Random::from_env(11);
        let config = secured(quick()).build().unwrap();
        let (_contexts, client) = side.endpoint(&config);
        let (_context, server) = side.endpoint(&config);
        for scheme in ["ws", "wss"] {
            let listener = server.listen(format!("{scheme}://127.0.0.1:0/chat/room")).unwrap();
            assert_eq!(listener.url().path(), "/chat/room");
            let a = client.connect_blocking(format!("{}?who=me", listener.url())).unwrap();
            let b = listener.accept_blocking().unwrap();
            for end in [&a, &b] {
                assert!(end.capabilities().session && end.capabilities().requests);
                assert!(!end.capabilities().text);
                assert_eq!(end.capabilities().encrypted, scheme == "wss");
                let agreed = end.websocket().unwrap();
                assert_eq!(agreed.subprotocol.as_deref(), Some("towline.1"));
                assert_eq!(agreed.target, "/chat/room?who=me");
            }
            assert_eq!(a.wire().scheme(), scheme);
            exchange(&a, &b, &mut random, 300, 1 << 20);
            // Larger than every window, frame and buffer.
            let large = data(16 << 20);
            a.send_blocking(large.clone()).unwrap();
            assert!(receive(&b).data == large);
            common::block_on(a.close_with(300, "done")).unwrap();
            let ended = wait_ended(&b);
            assert!(
                matches!(&ended, Ended::ByPeer { code: 300, reason } if &**reason == "done"),
                "{ended}"
            );
        }
    });
}

fn wait_ended(connection: &Connection) -> Ended {
    eventually("the end", || connection.ended().is_some());
    connection.ended().unwrap()
}

#[test]
fn a_session_over_websocket_survives_cuts_anywhere() {
    everywhere(|side| {
        let mut random = Random::from_env(12);
        let config = quick().build().unwrap();
        let (_contexts, client) = side.endpoint(&config);
        let (_context, server) = side.endpoint(&config);
        let listener = server.listen("ws://127.0.0.1:0").unwrap();
        let mut dice = Random(random.next());
        let proxy = Proxy::planned(&listener.url(), move |number| {
            let way = if dice.below(2) == 0 { Way::ToServer } else { Way::ToClient };
            let how = if dice.below(2) == 0 { Cut::Fin } else { Cut::Reset };
            // In the handshake, in the session's greeting, and in the midst of everything.
            let at = if number == 0 { 20_000 } else { dice.below(60_000) as usize };
            Plan { cut: Some((way, at, how)), ..Plan::default() }
        });
        let a = client.connect_blocking(proxy.url("ws")).unwrap();
        let b = listener.accept_blocking().unwrap();
        exchange(&a, &b, &mut random, 300, 50_000);
        assert!(proxy.cuts() > 3, "{} cuts", proxy.cuts());
        assert_eq!((a.stats().resets, b.stats().resets), (0, 0), "no session was forgotten");
        proxy.plan(|_| Plan::default());
        a.close_blocking().unwrap();
        eventually("the server's end", || b.ended().is_some());
    });
}

#[test]
fn a_session_moves_between_websocket_and_other_wires() {
    each_driver(|side| {
        let mut random = Random::from_env(13);
        let config = secured(quick()).build().unwrap();
        let (_contexts, client) = side.endpoint(&config);
        let (_context, server) = side.endpoint(&config);
        let ws = server.listen("ws://127.0.0.1:0/x").unwrap();
        let tcp = server.listen("tcp://127.0.0.1:0").unwrap();
        let wss = server.listen("wss://127.0.0.1:0/y").unwrap();
        let mut proxies: Vec<Proxy> =
            [&ws, &tcp, &wss].into_iter().map(|listener| Proxy::new(&listener.url())).collect();
        let list = format!(
            "{}/x, {}, {}/y",
            proxies[0].url("ws"),
            proxies[1].url("tcp"),
            proxies[2].url("wss")
        );
        let a = client.connect_blocking(list).unwrap();
        let b = ws.accept_blocking().unwrap();
        let mut wires = Vec::new();
        for step in [0, 1, 2, 0] {
            for (at, proxy) in proxies.iter_mut().enumerate() {
                proxy.outage();
                if at == step {
                    proxy.open();
                } else {
                    proxy.cut(Cut::Reset);
                }
            }
            exchange(&a, &b, &mut random, 50, 100_000);
            wires.push(a.wire());
        }
        assert_eq!(wires, [Wire::Ws, Wire::Tcp, Wire::Wss, Wire::Ws]);
        assert_eq!((a.stats().resets, b.stats().resets), (0, 0));
        a.close_blocking().unwrap();
    });
}

// ---- plain messages ----

#[test]
fn text_stays_text_and_binary_stays_binary() {
    each_driver(|side| {
        for (config, compressed) in [
            (secured(plain()), false),
            (secured(plain()).websocket_deflate(DeflateConfig::default()), true),
        ] {
            let config = config.build().unwrap();
            let (_contexts, client) = side.endpoint(&config);
            let (_context, server) = side.endpoint(&config);
            for scheme in ["ws", "wss"] {
                let url = format!("{scheme}://127.0.0.1:0");
                let listener = server.listen_with(url, |_: &Connection| echo).unwrap();
                let connection = client.connect_blocking(listener.url()).unwrap();
                let can = connection.capabilities();
                assert!(!can.session && !can.requests && can.text && can.close_codes);
                assert_eq!(connection.websocket().unwrap().compressed, compressed);
                let mut sent = Vec::new();
                for size in [0, 1, 125, 126, 4096, 65_535, 65_536, 1 << 20, 16 << 20] {
                    let text: String = "añ中😀".chars().cycle().take(size / 4).collect();
                    sent.extend([Message::new(data(size)), Message::text(text)]);
                }
                for (at, message) in sent.iter().enumerate() {
                    let id = connection.send_blocking(message.clone()).unwrap();
                    assert_eq!(id.0, at as u64 + 1);
                    let answer = receive(&connection);
                    assert_eq!(answer.id, Some(id), "ids are counted at this end");
                    assert_eq!((answer.is_text, answer.reply_to), (message.is_text, None));
                    assert!(
                        answer.data == message.data,
                        "{} bytes over {scheme}",
                        message.data.len()
                    );
                }
                connection.flush_blocking().unwrap();
                assert_eq!(connection.stats().unacknowledged, 0);
                assert_eq!(connection.stats().messages_sent, sent.len() as u64);
                connection.close_blocking().unwrap();
            }
        }
    });
}

#[test]
fn what_a_plain_websocket_cannot_do_is_refused() {
    let (_context, endpoint) = endpoint(plain());
    let listener = endpoint.listen_with("ws://127.0.0.1:0", |_: &Connection| echo).unwrap();
    let connection = endpoint.connect_blocking(listener.url()).unwrap();
    let error = connection.request_blocking("hello", PATIENCE).unwrap_err();
    assert!(matches!(error, RequestError::Unsupported { wire: Wire::Ws }), "{error}");
    let bad = Message { is_text: true, ..Message::new(vec![0xFF]) };
    assert!(matches!(connection.send_blocking(bad), Err(SendError::NotText)));
    let large = connection.send_blocking(vec![0; (16 << 20) + 1]).unwrap_err();
    assert!(large.to_string().contains("max_message"), "{large}");
    connection.close_blocking().unwrap();
}

#[test]
fn close_codes_and_reasons_go_both_ways() {
    each_driver(|side| {
        let config = plain().build().unwrap();
        let (_context, endpoint) = side.endpoint(&config);
        let listener = endpoint.listen("ws://127.0.0.1:0").unwrap();
        let long = "x".repeat(122) + "é and more";
        for (given, reason, seen, words) in [
            (0, "", 1000, ""),
            (4001, "try later", 4001, "try later"),
            (1013, &*long, 1013, &"x".repeat(122)),
            (503, "", 1013, ""),
            (1005, "", 1011, ""),
        ] {
            for client_closes in [true, false] {
                let client = endpoint.connect_blocking(listener.url()).unwrap();
                let server = listener.accept_blocking().unwrap();
                let (closing, other) =
                    if client_closes { (&client, &server) } else { (&server, &client) };
                closing.send_blocking("before").unwrap();
                common::block_on(closing.close_with(given, reason)).unwrap();
                assert!(matches!(wait_ended(closing), Ended::Closed));
                assert_eq!(receive(other).data, "before");
                match wait_ended(other) {
                    Ended::ByPeer { code, reason } => {
                        assert_eq!((code, &*reason), (seen, words));
                    }
                    ended => panic!("{ended}"),
                }
            }
        }
    });
}

#[test]
fn a_slow_reader_stops_the_sender_and_loses_nothing() {
    each_driver(|side| {
        let config = plain().receive_window(512 << 10).send_queue_bytes(1 << 20).build().unwrap();
        let (_context, endpoint) = side.endpoint(&config);
        let listener = endpoint.listen("ws://127.0.0.1:0").unwrap();
        let client = endpoint.connect_blocking(listener.url()).unwrap();
        let server = listener.accept_blocking().unwrap();
        let mut accepted = 0u64;
        let mut message = vec![0; 64 << 10];
        // Until everything in between is full, and stays so.
        let mut quiet = Instant::now();
        while quiet.elapsed() < ms(300) {
            message[..8].copy_from_slice(&accepted.to_le_bytes());
            match client.try_send(message.clone()) {
                Ok(_) => {
                    accepted += 1;
                    quiet = Instant::now();
                    assert!(accepted < 4096, "nothing stops the sender");
                }
                Err(_) => std::thread::park_timeout(ms(1)),
            }
        }
        // A message that is larger than the window waits behind them.
        let large = data(8 << 20);
        let (sender, copy) = (client.clone(), large.clone());
        let sending = std::thread::spawn(move || sender.send_blocking(copy).unwrap());
        for expected in 0..accepted {
            assert_eq!(receive(&server).data[..8], expected.to_le_bytes());
        }
        assert!(receive(&server).data == large);
        sending.join().unwrap();
        client.flush_blocking().unwrap();
        client.close_blocking().unwrap();
    });
}

#[test]
fn a_plain_websocket_ends_with_its_wire() {
    each_driver(|side| {
        for how in [Cut::Fin, Cut::Reset] {
            let config = plain().build().unwrap();
            let (_context, endpoint) = side.endpoint(&config);
            let listener = endpoint.listen("ws://127.0.0.1:0").unwrap();
            let proxy = Proxy::new(&listener.url());
            let seen = Recorder::default();
            let connecting = endpoint.connect_with(proxy.url("ws"), seen.clone());
            let client = common::block_on(connecting).unwrap();
            let server = listener.accept_blocking().unwrap();
            client.send_blocking("one").unwrap();
            client.flush_blocking().unwrap();
            assert_eq!(receive(&server).data, "one");
            proxy.cut(Cut::Swallow);
            client.send_blocking("two").unwrap();
            proxy.cut(how);
            drop(proxy);
            let closed = seen.closed();
            assert!(matches!(closed.ended, Ended::Lost(_)), "{}", closed.ended);
            let back: Vec<_> = closed.unacknowledged.iter().map(|m| m.data.clone()).collect();
            assert_eq!(back, ["two"], "what the peer has not confirmed comes back");
            assert_eq!(seen.names(), ["connected", "disconnected", "closed"]);
            assert!(matches!(wait_ended(&server), Ended::Lost(_)));
        }
    });
}

#[test]
fn a_silent_peer_is_noticed() {
    let config = plain().keep_alive(ms(100)).silence_limit(ms(300));
    let (_context, endpoint) = endpoint(config);
    let listener = endpoint.listen("ws://127.0.0.1:0").unwrap();
    let proxy = Proxy::new(&listener.url());
    let client = endpoint.connect_blocking(proxy.url("ws")).unwrap();
    let server = listener.accept_blocking().unwrap();
    // A quiet connection stays, because pings are answered.
    let quiet = Instant::now();
    while quiet.elapsed() < ms(900) {
        assert!(client.ended().is_none() && server.ended().is_none());
        std::thread::park_timeout(ms(20));
    }
    proxy.cut(Cut::Swallow);
    for end in [client, server] {
        let ended = wait_ended(&end);
        assert!(matches!(ended, Ended::Lost(WireError::Silent(_))), "{ended}");
    }
}

// ---- what the handshake decides ----

#[test]
fn who_speaks_what_is_decided_by_the_handshake() {
    use SessionUse::{Never, Prefer, Require};
    for (ours, theirs, expected) in [
        (Prefer, Prefer, Some(true)),
        (Prefer, Require, Some(true)),
        (Require, Prefer, Some(true)),
        (Require, Require, Some(true)),
        (Prefer, Never, Some(false)),
        (Never, Prefer, Some(false)),
        (Never, Never, Some(false)),
        (Require, Never, None),
        (Never, Require, None),
    ] {
        let (_contexts, client) = endpoint(quick().websocket_session(ours));
        let (_context, server) = endpoint(quick().websocket_session(theirs));
        let listener = server.listen_with("ws://127.0.0.1:0", |_: &Connection| echo).unwrap();
        match (client.connect_blocking(listener.url()), expected) {
            (Ok(connection), Some(session)) => {
                assert_eq!(connection.capabilities().session, session, "{ours:?} {theirs:?}");
                connection.send_blocking("over").unwrap();
                assert_eq!(receive(&connection).data, "over");
                connection.close_blocking().unwrap();
            }
            (Err(ConnectError::Wire { error, .. }), None) => match error {
                WireError::Upgrade(_) | WireError::Http { status: 400, .. } => {}
                error => panic!("{error:?}"),
            },
            (other, _) => panic!("{ours:?} with {theirs:?}: {other:?}"),
        }
    }
}

#[test]
fn subprotocols_are_agreed_or_the_connection_is_refused() {
    let speaks = |names: &[&str]| plain().websocket_subprotocols(names.iter().copied());
    let (_context, server) = endpoint(speaks(&["chat.2", "chat.1"]));
    let listener = server.listen("ws://127.0.0.1:0").unwrap();
    let (_context, good) = endpoint(speaks(&["other", "chat.1"]));
    let connection = good.connect_blocking(listener.url()).unwrap();
    let accepted = listener.accept_blocking().unwrap();
    for end in [&connection, &accepted] {
        assert_eq!(end.websocket().unwrap().subprotocol.as_deref(), Some("chat.1"));
    }
    let (_context, bad) = endpoint(speaks(&["other"]));
    let error = bad.connect_blocking(listener.url()).unwrap_err();
    assert!(error.to_string().contains("400"), "{error}");
    let (_context, free) = endpoint(plain());
    let listener = free.listen("ws://127.0.0.1:0").unwrap();
    let error = bad.connect_blocking(listener.url()).unwrap_err();
    assert!(error.to_string().contains("websocket_subprotocols"), "{error}");
}

#[test]
fn a_full_list_of_session_wires_needs_a_session() {
    let (_context, server) = endpoint(plain());
    let listener = server.listen("ws://127.0.0.1:0").unwrap();
    let (_context, client) = endpoint(quick());
    let nobody = common::proxy::Nobody::new();
    let list = format!("{}, {}", listener.url(), nobody.url("tcp"));
    assert!(client.connect_blocking(list).is_err(), "plain messages cannot move to tcp");
}

// ---- bad requests ----

/// Sends bytes, and returns everything that comes back until the end.
fn raw(listener: &towline::Listener, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(listener.local_address()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

fn request(path: &str, more: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
    )
}

#[test]
fn other_requests_get_an_answer_of_http() {
    each_driver(|side| {
        let config = quick()
            .connect_timeout(ms(600))
            .websocket_origins(["https://good.example"])
            .build()
            .unwrap();
        let (_context, endpoint) = side.endpoint(&config);
        let listener = endpoint.listen("ws://127.0.0.1:0/here").unwrap();
        let large = format!("X: {}\r\n", "y".repeat(20_000));
        for (bytes, status) in [
            ("GET / HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), 426),
            ("POST /here HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n".to_owned(), 405),
            ("GET / HTTP/1.0\r\nHost: h\r\n\r\n".to_owned(), 505),
            ("\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n".to_owned(), 400),
            ("hello there\r\n\r\n".to_owned(), 400),
            (request("/elsewhere", ""), 404),
            (request("/here", "Origin: https://evil.example\r\n"), 403),
            (request("/here", &large), 431),
            ("GET /here HT".to_owned(), 408),
        ] {
            let answer = raw(&listener, bytes.as_bytes());
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{bytes:?}: {answer:?}");
            assert!(answer.contains("Connection: close"), "{answer}");
        }
        assert_eq!(listener.connections(), 0);
        assert!(listener.try_accept().unwrap().is_none());
        let fine = endpoint.connect_blocking(format!("{}?q", listener.url())).unwrap();
        fine.close_blocking().unwrap();
        let elsewhere = listener.url().to_string().replace("/here", "/there");
        let error = endpoint.connect_blocking(elsewhere).unwrap_err();
        assert!(
            matches!(&error, ConnectError::Wire { error: WireError::Http { status: 404, .. }, .. }),
            "{error}"
        );
        assert!(error.to_string().contains("check the path"), "{error}");
    });
}

#[test]
fn a_full_listener_says_so_and_sessions_can_still_come_back() {
    let (_context, server) = endpoint(quick().max_connections(1));
    let listener = server.listen("ws://127.0.0.1:0").unwrap();
    let proxy = Proxy::new(&listener.url());
    let (_context, client) = endpoint(quick());
    let first = client.connect_blocking(proxy.url("ws")).unwrap();
    let accepted = listener.accept_blocking().unwrap();
    let (_context, other) = endpoint(plain());
    let error = other.connect_blocking(listener.url()).unwrap_err();
    assert!(error.to_string().contains("503"), "{error}");
    let error = client.connect_blocking(listener.url()).unwrap_err();
    assert!(matches!(error, ConnectError::Rejected { .. }), "{error}");
    proxy.cut(Cut::Reset);
    first.send_blocking("still here").unwrap();
    assert_eq!(receive(&accepted).data, "still here");
    first.close_blocking().unwrap();
}

/// A client's frame, masked with zeros.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    assert!(payload.len() < 126);
    [&[first, 0x80 | payload.len() as u8, 0, 0, 0, 0], payload].concat()
}

#[test]
fn violations_are_answered_with_the_right_close_code() {
    each_driver(|side| {
        let config = quick().max_message(64 << 10).build().unwrap();
        let (_context, endpoint) = side.endpoint(&config);
        let listener = endpoint.listen("ws://127.0.0.1:0").unwrap();
        let huge = [&[0x82, 0xFF], &(1u64 << 40).to_be_bytes()[..], &[0; 4]].concat();
        for (what, bytes, code, session) in [
            ("unmasked", vec![0x81, 1, b'a'], 1002u16, false),
            ("reserved opcode", frame(0x83, b""), 1002, false),
            ("reserved bit", frame(0xC1, b"a"), 1002, false),
            ("bad UTF-8", frame(0x81, &[0xC0]), 1007, false),
            ("too large", huge, 1009, false),
            ("bad close code", frame(0x88, &[3, 237]), 1002, false),
            ("text in a session", frame(0x81, b"hello"), 1003, true),
            ("unmasked in a session", vec![0x82, 1, b'a'], 1002, true),
        ] {
            let mut stream = TcpStream::connect(listener.local_address()).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let asked = if session { "Sec-WebSocket-Protocol: towline.1\r\n" } else { "" };
            stream.write_all(request("/", asked).as_bytes()).unwrap();
            stream.write_all(&bytes).unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).unwrap();
            let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
            let (head, frames) = answer.split_at(end);
            assert!(head.starts_with(b"HTTP/1.1 101 "), "{what}");
            assert_eq!(frames.first(), Some(&0x88), "{what}: {frames:?}");
            assert_eq!(frames[2..4], code.to_be_bytes(), "{what}: {frames:?}");
            if !session {
                let accepted = listener.accept_blocking().unwrap();
                let ended = wait_ended(&accepted);
                let Ended::Lost(WireError::Protocol(words)) = &ended else { panic!("{ended}") };
                assert!(words.contains(&code.to_string()), "{words}");
            }
        }
    });
}

// ---- servers that do strange things ----

/// A server of raw bytes: answers each connection's first request with what `answer` makes of it.
fn scripted(
    answer: impl Fn(usize, &str) -> Vec<u8> + Send + 'static,
) -> (std::net::SocketAddr, std::sync::mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let mut stream = stream.unwrap();
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
                head.push(byte[0]);
            }
            let head = String::from_utf8_lossy(&head).into_owned();
            stream.write_all(&answer(number, &head)).ok();
            if tell.send(head).is_err() {
                return;
            }
            stream.shutdown(std::net::Shutdown::Write).ok();
        }
    });
    (address, told)
}

#[test]
fn servers_that_do_not_open_a_websocket_are_reported_as_such() {
    let (_context, endpoint) = endpoint(quick());
    for (answer, expected) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "200"),
        ("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n", "websocket_credentials"),
        ("HTTP/1.1 503 Busy\r\nContent-Length: 9\r\n\r\nlater, ok", "later, ok"),
        (
            "HTTP/1.1 101 Ok\r\nUpgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n",
            "accept key",
        ),
        ("HTTP/1.1 302 Found\r\nLocation: ftp://x/\r\n\r\n", "redirect"),
        ("SSH-2.0-OpenSSH_9\r\n\r\n", "not HTTP"),
        ("", "closed"),
    ] {
        let (address, _told) = scripted(move |_, _| answer.as_bytes().to_vec());
        let error = endpoint.connect_blocking(format!("ws://{address}/")).unwrap_err();
        assert!(error.to_string().contains(expected), "{answer:?}: {error}");
    }
}

/// The accept key that belongs to a request, without a second implementation of SHA-1: asked of our own server.
fn accept_key(listener: &towline::Listener, head: &str) -> String {
    let line = |name: &str| {
        let find = head.lines().find(|line| line.to_ascii_lowercase().starts_with(name));
        find.unwrap().split_once(": ").unwrap().1.to_owned()
    };
    let key = line("sec-websocket-key");
    let mut stream = TcpStream::connect(listener.local_address()).unwrap();
    let request = request("/", "").replace("dGhlIHNhbXBsZSBub25jZQ==", &key);
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    let mut byte = [0];
    while !answer.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    let answer = String::from_utf8(answer).unwrap();
    let line = answer.lines().find(|line| line.starts_with("Sec-WebSocket-Accept")).unwrap();
    line.split_once(": ").unwrap().1.to_owned()
}

#[test]
fn a_server_that_repeats_any_subprotocol_gets_plain_messages() {
    let (_context, oracle) = endpoint(plain());
    let keys = oracle.listen("ws://127.0.0.1:0").unwrap();
    let (address, told) = scripted(move |_, head| {
        let key = accept_key(&keys, head);
        let mut answer = format!(
            "HTTP/1.1 101 Ok\r\nUpgrade: WebSocket\r\nConnection: upgrade\r\n\
             Sec-WebSocket-Accept: {key}\r\nSec-WebSocket-Protocol: towline.1\r\n\r\n"
        )
        .into_bytes();
        answer.extend(b"\x81\x05hello\x82\x01x\x88\x02\x0f\xa0");
        answer
    });
    let (_context, endpoint) = endpoint(quick());
    let connection = endpoint.connect_blocking(format!("ws://{address}/a?b")).unwrap();
    assert!(!connection.capabilities().session);
    let first = receive(&connection);
    assert!(first.is_text && first.data == "hello", "glued to the handshake, and not lost");
    assert!(!receive(&connection).is_text);
    let ended = wait_ended(&connection);
    assert!(matches!(ended, Ended::ByPeer { code: 4000, .. }), "{ended}");
    assert!(told.recv().unwrap().starts_with("GET /a?b HTTP/1.1\r\n"));
}

#[test]
fn redirects_are_followed_and_credentials_stay_at_home() {
    let (_context, server) = endpoint(quick());
    let target = server.listen("ws://127.0.0.1:0/final").unwrap();
    let location = target.url().to_string().replace("ws://", "http://");
    let (address, told) = scripted(move |number, _| match number {
        0 => b"HTTP/1.1 307 T\r\nLocation: /second?x=1\r\n\r\n".to_vec(),
        _ => format!("HTTP/1.1 302 F\r\nLocation: {location}\r\n\r\n").into_bytes(),
    });
    let credentials = Credentials::Basic { user: "u".into(), password: "p".into() };
    let config = quick().websocket_credentials(credentials).websocket_header("X-Mine", "yes");
    let (_context, client) = endpoint(config);
    let connection = client.connect_blocking(format!("ws://{address}/first")).unwrap();
    let accepted = target.accept_blocking().unwrap();
    for path in ["/first", "/second?x=1"] {
        let head = told.recv().unwrap();
        assert!(head.starts_with(&format!("GET {path} HTTP/1.1\r\n")), "{head}");
        assert!(head.contains("Authorization: Basic dTpw"), "{head}");
    }
    let headers = &accepted.websocket().unwrap().headers;
    assert_eq!(headers.first("Authorization"), None, "another origin");
    assert_eq!(headers.first("X-Mine"), Some("yes"));
    assert_eq!(connection.websocket().unwrap().target, "/final");
    let reply = {
        let answering = std::thread::spawn(move || echo(&accepted, receive(&accepted)));
        let reply = connection.request_blocking("there?", PATIENCE).unwrap();
        answering.join().unwrap();
        reply
    };
    assert_eq!(reply.data, "there?", "a session, after all");
    let (address, _told) =
        scripted(move |_, _| b"HTTP/1.1 302 F\r\nLocation: /again\r\n\r\n".to_vec());
    let error = client.connect_blocking(format!("ws://{address}/")).unwrap_err();
    assert!(error.to_string().contains("too many redirects"), "{error}");
}

#[test]
fn case_97_cookies_of_redirects_and_refusals_come_back() {
    let (address, told) = scripted(move |number, _| match number {
        0 => b"HTTP/1.1 307 T\r\nLocation: /second\r\nSet-Cookie: a=1; Path=/\r\n\r\n".to_vec(),
        _ => b"HTTP/1.1 503 N\r\nSet-Cookie: b=2\r\nContent-Length: 0\r\n\r\n".to_vec(),
    });
    let jar = CookieJar::new();
    let config = quick().websocket_cookies(jar.clone()).websocket_header("Cookie", "mine=0");
    let (_client, client) = endpoint(config);
    client.connect_blocking(format!("ws://{address}/first")).unwrap_err();
    client.connect_blocking(format!("ws://{address}/third")).unwrap_err();
    for (path, cookies) in [
        ("/first", "Cookie: mine=0\r\n"),
        ("/second", "Cookie: mine=0; a=1\r\n"),
        ("/third", "Cookie: mine=0; a=1; b=2\r\n"),
    ] {
        let head = told.recv().unwrap();
        assert!(head.starts_with(&format!("GET {path} HTTP/1.1\r\n")), "{head}");
        assert!(head.contains(cookies), "{head}");
    }
    let names: Vec<_> = jar.cookies().into_iter().map(|cookie| cookie.name).collect();
    assert_eq!(names, ["a", "b"]);

    // A server of ours sees what the application put into the jar.
    let (_server, server) = endpoint(quick());
    let listener = server.listen("ws://127.0.0.1:0").unwrap();
    jar.clear();
    jar.set(&listener.url().to_string(), "token=x").unwrap();
    let _connection = client.connect_blocking(listener.url().to_string()).unwrap();
    let accepted = listener.accept_blocking().unwrap();
    assert_eq!(accepted.websocket().unwrap().headers.first("Cookie"), Some("mine=0; token=x"));
}

#[test]
fn credentials_can_wait_for_a_challenge() {
    let (address, told) = scripted(move |number, _| match number {
        0 => b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n".to_vec(),
        _ => b"HTTP/1.1 403 Still no\r\nContent-Length: 0\r\n\r\n".to_vec(),
    });
    let config = quick()
        .websocket_credentials(Credentials::Bearer("t0ken".into()))
        .websocket_wait_for_challenge(true);
    let (_context, client) = endpoint(config);
    let error = client.connect_blocking(format!("ws://{address}/")).unwrap_err();
    assert!(error.to_string().contains("403"), "{error}");
    assert!(!told.recv().unwrap().contains("Authorization"));
    assert!(told.recv().unwrap().contains("Authorization: Bearer t0ken"));
}

/// An HTTP proxy for one CONNECT after the other.
fn connect_proxy(target: std::net::SocketAddr) -> (String, std::sync::mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
                head.push(byte[0]);
            }
            let head = String::from_utf8_lossy(&head).into_owned();
            let good = head.contains("Proxy-Authorization: Basic dTpw");
            if tell.send(head).is_err() {
                return;
            }
            if !good {
                stream.write_all(b"HTTP/1.1 407 Who\r\n\r\n").ok();
                continue;
            }
            stream.write_all(b"HTTP/1.1 200 Fine\r\n\r\n").ok();
            join(stream, TcpStream::connect(target).unwrap());
        }
    });
    (url, told)
}

#[test]
fn a_proxy_is_asked_for_a_tunnel_and_tls_runs_inside() {
    each_driver(|side| {
        let base = secured(quick());
        let (_context, server) = side.endpoint(&base.clone().build().unwrap());
        for scheme in ["ws", "wss"] {
            let listener = server
                .listen_with(format!("{scheme}://127.0.0.1:0/in"), |_: &Connection| echo)
                .unwrap();
            let (proxy, told) = connect_proxy(listener.local_address());
            let credentials = Credentials::Basic { user: "u".into(), password: "p".into() };
            let through = base.clone().websocket_proxy(&proxy, Some(credentials)).build().unwrap();
            let (_context, client) = side.endpoint(&through);
            // The name is not known here; the proxy resolves it.
            let url = format!("{scheme}://localhost:{}/in", listener.local_address().port());
            let connection = client.connect_blocking(url).unwrap();
            assert!(told.recv().unwrap().starts_with("CONNECT localhost:"));
            let reply = connection.request_blocking(data(1 << 20), PATIENCE).unwrap();
            assert!(reply.data == data(1 << 20));
            connection.close_blocking().unwrap();

            let without = base.clone().websocket_proxy(&proxy, None).build().unwrap();
            let (_context, client) = side.endpoint(&without);
            let error = client.connect_blocking(listener.url()).unwrap_err();
            assert!(error.to_string().contains("websocket_proxy"), "{error}");
        }
    });
}

/// Carries bytes between a client and a server until both have ended.
fn join(client: TcpStream, server: TcpStream) {
    let pump = |mut from: TcpStream, mut to: TcpStream| {
        std::thread::spawn(move || {
            std::io::copy(&mut from, &mut to).ok();
            to.shutdown(std::net::Shutdown::Write).ok();
        })
    };
    pump(client.try_clone().unwrap(), server.try_clone().unwrap());
    pump(server, client);
}

/// A SOCKS 5 proxy that wants the user `u` with the password `p`, and tells what it is asked for (RFC 1928, RFC 1929).
fn socks_proxy(target: std::net::SocketAddr) -> (String, std::sync::mpsc::Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("socks5://{}", listener.local_addr().unwrap());
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut hello = [0; 2];
            stream.read_exact(&mut hello).unwrap();
            let mut methods = vec![0; usize::from(hello[1])];
            stream.read_exact(&mut methods).unwrap();
            if hello[0] != 5 || !methods.contains(&2) {
                stream.write_all(b"\x05\xff").ok();
                continue;
            }
            stream.write_all(b"\x05\x02").unwrap();
            let mut login = [0; 5];
            stream.read_exact(&mut login).unwrap();
            let good = login == *b"\x01\x01u\x01p";
            stream.write_all(if good { b"\x01\0" } else { b"\x01\x01" }).unwrap();
            if !good {
                continue;
            }
            let mut request = vec![0; 5];
            stream.read_exact(&mut request).unwrap();
            let rest = usize::from(request[4]) + 2;
            request.resize(5 + rest, 0);
            stream.read_exact(&mut request[5..]).unwrap();
            if tell.send(request).is_err() {
                return;
            }
            stream.write_all(b"\x05\0\0\x01\x7f\0\0\x01\0\0").unwrap();
            join(stream, TcpStream::connect(target).unwrap());
        }
    });
    (url, told)
}

#[test]
fn a_socks_proxy_is_asked_for_a_tunnel_and_tls_runs_inside() {
    let base = secured(quick());
    let (_context, server) = endpoint(base.clone());
    for scheme in ["ws", "wss"] {
        let listener = server
            .listen_with(format!("{scheme}://127.0.0.1:0/in"), |_: &Connection| echo)
            .unwrap();
        let (proxy, told) = socks_proxy(listener.local_address());
        let login =
            |password: &str| Credentials::Basic { user: "u".into(), password: password.into() };
        let (_context, client) = endpoint(base.clone().websocket_proxy(&proxy, Some(login("p"))));
        let port = listener.local_address().port();
        let connection =
            client.connect_blocking(format!("{scheme}://localhost:{port}/in")).unwrap();
        let asked = [b"\x05\x01\0\x03\x09localhost", &port.to_be_bytes()[..]].concat();
        assert_eq!(told.recv().unwrap(), asked);
        let reply = connection.request_blocking(data(1 << 20), PATIENCE).unwrap();
        assert!(reply.data == data(1 << 20));
        connection.close_blocking().unwrap();
        for (credentials, words) in
            [(Some(login("q")), "user or the password"), (None, "another way to log in")]
        {
            let (_context, client) = endpoint(base.clone().websocket_proxy(&proxy, credentials));
            let error = client.connect_blocking(listener.url()).unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
        }
    }
}

#[test]
fn options_that_cannot_be_honoured_are_refused_by_name() {
    let refused = |config: ConfigBuilder, option: &str| match config.build() {
        Err(ConfigError::OutOfRange { option: named, .. }) => assert_eq!(named, option),
        other => panic!("{option}: {:?}", other.map(|_| ())),
    };
    refused(Config::builder().websocket_redirects(101), "websocket_redirects");
    refused(Config::builder().websocket_header("Host", "x"), "websocket_header");
    refused(Config::builder().websocket_header("X", "a\r\nY: b"), "websocket_header");
    refused(Config::builder().websocket_subprotocols(["a b"]), "websocket_subprotocols");
    refused(Config::builder().websocket_subprotocols(["a", "a"]), "websocket_subprotocols");
    refused(Config::builder().websocket_subprotocols(["towline.1"]), "websocket_subprotocols");
    refused(Config::builder().websocket_proxy("socks://h:1", None), "websocket_proxy");
    refused(Config::builder().websocket_proxy("http://h:1/x", None), "websocket_proxy");
    let token = Some(Credentials::Bearer("t".into()));
    refused(Config::builder().websocket_proxy("socks5://h:1", token), "websocket_proxy");
    let deflate = DeflateConfig { level: 0, ..DeflateConfig::default() };
    refused(Config::builder().websocket_deflate(deflate), "websocket_deflate");
    let credentials = Credentials::Bearer("no token".into());
    refused(Config::builder().websocket_credentials(credentials), "websocket_credentials");
}

#[test]
fn dropping_the_context_says_goodbye() {
    let (_context, server) = endpoint(plain());
    let listener = server.listen("ws://127.0.0.1:0").unwrap();
    let (context, client) = endpoint(plain());
    let connection = client.connect_blocking(listener.url()).unwrap();
    let accepted = listener.accept_blocking().unwrap();
    connection.send_blocking("last").unwrap();
    drop(context);
    assert_eq!(receive(&accepted).data, "last");
    let ended = wait_ended(&accepted);
    assert!(matches!(ended, Ended::ByPeer { code: 1001, .. }), "{ended}");
}

#[test]
fn events_tell_the_same_story_on_both_kinds() {
    for (config, session) in [(quick(), true), (plain(), false)] {
        let (_context, endpoint) = endpoint(config);
        let listener = endpoint.listen_with("ws://127.0.0.1:0", |_: &Connection| echo).unwrap();
        let seen = Recorder::default();
        let connecting = endpoint.connect_with(listener.url(), seen.clone());
        let connection = common::block_on(connecting).unwrap();
        assert_eq!(connection.capabilities().session, session);
        connection.send_blocking("one").unwrap();
        seen.wait_for("the echo", 1, |event| matches!(event, Event::Message(_)));
        seen.wait_for("flushed", 1, |event| matches!(event, Event::Flushed));
        connection.close_blocking().unwrap();
        assert!(seen.closed().unacknowledged.is_empty());
        assert_eq!(seen.names(), ["connected", "closed"]);
    }
}
