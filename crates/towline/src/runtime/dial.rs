//! Dialing: how a connection gets its first link, and each further one.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use towline_proto::redial::{Action, Policy, Redial};
use towline_proto::session::{Session, SessionId};

use crate::address::{Address, Wire};
use crate::connection::{Addresses, Shared};
use crate::engine::Engine;
use crate::error::{ConnectError, Ended, WireError, display_peer};
use crate::handler::{Event, Redialing};

use super::carrier::Carrier;
use super::core::{Core, Origin};
use super::link::{Link, LinkKey, Owner};
use super::{CoreKey, Dial, Runtime, Timed, resolve};

/// The dialing half of a connection: which addresses, and how they are doing.
pub(super) struct Dialing {
    addresses: Addresses,
    redial: Redial,
    lost_at: Instant,
    head_start: Duration,
    active: Vec<Attempt>,
    /// The address of the present or last link.
    present: Option<usize>,
    /// Which addresses have failed since the first dial, while there was no connection yet.
    failed: Box<[bool]>,
    last: Box<str>,
    pub(super) dials: u64,
}

/// A dial of one address: a race among what its host resolved to.
struct Attempt {
    address: usize,
    waiting: VecDeque<SocketAddr>,
    running: usize,
    next_at: Option<Instant>,
    last: Option<(SocketAddr, WireError)>,
    /// A WebSocket's way to its server, over redirects and through a proxy.
    #[cfg(feature = "websocket")]
    way: Option<Box<super::upgrade::Way>>,
}

impl Dialing {
    /// When `poll_dialing` is next due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let starts = self.active.iter().filter_map(|attempt| attempt.next_at);
        starts.chain(self.redial.poll_timeout()).min()
    }

    pub(super) fn last_address(&self) -> &str {
        &self.last
    }

    pub(super) fn present_address(&self) -> Option<&Address> {
        self.present.and_then(|index| self.addresses.get(index))
    }

    /// The present link carries messages.
    pub(super) fn established(&mut self, now: Instant) {
        if let Some(address) = self.present {
            self.redial.handle_established(now, address);
        }
        self.active.shrink_to_fit();
    }

    /// One more socket of this attempt is on its way.
    pub(super) fn runs(&mut self, address: usize) {
        if let Some(attempt) = self.attempt(address) {
            attempt.running += 1;
        }
    }

    pub(super) fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    #[cfg(feature = "websocket")]
    pub(super) fn way(&mut self, address: usize) -> Option<&mut super::upgrade::Way> {
        self.attempt(address)?.way.as_deref_mut()
    }

    /// The attempt goes on elsewhere, from the begin.
    #[cfg(feature = "websocket")]
    pub(super) fn restart(&mut self, address: usize) {
        if let Some(attempt) = self.attempt(address) {
            attempt.waiting.clear();
            (attempt.running, attempt.next_at) = (0, None);
        }
    }

    /// What a factory is asked to open for this attempt.
    fn factory_target(&mut self, index: usize) -> Option<Address> {
        let address = self.addresses.get(index)?.clone();
        #[cfg(feature = "websocket")]
        if let Some(way) = self.way(index) {
            return Some(way.address(&address));
        }
        Some(address)
    }

    /// To whom sockets of this attempt are connected.
    fn destination(&mut self, index: usize) -> Option<(String, u16)> {
        #[cfg(feature = "websocket")]
        if let Some(way) = self.way(index) {
            return Some(way.next_hop());
        }
        let address = self.addresses.get(index)?;
        Some((address.host().to_owned(), address.port()))
    }

    fn attempt(&mut self, address: usize) -> Option<&mut Attempt> {
        self.active.iter_mut().find(|attempt| attempt.address == address)
    }
}

impl Runtime {
    /// Begins a connection that an application asked for.
    pub(super) fn dial(&mut self, dial: Dial) {
        let key = self.insert_dial(dial);
        if self.stopping.is_some() {
            return self.end_stopped(key);
        }
        self.poll_dialing(key);
        self.serve(key);
    }

