//! Clients: the gate, and datagrams that the kernel gave to the wrong thread.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use socket2::Socket;
use towline_proto::quic::{Acceptance, ConnectionId, Decision, Endpoint as Engine, Incoming};

use crate::quic::{Connection, HANDOVER, ListenerShared, Shared};

use super::super::datagram::Misplaced;
use super::super::{Command, Runtime};
use super::app::App;
use super::{Kind, Owner, PortKey, QUIC, QuicCommand, QuicPort};

impl Runtime {
    pub(super) fn quic_listen(
        &mut self,
        socket: Socket,
        listener: Arc<ListenerShared>,
        engine: Engine,
    ) {
        if self.stopping.is_some() {
            return listener.end();
        }
        let reader = (listener.ports.len() > 1).then(|| Box::new(engine.config().cid.reader()));
        let kind = Kind::Server(Arc::clone(&listener), reader);
        let entry = self.quic.ports.vacant_entry();
        let key = entry.key();
        let port = entry.insert(QuicPort::new(engine, kind));
        if let Err(error) = port.port.add(&mut self.driver, socket, QUIC | key as u64) {
            tracing::error!(%error, "cannot listen");
            self.quic.ports.remove(key);
            return listener.end();
        }
        if let Some(place) = listener.ports.get(self.thread.index) {
            place.store(key, Ordering::Relaxed);
        }
        self.quic_touch(key);
    }

    /// No new clients; connections go on, and the socket stays as long as they do.
    pub(super) fn quic_unlisten(&mut self, listener: &Arc<ListenerShared>) {
        listener.end();
        let Some(key) = self.quic_port_of(listener) else { return };
        if let Some(port) = self.quic.ports.get_mut(key) {
            port.retired = true;
            port.port.engine.set_server_config(None).ok();
        }
        self.quic_touch(key);
    }

    /// A client asks for a connection.
    pub(super) fn quic_incoming(&mut self, key: PortKey, incoming: Incoming) {
        let Some(QuicPort { port, kind: Kind::Server(listener, _), .. }) =
            self.quic.ports.get_mut(key)
        else {
            return;
        };
        let listener = Arc::clone(listener);
        let id = incoming.id;
        let local = incoming.local;
        let decision = decide(&listener, &incoming);
        if let Ok(Some(connection)) = port.engine.decide(self.now, id, decision) {
            self.quic_new_app(key, connection, &listener, Some(local));
        }
    }

    /// A connection that nobody knows yet: a client of a listener without a gate.
    pub(super) fn quic_accepted(&mut self, key: PortKey, id: ConnectionId) -> Option<Owner> {
        let QuicPort { kind: Kind::Server(listener, _), .. } = self.quic.ports.get(key)? else {
            return None;
        };
        let listener = Arc::clone(listener);
        self.quic_new_app(key, id, &listener, None)
    }

    fn quic_new_app(
        &mut self,
        key: PortKey,
        id: ConnectionId,
        listener: &Arc<ListenerShared>,
        local: Option<SocketAddr>,
    ) -> Option<Owner> {
        let port = self.quic.ports.get_mut(key)?;
        let remote = port.port.engine.connection(id)?.remote_address();
        let shared = Shared::new(Arc::clone(&self.thread));
        {
            let mut state = shared.state();
            state.remote = Some(remote);
            state.local = local.or(Some(listener.local));
        }
        let connection = Connection::new(Arc::clone(&shared), false);
        let handler = match &listener.acceptor {
            // A factory that panics refuses the client.
            Some(acceptor) => {
                let made = std::panic::AssertUnwindSafe(|| acceptor.handler(&connection));
                match std::panic::catch_unwind(made) {
                    Ok(handler) => handler,
                    Err(_) => {
                        tracing::error!(%remote, "an acceptor panicked: its client is refused");
                        port.port.engine.connection(id)?.abandon();
                        return None;
                    }
                }
            }
            None => Box::new(()),
        };
        let app = App::accepted(shared, handler, key, id, Arc::clone(listener));
        let app = self.insert_app(app);
        let port = self.quic.ports.get_mut(key)?;
        port.own(id, Owner::App(app));
        Some(Owner::App(app))
    }

    /// Sends datagrams to the threads that their connections live on.
    pub(super) fn quic_hand_over(&mut self, key: PortKey) {
        let Some(QuicPort { kind: Kind::Server(listener, _), .. }) = self.quic.ports.get(key)
        else {
            return self.quic.misplaced.clear();
        };
        let listener = Arc::clone(listener);
        let mut left = std::mem::take(&mut self.quic.misplaced);
        while let Some(thread) = left.first().map(|datagram| datagram.thread) {
            let (there, others): (Vec<_>, Vec<_>) =
                left.drain(..).partition(|datagram| datagram.thread == thread);
            left = others;
            let bytes: usize = there.iter().map(|datagram| datagram.data.len()).sum();
            let Some(to) = self.threads.get(usize::from(thread)) else { continue };
            if listener.handed.fetch_add(bytes, Ordering::AcqRel) + bytes > HANDOVER {
                // That thread does not keep up: to the connection they are lost.
                listener.handed.fetch_sub(bytes, Ordering::AcqRel);
                continue;
            }
            let command = QuicCommand::Misplaced(Arc::clone(&listener), there);
            to.command(Command::Quic(command)).ok();
        }
        self.quic.misplaced = left;
    }

    /// Datagrams that another thread's socket received.
    pub(super) fn quic_handed_over(
        &mut self,
        listener: &Arc<ListenerShared>,
        datagrams: Vec<Misplaced>,
    ) {
        let bytes: usize = datagrams.iter().map(|datagram| datagram.data.len()).sum();
        listener.handed.fetch_sub(bytes, Ordering::AcqRel);
        let Some(key) = self.quic_port_of(listener) else { return };
        if let Some(port) = self.quic.ports.get_mut(key) {
            for datagram in datagrams {
                port.port.handed_over(self.now, datagram);
            }
        }
        self.quic_touch(key);
    }
}

fn decide(listener: &ListenerShared, incoming: &Incoming) -> Decision {
    if !listener.has_room() {
        return Decision::Refuse;
    }
    let Some(acceptor) = &listener.acceptor else { return Decision::Accept };
    let ask = || {
        let decision = acceptor.new_conn(incoming);
        let accepts = matches!(decision, Decision::Accept | Decision::AcceptWith(_));
        match incoming.resumption.as_ref().filter(|_| accepts) {
            Some(data) if !acceptor.resume(incoming, data) => {
                let mut how = match decision {
                    Decision::AcceptWith(how) => how,
                    _ => Acceptance::default(),
                };
                how.reject_resumption = true;
                Decision::AcceptWith(how)
            }
            _ => decision,
        }
    };
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(ask)).unwrap_or_else(|_| {
        tracing::error!("an acceptor panicked: its client is refused");
        Decision::Refuse
    })
}
