//! From bytes to messages: frames are unmasked in place, checked while they arrive, and handed up as slices of the
//! buffer they came in.

use bytes::{Buf, Bytes, BytesMut};

use super::config::{Config, Delivery, Role};
use super::deflate::Inflater;
use super::error::Violation;
use super::frame::{Header, MAX_CONTROL_PAYLOAD, MAX_HEADER, OpCode};
use super::mask;
use super::utf8::Utf8Validator;

/// Payloads up to this many bytes are copied out of the input instead of sliced, so that a small message neither
/// holds a large receive buffer nor costs a reference count of its own.
const COPY_BELOW: usize = 1024;

/// Size of the buffers that small messages are copied into.
const ARENA: usize = 16 * 1024;

/// The least memory that an unfinished message grows by; beyond it doubles, never past what was announced.
const GROW: usize = 64 * 1024;

/// Messages of at least this much are worth reading into their place, also the last few bytes: what lies behind them would
/// otherwise come with them, up to the middle of the next message, and that would have to be copied as a whole.
const DIRECT_ABOVE: usize = 16 * 1024;

/// Buffers of large messages that are kept for the next, and the largest of them: at most 16 MiB.
const SPARE: usize = 128;
const SPARE_LARGEST: usize = 128 * 1024;

/// Inflated bytes in one part of a streamed message, at least, but for the last.
const PART: usize = 64 * 1024;

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// UTF-8, checked.
    Text,
    /// Any bytes.
    Binary,
}

/// The payload of a control frame.
#[derive(Clone, Copy)]
pub struct ControlPayload {
    bytes: [u8; MAX_CONTROL_PAYLOAD],
    length: u8,
}

impl ControlPayload {
    /// Takes up to 125 bytes; `None` above.
    pub fn new(data: &[u8]) -> Option<ControlPayload> {
        let mut payload = ControlPayload { bytes: [0; MAX_CONTROL_PAYLOAD], length: 0 };
        payload.bytes.get_mut(..data.len())?.copy_from_slice(data);
        payload.length = data.len() as u8;
        Some(payload)
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or_default()
    }
}

impl PartialEq for ControlPayload {
    fn eq(&self, other: &ControlPayload) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for ControlPayload {}

impl std::fmt::Debug for ControlPayload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.as_slice().fmt(f)
    }
}

/// Data for the application.
#[derive(Debug)]
pub(crate) struct Data {
    pub(crate) kind: Kind,
    pub(crate) first: bool,
    pub(crate) last: bool,
    pub(crate) data: Bytes,
    /// Bytes of input that this payload took, less those of an unfinished message taken before.
    pub(crate) wire: u64,
}

/// One outcome of decoding.
#[derive(Debug)]
pub(crate) enum Item {
    Data(Data),
    Ping(ControlPayload),
    Pong(ControlPayload),
    Close(ControlPayload),
    /// A data frame that is empty and not the last: no use, but work.
    EmptyFragment,
}

/// The frame whose payload is arriving.
#[derive(Debug)]
struct Frame {
    header: Header,
    /// Payload bytes not yet taken from the input.
    remaining: u64,
    /// Bytes at the front of the input that are unmasked already (compressed frames only).
    unmasked: usize,
}

/// The message whose frames are arriving.
#[derive(Debug)]
struct Message {
    kind: Kind,
    compressed: bool,
    /// Bytes so far, after inflating; of uncompressed frames counted when announced.
    size: u64,
    streamed: bool,
    delivered_first: bool,
}

/// A place to read the rest of a large frame into.
#[derive(Debug)]
pub struct Direct {
    /// Append to its spare capacity.
    pub buffer: BytesMut,
    /// At most this many bytes; there is room for them.
    pub want: usize,
}

/// The receiving half of the codec. Holds partial headers and unfinished messages itself.
#[derive(Debug)]
pub(crate) struct Decoder {
    role: Role,
    max_frame: u64,
    max_message: u64,
    /// Messages up to this size are delivered whole.
    whole: u64,
    inflater: Option<Inflater>,
    partial: [u8; MAX_HEADER],
    partial_len: usize,
    frame: Option<Frame>,
    message: Option<Message>,
    control: ControlPayload,
    utf8: Utf8Validator,
    /// Copied small messages, and the unfinished message.
    arena: BytesMut,
    /// Where the bytes begin that were read into `arena` directly while it is lent out.
    lent: Option<usize>,
    /// Memory for large messages that was used before.
    spare: Vec<BytesMut>,
}

