//! A worker thread of a port: a driver, the sockets that belong to it, and a mailbox.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};

use bytes::Bytes;
use socket2::Socket;

use super::{
    Failure, Listening, NOWHERE, Operation, Port, PortConfig, REFUSED, ReadBuffer, Service, Shared,
    SocketHandle,
};
use crate::error::cancelled;
use crate::slots::Slots;
use crate::{
    Accepted, CancelGrade, Completion, Driver, DriverConfig, DriverKind, Event, OpId, SocketId,
    Waker,
};

/// What other threads, and callbacks, ask of a worker.
pub(super) enum Command<S: Service> {
    Add(Socket, SocketHandle<S>),
    Listen(Socket, Arc<Listening<S>>),
    /// A connection that another worker accepted for this one.
    Adopt(Box<Accepted>, Arc<Listening<S>>),
    Recv(SocketHandle<S>),
    Send {
        socket: SocketHandle<S>,
        data: Bytes,
        write: S::Write,
        sync: bool,
    },
    CancelRecv(SocketHandle<S>),
    CancelSends(SocketHandle<S>),
    Remove(SocketHandle<S>),
    StopListening(Arc<Listening<S>>),
    /// There is room for accepted connections again.
    Resume(Arc<Listening<S>>),
}

/// Where commands wait for a worker.
pub(super) struct Mailbox<S: Service> {
    waker: Waker,
    /// `None` once the worker takes no more.
    commands: Mutex<Option<Vec<Command<S>>>>,
    ending: AtomicBool,
}

thread_local! {
    /// The port that the present thread works for, by the address of what it shares, and its number there.
    static WORKS_FOR: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

impl<S: Service> Mailbox<S> {
    fn lock(&self) -> MutexGuard<'_, Option<Vec<Command<S>>>> {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Service> Shared<S> {
    pub(super) fn pick_worker(&self) -> usize {
        self.next_worker.fetch_add(1, Ordering::Relaxed) % self.mailboxes.len()
    }

    fn address(&self) -> usize {
        std::ptr::from_ref(self) as usize
    }

    /// Whether the present thread is one of the workers.
    pub(super) fn is_worker(&self) -> bool {
        WORKS_FOR.get().0 == self.address()
    }

    /// Puts a command into a worker's mailbox and wakes it, once per batch. Gives it back when the worker has ended.
    pub(super) fn tell(&self, worker: usize, command: Command<S>) -> Result<(), Command<S>> {
        self.tell_if(worker, command, || true)
    }

    /// Puts a command for a connection into its worker's mailbox, unless the connection is gone. The look at that is
    /// made under the mailbox's lock, so that nothing follows the command to remove it.
    pub(super) fn tell_for(
        &self,
        socket: &SocketHandle<S>,
        command: Command<S>,
    ) -> Result<(), Command<S>> {
        let connection = &socket.inner;
        self.tell_if(connection.worker, command, || !connection.gone.load(Ordering::Acquire))
    }

    pub(super) fn remove(&self, socket: &SocketHandle<S>) {
        let connection = &socket.inner;
        let first = || !connection.gone.swap(true, Ordering::AcqRel);
        let _ = self.tell_if(connection.worker, Command::Remove(socket.clone()), first);
    }

    fn tell_if(
        &self,
        worker: usize,
        command: Command<S>,
        condition: impl FnOnce() -> bool,
    ) -> Result<(), Command<S>> {
        let Some(mailbox) = self.mailboxes.get(worker) else { return Err(command) };
        let mut commands = mailbox.lock();
        let Some(list) = commands.as_mut() else { return Err(command) };
        if !condition() {
            return Err(command);
        }
        let first = list.is_empty();
        list.push(command);
        drop(commands);
        // A worker looks into its mailbox before it waits.
        if first && WORKS_FOR.get() != (self.address(), worker) {
            mailbox.waker.wake();
        }
        Ok(())
    }

    /// Ends the workers, and waits for them unless this is one of them.
    pub(super) fn end(&self) {
        for mailbox in &self.mailboxes {
            mailbox.ending.store(true, Ordering::Release);
            mailbox.waker.wake();
        }
        if self.is_worker() {
            return;
        }
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        for thread in threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a completion worker panicked");
            }
        }
    }
}

