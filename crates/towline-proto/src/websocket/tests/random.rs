//! Random interaction of a client and a server over a transport that chops, delays and half-closes, with an oracle:
//! delivered is a prefix of sent, in order, once, and all of it if the close was clean; the ledgers balance.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::super::*;
use super::support::*;

struct Side {
    end: Connection,
    /// Written by this side and not yet read by the other.
    pipe: VecDeque<u8>,
    fin: bool,
    fin_seen: bool,
    in_flight: usize,
    sent: Vec<(Kind, Vec<u8>)>,
    /// The streamed message that is being sent.
    streaming: Option<(Kind, Vec<u8>)>,
    events: Vec<Event>,
    held: usize,
    received: usize,
    credited: usize,
    pressure: Pressure,
    pings: usize,
}

impl Side {
    fn new(role: Role, dice: &mut Dice, agreed: Option<DeflateParams>, now: Instant) -> Side {
        let delivery = if dice.one_in(2) {
            Delivery::Whole
        } else {
            Delivery::Streamed { above: dice.below(20_000) }
        };
        let config = Config {
            delivery,
            receive_window: 1 + dice.below(50_000) as u64,
            send_high: 5000,
            send_low: 1000,
            fragment: if dice.one_in(2) { None } else { Some(125 + dice.below(5000)) },
            ping_after: Some(Duration::from_millis(1 + dice.below(3000) as u64)),
            pong_timeout: Duration::from_secs(60),
            control_burst: 1_000_000,
            ..Config::default()
        };
        config.validate().expect("valid");
        let deflate = DeflateConfig { min_length: dice.below(300), ..DeflateConfig::default() };
        let compression = agreed.map(|params| Compression { config: deflate, params });
        Side {
            end: Connection::new(
                role,
                Arc::new(config),
                compression.as_ref(),
                entropy(dice.next() as u8),
                now,
            ),
            pipe: VecDeque::new(),
            fin: false,
            fin_seen: false,
            in_flight: 0,
            sent: Vec::new(),
            streaming: None,
            events: Vec::new(),
            held: 0,
            received: 0,
            credited: 0,
            pressure: Pressure::Low,
            pings: 0,
        }
    }

    fn collect(&mut self) {
        while let Some(event) = self.end.poll_event() {
            match &event {
                Event::Message(Message { data, .. }) | Event::Part(Part { data, .. }) => {
                    self.held += data.len()
                }
                Event::ShutdownWrite => self.fin = true,
                Event::Closed(_) => {
                    self.fin = true;
                    self.in_flight = 0;
                }
                Event::Writable => {
                    assert_eq!(self.pressure, Pressure::High, "an edge without a pause");
                    self.pressure = Pressure::Low;
                }
                Event::Pong(_) => assert!(self.pings > 0),
                Event::CloseRequested(_) => {}
            }
            assert!(
                !matches!(self.events.last(), Some(Event::Closed(_))),
                "an event after the end"
            );
            self.events.push(event);
        }
        assert_eq!(self.end.held(), self.held as u64);
        assert_eq!(self.received as u64, self.credited as u64 + self.end.outstanding_wire());
    }

    fn send(&mut self, dice: &mut Dice) {
        let kind = if dice.one_in(2) { Kind::Text } else { Kind::Binary };
        let size = match dice.below(6) {
            0 => 0,
            1..=3 => dice.below(300),
            4 => dice.below(5000),
            _ => dice.below(60_000),
        };
        let data = match kind {
            Kind::Text => dice.text(size).into_bytes(),
            Kind::Binary if dice.one_in(2) => vec![dice.next() as u8; size],
            Kind::Binary => dice.bytes(size),
        };
        let result = if self.streaming.is_some() || dice.one_in(4) {
            let last = dice.one_in(2);
            let kind = self.streaming.as_ref().map_or(kind, |(kind, _)| *kind);
            let data = if kind == Kind::Text { dice.text(size).into_bytes() } else { data };
            let result = self.end.send_part(kind, Bytes::from(data.clone()), last);
            if result.is_ok() {
                let mut whole = self.streaming.take().unwrap_or((kind, Vec::new()));
                whole.1.extend(data);
                if last { self.sent.push(whole) } else { self.streaming = Some(whole) }
            }
            result
        } else {
            let result = match (kind, dice.below(2)) {
                (Kind::Text, 0) => self.end.send_text(std::str::from_utf8(&data).expect("text")),
                (Kind::Binary, 0) => self.end.send_binary(&data),
                _ => self.end.send(kind, Bytes::from(data.clone())),
            };
            if result.is_ok() {
                self.sent.push((kind, data));
            }
            result
        };
        match result {
            Ok(pressure) => self.pressure = pressure,
            Err(error) => assert_eq!((error, self.end.is_open()), (SendError::Closing, false)),
        }
    }

