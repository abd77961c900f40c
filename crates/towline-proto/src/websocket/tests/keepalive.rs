//! Pings and pongs (RFC 6455 sections 5.5.2 and 5.5.3; section G of the cases).

use std::time::{Duration, Instant};

use super::super::frame::OpCode;
use super::super::*;
use super::support::*;

const AFTER: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(10);

fn config() -> Config {
    Config { ping_after: Some(AFTER), pong_timeout: TIMEOUT, ..Config::default() }
}

fn ping_in(bytes: &[u8]) -> bool {
    frames(bytes).iter().any(|(header, _)| header.opcode == OpCode::Ping)
}

#[test]
fn case_110_pings_only_after_silence() {
    let start = Instant::now();
    let mut end = end(Role::Client, &config(), start);
    for tick in 1..20 {
        let now = start + tick * Duration::from_secs(20);
        end.handle_timeout(now);
        assert!(written(&mut end, now).is_empty());
        feed(&mut end, now, &frame_to(Role::Client, true, OpCode::Binary, b"x"));
        assert_eq!(events(&mut end).len(), 1);
        assert_eq!(end.poll_timeout(), Some(now + AFTER));
    }
    let now = end.poll_timeout().expect("a deadline");
    end.handle_timeout(now);
    assert!(ping_in(&written(&mut end, now)));
    assert_eq!(end.poll_timeout(), Some(now + TIMEOUT));
}

#[test]
fn case_111_no_answer_ends_the_connection() {
    for role in [Role::Client, Role::Server] {
        let start = Instant::now();
        let mut end = end(role, &config(), start);
        end.handle_timeout(start + AFTER);
        let _ = written(&mut end, start + AFTER);
        end.handle_timeout(start + AFTER + TIMEOUT - Duration::from_millis(1));
        assert!(events(&mut end).is_empty());
        end.handle_timeout(start + AFTER + TIMEOUT);
        let expected = Closed {
            code: CloseCode::ABNORMAL,
            reason: String::new(),
            clean: false,
            cause: Cause::PongTimeout,
        };
        assert_eq!(events(&mut end), [Event::Closed(expected)]);
    }
}

#[test]
fn a_pong_keeps_the_connection() {
    let mut pair = Pair::new(&config());
    pair.pass(Duration::from_secs(3600));
    assert!(pair.ends.iter().all(Connection::is_open));
    assert!(pair.events.iter().all(Vec::is_empty), "keepalive is not the application's business");
}

#[test]
fn case_112_data_without_pongs_keeps_it_up_and_the_pings_go_on() {
    let mut now = Instant::now();
    let mut end = end(Role::Client, &config(), now);
    let mut pings = 0;
    for _ in 0..50 {
        now += AFTER;
        end.handle_timeout(now);
        pings += usize::from(ping_in(&written(&mut end, now)));
        now += Duration::from_secs(5);
        // One byte of a header is a sign of life too, but here it is a message.
        feed(&mut end, now, &frame_to(Role::Client, true, OpCode::Binary, b"x"));
        assert_eq!(events(&mut end).len(), 1);
        end.credit(1).expect("within");
    }
    assert_eq!(pings, 50);
    assert!(end.is_open());
}

#[test]
fn case_112_a_single_byte_is_a_sign_of_life() {
    let start = Instant::now();
    let mut end = end(Role::Client, &config(), start);
    end.handle_timeout(start + AFTER);
    let _ = written(&mut end, start + AFTER);
    let now = start + AFTER + Duration::from_secs(9);
    feed(&mut end, now, &[0x82]);
    assert!(events(&mut end).is_empty());
    end.handle_timeout(start + AFTER + TIMEOUT);
    assert!(end.is_open());
    assert_eq!(end.poll_timeout(), Some(now + AFTER));
}

#[test]
fn case_113_and_114_late_and_unasked_pongs_are_ignored() {
    let now = Instant::now();
    let mut end = end(Role::Server, &config(), now);
    feed(&mut end, now, &frame_to(Role::Server, true, OpCode::Pong, b"nobody asked"));
    assert!(events(&mut end).is_empty());
    end.ping(b"asked").expect("sent");
    feed(&mut end, now, &frame_to(Role::Server, true, OpCode::Pong, b"else"));
    assert!(events(&mut end).is_empty());
    feed(&mut end, now, &frame_to(Role::Server, true, OpCode::Pong, b"asked"));
    assert_eq!(events(&mut end), [Event::Pong("asked".into())]);
    feed(&mut end, now, &frame_to(Role::Server, true, OpCode::Pong, b"asked"));
    assert!(events(&mut end).is_empty());
    assert!(written(&mut end, now).len() == 7, "only the ping was written");
}

#[test]
fn case_115_no_pings_while_closing() {
    let start = Instant::now();
    let mut end =
        end(Role::Client, &Config { ping_after: Some(Duration::from_secs(1)), ..config() }, start);
    end.close(start, CloseCode::NORMAL, "").expect("valid");
    let _ = written(&mut end, start);
    end.handle_timeout(start + Duration::from_secs(2));
    assert!(written(&mut end, start).is_empty());
    assert_eq!(end.poll_timeout(), Some(start + Duration::from_secs(5)));
}

#[test]
fn case_116_intervals_of_zero_none_and_one() {
    let zero = Config { ping_after: Some(Duration::ZERO), ..config() };
    assert_eq!(zero.validate().map_err(|error| error.option), Err("ping_after"));
    let now = Instant::now();
    let none = end(Role::Client, &quiet(), now);
    assert_eq!(none.poll_timeout(), None);
    let second = Duration::from_secs(1);
    let mut one = end(Role::Client, &Config { ping_after: Some(second), ..config() }, now);
    one.handle_timeout(now + second);
    assert!(ping_in(&written(&mut one, now)));
    assert_eq!(one.poll_timeout(), Some(now + second + TIMEOUT), "the answer has its own time");
}

#[test]
fn case_116_a_process_that_slept_gets_a_second_chance_and_only_one() {
    let start = Instant::now();
    let mut end = end(Role::Client, &config(), start);
    end.handle_timeout(start + AFTER);
    let _ = written(&mut end, start + AFTER);
    let woken = start + Duration::from_secs(3600);
    end.handle_timeout(woken);
    assert!(end.is_open());
    assert!(ping_in(&written(&mut end, woken)));
    end.handle_timeout(woken + TIMEOUT);
    assert!(end.is_closed());
}

#[test]
fn silence_of_our_own_making_proves_nothing() {
    let mut now = Instant::now();
    let mut end = end(Role::Client, &Config { receive_window: 10, ..config() }, now);
    feed(&mut end, now, &frame_to(Role::Client, true, OpCode::Binary, &[1; 10]));
    assert_eq!(events(&mut end).len(), 1);
    assert!(!end.wants_read());
    for _ in 0..20 {
        now += AFTER + TIMEOUT;
        end.handle_timeout(now);
        let _ = written(&mut end, now);
    }
    assert!(end.is_open(), "nobody read what the peer may have sent");
    end.credit(10).expect("within");
    end.handle_timeout(now + AFTER);
    end.handle_timeout(now + AFTER + TIMEOUT);
    assert!(end.is_closed());
}
