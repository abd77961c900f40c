//! Where application threads put messages.

use bytes::{Bytes, BytesMut};

use super::config::Limits;
use super::error::SendError;
use super::frame::{DataHeader, MAX_DATA_HEADER, MAX_FRAGMENT, MIN_MAX_MESSAGE, Part};
use super::log::{Assembly, Run};
use super::message::{LANES, Lane, MessageId, Payload, Unacknowledged};

/// A shared buffer of so many octets or more is kept by reference; a shorter one is copied.
const SHARE: usize = 2048;
/// A borrowed slice of so many octets or more is copied to a buffer of its own.
const OWN: usize = 8192;
/// Small messages are gathered to runs of up to so many octets, which are handed out whole.
const MAX_RUN: usize = 16 << 10;
/// The first buffer for small messages; it doubles with use, to `MAX_RUN` and a message.
const FIRST_BUFFER: usize = 128;

/// How far each lane is, in window positions: what was accepted, or acknowledged. Monotonic for the life of
/// the connection, also over [`Event::Reset`](super::Event::Reset).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Progress(pub [u64; LANES]);

impl Progress {
    /// Whether every lane is at least as far as in `goal`: with `self` from
    /// [`Session::acknowledged`](super::Session::acknowledged) and `goal` from [`Outgoing::accepted`], that
    /// everything accepted until then is acknowledged (or was given back). This is `flush`.
    pub fn reached(&self, goal: &Progress) -> bool {
        self.0.iter().zip(&goal.0).all(|(now, goal)| now >= goal)
    }
}

/// What one lane holds.
#[derive(Clone, Copy, Debug, Default)]
struct Load {
    bytes: usize,
    messages: usize,
}

/// What an application thread fills under the connection's lock, without touching the session: messages are
/// encoded here into the frames that go out.
#[derive(Debug)]
pub struct Outgoing {
    limits: Limits,
    /// The smaller of both ends' limits.
    max_message: usize,
    closed: bool,
    next_id: u64,
    /// Runs that are complete.
    queue: Vec<(Lane, Run)>,
    /// The run that is being filled, all of one lane.
    tail: BytesMut,
    tail_lane: Lane,
    tail_frames: u32,
    tail_payload: u32,
    tail_id: u64,
    /// How large the next buffer is to be.
    buffer: usize,
    /// What waits here.
    waiting: Load,
    /// What each lane holds, here and, when it last said so, in the session.
    load: [Load; LANES],
    accepted: Progress,
}

impl Outgoing {
    /// Empty, with these limits.
    pub fn new(limits: &Limits) -> Outgoing {
        Outgoing {
            max_message: limits.max_message,
            limits: limits.clone(),
            closed: false,
            next_id: 1,
            queue: Vec::new(),
            tail: BytesMut::new(),
            tail_lane: Lane::NORMAL,
            tail_frames: 0,
            tail_payload: 0,
            tail_id: 0,
            buffer: FIRST_BUFFER,
            waiting: Load::default(),
            load: [Load::default(); LANES],
            accepted: Progress::default(),
        }
    }

    /// Accepts a message and returns its id: `id`, or the next one counted from 1 (ids given by the caller are
    /// taken as they are and not reserved). Cost: one copy of the payload when it is small or a slice, none
    /// otherwise.
    ///
    /// # Errors
    /// [`SendError`]: full (what the session holds unacknowledged counts, as of its last
    /// [`enqueue`](super::Session::enqueue)), too large, or closed. Nothing has changed then.
    #[inline]
    pub fn push(
        &mut self,
        lane: Lane,
        id: Option<MessageId>,
        reply_to: Option<MessageId>,
        payload: Payload<'_>,
    ) -> Result<MessageId, SendError> {
        let len = payload.len();
        if self.closed || len > self.max_message || self.is_full(lane, len) {
            return Err(self.refusal(lane, len));
        }
        let id = match id {
            Some(id) => id,
            None => {
                let id = MessageId::new(self.next_id).ok_or(SendError::Closed)?;
                self.next_id += 1;
                id
            }
        };
        match payload {
            Payload::Slice(data) if len < OWN && len <= self.limits.fragment => {
                self.push_small(lane, id, reply_to, data);
            }
            Payload::Bytes(data) if len < SHARE && len <= self.limits.fragment => {
                self.push_small(lane, id, reply_to, &data);
            }
            Payload::Slice(data) => {
                self.push_large(lane, id, reply_to, Bytes::copy_from_slice(data))
            }
            Payload::Bytes(data) => self.push_large(lane, id, reply_to, data),
        }
        for load in [&mut self.waiting, &mut self.load[lane.index()]] {
            load.bytes += len;
            load.messages += 1;
        }
        Ok(id)
    }