    fn write(&mut self, dice: &mut Dice) {
        let mut out = Vec::new();
        let length = self.end.poll_transmit(1 + dice.below(20_000), &mut out);
        assert_eq!(out.iter().map(Bytes::len).sum::<usize>(), length);
        assert!(length == 0 || !self.fin, "bytes after the end of writing");
        self.in_flight += length;
        self.pipe.extend(out.iter().flatten());
    }
}

/// What a run had in it, so that a test of nothing is noticed.
#[derive(Debug, Default)]
struct Seen {
    steps: usize,
    messages: usize,
    parts: usize,
    pongs: usize,
    edges: usize,
    direct: usize,
    bytes: usize,
}

fn run(seed: u64, seen: &mut Seen) {
    let mut dice = Dice::new(seed);
    let mut now = Instant::now();
    let agreed = dice.one_in(2).then(|| DeflateParams {
        client_no_context_takeover: dice.one_in(2),
        server_no_context_takeover: dice.one_in(2),
        client_window_bits: 8 + dice.below(8) as u8,
        server_window_bits: 8 + dice.below(8) as u8,
    });
    let mut sides = [
        Side::new(Role::Client, &mut dice, agreed, now),
        Side::new(Role::Server, &mut dice, agreed, now),
    ];
    let steps = 200 + dice.below(600);
    let fault = dice.one_in(3).then(|| (dice.below(steps), dice.below(4)));
    for step in 0..100_000 {
        if sides.iter().all(|side| side.end.is_closed()) {
            break;
        }
        assert!(step < 99_999, "seed {seed}: no end");
        seen.steps += 1;
        let at = dice.below(2);
        let finishing = step >= steps;
        let [a, b] = &mut sides;
        let (side, peer) = if at == 0 { (a, b) } else { (b, a) };
        match dice.below(if finishing { 6 } else { 10 }) {
            0 => side.write(&mut dice),
            1 | 2 if side.end.wants_read() => {
                let take = (1 + dice.below(30_000)).min(peer.pipe.len());
                let data: Vec<u8> = peer.pipe.drain(..take).collect();
                side.received += data.len();
                match side.end.direct() {
                    Some(mut direct) if !data.is_empty() => {
                        seen.direct += 1;
                        direct.buffer.extend_from_slice(&data);
                        side.end.handle_direct(now, direct.buffer);
                    }
                    Some(direct) => side.end.handle_direct(now, direct.buffer),
                    None => side.end.handle_input(now, BytesMut::from(&data[..])),
                }
                if peer.pipe.is_empty() && peer.fin && !side.fin_seen {
                    side.fin_seen = true;
                    side.end.handle_eof(now);
                }
            }
            3 if side.in_flight > 0 => {
                let done = 1 + dice.below(side.in_flight);
                side.in_flight -= done;
                side.end.handle_written(now, done).expect("as handed out");
            }
            4 => {
                let give = if finishing { side.held } else { dice.below(side.held + 1) };
                side.held -= give;
                side.end.credit(give).expect("as delivered");
                side.credited += side.end.take_credit();
            }
            5 => {
                if let Some(deadline) = side.end.poll_timeout()
                    && dice.one_in(3)
                    && !finishing
                {
                    // Never over a close's budget: this run is about orderly ends.
                    if deadline < now + Duration::from_millis(200) {
                        now = now.max(deadline);
                        side.end.handle_timeout(now);
                    }
                } else if finishing
                    && side.end.is_open()
                    && dice.one_in(4)
                    && side.streaming.is_none()
                {
                    side.end.close(now, CloseCode(4000), "done").expect("valid");
                } else if finishing && side.streaming.is_some() {
                    let kind = side.streaming.as_ref().expect("one").0;
                    if side.end.send_part(kind, Bytes::new(), true).is_ok() {
                        side.sent.extend(side.streaming.take());
                    }
                    // The close of the peer came in between: the message stays unfinished.
                    if !side.end.is_open() {
                        side.streaming = None;
                    }
                }
            }
            6 => now += Duration::from_micros(dice.below(2000) as u64),
            7 if dice.one_in(4) => {
                let payload = dice.bytes(5);
                if side.end.ping(&payload).is_ok() {
                    side.pings += 1;
                }
            }
            _ if !finishing => side.send(&mut dice),
            _ => {}
        }
        if let Some((at, fault)) = fault
            && at == step
        {
            break_down(&mut sides, fault, &mut now);
            continue;
        }
        side.collect();
    }
    for at in [0, 1] {
        let closed = closed(&sides[at].events).expect("closed").clone();
        let got = messages_whole(&sides[at].events);
        let sent = &sides[1 - at].sent;
        assert!(got.len() <= sent.len(), "seed {seed}");
        assert!(got[..] == sent[..got.len()], "seed {seed}: delivered is not what was sent");
        if fault.is_none() {
            assert!(closed.clean, "seed {seed}: {closed:?}");
            assert_eq!(closed.code, CloseCode(4000));
            assert_eq!(
                got.len(),
                sent.len(),
                "seed {seed}: something is missing after a clean close"
            );
        }
        let side = &mut sides[at];
        seen.messages += got.len();
        seen.bytes += side.received;
        for event in &side.events {
            match event {
                Event::Part(_) => seen.parts += 1,
                Event::Pong(_) => seen.pongs += 1,
                Event::Writable => seen.edges += 1,
                _ => {}
            }
        }
        side.end.credit(side.held).expect("as delivered");
        side.credited += side.end.take_credit();
        assert_eq!(side.credited, side.received, "seed {seed}: every byte is credited in the end");
    }
}

