//! WebSocket on a link: through a proxy, over redirects, the handshake on both sides; then the framing around a
//! session's bytes, or an engine of its own for plain messages.
//!
//! Which of the two it is, the handshake decides: see [`crate::websocket`].

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use towline_proto::websocket::handshake::{
    Acceptance, ClientHandshake, ClientOptions, ClientOutcome, HandshakeError, Headers, Navigation,
    Opened, ProxyOutcome, ProxyTunnel, Refusal, Request, Response, ServerEvent, ServerHandshake,
    Target,
};
use towline_proto::websocket::{ChaChaEntropy, CloseCode, Connection, Event, Kind};

use crate::address::Address;
use crate::config::Options;
use crate::engine::{Engine, Outgoing, websocket};
use crate::error::WireError;
use crate::listener::ListenerShared;
use crate::websocket::{CONFIRMATION, CookieJar, Proxy, SUBPROTOCOL, SessionUse, Upgraded};

use super::core::Origin;
use super::dial::random_seed;
use super::link::{Link, LinkKey, Owner};
use super::{CoreKey, Runtime};

/// What of WebSocket lies over a link's bytes.
pub(super) enum Layer {
    /// Nothing, or an engine that does it itself.
    None,
    /// A proxy is asked for a tunnel; TLS comes behind it.
    Tunnel(Box<ProxyTunnel>),
    /// A client's handshake, and what it has to end in.
    Client(Box<ClientHandshake>, SessionUse),
    /// A server's handshake.
    Server(Box<ServerHandshake>),
    /// Open, for plain messages; a connection's engine is about to take it.
    Open(Box<Opened>),
    /// Open: binary messages carry a session's bytes.
    Carrier(Box<Connection>),
}

impl Layer {
    /// Waits for a client's request.
    pub(super) fn server(options: &Options, now: Instant) -> Layer {
        let server = Arc::clone(&options.websocket.server);
        Layer::Server(Box::new(ServerHandshake::new(server, now)))
    }

    pub(super) fn is_none(&self) -> bool {
        matches!(self, Layer::None)
    }

    /// Frames a session's bytes in place.
    pub(super) fn seal(&mut self, now: Instant, plaintext: &mut Vec<Bytes>) {
        let Layer::Carrier(connection) = self else { return };
        for data in plaintext.drain(..) {
            // Once closing has begun, nothing that a session says can be heard any more.
            connection.send(Kind::Binary, data).ok();
        }
        loop {
            match connection.poll_transmit(usize::MAX, plaintext) {
                0 => break,
                taken => connection.handle_written(now, taken).ok(),
            };
        }
    }

    pub(super) fn wants_write(&self) -> bool {
        matches!(self, Layer::Carrier(connection) if connection.queued() > 0)
    }
}

/// A client's way to its server.
pub(super) struct Way {
    navigation: Navigation,
    proxy: Option<Proxy>,
    target: Target,
}

impl Way {
    /// The way to an address, if it is a WebSocket's.
    pub(super) fn to(address: &Address, options: &Options) -> Option<Box<Way>> {
        if !address.wire().is_websocket() {
            return None;
        }
        let url = address.url();
        let (target, _) = Target::parse(&url).ok()?;
        let navigation = Navigation::new(&url, options.websocket.client.clone()).ok()?;
        // A factory finds its own way.
        let direct = options.factories.find(address).is_some();
        let proxy = options.websocket.proxy.clone().filter(|_| !direct);
        Some(Box::new(Way { navigation, proxy, target }))
    }

    /// What a factory is asked to open: the address itself, or where redirects led from there.
    pub(super) fn address(&self, first: &Address) -> Address {
        let target = self.navigation.target();
        if *target == self.target {
            return first.clone();
        }
        let wire = if target.secure { crate::Wire::Wss } else { crate::Wire::Ws };
        let path = target.path.as_str();
        Address::from_parts(wire, &target.host, target.port, path).with_factory_of(first)
    }

    /// To whom the socket is connected.
    pub(super) fn next_hop(&self) -> (String, u16) {
        match &self.proxy {
            Some(proxy) => (proxy.host.to_string(), proxy.port),
            None => (self.navigation.target().host.clone(), self.navigation.target().port),
        }
    }

