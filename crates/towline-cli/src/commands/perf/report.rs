//! What a measurement found, as text while it runs and as JSON with iperf3's keys.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hdrhistogram::Histogram;
use serde_json::{Value, json};
use towline::{Address, Connection, Context};

use super::control::{Plan, Scenario, Tally};
use super::flow::{histogram, percentiles};
use crate::failure::Outcome;
use crate::output::{Output, json::SCHEMA_VERSION};
use crate::units::{show_bytes, show_rate, show_time};

/// The state of things at a moment.
pub(super) struct Interval {
    /// Seconds since the beginning.
    pub(super) at: f64,
    /// For each connection messages, bytes and bytes on the wire since the beginning.
    pub(super) streams: Vec<(u64, u64, u64)>,
    /// Round trips since the last interval.
    pub(super) round_trips: Histogram<u64>,
}

/// What is printed while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    Text,
    /// Nothing until the end.
    Json,
    /// An object per line.
    Stream,
    Silent,
}

/// What was found in the end.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) document: Value,
    pub(super) summary: String,
}

/// Gathers and prints.
pub(super) struct Report {
    omit: f64,
    plan: Plan,
    url: String,
    start: Value,
    intervals: Vec<Value>,
    last: Interval,
    round_trips: Histogram<u64>,
}

pub(super) fn per_second(count: f64, seconds: f64) -> f64 {
    if seconds > 0.0 { count / seconds } else { 0.0 }
}

/// Round trips in microseconds.
pub(super) fn rtt_json(histogram: &Histogram<u64>) -> Value {
    if histogram.is_empty() {
        return Value::Null;
    }
    let mut value = json!({"count": histogram.len()});
    for (name, time) in percentiles(histogram) {
        value[name] = (time.as_nanos() as f64 / 1000.0).into();
    }
    value
}

/// CPU seconds for each 10^9 bytes.
fn per_gigabyte(seconds: f64, bytes: u64) -> Option<f64> {
    (bytes > 0).then(|| seconds / (bytes as f64 / 1e9))
}

