//! One lane's sending side: a log of encoded frames that is the send queue and the retransmission buffer at
//! the same time (docs/session.md, sections 5 and 7).

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::frame::{DataHeader, Part, decode_data};
use super::message::{FRAME_CHARGE, MessageId, Unacknowledged};

/// A run of whole frames, encoded. Its first frame always carries its id, so that a run can be decoded alone.
#[derive(Clone, Debug, Default)]
pub(super) struct Run {
    /// Frames; the last may be a header only, whose payload is `body`.
    pub(super) head: Bytes,
    /// The payload of the last frame when it is kept by reference.
    pub(super) body: Bytes,
    pub(super) frames: u32,
    /// Messages that end in this run: 0 for a fragment that is not the last.
    pub(super) messages: u32,
    /// Octets of payload.
    pub(super) payload: u32,
    /// Not a run but the place of a withdrawn message, with the positions it had been accepted for.
    pub(super) withdrawn: u64,
}

impl Run {
    pub(super) fn len(&self) -> usize {
        self.head.len() + self.body.len()
    }

    /// How far it moves the lane's position (S5.1).
    pub(super) fn charge(&self) -> u64 {
        self.len() as u64 + u64::from(self.frames) * FRAME_CHARGE
    }

    /// Its frames from octet `at` on, each with the octet behind it.
    fn frames_from(&self, at: usize) -> impl Iterator<Item = (DataHeader, usize)> + '_ {
        let mut at = at;
        std::iter::from_fn(move || {
            let header = decode_data(self.head.get(at..)?).ok()??;
            at += header.header + header.len;
            Some((header, at))
        })
    }

    /// The payload that ends at octet `end` of the run.
    fn payload_of(&self, header: &DataHeader, end: usize) -> Bytes {
        let begin = end - header.len;
        if begin >= self.head.len() && header.len > 0 {
            self.body.clone()
        } else {
            self.head.slice(begin..end)
        }
    }
}

/// A place in the log: the run, its first position, and octets into it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Place {
    index: usize,
    position: u64,
    skip: usize,
}

/// What an acknowledgement freed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Freed {
    pub(super) bytes: u64,
    pub(super) messages: u64,
}

#[derive(Debug, Default)]
pub(super) struct Log {
    runs: VecDeque<Run>,
    /// Position behind the last run.
    end: u64,
    /// Acknowledged position, and the run it falls into (whole messages before it are dropped).
    acked: u64,
    acked_run: Place,
    /// What goes out next on the present wire, and its position.
    cursor: Place,
    sent: u64,
    /// The furthest that any wire got.
    sent_max: u64,
    /// Progress beyond `acked`: earlier sessions, withdrawn messages.
    settled: u64,
    held: Freed,
}

impl Log {
    pub(super) fn push(&mut self, run: Run) {
        self.end += run.charge();
        self.held.bytes += u64::from(run.payload);
        self.held.messages += u64::from(run.messages);
        if self.runs.capacity() == 0 {
            // An idle session's first message leaves no larger hole behind than it needs.
            self.runs.reserve_exact(1);
        }
        self.runs.push_back(run);
    }

    /// Octets of payload and messages that are kept.
    pub(super) fn held(&self) -> Freed {
        self.held
    }

    /// Progress for `flush`: see [`Progress`](super::Progress).
    pub(super) fn progress(&self) -> u64 {
        self.settled + self.acked
    }

    pub(super) fn all_sent(&self) -> bool {
        self.sent == self.end
    }

    pub(super) fn all_acknowledged(&self) -> bool {
        self.acked == self.end
    }

    /// Whether a frame is there to go out within `limit`.
    pub(super) fn ready(&self, limit: u64) -> bool {
        if self.sent == self.end {
            return false;
        }
        let mut index = self.cursor.index;
        while self.runs.get(index).is_some_and(|run| run.frames == 0) {
            index += 1;
        }
        let Some(run) = self.runs.get(index) else { return false };
        self.cursor.position + run.charge() <= limit
            || run
                .frames_from(self.cursor.skip)
                .next()
                .is_some_and(|(header, _)| self.sent + header.charge() <= limit)
    }

