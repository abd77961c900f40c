//! Where flows begin and end.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use bytes::{Bytes, BytesMut};
use rustls_pki_types::ServerName;

use super::config::{ConfigError, ConnectConfig, ListenConfig, NodeConfig};
use super::dialing::Dialing;
use super::doors::{Below, Node};
use super::error::{Ended, HopEnd, RefusalKind, refusal};
use super::leg::{Happened, Leg, MAX_CONTROL_WAITING};
use super::route::{HopAddress, Route, RouteError, RouteReader};
use super::table::Key;
use crate::bats::flow::{self, Closed, Flow, FlowConfig, FlowStats, Framing, Mode, SendError};
use crate::bats::hop::{Hop, Path};
use crate::bats::seal::Seal;
use crate::quic::{self, ConnectionId, Ecn, Transmit};
use crate::tls;

/// Packets of a flow that wait here until it is known what it is.
const MAX_EARLY_PACKETS: usize = 4096;

/// A flow of one [`Endpoint`]. Never reused: a stale one finds nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowId(Key);

impl FlowId {
    /// The id as one number, for logs and tables.
    pub fn as_u64(self) -> u64 {
        self.0.as_u64()
    }
}

/// What happened.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// A client began a flow. Its first event; `Established` follows, or `Closed`.
    Incoming {
        /// The flow.
        flow: FlowId,
        /// The neighbour: the client, or the last relay.
        remote: SocketAddr,
    },
    /// Something on a flow. Its `Closed` does not come here but below.
    Flow(FlowId, flow::Event),
    /// A flow is over: its last event, and its id finds nothing from here on.
    Closed(FlowId, Ended),
}

/// Why a flow could not be begun. Nothing was sent.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The route is empty or too long.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// The flow's configuration.
    #[error(transparent)]
    Flow(#[from] flow::ConfigError),
    /// As many flows as may be.
    #[error("the endpoint has its {0} flows already")]
    TooManyFlows(usize),
    /// The path has relays and nothing seals the flow from end to end.
    #[error("a flow through relays needs a seal: ConnectConfig::seal, or dangerous_trust_relays")]
    Unsealed,
    /// The target's name is none that a certificate can have.
    #[error("`{0}` is not a server name")]
    TargetName(String),
    /// The hop's connection.
    #[error(transparent)]
    Hop(#[from] quic::ConnectError),
}

/// Counters of an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EndpointStats {
    /// Flows begun here.
    pub connected: u64,
    /// Flows taken.
    pub accepted: u64,
    /// Flows at present.
    pub flows: u64,
    /// Flows of clients refused: too many, a bad route, or one that goes on from here.
    pub refused: u64,
    /// The QUIC endpoint below.
    pub quic: quic::EndpointStats,
}

#[derive(Debug)]
enum Stage {
    /// A server does not know yet whether the flow is for it.
    Routing(RouteReader),
    Flowing(Box<Flow>),
    /// Over; the hop's connection is being closed.
    Over,
}

#[derive(Debug)]
pub(super) struct Entry {
    leg: Leg,
    /// While the hop is being connected.
    dialing: Option<Box<Dialing>>,
    stage: Stage,
    remote: SocketAddr,
    connected: bool,
    established: bool,
    /// When the flow has to be established.
    setup_by: Option<Instant>,
    /// The application knows of it and has not been told of its end.
    told: bool,
    /// What had arrived and was not read when the flow ended; then how it ended, which is told afterwards.
    unread: VecDeque<Bytes>,
    ended: Option<Ended>,
}

impl Entry {
    fn new(leg: Leg, stage: Stage, remote: SocketAddr, setup_by: Instant) -> Entry {
        let told = matches!(stage, Stage::Flowing(_));
        Entry {
            leg,
            dialing: None,
            stage,
            remote,
            connected: false,
            established: false,
            setup_by: Some(setup_by),
            told,
            unread: VecDeque::new(),
            ended: None,
        }
    }
}

/// What clients' flows become.
struct Listen {
    flow: FlowConfig,
    seal: Option<tls::ServerConfig>,
    unsealed: bool,
    serves: Option<(Mode, Framing)>,
}