impl Report {
    pub(super) fn new<'a>(
        address: &Address,
        context: &Context,
        plan: &Plan,
        omit: Duration,
        connections: impl Iterator<Item = &'a Connection>,
    ) -> Report {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let connected: Vec<Value> = connections
            .enumerate()
            .map(|(number, connection)| {
                let (local, peer) = (connection.local_address(), connection.peer_address());
                json!({
                    "socket": number + 1,
                    "local_host": local.map(|address| address.ip().to_string()),
                    "local_port": local.map(|address| address.port()),
                    "remote_host": peer.map(|address| address.ip().to_string()),
                    "remote_port": peer.map(|address| address.port()),
                    "tls": connection.tls().map(|tls| format!("{} {}", tls.version(), tls.cipher_suite())),
                })
            })
            .collect();
        let streams = vec![(0, 0, 0); connected.len()];
        let start = json!({
            "connected": connected,
            "version": concat!("towline ", env!("CARGO_PKG_VERSION")),
            "system_info": format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            "driver": context.drivers().first().map(ToString::to_string),
            "timestamp": {"timesecs": now.as_secs()},
            "connecting_to": {"host": address.host(), "port": address.port(), "url": address.to_string()},
            "test_start": {
                "protocol": address.wire().scheme(),
                "scenario": plan.scenario.name(),
                "num_streams": plan.connections,
                "blksize": plan.length,
                "omit": omit.as_secs_f64(),
                "duration": if plan.bytes.is_some() { 0.0 } else { plan.time.saturating_sub(omit).as_secs_f64() },
                "bytes": plan.bytes.unwrap_or(0),
                "target_bitrate": plan.rate.unwrap_or(0),
                "reverse": u8::from(plan.scenario == Scenario::Download),
            },
        });
        Report {
            omit: omit.as_secs_f64(),
            plan: plan.clone(),
            url: address.to_string(),
            start,
            intervals: Vec::new(),
            last: Interval { at: 0.0, streams, round_trips: histogram() },
            round_trips: histogram(),
        }
    }

    /// The text's head.
    pub(super) fn begin(&self, style: Style) -> Outcome {
        match style {
            Style::Text => {}
            Style::Stream => {
                let event = json!({"event": "start", "data": self.start});
                return Ok(Output::open()?.line(&event.to_string())?);
            }
            Style::Json | Style::Silent => return Ok(()),
        }
        let text = format!(
            "{} {}, {} x {} B\n{:>13}  {:>11}  {:>14}  {:>12}  {:>9}  {:>9}",
            self.plan.scenario.name(),
            self.url,
            self.plan.connections,
            self.plan.length,
            "seconds",
            "transfer",
            "rate",
            "messages/s",
            "RTT p50",
            "RTT p99",
        );
        Ok(Output::open()?.line(&text)?)
    }

    /// What was measured until now does not count.
    pub(super) fn forget_round_trips(&mut self) {
        self.round_trips.reset();
    }

    /// One more interval. Returns its bits per second and its median round trip in microseconds.
    pub(super) fn interval(
        &mut self,
        interval: Interval,
        last: bool,
        style: Style,
    ) -> Outcome<(f64, f64)> {
        let seconds = interval.at - self.last.at;
        // The clock is read after the boundary.
        let omitted = self.omit > 0.0 && self.last.at + 1e-3 < self.omit;
        let entry = |messages: u64, bytes: u64, wire: u64| {
            json!({
                "start": self.last.at,
                "end": interval.at,
                "seconds": seconds,
                "bytes": bytes,
                "bits_per_second": per_second(bytes as f64 * 8.0, seconds),
                "messages": messages,
                "messages_per_second": per_second(messages as f64, seconds),
                "wire_bytes": wire,
                "omitted": omitted,
            })
        };
        let mut sum = (0, 0, 0);
        let mut streams = Vec::new();
        for (number, (now, before)) in interval.streams.iter().zip(&self.last.streams).enumerate() {
            let messages = now.0.saturating_sub(before.0);
            let bytes = now.1.saturating_sub(before.1);
            let wire = now.2.saturating_sub(before.2);
            sum = (sum.0 + messages, sum.1 + bytes, sum.2 + wire);
            let mut stream = entry(messages, bytes, wire);
            stream["socket"] = (number + 1).into();
            streams.push(stream);
        }
        let mut total = entry(sum.0, sum.1, sum.2);
        total["rtt_us"] = rtt_json(&interval.round_trips);
        let event = json!({"streams": streams, "sum": total});
        if style == Style::Stream {
            let event = json!({"event": "interval", "data": event});
            Output::open()?.line(&event.to_string())?;
        }
        self.intervals.push(event);
        if style == Style::Text && !last {
            let span = format!("{:.2}-{:.2}", self.last.at, interval.at);
            let line = line(&span, sum.1, sum.0, seconds, &interval.round_trips);
            Output::open()?.line(&line)?;
        }
        self.round_trips.add(&interval.round_trips).ok();
        let median = interval.round_trips.value_at_quantile(0.5) as f64 / 1000.0;
        self.last = interval;
        Ok((per_second(sum.1 as f64 * 8.0, seconds), median))
    }

    /// The summary. `local` and `remote` are what this side and the server did, for each connection.
    pub(super) fn end(&self, local: &[Tally], remote: &[Tally]) -> Found {
        let (sent, received) = match self.plan.scenario {
            Scenario::Download => (remote, local),
            _ => (local, remote),
        };
        let here = Tally::sum(local);
        let there = Tally::sum(remote);
        Found {
            document: self.document(sent, received, &here, &there),
            summary: self.summary(&Tally::sum(received), &here, &there),
        }
    }

    fn document(&self, sent: &[Tally], received: &[Tally], here: &Tally, there: &Tally) -> Value {
        let side = |tally: &Tally, sender: bool, socket: Option<usize>| {
            let mut map = tally.to_json();
            map.insert("sender".into(), sender.into());
            if let Some(socket) = socket {
                map.insert("socket".into(), socket.into());
            }
            Value::Object(map)
        };
        let streams: Vec<Value> = sent
            .iter()
            .zip(received)
            .enumerate()
            .map(|(number, (sent, received))| {
                json!({
                    "sender": side(sent, true, Some(number + 1)),
                    "receiver": side(received, false, Some(number + 1)),
                })
            })
            .collect();
        let percent = |tally: &Tally| per_second(tally.cpu_seconds * 100.0, tally.seconds);
        let goodput = Tally::sum(received);
        let end = json!({
            "streams": streams,
            "sum_sent": side(&Tally::sum(sent), true, None),
            "sum_received": side(&goodput, false, None),
            "cpu_utilization_percent": {"host_total": percent(here), "remote_total": percent(there)},
            "cpu_seconds_per_gigabyte": {
                "host": per_gigabyte(here.cpu_seconds, goodput.bytes),
                "remote": per_gigabyte(there.cpu_seconds, goodput.bytes),
            },
            "rtt_us": rtt_json(&self.round_trips),
        });
        json!({
            "schema_version": SCHEMA_VERSION,
            "start": self.start,
            "intervals": self.intervals,
            "end": end,
        })
    }

    fn summary(&self, received: &Tally, here: &Tally, there: &Tally) -> String {
        let rtt: Vec<String> = percentiles(&self.round_trips)
            .iter()
            .map(|(name, time)| format!("{name} {}", show_time(*time)))
            .collect();
        let rtt = match (self.round_trips.is_empty(), self.plan.scenario.is_ping_pong()) {
            (true, _) => "none measured".to_owned(),
            (false, true) => rtt.join(", "),
            (false, false) => format!("{} (probes beside the data)", rtt.join(", ")),
        };
        let cpu = |tally: &Tally| match per_gigabyte(tally.cpu_seconds, received.bytes) {
            Some(seconds) => format!("{seconds:.3} s/GB"),
            None => "-".to_owned(),
        };
        let span = format!("0.00-{:.2}", received.seconds);
        let goodput =
            line(&span, received.bytes, received.messages, received.seconds, &self.round_trips);
        format!(
            "{}\n{goodput}\n\
             goodput    {}, {:.0} messages/s, {} messages\n\
             RTT        {rtt}\n\
             wire       {} sent, {} received, {} sent again, {} wires lost\n\
             CPU        {} here, {} there",
            "-".repeat(78),
            show_rate(per_second(received.bytes as f64 * 8.0, received.seconds)),
            per_second(received.messages as f64, received.seconds),
            received.messages,
            show_bytes(here.wire_bytes_sent as f64),
            show_bytes(here.wire_bytes_received as f64),
            show_bytes((here.bytes_resent + there.bytes_resent) as f64),
            here.wires_lost,
            cpu(here),
            cpu(there),
        )
    }
}

fn line(
    span: &str,
    bytes: u64,
    messages: u64,
    seconds: f64,
    round_trips: &Histogram<u64>,
) -> String {
    let rtt = |quantile: f64| match round_trips.is_empty() {
        true => "-".to_owned(),
        false => show_time(Duration::from_nanos(round_trips.value_at_quantile(quantile))),
    };
    format!(
        "{span:>13}  {:>11}  {:>14}  {:>12.0}  {:>9}  {:>9}",
        show_bytes(bytes as f64),
        show_rate(per_second(bytes as f64 * 8.0, seconds)),
        per_second(messages as f64, seconds),
        rtt(0.5),
        rtt(0.99),
    )
}
