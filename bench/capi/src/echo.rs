//! Echo servers under the same load: so many connections, each with one 64-byte message under way.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::{Options, Programs, median, pinned};

const SERVERS: [&str; 3] = ["echo_epoll", "echo_uv", "echo_iocp"];

struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn start(programs: &Programs, name: &str) -> Server {
        let mut command = pinned(&programs.command(name), 0);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("a server");
        let mut line = String::new();
        let output = child.stdout.take().expect("its output");
        BufReader::new(output).read_line(&mut line).expect("its port");
        Server { child, port: line.trim().parse().expect("a port") }
    }

    /// The processor seconds that it has used.
    fn used(&self) -> f64 {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("its state");
        let after = text.rsplit(") ").next().expect("fields");
        let ticks: u64 = after.split(' ').skip(11).take(2).map(|word| word.parse::<u64>().expect("ticks")).sum();
        ticks as f64 / 100.0
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Round trips per second and per processor second of the server.
fn load(server: &Server, connections: usize, time: Duration) -> (f64, f64) {
    let mut streams: Vec<TcpStream> = (0..connections)
        .map(|_| {
            let stream = TcpStream::connect(("127.0.0.1", server.port)).expect("a connection");
            stream.set_nodelay(true).expect("no delay");
            stream
        })
        .collect();
    // SAFETY: plain system calls with memory of the right size.
    let poll = unsafe { libc::epoll_create1(0) };
    for (at, stream) in streams.iter().enumerate() {
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: at as u64 };
        // SAFETY: as above.
        unsafe { libc::epoll_ctl(poll, libc::EPOLL_CTL_ADD, stream.as_raw_fd(), &raw mut event) };
    }
    let mut data = [1; 64];
    for stream in &mut streams {
        stream.write_all(&data).expect("the first message");
    }
    let (begun, used, mut count) = (Instant::now(), server.used(), 0u64);
    let mut ready = [libc::epoll_event { events: 0, u64: 0 }; 64];
    while begun.elapsed() < time {
        // SAFETY: as above.
        let found = unsafe { libc::epoll_wait(poll, ready.as_mut_ptr(), 64, 1000) };
        for event in &ready[..found.max(0) as usize] {
            let stream = &mut streams[event.u64 as usize];
            stream.read_exact(&mut data).expect("an answer");
            stream.write_all(&data).expect("the next message");
            count += 1;
        }
    }
    // SAFETY: it is this function's own.
    unsafe { libc::close(poll) };
    let (elapsed, used) = (begun.elapsed().as_secs_f64(), server.used() - used);
    (count as f64 / elapsed, count as f64 / used.max(0.01))
}

pub(crate) fn compare(programs: &Programs, options: &Options, connections: usize) {
    let core = if options.same_core { 0 } else { 1 };
    // SAFETY: a set of cores of the right size.
    unsafe {
        let mut cores: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut cores);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const cores);
    }
    let servers = SERVERS.map(|name| Server::start(programs, name));
    let mut rates = vec![Vec::new(); SERVERS.len()];
    let mut per_processor = vec![Vec::new(); SERVERS.len()];
    for round in 0..=options.rounds {
        for turn in 0..SERVERS.len() {
            let at = (turn + round) % SERVERS.len();
            let (rate, efficient) = load(&servers[at], connections, Duration::from_millis(options.ms));
            // The first round warms up.
            if round > 0 {
                rates[at].push(rate);
                per_processor[at].push(efficient);
            }
        }
    }
    let ratio = |values: &[Vec<f64>], to: usize| {
        median(values[2].iter().zip(&values[to]).map(|(ours, theirs)| ours / theirs).collect())
    };
    println!(
        "echo, {connections} connections: socket_iocp to epoll {:.3}, to libuv {:.3} by time; {:.3} and {:.3} by the server's processor time; {:.0} per second",
        ratio(&rates, 0),
        ratio(&rates, 1),
        ratio(&per_processor, 0),
        ratio(&per_processor, 1),
        median(rates[2].clone())
    );
}
