//! Byte streams: pieces, buffers, ends, and cuts at every offset.

mod common;

use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{address, ms};
use towline_sim::{
    Attempt, Bitrate, Chunking, Closure, ConnectFailure, Cut, Direction, Fault, Random,
    StreamConfig, StreamError, StreamEventKind, StreamId, StreamNetwork,
};

const CLIENT: usize = 1;
const SERVER: usize = 2;

struct World {
    streams: StreamNetwork,
    client: StreamId,
    events: Vec<(Duration, usize, StreamEventKind)>,
}

fn server() -> std::net::SocketAddr {
    address("10.0.0.2:80")
}

impl World {
    fn new(seed: u64, config: StreamConfig, attempt: Attempt) -> Self {
        let mut streams = StreamNetwork::new(seed, Instant::now());
        streams.set_default(config).unwrap();
        streams.listen(SERVER, server()).unwrap();
        streams.script(server(), [attempt]);
        let client = streams.connect(CLIENT, address("10.0.0.1:5000"), server());
        World { streams, client, events: Vec::new() }
    }

    /// One that is connected.
    fn connected(config: StreamConfig) -> Self {
        let mut world = World::new(1, config, Attempt::Accept(Vec::new()));
        world.run();
        world.events.clear();
        world
    }

    fn run(&mut self) {
        while self.streams.step().is_some() {
            self.collect();
        }
        self.collect();
    }

    fn collect(&mut self) {
        let base = self.streams.now() - self.streams.elapsed();
        while let Some(event) = self.streams.poll_event() {
            self.events.push((event.at - base, event.owner, event.kind));
        }
    }

    fn kinds(&mut self, owner: usize) -> Vec<StreamEventKind> {
        self.run();
        self.events.iter().filter(|(_, of, _)| *of == owner).map(|(.., kind)| *kind).collect()
    }

    fn write(&mut self, id: StreamId, data: &[u8]) -> usize {
        self.streams.write(id, &mut Bytes::copy_from_slice(data)).unwrap()
    }

    fn read_all(&mut self, id: StreamId) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            match self.streams.read(id, usize::MAX) {
                Ok(data) if !data.is_empty() => all.extend_from_slice(&data),
                _ => return all,
            }
        }
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 7 + n / 251) as u8).collect()
}

#[test]
fn connecting_takes_a_round_trip() {
    let mut world = World::new(1, StreamConfig::new().delay(ms(20)), Attempt::Accept(Vec::new()));
    assert_eq!(
        world.streams.write(world.client, &mut Bytes::from("early")),
        Err(StreamError::NotConnected)
    );
    world.run();
    let accepted = StreamEventKind::Accepted { local: server(), peer: address("10.0.0.1:5000") };
    assert_eq!(
        world.events,
        [(ms(20), SERVER, accepted), (ms(40), CLIENT, StreamEventKind::Connected)]
    );
}

#[test]
fn an_attempt_may_be_refused_or_ignored() {
    let config = StreamConfig::new().delay(ms(20));
    let failed = |why| StreamEventKind::Failed(why);
    let mut world = World::new(1, config.clone(), Attempt::Refuse);
    world.run();
    assert_eq!(world.events, [(ms(40), CLIENT, failed(ConnectFailure::Refused))]);

    let mut world = World::new(1, config.clone(), Attempt::Ignore);
    world.run();
    assert_eq!(world.events, [(ms(10_000), CLIENT, failed(ConnectFailure::TimedOut))]);

    let mut streams = StreamNetwork::new(1, Instant::now());
    streams.set_default(config).unwrap();
    streams.connect(CLIENT, address("10.0.0.1:1"), server());
    while streams.step().is_some() {}
    assert_eq!(
        streams.poll_event().unwrap().kind,
        failed(ConnectFailure::Refused),
        "nobody listens"
    );
}