    /// The next automatic id.
    pub fn next_id(&self) -> u64 {
        self.next_id
    }

    /// Leaves an automatic id out.
    pub fn skip_id(&mut self) {
        self.next_id += 1;
    }

    /// Whether [`push`](Self::push) would say [`SendError::Full`] to a message of `len` octets on this lane.
    #[inline]
    pub fn is_full(&self, lane: Lane, len: usize) -> bool {
        let load = &self.load[lane.index()];
        load.messages > 0
            && (load.messages >= self.limits.max_messages
                || load.bytes + len > self.limits.max_bytes)
    }

    /// Whether every lane is down to half of its limits, or empty: the time to tell those who were refused. Told for
    /// each message that leaves, they would come back for each.
    pub fn is_low(&self) -> bool {
        let Limits { max_bytes, max_messages, .. } = self.limits;
        let low = |load: &Load| load.bytes <= max_bytes / 2 && load.messages <= max_messages / 2;
        self.load.iter().all(low)
    }

    #[cold]
    fn refusal(&self, lane: Lane, len: usize) -> SendError {
        let Load { bytes, messages } = self.load[lane.index()];
        if self.closed {
            SendError::Closed
        } else if len > self.max_message {
            SendError::TooLarge { len, max: self.max_message }
        } else {
            SendError::Full { lane, bytes, messages }
        }
    }

    /// Copies a message into the run at the tail.
    #[inline]
    fn push_small(&mut self, lane: Lane, id: MessageId, reply_to: Option<MessageId>, data: &[u8]) {
        self.make_room(lane, MAX_DATA_HEADER + data.len());
        let header = self.header(Part::Whole, id, reply_to, data.len(), data.len());
        let mut octets = [0; MAX_DATA_HEADER];
        let used = header.encode(&mut octets);
        // A copy of constant length costs less than one of the right length.
        let end = self.tail.len() + used;
        self.tail.extend_from_slice(&octets);
        self.tail.truncate(end);
        self.tail.extend_from_slice(data);
        self.count(used, data.len());
    }

    /// Keeps the payload by reference, cut into fragments.
    fn push_large(&mut self, lane: Lane, id: MessageId, reply_to: Option<MessageId>, data: Bytes) {
        let fragment = self.limits.fragment.clamp(1, MAX_FRAGMENT);
        let (total, mut at) = (data.len(), 0);
        // S4.5: a message that can be over the peer's limit has its runs to itself.
        if total > fragment || total > MIN_MAX_MESSAGE {
            self.cut(Bytes::new(), 1);
        }
        while at < total {
            let len = (total - at).min(fragment);
            let (first, last) = (at == 0, at + len == total);
            let part = match (first, last) {
                (true, true) => Part::Whole,
                (true, false) => Part::First,
                _ => Part::Rest,
            };
            self.make_room(lane, MAX_DATA_HEADER);
            let header = self.header(part, id, if first { reply_to } else { None }, len, total);
            let mut octets = [0; MAX_DATA_HEADER];
            let used = header.encode(&mut octets);
            self.tail.extend_from_slice(&octets[..used]);
            self.count(used, len);
            // A whole message ends the run of messages before it; a fragment counts only when it is the last.
            let messages = if part == Part::Whole { self.tail_frames } else { u32::from(last) };
            self.cut(data.slice(at..at + len), messages);
            at += len;
        }
    }

    /// The header of the next frame: the id is left out when it follows from the frame before it in the run.
    #[inline]
    fn header(
        &mut self,
        part: Part,
        id: MessageId,
        reply_to: Option<MessageId>,
        len: usize,
        total: usize,
    ) -> DataHeader {
        let follows = self.tail_frames > 0 && id.value() == self.tail_id + 1;
        self.tail_id = id.value();
        let id = if follows || part == Part::Rest { None } else { Some(id) };
        DataHeader { part, lane: self.tail_lane, id, reply_to, len, total: total as u64, header: 0 }
    }

