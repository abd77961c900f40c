//! One connection: the engine's state machine, and around it what the owner's contract asks for beyond.

mod datagrams;
mod handle;
mod migration;
mod reading;
mod streams;
mod trains;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use noq_proto as engine;

pub use datagrams::DatagramOptions;
pub use handle::Connection;
pub use streams::{Chunk, OpenFlags, Opened, SendOptions};

use self::datagrams::Datagrams;
use self::migration::Probe;
use self::streams::Streams;
use self::trains::Trains;
use super::clock::Clock;
use super::config::{ClientConfig, Options, ServerConfig};
use super::crypto::{Hold, Shared, Verdict};
use super::error::CloseReason;
use super::event::{EarlyData, Event};
use super::observe::Observed;
use super::types::{ConnectionId, Ecn, LocalAddress, Path, Side};

/// The configuration that a connection was started with.
#[derive(Clone)]
pub(super) enum Config {
    Client(ClientConfig),
    Server(ServerConfig),
}

impl Config {
    pub(super) fn options(&self) -> &Options {
        match self {
            Config::Client(config) => config.options(),
            Config::Server(config) => config.options(),
        }
    }
}

/// Datagrams of the handshake that are kept until the application has judged the certificate.
struct Held {
    hold: Arc<Hold>,
    kept: Vec<(Path, Option<Ecn>, BytesMut)>,
    deadline: Option<Instant>,
}

/// Datagrams kept during one judgement at most; the peer sends again what is missing.
const MAX_KEPT: usize = 64;

/// TLS alert 46, certificate_unknown (RFC 8446 section 6.2).
const CERTIFICATE_UNKNOWN: u8 = 46;

/// How a connection stands.
#[derive(Clone, Copy, Debug, Default)]
struct Lifecycle {
    connected: bool,
    confirmed: bool,
    app_closing: bool,
    /// The end has been told of, or our application asked for it.
    ending: bool,
    /// The peer closed, or answered our close.
    peer_acked: bool,
    /// The engine has nothing left to do.
    drained: bool,
    /// `Closed` has been given out.
    closed: bool,
}

pub(super) struct Conn {
    pub(super) id: ConnectionId,
    pub(super) handle: engine::ConnectionHandle,
    pub(super) inner: engine::Connection,
    pub(super) side: Side,
    config: Config,
    clock: Arc<Clock>,
    shared: Arc<Shared>,
    observed: Arc<Observed>,
    held: Option<Held>,
    server_name: String,
    life: Lifecycle,
    handshake_deadline: Option<Instant>,
    remote: SocketAddr,
    local: Option<LocalAddress>,
    probe: Option<Probe>,
    streams: Streams,
    datagrams: Datagrams,
    paced: Trains,
    events: VecDeque<Event>,
    /// The engine has lost the connection, which is told once everything that came before is read.
    lost: Option<engine::ConnectionError>,
    key_bytes: u64,
    key_updates: u64,
    /// Membership in the endpoint's queues.
    pub(super) is_dirty: bool,
    pub(super) is_transmitting: bool,
    pub(super) is_ready: bool,
    pub(super) armed: Option<Instant>,
    pub(super) trains: u8,
    pub(super) counts_as_handshake: bool,
    pub(super) counted_holding: bool,
}

/// What an endpoint makes a connection from.
pub(super) struct Parts {
    pub(super) id: ConnectionId,
    pub(super) handle: engine::ConnectionHandle,
    pub(super) inner: engine::Connection,
    pub(super) side: Side,
    pub(super) config: Config,
    pub(super) clock: Arc<Clock>,
    pub(super) shared: Arc<Shared>,
    pub(super) observed: Arc<Observed>,
    pub(super) hold: Option<Arc<Hold>>,
    pub(super) server_name: String,
    pub(super) remote: SocketAddr,
    pub(super) local: Option<LocalAddress>,
}

/// What `settle` found that concerns the endpoint.
#[derive(Debug, Default)]
pub(super) struct Settled {
    /// The engine's connection is gone for good.
    pub(super) drained: bool,
    /// The handshake is over, either way.
    pub(super) handshake_over: bool,
}

impl Conn {
    pub(super) fn new(now: Instant, parts: Parts) -> Self {
        let options = parts.config.options();
        Self {
            handshake_deadline: now.checked_add(options.handshake_idle_timeout),
            held: parts.hold.map(|hold| Held { hold, kept: Vec::new(), deadline: None }),
            streams: Streams::new(parts.side),
            datagrams: Datagrams::default(),
            paced: Trains::default(),
            id: parts.id,
            handle: parts.handle,
            inner: parts.inner,
            side: parts.side,
            config: parts.config,
            clock: parts.clock,
            shared: parts.shared,
            observed: parts.observed,
            server_name: parts.server_name,
            life: Lifecycle::default(),
            remote: parts.remote,
            local: parts.local,
            probe: None,
            events: VecDeque::new(),
            lost: None,
            key_bytes: 0,
            key_updates: 0,
            is_dirty: false,
            is_transmitting: false,
            is_ready: false,
            armed: None,
            trains: 0,
            counts_as_handshake: parts.side == Side::Server,
            counted_holding: false,
        }
    }

