//! What a driver reports, and the values that go in and out with it.

use std::io;
use std::net::{IpAddr, SocketAddr};

use bytes::{Bytes, BytesMut};
use socket2::{SockAddr, Socket};

use crate::{OpId, RecvError, SocketId, TimerId};

/// One report of [`Driver::wait`](crate::Driver::wait).
#[derive(Debug)]
pub struct Completion {
    /// The socket, or [`SocketId::NONE`] for timers and wake-ups.
    pub socket: SocketId,
    /// The operation, or [`OpId::NONE`] when the event is not the completion of one.
    pub op: OpId,
    /// The tag given with the socket or the timer; zero for wake-ups.
    pub tag: u64,
    /// What happened.
    pub event: Event,
}

/// What happened.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// A listener accepted a connection. The socket is in no driver yet.
    Accepted(Box<Accepted>),
    /// Accepting failed. The listener goes on by itself: at once after a passing failure, after a pause when the
    /// process or the system is out of descriptors or memory.
    AcceptFailed(io::Error),
    /// `connect` ended. After a failure the socket is only good for `close` or `detach`.
    Connected(io::Result<()>),
    /// `recv` or `recv_into` ended.
    Received(Result<Received, RecvError>),
    /// `send` ended: all of its bytes are in the kernel. A count below what was given is reported only for a
    /// send that was cancelled by [`CancelGrade::Partial`](crate::CancelGrade::Partial). A failed
    /// [`post`](crate::Driver::post) reports here too.
    Sent(io::Result<usize>),
    /// `close` ended: all operations have completed and the descriptor is closed. The id is stale now.
    Closed,
    /// `detach` ended: the socket, with nothing in flight on it. The id is stale now.
    Detached(Socket),
    /// A timer's time has come. The id is stale now.
    Timer(TimerId),
    /// Somebody called [`Waker::wake`](crate::Waker::wake), once or more.
    Woken,
    /// Datagrams of one peer arrived; the operation stays armed.
    Datagrams(Datagrams),
    /// The socket reported an error, for example that a destination is unreachable; the operation stays armed.
    DatagramError(io::Error),
    /// An armed `udp_recv` ended, because it was cancelled or the socket closed (`ECANCELED`), or by a failure
    /// that lasts.
    DatagramsEnded(io::Error),
    /// `udp_send` ended.
    DatagramsSent(DatagramsSent),
}

/// A connection that a listener accepted.
#[derive(Debug)]
pub struct Accepted {
    /// The connection: non-blocking and close-on-exec.
    pub socket: Socket,
    /// Our address of the connection.
    pub local: SockAddr,
    /// The peer's address.
    pub peer: SockAddr,
}

/// What a receive brought.
#[derive(Debug)]
pub struct Received {
    /// The buffer given to [`Driver::recv_into`](crate::Driver::recv_into), `direct_len` bytes longer.
    pub direct: Option<BytesMut>,
    /// How many bytes were appended to `direct`.
    pub direct_len: usize,
    /// Bytes that came in a pooled buffer, behind those in `direct`. May be empty. Give the buffer back by
    /// [`Driver::recycle`](crate::Driver::recycle) when done with it.
    pub pooled: BytesMut,
    /// The peer has closed its sending side and everything was received. No bytes come with it.
    pub end: bool,
    /// The kernel held no more at that time, so the next receive will likely wait.
    pub drained: bool,
}

impl Received {
    /// Bytes received, direct and pooled.
    pub fn len(&self) -> usize {
        self.direct_len + self.pooled.len()
    }

    /// Whether nothing was received, which is so at the end of the stream only.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Explicit congestion notification (RFC 3168 section 5), the codepoints that are not zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Ecn {
    /// ECN-capable transport, ECT(1), 0b01.
    Ect1 = 1,
    /// ECN-capable transport, ECT(0), 0b10.
    Ect0 = 2,
    /// Congestion experienced, 0b11.
    Ce = 3,
}

impl Ecn {
    /// The codepoint in the two low bits of a traffic class; `None` for not-ECT.
    pub fn from_bits(bits: u8) -> Option<Ecn> {
        match bits & 3 {
            1 => Some(Ecn::Ect1),
            2 => Some(Ecn::Ect0),
            3 => Some(Ecn::Ce),
            _ => None,
        }
    }
}

