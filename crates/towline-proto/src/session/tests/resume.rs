//! Wires that come and go (docs/session.md, section 7).

use std::time::Duration;

use super::super::testing::{Delivered, End, World, small};
use super::super::{CloseCode, Event, Lane, WireError, WireLoss};

/// Messages of every kind in both directions, none of them moved yet.
fn conversation(mut world: World) -> World {
    for (lane, len) in [(0, 8), (2, 20), (2, 600), (3, 2000), (1, 300), (2, 64)] {
        let lane = Lane::new(lane).expect("a lane");
        world.push(End::Client, lane, len, None).expect("accepted");
        world.push(End::Server, lane, len + 1, None).expect("accepted");
    }
    world
}

/// How many octets each side sends when nothing goes wrong.
fn lengths() -> (usize, usize) {
    let mut world = conversation(World::connected(small()));
    let (mut up, mut down) = (0, 0);
    while {
        let (a, b) =
            (world.transmit(End::Client, usize::MAX), world.transmit(End::Server, usize::MAX));
        up += a;
        down += b;
        world.deliver(0, End::Server, usize::MAX);
        world.deliver(0, End::Client, usize::MAX);
        a + b > 0
    } {}
    assert_eq!(world.ledger.pending(End::Client) + world.ledger.pending(End::Server), 0);
    (up, down)
}

fn check(world: &mut World, resumes: u64) {
    world.settle();
    for end in [End::Client, End::Server] {
        assert_eq!(world.ledger.pending(end), 0);
        assert_eq!(world.side(end).delivered, 6, "{end:?}");
        assert_eq!(world.violated(end), None);
        let side = world.side(end);
        let session = side.session.as_ref().expect("there");
        assert!(session.acknowledged().reached(&side.outgoing.accepted()));
    }
    assert_eq!(world.client.session().stats().resumes, resumes);
}

#[test]
fn a_cut_at_any_octet_towards_the_server_loses_and_repeats_nothing() {
    for at in 0..=lengths().0 {
        for direct in [false, true] {
            let mut world = conversation(World::connected(small()));
            world.server.direct = direct;
            world.transmit(End::Client, usize::MAX);
            world.transmit(End::Server, usize::MAX);
            world.deliver(0, End::Server, at);
            world.cut(0, 1 << 20);
            check(&mut world, 1);
        }
    }
}

#[test]
fn a_cut_at_any_octet_towards_the_client_loses_and_repeats_nothing() {
    for at in 0..=lengths().1 {
        let mut world = conversation(World::connected(small()));
        world.client.direct = at % 2 == 0;
        world.transmit(End::Client, usize::MAX);
        world.transmit(End::Server, usize::MAX);
        world.deliver(0, End::Client, at);
        world.cut(1 << 20, 0);
        check(&mut world, 1);
    }
}

#[test]
fn a_cut_at_any_octet_of_a_resumed_wire_loses_and_repeats_nothing() {
    for at in (0..=lengths().0 + 60).step_by(3) {
        let mut world = conversation(World::connected(small()));
        world.transmit(End::Client, 700);
        world.deliver(0, End::Server, 500);
        world.cut(0, 0);
        world.deliver(0, End::Client, 1);
        world.dial();
        // The second wire dies in the middle of its greeting or of what it repeats.
        world.transmit(End::Client, usize::MAX);
        world.deliver(1, End::Server, at.min(60));
        world.transmit(End::Server, usize::MAX);
        world.deliver(1, End::Client, usize::MAX);
        world.transmit(End::Client, usize::MAX);
        world.deliver(1, End::Server, at.saturating_sub(60));
        world.cut(0, at % 40);
        world.settle();
        let resumes = world.client.session().stats().resumes;
        assert!((1..=2).contains(&resumes));
        check(&mut world, resumes);
    }
}

/// Moves octets in pieces of that size until nothing moves.
fn trickle(world: &mut World, size: usize) {
    for _ in 0..20_000 {
        world.transmit(End::Client, usize::MAX);
        world.transmit(End::Server, usize::MAX);
        let up = world.deliver(0, End::Server, size);
        let down = world.deliver(0, End::Client, size);
        if (up, down) == (Delivered::Nothing, Delivered::Nothing) {
            return;
        }
    }
    panic!("it never ends");
}