/// Starts the workers. Each builds its driver on its own thread and sends the waker back.
pub(super) fn start<S: Service>(service: S, config: &PortConfig) -> io::Result<Arc<Shared<S>>> {
    let mut kind = DriverKind::Epoll;
    let (mut mailboxes, mut threads, mut starters) = (Vec::new(), Vec::new(), Vec::new());
    for index in 0..config.threads {
        let (report, reported) = mpsc::channel::<io::Result<(Waker, DriverKind)>>();
        let (starter, started) = mpsc::channel::<Arc<Shared<S>>>();
        let driver = config.driver.clone();
        let name = format!("towline-io-{index}");
        // When one fails, the starters of the others are dropped, and they end.
        let thread = std::thread::Builder::new()
            .name(name)
            .spawn(move || run(index, &driver, &report, &started))?;
        threads.push(thread);
        let built = reported.recv().unwrap_or_else(|_| Err(io::Error::other("a worker died")))?;
        kind = built.1;
        let commands = Mutex::new(Some(Vec::new()));
        mailboxes.push(Mailbox { waker: built.0, commands, ending: false.into() });
        starters.push(starter);
    }
    let shared = Arc::new(Shared {
        service,
        mailboxes,
        next_worker: AtomicUsize::new(0),
        send_limit: config.send_limit,
        kind,
        threads: Mutex::new(threads),
    });
    for starter in starters {
        // A worker that is gone already is noticed when it is joined.
        let _ = starter.send(shared.clone());
    }
    Ok(shared)
}

fn run<S: Service>(
    index: usize,
    config: &DriverConfig,
    report: &mpsc::Sender<io::Result<(Waker, DriverKind)>>,
    started: &mpsc::Receiver<Arc<Shared<S>>>,
) {
    let driver = match Driver::new(config) {
        Ok(driver) => driver,
        Err(error) => {
            let _ = report.send(Err(error));
            return;
        }
    };
    if report.send(Ok((driver.waker(), driver.kind()))).is_err() {
        return;
    }
    // The others may have failed to start.
    let Ok(shared) = started.recv() else { return };
    WORKS_FOR.set((shared.address(), index));
    let port = Port { shared: shared.clone(), owner: None };
    Worker { index, driver, shared, port, sockets: Slots::new(), ending: false }.work();
}

/// A socket of a worker.
enum Member<S: Service> {
    Connection {
        id: SocketId,
        handle: SocketHandle<S>,
        recv: Option<OpId>,
        writes: VecDeque<PendingWrite<S>>,
    },
    Listener {
        id: SocketId,
        listening: Arc<Listening<S>>,
    },
}

/// A send that was issued to the driver, in order.
struct PendingWrite<S: Service> {
    op: OpId,
    write: S::Write,
    sync: bool,
    bytes: usize,
}

struct Worker<S: Service> {
    index: usize,
    driver: Driver,
    shared: Arc<Shared<S>>,
    /// What callbacks are given.
    port: Port<S>,
    sockets: Slots<Member<S>>,
    ending: bool,
}

impl<S: Service> Worker<S> {
    fn work(mut self) {
        let (mut batch, mut completions) = (Vec::new(), Vec::new());
        loop {
            if let Some(commands) = self.shared.mailboxes[self.index].lock().as_mut() {
                std::mem::swap(commands, &mut batch);
            }
            let idle = batch.is_empty();
            for command in batch.drain(..) {
                self.obey(command);
            }
            self.ending = self.shared.mailboxes[self.index].ending.load(Ordering::Acquire);
            if self.ending {
                self.remove_all();
                if self.sockets.len() == 0 && idle && self.close_mailbox() {
                    return;
                }
            }
            // Callbacks of refused operations may have issued more: those have their turn after a look at the driver.
            let more = !self.is_mailbox_empty() || (self.ending && self.sockets.len() == 0);
            let until = more.then(std::time::Instant::now);
            if let Err(error) = self.driver.wait(until, &mut completions) {
                tracing::error!(%error, "a completion worker cannot wait");
                return;
            }
            for completion in completions.drain(..) {
                self.dispatch(completion);
            }
        }
    }

