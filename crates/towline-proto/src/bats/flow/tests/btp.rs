use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::pair::Pair;
use crate::bats::flow::{Event, FlowConfig};
use crate::bats::toy::{Dice, ToyLink};

/// What came of messages of `length` bytes sent every `gap`.
struct Outcome {
    sent: u64,
    in_time: u64,
    /// Above the delay of the path, of those that came.
    worst: Duration,
}

fn message(number: u64, length: usize) -> Bytes {
    let mut out = number.to_be_bytes().to_vec();
    out.resize(length.max(8), number as u8 | 1);
    out.into()
}

fn run(
    config: FlowConfig,
    link: ToyLink,
    length: usize,
    gap: Duration,
    seconds: u64,
    seed: u64,
) -> Outcome {
    let mut pair = Pair::new(config, link, seed);
    let opened = pair.base + Duration::from_millis(500);
    while pair.step(opened) {}
    let end = opened + Duration::from_secs(seconds);
    let mut due = opened;
    let mut sent: BTreeMap<u64, Instant> = BTreeMap::new();
    let (mut number, mut in_time, mut worst) = (0, 0, Duration::ZERO);
    while pair.now < end {
        if pair.now >= due {
            pair.client.send(message(number, length)).unwrap();
            sent.insert(number, pair.now);
            (number, due) = (number + 1, due + gap);
            pair.drive();
        }
        pair.step(due.min(end));
        while let Some(data) = pair.server.recv() {
            let number = u64::from_be_bytes(data[..8].try_into().unwrap());
            assert_eq!(data, message(number, length), "seed {seed}");
            let at = sent.get_mut(&number).expect("sent");
            let delay = pair.now - *at;
            assert!(delay < Duration::from_secs(100), "seed {seed}: {number} twice");
            *at -= Duration::from_secs(1000);
            worst = worst.max(delay.saturating_sub(link.delay));
            in_time += 1;
        }
    }
    println!("{:?}\n{:?}", pair.client.stats(), pair.server.stats());
    Outcome { sent: number, in_time, worst }
}

#[test]
fn coding_leaves_little_lost_within_20_ms() {
    for (seed, loss, residual) in [(1, 0.2, 0.001), (2, 0.3, 0.01), (3, 0.05, 0.001)] {
        let config = FlowConfig { deadline: Duration::from_millis(20), ..FlowConfig::btp() };
        let gap = Duration::from_micros(1100);
        let outcome = run(config, ToyLink::new(100, 20, loss), 1400, gap, 8, seed);
        // The last 40 ms are still on their way.
        let lost = (outcome.sent - outcome.in_time).saturating_sub(37) as f64 / outcome.sent as f64;
        println!("loss {loss}: residual {lost:.5}, worst {:?}", outcome.worst);
        assert!(lost <= residual, "seed {seed}: {lost}");
        assert!(outcome.worst <= Duration::from_millis(21), "{:?}", outcome.worst);
    }
}

#[test]
fn a_thin_flow_is_repeated_at_once() {
    let config = FlowConfig::btp();
    let gap = Duration::from_millis(10);
    let outcome = run(config, ToyLink::new(100, 10, 0.05), 512, gap, 20, 4);
    let lost = outcome.sent - outcome.in_time;
    println!("{lost} of {} lost, worst {:?}", outcome.sent, outcome.worst);
    assert!(lost <= 4, "{lost}");
    assert!(outcome.worst < Duration::from_millis(12), "{:?}", outcome.worst);
}

#[test]
fn messages_of_any_length_arrive_whole_or_not_at_all() {
    for seed in 0..10 {
        let mut dice = Dice::new(seed);
        let length = 8 + dice.below(20_000) as usize;
        let config = FlowConfig { deadline: Duration::from_millis(50), ..FlowConfig::btp() };
        let outcome =
            run(config, ToyLink::new(20, 10, 0.1), length, Duration::from_millis(30), 2, seed);
        assert!(
            outcome.in_time * 10 >= outcome.sent * 8,
            "seed {seed}, {length} bytes: {}",
            outcome.in_time
        );
        assert!(outcome.worst <= Duration::from_millis(51), "seed {seed}: {:?}", outcome.worst);
    }
}

#[test]
fn what_cannot_leave_in_time_is_dropped_and_told() {
    let config = FlowConfig { deadline: Duration::from_millis(30), ..FlowConfig::btp() };
    let mut pair = Pair::new(config, ToyLink::new(1, 10, 0.0), 7);
    let opened = pair.base + Duration::from_millis(200);
    while pair.step(opened) {}
    for number in 0..100 {
        pair.client.send(message(number, 1000)).unwrap();
    }
    pair.drive();
    let end = opened + Duration::from_secs(2);
    while pair.step(end) {}
    let mut received = 0;
    while pair.server.recv().is_some() {
        received += 1;
    }
    let dropped = pair.client_events.iter().map(|event| match event {
        Event::SendError { dropped } => *dropped,
        _ => 0,
    });
    let dropped: u64 = dropped.sum();
    assert_eq!(dropped, pair.client.stats().dropped.expired_messages);
    assert_eq!(dropped + received + pair.server.stats().dropped.late_messages, 100);
    assert!(dropped > 90 && received > 0, "{dropped} dropped, {received} received");
}
