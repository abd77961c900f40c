//! `--metrics` and the log's formats.

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;

use common::{PATIENCE, Running, Signal, run};

/// The status line and the body.
fn get(address: &str, request: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "{request} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

#[test]
fn long_running_commands_serve_their_counters() {
    for command in [
        &["listen", "tcp://127.0.0.1:0", "--sink", "--announce"][..],
        &["receive", "tcp://127.0.0.1:0", "--announce"],
        &["perf", "server", "tcp://127.0.0.1:0", "--announce"],
        &["link", "--tcp", "127.0.0.1:0=127.0.0.1:9", "--announce"],
        &["relay", "bats://127.0.0.1:0", "--allow", "*", "--announce"],
    ] {
        let mut running = Running::start(&[command, &["--metrics", "127.0.0.1:0"]].concat());
        let line = running.err.wait_for("metrics at http://");
        let address = line.split("http://").nth(1).unwrap().split('/').next().unwrap().to_owned();
        let announced = running.out.wait_for("listening ");
        if command[0] == "listen" {
            let url = announced.strip_prefix("listening ").unwrap();
            run(&["connect", url, "--message", "four"]).expect(0);
        }
        let (status, page) = get(&address, "GET /metrics");
        assert_eq!(status, "HTTP/1.1 200 OK");
        assert!(page.ends_with("# EOF\n") && page.contains("towline_uptime_seconds "), "{page}");
        if command[0] == "listen" {
            assert!(page.contains("towline_received_bytes_total 4\n"), "{page}");
            assert!(page.contains("towline_connections_total 1\n"), "{page}");
        }
        if command[0] == "relay" {
            assert!(page.contains("towline_relay_flows 0\n"), "{page}");
        }
        assert_eq!(get(&address, "GET /healthz"), ("HTTP/1.1 200 OK".into(), "ok\n".into()));
        assert!(get(&address, "GET /").0.contains("404"));
        assert!(get(&address, "POST /metrics").0.contains("405"));
        // A silent client and one that says too much hold nobody up for long.
        let _silent = TcpStream::connect(&address).unwrap();
        let mut loud = TcpStream::connect(&address).unwrap();
        loud.write_all(&[b'x'; 5000]).ok();
        assert_eq!(get(&address, "GET /healthz").0, "HTTP/1.1 200 OK");
        running.signal(Signal::TERM);
        running.finish().expect(0);
    }
}

#[test]
fn the_log_can_be_json() {
    let arguments = ["-vv", "--log-format", "json", "connect", "tcp://127.0.0.1:1"];
    let failed = run(&arguments).expect(1);
    let line = failed.stderr.lines().find(|line| line.starts_with('{')).expect("a line of JSON");
    let value: serde_json::Value = serde_json::from_str(line).unwrap();
    assert!(value["level"].is_string() && value["fields"].is_object(), "{value}");
}
