//! Links: one carrier each, perhaps with TLS over it, and to whom it belongs at the moment.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use towline_io::Received;
use towline_proto::session::Handshake;

use crate::error::WireError;
use crate::listener::ListenerShared;
use crate::tls::TlsState;

use super::accept::{Moved, Resume};
use super::carrier::Carrier;
#[cfg(feature = "websocket")]
use super::upgrade::Layer;
use super::{CoreKey, Runtime, Timed};

/// A link's place in its thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LinkKey(pub(super) usize);

/// To whom a link belongs.
pub(super) enum Owner {
    /// A dial of this connection to the address of this index.
    Dial { core: CoreKey, address: usize },
    /// A peer that has not said yet who it is.
    Accepting { listener: Arc<ListenerShared>, handshake: Handshake },
    /// A connection, whose present link it is.
    Core(CoreKey),
    /// Nobody: its last words are on their way.
    Lingering,
    /// On its way to the thread where its session lives.
    Leaving(Option<Box<Resume>>),
    /// Nobody: closed, and the carrier has yet to say so.
    Closing,
}

/// A stream of bytes both ways, with what lies over it.
pub(super) struct Link {
    pub(super) carrier: Carrier,
    pub(super) owner: Owner,
    #[cfg(feature = "tls")]
    pub(super) tls: Option<Box<towline_proto::tls::Stream>>,
    pub(super) state: Option<TlsState>,
    /// WebSocket: its handshake, or the framing around a session's bytes.
    #[cfg(feature = "websocket")]
    pub(super) layer: Layer,
    /// What the handshake agreed on, for the connection that gets this link.
    #[cfg(feature = "websocket")]
    pub(super) upgraded: Option<Arc<crate::websocket::Upgraded>>,
    /// The flow under it, if there is one, and the longest message that it takes.
    #[cfg(feature = "bats")]
    pub(super) flow: Option<(Arc<crate::bats::Carried>, usize)>,
    pub(super) local: Option<SocketAddr>,
    pub(super) peer: Option<SocketAddr>,
    pub(super) deadline: Option<Instant>,
    pub(super) receiving: bool,
    /// A reported send is outstanding: its completion asks for more.
    pub(super) sending: bool,
    /// Plain bytes handed to the kernel, for wires whose transport's acknowledgements count.
    pub(super) given: u64,
}

/// How long a link may take for its last words.
pub(super) const LINGER: Duration = Duration::from_secs(2);

/// How many bytes a peer may still send to a link that only lingers.
const LINGER_INPUT: u64 = 16 << 20;

impl Link {
    pub(super) fn new(carrier: Carrier, owner: Owner) -> Link {
        Link {
            carrier,
            owner,
            #[cfg(feature = "tls")]
            tls: None,
            state: None,
            #[cfg(feature = "websocket")]
            layer: Layer::None,
            #[cfg(feature = "websocket")]
            upgraded: None,
            #[cfg(feature = "bats")]
            flow: None,
            local: None,
            peer: None,
            deadline: None,
            receiving: false,
            sending: false,
            given: 0,
        }
    }

    /// The longest message, where that is the wire's to say.
    #[cfg(feature = "websocket")]
    pub(super) fn max_message(&self) -> Option<usize> {
        #[cfg(feature = "bats")]
        if let Some((_, limit)) = &self.flow {
            return Some(*limit);
        }
        None
    }

    /// Whether a stopping thread should wait for it.
    pub(super) fn has_last_words(&self) -> bool {
        matches!(self.owner, Owner::Lingering | Owner::Leaving(_))
    }

