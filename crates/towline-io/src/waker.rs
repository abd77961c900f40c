//! Waking a driver from other threads.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// The driver's thread is working; a wake-up needs no system call.
const RUNNING: u8 = 0;
/// The driver's thread sleeps or is about to.
const PARKED: u8 = 1;
/// Somebody called since the driver last looked.
const NOTIFIED: u8 = 2;

/// Wakes a driver from any thread: see [`Driver::waker`](crate::Driver::waker).
#[derive(Debug, Clone)]
pub struct Waker {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: AtomicU8,
    event: OwnedFd,
}

impl Waker {
    /// Makes the driver's present or next `wait` return with [`Event::Woken`](crate::Event::Woken). Calls until
    /// then count as one. A system call is made only when the driver is parked. What the caller wrote before is
    /// visible to the driver's thread after `Woken`. Never blocks; after the driver is gone it does nothing.
    pub fn wake(&self) {
        // A read-modify-write also when the state is NOTIFIED already: it orders the caller's earlier writes before
        // the driver's next look at the state.
        if self.shared.state.swap(NOTIFIED, Ordering::AcqRel) == PARKED {
            let one = 1u64.to_ne_bytes();
            // SAFETY: the descriptor is open as long as `shared` lives and `one` is eight readable bytes. A full
            // counter (EAGAIN) means that the driver is being woken anyway.
            unsafe { libc::write(self.shared.event.as_raw_fd(), one.as_ptr().cast(), one.len()) };
        }
    }

    pub(crate) fn new() -> io::Result<Waker> {
        // SAFETY: plain system call without pointers.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` was just opened and belongs to nobody else.
        let event = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Waker { shared: Arc::new(Shared { state: AtomicU8::new(RUNNING), event }) })
    }

    /// What the driver watches. It is never read: both drivers report each new write (edge-triggered), and the
    /// counter cannot fill up.
    pub(crate) fn raw_fd(&self) -> RawFd {
        self.shared.event.as_raw_fd()
    }

    /// Driver side: whether somebody called since the last look.
    pub(crate) fn take(&self) -> bool {
        // The load keeps the cache line shared while nobody calls.
        self.shared.state.load(Ordering::Relaxed) == NOTIFIED
            && self.shared.state.swap(RUNNING, Ordering::AcqRel) == NOTIFIED
    }

    /// Driver side: about to sleep. `false`: somebody called, do not sleep.
    pub(crate) fn park(&self) -> bool {
        self.shared
            .state
            .compare_exchange(RUNNING, PARKED, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// Driver side: awake again. Whether somebody called meanwhile.
    pub(crate) fn unpark(&self) -> bool {
        self.shared.state.swap(RUNNING, Ordering::AcqRel) == NOTIFIED
    }
}
