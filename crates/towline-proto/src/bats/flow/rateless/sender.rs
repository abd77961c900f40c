//! The sending half: bytes become generations, and each goes out until every receiver has it.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use towline_code::{BatchId, BatchSize, BlockEncoder};

use super::generation::{LAST, LENGTH, MAX_OPEN, MAX_SYMBOLS, SHAPE, Shape, wire_batch};
use super::receiver::generations;
use crate::bats::flow::config::FlowConfig;
use crate::bats::flow::stats::FlowStats;
use crate::bats::hop::Path;
use crate::bats::wire::{Done, MIXED_HEADER, SOURCE_HEADER, source_header};

/// Bytes in front of a column.
const HEADER: usize = SOURCE_HEADER + SHAPE;
/// Loss up to this is thought of before a generation rests for the first time.
const LIKELY_LOSS: f64 = 0.2;
/// Beyond a round trip, how long a generation rests before more of it goes out.
const REST: Duration = Duration::from_millis(20);
/// The longest rest.
const MAX_REST: Duration = Duration::from_secs(2);
/// The least that goes out after a rest, columns.
const MIN_MORE: u64 = 8;

/// A generation that somebody may lack.
#[derive(Debug)]
struct Generation {
    number: u64,
    shape: Shape,
    encoder: BlockEncoder<Bytes>,
    /// The source symbols in their packets.
    packets: Bytes,
    stride: usize,
    /// Application bytes in it.
    bytes: usize,
    /// Columns sent.
    sent: u64,
    /// Columns that go out before the next rest.
    quota: u64,
    /// When it goes on, while it rests.
    rests: Option<Instant>,
    rest: Duration,
    more: u64,
    /// When more than enough had been sent for the first time.
    enough: Option<Instant>,
}

/// Somebody who said that something is whole.
#[derive(Debug)]
struct Receiver {
    name: u32,
    serial: u64,
    next: u64,
    whole: BTreeSet<u64>,
    limit: u64,
    heard: Instant,
}

impl Receiver {
    fn has(&self, generation: u64) -> bool {
        generation < self.next || self.whole.contains(&generation)
    }
}

#[derive(Debug)]
pub(in crate::bats::flow) struct RatelessSender {
    size: BatchSize,
    /// Bytes that a relay's coefficients may need.
    reserve: usize,
    patience: Duration,
    pending: VecDeque<Bytes>,
    pending_bytes: usize,
    finishing: bool,
    end_made: bool,
    /// Generations that not all have, oldest first.
    open: VecDeque<Generation>,
    /// The next generation's number.
    next: u64,
    window: u64,
    receivers: Vec<Receiver>,
    /// Whom to wait for.
    wanted: usize,
    /// Receivers that were given up.
    pub(in crate::bats::flow) lost: u64,
}

impl RatelessSender {
    pub(in crate::bats::flow) fn new(config: &FlowConfig) -> RatelessSender {
        let mixes = config.relayed;
        let reserve = if mixes { config.batch.columns() + MIXED_HEADER - SOURCE_HEADER } else { 0 };
        RatelessSender {
            size: config.batch,
            reserve,
            patience: config.patience,
            pending: VecDeque::new(),
            pending_bytes: 0,
            finishing: false,
            end_made: false,
            open: VecDeque::new(),
            next: 0,
            window: 1,
            receivers: Vec::new(),
            wanted: config.receivers.into(),
            lost: 0,
        }
    }

    /// What the receiver can take at first.
    pub(in crate::bats::flow) fn on_window(&mut self, window: u64) {
        self.window = generations(window);
    }

    /// Accepted bytes that not all receivers are known to have.
    pub(in crate::bats::flow) fn unacknowledged(&self) -> usize {
        self.pending_bytes + self.open.iter().map(|open| open.bytes).sum::<usize>()
    }

    /// Whether everything was made into generations, and each sent once.
    pub(in crate::bats::flow) fn is_drained(&self) -> bool {
        let made = self.pending_bytes == 0 && (!self.finishing || self.end_made);
        made && self.open.iter().all(|open| open.sent >= u64::from(open.shape.symbols))
    }

