//! The ends of coded connections: a QUIC endpoint, and a flow over each of its connections.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Instant, SystemTime};

use bytes::BytesMut;

use super::flow::{self, Flow, FlowConfig};
use super::hop::Hop;
use super::quic_hop::QuicHop;
use super::route::{Route, RouteReader};
use crate::quic::{
    self, ClientConfig, CloseReason, ConnectError, ConnectParams, ConnectionId, Ecn,
    EndpointConfig, Path, ServerConfig, Transmit,
};

/// Codes with which a hop's connection is closed, in QUIC's own close.
pub mod code {
    /// The flow is over.
    pub const DONE: u64 = 0;
    /// The control stream does not begin with a route, or with one that cannot be.
    pub const BAD_ROUTE: u64 = 1;
    /// The route goes on, and this is no relay.
    pub const NO_RELAY: u64 = 2;
}

/// What an endpoint tells.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A client's connection was taken; its flow is being opened.
    Accepted,
    /// Something on the flow.
    Flow(flow::Event),
    /// The hop under the flow ended, and the flow with it. The connection's last event unless the flow was closed before.
    HopLost(HopLost),
}

/// Why a hop ended.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum HopLost {
    /// The transport's reason.
    Transport(CloseReason),
    /// The neighbour closed it.
    Peer {
        /// One of [`code`].
        code: u64,
        /// For people.
        reason: String,
    },
    /// This end did, with one of [`code`].
    Local {
        /// Which.
        code: u64,
    },
}

/// One connection.
struct Slot {
    hop: QuicHop,
    flow: Flow,
    /// Until the client's route is known.
    route: Option<RouteReader>,
    armed: Option<Instant>,
    over: bool,
}

/// Coded connections on one socket address, without the socket. Its doors are those of [`quic::Endpoint`].
pub struct Endpoint {
    quic: quic::Endpoint,
    config: FlowConfig,
    slots: BTreeMap<ConnectionId, Slot>,
    dirty: BTreeSet<ConnectionId>,
    /// Flows that have more than their hop wanted; each train makes room.
    hungry: BTreeSet<ConnectionId>,
    deadlines: BTreeSet<(Instant, ConnectionId)>,
    events: VecDeque<(ConnectionId, Event)>,
}

impl Endpoint {
    /// A new endpoint. With `server` it takes connections, and `config` is what their flows are set to where the client does not decide; see
    /// [`quic::Endpoint::new`] for the others. Both configurations must have [`HopConfig::options`](super::quic_hop::HopConfig::options).
    ///
    /// # Errors
    /// Names the first option out of range.
    pub fn new(
        endpoint: EndpointConfig,
        server: Option<ServerConfig>,
        config: FlowConfig,
        seed: [u8; 32],
        now: Instant,
        wall: SystemTime,
    ) -> Result<Self, quic::ConfigError> {
        Ok(Endpoint {
            quic: quic::Endpoint::new(endpoint, server, seed, now, wall)?,
            config,
            slots: BTreeMap::new(),
            dirty: BTreeSet::new(),
            hungry: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            events: VecDeque::new(),
        })
    }

    /// Connects to a neighbour: the destination, or the first relay of a route to it.
    ///
    /// # Errors
    /// As [`quic::Endpoint::connect`]; [`ConnectError::Engine`] names an option of `flow` that is out of range.
    pub fn connect(
        &mut self,
        now: Instant,
        config: &ClientConfig,
        remote: SocketAddr,
        server_name: &str,
        route: &Route,
        flow: FlowConfig,
    ) -> Result<ConnectionId, ConnectError> {
        let flow = FlowConfig { relayed: !route.names().is_empty(), ..flow };
        let flow = Flow::client(flow, now).map_err(|error| ConnectError::Engine(error.to_string()))?;
        let params = ConnectParams::default();
        let id = self.quic.connect(now, config, remote, server_name, params)?;
        let mut hop = QuicHop::new(true);
        hop.write_control(&route.encode());
        self.slots.insert(id, Slot { hop, flow, route: None, armed: None, over: false });
        self.dirty.insert(id);
        Ok(id)
    }

    /// The flow of a connection, to give it something or take something from it. It is driven with the next poll.
    pub fn flow(&mut self, id: ConnectionId) -> Option<&mut Flow> {
        let slot = self.slots.get_mut(&id)?;
        self.dirty.insert(id);
        Some(&mut slot.flow)
    }

    /// The hop of a connection, to look at.
    pub fn hop(&self, id: ConnectionId) -> Option<&QuicHop> {
        self.slots.get(&id).map(|slot| &slot.hop)
    }

    /// The engine below, for its statistics.
    pub fn quic(&self) -> &quic::Endpoint {
        &self.quic
    }

    /// Forgets a connection whose last event has come, or gives it up.
    pub fn forget(&mut self, now: Instant, id: ConnectionId) {
        self.close(now, id, code::DONE, "");
        if let Some(slot) = self.slots.remove(&id)
            && let Some(at) = slot.armed
        {
            self.deadlines.remove(&(at, id));
        }
        self.dirty.remove(&id);
        self.hungry.remove(&id);
    }

    fn close(&mut self, now: Instant, id: ConnectionId, code: u64, reason: &'static str) {
        if let Some(mut connection) = self.quic.connection(id) {
            connection.close(now, code, bytes::Bytes::from_static(reason.as_bytes()));
        }
    }

    // Input.

