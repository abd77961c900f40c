//! The flow: what comes from the hop and the application is handed to the halves, and what they have goes to the hop.

mod agreement;
mod application;
mod rateless;
mod transmit;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::config::{ConfigError, FlowConfig, Framing, Mode};
use super::datagram::{self, DatagramReceiver, DatagramSender};
use super::event::{Closed, Event, code};
use super::message::Assembly;
use super::packing::Packing;
use super::rateless::{RatelessReceiver, RatelessSender};
use super::receiver::{StreamReceiver, Taken};
use super::reporting::Reporting;
use super::sealing::Sealing;
use super::sender::StreamSender;
use super::stats::FlowStats;
use crate::bats::control::{Frame, FrameReader, Open};
use crate::bats::geometry::Geometry;
use crate::bats::hop::{Fate, Hop, Outcome, Path};
use crate::bats::outbox::Outbox;
use crate::bats::parts::Pieces;
use crate::bats::seal::{Forged, Seal};
use crate::bats::wire::{Credit, Packet, Report};

/// Most packets that wait for the flow's parameters.
const MAX_EARLY: usize = 1024;
/// Most bytes of control frames that wait for the hop.
const MAX_CONTROL_OUT: usize = 64 * 1024;
/// The smallest send buffer that is advised.
const MIN_IDEAL: usize = 256 * 1024;

/// How long a receiver of BRCTP waits at least before it says again that it has something whole.
const MIN_DONE: Duration = Duration::from_millis(20);

/// What a tag names, in its two top bits.
const TAG_SHIFT: u32 = 62;
const TAG_NUMBER: u64 = (1 << TAG_SHIFT) - 1;
const SYMBOL: u64 = 0;
const REPORT: u64 = 1;
const CREDIT: u64 = 2;
const NOTHING: u64 = 3;

/// A neighbour before it has said anything.
pub(in crate::bats) const UNKNOWN_PATH: Path = Path {
    rtt: Duration::from_millis(100),
    min_rtt: Duration::from_millis(1),
    pause: Duration::ZERO,
    loss: 0.0,
    burst: 1.0,
    rate: 125_000,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The peer has not agreed yet.
    Opening,
    Established,
    /// Both directions are done, which the peer is being told.
    Closing,
    Closed,
}

/// One end of a coded flow. See the [module](super) for the order of calls.
#[derive(Debug)]
pub struct Flow {
    config: FlowConfig,
    is_client: bool,
    state: State,
    control_in: FrameReader,
    control_out: BytesMut,
    early: VecDeque<Bytes>,
    /// Both from the moment that the parameters are known.
    sender: Option<StreamSender>,
    receiver: Option<StreamReceiver>,
    /// Instead of these in BTP.
    datagrams: Option<Box<(DatagramSender, DatagramReceiver)>>,
    /// The same in BRCTP.
    rateless: Option<Box<(RatelessSender, RatelessReceiver)>>,
    assembly: Assembly,
    sealing: Sealing,
    packing: Packing,
    /// A server's own part of it, and whether it insists.
    seal: Option<(Seal, bool)>,
    /// What a server takes, if not everything.
    serves: Option<(Mode, Framing)>,
    /// The parameters as they were laid down.
    open: Option<Open>,
    /// The peer's window, once it agreed.
    agreed: Option<u64>,
    reporting: Reporting,
    /// The limit and the position that the last report told.
    told: (u64, u64),
    crediting: Reporting,
    credit_serial: u64,
    last_report: u64,
    last_credit: u64,
    /// When a packet with a symbol last came.
    last_symbol: Option<Instant>,
    /// The longest packet that fits the path behind the neighbour.
    max_packet: usize,
    /// The largest BTP message.
    max_datagram: usize,
    outbox: Outbox,
    pieces: Pieces,
    path: Path,
    /// The hop took all that there was.
    room_left: bool,
    ideal: usize,
    full: bool,
    /// Something was accepted since the event of that name.
    unsent: bool,
    unconfirmed: bool,
    told_shutdown: bool,
    readable: bool,
    close_by: Option<Instant>,
    events: VecDeque<Event>,
    stats: FlowStats,
}