    pub(in crate::bats::flow) fn is_acknowledged(&self) -> bool {
        self.is_drained() && self.open.is_empty()
    }

    pub(in crate::bats::flow) fn is_finishing(&self) -> bool {
        self.finishing
    }

    pub(in crate::bats::flow) fn push(&mut self, data: Bytes) {
        self.pending_bytes += data.len();
        self.pending.push_back(data);
    }

    pub(in crate::bats::flow) fn finish(&mut self) {
        self.finishing = true;
    }

    /// The hop was replaced: what was under way is lost, as anything may be.
    pub(in crate::bats::flow) fn on_hop_changed(&mut self) {
        self.open.iter_mut().for_each(|open| open.rests = None);
    }

    /// Somebody has something whole; the bytes that all have now. `None` when there are more receivers than were named.
    pub(in crate::bats::flow) fn on_done(&mut self, now: Instant, done: &Done) -> Option<usize> {
        let known = self.receivers.iter().position(|known| known.name == done.receiver);
        let place = match known {
            Some(place) => place,
            None if self.receivers.len() < self.wanted => {
                self.receivers.push(Receiver {
                    name: done.receiver,
                    serial: 0,
                    next: 0,
                    whole: BTreeSet::new(),
                    limit: 0,
                    heard: now,
                });
                self.receivers.len() - 1
            }
            None => return None,
        };
        let receiver = self.receivers.get_mut(place)?;
        receiver.heard = now;
        if done.serial <= receiver.serial || done.next > self.next {
            return Some(0);
        }
        receiver.serial = done.serial;
        receiver.next = receiver.next.max(done.next);
        receiver.limit = receiver.limit.max(done.limit);
        receiver.whole = done.whole.iter().copied().collect();
        Some(self.release())
    }

    /// Forgets what all have; its bytes.
    fn release(&mut self) -> usize {
        let (receivers, wanted) = (&self.receivers, self.wanted);
        let mut bytes = 0;
        self.open.retain(|open| {
            let have = receivers.iter().filter(|receiver| receiver.has(open.number)).count();
            let keep = have < wanted;
            bytes += if keep { 0 } else { open.bytes };
            keep
        });
        bytes
    }

    /// Gives up receivers that stay silent although more than enough was sent; whether nobody is left. The bytes that all others have are added to `bytes`.
    pub(in crate::bats::flow) fn give_up(&mut self, now: Instant, bytes: &mut usize) -> bool {
        let patience = self.patience;
        let late = |open: &Generation| open.enough.is_some_and(|at| at + patience <= now);
        let Some(open) = self.open.iter().find(|open| late(open)) else { return false };
        let number = open.number;
        let before = self.wanted;
        let silent = |receiver: &Receiver| receiver.heard + patience <= now;
        self.receivers.retain(|receiver| receiver.has(number) || !silent(receiver));
        self.wanted = self.receivers.len();
        self.lost += (before - self.wanted) as u64;
        *bytes += self.release();
        self.wanted == 0
    }

    /// When [`give_up`](Self::give_up) may have something to do.
    fn give_up_at(&self) -> Option<Instant> {
        // A receiver that speaks is waited for; one that never did is not.
        let all_known = self.receivers.len() >= self.wanted;
        let at = |open: &Generation| {
            let enough = open.enough?;
            let lacking = self.receivers.iter().filter(|receiver| !receiver.has(open.number));
            let heard = lacking.map(|receiver| receiver.heard).min().filter(|_| all_known);
            Some(enough.max(heard.unwrap_or(enough)) + self.patience)
        };
        self.open.iter().filter_map(at).min()
    }

    /// The next packet, made now.
    pub(in crate::bats::flow) fn poll(
        &mut self,
        now: Instant,
        max_packet: usize,
        path: &Path,
        stats: &mut FlowStats,
    ) -> Option<Bytes> {
        for _ in 0..=self.open.len() {
            let place = self.choose(now, max_packet, path, stats)?;
            let open = self.open.get_mut(place)?;
            let is_due = open.is_due(now);
            if let Some(packet) = open.next_packet(stats) {
                open.on_sent(now, is_due, path);
                return Some(packet);
            }
            // It has no more numbers; whoever lacks it is given up in the end.
            open.enough.get_or_insert(now);
            open.rests = Some(now + MAX_REST);
        }
        None
    }

