//! What sessions hold.

use std::time::Duration;

use super::super::receive::Incoming;
use super::super::testing::{End, World};
use super::super::{Config, Event, Lane, Session};

/// The session and everything on the heap that it owns; the configuration is shared.
fn footprint(session: &Session) -> usize {
    let logs: usize = session.logs.iter().flatten().map(|log| log.footprint()).sum();
    let incoming = session.incoming.iter().flatten().count() * size_of::<Incoming>();
    let events = session.events.capacity() * size_of::<Event>();
    // A buffer of `BytesMut` that is shared has a header of its own.
    let control = if session.control.capacity() > 0 { session.control.capacity() + 48 } else { 0 };
    size_of::<Session>() + logs + incoming + events + control + session.reader.footprint()
}

#[test]
fn an_idle_session_is_small() {
    let mut world = World::connected(Config::default());
    for _ in 0..100 {
        world.send(End::Client, 1000);
        world.send(End::Server, 5000);
        world.push(End::Client, Lane::URGENT, 10, None).expect("room");
    }
    world.settle();
    world.advance(Duration::from_secs(15));
    world.drive();
    world.advance(Duration::from_secs(15));
    for end in [End::Client, End::Server] {
        let size = footprint(world.side(end).session());
        assert!(size <= 1228, "{end:?}: {size} octets");
        let outgoing = &mut world.side(end).outgoing;
        outgoing.shrink();
        assert!(size_of_val(outgoing) <= 320);
    }
    assert!(size_of::<Event>() <= 64);
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
