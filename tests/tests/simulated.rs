//! The session and the redialling that real connections use, over the simulated network: byte streams that are cut,
//! reset, silenced, stalled and refused, in virtual time.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use towline_proto::redial::{Action, Policy, Redial};
use towline_proto::session::{
    Config, Event, Handshake, Lane, Message, Outgoing, Payload, Session, SessionId, WireLoss,
};
use towline_sim::{
    Attempt, Bitrate, Chunking, Cut, Direction, Fault, StreamConfig, StreamEventKind, StreamId,
    StreamNetwork,
};

const CLIENT: usize = 0;
const SERVER: usize = 1;

/// One end: its session, if it has begun, and its present wire.
struct End {
    session: Option<Session>,
    outgoing: Outgoing,
    wire: Option<StreamId>,
    attempt: u64,
    unwritten: VecDeque<Bytes>,
    received: Vec<Message>,
}

impl End {
    fn new(config: &Config) -> End {
        End {
            session: None,
            outgoing: Outgoing::new(&config.limits),
            wire: None,
            attempt: 0,
            unwritten: VecDeque::new(),
            received: Vec::new(),
        }
    }
}

/// Two ends, the network between them, and what the client does when a wire is lost.
struct World {
    net: StreamNetwork,
    config: Arc<Config>,
    redial: Redial,
    ends: [End; 2],
    greeting: Option<(StreamId, Handshake)>,
    local: SocketAddr,
    address: SocketAddr,
    resumes: u32,
}

impl World {
    fn new(seed: u64, attempts: Vec<Attempt>) -> World {
        let base = Instant::now();
        let config = Arc::new(Config {
            keep_alive: Some(Duration::from_secs(2)),
            ping_timeout: Duration::from_secs(1),
            ..Config::default()
        });
        let mut net = StreamNetwork::new(seed, base);
        let stream = StreamConfig::new()
            .rate(Bitrate::from_mbps(50))
            .delay(Duration::from_millis(7))
            .chunking(Chunking::Random { min: 1, max: 9000 })
            .stall(0.01, Duration::from_millis(40));
        net.set_default(stream).expect("a sound configuration");
        let address = "10.0.0.2:7000".parse().expect("an address");
        net.listen(SERVER, address).expect("a free address");
        net.script(address, attempts);
        let mut client = End::new(&config);
        client.session = Some(Session::client(Arc::clone(&config), SessionId([7; 16]), base));
        let mut redial = Redial::new(Policy::default(), 1, seed);
        redial.start(base);
        let server = End::new(&config);
        World {
            net,
            config,
            redial,
            ends: [client, server],
            greeting: None,
            local: "10.0.0.1:0".parse().expect("an address"),
            address,
            resumes: 0,
        }
    }

    fn lost(&mut self, side: usize) {
        let now = self.net.now();
        let end = &mut self.ends[side];
        end.wire = None;
        end.unwritten.clear();
        let attempt = end.attempt;
        if let Some(session) = &mut end.session {
            session.handle_lost(now, WireLoss { attempt });
        }
        if side == CLIENT {
            self.redial.start(now);
        }
    }

    fn handle(&mut self, side: usize, stream: StreamId, kind: StreamEventKind) {
        let now = self.net.now();
        match kind {
            StreamEventKind::Connected => {
                let end = &mut self.ends[CLIENT];
                let session = end.session.as_mut().expect("the client has one");
                session.handle_open(now);
                (end.wire, end.attempt) = (Some(stream), session.attempt());
            }
            StreamEventKind::Failed(_) => self.redial.handle_failed(now, 0),
            StreamEventKind::Accepted { .. } => self.greeting = Some((stream, Handshake::new())),
            StreamEventKind::Readable => self.read(side, stream),
            StreamEventKind::Closed(_) => {
                self.read(side, stream);
                if self.ends[side].wire == Some(stream) {
                    self.net.abort(stream);
                    self.lost(side);
                }
            }
            _ => {}
        }
    }

