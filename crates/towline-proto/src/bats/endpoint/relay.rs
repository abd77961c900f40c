//! What flows pass on their way: a relay takes a flow on one hop and carries it on over the next, without any key to what is in it.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Instant, SystemTime};

use bytes::{Bytes, BytesMut};

use super::config::{ConfigError, NodeConfig, hop_client, hop_server};
use super::dialing::Dialing;
use super::doors::{Below, Node};
use super::error::{HopEnd, RefusalKind, refusal};
use super::leg::{Happened, Leg, MAX_CONTROL_WAITING};
pub use super::pattern::Pattern;
use super::route::{HopAddress, Route, RouteReader};
use super::table::Key;
use crate::bats::flow;
use crate::bats::hop::Hop;
use crate::bats::quic_hop::HopConfig;
use crate::bats::relay::{RelayConfig, RelayFlow, RelayStats};
use crate::quic::{self, ClientSettings, ConnectionId, Ecn, ServerSettings, Transmit};

/// Packets of a flow that wait here while its next hop is opened: what a sender may send unasked, twice.
const MAX_EARLY_PACKETS: usize = 2 * flow::INITIAL_WINDOW as usize;
/// What a kept packet is counted with.
const PACKET_MEMORY: u64 = 1_600;

/// A flow of one [`Relay`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RelayFlowId(Key);

impl RelayFlowId {
    /// The id as one number, for logs and tables.
    pub fn as_u64(self) -> u64 {
        self.0.as_u64()
    }
}

/// Where flows may go, and what they may use.
#[derive(Clone, Debug)]
pub struct RelaySettings {
    /// Where flows go that do not say so themselves.
    pub next: Option<HopAddress>,
    /// Where flows may go that do say so. Empty: nowhere but to `next`.
    pub allow: Vec<Pattern>,
    /// The coded engine, for each flow.
    pub flow: RelayConfig,
    /// Memory for packets of all flows together, bytes. Each flow is promised at most a quarter of what is not promised yet, and refused when
    /// that is less than it needs at least, 13 MB. Default 2 GiB.
    pub max_memory: u64,
    /// Flows of one client's address at one time. Default 256.
    pub max_flows_per_client: usize,
}

impl Default for RelaySettings {
    fn default() -> Self {
        RelaySettings {
            next: None,
            allow: Vec::new(),
            flow: RelayConfig::default(),
            max_memory: 2 << 30,
            max_flows_per_client: 256,
        }
    }
}

/// What happened at a relay.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum RelayEvent {
    /// A name has to be looked up: answer with [`Relay::resolved`].
    Resolve {
        /// For which flow.
        flow: RelayFlowId,
        /// What.
        address: HopAddress,
    },
    /// A flow passes from here on.
    Opened {
        /// The flow.
        flow: RelayFlowId,
        /// Where it comes from.
        from: SocketAddr,
        /// Where it goes on to.
        to: HopAddress,
    },
    /// A flow was refused.
    Refused {
        /// Where it came from.
        from: SocketAddr,
        /// Where it wanted to go on to, if that was known.
        to: Option<HopAddress>,
        /// Why.
        kind: RefusalKind,
        /// The same for people, as the client was told.
        reason: String,
    },
    /// A flow that passed is over.
    Closed {
        /// The flow.
        flow: RelayFlowId,
        /// What was done towards the server, and towards the client.
        stats: Box<[RelayStats; 2]>,
        /// How it ended.
        reason: String,
    },
}

/// Counters of a relay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RelayTotals {
    /// Flows at present, those that are just beginning included.
    pub flows: u64,
    /// Flows that passed so far.
    pub opened: u64,
    /// Flows refused, by reason.
    pub refused: HashMap<RefusalKind, u64>,
    /// Towards servers, and towards clients, all flows together.
    pub packets: [RelayStats; 2],
    /// Packets kept at present.
    pub held: u64,
    /// Memory promised to flows, bytes.
    pub promised: u64,
    /// The QUIC endpoint below.
    pub quic: quic::EndpointStats,
}

#[derive(Debug)]
enum Stage {
    /// It is not known yet where the flow goes.
    Routing(RouteReader),
    /// The next hop's name is being looked up.
    Resolving(Route),
    /// The next hop is being connected to, or is.
    Passing,
    Over,
}

