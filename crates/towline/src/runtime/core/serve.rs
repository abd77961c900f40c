//! A connection and its link: a turn of the engine, what it writes, when it reads on, how it loses its wire, and how it ends.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::Bytes;
use towline_proto::session::CloseCode;

use super::{IN_DRIVER, IN_DRIVER_SEALED, Origin, TRANSPORT_POLL, Turn};
use crate::connection::{NO_SLOT, Phase, ask};
use crate::engine::{Engine, Output};
use crate::error::{ConnectError, Ended, WireError};
use crate::handler::{Closed, Event};
use crate::message::Message;
use crate::runtime::link::{LinkKey, Owner};
use crate::runtime::{CoreKey, Runtime, Timed};

impl Runtime {
    pub(in crate::runtime) fn engine_input(&mut self, key: CoreKey, data: Bytes) {
        let now = self.now;
        let Some(core) = self.cores.get_mut(key) else { return };
        core.count_received(data.len());
        #[cfg(feature = "websocket")]
        if let Engine::WebSocket(_) = &core.engine {
            return self.websocket_input(key, data);
        }
        core.engine.handle_input(now, data.clone());
        self.drain(key);
        // The receive buffer goes back unless somebody keeps a slice of it.
        self.driver.recycle(data);
    }

    /// Looks after a connection to which something has happened: the one way from engine to application and back.
    pub(in crate::runtime) fn serve(&mut self, key: CoreKey) {
        self.serve_from(key, false);
    }

    /// [`Self::serve`], perhaps for an engine that has nothing to tell, because it was drained after the last that it was given.
    pub(in crate::runtime) fn serve_from(&mut self, key: CoreKey, mut drained: bool) {
        // What handlers ask for from inside is done below, without another turn.
        for _ in 0..4 {
            self.poll_transport(key, false);
            if !std::mem::take(&mut drained) {
                self.drain(key);
            }
            let now = self.now;
            let Some(core) = self.cores.get_mut(key) else { return };
            let asks = core.shared.take_asks();
            let told = core.exchange(now);
            if asks != 0 {
                self.asked(key, asks);
            }
            self.transmit(key);
            // What the transport took is no longer in the queue of a wire that has no acknowledgements of its own.
            let told =
                told || self.cores.get_mut(key).is_some_and(|core| core.note_transmitted(now));
            if !told {
                break;
            }
        }
        self.check_drained(key);
        self.read_on(key);
        self.rearm(key);
    }

    /// Takes everything that the engine has to tell.
    pub(in crate::runtime) fn drain(&mut self, key: CoreKey) {
        let mut queued = std::mem::take(&mut self.scratch.messages);
        let mut store = std::mem::take(&mut self.scratch.store);
        let mut turn = Turn::Go;
        let now = self.now;
        if let Some(core) = self.cores.get_mut(key) {
            core.shared.hold();
            while let Some(output) = core.engine.poll_output() {
                // The usual case by the short way.
                if let Output::Message(message) = output {
                    core.deliver(message, &mut queued, &mut store);
                    continue;
                }
                turn = core.output(now, output);
                if !matches!(turn, Turn::Go) {
                    break;
                }
            }
            core.queue(&mut queued, &mut store);
        }
        queued.clear();
        self.scratch.messages = queued;
        self.scratch.store = store;
        match turn {
            Turn::Go => {}
            Turn::WireFailed(error) => {
                self.wire_failed(key, error);
                self.drain(key);
            }
            Turn::Rejected(code, reason) => self.rejected(key, code, reason),
            Turn::End(ended, unacknowledged) => self.end(key, ended, unacknowledged),
        }
    }