/// What can happen to a transport: one side gives up, an error, an end without a close, or silence.
fn break_down(sides: &mut [Side; 2], fault: usize, now: &mut Instant) {
    for (at, side) in sides.iter_mut().enumerate() {
        match fault {
            0 if at == 0 => side.end.abort(),
            0 | 1 => side.end.handle_error(*now),
            2 => side.end.handle_eof(*now),
            _ => {}
        }
        for _ in 0..1000 {
            // What arrived before is taken and given back, so that nothing is in the way of the end.
            side.collect();
            side.end.credit(std::mem::take(&mut side.held)).expect("as delivered");
            side.credited += side.end.take_credit();
            side.collect();
            if side.end.is_closed() && side.held == 0 {
                break;
            }
            let queued = side.in_flight;
            side.in_flight = 0;
            side.end.handle_written(*now, queued).expect("as handed out");
            side.in_flight = side.end.poll_transmit(usize::MAX, &mut Vec::new());
            if side.held == 0
                && let Some(deadline) = side.end.poll_timeout()
            {
                *now = (*now).max(deadline);
                side.end.handle_timeout(*now);
            }
        }
        assert!(side.end.is_closed(), "fault {fault}");
    }
}

/// Whole messages only: an unfinished one at the end does not count.
fn messages_whole(events: &[Event]) -> Vec<(Kind, Vec<u8>)> {
    let mut out = messages(events);
    let last = events.iter().rev().find_map(|event| match event {
        Event::Message(_) => Some(true),
        Event::Part(part) => Some(part.last),
        _ => None,
    });
    if last == Some(false) {
        out.pop();
    }
    out
}

#[test]
fn random_interaction() {
    let count =
        std::env::var("WEBSOCKET_RUNS").ok().and_then(|count| count.parse().ok()).unwrap_or(100);
    let mut seen = Seen::default();
    for seed in seeds(count) {
        let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(seed, &mut seen)));
        assert!(told.is_ok(), "seed {seed} (repeat with WEBSOCKET_SEED={seed})");
    }
    let all = [seen.messages, seen.parts, seen.pongs, seen.edges, seen.direct];
    assert!(count < 100 || all.iter().all(|&count| count > 50), "{seen:?}");
}