    /// Takes a datagram.
    pub fn handle_datagram(&mut self, now: Instant, path: Path, ecn: Option<Ecn>, data: BytesMut) {
        self.quic.handle_datagram(now, path, ecn, data);
    }

    /// Tells that a deadline may have passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.quic.handle_timeout(now);
        while let Some(&(at, id)) = self.deadlines.first().filter(|(at, _)| *at <= now) {
            self.deadlines.remove(&(at, id));
            if let Some(slot) = self.slots.get_mut(&id) {
                slot.armed = None;
                slot.flow.handle_timeout(now);
                self.dirty.insert(id);
            }
        }
    }

    // Work.

    /// Hands the engine's events to their hops.
    fn collect(&mut self, now: Instant) {
        while let Some(event) = self.quic.poll_event(now) {
            let quic::EndpointEvent::Connection(id, event) = event else { continue };
            if !self.slots.contains_key(&id) && !self.accept(now, id) {
                continue;
            }
            let Some(slot) = self.slots.get_mut(&id) else { continue };
            self.dirty.insert(id);
            match slot.hop.handle_event(event) {
                Some(quic::Event::TransportShutdown(reason)) => {
                    self.lose(id, HopLost::Transport(reason));
                }
                Some(quic::Event::Shutdown { code, reason }) => {
                    let reason = String::from_utf8_lossy(&reason).into_owned();
                    self.lose(id, HopLost::Peer { code, reason });
                }
                _ => {}
            }
        }
    }

    /// A connection that is not known yet is a client's, or was forgotten.
    fn accept(&mut self, now: Instant, id: ConnectionId) -> bool {
        let side = self.quic.connection(id).map(|connection| connection.side());
        let Ok(flow) = Flow::server(self.config, now) else { return false };
        if side != Some(quic::Side::Server) {
            return false;
        }
        let route = Some(RouteReader::default());
        let slot = Slot { hop: QuicHop::new(false), flow, route, armed: None, over: false };
        self.slots.insert(id, slot);
        self.events.push_back((id, Event::Accepted));
        true
    }

    fn lose(&mut self, id: ConnectionId, why: HopLost) {
        if let Some(slot) = self.slots.get_mut(&id)
            && !slot.over
        {
            slot.over = true;
            if !slot.flow.is_closed() {
                self.events.push_back((id, Event::HopLost(why)));
            }
        }
    }

    /// Drives what was touched; whether anything was.
    fn work(&mut self, now: Instant) -> bool {
        self.collect(now);
        let mut worked = false;
        while let Some(id) = self.dirty.pop_first() {
            worked = true;
            self.drive(now, id);
        }
        worked
    }

    fn drive(&mut self, now: Instant, id: ConnectionId) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        if slot.over {
            slot.disarm(id, &mut self.deadlines);
            return;
        }
        let Some(mut connection) = self.quic.connection(id) else { return };
        slot.hop.begin(now, &mut connection);
        if let Some(refused) = slot.read_route() {
            connection.close(now, refused, bytes::Bytes::from_static(b"route"));
            self.lose(id, HopLost::Local { code: refused });
            return;
        }
        if slot.route.is_some() {
            return;
        }
        slot.flow.drive(now, &mut slot.hop);
        if slot.hop.is_ready() && slot.hop.room(now) == 0 {
            self.hungry.insert(id);
        }
        slot.hop.finish(&mut connection);
        while let Some(event) = slot.flow.poll_event() {
            self.events.push_back((id, Event::Flow(event)));
        }
        slot.arm(id, &mut self.deadlines);
    }

    // Output.

    /// The next thing that happened, and on which connection.
    pub fn poll_event(&mut self, now: Instant) -> Option<(ConnectionId, Event)> {
        self.work(now);
        self.events.pop_front()
    }

    /// Writes the next train of datagrams, as [`quic::Endpoint::poll_transmit`] does.
    pub fn poll_transmit(&mut self, now: Instant, buf: &mut Vec<u8>) -> Option<Transmit> {
        loop {
            if let Some(transmit) = self.quic.poll_transmit(now, buf) {
                self.dirty.append(&mut self.hungry);
                return Some(transmit);
            }
            if !self.work(now) {
                return None;
            }
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) must be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let own = self.deadlines.first().map(|(at, _)| *at);
        [self.quic.poll_timeout(), own].into_iter().flatten().min()
    }
}

impl Slot {
    /// Reads the route in front of the flow's bytes; gives the code of a refusal.
    fn read_route(&mut self) -> Option<u64> {
        while let Some(reader) = &mut self.route {
            let data = self.hop.poll_control()?;
            match reader.push(&data) {
                Ok(None) => {}
                Ok(Some((route, _))) if !route.names().is_empty() => return Some(code::NO_RELAY),
                Ok(Some((_, rest))) => {
                    self.route = None;
                    self.hop.return_control(rest);
                }
                Err(_) => return Some(code::BAD_ROUTE),
            }
        }
        None
    }

    fn disarm(&mut self, id: ConnectionId, deadlines: &mut BTreeSet<(Instant, ConnectionId)>) {
        if let Some(at) = self.armed.take() {
            deadlines.remove(&(at, id));
        }
    }

    fn arm(&mut self, id: ConnectionId, deadlines: &mut BTreeSet<(Instant, ConnectionId)>) {
        let at = [self.flow.poll_timeout(), self.hop.poll_timeout()].into_iter().flatten().min();
        if at == self.armed {
            return;
        }
        self.disarm(id, deadlines);
        if let Some(at) = at {
            deadlines.insert((at, id));
            self.armed = Some(at);
        }
    }
}
