//! Several hosts: routes, partitions, addresses, determinism.

mod common;

use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{Pair, address, ms};
use towline_sim::{
    Action, Bitrate, Chain, Ecn, LinkChange, LinkConfig, Loss, Network, NetworkError, Random,
    SocketId,
};

fn chain(seed: u64, hops: usize, config: &LinkConfig) -> (Network, Chain, SocketId, SocketId) {
    let mut network = Network::new(seed, Instant::now());
    let chain = network.chain(hops, config).unwrap();
    let mut ends = [0, hops].map(|host| {
        let ip = network.address(chain.hosts[host]).unwrap();
        network.bind(chain.hosts[host], (ip, 7000).into()).unwrap()
    });
    ends.sort();
    (network, chain, ends[0], ends[1])
}

fn send(network: &mut Network, from: SocketId, to: SocketId, data: &'static [u8]) {
    let to = network.public_address(to).unwrap();
    network.send(from, to, Ecn::NotCapable, Bytes::from_static(data)).unwrap();
}

fn drain(network: &mut Network) -> Vec<(Duration, SocketId, Bytes)> {
    while network.step().is_some() {}
    let base = network.base();
    std::iter::from_fn(|| network.poll_delivery())
        .map(|it| (it.at - base, it.socket, it.data))
        .collect()
}

#[test]
fn a_chain_adds_up_its_delays_in_both_directions() {
    for hops in 1..=10u32 {
        let config =
            LinkConfig::new().rate(Bitrate::from_mbps(8)).headers(0).framing(0).delay(ms(10));
        let (mut network, chain, a, b) = chain(1, hops as usize, &config);
        assert_eq!((chain.forward.len(), chain.backward.len()), (hops as usize, hops as usize));
        // 4 bytes take 4 microseconds on each link.
        send(&mut network, a, b, b"ping");
        let way = hops * (ms(10) + Duration::from_micros(4));
        assert_eq!(drain(&mut network), [(way, b, Bytes::from("ping"))]);
        send(&mut network, b, a, b"pong");
        assert_eq!(drain(&mut network), [(2 * way, a, Bytes::from("pong"))]);
        assert_eq!(network.stats().hops, 2 * u64::from(hops));
    }
}

#[test]
fn hops_of_a_chain_can_differ_by_place_and_direction() {
    let mut network = Network::new(1, Instant::now());
    let chain = network
        .chain_with(3, |hop, forward| {
            LinkConfig::new().delay(ms(if forward { 1 << hop } else { 100 }))
        })
        .unwrap();
    assert_eq!(network.link_config(chain.forward[2]).unwrap(), &LinkConfig::new().delay(ms(4)));
    let a = network.bind(chain.hosts[0], address("10.0.0.1:1")).unwrap();
    let b = network.bind(chain.hosts[3], address("10.0.0.4:1")).unwrap();
    send(&mut network, a, b, b"x");
    send(&mut network, b, a, b"y");
    let times: Vec<Duration> = drain(&mut network).into_iter().map(|(at, ..)| at).collect();
    assert_eq!(times, [ms(7), ms(300)]);
}

#[test]
fn what_leads_nowhere_is_counted() {
    let (mut network, chain, a, b) = chain(1, 2, &LinkConfig::new());
    network.send(a, address("192.0.2.1:1"), Ecn::NotCapable, Bytes::new()).unwrap();
    network.send(a, address("10.0.0.3:1"), Ecn::NotCapable, Bytes::new()).unwrap();
    let island = network.add_host("island", address("10.9.9.9:0").ip()).unwrap();
    network.bind(island, address("10.9.9.9:1")).unwrap();
    network.send(a, address("10.9.9.9:1"), Ecn::NotCapable, Bytes::new()).unwrap();
    assert_eq!(drain(&mut network), []);
    let stats = network.stats();
    assert_eq!((stats.sent, stats.unroutable, stats.unbound), (3, 2, 1));
    // A loop by hand ends at the hop limit.
    network.route(chain.hosts[1], chain.hosts[2], chain.backward[0]).unwrap();
    send(&mut network, a, b, b"round and round");
    assert_eq!(drain(&mut network), []);
    assert_eq!(network.stats().hop_limit, 1);
}

#[test]
fn a_host_hears_itself() {
    let (mut network, _, a, _) = chain(1, 1, &LinkConfig::new());
    send(&mut network, a, a, b"hello");
    assert_eq!(network.poll_delivery().unwrap().data, "hello");
}