impl Decoder {
    pub(crate) fn new(role: Role, config: &Config, inflater: Option<Inflater>) -> Decoder {
        let whole = match config.delivery {
            Delivery::Whole => u64::MAX,
            Delivery::Streamed { above } => above as u64,
        };
        Decoder {
            role,
            max_frame: config.max_frame,
            max_message: config.max_message,
            whole,
            inflater,
            partial: [0; MAX_HEADER],
            partial_len: 0,
            frame: None,
            message: None,
            control: ControlPayload { bytes: [0; MAX_CONTROL_PAYLOAD], length: 0 },
            utf8: Utf8Validator::default(),
            arena: BytesMut::new(),
            lent: None,
            spare: Vec::new(),
        }
    }

    /// Takes memory for later, if it is of use and free.
    pub(crate) fn recycle(&mut self, data: Bytes) {
        if data.len() < DIRECT_ABOVE || self.spare.len() >= SPARE {
            return;
        }
        if let Ok(mut buffer) = data.try_into_mut()
            && buffer.capacity() <= SPARE_LARGEST
        {
            buffer.clear();
            self.spare.push(buffer);
        }
    }

    pub(crate) fn release_spare(&mut self) {
        self.spare = Vec::new();
    }

    /// Room for `more` bytes of an unfinished message at once, of which `announced` more are known to come.
    fn make_room(&mut self, more: usize, announced: usize) {
        let need = more.saturating_add(announced);
        if self.arena.is_empty() && self.arena.capacity() < need && need >= DIRECT_ABOVE {
            // Many messages of one size: that of the last is likely to do.
            if let Some(spare) = self.spare.pop_if(|spare| spare.capacity() >= need) {
                self.arena = spare;
            }
        }
        grow(&mut self.arena, more, announced);
    }

    /// Takes the next item off the front of `input`; `None` when all of it is used up.
    #[inline]
    pub(crate) fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Item>, Violation> {
        loop {
            if self.frame.is_none() {
                if let Some(item) = self.decode_whole(input)? {
                    return Ok(Some(item));
                }
                if self.frame.is_none() && !self.begin(input)? {
                    return Ok(None);
                }
            }
            match self.payload(input)? {
                Step::Item(item) => return Ok(Some(item)),
                Step::Starved => return Ok(None),
                Step::FrameDone => self.frame = None,
            }
        }
    }

    /// The usual case on a short path: an unfragmented, uncompressed data frame that is whole in the input.
    #[inline]
    fn decode_whole(&mut self, input: &mut BytesMut) -> Result<Option<Item>, Violation> {
        if self.partial_len > 0 {
            return Ok(None);
        }
        let Some((header, header_len)) = Header::parse(input)? else { return Ok(None) };
        self.check(&header)?;
        let kind = match header.opcode {
            OpCode::Text => Kind::Text,
            OpCode::Binary => Kind::Binary,
            _ => return Ok(None),
        };
        if !header.fin || header.rsv1 || header.length > self.whole {
            return Ok(None);
        }
        let length = header.length as usize;
        let Some(payload) = input.get_mut(header_len..).and_then(|rest| rest.get_mut(..length))
        else {
            return Ok(None);
        };
        if let Some(key) = header.mask {
            mask::apply(payload, key, 0);
        }
        if kind == Kind::Text && simdutf8::basic::from_utf8(payload).is_err() {
            return Err(Violation::InvalidUtf8);
        }
        let data = if length <= COPY_BELOW {
            if self.arena.capacity() < length {
                self.arena.reserve(ARENA);
            }
            self.arena.extend_from_slice(payload);
            input.advance(header_len + length);
            self.arena.split().freeze()
        } else {
            input.advance(header_len);
            input.split_to(length).freeze()
        };
        Ok(Some(Item::Data(Data { kind, first: true, last: true, data, wire: header.length })))
    }

