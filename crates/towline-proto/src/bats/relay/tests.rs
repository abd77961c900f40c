//! Flows over chains of toy hops, with relays between.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{RelayConfig, RelayFlow};
use crate::bats::flow::{Closed, Event, Flow, FlowConfig, Framing, Mode};
use crate::bats::seal::Seal;
use crate::bats::toy::{Dice, ToyHop, ToyLink, hop};
use crate::tls::Config as TlsConfig;

/// Bytes that tell where they belong.
fn pattern(offset: u64, length: usize) -> Bytes {
    (offset..offset + length as u64).map(|i| (i ^ (i >> 8) ^ (i >> 16)) as u8).collect()
}

struct Chain {
    base: Instant,
    now: Instant,
    client: Flow,
    relays: Vec<RelayFlow>,
    server: Flow,
    hops: Vec<(ToyHop, ToyHop)>,
    client_events: Vec<Event>,
    server_events: Vec<Event>,
}

impl Chain {
    fn new(config: FlowConfig, links: &[ToyLink], seed: u64) -> Chain {
        let base = Instant::now();
        let relay =
            |seed| RelayFlow::new(RelayConfig { seed, ..RelayConfig::default() }, base).unwrap();
        let server = FlowConfig { seed: seed + 99, ..FlowConfig::default() };
        Chain {
            base,
            now: base,
            client: Flow::client(FlowConfig { relayed: true, seed, ..config }, base).unwrap(),
            relays: (1..links.len() as u64).map(|i| relay(seed + i)).collect(),
            server: Flow::server(server, base).unwrap(),
            hops: (0..).zip(links).map(|(i, &link)| hop(link, seed * 31 + i, base)).collect(),
            client_events: Vec::new(),
            server_events: Vec::new(),
        }
    }

    fn drive(&mut self) {
        for (a, b) in &mut self.hops {
            a.set_now(self.now);
            b.set_now(self.now);
            a.wire.borrow_mut().advance(self.now);
        }
        self.client.handle_timeout(self.now);
        self.client.drive(self.now, &mut self.hops[0].0);
        for (i, relay) in self.relays.iter_mut().enumerate() {
            let [up, down] = &mut self.hops[i..i + 2] else { panic!("two hops") };
            relay.drive(self.now, &mut up.1, &mut down.0);
        }
        self.server.handle_timeout(self.now);
        self.server.drive(self.now, &mut self.hops.last_mut().unwrap().1);
        self.client_events.extend(std::iter::from_fn(|| self.client.poll_event()));
        self.server_events.extend(std::iter::from_fn(|| self.server.poll_event()));
    }

    fn step(&mut self, until: Instant) -> bool {
        let wires = self.hops.iter().filter_map(|(a, _)| a.wire.borrow().next(self.now));
        let relays = self.relays.iter().filter_map(RelayFlow::poll_timeout);
        let ends = [self.client.poll_timeout(), self.server.poll_timeout()];
        let next = wires.chain(relays).chain(ends.into_iter().flatten()).min().unwrap_or(until);
        self.now = next.max(self.now + Duration::from_micros(20)).min(until);
        self.drive();
        self.now < until
    }
}

/// Sends without pause; goodput in Mb/s after the first quarter.
fn bulk(config: FlowConfig, links: &[ToyLink], seconds: u64, seed: u64) -> f64 {
    let mut chain = Chain::new(config, links, seed);
    let end = chain.base + Duration::from_secs(seconds);
    let steady = chain.base + Duration::from_millis(seconds * 250);
    let (mut sent, mut received, mut early) = (0u64, 0u64, 0);
    loop {
        while chain.client.is_writable() {
            let mut data = pattern(sent, 64 * 1024);
            sent += chain.client.write_bytes(&mut data).unwrap() as u64;
        }
        let more = chain.step(end);
        while let Some(data) = chain.server.read() {
            assert_eq!(data, pattern(received, data.len()), "seed {seed} at {received}");
            received += data.len() as u64;
        }
        if chain.now < steady {
            early = received;
        }
        if !more {
            break;
        }
    }
    println!("seed {seed}: {:?} {:?}", chain.client.stats(), chain.server.stats());
    chain.relays.iter().for_each(|relay| println!("  {:?}", relay.stats()[0]));
    (received - early) as f64 * 8e-6 / (seconds as f64 * 0.75)
}

