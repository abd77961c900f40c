//! BTP: messages with a deadline, coded, never sent again.
//!
//! Each message is one or more symbols of its own. A symbol ends with the time at which its message was accepted (16 bits, in quarters of a
//! millisecond) and a byte of flags, so that what is late can be told without clocks that agree: the quickest packet of late defines
//! what the path itself takes.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use towline_code::{Combination, HeldBatch};

use super::config::FlowConfig;
use super::stats::FlowStats;
use crate::bats::geometry::Geometry;
use crate::bats::hop::Path;
use crate::bats::mixer::{Mixed, Mixer};
use crate::bats::seal::Key;
use crate::bats::wire::{self, MIXED_HEADER, SOURCE_HEADER, expand, source_header};

/// Bytes at the end of a symbol.
pub(super) const TRAILER: usize = 3;
/// The flags: always set, first symbol of a message, last symbol of a message.
const PRESENT: u8 = 0x80;
const FIRST: u8 = 0x01;
const LAST: u8 = 0x02;

/// Most symbols in a message.
pub(super) const MAX_SYMBOLS: usize = 256;
/// Batches that a source may still add to.
const SENT_BATCHES: u64 = 64;
/// Batches that a receiver keeps.
const KEPT_BATCHES: u64 = 256;
/// Messages that wait to be read, at most.
const MAX_READY: usize = 65_536;
/// The quickest packet is forgotten after one to two of these.
const QUICKEST_PERIOD: Duration = Duration::from_secs(10);

fn ticks(elapsed: Duration) -> u16 {
    (elapsed.as_micros() / 250) as u16
}

/// The sending half.
#[derive(Debug)]
pub(super) struct DatagramSender {
    geometry: Geometry,
    mixer: Mixer,
    base: Instant,
    deadline: Duration,
    /// Messages with the time at which they were first seen here.
    queue: VecDeque<(Option<Instant>, Bytes)>,
    bytes: usize,
    next: u64,
    expired: u64,
    /// Messages are sealed: the first symbol's number makes the nonce, the stamp is bound in.
    key: Option<Key>,
}

impl DatagramSender {
    pub(super) fn new(config: &FlowConfig, geometry: Geometry, now: Instant) -> DatagramSender {
        let packets = SENT_BATCHES as usize * geometry.size.columns();
        DatagramSender {
            geometry,
            mixer: Mixer::new(geometry, Some(config.protection), config.seed, packets),
            base: now,
            deadline: config.deadline,
            queue: VecDeque::new(),
            bytes: 0,
            next: 0,
            expired: 0,
            key: None,
        }
    }

    pub(super) fn on_key(&mut self, key: Key) {
        self.key = Some(key);
    }

    /// Bytes of messages that have not left.
    pub(super) fn waiting(&self) -> usize {
        self.bytes
    }

    /// Messages whose deadline passed before they could leave, since this was last asked.
    pub(super) fn take_expired(&mut self) -> u64 {
        std::mem::take(&mut self.expired)
    }

    pub(super) fn push(&mut self, message: Bytes) {
        self.bytes += message.len();
        self.queue.push_back((None, message));
    }

    /// Drops what has become too old.
    pub(super) fn expire(&mut self, now: Instant) {
        for (accepted, _) in self.queue.iter_mut().rev().take_while(|(at, _)| at.is_none()) {
            *accepted = Some(now);
        }
        while let Some((Some(at), message)) = self.queue.front()
            && *at + self.deadline < now
        {
            self.bytes -= message.len();
            self.expired += 1;
            self.queue.pop_front();
        }
    }

    pub(super) fn poll(
        &mut self,
        now: Instant,
        max_packet: usize,
        path: &Path,
        stats: &mut FlowStats,
    ) -> Option<Mixed> {
        loop {
            if let Some(mixed) = self.mixer.poll(now, u64::MAX, path) {
                stats.protective += u64::from(mixed.is_repair);
                stats.protective_withheld = self.mixer.withheld();
                return Some(mixed);
            }
            let (accepted, message) = self.queue.pop_front()?;
            self.bytes -= message.len();
            self.cut(now, accepted.unwrap_or(now), &message, max_packet, path, stats);
        }
    }

