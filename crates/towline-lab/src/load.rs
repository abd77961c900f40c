//! What applications do: fill the path, ask and answer, send at a rate, or send one object.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};

use crate::cell::{Cell, Mode};
use crate::report::{Meter, Times};
use crate::transport::Transport;

/// A message's number and the moment at which it was made.
const STAMP: usize = 16;
/// Bytes that are offered at a time.
const CHUNK: usize = 512 << 10;
/// Answers that wait for room; more are dropped, which the asking side counts.
const MAX_ANSWERS: usize = 65_536;

/// What the application does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Load {
    /// As much as the path takes.
    Bulk,
    /// Messages that the other end sends back: round trips.
    Echo {
        /// Bytes of a message, at least 16.
        size: usize,
        /// Messages per second.
        per_second: f64,
    },
    /// Messages one way.
    Paced {
        /// Bytes of a message, at least 16.
        size: usize,
        /// Messages per second.
        per_second: f64,
        /// What may be added to the links' delay before a message counts as lost.
        allowed: Duration,
    },
    /// One object, after which the run is over.
    Object {
        /// Its bytes.
        bytes: u64,
    },
}

impl Load {
    /// Bytes and rate of messages, if there are such.
    pub fn messages(self) -> Option<(usize, f64)> {
        match self {
            Load::Echo { size, per_second } | Load::Paced { size, per_second, .. } => {
                Some((size, per_second))
            }
            Load::Bulk | Load::Object { .. } => None,
        }
    }

    pub(crate) fn check(self) -> Result<(), &'static str> {
        match self.messages() {
            Some((size, _)) if !(STAMP..=64 << 20).contains(&size) => {
                Err("a message has 16 bytes to 64 MiB")
            }
            Some((_, rate)) if !(rate > 0.0 && rate <= 1e6) => {
                Err("up to a million messages per second can be sent, and more than none")
            }
            _ if self == (Load::Object { bytes: 0 }) => Err("an object has at least 1 byte"),
            _ => Ok(()),
        }
    }
}

/// What one end saw.
#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) meter: Meter,
    /// Messages given to the transport, and those that were due.
    pub(crate) sent: u64,
    pub(crate) times: Times,
    /// Messages that came back, or came in time.
    pub(crate) arrived: u64,
    /// When the transport took the first byte of an object, and when the last one came.
    pub(crate) begun: Option<Instant>,
    pub(crate) done: Option<Instant>,
}

/// One end's application.
#[derive(Debug)]
pub(crate) struct App {
    load: Load,
    sends: bool,
    base: Instant,
    /// No message is made from here on, so that the last ones can still arrive.
    until: Instant,
    /// How long a message may take.
    patience: Duration,
    gap: Duration,
    next: Option<Instant>,
    /// Bulk goes as messages of this size, where the transport has no stream.
    unit: Option<usize>,
    left: u64,
    payload: Bytes,
    answers: VecDeque<Bytes>,
    seen: Vec<bool>,
    pub(crate) tally: Tally,
}

impl App {
    pub(crate) fn new(cell: &Cell, sends: bool, base: Instant) -> Self {
        let unit = match (cell.mode, cell.load) {
            (Mode::Btp, Load::Bulk) => Some(1_350),
            (Mode::Brctp, Load::Bulk) => Some(1 << 20),
            (Mode::Brctp, Load::Object { bytes }) => Some(bytes as usize),
            _ => None,
        };
        let per_second = cell.load.messages().map_or(1.0, |(_, rate)| rate);
        let allowed = match cell.load {
            Load::Paced { allowed, .. } => allowed,
            _ => Duration::MAX,
        };
        let left = if let Load::Object { bytes } = cell.load { bytes } else { 0 };
        App {
            load: cell.load,
            sends,
            base,
            until: base + cell.duration,
            patience: cell.links.one_way(true).saturating_add(allowed),
            gap: Duration::from_secs_f64(1.0 / per_second),
            next: None,
            unit,
            left,
            payload: Bytes::from(vec![0x5a; unit.unwrap_or(CHUNK).max(CHUNK)]),
            answers: VecDeque::new(),
            seen: Vec::new(),
            tally: Tally {
                meter: Meter::new(base, cell.warmup, cell.duration),
                sent: 0,
                times: Times::default(),
                arrived: 0,
                begun: None,
                done: None,
            },
        }
    }

