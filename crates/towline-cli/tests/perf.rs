//! `towline perf`.

mod common;

use common::{Server, WIRES, run};
use serde_json::Value;

fn measure(wire: &str, options: &[&str]) -> Value {
    let mut server = Server::start(&["perf", "server"], wire, &["-1", "--json"]);
    let options = [&["--json"], options].concat();
    let measured = server.client(&["perf", "client"], &options, b"").expect(0);
    let served = server.running.finish().expect(0);
    let served: Value = serde_json::from_str(served.stdout.lines().nth(1).unwrap()).unwrap();
    let value: Value = serde_json::from_str(&measured.stdout).unwrap();
    assert_eq!((&value["schema_version"], &served["schema_version"]), (&1.into(), &1.into()));
    assert_eq!(value["start"]["test_start"]["protocol"], wire);
    // Both sides tell the same story.
    let scenario = value["start"]["test_start"]["scenario"].as_str().unwrap();
    let there = if scenario == "download" { "sum_sent" } else { "sum_received" };
    assert_eq!(served["sum"]["bytes"], value["end"][there]["bytes"]);
    value
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[track_caller]
fn check(value: &Value) {
    let end = &value["end"];
    for sum in ["sum_sent", "sum_received"] {
        for key in ["bytes", "seconds", "bits_per_second", "messages", "messages_per_second"] {
            assert!(number(&end[sum][key]) > 0.0, "{sum} {key}: {end:#}");
        }
    }
    assert_eq!(end["sum_sent"]["bytes"], end["sum_received"]["bytes"]);
    for side in ["host", "remote"] {
        assert!(number(&end["cpu_seconds_per_gigabyte"][side]) > 0.0, "{end:#}");
        let total = format!("{side}_total");
        assert!(number(&end["cpu_utilization_percent"][&total]) > 0.0, "{end:#}");
    }
    let rtt = &end["rtt_us"];
    let ordered = ["p50", "p90", "p99", "max"].map(|key| number(&rtt[key]));
    assert!(ordered[0] > 0.0 && ordered.is_sorted(), "{rtt}");
    let intervals = value["intervals"].as_array().unwrap();
    assert!(!intervals.is_empty());
    let bytes: f64 = intervals.iter().map(|interval| number(&interval["sum"]["bytes"])).sum();
    assert_eq!(bytes, number(&end["sum_received"]["bytes"]), "{value:#}");
    let wire = number(&end["sum_sent"]["wire_bytes_sent"]);
    assert!(wire >= number(&end["sum_sent"]["bytes"]), "{end:#}");
}

#[test]
fn a_time_is_measured_on_every_wire() {
    for wire in WIRES {
        let value = measure(wire, &["-t", "0.3", "-i", "0.1"]);
        check(&value);
        assert!(value["intervals"].as_array().unwrap().len() >= 2);
    }
}

#[test]
fn an_amount_is_measured_in_both_directions() {
    for wire in WIRES {
        for reverse in [false, true] {
            let options = ["-n", "8M", "-P", "2", "-l", "32K"];
            let options = [&options[..], if reverse { &["-R"] } else { &[] }].concat();
            let value = measure(wire, &options);
            check(&value);
            assert_eq!(value["end"]["sum_received"]["bytes"], 16 << 20);
            assert_eq!(value["end"]["sum_received"]["messages"], 512);
            assert_eq!(value["end"]["streams"].as_array().unwrap().len(), 2);
            assert_eq!(value["start"]["test_start"]["reverse"], u8::from(reverse));
            assert_eq!(value["start"]["connected"].as_array().unwrap().len(), 2);
        }
    }
}

#[test]
fn requests_are_measured_one_by_one_and_many_at_a_time() {
    for wire in ["tcp", "ftcps"] {
        for scenario in ["latency", "rps"] {
            let value = measure(wire, &["-t", "0.2", "--scenario", scenario, "-l", "100"]);
            check(&value);
            let messages = number(&value["end"]["sum_received"]["messages"]);
            assert_eq!(number(&value["end"]["rtt_us"]["count"]), messages);
        }
    }
}

#[test]
fn the_driver_is_chosen_and_told() {
    for driver in ["epoll", "io-uring"] {
        let value = measure("tcp", &["-n", "1M", "--threads", "1", "--driver", driver]);
        assert_eq!(value["start"]["driver"], driver.replace('-', "_"));
    }
    run(&["perf", "client", "tcp://127.0.0.1:1", "--threads", "0"]).expect(2).says(&["threads"]);
}

#[test]
fn a_rate_is_kept() {
    let value = measure("tcp", &["-n", "256K", "-l", "8K", "-b", "8M"]);
    check(&value);
    // 256 KiB at 8 Mbit/s are 262 ms; noise only makes it longer.
    let seconds = number(&value["end"]["sum_sent"]["seconds"]);
    assert!(seconds > 0.2, "{seconds}");
}

#[test]
fn text_has_intervals_and_a_summary() {
    let server = Server::start(&["perf", "server"], "tcp", &[]);
    let text = server.client(&["perf", "client"], &["-t", "0.3", "-i", "0.1"], b"").expect(0);
    for part in ["upload tcp://127.0.0.1:", "messages/s", "goodput", "RTT", "p99", "wire", "s/GB"] {
        assert!(text.stdout.contains(part), "{part}:\n{}", text.stdout);
    }
    assert_eq!(text.stderr, "");
}

#[test]
fn a_length_beyond_the_wire_s_limit_is_refused() {
    let server = Server::start(&["perf", "server"], "ftcp", &[]);
    server.client(&["perf", "client"], &["-l", "64K"], b"").expect(2).says(&["1 to 65519"]);
}

#[test]
fn other_peers_are_turned_away_with_words() {
    let server = Server::start(&["perf", "server"], "tcp", &[]);
    let lost = run(&["connect", &server.url, "--message", "x", "--request"]).expect(1);
    assert!(lost.stderr.contains("towline perf client"), "{lost:?}");
}

#[test]
fn both_directions_run_at_once() {
    let value = measure_both(&["-n", "2M", "-P", "2"]);
    let end = &value["end"];
    for sum in ["sum_received", "sum_received_bidir_reverse"] {
        assert_eq!(end[sum]["bytes"], 4 << 20, "{end:#}");
    }
}

fn measure_both(options: &[&str]) -> Value {
    let server = Server::start(&["perf", "server"], "tcp", &[]);
    let options = [&["--json", "--bidir"], options].concat();
    let measured = server.client(&["perf", "client"], &options, b"").expect(0);
    serde_json::from_str(&measured.stdout).unwrap()
}

#[test]
fn a_stream_of_json_has_a_start_intervals_and_an_end() {
    let server = Server::start(&["perf", "server"], "tcp", &[]);
    let options = ["--json-stream", "-t", "0.3", "-i", "0.1", "-O", "0.2"];
    let measured = server.client(&["perf", "client"], &options, b"").expect(0);
    let lines: Vec<Value> =
        measured.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let events: Vec<&str> = lines.iter().map(|line| line["event"].as_str().unwrap()).collect();
    assert_eq!((events[0], events[events.len() - 1]), ("start", "end"));
    let intervals = &lines[1..lines.len() - 1];
    assert!(intervals.len() >= 2 && intervals.iter().all(|line| line["event"] == "interval"));
    // What is left out comes first, is marked, and does not count.
    let omitted: Vec<bool> =
        intervals.iter().map(|line| line["data"]["sum"]["omitted"].as_bool().unwrap()).collect();
    assert!(omitted[0] && !omitted[omitted.len() - 1] && omitted.is_sorted_by(|a, b| a >= b));
    let counted: f64 = intervals
        .iter()
        .filter(|line| line["data"]["sum"]["omitted"] == false)
        .map(|line| number(&line["data"]["sum"]["seconds"]))
        .sum();
    let end = number(&lines[lines.len() - 1]["data"]["sum_sent"]["seconds"]);
    assert!(end < counted + 0.1, "{end} {counted}");
}

#[test]
fn handshakes_are_counted() {
    for wire in ["tcp", "tls"] {
        let server = Server::start(&["perf", "server"], wire, &[]);
        let options = ["--json", "--scenario", "hps", "-t", "0.2", "-P", "2"];
        let measured = server.client(&["perf", "client"], &options, b"").expect(0);
        let value: Value = serde_json::from_str(&measured.stdout).unwrap();
        let end = &value["end"];
        assert!(number(&end["handshakes"]) > 2.0, "{end:#}");
        assert_eq!(end["handshakes"], end["handshake_us"]["count"]);
    }
}

#[test]
fn wires_are_compared_over_the_same_link() {
    let options = ["--compare", "tcp,tls", "-t", "0.5", "--delay", "20ms", "--scenario", "latency"];
    let shown = run(&[&["perf", "client"], &options[..], &["--json"]].concat()).expect(0);
    let value: Value = serde_json::from_str(&shown.stdout).unwrap();
    let compared = value["compared"].as_array().unwrap();
    assert_eq!(compared.len(), 2);
    for one in compared {
        let end = &one["result"]["end"];
        // There and back.
        assert!(number(&end["rtt_us"]["p50"]) >= 40_000.0, "{end:#}");
    }
    let shown = run(&["perf", "client", "--compare", "ws,ftcp", "-n", "1M"]).expect(0);
    assert!(shown.stdout.starts_with("wire") && shown.stdout.contains("s/GB"), "{shown:?}");
}

#[test]
fn a_picture_is_drawn() {
    let scratch = common::Directory::new("svg");
    let file = scratch.file("x.svg");
    let server = Server::start(&["perf", "server"], "tcp", &[]);
    server.client(&["perf", "client"], &["-t", "0.3", "-i", "0.1", "--svg", &file], b"").expect(0);
    let svg = std::fs::read_to_string(&file).unwrap();
    assert_eq!(svg.matches("<polyline").count(), 2);
}
