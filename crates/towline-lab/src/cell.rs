//! One run: its parameters.

use std::time::{Duration, Instant};

use towline_proto::bats::congestion::Control;
use towline_sim::Simulation;

use crate::links::Links;
use crate::load::Load;
use crate::network;
use crate::report::Report;

/// What runs over the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Reliable coded transport.
    Brtp,
    /// Coded transport with a deadline: low latency, never sent again.
    Btp,
    /// Rateless coded transport: the receiver only says when it has something whole.
    Brctp,
    /// Nothing but the hop itself: datagrams of full size, as many as it takes. It measures the congestion controller. One hop.
    Raw,
    /// The code from end to end, without a relay in between: what recoding is worth.
    EndCode,
    /// QUIC streams with CUBIC, end to end.
    QuicCubic,
    /// QUIC streams with BBRv3, end to end.
    QuicBbr,
    /// KCP, end to end.
    Kcp,
}

impl Mode {
    /// All of them.
    pub const ALL: [Mode; 8] = [
        Mode::Brtp,
        Mode::Btp,
        Mode::Brctp,
        Mode::Raw,
        Mode::EndCode,
        Mode::QuicCubic,
        Mode::QuicBbr,
        Mode::Kcp,
    ];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Brtp => "brtp",
            Mode::Btp => "btp",
            Mode::Brctp => "brctp",
            Mode::Raw => "raw",
            Mode::EndCode => "end-code",
            Mode::QuicCubic => "quic-cubic",
            Mode::QuicBbr => "quic-bbr",
            Mode::Kcp => "kcp",
        }
    }

    /// Whether hosts between the ends are relays.
    pub(crate) fn is_relayed(self) -> bool {
        matches!(self, Mode::Brtp | Mode::Btp | Mode::Brctp)
    }
}

/// The parameters of one run.
#[derive(Clone, Debug)]
pub struct Cell {
    /// The scenario's name, for the report.
    pub scenario: &'static str,
    /// What runs.
    pub mode: Mode,
    /// What it runs over.
    pub links: Links,
    /// What the application does.
    pub load: Load,
    /// Whether each hop answers losses by itself, in coded modes.
    pub hop_feedback: bool,
    /// Columns in a batch, 4 to 64; the mode's own if none is named.
    pub batch: Option<usize>,
    /// Batches that are filled in turn, 1 to 64; the mode's own if none is named.
    pub interleave: Option<u8>,
    /// BTP: how old a message may become above the path's delay; the mode's own if none is named.
    pub deadline: Option<Duration>,
    /// Virtual time.
    pub duration: Duration,
    /// How much of the beginning `steady` leaves out.
    pub warmup: Duration,
    /// The congestion controller of every hop; the mode's own if none is named.
    pub control: Option<Control>,
    /// Flows of ours beside each other; more than one share the link.
    pub flows: u8,
    /// QUIC flows with CUBIC beside them.
    pub cubic: u8,
    /// For all random numbers.
    pub seed: u64,
    /// Whether this is a baseline beside another cell.
    pub peer: bool,
}

impl Default for Cell {
    fn default() -> Self {
        Cell {
            scenario: "chain",
            mode: Mode::Brtp,
            links: Links::default(),
            load: Load::Bulk,
            hop_feedback: true,
            batch: None,
            interleave: None,
            deadline: None,
            duration: Duration::from_secs(30),
            warmup: Duration::from_secs(5),
            control: None,
            flows: 1,
            cubic: 0,
            seed: 1,
            peer: false,
        }
    }
}

/// A cell that cannot be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabError {
    /// A parameter makes no sense.
    #[error("{0}")]
    Parameter(String),
    /// The simulation stopped. A fault of an engine.
    #[error("the simulation stopped: {0}")]
    Simulation(#[from] towline_sim::ScenarioError),
    /// The network could not be built.
    #[error("the network cannot be built: {0}")]
    Network(#[from] towline_sim::NetworkError),
    /// The connection did not come up, or ended early.
    #[error("the connection failed: {0}")]
    Connection(String),
}

impl Cell {
    fn check(&self) -> Result<(), LabError> {
        let refuse = |text: &str| Err(LabError::Parameter(text.to_owned()));
        self.links.check().map_err(LabError::Parameter)?;
        if let Err(text) = self.load.check() {
            return refuse(text);
        }
        let shared = self.flows > 1 || self.cubic > 0;
        if (self.mode == Mode::Raw || shared) && self.links.hops != 1 {
            return refuse("the raw mode, and flows beside each other, run over one hop");
        }
        if shared && self.load != Load::Bulk {
            return refuse("flows beside each other fill their link");
        }
        if self.flows == 0 || self.flows > 64 || self.cubic > 64 {
            return refuse("1 to 64 flows share a link");
        }
        if self.duration <= self.warmup {
            return refuse("the run must be longer than its warm-up");
        }
        Ok(())
    }

    /// The controller of every hop. A mode without feedback sends at the link's own rate, a little less so that no queue grows.
    pub(crate) fn control(&self) -> Control {
        let payload = self.links.rate.as_bps() as f64 / 8.0 * 1_472.0 / 1_514.0;
        match self.mode {
            Mode::Brctp => self.control.unwrap_or(Control::Fixed((payload * 0.998) as u64)),
            _ => self.control.unwrap_or_default(),
        }
    }

    /// What is possible: 29 bytes of headers per datagram of a full packet, and the loss of the worst hop.
    pub fn limit(&self) -> f64 {
        0.953 * self.links.capacity()
    }

    /// An empty simulation. Its base is any moment: only differences count.
    pub(crate) fn simulation(&self) -> Simulation {
        let mut simulation = Simulation::new(self.seed, base());
        simulation.set_livelock_limit(10_000_000);
        simulation
    }

    /// 32 bytes for one of the run's engines.
    pub(crate) fn seed_of(&self, node: u64) -> [u8; 32] {
        let mut seed = [0; 32];
        let mut random = towline_sim::Random::keyed(self.seed, &[node]);
        random.fill(&mut seed);
        seed
    }
}

/// The one moment that is not virtual.
fn base() -> Instant {
    Instant::now()
}

/// Runs a cell.
///
/// # Errors
/// [`LabError`].
pub fn run(cell: &Cell) -> Result<Report, LabError> {
    cell.check()?;
    if cell.flows > 1 || cell.cubic > 0 { network::fairness(cell) } else { network::chain(cell) }
}
