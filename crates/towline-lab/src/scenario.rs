//! Named sets of cells.

use std::time::Duration;

use towline_proto::bats::congestion::Control;
use towline_sim::Bitrate;

use crate::cell::{Cell, Mode};
use crate::links::Links;
use crate::load::Load;

/// A scenario of the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// One hop: delays by losses.
    BrtpMatrix,
    /// Links in a row.
    Chain,
    /// Messages and their answers.
    Rtt,
    /// What BTP leaves lost.
    BtpResidual,
    /// Flows beside each other.
    Fairness,
}

/// What the command line may change of a scenario. What it leaves out is the scenario's own.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// See [`Cell::mode`].
    pub mode: Option<Mode>,
    /// See [`Links::rate`].
    pub rate: Option<Bitrate>,
    /// See [`Links::delay`]; more than one make a row each.
    pub delays: Vec<Duration>,
    /// See [`Links::loss`]; more than one make a row each.
    pub losses: Vec<f64>,
    /// All else about the links.
    pub links: Links,
    /// See [`Cell::hop_feedback`].
    pub hop_feedback: Option<bool>,
    /// See [`Cell::batch`].
    pub batch: Option<usize>,
    /// See [`Cell::interleave`].
    pub interleave: Option<u8>,
    /// See [`Cell::deadline`].
    pub deadline: Option<Duration>,
    /// The congestion controller of every hop; the mode's own if none is named.
    pub control: Option<Control>,
    /// See [`Cell::duration`].
    pub duration: Option<Duration>,
    /// See [`Cell::warmup`].
    pub warmup: Option<Duration>,
    /// Bytes of a message.
    pub size: Option<usize>,
    /// Messages per second.
    pub per_second: Option<f64>,
    /// Bits per second of messages, in place of their number.
    pub send_rate: Option<Bitrate>,
    /// Bytes of an object to be transferred, in place of filling the path.
    pub object: Option<u64>,
    /// How many flows share a link, ours and such with CUBIC, in place of the scenario's own numbers.
    pub beside: Option<(u8, u8)>,
    /// See [`Cell::seed`].
    pub seed: Option<u64>,
    /// Baselines to run beside each cell; matrices have some of their own.
    pub peers: Option<Vec<Mode>>,
}

/// The object that the rateless mode transfers if none is named, bytes.
const OBJECT: u64 = 100_000_000;

