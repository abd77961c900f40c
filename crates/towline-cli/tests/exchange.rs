//! `towline listen` and `towline connect` with each other, over every wire.

mod common;

use common::{Directory, Running, Server, WIRES, run};

#[test]
fn a_request_is_answered_on_every_wire() {
    for wire in WIRES {
        let server = Server::start(&["listen"], wire, &["--echo"]);
        let reply =
            server.client(&["connect"], &["--message", "hello", "--request"], b"").expect(0);
        assert_eq!((reply.stdout.as_str(), reply.stderr.as_str()), ("hello\n", ""), "{wire}");
    }
}

#[test]
fn replies_to_many_lines_come_in_their_order() {
    let lines: String = (0..20_000).map(|i| format!("line {i}\n")).collect();
    for wire in WIRES {
        let server = Server::start(&["listen"], wire, &["--echo"]);
        let replies = server.client(&["connect"], &["--stdin", "--request"], lines.as_bytes());
        assert!(replies.expect(0).stdout == lines, "{wire}");
    }
}

#[test]
fn a_line_typed_is_answered_before_the_next_one() {
    let server = Server::start(&["listen"], "tcp", &["--echo"]);
    let mut client = Running::start(&server.arguments(&["connect"], &["--stdin", "--request"]));
    for line in ["one", "two"] {
        client.write(&format!("{line}\n"));
        assert_eq!(client.out.wait_for(line), line);
    }
}

#[test]
fn a_listener_prints_each_line_once_and_in_order() {
    let lines: String = (0..20_000).map(|i| format!("line {i}\n")).collect();
    for wire in WIRES {
        let mut server = Server::start(&["listen"], wire, &["--once"]);
        server.client(&["connect"], &["--stdin"], lines.as_bytes()).expect(0);
        let printed = server.running.finish().expect(0).stdout;
        let printed = printed.split_once('\n').unwrap().1;
        assert!(printed == lines, "{wire}: {} bytes of {}", printed.len(), lines.len());
    }
}

#[test]
fn formats_are_as_documented() {
    for (format, expected) in [
        ("raw", "a \"b\" \u{e9}\n"),
        ("quoted", "\"a \\\"b\\\" \\xc3\\xa9\"\n"),
        ("hex", "612022622220c3a9\n"),
    ] {
        let mut server = Server::start(&["listen"], "tcp", &["--once", "--format", format]);
        server.client(&["connect"], &["--message", "a \"b\" \u{e9}"], b"").expect(0);
        let printed = server.running.finish().expect(0).stdout;
        assert_eq!(printed.split_once('\n').unwrap().1, expected);
    }
    let server = Server::start(&["listen"], "tcp", &["--echo"]);
    let options = ["--message", "\u{e9}", "--request", "--format", "json"];
    let reply = server.client(&["connect"], &options, b"").expect(0);
    let value: serde_json::Value = serde_json::from_str(&reply.stdout).unwrap();
    assert_eq!(value["data"], "\u{e9}");
    assert_eq!((value["size"].as_u64(), value["reply_to"].as_u64()), (Some(2), Some(1)));
}

#[test]
fn what_comes_without_being_asked_for_is_printed() {
    let server = Server::start(&["listen"], "tcp", &["--echo"]);
    let echoed = server.client(&["connect"], &["--stdin", "--wait", "500ms"], b"a\nb\n").expect(0);
    assert_eq!(echoed.stdout, "a\nb\n");
}

#[test]
fn a_sink_prints_nothing() {
    let mut server = Server::start(&["listen"], "tcp", &["--sink", "--once"]);
    server.client(&["connect"], &["--message", "x"], b"").expect(0);
    assert_eq!(server.running.finish().expect(0).stdout.lines().count(), 1);
}

#[test]
fn the_first_address_that_answers_is_taken() {
    let server = Server::start(&["listen"], "tcp", &["--echo"]);
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let urls = format!("tcp://{closed},{}", server.url);
    let reply = run(&["connect", &urls, "--message", "x", "--request"]).expect(0);
    assert_eq!(reply.stdout, "x\n");
}

#[test]
fn a_certificate_is_trusted_by_ca_by_pin_or_not_at_all() {
    let directory = Directory::new("trust");
    let (cert, key, pin) = directory.certificate("server", &["localhost", "127.0.0.1"]);
    let (other, _, wrong_pin) = directory.certificate("other", &["localhost"]);
    for wire in ["tls", "ftcps"] {
        let server = Server::start(&["listen"], wire, &["--echo", "--cert", &cert, "--key", &key]);
        let connect = |options: &[&str]| {
            let options = [&["--message", "x", "--request"], options].concat();
            server.client(&["connect"], &options, b"")
        };
        assert_eq!(connect(&["--ca", &cert]).expect(0).stdout, "x\n");
        assert_eq!(connect(&["--pin", &pin]).expect(0).stdout, "x\n");
        assert_eq!(connect(&["--pin", &wrong_pin, "--pin", &pin]).expect(0).stdout, "x\n");
        let insecure = connect(&["--insecure"]).expect(0);
        assert!(insecure.stderr.contains("not checked"), "{insecure:?}");

        connect(&["--pin", &wrong_pin]).expect(1).says(&[&pin, "pin the new one", "--pin"]);
        connect(&["--ca", &other]).expect(1).says(&["not trusted", &pin, "--ca FILE"]);
        connect(&["--ca", &cert, "--server-name", "elsewhere.example"]).expect(1).says(&[
            "elsewhere.example",
            "localhost",
            "--server-name",
        ]);
        connect(&["--ca", &directory.file("none")]).expect(2).says(&["none"]);
    }
}

#[test]
fn a_listener_may_require_client_certificates() {
    let directory = Directory::new("client-auth");
    let (cert, key, pin) = directory.certificate("server", &["127.0.0.1"]);
    let (client_cert, client_key, _) = directory.certificate("client", &["client.example"]);
    let options = [
        "--echo",
        "--cert",
        &cert,
        "--key",
        &key,
        "--client-auth",
        "required",
        "--ca",
        &client_cert,
    ];
    let server = Server::start(&["listen"], "tls", &options);
    let connect = |options: &[&str]| {
        let options = [&["--message", "x", "--request", "--pin", &pin], options].concat();
        server.client(&["connect"], &options, b"")
    };
    let reply = connect(&["--cert", &client_cert, "--key", &client_key]).expect(0);
    assert_eq!(reply.stdout, "x\n");
    connect(&[]).expect(1).says(&["certificate", "--cert FILE --key FILE"]);
}
