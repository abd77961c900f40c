//! What the layer above is told.

use super::error::{CloseCode, WireError};
use super::message::{Message, Unacknowledged};

/// What [`Session::poll_event`](super::Session::poll_event) returns.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Both ends have agreed on a wire: messages flow. `resumed` is false for a session's first wire and
    /// after [`Event::Reset`].
    Established {
        /// Whether it goes on where an earlier wire stopped.
        resumed: bool,
    },
    /// A message arrived. Return its [`Message::cost`] by [`Session::consumed`](super::Session::consumed).
    Message(Message),
    /// The peer has these for good. Sums since the last such event, counted by whole runs of messages; the next
    /// [`enqueue`](super::Session::enqueue) tells the [`Outgoing`](super::Outgoing) of the room.
    Acknowledged {
        /// Octets of payload.
        bytes: u64,
        /// Messages.
        messages: u64,
    },
    /// These accepted messages are over the limit of the peer, which was not known when they were accepted.
    /// They were not sent; all others are.
    TooLargeForPeer {
        /// The peer's limit in octets.
        max: usize,
        /// The messages.
        messages: Vec<Unacknowledged>,
    },
    /// The peer does not know the session any more (it was restarted, or gave up). These messages were not
    /// acknowledged: each was delivered to the earlier peer or not. The session goes on as a new one with
    /// [`Event::Established`] next; nothing of the list is sent again by itself.
    Reset {
        /// Every message accepted by `enqueue` and not acknowledged, in order by lane.
        unacknowledged: Vec<Unacknowledged>,
    },
    /// The peer sends no more messages and asks to end; this end drains and ends by itself, with
    /// [`Event::Closed`] to come.
    PeerClosing {
        /// Its code.
        code: CloseCode,
        /// Its words, at most 1,024 octets.
        reason: String,
    },
    /// The session is over: by `close`, by the peer, or by the peer's `abort`. The last event.
    Closed {
        /// The code of whoever closed first.
        code: CloseCode,
        /// Its words.
        reason: String,
        /// What was not acknowledged, in order by lane; empty after a complete drain.
        unacknowledged: Vec<Unacknowledged>,
    },
    /// This wire is of no use any more. Send what `poll_transmit` still has, close the wire, and (client)
    /// redial. `handle_lost` is not needed for it.
    WireFailed(WireError),
    /// No wire came back within the redial window, or the server refused for good. The last event.
    GaveUp {
        /// What ended it, when it was not the time.
        error: Option<WireError>,
        /// What was not acknowledged, in order by lane.
        unacknowledged: Vec<Unacknowledged>,
    },
}

/// That a wire died, as seen by the transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WireLoss {
    /// Which wire: [`Session::attempt`](super::Session::attempt) as it was when the wire was attached. A
    /// loss that is told after another wire has taken over changes nothing (S7.4).
    pub attempt: u64,
}
