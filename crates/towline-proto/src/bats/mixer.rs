//! A node that mixes: what is new goes out at once, and combinations of its batch are added against the losses of the next hop. The source of
//! a BTP flow is one, and so is every relay that answers for nothing.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use towline_code::{Combination, HeldBatch, RecodingTable, packets_for_deficit};

use super::flow::{Protection, mix};
use super::geometry::Geometry;
use super::hop::Path;
use super::runs::Runs;
use super::wire::{self, SOURCE_HEADER, expand};

/// When nothing came for this long, batches are closed as they are.
const PAUSE: Duration = Duration::from_millis(10);
/// Of rateless flows: batches that are open at a time, and those that are kept because combinations of them may still wait.
const OPEN_BATCHES: usize = 2;
const SPENT_BATCHES: usize = 256;
/// The table of redundancy is made anew after this many batches.
const TABLE_PERIOD: u32 = 64;

/// How redundancy is chosen.
#[derive(Debug)]
enum Spending {
    /// As much as the link's rate allows, when a batch is complete.
    Rate,
    /// What protection asks for, as it goes.
    Runs(Runs),
}

/// Batches in the order in which they were sent on, where their numbers do not tell.
#[derive(Debug, Default)]
struct Order {
    open: VecDeque<u64>,
    spent: VecDeque<u64>,
}

#[derive(Debug)]
struct Coded {
    held: HeldBatch<Bytes>,
    sent: u32,
    closed: bool,
}

/// A packet to send.
#[derive(Debug)]
pub(crate) struct Mixed {
    pub(crate) data: Bytes,
    /// It is a combination of its own.
    pub(crate) is_repair: bool,
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    New,
    Redundant,
    Malformed,
}

#[derive(Debug)]
pub(crate) struct Mixer {
    geometry: Geometry,
    spending: Spending,
    max_batches: usize,
    max_queue: usize,
    seed: u64,
    drawn: u64,
    batches: BTreeMap<u64, Coded>,
    /// Batches before this one are closed.
    open_from: u64,
    end: u64,
    first: Option<u64>,
    /// The number after the largest one sent on.
    sent_end: u64,
    /// When something last came.
    touched: Option<Instant>,
    /// What the receiver asked for, on its way.
    asked: VecDeque<(u64, Bytes)>,
    fresh: VecDeque<(u64, Option<u64>, Bytes)>,
    /// Batch, how many combinations, and whether the receiver asked for them.
    owed: VecDeque<(u64, u32, bool)>,
    /// How often batches had each rank when they closed, of late.
    ranks: Vec<f64>,
    table: Option<RecodingTable>,
    closed: u32,
    /// Rateless flows only.
    order: Option<Order>,
    /// Batches dropped to make room.
    pub(crate) evicted: u64,
    /// New packets dropped because too many waited.
    pub(crate) overrun: u64,
}

impl Mixer {
    pub(crate) fn new(
        geometry: Geometry,
        protection: Option<Protection>,
        seed: u64,
        max_packets: usize,
    ) -> Mixer {
        Mixer {
            geometry,
            spending: protection.map_or(Spending::Rate, |p| Spending::Runs(Runs::new(p))),
            max_batches: (max_packets / geometry.size.columns()).max(4),
            max_queue: max_packets,
            seed,
            drawn: 0,
            batches: BTreeMap::new(),
            open_from: 0,
            end: 0,
            first: None,
            sent_end: 0,
            touched: None,
            asked: VecDeque::new(),
            fresh: VecDeque::new(),
            owed: VecDeque::new(),
            ranks: vec![0.0; geometry.size.columns() + 1],
            table: None,
            closed: 0,
            order: None,
            evicted: 0,
            overrun: 0,
        }
    }

    /// Numbers jump back and forth: batches are closed in the order in which they are sent on.
    pub(crate) fn rateless(self) -> Mixer {
        Mixer { order: Some(Order::default()), ..self }
    }

    /// The number after the largest one seen.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// The smallest number seen.
    pub(crate) fn first(&self) -> u64 {
        self.first.unwrap_or(0)
    }

    /// Packets that wait to be sent on.
    pub(crate) fn waiting(&self) -> usize {
        self.fresh.len() + self.asked.len()
    }

    pub(crate) fn withheld(&self) -> u64 {
        if let Spending::Runs(runs) = &self.spending { runs.withheld } else { 0 }
    }

