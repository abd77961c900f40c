//! Two engines and two pipes between them, in virtual time.
#![allow(clippy::print_stdout, reason = "the seed, for those who have to repeat it")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use towline_proto::websocket::Role;
use towline_proto::websocket::handshake::{Headers, Opened, Response};

use super::*;

/// A small generator: SplitMix64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// One end, with the oracle's books about it.
struct End {
    engine: Engine,
    queue: Queue,
    sent: Vec<(bool, Bytes)>,
    received: Vec<(bool, Bytes)>,
    held: Vec<u64>,
    /// Bytes on their way to the other end.
    pipe: BytesMut,
    over: Option<Output>,
}

fn engine(role: Role, options: &Plain, now: Instant) -> Engine {
    let opened = Opened {
        role,
        subprotocol: None,
        compression: None,
        response: Response {
            status: 101,
            reason: String::new(),
            headers: Headers::new(),
            body: Bytes::new(),
        },
        rest: BytesMut::new(),
    };
    let websocket = crate::websocket::Options::default();
    let checked = websocket.check(options).unwrap();
    Engine::new(opened, Arc::clone(&checked.messages), options, [7; 32], now)
}

impl End {
    fn new(role: Role, options: &Plain, now: Instant) -> End {
        End {
            engine: engine(role, options, now),
            queue: Queue::new(options, None),
            sent: Vec::new(),
            received: Vec::new(),
            held: Vec::new(),
            pipe: BytesMut::new(),
            over: None,
        }
    }

    fn push(&mut self, mut message: Message) -> bool {
        let data = message.data.clone();
        match self.queue.push(&mut message) {
            Ok(id) => {
                self.sent.push((message.is_text, data));
                assert_eq!(id.0, self.sent.len() as u64);
                true
            }
            Err(Refused::Full) => false,
            Err(Refused::Never(error)) => panic!("{error}"),
        }
    }

    /// What a turn of the runtime does. `room` is what the socket takes.
    fn turn(&mut self, now: Instant, room: usize) {
        self.collect();
        self.engine.enqueue(now, &mut self.queue);
        let mut out = Vec::new();
        let taken = self.engine.poll_transmit(now, room, &mut out);
        assert_eq!(taken, out.iter().map(Bytes::len).sum::<usize>());
        assert!(taken <= room);
        out.iter().for_each(|bytes| self.pipe.extend_from_slice(bytes));
        self.collect();
        assert!(self.engine.acknowledged() <= self.sent.len() as u64);
    }

    fn collect(&mut self) {
        while let Some(output) = self.engine.poll_output() {
            assert!(self.over.is_none(), "nothing comes after the end");
            match output {
                Output::Message(message) => {
                    assert_eq!(message.id, Some(MessageId(self.received.len() as u64 + 1)));
                    self.held.push(message.data.len() as u64 + FRAME_CHARGE);
                    self.received.push((message.is_text, message.data));
                }
                Output::Acknowledged | Output::PeerClosing { .. } => {}
                over => self.over = Some(over),
            }
        }
    }

    fn consume(&mut self) {
        self.held.drain(..).for_each(|cost| self.engine.consumed(cost));
    }
}

fn small() -> Plain {
    Plain {
        max_message: 64 << 10,
        receive_window: 512 << 10,
        send_queue_bytes: 256 << 10,
        fragment_size: 1 << 10,
        ..Plain::default()
    }
}

/// Lets everything arrive and be answered.
fn settle(ends: &mut [End; 2], now: Instant) {
    for _ in 0..100_000 {
        let [a, b] = ends;
        exchange(a, b, now);
        exchange(b, a, now);
        let idle = [&*a, &*b]
            .iter()
            .all(|end| end.pipe.is_empty() && !end.engine.wants_transmit() && end.queue.is_empty());
        if idle {
            return;
        }
    }
    panic!("it does not come to rest");
}

fn exchange(from: &mut End, to: &mut End, now: Instant) {
    from.consume();
    from.turn(now, 64 << 10);
    if to.engine.wants_read() && !from.pipe.is_empty() {
        let length = from.pipe.len();
        to.engine.handle_input(now, from.pipe.split_to(length));
    }
    to.turn(now, 64 << 10);
}

