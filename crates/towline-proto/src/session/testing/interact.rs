//! Arbitrary interactions, driven by octets: random tests feed random ones, fuzzing feeds its own.

use std::time::Duration;

use bytes::Bytes;

use super::super::{CloseCode, Config, Event, Handshake, Lane, MessageId, Session};
use super::{Delivered, End, World, small};

/// Decisions out of octets; zero when they are used up.
#[derive(Debug)]
struct Choices<'a>(&'a [u8]);

impl Choices<'_> {
    fn next(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn below(&mut self, bound: usize) -> usize {
        (usize::from(self.next()) << 8 | usize::from(self.next())) % bound.max(1)
    }

    fn one_in(&mut self, count: u8) -> bool {
        self.next().is_multiple_of(count)
    }

    fn end(&mut self) -> End {
        if self.next() & 1 == 0 { End::Client } else { End::Server }
    }
}

fn config(choices: &mut Choices<'_>) -> Config {
    let mut config = small();
    config.limits.fragment = [64, 100, 256, 1024][choices.below(4)];
    config.window = [2048, 4096, 16_384][choices.below(3)];
    config.ack_bytes = config.window / 8;
    config.limits.max_messages = [4, 40, 4000][choices.below(3)];
    config
}

/// Runs two ends through whatever `data` says, then lets them come to rest, and checks all along that what
/// arrives is what was accepted, in order, once, and that nothing is lost without being given back.
///
/// # Panics
/// When it is not so.
pub fn interact(data: &[u8]) {
    let mut choices = Choices(data);
    let mut world = World::with(config(&mut choices), config(&mut choices));
    world.consume = choices.next() & 3 != 0;
    world.client.direct = choices.next() & 1 == 0;
    world.server.direct = choices.next() & 1 == 0;
    world.dial();
    while !choices.0.is_empty() {
        act(&mut world, &mut choices);
        if world.client.session().is_ended() {
            break;
        }
    }
    rest(&mut world, choices.next());
}

fn act(world: &mut World, choices: &mut Choices<'_>) {
    let wires = world.wires.len();
    match choices.next() % 32 {
        0..=6 => {
            let (end, lane) = (choices.end(), Lane::ALL[choices.below(4)]);
            let len = match choices.next() % 8 {
                0..=4 => choices.below(80),
                5 | 6 => choices.below(1500),
                _ => choices.below(12_000),
            };
            let reply_to = MessageId::new(choices.below(3) as u64);
            for _ in 0..choices.next() % 4 {
                // Full is fine; the ledger knows only what was accepted.
                let _ = world.push(end, lane, len, reply_to);
            }
        }
        7..=12 => {
            let (end, max) = (choices.end(), choices.below(4096));
            world.transmit(end, max);
        }
        13..=20 => {
            let back = if choices.one_in(8) { choices.below(wires) } else { 0 };
            let most = [3, 60, 1000, 9000][choices.below(4)];
            let (to, max) = (choices.end(), 1 + choices.below(most));
            world.deliver((wires - 1).saturating_sub(back), to, max);
        }
        21 => {
            let (up, down) = (choices.below(2000), choices.below(2000));
            world.cut(up, down);
        }
        22 => {
            if let Some(wire) = world.wires.last_mut() {
                wire.hole = true;
            }
        }
        23 => {
            world.dial();
        }
        24 | 25 => {
            if world.client.session().is_down() {
                world.dial();
            }
        }
        26 => world.advance(Duration::from_millis(choices.below(60) as u64)),
        27 => {
            let seconds = if choices.one_in(16) { choices.below(80) } else { choices.below(12) };
            world.advance(Duration::from_secs(seconds as u64));
        }
        28 => {
            let (end, count) = (choices.end(), choices.below(20));
            world.side(end).consume(count);
        }
        29 => {
            let end = choices.end();
            if let Some(session) = &mut world.side(end).session {
                session.request_acknowledgement();
            }
        }
        30 if choices.one_in(8) => world.crash(),
        31 if choices.one_in(16) => {
            let end = choices.end();
            world.close(end, CloseCode(1000));
        }
        _ => {
            world.step();
        }
    }
    let end = choices.end();
    if world.side(end).session.as_ref().is_some_and(|session| session.is_ended())
        && end == End::Server
    {
        world.events(end);
    }
}

/// A good wire from now on: everything that is left is delivered, or came back.
fn rest(world: &mut World, how: u8) {
    world.consume = true;
    for _ in 0..100 {
        if world.client.session().is_ended() {
            break;
        }
        for end in [End::Client, End::Server] {
            world.side(end).consume(usize::MAX);
        }
        let good = world.wires.last().is_some_and(|wire| !wire.cut && !wire.hole);
        if world.client.session().is_down() || !good {
            world.dial();
        }
        world.drive();
        let idle = |world: &mut World, end| {
            let side = world.side(end);
            let idle =
                |session: &Session| session.is_established() && session.unacknowledged() == (0, 0);
            side.session.as_ref().is_some_and(idle)
        };
        let closing = world.client.outgoing.is_closed() || world.server.outgoing.is_closed();
        if idle(world, End::Client) && idle(world, End::Server) && !closing {
            break;
        }
        world.advance(Duration::from_millis(50));
    }
    check_rest(world);
    if how & 1 == 0 && !world.client.session().is_ended() {
        let end = if how & 2 == 0 { End::Client } else { End::Server };
        world.close(end, CloseCode(7));
        world.drive();
        for end in [End::Client, End::Server] {
            let Some(Event::Closed { code, unacknowledged, .. }) = world.ended(end) else {
                panic!("{end:?} did not close: {:?}", world.side(end).events)
            };
            assert!(*code == CloseCode(7) && unacknowledged.is_empty());
        }
    }
}

fn check_rest(world: &mut World) {
    if world.client.session().is_ended() {
        assert_eq!(world.ledger.pending(End::Client), world.ledger.queued(End::Client));
        return;
    }
    for end in [End::Client, End::Server] {
        let pending = world.ledger.pending(end);
        assert_eq!(pending, 0, "{end:?}: something was never delivered: {}", world.summary());
        let side = world.side(end);
        let session = side.session.as_ref().expect("both ends are there");
        assert!(
            session.is_established() && session.unacknowledged() == (0, 0),
            "{end:?} never came to rest: {session:#?}"
        );
        assert!(
            session.acknowledged().reached(&side.outgoing.accepted()),
            "flush would not return"
        );
        let violation = world.violated(end);
        assert_eq!(violation, None, "two honest ends");
    }
}

/// Arbitrary octets as a greeting, and as input behind a good greeting, in pieces: any outcome but a panic.
pub fn session_frames(data: &[u8]) {
    let mut handshake = Handshake::new();
    for piece in data.chunks(7) {
        match handshake.handle_input(Bytes::copy_from_slice(piece)) {
            Ok(None) => {}
            Ok(Some(_)) | Err(_) => break,
        }
    }
    for end in [End::Client, End::Server] {
        for piece in [1, 5, 4096] {
            let mut world = World::connected(small());
            world.ledger.trusting = false;
            for octets in data.chunks(piece) {
                world.inject(end, octets);
                let _: usize = world.transmit(end, usize::MAX);
            }
            let _: Delivered = world.deliver(0, end, 1);
        }
        let mut world = World::new(small());
        world.ledger.trusting = false;
        world.dial();
        world.transmit(End::Client, usize::MAX);
        world.inject(End::Client, data);
    }
}
