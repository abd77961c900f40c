//! One hop, without a relay.

use std::time::Duration;

use bytes::Bytes;
use towline_proto::bats::endpoint::{
    ConnectConfig, Ended, Endpoint, HopEnd, ListenConfig, RefusalKind,
};
use towline_proto::bats::flow::{Closed, Event, FlowConfig};
use towline_proto::bats::quic_hop::HopConfig;
use towline_proto::quic::{CloseReason, ServerVerification};
use towline_sim::{Bitrate, LinkConfig};

use crate::world::{
    World, certificate, client_tls, connect_config, node_config, seed, server_tls, wall,
};

fn link(rate: u64, delay: u64, loss: f64) -> LinkConfig {
    LinkConfig::lab(Bitrate::from_mbps(rate), Duration::from_millis(delay), loss)
}

#[test]
fn a_stream_arrives_whole_under_loss_and_both_ends_learn_of_the_end() {
    for (number, loss) in [(1, 0.0), (2, 0.05), (3, 0.2)] {
        let flow = FlowConfig::default();
        let mut world = World::new(1, &link(50, 10, loss), flow, number);
        world.connect(&[1], &connect_config(flow));
        let client = world.simulation.node_mut(world.client);
        client.to_send = 3_000_000;
        world.run_to_end(30);
        assert_eq!(world.server().received, 3_000_000, "seed {number}");
        for end in [world.client(), world.server()] {
            assert_eq!(end.events.first(), Some(&Event::Established), "seed {number}");

            assert!(
                matches!(end.ended, Some(Ended::Flow(Closed::Finished))),
                "seed {number}: {:?}",
                end.ended
            );
        }
        assert!(world.client().acknowledged);
        let took = world.simulation.elapsed();
        println!("seed {number} loss {loss}: {took:?}");
        assert!(took < Duration::from_secs(3), "seed {number}: {took:?}");
        // The connections below take leave of each other.
        world.simulation.run_for(Duration::from_secs(5)).unwrap();
        assert_eq!(
            world.client().endpoint.stats().flows + world.server().endpoint.stats().flows,
            0
        );
    }
}

#[test]
fn an_abort_reaches_the_peer_with_its_code_also_over_a_lossy_link() {
    for number in 0..10 {
        let flow = FlowConfig::default();
        let mut world = World::new(1, &link(10, 20, 0.3), flow, number);
        world.connect(&[1], &connect_config(flow));
        let server = world.server;
        let up = |simulation: &towline_sim::Simulation| {
            simulation.node(server).events.contains(&Event::Established)
        };
        world.simulation.run_until(Duration::from_secs(20), up).unwrap();
        world.simulation.run_for(Duration::from_millis(100)).unwrap();
        let client = world.simulation.node_mut(world.client);
        let flow = client.flow.unwrap();
        client.endpoint.flow(flow).unwrap().abort(300, "enough");
        let at = world.simulation.elapsed();
        world.run_to_end(20);
        let took = world.simulation.elapsed() - at;
        println!("seed {number}: {took:?}");
        assert!(
            matches!(&world.server().ended, Some(Ended::Flow(Closed::Peer { code: 300, reason })) if reason == "enough"),
            "seed {number}: {:?}",
            world.server().ended
        );
        assert!(took < Duration::from_secs(5), "seed {number}: {took:?}");
    }
}

#[test]
fn a_certificate_that_is_not_trusted_is_named() {
    let flow = FlowConfig::default();
    let mut world = World::new(1, &link(50, 10, 0.0), flow, 1);
    let other = certificate(vec!["10.0.0.2".into()]);
    let mut tls = client_tls();
    tls.verification = ServerVerification::Roots(vec![other.cert.der().clone()]);
    world.connect(&[1], &ConnectConfig::new(tls, &HopConfig::default(), flow).unwrap());
    world.simulation.run_to(Duration::from_secs(5)).unwrap();
    let ended = world.client().ended.as_ref().unwrap();
    assert!(matches!(ended, Ended::Hop(HopEnd::Transport(_))), "{ended:?}");
    assert!(ended.to_string().contains("certificate"), "{ended}");
    assert!(!ended.may_retry());
    assert!(world.server().events.is_empty());
}