#[test]
fn whatever_happens_delivered_is_a_prefix_of_sent_and_the_rest_comes_back() {
    for seed in 1..=60 {
        println!("seed {seed}");
        let mut dice = Dice(seed);
        let mut now = Instant::now();
        let options = small();
        let mut ends =
            [End::new(Role::Client, &options, now), End::new(Role::Server, &options, now)];
        for _ in 0..400 {
            let at = dice.below(2) as usize;
            let (left, right) = ends.split_at_mut(1);
            let (this, other) =
                if at == 0 { (&mut left[0], &mut right[0]) } else { (&mut right[0], &mut left[0]) };
            match dice.below(8) {
                0..3 => {
                    let size =
                        if dice.below(10) == 0 { dice.below(64 << 10) } else { dice.below(300) };
                    let byte = b'a' + dice.below(26) as u8;
                    let data = Bytes::from(vec![byte; size as usize]);
                    this.push(Message { is_text: dice.below(2) == 0, ..Message::new(data) });
                }
                3 => this.turn(now, 1 + dice.below(5000) as usize),
                4 if this.engine.wants_read() => {
                    let length = dice.below(other.pipe.len() as u64 + 1) as usize;
                    this.engine.handle_input(now, other.pipe.split_to(length));
                    this.collect();
                }
                5 => this.consume(),
                6 => {
                    now += Duration::from_millis(dice.below(60));
                    this.engine.handle_timeout(now);
                }
                7 if dice.below(4) == 0 => this.engine.hurry(),
                _ => {}
            }
        }
        if dice.below(3) == 0 {
            // The wire dies as it is.
            for end in &mut ends {
                end.engine.handle_failed(now, WireError::End);
                end.collect();
            }
        } else {
            ends[0].engine.hurry();
            settle(&mut ends, now);
            assert_eq!(ends[0].received, ends[1].sent);
            assert_eq!(ends[1].received, ends[0].sent);
            assert_eq!(ends[0].engine.acknowledged(), ends[0].sent.len() as u64, "it was hurried");
            ends[0].engine.close(4000, "enough");
            settle(&mut ends, now);
            ends[0].engine.handle_end(now, WireError::End);
            ends[0].collect();
            for end in &ends {
                let closed = matches!(end.over, Some(Output::Closed { code: CloseCode(4000), .. }));
                assert!(closed, "closed with the code on both ends");
            }
        }
        for (this, other) in [(0, 1), (1, 0)] {
            let (this, other) = (&ends[this], &ends[other]);
            assert!(this.sent.starts_with(&other.received), "in order, once");
            let back = match &this.over {
                Some(
                    Output::Closed { unacknowledged, .. } | Output::Lost { unacknowledged, .. },
                ) => unacknowledged,
                _ => panic!("no end"),
            };
            // What had not reached the engine is its owner's to give back.
            let in_engine = this.sent.len() - this.queue.messages.len();
            let acknowledged = this.engine.acknowledged() as usize;
            assert!(acknowledged <= other.received.len(), "acknowledged is delivered");
            let expected = &this.sent[acknowledged..in_engine];
            let back: Vec<_> = back.iter().map(|m| (m.is_text, m.data.clone())).collect();
            assert_eq!(back, expected, "what was not acknowledged comes back, in order");
        }
    }
}

#[test]
fn messages_are_acknowledged_in_time_without_a_flush_and_with_few_pings() {
    let mut now = Instant::now();
    let options = small();
    let mut ends = [End::new(Role::Client, &options, now), End::new(Role::Server, &options, now)];
    let mut pings = 0;
    for round in 0..1000u64 {
        ends[0].push(Message::new("small"));
        settle(&mut ends, now);
        now += Duration::from_millis(1);
        let before = ends[0].engine.serial;
        if ends[0].engine.poll_timeout().is_some_and(|at| at <= now) {
            ends[0].engine.handle_timeout(now);
        }
        settle(&mut ends, now);
        pings += ends[0].engine.serial - before;
        let waiting = round + 1 - ends[0].engine.acknowledged();
        assert!(waiting <= 102, "{waiting} messages of one per millisecond");
    }
    assert!((9..=11).contains(&pings), "{pings} pings in a second");
}

#[test]
fn a_peer_that_answers_no_pings_costs_bounded_memory() {
    let now = Instant::now();
    let options = small();
    let mut end = End::new(Role::Server, &options, now);
    for _ in 0..1000 {
        assert!(end.push(Message::new(vec![0; 4000])), "it never stalls");
        end.turn(now, 64 << 10);
        end.pipe.clear();
        assert!(end.engine.kept_bytes <= (256 << 10) + 5000);
    }
    assert_eq!(end.engine.unacknowledged() + end.engine.acknowledged(), 1000);
}

#[test]
fn a_full_window_stops_reading_and_is_no_silence() {
    let mut now = Instant::now();
    let options = small();
    let mut ends = [End::new(Role::Client, &options, now), End::new(Role::Server, &options, now)];
    let [a, b] = &mut ends;
    while b.engine.wants_read() {
        a.push(Message::new(vec![1; 10]));
        a.turn(now, 64 << 10);
        let length = a.pipe.len();
        b.engine.handle_input(now, a.pipe.split_to(length));
        b.turn(now, 64 << 10);
    }
    let bounded = (512 << 10) / (10 + FRAME_CHARGE as usize);
    assert!(b.received.len() <= bounded + 1, "{} tiny messages", b.received.len());
    for _ in 0..100 {
        now += Duration::from_secs(10);
        b.engine.handle_timeout(now);
        b.turn(now, 64 << 10);
    }
    assert!(b.over.is_none(), "the silence is ours");
    b.consume();
    assert!(b.engine.wants_read() && b.engine.take_stirred());
}