    /// Whether the handshake of TLS, if there is TLS, is behind it.
    pub(super) fn is_secured(&self) -> bool {
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            return !tls.is_handshaking();
        }
        true
    }

    /// What came from the carrier, turned into what the engine is to see.
    fn open(&mut self, input: BytesMut, out: &mut Vec<Bytes>) -> Result<(), WireError> {
        #[cfg(feature = "tls")]
        if let Some(tls) = &mut self.tls {
            let result = tls.handle_input(input, out);
            while let Some(event) = tls.poll_event() {
                if let towline_proto::tls::Event::HandshakeDone(state) = event {
                    self.state = Some(state);
                }
            }
            return result.map_err(|error| WireError::Tls(Arc::new(error)));
        }
        out.push(input.freeze());
        Ok(())
    }

    /// The connection to which TLS opens without anything in between.
    #[cfg(feature = "tls")]
    fn opens_directly(&self) -> Option<CoreKey> {
        #[cfg(feature = "websocket")]
        if !self.layer.is_none() {
            return None;
        }
        match self.owner {
            // QUIC links have a state, but TLS inside.
            Owner::Core(core) if self.tls.is_some() && self.state.is_some() => Some(core),
            _ => None,
        }
    }

    /// Whether the engine sees the carrier's bytes as they are, and may name where they go.
    pub(super) fn takes_direct(&self) -> bool {
        self.is_plain() && self.carrier.takes_direct()
    }

    /// Whether the owner sees the carrier's bytes as they are.
    fn is_plain(&self) -> bool {
        #[cfg(feature = "websocket")]
        if !self.layer.is_none() {
            return false;
        }
        #[cfg(feature = "tls")]
        if self.tls.is_some() {
            return false;
        }
        true
    }

    /// What the engine wrote, turned into what the carrier is to send.
    fn seal(
        &mut self,
        now: Instant,
        plaintext: &mut Vec<Bytes>,
        out: &mut Vec<Bytes>,
    ) -> Result<(), WireError> {
        #[cfg(feature = "websocket")]
        self.layer.seal(now, plaintext);
        #[cfg(not(feature = "websocket"))]
        let _ = now;
        #[cfg(feature = "tls")]
        if let Some(tls) = &mut self.tls {
            let result = match plaintext.is_empty() {
                true => Ok(()),
                false => tls.seal(plaintext),
            };
            plaintext.clear();
            tls.poll_transmit(out);
            return result.map_err(|error| WireError::Tls(Arc::new(error)));
        }
        out.append(plaintext);
        Ok(())
    }

    /// What an end of the stream means here.
    fn end(&mut self) -> WireError {
        #[cfg(feature = "tls")]
        if let Some(tls) = &mut self.tls
            && tls.is_handshaking()
            && let Err(error) = tls.handle_end()
        {
            return WireError::Tls(Arc::new(error));
        }
        WireError::End
    }

    /// How many plain bytes the peer's TCP has acknowledged when it has acknowledged this many of what was sent.
    pub(super) fn plaintext_acked(&mut self, acknowledged: u64) -> u64 {
        #[cfg(feature = "tls")]
        if let Some(tls) = &mut self.tls {
            return tls.plaintext_acked(acknowledged);
        }
        acknowledged
    }

    fn wants_write(&self) -> bool {
        #[cfg(feature = "websocket")]
        if self.layer.wants_write() {
            return true;
        }
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            return tls.wants_write();
        }
        false
    }
}

impl Runtime {
    /// Starts a receive unless one is outstanding.
    pub(super) fn receive(&mut self, key: LinkKey, direct: Option<(BytesMut, usize)>) {
        let Some(link) = self.links.get_mut(key.0) else { return };
        if link.receiving {
            return;
        }
        link.receiving = true;
        let carrier = link.carrier;
        if !self.carrier_receive(carrier, direct)
            && let Some(link) = self.links.get_mut(key.0)
        {
            link.receiving = false;
        }
    }

    /// Writes the plaintext in the scratch buffer, sealed if need be. With `report`, a completion says when it is gone.
    pub(super) fn write(&mut self, key: LinkKey, report: bool) -> Result<(), WireError> {
        let Some(link) = self.links.get_mut(key.0) else { return Ok(()) };
        let scratch = &mut self.scratch;
        link.given += scratch.plaintext.iter().map(|bytes| bytes.len() as u64).sum::<u64>();
        let sealed = link.seal(self.now, &mut scratch.plaintext, &mut scratch.wire);
        if !scratch.wire.is_empty() {
            link.sending |= report;
            let carrier = link.carrier;
            if !self.carrier_send(carrier, report) {
                return Err(WireError::End);
            }
        }
        sealed
    }

    pub(super) fn received(&mut self, key: LinkKey, received: Received) {
        let Some(link) = self.links.get_mut(key.0) else { return };
        link.receiving = false;
        if matches!(link.owner, Owner::Lingering) {
            return self.linger_input(key, received);
        }
        let owner = match link.owner {
            Owner::Core(core) => Some(core),
            _ => None,
        };
        if let Some(core) = owner.and_then(|core| self.cores.get_mut(core))
            && let Some(direct) = received.direct
        {
            core.take_direct(self.now, direct, received.direct_len);
        }
        // Input for an engine ends in its being drained.
        let drained = owner.is_some() && !received.pooled.is_empty();
        if received.pooled.is_empty() {
            self.driver.recycle_mut(received.pooled);
        } else {
            self.input(key, received.pooled);
        }
        if received.end {
            self.link_ended(key);
        } else {
            self.proceed(key, drained);
        }
        // What came in may have ended the wire: its connection has been looked into, but not looked after.
        let kept = self.links.get(key.0).is_some_and(|link| matches!(link.owner, Owner::Core(_)));
        if let Some(core) = owner.filter(|_| !kept) {
            self.serve(core);
        }
    }

