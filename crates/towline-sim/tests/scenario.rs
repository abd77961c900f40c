//! The runner: what it promises to nodes, and the mistakes that it finds.

mod common;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{address, ms};
use towline_sim::{
    Action, Activity, Bitrate, Closure, Delivery, Ecn, HostId, LinkConfig, Loss, Node, NodeId,
    Readdressed, ScenarioError, Simulation, Stop, StreamEvent, StreamEventKind, StreamId, StreamIo,
    Transmit,
};

/// Sends a numbered datagram at a pace and notes the round trips.
#[derive(Default)]
struct Pinger {
    peer: Option<std::net::SocketAddr>,
    interval: Duration,
    next: Option<Instant>,
    left: u32,
    outbox: VecDeque<Transmit>,
    sent_at: Vec<Instant>,
    round_trips: Vec<Option<Duration>>,
    told: Vec<Readdressed>,
}

impl Node for Pinger {
    fn handle_datagram(&mut self, now: Instant, datagram: Delivery) {
        let number = u32::from_be_bytes(datagram.data[..4].try_into().unwrap()) as usize;
        self.round_trips[number] = Some(now - self.sent_at[number]);
    }

    fn handle_timeout(&mut self, now: Instant) {
        let number = self.sent_at.len() as u32;
        self.sent_at.push(now);
        self.round_trips.push(None);
        let contents = Bytes::copy_from_slice(&number.to_be_bytes());
        self.outbox.push_back(Transmit::new(self.peer.unwrap(), contents));
        self.left -= 1;
        self.next = (self.left > 0).then(|| now + self.interval);
    }

    fn handle_readdressed(&mut self, _: Instant, change: Readdressed) {
        self.told.push(change);
    }

    fn poll_transmit(&mut self, _: Instant) -> Option<Transmit> {
        self.outbox.pop_front()
    }

    fn poll_timeout(&mut self) -> Option<Instant> {
        self.next
    }
}

/// Sends everything back.
#[derive(Default)]
struct Echo {
    outbox: VecDeque<Transmit>,
    sources: Vec<std::net::SocketAddr>,
}

impl Node for Echo {
    fn handle_datagram(&mut self, _: Instant, datagram: Delivery) {
        self.sources.push(datagram.source);
        self.outbox.push_back(Transmit::new(datagram.source, datagram.data));
    }

    fn poll_transmit(&mut self, _: Instant) -> Option<Transmit> {
        self.outbox.pop_front()
    }
}

fn ping_pong(
    seed: u64,
    config: &LinkConfig,
    count: u32,
) -> (Simulation, NodeId<Pinger>, NodeId<Echo>) {
    let mut sim = Simulation::new(seed, Instant::now());
    sim.network.enable_digest();
    let chain = sim.network.chain(1, config).unwrap();
    let next = Some(sim.now());
    let pinger = Pinger {
        peer: Some(address("10.0.0.2:7")),
        interval: ms(10),
        next,
        left: count,
        ..Pinger::default()
    };
    let pinger = sim.add_node("pinger", chain.hosts[0], pinger);
    sim.bind(pinger, address("10.0.0.1:0")).unwrap();
    let echo = sim.add_node("echo", chain.hosts[1], Echo::default());
    sim.bind(echo, address("10.0.0.2:7")).unwrap();
    (sim, pinger, echo)
}

#[test]
fn two_nodes_talk_and_the_run_ends_when_nothing_is_left() {
    let (mut sim, pinger, _) = ping_pong(1, &LinkConfig::new().delay(ms(7)), 100);
    sim.set_livelock_limit(5); // at one instant, not in all
    assert_eq!(sim.run_to(ms(5_000)), Ok(Stop::Idle));
    assert_eq!(sim.elapsed(), ms(5_000));
    assert_eq!(sim.node(pinger).round_trips, vec![Some(ms(14)); 100]);
}

#[test]
fn a_condition_stops_the_run_at_its_instant() {
    let (mut sim, pinger, _) = ping_pong(1, &LinkConfig::new().delay(ms(7)), 100);
    let stop =
        sim.run_until(ms(5_000), |sim| sim.node(pinger).round_trips.iter().flatten().count() == 3);
    assert_eq!((stop, sim.elapsed()), (Ok(Stop::Condition), ms(34)));
    assert_eq!(sim.run_for(ms(1)), Ok(Stop::Deadline));
    assert_eq!(sim.elapsed(), ms(35));
}

