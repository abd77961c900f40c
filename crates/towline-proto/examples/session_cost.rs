//! What the session costs, without any I/O: `cargo run --release -p towline-proto --example session_cost`.
//!
//! Prints time per message; for instruction counts, which do not depend on what else runs, name one part and a
//! number: `valgrind --tool=callgrind target/release/examples/session_cost oneway 100000`, twice with different
//! numbers, and divide the difference.
#![allow(clippy::print_stdout)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use towline_proto::session::{
    Config, Event, Handshake, Lane, Message, Outgoing, Payload, Session, SessionId,
};

struct End {
    session: Session,
    outgoing: Outgoing,
}

impl End {
    fn messages(&mut self, mut each: impl FnMut(&mut Outgoing, Message)) {
        while let Some(event) = self.session.poll_event() {
            if let Event::Message(message) = event {
                let (lane, cost) = (message.lane, message.cost());
                each(&mut self.outgoing, message);
                self.session.consumed(lane, cost);
            }
        }
    }
}

struct Pair {
    now: Instant,
    client: End,
    server: End,
    out: Vec<Bytes>,
    pool: BytesMut,
}

impl Pair {
    fn new() -> Pair {
        let (config, now) = (Arc::new(Config::default()), Instant::now());
        let mut client = Session::client(config.clone(), SessionId([1; 16]), now);
        client.handle_open(now);
        let mut out = Vec::new();
        client.poll_transmit(now, usize::MAX, &mut out);
        let (hello, _) =
            Handshake::new().handle_input(out.remove(0)).expect("good").expect("whole");
        let server = Session::server(config.clone(), hello, now).expect("taken");
        let outgoing = || Outgoing::new(&config.limits);
        let client = End { session: client, outgoing: outgoing() };
        let server = End { session: server, outgoing: outgoing() };
        let mut pair = Pair { now, client, server, out, pool: BytesMut::new() };
        pair.down(|_, _| ());
        assert!(pair.client.session.is_established());
        pair
    }

    /// What a transport does, without the kernel: gathers into a pooled buffer, as a receive would fill it.
    fn carry(out: &mut Vec<Bytes>, pool: &mut BytesMut) -> Bytes {
        pool.reserve(64 << 10);
        for part in out.drain(..) {
            pool.extend_from_slice(&part);
        }
        pool.split().freeze()
    }

    fn up(&mut self, each: impl FnMut(&mut Outgoing, Message)) {
        self.client.session.enqueue(self.now, &mut self.client.outgoing);
        while self.client.session.poll_transmit(self.now, 48 << 10, &mut self.out) > 0 {
            let data = Pair::carry(&mut self.out, &mut self.pool);
            self.server.session.handle_input(self.now, data);
        }
        self.server.messages(each);
    }

    fn down(&mut self, each: impl FnMut(&mut Outgoing, Message)) {
        self.server.session.enqueue(self.now, &mut self.server.outgoing);
        while self.server.session.poll_transmit(self.now, 48 << 10, &mut self.out) > 0 {
            let data = Pair::carry(&mut self.out, &mut self.pool);
            self.client.session.handle_input(self.now, data);
        }
        self.client.messages(each);
    }
}

/// 64-octet messages one way, a thousand at a time.
fn oneway(count: usize) {
    let mut pair = Pair::new();
    let payload = [7; 64];
    let mut received = 0;
    for _ in 0..count / 1000 {
        for _ in 0..1000 {
            let sent = pair.client.outgoing.push(
                Lane::NORMAL,
                None,
                None,
                Payload::Slice(black_box(&payload)),
            );
            black_box(sent).expect("room");
        }
        pair.up(|_, message| {
            received += 1;
            black_box(message);
        });
        pair.down(|_, _| ());
    }
    assert_eq!(received, count / 1000 * 1000);
}

/// 64-octet messages there and back, one at a time.
fn pingpong(count: usize) {
    let mut pair = Pair::new();
    let payload = [7; 64];
    let mut received = 0;
    for _ in 0..count {
        pair.client
            .outgoing
            .push(Lane::NORMAL, None, None, Payload::Slice(&payload))
            .expect("room");
        pair.up(|outgoing, message| {
            outgoing
                .push(Lane::NORMAL, None, Some(message.id), Payload::Bytes(message.data))
                .expect("room");
        });
        pair.down(|_, message| {
            received += 1;
            black_box(message);
        });
    }
    assert_eq!(received, count);
}

/// Large messages one way, read directly where the session offers it.
fn large(count: usize, size: usize) {
    let mut pair = Pair::new();
    let payload = Bytes::from(vec![7; size]);
    let mut received = 0;
    for _ in 0..count {
        pair.client
            .outgoing
            .push(Lane::NORMAL, None, None, Payload::Bytes(payload.clone()))
            .expect("room");
        pair.client.session.enqueue(pair.now, &mut pair.client.outgoing);
        while pair.client.session.poll_transmit(pair.now, 64 << 10, &mut pair.out) > 0 {
            for mut part in pair.out.drain(..) {
                pair.server.messages(|_, _| received += 1);
                if let Some(mut direct) = pair.server.session.direct() {
                    let take = part.len().min(direct.want);
                    direct.buffer.extend_from_slice(&part.split_to(take));
                    pair.server.session.handle_direct(pair.now, direct.buffer);
                }
                if !part.is_empty() {
                    pair.server.session.handle_input(pair.now, part);
                }
            }
            pair.server.messages(|_, _| received += 1);
        }
        pair.down(|_, _| ());
    }
    assert_eq!(received, count);
}

fn run(part: &str, count: usize) {
    match part {
        "oneway" => oneway(count),
        "pingpong" => pingpong(count),
        "64k" => large(count, 64 << 10),
        "1m" => large(count, 1 << 20),
        _ => println!("parts: oneway, pingpong, 64k, 1m"),
    }
}

fn main() {
    let mut args = std::env::args().skip(1);
    if let (Some(part), Some(count)) =
        (args.next(), args.next().and_then(|count| count.parse().ok()))
    {
        return run(&part, count);
    }
    for (part, count) in
        [("oneway", 10_000_000), ("pingpong", 1_000_000), ("64k", 100_000), ("1m", 5_000)]
    {
        let best = (0..3)
            .map(|_| {
                let start = Instant::now();
                run(part, count);
                start.elapsed()
            })
            .min()
            .unwrap_or_default();
        println!(
            "{part:>9}: {:8.1} ns each, best of 3 runs of {count}",
            best.as_secs_f64() * 1e9 / count as f64
        );
    }
    println!("size_of: Session {}, Outgoing {}", size_of::<Session>(), size_of::<Outgoing>());
}
