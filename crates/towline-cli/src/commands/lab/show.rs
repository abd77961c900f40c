//! Reports as a table and as JSON.

use std::time::Duration;

use serde_json::{Value, json};
use towline_lab::{Percentiles, Report};

use crate::output::text;

fn mbps(rate: f64) -> f64 {
    rounded(rate / 1e6, 1e3)
}

/// A number with few decimals, so that reports can be compared by eye.
fn rounded(value: f64, scale: f64) -> f64 {
    (value * scale).round() / scale
}

fn milliseconds(time: Duration) -> f64 {
    rounded(time.as_secs_f64() * 1e3, 1e3)
}

fn rtt(times: &Percentiles) -> Value {
    let Percentiles { p50, p90, p99, max } = *times;
    let [p50, p90, p99, max] = [p50, p90, p99, max].map(milliseconds);
    json!({ "p50": p50, "p90": p90, "p99": p99, "max": max })
}

/// One cell as one object.
pub(super) fn json(report: &Report) -> Value {
    let cell = &report.cell;
    let mut object = json!({
        "scenario": cell.scenario,
        "mode": cell.mode.name(),
        "hops": cell.links.hops,
        "rate_mbps": mbps(cell.links.rate.as_bps() as f64),
        "delay_ms": milliseconds(cell.links.delay),
        "loss": cell.links.loss,
        "seed": cell.seed,
        "goodput_mbps": mbps(report.goodput),
        "steady_mbps": mbps(report.steady),
        "limit_mbps": mbps(report.limit),
        "ratio": rounded(report.ratio(), 1e4),
        "steady_ratio": rounded(report.steady_ratio(), 1e4),
        "wire_mbps": mbps(report.wire),
        "overhead": rounded(report.overhead(), 1e4),
        "rtt_ms": report.rtt.as_ref().map(rtt),
        "residual_loss": report.residual.map(|share| rounded(share, 1e6)),
    });
    if let Some(object) = object.as_object_mut() {
        if cell.links.burst > 1.0 {
            object.insert("burst".into(), json!(cell.links.burst));
        }
        if let Some(took) = report.transfer {
            object.insert("transfer_s".into(), json!(rounded(took.as_secs_f64(), 1e3)));
        }
        if cell.peer {
            object.insert("peer".into(), json!(true));
        }
        if !report.shares.is_empty() {
            let shares: Vec<f64> = report.shares.iter().map(|share| mbps(*share)).collect();
            object.insert("flows".into(), json!(cell.flows));
            object.insert("cubic_flows".into(), json!(cell.cubic));
            object.insert("shares_mbps".into(), json!(shares));
            object.insert("jain".into(), json!(report.jain().map(|index| rounded(index, 1e4))));
        }
    }
    object
}

/// A column: its head, and what stands in it. Columns in which nothing stands are left out.
type Column = (&'static str, fn(&Report) -> String);

const COLUMNS: [Column; 17] = [
    ("mode", |report| report.cell.mode.name().to_owned()),
    ("hops", |report| report.cell.links.hops.to_string()),
    ("Mb/s", |report| mbps(report.cell.links.rate.as_bps() as f64).to_string()),
    ("delay", |report| format!("{} ms", milliseconds(report.cell.links.delay))),
    ("loss", |report| format!("{} %", rounded(report.cell.links.loss * 100.0, 1e4))),
    ("goodput", |report| rate(report.goodput)),
    ("steady", |report| rate(report.steady)),
    ("limit", |report| rate(report.limit)),
    ("ratio", |report| format!("{:.4}", report.ratio())),
    ("steady ratio", |report| format!("{:.4}", report.steady_ratio())),
    ("p50", |report| time(report, |times| times.p50)),
    ("p90", |report| time(report, |times| times.p90)),
    ("p99", |report| time(report, |times| times.p99)),
    ("max", |report| time(report, |times| times.max)),
    ("residual", |report| report.residual.map_or(String::new(), |share| format!("{share:.5}"))),
    ("shares, Mb/s", shares),
    ("jain", |report| {
        let index = report.jain().filter(|_| !report.shares.is_empty());
        index.map_or(String::new(), |index| format!("{index:.4}"))
    }),
];

fn rate(rate: f64) -> String {
    format!("{:.1}", rate / 1e6)
}

fn time(report: &Report, of: fn(&Percentiles) -> Duration) -> String {
    report.rtt.as_ref().map_or(String::new(), |times| format!("{:.1} ms", milliseconds(of(times))))
}

fn shares(report: &Report) -> String {
    let cubic = usize::from(report.cell.cubic);
    let shares = report.shares.iter().enumerate().map(|(at, share)| {
        let kind = if at < cubic { " (cubic)" } else { "" };
        rate(*share) + kind
    });
    shares.collect::<Vec<String>>().join(" ")
}

/// All cells as a table.
pub(super) fn table(reports: &[Report]) -> String {
    let mut rows = vec![Vec::new(); reports.len() + 1];
    for (name, content) in COLUMNS {
        let column: Vec<String> = reports.iter().map(content).collect();
        if column.iter().all(String::is_empty) {
            continue;
        }
        let column = [name.to_owned()].into_iter().chain(column);
        rows.iter_mut().zip(column).for_each(|(row, cell)| row.push(cell));
    }
    text::table(&rows)
}