    pub(super) fn insert_dial(&mut self, dial: Dial) -> CoreKey {
        let Dial { shared, addresses, handler } = dial;
        let options = &shared.config.0.plain;
        let policy = Policy {
            base: options.backoff,
            cap: options.backoff_cap,
            window: options.redial_window,
            head_start: options.head_start,
            prefer: options.return_to_better,
            dial_timeout: options.connect_timeout,
            ..Policy::default()
        };
        let mut redial = Redial::new(policy, addresses.len(), random_u64());
        redial.start(self.now);
        let dialing = Dialing {
            redial,
            lost_at: self.now,
            head_start: options.head_start,
            active: Vec::new(),
            present: None,
            failed: addresses.iter().map(|_| false).collect(),
            last: addresses.first().map(ToString::to_string).unwrap_or_default().into(),
            addresses,
            dials: 0,
        };
        let wire = dialing.addresses.first().map_or(Wire::Tcp, Address::wire);
        let engine = match wire.has_session() {
            true => {
                let config = shared.config.session();
                let id = SessionId(random_bytes());
                Engine::Session(Box::new(Session::client(config, id, self.now)))
            }
            #[cfg(feature = "bats")]
            false if wire.moves_messages() => {
                Engine::Messages(Box::new(crate::engine::messages::Engine::new(options, wire)))
            }
            false => Engine::ftcp(options),
        };
        let origin = Origin::Dialed(Box::new(dialing));
        self.insert_core(Core::new(shared, handler, engine, origin))
    }

    pub(super) fn insert_core(&mut self, core: Core) -> CoreKey {
        let shared = Arc::clone(&core.shared);
        let key = self.cores.insert(core);
        shared.slot.store(key as u32, Ordering::Release);
        self.thread.load.fetch_add(1, Ordering::Relaxed);
        key
    }

    /// Does what is due by now.
    pub(super) fn poll_dialing(&mut self, key: CoreKey) {
        let now = self.now;
        self.poll_attempts(key);
        loop {
            let Some(core) = self.cores.get_mut(key) else { return };
            let Origin::Dialed(dialing) = &mut core.origin else { return };
            match dialing.redial.poll(now) {
                None => return,
                Some(Action::Dial { address, attempt }) => self.begin(key, address, Some(attempt)),
                Some(Action::Probe { address }) if core.may_move() => {
                    self.begin(key, address, None)
                }
                Some(Action::Probe { address }) => dialing_failed(core, now, address),
                Some(Action::Cancel { address }) => self.cancel(key, address),
                Some(_) => return self.give_up(key),
            }
        }
    }

    /// Starts the next of a host's addresses where the running ones have had their head start.
    fn poll_attempts(&mut self, key: CoreKey) {
        let now = self.now;
        let Some(core) = self.cores.get_mut(key) else { return };
        let Origin::Dialed(dialing) = &mut core.origin else { return };
        let due: Vec<usize> = dialing
            .active
            .iter()
            .filter(|attempt| attempt.next_at.is_some_and(|at| at <= now))
            .map(|attempt| attempt.address)
            .collect();
        for address in due {
            self.next_candidate(key, address);
        }
    }

    /// Begins an attempt; without a number it is one for a better wire than the present one.
    fn begin(&mut self, key: CoreKey, index: usize, attempt: Option<u64>) {
        let now = self.now;
        let Some(core) = self.cores.get_mut(key) else { return };
        let born = core.born;
        let Origin::Dialed(dialing) = &mut core.origin else { return };
        let Some(address) = dialing.addresses.get(index).cloned() else { return };
        dialing.dials += 1;
        dialing.active.retain(|attempt| attempt.address != index);
        #[cfg(feature = "websocket")]
        let way = super::upgrade::Way::to(&address, &core.shared.config.0);
        if dialing.active.capacity() == 0 {
            dialing.active.reserve_exact(1);
        }
        dialing.active.push(Attempt {
            address: index,
            waiting: VecDeque::new(),
            running: 0,
            next_at: None,
            last: None,
            #[cfg(feature = "websocket")]
            way,
        });
        if let Some(attempt) = attempt.filter(|_| born) {
            let since = now.saturating_duration_since(dialing.lost_at);
            let attempt = u32::try_from(attempt).unwrap_or(u32::MAX);
            core.tell(Event::Redialing(Redialing { attempt, address: address.clone(), since }));
        }
        self.look_up(key, index);
    }

