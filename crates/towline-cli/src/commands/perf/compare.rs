//! `towline perf client --compare`: several wires in turn, against a server in this process, over the same emulated link.

use serde_json::{Value, json};

use super::client::{self, Arguments};
use super::report::Style;
use super::server::Own;
use crate::commands::link::{Proxy, Running, Spec, WINDOW, any_seed, is_datagram};
use crate::failure::{Failure, Outcome};
use crate::interrupt::Interrupt;
use crate::output::{Notes, Output, json::SCHEMA_VERSION, text};
use crate::units::{show_rate, show_time};

pub(super) fn run(arguments: &Arguments, notes: &Notes, interrupt: &Interrupt) -> Outcome {
    let seed = any_seed();
    let rows = measure(arguments, seed, notes, interrupt)?;
    let mut output = Output::open()?;
    if arguments.json {
        let list: Vec<Value> = rows
            .into_iter()
            .map(|(wire, document)| json!({"wire": wire, "result": document}))
            .collect();
        let value = json!({"schema_version": SCHEMA_VERSION, "seed": seed, "compared": list});
        return Ok(output.line(&value.to_string())?);
    }
    let head = ["wire", "goodput", "messages/s", "RTT p50", "RTT p99", "CPU here and there"];
    let mut table = vec![head.map(str::to_owned).to_vec()];
    table.extend(rows.iter().map(|(wire, document)| row(wire, document)));
    Ok(output.line(text::table(&table).trim_end())?)
}

/// Each wire's name and result; two results where both directions were asked for.
pub(super) fn measure(
    arguments: &Arguments,
    seed: u64,
    notes: &Notes,
    interrupt: &Interrupt,
) -> Outcome<Vec<(String, Value)>> {
    let mut rows = Vec::new();
    for wire in &arguments.compare {
        let (server, pin) = Own::start(wire, notes)?;
        let mut own = arguments.tls.clone();
        own.trust(pin);
        let link = match arguments.shape.is_perfect() {
            true => None,
            false => Some(link(arguments, server.address(), wire, seed)?),
        };
        let address = match &link {
            Some(link) => link.tcp.iter().chain(&link.udp).next().copied(),
            None => Some(server.address()),
        };
        let address = address.ok_or_else(|| Failure::failed("the link has no port"))?;
        let url = format!("{wire}://{address}");
        notes.info(&format!("measuring {wire}"));
        let (found, signal) =
            client::measure_with(arguments, &own, &url, Style::Silent, notes, interrupt)?;
        rows.extend(found.into_iter().map(|one| (wire.clone(), one.document)));
        if let Some(signal) = signal {
            return Err(signal.into());
        }
    }
    Ok(rows)
}

fn row(wire: &str, document: &Value) -> Vec<String> {
    let end = &document["end"];
    let number = |value: &Value| value.as_f64().unwrap_or(0.0);
    let time = |value: &Value| match value.as_f64() {
        Some(micros) => show_time(std::time::Duration::from_nanos((micros * 1000.0) as u64)),
        None => "-".to_owned(),
    };
    if let Some(rate) = end["handshakes_per_second"].as_f64() {
        let times = &end["handshake_us"];
        let per_second = format!("{rate:.0} handshakes/s");
        return vec![
            wire.to_owned(),
            "-".into(),
            per_second,
            time(&times["p50"]),
            time(&times["p99"]),
            "-".into(),
        ];
    }
    let cpu = &end["cpu_seconds_per_gigabyte"];
    vec![
        wire.to_owned(),
        show_rate(number(&end["sum_received"]["bits_per_second"])),
        format!("{:.0}", number(&end["sum_received"]["messages_per_second"])),
        time(&end["rtt_us"]["p50"]),
        time(&end["rtt_us"]["p99"]),
        // One process is both sides: its time is counted once.
        format!("{:.2} s/GB", number(&cpu["host"])),
    ]
}

/// Wires over UDP cross the link as datagrams, the others as connections.
fn link(
    arguments: &Arguments,
    target: std::net::SocketAddr,
    wire: &str,
    seed: u64,
) -> Outcome<Running> {
    let (up, down) = arguments.shape.links()?;
    let listen = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let proxy = vec![Proxy { listen, target }];
    let datagrams = is_datagram(wire);
    let (udp, tcp) = if datagrams { (proxy, Vec::new()) } else { (Vec::new(), proxy) };
    let incidents = arguments.shape.incidents();
    Running::start(Spec { seed, up, down, udp, tcp, window: WINDOW, incidents })
        .map_err(Failure::failed)
}
