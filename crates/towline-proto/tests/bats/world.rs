//! A row of hosts; an endpoint at each end, relays in between; and what the tests want to know of them.

use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use towline_proto::bats::endpoint::{
    ConnectConfig, Ended, Endpoint, Event, FlowId, HopAddress, ListenConfig, NodeConfig,
};
use towline_proto::bats::flow::{self, FlowConfig};
use towline_proto::bats::quic_hop::HopConfig;
use towline_proto::quic::{
    ClientSettings, Ecn, EndpointConfig, Identity, LocalAddress, Path, ServerSettings,
    ServerVerification, Transmit,
};
use towline_proto::tls;
use towline_sim::{self as sim, Chain, Delivery, LinkConfig, Node, NodeId, Simulation};

pub const PORT: u16 = 4_000;

pub fn wall() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

static CERTIFICATE: LazyLock<rcgen::CertifiedKey<rcgen::KeyPair>> = LazyLock::new(|| {
    let hosts = (0..=10).map(|host| chain_ip(host).to_string());
    certificate(hosts.chain(["far.example".to_owned()]).collect())
});

pub fn certificate(names: Vec<String>) -> rcgen::CertifiedKey<rcgen::KeyPair> {
    rcgen::generate_simple_self_signed(names).unwrap()
}

fn chain_ip(host: usize) -> std::net::IpAddr {
    std::net::IpAddr::from([10, 0, 0, host as u8 + 1])
}

pub fn identity_of(certificate: &rcgen::CertifiedKey<rcgen::KeyPair>) -> Identity {
    let key = certificate.signing_key.serialize_pem();
    Identity::from_pem(certificate.cert.pem().as_bytes(), key.as_bytes()).unwrap()
}

pub fn server_tls() -> ServerSettings {
    ServerSettings::new(identity_of(&CERTIFICATE), [])
}

pub fn client_tls() -> ClientSettings {
    let roots = vec![CERTIFICATE.cert.der().clone()];
    ClientSettings::new(ServerVerification::Roots(roots), [])
}

pub fn node_config() -> NodeConfig {
    let quic = EndpointConfig { max_memory_per_connection: u64::MAX, ..EndpointConfig::default() };
    NodeConfig { quic: HopConfig::adapt(quic), ..NodeConfig::default() }
}

pub fn seed(of: u8, number: u64) -> [u8; 32] {
    let mut seed = [of; 32];
    seed[..8].copy_from_slice(&number.to_le_bytes());
    seed
}

