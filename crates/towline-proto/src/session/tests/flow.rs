//! Windows, queues, lanes, fragments (docs/session.md, sections 4 to 6).

use std::time::Duration;

use bytes::Bytes;

use super::super::testing::{Delivered, End, World, small};
use super::super::{
    Config, Event, FRAME_CHARGE, Lane, MAX_FRAGMENT, MessageId, Outgoing, Payload, SendError,
};

/// S5.2.
#[test]
fn nothing_is_sent_beyond_the_window_and_consumption_opens_it() {
    let mut world = World::connected(small());
    world.consume = false;
    for _ in 0..100 {
        world.send(End::Client, 100);
    }
    world.drive();
    world.advance(Duration::from_secs(1));
    world.drive();
    let held: u64 = world.server.unconsumed.iter().map(|(_, cost)| cost).sum();
    assert!(held <= 4096 && held > 3600, "{held} of 4096 are held");
    assert_eq!(world.violated(End::Server), None);
    while world.ledger.pending(End::Client) > 0 {
        let before = world.server.delivered;
        world.server.consume(20);
        world.drive();
        assert!(world.server.delivered > before, "consumption moves the sender");
    }
}

/// S5.6: the memory of an unfinished message is bounded by max_message, not by the window.
#[test]
fn a_message_larger_than_the_window_crosses_it() {
    for direct in [false, true] {
        let mut world = World::connected(small());
        world.server.direct = direct;
        world.consume = false;
        world.send(End::Client, 100_000);
        for _ in 0..200 {
            world.send(End::Client, 100);
        }
        world.drive();
        world.advance(Duration::from_secs(1));
        world.drive();
        let delivered = world.server.delivered;
        assert!(
            (1..40).contains(&delivered),
            "{delivered}: no more until the large one is consumed"
        );
        world.consume = true;
        world.server.consume(usize::MAX);
        world.settle();
        assert_eq!(world.server.delivered, 201);
    }
}

/// S6.1.
#[test]
fn an_urgent_message_overtakes_a_large_one_at_the_next_fragment() {
    let mut world = World::connected(Config::default());
    world.push(End::Client, Lane::BULK, 8 << 20, None).expect("accepted");
    world.transmit(End::Client, 100_000);
    world.push(End::Client, Lane::URGENT, 10, None).expect("accepted");
    world.drive();
    let lanes: Vec<Lane> = world.server.recent.iter().map(|message| message.lane).collect();
    assert_eq!(lanes, [Lane::URGENT, Lane::BULK]);
}

/// S6.1.
#[test]
fn a_less_urgent_lane_is_not_starved() {
    let mut config = Config::default();
    config.limits.fragment = 1024;
    config.window = 64 << 20;
    config.ack_bytes = 16 << 20;
    let mut world = World::connected(config);
    for _ in 0..2000 {
        for lane in Lane::ALL {
            // Each is a run of its own.
            world.push(End::Client, lane, 1024, None).expect("accepted");
        }
    }
    let mut out = Vec::new();
    let now = world.now;
    let session = world.client.session.as_mut().expect("there");
    session.enqueue(now, &mut world.client.outgoing);
    let mut counts = [0; 4];
    for _ in 0..400 {
        out.clear();
        session.poll_transmit(now, 1, &mut out);
        counts[usize::from(out[0][0] & 7)] += 1;
    }
    assert!(counts[0] >= 300, "{counts:?}");
    for lane in 1..4 {
        assert!((15..=25).contains(&counts[lane]), "lane {lane} of {counts:?}");
    }
}

