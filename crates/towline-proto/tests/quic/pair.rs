//! Two endpoints, a network, one clock that only moves when nothing is left to do.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use rustls_pki_types::CertificateDer;
use towline_proto::quic::{
    ClientConfig, ClientSettings, ConnectParams, Connection, ConnectionId, Decision, Ecn, Endpoint,
    EndpointConfig, EndpointEvent, Event, Identity, Incoming, LocalAddress, Options, Path,
    ServerConfig, ServerSettings, ServerVerification, Transmit,
};

pub const ALPN: &[u8] = b"towline-test";
pub const NAME: &str = "localhost";

pub fn client_address() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], 40_000))
}

pub fn server_address() -> SocketAddr {
    SocketAddr::from(([198, 51, 100, 1], 443))
}

static CERTIFICATE: LazyLock<rcgen::CertifiedKey<rcgen::KeyPair>> =
    LazyLock::new(|| certificate(&[NAME]));

/// Signatures of Ed25519 always have the same length, so flights have, too.
pub fn certificate(names: &[&str]) -> rcgen::CertifiedKey<rcgen::KeyPair> {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let mut params = rcgen::CertificateParams::new(names).unwrap();
    // Each with a name of its own, so that no certificate is taken for another's issuer.
    let unique: String = key.public_key_raw().iter().map(|byte| format!("{byte:02x}")).collect();
    params.distinguished_name.push(rcgen::DnType::CommonName, unique);
    let cert = params.self_signed(&key).unwrap();
    rcgen::CertifiedKey { cert, signing_key: key }
}

pub fn identity_of(certificate: &rcgen::CertifiedKey<rcgen::KeyPair>) -> Identity {
    let key = certificate.signing_key.serialize_pem();
    Identity::from_pem(certificate.cert.pem().as_bytes(), key.as_bytes()).unwrap()
}

pub fn pair_certificate() -> &'static rcgen::CertifiedKey<rcgen::KeyPair> {
    &CERTIFICATE
}

pub fn identity() -> Identity {
    identity_of(&CERTIFICATE)
}

pub fn root() -> CertificateDer<'static> {
    CERTIFICATE.cert.der().clone()
}

pub fn client_settings() -> ClientSettings {
    let mut settings =
        ClientSettings::new(ServerVerification::Roots(vec![root()]), [Bytes::from_static(ALPN)]);
    settings.options.datagram_receive = true;
    settings
}

pub fn server_settings() -> ServerSettings {
    let mut settings = ServerSettings::new(identity(), [Bytes::from_static(ALPN)]);
    settings.options.datagram_receive = true;
    settings
}

/// Settings of both ends, changed by the test.
pub struct Setup {
    pub client: ClientSettings,
    pub server: ServerSettings,
    pub client_endpoint: EndpointConfig,
    pub server_endpoint: EndpointConfig,
    pub seed: u64,
    pub ipv6: bool,
}

impl Default for Setup {
    fn default() -> Self {
        let endpoint = EndpointConfig { secret: [7; 32], ..EndpointConfig::default() };
        Self {
            client: client_settings(),
            server: server_settings(),
            client_endpoint: endpoint.clone(),
            server_endpoint: endpoint,
            seed: 1,
            ipv6: false,
        }
    }
}

impl Setup {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Changes options of both ends.
    pub fn options(mut self, change: impl Fn(&mut Options)) -> Self {
        change(&mut self.client.options);
        change(&mut self.server.options);
        self
    }

    pub fn client(mut self, change: impl FnOnce(&mut ClientSettings)) -> Self {
        change(&mut self.client);
        self
    }

    pub fn server(mut self, change: impl FnOnce(&mut ServerSettings)) -> Self {
        change(&mut self.server);
        self
    }

    pub fn server_endpoint(mut self, change: impl FnOnce(&mut EndpointConfig)) -> Self {
        change(&mut self.server_endpoint);
        self
    }

    pub fn build(self) -> Pair {
        Pair::new(self)
    }
}

/// What one direction of the network does.
#[derive(Clone, Debug)]
pub struct Link {
    pub delay: Duration,
    pub jitter: Duration,
    /// Bytes per second and the queue before it, bytes.
    pub rate: Option<(u64, usize)>,
    pub loss: f64,
    pub duplicate: f64,
    pub corrupt: f64,
    pub mark: f64,
    pub mtu: usize,
    pub down: bool,
    /// Loses these, counted from 0.
    pub lose: Vec<u64>,
    /// Loses every second one.
    pub alternate: bool,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            delay: Duration::from_millis(10),
            jitter: Duration::ZERO,
            rate: None,
            loss: 0.0,
            duplicate: 0.0,
            corrupt: 0.0,
            mark: 0.0,
            mtu: 1_472,
            down: false,
            lose: Vec::new(),
            alternate: false,
        }
    }
}

