//! Relays over real sockets, between two ends that are driven here.
#![cfg(all(feature = "bats", feature = "cert"))]

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant, SystemTime};

use bytes::{Bytes, BytesMut};
use towline::Config;
use towline::bats::{HopAddress, Pattern, Relay, RelayBuilder, RelayError, RelaySettings};
use towline::tls::{SelfSigned, self_signed};
use towline_proto::bats::endpoint::{
    ConnectConfig, Ended, Endpoint, Event, FlowId, ListenConfig, NodeConfig, RefusalKind,
};
use towline_proto::bats::flow::{self, Closed, FlowConfig};
use towline_proto::bats::quic_hop::HopConfig;
use towline_proto::quic::{
    ClientSettings, EndpointConfig, Identity, Path, ServerSettings, ServerVerification,
};
use towline_proto::tls;

/// After this a transfer is taken for stuck.
const PATIENCE: Duration = Duration::from_secs(60);

fn settings() -> RelaySettings {
    RelaySettings { allow: vec![Pattern::ANY], ..RelaySettings::default() }
}

fn relay(made: &SelfSigned) -> Relay {
    let server = Config::builder()
        .certificate_pem(made.certificate_pem.clone(), made.key_pem.clone())
        .build()
        .unwrap();
    let client = Config::builder().ca_pem(made.certificate_pem.clone()).build().unwrap();
    RelayBuilder::new(&server, &client, settings()).start("127.0.0.1:0", |_| {}).unwrap()
}

/// An end of a flow on a socket of its own.
struct End {
    endpoint: Endpoint,
    socket: UdpSocket,
    flow: Option<FlowId>,
    ended: Option<Ended>,
    received: Vec<u8>,
    to_send: Bytes,
}

impl End {
    fn new(listen: Option<ListenConfig>, seed: u8) -> End {
        let quic =
            EndpointConfig { max_memory_per_connection: u64::MAX, ..EndpointConfig::default() };
        let config = NodeConfig { quic: HopConfig::adapt(quic), ..NodeConfig::default() };
        let times = (Instant::now(), SystemTime::now());
        let endpoint = Endpoint::new(config, listen, [seed; 32], times.0, times.1).unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        End {
            endpoint,
            socket,
            flow: None,
            ended: None,
            received: Vec::new(),
            to_send: Bytes::new(),
        }
    }

    fn address(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }

    /// Handles what came, or waits a moment for it; sends what there is.
    fn turn(&mut self) {
        let now = Instant::now();
        self.endpoint.handle_timeout(now);
        while let Some(event) = self.endpoint.poll_event(now) {
            match event {
                Event::Incoming { flow, .. } => self.flow = Some(flow),
                Event::Flow(id, flow::Event::ShutdownByPeer) => {
                    self.endpoint.flow(id).unwrap().finish();
                }
                Event::Closed(_, ended) => self.ended = Some(ended),
                _ => {}
            }
        }
        if let Some(mut flow) = self.flow.and_then(|flow| self.endpoint.flow(flow)) {
            while let Some(data) = flow.read() {
                self.received.extend_from_slice(&data);
            }
        }
        if let Some(mut flow) = self.flow.and_then(|flow| self.endpoint.flow(flow))
            && !self.to_send.is_empty()
            && flow.is_writable()
        {
            flow.write(&mut self.to_send).unwrap();
            if self.to_send.is_empty() {
                flow.finish();
            }
        }
        let mut buf = Vec::new();
        while let Some(transmit) = self.endpoint.poll_transmit(now, &mut buf) {
            let size = transmit.segment_size.unwrap_or(transmit.size).max(1);
            for datagram in buf[..transmit.size].chunks(size) {
                self.socket.send_to(datagram, transmit.destination).unwrap();
            }
        }
        let wait = self.endpoint.poll_timeout().map_or(Duration::from_millis(5), |at| {
            at.saturating_duration_since(now).min(Duration::from_millis(5))
        });
        self.socket.set_read_timeout(Some(wait.max(Duration::from_micros(100)))).unwrap();
        let mut buf = [0; 2048];
        let mut came = self.socket.recv_from(&mut buf);
        self.socket.set_nonblocking(true).unwrap();
        while let Ok((length, remote)) = came {
            let path = Path { remote, local: self.address() };
            let data = BytesMut::from(&buf[..length]);
            self.endpoint.handle_datagram(Instant::now(), path, None, data);
            came = self.socket.recv_from(&mut buf);
        }
        self.socket.set_nonblocking(false).unwrap();
    }
}

