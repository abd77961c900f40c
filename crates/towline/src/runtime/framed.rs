//! Factories that frame WebSocket's messages themselves, or leave the frames to us and did the handshake.

use std::sync::Arc;

use bytes::BytesMut;
use towline_proto::websocket::handshake::{Headers, Opened, Response};
use towline_proto::websocket::{ChaChaEntropy, Role};

use crate::address::Wire;
use crate::engine::websocket::wire_code;
use crate::engine::{Engine, messages};
use crate::error::WireError;
use crate::listener::ListenerShared;
use crate::socket_factory::{Arrival, Framing, SocketShared};
use crate::websocket::{CONFIRMATION, SUBPROTOCOL, SessionUse, Upgraded};

use super::carrier::Carrier;
use super::core::Core;
use super::dial::random_seed;
use super::link::{LinkKey, Owner};
use super::upgrade::{Layer, plain_engine};
use super::{CoreKey, Runtime};

impl Runtime {
    /// A socket with a framing of its own is open.
    pub(super) fn framed_opened(&mut self, key: LinkKey, shared: &Arc<SocketShared>) {
        let response = shared.life().response.clone().unwrap_or_default();
        let mut headers = Headers::new();
        for (name, value) in response.headers {
            // One that HTTP could not carry is not worth a connection.
            headers.push(name, value).ok();
        }
        if response.status != 0 && response.status != 101 {
            let error = WireError::Http { status: response.status, message: "".into() };
            return self.link_failed(key, error);
        }
        let Some(link) = self.links.get_mut(key.0) else { return };
        let subprotocol = headers.first("sec-websocket-protocol").map(str::to_owned);
        let named = subprotocol.as_deref() == Some(SUBPROTOCOL);
        let session = named && headers.first(CONFIRMATION).is_some();
        link.upgraded = Some(Arc::new(Upgraded {
            subprotocol: subprotocol.clone().filter(|_| session || !named),
            target: "/".to_owned(),
            headers: headers.clone(),
            compressed: false,
        }));
        let opened = match shared.framing() {
            Framing::None => None,
            framing => Some(Opened {
                role: match framing {
                    Framing::WebSocketServer => Role::Server,
                    _ => Role::Client,
                },
                subprotocol,
                compression: None,
                response: Response {
                    status: 101,
                    reason: String::new(),
                    headers,
                    body: Default::default(),
                },
                rest: BytesMut::new(),
            }),
        };
        match &link.owner {
            Owner::Dial { core, address } => {
                let (core, address) = (*core, *address);
                self.framed_dialed(key, core, address, shared, opened, session);
            }
            Owner::Accepting { listener, .. } => {
                let listener = Arc::clone(listener);
                self.framed_accepted(key, &listener, shared, opened, session);
            }
            _ => {}
        }
    }

    /// A socket whose messages are datagrams is open.
    #[cfg(feature = "bats")]
    pub(super) fn datagrams_opened(
        &mut self,
        key: LinkKey,
        shared: &Arc<SocketShared>,
        wire: Wire,
    ) {
        shared.watch();
        let Some(link) = self.links.get(key.0) else { return };
        match &link.owner {
            Owner::Dial { core, address } => {
                let (core, address) = (*core, *address);
                let engine = self.cores.get(core).map(|core| messages_engine(core, wire));
                self.link_up(key, core, address, engine);
            }
            Owner::Accepting { listener, .. } => {
                let listener = Arc::clone(listener);
                let options = &listener.endpoint.config.0.plain;
                let engine = Engine::Messages(Box::new(messages::Engine::new(options, wire)));
                self.admit_plain(key, &listener, engine);
            }
            _ => {}
        }
    }

    fn framed_dialed(
        &mut self,
        key: LinkKey,
        core: CoreKey,
        address: usize,
        shared: &Arc<SocketShared>,
        opened: Option<Opened>,
        session: bool,
    ) {
        let rule = self.way(core, address).map(|(_, rule)| rule);
        if rule == Some(SessionUse::Require) && !session {
            let words = "the server speaks no Towline session, which this connection needs";
            return self.link_failed(key, WireError::Upgrade(words.into()));
        }
        let plain = match opened {
            None if session => return self.link_up(key, core, address, None),
            None => {
                shared.watch();
                self.cores.get(core).map(|core| messages_engine(core, Wire::Ws))
            }
            Some(opened) if session => {
                self.carry_over(key, opened, core_config(self.cores.get(core)));
                None
            }
            Some(opened) => {
                let options = self.cores.get(core).map(|core| Arc::clone(&core.shared.config.0));
                options.map(|options| plain_engine(opened, &options, self.now))
            }
        };
        self.link_up(key, core, address, plain);
        self.carry(key);
    }

