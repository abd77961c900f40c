//! The drivers of towline-io beside plain socket loops: 64-byte ping-pong and bulk transfer over loopback TCP.
//!
//! One process, two threads, each pinned to a core of its own. The measured side is the server; the client is the
//! same plain loop for all contestants (blocking for one connection, epoll for many), so that the ratios tell the
//! server's cost. All contestants take turns within each round; the figure is the median of the rounds.
//!
//!     cargo run --release                      table and JSON of everything
//!     cargo run --release -- --rounds 9 --ms 400 --only ping1,bulk64k
//!     cargo run --release -- --same-core       both threads on one core: the cost in instructions, no wake-up across
//!     cargo run --release -- --spin-us 50      the drivers look for so long before they sleep
//!     cargo run --release -- --buffers 8       receive buffers of the drivers
//!     cargo run --release -- --udp          datagrams, with and without offloads
//!     cargo run --release -- --side driver/epoll --only ping1      one contestant, for `perf stat` and `strace -c`

mod driver;
mod plain;
mod udp;

use std::collections::BTreeMap;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What is measured.
#[derive(Clone, Copy)]
pub struct Work {
    name: &'static str,
    connections: usize,
    /// Bytes per message.
    size: usize,
    /// Messages go one way only.
    one_way: bool,
}

const WORKS: [Work; 5] = [
    Work { name: "ping1", connections: 1, size: 64, one_way: false },
    Work { name: "ping64", connections: 64, size: 64, one_way: false },
    Work { name: "ping64k", connections: 1, size: 65_536, one_way: false },
    Work { name: "bulk64k", connections: 1, size: 65_536, one_way: true },
    Work { name: "bulk1m", connections: 1, size: 1 << 20, one_way: true },
];

/// Who is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Blocking,
    Epoll,
    DriverEpoll,
    DriverUring,
}

const SIDES: [(&str, Side); 4] = [
    ("blocking", Side::Blocking),
    ("epoll", Side::Epoll),
    ("driver/epoll", Side::DriverEpoll),
    ("driver/io_uring", Side::DriverUring),
];

/// What both threads of a run share.
pub struct Run {
    pub work: Work,
    pub stop: AtomicBool,
}

impl Run {
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

fn pin(core: usize) {
    // SAFETY: an all-zero set is valid, and the call reads it only.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set);
    }
}

/// Serves until all connections have ended.
fn serve(side: Side, run: &Run, streams: Vec<TcpStream>, spin: Duration) {
    match side {
        Side::Blocking if streams.len() == 1 => plain::blocking_server(run, &streams[0]),
        // A thread per connection would be another contest: the epoll loop stands in.
        Side::Blocking | Side::Epoll => plain::epoll_server(run, &streams),
        Side::DriverEpoll | Side::DriverUring => driver::server(side, run, streams, spin),
    }
}

/// Messages per second.
fn measure(side: Side, work: Work, time: Duration, same_core: bool, spin: Duration) -> f64 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let addr = listener.local_addr().expect("address");
    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    for _ in 0..work.connections {
        let client = TcpStream::connect(addr).expect("connect");
        client.set_nodelay(true).expect("nodelay");
        let (server, _) = listener.accept().expect("accept");
        server.set_nodelay(true).expect("nodelay");
        ours.push(client);
        theirs.push(server);
    }
    let run = Arc::new(Run { work, stop: AtomicBool::new(false) });
    let server = {
        let run = run.clone();
        std::thread::spawn(move || {
            pin(0);
            serve(side, &run, theirs, spin);
        })
    };
    let client = {
        let run = run.clone();
        std::thread::spawn(move || {
            pin(usize::from(!same_core));
            let start = Instant::now();
            let count = match (work.one_way, work.connections) {
                (true, _) => plain::blocking_source(&run, &ours[0]),
                (false, 1) => plain::blocking_client(&run, &ours[0]),
                (false, _) => plain::epoll_client(&run, &ours),
            };
            count as f64 / start.elapsed().as_secs_f64()
        })
    };
    std::thread::sleep(time);
    run.stop.store(true, Ordering::Relaxed);
    let rate = client.join().expect("client");
    server.join().expect("server");
    rate
}

