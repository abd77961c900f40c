//! What goes to the wire, in which order (docs/session.md, section 6).

use std::time::Instant;

use bytes::{Bytes, BytesMut};

use super::error::WireError;
use super::frame::{VERSION, kind, put_control, put_ints, put_reason};
use super::handshake::{Hello, LaneState, Welcome};
use super::machine::{Phase, Session};
use super::message::LANES;

/// S6.1: a lane that waits gets its turn after so many runs of more urgent ones.
const MAX_WAIT: u8 = 16;
/// Data of so few octets is copied behind control frames rather than handed out by itself.
const MERGE: usize = 512;
/// S5.5: an acknowledgement rides along with data when so much has come since the last one, or enough time.
const RIDE: u64 = 16 << 10;
/// Control frames are written into buffers of this size: an idle session has one, for its acknowledgements and PINGs.
const CONTROL_BUFFER: usize = 128;
/// Room for the acknowledgement of a lane, as large as its numbers get before anybody minds an allocation.
const ACK_ROOM: usize = 32;

impl Session {
    /// Appends what is to be written to the wire, in order, and returns its octets: about `max_bytes`, more by
    /// at most one run of frames (a fragment, or 16 KiB of small messages). Lanes are chosen here: what was
    /// handed out cannot be overtaken any more. Call it when the transport has room; nothing is lost by waiting.
    pub fn poll_transmit(&mut self, now: Instant, max_bytes: usize, out: &mut Vec<Bytes>) -> usize {
        self.now = now;
        if max_bytes == 0 || self.is_quiet() {
            return 0;
        }
        let mut sent = 0;
        match self.phase {
            Phase::Down | Phase::Ended => {
                if !self.last_words.is_empty() {
                    sent = self.last_words.len();
                    out.push(std::mem::take(&mut self.last_words));
                }
            }
            Phase::Greeting => {
                if std::mem::take(&mut self.greeting_due) {
                    self.put_hello();
                    sent = self.flush_control(out);
                }
            }
            Phase::Up => sent = self.transmit(max_bytes, out),
        }
        self.stats.bytes_sent += sent as u64;
        sent
    }

    /// Whether `poll_transmit` has anything now.
    pub fn wants_transmit(&self) -> bool {
        match self.phase {
            Phase::Down | Phase::Ended => !self.last_words.is_empty(),
            Phase::Greeting => self.greeting_due,
            Phase::Up => {
                self.greeting_due
                    || self.ack_now != 0
                    || self.pong.is_some()
                    || self.ping.is_some_and(|ping| ping.due)
                    || (self.ack_wanted && self.ping.is_none())
                    || self.data_ready()
                    || self.close_due()
            }
        }
    }

    /// A quick look that rules most empty calls out.
    #[inline]
    fn is_quiet(&self) -> bool {
        self.phase == Phase::Up
            && self.unsent | self.ack_now == 0
            && !(self.greeting_due || self.ack_wanted)
            && self.pong.is_none()
            && self.ping.is_none()
            && self.closing.is_none()
    }

    fn transmit(&mut self, max_bytes: usize, out: &mut Vec<Bytes>) -> usize {
        if std::mem::take(&mut self.greeting_due) {
            self.put_welcome();
        }
        // S5.5: acknowledgements go with data that goes anyway.
        if self.ack_now != 0 || (self.ack_pending != 0 && self.ack_rides() && self.data_ready()) {
            self.put_acks();
        }
        if let Some(token) = self.pong.take() {
            put_ints(&mut self.control, kind::PONG, [token]);
        }
        let (mut sent, data) = self.put_data(max_bytes, out);
        if data < max_bytes && (self.ack_wanted || self.closing.is_some()) {
            if self.ack_wanted && self.ping.is_none() {
                self.ack_wanted = false;
                self.send_ping(self.now);
            }
            self.put_close_if_due();
        }
        if let Some(ping) = self.ping.as_mut().filter(|ping| ping.due) {
            ping.due = false;
            put_ints(&mut self.control, kind::PING, [ping.token]);
        }
        sent += self.flush_control(out);
        sent
    }

    /// S5.5: whether it is worth to acknowledge along with data: always when little is going on, now and then when
    /// much is.
    fn ack_rides(&self) -> bool {
        self.now.saturating_duration_since(self.acked_at) >= self.config.ack_delay / 2
            || self.incoming.iter().flatten().any(|lane| lane.received - lane.acknowledged >= RIDE)
    }

    fn put_close_if_due(&mut self) {
        if self.close_due() {
            let mut control = std::mem::take(&mut self.control);
            self.put_close(&mut control);
            self.control = control;
        }
    }

    fn data_ready(&self) -> bool {
        self.unsent != 0 && (0..LANES).any(|lane| self.lane_ready(lane))
    }

    fn lane_ready(&self, lane: usize) -> bool {
        self.logs[lane].as_ref().is_some_and(|log| log.ready(self.peer_limits[lane]))
    }

