//! Events for programs that pull instead of handling.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use crate::connection::{Phase, Shared};
use crate::handler::Event;
use crate::waiter::{WaitKey, WakerSet, block_on};

/// How many events wait unread before the oldest are dropped.
const CAPACITY: usize = 256;

#[derive(Default)]
struct State {
    events: VecDeque<Event>,
    dropped: u64,
    ended: bool,
    wakers: WakerSet,
}

/// One subscriber's queue.
#[derive(Default)]
pub(crate) struct EventQueue(Mutex<State>);

impl EventQueue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn push(&self, event: Event) {
        let wakers = {
            let mut state = self.state();
            if state.events.len() == CAPACITY {
                state.events.pop_front();
                state.dropped += 1;
            }
            state.ended |= matches!(event, Event::Closed(_));
            state.events.push_back(event);
            state.wakers.take()
        };
        wakers.wake();
    }
}

/// The events of a connection from a moment on, without [`Event::Message`]; see [`Connection::events`](crate::Connection::events).
///
/// At most 256 events wait; beyond, the oldest are dropped and counted. Dropping it ends the subscription.
pub struct Events {
    shared: Arc<Shared>,
    queue: Arc<EventQueue>,
}

impl Events {
    pub(crate) fn open(shared: Arc<Shared>) -> Events {
        let queue = Arc::new(EventQueue::default());
        {
            let mut link = shared.link();
            match link.phase {
                Phase::Ended(_) => queue.state().ended = true,
                _ => link.events.push(Arc::clone(&queue)),
            }
        }
        Events { shared, queue }
    }

    /// The next event; `None` after [`Event::Closed`].
    #[expect(
        clippy::should_implement_trait,
        reason = "it is a future, of which the name says what comes"
    )]
    pub fn next(&mut self) -> NextEvent<'_> {
        NextEvent { events: self, key: None }
    }

    /// The blocking twin of [`Events::next`].
    pub fn next_blocking(&mut self) -> Option<Event> {
        block_on(self.next())
    }

    /// The next event if there is one now.
    pub fn try_next(&mut self) -> Option<Event> {
        self.queue.state().events.pop_front()
    }

    /// How many events were dropped because nobody read them.
    pub fn dropped(&self) -> u64 {
        self.queue.state().dropped
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.shared.link().events.retain(|queue| !Arc::ptr_eq(queue, &self.queue));
    }
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Events")
    }
}

/// The future of [`Events::next`].
#[must_use = "futures do nothing unless polled"]
pub struct NextEvent<'a> {
    events: &'a mut Events,
    key: WaitKey,
}

impl Future for NextEvent<'_> {
    type Output = Option<Event>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        let this = self.get_mut();
        let mut state = this.events.queue.state();
        match state.events.pop_front() {
            Some(event) => Poll::Ready(Some(event)),
            None if state.ended => Poll::Ready(None),
            None => {
                state.wakers.register(&mut this.key, cx.waker());
                Poll::Pending
            }
        }
    }
}

impl Drop for NextEvent<'_> {
    fn drop(&mut self) {
        self.events.queue.state().wakers.forget(self.key);
    }
}
