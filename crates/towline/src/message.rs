//! Messages: what a program sends and receives.

use bytes::Bytes;
pub use towline_proto::session::Lane;

use crate::tls::TlsState;

/// Names a message within one direction of one connection. Ids are assigned 1, 2, 3, ... in the order of sending,
/// also over reconnects; a program may choose its own instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(pub u64);

impl std::fmt::Display for MessageId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A message: an id, perhaps the id of the message that it answers, and its data.
///
/// Data is bytes. WebSocket peers that are not Towline's also tell text from binary: [`Message::is_text`].
///
/// Data is a reference-counted slice; cloning a message copies no data. A received message may share its
/// storage with its neighbours: keep [`Message::detach`]ed copies of small messages for longer times.
///
/// ```
/// use towline::{Lane, Message};
///
/// let question = Message::new("how deep?").with_id(7);
/// let answer = Message::reply_to(&question, "by the mark, five").on(Lane::URGENT);
/// assert_eq!(answer.reply_to, question.id);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Message {
    /// The message's id. `None` before it is sent means "assign the next one"; a received message has one.
    pub id: Option<MessageId>,
    /// The id of the message that this one answers, in the other direction's numbering.
    pub reply_to: Option<MessageId>,
    /// The lane that carries it; order is kept within a lane. The ftcp wires have one lane only.
    pub lane: Lane,
    /// The data, any bytes, also none.
    pub data: Bytes,
    /// On WebSocket with a peer that speaks no session: a text message, whose data is UTF-8. Other wires do not carry the
    /// distinction: there a message arrives without it.
    pub is_text: bool,
    /// How the wire was secured when this message came in; `None` on plain wires and for messages to send.
    pub tls: Option<TlsState>,
}

impl Message {
    /// A message with this data, on the normal lane, its id assigned when it is sent.
    pub fn new(data: impl Into<Bytes>) -> Message {
        Message { data: data.into(), ..Message::default() }
    }

    /// A text message, see [`Message::is_text`].
    ///
    /// ```
    /// let message = towline::Message::text("ahoy");
    /// assert!(message.is_text);
    /// ```
    pub fn text(text: impl Into<String>) -> Message {
        Message { is_text: true, ..Message::new(text.into()) }
    }

    /// An answer to `request`: on its lane, and text if it was text. Plain WebSocket messages have no ids on the wire, so
    /// that there the answer goes out like any other message.
    pub fn reply_to(request: &Message, data: impl Into<Bytes>) -> Message {
        let Message { id: reply_to, lane, is_text, .. } = *request;
        Message { reply_to, lane, is_text, ..Message::new(data) }
    }

    /// Chooses the id (not 0). What stays unset is assigned in the order of sending.
    #[must_use]
    pub fn with_id(mut self, id: u64) -> Message {
        self.id = Some(MessageId(id));
        self
    }

    /// Chooses the lane.
    #[must_use]
    pub fn on(mut self, lane: Lane) -> Message {
        self.lane = lane;
        self
    }

    /// Copies the data into storage of its own, so that keeping this message keeps nothing else alive.
    #[must_use]
    pub fn detach(mut self) -> Message {
        self.data = Bytes::copy_from_slice(&self.data);
        self
    }
}

impl<T: Into<Bytes>> From<T> for Message {
    fn from(data: T) -> Message {
        Message::new(data)
    }
}
