//! WebSocket echo servers against each other: the same hand-written client with a window, in the same run, interleaved,
//! client and server on one core.
//!
//!     cargo run --release -- [--rounds N] [--scale PERCENT] [--only SERVER]... [--only sessions] [--case NUMBER]
//!
//! What is compared is processor time per message, of the whole process: on one core that is what limits the rate, and it
//! does not depend on who else uses the machine. Figures are medians over the rounds.

mod client;
mod peers;
mod raw;
mod sessions;
mod towline_peer;

use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc::{Sender, channel};

/// What is sent: payloads of a size, so many on their way at once.
#[derive(Clone, Copy)]
pub struct Case {
    pub name: &'static str,
    pub size: usize,
    pub window: usize,
    pub messages: usize,
}

const CASES: [Case; 3] = [
    Case { name: "64 B, window 64", size: 64, window: 64, messages: 400_000 },
    Case { name: "64 B, window 1", size: 64, window: 1, messages: 40_000 },
    Case { name: "64 KiB, window 16", size: 64 << 10, window: 16, messages: 8_000 },
];

/// Serves one connection, on a thread of its own, and tells where.
pub type Serve = fn(Sender<SocketAddr>);

const SERVERS: [(&str, Serve); 6] = [
    ("raw", raw::serve),
    ("tungstenite", peers::tungstenite),
    ("fastwebsockets", peers::fastwebsockets),
    ("tokio-websockets", peers::tokio_websockets),
    ("towline", towline_peer::serve),
    ("towline-epoll", towline_peer::serve_epoll),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str, default: usize| {
        let at = arguments.iter().position(|argument| argument == name);
        at.and_then(|at| arguments.get(at + 1))
            .and_then(|value| value.parse().ok())
            .unwrap_or(default)
    };
    let only: Vec<&String> =
        arguments.windows(2).filter(|pair| pair[0] == "--only").map(|pair| &pair[1]).collect();
    let (rounds, scale) = (value("--rounds", 7), value("--scale", 100));
    let chosen = value("--case", 0);
    pin_to_one_core();
    println!(
        "processor time per message in microseconds, and its inverse relative to raw; {rounds} rounds"
    );
    let wanted = |name: &str| only.is_empty() || only.iter().any(|only| *only == name);
    for (_, case) in CASES.into_iter().enumerate().filter(|(at, _)| chosen == 0 || at + 1 == chosen) {
        let case = Case { messages: (case.messages * scale / 100).max(case.window * 10), ..case };
        let servers: Vec<_> = SERVERS.iter().filter(|(name, _)| wanted(name)).collect();
        if servers.is_empty() {
            break;
        }
        let mut costs = vec![Vec::new(); servers.len()];
        for _ in 0..rounds {
            for (server, costs) in servers.iter().zip(&mut costs) {
                costs.push(measure(server.1, case));
            }
        }
        println!("\n{} ({} messages)", case.name, case.messages);
        let raw = median(&mut costs[0]);
        for ((name, _), costs) in servers.iter().zip(&mut costs) {
            let cost = median(costs);
            println!("{name:>18} {cost:9.3} us  {:.2}", raw / cost);
        }
    }
    if wanted("sessions") {
        sessions::compare(rounds, scale);
    }
}

fn measure(serve: Serve, case: Case) -> f64 {
    let (tell, told) = channel();
    let server = std::thread::spawn(move || serve(tell));
    let address = told.recv().expect("an address");
    let mut client = client::Client::connect(address, case);
    client.run(case.messages / 10);
    let before = processor_time();
    client.run(case.messages);
    let cost = processor_time() - before;
    client.close();
    server.join().expect("the server");
    cost * 1e6 / case.messages as f64
}

/// A listener of which the client has been told.
pub fn listen(tell: &Sender<SocketAddr>) -> TcpListener {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    tell.send(listener.local_addr().expect("its address")).expect("a client");
    listener
}

pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Of this process, in seconds.
pub fn processor_time() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place for the result.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn pin_to_one_core() {
    // SAFETY: a zeroed set is empty and valid; core 0 is within it.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(0, &mut set);
        libc::sched_setaffinity(0, std::mem::size_of::<libc::cpu_set_t>(), &set);
    }
}