/// SplitMix64.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    pub fn chance(&mut self, p: f64) -> bool {
        p > 0.0 && (self.next() >> 11) as f64 / ((1_u64 << 53) as f64) < p
    }
}

struct Flying {
    to_server: bool,
    path: Path,
    ecn: Option<Ecn>,
    data: BytesMut,
}

/// What was seen on the network.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub datagrams: u64,
    pub bytes: u64,
    pub largest: usize,
    pub trains: u64,
    pub longest_train: usize,
    pub marked: u64,
    pub lost: u64,
}

type Decide = Box<dyn FnMut(&Incoming) -> Option<Decision>>;

pub struct Pair {
    pub now: Instant,
    pub client: Endpoint,
    pub server: Endpoint,
    pub client_config: ClientConfig,
    pub server_config: ServerConfig,
    pub up: Link,
    pub down: Link,
    pub rng: Rng,
    /// Our address inside, the address that the server sees.
    pub nat: HashMap<SocketAddr, SocketAddr>,
    /// Local addresses whose network does not work.
    pub dead: Vec<SocketAddr>,
    pub client_address: SocketAddr,
    pub server_address: SocketAddr,
    pub client_events: Vec<(ConnectionId, Event)>,
    pub server_events: Vec<(ConnectionId, Event)>,
    pub incoming: Vec<Incoming>,
    /// What to answer at the gate; `None` leaves the client waiting.
    pub decide: Decide,
    pub seen_up: Seen,
    pub seen_down: Seen,
    /// Datagrams, for tests that look at them: to the server?, bytes.
    pub capture: Option<Vec<(bool, Bytes)>>,
    flying: BinaryHeap<Reverse<(Instant, u64)>>,
    cargo: HashMap<u64, Flying>,
    sequence: u64,
    busy: [Option<Instant>; 2],
    counts: [u64; 2],
    buf: Vec<u8>,
}

pub fn wall() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

impl Pair {
    fn new(setup: Setup) -> Self {
        let start = Instant::now();
        println!("seed {}", setup.seed);
        let mut rng = Rng(setup.seed);
        let mut seed = || {
            let mut bytes = [0; 32];
            for chunk in bytes.chunks_mut(8) {
                chunk.copy_from_slice(&rng.next().to_le_bytes());
            }
            bytes
        };
        let (client_seed, server_seed) = (seed(), seed());
        let client_config = ClientConfig::new(setup.client).unwrap();
        let server_config = ServerConfig::new(setup.server).unwrap();
        let client =
            Endpoint::new(setup.client_endpoint, None, client_seed, start, wall()).unwrap();
        let server = Endpoint::new(
            setup.server_endpoint,
            Some(server_config.clone()),
            server_seed,
            start,
            wall(),
        )
        .unwrap();
        let (client_address, server_address) = if setup.ipv6 {
            (SocketAddr::from((C6, 40_000)), SocketAddr::from((S6, 443)))
        } else {
            (client_address(), server_address())
        };
        Self {
            now: start,
            client,
            server,
            client_config,
            server_config,
            up: Link::default(),
            down: Link::default(),
            rng,
            nat: HashMap::new(),
            dead: Vec::new(),
            client_address,
            server_address,
            client_events: Vec::new(),
            server_events: Vec::new(),
            incoming: Vec::new(),
            decide: Box::new(|_| Some(Decision::Accept)),
            seen_up: Seen::default(),
            seen_down: Seen::default(),
            capture: None,
            flying: BinaryHeap::new(),
            cargo: HashMap::new(),
            sequence: 0,
            busy: [None; 2],
            counts: [0; 2],
            buf: Vec::new(),
        }
    }

    pub fn links(&mut self, mut change: impl FnMut(&mut Link)) {
        change(&mut self.up);
        change(&mut self.down);
    }

    pub fn connect(&mut self) -> ConnectionId {
        self.connect_with(&self.client_config.clone(), ConnectParams::default())
    }

    pub fn connect_with(&mut self, config: &ClientConfig, params: ConnectParams) -> ConnectionId {
        self.client.connect(self.now, config, self.server_address, NAME, params).unwrap()
    }

    /// Connects and drives until both ends say so.
    pub fn established(&mut self) -> (ConnectionId, ConnectionId) {
        let client = self.connect();
        self.establish(client)
    }

