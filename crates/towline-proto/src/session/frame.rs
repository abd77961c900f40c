//! The frames of docs/session.md, section 2: constants, encoding, and decoding that takes any input.

use bytes::BytesMut;

use super::error::CloseCode;
use super::message::{FRAME_CHARGE, LANES, Lane, MessageId};
use crate::varint;

/// The largest payload of one DATA frame in octets (S2.4): 256 KiB.
pub const MAX_FRAGMENT: usize = 256 << 10;
/// The largest body of a control frame in octets (S2.6).
pub const MAX_CONTROL: usize = 4096;
/// No peer may announce a smaller limit for messages (S3.5): 64 KiB.
pub const MIN_MAX_MESSAGE: usize = 64 << 10;
/// The longest reason in octets (S8.2).
pub const MAX_REASON: usize = 1024;
/// The protocol version spoken here.
pub const VERSION: u64 = 1;

/// The longest header of a DATA frame: one octet and four integers of eight.
pub(super) const MAX_DATA_HEADER: usize = 33;
/// The longest type and length of a control frame.
pub(super) const MAX_CONTROL_HEADER: usize = 9;

/// The types of control frames (S2.5).
pub(super) mod kind {
    pub(crate) const HELLO: u8 = 1;
    pub(crate) const WELCOME: u8 = 2;
    pub(crate) const REFUSE: u8 = 3;
    pub(crate) const ACK: u8 = 4;
    pub(crate) const PING: u8 = 5;
    pub(crate) const PONG: u8 = 6;
    pub(crate) const CLOSE: u8 = 7;
    pub(crate) const CLOSED: u8 = 8;
    pub(crate) const FAIL: u8 = 9;
    pub(crate) const ABORT: u8 = 10;
}

/// The first octet of a DATA frame (S2.2): `1 kind(2) id reply lane(3)`.
const DATA: u8 = 0x80;
const FIRST: u8 = 0x20;
const REST: u8 = 0x40;
const KIND: u8 = 0x60;
const HAS_ID: u8 = 0x10;
const HAS_REPLY: u8 = 0x08;
const LANE: u8 = 0x07;

/// A rule that a peer broke. Always the peer's fault, or that of something that damaged the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// S2.1: not a Towline peer.
    #[error("the first bytes are not a towline greeting")]
    NotTowline,
    /// S2.2: the reserved kind of DATA frame, or an id where none may be.
    #[error("a data frame begins with the reserved octet {0:#04x}")]
    ReservedFlags(u8),
    /// S1.3: a lane that does not exist.
    #[error("a frame names lane {0}, which does not exist")]
    NoSuchLane(u64),
    /// S2.4: more payload than a frame may have.
    #[error("a frame of {0} bytes is over the limit of {MAX_FRAGMENT}")]
    FrameTooLarge(u64),
    /// S2.6: a longer body than a control frame may have.
    #[error("a control frame of {0} bytes is over the limit of {MAX_CONTROL}")]
    ControlTooLarge(u64),
    /// S2.3: an id of zero, or a count beyond the last id.
    #[error("a message id is zero or over its maximum")]
    BadId,
    /// S4.3: a total that the first fragment already reaches, an empty fragment, or one beyond the total.
    #[error("a fragment does not fit its message")]
    BadFragment,
    /// S4.4: a fragment without its message, or another message before the last fragment.
    #[error("a fragment is out of place")]
    FragmentOutOfPlace,
    /// S3.5: over the receiver's limit for messages.
    #[error("a message of {len} bytes is over the announced limit of {max}")]
    MessageTooLarge {
        /// Octets of the message.
        len: u64,
        /// The announced limit.
        max: u64,
    },
    /// S5.2: over the receiver's window.
    #[error("more was sent on {0:?} than the window allows")]
    WindowExceeded(Lane),
    /// S2.5: the body of a known control frame does not parse.
    #[error("the control frame of type {0} is malformed")]
    MalformedControl(u8),
    /// S5.4: an acknowledgement of what was not sent, or one taken back.
    #[error("an impossible position was acknowledged on {0:?}")]
    BadAcknowledgement(Lane),
    /// S5.3: a window taken back.
    #[error("the window of {0:?} was reduced")]
    WindowReduced(Lane),
    /// S7.5: a resume at a position that is not the beginning of a frame that is kept.
    #[error("the connection cannot be resumed at the position given for {0:?}")]
    BadResume(Lane),
    /// S3.1: a frame of this type may not come here.
    #[error("a frame of type {0} is out of place")]
    UnexpectedFrame(u8),
    /// S8.3: a message after CLOSE.
    #[error("a message was sent after the end was announced")]
    DataAfterClose,
    /// S3.2: no version in common.
    #[error("the peer speaks versions {min} to {max}, this end {VERSION}")]
    NoCommonVersion {
        /// Its lowest.
        min: u64,
        /// Its highest.
        max: u64,
    },
    /// S3.5: an announced limit out of its range.
    #[error("the peer announced a parameter out of range")]
    BadParameter,
}

