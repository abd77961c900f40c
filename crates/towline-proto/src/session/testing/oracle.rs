//! The oracle: delivered = accepted, in order within each lane, once; or given back.

use std::collections::VecDeque;

use bytes::Bytes;

use super::super::{LANES, Lane, Message, MessageId};
use super::End;

/// One direction of one lane.
#[derive(Debug, Default)]
struct Flow {
    /// Accepted and not delivered.
    pending: VecDeque<Message>,
    /// Delivered; the last ones may still come back.
    delivered: Vec<Message>,
    /// What was pending when its sender crashed or ended: it may still be on the wire.
    ghosts: Vec<VecDeque<Message>>,
}

/// What both applications know.
#[derive(Debug)]
pub struct Ledger {
    made: u64,
    /// Whether the peers are honest; otherwise nothing is checked.
    pub trusting: bool,
    flows: [[Flow; LANES]; 2],
    /// Messages accepted at each end and not moved into a session yet, in order.
    queued: [VecDeque<Lane>; 2],
    acknowledged: [(u64, u64); 2],
}

impl Default for Ledger {
    fn default() -> Self {
        Ledger {
            made: 0,
            trusting: true,
            flows: Default::default(),
            queued: Default::default(),
            acknowledged: Default::default(),
        }
    }
}

/// The content of message number `seed`.
pub fn payload(seed: u64, len: usize) -> Bytes {
    let mut octets = Vec::with_capacity(len.max(8));
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    octets.extend_from_slice(&seed.to_le_bytes());
    while octets.len() < len {
        state = state.rotate_left(23).wrapping_mul(0x2545_f491_4f6c_dd1d).wrapping_add(1);
        octets.extend_from_slice(&state.to_le_bytes());
    }
    octets.truncate(len.max(8));
    octets.into()
}

const fn of(end: End) -> usize {
    match end {
        End::Client => 0,
        End::Server => 1,
    }
}

impl Ledger {
    /// The number of the next message's content.
    pub fn next_number(&mut self) -> u64 {
        self.made += 1;
        self.made
    }

    pub(super) fn accepted(
        &mut self,
        end: End,
        lane: Lane,
        id: MessageId,
        reply_to: Option<MessageId>,
        data: Bytes,
    ) {
        self.flows[of(end)][lane.index()].pending.push_back(Message { id, reply_to, lane, data });
        self.queued[of(end)].push_back(lane);
    }

    pub(super) fn enqueued(&mut self, end: End, count: usize) {
        let queued = &mut self.queued[of(end)];
        queued.drain(..count.min(queued.len()));
    }

    /// `at` has received a message of the other end.
    pub(super) fn delivered(&mut self, at: End, message: &Message) {
        if !self.trusting {
            return;
        }
        let flow = &mut self.flows[1 - of(at)][message.lane.index()];
        if let Some(ghost) = flow.ghosts.iter_mut().find(|ghost| ghost.front() == Some(message)) {
            ghost.pop_front();
            return;
        }
        let expected = flow.pending.pop_front();
        assert_eq!(expected.as_ref(), Some(message), "delivered at {at:?}: not what comes next");
        flow.delivered.push(message.clone());
    }

    /// The end of a session: everything that was moved into it is delivered or comes back.
    pub(super) fn returned(&mut self, end: End, unacknowledged: &[Message]) {
        for lane in Lane::ALL {
            let queued = self.queued[of(end)].iter().filter(|queued| **queued == lane).count();
            let flow = &mut self.flows[of(end)][lane.index()];
            let back: Vec<&Message> =
                unacknowledged.iter().filter(|message| message.lane == lane).collect();
            let enqueued = flow.pending.len() - queued;
            assert!(
                back.len() >= enqueued,
                "{end:?} {lane:?}: {enqueued} not delivered, {} came back",
                back.len()
            );
            let (maybe, surely) = back.split_at(back.len() - enqueued);
            assert!(
                surely.iter().copied().eq(flow.pending.iter().take(enqueued)),
                "came back: not what was lost"
            );
            let known = flow.delivered.len();
            assert!(
                maybe.len() <= known
                    && maybe.iter().copied().eq(&flow.delivered[known - maybe.len()..])
            );
            // What came back may still be on the wire: it counts as delivered or not.
            flow.ghosts.push(flow.pending.drain(..enqueued).collect());
            // A new session begins: nothing of the old one may come back again.
            flow.delivered.clear();
        }
    }

    pub(super) fn withdrawn(&mut self, end: End, messages: &[Message]) {
        for message in messages {
            let flow = &mut self.flows[of(end)][message.lane.index()];
            let at = flow
                .pending
                .iter()
                .position(|pending| pending == message)
                .expect("withdrawn: was pending");
            flow.pending.remove(at);
        }
    }

    pub(super) fn acknowledged(&mut self, end: End, bytes: u64, messages: u64) {
        let sum = &mut self.acknowledged[of(end)];
        *sum = (sum.0 + bytes, sum.1 + messages);
        if !self.trusting {
            return;
        }
        let delivered = self.flows[of(end)].iter().map(|flow| flow.delivered.len()).sum::<usize>();
        assert!(delivered > 0, "{end:?}: {messages} acknowledged, none delivered");
    }

    /// Octets and messages reported as acknowledged, all told.
    pub fn sums(&self, end: End) -> (u64, u64) {
        self.acknowledged[of(end)]
    }

    /// The end has forgotten what it had accepted.
    pub(super) fn forget(&mut self, end: End) {
        for flow in &mut self.flows[of(end)] {
            flow.ghosts.push(std::mem::take(&mut flow.pending));
            flow.delivered.clear();
        }
        self.queued[of(end)].clear();
    }

    /// Messages accepted at this end that are not delivered.
    pub fn pending(&self, end: End) -> usize {
        self.flows[of(end)].iter().map(|flow| flow.pending.len()).sum()
    }

    /// Messages accepted at this end that wait outside the session.
    pub fn queued(&self, end: End) -> usize {
        self.queued[of(end)].len()
    }
}
