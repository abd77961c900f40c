//! One direction of a byte-stream connection.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::config::{Chunking, StreamConfig};
use crate::random::{Chance, Random};
use crate::rate::Shaper;
use crate::time::{NEVER, Nanos, nanos};

/// Bytes in order, in pieces that are cut and joined without regard to how they came.
#[derive(Debug, Default)]
pub(crate) struct Bucket {
    pieces: VecDeque<Bytes>,
    len: usize,
}

impl Bucket {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn push(&mut self, piece: Bytes) {
        self.len += piece.len();
        if !piece.is_empty() {
            self.pieces.push_back(piece);
        }
    }

    /// Takes up to `want` bytes; copies only when they lie in several pieces.
    pub(crate) fn take(&mut self, want: usize) -> Bytes {
        let want = want.min(self.len);
        self.len -= want;
        let Some(first) = self.pieces.front_mut() else { return Bytes::new() };
        if first.len() > want {
            return first.split_to(want);
        }
        if first.len() == want {
            return self.pieces.pop_front().unwrap_or_default();
        }
        let mut joined = BytesMut::with_capacity(want);
        while joined.len() < want {
            let Some(piece) = self.pieces.front_mut() else { break };
            let part = piece.split_to(piece.len().min(want - joined.len()));
            joined.extend_from_slice(&part);
            if piece.is_empty() {
                self.pieces.pop_front();
            }
        }
        joined.freeze()
    }

    /// Takes up to `max` bytes of the first piece, never of two.
    pub(crate) fn take_piece(&mut self, max: usize) -> Bytes {
        let first = self.pieces.front().map_or(0, Bytes::len);
        self.take(max.min(first))
    }

    pub(crate) fn clear(&mut self) {
        self.pieces.clear();
        self.len = 0;
    }
}

#[derive(Debug)]
enum Item {
    Data(Bytes),
    Fin,
}

/// What came out of a pipe.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    Data,
    Fin,
}

/// One direction: send buffer, shaper, flight, receive buffer.
#[derive(Debug)]
pub(crate) struct Pipe {
    config: StreamConfig,
    shaper: Shaper,
    random: Random,
    stall: Chance,
    outgoing: Bucket,
    flight: VecDeque<(Nanos, Item)>,
    in_flight: usize,
    incoming: Bucket,
    /// The writer said that it has no more; the end waits behind the last byte.
    ending: bool,
    ended: bool,
    /// Bytes are swallowed: those that were not acknowledged stay counted for ever.
    muted: bool,
    stuck: usize,
    held_until: Nanos,
    partitioned: bool,
    /// The end of the stream has come out.
    fin_arrived: bool,
    /// A write was cut short: the writer wants to hear of room.
    refused: bool,
    /// The pipe is closed to the writer; what is written is lost.
    cut: bool,
    pub(crate) written: u64,
    pub(crate) arrived: u64,
    pub(crate) read: u64,
    pub(crate) lost: u64,
}

impl Pipe {
    /// From a checked description.
    pub(crate) fn new(config: StreamConfig, seed: u64, now: Nanos) -> Self {
        Pipe {
            shaper: Shaper::new(config.rate, Duration::ZERO, now),
            random: Random::new(seed),
            stall: config.stall.and_then(|(value, _)| Chance::new(value)).unwrap_or(Chance::NEVER),
            config,
            outgoing: Bucket::default(),
            flight: VecDeque::new(),
            in_flight: 0,
            incoming: Bucket::default(),
            ending: false,
            ended: false,
            muted: false,
            stuck: 0,
            held_until: 0,
            partitioned: false,
            fin_arrived: false,
            refused: false,
            cut: false,
            written: 0,
            arrived: 0,
            read: 0,
            lost: 0,
        }
    }

    pub(crate) fn delay(&self) -> Nanos {
        nanos(self.config.delay)
    }

    /// Room in the send buffer.
    pub(crate) fn room(&self) -> usize {
        self.config.send_buffer.saturating_sub(self.outgoing.len() + self.in_flight + self.stuck)
    }

    /// Takes what has room off the front of `data` and says how much that was.
    pub(crate) fn write(&mut self, data: &mut Bytes) -> usize {
        let taken = data.len().min(self.room());
        self.refused = taken < data.len();
        let taken_data = data.split_to(taken);
        self.written += taken as u64;
        if self.cut {
            self.lost += taken as u64;
        } else {
            self.outgoing.push(taken_data);
        }
        taken
    }

    pub(crate) fn finish(&mut self) {
        self.ending = true;
    }

    pub(crate) fn is_finishing(&self) -> bool {
        self.ending
    }

    pub(crate) fn readable(&self) -> usize {
        self.incoming.len()
    }

    /// At most one piece as it arrived.
    pub(crate) fn read(&mut self, want: usize) -> Bytes {
        let data = self.incoming.take_piece(want);
        self.read += data.len() as u64;
        data
    }

    fn window(&self) -> usize {
        self.config.receive_buffer.saturating_sub(self.incoming.len() + self.in_flight)
    }

