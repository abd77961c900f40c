//! Datagrams of one connection (RFC 9221): a queue of our own before the engine's, so that priority and expiry hold until a datagram is really sent.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use bytes::Bytes;

use super::Conn;
use crate::quic::error::DatagramError;
use crate::quic::event::{DatagramState, Event};
use crate::quic::types::{DatagramId, Side};

/// How to send a datagram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DatagramOptions {
    /// Greater ones go first (DGRAM_PRIORITY, 8, is any but 0).
    pub priority: u8,
    /// Not to be sent later than this.
    pub expires: Option<Instant>,
    /// Allow it to go as 0-RTT data, which an attacker can replay.
    pub allow_early: bool,
}

#[derive(Debug)]
struct Queued {
    id: DatagramId,
    data: Bytes,
    expires: Option<Instant>,
    early: bool,
}

#[derive(Debug, Default)]
pub(super) struct Datagrams {
    /// By priority, each in order.
    queue: BTreeMap<u8, VecDeque<Queued>>,
    bytes: usize,
    next_id: u64,
    /// A datagram was refused; `DatagramsUnblocked` is owed.
    blocked: bool,
    /// Some may wait in the engine to be read.
    pub(super) arrived: bool,
    told: Option<usize>,
    expired: u64,
    /// What the engine's own queue counts beside each datagram's bytes; see `engine_used`.
    capacity: Option<usize>,
}

impl Datagrams {
    fn pop(&mut self, may_send: impl Fn(&Queued) -> bool) -> Option<Queued> {
        let (&priority, queue) = self.queue.iter_mut().next_back()?;
        if !may_send(queue.front()?) {
            return None;
        }
        let queued = queue.pop_front();
        if queue.is_empty() {
            self.queue.remove(&priority);
        }
        if let Some(queued) = &queued {
            self.bytes = self.bytes.saturating_sub(queued.data.len());
        }
        queued
    }

    pub(super) fn on_end(&mut self, events: &mut VecDeque<Event>) {
        for queued in std::mem::take(&mut self.queue).into_values().rev().flatten() {
            events.push_back(Event::DatagramSendState {
                id: queued.id,
                state: DatagramState::Canceled,
            });
        }
        self.bytes = 0;
    }

    pub(super) fn expired(&self) -> u64 {
        self.expired
    }
}

impl Conn {
    /// The longest datagram now; `None` when the peer takes none.
    ///
    /// A byte less than the engine's limit: when it finds that the path has become smaller, it drops what waits and is as long as the limit or longer. What is left to
    /// be sent must then be of another length than what was dropped, for states are matched by it.
    pub(super) fn max_datagram(&mut self) -> Option<usize> {
        self.inner.datagrams().max_size().map(|max| max.saturating_sub(1)).filter(|&max| max > 0)
    }

    /// Bytes of datagrams that wait to be sent, here and in the engine.
    pub(super) fn datagrams_queued(&mut self) -> usize {
        let space = self.inner.datagrams().send_buffer_space();
        let capacity = *self.datagrams.capacity.get_or_insert(space);
        self.datagrams.bytes.saturating_add(capacity.saturating_sub(space))
    }

    pub(super) fn check_datagrams(&mut self) {
        let max = self.max_datagram().unwrap_or(0);
        if self.datagrams.told != Some(max) {
            self.datagrams.told = Some(max);
            self.events
                .push_back(Event::DatagramStateChanged { send_enabled: max > 0, max_length: max });
        }
    }

    pub(super) fn send_datagram(
        &mut self,
        data: Bytes,
        options: DatagramOptions,
    ) -> Result<DatagramId, DatagramError> {
        if self.check_open().is_err() {
            return Err(DatagramError::ConnectionClosed);
        }
        let limit = self.max_datagram().ok_or(DatagramError::Unsupported)?;
        if data.len() > limit {
            return Err(DatagramError::TooLarge { size: data.len(), limit });
        }
        let capacity = self.options().datagram_send_queue;
        let datagrams = &mut self.datagrams;
        if datagrams.bytes > 0 && datagrams.bytes.saturating_add(data.len()) > capacity {
            datagrams.blocked = true;
            return Err(DatagramError::QueueFull);
        }
        let id = DatagramId(datagrams.next_id);
        datagrams.next_id += 1;
        datagrams.bytes = datagrams.bytes.saturating_add(data.len());
        let queued = Queued { id, data, expires: options.expires, early: options.allow_early };
        datagrams.queue.entry(options.priority).or_default().push_back(queued);
        Ok(id)
    }

    /// Whether everything that the engine was given has been sent.
    fn engine_is_empty(&mut self) -> bool {
        let space = self.inner.datagrams().send_buffer_space();
        space >= *self.datagrams.capacity.get_or_insert(space)
    }

    /// Gives the engine the next train's worth, once it has sent the one before.
    pub(super) fn feed_datagrams(&mut self, now: Instant) {
        if self.datagrams.queue.is_empty() || !self.engine_is_empty() {
            return;
        }
        let may_early = self.life.connected || self.side == Side::Server;
        let mut room = usize::from(self.inner.current_mtu()) * FEED;
        while let Some(queued) = self.datagrams.pop(|queued| may_early || queued.early) {
            let Queued { id, data, expires, .. } = queued;
            if expires.is_some_and(|at| at < now) {
                self.datagrams.expired += 1;
                self.note_datagram(id, DatagramState::Expired);
                continue;
            }
            let len = data.len();
            // Refused only when the path has become too small for it meanwhile.
            if self.inner.datagrams().send(data, false).is_err() {
                self.datagrams.expired += 1;
                self.note_datagram(id, DatagramState::Expired);
                continue;
            }
            if self.observed.tracks_datagrams() {
                self.observed.queue_datagram(id, len);
            }
            room = room.saturating_sub(len.max(1));
            if room == 0 {
                break;
            }
        }
        if self.datagrams.blocked && self.datagrams.bytes <= self.options().datagram_send_queue / 2
        {
            self.datagrams.blocked = false;
            self.events.push_back(Event::DatagramsUnblocked);
        }
    }

    fn note_datagram(&mut self, id: DatagramId, state: DatagramState) {
        if self.observed.tracks_datagrams() {
            self.events.push_back(Event::DatagramSendState { id, state });
        }
    }

    pub(super) fn next_datagram(&mut self) -> Option<Event> {
        if !self.datagrams.arrived {
            return None;
        }
        match self.inner.datagrams().recv() {
            Some(data) => {
                let early = self.side == Side::Server && self.observed.take_early_datagram();
                Some(Event::Datagram { data, early })
            }
            None => {
                self.datagrams.arrived = false;
                None
            }
        }
    }
}

/// Packets' worth of datagrams that the engine is given at a time: they can no longer expire or be overtaken.
const FEED: usize = 64;
