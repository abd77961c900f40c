//! The driver: its public face, and what its backends have in common.

mod buffer_ring;
mod epoll;
mod uring;

use std::io;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use socket2::{SockAddr, SockRef, Socket};

use crate::Without;
use crate::core::Core;
use crate::entry::{Body, Connect, Life, Listener, Recv, Stream};
use crate::error::cancelled;
use crate::send_queue::CancelOutcome;
use crate::timer::Purpose;
use crate::udp::{self, Batch, Udp, Unsent};
use crate::waker::Waker;
use crate::{
    Completion, DriverChoice, DriverConfig, DriverKind, Event, IssueError, OpId, SentNow, SocketId,
    TimerId, Transmit, TransmitRef, UdpCapabilities, UdpOptions, sys,
};
use epoll::Epoll;
use uring::Uring;

/// Waits without asking the kernel for more while there is something to report: every so many, the kernel is asked.
const TURNS_WITHOUT_POLL: u32 = 4;

/// Receiving datagrams puts their addresses and trains into the same buffers.
const MIN_DATAGRAM_BUFFER: usize = 4096;

/// How much a cancelled operation may have done, in ASIO's words.
///
/// | operation | `Total` | `Partial` | `Terminal` |
/// | --- | --- | --- | --- |
/// | `recv`, `recv_into` | takes effect: nothing was received | the same | the same, and later receives are refused |
/// | `send` of which the kernel has nothing | taken out of the queue, later sends follow | the same | taken out together with all later sends; further ones are refused |
/// | `send` of which the kernel has a part, or may have | refused | stops; the completion tells how many bytes the peer will see, later sends follow right behind them | stops, and all later ones; further ones are refused |
/// | `connect` | refused | refused | stops; only closing is left |
/// | `udp_recv` | takes effect | the same | the same |
/// | `udp_send` of which the kernel has nothing | taken out | taken out | taken out |
/// | `udp_send` of which the kernel has a part | refused | the rest is not sent; the completion tells how many bytes were | the same |
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CancelGrade {
    /// The operation may have had any effect. That direction of the socket takes no more operations; only closing
    /// is left.
    Terminal,
    /// The operation may have had a part of its effect, which its completion reports exactly; the socket stays good.
    Partial,
    /// The operation has no effect, or the cancellation is refused and it goes on.
    Total,
}

/// Counters of a driver since it was built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct DriverStats {
    /// Sockets in the driver now.
    pub sockets: u64,
    /// Operations in the kernel now (io_uring; zero with epoll).
    pub in_flight: u64,
    /// System calls made, without those that add, remove or ask about a socket.
    pub system_calls: u64,
    /// Times that `wait` put the thread to sleep.
    pub parks: u64,
    /// Wake-ups reported.
    pub wakes: u64,
    /// Receive buffers allocated.
    pub buffers_allocated: u64,
    /// Receive buffers taken back by `recycle`.
    pub buffers_recycled: u64,
    /// Times that accepting paused for want of descriptors or memory.
    pub accept_pauses: u64,
    /// Times that a datagram offload was switched off because the system refused it.
    pub offload_fallbacks: u64,
}

/// How long a backend may wait for events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Timeout {
    None,
    After(Duration),
    Infinite,
}

/// What a backend does; one file each.
///
/// - `register` and `forget`: a socket comes, a socket goes.
/// - `progress`: do, or hand to the kernel, whatever the entry asks for and is not under way.
/// - `cancel_kernel`: ask the kernel to end one of the operations that the entry has in flight.
/// - `poll`: hand over what is prepared, look for events, update entries and report.
/// - `shut_down`: end everything and return when the kernel refers to no memory of `core` any more.
trait System {
    fn register(&mut self, core: &mut Core, id: SocketId) -> io::Result<()>;
    fn forget(&mut self, core: &mut Core, id: SocketId);
    fn progress(&mut self, core: &mut Core, id: SocketId);
    fn cancel_kernel(&mut self, core: &mut Core, id: SocketId, what: KernelOp);
    fn poll(&mut self, core: &mut Core, timeout: Timeout) -> io::Result<()>;
    /// Whether `poll` without waiting would do something that must not wait for the next sleep.
    fn has_prepared(&mut self) -> bool;
    /// Whether `poll` may find something; asked while spinning, so it must be cheap.
    fn may_have_events(&mut self) -> bool;
    fn shut_down(&mut self, core: &mut Core);
}

