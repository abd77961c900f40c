//! Where application threads put messages.

use super::config::Limits;
use super::error::SendError;
use super::message::{LANES, Lane, MessageId, Payload};

/// How far each lane is, in window positions: what was accepted, or acknowledged. Monotonic for the life of
/// the connection, also over [`Event::Reset`](super::Event::Reset).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Progress(pub [u64; LANES]);

impl Progress {
    /// Whether every lane is at least as far as in `goal`: with `self` from `Session::acknowledged` and
    /// `goal` from [`Outgoing::accepted`], that everything accepted until then is acknowledged (or was
    /// given back). This is `flush`.
    pub fn reached(&self, goal: &Progress) -> bool {
        self.0.iter().zip(&goal.0).all(|(now, goal)| now >= goal)
    }
}

/// What an application thread fills under the connection's lock, without touching the session: messages are
/// encoded here into the frames that go out.
#[derive(Debug)]
pub struct Outgoing {
    limits: Limits,
}

impl Outgoing {
    /// Empty, with these limits.
    pub fn new(limits: &Limits) -> Outgoing {
        Outgoing { limits: limits.clone() }
    }

    /// Accepts a message and returns its id: `id`, or the next one counted from 1. Cost: one copy of the
    /// payload when it is small or a slice, none otherwise.
    ///
    /// # Errors
    /// [`SendError`]: full (what the session holds unacknowledged counts, as of its last `enqueue` or
    /// `update`), too large, or closed.
    pub fn push(
        &mut self,
        lane: Lane,
        id: Option<MessageId>,
        reply_to: Option<MessageId>,
        payload: Payload<'_>,
    ) -> Result<MessageId, SendError> {
        let _ = (lane, id, reply_to, payload, &self.limits);
        Err(SendError::Closed)
    }

    /// Whether [`push`](Self::push) would say [`SendError::Full`] to a message of `len` octets on this lane.
    pub fn is_full(&self, lane: Lane, len: usize) -> bool {
        let _ = (lane, len);
        false
    }

    /// Octets of payload waiting here for `enqueue`.
    pub fn bytes(&self) -> usize {
        0
    }

    /// Messages waiting here for `enqueue`.
    pub fn messages(&self) -> usize {
        0
    }

    /// Nothing waits here.
    pub fn is_empty(&self) -> bool {
        true
    }

    /// The most octets that a message may have now: the smaller of both ends' limits.
    pub fn max_message(&self) -> usize {
        self.limits.max_message
    }

    /// How much was ever accepted: the goal of a `flush` that begins now.
    pub fn accepted(&self) -> Progress {
        Progress::default()
    }

    /// From now on [`push`](Self::push) says [`SendError::Closed`]. What is here still goes out.
    pub fn close(&mut self) {}

    /// Takes out what waits here, decoded: for a connection that ends before `enqueue`.
    pub fn take(&mut self) -> Vec<super::Unacknowledged> {
        Vec::new()
    }

    /// Gives unused memory back, for a connection that has gone idle.
    pub fn shrink(&mut self) {}
}