    /// Whether there is TLS, and whose name the certificate must have.
    #[cfg(feature = "tls")]
    pub(super) fn security(&self, configured: Option<&str>) -> (bool, String) {
        let target = self.navigation.target();
        let name = configured.filter(|_| target.same_origin(&self.target));
        (target.secure, name.map_or_else(|| target.host.clone(), str::to_owned))
    }
}

impl Runtime {
    // ---- dialing ----

    /// Asks a proxy for a tunnel, where the configuration names one.
    pub(super) fn begin_tunnel(
        &mut self,
        key: LinkKey,
        core: CoreKey,
        address: usize,
    ) -> Result<bool, WireError> {
        let now = self.now;
        let Some((way, _)) = self.way(core, address) else { return Ok(false) };
        let Some(proxy) = &way.proxy else { return Ok(false) };
        let tunnel = ProxyTunnel::new(&proxy.options, way.navigation.target(), now);
        let mut tunnel = tunnel.map_err(|error| WireError::Upgrade(error.to_string().into()))?;
        tunnel.poll_transmit(&mut self.scratch.plaintext);
        self.write(key, false)?;
        if let Some(link) = self.links.get_mut(key.0) {
            link.layer = Layer::Tunnel(Box::new(tunnel));
        }
        Ok(true)
    }

    /// Begins the handshake if it is due; `true` while it is not over.
    pub(super) fn begin_upgrade(
        &mut self,
        key: LinkKey,
        core: CoreKey,
        address: usize,
    ) -> Result<bool, WireError> {
        let now = self.now;
        match self.links.get(key.0).map(|link| &link.layer) {
            Some(Layer::None) => {}
            Some(Layer::Open(_) | Layer::Carrier(_)) | None => return Ok(false),
            Some(_) => return Ok(true),
        }
        let jar = self.cookies(core);
        let Some((way, rule)) = self.way(core, address) else { return Ok(false) };
        let mut entropy = ChaChaEntropy::from_seed(random_seed());
        let handshake = way.navigation.handshake_with(&mut entropy, now, |options| {
            offer(options, rule);
            if let Some(jar) = jar {
                jar.add_to(&mut options.headers, way.navigation.target());
            }
        });
        let mut handshake =
            handshake.map_err(|error| WireError::Upgrade(error.to_string().into()))?;
        handshake.poll_transmit(&mut self.scratch.plaintext);
        self.write(key, false)?;
        if let Some(link) = self.links.get_mut(key.0) {
            link.layer = Layer::Client(Box::new(handshake), rule);
        }
        Ok(true)
    }

    /// The jar of a connection's configuration.
    fn cookies(&self, core: CoreKey) -> Option<CookieJar> {
        self.cores.get(core)?.shared.config.0.websocket.cookies.clone()
    }

    /// The way of a dial, and what its handshake has to end in: a connection that had a session needs one again, and so
    /// does one whose other addresses have nothing else.
    pub(super) fn way(&mut self, core: CoreKey, address: usize) -> Option<(&mut Way, SessionUse)> {
        let core = self.cores.get_mut(core)?;
        let Origin::Dialed(dialing) = &mut core.origin else { return None };
        let mixed = dialing.addresses().iter().any(|address| !address.wire().is_websocket());
        let rule = match (core.born || mixed, core.shared.config.0.websocket.session) {
            (true, _) => SessionUse::Require,
            (false, configured) => configured,
        };
        Some((dialing.way(address)?, rule))
    }

    /// The engine of a link whose handshake ended in plain messages.
    pub(super) fn take_opened(&mut self, key: LinkKey, core: CoreKey) -> Option<Engine> {
        let link = self.links.get_mut(key.0)?;
        if !matches!(link.layer, Layer::Open(_)) {
            return None;
        }
        let Layer::Open(opened) = std::mem::replace(&mut link.layer, Layer::None) else {
            return None;
        };
        let options = &self.cores.get(core)?.shared.config.0;
        Some(plain_engine(*opened, options, self.now))
    }

    // ---- bytes ----

