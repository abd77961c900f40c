//! Which protocol runs over a connection's wires: one enum with the doors that all of them have.

#[cfg(feature = "websocket")]
pub(crate) mod messages;
#[cfg(feature = "websocket")]
pub(crate) mod websocket;

use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use towline_proto::frame;
use towline_proto::session::{self, CloseCode, LANES, Lane, Payload, Progress, Session};

use crate::address::Wire;
use crate::config::Plain;
use crate::error::SendError;
use crate::message::{Message, MessageId};

/// The part of an engine that application threads fill, under the connection's lock.
pub(crate) enum Outgoing {
    Session(session::Outgoing),
    Ftcp {
        queue: frame::Outgoing,
        accepted: u64,
    },
    #[cfg(feature = "websocket")]
    WebSocket(websocket::Queue),
}

/// Payloads below this many bytes are copied into the send queue: cheaper than counting references.
const SMALL: usize = 4 << 10;

/// Why a message was not taken.
pub(crate) enum Refused {
    Full,
    Never(SendError),
}

impl Outgoing {
    pub(crate) fn new(wire: Wire, options: &Plain) -> Outgoing {
        #[cfg(feature = "websocket")]
        if wire.moves_messages() {
            return Outgoing::messages(options, None);
        }
        match wire.has_session() {
            true => Outgoing::Session(session::Outgoing::new(&session_limits(options))),
            false => {
                Outgoing::Ftcp { queue: frame::Outgoing::new(&frame_config(options)), accepted: 0 }
            }
        }
    }

    /// For plain messages, over WebSocket or in datagrams; `limit` is the wire's own for one. A handshake may put it in the place of another one: nothing can have
    /// been accepted before, because no program has the connection before it is established.
    #[cfg(feature = "websocket")]
    pub(crate) fn messages(options: &Plain, limit: Option<usize>) -> Outgoing {
        Outgoing::WebSocket(websocket::Queue::new(options, limit))
    }

    /// Whether it is a session's: with lanes, replies and acknowledgements.
    pub(crate) fn is_session(&self) -> bool {
        matches!(self, Outgoing::Session(_))
    }

    /// Whether messages have ids and reply-to on the wire.
    pub(crate) fn has_replies(&self) -> bool {
        matches!(self, Outgoing::Session(_) | Outgoing::Ftcp { .. })
    }

    /// Accepts a message. Its payload may be taken out of it then.
    pub(crate) fn push(&mut self, message: &mut Message) -> Result<MessageId, Refused> {
        match self {
            Outgoing::Session(queue) => {
                let id = session_id(message.id)?;
                let reply_to = session_id(message.reply_to)?;
                // What is copied anyway need not be shared first.
                let payload = match message.data.len() < SMALL {
                    true => Payload::Slice(&message.data),
                    false => Payload::Bytes(message.data.clone()),
                };
                let sent = queue.push(message.lane, id, reply_to, payload);
                sent.map(|id| MessageId(id.value())).map_err(|error| match error {
                    session::SendError::TooLarge { len, max } => {
                        Refused::Never(SendError::TooLarge {
                            bytes: len,
                            limit: max,
                            session: true,
                        })
                    }
                    _ => Refused::Full,
                })
            }
            Outgoing::Ftcp { queue, accepted } => {
                let id = frame_id(message.id)?;
                let reply_to = frame_id(message.reply_to)?;
                let payload = match message.data.len() < SMALL {
                    true => frame::Payload::Slice(&message.data),
                    false => frame::Payload::Bytes(message.data.clone()),
                };
                let id = queue.push(id, reply_to, payload).map_err(|error| match error {
                    frame::SendError::TooLarge { length, max } => {
                        Refused::Never(SendError::TooLarge {
                            bytes: length,
                            limit: max,
                            session: false,
                        })
                    }
                    _ => Refused::Full,
                })?;
                *accepted += 1;
                Ok(MessageId(id.value()))
            }
            #[cfg(feature = "websocket")]
            Outgoing::WebSocket(queue) => queue.push(message),
        }
    }

    /// Leaves automatic ids out as long as the next one is `taken`.
    pub(crate) fn skip_ids(&mut self, taken: impl Fn(MessageId) -> bool) {
        match self {
            Outgoing::Session(queue) => {
                while taken(MessageId(queue.next_id())) {
                    queue.skip_id();
                }
            }
            Outgoing::Ftcp { queue, .. } => {
                while taken(MessageId(queue.next_id())) {
                    queue.skip_id();
                }
            }
            #[cfg(feature = "websocket")]
            Outgoing::WebSocket(_) => {}
        }
    }