    /// Finds out where an attempt's sockets go, and starts them.
    pub(super) fn look_up(&mut self, key: CoreKey, index: usize) {
        let Some(core) = self.cores.get_mut(key) else { return };
        let Origin::Dialed(dialing) = &mut core.origin else { return };
        let address = dialing.addresses.get(index);
        if address.is_some_and(|to| is_opened_by_factory(&core.shared.config, to)) {
            let Some(to) = dialing.factory_target(index) else { return };
            return self.open_by_factory(key, index, to);
        }
        let Some((host, port)) = dialing.destination(index) else { return };
        match host.parse() {
            Ok(ip) => self.candidates(key, index, vec![SocketAddr::new(ip, port)]),
            Err(_) => resolve::resolve(Arc::clone(&core.shared), index, host, port),
        }
    }

    /// A host's addresses are known.
    pub(super) fn resolved(
        &mut self,
        shared: &Arc<Shared>,
        index: usize,
        result: std::io::Result<Vec<SocketAddr>>,
    ) {
        let key = shared.slot.load(Ordering::Acquire) as CoreKey;
        let Some(core) = self.cores.get_mut(key) else { return };
        if !Arc::ptr_eq(&core.shared, shared) {
            return;
        }
        let Origin::Dialed(dialing) = &mut core.origin else { return };
        let host = dialing.destination(index).map(|(host, _)| host.into()).unwrap_or_default();
        if dialing.attempt(index).is_none() {
            return;
        }
        let reason = match result {
            Ok(found) if !found.is_empty() => {
                self.candidates(key, index, found);
                return self.serve(key);
            }
            Ok(_) => "it has no addresses".into(),
            Err(error) => error.to_string().into(),
        };
        self.attempt_failed(key, index, None, WireError::Resolve { host, reason });
        self.serve(key);
    }

    fn candidates(&mut self, key: CoreKey, index: usize, found: Vec<SocketAddr>) {
        if let Some(core) = self.cores.get_mut(key)
            && let Origin::Dialed(dialing) = &mut core.origin
            && let Some(attempt) = dialing.attempt(index)
        {
            attempt.waiting = found.into();
        }
        self.next_candidate(key, index);
    }

    fn next_candidate(&mut self, key: CoreKey, index: usize) {
        let now = self.now;
        let Some(core) = self.cores.get_mut(key) else { return };
        let Origin::Dialed(dialing) = &mut core.origin else { return };
        let head_start = dialing.head_start;
        let Some(attempt) = dialing.attempt(index) else { return };
        attempt.next_at = None;
        let Some(to) = attempt.waiting.pop_front() else { return };
        attempt.running += 1;
        if !attempt.waiting.is_empty() {
            attempt.next_at = Some(now + head_start);
        }
        if let Err(error) = self.start(key, index, to) {
            self.candidate_failed(key, index, Some(to), error.into());
        }
    }

    fn start(&mut self, key: CoreKey, index: usize, to: SocketAddr) -> std::io::Result<()> {
        let Some(core) = self.cores.get(key) else { return Ok(()) };
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
        let timeout = core.shared.config.0.plain.connect_timeout;
        prepare(&socket, core.engine.is_ftcp(), &core.shared)?;
        let entry = self.links.vacant_entry();
        let link_key = LinkKey(entry.key());
        let id = self.driver.connect(socket, &to.into(), link_key.0 as u64)?;
        let mut link = Link::new(Carrier::Socket(id), Owner::Dial { core: key, address: index });
        let deadline = self.now + timeout;
        link.peer = Some(to);
        link.deadline = Some(deadline);
        entry.insert(link);
        self.arm(deadline, Timed::Link(link_key));
        Ok(())
    }

