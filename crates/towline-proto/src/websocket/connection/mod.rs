//! A WebSocket after its handshake: messages, control frames, flow control, keepalive and the closing handshake.

mod closing;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};

use super::close::{CloseCode, CloseFrame};
use super::config::{Config, Role};
use super::decode::{ControlPayload, Data, Decoder, Direct, Item, Kind};
use super::deflate::{DeflateConfig, DeflateParams, Deflater, Inflater};
use super::encode::{Encoder, Payload};
use super::error::{CloseError, OverCredited, OverWritten, SendError, Violation};
use super::flow::{Pressure, RateLimit, ReceiveLedger, SendLedger};
use super::frame::OpCode;
use super::keepalive::{Keepalive, Pulse};
use super::random::Entropy;
use super::utf8::Utf8Validator;

/// A whole message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Text is valid UTF-8.
    pub kind: Kind,
    /// The payload; return its length with [`Connection::credit`] when done with it.
    pub data: Bytes,
}

/// A piece of a message above [`Delivery::Streamed`](super::Delivery::Streamed)'s limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The kind of the whole message. Text is valid UTF-8 as a whole; a character may be cut between two parts.
    pub kind: Kind,
    /// The piece, perhaps empty if it is the last; return its length with [`Connection::credit`].
    pub data: Bytes,
    /// The first piece of its message.
    pub first: bool,
    /// The last piece of its message.
    pub last: bool,
}

/// What a connection tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A message arrived.
    Message(Message),
    /// A piece of a large message arrived.
    Part(Part),
    /// The pong for the latest [`Connection::ping`] arrived.
    Pong(Bytes),
    /// The peer wants to close; the answer is on its way by itself. Once at most.
    CloseRequested(CloseFrame),
    /// The pause that [`Pressure::High`] asked for is over. Once per pause.
    Writable,
    /// Half-close the transport: nothing will be written any more, but reading goes on. Once at most.
    ShutdownWrite,
    /// The end: close the transport. Exactly once, and the last event.
    Closed(Closed),
}

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// RFC 6455 section 7.1.5: the peer's code, 1005 if its close frame had none, 1006 without a close frame; the
    /// violation's code when the peer broke a rule; ours when it vanished after our close frame.
    pub code: CloseCode,
    /// The reason that came with the code.
    pub reason: String,
    /// Both close frames went through.
    pub clean: bool,
    /// What ended it.
    pub cause: Cause,
}

/// What ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// Our [`Connection::close`] came first.
    Local,
    /// The peer's close frame came first.
    Peer,
    /// The transport ended or failed. Clean if both close frames were through; without any the code is 1006.
    Transport,
    /// `close_timeout` passed before the closing handshake was complete.
    CloseTimeout,
    /// Silence after a ping.
    PongTimeout,
    /// The peer broke a rule or passed a limit.
    Violation(Violation),
    /// [`Connection::abort`].
    Aborted,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Both directions carry messages.
    Open,
    /// A close frame was sent, received, or both; something is still to be written or awaited.
    Closing,
    /// Everything is said and written; the transport's end is awaited.
    Lingering,
    Closed,
}

/// Permessage-deflate as negotiated: how to compress, and what was agreed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compression {
    /// Our settings.
    pub config: DeflateConfig,
    /// The outcome of the handshake.
    pub params: DeflateParams,
}

/// One end of a WebSocket. See the [module](super) for how to drive it.
///
/// Owned by one thread at a time; no method blocks.
#[derive(Debug)]
pub struct Connection {
    role: Role,
    config: Arc<Config>,
    decoder: Decoder,
    encoder: Encoder,
    input: BytesMut,
    events: VecDeque<Event>,
    receive: ReceiveLedger,
    sending: SendLedger,
    keepalive: Keepalive,
    controls: RateLimit,
    phase: Phase,
    now: Instant,
    /// The transport has no more to read.
    eof: bool,
    sent: Option<CloseFrame>,
    received: Option<CloseFrame>,
    violation: Option<Violation>,
    /// The whole closing handshake must be over by then.
    close_by: Option<Instant>,
    /// The wait for the transport's end is over by then.
    linger_by: Option<Instant>,
    shut: bool,
    /// Our close frame answers the peer's.
    answered: bool,
    /// The application wants no more for now.
    paused: bool,
    /// A pong that found no room.
    late_pong: Option<ControlPayload>,
    pings: u32,
    /// The payload of the application's latest ping.
    asked: Option<ControlPayload>,
    outgoing_text: Utf8Validator,
}

