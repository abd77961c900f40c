//! One direction of a flow at a relay.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;

use super::arq::{self, Arq, Kind};
use super::config::{RelayConfig, RelayStats};
use crate::bats::control::Open;
use crate::bats::flow::Mode;
use crate::bats::geometry::Geometry;
use crate::bats::hop::{Outcome, Path};
use crate::bats::mixer::{self, Mixer};
use crate::bats::wire::Packet;

/// Most packets that wait for the flow's parameters.
const MAX_EARLY: usize = 1024;

#[derive(Debug)]
enum Engine {
    /// The parameters are not known yet.
    Waiting(VecDeque<(Packet, Bytes)>),
    Arq(Box<Arq>),
    Mixer(Box<Mixer>),
}

/// A packet to send.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) data: Bytes,
    /// Under which number its fate is wanted.
    pub(super) place: Option<u64>,
    pub(super) urgent: bool,
}

#[derive(Debug)]
pub(super) struct Direction {
    config: RelayConfig,
    engine: Engine,
    urgent: bool,
    /// Numbers jump from generation to generation, so that no credit can be told in them.
    rateless: bool,
    stats: RelayStats,
}

impl Direction {
    pub(super) fn new(config: RelayConfig) -> Direction {
        Direction {
            config,
            engine: Engine::Waiting(VecDeque::new()),
            urgent: false,
            rateless: false,
            stats: RelayStats::default(),
        }
    }

    pub(super) fn begin(&mut self, now: Instant, open: &Open, path: &Path) {
        let geometry = Geometry::new(open.size, open.interleave);
        let RelayConfig { max_packets, protection, seed } = self.config;
        self.urgent = open.mode == Mode::Btp;
        self.rateless = open.mode == Mode::Brctp;
        let engine = match open.mode {
            Mode::Brtp if open.hop_feedback => {
                Engine::Arq(Box::new(Arq::new(max_packets, protection)))
            }
            Mode::Btp => {
                Engine::Mixer(Box::new(Mixer::new(geometry, Some(protection), seed, max_packets)))
            }
            Mode::Brctp => {
                Engine::Mixer(Box::new(Mixer::new(geometry, None, seed, max_packets).rateless()))
            }
            _ => Engine::Mixer(Box::new(Mixer::new(geometry, None, seed, max_packets))),
        };
        if let Engine::Waiting(early) = std::mem::replace(&mut self.engine, engine) {
            for (packet, data) in early {
                self.on_packet(now, packet, data, path);
            }
        }
    }

    pub(super) fn stats(&self) -> RelayStats {
        let mut stats = self.stats;
        match &self.engine {
            Engine::Waiting(early) => stats.held = early.len() as u64,
            Engine::Arq(arq) => {
                stats.held = arq.live() as u64;
                stats.protective_withheld = arq.withheld;
            }
            Engine::Mixer(mixer) => {
                stats.held = mixer.waiting() as u64;
                stats.protective_withheld = mixer.withheld();
                stats.dropped.evicted_batches = mixer.evicted;
                stats.dropped.over_credit = mixer.overrun;
            }
        }
        stats
    }

    pub(super) fn on_received(&mut self) {
        self.stats.received += 1;
    }

    pub(super) fn on_malformed(&mut self) {
        self.stats.dropped.malformed += 1;
    }

    pub(super) fn on_report(&mut self) {
        self.stats.reports += 1;
    }

    /// A symbol or a combination.
    pub(super) fn on_packet(&mut self, now: Instant, packet: Packet, data: Bytes, path: &Path) {
        let dropped = &mut self.stats.dropped;
        match &mut self.engine {
            Engine::Waiting(early) if early.len() < MAX_EARLY => early.push_back((packet, data)),
            Engine::Waiting(_) => dropped.early += 1,
            Engine::Arq(arq) => {
                let taken = match packet {
                    Packet::Source { number, again, .. } => arq.on_source(number, again, data),
                    _ => arq.on_mixed(data),
                };
                match taken {
                    arq::Taken::New => {}
                    arq::Taken::Redundant => dropped.redundant += 1,
                    arq::Taken::Full => dropped.over_credit += 1,
                }
            }
            Engine::Mixer(mixer) => {
                let taken = match packet {
                    Packet::Source { number, again, .. } => {
                        mixer.on_source(now, number, again, &data, path)
                    }
                    Packet::Mixed(combination) => mixer.on_mixed(now, &combination, &data, path),
                    _ => mixer::Taken::Malformed,
                };
                match taken {
                    mixer::Taken::New => {}
                    mixer::Taken::Redundant => dropped.redundant += 1,
                    mixer::Taken::Malformed => dropped.malformed += 1,
                }
            }
        }
    }

    pub(super) fn limit(&self, window: u64) -> Option<u64> {
        match &self.engine {
            Engine::Waiting(_) => None,
            Engine::Arq(arq) => arq.limit(window),
            Engine::Mixer(_) if self.rateless => Some(crate::varint::MAX),
            Engine::Mixer(mixer) => {
                let end = mixer.end();
                (end > 0).then(|| (end + window).saturating_sub(mixer.waiting() as u64))
            }
        }
    }

    /// The smallest number that came.
    pub(super) fn first(&self) -> u64 {
        match &self.engine {
            Engine::Waiting(_) => 0,
            Engine::Arq(arq) => arq.first(),
            Engine::Mixer(mixer) => mixer.first(),
        }
    }

    pub(super) fn on_fate(&mut self, place: u64, outcome: Outcome, path: &Path) {
        if let Engine::Arq(arq) = &mut self.engine {
            arq.on_fate(place, outcome, path);
        }
    }

    pub(super) fn on_sent(&mut self, place: u64, pieces: u8) {
        if let Engine::Arq(arq) = &mut self.engine {
            arq.on_sent(place, pieces);
        }
    }

    pub(super) fn on_hop_changed(&mut self) {
        if let Engine::Arq(arq) = &mut self.engine {
            arq.on_hop_changed();
        }
    }

    pub(super) fn poll(&mut self, now: Instant, limit: u64, path: &Path) -> Option<Outgoing> {
        match &mut self.engine {
            Engine::Waiting(_) => None,
            Engine::Arq(arq) => {
                let out = arq.poll(now, limit, path)?;
                match out.kind {
                    Kind::First => self.stats.forwarded += 1,
                    Kind::Repair => self.stats.repaired += 1,
                    Kind::Protective => self.stats.protective += 1,
                }
                let urgent = out.kind == Kind::Protective;
                Some(Outgoing { data: out.data, place: Some(out.place), urgent })
            }
            Engine::Mixer(mixer) => {
                let out = mixer.poll(now, limit, path)?;
                match out.is_repair {
                    true => self.stats.recoded += 1,
                    false => self.stats.forwarded += 1,
                }
                Some(Outgoing { data: out.data, place: None, urgent: self.urgent })
            }
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        match &self.engine {
            Engine::Waiting(_) => None,
            Engine::Arq(arq) => arq.poll_timeout(),
            Engine::Mixer(mixer) => mixer.poll_timeout(),
        }
    }
}