#[derive(Debug)]
pub(super) struct Entry {
    up: Leg,
    down: Option<Leg>,
    /// While the next hop is being connected.
    dialing: Option<Box<Dialing>>,
    up_ready: bool,
    down_ready: bool,
    stage: Stage,
    flow: RelayFlow,
    from: SocketAddr,
    to: Option<HopAddress>,
    setup_by: Option<Instant>,
    promised: u64,
    reason: String,
}

/// A node that flows pass, on one socket of one thread, without the socket.
pub struct Relay {
    below: Below<Entry, RelayEvent>,
    client: quic::ClientConfig,
    config: NodeConfig,
    settings: RelaySettings,
    clients: HashMap<IpAddr, usize>,
    promised: u64,
    totals: RelayTotals,
    drawn: u64,
}

impl std::fmt::Debug for Relay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Relay").field("flows", &self.below.flows.len()).finish_non_exhaustive()
    }
}

impl Relay {
    /// A new relay. `server` is what it shows to those who come, `client` how it makes sure of where flows go on; both with the protocol and the options of a hop.
    ///
    /// # Errors
    /// Names the first option out of range.
    pub fn new(
        config: NodeConfig,
        settings: RelaySettings,
        (server, client): (ServerSettings, ClientSettings),
        hop: &HopConfig,
        seed: [u8; 32],
        times: (Instant, SystemTime),
    ) -> Result<Relay, ConfigError> {
        let tls = (hop_server(server, hop)?, hop_client(client, hop)?);
        Relay::with_tls(config, settings, tls, seed, times)
    }

    /// The same from configurations that were built with [`ALPN`](crate::bats::quic_hop::ALPN) and [`HopConfig::options`]. `times` are the same moment in both clocks.
    ///
    /// # Errors
    /// Names the first option out of range.
    pub fn with_tls(
        config: NodeConfig,
        settings: RelaySettings,
        (server, client): (quic::ServerConfig, quic::ClientConfig),
        seed: [u8; 32],
        (now, wall): (Instant, SystemTime),
    ) -> Result<Relay, ConfigError> {
        settings.check()?;
        let quic = config.to_quic(2 * config.max_flows + config.max_flows / 8 + 16)?;
        Ok(Relay {
            below: Below::new(quic::Endpoint::new(quic, Some(server), seed, now, wall)?, now),
            client,
            config,
            settings,
            clients: HashMap::new(),
            promised: 0,
            totals: RelayTotals::default(),
            drawn: u64::from_le_bytes(seed.first_chunk().copied().unwrap_or_default()),
        })
    }

    /// Takes no new flows from here on; those that pass go on.
    ///
    /// # Errors
    /// Never, as nothing is asked for.
    pub fn stop(&mut self) -> Result<(), ConfigError> {
        Ok(self.below.quic.set_server_config(None)?)
    }

    /// Ends every flow.
    pub fn close(&mut self, now: Instant) {
        let keys: Vec<Key> = self.below.flows.keys().collect();
        for key in keys {
            self.give_up(now, key, refusal::STOPPING, "the relay is being stopped".into());
        }
    }

    /// Flows at present.
    pub fn flows(&self) -> usize {
        self.below.flows.len()
    }

    /// Counters.
    pub fn totals(&self) -> RelayTotals {
        let mut totals = RelayTotals {
            flows: self.below.flows.len() as u64,
            promised: self.promised,
            quic: self.below.quic.stats(),
            ..self.totals.clone()
        };
        for entry in self.below.flows.iter() {
            add(&mut totals.packets, &entry.flow.stats());
            let waiting =
                entry.up.hop.waiting().1 + entry.down.as_ref().map_or(0, |d| d.hop.waiting().1);
            totals.held +=
                entry.flow.stats().iter().map(|it| it.held).sum::<u64>() + waiting as u64;
        }
        totals
    }

    /// Takes a datagram, without its UDP header. It is worked on with the next poll.
    pub fn handle_datagram(
        &mut self,
        now: Instant,
        path: quic::Path,
        ecn: Option<Ecn>,
        data: BytesMut,
    ) {
        self.below.handle_datagram(now, path, ecn, data);
    }

