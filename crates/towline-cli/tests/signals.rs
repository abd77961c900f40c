//! SIGINT and SIGTERM.

mod common;

use common::{Running, Server, Signal};

#[test]
fn a_listener_drains_and_ends() {
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 0)] {
        for wire in ["tcp", "tls", "ftcp"] {
            let mut server = Server::start(&["listen"], wire, &[]);
            let arguments = server.arguments(&["connect"], &["--stdin"]);
            let mut client = Running::start(&arguments);
            client.write("before the signal\n");
            assert_eq!(server.running.out.wait_for("before"), "before the signal");
            server.running.signal(signal);
            server.running.finish().expect(code);
            if wire != "ftcp" {
                // The client learns of it; it has more to send, so that is a failure.
                let told = client.finish();
                assert_eq!(told.code, Some(1), "{told:?}");
                assert!(told.stderr.contains("closed the connection"), "{told:?}");
            }
        }
    }
}

#[test]
fn a_client_ends_at_once() {
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let mut server = Server::start(&["listen"], "tcp", &["-v"]);
        let mut client = Running::start(&server.arguments(&["connect"], &[]));
        server.running.err.wait_for("connection 1 from");
        client.signal(signal);
        let ended = client.finish().expect(code);
        assert_eq!((ended.stdout.as_str(), ended.stderr.as_str()), ("", ""));
    }
}

#[test]
fn a_measurement_prints_its_summary() {
    for scenario in ["upload", "latency"] {
        let server = Server::start(&["perf", "server"], "tcp", &[]);
        let options = ["-t", "600", "-i", "0.05", "--scenario", scenario];
        let mut client = Running::start(&server.arguments(&["perf", "client"], &options));
        client.out.wait_for("0.00-");
        client.signal(Signal::INT);
        let ended = client.finish().expect(130);
        assert!(ended.stdout.contains("goodput"), "{ended:?}");
    }
}

#[test]
fn a_perf_server_ends() {
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 0)] {
        let mut server = Server::start(&["perf", "server"], "tcp", &[]);
        server.running.signal(signal);
        server.running.finish().expect(code);
    }
}
