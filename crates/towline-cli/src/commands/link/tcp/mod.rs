//! Connections: the bytes of a real connection at each end, and between them an emulated TCP whose segments cross the path.
//!
//! A proxy that ends TCP on both sides has no packets to lose. So it carries the stream as TCP would have: in segments, with CUBIC's
//! window, acknowledgements, retransmissions and time-outs, over the same link as the datagrams. What a program sees is what it would see
//! over that network, with one exception: its own system takes up to a socket buffer of bytes ahead.

mod connection;
mod cubic;
mod receiver;
mod segment;
mod sender;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use towline_io::{Accepted, Driver, Received, RecvError, SocketId};
use towline_sim::Ecn;

use self::connection::{Connection, Order};
use super::path::{Arrival, Channel, End, Path};
use super::runtime::Tag;

/// Connections that wait in the kernel.
const BACKLOG: i32 = 1024;

/// Connections that wait in the driver.
const READY: usize = 16;

struct Port {
    target: SocketAddr,
}

/// What became of connections.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TcpStats {
    pub(super) connections: u64,
    /// While there were too many.
    pub(super) refused: u64,
    /// Ended by a cut.
    pub(super) cut: u64,
    /// Segments sent again.
    pub(super) retransmits: u64,
}

/// All connections.
pub(super) struct Tcp {
    ports: Vec<Port>,
    connections: HashMap<Channel, Connection>,
    window: u64,
    serial: u32,
    timers: BinaryHeap<Reverse<(Instant, Channel)>>,
    /// Connections that may have something to do.
    dirty: Vec<Channel>,
    pub(super) stats: TcpStats,
}

impl Tcp {
    /// `window` is how many bytes a connection may have under way.
    pub(super) fn new(window: u64) -> Tcp {
        Tcp {
            ports: Vec::new(),
            connections: HashMap::new(),
            window,
            serial: 0,
            timers: BinaryHeap::new(),
            dirty: Vec::new(),
            stats: TcpStats::default(),
        }
    }