    /// Tells that a deadline of [`poll_timeout`](Self::poll_timeout) may have passed. Calling it too early does nothing.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.below.handle_timeout(now);
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self, now: Instant) -> Option<RelayEvent> {
        self.next_event(now)
    }

    /// Writes the next train of datagrams into `buf` and says how it must be sent, as [`quic::Endpoint::poll_transmit`] does.
    pub fn poll_transmit(&mut self, now: Instant, buf: &mut Vec<u8>) -> Option<Transmit> {
        self.next_transmit(now, buf)
    }

    /// When [`handle_timeout`](Self::handle_timeout) must be called next; it may be earlier than necessary.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.below.poll_timeout()
    }
}

impl Node for Relay {
    type Flow = Entry;
    type Event = RelayEvent;

    fn below(&mut self) -> &mut Below<Entry, RelayEvent> {
        &mut self.below
    }

    fn has_sent(entry: &Entry, quic: &mut quic::Endpoint) -> bool {
        entry.up.has_sent(quic) || entry.down.as_ref().is_some_and(|down| down.has_sent(quic))
    }

    fn on_event(&mut self, now: Instant, key: Key, id: ConnectionId, event: quic::Event) {
        let Some(entry) = self.below.flows.get_mut(key) else { return };
        let (leg, ready) = match &mut entry.down {
            _ if entry.up.id == id => (&mut entry.up, &mut entry.up_ready),
            Some(down) if down.id == id => (down, &mut entry.down_ready),
            // An address that was given up for another may still answer.
            _ => return,
        };
        if leg.on_event(now, &mut self.below.quic, event) == Happened::Connected {
            *ready = true;
        }
        if entry.down_ready {
            entry.dialing = None;
        }
    }

    /// A client's connection shows for the first time: it is promised memory, or refused.
    fn accept(&mut self, now: Instant, id: ConnectionId) -> Option<Key> {
        let from = self.below.quic.connection(id)?.remote_address();
        let least = 2 * flow::INITIAL_WINDOW * PACKET_MEMORY;
        let wanted = 2 * self.settings.flow.max_packets as u64 * PACKET_MEMORY;
        let free = self.settings.max_memory.saturating_sub(self.promised);
        let promised = wanted.min(free / 4);
        let full = if self.below.flows.len() >= self.config.max_flows {
            Some(format!("this relay carries {} flows already", self.below.flows.len()))
        } else if promised < least {
            Some("this relay's memory for flows is used up".to_owned())
        } else if self
            .clients
            .get(&from.ip())
            .is_some_and(|&n| n >= self.settings.max_flows_per_client)
        {
            Some("this relay carries as many flows of this client as it may".to_owned())
        } else {
            None
        };
        if let Some(reason) = full {
            self.below.quic.connection(id)?.close(now, refusal::TOO_MANY, reason.clone().into());
            self.count_refusal(from, None, refusal::TOO_MANY, reason);
            return None;
        }
        self.drawn = self.drawn.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(1);
        let max_packets = (promised / 2 / PACKET_MEMORY) as usize;
        let config = RelayConfig { max_packets, seed: self.drawn, ..self.settings.flow };
        // Checked when the relay was made, and the number of packets just now.
        let flow = RelayFlow::new(config, now).ok()?;
        self.promised += promised;
        *self.clients.entry(from.ip()).or_default() += 1;
        let key = self.below.flows.insert(Entry {
            up: Leg::new(id, false),
            down: None,
            dialing: None,
            up_ready: false,
            down_ready: false,
            stage: Stage::Routing(RouteReader::default()),
            flow,
            from,
            to: None,
            setup_by: Some(now + self.config.setup_timeout),
            promised,
            reason: String::new(),
        });
        self.below.own(id, key);
        Some(key)
    }

    /// Drives one flow.
    fn work(&mut self, now: Instant, key: Key) {
        self.redial(now, key);
        let Some(entry) = self.below.flows.get_mut(key) else { return };
        entry.up.handle_timeout(now, &mut self.below.quic);
        if entry.up_ready && entry.up.end().is_none() {
            entry.up.begin(now, &mut self.below.quic);
        }
        if let Some(down) = &mut entry.down {
            down.handle_timeout(now, &mut self.below.quic);
            if entry.down_ready && down.end().is_none() {
                down.begin(now, &mut self.below.quic);
            }
        }
        self.route(now, key);
        self.pass(now, key);
        self.finish(now, key);
    }
}

