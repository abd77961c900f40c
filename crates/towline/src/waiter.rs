//! Waiting without a runtime: sets of wakers, and a thread that blocks on a future.

use std::cell::Cell;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

/// The tasks that wait for one condition. Lives inside the lock that guards the condition, so that a task cannot
/// miss the change that it waits for.
#[derive(Debug, Default)]
pub(crate) struct WakerSet {
    waiting: Vec<(u64, Waker)>,
    next: u64,
}

/// Names one waiting task, so that polling it again replaces its waker.
pub(crate) type WaitKey = Option<u64>;

impl WakerSet {
    /// Registers, or refreshes, the task behind `key`.
    pub(crate) fn register(&mut self, key: &mut WaitKey, waker: &Waker) {
        if let Some(key) = *key
            && let Some((_, registered)) = self.waiting.iter_mut().find(|(at, _)| *at == key)
        {
            registered.clone_from(waker);
            return;
        }
        self.next += 1;
        *key = Some(self.next);
        self.waiting.push((self.next, waker.clone()));
    }

    /// Forgets the task behind `key`; for futures that are dropped.
    pub(crate) fn forget(&mut self, key: WaitKey) {
        if let Some(key) = key {
            self.waiting.retain(|(at, _)| *at != key);
        }
    }

    /// Takes everything that waits, to be woken once the lock is open again.
    #[must_use]
    pub(crate) fn take(&mut self) -> Wakers {
        Wakers(std::mem::take(&mut self.waiting))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

/// Tasks to wake outside of the lock.
#[derive(Default)]
pub(crate) struct Wakers(Vec<(u64, Waker)>);

impl Wakers {
    pub(crate) fn wake(self) {
        for (_, waker) in self.0 {
            waker.wake();
        }
    }
}

struct Parker {
    thread: Thread,
    notified: AtomicBool,
}

impl Wake for Parker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.notified.swap(true, Ordering::Release) {
            self.thread.unpark();
        }
    }
}

thread_local! {
    /// The index of the I/O thread that runs here, for the warning about blocking inside a handler.
    static IO_THREAD: Cell<bool> = const { Cell::new(false) };
}

/// Marks this thread as one that must not block.
pub(crate) fn mark_io_thread() {
    IO_THREAD.set(true);
}

/// Whether this is a thread that runs handlers.
pub(crate) fn is_io_thread() -> bool {
    IO_THREAD.get()
}

/// Runs a future on this thread until it is done: the blocking twins are made of this.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    if is_io_thread() {
        tracing::warn!(
            "a blocking call inside a handler stops every connection of this I/O thread"
        );
    }
    let parker = Arc::new(Parker { thread: thread::current(), notified: AtomicBool::new(false) });
    let waker = Waker::from(Arc::clone(&parker));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
        while !parker.notified.swap(false, Ordering::Acquire) {
            thread::park();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn a_blocked_thread_wakes_when_the_condition_changes() {
        let shared = Arc::new(Mutex::new((false, WakerSet::default())));
        let other = Arc::clone(&shared);
        let waiter = thread::spawn(move || {
            let mut key = None;
            block_on(std::future::poll_fn(|cx| {
                let mut state = other.lock().unwrap();
                if state.0 {
                    return Poll::Ready(());
                }
                state.1.register(&mut key, cx.waker());
                Poll::Pending
            }));
        });
        while shared.lock().unwrap().1.is_empty() {
            thread::yield_now();
        }
        let wakers = {
            let mut state = shared.lock().unwrap();
            state.0 = true;
            state.1.take()
        };
        wakers.wake();
        waiter.join().unwrap();
    }

    #[test]
    fn polling_again_keeps_one_registration_and_dropping_removes_it() {
        let mut set = WakerSet::default();
        let mut key = None;
        set.register(&mut key, Waker::noop());
        set.register(&mut key, Waker::noop());
        assert_eq!(set.waiting.len(), 1);
        set.forget(key);
        assert!(set.is_empty());
    }
}
