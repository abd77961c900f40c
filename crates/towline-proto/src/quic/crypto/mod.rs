//! The cryptographic seam: the engine's traits over rustls, and what the engine does not pass on.

mod hello;
mod hold;
mod initial;
mod keys;
mod params;
mod secrets;
mod session;
mod sessions;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use noq_proto::crypto as engine;
use noq_proto::transport_parameters::TransportParameters;
use noq_proto::{ConnectError, ConnectionId, Side};
use rustls::quic::{Connection, Suite, Version};
use rustls_pki_types::ServerName;

pub(super) use hello::{ClientHello, may_become, parse as parse_client_hello};
pub(super) use hold::Hold;
pub use hold::Verdict;
pub(super) use initial::{InitialOpener, is_initial};
pub(super) use params::PeerParams;
pub(super) use secrets::{ResetKey, Secret, TokenKey};
pub(super) use sessions::{SessionCache, TicketKeys};

use super::clock::Clock;
use super::config::{ClientInner, Resumption, ServerInner};
use super::observe::Observed;
use super::ticket::Ticket;
use params::Changes;
use session::Session;
use sessions::{ConnectionSessions, ConnectionStore, ConnectionTickets};

/// Only version 1 (RFC 9000); the drafts that the engine knows are history.
pub(super) const VERSION: u32 = 1;

/// What the handshake came to.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    pub(super) is_resumed: bool,
    pub(super) plain: bool,
    pub(super) alpn: Option<Bytes>,
    pub(super) cipher_suite: Option<&'static str>,
    /// On a server, the name that the client asked for.
    pub(super) asked_for: Option<String>,
}

#[derive(Debug, Default)]
struct SharedState {
    facts: Option<Facts>,
    peer_params: PeerParams,
    reject_resumption: bool,
    ticket_data: Bytes,
    resumed_data: Option<Bytes>,
    tickets: Vec<Ticket>,
    rejection: Option<(u8, Arc<str>)>,
}

/// What a TLS session tells its connection, and the other way round. Used during handshakes and when tickets come; on one thread.
#[derive(Debug, Default)]
pub(super) struct Shared(Mutex<SharedState>);

impl Shared {
    /// Tickets kept for events until they are polled; a server gives out two.
    const MAX_TICKETS: usize = 16;

    pub(super) fn for_server(reject_resumption: bool, ticket_data: Bytes) -> Self {
        Self(Mutex::new(SharedState { reject_resumption, ticket_data, ..SharedState::default() }))
    }

    fn lock(&self) -> MutexGuard<'_, SharedState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_facts(&self, facts: Facts) {
        self.lock().facts = Some(facts);
    }

    pub(super) fn facts(&self) -> Facts {
        self.lock().facts.clone().unwrap_or_default()
    }

    fn set_peer_params(&self, params: PeerParams) {
        self.lock().peer_params = params;
    }

    pub(super) fn peer_params(&self) -> PeerParams {
        self.lock().peer_params
    }

    fn rejects_resumption(&self) -> bool {
        self.lock().reject_resumption
    }

    fn ticket_data(&self) -> Bytes {
        self.lock().ticket_data.clone()
    }

    fn set_resumed_data(&self, data: Bytes) {
        self.lock().resumed_data = Some(data);
    }

    pub(super) fn take_resumed_data(&self) -> Option<Bytes> {
        self.lock().resumed_data.take()
    }

    fn add_ticket(&self, ticket: Ticket) {
        let state = &mut *self.lock();
        if state.tickets.len() < Self::MAX_TICKETS {
            state.tickets.push(ticket);
        }
    }

    pub(super) fn take_tickets(&self) -> Vec<Ticket> {
        std::mem::take(&mut self.lock().tickets)
    }

    fn set_rejection(&self, alert: u8, reason: &str) {
        self.lock().rejection = Some((alert, reason.into()));
    }

    /// The alert and reason, if a certificate was what failed the handshake.
    pub(super) fn rejection(&self) -> Option<(u8, Arc<str>)> {
        self.lock().rejection.clone()
    }
}

/// The client side of one connection.
pub(super) struct ClientCrypto {
    pub(super) config: Arc<ClientInner>,
    pub(super) clock: Arc<Clock>,
    pub(super) shared: Arc<Shared>,
    pub(super) observed: Arc<Observed>,
    pub(super) hold: Option<Arc<Hold>>,
    pub(super) nst: Option<Ticket>,
}

impl engine::ClientConfig for ClientCrypto {
    fn start_session(
        &self,
        _: u32,
        server_name: &str,
        params: &TransportParameters,
    ) -> Result<Box<dyn engine::Session>, ConnectError> {
        let invalid = || ConnectError::InvalidServerName(server_name.to_owned());
        let name = ServerName::try_from(server_name).map_err(|_| invalid())?.to_owned();
        let options = &self.config.options;
        let mut tls = self.config.tls.clone();
        tls.time_provider = self.clock.clone();
        tls.resumption = rustls::client::Resumption::store(Arc::new(ConnectionStore {
            inner: self.config.sessions.clone(),
            given: self.nst.clone(),
            shared: self.shared.clone(),
            report: options.nst_events,
        }));
        let changes = Changes {
            disable_1rtt_encryption: options.disable_1rtt_encryption,
            datagram_receive: options.datagram_receive,
        };
        let params = params::write(params, changes);
        let inner = rustls::quic::ClientConnection::new(Arc::new(tls), Version::V1, name, params);
        Ok(Box::new(Session {
            inner: Connection::Client(inner.map_err(|_| invalid())?),
            suite: self.config.suite,
            shared: self.shared.clone(),
            observed: self.observed.clone(),
            hold: self.hold.clone(),
            wants_plain: options.disable_1rtt_encryption,
            next: None,
            told_handshake_data: false,
            plain: false,
            made_next: false,
        }))
    }
}

