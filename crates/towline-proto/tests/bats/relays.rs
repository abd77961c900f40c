//! Flows through relays.

use std::time::{Duration, Instant};

use towline_proto::bats::endpoint::{
    ConnectConfig, ConnectError, Ended, Pattern, RefusalKind, Relay, RelayEvent, RelaySettings,
};
use towline_proto::bats::flow::{Closed, FlowConfig};
use towline_proto::bats::quic_hop::HopConfig;
use towline_sim::{self as sim, Action, Bitrate, Delivery, LinkConfig, Node, NodeId, Simulation};

use crate::world::{
    PORT, World, address, certificate, client_tls, connect_config, deliver, node_config, seed,
    server_tls, train, wall,
};

/// A relay with a program that keeps what it was told.
pub struct RelayNode {
    pub relay: Relay,
    buf: Vec<u8>,
    last: Option<Instant>,
    pub events: Vec<RelayEvent>,
    /// What names stand for.
    pub names: Option<Vec<std::net::SocketAddr>>,
}

impl RelayNode {
    pub fn new(now: Instant, number: u64, settings: RelaySettings) -> RelayNode {
        let tls = (server_tls(), client_tls());
        let hop = HopConfig::default();
        let relay =
            Relay::new(node_config(), settings, tls, &hop, seed(3, number), (now, wall())).unwrap();
        RelayNode { relay, buf: Vec::new(), last: None, events: Vec::new(), names: None }
    }
}

impl Node for RelayNode {
    fn handle_datagram(&mut self, now: Instant, datagram: Delivery) {
        let (path, ecn, data) = deliver(datagram);
        self.relay.handle_datagram(now, path, ecn, data);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.relay.handle_timeout(now);
    }

    fn poll_transmit(&mut self, now: Instant) -> Option<sim::Transmit> {
        while let Some(event) = self.relay.poll_event(now) {
            if let RelayEvent::Resolve { flow, .. } = &event {
                let name = self.names.clone();
                let name = name.ok_or_else(|| "no such host".to_owned());
                self.relay.resolved(now, *flow, name);
            }
            self.events.push(event);
        }
        let transmit = self.relay.poll_transmit(now, &mut self.buf)?;
        self.last = Some(now);
        Some(train(&transmit, &self.buf))
    }

    fn poll_timeout(&mut self) -> Option<Instant> {
        let earliest = self.last.map(|last| last + Duration::from_micros(100));
        self.relay.poll_timeout().map(|at| earliest.map_or(at, |earliest| at.max(earliest)))
    }
}

fn link(rate: u64, delay: u64, loss: f64) -> LinkConfig {
    LinkConfig::lab(Bitrate::from_mbps(rate), Duration::from_millis(delay), loss)
}

fn open() -> RelaySettings {
    RelaySettings { allow: vec![Pattern::ANY], ..RelaySettings::default() }
}

fn add_relay(world: &mut World, host: usize, settings: RelaySettings) -> NodeId<RelayNode> {
    let node = RelayNode::new(world.simulation.now(), world.number * 16 + host as u64, settings);
    let node = world.simulation.add_node(&format!("relay {host}"), world.chain.hosts[host], node);
    world.simulation.bind(node, address(host)).unwrap();
    node
}

#[test]
fn a_stream_passes_one_to_five_relays_that_the_sender_chose() {
    let mut took = Vec::new();
    for (number, hops) in (2..=6).enumerate() {
        let flow = FlowConfig::default();
        let mut world = World::new(hops, &link(20, 5, 0.05), flow, number as u64);
        let relays: Vec<_> = (1..hops).map(|host| add_relay(&mut world, host, open())).collect();
        let path: Vec<usize> = (1..=hops).collect();
        world.connect(&path, &connect_config(flow));
        world.simulation.node_mut(world.client).to_send = 2_000_000;
        let (server, limit) = (world.server, Duration::from_secs(60));
        world.simulation.run_until(limit, |now| now.node(server).received > 0).unwrap();
        let first = world.simulation.elapsed();
        world.run_to_end(60);
        assert_eq!(world.server().received, 2_000_000, "{hops} hops");
        for end in [world.client(), world.server()] {
            let ended = &end.ended;
            assert!(matches!(ended, Some(Ended::Flow(Closed::Finished))), "{hops}: {ended:?}");
        }
        println!("{hops} hops: {:?}", world.simulation.elapsed());
        let elapsed = world.simulation.elapsed();
        assert!(elapsed - first < Duration::from_secs(3), "{hops} hops: {first:?} of {elapsed:?}");
        took.push(elapsed);
        // The connections below take leave of each other.
        world.simulation.run_for(Duration::from_secs(10)).unwrap();
        for relay in relays {
            let relay = world.simulation.node(relay);
            let totals = relay.relay.totals();
            assert_eq!((totals.flows, totals.opened, totals.promised), (0, 1, 0), "{totals:?}");
            assert!(totals.packets[0].forwarded > 1300, "{totals:?}");
            assert!(totals.packets[0].repaired > 0, "{totals:?}");
            assert!(relay.events.iter().any(|it| matches!(it, RelayEvent::Closed { .. })));
        }
    }
    // One in a hundred waits for 6 s before its first byte; that is not to be the rule.
    took.sort_unstable();
    assert!(took[took.len() / 2] < Duration::from_secs(3), "{took:?}");
}

