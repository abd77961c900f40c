//! Random interaction with an oracle: whatever the network and the two applications do, what is delivered is what was sent, in order, once; every stream, datagram and
//! connection has exactly one end.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use towline_proto::quic::*;

use crate::pair::*;

/// What one end wrote on a stream, or decided about it.
#[derive(Default)]
struct Sent {
    bytes: Vec<u8>,
    finished: bool,
    reset: bool,
}

#[derive(Default)]
struct Got {
    bytes: Vec<u8>,
    finished: bool,
    aborted: bool,
    closed: bool,
}

#[derive(Default)]
struct End {
    id: Option<ConnectionId>,
    sent: HashMap<StreamId, Sent>,
    got: HashMap<StreamId, Got>,
    stopped: HashSet<StreamId>,
    seen: usize,
    datagrams: HashMap<DatagramId, (u64, Vec<DatagramState>)>,
    datagrams_got: HashSet<u64>,
    closed: u32,
    after_closed: bool,
}

struct World {
    pair: Pair,
    ends: [End; 2],
    rng: Rng,
    tag: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng(seed);
        let active =
            [ReadMode::Passive, ReadMode::Active, ReadMode::Count(3)][rng.below(3) as usize];
        let plain = rng.chance(0.2);
        let control = match rng.below(3) {
            0 => CongestionControl::Cubic,
            1 => CongestionControl::NewReno,
            _ => CongestionControl::Bbr3,
        };
        let mut pair = Setup::new()
            .seed(seed)
            .options(|o| {
                o.active = active;
                o.datagram_states = true;
                o.disable_1rtt_encryption = plain;
                o.congestion_control = control.clone();
                o.stream_recv_window = 1 << 16;
                o.conn_flow_control_window = 1 << 18;
                o.peer_bidi_stream_count = 5;
                o.peer_unidi_stream_count = 5;
                o.max_bytes_per_key = 1 << 16;
                o.max_chunk = 3_000;
            })
            .client(|c| c.options.custom_verify = seed.is_multiple_of(3))
            .build();
        pair.links(|l| {
            l.loss = rng.below(12) as f64 / 100.0;
            l.duplicate = rng.below(8) as f64 / 100.0;
            // Without encryption nothing tells a changed byte.
            l.corrupt = if plain { 0.0 } else { rng.below(4) as f64 / 100.0 };
            l.jitter = Duration::from_millis(rng.below(25));
            l.mark = rng.below(5) as f64 / 100.0;
        });
        Self { pair, ends: Default::default(), rng, tag: 0 }
    }

    fn conn(&mut self, end: usize) -> Option<Connection<'_>> {
        let id = self.ends[end].id?;
        if end == 0 { self.pair.client.connection(id) } else { self.pair.server.connection(id) }
    }

    fn random_stream(
        &mut self,
        end: usize,
        of: impl Fn(&End) -> Vec<StreamId>,
    ) -> Option<StreamId> {
        let mut streams = of(&self.ends[end]);
        streams.sort_unstable();
        if streams.is_empty() {
            return None;
        }
        Some(streams[self.rng.below(streams.len() as u64) as usize])
    }

    /// One thing that an application, or the network, may do.
    fn act(&mut self) {
        let end = self.rng.below(2) as usize;
        match self.rng.below(100) {
            0..15 => self.open(end),
            15..50 => self.write(end),
            50..58 => self.finish(end),
            58..61 => self.reset(end),
            61..63 => self.stop(end),
            63..80 => self.datagram(end),
            80..83 => self.set_mode(end),
            83..85 => {
                if let Some(mut conn) = self.conn(end) {
                    conn.update_keys();
                }
            }
            85..88 => self.change_path(),
            88 => {
                self.pair.links(|l| l.down = true);
                let time = Duration::from_millis(self.rng.below(1_500));
                self.drive(time);
                self.pair.links(|l| l.down = false);
            }
            _ => {
                let time = Duration::from_millis(self.rng.below(60));
                self.drive(time);
            }
        }
    }

    /// A migration or a rebinding. The network is good before and meanwhile: while a client's window is full of lost packets the engine does not answer path challenges
    /// either, and a server's engine gives a path up after three of them and then has none.
    fn change_path(&mut self) {
        let links = (self.pair.up.clone(), self.pair.down.clone());
        self.pair.links(|l| *l = Link::default());
        self.drive(Duration::from_secs(4));
        if self.rng.chance(0.6) {
            self.move_client();
        } else {
            let to = SocketAddr::from(([203, 0, 113, 1 + self.rng.below(200) as u8], 5_000));
            let from = self.local();
            self.pair.nat.insert(from, to);
            if let Some(mut conn) = self.conn(0) {
                conn.ping();
            }
        }
        self.drive(Duration::from_millis(700));
        (self.pair.up, self.pair.down) = links;
    }

    fn local(&mut self) -> SocketAddr {
        match self.conn(0).and_then(|conn| conn.local_address()) {
            Some(LocalAddress::Socket(local)) => local,
            _ => client_address(),
        }
    }

    fn move_client(&mut self) {
        let to = SocketAddr::from(([192, 0, 2, 2 + self.rng.below(200) as u8], 40_000));
        let now = self.pair.now;
        if let Some(mut conn) = self.conn(0) {
            let _ = conn.migrate(now, to);
        }
    }

    fn open(&mut self, end: usize) {
        let direction =
            if self.rng.chance(0.5) { Direction::Bidirectional } else { Direction::Unidirectional };
        let flags = OpenFlags {
            immediate: self.rng.chance(0.2),
            fail_blocked: true,
            ..OpenFlags::default()
        };
        if let Some(mut conn) = self.conn(end)
            && let Ok(Opened::Stream(stream)) = conn.open(direction, flags)
        {
            self.ends[end].sent.insert(stream, Sent::default());
        }
    }

    fn writable(end: &End) -> Vec<StreamId> {
        end.sent
            .iter()
            .filter(|(_, sent)| !sent.finished && !sent.reset)
            .map(|(id, _)| *id)
            .collect()
    }

    fn write(&mut self, end: usize) {
        let Some(stream) = self.random_stream(end, Self::writable) else { return };
        let len = self.rng.below(20_000) as usize;
        let data: Vec<u8> = (0..len).map(|_| self.rng.next() as u8).collect();
        let queued = self.rng.chance(0.5);
        let Some(mut conn) = self.conn(end) else { return };
        let taken = if queued {
            conn.send(stream, Bytes::from(data.clone()), SendOptions::default())
                .map(|_| data.len())
                .unwrap_or(0)
        } else {
            conn.write(stream, &data).unwrap_or(0)
        };
        self.ends[end].sent.get_mut(&stream).unwrap().bytes.extend_from_slice(&data[..taken]);
    }

    fn finish(&mut self, end: usize) {
        let Some(stream) = self.random_stream(end, Self::writable) else { return };
        if let Some(mut conn) = self.conn(end)
            && conn.finish(stream).is_ok()
        {
            self.ends[end].sent.get_mut(&stream).unwrap().finished = true;
        }
    }

    fn reset(&mut self, end: usize) {
        let Some(stream) = self.random_stream(end, Self::writable) else { return };
        if let Some(mut conn) = self.conn(end)
            && conn.reset(stream, 3).is_ok()
        {
            self.ends[end].sent.get_mut(&stream).unwrap().reset = true;
        }
    }

    fn readable(end: &End) -> Vec<StreamId> {
        end.got
            .iter()
            .filter(|(_, got)| !got.finished && !got.aborted && !got.closed)
            .map(|(id, _)| *id)
            .collect()
    }

    fn stop(&mut self, end: usize) {
        let Some(stream) = self.random_stream(end, Self::readable) else { return };
        if let Some(mut conn) = self.conn(end)
            && conn.stop(stream, 4).is_ok()
        {
            self.ends[end].stopped.insert(stream);
        }
    }

    fn set_mode(&mut self, end: usize) {
        let Some(stream) = self.random_stream(end, Self::readable) else { return };
        let mode = match self.rng.below(4) {
            0 => ReadMode::Active,
            1 => ReadMode::Passive,
            2 => ReadMode::Once,
            _ => ReadMode::Count(self.rng.below(5) as i16 - 1),
        };
        if let Some(mut conn) = self.conn(end) {
            let _ = conn.set_active(stream, mode);
        }
    }

    fn datagram(&mut self, end: usize) {
        self.tag += 1;
        let tag = self.tag;
        let mut data = tag.to_be_bytes().to_vec();
        data.resize(8 + self.rng.below(900) as usize, 0);
        let expires =
            self.rng.chance(0.3).then(|| self.pair.now + Duration::from_millis(self.rng.below(30)));
        let options =
            DatagramOptions { priority: self.rng.below(3) as u8, expires, allow_early: false };
        if let Some(mut conn) = self.conn(end)
            && let Ok(id) = conn.send_datagram(Bytes::from(data), options)
        {
            self.ends[end].datagrams.insert(id, (tag, Vec::new()));
        }
    }

    fn drive(&mut self, time: Duration) {
        self.pair.drive(time);
        self.collect();
    }

    /// Takes in what happened, and checks it against what was done.
    fn collect(&mut self) {
        for end in 0..2 {
            let events = if end == 0 { &self.pair.client_events } else { &self.pair.server_events };
            let from = self.ends[end].seen;
            self.ends[end].seen = events.len();
            let mut verdicts = Vec::new();
            for at in from..self.ends[end].seen {
                let events =
                    if end == 0 { &self.pair.client_events } else { &self.pair.server_events };
                let (id, event) = &events[at];
                let mine = &mut self.ends[end];
                mine.id.get_or_insert(*id);
                assert_eq!(mine.id, Some(*id), "one connection in this world");
                mine.after_closed |= mine.closed > 0;
                match event {
                    Event::PeerCertificate { .. } => verdicts.push(*id),
                    Event::NewStream { stream, .. } => {
                        assert!(
                            mine.got.insert(*stream, Got::default()).is_none(),
                            "{stream:?} twice"
                        );
                        if stream.direction() == Direction::Bidirectional {
                            mine.sent.insert(*stream, Sent::default());
                        }
                    }
                    Event::Stream(stream, event) => on_stream(mine, *stream, event),
                    Event::Datagram { data, .. } => {
                        let tag = u64::from_be_bytes(data[..8].try_into().unwrap());
                        assert!(mine.datagrams_got.insert(tag), "datagram {tag} twice");
                    }
                    Event::DatagramSendState { id, state } => {
                        mine.datagrams.get_mut(id).expect("one that was sent").1.push(*state);
                    }
                    Event::Closed { .. } => mine.closed += 1,
                    _ => {}
                }
            }
            for id in verdicts {
                self.pair.client_conn(id).certificate_verdict(Verdict::Accept).unwrap();
            }
        }
        for end in 0..2 {
            self.read_passive(end);
            self.check_prefixes(end);
        }
    }

    fn read_passive(&mut self, end: usize) {
        for stream in Self::readable(&self.ends[end]) {
            if self.ends[end].stopped.contains(&stream) {
                continue;
            }
            while let Some(mut conn) = self.conn(end) {
                match conn.read(stream, 7_000) {
                    Ok(chunk) => take(
                        self.ends[end].got.get_mut(&stream).unwrap(),
                        chunk.offset,
                        &chunk.data,
                        chunk.fin,
                    ),
                    Err(_) => break,
                }
            }
        }
    }

    fn check_prefixes(&mut self, end: usize) {
        let [client, server] = &self.ends;
        let (mine, theirs) = if end == 0 { (client, server) } else { (server, client) };
        for (stream, got) in &mine.got {
            let Some(sent) = theirs.sent.get(stream) else { continue };
            assert!(
                sent.bytes.starts_with(&got.bytes),
                "{stream:?}: what came is not what was sent"
            );
            assert!(
                !got.finished || (sent.finished && got.bytes.len() == sent.bytes.len()),
                "{stream:?}: a false end"
            );
        }
        for tag in &mine.datagrams_got {
            assert!(
                theirs.datagrams.values().any(|(sent, _)| sent == tag),
                "datagram {tag} was never sent"
            );
        }
    }

    fn run(mut self, steps: usize) {
        let client = self.pair.connect();
        self.ends[0].id = Some(client);
        for _ in 0..2_000 {
            self.drive(Duration::from_millis(10));
            let connected = |e: &(ConnectionId, Event)| matches!(e.1, Event::HandshakeConfirmed);
            if self.pair.client_events.iter().any(connected) && self.ends[1].id.is_some() {
                break;
            }
        }
        // Streams that we open bidirectionally are read by us as well.
        for _ in 0..steps {
            self.act();
            for end in 0..2 {
                let both: Vec<_> = self.ends[end]
                    .sent
                    .keys()
                    .filter(|id| id.direction() == Direction::Bidirectional)
                    .copied()
                    .collect();
                for stream in both {
                    self.ends[end].got.entry(stream).or_default();
                }
            }
        }
        self.settle();
        self.finish_world();
    }

    /// A good network and willing readers: everything that was finished arrives.
    fn settle(&mut self) {
        self.pair.links(|l| *l = Link::default());
        for _ in 0..600 {
            self.drive(Duration::from_millis(100));
            for end in 0..2 {
                for stream in Self::readable(&self.ends[end]) {
                    if let Some(mut conn) = self.conn(end) {
                        let _ = conn.set_active(stream, ReadMode::Active);
                    }
                }
            }
            if (0..2).all(|end| self.is_done(end)) {
                return;
            }
        }
        for end in 0..2 {
            let events = if end == 0 { &self.pair.client_events } else { &self.pair.server_events };
            let ended = events.iter().find(|(_, e)| matches!(e, Event::TransportShutdown(_)));
            assert!(self.is_done(end), "end {end} has not got everything; {ended:?}");
        }
    }

    fn is_done(&self, end: usize) -> bool {
        let [client, server] = &self.ends;
        let (mine, theirs) = if end == 0 { (client, server) } else { (server, client) };
        theirs.sent.iter().all(|(stream, sent)| {
            let got = mine.got.get(stream);
            let stopped = mine.stopped.contains(stream) || theirs.sent[stream].reset;
            stopped
                || (!sent.finished && sent.bytes.is_empty())
                || got.is_some_and(|got| {
                    got.bytes.len() == sent.bytes.len() && got.finished == sent.finished
                })
        })
    }

    fn finish_world(&mut self) {
        let now = self.pair.now;
        self.drive(Duration::from_secs(3));
        if let Some(mut conn) = self.conn(0) {
            conn.close(now, 0, Bytes::new());
        }
        self.drive(Duration::from_secs(5));
        for (end, name) in self.ends.iter().zip(["client", "server"]) {
            assert_eq!((end.closed, end.after_closed), (1, false), "{name}");
            for (tag, states) in end.datagrams.values() {
                use DatagramState::*;
                assert!(
                    matches!(
                        states[..],
                        [Sent, Acknowledged | Lost | Unknown] | [Expired | Canceled]
                    ),
                    "{name}: datagram {tag}: {states:?}"
                );
            }
        }
        let [client, server] = &self.ends;
        for (mine, theirs) in [(client, server), (server, client)] {
            for (tag, states) in mine.datagrams.values() {
                if states.contains(&DatagramState::Acknowledged) {
                    assert!(
                        theirs.datagrams_got.contains(tag),
                        "datagram {tag} was acknowledged but not delivered"
                    );
                }
            }
        }
        assert_eq!(self.pair.client.stats().connections + self.pair.server.stats().connections, 0);
    }
}