#[test]
fn scripts_and_changes_of_address_reach_the_nodes() {
    let (mut sim, pinger, echo) = ping_pong(1, &LinkConfig::new().delay(ms(1)), 6);
    let socket = sim.network.bound(address("10.0.0.1:49152")).unwrap();
    let nat = Action::Rebind(socket, address("10.0.0.1:50000"));
    sim.network.schedule(ms(15), nat).unwrap();
    sim.at(ms(35), move |sim| {
        sim.network.act(&Action::Readdress(socket, address("10.7.7.7:1"))).unwrap();
    });
    sim.run_to(ms(100)).unwrap();
    let ports: Vec<u16> = sim.node(echo).sources.iter().map(|source| source.port()).collect();
    assert_eq!(ports, [49152, 49152, 50000, 50000, 1, 1]);
    assert_eq!(sim.node(pinger).told.len(), 1);
    assert_eq!(sim.node(pinger).told[0].new, address("10.7.7.7:1"));
    assert!(sim.node(pinger).round_trips.iter().all(Option::is_some));
}

#[test]
fn runs_are_reproducible() {
    let config = LinkConfig::lab(Bitrate::from_mbps(1), ms(5), 0.2).jitter(ms(2));
    let digest = |seed| {
        let (mut sim, ..) = ping_pong(seed, &config, 200);
        sim.run_to(Duration::from_secs(10)).unwrap();
        sim.digest()
    };
    assert_eq!(digest(1), digest(1));
    assert_ne!(digest(1), digest(2));
}

/// A change in the simulator's results shows here as a difference.
#[test]
fn a_small_scenario_is_pinned() {
    let config = LinkConfig::lab(Bitrate::from_kbps(64), ms(20), 0.25)
        .burst(towline_sim::Burst::Bytes(80))
        .jitter(ms(1));
    let (mut sim, pinger, _) = ping_pong(3, &config, 12);
    sim.run_to(Duration::from_secs(1)).unwrap();
    let show = |trip: &Option<Duration>| trip.map_or("lost".into(), |trip| format!("{trip:?}"));
    let table: Vec<String> = sim.node(pinger).round_trips.iter().map(show).collect();
    let lost = "lost";
    let expected = [
        "40.852413ms",
        lost,
        lost,
        "39.991103ms",
        "40.356656ms",
        "40.023412ms",
        "38.747468ms",
        lost,
        lost,
        lost,
        "40.577049ms",
        "39.990897ms",
    ];
    assert_eq!(table, expected);
}

/// One large buffer, several datagrams, as a kernel with UDP GSO cuts it.
struct Burst(Option<Transmit>);

impl Node for Burst {
    fn poll_transmit(&mut self, _: Instant) -> Option<Transmit> {
        self.0.take()
    }
}

#[derive(Default)]
struct Sink(Vec<Bytes>);

impl Node for Sink {
    fn handle_datagram(&mut self, _: Instant, datagram: Delivery) {
        self.0.push(datagram.data);
    }
}

fn pair(sim: &mut Simulation, config: &LinkConfig) -> (HostId, HostId) {
    let chain = sim.network.chain(1, config).unwrap();
    (chain.hosts[0], chain.hosts[1])
}

#[test]
fn segments_cross_the_network_one_by_one() {
    let mut sim = Simulation::new(1, Instant::now());
    let (a, b) = pair(&mut sim, &LinkConfig::new().loss(Loss::Listed([1].into())));
    let transmit = Transmit {
        source: None,
        destination: address("10.0.0.2:1"),
        ecn: Ecn::Ect0,
        segment_size: Some(1000),
        contents: Bytes::from((0..2500u32).map(|n| (n / 1000) as u8).collect::<Vec<u8>>()),
    };
    let burst = sim.add_node("burst", a, Burst(Some(transmit)));
    sim.bind(burst, address("10.0.0.1:1")).unwrap();
    let sink = sim.add_node("sink", b, Sink::default());
    sim.bind(sink, address("10.0.0.2:1")).unwrap();
    assert_eq!(sim.run_to(ms(1)), Ok(Stop::Idle));
    assert_eq!(sim.node(sink).0, [Bytes::from(vec![0; 1000]), Bytes::from(vec![2; 500])]);
}

#[test]
fn a_source_that_is_gone_is_refused_and_counted_and_no_socket_is_an_error() {
    let mut sim = Simulation::new(1, Instant::now());
    let (a, _) = pair(&mut sim, &LinkConfig::new());
    let source = Some(address("10.0.0.1:99"));
    let transmit = Transmit { source, ..Transmit::new(address("10.0.0.2:1"), Bytes::new()) };
    let node = sim.add_node("burst", a, Burst(Some(transmit.clone())));
    let error = ScenarioError::NoSocket { node: "burst".into() };
    assert_eq!(sim.run_to(ms(1)), Err(error));
    sim.bind(node, address("10.0.0.1:1")).unwrap();
    sim.node_mut(node).0 = Some(transmit);
    assert_eq!(sim.run_to(ms(1)), Ok(Stop::Idle));
    assert_eq!((sim.refused_transmits(node), sim.network.stats().sent), (1, 0));
}

