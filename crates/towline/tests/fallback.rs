//! One connection over several wires: the first that answers, another when it dies, and back to a better one. Nothing is
//! lost or doubled by any of it.

#![allow(clippy::print_stdout, reason = "tests print what repeats them")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use common::oracle::converse;
use common::proxy::{BlackHole, Cut, Nobody, Proxy};
use common::router::Router;
use common::{PATIENCE, Random, Recorder, block_on, eventually, identified, ms};
use towline::socket_factory::{Framing, InProcess};
use towline::{ConfigBuilder, Connection, Context, Endpoint, Event, Listener, Message, Wire};

/// A server that listens on a wire of each kind, in one endpoint, with a proxy in front of each.
struct Server {
    _context: Context,
    endpoint: Endpoint,
    listeners: Vec<Listener>,
    proxies: Vec<Proxy>,
    wires: Vec<&'static str>,
}

fn server(config: &ConfigBuilder, wires: &[&'static str]) -> Server {
    let context = Context::builder().threads(2).build().unwrap();
    let endpoint = Endpoint::new(&context, &config.clone().build().unwrap());
    let listen = |wire: &&str| endpoint.listen(format!("{wire}://127.0.0.1:0")).unwrap();
    let listeners: Vec<Listener> = wires.iter().map(listen).collect();
    let proxies = listeners.iter().map(|listener| Proxy::new(&listener.url())).collect();
    Server { _context: context, endpoint, listeners, proxies, wires: wires.to_vec() }
}

impl Server {
    fn list(&self) -> String {
        let urls = self.proxies.iter().zip(&self.wires).map(|(proxy, wire)| proxy.url(wire));
        urls.collect::<Vec<_>>().join(", ")
    }

    /// The session's other end, whichever listener it came to first.
    fn accept(&self) -> Connection {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let found = self.listeners.iter().find_map(|listener| listener.try_accept().unwrap());
            if let Some(connection) = found {
                return connection;
            }
            assert!(Instant::now() < deadline, "nobody came");
            std::thread::yield_now();
        }
    }
}

fn client(config: &ConfigBuilder) -> (Context, Endpoint) {
    let context = Context::builder().threads(1).build().unwrap();
    let endpoint = Endpoint::new(&context, &config.clone().build().unwrap());
    (context, endpoint)
}

fn connected_over(event: &Event, wire: Wire) -> bool {
    matches!(event, Event::Connected(connected)
        if connected.address.as_ref().is_some_and(|address| address.wire() == wire))
}

#[test]
fn the_first_wire_that_answers_carries_the_session() {
    // One refuses, one neither answers nor refuses, one speaks no session, one is right.
    let config = identified().head_start(ms(20));
    let server = server(&config, &["ws"]);
    let (_context, endpoint) = client(&config);
    let (nobody, hole) = (Nobody::new(), BlackHole::new());
    let plain = identified().websocket_session(towline::websocket::SessionUse::Never);
    let (_other, stranger) = client(&plain);
    let stranger = stranger.listen("ws://127.0.0.1:0").unwrap();
    let list = format!(
        "{}, {}, {}, {}",
        nobody.url("tcp"),
        hole.url("tls"),
        stranger.url(),
        server.list()
    );
    let connection = endpoint.connect_blocking(&list).unwrap();
    assert_eq!(connection.wire(), Wire::Ws);
    let accepted = server.accept();
    connection.send_blocking(Message::new("here")).unwrap();
    assert_eq!(accepted.recv_blocking().unwrap().data, "here");
    connection.close_blocking().unwrap();
}