impl Listen {
    fn split(config: Option<ListenConfig>) -> (Option<quic::ServerConfig>, Option<Listen>) {
        match config {
            Some(ListenConfig { hop, flow, seal, unsealed, serves }) => {
                (Some(hop), Some(Listen { flow, seal, unsealed, serves }))
            }
            None => (None, None),
        }
    }

    /// The flow of a client whose route says that it passed relays, or not.
    fn flow(&self, relayed: bool, seed: u64, now: Instant) -> Result<Flow, flow::ConfigError> {
        let config = FlowConfig { relayed, seed: self.flow.seed ^ seed, ..self.flow };
        let flow = match &self.seal {
            Some(tls) => {
                let require = relayed && !self.unsealed;
                Flow::server_sealed(config, Seal::Server(tls.clone()), require, now)
            }
            None => Flow::server(config, now),
        }?;
        Ok(match self.serves {
            Some((mode, framing)) => flow.serve_only(mode, framing),
            None => flow,
        })
    }
}

/// A node where flows begin and end, on one socket of one thread, without the socket.
pub struct Endpoint {
    below: Below<Entry, Event>,
    config: NodeConfig,
    listen: Option<Listen>,
    stats: EndpointStats,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint").field("flows", &self.below.flows.len()).finish_non_exhaustive()
    }
}

impl Endpoint {
    /// A new endpoint. `listen` makes it take flows; `seed` must be unpredictable, and different for every endpoint; `now` and `wall` say the same moment in both clocks.
    ///
    /// # Errors
    /// Names the first option out of range.
    pub fn new(
        config: NodeConfig,
        listen: Option<ListenConfig>,
        seed: [u8; 32],
        now: Instant,
        wall: SystemTime,
    ) -> Result<Endpoint, ConfigError> {
        // A few more than flows, so that those beyond can be told why they are refused.
        let quic = config.to_quic(config.max_flows + config.max_flows / 8 + 16)?;
        let (server, listen) = Listen::split(listen);
        let quic = quic::Endpoint::new(quic, server, seed, now, wall)?;
        let (below, stats) = (Below::new(quic, now), EndpointStats::default());
        Ok(Endpoint { below, config, listen, stats })
    }

    /// Replaces what new clients meet; `None` takes no new ones. Flows go on as they are.
    ///
    /// # Errors
    /// When its options allow one connection more memory than the endpoint does.
    pub fn set_listen(&mut self, listen: Option<ListenConfig>) -> Result<(), ConfigError> {
        let (server, listen) = Listen::split(listen);
        self.below.quic.set_server_config(server)?;
        self.listen = listen;
        Ok(())
    }

    /// Begins a flow to the last node of `path` by way of the others, relays in the order in which they are passed. `first` is the socket address of the first node.
    ///
    /// # Errors
    /// See [`ConnectError`]; nothing was sent then.
    pub fn connect(
        &mut self,
        now: Instant,
        path: &[HopAddress],
        first: SocketAddr,
        config: &ConnectConfig,
        seed: u64,
    ) -> Result<FlowId, ConnectError> {
        self.connect_to_any(now, path, &[first], config, seed)
    }

    /// The same where the first node's name stands for several addresses: the next one is tried when one fails, or has not answered within a second.
    ///
    /// # Errors
    /// See [`ConnectError`]; nothing was sent then.
    pub fn connect_to_any(
        &mut self,
        now: Instant,
        path: &[HopAddress],
        first: &[SocketAddr],
        config: &ConnectConfig,
        seed: u64,
    ) -> Result<FlowId, ConnectError> {
        self.below.now = now;
        let (node, rest) = path.split_first().ok_or(RouteError::Address)?;
        if rest.len() > super::MAX_HOPS {
            return Err(RouteError::TooLong.into());
        }
        if self.below.flows.len() >= self.config.max_flows {
            return Err(ConnectError::TooManyFlows(self.config.max_flows));
        }
        let relayed = config.flow.relayed || !rest.is_empty();
        let flow = FlowConfig { relayed, seed, ..config.flow };
        let flow = match &config.seal {
            Some(tls) if relayed => {
                let target = rest.last().unwrap_or(node).host();
                let target = config.target_name.as_deref().unwrap_or(target).to_owned();
                let name = ServerName::try_from(target.clone());
                let name = name.map_err(|_| ConnectError::TargetName(target))?;
                Flow::client_sealed(flow, &Seal::Client(tls.clone(), name), now)?
            }
            None if relayed && !config.unsealed => return Err(ConnectError::Unsealed),
            _ => Flow::client(flow, now)?,
        };
        let name = match &config.target_name {
            Some(name) if !relayed => name,
            _ => node.host(),
        };
        let route = Route { passed: 0, rest: rest.to_vec() }.encode();
        let mut dialing = Dialing::new(config.hop.clone(), name.into(), route, first);
        let (leg, remote) = dialing.attempt(now, &mut self.below.quic)?;
        self.stats.connected += 1;
        let stage = Stage::Flowing(Box::new(flow));
        let entry = Entry::new(leg, stage, remote, now + config.connect_timeout);
        Ok(FlowId(self.add(Entry { dialing: Some(Box::new(dialing)), ..entry })))
    }