    /// The generation that the next packet is of.
    fn choose(
        &mut self,
        now: Instant,
        max_packet: usize,
        path: &Path,
        stats: &mut FlowStats,
    ) -> Option<usize> {
        // After a rest, the oldest first. As long as nobody knows how much is lost, any number of repair symbols would be a guess, and what is new goes first.
        let due = self.open.iter().position(|open| open.is_due(now));
        if let Some(place) = due.filter(|_| path.loss > 0.0) {
            return Some(place);
        }
        if let Some(place) = self.open.iter().position(Generation::is_first) {
            return Some(place);
        }
        if self.cut(max_packet, path, stats) {
            return Some(self.open.len() - 1);
        }
        if due.is_some() {
            return due;
        }
        // Nothing new is there: whichever was given least beyond its size.
        let likely = (path.loss * 2.0).clamp(LIKELY_LOSS, 0.9);
        let lacking = self.open.iter().enumerate();
        let lacking = lacking.filter(|(_, open)| open.sent < open.enough_for(likely));
        let least = lacking.min_by(|(_, a), (_, b)| a.redundancy().total_cmp(&b.redundancy()));
        least.map(|(place, _)| place)
    }

    /// Makes a generation of what waits; whether there is a new one.
    fn cut(&mut self, max_packet: usize, path: &Path, stats: &mut FlowStats) -> bool {
        let granted = self.receivers.iter().map(|receiver| receiver.limit).min();
        let oldest = self.open.front().map_or(self.next, |open| open.number);
        let limit = granted.unwrap_or(self.window).min(oldest + MAX_OPEN);
        let ends = self.finishing && !self.end_made;
        if self.pending_bytes == 0 && !ends || self.next >= limit {
            return false;
        }
        let room = max_packet.saturating_sub(HEADER + self.reserve).max(1);
        let full = (room as u64 * MAX_SYMBOLS) as usize - LENGTH;
        // What waits is shared out evenly: a short last generation would cost more.
        let count = self.pending_bytes.div_ceil(full).max(1);
        let bytes = self.pending_bytes.div_ceil(count);
        let symbols = (bytes + LENGTH).div_ceil(room);
        let size = (bytes + LENGTH).div_ceil(symbols);
        let shape = Shape::new(symbols as u64, path.loss);
        let Some(code) = shape.code(self.next, size, self.size) else { return false };
        let last = ends && bytes == self.pending_bytes;
        let (packets, stride) = self.lay_out(shape, code.symbol_size(), bytes, last);
        let symbols =
            (0..symbols).map(|index| packets.slice(index * stride + HEADER..(index + 1) * stride));
        let Ok(encoder) = BlockEncoder::new(code, symbols.collect()) else { return false };
        stats.symbols += u64::from(shape.symbols);
        let rest = path.rtt.mul_f64(1.25) + REST;
        let share = if path.loss > 0.0 { 64 } else { 16 };
        let more = (u64::from(shape.symbols) / share).max(MIN_MORE);
        let quota = (f64::from(shape.symbols) / (1.0 - path.loss.clamp(0.0, 0.9))).ceil() as u64;
        self.open.push_back(Generation {
            number: self.next,
            shape,
            encoder,
            packets,
            stride,
            bytes,
            sent: 0,
            quota,
            rests: None,
            rest,
            more,
            enough: None,
        });
        self.next += 1;
        self.end_made |= last;
        true
    }