#[test]
fn with_hop_feedback_a_chain_delivers_what_its_worst_hop_does() {
    for (seed, hops, loss) in [(1, 2, 0.0), (2, 3, 0.05), (3, 6, 0.05)] {
        let goodput = bulk(FlowConfig::default(), &vec![ToyLink::new(10, 10, loss); hops], 4, seed);
        let limit = 10.0 * (1.0 - loss) * 1435.0 / 1506.0;
        println!("{hops} hops, loss {loss}: {goodput:.2} of {limit:.2} Mb/s");
        assert!(goodput > 0.95 * limit, "seed {seed}: {goodput} of {limit}");
    }
}

#[test]
fn without_hop_feedback_relays_spend_redundancy() {
    let config = FlowConfig { hop_feedback: false, ..FlowConfig::default() };
    // What batches of 16 deliver over so many hops without feedback (`docs/vectors/code-ranks.txt`), and how much of that is reached.
    for (seed, hops, loss, share, reached) in
        [(4, 2, 0.0, 0.97, 0.98), (5, 3, 0.05, 0.915, 0.9), (6, 3, 0.2, 0.737, 0.5)]
    {
        let goodput = bulk(config, &vec![ToyLink::new(30, 10, loss); hops], 6, seed);
        let limit = 30.0 * share * 1418.0 / 1506.0;
        println!("{hops} hops, loss {loss}: {goodput:.2} of {limit:.2} Mb/s");
        assert!(goodput > reached * limit, "seed {seed}: {goodput} of {limit}");
    }
}

#[test]
fn a_slow_last_hop_holds_the_source_back_and_bounds_the_relay() {
    for hop_feedback in [true, false] {
        let config = FlowConfig { hop_feedback, ..FlowConfig::default() };
        let mut chain =
            Chain::new(config, &[ToyLink::new(100, 5, 0.02), ToyLink::new(5, 5, 0.02)], 9);
        let end = chain.base + Duration::from_secs(4);
        let (mut sent, mut received, mut most) = (0u64, 0u64, 0);
        loop {
            while chain.client.is_writable() {
                let mut data = pattern(sent, 64 * 1024);
                sent += chain.client.write_bytes(&mut data).unwrap() as u64;
            }
            let more = chain.step(end);
            while let Some(data) = chain.server.read() {
                assert_eq!(data, pattern(received, data.len()));
                received += data.len() as u64;
            }
            most = most.max(chain.relays[0].stats()[0].held);
            if !more {
                break;
            }
        }
        let goodput = received as f64 * 8e-6 / 4.0;
        let dropped = chain.relays[0].stats()[0].dropped;
        println!("{goodput:.2} Mb/s, {most} packets held, {dropped:?}");
        assert!(goodput > 3.8, "{goodput}");
        assert!(most < 4500 && dropped.over_credit == 0, "{most} held, {dropped:?}");
    }
}

