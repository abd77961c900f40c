//! Connections out: one attempt per address of the host, each with a head start over the next.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use towline_proto::quic::ConnectionId;

use crate::quic::{
    ClientConfig, ConnectError, ConnectParams, Ended, EndpointShared, Handler, Phase, Shared,
};

use super::super::datagram::bind_client;
use super::super::{Command, Runtime, Timed, resolve};
use super::app::App;
use super::{AppKey, Owner, PortKey, QUIC, QuicCommand};

/// How long an address may go without an answer before the next one is tried beside it (RFC 8305 section 5).
const HEAD_START: Duration = Duration::from_millis(250);

/// A connection that an application asked for.
pub(crate) struct QuicDial {
    pub(crate) endpoint: Arc<EndpointShared>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) handler: Box<dyn Handler>,
    pub(crate) config: ClientConfig,
    pub(crate) params: ConnectParams,
    pub(crate) server_name: String,
    pub(crate) host: String,
    pub(crate) port: u16,
    /// It is under a session.
    pub(crate) wire: bool,
}

impl QuicDial {
    /// The thread has stopped.
    pub(super) fn stopped(&self) {
        fail(&self.shared, ConnectError::Stopped);
    }
}

/// What a dial still needs.
pub(super) struct Dialing {
    /// Keeps the port from being retired.
    _endpoint: Arc<EndpointShared>,
    config: ClientConfig,
    params: ConnectParams,
    server_name: String,
    waiting: VecDeque<SocketAddr>,
    pub(super) attempts: Vec<(ConnectionId, SocketAddr)>,
    next_at: Option<Instant>,
}

fn fail(shared: &Shared, error: ConnectError) {
    let wakers = {
        let mut state = shared.state();
        state.phase = Phase::Failed(error);
        state.waiting.take()
    };
    wakers.wake();
}

impl Runtime {
    pub(super) fn quic_connect(&mut self, dial: QuicDial) {
        let QuicDial { endpoint, shared, handler, config, params, server_name, host, port, wire } =
            dial;
        if self.stopping.is_some() {
            return fail(&shared, ConnectError::Stopped);
        }
        let key = match self.quic_client(&endpoint) {
            Ok(key) => key,
            Err(error) => return fail(&shared, ConnectError::Start(error.into())),
        };
        let dialing = Dialing {
            _endpoint: endpoint,
            config,
            params,
            server_name,
            waiting: VecDeque::new(),
            attempts: Vec::new(),
            next_at: None,
        };
        let app = self.insert_app(App::dialed(Arc::clone(&shared), handler, key, dialing, wire));
        match host.parse::<IpAddr>() {
            Ok(ip) => self.quic_candidates(app, vec![SocketAddr::new(ip, port)]),
            Err(_) => resolve::lookup(host, port, move |result| {
                let thread = Arc::clone(&shared.thread);
                thread.command(Command::Quic(QuicCommand::Resolved(shared, result))).ok();
            }),
        }
    }

    pub(super) fn quic_resolved(
        &mut self,
        shared: &Arc<Shared>,
        result: std::io::Result<Vec<SocketAddr>>,
    ) {
        let key = shared.slot.load(Ordering::Acquire);
        let Some(app) = self.quic.apps.get(key).filter(|app| Arc::ptr_eq(&app.shared, shared))
        else {
            return;
        };
        let Some(dialing) = &app.dialing else { return };
        let reason = match result {
            Ok(found) if !found.is_empty() => return self.quic_candidates(key, found),
            Ok(_) => "it has no addresses".into(),
            Err(error) => error.to_string().into(),
        };
        let host = dialing.server_name.as_str().into();
        self.dial_failed_for_good(key, ConnectError::Resolve { host, reason });
    }

    fn quic_candidates(&mut self, key: AppKey, found: Vec<SocketAddr>) {
        if let Some(dialing) = self.quic.apps.get_mut(key).and_then(|app| app.dialing.as_mut()) {
            dialing.waiting = found.into();
        }
        self.quic_next_attempt(key, None);
    }

    /// Tries the next address. `last` is why the one before failed.
    pub(super) fn quic_next_attempt(&mut self, key: AppKey, last: Option<ConnectError>) {
        let now = self.now;
        let Some(app) = self.quic.apps.get_mut(key) else { return };
        let Some(dialing) = &mut app.dialing else { return };
        let port_key = app.port;
        let Some(remote) = dialing.waiting.pop_front() else {
            if dialing.attempts.is_empty() {
                let error = last.unwrap_or(ConnectError::Stopped);
                self.dial_failed_for_good(key, error);
            }
            return;
        };
        dialing.next_at = (!dialing.waiting.is_empty()).then(|| now + HEAD_START);
        if let Some(at) = dialing.next_at {
            self.arm(at, Timed::QuicDial(key));
        }
        match self.quic_attempt(key, port_key, remote) {
            Ok(early) => {
                // 0-RTT data goes at once, so there is no waiting for who answers first.
                if early && let Some(id) = self.only_attempt(key) {
                    self.quic_choose(key, id);
                }
                self.quic_touch(port_key);
            }
            Err(error) => self.quic_next_attempt(key, Some(error)),
        }
    }