    /// Whether a small message on the normal lane would be taken.
    pub(crate) fn has_room(&self) -> bool {
        match self {
            Outgoing::Session(queue) => Lane::ALL.iter().all(|lane| !queue.is_full(*lane, 0)),
            Outgoing::Ftcp { queue, .. } => !queue.is_full(),
            #[cfg(feature = "websocket")]
            Outgoing::WebSocket(queue) => !queue.is_full(0),
        }
    }

    /// Whether those who were refused should try again.
    pub(crate) fn is_low(&self) -> bool {
        match self {
            Outgoing::Session(queue) => queue.is_low(),
            _ => self.has_room(),
        }
    }

    /// How much was ever accepted: what a flush that begins now waits for.
    pub(crate) fn accepted(&self) -> Progress {
        match self {
            Outgoing::Session(queue) => queue.accepted(),
            Outgoing::Ftcp { accepted, .. } => one_lane(*accepted),
            #[cfg(feature = "websocket")]
            Outgoing::WebSocket(queue) => one_lane(queue.accepted()),
        }
    }

    /// Messages that the protocol has not taken yet.
    pub(crate) fn waiting(&self) -> usize {
        match self {
            Outgoing::Session(queue) => queue.messages(),
            Outgoing::Ftcp { queue, .. } => queue.messages(),
            #[cfg(feature = "websocket")]
            Outgoing::WebSocket(queue) => queue.waiting(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Outgoing::Session(queue) => queue.is_empty(),
            Outgoing::Ftcp { queue, .. } => queue.is_empty(),
            #[cfg(feature = "websocket")]
            Outgoing::WebSocket(queue) => queue.is_empty(),
        }
    }

    /// Gives spare memory back.
    pub(crate) fn shrink(&mut self) {
        if let Outgoing::Session(queue) = self {
            queue.shrink();
        }
    }

    /// The most bytes that one message may have.
    pub(crate) fn max_message(&self) -> usize {
        match self {
            Outgoing::Session(queue) => queue.max_message(),
            Outgoing::Ftcp { .. } => frame::MAX_PAYLOAD,
            #[cfg(feature = "websocket")]
            Outgoing::WebSocket(queue) => queue.max_message(),
        }
    }
}

/// The progress of an engine that has one lane only.
fn one_lane(messages: u64) -> Progress {
    let mut progress = [0; LANES];
    progress[0] = messages;
    Progress(progress)
}

fn session_id(id: Option<MessageId>) -> Result<Option<session::MessageId>, Refused> {
    let Some(MessageId(id)) = id else { return Ok(None) };
    match session::MessageId::new(id) {
        Some(id) => Ok(Some(id)),
        None => {
            let limit = session::MessageId::MAX.value();
            Err(Refused::Never(SendError::BadId { id, limit }))
        }
    }
}

fn frame_id(id: Option<MessageId>) -> Result<Option<frame::MessageId>, Refused> {
    let Some(MessageId(id)) = id else { return Ok(None) };
    match frame::MessageId::new(id).filter(|id| id.value() != 0) {
        Some(id) => Ok(Some(id)),
        None => Err(Refused::Never(SendError::BadId { id, limit: frame::MAX_ID })),
    }
}

/// What an engine tells, in the words of this layer.
pub(crate) enum Output {
    Established {
        resumed: bool,
    },
    Message(Message),
    Acknowledged,
    Reset(Vec<Message>),
    PeerClosing {
        code: CloseCode,
        reason: String,
    },
    Closed {
        code: CloseCode,
        reason: String,
        unacknowledged: Vec<Message>,
    },
    WireFailed(session::WireError),
    FormatBroken(frame::Error),
    GaveUp {
        error: Option<session::WireError>,
        unacknowledged: Vec<Message>,
    },
    TooLargeForPeer(Vec<Message>),
    /// The wire is lost, and with it the connection.
    #[cfg(feature = "websocket")]
    Lost {
        error: crate::WireError,
        unacknowledged: Vec<Message>,
    },
}

/// The state machine of one connection, outliving its wires.
pub(crate) enum Engine {
    Session(Box<Session>),
    Ftcp {
        engine: Box<frame::Engine>,
        acknowledged: u64,
    },
    /// Plain messages; made when the WebSocket is open, and it lives as long.
    #[cfg(feature = "websocket")]
    WebSocket(Box<websocket::Engine>),
    /// The same over a carrier that frames messages itself.
    #[cfg(feature = "websocket")]
    Messages(Box<messages::Engine>),
}

impl Engine {
    pub(crate) fn ftcp(options: &Plain) -> Engine {
        let engine = frame::Engine::new(Arc::new(frame_config(options)));
        Engine::Ftcp { engine: Box::new(engine), acknowledged: 0 }
    }