#[test]
fn any_chunking_delivers_the_same() {
    let sizes = (1..100).chain([500, 1000, 2000, 5000]);
    for size in sizes {
        for direct in [false, true] {
            let mut world = World::new(small());
            (world.client.direct, world.server.direct) = (direct, direct);
            world.dial();
            trickle(&mut world, size);
            let mut world = conversation(world);
            trickle(&mut world, size);
            check(&mut world, 0);
        }
    }
}

/// S7.3.
#[test]
fn a_wire_replaces_one_whose_loss_the_server_has_not_noticed() {
    let mut world = conversation(World::connected(small()));
    world.transmit(End::Server, usize::MAX);
    world.wires[0].hole = true;
    world.dial();
    world.drive();
    check(&mut world, 1);
    assert_eq!(world.server.session().attempt(), 2);
    assert_eq!(world.server.session().stats().wires_lost, 0);
}

/// S7.4.
#[test]
fn the_late_loss_of_a_replaced_wire_changes_nothing() {
    let mut world = World::connected(small());
    world.dial();
    world.drive();
    let now = world.now;
    for end in [End::Client, End::Server] {
        world.side(end).session().handle_lost(now, WireLoss { attempt: 1 });
        assert!(world.side(end).session().is_established());
        world.side(end).session().handle_lost(now, WireLoss { attempt: 2 });
        assert!(world.side(end).session().is_down());
    }
}

/// S7.3.
#[test]
fn an_old_greeting_that_arrives_late_is_refused() {
    let mut world = World::new(small());
    world.dial();
    world.transmit(End::Client, usize::MAX);
    world.dial();
    world.transmit(End::Client, usize::MAX);
    world.deliver(1, End::Server, usize::MAX);
    world.deliver(0, End::Server, usize::MAX);
    assert_eq!(world.refusals.len(), 1);
    assert_eq!(world.refusals[0].code, CloseCode::STALE);
    world.drive();
    assert!(world.client.session().is_established());
    assert_eq!(world.server.session().attempt(), 2);
}

#[test]
fn a_lost_welcome_is_repeated_and_messages_sent_behind_it_arrive_once() {
    for kept in 0..30 {
        let mut world = World::new(small());
        world.dial();
        world.transmit(End::Client, usize::MAX);
        world.deliver(0, End::Server, usize::MAX);
        for _ in 0..5 {
            world.send(End::Server, 50);
        }
        world.transmit(End::Server, usize::MAX);
        world.cut(0, kept);
        world.settle();
        world.drive();
        assert_eq!((world.client.delivered, world.ledger.pending(End::Server)), (5, 0));
        assert_eq!(world.client.session().stats().resets, 0);
    }
}

/// S7.7.
#[test]
fn a_restarted_server_gives_everything_unacknowledged_back_and_the_session_goes_on() {
    let mut world = World::connected(small());
    world.send(End::Client, 10);
    world.settle();
    world.push(End::Client, Lane::BULK, 3000, None).expect("accepted");
    world.send(End::Client, 20);
    world.transmit(End::Client, usize::MAX);
    world.deliver(0, End::Server, usize::MAX);
    world.crash();
    world.drive();
    assert!(world.client.session().is_down());
    world.send(End::Client, 30);
    world.transmit(End::Client, usize::MAX);
    world.dial();
    world.drive();
    let back = world.client.events.iter().find_map(|event| match event {
        Event::Reset { unacknowledged } => {
            Some(unacknowledged.iter().map(|m| m.data.len()).collect::<Vec<_>>())
        }
        _ => None,
    });
    assert_eq!(back, Some(vec![20, 30, 3000]));
    assert_eq!(world.client.events.last(), Some(&Event::Established { resumed: false }));
    let (session, outgoing) =
        (world.client.session.as_ref().expect("there"), &world.client.outgoing);
    assert!(session.acknowledged().reached(&outgoing.accepted()), "given back counts as settled");
    world.send(End::Client, 40);
    world.send(End::Server, 50);
    world.settle();
    assert_eq!((world.client.delivered, world.server.delivered), (1, 1));
}

