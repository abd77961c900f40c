//! The engine of a plain WebSocket: text and binary messages with a peer that speaks no session.
//!
//! WebSocket acknowledges nothing. What stands in for it is a ping behind the messages, whose pong says that the peer has
//! read them (RFC 6455 section 5.5.2): at once when somebody waits in `flush`, else now and then.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use towline_proto::session::{CloseCode, Direct, FRAME_CHARGE, Lane};
use towline_proto::websocket::handshake::Opened;
use towline_proto::websocket::{
    self, Cause, ChaChaEntropy, CloseCode as WsCode, Closed, Config, Connection, Event, Kind,
    MAX_REASON, Pressure,
};

use crate::config::Plain;
use crate::error::{SendError, WireError};
use crate::message::{Message, MessageId};

use super::{Output, Refused};

/// After messages have left, a ping asks for them within this time.
const ASK_AFTER: Duration = Duration::from_millis(100);

/// Two pings that ask are at least so far apart, except for a flush: peers limit control frames.
const ASK_PAUSE: Duration = Duration::from_millis(20);

/// A ping without an answer is asked again after this time: a peer may answer the latest of several only.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// With more bytes unacknowledged than this, the question does not wait for [`ASK_AFTER`].
const ASK_ABOVE: usize = 1 << 20;

/// Payloads of up to so many bytes are copied behind their headers.
const COPIED: usize = 4096;

/// What a message costs beside its payload, in bytes.
const OVERHEAD: usize = FRAME_CHARGE as usize;

/// Messages that applications accepted, before the engine has them.
pub(crate) struct Queue {
    messages: VecDeque<Message>,
    bytes: usize,
    /// Messages and bytes that the engine holds and has not handed to the socket.
    behind: (usize, usize),
    accepted: u64,
    max_bytes: usize,
    max_messages: usize,
    max_message: usize,
    /// The limit is the configuration's, and not the wire's.
    configured: bool,
}

impl Queue {
    pub(crate) fn new(options: &Plain, limit: Option<usize>) -> Queue {
        Queue {
            messages: VecDeque::new(),
            bytes: 0,
            behind: (0, 0),
            accepted: 0,
            max_bytes: options.send_queue_bytes,
            max_messages: options.send_queue_messages,
            max_message: limit.map_or(options.max_message, |it| it.min(options.max_message)),
            configured: limit.is_none_or(|limit| limit > options.max_message),
        }
    }

    /// Accepts a message, whose payload is taken out of it then.
    pub(crate) fn push(&mut self, message: &mut Message) -> Result<MessageId, Refused> {
        let bytes = message.data.len();
        let limit = self.max_message;
        if bytes > limit {
            let session = self.configured;
            return Err(Refused::Never(SendError::TooLarge { bytes, limit, session }));
        }
        if message.is_text && std::str::from_utf8(&message.data).is_err() {
            return Err(Refused::Never(SendError::NotText));
        }
        let id = match message.id {
            None => MessageId(self.accepted + 1),
            Some(MessageId(0)) => {
                return Err(Refused::Never(SendError::BadId { id: 0, limit: u64::MAX }));
            }
            Some(id) => id,
        };
        if self.is_full(bytes) {
            return Err(Refused::Full);
        }
        self.accepted += 1;
        self.bytes += bytes;
        let data = std::mem::take(&mut message.data);
        let Message { reply_to, lane, is_text, .. } = *message;
        self.messages.push_back(Message { id: Some(id), reply_to, lane, is_text, data, tls: None });
        Ok(id)
    }