#[test]
fn the_session_goes_on_over_another_wire_when_the_first_dies() {
    let config = identified().head_start(ms(50));
    for wires in [["tcp", "ws"], ["wss", "tls"], ["ws", "wss"]] {
        println!("{wires:?}");
        let mut server = server(&config, &wires);
        let (_context, endpoint) = client(&config);
        let events = Recorder::default();
        let connection = block_on(endpoint.connect_with(server.list(), events.clone())).unwrap();
        let accepted = server.accept();
        assert_eq!(connection.wire().scheme(), wires[0]);
        exchange_through_handler(&connection, &accepted, &events);
        server.proxies[0].outage();
        assert!(server.proxies[0].cut(Cut::Reset) > 0);
        let second: Wire = Wire::ALL.into_iter().find(|wire| wire.scheme() == wires[1]).unwrap();
        events.wait_for("another wire", 1, |event| connected_over(event, second));
        exchange_through_handler(&connection, &accepted, &events);
        assert_eq!(connection.stats().resets, 0);
        connection.close_blocking().unwrap();
    }
}

/// A message each way; the client's go to its handler.
fn exchange_through_handler(client: &Connection, server: &Connection, events: &Recorder) {
    client.send_blocking(Message::new("up")).unwrap();
    server.set_read_deadline(Some(Instant::now() + PATIENCE));
    assert_eq!(server.recv_blocking().unwrap().data, "up");
    let before = events.events().iter().filter(|event| matches!(event, Event::Message(_))).count();
    server.send_blocking(Message::new("down")).unwrap();
    events.wait_for("a message", before + 1, |event| matches!(event, Event::Message(_)));
}

#[test]
fn the_session_returns_to_a_better_wire_if_asked_to() {
    let config = identified().head_start(ms(50)).return_to_better(ms(50));
    let mut server = server(&config, &["tls", "tcp", "ws"]);
    let (_context, endpoint) = client(&config);
    server.proxies[0].outage();
    server.proxies[1].outage();
    let events = Recorder::default();
    let connection = block_on(endpoint.connect_with(server.list(), events.clone())).unwrap();
    let accepted = server.accept();
    assert_eq!(connection.wire(), Wire::Ws);
    // The middle one comes back, and then the best.
    for (proxy, wire) in [(1, Wire::Tcp), (0, Wire::Tls)] {
        server.proxies[proxy].open();
        events.wait_for("the better wire", 1, |event| connected_over(event, wire));
        eventually("the wire is told", || connection.wire() == wire);
        exchange_through_handler(&connection, &accepted, &events);
    }
    assert_eq!(connection.stats().wires_lost, 0, "a move is not a loss");
    connection.close_blocking().unwrap();
}

#[test]
fn without_asking_it_stays_with_what_works() {
    let config = identified().head_start(ms(20));
    let mut server = server(&config, &["tcp", "ws"]);
    let (_context, endpoint) = client(&config);
    server.proxies[0].outage();
    let connection = endpoint.connect_blocking(server.list()).unwrap();
    let accepted = server.accept();
    server.proxies[0].open();
    for _ in 0..50 {
        connection.send_blocking(Message::new("x")).unwrap();
        accepted.recv_blocking().unwrap();
    }
    assert_eq!((connection.wire(), server.proxies[0].accepted()), (Wire::Ws, 0));
    connection.close_blocking().unwrap();
}

#[test]
fn a_network_without_datagrams_is_left_for_a_stream_and_returned_to() {
    let config = identified()
        .head_start(ms(30))
        .return_to_better(ms(50))
        .keep_alive(ms(100))
        .silence_limit(ms(500));
    let mut server = server(&config, &["tls"]);
    let quic = server.endpoint.listen("quic://127.0.0.1:0").unwrap();
    let wall = Router::new(quic.local_address());
    server.listeners.push(quic);
    let (_context, endpoint) = client(&config);
    let events = Recorder::default();
    // A firewall that lets no UDP through.
    wall.swallow(true);
    let list = format!("quic://{}, {}", wall.address(), server.list());
    let connection = block_on(endpoint.connect_with(list, events.clone())).unwrap();
    let accepted = server.accept();
    assert_eq!(connection.wire(), Wire::Tls);
    exchange_through_handler(&connection, &accepted, &events);
    wall.swallow(false);
    events.wait_for("QUIC", 1, |event| connected_over(event, Wire::Quic));
    exchange_through_handler(&connection, &accepted, &events);
    // Messages are under way when it goes away for good.
    for count in 0..100_u32 {
        connection.send_blocking(count.to_string()).unwrap();
        if count == 50 {
            wall.swallow(true);
        }
    }
    events.wait_for("TLS again", 2, |event| connected_over(event, Wire::Tls));
    for count in 0..100_u32 {
        accepted.set_read_deadline(Some(Instant::now() + PATIENCE));
        assert_eq!(accepted.recv_blocking().unwrap().data, count.to_string());
    }
    exchange_through_handler(&connection, &accepted, &events);
    assert_eq!(connection.stats().resets, 0);
    connection.close_blocking().unwrap();
}

