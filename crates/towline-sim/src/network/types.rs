//! The nouns of the network.

use std::fmt;
use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;

use crate::link::ConfigError;
use crate::trace::PacketId;

macro_rules! index {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub(crate) u32);

        impl $name {
            /// Its number, counted from 0 in order of creation.
            pub fn index(self) -> usize {
                self.0 as usize
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    };
}

index!(
    /// Names a host of one [`Network`](crate::Network).
    HostId, "host "
);
index!(
    /// Names one direction of a link of one [`Network`](crate::Network).
    LinkId, "link "
);
index!(
    /// Names a datagram socket of one [`Network`](crate::Network).
    SocketId, "socket "
);

/// The ECN field of an IP packet (RFC 3168 section 5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Ecn {
    /// Not ECN-capable.
    #[default]
    NotCapable,
    /// ECT(1).
    Ect1,
    /// ECT(0).
    Ect0,
    /// Congestion Experienced.
    Ce,
}

impl Ecn {
    /// The two bits as they are in the header.
    pub fn bits(self) -> u8 {
        match self {
            Ecn::NotCapable => 0b00,
            Ecn::Ect1 => 0b01,
            Ecn::Ect0 => 0b10,
            Ecn::Ce => 0b11,
        }
    }

    /// From the two low bits.
    pub fn from_bits(bits: u8) -> Self {
        match bits & 0b11 {
            0b00 => Ecn::NotCapable,
            0b01 => Ecn::Ect1,
            0b10 => Ecn::Ect0,
            _ => Ecn::Ce,
        }
    }

    /// Whether a router may mark it instead of dropping.
    pub fn is_capable(self) -> bool {
        self != Ecn::NotCapable
    }
}

/// A datagram that came out of the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// When: the virtual now.
    pub at: Instant,
    /// At which socket.
    pub socket: SocketId,
    /// That socket's own address, as its host knows it.
    pub local: SocketAddr,
    /// Where it came from, as it was on the wire.
    pub source: SocketAddr,
    /// The ECN field after all links.
    pub ecn: Ecn,
    /// Which datagram; a duplicate has the same.
    pub packet: PacketId,
    /// The payload.
    pub data: Bytes,
}

/// What the network dropped outside any link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetworkStats {
    /// Datagrams handed in by sockets.
    pub sent: u64,
    /// Datagrams handed out to sockets.
    pub delivered: u64,
    /// Dropped: no host has the address, or no route leads there.
    pub unroutable: u64,
    /// Dropped: nothing was bound to the address at the end of the way.
    pub unbound: u64,
    /// Dropped: crossed [`HOP_LIMIT`](crate::HOP_LIMIT) links.
    pub hop_limit: u64,
    /// Links crossed, over all packets.
    pub hops: u64,
}

/// A mistake in building or driving a network. The caller's fault; the network is as it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// An identifier of another network.
    #[error("{0} is not part of this network")]
    Unknown(String),
    /// Another host has the IP address, or another socket the socket address.
    #[error("{0} is in use")]
    AddressInUse(String),
    /// The host does not have the IP address.
    #[error("{0} is not an address of that host")]
    NotLocal(SocketAddr),
    /// The socket was closed.
    #[error("{0} is closed")]
    Closed(SocketId),
    /// The host has no free port left.
    #[error("no free port at that host")]
    NoPort,
    /// The link's configuration does not check.
    #[error("link configuration: {0}")]
    Config(#[from] ConfigError),
}

/// Something that happens to the network at a set time.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Action {
    /// A link changes.
    Link(LinkId, crate::LinkChange),
    /// Nothing passes between these hosts and all others, until [`Action::Heal`]. A second partition
    /// replaces the first. Byte streams have their own: [`StreamNetwork::partition`](crate::StreamNetwork::partition).
    Partition(Vec<HostId>),
    /// Ends the partition.
    Heal,
    /// A NAT gives the socket another public address, which its host does not notice: what it sends has that
    /// source, what comes to the old one is dropped.
    Rebind(SocketId, SocketAddr),
    /// The host moves the socket to another address and knows it.
    Readdress(SocketId, SocketAddr),
}

/// A socket's own address changed ([`Action::Readdress`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Readdressed {
    /// The socket.
    pub socket: SocketId,
    /// The address that it had.
    pub old: SocketAddr,
    /// The address that it has.
    pub new: SocketAddr,
}