    /// Takes bytes that are WebSocket's own, and gives back what is for the link's owner.
    pub(super) fn layer_input(&mut self, key: LinkKey, data: Bytes) -> Option<Bytes> {
        let now = self.now;
        let link = self.links.get_mut(key.0)?;
        match &mut link.layer {
            Layer::None => return Some(data),
            Layer::Tunnel(tunnel) => {
                tunnel.handle_input(now, own(data));
                if let Some(outcome) = tunnel.poll_outcome() {
                    self.tunneled(key, outcome);
                } else if tunnel.poll_transmit(&mut self.scratch.plaintext) > 0
                    && let Err(error) = self.write(key, false)
                {
                    self.link_failed(key, error);
                }
            }
            Layer::Client(handshake, rule) => {
                handshake.handle_input(now, own(data));
                let rule = *rule;
                if let Some(outcome) = handshake.poll_outcome() {
                    self.answered(key, rule, outcome);
                }
            }
            Layer::Server(handshake) => {
                handshake.handle_input(now, own(data));
                self.requested(key);
            }
            Layer::Open(opened) => opened.rest.unsplit(own(data)),
            Layer::Carrier(connection) => {
                connection.handle_input(now, own(data));
                self.carry(key);
            }
        }
        None
    }

    /// Hands a session's bytes on.
    pub(super) fn carry(&mut self, key: LinkKey) {
        loop {
            let Some(link) = self.links.get_mut(key.0) else { return };
            let Layer::Carrier(connection) = &mut link.layer else { return };
            let (kind, data) = match connection.poll_event() {
                None => break,
                Some(Event::Message(message)) => (message.kind, message.data),
                Some(Event::Part(part)) => (part.kind, part.data),
                Some(Event::CloseRequested(frame)) => {
                    let code = frame.code.unwrap_or(CloseCode::NO_STATUS).0;
                    let reason = frame.reason.into();
                    return self.carrier_over(key, WireError::WebSocketClosed { code, reason });
                }
                Some(Event::Closed(closed)) => {
                    let words: Arc<str> = closed.reason.into();
                    return self.carrier_over(key, WireError::Protocol(words));
                }
                Some(Event::ShutdownWrite) => {
                    // Only after a violation: a carrier's end is reported at once otherwise.
                    connection.handle_eof(self.now);
                    continue;
                }
                Some(Event::Pong(_) | Event::Writable) => continue,
            };
            connection.credit(data.len()).ok();
            if kind == Kind::Text {
                let code = CloseCode::UNSUPPORTED;
                connection.close(self.now, code, "a session is binary").ok();
                let words = "text in a session; its WebSocket was closed with code 1003".into();
                return self.carrier_over(key, WireError::Protocol(words));
            }
            if !data.is_empty() {
                self.take_plain(key, data);
            }
        }
        if let Some(link) = self.links.get_mut(key.0)
            && let Layer::Carrier(connection) = &mut link.layer
        {
            if let Some(buffer) = connection.reclaim() {
                self.driver.recycle_mut(buffer);
            }
            // A violation shows itself in the close frame that waits to be written.
            if !connection.is_open() && connection.queued() > 0 {
                self.write(key, false).ok();
                self.carry(key);
            }
        }
    }

    /// The WebSocket under a session is of no more use. Its last words still go out.
    fn carrier_over(&mut self, key: LinkKey, error: WireError) {
        let now = self.now;
        self.write(key, false).ok();
        match self.links.get(key.0).map(|link| &link.owner) {
            Some(Owner::Core(core)) => {
                let core = *core;
                if let Some(core) = self.cores.get_mut(core) {
                    core.engine.handle_lost(now);
                }
                self.wire_failed(core, error);
                self.serve(core);
            }
            Some(Owner::Accepting { listener, .. }) => {
                tracing::debug!(%error, "a peer failed in its handshake");
                let listener = Arc::clone(listener);
                self.handshake_over(&listener);
                self.linger(key);
            }
            _ => self.link_failed(key, error),
        }
    }

    /// Says goodbye on a WebSocket that nobody needs any more.
    pub(super) fn close_layer(&mut self, key: LinkKey) {
        let now = self.now;
        let Some(link) = self.links.get_mut(key.0) else { return };
        if let Layer::Carrier(connection) = &mut link.layer {
            connection.close(now, CloseCode::NORMAL, "").ok();
            self.scratch.plaintext.clear();
            self.write(key, false).ok();
        }
        if let Some(link) = self.links.get_mut(key.0) {
            link.layer = Layer::None;
        }
    }

