//! Everything that can be asked for wrongly or go wrong ends in one line that says what to do, and the right exit code.

mod common;

use std::net::TcpListener;

use common::{Directory, Server, run};

#[test]
fn wrong_addresses_are_wrong_use() {
    for (url, part) in [
        ("smtp://127.0.0.1:1", "schemes are tcp, tls, quic, bats, udp, ws, wss, ftcp and ftcps"),
        ("127.0.0.1:1", "tcp://host:port"),
        ("tcp://127.0.0.1", "has no port"),
        ("tcp://127.0.0.1:65536", "1 to 65535"),
        ("tcp://127.0.0.1:1/path", "take it out"),
        ("tcp://::1:1", "brackets"),
    ] {
        for command in [&["listen"][..], &["connect"], &["perf", "server"], &["perf", "client"]] {
            run(&[command, &[url]].concat()).expect(2).says(&[part, "towline help"]);
        }
    }
    let mixed = "tcp://127.0.0.1:1,ftcp://127.0.0.1:1";
    run(&["connect", mixed]).expect(2).says(&["all be session wires"]);
}

#[test]
fn options_that_cannot_be_are_wrong_use() {
    let url = "tcp://127.0.0.1:0";
    run(&["connect", url, "--request"]).expect(2).says(&["--message TEXT, --stdin or --framed"]);
    run(&["connect", url, "--insecure"]).expect(2).says(&["--insecure", "tls://"]);
    run(&["listen", url, "--client-auth", "required"]).expect(2).says(&["--client-auth", "tls://"]);
    run(&["listen", "tls://127.0.0.1:0", "--client-auth", "required"])
        .expect(2)
        .says(&["--ca FILE or --pin PIN"]);
    for arguments in [
        &["connect"][..],
        &["connect", url, "--message", "x", "--stdin"],
        &["connect", "tls://127.0.0.1:1", "--pin", "sha256:12"],
        &["connect", "tls://127.0.0.1:1", "--cert", "only-one"],
        &["listen", url, "--echo", "--sink"],
        &["perf", "client", url, "-P", "0"],
        &["perf", "client", url, "-l", "1x"],
        &["perf", "client", url, "-t", "1", "-n", "1"],
        &["nonsense"],
        &[],
    ] {
        let finished = run(arguments).expect(2);
        assert!(finished.stdout.is_empty() && !finished.stderr.is_empty(), "{finished:?}");
    }
}

#[test]
fn a_refused_connection_asks_for_the_server() {
    for wire in ["tcp", "tls", "ftcp"] {
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        run(&["connect", &format!("{wire}://{closed}"), "--message", "x"])
            .expect(1)
            .says(&["refused", "is `towline listen`"]);
    }
}

#[test]
fn a_name_that_does_not_resolve_is_named() {
    for command in [&["connect", "--message", "x"][..], &["listen"]] {
        run(&[command, &["tcp://no-such-host.invalid:7000"]].concat())
            .expect(1)
            .says(&["no-such-host.invalid", "spelling"]);
    }
}

#[test]
fn a_port_in_use_is_told() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("tcp://{}", taken.local_addr().unwrap());
    for command in [&["listen"][..], &["perf", "server"]] {
        run(&[command, &[&url]].concat()).expect(1).says(&["in use", "choose another port"]);
    }
}

#[test]
fn a_silent_server_is_given_up_on() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    for wire in ["tcp", "tls"] {
        let url = format!("{wire}://{}", silent.local_addr().unwrap());
        run(&["connect", &url, "--message", "x", "--timeout", "200ms"])
            .expect(1)
            .says(&["no connection within 200ms"]);
    }
}

#[test]
fn a_request_without_a_reply_says_how_to_get_one() {
    let server = Server::start(&["listen"], "tcp", &["--sink"]);
    server
        .client(&["connect"], &["--message", "x", "--request", "--timeout", "200ms"], b"")
        .expect(1)
        .says(&["no reply within 200ms", "--echo", "--timeout"]);
}

#[test]
fn the_wrong_wire_is_suggested() {
    let tls = Server::start(&["listen"], "tls", &["--echo"]);
    let address = tls.url.strip_prefix("tls").unwrap();
    let plain = run(&["connect", &format!("tcp{address}"), "--message", "x", "--timeout", "2s"]);
    assert_eq!(plain.code, Some(1), "{plain:?}");
    let tcp = Server::start(&["listen"], "tcp", &["--echo"]);
    let address = tcp.url.strip_prefix("tcp").unwrap();
    run(&["connect", &format!("tls{address}"), "--insecure", "-q", "--timeout", "2s"])
        .expect(1)
        .says(&["TLS"]);
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let directory = Directory::new("wrong-key");
    let (cert, _, _) = directory.certificate("a", &["localhost"]);
    let (_, key, _) = directory.certificate("b", &["localhost"]);
    run(&["listen", "tls://127.0.0.1:0", "--cert", &cert, "--key", &key]).expect(2).says(&[
        "does not belong",
        "a.crt",
        "b.key",
    ]);
}

#[test]
fn a_message_beyond_the_wire_s_limit_is_refused() {
    let server = Server::start(&["listen"], "ftcp", &["--sink"]);
    let line = "x".repeat(65_520);
    server.client(&["connect"], &["--stdin"], line.as_bytes()).expect(1).says(&[
        "65520 bytes",
        "65519",
        "fixed by the wire",
    ]);
}

#[test]
fn a_closed_standard_output_is_no_failure() {
    let server = Server::start(&["listen"], "tcp", &["--echo"]);
    let mut client = common::command(&server.arguments(&["connect"], &["--stdin", "--request"]))
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(client.stdout.take());
    let mut stdin = client.stdin.take().unwrap();
    std::thread::spawn(move || {
        use std::io::Write;
        while stdin.write_all(b"a line\n").is_ok() {}
    });
    let finished = client.wait_with_output().unwrap();
    assert_eq!(finished.status.code(), Some(0), "{finished:?}");
    assert!(finished.stderr.is_empty(), "{finished:?}");
}