    /// Collects a header; true when there is a frame.
    fn begin(&mut self, input: &mut BytesMut) -> Result<bool, Violation> {
        let held = self.partial_len;
        let take = input.len().min(MAX_HEADER - held);
        if let (Some(to), Some(from)) = (self.partial.get_mut(held..held + take), input.get(..take))
        {
            to.copy_from_slice(from);
        }
        let parsed = Header::parse(self.partial.get(..held + take).unwrap_or_default())?;
        let Some((header, length)) = parsed else {
            self.partial_len = held + take;
            input.advance(take);
            return Ok(false);
        };
        input.advance(length.saturating_sub(held));
        self.partial_len = 0;
        self.check(&header)?;
        self.enter(header)?;
        Ok(true)
    }

    /// What a header may not say here and now (RFC 6455 sections 5.1, 5.2 and 5.4), and the limits.
    #[inline]
    fn check(&self, header: &Header) -> Result<(), Violation> {
        match (self.role, header.mask.is_some()) {
            (Role::Server, false) => return Err(Violation::Unmasked),
            (Role::Client, true) => return Err(Violation::Masked),
            _ => {}
        }
        if header.opcode.is_control() {
            return Ok(());
        }
        let continues = header.opcode == OpCode::Continuation;
        match (&self.message, continues) {
            (Some(_), false) => return Err(Violation::InterruptedMessage),
            (None, true) => return Err(Violation::UnexpectedContinuation),
            _ => {}
        }
        // RFC 7692 section 6: RSV1 marks the first frame of a compressed message, and no other.
        if header.rsv1 && (continues || self.inflater.is_none()) {
            return Err(Violation::ReservedBits);
        }
        if header.length > self.max_frame {
            return Err(Violation::FrameTooLarge);
        }
        let (size, compressed) = match &self.message {
            Some(message) => (message.size, message.compressed),
            None => (0, header.rsv1),
        };
        if !compressed && size.saturating_add(header.length) > self.max_message {
            return Err(Violation::MessageTooLarge);
        }
        Ok(())
    }

    /// Makes a checked header the present frame.
    fn enter(&mut self, header: Header) -> Result<(), Violation> {
        if header.opcode.is_control() {
            self.control.length = 0;
        } else {
            let message = self.message.get_or_insert(Message {
                kind: if header.opcode == OpCode::Text { Kind::Text } else { Kind::Binary },
                compressed: header.rsv1,
                size: 0,
                streamed: false,
                delivered_first: false,
            });
            if !message.compressed {
                message.size = message.size.saturating_add(header.length);
                message.streamed |= message.size > self.whole;
            }
        }
        self.frame = Some(Frame { header, remaining: header.length, unmasked: 0 });
        Ok(())
    }

    /// Takes what the input has of the present frame's payload.
    fn payload(&mut self, input: &mut BytesMut) -> Result<Step, Violation> {
        let Some(frame) = &self.frame else { return Ok(Step::FrameDone) };
        if frame.header.opcode.is_control() {
            return Ok(self.control_payload(input));
        }
        match &self.message {
            Some(message) if message.compressed => self.compressed_payload(input),
            _ => self.plain_payload(input),
        }
    }

    fn control_payload(&mut self, input: &mut BytesMut) -> Step {
        let Some(frame) = &mut self.frame else { return Step::FrameDone };
        let take = input.len().min(frame.remaining as usize);
        let held = usize::from(self.control.length);
        if let (Some(to), Some(from)) =
            (self.control.bytes.get_mut(held..held + take), input.get(..take))
        {
            to.copy_from_slice(from);
            if let Some(key) = frame.header.mask {
                mask::apply(to, key, held as u64);
            }
        }
        input.advance(take);
        self.control.length += take as u8;
        frame.remaining -= take as u64;
        if frame.remaining > 0 {
            return Step::Starved;
        }
        let opcode = frame.header.opcode;
        self.frame = None;
        Step::Item(match opcode {
            OpCode::Ping => Item::Ping(self.control),
            OpCode::Pong => Item::Pong(self.control),
            _ => Item::Close(self.control),
        })
    }

