//! One thread's endpoint: the engine's endpoint and all its connections, swept together.

mod gate;
mod limits;
mod queues;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::BytesMut;
use noq_proto as engine;

pub(super) use queues::Queues;

use self::gate::Gate;
use self::limits::StatelessLimit;
use super::cid::{Generator, Random};
use super::clock::Clock;
use super::config::{ClientConfig, ConnectParams, EndpointConfig, ServerConfig};
use super::connection::{Config, Conn, Connection, Parts};
use super::crypto::{ClientCrypto, Hold, ResetKey, Secret, Shared, TicketKeys, TokenKey};
use super::error::{CloseReason, ConfigError, ConnectError};
use super::event::EndpointEvent;
use super::observe::Observed;
use super::stats::EndpointStats;
use super::types::{ConnectionId, Ecn, LocalAddress, Path, Side, Transmit};

struct Slot {
    generation: u32,
    conn: Option<Box<Conn>>,
}

/// QUIC on one socket address of one thread, without the socket: datagrams and `now` in; trains of datagrams, events and the next deadline out.
///
/// Any number of datagrams may go in before something is taken out, so a driver drains its socket, then calls [`poll_event`](Self::poll_event) and
/// [`poll_transmit`](Self::poll_transmit) until both give nothing, and sleeps until [`poll_timeout`](Self::poll_timeout). Each connection that was touched is worked on
/// once per such round. It is not shared between threads; a server with several threads has one endpoint per thread, told apart by `CidConfig::thread`.
pub struct Endpoint {
    config: EndpointConfig,
    engine: engine::Endpoint,
    server: Option<ServerConfig>,
    clock: Arc<Clock>,
    secret: Secret,
    tickets: Option<Arc<TicketKeys>>,
    token_key: Arc<TokenKey>,
    random: Random,
    slots: Vec<Slot>,
    queues: Queues,
    gate: Gate,
    limit: StatelessLimit,
    responses: VecDeque<(engine::Transmit, Vec<u8>)>,
    stats: EndpointStats,
}

impl Endpoint {
    /// A new endpoint. `server` makes it take connections; `seed` must be unpredictable, and different for every endpoint; `now` and `wall` say the same moment in both clocks.
    ///
    /// # Errors
    /// Names the first option out of range.
    pub fn new(
        config: EndpointConfig,
        server: Option<ServerConfig>,
        seed: [u8; 32],
        now: Instant,
        wall: SystemTime,
    ) -> Result<Self, ConfigError> {
        config.check()?;
        if let Some(server) = &server {
            config.check_memory(server.options())?;
        }
        let secret = Secret::new(&config.secret);
        let seeds = Secret::new(&seed);
        let clock = Arc::new(Clock::new(now, wall));
        let mut engine_config = engine::EndpointConfig::new(Arc::new(ResetKey::new(&secret)));
        let (cid, cid_seed) = (config.cid.clone(), seeds.derive::<16>(b"connection ids", &[]));
        engine_config
            .cid_generator(Arc::new(move || Box::new(Generator::new(cid.clone(), &cid_seed))))
            .supported_versions(vec![super::crypto::VERSION])
            .grease_quic_bit(config.grease_quic_bit)
            .min_reset_interval(config.min_reset_interval)
            .rng_seed(Some(seeds.derive::<32>(b"engine", &[])));
        engine_config.max_udp_payload_size(config.max_udp_payload).map_err(|_| {
            ConfigError::OutOfRange {
                option: "max_udp_payload",
                value: config.max_udp_payload.to_string(),
                range: "1200 to 65527".to_owned(),
                why: "the engine refuses it",
            }
        })?;
        let token_key = Arc::new(TokenKey::new(&secret));
        let tickets = server.as_ref().map(|server| {
            Arc::new(TicketKeys::new(&secret, clock.clone(), server.secure_random()))
        });
        let mut endpoint = Self {
            engine: engine::Endpoint::new(Arc::new(engine_config), None, config.path_mtu_discovery),
            server: None,
            clock,
            secret,
            tickets,
            token_key,
            random: Random::new(&seeds.derive::<16>(b"client ids", &[])),
            slots: Vec::new(),
            queues: Queues::default(),
            gate: Gate::default(),
            limit: StatelessLimit::new(
                config.max_stateless_operations,
                config.stateless_operation_expiration,
            ),
            responses: VecDeque::new(),
            stats: EndpointStats::default(),
            config,
        };
        endpoint.set_server(server);
        Ok(endpoint)
    }

    fn set_server(&mut self, server: Option<ServerConfig>) {
        let engine_config =
            server.as_ref().map(|server| Arc::new(self.engine_server_config(server, None)));
        self.engine.set_server_config(engine_config);
        self.server = server;
    }

