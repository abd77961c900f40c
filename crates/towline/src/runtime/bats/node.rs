//! The engines of this module behind one set of doors: coded flows, and plain datagrams.

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use bytes::{Bytes, BytesMut};
use towline_proto::bats::endpoint::{
    ConfigError, Ended, Endpoint, Event, FlowId, FlowMut, ListenConfig, NodeConfig,
};
use towline_proto::bats::flow::{self, Closed, FlowStats, Framing, SendError};
use towline_proto::bats::plain::{self, PeerId, Plain, PlainConfig};
use towline_proto::quic::{Ecn, Path, Transmit};

use crate::bats::Agreed;

use super::super::datagram;
use super::super::dial::random_seed;

/// Flows out of one thread at most.
const MAX_DIALED: usize = 1 << 16;

/// Flows of one listener at most, those in their handshakes included.
const MAX_ACCEPTED: usize = 1 << 16;

/// An engine of flows.
pub(crate) enum Node {
    /// BRTP and BTP.
    Coded(Box<Endpoint>),
    /// Plain datagrams.
    Plain(Box<Plain>),
}

/// A flow of an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::runtime) enum Id {
    Coded(FlowId),
    Plain(PeerId),
}

/// What engines tell.
pub(in crate::runtime) enum Told {
    /// A client has begun a flow.
    Incoming(Id),
    /// Something on a flow.
    Flow(Id, flow::Event),
    /// A flow is over, and its number finds nothing any more.
    Closed(Id, Ended),
}

impl Node {
    /// For coded flows out.
    pub(super) fn dialing() -> Result<Node, ConfigError> {
        Node::coded(None, MAX_DIALED)
    }

    /// For datagrams to one peer.
    pub(super) fn datagrams(now: Instant, to: SocketAddr) -> (Node, Option<PeerId>) {
        let mut plain = Plain::new(PlainConfig { max_peers: 1, ..PlainConfig::default() });
        let peer = plain.connect(now, to);
        (Node::Plain(Box::new(plain)), peer)
    }

    /// For clients: coded flows, or datagrams of peers that count as gone after so much silence.
    pub(crate) fn listening(
        config: Option<ListenConfig>,
        idle: Duration,
    ) -> Result<Node, ConfigError> {
        match config {
            Some(config) => Node::coded(Some(config), MAX_ACCEPTED),
            None => {
                let config = PlainConfig { accepts: true, idle, ..PlainConfig::default() };
                Ok(Node::Plain(Box::new(Plain::new(config))))
            }
        }
    }

    fn coded(listen: Option<ListenConfig>, max_flows: usize) -> Result<Node, ConfigError> {
        let mut config = NodeConfig { max_flows, ..NodeConfig::default() };
        config.quic.secret = random_seed();
        // Coded flows keep what is under way themselves.
        config.quic.max_memory_per_connection = u64::MAX;
        let times = (Instant::now(), SystemTime::now());
        let endpoint = Endpoint::new(config, listen, random_seed(), times.0, times.1)?;
        Ok(Node::Coded(Box::new(endpoint)))
    }

    pub(super) fn coded_mut(&mut self) -> Option<&mut Endpoint> {
        match self {
            Node::Coded(endpoint) => Some(endpoint),
            Node::Plain(_) => None,
        }
    }

