//! The driver: its public face.

use std::io;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use socket2::{SockAddr, SockRef, Socket};

use crate::{
    Completion, DriverConfig, DriverKind, IssueError, OpId, SocketId, TimerId, Transmit,
    UdpCapabilities, UdpOptions,
};

/// How much a cancelled operation may have done, in ASIO's words.
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
    /// Operations outstanding in the kernel now (io_uring; zero with epoll).
    pub in_flight: u64,
    /// System calls made by `wait` and by issuing.
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
    /// Times that an offload was switched off because the system refused it.
    pub offload_fallbacks: u64,
    /// Datagrams that the system dropped because the receive queue was full, where it tells.
    pub datagrams_truncated: u64,
}

/// Wakes a driver from any thread: see [`Driver::waker`].
#[derive(Debug, Clone)]
pub struct Waker {}

impl Waker {
    /// Makes the driver's present or next `wait` return with [`Event::Woken`](crate::Event::Woken). Calls until
    /// then count as one. A system call is made only when the driver is parked. Never blocks; after the driver is
    /// gone it does nothing.
    pub fn wake(&self) {
        unimplemented!()
    }
}

/// Completion I/O for one thread; see the [crate] for its rules.
#[derive(Debug)]
pub struct Driver {
    one_thread: PhantomData<*const ()>,
}

#[expect(unused_variables, clippy::unused_self)]
impl Driver {
    /// Builds a driver for the calling thread.
    ///
    /// Errors: `InvalidInput` names a field of the configuration that is out of range; anything else is the
    /// system's refusal (with [`DriverChoice::Auto`](crate::DriverChoice::Auto): epoll's).
    pub fn new(config: &DriverConfig) -> io::Result<Driver> {
        unimplemented!()
    }

    /// Which driver was built.
    pub fn kind(&self) -> DriverKind {
        unimplemented!()
    }

    /// Why [`DriverChoice::Auto`](crate::DriverChoice::Auto) did not take io_uring.
    pub fn fallback_reason(&self) -> Option<&str> {
        unimplemented!()
    }

    /// A handle that wakes this driver from any thread.
    pub fn waker(&self) -> Waker {
        unimplemented!()
    }

    /// Adds a listening stream socket and accepts from now on; each connection is an
    /// [`Event::Accepted`](crate::Event::Accepted). At most `ready` (1 or more) accepted connections wait inside
    /// the driver, and one `wait` reports no more than that; the rest wait in the kernel's backlog.
    pub fn listen(&mut self, listener: Socket, ready: usize, tag: u64) -> io::Result<SocketId> {
        unimplemented!()
    }

    /// Changes the number of ready connections of a listener; zero pauses accepting.
    pub fn set_ready(&mut self, id: SocketId, ready: usize) -> Result<(), IssueError> {
        unimplemented!()
    }

    /// Adds a connected stream socket (TCP or Unix). Nothing happens on it until an operation is issued.
    pub fn attach(&mut self, stream: Socket, tag: u64) -> io::Result<SocketId> {
        unimplemented!()
    }

    /// Adds a stream socket and connects it; ends with [`Event::Connected`](crate::Event::Connected). Receives and
    /// sends may be issued at once and start when the connection is there; if it fails they are cancelled.
    pub fn connect(&mut self, socket: Socket, addr: &SockAddr, tag: u64) -> io::Result<SocketId> {
        unimplemented!()
    }

    /// Receives once into a pooled buffer; ends with [`Event::Received`](crate::Event::Received). One receive may be
    /// outstanding per socket. A socket that waits holds no buffer.
    pub fn recv(&mut self, id: SocketId) -> Result<OpId, IssueError> {
        unimplemented!()
    }

    /// Receives once: up to `want` bytes (at most the spare capacity) straight behind the contents of `buffer`,
    /// and what comes beyond that, in the same system call, into a pooled buffer. The buffer comes back with the
    /// completion. For large messages whose length is known. On [`IssueError`] the buffer is dropped.
    pub fn recv_into(
        &mut self,
        id: SocketId,
        buffer: BytesMut,
        want: usize,
    ) -> Result<OpId, IssueError> {
        unimplemented!()
    }

    /// Queues `data` behind what is queued already; ends with [`Event::Sent`](crate::Event::Sent) when all of it is
    /// in the kernel. Any number may be outstanding. After a failure all later ones complete cancelled. There is no
    /// bound here: the caller bounds by [`queued`](Self::queued).
    pub fn send(
        &mut self,
        id: SocketId,
        data: impl IntoIterator<Item = Bytes>,
    ) -> Result<OpId, IssueError> {
        unimplemented!()
    }

