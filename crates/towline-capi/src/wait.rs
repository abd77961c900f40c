//! Blocking on a future, with an end.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use crate::entry::{Failure, code};
use crate::gate::in_callback;

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

/// Refuses to wait inside a callback.
pub(crate) fn may_wait(timeout_ms: i64) -> Result<(), Failure> {
    if timeout_ms != 0 && in_callback() {
        let text = "a blocking call inside a callback would wait for its own thread; give it no time, or use events";
        return Err(Failure::new(code::TOWLINE_ERROR_WOULD_DEADLOCK, text));
    }
    Ok(())
}

/// Waits for a future on the calling thread: `timeout_ms` milliseconds, for ever when negative, not at all when 0.
pub(crate) fn block_on<F: Future>(future: F, timeout_ms: i64) -> Result<F::Output, Failure> {
    let mut future = pin!(future);
    may_wait(timeout_ms)?;
    // Most are ready at once, and need nobody to wake them.
    if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        return Ok(value);
    }
    if timeout_ms == 0 {
        return Err(timed_out(0));
    }
    let timeout = u64::try_from(timeout_ms).ok().map(Duration::from_millis);
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let parker = Arc::new(Parker { thread: thread::current(), notified: AtomicBool::new(false) });
    let waker = Waker::from(Arc::clone(&parker));
    let mut context = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return Ok(value);
        }
        while !parker.notified.swap(false, Ordering::Acquire) {
            let Some(deadline) = deadline else {
                thread::park();
                continue;
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(timed_out(timeout_ms));
            }
            thread::park_timeout(left);
        }
    }
}

fn timed_out(timeout_ms: i64) -> Failure {
    let text = match timeout_ms {
        0 => "nothing is there now".to_owned(),
        ms => format!("nothing came within {ms} ms"),
    };
    Failure::new(code::TOWLINE_ERROR_TIMED_OUT, text)
}
