//! `towline demo`, in a short form. `cargo run --release -- demo` is the whole.

mod common;

use common::{Directory, WIRES, run};
use serde_json::Value;

#[test]
fn every_wire_survives() {
    let scratch = Directory::new("demo");
    let svg = scratch.file("demo.svg");
    let shown = run(&["demo", "--quick", "--json", "--seed", "7", "--svg", &svg]).expect(0);
    assert_eq!(shown.stderr, "");
    let value: Value = serde_json::from_str(&shown.stdout).unwrap();
    assert_eq!((&value["ok"], &value["seed"]), (&Value::Bool(true), &7.into()));
    let picture = std::fs::read_to_string(&svg).unwrap();
    let network = value["network"].as_array().unwrap();
    let measured: Vec<&str> = network.iter().map(|one| one["wire"].as_str().unwrap()).collect();
    assert_eq!(measured, ["tcp", "tls", "ws", "quic", "bats", "udp"]);
    for one in network {
        assert_eq!(one["ok"], true, "{one:#}");
        if one["promises_delivery"] == true {
            assert_eq!((&one["lost"], &one["duplicated"]), (&0.into(), &0.into()), "{one:#}");
        }
        assert!(one["rtt_ms"]["p50"].as_f64().unwrap() >= 30.0, "{one:#}");
        let share = one["share_of_limit"].as_f64().unwrap();
        assert!(share > 0.0 && share <= 1.0, "{one:#}");
        assert!(picture.contains(one["wire"].as_str().unwrap()));
    }
    let wires = value["wires"].as_array().unwrap();
    // The wires that are connections, which can be cut.
    let cut = |wire: &&str| !["quic", "bats"].contains(wire);
    let expected: Vec<&str> = WIRES.into_iter().filter(cut).collect();
    assert_eq!(wires.len(), expected.len());
    for (row, wire) in wires.iter().zip(expected) {
        assert_eq!((&row["wire"], &row["ok"]), (&wire.into(), &true.into()), "{row:#}");
        assert_eq!(row["bytes"], 1 << 20);
        assert_eq!(row["cuts"], 3);
        assert!(row["bytes_resent"].as_u64().unwrap() > 0, "{row:#}");
        assert!(row["longest_gap_seconds"].as_f64().unwrap() > 0.0, "{row:#}");
    }
}

#[test]
fn a_table_is_printed() {
    let scratch = Directory::new("demo-table");
    let svg = scratch.file("demo.svg");
    let arguments = ["demo", "--quick", "--wire", "tcp", "--seed", "1", "--svg", &svg];
    let shown = run(&arguments).expect(0);
    let lines: Vec<&str> = shown.stdout.lines().collect();
    for head in ["wire", "driver", "cuts survived", "resent bytes", "longest gap", "guarantee"] {
        assert!(lines[0].contains(head), "{head}: {}", lines[0]);
    }
    assert!(lines[2].starts_with("tcp ") && lines[2].ends_with("intact, in order, once"));
    assert!(shown.stdout.contains("--seed 1"));
}