#[test]
fn a_relay_with_a_fixed_next_hop_and_names_that_are_looked_up() {
    let flow = FlowConfig::default();
    let mut world = World::new(2, &link(20, 5, 0.02), flow, 5);
    let next = Some(address(2).into());
    let relay = add_relay(&mut world, 1, RelaySettings { next, ..RelaySettings::default() });
    let config = connect_config(FlowConfig { relayed: true, ..flow }).target_name("10.0.0.3");
    world.connect(&[1], &config);
    world.simulation.node_mut(world.client).to_send = 100_000;
    world.run_to_end(20);
    assert_eq!(world.server().received, 100_000);
    // It carries flows nowhere else, and looks up no name for that.
    world.simulation.node_mut(world.client).ended = None;
    world.connect(&[1, 0], &connect_config(flow));
    world.simulation.run_for(Duration::from_secs(3)).unwrap();
    let ended = world.client().ended.as_ref().unwrap();
    assert!(matches!(ended, Ended::Refused { kind: RefusalKind::NotAllowed, .. }), "{ended:?}");
    assert!(ended.to_string().contains("10.0.0.1:4000"), "{ended}");
    let totals = world.simulation.node(relay).relay.totals();
    assert_eq!(totals.refused.get(&RefusalKind::NotAllowed), Some(&1));
}

#[test]
fn a_name_that_nobody_knows_and_a_next_hop_that_does_not_answer() {
    let flow = FlowConfig::default();
    let mut world = World::new(3, &link(20, 5, 0.0), flow, 6);
    let next = Some("nowhere.example:4000".parse().unwrap());
    let relay = add_relay(
        &mut world,
        1,
        RelaySettings { next, allow: vec![Pattern::ANY], ..RelaySettings::default() },
    );
    world.connect(&[1], &connect_config(flow));
    world.simulation.run_for(Duration::from_secs(3)).unwrap();
    let ended = world.client().ended.as_ref().unwrap();
    assert!(matches!(ended, Ended::Refused { kind: RefusalKind::Unreachable, .. }), "{ended:?}");
    assert!(ended.to_string().contains("no such host"), "{ended}");
    assert!(ended.may_retry());
    // Nobody listens on host 2.
    world.simulation.node_mut(world.client).ended = None;
    world.connect(&[1, 2, 3], &connect_config(flow));
    world.simulation.run_for(Duration::from_secs(15)).unwrap();
    let ended = world.client().ended.as_ref().unwrap();
    assert!(matches!(ended, Ended::Refused { kind: RefusalKind::Unreachable, .. }), "{ended:?}");
    assert!(ended.to_string().contains("10.0.0.3:4000"), "{ended}");
    world.simulation.run_for(Duration::from_secs(10)).unwrap();
    assert_eq!(world.simulation.node(relay).relay.flows(), 0);
}

#[test]
fn a_name_with_several_addresses_is_reached_at_the_first_that_answers() {
    let flow = FlowConfig::default();
    // Nobody is at host 2.
    let mut world = World::new(3, &link(20, 5, 0.02), flow, 13);
    let next = Some("far.example:4000".parse().unwrap());
    let relay = add_relay(&mut world, 1, RelaySettings { next, ..RelaySettings::default() });
    let dead = std::net::SocketAddr::new(address(3).ip(), PORT + 1);
    world.simulation.node_mut(relay).names = Some(vec![address(2), dead, address(3)]);
    let config = connect_config(FlowConfig { relayed: true, ..flow }).target_name("far.example");
    world.connect(&[1], &config);
    world.simulation.node_mut(world.client).to_send = 100_000;
    world.run_to_end(20);
    assert_eq!(world.server().received, 100_000);
    let took = world.simulation.elapsed();
    assert!((2..6).contains(&took.as_secs()), "a second for each of two: {took:?}");
    let totals = world.simulation.node(relay).relay.totals();
    assert_eq!(totals.opened, 1, "{totals:?}");
    // All of them dead: the relay says so when its time is over.
    world.simulation.node_mut(relay).names = Some(vec![address(2), dead]);
    world.simulation.node_mut(world.client).ended = None;
    world.connect(&[1], &config);
    world.simulation.run_for(Duration::from_secs(20)).unwrap();
    let ended = world.client().ended.as_ref().unwrap();
    assert!(matches!(ended, Ended::Refused { kind: RefusalKind::Unreachable, .. }), "{ended:?}");
    world.simulation.run_for(Duration::from_secs(10)).unwrap();
    assert_eq!(world.simulation.node(relay).relay.flows(), 0);
}

