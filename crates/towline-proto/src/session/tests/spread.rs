//! A wire of several streams: whatever way the octets take, the frames come in an order that one stream could have had.

use bytes::Bytes;

use crate::session::frame::{DataHeader, MAX_DATA_HEADER, Part, Violation, kind};
use crate::session::message::{LANES, Lane, MessageId};
use crate::session::spread::{Gatherer, Spreader, Strand};

/// Small random numbers from a seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }
}

fn data(lane: u8, number: u32, len: usize) -> Vec<u8> {
    let id = MessageId::new(u64::from(number) + 1);
    let lane = Lane::new(lane).unwrap();
    let header = DataHeader {
        part: Part::Whole,
        lane,
        id,
        reply_to: None,
        len,
        total: len as u64,
        header: 0,
    };
    let mut octets = [0; MAX_DATA_HEADER];
    let length = header.encode(&mut octets);
    let mut frame = octets[..length].to_vec();
    frame.extend((0..len).map(|i| (i as u32 * 7 + number) as u8));
    frame
}

fn control(kind: u8, number: u32, len: usize) -> Vec<u8> {
    let mut frame = vec![kind, 4 + len as u8];
    frame.extend(number.to_be_bytes());
    frame.extend(vec![kind; len]);
    frame
}

/// The streams that octets end up on: the main one and each lane's.
struct Streams {
    main: Vec<u8>,
    lanes: Vec<(Lane, Vec<u8>)>,
}

fn spread(octets: &[u8], dice: &mut Dice, opens: [bool; LANES]) -> Streams {
    let mut spreader = Spreader::default();
    let mut streams = Streams { main: Vec::new(), lanes: Vec::new() };
    let mut at = 0;
    while at < octets.len() {
        let end = (at + 1 + dice.below(700)).min(octets.len());
        let part = Bytes::copy_from_slice(&octets[at..end]);
        spreader.push(
            part,
            |lane| opens[lane.index()],
            |strand, data| match strand {
                Strand::Main => streams.main.extend(data),
                Strand::Lane(lane) => {
                    match streams.lanes.iter_mut().find(|(other, _)| *other == lane) {
                        Some((_, stream)) => stream.extend(data),
                        None => streams.lanes.push((lane, data.to_vec())),
                    }
                }
            },
        );
        at = end;
    }
    streams.main.extend(spreader.finish().unwrap_or_default());
    streams
}

#[test]
fn frames_come_in_an_order_that_one_stream_could_have_had() {
    for seed in 0..300 {
        let mut dice = Dice(seed);
        let mut frames = vec![control(kind::HELLO, 0, 0)];
        for number in 1..60 {
            frames.push(match dice.below(8) {
                0 => control(kind::ACK, number, dice.below(20)),
                1 => control(kind::PING, number, dice.below(20)),
                2 => control(100, number, dice.below(20)),
                _ => data(dice.below(LANES) as u8, number, [0, 10, 900, 5000][dice.below(4)]),
            });
        }
        let opens = [(); LANES].map(|()| dice.below(4) > 0);
        let streams = spread(&frames.concat(), &mut dice, opens);
        let came = gather(streams, &mut dice);
        check(seed, &frames, &came);
    }
}

/// Brings the streams in a random order, and in random parts, as far as they are taken.
fn gather(streams: Streams, dice: &mut Dice) -> Vec<u8> {
    let mut gatherer = Gatherer::default();
    let mut left: Vec<(Option<usize>, Bytes)> = vec![(None, streams.main.into())];
    left.extend(streams.lanes.into_iter().enumerate().map(|(i, (_, lane))| (Some(i), lane.into())));
    let mut came = Vec::new();
    while left.iter().any(|(_, stream)| !stream.is_empty()) {
        let (stream, octets) = {
            let i = dice.below(left.len());
            &mut left[i]
        };
        let taken = octets.split_to(octets.len().min(1 + dice.below(2000)));
        match stream {
            None if gatherer.takes_main() => {
                gatherer.main(taken, |whole| came.extend(whole)).unwrap()
            }
            Some(index) if gatherer.takes_lanes() => {
                gatherer.lane(*index, taken, |whole| came.extend(whole)).unwrap();
            }
            _ => {
                let mut back = taken.to_vec();
                back.extend_from_slice(octets);
                *octets = back.into();
            }
        }
    }
    assert!(gatherer.is_through());
    came
}

