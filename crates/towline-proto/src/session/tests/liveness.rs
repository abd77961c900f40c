//! Keep-alive, half-open wires, greetings that fail (docs/session.md, sections 3 and 7).

use std::time::Duration;

use bytes::Bytes;

use super::super::testing::{End, World, small};
use super::super::{Config, ConfigError, Event, Handshake, Violation, WireError};

/// S7.8.
#[test]
fn an_idle_wire_is_kept_alive_and_measured() {
    let mut world = World::connected(small());
    for _ in 0..100 {
        world.advance(Duration::from_secs(5));
        world.drive();
    }
    assert!(world.client.session().is_established() && world.server.session().is_established());
    assert_eq!(world.client.session().stats().wires_lost, 0);
    assert!(world.client.session().rtt().is_some() || world.server.session().rtt().is_some());
}

/// S7.8.
#[test]
fn a_half_open_wire_is_found_out_by_both_ends() {
    let mut world = World::connected(small());
    world.wires[0].hole = true;
    world.advance(Duration::from_secs(15));
    world.drive();
    world.advance(Duration::from_millis(9_999));
    assert!(world.client.session().is_established());
    world.advance(Duration::from_millis(1));
    for end in [End::Client, End::Server] {
        assert!(world.side(end).session().is_down(), "{end:?}");
        assert_eq!(world.side(end).events.last(), Some(&Event::WireFailed(WireError::PeerSilent)));
    }
}

#[test]
fn any_octet_counts_as_a_sign_of_life() {
    let mut world = World::connected(small());
    world.client.session().request_acknowledgement();
    world.transmit(End::Client, usize::MAX);
    // The answer never comes, but something else does.
    world.wires[0].up.clear();
    for _ in 0..10 {
        world.advance(Duration::from_secs(9));
        world.inject(End::Client, &[0x7f, 0]);
        world.inject(End::Server, &[0x7f, 0]);
    }
    assert!(world.client.session().is_established());
    assert_eq!(world.client.session().stats().unknown_frames, 10, "S2.6: skipped and counted");
    world.advance(Duration::from_secs(10));
    assert!(world.client.session().is_down());
}

#[test]
fn without_keep_alive_nothing_is_asked() {
    let mut world = World::connected(Config { keep_alive: None, ..small() });
    assert_eq!(world.client.session().poll_timeout(), None);
    world.wires[0].hole = true;
    world.advance(Duration::from_secs(100_000));
    assert!(world.client.session().is_established());
}

#[test]
fn durations_without_end_never_come() {
    let forever = Duration::MAX;
    let mut world = World::connected(Config {
        ack_delay: forever,
        keep_alive: Some(forever),
        ping_timeout: forever,
        handshake_timeout: forever,
        redial_window: forever,
        close_timeout: forever,
        ..small()
    });
    world.send(End::Client, 100);
    world.send(End::Server, 100);
    world.drive();
    assert_eq!(world.ledger.pending(End::Client) + world.ledger.pending(End::Server), 0);
    assert_eq!(world.client.session().poll_timeout(), None);
    world.cut(0, 0);
    world.drive();
    assert_eq!(world.client.session().poll_timeout(), None);
}

#[test]
fn a_server_that_does_not_answer_the_greeting_is_left() {
    let mut world = World::new(small());
    world.dial();
    world.transmit(End::Client, usize::MAX);
    world.advance(Duration::from_secs(10));
    assert_eq!(world.client.events, [Event::WireFailed(WireError::HandshakeTimeout)]);
    assert!(world.client.session().is_down());
}

/// S2.1.
#[test]
fn another_protocol_is_found_out_at_the_first_octet() {
    for first in (0..=255u8).filter(|first| !(2..=3).contains(first)) {
        let mut world = World::new(small());
        world.dial();
        world.transmit(End::Client, usize::MAX);
        world.inject(End::Client, &[first]);
        assert_eq!(world.violated(End::Client), Some(Violation::NotTowline), "{first:#x}");
    }
    for first in (0..=255u8).filter(|first| *first != 1) {
        let result = Handshake::new().handle_input(Bytes::copy_from_slice(&[first]));
        assert_eq!(result, Err(Violation::NotTowline));
    }
}

/// S3.2.
#[test]
fn a_client_of_another_version_is_refused_with_the_reason() {
    let octets = [1, 10, b'T', b'W', b'L', b'N', 2, 9, 1, 2, 3, 4];
    let result = Handshake::new().handle_input(Bytes::copy_from_slice(&octets));
    assert_eq!(result, Err(Violation::NoCommonVersion { min: 2, max: 9 }));
}

#[test]
fn a_greeting_in_single_octets_is_put_together_and_what_follows_is_kept() {
    let mut world = World::new(small());
    world.dial();
    world.transmit(End::Client, usize::MAX);
    let mut octets: Vec<u8> = world.wires[0].up.iter().copied().collect();
    octets.extend([0x7f, 0]);
    for cut in 1..octets.len() {
        let mut handshake = Handshake::new();
        let (head, tail) = octets.split_at(cut);
        let mut whole = handshake.handle_input(Bytes::copy_from_slice(head)).expect("good");
        if whole.is_none() {
            whole = handshake.handle_input(Bytes::copy_from_slice(tail)).expect("good");
            let (hello, rest) = whole.expect("whole");
            assert_eq!((hello.attempt, &rest[..]), (1, &[0x7f, 0][..]));
        } else {
            assert!(cut >= octets.len() - 2);
        }
    }
}

#[test]
fn a_greeting_that_never_ends_is_bounded() {
    let mut handshake = Handshake::new();
    let announced = handshake.handle_input(Bytes::copy_from_slice(&[1, 0x90, 0, 0x10, 1]));
    assert_eq!(announced, Err(Violation::ControlTooLarge(0x1000_1001)));
}

#[test]
fn the_default_configuration_is_in_range_and_each_bad_option_is_named() {
    assert_eq!(Config::default().check(), Ok(()));
    let named = |change: fn(&mut Config)| {
        let mut config = Config::default();
        change(&mut config);
        config.check().map_err(|ConfigError { option, .. }| option)
    };
    assert_eq!(named(|config| config.max_message = 1), Err("max_message"));
    assert_eq!(named(|config| config.window = 1000), Err("window"));
    assert_eq!(named(|config| config.ack_bytes = 4 << 20), Err("ack_bytes"));
    assert_eq!(named(|config| config.limits.fragment = 1 << 20), Err("limits.fragment"));
    assert_eq!(named(|config| config.limits.max_bytes = 0), Err("limits.max_bytes"));
    assert_eq!(named(|config| config.limits.max_messages = 0), Err("limits.max_messages"));
    assert_eq!(named(|config| config.ping_timeout = Duration::ZERO), Err("ping_timeout"));
}
