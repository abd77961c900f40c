//! The emulated TCP over the simulator's links, in virtual time.

use std::time::{Duration, Instant};

use bytes::Bytes;
use towline_sim::{Bitrate, Ecn, LinkConfig, Loss};

use super::receiver::Receiver;
use super::segment::{Ending, Segment};
use super::sender::Sender;
use crate::commands::link::path::{Channel, End, Path};

const WINDOW: u64 = 1 << 20;

/// One stream from the near end to the far one.
struct Stream {
    path: Path,
    channel: Channel,
    base: Instant,
    now: Instant,
    sender: Sender,
    receiver: Receiver,
    received: Vec<u8>,
    /// The reader takes what has come.
    reads: bool,
}

impl Stream {
    fn new(seed: u64, up: &LinkConfig, down: &LinkConfig) -> Stream {
        let base = Instant::now();
        let mut path = Path::new(seed, base, up, down).unwrap();
        let channel = path.open().unwrap();
        Stream {
            path,
            channel,
            base,
            now: base,
            sender: Sender::new(WINDOW),
            receiver: Receiver::new(WINDOW),
            received: Vec::new(),
            reads: true,
        }
    }

    /// Runs until nothing happens or `until`.
    fn run(&mut self, until: Duration) {
        let end = self.base + until;
        loop {
            while let Some(arrival) = self.path.poll() {
                let Some((_, segment)) = Segment::decode(&arrival.data) else { continue };
                match (segment, arrival.end) {
                    (Segment::Data { offset, number, last, data }, End::Far) => {
                        self.receiver.handle_data(self.now, offset, number, last, data);
                    }
                    (Segment::Ack(ack), End::Near) => self.sender.handle_ack(self.now, &ack),
                    other => panic!("{other:?}"),
                }
            }
            while self.reads
                && let Some(data) = self.receiver.poll_data()
            {
                self.received.extend_from_slice(&data);
            }
            let (path, channel) = (&mut self.path, self.channel);
            let mut say = |from: End, segment: Segment| {
                path.send(channel, from, Ecn::NotCapable, segment.encode(1));
            };
            if let Some(probe) = self.sender.handle_timeout(self.now) {
                say(End::Near, probe);
            }
            while let Some(segment) = self.sender.poll(self.now) {
                say(End::Near, segment);
            }
            if let Some(ack) = self.receiver.poll_ack(self.now, 0) {
                say(End::Far, ack);
            }
            let next = [self.path.next(), self.sender.timeout(), self.receiver.timeout()];
            match next.into_iter().flatten().min() {
                Some(at) if at <= end => {
                    self.now = self.now.max(at);
                    self.path.advance(self.now);
                }
                _ => return,
            }
        }
    }

    fn rate(&self) -> f64 {
        self.received.len() as f64 * 8.0 / (self.now - self.base).as_secs_f64()
    }
}

fn content(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i ^ (i >> 8)) as u8).collect()
}

#[test]
fn every_byte_arrives_once_and_in_order_whatever_the_link_does() {
    for seed in 0..10 {
        let bad = LinkConfig::new()
            .rate(Bitrate::from_mbps(20))
            .delay(Duration::from_millis(10))
            .jitter(Duration::from_millis(3))
            .jitter_reorders(true)
            .duplicate(0.02)
            .corrupt(0.02)
            .loss(Loss::Burst { mean: 0.05, burst: 3.0 })
            .outage(Duration::from_millis(300), Duration::from_millis(900));
        let mut stream = Stream::new(seed, &bad, &bad);
        let sent = content(300_000);
        for piece in sent.chunks(7001) {
            stream.sender.push(Bytes::copy_from_slice(piece));
        }
        stream.sender.finish(Ending::Orderly);
        stream.run(Duration::from_secs(600));
        assert!(stream.received == sent, "seed {seed}: {} bytes", stream.received.len());
        assert_eq!(stream.receiver.ended(), Some(Ending::Orderly), "seed {seed}");
        assert!(stream.sender.resent > 0 && !stream.sender.has_given_up(), "seed {seed}");
    }
}

#[test]
fn a_good_link_is_filled() {
    let link = LinkConfig::new().rate(Bitrate::from_mbps(100)).delay(Duration::from_millis(10));
    let mut stream = Stream::new(1, &link, &link);
    stream.sender.push(content(20_000_000).into());
    stream.run(Duration::from_secs(60));
    assert_eq!(stream.received.len(), 20_000_000);
    // 1,448 of 1,514 bytes are payload.
    let share = stream.rate() / (100e6 * 1448.0 / 1514.0);
    assert!((0.9..=1.0).contains(&share), "{share}");
}

/// Mathis, Semke, Mahdavi and Ott (1997): loss keeps Reno at 1.22 segments per round trip over the root of the loss; CUBIC is near it
/// where windows are small.
#[test]
fn loss_does_to_it_what_it_does_to_tcp() {
    for (loss, delay) in [(0.02, 50), (0.01, 20), (0.005, 30)] {
        let link = LinkConfig::new()
            .rate(Bitrate::from_gbps(1))
            .delay(Duration::from_millis(delay))
            .loss(Loss::Independent(loss));
        let back = LinkConfig::new().delay(Duration::from_millis(delay));
        let mut rates = 0.0;
        for seed in 0..3 {
            let mut stream = Stream::new(seed, &link, &back);
            stream.sender.push(content(15_000_000).into());
            stream.run(Duration::from_secs(120));
            rates += stream.rate() / 3.0;
        }
        let expected = 1448.0 * 8.0 * 1.22 / (0.002 * delay as f64 * f64::sqrt(loss));
        let ratio = rates / expected;
        assert!((0.7..1.6).contains(&ratio), "{loss} {delay} ms: {ratio} of Mathis' formula");
    }
}

#[test]
fn a_reader_that_stops_stops_the_sender_and_starts_it_again() {
    let link = LinkConfig::new().delay(Duration::from_millis(5)).loss(Loss::Independent(0.05));
    let mut stream = Stream::new(3, &link, &link);
    stream.sender.push(content(3_000_000).into());
    stream.reads = false;
    stream.run(Duration::from_secs(20));
    assert!(stream.received.is_empty());
    while let Some(data) = stream.receiver.poll_data() {
        stream.received.extend_from_slice(&data);
    }
    let held = stream.received.len() as u64;
    assert!(held > WINDOW / 2 && held <= WINDOW + 1, "{held}");
    stream.reads = true;
    stream.run(Duration::from_secs(300));
    assert_eq!(stream.received.len(), 3_000_000);
}

#[test]
fn a_reset_overtakes_what_was_not_sent() {
    let link = LinkConfig::new().delay(Duration::from_millis(20));
    let mut stream = Stream::new(4, &link, &link);
    stream.sender.push(content(10_000_000).into());
    stream.run(Duration::from_millis(30));
    stream.sender.finish(Ending::Reset);
    stream.run(Duration::from_secs(10));
    assert_eq!(stream.receiver.ended(), Some(Ending::Reset));
    assert!(stream.received.len() < 1_000_000);
}

#[test]
fn an_end_that_never_answers_is_given_up() {
    let dead = LinkConfig::new().loss(Loss::Independent(1.0));
    let mut stream = Stream::new(5, &dead, &dead);
    stream.sender.push(content(1000).into());
    stream.run(Duration::from_secs(3600));
    assert!(stream.sender.has_given_up());
}
