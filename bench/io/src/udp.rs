//! Datagrams of 1,200 bytes over loopback, through a driver on each side: with the offloads, and without one or both.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use bytes::Bytes;
use towline_io::{Driver, DriverChoice, DriverConfig, Event, Transmit, UdpOptions};

/// A usual size for QUIC.
const DATAGRAM: usize = 1200;
/// Datagrams that one call hands over.
const TRAIN: usize = 50;
/// Trains that may wait in the driver.
const WAITING: usize = 16;

fn choice(name: &str) -> DriverChoice {
    if name == "io_uring" { DriverChoice::IoUring } else { DriverChoice::Epoll }
}

/// Sends for so long; bytes handed to the kernel.
fn source(name: &str, socket: UdpSocket, to: std::net::SocketAddr, options: UdpOptions, time: Duration) -> u64 {
    let mut driver = Driver::new(&DriverConfig::new(choice(name))).expect("a driver");
    let id = driver.udp_with(socket.into(), 0, options).expect("a socket");
    let contents = Bytes::from(vec![7; DATAGRAM * TRAIN]);
    let (start, mut sent, mut waiting, mut completions) = (Instant::now(), 0, 0, Vec::new());
    while start.elapsed() < time {
        while waiting < WAITING {
            let transmit = Transmit {
                destination: to,
                source: None,
                ecn: None,
                segment_size: Some(DATAGRAM),
                contents: contents.clone(),
            };
            driver.udp_send(id, transmit).expect("an open socket");
            waiting += 1;
        }
        driver.wait(Some(start + time), &mut completions).expect("wait");
        for completion in completions.drain(..) {
            if let Event::DatagramsSent(done) = completion.event {
                waiting -= 1;
                sent += done.result.unwrap_or(0) as u64;
            }
        }
    }
    sent
}

/// Receives until nothing has come for a while; bytes, and for how long they came.
fn sink(name: &str, socket: UdpSocket, options: UdpOptions) -> (u64, Duration) {
    let mut driver = Driver::new(&DriverConfig::new(choice(name))).expect("a driver");
    let id = driver.udp_with(socket.into(), 0, options).expect("a socket");
    driver.udp_recv(id).expect("an open socket");
    let (mut first, mut last, mut bytes, mut completions) = (None, Instant::now(), 0, Vec::new());
    loop {
        driver.wait(Some(Instant::now() + Duration::from_millis(200)), &mut completions).expect("wait");
        if completions.is_empty() && first.is_some() {
            return (bytes, last - first.unwrap_or(last));
        }
        for completion in completions.drain(..) {
            if let Event::Datagrams(datagrams) = completion.event {
                bytes += datagrams.data.len() as u64;
                last = Instant::now();
                first.get_or_insert(last);
                driver.recycle_mut(datagrams.data);
            }
        }
    }
}

fn measure(name: &'static str, options: UdpOptions, time: Duration) -> (f64, f64) {
    let bind = || {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).expect("a socket");
        socket.set_recv_buffer_size(4 << 20).ok();
        let any: std::net::SocketAddr = "127.0.0.1:0".parse().expect("an address");
        socket.bind(&any.into()).expect("a port");
        UdpSocket::from(socket)
    };
    let (near, far) = (bind(), bind());
    let to = far.local_addr().expect("bound");
    let receiver = std::thread::spawn(move || {
        crate::pin(1);
        sink(name, far, options)
    });
    let sender = std::thread::spawn(move || {
        crate::pin(0);
        source(name, near, to, options, time)
    });
    let sent = sender.join().expect("the sender") as f64 * 8e-9 / time.as_secs_f64();
    let (bytes, during) = receiver.join().expect("the receiver");
    (sent, bytes as f64 * 8e-9 / during.as_secs_f64().max(1e-9))
}

/// Prints Gb/s handed to the kernel and received, medians of the rounds.
pub fn compare(rounds: usize, time: Duration) {
    println!("{:10} {:12} {:>12} {:>14}", "driver", "offloads", "sent Gb/s", "received Gb/s");
    for name in ["epoll", "io_uring"] {
        for (label, gso, gro, batch) in [
            ("GSO and GRO", true, true, true),
            ("GSO", true, false, true),
            ("GRO", false, true, true),
            ("batches", false, false, true),
            ("none", false, false, false),
        ] {
            let mut options = UdpOptions::default();
            (options.gso, options.gro, options.batch) = (gso, gro, batch);
            let results: Vec<_> = (0..rounds).map(|_| measure(name, options, time)).collect();
            let of = |pick: fn(&(f64, f64)) -> f64| crate::median(&results.iter().map(pick).collect::<Vec<_>>());
            println!("{name:10} {label:12} {:12.2} {:14.2}", of(|r| r.0), of(|r| r.1));
        }
    }
}