/// A deadline that never moves.
struct Stuck(Instant);

impl Node for Stuck {
    fn poll_timeout(&mut self) -> Option<Instant> {
        Some(self.0)
    }
}

#[test]
fn a_deadline_that_stays_in_the_past_is_an_error_that_names_the_node() {
    let mut sim = Simulation::new(1, Instant::now());
    let (a, _) = pair(&mut sim, &LinkConfig::new());
    sim.set_livelock_limit(1000);
    sim.add_node("fine", a, Sink::default());
    let at = sim.now() + ms(5);
    sim.add_node("stuck engine", a, Stuck(at));
    let error = sim.run_to(ms(10)).unwrap_err();
    let expected = ScenarioError::Livelock {
        node: "stuck engine".into(),
        at: ms(5),
        events: 1001,
        last: Activity::Timeout,
    };
    assert_eq!(error, expected);
    assert!(error.to_string().contains("stuck engine"));
}

#[test]
fn endless_answers_over_a_link_without_delay_are_an_error() {
    let mut sim = Simulation::new(1, Instant::now());
    let (a, b) = pair(&mut sim, &LinkConfig::new());
    sim.set_livelock_limit(1000);
    for (name, host, at) in [("left", a, "10.0.0.1:7"), ("right", b, "10.0.0.2:7")] {
        let node = sim.add_node(name, host, Echo::default());
        sim.bind(node, address(at)).unwrap();
        if name == "right" {
            sim.node_mut(node)
                .outbox
                .push_back(Transmit::new(address("10.0.0.1:7"), Bytes::from("x")));
        }
    }
    assert!(matches!(sim.run_to(ms(10)), Err(ScenarioError::Livelock { at: Duration::ZERO, .. })));
}

/// Connects and sends a request; or listens and answers in capitals. Both close when they are done.
struct Shout {
    listens: bool,
    started: bool,
    stream: Option<StreamId>,
    request: Bytes,
    heard: Vec<u8>,
    closed: Vec<Closure>,
}

impl Shout {
    fn new(listens: bool, request: &'static str) -> Self {
        let request = Bytes::from_static(request.as_bytes());
        Shout {
            listens,
            started: false,
            stream: None,
            request,
            heard: Vec::new(),
            closed: Vec::new(),
        }
    }
}

impl Node for Shout {
    fn poll_streams(&mut self, _: Instant, io: &mut StreamIo<'_>) {
        if std::mem::replace(&mut self.started, true) {
            return;
        }
        let server = address("10.0.0.2:80");
        if self.listens {
            io.listen(server).unwrap();
        } else {
            self.stream = Some(io.connect(address("10.0.0.1:1"), server));
        }
    }

    fn handle_stream(&mut self, _: Instant, event: StreamEvent, io: &mut StreamIo<'_>) {
        match event.kind {
            StreamEventKind::Accepted { .. } => self.stream = Some(event.stream),
            StreamEventKind::Connected => {
                io.write(event.stream, &mut self.request).unwrap();
                io.finish(event.stream).unwrap();
            }
            StreamEventKind::Readable => {
                while let Ok(data) = io.read(event.stream, usize::MAX)
                    && !data.is_empty()
                {
                    self.heard.extend_from_slice(&data);
                }
            }
            StreamEventKind::Closed(closure) => {
                self.closed.push(closure);
                if self.listens {
                    let mut answer = Bytes::from(self.heard.to_ascii_uppercase());
                    io.write(event.stream, &mut answer).unwrap();
                    io.finish(event.stream).unwrap();
                }
            }
            _ => {}
        }
    }
}

#[test]
fn nodes_talk_over_streams() {
    let mut sim = Simulation::new(1, Instant::now());
    let (a, b) = pair(&mut sim, &LinkConfig::new());
    let config =
        towline_sim::StreamConfig::new().delay(ms(10)).chunking(towline_sim::Chunking::Fixed(3));
    sim.streams.set_default(config).unwrap();
    let client = sim.add_node("client", a, Shout::new(false, "hello, streams"));
    let server = sim.add_node("server", b, Shout::new(true, ""));
    assert_eq!(sim.run_to(ms(100)), Ok(Stop::Idle));
    assert_eq!(sim.node(server).heard, b"hello, streams");
    assert_eq!(sim.node(client).heard, b"HELLO, STREAMS");
    assert_eq!(
        (sim.node(client).closed.clone(), sim.node(server).closed.clone()),
        (vec![Closure::Fin], vec![Closure::Fin])
    );
    let last = sim.node(client).stream.unwrap();
    assert_eq!(last.connection(), 0);
}