    /// Runs of frames, lane by lane, until `max_bytes` of them are there: the octets put out, and those of data. What
    /// is in `control` goes first and does not count, so that no stream of PINGs keeps data from moving.
    fn put_data(&mut self, max_bytes: usize, out: &mut Vec<Bytes>) -> (usize, usize) {
        let (mut sent, mut data) = (0, 0);
        while self.unsent != 0 && data < max_bytes {
            let Some(lane) = self.next_lane() else { break };
            let Some(log) = &mut self.logs[lane] else { break };
            let Some((head, body)) = log.take(self.peer_limits[lane]) else { break };
            if log.all_sent() {
                self.unsent &= !(1 << lane);
            }
            data += head.len() + body.len();
            if head.len() <= MERGE && !self.control.is_empty() {
                self.control.extend_from_slice(&head);
                if body.is_empty() {
                    continue;
                }
                sent += self.flush_control(out);
            } else {
                sent += self.flush_control(out) + head.len();
                out.push(head);
            }
            if !body.is_empty() {
                sent += body.len();
                out.push(body);
            }
        }
        (sent, data)
    }

    /// S6.1: the most urgent lane that can send, unless a less urgent one has waited long enough.
    fn next_lane(&mut self) -> Option<usize> {
        // One lane alone has nobody to wait for; whether its window is open shows when it is taken from.
        if self.unsent.is_power_of_two() {
            return Some(self.unsent.trailing_zeros() as usize);
        }
        let ready: [bool; LANES] = std::array::from_fn(|lane| self.lane_ready(lane));
        let first = ready.iter().position(|&ready| ready)?;
        let waited_enough = |&lane: &usize| ready[lane] && self.waited[lane] >= MAX_WAIT;
        let chosen = (first + 1..LANES).find(waited_enough).unwrap_or(first);
        for (lane, (waited, ready)) in self.waited.iter_mut().zip(ready).enumerate() {
            if lane == chosen || !ready {
                *waited = 0;
            } else if lane > chosen {
                *waited = waited.saturating_add(1);
            }
        }
        Some(chosen)
    }

    #[inline]
    fn flush_control(&mut self, out: &mut Vec<Bytes>) -> usize {
        let len = self.control.len();
        if len > 0 {
            out.push(self.control.split().freeze());
        }
        len
    }

    /// S5.5: ACK for every lane that has something to say.
    fn put_acks(&mut self) {
        let lanes = std::mem::take(&mut self.ack_pending) | std::mem::take(&mut self.ack_now);
        self.ack_at = None;
        self.acked_at = self.now;
        let window = self.config.window;
        if self.control.capacity() - self.control.len() < ACK_ROOM {
            self.control.reserve(CONTROL_BUFFER);
        }
        for (index, incoming) in self.incoming.iter_mut().enumerate() {
            let Some(incoming) = incoming.as_mut().filter(|_| lanes & (1 << index) != 0) else {
                continue;
            };
            incoming.advertised = incoming.limit(window);
            incoming.acknowledged = incoming.received;
            put_ints(
                &mut self.control,
                kind::ACK,
                [index as u64, incoming.received, incoming.advertised],
            );
        }
    }

    /// Acknowledgements of everything, for last words.
    pub(super) fn final_acknowledgements(&mut self) -> BytesMut {
        self.ack_now = self.ack_pending;
        if self.ack_now != 0 {
            self.put_acks();
        }
        std::mem::take(&mut self.control)
    }

    /// The FAIL frame for this error (S7.2).
    pub(super) fn failure(&self, error: &WireError) -> Bytes {
        let mut out = BytesMut::new();
        put_control(&mut out, kind::FAIL, |body| {
            put_reason(body, error.code(), &error.to_string())
        });
        out.freeze()
    }

    fn put_hello(&mut self) {
        let lanes = self.lane_states();
        let hello = Hello {
            min_version: VERSION,
            max_version: VERSION,
            session: self.id(),
            attempt: self.attempt,
            epoch: self.epoch,
            max_message: self.config.max_message as u64,
            lanes,
        };
        hello.encode(&mut self.control);
    }

    fn put_welcome(&mut self) {
        let lanes = self.lane_states();
        let welcome = Welcome {
            version: VERSION,
            epoch: self.epoch,
            max_message: self.config.max_message as u64,
            lanes,
        };
        welcome.encode(&mut self.control);
    }

    /// S3.4: what the peer is told of each lane, which then counts as told.
    fn lane_states(&mut self) -> [LaneState; LANES] {
        (self.ack_pending, self.ack_now, self.ack_at) = (0, 0, None);
        let window = self.config.window;
        std::array::from_fn(|index| match &mut self.incoming[index] {
            Some(incoming) => {
                incoming.advertised = incoming.limit(window);
                incoming.acknowledged = incoming.received;
                LaneState { received: incoming.received, limit: incoming.advertised }
            }
            None => LaneState { received: 0, limit: window },
        })
    }
}
