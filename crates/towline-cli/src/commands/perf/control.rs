//! What both sides of a measurement say to each other, over the connection that is measured.
//!
//! The first byte of every message tells what it is: an opening brace for control, a JSON object on the urgent lane; 0 for data; 1 for a
//! probe, which the server sends back at once. So it works also on wires with one lane.
//!
//! The client asks `start` with the plan and gets `ready`. The sender of the data then sends it and says `end` with how
//! many messages that was; `end` may overtake the data. The receiver answers with its `result` when it has all of them.

use std::time::Duration;

use clap::ValueEnum;
use serde_json::{Map, Value, json};
use towline::{Connection, Lane, Message};

/// The first byte of data.
pub(super) const DATA: u8 = 0;

/// The first byte of a probe.
pub(super) const PROBE: u8 = 1;

/// The version of this conversation; both sides must have the same.
const VERSION: u64 = 1;

/// The largest control message that is read.
const MAX_CONTROL: usize = 64 << 10;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Scenario {
    /// The client sends.
    Upload,
    /// The server sends.
    Download,
    /// Requests and replies, many at a time.
    Rps,
    /// Requests and replies, one at a time.
    Latency,
    /// Connections made, secured and closed again.
    Hps,
}

impl Scenario {
    pub(super) fn name(self) -> &'static str {
        match self {
            Scenario::Upload => "upload",
            Scenario::Download => "download",
            Scenario::Rps => "rps",
            Scenario::Latency => "latency",
            Scenario::Hps => "hps",
        }
    }

    /// Whether each message is answered.
    pub(super) fn is_ping_pong(self) -> bool {
        matches!(self, Scenario::Rps | Scenario::Latency)
    }
}

/// What the client asks of the server, for one connection of a test.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Plan {
    /// Names the test, which may have several connections.
    pub(super) test: String,
    pub(super) connections: u64,
    pub(super) scenario: Scenario,
    /// Bytes of a message, at least 1.
    pub(super) length: usize,
    /// Data ends after this time, or
    pub(super) time: Duration,
    /// after so many bytes, where they are given.
    pub(super) bytes: Option<u64>,
    /// Bits per second of data at most.
    pub(super) rate: Option<u64>,
}

/// The longest test.
pub(super) const MAX_TIME: Duration = Duration::from_secs(86_400);

impl Plan {
    pub(super) fn to_json(&self) -> Value {
        json!({
            "type": "start",
            "version": VERSION,
            "test": self.test,
            "connections": self.connections,
            "scenario": self.scenario.name(),
            "length": self.length,
            "time": self.time.as_secs_f64(),
            "bytes": self.bytes,
            "rate": self.rate,
        })
    }

    /// Checks what the peer asks for.
    pub(super) fn from_json(value: &Value) -> Result<Plan, String> {
        let number = |key: &str| value.get(key).and_then(Value::as_u64);
        let wrong = |key: &str| format!("`{key}` is missing or out of range");
        match number("version") {
            Some(VERSION) => {}
            Some(version) => {
                return Err(format!(
                    "this side speaks version {VERSION} and not {version}: use the same towline on both"
                ));
            }
            None => return Err(wrong("version")),
        }
        let test = value.get("test").and_then(Value::as_str).filter(|test| test.len() <= 64);
        let scenario = value.get("scenario").and_then(Value::as_str);
        let time = value.get("time").and_then(Value::as_f64);
        let time = time.and_then(|time| Duration::try_from_secs_f64(time).ok());
        let length = number("length").and_then(|length| usize::try_from(length).ok());
        Ok(Plan {
            test: test.ok_or_else(|| wrong("test"))?.to_owned(),
            connections: number("connections").ok_or_else(|| wrong("connections"))?,
            scenario: scenario
                .and_then(|name| Scenario::from_str(name, false).ok())
                .ok_or_else(|| wrong("scenario"))?,
            length: length
                .filter(|length| (1..=1 << 30).contains(length))
                .ok_or_else(|| wrong("length"))?,
            time: time.filter(|time| *time <= MAX_TIME).ok_or_else(|| wrong("time"))?,
            bytes: number("bytes"),
            rate: number("rate"),
        })
    }

    /// One message of data, to be sent again and again.
    pub(super) fn message(&self) -> Message {
        let data: Vec<u8> = (0..self.length).map(|i| (i % 251) as u8).collect();
        Message::new(data)
    }
}

/// What one side of one connection did.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Tally {
    pub(super) messages: u64,
    pub(super) bytes: u64,
    pub(super) seconds: f64,
    /// CPU time of the whole process in that time.
    pub(super) cpu_seconds: f64,
    pub(super) wire_bytes_sent: u64,
    pub(super) wire_bytes_received: u64,
    pub(super) bytes_resent: u64,
    pub(super) wires_lost: u64,
}

impl Tally {
    pub(super) fn to_json(self) -> Map<String, Value> {
        let rate = |count: f64| if self.seconds > 0.0 { count / self.seconds } else { 0.0 };
        let value = json!({
            "start": 0,
            "end": self.seconds,
            "seconds": self.seconds,
            "bytes": self.bytes,
            "bits_per_second": rate(self.bytes as f64 * 8.0),
            "messages": self.messages,
            "messages_per_second": rate(self.messages as f64),
            "cpu_seconds": self.cpu_seconds,
            "wire_bytes_sent": self.wire_bytes_sent,
            "wire_bytes_received": self.wire_bytes_received,
            "bytes_resent": self.bytes_resent,
            "wires_lost": self.wires_lost,
        });
        match value {
            Value::Object(map) => map,
            _ => Map::new(),
        }
    }

