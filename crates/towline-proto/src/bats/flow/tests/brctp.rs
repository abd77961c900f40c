//! BRCTP: whatever is lost, every receiver gets what was sent, and "done" is all that is said.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::pair::Pair;
use crate::bats::flow::{Closed, Event, Flow, FlowConfig};
use crate::bats::hop::{Fate, Hop, Packet, Path};
use crate::bats::toy::{Dice, ToyHop, ToyLink, hop};

fn message(number: u64, length: usize) -> Bytes {
    let byte = |i: usize| (i as u64 ^ (i as u64 >> 8) ^ number.wrapping_mul(31)) as u8;
    (0..length).map(byte).collect()
}

#[test]
fn messages_of_any_length_arrive_in_order_whatever_is_lost() {
    for seed in 0..16 {
        let mut dice = Dice::new(seed);
        let loss = [0.0, 0.05, 0.2, 0.4][seed as usize % 4];
        let mut pair = Pair::new(FlowConfig::brctp(), ToyLink::new(50, 20, loss), seed);
        let lengths = [1, 100, 1_500, 40_000, 300_000];
        let mut length = || {
            let most = lengths[dice.below(5) as usize];
            dice.below(most) as usize
        };
        let own: Vec<usize> = (0..12).map(|_| length()).collect();
        let back: Vec<usize> = (0..3).map(|_| length()).collect();
        let end = pair.base + Duration::from_secs(60);
        let (mut sent, mut answered, mut came, mut came_back) = (0, 0, 0, 0);
        while pair.step(end) && !(pair.client.is_closed() && pair.server.is_closed()) {
            let elapsed = pair.elapsed().as_millis() as usize;
            if sent < own.len() && elapsed > sent * 40 {
                pair.client.send(message(sent as u64, own[sent])).unwrap();
                sent += 1;
                if sent == own.len() {
                    pair.client.finish();
                }
            }
            while let Some(data) = pair.server.recv() {
                assert_eq!(data, message(came, own[came as usize]), "seed {seed}: {came}");
                came += 1;
            }
            if answered < back.len() && came as usize >= answered + 2 {
                pair.server.send(message(100 + answered as u64, back[answered])).unwrap();
                answered += 1;
                if answered == back.len() {
                    pair.server.finish();
                }
            }
            while let Some(data) = pair.client.recv() {
                let expected = message(100 + came_back, back[came_back as usize]);
                assert_eq!(data, expected, "seed {seed}: answer {came_back}");
                came_back += 1;
            }
        }
        let (client, server) = (pair.client.stats(), pair.server.stats());
        assert_eq!((came, came_back), (12, 3), "seed {seed}: {client:?} {server:?}");
        for events in [&pair.client_events, &pair.server_events] {
            assert_eq!(events.last(), Some(&Event::Closed(Closed::Finished)), "seed {seed}");
            assert!(events.contains(&Event::AllDataAcknowledged), "seed {seed}");
            assert!(events.contains(&Event::SendComplete), "seed {seed}");
        }
        assert_eq!(server.dropped.malformed + server.restarted, 0, "seed {seed}: {server:?}");
        // "Done" is said for what is done, and not for each packet.
        assert!(server.reports_sent * 10 < server.packets_received + 400, "{server:?}");
    }
}

#[test]
fn one_object_costs_little_more_than_its_losses() {
    for (seed, loss) in [(1, 0.0), (2, 0.1), (3, 0.3)] {
        let mut pair = Pair::new(FlowConfig::brctp(), ToyLink::new(100, 100, loss), seed);
        let object = message(seed, 12_000_000);
        let end = pair.base + Duration::from_secs(30);
        let (mut begun, mut done) = (None, None);
        while done.is_none() && pair.step(end) {
            if begun.is_none() && pair.client_events.contains(&Event::Established) {
                pair.client.send(object.clone()).unwrap();
                begun = Some(pair.now);
            }
            if let Some(data) = pair.server.recv() {
                assert!(data == object, "seed {seed}");
                done = Some(pair.now);
            }
        }
        let took = done.unwrap() - begun.unwrap();
        let carried = 12_000_000.0 * 1506.0 / 1434.0 / (1.0 - loss);
        let least = Duration::from_secs_f64(carried / 12.5e6) + Duration::from_millis(100);
        println!("loss {loss}: {took:?}, at least {least:?}, {:?}", pair.client.stats());
        assert!(took < least.mul_f64(1.05) + Duration::from_millis(20), "seed {seed}: {took:?}");
    }
}

