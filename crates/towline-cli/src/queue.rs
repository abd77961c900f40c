//! A bounded queue from a thread that blocks to a task that waits: lines from standard input.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

struct State<T> {
    items: VecDeque<T>,
    closed: bool,
    waker: Option<Waker>,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    room: Condvar,
    capacity: usize,
}

impl<T> Shared<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        let waker = {
            let mut state = self.state();
            state.closed = true;
            state.waker.take()
        };
        self.room.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// The end that a blocking thread fills. Dropping it ends the queue after what it holds.
pub(crate) struct Producer<T>(Arc<Shared<T>>);

/// The end that one task empties. Dropping it has the producer stop.
pub(crate) struct Consumer<T>(Arc<Shared<T>>);

/// A queue for `capacity` items.
pub(crate) fn bounded<T>(capacity: usize) -> (Producer<T>, Consumer<T>) {
    let state = State { items: VecDeque::new(), closed: false, waker: None };
    let shared = Arc::new(Shared { state: Mutex::new(state), room: Condvar::new(), capacity });
    (Producer(Arc::clone(&shared)), Consumer(shared))
}

impl<T> Producer<T> {
    /// Blocks while the queue is full; `false` when nobody takes the items any more.
    pub(crate) fn push(&self, item: T) -> bool {
        let waker = {
            let mut state = self.0.state();
            while state.items.len() >= self.0.capacity && !state.closed {
                state = self.0.room.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.closed {
                return false;
            }
            state.items.push_back(item);
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }
}

impl<T> Producer<T> {
    /// The same without waiting: in a full queue the item is lost.
    pub(crate) fn try_push(&self, item: T) {
        let waker = {
            let mut state = self.0.state();
            if state.closed || state.items.len() >= self.0.capacity {
                return;
            }
            state.items.push_back(item);
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> Drop for Producer<T> {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl<T> Consumer<T> {
    /// The next item; `None` when there are no more.
    pub(crate) fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let item = {
            let mut state = self.0.state();
            let Some(item) = state.items.pop_front() else {
                if state.closed {
                    return Poll::Ready(None);
                }
                state.waker = Some(cx.waker().clone());
                return Poll::Pending;
            };
            item
        };
        self.0.room.notify_one();
        Poll::Ready(Some(item))
    }
}

impl<T> Drop for Consumer<T> {
    fn drop(&mut self) {
        self.0.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interrupt::block_on;

    #[test]
    fn items_come_in_order_and_then_the_end() {
        let (producer, consumer) = bounded(3);
        let filling = std::thread::spawn(move || (0..1000).all(|i| producer.push(i)));
        let next = || block_on(std::future::poll_fn(|cx| consumer.poll_next(cx)));
        for i in 0..1000 {
            assert_eq!(next(), Some(i));
        }
        assert_eq!(next(), None);
        assert!(filling.join().unwrap());
    }

    #[test]
    fn a_full_queue_lets_go_of_its_producer_when_the_consumer_leaves() {
        let (producer, consumer) = bounded(1);
        let filling = std::thread::spawn(move || producer.push(1) && producer.push(2));
        drop(consumer);
        assert!(!filling.join().unwrap());
    }
}
