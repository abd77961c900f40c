//! Coded flows: their ends, and the relays between them.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use towline_proto::bats::endpoint::{
    ConnectConfig, Endpoint, Event, FlowId, HopAddress, ListenConfig, NodeConfig, Relay,
    RelaySettings,
};
use towline_proto::bats::flow::{FlowConfig, Framing};
use towline_proto::bats::quic_hop::HopConfig;
use towline_proto::quic::{
    ClientSettings, Ecn, EndpointConfig, Path, ServerSettings, ServerVerification,
};
use towline_sim::{Delivery, Node, Transmit};

use super::Transport;
use crate::cell::{Cell, LabError, Mode};
use crate::engine;
use crate::load::Load;
use crate::node::Place;

/// The name that the far end proves.
const TARGET: &str = "lab";

fn hop_config(cell: &Cell) -> HopConfig {
    HopConfig { control: cell.control(), ..HopConfig::default() }
}

fn flow_config(cell: &Cell) -> Result<FlowConfig, LabError> {
    let base = match cell.mode {
        Mode::Btp => FlowConfig::btp(),
        Mode::Brctp => FlowConfig::brctp(),
        // What answers losses is the code, and nobody in between.
        Mode::EndCode => FlowConfig { hop_feedback: false, ..FlowConfig::default() },
        _ => FlowConfig::default(),
    };
    let messages = cell.load.messages().is_some();
    let largest = match cell.load {
        Load::Object { bytes } => bytes as usize,
        load => load.messages().map_or(0, |(size, _)| size),
    };
    Ok(FlowConfig {
        framing: if messages { Framing::Messages } else { base.framing },
        batch: match cell.batch {
            Some(columns) => columns.try_into().map_err(refused)?,
            None => base.batch,
        },
        interleave: cell.interleave.unwrap_or(base.interleave),
        hop_feedback: base.hop_feedback && cell.hop_feedback,
        deadline: cell.deadline.unwrap_or(base.deadline),
        max_message: base.max_message.max(largest),
        ..base
    })
}

fn client_tls() -> ClientSettings {
    ClientSettings::new(ServerVerification::DangerousNone, [])
}

fn server_tls() -> ServerSettings {
    ServerSettings::new(engine::identity(), [])
}

fn node_config(seed: [u8; 32]) -> NodeConfig {
    let quic = engine::settings(HopConfig::adapt(EndpointConfig::default()), seed);
    NodeConfig { quic, ..NodeConfig::default() }
}

fn path_of(datagram: &Delivery) -> (Path, Option<Ecn>) {
    let path = Path { remote: datagram.source, local: datagram.local };
    (path, Ecn::from_bits(datagram.ecn.bits()))
}

fn refused(error: impl std::fmt::Display) -> LabError {
    LabError::Parameter(error.to_string())
}

/// One end of a flow.
pub(crate) struct CodedEnd {
    endpoint: Endpoint,
    flow: Option<FlowId>,
    /// Whom to connect to, how, and when.
    dial: Option<(Box<ConnectConfig>, SocketAddr, Instant)>,
    seed: u64,
    messages: bool,
    open: bool,
    failure: Option<String>,
    buf: Vec<u8>,
    last_train: Option<Instant>,
}

impl CodedEnd {
    pub(crate) fn new(cell: &Cell, place: &Place) -> Result<Self, LabError> {
        let flow = FlowConfig { relayed: place.relayed, ..flow_config(cell)? };
        let hop = hop_config(cell);
        let mut listen = None;
        let mut dial = None;
        match place.dials {
            Some((to, at)) => {
                let config = ConnectConfig::new(client_tls(), &hop, flow).map_err(refused)?;
                let config = config
                    .connect_timeout(Duration::from_secs(30))
                    .seal(engine::seal_client())
                    .target_name(TARGET);
                dial = Some((Box::new(config), to, at));
            }
            None => {
                let flow = FlowConfig { seed: cell.seed ^ 1, ..flow };
                let config = ListenConfig::new(server_tls(), &hop, flow).map_err(refused)?;
                listen = Some(config.seal(engine::seal_server()));
            }
        }
        let config = node_config(place.seed);
        let endpoint = Endpoint::new(config, listen, place.seed, place.now, engine::wall());
        Ok(CodedEnd {
            endpoint: endpoint.map_err(refused)?,
            flow: None,
            dial,
            seed: cell.seed,
            messages: flow.framing == Framing::Messages,
            open: false,
            failure: None,
            buf: Vec::new(),
            last_train: None,
        })
    }