/// The operations of a socket that can be in the kernel, at most one of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum KernelOp {
    Recv = 1,
    Send = 2,
    Accept = 3,
    Connect = 4,
    Datagrams = 5,
    DatagramRoom = 6,
}

/// Completion I/O for one thread; see the [crate] for its rules.
#[derive(Debug)]
pub struct Driver {
    // Declared before `core`: a backend that is dropped refers to nothing any more.
    system: Box<dyn System>,
    core: Core,
    kind: DriverKind,
    fallback_reason: Option<String>,
    turns: u32,
    one_thread: PhantomData<*const ()>,
}

impl std::fmt::Debug for dyn System {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("System")
    }
}

impl Driver {
    /// Builds a driver for the calling thread.
    ///
    /// Errors: `InvalidInput` names a field of the configuration that is out of range; anything else is the
    /// system's refusal (with [`DriverChoice::Auto`]: epoll's).
    pub fn new(config: &DriverConfig) -> io::Result<Driver> {
        config.check()?;
        let mut core = Core::new(config)?;
        let mut fallback_reason = None;
        let mut ring: Option<Box<dyn System>> = None;
        if config.kind != DriverChoice::Epoll {
            match Uring::new(&mut core) {
                Ok(uring) => ring = Some(Box::new(uring)),
                Err(error) if config.kind == DriverChoice::IoUring => return Err(error),
                Err(error) => fallback_reason = Some(error.to_string()),
            }
        }
        let (system, kind) = match ring {
            Some(ring) => (ring, DriverKind::IoUring),
            None => (Box::new(Epoll::new(&core)?) as Box<dyn System>, DriverKind::Epoll),
        };
        tracing::debug!(driver = %kind, fallback_reason, "driver built");
        Ok(Driver { system, core, kind, fallback_reason, turns: 0, one_thread: PhantomData })
    }

    /// Which driver was built.
    pub fn kind(&self) -> DriverKind {
        self.kind
    }

    /// Why [`DriverChoice::Auto`] did not take io_uring.
    pub fn fallback_reason(&self) -> Option<&str> {
        self.fallback_reason.as_deref()
    }

    /// A handle that wakes this driver from any thread.
    pub fn waker(&self) -> Waker {
        self.core.waker.clone()
    }

    /// Adds a listening stream socket and accepts from now on; each connection is an
    /// [`Event::Accepted`]. At most `ready` accepted connections wait inside the driver, and one `wait` reports no
    /// more than that (io_uring may exceed both by what the kernel accepted before it noticed); the rest wait in the
    /// kernel's backlog. Zero accepts nothing until [`set_ready`](Self::set_ready).
    pub fn listen(&mut self, listener: Socket, ready: usize, tag: u64) -> io::Result<SocketId> {
        self.add(listener, tag, Body::Listener(Box::new(Listener::new(ready))))
    }

    /// Changes the number of ready connections of a listener; zero pauses accepting.
    pub fn set_ready(&mut self, id: SocketId, ready: usize) -> Result<(), IssueError> {
        let listener = self.core.open_entry(id)?.listener().ok_or(IssueError::WrongKind)?;
        listener.ready = ready;
        let stop = ready == 0 && listener.armed && !listener.stopping;
        if stop {
            self.system.cancel_kernel(&mut self.core, id, KernelOp::Accept);
        }
        self.core.touch(id);
        Ok(())
    }

    /// Adds a connected stream socket (TCP or Unix). Nothing happens on it until an operation is issued.
    pub fn attach(&mut self, stream: Socket, tag: u64) -> io::Result<SocketId> {
        self.add(stream, tag, Body::Stream(Stream::new(None)))
    }

    /// Adds a stream socket and connects it; ends with [`Event::Connected`]. Receives and
    /// sends may be issued at once and start when the connection is there; if it fails they are cancelled.
    pub fn connect(&mut self, socket: Socket, addr: &SockAddr, tag: u64) -> io::Result<SocketId> {
        let connect = Connect { serial: 1, addr: Box::new(addr.clone()), started: false };
        let id = self.add(socket, tag, Body::Stream(Stream::new(Some(connect))))?;
        if let Some(entry) = self.core.entry(id) {
            entry.serial = 1;
        }
        self.core.touch(id);
        Ok(id)
    }