    pub(crate) fn is_ftcp(&self) -> bool {
        matches!(self, Engine::Ftcp { .. })
    }

    /// Moves what applications accepted into the engine, and tells their side how much room there is.
    pub(crate) fn enqueue(&mut self, now: Instant, outgoing: &mut Outgoing) {
        match (self, outgoing) {
            (Engine::Session(session), Outgoing::Session(queue)) => session.enqueue(now, queue),
            (Engine::Ftcp { engine, .. }, Outgoing::Ftcp { queue, .. }) => {
                engine.enqueue(now, queue);
            }
            #[cfg(feature = "websocket")]
            (Engine::WebSocket(engine), Outgoing::WebSocket(queue)) => engine.enqueue(now, queue),
            #[cfg(feature = "websocket")]
            (Engine::Messages(engine), Outgoing::WebSocket(queue)) => engine.enqueue(queue),
            _ => debug_assert!(false, "a connection's halves are made together"),
        }
    }

    /// A dialed wire is up.
    pub(crate) fn handle_open(&mut self, now: Instant) {
        match self {
            Engine::Session(session) => session.handle_open(now),
            Engine::Ftcp { engine, .. } => engine.handle_open(now),
            #[cfg(feature = "websocket")]
            Engine::WebSocket(_) | Engine::Messages(_) => {}
        }
    }

    pub(crate) fn handle_input(&mut self, now: Instant, data: Bytes) {
        match self {
            Engine::Session(session) => session.handle_input(now, data),
            Engine::Ftcp { engine, .. } => engine.handle_input(now, data),
            #[cfg(feature = "websocket")]
            Engine::WebSocket(engine) => {
                // Unmasking is in place where nobody else holds the buffer.
                let data = data.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
                engine.handle_input(now, data);
            }
            #[cfg(feature = "websocket")]
            Engine::Messages(engine) => engine.handle_message(data, false),
        }
    }

    /// A buffer to receive into directly, when the rest of something large is awaited.
    pub(crate) fn direct(&mut self) -> Option<session::Direct> {
        match self {
            Engine::Session(session) => session.direct(),
            Engine::Ftcp { .. } => None,
            #[cfg(feature = "websocket")]
            Engine::WebSocket(engine) => engine.direct(),
            #[cfg(feature = "websocket")]
            Engine::Messages(_) => None,
        }
    }

    pub(crate) fn handle_direct(&mut self, now: Instant, buffer: BytesMut) {
        match self {
            Engine::Session(session) => session.handle_direct(now, buffer),
            Engine::Ftcp { .. } => {}
            #[cfg(feature = "websocket")]
            Engine::WebSocket(engine) => engine.handle_direct(now, buffer),
            #[cfg(feature = "websocket")]
            Engine::Messages(_) => {}
        }
    }

