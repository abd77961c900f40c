//! A socket in a driver and what is going on with it; common to all drivers.

use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use bytes::BytesMut;
use socket2::{SockAddr, Socket};

use crate::send_queue::SendQueue;
use crate::udp::Udp;
use crate::{OpId, SocketId};

/// What is to become of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    /// It takes operations.
    Open,
    /// It goes back to the user when nothing is going on any more.
    Detaching,
    /// It is closed when nothing is in the kernel any more.
    Closing,
}

/// A socket.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) socket: Socket,
    pub(crate) id: SocketId,
    pub(crate) tag: u64,
    pub(crate) life: Life,
    /// It is in the driver's list of sockets to look at.
    pub(crate) dirty: bool,
    /// Kernel operations that refer to this entry (io_uring).
    pub(crate) in_flight: u32,
    /// The serial of the last operation.
    pub(crate) serial: u64,
    pub(crate) body: Body,
}

/// What kind of socket it is. Only streams are many, so the others are boxed.
#[derive(Debug)]
#[expect(clippy::large_enum_variant)]
pub(crate) enum Body {
    Stream(Stream),
    Listener(Box<Listener>),
    Udp(Box<Udp>),
}

impl Entry {
    pub(crate) fn new(socket: Socket, id: SocketId, tag: u64, body: Body) -> Entry {
        let life = Life::Open;
        Entry { socket, id, tag, life, dirty: false, in_flight: 0, serial: 0, body }
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    pub(crate) fn op(&self, serial: u64) -> OpId {
        OpId { socket: self.id, serial }
    }

    pub(crate) fn stream(&mut self) -> Option<&mut Stream> {
        match &mut self.body {
            Body::Stream(stream) => Some(stream),
            _ => None,
        }
    }

    pub(crate) fn listener(&mut self) -> Option<&mut Listener> {
        match &mut self.body {
            Body::Listener(listener) => Some(listener),
            _ => None,
        }
    }

    pub(crate) fn udp(&mut self) -> Option<&mut Udp> {
        match &mut self.body {
            Body::Udp(udp) => Some(udp),
            _ => None,
        }
    }
}

/// A stream socket.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) connect: Option<Connect>,
    pub(crate) recv: Option<Recv>,
    pub(crate) send: SendQueue,
    /// No receive may be issued any more.
    pub(crate) recv_over: bool,
    /// No send may be issued any more.
    pub(crate) send_over: bool,
    /// The sending side is to be shut down after the queue.
    pub(crate) shutdown: bool,
    /// A read may bring something; false after one that came up short until the next edge.
    pub(crate) readable: bool,
    /// A write may take something; false after one that came up short until the next edge.
    pub(crate) writable: bool,
    /// The peer's end or an error was signalled: there will be no further edge, so reads are always tried.
    pub(crate) hangup: bool,
    /// The send in the kernel posts a completion only if it fails (io_uring).
    pub(crate) silent: bool,
    /// How often in a row sends have waited for one more receive.
    held: u8,
    /// The turn in which a receive completed while sends waited: the application has not answered to it before the next.
    received_in: u32,
    /// What the kernel reads during its send operation (io_uring).
    pub(crate) send_frame: Option<Box<SendFrame>>,
}

impl Stream {
    pub(crate) fn new(connect: Option<Connect>) -> Stream {
        Stream {
            connect,
            recv: None,
            send: SendQueue::default(),
            recv_over: false,
            send_over: false,
            shutdown: false,
            readable: true,
            writable: true,
            hangup: false,
            silent: false,
            held: 0,
            received_in: 0,
            send_frame: None,
        }
    }

    /// Whether queued sends wait for one more receive, because there is more to be read: what the application answers to
    /// it then leaves in the same system call, and wakes the peer once. Not for long, and not for much.
    pub(crate) fn holds_back(&mut self, turn: u32) -> bool {
        let more = self.received_in == turn || (self.readable && self.recv.is_some());
        let holds = more
            && self.held < HELD_TURNS
            && !self.send.is_empty()
            && self.send.queued() < HELD_BYTES
            && !self.send.is_locked();
        self.held = if holds { self.held + 1 } else { 0 };
        holds
    }

