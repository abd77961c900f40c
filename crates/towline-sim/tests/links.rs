//! One link: times to the nanosecond, limits, impairments and their statistics.

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use common::{Pair, ms, us};
use towline_sim::{
    Bitrate, Burst, Ecn, JitterShape, LinkChange, LinkConfig, LinkStats, Loss, QueueLimit, Random,
    Reorder,
};

/// Nothing is created or destroyed without being counted.
fn assert_conserved(stats: &LinkStats) {
    assert_eq!(
        stats.offered.packets + stats.duplicated,
        stats.delivered.packets + stats.dropped() + stats.queued + stats.in_flight,
        "{stats:?}"
    );
}

#[test]
fn a_perfect_link_delivers_at_the_same_instant() {
    let mut pair = Pair::new(1, &LinkConfig::new());
    pair.send(100);
    assert_eq!(pair.arrivals(), [(Duration::ZERO, 0)]);
}

#[test]
fn rate_overhead_and_delay_are_exact() {
    // 1,000 bytes, 28 of headers, 14 of framing at 100 Mb/s: 83,360 ns each.
    let config = LinkConfig::new().rate(Bitrate::from_mbps(100)).delay(ms(5));
    let mut pair = Pair::new(1, &config);
    (0..3).for_each(|_| pair.send(1000));
    let times: Vec<u128> = pair.arrivals().iter().map(|(at, _)| at.as_nanos()).collect();
    assert_eq!(times, [5_083_360, 5_166_720, 5_250_080]);
    let stats = pair.stats();
    assert_eq!(stats.delivered.bytes, 3 * 1042);
    assert_eq!(stats.queue_delay.max(), Duration::from_nanos(250_080));
    assert_eq!(stats.queue_delay.mean(), Duration::from_nanos(166_720));
}

#[test]
fn overheads_can_be_chosen() {
    let config = LinkConfig::new().rate(Bitrate::from_mbps(8)).headers(0).framing(0);
    let mut pair = Pair::new(1, &config);
    pair.send(1000);
    assert_eq!(pair.arrivals(), [(ms(1), 0)]);
}

#[test]
fn the_queue_drops_what_does_not_fit() {
    // A byte per microsecond, no overhead; room for 2,000 bytes.
    let bare = LinkConfig::new().rate(Bitrate::from_mbps(8)).headers(0).framing(0);
    for limit in [QueueLimit::Bytes(2000), QueueLimit::Time(ms(2)), QueueLimit::Packets(2)] {
        let mut pair = Pair::new(1, &bare.clone().queue(limit));
        (0..4).for_each(|_| pair.send(1000));
        pair.run_to(us(1500));
        pair.send(1000);
        assert_eq!(pair.arrivals(), [(ms(1), 0), (ms(2), 1), (ms(3), 4)], "{limit:?}");
        let stats = pair.stats();
        assert_eq!((stats.dropped_queue.packets, stats.max_queued_bytes), (2, 2000), "{limit:?}");
        assert_conserved(&stats);
    }
}

#[test]
fn a_packet_larger_than_the_queue_is_taken_when_nothing_waits() {
    let config = LinkConfig::new().rate(Bitrate::from_mbps(8)).queue(QueueLimit::Bytes(10));
    let mut pair = Pair::new(1, &config);
    pair.send(1000);
    pair.send(1000);
    assert_eq!(pair.arrivals().len(), 1);
}

#[test]
fn a_full_queue_marks_what_can_be_marked() {
    let config = LinkConfig::new()
        .rate(Bitrate::from_mbps(8))
        .headers(0)
        .framing(0)
        .queue(QueueLimit::Unlimited)
        .ecn_threshold(QueueLimit::Time(us(1500)));
    let mut pair = Pair::new(1, &config);
    for ecn in [Ecn::Ect0, Ecn::Ect0, Ecn::Ect0, Ecn::NotCapable, Ecn::Ect1] {
        pair.send_with(1000, ecn);
    }
    pair.finish();
    let marks: Vec<Ecn> = pair.deliveries().into_iter().map(|delivery| delivery.ecn).collect();
    assert_eq!(marks, [Ecn::Ect0, Ecn::Ect0, Ecn::Ce, Ecn::NotCapable, Ecn::Ce]);
    assert_eq!(pair.stats().marked, 2);
}