    fn is_mailbox_empty(&self) -> bool {
        self.shared.mailboxes[self.index].lock().as_ref().is_none_or(Vec::is_empty)
    }

    /// Takes no more commands, if there are none. Whether that is so.
    fn close_mailbox(&mut self) -> bool {
        let mut commands = self.shared.mailboxes[self.index].lock();
        let empty = commands.as_ref().is_none_or(Vec::is_empty);
        if empty {
            *commands = None;
        }
        empty
    }

    fn remove_all(&mut self) {
        let _commands = self.shared.mailboxes[self.index].lock();
        for member in self.sockets.values() {
            match member {
                Member::Connection { id, handle, .. } => {
                    handle.inner.gone.store(true, Ordering::Release);
                    self.driver.close(*id);
                }
                Member::Listener { id, .. } => self.driver.close(*id),
            }
        }
    }

    fn member(&mut self, place: u64) -> Option<&mut Member<S>> {
        self.sockets.get_mut(place as u32, (place >> 32) as u32)
    }

    /// The socket of a connection's handle, if it was not removed.
    fn connection(&mut self, handle: &SocketHandle<S>) -> Option<&mut Member<S>> {
        self.member(handle.inner.place.load(Ordering::Relaxed))
    }

    fn obey(&mut self, command: Command<S>) {
        match command {
            Command::Add(socket, handle) => self.add(socket, handle),
            Command::Listen(socket, listening) => self.listen(socket, listening),
            Command::Adopt(accepted, listening) => self.adopt(*accepted, &listening),
            Command::Recv(handle) => self.recv(&handle),
            Command::Send { socket, data, write, sync } => self.send(&socket, data, write, sync),
            Command::CancelRecv(handle) => {
                if let Some(Member::Connection { recv: Some(op), .. }) = self.connection(&handle) {
                    let op = *op;
                    self.driver.cancel(op, CancelGrade::Total);
                }
            }
            Command::CancelSends(handle) => {
                if let Some(Member::Connection { writes, .. }) = self.connection(&handle) {
                    let ops: Vec<OpId> = writes.iter().map(|pending| pending.op).collect();
                    for op in ops.into_iter().rev() {
                        self.driver.cancel(op, CancelGrade::Total);
                    }
                }
            }
            Command::Remove(handle) => {
                if let Some(Member::Connection { id, .. }) = self.connection(&handle) {
                    let id = *id;
                    self.driver.close(id);
                } else if handle.inner.place.swap(NOWHERE, Ordering::Relaxed) == REFUSED {
                    self.call(&handle, |service, port| service.removed(port, &handle));
                }
            }
            Command::StopListening(listening) => {
                if let Some(id) = self.listener(&listening) {
                    self.driver.close(id);
                }
            }
            Command::Resume(listening) => {
                if let Some(id) = self.listener(&listening) {
                    // Refused while it is being closed.
                    let _ = self.driver.set_ready(id, listening.ready);
                }
            }
        }
    }

    fn listener(&mut self, listening: &Listening<S>) -> Option<SocketId> {
        match self.member(listening.place.load(Ordering::Relaxed)) {
            Some(Member::Listener { id, .. }) => Some(*id),
            _ => None,
        }
    }

    /// Reserves a place and attaches a connection under it.
    fn attach(&mut self, socket: Socket, handle: &SocketHandle<S>) -> io::Result<()> {
        let member = Member::Connection {
            id: SocketId::NONE,
            handle: handle.clone(),
            recv: None,
            writes: VecDeque::new(),
        };
        let (index, generation) = self.sockets.insert(|_, _| member);
        let place = u64::from(generation) << 32 | u64::from(index);
        match self.driver.attach(socket, place) {
            Ok(attached) => {
                handle.inner.place.store(place, Ordering::Relaxed);
                if let Some(Member::Connection { id, .. }) = self.member(place) {
                    *id = attached;
                }
                Ok(())
            }
            Err(error) => {
                self.sockets.remove(index, generation);
                Err(error)
            }
        }
    }