    /// Takes what came and gives what is wanted; whether anything was given.
    pub(crate) fn exchange(&mut self, now: Instant, transport: &mut dyn Transport) -> bool {
        while let Some(data) = transport.recv(now) {
            self.tally.meter.add(now, data.len() as u64);
            self.on_data(now, data);
        }
        match self.load {
            Load::Bulk if self.sends => self.fill(now, transport),
            Load::Object { .. } if self.sends => self.send_object(now, transport),
            Load::Echo { .. } | Load::Paced { .. } if self.sends => self.send_due(now, transport),
            Load::Echo { .. } => self.answer(now, transport),
            _ => false,
        }
    }

    fn on_data(&mut self, now: Instant, data: Bytes) {
        match self.load {
            Load::Bulk => {}
            Load::Echo { .. } if !self.sends => {
                if self.answers.len() < MAX_ANSWERS {
                    self.answers.push_back(data);
                }
            }
            Load::Echo { .. } | Load::Paced { .. } => self.on_message(now, &data),
            Load::Object { .. } => {
                self.left = self.left.saturating_sub(data.len() as u64);
                if self.left == 0 {
                    self.tally.done.get_or_insert(now);
                }
            }
        }
    }

    fn on_message(&mut self, now: Instant, data: &[u8]) {
        let word = |at: usize| -> Option<u64> {
            Some(u64::from_be_bytes(data.get(at..at + 8)?.try_into().ok()?))
        };
        let (Some(number), Some(made)) = (word(0), word(8)) else { return };
        let number = number as usize;
        if self.seen.len() <= number {
            self.seen.resize(number + 1, false);
        }
        if std::mem::replace(&mut self.seen[number], true) {
            return;
        }
        let taken = now.saturating_duration_since(self.base + Duration::from_nanos(made));
        self.tally.times.add(taken);
        if !self.sends && taken > self.patience {
            return;
        }
        self.tally.arrived += 1;
    }

    /// As much as the transport takes.
    fn fill(&mut self, now: Instant, transport: &mut dyn Transport) -> bool {
        let mut moved = false;
        match self.unit {
            Some(size) => {
                let message = self.payload.slice(..size);
                while transport.send(now, &message) {
                    moved = true;
                }
            }
            None => {
                while transport.write(now, &self.payload) > 0 {
                    moved = true;
                }
            }
        }
        moved
    }

    fn send_object(&mut self, now: Instant, transport: &mut dyn Transport) -> bool {
        if !transport.is_open() || self.left == 0 {
            return false;
        }
        self.tally.begun.get_or_insert(now);
        let mut moved = false;
        while self.left > 0 {
            let part = self.payload.slice(..self.payload.len().min(self.left as usize));
            let taken = match self.unit {
                Some(_) if transport.send(now, &part) => part.len(),
                Some(_) => 0,
                None => transport.write(now, &part),
            };
            if taken == 0 {
                break;
            }
            self.left -= taken as u64;
            moved = true;
        }
        moved
    }

    /// The messages whose time has come.
    fn send_due(&mut self, now: Instant, transport: &mut dyn Transport) -> bool {
        if !transport.is_open() {
            return false;
        }
        let size = self.load.messages().map_or(STAMP, |(size, _)| size);
        let mut next = *self.next.get_or_insert(now);
        let mut moved = false;
        while next <= now && next < self.until {
            let mut message = BytesMut::with_capacity(size);
            message.put_u64(self.tally.sent);
            message.put_u64(next.saturating_duration_since(self.base).as_nanos() as u64);
            message.resize(size, 0x5a);
            // What is not taken is lost: a message that waits here would have to be late.
            moved |= transport.send(now, &message.freeze());
            self.tally.sent += 1;
            next += self.gap;
        }
        self.next = Some(next);
        moved
    }

    fn answer(&mut self, now: Instant, transport: &mut dyn Transport) -> bool {
        let mut moved = false;
        while let Some(answer) = self.answers.front() {
            if !transport.send(now, answer) {
                break;
            }
            self.answers.pop_front();
            moved = true;
        }
        moved
    }

    /// When the next message is due.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.next.filter(|&next| next < self.until)
    }
}
