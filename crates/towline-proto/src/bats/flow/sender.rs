//! The sending half of BRTP: bytes become symbols as late as the hop allows, and symbols are kept until the far end has them.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use towline_code::{Combination, HeldBatch, packets_for_deficit};

use super::clock::EndClock;
use super::config::{FlowConfig, HOP_WINDOW, INITIAL_WINDOW, MAX_WINDOW};
use super::repeats::Repeats;
use super::stats::FlowStats;
use crate::bats::flight::{Flight, Verdict};
use crate::bats::geometry::Geometry;
use crate::bats::hop::{Outcome, Path};
use crate::bats::wire::{
    MIXED_HEADER, Report, SOURCE_HEADER, mark_again, put_mixed_header, source_header,
};

/// The last byte of every stream symbol: bit 7 marks its end, bit 0 the end of the stream.
pub(super) const END_OF_SYMBOL: u8 = 0x80;
pub(super) const END_OF_STREAM: u8 = 0x01;

/// Packets are cut from allocations of this size.
const ARENA: usize = 64 * 1024;

/// A symbol that the far end may not have yet.
#[derive(Debug)]
struct Symbol {
    packet: Bytes,
    /// When it last left.
    sent: Instant,
    flight: Flight,
    /// The receiver asked for it though the neighbour had it.
    again: bool,
}

/// Combinations that a batch is owed.
#[derive(Clone, Copy, Debug)]
struct Owed {
    batch: u64,
    count: u32,
}

/// What leaves next.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) data: Bytes,
    /// The symbol whose fate this is; combinations have none.
    pub(super) number: Option<u64>,
    pub(super) urgent: bool,
}

#[derive(Debug)]
pub(super) struct StreamSender {
    geometry: Geometry,
    hop_feedback: bool,
    /// Bytes that a relay's coefficients may need.
    reserve: usize,
    seed: u64,
    drawn: u64,
    pending: VecDeque<Bytes>,
    pending_bytes: usize,
    finishing: bool,
    end_made: bool,
    /// The first symbol that the far end may lack; `symbols` begins with it.
    base: u64,
    symbols: VecDeque<Symbol>,
    symbol_bytes: usize,
    limit: u64,
    hop_limit: u64,
    resend: VecDeque<u64>,
    owed: VecDeque<Owed>,
    /// When each batch from `answered_base` on was last given combinations.
    answered: VecDeque<Option<Instant>>,
    answered_base: u64,
    /// The share of a batch that was missing when it was first asked for, smoothed.
    missing: f64,
    mixing: Option<(u64, HeldBatch<Bytes>)>,
    repeats: Repeats,
    clock: EndClock,
    /// The newest symbol that the far end has: a probe when there is no other.
    acknowledged: Option<Bytes>,
    arena: BytesMut,
}

impl StreamSender {
    pub(super) fn new(config: &FlowConfig, geometry: Geometry, now: Instant) -> StreamSender {
        // Where relays mix, a full symbol must leave room for their coefficients.
        let mixes = config.relayed && !config.hop_feedback;
        let reserve = if mixes || !config.hop_feedback {
            geometry.size.columns() + MIXED_HEADER - SOURCE_HEADER
        } else {
            0
        };
        StreamSender {
            geometry,
            hop_feedback: config.hop_feedback,
            reserve,
            seed: config.seed,
            drawn: 0,
            pending: VecDeque::new(),
            pending_bytes: 0,
            finishing: false,
            end_made: false,
            base: 0,
            symbols: VecDeque::new(),
            symbol_bytes: 0,
            limit: INITIAL_WINDOW,
            hop_limit: HOP_WINDOW,
            resend: VecDeque::new(),
            owed: VecDeque::new(),
            answered: VecDeque::new(),
            answered_base: 0,
            missing: 0.0,
            mixing: None,
            repeats: Repeats::new(config.protection),
            clock: EndClock::new(now),
            acknowledged: None,
            arena: BytesMut::new(),
        }
    }

    /// Accepted bytes that the far end has not acknowledged.
    pub(super) fn unacknowledged(&self) -> usize {
        self.pending_bytes + self.symbol_bytes
    }

    /// Whether nothing waits to be made into symbols.
    pub(super) fn is_drained(&self) -> bool {
        self.pending_bytes == 0 && (!self.finishing || self.end_made)
    }

    /// Whether the far end has everything, the end of the stream included if there is one.
    pub(super) fn is_acknowledged(&self) -> bool {
        self.is_drained() && self.symbols.is_empty()
    }

