//! A bottleneck for tests: a token bucket and a short queue, random loss and delay, and flows over it, each with a controller and the engine's pacer, in
//! virtual time. It is what `towline lab` measures, without QUIC, so that minutes of it take a moment.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::super::coded::Coded;
use crate::bats::toy::Dice;
use crate::quic::{AckedPacket, CongestionController, CongestionSignal};

const STEP: Duration = Duration::from_micros(100);
/// Of an IP packet of 1,500 bytes: what the link counts, and what a controller counts.
const WIRE: f64 = 1_514.0;
const BYTES: u64 = 1_472;

/// One direction of a bottleneck.
#[derive(Clone, Debug)]
pub(super) struct Link {
    /// Bits per second, with Ethernet.
    pub(super) rate: f64,
    /// Seconds.
    pub(super) bucket: f64,
    pub(super) queue: f64,
    pub(super) delay: f64,
    pub(super) loss: f64,
    /// Mean length of a run of losses.
    pub(super) burst: f64,
    /// Loss of acknowledgements.
    pub(super) back_loss: f64,
    /// A queue from which packets are marked, seconds.
    pub(super) mark: f64,
    pub(super) down: bool,
}

impl Link {
    pub(super) fn new(mbps: f64, delay_ms: f64, loss: f64) -> Link {
        Link {
            rate: mbps * 1e6,
            bucket: 0.010,
            queue: 0.011,
            delay: delay_ms / 1e3,
            loss,
            burst: 1.0,
            back_loss: loss,
            mark: f64::INFINITY,
            down: false,
        }
    }

    /// Bytes per second as a controller counts them.
    pub(super) fn carries(&self) -> f64 {
        self.rate / 8.0 / WIRE * BYTES as f64
    }
}

/// What a flow has to send.
#[derive(Clone, Debug)]
pub(super) enum Source {
    Bulk,
    /// So many bytes per second at most.
    Rate(f64),
    /// Everything for so long, then nothing for so long, seconds.
    Bursts(f64, f64),
    /// Everything, but no more packets than this from the oldest that did not arrive: lost ones go again.
    Window(u64),
}

#[derive(Clone, Copy, Debug)]
struct Packet {
    at: Instant,
    symbol: u64,
}

/// One flow.
#[derive(Debug)]
pub(super) struct Sender {
    pub(super) control: Coded,
    pub(super) source: Source,
    pub(super) start: f64,
    next: u64,
    flying: BTreeMap<u64, Packet>,
    tokens: f64,
    filled: Instant,
    credit: f64,
    earned: f64,
    /// Of `Source::Window`.
    next_symbol: u64,
    missing: BTreeMap<u64, ()>,
    resend: VecDeque<u64>,
    /// On their way to the receiver, in order: when, number, marked.
    arriving: VecDeque<(f64, u64, bool)>,
    received: Vec<(u64, bool)>,
    ack_due: Option<f64>,
    acks: VecDeque<(f64, Vec<(u64, bool)>)>,
    smoothed: Option<Duration>,
    smallest: Duration,
    /// Packets that arrived, and that the queue dropped.
    pub(super) arrived: u64,
    pub(super) overflowed: u64,
    pub(super) sent: u64,
    /// What had arrived at the last mark.
    counted: u64,
}

impl Sender {
    fn new(source: Source, start: f64, now: Instant) -> Sender {
        Sender {
            control: Coded::new(now, BYTES as u16, 100 * BYTES),
            source,
            start,
            next: 0,
            flying: BTreeMap::new(),
            tokens: 0.0,
            filled: now,
            credit: 0.0,
            earned: 0.0,
            next_symbol: 0,
            missing: BTreeMap::new(),
            resend: VecDeque::new(),
            arriving: VecDeque::new(),
            received: Vec::new(),
            ack_due: None,
            acks: VecDeque::new(),
            smoothed: None,
            smallest: Duration::MAX,
            arrived: 0,
            overflowed: 0,
            sent: 0,
            counted: 0,
        }
    }

