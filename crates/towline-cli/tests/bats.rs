//! `bats://` and `udp://` by the command: listeners, clients and relays between them.

mod common;

use common::{Directory, Running, Server, Signal, run};

/// A relay that lets flows go anywhere.
fn relay(cert: &str, key: &str) -> Server {
    let options = ["--allow", "*", "--next-ca", cert, "--cert", cert, "--key", key];
    Server::start(&["relay"], "bats", &options)
}

#[test]
fn two_relays_carry_a_conversation_and_say_what_they_did() {
    let scratch = Directory::new("bats-relays");
    let (cert, key, _) = scratch.certificate("local", &["127.0.0.1"]);
    let server = Server::start(&["listen"], "bats", &["--echo", "--cert", &cert, "--key", &key]);
    let mut relays = [relay(&cert, &key), relay(&cert, &key)];
    let via = relays.each_ref().map(|relay| relay.url.trim_start_matches("bats://").to_owned());
    let url = format!("{}?via={}", server.url, via.join(","));
    let lines: String = (0..2000).map(|i| format!("line {i}\n")).collect();
    let arguments = ["connect", &url, "--ca", &cert, "--stdin", "--request"];
    let replies = common::run_with(&arguments, lines.as_bytes()).expect(0);
    assert!(replies.stdout == lines, "{} bytes of {}", replies.stdout.len(), lines.len());
    for relay in &mut relays {
        relay.running.signal(Signal::TERM);
        let totals = relay.running.finish().expect(0).stdout;
        assert!(totals.contains(" 1 passed"), "{totals}");
    }
    // They are gone.
    let missing = run(&["connect", &url, "--ca", &cert, "--message", "x", "--timeout", "500ms"]);
    missing.expect(1).says(&["bats://"]);
}

#[test]
fn datagrams_pass_as_they_are_and_coded() {
    for (wire, url) in [("udp", "udp://127.0.0.1:0"), ("bats", "bats://127.0.0.1:0?mode=btp")] {
        let server = Server::start_at(&["listen"], url, &["--echo"]);
        let mut arguments = server.arguments(&["connect"], &["--stdin"]);
        arguments.push("-v");
        let mut client = Running::start(&arguments);
        for line in ["one", "two"] {
            client.write(&format!("{line}\n"));
            assert_eq!(client.out.wait_for(line), line, "{wire}");
        }
    }
}

#[test]
fn measurements_and_files_go_over_coded_packets() {
    let scratch = Directory::new("bats-perf");
    let server = Server::start(&["perf", "server"], "bats", &[]);
    let options = ["--bytes", "2M", "--json"];
    let shown = server.client(&["perf", "client"], &options, b"").expect(0);
    let value: serde_json::Value = serde_json::from_str(&shown.stdout).unwrap();
    assert!(value["end"]["sum_received"]["bytes"].as_u64() >= Some(2_000_000), "{value}");
    drop(server);
    let (file, place) = (scratch.file("sent"), scratch.file("received"));
    std::fs::write(&file, vec![7; 300_000]).unwrap();
    std::fs::create_dir_all(&place).unwrap();
    let server = Server::start(&["receive"], "bats", &["--out", &place]);
    server.client(&["send"], &[&file], b"").expect(0);
    let received = std::fs::read(std::path::Path::new(&place).join("sent")).unwrap();
    assert!(received == vec![7; 300_000]);
}

#[test]
fn a_client_whose_address_changes_goes_on_over_the_same_wire() {
    let server = Server::start(&["perf", "server"], "bats", &["-1", "--json"]);
    let proxy = format!("127.0.0.1:0={}", server.url.trim_start_matches("bats://"));
    let options = ["--rate", "50M", "--delay", "5ms", "--rebind", "500ms", "--rebind", "1s"];
    let fixed = ["link", "--udp", &proxy, "--announce", "--json", "-q"];
    let mut link = Running::start(&[&fixed[..], &options[..]].concat());
    let line = link.out.wait_for("listening ");
    let through = Server { url: line.replace("listening udp", "bats"), ..server };
    let shown = through.client(&["perf", "client"], &["-t", "1.5", "--json"], b"").expect(0);
    let end = &serde_json::from_str::<serde_json::Value>(&shown.stdout).unwrap()["end"];
    assert_eq!(end["sum_sent"]["bytes"], end["sum_received"]["bytes"]);
    assert_eq!(end["sum_sent"]["wires_lost"], 0, "{end:#}");
    link.signal(Signal::TERM);
    link.finish().expect(0);
}

#[test]
fn what_is_wrong_with_an_address_is_said_before_anything_is_sent() {
    for (url, says) in [
        ("bats://127.0.0.1:1?mode=tcp", "brtp, btp, brctp or transparent"),
        ("bats://127.0.0.1:1?via=nowhere", "host:port"),
        ("bats://127.0.0.1:1?mode=btp&deadline=0", "1 to 8000"),
    ] {
        run(&["connect", url, "--message", "x"]).expect(2).says(&[says]);
    }
    let refused = run(&["listen", "bats://127.0.0.1:0?via=a:1"]).expect(2);
    assert!(refused.stderr.contains("the client says it"), "{refused:?}");
}
