//! The closing handshake (RFC 6455 section 7; section B of the cases).

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::super::frame::OpCode;
use super::super::*;
use super::support::*;

const BUDGET: Duration = Duration::from_secs(5);

fn open_end(role: Role) -> (Connection, Instant) {
    let now = Instant::now();
    (end(role, &quiet(), now), now)
}

fn expire(end: &mut Connection) -> Instant {
    let at = end.poll_timeout().expect("a deadline");
    end.handle_timeout(at);
    at
}

#[test]
fn case_20_a_close_from_either_side_is_clean_on_both() {
    for (from, causes) in
        [(CLIENT, [Cause::Local, Cause::Peer]), (SERVER, [Cause::Peer, Cause::Local])]
    {
        let mut pair = Pair::new(&quiet());
        let now = pair.now;
        assert_eq!(pair.ends[from].close(now, CloseCode(4321), "because"), Ok(true));
        assert_eq!(pair.ends[from].close(now, CloseCode::NORMAL, "again"), Ok(false));
        pair.settle();
        for at in [CLIENT, SERVER] {
            let expected = Closed {
                code: CloseCode(4321),
                reason: "because".into(),
                clean: true,
                cause: causes[at],
            };
            assert_eq!(pair.closed(at), Some(&expected));
            assert!(pair.ends[at].poll_timeout().is_none());
        }
        let frame = CloseFrame { code: Some(CloseCode(4321)), reason: "because".into() };
        assert_eq!(pair.events[1 - from][0], Event::CloseRequested(frame));
        assert_eq!(pair.now, now, "no waiting");
    }
}

#[test]
fn the_server_ends_the_transport_first() {
    let mut pair = Pair::new(&quiet());
    let now = pair.now;
    pair.ends[CLIENT].close(now, CloseCode::NORMAL, "").expect("valid");
    pair.settle();
    assert!(pair.events[SERVER].contains(&Event::ShutdownWrite));
    assert!(!pair.events[CLIENT].contains(&Event::ShutdownWrite));
}

#[test]
fn a_client_does_not_wait_for_ever_for_the_server_to_end_the_transport() {
    let (mut end, now) = open_end(Role::Client);
    end.close(now, CloseCode::NORMAL, "").expect("valid");
    let _ = written(&mut end, now);
    feed(&mut end, now, &frame_to(Role::Client, true, OpCode::Close, &close_body(1000, b"")));
    assert!(events(&mut end).is_empty());
    assert_eq!(expire(&mut end), now + Duration::from_secs(1));
    let events = events(&mut end);
    let closed = closed(&events).expect("closed");
    assert!(closed.clean && closed.cause == Cause::Local);
}

#[test]
fn case_21_the_peer_drops_before_any_close() {
    for role in [Role::Client, Role::Server] {
        for by_error in [false, true] {
            let (mut end, now) = open_end(role);
            if by_error {
                end.handle_error(now)
            } else {
                end.handle_eof(now)
            }
            let expected = Closed {
                code: CloseCode::ABNORMAL,
                reason: String::new(),
                clean: false,
                cause: Cause::Transport,
            };
            assert_eq!(events(&mut end), [Event::Closed(expected)]);
            assert_eq!(end.send_text("x"), Err(SendError::Closing));
        }
    }
}

#[test]
fn case_22_the_peer_drops_after_our_close() {
    let (mut end, now) = open_end(Role::Client);
    end.close(now, CloseCode::NORMAL, "done").expect("valid");
    let _ = written(&mut end, now);
    end.handle_eof(now);
    let expected = Closed {
        code: CloseCode::NORMAL,
        reason: "done".into(),
        clean: false,
        cause: Cause::Transport,
    };
    assert_eq!(events(&mut end), [Event::Closed(expected)]);
}

