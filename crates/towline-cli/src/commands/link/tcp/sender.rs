//! The sending half of an emulated TCP: what is under way, what was lost, when to try again.
//!
//! Loss is found as Linux does: by selective acknowledgements (RFC 2018), a transmission counting as lost when one made three later
//! has arrived (RFC 8985 with a window of three in place of a time, so that lost retransmissions are found too), a probe when the tail
//! is silent, and the time-out behind it (RFC 6298).

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};

use super::cubic::Cubic;
use super::segment::{Ack, Ending, Segment};

/// Payload of a full segment: 1,500 bytes without 52 of headers.
pub(super) const SEGMENT: usize = 1448;

/// Bytes that wait to be sent for the first time, beyond which the socket is not read: Linux' largest send buffer.
pub(super) const BUFFER: usize = 4 << 20;

/// Transmissions that may overtake another.
const REORDERING: u32 = 3;

/// The least time-out (Linux).
const MIN_TIMEOUT: Duration = Duration::from_millis(200);

/// The first time-out (RFC 6298 section 2).
const FIRST_TIMEOUT: Duration = Duration::from_secs(1);

/// The longest (RFC 6298 section 2.5).
const MAX_TIMEOUT: Duration = Duration::from_secs(60);

/// Time-outs in a row after which the other end is taken for gone (Linux' `tcp_retries2`).
const MAX_RETRIES: u32 = 15;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    UnderWay,
    Received,
    Lost,
}

#[derive(Debug)]
struct Sent {
    offset: u64,
    /// What it takes of the stream: its bytes, one more for the end.
    length: u64,
    data: Bytes,
    last: Option<Ending>,
    number: u32,
    state: State,
}

/// One transmission, in order.
#[derive(Debug)]
struct Transmission {
    number: u32,
    offset: u64,
    at: Instant,
}

#[derive(Debug)]
pub(super) struct Sender {
    waiting: VecDeque<Bytes>,
    waiting_bytes: usize,
    ending: Option<Ending>,
    ended: bool,
    /// From the first that is not acknowledged, in order of the stream.
    sent: VecDeque<Sent>,
    next: u64,
    transmissions: VecDeque<Transmission>,
    number: u32,
    lost: BTreeSet<u64>,
    under_way: u64,
    limit: u64,
    cubic: Cubic,
    /// Losses before this offset belong to an episode that has been answered.
    recovered_at: u64,
    smoothed: Option<Duration>,
    variation: Duration,
    timer: Option<Instant>,
    probed: bool,
    /// Sends one segment whatever the window says.
    force: bool,
    retries: u32,
    pub(super) resent: u64,
}

impl Sender {
    pub(super) fn new(window: u64) -> Sender {
        Sender {
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            ending: None,
            ended: false,
            sent: VecDeque::new(),
            next: 0,
            transmissions: VecDeque::new(),
            number: 0,
            lost: BTreeSet::new(),
            under_way: 0,
            limit: window,
            cubic: Cubic::new(),
            recovered_at: 0,
            smoothed: None,
            variation: Duration::ZERO,
            timer: None,
            probed: false,
            force: false,
            retries: 0,
            resent: 0,
        }
    }

    /// Whether more should be read from the socket.
    pub(super) fn has_room(&self) -> bool {
        self.ending.is_none() && self.waiting_bytes < BUFFER
    }

    pub(super) fn push(&mut self, data: Bytes) {
        if self.ending.is_none() && !data.is_empty() {
            self.waiting_bytes += data.len();
            self.waiting.push_back(data);
        }
    }

    /// The stream ends behind what was pushed; after a reset behind what was sent.
    pub(super) fn finish(&mut self, ending: Ending) {
        if ending == Ending::Reset {
            self.waiting.clear();
            self.waiting_bytes = 0;
        }
        if !self.ended {
            self.ending = Some(ending);
        }
    }

    /// The other end does not answer any more.
    pub(super) fn has_given_up(&self) -> bool {
        self.retries > MAX_RETRIES
    }

    fn window(&self) -> u64 {
        (self.cubic.window() * SEGMENT as f64) as u64
    }

    pub(super) fn poll(&mut self, now: Instant) -> Option<Segment> {
        let fits = self.under_way + SEGMENT as u64 <= self.window() || self.under_way == 0;
        if !fits && !self.force {
            return None;
        }
        let segment = match self.lost.pop_first() {
            Some(offset) => self.resend(offset, now)?,
            None => self.send_new(now)?,
        };
        self.force = false;
        if self.timer.is_none() {
            self.arm(now);
        }
        Some(segment)
    }