    /// Adds a bound datagram socket with all offloads that the system has.
    pub fn udp(&mut self, socket: Socket, tag: u64) -> io::Result<SocketId> {
        self.udp_with(socket, tag, UdpOptions::default())
    }

    /// Adds a bound datagram socket with the offloads asked for, as far as the system has them.
    pub fn udp_with(
        &mut self,
        socket: Socket,
        tag: u64,
        options: UdpOptions,
    ) -> io::Result<SocketId> {
        if self.core.pool.size() < MIN_DATAGRAM_BUFFER {
            let message = "datagram sockets need receive buffers of 4 KiB or more";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let without = self.core.config.without;
        let options = UdpOptions {
            gso: options.gso && !without.has(Without::GSO),
            gro: options.gro && !without.has(Without::GRO),
            ..options
        };
        let udp = Udp::new(&socket, options)?;
        self.add(socket, tag, Body::Udp(Box::new(udp)))
    }

    fn add(&mut self, socket: Socket, tag: u64, body: Body) -> io::Result<SocketId> {
        socket.set_nonblocking(true)?;
        let listening = matches!(body, Body::Listener(_));
        let id = self.core.insert(socket, tag, body);
        if let Err(error) = self.system.register(&mut self.core, id) {
            self.core.sockets.remove(id.index, id.generation);
            return Err(error);
        }
        if listening {
            self.core.touch(id);
        }
        Ok(id)
    }

    /// Receives once into a pooled buffer; ends with [`Event::Received`]. One receive may be
    /// outstanding per socket. A socket that waits holds no buffer.
    pub fn recv(&mut self, id: SocketId) -> Result<OpId, IssueError> {
        self.issue_recv(id, None, 0)
    }

    /// Receives once: up to `want` bytes (at most the spare capacity) straight behind the contents of `buffer`,
    /// and what comes beyond that, in the same system call, into a pooled buffer, of which only 4 KiB
    /// are offered. The buffer comes back with the completion. For large messages whose length is known. On [`IssueError`] the buffer is dropped.
    pub fn recv_into(
        &mut self,
        id: SocketId,
        buffer: BytesMut,
        want: usize,
    ) -> Result<OpId, IssueError> {
        self.issue_recv(id, Some(buffer), want)
    }

    fn issue_recv(
        &mut self,
        id: SocketId,
        direct: Option<BytesMut>,
        want: usize,
    ) -> Result<OpId, IssueError> {
        let entry = self.core.open_entry(id)?;
        let serial = entry.serial + 1;
        let op = entry.op(serial);
        let stream = entry.stream().ok_or(IssueError::WrongKind)?;
        if stream.recv.is_some() {
            return Err(IssueError::Busy);
        }
        if stream.recv_over {
            return Err(IssueError::Closing);
        }
        stream.recv = Some(Recv {
            serial,
            direct,
            want,
            submitted: false,
            cancel: false,
            hot: None,
            frame: None,
        });
        entry.serial = serial;
        self.core.touch(id);
        Ok(op)
    }

    /// Queues `data` behind what is queued already; ends with [`Event::Sent`] when all of it is
    /// in the kernel. Any number may be outstanding. After a failure all later ones complete cancelled. There is no
    /// bound here: the caller bounds by [`queued`](Self::queued).
    pub fn send(
        &mut self,
        id: SocketId,
        data: impl IntoIterator<Item = Bytes>,
    ) -> Result<OpId, IssueError> {
        self.issue_send(id, data, false)
    }

    /// Like [`send`](Self::send), but success is not reported, so that a small reply costs no extra turn of the
    /// loop. A failure or cancellation is reported by [`Event::Sent`] as ever.
    pub fn post(
        &mut self,
        id: SocketId,
        data: impl IntoIterator<Item = Bytes>,
    ) -> Result<OpId, IssueError> {
        self.issue_send(id, data, true)
    }

    fn issue_send(
        &mut self,
        id: SocketId,
        data: impl IntoIterator<Item = Bytes>,
        quiet: bool,
    ) -> Result<OpId, IssueError> {
        let entry = self.core.open_entry(id)?;
        let serial = entry.serial + 1;
        let op = entry.op(serial);
        let stream = entry.stream().ok_or(IssueError::WrongKind)?;
        if stream.send_over {
            return Err(IssueError::Closing);
        }
        stream.send.push(serial, quiet, data);
        entry.serial = serial;
        self.core.touch(id);
        Ok(op)
    }

    /// Bytes given to `send` or `post` (stream) or `udp_send` (datagram) and not yet in the kernel.
    pub fn queued(&self, id: SocketId) -> usize {
        match self.core.sockets.get(id.index, id.generation).map(|entry| &entry.body) {
            Some(Body::Stream(stream)) => stream.send.queued(),
            Some(Body::Udp(udp)) => udp.queued,
            Some(Body::Listener(_)) | None => 0,
        }
    }

    /// Ends the sending side (FIN) after the queued sends. Later sends are refused.
    pub fn shutdown_write(&mut self, id: SocketId) {
        if let Ok(entry) = self.core.open_entry(id)
            && let Some(stream) = entry.stream()
            && !stream.send_over
        {
            (stream.send_over, stream.shutdown) = (true, true);
            self.core.touch(id);
        }
    }

    /// Asks to cancel an operation. `false`: no such operation is outstanding, or the grade cannot be kept any more;
    /// it goes on as if never asked. `true`: it will complete, by `ECANCELED` or, if it was faster, with its
    /// result. A cancelled send may complete ahead of earlier ones. See [`CancelGrade`] for what each grade means
    /// for each operation.
    pub fn cancel(&mut self, op: OpId, grade: CancelGrade) -> bool {
        let Some(entry) = self.core.entry(op.socket) else { return false };
        let accepted = match &entry.body {
            Body::Stream(_) => self.cancel_stream(op, grade),
            Body::Udp(_) => self.cancel_datagrams(op, grade),
            Body::Listener(_) => false,
        };
        if accepted {
            self.core.touch(op.socket);
        }
        accepted
    }

    fn cancel_stream(&mut self, op: OpId, grade: CancelGrade) -> bool {
        let Driver { core, system, .. } = self;
        let Some(entry) = core.entry(op.socket) else { return false };
        let (tag, in_kernel) = (entry.tag, entry.in_flight > 0);
        let Some(stream) = entry.stream() else { return false };
        let terminal = grade == CancelGrade::Terminal;
        if stream.connect.as_ref().is_some_and(|connect| connect.serial == op.serial) {
            if terminal && in_kernel {
                system.cancel_kernel(core, op.socket, KernelOp::Connect);
            } else if terminal {
                core.end_connect(op.socket, Err(cancelled()));
            }
            return terminal;
        }
        if let Some(recv) = stream.recv.as_ref().filter(|recv| recv.serial == op.serial) {
            let submitted = recv.submitted;
            stream.recv_over |= terminal;
            if submitted {
                system.cancel_kernel(core, op.socket, KernelOp::Recv);
            } else {
                core.cancel_recv(op.socket);
            }
            return true;
        }
        let mut removed = Vec::new();
        let outcome = stream.send.cancel(op.serial, grade, |op| removed.push(op));
        if outcome != CancelOutcome::Refused && terminal {
            (stream.send_over, stream.shutdown) = (true, false);
        }
        core.report_removed(op.socket, tag, removed);
        if outcome == CancelOutcome::InKernel {
            system.cancel_kernel(core, op.socket, KernelOp::Send);
        }
        outcome != CancelOutcome::Refused
    }

    fn cancel_datagrams(&mut self, op: OpId, grade: CancelGrade) -> bool {
        let Driver { core, system, .. } = self;
        let Some(entry) = core.entry(op.socket) else { return false };
        let tag = entry.tag;
        let Some(udp) = entry.udp() else { return false };
        if udp.recv == Some(op.serial) {
            if udp.recv_submitted {
                system.cancel_kernel(core, op.socket, KernelOp::Datagrams);
            } else {
                udp.recv = None;
                core.report(op, tag, Event::DatagramsEnded(cancelled()));
            }
            return true;
        }
        let Some(outcome) = udp.cancel_send(op.serial, grade) else { return false };
        core.report_datagrams(op.socket, tag, outcome);
        true
    }

    /// Takes a socket out of the driver, ready for another one: a waiting receive is cancelled, queued sends are
    /// finished, then [`Event::Detached`] hands the socket back. A peer that does not read
    /// can hold this up for ever: cancel the sends or close.
    pub fn detach(&mut self, id: SocketId) {
        self.leave(id, Life::Detaching);
    }

    /// Closes a socket: every operation on it completes (`ECANCELED` unless it was faster), then comes
    /// [`Event::Closed`], and the descriptor is closed. Queued bytes are discarded; what the
    /// kernel has it still delivers, by the rules of the socket's linger option.
    pub fn close(&mut self, id: SocketId) {
        self.leave(id, Life::Closing);
    }

    fn leave(&mut self, id: SocketId, life: Life) {
        let Driver { core, system, .. } = self;
        let Some(entry) = core.entry(id) else { return };
        if entry.life == Life::Closing || entry.life == life {
            return;
        }
        entry.life = life;
        let closing = life == Life::Closing;
        let in_kernel = entry.in_flight > 0;
        if in_kernel {
            let (mut ops, mut count) = ([KernelOp::Recv; 3], 0);
            let mut add = |op| {
                ops[count] = op;
                count += 1;
            };
            match &entry.body {
                Body::Stream(stream) => {
                    if stream.recv.as_ref().is_some_and(|recv| recv.submitted) {
                        add(KernelOp::Recv);
                    }
                    if closing && stream.send.is_locked() {
                        add(KernelOp::Send);
                    }
                    if closing && stream.connect.is_some() {
                        add(KernelOp::Connect);
                    }
                }
                Body::Listener(_) => add(KernelOp::Accept),
                Body::Udp(udp) => {
                    if udp.recv_submitted {
                        add(KernelOp::Datagrams);
                    }
                    if closing && udp.send_polled {
                        add(KernelOp::DatagramRoom);
                    }
                }
            }
            for op in &ops[..count] {
                system.cancel_kernel(core, id, *op);
            }
        }
        if closing {
            core.abandon(id);
        } else {
            core.cancel_recv(id);
            core.cancel_datagram_recv(id);
            core.deliver_accepted(id);
        }
        settle(system.as_mut(), core, id);
        core.touch(id);
    }

    /// The socket, for options and queries. Do not read, write or change its blocking mode.
    pub fn socket(&self, id: SocketId) -> Option<SockRef<'_>> {
        self.core.sockets.get(id.index, id.generation).map(|entry| SockRef::from(&entry.socket))
    }