    pub(crate) fn handle_lost(&mut self, now: Instant) {
        match self {
            Engine::Session(session) => {
                let attempt = session.attempt();
                session.handle_lost(now, session::WireLoss { attempt });
            }
            Engine::Ftcp { engine, .. } => engine.handle_lost(now),
            #[cfg(feature = "websocket")]
            Engine::WebSocket(engine) => engine.handle_failed(now, crate::WireError::End),
            #[cfg(feature = "websocket")]
            Engine::Messages(engine) => engine.handle_closed(Err(crate::WireError::End)),
        }
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        match self {
            Engine::Session(session) => session.handle_timeout(now),
            Engine::Ftcp { .. } => {}
            #[cfg(feature = "websocket")]
            Engine::WebSocket(engine) => engine.handle_timeout(now),
            #[cfg(feature = "websocket")]
            Engine::Messages(_) => {}
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        match self {
            Engine::Session(session) => session.poll_timeout(),
            Engine::Ftcp { engine, .. } => engine.poll_timeout(),
            #[cfg(feature = "websocket")]
            Engine::WebSocket(engine) => engine.poll_timeout(),
            #[cfg(feature = "websocket")]
            Engine::Messages(_) => None,
        }
    }

    pub(crate) fn poll_transmit(
        &mut self,
        now: Instant,
        max_bytes: usize,
        out: &mut Vec<Bytes>,
    ) -> usize {
        match self {
            Engine::Session(session) => session.poll_transmit(now, max_bytes, out),
            Engine::Ftcp { engine, .. } => engine.poll_transmit(now, max_bytes, out),
            #[cfg(feature = "websocket")]
            Engine::WebSocket(engine) => engine.poll_transmit(now, max_bytes, out),
            // Its messages go one by one: see `Runtime::transmit_messages`.
            #[cfg(feature = "websocket")]
            Engine::Messages(_) => 0,
        }
    }

    pub(crate) fn wants_transmit(&self) -> bool {
        match self {
            Engine::Session(session) => session.wants_transmit(),
            Engine::Ftcp { engine, .. } => engine.untransmitted() > 0,
            #[cfg(feature = "websocket")]
            Engine::WebSocket(engine) => engine.wants_transmit(),
            #[cfg(feature = "websocket")]
            Engine::Messages(engine) => engine.wants_transmit(),
        }
    }

    #[inline]
    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        match self {
            Engine::Session(session) => Some(match session.poll_event()? {
                session::Event::Message(message) => Output::Message(from_session(message)),
                event => session_output(event),
            }),
            Engine::Ftcp { engine, acknowledged } => Some(match engine.poll_event()? {
                frame::Event::Message(message) => Output::Message(from_frame(message)),
                frame::Event::Acknowledged { messages, .. } => {
                    *acknowledged += messages as u64;
                    Output::Acknowledged
                }
                frame::Event::WireFailed(error) => Output::FormatBroken(error),
                _ => Output::Acknowledged,
            }),
            #[cfg(feature = "websocket")]
            Engine::WebSocket(engine) => engine.poll_output(),
            #[cfg(feature = "websocket")]
            Engine::Messages(engine) => engine.poll_output(),
        }
    }

    /// The application took messages of this lane and cost.
    pub(crate) fn consumed(&mut self, lane: Lane, cost: u64) {
        match self {
            Engine::Session(session) => session.consumed(lane, cost),
            Engine::Ftcp { .. } => {}
            #[cfg(feature = "websocket")]
            Engine::WebSocket(engine) => engine.consumed(cost),
            #[cfg(feature = "websocket")]
            Engine::Messages(engine) => engine.consumed(cost),
        }
    }

    /// Asks for acknowledgements at once, for a flush.
    pub(crate) fn hurry(&mut self) {
        match self {
            Engine::Session(session) => session.request_acknowledgement(),
            Engine::Ftcp { .. } => {}
            #[cfg(feature = "websocket")]
            Engine::WebSocket(engine) => engine.hurry(),
            #[cfg(feature = "websocket")]
            Engine::Messages(_) => {}
        }
    }

    /// Asks for acknowledgements where they wait for a number of octets, which the limits of this end may not reach.
    pub(crate) fn hurry_for_room(&mut self) {
        if let Engine::Session(session) = self {
            session.request_acknowledgement();
        }
    }

    /// How much the peer has for good: see [`Outgoing::accepted`].
    pub(crate) fn acknowledged(&self) -> Progress {
        match self {
            Engine::Session(session) => session.acknowledged(),
            Engine::Ftcp { acknowledged, .. } => one_lane(*acknowledged),
            #[cfg(feature = "websocket")]
            Engine::WebSocket(engine) => one_lane(engine.acknowledged()),
            #[cfg(feature = "websocket")]
            Engine::Messages(engine) => one_lane(engine.acknowledged()),
        }
    }

    /// Messages accepted and not acknowledged.
    pub(crate) fn unacknowledged(&self) -> u64 {
        match self {
            Engine::Session(session) => session.unacknowledged().1,
            Engine::Ftcp { engine, .. } => engine.unacknowledged().1 as u64,
            #[cfg(feature = "websocket")]
            Engine::WebSocket(engine) => engine.unacknowledged(),
            #[cfg(feature = "websocket")]
            Engine::Messages(engine) => engine.unacknowledged(),
        }
    }