#[test]
fn nothing_is_lost_or_doubled_while_the_wires_come_and_go() {
    let mut random = Random::from_env(8);
    let config = identified().head_start(ms(5)).return_to_better(ms(10));
    let mut server = server(&config, &["tcp", "ws", "tls"]);
    let (_context, endpoint) = client(&config);
    let connection = endpoint.connect_blocking(server.list()).unwrap();
    let accepted = server.accept();
    let over = Arc::new(AtomicBool::new(false));
    let faults = Random(random.next());
    let proxies = std::mem::take(&mut server.proxies);
    let disturb = {
        let over = Arc::clone(&over);
        std::thread::spawn(move || disturb(proxies, faults, &over))
    };
    let started = Instant::now();
    let most = ms(3000);
    converse(&connection, &accepted, &mut random, 200_000, move |sent| {
        sent < 400 || (sent < 4000 && started.elapsed() < most)
    });
    over.store(true, Ordering::SeqCst);
    let (proxies, moves) = disturb.join().unwrap();
    println!("{moves} faults; {:?}", connection.stats());
    assert_eq!(connection.stats().resets, 0);
    assert!(moves > 2, "the wires were left in peace");
    connection.close_blocking().unwrap();
    drop((proxies, server.endpoint));
}

/// Takes wires away and brings them back, never all of them at once.
fn disturb(mut proxies: Vec<Proxy>, mut random: Random, over: &AtomicBool) -> (Vec<Proxy>, usize) {
    let mut faults = 0;
    while !over.load(Ordering::SeqCst) {
        let victim = random.below(2) as usize;
        proxies[victim].outage();
        let how = if random.below(2) == 0 { Cut::Reset } else { Cut::Fin };
        faults += proxies[victim].cut(how);
        std::thread::sleep(ms(10 + random.below(40)));
        proxies[victim].open();
        std::thread::sleep(ms(10 + random.below(40)));
    }
    (proxies, faults)
}

#[test]
fn a_list_may_mix_the_systems_sockets_and_factories() {
    let sockets = Arc::new(InProcess::new(Framing::Bytes));
    let config = identified()
        .head_start(ms(20))
        .return_to_better(ms(30))
        .named_socket_factory("local", Arc::clone(&sockets) as _);
    let server = server(&config, &["tcp"]);
    let desk = server.endpoint.listen("local+tcp://desk").unwrap();
    let (_context, endpoint) = client(&config);
    let events = Recorder::default();
    let list = format!("local+tcp://desk, {}", server.list());
    let connection = block_on(endpoint.connect_with(list, events.clone())).unwrap();
    let accepted = server.accept();
    exchange_through_handler(&connection, &accepted, &events);
    // The session moves to a listener of another kind when there is one.
    sockets.register("desk", desk.attacher());
    events.wait_for("the factory", 1, |event| {
        matches!(event, Event::Connected(connected)
            if connected.address.as_ref().is_some_and(|address| address.factory() == Some("local")))
    });
    exchange_through_handler(&connection, &accepted, &events);
    sockets.unregister("desk");
    connection.close_blocking().unwrap();
}