#[test]
fn nobody_there_is_told_in_time() {
    let flow = FlowConfig::default();
    let mut world = World::new(2, &link(50, 10, 0.0), flow, 1);
    world.connect(&[1], &connect_config(flow).connect_timeout(Duration::from_secs(2)));
    world.simulation.run_to(Duration::from_secs(3)).unwrap();
    let ended = world.client().ended.as_ref().unwrap();
    assert!(matches!(ended, Ended::ConnectTimeout), "{ended:?}");
    assert!(ended.may_retry());
}

#[test]
fn a_server_is_no_relay_and_says_so() {
    let flow = FlowConfig::default();
    let mut world = World::new(1, &link(50, 10, 0.0), flow, 1);
    world.connect(&[1, 0], &connect_config(flow));
    world.simulation.run_to(Duration::from_secs(2)).unwrap();
    let ended = world.client().ended.as_ref().unwrap();
    assert!(matches!(ended, Ended::Refused { kind: RefusalKind::NotARelay, .. }), "{ended:?}");
    assert!(world.server().flow.is_none() && world.server().ended.is_none());
    assert_eq!(world.server().endpoint.stats().refused, 1);
}

#[test]
fn more_flows_than_allowed_are_refused() {
    let flow = FlowConfig::default();
    let mut world = World::new(1, &link(50, 10, 0.0), flow, 1);
    let now = world.simulation.now();
    let listen = ListenConfig::new(server_tls(), &HopConfig::default(), flow).unwrap();
    let mut config = node_config();
    config.max_flows = 1;
    world.simulation.node_mut(world.server).endpoint =
        Endpoint::new(config, Some(listen), seed(2, 9), now, wall()).unwrap();
    world.connect(&[1], &connect_config(flow));
    let first = world.client().flow;
    world.connect(&[1], &connect_config(flow));
    world.simulation.run_to(Duration::from_secs(2)).unwrap();
    let ended = world.client().ended.as_ref().unwrap();
    assert!(matches!(ended, Ended::Refused { kind: RefusalKind::TooMany, .. }), "{ended:?}");
    let client = world.simulation.node_mut(world.client);
    assert!(client.endpoint.flow(first.unwrap()).unwrap().is_established());
}

#[test]
fn a_server_that_vanishes_is_told_in_time() {
    let flow = FlowConfig::default();
    let mut world = World::new(1, &link(50, 10, 0.0), flow, 1);
    let hop = HopConfig { disconnect_timeout: Duration::from_secs(3), ..HopConfig::default() };
    let config = ConnectConfig::new(client_tls(), &hop, flow).unwrap();
    world.connect(&[1], &config);
    world.simulation.node_mut(world.client).to_send = u64::MAX;
    world.simulation.run_to(Duration::from_secs(2)).unwrap();
    let away = towline_sim::Action::Partition(vec![world.chain.hosts[1]]);
    world.simulation.network.act(&away).unwrap();
    world.simulation.run_to(Duration::from_secs(12)).unwrap();
    let ended = world.client().ended.as_ref().unwrap();
    assert!(matches!(ended, Ended::Hop(HopEnd::Transport(CloseReason::Unreachable))), "{ended:?}");
    assert!(ended.may_retry());
}

#[test]
fn what_arrived_is_read_also_after_the_end() {
    let flow = FlowConfig::default();
    let mut world = World::new(1, &link(50, 10, 0.02), flow, 4);
    world.connect(&[1], &connect_config(flow));
    world.simulation.node_mut(world.client).to_send = 100_000;
    // A server that reads nothing until everything is over.
    let server = world.simulation.node_mut(world.server);
    server.reads = false;
    world.simulation.run_to(Duration::from_secs(5)).unwrap();
    assert!(world.client().ended.is_some(), "{:?}", world.client().events);
    assert!(world.server().ended.is_none());
    let server = world.simulation.node_mut(world.server);
    server.reads = true;
    let id = server.flow.unwrap();
    let mut bytes = 0;
    while let Some(data) = server.endpoint.flow(id).and_then(|mut flow| flow.read()) {
        let data: Bytes = data;
        bytes += data.len();
    }
    assert_eq!(bytes, 100_000);
    server.received = 100_000;
    let now = world.simulation.now();
    let event = world.simulation.node_mut(world.server).endpoint.poll_event(now);
    assert!(format!("{event:?}").contains("Finished"), "{event:?}");
}