#[test]
fn a_partition_cuts_its_sides_and_heals() {
    let (mut network, chain, a, b) = chain(1, 3, &LinkConfig::new().delay(ms(1)));
    network.schedule(ms(10), Action::Partition(vec![chain.hosts[0], chain.hosts[1]])).unwrap();
    network.schedule(ms(20), Action::Heal).unwrap();
    let mut arrived = Vec::new();
    for time in 0..30 {
        network.advance_to(network.base() + ms(time));
        send(&mut network, a, b, b"x");
        arrived.extend(std::iter::from_fn(|| network.poll_delivery()).map(|it| it.packet.number()));
    }
    arrived.extend(
        std::iter::from_fn(|| {
            network.step();
            network.poll_delivery()
        })
        .map(|it| it.packet.number()),
    );
    // Those that were before the cut link when it was cut are lost, too: 9 sent at 9 ms is at host 1 at 10 ms.
    assert_eq!(arrived, (0..9).chain(19..30).collect::<Vec<u64>>());
    assert_eq!(network.link_stats(chain.forward[1]).unwrap().dropped_outage.packets, 10);
}

#[test]
fn a_nat_rebinding_is_seen_by_the_peer_alone() {
    let (mut network, _, a, b) = chain(1, 1, &LinkConfig::new());
    let outside = address("10.0.0.1:61000");
    network.act(&Action::Rebind(a, outside)).unwrap();
    assert_eq!(network.local_address(a).unwrap(), address("10.0.0.1:7000"));
    send(&mut network, a, b, b"from elsewhere");
    network.step();
    assert_eq!(network.poll_delivery().unwrap().source, outside);
    // Back to the new address it comes, to the old one it does not.
    send(&mut network, b, a, b"back");
    network.send(b, address("10.0.0.1:7000"), Ecn::NotCapable, Bytes::new()).unwrap();
    network.step();
    let back = network.poll_delivery().unwrap();
    assert_eq!((back.local, back.socket), (address("10.0.0.1:7000"), a));
    assert_eq!(network.poll_delivery(), None);
    assert_eq!(network.stats().unbound, 1);
    assert_eq!(network.poll_readdressed(), None);
}

#[test]
fn an_address_change_is_told_to_the_host() {
    let (mut network, _, a, b) = chain(1, 1, &LinkConfig::new());
    let new = address("172.16.0.1:500");
    network.schedule(ms(1), Action::Readdress(a, new)).unwrap();
    network.step();
    let change = network.poll_readdressed().unwrap();
    assert_eq!((change.old, change.new), (address("10.0.0.1:7000"), new));
    send(&mut network, b, a, b"found");
    network.step();
    assert_eq!(network.poll_delivery().unwrap().local, new);
    // The address of another host, and the port of another socket, are refused.
    let taken = Action::Readdress(a, address("10.0.0.2:1"));
    assert!(matches!(network.act(&taken), Err(NetworkError::AddressInUse(_))));
}

#[test]
fn mistakes_are_refused() {
    let (mut network, chain, a, _) = chain(1, 1, &LinkConfig::new());
    let host = chain.hosts[0];
    assert!(matches!(
        network.add_host("h0", address("1.1.1.1:0").ip()),
        Err(NetworkError::AddressInUse(_))
    ));
    assert!(matches!(
        network.add_host("new", address("10.0.0.1:0").ip()),
        Err(NetworkError::AddressInUse(_))
    ));
    assert!(matches!(
        network.bind(host, address("10.0.0.1:7000")),
        Err(NetworkError::AddressInUse(_))
    ));
    assert!(matches!(network.bind(host, address("10.0.0.2:1")), Err(NetworkError::NotLocal(_))));
    let config = LinkConfig::new().loss(Loss::Independent(2.0));
    assert!(matches!(network.connect(host, chain.hosts[1], &config), Err(NetworkError::Config(_))));
    let action = Action::Link(chain.forward[0], LinkChange::Rate(Some(Bitrate::from_bps(0))));
    assert!(matches!(network.schedule(ms(1), action), Err(NetworkError::Config(_))));
    network.close(a).unwrap();
    assert_eq!(network.close(a), Err(NetworkError::Closed(a)));
    let sent = network.send(a, address("10.0.0.2:1"), Ecn::NotCapable, Bytes::new());
    assert_eq!(sent, Err(NetworkError::Closed(a)));
}

#[test]
fn free_ports_are_found_until_there_are_none() {
    let mut network = Network::new(1, Instant::now());
    let host = network.add_host("a", address("10.0.0.1:0").ip()).unwrap();
    let first = network.bind(host, address("10.0.0.1:0")).unwrap();
    assert_eq!(network.local_address(first).unwrap().port(), 49152);
    for _ in 1..=(65535 - 49152) {
        network.bind(host, address("10.0.0.1:0")).unwrap();
    }
    assert_eq!(network.bind(host, address("10.0.0.1:0")), Err(NetworkError::NoPort));
    network.close(first).unwrap();
    assert!(network.bind(host, address("10.0.0.1:0")).is_ok());
}

