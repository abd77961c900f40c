//! Neighbours that do not keep to the protocol.

use std::time::{Duration, Instant};

use bytes::Bytes;
use towline_proto::bats::endpoint::{Pattern, RefusalKind, RelaySettings, Route};
use towline_proto::bats::flow::FlowConfig;
use towline_proto::bats::quic_hop::{ALPN, HopConfig};
use towline_proto::quic::{
    ClientConfig, CloseReason, ConnectParams, ConnectionId, DatagramOptions, Direction, Endpoint,
    EndpointEvent, Event, OpenFlags, Opened,
};
use towline_sim::{self as sim, Bitrate, Delivery, LinkConfig, Node};

use crate::relays::RelayNode;
use crate::world::{
    World, address, client_tls, connect_config, deliver, node_config, seed, train, wall,
};

/// A QUIC client that writes what it likes to the control stream, again and again, and sends datagrams.
struct Rude {
    quic: Endpoint,
    id: ConnectionId,
    first: Bytes,
    then: Bytes,
    datagrams: bool,
    stream: Option<towline_proto::quic::StreamId>,
    ended: Option<Event>,
    refused: Option<CloseReason>,
    buf: Vec<u8>,
    again: Option<Instant>,
}

impl Rude {
    fn new(now: Instant, alpn: &'static [u8], to: usize, first: Bytes, then: Bytes) -> Rude {
        let mut tls = client_tls();
        tls.alpn = vec![Bytes::from_static(alpn)];
        tls.options = HopConfig::default().options();
        let config = ClientConfig::new(tls).unwrap();
        let mut quic = Endpoint::new(node_config().quic, None, seed(9, 1), now, wall()).unwrap();
        let host = address(to).ip().to_string();
        let id = quic.connect(now, &config, address(to), &host, ConnectParams::default()).unwrap();
        let (stream, ended, refused) = (None, None, None);
        Rude {
            quic,
            id,
            first,
            then,
            datagrams: false,
            stream,
            ended,
            refused,
            buf: Vec::new(),
            again: None,
        }
    }
}

impl Node for Rude {
    fn handle_datagram(&mut self, now: Instant, datagram: Delivery) {
        let (path, ecn, data) = deliver(datagram);
        self.quic.handle_datagram(now, path, ecn, data);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.quic.handle_timeout(now);
    }

    fn poll_transmit(&mut self, now: Instant) -> Option<sim::Transmit> {
        while let Some(event) = self.quic.poll_event(now) {
            match event {
                EndpointEvent::Connection(_, event @ Event::Shutdown { .. }) => {
                    self.ended = Some(event);
                }
                EndpointEvent::Connection(_, Event::Closed { .. }) => self.again = None,
                EndpointEvent::Connection(_, Event::TransportShutdown(reason)) => {
                    self.refused = Some(reason);
                }
                EndpointEvent::Connection(_, Event::Connected { .. }) => {
                    let mut connection = self.quic.connection(self.id).unwrap();
                    let flags = OpenFlags::default();
                    if let Ok(Opened::Stream(stream)) =
                        connection.open(Direction::Bidirectional, flags)
                    {
                        self.stream = Some(stream);
                        connection.write(stream, &self.first).unwrap();
                    }
                    self.again = Some(now);
                }
                _ => {}
            }
        }
        let due = self.again.is_some_and(|at| at <= now);
        if due {
            self.again = Some(now + Duration::from_millis(1));
        }
        if due
            && let Some(mut connection) = self.quic.connection(self.id)
            && let Some(stream) = self.stream
        {
            let _full = connection.write(stream, &self.then);
            for _ in 0..64 {
                if self.datagrams {
                    let packet = Bytes::from_static(&[0x00, 0, 0, 7, 1, 2, 3]);
                    let _full = connection.send_datagram(packet, DatagramOptions::default());
                }
            }
        }
        let transmit = self.quic.poll_transmit(now, &mut self.buf)?;
        Some(train(&transmit, &self.buf))
    }