    /// The share of packets that do not arrive at the far end, roughly.
    pub(super) fn loss(&self, path: &Path) -> f64 {
        path.loss.max(self.missing)
    }

    pub(super) fn is_finishing(&self) -> bool {
        self.finishing
    }

    pub(super) fn end_to_end(&self) -> &EndClock {
        &self.clock
    }

    pub(super) fn push(&mut self, data: Bytes) {
        self.pending_bytes += data.len();
        self.pending.push_back(data);
    }

    pub(super) fn finish(&mut self) {
        self.finishing = true;
    }

    fn next(&self) -> u64 {
        self.base + self.symbols.len() as u64
    }

    fn symbol(&mut self, number: u64) -> Option<&mut Symbol> {
        let place = number.checked_sub(self.base)?;
        self.symbols.get_mut(usize::try_from(place).ok()?)
    }

    /// What the receiver can take at first.
    pub(super) fn on_window(&mut self, window: u64) {
        self.limit = self.limit.max(window.clamp(INITIAL_WINDOW, MAX_WINDOW));
    }

    /// The first symbol that the neighbour cannot take yet.
    pub(super) fn on_credit(&mut self, limit: u64) {
        self.hop_limit = self.hop_limit.max(limit);
    }

    /// The hop was replaced: nothing is known of what is under way, and what counted for the old one starts anew.
    pub(super) fn on_hop_changed(&mut self, now: Instant) {
        self.hop_limit = self.base + HOP_WINDOW;
        self.resend.clear();
        for (number, symbol) in (self.base..).zip(&mut self.symbols) {
            symbol.flight.reset();
            self.resend.push_back(number);
        }
        self.clock.on_heard(now);
    }

    /// A copy's fate.
    pub(super) fn on_fate(&mut self, number: u64, outcome: Outcome, path: &Path) {
        let Some(symbol) = self.symbol(number) else { return };
        if let Verdict::Resend(copies) = symbol.flight.on_fate(outcome, path.loss) {
            (0..copies).for_each(|_| self.resend.push_back(number));
        }
    }

    /// It was handed to the hop, in this many pieces.
    pub(super) fn on_sent(&mut self, number: u64, pieces: u8) {
        if let Some(symbol) = self.symbol(number) {
            symbol.flight.on_sent(pieces);
        }
    }

    /// What the receiver has; the bytes that it newly acknowledged.
    pub(super) fn on_report(&mut self, now: Instant, report: &Report, path: &Path) -> usize {
        self.clock.on_heard(now);
        let next = self.next();
        if report.next > next || report.end > next {
            return 0; // It cannot have seen what was never made.
        }
        self.limit = self.limit.max(report.limit.min(report.next.saturating_add(MAX_WINDOW)));
        if let Some(newest) = report.end.checked_sub(1).filter(|&n| self.clock.is_newest(n))
            && let Some(symbol) = self.symbol(newest).filter(|symbol| symbol.flight.is_first())
        {
            let sent = symbol.sent;
            self.clock.on_sample(now, sent, newest);
        }
        let mut acknowledged = 0;
        while self.base < report.next {
            let Some(symbol) = self.symbols.pop_front() else { break };
            acknowledged += symbol.packet.len().saturating_sub(SOURCE_HEADER + 1);
            self.base += 1;
            if self.base == report.next {
                self.acknowledged = Some(symbol.packet);
            }
        }
        self.symbol_bytes = self.symbol_bytes.saturating_sub(acknowledged);
        if acknowledged > 0 {
            self.clock.on_progress(now);
        }
        self.on_deficits(now, report, path);
        acknowledged
    }

    fn on_deficits(&mut self, now: Instant, report: &Report, path: &Path) {
        for &(batch, deficit) in &report.deficits {
            if self.hop_feedback {
                self.ask_again(now, batch, path);
            } else if deficit > 0 {
                self.answer(now, batch, usize::from(deficit), path);
            }
        }
    }

    /// The receiver lacks something of a batch that the neighbour has long had: it was lost behind it.
    fn ask_again(&mut self, now: Instant, batch: u64, path: &Path) {
        let patience = self.clock.patience(path);
        for column in 0..self.geometry.size.columns() as u16 {
            let number = self.geometry.number(batch, column);
            let Some(symbol) = self.symbol(number) else { continue };
            let flight = &mut symbol.flight;
            if flight.has_arrived()
                && !flight.is_queued()
                && now.duration_since(symbol.sent) > patience
            {
                flight.on_queued();
                symbol.again = true;
                self.resend.push_back(number);
            }
        }
    }