    /// A symbol as its source made it, in its packet.
    pub(crate) fn on_source(
        &mut self,
        now: Instant,
        low: u32,
        again: bool,
        packet: &Bytes,
        path: &Path,
    ) -> Taken {
        let number = expand(low, self.end);
        let (batch, column) = self.geometry.position(number);
        let symbol = packet.slice(SOURCE_HEADER.min(packet.len())..);
        self.end = self.end.max(number + 1);
        self.first = Some(self.first.map_or(number, |first| first.min(number)));
        let taken = self.push(now, batch, Combination::Column(column), symbol);
        if taken == Taken::New || again && taken == Taken::Redundant {
            self.forward(batch, Some(number), again, packet.clone());
        }
        if taken == Taken::New {
            let last = u64::from(column) + 1 == self.geometry.columns();
            self.on_new(now, batch, packet.len(), last, path);
        }
        taken
    }

    /// A combination, in its packet.
    pub(crate) fn on_mixed(
        &mut self,
        now: Instant,
        combination: &wire::Mixed,
        packet: &Bytes,
        path: &Path,
    ) -> Taken {
        let newest = self.geometry.position(self.end.saturating_sub(1)).0;
        let wire::Mixed { again, coefficients, symbol, .. } = combination;
        let batch = expand(combination.batch, newest);
        if coefficients.len() > self.geometry.size.columns() {
            return Taken::Malformed;
        }
        let last = coefficients.iter().rposition(|&c| c != 0).unwrap_or(0) as u16;
        self.end = self.end.max(self.geometry.number(batch, last).saturating_add(1));
        let taken = self.push(now, batch, Combination::Coefficients(coefficients), symbol.clone());
        if taken == Taken::New {
            self.forward(batch, None, *again, packet.clone());
            self.on_new(now, batch, packet.len(), false, path);
        } else if *again && taken == Taken::Redundant {
            // It was lost behind this node, which has something fresh to say about it.
            let random = self.draw();
            self.owe(batch, packets_for_deficit(1, path.loss, random) as u32, true);
            return Taken::New;
        }
        taken
    }

    fn push(
        &mut self,
        now: Instant,
        batch: u64,
        combination: Combination<'_>,
        symbol: Bytes,
    ) -> Taken {
        let size = self.geometry.size;
        let coded = self.batches.entry(batch).or_insert_with(|| Coded {
            held: HeldBatch::new(size),
            sent: 0,
            closed: false,
        });
        self.touched = Some(now);
        let taken = match coded.held.push(combination, symbol) {
            Ok(true) => Taken::New,
            Ok(false) => Taken::Redundant,
            Err(_) => Taken::Malformed,
        };
        if self.batches.len() > self.max_batches {
            self.batches.pop_first();
            self.evicted += 1;
        }
        taken
    }

    fn forward(&mut self, batch: u64, number: Option<u64>, again: bool, packet: Bytes) {
        if again && self.asked.len() < self.max_queue {
            self.asked.push_back((batch, packet));
        } else if !again && self.fresh.len() < self.max_queue {
            self.fresh.push_back((batch, number, packet));
        } else {
            self.overrun += 1;
        }
    }

    fn on_new(&mut self, now: Instant, batch: u64, bytes: usize, last: bool, path: &Path) {
        match &mut self.spending {
            Spending::Runs(runs) => runs.on_new(now, batch, bytes, last, path),
            // What comes after a batch was closed answers the receiver, and is given its share at once.
            Spending::Rate => {
                if self.batches.get(&batch).is_some_and(|coded| coded.closed) {
                    let random = self.draw();
                    let more = packets_for_deficit(1, path.loss, random).saturating_sub(1);
                    self.owe(batch, more as u32, true);
                }
            }
        }
    }