    pub(crate) fn is_full(&self, bytes: usize) -> bool {
        let (messages, held) = (self.messages.len() + self.behind.0, self.bytes + self.behind.1);
        messages >= self.max_messages
            || (messages > 0 && held.saturating_add(bytes) > self.max_bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    pub(crate) fn accepted(&self) -> u64 {
        self.accepted
    }

    pub(super) fn waiting(&self) -> usize {
        self.messages.len()
    }

    pub(crate) fn max_message(&self) -> usize {
        self.max_message
    }

    /// Takes what was accepted: the messages and their bytes.
    pub(super) fn take(&mut self) -> (VecDeque<Message>, usize) {
        (std::mem::take(&mut self.messages), std::mem::take(&mut self.bytes))
    }

    /// The engine holds so many messages and bytes that have not left.
    pub(super) fn set_behind(&mut self, messages: usize, bytes: usize) {
        self.behind = (messages, bytes);
    }
}

/// A question under way.
struct Asked {
    /// The pong says that so many messages were read.
    covers: u64,
    at: Instant,
}

/// One WebSocket, and what was sent over it and not acknowledged.
pub(crate) struct Engine {
    connection: Connection,
    now: Instant,
    /// Not encoded yet.
    backlog: VecDeque<Message>,
    backlog_bytes: usize,
    /// Encoded and not acknowledged.
    kept: VecDeque<Message>,
    kept_bytes: usize,
    keep_at_most: usize,
    /// Counts of messages: encoded, handed out to the last byte, acknowledged.
    encoded: u64,
    handed_out: u64,
    acknowledged: u64,
    received: u64,
    asked: Option<Asked>,
    asked_last: Option<Instant>,
    ask_at: Option<Instant>,
    hurried: bool,
    serial: u64,
    /// What the application holds, each message with an overhead, and how much that may be.
    held: u64,
    window: u64,
    paused: bool,
    closing: Option<(WsCode, String)>,
    lost: Option<WireError>,
    silence: Duration,
    /// There may be something to tell that came of no input.
    stirred: bool,
}

impl Engine {
    /// A WebSocket that is open; `seed` makes the masking keys.
    pub(crate) fn new(
        opened: Opened,
        config: Arc<Config>,
        options: &Plain,
        seed: [u8; 32],
        now: Instant,
    ) -> Engine {
        let entropy = Box::new(ChaChaEntropy::from_seed(seed));
        Engine {
            connection: opened.into_connection(config, entropy, now),
            now,
            backlog: VecDeque::new(),
            backlog_bytes: 0,
            kept: VecDeque::new(),
            kept_bytes: 0,
            keep_at_most: options.send_queue_bytes,
            encoded: 0,
            handed_out: 0,
            acknowledged: 0,
            received: 0,
            asked: None,
            asked_last: None,
            ask_at: None,
            hurried: false,
            serial: 0,
            held: 0,
            window: options.receive_window,
            paused: false,
            closing: None,
            lost: None,
            silence: options.silence_limit,
            stirred: false,
        }
    }

    pub(super) fn enqueue(&mut self, now: Instant, queue: &mut Queue) {
        self.now = now;
        self.backlog_bytes += std::mem::take(&mut queue.bytes);
        self.backlog.append(&mut queue.messages);
        self.report(queue);
    }

    /// Tells the applications' side how much of what they sent has not left yet.
    pub(crate) fn report(&self, queue: &mut Queue) {
        let encoded = usize::try_from(self.encoded - self.handed_out).unwrap_or(usize::MAX);
        let left = usize::try_from(self.connection.queued()).unwrap_or(usize::MAX);
        queue.behind = (self.backlog.len() + encoded, self.backlog_bytes.saturating_add(left));
    }

    pub(super) fn handle_input(&mut self, now: Instant, data: BytesMut) {
        self.now = now;
        self.connection.handle_input(now, data);
    }

    /// The input buffer, once it is used up and nobody keeps a slice of it.
    pub(crate) fn reclaim(&mut self) -> Option<BytesMut> {
        self.connection.reclaim()
    }

    pub(super) fn direct(&mut self) -> Option<Direct> {
        let direct = self.connection.direct()?;
        Some(Direct { buffer: direct.buffer, want: direct.want })
    }

    pub(super) fn handle_direct(&mut self, now: Instant, buffer: BytesMut) {
        self.now = now;
        self.connection.handle_direct(now, buffer);
    }

    /// The peer sends no more. What came before is still delivered.
    pub(crate) fn handle_end(&mut self, now: Instant, error: WireError) {
        self.now = now;
        self.lost.get_or_insert(error);
        self.connection.handle_eof(now);
    }

    /// The transport failed.
    pub(crate) fn handle_failed(&mut self, now: Instant, error: WireError) {
        self.now = now;
        self.lost.get_or_insert(error);
        self.connection.handle_error(now);
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.now = now;
        self.connection.handle_timeout(now);
        self.ask(now);
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        [self.connection.poll_timeout(), self.next_question()].into_iter().flatten().min()
    }

    /// Whether the socket should be read.
    pub(crate) fn wants_read(&self) -> bool {
        self.connection.wants_read()
    }

    /// Begins the closing handshake, behind everything that was accepted.
    pub(crate) fn close(&mut self, code: u64, reason: &str) {
        let reason = &reason[..reason.floor_char_boundary(MAX_REASON)];
        self.closing = Some((wire_code(code), reason.to_owned()));
    }

    pub(crate) fn poll_transmit(
        &mut self,
        now: Instant,
        max: usize,
        out: &mut Vec<Bytes>,
    ) -> usize {
        self.now = now;
        let mut total = 0;
        while total < max {
            self.encode((max - total) as u64);
            self.ask(now);
            let taken = self.connection.poll_transmit(max - total, out);
            if taken == 0 {
                break;
            }
            total += taken;
            // The driver takes everything, and tells when it has too much.
            self.connection.handle_written(now, taken).ok();
            if self.connection.queued() == 0 {
                self.handed_out = self.encoded;
            }
        }
        self.forget();
        self.stirred |= total > 0 && !self.connection.is_open();
        total
    }

    fn encode(&mut self, want: u64) {
        while self.connection.queued() < want && self.connection.is_open() {
            let Some(message) = self.backlog.pop_front() else {
                if let Some((code, reason)) = self.closing.take() {
                    // Code and reason were made to fit.
                    self.connection.close(self.now, code, &reason).ok();
                }
                return;
            };
            let length = message.data.len();
            self.backlog_bytes = self.backlog_bytes.saturating_sub(length);
            if let Err(error) = self.send(&message) {
                tracing::warn!(%error, "a message was not taken");
            }
            self.kept_bytes += length + OVERHEAD;
            self.kept.push_back(message);
            self.encoded += 1;
        }
    }

    fn send(&mut self, message: &Message) -> Result<Pressure, websocket::SendError> {
        let data = &message.data;
        match (message.is_text, data.len() <= COPIED) {
            // What is copied anyway need not be shared first.
            (false, true) => self.connection.send_binary(data),
            (false, false) => self.connection.send(Kind::Binary, data.clone()),
            (true, _) => self.connection.send(Kind::Text, data.clone()),
        }
    }

    pub(super) fn wants_transmit(&self) -> bool {
        self.connection.queued() > 0
            || (self.connection.is_open() && (!self.backlog.is_empty() || self.closing.is_some()))
    }

    /// Whether something happened since the last call that [`Engine::poll_output`] may have to tell.
    pub(crate) fn take_stirred(&mut self) -> bool {
        std::mem::take(&mut self.stirred)
    }

    pub(super) fn poll_output(&mut self) -> Option<Output> {
        while let Some(event) = self.connection.poll_event() {
            match event {
                Event::Message(message) => return Some(Output::Message(self.receive(message))),
                Event::Pong(payload) => {
                    self.answered(&payload);
                    return Some(Output::Acknowledged);
                }
                Event::CloseRequested(frame) => {
                    let code = frame.code.unwrap_or(WsCode::NO_STATUS);
                    let (code, reason) = (CloseCode(code.0.into()), frame.reason);
                    return Some(Output::PeerClosing { code, reason });
                }
                // Whoever owns the socket half-closes it, and waits for the peer to do so.
                Event::ShutdownWrite => self.connection.handle_eof(self.now),
                Event::Closed(closed) => return Some(self.closed(closed)),
                Event::Part(_) | Event::Writable => {}
            }
        }
        None
    }

    fn receive(&mut self, message: websocket::Message) -> Message {
        self.connection.credit(message.data.len()).ok();
        self.received += 1;
        self.held += message.data.len() as u64 + FRAME_CHARGE;
        if !self.paused && self.held > self.window {
            self.paused = true;
            self.connection.pause(self.now, true);
        }
        Message {
            id: Some(MessageId(self.received)),
            reply_to: None,
            lane: Lane::NORMAL,
            is_text: message.kind == Kind::Text,
            data: message.data,
            tls: None,
        }
    }

    /// The application let go of messages.
    pub(super) fn consumed(&mut self, cost: u64) {
        self.held = self.held.saturating_sub(cost);
        if self.paused && self.held <= self.window / 2 {
            self.paused = false;
            self.connection.pause(self.now, false);
            self.stirred = true;
        }
    }

    fn closed(&mut self, closed: Closed) -> Output {
        let Closed { code, reason, cause, .. } = closed;
        if cause == Cause::Local {
            // The peer answered behind everything that it had read.
            self.acknowledge(self.handed_out);
        }
        let unacknowledged = self.abort();
        let lost = match cause {
            Cause::Transport if code != WsCode::ABNORMAL => None,
            Cause::Transport => Some(self.lost.take().unwrap_or(WireError::End)),
            Cause::PongTimeout => Some(WireError::Silent(self.silence)),
            Cause::Violation(violation) => {
                let code = violation.code();
                let words = format!("{violation}; its WebSocket was closed with code {code}");
                Some(WireError::Protocol(words.into()))
            }
            _ => None,
        };
        match lost {
            Some(error) => Output::Lost { error, unacknowledged },
            None => {
                let code = CloseCode(code.0.into());
                Output::Closed { code, reason, unacknowledged }
            }
        }
    }

    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    pub(super) fn unacknowledged(&self) -> u64 {
        (self.kept.len() + self.backlog.len()) as u64
    }

    pub(crate) fn sent(&self) -> u64 {
        self.encoded
    }

    /// Somebody waits for acknowledgements.
    pub(super) fn hurry(&mut self) {
        self.hurried = true;
    }

    pub(super) fn abort(&mut self) -> Vec<Message> {
        self.connection.abort();
        self.kept_bytes = 0;
        self.backlog_bytes = 0;
        self.kept.drain(..).chain(self.backlog.drain(..)).collect()
    }

    // ---- questions ----

    fn next_question(&self) -> Option<Instant> {
        match &self.asked {
            Some(asked) => asked.at.checked_add(ASK_AGAIN),
            None => self.ask_at,
        }
        .filter(|_| self.connection.is_open())
    }

    fn ask(&mut self, now: Instant) {
        if self.handed_out == self.acknowledged || !self.connection.is_open() {
            self.ask_at = None;
            self.hurried &= !self.backlog.is_empty() || self.encoded != self.acknowledged;
            return;
        }
        if self.asked.as_ref().is_some_and(|asked| now < asked.at + ASK_AGAIN) {
            return;
        }
        let after = match self.kept_bytes > ASK_ABOVE {
            true => self.asked_last.map_or(now, |last| last + ASK_PAUSE),
            false => now + ASK_AFTER,
        };
        let at = self.ask_at.map_or(after, |at| at.min(after));
        self.ask_at = Some(at);
        if at <= now || self.hurried {
            self.serial += 1;
            if self.connection.ping(&self.serial.to_be_bytes()).is_ok() {
                self.asked = Some(Asked { covers: self.handed_out, at: now });
                self.asked_last = Some(now);
                self.ask_at = None;
                self.hurried &= self.handed_out != self.encoded || !self.backlog.is_empty();
            }
        }
    }

    fn answered(&mut self, payload: &[u8]) {
        if payload == self.serial.to_be_bytes()
            && let Some(asked) = self.asked.take()
        {
            self.acknowledge(asked.covers);
        }
    }

    fn acknowledge(&mut self, up_to: u64) {
        while self.acknowledged < up_to {
            let Some(message) = self.kept.pop_front() else { break };
            self.kept_bytes = self.kept_bytes.saturating_sub(message.data.len() + OVERHEAD);
            self.acknowledged += 1;
            // Of an echo it is the memory that the message came in.
            self.connection.recycle(message.data);
        }
        if self.kept.is_empty() {
            // Nothing is under way: an idle connection keeps no such memory.
            self.connection.release_spare();
        }
    }

    /// With a peer that answers no pings, what has left counts as received once too much would have to be kept.
    fn forget(&mut self) {
        while self.kept_bytes > self.keep_at_most && self.acknowledged < self.handed_out {
            self.acknowledge(self.acknowledged + 1);
        }
    }
}

/// The close code for the wire, from one of this library's: WebSocket's own stay.
pub(crate) fn wire_code(code: u64) -> WsCode {
    match CloseCode(code) {
        CloseCode::NORMAL => WsCode::NORMAL,
        CloseCode::GOING_AWAY => WsCode::AWAY,
        CloseCode::BUSY => WsCode::TRY_AGAIN,
        CloseCode::DENIED => WsCode::POLICY,
        CloseCode::TOO_LARGE => WsCode::TOO_LARGE,
        CloseCode(code @ 0..256) => {
            tracing::debug!(code, "no such code on WebSocket");
            WsCode::INTERNAL
        }
        CloseCode(code) => WsCode::for_wire(u16::try_from(code).unwrap_or(u16::MAX)),
    }
}
