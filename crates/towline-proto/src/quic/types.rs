//! Small values of the QUIC surface: identities, addresses, directions.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use noq_proto as engine;

/// A connection of one [`Endpoint`](super::Endpoint). Never reused: a stale id finds nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId {
    pub(super) index: u32,
    pub(super) generation: u32,
}

impl ConnectionId {
    /// The id as one number, for logs and for tables of a driver.
    pub fn as_u64(self) -> u64 {
        (u64::from(self.generation) << 32) | u64::from(self.index)
    }
}

/// A connection that a client asks for and that the application has not decided about yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IncomingId(pub(super) u64);

/// A stream request that waits for the peer to allow another stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OpenRequest(pub(super) u64);

/// One queued send on a stream, reported back by `SendComplete`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SendId(pub(super) u64);

/// One datagram handed to a connection, reported back by `DatagramSendState`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DatagramId(pub(super) u64);

impl DatagramId {
    /// The how-manieth datagram of its connection, from 0.
    pub fn as_u64(self) -> u64 {
        self.0
    }
}

/// Which end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The end that asked for the connection.
    Client,
    /// The end that was asked.
    Server,
}

/// Whether a stream carries data both ways or only from its initiator (RFC 9000 section 2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Both ways.
    Bidirectional,
    /// Only from the initiator.
    Unidirectional,
}

impl Direction {
    pub(super) const BOTH: [Direction; 2] = [Direction::Bidirectional, Direction::Unidirectional];

    pub(super) fn engine(self) -> engine::Dir {
        match self {
            Direction::Bidirectional => engine::Dir::Bi,
            Direction::Unidirectional => engine::Dir::Uni,
        }
    }

    pub(super) fn index(self) -> usize {
        match self {
            Direction::Bidirectional => 0,
            Direction::Unidirectional => 1,
        }
    }
}

/// A stream's identifier as on the wire (RFC 9000 section 2.1): its two low bits say who opened it and in which direction it carries data.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub(super) u64);

impl StreamId {
    /// The end that opened the stream.
    pub fn initiator(self) -> Side {
        if self.0 & 1 == 0 { Side::Client } else { Side::Server }
    }

    /// Which ways the stream carries data.
    pub fn direction(self) -> Direction {
        if self.0 & 2 == 0 { Direction::Bidirectional } else { Direction::Unidirectional }
    }

    /// The how-manieth stream of its initiator and direction, from 0.
    pub fn index(self) -> u64 {
        self.0 >> 2
    }

    /// The identifier as a number, at most 2^62 - 1.
    pub fn as_u64(self) -> u64 {
        self.0
    }

    pub(super) fn engine(self) -> engine::StreamId {
        let initiator = match self.initiator() {
            Side::Client => engine::Side::Client,
            Side::Server => engine::Side::Server,
        };
        engine::StreamId::new(initiator, self.direction().engine(), self.index())
    }

    pub(super) fn from_engine(id: engine::StreamId) -> Self {
        Self(u64::from(id))
    }
}

impl fmt::Debug for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let initiator = match self.initiator() {
            Side::Client => "client",
            Side::Server => "server",
        };
        let direction = match self.direction() {
            Direction::Bidirectional => "bidi",
            Direction::Unidirectional => "uni",
        };
        write!(f, "StreamId({initiator} {direction} {})", self.index())
    }
}

/// Explicit congestion notification marks of a datagram (RFC 3168 section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ecn {
    /// ECN-capable transport, codepoint 10.
    Ect0,
    /// ECN-capable transport, codepoint 01.
    Ect1,
    /// Congestion experienced, codepoint 11.
    Ce,
}

impl Ecn {
    /// Reads the two low bits of an IP TOS or traffic class field; `None` means not ECN-capable.
    pub fn from_bits(bits: u8) -> Option<Self> {
        match bits & 0b11 {
            0b10 => Some(Ecn::Ect0),
            0b01 => Some(Ecn::Ect1),
            0b11 => Some(Ecn::Ce),
            _ => None,
        }
    }

    /// The two bits as they stand in the IP header.
    pub fn bits(self) -> u8 {
        match self {
            Ecn::Ect0 => 0b10,
            Ecn::Ect1 => 0b01,
            Ecn::Ce => 0b11,
        }
    }

    pub(super) fn engine(self) -> engine::EcnCodepoint {
        match self {
            Ecn::Ect0 => engine::EcnCodepoint::Ect0,
            Ecn::Ect1 => engine::EcnCodepoint::Ect1,
            Ecn::Ce => engine::EcnCodepoint::Ce,
        }
    }

    pub(super) fn from_engine(ecn: engine::EcnCodepoint) -> Self {
        match ecn {
            engine::EcnCodepoint::Ect0 => Ecn::Ect0,
            engine::EcnCodepoint::Ect1 => Ecn::Ect1,
            engine::EcnCodepoint::Ce => Ecn::Ce,
        }
    }
}

/// Where a datagram came from and where it arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Path {
    /// The sender's address.
    pub remote: SocketAddr,
    /// Our socket's address that it arrived on. For a wildcard socket: the packet's destination address with the socket's port.
    pub local: SocketAddr,
}

/// One train of datagrams to send, written into the caller's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Transmit {
    /// Where it goes.
    pub destination: SocketAddr,
    /// The local address it must leave from: a connection's own binding (after a migration) or the address that the peer reached us at. `None` leaves the choice to
    /// the operating system.
    pub source: Option<LocalAddress>,
    /// The mark to set in the IP header.
    pub ecn: Option<Ecn>,
    /// Bytes at the start of the buffer.
    pub size: usize,
    /// The size of each datagram but the last, when there are several: for segmentation offload (GSO), or for the driver to split by.
    pub segment_size: Option<usize>,
}

/// A local address as far as a connection knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LocalAddress {
    /// Address and port: the socket to send from.
    Socket(SocketAddr),
    /// The address only; the socket is the endpoint's own.
    Ip(IpAddr),
}