/// What the server side of one connection needs beyond the configuration.
pub(super) struct ServerParts {
    pub(super) clock: Arc<Clock>,
    pub(super) tickets: Arc<TicketKeys>,
    pub(super) shared: Arc<Shared>,
    pub(super) observed: Arc<Observed>,
    pub(super) hold: Option<Arc<Hold>>,
}

/// The server side: of one connection, or (without parts) of the endpoint for what it answers before there is one.
pub(super) struct ServerCrypto {
    pub(super) config: Arc<ServerInner>,
    pub(super) parts: Option<ServerParts>,
}

impl ServerCrypto {
    fn tls(&self, parts: &ServerParts) -> rustls::ServerConfig {
        let mut tls = self.config.tls.clone();
        tls.time_provider = parts.clock.clone();
        if self.config.options.server_resumption_level > Resumption::None {
            if self.config.stateless_tickets {
                tls.ticketer = Arc::new(ConnectionTickets {
                    keys: parts.tickets.clone(),
                    shared: parts.shared.clone(),
                });
            } else {
                tls.session_storage = Arc::new(ConnectionSessions {
                    cache: self.config.sessions.clone(),
                    shared: parts.shared.clone(),
                });
            }
        }
        tls
    }
}

impl engine::ServerConfig for ServerCrypto {
    fn initial_keys(
        &self,
        version: u32,
        dst_cid: ConnectionId,
    ) -> Result<engine::Keys, engine::UnsupportedVersion> {
        if version != VERSION {
            return Err(engine::UnsupportedVersion);
        }
        Ok(session::initial_keys(&self.config.suite, &dst_cid, Side::Server))
    }

    fn retry_tag(&self, _: u32, orig_dst_cid: ConnectionId, packet: &[u8]) -> [u8; 16] {
        // Fails only for connection ids that the engine does not make; the client then drops the packet.
        secrets::retry_tag(&orig_dst_cid, packet).unwrap_or_default()
    }

    fn start_session(&self, _: u32, params: &TransportParameters) -> Box<dyn engine::Session> {
        let options = &self.config.options;
        let changes = Changes {
            disable_1rtt_encryption: options.disable_1rtt_encryption,
            datagram_receive: options.datagram_receive,
        };
        let bytes = params::write(params, changes);
        let Some(parts) = &self.parts else { return Box::new(Refusing(self.config.suite)) };
        let tls = Arc::new(self.tls(parts));
        match rustls::quic::ServerConnection::new(tls, Version::V1, bytes) {
            Ok(inner) => Box::new(Session {
                inner: Connection::Server(inner),
                suite: self.config.suite,
                shared: parts.shared.clone(),
                observed: parts.observed.clone(),
                hold: parts.hold.clone(),
                wants_plain: options.disable_1rtt_encryption,
                next: None,
                told_handshake_data: false,
                plain: false,
                made_next: false,
            }),
            Err(_) => Box::new(Refusing(self.config.suite)),
        }
    }
}

/// A session that fails at its first byte. The configuration was checked when it was built, so none is expected.
struct Refusing(Suite);

impl fmt::Debug for Refusing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Refusing")
    }
}

impl engine::Session for Refusing {
    fn initial_keys(&self, dst_cid: ConnectionId, side: Side) -> engine::Keys {
        session::initial_keys(&self.0, &dst_cid, side)
    }

    fn handshake_data(&self) -> Option<Box<dyn std::any::Any>> {
        None
    }

    fn peer_identity(&self) -> Option<Box<dyn std::any::Any>> {
        None
    }

    fn early_crypto(&self) -> Option<(Box<dyn engine::HeaderKey>, Box<dyn engine::PacketKey>)> {
        None
    }

    fn early_data_accepted(&self) -> Option<bool> {
        None
    }

    fn is_handshaking(&self) -> bool {
        true
    }

    fn read_handshake(&mut self, _: &[u8]) -> Result<bool, noq_proto::TransportError> {
        Err(noq_proto::TransportError::new(
            noq_proto::TransportErrorCode::INTERNAL_ERROR,
            "no TLS session could be started".into(),
        ))
    }

    fn transport_parameters(
        &self,
    ) -> Result<Option<TransportParameters>, noq_proto::TransportError> {
        Ok(None)
    }

    fn write_handshake(&mut self, _: &mut Vec<u8>) -> Option<engine::Keys> {
        None
    }

    fn next_1rtt_keys(&mut self) -> Option<engine::KeyPair<Box<dyn engine::PacketKey>>> {
        None
    }

    fn is_valid_retry(&self, _: ConnectionId, _: &[u8], _: &[u8]) -> bool {
        false
    }

    fn export_keying_material(
        &self,
        _: &mut [u8],
        _: &[u8],
        _: &[u8],
    ) -> Result<(), engine::ExportKeyingMaterialError> {
        Err(engine::ExportKeyingMaterialError)
    }
}
