//! A flow and the socket of a factory that it carries.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use towline_proto::bats::endpoint::{Ended, refusal};
use towline_proto::bats::flow::{self, Closed};

use crate::bats::{Carried, FlowError, NOWHERE};
use crate::error::WireError;
use crate::socket_factory::{FactorySocket, RECEIVE_WINDOW, SocketFactory};

use super::super::Runtime;
use super::node::{Id, Told, any_of_family};
use super::{BatsPort, FlowKey, PortKey};

/// The status with which a peer's orderly end is told to those who have messages (RFC 6455 section 7.4.1).
const NORMAL: u16 = 1000;

/// A flow of this thread.
pub(super) struct Flow {
    pub(super) carried: Arc<Carried>,
    /// None yet: a client's that is not established.
    socket: Option<FactorySocket>,
    pub(super) port: PortKey,
    pub(super) id: Id,
    /// Bytes that the engine took, and of how many of them it was told that they are on their way.
    taken: u64,
    told: u64,
    /// Closing has begun.
    closing: bool,
    /// The peer sends no more, which is told behind everything that it sent.
    ended_by_peer: bool,
}

impl Flow {
    pub(super) fn new(
        carried: Arc<Carried>,
        socket: Option<FactorySocket>,
        port: PortKey,
        id: Id,
    ) -> Flow {
        Flow { carried, socket, port, id, taken: 0, told: 0, closing: false, ended_by_peer: false }
    }
}

impl Runtime {
    pub(super) fn bats_told(&mut self, port: PortKey, told: Told) {
        let (id, event) = match told {
            Told::Incoming(id) => return self.bats_incoming(port, id),
            Told::Flow(id, event) => (id, Ok(event)),
            Told::Closed(id, ended) => (id, Err(ended)),
        };
        let key = self.bats.ports.get(port).and_then(|port| port.flows.get(&id)).copied();
        let Some(key) = key else { return };
        match event {
            Ok(flow::Event::Established) => self.bats_established(key),
            Ok(flow::Event::DataReceived) => self.bats_read(key),
            Ok(flow::Event::ShutdownByPeer) => {
                if let Some(flow) = self.bats.flows.get_mut(key) {
                    flow.ended_by_peer = true;
                }
                self.bats_read(key);
            }
            Ok(flow::Event::IdealBufferLengthChanged { .. }) => {
                self.bats_observe(key);
                self.bats_ideal_changed(key);
            }
            Ok(_) => self.bats_flush(key),
            Err(ended) => return self.bats_closed(key, &ended),
        }
        self.bats_observe(key);
    }

    fn bats_ideal_changed(&self, key: FlowKey) {
        let Some(flow) = self.bats.flows.get(key) else { return };
        flow.carried.state().ideal_changed = true;
        if let Some(socket) = &flow.socket {
            socket.stir();
        }
    }

    /// A client's flow, of which nothing is known yet; or datagrams of a new peer, with whom there is nothing to agree on.
    fn bats_incoming(&mut self, port_key: PortKey, id: Id) {
        let Some(port) = self.bats.ports.get_mut(port_key) else { return };
        let Some(listener) = &port.listener else { return };
        if !listener.attacher.has_room() {
            let reason = "the listener takes no more for now";
            return port.port.engine.abort(id, refusal::TOO_MANY, reason);
        }
        let carried = Carried::new(Arc::clone(&self.thread));
        let key = self.bats_insert(Flow::new(carried, None, port_key, id));
        if let Id::Plain(_) = id {
            self.bats_established(key);
        }
    }

    /// Both ends agree: the socket over it is open.
    pub(super) fn bats_established(&mut self, key: FlowKey) {
        let Some(flow) = self.bats.flows.get_mut(key) else { return };
        let Some(BatsPort { port, listener, .. }) = self.bats.ports.get_mut(flow.port) else {
            return;
        };
        let agreed = port.engine.agreed(flow.id).map(|mut agreed| {
            agreed.local = port.local(agreed.peer).map(|bound| local_address(bound, agreed.peer));
            agreed
        });
        flow.carried.state().agreed = agreed;
        if let Some(socket) = &flow.socket {
            flow.carried.state().reads = true;
            socket.opened().ok();
            return;
        }
        let Some(listener) = listener else { return };
        let factory = Arc::clone(&listener.wire) as Arc<dyn SocketFactory>;
        let native = Some(Arc::clone(&flow.carried) as _);
        match listener.attacher.attach_on(&self.thread, factory, native) {
            Ok(socket) => flow.socket = Some(socket),
            Err(_) => {
                let reason = "the listener takes no more for now";
                port.engine.abort(flow.id, refusal::TOO_MANY, reason);
            }
        }
    }