/// The bytes of a stream from `offset` on: none like its neighbours.
pub fn pattern(offset: u64, length: usize) -> Bytes {
    let byte = |at: u64| (at.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8;
    (offset..offset + length as u64).map(byte).collect()
}

/// An endpoint with a program: it sends a stream, reads what comes, and keeps what it was told.
pub struct End {
    pub endpoint: Endpoint,
    buf: Vec<u8>,
    last: Option<Instant>,
    pub flow: Option<FlowId>,
    pub events: Vec<flow::Event>,
    pub ended: Option<Ended>,
    pub to_send: u64,
    pub sent: u64,
    pub finishes: bool,
    pub reads: bool,
    pub received: u64,
    pub acknowledged: bool,
    pub seed: u64,
}

impl End {
    pub fn new(endpoint: Endpoint, seed: u64) -> End {
        End {
            endpoint,
            buf: Vec::new(),
            last: None,
            flow: None,
            events: Vec::new(),
            ended: None,
            to_send: 0,
            sent: 0,
            finishes: true,
            reads: true,
            received: 0,
            acknowledged: false,
            seed,
        }
    }

    pub fn client(now: Instant, number: u64) -> End {
        let endpoint = Endpoint::new(node_config(), None, seed(1, number), now, wall()).unwrap();
        End::new(endpoint, number)
    }

    pub fn server(now: Instant, number: u64, flow: FlowConfig) -> End {
        let listen = ListenConfig::new(server_tls(), &HopConfig::default(), flow).unwrap();
        let key = CERTIFICATE.signing_key.serialize_pem();
        let seal = tls::Config::new().identity_pem(CERTIFICATE.cert.pem(), key).clock(wall);
        let listen = listen.seal(seal.server().unwrap());
        let endpoint =
            Endpoint::new(node_config(), Some(listen), seed(2, number), now, wall()).unwrap();
        End::new(endpoint, number)
    }

    fn pump(&mut self, now: Instant) {
        while let Some(event) = self.endpoint.poll_event(now) {
            match event {
                // Only the first one counts.
                Event::Incoming { flow, .. } => drop(self.flow.get_or_insert(flow)),
                Event::Flow(flow, event) if self.flow == Some(flow) => {
                    self.acknowledged |= event == flow::Event::AllDataAcknowledged;
                    if event == flow::Event::ShutdownByPeer
                        && self.finishes
                        && let Some(mut flow) = self.flow.and_then(|flow| self.endpoint.flow(flow))
                    {
                        flow.finish();
                    }
                    self.events.push(event);
                }
                Event::Closed(flow, ended) if self.flow == Some(flow) => {
                    assert!(self.endpoint.flow(flow).is_none(), "nothing is found any more");
                    assert!(self.ended.is_none(), "the end comes once");
                    self.ended = Some(ended);
                }
                _ => {}
            }
            self.exchange();
        }
        self.exchange();
    }

    fn exchange(&mut self) {
        let Some(mut flow) = self.flow.and_then(|flow| self.endpoint.flow(flow)) else { return };
        while self.reads
            && let Some(data) = flow.read()
        {
            let expected = pattern(self.received, data.len());
            assert_eq!(data, expected, "seed {} at {}", self.seed, self.received);
            self.received += data.len() as u64;
        }
        let Some(mut flow) = self.flow.and_then(|flow| self.endpoint.flow(flow)) else { return };
        while self.sent < self.to_send && flow.is_writable() {
            let length = (self.to_send - self.sent).min(16 << 10) as usize;
            let taken = flow.write(&mut pattern(self.sent, length)).unwrap();
            self.sent += taken as u64;
            if self.sent == self.to_send && self.finishes {
                flow.finish();
            }
        }
    }
}

pub fn deliver(datagram: Delivery) -> (Path, Option<Ecn>, BytesMut) {
    let path = Path { remote: datagram.source, local: datagram.local };
    let ecn = Ecn::from_bits(datagram.ecn.bits());
    (path, ecn, BytesMut::from(&datagram.data[..]))
}

pub fn train(transmit: &Transmit, buf: &[u8]) -> sim::Transmit {
    let source = match transmit.source {
        Some(LocalAddress::Socket(address)) => Some(address),
        _ => None,
    };
    sim::Transmit {
        source,
        destination: transmit.destination,
        ecn: sim::Ecn::from_bits(transmit.ecn.map_or(0, Ecn::bits)),
        segment_size: transmit.segment_size,
        contents: Bytes::copy_from_slice(&buf[..transmit.size]),
    }
}

impl Node for End {
    fn handle_datagram(&mut self, now: Instant, datagram: Delivery) {
        let (path, ecn, data) = deliver(datagram);
        self.endpoint.handle_datagram(now, path, ecn, data);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.endpoint.handle_timeout(now);
    }

    fn poll_transmit(&mut self, now: Instant) -> Option<sim::Transmit> {
        self.pump(now);
        let transmit = self.endpoint.poll_transmit(now, &mut self.buf)?;
        self.last = Some(now);
        Some(train(&transmit, &self.buf))
    }

    fn poll_timeout(&mut self) -> Option<Instant> {
        let earliest = self.last.map(|last| last + Duration::from_micros(100));
        self.endpoint.poll_timeout().map(|at| earliest.map_or(at, |earliest| at.max(earliest)))
    }
}

pub struct World {
    pub simulation: Simulation,
    pub chain: Chain,
    pub client: NodeId<End>,
    pub server: NodeId<End>,
    pub number: u64,
}

impl World {
    /// A client at one end of a chain and a server at the other.
    pub fn new(hops: usize, link: &LinkConfig, flow: FlowConfig, number: u64) -> World {
        let mut simulation = Simulation::new(number, Instant::now());
        let chain = simulation.network.chain(hops, link).unwrap();
        for (place, host) in chain.hosts.iter().enumerate() {
            assert_eq!(simulation.network.address(*host).unwrap(), chain_ip(place));
        }
        let now = simulation.now();
        let client = simulation.add_node("client", chain.hosts[0], End::client(now, number));
        let server = End::server(now, number, FlowConfig { seed: number, ..flow });
        let server = simulation.add_node("server", chain.hosts[hops], server);
        simulation.bind(client, address(0)).unwrap();
        simulation.bind(server, address(hops)).unwrap();
        World { simulation, chain, client, server, number }
    }

    /// Begins the client's flow along these hosts of the chain, the target last.
    pub fn connect(&mut self, path: &[usize], config: &ConnectConfig) {
        let now = self.simulation.now();
        let number = self.number;
        let path: Vec<HopAddress> = path.iter().map(|&host| address(host).into()).collect();
        let first = path[0].literal().unwrap();
        let client = self.simulation.node_mut(self.client);
        client.flow = Some(client.endpoint.connect(now, &path, first, config, number).unwrap());
    }

    pub fn client(&self) -> &End {
        self.simulation.node(self.client)
    }

    pub fn server(&self) -> &End {
        self.simulation.node(self.server)
    }

    /// Runs until both ends were told of the end of the flow.
    pub fn run_to_end(&mut self, seconds: u64) {
        let (client, server) = (self.client, self.server);
        let over = |simulation: &Simulation| {
            simulation.node(client).ended.is_some() && simulation.node(server).ended.is_some()
        };
        let limit = self.simulation.elapsed() + Duration::from_secs(seconds);
        self.simulation.run_until(limit, over).unwrap();
    }
}

pub fn address(host: usize) -> SocketAddr {
    SocketAddr::new(chain_ip(host), PORT)
}

pub fn connect_config(flow: FlowConfig) -> ConnectConfig {
    let seal = tls::Config::new().ca_pem(CERTIFICATE.cert.pem()).clock(wall).client().unwrap();
    ConnectConfig::new(client_tls(), &HopConfig::default(), flow).unwrap().seal(seal)
}