    /// Hands the rest of the run at the cursor out, or as many of its frames as `limit` allows: head and body.
    pub(super) fn take(&mut self, limit: u64) -> Option<(Bytes, Bytes)> {
        while self.runs.get(self.cursor.index).is_some_and(|run| run.frames == 0) {
            self.cursor.index += 1;
        }
        let run = self.runs.get(self.cursor.index)?;
        let end = self.cursor.position + run.charge();
        let out = if end <= limit {
            let head = if self.cursor.skip == 0 {
                run.head.clone()
            } else {
                run.head.slice(self.cursor.skip..)
            };
            let body = run.body.clone();
            self.sent = end;
            self.cursor = Place { index: self.cursor.index + 1, position: end, skip: 0 };
            (head, body)
        } else {
            let from = self.cursor.skip;
            let mut upto = from;
            for (header, behind) in run.frames_from(from) {
                if self.sent + header.charge() > limit {
                    break;
                }
                self.sent += header.charge();
                upto = behind;
            }
            if upto == from {
                return None;
            }
            // The last frame, the only one that may have a body, did not fit: all is in the head.
            self.cursor.skip = upto;
            (run.head.slice(from..upto), Bytes::new())
        };
        self.sent_max = self.sent_max.max(self.sent);
        Some(out)
    }

    /// S5.4: acknowledges up to `position` on the present wire; false when that cannot be.
    pub(super) fn acknowledge(&mut self, position: u64, freed: &mut Freed) -> bool {
        if position < self.acked || position > self.sent {
            return false;
        }
        self.advance(position, freed);
        true
    }

    fn advance(&mut self, position: u64, freed: &mut Freed) {
        self.acked = position;
        while let Some(run) = self.runs.get(self.acked_run.index) {
            let end = self.acked_run.position + run.charge();
            if end > position {
                break;
            }
            self.acked_run = Place { index: self.acked_run.index + 1, position: end, skip: 0 };
            // Fragments stay until their message is acknowledged as a whole: it may have to be given back.
            if run.messages > 0 || run.withdrawn > 0 {
                self.drop_acknowledged(freed);
            }
        }
    }

    fn drop_acknowledged(&mut self, freed: &mut Freed) {
        let count = self.acked_run.index;
        for _ in 0..count {
            let Some(run) = self.runs.pop_front() else { break };
            freed.bytes += u64::from(run.payload);
            freed.messages += u64::from(run.messages);
            self.held.bytes -= u64::from(run.payload);
            self.held.messages -= u64::from(run.messages);
            self.settled += run.withdrawn;
        }
        self.acked_run.index = 0;
        // Withdrawn places are passed by the acknowledgement before the cursor gets there.
        self.cursor.index = self.cursor.index.saturating_sub(count);
    }

    /// S7.5: where `position` is, if the other side can ask for a resume there.
    pub(super) fn locate(&self, position: u64) -> Option<Place> {
        if position < self.acked || position > self.sent_max {
            return None;
        }
        let mut place = self.acked_run;
        for run in self.runs.iter().skip(place.index) {
            let end = place.position + run.charge();
            if position < end {
                break;
            }
            place = Place { index: place.index + 1, position: end, skip: 0 };
        }
        let mut at = place.position;
        if at < position {
            for (header, behind) in self.runs.get(place.index)?.frames_from(0) {
                at += header.charge();
                place.skip = behind;
                if at >= position {
                    break;
                }
            }
        }
        (at == position).then_some(place)
    }