    /// Bytes from the carrier go through TLS to whoever owns the link.
    pub(super) fn input(&mut self, key: LinkKey, input: BytesMut) {
        let Some(link) = self.links.get_mut(key.0) else { return };
        #[cfg(feature = "tls")]
        if let Some(core) = link.opens_directly() {
            return self.input_sealed(key, core, input);
        }
        if link.is_plain() {
            return self.take_plain(key, input.freeze());
        }
        let mut plaintext = std::mem::take(&mut self.scratch.plaintext);
        let opened = link.open(input, &mut plaintext);
        for data in plaintext.drain(..) {
            self.take_in(key, data);
        }
        self.scratch.plaintext = plaintext;
        if let Err(error) = opened {
            // The alert that tells the peer.
            self.write(key, false).ok();
            self.link_failed(key, error);
        }
    }

    /// Sealed bytes for a connection, record by record, so that each part of a long message goes where it belongs.
    #[cfg(feature = "tls")]
    fn input_sealed(&mut self, key: LinkKey, core_key: CoreKey, input: BytesMut) {
        let mut plaintext = std::mem::take(&mut self.scratch.plaintext);
        let mut input = Some(input);
        let opened = loop {
            let Some(core) = self.cores.get_mut(core_key) else { break Ok(()) };
            let Some(link) = self.links.get_mut(key.0) else { break Ok(()) };
            // What comes in may end the wire; what is left is of no use to anybody then.
            let (Some(_), Some(tls)) = (link.opens_directly(), &mut link.tls) else { break Ok(()) };
            if let Some(Err(error)) = input.take().map(|input| tls.push_input(input)) {
                break Err(error);
            }
            let mut direct = core.engine.direct();
            let lent = direct.as_ref().map_or(0, |direct| direct.buffer.len());
            let target = direct.as_mut().map(|direct| (&mut direct.buffer, direct.want));
            let opened = tls.open_next(target, &mut plaintext);
            if let Some(direct) = direct {
                let length = direct.buffer.len() - lent;
                core.take_direct(self.now, direct.buffer, length);
                self.drain(core_key);
            }
            for data in plaintext.drain(..) {
                self.engine_input(core_key, data);
            }
            match opened {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        self.scratch.plaintext = plaintext;
        if let Err(error) = opened {
            // The alert that tells the peer.
            self.write(key, false).ok();
            self.link_failed(key, WireError::Tls(Arc::new(error)));
        }
    }

    fn take_in(&mut self, key: LinkKey, data: Bytes) {
        #[cfg(feature = "websocket")]
        let Some(data) = self.layer_input(key, data) else { return };
        self.take_plain(key, data);
    }

    /// Bytes for whoever owns the link.
    pub(super) fn take_plain(&mut self, key: LinkKey, data: Bytes) {
        let Some(link) = self.links.get_mut(key.0) else { return };
        match &mut link.owner {
            Owner::Core(core) => {
                let core = *core;
                self.engine_input(core, data);
            }
            Owner::Accepting { .. } => self.greeting(key, data),
            Owner::Leaving(Some(resume)) => resume.push(data),
            _ => {}
        }
    }

    /// Something came in on a link: its owner goes on, perhaps [`drained`](Runtime::serve_from).
    fn proceed(&mut self, key: LinkKey, drained: bool) {
        let Some(link) = self.links.get(key.0) else { return };
        if matches!(link.owner, Owner::Leaving(_) | Owner::Closing) {
            // What TLS still has to say, such as tickets, goes with it to the other thread.
            return;
        }
        let writes = link.wants_write();
        let secured = link.is_secured();
        if writes && let Err(error) = self.write(key, false) {
            return self.link_failed(key, error);
        }
        let Some(link) = self.links.get(key.0) else { return };
        match link.owner {
            Owner::Core(core) => self.serve_from(core, drained),
            Owner::Dial { core, address } if secured => self.dial_secured(key, core, address),
            Owner::Accepting { .. } if secured => self.accept_secured(key),
            Owner::Dial { .. } | Owner::Accepting { .. } | Owner::Lingering => {
                self.receive(key, None);
            }
            Owner::Leaving(_) | Owner::Closing => {}
        }
    }

    pub(super) fn receive_failed(&mut self, key: LinkKey, error: std::io::Error) {
        if let Some(link) = self.links.get_mut(key.0) {
            link.receiving = false;
            // Cancelled for leaving or closing, which is not a failure.
            if !matches!(link.owner, Owner::Leaving(_) | Owner::Closing) {
                self.link_failed(key, error.into());
            }
        }
    }

    /// The peer will send no more.
    fn link_ended(&mut self, key: LinkKey) {
        if let Some(link) = self.links.get_mut(key.0) {
            let error = link.end();
            #[cfg(feature = "websocket")]
            let Some(error) = self.layer_ended(key, error) else { return };
            self.link_failed(key, error);
        }
    }

    pub(super) fn sent(&mut self, key: LinkKey) {
        let Some(link) = self.links.get_mut(key.0) else { return };
        link.sending = false;
        if let Owner::Core(core) = link.owner {
            self.serve(core);
        }
    }

    /// The link is of no more use: it closes, and its owner is told.
    pub(super) fn link_failed(&mut self, key: LinkKey, error: WireError) {
        let Some(link) = self.links.get_mut(key.0) else { return };
        match std::mem::replace(&mut link.owner, Owner::Closing) {
            Owner::Core(core) => {
                link.owner = Owner::Core(core);
                self.wire_lost(core, key, error);
            }
            Owner::Dial { core, address } => {
                self.close_link(key);
                self.dial_failed(core, address, error);
            }
            Owner::Accepting { listener, .. } => {
                tracing::debug!(%error, "a peer failed in its handshake");
                match error {
                    // TLS has an alert to send, which tells the peer why.
                    WireError::Tls(_) => self.linger(key),
                    _ => self.close_link(key),
                }
                self.handshake_over(&listener);
            }
            Owner::Leaving(resume) => {
                self.close_link(key);
                if let Some(resume) = resume {
                    self.handshake_over(resume.listener());
                }
            }
            Owner::Lingering => self.close_link(key),
            Owner::Closing => {}
        }
    }

    /// Closes the carrier now. The place is free when the carrier says that it is closed.
    pub(super) fn close_link(&mut self, key: LinkKey) {
        if let Some(link) = self.links.get_mut(key.0) {
            link.owner = Owner::Closing;
            let carrier = link.carrier;
            self.carrier_close(carrier);
        }
    }

    pub(super) fn link_closed(&mut self, key: LinkKey) {
        self.links.try_remove(key.0);
    }

    /// Lets the last words out: what is queued is sent, then the end of the stream, and the carrier closes when the
    /// peer has closed too or the time is over. Closing at once could destroy words that the peer has not read.
    pub(super) fn linger(&mut self, key: LinkKey) {
        #[cfg(feature = "websocket")]
        self.close_layer(key);
        let Some(link) = self.links.get_mut(key.0) else { return };
        #[cfg(feature = "tls")]
        if let Some(tls) = &mut link.tls {
            tls.close();
        }
        link.owner = Owner::Lingering;
        link.given = 0;
        let deadline = self.now + LINGER;
        link.deadline = Some(deadline);
        let carrier = link.carrier;
        self.scratch.plaintext.clear();
        if self.write(key, false).is_err() {
            return self.close_link(key);
        }
        self.carrier_finish(carrier);
        self.arm(deadline, Timed::Link(key));
        self.receive(key, None);
    }

    fn linger_input(&mut self, key: LinkKey, received: Received) {
        let Some(link) = self.links.get_mut(key.0) else { return };
        link.given += received.len() as u64;
        let over = received.end || link.given > LINGER_INPUT;
        self.driver.recycle_mut(received.pooled);
        match over {
            true => self.close_link(key),
            false => self.receive(key, None),
        }
    }

    pub(super) fn link_timeout(&mut self, key: LinkKey, at: Instant) {
        let Some(link) = self.links.get_mut(key.0) else { return };
        if link.deadline != Some(at) {
            return;
        }
        link.deadline = None;
        #[cfg(feature = "websocket")]
        if self.layer_timeout(key) {
            return;
        }
        let Some(link) = self.links.get_mut(key.0) else { return };
        match link.owner {
            Owner::Lingering => self.close_link(key),
            Owner::Accepting { .. } | Owner::Dial { .. } => {
                let after = self.link_patience(key);
                self.link_failed(key, WireError::TimedOut(after));
            }
            _ => {}
        }
    }

    fn link_patience(&self, key: LinkKey) -> Duration {
        match self.links.get(key.0).map(|link| &link.owner) {
            Some(Owner::Accepting { listener, .. }) => {
                listener.endpoint.config.0.plain.connect_timeout
            }
            Some(Owner::Dial { core, .. }) => self
                .cores
                .get(*core)
                .map_or(Duration::ZERO, |core| core.shared.config.0.plain.connect_timeout),
            _ => Duration::ZERO,
        }
    }

    /// The carrier has left this thread: it goes to the thread of its session.
    pub(super) fn detached(&mut self, key: LinkKey, carrier: Moved) {
        let Some(link) = self.links.try_remove(key.0) else { return };
        if let Owner::Leaving(Some(mut resume)) = link.owner {
            resume.carrier = Some(carrier);
            #[cfg(feature = "tls")]
            {
                resume.tls = link.tls;
            }
            resume.state = link.state;
            #[cfg(feature = "websocket")]
            {
                resume.layer = link.layer;
                resume.upgraded = link.upgraded;
            }
            self.forward(resume);
        }
    }
}