    /// The local address of an IP socket.
    pub fn local_addr(&self, id: SocketId) -> Option<SocketAddr> {
        self.socket(id)?.local_addr().ok()?.as_socket()
    }

    /// Starts receiving datagrams: [`Event::Datagrams`] until the operation is cancelled.
    pub fn udp_recv(&mut self, id: SocketId) -> Result<OpId, IssueError> {
        let entry = self.core.open_entry(id)?;
        let serial = entry.serial + 1;
        let op = entry.op(serial);
        let udp = entry.udp().ok_or(IssueError::WrongKind)?;
        if udp.recv.is_some() {
            return Err(IssueError::Busy);
        }
        (udp.recv, udp.recv_cancel) = (Some(serial), false);
        entry.serial = serial;
        self.core.touch(id);
        Ok(op)
    }

    /// Queues datagrams; ends with [`Event::DatagramsSent`]. Any number may be
    /// outstanding; bound it by [`queued`](Self::queued). A datagram longer than 65,507 bytes is
    /// [`IssueError::Invalid`], as is a segment size of zero.
    pub fn udp_send(&mut self, id: SocketId, transmit: Transmit) -> Result<OpId, IssueError> {
        let entry = self.core.open_entry(id)?;
        let serial = entry.serial + 1;
        let op = entry.op(serial);
        let udp = entry.udp().ok_or(IssueError::WrongKind)?;
        let length = transmit.contents.len();
        let datagram = transmit.segment_size.unwrap_or(length);
        if datagram.min(length) > udp::MAX_DATAGRAM || transmit.segment_size == Some(0) {
            return Err(IssueError::Invalid);
        }
        udp.queued += length;
        udp.queue.push_back(Unsent::new(serial, transmit));
        entry.serial = serial;
        self.core.touch(id);
        Ok(op)
    }

