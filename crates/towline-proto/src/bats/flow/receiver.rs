//! The receiving half of BRTP: symbols in any order become bytes in order.

use std::collections::VecDeque;

use bytes::Bytes;
use towline_code::{Combination, HeldBatch};

use super::config::FlowConfig;
use super::sealing::Source;
use super::sender::{END_OF_STREAM, END_OF_SYMBOL};
use super::stats::FlowStats;
use crate::bats::geometry::Geometry;
use crate::bats::wire::{MAX_DEFICITS, Mixed, Report, expand};

/// Deficits in a report where hops repair their own losses: only what none of them repairs is ever asked for.
const HOP_DEFICITS: usize = 16;

/// One batch of which something is kept.
#[derive(Debug, Default)]
struct Batch {
    /// Columns known.
    known: u8,
    /// Only once something mixed came.
    held: Option<Box<HeldBatch<Bytes>>>,
}

impl Batch {
    fn rank(&self) -> u64 {
        self.held.as_ref().map_or(u64::from(self.known), |held| held.rank() as u64)
    }
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    New,
    Redundant,
    /// Fits no batch, or its symbol has no end.
    Malformed,
    BeyondWindow,
}

#[derive(Debug)]
pub(super) struct StreamReceiver {
    geometry: Geometry,
    window: u64,
    max_deficits: usize,
    /// The first symbol that is kept: the beginning of a group.
    first: u64,
    /// Symbols from `first` on. Delivered ones stay until their group is whole, for combinations may contain them.
    symbols: VecDeque<Option<Bytes>>,
    batches: VecDeque<Batch>,
    /// Every symbol before this one was delivered.
    next: u64,
    /// The number after the largest one seen.
    end: u64,
    ready: VecDeque<Bytes>,
    /// How many of the delivered symbols are not read.
    unread: u64,
    finished: bool,
    serial: u64,
    /// Where the next report goes on with its list.
    cursor: u64,
}

impl StreamReceiver {
    pub(super) fn new(geometry: Geometry, config: &FlowConfig) -> StreamReceiver {
        StreamReceiver {
            geometry,
            window: config.receive_window,
            max_deficits: if config.hop_feedback { HOP_DEFICITS } else { MAX_DEFICITS },
            first: 0,
            symbols: VecDeque::new(),
            batches: VecDeque::new(),
            next: 0,
            end: 0,
            ready: VecDeque::new(),
            unread: 0,
            finished: false,
            serial: 0,
            cursor: 0,
        }
    }

    /// Whether something is missing before the newest symbol.
    pub(super) fn has_gaps(&self) -> bool {
        self.next < self.end
    }

    /// Whether the end of the stream was reached.
    pub(super) fn is_finished(&self) -> bool {
        self.finished
    }

    /// The first symbol that may not be sent yet.
    pub(super) fn limit(&self) -> u64 {
        self.next - self.unread.min(self.next) + self.window
    }

    fn batch(&mut self, batch: u64) -> Option<&mut Batch> {
        let first = self.geometry.position(self.first).0;
        self.batches.get_mut(usize::try_from(batch.checked_sub(first)?).ok()?)
    }

    /// Makes places up to and with the group of symbol `number`, which lies within the window.
    fn grow(&mut self, number: u64) {
        let group = self.geometry.group();
        let end = (number / group + 1) * group - self.first;
        if (self.symbols.len() as u64) < end {
            self.symbols.resize(end as usize, None);
            self.batches.resize_with((end / self.geometry.columns()) as usize, Batch::default);
        }
    }

    /// A symbol as its source made it.
    pub(super) fn on_source(&mut self, low: u32, symbol: Bytes, stats: &mut FlowStats) -> Taken {
        let number = expand(low, self.end);
        if number < self.next {
            return Taken::Redundant;
        }
        if number >= self.limit() {
            return Taken::BeyondWindow;
        }
        if symbol.last().is_none_or(|&end| end & END_OF_SYMBOL == 0) {
            return Taken::Malformed;
        }
        self.grow(number);
        self.end = self.end.max(number + 1);
        if !self.put(number, symbol.clone()) {
            return Taken::Redundant;
        }
        let (id, column) = self.geometry.position(number);
        if let Some(batch) = self.batch(id)
            && let Some(held) = &mut batch.held
            && held.push(Combination::Column(column), symbol) == Ok(true)
        {
            self.recover(id, stats);
        }
        self.deliver();
        Taken::New
    }

