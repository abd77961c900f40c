//! Named sets of cells.

use std::time::Duration;

use towline_sim::Bitrate;

use crate::cell::{Cell, Mode};

/// A scenario of the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// One hop: delays by losses.
    BrtpMatrix,
    /// Links in a row.
    Chain,
    /// Flows beside each other.
    Fairness,
}

/// What the command line may change of a scenario.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// See [`Cell::mode`].
    pub mode: Option<Mode>,
    /// See [`Cell::hops`].
    pub hops: Option<usize>,
    /// See [`Cell::rate`].
    pub rate: Option<Bitrate>,
    /// Delays; more than one make a row each.
    pub delays: Vec<Duration>,
    /// Losses; more than one make a row each.
    pub losses: Vec<f64>,
    /// See [`Cell::burst`].
    pub burst: Option<f64>,
    /// See [`Cell::hop_feedback`].
    pub hop_feedback: Option<bool>,
    /// See [`Cell::duration`].
    pub duration: Option<Duration>,
    /// See [`Cell::warmup`].
    pub warmup: Option<Duration>,
    /// See [`Cell::seed`].
    pub seed: Option<u64>,
    /// Baselines to run beside each cell.
    pub peers: Vec<Mode>,
}

impl Scenario {
    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Scenario::BrtpMatrix => "brtp-matrix",
            Scenario::Chain => "chain",
            Scenario::Fairness => "fairness",
        }
    }

    /// The cells of the scenario, in the order of their rows.
    pub fn cells(self, changes: &Changes) -> Vec<Cell> {
        let base = self.base(changes);
        let default = self.delays(base.rate);
        let delays = if changes.delays.is_empty() { &default } else { &changes.delays };
        let default = self.losses();
        let losses = if changes.losses.is_empty() { &default } else { &changes.losses };
        let mut cells = Vec::new();
        for &delay in delays {
            for &loss in losses {
                let cell = Cell { delay, loss, ..base.clone() };
                if self == Scenario::Fairness {
                    let beside = [(2, 0), (4, 0), (1, 1)];
                    let with = |(flows, cubic)| Cell { flows, cubic, ..cell.clone() };
                    cells.extend(beside.into_iter().map(with));
                    continue;
                }
                let peers = changes.peers.iter();
                let peers: Vec<Cell> =
                    peers.map(|&mode| Cell { mode, peer: true, ..cell.clone() }).collect();
                cells.push(cell);
                cells.extend(peers);
            }
        }
        cells
    }

    fn base(self, changes: &Changes) -> Cell {
        let default = Cell { scenario: self.name(), ..Cell::default() };
        let rate = match self {
            Scenario::BrtpMatrix => Bitrate::from_gbps(1),
            Scenario::Chain | Scenario::Fairness => Bitrate::from_mbps(100),
        };
        let warmup = match self {
            // The last of four flows starts after six seconds.
            Scenario::Fairness => Duration::from_secs(10),
            _ => Duration::from_secs(5),
        };
        let mode = match self {
            // Flows beside each other are hops by themselves so far.
            Scenario::Fairness => Mode::Raw,
            Scenario::BrtpMatrix | Scenario::Chain => changes.mode.unwrap_or(default.mode),
        };
        Cell {
            mode,
            hops: changes.hops.unwrap_or(1),
            rate: changes.rate.unwrap_or(rate),
            burst: changes.burst.unwrap_or(1.0),
            hop_feedback: changes.hop_feedback.unwrap_or(true),
            duration: changes.duration.unwrap_or(default.duration),
            warmup: changes.warmup.unwrap_or(warmup),
            seed: changes.seed.unwrap_or(default.seed),
            ..default
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
            Scenario::Chain | Scenario::Fairness => vec![0.0],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_matrices_have_the_published_cells() {
        let cells = Scenario::BrtpMatrix.cells(&Changes::default());
        assert_eq!(cells.len(), 30);
        assert_eq!(cells[29].delay, Duration::from_millis(100));
        let slower = Changes { rate: Some(Bitrate::from_mbps(100)), ..Changes::default() };
        assert_eq!(Scenario::BrtpMatrix.cells(&slower).len(), 36);
    }

    #[test]
    fn peers_stand_beside_their_cell() {
        let peers = vec![Mode::QuicCubic, Mode::QuicBbr];
        let cells = Scenario::Chain.cells(&Changes { peers, ..Changes::default() });
        let modes: Vec<&str> = cells.iter().map(|cell| cell.mode.name()).collect();
        assert_eq!(modes, ["brtp", "quic-cubic", "quic-bbr"]);
        assert!(!cells[0].peer && cells[1].peer);
    }
}