impl Relay {
    fn count_refusal(
        &mut self,
        from: SocketAddr,
        to: Option<HopAddress>,
        code: u64,
        reason: String,
    ) {
        let kind = RefusalKind::from_code(code).unwrap_or(RefusalKind::Abuse);
        *self.totals.refused.entry(kind).or_default() += 1;
        self.below.events.push_back(RelayEvent::Refused { from, to, kind, reason });
    }

    /// Reads where a flow goes.
    fn route(&mut self, now: Instant, key: Key) {
        let Some(entry) = self.below.flows.get_mut(key) else { return };
        let Stage::Routing(reader) = &mut entry.stage else { return };
        let mut read = Ok(None);
        while let Ok(None) = read
            && let Some(data) = entry.up.hop.poll_control()
        {
            read = reader.push(&data);
        }
        match read {
            Ok(None) => {}
            Ok(Some((route, rest))) => {
                entry.up.hop.unread_control(rest);
                self.on_route(now, key, route);
            }
            Err(error) => self.give_up(now, key, refusal::BAD_ROUTE, error.to_string()),
        }
    }

    fn on_route(&mut self, now: Instant, key: Key, route: Route) {
        let (to, rest) = match (route.rest.split_first(), &self.settings.next) {
            (Some((to, rest)), _) => (to.clone(), rest.to_vec()),
            (None, Some(next)) => (next.clone(), Vec::new()),
            (None, None) => {
                let reason = "this relay has no next hop and the flow names none".to_owned();
                return self.give_up(now, key, refusal::BAD_ROUTE, reason);
            }
        };
        let fixed = self.settings.next.as_ref() == Some(&to);
        // Names that only a network's addresses may allow are looked at again when they are known.
        if !fixed && !self.settings.allow.iter().any(|pattern| pattern.may_match(&to)) {
            let reason = format!("this relay does not carry flows to {to}");
            return self.give_up(now, key, refusal::NOT_ALLOWED, reason);
        }
        let onward = match route.onward(rest) {
            Ok(onward) => onward,
            Err(error) => return self.give_up(now, key, refusal::BAD_ROUTE, error.to_string()),
        };
        let Some(entry) = self.below.flows.get_mut(key) else { return };
        entry.stage = Stage::Resolving(onward);
        entry.to = Some(to.clone());
        match to.literal() {
            Some(address) => self.dial(now, key, &[address]),
            None => {
                let flow = RelayFlowId(key);
                self.below.events.push_back(RelayEvent::Resolve { flow, address: to });
            }
        }
    }

    /// What the name of [`RelayEvent::Resolve`] stands for, in the order in which they are to be tried, or why it stands for nothing. The next address is
    /// tried when one fails, or has not answered within a second.
    pub fn resolved(
        &mut self,
        now: Instant,
        flow: RelayFlowId,
        addresses: Result<Vec<SocketAddr>, String>,
    ) {
        let waits = |entry: &Entry| matches!(entry.stage, Stage::Resolving(_));
        if !self.below.flows.get(flow.0).is_some_and(waits) {
            return;
        }
        let error = match addresses {
            Ok(found) if !found.is_empty() => return self.dial(now, flow.0, &found),
            Ok(_) => "the name has no address".to_owned(),
            Err(error) => error,
        };
        let to = self.below.flows.get(flow.0).and_then(|entry| entry.to.as_ref());
        let to = to.map(ToString::to_string).unwrap_or_default();
        let reason = format!("{to} cannot be looked up: {error}");
        self.give_up(now, flow.0, refusal::UNREACHABLE, reason);
    }