    fn add(&mut self, socket: Socket, handle: SocketHandle<S>) {
        if let Err(error) = self.attach(socket, &handle) {
            handle.inner.place.store(REFUSED, Ordering::Relaxed);
            self.call(&handle, |service, port| {
                service.failed(port, &handle, Failure { operation: Operation::Add, error });
            });
        }
    }

    fn listen(&mut self, socket: Socket, listening: Arc<Listening<S>>) {
        let member = Member::Listener { id: SocketId::NONE, listening: listening.clone() };
        let (index, generation) = self.sockets.insert(|_, _| member);
        let place = u64::from(generation) << 32 | u64::from(index);
        match self.driver.listen(socket, listening.ready, place) {
            Ok(added) => {
                listening.place.store(place, Ordering::Relaxed);
                if let Some(Member::Listener { id, .. }) = self.member(place) {
                    *id = added;
                }
            }
            Err(error) => {
                self.sockets.remove(index, generation);
                self.call_listening(&listening, error);
            }
        }
    }

    /// Takes a connection that was accepted and shows it to the application.
    fn adopt(&mut self, accepted: Accepted, listening: &Arc<Listening<S>>) {
        let waiting = listening.waiting.fetch_sub(1, Ordering::SeqCst) - 1;
        if waiting <= listening.ready / 2 && listening.paused.swap(false, Ordering::SeqCst) {
            let _ = self.shared.tell(listening.worker, Command::Resume(listening.clone()));
        }
        let Accepted { socket, local, peer } = accepted;
        let handle = SocketHandle::new(self.index, socket.as_raw_fd());
        if let Err(error) = self.attach(socket, &handle) {
            self.call_listening(listening, error);
            return;
        }
        self.call(&handle, |service, port| {
            let state = service.accepted(port, &handle, &local, &peer, &listening.state);
            let _ = handle.inner.state.set(state);
        });
    }

    fn recv(&mut self, handle: &SocketHandle<S>) {
        let issued = match self.connection(handle) {
            Some(Member::Connection { id, .. }) => {
                let id = *id;
                self.driver.recv(id).map_err(io::Error::from)
            }
            _ => Err(cancelled()),
        };
        match (issued, self.connection(handle)) {
            (Ok(op), Some(Member::Connection { recv, .. })) => *recv = Some(op),
            (Ok(_), _) => {}
            (Err(error), _) => {
                handle.inner.receiving.store(false, Ordering::Release);
                self.call(handle, |service, port| {
                    let failure = Failure { operation: Operation::Recv, error };
                    service.failed(port, handle, failure);
                });
            }
        }
    }

    fn send(&mut self, handle: &SocketHandle<S>, data: Bytes, write: S::Write, sync: bool) {
        let bytes = data.len();
        let issued = match self.connection(handle) {
            Some(Member::Connection { id, .. }) => {
                let id = *id;
                // Refused: an earlier send failed, so that this one is cancelled.
                self.driver.send(id, [data]).map_err(|_| cancelled())
            }
            _ => Err(cancelled()),
        };
        match (issued, self.connection(handle)) {
            (Ok(op), Some(Member::Connection { writes, .. })) => {
                writes.push_back(PendingWrite { op, write, sync, bytes });
            }
            (Ok(op), _) => {
                self.sent(handle, PendingWrite { op, write, sync, bytes }, Err(cancelled()))
            }
            (Err(error), _) => {
                let op = OpId::NONE;
                self.sent(handle, PendingWrite { op, write, sync, bytes }, Err(error));
            }
        }
    }

