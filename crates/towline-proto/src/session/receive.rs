//! The receiving side: frames out of octets, messages out of frames, windows (docs/session.md, sections 4 and 5).

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};

use super::frame::{
    DataHeader, MAX_CONTROL_HEADER, MAX_DATA_HEADER, Part, Violation, decode_control, decode_data,
    is_data,
};
use super::message::{FRAME_CHARGE, Lane, Message, MessageId};

/// What is left of a payload below which no direct read is offered: a pooled buffer does as well.
const MIN_DIRECT: usize = 4096;
/// A message of so much is read directly to its last octet. A pooled read would end somewhere in the next frame, and
/// with frames about as long as pooled buffers the next read again, and so on: all of it would be copied.
const LONG: usize = 32 << 10;

/// A message that is not whole yet.
#[derive(Debug)]
struct Assembly {
    buffer: BytesMut,
    /// Octets of `buffer` that came in whole frames, so that they count as received (S7.6).
    settled: usize,
    total: usize,
    id: MessageId,
    reply_to: Option<MessageId>,
}

/// One lane's receiving side.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    /// Position of what was received in whole frames.
    pub(super) received: u64,
    /// What the peer was last told.
    pub(super) acknowledged: u64,
    pub(super) advertised: u64,
    /// Cost of the messages that the application has not consumed.
    pub(super) unconsumed: u64,
    last_id: u64,
    assembly: Option<Box<Assembly>>,
}

impl Incoming {
    pub(super) fn new(window: u64) -> Incoming {
        Incoming { advertised: window, ..Incoming::default() }
    }

    /// S5.3: the limit that the peer may be told now; never less than before.
    pub(super) fn limit(&self, window: u64) -> u64 {
        (self.received + window.saturating_sub(self.unconsumed)).max(self.advertised)
    }

    /// The wire is gone: what came of an unfinished frame is forgotten (S7.6).
    fn forget_partial(&mut self) {
        if let Some(assembly) = &mut self.assembly {
            assembly.buffer.truncate(assembly.settled);
            if assembly.settled == 0 {
                self.assembly = None;
            }
        }
    }

    /// The peer starts anew (S7.7); what the application still holds keeps its place in the window.
    pub(super) fn restart(&mut self) {
        self.advertised -= self.received.min(self.advertised);
        (self.received, self.acknowledged, self.last_id, self.assembly) = (0, 0, 0, None);
    }
}

/// The frame that is under way.
#[derive(Clone, Copy, Debug)]
struct Body {
    lane: Lane,
    remaining: usize,
    charge: u64,
}

/// What [`Reader::next`] found.
#[derive(Debug)]
pub(super) enum Item {
    /// A whole message.
    Message(Message),
    /// A frame that only added to a message.
    Fragment(Lane),
    /// A whole control frame: type and body.
    Control(u8, Bytes),
}

/// What the reader must know to judge a frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub(super) window: u64,
    pub(super) max_message: u64,
    /// S3.1: messages may come at all.
    pub(super) data: Result<(), Violation>,
}

/// Cuts octets into frames. Holds at most an unfinished header or control frame; payloads go to their messages.
#[derive(Debug, Default)]
pub(super) struct Reader {
    input: Bytes,
    at: usize,
    /// Input that came before the earlier was drained.
    backlog: VecDeque<Bytes>,
    partial: BytesMut,
    body: Option<Body>,
    /// The free end of a buffer is with the caller of `direct`.
    lent: bool,
}

pub(super) type Lanes = [Option<Box<Incoming>>; super::LANES];

impl Reader {
    pub(super) fn push(&mut self, data: Bytes) {
        if self.at >= self.input.len() && self.backlog.is_empty() {
            self.input = data;
            self.at = 0;
        } else {
            self.backlog.push_back(data);
        }
    }

    /// Forgets everything that belonged to the wire.
    pub(super) fn reset(&mut self, lanes: &mut Lanes) {
        *self = Reader::default();
        lanes.iter_mut().flatten().for_each(|lane| lane.forget_partial());
    }

    /// Gives spare memory back.
    pub(super) fn shrink(&mut self) {
        if self.partial.is_empty() {
            self.partial = BytesMut::new();
        }
        self.backlog.shrink_to_fit();
    }

    /// The usual case by a short way: a message that lies whole in the input and breaks no rule. Otherwise `None`,
    /// with nothing changed, and [`next`](Self::next) finds out why.
    #[inline(always)]
    pub(super) fn next_message(
        &mut self,
        lanes: &mut Lanes,
        window: u64,
        max_message: u64,
    ) -> Option<Message> {
        if self.body.is_some() || !self.partial.is_empty() {
            return None;
        }
        let data = self.input.get(self.at..)?;
        if !is_data(*data.first()?) {
            return None;
        }
        let Ok(Some(header)) = decode_data(data) else { return None };
        if header.part != Part::Whole || data.len() - header.header < header.len {
            return None;
        }
        let rules = Rules { window, max_message, data: Ok(()) };
        let lane = admit(lanes, &rules, &header).ok()?;
        let id = identify(lane, &header).ok()?;
        lane.last_id = id.value();
        lane.received += header.charge();
        let begin = self.at + header.header;
        self.at = begin + header.len;
        let data = if self.at == self.input.len() {
            // The last of its buffer takes the reference over.
            self.at = 0;
            let mut data = std::mem::take(&mut self.input);
            data.advance(begin);
            data
        } else {
            self.input.slice(begin..self.at)
        };
        lane.unconsumed += data.len() as u64 + FRAME_CHARGE;
        Some(Message { id, reply_to: header.reply_to, lane: header.lane, data })
    }