/// Two ends. Seeds make connection ids, so that they differ wherever a relay may remember those before.
fn ends(made: &SelfSigned, seed: u8) -> (End, End, ConnectConfig) {
    let pem = made.certificate_pem.as_bytes();
    let identity = Identity::from_pem(pem, made.key_pem.as_bytes()).unwrap();
    let roots = towline::quic::certificates(pem).unwrap();
    let client = ClientSettings::new(ServerVerification::Roots(roots), []);
    let hop = HopConfig::default();
    let seal = tls::Config::new().identity_pem(pem, made.key_pem.as_bytes()).server().unwrap();
    let listen = ListenConfig::new(ServerSettings::new(identity, []), &hop, FlowConfig::default());
    let trust = tls::Config::new().ca_pem(pem).client().unwrap();
    let connect = ConnectConfig::new(client, &hop, FlowConfig::default()).unwrap().seal(trust);
    (End::new(None, seed), End::new(Some(listen.unwrap().seal(seal)), seed + 1), connect)
}

/// Runs both ends on threads of their own until the client was told of its end.
fn run(mut client: End, mut server: End) -> (End, End) {
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let serving = scope.spawn(|| {
            while server.ended.is_none() && !over.load(std::sync::atomic::Ordering::Relaxed) {
                server.turn();
            }
        });
        let until = Instant::now() + PATIENCE;
        while client.ended.is_none() && Instant::now() < until {
            client.turn();
        }
        if !matches!(client.ended, Some(Ended::Flow(Closed::Finished))) {
            over.store(true, std::sync::atomic::Ordering::Relaxed);
        }
        serving.join().unwrap();
    });
    (client, server)
}

#[test]
fn a_stream_passes_two_relays() {
    let made = self_signed(&["127.0.0.1", "localhost"]).unwrap();
    let relays = [relay(&made), relay(&made)];
    let (mut client, server, config) = ends(&made, 1);
    let path: Vec<HopAddress> =
        [relays[0].local_address(), relays[1].local_address(), server.address()]
            .map(HopAddress::from)
            .to_vec();
    let data: Bytes =
        (0..2_000_000u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    client.to_send = data.clone();
    let first = relays[0].local_address();
    client.flow = Some(client.endpoint.connect(Instant::now(), &path, first, &config, 1).unwrap());
    let (client, server) = run(client, server);
    assert!(matches!(client.ended, Some(Ended::Flow(Closed::Finished))), "{:?}", client.ended);
    assert!(server.received == data, "{} of {} bytes", server.received.len(), data.len());
    for relay in relays {
        let totals = relay.totals().unwrap();
        assert_eq!(totals.opened, 1, "{totals:?}");
        let last = relay.stop(Duration::from_secs(5)).unwrap();
        assert!(last.packets[0].forwarded > 1_000, "{last:?}");
    }
}

#[test]
fn names_are_looked_up_and_those_that_are_none_are_refused() {
    let made = self_signed(&["127.0.0.1", "localhost"]).unwrap();
    let relay = relay(&made);
    let first = relay.local_address();
    for (seed, target, arrives) in [(1, "localhost", true), (3, "no-such-host.invalid", false)] {
        let (mut client, server, config) = ends(&made, seed);
        let target = HopAddress::new(target, server.address().port()).unwrap();
        client.to_send = Bytes::from_static(b"hello");
        let path = [HopAddress::from(first), target];
        client.flow =
            Some(client.endpoint.connect(Instant::now(), &path, first, &config, 1).unwrap());
        let (client, server) = run(client, server);
        let ended = client.ended.unwrap();
        if arrives {
            assert!(matches!(ended, Ended::Flow(Closed::Finished)), "{ended:?}");
            assert_eq!(server.received, b"hello");
        } else {
            let kind = RefusalKind::Unreachable;
            assert!(matches!(&ended, Ended::Refused { kind: k, .. } if *k == kind), "{ended:?}");
        }
    }
}

#[test]
fn what_cannot_be_started_says_why() {
    let made = self_signed(&["localhost"]).unwrap();
    let server = Config::builder()
        .certificate_pem(made.certificate_pem.clone(), made.key_pem)
        .build()
        .unwrap();
    let client = Config::builder().ca_pem(made.certificate_pem).build().unwrap();
    let start = |server: &Config, settings: RelaySettings, address: &str| {
        RelayBuilder::new(server, &client, settings).start(address, |_| {}).unwrap_err()
    };
    let nowhere = start(&server, RelaySettings::default(), "127.0.0.1:0");
    assert!(matches!(nowhere, RelayError::Config(_)) && nowhere.to_string().contains("allow"));
    assert!(matches!(start(&client, settings(), "127.0.0.1:0"), RelayError::Tls(_)));
    assert!(matches!(start(&server, settings(), "nothing"), RelayError::Resolve { .. }));
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    assert!(matches!(start(&server, settings(), &taken), RelayError::Io { .. }));
}
