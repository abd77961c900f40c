//! Datagrams: each client has a flow with a socket of its own towards the target, as behind a NAT.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use socket2::{Domain, Protocol, Socket, Type};
use towline_io::{Datagrams, Driver, Ecn as Mark, SocketId, Transmit};
use towline_sim::Ecn;

use super::path::{Arrival, Channel, End, Path};
use super::runtime::Tag;

/// A flow in which nothing has come for so long is forgotten (RFC 4787 section 4.3 asks NATs for two minutes).
const IDLE: Duration = Duration::from_secs(120);

/// Bytes that may wait in a socket's queue; beyond, datagrams are dropped as a full socket buffer would.
const MAX_QUEUED: usize = 8 << 20;

/// What is asked of the kernel as socket buffers; it gives what its limits allow.
const SOCKET_BUFFER: usize = 8 << 20;

/// Datagrams and bytes of one train.
const TRAIN_DATAGRAMS: usize = 64;
const TRAIN_BYTES: usize = 65_507;

/// A datagram socket for a listening address, or for the way to a target.
fn open(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    // Refused beyond the system's limits, which is no reason to stop.
    socket.set_recv_buffer_size(SOCKET_BUFFER).ok();
    socket.set_send_buffer_size(SOCKET_BUFFER).ok();
    socket.bind(&address.into())?;
    Ok(socket)
}

struct Port {
    socket: SocketId,
    target: SocketAddr,
    flows: HashMap<SocketAddr, Channel>,
}

struct Flow {
    port: usize,
    client: SocketAddr,
    upstream: SocketId,
    last: Instant,
}

/// Datagrams that go to one place, gathered for one system call.
struct Train {
    socket: SocketId,
    destination: SocketAddr,
    ecn: Ecn,
    stride: usize,
    count: usize,
    /// The last one was shorter than the stride: nothing can follow it.
    complete: bool,
    data: BytesMut,
}

/// What was not carried, and why.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct UdpStats {
    pub(super) flows: u64,
    /// From new clients while there were too many.
    pub(super) refused: u64,
    /// By sockets that were full.
    pub(super) dropped: u64,
}

/// All datagram traffic.
#[derive(Default)]
pub(super) struct Udp {
    ports: Vec<Port>,
    flows: HashMap<Channel, Flow>,
    train: Option<Train>,
    swept: Option<Instant>,
    pub(super) stats: UdpStats,
}

impl Udp {
    /// Listens at one address for one target; the address with its real port.
    pub(super) fn listen(
        &mut self,
        driver: &mut Driver,
        listen: SocketAddr,
        target: SocketAddr,
    ) -> io::Result<SocketAddr> {
        let socket = open(listen)?;
        let socket = driver.udp(socket, Tag::UdpPort(self.ports.len()).into())?;
        driver.udp_recv(socket).map_err(io::Error::other)?;
        self.ports.push(Port { socket, target, flows: HashMap::new() });
        driver.local_addr(socket).ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
    }

    /// From a client.
    pub(super) fn handle_near(
        &mut self,
        now: Instant,
        driver: &mut Driver,
        path: &mut Path,
        index: usize,
        datagrams: Datagrams,
    ) {
        let Some(port) = self.ports.get_mut(index) else { return };
        let channel = match port.flows.get(&datagrams.peer) {
            Some(channel) => *channel,
            None => match open_flow(driver, path, port, index, datagrams.peer, now) {
                Some((channel, flow)) => {
                    self.flows.insert(channel, flow);
                    self.stats.flows += 1;
                    channel
                }
                None => {
                    self.stats.refused += 1;
                    return;
                }
            },
        };
        if let Some(flow) = self.flows.get_mut(&channel) {
            flow.last = now;
        }
        hand_in(path, channel, End::Near, datagrams);
    }

    /// From a target.
    pub(super) fn handle_far(
        &mut self,
        now: Instant,
        path: &mut Path,
        channel: Channel,
        datagrams: Datagrams,
    ) {
        let Some(flow) = self.flows.get_mut(&channel) else { return };
        let target = self.ports.get(flow.port).map(|port| port.target);
        if target == Some(datagrams.peer) {
            flow.last = now;
            hand_in(path, channel, End::Far, datagrams);
        }
    }

    /// Whether the channel is a flow of datagrams.
    pub(super) fn has(&self, channel: Channel) -> bool {
        self.flows.contains_key(&channel)
    }

