//! What the controller does over a bottleneck. Thresholds leave room: what is measured is in `docs/bats.md`.

use super::track::{Link, Source, Track};
use crate::quic::CongestionController;

/// One flow that has always more to send.
fn bulk(link: Link, seed: u64) -> Track {
    println!("seed {seed}");
    Track::new(link, &[(Source::Bulk, 0.0)], seed)
}

#[test]
fn random_loss_does_not_slow() {
    for (delay, loss) in [(10.0, 0.1), (50.0, 0.02), (100.0, 0.1), (25.0, 0.4)] {
        let mut track = bulk(Link::new(100.0, delay, loss), 1);
        track.run_to(4.0);
        track.mark();
        track.run_to(12.0);
        assert!(track.share(0) > 0.96, "{delay} ms, {loss}: {}", track.share(0));
    }
}

#[test]
fn rates_from_a_megabit_to_a_gigabit_are_used() {
    for (rate, least) in [(1.0, 0.85), (10.0, 0.93), (1_000.0, 0.97)] {
        let mut track = bulk(Link::new(rate, 10.0, 0.05), 2);
        track.run_to(3.0);
        track.mark();
        track.run_to(8.0);
        assert!(track.share(0) > least, "{rate} Mb/s: {}", track.share(0));
    }
}

#[test]
fn the_start_finds_the_rate_without_flooding_the_queue() {
    for delay in [10.0, 100.0] {
        let mut track = bulk(Link::new(100.0, delay, 0.02), 3);
        track.run_to(12.0 * delay / 1e3 + 0.3);
        track.mark();
        track.run_to(track.elapsed() + 1.0);
        assert!(track.share(0) > 0.9, "{delay} ms: {}", track.share(0));
        // Doubling in bursts would lose a round trip's worth: 1,700 packets at 100 ms.
        assert!(track.flows[0].overflowed < 900, "{delay} ms: {}", track.flows[0].overflowed);
    }
}

#[test]
fn bursts_of_losses_are_random_loss() {
    let mut track = bulk(Link { burst: 8.0, ..Link::new(100.0, 10.0, 0.05) }, 4);
    track.run_to(3.0);
    track.mark();
    track.run_to(12.0);
    assert!(track.share(0) > 0.93, "{}", track.share(0));
}

#[test]
fn a_rate_that_halves_is_followed_within_a_second() {
    let mut track = bulk(Link::new(100.0, 25.0, 0.02), 5);
    track.run_to(5.0);
    track.link.rate /= 2.0;
    track.run_to(6.0);
    let overflowed = track.flows[0].overflowed;
    track.mark();
    track.run_to(9.0);
    assert!(track.share(0) > 0.95, "{}", track.share(0));
    let lost = track.flows[0].overflowed - overflowed;
    assert!(lost < 300, "{lost} of 12,000 packets");
}

#[test]
fn a_rate_that_doubles_is_found_within_three_seconds() {
    let mut track = bulk(Link::new(50.0, 25.0, 0.02), 6);
    track.run_to(5.0);
    track.link.rate *= 2.0;
    track.run_to(8.0);
    track.mark();
    track.run_to(11.0);
    assert!(track.share(0) > 0.93, "{}", track.share(0));
}

#[test]
fn the_rate_is_back_within_a_second_of_an_outage() {
    let mut track = bulk(Link::new(100.0, 25.0, 0.01), 7);
    track.run_to(4.0);
    track.link.down = true;
    track.run_to(9.0);
    track.link.down = false;
    track.run_to(10.0);
    track.mark();
    track.run_to(13.0);
    assert!(track.share(0) > 0.95, "{}", track.share(0));
}

#[test]
fn loss_that_sets_in_is_found_to_be_random() {
    let mut track = bulk(Link::new(100.0, 25.0, 0.0), 8);
    track.run_to(4.0);
    (track.link.loss, track.link.back_loss) = (0.1, 0.1);
    track.run_to(5.0);
    track.mark();
    track.run_to(10.0);
    assert!(track.share(0) > 0.95, "{}", track.share(0));
}

#[test]
fn what_the_application_does_not_send_says_nothing_against_the_path() {
    let mut track = bulk(Link::new(100.0, 25.0, 0.02), 9);
    track.run_to(4.0);
    track.flows[0].source = Source::Rate(1_250_000.0);
    track.run_to(14.0);
    let known = track.flows[0].control.report().map_or(0, |report| report.rate) as f64;
    assert!(known > 0.9 * track.link.carries(), "{known}");
    track.flows[0].source = Source::Bulk;
    let overflowed = track.flows[0].overflowed;
    track.run_to(14.2);
    track.mark();
    track.run_to(16.0);
    assert!(track.share(0) > 0.95, "{}", track.share(0));
    assert!(track.flows[0].overflowed - overflowed < 100);
}

