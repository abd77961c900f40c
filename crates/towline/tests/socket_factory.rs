//! Sockets that the application brings: every wire and framing over them, and the contract with their factories.

#![allow(clippy::print_stdout, reason = "tests print what repeats them")]

mod common;

use std::sync::Arc;
use std::time::Instant;

use common::oracle::exchange;
use common::{PATIENCE, Random, quick};
use towline::socket_factory::{Framing, InProcess, SocketFactory, StreamSockets, TlsSockets};
use towline::websocket::SessionUse;
use towline::{
    Address, Config, ConfigBuilder, ConnectError, Connection, Context, Ended, Endpoint, Listener,
    Message, WireError,
};

fn secured(config: ConfigBuilder) -> ConfigBuilder {
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "desk".to_owned()];
    let params = rcgen::CertificateParams::new(names).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap().pem();
    config.certificate_pem(certificate.clone(), key.serialize_pem()).ca_pem(certificate)
}

fn endpoint(config: ConfigBuilder, threads: usize) -> (Context, Endpoint) {
    let context = Context::builder().threads(threads).build().unwrap();
    let endpoint = Endpoint::new(&context, &config.build().unwrap());
    (context, endpoint)
}

/// A listener and a client of it, over in-process sockets.
struct Desk {
    sockets: Arc<InProcess>,
    _context: Context,
    endpoint: Endpoint,
    listener: Listener,
}

fn desk(framing: Framing, wire: &str, config: ConfigBuilder, threads: usize) -> Desk {
    let sockets = Arc::new(InProcess::new(framing));
    let config = config.named_socket_factory("local", Arc::clone(&sockets) as _);
    let (context, endpoint) = endpoint(config, threads);
    let listener = endpoint.listen(format!("local+{wire}://desk")).unwrap();
    sockets.register("desk", listener.attacher());
    Desk { sockets, _context: context, endpoint, listener }
}

impl Desk {
    fn pair(&self) -> (Connection, Connection) {
        let client = self.endpoint.connect_blocking(self.listener.url()).unwrap();
        (client, self.listener.accept_blocking().unwrap())
    }
}

fn receive(connection: &Connection) -> Message {
    connection.set_read_deadline(Some(Instant::now() + PATIENCE));
    connection.recv_blocking().unwrap()
}

#[test]
fn every_wire_runs_over_a_stream_of_bytes() {
    let config = secured(quick());
    for threads in [1, 3] {
        for wire in ["tcp", "tls", "ftcp", "ftcps", "ws", "wss"] {
            println!("{wire}, {threads} I/O threads");
            let desk = desk(Framing::Bytes, wire, config.clone(), threads);
            let (client, server) = desk.pair();
            assert_eq!(client.capabilities().session, !wire.starts_with("ftcp"));
            client.send_blocking(Message::new("up")).unwrap();
            assert_eq!(receive(&server).data, "up");
            server.send_blocking(Message::new("down")).unwrap();
            assert_eq!(receive(&client).data, "down");
            client.flush_blocking().unwrap();
            client.close_blocking().unwrap();
        }
    }
}

#[test]
fn sessions_run_over_every_framing() {
    for (framing, wire) in [
        (Framing::None, "tcp"),
        (Framing::None, "tls"),
        (Framing::None, "ws"),
        (Framing::WebSocketClient, "ws"),
        (Framing::WebSocketServer, "wss"),
    ] {
        println!("{framing:?} {wire}");
        let desk = desk(framing, wire, secured(quick()), 2);
        let (client, server) = desk.pair();
        assert!(client.capabilities().session, "{framing:?} {wire}");
        client.send_blocking(Message::new(vec![7; 300_000])).unwrap();
        assert_eq!(receive(&server).data.len(), 300_000);
        client.close_blocking().unwrap();
    }
}