    /// The attempt of a host that has one address only.
    fn only_attempt(&self, key: AppKey) -> Option<ConnectionId> {
        let dialing = self.quic.apps.get(key)?.dialing.as_ref()?;
        match dialing.attempts.as_slice() {
            [(id, _)] if dialing.waiting.is_empty() => Some(*id),
            _ => None,
        }
    }

    /// Starts an attempt; `true`: 0-RTT data can be sent.
    fn quic_attempt(
        &mut self,
        key: AppKey,
        port_key: PortKey,
        remote: SocketAddr,
    ) -> Result<bool, ConnectError> {
        let app = self.quic.apps.get_mut(key).ok_or(ConnectError::Stopped)?;
        let dialing = app.dialing.as_mut().ok_or(ConnectError::Stopped)?;
        let port = self.quic.ports.get_mut(port_key).ok_or(ConnectError::Stopped)?;
        let mut params = dialing.params.clone();
        let local = match (params.local_address, remote) {
            (Some(local), _) if port.port.has(local) => None,
            (Some(local), _) => Some(local),
            (None, _) if port.port.reaches(remote) => None,
            (None, SocketAddr::V4(_)) => Some(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0)),
            (None, SocketAddr::V6(_)) => Some(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0)),
        };
        if let Some(local) = local {
            let refused = |error| ConnectError::Socket { address: local, error: Arc::new(error) };
            let socket = bind_client(local).map_err(refused)?;
            let tag = QUIC | port_key as u64;
            let bound = port.port.add(&mut self.driver, socket, tag).map_err(refused)?;
            if params.local_address.is_some() {
                params.local_address = Some(bound);
                app.sockets.push(bound);
            }
        }
        let port = self.quic.ports.get_mut(port_key).ok_or(ConnectError::Stopped)?;
        let name = &dialing.server_name;
        let id = port.port.engine.connect(self.now, &dialing.config, remote, name, params)?;
        port.own(id, Owner::App(key));
        dialing.attempts.push((id, remote));
        let early = port.port.engine.connection(id).is_some_and(|conn| conn.early_data_available());
        Ok(early)
    }

    /// The head start is over.
    pub(in crate::runtime) fn quic_dial_timeout(&mut self, key: AppKey, at: Instant) {
        let due = |app: &App| app.dialing.as_ref().is_some_and(|dial| dial.next_at == Some(at));
        if self.quic.apps.get(key).is_some_and(due) {
            self.quic_next_attempt(key, None);
        }
    }

    /// This attempt is the connection; the others are given up.
    pub(super) fn quic_choose(&mut self, key: AppKey, id: ConnectionId) {
        let Some(app) = self.quic.apps.get_mut(key) else { return };
        let Some(dialing) = app.dialing.take() else { return };
        app.id = Some(id);
        let port_key = app.port;
        let Some(port) = self.quic.ports.get_mut(port_key) else { return };
        for (other, remote) in &dialing.attempts {
            if *other == id {
                app.shared.state().remote = Some(*remote);
            } else {
                port.disown(*other);
                if let Some(mut conn) = port.port.engine.connection(*other) {
                    conn.abandon();
                }
            }
        }
        self.serve_app(key);
    }

    /// An attempt ended without a connection.
    pub(super) fn quic_attempt_failed(&mut self, key: AppKey, id: ConnectionId) {
        let Some(app) = self.quic.apps.get_mut(key) else { return };
        let ended = app.ended.take().unwrap_or(Ended::Closed);
        let Some(dialing) = &mut app.dialing else { return };
        let Some(index) = dialing.attempts.iter().position(|(other, _)| *other == id) else {
            return;
        };
        let (_, remote) = dialing.attempts.swap_remove(index);
        if let Some(port) = self.quic.ports.get_mut(app.port) {
            port.disown(id);
        }
        self.quic_next_attempt(key, Some(ConnectError::Failed { remote, ended }));
    }

    /// No address is left.
    pub(super) fn dial_failed_for_good(&mut self, key: AppKey, error: ConnectError) {
        let Some(app) = self.remove_app(key) else { return };
        tracing::debug!(%error, "cannot connect");
        let port = app.port;
        if let Some(dialing) = &app.dialing
            && let Some(port) = self.quic.ports.get_mut(port)
        {
            for (id, _) in &dialing.attempts {
                port.disown(*id);
                if let Some(mut conn) = port.port.engine.connection(*id) {
                    conn.abandon();
                }
            }
        }
        fail(&app.shared, error);
        app.never_was();
        self.quic_touch(port);
    }
}