#[test]
fn case_23_a_silent_peer_is_given_up_after_the_budget() {
    for role in [Role::Client, Role::Server] {
        let (mut end, now) = open_end(role);
        end.close(now, CloseCode::NORMAL, "").expect("valid");
        let _ = written(&mut end, now);
        assert_eq!(expire(&mut end), now + BUDGET);
        let events = events(&mut end);
        assert_eq!(
            closed(&events).map(|closed| (closed.cause, closed.code)),
            Some((Cause::CloseTimeout, CloseCode::ABNORMAL))
        );
    }
}

#[test]
fn case_24_close_while_peer_keeps_sending() {
    let (mut end, start) = open_end(Role::Client);
    end.close(start, CloseCode::NORMAL, "").expect("valid");
    let _ = written(&mut end, start);
    let mut got = 0;
    for second in 1..=4 {
        let now = start + Duration::from_secs(second);
        feed(&mut end, now, &frame_to(Role::Client, true, OpCode::Text, b"still here"));
        end.handle_timeout(now);
        for event in events(&mut end) {
            assert!(matches!(event, Event::Message(_)), "delivered until the peer's close");
            got += 1;
        }
        assert_eq!(end.poll_timeout(), Some(start + BUDGET), "traffic does not move the budget");
    }
    assert_eq!(got, 4);
    end.handle_timeout(start + BUDGET);
    assert_eq!(closed(&events(&mut end)).map(|closed| closed.cause), Some(Cause::CloseTimeout));
}

#[test]
fn case_25_the_transport_ends_only_after_the_echo_is_written() {
    let (mut end, now) = open_end(Role::Server);
    feed(&mut end, now, &frame_to(Role::Server, true, OpCode::Close, &close_body(3456, b"why")));
    let frame = CloseFrame { code: Some(CloseCode(3456)), reason: "why".into() };
    assert_eq!(events(&mut end), [Event::CloseRequested(frame)]);
    let (bytes, length) = pending(&mut end);
    assert_eq!(close_in(&bytes), Some((3456, "why".into())));
    assert!(events(&mut end).is_empty());
    end.handle_written(now, length - 1).expect("within");
    assert!(events(&mut end).is_empty());
    end.handle_written(now, 1).expect("within");
    assert_eq!(events(&mut end), [Event::ShutdownWrite]);
    end.handle_eof(now);
    assert_eq!(closed(&events(&mut end)).map(|closed| closed.cause), Some(Cause::Peer));
}

#[test]
fn case_26_a_peer_that_closes_and_does_not_read_is_given_up_in_time() {
    let (mut end, now) = open_end(Role::Server);
    end.send(Kind::Binary, Bytes::from(vec![1; 1 << 20])).expect("sent");
    let (_, length) = pending(&mut end);
    end.handle_written(now, length / 2).expect("within");
    feed(&mut end, now, &frame_to(Role::Server, true, OpCode::Close, &close_body(1000, b"")));
    assert!(matches!(&events(&mut end)[..], [Event::CloseRequested(_)]));
    assert_eq!(expire(&mut end), now + BUDGET);
    assert_eq!(
        closed(&events(&mut end)).map(|closed| (closed.clean, closed.code.0)),
        Some((false, 1000))
    );
}

#[test]
fn the_whole_close_stays_within_one_budget() {
    // Close sent at 0, echo at 4.9 s, and then the transport does not end: not another second, but the rest of five.
    let (mut end, start) = open_end(Role::Client);
    end.close(start, CloseCode::NORMAL, "").expect("valid");
    let _ = written(&mut end, start);
    let late = start + Duration::from_millis(4900);
    feed(&mut end, late, &frame_to(Role::Client, true, OpCode::Close, &close_body(1000, b"")));
    assert!(events(&mut end).is_empty());
    assert_eq!(expire(&mut end), start + BUDGET);
    assert!(closed(&events(&mut end)).is_some_and(|closed| closed.clean));
}