    /// Takes `bytes` of what waits into packets of source symbols, headers included.
    fn lay_out(&mut self, shape: Shape, size: usize, bytes: usize, last: bool) -> (Bytes, usize) {
        let stride = HEADER + size;
        let mut packets = BytesMut::with_capacity(stride * usize::from(shape.symbols));
        let columns = self.size.columns() as u64;
        let first = wire_batch(self.next, BatchId(0)).unwrap_or(0) * columns;
        let mark = if last { LAST } else { 0 };
        let mut front = Bytes::copy_from_slice(&(bytes as u32 | mark).to_be_bytes());
        let mut left = bytes;
        for index in 0..u64::from(shape.symbols) {
            packets.extend_from_slice(&source_header(first + index, false));
            packets.extend_from_slice(&shape.encode());
            let mut room = size;
            while room > 0 {
                if front.is_empty() {
                    if left == 0 {
                        break;
                    }
                    let Some(mut next) = self.pending.pop_front() else { break };
                    front = next.split_to(next.len().min(left));
                    left -= front.len();
                    if !next.is_empty() {
                        self.pending.push_front(next);
                    }
                    continue;
                }
                let part = front.len().min(room);
                packets.extend_from_slice(front.get(..part).unwrap_or_default());
                front.advance(part);
                room -= part;
            }
            packets.extend_from_slice(&vec![0; room]);
        }
        self.pending_bytes -= bytes;
        (packets.freeze(), stride)
    }

    /// When `poll` has something that it does not have yet, or somebody is to be given up.
    pub(in crate::bats::flow) fn poll_timeout(&self) -> Option<Instant> {
        let rests = self.open.iter().filter_map(|open| open.rests);
        rests.chain(self.give_up_at()).min()
    }
}

impl Generation {
    fn source_symbols(&self) -> u64 {
        u64::from(self.shape.symbols)
    }

    /// Its first columns are still going out.
    fn is_first(&self) -> bool {
        self.rests.is_none() && self.sent < self.quota
    }

    fn is_due(&self, now: Instant) -> bool {
        self.rests.is_some_and(|at| at <= now)
    }

    fn redundancy(&self) -> f64 {
        self.sent as f64 / f64::from(self.shape.symbols)
    }

    /// Columns of which a receiver most likely gets enough when so much is lost: the mean, and four deviations.
    fn enough_for(&self, loss: f64) -> u64 {
        let mean = f64::from(self.shape.symbols) / (1.0 - loss);
        (mean + 4.0 * (mean * loss).sqrt() / (1.0 - loss) + 2.0).ceil() as u64
    }

    fn next_packet(&mut self, stats: &mut FlowStats) -> Option<Bytes> {
        if let Some(place) =
            usize::try_from(self.sent).ok().filter(|_| self.sent < self.source_symbols())
        {
            return Some(self.packets.slice(place * self.stride..(place + 1) * self.stride));
        }
        let code = self.encoder.code();
        let columns = code.batch_columns() as u64;
        let (batch, column) = code.repair_position(self.sent - self.source_symbols())?;
        let number = wire_batch(self.number, batch)? * columns + u64::from(column);
        let mut packet = BytesMut::zeroed(self.stride);
        let (header, symbol) = packet.split_at_mut_checked(HEADER)?;
        let (front, shape) = header.split_at_mut_checked(SOURCE_HEADER)?;
        front.copy_from_slice(&source_header(number, false));
        shape.copy_from_slice(&self.shape.encode());
        self.encoder.symbol(batch, column, symbol).ok()?;
        stats.end_repairs += 1;
        Some(packet.freeze())
    }

    fn on_sent(&mut self, now: Instant, is_due: bool, path: &Path) {
        self.sent += 1;
        if self.rests.is_some() && !is_due {
            // While nothing else was there: the rest begins anew.
            self.quota = self.sent + self.more;
            self.rests = Some(now + self.rest);
        } else if self.sent < self.quota {
            // More of this turn is to come.
        } else if self.rests.is_none() {
            self.rest = path.rtt.mul_f64(1.25) + REST;
            self.quota = self.sent + self.more;
            self.rests = Some(now + self.rest);
        } else {
            // Nothing is heard of it: less and less often, more and more.
            self.rest = self.rest.mul_f64(1.25).min(MAX_REST);
            self.more = (self.more * 2).min(self.source_symbols().max(MIN_MORE));
            self.quota = self.sent + self.more;
            self.rests = Some(now + self.rest);
            if self.sent >= self.enough_for(LIKELY_LOSS) {
                self.enough.get_or_insert(now);
            }
        }
    }
}
