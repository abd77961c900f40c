//! The receiving half of an emulated TCP: puts the stream in order and acknowledges.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::segment::{Ack, Ending, MAX_RANGES, Segment};

/// How long an acknowledgement waits for a second segment (Linux).
const DELAY: Duration = Duration::from_millis(40);

#[derive(Debug)]
struct Early {
    data: Bytes,
    last: Option<Ending>,
}

#[derive(Debug)]
pub(super) struct Receiver {
    window: u64,
    next: u64,
    early: BTreeMap<u64, Early>,
    /// Ranges beyond `next`: the end of each by its start.
    ranges: BTreeMap<u64, u64>,
    /// The range that grew last.
    latest: Option<u64>,
    ready: VecDeque<Bytes>,
    /// Bytes in `ready`.
    unread: u64,
    ended: Option<Ending>,
    echo: u32,
    unacknowledged: u32,
    now: bool,
    timer: Option<Instant>,
    /// The window that the sender knows of was (almost) shut.
    shut: bool,
}

impl Receiver {
    pub(super) fn new(window: u64) -> Receiver {
        Receiver {
            window,
            next: 0,
            early: BTreeMap::new(),
            ranges: BTreeMap::new(),
            latest: None,
            ready: VecDeque::new(),
            unread: 0,
            ended: None,
            echo: 0,
            unacknowledged: 0,
            now: false,
            timer: None,
            shut: false,
        }
    }

    /// Answers the opening.
    pub(super) fn greet(&mut self) {
        self.now = true;
    }

    pub(super) fn handle_data(
        &mut self,
        now: Instant,
        offset: u64,
        number: u32,
        last: Option<Ending>,
        data: Bytes,
    ) {
        self.echo = number;
        let length = data.len() as u64 + u64::from(last.is_some());
        let end = offset.saturating_add(length);
        let in_order = offset == self.next && self.early.is_empty();
        if length == 0 || end <= self.next || end > self.next + self.window + 1 {
            // A probe, a copy, or beyond the window: only told again what is there (RFC 793 section 3.9).
            self.now = true;
            return;
        }
        if offset == self.next {
            self.accept(data, last);
            while let Some(early) = self.early.remove(&self.next) {
                self.accept(early.data, early.last);
            }
            while let Some(first) =
                self.ranges.first_entry().filter(|first| *first.key() <= self.next)
            {
                first.remove();
            }
        } else if let Entry::Vacant(place) = self.early.entry(offset) {
            place.insert(Early { data, last });
            self.extend(offset, end);
        }
        self.unacknowledged += 1;
        // RFC 5681 section 4.2: at once when something is missing, else every second segment.
        if !in_order || self.unacknowledged >= 2 || self.ended.is_some() {
            self.now = true;
        } else {
            self.timer.get_or_insert(now + DELAY);
        }
    }

    fn accept(&mut self, data: Bytes, last: Option<Ending>) {
        self.next += data.len() as u64 + u64::from(last.is_some());
        self.unread += data.len() as u64;
        if !data.is_empty() {
            self.ready.push_back(data);
        }
        self.ended = self.ended.or(last);
    }

    /// Notes a range, joined with its neighbours.
    fn extend(&mut self, start: u64, end: u64) {
        let (mut start, mut end) = (start, end);
        if let Some((before, _)) =
            self.ranges.range(..start).next_back().filter(|(_, to)| **to == start)
        {
            start = *before;
        }
        if let Some(to) = self.ranges.remove(&end) {
            end = to;
        }
        self.ranges.insert(start, end);
        self.latest = Some(start);
    }

    /// The next bytes in order.
    pub(super) fn poll_data(&mut self) -> Option<Bytes> {
        let data = self.ready.pop_front()?;
        self.unread -= data.len() as u64;
        Some(data)
    }

    /// How the stream ended, once all of it was taken.
    pub(super) fn ended(&self) -> Option<Ending> {
        self.ended.filter(|ending| self.ready.is_empty() || *ending == Ending::Reset)
    }

    fn open_window(&self, held: u64) -> u64 {
        self.window.saturating_sub(self.unread + held)
    }

    /// An acknowledgement that is due. `held` bytes were taken and have not left the process.
    pub(super) fn poll_ack(&mut self, now: Instant, held: u64) -> Option<Segment> {
        let window = self.open_window(held);
        let reopened = self.shut && window >= self.window / 2;
        if !self.now && !reopened && self.timer.is_none_or(|at| at > now) {
            return None;
        }
        (self.now, self.timer, self.unacknowledged) = (false, None, 0);
        self.shut = window < self.window / 4;
        let latest = self.latest.and_then(|start| Some((start, *self.ranges.get(&start)?)));
        let others = self.ranges.iter().map(|(start, end)| (*start, *end));
        let ranges: Vec<_> = latest
            .into_iter()
            .chain(others.filter(|range| Some(*range) != latest))
            .take(MAX_RANGES)
            .collect();
        Some(Segment::Ack(Ack { next: self.next, window, echo: self.echo, ranges }))
    }

    pub(super) fn timeout(&self) -> Option<Instant> {
        self.timer
    }
}