    /// A carrier is open, or failed to.
    pub(super) fn connected(&mut self, link_key: LinkKey, result: std::io::Result<()>) {
        if let Err(error) = result {
            return self.link_failed(link_key, error.into());
        }
        let Some(link) = self.links.get_mut(link_key.0) else { return };
        let Owner::Dial { core, address } = link.owner else { return };
        let carrier = link.carrier;
        let local = self.carrier_local(carrier);
        if let Some(link) = self.links.get_mut(link_key.0) {
            link.local = local.or(link.local);
        }
        #[cfg(feature = "websocket")]
        match self.begin_tunnel(link_key, core, address) {
            Ok(true) => return self.receive(link_key, None),
            Ok(false) => {}
            Err(error) => return self.link_failed(link_key, error),
        }
        self.dial_reached(link_key, core, address);
    }

    /// The bytes of this link go to the server itself: TLS is next, where there is TLS.
    pub(super) fn dial_reached(&mut self, link_key: LinkKey, core: CoreKey, address: usize) {
        match self.secure(link_key, core, address) {
            Ok(true) => self.receive(link_key, None),
            Ok(false) => self.dial_secured(link_key, core, address),
            Err(error) => self.link_failed(link_key, error),
        }
    }

    /// The link is as secure as it will be.
    pub(super) fn dial_secured(&mut self, link_key: LinkKey, core: CoreKey, address: usize) {
        #[cfg(feature = "websocket")]
        match self.begin_upgrade(link_key, core, address) {
            Ok(true) => return self.receive(link_key, None),
            Ok(false) => {}
            Err(error) => return self.link_failed(link_key, error),
        }
        #[cfg(feature = "websocket")]
        let plain = self.take_opened(link_key, core);
        #[cfg(not(feature = "websocket"))]
        let plain = None;
        self.link_up(link_key, core, address, plain);
        #[cfg(feature = "websocket")]
        self.carry(link_key);
    }

    /// Begins TLS where the address asks for it; `false` when it does not.
    #[cfg(feature = "tls")]
    fn secure(&mut self, key: LinkKey, core: CoreKey, address: usize) -> Result<bool, WireError> {
        let Some(core) = self.cores.get_mut(core) else { return Ok(false) };
        let Origin::Dialed(dialing) = &mut core.origin else { return Ok(false) };
        let Some(given) = dialing.addresses.get(address) else { return Ok(false) };
        let configured = core.shared.config.0.plain.server_name.as_deref();
        let name = configured.unwrap_or(given.host()).to_owned();
        let security = (given.wire().runs_tls(), name);
        #[cfg(feature = "websocket")]
        let security = match dialing.way(address) {
            Some(way) => way.security(configured),
            None => security,
        };
        let (encrypted, name) = security;
        if !encrypted {
            return Ok(false);
        }
        let config = core.shared.config.tls_client().map_err(WireError::Tls)?;
        let mut tls = towline_proto::tls::Stream::client(config, &name)
            .map_err(|error| WireError::Tls(Arc::new(error)))?;
        if core.engine.is_ftcp() {
            tls.track_acked();
        }
        if let Some(link) = self.links.get_mut(key.0) {
            link.tls = Some(Box::new(tls));
        }
        self.write(key, false)?;
        Ok(true)
    }

    #[cfg(not(feature = "tls"))]
    fn secure(&mut self, _: LinkKey, _: CoreKey, _: usize) -> Result<bool, WireError> {
        Ok(false)
    }

    /// A dialed link has its handshakes behind it: it becomes the connection's, and the others are given up. `plain` is
    /// the engine of one on which no session was agreed.
    pub(super) fn link_up(
        &mut self,
        link_key: LinkKey,
        key: CoreKey,
        address: usize,
        plain: Option<Engine>,
    ) {
        let now = self.now;
        self.abandon_dials_of(key, Some(link_key));
        self.leave_wire(key, address);
        self.attach(key, link_key);
        let Some(core) = self.cores.get_mut(key) else { return };
        let Origin::Dialed(dialing) = &mut core.origin else { return };
        dialing.present = Some(address);
        let present = dialing.addresses.get(address).cloned();
        if let Some(address) = &present {
            dialing.last = address.to_string().into();
            core.shared.link().wire = address.wire();
        }
        #[cfg(feature = "websocket")]
        if let Some(engine) = plain {
            core.engine = engine;
            let limit = self.links.get(link_key.0).and_then(Link::max_message);
            core.shared.out().outgoing =
                crate::engine::Outgoing::messages(&core.shared.config.0.plain, limit);
        }
        #[cfg(not(feature = "websocket"))]
        let _ = plain;
        core.engine.handle_open(now);
        if !matches!(core.engine, Engine::Session(_)) {
            dialing.established(now);
            let resumed = core.born;
            let connected = core.describe(resumed);
            core.establish(connected);
        }
        self.serve(key);
    }

