//! Virtual time, a seeded generator, and a pair of ends with two pipes between them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::super::frame::{Header, MAX_HEADER, OpCode};
use super::super::*;

/// A small seeded generator (xorshift64*); the seed is printed by whoever makes one.
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 11) as usize % bound.max(1)
    }

    pub(super) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub(super) fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }

    pub(super) fn text(&mut self, length: usize) -> String {
        let alphabet =
            ['a', 'Z', ' ', 'é', 'ß', '中', '\u{7FF}', '\u{800}', '\u{FFFF}', '😀', '\u{10FFFF}'];
        let mut out = String::new();
        while out.len() < length {
            out.push(alphabet[self.below(alphabet.len())]);
        }
        out
    }
}

/// Seeds to run: one per value, or the one in `WEBSOCKET_SEED`.
pub(super) fn seeds(count: u64) -> Vec<u64> {
    match std::env::var("WEBSOCKET_SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => vec![seed],
        None => (1..=count).collect(),
    }
}

pub(super) fn entropy(seed: u8) -> Box<dyn Entropy + Send> {
    Box::new(ChaChaEntropy::from_seed([seed; 32]))
}

pub(super) fn end(role: Role, config: &Config, now: Instant) -> Connection {
    config.validate().expect("the test's configuration is valid");
    Connection::new(role, Arc::new(config.clone()), None, entropy(7), now)
}

pub(super) fn quiet() -> Config {
    Config { ping_after: None, ..Config::default() }
}

/// One frame as the peer of `to` would send it.
pub(super) fn frame_to(to: Role, fin: bool, opcode: OpCode, payload: &[u8]) -> Vec<u8> {
    raw_frame(to == Role::Server, fin, false, opcode, payload)
}

pub(super) fn raw_frame(
    masked: bool,
    fin: bool,
    rsv1: bool,
    opcode: OpCode,
    payload: &[u8],
) -> Vec<u8> {
    let mask = masked.then_some([0x37, 0xFA, 0x21, 0x3D]);
    let header = Header { fin, rsv1, opcode, mask, length: payload.len() as u64 };
    let mut bytes = [0; MAX_HEADER];
    let length = header.encode(&mut bytes);
    let mut out = bytes[..length].to_vec();
    let mut payload = payload.to_vec();
    if let Some(key) = mask {
        mask::apply_scalar(&mut payload, key, 0);
    }
    out.extend(payload);
    out
}

pub(super) fn close_body(code: u16, reason: &[u8]) -> Vec<u8> {
    [&code.to_be_bytes()[..], reason].concat()
}

pub(super) fn feed(connection: &mut Connection, now: Instant, data: &[u8]) {
    connection.handle_input(now, BytesMut::from(data));
}

pub(super) fn events(connection: &mut Connection) -> Vec<Event> {
    std::iter::from_fn(|| connection.poll_event()).collect()
}

/// What the connection writes, reported as written at once.
pub(super) fn written(connection: &mut Connection, now: Instant) -> Vec<u8> {
    let (out, length) = pending(connection);
    connection.handle_written(now, length).expect("exactly what was handed out");
    out
}

/// What the connection writes, not yet reported as written.
pub(super) fn pending(connection: &mut Connection) -> (Vec<u8>, usize) {
    let mut out = Vec::new();
    let mut length = 0;
    loop {
        match connection.poll_transmit(usize::MAX, &mut out) {
            0 => break,
            more => length += more,
        }
    }
    let out = out.concat();
    assert_eq!(out.len(), length);
    (out, length)
}

/// The frames in `bytes`, unmasked.
pub(super) fn frames(mut bytes: &[u8]) -> Vec<(Header, Vec<u8>)> {
    let mut out = Vec::new();
    while !bytes.is_empty() {
        let (header, length) = Header::parse(bytes).expect("valid").expect("whole");
        let mut payload = bytes[length..length + header.length as usize].to_vec();
        if let Some(key) = header.mask {
            mask::apply_scalar(&mut payload, key, 0);
        }
        bytes = &bytes[length + payload.len()..];
        out.push((header, payload));
    }
    out
}