    fn transmit(&mut self, key: CoreKey) {
        let now = self.now;
        let Some(link_key) = self.cores.get(key).and_then(|core| core.link) else { return };
        #[cfg(feature = "websocket")]
        if self.cores.get(key).is_some_and(|core| matches!(core.engine, Engine::Messages(_))) {
            return self.transmit_messages(key, link_key);
        }
        let Some(link) = self.links.get(link_key.0) else { return };
        let queued = self.carrier_queued(link.carrier);
        let Some(core) = self.cores.get_mut(key) else { return };
        // Encrypted bytes are new memory: little at a time is used again while it is warm.
        let most = if link.state.is_some() { IN_DRIVER_SEALED } else { IN_DRIVER };
        if queued >= most || (!core.up && matches!(core.engine, Engine::Ftcp { .. })) {
            return;
        }
        let room = most - queued;
        let sent = core.engine.poll_transmit(now, room, &mut self.scratch.plaintext);
        core.count_sent(sent);
        if sent == 0 {
            return;
        }
        // With more to come, the completion is the time for it; without, nobody needs to be told.
        let report = core.engine.wants_transmit() && !link.sending;
        if let Err(error) = self.write(link_key, report) {
            self.link_failed(link_key, error);
        }
    }

    fn read_on(&mut self, key: CoreKey) {
        let Some(core) = self.cores.get_mut(key) else { return };
        let Some(link) = core.link else { return };
        if core.engine.is_ftcp() && core.shared.readers().is_over_limit() {
            return;
        }
        #[cfg(feature = "websocket")]
        match &core.engine {
            Engine::WebSocket(engine) if !engine.wants_read() => return,
            Engine::Messages(engine) if !engine.wants_read() => return,
            _ => {}
        }
        let Some(state) = self.links.get(link.0) else { return };
        if state.receiving {
            return;
        }
        let direct = match state.takes_direct() {
            true => core.engine.direct().map(|direct| (direct.buffer, direct.want)),
            false => None,
        };
        self.receive(link, direct);
    }

    fn rearm(&mut self, key: CoreKey) {
        let Some(core) = self.cores.get_mut(key) else { return };
        let dialing = match &core.origin {
            Origin::Dialed(dialing) => dialing.poll_timeout(),
            Origin::Accepted { .. } => None,
        };
        let transport = core.link.and(core.counts.transport_due);
        let next = [core.engine.poll_timeout(), core.deadlines, core.closing, dialing, transport];
        let Some(next) = next.into_iter().flatten().min() else { return };
        if core.alarms.set(next) {
            self.arm(next, Timed::Core(key));
        }
    }

    pub(in crate::runtime) fn core_timeout(&mut self, key: CoreKey, at: Instant) {
        let now = self.now;
        let Some(core) = self.cores.get_mut(key) else { return };
        if !core.alarms.fired(at) {
            return;
        }
        if core.engine.poll_timeout().is_some_and(|at| at <= now) {
            core.engine.handle_timeout(now);
            core.rest();
            // Its word goes first: the dialing below may give up at the same moment.
            self.drain(key);
        }
        let Some(core) = self.cores.get_mut(key) else { return };
        if core.deadlines.is_some_and(|at| at <= now) {
            core.deadlines = core.shared.expire_deadlines(now);
        }
        if core.closing.is_some_and(|at| at <= now) {
            let unacknowledged = core.engine.abort();
            return self.end(key, Ended::Closed, unacknowledged);
        }
        self.poll_dialing(key);
        self.serve(key);
    }

    /// Does what application threads asked for.
    fn asked(&mut self, key: CoreKey, asks: u8) {
        let now = self.now;
        let Some(core) = self.cores.get_mut(key) else { return };
        if asks & ask::DEADLINES != 0 {
            core.deadlines = core.shared.expire_deadlines(now);
        }
        if asks & ask::HURRY != 0 {
            core.engine.hurry();
            core.hurry_transport(now);
        }
        if asks & ask::ABORT != 0 {
            let unacknowledged = core.engine.abort();
            let ended = if core.panicked { Ended::Panicked } else { Ended::Closed };
            return self.end(key, ended, unacknowledged);
        }
        if asks & ask::CLOSE != 0 {
            let (code, reason) = core.shared.out().close.as_deref().cloned().unwrap_or_default();
            self.begin_close(key, code, &reason);
        }
    }