    /// Whether a receive completed in this turn while sends waited.
    pub(crate) fn received_in(&self, turn: u32) -> bool {
        self.received_in == turn
    }

    /// Notes a receive that brought something.
    pub(crate) fn note_received(&mut self, turn: u32) {
        if !self.send.is_empty() {
            self.received_in = turn;
        }
    }
}

/// Sends wait for receives at most so many times in a row...
const HELD_TURNS: u8 = 16;
/// ... and not with so many bytes.
const HELD_BYTES: usize = 256 << 10;

/// An attempt to connect.
#[derive(Debug)]
pub(crate) struct Connect {
    pub(crate) serial: u64,
    /// On the heap: the kernel reads it until the attempt is over.
    pub(crate) addr: Box<SockAddr>,
    pub(crate) started: bool,
}

/// A receive that waits.
#[derive(Debug)]
pub(crate) struct Recv {
    pub(crate) serial: u64,
    pub(crate) direct: Option<BytesMut>,
    pub(crate) want: usize,
    /// The kernel has it (io_uring).
    pub(crate) submitted: bool,
    /// It was asked to be cancelled while the kernel had it (io_uring).
    pub(crate) cancel: bool,
    /// A buffer that the kernel fills at once or not at all (io_uring).
    pub(crate) hot: Option<BytesMut>,
    /// What the kernel fills (io_uring, receives with a direct buffer).
    pub(crate) frame: Option<Box<RecvFrame>>,
}

/// The memory that a vectored kernel receive refers to, kept until its completion.
#[derive(Debug)]
pub(crate) struct RecvFrame {
    pub(crate) header: libc::msghdr,
    pub(crate) iovecs: [libc::iovec; 2],
    pub(crate) pooled: BytesMut,
}

impl RecvFrame {
    pub(crate) fn new() -> RecvFrame {
        let nothing = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        let header = crate::sys::empty_msghdr();
        RecvFrame { header, iovecs: [nothing; 2], pooled: BytesMut::new() }
    }
}

/// The memory that a vectored kernel send refers to, kept until its completion.
#[derive(Debug)]
pub(crate) struct SendFrame {
    pub(crate) header: libc::msghdr,
    pub(crate) iovecs: Vec<libc::iovec>,
}

/// A listening socket.
#[derive(Debug)]
pub(crate) struct Listener {
    /// Most connections that wait for delivery.
    pub(crate) ready: usize,
    /// Accepted and not delivered.
    pub(crate) pool: std::collections::VecDeque<Socket>,
    /// The backlog may hold a connection (epoll).
    pub(crate) readable: bool,
    /// The kernel accepts on its own (io_uring).
    pub(crate) armed: bool,
    /// The kernel was asked to stop accepting (io_uring).
    pub(crate) stopping: bool,
    /// Accepting is paused until a timer fires.
    pub(crate) paused: bool,
    /// Shortages in a row.
    pub(crate) shortages: u32,
    /// Given up for a moment to turn a connection away when descriptors have run out.
    pub(crate) reserve: Option<File>,
}

impl Listener {
    pub(crate) fn new(ready: usize) -> Listener {
        Listener {
            ready,
            pool: std::collections::VecDeque::new(),
            readable: true,
            armed: false,
            stopping: false,
            paused: false,
            shortages: 0,
            reserve: crate::sys::reserve_descriptor(),
        }
    }

    /// How long to pause after the present shortage: 20 ms doubling to 1 s.
    pub(crate) fn pause(&self) -> Duration {
        Duration::from_millis(20 << self.shortages.saturating_sub(1).min(5))
            .min(Duration::from_secs(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_stream_takes_few_bytes() {
        assert!(size_of::<Entry>() <= 320, "{}", size_of::<Entry>());
    }
}