    /// Sends datagrams in this call, straight from the caller's memory: no copy, no completion. Only what a full
    /// socket does not take is copied and queued, as by [`udp_send`](Self::udp_send). The limits are those of `udp_send`.
    pub fn udp_send_now(
        &mut self,
        id: SocketId,
        transmits: &[TransmitRef<'_>],
    ) -> Result<SentNow, IssueError> {
        let is_invalid = |transmit: &TransmitRef<'_>| {
            let length = transmit.contents.len();
            let datagram = transmit.segment_size.unwrap_or(length);
            datagram.min(length) > udp::MAX_DATAGRAM || transmit.segment_size == Some(0)
        };
        if transmits.iter().any(is_invalid) {
            return Err(IssueError::Invalid);
        }
        let mut batch = self.core.datagram_batch.take().unwrap_or_else(Batch::new);
        let sent = self.send_datagrams(id, &mut batch, transmits);
        self.core.datagram_batch = Some(batch);
        sent
    }

    fn send_datagrams(
        &mut self,
        id: SocketId,
        batch: &mut Batch,
        transmits: &[TransmitRef<'_>],
    ) -> Result<SentNow, IssueError> {
        let entry = self.core.open_entry(id)?;
        let (fd, serial) = (entry.fd(), entry.serial);
        let udp = entry.udp().ok_or(IssueError::WrongKind)?;
        let (mut now, left, (calls, fallbacks)) = udp.send_now(fd, batch, transmits);
        now.queued = udp.queue_rest(transmits, left, serial);
        if now.queued > 0 {
            entry.serial += now.queued as u64;
            self.core.touch(id);
        }
        self.core.stats.system_calls += calls;
        self.core.stats.offload_fallbacks += fallbacks;
        Ok(now)
    }

    /// What a datagram socket can do.
    pub fn udp_capabilities(&self, id: SocketId) -> Option<UdpCapabilities> {
        match &self.core.sockets.get(id.index, id.generation)?.body {
            Body::Udp(udp) => Some(udp.capabilities),
            _ => None,
        }
    }

    /// Starts a timer: [`Event::Timer`] with `tag` when `at` has come. Timers that are due
    /// together are reported in order of their times, equal ones in order of setting.
    pub fn set_timer(&mut self, at: Instant, tag: u64) -> TimerId {
        self.core.timers.set(at, Purpose::User(tag))
    }

    /// Stops a timer. `false`: it is not running (any more).
    pub fn cancel_timer(&mut self, timer: TimerId) -> bool {
        self.core.timers.cancel(timer)
    }

    /// Submits what was issued, waits, and appends what completed to `out`. Returns when there is at least one
    /// completion (a wake-up is one), or `until` has passed; `None` waits without end, a time in the past never
    /// waits.
    pub fn wait(&mut self, until: Option<Instant>, out: &mut Vec<Completion>) -> io::Result<()> {
        let result = self.turn(until);
        let ready = &mut self.core.ready;
        if out.is_empty() {
            std::mem::swap(out, ready);
        } else {
            out.append(ready);
        }
        result
    }

    fn turn(&mut self, until: Option<Instant>) -> io::Result<()> {
        self.core.turn = self.core.turn.wrapping_add(1).max(1);
        self.progress();
        self.core.fire_timers();
        if self.core.waker.take() {
            self.core.report_woken();
        }
        if !self.core.ready.is_empty() {
            // There is something to report: only hand over what is prepared, and now and then look for more, so
            // that sockets which are always ready do not starve the others.
            self.turns = self.turns.wrapping_add(1);
            if self.turns.is_multiple_of(TURNS_WITHOUT_POLL) || self.system.has_prepared() {
                self.system.poll(&mut self.core, Timeout::None)?;
            }
            return Ok(());
        }
        let mut spin = !self.core.config.spin.is_zero();
        loop {
            let deadline = earlier(until, self.core.timers.next());
            let timeout = match deadline {
                _ if !self.core.dirty.is_empty() => Timeout::None,
                None => Timeout::Infinite,
                Some(at) => match at.saturating_duration_since(Instant::now()) {
                    Duration::ZERO => Timeout::None,
                    duration => Timeout::After(duration),
                },
            };
            if timeout == Timeout::None {
                self.system.poll(&mut self.core, timeout)?;
            } else if spin {
                spin = false;
                self.spin(deadline)?;
            } else {
                self.sleep(timeout)?;
            }
            self.core.fire_timers();
            self.progress();
            let over = || until.is_some_and(|until| until <= Instant::now());
            if !self.core.ready.is_empty() || over() {
                return Ok(());
            }
        }
    }

    /// Looks for events again and again, without sleeping, for the time configured.
    fn spin(&mut self, deadline: Option<Instant>) -> io::Result<()> {
        let end = Instant::now() + self.core.config.spin;
        let end = deadline.map_or(end, |deadline| deadline.min(end));
        self.system.poll(&mut self.core, Timeout::None)?;
        while self.core.ready.is_empty() {
            if self.core.waker.take() {
                self.core.report_woken();
            } else if self.system.may_have_events() {
                self.system.poll(&mut self.core, Timeout::None)?;
            } else {
                std::hint::spin_loop();
            }
            if Instant::now() >= end {
                break;
            }
        }
        Ok(())
    }

    fn sleep(&mut self, timeout: Timeout) -> io::Result<()> {
        if !self.core.waker.park() {
            if self.core.waker.take() {
                self.core.report_woken();
            }
            return Ok(());
        }
        self.core.stats.parks += 1;
        let result = self.system.poll(&mut self.core, timeout);
        if self.core.waker.unpark() {
            self.core.report_woken();
        }
        result
    }

    /// Looks at the sockets on which something was issued.
    fn progress(&mut self) {
        let Driver { core, system, .. } = self;
        if core.dirty.is_empty() {
            return;
        }
        // A socket that asks for another turn is put on the other list and has it next time.
        let mut list = std::mem::replace(&mut core.dirty, std::mem::take(&mut core.dirty_spare));
        for id in list.drain(..) {
            if let Some(entry) = core.entry(id) {
                entry.dirty = false;
                if entry.life != Life::Closing {
                    system.progress(core, id);
                }
                settle(system.as_mut(), core, id);
            }
        }
        core.dirty_spare = list;
    }

    /// Gives a pooled buffer, or a part of one, back. It is reused when nothing else refers to it, dropped
    /// otherwise.
    pub fn recycle(&mut self, buffer: Bytes) {
        self.core.recycle(buffer);
    }

    /// [`recycle`](Self::recycle) for a buffer that was not frozen.
    pub fn recycle_mut(&mut self, buffer: BytesMut) {
        self.core.recycle_mut(buffer);
    }

    /// Counters.
    pub fn stats(&self) -> DriverStats {
        let Core { stats, sockets, pool, datagram_pool, .. } = &self.core;
        DriverStats {
            sockets: sockets.len() as u64,
            buffers_allocated: pool.allocated + datagram_pool.allocated,
            buffers_recycled: pool.recycled + datagram_pool.recycled,
            ..*stats
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.system.shut_down(&mut self.core);
    }
}

fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// Ends a socket that is being closed or detached and has nothing going on any more.
#[inline]
fn settle(system: &mut dyn System, core: &mut Core, id: SocketId) {
    if core.entry(id).is_some_and(|entry| entry.life != Life::Open) && core.is_settled(id) {
        system.forget(core, id);
        core.remove(id);
    }
}

/// Shuts the sending side of a stream down if that was asked for and the queue is empty.
fn shutdown_if_due(core: &mut Core, id: SocketId) {
    if let Some(entry) = core.entry(id)
        && let Body::Stream(stream) = &mut entry.body
        && stream.shutdown
        && stream.connect.is_none()
        && stream.send.is_empty()
    {
        stream.shutdown = false;
        sys::shutdown_write(&entry.socket);
    }
}

/// Sends queued datagrams as far as the kernel takes them.
fn flush_datagrams(core: &mut Core, id: SocketId) {
    let mut batch = core.datagram_batch.take().unwrap_or_else(Batch::new);
    if let Some(entry) = core.sockets.get_mut(id.index, id.generation) {
        let (fd, tag) = (entry.fd(), entry.tag);
        let ready = &mut core.ready;
        if let Some(udp) = entry.udp() {
            let (calls, fallbacks) = udp.flush(fd, &mut batch, |outcome| {
                ready.push(outcome.completion(id, tag));
            });
            core.stats.system_calls += calls;
            core.stats.offload_fallbacks += fallbacks;
        }
    }
    core.datagram_batch = Some(batch);
}
