//! Gates: callbacks into the application go through one, and freeing an object closes it.
//!
//! When [`Gate::close`] has returned, no callback runs behind the gate and none will, except the one that called it: freeing an
//! object inside its own callback is allowed.

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

/// A callback that took longer is told about in the log.
const SLOW_MS: i64 = 100;

const CLOSED: usize = 1;
const ONE: usize = 2;

thread_local! {
    /// The gates that the present thread is inside of, the innermost last.
    static INSIDE: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
    /// How many callbacks the present thread is in, gates or not.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

/// Whether the calling thread is in a callback of this library.
pub(crate) fn in_callback() -> bool {
    DEPTH.get() > 0
}

/// Counts the callbacks inside, and lets in no more once closed.
#[derive(Default)]
pub(crate) struct Gate {
    /// Twice the number of callbacks inside, and one when closed.
    state: AtomicUsize,
    waiting: Mutex<()>,
    left: Condvar,
}

impl Gate {
    /// Runs a callback, unless the gate is closed.
    pub(crate) fn enter<T>(&self, callback: impl FnOnce() -> T) -> Option<T> {
        if self.state.fetch_add(ONE, Ordering::AcqRel) & CLOSED != 0 {
            self.leave();
            return None;
        }
        let inside = Inside::new(self);
        let value = timed(callback);
        drop(inside);
        Some(value)
    }

    fn leave(&self) {
        if self.state.fetch_sub(ONE, Ordering::AcqRel) & CLOSED != 0 {
            let _lock = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            self.left.notify_all();
        }
    }

    /// Lets nothing in any more, and waits until the callbacks inside have returned, except those of the calling thread.
    pub(crate) fn close(&self) {
        self.state.fetch_or(CLOSED, Ordering::AcqRel);
        let own = INSIDE.with_borrow(|gates| {
            gates.iter().filter(|gate| **gate == std::ptr::from_ref(self) as usize).count()
        });
        let mut lock = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        while self.state.load(Ordering::Acquire) / ONE > own {
            lock = self.left.wait(lock).unwrap_or_else(PoisonError::into_inner);
        }
    }

    #[cfg(test)]
    fn is_closed(&self) -> bool {
        self.state.load(Ordering::Acquire) & CLOSED != 0
    }
}

/// The stay inside a gate.
struct Inside<'a>(&'a Gate);

impl<'a> Inside<'a> {
    fn new(gate: &'a Gate) -> Inside<'a> {
        INSIDE.with_borrow_mut(|gates| gates.push(std::ptr::from_ref(gate) as usize));
        Inside(gate)
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        INSIDE.with_borrow_mut(Vec::pop);
        self.0.leave();
    }
}

/// Milliseconds of the clock that costs next to nothing and is some milliseconds coarse.
fn coarse_ms() -> i64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clock exists on every Linux, and the place is writable.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut now) };
    now.tv_sec * 1000 + now.tv_nsec / 1_000_000
}

/// Runs a callback of the application and says so in the log if it blocked.
pub(crate) fn timed<T>(callback: impl FnOnce() -> T) -> T {
    struct Depth;
    impl Drop for Depth {
        fn drop(&mut self) {
            DEPTH.set(DEPTH.get() - 1);
        }
    }
    DEPTH.set(DEPTH.get() + 1);
    let _depth = Depth;
    let begun = coarse_ms();
    let value = callback();
    let took = coarse_ms() - begun;
    if took >= SLOW_MS {
        tracing::warn!(milliseconds = took, "a callback blocked its I/O thread");
    }
    value
}

/// A pointer that the application gave for its callback.
#[derive(Clone, Copy)]
pub(crate) struct User(pub(crate) *mut std::ffi::c_void);

// SAFETY: the pointer is only handed back to the application, whose headers say on which thread.
unsafe impl Send for User {}
// SAFETY: as above; nothing here reads through it.
unsafe impl Sync for User {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::mpsc::channel;

    #[test]
    fn closing_waits_for_the_callback_inside_and_lets_no_other_in() {
        let gate = Arc::new(Gate::default());
        let (entered, has_entered) = channel();
        let (go, may_go) = channel::<()>();
        let other = Arc::clone(&gate);
        let inside = std::thread::spawn(move || {
            other.enter(|| {
                entered.send(()).unwrap();
                may_go.recv().unwrap();
            })
        });
        has_entered.recv().unwrap();
        let closing = Arc::clone(&gate);
        let closer = std::thread::spawn(move || closing.close());
        while !gate.is_closed() {
            std::thread::yield_now();
        }
        assert!(gate.enter(|| ()).is_none());
        assert!(!closer.is_finished());
        go.send(()).unwrap();
        closer.join().unwrap();
        assert!(inside.join().unwrap().is_some());
    }

    #[test]
    fn a_callback_may_close_its_own_gate() {
        let gate = Gate::default();
        assert!(!in_callback());
        gate.enter(|| {
            assert!(in_callback());
            gate.close();
        });
        assert!(gate.enter(|| ()).is_none());
    }
}