    fn start(&mut self, now: Instant) {
        let Some((config, to, _)) = self.dial.take_if(|(_, _, at)| *at <= now) else { return };
        let path = [HopAddress::from(to)];
        match self.endpoint.connect(now, &path, to, &config, self.seed) {
            Ok(flow) => self.flow = Some(flow),
            Err(error) => self.failure = Some(error.to_string()),
        }
    }
}

impl Transport for CodedEnd {
    fn handle_datagram(&mut self, now: Instant, datagram: Delivery) {
        let (path, ecn) = path_of(&datagram);
        self.endpoint.handle_datagram(now, path, ecn, engine::owned(datagram.data));
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.endpoint.handle_timeout(now);
    }

    fn poll_transmit(&mut self, now: Instant) -> Option<Transmit> {
        let transmit = self.endpoint.poll_transmit(now, &mut self.buf)?;
        self.last_train = Some(now);
        Some(engine::train(&transmit, &self.buf))
    }

    fn poll_timeout(&mut self) -> Option<Instant> {
        let own = engine::coalesce(self.endpoint.poll_timeout(), self.last_train);
        let start = self.dial.as_ref().map(|(_, _, at)| *at);
        [own, start].into_iter().flatten().min()
    }

    fn begin(&mut self, now: Instant) {
        self.start(now);
        while let Some(event) = self.endpoint.poll_event(now) {
            match event {
                Event::Incoming { flow, .. } => self.flow = Some(flow),
                Event::Closed(_, why) => self.failure = Some(why.to_string()),
                _ => {}
            }
        }
        let flow = self.flow.and_then(|flow| self.endpoint.flow(flow));
        self.open |= flow.is_some_and(|flow| flow.is_established());
    }

    fn is_open(&self) -> bool {
        self.open
    }

    fn write(&mut self, _now: Instant, data: &Bytes) -> usize {
        let Some(mut flow) = self.flow.and_then(|flow| self.endpoint.flow(flow)) else { return 0 };
        if !flow.is_writable() {
            return 0;
        }
        flow.write(&mut data.clone()).unwrap_or(0)
    }

    fn send(&mut self, _now: Instant, message: &Bytes) -> bool {
        let Some(mut flow) = self.flow.and_then(|flow| self.endpoint.flow(flow)) else {
            return false;
        };
        flow.is_writable() && flow.send(message.clone()).is_ok()
    }

    fn recv(&mut self, _now: Instant) -> Option<Bytes> {
        let mut flow = self.endpoint.flow(self.flow?)?;
        if self.messages { flow.recv() } else { flow.read() }
    }

    fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }
}

/// A relay.
pub(crate) struct RelayNode {
    relay: Relay,
    buf: Vec<u8>,
    last_train: Option<Instant>,
}

impl RelayNode {
    pub(crate) fn new(
        cell: &Cell,
        seed: [u8; 32],
        next: SocketAddr,
        now: Instant,
    ) -> Result<Self, LabError> {
        let settings = RelaySettings { next: Some(next.into()), ..RelaySettings::default() };
        let tls = (server_tls(), client_tls());
        let time = (now, engine::wall());
        let relay = Relay::new(node_config(seed), settings, tls, &hop_config(cell), seed, time);
        Ok(RelayNode { relay: relay.map_err(refused)?, buf: Vec::new(), last_train: None })
    }
}

impl Node for RelayNode {
    fn handle_datagram(&mut self, now: Instant, datagram: Delivery) {
        let (path, ecn) = path_of(&datagram);
        self.relay.handle_datagram(now, path, ecn, engine::owned(datagram.data));
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.relay.handle_timeout(now);
    }

    fn poll_transmit(&mut self, now: Instant) -> Option<Transmit> {
        while self.relay.poll_event(now).is_some() {}
        let transmit = self.relay.poll_transmit(now, &mut self.buf)?;
        self.last_train = Some(now);
        Some(engine::train(&transmit, &self.buf))
    }

    fn poll_timeout(&mut self) -> Option<Instant> {
        engine::coalesce(self.relay.poll_timeout(), self.last_train)
    }
}
