//! The end (docs/session.md, section 8).

use std::time::Duration;

use super::super::testing::{End, World, small};
use super::super::{CloseCode, Event, Lane, SendError};

const CODE: CloseCode = CloseCode(4711);

fn closed(world: &mut World, end: End) -> (CloseCode, String, usize) {
    match world.ended(end) {
        Some(Event::Closed { code, reason, unacknowledged }) => {
            (*code, reason.clone(), unacknowledged.len())
        }
        other => panic!("{end:?}: {other:?}"),
    }
}

#[test]
fn closing_drains_both_directions_first() {
    for closer in [End::Client, End::Server] {
        let mut world = World::connected(small());
        for _ in 0..30 {
            world.send(End::Client, 700);
            world.send(End::Server, 900);
        }
        world.close(closer, CODE);
        world.drive();
        for end in [End::Client, End::Server] {
            assert_eq!(closed(&mut world, end), (CODE, "done".into(), 0), "{end:?}");
            assert_eq!(world.ledger.pending(end), 0);
            assert_eq!(world.side(end).session().poll_timeout(), None);
            assert_eq!(world.push(end, Lane::NORMAL, 10, None), Err(SendError::Closed));
        }
        let told = if closer == End::Client { End::Server } else { End::Client };
        let event = Event::PeerClosing { code: CODE, reason: "done".into() };
        assert!(world.side(told).events.contains(&event));
    }
}

#[test]
fn both_may_close_at_once() {
    let mut world = World::connected(small());
    world.send(End::Client, 700);
    world.close(End::Client, CODE);
    world.close(End::Server, CloseCode(5000));
    world.drive();
    assert_eq!(closed(&mut world, End::Client), (CODE, "done".into(), 0));
    assert_eq!(closed(&mut world, End::Server), (CloseCode(5000), "done".into(), 0));
}

/// S8.3, S8.4: at every octet of the end.
#[test]
fn a_close_survives_the_loss_of_its_wire() {
    for at in 0..300 {
        let mut world = World::connected(small());
        world.send(End::Client, 50);
        world.send(End::Server, 60);
        world.close(End::Client, CODE);
        // So many octets in all, on either side in turn.
        let mut left = at;
        while left > 0 {
            let sent =
                world.transmit(End::Client, usize::MAX) + world.transmit(End::Server, usize::MAX);
            let arrived = left.min(sent + 1);
            world.deliver(0, End::Server, arrived);
            world.deliver(0, End::Client, arrived);
            left -= arrived;
            if sent == 0 {
                break;
            }
        }
        world.cut(0, 0);
        for _ in 0..40 {
            world.drive();
            if world.client.session().is_down() {
                world.dial();
            }
            world.advance(Duration::from_millis(500));
        }
        for end in [End::Client, End::Server] {
            assert_eq!(closed(&mut world, end).0, CODE, "{at} {end:?}");
            assert_eq!(world.ledger.pending(end), 0, "{at} {end:?}");
        }
        assert_eq!(closed(&mut world, End::Client).2, 0, "{at}");
    }
}

#[test]
fn closing_ends_in_time_when_the_peer_is_gone() {
    let mut world = World::connected(small());
    world.send(End::Client, 50);
    world.wires[0].hole = true;
    world.close(End::Client, CODE);
    world.drive();
    world.advance(Duration::from_millis(9_999));
    assert!(world.ended(End::Client).is_none());
    world.advance(Duration::from_millis(1));
    assert_eq!(closed(&mut world, End::Client), (CloseCode::TIMEOUT, "done".into(), 1));
}

#[test]
fn closing_what_was_never_connected_ends_at_once() {
    let mut world = World::new(small());
    world.close(End::Client, CODE);
    assert_eq!(closed(&mut world, End::Client), (CODE, "done".into(), 0));
    world.dial();
    assert!(world.client.session().is_ended());
    assert!(world.wires.is_empty());
}

/// S8.6.
#[test]
fn an_abort_ends_both_at_once_and_gives_back() {
    let mut world = World::connected(small());
    world.consume = false;
    for _ in 0..50 {
        world.send(End::Client, 300);
        world.send(End::Server, 300);
    }
    world.drive();
    let delivered = world.server.delivered;
    let back = world.client.session().abort_with(CODE, "enough");
    assert!(world.client.session().is_ended() && world.client.session().poll_timeout().is_none());
    assert!(back.len() >= 50 - delivered && back.len() < 50);
    world.drive();
    let (code, reason, left) = closed(&mut world, End::Server);
    assert_eq!((code, reason.as_str()), (CODE, "enough"));
    assert!(left > 0);
}

#[test]
fn an_abort_before_the_welcome_refuses() {
    let mut world = World::new(small());
    world.dial();
    world.transmit(End::Client, usize::MAX);
    world.deliver(0, End::Server, usize::MAX);
    world.server.session().abort_with(CloseCode::DENIED, "not you");
    world.drive();
    let ended = world.ended(End::Client).cloned();
    assert!(matches!(ended, Some(Event::GaveUp { error: Some(_), .. })), "{ended:?}");
}

/// S7.7.
#[test]
fn closing_towards_a_restarted_server_ends_both() {
    let mut world = World::connected(small());
    world.send(End::Client, 50);
    world.transmit(End::Client, usize::MAX);
    world.cut(0, 0);
    world.drive();
    world.crash();
    world.close(End::Client, CODE);
    world.dial();
    world.drive();
    assert_eq!(closed(&mut world, End::Client), (CloseCode::ENDED, "done".into(), 1));
    assert_eq!(closed(&mut world, End::Server).0, CloseCode::ENDED);
}

#[test]
fn a_long_reason_is_cut_at_a_character() {
    let mut world = World::connected(small());
    let reason = "ä".repeat(1000);
    let now = world.now;
    world.client.session().close(now, CODE, &reason);
    world.drive();
    assert_eq!(closed(&mut world, End::Server).1, "ä".repeat(512));
}