#[test]
fn a_redial_meets_what_the_script_says() {
    let mut streams = StreamNetwork::new(1, Instant::now());
    streams.listen(SERVER, server()).unwrap();
    let cut = Cut { direction: Direction::FromConnector, offset: 3, fault: Fault::Reset };
    streams.script(server(), [Attempt::Refuse, Attempt::Accept(vec![cut]), Attempt::Ignore]);
    let mut outcomes = Vec::new();
    for _ in 0..4 {
        let id = streams.connect(CLIENT, address("10.0.0.1:5000"), server());
        while streams.step().is_some() {}
        let _ = streams.write(id, &mut Bytes::from_static(b"hello"));
        while streams.step().is_some() {}
        let events: Vec<_> = std::iter::from_fn(|| streams.poll_event())
            .filter(|it| it.owner == CLIENT)
            .map(|it| it.kind)
            .collect();
        outcomes.push((events, streams.read(id.peer(), 10).unwrap_or_default()));
    }
    use StreamEventKind::{Closed, Connected, Failed};
    assert_eq!(outcomes[0], (vec![Failed(ConnectFailure::Refused)], Bytes::new()));
    assert_eq!(outcomes[1], (vec![Connected, Closed(Closure::Reset)], Bytes::from("hel")));
    assert_eq!(outcomes[2], (vec![Failed(ConnectFailure::TimedOut)], Bytes::new()));
    assert_eq!(outcomes[3], (vec![Connected], Bytes::from("hello")));
}

#[test]
fn rate_and_delay_are_exact() {
    let config = StreamConfig::new()
        .rate(Bitrate::from_mbps(8))
        .delay(ms(10))
        .chunking(Chunking::Fixed(1000));
    let mut world = World::connected(config);
    let start = world.streams.elapsed();
    world.write(world.client, &pattern(2500));
    world.run();
    let times: Vec<Duration> = world.events.iter().map(|(at, ..)| *at - start).collect();
    assert_eq!(times, [ms(11), ms(12), Duration::from_micros(12_500)]);
    assert_eq!(world.read_all(world.client.peer()), pattern(2500));
}

#[test]
fn pieces_have_nothing_to_do_with_writes() {
    let sizes = |chunking| {
        let mut world = World::connected(StreamConfig::new().chunking(chunking));
        let data = pattern(100);
        data.chunks(9).for_each(|part| assert_eq!(world.write(world.client, part), part.len()));
        let peer = world.client.peer();
        let (mut sizes, mut seen) = (Vec::new(), 0);
        while world.streams.step().is_some() {
            while let Ok(piece) = world.streams.read(peer, usize::MAX) {
                if piece.is_empty() {
                    break;
                }
                assert_eq!(piece, data[seen..seen + piece.len()]);
                seen += piece.len();
                sizes.push(piece.len());
            }
        }
        assert_eq!(seen, 100);
        sizes
    };
    assert_eq!(sizes(Chunking::Fixed(1)), vec![1; 100]);
    assert_eq!(sizes(Chunking::Fixed(30)), [30, 30, 30, 10]);
    assert_eq!(sizes(Chunking::Fixed(1000)), [100]);
    let random = sizes(Chunking::Random { min: 2, max: 11 });
    let (last, others) = random.split_last().unwrap();
    assert!(*last <= 11 && others.iter().all(|size| (2..=11).contains(size)));
    assert!(others.iter().any(|size| *size != others[0]));
}

#[test]
fn full_buffers_push_back_and_room_is_announced() {
    let config = StreamConfig::new()
        .delay(ms(1))
        .send_buffer(100)
        .receive_buffer(50)
        .chunking(Chunking::Fixed(20));
    let mut world = World::connected(config);
    let (client, peer) = (world.client, world.client.peer());
    let mut data = Bytes::from(pattern(400));
    assert_eq!(world.streams.write(client, &mut data), Ok(100));
    assert_eq!((data.len(), world.streams.room(client)), (300, 0));
    assert_eq!(world.kinds(CLIENT), [StreamEventKind::Writable]);
    // 50 arrived; the reader does not read, so 50 more wait at the sender and 50 have room.
    assert_eq!((world.streams.readable(peer), world.streams.room(client)), (50, 50));
    assert_eq!(world.streams.write(client, &mut data), Ok(50));
    world.events.clear();
    assert_eq!(world.kinds(CLIENT), []);
    let mut all = Vec::new();
    while all.len() < 400 {
        let piece = world.streams.read(peer, 33).unwrap();
        all.extend_from_slice(&piece);
        let moved = world.streams.step().is_some();
        assert!(moved || !piece.is_empty(), "stuck at {}", all.len());
        if !data.is_empty() {
            world.streams.write(client, &mut data).unwrap();
        }
    }
    assert_eq!(all, pattern(400));
}