    fn framed_accepted(
        &mut self,
        key: LinkKey,
        listener: &Arc<ListenerShared>,
        shared: &Arc<SocketShared>,
        opened: Option<Opened>,
        session: bool,
    ) {
        let options = Arc::clone(&listener.endpoint.config.0);
        if options.websocket.session == SessionUse::Require && !session {
            let words = "the client speaks no Towline session, which this listener needs";
            return self.link_failed(key, WireError::Upgrade(words.into()));
        }
        let engine = match opened {
            None if session => return self.accept_secured(key),
            Some(opened) if session => {
                self.carry_over(key, opened, Some(Arc::clone(&options.websocket.carrier)));
                return self.receive(key, None);
            }
            None => {
                shared.watch();
                Engine::Messages(Box::new(messages::Engine::new(&options.plain, Wire::Ws)))
            }
            Some(opened) => plain_engine(opened, &options, self.now),
        };
        self.admit_plain(key, listener, engine);
    }

    fn carry_over(
        &mut self,
        key: LinkKey,
        opened: Opened,
        config: Option<Arc<towline_proto::websocket::Config>>,
    ) {
        let (Some(link), Some(config)) = (self.links.get_mut(key.0), config) else { return };
        let entropy = Box::new(ChaChaEntropy::from_seed(random_seed()));
        let connection = opened.into_connection(config, entropy, self.now);
        link.layer = Layer::Carrier(Box::new(connection));
    }

    /// Hands a message to an engine that takes whole ones; gives back what is for other engines.
    pub(super) fn message_arrived(&mut self, key: LinkKey, arrival: Arrival) -> Option<Arrival> {
        let (core, _) = match self.messages_engine(key) {
            Some(found) => found,
            None => return Some(arrival),
        };
        if let Some(link) = self.links.get_mut(key.0) {
            link.receiving = false;
        }
        if let Some(core) = self.cores.get_mut(core) {
            core.count_received(arrival.len());
        }
        let (_, engine) = self.messages_engine(key)?;
        match arrival {
            Arrival::Data(data) => engine.handle_message(data, false),
            Arrival::Text(data) => engine.handle_message(data, true),
            Arrival::CloseRequested { status, message } => {
                engine.handle_close_requested(status, &message);
            }
            Arrival::End => engine.handle_closed(Ok(())),
        }
        self.serve(core);
        None
    }

    /// The socket under an engine of whole messages is closed. `false` for other engines.
    pub(super) fn messages_over(&mut self, key: LinkKey, how: &Result<(), WireError>) -> bool {
        let Some((core, engine)) = self.messages_engine(key) else { return false };
        engine.handle_closed(how.clone());
        if let Some(core) = self.cores.get_mut(core) {
            core.link = None;
        }
        self.close_link(key);
        self.serve(core);
        true
    }

    pub(super) fn messages_completed(&mut self, key: LinkKey, bytes: u64) {
        let Some((core, engine)) = self.messages_engine(key) else { return };
        engine.handle_completed(bytes);
        self.serve(core);
    }

    fn messages_engine(&mut self, key: LinkKey) -> Option<(CoreKey, &mut messages::Engine)> {
        let Owner::Core(core) = self.links.get(key.0)?.owner else { return None };
        match &mut self.cores.get_mut(core)?.engine {
            Engine::Messages(engine) => Some((core, engine)),
            _ => None,
        }
    }

    /// Another thread was faster with the last place: the peer is told in its WebSocket's own words.
    pub(super) fn turn_away_messages(
        &mut self,
        key: LinkKey,
        listener: &Arc<ListenerShared>,
        code: u64,
        reason: &str,
    ) -> Option<CoreKey> {
        if let Some(Carrier::Factory { slot, id }) = self.links.get(key.0).map(|link| link.carrier)
        {
            self.socket_finish(slot, id, wire_code(code).0, reason);
        }
        self.handshake_over(listener);
        self.linger(key);
        None
    }

    /// Hands messages to a carrier that frames them, one by one.
    pub(super) fn transmit_messages(&mut self, key: CoreKey, link: LinkKey) {
        let Some(Carrier::Factory { slot, id }) = self.links.get(link.0).map(|link| link.carrier)
        else {
            return;
        };
        let Some(shared) = self.socket(slot, id).map(|socket| Arc::clone(&socket.shared)) else {
            return;
        };
        let mut close = None;
        if let Some(core) = self.cores.get_mut(key)
            && let Engine::Messages(engine) = &mut core.engine
        {
            while shared.unwritten() < engine.in_carrier()
                && let Some((data, text)) = engine.poll_message()
            {
                core.shared.traffic.bytes_sent.add(data.len() as u64);
                shared.write(data, text);
            }
            engine.handle_completed(shared.completed());
            close = engine.poll_close();
        }
        if let Some((status, message)) = close {
            self.socket_finish(slot, id, status, &message);
        }
    }
}

fn messages_engine(core: &Core, wire: Wire) -> Engine {
    Engine::Messages(Box::new(messages::Engine::new(&core.shared.config.0.plain, wire)))
}

fn core_config(core: Option<&Core>) -> Option<Arc<towline_proto::websocket::Config>> {
    core.map(|core| Arc::clone(&core.shared.config.0.websocket.carrier))
}