#[test]
fn the_mtu_counts_headers_and_no_framing() {
    let mut pair = Pair::new(1, &LinkConfig::new().mtu(1028));
    pair.send(1000);
    pair.send(1001);
    assert_eq!(pair.arrivals().len(), 1);
    assert_eq!(pair.stats().dropped_mtu.packets, 1);
    assert_conserved(&pair.stats());
}

/// The link model of the laboratory: token bucket of 10 ms, drop-tail queue of 11 ms, 14 bytes of Ethernet.
#[test]
fn the_laboratory_link_has_its_ceiling_burst_and_queue() {
    for (megabits, loss) in [(100, 0.0), (1000, 0.0), (100, 0.1), (3, 0.0)] {
        let rate = Bitrate::from_mbps(megabits);
        let mut pair = Pair::new(7, &LinkConfig::lab(rate, ms(10), loss));
        // Twice the rate for two seconds.
        let interval = rate.time_of(757);
        let total = Duration::from_secs(2);
        let mut received = 0u64;
        let mut first = 0;
        let mut at = Duration::ZERO;
        while at < total {
            pair.run_to(at);
            pair.send(1472);
            for delivery in pair.deliveries() {
                let at = delivery.at - pair.network.base();
                first += u64::from(at <= ms(10));
                received += u64::from(at >= ms(1000)) * delivery.data.len() as u64;
            }
            at += interval;
        }
        // One second, from 1 s on.
        let goodput = received as f64 * 8.0;
        let ceiling = rate.as_bps() as f64 * 1472.0 / 1514.0 * (1.0 - loss);
        let packets = ceiling / 8.0 / 1472.0;
        let tolerance = 2.0 / packets + 4.0 * (loss / packets).sqrt();
        assert!((goodput / ceiling - 1.0).abs() < tolerance, "{rate}: {goodput} of {ceiling}");
        // 0.953 x rate is what a protocol with 29 bytes of header per datagram can reach.
        assert!((1443.0f64 / 1514.0 - 0.953).abs() < 0.0005);
        if loss == 0.0 && megabits >= 100 {
            // The full bucket lets what was sent in the first instant through: the first packet takes no time.
            assert!(first >= 1);
            let stats = pair.stats();
            let queue = rate.bytes_in(ms(11));
            assert!(stats.max_queued_bytes <= queue && stats.max_queued_bytes > queue - 1514);
            assert!(stats.queue_delay.max() <= ms(11) && stats.queue_delay.max() > ms(10));
        }
    }
}

#[test]
fn the_bucket_of_the_laboratory_passes_ten_milliseconds_at_once() {
    let rate = Bitrate::from_mbps(100);
    let mut pair = Pair::new(1, &LinkConfig::lab(rate, ms(10), 0.0));
    (0..1000).for_each(|_| pair.send(1472));
    let times = pair.arrivals();
    // 125,000 bytes of burst are 82 packets of 1,514; 137,500 bytes of queue are 90 more.
    assert_eq!(times.iter().filter(|(at, _)| *at == ms(10)).count(), 82);
    assert_eq!(times.len(), 82 + 90);
    // From there on it is the rate: the 83rd needs 1514 x 83 bytes in all, 125,000 of them saved.
    assert_eq!(times[82].0, ms(10) + rate.time_of(1514 * 83 - 125_000));
    assert_eq!(pair.stats().dropped_queue.packets, 1000 - 172);
}