#[test]
fn an_end_comes_behind_the_last_byte_and_leaves_the_other_direction_open() {
    let mut world = World::connected(StreamConfig::new().delay(ms(1)));
    let (client, peer) = (world.client, world.client.peer());
    world.write(client, b"the last");
    world.streams.finish(client).unwrap();
    assert_eq!(world.streams.write(client, &mut Bytes::from("more")), Err(StreamError::Finished));
    use StreamEventKind::{Closed, Readable};
    assert_eq!(world.kinds(SERVER), [Readable, Closed(Closure::Fin)]);
    assert_eq!(world.read_all(peer), b"the last");
    world.write(peer, b"answer");
    world.streams.finish(peer).unwrap();
    assert_eq!(world.kinds(CLIENT), [Readable, Closed(Closure::Fin)]);
    assert_eq!(world.read_all(client), b"answer");
    // There is nothing left to end.
    world.events.clear();
    world.streams.inject(client, Direction::FromConnector, Fault::Fin).unwrap();
    world.run();
    assert_eq!(world.events, []);
}

#[test]
fn an_abort_loses_what_is_on_its_way_and_is_told_to_the_peer() {
    let mut world = World::connected(StreamConfig::new().delay(ms(5)));
    let (client, peer) = (world.client, world.client.peer());
    world.write(peer, b"unread");
    world.run();
    world.events.clear();
    let start = world.streams.elapsed();
    world.write(client, b"never seen");
    world.write(peer, b"neither");
    world.streams.abort(client);
    world.run();
    assert_eq!(world.events, [(start + ms(5), SERVER, StreamEventKind::Closed(Closure::Reset))]);
    assert_eq!(world.streams.write(client, &mut Bytes::from("x")), Err(StreamError::Reset));
    assert_eq!(world.streams.write(peer, &mut Bytes::from("x")), Err(StreamError::Reset));
    assert_eq!((world.read_all(client), world.read_all(peer)), (vec![], vec![]));
    assert_eq!(world.streams.stats(client, Direction::FromConnector).unwrap().lost, 10);
}

/// Every fault at every offset of either direction: exactly so many bytes arrive, in order, and both ends hear
/// what they should.
#[test]
fn cuts_happen_at_exactly_their_offset() {
    const LEN: usize = 60;
    for chunking in [Chunking::Fixed(1), Chunking::Fixed(1000), Chunking::Random { min: 1, max: 9 }]
    {
        for direction in [Direction::FromConnector, Direction::FromAcceptor] {
            for fault in [Fault::Reset, Fault::Fin, Fault::Silence, Fault::Mute] {
                for offset in 0..=LEN {
                    check_cut(chunking, direction, fault, offset, LEN);
                }
            }
        }
    }
}