    /// A combination of a batch.
    pub(super) fn on_mixed(&mut self, mixed: Mixed, stats: &mut FlowStats) -> Taken {
        let Mixed { coefficients, symbol, .. } = mixed;
        let newest = self.geometry.position(self.end.saturating_sub(1)).0;
        let id = expand(mixed.batch, newest);
        let last = coefficients.iter().rposition(|&c| c != 0).unwrap_or(0);
        let number = self.geometry.number(id, last as u16);
        if self.geometry.number(id, self.geometry.size.columns() as u16 - 1) < self.first {
            return Taken::Redundant;
        }
        if number >= self.limit() {
            return Taken::BeyondWindow;
        }
        if coefficients.len() > self.geometry.size.columns() {
            return Taken::Malformed;
        }
        self.grow(number);
        self.end = self.end.max(number + 1);
        if self.batch(id).is_some_and(|batch| batch.held.is_none()) {
            let held = self.hold(id);
            if let Some(batch) = self.batch(id) {
                batch.held = Some(Box::new(held));
            }
        }
        let Some(held) = self.batch(id).and_then(|batch| batch.held.as_mut()) else {
            return Taken::Redundant;
        };
        match held.push(Combination::Coefficients(&coefficients), symbol) {
            Err(_) => Taken::Malformed,
            Ok(false) => Taken::Redundant,
            Ok(true) => {
                self.recover(id, stats);
                self.deliver();
                Taken::New
            }
        }
    }

    /// What is known of a batch, for combinations to be measured against.
    fn hold(&self, id: u64) -> HeldBatch<Bytes> {
        let mut held = HeldBatch::new(self.geometry.size);
        for column in 0..self.geometry.size.columns() as u16 {
            let place = self.geometry.number(id, column) - self.first;
            if let Some(Some(symbol)) = self.symbols.get(place as usize) {
                // A column of the batch always fits.
                let _new = held.push(Combination::Column(column), symbol.clone());
            }
        }
        held
    }

    /// Takes what combinations determined.
    fn recover(&mut self, id: u64, stats: &mut FlowStats) {
        while let Some(held) = self.batch(id).and_then(|batch| batch.held.as_mut())
            && let Some(column) = held.poll_recovered()
        {
            let Some(symbol) = held.column(column) else { continue };
            // Zeros may follow the end of a recovered symbol.
            let length = symbol.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
            let symbol = Bytes::copy_from_slice(symbol.get(..length).unwrap_or_default());
            if symbol.last().is_some_and(|&end| end & END_OF_SYMBOL != 0) {
                stats.recovered += 1;
                self.put(self.geometry.number(id, column), symbol);
            }
        }
    }

    fn put(&mut self, number: u64, symbol: Bytes) -> bool {
        let Some(place) = number.checked_sub(self.first) else { return false };
        let Some(slot) = self.symbols.get_mut(place as usize) else { return false };
        if slot.is_some() {
            return false;
        }
        *slot = Some(symbol);
        let (id, _) = self.geometry.position(number);
        if let Some(batch) = self.batch(id) {
            batch.known += 1;
        }
        true
    }

    fn deliver(&mut self) {
        while let Some(Some(symbol)) = self.symbols.get((self.next - self.first) as usize) {
            let Some((&end, payload)) = symbol.split_last() else { break };
            if !payload.is_empty() && !self.finished {
                self.ready.push_back(symbol.slice(..payload.len()));
                self.unread += 1;
            }
            self.finished |= end & END_OF_STREAM != 0;
            self.next += 1;
        }
        let group = self.geometry.group();
        while self.next - self.first >= group {
            self.symbols.drain(..group as usize);
            self.batches.drain(..self.geometry.interleave() as usize);
            self.first += group;
        }
    }

    /// What the far end should know. While packets come, what relays may still be repairing is not asked for; once they `pause`,
    /// everything missing is.
    pub(super) fn report(&mut self, paused: bool) -> Report {
        self.serial += 1;
        let mut report = Report {
            serial: self.serial,
            next: self.next,
            limit: self.limit(),
            end: self.end,
            deficits: Vec::new(),
        };
        if !self.has_gaps() {
            return report;
        }
        let first = self.geometry.position(self.first).0;
        let newest = first + self.batches.len() as u64;
        let from = if (first..newest).contains(&self.cursor) { self.cursor } else { first };
        for (id, batch) in (first..).zip(&self.batches).skip((from - first) as usize) {
            let group = id / self.geometry.interleave() + 1;
            if !paused && group * self.geometry.group() + self.geometry.group() / 2 > self.end {
                break;
            }
            let columns = self.geometry.columns_before(id, self.end);
            let deficit = columns.saturating_sub(batch.rank());
            if deficit > 0 && u64::from(batch.known) < columns {
                report.deficits.push((id, deficit as u8));
            }
            self.cursor = id + 1;
            if report.deficits.len() == self.max_deficits {
                return report;
            }
        }
        self.cursor = first;
        report
    }
}

impl Source for StreamReceiver {
    fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    fn read(&mut self) -> Option<Bytes> {
        let bytes = self.ready.pop_front()?;
        self.unread = self.unread.saturating_sub(1);
        Some(bytes)
    }
}
