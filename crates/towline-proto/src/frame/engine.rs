//! One connection.
use super::{Config, Error, Message, Outgoing};
use bytes::Bytes;
use std::{sync::Arc, time::Instant};

/// What happened on a connection, in order.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// A message arrived.
    Message(Message),
    /// The transport (or a reply, by policy) has confirmed messages, which were dropped from the log.
    Acknowledged {
        /// Messages.
        messages: u64,
        /// Encoded bytes.
        bytes: u64,
    },
    /// The peer broke the format: close the wire. Input is ignored from here on.
    WireFailed(Error),
}

/// Counters since the connection was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Messages received.
    pub messages_received: u64,
}

/// The state of one ftcp connection.
#[derive(Debug)]
pub struct Engine;
impl Engine {
    /// A connection without a wire yet.
    pub fn new(config: Arc<Config>) -> Self {
        let _ = config;
        unimplemented!()
    }
    /// A wire is up.
    pub fn handle_open(&mut self, now: Instant) {
        let _ = now;
        unimplemented!()
    }
    /// Takes everything out of `outgoing` and tells it how much the engine holds. Call it (with an empty one too) after transmitting, under the lock.
    pub fn enqueue(&mut self, now: Instant, outgoing: &mut Outgoing) {
        let _ = (now, outgoing);
        unimplemented!()
    }
    /// Bytes from the wire, in any chunking.
    pub fn handle_input(&mut self, now: Instant, data: Bytes) {
        let _ = (now, data);
        unimplemented!()
    }
    /// The transport has acknowledged `total` bytes of this wire's output.
    pub fn handle_transport_acked(&mut self, now: Instant, total: u64) {
        let _ = (now, total);
        unimplemented!()
    }
    /// The wire died.
    pub fn handle_lost(&mut self, now: Instant) {
        let _ = now;
        unimplemented!()
    }
    /// Never needed: ftcp has no timers. `None` always.
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }
    /// Up to `max_bytes` of output, appended to `out`; how many were.
    pub fn poll_transmit(&mut self, now: Instant, max_bytes: usize, out: &mut Vec<Bytes>) -> usize {
        let _ = (now, max_bytes, out);
        unimplemented!()
    }
    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        unimplemented!()
    }
    /// Bytes waiting to be transmitted.
    pub fn untransmitted(&self) -> usize {
        unimplemented!()
    }
    /// (bytes, messages) not known to have arrived.
    pub fn unacknowledged(&self) -> (usize, usize) {
        unimplemented!()
    }
    /// Gives back every message not known to have arrived and forgets them.
    pub fn abort(&mut self) -> Vec<Message> {
        unimplemented!()
    }
    /// Counters.
    pub fn stats(&self) -> Stats {
        unimplemented!()
    }
}
