//! The gate: clients that ask for a connection, and what the application decides about them.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use noq_proto as engine;

use super::Endpoint;
use crate::quic::config::{MAX_TICKET_DATA, RetryPolicy, ServerConfig};
use crate::quic::connection::{Config, Parts};
use crate::quic::crypto::{
    ClientHello, Hold, InitialOpener, ServerCrypto, ServerParts, Shared, VERSION, is_initial,
    may_become, parse_client_hello,
};
use crate::quic::error::TooLate;
use crate::quic::event::{Acceptance, Decision, Incoming};
use crate::quic::frames::CryptoStream;
use crate::quic::observe::Observed;
use crate::quic::types::{ConnectionId, IncomingId, LocalAddress, Path, Side};

/// Memory that one handshake is counted with against `retry_memory_limit`: the engine's connection, TLS and the certificate.
const HANDSHAKE_MEMORY: u64 = 64 << 10;

/// A client that waits.
struct Waiting {
    engine: engine::Incoming,
    path: Path,
    dcid: Vec<u8>,
    /// Still collecting the ClientHello; then the application has been asked.
    collecting: Option<(InitialOpener, CryptoStream)>,
}

#[derive(Default)]
pub(super) struct Gate {
    waiting: HashMap<IncomingId, Waiting>,
    by_dcid: HashMap<Vec<u8>, IncomingId>,
    deadlines: VecDeque<(Instant, IncomingId)>,
    asked: VecDeque<Box<Incoming>>,
    next: u64,
}

impl Gate {
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn poll(&mut self) -> Option<Box<Incoming>> {
        self.asked.pop_front()
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.front().map(|(at, _)| *at)
    }

    /// A copy of a datagram that may hold a piece of a ClientHello.
    pub(super) fn copy_of(&self, wanted: bool, data: &BytesMut) -> Option<BytesMut> {
        (wanted && is_initial(data).is_some()).then(|| data.clone())
    }

    fn remove(&mut self, id: IncomingId) -> Option<Waiting> {
        let waiting = self.waiting.remove(&id)?;
        self.by_dcid.remove(&waiting.dcid);
        Some(waiting)
    }
}

impl Endpoint {
    pub(super) fn on_incoming(
        &mut self,
        now: Instant,
        path: Path,
        incoming: engine::Incoming,
        hello: Option<BytesMut>,
    ) {
        let waiting = self.gate.waiting.len() as u64;
        if self.stats.connections + waiting >= self.config.max_connections as u64 {
            self.stats.refused_connections += 1;
            self.refuse(now, incoming);
            return;
        }
        if self.stats.handshakes + waiting >= self.config.max_handshakes as u64 {
            self.stats.ignored_handshakes += 1;
            self.engine.ignore(incoming);
            return;
        }
        if incoming.may_retry() && !incoming.remote_address_validated() && self.is_under_pressure()
        {
            self.retry(now, incoming);
            return;
        }
        let (Some(hello), Some(server)) = (hello, self.server.clone()) else {
            self.accept(now, path, incoming, Acceptance::default());
            return;
        };
        if self.gate.waiting.len() >= self.config.max_incoming {
            self.stats.ignored_incoming += 1;
            self.engine.ignore(incoming);
            return;
        }
        let Some(dcid) = is_initial(&hello).map(<[u8]>::to_vec) else {
            self.engine.ignore(incoming);
            return;
        };
        let id = IncomingId(self.gate.next);
        self.gate.next += 1;
        let deadline = now + self.config.gate_timeout;
        let opener = InitialOpener::new(&server.inner.suite, &dcid);
        self.gate.deadlines.push_back((deadline, id));
        self.gate.by_dcid.insert(dcid.clone(), id);
        let collecting = Some((opener, CryptoStream::default()));
        self.gate.waiting.insert(id, Waiting { engine: incoming, path, dcid, collecting });
        self.on_more_hello(hello);
    }