impl Scenario {
    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Scenario::BrtpMatrix => "brtp-matrix",
            Scenario::Chain => "chain",
            Scenario::Rtt => "rtt",
            Scenario::BtpResidual => "btp-residual",
            Scenario::Fairness => "fairness",
        }
    }

    /// The cells of the scenario, in the order of their rows.
    pub fn cells(self, changes: &Changes) -> Vec<Cell> {
        let base = self.base(changes);
        let default = self.delays(base.links.rate);
        let delays = if changes.delays.is_empty() { &default } else { &changes.delays };
        let default = self.losses();
        let losses = if changes.losses.is_empty() { &default } else { &changes.losses };
        let mut cells = Vec::new();
        for &delay in delays {
            for &loss in losses {
                let links = Links { delay, loss, ..base.links.clone() };
                let cell = Cell { links, ..base.clone() };
                if self == Scenario::Fairness {
                    let own = [(2, 0), (4, 0), (1, 1)];
                    let beside = changes.beside.map_or(own.to_vec(), |beside| vec![beside]);
                    let with = |(flows, cubic)| Cell { flows, cubic, ..cell.clone() };
                    cells.extend(beside.into_iter().map(with));
                    continue;
                }
                let peers = changes.peers.as_deref().unwrap_or(self.peers()).iter();
                let peers: Vec<Cell> =
                    peers.map(|&mode| Cell { mode, peer: true, ..cell.clone() }).collect();
                cells.push(cell);
                cells.extend(peers);
            }
        }
        cells
    }

    /// What a matrix is compared with.
    fn peers(self) -> &'static [Mode] {
        match self {
            Scenario::BrtpMatrix => &[Mode::QuicCubic, Mode::QuicBbr],
            _ => &[],
        }
    }

    fn base(self, changes: &Changes) -> Cell {
        let default = Cell { scenario: self.name(), ..Cell::default() };
        let rate = match self {
            Scenario::BrtpMatrix => Bitrate::from_gbps(1),
            _ => Bitrate::from_mbps(100),
        };
        let warmup = match self {
            // The last of four flows starts after six seconds.
            Scenario::Fairness => Duration::from_secs(10),
            _ => Duration::from_secs(5),
        };
        let mode = match self {
            Scenario::BtpResidual | Scenario::Rtt => Mode::Btp,
            _ => Mode::Brtp,
        };
        let mode = changes.mode.unwrap_or(mode);
        let deadline = match self {
            Scenario::BtpResidual => Some(changes.deadline.unwrap_or(Duration::from_millis(20))),
            _ => changes.deadline,
        };
        let load = self.load(mode, changes);
        let duration = match load {
            // Long enough for anything that moves; the run ends with the transfer.
            Load::Object { .. } => Duration::from_secs(600),
            _ => default.duration,
        };
        Cell {
            mode,
            links: Links { rate: changes.rate.unwrap_or(rate), ..changes.links.clone() },
            load,
            hop_feedback: changes.hop_feedback.unwrap_or(true),
            batch: changes.batch,
            interleave: changes.interleave,
            deadline,
            control: changes.control,
            duration: changes.duration.unwrap_or(duration),
            warmup: changes.warmup.unwrap_or(warmup),
            seed: changes.seed.unwrap_or(default.seed),
            ..default
        }
    }

    fn load(self, mode: Mode, changes: &Changes) -> Load {
        let messages = |size: usize, per_second: f64| {
            let size = changes.size.unwrap_or(size);
            let by_rate = |rate: Bitrate| rate.as_bps() as f64 / 8.0 / size as f64;
            let named = changes.per_second.or(changes.send_rate.map(by_rate));
            (size, named.unwrap_or(per_second))
        };
        match self {
            Scenario::Rtt => {
                let (size, per_second) = messages(512, 100.0);
                Load::Echo { size, per_second }
            }
            Scenario::BtpResidual => {
                let (size, per_second) = messages(1_350, 10e6 / 8.0 / 1_350.0);
                let allowed = changes.deadline.unwrap_or(Duration::from_millis(20));
                Load::Paced { size, per_second, allowed }
            }
            Scenario::Chain | Scenario::BrtpMatrix => match changes.object {
                Some(bytes) => Load::Object { bytes },
                None if mode == Mode::Brctp => Load::Object { bytes: OBJECT },
                None => Load::Bulk,
            },
            Scenario::Fairness => Load::Bulk,
        }
    }

    fn delays(self, rate: Bitrate) -> Vec<Duration> {
        let milliseconds: &[u64] = match self {
            Scenario::BrtpMatrix if rate >= Bitrate::from_gbps(1) => &[10, 30, 50, 70, 100],
            Scenario::BrtpMatrix => &[10, 30, 50, 70, 90, 110],
            _ => &[10],
        };
        milliseconds.iter().map(|&ms| Duration::from_millis(ms)).collect()
    }

    fn losses(self) -> Vec<f64> {
        match self {
            Scenario::BrtpMatrix => vec![0.0, 0.02, 0.04, 0.06, 0.08, 0.1],
            Scenario::BtpResidual => vec![0.2, 0.3],
            _ => vec![0.0],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_matrices_have_the_published_cells() {
        let cells = Scenario::BrtpMatrix.cells(&Changes::default());
        let own: Vec<&Cell> = cells.iter().filter(|cell| !cell.peer).collect();
        assert_eq!((own.len(), cells.len()), (30, 90));
        assert_eq!(own[29].links.delay, Duration::from_millis(100));
        let rate = Some(Bitrate::from_mbps(100));
        let slower = Changes { rate, peers: Some(Vec::new()), ..Changes::default() };
        assert_eq!(Scenario::BrtpMatrix.cells(&slower).len(), 36);
    }

    #[test]
    fn peers_stand_beside_their_cell() {
        let peers = Some(vec![Mode::QuicCubic, Mode::QuicBbr, Mode::Kcp]);
        let cells = Scenario::Chain.cells(&Changes { peers, ..Changes::default() });
        let modes: Vec<&str> = cells.iter().map(|cell| cell.mode.name()).collect();
        assert_eq!(modes, ["brtp", "quic-cubic", "quic-bbr", "kcp"]);
        assert!(!cells[0].peer && cells[1].peer);
    }

    #[test]
    fn messages_follow_their_size_and_rate() {
        let changes = Changes {
            size: Some(1_000),
            send_rate: Some(Bitrate::from_mbps(8)),
            ..Changes::default()
        };
        let cells = Scenario::BtpResidual.cells(&changes);
        let losses: Vec<f64> = cells.iter().map(|cell| cell.links.loss).collect();
        assert_eq!(losses, [0.2, 0.3]);
        assert_eq!(cells[0].load.messages(), Some((1_000, 1_000.0)));
        let rtt = &Scenario::Rtt.cells(&Changes::default())[0];
        assert_eq!((rtt.mode, rtt.load.messages()), (Mode::Btp, Some((512, 100.0))));
    }
}