impl Violation {
    /// The code that tells the peer (S8.1).
    pub fn code(&self) -> CloseCode {
        match self {
            Violation::FrameTooLarge(_)
            | Violation::ControlTooLarge(_)
            | Violation::MessageTooLarge { .. } => CloseCode::TOO_LARGE,
            Violation::WindowExceeded(_) => CloseCode::WINDOW,
            Violation::BadAcknowledgement(_)
            | Violation::WindowReduced(_)
            | Violation::BadResume(_) => CloseCode::POSITION,
            Violation::NoCommonVersion { .. } => CloseCode::VERSION,
            _ => CloseCode::PROTOCOL,
        }
    }
}

/// Which part of a message a DATA frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Whole,
    First,
    Rest,
}

/// A decoded DATA header (S2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DataHeader {
    pub(super) part: Part,
    pub(super) lane: Lane,
    /// `None`: the id that follows the lane's last.
    pub(super) id: Option<MessageId>,
    pub(super) reply_to: Option<MessageId>,
    /// Octets of payload in this frame.
    pub(super) len: usize,
    /// Octets of the message; `len` for a whole one, 0 in a later fragment.
    pub(super) total: u64,
    /// Octets of the header itself.
    pub(super) header: usize,
}

impl DataHeader {
    /// How far the frame moves its lane's position (S5.1).
    #[inline]
    pub(super) fn charge(&self) -> u64 {
        (self.header + self.len) as u64 + FRAME_CHARGE
    }

    /// Writes the header and returns its length. `len` and ids are in range by construction.
    #[inline]
    pub(super) fn encode(&self, out: &mut [u8; MAX_DATA_HEADER]) -> usize {
        let mut first = DATA | self.lane.bits();
        let mut at = 1;
        at += varint::write(self.len as u64, &mut out[at..]);
        if let Some(id) = self.id {
            first |= HAS_ID;
            at += varint::write(id.value(), &mut out[at..]);
        }
        if let Some(id) = self.reply_to {
            first |= HAS_REPLY;
            at += varint::write(id.value(), &mut out[at..]);
        }
        match self.part {
            Part::Whole => {}
            Part::First => {
                first |= FIRST;
                at += varint::write(self.total, &mut out[at..]);
            }
            Part::Rest => first |= REST,
        }
        out[0] = first;
        at
    }
}

/// Whether an octet begins a DATA frame.
#[inline]
pub(super) fn is_data(first: u8) -> bool {
    first & DATA != 0
}

/// Reads the header of a DATA frame at the start of `data`; `None` when it is not all there.
#[inline]
pub(super) fn decode_data(data: &[u8]) -> Result<Option<DataHeader>, Violation> {
    let Some((&first, mut rest)) = data.split_first() else { return Ok(None) };
    let Some(lane) = Lane::new(first & LANE) else {
        return Err(Violation::NoSuchLane(u64::from(first & LANE)));
    };
    let Some((len, used)) = varint::read(rest) else { return Ok(None) };
    if len > MAX_FRAGMENT as u64 {
        return Err(Violation::FrameTooLarge(len));
    }
    rest = rest.get(used..).unwrap_or_default();
    let mut header = DataHeader {
        part: Part::Whole,
        lane,
        id: None,
        reply_to: None,
        len: len as usize,
        total: len,
        header: 0,
    };
    if first & (KIND | HAS_ID | HAS_REPLY) != 0 && !decode_more(first, &mut rest, &mut header)? {
        return Ok(None);
    }
    header.header = data.len() - rest.len();
    Ok(Some(header))
}

/// Everything after the length; false when it is not all there.
fn decode_more(first: u8, rest: &mut &[u8], header: &mut DataHeader) -> Result<bool, Violation> {
    let mut next = || -> Option<u64> {
        let (value, used) = varint::read(rest)?;
        *rest = rest.get(used..)?;
        Some(value)
    };
    if first & HAS_ID != 0 {
        let Some(id) = next() else { return Ok(false) };
        header.id = Some(MessageId::new(id).ok_or(Violation::BadId)?);
    }
    if first & HAS_REPLY != 0 {
        let Some(id) = next() else { return Ok(false) };
        header.reply_to = Some(MessageId::new(id).ok_or(Violation::BadId)?);
    }
    match first & KIND {
        0 => {}
        FIRST => {
            header.part = Part::First;
            let Some(total) = next() else { return Ok(false) };
            if header.len == 0 || total <= header.len as u64 {
                return Err(Violation::BadFragment);
            }
            header.total = total;
        }
        REST => {
            header.part = Part::Rest;
            header.total = 0;
            if first & (HAS_ID | HAS_REPLY) != 0 {
                return Err(Violation::ReservedFlags(first));
            }
            if header.len == 0 {
                return Err(Violation::BadFragment);
            }
        }
        _ => return Err(Violation::ReservedFlags(first)),
    }
    Ok(true)
}