impl Flow {
    /// The client's end: it lays down the parameters.
    ///
    /// # Errors
    /// Names the first option that is out of range.
    pub fn client(config: FlowConfig, now: Instant) -> Result<Flow, ConfigError> {
        Flow::open(config, None, now)
    }

    /// The client's end of a flow that is sealed from end to end, so that relays need not be trusted. Nothing is accepted for sending
    /// before [`Event::Established`].
    ///
    /// # Errors
    /// Names the first option that is out of range.
    pub fn client_sealed(
        config: FlowConfig,
        seal: &Seal,
        now: Instant,
    ) -> Result<Flow, ConfigError> {
        Flow::open(config, Some(seal), now)
    }

    fn open(config: FlowConfig, seal: Option<&Seal>, now: Instant) -> Result<Flow, ConfigError> {
        let mut flow = Flow::new(config, now)?;
        let open = Open {
            mode: config.mode,
            framing: config.framing,
            size: config.batch,
            interleave: config.interleave,
            hop_feedback: config.hop_feedback,
            sealed: seal.is_some(),
            packed: config.compress,
            deadline: config.deadline,
            window: config.receive_window,
        };
        Frame::Open(open).encode(&mut flow.control_out);
        (flow.open, flow.is_client) = (Some(open), true);
        flow.packing = Packing::new(open.packed, config.compress);
        if let Some(seal) = seal {
            let refused = ConfigError { option: "seal", expected: "fit for a TLS client" };
            flow.sealing = Sealing::begin(seal, open.parameters()).ok_or(refused)?;
            flow.sealing.flush(&mut flow.control_out);
        }
        flow.begin(now);
        Ok(flow)
    }

    /// The server's end: it takes the client's parameters where [`FlowConfig`] says so.
    ///
    /// # Errors
    /// Names the first option that is out of range.
    pub fn server(config: FlowConfig, now: Instant) -> Result<Flow, ConfigError> {
        Flow::new(config, now)
    }

    /// The server's end that seals when the client asks for it; without, it refuses clients that do. A server that is reached through
    /// relays should accept no flow that is not sealed: `require` sees to it.
    ///
    /// # Errors
    /// Names the first option that is out of range.
    pub fn server_sealed(
        config: FlowConfig,
        seal: Seal,
        require: bool,
        now: Instant,
    ) -> Result<Flow, ConfigError> {
        let mut flow = Flow::new(config, now)?;
        flow.seal = Some((seal, require));
        Ok(flow)
    }

    /// A server's end that takes flows of this mode and framing only.
    #[must_use]
    pub fn serve_only(mut self, mode: Mode, framing: Framing) -> Flow {
        self.serves = Some((mode, framing));
        self
    }

    fn new(config: FlowConfig, now: Instant) -> Result<Flow, ConfigError> {
        config.check()?;
        let mut crediting = Reporting::default();
        crediting.on_urgent(now);
        Ok(Flow {
            config,
            is_client: false,
            state: State::Opening,
            control_in: FrameReader::default(),
            control_out: BytesMut::new(),
            early: VecDeque::new(),
            sender: None,
            receiver: None,
            datagrams: None,
            rateless: None,
            assembly: Assembly::default(),
            sealing: Sealing::default(),
            packing: Packing::None,
            seal: None,
            serves: None,
            open: None,
            agreed: None,
            reporting: Reporting::default(),
            told: (0, 0),
            crediting,
            credit_serial: 0,
            last_report: 0,
            last_credit: 0,
            last_symbol: None,
            max_packet: usize::MAX,
            max_datagram: 1000 * datagram::MAX_SYMBOLS,
            outbox: Outbox::default(),
            pieces: Pieces::default(),
            path: UNKNOWN_PATH,
            room_left: false,
            ideal: MIN_IDEAL.min(config.max_send_buffer),
            full: false,
            unsent: false,
            unconfirmed: false,
            told_shutdown: false,
            readable: false,
            close_by: None,
            events: VecDeque::new(),
            stats: FlowStats::default(),
        })
    }