#[test]
fn case_28_both_close_at_once() {
    let mut pair = Pair::new(&quiet());
    let now = pair.now;
    pair.ends[CLIENT].close(now, CloseCode::NORMAL, "client").expect("valid");
    pair.ends[SERVER].close(now, CloseCode::AWAY, "server").expect("valid");
    pair.settle();
    for (at, code) in [(CLIENT, CloseCode::AWAY), (SERVER, CloseCode::NORMAL)] {
        let closed = pair.closed(at).expect("closed");
        assert!(closed.clean);
        assert_eq!((closed.code, closed.cause), (code, Cause::Local));
        assert!(!pair.events[at].iter().any(|event| matches!(event, Event::CloseRequested(_))));
    }
}

#[test]
fn case_29_and_30_after_the_end_every_call_is_harmless() {
    for role in [Role::Client, Role::Server] {
        let (mut end, now) = open_end(role);
        end.abort();
        assert_eq!(closed(&events(&mut end)).map(|closed| closed.cause), Some(Cause::Aborted));
        end.abort();
        end.handle_eof(now);
        end.handle_error(now);
        end.handle_timeout(now + Duration::from_secs(1000));
        let bytes = frame_to(role, true, OpCode::Text, b"late");
        feed(&mut end, now, &bytes);
        assert_eq!(end.take_credit(), bytes.len());
        assert_eq!(end.close(now, CloseCode::NORMAL, ""), Ok(false));
        assert_eq!(end.send_text("x"), Err(SendError::Closing));
        assert_eq!(end.ping(b""), Err(SendError::Closing));
        end.handle_written(now, 99).expect("what was in flight may still complete");
        assert!(end.direct().is_none());
        assert!(events(&mut end).is_empty());
        assert!(written(&mut end, now).is_empty());
        assert!(!end.wants_read());
    }
}

#[test]
fn case_31_what_was_sent_before_goes_out_before_and_nothing_after() {
    let (mut end, now) = open_end(Role::Client);
    end.send_text("first").expect("sent");
    end.send(Kind::Binary, Bytes::from(vec![1; 10_000])).expect("sent");
    end.ping(b"p").expect("sent");
    end.close(now, CloseCode::NORMAL, "").expect("valid");
    assert_eq!(end.send_text("late"), Err(SendError::Closing));
    assert_eq!(end.send_part(Kind::Text, Bytes::new(), true), Err(SendError::Closing));
    // A ping of the peer is not answered any more.
    feed(&mut end, now, &frame_to(Role::Client, true, OpCode::Ping, b"x"));
    assert!(events(&mut end).is_empty());
    let order: Vec<OpCode> =
        frames(&written(&mut end, now)).iter().map(|(header, _)| header.opcode).collect();
    assert_eq!(order, [OpCode::Text, OpCode::Binary, OpCode::Ping, OpCode::Close]);
}

#[test]
fn case_32_what_follows_a_close_frame_is_ignored() {
    for role in [Role::Client, Role::Server] {
        let (mut end, now) = open_end(role);
        let bytes = [
            frame_to(role, true, OpCode::Close, &close_body(1001, b"")),
            frame_to(role, true, OpCode::Ping, b"x"),
            frame_to(role, true, OpCode::Text, b"\xFF"),
            vec![0xFF; 50],
        ]
        .concat();
        feed(&mut end, now, &bytes);
        assert!(matches!(&events(&mut end)[..], [Event::CloseRequested(_)]));
        assert_eq!(close_in(&written(&mut end, now)), Some((1001, String::new())));
        feed(&mut end, now, &[0xFF; 50]);
        assert_eq!(end.take_credit(), bytes.len() + 50, "and credited");
        end.handle_eof(now);
        assert!(closed(&events(&mut end)).is_some_and(|closed| closed.clean));
    }
}

#[test]
fn case_34_an_empty_close_is_1005_and_echoed_empty() {
    let (mut end, now) = open_end(Role::Client);
    feed(&mut end, now, &frame_to(Role::Client, true, OpCode::Close, b""));
    assert_eq!(events(&mut end), [Event::CloseRequested(CloseFrame::default())]);
    let bytes = written(&mut end, now);
    assert_eq!(close_in(&bytes), Some((1005, String::new())));
    assert_eq!(bytes.len(), 6);
    end.handle_eof(now);
    assert_eq!(closed(&events(&mut end)).map(|closed| closed.code), Some(CloseCode::NO_STATUS));
}

