use std::time::Duration;

use bytes::Bytes;

use super::pair::Pair;
use crate::bats::flow::{Closed, Event, FlowConfig};
use crate::bats::toy::{Dice, ToyLink};

/// Bytes that tell where they belong.
fn pattern(offset: u64, length: usize) -> Bytes {
    (offset..offset + length as u64).map(|i| (i ^ (i >> 8) ^ (i >> 16)) as u8).collect()
}

/// Sends without pause for `seconds`; goodput in Mb/s after the first quarter.
fn bulk(config: FlowConfig, link: ToyLink, seconds: u64, seed: u64) -> f64 {
    let mut pair = Pair::new(config, link, seed);
    let end = pair.base + Duration::from_secs(seconds);
    let steady = Duration::from_millis(seconds * 250);
    let (mut sent, mut received, mut early) = (0u64, 0u64, 0);
    loop {
        while pair.client.is_writable() {
            let mut data = pattern(sent, 64 * 1024);
            sent += pair.client.write_bytes(&mut data).unwrap() as u64;
        }
        let more = pair.step(end);
        while let Some(data) = pair.server.read() {
            assert_eq!(data, pattern(received, data.len()), "seed {seed} at {received}");
            received += data.len() as u64;
        }
        if pair.elapsed() < steady {
            early = received;
        }
        if !more {
            break;
        }
    }
    let (stats, peer) = (pair.client.stats(), pair.server.stats());
    println!("seed {seed}: {stats:?} {peer:?}");
    (received - early) as f64 * 8e-6 / (seconds as f64 * 0.75)
}

#[test]
fn one_hop_carries_its_share_under_loss() {
    for (seed, loss) in [(1, 0.0), (2, 0.02), (3, 0.1), (4, 0.3)] {
        let link = ToyLink::new(20, 20, loss);
        let goodput = bulk(FlowConfig::default(), link, 4, seed);
        let limit = 20.0 * (1.0 - loss) * 1435.0 / 1506.0;
        println!("loss {loss}: {goodput:.2} of {limit:.2} Mb/s");
        assert!(goodput > 0.97 * limit, "seed {seed}: {goodput} of {limit}");
        assert!(goodput < 1.03 * limit, "seed {seed}: {goodput} of {limit}");
    }
}

#[test]
fn without_hop_feedback_the_receiver_asks_for_what_it_lacks() {
    for (seed, loss) in [(5, 0.0), (6, 0.05), (7, 0.2)] {
        let config = FlowConfig { hop_feedback: false, ..FlowConfig::default() };
        let goodput = bulk(config, ToyLink::new(20, 20, loss), 4, seed);
        let limit = 20.0 * (1.0 - loss) * 1418.0 / 1506.0;
        println!("loss {loss}: {goodput:.2} of {limit:.2} Mb/s");
        assert!(goodput > 0.93 * limit, "seed {seed}: {goodput} of {limit}");
    }
}

#[test]
fn a_transfer_ends_with_everything_acknowledged_on_both_sides() {
    for seed in 0..20 {
        let mut dice = Dice::new(seed);
        let config = FlowConfig { hop_feedback: seed % 2 == 0, ..FlowConfig::default() };
        let mut pair = Pair::new(config, ToyLink::new(20, 10, 0.2), seed);
        let total = dice.below(200_000) as usize + 1;
        let end = pair.base + Duration::from_secs(20);
        let (mut offset, mut received) = (0, 0);
        while pair.step(end) && !(pair.client.is_closed() && pair.server.is_closed()) {
            if offset < total {
                let length = (dice.below(5000) as usize + 1).min(total - offset);
                offset += pair.client.write(&pattern(offset as u64, length)).unwrap();
            } else {
                pair.client.finish();
                pair.server.finish();
            }
            while let Some(data) = pair.server.read() {
                assert_eq!(data, pattern(received, data.len()), "seed {seed}");
                received += data.len() as u64;
            }
        }
        assert_eq!(received, total as u64, "seed {seed}");
        for events in [&pair.client_events, &pair.server_events] {
            assert_eq!(events.first(), Some(&Event::Established), "seed {seed}");
            assert_eq!(
                events.last(),
                Some(&Event::Closed(Closed::Finished)),
                "seed {seed}: {events:?}"
            );
            let count = |event: &Event| events.iter().filter(|&e| e == event).count();
            assert_eq!(count(&Event::ShutdownByPeer), 1, "seed {seed}");
        }
        assert!(pair.client_events.contains(&Event::AllDataAcknowledged), "seed {seed}");
        assert!(pair.elapsed() < Duration::from_secs(3), "seed {seed}: {:?}", pair.elapsed());
    }
}

#[test]
fn a_reader_that_stops_holds_the_sender_up_and_loses_nothing() {
    let config = FlowConfig::default();
    let mut pair = Pair::new(config, ToyLink::new(100, 5, 0.02), 11);
    let mut server = FlowConfig { receive_window: 4096, ..config };
    server.seed = 3;
    pair.server = crate::bats::flow::Flow::server(server, pair.base).unwrap();
    let mut sent = 0u64;
    let pause = pair.base + Duration::from_secs(3);
    while pair.step(pause) {
        let mut data = pattern(sent, 16 * 1024);
        sent += pair.client.write_bytes(&mut data).unwrap() as u64;
    }
    let most = 4096 * 1440 + pair.client.ideal_buffer_length() as u64 + 65_536;
    assert!(sent <= most && sent > 4096 * 1400, "{sent} of {most}");
    assert_eq!(pair.server.stats().dropped.beyond_window, 0);
    pair.client.finish();
    let (end, mut received) = (pause + Duration::from_secs(10), 0);
    while pair.step(end) && !pair.server_events.contains(&Event::ShutdownByPeer) {
        while let Some(data) = pair.server.read() {
            assert_eq!(data, pattern(received, data.len()));
            received += data.len() as u64;
        }
        pair.drive();
    }
    while let Some(data) = pair.server.read() {
        received += data.len() as u64;
    }
    assert_eq!(received, sent);
}