    /// A better wire has answered while the present one still served: the session moves. What was on its way on the old one
    /// is sent again, as after any loss.
    fn leave_wire(&mut self, key: CoreKey, address: usize) {
        let now = self.now;
        let Some(core) = self.cores.get_mut(key) else { return };
        if !std::mem::replace(&mut core.up, false) {
            return;
        }
        core.engine.handle_lost(now);
        core.set_phase(crate::connection::Phase::Down);
        core.tell(Event::Disconnected(WireError::Replaced));
        if let Origin::Dialed(dialing) = &mut core.origin {
            dialing.lost_at = now;
            dialing.redial.handle_moving(now, address);
        }
    }

    /// One of a dial's sockets failed.
    pub(super) fn dial_failed(&mut self, key: CoreKey, index: usize, error: WireError) {
        self.candidate_failed(key, index, None, error);
        self.serve(key);
    }

    fn candidate_failed(
        &mut self,
        key: CoreKey,
        index: usize,
        to: Option<SocketAddr>,
        error: WireError,
    ) {
        let Some(core) = self.cores.get_mut(key) else { return };
        let Origin::Dialed(dialing) = &mut core.origin else { return };
        let Some(attempt) = dialing.attempt(index) else { return };
        attempt.running = attempt.running.saturating_sub(1);
        if !attempt.waiting.is_empty() {
            attempt.last = to.map(|to| (to, error));
            return self.next_candidate(key, index);
        }
        if attempt.running == 0 {
            self.attempt_failed(key, index, to, error);
        }
    }

    /// An address failed with everything that it resolved to.
    fn attempt_failed(
        &mut self,
        key: CoreKey,
        index: usize,
        to: Option<SocketAddr>,
        error: WireError,
    ) {
        let now = self.now;
        let Some(core) = self.cores.get_mut(key) else { return };
        core.last_error = Some(error.clone());
        let born = core.born;
        let Origin::Dialed(dialing) = &mut core.origin else { return };
        dialing.active.retain(|attempt| attempt.address != index);
        dialing.redial.handle_failed(now, index);
        if let Some(address) = dialing.addresses.get(index) {
            dialing.last = display_peer(&address.to_string(), to);
        }
        tracing::debug!(address = %dialing.last, %error, "a dial failed");
        if born {
            return;
        }
        if let Some(failed) = dialing.failed.get_mut(index) {
            *failed = true;
        }
        if dialing.failed.iter().all(|failed| *failed) {
            self.never_connected(key, error);
        }
    }

    fn never_connected(&mut self, key: CoreKey, error: WireError) {
        let Some(core) = self.cores.get_mut(key) else { return };
        let Origin::Dialed(dialing) = &core.origin else { return };
        let address = dialing.last.clone();
        let unacknowledged = core.engine.abort();
        let error = Box::new(ConnectError::Wire { address, error });
        self.end(key, Ended::NeverConnected(error), unacknowledged);
    }

    /// A dial has taken too long.
    fn cancel(&mut self, key: CoreKey, index: usize) {
        let timeout = match self.cores.get(key) {
            Some(core) => core.shared.config.0.plain.connect_timeout,
            None => return,
        };
        let stale: Vec<LinkKey> = self.dial_links(key, Some(index));
        for link in stale {
            self.close_link(link);
        }
        self.attempt_failed(key, index, None, WireError::TimedOut(timeout));
    }

    fn give_up(&mut self, key: CoreKey) {
        let Some(core) = self.cores.get_mut(key) else { return };
        let error = core.last_error.clone().unwrap_or(WireError::End);
        if !core.born {
            return self.never_connected(key, error);
        }
        let ended = match core.closing_asked {
            true => Ended::Closed,
            false => {
                core.tell(Event::GaveUp(error.clone()));
                Ended::Lost(error)
            }
        };
        let unacknowledged = core.engine.abort();
        self.end(key, ended, unacknowledged);
    }