    /// Without feedback at each hop: a batch is given what it lacks, once in a round trip.
    fn answer(&mut self, now: Instant, batch: u64, deficit: usize, path: &Path) {
        let round = self.clock.round_trip(path).mul_f64(1.25) + Duration::from_millis(10);
        let m = self.geometry.size.columns();
        if self.geometry.number(batch, 0) >= self.next() {
            return;
        }
        let oldest = self.geometry.position(self.base).0 / self.geometry.interleave()
            * self.geometry.interleave();
        while self.answered_base < oldest {
            self.answered.pop_front();
            self.answered_base += 1;
        }
        let Some(place) = batch.checked_sub(self.answered_base) else { return };
        let place = place as usize; // Below the number of symbols, as the batch has one.
        if self.answered.len() <= place {
            self.answered.resize(place + 1, None);
        }
        let Some(answered) = self.answered.get_mut(place) else { return };
        if answered.is_some_and(|at| now.duration_since(at) <= round) {
            return;
        }
        let repeated = answered.replace(now).is_some();
        if !repeated {
            self.missing += (deficit as f64 / m as f64 - self.missing) / 32.0;
        }
        self.drawn += 1;
        let random =
            self.seed.rotate_left(17).wrapping_add(self.drawn.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let deficit = deficit.min(m);
        // What was answered before and is still missing holds up all that follows.
        let more = if repeated { 1 + deficit / 4 } else { 0 };
        let count = (packets_for_deficit(deficit, path.loss, random) + more) as u32;
        self.owed.push_back(Owed { batch, count: count.min(2 * m as u32) });
    }

    /// The next packet, made now. `idle` says that the hop could take more than there is.
    pub(super) fn poll(
        &mut self,
        now: Instant,
        max_packet: usize,
        path: &Path,
        stats: &mut FlowStats,
    ) -> Option<Outgoing> {
        if let Some(number) = self.repeats.poll(now)
            && let Some(symbol) = self.symbol(number)
            && !symbol.flight.has_arrived()
            && !symbol.flight.is_split()
        {
            let data = symbol.packet.clone();
            stats.protective += 1;
            return Some(Outgoing { data, number: Some(number), urgent: true });
        }
        if let Some(outgoing) = self.poll_resend(now, stats) {
            return Some(outgoing);
        }
        if let Some(outgoing) = self.poll_owed(stats) {
            return Some(outgoing);
        }
        if self.is_waiting() && self.clock.poll_probe(now, path) {
            return self.probe(now, stats);
        }
        self.make(now, max_packet, path, stats)
    }

    fn poll_resend(&mut self, now: Instant, stats: &mut FlowStats) -> Option<Outgoing> {
        while let Some(number) = self.resend.pop_front() {
            if number >= self.hop_limit {
                // A new hop has not granted it yet; what follows is not older.
                self.resend.push_front(number);
                return None;
            }
            let Some(symbol) = self.symbol(number) else { continue };
            if symbol.flight.has_arrived() && !symbol.again || symbol.flight.is_split() {
                continue;
            }
            if symbol.again {
                stats.end_repairs += 1;
                symbol.again = false;
                if let Some(marked) = mark_again(&symbol.packet) {
                    symbol.packet = marked;
                }
            } else {
                stats.hop_repairs += 1;
            }
            symbol.sent = now;
            let data = symbol.packet.clone();
            return Some(Outgoing { data, number: Some(number), urgent: false });
        }
        None
    }

    /// A combination of what the far end may lack of a batch.
    fn poll_owed(&mut self, stats: &mut FlowStats) -> Option<Outgoing> {
        while let Some(owed) = self.owed.front_mut() {
            if owed.count == 0 {
                self.owed.pop_front();
                continue;
            }
            owed.count -= 1;
            let batch = owed.batch;
            if let Some(data) = self.combine(batch) {
                stats.end_repairs += 1;
                return Some(Outgoing { data, number: None, urgent: false });
            }
            self.owed.pop_front();
        }
        None
    }

    fn combine(&mut self, batch: u64) -> Option<Bytes> {
        if self.mixing.as_ref().is_none_or(|(mixing, _)| *mixing != batch) {
            let mut held = HeldBatch::new(self.geometry.size);
            for column in 0..self.geometry.size.columns() as u16 {
                let number = self.geometry.number(batch, column);
                if let Some(symbol) = self.symbol(number) {
                    let data = symbol.packet.slice(SOURCE_HEADER..);
                    // Its own columns always fit.
                    let _new = held.push(Combination::Column(column), data);
                }
            }
            self.mixing = Some((batch, held));
        }
        let (_, held) = self.mixing.as_ref()?;
        self.drawn += 1;
        mix(held, batch, true, self.seed, self.drawn)
    }

    /// Whether only a report can move things on: for a symbol or for the window.
    fn is_waiting(&self) -> bool {
        !self.symbols.is_empty() || !self.is_drained() && self.next() >= self.limit
    }

    /// The oldest symbol again: whatever becomes of it, the receiver answers with a report.
    fn probe(&mut self, now: Instant, stats: &mut FlowStats) -> Option<Outgoing> {
        stats.probes += 1;
        let number = self.base;
        let Some(symbol) = self.symbol(number) else {
            let data = mark_again(self.acknowledged.as_ref()?)?;
            return Some(Outgoing { data, number: None, urgent: true });
        };
        symbol.sent = now;
        let data = mark_again(&symbol.packet)?;
        Some(Outgoing { data, number: Some(number), urgent: true })
    }

    /// Cuts the next symbol from what is pending.
    fn make(
        &mut self,
        now: Instant,
        max_packet: usize,
        path: &Path,
        stats: &mut FlowStats,
    ) -> Option<Outgoing> {
        let number = self.next();
        let may = number < self.limit && number < self.hop_limit && number - self.base < MAX_WINDOW;
        if !may || self.is_drained() {
            return None;
        }
        let room = max_packet.saturating_sub(SOURCE_HEADER + 1 + self.reserve).max(1);
        let length = room.min(self.pending_bytes);
        let total = SOURCE_HEADER + length + 1;
        if self.arena.capacity() < total {
            self.arena = BytesMut::with_capacity(ARENA.max(total));
        }
        self.arena.extend_from_slice(&source_header(number, false));
        self.take(length);
        let ends = self.finishing && self.pending_bytes == 0;
        let end = if ends { END_OF_SYMBOL | END_OF_STREAM } else { END_OF_SYMBOL };
        self.arena.extend_from_slice(&[end]);
        self.end_made |= ends;
        let data = self.arena.split().freeze();
        self.symbol_bytes += length;
        self.symbols.push_back(Symbol {
            packet: data.clone(),
            sent: now,
            flight: Flight::default(),
            again: false,
        });
        if self.symbols.len() == 1 {
            self.clock.on_progress(now);
        }
        stats.symbols += 1;
        let idle = self.pending_bytes == 0;
        let (urgent, withheld) = self.repeats.on_sent(now, number, total, idle, path);
        stats.protective_withheld += withheld;
        Some(Outgoing { data, number: Some(number), urgent })
    }

    /// Moves `length` pending bytes behind the header.
    fn take(&mut self, length: usize) {
        let mut left = length;
        while left > 0 {
            let Some(front) = self.pending.front_mut() else { break };
            let part = left.min(front.len());
            self.arena.extend_from_slice(front.get(..part).unwrap_or_default());
            front.advance(part);
            if front.is_empty() {
                self.pending.pop_front();
            }
            left -= part;
        }
        self.pending_bytes = self.pending_bytes.saturating_sub(length - left);
    }

    /// When `poll` has something that it does not have yet.
    pub(super) fn poll_timeout(&self, path: &Path) -> Option<Instant> {
        let probe = self.is_waiting().then(|| self.clock.probe_at(path));
        [self.repeats.poll_timeout(), probe].into_iter().flatten().min()
    }
}

/// A packet with a fresh combination of what is held of a batch.
pub(in crate::bats) fn mix<S: AsRef<[u8]>>(
    held: &HeldBatch<S>,
    batch: u64,
    again: bool,
    seed: u64,
    count: u64,
) -> Option<Bytes> {
    let mut coefficients = [0; crate::bats::wire::MAX_COLUMNS];
    let coefficients = coefficients.get_mut(..held.size().columns())?;
    let mut symbol = vec![0; held.longest()];
    held.combine(seed, count, &mut symbol, coefficients).ok()?;
    let mut out = BytesMut::with_capacity(MIXED_HEADER + coefficients.len() + symbol.len());
    put_mixed_header(batch, again, coefficients, &mut out);
    out.extend_from_slice(&symbol);
    Some(out.freeze())
}