    /// The peer sends no more; `None` when somebody here deals with it.
    pub(super) fn layer_ended(&mut self, key: LinkKey, error: WireError) -> Option<WireError> {
        let now = self.now;
        let link = self.links.get_mut(key.0)?;
        match (&mut link.layer, &link.owner) {
            (Layer::Tunnel(tunnel), _) => {
                tunnel.handle_eof(now);
                if let Some(outcome) = tunnel.poll_outcome() {
                    self.tunneled(key, outcome);
                    return None;
                }
            }
            (Layer::Client(handshake, rule), _) => {
                handshake.handle_eof(now);
                let rule = *rule;
                if let Some(outcome) = handshake.poll_outcome() {
                    self.answered(key, rule, outcome);
                    return None;
                }
            }
            (Layer::None, Owner::Core(core)) => {
                let core = *core;
                match self.cores.get_mut(core).map(|core| &mut core.engine) {
                    Some(Engine::WebSocket(engine)) => engine.handle_end(now, error),
                    _ => return Some(error),
                }
                self.serve(core);
                return None;
            }
            _ => {}
        }
        Some(error)
    }

    /// A client was too slow with its request: it is told so.
    pub(super) fn layer_timeout(&mut self, key: LinkKey) -> bool {
        let now = self.now;
        let Some(link) = self.links.get_mut(key.0) else { return false };
        let Layer::Server(handshake) = &mut link.layer else { return false };
        handshake.handle_timeout(now);
        self.requested(key);
        self.links.get(key.0).is_none_or(|link| !matches!(link.layer, Layer::Server(_)))
    }

    // ---- the client's handshake ----

    fn tunneled(&mut self, key: LinkKey, outcome: ProxyOutcome) {
        let Some(link) = self.links.get_mut(key.0) else { return };
        let Owner::Dial { core, address } = link.owner else { return };
        link.layer = Layer::None;
        match outcome {
            ProxyOutcome::Open(rest) => {
                self.dial_reached(key, core, address);
                if !rest.is_empty() {
                    self.input(key, rest);
                }
            }
            ProxyOutcome::Unauthorized(response) => self.link_failed(key, refused(&response)),
            ProxyOutcome::Failed(error) => self.link_failed(key, failed(&error)),
        }
    }

    fn answered(&mut self, key: LinkKey, rule: SessionUse, outcome: ClientOutcome) {
        let Some(link) = self.links.get(key.0) else { return };
        let Owner::Dial { core, address } = link.owner else { return };
        if let Layer::Client(handshake, _) = &link.layer
            && let (Some(response), Some(jar)) = (handshake.response(), self.cookies(core))
        {
            jar.store(handshake.target(), &response.headers);
        }
        let mut step = Ok(());
        match outcome {
            ClientOutcome::Open(opened) => return self.opened(key, core, address, rule, opened),
            ClientOutcome::Failed(error) => step = Err(failed(&error)),
            ClientOutcome::Redirect { target, .. } => {
                if let Some((way, _)) = self.way(core, address) {
                    step = way.navigation.follow(target).map_err(|error| failed(&error));
                }
            }
            ClientOutcome::Challenge(_) => {
                if let Some((way, _)) = self.way(core, address) {
                    way.navigation.authenticate();
                }
            }
        }
        if let Err(error) = step {
            return self.link_failed(key, error);
        }
        // Elsewhere, or once more: with a fresh socket.
        for link in self.dial_links(core, Some(address)) {
            self.close_link(link);
        }
        if let Some(core) = self.cores.get_mut(core)
            && let Origin::Dialed(dialing) = &mut core.origin
        {
            dialing.restart(address);
        }
        self.look_up(core, address);
        self.serve(core);
    }

    fn opened(
        &mut self,
        key: LinkKey,
        core: CoreKey,
        address: usize,
        rule: SessionUse,
        opened: Opened,
    ) {
        let Some((way, _)) = self.way(core, address) else { return };
        let target = way.navigation.target().path.clone();
        let headers = &opened.response.headers;
        let named = opened.subprotocol.as_deref() == Some(SUBPROTOCOL);
        let session = named && headers.first(CONFIRMATION).is_some();
        if rule == SessionUse::Require && !session {
            let words = "the server speaks no Towline session, which this connection needs";
            return self.link_failed(key, WireError::Upgrade(words.into()));
        }
        let Some(core) = self.cores.get(core) else { return };
        let options = &core.shared.config.0.websocket;
        if named && !session && options.client.require_subprotocol {
            let words = "the server chose none of the subprotocols (`websocket_subprotocols`)";
            return self.link_failed(key, WireError::Upgrade(words.into()));
        }
        let upgraded = Upgraded {
            // A server that repeats what it was asked for does not speak it.
            subprotocol: opened.subprotocol.clone().filter(|_| session || !named),
            target,
            headers: headers.clone(),
            compressed: opened.compression.is_some(),
        };
        let carrier = Arc::clone(&options.carrier);
        let now = self.now;
        let Some(link) = self.links.get_mut(key.0) else { return };
        link.upgraded = Some(Arc::new(upgraded));
        if !session {
            link.layer = Layer::Open(Box::new(opened));
            return;
        }
        let entropy = Box::new(ChaChaEntropy::from_seed(random_seed()));
        let connection = opened.into_connection(carrier, entropy, now);
        link.layer = Layer::Carrier(Box::new(connection));
    }