    /// Replaces what new clients meet, for instance a renewed certificate; `None` takes no new ones. Connections go on as they are.
    ///
    /// # Errors
    /// `OutOfRange` when its options allow one connection more memory than the endpoint does.
    pub fn set_server_config(&mut self, server: Option<ServerConfig>) -> Result<(), ConfigError> {
        if let Some(server) = &server {
            self.config.check_memory(server.options())?;
            if self.tickets.is_none() {
                let keys =
                    TicketKeys::new(&self.secret, self.clock.clone(), server.secure_random());
                self.tickets = Some(Arc::new(keys));
            }
        }
        self.set_server(server);
        Ok(())
    }

    /// Starts a connection. Its first datagram comes out of `poll_transmit`; streams can be opened at once when a ticket allows 0-RTT data.
    ///
    /// # Errors
    /// See [`ConnectError`]; nothing was sent then.
    pub fn connect(
        &mut self,
        now: Instant,
        config: &ClientConfig,
        remote: SocketAddr,
        server_name: &str,
        params: ConnectParams,
    ) -> Result<ConnectionId, ConnectError> {
        self.clock.advance(now);
        if self.stats.connections >= self.config.max_connections as u64 {
            return Err(ConnectError::TooManyConnections(self.config.max_connections));
        }
        self.config.check_memory(config.options())?;
        let options = config.options();
        let observed = Arc::new(Observed::new(now, options.datagram_states));
        let shared = Arc::new(Shared::default());
        let hold = options.custom_verify.then(|| Arc::new(Hold::default()));
        let crypto = ClientCrypto {
            config: config.inner.clone(),
            clock: self.clock.clone(),
            shared: shared.clone(),
            observed: observed.clone(),
            hold: hold.clone(),
            nst: params.nst,
        };
        // RFC 9000 section 7.2: unpredictable, 8 bytes or more.
        let mut dcid = [0; 16];
        self.random.fill(&mut dcid);
        let mut engine_config = engine::ClientConfig::new(Arc::new(crypto));
        engine_config
            .transport_config(config.inner.transport.for_connection(remote, &observed))
            .token_store(config.inner.tokens.clone())
            .initial_dst_cid_provider(Arc::new(move || engine::ConnectionId::new(&dcid)));
        let connected = self.engine.connect(now, engine_config, remote, server_name);
        let (handle, inner) = connected.map_err(|error| match error {
            engine::ConnectError::InvalidServerName(name) => ConnectError::InvalidServerName(name),
            engine::ConnectError::InvalidRemoteAddress(remote) => {
                ConnectError::InvalidRemoteAddress(remote)
            }
            other => ConnectError::Engine(other.to_string()),
        })?;
        self.stats.connected += 1;
        Ok(self.add(now, handle, |id, clock| Parts {
            id,
            handle,
            inner,
            side: Side::Client,
            config: Config::Client(config.clone()),
            clock,
            shared,
            observed,
            hold,
            server_name: server_name.to_owned(),
            remote,
            local: params.local_address.map(LocalAddress::Socket),
        }))
    }

    fn add(
        &mut self,
        now: Instant,
        handle: engine::ConnectionHandle,
        parts: impl FnOnce(ConnectionId, Arc<Clock>) -> Parts,
    ) -> ConnectionId {
        while self.slots.len() <= handle.0 {
            self.slots.push(Slot { generation: 0, conn: None });
        }
        let Some(slot) = self.slots.get_mut(handle.0) else {
            return ConnectionId { index: u32::MAX, generation: 0 };
        };
        slot.generation = slot.generation.wrapping_add(1);
        let id = ConnectionId { index: handle.0 as u32, generation: slot.generation };
        let mut conn = Box::new(Conn::new(now, parts(id, self.clock.clone())));
        if conn.counts_as_handshake {
            self.stats.handshakes += 1;
        }
        self.stats.connections += 1;
        self.queues.touch(&mut conn);
        slot.conn = Some(conn);
        id
    }