    fn poll_timeout(&mut self) -> Option<Instant> {
        [self.quic.poll_timeout(), self.again].into_iter().flatten().min()
    }
}

fn link() -> LinkConfig {
    LinkConfig::lab(Bitrate::from_mbps(50), Duration::from_millis(5), 0.0)
}

/// What a server or a relay says to a client that begins like this.
fn answer(at: usize, alpn: &'static [u8], first: Bytes, then: Bytes, datagrams: bool) -> Rude {
    let flow = FlowConfig::default();
    let mut world = World::new(2, &link(), flow, 1);
    let now = world.simulation.now();
    let settings = RelaySettings { allow: vec![Pattern::ANY], ..RelaySettings::default() };
    let host = world.chain.hosts[1];
    let relay = world.simulation.add_node("relay", host, RelayNode::new(now, 1, settings));
    world.simulation.bind(relay, address(1)).unwrap();
    let mut rude = Rude::new(now, alpn, at, first, then);
    rude.datagrams = datagrams;
    let rude = world.simulation.add_node("rude", world.chain.hosts[0], rude);
    let mut own = address(0);
    own.set_port(9);
    world.simulation.bind(rude, own).unwrap();
    // Beside it, a flow that keeps to the protocol, by way of the same relay.
    world.connect(&[1, 2], &connect_config(flow));
    world.simulation.node_mut(world.client).to_send = 300_000;
    world.simulation.run_for(Duration::from_secs(12)).unwrap();
    assert_eq!(world.server().received, 300_000, "the other flow goes on");
    let held = world.simulation.node(relay).relay.totals().held;
    assert!(held < 10_000, "{held}");
    std::mem::replace(
        world.simulation.node_mut(rude),
        Rude::new(now, alpn, at, Bytes::new(), Bytes::new()),
    )
}

fn refusal(rude: &Rude) -> Option<RefusalKind> {
    match &rude.ended {
        Some(Event::Shutdown { code, .. }) => RefusalKind::from_code(*code),
        _ => None,
    }
}

#[test]
fn a_stream_that_does_not_begin_with_a_route_is_refused() {
    for at in [1, 2] {
        for first in
            [&b"GET / HTTP/1.1\r\n"[..], &[0, 3, 9, 0, 0], &[0, 0xc0, 0, 0, 0, 0xff, 0, 0, 0]]
        {
            let rude = answer(at, ALPN, Bytes::copy_from_slice(first), Bytes::new(), false);
            assert_eq!(refusal(&rude), Some(RefusalKind::BadRoute), "{first:?} {:?}", rude.ended);
        }
    }
}

#[test]
fn a_client_that_never_says_where_it_goes_is_sent_away_in_time() {
    for at in [1, 2] {
        let rude = answer(at, ALPN, Bytes::from_static(&[0]), Bytes::new(), false);
        assert_eq!(refusal(&rude), Some(RefusalKind::BadRoute), "{:?}", rude.ended);
    }
}

#[test]
fn packets_before_the_route_and_control_without_end_are_bounded() {
    for at in [1, 2] {
        let rude = answer(at, ALPN, Bytes::from_static(&[0]), Bytes::new(), true);
        assert_eq!(refusal(&rude), Some(RefusalKind::Abuse), "{:?}", rude.ended);
    }
    // A route, and then frames of no known type for ever: they may be passed over, one by one.
    let mut first = Route { passed: 0, rest: vec![address(2).into()] }.encode().to_vec();
    first.extend_from_slice(&[0x40, 0x40, 0]);
    let then = Bytes::from(vec![0x3f; 32 << 10]);
    let rude = answer(1, ALPN, first.into(), then, true);
    assert!(rude.ended.is_some() || rude.refused.is_some(), "it was not sent away");
}

#[test]
fn another_protocol_is_refused_in_the_handshake() {
    for at in [1, 2] {
        let rude = answer(at, b"h3", Bytes::new(), Bytes::new(), false);
        // RFC 7301, section 3.2: no_application_protocol.
        assert_eq!(rude.refused.as_ref().map(CloseReason::code), Some(0x178), "{:?}", rude.refused);
    }
}