#[test]
fn after_a_stall_nothing_is_dumped() {
    for (on, off) in [(0.5, 0.2), (0.05, 0.05), (1.0, 1.0)] {
        let mut track =
            Track::new(Link::new(100.0, 25.0, 0.02), &[(Source::Bursts(on, off), 0.0)], 10);
        track.run_to(2.0);
        let (overflowed, sent) = (track.flows[0].overflowed, track.flows[0].sent);
        track.mark();
        track.run_to(12.0);
        let (lost, sent) = (track.flows[0].overflowed - overflowed, track.flows[0].sent - sent);
        assert!(lost * 50 < sent, "{on} s, {off} s: {lost} of {sent}");
        assert!(track.share(0) > 0.93 * on / (on + off), "{on} s, {off} s: {}", track.share(0));
    }
}

#[test]
fn gaps_that_stop_a_reliable_flow_do_not_slow_it_afterwards() {
    // Five times what is in flight: less and the flow itself would be the limit.
    let mut track = Track::new(Link::new(100.0, 50.0, 0.1), &[(Source::Window(4_500), 0.0)], 11);
    track.run_to(4.0);
    track.mark();
    track.run_to(14.0);
    assert!(track.share(0) > 0.95, "{}", track.share(0));
    assert!(track.flows[0].overflowed < 1_500, "{}", track.flows[0].overflowed);
}

#[test]
fn flows_share_with_loss_as_they_do_without() {
    for (rate, loss, count) in
        [(100.0, 0.0, 2), (100.0, 0.05, 2), (100.0, 0.05, 4), (10.0, 0.05, 2)]
    {
        let flows: Vec<_> = (0..count).map(|flow| (Source::Bulk, 2.0 * f64::from(flow))).collect();
        let mut track = Track::new(Link::new(rate, 10.0, loss), &flows, 12);
        track.run_to(15.0);
        track.mark();
        track.run_to(35.0);
        assert!(track.jain() > 0.93, "{rate} Mb/s, {loss}, {count}: {}", track.jain());
        let all: f64 = (0..flows.len()).map(|flow| track.share(flow)).sum();
        assert!(all > 0.93, "{rate} Mb/s, {loss}, {count}: {all}");
    }
}

#[test]
fn marks_keep_the_queue_short() {
    let mut track = bulk(Link { mark: 0.003, ..Link::new(100.0, 10.0, 0.02) }, 13);
    track.run_to(3.0);
    let overflowed = track.flows[0].overflowed;
    track.mark();
    track.run_to(8.0);
    assert!(track.share(0) > 0.8, "{}", track.share(0));
    assert!(track.queue() < 0.006, "{}", track.queue());
    assert!(track.flows[0].overflowed - overflowed < 20);
}

#[test]
fn loss_of_our_own_making_is_not_taken_for_the_paths() {
    // A queue too short to be seen: only loss tells of the rate.
    let mut track = bulk(Link { bucket: 0.0, queue: 0.002, ..Link::new(100.0, 10.0, 0.0) }, 14);
    track.run_to(3.0);
    let (overflowed, sent) = (track.flows[0].overflowed, track.flows[0].sent);
    track.mark();
    track.run_to(15.0);
    let (lost, sent) = (track.flows[0].overflowed - overflowed, track.flows[0].sent - sent);
    assert!(lost * 20 < sent, "{lost} of {sent}");
    assert!(track.share(0) > 0.75, "{}", track.share(0));
}

#[test]
fn a_link_that_drops_nearly_all_of_the_start_is_not_flooded() {
    for seed in 15..20 {
        let mut track = bulk(Link::new(0.5, 5.0, 0.05), seed);
        track.run_to(3.0);
        let (overflowed, sent) = (track.flows[0].overflowed, track.flows[0].sent);
        track.mark();
        track.run_to(20.0);
        let (lost, sent) = (track.flows[0].overflowed - overflowed, track.flows[0].sent - sent);
        assert!(lost * 2 < sent, "seed {seed}: {lost} of {sent}");
        assert!(track.share(0) > 0.6, "seed {seed}: {}", track.share(0));
    }
}
