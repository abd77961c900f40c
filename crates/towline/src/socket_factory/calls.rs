//! Calls of a factory: for one socket in order, one at a time, with no lock held, wherever they come from.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use super::{FactorySocket, OpenOptions, SocketShared};
use crate::address::Address;
use crate::error::WireError;

/// One call.
#[derive(Debug)]
pub(crate) enum Call {
    Open(Box<(Address, OpenOptions)>),
    Attached,
    Write(Bytes),
    WriteText(Bytes),
    CompletedReceive(usize),
    Close,
    RequestClose(u16, String),
    Dispose,
}

/// The calls of one socket that have not been made.
#[derive(Debug, Default)]
pub(super) struct Calls {
    waiting: VecDeque<Call>,
    /// Somebody makes them, or is about to.
    running: bool,
}

impl Calls {
    /// `true`: the caller has to see to it that they are made.
    fn push(&mut self, call: Call) -> bool {
        // What was processed is only a number: a factory that is slow is told once.
        if let (Call::CompletedReceive(more), Some(Call::CompletedReceive(count))) =
            (&call, self.waiting.back_mut())
        {
            *count += more;
        } else {
            self.waiting.push_back(call);
        }
        !std::mem::replace(&mut self.running, true)
    }
}

/// Makes a call: at once, or behind those that wait.
pub(super) fn make(shared: &Arc<SocketShared>, call: Call) {
    let first = shared.calls.lock().unwrap_or_else(PoisonError::into_inner).push(call);
    match first {
        true if shared.may_block => submit(Arc::clone(shared)),
        true => run(shared),
        false => {}
    }
}

/// Something for a thread of the pool.
pub(super) trait Job: Send + Sync {
    fn run(self: Arc<Self>);
}

impl Job for SocketShared {
    fn run(self: Arc<Self>) {
        run(&self);
    }
}

/// Has a thread of the pool do it.
pub(super) fn submit(job: Arc<impl Job + 'static>) {
    POOL.submit(job);
}

/// Makes the calls that wait.
fn run(shared: &Arc<SocketShared>) {
    let socket = FactorySocket::from(Arc::clone(shared));
    loop {
        let call = {
            let mut calls = shared.calls.lock().unwrap_or_else(PoisonError::into_inner);
            let call = calls.waiting.pop_front();
            calls.running = call.is_some();
            call
        };
        let Some(call) = call else { return };
        if catch_unwind(AssertUnwindSafe(|| one(shared, &socket, call))).is_err() {
            tracing::error!(socket = shared.id, "a socket factory panicked: its socket ends");
            shared.failed(WireError::Protocol("its socket factory panicked".into()));
        }
    }
}

fn one(shared: &SocketShared, socket: &FactorySocket, call: Call) {
    let factory = &shared.factory;
    match call {
        Call::Open(to) => factory.open(socket, &to.0, &to.1),
        Call::Attached => factory.attached(socket),
        Call::Write(data) => factory.write(socket, data),
        Call::WriteText(data) => factory.write_text(socket, data),
        Call::CompletedReceive(count) => factory.completed_receive(socket, count),
        Call::Close => factory.close(socket),
        Call::RequestClose(status, message) => factory.request_close(socket, status, &message),
        Call::Dispose => factory.dispose(socket),
    }
}

/// Threads for the calls of factories that may block. There is one more whenever all are busy, so that none waits for
/// another one's, up to [`MOST_THREADS`]; idle ones end.
struct Pool {
    state: Mutex<PoolState>,
    work: Condvar,
}

struct PoolState {
    waiting: VecDeque<Arc<dyn Job>>,
    threads: usize,
    idle: usize,
}

/// The most threads that blocking factories get.
const MOST_THREADS: usize = 256;

/// How long a thread waits for more to do before it ends.
const IDLE: Duration = Duration::from_secs(10);

static POOL: Pool = Pool {
    state: Mutex::new(PoolState { waiting: VecDeque::new(), threads: 0, idle: 0 }),
    work: Condvar::new(),
};

impl Pool {
    fn submit(&'static self, job: Arc<dyn Job>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.waiting.push_back(job);
        if state.idle >= state.waiting.len() || state.threads >= MOST_THREADS {
            drop(state);
            return self.work.notify_one();
        }
        state.threads += 1;
        drop(state);
        let name = "towline-factory".to_owned();
        if let Err(error) = std::thread::Builder::new().name(name).spawn(|| self.serve()) {
            tracing::error!(%error, "no thread for a socket factory");
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.threads -= 1;
            let nobody = state.threads == 0;
            let left = if nobody { std::mem::take(&mut state.waiting) } else { VecDeque::new() };
            drop(state);
            // Better here than never.
            left.into_iter().for_each(Job::run);
        }
    }

    fn serve(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(job) = state.waiting.pop_front() {
                drop(state);
                job.run();
                state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            state.idle += 1;
            let (woken, waited) =
                self.work.wait_timeout(state, IDLE).unwrap_or_else(PoisonError::into_inner);
            state = woken;
            state.idle -= 1;
            if waited.timed_out() && state.waiting.is_empty() {
                state.threads -= 1;
                return;
            }
        }
    }
}