#[test]
fn an_end_tries_the_addresses_of_its_first_node_in_turn() {
    let flow = FlowConfig::default();
    let mut world = World::new(2, &link(20, 5, 0.02), flow, 14);
    let (now, name) = (world.simulation.now(), "far.example:4000".parse().unwrap());
    let client = world.simulation.node_mut(world.client);
    let first = [address(1), address(2)];
    let begun = client.endpoint.connect_to_any(now, &[name], &first, &connect_config(flow), 14);
    client.flow = Some(begun.unwrap());
    client.to_send = 100_000;
    world.run_to_end(20);
    assert_eq!(world.server().received, 100_000);
    let took = world.simulation.elapsed();
    assert!((1..4).contains(&took.as_secs()), "{took:?}");
}

#[test]
fn a_relay_that_vanishes_is_told_to_both_ends() {
    let flow = FlowConfig::default();
    let mut world = World::new(3, &link(20, 5, 0.02), flow, 7);
    add_relay(&mut world, 1, open());
    add_relay(&mut world, 2, open());
    world.connect(&[1, 2, 3], &connect_config(flow));
    world.simulation.node_mut(world.client).to_send = u64::MAX;
    world.simulation.run_for(Duration::from_secs(2)).unwrap();
    assert!(world.server().received > 1_000_000);
    let host = world.chain.hosts[2];
    world.simulation.network.act(&Action::Partition(vec![host])).unwrap();
    world.run_to_end(60);
    let ended = world.client().ended.as_ref().unwrap();
    assert!(matches!(ended, Ended::Refused { kind: RefusalKind::HopLost, .. }), "{ended:?}");
    assert!(ended.may_retry());
    let ended = world.server().ended.as_ref().unwrap();
    assert!(matches!(ended, Ended::Hop(_)), "{ended:?}");
}

#[test]
fn a_relay_that_is_restarted_is_noticed_at_once() {
    let flow = FlowConfig::default();
    let mut world = World::new(2, &link(20, 5, 0.02), flow, 8);
    let relay = add_relay(&mut world, 1, open());
    world.connect(&[1, 2], &connect_config(flow));
    world.simulation.node_mut(world.client).to_send = u64::MAX;
    world.simulation.run_for(Duration::from_secs(2)).unwrap();
    let now = world.simulation.now();
    // With the same secret, it resets what it does not know (RFC 9000, section 10.3).
    *world.simulation.node_mut(relay) = RelayNode::new(now, 99, open());
    let before = world.simulation.elapsed();
    world.run_to_end(60);
    let took = world.simulation.elapsed() - before;
    assert!(took < Duration::from_secs(2), "{took:?}");
    let ended = world.client().ended.as_ref().unwrap();
    assert!(ended.may_retry(), "{ended:?}");
}

#[test]
fn a_slow_reader_is_felt_through_the_relays_and_their_memory_is_bounded() {
    let flow = FlowConfig::default();
    let mut world = World::new(3, &link(50, 5, 0.01), flow, 9);
    let relays = [add_relay(&mut world, 1, open()), add_relay(&mut world, 2, open())];
    let server = FlowConfig { receive_window: 4096, ..flow };
    let now = world.simulation.now();
    *world.simulation.node_mut(world.server) = crate::world::End::server(now, 3, server);
    world.connect(&[1, 2, 3], &connect_config(flow));
    world.simulation.node_mut(world.client).to_send = 15_000_000;
    world.simulation.node_mut(world.server).reads = false;
    world.simulation.run_for(Duration::from_secs(8)).unwrap();
    for relay in relays {
        let totals = world.simulation.node(relay).relay.totals();
        println!("{totals:?}");
        assert!(totals.held < 10_000, "{totals:?}");
        assert!(totals.packets[0].forwarded < 12_000, "{totals:?}");
    }
    world.simulation.node_mut(world.server).reads = true;
    world.run_to_end(30);
    assert_eq!(world.server().received, 15_000_000);
}