    /// Goes on from a place found by [`locate`](Self::locate) for `position`; returns what goes out again.
    pub(super) fn resume(&mut self, place: Place, position: u64, freed: &mut Freed) -> u64 {
        self.cursor = place;
        self.sent = position;
        self.advance(position, freed);
        self.sent_max - position
    }

    /// Takes every message that is not acknowledged, decoded, and begins anew at position 0.
    pub(super) fn give_back(&mut self, out: &mut Vec<Unacknowledged>) {
        let mut position = self.acked_run.position - self.charges_before(self.acked_run.index);
        let mut assembly = Assembly::default();
        for run in &self.runs {
            position += assembly.decode(run, position, self.acked, out);
            self.settled += run.withdrawn;
        }
        self.settled += self.end;
        *self = Log { settled: self.settled, ..Log::default() };
    }

    fn charges_before(&self, index: usize) -> u64 {
        self.runs.iter().take(index).map(Run::charge).sum()
    }

    /// Takes the unsent messages of more than `max` octets out.
    pub(super) fn withdraw(&mut self, max: u64, out: &mut Vec<Unacknowledged>) {
        let mut kept = VecDeque::with_capacity(self.runs.len());
        let mut place: Option<(Run, Assembly)> = None;
        for (index, run) in std::mem::take(&mut self.runs).into_iter().enumerate() {
            if place.is_none() && index >= self.cursor.index && !run.body.is_empty() {
                // A message that can be over the limit has its runs to itself: see `Outgoing`.
                let over = run.frames == 1
                    && run.frames_from(0).next().is_some_and(|(header, _)| header.total > max);
                if over {
                    place = Some((Run::default(), Assembly::default()));
                }
            }
            let Some((tombstone, assembly)) = &mut place else {
                kept.push_back(run);
                continue;
            };
            tombstone.withdrawn += run.charge();
            self.end -= run.charge();
            self.held.bytes -= u64::from(run.payload);
            self.held.messages -= u64::from(run.messages);
            assembly.decode(&run, 1, 0, out);
            if run.messages > 0 {
                kept.extend(place.take().map(|(tombstone, _)| tombstone));
            }
        }
        self.runs = kept;
        // One that stands at the acknowledged position is settled at once.
        self.advance(self.acked, &mut Freed::default());
    }

    /// Gives spare memory back.
    pub(super) fn shrink(&mut self) {
        self.runs.shrink_to_fit();
    }

    #[cfg(test)]
    pub(super) fn footprint(&self) -> usize {
        size_of::<Log>() + self.runs.capacity() * size_of::<Run>()
    }
}

/// Puts messages together again from runs of the log.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    first: Option<(MessageId, Option<MessageId>)>,
    parts: BytesMut,
    last_id: u64,
}

impl Assembly {
    /// Decodes a run at `position` and appends its messages that end behind `acked`; returns its charge.
    pub(super) fn decode(
        &mut self,
        run: &Run,
        position: u64,
        acked: u64,
        out: &mut Vec<Unacknowledged>,
    ) -> u64 {
        let mut charged = 0;
        for (header, end) in run.frames_from(0) {
            charged += header.charge();
            let data = run.payload_of(&header, end);
            if header.part != Part::Rest {
                let id = header.id.map_or(self.last_id + 1, MessageId::value);
                self.last_id = id;
                self.first = MessageId::new(id).map(|id| (id, header.reply_to));
                self.parts.clear();
            }
            let data = match header.part {
                Part::Whole => data,
                Part::First => {
                    self.parts.reserve(header.total as usize);
                    self.parts.extend_from_slice(&data);
                    continue;
                }
                Part::Rest => {
                    self.parts.extend_from_slice(&data);
                    if run.messages == 0 {
                        continue;
                    }
                    std::mem::take(&mut self.parts).freeze()
                }
            };
            if let Some((id, reply_to)) = self.first.take()
                && position + charged > acked
            {
                out.push(Unacknowledged { id, reply_to, lane: header.lane, data });
            }
        }
        charged
    }
}