    fn flow(&mut self, id: Id) -> Option<FlowMut<'_>> {
        match (self, id) {
            (Node::Coded(endpoint), Id::Coded(id)) => endpoint.flow(id),
            _ => None,
        }
    }

    /// Takes no new clients.
    pub(super) fn stop(&mut self) {
        match self {
            Node::Coded(endpoint) => {
                // Nothing is asked for, so that nothing can be refused.
                endpoint.set_listen(None).ok();
            }
            Node::Plain(plain) => plain.stop(),
        }
    }

    /// Takes bytes of a stream, or one message; `false` while there is no room for all of it.
    pub(super) fn send(&mut self, id: Id, data: &mut Bytes) -> Result<bool, SendError> {
        if let (Node::Plain(plain), Id::Plain(id)) = (&mut *self, id) {
            return match plain.send(id, data.clone()) {
                Ok(()) => Ok(true),
                Err(plain::SendError::Full) => Ok(false),
                Err(plain::SendError::TooLarge(length)) => {
                    Err(SendError::TooLarge { length, limit: plain::MAX_DATAGRAM })
                }
                Err(_) => Err(SendError::Closed),
            };
        }
        let Some(mut flow) = self.flow(id) else { return Err(SendError::Closed) };
        if flow.config().is_some_and(|config| config.framing == Framing::Messages) {
            return match flow.send(data.clone()) {
                Ok(()) => Ok(true),
                Err(SendError::Full) => Ok(false),
                Err(error) => Err(error),
            };
        }
        flow.write(data)?;
        Ok(data.is_empty())
    }

    /// The next bytes, or the next message.
    pub(super) fn next(&mut self, id: Id) -> Option<Bytes> {
        if let (Node::Plain(plain), Id::Plain(id)) = (&mut *self, id) {
            return plain.recv(id);
        }
        let mut flow = self.flow(id)?;
        match flow.config().map(|config| config.framing) {
            Some(Framing::Stream) => flow.read(),
            // Of one that is over it is not known any more; both read what is left.
            Some(Framing::Messages) | None => flow.recv(),
        }
    }

    /// Bytes of messages that were taken and have not left.
    pub(super) fn waiting(&mut self, id: Id) -> usize {
        if let (Node::Plain(plain), Id::Plain(id)) = (&mut *self, id) {
            return plain.waiting(id);
        }
        self.flow(id).map_or(0, |flow| flow.unacknowledged())
    }

    /// Ends a flow in order.
    pub(super) fn close(&mut self, id: Id, now: Instant) {
        if let (Node::Plain(plain), Id::Plain(id)) = (&mut *self, id) {
            plain.close(id);
        } else if let Some(mut flow) = self.flow(id) {
            flow.close(now);
        }
    }

    /// Ends a flow at once.
    pub(super) fn abort(&mut self, id: Id, code: u64, reason: &str) {
        if let (Node::Plain(plain), Id::Plain(id)) = (&mut *self, id) {
            plain.abort(id);
        } else if let Some(mut flow) = self.flow(id) {
            flow.abort(code, reason);
        }
    }

    /// What an established flow has agreed on.
    pub(super) fn agreed(&mut self, id: Id) -> Option<Agreed> {
        if let (Node::Plain(plain), Id::Plain(id)) = (&mut *self, id) {
            let peer = plain.remote_address(id)?;
            let max_message = plain::MAX_DATAGRAM;
            return Some(Agreed { tls: None, local: None, peer, max_message });
        }
        let mut flow = self.flow(id)?;
        let peer = flow.remote_address()?;
        let max_message = flow.max_message();
        let relayed = flow.config().is_some_and(|config| config.relayed);
        let connection = flow.connection()?;
        // The hop's certificate is that of a relay, where there are relays.
        let tls = (!relayed).then(|| connection.tls_state()).flatten();
        Some(Agreed { tls, local: None, peer, max_message })
    }

    pub(super) fn stats(&mut self, id: Id) -> (FlowStats, usize) {
        if let (Node::Plain(plain), Id::Plain(id)) = (&mut *self, id) {
            let done = plain.peer_stats(id).unwrap_or_default();
            let mut stats = FlowStats::default();
            (stats.messages_sent, stats.accepted_bytes) = (done.sent, done.sent_bytes);
            (stats.messages_delivered, stats.delivered_bytes) =
                (done.received, done.received_bytes);
            (stats.packets_sent, stats.packets_received) = (done.sent, done.received);
            stats.dropped.beyond_window = done.unread;
            return (stats, PlainConfig::default().send_queue);
        }
        self.flow(id)
            .map_or_else(Default::default, |flow| (flow.stats(), flow.ideal_buffer_length()))
    }
}

impl datagram::Engine for Node {
    type Event = Told;

    fn handle_datagram(&mut self, now: Instant, path: Path, ecn: Option<Ecn>, data: BytesMut) {
        match self {
            Node::Coded(endpoint) => endpoint.handle_datagram(now, path, ecn, data),
            Node::Plain(plain) => plain.handle_datagram(now, path, ecn, data),
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        match self {
            Node::Coded(endpoint) => endpoint.handle_timeout(now),
            Node::Plain(plain) => plain.handle_timeout(now),
        }
    }

    fn poll_event(&mut self, now: Instant) -> Option<Told> {
        match self {
            Node::Coded(endpoint) => loop {
                return Some(match endpoint.poll_event(now)? {
                    Event::Incoming { flow, .. } => Told::Incoming(Id::Coded(flow)),
                    Event::Flow(flow, event) => Told::Flow(Id::Coded(flow), event),
                    Event::Closed(flow, ended) => Told::Closed(Id::Coded(flow), ended),
                    _ => continue,
                });
            },
            Node::Plain(plain) => loop {
                return Some(match plain.poll_event(now)? {
                    plain::Event::Incoming(peer) => Told::Incoming(Id::Plain(peer)),
                    plain::Event::DataReceived(peer) => {
                        Told::Flow(Id::Plain(peer), flow::Event::DataReceived)
                    }
                    plain::Event::SendComplete(peer) => {
                        Told::Flow(Id::Plain(peer), flow::Event::SendComplete)
                    }
                    plain::Event::Closed { peer, idle } => {
                        let reason = "nothing came from it for too long".to_owned();
                        let silent = Closed::Peer { code: flow::code::NONE, reason };
                        let how = if idle { silent } else { Closed::Local };
                        Told::Closed(Id::Plain(peer), Ended::Flow(how))
                    }
                    _ => continue,
                });
            },
        }
    }

    fn poll_transmit(&mut self, now: Instant, buf: &mut Vec<u8>) -> Option<Transmit> {
        match self {
            Node::Coded(endpoint) => endpoint.poll_transmit(now, buf),
            Node::Plain(plain) => plain.poll_transmit(now, buf),
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        match self {
            Node::Coded(endpoint) => endpoint.poll_timeout(),
            Node::Plain(plain) => plain.poll_timeout(),
        }
    }
}

/// The address that datagrams to a peer leave from, where the socket says it.
pub(super) fn any_of_family(peer: SocketAddr) -> SocketAddr {
    match peer {
        SocketAddr::V4(_) => SocketAddr::from((std::net::Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, 0)),
    }
}
