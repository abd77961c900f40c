//! The engine of a carrier that moves whole messages and frames them itself: a socket factory without framing.
//!
//! Nothing is acknowledged by the peer. What stands in for it is the factory's word that a message is on its way.

use std::collections::VecDeque;

use bytes::Bytes;
use towline_proto::session::{CloseCode, FRAME_CHARGE, Lane};

use crate::address::Wire;
use crate::config::Plain;
use crate::error::WireError;
use crate::message::{Message, MessageId};

use super::Output;
use super::websocket::{Queue, wire_code};

/// Bytes that are in a carrier at most.
const IN_DRIVER: u64 = 512 << 10;
/// The same where "on its way" means that the peer has it, a round trip and a generation later: as much as 1 Gb/s and a quarter of a
/// second need twice.
const IN_FLOW: u64 = 64 << 20;

/// One carrier's messages.
pub(crate) struct Engine {
    backlog: VecDeque<Message>,
    backlog_bytes: usize,
    /// Handed to the carrier and not on their way, each with the count of bytes at which it is.
    kept: VecDeque<(u64, Message)>,
    handed_out: u64,
    handed_out_bytes: u64,
    acknowledged: u64,
    received: u64,
    outputs: VecDeque<Output>,
    /// What the application holds, each message with an overhead, and how much that may be.
    held: u64,
    window: u64,
    in_carrier: u64,
    closing: Option<(u16, String)>,
    close_sent: bool,
    peer_closing: Option<(u64, String)>,
    over: bool,
    stirred: bool,
}

impl Engine {
    pub(crate) fn new(options: &Plain, wire: Wire) -> Engine {
        Engine {
            backlog: VecDeque::new(),
            backlog_bytes: 0,
            kept: VecDeque::new(),
            handed_out: 0,
            handed_out_bytes: 0,
            acknowledged: 0,
            received: 0,
            outputs: VecDeque::new(),
            held: 0,
            window: options.receive_window,
            in_carrier: if wire == Wire::Brctp { IN_FLOW } else { IN_DRIVER },
            closing: None,
            close_sent: false,
            peer_closing: None,
            over: false,
            stirred: false,
        }
    }

    pub(super) fn enqueue(&mut self, queue: &mut Queue) {
        let (mut messages, bytes) = queue.take();
        self.backlog_bytes += bytes;
        self.backlog.append(&mut messages);
        self.report(queue);
    }

    /// Tells the applications' side how much of what they sent has not left yet.
    pub(crate) fn report(&self, queue: &mut Queue) {
        queue.set_behind(self.backlog.len(), self.backlog_bytes);
    }

    /// A message from the peer.
    pub(crate) fn handle_message(&mut self, data: Bytes, is_text: bool) {
        self.received += 1;
        self.held += data.len() as u64 + FRAME_CHARGE;
        self.outputs.push_back(Output::Message(Message {
            id: Some(MessageId(self.received)),
            reply_to: None,
            lane: Lane::NORMAL,
            is_text,
            data,
            tls: None,
        }));
    }

    /// The peer wants to close: it is answered in kind, behind everything that was accepted.
    pub(crate) fn handle_close_requested(&mut self, status: u16, message: &str) {
        if self.peer_closing.is_some() {
            return;
        }
        self.peer_closing = Some((status.into(), message.to_owned()));
        if !self.close_sent && self.closing.is_none() {
            self.closing = Some((status, message.to_owned()));
        }
        let code = CloseCode(status.into());
        self.outputs.push_back(Output::PeerClosing { code, reason: message.to_owned() });
        self.stirred = true;
    }

    /// The carrier has closed.
    pub(crate) fn handle_closed(&mut self, how: Result<(), WireError>) {
        if std::mem::replace(&mut self.over, true) {
            return;
        }
        let unacknowledged = self.take_back();
        let output = match (self.peer_closing.take(), how) {
            (Some((code, reason)), _) => {
                Output::Closed { code: CloseCode(code), reason, unacknowledged }
            }
            (None, Err(error)) => Output::Lost { error, unacknowledged },
            (None, Ok(())) if self.close_sent => {
                let code = CloseCode::NORMAL;
                Output::Closed { code, reason: String::new(), unacknowledged }
            }
            (None, Ok(())) => Output::Lost { error: WireError::End, unacknowledged },
        };
        self.outputs.push_back(output);
    }

    /// Bytes that the carrier may hold before it has said that they are on their way.
    pub(crate) fn in_carrier(&self) -> u64 {
        self.in_carrier
    }

    pub(crate) fn wants_read(&self) -> bool {
        self.held <= self.window
    }

    /// Begins the closing handshake, behind everything that was accepted.
    pub(crate) fn close(&mut self, code: u64, reason: &str) {
        if !self.close_sent {
            self.closing = Some((wire_code(code).0, reason.to_owned()));
        }
    }

    /// The next message for the carrier.
    pub(crate) fn poll_message(&mut self) -> Option<(Bytes, bool)> {
        if self.close_sent || self.over {
            return None;
        }
        let message = self.backlog.pop_front()?;
        let (data, is_text) = (message.data.clone(), message.is_text);
        self.backlog_bytes = self.backlog_bytes.saturating_sub(data.len());
        self.handed_out += 1;
        self.handed_out_bytes += data.len() as u64;
        self.kept.push_back((self.handed_out_bytes, message));
        Some((data, is_text))
    }

    /// Once, when everything accepted has been handed out and somebody wants to close: with which status.
    pub(crate) fn poll_close(&mut self) -> Option<(u16, String)> {
        if self.close_sent || !self.backlog.is_empty() {
            return None;
        }
        let closing = self.closing.take()?;
        self.close_sent = true;
        Some(closing)
    }

    /// Of all bytes handed out, so many are on their way.
    pub(crate) fn handle_completed(&mut self, bytes: u64) {
        while self.kept.front().is_some_and(|(at, _)| *at <= bytes) {
            self.kept.pop_front();
            self.acknowledged += 1;
            self.stirred = true;
        }
    }

    pub(super) fn wants_transmit(&self) -> bool {
        !self.over && !self.close_sent && (!self.backlog.is_empty() || self.closing.is_some())
    }

    pub(crate) fn take_stirred(&mut self) -> bool {
        std::mem::take(&mut self.stirred)
    }

    pub(super) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// The application let go of messages.
    pub(super) fn consumed(&mut self, cost: u64) {
        self.held = self.held.saturating_sub(cost);
    }

    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    pub(super) fn unacknowledged(&self) -> u64 {
        (self.kept.len() + self.backlog.len()) as u64
    }

    pub(crate) fn sent(&self) -> u64 {
        self.handed_out
    }

    pub(super) fn abort(&mut self) -> Vec<Message> {
        self.over = true;
        self.take_back()
    }

    fn take_back(&mut self) -> Vec<Message> {
        self.backlog_bytes = 0;
        self.kept.drain(..).map(|(_, message)| message).chain(self.backlog.drain(..)).collect()
    }
}