/// Whatever happens on the way, what was written is read, in order and once, and the flow ends.
#[test]
fn transfers_over_any_chain_deliver_what_was_sent() {
    for seed in 0..30 {
        let mut dice = Dice::new(seed);
        let config = FlowConfig { hop_feedback: dice.chance(0.5), ..FlowConfig::default() };
        let mut link = || ToyLink {
            max_packet: 1200 + dice.below(250) as usize,
            ..ToyLink::new(
                2 + dice.below(30),
                1 + dice.below(30),
                [0.0, 0.02, 0.1, 0.3][dice.below(4) as usize],
            )
        };
        let links: Vec<ToyLink> = (0..1 + seed % 4).map(|_| link()).collect();
        let mut chain = Chain::new(config, &links, seed);
        let total = dice.below(400_000) + 1;
        let end = chain.base + Duration::from_secs(60);
        let (mut offset, mut received) = (0, 0);
        let outage = dice.below(2000);
        while chain.step(end) && !(chain.client.is_closed() && chain.server.is_closed()) {
            let elapsed = (chain.now - chain.base).as_millis() as u64;
            if offset < total {
                let length = (dice.below(20_000) + 1).min(total - offset) as usize;
                offset += chain.client.write(&pattern(offset, length)).unwrap() as u64;
            } else {
                chain.client.finish();
                chain.server.finish();
            }
            while let Some(data) = chain.server.read() {
                assert_eq!(data, pattern(received, data.len()), "seed {seed}");
                received += data.len() as u64;
            }
            // The MTU of a hop shrinks, and a hop is silent for five seconds.
            let first = &mut chain.hops[0].0.wire.borrow_mut();
            first.dead = (outage..outage + 5000).contains(&elapsed) && seed % 3 == 0;
            if elapsed > 300 && seed % 5 == 0 {
                first.link.max_packet = 700;
            }
        }
        assert_eq!(
            received,
            total,
            "seed {seed}: {:?} {:?}",
            chain.client.stats(),
            chain.server.stats()
        );
        for events in [&chain.client_events, &chain.server_events] {
            assert_eq!(
                events.last(),
                Some(&Event::Closed(Closed::Finished)),
                "seed {seed}: {events:?}"
            );
        }
    }
}

/// A server's certificate, and a client that trusts it.
fn seals() -> (Seal, Seal) {
    let own = rcgen::generate_simple_self_signed(["server.example".to_owned()]).unwrap();
    let (certificate, key) = (own.cert.pem(), own.signing_key.serialize_pem());
    let server = TlsConfig::new().identity_pem(certificate.clone(), key).server().unwrap();
    let client = TlsConfig::new().ca_pem(certificate).client().unwrap();
    (Seal::Client(client, "server.example".try_into().unwrap()), Seal::Server(server))
}

fn sealed(config: FlowConfig, links: &[ToyLink], seed: u64) -> Chain {
    let (client, server) = seals();
    let mut chain = Chain::new(config, links, seed);
    let config = FlowConfig { relayed: true, seed, ..config };
    chain.client = Flow::client_sealed(config, &client, chain.base).unwrap();
    chain.server = Flow::server_sealed(FlowConfig::default(), server, true, chain.base).unwrap();
    chain
}

#[test]
fn a_sealed_flow_crosses_relays_that_hold_no_key() {
    let links = [ToyLink::new(20, 5, 0.05); 3];
    let mut chain = sealed(FlowConfig::default(), &links, 21);
    let end = chain.base + Duration::from_secs(5);
    let (mut sent, mut received) = (0u64, 0u64);
    assert_eq!(chain.client.write(b"too early"), Ok(0), "nothing leaves unsealed");
    while chain.step(end) && received < 1_000_000 {
        if sent < 1_000_000 {
            sent += chain.client.write(&pattern(sent, 20_000)).unwrap() as u64;
        }
        while let Some(data) = chain.server.read() {
            assert_eq!(data, pattern(received, data.len()));
            received += data.len() as u64;
        }
    }
    assert!(received >= 1_000_000, "{received}");
}