    pub(super) fn options(&self) -> &Options {
        self.config.options()
    }

    /// Whether `Closed` has been given out, so that the id finds nothing any more.
    pub(super) fn is_gone(&self) -> bool {
        self.life.closed
    }

    pub(super) fn is_drained(&self) -> bool {
        self.life.drained
    }

    // Input.

    /// Whether datagrams may have to be kept until a certificate is judged.
    pub(super) fn is_holding(&self) -> bool {
        self.held.as_ref().is_some_and(|held| !held.hold.is_open())
    }

    /// Keeps the copy of a datagram that the handshake's key let nobody see.
    pub(super) fn keep(&mut self, path: Path, ecn: Option<Ecn>, copy: Option<BytesMut>) {
        if let (Some(held), Some(copy)) = (&mut self.held, copy)
            && held.hold.take_kept_out()
            && held.kept.len() < MAX_KEPT
        {
            held.kept.push((path, ecn, copy));
        }
    }

    /// What was kept and may go in now.
    pub(super) fn take_released(&mut self) -> Vec<(Path, Option<Ecn>, BytesMut)> {
        match &mut self.held {
            Some(held) if held.hold.take_released() => {
                held.deadline = None;
                std::mem::take(&mut held.kept)
            }
            _ => Vec::new(),
        }
    }