    /// Goes on to the next address of the first node, where one is left and due.
    fn redial(&mut self, now: Instant, key: Key) {
        let Some(entry) = self.below.flows.get_mut(key) else { return };
        let Some(dialing) = &mut entry.dialing else { return };
        if matches!(entry.stage, Stage::Over) || !dialing.is_due(now, &entry.leg) {
            return;
        }
        if let Ok((leg, remote)) = dialing.attempt(now, &mut self.below.quic) {
            let (id, before) = (leg.id, std::mem::replace(&mut entry.leg, leg));
            entry.remote = remote;
            self.below.abandon(&before);
            self.below.own(id, key);
        }
    }

    fn add(&mut self, entry: Entry) -> Key {
        let id = entry.leg.id;
        let key = self.below.flows.insert(entry);
        self.below.own(id, key);
        key
    }

    /// A flow, as long as its `Closed` event has not been polled.
    pub fn flow(&mut self, id: FlowId) -> Option<FlowMut<'_>> {
        let entry = self.below.flows.get(id.0)?;
        if !matches!(entry.stage, Stage::Flowing(_)) && entry.ended.is_none() {
            return None;
        }
        Some(FlowMut { endpoint: self, key: id.0 })
    }

    /// Counters.
    pub fn stats(&self) -> EndpointStats {
        EndpointStats {
            flows: self.below.flows.len() as u64,
            quic: self.below.quic.stats(),
            ..self.stats
        }
    }

    /// Takes a datagram, without its UDP header. It is worked on with the next poll.
    pub fn handle_datagram(
        &mut self,
        now: Instant,
        path: quic::Path,
        ecn: Option<Ecn>,
        data: BytesMut,
    ) {
        self.below.handle_datagram(now, path, ecn, data);
    }

    /// Tells that a deadline of [`poll_timeout`](Self::poll_timeout) may have passed. Calling it too early does nothing.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.below.handle_timeout(now);
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self, now: Instant) -> Option<Event> {
        self.next_event(now)
    }

    /// Writes the next train of datagrams into `buf` and says how it must be sent, as [`quic::Endpoint::poll_transmit`] does.
    pub fn poll_transmit(&mut self, now: Instant, buf: &mut Vec<u8>) -> Option<Transmit> {
        self.next_transmit(now, buf)
    }

    /// When [`handle_timeout`](Self::handle_timeout) must be called next; it may be earlier than necessary.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.below.poll_timeout()
    }
}

impl Node for Endpoint {
    type Flow = Entry;
    type Event = Event;

    fn below(&mut self) -> &mut Below<Entry, Event> {
        &mut self.below
    }

    fn has_sent(entry: &Entry, quic: &mut quic::Endpoint) -> bool {
        entry.leg.has_sent(quic)
    }

    fn on_event(&mut self, now: Instant, key: Key, id: ConnectionId, event: quic::Event) {
        let Some(entry) = self.below.flows.get_mut(key) else { return };
        // An address that was given up for another may still answer.
        if entry.leg.id == id
            && entry.leg.on_event(now, &mut self.below.quic, event) == Happened::Connected
        {
            entry.connected = true;
            entry.dialing = None;
        }
    }

    /// A client's connection shows for the first time.
    fn accept(&mut self, now: Instant, id: ConnectionId) -> Option<Key> {
        let mut connection = self.below.quic.connection(id)?;
        let remote = connection.remote_address();
        if self.below.flows.len() >= self.config.max_flows {
            self.stats.refused += 1;
            let reason = format!("{} flows already", self.config.max_flows);
            connection.close(now, refusal::TOO_MANY, reason.into());
            return None;
        }
        let stage = Stage::Routing(RouteReader::default());
        let setup_by = now + self.config.setup_timeout;
        Some(self.add(Entry::new(Leg::new(id, false), stage, remote, setup_by)))
    }