#[test]
fn case_35_reasons_of_123_bytes() {
    let (mut end, now) = open_end(Role::Client);
    assert_eq!(end.close(now, CloseCode::NORMAL, &"x".repeat(124)), Err(CloseError::ReasonTooLong));
    assert_eq!(end.close(now, CloseCode(1005), ""), Err(CloseError::Code(1005)));
    assert!(end.is_open(), "a refused close changes nothing");
    assert_eq!(end.close(now, CloseCode::NORMAL, &"x".repeat(123)), Ok(true));
    assert_eq!(close_in(&written(&mut end, now)), Some((1000, "x".repeat(123))));
}

#[test]
fn case_36_numbers_outside_the_space_are_mapped() {
    for number in 0..=u16::MAX {
        assert!(CloseCode::for_wire(number).is_sendable(), "{number}");
    }
    for (number, code) in
        [(1000, 1000), (4999, 4999), (504, 1011), (503, 1013), (404, 1008), (1006, 1011), (0, 1011)]
    {
        assert_eq!(CloseCode::for_wire(number).0, code);
    }
}

#[test]
fn case_38_the_end_of_the_transport_is_reported_at_once_but_after_the_data() {
    let now = Instant::now();
    let mut end = end(Role::Client, &Config { receive_window: 100, ..quiet() }, now);
    feed(&mut end, now, &frame_to(Role::Client, true, OpCode::Text, &[b'x'; 100]).repeat(2));
    end.handle_eof(now);
    assert!(matches!(&events(&mut end)[..], [Event::Message(_)]), "the second waits for credit");
    end.credit(100).expect("within");
    let rest = events(&mut end);
    assert!(matches!(&rest[..], [Event::Message(_), Event::Closed(_)]));
    assert_eq!(closed(&rest).map(|closed| closed.code), Some(CloseCode::ABNORMAL));
}

#[test]
fn case_40_a_half_closed_peer_still_gets_the_echo() {
    for role in [Role::Client, Role::Server] {
        let (mut end, now) = open_end(role);
        end.send_text("before").expect("sent");
        feed(&mut end, now, &frame_to(role, true, OpCode::Close, &close_body(1000, b"")));
        end.handle_eof(now);
        assert!(matches!(&events(&mut end)[..], [Event::CloseRequested(_)]));
        let bytes = written(&mut end, now);
        assert_eq!(frames(&bytes).len(), 2);
        assert_eq!(close_in(&bytes), Some((1000, String::new())));
        assert!(
            closed(&events(&mut end))
                .is_some_and(|closed| closed.clean && closed.cause == Cause::Peer)
        );
    }
}

#[test]
fn case_37_any_call_between_any_two_events() {
    // There are no callbacks to call back from; what remains is that each call is allowed at each step of a life.
    for call in 0..6 {
        for step in 0..12 {
            let mut pair = Pair::new(&quiet());
            let now = pair.now;
            for at in 0..12 {
                if at == step {
                    let end = &mut pair.ends[SERVER];
                    match call {
                        0 => drop(end.close(now, CloseCode::NORMAL, "")),
                        1 => drop(end.send_text("x")),
                        2 => drop(end.ping(b"")),
                        3 => end.abort(),
                        4 => drop(end.credit(1)),
                        _ => end.handle_timeout(now),
                    }
                }
                match at {
                    1 => drop(pair.ends[CLIENT].send_text("hello")),
                    3 => drop(pair.ends[CLIENT].ping(b"p")),
                    6 => drop(pair.ends[CLIENT].close(now, CloseCode::NORMAL, "")),
                    _ => {}
                }
                if at % 2 == 0 {
                    pair.settle();
                }
            }
            pair.settle();
            pair.pass(Duration::from_secs(6));
            assert!(
                pair.closed(CLIENT).is_some() && pair.closed(SERVER).is_some(),
                "call {call} at {step}"
            );
        }
    }
}

