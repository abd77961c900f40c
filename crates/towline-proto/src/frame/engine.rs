//! One connection, over all the wires that it lives on.

use super::decoder::Decoder;
use super::log::{Amount, Log};
use super::{Config, Error, Message, MessageId, Outgoing, Resend};
use bytes::Bytes;
use std::collections::{BTreeSet, VecDeque};
use std::{sync::Arc, time::Instant};

/// Capacity that an emptied event queue keeps.
const QUIET_EVENTS: usize = 32;

/// What happened on a connection, in order.
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A message arrived.
    Message(Message),
    /// Messages were confirmed and forgotten: by the transport under [`Resend::Unacked`], by a reply under [`Resend::UntilReply`].
    /// Under [`Resend::Never`], given to the transport.
    Acknowledged {
        /// How many messages.
        messages: usize,
        /// Their encoded bytes.
        bytes: usize,
    },
    /// The peer broke the format: abort this wire. Its further input is ignored.
    WireFailed(Error),
}

/// Counters since the connection was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Wires that were opened.
    pub wires: u64,
    /// Messages received.
    pub messages_received: u64,
    /// Bytes received, headers included.
    pub bytes_received: u64,
    /// Bytes given to the transport, headers and repetitions included.
    pub bytes_transmitted: u64,
    /// Messages confirmed in the sense of [`Event::Acknowledged`].
    pub messages_acknowledged: u64,
    /// Messages of which a part or all went out on a lost wire and which go out again.
    pub messages_resent: u64,
    /// Bytes that went out on a lost wire and go out again, headers included.
    pub bytes_resent: u64,
    /// Messages lost in the middle with their wire, under [`Resend::Never`].
    pub messages_cut: u64,
    /// Bytes received of frames that a lost wire left unfinished.
    pub bytes_cut: u64,
    /// Wires failed by the peer's bytes.
    pub wires_failed: u64,
    /// Bytes ignored behind such a failure.
    pub bytes_ignored: u64,
}

/// Whether there is a wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wire {
    Down,
    /// Up; the offset in the log where it began.
    Up(u64),
    Failed(u64),
}

/// The state of one ftcp connection. It reads no clock, opens nothing and never waits.
///
/// The layer above calls [`handle_open`](Self::handle_open) for each wire, moves bytes between it and the wire, reports what the
/// transport has acknowledged, and after each call drains [`poll_transmit`](Self::poll_transmit) and [`poll_event`](Self::poll_event).
#[derive(Debug)]
pub struct Engine {
    config: Arc<Config>,
    wire: Wire,
    log: Log,
    /// Under [`Resend::UntilReply`]: (id, offset behind its frame) of every frame in the log.
    awaiting: BTreeSet<(MessageId, u64)>,
    decoder: Decoder,
    events: VecDeque<Event>,
    stats: Stats,
}

impl Engine {
    /// A connection without a wire yet.
    pub fn new(config: Arc<Config>) -> Self {
        let decoder = Decoder::new(config.max_payload);
        Self {
            config,
            wire: Wire::Down,
            log: Log::default(),
            awaiting: BTreeSet::new(),
            decoder,
            events: VecDeque::new(),
            stats: Stats::default(),
        }
    }

    /// A wire is up: everything kept goes out on it, the oldest first. A wire still up counts as lost.
    pub fn handle_open(&mut self, now: Instant) {
        self.handle_lost(now);
        self.stats.wires += 1;
        self.wire = Wire::Up(self.log.cursor());
    }

    /// Takes everything out of `outgoing`, and tells it how much of the queue is held here, which is what it counts as full.
    ///
    /// Call it under the lock of `outgoing` whenever that was filled, and after transmitting or an [`Event::Acknowledged`] when it is full.
    pub fn enqueue(&mut self, now: Instant, outgoing: &mut Outgoing) {
        let _ = now;
        let (segments, end) = (self.log.segments(), self.log.end());
        outgoing.drain_into(&mut self.log);
        if self.config.resend == Resend::UntilReply {
            self.awaiting.extend(
                self.log.frames_from(segments, end).map(|frame| (frame.message.id, frame.end)),
            );
        }
        outgoing.set_held(&self.log, self.config.resend);
    }

    /// Bytes from the wire, in any chunking. Without a wire, or behind a failure, they are counted and ignored.
    pub fn handle_input(&mut self, now: Instant, mut data: Bytes) {
        let _ = now;
        let Wire::Up(start) = self.wire else {
            self.stats.bytes_ignored += data.len() as u64;
            return;
        };
        self.stats.bytes_received += data.len() as u64;
        loop {
            match self.decoder.decode(&mut data) {
                Ok(Some(message)) => {
                    self.stats.messages_received += 1;
                    if self.config.resend == Resend::UntilReply
                        && let Some(id) = message.reply_to
                    {
                        self.on_reply(id);
                    }
                    self.events.push_back(Event::Message(message));
                }
                Ok(None) => break,
                Err(error) => {
                    self.wire = Wire::Failed(start);
                    self.stats.wires_failed += 1;
                    self.stats.bytes_ignored += data.len() as u64;
                    self.events.push_back(Event::WireFailed(error));
                    break;
                }
            }
        }
    }

