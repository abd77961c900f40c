//! Plain sockets: the least that the work can cost. No framing: both sides know the size.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use crate::scenario::{Kind, Meter, Scenario};

pub fn blocking_speaks(scenario: &Scenario) -> bool {
    match scenario.kind {
        Kind::PingPong { connections } => connections == 1,
        Kind::OneWay => scenario.size > 64,
        Kind::OneWayTls => false,
    }
}

pub fn epoll_speaks(scenario: &Scenario) -> bool {
    matches!(scenario.kind, Kind::PingPong { .. })
}

fn listen() -> TcpListener {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    println!("{}", listener.local_addr().expect("bound").port());
    listener
}

pub fn serve_blocking(scenario: &Scenario, _: f64) {
    let (mut stream, _) = listen().accept().expect("the client");
    stream.set_nodelay(true).expect("an option");
    let mut buffer = vec![0; scenario.size];
    if let Kind::PingPong { .. } = scenario.kind {
        while stream.read_exact(&mut buffer).is_ok() {
            stream.write_all(&buffer).expect("the client reads");
        }
        return;
    }
    let mut meter = Meter::default();
    while stream.read_exact(&mut buffer).is_ok() {
        meter.add(1);
    }
    meter.print();
}

pub fn drive_blocking(scenario: &Scenario, port: u16, seconds: f64) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the server");
    stream.set_nodelay(true).expect("an option");
    let mut buffer = vec![7; scenario.size];
    let (start, length) = (Instant::now(), Duration::from_secs_f64(seconds));
    let mut count = 0u64;
    while start.elapsed() < length {
        stream.write_all(&buffer).expect("the server reads");
        if let Kind::PingPong { .. } = scenario.kind {
            stream.read_exact(&mut buffer).expect("an echo");
        }
        count += 1;
    }
    if !scenario.is_one_way() {
        println!("{}", count as f64 / start.elapsed().as_secs_f64());
    }
}

/// A level-triggered loop that echoes or counts whole messages on any number of sockets.
struct Loop {
    epoll: i32,
    streams: Vec<TcpStream>,
}

impl Loop {
    fn new(streams: Vec<TcpStream>) -> Loop {
        // SAFETY: plain system calls on descriptors that `streams` keeps open.
        let epoll = unsafe { libc::epoll_create1(0) };
        for (index, stream) in streams.iter().enumerate() {
            stream.set_nodelay(true).expect("an option");
            stream.set_nonblocking(true).expect("an option");
            let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: index as u64 };
            // SAFETY: as above; the event is copied by the kernel.
            unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, stream.as_raw_fd(), &mut event) };
        }
        Loop { epoll, streams }
    }

    /// Echoes until the peer closes, or for the given time; how many messages.
    fn run(&mut self, size: usize, until: Option<Instant>) -> u64 {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 64];
        let mut buffer = vec![0; size];
        let mut count = 0;
        loop {
            // SAFETY: the kernel writes at most 64 events into the array.
            let ready = unsafe { libc::epoll_wait(self.epoll, events.as_mut_ptr(), 64, 1000) };
            for event in events.iter().take(ready.max(0) as usize) {
                let stream = &mut self.streams[event.u64 as usize];
                match stream.read(&mut buffer) {
                    Ok(0) => return count,
                    Ok(length) => {
                        // 64 bytes are never split on loopback; a split one would only be echoed in parts.
                        stream.write_all(&buffer[..length]).expect("the peer reads");
                        count += (length == size) as u64;
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(_) => return count,
                }
            }
            if until.is_some_and(|until| Instant::now() >= until) {
                return count;
            }
        }
    }
}

fn connections(scenario: &Scenario) -> usize {
    match scenario.kind {
        Kind::PingPong { connections } => connections,
        _ => 1,
    }
}

pub fn serve_epoll(scenario: &Scenario, _: f64) {
    let listener = listen();
    let accept = |_| listener.accept().expect("a client").0;
    let streams = (0..connections(scenario)).map(accept).collect();
    Loop::new(streams).run(scenario.size, None);
}

pub fn drive_epoll(scenario: &Scenario, port: u16, seconds: f64) {
    let connect = |_| TcpStream::connect(("127.0.0.1", port)).expect("the server");
    let mut driver = Loop::new((0..connections(scenario)).map(connect).collect());
    let ball = vec![7; scenario.size];
    let start = Instant::now();
    for stream in &mut driver.streams {
        stream.write_all(&ball).expect("the server reads");
    }
    let count = driver.run(scenario.size, Some(start + Duration::from_secs_f64(seconds)));
    println!("{}", count as f64 / start.elapsed().as_secs_f64());
}
