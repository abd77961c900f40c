//! Congestion control of coded hops.
//!
//! Loss means little on the paths that coding is for, so [`Control::Coded`] goes by what loss does not hide: how fast packets pass the bottleneck, how long they queue
//! there, marks (ECN), and loss that rises with the rate. The page `docs/bats.md` has the reasoning; RFC 9265 is why loss that does come from sending too
//! fast is never hidden behind coding.

mod coded;
mod delay;
mod loss;
mod sent;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use self::coded::Coded;
use self::loss::{Counts, LossMeter};
use crate::quic::{
    AckedPacket, CongestionControl, CongestionController, CongestionFactory, CongestionSignal,
    PathReport,
};

/// Which controller a hop uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Control {
    /// Our own: random loss does not slow it; queues, marks and rising loss do.
    #[default]
    Coded,
    /// BBR version 3.
    Bbr3,
    /// CUBIC (RFC 9438).
    Cubic,
    /// None: this rate whatever happens, bytes of UDP payload per second. For links that one has to oneself, and for modes without feedback.
    Fixed(u64),
}

impl Control {
    /// As the engine below takes it.
    pub fn to_quic(self) -> CongestionControl {
        match self {
            Control::Coded => CongestionControl::Custom(Arc::new(CodedFactory)),
            Control::Bbr3 => CongestionControl::Bbr3,
            Control::Cubic => CongestionControl::Cubic,
            Control::Fixed(rate) => CongestionControl::Custom(Arc::new(FixedFactory(rate))),
        }
    }
}

#[derive(Debug)]
struct CodedFactory;

impl CongestionFactory for CodedFactory {
    fn build(&self, now: Instant, mtu: u16, window: u64) -> Box<dyn CongestionController> {
        Box::new(Coded::new(now, mtu, window))
    }
}

#[derive(Debug)]
struct FixedFactory(u64);

impl CongestionFactory for FixedFactory {
    fn build(&self, _: Instant, _: u16, _: u64) -> Box<dyn CongestionController> {
        Box::new(Fixed {
            rate: self.0.max(1),
            min_rtt: Duration::MAX,
            last_rtt: Duration::ZERO,
            loss: LossMeter::default(),
            batch: Counts::default(),
        })
    }
}

/// A rate that nothing changes. What is lost is counted all the same: relays and sources recode by it.
#[derive(Clone, Debug)]
struct Fixed {
    rate: u64,
    min_rtt: Duration,
    last_rtt: Duration,
    loss: LossMeter,
    /// What the acknowledgements that came together told.
    batch: Counts,
}

impl CongestionController for Fixed {
    fn on_packet_sent(&mut self, _: Instant, _: u64, _: u64) {}

    fn on_packet_acked(&mut self, packet: &AckedPacket) {
        self.min_rtt = packet.min_rtt;
        self.last_rtt = packet.smoothed_rtt;
        self.batch.arrived += 1;
    }

    fn on_acks_end(&mut self, _: Instant, _: u64, _: bool) {
        self.loss.smooth(std::mem::take(&mut self.batch));
    }

    fn on_packet_lost(&mut self, _: Instant, _: u64, number: u64) {
        self.loss.on_lost(number);
        self.batch.lost += 1;
    }

    fn on_congestion(&mut self, _: &CongestionSignal) {}

    fn on_mtu_update(&mut self, _: u16) {}

    /// Ten seconds' worth: acknowledgements may be late or lost and must not matter.
    fn window(&self) -> u64 {
        self.rate.saturating_mul(10).max(1 << 20)
    }

    fn initial_window(&self) -> u64 {
        self.window()
    }

    fn pacing_rate(&self) -> Option<u64> {
        Some(self.rate)
    }

    fn report(&self) -> Option<PathReport> {
        Some(PathReport {
            rate: self.rate,
            pacing: self.rate,
            min_rtt: self.min_rtt,
            last_rtt: self.last_rtt,
            pause: Duration::ZERO,
            loss: self.loss.smoothed(),
            burst: self.loss.burst(),
        })
    }

    fn clone_box(&self) -> Box<dyn CongestionController> {
        Box::new(self.clone())
    }
}
