//! `bats://` and `udp://`: flows of packets as socket factories of our own.
//!
//! A flow lives on the I/O thread that has its UDP socket ([`crate::runtime`], module `bats`); the link that it carries may live on another. What
//! the two share is a [`Carried`]: what is to be sent goes into it, and the flow's thread is told once.

use std::collections::VecDeque;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use towline_proto::bats::congestion::Control;
use towline_proto::bats::endpoint::{ConnectConfig, HopAddress, ListenConfig};
use towline_proto::bats::flow::{self, FlowConfig, FlowStats};
use towline_proto::bats::quic_hop::{ALPN, HopConfig};

use crate::address::{Address, Wire};
use crate::config::Config;
use crate::context::{Thread, lightest};
use crate::error::{ListenError, WireError};
use crate::listener::Attacher;
use crate::quic;
use crate::runtime::{BatsCommand, BatsEngine, Command, bind_listeners};
use crate::socket_factory::{FactorySocket, Framing, OpenOptions, RECEIVE_WINDOW, SocketFactory};
use crate::tls::TlsState;

use super::{FlowError, Options};

/// The place of a flow that has none yet, or none any more.
pub(crate) const NOWHERE: usize = usize::MAX;

/// How much longer flows may take to begin than the connections over them.
const MORE: Duration = Duration::from_secs(1);

/// Configurations of clients that are kept for the next dial.
const MAX_CLIENTS: usize = 16;

/// Flows for the connections of one configuration, of streams or of messages.
pub(crate) struct BatsWire {
    threads: Arc<[Arc<Thread>]>,
    config: Config,
    messages: bool,
    /// What clients' hops are made of, for each congestion control: clients that share it resume each other's TLS sessions.
    clients: Mutex<Vec<(Control, quic::ClientConfig)>>,
}

impl BatsWire {
    pub(crate) fn new(threads: Arc<[Arc<Thread>]>, config: Config, messages: bool) -> BatsWire {
        BatsWire { threads, config, messages, clients: Mutex::default() }
    }

    /// Whether it is this configuration's, and moves what this wire moves.
    pub(crate) fn is_for(&self, config: &Config, wire: Wire) -> bool {
        Arc::ptr_eq(&self.config.0, &config.0) && self.messages == wire.moves_messages()
    }

    /// Hops last as long as sessions believe in their peers, and may take a little longer to begin than connections: those say better what took too long.
    fn hop(&self, control: Control) -> quic::Options {
        let plain = &self.config.0.plain;
        let hop = HopConfig {
            control,
            idle_timeout: plain.silence_limit,
            disconnect_timeout: plain.silence_limit,
            ..HopConfig::default()
        };
        quic::Options { handshake_idle_timeout: plain.connect_timeout + MORE, ..hop.options() }
    }

    fn flow(&self, flow: FlowConfig) -> FlowConfig {
        let plain = &self.config.0.plain;
        FlowConfig {
            max_message: plain.max_message,
            // Before the socket's own time for closing is over.
            close_timeout: crate::socket_factory::CLOSE_BUDGET * 4 / 5,
            ..flow
        }
    }