    fn begin_close(&mut self, key: CoreKey, code: u64, reason: &str) {
        let now = self.now;
        let Some(core) = self.cores.get_mut(key) else { return };
        if std::mem::replace(&mut core.closing_asked, true) {
            return;
        }
        if !core.born && matches!(core.origin, Origin::Dialed(_)) {
            let unacknowledged = core.engine.abort();
            return self.end(key, Ended::Closed, unacknowledged);
        }
        match &mut core.engine {
            Engine::Session(session) => session.close(now, CloseCode(code), reason),
            Engine::Ftcp { .. } => {
                core.closing = Some(now + core.shared.config.0.plain.close_timeout);
                core.hurry_transport(now);
            }
            #[cfg(feature = "websocket")]
            Engine::WebSocket(engine) => {
                engine.close(code, reason);
                core.closing = Some(now + core.shared.config.0.plain.close_timeout);
            }
            #[cfg(feature = "websocket")]
            Engine::Messages(engine) => {
                engine.close(code, reason);
                core.closing = Some(now + core.shared.config.0.plain.close_timeout);
            }
        }
        self.drain(key);
        self.check_drained(key);
    }

    /// An ordered close on a wire without a session is over when the transport has everything.
    pub(in crate::runtime) fn check_drained(&mut self, key: CoreKey) {
        let Some(core) = self.cores.get_mut(key) else { return };
        if core.closing.is_some() && core.engine.is_ftcp() && core.engine.unacknowledged() == 0 {
            self.end(key, Ended::Closed, Vec::new());
        }
    }

    /// The link is gone: the engine keeps what it has, and somebody brings another one.
    pub(in crate::runtime) fn wire_lost(&mut self, key: CoreKey, link: LinkKey, error: WireError) {
        let now = self.now;
        #[cfg(feature = "websocket")]
        if self.websocket_lost(key, link, &error) {
            return;
        }
        // What arrived before the end counts, and so does what TCP has acknowledged until now.
        self.poll_transport(key, true);
        if let Some(core) = self.cores.get_mut(key) {
            core.counts.transport_due = None;
            core.link = None;
            core.engine.handle_lost(now);
        }
        self.close_link(link);
        self.down(key, error);
        self.serve(key);
    }

    /// The engine says that the wire is of no more use: its last words go out, then it closes.
    pub(in crate::runtime) fn wire_failed(&mut self, key: CoreKey, error: WireError) {
        self.transmit(key);
        let Some(core) = self.cores.get_mut(key) else { return };
        if let Some(link) = core.link.take() {
            self.linger(link);
        }
        self.down(key, error);
    }

    fn down(&mut self, key: CoreKey, error: WireError) {
        let Some(core) = self.cores.get_mut(key) else { return };
        core.last_error = Some(error.clone());
        let was_up = std::mem::replace(&mut core.up, false);
        if was_up {
            core.counts.wires_lost += 1;
            core.set_phase(Phase::Down);
            core.tell(Event::Disconnected(error.clone()));
        }
        let redials = core.shared.config.0.plain.redial;
        let over = match (&core.origin, &core.engine) {
            (Origin::Dialed(_), _) => core.born && !redials,
            (Origin::Accepted { .. }, Engine::Session(_)) => false,
            (Origin::Accepted { .. }, Engine::Ftcp { .. }) => true,
            #[cfg(feature = "websocket")]
            (Origin::Accepted { .. }, Engine::WebSocket(_) | Engine::Messages(_)) => true,
        };
        if over {
            let unacknowledged = core.engine.abort();
            return self.end(key, Ended::Lost(error), unacknowledged);
        }
        if matches!(core.origin, Origin::Dialed(_)) {
            self.redial(key, was_up, error);
        }
    }

    /// The peer answered, and does not want this connection.
    fn rejected(&mut self, key: CoreKey, code: u64, reason: Arc<str>) {
        let Some(core) = self.cores.get_mut(key) else { return };
        let unacknowledged = core.engine.abort();
        let ended = match (&core.origin, core.born) {
            (Origin::Dialed(dialing), false) => {
                let address = dialing.last_address().into();
                Ended::NeverConnected(Box::new(ConnectError::Rejected { address, code, reason }))
            }
            _ => Ended::ByPeer { code, reason },
        };
        self.end(key, ended, unacknowledged);
    }