/// Reads type and length of a control frame: the type, the header's octets, the body's octets.
pub(super) fn decode_control(data: &[u8]) -> Result<Option<(u8, usize, usize)>, Violation> {
    let Some((&kind, rest)) = data.split_first() else { return Ok(None) };
    let Some((len, used)) = varint::read(rest) else { return Ok(None) };
    if len > MAX_CONTROL as u64 {
        return Err(Violation::ControlTooLarge(len));
    }
    Ok(Some((kind, 1 + used, len as usize)))
}

/// A control frame's body, read field by field; every read is checked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields<'a> {
    kind: u8,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(super) fn new(kind: u8, body: &'a [u8]) -> Self {
        Fields { kind, rest: body }
    }

    pub(super) fn malformed(&self) -> Violation {
        Violation::MalformedControl(self.kind)
    }

    #[inline]
    pub(super) fn int(&mut self) -> Result<u64, Violation> {
        let (value, used) = varint::read(self.rest).ok_or(self.malformed())?;
        self.rest = self.rest.get(used..).unwrap_or_default();
        Ok(value)
    }

    pub(super) fn octets(&mut self, len: usize) -> Result<&'a [u8], Violation> {
        let (octets, rest) = self.rest.split_at_checked(len).ok_or(self.malformed())?;
        self.rest = rest;
        Ok(octets)
    }

    #[inline]
    pub(super) fn lane(&mut self) -> Result<Lane, Violation> {
        let index = self.int()?;
        u8::try_from(index).ok().and_then(Lane::new).ok_or(Violation::NoSuchLane(index))
    }

    /// Code and reason (S8.2). Octets that are not UTF-8 are shown as U+FFFD.
    pub(super) fn reason(&mut self) -> Result<(CloseCode, String), Violation> {
        let code = CloseCode(self.int()?);
        let len = self.int()?;
        if len > MAX_REASON as u64 {
            return Err(self.malformed());
        }
        Ok((code, String::from_utf8_lossy(self.octets(len as usize)?).into_owned()))
    }
}

/// Appends an integer in its shortest form.
#[inline]
pub(super) fn put_int(out: &mut BytesMut, value: u64) {
    let mut octets = [0; varint::MAX_LEN];
    let len = varint::write(value, &mut octets);
    debug_assert!(len > 0, "integers stay below 2^62");
    out.extend_from_slice(&octets[..len]);
}

/// Appends a control frame whose body `fill` writes; bodies stay below [`MAX_CONTROL`] by construction.
pub(super) fn put_control(out: &mut BytesMut, kind: u8, fill: impl FnOnce(&mut BytesMut)) {
    let mut body = BytesMut::with_capacity(64);
    fill(&mut body);
    out.extend_from_slice(&[kind]);
    put_int(out, body.len() as u64);
    out.extend_from_slice(&body);
}

/// Appends a control frame of nothing but integers, without a second buffer.
#[inline]
pub(super) fn put_ints<const N: usize>(out: &mut BytesMut, kind: u8, values: [u64; N]) {
    let mut octets = [0; 2 + 4 * varint::MAX_LEN];
    let mut at = 2;
    for value in values {
        at += varint::write(value, &mut octets[at..]);
    }
    octets[0] = kind;
    octets[1] = (at - 2) as u8;
    out.extend_from_slice(&octets[..at]);
}

/// Appends code and reason, the reason cut at a character to [`MAX_REASON`] octets (S8.2).
pub(super) fn put_reason(out: &mut BytesMut, code: CloseCode, reason: &str) {
    let cut = cut_reason(reason);
    put_int(out, code.0.min(varint::MAX));
    put_int(out, cut.len() as u64);
    out.extend_from_slice(cut.as_bytes());
}

/// The longest prefix of at most [`MAX_REASON`] octets that ends at a character.
pub(super) fn cut_reason(reason: &str) -> &str {
    let mut end = reason.len().min(MAX_REASON);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    reason.get(..end).unwrap_or_default()
}

const _: () = assert!(LANES <= 8, "a lane has three bits");
// `put_ints` writes its length in one octet.
const _: () = assert!(4 * varint::MAX_LEN < 64);
