//! What is measured.

/// What the two sides do.
#[derive(Clone, Copy, PartialEq)]
pub enum Kind {
    /// One message at a time on each connection, echoed.
    PingPong { connections: usize },
    /// Messages in one direction, as many as fit, each handed to the library by itself.
    OneWay,
    /// The same over TLS 1.3.
    OneWayTls,
}

/// One line of the table.
pub struct Scenario {
    pub name: &'static str,
    pub title: &'static str,
    pub kind: Kind,
    pub size: usize,
    pub unit: &'static str,
}

impl Scenario {
    pub fn is_one_way(&self) -> bool {
        !matches!(self.kind, Kind::PingPong { .. })
    }
}

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "pingpong-1", title: "64-byte ping-pong, one connection", kind: Kind::PingPong { connections: 1 }, size: 64, unit: "round trips" },
    Scenario { name: "pingpong-64", title: "64-byte ping-pong, 64 connections", kind: Kind::PingPong { connections: 64 }, size: 64, unit: "round trips" },
    Scenario { name: "oneway-64", title: "64-byte messages one way, one call each", kind: Kind::OneWay, size: 64, unit: "messages" },
    Scenario { name: "oneway-64k", title: "64 KiB messages one way", kind: Kind::OneWay, size: 64 << 10, unit: "messages" },
    Scenario { name: "oneway-1m", title: "1 MiB messages one way", kind: Kind::OneWay, size: 1 << 20, unit: "messages" },
    Scenario { name: "oneway-64k-tls", title: "64 KiB messages one way over TLS 1.3", kind: Kind::OneWayTls, size: 64 << 10, unit: "messages" },
];

/// Counts what a receiver gets and knows the rate between its first and its last.
#[derive(Default)]
pub struct Meter {
    count: u64,
    first: Option<std::time::Instant>,
    last: Option<std::time::Instant>,
}

impl Meter {
    pub fn add(&mut self, messages: u64) {
        if messages == 0 {
            return;
        }
        let now = std::time::Instant::now();
        self.first.get_or_insert(now);
        self.last = Some(now);
        self.count += messages;
    }

    /// [`Self::add`] that looks at the clock only now and then, for the smallest messages.
    pub fn add_one(&mut self) {
        if self.count & 255 == 0 {
            self.add(1);
        } else {
            self.count += 1;
        }
    }

    pub fn print(&self) {
        let elapsed = match (self.first, self.last) {
            (Some(first), Some(last)) => (last - first).as_secs_f64(),
            _ => 0.0,
        };
        println!("{}", self.count.saturating_sub(1) as f64 / elapsed.max(1e-9));
    }
}
