//! Reports as a table and as JSON.

use serde_json::{Value, json};
use towline_lab::Report;

use crate::output::text;

fn mbps(rate: f64) -> f64 {
    rounded(rate / 1e6, 1e3)
}

/// A number with few decimals, so that reports can be compared by eye.
fn rounded(value: f64, scale: f64) -> f64 {
    (value * scale).round() / scale
}

/// One cell as one object.
pub(super) fn json(report: &Report) -> Value {
    let cell = &report.cell;
    let mut object = json!({
        "scenario": cell.scenario,
        "mode": cell.mode.name(),
        "hops": cell.hops,
        "rate_mbps": mbps(cell.rate.as_bps() as f64),
        "delay_ms": rounded(cell.delay.as_secs_f64() * 1e3, 1e3),
        "loss": cell.loss,
        "seed": cell.seed,
        "goodput_mbps": mbps(report.goodput),
        "steady_mbps": mbps(report.steady),
        "limit_mbps": mbps(report.limit),
        "ratio": rounded(report.ratio(), 1e4),
        "steady_ratio": rounded(report.steady_ratio(), 1e4),
        "wire_mbps": mbps(report.wire),
        "overhead": rounded(report.overhead(), 1e4),
        "rtt_ms": Value::Null,
        "residual_loss": Value::Null,
    });
    if let Some(object) = object.as_object_mut() {
        if cell.burst > 1.0 {
            object.insert("burst".into(), json!(cell.burst));
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

/// All cells as a table.
pub(super) fn table(reports: &[Report]) -> String {
    let fair = reports.iter().any(|report| !report.shares.is_empty());
    let head = ["mode", "hops", "Mb/s", "delay", "loss", "goodput", "steady", "limit", "ratio"];
    let mut head: Vec<String> = head.iter().map(|&name| name.to_owned()).collect();
    head.push("steady ratio".into());
    if fair {
        head.extend(["shares, Mb/s".into(), "jain".into()]);
    }
    let mut rows = vec![head];
    rows.extend(reports.iter().map(|report| row(report, fair)));
    text::table(&rows)
}

fn row(report: &Report, fair: bool) -> Vec<String> {
    let cell = &report.cell;
    let rate = |rate: f64| format!("{:.1}", rate / 1e6);
    let mut row = vec![
        cell.mode.name().to_owned(),
        cell.hops.to_string(),
        format!("{}", mbps(cell.rate.as_bps() as f64)),
        format!("{} ms", rounded(cell.delay.as_secs_f64() * 1e3, 1e3)),
        format!("{} %", rounded(cell.loss * 100.0, 1e4)),
        rate(report.goodput),
        rate(report.steady),
        rate(report.limit),
        format!("{:.4}", report.ratio()),
        format!("{:.4}", report.steady_ratio()),
    ];
    if fair {
        let kind = |at: usize| if at < usize::from(cell.cubic) { " (cubic)" } else { "" };
        let shares = report.shares.iter().enumerate();
        let shares: Vec<String> =
            shares.map(|(at, share)| format!("{:.1}{}", share / 1e6, kind(at))).collect();
        row.push(shares.join(" "));
        row.push(report.jain().map_or(String::new(), |index| format!("{index:.4}")));
    }
    row
}