    fn client(&self, control: Control) -> Result<quic::ClientConfig, WireError> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, client)) = clients.iter().find(|(of, _)| *of == control) {
            return Ok(client.clone());
        }
        let tls = self.config.tls_client().map_err(WireError::Tls)?;
        let options = self.hop(control);
        let client = quic::ClientConfig::from_tls(tls, [Bytes::from_static(ALPN)], options)
            .map_err(|error| FlowError::Config(error.into()))?;
        if clients.len() == MAX_CLIENTS {
            clients.remove(0);
        }
        clients.push((control, client.clone()));
        Ok(client)
    }

    /// What an address asks for.
    fn target(&self, address: &Address) -> Result<Target, WireError> {
        let to = HopAddress::new(address.host(), address.port())
            .map_err(|error| FlowError::Connect(error.into()))?;
        if address.wire() == Wire::Udp {
            return Ok(Target::Plain { to });
        }
        let Options { flow, via, control } = Options::of(address);
        let config = ConnectConfig::with_tls(self.client(control)?, self.flow(flow))
            .map_err(FlowError::Config)?;
        let seal = self.config.tls_client().map_err(WireError::Tls)?.clone();
        let plain = &self.config.0.plain;
        let mut config = config.seal(seal).connect_timeout(plain.connect_timeout + MORE);
        if let Some(name) = &plain.server_name {
            config = config.target_name(&**name);
        }
        let path = via.into_iter().chain([to]).collect();
        Ok(Target::Coded { path, config: Box::new(config) })
    }

    /// Listens, and brings each client's flow to a listener of connections.
    pub(crate) fn listen(
        self: &Arc<Self>,
        on: &Address,
        attacher: impl FnOnce(SocketAddr) -> Result<Attacher, ListenError>,
    ) -> Result<BatsListener, ListenError> {
        let io = |error: std::io::Error| ListenError::Io {
            address: on.to_string().into(),
            error: Arc::new(error),
        };
        let config = match on.wire() {
            Wire::Udp => None,
            wire => Some(self.listen_config(wire, on).map_err(|error| match error {
                WireError::Io(error) => ListenError::Io { address: on.to_string().into(), error },
                error => io(std::io::Error::other(error)),
            })?),
        };
        if config.is_some() && self.config.0.tls.server.is_none() {
            return Err(ListenError::NoCertificate { wire: on.wire() });
        }
        let resolved = (on.host(), on.port()).to_socket_addrs().map_err(|error| {
            let (host, reason) = (on.host().into(), error.to_string().into());
            ListenError::Resolve(WireError::Resolve { host, reason })
        })?;
        let mut bound = Err(std::io::Error::from(std::io::ErrorKind::AddrNotAvailable));
        for address in resolved {
            bound = bind_listeners(address, 1);
            if bound.is_ok() {
                break;
            }
        }
        let socket = bound.and_then(|sockets| {
            sockets.into_iter().next().ok_or_else(|| std::io::ErrorKind::AddrNotAvailable.into())
        });
        let socket = socket.map_err(io)?;
        let local = socket.local_addr().map_err(io)?.as_socket();
        let local = local.ok_or_else(|| io(std::io::ErrorKind::Unsupported.into()))?;
        let idle = self.config.0.plain.silence_limit;
        let engine = BatsEngine::listening(config, idle)
            .map_err(|error| io(std::io::Error::other(error)))?;
        let thread = lightest(&self.threads).ok_or(ListenError::Stopped)?;
        let shared = Arc::new(ListenerShared {
            wire: Arc::clone(self),
            thread: Arc::clone(thread),
            attacher: attacher(local)?,
            port: AtomicUsize::new(NOWHERE),
        });
        let listener = Arc::clone(&shared);
        let command = BatsCommand::Listen { socket, engine: Box::new(engine), listener };
        thread.command(Command::Bats(command)).map_err(|_| ListenError::Stopped)?;
        Ok(BatsListener(shared))
    }

    fn listen_config(&self, wire: Wire, on: &Address) -> Result<ListenConfig, WireError> {
        let missing = || std::io::Error::other("no certificate");
        let tls = self.config.0.tls.server.as_ref().ok_or_else(missing)?;
        let Options { flow, control, .. } = Options::of(on);
        debug_assert_eq!(wire.moves_messages(), self.messages);
        let hop = self.hop(control);
        let hop = quic::ServerConfig::from_tls(tls, [Bytes::from_static(ALPN)], hop)
            .map_err(|error| FlowError::Config(error.into()))?;
        let config = ListenConfig::with_tls(hop, self.flow(flow)).map_err(FlowError::Config)?;
        let framing =
            if wire == Wire::Bats { flow::Framing::Stream } else { flow::Framing::Messages };
        Ok(config.seal(tls.clone()).serve_only(flow.mode, framing))
    }
}

/// Where a flow goes, before names are looked up.
pub(crate) enum Target {
    /// Coded packets by way of these nodes, the last of which is the far end.
    Coded { path: Vec<HopAddress>, config: Box<ConnectConfig> },
    /// UDP datagrams.
    Plain { to: HopAddress },
}

impl Target {
    /// To whom the first datagrams go.
    pub(crate) fn first(&self) -> Option<&HopAddress> {
        match self {
            Target::Coded { path, .. } => path.first(),
            Target::Plain { to } => Some(to),
        }
    }
}

/// A flow that a link asked for.
pub(crate) struct Dialed {
    pub(crate) carried: Arc<Carried>,
    pub(crate) socket: FactorySocket,
    pub(crate) target: Target,
}

impl SocketFactory for BatsWire {
    fn framing(&self) -> Framing {
        match self.messages {
            true => Framing::None,
            false => Framing::Bytes,
        }
    }

    fn may_block(&self) -> bool {
        false
    }

    fn open(&self, socket: &FactorySocket, address: &Address, _: &OpenOptions) {
        let target = match self.target(address) {
            Ok(target) => target,
            Err(error) => {
                socket.closed(Err(error)).ok();
                return;
            }
        };
        // Who dials on an I/O thread has the flow there: nothing between the two has to change threads.
        let here = self.threads.iter().find(|thread| thread.is_current());
        let Some(thread) = here.or_else(|| lightest(&self.threads)) else { return };
        let carried = Carried::new(Arc::clone(thread));
        socket.set_native(Some(Arc::clone(&carried) as _));
        let dialed = Dialed { carried, socket: socket.clone(), target };
        let command = BatsCommand::Connect(Box::new(dialed));
        if thread.command(Command::Bats(command)).is_err() {
            socket.closed(Err(WireError::End)).ok();
        }
    }

