//! A relay that answers for what it took: each packet is kept until the next hop has it.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;

use crate::bats::flight::{Flight, Verdict};
use crate::bats::flow::Protection;
use crate::bats::flow::repeats::Repeats;
use crate::bats::hop::{Outcome, Path};
use crate::bats::seen::Seen;
use crate::bats::wire::expand;

/// A packet that the next hop may not have yet.
#[derive(Debug)]
struct Held {
    data: Bytes,
    /// The symbol's number; combinations have none.
    number: Option<u64>,
    flight: Flight,
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    New,
    Redundant,
    /// Beyond what the credit allows.
    Full,
}

/// A packet to send, and under which number its fate is wanted.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) data: Bytes,
    pub(super) place: u64,
    pub(super) kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    First,
    Repair,
    Protective,
}

#[derive(Debug)]
pub(super) struct Arq {
    max_packets: usize,
    /// The place of `held`'s first entry.
    base: u64,
    held: VecDeque<Held>,
    /// How many of `held` the next hop lacks.
    live: usize,
    fresh: VecDeque<u64>,
    resend: VecDeque<u64>,
    seen: Seen,
    repeats: Repeats,
    pub(super) withheld: u64,
}

impl Arq {
    pub(super) fn new(max_packets: usize, protection: Protection) -> Arq {
        Arq {
            max_packets,
            base: 0,
            held: VecDeque::new(),
            live: 0,
            fresh: VecDeque::new(),
            resend: VecDeque::new(),
            seen: Seen::default(),
            repeats: Repeats::new(protection),
            withheld: 0,
        }
    }

    pub(super) fn live(&self) -> usize {
        self.live
    }

    pub(super) fn first(&self) -> u64 {
        self.seen.start()
    }

    /// The first symbol that may not be sent here yet, when `window` packets may be kept.
    pub(super) fn limit(&self, window: u64) -> Option<u64> {
        let owed = self.live as u64 + self.seen.gaps();
        (self.seen.end() > 0).then(|| (self.seen.end() + window).saturating_sub(owed))
    }

    /// The newest batch or symbol that the relay knows, to restore numbers by.
    pub(super) fn on_source(&mut self, low: u32, again: bool, data: Bytes) -> Taken {
        let number = expand(low, self.seen.end());
        if !again && self.seen.contains(number) {
            return Taken::Redundant;
        }
        if self.live >= self.max_packets {
            return Taken::Full;
        }
        self.seen.insert(number);
        self.keep(data, Some(number));
        Taken::New
    }

    /// A combination: the relay keeps it as it is, for what it answers for it need not mix.
    pub(super) fn on_mixed(&mut self, data: Bytes) -> Taken {
        if self.live >= self.max_packets {
            return Taken::Full;
        }
        self.keep(data, None);
        Taken::New
    }

    fn keep(&mut self, data: Bytes, number: Option<u64>) {
        let place = self.base + self.held.len() as u64;
        self.held.push_back(Held { data, number, flight: Flight::default() });
        self.live += 1;
        self.fresh.push_back(place);
    }

    fn at(&mut self, place: u64) -> Option<&mut Held> {
        self.held.get_mut(usize::try_from(place.checked_sub(self.base)?).ok()?)
    }

    pub(super) fn on_fate(&mut self, place: u64, outcome: Outcome, path: &Path) {
        let Some(held) = self.at(place) else { return };
        match held.flight.on_fate(outcome, path.loss) {
            Verdict::Wait => {}
            Verdict::Resend(copies) => (0..copies).for_each(|_| self.resend.push_back(place)),
            Verdict::Arrived => {
                held.data = Bytes::new();
                self.live -= 1;
                while self.held.front().is_some_and(|held| held.flight.has_arrived()) {
                    self.held.pop_front();
                    self.base += 1;
                }
            }
        }
    }

    /// The next hop is another one, which has nothing of what this one was told.
    pub(super) fn on_hop_changed(&mut self) {
        self.resend.clear();
        self.fresh.clear();
        for (place, held) in (self.base..).zip(&mut self.held) {
            if !held.flight.has_arrived() {
                held.flight.reset();
                self.fresh.push_back(place);
            }
        }
    }

    /// The next packet. `limit` is the first symbol that the neighbour cannot take.
    pub(super) fn poll(&mut self, now: Instant, limit: u64, path: &Path) -> Option<Outgoing> {
        while let Some(place) = self.repeats.poll(now) {
            if let Some(held) = self.at(place)
                && !held.flight.has_arrived()
                && !held.flight.is_split()
            {
                let data = held.data.clone();
                return Some(Outgoing { data, place, kind: Kind::Protective });
            }
        }
        while let Some(place) = self.resend.pop_front() {
            if let Some(held) = self.at(place)
                && !held.flight.has_arrived()
                && !held.flight.is_split()
            {
                let data = held.data.clone();
                return Some(Outgoing { data, place, kind: Kind::Repair });
            }
        }
        let place = *self.fresh.front()?;
        let held = self.at(place)?;
        if held.number.is_some_and(|number| number >= limit) {
            return None;
        }
        let data = held.data.clone();
        self.fresh.pop_front();
        let idle = self.fresh.is_empty();
        let (_, withheld) = self.repeats.on_sent(now, place, data.len(), idle, path);
        self.withheld += withheld;
        Some(Outgoing { data, place, kind: Kind::First })
    }

    /// It was handed to the hop, in this many pieces.
    pub(super) fn on_sent(&mut self, place: u64, pieces: u8) {
        if let Some(held) = self.at(place) {
            held.flight.on_sent(pieces);
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.repeats.poll_timeout()
    }
}
