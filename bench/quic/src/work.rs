//! What is measured.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use hdrhistogram::Histogram;

/// The works, by what a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Bulk,
    Ping,
    Requests,
    Full,
    Resumed,
    Idle,
}

/// A figure of a work, and how it has to compare with the best peer's.
pub struct Measure {
    pub name: &'static str,
    pub more_is_better: bool,
    /// The ratio to the best peer that is asked for.
    pub goal: Option<f64>,
}

pub struct Work {
    pub name: &'static str,
    pub title: &'static str,
    pub kind: Kind,
    pub measures: &'static [Measure],
}

const fn more(name: &'static str, goal: f64) -> Measure {
    Measure { name, more_is_better: true, goal: Some(goal) }
}

const fn less(name: &'static str, goal: f64) -> Measure {
    Measure { name, more_is_better: false, goal: Some(goal) }
}

const fn shown(name: &'static str) -> Measure {
    Measure { name, more_is_better: false, goal: None }
}

pub const WORKS: &[Work] = &[
    Work {
        name: "bulk",
        title: "one connection, one stream, as fast as it goes",
        kind: Kind::Bulk,
        measures: &[more("Gb/s", 1.1), less("CPU s/GB, both ends", 0.9)],
    },
    Work {
        name: "ping",
        title: "64 bytes there and back on one stream",
        kind: Kind::Ping,
        measures: &[less("p50, us", 1.0), less("p99, us", 1.0), shown("CPU us each")],
    },
    Work {
        name: "requests",
        title: "64 bytes there and back, each on a stream of its own, 32 at once",
        kind: Kind::Requests,
        measures: &[more("per second", 1.2), shown("CPU us each")],
    },
    Work {
        name: "full",
        title: "a handshake, one request and a close, 4 at once",
        kind: Kind::Full,
        measures: &[more("per second", 1.0), shown("CPU us each")],
    },
    Work {
        name: "resumed",
        title: "the same with a ticket",
        kind: Kind::Resumed,
        measures: &[more("per second", 1.0), shown("CPU us each")],
    },
    Work {
        name: "idle",
        title: "memory of idle connections, after one request",
        kind: Kind::Idle,
        measures: &[less("bytes each, server", 1.0), less("bytes each, client", 1.0)],
    },
];

/// Requests under way at once.
pub const REQUESTS_AT_ONCE: u64 = 32;
/// Handshakes under way at once.
pub const HANDSHAKES_AT_ONCE: u64 = 4;
/// Bytes sent before bulk is measured: slow start is over.
pub const WARM_UP: u64 = 32 << 20;
/// What a writer of bulk hands over at once.
pub const CHUNK: usize = 256 << 10;
/// Of every connection here.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(600);
/// How long idle connections have to come to rest before their memory is read.
pub const REST: Duration = Duration::from_secs(2);
/// The application protocol.
pub const ALPN: &[u8] = b"bench";
/// A stream that begins with it is echoed; every other is read to its end, which is answered with an end.
pub const ECHO: u8 = b'e';
/// What a request is, behind [`ECHO`].
pub const REQUEST: usize = 64;

/// One measurement, as a client process has to make it.
#[derive(Clone)]
pub struct Run {
    pub kind: Kind,
    /// Where the certificate is.
    pub folder: PathBuf,
    pub to: SocketAddr,
    /// The server's process.
    pub server: u32,
    pub seconds: f64,
    /// Idle connections.
    pub connections: u64,
}

impl Run {
    pub fn lasts(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    /// Whether clients keep tickets.
    pub fn resumes(&self) -> bool {
        self.kind == Kind::Resumed
    }
}

/// Bytes moved in a time.
pub fn print_bulk(bytes: u64, (wall, cpu): (Duration, Duration)) {
    let bytes = bytes as f64;
    println!("{:.4} {:.4}", bytes * 8e-9 / wall.as_secs_f64(), cpu.as_secs_f64() * 1e9 / bytes);
}

/// Round trips of each so many nanoseconds.
pub fn print_ping(times: &Histogram<u64>, (_, cpu): (Duration, Duration)) {
    let at = |quantile| times.value_at_quantile(quantile) as f64 / 1e3;
    println!("{:.2} {:.2} {:.3}", at(0.5), at(0.99), cpu.as_secs_f64() * 1e6 / times.len() as f64);
}

/// Things done in a time.
pub fn print_rate(count: u64, (wall, cpu): (Duration, Duration)) {
    let count = count as f64;
    println!("{:.2} {:.3}", count / wall.as_secs_f64(), cpu.as_secs_f64() * 1e6 / count);
}

/// Round-trip times up to ten seconds, in nanoseconds.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_max(10_000_000_000, 3).expect("bounds of a histogram")
}
