//! Credits in both directions (section C of the cases).

use std::time::Instant;

use bytes::Bytes;

use super::super::frame::OpCode;
use super::super::*;
use super::support::*;

fn delivered(event: &Event) -> Option<usize> {
    match event {
        Event::Message(Message { data, .. }) | Event::Part(Part { data, .. }) => Some(data.len()),
        _ => None,
    }
}

#[test]
fn case_50_written_bytes_add_up_and_too_many_are_an_error() {
    let now = Instant::now();
    let mut end = end(Role::Server, &quiet(), now);
    end.send_binary(&[1; 1000]).expect("sent");
    assert_eq!(end.queued(), 1004);
    let (_, length) = pending(&mut end);
    assert_eq!((length, end.queued()), (1004, 1004));
    end.handle_written(now, 1000).expect("within");
    assert_eq!(end.queued(), 4);
    assert_eq!(end.handle_written(now, 6), Err(OverWritten { excess: 2 }));
    assert_eq!(end.queued(), 0);
    assert_eq!(end.handle_written(now, 1), Err(OverWritten { excess: 1 }));
    assert!(end.is_open());
}

#[test]
fn case_51_the_writable_edge_comes_once_per_crossing() {
    let now = Instant::now();
    let mut end = end(Role::Server, &Config { send_high: 1000, send_low: 500, ..quiet() }, now);
    for round in 0..3 {
        assert_eq!(end.send_binary(&[1; 596]), Ok(Pressure::Low), "round {round}");
        assert_eq!(end.send_binary(&[1; 596]), Ok(Pressure::High), "still taken");
        let (_, length) = pending(&mut end);
        assert_eq!(length, 1200);
        end.handle_written(now, 600).expect("within");
        assert!(events(&mut end).is_empty(), "600 is above the low mark");
        end.handle_written(now, 100).expect("within");
        assert_eq!(events(&mut end), [Event::Writable]);
        end.handle_written(now, 500).expect("within");
        assert!(events(&mut end).is_empty(), "once");
    }
    // Below the high mark there is no edge.
    assert_eq!(end.send_binary(&[1; 900]), Ok(Pressure::Low));
    let (_, length) = pending(&mut end);
    end.handle_written(now, length).expect("within");
    assert!(events(&mut end).is_empty());
}

#[test]
fn case_52_one_large_message_is_taken_and_then_the_queue_is_full() {
    let now = Instant::now();
    let config = Config { send_high: 1000, send_low: 500, max_queued: 4000, ..quiet() };
    let mut end = end(Role::Server, &config, now);
    assert_eq!(end.send(Kind::Binary, Bytes::from(vec![1; 100_000])), Ok(Pressure::High));
    assert_eq!(end.send_binary(b"x"), Err(SendError::Full));
    end.ping(b"").expect("control frames pass");
    let (_, length) = pending(&mut end);
    end.handle_written(now, length).expect("within");
    assert_eq!(events(&mut end), [Event::Writable]);
    assert_eq!(end.send_binary(b"x"), Ok(Pressure::Low));
}

#[test]
fn case_53_reading_stops_at_the_window_and_goes_on_with_credit() {
    let now = Instant::now();
    let mut end = end(Role::Client, &Config { receive_window: 1000, ..quiet() }, now);
    let bytes = frame_to(Role::Client, true, OpCode::Binary, &[1; 100]).repeat(30);
    feed(&mut end, now, &bytes);
    let first = events(&mut end);
    assert_eq!(first.len(), 10, "nothing is decoded beyond the window");
    assert!(!end.wants_read());
    assert_eq!(end.held(), 1000);
    end.credit(499).expect("within");
    assert!(!end.wants_read() && events(&mut end).is_empty(), "with hysteresis");
    end.credit(1).expect("within");
    assert!(end.wants_read());
    assert_eq!(events(&mut end).len(), 5);
    assert!(!end.wants_read());
    end.credit(1000).expect("within");
    assert_eq!(events(&mut end).len(), 10);
    end.credit(1000).expect("within");
    assert_eq!(events(&mut end).len(), 5);
    assert!(end.wants_read());
    end.credit(500).expect("within");
    assert_eq!(end.take_credit(), bytes.len());
    assert_eq!(end.credit(1), Err(OverCredited { excess: 1 }));
}