/// The close code and reason in the only close frame of `bytes`, which must be the last frame.
pub(super) fn close_in(bytes: &[u8]) -> Option<(u16, String)> {
    let frames = frames(bytes);
    let at = frames.iter().position(|(header, _)| header.opcode == OpCode::Close)?;
    assert_eq!(at + 1, frames.len(), "nothing may follow the close frame");
    let body = &frames[at].1;
    Some(match body.split_first_chunk::<2>() {
        None => (1005, String::new()),
        Some((code, reason)) => {
            (u16::from_be_bytes(*code), String::from_utf8(reason.to_vec()).expect("utf-8"))
        }
    })
}

pub(super) fn closed(events: &[Event]) -> Option<&Closed> {
    let count = events.iter().filter(|event| matches!(event, Event::Closed(_))).count();
    assert!(count <= 1, "closed more than once");
    match events.last() {
        Some(Event::Closed(closed)) => Some(closed),
        _ => {
            assert_eq!(count, 0, "closed is not the last event");
            None
        }
    }
}

/// A client and a server with a transport between them that can be cut, half-closed and stalled.
pub(super) struct Pair {
    pub(super) now: Instant,
    pub(super) ends: [Connection; 2],
    pub(super) events: [Vec<Event>; 2],
    /// Credit everything that is delivered.
    pub(super) credit: [bool; 2],
    /// The direction out of this end carries nothing.
    pub(super) stalled: [bool; 2],
    fin: [bool; 2],
}

pub(super) const CLIENT: usize = 0;
pub(super) const SERVER: usize = 1;

impl Pair {
    pub(super) fn new(config: &Config) -> Pair {
        let now = Instant::now();
        Pair {
            now,
            ends: [end(Role::Client, config, now), end(Role::Server, config, now)],
            events: [Vec::new(), Vec::new()],
            credit: [true; 2],
            stalled: [false; 2],
            fin: [false; 2],
        }
    }

    /// Moves bytes until nothing moves any more.
    pub(super) fn settle(&mut self) {
        loop {
            let mut moved = false;
            for from in [CLIENT, SERVER] {
                self.collect(from);
                if self.stalled[from] {
                    continue;
                }
                let mut out: Vec<Bytes> = Vec::new();
                let length = self.ends[from].poll_transmit(usize::MAX, &mut out);
                if length > 0 {
                    moved = true;
                    self.ends[from].handle_written(self.now, length).expect("as handed out");
                    for data in out {
                        self.ends[1 - from].handle_input(self.now, BytesMut::from(data));
                        self.collect(1 - from);
                    }
                    self.collect(from);
                }
                if self.fin[from] {
                    self.ends[1 - from].handle_eof(self.now);
                    self.fin[from] = false;
                    self.collect(1 - from);
                    moved = true;
                }
            }
            if !moved {
                break;
            }
        }
    }

    fn collect(&mut self, at: usize) {
        while let Some(event) = self.ends[at].poll_event() {
            match &event {
                Event::Message(Message { data, .. }) | Event::Part(Part { data, .. })
                    if self.credit[at] =>
                {
                    let length = data.len();
                    self.ends[at].credit(length).expect("as delivered");
                }
                Event::ShutdownWrite | Event::Closed(_) => self.fin[at] = true,
                _ => {}
            }
            self.events[at].push(event);
        }
    }

    /// Lets time pass, stopping at every deadline on the way.
    pub(super) fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        loop {
            self.settle();
            let next = self
                .ends
                .iter()
                .filter_map(Connection::poll_timeout)
                .min()
                .filter(|at| *at <= until);
            let Some(next) = next else { break };
            self.now = self.now.max(next);
            for end in &mut self.ends {
                end.handle_timeout(self.now);
            }
        }
        self.now = until;
    }

    pub(super) fn closed(&self, at: usize) -> Option<&Closed> {
        closed(&self.events[at])
    }

    pub(super) fn messages(&self, at: usize) -> Vec<(Kind, Vec<u8>)> {
        messages(&self.events[at])
    }
}

/// Whole messages, with parts put together.
pub(super) fn messages(events: &[Event]) -> Vec<(Kind, Vec<u8>)> {
    let mut out: Vec<(Kind, Vec<u8>)> = Vec::new();
    for event in events {
        match event {
            Event::Message(message) => out.push((message.kind, message.data.to_vec())),
            Event::Part(part) if part.first => out.push((part.kind, part.data.to_vec())),
            Event::Part(part) => {
                let (kind, data) = out.last_mut().expect("a first part");
                assert_eq!(*kind, part.kind);
                data.extend_from_slice(&part.data);
            }
            _ => {}
        }
    }
    out
}