    pub fn establish(&mut self, client: ConnectionId) -> (ConnectionId, ConnectionId) {
        let before = self.server_events.len();
        let ok = self.drive_until(Duration::from_secs(20), |pair| {
            let confirmed =
                |(id, event): &(ConnectionId, Event)| *id == client && is_confirmed(event);
            pair.client_events.iter().any(confirmed)
                && pair.server_events.iter().skip(before).any(|(_, event)| is_confirmed(event))
        });
        assert!(ok, "not established: {:?} {:?}", self.client_events, self.server_events);
        let connected =
            self.server_events.iter().skip(before).find(|(_, event)| is_confirmed(event));
        (client, connected.unwrap().0)
    }

    pub fn client_conn(&mut self, id: ConnectionId) -> Connection<'_> {
        self.client.connection(id).expect("the client's connection")
    }

    pub fn server_conn(&mut self, id: ConnectionId) -> Connection<'_> {
        self.server.connection(id).expect("the server's connection")
    }

    /// Lets the clock go on until the condition holds; false when the time is over or nothing is left to happen.
    pub fn drive_until(
        &mut self,
        limit: Duration,
        mut done: impl FnMut(&mut Pair) -> bool,
    ) -> bool {
        let end = self.now + limit;
        loop {
            self.work();
            if done(self) {
                return true;
            }
            let Some(next) = self.next_moment() else { return false };
            if next > end {
                self.now = end;
                return false;
            }
            self.now = self.now.max(next);
        }
    }

    pub fn drive(&mut self, time: Duration) {
        let end = self.now + time;
        self.drive_until(time, |_| false);
        self.now = end;
        self.work();
    }

    fn next_moment(&self) -> Option<Instant> {
        [
            self.flying.peek().map(|Reverse((at, _))| *at),
            self.client.poll_timeout(),
            self.server.poll_timeout(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Everything that can happen at this moment.
    pub fn work(&mut self) {
        for round in 0.. {
            assert!(
                round < 100_000,
                "no end at one moment: {:?} {:?}",
                self.client.poll_timeout(),
                self.server.poll_timeout()
            );
            let mut moved = self.deliver();
            moved |= self.client.poll_timeout().is_some_and(|at| at <= self.now);
            moved |= self.server.poll_timeout().is_some_and(|at| at <= self.now);
            self.client.handle_timeout(self.now);
            self.server.handle_timeout(self.now);
            moved |= self.collect_events();
            moved |= self.transmit(true);
            moved |= self.transmit(false);
            if !moved {
                return;
            }
        }
    }

    fn collect_events(&mut self) -> bool {
        let mut moved = false;
        while let Some(event) = self.client.poll_event(self.now) {
            moved = true;
            match event {
                EndpointEvent::Connection(id, event) => self.client_events.push((id, event)),
                EndpointEvent::Incoming(_) => panic!("a client has no gate"),
            }
        }
        while let Some(event) = self.server.poll_event(self.now) {
            moved = true;
            match event {
                EndpointEvent::Connection(id, event) => self.server_events.push((id, event)),
                EndpointEvent::Incoming(incoming) => {
                    if let Some(decision) = (self.decide)(&incoming) {
                        self.server.decide(self.now, incoming.id, decision).unwrap();
                    }
                    self.incoming.push(*incoming);
                }
            }
        }
        moved
    }

    fn transmit(&mut self, from_client: bool) -> bool {
        let mut moved = false;
        let mut buf = std::mem::take(&mut self.buf);
        loop {
            let endpoint = if from_client { &mut self.client } else { &mut self.server };
            let Some(transmit) = endpoint.poll_transmit(self.now, &mut buf) else { break };
            moved = true;
            self.send_train(from_client, &transmit, &buf[..transmit.size]);
        }
        self.buf = buf;
        moved
    }

    fn send_train(&mut self, from_client: bool, transmit: &Transmit, bytes: &[u8]) {
        let segment = transmit.segment_size.unwrap_or(bytes.len());
        let seen = if from_client { &mut self.seen_up } else { &mut self.seen_down };
        seen.trains += 1;
        seen.longest_train = seen.longest_train.max(bytes.len().div_ceil(segment));
        for datagram in bytes.chunks(segment) {
            self.send(from_client, transmit, datagram);
        }
    }

    fn send(&mut self, from_client: bool, transmit: &Transmit, bytes: &[u8]) {
        let direction = usize::from(!from_client);
        let count = self.counts[direction];
        self.counts[direction] += 1;
        if let Some(capture) = &mut self.capture {
            capture.push((from_client, Bytes::copy_from_slice(bytes)));
        }
        let path = if from_client {
            let local = match transmit.source {
                Some(LocalAddress::Socket(local)) => local,
                _ => self.client_address,
            };
            if self.dead.contains(&local) {
                return;
            }
            assert_eq!(transmit.destination, self.server_address);
            let remote = self.nat.get(&local).copied().unwrap_or(local);
            Path { remote, local: self.server_address }
        } else {
            let inside = self
                .nat
                .iter()
                .find(|(_, outside)| **outside == transmit.destination)
                .map(|(inside, _)| *inside);
            // An address that was translated away gets nothing any more.
            let stale = inside.is_none() && self.nat.contains_key(&transmit.destination);
            let local = inside.unwrap_or(transmit.destination);
            if stale || self.dead.contains(&local) {
                return;
            }
            Path { remote: self.server_address, local }
        };
        let link = if from_client { &self.up } else { &self.down }.clone();
        let seen = if from_client { &mut self.seen_up } else { &mut self.seen_down };
        seen.datagrams += 1;
        seen.bytes += bytes.len() as u64;
        seen.largest = seen.largest.max(bytes.len());
        let lost = link.down
            || bytes.len() > link.mtu
            || link.lose.contains(&count)
            || (link.alternate && count % 2 == 1)
            || self.rng.chance(link.loss);
        if lost {
            seen.lost += 1;
            return;
        }
        let mut ecn = transmit.ecn;
        if ecn.is_some() && self.rng.chance(link.mark) {
            ecn = Some(Ecn::Ce);
        }
        seen.marked += u64::from(ecn.is_some());
        let mut at = self.now;
        if let Some((rate, queue)) = link.rate {
            let free = self.busy[direction].unwrap_or(self.now).max(self.now);
            let waiting = (free - self.now).as_secs_f64() * rate as f64;
            if waiting + bytes.len() as f64 > queue as f64 {
                seen.lost += 1;
                return;
            }
            at = free + Duration::from_secs_f64(bytes.len() as f64 / rate as f64);
            self.busy[direction] = Some(at);
        }
        let copies = 1 + usize::from(self.rng.chance(link.duplicate));
        for _ in 0..copies {
            let mut data = BytesMut::from(bytes);
            if self.rng.chance(link.corrupt) {
                let place = self.rng.below(data.len() as u64) as usize;
                data[place] ^= 1 << self.rng.below(8);
            }
            let jitter = self.rng.below(link.jitter.as_nanos() as u64 + 1);
            let arrival = at + link.delay + Duration::from_nanos(jitter);
            self.fly(arrival, Flying { to_server: from_client, path, ecn, data });
        }
    }

    fn fly(&mut self, at: Instant, flying: Flying) {
        self.sequence += 1;
        self.cargo.insert(self.sequence, flying);
        self.flying.push(Reverse((at, self.sequence)));
    }

    /// Puts a datagram of the test's own before an endpoint.
    pub fn inject(&mut self, to_server: bool, path: Path, data: &[u8]) {
        self.fly(self.now, Flying { to_server, path, ecn: None, data: BytesMut::from(data) });
    }

    fn deliver(&mut self) -> bool {
        let mut moved = false;
        while self.flying.peek().is_some_and(|Reverse((at, _))| *at <= self.now) {
            let Some(Reverse((_, key))) = self.flying.pop() else { break };
            let Some(Flying { to_server, path, ecn, data }) = self.cargo.remove(&key) else {
                continue;
            };
            moved = true;
            let endpoint = if to_server { &mut self.server } else { &mut self.client };
            endpoint.handle_datagram(self.now, path, ecn, data);
        }
        moved
    }
}

const C6: [u16; 8] = [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1];
const S6: [u16; 8] = [0x2001, 0xdb8, 0, 0, 0, 0, 0, 2];

fn is_confirmed(event: &Event) -> bool {
    matches!(event, Event::HandshakeConfirmed)
}

/// The events of one connection, in order.
pub fn of(events: &[(ConnectionId, Event)], id: ConnectionId) -> impl Iterator<Item = &Event> {
    events.iter().filter(move |(of, _)| *of == id).map(|(_, event)| event)
}

/// Reads everything that came on a passive stream, as the events announce it.
pub fn read_all(
    conn: &mut Connection<'_>,
    stream: towline_proto::quic::StreamId,
    into: &mut Vec<u8>,
) -> bool {
    while let Ok(chunk) = conn.read(stream, usize::MAX) {
        into.extend_from_slice(&chunk.data);
        if chunk.fin {
            return true;
        }
    }
    false
}

/// Bytes that differ everywhere.
pub fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + at / 251) as u8).collect()
}

/// A sink for key logs that keeps what it gets.
#[derive(Debug, Default)]
pub struct Lines(pub std::sync::Mutex<Vec<String>>);

impl towline_proto::quic::KeyLog for Lines {
    fn line(&self, line: &str) {
        self.0.lock().unwrap().push(line.to_owned());
    }
}

pub fn lines() -> Arc<Lines> {
    Arc::default()
}