    pub(super) fn handle_event(
        &mut self,
        now: Instant,
        path: Path,
        event: engine::ConnectionEvent,
    ) {
        let probing = self.probe.as_ref().is_some_and(|probe| probe.local == path.local);
        if !probing {
            self.inner.handle_event(event);
            return;
        }
        // Frames are counted only when they were opened, so a forged packet does not confirm a path.
        let before = self.inner.stats().frame_rx;
        self.inner.handle_event(event);
        if self.inner.stats().frame_rx != before {
            self.confirm_migration(now);
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) -> Option<CloseReason> {
        if self.inner.poll_timeout().is_some_and(|at| at <= now) {
            self.inner.handle_timeout(now);
        }
        if let Some(held) = &mut self.held
            && held.deadline.is_some_and(|at| at <= now)
        {
            held.deadline = None;
            held.hold.decide(Verdict::Reject(CERTIFICATE_UNKNOWN));
        }
        self.handle_probe_timeout(now);
        if self.life.ending {
            return None;
        }
        if self.handshake_deadline.is_some_and(|at| at <= now) {
            return Some(CloseReason::HandshakeTimeout);
        }
        if self.unreachable_at().is_some_and(|at| at <= now) {
            return Some(CloseReason::Unreachable);
        }
        None
    }

    fn unreachable_at(&self) -> Option<Instant> {
        if !self.life.connected || self.life.ending {
            return None;
        }
        self.observed.silent_since()?.checked_add(self.options().disconnect_timeout)
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let own = if self.life.ending { None } else { self.handshake_deadline };
        [
            self.paced.due(self.inner.poll_timeout()),
            own,
            self.held.as_ref().and_then(|held| held.deadline),
            self.probe.as_ref().map(|probe| probe.deadline),
            self.unreachable_at(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    // The sweep.

    /// Lets the engine and its endpoint talk, and turns what the engine says into our events.
    pub(super) fn settle(&mut self, now: Instant, endpoint: &mut engine::Endpoint) -> Settled {
        let mut settled = Settled::default();
        let mut draining = false;
        loop {
            while let Some(event) = self.inner.poll_endpoint_events() {
                settled.drained |= event.is_drained();
                draining |= event.is_draining();
                if let Some(back) = endpoint.handle_event(self.handle, event) {
                    self.inner.handle_event(back);
                }
            }
            let Some(event) = self.inner.poll() else { break };
            self.on_engine_event(event);
        }
        // Draining without an end in the same breath: the peer's close came. When our own timer ends it, both come together.
        self.life.peer_acked |= draining && !settled.drained;
        self.life.drained |= settled.drained;
        self.check_certificate(now);
        if self.life.connected && !self.life.ending {
            self.check_peer();
        }
        settled.handshake_over =
            self.counts_as_handshake && (self.life.connected || self.inner.is_closed());
        settled
    }

    fn on_engine_event(&mut self, event: engine::Event) {
        match event {
            engine::Event::HandshakeDataReady
            | engine::Event::DatagramsUnblocked
            | engine::Event::Path(_)
            | engine::Event::NatTraversal(_) => {}
            engine::Event::Connected => self.on_connected(),
            engine::Event::HandshakeConfirmed => {
                self.life.confirmed = true;
                // The engine of a server confirms before it says that it is connected.
                if self.life.connected {
                    self.events.push_back(Event::HandshakeConfirmed);
                }
            }
            engine::Event::ConnectionLost { reason } => self.lost = Some(reason),
            engine::Event::Stream(event) => self.on_stream_event(event),
            engine::Event::DatagramReceived => self.datagrams.arrived = true,
        }
    }

    fn on_connected(&mut self) {
        let facts = self.shared.facts();
        let resumed_data = self.shared.take_resumed_data();
        self.life.connected = true;
        self.handshake_deadline = None;
        self.held = None;
        if self.side == Side::Server
            && facts.is_resumed
            && let Some(data) = resumed_data
        {
            self.events.push_back(Event::Resumed { data });
        }
        let early_data = match self.side {
            Side::Client if !self.inner.has_0rtt() => EarlyData::None,
            Side::Client if self.inner.accepted_0rtt() => EarlyData::Accepted,
            Side::Client => EarlyData::Rejected,
            Side::Server if self.inner.has_0rtt() => EarlyData::Accepted,
            Side::Server => EarlyData::None,
        };
        if early_data == EarlyData::Rejected {
            self.streams.on_early_data_rejected(&mut self.events);
        }
        self.events.push_back(Event::Connected {
            is_resumed: facts.is_resumed,
            alpn: facts.alpn,
            early_data,
            encryption_disabled: facts.plain,
        });
        if self.life.confirmed {
            self.events.push_back(Event::HandshakeConfirmed);
        }
        self.flush_held_streams();
    }

    fn check_certificate(&mut self, now: Instant) {
        let Some(held) = &mut self.held else { return };
        let Some(chain) = held.hold.take_chain() else { return };
        let limit = self.config.options().verdict_timeout;
        held.deadline = now.checked_add(limit);
        let verified = self.verify(&chain);
        self.events.push_back(Event::PeerCertificate { chain, verified });
    }

    /// What our own verification says of a chain, if the configuration has trust anchors.
    fn verify(
        &self,
        chain: &[rustls_pki_types::CertificateDer<'static>],
    ) -> Option<Result<(), Arc<str>>> {
        let (own, rest) = chain.split_first()?;
        let text = |error: rustls::Error| Arc::<str>::from(error.to_string());
        let unix = rustls_pki_types::UnixTime::since_unix_epoch(self.clock.unix());
        match &self.config {
            Config::Client(config) if config.inner.verifies => {
                let name =
                    rustls_pki_types::ServerName::try_from(self.server_name.as_str()).ok()?;
                let verdict = config.inner.verifier.verify_server_cert(own, rest, &name, &[], unix);
                Some(verdict.map(|_| ()).map_err(text))
            }
            Config::Server(config) if config.inner.verifies => {
                let verdict = config.inner.verifier.as_ref()?.verify_client_cert(own, rest, unix);
                Some(verdict.map(|_| ()).map_err(text))
            }
            _ => None,
        }
    }

    /// Compares what the engine shows with what was last told.
    fn check_peer(&mut self) {
        if let Ok(path) = self.inner.network_path(engine::PathId::ZERO)
            && path.remote() != self.remote
        {
            self.remote = path.remote();
            self.events.push_back(Event::PeerAddressChanged(self.remote));
        }
        if self.side == Side::Client && self.options().nst_events {
            self.events.extend(self.shared.take_tickets().into_iter().map(Event::NewSessionTicket));
        }
        self.check_streams();
        self.check_datagrams();
    }

    fn on_lost(&mut self, reason: engine::ConnectionError) {
        if self.life.ending {
            return;
        }
        self.give_leftovers();
        let end = match reason {
            engine::ConnectionError::ApplicationClosed(close) => {
                self.life.peer_acked = true;
                self.events.push_back(Event::Shutdown {
                    code: close.error_code.into_inner(),
                    reason: close.reason,
                });
                self.begin_end();
                return;
            }
            engine::ConnectionError::ConnectionClosed(close) => {
                self.life.peer_acked = true;
                let code = u64::from(close.error_code);
                if code == u64::from(engine::TransportErrorCode::CONNECTION_REFUSED) {
                    CloseReason::Refused
                } else {
                    let reason = String::from_utf8_lossy(&close.reason).into_owned();
                    CloseReason::PeerTransportError { code, reason }
                }
            }
            engine::ConnectionError::TransportError(error) => match self.shared.rejection() {
                Some((alert, reason)) => CloseReason::CertificateRejected { alert, reason },
                None => CloseReason::LocalTransportError {
                    code: u64::from(error.code),
                    reason: error.reason,
                },
            },
            engine::ConnectionError::VersionMismatch => CloseReason::VersionMismatch,
            engine::ConnectionError::Reset => CloseReason::StatelessReset,
            engine::ConnectionError::TimedOut => CloseReason::IdleTimeout,
            engine::ConnectionError::LocallyClosed | engine::ConnectionError::CidsExhausted => {
                CloseReason::LocalTransportError { code: 1, reason: reason.to_string() }
            }
        };
        self.end(end);
    }

    /// The connection ends for a reason of the transport's.
    pub(super) fn end(&mut self, reason: CloseReason) {
        if !self.life.ending {
            self.give_leftovers();
            self.events.push_back(Event::TransportShutdown(reason));
            self.begin_end();
        }
    }

    fn begin_end(&mut self) {
        self.life.ending = true;
        self.handshake_deadline = None;
        self.held = None;
        self.probe = None;
        self.streams.on_end(&mut self.events);
        self.datagrams.on_end(&mut self.events);
        self.observed.cancel_datagrams();
    }

    /// Whether the end can be told: the engine is done, or it is clear that the peer is.
    fn end_is_known(&self) -> bool {
        self.life.ending && (self.life.drained || self.life.peer_acked || !self.life.app_closing)
    }

    /// The engine's connection is gone without having said so (it was dropped silently).
    pub(super) fn set_drained(&mut self) {
        self.life.drained = true;
    }

    // Output.

    /// The next event; streams and datagrams are read only here, so that what nobody polls stays under flow control.
    pub(super) fn next_event(&mut self) -> Option<Event> {
        if self.life.closed {
            return None;
        }
        if let Some(event) = self.events.pop_front() {
            return Some(event);
        }
        if self.observed.tracks_datagrams()
            && let Some((id, state)) = self.observed.next_datagram_news()
        {
            return Some(Event::DatagramSendState { id, state });
        }
        if let Some(event) = self.next_stream_data() {
            return Some(event);
        }
        if let Some(event) = self.next_datagram() {
            return Some(event);
        }
        if let Some(reason) = self.lost.take() {
            self.on_lost(reason);
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
        }
        if self.end_is_known() {
            self.life.closed = true;
            return Some(Event::Closed {
                is_handshake_completed: self.life.connected,
                is_peer_acked: self.life.peer_acked,
                is_app_closing: self.life.app_closing,
            });
        }
        None
    }

    pub(super) fn has_events(&self) -> bool {
        !self.life.closed
            && (!self.events.is_empty()
                || self.observed.has_datagram_news()
                || self.streams.has_readable()
                || self.datagrams.arrived
                || self.lost.is_some()
                || self.end_is_known())
    }

    /// The next train. `None` until something else happens.
    pub(super) fn poll_transmit(
        &mut self,
        now: Instant,
        max_segments: usize,
        max_train: usize,
        buf: &mut Vec<u8>,
    ) -> Option<(engine::Transmit, Option<LocalAddress>)> {
        if self.probe.is_some() {
            return self.poll_probe(now, buf);
        }
        if self.paced.holds(now) {
            return None;
        }
        self.feed_datagrams(now);
        let mtu = usize::from(self.inner.current_mtu()).max(1);
        let segments = max_segments.min(max_train / mtu).max(1);
        let segments = std::num::NonZeroUsize::new(segments).unwrap_or(std::num::NonZeroUsize::MIN);
        let Some(transmit) = self.inner.poll_transmit(now, segments, buf) else {
            if self.life.connected && self.datagrams_queued() > 0 {
                self.paced.on_blocked(self.inner.poll_timeout());
            }
            return None;
        };
        self.paced.on_sent(now);
        self.count_key_bytes(transmit.size);
        let source = self.local.or(transmit.src_ip.map(LocalAddress::Ip));
        Some((transmit, source))
    }

    /// Key updates by volume (`max_bytes_per_key`).
    fn count_key_bytes(&mut self, sent: usize) {
        self.key_bytes = self.key_bytes.saturating_add(sent as u64);
        if self.key_bytes >= self.options().max_bytes_per_key && self.update_keys() {
            self.key_bytes = 0;
        }
    }

    /// Begins a key update, if one may be begun now.
    fn update_keys(&mut self) -> bool {
        let may = self.life.confirmed && !self.life.ending && self.observed.may_update_keys();
        if may {
            self.key_updates += 1;
            self.inner.force_key_update();
        }
        may
    }
}
