//! What the application calls.

use std::time::Instant;

use bytes::Bytes;

use super::super::config::{Framing, Mode};
use super::super::event::{Closed, Event, SendError, code};
use super::super::message::{self, Broken};
use super::super::packing;
use super::super::sealing::Source;
use super::super::sender::StreamSender;
use super::{Flow, State};
use crate::bats::control::Frame;
use crate::bats::seal::Forged;

impl Flow {
    /// How many bytes it is worth to have accepted and not acknowledged, so that the path never waits: it follows the path's rate, round
    /// trip and loss.
    pub fn ideal_buffer_length(&self) -> usize {
        self.ideal
    }

    /// Bytes accepted and not acknowledged; in BTP, bytes that have not left.
    pub fn unacknowledged(&self) -> usize {
        match (&self.datagrams, &self.rateless) {
            (Some(datagrams), _) => datagrams.0.waiting(),
            (None, Some(rateless)) => rateless.0.unacknowledged(),
            (None, None) => self.sender.as_ref().map_or(0, StreamSender::unacknowledged),
        }
    }

    /// Whether the parameters are known.
    pub(super) fn has_begun(&self) -> bool {
        self.sender.is_some() || self.datagrams.is_some() || self.rateless.is_some()
    }

    /// Whether `write` or `send` would take something.
    pub fn is_writable(&self) -> bool {
        self.check_sending().is_ok() && self.unacknowledged() < self.ideal
    }

    fn check_sending(&self) -> Result<(), SendError> {
        let open = matches!(self.state, State::Opening | State::Established);
        let rateless = self.rateless.as_ref().is_some_and(|halves| !halves.0.is_finishing());
        match &self.sender {
            // Nothing leaves unsealed.
            _ if open && !self.sealing.is_ready() => Err(SendError::Full),
            _ if self.datagrams.is_some() && open && self.close_by.is_none() => Ok(()),
            Some(sender) if open && !sender.is_finishing() => Ok(()),
            None if open && rateless => Ok(()),
            // A server accepts nothing before it knows what it carries.
            None if open && !self.has_begun() => Err(SendError::Full),
            _ => Err(SendError::Closed),
        }
    }

    /// Takes bytes for a stream; how many. After less than all, [`Event::Writable`] says when there is room again.
    ///
    /// # Errors
    /// When the flow carries messages or is closed for sending.
    pub fn write(&mut self, data: &[u8]) -> Result<usize, SendError> {
        let length = self.accept(data.len())?;
        self.push_stream(Bytes::copy_from_slice(data.get(..length).unwrap_or_default()));
        Ok(length)
    }

    /// [`write`](Self::write) without a copy: takes the front of `data`, which is left with the rest.
    ///
    /// # Errors
    /// As for `write`.
    pub fn write_bytes(&mut self, data: &mut Bytes) -> Result<usize, SendError> {
        let length = self.accept(data.len())?;
        let taken = data.split_to(length);
        self.push_stream(taken);
        Ok(length)
    }

    /// The next bytes of a stream, in records where they are packed.
    fn push_stream(&mut self, mut data: Bytes) {
        if !self.packing.is_on() {
            return self.push(data);
        }
        while !data.is_empty() {
            let record = data.split_to(data.len().min(packing::MAX_RECORD));
            self.push_message(record);
        }
    }

    /// A message with its length in front.
    fn push_message(&mut self, data: Bytes) {
        let data = self.pack(data);
        if self.sealing.is_sealed() {
            // One record is shorter than two.
            let whole = [message::header(data.len()), data].concat();
            return self.push(whole.into());
        }
        self.push(message::header(data.len()));
        self.push(data);
    }

    fn pack(&mut self, data: Bytes) -> Bytes {
        let before = data.len();
        let packed = self.packing.pack(data);
        self.stats.saved_bytes += before.saturating_sub(packed.len()) as u64;
        packed
    }

    fn accept(&mut self, offered: usize) -> Result<usize, SendError> {
        if self.config.framing == Framing::Messages {
            return Err(SendError::WrongFraming("messages"));
        }
        match self.check_sending() {
            Err(SendError::Full) => {}
            other => other?,
        }
        let room = match self.sender {
            Some(_) => self.ideal.saturating_sub(self.unacknowledged()),
            None => 0,
        };
        let room = if self.sealing.is_ready() { room } else { 0 };
        if room < offered {
            self.on_full();
        }
        Ok(room.min(offered))
    }

    fn push(&mut self, data: Bytes) {
        if data.is_empty() {
            return;
        }
        self.stats.accepted_bytes += data.len() as u64;
        (self.unsent, self.unconfirmed) = (true, true);
        if let Some(sender) = &mut self.sender {
            sender.push(self.sealing.seal(data));
        } else if let Some(datagrams) = &mut self.datagrams {
            datagrams.0.push(data);
        } else if let Some(rateless) = &mut self.rateless {
            rateless.0.push(self.sealing.seal(data));
        }
    }

    fn on_full(&mut self) {
        if !self.full {
            self.full = true;
            self.events.push_back(Event::BufferFull);
        }
    }

