//! Requests: messages whose replies are awaited, many at a time.

use std::collections::{HashMap, VecDeque};
use std::task::Waker;
use std::time::Instant;

use crate::error::RequestError;
use crate::message::{Message, MessageId};

/// One request that waits.
#[derive(Default)]
struct Pending {
    deadline: Option<Instant>,
    outcome: Option<Result<Message, RequestError>>,
    waker: Option<Waker>,
}

/// The requests of one connection. Most connections have none, so nothing but this is there before the first.
#[derive(Default)]
pub(crate) struct Requests {
    table: Option<Box<Table>>,
    ended: Option<Box<RequestError>>,
}

/// Requests by the ids of their messages.
#[derive(Default)]
struct Table {
    pending: HashMap<MessageId, Pending>,
    /// Requests that are over, of which a reply may still come, and whether one has. Bounded: the oldest go.
    over: HashMap<MessageId, bool>,
    over_order: VecDeque<MessageId>,
    /// When `expire` has something to do next, at the earliest.
    next: Option<Instant>,
    late: u64,
    duplicate: u64,
}

/// How many requests are remembered when they are over, to tell a late reply from a message.
const REMEMBERED: usize = 1024;

/// What became of a message with a reply-to.
pub(crate) enum Claim {
    /// A request waited for it.
    Taken(Option<Waker>),
    /// A request had waited for it, and not any more: counted as late or duplicate, and dropped.
    Dropped,
    /// Nobody asked for it here: it is a message like any other.
    Unclaimed,
}

impl Requests {
    /// Waits for the reply to `id`. Called under the same lock as the sending, so that no reply is faster.
    pub(crate) fn insert(&mut self, id: MessageId, deadline: Option<Instant>) -> bool {
        let outcome = self.ended.as_deref().cloned().map(Err);
        self.table.get_or_insert_default().insert(id, deadline, outcome)
    }

    /// Whether a request with this deadline is the next to expire: then somebody has to look at it in time.
    pub(crate) fn is_next(&mut self, deadline: Option<Instant>) -> bool {
        self.table.as_mut().is_some_and(|table| table.is_next(deadline))
    }

    pub(crate) fn contains(&self, id: MessageId) -> bool {
        self.table.as_ref().is_some_and(|table| table.pending.contains_key(&id))
    }

    /// A message with this reply-to has come.
    pub(crate) fn claim(&mut self, reply_to: MessageId, message: &Message) -> Claim {
        self.table.as_mut().map_or(Claim::Unclaimed, |table| table.claim(reply_to, message))
    }

    /// The request's outcome, if there is one; else `waker` is called when there is.
    pub(crate) fn poll(
        &mut self,
        id: MessageId,
        waker: &Waker,
    ) -> Option<Result<Message, RequestError>> {
        self.table.as_mut()?.poll(id, waker)
    }

    /// Forgets a request that timed out or whose future was dropped. A reply that comes later is counted and dropped.
    pub(crate) fn remove(&mut self, id: MessageId) {
        if let Some(table) = &mut self.table {
            table.retire(id, false);
        }
    }

    /// Wakes those whose deadline has passed, and tells the next one.
    pub(crate) fn expire(&mut self, now: Instant, wake: &mut Vec<Waker>) -> Option<Instant> {
        self.table.as_mut()?.expire(now, wake)
    }

    /// Ends all that wait, and when `forever` all that will.
    pub(crate) fn fail(&mut self, error: &RequestError, forever: bool) -> Vec<Waker> {
        if forever {
            self.ended = Some(Box::new(error.clone()));
        }
        self.table.as_mut().map_or_else(Vec::new, |table| table.fail(error))
    }

    /// Gives spare memory back.
    pub(crate) fn shrink(&mut self) {
        if let Some(table) = &mut self.table {
            table.shrink();
        }
    }

    /// Replies that came after their request was over, and replies to what was answered already.
    pub(crate) fn counts(&self) -> (u64, u64) {
        self.table.as_ref().map_or((0, 0), |table| (table.late, table.duplicate))
    }
}

impl Table {
    fn insert(
        &mut self,
        id: MessageId,
        deadline: Option<Instant>,
        outcome: Option<Result<Message, RequestError>>,
    ) -> bool {
        if self.pending.contains_key(&id) {
            return false;
        }
        self.pending.insert(id, Pending { deadline, outcome, waker: None });
        true
    }

    fn is_next(&mut self, deadline: Option<Instant>) -> bool {
        let sooner = deadline.is_some_and(|at| self.next.is_none_or(|next| at < next));
        if sooner {
            self.next = deadline;
        }
        sooner
    }

    fn claim(&mut self, reply_to: MessageId, message: &Message) -> Claim {
        if let Some(pending) = self.pending.get_mut(&reply_to) {
            if pending.outcome.is_some() {
                self.duplicate += 1;
                return Claim::Dropped;
            }
            pending.outcome = Some(Ok(message.clone()));
            return Claim::Taken(pending.waker.take());
        }
        match self.over.get(&reply_to) {
            Some(true) => self.duplicate += 1,
            Some(false) => self.late += 1,
            None => return Claim::Unclaimed,
        }
        Claim::Dropped
    }

    fn poll(&mut self, id: MessageId, waker: &Waker) -> Option<Result<Message, RequestError>> {
        let pending = self.pending.get_mut(&id)?;
        if pending.outcome.is_none() {
            pending.waker = Some(waker.clone());
            return None;
        }
        let outcome = pending.outcome.take();
        self.retire(id, matches!(outcome, Some(Ok(_))));
        outcome
    }

    fn retire(&mut self, id: MessageId, answered: bool) {
        let Some(pending) = self.pending.remove(&id) else { return };
        // A reply that nobody fetched came too late as well.
        let unread = matches!(pending.outcome, Some(Ok(_)));
        self.late += u64::from(unread);
        let answered = answered || unread;
        if self.over_order.len() == REMEMBERED
            && let Some(oldest) = self.over_order.pop_front()
        {
            self.over.remove(&oldest);
        }
        self.over.insert(id, answered);
        self.over_order.push_back(id);
    }

    fn expire(&mut self, now: Instant, wake: &mut Vec<Waker>) -> Option<Instant> {
        let mut next = None;
        for pending in self.pending.values_mut() {
            match pending.deadline {
                Some(deadline) if deadline <= now => wake.extend(pending.waker.take()),
                Some(deadline) => {
                    next = Some(next.map_or(deadline, |at: Instant| at.min(deadline)))
                }
                None => {}
            }
        }
        self.next = next;
        next
    }

    fn fail(&mut self, error: &RequestError) -> Vec<Waker> {
        let mut wake = Vec::new();
        for pending in self.pending.values_mut() {
            pending.outcome.get_or_insert_with(|| Err(error.clone()));
            wake.extend(pending.waker.take());
        }
        wake
    }

    fn shrink(&mut self) {
        if self.pending.is_empty() {
            self.pending = HashMap::new();
        }
        self.over.shrink_to_fit();
        self.over_order.shrink_to_fit();
    }
}