    /// The wire is lost, or never came to carry messages: dial again.
    pub(super) fn redial(&mut self, key: CoreKey, was_up: bool, error: WireError) {
        let now = self.now;
        let Some(core) = self.cores.get_mut(key) else { return };
        let born = core.born;
        let Origin::Dialed(dialing) = &mut core.origin else { return };
        if was_up {
            dialing.lost_at = now;
            dialing.redial.start(now);
        } else if let Some(address) = dialing.present {
            if !born {
                return self.attempt_failed(key, address, None, error);
            }
            dialing.redial.handle_failed(now, address);
        }
        self.poll_dialing(key);
    }

    pub(super) fn dial_links(&self, key: CoreKey, index: Option<usize>) -> Vec<LinkKey> {
        let belongs = |owner: &Owner| match owner {
            Owner::Dial { core, address } => *core == key && index.is_none_or(|i| i == *address),
            _ => false,
        };
        self.links
            .iter()
            .filter(|(_, link)| belongs(&link.owner))
            .map(|(key, _)| LinkKey(key))
            .collect()
    }

    fn abandon_dials_of(&mut self, key: CoreKey, but: Option<LinkKey>) {
        let Some(core) = self.cores.get_mut(key) else { return };
        let Origin::Dialed(dialing) = &mut core.origin else { return };
        // Looking through all links is worth it only while there is a race.
        let racing: usize = dialing.active.iter().map(|attempt| attempt.running).sum();
        dialing.active = Vec::new();
        if racing <= usize::from(but.is_some()) {
            return;
        }
        for link in self.dial_links(key, None) {
            if Some(link) != but {
                self.close_link(link);
            }
        }
    }

    /// The connection is over: its dials are too. Called when it has left its place already.
    pub(super) fn abandon_dials(&mut self, key: CoreKey, core: &mut Core) {
        let Origin::Dialed(dialing) = &mut core.origin else { return };
        dialing.redial.stop();
        if dialing.active.drain(..).any(|attempt| attempt.running > 0) {
            for link in self.dial_links(key, None) {
                self.close_link(link);
            }
        }
    }
}

/// Whether not a socket of ours but a factory opens this address: an application's, or one of ours over datagrams.
fn is_opened_by_factory(config: &crate::Config, to: &Address) -> bool {
    to.wire().is_udp() || config.factory_for(to).is_some()
}

/// An attempt that is not even begun.
fn dialing_failed(core: &mut Core, now: Instant, address: usize) {
    if let Origin::Dialed(dialing) = &mut core.origin {
        dialing.redial.handle_failed(now, address);
    }
}

/// Options of a socket before it is used.
pub(super) fn prepare(socket: &Socket, ftcp: bool, shared: &Shared) -> std::io::Result<()> {
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    let options = &shared.config.0.plain;
    if !ftcp {
        return Ok(());
    }
    if let Some(interval) = options.tcp_keep_alive {
        let probes =
            TcpKeepalive::new().with_time(interval).with_interval(interval).with_retries(3);
        socket.set_tcp_keepalive(&probes)?;
    }
    #[cfg(target_os = "linux")]
    if let Some(timeout) = options.tcp_user_timeout {
        socket.set_tcp_user_timeout(Some(timeout))?;
    }
    Ok(())
}

/// Strong randomness from the system: session ids are secrets.
pub(super) fn random_bytes() -> [u8; 16] {
    let mut bytes = [0; 16];
    if let Err(error) = getrandom::fill(&mut bytes) {
        // Without randomness no session is safe to name: this is a broken system, not a case to go on from.
        tracing::error!(%error, "the system gives no randomness");
        std::process::abort();
    }
    bytes
}

/// An unpredictable seed: for masking keys, and for what an engine draws.
#[cfg(any(feature = "websocket", feature = "bats"))]
pub(super) fn random_seed() -> [u8; 32] {
    let mut seed = [0; 32];
    let (low, high) = seed.split_at_mut(16);
    low.copy_from_slice(&random_bytes());
    high.copy_from_slice(&random_bytes());
    seed
}

pub(super) fn random_u64() -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = random_bytes();
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}
