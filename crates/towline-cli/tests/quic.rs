//! Plain QUIC streams by the command: `--alpn`.

mod common;

use std::net::UdpSocket;

use common::{Directory, Server, run};

#[test]
fn an_echo_answers_streams_of_every_size() {
    let server =
        Server::start(&["listen"], "quic", &["--alpn", "hq-interop", "--alpn", "test", "--echo"]);
    let long: Vec<u8> = (0..3_000_000u32).map(|i| (i % 251) as u8).collect();
    for input in [&b""[..], b"by the mark, five\n", &long] {
        let finished = server.client(&["connect"], &["--alpn", "test"], input).expect(0);
        assert!(finished.stdout.as_bytes() == String::from_utf8_lossy(input).as_bytes());
    }
    let finished = server.client(&["connect"], &["--alpn", "test", "--message", "one"], b"");
    assert_eq!(finished.expect(0).stdout, "one");
}

#[test]
fn a_listener_prints_what_comes_and_ends_after_one() {
    let mut server = Server::start(&["listen"], "quic", &["--alpn", "test", "--once"]);
    server.client(&["connect"], &["--alpn", "test", "--message", "hello"], b"").expect(0);
    let finished = server.running.finish().expect(0);
    assert!(finished.stdout.ends_with("hello"), "{finished:?}");
}

#[test]
fn what_does_not_fit_is_told_with_what_to_do() {
    let server = Server::start(&["listen"], "quic", &["--alpn", "test", "--echo"]);
    let wrong = server.client(&["connect"], &["--alpn", "other", "--message", "x"], b"");
    wrong.expect(1).says(&["no application protocol in common", "same ALPN"]);
    // A session speaks another protocol than the streams.
    server.client(&["connect"], &["--message", "x"], b"").expect(1).says(&["application protocol"]);
    run(&["connect", &server.url, "--alpn", "test", "--message", "x"])
        .expect(1)
        .says(&["certificate", "--ca FILE or --pin PIN"]);
    run(&["connect", "tcp://127.0.0.1:1", "--alpn", "x"])
        .expect(2)
        .says(&["--alpn is for quic://"]);
    run(&["listen", "tcp://127.0.0.1:1", "--alpn", "x"]).expect(2).says(&["--alpn is for quic://"]);
    let directory = Directory::new("taken");
    let (cert, key, _) = directory.certificate("server", &["localhost"]);
    run(&["listen", &server.url, "--alpn", "test", "--cert", &cert, "--key", &key])
        .expect(1)
        .says(&["in use", "another port"]);
    run(&["connect", "quic://no-such-host.invalid:1", "--alpn", "x"])
        .expect(1)
        .says(&["no-such-host.invalid", "spelling"]);
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let url = format!("quic://{}", silent.local_addr().unwrap());
    run(&["connect", &url, "--alpn", "x", "--ca", &cert, "--timeout", "300ms"])
        .expect(1)
        .says(&["did not finish the handshake in time", "firewall"]);
}

#[test]
fn files_give_certificates_to_both_sides() {
    let directory = Directory::new("quic");
    let (cert, key, _) = directory.certificate("server", &["localhost", "127.0.0.1"]);
    let (own, own_key, own_pin) = directory.certificate("client", &["client"]);
    let options = ["--alpn", "test", "--echo", "--cert", &cert, "--key", &key];
    let authenticated = ["--client-auth", "required", "--pin", &own_pin];
    let server = Server::start(&["listen"], "quic", &[&options[..], &authenticated].concat());
    let trust = ["--alpn", "test", "--ca", &cert, "--message", "x"];
    let nameless = server.client(&["connect"], &trust, b"");
    nameless.expect(1).says(&["certificate"]);
    let own = ["--cert", &own, "--key", &own_key];
    let finished = server.client(&["connect"], &[&trust[..], &own].concat(), b"");
    assert_eq!(finished.expect(0).stdout, "x");
}