    /// Drives one flow.
    fn work(&mut self, now: Instant, key: Key) {
        self.redial(now, key);
        let Some(entry) = self.below.flows.get_mut(key) else { return };
        entry.leg.handle_timeout(now, &mut self.below.quic);
        if entry.connected && entry.leg.end().is_none() {
            entry.leg.begin(now, &mut self.below.quic);
        }
        if let Stage::Routing(_) = entry.stage {
            self.route(now, key);
        }
        self.drive(now, key);
        let Some(entry) = self.below.flows.get_mut(key) else { return };
        if matches!(entry.stage, Stage::Over) {
            entry.leg.discard();
        }
        let busy = entry.connected && entry.leg.finish(&mut self.below.quic);
        if entry.leg.is_gone() {
            self.remove(key);
            return;
        }
        let flow = match &entry.stage {
            Stage::Flowing(flow) => [flow.poll_timeout(), entry.setup_by],
            Stage::Routing(_) => [None, entry.setup_by],
            Stage::Over => [None, None],
        };
        // Without a hop there is nothing to be done but to give up.
        let flow = flow.map(|at| at.filter(|_| entry.connected)).into_iter().flatten().min();
        let setup = entry.setup_by.filter(|_| !entry.connected);
        let dialing = entry.dialing.as_ref().and_then(|dialing| dialing.poll_timeout());
        let at = [entry.leg.poll_timeout(), flow, setup, dialing].into_iter().flatten().min();
        self.below.flows.arm(key, at);
        if busy {
            self.below.flows.set_busy(key);
        }
    }
}

impl Endpoint {
    /// Reads where a client's flow goes; it must end here.
    fn route(&mut self, now: Instant, key: Key) {
        let Some(entry) = self.below.flows.get_mut(key) else { return };
        let Stage::Routing(reader) = &mut entry.stage else { return };
        let mut read = Ok(None);
        while let Ok(None) = read
            && let Some(data) = entry.leg.hop.poll_control()
        {
            read = reader.push(&data);
        }
        match read {
            Ok(None) => {
                let (_, packets) = entry.leg.hop.waiting();
                if packets > MAX_EARLY_PACKETS {
                    self.refuse(now, key, refusal::ABUSE, "packets before a route");
                } else if entry.leg.end().is_some() || entry.setup_by.is_some_and(|by| by <= now) {
                    self.refuse(now, key, refusal::BAD_ROUTE, "no route in time");
                }
            }
            Ok(Some((route, _))) if !route.rest.is_empty() => {
                self.refuse(now, key, refusal::NOT_A_RELAY, "this node is no relay");
            }
            Ok(Some((route, rest))) => {
                entry.leg.hop.unread_control(rest);
                let (index, passed) = (key.as_u64(), route.passed);
                let Some(listen) = &self.listen else {
                    return self.refuse(now, key, refusal::STOPPING, "no new flows are taken");
                };
                if passed > 0 && listen.seal.is_none() && !listen.unsealed {
                    let reason =
                        "this node takes no flows through relays: it has nothing to seal with";
                    return self.refuse(now, key, refusal::NOT_ALLOWED, reason);
                }
                let seed = index.wrapping_mul(0x9E37_79B9_7F4A_7C15);
                match listen.flow(passed > 0, seed, now) {
                    Ok(flow) => entry.stage = Stage::Flowing(Box::new(flow)),
                    // It was checked before.
                    Err(_) => return self.refuse(now, key, refusal::STOPPING, "misconfigured"),
                }
                entry.told = true;
                self.stats.accepted += 1;
                let (flow, remote) = (FlowId(key), entry.remote);
                self.below.events.push_back(Event::Incoming { flow, remote });
            }
            Err(error) => self.refuse(now, key, refusal::BAD_ROUTE, &error.to_string()),
        }
    }

    /// A flow that never came to be.
    fn refuse(&mut self, now: Instant, key: Key, code: u64, reason: &str) {
        self.stats.refused += 1;
        let Some(entry) = self.below.flows.get_mut(key) else { return };
        entry.stage = Stage::Over;
        entry.leg.close(now, &mut self.below.quic, code, Bytes::copy_from_slice(reason.as_bytes()));
    }

