//! The context: the I/O threads that everything runs on.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};
use std::thread::{JoinHandle, ThreadId};
use std::time::Duration;

pub use towline_io::{DriverChoice, DriverKind};
use towline_io::{DriverConfig, Waker};

use crate::connection::Shared;
use crate::error::{ConfigError, ContextError};
use crate::runtime::{Command, Runtime};
use crate::stats::ContextStats;

/// An I/O thread as the others see it.
pub(crate) struct Thread {
    pub(crate) index: usize,
    queue: Mutex<Queue>,
    /// There may be something in the queue: set behind what was put there, so that an empty one costs no lock.
    has_work: AtomicBool,
    waker: OnceLock<Waker>,
    id: OnceLock<ThreadId>,
    /// Connections that live here, for spreading new ones.
    pub(crate) load: AtomicUsize,
    /// Sockets of connections and peers, and entries of the timer queue, as of the last turn.
    pub(crate) wires: AtomicUsize,
    pub(crate) timers: AtomicUsize,
}

/// What others want of an I/O thread.
#[derive(Default)]
pub(crate) struct Queue {
    pub(crate) commands: Vec<Command>,
    pub(crate) scheduled: Vec<Arc<Shared>>,
    stopped: bool,
}

impl Thread {
    fn new(index: usize) -> Thread {
        Thread {
            index,
            queue: Mutex::default(),
            has_work: AtomicBool::new(false),
            waker: OnceLock::new(),
            id: OnceLock::new(),
            load: AtomicUsize::new(0),
            wires: AtomicUsize::new(0),
            timers: AtomicUsize::new(0),
        }
    }

    /// Has the thread look at a connection.
    pub(crate) fn schedule(&self, shared: Arc<Shared>) {
        {
            let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            if queue.stopped {
                return;
            }
            queue.scheduled.push(shared);
        }
        self.wake();
    }

    /// Gives the thread something to do; gives it back when the thread has stopped.
    pub(crate) fn command(&self, command: Command) -> Result<(), Command> {
        {
            let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            if queue.stopped {
                return Err(command);
            }
            queue.commands.push(command);
        }
        self.wake();
        Ok(())
    }

    /// Whether the caller runs on it.
    #[cfg(feature = "quic")]
    pub(crate) fn is_current(&self) -> bool {
        self.id.get() == Some(&std::thread::current().id())
    }

    /// Wakes the thread unless it is the calling one, which looks at its queue before it waits.
    fn wake(&self) {
        self.has_work.store(true, Ordering::Release);
        if self.id.get() != Some(&std::thread::current().id())
            && let Some(waker) = self.waker.get()
        {
            waker.wake();
        }
    }

    /// Exchanges the queues for empty ones of the caller's; `false` when there is nothing in them.
    pub(crate) fn swap(
        &self,
        commands: &mut Vec<Command>,
        scheduled: &mut Vec<Arc<Shared>>,
    ) -> bool {
        if !self.has_work.load(Ordering::Acquire) {
            return false;
        }
        // Before the look: what comes after it sets it again.
        self.has_work.store(false, Ordering::Release);
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut queue.commands, commands);
        std::mem::swap(&mut queue.scheduled, scheduled);
        !commands.is_empty() || !scheduled.is_empty()
    }

    /// Takes no more, and returns what was left.
    pub(crate) fn stop(&self) -> Vec<Command> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.stopped = true;
        queue.scheduled.clear();
        std::mem::take(&mut queue.commands)
    }
}

/// The thread with the fewest connections.
pub(crate) fn lightest(threads: &[Arc<Thread>]) -> Option<&Arc<Thread>> {
    threads.iter().min_by_key(|thread| thread.load.load(Ordering::Relaxed))
}

/// Owns the I/O threads that endpoints, listeners and connections run on. Most programs have one.
///
/// Dropping it stops everything in order: listeners close, connections get
/// [`close_timeout`](crate::ConfigBuilder::close_timeout) to have what they accepted acknowledged and to say goodbye,
/// sockets are closed, and the threads have ended when the drop returns. Handles that are left then answer every call
/// with an error. Do not drop it inside a handler: then the threads end on their own, unwaited for.
///
/// ```
/// use towline::Context;
///
/// let context = Context::builder().threads(1).build()?;
/// assert_eq!(context.drivers().len(), 1);
/// # Ok::<(), towline::ContextError>(())
/// ```
pub struct Context {
    pub(crate) threads: Arc<[Arc<Thread>]>,
    handles: Vec<JoinHandle<()>>,
    drivers: Vec<DriverKind>,
    fallback: Option<String>,
}

impl Context {
    /// One I/O thread per core, and the driver that suits the system.
    pub fn new() -> Result<Context, ContextError> {
        Context::builder().build()
    }

    /// Starts from the defaults.
    pub fn builder() -> ContextBuilder {
        ContextBuilder { threads: None, driver: DriverConfig::default() }
    }

    /// Which driver each I/O thread runs on.
    pub fn drivers(&self) -> &[DriverKind] {
        &self.drivers
    }