    fn dial(&mut self, now: Instant, key: Key, addresses: &[SocketAddr]) {
        let Some(entry) = self.below.flows.get_mut(key) else { return };
        let (Stage::Resolving(route), Some(to)) = (&entry.stage, entry.to.clone()) else { return };
        let route = route.encode();
        let fixed = self.settings.next.as_ref() == Some(&to);
        let allow = &self.settings.allow;
        let allowed = |at: &SocketAddr| fixed || allow.iter().any(|it| it.matches(&to, *at));
        let allowed: Vec<SocketAddr> = addresses.iter().copied().filter(allowed).collect();
        if allowed.is_empty() {
            let reason = format!("this relay does not carry flows to {to}");
            return self.give_up(now, key, refusal::NOT_ALLOWED, reason);
        }
        let dialing = Dialing::new(self.client.clone(), to.host().into(), route, &allowed);
        entry.dialing = Some(Box::new(dialing));
        entry.stage = Stage::Passing;
        self.attempt(now, key);
    }

    /// Connects to the next address of the next hop.
    fn attempt(&mut self, now: Instant, key: Key) {
        let Some(entry) = self.below.flows.get_mut(key) else { return };
        let Some(dialing) = &mut entry.dialing else { return };
        match dialing.attempt(now, &mut self.below.quic) {
            Ok((leg, _)) => {
                let id = leg.id;
                let before = entry.down.replace(leg);
                if let Some(before) = before {
                    self.below.abandon(&before);
                }
                self.below.own(id, key);
            }
            Err(error) => {
                let to = entry.to.as_ref().map(ToString::to_string).unwrap_or_default();
                let reason = format!("{to} cannot be reached: {error}");
                self.give_up(now, key, refusal::UNREACHABLE, reason);
            }
        }
        self.below.flows.touch(key);
    }

    /// Goes on to the next address, where one is left and due.
    fn redial(&mut self, now: Instant, key: Key) {
        let Some(entry) = self.below.flows.get_mut(key) else { return };
        if let (Some(dialing), Some(down)) = (&mut entry.dialing, &entry.down)
            && !matches!(entry.stage, Stage::Over)
            && dialing.is_due(now, down)
        {
            self.attempt(now, key);
        }
    }

    /// Moves what came on one hop to the other, and looks whether it is over.
    fn pass(&mut self, now: Instant, key: Key) {
        let Some(entry) = self.below.flows.get_mut(key) else { return };
        if matches!(entry.stage, Stage::Over) {
            return;
        }
        let (control, packets) = entry.up.hop.waiting();
        if control > MAX_CONTROL_WAITING || packets > MAX_EARLY_PACKETS && !entry.down_ready {
            let reason = "more than a flow may send before it is established".to_owned();
            return self.give_up(now, key, refusal::ABUSE, reason);
        }
        if let Some(down) = &mut entry.down
            && entry.up_ready
            && entry.down_ready
        {
            if entry.setup_by.take().is_some() {
                self.totals.opened += 1;
                if let Some(to) = entry.to.clone() {
                    let (flow, from) = (RelayFlowId(key), entry.from);
                    self.below.events.push_back(RelayEvent::Opened { flow, from, to });
                }
            }
            entry.flow.drive(now, &mut entry.up.hop, &mut down.hop);
            if down.hop.waiting().0 > MAX_CONTROL_WAITING {
                let reason = "the far end sent more control than it may".to_owned();
                return self.give_up(now, key, refusal::ABUSE, reason);
            }
        }
        if let Some((code, reason)) = self.verdict(now, key) {
            self.give_up(now, key, code, reason);
        }
    }

    /// With what a flow is over, if it is.
    fn verdict(&self, now: Instant, key: Key) -> Option<(u64, String)> {
        let entry = self.below.flows.get(key)?;
        let to = || entry.to.as_ref().map(ToString::to_string).unwrap_or_default();
        if let Some(down) = &entry.down
            && let Some(end) = down.end()
        {
            return Some(match end {
                HopEnd::Closed { code, reason } => (*code, reason.clone()),
                other if entry.down_ready => {
                    (refusal::HOP_LOST, format!("{} was lost: {other}", to()))
                }
                other => (refusal::UNREACHABLE, format!("{} cannot be reached: {other}", to())),
            });
        }
        match entry.up.end() {
            Some(HopEnd::Closed { code, reason }) => return Some((*code, reason.clone())),
            Some(other) => {
                return Some((refusal::HOP_LOST, format!("{} was lost: {other}", entry.from)));
            }
            None => {}
        }
        if entry.setup_by.is_some_and(|by| by <= now) {
            return Some(match entry.to {
                Some(_) => (refusal::UNREACHABLE, format!("{} did not answer in time", to())),
                None => (refusal::BAD_ROUTE, "no route in time".to_owned()),
            });
        }
        None
    }