fn take(got: &mut Got, offset: u64, data: &[u8], fin: bool) {
    assert!(!got.finished && !got.closed, "bytes behind the end");
    assert_eq!(offset, got.bytes.len() as u64, "out of order");
    got.bytes.extend_from_slice(data);
    got.finished |= fin;
}

fn on_stream(mine: &mut End, stream: StreamId, event: &StreamEvent) {
    let got = mine.got.entry(stream).or_default();
    assert!(!got.closed, "{stream:?}: {event:?} behind Closed");
    match event {
        StreamEvent::Data { data, offset, fin, .. } => take(got, *offset, data, *fin),
        StreamEvent::PeerSendAborted(_) => got.aborted = true,
        StreamEvent::PeerReceiveAborted(_) => {
            if let Some(sent) = mine.sent.get_mut(&stream) {
                sent.reset = true;
            }
        }
        StreamEvent::Closed => got.closed = true,
        _ => {}
    }
}

/// `TOWLINE_SEEDS=1000 cargo test --release -p towline-proto --test quic random` runs more worlds.
#[test]
fn whatever_happens_what_is_delivered_is_what_was_sent() {
    let seeds = std::env::var("TOWLINE_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(30);
    let first = std::env::var("TOWLINE_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(0);
    for seed in first..first + seeds {
        World::new(seed).run(400);
    }
}
