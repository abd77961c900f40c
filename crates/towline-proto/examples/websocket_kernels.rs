//! How fast the WebSocket engine is, without a network.
//!
//!     cargo run --release -p towline-proto --example websocket_kernels
//!     cargo build --release -p towline-proto --example websocket_kernels
//!     valgrind --tool=callgrind --toggle-collect='*echo_*' target/release/examples/websocket_kernels echo towline 64 1 10000
//!
//! Without arguments it prints GB/s of each kernel beside its plain twin, and messages per second of an echo server in
//! memory beside tungstenite's. `echo ENGINE SIZE WINDOW ROUNDS` runs one of these alone, for instruction counts.

#![allow(clippy::print_stdout, reason = "a program for people")]

use std::hint::black_box;
use std::io::{Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use towline_proto::websocket::frame::{Header, MAX_HEADER, OpCode};
use towline_proto::websocket::{
    ChaChaEntropy, Config, Connection, Event, Role, Utf8Validator, mask,
};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number =
        |at: usize| arguments.get(at).and_then(|text| text.parse().ok()).expect("a number");
    match arguments.first().map(String::as_str) {
        Some("echo") => {
            let (size, window, rounds) = (number(2), number(3), number(4));
            let echoed = match arguments[1].as_str() {
                "towline" => echo_towline(size, window, rounds),
                "tungstenite" => echo_tungstenite(size, window, rounds),
                other => panic!("no engine {other}"),
            };
            println!("{echoed} bytes echoed");
        }
        _ => {
            kernels();
            echoes();
        }
    }
}

/// The best of several runs: on a shared machine the others say more about the neighbours.
fn best(mut run: impl FnMut()) -> Duration {
    (0..7)
        .map(|_| {
            let begin = Instant::now();
            run();
            begin.elapsed()
        })
        .min()
        .unwrap_or_default()
}

fn rate(size: usize, repeat: usize, mut run: impl FnMut()) -> f64 {
    let time = best(|| (0..repeat).for_each(|_| run()));
    (size * repeat) as f64 / time.as_secs_f64() / 1e9
}

fn kernels() {
    println!("{:<28} {:>10} {:>10} {:>10}  GB/s", "kernel", "64 B", "16 KiB", "64 MiB");
    let key = [1, 2, 3, 4];
    let row = |name: &str, run: &mut dyn FnMut(usize, usize) -> f64| {
        let [a, b, c] = [(64, 1 << 18), (16 << 10, 1 << 13), (64 << 20, 2)]
            .map(|(size, repeat)| run(size, repeat));
        println!("{name:<28} {a:>10.1} {b:>10.1} {c:>10.1}");
    };
    row("copy (memcpy, for scale)", &mut |size, repeat| {
        let (from, mut to) = (vec![1u8; size], vec![0u8; size]);
        rate(size, repeat, || black_box(&mut to).copy_from_slice(black_box(&from)))
    });
    row("mask in place", &mut |size, repeat| {
        let mut data = vec![1u8; size];
        rate(size, repeat, || mask::apply(black_box(&mut data), key, 1))
    });
    row("mask in place, plain twin", &mut |size, repeat| {
        let mut data = vec![1u8; size];
        rate(size, repeat.div_ceil(8), || mask::apply_scalar(black_box(&mut data), key, 1))
    });
    row("mask while copying", &mut |size, repeat| {
        let data = vec![1u8; size];
        let mut out = BytesMut::with_capacity(size);
        rate(size, repeat, || {
            out.clear();
            mask::append(black_box(&mut out), &data, key, 1);
        })
    });
    for (name, unit) in
        [("ascii", "the quick brown fox "), ("mixed", "a\u{e9}\u{4e2d}\u{1f600} und so weiter ")]
    {
        let text = |size: usize| {
            let mut text = unit.repeat(size / unit.len() + 1).into_bytes();
            text.truncate(size);
            text
        };
        row(&format!("utf-8, {name}"), &mut |size, repeat| {
            let text = text(size);
            rate(size, repeat, || {
                let mut validator = Utf8Validator::default();
                black_box(validator.feed(black_box(&text))).ok();
            })
        });
        row(&format!("utf-8, {name}, std"), &mut |size, repeat| {
            let text = text(size);
            rate(size, repeat.div_ceil(4), || {
                black_box(std::str::from_utf8(black_box(&text))).ok();
            })
        });
    }
}