/// The digest of a busy chain; everything on it depends on the seed.
fn busy(seed: u64, base: Instant, payload: u8) -> (u64, u64) {
    let mut network = Network::new(seed, base);
    network.enable_digest();
    let config = LinkConfig::lab(Bitrate::from_mbps(20), ms(3), 0.05)
        .jitter(ms(1))
        .duplicate(0.01)
        .corrupt(0.01);
    let chain = network.chain(4, &config).unwrap();
    let a = network.bind(chain.hosts[0], address("10.0.0.1:1")).unwrap();
    let b = network.bind(chain.hosts[4], address("10.0.0.5:1")).unwrap();
    for packet in 0..2000u32 {
        network.advance_to(base + Duration::from_micros(400) * packet);
        let to = network.local_address(b).unwrap();
        network.send(a, to, Ecn::NotCapable, Bytes::from(vec![payload; 1000])).unwrap();
        // Every delivery is answered.
        while let Some(delivery) = network.poll_delivery() {
            if delivery.socket == b {
                network.send(b, delivery.source, Ecn::Ect0, delivery.data.slice(..10)).unwrap();
            }
        }
    }
    while network.step().is_some() {}
    (network.digest(), network.stats().delivered)
}

/// The oracle of the network: whatever happens to it, every packet that was sent, and every copy, was delivered,
/// dropped for a counted reason, or is on some link.
#[test]
fn random_networks_conserve_packets() {
    let mut delivered = 0;
    for seed in 0..100 {
        let mut random = Random::keyed(seed, &[7]);
        let config = LinkConfig::lab(
            Bitrate::from_kbps(200 + random.below(5000)),
            ms(random.below(20)),
            0.05,
        )
        .jitter(ms(random.below(5)))
        .jitter_reorders(random.below(2) == 0)
        .duplicate(0.05);
        let hops = 1 + random.below(5) as usize;
        let (mut network, chain, a, b) = chain(seed, hops, &config);
        let links: Vec<_> = chain.forward.iter().chain(&chain.backward).copied().collect();
        for _ in 0..300 {
            let link = links[random.below(links.len() as u64) as usize];
            let host = chain.hosts[random.below(hops as u64 + 1) as usize];
            let port = random.below(65_536) as u16;
            let action = match random.below(40) {
                0 => Action::Link(link, LinkChange::Down),
                1 => Action::Link(link, LinkChange::Up),
                2 => Action::Link(link, LinkChange::Hold),
                3 => Action::Link(link, LinkChange::Release),
                4 => Action::Link(
                    link,
                    LinkChange::Rate(Some(Bitrate::from_kbps(1 + random.below(9000)))),
                ),
                5 => Action::Partition(vec![host]),
                6 | 7 => Action::Heal,
                8 => Action::Rebind(a, (network.address(chain.hosts[0]).unwrap(), port).into()),
                9 => {
                    Action::Readdress(b, (network.address(chain.hosts[hops]).unwrap(), port).into())
                }
                _ => Action::Heal,
            };
            if random.below(4) == 0 {
                let at = network.elapsed() + ms(random.below(50));
                network.schedule(at, action).unwrap();
            }
            send(&mut network, a, b, b"there");
            send(&mut network, b, a, b"back");
            network.advance_to(network.now() + ms(random.below(8)));
            while network.poll_delivery().is_some() {}
            let stats = network.stats();
            let mut accounted =
                stats.delivered + stats.unroutable + stats.unbound + stats.hop_limit;
            let mut made = stats.sent;
            for link in &links {
                let stats = network.link_stats(*link).unwrap();
                accounted += stats.dropped() + stats.queued + stats.in_flight;
                made += stats.duplicated;
            }
            assert_eq!(made, accounted, "seed {seed}");
        }
        delivered += network.stats().delivered;
    }
    assert!(delivered > 10_000, "only {delivered}");
}

#[test]
fn equal_seeds_give_equal_runs_and_others_do_not() {
    let base = Instant::now();
    let run = busy(1, base, 7);
    assert_eq!(run, busy(1, base + Duration::from_secs(12_345), 7), "the base must not matter");
    assert_ne!(run.0, busy(2, base, 7).0, "the seed must matter");
    assert_ne!(run.0, busy(1, base, 8).0, "the payload must matter");
    // Pinned: the same on every machine, in debug and release. A change here changes every simulated result.
    assert_eq!(run, (241518032841440266, 3054));
}

#[test]
fn adding_a_link_leaves_the_draws_of_the_others() {
    let lossy = LinkConfig::new().loss(Loss::Independent(0.3)).delay(ms(1));
    let arrivals = |extra: bool, config: &LinkConfig| {
        let mut pair = Pair::new(9, config);
        if extra {
            let c = pair.network.add_host("c", address("10.0.0.3:0").ip()).unwrap();
            let d = pair.network.add_host("d", address("10.0.0.4:0").ip()).unwrap();
            pair.network.connect(c, d, &lossy).unwrap();
        }
        (0..500).for_each(|_| pair.send(10));
        pair.arrivals().into_iter().map(|(_, number)| number).collect::<Vec<u64>>()
    };
    let plain = arrivals(false, &lossy);
    assert_eq!(plain, arrivals(true, &lossy));
    // Another impairment of the same link does not change which packets are lost, either.
    assert_eq!(plain, arrivals(false, &lossy.clone().jitter(ms(1)).corrupt(0.5)));
}
