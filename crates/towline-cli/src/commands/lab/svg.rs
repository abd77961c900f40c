//! A matrix as a picture: a panel for each mode, a line for each delay, steady goodput over loss.

use std::fmt::Write;

use towline_lab::Report;

const WIDTH: f64 = 460.0;
const HEIGHT: f64 = 320.0;
const MARGIN: f64 = 56.0;
const COLOURS: [&str; 6] = ["#1b6ca8", "#c8553d", "#4c956c", "#8d5a97", "#c9a227", "#5f6b6d"];

/// Draws all reports, in the order of their modes.
pub(super) fn plot(reports: &[Report]) -> String {
    let mut modes: Vec<&str> = Vec::new();
    for report in reports {
        if !modes.contains(&report.cell.mode.name()) {
            modes.push(report.cell.mode.name());
        }
    }
    let (width, height) = (WIDTH * modes.len() as f64, HEIGHT);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n"
    );
    for (number, mode) in modes.iter().enumerate() {
        let own: Vec<&Report> =
            reports.iter().filter(|report| report.cell.mode.name() == *mode).collect();
        let _ = writeln!(text, "<g transform=\"translate({} 0)\">", WIDTH * number as f64);
        panel(&mut text, mode, &own, reports);
        text.push_str("</g>\n");
    }
    text.push_str("</svg>\n");
    text
}

/// Where a value stands; all panels have the same axes.
struct Axes {
    loss: f64,
    rate: f64,
}

impl Axes {
    fn of(reports: &[Report]) -> Axes {
        let most = |value: fn(&Report) -> f64| reports.iter().map(value).fold(0.0, f64::max);
        Axes {
            loss: most(|report| report.cell.loss).max(1e-9),
            rate: most(|report| report.limit.max(report.steady)).max(1.0),
        }
    }

    fn x(&self, loss: f64) -> f64 {
        MARGIN + (WIDTH - 1.6 * MARGIN) * loss / self.loss
    }

    fn y(&self, rate: f64) -> f64 {
        HEIGHT - MARGIN - (HEIGHT - 1.8 * MARGIN) * rate / self.rate
    }
}

fn panel(text: &mut String, mode: &str, own: &[&Report], all: &[Report]) {
    let axes = Axes::of(all);
    let (left, right) = (axes.x(0.0), axes.x(axes.loss));
    let _ = writeln!(text, "<text x=\"{left}\" y=\"24\" font-size=\"14\">{mode}</text>");
    for step in 0..=4 {
        let rate = axes.rate * f64::from(step) / 4.0;
        let y = axes.y(rate);
        let _ = writeln!(
            text,
            "<path d=\"M{left} {y:.1}H{right}\" stroke=\"#ddd\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{:.0}</text>",
            left - 6.0,
            y + 4.0,
            rate / 1e6
        );
    }
    let mut losses: Vec<f64> = own.iter().map(|report| report.cell.loss).collect();
    losses.sort_by(f64::total_cmp);
    losses.dedup();
    for loss in losses {
        let _ = writeln!(
            text,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            axes.x(loss),
            HEIGHT - MARGIN + 18.0,
            (loss * 1e4).round() / 1e2
        );
    }
    let _ = writeln!(
        text,
        "<text x=\"{left}\" y=\"{:.1}\">loss, %; steady goodput, Mb/s; grey: the limit</text>",
        HEIGHT - 12.0
    );
    line(text, own, &axes, "#999", |report| report.limit);
    let mut delays: Vec<_> = own.iter().map(|report| report.cell.delay).collect();
    delays.sort();
    delays.dedup();
    for (delay, colour) in delays.iter().zip(COLOURS.iter().cycle()) {
        let at: Vec<&Report> =
            own.iter().copied().filter(|report| report.cell.delay == *delay).collect();
        line(text, &at, &axes, colour, |report| report.steady);
        if let Some(last) = at.last() {
            let _ = writeln!(
                text,
                "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\">{} ms</text>",
                right + 4.0,
                axes.y(last.steady) + 4.0,
                delay.as_millis()
            );
        }
    }
}

fn line(
    text: &mut String,
    reports: &[&Report],
    axes: &Axes,
    colour: &str,
    value: impl Fn(&Report) -> f64,
) {
    let mut points: Vec<(f64, f64)> =
        reports.iter().map(|report| (axes.x(report.cell.loss), axes.y(value(report)))).collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    points.dedup();
    let points: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let _ = writeln!(
        text,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>",
        points.join(" ")
    );
}