#[test]
fn a_full_queue_refuses_on_its_lane_only_and_takes_again_after_an_acknowledgement() {
    let mut config = small();
    config.limits.max_bytes = 1000;
    let mut world = World::connected(config);
    let mut accepted = 0;
    let refused = loop {
        match world.push(End::Client, Lane::BULK, 300, None) {
            Ok(_) => accepted += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(
        (accepted, refused),
        (3, SendError::Full { lane: Lane::BULK, bytes: 900, messages: 3 })
    );
    world.push(End::Client, Lane::URGENT, 300, None).expect("another lane has room");
    world.transmit(End::Client, usize::MAX);
    assert!(world.client.outgoing.is_full(Lane::BULK, 300), "what the session holds counts");
    world.settle();
    world.transmit(End::Client, usize::MAX);
    world.push(End::Client, Lane::BULK, 300, None).expect("room again");
}

#[test]
fn a_message_above_the_byte_limit_is_taken_when_the_lane_is_empty() {
    let mut config = small();
    config.limits.max_bytes = 1000;
    let mut outgoing = Outgoing::new(&config.limits);
    let large = [0; 5000];
    outgoing.push(Lane::NORMAL, None, None, Payload::Slice(&large)).expect("alone");
    assert!(outgoing.is_full(Lane::NORMAL, 0));
}

#[test]
fn messages_are_counted_as_well_as_octets() {
    let mut config = small();
    config.limits.max_messages = 2;
    let mut outgoing = Outgoing::new(&config.limits);
    for _ in 0..2 {
        outgoing.push(Lane::NORMAL, None, None, Payload::Slice(b"")).expect("room");
    }
    let refused = outgoing.push(Lane::NORMAL, None, None, Payload::Slice(b""));
    assert_eq!(refused, Err(SendError::Full { lane: Lane::NORMAL, bytes: 0, messages: 2 }));
    assert_eq!((outgoing.bytes(), outgoing.messages()), (0, 2));
}

#[test]
fn ids_are_counted_or_taken_as_given() {
    let mut world = World::connected(small());
    let mut sent = Vec::new();
    for (id, reply) in [
        (None, None),
        (Some(900), Some(3)),
        (None, Some(900)),
        (Some(1), None),
        (Some(1 << 61), None),
        (None, None),
    ] {
        let (id, reply_to) = (id.and_then(MessageId::new), reply.and_then(MessageId::new));
        let outgoing = &mut world.client.outgoing;
        sent.push((
            outgoing.push(Lane::HIGH, id, reply_to, Payload::Slice(b"")).expect("room"),
            reply_to,
        ));
    }
    assert_eq!(
        sent.iter().map(|(id, _)| id.value()).collect::<Vec<_>>(),
        [1, 900, 2, 1, 1 << 61, 3]
    );
    world.ledger.trusting = false;
    world.settle();
    let seen: Vec<_> =
        world.server.recent.iter().map(|message| (message.id, message.reply_to)).collect();
    assert_eq!(seen, sent);
}

/// S4.5.
#[test]
fn what_is_too_large_for_the_peer_comes_back_and_the_rest_is_sent() {
    let (mut client, mut server) = (Config::default(), Config::default());
    client.limits.max_message = 1 << 20;
    server.max_message = 64 << 10;
    client.limits.fragment = MAX_FRAGMENT;
    for fragment in [10_000, 64 << 10, MAX_FRAGMENT] {
        client.limits.fragment = fragment;
        let mut world = World::with(client.clone(), server.clone());
        for len in [10, 200_000, 65_536, 20, 65_537, 30, 1 << 20] {
            world.send(End::Client, len);
        }
        world.transmit(End::Client, usize::MAX);
        world.dial();
        world.settle();
        let back: Vec<usize> = world
            .client
            .events
            .iter()
            .find_map(|event| match event {
                Event::TooLargeForPeer { max: 65_536, messages } => {
                    Some(messages.iter().map(|m| m.data.len()).collect())
                }
                _ => None,
            })
            .expect("told");
        assert_eq!(back, [200_000, 65_537, 1 << 20]);
        assert_eq!(world.server.delivered, 4);
        let (session, outgoing) =
            (world.client.session.as_ref().expect("there"), &world.client.outgoing);
        assert!(session.acknowledged().reached(&outgoing.accepted()), "flush returns");
        assert_eq!(session.unacknowledged(), (0, 0));
        let refused = world.push(End::Client, Lane::NORMAL, 65_537, None);
        assert_eq!(refused, Err(SendError::TooLarge { len: 65_537, max: 65_536 }));
    }
}

/// S4.2 at every size around the boundaries.
#[test]
fn every_size_around_the_fragment_crosses_by_slice_and_by_reference() {
    let mut config = Config::default();
    config.limits.fragment = 4096;
    for len in [
        0, 1, 63, 64, 65, 2047, 2048, 2049, 4095, 4096, 4097, 8191, 8192, 8193, 12_288, 12_289,
        300_000,
    ] {
        let data: Vec<u8> = (0..len).map(|at| at as u8).collect();
        for payload in [Payload::Slice(&data), Payload::Bytes(Bytes::from(data.clone()))] {
            let mut world = World::connected(config.clone());
            world.ledger.trusting = false;
            world.client.outgoing.push(Lane::NORMAL, None, None, payload.clone()).expect("room");
            world.client.outgoing.push(Lane::NORMAL, None, None, payload).expect("room");
            world.settle();
            let seen: Vec<_> =
                world.server.recent.iter().map(|message| &message.data[..]).collect();
            assert_eq!(seen, [&data[..], &data[..]], "{len}");
            for message in world.server.recent.clone() {
                let outgoing = &mut world.client.outgoing;
                outgoing
                    .push(Lane::HIGH, Some(message.id), None, message.data.into())
                    .expect("room");
            }
            let back = world.client.outgoing.take();
            assert!(
                back.len() == 2 && back.iter().all(|message| message.data == data),
                "{len}: taken out again"
            );
            assert!(world.client.outgoing.is_empty());
        }
    }
}

/// S5.5.
#[test]
fn a_lone_message_is_acknowledged_after_the_delay_by_an_acknowledgement_alone() {
    let mut world = World::connected(small());
    world.send(End::Client, 100);
    world.drive();
    assert_eq!(world.client.session().unacknowledged(), (100, 1));
    assert_eq!(world.transmit(End::Server, usize::MAX), 0);
    world.advance(Duration::from_millis(20));
    let sent = world.transmit(End::Server, usize::MAX);
    assert!((1..20).contains(&sent));
    world.drive();
    assert_eq!(world.client.session().unacknowledged(), (0, 0));
    assert_eq!(world.ledger.sums(End::Client), (100, 1));
}

/// S5.5.
#[test]
fn an_answer_carries_the_acknowledgement() {
    let mut world = World::connected(small());
    world.advance(Duration::from_secs(1));
    world.send(End::Client, 100);
    world.transmit(End::Client, usize::MAX);
    world.deliver(0, End::Server, usize::MAX);
    world.send(End::Server, 100);
    world.transmit(End::Server, usize::MAX);
    world.deliver(0, End::Client, usize::MAX);
    assert_eq!(world.client.session().unacknowledged(), (0, 0));
}

/// S7.8.
#[test]
fn an_acknowledgement_that_is_asked_for_comes_at_once() {
    let mut world = World::connected(small());
    world.send(End::Client, 100);
    world.client.session().request_acknowledgement();
    world.drive();
    assert_eq!(world.client.session().unacknowledged(), (0, 0));
    assert_eq!(world.client.session().rtt(), Some(Duration::ZERO));
}

#[test]
fn flush_is_exact() {
    let mut world = World::connected(small());
    let mut goals = Vec::new();
    for len in [10, 3000, 20, 700] {
        world
            .push(End::Client, if len > 100 { Lane::BULK } else { Lane::HIGH }, len, None)
            .expect("room");
        goals.push((world.client.outgoing.accepted(), len));
    }
    assert_eq!(world.client.outgoing.accepted().0[1], 10 + 20 + 3 + 3 + 2 * FRAME_CHARGE);
    for _ in 0..10_000 {
        world.transmit(End::Client, 1);
        world.deliver(0, End::Server, 40);
        world.server.session().request_acknowledgement();
        world.transmit(End::Server, usize::MAX);
        world.deliver(0, End::Client, usize::MAX);
        world.advance(Duration::from_millis(20));
        world.transmit(End::Server, usize::MAX);
        world.deliver(0, End::Client, usize::MAX);
        let reached = goals.iter().filter(|(goal, _)| {
            world.client.session.as_ref().expect("there").acknowledged().reached(goal)
        });
        assert!(reached.count() <= world.server.delivered, "flush never returns too early");
        if world.ledger.pending(End::Client) == 0
            && world.client.session().unacknowledged() == (0, 0)
        {
            let all = world.client.session().acknowledged();
            return assert!(goals.iter().all(|(goal, _)| all.reached(goal)));
        }
    }
    panic!("not all was acknowledged");
}

#[test]
fn a_direct_read_may_stop_at_any_octet() {
    let mut config = Config::default();
    config.limits.fragment = 20_000;
    for step in [1usize, 999, 5000, 19_999, 20_000] {
        let mut world = World::connected(config.clone());
        world.server.direct = true;
        world.send(End::Client, 50_000);
        world.transmit(End::Client, usize::MAX);
        let mut direct = 0;
        while world.deliver(0, End::Server, step) != Delivered::Nothing {
            let now = world.now;
            let session = world.server.session();
            if let Some(lent) = session.direct() {
                assert!(session.direct().is_none(), "lent once");
                session.handle_direct(now, lent.buffer);
                direct += 1;
            }
        }
        assert_eq!(world.server.delivered, 1);
        assert!(direct > 0 || step > 5000);
    }
}

#[test]
fn a_buffer_that_never_comes_back_costs_only_what_was_under_way() {
    let mut config = Config::default();
    config.limits.fragment = 20_000;
    let mut world = World::connected(config);
    world.send(End::Client, 100_000);
    world.transmit(End::Client, usize::MAX);
    world.deliver(0, End::Server, 50_000);
    let lent = world.server.session().direct().expect("inside the third fragment");
    world.cut(0, 0);
    world.deliver(0, End::Server, 1);
    world.deliver(0, End::Client, 1);
    let now = world.now;
    world.server.session().handle_direct(now, lent.buffer);
    world.server.direct = true;
    world.settle();
    assert_eq!(world.server.delivered, 1);
    let resent = world.client.session().stats().bytes_resent;
    assert!((60_000..61_000).contains(&resent), "{resent}: two whole fragments were kept");
}

#[test]
fn large_payloads_are_handed_out_by_reference() {
    for len in [64 << 10, 1 << 20] {
        let mut world = World::connected(Config::default());
        let data = Bytes::from(vec![3; len]);
        world.client.outgoing.push(Lane::NORMAL, None, None, data.clone().into()).expect("room");
        let now = world.now;
        let session = world.client.session.as_mut().expect("there");
        session.enqueue(now, &mut world.client.outgoing);
        let mut out = Vec::new();
        session.poll_transmit(now, usize::MAX, &mut out);
        let whole = data.as_ptr() as usize..data.as_ptr() as usize + len;
        let shared: usize = out
            .iter()
            .filter(|part| whole.contains(&(part.as_ptr() as usize)))
            .map(Bytes::len)
            .sum();
        assert_eq!(shared, len);
    }
}

#[test]
fn small_payloads_are_slices_of_the_input() {
    let mut world = World::connected(Config::default());
    world.client.outgoing.push(Lane::NORMAL, None, None, Payload::Slice(&[9; 100])).expect("room");
    world.transmit(End::Client, usize::MAX);
    let input: Bytes = world.wires[0].up.drain(..).collect::<Vec<u8>>().into();
    let range = input.as_ptr() as usize..input.as_ptr() as usize + input.len();
    let now = world.now;
    world.server.session().handle_input(now, input.clone());
    let Some(Event::Message(message)) = world.server.session().poll_event() else {
        panic!("a message")
    };
    assert!(range.contains(&(message.data.as_ptr() as usize)));
}

/// Read as the drivers read: pooled buffers of 64 KiB, or straight into what is lent and little beyond it. Fragments of
/// 64 KiB and ten octets once went in step with the pooled reads, so that nothing was ever lent and everything copied.
#[test]
fn long_messages_are_read_directly_however_reads_and_fragments_fall() {
    const POOLED: usize = 64 << 10;
    const BEYOND: usize = 4 << 10;
    for offset in [0, 1, 10, 4096, 40_000] {
        let mut world = World::connected(Config::default());
        for _ in 0..3 {
            world.send(End::Client, 1 << 20);
        }
        world.transmit(End::Client, usize::MAX);
        let mut input: Bytes = world.wires[0].up.drain(..).collect::<Vec<u8>>().into();
        let now = world.now;
        let session = world.server.session();
        let (total, mut direct, mut messages) = (input.len(), 0, 0);
        session.handle_input(now, input.split_to(offset));
        while !input.is_empty() {
            while let Some(event) = session.poll_event() {
                messages += usize::from(matches!(event, Event::Message(_)));
            }
            let mut room = POOLED;
            if let Some(mut lent) = session.direct() {
                let part = input.split_to(lent.want.min(input.len()));
                lent.buffer.extend_from_slice(&part);
                direct += part.len();
                session.handle_direct(now, lent.buffer);
                room = BEYOND;
            }
            session.handle_input(now, input.split_to(room.min(input.len())));
        }
        while let Some(event) = session.poll_event() {
            messages += usize::from(matches!(event, Event::Message(_)));
        }
        assert_eq!(messages, 3);
        assert!(direct > total / 10 * 9, "{direct} of {total} octets, after {offset}");
    }
}