    /// Makes a message's symbols.
    fn cut(
        &mut self,
        now: Instant,
        accepted: Instant,
        message: &Bytes,
        max_packet: usize,
        path: &Path,
        stats: &mut FlowStats,
    ) {
        let room = symbol_room(max_packet, self.geometry);
        let stamp = ticks(accepted.saturating_duration_since(self.base)).to_be_bytes();
        let mut sealed = BytesMut::new();
        let message: &[u8] = match &self.key {
            None => message,
            Some(key) => {
                sealed.extend_from_slice(message);
                if key.seal(self.next, &stamp, &mut sealed, 0).is_none() {
                    return;
                }
                &sealed
            }
        };
        // An empty message is one symbol all the same.
        let count = message.len().div_ceil(room).max(1);
        for index in 0..count {
            let from = index * room;
            let part = message.get(from..(from + room).min(message.len())).unwrap_or_default();
            let first = if index == 0 { FIRST } else { 0 };
            let last = if index + 1 == count { LAST } else { 0 };
            let header = source_header(self.next, false);
            let mut packet = BytesMut::with_capacity(SOURCE_HEADER + part.len() + TRAILER);
            for piece in [&header[..], part, &stamp, &[PRESENT | first | last]] {
                packet.extend_from_slice(piece);
            }
            stats.symbols += 1;
            self.mixer.on_source(now, self.next as u32, false, &packet.freeze(), path);
            self.next += 1;
        }
        let batch = self.geometry.position(self.next).0;
        self.mixer.forget_before(batch.saturating_sub(SENT_BATCHES));
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.mixer.poll_timeout()
    }
}

/// Payload bytes of a symbol: a combination of it has to fit as well.
pub(super) fn symbol_room(max_packet: usize, geometry: Geometry) -> usize {
    max_packet.saturating_sub(MIXED_HEADER + geometry.size.columns() + TRAILER).max(1)
}

/// How long packets take above the quickest one.
#[derive(Debug)]
struct Lateness {
    base: Instant,
    /// The smallest difference of arrival and stamp, in ticks modulo 2^16, in this period and the one before.
    quickest: [Option<u16>; 2],
    since: Instant,
}

impl Lateness {
    fn offset(&self, now: Instant, stamp: u16) -> u16 {
        ticks(now.saturating_duration_since(self.base)).wrapping_sub(stamp)
    }

    /// A packet came straight from its source.
    fn on_packet(&mut self, now: Instant, stamp: u16) {
        if now.saturating_duration_since(self.since) >= QUICKEST_PERIOD {
            self.quickest = [None, self.quickest[0]];
            self.since = now;
        }
        let offset = self.offset(now, stamp);
        let quickest = self.quickest[0].get_or_insert(offset);
        if (offset.wrapping_sub(*quickest) as i16) < 0 {
            *quickest = offset;
        }
    }

    fn of(&self, now: Instant, stamp: u16) -> Duration {
        let offset = self.offset(now, stamp);
        let above = |quickest: &u16| (offset.wrapping_sub(*quickest) as i16).max(0);
        let ticks = self.quickest.iter().flatten().map(above).max().unwrap_or(0);
        Duration::from_micros(250 * ticks.unsigned_abs() as u64)
    }
}

/// The receiving half.
#[derive(Debug)]
pub(super) struct DatagramReceiver {
    geometry: Geometry,
    deadline: Duration,
    max_message: usize,
    batches: BTreeMap<u64, HeldBatch<Bytes>>,
    /// Batches before this one are forgotten.
    floor: u64,
    end: u64,
    /// Symbols of messages that are not whole.
    pieces: BTreeMap<u64, Bytes>,
    lateness: Lateness,
    ready: VecDeque<Bytes>,
    key: Option<Key>,
}

impl DatagramReceiver {
    pub(super) fn on_key(&mut self, key: Key) {
        self.key = Some(key);
    }

    pub(super) fn new(config: &FlowConfig, geometry: Geometry, now: Instant) -> DatagramReceiver {
        DatagramReceiver {
            geometry,
            deadline: config.deadline,
            max_message: config.max_message,
            batches: BTreeMap::new(),
            floor: 0,
            end: 0,
            pieces: BTreeMap::new(),
            lateness: Lateness { base: now, quickest: [None; 2], since: now },
            ready: VecDeque::new(),
            key: None,
        }
    }

    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    pub(super) fn recv(&mut self) -> Option<Bytes> {
        self.ready.pop_front()
    }

    pub(super) fn on_source(
        &mut self,
        now: Instant,
        low: u32,
        symbol: Bytes,
        stats: &mut FlowStats,
    ) {
        let number = expand(low, self.end);
        let Some(stamp) = stamp(&symbol) else {
            stats.dropped.malformed += 1;
            return;
        };
        let (batch, column) = self.geometry.position(number);
        if !self.make_room(batch, number, stats) {
            return;
        }
        self.lateness.on_packet(now, stamp);
        if self.push(batch, Combination::Column(column), symbol.clone(), stats) {
            self.on_symbol(now, number, symbol, stats);
            self.recover(now, batch, stats);
        }
    }

    pub(super) fn on_mixed(&mut self, now: Instant, mixed: &wire::Mixed, stats: &mut FlowStats) {
        let newest = self.geometry.position(self.end.saturating_sub(1)).0;
        let batch = expand(mixed.batch, newest);
        let last = mixed.coefficients.iter().rposition(|&c| c != 0).unwrap_or(0);
        let number = self.geometry.number(batch, last as u16);
        if self.make_room(batch, number, stats)
            && self.push(
                batch,
                Combination::Coefficients(&mixed.coefficients),
                mixed.symbol.clone(),
                stats,
            )
        {
            self.recover(now, batch, stats);
        }
    }

