//! Reports as a picture: of a matrix a plot for each delay, goodput over loss; of others a bar for each.

use std::time::Duration;

use towline_lab::{Percentiles, Report};

use crate::output::svg::{Plot, bars, stack};

/// What others published: rate of the link and loss of it, and goodput, Mb/s. One hop.
const PUBLISHED: [(f64, f64, f64); 1] = [(1_000.0, 0.0, 949.5)];
/// The longest of 99 in 100 round trips that others published for low latency over 3 hops of 100 Mb/s, 10 ms and 5 %.
const PUBLISHED_P99: Duration = Duration::from_millis(121);

/// Draws all reports.
pub(super) fn plot(reports: &[Report]) -> String {
    let losses = distinct(reports, |report| report.cell.links.loss);
    if losses.len() > 1 && reports.iter().all(|report| report.residual.is_none()) {
        let delays = distinct(reports, |report| report.cell.links.delay);
        let plots: Vec<Plot> = delays.into_iter().map(|delay| panel(reports, delay)).collect();
        return stack(&plots);
    }
    if reports.iter().any(|report| report.rtt.is_some()) {
        return round_trips(reports);
    }
    let row = |report: &Report| {
        let name = format!("{} {}", report.cell.mode.name(), words(report));
        let text = format!("{:.1} Mb/s, {:.3}", report.steady / 1e6, report.steady_ratio());
        (name, report.steady_ratio(), text)
    };
    let rows: Vec<_> = reports.iter().map(row).collect();
    bars("Goodput", &rows, "share of what is possible")
}

/// Values in the order in which they first occur.
fn distinct<T: PartialEq>(reports: &[Report], of: fn(&Report) -> T) -> Vec<T> {
    let mut found = Vec::new();
    for value in reports.iter().map(of) {
        if !found.contains(&value) {
            found.push(value);
        }
    }
    found
}

fn panel(reports: &[Report], delay: Duration) -> Plot {
    let own: Vec<&Report> =
        reports.iter().filter(|report| report.cell.links.delay == delay).collect();
    let title = format!("{} ms one way", delay.as_secs_f64() * 1e3);
    let mut plot = Plot::new(&title, "loss, %", "Mb/s", None);
    plot.top(
        reports.iter().map(|report| report.limit.max(report.steady)).fold(0.0, f64::max) / 1e6,
    );
    let points = |own: &[&Report], value: fn(&Report) -> f64| {
        own.iter().map(|report| (report.cell.links.loss * 100.0, value(report) / 1e6)).collect()
    };
    let cells: Vec<&Report> = own.iter().copied().filter(|report| !report.cell.peer).collect();
    for mode in distinct(reports, |report| report.cell.mode) {
        let own: Vec<&Report> =
            own.iter().copied().filter(|report| report.cell.mode == mode).collect();
        plot.line(mode.name(), points(&own, |report| report.steady));
    }
    plot.line("limit", points(&cells, |report| report.limit));
    let rate = cells.first().map_or(0.0, |report| report.cell.links.rate.as_bps() as f64 / 1e6);
    let published = PUBLISHED.iter().filter(|(of, ..)| (of - rate).abs() < 0.5);
    let published: Vec<(f64, f64)> = published.map(|&(_, loss, mbps)| (loss, mbps)).collect();
    if !published.is_empty() {
        plot.line("published", published);
    }
    plot
}

fn round_trips(reports: &[Report]) -> String {
    let longest = reports.iter().filter_map(|report| report.rtt.as_ref()).map(|times| times.p99);
    let longest = longest.chain([PUBLISHED_P99]).max().unwrap_or(PUBLISHED_P99).as_secs_f64();
    let row = |report: &Report| {
        let Percentiles { p50, p99, .. } = report.rtt?;
        let [p50, p99] = [p50, p99].map(|time| time.as_secs_f64());
        let name = format!("{} {}", report.cell.mode.name(), words(report));
        Some((name, p99 / longest, format!("p99 {:.1} ms, p50 {:.1} ms", p99 * 1e3, p50 * 1e3)))
    };
    let mut rows: Vec<_> = reports.iter().filter_map(row).collect();
    let published = PUBLISHED_P99.as_secs_f64();
    let text = format!("p99 {:.0} ms", published * 1e3);
    rows.push(("published".into(), published / longest, text));
    bars("Round trips", &rows, "published: low latency mode over 3 hops of 100 Mb/s, 10 ms, 5 %")
}

/// What sets a cell apart, in few letters.
fn words(report: &Report) -> String {
    let links = &report.cell.links;
    format!("{} x {} %", links.hops, (links.loss * 1e4).round() / 1e2)
}