    /// Whether clients have to prove their address before anything is spent on them.
    fn is_under_pressure(&self) -> bool {
        let handshakes = self.stats.handshakes + self.gate.waiting.len() as u64;
        let above = match self.config.retry {
            RetryPolicy::Never => return false,
            RetryPolicy::Always => return true,
            RetryPolicy::AboveHandshakes(limit) => handshakes >= limit as u64,
        };
        let used = handshakes.saturating_mul(HANDSHAKE_MEMORY);
        let allowed = self.config.memory / 65_535 * u64::from(self.config.retry_memory_limit);
        above || used > allowed
    }

    /// A datagram for a client that waits: the next piece of its ClientHello, perhaps.
    pub(super) fn on_more_hello(&mut self, mut datagram: BytesMut) {
        let Some(id) = is_initial(&datagram).and_then(|dcid| self.gate.by_dcid.get(dcid)).copied()
        else {
            return;
        };
        let Some(waiting) = self.gate.waiting.get_mut(&id) else { return };
        let Some((opener, stream)) = &mut waiting.collecting else { return };
        let limit = self.config.client_hello_limit;
        let mut fits = true;
        opener.open(&mut datagram, |offset, data| fits &= stream.insert(offset, data, limit));
        let bytes = stream.contiguous();
        let hello = match parse_client_hello(bytes) {
            Some(hello) => hello,
            None if fits && may_become(bytes, limit) => return,
            None => ClientHello::default(),
        };
        waiting.collecting = None;
        self.ask(id, hello);
    }

    fn ask(&mut self, id: IncomingId, hello: ClientHello) {
        let (Some(waiting), Some(server)) = (self.gate.waiting.get(&id), &self.server) else {
            return;
        };
        let resumption = hello.ticket.as_ref().and_then(|ticket| {
            if server.inner.stateless_tickets {
                self.tickets.as_ref()?.open(ticket).map(|(data, _)| data)
            } else {
                server.inner.sessions.peek(ticket)
            }
        });
        let alpn = server.inner.alpn.iter().find(|ours| hello.alpns.contains(ours)).cloned();
        self.gate.asked.push_back(Box::new(Incoming {
            id,
            version: VERSION,
            local: waiting.path.local,
            remote: waiting.path.remote,
            address_validated: waiting.engine.remote_address_validated(),
            may_retry: waiting.engine.may_retry(),
            server_name: hello.server_name,
            client_alpns: hello.alpns,
            alpn,
            client_hello: hello.raw,
            resumption,
        }));
    }

    pub(super) fn expire_incoming(&mut self, now: Instant) {
        while let Some(&(at, id)) = self.gate.deadlines.front() {
            let due = at <= now;
            let is_waiting = self.gate.waiting.contains_key(&id);
            if !due && is_waiting {
                return;
            }
            self.gate.deadlines.pop_front();
            if !due || !is_waiting {
                continue;
            }
            if let Some(waiting) = self.gate.remove(id) {
                self.stats.gate_timeouts += 1;
                self.engine.ignore(waiting.engine);
            }
        }
    }

    /// Decides about a client. `Some` is the accepted connection; its events follow. An accepted client may still fail at once (a broken ClientHello), and then there is
    /// no connection either.
    ///
    /// # Errors
    /// [`TooLate`] when the client is not waiting any more.
    pub fn decide(
        &mut self,
        now: Instant,
        id: IncomingId,
        decision: Decision,
    ) -> Result<Option<ConnectionId>, TooLate> {
        self.clock.advance(now);
        let waiting = self.gate.remove(id).ok_or(TooLate)?;
        match decision {
            Decision::Accept => {
                Ok(self.accept(now, waiting.path, waiting.engine, Acceptance::default()))
            }
            Decision::AcceptWith(how) => Ok(self.accept(now, waiting.path, waiting.engine, how)),
            Decision::Retry if waiting.engine.may_retry() => {
                self.retry(now, waiting.engine);
                Ok(None)
            }
            Decision::Refuse | Decision::Retry => {
                self.stats.refused += 1;
                self.refuse(now, waiting.engine);
                Ok(None)
            }
            Decision::Ignore => {
                self.stats.ignored += 1;
                self.engine.ignore(waiting.engine);
                Ok(None)
            }
        }
    }

