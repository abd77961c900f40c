//! The UDP sockets of one engine: which of them sends what, and what they have done.

use std::io;
use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};
use towline_io::{Datagrams, Driver, SocketId, TransmitRef, UdpCapabilities, UdpOptions};
use towline_proto::quic::{LocalAddress, Path, Transmit};

/// Bytes that a socket asks the kernel to buffer each way; it gives what its limits allow (`net.core.rmem_max`, `wmem_max`).
const KERNEL_BUFFER: usize = 4 << 20;

/// Sockets of one engine at most: migrations add to the first two.
const MAX_SOCKETS: usize = 256;

/// Which socket sends a train, and how.
#[derive(Clone, Copy)]
pub(super) struct Route {
    pub(super) socket: SocketId,
    pub(super) destination: SocketAddr,
    pub(super) source: Option<IpAddr>,
    pub(super) ecn: Option<towline_io::Ecn>,
    pub(super) segment_size: Option<usize>,
}

/// What went over an engine's sockets since they were opened, and what the system lets them do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PortStats {
    /// Sockets open now.
    pub sockets: usize,
    /// Datagrams received.
    pub datagrams_received: u64,
    /// Runs of datagrams that the kernel handed over; fewer than datagrams where it coalesces them (GRO).
    pub runs_received: u64,
    /// Bytes received, UDP payload.
    pub bytes_received: u64,
    /// Datagrams cut because they were longer than a receive buffer, and dropped.
    pub truncated: u64,
    /// Datagrams that another thread's socket received for this one.
    pub handed_over: u64,
    /// Trains given to the kernel; each is cut into datagrams by it (GSO), or before it.
    pub trains_sent: u64,
    /// Bytes given to the kernel, UDP payload.
    pub bytes_sent: u64,
    /// Trains that a full socket made wait.
    pub trains_waited: u64,
    /// Trains that the system refused, or that no socket of ours could send. To the engine they are lost packets.
    pub trains_refused: u64,
    /// Most datagrams in a train that the kernel cuts; 1: no GSO.
    pub gso_segments: usize,
    /// The kernel coalesces received datagrams.
    pub gro: bool,
    /// Congestion marks are sent and reported.
    pub ecn: bool,
}

/// A bound socket in the driver.
struct Bound {
    id: SocketId,
    local: SocketAddr,
    /// Trains that wait in the driver because the socket is full.
    waiting: usize,
}

/// All sockets of one engine.
#[derive(Default)]
pub(super) struct Sockets {
    bound: Vec<Bound>,
    waiting: usize,
    stats: PortStats,
    /// Datagrams that a path does not carry are sent in pieces instead of being refused.
    fragments: bool,
}

impl Sockets {
    pub(super) fn fragment(&mut self) {
        self.fragments = true;
    }

    /// The address of the socket for peers of this one's family.
    pub(super) fn local(&self, peer: SocketAddr) -> Option<SocketAddr> {
        let family = |bound: &&Bound| bound.local.is_ipv4() == peer.is_ipv4();
        self.bound.iter().find(family).map(|bound| bound.local)
    }

    pub(super) fn add(
        &mut self,
        driver: &mut Driver,
        socket: Socket,
        tag: u64,
    ) -> io::Result<SocketAddr> {
        if self.bound.len() == MAX_SOCKETS {
            return Err(io::Error::other("as many sockets as one endpoint may have"));
        }
        let unsupported = || io::Error::from(io::ErrorKind::Unsupported);
        let local = socket.local_addr()?.as_socket().ok_or_else(unsupported)?;
        let mut options = UdpOptions::default();
        options.dont_fragment = !self.fragments;
        let id = driver.udp_with(socket, tag, options)?;
        driver.udp_recv(id).map_err(io::Error::other)?;
        self.bound.push(Bound { id, local, waiting: 0 });
        Ok(local)
    }

    pub(super) fn remove(&mut self, driver: &mut Driver, local: SocketAddr) {
        if self.bound.len() > 1
            && let Some(index) = self.bound.iter().position(|bound| bound.local == local)
        {
            let bound = self.bound.swap_remove(index);
            self.waiting -= bound.waiting;
            driver.close(bound.id);
        }
    }

    pub(super) fn close(&mut self, driver: &mut Driver) {
        for bound in self.bound.drain(..) {
            driver.close(bound.id);
        }
        self.waiting = 0;
    }

    pub(super) fn has(&self, local: SocketAddr) -> bool {
        self.bound.iter().any(|bound| bound.local == local)
    }

    pub(super) fn reaches(&self, peer: SocketAddr) -> bool {
        let any = |bound: &Bound| bound.local.ip().is_unspecified();
        self.bound.iter().any(|bound| any(bound) && bound.local.is_ipv4() == peer.is_ipv4())
    }

    /// Where datagrams of this socket came from and arrived; `None` for a socket that is not ours any more.
    pub(super) fn path(&self, socket: SocketId, came: &Datagrams) -> Option<Path> {
        let bound = self.bound.iter().find(|bound| bound.id == socket)?;
        let mut local = bound.local;
        if let Some(ip) = came.local_ip.filter(|_| local.ip().is_unspecified()) {
            local.set_ip(ip);
        }
        Some(Path { remote: came.peer, local })
    }