#[test]
fn a_violation_is_told_to_the_peer_and_ends_the_connection() {
    let (mut end, now) = open_end(Role::Server);
    end.send_text("queued before").expect("sent");
    feed(&mut end, now, &[0x83, 0x80, 0, 0, 0, 0]);
    let first = events(&mut end);
    assert!(first.is_empty());
    let bytes = written(&mut end, now);
    assert_eq!(close_in(&bytes), Some((1002, "reserved opcode 0x3".into())));
    assert_eq!(events(&mut end), [Event::ShutdownWrite]);
    feed(&mut end, now, &frame_to(Role::Server, true, OpCode::Text, b"ignored"));
    assert!(events(&mut end).is_empty());
    end.handle_eof(now);
    let events = events(&mut end);
    let closed = closed(&events).expect("closed");
    assert_eq!((closed.code, closed.clean), (CloseCode::PROTOCOL, false));
    assert_eq!(closed.cause, Cause::Violation(Violation::ReservedOpcode(3)));
}

#[test]
fn a_violation_with_a_peer_that_never_reads_ends_in_time() {
    let (mut end, now) = open_end(Role::Client);
    feed(&mut end, now, &[0x83]);
    assert!(events(&mut end).is_empty());
    let _ = pending(&mut end);
    assert_eq!(expire(&mut end), now + BUDGET);
    assert!(matches!(
        closed(&events(&mut end)).map(|closed| closed.cause),
        Some(Cause::Violation(_))
    ));
}

#[test]
fn a_violation_stays_the_cause_when_the_transport_fails_too() {
    let (mut end, now) = open_end(Role::Server);
    feed(&mut end, now, &[0x83]);
    assert!(events(&mut end).is_empty());
    end.handle_error(now);
    let cause = closed(&events(&mut end)).map(|closed| closed.cause);
    assert_eq!(cause, Some(Cause::Violation(Violation::ReservedOpcode(3))));
}

#[test]
fn a_violation_after_our_close_does_not_send_a_second_close() {
    let (mut end, now) = open_end(Role::Client);
    end.close(now, CloseCode::NORMAL, "").expect("valid");
    feed(&mut end, now, &[0x83]);
    assert!(events(&mut end).is_empty());
    assert_eq!(close_in(&written(&mut end, now)), Some((1000, String::new())));
    end.handle_eof(now);
    assert!(matches!(
        closed(&events(&mut end)).map(|closed| closed.cause),
        Some(Cause::Violation(_))
    ));
}

#[test]
fn a_buffer_that_comes_back_after_the_end_is_only_credited() {
    let (mut end, now) = open_end(Role::Client);
    let bytes = frame_to(Role::Client, true, OpCode::Binary, &[1; 20_000]);
    feed(&mut end, now, &bytes[..100]);
    assert!(events(&mut end).is_empty());
    let mut direct = end.direct().expect("a large frame");
    end.abort();
    assert_eq!(events(&mut end).len(), 1);
    direct.buffer.extend_from_slice(&bytes[100..]);
    end.handle_direct(now, direct.buffer);
    assert!(events(&mut end).is_empty());
    assert_eq!(end.take_credit(), bytes.len());
}

#[test]
fn an_error_of_the_transport_after_both_closes_is_clean() {
    let (mut end, now) = open_end(Role::Server);
    feed(&mut end, now, &frame_to(Role::Server, true, OpCode::Close, &close_body(1000, b"")));
    let _ = events(&mut end);
    let _ = written(&mut end, now);
    assert_eq!(events(&mut end), [Event::ShutdownWrite]);
    end.handle_error(now);
    assert!(closed(&events(&mut end)).is_some_and(|closed| closed.clean));
}