    fn refuse(&mut self, now: Instant, incoming: engine::Incoming) {
        let mut buf = Vec::new();
        let transmit = self.engine.refuse(incoming, &mut buf);
        self.respond(now, transmit, buf);
    }

    fn retry(&mut self, now: Instant, incoming: engine::Incoming) {
        let mut buf = Vec::new();
        match self.engine.retry(incoming, &mut buf) {
            Ok(transmit) => {
                self.stats.retries += 1;
                self.respond(now, transmit, buf);
            }
            Err(error) => self.refuse(now, error.into_incoming()),
        }
    }

    fn accept(
        &mut self,
        now: Instant,
        path: Path,
        incoming: engine::Incoming,
        how: Acceptance,
    ) -> Option<ConnectionId> {
        let Some(server) =
            how.config.map(|config| (*config).clone()).or_else(|| self.server.clone())
        else {
            self.engine.ignore(incoming);
            return None;
        };
        let Some(tickets) = self.tickets.clone() else {
            self.engine.ignore(incoming);
            return None;
        };
        if self.config.check_memory(server.options()).is_err() {
            self.refuse(now, incoming);
            return None;
        }
        let ticket_data = how.ticket_data.unwrap_or_default();
        let ticket_data =
            if ticket_data.len() > MAX_TICKET_DATA { Bytes::new() } else { ticket_data };
        let observed = Arc::new(Observed::new(now, server.options().datagram_states));
        let shared = Arc::new(Shared::for_server(how.reject_resumption, ticket_data));
        let hold = server.options().custom_verify.then(|| Arc::new(Hold::default()));
        let parts = ServerParts {
            clock: self.clock.clone(),
            tickets,
            shared: shared.clone(),
            observed: observed.clone(),
            hold: hold.clone(),
        };
        let remote = incoming.remote_address();
        let mut engine_config = self.engine_server_config(&server, Some(parts));
        engine_config.transport_config(server.inner.transport.for_connection(remote, &observed));
        let mut buf = Vec::new();
        match self.engine.accept(incoming, now, &mut buf, Some(Arc::new(engine_config))) {
            Ok((handle, inner)) => {
                self.stats.accepted += 1;
                Some(self.add(now, handle, |id, clock| Parts {
                    id,
                    handle,
                    inner,
                    side: Side::Server,
                    config: Config::Server(server),
                    clock,
                    shared,
                    observed,
                    hold,
                    server_name: String::new(),
                    remote,
                    local: Some(LocalAddress::Ip(path.local.ip())),
                }))
            }
            Err(error) => {
                if let Some(response) = error.response {
                    self.respond(now, response, buf);
                }
                None
            }
        }
    }

    /// The engine's server settings: of one connection with parts, of the endpoint without.
    pub(super) fn engine_server_config(
        &self,
        server: &ServerConfig,
        parts: Option<ServerParts>,
    ) -> engine::ServerConfig {
        let crypto = Arc::new(ServerCrypto { config: server.inner.clone(), parts });
        let mut config = engine::ServerConfig::new(crypto, self.token_key.clone());
        let mut tokens = engine::ValidationTokenConfig::default();
        tokens.log(server.inner.token_log.clone());
        config
            .transport_config(server.inner.transport.plain())
            .migration(server.options().migration)
            .validation_token_config(tokens)
            // One more than ours, so that it is ours that is met and counted.
            .max_incoming(self.config.max_incoming.saturating_add(1))
            .incoming_buffer_size(self.config.incoming_buffer)
            .incoming_buffer_size_total(self.config.incoming_buffer_total)
            .time_source(self.clock.clone());
        match server.inner.preferred {
            Some(std::net::SocketAddr::V4(v4)) => config.preferred_address_v4(Some(v4)),
            Some(std::net::SocketAddr::V6(v6)) => config.preferred_address_v6(Some(v6)),
            None => &mut config,
        };
        config
    }
}