#[test]
fn order_is_kept_under_jitter_unless_it_may_be_lost() {
    for shape in [JitterShape::Uniform, JitterShape::Bell] {
        let config = LinkConfig::new().delay(ms(10)).jitter(ms(5)).jitter_shape(shape);
        let run = |config: &LinkConfig| {
            let mut pair = Pair::new(3, config);
            for packet in 0..2000u32 {
                pair.run_to(us(100) * packet);
                pair.send(100);
            }
            (pair.arrivals(), pair.stats())
        };
        let (kept, stats) = run(&config);
        assert!(kept.is_sorted_by_key(|(at, number)| (*at, *number)) && kept.len() == 2000);
        assert!(kept.is_sorted_by_key(|(_, number)| *number));
        assert_conserved(&stats);

        let (lost, stats) = run(&config.clone().jitter_reorders(true));
        assert!(!lost.is_sorted_by_key(|(_, number)| *number) && lost.len() == 2000);
        assert!(lost.is_sorted_by_key(|(at, _)| *at));
        assert_conserved(&stats);
        let delays: Vec<Duration> =
            lost.iter().map(|(at, number)| *at - us(100) * *number as u32).collect();
        assert!(delays.iter().all(|delay| *delay >= ms(5) && *delay <= ms(15)));
        let mean = delays.iter().sum::<Duration>() / 2000;
        assert!(mean > us(9_700) && mean < us(10_300), "{mean:?}");
        let near = delays.iter().filter(|delay| delay.abs_diff(ms(10)) < us(2500)).count();
        let expected = if shape == JitterShape::Uniform { 1000 } else { 1815 };
        assert!(near.abs_diff(expected) < 100, "{shape:?}: {near}");
    }
}

#[test]
fn packets_held_back_are_overtaken() {
    let config = LinkConfig::new().delay(ms(1)).reorder(0.1, ms(2));
    let mut pair = Pair::new(4, &config);
    for packet in 0..1000u32 {
        pair.run_to(us(500) * packet);
        pair.send(100);
    }
    let arrivals = pair.arrivals();
    let held =
        arrivals.iter().filter(|(at, number)| *at - us(500) * *number as u32 == ms(3)).count()
            as u64;
    assert_eq!(held, pair.stats().reordered);
    assert!((60..140).contains(&held), "{held}");
    let on_time =
        arrivals.iter().filter(|(at, number)| *at - us(500) * *number as u32 == ms(1)).count()
            as u64;
    assert_eq!(held + on_time, 1000);
}

#[test]
fn of_two_that_arrive_at_once_the_first_to_leave_is_first() {
    let held = LinkChange::Reorder(Some(Reorder { probability: 1.0, extra: ms(1) }));
    let config = LinkConfig::new()
        .delay(ms(1))
        .at(Duration::ZERO, held)
        .at(us(500), LinkChange::Reorder(None));
    let mut pair = Pair::new(1, &config);
    pair.run_to(Duration::ZERO);
    pair.send(1);
    pair.run_to(ms(1));
    pair.send(1);
    assert_eq!(pair.arrivals(), [(ms(2), 0), (ms(2), 1)]);
    assert_eq!(pair.stats().reordered, 1);
}

#[test]
fn duplicates_arrive_twice_and_share_their_identity() {
    let mut pair = Pair::new(5, &LinkConfig::new().duplicate(0.25));
    (0..1000).for_each(|_| pair.send(100));
    let mut copies = BTreeMap::new();
    for delivery in pair.deliveries() {
        *copies.entry(delivery.packet).or_insert(0) += 1;
    }
    let twice = copies.values().filter(|count| **count == 2).count() as u64;
    assert_eq!((copies.len(), twice), (1000, pair.stats().duplicated));
    assert!((190..310).contains(&twice), "{twice}");
    assert_conserved(&pair.stats());
}

#[test]
fn corruption_flips_the_bits_it_says_and_leaves_the_sender_alone() {
    let config = LinkConfig::new().corrupt(1.0).corrupt_bits(1);
    let mut pair = Pair::new(6, &config);
    let data = Bytes::from(vec![0u8; 200]);
    (0..100).for_each(|_| pair.send_bytes(data.clone(), Ecn::NotCapable));
    let flipped: Vec<u32> = pair
        .deliveries()
        .iter()
        .map(|delivery| delivery.data.iter().map(|byte| byte.count_ones()).sum())
        .collect();
    assert_eq!(flipped, vec![1; 100]);
    assert!(data.iter().all(|byte| *byte == 0));
    assert_eq!(pair.stats().corrupted, 100);
    // An empty datagram has nothing to corrupt.
    pair.send_bytes(Bytes::new(), Ecn::NotCapable);
    assert_eq!(pair.deliveries().len(), 1);
}