fn check_cut(chunking: Chunking, direction: Direction, fault: Fault, offset: usize, len: usize) {
    let case = format!("{chunking:?} {direction:?} {fault:?} {offset}");
    let cut = Cut { direction, offset: offset as u64, fault };
    let config = StreamConfig::new().delay(ms(3)).chunking(chunking);
    let mut world = World::new(offset as u64, config, Attempt::Accept(vec![cut]));
    let (client, peer) = (world.client, world.client.peer());
    while world.streams.readable(client) == 0 && world.streams.step().is_some() {
        world.collect();
        for end in [client, peer] {
            // Each end writes as soon as it can, once.
            if world.streams.room(end) > 0
                && world.streams.stats(end, end.direction()).unwrap().written == 0
            {
                world.write(end, &pattern(len));
            }
        }
    }
    let writer = if direction == Direction::FromConnector { client } else { peer };
    let reader = writer.peer();
    let (reader_kinds, writer_kinds) = {
        let owner = |end: StreamId| if end == client { CLIENT } else { SERVER };
        (world.kinds(owner(reader)), world.kinds(owner(writer)))
    };
    let got = world.read_all(reader);
    assert_eq!(got, pattern(len)[..offset], "{case}");
    let back = world.read_all(writer);
    assert_eq!(back, pattern(len)[..back.len()], "{case}");
    let closures = |kinds: &[StreamEventKind]| {
        let closed = kinds.iter().filter_map(|kind| match kind {
            StreamEventKind::Closed(closure) => Some(*closure),
            _ => None,
        });
        closed.collect::<Vec<_>>()
    };
    let expected = match fault {
        Fault::Reset => vec![Closure::Reset],
        Fault::Fin => vec![Closure::Fin],
        _ => vec![],
    };
    assert_eq!(closures(&reader_kinds), expected, "{case}");
    assert_eq!(closures(&writer_kinds), expected, "{case}");
    // The other direction is untouched by a fault of one direction.
    if fault == Fault::Mute {
        let all = world.streams.stats(client, reader.direction()).unwrap();
        assert_eq!((all.written, all.arrived), (len as u64, len as u64), "{case}");
    }
    for direction in [Direction::FromConnector, Direction::FromAcceptor] {
        let stats = world.streams.stats(client, direction).unwrap();
        assert_eq!(stats.written, stats.arrived + stats.lost, "{case} {stats:?}");
    }
}

#[test]
fn silence_fills_the_buffer_and_tells_nobody() {
    let mut world = World::connected(StreamConfig::new().delay(ms(1)).send_buffer(100));
    let (client, peer) = (world.client, world.client.peer());
    world.streams.inject(client, Direction::FromConnector, Fault::Silence).unwrap();
    for end in [client, peer] {
        assert_eq!(world.write(end, &pattern(60)), 60);
        world.run();
        assert_eq!(world.write(end, &pattern(60)), 40);
        world.run();
        assert_eq!(world.streams.room(end), 0);
    }
    assert_eq!(world.events, []);
    // Not even the end of one side reaches the other.
    world.streams.abort(client);
    world.run();
    assert_eq!(world.events, []);
}

#[test]
fn an_outage_delays_everything_and_loses_nothing() {
    let mut world = World::connected(StreamConfig::new().delay(ms(1)));
    let (client, peer) = (world.client, world.client.peer());
    let start = world.streams.elapsed();
    world.write(client, b"one ");
    world.streams.inject(client, Direction::FromConnector, Fault::Outage(ms(500))).unwrap();
    world.write(client, b"two");
    world.write(peer, b"back");
    world.run();
    assert!(world.events.iter().all(|(at, ..)| *at >= start + ms(500)) && world.events.len() >= 2);
    assert_eq!(world.read_all(peer), b"one two");
    assert_eq!(world.read_all(client), b"back");
}

#[test]
fn a_partition_holds_connections_and_times_attempts_out() {
    let mut world = World::connected(StreamConfig::new().delay(ms(1)));
    let (client, peer) = (world.client, world.client.peer());
    let (a, b) = (address("10.0.0.1:0").ip(), address("10.0.0.2:0").ip());
    world.write(client, b"held");
    world.streams.partition(a, b);
    world.run();
    assert_eq!(world.streams.readable(peer), 0);
    world.streams.connect(CLIENT, address("10.0.0.1:5001"), server());
    assert_eq!(world.kinds(CLIENT), [StreamEventKind::Failed(ConnectFailure::TimedOut)]);
    world.streams.heal(a, b);
    world.run();
    assert_eq!(world.read_all(peer), b"held");
}

