//! One run: its parameters, its network.

use std::time::{Duration, Instant};

use towline_proto::bats::congestion::Control;
use towline_sim::{Bitrate, LinkConfig, Loss, Simulation};

use crate::bulk::BulkNode;
use crate::raw::RawNode;
use crate::report::Report;
use crate::{chain, coded, fairness};

/// What runs over the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Reliable coded transport.
    Brtp,
    /// Nothing but the hop itself: datagrams of full size, as many as it takes. It measures the congestion controller. One hop.
    Raw,
    /// QUIC streams with CUBIC, end to end.
    QuicCubic,
    /// QUIC streams with BBRv3, end to end.
    QuicBbr,
}

impl Mode {
    /// All of them.
    pub const ALL: [Mode; 4] = [Mode::Brtp, Mode::Raw, Mode::QuicCubic, Mode::QuicBbr];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Brtp => "brtp",
            Mode::Raw => "raw",
            Mode::QuicCubic => "quic-cubic",
            Mode::QuicBbr => "quic-bbr",
        }
    }
}

/// The parameters of one run.
#[derive(Clone, Debug)]
pub struct Cell {
    /// The scenario's name, for the report.
    pub scenario: &'static str,
    /// What runs.
    pub mode: Mode,
    /// Links in a row.
    pub hops: usize,
    /// Each link's rate.
    pub rate: Bitrate,
    /// Each link's delay, one way.
    pub delay: Duration,
    /// Each link's loss, 0 to 1, in both directions.
    pub loss: f64,
    /// The mean length of loss bursts, packets; 1 is independent loss.
    pub burst: f64,
    /// Whether each hop answers losses by itself, in coded modes.
    pub hop_feedback: bool,
    /// Virtual time.
    pub duration: Duration,
    /// How much of the beginning `steady` leaves out.
    pub warmup: Duration,
    /// The congestion controller of every hop.
    pub control: Control,
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
            hops: 1,
            rate: Bitrate::from_mbps(100),
            delay: Duration::from_millis(10),
            loss: 0.0,
            burst: 1.0,
            hop_feedback: true,
            duration: Duration::from_secs(30),
            warmup: Duration::from_secs(5),
            control: Control::Coded,
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
        if !(1..=32).contains(&self.hops) {
            return refuse("a chain has 1 to 32 hops");
        }
        if self.mode == Mode::Raw && self.hops != 1 {
            return refuse("the raw mode measures one hop");
        }
        if !(0.0..1.0).contains(&self.loss) {
            return refuse("loss is a share from 0 to below 1");
        }
        if self.flows == 0 || self.flows > 64 || self.cubic > 64 {
            return refuse("1 to 64 flows share a link");
        }
        if self.duration <= self.warmup {
            return refuse("the run must be longer than its warm-up");
        }
        Ok(())
    }

    /// One direction of each link.
    pub(crate) fn link(&self) -> LinkConfig {
        let link = LinkConfig::lab(self.rate, self.delay, self.loss);
        if self.burst > 1.0 && self.loss > 0.0 {
            link.loss(Loss::Burst { mean: self.loss, burst: self.burst })
        } else {
            link
        }
    }

    /// What is possible: 29 bytes of headers per datagram of a full packet, and the loss of the worst hop.
    pub fn limit(&self) -> f64 {
        0.953 * self.rate.as_bps() as f64 * (1.0 - self.loss)
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
    if cell.flows > 1 || cell.cubic > 0 {
        return fairness::run(cell);
    }
    match cell.mode {
        Mode::Brtp => coded::run(cell),
        Mode::Raw => chain::end_to_end(cell, |place| RawNode::new(cell, place)),
        Mode::QuicCubic => {
            chain::end_to_end(cell, |place| BulkNode::new(cell, Control::Cubic, place))
        }
        Mode::QuicBbr => chain::end_to_end(cell, |place| BulkNode::new(cell, Control::Bbr3, place)),
    }
}
