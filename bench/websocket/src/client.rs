//! The client of all servers: frames made once, replies counted by their headers, pings answered.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::Case;

pub struct Client {
    stream: TcpStream,
    frames: Vec<u8>,
    frame: usize,
    window: usize,
    buffer: Vec<u8>,
    held: usize,
    /// Bytes of a payload that have not come.
    left: usize,
}

const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

impl Client {
    pub fn connect(to: SocketAddr, case: Case) -> Client {
        let mut stream = TcpStream::connect(to).expect("a connection");
        stream.set_nodelay(true).expect("no delay");
        let request = format!(
            "GET / HTTP/1.1\r\nHost: {to}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).expect("the request");
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).expect("the response");
            head.push(byte[0]);
        }
        assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
        let frame = frame(case.size);
        Client {
            stream,
            frames: frame.repeat(case.window),
            frame: frame.len(),
            held: 0,
            left: 0,
            window: case.window,
            buffer: vec![0; 256 << 10],
        }
    }

    /// Keeps the window full until so many messages have come back.
    pub fn run(&mut self, messages: usize) {
        let (mut sent, mut received) = (0, 0);
        while received < messages {
            let more = self.window.saturating_sub(sent - received).min(messages - sent);
            if more > 0 {
                self.stream.write_all(&self.frames[..more * self.frame]).expect("a write");
                sent += more;
            }
            let held = self.held;
            let read = self.stream.read(&mut self.buffer[held..]).expect("a read");
            assert!(read > 0, "the server has gone");
            self.held += read;
            received += self.take();
        }
    }

    /// Counts the messages that have come; what is not a whole header stays in the buffer.
    fn take(&mut self) -> usize {
        let (mut at, mut messages) = (0, 0);
        loop {
            let step = self.left.min(self.held - at);
            (at, self.left) = (at + step, self.left - step);
            let data = &self.buffer[at..self.held];
            let [first, length, ..] = *data else { break };
            let (header, length) = match length {
                126 if data.len() >= 4 => (4, usize::from(u16::from_be_bytes([data[2], data[3]]))),
                127 if data.len() >= 10 => {
                    (10, u64::from_be_bytes(data[2..10].try_into().expect("eight bytes")) as usize)
                }
                126 | 127 => break,
                short => (2, usize::from(short)),
            };
            match first {
                // A ping: its whole payload is waited for.
                0x89 if data.len() < header + length => break,
                0x89 => {
                    let mut pong = vec![0x8a, 0x80 | length as u8, 0, 0, 0, 0];
                    pong.extend_from_slice(&data[header..header + length]);
                    self.stream.write_all(&pong).expect("a pong");
                }
                _ => messages += usize::from(first & 0x80 != 0),
            }
            (at, self.left) = (at + header, length);
        }
        self.buffer.copy_within(at..self.held, 0);
        self.held -= at;
        messages
    }

    pub fn close(mut self) {
        let mut frame = vec![0x88, 0x82];
        frame.extend_from_slice(&KEY);
        frame.extend_from_slice(&[0x03 ^ KEY[0], 0xe8 ^ KEY[1]]);
        self.stream.write_all(&frame).ok();
        while matches!(self.stream.read(&mut self.buffer), Ok(1..)) {}
    }
}

/// A binary message, masked.
fn frame(size: usize) -> Vec<u8> {
    let mut frame = vec![0x82];
    match size {
        0..=125 => frame.push(0x80 | size as u8),
        126..=0xffff => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&(size as u16).to_be_bytes());
        }
        _ => {
            frame.push(0x80 | 127);
            frame.extend_from_slice(&(size as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&KEY);
    frame.extend((0..size).map(|i| (i * 31 % 251) as u8 ^ KEY[i % 4]));
    frame
}