#[test]
fn listed_packets_are_lost() {
    let mut pair = Pair::new(1, &LinkConfig::new().loss(Loss::Listed([1, 3].into())));
    (0..5).for_each(|_| pair.send(10));
    let arrived: Vec<u64> = pair.arrivals().iter().map(|(_, number)| *number).collect();
    assert_eq!(arrived, [0, 2, 4]);
}

#[test]
fn an_outage_loses_what_leaves_and_keeps_what_is_on_the_way() {
    let config = LinkConfig::new().delay(ms(10)).outage(ms(5), ms(20));
    let mut pair = Pair::new(1, &config);
    for packet in 0..30u32 {
        pair.run_to(ms(1) * packet);
        pair.send(10);
    }
    let arrived: Vec<u64> = pair.arrivals().iter().map(|(_, number)| *number).collect();
    // Changes come before what is sent at the same instant.
    assert_eq!(arrived, (0..5).chain(20..30).collect::<Vec<u64>>());
    assert_eq!(pair.stats().dropped_outage.packets, 15);
    assert_conserved(&pair.stats());
}

#[test]
fn a_held_link_queues_and_goes_on_at_its_rate() {
    let config = LinkConfig::new()
        .rate(Bitrate::from_mbps(8))
        .headers(0)
        .framing(0)
        .queue(QueueLimit::Packets(5))
        .at(us(500), LinkChange::Hold)
        .at(ms(10), LinkChange::Release);
    let mut pair = Pair::new(1, &config);
    pair.send(1000);
    pair.run_to(ms(1));
    (0..6).for_each(|_| pair.send(1000));
    let times: Vec<Duration> = pair.arrivals().into_iter().map(|(at, _)| at).collect();
    assert_eq!(times, [ms(11), ms(12), ms(13), ms(14), ms(15)]);
    assert_eq!(pair.stats().dropped_queue.packets, 2);
}

#[test]
fn steps_of_rate_delay_and_loss_happen_on_time() {
    let config = LinkConfig::new()
        .rate(Bitrate::from_mbps(8))
        .headers(0)
        .framing(0)
        .queue(QueueLimit::Unlimited)
        .at(us(1500), LinkChange::Rate(Some(Bitrate::from_mbps(4))))
        .at(ms(5), LinkChange::Delay(ms(3)))
        .at(ms(7), LinkChange::Loss(Loss::Independent(1.0)))
        .at(ms(9), LinkChange::Loss(Loss::None))
        .at(ms(9), LinkChange::Rate(None));
    let mut pair = Pair::new(1, &config);
    (0..6).for_each(|_| pair.send(1000));
    // Departures: 1 ms; half of the second by 1.5 ms and the rest at half the rate: 2.5; 4.5; 6.5; 8.5 (lost);
    // the last one at 9 ms, when the rate becomes infinite. Delay 3 ms from 5 ms on.
    let expected = [(ms(1), 0), (us(2500), 1), (us(4500), 2), (us(9500), 3), (ms(12), 5)];
    assert_eq!(pair.arrivals(), expected);
    assert_eq!(pair.stats().dropped_loss.packets, 1);
}

#[test]
fn loss_over_the_network_stays_within_its_bounds() {
    for (seed, loss) in [
        (1, Loss::Independent(0.05)),
        (2, Loss::Burst { mean: 0.05, burst: 8.0 }),
        (3, Loss::Independent(0.4)),
    ] {
        let mut pair = Pair::new(seed, &LinkConfig::new().loss(loss.clone()));
        let packets = 100_000u64;
        (0..packets).for_each(|_| pair.send(1));
        let arrived: Vec<u64> = pair.arrivals().iter().map(|(_, number)| *number).collect();
        let (mean, burst) = match loss {
            Loss::Burst { mean, burst } => (mean, burst),
            Loss::Independent(mean) => (mean, 1.0 / (1.0 - mean)),
            _ => unreachable!(),
        };
        let lost = packets - arrived.len() as u64;
        let gaps = arrived.windows(2).filter(|pair| pair[1] > pair[0] + 1).count();
        let share = lost as f64 / packets as f64;
        let bound = 4.0 * (mean * 2.0 * burst / packets as f64).sqrt();
        assert!((share - mean).abs() < bound, "seed {seed}: {share}");
        let run = lost as f64 / gaps as f64;
        assert!((run - burst).abs() < 0.06 * burst, "seed {seed}: {run}");
        assert_eq!(pair.stats().dropped_loss.packets, lost);
    }
}