fn echoes() {
    println!(
        "\n{:<28} {:>12} {:>12} {:>8}  messages/s, echo server in memory",
        "size x window", "towline", "tungstenite", "ratio"
    );
    for (size, window, rounds) in
        [(64, 1, 200_000), (64, 64, 4000), (1024, 16, 10_000), (65536, 16, 400)]
    {
        let messages = (window * rounds) as f64;
        // Interleaved, so that both meet the same neighbours.
        let (mut ours, mut theirs) = (Duration::MAX, Duration::MAX);
        for _ in 0..5 {
            let begin = Instant::now();
            black_box(echo_towline(size, window, rounds));
            ours = ours.min(begin.elapsed());
            let begin = Instant::now();
            black_box(echo_tungstenite(size, window, rounds));
            theirs = theirs.min(begin.elapsed());
        }
        let (ours, theirs) = (messages / ours.as_secs_f64(), messages / theirs.as_secs_f64());
        println!(
            "{:<28} {ours:>12.0} {theirs:>12.0} {:>8.2}",
            format!("{size} x {window}"),
            ours / theirs
        );
    }
}

/// What a client sends: `window` masked binary messages.
fn request(size: usize, window: usize) -> Vec<u8> {
    let key = [0x37, 0xFA, 0x21, 0x3D];
    let header = Header {
        fin: true,
        rsv1: false,
        opcode: OpCode::Binary,
        mask: Some(key),
        length: size as u64,
    };
    let mut bytes = [0; MAX_HEADER];
    let length = header.encode(&mut bytes);
    let mut payload = vec![7; size];
    mask::apply(&mut payload, key, 0);
    [&bytes[..length], &payload].concat().repeat(window)
}

/// The largest piece that one read of a socket gives.
const READ: usize = 64 << 10;

#[inline(never)]
fn echo_towline(size: usize, window: usize, rounds: usize) -> usize {
    let request = request(size, window);
    let now = Instant::now();
    let entropy = Box::new(ChaChaEntropy::from_seed([0; 32]));
    let config = Config { max_queued: 1 << 30, receive_window: 1 << 30, ..Config::default() };
    let mut server = Connection::new(Role::Server, Arc::new(config), None, entropy, now);
    let mut buffer = BytesMut::with_capacity(READ);
    let mut out: Vec<Bytes> = Vec::new();
    let mut sink = vec![0u8; READ];
    let mut echoed = 0;
    for _ in 0..rounds {
        let mut rest = &request[..];
        while !rest.is_empty() {
            // A read of the socket: into the place of a large frame, or into a pooled buffer.
            match server.direct() {
                Some(mut direct) => {
                    let (piece, after) = rest.split_at(direct.want.min(rest.len()));
                    direct.buffer.extend_from_slice(piece);
                    server.handle_direct(now, direct.buffer);
                    rest = after;
                }
                None => {
                    let (piece, after) = rest.split_at(READ.min(rest.len()));
                    buffer.reserve(READ);
                    buffer.extend_from_slice(piece);
                    server.handle_input(now, std::mem::take(&mut buffer));
                    rest = after;
                }
            }
            while let Some(event) = server.poll_event() {
                if let Event::Message(message) = event {
                    let length = message.data.len();
                    server.send(message.kind, message.data).expect("open");
                    server.credit(length).expect("as delivered");
                    echoed += length;
                }
            }
            if let Some(back) = server.reclaim() {
                buffer = back;
            }
            // A write to the socket.
            let written = server.poll_transmit(usize::MAX, &mut out);
            for segment in out.drain(..) {
                for piece in segment.chunks(READ) {
                    sink[..piece.len()].copy_from_slice(piece);
                }
            }
            black_box(&sink);
            server.handle_written(now, written).expect("as handed out");
        }
    }
    echoed
}

struct Memory {
    request: Vec<u8>,
    at: usize,
    rounds: usize,
    sink: Vec<u8>,
}

impl Read for Memory {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        if self.at == self.request.len() {
            if self.rounds == 0 {
                return Err(std::io::ErrorKind::WouldBlock.into());
            }
            self.rounds -= 1;
            self.at = 0;
        }
        let take = out.len().min(READ).min(self.request.len() - self.at);
        out[..take].copy_from_slice(&self.request[self.at..self.at + take]);
        self.at += take;
        Ok(take)
    }
}

impl Write for Memory {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        for piece in data.chunks(READ) {
            self.sink[..piece.len()].copy_from_slice(piece);
        }
        black_box(&self.sink);
        Ok(data.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[inline(never)]
fn echo_tungstenite(size: usize, window: usize, rounds: usize) -> usize {
    use tungstenite::protocol::{Role, WebSocketConfig};
    let memory =
        Memory { request: request(size, window), at: 0, rounds: rounds - 1, sink: vec![0; READ] };
    let config = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
    let mut server = tungstenite::WebSocket::from_raw_socket(memory, Role::Server, Some(config));
    let mut echoed = 0;
    for at in 1.. {
        let Ok(message) = server.read() else { break };
        echoed += message.len();
        server.write(message).expect("open");
        // One write for what came together.
        if at % window == 0 {
            server.flush().expect("open");
        }
    }
    echoed
}