    /// The next whole frame, or `None` when the input is used up.
    pub(super) fn next(
        &mut self,
        lanes: &mut Lanes,
        rules: &Rules,
    ) -> Result<Option<Item>, Violation> {
        loop {
            let data = self.input.get(self.at..).unwrap_or_default();
            let Some(&first) = data.first() else {
                match self.backlog.pop_front() {
                    Some(next) => (self.input, self.at) = (next, 0),
                    None => {
                        // Lets the buffer go back to its pool.
                        (self.input, self.at) = (Bytes::new(), 0);
                        return Ok(None);
                    }
                }
                continue;
            };
            if rules.data.is_ok()
                && let Some(message) = self.next_message(lanes, rules.window, rules.max_message)
            {
                return Ok(Some(Item::Message(message)));
            }
            let data = self.input.get(self.at..).unwrap_or_default();
            if self.body.is_some() {
                if let Some(item) = self.fill(lanes)? {
                    return Ok(Some(item));
                }
            } else if !self.partial.is_empty() {
                if let Some(item) = self.complete(lanes, rules)? {
                    return Ok(Some(item));
                }
            } else if is_data(first) {
                let Some(header) = decode_data(data)? else {
                    self.stash();
                    continue;
                };
                self.at += header.header;
                self.begin(lanes, rules, &header)?;
                if let Some(item) = self.fill(lanes)? {
                    return Ok(Some(item));
                }
            } else {
                match decode_control(data)? {
                    Some((kind, header, len)) if data.len() >= header + len => {
                        let begin = self.at + header;
                        self.at = begin + len;
                        return Ok(Some(Item::Control(kind, self.input.slice(begin..begin + len))));
                    }
                    _ => self.stash(),
                }
            }
        }
    }

    /// Keeps what there is of a header or control frame.
    fn stash(&mut self) {
        self.partial.extend_from_slice(self.input.get(self.at..).unwrap_or_default());
        self.at = self.input.len();
    }

    /// Adds input to an unfinished header or control frame.
    fn complete(&mut self, lanes: &mut Lanes, rules: &Rules) -> Result<Option<Item>, Violation> {
        let data = is_data(self.partial.first().copied().unwrap_or_default());
        let header_max = if data { MAX_DATA_HEADER } else { MAX_CONTROL_HEADER };
        let had = self.partial.len();
        self.take_to(header_max);
        if data {
            let Some(header) = decode_data(&self.partial)? else { return Ok(None) };
            // What was taken beyond the header goes back; the header was not whole before, so it ends here.
            self.at -= self.partial.len() - header.header.max(had);
            self.partial.clear();
            self.begin(lanes, rules, &header)?;
            return self.fill(lanes);
        }
        let Some((kind, header, len)) = decode_control(&self.partial)? else { return Ok(None) };
        let need = header + len;
        if self.partial.len() > need {
            self.at -= self.partial.len() - need.max(had);
            self.partial.truncate(need);
        }
        self.take_to(need);
        if self.partial.len() < need {
            return Ok(None);
        }
        let mut frame = self.partial.split().freeze();
        frame.advance(header);
        Ok(Some(Item::Control(kind, frame)))
    }

    /// Moves input to `partial` until that has `len` octets.
    fn take_to(&mut self, len: usize) {
        let more = len.saturating_sub(self.partial.len()).min(self.input.len() - self.at);
        self.partial.extend_from_slice(self.input.get(self.at..self.at + more).unwrap_or_default());
        self.at += more;
    }

    /// A frame's header is read and its payload is still to come, or part of a longer message.
    fn begin(
        &mut self,
        lanes: &mut Lanes,
        rules: &Rules,
        header: &DataHeader,
    ) -> Result<(), Violation> {
        let lane = admit(lanes, rules, header)?;
        if header.part == Part::Rest {
            let assembly = lane.assembly.as_ref().ok_or(Violation::FragmentOutOfPlace)?;
            if header.len > assembly.total - assembly.buffer.len() {
                return Err(Violation::BadFragment);
            }
        } else {
            let id = identify(lane, header)?;
            let total = header.total as usize;
            // S4.3: allocated once; its size was checked against `max_message` by `admit`.
            let buffer = BytesMut::with_capacity(total);
            let reply_to = header.reply_to;
            lane.assembly = Some(Box::new(Assembly { buffer, settled: 0, total, id, reply_to }));
        }
        self.body =
            Some(Body { lane: header.lane, remaining: header.len, charge: header.charge() });
        Ok(())
    }