    /// A connection, as long as its `Closed` event has not been polled.
    pub fn connection(&mut self, id: ConnectionId) -> Option<Connection<'_>> {
        let slot = self
            .slots
            .get_mut(id.index as usize)
            .filter(|slot| slot.generation == id.generation)?;
        let conn = slot.conn.as_deref_mut().filter(|conn| !conn.is_gone())?;
        Some(Connection::new(conn, &mut self.queues))
    }

    /// Counters.
    pub fn stats(&self) -> EndpointStats {
        EndpointStats { incoming: self.gate.waiting() as u64, ..self.stats }
    }

    /// The settings it was made with.
    pub fn config(&self) -> &EndpointConfig {
        &self.config
    }

    // Input.

    /// Takes a datagram, without its UDP header. It is routed now and worked on with the next poll.
    pub fn handle_datagram(&mut self, now: Instant, path: Path, ecn: Option<Ecn>, data: BytesMut) {
        self.clock.advance(now);
        self.stats.datagrams_received += 1;
        self.stats.bytes_received += data.len() as u64;
        let hello = self.gate.copy_of(self.server.is_some() && self.config.gate, &data);
        self.route(now, path, ecn, data, hello);
    }

    fn route(
        &mut self,
        now: Instant,
        path: Path,
        ecn: Option<Ecn>,
        data: BytesMut,
        hello: Option<BytesMut>,
    ) {
        let four_tuple = engine::FourTuple::new(path.remote, Some(path.local.ip()));
        let mut buf = Vec::new();
        // Copies are for handshakes with `custom_verify` only; whose datagram it is shows after the engine has it.
        let copy = (self.queues.holding > 0).then(|| data.clone());
        match self.engine.handle(now, four_tuple, ecn.map(Ecn::engine), data, &mut buf) {
            Some(engine::DatagramEvent::ConnectionEvent(handle, event)) => {
                self.deliver(now, handle, path, ecn, event, copy);
            }
            Some(engine::DatagramEvent::NewConnection(incoming)) => {
                self.on_incoming(now, path, incoming, hello);
            }
            Some(engine::DatagramEvent::Response(transmit)) => self.respond(now, transmit, buf),
            None => {
                if let Some(hello) = hello {
                    self.on_more_hello(hello);
                }
            }
        }
    }

    fn deliver(
        &mut self,
        now: Instant,
        handle: engine::ConnectionHandle,
        path: Path,
        ecn: Option<Ecn>,
        event: engine::ConnectionEvent,
        copy: Option<BytesMut>,
    ) {
        let Some(conn) = self.slots.get_mut(handle.0).and_then(|slot| slot.conn.as_deref_mut())
        else {
            self.stats.stale += 1;
            return;
        };
        conn.handle_event(now, path, event);
        conn.keep(path, ecn, copy);
        self.queues.touch(conn);
    }

    /// An answer without a connection, within its limits.
    fn respond(&mut self, now: Instant, transmit: engine::Transmit, buf: Vec<u8>) {
        if self.limit.allows(now, transmit.destination.ip(), transmit.destination.port()) {
            self.stats.stateless_sent += 1;
            self.responses.push_back((transmit, buf));
        } else {
            self.stats.stateless_dropped += 1;
        }
    }

    /// Tells that a deadline of [`poll_timeout`](Self::poll_timeout) may have passed. Calling it too early does nothing.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.clock.advance(now);
        self.expire_incoming(now);
        while let Some(index) = self.queues.pop_due(now) {
            let Some(conn) = self.slots.get_mut(index).and_then(|slot| slot.conn.as_deref_mut())
            else {
                continue;
            };
            conn.armed = None;
            if let Some(reason) = conn.handle_timeout(now) {
                match reason {
                    CloseReason::HandshakeTimeout => self.stats.handshake_timeouts += 1,
                    _ => self.stats.disconnect_timeouts += 1,
                }
                conn.end(reason);
                // The peer does not answer, so it is not told either.
                Self::drop_engine(&mut self.engine, conn);
            }
            self.queues.touch(conn);
        }
    }

    /// Lets the engine forget a connection at once.
    fn drop_engine(engine: &mut engine::Endpoint, conn: &mut Conn) {
        if !conn.is_drained() {
            engine.handle_event(conn.handle, engine::EndpointEvent::drained());
            conn.set_drained();
        }
    }

    /// Works on every connection that was touched.
    fn settle(&mut self, now: Instant) {
        while let Some(index) = self.queues.pop_dirty() {
            self.settle_one(now, index);
        }
    }

    fn settle_one(&mut self, now: Instant, index: usize) {
        let Some(conn) = self.slots.get_mut(index).and_then(|slot| slot.conn.as_deref_mut()) else {
            return;
        };
        conn.is_dirty = false;
        if self.queues.take_abandoned(conn.id) {
            Self::drop_engine(&mut self.engine, conn);
        }
        if !conn.is_drained() {
            let settled = conn.settle(now, &mut self.engine);
            if settled.handshake_over {
                conn.counts_as_handshake = false;
                self.stats.handshakes = self.stats.handshakes.saturating_sub(1);
            }
        }
        let released = conn.take_released();
        if conn.is_drained() {
            self.queues.disarm(conn);
        } else {
            self.queues.want_transmit(conn);
            self.queues.arm(conn);
        }
        self.queues.hold(conn);
        if conn.has_events() {
            self.queues.want_events(conn);
        }
        self.remove_if_over(index);
        for (path, ecn, data) in released {
            // As if it came now; this time it is let in.
            self.route(now, path, ecn, data, None);
        }
    }

    /// Frees a slot whose connection is finished on all sides.
    fn remove_if_over(&mut self, index: usize) {
        let Some(slot) = self.slots.get_mut(index) else { return };
        if let Some(conn) =
            slot.conn.as_deref_mut().filter(|conn| conn.is_drained() && conn.is_gone())
        {
            if conn.counts_as_handshake {
                self.stats.handshakes = self.stats.handshakes.saturating_sub(1);
            }
            self.queues.forget(conn);
            self.stats.connections = self.stats.connections.saturating_sub(1);
            slot.conn = None;
        }
    }

    // Output.

    /// The next thing that happened. `now` is the moment of the call.
    pub fn poll_event(&mut self, now: Instant) -> Option<EndpointEvent> {
        self.clock.advance(now);
        loop {
            if let Some(incoming) = self.gate.poll() {
                return Some(EndpointEvent::Incoming(incoming));
            }
            let Some(index) = self.queues.pop_ready() else {
                if !self.queues.has_dirty() {
                    return None;
                }
                self.settle(now);
                continue;
            };
            let Some(conn) = self.slots.get_mut(index).and_then(|slot| slot.conn.as_deref_mut())
            else {
                continue;
            };
            conn.is_ready = false;
            let event = conn.next_event();
            let id = conn.id;
            if event.is_some() {
                if conn.has_events() {
                    self.queues.want_events(conn);
                }
                // Reading returns credit to the peer, and the last event frees the slot.
                self.queues.want_transmit(conn);
                self.remove_if_over(index);
            }
            if let Some(event) = event {
                return Some(EndpointEvent::Connection(id, event));
            }
        }
    }

    /// Writes the next train of datagrams into `buf`, from its start, and says how it must be sent. The buffer is cleared first and keeps its capacity, so one buffer
    /// serves for ever without allocation.
    pub fn poll_transmit(&mut self, now: Instant, buf: &mut Vec<u8>) -> Option<Transmit> {
        self.clock.advance(now);
        self.settle(now);
        buf.clear();
        if let Some((transmit, bytes)) = self.responses.pop_front() {
            buf.extend_from_slice(&bytes);
            return Some(self.sent(&transmit, transmit.src_ip.map(LocalAddress::Ip), true));
        }
        while let Some(index) = self.queues.front_transmit() {
            let Some(conn) = self.slots.get_mut(index).and_then(|slot| slot.conn.as_deref_mut())
            else {
                self.queues.pop_transmit();
                continue;
            };
            let next = if conn.is_drained() {
                None
            } else {
                conn.poll_transmit(now, self.config.max_segments, self.config.max_train, buf)
            };
            let Some((transmit, source)) = next else {
                buf.clear();
                self.queues.pop_transmit();
                conn.is_transmitting = false;
                conn.trains = 0;
                self.queues.arm(conn);
                if conn.has_events() {
                    self.queues.want_events(conn);
                }
                continue;
            };
            conn.trains = conn.trains.saturating_add(1);
            let ecn = conn.options().ecn;
            if conn.trains >= conn.options().max_operations_per_drain {
                conn.trains = 0;
                self.queues.rotate_transmit();
            }
            return Some(self.sent(&transmit, source, ecn));
        }
        None
    }

    fn sent(
        &mut self,
        transmit: &engine::Transmit,
        source: Option<LocalAddress>,
        ecn: bool,
    ) -> Transmit {
        let segments =
            transmit.segment_size.map_or(1, |segment| transmit.size.div_ceil(segment.max(1)));
        self.stats.trains_sent += 1;
        self.stats.datagrams_sent += segments as u64;
        self.stats.bytes_sent += transmit.size as u64;
        Transmit {
            destination: transmit.destination,
            source,
            ecn: transmit.ecn.filter(|_| ecn).map(Ecn::from_engine),
            size: transmit.size,
            segment_size: transmit.segment_size,
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) must be called next; it may be earlier than necessary. A moment that has passed already says that something was
    /// touched and not polled since.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.queues.has_work() || !self.responses.is_empty() {
            return Some(self.clock.now());
        }
        [self.queues.next_due(), self.gate.next_deadline()].into_iter().flatten().min()
    }
}