    fn dispatch(&mut self, completion: Completion) {
        let Completion { op, tag, event, .. } = completion;
        let Some(member) = self.sockets.get_mut(tag as u32, (tag >> 32) as u32) else { return };
        match (event, member) {
            (Event::Accepted(accepted), Member::Listener { listening, .. }) => {
                let listening = listening.clone();
                self.accepted(accepted, &listening);
            }
            (Event::AcceptFailed(error), Member::Listener { listening, .. }) => {
                let listening = listening.clone();
                self.call_listening(&listening, error);
            }
            (Event::Received(result), Member::Connection { handle, recv, .. }) => {
                *recv = None;
                let handle = handle.clone();
                handle.inner.receiving.store(false, Ordering::Release);
                match result {
                    Ok(received) => {
                        let mut data = ReadBuffer { data: received.pooled };
                        self.call(&handle, |service, port| {
                            service.received(port, &handle, &mut data);
                        });
                        self.driver.recycle_mut(data.data);
                    }
                    Err(error) => {
                        let (operation, error) = (Operation::Recv, error.error);
                        self.call(&handle, |service, port| {
                            service.failed(port, &handle, Failure { operation, error });
                        });
                    }
                }
            }
            (Event::Sent(result), Member::Connection { handle, writes, .. }) => {
                let handle = handle.clone();
                let at = writes.iter().position(|pending| pending.op == op);
                if let Some(pending) = at.and_then(|at| writes.remove(at)) {
                    self.sent(&handle, pending, result.map(drop));
                }
            }
            (Event::Closed, _) => self.closed(tag),
            _ => {}
        }
    }

    fn accepted(&mut self, accepted: Box<Accepted>, listening: &Arc<Listening<S>>) {
        let waiting = listening.waiting.fetch_add(1, Ordering::SeqCst) + 1;
        let worker = self.shared.pick_worker();
        if worker == self.index {
            self.adopt(*accepted, listening);
            return;
        }
        if waiting >= listening.ready
            && let Some(id) = self.listener(listening)
            && !listening.paused.swap(true, Ordering::SeqCst)
        {
            // The others may have taken all of them just before they could see the pause: then there is none.
            let over = listening.waiting.load(Ordering::SeqCst) <= listening.ready / 2
                && listening.paused.swap(false, Ordering::SeqCst);
            if !over {
                // Refused while it is being closed.
                let _ = self.driver.set_ready(id, 0);
            }
        }
        let command = Command::Adopt(accepted, listening.clone());
        if self.shared.tell(worker, command).is_err() {
            // That worker has ended, and so does this one soon; the connection is closed.
            listening.waiting.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// A send is over: makes room and calls back.
    fn sent(&mut self, handle: &SocketHandle<S>, pending: PendingWrite<S>, result: io::Result<()>) {
        let PendingWrite { write, sync, bytes, .. } = pending;
        let connection = &handle.inner;
        if sync {
            connection.sync_sending.store(false, Ordering::Release);
        }
        let left = connection.queued.fetch_sub(bytes, Ordering::SeqCst) - bytes;
        self.call(handle, |service, port| match result {
            Ok(()) => service.sent(port, handle, write),
            Err(error) => {
                let operation =
                    if sync { Operation::SyncSend(write) } else { Operation::AsyncSend(write) };
                service.failed(port, handle, Failure { operation, error });
            }
        });
        if left <= self.shared.send_limit / 2
            && connection.refused_full.swap(false, Ordering::SeqCst)
            && !connection.gone.load(Ordering::Acquire)
        {
            self.call(handle, |service, port| service.writable(port, handle));
        }
    }

    fn closed(&mut self, place: u64) {
        if let Some(Member::Connection { handle, .. }) =
            self.sockets.remove(place as u32, (place >> 32) as u32)
        {
            handle.inner.place.store(NOWHERE, Ordering::Relaxed);
            self.call(&handle, |service, port| service.removed(port, &handle));
        }
    }

    /// Calls the application; a panic ends the connection, not the worker.
    fn call(&self, handle: &SocketHandle<S>, callback: impl FnOnce(&S, &Port<S>)) {
        let call = AssertUnwindSafe(|| callback(&self.shared.service, &self.port));
        if catch_unwind(call).is_err() {
            tracing::error!("a callback panicked; its socket is removed");
            self.shared.remove(handle);
        }
    }

    fn call_listening(&self, listening: &Listening<S>, error: io::Error) {
        let call = AssertUnwindSafe(|| {
            self.shared.service.accept_failed(&self.port, &listening.state, error);
        });
        if catch_unwind(call).is_err() {
            tracing::error!("a callback panicked");
        }
    }
}
