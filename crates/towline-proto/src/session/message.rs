//! What is sent: messages, their ids and lanes.

use std::fmt;
use std::num::NonZeroU64;

use bytes::Bytes;

use crate::varint;

/// How many lanes a session has in each direction (S1.3).
pub const LANES: usize = 4;

/// What a message or frame counts beyond its octets, in window positions and in [`Message::cost`] (S5.1).
pub const FRAME_CHARGE: u64 = 32;

/// The secret name of a session: 128 bits that the client draws from a strong source of randomness.
///
/// Whoever knows it can take the session over, so it belongs in no log; `Debug` shows its first octet only.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionId(pub [u8; 16]);

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionId({:02x}..)", self.0[0])
    }
}

/// The number by which a reply names its message: 1 to 2^62 - 1, chosen by the sender or counted up from 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(NonZeroU64);

impl MessageId {
    /// The largest id.
    pub const MAX: MessageId = match NonZeroU64::new(varint::MAX) {
        Some(id) => MessageId(id),
        None => panic!("not zero"),
    };

    /// An id from a number; `None` for 0 and above 2^62 - 1.
    #[inline]
    pub const fn new(id: u64) -> Option<MessageId> {
        match NonZeroU64::new(id) {
            Some(id) if id.get() <= varint::MAX => Some(MessageId(id)),
            _ => None,
        }
    }

    /// The number.
    #[inline]
    pub const fn value(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One of the [`LANES`] ordered streams of messages inside a session, by priority: 0 goes first.
///
/// Order holds within a lane. A message on a more urgent lane overtakes the others at the next frame
/// boundary; the less urgent ones still get one run of frames in 16 (S6.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Lane(u8);

impl Lane {
    /// Lane 0, before all others.
    pub const URGENT: Lane = Lane(0);
    /// Lane 1, before normal traffic.
    pub const HIGH: Lane = Lane(1);
    /// Lane 2, the default.
    pub const NORMAL: Lane = Lane(2);
    /// Lane 3, what can wait.
    pub const BULK: Lane = Lane(3);
    /// Every lane, the most urgent first.
    pub const ALL: [Lane; LANES] = [Lane(0), Lane(1), Lane(2), Lane(3)];

    /// The lane of that number; `None` from [`LANES`] on.
    #[inline]
    pub const fn new(index: u8) -> Option<Lane> {
        if (index as usize) < LANES { Some(Lane(index)) } else { None }
    }

    /// Its number, below [`LANES`].
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    #[inline]
    pub(super) const fn bits(self) -> u8 {
        self.0
    }
}

impl Default for Lane {
    fn default() -> Self {
        Lane::NORMAL
    }
}

/// A message as it was sent: what the receiver is handed, and what the sender gets back when it was not
/// acknowledged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// The id that the sender gave it.
    pub id: MessageId,
    /// The message that it answers, if any.
    pub reply_to: Option<MessageId>,
    /// The lane it travelled on.
    pub lane: Lane,
    /// The payload: a cheap slice, which may share its buffer with other messages.
    pub data: Bytes,
}

impl Message {
    /// What it takes of the receiver's window until [`Session::consumed`](super::Session::consumed) gives it
    /// back: its octets and [`FRAME_CHARGE`].
    #[inline]
    pub fn cost(&self) -> u64 {
        self.data.len() as u64 + FRAME_CHARGE
    }
}

/// A message that was accepted and not acknowledged: it may have been delivered or not.
pub type Unacknowledged = Message;

/// What [`Outgoing::push`](super::Outgoing::push) takes.
#[derive(Clone, Debug)]
pub enum Payload<'a> {
    /// Octets that are copied, once.
    Slice(&'a [u8]),
    /// A shared buffer: copied when it is small, otherwise kept by reference until acknowledged.
    Bytes(Bytes),
}

impl Payload<'_> {
    /// Length in octets.
    #[inline]
    pub fn len(&self) -> usize {
        match self {
            Payload::Slice(data) => data.len(),
            Payload::Bytes(data) => data.len(),
        }
    }

    /// True when there are no octets; an empty message is a message.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<'a> From<&'a [u8]> for Payload<'a> {
    fn from(data: &'a [u8]) -> Self {
        Payload::Slice(data)
    }
}

impl From<Bytes> for Payload<'_> {
    fn from(data: Bytes) -> Self {
        Payload::Bytes(data)
    }
}
