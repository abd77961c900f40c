//! Throughput and round trips over time: on the terminal while it runs, and as a picture.

use std::io::Write;

use super::report::Found;
use crate::output::Notes;
use crate::output::svg::Plot;
use crate::units::show_rate;

/// Intervals on the terminal.
const WIDTH: usize = 60;

const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// A chart in one line of standard error; it disappears when dropped.
pub(super) struct Chart {
    shown: bool,
    rates: Vec<f64>,
}

impl Chart {
    pub(super) fn new(notes: &Notes) -> Chart {
        Chart { shown: notes.shows_progress(), rates: Vec::new() }
    }

    /// One more interval: its bits per second and its median round trip.
    pub(super) fn add(&mut self, (rate, rtt): (f64, f64)) {
        self.rates.push(rate);
        if self.rates.len() > WIDTH {
            self.rates.remove(0);
        }
        if self.shown {
            let line =
                format!("\r\x1b[K{}  {}, RTT {rtt:.0} us", bars(&self.rates), show_rate(rate));
            std::io::stderr().write_all(line.as_bytes()).ok();
        }
    }
}

impl Drop for Chart {
    fn drop(&mut self) {
        if self.shown {
            std::io::stderr().write_all(b"\r\x1b[K").ok();
        }
    }
}

/// A bar for each value, from 0 to the largest.
fn bars(values: &[f64]) -> String {
    let most = values.iter().copied().fold(0.0, f64::max).max(1e-9);
    let bar = |value: &f64| {
        let step = ((value / most) * (BARS.len() - 1) as f64).round() as usize;
        BARS.get(step).copied().unwrap_or(' ')
    };
    values.iter().map(bar).collect()
}

/// The picture.
pub(super) fn draw(found: &[Found]) -> String {
    let mut plot = Plot::new("Throughput and round trips", "seconds", "Mbit/s", Some("ms"));
    for (one, name) in found.iter().zip(["", " back"]) {
        let (mut rates, mut times) = (Vec::new(), Vec::new());
        for interval in one.document["intervals"].as_array().into_iter().flatten() {
            let sum = &interval["sum"];
            let at = sum["end"].as_f64().unwrap_or(0.0);
            if let Some(rate) = sum["bits_per_second"].as_f64() {
                rates.push((at, rate / 1e6));
            }
            if let Some(rtt) = sum["rtt_us"]["p50"].as_f64() {
                times.push((at, rtt / 1000.0));
            }
        }
        plot.line(&format!("goodput{name}"), rates);
        plot.line_right(&format!("RTT p50{name}"), times);
    }
    plot.to_svg()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_go_from_nothing_to_the_largest() {
        assert_eq!(bars(&[0.0, 7.0, 3.5]), "▁█▅");
        assert_eq!(bars(&[0.0]), "▁");
    }
}