    pub(super) fn count_received(&mut self, bytes: usize, stride: usize, truncated: bool) {
        self.stats.runs_received += 1;
        self.stats.bytes_received += bytes as u64;
        self.stats.datagrams_received += bytes.div_ceil(stride.max(1)) as u64;
        self.stats.truncated += u64::from(truncated);
    }

    pub(super) fn count_handed_over(&mut self) {
        self.stats.handed_over += 1;
    }

    pub(super) fn resume(&mut self, driver: &mut Driver, socket: SocketId) {
        if self.bound.iter().any(|bound| bound.id == socket) {
            driver.udp_recv(socket).ok();
        }
    }

    /// The socket that a train leaves by.
    pub(super) fn route(&mut self, transmit: &Transmit) -> Option<Route> {
        let family = transmit.destination.is_ipv4();
        let of_family = |bound: &&Bound| bound.local.is_ipv4() == family;
        // One for all destinations first; those of certain connections are bound to more.
        let any = |bound: &&Bound| of_family(bound) && bound.local.ip().is_unspecified();
        let own = self.bound.iter().find(any).or_else(|| self.bound.iter().find(of_family));
        let (bound, source) = match transmit.source {
            None => (own, None),
            Some(LocalAddress::Ip(ip)) => (own, Some(ip)),
            Some(LocalAddress::Socket(local)) => {
                let exact = self.bound.iter().find(|bound| bound.local == local);
                let same_port = |bound: &&Bound| any(bound) && bound.local.port() == local.port();
                match exact {
                    Some(bound) => (Some(bound), None),
                    None => (self.bound.iter().find(same_port), Some(local.ip())),
                }
            }
        };
        let Some(bound) = bound else {
            self.stats.trains_refused += 1;
            return None;
        };
        Some(Route {
            socket: bound.id,
            destination: transmit.destination,
            // A socket that is bound to one address leaves from it anyway.
            source: source.filter(|_| bound.local.ip().is_unspecified()),
            ecn: transmit.ecn.and_then(|ecn| towline_io::Ecn::from_bits(ecn.bits())),
            segment_size: transmit.segment_size,
        })
    }

    pub(super) fn send(
        &mut self,
        driver: &mut Driver,
        socket: SocketId,
        trains: &[TransmitRef<'_>],
    ) {
        self.stats.trains_sent += trains.len() as u64;
        match driver.udp_send_now(socket, trains) {
            Ok(sent) => {
                self.stats.bytes_sent += sent.bytes as u64;
                self.stats.trains_waited += sent.queued as u64;
                if let Some(error) = sent.error {
                    self.stats.trains_refused += 1;
                    tracing::debug!(%error, "a train was refused");
                }
                if sent.queued > 0
                    && let Some(bound) = self.bound.iter_mut().find(|bound| bound.id == socket)
                {
                    bound.waiting += sent.queued;
                    self.waiting += sent.queued;
                }
            }
            Err(error) => {
                self.stats.trains_refused += trains.len() as u64;
                tracing::debug!(%error, "trains were refused");
            }
        }
    }

    /// A train that waited has left the driver.
    pub(super) fn sent(&mut self, socket: SocketId) {
        if let Some(bound) = self.bound.iter_mut().find(|bound| bound.id == socket)
            && bound.waiting > 0
        {
            bound.waiting -= 1;
            self.waiting -= 1;
        }
    }

    /// Whether trains wait for room in a socket.
    pub(super) fn is_blocked(&self) -> bool {
        self.waiting > 0
    }

    pub(super) fn stats(&self, driver: &Driver) -> PortStats {
        let can = |bound: &Bound| driver.udp_capabilities(bound.id);
        let can: Vec<UdpCapabilities> = self.bound.iter().filter_map(can).collect();
        PortStats {
            sockets: self.bound.len(),
            gso_segments: can.iter().map(|can| can.gso_segments).min().unwrap_or(1),
            gro: can.iter().all(|can| can.gro),
            ecn: can.iter().all(|can| can.ecn),
            ..self.stats
        }
    }
}

fn socket_for(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    // As much as there is; a smaller buffer is no reason to fail.
    socket.set_recv_buffer_size(KERNEL_BUFFER).ok();
    socket.set_send_buffer_size(KERNEL_BUFFER).ok();
    Ok(socket)
}

/// A socket for an endpoint that connects.
pub(crate) fn bind_client(local: SocketAddr) -> io::Result<Socket> {
    let socket = socket_for(local)?;
    if local.is_ipv6() {
        // IPv4 has a socket of its own.
        socket.set_only_v6(true)?;
    }
    socket.bind(&local.into())?;
    Ok(socket)
}

/// Sockets for a listener, one per thread, all on one address (`SO_REUSEPORT`).
///
/// The first is bound for itself alone, so that an address in use is an error as everywhere; only then it is opened to its siblings.
pub(crate) fn bind_listeners(local: SocketAddr, count: usize) -> io::Result<Vec<Socket>> {
    let first = socket_for(local)?;
    first.bind(&local.into())?;
    let unsupported = || io::Error::from(io::ErrorKind::Unsupported);
    let bound = first.local_addr()?.as_socket().ok_or_else(unsupported)?;
    let mut sockets = vec![first];
    for _ in 1..count {
        if let Some(first) = sockets.first() {
            first.set_reuse_port(true)?;
        }
        let next = socket_for(bound)?;
        next.set_reuse_port(true)?;
        next.bind(&bound.into())?;
        sockets.push(next);
    }
    Ok(sockets)
}