    /// The symbol that the next packet would carry, if there is one.
    fn wants(&mut self, elapsed: f64) -> Option<u64> {
        if elapsed < self.start {
            return None;
        }
        let has = match self.source {
            Source::Bulk => true,
            Source::Rate(rate) => {
                let earned = rate * (elapsed - self.earned);
                self.earned = elapsed;
                self.credit = (self.credit + earned).min(20.0 * BYTES as f64);
                self.credit >= BYTES as f64
            }
            Source::Bursts(on, off) => (elapsed - self.start) % (on + off) < on,
            Source::Window(window) => {
                if let Some(symbol) = self.resend.pop_front() {
                    return Some(symbol);
                }
                let oldest = self.missing.keys().next().copied().unwrap_or(self.next_symbol);
                self.next_symbol < oldest + window
            }
        };
        has.then(|| {
            self.next_symbol += 1;
            self.missing.insert(self.next_symbol - 1, ());
            self.next_symbol - 1
        })
    }

    /// Takes a packet from the pacer's bucket, which is as the engine's: 2 ms of the rate, of at least ten packets unless these take 10 ms.
    fn take_token(&mut self, now: Instant) -> bool {
        let rate = self.control.pacing_rate().unwrap_or(1) as f64;
        let mtu = BYTES as f64;
        let most = (rate * 0.01).max(mtu);
        let size = (rate * 0.002).clamp(10.0 * mtu, 256.0 * mtu).min(most);
        let elapsed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.filled = now;
        self.tokens = (self.tokens + rate * elapsed).min(size);
        self.tokens >= mtu && (self.flying.len() as u64 + 1) * BYTES <= self.control.window()
    }

    fn on_ack(&mut self, now: Instant, numbers: &[(u64, bool)]) {
        let mut marked = false;
        for &(number, mark) in numbers {
            let Some(packet) = self.flying.remove(&number) else { continue };
            self.missing.remove(&packet.symbol);
            marked |= mark;
            let rtt = now - packet.at;
            self.smallest = self.smallest.min(rtt);
            let smoothed = self.smoothed.map_or(rtt, |old| (old * 7 + rtt) / 8);
            self.smoothed = Some(smoothed);
            self.control.on_packet_acked(&AckedPacket {
                now,
                sent: packet.at,
                bytes: BYTES,
                number,
                app_limited: false,
                smoothed_rtt: smoothed,
                min_rtt: self.smallest,
            });
        }
        let Some(largest) = numbers.iter().map(|&(number, _)| number).max() else { return };
        let lost: Vec<u64> =
            self.flying.range(..largest.saturating_sub(2)).map(|(&number, _)| number).collect();
        for number in &lost {
            if let Some(packet) = self.flying.remove(number) {
                self.control.on_packet_lost(now, BYTES, *number);
                if matches!(self.source, Source::Window(_)) {
                    self.resend.push_back(packet.symbol);
                } else {
                    self.missing.remove(&packet.symbol);
                }
            }
        }
        if !lost.is_empty() || marked {
            self.control.on_congestion(&CongestionSignal {
                now,
                sent: now,
                persistent: false,
                marked,
                lost_bytes: lost.len() as u64 * BYTES,
                largest_lost: 0,
            });
        }
        self.control.on_acks_end(now, self.flying.len() as u64 * BYTES, false);
    }
}

/// A bottleneck and its flows.
#[derive(Debug)]
pub(super) struct Track {
    pub(super) link: Link,
    pub(super) flows: Vec<Sender>,
    base: Instant,
    pub(super) now: Instant,
    /// When the bucket was, or will be, empty; seconds.
    empty: f64,
    departures: VecDeque<f64>,
    dice: Dice,
    in_burst: bool,
    since: f64,
}

impl Track {
    pub(super) fn new(link: Link, flows: &[(Source, f64)], seed: u64) -> Track {
        let base = Instant::now();
        let flows = flows.iter().map(|(source, start)| Sender::new(source.clone(), *start, base));
        Track {
            link,
            flows: flows.collect(),
            base,
            now: base,
            empty: -1.0,
            departures: VecDeque::new(),
            dice: Dice::new(seed),
            in_burst: false,
            since: 0.0,
        }
    }

    pub(super) fn elapsed(&self) -> f64 {
        (self.now - self.base).as_secs_f64()
    }

    /// Seconds of queue.
    pub(super) fn queue(&self) -> f64 {
        (self.empty - self.elapsed()).max(0.0)
    }

    pub(super) fn run_to(&mut self, until: f64) {
        while self.elapsed() < until {
            self.now += STEP;
            self.step();
        }
    }

    /// Measures from here on.
    pub(super) fn mark(&mut self) {
        self.since = self.elapsed();
        for flow in &mut self.flows {
            flow.counted = flow.arrived;
        }
    }