/// One or more datagrams of one peer: all are `stride` bytes long but the last, which may be shorter.
#[derive(Debug)]
pub struct Datagrams {
    /// Who sent them.
    pub peer: SocketAddr,
    /// To which of our addresses, when the system tells.
    pub local_ip: Option<IpAddr>,
    /// The congestion mark that they carry.
    pub ecn: Option<Ecn>,
    /// Bytes per datagram.
    pub stride: usize,
    /// The datagrams, one behind the other. A pooled buffer or a part of one: see
    /// [`Driver::recycle`](crate::Driver::recycle).
    pub data: BytesMut,
    /// The first datagram was longer than the receive buffer and was cut.
    pub truncated: bool,
}

/// Datagrams to send to one destination.
#[derive(Debug, Clone)]
pub struct Transmit {
    /// Where to.
    pub destination: SocketAddr,
    /// From which of our addresses; `None` lets the system choose.
    pub source: Option<IpAddr>,
    /// The congestion mark to set.
    pub ecn: Option<Ecn>,
    /// `Some(n)`: the contents are datagrams of `n` bytes each but the last, which may be shorter.
    /// `None`: one datagram.
    pub segment_size: Option<usize>,
    /// The datagrams, one behind the other: any number, split into trains that the system can take.
    pub contents: Bytes,
}

/// Datagrams to send at once from the caller's memory. The fields are those of [`Transmit`].
#[derive(Debug, Clone, Copy)]
pub struct TransmitRef<'a> {
    /// Where to.
    pub destination: SocketAddr,
    /// From which of our addresses; `None` lets the system choose.
    pub source: Option<IpAddr>,
    /// The congestion mark to set.
    pub ecn: Option<Ecn>,
    /// The size of each datagram but the last; `None`: one datagram.
    pub segment_size: Option<usize>,
    /// The datagrams, one behind the other.
    pub contents: &'a [u8],
}

/// What became of a [`Driver::udp_send_now`](crate::Driver::udp_send_now).
#[derive(Debug, Default)]
pub struct SentNow {
    /// Bytes that the kernel has.
    pub bytes: usize,
    /// Transmits that were copied into the queue, because the socket is full: each ends with an [`Event::DatagramsSent`].
    pub queued: usize,
    /// The last error. What it struck is gone, as if the network had lost it; the others were sent.
    pub error: Option<io::Error>,
}

/// What became of a [`Transmit`].
#[derive(Debug)]
pub struct DatagramsSent {
    /// Bytes handed to the kernel, or the first error. A failure of one transmit does not touch later ones.
    pub result: io::Result<usize>,
    /// The contents, back for another use of their memory.
    pub contents: Bytes,
}

/// Which UDP offloads to use; all by default. What the system lacks is replaced by plain system calls either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct UdpOptions {
    /// Let the kernel segment trains (`UDP_SEGMENT`, Linux 4.18).
    pub gso: bool,
    /// Let the kernel coalesce received datagrams (`UDP_GRO`, Linux 5.0).
    pub gro: bool,
    /// Send and report congestion marks.
    pub ecn: bool,
    /// Report the local address of received datagrams and allow to choose it when sending.
    pub local_address: bool,
    /// Batch with `recvmmsg` and `sendmmsg`, or with multishot receives on io_uring.
    pub batch: bool,
    /// Set the don't-fragment bit and ignore the kernel's path MTU, as path MTU discovery by the transport wants it.
    /// Off by default.
    pub dont_fragment: bool,
}

impl Default for UdpOptions {
    fn default() -> Self {
        let (gso, gro, ecn, local_address, batch) = (true, true, true, true, true);
        UdpOptions { gso, gro, ecn, local_address, batch, dont_fragment: false }
    }
}

/// What a datagram socket can do, detected at run time; may shrink when the system refuses an offload later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UdpCapabilities {
    /// Most datagrams in one train that the kernel segments; 1 without GSO.
    pub gso_segments: usize,
    /// Received datagrams may come coalesced.
    pub gro: bool,
    /// Congestion marks are sent and reported.
    pub ecn: bool,
    /// The local address is reported and can be chosen.
    pub local_address: bool,
}