    fn read(&mut self, side: usize, stream: StreamId) {
        let now = self.net.now();
        while let Ok(data) = self.net.read(stream, 64 << 10) {
            if data.is_empty() {
                break;
            }
            if self.greeting.as_ref().is_some_and(|(greeting, _)| *greeting == stream) {
                self.greet(stream, data);
            } else if self.ends[side].wire == Some(stream)
                && let Some(session) = &mut self.ends[side].session
            {
                session.handle_input(now, data);
                self.drain(side);
            }
        }
    }

    fn greet(&mut self, stream: StreamId, data: Bytes) {
        let now = self.net.now();
        let Some((_, handshake)) = &mut self.greeting else { return };
        let Some((hello, left_over)) = handshake.handle_input(data).expect("a sound HELLO") else {
            return;
        };
        self.greeting = None;
        let end = &mut self.ends[SERVER];
        match &mut end.session {
            None => {
                let session = Session::server(Arc::clone(&self.config), hello, now);
                end.session = Some(session.expect("versions fit"));
            }
            Some(session) => session.handle_resume(now, hello).expect("a later attempt"),
        }
        let session = end.session.as_mut().expect("made above");
        (end.wire, end.attempt) = (Some(stream), session.attempt());
        end.unwritten.clear();
        session.handle_input(now, left_over);
        self.drain(SERVER);
    }

    fn drain(&mut self, side: usize) {
        let now = self.net.now();
        while let Some(event) = self.ends[side].session.as_mut().and_then(Session::poll_event) {
            match event {
                Event::Message(message) => {
                    let end = &mut self.ends[side];
                    let session = end.session.as_mut().expect("it told");
                    session.consumed(message.lane, message.cost());
                    end.received.push(message);
                }
                Event::Established { resumed } if side == CLIENT => {
                    self.redial.handle_established(now, 0);
                    self.resumes += u32::from(resumed);
                }
                Event::WireFailed(_) => {
                    if let Some(wire) = self.ends[side].wire {
                        self.net.abort(wire);
                        self.lost(side);
                    }
                }
                Event::GaveUp { .. } | Event::Reset { .. } | Event::Closed { .. } => {
                    panic!("nothing here ends a session: {event:?}")
                }
                _ => {}
            }
        }
    }

    /// Writes what the sessions have to say, as far as the network takes it.
    fn transmit(&mut self) {
        let now = self.net.now();
        for end in &mut self.ends {
            let Some(session) = &mut end.session else { continue };
            session.enqueue(now, &mut end.outgoing);
            let Some(wire) = end.wire else { continue };
            loop {
                if end.unwritten.is_empty() {
                    let mut out = Vec::new();
                    session.poll_transmit(now, 32 << 10, &mut out);
                    end.unwritten.extend(out);
                }
                let Some(first) = end.unwritten.front_mut() else { break };
                if self.net.write(wire, first).is_err() || !first.is_empty() {
                    break;
                }
                end.unwritten.pop_front();
            }
        }
    }

    /// One instant: everything that is due, and on to the next.
    fn turn(&mut self) -> bool {
        let now = self.net.now();
        while let Some(action) = self.redial.poll(now) {
            match action {
                Action::Dial { .. } => {
                    self.net.connect(CLIENT, self.local, self.address);
                }
                Action::Cancel { .. } => {}
                other => panic!("the outages are shorter than the window: {other:?}"),
            }
        }
        while let Some(event) = self.net.poll_event() {
            self.handle(event.owner, event.stream, event.kind);
        }
        for side in [CLIENT, SERVER] {
            if let Some(session) = &mut self.ends[side].session
                && session.poll_timeout().is_some_and(|at| at <= now)
            {
                session.handle_timeout(now);
            }
            self.drain(side);
        }
        self.transmit();
        let sessions = self.ends.iter().filter_map(|end| end.session.as_ref()?.poll_timeout());
        let next =
            sessions.chain(self.redial.poll_timeout()).chain(self.net.next_event_time()).min();
        let Some(next) = next else { return false };
        self.net.advance_to(next.max(now));
        true
    }
}