#[test]
fn case_54_a_message_larger_than_the_window_does_not_stall() {
    const WINDOW: usize = 64 << 10;
    let large = if cfg!(debug_assertions) { 4 << 20 } else { 16 << 20 };
    for size in [WINDOW + 1, (100 << 10) + 1, 1 << 20, large] {
        for delivery in [Delivery::Whole, Delivery::Streamed { above: 1000 }] {
            let now = Instant::now();
            let config = Config {
                receive_window: WINDOW as u64,
                max_message: 32 << 20,
                max_frame: 32 << 20,
                delivery,
                ..quiet()
            };
            let mut end = end(Role::Client, &config, now);
            let bytes = frame_to(Role::Client, true, OpCode::Binary, &vec![3; size]);
            // A transport that has at most WINDOW bytes out without credit, as a factory's socket.
            let (mut sent, mut credited, mut got) = (0, 0, 0);
            while sent < bytes.len() {
                let room = WINDOW - (sent - credited);
                assert!(room > 0, "stalled after {sent} of {size}");
                let take = room.min(bytes.len() - sent);
                feed(&mut end, now, &bytes[sent..sent + take]);
                sent += take;
                for event in events(&mut end) {
                    let length = delivered(&event).expect("data");
                    end.credit(length).expect("within");
                    got += length;
                }
                credited += end.take_credit();
            }
            assert_eq!((got, credited), (size, bytes.len()));
        }
    }
}

#[test]
fn case_55_control_frames_do_not_use_up_the_window() {
    let now = Instant::now();
    let mut end = end(Role::Server, &Config { receive_window: 1000, ..quiet() }, now);
    let ping = frame_to(Role::Server, true, OpCode::Ping, &[b'p'; 100]);
    feed(&mut end, now, &ping.repeat(50));
    assert!(events(&mut end).is_empty());
    assert!(end.wants_read());
    assert_eq!(end.take_credit(), ping.len() * 50, "credited at once");
    // What was handed in behind data that fills the window waits, like the data behind it: a stream has one order.
    feed(
        &mut end,
        now,
        &[frame_to(Role::Server, true, OpCode::Binary, &[1; 1000]), ping.clone()].concat(),
    );
    assert_eq!(events(&mut end).len(), 1);
    let _ = written(&mut end, now);
    assert!(!end.wants_read());
    end.credit(1000).expect("within");
    assert!(events(&mut end).is_empty());
    assert_eq!(frames(&written(&mut end, now)).len(), 1, "the pong");
}

#[test]
fn a_flood_of_pings_fails_and_its_answers_are_bounded() {
    let now = Instant::now();
    let config = Config { control_burst: 500, ..quiet() };
    let mut end = end(Role::Server, &config, now);
    let ping = frame_to(Role::Server, true, OpCode::Ping, &[b'p'; 125]);
    feed(&mut end, now, &ping.repeat(500));
    assert!(events(&mut end).is_empty());
    assert!(end.queued() <= 4096, "{} bytes of pongs wait", end.queued());
    feed(&mut end, now, &ping);
    let _ = events(&mut end);
    assert_eq!(close_in(&written(&mut end, now)).map(|(code, _)| code), Some(1008));
}

#[test]
fn the_latest_of_too_many_pings_is_answered() {
    let now = Instant::now();
    let mut end = end(Role::Server, &quiet(), now);
    for at in 0..200u8 {
        feed(&mut end, now, &frame_to(Role::Server, true, OpCode::Ping, &[at; 100]));
    }
    assert!(events(&mut end).is_empty());
    let pongs = frames(&written(&mut end, now));
    assert!(pongs.len() < 60);
    assert_eq!(pongs.last().map(|(_, body)| body.clone()), Some(vec![199; 100]));
}