    /// The transport has acknowledged `total` bytes of what was transmitted on the present wire, counted from the wire's first.
    ///
    /// Over plain TCP on Linux that is `tcpi_bytes_acked` less one for the SYN, or what was written less `SIOCOUTQ`, both readable also
    /// after a reset; over TLS it goes through `tls::Stream::plaintext_acked`. Report it once more
    /// before [`handle_lost`](Self::handle_lost). A number that is too large counts as everything transmitted, a smaller one than before changes nothing.
    pub fn handle_transport_acked(&mut self, now: Instant, total: u64) {
        let _ = now;
        if let Wire::Up(start) | Wire::Failed(start) = self.wire
            && self.config.resend == Resend::Unacked
        {
            let released = self.log.release(start.saturating_add(total));
            self.on_released(released);
        }
    }

    /// The wire died: what it carried goes out again on the next, by [`Config::resend`]. The begun frame of the peer's is dropped.
    pub fn handle_lost(&mut self, now: Instant) {
        let _ = now;
        if self.wire == Wire::Down {
            return;
        }
        self.wire = Wire::Down;
        if self.config.resend == Resend::Never {
            let cut = self.log.forget_begun();
            self.stats.messages_cut += cut.messages as u64;
        }
        let again = self.log.rewind();
        self.stats.messages_resent += again.messages as u64;
        self.stats.bytes_resent += again.bytes as u64;
        self.stats.bytes_cut += self.decoder.pending() as u64;
        self.decoder = Decoder::new(self.config.max_payload);
    }

    /// Always `None`: ftcp has no timers. Here so that every engine has the same doors.
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// Nothing to do, as there are no timers.
    pub fn handle_timeout(&mut self, now: Instant) {
        let _ = now;
    }

    /// Appends up to `max_bytes` of output for the present wire to `out`; how many bytes. 0 means there is none, or no wire.
    pub fn poll_transmit(&mut self, now: Instant, max_bytes: usize, out: &mut Vec<Bytes>) -> usize {
        let _ = now;
        let Wire::Up(_) = self.wire else { return 0 };
        let sent = self.log.transmit(max_bytes, out);
        self.stats.bytes_transmitted += sent as u64;
        if self.config.resend == Resend::Never && sent > 0 {
            let released = self.log.release(self.log.cursor());
            self.on_released(released);
        }
        sent
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        let event = self.events.pop_front();
        if self.events.is_empty() && self.events.capacity() > QUIET_EVENTS {
            self.events = VecDeque::new();
        }
        event
    }

    /// Bytes waiting to be transmitted on this wire or the next.
    pub fn untransmitted(&self) -> usize {
        self.log.unsent().bytes
    }

    /// (bytes, messages) kept because they are not confirmed, transmitted or not. What is still in [`Outgoing`] is not counted.
    ///
    /// Both 0 means flushed, as far as the policy knows.
    pub fn unacknowledged(&self) -> (usize, usize) {
        let Amount { messages, bytes } = self.log.held();
        (bytes, messages)
    }

    /// Gives back every message not confirmed, the oldest first, and forgets them: the application gave up.
    pub fn abort(&mut self) -> Vec<Message> {
        let messages = self.log.frames().map(|frame| frame.message).collect();
        self.log.clear();
        self.awaiting.clear();
        self.wire = Wire::Down;
        messages
    }

    /// Counters.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// A reply shows that the peer's program has read the message, and so every one before it.
    fn on_reply(&mut self, id: MessageId) {
        let first = self.awaiting.range((id, 0)..=(id, u64::MAX)).next();
        let Some(&(_, end)) = first.filter(|(_, end)| *end <= self.log.cursor()) else { return };
        let read = self
            .log
            .frames()
            .map(|frame| (frame.message.id, frame.end))
            .take_while(|frame| frame.1 <= end);
        for frame in read {
            self.awaiting.remove(&frame);
        }
        let released = self.log.release(end);
        self.on_released(released);
    }

    fn on_released(&mut self, Amount { messages, bytes }: Amount) {
        if messages == 0 {
            return;
        }
        self.stats.messages_acknowledged += messages as u64;
        match self.events.back_mut() {
            Some(Event::Acknowledged { messages: before, bytes: before_bytes }) => {
                *before += messages;
                *before_bytes += bytes;
            }
            _ => self.events.push_back(Event::Acknowledged { messages, bytes }),
        }
    }
}