    fn draw(&mut self) -> u64 {
        self.drawn += 1;
        let z = (self.seed ^ self.drawn).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        (z ^ (z >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9)
    }

    fn owe(&mut self, batch: u64, count: u32, again: bool) {
        if count > 0 && self.owed.len() < self.max_queue {
            self.owed.push_back((batch, count, again));
        }
    }

    /// Closes the batches of groups that have passed. What is added to a batch must not overtake the batch itself: a receiver takes what lies
    /// before the newest symbol and has not come for lost.
    fn close_passed(&mut self, path: &Path) {
        if matches!(self.spending, Spending::Runs(_)) || self.order.is_some() {
            return;
        }
        let (group, interleave) = (self.geometry.group(), self.geometry.interleave());
        // A group has passed when the next one is well begun: packets overtake one another.
        let passed = self.sent_end.saturating_sub(2 * interleave + 4) / group * interleave;
        while self.open_from < passed
            && let Some((&batch, _)) = self.batches.range(self.open_from..passed).next()
        {
            self.open_from = batch + 1;
            self.close(batch, path);
        }
        self.open_from = self.open_from.max(passed);
    }

    /// Something of a batch was sent on: those long before it are over.
    fn on_passed(&mut self, batch: u64, path: &Path) {
        let Some(order) = &mut self.order else { return };
        if order.open.back() == Some(&batch) || order.open.contains(&batch) {
            return;
        }
        order.open.push_back(batch);
        if order.open.len() > OPEN_BATCHES
            && let Some(batch) = order.open.pop_front()
        {
            self.spend(batch, path);
        }
    }

    /// Closes a batch, and forgets one that was closed long ago.
    fn spend(&mut self, batch: u64, path: &Path) {
        self.close(batch, path);
        let Some(order) = &mut self.order else { return };
        order.spent.push_back(batch);
        if order.spent.len() > SPENT_BATCHES
            && let Some(batch) = order.spent.pop_front()
        {
            self.batches.remove(&batch);
        }
    }

    fn close(&mut self, batch: u64, path: &Path) {
        let Some(coded) = self.batches.get_mut(&batch).filter(|coded| !coded.closed) else {
            return;
        };
        coded.closed = true;
        let (rank, sent) = (coded.held.rank(), coded.sent);
        self.ranks.iter_mut().for_each(|weight| *weight *= 0.995);
        if let Some(weight) = self.ranks.get_mut(rank) {
            *weight += 1.0;
        }
        self.closed += 1;
        let m = self.geometry.size.columns();
        if self.table.is_none() || self.closed >= TABLE_PERIOD {
            self.closed = 0;
            let loss = path.loss.clamp(0.0, 0.95);
            self.table = RecodingTable::new(&self.ranks, loss, m as f64, 4 * m).ok();
        }
        let random = self.draw();
        let packets = self.table.as_ref().map_or(rank, |table| table.packets(rank, random));
        self.owe(batch, (packets as u32).saturating_sub(sent), false);
    }

    /// The next packet. `limit` is the first symbol that the neighbour cannot take.
    pub(crate) fn poll(&mut self, now: Instant, limit: u64, path: &Path) -> Option<Mixed> {
        self.close_idle(now, path);
        if let Spending::Runs(runs) = &mut self.spending {
            while let Some(batch) = runs.poll(now, 1400, path) {
                if let Some(data) = self.batches.get(&batch).and_then(|coded| {
                    self.drawn += 1;
                    mix(&coded.held, batch, false, self.seed, self.drawn)
                }) {
                    return Some(Mixed { data, is_repair: true });
                }
            }
        }
        while let Some((batch, count, again)) = self.owed.pop_front() {
            let Some(coded) = self.batches.get_mut(&batch) else { continue };
            coded.sent += 1;
            self.drawn += 1;
            let Some(data) = mix(&coded.held, batch, again, self.seed, self.drawn) else {
                continue;
            };
            if count > 1 {
                // In turn, so that a burst of losses is shared out.
                self.owed.push_back((batch, count - 1, again));
            }
            return Some(Mixed { data, is_repair: true });
        }
        if let Some((batch, data)) = self.asked.pop_front() {
            if let Some(coded) = self.batches.get_mut(&batch) {
                coded.sent += 1;
            }
            return Some(Mixed { data, is_repair: false });
        }
        if self.fresh.front()?.1.is_some_and(|number| number >= limit) {
            return None;
        }
        let (batch, number, data) = self.fresh.pop_front()?;
        if let Some(number) = number {
            self.sent_end = self.sent_end.max(number + 1);
            self.close_passed(path);
        }
        self.on_passed(batch, path);
        if let Some(coded) = self.batches.get_mut(&batch) {
            coded.sent += 1;
        }
        Some(Mixed { data, is_repair: false })
    }

    /// Closes what nothing more comes of: the tail of a transfer.
    fn close_idle(&mut self, now: Instant, path: &Path) {
        if self.idle_at().is_none_or(|at| at > now) {
            return;
        }
        while let Some(batch) = self.order.as_mut().and_then(|order| order.open.pop_front()) {
            self.spend(batch, path);
        }
        let open = self.batches.range(self.open_from..);
        let open: Vec<u64> = open.filter(|(_, coded)| !coded.closed).map(|(&id, _)| id).collect();
        open.into_iter().for_each(|batch| self.close(batch, path));
        self.touched = None;
    }

    /// When nothing more seems to come.
    fn idle_at(&self) -> Option<Instant> {
        let waits = matches!(self.spending, Spending::Rate) && self.fresh.is_empty();
        self.touched.filter(|_| waits).map(|at| at + PAUSE)
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        match &self.spending {
            Spending::Runs(runs) => runs.poll_timeout(),
            Spending::Rate => self.idle_at(),
        }
    }

    /// Forgets batches that nothing is to be added to: those before `batch`.
    pub(crate) fn forget_before(&mut self, batch: u64) {
        while self.batches.first_key_value().is_some_and(|(&first, _)| first < batch) {
            self.batches.pop_first();
        }
    }
}
