//! From messages to bytes: small frames are gathered in one write buffer, large payloads go out as they are behind
//! their header, and pongs pass between frames.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::config::Role;
use super::decode::Kind;
use super::deflate::Deflater;
use super::frame::{Header, MAX_HEADER, OpCode};
use super::mask;
use super::random::Entropy;

/// Payloads up to this many bytes are copied behind their header; larger ones are segments of their own.
const COPY_BELOW: usize = 4096;

/// Size of the write buffer.
const BUFFER: usize = 16 * 1024;

/// Control frames that wait for a frame boundary; more pings than fit are answered once, for the latest
/// (RFC 6455 section 5.5.3).
const CONTROL_BUFFER: usize = 4096;

/// Bytes to write, with the end of a frame at their end or not.
#[derive(Debug)]
struct Segment {
    data: Bytes,
    boundary: bool,
}

/// The sending half of the codec: a queue of encoded bytes.
pub(crate) struct Encoder {
    keys: Option<Box<dyn Entropy + Send>>,
    fragment: usize,
    deflater: Option<Deflater>,
    out: VecDeque<Segment>,
    /// Whole frames, and perhaps the header of the next one, behind everything in `out`.
    tail: BytesMut,
    /// Whole control frames that go out at the next boundary.
    control: BytesMut,
    /// Bytes handed out stopped inside a frame.
    inside: bool,
    queued: u64,
    /// Of the streamed message that is being sent: its kind and whether it is compressed.
    streaming: Option<(Kind, bool)>,
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoder")
            .field("queued", &self.queued)
            .field("inside", &self.inside)
            .finish_non_exhaustive()
    }
}

/// A payload on its way out.
pub(crate) enum Payload<'a> {
    /// Copied.
    Slice(&'a [u8]),
    /// Taken over; masked in place if nobody else holds it.
    Owned(Bytes),
}

impl Payload<'_> {
    #[inline]
    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            Payload::Slice(slice) => slice,
            Payload::Owned(bytes) => bytes,
        }
    }
}

impl Encoder {
    pub(crate) fn new(
        role: Role,
        fragment: Option<usize>,
        deflater: Option<Deflater>,
        entropy: Box<dyn Entropy + Send>,
    ) -> Encoder {
        Encoder {
            keys: (role == Role::Client).then_some(entropy),
            fragment: fragment.unwrap_or(usize::MAX).max(1),
            deflater,
            out: VecDeque::new(),
            tail: BytesMut::new(),
            control: BytesMut::new(),
            inside: false,
            queued: 0,
            streaming: None,
        }
    }

    /// Bytes encoded and not yet handed out.
    pub(crate) fn queued(&self) -> u64 {
        self.queued
    }

    /// The kind of the streamed message that is unfinished.
    pub(crate) fn streaming(&self) -> Option<Kind> {
        self.streaming.map(|(kind, _)| kind)
    }

    /// Queues a whole message on a short path, if it is small and goes out as it is; false if it does not.
    #[inline]
    pub(crate) fn small(&mut self, kind: Kind, payload: &[u8]) -> bool {
        let length = payload.len();
        let plain = self.deflater.as_ref().is_none_or(|deflater| !deflater.wants(length));
        if length > COPY_BELOW.min(self.fragment) || !plain || self.streaming.is_some() {
            return false;
        }
        let opcode = if kind == Kind::Text { OpCode::Text } else { OpCode::Binary };
        let mask = self.keys.as_mut().map(|keys| keys.mask_key());
        let header = Header { fin: true, rsv1: false, opcode, mask, length: length as u64 };
        self.queued += put_frame(&mut self.tail, &header, payload) as u64;
        true
    }

    /// Queues a part of a message: a whole one if it is first and last.
    pub(crate) fn data(&mut self, kind: Kind, payload: Payload<'_>, last: bool) {
        let length = payload.as_slice().len();
        let first = self.streaming.is_none();
        let compressed = match self.streaming {
            Some((_, compressed)) => compressed,
            None => self.deflater.as_ref().is_some_and(|deflater| deflater.wants(length)),
        };
        self.streaming = if last { None } else { Some((kind, compressed)) };
        let opcode = match (first, kind) {
            (false, _) => OpCode::Continuation,
            (true, Kind::Text) => OpCode::Text,
            (true, Kind::Binary) => OpCode::Binary,
        };
        if !compressed {
            return self.fragments(opcode, false, payload, last);
        }
        let Some(mut deflater) = self.deflater.take() else { return };
        let deflated = deflater.deflate(payload.as_slice(), last);
        // A large result leaves as it is; the deflater makes itself a new buffer.
        let payload = if deflated.len() > COPY_BELOW {
            Payload::Owned(std::mem::take(deflated).into())
        } else {
            Payload::Slice(deflated)
        };
        self.fragments(opcode, first, payload, last);
        self.deflater = Some(deflater);
    }

    /// Cuts a payload into frames (RFC 6455 section 5.4).
    fn fragments(
        &mut self,
        mut opcode: OpCode,
        mut rsv1: bool,
        mut payload: Payload<'_>,
        last: bool,
    ) {
        while payload.as_slice().len() > self.fragment {
            let head = match &mut payload {
                Payload::Slice(slice) => {
                    let (head, rest) = slice.split_at(self.fragment);
                    *slice = rest;
                    Payload::Slice(head)
                }
                Payload::Owned(bytes) => Payload::Owned(bytes.split_to(self.fragment)),
            };
            self.frame(opcode, rsv1, head, false);
            (opcode, rsv1) = (OpCode::Continuation, false);
        }
        self.frame(opcode, rsv1, payload, last);
    }