/// Bytes per second that a server's own sends reach: the measured side is the source.
fn measure_source(side: Side, work: Work, time: Duration, spin: Duration) -> f64 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let client = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
    let (server, _) = listener.accept().expect("accept");
    let run = Arc::new(Run { work, stop: AtomicBool::new(false) });
    let sink = std::thread::spawn(move || {
        pin(1);
        plain::blocking_sink(&client)
    });
    let source = {
        let run = run.clone();
        std::thread::spawn(move || {
            pin(0);
            let start = Instant::now();
            let count = match side {
                Side::Blocking | Side::Epoll => plain::blocking_source(&run, &server),
                _ => driver::source(side, &run, server, spin),
            };
            count as f64 / start.elapsed().as_secs_f64()
        })
    };
    std::thread::sleep(time);
    run.stop.store(true, Ordering::Relaxed);
    let rate = source.join().expect("source");
    sink.join().expect("sink");
    rate
}

pub fn option(name: &str) -> Option<String> {
    let mut args = std::env::args().skip_while(|arg| arg != name);
    args.next()?;
    args.next()
}

fn main() {
    let rounds: usize = option("--rounds").map_or(5, |text| text.parse().expect("a number"));
    let ms: u64 = option("--ms").map_or(250, |text| text.parse().expect("milliseconds"));
    let spin: u64 = option("--spin-us").map_or(0, |text| text.parse().expect("microseconds"));
    let only = option("--only");
    let who = option("--side");
    let same_core = std::env::args().any(|arg| arg == "--same-core");
    let (time, spin) = (Duration::from_millis(ms), Duration::from_micros(spin));
    if std::env::args().any(|arg| arg == "--udp") {
        return udp::compare(rounds, time);
    }
    let mut results: BTreeMap<String, BTreeMap<&str, Vec<f64>>> = BTreeMap::new();
    for _ in 0..rounds {
        for work in WORKS {
            for (name, side) in SIDES {
                if who.as_ref().is_some_and(|who| who != name) {
                    continue;
                }
                let wanted = |test: &str| {
                    only.as_ref().is_none_or(|only| only.split(',').any(|name| name == test))
                };
                let mut note = |test: String, rate| {
                    results.entry(test).or_default().entry(name).or_default().push(rate);
                };
                let test =
                    if work.one_way { format!("{}-sink", work.name) } else { work.name.into() };
                if wanted(&test) {
                    note(test, measure(side, work, time, same_core, spin));
                }
                let test = format!("{}-source", work.name);
                if work.one_way && wanted(&test) {
                    note(test, measure_source(side, work, time, spin));
                }
            }
        }
    }
    print(&results);
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// The table, with each contestant's ratio to the blocking and to the epoll loop of the same round, then JSON.
fn print(results: &BTreeMap<String, BTreeMap<&str, Vec<f64>>>) {
    println!(
        "{:16} {:16} {:>12} {:>12} {:>12}",
        "work", "side", "messages/s", "to blocking", "to epoll"
    );
    let mut json = Vec::new();
    for (work, sides) in results {
        for (name, _) in SIDES {
            let Some(rates) = sides.get(name) else { continue };
            let ratio = |base: &str| {
                let base = sides.get(base)?;
                let ratios: Vec<f64> = rates.iter().zip(base).map(|(a, b)| a / b).collect();
                Some(median(&ratios))
            };
            let text = |ratio: Option<f64>| ratio.map_or("-".into(), |ratio| format!("{ratio:.3}"));
            let (blocking, epoll) = (ratio("blocking"), ratio("epoll"));
            let rate = median(rates);
            println!("{work:16} {name:16} {rate:12.0} {:>12} {:>12}", text(blocking), text(epoll));
            let number =
                |ratio: Option<f64>| ratio.map_or("null".into(), |ratio| format!("{ratio:.4}"));
            json.push(format!(
                r#"{{"work":"{work}","side":"{name}","per_second":{rate:.1},"to_blocking":{},"to_epoll":{}}}"#,
                number(blocking),
                number(epoll)
            ));
        }
    }
    println!("[{}]", json.join(",\n "));
}
