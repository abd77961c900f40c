//! SIGINT and SIGTERM as something to wait for beside everything else.

use std::collections::HashMap;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Instant;

use signal_hook::consts::{SIGINT, SIGTERM};

/// A signal that asks the command to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    /// SIGINT, as from Ctrl-C.
    Interrupt,
    /// SIGTERM, as from a service manager.
    Terminate,
}

impl Signal {
    /// 128 and the signal's number, as shells have it.
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Signal::Interrupt => 130,
            Signal::Terminate => 143,
        }
    }
}

#[derive(Default)]
struct State {
    signal: Option<Signal>,
    watches: HashMap<u64, Waker>,
    next: u64,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    arrived: Condvar,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first signal that came, once one has. A second one ends the process at once.
#[derive(Clone, Default)]
pub(crate) struct Interrupt(Arc<Shared>);

impl Interrupt {
    /// Takes over both signals.
    pub(crate) fn install() -> std::io::Result<Interrupt> {
        let interrupt = Interrupt::default();
        let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
        let own = interrupt.clone();
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            for number in signals.forever() {
                let signal = if number == SIGINT { Signal::Interrupt } else { Signal::Terminate };
                if own.signal().is_some() {
                    std::process::exit(signal.exit_code().into());
                }
                own.trigger(signal);
            }
        })?;
        Ok(interrupt)
    }

    pub(crate) fn trigger(&self, signal: Signal) {
        let watches = {
            let mut state = self.0.state();
            state.signal.get_or_insert(signal);
            std::mem::take(&mut state.watches)
        };
        self.0.arrived.notify_all();
        for waker in watches.into_values() {
            waker.wake();
        }
    }

    /// The signal, if it has come.
    pub(crate) fn signal(&self) -> Option<Signal> {
        self.0.state().signal
    }

    /// Blocks until `at`, or until the signal comes.
    pub(crate) fn sleep_until(&self, at: Instant) -> Result<(), Signal> {
        let mut state = self.0.state();
        loop {
            if let Some(signal) = state.signal {
                return Err(signal);
            }
            let left = at.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            let waited = self.0.arrived.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// A future that ends when the signal comes.
    pub(crate) fn watch(&self) -> Watch<'_> {
        Watch { shared: &self.0, key: None }
    }

    /// Blocks on a future; the signal, if it comes first, ends the wait and drops the future.
    pub(crate) fn wait_for<F: Future>(&self, future: F) -> Result<F::Output, Signal> {
        let mut future = pin!(future);
        let mut watch = self.watch();
        block_on(std::future::poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Ok(output));
            }
            Pin::new(&mut watch).poll(cx).map(Err)
        }))
    }
}

/// The future of [`Interrupt::watch`].
pub(crate) struct Watch<'a> {
    shared: &'a Shared,
    key: Option<u64>,
}

impl Future for Watch<'_> {
    type Output = Signal;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Signal> {
        let shared = self.shared;
        let mut state = shared.state();
        if let Some(signal) = state.signal {
            return Poll::Ready(signal);
        }
        let key = *self.key.get_or_insert_with(|| {
            state.next += 1;
            state.next
        });
        state.watches.insert(key, cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.shared.state().watches.remove(&key);
        }
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a future on the calling thread.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        std::thread::park();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_signal_ends_every_wait() {
        let interrupt = Interrupt::default();
        let waits: Vec<_> = (0..4)
            .map(|i| {
                let interrupt = interrupt.clone();
                std::thread::spawn(move || match i % 2 {
                    0 => interrupt.wait_for(std::future::pending::<()>()),
                    _ => interrupt.sleep_until(Instant::now() + Duration::from_secs(3600)),
                })
            })
            .collect();
        interrupt.trigger(Signal::Interrupt);
        interrupt.trigger(Signal::Terminate);
        for wait in waits {
            assert_eq!(wait.join().unwrap(), Err(Signal::Interrupt));
        }
        assert!(interrupt.0.state().watches.is_empty());
    }

    #[test]
    fn what_is_ready_comes_before_the_signal() {
        let interrupt = Interrupt::default();
        interrupt.trigger(Signal::Terminate);
        assert_eq!(interrupt.wait_for(std::future::ready(7)), Ok(7));
        assert_eq!(interrupt.sleep_until(Instant::now()), Err(Signal::Terminate));
    }
}