    fn position(&self, offset: u64) -> Option<usize> {
        self.sent.binary_search_by_key(&offset, |sent| sent.offset).ok()
    }

    fn resend(&mut self, offset: u64, now: Instant) -> Option<Segment> {
        let at = self.position(offset)?;
        self.number = self.number.wrapping_add(1);
        let sent = self.sent.get_mut(at)?;
        sent.number = self.number;
        sent.state = State::UnderWay;
        self.under_way += sent.length;
        self.resent += 1;
        let segment =
            Segment::Data { offset, number: sent.number, last: sent.last, data: sent.data.clone() };
        self.transmissions.push_back(Transmission { number: self.number, offset, at: now });
        Some(segment)
    }

    fn send_new(&mut self, now: Instant) -> Option<Segment> {
        let room = usize::try_from(self.limit.saturating_sub(self.next)).unwrap_or(usize::MAX);
        let most = room.min(SEGMENT);
        let data = self.cut(most);
        let finishes = self.waiting.is_empty() && !self.ended;
        let last = self.ending.filter(|_| finishes);
        if data.is_empty() && last.is_none() {
            return None;
        }
        self.ended |= last.is_some();
        let length = data.len() as u64 + u64::from(last.is_some());
        self.number = self.number.wrapping_add(1);
        let (offset, number) = (self.next, self.number);
        self.next += length;
        self.under_way += length;
        self.transmissions.push_back(Transmission { number, offset, at: now });
        let state = State::UnderWay;
        self.sent.push_back(Sent { offset, length, data: data.clone(), last, number, state });
        Some(Segment::Data { offset, number, last, data })
    }

    /// The next bytes that wait, at most so many.
    fn cut(&mut self, most: usize) -> Bytes {
        let Some(first) = self.waiting.front_mut() else { return Bytes::new() };
        let data = if first.len() > most {
            first.split_to(most)
        } else if first.len() == most || self.waiting.len() == 1 {
            self.waiting.pop_front().unwrap_or_default()
        } else {
            let mut whole = BytesMut::with_capacity(most);
            while let Some(first) = self.waiting.front_mut().filter(|_| whole.len() < most) {
                let count = first.len().min(most - whole.len());
                whole.extend_from_slice(first.get(..count).unwrap_or_default());
                first.advance(count);
                if first.is_empty() {
                    self.waiting.pop_front();
                }
            }
            whole.freeze()
        };
        self.waiting_bytes -= data.len();
        data
    }

    pub(super) fn handle_ack(&mut self, now: Instant, ack: &Ack) {
        if ack.next > self.next {
            return;
        }
        let limited = self.under_way + 2 * SEGMENT as u64 >= self.window();
        self.limit = self.limit.max(ack.next.saturating_add(ack.window));
        self.measure(now, ack.echo);
        let mut newest = None;
        let mut arrived = 0;
        let mut note = |sent: &Sent, under_way: &mut u64, lost: &mut BTreeSet<u64>| {
            match sent.state {
                State::Received => return,
                State::UnderWay => *under_way -= sent.length,
                State::Lost => drop(lost.remove(&sent.offset)),
            }
            arrived += sent.length;
            newest = newest.max(Some(sent.number));
        };
        while let Some(sent) = self.sent.pop_front_if(|sent| sent.offset + sent.length <= ack.next)
        {
            note(&sent, &mut self.under_way, &mut self.lost);
        }
        for (start, end) in &ack.ranges {
            let first = self.sent.partition_point(|sent| sent.offset < *start);
            for sent in self.sent.range_mut(first..) {
                if sent.offset + sent.length > *end {
                    break;
                }
                note(sent, &mut self.under_way, &mut self.lost);
                sent.state = State::Received;
            }
        }
        if let Some(newest) = newest {
            (self.retries, self.probed) = (0, false);
            let lost = self.find_lost(newest);
            self.adapt(now, arrived, lost, limited);
            self.timer = None;
        }
        if !self.is_idle() && self.timer.is_none() {
            self.arm(now);
        } else if self.is_idle() {
            self.timer = None;
        }
    }