impl Connection {
    /// A connection whose handshake is complete. Bytes that came behind the handshake go to [`Connection::handle_input`].
    ///
    /// `entropy` gives the masking keys of a client. `config` should have passed [`Config::validate`].
    pub fn new(
        role: Role,
        config: Arc<Config>,
        compression: Option<&Compression>,
        entropy: Box<dyn Entropy + Send>,
        now: Instant,
    ) -> Connection {
        let inflater = compression.map(|agreed| Inflater::new(role, &agreed.params));
        let deflater =
            compression.and_then(|agreed| Deflater::new(role, &agreed.config, &agreed.params));
        Connection {
            role,
            decoder: Decoder::new(role, &config, inflater),
            encoder: Encoder::new(role, config.fragment, deflater, entropy),
            input: BytesMut::new(),
            events: VecDeque::new(),
            receive: ReceiveLedger::new(&config),
            sending: SendLedger::new(&config),
            keepalive: Keepalive::new(config.ping_after, config.pong_timeout, now),
            controls: RateLimit::new(&config, now),
            phase: Phase::Open,
            now,
            eof: false,
            sent: None,
            received: None,
            violation: None,
            close_by: None,
            linger_by: None,
            shut: false,
            answered: false,
            paused: false,
            late_pong: None,
            pings: 0,
            asked: None,
            outgoing_text: Utf8Validator::default(),
            config,
        }
    }

    // ---- input ----

    /// Bytes from the transport, in any chunking. They are decoded by [`Connection::poll_event`].
    ///
    /// Large payloads are handed up as slices of `data`; small ones are copied, so that the buffer can be had back with
    /// [`Connection::reclaim`].
    #[inline]
    pub fn handle_input(&mut self, now: Instant, data: BytesMut) {
        self.now = self.now.max(now);
        if data.is_empty() {
            return;
        }
        self.keepalive.on_input(now);
        if self.discards() {
            self.receive.release(data.len() as u64);
        } else if self.input.is_empty() {
            self.input = data;
        } else {
            self.input.unsplit(data);
        }
    }

    /// A place for the rest of a large frame, to be read into without a copy; `None` when there is none at this time.
    ///
    /// Ask when [`Connection::poll_event`] has returned `None`; give the buffer back with [`Connection::handle_direct`]
    /// before anything else is read.
    pub fn direct(&mut self) -> Option<Direct> {
        let idle = self.input.is_empty() && !self.eof && !self.discards() && self.wants_read();
        if idle { self.decoder.direct() } else { None }
    }

    /// Offers memory that a large message may be put together in. It is used if nobody else holds it; at most 16 MiB are kept.
    pub fn recycle(&mut self, data: Bytes) {
        self.decoder.recycle(data);
    }

    /// Lets go of what [`Connection::recycle`] keeps.
    pub fn release_spare(&mut self) {
        self.decoder.release_spare();
    }

    /// The buffer of [`Connection::direct`], with whatever was appended to it, also nothing.
    pub fn handle_direct(&mut self, now: Instant, buffer: BytesMut) {
        self.now = self.now.max(now);
        let fresh = self.decoder.read_directly(&buffer);
        if self.discards() {
            return self.receive.release(fresh as u64);
        }
        let before = self.input.len();
        match self.decoder.handle_direct(buffer, &mut self.input) {
            Ok((taken, item)) => {
                if fresh > 0 {
                    self.keepalive.on_input(now);
                }
                self.receive.release(taken as u64);
                if let Some(event) = item.and_then(|item| self.on_item(item)) {
                    self.events.push_back(event);
                }
            }
            Err(violation) => {
                // What lies behind the frame is in the input and is released with it.
                let behind = self.input.len() - before;
                self.receive.release(fresh.saturating_sub(behind) as u64);
                self.fail(violation);
            }
        }
    }