    // ---- the server's handshake ----

    /// Goes on with a client's request as far as it is there.
    fn requested(&mut self, key: LinkKey) {
        let stopping = self.stopping.is_some();
        let Some(link) = self.links.get_mut(key.0) else { return };
        let Owner::Accepting { listener, .. } = &link.owner else { return };
        let listener = Arc::clone(listener);
        let Layer::Server(handshake) = &mut link.layer else { return };
        let mut agreed = None;
        while let Some(event) = handshake.poll_event() {
            match event {
                ServerEvent::Request(request) => {
                    match answer(&listener, &request, stopping) {
                        Ok(acceptance) => {
                            // Ours is a valid acceptance of this request.
                            let opened = handshake.accept(acceptance).ok().flatten();
                            agreed = opened.map(|opened| (opened, request));
                        }
                        Err(refusal) => handshake.refuse(refusal),
                    }
                }
                ServerEvent::Failed(error) => {
                    tracing::debug!(%error, "a request for a WebSocket failed");
                    handshake.poll_transmit(&mut self.scratch.plaintext);
                    link.layer = Layer::None;
                    self.write(key, false).ok();
                    self.handshake_over(&listener);
                    return self.linger(key);
                }
            }
        }
        let Some((opened, request)) = agreed else { return };
        handshake.poll_transmit(&mut self.scratch.plaintext);
        link.layer = Layer::None;
        if let Err(error) = self.write(key, false) {
            return self.link_failed(key, error);
        }
        self.admit(key, &listener, opened, request);
    }

    fn admit(
        &mut self,
        key: LinkKey,
        listener: &Arc<ListenerShared>,
        opened: Opened,
        request: Request,
    ) {
        let now = self.now;
        let options = Arc::clone(&listener.endpoint.config.0);
        let session = opened.subprotocol.as_deref() == Some(SUBPROTOCOL);
        let upgraded = Upgraded {
            subprotocol: opened.subprotocol.clone(),
            target: match &request.query {
                Some(query) => format!("{}?{query}", request.path),
                None => request.path,
            },
            headers: request.headers,
            compressed: opened.compression.is_some(),
        };
        let Some(link) = self.links.get_mut(key.0) else { return };
        link.upgraded = Some(Arc::new(upgraded));
        if session {
            let entropy = Box::new(ChaChaEntropy::from_seed(random_seed()));
            let carrier = Arc::clone(&options.websocket.carrier);
            let connection = opened.into_connection(carrier, entropy, now);
            link.layer = Layer::Carrier(Box::new(connection));
            return self.carry(key);
        }
        let engine = plain_engine(opened, &options, now);
        self.admit_plain(key, listener, engine);
    }

    /// A connection for plain messages begins.
    pub(super) fn admit_plain(
        &mut self,
        key: LinkKey,
        listener: &Arc<ListenerShared>,
        engine: Engine,
    ) {
        let options = Arc::clone(&listener.endpoint.config.0);
        let shared = self.new_shared(listener);
        let limit = self.links.get(key.0).and_then(Link::max_message);
        shared.out().outgoing = Outgoing::messages(&options.plain, limit);
        if let Some(core) = self.new_connection(key, listener, shared, engine, None) {
            if let Some(core) = self.cores.get_mut(core) {
                let connected = core.describe(false);
                core.establish(connected);
            }
            self.serve(core);
        }
    }

    // ---- plain messages ----

    /// Another thread was faster with the last place: the peer has its WebSocket, and is told on it.
    pub(super) fn close_unserved(
        &mut self,
        key: LinkKey,
        listener: &Arc<ListenerShared>,
        engine: &mut websocket::Engine,
        code: u64,
        reason: &str,
    ) {
        engine.close(code, reason);
        engine.poll_transmit(self.now, usize::MAX, &mut self.scratch.plaintext);
        self.write(key, false).ok();
        self.handshake_over(listener);
        self.linger(key);
    }