#[test]
fn what_a_relay_alters_is_never_delivered() {
    for seed in 0..12 {
        let config = if seed % 2 == 0 { FlowConfig::default() } else { FlowConfig::btp() };
        let config = FlowConfig { hop_feedback: seed % 4 != 0, ..config };
        let mut chain = sealed(config, &[ToyLink::new(10, 5, 0.1); 2], seed);
        chain.hops[1].0.wire.borrow_mut().forge = 0.05;
        let end = chain.base + Duration::from_secs(3);
        let (mut sent, mut received, mut messages) = (0u64, 0u64, 0);
        while chain.step(end) && !chain.server.is_closed() {
            if config.mode == Mode::Btp {
                if chain.client.is_writable() && sent < 400 {
                    chain.client.send(pattern(sent, 900)).unwrap();
                    sent += 1;
                }
                while let Some(data) = chain.server.recv() {
                    assert!((0..sent).any(|n| data == pattern(n, 900)), "seed {seed}");
                    messages += 1;
                }
                continue;
            }
            sent += chain.client.write(&pattern(sent, 5000)).unwrap_or(0) as u64;
            while let Some(data) = chain.server.read() {
                assert_eq!(data, pattern(received, data.len()), "seed {seed}");
                received += data.len() as u64;
            }
        }
        let forged = chain.server.stats().dropped.forged;
        if config.mode == Mode::Btp {
            assert!(
                messages > 50 && forged > 0,
                "seed {seed}: {messages} messages, {forged} forged"
            );
        } else {
            assert_eq!(forged, 1, "seed {seed}");
            assert_eq!(chain.server_events.last(), Some(&Event::Closed(Closed::Forged)));
        }
    }
}

#[test]
fn ends_that_disagree_on_sealing_do_not_talk() {
    let links = [ToyLink::new(10, 5, 0.0); 2];
    let mut chain = sealed(FlowConfig::default(), &links, 1);
    chain.client = Flow::client(FlowConfig::default(), chain.base).unwrap();
    let end = chain.base + Duration::from_secs(1);
    while chain.step(end) {}
    assert!(matches!(chain.server_events[..], [Event::Closed(Closed::Violation(_))]));
    assert!(matches!(chain.client_events[..], [Event::Closed(Closed::Peer { code: 4, .. })]));
}

/// One-way delays above the path's own of 512 bytes every 10 ms over three hops at 5 % loss, in order of size.
fn thin_delays(config: FlowConfig, seed: u64) -> Vec<Duration> {
    let config = FlowConfig { framing: Framing::Messages, ..config };
    let mut chain = Chain::new(config, &[ToyLink::new(100, 10, 0.05); 3], seed);
    let opened = chain.base + Duration::from_millis(500);
    while chain.step(opened) {}
    let (mut due, mut sent, mut delays) = (opened, Vec::new(), Vec::new());
    while sent.len() < 2000 {
        if chain.now >= due {
            let number = (sent.len() as u32).to_be_bytes();
            chain.client.send([&number[..], &[7; 508]].concat().into()).unwrap();
            sent.push(chain.now);
            due += Duration::from_millis(10);
            chain.drive();
        }
        chain.step(due);
        while let Some(data) = chain.server.recv() {
            let number = u32::from_be_bytes(data[..4].try_into().unwrap());
            delays.push(
                (chain.now - sent[number as usize]).saturating_sub(Duration::from_millis(30)),
            );
        }
    }
    delays.sort_unstable();
    delays
}

#[test]
fn a_thin_flow_over_three_lossy_hops_hardly_waits() {
    for config in [FlowConfig::btp(), FlowConfig::default()] {
        let delays = thin_delays(config, 5);
        let at = |share: f64| delays[(delays.len() as f64 * share) as usize];
        let of = config.mode;
        println!("{of:?}: p50 {:?}, p99 {:?}, max {:?}", at(0.5), at(0.99), delays.last());
        assert!(delays.len() > 1980, "{of:?}: {}", delays.len());
        assert!(at(0.5) < Duration::from_millis(1), "{of:?}: {:?}", at(0.5));
        assert!(at(0.99) < Duration::from_millis(8), "{of:?}: {:?}", at(0.99));
    }
}