#[test]
fn the_rate_of_control_frames_recovers_with_time() {
    let mut now = Instant::now();
    let mut end = end(Role::Server, &Config { control_burst: 10, control_rate: 5, ..quiet() }, now);
    let ping = frame_to(Role::Server, true, OpCode::Ping, b"");
    feed(&mut end, now, &ping.repeat(10));
    assert!(events(&mut end).is_empty());
    for _ in 0..20 {
        now += std::time::Duration::from_secs(1);
        feed(&mut end, now, &ping.repeat(5));
        assert!(events(&mut end).is_empty());
        assert!(end.is_open());
        let _ = written(&mut end, now);
    }
}

#[test]
fn case_56_credit_after_the_end_is_harmless() {
    let now = Instant::now();
    let mut end = end(Role::Server, &quiet(), now);
    let bytes = frame_to(Role::Server, true, OpCode::Binary, &[1; 100]);
    feed(&mut end, now, &bytes);
    assert_eq!(events(&mut end).len(), 1);
    end.abort();
    assert_eq!(events(&mut end).len(), 1);
    end.credit(100).expect("within");
    assert_eq!(end.take_credit(), bytes.len());
    assert!(end.credit(1).is_err());
    assert!(end.poll_event().is_none() && end.poll_timeout().is_none());
}

#[test]
fn case_57_every_byte_is_accounted_for_at_every_step() {
    for seed in seeds(60) {
        let mut dice = Dice::new(seed);
        let now = Instant::now();
        let delivery = if dice.one_in(2) {
            Delivery::Whole
        } else {
            Delivery::Streamed { above: dice.below(3000) }
        };
        let config = Config { receive_window: 500 + dice.below(5000) as u64, delivery, ..quiet() };
        let mut end = end(Role::Server, &config, now);
        let (mut received, mut credited, mut held) = (0, 0, 0);
        let mut script = Vec::new();
        for _ in 0..40 {
            let fragments = 1 + dice.below(4);
            for at in 0..fragments {
                let opcode = if at == 0 { OpCode::Binary } else { OpCode::Continuation };
                let size = dice.below(4000);
                script.extend(frame_to(
                    Role::Server,
                    at + 1 == fragments,
                    opcode,
                    &dice.bytes(size),
                ));
                if dice.one_in(3) {
                    script.extend(frame_to(Role::Server, true, OpCode::Ping, b"hello"));
                }
            }
        }
        let mut rest = &script[..];
        loop {
            if !rest.is_empty() && end.wants_read() {
                let (piece, after) = rest.split_at((1 + dice.below(3000)).min(rest.len()));
                feed(&mut end, now, piece);
                received += piece.len();
                rest = after;
            }
            while let Some(event) = end.poll_event() {
                held += delivered(&event).expect("data");
            }
            assert_eq!(received as u64, credited as u64 + end.outstanding_wire(), "seed {seed}");
            let give = if rest.is_empty() { held } else { dice.below(held + 1) };
            end.credit(give).expect("within");
            held -= give;
            credited += if dice.one_in(2) { end.take_credit() } else { 0 };
            assert_eq!(received as u64, credited as u64 + end.outstanding_wire(), "seed {seed}");
            assert_eq!(end.held(), held as u64);
            let _ = written(&mut end, now);
            match end.poll_event() {
                Some(event) => held += delivered(&event).expect("data"),
                None if rest.is_empty() && held == 0 => break,
                None => {}
            }
        }
        credited += end.take_credit();
        assert_eq!(credited, script.len(), "seed {seed}");
    }
}

#[test]
fn a_pause_holds_messages_back_and_the_silence_is_not_the_peers() {
    let mut now = Instant::now();
    let mut end = end(Role::Server, &Config::default(), now);
    end.pause(now, true);
    feed(&mut end, now, &frame_to(Role::Server, true, OpCode::Text, b"later"));
    assert!(events(&mut end).is_empty() && !end.wants_read());
    for _ in 0..10 {
        now = end.poll_timeout().expect("pings go on");
        end.handle_timeout(now);
        written(&mut end, now);
    }
    assert!(!end.is_closed());
    end.pause(now, false);
    assert!(end.wants_read());
    assert_eq!(events(&mut end).iter().filter_map(delivered).sum::<usize>(), 5);
}