    /// Does what was asked for above the flow.
    pub(super) fn bats_serve(&mut self, key: FlowKey) {
        let Some(flow) = self.bats.flows.get_mut(key) else { return };
        let port_key = flow.port;
        let (reads, abandoned) = {
            let mut state = flow.carried.state();
            state.scheduled = false;
            (state.reads, state.abandoned)
        };
        if abandoned && let Some(port) = self.bats.ports.get_mut(port_key) {
            port.port.engine.abort(flow.id, flow::code::NONE, "");
        } else {
            self.bats_flush(key);
            if reads {
                self.bats_read(key);
            }
        }
        self.bats_touch(port_key);
    }

    /// Gives the flow what it has room for, and tells what has left.
    fn bats_flush(&mut self, key: FlowKey) {
        let now = self.now;
        let Some(flow) = self.bats.flows.get_mut(key) else { return };
        let Some(BatsPort { port, .. }) = self.bats.ports.get_mut(flow.port) else { return };
        let messages = flow.socket.as_ref().is_some_and(FactorySocket::moves_messages);
        let mut state = flow.carried.state();
        while let Some(data) = state.pending.front_mut() {
            let before = data.len();
            let sent = port.engine.send(flow.id, data);
            // A message that fits no more, because the path has changed, is one of those that are lost.
            let gone = match sent {
                Ok(all) => all,
                Err(flow::SendError::TooLarge { .. }) => true,
                Err(_) => break,
            };
            let left = if gone { 0 } else { data.len() };
            flow.taken += (before - left) as u64;
            if !gone {
                break;
            }
            state.pending.pop_front();
        }
        if state.finishing && state.pending.is_empty() && !flow.closing {
            flow.closing = true;
            port.engine.close(flow.id, now);
        }
        drop(state);
        let waiting = if messages { port.engine.waiting(flow.id) as u64 } else { 0 };
        let left = flow.taken.saturating_sub(waiting).max(flow.told);
        if let Some(socket) = &flow.socket
            && left > flow.told
        {
            socket.completed_write((left - flow.told) as usize).ok();
            flow.told = left;
        }
    }

    /// Hands up what has come, as far as it is processed.
    fn bats_read(&mut self, key: FlowKey) {
        let Some(flow) = self.bats.flows.get_mut(key) else { return };
        let Some(BatsPort { port, .. }) = self.bats.ports.get_mut(flow.port) else { return };
        let Some(socket) = flow.socket.as_ref().filter(|_| flow.carried.state().reads) else {
            return;
        };
        loop {
            if socket.unprocessed() >= RECEIVE_WINDOW {
                flow.carried.state().paused = true;
                // It may have been processed in between.
                if socket.unprocessed() >= RECEIVE_WINDOW / 2
                    || !std::mem::replace(&mut flow.carried.state().paused, false)
                {
                    return;
                }
            }
            let Some(data) = port.engine.next(flow.id) else { break };
            if socket.received(data).is_err() {
                return;
            }
        }
        if std::mem::take(&mut flow.ended_by_peer) {
            match socket.moves_messages() {
                true => socket.close_requested(NORMAL, "").ok(),
                false => socket.end_of_stream().ok(),
            };
        }
    }

    /// The flow is over, and everything that it brought was read.
    fn bats_closed(&mut self, key: FlowKey, ended: &Ended) {
        let Some(flow) = self.bats.flows.try_remove(key) else { return };
        flow.carried.slot.store(NOWHERE, Ordering::Release);
        if let Some(port) = self.bats.ports.get_mut(flow.port) {
            port.flows.remove(&flow.id);
        }
        flow.carried.state().over = true;
        let Some(socket) = &flow.socket else { return };
        let how = match ended {
            Ended::Flow(Closed::Finished | Closed::Local) => Ok(()),
            Ended::Flow(Closed::Peer { code: flow::code::NONE, reason }) => {
                if socket.moves_messages() {
                    socket.close_requested(NORMAL, reason).ok();
                }
                Ok(())
            }
            Ended::Flow(Closed::LocalTimeout) => Err(WireError::End),
            other => Err(FlowError::Ended(other.clone()).into()),
        };
        socket.closed(how).ok();
    }

    /// Keeps what applications may ask for.
    fn bats_observe(&mut self, key: FlowKey) {
        let Some(flow) = self.bats.flows.get(key) else { return };
        let Some(port) = self.bats.ports.get_mut(flow.port) else { return };
        let (stats, ideal) = port.port.engine.stats(flow.id);
        let mut state = flow.carried.state();
        (state.stats, state.ideal_buffer_length) = (stats, ideal);
    }
}

/// Where a socket's datagrams to a peer leave from: one that is bound to every address leaves that to the system, which is asked without sending anything.
fn local_address(bound: SocketAddr, peer: SocketAddr) -> SocketAddr {
    if !bound.ip().is_unspecified() {
        return bound;
    }
    let asked = || {
        let socket = std::net::UdpSocket::bind(any_of_family(peer))?;
        socket.connect(peer)?;
        socket.local_addr()
    };
    asked().map_or(bound, |found| SocketAddr::new(found.ip(), bound.port()))
}