    fn begin(&mut self, now: Instant) {
        let geometry = Geometry::new(self.config.batch, self.config.interleave);
        if self.config.mode == Mode::Btp {
            let sender = DatagramSender::new(&self.config, geometry, now);
            let receiver = DatagramReceiver::new(&self.config, geometry, now);
            self.datagrams = Some(Box::new((sender, receiver)));
            return;
        }
        if self.config.mode == Mode::Brctp {
            return self.begin_rateless();
        }
        self.sender = Some(StreamSender::new(&self.config, geometry, now));
        self.receiver = Some(StreamReceiver::new(geometry, &self.config));
    }

    /// The parameters, the client's once they are known.
    pub fn config(&self) -> &FlowConfig {
        &self.config
    }

    /// What was done and dropped so far.
    pub fn stats(&self) -> FlowStats {
        self.stats
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Whether the flow is over.
    pub fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    fn fail(&mut self, code: u64, closed: Closed) {
        if !self.is_closed() {
            Frame::Close { code, reason: closed.to_string() }.encode(&mut self.control_out);
            self.end(closed);
        }
    }

    fn end(&mut self, closed: Closed) {
        if self.state != State::Closed {
            self.state = State::Closed;
            self.events.push_back(Event::Closed(closed));
        }
    }

    /// The hop was replaced by another one to the same peer, over the same or other relays, all of which know nothing of the flow: what was
    /// under way is sent again. A flow whose handshake from end to end was under way cannot be moved, and ends when the
    /// application gives up on it.
    pub fn handle_hop_changed(&mut self, now: Instant) {
        self.control_in = FrameReader::default();
        if !self.is_closed() {
            self.control_out.clear();
        }
        if let (true, Some(open)) = (self.is_client, self.open) {
            Frame::Open(open).encode(&mut self.control_out);
        }
        if self.state == State::Closing {
            Frame::Close { code: code::NONE, reason: String::new() }.encode(&mut self.control_out);
        }
        self.max_packet = usize::MAX;
        self.reporting.on_urgent(now);
        self.crediting.on_urgent(now);
        self.last_credit = 0;
        self.path = UNKNOWN_PATH;
        if let Some(sender) = &mut self.sender {
            sender.on_hop_changed(now);
        }
        if let Some(rateless) = &mut self.rateless {
            rateless.0.on_hop_changed();
        }
    }

    /// Takes what the hop has and gives it what it wants. Call it whenever something may have changed on the hop, and after
    /// the application gave or took something.
    pub fn drive<H: Hop>(&mut self, now: Instant, hop: &mut H) {
        self.path = hop.path();
        while let Some(data) = hop.poll_control() {
            self.on_control(now, &data);
        }
        while let Some(data) = hop.poll_packet() {
            self.stats.packets_received += 1;
            if !self.is_closed() {
                self.on_packet(now, data);
            }
        }
        while let Some(fate) = hop.poll_fate() {
            self.on_fate(now, fate);
        }
        if !self.is_closed() {
            self.update(now);
        }
        self.transmit(now, hop);
        self.flush_control(hop);
    }

    /// Lets time pass. [`drive`](Self::drive) must follow.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.close_by.is_some_and(|by| by <= now) {
            let closed =
                if self.state == State::Closing { Closed::Finished } else { Closed::LocalTimeout };
            self.fail(code::NONE, closed);
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) and [`drive`](Self::drive) are due if nothing happens before.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.is_closed() {
            return None;
        }
        let sender = self.sender.as_ref().filter(|_| self.room_left);
        let sender = sender.and_then(|sender| sender.poll_timeout(&self.path));
        let datagrams = self.datagrams.as_ref().filter(|_| self.room_left);
        let datagrams = datagrams.and_then(|datagrams| datagrams.0.poll_timeout());
        let rateless = self.rateless.as_ref().filter(|_| self.room_left);
        let rateless = rateless.and_then(|rateless| rateless.0.poll_timeout());
        let reports = [self.reporting.poll_timeout(), self.crediting.poll_timeout()];
        let halves = [sender, datagrams, rateless, self.close_by];
        reports.into_iter().chain(halves).flatten().min()
    }

    fn on_forged(&mut self) {
        if self.is_closed() {
            return;
        }
        self.stats.dropped.forged += 1;
        self.fail(code::FORGED, Closed::Forged);
    }

    fn is_received(&self) -> bool {
        match &self.rateless {
            Some(rateless) => rateless.1.is_finished(),
            None => self.receiver.as_ref().is_some_and(StreamReceiver::is_finished),
        }
    }

    /// Whether this end has finished, and the peer has everything.
    fn is_sent(&self) -> bool {
        match &self.rateless {
            Some(rateless) => rateless.0.is_finishing() && rateless.0.is_acknowledged(),
            None => self.sender.as_ref().is_some_and(|s| s.is_finishing() && s.is_acknowledged()),
        }
    }

    fn on_packet(&mut self, now: Instant, data: Bytes) {
        match Packet::parse(data.clone()) {
            Err(_) => self.stats.dropped.malformed += 1,
            Ok(Packet::Report(report)) => self.on_report(now, &report),
            Ok(Packet::Done(done)) => self.on_done(now, &done),
            Ok(Packet::Credit(credit)) => self.on_credit(&credit),
            Ok(Packet::Part(part)) => {
                let whole = self.pieces.push(part);
                self.stats.dropped.pieces = self.pieces.given_up;
                // A piece of pieces is nothing that anybody sends.
                match whole {
                    Some(whole) if whole.first().is_some_and(|first| first >> 5 <= 1) => {
                        self.on_packet(now, whole);
                    }
                    Some(_) => self.stats.dropped.malformed += 1,
                    None => {}
                }
            }
            Ok(_) if !self.has_begun() || self.datagrams.is_some() && !self.sealing.is_ready() => {
                if self.early.len() < MAX_EARLY {
                    self.early.push_back(data);
                } else {
                    self.stats.dropped.early += 1;
                }
            }
            Ok(packet) => self.on_symbol(now, packet),
        }
    }

    fn on_symbol(&mut self, now: Instant, packet: Packet) {
        if let Some(datagrams) = &mut self.datagrams {
            match packet {
                Packet::Source { number, symbol, .. } => {
                    datagrams.1.on_source(now, number, symbol, &mut self.stats);
                }
                Packet::Mixed(mixed) => datagrams.1.on_mixed(now, &mixed, &mut self.stats),
                _ => {}
            }
            return;
        }
        if self.rateless.is_some() {
            return self.on_rateless(now, &packet);
        }
        let Some(receiver) = &mut self.receiver else { return };
        self.last_symbol = Some(now);
        let taken = match packet {
            Packet::Source { number, symbol, .. } => {
                receiver.on_source(number, symbol, &mut self.stats)
            }
            Packet::Mixed(mixed) => receiver.on_mixed(mixed, &mut self.stats),
            _ => return,
        };
        match taken {
            Taken::New => self.stats.innovative += 1,
            Taken::Redundant => self.stats.dropped.redundant += 1,
            Taken::Malformed => self.stats.dropped.malformed += 1,
            Taken::BeyondWindow => self.stats.dropped.beyond_window += 1,
        }
        // What is redundant may be a probe, which asks for a report.
        self.reporting.on_change(now, &self.path);
    }

    fn on_report(&mut self, now: Instant, report: &Report) {
        if report.serial <= self.last_report {
            return;
        }
        self.last_report = report.serial;
        if let Some(sender) = &mut self.sender {
            let acknowledged = sender.on_report(now, report, &self.path);
            self.stats.acknowledged_bytes += acknowledged as u64;
        }
    }

    fn on_credit(&mut self, credit: &Credit) {
        if credit.serial <= self.last_credit {
            return;
        }
        self.last_credit = credit.serial;
        self.max_packet = usize::try_from(credit.max_packet).unwrap_or(usize::MAX).max(64);
        if let Some(sender) = &mut self.sender {
            sender.on_credit(credit.limit);
        }
    }

    fn on_fate(&mut self, now: Instant, fate: Fate) {
        let (kind, number) = (fate.tag >> TAG_SHIFT, fate.tag & TAG_NUMBER);
        match (kind, &mut self.sender) {
            (SYMBOL, Some(sender)) if self.config.hop_feedback => {
                sender.on_fate(number, fate.outcome, &self.path);
            }
            (REPORT, _) if fate.outcome == Outcome::Lost => self.reporting.on_lost(now, number),
            (CREDIT, _) if fate.outcome == Outcome::Lost => self.crediting.on_lost(now, number),
            _ => {}
        }
    }

    /// Draws the conclusions from what came in.
    fn update(&mut self, now: Instant) {
        self.assemble();
        self.update_events();
        if self.is_closed() {
            return;
        }
        self.update_ideal();
        self.update_rateless(now);
        if let Some(receiver) = &self.receiver
            && receiver.limit() - self.told.0 > self.config.receive_window / 4
        {
            self.reporting.on_change(now, &self.path);
        }
        if self.close_by.is_some() && self.datagrams.as_ref().is_some_and(|d| d.0.waiting() == 0) {
            return self.fail(code::NONE, Closed::Local);
        }
        if self.state == State::Established && self.is_sent() && self.is_received() {
            self.state = State::Closing;
            self.reporting.on_urgent(now);
            Frame::Close { code: code::NONE, reason: String::new() }.encode(&mut self.control_out);
            // The peer answers with the same when it knows; if it is gone by then, nothing is lost.
            let linger = now + self.path.rtt * 4 + Duration::from_millis(100);
            self.close_by = Some(self.close_by.map_or(linger, |by| by.min(linger)));
        }
    }

    fn update_events(&mut self) {
        if matches!(self.state, State::Opening | State::Closed) {
            return;
        }
        let readable = match self.config.framing {
            Framing::Stream if self.packing.is_on() => self.assembly.has_message(),
            Framing::Stream => match &mut self.receiver {
                Some(receiver) => match self.sealing.prepare(receiver) {
                    Ok(ready) => ready,
                    Err(Forged) => return self.on_forged(),
                },
                None => false,
            },
            Framing::Messages => {
                let datagrams = self.datagrams.as_ref().is_some_and(|d| d.1.has_ready());
                datagrams || self.assembly.has_message()
            }
        };
        if readable && !self.readable {
            self.events.push_back(Event::DataReceived);
        }
        self.readable = readable;
        if self.is_received() && !self.told_shutdown {
            self.told_shutdown = true;
            self.events.push_back(Event::ShutdownByPeer);
        }
        if self.unconfirmed && self.sender.as_ref().is_some_and(StreamSender::is_acknowledged) {
            self.unconfirmed = false;
            self.events.push_back(Event::AllDataAcknowledged);
        }
        if self.full && self.unacknowledged() < self.ideal - self.ideal / 4 && self.has_begun() {
            self.full = false;
            self.events.push_back(Event::Writable);
        }
    }

    /// The buffer that keeps the path busy while the worst of its losses are repaired.
    fn update_ideal(&mut self) {
        let Some(sender) = &self.sender else { return };
        let round = sender.end_to_end().round_trip(&self.path);
        let mut flight = self.path.rate as f64 * (round + self.path.pause).as_secs_f64();
        if !self.config.hop_feedback {
            // Nothing is asked for before its group has passed.
            let geometry = Geometry::new(self.config.batch, self.config.interleave);
            flight += 2.0 * 1400.0 * geometry.group() as f64;
        }
        let loss = sender.loss(&self.path).clamp(1e-6, 0.9);
        // Tries until, of what is in flight, less than one in twenty flights has anything left.
        let tries = (0.05 / (flight / 1400.0).max(1.0)).ln() / loss.ln();
        let ideal = flight * (2.0 + tries.clamp(1.0, 8.0));
        let most = self.config.max_send_buffer;
        let ideal = (ideal as usize).clamp(MIN_IDEAL.min(most), most);
        if self.state == State::Established && ideal.abs_diff(self.ideal) >= self.ideal / 4 {
            self.ideal = ideal;
            self.events.push_back(Event::IdealBufferLengthChanged { length: ideal });
        }
    }
}