    /// Takes payload from the input.
    fn fill(&mut self, lanes: &mut Lanes) -> Result<Option<Item>, Violation> {
        let Some(body) = &mut self.body else { return Ok(None) };
        let Some(lane) = lanes.get_mut(body.lane.index()).and_then(|lane| lane.as_deref_mut())
        else {
            return Ok(None);
        };
        let Some(assembly) = &mut lane.assembly else { return Ok(None) };
        let take = body.remaining.min(self.input.len() - self.at);
        assembly
            .buffer
            .extend_from_slice(self.input.get(self.at..self.at + take).unwrap_or_default());
        self.at += take;
        body.remaining -= take;
        if body.remaining > 0 {
            return Ok(None);
        }
        let Body { lane: number, charge, .. } = *body;
        self.body = None;
        lane.received += charge;
        assembly.settled = assembly.buffer.len();
        // Only now: a frame that is cut off comes again, and its id with it.
        lane.last_id = assembly.id.value();
        if assembly.settled < assembly.total {
            return Ok(Some(Item::Fragment(number)));
        }
        let Some(done) = lane.assembly.take() else { return Ok(None) };
        let message = Message {
            id: done.id,
            reply_to: done.reply_to,
            lane: number,
            data: done.buffer.freeze(),
        };
        lane.unconsumed += message.cost();
        Ok(Some(Item::Message(message)))
    }

    /// Lends the free end of the buffer whose payload is under way. What is filled already stays here, so that a
    /// buffer that never comes back costs nothing but its part.
    pub(super) fn lend(&mut self, lanes: &mut Lanes) -> Option<(BytesMut, usize)> {
        let body = self.body.as_ref()?;
        if self.lent || self.at < self.input.len() {
            return None;
        }
        let assembly = lanes.get_mut(body.lane.index())?.as_deref_mut()?.assembly.as_mut()?;
        if body.remaining < MIN_DIRECT && assembly.total < LONG {
            return None;
        }
        let filled = assembly.buffer.len();
        // After a wire was lost in the middle of a direct read.
        assembly.buffer.reserve(assembly.total - filled);
        self.lent = true;
        Some((assembly.buffer.split_off(filled), body.remaining))
    }

    /// Takes it back. One that was not lent for this wire, or holds too much, is refused by `false`.
    pub(super) fn restore(&mut self, lanes: &mut Lanes, buffer: BytesMut) -> bool {
        let (true, Some(body)) = (self.lent, &mut self.body) else { return false };
        let lane = lanes.get_mut(body.lane.index()).and_then(|lane| lane.as_deref_mut());
        let Some(assembly) = lane.and_then(|lane| lane.assembly.as_mut()) else { return false };
        if buffer.len() > body.remaining {
            return false;
        }
        self.lent = false;
        body.remaining -= buffer.len();
        // In place: the two are neighbours.
        assembly.buffer.unsplit(buffer);
        true
    }

    /// Ends a payload that a direct read has filled.
    pub(super) fn finish_direct(&mut self, lanes: &mut Lanes) -> Result<Option<Item>, Violation> {
        match self.body {
            Some(Body { remaining: 0, .. }) => self.fill(lanes),
            _ => Ok(None),
        }
    }

    #[cfg(test)]
    pub(super) fn footprint(&self) -> usize {
        self.backlog.capacity() * size_of::<Bytes>() + self.partial.capacity() + self.input.len()
    }

    /// Whether there is no input to look at.
    #[inline]
    pub(super) fn is_drained(&self) -> bool {
        self.input.is_empty() && self.backlog.is_empty()
    }

    /// Whether nothing of the wire has come yet.
    pub(super) fn is_fresh(&self) -> bool {
        self.at >= self.input.len()
            && self.partial.is_empty()
            && self.body.is_none()
            && self.backlog.is_empty()
    }
}

/// S3.1, S3.5, S4.4, S5.2: whether this frame may come here. Nothing is allocated for it before.
#[inline]
fn admit<'a>(
    lanes: &'a mut Lanes,
    rules: &Rules,
    header: &DataHeader,
) -> Result<&'a mut Incoming, Violation> {
    rules.data?;
    if header.total > rules.max_message {
        return Err(Violation::MessageTooLarge { len: header.total, max: rules.max_message });
    }
    let slot = lanes
        .get_mut(header.lane.index())
        .ok_or(Violation::NoSuchLane(header.lane.index() as u64))?;
    let lane = slot.get_or_insert_with(|| Box::new(Incoming::new(rules.window)));
    if lane.received + header.charge() > lane.advertised {
        return Err(Violation::WindowExceeded(header.lane));
    }
    if (header.part == Part::Rest) != lane.assembly.is_some() {
        return Err(Violation::FragmentOutOfPlace);
    }
    Ok(lane)
}

/// S2.3: the id given, or the one after the lane's last.
#[inline]
fn identify(lane: &Incoming, header: &DataHeader) -> Result<MessageId, Violation> {
    match header.id {
        Some(id) => Ok(id),
        None => MessageId::new(lane.last_id + 1).ok_or(Violation::BadId),
    }
}