    /// Bytes for an engine that takes the buffer, and gives it back when it is done with it.
    pub(super) fn websocket_input(&mut self, key: CoreKey, data: Bytes) {
        let now = self.now;
        let Some(core) = self.cores.get_mut(key) else { return };
        core.engine.handle_input(now, data);
        self.drain(key);
        if let Some(core) = self.cores.get_mut(key)
            && let Engine::WebSocket(engine) = &mut core.engine
            && let Some(buffer) = engine.reclaim()
        {
            self.driver.recycle_mut(buffer);
        }
    }

    /// The link of a plain WebSocket failed, which ends it. `false` for other connections.
    pub(super) fn websocket_lost(
        &mut self,
        key: CoreKey,
        link: LinkKey,
        error: &WireError,
    ) -> bool {
        let now = self.now;
        let Some(core) = self.cores.get_mut(key) else { return false };
        match &mut core.engine {
            Engine::WebSocket(engine) => engine.handle_failed(now, error.clone()),
            Engine::Messages(engine) => engine.handle_closed(Err(error.clone())),
            _ => return false,
        }
        core.link = None;
        self.close_link(link);
        self.serve(key);
        true
    }
}

/// The subprotocols of a request: the application's come first, because there are servers that choose the first.
fn offer(options: &mut ClientOptions, rule: SessionUse) {
    if rule == SessionUse::Require {
        options.subprotocols.clear();
        options.require_subprotocol = true;
    }
    if rule != SessionUse::Never {
        options.subprotocols.push(SUBPROTOCOL.to_owned());
    }
}

/// What a listener makes of a valid request.
fn answer(
    listener: &ListenerShared,
    request: &Request,
    stopping: bool,
) -> Result<Acceptance, Refusal> {
    let options = &listener.endpoint.config.0;
    // What is not the path of a WebSocket is the path to a factory's socket.
    if listener.given.factory().is_none() && request.path != listener.given.path() {
        return Err(Refusal::new(404, "there is no WebSocket at this path\n"));
    }
    let asked = request.subprotocols.iter().any(|name| name == SUBPROTOCOL);
    let session = asked && options.websocket.session != SessionUse::Never;
    // A session may be one that is served already, and is told later if it is not.
    let full = listener.connections.load(Ordering::Acquire) >= options.plain.max_connections;
    if stopping || (full && !session) {
        return Err(Refusal::new(503, "no more connections are served for now\n"));
    }
    let mut acceptance = Acceptance::default();
    if session {
        acceptance.subprotocol = Some(SUBPROTOCOL.to_owned());
        let mut headers = Headers::new();
        // A constant, and valid.
        headers.push(CONFIRMATION, "1").ok();
        acceptance.headers = headers;
    }
    Ok(acceptance)
}

pub(super) fn plain_engine(opened: Opened, options: &Options, now: Instant) -> Engine {
    let config = Arc::clone(&options.websocket.messages);
    let engine = websocket::Engine::new(opened, config, &options.plain, random_seed(), now);
    Engine::WebSocket(Box::new(engine))
}

/// Unmasking is in place where nobody else holds the buffer.
fn own(data: Bytes) -> BytesMut {
    data.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]))
}

/// How much of a refusal's body goes into an error.
const SAID: usize = 200;

fn refused(response: &Response) -> WireError {
    let body = String::from_utf8_lossy(&response.body);
    let line = body.lines().next().unwrap_or_default().trim();
    let words = if line.is_empty() || line.starts_with('<') { &response.reason } else { line };
    let words: String = words.chars().filter(|c| !c.is_control()).take(SAID).collect();
    WireError::Http { status: response.status, message: words.into() }
}

fn failed(error: &HandshakeError) -> WireError {
    match error {
        HandshakeError::Status(response) | HandshakeError::Unauthorized(response) => {
            refused(response)
        }
        HandshakeError::Ended => WireError::End,
        HandshakeError::Malformed => {
            WireError::Upgrade("the answer is not HTTP; is there a WebSocket server?".into())
        }
        HandshakeError::Subprotocol => WireError::Upgrade(
            "the server chose none of the subprotocols (`websocket_subprotocols`)".into(),
        ),
        error => WireError::Upgrade(error.to_string().into()),
    }
}