    fn drive(&mut self, now: Instant, key: Key) {
        let Some(entry) = self.below.flows.get_mut(key) else { return };
        let Stage::Flowing(flow) = &mut entry.stage else { return };
        flow.handle_timeout(now);
        if entry.connected {
            if entry.leg.hop.waiting().0 > MAX_CONTROL_WAITING {
                entry.leg.discard();
            }
            flow.drive(now, &mut entry.leg.hop);
        }
        let mut closed = None;
        while let Some(event) = flow.poll_event() {
            match event {
                flow::Event::Closed(how) => closed = Some(how),
                flow::Event::Established => {
                    entry.established = true;
                    entry.setup_by = None;
                    self.below.events.push_back(Event::Flow(FlowId(key), flow::Event::Established));
                }
                event => self.below.events.push_back(Event::Flow(FlowId(key), event)),
            }
        }
        let ended = match closed {
            Some(closed) => Some(of_flow(closed)),
            None if entry.leg.end().is_some() || entry.leg.is_gone() => Some(of_hop(&entry.leg)),
            None if entry.setup_by.is_some_and(|by| by <= now) => Some(Ended::ConnectTimeout),
            None => None,
        };
        if let Some(ended) = ended {
            self.end(now, key, ended);
        }
    }

    /// A flow is over: the application is told, and the hop is closed in order.
    fn end(&mut self, now: Instant, key: Key, ended: Ended) {
        let Some(entry) = self.below.flows.get_mut(key) else { return };
        if let Stage::Flowing(mut flow) = std::mem::replace(&mut entry.stage, Stage::Over) {
            let messages = flow.config().framing == Framing::Messages;
            let mut next = || if messages { flow.recv() } else { flow.read() };
            entry.unread.extend(std::iter::from_fn(&mut next));
        }
        entry.setup_by = None;
        let code = match &ended {
            Ended::Flow(Closed::Violation(_)) => flow::code::VIOLATION,
            _ => flow::code::NONE,
        };
        entry.leg.finish_and_close(now, &mut self.below.quic, code, Bytes::new());
        entry.ended = Some(ended);
        self.tell_end(key);
    }

    /// Tells how a flow ended, once everything that had arrived was read.
    fn tell_end(&mut self, key: Key) {
        let Some(entry) = self.below.flows.get_mut(key) else { return };
        if entry.unread.is_empty()
            && let Some(ended) = entry.ended.take()
            && std::mem::take(&mut entry.told)
        {
            self.below.events.push_back(Event::Closed(FlowId(key), ended));
        }
    }

    fn remove(&mut self, key: Key) {
        if self.below.flows.get(key).is_none_or(|entry| entry.ended.is_some()) {
            return; // It is still read.
        }
        let Some(entry) = self.below.flows.remove(key) else { return };
        self.below.disown(entry.leg.id);
    }
}

/// What the end of a flow means here: relays speak through its codes.
fn of_flow(closed: Closed) -> Ended {
    match closed {
        Closed::Peer { code, reason } => match RefusalKind::from_code(code) {
            Some(kind) => Ended::Refused { kind, reason },
            None => Ended::Flow(Closed::Peer { code, reason }),
        },
        other => Ended::Flow(other),
    }
}

/// The same for the end of the hop.
fn of_hop(leg: &Leg) -> Ended {
    match leg.end() {
        Some(HopEnd::Closed { code, reason }) => match RefusalKind::from_code(*code) {
            Some(kind) => Ended::Refused { kind, reason: reason.clone() },
            None => Ended::Flow(Closed::Peer { code: *code, reason: reason.clone() }),
        },
        _ => leg.ended(),
    }
}

/// A flow, borrowed from its [`Endpoint`] for a moment. What is to be sent comes out of the endpoint's next `poll_transmit`.
#[derive(Debug)]
pub struct FlowMut<'a> {
    endpoint: &'a mut Endpoint,
    key: Key,
}