    fn plain_payload(&mut self, input: &mut BytesMut) -> Result<Step, Violation> {
        let (Some(frame), Some(message)) = (&mut self.frame, &mut self.message) else {
            return Ok(Step::FrameDone);
        };
        let at = frame.header.length - frame.remaining;
        let take = usize::try_from(frame.remaining).unwrap_or(usize::MAX).min(input.len());
        let piece = input.get_mut(..take).unwrap_or_default();
        if let Some(key) = frame.header.mask {
            mask::apply(piece, key, at);
        }
        if message.kind == Kind::Text {
            self.utf8.feed(piece)?;
        }
        frame.remaining -= take as u64;
        let frame_done = frame.remaining == 0;
        let last = frame_done && frame.header.fin;
        let empty_fragment = frame.header.length == 0 && !frame.header.fin;
        let announced = usize::try_from(frame.remaining).unwrap_or(usize::MAX);
        if last && message.kind == Kind::Text {
            self.utf8.finish()?;
        }
        if frame_done {
            self.frame = None;
        }
        if empty_fragment {
            return Ok(Step::Item(Item::EmptyFragment));
        }
        if message.streamed || last {
            return Ok(self.deliver(input, take, last));
        }
        if take > 0 {
            self.make_room(take, announced);
            self.arena.extend_from_slice(input.get(..take).unwrap_or_default());
            input.advance(take);
        }
        Ok(if frame_done { Step::FrameDone } else { Step::Starved })
    }

    /// Hands up `take` unmasked and checked bytes of the input, behind whatever was collected.
    fn deliver(&mut self, input: &mut BytesMut, take: usize, last: bool) -> Step {
        let Some(message) = &mut self.message else { return Step::FrameDone };
        if take == 0 && self.arena.is_empty() && !last {
            return if self.frame.is_none() { Step::FrameDone } else { Step::Starved };
        }
        let data = if self.arena.is_empty() && take > COPY_BELOW {
            input.split_to(take).freeze()
        } else {
            grow(&mut self.arena, take, 0);
            self.arena.extend_from_slice(input.get(..take).unwrap_or_default());
            input.advance(take);
            self.arena.split().freeze()
        };
        let first = !std::mem::replace(&mut message.delivered_first, true);
        let item = Item::Data(Data { kind: message.kind, first, last, data, wire: take as u64 });
        if last {
            self.message = None;
        }
        Step::Item(item)
    }

    fn compressed_payload(&mut self, input: &mut BytesMut) -> Result<Step, Violation> {
        let mut wire = 0;
        loop {
            let (Some(frame), Some(message), Some(inflater)) =
                (&mut self.frame, &mut self.message, &mut self.inflater)
            else {
                return Ok(Step::FrameDone);
            };
            let take = usize::try_from(frame.remaining).unwrap_or(usize::MAX).min(input.len());
            let ending = frame.remaining == 0 && frame.header.fin;
            let mut done = false;
            if take == 0 && !inflater.has_more() && !ending {
                if frame.remaining > 0 {
                    // A streamed message does not wait for a full part.
                    let ready = message.streamed && !self.arena.is_empty();
                    return Ok(if ready {
                        self.deliver(input, 0, false).with_wire(wire)
                    } else {
                        Step::Starved
                    });
                }
                let empty = frame.header.length == 0;
                self.frame = None;
                return Ok(if empty { Step::Item(Item::EmptyFragment) } else { Step::FrameDone });
            }
            if ending && !inflater.has_more_before_tail() {
                done = inflater.step_tail()?;
            } else {
                let at = frame.header.length - frame.remaining + frame.unmasked as u64;
                if let (Some(key), Some(fresh)) =
                    (frame.header.mask, input.get_mut(frame.unmasked..take))
                {
                    mask::apply(fresh, key, at);
                }
                let used = inflater.step(input.get(..take).unwrap_or_default())?.min(take);
                frame.unmasked = take - used;
                frame.remaining -= used as u64;
                input.advance(used);
                wire += used as u64;
            }
            let out = inflater.output();
            message.size = message.size.saturating_add(out.len() as u64);
            if message.size > self.max_message {
                return Err(Violation::MessageTooLarge);
            }
            message.streamed |= message.size > self.whole;
            if message.kind == Kind::Text {
                self.utf8.feed(out)?;
                if done {
                    self.utf8.finish()?;
                }
            }
            grow(&mut self.arena, out.len(), 0);
            self.arena.extend_from_slice(out);
            if done {
                self.frame = None;
            }
            if done || (message.streamed && self.arena.len() >= PART) {
                return Ok(self.deliver(input, 0, done).with_wire(wire));
            }
        }
    }