/// S7.7: two restarts, and the WELCOME of the first new one lost.
#[test]
fn positions_of_an_earlier_epoch_are_never_taken_for_those_of_a_later() {
    let mut world = World::connected(small());
    for _ in 0..3 {
        world.send(End::Client, 100);
        world.send(End::Server, 100);
    }
    world.settle();
    world.crash();
    world.drive();
    world.dial();
    world.transmit(End::Client, usize::MAX);
    world.deliver(1, End::Server, usize::MAX);
    world.send(End::Server, 77);
    world.transmit(End::Server, usize::MAX);
    world.cut(0, 0);
    world.drive();
    world.dial();
    world.drive();
    world.settle();
    assert_eq!(world.client.delivered, 4);
    assert_eq!(world.ledger.pending(End::Server), 0);
    assert_eq!(world.client.session().stats().resets, 1);
    assert_eq!(world.violated(End::Client), None);
}

/// S7.9.
#[test]
fn both_sides_give_up_when_the_window_is_over_and_give_back_what_is_left() {
    let mut world = World::connected(small());
    world.send(End::Client, 100);
    world.send(End::Server, 200);
    world.transmit(End::Client, usize::MAX);
    world.transmit(End::Server, usize::MAX);
    world.cut(0, 0);
    world.drive();
    world.advance(Duration::from_millis(59_999));
    assert!(world.client.session().is_down() && world.server.session().is_down());
    world.advance(Duration::from_millis(1));
    for (end, len) in [(End::Client, 100), (End::Server, 200)] {
        let Some(Event::GaveUp { error: None, unacknowledged }) = world.ended(end) else {
            panic!("{end:?}")
        };
        assert_eq!(
            unacknowledged.iter().map(|message| message.data.len()).collect::<Vec<_>>(),
            [len]
        );
        assert!(world.side(end).session().poll_timeout().is_none());
    }
}

/// S7.2.
#[test]
fn a_peer_that_breaks_the_rules_again_and_again_is_given_up() {
    let mut world = World::connected(small());
    world.send(End::Client, 10);
    let mut wires = 0;
    while world.ended(End::Client).is_none() {
        world.inject(End::Client, &[0xe0, 0]);
        world.transmit(End::Client, usize::MAX);
        world.drive();
        if world.client.session().is_down() {
            world.dial();
            // The WELCOME only, so that nothing moves.
            world.transmit(End::Client, usize::MAX);
            world.deliver(wires + 1, End::Server, usize::MAX);
            world.transmit(End::Server, usize::MAX);
            world.deliver(wires + 1, End::Client, usize::MAX);
        }
        wires += 1;
        assert!(wires < 20);
    }
    assert_eq!(wires, 8);
    let ended = world.ended(End::Client).cloned();
    assert!(
        matches!(ended, Some(Event::GaveUp { error: Some(WireError::Violation(_)), .. })),
        "{ended:?}"
    );
}

#[test]
fn window_returned_between_hello_and_welcome_is_told() {
    let mut world = World::connected(small());
    world.consume = false;
    for _ in 0..60 {
        world.send(End::Server, 100);
    }
    world.drive();
    assert!(world.ledger.pending(End::Server) > 0, "the window is used up");
    world.dial();
    world.transmit(End::Client, usize::MAX);
    world.deliver(1, End::Server, usize::MAX);
    world.client.consume(usize::MAX);
    world.consume = true;
    world.settle();
    assert_eq!(world.ledger.pending(End::Server), 0);
}

#[test]
fn every_message_of_a_deep_queue_crosses_after_a_resume() {
    let mut world = World::connected(super::super::Config::default());
    for _ in 0..10_000 {
        world.send(End::Client, 1024);
    }
    world.transmit(End::Client, usize::MAX);
    world.cut(100_000, 0);
    world.settle();
    assert_eq!(world.server.delivered, 10_000);
}
