//! `towline lab`: its tables, letter by letter, and its objects and pictures.

mod common;

use std::fs;
use std::path::Path;

use common::run;
use serde_json::Value;

/// Short runs over slow links, one for each scenario.
const RUNS: [&str; 6] = [
    "brtp-matrix --rate 20mbit --delay 10ms --loss 0,0.1 --peer quic-cubic",
    "chain --hops 3 --loss 0.05 --burst 8 --rate 20mbit --peer end-code --peer kcp",
    "chain --mode brctp --object 500K --loss 0.1 --rate 20mbit",
    "rtt --hops 3 --loss 0.05 --rate 20mbit --peer brtp",
    "btp-residual --rate 20mbit --send-rate 1mbit",
    "fairness --rate 20mbit --beside 2,1 --warmup 4s --duration 6s",
];

fn arguments(line: &'static str) -> Vec<&'static str> {
    let mut arguments = vec!["lab", "-q"];
    arguments.extend(line.split(' '));
    if !line.contains("duration") {
        arguments.extend(["--warmup", "1s", "--duration", "4s"]);
    }
    arguments
}

/// The tables are the same on every machine and change with the engines only: then look at the difference, and write the
/// new ones with `TOWLINE_WRITE_SNAPSHOTS=1 cargo test -p towline-cli --test lab`.
#[test]
fn tables_are_what_they_were() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots/lab.txt");
    let mut tables = String::new();
    for line in RUNS {
        let table = run(&arguments(line)).expect(0).stdout;
        tables += &format!("towline lab {line}\n\n{table}\n");
    }
    if std::env::var_os("TOWLINE_WRITE_SNAPSHOTS").is_some() {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, &tables).unwrap();
    }
    let before = fs::read_to_string(&file).unwrap();
    assert!(tables == before, "not the tables of {}:\n{tables}", file.display());
}

#[test]
fn objects_have_the_fields_that_programs_read() {
    let mut arguments = arguments("rtt --rate 20mbit --hop 1:loss=0.1 --outage 2s,100ms --json");
    arguments.extend(["--change", "1s:delay=20ms", "--jitter", "1ms", "--reorder", "0.01"]);
    let object: Value = serde_json::from_str(&run(&arguments).expect(0).stdout).unwrap();
    for field in [
        "scenario",
        "mode",
        "hops",
        "rate_mbps",
        "delay_ms",
        "loss",
        "seed",
        "goodput_mbps",
        "steady_mbps",
        "limit_mbps",
        "ratio",
        "steady_ratio",
        "wire_mbps",
        "overhead",
        "rtt_ms",
        "residual_loss",
    ] {
        assert!(object.get(field).is_some(), "{field}: {object}");
    }
    for field in ["p50", "p90", "p99", "max"] {
        assert!(object["rtt_ms"][field].as_f64().is_some_and(|time| time >= 20.0), "{object}");
    }
}

#[test]
fn matrices_are_drawn_beside_their_peers() {
    let directory = tempfile();
    let file = directory.join("matrix.svg");
    let mut arguments = arguments("brtp-matrix --rate 20mbit --delay 10ms --loss 0,0.1 --json");
    arguments.extend(["--svg", file.to_str().unwrap()]);
    let out = run(&arguments).expect(0).stdout;
    let peers = out.lines().filter(|line| line.contains("\"peer\":true")).count();
    assert_eq!((out.lines().count(), peers), (6, 4), "{out}");
    let svg = fs::read_to_string(&file).unwrap();
    for line in ["brtp", "quic-cubic", "quic-bbr", "limit", "10 ms one way"] {
        assert!(svg.contains(line), "{line}");
    }
    fs::remove_dir_all(directory).unwrap();
}

/// A directory of this process's own.
fn tempfile() -> std::path::PathBuf {
    let path = std::env::temp_dir().join(format!("towline-lab-{}", std::process::id()));
    fs::create_dir_all(&path).unwrap();
    path
}

#[test]
fn what_makes_no_sense_is_refused_with_a_reason() {
    run(&["lab", "chain", "--hop", "3:loss=0.1"]).expect(1).says(&["hop", "does not have"]);
    run(&["lab", "chain", "--mode", "raw", "--hops", "2"]).expect(1).says(&["one hop"]);
    assert!(run(&["lab", "chain", "--loss", "2"]).expect(2).stderr.contains("share"));
    assert!(run(&["lab", "chain", "--mode", "tcp"]).expect(2).stderr.contains("quic-cubic"));
}