/// The messages of one side: small and large ones on two lanes.
fn messages(side: usize) -> Vec<(Lane, Bytes)> {
    let lanes = [Lane::NORMAL, Lane::URGENT, Lane::NORMAL, Lane::BULK];
    let sizes = [0, 1, 64, 1500, 9000, 64 << 10, 200_000];
    (0..400u32)
        .map(|i| {
            let size = sizes[i as usize % sizes.len()];
            let mut data = vec![(i % 251) as u8 ^ side as u8; size];
            data.extend_from_slice(&i.to_le_bytes());
            (lanes[i as usize % lanes.len()], Bytes::from(data))
        })
        .collect()
}

/// Sends everything both ways through these attempts; how it went, as a digest of the network's run.
fn exchange(seed: u64, attempts: Vec<Attempt>) -> (u64, u32) {
    let cuts = attempts.len();
    let mut world = World::new(seed, attempts);
    let all = [messages(CLIENT), messages(SERVER)];
    let mut next = [0, 0];
    for _ in 0..2_000_000 {
        for side in [CLIENT, SERVER] {
            while let Some((lane, data)) = all[side].get(next[side]) {
                let payload = Payload::Bytes(data.clone());
                match world.ends[side].outgoing.push(*lane, None, None, payload) {
                    Ok(_) => next[side] += 1,
                    Err(_) => break,
                }
            }
        }
        let done = |side: usize| world.ends[side].received.len() == all[1 - side].len();
        if done(CLIENT) && done(SERVER) {
            break;
        }
        assert!(world.turn(), "seed {seed}: nothing is due and messages are missing");
        assert!(world.net.elapsed() < Duration::from_secs(300), "seed {seed}: it takes too long");
    }
    for side in [CLIENT, SERVER] {
        let received = &world.ends[side].received;
        for lane in Lane::ALL {
            let sent: Vec<&Bytes> =
                all[1 - side].iter().filter(|(on, _)| *on == lane).map(|(_, data)| data).collect();
            let got: Vec<&Bytes> =
                received.iter().filter(|m| m.lane == lane).map(|m| &m.data).collect();
            assert!(sent == got, "seed {seed}, {cuts} cuts, {lane:?}: not in order and once");
        }
    }
    (world.net.digest(), world.resumes)
}

fn cut(direction: Direction, offset: u64, fault: Fault) -> Attempt {
    Attempt::Accept(vec![Cut { direction, offset, fault }])
}

#[test]
fn everything_arrives_once_and_in_order_without_faults() {
    let (_, resumes) = exchange(1, Vec::new());
    assert_eq!(resumes, 0);
}

#[test]
fn cuts_anywhere_lose_nothing() {
    use Direction::{FromAcceptor, FromConnector};
    let faults = [Fault::Reset, Fault::Fin, Fault::Silence, Fault::Mute];
    for (seed, fault) in (10..).zip(faults) {
        let mut attempts = Vec::new();
        // The greeting itself is cut too, and then more and more gets through.
        for offset in [0, 1, 17, 60, 61, 400, 70_000, 1_000_000] {
            attempts.push(cut(FromConnector, offset, fault));
            attempts.push(cut(FromAcceptor, offset, fault));
        }
        let (_, resumes) = exchange(seed, attempts);
        assert!(resumes >= 2, "seed {seed}, {fault:?}: only {resumes} resumes");
    }
}

#[test]
fn refusals_and_outages_pass() {
    let outage = Fault::Outage(Duration::from_secs(1));
    let attempts = vec![
        Attempt::Refuse,
        cut(Direction::FromConnector, 300_000, Fault::Reset),
        Attempt::Refuse,
        Attempt::Refuse,
        cut(Direction::FromAcceptor, 200_000, outage),
    ];
    let (_, resumes) = exchange(20, attempts);
    assert!(resumes >= 1);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let attempts = || vec![cut(Direction::FromConnector, 250_000, Fault::Reset)];
    assert_eq!(exchange(30, attempts()), exchange(30, attempts()));
    assert_ne!(exchange(30, attempts()).0, exchange(31, attempts()).0);
}