    /// Whether nothing is outstanding that an acknowledgement must come for.
    fn is_idle(&self) -> bool {
        self.sent.is_empty() && !self.is_blocked()
    }

    /// Whether the receiver's window holds up what waits: then a probe asks whether it has opened.
    fn is_blocked(&self) -> bool {
        self.next >= self.limit && !self.waiting.is_empty()
    }

    fn measure(&mut self, now: Instant, echo: u32) {
        let found = self
            .transmissions
            .binary_search_by(|sent| (sent.number.wrapping_sub(echo) as i32).cmp(&0));
        let Some(sent) = found.ok().and_then(|at| self.transmissions.get(at)) else { return };
        let sample = now.saturating_duration_since(sent.at);
        match self.smoothed {
            None => (self.smoothed, self.variation) = (Some(sample), sample / 2),
            Some(smoothed) => {
                self.variation = (3 * self.variation + smoothed.abs_diff(sample)) / 4;
                self.smoothed = Some((7 * smoothed + sample) / 8);
            }
        }
    }

    /// Marks what transmissions up to `newest` have overtaken; whether that begins a new episode of loss.
    fn find_lost(&mut self, newest: u32) -> bool {
        let mut fresh = false;
        while let Some(old) = self
            .transmissions
            .pop_front_if(|sent| newest.wrapping_sub(sent.number) as i32 >= REORDERING as i32)
        {
            let Some(at) = self.position(old.offset) else { continue };
            let Some(sent) = self.sent.get_mut(at) else { continue };
            if sent.number == old.number && sent.state == State::UnderWay {
                sent.state = State::Lost;
                self.under_way -= sent.length;
                self.lost.insert(sent.offset);
                fresh |= sent.offset >= self.recovered_at;
            }
        }
        fresh
    }

    fn adapt(&mut self, now: Instant, arrived: u64, lost: bool, limited: bool) {
        if lost {
            self.cubic.lost();
            self.recovered_at = self.next;
        } else if self.sent.front().is_none_or(|first| first.offset >= self.recovered_at) {
            let segments = arrived as f64 / SEGMENT as f64;
            let round_trip = self.smoothed.unwrap_or_default();
            self.cubic.acknowledged(now, segments, round_trip, limited);
        }
    }

    /// The retransmission time-out (RFC 6298 section 2).
    fn timeout_after(&self) -> Duration {
        let base = self
            .smoothed
            .map_or(FIRST_TIMEOUT, |smoothed| (smoothed + 4 * self.variation).max(MIN_TIMEOUT));
        base.saturating_mul(1 << self.retries.min(10)).min(MAX_TIMEOUT)
    }

    fn arm(&mut self, now: Instant) {
        // The tail's probe comes after two round trips (RFC 8985 section 7.2), the time-out later.
        let after = match self.smoothed {
            Some(smoothed) if !self.probed && self.retries == 0 => {
                (2 * smoothed + Duration::from_millis(2)).min(self.timeout_after())
            }
            _ => self.timeout_after(),
        };
        self.timer = Some(now + after);
    }

    pub(super) fn timeout(&self) -> Option<Instant> {
        self.timer
    }

    /// The timer's time has come. A segment to send beside those of [`Sender::poll`] asks for the window.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> Option<Segment> {
        self.timer.filter(|at| *at <= now)?;
        self.timer = None;
        if self.sent.is_empty() {
            if !self.is_blocked() {
                return None;
            }
            self.retries = (self.retries + 1).min(10);
            self.arm(now);
            return Some(Segment::Data {
                offset: self.next,
                number: self.number,
                last: None,
                data: Bytes::new(),
            });
        }
        if !self.probed && self.retries == 0 {
            self.probed = true;
            let tail = self.sent.iter_mut().rev().find(|sent| sent.state == State::UnderWay);
            if let Some(sent) = tail {
                sent.state = State::Lost;
                self.under_way -= sent.length;
                self.lost.insert(sent.offset);
                self.force = true;
            }
        } else {
            self.cubic.timed_out(self.under_way as f64 / SEGMENT as f64);
            self.retries += 1;
            for sent in self.sent.iter_mut().filter(|sent| sent.state == State::UnderWay) {
                sent.state = State::Lost;
                self.lost.insert(sent.offset);
            }
            self.under_way = 0;
            self.recovered_at = 0;
        }
        self.arm(now);
        None
    }
}
