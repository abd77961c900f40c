//! What the nodes have in common: the QUIC endpoint below, whose connections are whose, and the doors.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::BytesMut;

use super::leg::Leg;
use super::table::{Key, Table};
use crate::quic::{self, ConnectionId, Ecn, EndpointEvent, Transmit};

/// The flows of a node over its QUIC endpoint, and what it has to tell.
pub(super) struct Below<F, E> {
    pub(super) quic: quic::Endpoint,
    pub(super) flows: Table<F>,
    /// The flow of each connection, by the connection's slot.
    owners: Vec<Option<(ConnectionId, Key)>>,
    pub(super) events: VecDeque<E>,
    pub(super) now: Instant,
}

impl<F, E> Below<F, E> {
    pub(super) fn new(quic: quic::Endpoint, now: Instant) -> Self {
        let (owners, events) = (Vec::new(), VecDeque::new());
        Below { quic, flows: Table::default(), owners, events, now }
    }

    /// The flow of a connection.
    pub(super) fn owner(&self, id: ConnectionId) -> Option<Key> {
        let owner = self.owners.get(id.as_u64() as u32 as usize).copied().flatten();
        owner.filter(|(owned, _)| *owned == id).map(|(_, key)| key)
    }

    pub(super) fn own(&mut self, id: ConnectionId, key: Key) {
        let slot = id.as_u64() as u32 as usize;
        if self.owners.len() <= slot {
            self.owners.resize(slot + 1, None);
        }
        if let Some(owner) = self.owners.get_mut(slot) {
            *owner = Some((id, key));
        }
    }

    pub(super) fn disown(&mut self, id: ConnectionId) {
        let slot = id.as_u64() as u32 as usize;
        if self.owner(id).is_some()
            && let Some(owner) = self.owners.get_mut(slot)
        {
            *owner = None;
        }
    }

    /// Lets go of a connection without a word. What it still tells is passed over, as its flow has another.
    pub(super) fn abandon(&mut self, leg: &Leg) {
        if let Some(mut connection) = self.quic.connection(leg.id) {
            connection.abandon();
        }
    }

    pub(super) fn handle_datagram(
        &mut self,
        now: Instant,
        path: quic::Path,
        ecn: Option<Ecn>,
        data: BytesMut,
    ) {
        self.now = now;
        self.quic.handle_datagram(now, path, ecn, data);
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.now = now;
        self.quic.handle_timeout(now);
        self.flows.touch_due(now);
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        if self.flows.has_dirty() || !self.events.is_empty() {
            return Some(self.now);
        }
        [self.quic.poll_timeout(), self.flows.next_due()].into_iter().flatten().min()
    }
}

/// A node: what it does with the events of connections and with flows that were touched.
pub(super) trait Node {
    /// What it keeps of each flow.
    type Flow;
    /// What it tells.
    type Event;

    fn below(&mut self) -> &mut Below<Self::Flow, Self::Event>;

    /// Whether packets have left on a hop of this flow, so that there is room again.
    fn has_sent(flow: &Self::Flow, quic: &mut quic::Endpoint) -> bool;

    /// A connection that belongs to no flow shows for the first time.
    fn accept(&mut self, now: Instant, id: ConnectionId) -> Option<Key>;

    /// Something on a connection of this flow.
    fn on_event(&mut self, now: Instant, key: Key, id: ConnectionId, event: quic::Event);

    /// Drives one flow.
    fn work(&mut self, now: Instant, key: Key);

    /// Works on every flow that was touched; whether there was any.
    fn settle(&mut self, now: Instant) -> bool {
        let below = self.below();
        below.now = now;
        below.flows.touch_due(now);
        while let Some(event) = self.below().quic.poll_event(now) {
            let EndpointEvent::Connection(id, event) = event else { continue };
            let owner = self.below().owner(id);
            if let Some(key) = owner.or_else(|| self.accept(now, id)) {
                self.on_event(now, key, id, event);
                self.below().flows.touch(key);
            }
        }
        let Below { quic, flows, .. } = self.below();
        flows.touch_busy(|flow| Self::has_sent(flow, quic));
        let mut worked = false;
        while let Some(key) = self.below().flows.pop_dirty() {
            worked = true;
            self.work(now, key);
        }
        worked
    }

    fn next_event(&mut self, now: Instant) -> Option<Self::Event> {
        if self.below().events.is_empty() {
            self.settle(now);
        }
        self.below().events.pop_front()
    }

    fn next_transmit(&mut self, now: Instant, buf: &mut Vec<u8>) -> Option<Transmit> {
        loop {
            if let Some(transmit) = self.below().quic.poll_transmit(now, buf) {
                return Some(transmit);
            }
            if !self.settle(now) {
                return None;
            }
        }
    }
}