    /// The end of a connection: everybody who waits is told, and its place is free.
    pub(in crate::runtime) fn end(
        &mut self,
        key: CoreKey,
        ended: Ended,
        unacknowledged: Vec<Message>,
    ) {
        if !self.cores.contains(key) {
            return;
        }
        // Last words, such as why.
        self.transmit(key);
        let Some(mut core) = self.cores.try_remove(key) else { return };
        core.shared.slot.store(NO_SLOT, Ordering::Release);
        self.thread.load.fetch_sub(1, Ordering::Relaxed);
        if let Some(link) = core.link.take() {
            self.linger(link);
        }
        self.abandon_dials(key, &mut core);
        if let Origin::Accepted { listener, session, .. } = &core.origin {
            if let Some(session) = session {
                listener.endpoint.forget(session, &core.shared);
            }
            listener.connections.fetch_sub(1, Ordering::AcqRel);
        }
        let unacknowledged = core.finish(self.now, &ended, unacknowledged);
        core.tell(Event::Closed(Closed { ended, unacknowledged }));
        core.release();
    }

    /// The context is being dropped: the connection drains like one that is closed.
    pub(in crate::runtime) fn stop_core(&mut self, key: CoreKey) {
        if let Some(core) = self.cores.get(key)
            && core.link.is_none()
            && core.born
        {
            // Nobody can come back to a listener that is closed, and nothing but words of farewell would be worth a dial.
            let waiting =
                core.engine.unacknowledged() > 0 || !core.shared.out().outgoing.is_empty();
            if !waiting || matches!(core.origin, Origin::Accepted { .. }) {
                return self.end_stopped(key);
            }
        }
        self.begin_close(key, CloseCode::GOING_AWAY.0, "the program is stopping");
        self.serve(key);
    }

    /// The time for draining is over.
    pub(in crate::runtime) fn end_stopped(&mut self, key: CoreKey) {
        if let Some(core) = self.cores.get_mut(key) {
            let unacknowledged = core.engine.abort();
            self.end(key, Ended::Stopped, unacknowledged);
        }
    }

    /// Tells an engine without acknowledgements of its own what TCP has acknowledged, when that is due. `last`: once more
    /// for a wire that is lost.
    fn poll_transport(&mut self, key: CoreKey, last: bool) {
        let now = self.now;
        let Some(core) = self.cores.get_mut(key) else { return };
        let Engine::Ftcp { engine, .. } = &mut core.engine else { return };
        if engine.unacknowledged().1 == 0 {
            core.counts.transport_due = None;
            core.counts.transport_wait = TRANSPORT_POLL;
            return;
        }
        let wait = core.counts.transport_wait;
        let due = *core.counts.transport_due.get_or_insert(now + wait) <= now;
        let Some(link_key) = core.link else { return };
        if !due && !last {
            return;
        }
        core.counts.transport_wait = (wait * 2).min(TRANSPORT_POLL);
        core.counts.transport_due = Some(now + core.counts.transport_wait);
        let Some(carrier) = self.links.get(link_key.0).map(|link| link.carrier) else { return };
        let Some(total) = self.carrier_acknowledged(carrier) else { return };
        let Some(link) = self.links.get_mut(link_key.0) else { return };
        let total = link.plaintext_acked(total);
        if let Some(core) = self.cores.get_mut(key)
            && let Engine::Ftcp { engine, .. } = &mut core.engine
        {
            engine.handle_transport_acked(now, total);
        }
    }

    /// A link that carries this connection from now on.
    pub(in crate::runtime) fn attach(&mut self, key: CoreKey, link_key: LinkKey) {
        let Some(core) = self.cores.get_mut(key) else { return };
        let Some(link) = self.links.get_mut(link_key.0) else { return };
        link.owner = Owner::Core(key);
        link.deadline = None;
        core.secured.clone_from(&link.state);
        {
            let mut shared = core.shared.link();
            shared.local = link.local;
            shared.peer = link.peer;
            shared.tls.clone_from(&link.state);
            #[cfg(feature = "bats")]
            {
                shared.flow = link.flow.as_ref().map(|(flow, _)| Arc::clone(flow));
            }
            #[cfg(feature = "websocket")]
            {
                shared.websocket = link.upgraded.take();
            }
        }
        if let Some(old) = core.link.replace(link_key) {
            self.linger(old);
        }
    }
}