    /// What arrived of a flow since the mark, of what the link could carry then.
    pub(super) fn share(&self, flow: usize) -> f64 {
        let Some(flow) = self.flows.get(flow) else { return 0.0 };
        let bytes = (flow.arrived - flow.counted) as f64 * BYTES as f64;
        let could = self.link.carries() * (1.0 - self.link.loss);
        bytes / (self.elapsed() - self.since) / could
    }

    /// Jain's index of all flows' shares since the mark.
    pub(super) fn jain(&self) -> f64 {
        let shares: Vec<f64> = (0..self.flows.len()).map(|flow| self.share(flow)).collect();
        let sum: f64 = shares.iter().sum();
        sum * sum / (shares.len() as f64 * shares.iter().map(|share| share * share).sum::<f64>())
    }

    fn lose(&mut self) -> bool {
        if self.link.burst <= 1.0 {
            return self.dice.chance(self.link.loss);
        }
        let leave = 1.0 / self.link.burst;
        let enter = leave * self.link.loss / (1.0 - self.link.loss);
        self.in_burst =
            if self.in_burst { !self.dice.chance(leave) } else { self.dice.chance(enter) };
        self.in_burst
    }

    /// When a packet leaves the bottleneck and whether it is marked, if the queue takes it.
    fn pass(&mut self, at: f64) -> Option<(f64, bool)> {
        while self.departures.front().is_some_and(|&departs| departs <= at) {
            self.departures.pop_front();
        }
        let cost = WIRE * 8.0 / self.link.rate;
        let waiting = self.departures.len() as f64 * cost;
        if waiting > 0.0 && waiting + cost > self.link.queue {
            return None;
        }
        self.empty = self.empty.max(at - self.link.bucket) + cost;
        if self.empty <= at {
            return Some((at, false));
        }
        self.departures.push_back(self.empty);
        Some((self.empty, waiting > self.link.mark))
    }

    fn step(&mut self) {
        let (now, at) = (self.now, self.elapsed());
        for index in 0..self.flows.len() {
            self.receive(index, now, at);
        }
        // Each flow in turn a packet, beginning with another one each time.
        let count = self.flows.len();
        let first = self.dice.below(count as u64) as usize;
        let mut blocked = vec![false; count];
        while blocked.contains(&false) {
            for turn in 0..count {
                let index = (first + turn) % count;
                if !blocked[index] {
                    blocked[index] = !self.send(index, now, at);
                }
            }
        }
    }

    fn receive(&mut self, index: usize, now: Instant, at: f64) {
        let delay = self.link.delay;
        let back_loss = self.link.back_loss;
        let down = self.link.down;
        let flow = &mut self.flows[index];
        while flow.arriving.front().is_some_and(|&(arrives, ..)| arrives <= at) {
            if let Some((_, number, marked)) = flow.arriving.pop_front() {
                flow.arrived += 1;
                flow.received.push((number, marked));
                flow.ack_due.get_or_insert(at + 0.002);
            }
        }
        let due = flow.ack_due.is_some_and(|due| due <= at);
        if due || flow.received.len() >= 64 {
            flow.ack_due = None;
            if down || self.dice.chance(back_loss) {
                // The next one says it again.
                if flow.received.len() >= 64 {
                    flow.ack_due = Some(at + 0.002);
                }
            } else {
                flow.acks.push_back((at + delay, std::mem::take(&mut flow.received)));
            }
        }
        while flow.acks.front().is_some_and(|(arrives, _)| *arrives <= at) {
            if let Some((_, numbers)) = flow.acks.pop_front() {
                flow.on_ack(now, &numbers);
            }
        }
    }

    /// Sends one packet of a flow; false when it may not or has none.
    fn send(&mut self, index: usize, now: Instant, at: f64) -> bool {
        let flow = &mut self.flows[index];
        if !flow.take_token(now) {
            return false;
        }
        let Some(symbol) = flow.wants(at) else { return false };
        flow.tokens -= BYTES as f64;
        if matches!(flow.source, Source::Rate(_)) {
            flow.credit -= BYTES as f64;
        }
        let number = flow.next;
        flow.next += 1;
        flow.sent += 1;
        flow.flying.insert(number, Packet { at: now, symbol });
        flow.control.on_packet_sent(now, BYTES, number);
        let passed = self.pass(at);
        let lost = self.lose() || self.link.down;
        let flow = &mut self.flows[index];
        match passed {
            None => flow.overflowed += 1,
            Some((departs, marked)) if !lost => {
                flow.arriving.push_back((departs + self.link.delay, number, marked));
            }
            Some(_) => {}
        }
        true
    }
}