    /// Like [`send`](Self::send), but success is not reported, so that a small reply costs no extra turn of the
    /// loop. A failure or cancellation is reported by [`Event::Sent`](crate::Event::Sent) as ever.
    pub fn post(
        &mut self,
        id: SocketId,
        data: impl IntoIterator<Item = Bytes>,
    ) -> Result<OpId, IssueError> {
        unimplemented!()
    }

    /// Bytes given to `send` or `post` (stream) or `udp_send` (datagram) and not yet in the kernel.
    pub fn queued(&self, id: SocketId) -> usize {
        unimplemented!()
    }

    /// Ends the sending side (FIN) after the queued sends. Later sends are refused.
    pub fn shutdown_write(&mut self, id: SocketId) {
        unimplemented!()
    }

    /// Asks to cancel an operation. `false`: no such operation is outstanding, or the grade cannot be kept any more;
    /// it goes on as if never asked. `true`: it will complete, by `ECANCELED` or, if it was faster, with its
    /// result. See [`CancelGrade`].
    pub fn cancel(&mut self, op: OpId, grade: CancelGrade) -> bool {
        unimplemented!()
    }

    /// Takes a socket out of the driver, ready for another one: a waiting receive is cancelled, queued sends are
    /// finished, then [`Event::Detached`](crate::Event::Detached) hands the socket back. A peer that does not read
    /// can hold this up for ever: cancel the sends or close.
    pub fn detach(&mut self, id: SocketId) {
        unimplemented!()
    }

    /// Closes a socket: every operation on it completes (`ECANCELED` unless it was faster), then comes
    /// [`Event::Closed`](crate::Event::Closed), and the descriptor is closed. Queued bytes are discarded; what the
    /// kernel has it still delivers, by the rules of the socket's linger option.
    pub fn close(&mut self, id: SocketId) {
        unimplemented!()
    }

    /// The socket, for options and queries. Do not read, write or change its blocking mode.
    pub fn socket(&self, id: SocketId) -> Option<SockRef<'_>> {
        unimplemented!()
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
        unimplemented!()
    }

    /// Starts receiving datagrams: [`Event::Datagrams`](crate::Event::Datagrams) until the operation is cancelled.
    pub fn udp_recv(&mut self, id: SocketId) -> Result<OpId, IssueError> {
        unimplemented!()
    }

    /// Queues datagrams; ends with [`Event::DatagramsSent`](crate::Event::DatagramsSent). Any number may be
    /// outstanding; bound it by [`queued`](Self::queued).
    pub fn udp_send(&mut self, id: SocketId, transmit: Transmit) -> Result<OpId, IssueError> {
        unimplemented!()
    }

    /// What a datagram socket can do.
    pub fn udp_capabilities(&self, id: SocketId) -> Option<UdpCapabilities> {
        unimplemented!()
    }

    /// Starts a timer: [`Event::Timer`](crate::Event::Timer) with `tag` when `at` has come. Timers that are due
    /// together are reported in order of their times, equal ones in order of setting.
    pub fn set_timer(&mut self, at: Instant, tag: u64) -> TimerId {
        unimplemented!()
    }

    /// Stops a timer. `false`: it is not running (any more).
    pub fn cancel_timer(&mut self, timer: TimerId) -> bool {
        unimplemented!()
    }

    /// Submits what was issued, waits, and appends what completed to `out`. Returns when there is at least one
    /// completion (a wake-up is one), or `until` has passed; `None` waits without end, a time in the past never
    /// waits. Interruption by a signal is not an error.
    pub fn wait(&mut self, until: Option<Instant>, out: &mut Vec<Completion>) -> io::Result<()> {
        unimplemented!()
    }

    /// Gives a pooled buffer, or a part of one, back. It is reused when nothing else refers to it, dropped
    /// otherwise.
    pub fn recycle(&mut self, buffer: Bytes) {
        unimplemented!()
    }

    /// [`recycle`](Self::recycle) for a buffer that was not frozen.
    pub fn recycle_mut(&mut self, buffer: BytesMut) {
        unimplemented!()
    }

    /// Counters.
    pub fn stats(&self) -> DriverStats {
        unimplemented!()
    }

    /// The local address of a socket, a shorthand for tests and announcements.
    pub fn local_addr(&self, id: SocketId) -> Option<SocketAddr> {
        unimplemented!()
    }
}