    #[inline]
    fn count(&mut self, header: usize, len: usize) {
        self.tail_frames += 1;
        self.tail_payload += len as u32;
        let charge = (header + len) as u64 + super::FRAME_CHARGE;
        self.accepted.0[self.tail_lane.index()] += charge;
    }

    /// Makes the tail a run of `lane` with `need` octets free.
    #[inline]
    fn make_room(&mut self, lane: Lane, need: usize) {
        if lane != self.tail_lane || self.tail.len() + need > MAX_RUN {
            self.cut(Bytes::new(), self.tail_frames);
            self.tail_lane = lane;
        }
        if self.tail.capacity() - self.tail.len() < need {
            self.grow(need);
        }
    }

    #[cold]
    fn grow(&mut self, need: usize) {
        self.cut(Bytes::new(), self.tail_frames);
        self.tail.reserve(self.buffer.max(need));
        self.buffer = (self.buffer * 2).min(MAX_RUN + OWN);
    }

    /// Ends the run at the tail.
    fn cut(&mut self, body: Bytes, messages: u32) {
        if self.tail_frames > 0 {
            let run = self.tail_run(body, messages);
            self.queue.push((self.tail_lane, run));
        }
    }

    fn tail_run(&mut self, body: Bytes, messages: u32) -> Run {
        let run = Run {
            head: self.tail.split().freeze(),
            body,
            frames: self.tail_frames,
            messages,
            payload: self.tail_payload,
            withdrawn: 0,
        };
        (self.tail_frames, self.tail_payload) = (0, 0);
        run
    }

    /// Hands every run over, in order.
    #[inline]
    pub(super) fn drain(&mut self, mut each: impl FnMut(Lane, Run)) {
        if !self.queue.is_empty() {
            for (lane, run) in self.queue.drain(..) {
                each(lane, run);
            }
        }
        if self.tail_frames > 0 {
            let run = self.tail_run(Bytes::new(), self.tail_frames);
            each(self.tail_lane, run);
        }
        self.waiting = Load::default();
    }

    /// Takes over what the session holds and what the peer takes. What waits here must have been drained.
    pub(super) fn update(&mut self, held: impl Iterator<Item = (u64, u64)>, peer_max_message: u64) {
        for (slot, (bytes, messages)) in self.load.iter_mut().zip(held) {
            *slot = Load { bytes: bytes as usize, messages: messages as usize };
        }
        self.max_message =
            usize::try_from(peer_max_message).unwrap_or(usize::MAX).min(self.limits.max_message);
    }

    /// Octets of payload waiting here for `enqueue`.
    pub fn bytes(&self) -> usize {
        self.waiting.bytes
    }

    /// Messages waiting here for `enqueue`.
    pub fn messages(&self) -> usize {
        self.waiting.messages
    }

    /// Nothing waits here.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.tail_frames == 0 && self.queue.is_empty()
    }

    /// The most octets that a message may have now: the smaller of both ends' limits.
    pub fn max_message(&self) -> usize {
        self.max_message
    }

    /// How much was ever accepted: the goal of a `flush` that begins now.
    pub fn accepted(&self) -> Progress {
        self.accepted
    }

    /// From now on [`push`](Self::push) says [`SendError::Closed`]. What is here still goes out by `enqueue`.
    pub fn close(&mut self) {
        self.closed = true;
    }

    /// Whether it was closed.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Takes out what waits here, decoded: for a connection that ends before `enqueue`.
    pub fn take(&mut self) -> Vec<Unacknowledged> {
        let mut out = Vec::with_capacity(self.messages());
        let mut assemblies: [Assembly; LANES] = Default::default();
        self.drain(|lane, run| {
            assemblies[lane.index()].decode(&run, 1, 0, &mut out);
        });
        out
    }

    /// Gives unused memory back, for a connection that has gone idle.
    pub fn shrink(&mut self) {
        if self.is_empty() {
            self.tail = BytesMut::new();
            self.buffer = FIRST_BUFFER;
            self.queue = Vec::new();
        }
    }
}