#[test]
fn a_stall_delays_all_that_follows() {
    let config = StreamConfig::new().stall(1.0, ms(200)).delay(ms(1));
    let mut world = World::connected(config);
    let start = world.streams.elapsed();
    world.write(world.client, b"late");
    world.run();
    assert_eq!(world.events, [(start + ms(201), SERVER, StreamEventKind::Readable)]);
}

/// The oracle: under random rates, buffers, pieces, writes and reads in both directions, each reader gets what the
/// writer's calls accepted, in order, and all of it when nothing was cut; a cut at random leaves a prefix.
#[test]
fn random_traffic_arrives_in_order_and_complete() {
    let mut digests = 0u64;
    for seed in 0..150 {
        let mut random = Random::keyed(seed, &[1]);
        let mut config = StreamConfig::new()
            .delay(Duration::from_micros(random.below(5000)))
            .chunking(Chunking::Random { min: 1, max: 1 + random.below(500) as usize })
            .send_buffer(1 + random.below(2000) as usize)
            .receive_buffer(1 + random.below(2000) as usize)
            .stall(random.below(3) as f64 / 10.0, ms(random.below(20)));
        if random.below(2) == 0 {
            config = config.rate(Bitrate::from_kbps(100 + random.below(10_000)));
        }
        let is_cut = random.below(3) == 0;
        let cuts = if is_cut {
            let fault =
                [Fault::Reset, Fault::Fin, Fault::Silence, Fault::Mute][random.below(4) as usize];
            vec![Cut { direction: Direction::FromAcceptor, offset: random.below(5000), fault }]
        } else {
            Vec::new()
        };
        let run = exchange(seed, &mut random.clone(), &config, &cuts);
        assert_eq!(
            run,
            exchange(seed, &mut random, &config, &cuts),
            "seed {seed}: not deterministic"
        );
        let (digest, sent, got) = run;
        digests = digests.rotate_left(1) ^ digest;
        for side in 0..2 {
            let (sent, got) = (&sent[side], &got[side]);
            assert!(sent.starts_with(got), "seed {seed} side {side}: not a prefix");
            assert!(
                is_cut || sent.len() == got.len(),
                "seed {seed} side {side}: {} of {}",
                got.len(),
                sent.len()
            );
        }
        assert!(is_cut || sent[0].len() + sent[1].len() > 1000, "seed {seed}: too little");
    }
    // Pinned: the same on every machine, in debug and release.
    assert_eq!(digests, 6528877104115028303);
}

/// Sent bytes by writer, and received bytes by writer.
fn exchange(
    seed: u64,
    random: &mut Random,
    config: &StreamConfig,
    cuts: &[Cut],
) -> (u64, [Vec<u8>; 2], [Vec<u8>; 2]) {
    let mut world = World::new(seed, config.clone(), Attempt::Accept(cuts.to_vec()));
    let ends = [world.client, world.client.peer()];
    let (mut sent, mut got) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    for _ in 0..400 {
        for side in 0..2 {
            let mut data = vec![0; random.below(300) as usize];
            random.fill(&mut data);
            let mut offered = Bytes::from(data.clone());
            if let Ok(taken) = world.streams.write(ends[side], &mut offered) {
                sent[side].extend_from_slice(&data[..taken]);
            }
            if random.below(3) > 0
                && let Ok(data) = world.streams.read(ends[1 - side], random.below(400) as usize)
            {
                got[side].extend_from_slice(&data);
            }
        }
        for _ in 0..random.below(6) {
            world.streams.step();
        }
    }
    loop {
        let before = got[0].len() + got[1].len();
        for side in 0..2 {
            let rest = world.read_all(ends[1 - side]);
            got[side].extend_from_slice(&rest);
        }
        let moved = world.streams.step().is_some();
        if !moved && got[0].len() + got[1].len() == before {
            return (world.streams.digest(), sent, got);
        }
    }
}