/// A relay crashes: the client finds another path, of relays that know nothing of the flow.
#[test]
fn a_new_path_loses_and_repeats_nothing() {
    for seed in 0..12 {
        let mut dice = Dice::new(seed);
        let config = FlowConfig { hop_feedback: seed % 2 == 0, ..FlowConfig::default() };
        let links = vec![ToyLink::new(20, 5 + seed, 0.05); 1 + seed as usize % 3];
        let mut chain = Chain::new(config, &links, seed);
        let end = chain.base + Duration::from_secs(60);
        let mut changes: Vec<u64> = (0..3).map(|_| 50 + dice.below(1500)).collect();
        changes.sort_unstable();
        let (total, mut sent, mut received) = (2_000_000, 0u64, 0u64);
        while chain.step(end) && !(chain.client.is_closed() && chain.server.is_closed()) {
            if sent < total {
                let length = 20_000.min(total - sent) as usize;
                sent += chain.client.write(&pattern(sent, length)).unwrap() as u64;
            } else {
                chain.client.finish();
                chain.server.finish();
            }
            while let Some(data) = chain.server.read() {
                assert_eq!(data, pattern(received, data.len()), "seed {seed}");
                received += data.len() as u64;
            }
            let elapsed = (chain.now - chain.base).as_millis() as u64;
            if changes.first().is_some_and(|&at| at <= elapsed) {
                let seed = seed * 100 + changes.remove(0);
                let links = (0..).zip(&links);
                chain.hops = links.map(|(i, &link)| hop(link, seed + i, chain.now)).collect();
                for relay in &mut chain.relays {
                    *relay = RelayFlow::new(RelayConfig::default(), chain.now).unwrap();
                }
                chain.client.handle_hop_changed(chain.now);
                chain.server.handle_hop_changed(chain.now);
                chain.drive();
            }
        }
        assert_eq!(received, total, "seed {seed}: {:?}", chain.client.stats());
        assert_eq!(
            chain.client_events.last(),
            Some(&Event::Closed(Closed::Finished)),
            "seed {seed}"
        );
    }
}

#[test]
fn relays_recode_rateless_flows() {
    for (seed, hops, loss) in [(1, 2, 0.1), (2, 3, 0.05), (3, 3, 0.2)] {
        let links = vec![ToyLink::new(30, 10, loss); hops];
        let mut chain = Chain::new(FlowConfig::brctp(), &links, seed);
        let end = chain.base + Duration::from_secs(30);
        let objects = [1_500_000, 10, 800_000].map(|length| pattern(length as u64, length));
        let (mut sent, mut came) = (false, 0);
        while came < 3 && chain.now < end {
            // What is given between two events leaves with the next of these steps.
            chain.step(chain.now + Duration::from_millis(1));
            if !sent && chain.client_events.contains(&Event::Established) {
                objects.iter().for_each(|object| chain.client.send(object.clone()).unwrap());
                sent = true;
            }
            while let Some(data) = chain.server.recv() {
                assert!(data == objects[came], "seed {seed}: {came}");
                came += 1;
            }
        }
        let stats: Vec<_> = chain.relays.iter().map(|relay| relay.stats()[0]).collect();
        assert_eq!(came, 3, "seed {seed}: {:?} {stats:?}", chain.client.stats());
        // Without recoding the source would have to make up for all hops. What leaves while the receiver's "done" is on its way comes on top of either: the
        // round trip's worth of the first link.
        let symbols = 2_300_010.0 / 1_415.0;
        let plain = symbols / (1.0 - loss).powi(hops as i32);
        let flight = 30e6 / 8.0 * (2.0 * 0.010 * hops as f64) / 1_415.0;
        let packets = chain.client.stats().packets_sent as f64;
        println!(
            "seed {seed}: {packets} packets, without recoding {plain:.0}, on the way {flight:.0}; {stats:?}"
        );
        assert!(stats.iter().all(|stats| stats.recoded > 0), "seed {seed}: {stats:?}");
        assert!(packets < plain + flight, "seed {seed}: {packets} of {plain} + {flight}");
    }
}
