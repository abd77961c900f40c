//! What sessions hold.

use std::time::Duration;

use super::super::testing::{End, World};
use super::super::{Config, Lane, Session};

/// The structure itself; what hangs on it is measured by `tests/session_memory.rs`.
#[test]
fn the_structures_are_small() {
    assert!(size_of::<Session>() <= 720, "Session takes {}", size_of::<Session>());
    assert!(size_of::<super::super::Event>() <= 64);
}

#[test]
fn a_violation_allocates_nothing_for_what_it_announces() {
    let mut world = World::connected(Config::default());
    world.ledger.trusting = false;
    // A message of 16 MiB and one octet, announced on every lane.
    for lane in Lane::ALL {
        world.inject(End::Server, &[0xb0 | lane.index() as u8, 1, 1, 0x81, 0, 0, 1, 7]);
        assert!(world.server.session().is_down());
        world.drive();
        world.dial();
        world.drive();
    }
}

#[test]
fn many_pings_are_answered_once() {
    let mut world = World::connected(Config::default());
    for token in 0..10_000u32 {
        world.inject(End::Server, &[5, 4, 0x80, 0, (token >> 8) as u8, token as u8]);
    }
    assert_eq!(world.transmit(End::Server, usize::MAX), 4, "one PONG");
    world.advance(Duration::from_millis(1));
    assert_eq!(world.transmit(End::Server, usize::MAX), 0);
}
