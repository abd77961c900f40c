//! The demo's second part: each wire over the same bad network, measured.

use std::time::Duration;

use serde_json::{Value, json};

use crate::commands::perf;
use crate::failure::Outcome;
use crate::interrupt::Interrupt;
use crate::output::{Notes, svg, text};
use crate::units::{show_rate, show_time};

/// The network, both ways, as options of `towline link`; `RATE` and `LOSS` say the same.
pub(super) const NETWORK: [&str; 8] =
    ["--rate", "20M", "--delay", "15ms", "--loss", "1%", "--queue", "30ms"];
const RATE: f64 = 20e6;
const LOSS: f64 = 0.01;

/// Application bytes of what a link carries: 29 bytes of headers in each datagram of 1,472, and Ethernet's framing.
const PAYLOAD: f64 = 0.953;

/// Wires that are measured, when they are asked for. One that joins needs no more than its name here.
const WIRES: [&str; 4] = ["tcp", "tls", "ws", "wss"];

/// One wire's figures.
pub(super) struct Measured {
    wire: String,
    goodput: f64,
    share: f64,
    p50: Duration,
    p99: Duration,
    lost: u64,
    duplicated: u64,
}

fn micros(value: &Value) -> Duration {
    Duration::from_secs_f64(value.as_f64().unwrap_or(0.0).max(0.0) / 1e6)
}

/// Measures throughput, and then round trips of one message at a time.
pub(super) fn run(
    wanted: impl Fn(&str) -> bool,
    quick: bool,
    seed: u64,
    notes: &Notes,
    interrupt: &Interrupt,
) -> Outcome<Vec<Measured>> {
    let (bulk, single) = if quick { ("0.5", "0.4") } else { ("3", "1.5") };
    let mut all = Vec::new();
    for wire in WIRES.into_iter().filter(|wire| wanted(wire)) {
        let measure = |options: &[&str]| -> Outcome<Value> {
            let options = [&["--compare", wire][..], &NETWORK, options].concat();
            let mut rows = perf::compare(&options, seed, notes, interrupt)?;
            Ok(rows.pop().map(|(_, document)| document["end"].clone()).unwrap_or_default())
        };
        let sent = measure(&["-t", bulk, "-l", "16K"])?;
        let asked = measure(&["-t", single, "--scenario", "latency", "-l", "512"])?;
        let count = |sum: &str| sent[sum]["messages"].as_u64().unwrap_or(0);
        let goodput = sent["sum_received"]["bits_per_second"].as_f64().unwrap_or(0.0);
        all.push(Measured {
            wire: wire.to_owned(),
            goodput,
            share: goodput / (PAYLOAD * RATE * (1.0 - LOSS)),
            p50: micros(&asked["rtt_us"]["p50"]),
            p99: micros(&asked["rtt_us"]["p99"]),
            lost: count("sum_sent").saturating_sub(count("sum_received")),
            duplicated: count("sum_received").saturating_sub(count("sum_sent")),
        });
    }
    Ok(all)
}

impl Measured {
    pub(super) fn is_intact(&self) -> bool {
        self.lost == 0 && self.duplicated == 0 && self.goodput > 0.0
    }

    pub(super) fn to_json(&self) -> Value {
        json!({
            "wire": self.wire,
            "goodput_mbps": self.goodput / 1e6,
            "share_of_limit": self.share,
            "rtt_ms": {"p50": self.p50.as_secs_f64() * 1e3, "p99": self.p99.as_secs_f64() * 1e3},
            "lost": self.lost,
            "duplicated": self.duplicated,
        })
    }
}

/// The table and what it shows.
pub(super) fn report(measured: &[Measured]) -> String {
    let head = ["wire", "goodput", "of the limit", "RTT p50", "RTT p99", "lost", "duplicated"];
    let mut table = vec![head.map(str::to_owned).to_vec()];
    for one in measured {
        table.push(vec![
            one.wire.clone(),
            show_rate(one.goodput),
            format!("{:.0} %", one.share * 100.0),
            show_time(one.p50),
            show_time(one.p99),
            one.lost.to_string(),
            one.duplicated.to_string(),
        ]);
    }
    format!(
        "{}\n\
        The same wires over one emulated network of 20 Mbit/s, 15 ms each way and 1 % loss: goodput of bulk data, and the round trip of\n\
        one message at a time. TCP takes each loss for congestion and slows down, which is what the share of the limit shows.",
        text::table(&table)
    )
}

/// The picture of it.
pub(super) fn draw(measured: &[Measured]) -> String {
    let rows: Vec<(String, f64, String)> = measured
        .iter()
        .map(|one| {
            let words = format!(
                "{}, {:.0} %, p99 {}",
                show_rate(one.goodput),
                one.share * 100.0,
                show_time(one.p99)
            );
            (one.wire.clone(), one.share, words)
        })
        .collect();
    let under = "towline demo: 20 Mbit/s, 15 ms each way, 1 % loss; the whole bar is what the link could carry";
    svg::bars("Goodput over a bad network", &rows, under)
}