    fn attached(&self, socket: &FactorySocket) {
        let Some(carried) = socket.native_as::<Carried>() else { return };
        socket.opened().ok();
        carried.change(|state| state.reads = true);
    }

    fn write(&self, socket: &FactorySocket, data: Bytes) {
        if let Some(carried) = socket.native_as::<Carried>() {
            carried.change(|state| state.pending.push_back(data));
        }
    }

    fn completed_receive(&self, socket: &FactorySocket, _: usize) {
        let Some(carried) = socket.native_as::<Carried>() else { return };
        if socket.unprocessed() < RECEIVE_WINDOW / 2
            && std::mem::replace(&mut carried.state().paused, false)
        {
            carried.change(|state| state.reads = true);
        }
    }

    fn close(&self, socket: &FactorySocket) {
        let gone = socket
            .native_as::<Carried>()
            .is_none_or(|carried| !carried.change(|state| state.finishing = true));
        if gone {
            socket.closed(Ok(())).ok();
        }
    }

    fn dispose(&self, socket: &FactorySocket) {
        if let Some(carried) = socket.native_as::<Carried>() {
            carried.change(|state| state.abandoned = true);
        }
        socket.set_native(None);
    }
}

/// What a link knows of its flow.
#[derive(Clone)]
pub(crate) struct Agreed {
    /// Who the far end is: not known of a relay in between.
    pub(crate) tls: Option<TlsState>,
    pub(crate) local: Option<SocketAddr>,
    pub(crate) peer: SocketAddr,
    /// The longest message, on wires of messages.
    pub(crate) max_message: usize,
}

/// The flow under a socket, if it is one of this module's, with what was agreed on.
pub(crate) fn agreed(socket: &FactorySocket) -> Option<(Arc<Carried>, Agreed)> {
    let carried = socket.native_as::<Carried>()?;
    let agreed = carried.state().agreed.clone()?;
    Some((carried, agreed))
}

/// What a socket and its flow share. The lock is held for moments, by one of the two threads.
pub(crate) struct Carried {
    pub(crate) thread: Arc<Thread>,
    /// The flow's place on its thread.
    pub(crate) slot: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) pending: VecDeque<Bytes>,
    /// The flow's thread has been told to look.
    pub(crate) scheduled: bool,
    /// The socket takes what comes, and there may be something.
    pub(crate) reads: bool,
    /// Reading waits for `completed_receive`.
    pub(crate) paused: bool,
    /// No more is written; the end goes behind what is pending.
    pub(crate) finishing: bool,
    /// Nobody needs it any more.
    pub(crate) abandoned: bool,
    /// The flow is over.
    pub(crate) over: bool,
    pub(crate) agreed: Option<Agreed>,
    /// As of the flow's last event.
    pub(crate) stats: FlowStats,
    pub(crate) ideal_buffer_length: usize,
    /// It is another than the application knows.
    pub(crate) ideal_changed: bool,
}

impl State {
    /// The ideal buffer length, once after it has changed.
    pub(crate) fn take_ideal_buffer_length(&mut self) -> Option<usize> {
        std::mem::take(&mut self.ideal_changed).then_some(self.ideal_buffer_length)
    }
}

impl Carried {
    pub(crate) fn new(thread: Arc<Thread>) -> Arc<Carried> {
        Arc::new(Carried { thread, slot: AtomicUsize::new(NOWHERE), state: Mutex::default() })
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what the flow's thread is to look at, and tells it, once. `false`: the flow is over.
    fn change(self: &Arc<Self>, change: impl FnOnce(&mut State)) -> bool {
        {
            let mut state = self.state();
            change(&mut state);
            if state.over {
                return false;
            }
            if std::mem::replace(&mut state.scheduled, true) {
                return true;
            }
        }
        let command = Command::Bats(BatsCommand::Serve(Arc::clone(self)));
        self.thread.command(command).is_ok()
    }

    pub(crate) fn place(&self) -> usize {
        self.slot.load(Ordering::Acquire)
    }
}

/// What listeners share with the I/O thread of their socket.
pub(crate) struct ListenerShared {
    pub(crate) wire: Arc<BatsWire>,
    pub(crate) thread: Arc<Thread>,
    pub(crate) attacher: Attacher,
    /// Its place on its thread.
    pub(crate) port: AtomicUsize,
}

/// Takes flows until it is dropped; those that it took stay.
pub(crate) struct BatsListener(Arc<ListenerShared>);

impl Drop for BatsListener {
    fn drop(&mut self) {
        let command = BatsCommand::Unlisten(Arc::clone(&self.0));
        self.0.thread.command(Command::Bats(command)).ok();
    }
}