    /// What the context holds now, as of each I/O thread's last turn.
    pub fn stats(&self) -> ContextStats {
        let sum = |count: fn(&Thread) -> &AtomicUsize| {
            self.threads.iter().map(|thread| count(thread).load(Ordering::Relaxed)).sum()
        };
        ContextStats {
            connections: sum(|thread| &thread.load),
            wires: sum(|thread| &thread.wires),
            timers: sum(|thread| &thread.timers),
        }
    }

    /// Why the driver is not io_uring, when it was free to be.
    pub fn fallback_reason(&self) -> Option<&str> {
        self.fallback.as_deref()
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        for thread in &*self.threads {
            thread.command(Command::Stop).ok();
        }
        let here = std::thread::current().id();
        for handle in self.handles.drain(..) {
            if handle.thread().id() != here && !crate::waiter::is_io_thread() {
                handle.join().ok();
            }
        }
    }
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("drivers", &self.drivers).finish_non_exhaustive()
    }
}

/// Builds a [`Context`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct ContextBuilder {
    threads: Option<usize>,
    driver: DriverConfig,
}

impl ContextBuilder {
    /// How many I/O threads. 1 to 1,024; default one per core.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// io_uring, epoll, or whichever suits the system. Default [`DriverChoice::Auto`].
    pub fn driver(mut self, driver: DriverChoice) -> Self {
        self.driver.kind = driver;
        self
    }

    /// How long an I/O thread polls before it sleeps. 0 to 1 s; default 0. It costs a core while it polls and saves the
    /// scheduler's wake-up, which across cores is most of a short round trip.
    pub fn spin(mut self, spin: Duration) -> Self {
        self.driver.spin = spin;
        self
    }

    /// Bytes in a receive buffer: the most that one system call brings. 4 KiB to 16 MiB; default 64 KiB.
    pub fn receive_buffer_size(mut self, bytes: usize) -> Self {
        self.driver.recv_buffer_size = bytes;
        self
    }

    /// Receive buffers that each I/O thread keeps. 1 to 32,768; default 64.
    pub fn receive_buffers(mut self, buffers: usize) -> Self {
        self.driver.recv_buffers = buffers;
        self
    }

    /// For tests: what to do without, as on an older kernel.
    #[doc(hidden)]
    pub fn without(mut self, without: towline_io::Without) -> Self {
        self.driver.without = without;
        self
    }

    /// Starts the threads.
    pub fn build(self) -> Result<Context, ContextError> {
        let default = || std::thread::available_parallelism().map_or(1, usize::from);
        let count = self.threads.unwrap_or_else(default);
        let check = |option, value: usize, allowed: std::ops::RangeInclusive<usize>, range| {
            if allowed.contains(&value) {
                return Ok(());
            }
            Err(ConfigError::OutOfRange { option, value: value.to_string(), range })
        };
        check("threads", count, 1..=1024, "1 to 1,024")?;
        check(
            "receive_buffer_size",
            self.driver.recv_buffer_size,
            4096..=16 << 20,
            "4 KiB to 16 MiB",
        )?;
        check("receive_buffers", self.driver.recv_buffers, 1..=32_768, "1 to 32,768")?;
        if self.driver.spin > Duration::from_secs(1) {
            let value = format!("{:?}", self.driver.spin);
            return Err(ConfigError::OutOfRange { option: "spin", value, range: "0 to 1 s" }.into());
        }
        let threads: Arc<[Arc<Thread>]> =
            (0..count).map(|index| Arc::new(Thread::new(index))).collect();
        let mut context =
            Context { threads, handles: Vec::new(), drivers: Vec::new(), fallback: None };
        for thread in Arc::clone(&context.threads).iter() {
            context
                .start(thread, &self.driver)
                .map_err(|error| ContextError::Io(Arc::new(error)))?;
        }
        Ok(context)
    }
}

impl Context {
    fn start(&mut self, thread: &Arc<Thread>, config: &DriverConfig) -> std::io::Result<()> {
        let (tell, told) = mpsc::channel();
        let (config, threads) = (config.clone(), Arc::clone(&self.threads));
        let owned = Arc::clone(thread);
        let name = format!("towline-io-{}", thread.index);
        let handle = std::thread::Builder::new().name(name).spawn(move || {
            owned.id.set(std::thread::current().id()).ok();
            crate::waiter::mark_io_thread();
            match towline_io::Driver::new(&config) {
                Err(error) => {
                    tell.send(Err(error)).ok();
                }
                Ok(driver) => {
                    owned.waker.set(driver.waker()).ok();
                    let reason = driver.fallback_reason().map(str::to_owned);
                    tell.send(Ok((driver.kind(), reason))).ok();
                    drop(tell);
                    Runtime::new(driver, owned, threads).run();
                }
            }
        })?;
        self.handles.push(handle);
        let ended = || std::io::Error::other("the I/O thread ended at once");
        let (kind, reason) = told.recv().map_err(|_| ended())??;
        self.drivers.push(kind);
        self.fallback = self.fallback.take().or(reason);
        Ok(())
    }
}