    /// Gives back what came too late for an engine that has ended.
    pub(crate) fn take_back(&mut self, now: Instant, outgoing: &mut Outgoing) -> Vec<Message> {
        match outgoing {
            Outgoing::Session(queue) => from_session_all(queue.take()),
            Outgoing::Ftcp { .. } => {
                self.enqueue(now, outgoing);
                self.abort()
            }
            #[cfg(feature = "websocket")]
            Outgoing::WebSocket(_) => {
                self.enqueue(now, outgoing);
                self.abort()
            }
        }
    }

    /// Ends at once and gives everything unacknowledged back.
    pub(crate) fn abort(&mut self) -> Vec<Message> {
        match self {
            Engine::Session(session) => {
                // What the session has given back already, and nobody has taken yet, comes first.
                let mut unacknowledged = Vec::new();
                while let Some(event) = session.poll_event() {
                    match event {
                        session::Event::Reset { unacknowledged: mut back }
                        | session::Event::Closed { unacknowledged: mut back, .. }
                        | session::Event::GaveUp { unacknowledged: mut back, .. } => {
                            unacknowledged.append(&mut back);
                        }
                        _ => {}
                    }
                }
                unacknowledged.append(&mut session.abort());
                from_session_all(unacknowledged)
            }
            Engine::Ftcp { engine, .. } => engine.abort().into_iter().map(from_frame).collect(),
            #[cfg(feature = "websocket")]
            Engine::WebSocket(engine) => engine.abort(),
            #[cfg(feature = "websocket")]
            Engine::Messages(engine) => engine.abort(),
        }
    }
}

fn session_output(event: session::Event) -> Output {
    match event {
        session::Event::Established { resumed } => Output::Established { resumed },
        session::Event::Message(message) => Output::Message(from_session(message)),
        session::Event::Acknowledged { .. } => Output::Acknowledged,
        session::Event::TooLargeForPeer { messages, .. } => {
            Output::TooLargeForPeer(from_session_all(messages))
        }
        session::Event::Reset { unacknowledged } => Output::Reset(from_session_all(unacknowledged)),
        session::Event::PeerClosing { code, reason } => Output::PeerClosing { code, reason },
        session::Event::Closed { code, reason, unacknowledged } => {
            Output::Closed { code, reason, unacknowledged: from_session_all(unacknowledged) }
        }
        session::Event::WireFailed(error) => Output::WireFailed(error),
        session::Event::GaveUp { error, unacknowledged } => {
            Output::GaveUp { error, unacknowledged: from_session_all(unacknowledged) }
        }
        _ => Output::Acknowledged,
    }
}

#[inline]
fn from_session(message: session::Message) -> Message {
    Message {
        id: Some(MessageId(message.id.value())),
        reply_to: message.reply_to.map(|id| MessageId(id.value())),
        lane: message.lane,
        is_text: false,
        data: message.data,
        tls: None,
    }
}

fn from_session_all(messages: Vec<session::Message>) -> Vec<Message> {
    messages.into_iter().map(from_session).collect()
}

fn from_frame(message: frame::Message) -> Message {
    Message {
        id: Some(MessageId(message.id.value())).filter(|id| id.0 != 0),
        reply_to: message.reply_to.map(|id| MessageId(id.value())),
        lane: Lane::NORMAL,
        is_text: false,
        data: message.data,
        tls: None,
    }
}

fn session_limits(options: &Plain) -> session::Limits {
    session::Limits {
        max_bytes: options.send_queue_bytes,
        max_messages: options.send_queue_messages,
        max_message: options.max_message,
        fragment: options.fragment_size,
    }
}

/// The session's parameters from the configuration.
pub(crate) fn session_config(options: &Plain) -> session::Config {
    session::Config {
        limits: session_limits(options),
        max_message: options.max_message,
        window: options.receive_window,
        ack_delay: options.ack_delay,
        ack_bytes: (512 << 10).min(options.receive_window / 8),
        keep_alive: Some(options.keep_alive),
        ping_timeout: options.silence_limit.saturating_sub(options.keep_alive),
        handshake_timeout: options.connect_timeout,
        redial_window: options.redial_window,
        close_timeout: options.close_timeout,
    }
}

fn frame_config(options: &Plain) -> frame::Config {
    let mut config = frame::Config::default();
    config.queue_messages = options.ftcp_queue_depth;
    config.queue_bytes = options.send_queue_bytes;
    config.resend = options.ftcp_resend;
    config
}