fn check(seed: u64, frames: &[Vec<u8>], came: &[u8]) {
    let mut rest = came;
    let mut order = Vec::new();
    while !rest.is_empty() {
        let fits = |frame: &&Vec<u8>| rest.starts_with(frame);
        let frame = frames.iter().filter(fits).max_by_key(|frame| frame.len());
        let frame = frame.unwrap_or_else(|| panic!("seed {seed}: not a frame of ours"));
        order.push(frames.iter().position(|other| other == frame).unwrap());
        rest = &rest[frame.len()..];
    }
    let mut sorted = order.clone();
    sorted.sort_unstable();
    assert!(sorted.iter().copied().eq(0..frames.len()), "seed {seed}: each once, {order:?}");
    let first = |index: usize| frames[index][0];
    let is_data = |index: usize| first(index) & 0x80 != 0;
    for (at, &index) in order.iter().enumerate() {
        for &later in &order[at + 1..] {
            let same = match (is_data(index), is_data(later)) {
                (true, true) => first(index) & 7 == first(later) & 7,
                (false, false) => true,
                // What asks for everything before it has it before it, and nothing overtakes the greeting.
                (true, false) | (false, true) => {
                    let control = if is_data(index) { first(later) } else { first(index) };
                    control == kind::HELLO || (is_data(later) && control == kind::PING)
                }
            };
            // A control frame may be overtaken by data that was sent behind it; data never by a PING sent behind it.
            let matters = same && !(is_data(later) && first(index) == kind::PING && later > index);
            assert!(!matters || index < later, "seed {seed}: {index} before {later} in {order:?}");
        }
    }
}

#[test]
fn what_is_lost_on_one_lane_holds_up_no_other() {
    let mut frames = control(kind::HELLO, 0, 0);
    frames.extend(data(3, 1, 200_000));
    frames.extend(data(0, 2, 5));
    frames.extend(control(kind::ACK, 3, 0));
    frames.extend(control(kind::PING, 4, 0));
    let streams = spread(&frames, &mut Dice(1), [true; LANES]);
    let [(bulk, large), (urgent, small)] = &streams.lanes[..] else { panic!("two lanes") };
    assert_eq!((*bulk, *urgent), (Lane::BULK, Lane::URGENT));
    let mut gatherer = Gatherer::default();
    let mut came = Vec::new();
    gatherer.main(streams.main.into(), |whole| came.extend(whole)).unwrap();
    // Half of the large message is missing: the others pass, but for the PING, which asks for all of it.
    let (half, rest) = large.split_at(large.len() / 2);
    gatherer.lane(0, Bytes::copy_from_slice(half), |whole| came.extend(whole)).unwrap();
    gatherer.lane(1, Bytes::copy_from_slice(small), |whole| came.extend(whole)).unwrap();
    let passed = [control(kind::HELLO, 0, 0), control(kind::ACK, 3, 0), data(0, 2, 5)].concat();
    assert_eq!(came, passed);
    assert!(!gatherer.takes_main() && !gatherer.is_through());
    came.clear();
    gatherer.lane(0, Bytes::copy_from_slice(rest), |whole| came.extend(whole)).unwrap();
    assert_eq!(came, [data(3, 1, 200_000), control(kind::PING, 4, 0)].concat());
    assert!(gatherer.takes_main());
}

#[test]
fn octets_that_are_no_frames_end_the_wire() {
    let greeted = || {
        let mut gatherer = Gatherer::default();
        assert!(!gatherer.takes_lanes());
        gatherer.main(control(kind::HELLO, 0, 0).into(), |_| {}).unwrap();
        assert!(gatherer.takes_lanes());
        gatherer
    };
    let refused =
        |stream: usize, octets: Vec<u8>| greeted().lane(stream, octets.into(), |_| {}).is_err();
    assert!(refused(0, control(kind::ACK, 0, 0)), "control frames are the main stream's");
    assert!(refused(0, [data(1, 0, 5), data(2, 0, 5)].concat()), "one stream, one lane");
    assert!(refused(LANES, data(0, 0, 5)), "as many streams as lanes");
    assert!(refused(0, vec![0x80, 0xbf, 0xff, 0xff, 0xff]), "a frame over the limit");
    let mut twice = greeted();
    twice.lane(0, data(1, 0, 5).into(), |_| {}).unwrap();
    let second = twice.lane(1, data(1, 1, 5).into(), |_| {});
    assert!(matches!(second, Err(Violation::NoSuchLane(1))), "{second:?}");
    let mut dice = Dice(9);
    for _ in 0..20_000 {
        let octets: Vec<u8> = (0..dice.below(60)).map(|_| dice.below(256) as u8).collect();
        let mut gatherer = greeted();
        gatherer.main(octets.clone().into(), |_| {}).ok();
        gatherer.lane(dice.below(LANES), octets.clone().into(), |_| {}).ok();
        let mut out = Vec::new();
        Spreader::default().push(octets.clone().into(), |_| true, |_, data| out.extend(data));
        assert!(out.len() >= octets.len(), "the sender loses nothing");
    }
}