    /// Queues one data frame.
    fn frame(&mut self, opcode: OpCode, rsv1: bool, payload: Payload<'_>, fin: bool) {
        let length = payload.as_slice().len();
        let mask = self.keys.as_mut().map(|keys| keys.mask_key());
        let header = Header { fin, rsv1, opcode, mask, length: length as u64 };
        if length <= COPY_BELOW {
            self.queued += put_frame(&mut self.tail, &header, payload.as_slice()) as u64;
            return;
        }
        self.queued += (put_header(&mut self.tail, &header, 0) + length) as u64;
        let data = match (payload, mask) {
            (Payload::Owned(bytes), None) => bytes,
            (Payload::Owned(bytes), Some(key)) => match bytes.try_into_mut() {
                Ok(mut own) => {
                    mask::apply(&mut own, key, 0);
                    own.freeze()
                }
                Err(shared) => masked_copy(&shared, key),
            },
            (Payload::Slice(slice), Some(key)) => masked_copy(slice, key),
            (Payload::Slice(slice), None) => Bytes::copy_from_slice(slice),
        };
        self.out.push_back(Segment { data: self.tail.split().freeze(), boundary: false });
        self.out.push_back(Segment { data, boundary: true });
    }

    /// Queues a ping or pong for the next frame boundary; false if too many wait there.
    pub(crate) fn control(&mut self, opcode: OpCode, payload: &[u8]) -> bool {
        let mask = self.keys.as_mut().map(|keys| keys.mask_key());
        let header = Header { fin: true, rsv1: false, opcode, mask, length: payload.len() as u64 };
        let length = header.encoded_len() + payload.len();
        if self.control.len() + length > CONTROL_BUFFER {
            return false;
        }
        self.queued += put_frame(&mut self.control, &header, payload) as u64;
        true
    }

    /// Queues the close frame, the last one, behind everything.
    pub(crate) fn close(&mut self, body: &[u8]) {
        let mask = self.keys.as_mut().map(|keys| keys.mask_key());
        let header = Header {
            fin: true,
            rsv1: false,
            opcode: OpCode::Close,
            mask,
            length: body.len() as u64,
        };
        // Nothing may follow the close frame (section 5.5.1), so what waits for a boundary goes before it.
        let waiting = self.control.split();
        self.tail.extend_from_slice(&waiting);
        self.queued += put_frame(&mut self.tail, &header, body) as u64;
    }

    /// Moves up to `max` bytes out, in order, and returns how many.
    #[inline]
    pub(crate) fn transmit(&mut self, max: usize, out: &mut Vec<Bytes>) -> usize {
        if self.out.is_empty() && self.control.is_empty() && self.tail.len() <= max {
            // The usual case: small frames only.
            let taken = self.tail.len();
            if taken > 0 {
                out.push(self.tail.split().freeze());
                self.inside = false;
                self.queued -= taken as u64;
            }
            return taken;
        }
        self.transmit_queue(max, out)
    }

    fn transmit_queue(&mut self, max: usize, out: &mut Vec<Bytes>) -> usize {
        let mut left = max;
        while left > 0 {
            if !self.inside && !self.control.is_empty() {
                // At a boundary: control frames pass what waits.
                let take = self.control.len().min(left);
                self.inside = take < self.control.len();
                let control = self.control.split();
                if self.inside {
                    // The rest must follow at once.
                    let mut control = control.freeze();
                    out.push(control.split_to(take));
                    self.out.push_front(Segment { data: control, boundary: true });
                } else {
                    out.push(control.freeze());
                }
                left -= take;
                continue;
            }
            if self.out.is_empty() && !self.tail.is_empty() {
                let data = self.tail.split().freeze();
                self.out.push_back(Segment { data, boundary: true });
            }
            let Some(segment) = self.out.front_mut() else { break };
            if segment.data.len() <= left {
                left -= segment.data.len();
                self.inside = !segment.boundary;
                if let Some(segment) = self.out.pop_front() {
                    out.push(segment.data);
                }
            } else {
                out.push(segment.data.split_to(left));
                self.inside = true;
                left = 0;
            }
        }
        let taken = max - left;
        self.queued -= taken as u64;
        taken
    }

    /// Drops everything that waits.
    pub(crate) fn clear(&mut self) {
        self.out.clear();
        self.tail.clear();
        self.control.clear();
        self.queued = 0;
    }
}

/// Writes a header, with room behind it for `behind` bytes, and returns its length.
#[inline]
fn put_header(buffer: &mut BytesMut, header: &Header, behind: usize) -> usize {
    let need = MAX_HEADER + behind;
    if buffer.capacity() - buffer.len() < need {
        buffer.reserve(need.max(BUFFER));
    }
    let mut bytes = [0; MAX_HEADER];
    let length = header.encode(&mut bytes);
    buffer.extend_from_slice(bytes.get(..length).unwrap_or_default());
    length
}

/// Writes a whole frame and returns its length.
#[inline]
fn put_frame(buffer: &mut BytesMut, header: &Header, payload: &[u8]) -> usize {
    let length = put_header(buffer, header, payload.len());
    let start = buffer.len();
    buffer.extend_from_slice(payload);
    if let (Some(key), Some(fresh)) = (header.mask, buffer.get_mut(start..)) {
        mask::apply(fresh, key, 0);
    }
    length + payload.len()
}

fn masked_copy(payload: &[u8], key: [u8; 4]) -> Bytes {
    let mut copy = BytesMut::new();
    mask::append(&mut copy, payload, key, 0);
    copy.freeze()
}