    /// Ends a flow on both hops.
    fn give_up(&mut self, now: Instant, key: Key, code: u64, reason: String) {
        let Some(entry) = self.below.flows.get_mut(key) else { return };
        if matches!(entry.stage, Stage::Over) {
            return;
        }
        let passed = entry.up_ready && entry.down_ready && entry.setup_by.is_none();
        entry.stage = Stage::Over;
        entry.reason.clone_from(&reason);
        let text = Bytes::copy_from_slice(
            reason.get(..reason.floor_char_boundary(256)).unwrap_or_default().as_bytes(),
        );
        let refused = RefusalKind::from_code(code).is_some();
        for leg in [Some(&mut entry.up), entry.down.as_mut()].into_iter().flatten() {
            match refused {
                // Its control stream may have ended in the middle of a frame.
                true => leg.close(now, &mut self.below.quic, code, text.clone()),
                false => leg.finish_and_close(now, &mut self.below.quic, code, text.clone()),
            }
        }
        let (from, to) = (entry.from, entry.to.clone());
        if passed {
            let stats = entry.flow.stats();
            add(&mut self.totals.packets, &stats);
            let (flow, stats) = (RelayFlowId(key), Box::new(stats));
            self.below.events.push_back(RelayEvent::Closed { flow, stats, reason });
        } else {
            self.count_refusal(from, to, code, reason);
        }
        self.below.flows.touch(key);
    }

    /// Hands over to QUIC, and removes what is gone on both sides.
    fn finish(&mut self, now: Instant, key: Key) {
        let Some(entry) = self.below.flows.get_mut(key) else { return };
        let over = matches!(entry.stage, Stage::Over);
        let mut busy = false;
        for leg in [Some(&mut entry.up), entry.down.as_mut()].into_iter().flatten() {
            if over {
                leg.discard();
            }
            busy |= leg.finish(&mut self.below.quic);
        }
        let down_gone = entry.down.as_ref().is_none_or(Leg::is_gone);
        if over && entry.up.is_gone() && down_gone {
            return self.remove(key);
        }
        let driven =
            entry.flow.poll_timeout().filter(|_| !over && entry.up_ready && entry.down_ready);
        let setup = entry.setup_by.filter(|_| !over).map(|by| by.max(now));
        let legs = [entry.up.poll_timeout(), entry.down.as_ref().and_then(Leg::poll_timeout)];
        let dialing = entry.dialing.as_ref().and_then(|dialing| dialing.poll_timeout());
        let at = legs.into_iter().chain([driven, setup, dialing.filter(|_| !over)]).flatten().min();
        self.below.flows.arm(key, at);
        if busy {
            self.below.flows.set_busy(key);
        }
    }

    fn remove(&mut self, key: Key) {
        let Some(entry) = self.below.flows.remove(key) else { return };
        self.promised = self.promised.saturating_sub(entry.promised);
        if let Some(count) = self.clients.get_mut(&entry.from.ip()) {
            *count -= 1;
            if *count == 0 {
                self.clients.remove(&entry.from.ip());
            }
        }
        self.below.disown(entry.up.id);
        if let Some(down) = entry.down {
            self.below.disown(down.id);
        }
    }
}

/// Adds up what was done in each direction.
fn add(totals: &mut [RelayStats; 2], more: &[RelayStats; 2]) {
    for (total, more) in totals.iter_mut().zip(more) {
        total.received += more.received;
        total.forwarded += more.forwarded;
        total.recoded += more.recoded;
        total.repaired += more.repaired;
        total.protective += more.protective;
        total.protective_withheld += more.protective_withheld;
        total.reports += more.reports;
        total.dropped.redundant += more.dropped.redundant;
        total.dropped.malformed += more.dropped.malformed;
        total.dropped.over_credit += more.dropped.over_credit;
        total.dropped.early += more.dropped.early;
        total.dropped.evicted_batches += more.dropped.evicted_batches;
    }
}