    /// The longest message that [`send`](Self::send) takes now. In BTP it follows the packets that fit the path.
    pub fn max_message(&self) -> usize {
        match self.config.mode {
            Mode::Btp => {
                let room = self.max_datagram.saturating_sub(self.packing.overhead());
                self.config.max_message.min(room)
            }
            _ => self.config.max_message,
        }
    }

    /// Takes a message. One is always taken when nothing is unacknowledged. In BTP a message is at most 256 packets.
    ///
    /// # Errors
    /// [`SendError::Full`] until [`Event::Writable`]; the others are for good.
    pub fn send(&mut self, data: Bytes) -> Result<(), SendError> {
        if self.config.framing == Framing::Stream {
            return Err(SendError::WrongFraming("a stream"));
        }
        let (length, limit) = (data.len(), self.max_message());
        if length > limit {
            return Err(SendError::TooLarge { length, limit });
        }
        let ready = self.check_sending();
        if ready == Err(SendError::Full) || ready.is_ok() && self.unacknowledged() >= self.ideal {
            self.on_full();
            return Err(SendError::Full);
        }
        ready?;
        self.stats.messages_sent += 1;
        if self.datagrams.is_none() {
            self.push_message(data);
            return Ok(());
        }
        let data = self.pack(data);
        if let (true, Some(datagrams)) = (data.is_empty(), &mut self.datagrams) {
            datagrams.0.push(data);
            return Ok(());
        }
        self.push(data);
        Ok(())
    }

    /// The next bytes of a stream, in order.
    pub fn read(&mut self) -> Option<Bytes> {
        if self.packing.is_on() {
            return self.read_record();
        }
        let bytes = match self.sealing.read(self.receiver.as_mut()?) {
            Ok(bytes) => bytes?,
            Err(Forged) => {
                self.on_forged();
                return None;
            }
        };
        self.stats.delivered_bytes += bytes.len() as u64;
        Some(bytes)
    }

    fn read_record(&mut self) -> Option<Bytes> {
        self.assemble();
        let record = self.assembly.take()?;
        let bytes = self.unpack(record, packing::MAX_RECORD)?;
        self.stats.delivered_bytes += bytes.len() as u64;
        self.assemble();
        Some(bytes)
    }

    fn unpack(&mut self, packed: Bytes, most: usize) -> Option<Bytes> {
        match self.packing.unpack(packed, most) {
            Ok(bytes) => Some(bytes),
            Err(broken) => {
                self.on_broken(broken);
                None
            }
        }
    }

    /// The next message.
    pub fn recv(&mut self) -> Option<Bytes> {
        self.assemble();
        let message = match &mut self.datagrams {
            Some(datagrams) => datagrams.1.recv()?,
            None => self.assembly.take()?,
        };
        let message = self.unpack(message, self.config.max_message)?;
        self.stats.messages_delivered += 1;
        self.stats.delivered_bytes += message.len() as u64;
        self.assemble();
        Some(message)
    }

    pub(super) fn assemble(&mut self) {
        let bare = self.config.framing == Framing::Stream && !self.packing.is_on();
        if bare || self.assembly.has_message() {
            return;
        }
        let most = match self.config.framing {
            Framing::Stream => packing::MAX_RECORD,
            Framing::Messages => self.config.max_message,
        };
        let most = most.saturating_add(self.packing.overhead());
        let receiver: &mut dyn Source = match (&mut self.rateless, &mut self.receiver) {
            (Some(rateless), _) => &mut rateless.1,
            (None, Some(receiver)) => receiver,
            (None, None) => return,
        };
        if let Err(broken) = self.assembly.advance(receiver, &mut self.sealing, most) {
            self.on_broken(broken);
        }
    }

    fn on_broken(&mut self, broken: Broken) {
        match broken {
            Broken::Forged => self.on_forged(),
            Broken::TooLarge => {
                self.fail(code::TOO_LARGE, Closed::Violation("a message beyond max_message"));
            }
            Broken::Packed => {
                self.fail(
                    code::VIOLATION,
                    Closed::Violation("a message that is not packed as agreed"),
                );
            }
        }
    }

    /// Nothing more will be sent: the peer gets [`Event::ShutdownByPeer`] after everything before it.
    pub fn finish(&mut self) {
        if let Some(sender) = &mut self.sender
            && !sender.is_finishing()
        {
            sender.finish();
            (self.unsent, self.unconfirmed) = (true, true);
        }
        if let Some(rateless) = &mut self.rateless
            && !rateless.0.is_finishing()
        {
            rateless.0.finish();
            (self.unsent, self.unconfirmed) = (true, true);
        }
    }

    /// Finishes, and ends the flow when everything is acknowledged or `close_timeout` has passed.
    pub fn close(&mut self, now: Instant) {
        self.finish();
        if self.close_by.is_none() {
            self.close_by = Some(now + self.config.close_timeout);
        }
    }

    /// Ends the flow at once; the peer is told `code`, from 256 on the application's own, and `reason`.
    pub fn abort(&mut self, code: u64, reason: &str) {
        if !self.is_closed() {
            Frame::Close { code, reason: reason.into() }.encode(&mut self.control_out);
            self.end(Closed::Local);
        }
    }
}