    /// Sends on what has crossed the path.
    pub(super) fn handle_arrival(&mut self, driver: &mut Driver, arrival: Arrival) {
        let Some(flow) = self.flows.get(&arrival.channel) else { return };
        let Some(port) = self.ports.get(flow.port) else { return };
        let (socket, destination) = match arrival.end {
            End::Far => (flow.upstream, port.target),
            End::Near => (port.socket, flow.client),
        };
        let length = arrival.data.len();
        if let Some(train) = &mut self.train {
            let same = train.socket == socket
                && train.destination == destination
                && train.ecn == arrival.ecn;
            let fits = length <= train.stride
                && length > 0
                && train.count < TRAIN_DATAGRAMS
                && train.data.len() + length <= TRAIN_BYTES;
            if same && fits && !train.complete {
                train.data.extend_from_slice(&arrival.data);
                train.count += 1;
                train.complete = length < train.stride;
                return;
            }
        }
        self.flush(driver);
        self.train = Some(Train {
            socket,
            destination,
            ecn: arrival.ecn,
            stride: length,
            count: 1,
            complete: length == 0,
            data: BytesMut::from(&arrival.data[..]),
        });
    }

    /// Hands the last train to the driver.
    pub(super) fn flush(&mut self, driver: &mut Driver) {
        let Some(train) = self.train.take() else { return };
        if driver.queued(train.socket) + train.data.len() > MAX_QUEUED {
            self.stats.dropped += train.count as u64;
            return;
        }
        let transmit = Transmit {
            destination: train.destination,
            source: None,
            ecn: Mark::from_bits(train.ecn.bits()),
            segment_size: (train.count > 1).then_some(train.stride),
            contents: train.data.freeze(),
        };
        // A socket that is being closed has no use for it.
        driver.udp_send(train.socket, transmit).ok();
    }

    /// Forgets idle flows now and then.
    pub(super) fn sweep(&mut self, now: Instant, driver: &mut Driver, path: &mut Path) {
        let due = self.swept.is_none_or(|at| now.saturating_duration_since(at) > IDLE / 8);
        if !due {
            return;
        }
        self.swept = Some(now);
        let ports = &mut self.ports;
        self.flows.retain(|channel, flow| {
            let keep = now.saturating_duration_since(flow.last) < IDLE;
            if !keep {
                driver.close(flow.upstream);
                path.release(*channel);
                if let Some(port) = ports.get_mut(flow.port) {
                    port.flows.remove(&flow.client);
                }
            }
            keep
        });
    }

    /// Gives each flow another port towards its target, as a NAT does that has forgotten it.
    pub(super) fn rebind(&mut self, driver: &mut Driver) {
        for (channel, flow) in &mut self.flows {
            let target = self.ports.get(flow.port).map(|port| port.target);
            if let Some(socket) = target.and_then(|target| open_upstream(driver, target, *channel))
            {
                driver.close(flow.upstream);
                flow.upstream = socket;
            }
        }
    }
}

fn open_upstream(driver: &mut Driver, target: SocketAddr, channel: Channel) -> Option<SocketId> {
    let any: IpAddr = match target {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = open(SocketAddr::new(any, 0)).ok()?;
    let socket = driver.udp(socket, Tag::UdpFlow(channel).into()).ok()?;
    driver.udp_recv(socket).ok()?;
    Some(socket)
}

fn open_flow(
    driver: &mut Driver,
    path: &mut Path,
    port: &mut Port,
    index: usize,
    client: SocketAddr,
    now: Instant,
) -> Option<(Channel, Flow)> {
    let channel = path.open()?;
    let Some(upstream) = open_upstream(driver, port.target, channel) else {
        path.release(channel);
        return None;
    };
    port.flows.insert(client, channel);
    Some((channel, Flow { port: index, client, upstream, last: now }))
}

/// Hands in each datagram of a train by itself.
fn hand_in(path: &mut Path, channel: Channel, from: End, datagrams: Datagrams) {
    let ecn = Ecn::from_bits(datagrams.ecn.map_or(0, |mark| mark as u8));
    let mut data = datagrams.data.freeze();
    loop {
        let rest = data.split_off(data.len().min(datagrams.stride.max(1)));
        path.send(channel, from, ecn, data);
        if rest.is_empty() {
            return;
        }
        data = rest;
    }
}