    /// The transport has no more to read. What arrived before it is still delivered first.
    pub fn handle_eof(&mut self, now: Instant) {
        self.now = self.now.max(now);
        self.eof = true;
    }

    /// The transport failed: nothing more can be read or written.
    pub fn handle_error(&mut self, now: Instant) {
        self.now = self.now.max(now);
        self.finish_by_transport();
    }

    /// The transport took `bytes` of those that [`Connection::poll_transmit`] gave.
    ///
    /// # Errors
    /// When it reports more than it was given; what was given counts as written.
    #[inline]
    pub fn handle_written(&mut self, now: Instant, bytes: usize) -> Result<(), OverWritten> {
        self.now = self.now.max(now);
        if self.phase == Phase::Closed {
            return Ok(());
        }
        let result = self.sending.written(bytes as u64);
        if self.phase == Phase::Open {
            if self.sending.pause_ends(self.encoder.queued()) {
                self.events.push_back(Event::Writable);
            }
        } else {
            self.advance_close();
        }
        result
    }

    /// The time that [`Connection::poll_timeout`] named has come; harmless at any other time.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.now = self.now.max(now);
        let over = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= now);
        match self.phase {
            Phase::Open => match self.keepalive.on_timeout(now, self.wants_read()) {
                Pulse::Nothing => {}
                Pulse::Ping => {
                    self.pings = self.pings.wrapping_add(1);
                    self.encoder.control(OpCode::Ping, &self.pings.to_be_bytes());
                }
                Pulse::Dead => self.finish(Cause::PongTimeout),
            },
            Phase::Closing | Phase::Lingering => {
                if over(self.linger_by) {
                    self.finish_exchanged();
                } else if over(self.close_by) {
                    self.finish(match self.violation {
                        Some(violation) => Cause::Violation(violation),
                        None => Cause::CloseTimeout,
                    });
                }
            }
            Phase::Closed => {}
        }
    }

    /// When [`Connection::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.phase {
            Phase::Open => self.keepalive.deadline(),
            Phase::Closing => self.close_by,
            Phase::Lingering => self.linger_by,
            Phase::Closed => None,
        }
    }

    // ---- commands ----

    /// Sends a message. The payload is not copied if it is large, and masked in place if nobody else holds it.
    ///
    /// # Errors
    /// When closing, when the queue is full, or when text is not UTF-8. Nothing is queued then.
    pub fn send(&mut self, kind: Kind, payload: Bytes) -> Result<Pressure, SendError> {
        self.check_text(kind, &payload)?;
        self.send_payload(kind, Payload::Owned(payload))
    }

    /// Sends a binary message, copied.
    ///
    /// # Errors
    /// When closing or when the queue is full.
    #[inline]
    pub fn send_binary(&mut self, payload: &[u8]) -> Result<Pressure, SendError> {
        self.send_payload(Kind::Binary, Payload::Slice(payload))
    }

    /// Sends a text message, copied.
    ///
    /// # Errors
    /// When closing or when the queue is full.
    #[inline]
    pub fn send_text(&mut self, payload: &str) -> Result<Pressure, SendError> {
        self.send_payload(Kind::Text, Payload::Slice(payload.as_bytes()))
    }

    /// Sends a part of a message whose size need not be known: `last` ends it. No other message can go between.
    ///
    /// # Errors
    /// Those of [`Connection::send`], and [`SendError::Unfinished`] for a part of another kind.
    pub fn send_part(
        &mut self,
        kind: Kind,
        payload: Bytes,
        last: bool,
    ) -> Result<Pressure, SendError> {
        if self.encoder.streaming().is_some_and(|begun| begun != kind) {
            return Err(SendError::Unfinished);
        }
        self.check_queue()?;
        if kind == Kind::Text {
            let mut text = self.outgoing_text;
            text.feed(&payload).map_err(|_| SendError::InvalidUtf8)?;
            if last {
                text.finish().map_err(|_| SendError::InvalidUtf8)?;
            }
            self.outgoing_text = text;
        }
        self.encoder.data(kind, Payload::Owned(payload), last);
        Ok(self.sending.pressure(self.encoder.queued()))
    }

    /// Sends a ping with a payload of the application, which [`Event::Pong`] gives back.
    ///
    /// # Errors
    /// When closing, when more than 125 bytes, or when too many control frames wait already.
    pub fn ping(&mut self, payload: &[u8]) -> Result<(), SendError> {
        if self.phase != Phase::Open {
            return Err(SendError::Closing);
        }
        let payload = ControlPayload::new(payload).ok_or(SendError::ControlTooLong)?;
        if !self.encoder.control(OpCode::Ping, payload.as_slice()) {
            return Err(SendError::Full);
        }
        self.asked = Some(payload);
        Ok(())
    }

    /// Begins the closing handshake: what is queued goes out, then the close frame. Messages of the peer are
    /// delivered until its close frame. True if this began it; false if closing had begun.
    ///
    /// # Errors
    /// When the code or the reason may not be sent.
    pub fn close(
        &mut self,
        now: Instant,
        code: CloseCode,
        reason: &str,
    ) -> Result<bool, CloseError> {
        let frame = CloseFrame::new(code, reason)?;
        self.now = self.now.max(now);
        if self.phase != Phase::Open {
            return Ok(false);
        }
        self.send_close(frame);
        Ok(true)
    }

    /// Ends the connection at once, without a close frame. The peer sees code 1006.
    pub fn abort(&mut self) {
        self.finish(Cause::Aborted);
    }

    /// The application is done with `bytes` of delivered payload. Harmless after the end.
    ///
    /// Call [`Connection::poll_event`] afterwards: input may have waited for this.
    ///
    /// # Errors
    /// When it returns more than it was given; what was given counts as returned.
    #[inline]
    pub fn credit(&mut self, bytes: usize) -> Result<(), OverCredited> {
        let open = self.receive.is_open();
        let result = self.receive.credit(bytes as u64);
        if !open && self.receive.is_open() {
            // The silence until now was ours.
            self.keepalive.on_input(self.now);
        }
        result
    }

    /// Stops, or goes on, decoding, as a full receive window does: for applications that bound what they hold by
    /// something other than payload bytes. The silence meanwhile is not held against the peer.
    ///
    /// Call [`Connection::poll_event`] after going on: input may have waited for this.
    pub fn pause(&mut self, now: Instant, paused: bool) {
        self.now = self.now.max(now);
        if self.paused && !paused {
            self.keepalive.on_input(now);
        }
        self.paused = paused;
    }

    // ---- output ----

    /// The next event; `None` when everything that arrived is used, or when the application holds more than
    /// `receive_window` bytes.
    #[inline]
    pub fn poll_event(&mut self) -> Option<Event> {
        if let Some(event) = self.events.pop_front() {
            return Some(event);
        }
        while !self.discards() && self.receive.is_open() && !self.paused {
            let before = self.input.len();
            match self.decoder.decode(&mut self.input) {
                Ok(None) => {
                    self.receive.release((before - self.input.len()) as u64);
                    break;
                }
                Ok(Some(item)) => {
                    self.receive.release((before - self.input.len()) as u64);
                    if let Some(event) = self.on_item(item) {
                        return Some(event);
                    }
                }
                Err(violation) => {
                    self.receive.release((before - self.input.len()) as u64);
                    self.fail(violation);
                }
            }
            if !self.events.is_empty() {
                break;
            }
        }
        if self.eof && self.events.is_empty() && self.input.is_empty() {
            self.on_eof();
        }
        self.events.pop_front()
    }

    /// Moves up to `max` encoded bytes into `out`, and returns how many. Report them with [`Connection::handle_written`]
    /// when the transport has them.
    #[inline]
    pub fn poll_transmit(&mut self, max: usize, out: &mut Vec<Bytes>) -> usize {
        let taken = self.encoder.transmit(max, out);
        self.sending.handed_out(taken as u64);
        if let Some(pong) = self.late_pong.take().filter(|_| self.phase == Phase::Open)
            && !self.encoder.control(OpCode::Pong, pong.as_slice())
        {
            self.late_pong = Some(pong);
        }
        taken
    }

    /// Whether the transport should be read: the application does not hold too much. With hysteresis.
    #[inline]
    pub fn wants_read(&self) -> bool {
        match self.phase {
            Phase::Closed => false,
            _ => !self.eof && (self.discards() || (self.receive.is_open() && !self.paused)),
        }
    }

    /// Received bytes that are done with since the last call: headers and control frames at once, payload when credited.
    /// For transports that are paced by acknowledgement. The sum over a connection's life is all it received.
    pub fn take_credit(&mut self) -> usize {
        usize::try_from(self.receive.take_ready()).unwrap_or(usize::MAX)
    }

    /// The input buffer, when it is used up, for the pool it came from.
    #[inline]
    pub fn reclaim(&mut self) -> Option<BytesMut> {
        (self.input.is_empty() && self.input.capacity() > 0)
            .then(|| std::mem::take(&mut self.input))
    }

    /// Bytes queued and not yet written by the transport.
    pub fn queued(&self) -> u64 {
        self.encoder.queued() + self.sending.flying()
    }

    /// Payload bytes in the application's hands.
    pub fn held(&self) -> u64 {
        self.receive.held()
    }

    /// Bytes of an unfinished message that wait for the rest of it.
    pub fn assembling(&self) -> usize {
        self.decoder.held()
    }

    /// Which end this is.
    pub fn role(&self) -> Role {
        self.role
    }

    /// No close frame was sent or received and the transport is up: messages can be sent.
    pub fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// [`Event::Closed`] has been produced.
    pub fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    #[cfg(test)]
    pub(crate) fn outstanding_wire(&self) -> u64 {
        self.receive.outstanding_wire() + self.input.len() as u64
    }

    // ---- inside ----

    fn check_text(&self, kind: Kind, payload: &[u8]) -> Result<(), SendError> {
        match kind {
            Kind::Text if simdutf8::basic::from_utf8(payload).is_err() => {
                Err(SendError::InvalidUtf8)
            }
            _ => Ok(()),
        }
    }

    #[inline]
    fn check_queue(&self) -> Result<(), SendError> {
        if self.phase != Phase::Open {
            Err(SendError::Closing)
        } else if self.queued() > self.config.max_queued {
            Err(SendError::Full)
        } else {
            Ok(())
        }
    }

    #[inline]
    fn send_payload(&mut self, kind: Kind, payload: Payload<'_>) -> Result<Pressure, SendError> {
        self.check_queue()?;
        if !self.encoder.small(kind, payload.as_slice()) {
            if self.encoder.streaming().is_some() {
                return Err(SendError::Unfinished);
            }
            self.encoder.data(kind, payload, true);
        }
        Ok(self.sending.pressure(self.encoder.queued()))
    }

    /// The input bytes of the item were counted as done already.
    #[inline]
    fn on_item(&mut self, item: Item) -> Option<Event> {
        match item {
            Item::Data(Data { kind, first, last, data, wire }) => {
                self.receive.deliver(data.len() as u64, wire);
                Some(if first && last {
                    Event::Message(Message { kind, data })
                } else {
                    Event::Part(Part { kind, data, first, last })
                })
            }
            Item::Ping(payload) => {
                self.on_ping(payload);
                None
            }
            Item::Pong(payload) => self.on_pong(payload),
            Item::Close(body) => {
                self.on_close(body.as_slice());
                None
            }
            Item::EmptyFragment => {
                self.count_control();
                None
            }
        }
    }

    fn count_control(&mut self) -> bool {
        let allowed = self.controls.take(self.now);
        if !allowed {
            self.fail(Violation::ControlFlood);
        }
        allowed
    }

    /// RFC 6455 sections 5.5.2 and 5.5.3.
    fn on_ping(&mut self, payload: ControlPayload) {
        if self.count_control()
            && self.sent.is_none()
            && !self.encoder.control(OpCode::Pong, payload.as_slice())
        {
            // The peer sends pings faster than it reads: one answer for the latest is enough.
            self.late_pong = Some(payload);
        }
    }

    /// Pongs that nobody asked for are ignored (section 5.5.3).
    fn on_pong(&mut self, payload: ControlPayload) -> Option<Event> {
        if self.count_control() && self.asked == Some(payload) {
            self.asked = None;
            return Some(Event::Pong(Bytes::copy_from_slice(payload.as_slice())));
        }
        None
    }
}