    /// Whether the batch may be kept; forgets the oldest ones.
    fn make_room(&mut self, batch: u64, number: u64, stats: &mut FlowStats) -> bool {
        if batch < self.floor {
            stats.dropped.redundant += 1;
            return false;
        }
        self.end = self.end.max(number.saturating_add(1));
        let newest = self.geometry.position(self.end - 1).0;
        self.floor = self.floor.max(newest.saturating_sub(KEPT_BATCHES));
        while let Some(entry) = self.batches.first_entry()
            && *entry.key() < self.floor
        {
            let columns = 0..self.geometry.size.columns() as u16;
            let lost = columns.filter(|&column| entry.get().column(column).is_none()).count();
            stats.dropped.lost_symbols += lost as u64;
            entry.remove();
        }
        let oldest = self.geometry.number(self.floor, 0);
        while self.pieces.first_key_value().is_some_and(|(&number, _)| number < oldest) {
            self.pieces.pop_first();
        }
        batch >= self.floor
    }

    fn push(
        &mut self,
        batch: u64,
        combination: Combination<'_>,
        symbol: Bytes,
        stats: &mut FlowStats,
    ) -> bool {
        let size = self.geometry.size;
        let held = self.batches.entry(batch).or_insert_with(|| HeldBatch::new(size));
        let pushed = held.push(combination, symbol);
        match pushed {
            Ok(true) => stats.innovative += 1,
            Ok(false) => stats.dropped.redundant += 1,
            Err(_) => stats.dropped.malformed += 1,
        }
        pushed == Ok(true)
    }

    fn recover(&mut self, now: Instant, batch: u64, stats: &mut FlowStats) {
        while let Some(held) = self.batches.get_mut(&batch)
            && let Some(column) = held.poll_recovered()
        {
            let Some(symbol) = held.column(column) else { continue };
            let length = symbol.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
            let symbol = Bytes::copy_from_slice(symbol.get(..length).unwrap_or_default());
            if stamp(&symbol).is_some() {
                stats.recovered += 1;
                self.on_symbol(now, self.geometry.number(batch, column), symbol, stats);
            }
        }
    }

    fn on_symbol(&mut self, now: Instant, number: u64, symbol: Bytes, stats: &mut FlowStats) {
        let whole = FIRST | LAST;
        if flags(&symbol) & whole == whole {
            return self.deliver(now, number, &symbol, payload(&symbol), stats);
        }
        self.pieces.insert(number, symbol);
        let back = (0..MAX_SYMBOLS as u64).map_while(|back| number.checked_sub(back));
        let mut first = None;
        for place in back {
            let Some(piece) = self.pieces.get(&place) else { break };
            if flags(piece) & FIRST != 0 {
                first = Some(place);
                break;
            }
        }
        let Some(first) = first else { return };
        let mut message = BytesMut::new();
        for place in (first..).take(MAX_SYMBOLS) {
            let Some(piece) = self.pieces.get(&place) else { return };
            if place > first && flags(piece) & FIRST != 0 {
                return;
            }
            message.extend_from_slice(&payload(piece));
            if flags(piece) & LAST != 0 {
                let last = piece.clone();
                (first..=place).for_each(|place| drop(self.pieces.remove(&place)));
                return self.deliver(now, first, &last, message.freeze(), stats);
            }
        }
    }

    fn deliver(
        &mut self,
        now: Instant,
        first: u64,
        last: &Bytes,
        message: Bytes,
        stats: &mut FlowStats,
    ) {
        let Some(stamp) = stamp(last) else { return };
        let message = match &self.key {
            None => message,
            Some(key) => {
                let Some(plain) = key.open(first, &stamp.to_be_bytes(), BytesMut::from(message))
                else {
                    stats.dropped.forged += 1;
                    return;
                };
                plain
            }
        };
        let late = self.lateness.of(now, stamp) > self.deadline;
        if late || self.ready.len() >= MAX_READY || message.len() > self.max_message {
            stats.dropped.late_messages += 1;
        } else {
            self.ready.push_back(message);
        }
    }
}

fn flags(symbol: &Bytes) -> u8 {
    symbol.last().copied().unwrap_or(0)
}

fn stamp(symbol: &Bytes) -> Option<u16> {
    match symbol.get(symbol.len().checked_sub(TRAILER)?..)? {
        &[high, low, flags] if flags & PRESENT != 0 => Some(u16::from_be_bytes([high, low])),
        _ => None,
    }
}

fn payload(symbol: &Bytes) -> Bytes {
    symbol.slice(..symbol.len().saturating_sub(TRAILER))
}