/// A random link, with every impairment now and then.
fn random_config(random: &mut Random) -> LinkConfig {
    let share = |random: &mut Random, of: f64| random.below(1000) as f64 / 1000.0 * of;
    let mut config = LinkConfig::new().delay(us(random.below(3000))).jitter(us(random.below(2000)));
    if random.below(4) > 0 {
        config = config.rate(Bitrate::from_kbps(1 + random.below(20_000)));
    }
    config = match random.below(3) {
        0 => config.burst(Burst::Time(ms(random.below(4)))),
        1 => config.burst(Burst::Bytes(random.below(5000))),
        _ => config,
    };
    config = match random.below(4) {
        0 => config.queue(QueueLimit::Bytes(random.below(20_000))),
        1 => config.queue(QueueLimit::Packets(random.below(20))),
        2 => config.queue(QueueLimit::Unlimited),
        _ => config,
    };
    config = match random.below(3) {
        0 => config.loss(Loss::Independent(share(random, 0.5))),
        1 => config.loss(Loss::Burst { mean: share(random, 0.3), burst: 1.0 + share(random, 9.0) }),
        _ => config,
    };
    config = config
        .jitter_reorders(random.below(2) == 0)
        .duplicate(share(random, 0.2))
        .corrupt(share(random, 0.2));
    if random.below(2) == 0 {
        config = config.reorder(share(random, 0.3), us(random.below(5000)));
    }
    for _ in 0..random.below(5) {
        let change = match random.below(7) {
            0 => LinkChange::Rate(Some(Bitrate::from_kbps(1 + random.below(20_000)))),
            1 => LinkChange::Rate(None),
            2 => LinkChange::Delay(us(random.below(3000))),
            3 => LinkChange::Down,
            4 => LinkChange::Up,
            5 => LinkChange::Hold,
            _ => LinkChange::Release,
        };
        config = config.at(us(random.below(50_000)), change);
    }
    config
}

/// The oracle of the link: whatever is configured, every packet is accounted for at every time, nothing comes out
/// earlier than it can, order is kept where it is promised, and an observer (which turns every departure into
/// an event of its own) changes nothing.
#[test]
fn random_links_conserve_packets_and_do_not_notice_observers() {
    let mut total = 0;
    for seed in 0..300 {
        let mut random = Random::keyed(seed, &[99]);
        let config = random_config(&mut random);
        let sends: Vec<(Duration, usize)> =
            (0..200).map(|_| (us(random.below(60_000)), random.below(1600) as usize)).collect();
        let mut sends = sends;
        sends.sort();
        let run = |observed: bool| {
            let mut pair = Pair::new(seed, &config);
            pair.network.enable_digest();
            let trace = observed.then(|| pair.observe());
            let mut arrivals = Vec::new();
            for (at, size) in &sends {
                pair.run_to(*at);
                pair.send(*size);
                assert_conserved(&pair.stats());
                arrivals.extend(pair.deliveries());
            }
            pair.finish();
            arrivals.extend(pair.deliveries());
            assert_conserved(&pair.stats());
            assert!(arrivals.is_sorted_by_key(|delivery| delivery.at), "seed {seed}");
            if let Some(trace) = trace {
                assert!(trace.borrow().is_sorted_by_key(|event| event.at), "seed {seed}");
                assert!(trace.borrow().len() >= 400, "seed {seed}");
            }
            (pair.network.digest(), arrivals.len())
        };
        let plain = run(false);
        assert_eq!(plain, run(false), "seed {seed}: not deterministic");
        assert_eq!(plain, run(true), "seed {seed}: an observer changed the run");
        total += plain.1;
    }
    assert!(total > 300 * 50, "only {total} arrivals");
}