#[test]
fn messages_of_either_kind_and_size_pass_plain_framings() {
    for framing in
        [Framing::Bytes, Framing::None, Framing::WebSocketClient, Framing::WebSocketServer]
    {
        println!("{framing:?}");
        let config = quick().websocket_session(SessionUse::Never);
        let desk = desk(framing, "ws", config, 2);
        let (client, server) = desk.pair();
        assert!(!client.capabilities().session && client.capabilities().text);
        for (from, to) in [(&client, &server), (&server, &client)] {
            for size in [0, 1, 125, 126, 65_535, 65_536, 2 << 20] {
                from.send_blocking(Message::new(vec![b'x'; size])).unwrap();
                let message = receive(to);
                assert_eq!((message.data.len(), message.is_text), (size, false));
                from.send_blocking(Message::text("x".repeat(size))).unwrap();
                let message = receive(to);
                assert_eq!((message.data.len(), message.is_text), (size, true));
            }
            from.flush_blocking().unwrap();
        }
        common::block_on(client.close_with(4001, "that was all")).unwrap();
        loop {
            match server.recv_blocking() {
                Ok(_) => {}
                Err(towline::RecvError::Ended(ended)) => {
                    let said = Ended::ByPeer { code: 4001, reason: "that was all".into() };
                    assert_eq!(format!("{ended:?}"), format!("{said:?}"));
                    break;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
}

#[test]
fn a_name_that_nobody_listens_to_is_refused_with_the_factorys_own_error() {
    let desk = desk(Framing::Bytes, "tcp", quick(), 1);
    let refused = desk.endpoint.connect_blocking("local+tcp://nobody").unwrap_err();
    let ConnectError::Wire { error: WireError::Io(error), address } = &refused else {
        panic!("{refused:?}")
    };
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    assert_eq!(&**address, "local+tcp://nobody");
    let unknown = desk.endpoint.connect_blocking("other+tcp://desk").unwrap_err();
    assert!(matches!(unknown, ConnectError::Address(_)), "{unknown:?}");
    desk.sockets.unregister("desk");
    desk.endpoint.connect_blocking("local+tcp://desk").unwrap_err();
}

#[test]
fn streams_of_the_system_serve_as_factories() {
    let folder = std::env::temp_dir().join(format!("towline-factory-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("socket");
    let tcp = Arc::new(StreamSockets::tcp().unwrap());
    let unix = Arc::new(StreamSockets::unix().unwrap());
    for (name, sockets) in [("sys", tcp), ("unix", unix)] {
        for wire in ["tcp", "tls", "ws", "ftcp"] {
            println!("{name} {wire}");
            let config = secured(quick()).server_name("localhost");
            let config = config.named_socket_factory(name, Arc::clone(&sockets) as _);
            let (_context, endpoint) = endpoint(config, 2);
            let url = match name {
                "sys" => format!("{name}+{wire}://127.0.0.1:0"),
                _ => format!("{name}+{wire}://{}", path.display()),
            };
            let listener = endpoint.listen(&url).unwrap();
            let accepting = sockets.listen(&listener.url(), listener.attacher()).unwrap();
            let to: Address = url.parse().unwrap();
            let to = accepting.port().map_or(to.clone(), |port| to.with_port(port));
            let client = endpoint.connect_blocking(&to).unwrap();
            let server = listener.accept_blocking().unwrap();
            for size in [0, 1, 60_000] {
                client.send_blocking(Message::new(vec![1; size])).unwrap();
                assert_eq!(receive(&server).data.len(), size);
            }
            client.flush_blocking().unwrap();
            client.close_blocking().unwrap();
        }
    }
    std::fs::remove_dir_all(folder).ok();
}

#[test]
fn tls_over_another_factory_authenticates_and_carries() {
    let config = secured(quick());
    let checked: Config = config.clone().build().unwrap();
    let below = Arc::new(InProcess::new(Framing::Bytes));
    let sockets: Arc<dyn SocketFactory> =
        Arc::new(TlsSockets::over(Arc::clone(&below) as _, &checked));
    // Both ends do their TLS in the factory: the listener's sockets are wrapped by the one that brings them.
    let (_context, endpoint) = endpoint(config.named_socket_factory("safe", sockets), 2);
    let listener = endpoint.listen("safe+tls://desk").unwrap();
    below.register("desk", listener.attacher());
    // TLS by the factory here, by Towline there: the same bytes in between.
    let client = endpoint.connect_blocking("safe+tcp://desk").unwrap();
    let server = listener.accept_blocking().unwrap();
    client.send_blocking(Message::new(vec![9; 1 << 20])).unwrap();
    assert_eq!(receive(&server).data.len(), 1 << 20);
    server.send_blocking(Message::new(vec![8; 1 << 20])).unwrap();
    assert_eq!(receive(&client).data.len(), 1 << 20);
    client.close_blocking().unwrap();
    // A name that the certificate does not have.
    below.register("elsewhere", listener.attacher());
    let refused = endpoint.connect_blocking("safe+tcp://elsewhere").unwrap_err();
    assert!(matches!(&refused, ConnectError::Wire { error: WireError::Tls(_), .. }), "{refused:?}");
}

#[test]
fn random_messages_pass_a_factory_once_and_in_order() {
    let random = Random::from_env(6);
    for framing in [Framing::Bytes, Framing::None] {
        let desk = desk(framing, "tcp", quick(), 2);
        let (client, server) = desk.pair();
        let mut random = Random(random.0);
        exchange(&client, &server, &mut random, 200, 1 << 20);
    }
}