    /// Lends the unfinished message out, so that the rest of a large frame can be read into its place.
    ///
    /// Only between inputs (when [`Decoder::decode`] returned `None`), for plain messages that are put together.
    pub(crate) fn direct(&mut self) -> Option<Direct> {
        let (Some(frame), Some(message)) = (&self.frame, &self.message) else { return None };
        let remaining = usize::try_from(frame.remaining).ok()?;
        let plain = !frame.header.opcode.is_control() && !message.compressed && !message.streamed;
        let total = self.arena.len().saturating_add(remaining);
        if !plain || remaining == 0 || total < DIRECT_ABOVE || self.lent.is_some() {
            return None;
        }
        self.make_room(remaining.min(GROW), remaining);
        let buffer = std::mem::take(&mut self.arena);
        self.lent = Some(buffer.len());
        let want = remaining.min(buffer.capacity() - buffer.len());
        Some(Direct { buffer, want })
    }

    /// Takes the lent buffer back with what was read into it. Bytes beyond the frame go to the front of `input`.
    /// Returns how many bytes the frame took, and the message if that was its end.
    pub(crate) fn handle_direct(
        &mut self,
        mut buffer: BytesMut,
        input: &mut BytesMut,
    ) -> Result<(usize, Option<Item>), Violation> {
        let Some(start) = self.lent.take() else { return Ok((0, None)) };
        let (Some(frame), Some(message)) = (&mut self.frame, &mut self.message) else {
            return Ok((0, None));
        };
        let remaining = usize::try_from(frame.remaining).unwrap_or(usize::MAX);
        let got = buffer.len().saturating_sub(start).min(remaining);
        let excess = buffer.split_off((start.min(buffer.len())) + got);
        if !excess.is_empty() {
            let behind = std::mem::replace(input, excess);
            input.unsplit(behind);
        }
        let at = frame.header.length - frame.remaining;
        let fresh = buffer.get_mut(start..).unwrap_or_default();
        if let Some(key) = frame.header.mask {
            mask::apply(fresh, key, at);
        }
        if message.kind == Kind::Text {
            self.utf8.feed(fresh)?;
        }
        frame.remaining -= got as u64;
        self.arena = buffer;
        if frame.remaining > 0 {
            return Ok((got, None));
        }
        let last = frame.header.fin;
        self.frame = None;
        if !last {
            return Ok((got, None));
        }
        if message.kind == Kind::Text {
            self.utf8.finish()?;
        }
        match self.deliver(&mut BytesMut::new(), 0, true).with_wire(got as u64) {
            Step::Item(item) => Ok((got, Some(item))),
            _ => Ok((got, None)),
        }
    }

    /// How much was read into the lent buffer.
    pub(crate) fn read_directly(&self, buffer: &BytesMut) -> usize {
        self.lent.map_or(0, |start| buffer.len().saturating_sub(start))
    }

    /// Bytes of the unfinished message that are held here.
    pub(crate) fn held(&self) -> usize {
        self.arena.len()
    }
}

enum Step {
    Item(Item),
    /// The frame needs more input.
    Starved,
    FrameDone,
}

impl Step {
    fn with_wire(self, wire: u64) -> Step {
        match self {
            Step::Item(Item::Data(data)) => Step::Item(Item::Data(Data { wire, ..data })),
            step => step,
        }
    }
}

/// Room for `more` bytes at once: `announced` more are known to come, but memory follows what has arrived.
fn grow(arena: &mut BytesMut, more: usize, announced: usize) {
    let held = arena.len();
    if arena.capacity() - held < more {
        let ahead = announced.min(held.max(GROW));
        let least = if held == 0 && more <= COPY_BELOW && announced == 0 { ARENA } else { 0 };
        arena.reserve(more.saturating_add(ahead).max(least));
    }
}