/// Brings packets to several receivers, and takes what any of them says.
struct Fan(Vec<ToyHop>);

impl Hop for Fan {
    fn max_packet(&self) -> usize {
        self.0.iter().map(Hop::max_packet).min().unwrap()
    }

    fn room(&mut self, now: Instant) -> usize {
        self.0.iter_mut().map(|hop| hop.room(now)).min().unwrap()
    }

    fn send(&mut self, now: Instant, packet: Packet) {
        self.0.iter_mut().for_each(|hop| hop.send(now, packet.clone()));
    }

    fn poll_packet(&mut self) -> Option<Bytes> {
        self.0.iter_mut().find_map(Hop::poll_packet)
    }

    fn poll_fate(&mut self) -> Option<Fate> {
        while self.0.iter_mut().any(|hop| hop.poll_fate().is_some()) {}
        None
    }

    fn write_control(&mut self, data: &[u8]) -> usize {
        self.0.iter_mut().for_each(|hop| assert_eq!(hop.write_control(data), data.len()));
        data.len()
    }

    /// They all agree to the same; one says it.
    fn poll_control(&mut self) -> Option<Bytes> {
        self.0.iter_mut().skip(1).for_each(|hop| while hop.poll_control().is_some() {});
        self.0[0].poll_control()
    }

    fn path(&self) -> Path {
        self.0[0].path()
    }
}

struct Cast {
    now: Instant,
    sender: Flow,
    fan: Fan,
    receivers: Vec<(Flow, ToyHop)>,
    events: Vec<Event>,
}

impl Cast {
    fn new(config: FlowConfig, losses: &[f64], seed: u64) -> Cast {
        let now = Instant::now();
        let links = (0..).zip(losses);
        let hops = links.map(|(i, &loss)| hop(ToyLink::new(50, 30, loss), seed * 16 + i, now));
        let (fan, ends): (Vec<ToyHop>, Vec<ToyHop>) = hops.unzip();
        let receiver = |(i, end)| {
            let config = FlowConfig { seed: seed * 16 + i, ..FlowConfig::default() };
            (Flow::server(config, now).unwrap(), end)
        };
        let receivers = (0..).zip(ends).map(receiver).collect();
        let sender = Flow::client(config, now).unwrap();
        Cast { now, sender, fan: Fan(fan), receivers, events: Vec::new() }
    }

    fn step(&mut self, until: Instant) -> bool {
        let wires = self.fan.0.iter().filter_map(|hop| hop.wire.borrow().next(self.now));
        let ends = self.receivers.iter().filter_map(|(flow, _)| flow.poll_timeout());
        let next = wires.chain(ends).chain(self.sender.poll_timeout()).min().unwrap_or(until);
        self.now = next.max(self.now + Duration::from_micros(20)).min(until);
        for hop in &mut self.fan.0 {
            hop.set_now(self.now);
            hop.wire.borrow_mut().advance(self.now);
        }
        self.sender.handle_timeout(self.now);
        self.sender.drive(self.now, &mut self.fan);
        self.events.extend(std::iter::from_fn(|| self.sender.poll_event()));
        for (flow, hop) in &mut self.receivers {
            hop.set_now(self.now);
            flow.handle_timeout(self.now);
            flow.drive(self.now, hop);
            while flow.poll_event().is_some() {}
        }
        self.now < until
    }
}