    /// Lets leave what can leave now. The time is the writer's: what it writes at one instant may share a piece.
    pub(crate) fn transmit(&mut self, now: Nanos) {
        if self.not_before(now) > now {
            return;
        }
        while self.outgoing.len() > 0 && self.window() > 0 && self.shaper.last_departure() <= now {
            let piece = match self.config.chunking {
                Chunking::Fixed(size) => size,
                Chunking::Random { min, max } => {
                    self.random.within(min as u64, max as u64) as usize
                }
            };
            let data = self.outgoing.take(piece.min(self.window()));
            let departs = self.shaper.depart(now, data.len() as u64);
            if self.muted {
                self.stuck += data.len();
                self.lost += data.len() as u64;
                continue;
            }
            let stalled = match self.config.stall {
                Some((_, time)) if self.random.chance(self.stall) => nanos(time),
                _ => 0,
            };
            self.in_flight += data.len();
            self.launch(departs.saturating_add(stalled), Item::Data(data));
        }
        if self.ending && !self.ended && self.outgoing.len() == 0 {
            self.ended = true;
            if !self.muted {
                self.launch(now.max(self.shaper.last_departure()), Item::Fin);
            }
        }
    }

    fn launch(&mut self, departs: Nanos, item: Item) {
        // One behind another, so one that is late holds up all that follow.
        self.flight.push_back((departs.saturating_add(self.delay()), item));
    }

    /// When something can happen next.
    pub(crate) fn next_event(&self) -> Nanos {
        let arrival = self.flight.front().map_or(NEVER, |(at, _)| *at);
        let sends = self.outgoing.len() > 0 && self.window() > 0;
        let ends = self.ending && !self.ended && self.outgoing.len() == 0;
        let departure = match (sends, ends) {
            (true, _) => self.shaper.last_departure(),
            (false, true) => 0,
            (false, false) => NEVER,
        };
        self.not_before(arrival.min(departure))
    }

    /// A time on this way, put off for as long as nothing moves.
    pub(crate) fn not_before(&self, at: Nanos) -> Nanos {
        if self.partitioned { NEVER } else { at.max(self.held_until) }
    }

    /// Takes the next arrival that is due, at most `limit` bytes of it.
    pub(crate) fn poll_arrival(&mut self, now: Nanos, limit: u64) -> Option<Arrival> {
        if self.not_before(now) > now || self.flight.front().is_none_or(|(at, _)| *at > now) {
            return None;
        }
        match self.flight.pop_front()? {
            (_, Item::Fin) => {
                self.fin_arrived = true;
                Some(Arrival::Fin)
            }
            (at, Item::Data(mut data)) => {
                let part =
                    data.split_to(data.len().min(usize::try_from(limit).unwrap_or(usize::MAX)));
                if !data.is_empty() {
                    self.flight.push_front((at, Item::Data(data)));
                }
                self.in_flight -= part.len();
                self.arrived += part.len() as u64;
                self.incoming.push(part);
                Some(Arrival::Data)
            }
        }
    }

    /// Whether a writer that was cut short has room again; asks once.
    pub(crate) fn take_writable(&mut self) -> bool {
        let writable = self.refused && self.room() > 0;
        self.refused &= !writable;
        writable
    }

    /// Loses what is on its way and all that is written from now on; what has arrived stays readable.
    pub(crate) fn cut(&mut self) {
        self.lost += (self.outgoing.len() + self.in_flight) as u64;
        self.outgoing.clear();
        self.flight.clear();
        self.in_flight = 0;
        self.cut = true;
        self.ended = true;
    }

    /// Ends the stream behind what has left the send buffer.
    pub(crate) fn cut_short(&mut self, now: Nanos) {
        self.lost += self.outgoing.len() as u64;
        self.outgoing.clear();
        self.cut = true;
        if !self.ended {
            self.ended = true;
            self.launch(now, Item::Fin);
        }
    }

    /// Ends the stream behind what has arrived.
    pub(crate) fn end_here(&mut self, now: Nanos) {
        self.cut();
        if !self.fin_arrived {
            self.flight.push_back((now, Item::Fin));
        }
    }

    /// Throws away what has arrived and was not read.
    pub(crate) fn discard(&mut self) {
        self.incoming.clear();
    }

    /// Swallows everything from now on, what is on the way included.
    pub(crate) fn mute(&mut self) {
        self.muted = true;
        self.lost += self.in_flight as u64;
        self.stuck += self.in_flight;
        self.in_flight = 0;
        self.flight.clear();
    }

    pub(crate) fn is_muted(&self) -> bool {
        self.muted
    }

    pub(crate) fn set_partitioned(&mut self, partitioned: bool) {
        self.partitioned = partitioned;
    }

    pub(crate) fn is_partitioned(&self) -> bool {
        self.partitioned
    }

    /// Nothing moves until then; what would have arrived meanwhile arrives then.
    pub(crate) fn hold(&mut self, until: Nanos) {
        self.held_until = self.held_until.max(until);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_back_what_it_took_in_any_pieces() {
        let mut random = Random::new(5);
        for _ in 0..200 {
            let data: Vec<u8> = (0..random.below(300)).map(|n| n as u8).collect();
            let (mut bucket, mut rest, mut out) = (Bucket::default(), &data[..], Vec::new());
            while out.len() < data.len() {
                let (piece, after) = rest.split_at(random.below(rest.len() as u64 + 1) as usize);
                bucket.push(Bytes::copy_from_slice(piece));
                rest = after;
                out.extend_from_slice(&bucket.take(random.below(40) as usize));
            }
            assert_eq!(out, data);
            assert_eq!(bucket.len(), 0);
        }
    }
}
