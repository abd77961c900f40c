//! Which connections have something to do, and when. Each is in each queue once at most.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet, VecDeque};
use std::time::Instant;

use crate::quic::connection::Conn;
use crate::quic::types::ConnectionId;

/// The queues of an endpoint, by connection slot.
#[derive(Default)]
pub(in crate::quic) struct Queues {
    dirty: VecDeque<usize>,
    transmit: VecDeque<usize>,
    ready: VecDeque<usize>,
    /// Deadlines. An entry may be out of date: `Conn::armed` says which one counts.
    timers: BinaryHeap<Reverse<(Instant, usize)>>,
    abandoned: HashSet<ConnectionId>,
    /// Connections whose handshake waits, or may come to wait, for the application's verdict.
    pub(super) holding: usize,
}

fn index(conn: &Conn) -> usize {
    conn.id.index as usize
}

impl Queues {
    /// Something happened to a connection: it is worked on with the next poll.
    pub(in crate::quic) fn touch(&mut self, conn: &mut Conn) {
        if !conn.is_dirty {
            conn.is_dirty = true;
            self.dirty.push_back(index(conn));
        }
    }

    pub(in crate::quic) fn abandon(&mut self, conn: &mut Conn) {
        self.abandoned.insert(conn.id);
    }

    pub(super) fn take_abandoned(&mut self, id: ConnectionId) -> bool {
        !self.abandoned.is_empty() && self.abandoned.remove(&id)
    }

    pub(super) fn has_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Whether something waits for the next poll.
    pub(super) fn has_work(&self) -> bool {
        !self.dirty.is_empty() || !self.ready.is_empty() || !self.transmit.is_empty()
    }

    pub(super) fn pop_dirty(&mut self) -> Option<usize> {
        self.dirty.pop_front()
    }

    pub(super) fn want_transmit(&mut self, conn: &mut Conn) {
        if !conn.is_transmitting {
            conn.is_transmitting = true;
            self.transmit.push_back(index(conn));
        }
    }

    pub(super) fn front_transmit(&self) -> Option<usize> {
        self.transmit.front().copied()
    }

    pub(super) fn pop_transmit(&mut self) {
        self.transmit.pop_front();
    }

    pub(super) fn rotate_transmit(&mut self) {
        self.transmit.rotate_left(usize::from(self.transmit.len() > 1));
    }

    pub(super) fn want_events(&mut self, conn: &mut Conn) {
        if !conn.is_ready {
            conn.is_ready = true;
            self.ready.push_back(index(conn));
        }
    }

    pub(super) fn pop_ready(&mut self) -> Option<usize> {
        self.ready.pop_front()
    }

    /// Counts connections that need copies of their handshake's datagrams.
    pub(super) fn hold(&mut self, conn: &mut Conn) {
        let holds = conn.is_holding();
        if holds != conn.counted_holding {
            conn.counted_holding = holds;
            self.holding = if holds { self.holding + 1 } else { self.holding.saturating_sub(1) };
        }
    }

    /// Makes sure that the connection's next deadline is not missed. A later one leaves the earlier entry where it is: it then fires in vain, once.
    pub(super) fn arm(&mut self, conn: &mut Conn) {
        let Some(at) = conn.poll_timeout() else { return };
        if conn.armed.is_none_or(|armed| at < armed) {
            conn.armed = Some(at);
            self.timers.push(Reverse((at, index(conn))));
        }
    }

    pub(super) fn disarm(&mut self, conn: &mut Conn) {
        conn.armed = None;
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        self.timers.peek().map(|Reverse((at, _))| *at)
    }

    pub(super) fn pop_due(&mut self, now: Instant) -> Option<usize> {
        if self.next_due()? > now {
            return None;
        }
        self.timers.pop().map(|Reverse((_, index))| index)
    }

    /// The connection's slot is free again.
    pub(super) fn forget(&mut self, conn: &mut Conn) {
        if conn.counted_holding {
            self.holding = self.holding.saturating_sub(1);
        }
        if conn.is_transmitting {
            let at = index(conn);
            self.transmit.retain(|&index| index != at);
        }
    }
}