impl FlowMut<'_> {
    fn entry(&self) -> Option<&Entry> {
        self.endpoint.below.flows.get(self.key)
    }

    fn with<T>(&mut self, call: impl FnOnce(&mut Flow) -> T) -> Option<T> {
        self.endpoint.below.flows.touch(self.key);
        match &mut self.endpoint.below.flows.get_mut(self.key)?.stage {
            Stage::Flowing(flow) => Some(call(flow)),
            _ => None,
        }
    }

    fn read_only(&self) -> Option<&Flow> {
        match &self.entry()?.stage {
            Stage::Flowing(flow) => Some(flow),
            _ => None,
        }
    }

    /// Takes bytes for a stream; see [`Flow::write_bytes`].
    ///
    /// # Errors
    /// As there.
    pub fn write(&mut self, data: &mut Bytes) -> Result<usize, SendError> {
        self.with(|flow| flow.write_bytes(data)).unwrap_or(Err(SendError::Closed))
    }

    /// Takes a message; see [`Flow::send`].
    ///
    /// # Errors
    /// As there.
    pub fn send(&mut self, data: Bytes) -> Result<(), SendError> {
        self.with(|flow| flow.send(data)).unwrap_or(Err(SendError::Closed))
    }

    /// The next bytes of a stream, in order. What had arrived can be read after the end as well; [`Event::Closed`] waits for it.
    pub fn read(&mut self) -> Option<Bytes> {
        self.with(Flow::read).unwrap_or_else(|| self.read_rest())
    }

    /// The next message; as for [`read`](Self::read) after the end.
    pub fn recv(&mut self) -> Option<Bytes> {
        self.with(Flow::recv).unwrap_or_else(|| self.read_rest())
    }

    fn read_rest(&mut self) -> Option<Bytes> {
        let data = self.endpoint.below.flows.get_mut(self.key)?.unread.pop_front();
        self.endpoint.tell_end(self.key);
        data
    }

    /// Nothing more will be sent.
    pub fn finish(&mut self) {
        self.with(Flow::finish);
    }

    /// Finishes, and ends the flow when everything is acknowledged or `close_timeout` has passed.
    pub fn close(&mut self, now: Instant) {
        self.with(|flow| flow.close(now));
    }

    /// Ends the flow at once; the peer is told `code`, from 256 on the application's own, and `reason`.
    pub fn abort(&mut self, code: u64, reason: &str) {
        if self.with(|flow| flow.abort(code, reason)).is_none()
            && let Some(entry) = self.endpoint.below.flows.get_mut(self.key)
        {
            entry.unread.clear();
            self.endpoint.tell_end(self.key);
        }
    }

    /// Whether something would be taken for sending.
    pub fn is_writable(&self) -> bool {
        self.read_only().is_some_and(Flow::is_writable)
    }

    /// Whether the far end has agreed.
    pub fn is_established(&self) -> bool {
        self.entry().is_some_and(|entry| entry.established)
    }

    /// See [`Flow::ideal_buffer_length`].
    pub fn ideal_buffer_length(&self) -> usize {
        self.read_only().map_or(0, Flow::ideal_buffer_length)
    }

    /// See [`Flow::max_message`].
    pub fn max_message(&self) -> usize {
        self.read_only().map_or(0, Flow::max_message)
    }

    /// Bytes accepted and not acknowledged; in BTP, bytes that have not left.
    pub fn unacknowledged(&self) -> usize {
        self.read_only().map_or(0, Flow::unacknowledged)
    }

    /// The parameters, the client's once they are known.
    pub fn config(&self) -> Option<&FlowConfig> {
        self.read_only().map(Flow::config)
    }

    /// What was done and dropped so far.
    pub fn stats(&self) -> FlowStats {
        self.read_only().map(Flow::stats).unwrap_or_default()
    }

    /// What is known of the path to the neighbour.
    pub fn path(&self) -> Option<Path> {
        self.entry().map(|entry| entry.leg.hop.path())
    }

    /// The neighbour's address: the peer's, or that of the relay in between.
    pub fn remote_address(&self) -> Option<SocketAddr> {
        self.entry().map(|entry| entry.remote)
    }

    /// The hop's connection, for what it tells of itself.
    pub fn connection(&mut self) -> Option<quic::Connection<'_>> {
        let id = self.endpoint.below.flows.get(self.key)?.leg.id;
        self.endpoint.below.quic.connection(id)
    }

    /// The round trip to the neighbour.
    pub fn rtt(&self) -> Option<Duration> {
        self.path().map(|path| path.rtt)
    }
}