    pub(super) fn listen(
        &mut self,
        driver: &mut Driver,
        listen: SocketAddr,
        target: SocketAddr,
    ) -> io::Result<SocketAddr> {
        let socket = Socket::new(Domain::for_address(listen), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.bind(&listen.into())?;
        socket.listen(BACKLOG)?;
        let id = driver.listen(socket, READY, Tag::TcpPort(self.ports.len()).into())?;
        self.ports.push(Port { target });
        driver.local_addr(id).ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
    }

    /// A client came in.
    pub(super) fn handle_accepted(
        &mut self,
        now: Instant,
        driver: &mut Driver,
        path: &mut Path,
        index: usize,
        accepted: Accepted,
    ) {
        let Some(port) = self.ports.get(index) else { return };
        accepted.socket.set_tcp_nodelay(true).ok();
        let Some(channel) = path.open() else {
            self.stats.refused += 1;
            return;
        };
        match driver.attach(accepted.socket, Tag::TcpNear(channel).into()) {
            Ok(socket) => {
                self.serial = self.serial.wrapping_add(1);
                let connection =
                    Connection::new(self.serial, port.target, socket, self.window, now);
                self.connections.insert(channel, connection);
                self.stats.connections += 1;
                self.dirty.push(channel);
            }
            Err(_) => path.release(channel),
        }
    }

    /// The connection to the target is there, or cannot be.
    pub(super) fn handle_connected(
        &mut self,
        channel: Channel,
        socket: SocketId,
        result: &io::Result<()>,
    ) {
        if let Some(connection) = self.by_socket(channel, socket, End::Far) {
            connection.handle_connected(result.is_ok());
            self.dirty.push(channel);
        }
    }

    pub(super) fn handle_received(
        &mut self,
        channel: Channel,
        end: End,
        socket: SocketId,
        result: Result<Received, RecvError>,
    ) {
        let Some(connection) = self.by_socket(channel, socket, end) else { return };
        match result {
            Ok(received) if received.end => connection.handle_end(end),
            Ok(received) => connection.handle_bytes(end, received.pooled.freeze()),
            Err(_) => connection.handle_failed(end),
        }
        self.dirty.push(channel);
    }

    pub(super) fn handle_sent(
        &mut self,
        channel: Channel,
        end: End,
        socket: SocketId,
        result: &io::Result<usize>,
    ) {
        let Some(connection) = self.by_socket(channel, socket, end) else { return };
        if result.is_err() {
            connection.handle_failed(end);
        }
        self.dirty.push(channel);
    }

    fn by_socket(
        &mut self,
        channel: Channel,
        socket: SocketId,
        end: End,
    ) -> Option<&mut Connection> {
        self.connections
            .get_mut(&channel)
            .filter(|connection| connection.socket(end) == Some(socket))
    }

    pub(super) fn handle_arrival(&mut self, now: Instant, arrival: &Arrival) {
        if let Some(connection) = self.connections.get_mut(&arrival.channel) {
            connection.handle_packet(now, arrival.end, &arrival.data);
            self.dirty.push(arrival.channel);
        }
    }

    /// When somebody's timer runs out.
    pub(super) fn timeout(&self) -> Option<Instant> {
        self.timers.peek().map(|Reverse((at, _))| *at)
    }

    pub(super) fn handle_timeouts(&mut self, now: Instant) {
        while let Some(Reverse((_, channel))) =
            self.timers.peek().filter(|Reverse((at, _))| *at <= now)
        {
            let channel = *channel;
            self.timers.pop();
            if let Some(connection) = self.connections.get_mut(&channel) {
                connection.handle_timeout(now);
                self.dirty.push(channel);
            }
        }
    }

    /// Does what connections ask for; whether there was anything.
    pub(super) fn pump(&mut self, now: Instant, driver: &mut Driver, path: &mut Path) -> bool {
        let mut list = std::mem::take(&mut self.dirty);
        list.sort_unstable();
        list.dedup();
        let any = !list.is_empty();
        for channel in list.drain(..) {
            let Some(connection) = self.connections.get_mut(&channel) else { continue };
            let held = [End::Near, End::Far]
                .map(|end| connection.socket(end).map_or(0, |socket| driver.queued(socket)));
            let mut failed = None;
            connection.poll(now, held, |order| {
                if let Err(end) = carry_out(driver, path, channel, order) {
                    failed = Some(end);
                }
            });
            if let Some(end) = failed {
                connection.handle_failed(end);
                self.timers.push(Reverse((now, channel)));
            }
            if let Some(at) = connection.take_timer(now) {
                self.timers.push(Reverse((at, channel)));
            }
            if connection.is_over() {
                self.end(channel, driver, path);
            }
        }
        if self.dirty.is_empty() {
            self.dirty = list;
        }
        any
    }

    fn end(&mut self, channel: Channel, driver: &mut Driver, path: &mut Path) {
        if let Some(connection) = self.connections.remove(&channel) {
            self.stats.retransmits += connection.retransmits();
            for end in [End::Near, End::Far] {
                if let Some(socket) = connection.socket(end) {
                    if connection.was_reset() {
                        reset(driver, socket);
                    }
                    driver.close(socket);
                }
            }
            path.release(channel);
        }
    }

    /// Ends every connection as a middlebox does that has lost its state: both ends see a reset.
    pub(super) fn cut(&mut self, driver: &mut Driver, path: &mut Path) {
        let channels: Vec<Channel> = self.connections.keys().copied().collect();
        for channel in channels {
            if let Some(connection) = self.connections.get_mut(&channel) {
                connection.cut();
                self.stats.cut += 1;
            }
            self.end(channel, driver, path);
        }
    }

    /// Retransmissions of all connections, the present ones included.
    pub(super) fn retransmits(&self) -> u64 {
        self.stats.retransmits + self.connections.values().map(Connection::retransmits).sum::<u64>()
    }
}

/// Closing sends a reset in place of an orderly end.
fn reset(driver: &Driver, socket: SocketId) {
    if let Some(socket) = driver.socket(socket) {
        socket.set_linger(Some(std::time::Duration::ZERO)).ok();
    }
}

fn carry_out(
    driver: &mut Driver,
    path: &mut Path,
    channel: Channel,
    order: Order<'_>,
) -> Result<(), End> {
    match order {
        Order::Packet(end, packet) => path.send(channel, end, Ecn::NotCapable, packet),
        Order::Read(end, socket) => drop(driver.recv(socket).map_err(|_| end)?),
        Order::Write(end, socket, data) => drop(write(driver, socket, data).map_err(|()| end)?),
        Order::Finish(socket) => driver.shutdown_write(socket),
        Order::Connect(target, place) => {
            *place = Some(dial(driver, target, channel).map_err(|_| End::Far)?);
        }
    }
    Ok(())
}

fn write(driver: &mut Driver, socket: SocketId, data: Bytes) -> Result<(), ()> {
    driver.send(socket, [data]).map(drop).map_err(drop)
}

fn dial(driver: &mut Driver, target: SocketAddr, channel: Channel) -> io::Result<SocketId> {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    driver.connect(socket, &SockAddr::from(target), Tag::TcpFar(channel).into())
}