#[test]
fn several_receivers_get_the_same_whoever_lost_what() {
    for seed in 1..6 {
        let config = FlowConfig { receivers: 4, ..FlowConfig::brctp() };
        let mut cast = Cast::new(config, &[0.0, 0.1, 0.3, 0.02 * seed as f64], seed);
        let end = cast.now + Duration::from_secs(60);
        let mut came = [0; 4];
        let mut sent = 0;
        while !(cast.events.contains(&Event::AllDataAcknowledged) && sent == 5) && cast.step(end) {
            if sent < 5 && cast.events.contains(&Event::Established) {
                cast.sender.send(message(sent, 200_000)).unwrap();
                cast.events.retain(|event| *event == Event::Established);
                sent += 1;
            }
            for ((flow, _), came) in cast.receivers.iter_mut().zip(&mut came) {
                while let Some(data) = flow.recv() {
                    assert!(data == message(*came, 200_000), "seed {seed}: {came}");
                    *came += 1;
                }
            }
        }
        let stats = cast.sender.stats();
        assert_eq!(came, [5; 4], "seed {seed}: {stats:?}");
        assert_eq!((cast.sender.unacknowledged(), stats.receivers_lost), (0, 0), "seed {seed}");
        // What one lost serves the others' losses as well: the worst of them decides, not their sum.
        let symbols = 5.0 * 200_000.0 / 1_432.0;
        assert!((stats.packets_sent as f64) < symbols / 0.7 * 1.35, "seed {seed}: {stats:?}");
    }
}

#[test]
fn receivers_that_never_say_done_are_given_up() {
    let patience = Duration::from_secs(5);
    let config = FlowConfig { receivers: 2, patience, ..FlowConfig::brctp() };
    let mut cast = Cast::new(config, &[0.1, 0.1], 7);
    let end = cast.now + Duration::from_secs(60);
    while !cast.events.contains(&Event::Established) && cast.step(end) {}
    cast.sender.send(message(1, 500_000)).unwrap();
    // The second one falls silent, and hears nothing more either.
    cast.fan.0[1].wire.borrow_mut().link.loss = 1.0;
    while !cast.events.contains(&Event::AllDataAcknowledged) && cast.step(end) {}
    let stats = cast.sender.stats();
    assert_eq!(cast.receivers[0].0.recv(), Some(message(1, 500_000)));
    assert_eq!((stats.receivers_lost, cast.sender.unacknowledged()), (1, 0), "{stats:?}");
    // What went to the silent one is bounded.
    assert!(stats.packets_sent < 4_000, "{stats:?}");
    // Then the other one as well: nobody is left.
    cast.sender.send(message(2, 1_000)).unwrap();
    cast.fan.0[0].wire.borrow_mut().link.loss = 1.0;
    cast.step(cast.now + Duration::from_millis(1));
    while !cast.sender.is_closed() && cast.step(end) {}
    assert_eq!(cast.events.last(), Some(&Event::Closed(Closed::Unanswered)));
    assert!(cast.sender.stats().packets_sent < 5_000, "{:?}", cast.sender.stats());
}

#[test]
fn an_application_that_does_not_read_holds_the_sender_back() {
    let mut pair = Pair::new(FlowConfig::brctp(), ToyLink::new(400, 5, 0.05), 3);
    let end = pair.base + Duration::from_secs(20);
    let mut sent = 0u64;
    while pair.elapsed() < Duration::from_secs(10) {
        pair.step(pair.now + Duration::from_millis(5));
        // Each is a generation of its own, as nothing else waits.
        let established = pair.client_events.contains(&Event::Established);
        if established && sent < 40 && pair.client.unacknowledged() == 0 {
            pair.client.send(message(sent, 5_000)).unwrap();
            sent += 1;
        }
    }
    let stats = pair.server.stats();
    assert!(sent < 40, "{sent} accepted although nobody reads");
    assert_eq!(stats.dropped.beyond_window, 0, "{stats:?}");
    let mut came = 0;
    while came < 40 && pair.now < end {
        pair.step(pair.now + Duration::from_millis(5));
        if sent < 40 && pair.client.unacknowledged() == 0 {
            pair.client.send(message(sent, 5_000)).unwrap();
            sent += 1;
        }
        while let Some(data) = pair.server.recv() {
            assert_eq!(data, message(came, 5_000));
            came += 1;
        }
    }
    assert_eq!(came, 40, "{stats:?}");
}