#[test]
fn relays_that_send_a_flow_in_a_circle_notice() {
    let flow = FlowConfig::default();
    let mut world = World::new(2, &link(50, 1, 0.0), flow, 10);
    let settings = |next: usize| RelaySettings {
        next: Some(address(next).into()),
        ..RelaySettings::default()
    };
    let one = add_relay(&mut world, 1, settings(0));
    // The client's host has a relay, too, on another port.
    let node = RelayNode::new(world.simulation.now(), 77, settings(1));
    let two = world.simulation.add_node("relay 0", world.chain.hosts[0], node);
    let mut other = address(0);
    other.set_port(PORT + 1);
    world.simulation.bind(two, other).unwrap();
    let now = world.simulation.now();
    let next = Some(other.into());
    *world.simulation.node_mut(one) =
        RelayNode::new(now, 78, RelaySettings { next, ..RelaySettings::default() });
    world.connect(&[1], &connect_config(flow));
    world.simulation.run_for(Duration::from_secs(10)).unwrap();
    let ended = world.client().ended.as_ref().unwrap();
    assert!(matches!(ended, Ended::Refused { kind: RefusalKind::BadRoute, .. }), "{ended:?}");
    world.simulation.run_for(Duration::from_secs(10)).unwrap();
    assert_eq!(world.simulation.node(one).relay.flows(), 0);
}

#[test]
fn a_relay_that_is_full_says_so_and_serves_the_others() {
    let flow = FlowConfig::default();
    let mut world = World::new(2, &link(50, 5, 0.0), flow, 11);
    let settings = RelaySettings { max_flows_per_client: 1, ..open() };
    add_relay(&mut world, 1, settings);
    world.connect(&[1, 2], &connect_config(flow));
    let first = world.client().flow;
    world.connect(&[1, 2], &connect_config(flow));
    world.simulation.run_for(Duration::from_secs(2)).unwrap();
    let ended = world.client().ended.as_ref().unwrap();
    assert!(matches!(ended, Ended::Refused { kind: RefusalKind::TooMany, .. }), "{ended:?}");
    let client = world.simulation.node_mut(world.client);
    client.flow = first;
    client.to_send = 100_000;
    assert!(first.and_then(|flow| client.endpoint.flow(flow)).unwrap().is_established());
    client.ended = None;
    let over = |simulation: &Simulation| simulation.node(world.server).ended.is_some();
    world.simulation.run_for(Duration::from_millis(1)).unwrap();
    world.simulation.run_until(Duration::from_secs(20), over).unwrap();
    assert_eq!(world.server().received, 100_000);
}

#[test]
fn the_far_end_proves_itself_through_relays_and_nothing_passes_them_unsealed() {
    let flow = FlowConfig::default();
    let mut world = World::new(2, &link(20, 5, 0.02), flow, 12);
    add_relay(&mut world, 1, open());
    let unsealed = ConnectConfig::new(client_tls(), &HopConfig::default(), flow).unwrap();
    let path = [address(1).into(), address(2).into()];
    let now = world.simulation.now();
    let client = world.simulation.node_mut(world.client);
    let refused = client.endpoint.connect(now, &path, address(1), &unsealed, 1);
    assert!(matches!(refused, Err(ConnectError::Unsealed)), "{refused:?}");
    // A client that trusts its relays meets a server that does not.
    world.connect(&[1, 2], &unsealed.clone().dangerous_trust_relays());
    world.simulation.run_for(Duration::from_secs(3)).unwrap();
    let ended = world.client().ended.as_ref();
    assert!(matches!(ended, Some(Ended::Flow(Closed::Peer { .. }))), "{ended:?}");
    // One whose roots do not vouch for the target, though for the relay.
    let other = certificate(vec!["10.0.0.3".into()]);
    let seal = towline_proto::tls::Config::new().ca_pem(other.cert.pem()).clock(wall);
    world.simulation.node_mut(world.client).ended = None;
    world.connect(&[1, 2], &unsealed.seal(seal.client().unwrap()));
    world.simulation.run_for(Duration::from_secs(3)).unwrap();
    let ended = world.client().ended.as_ref().unwrap();
    assert!(matches!(ended, Ended::Flow(Closed::Seal { .. })), "{ended:?}");
    assert!(ended.to_string().contains("certificate"), "{ended}");
    assert_eq!(world.server().received, 0);
}