    pub(super) fn from_json(value: &Value) -> Tally {
        let count = |key: &str| value.get(key).and_then(Value::as_u64).unwrap_or_default();
        let time = |key: &str| value.get(key).and_then(Value::as_f64).unwrap_or_default();
        Tally {
            messages: count("messages"),
            bytes: count("bytes"),
            seconds: time("seconds").max(0.0),
            cpu_seconds: time("cpu_seconds").max(0.0),
            wire_bytes_sent: count("wire_bytes_sent"),
            wire_bytes_received: count("wire_bytes_received"),
            bytes_resent: count("bytes_resent"),
            wires_lost: count("wires_lost"),
        }
    }

    /// The sum over connections that ran beside each other in one process.
    pub(super) fn sum(tallies: &[Tally]) -> Tally {
        tallies.iter().fold(Tally::default(), |sum, one| Tally {
            messages: sum.messages + one.messages,
            bytes: sum.bytes + one.bytes,
            seconds: sum.seconds.max(one.seconds),
            cpu_seconds: sum.cpu_seconds.max(one.cpu_seconds),
            wire_bytes_sent: sum.wire_bytes_sent + one.wire_bytes_sent,
            wire_bytes_received: sum.wire_bytes_received + one.wire_bytes_received,
            bytes_resent: sum.bytes_resent + one.bytes_resent,
            wires_lost: sum.wires_lost + one.wires_lost,
        })
    }

    /// Without what had been counted at a time.
    pub(super) fn since(mut self, seconds: f64, (messages, bytes): (u64, u64)) -> Tally {
        self.messages = self.messages.saturating_sub(messages);
        self.bytes = self.bytes.saturating_sub(bytes);
        self.seconds = (self.seconds - seconds).max(0.0);
        self
    }

    /// Adds what the connection's counters say.
    pub(super) fn with_stats(mut self, connection: &Connection) -> Tally {
        let stats = connection.stats();
        self.wire_bytes_sent = stats.bytes_sent;
        self.wire_bytes_received = stats.bytes_received;
        self.bytes_resent = stats.bytes_resent;
        self.wires_lost = stats.wires_lost;
        self
    }
}

/// A control message.
pub(super) fn message(value: &Value) -> Message {
    Message::new(value.to_string().into_bytes()).on(Lane::URGENT)
}

/// A control message that answers another.
pub(super) fn reply(to: &Message, value: &Value) -> Message {
    Message::reply_to(to, value.to_string().into_bytes()).on(Lane::URGENT)
}

/// What a message is.
pub(super) enum Kind {
    Data,
    Probe,
    Control(Value),
    /// None of these: the peer is no `towline perf`.
    Unknown,
}

pub(super) fn kind(message: &Message) -> Kind {
    match message.data.first() {
        Some(&DATA) => Kind::Data,
        Some(&PROBE) => Kind::Probe,
        Some(b'{') if message.data.len() <= MAX_CONTROL => {
            serde_json::from_slice(&message.data).map_or(Kind::Unknown, Kind::Control)
        }
        _ => Kind::Unknown,
    }
}

/// The control message's `type`.
pub(super) fn kind_of(value: &Value) -> &str {
    value.get("type").and_then(Value::as_str).unwrap_or_default()
}

/// The CPU time that this process has used.
pub(super) fn cpu_time() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_survives_the_wire() {
        let plan = Plan {
            test: "t".into(),
            connections: 3,
            scenario: Scenario::Download,
            length: 64,
            time: Duration::from_millis(1500),
            bytes: Some(1 << 30),
            rate: None,
        };
        let text = message(&plan.to_json());
        let Kind::Control(value) = kind(&text) else { panic!("{text:?}") };
        assert_eq!(kind_of(&value), "start");
        assert_eq!(Plan::from_json(&value), Ok(plan));
    }

    #[test]
    fn hostile_plans_are_refused() {
        let good = json!({"type": "start", "version": 1, "test": "t", "connections": 1, "scenario": "upload", "length": 1, "time": 1});
        assert!(Plan::from_json(&good).is_ok());
        for (key, value) in [
            ("version", json!(2)),
            ("version", json!("1")),
            ("test", json!("x".repeat(65))),
            ("scenario", json!("format")),
            ("length", json!(0)),
            ("length", json!(1u64 << 40)),
            ("length", json!(-1)),
            ("time", json!(-1)),
            ("time", json!(1e300)),
            ("connections", Value::Null),
        ] {
            let mut bad = good.clone();
            bad[key] = value.clone();
            assert!(Plan::from_json(&bad).is_err(), "{key} {value}");
        }
        assert!(Plan::from_json(&json!([])).is_err());
        assert!(matches!(kind(&Message::new("{")), Kind::Unknown));
        assert!(matches!(kind(&Message::new("")), Kind::Unknown));
        assert!(matches!(kind(&Message::new("hello")), Kind::Unknown));
    }

    #[test]
    fn tallies_survive_the_wire_and_add_up() {
        let one =
            Tally { messages: 2, bytes: 10, seconds: 0.5, cpu_seconds: 0.25, ..Tally::default() };
        assert_eq!(Tally::from_json(&Value::Object(one.to_json())), one);
        let sum = Tally::sum(&[one, one]);
        assert_eq!((sum.messages, sum.bytes, sum.seconds), (4, 20, 0.5));
        assert_eq!(Tally::from_json(&json!({"seconds": "x", "bytes": -1})), Tally::default());
    }
}
