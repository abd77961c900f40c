//! Datagram engines on an I/O thread: any state machine with the doors of [`Engine`] over one or more UDP sockets.
//!
//! A [`Port`] is one engine and its sockets. Per wake of the thread, all datagrams that came go in first, then the owner takes events out and puts
//! commands in, then one sweep sends everything: whole trains, straight from buffers that are used for ever. Nothing here locks, and nothing is
//! allocated per packet: received buffers are the driver's and come back when the engine has let go of their last slice ([`Lent`]).

mod lent;
mod sockets;
mod trains;

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use bytes::BytesMut;
use socket2::Socket;
use towline_io::{Datagrams, Driver, SocketId};
use towline_proto::quic::{Ecn, Path, Transmit};

pub(in crate::runtime) use self::lent::Lent;
pub use self::sockets::PortStats;
use self::sockets::Sockets;
pub(crate) use self::sockets::{bind_client, bind_listeners};
pub(in crate::runtime) use self::trains::Trains;
use super::alarms::Alarms;

/// A protocol over datagrams without socket, clock or thread.
///
/// The rule of use: any number of datagrams go in; then come [`poll_event`](Self::poll_event) and [`poll_transmit`](Self::poll_transmit) until both
/// give nothing; then the engine is left alone until [`poll_timeout`](Self::poll_timeout).
pub(in crate::runtime) trait Engine {
    /// What it tells.
    type Event;

    /// Takes a datagram.
    fn handle_datagram(&mut self, now: Instant, path: Path, ecn: Option<Ecn>, data: BytesMut);
    /// A deadline of [`poll_timeout`](Self::poll_timeout) may have passed.
    fn handle_timeout(&mut self, now: Instant);
    /// The next thing that happened.
    fn poll_event(&mut self, now: Instant) -> Option<Self::Event>;
    /// Writes the next train of datagrams into the buffer, from its start.
    fn poll_transmit(&mut self, now: Instant, buf: &mut Vec<u8>) -> Option<Transmit>;
    /// When `handle_timeout` is due.
    fn poll_timeout(&self) -> Option<Instant>;
}

#[cfg(feature = "quic")]
impl Engine for towline_proto::quic::Endpoint {
    type Event = towline_proto::quic::EndpointEvent;

    fn handle_datagram(&mut self, now: Instant, path: Path, ecn: Option<Ecn>, data: BytesMut) {
        self.handle_datagram(now, path, ecn, data);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.handle_timeout(now);
    }

    fn poll_event(&mut self, now: Instant) -> Option<Self::Event> {
        self.poll_event(now)
    }

    fn poll_transmit(&mut self, now: Instant, buf: &mut Vec<u8>) -> Option<Transmit> {
        self.poll_transmit(now, buf)
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.poll_timeout()
    }
}

/// Trains that one port sends in one sweep before the thread looks at its sockets again.
const TRAINS_PER_SWEEP: usize = 256;

/// A datagram for another thread of the same listener.
pub(crate) struct Misplaced {
    pub(in crate::runtime) thread: u8,
    pub(in crate::runtime) path: Path,
    pub(in crate::runtime) ecn: Option<Ecn>,
    pub(in crate::runtime) data: BytesMut,
}

/// One engine and its sockets.
pub(in crate::runtime) struct Port<E> {
    pub(in crate::runtime) engine: E,
    sockets: Sockets,
    pub(in crate::runtime) alarms: Alarms,
}

impl<E: Engine> Port<E> {
    pub(in crate::runtime) fn new(engine: E) -> Port<E> {
        Port { engine, sockets: Sockets::default(), alarms: Alarms::default() }
    }

    /// Adds a bound socket and receives on it from now on. `tag` names this port to the driver.
    pub(in crate::runtime) fn add(
        &mut self,
        driver: &mut Driver,
        socket: Socket,
        tag: u64,
    ) -> io::Result<SocketAddr> {
        self.sockets.add(driver, socket, tag)
    }

    /// Lets the system send datagrams in pieces that are too long for the path: those whose length is not the engine's to choose.
    #[cfg(feature = "bats")]
    pub(in crate::runtime) fn fragment(&mut self) {
        self.sockets.fragment();
    }

    /// The address of the socket that sends to peers like this one.
    #[cfg(feature = "bats")]
    pub(in crate::runtime) fn local(&self, peer: SocketAddr) -> Option<SocketAddr> {
        self.sockets.local(peer)
    }

    /// Closes the socket at this address, unless it is the only one.
    pub(in crate::runtime) fn remove(&mut self, driver: &mut Driver, local: SocketAddr) {
        self.sockets.remove(driver, local);
    }

    /// Whether a socket of ours is bound to this address.
    pub(in crate::runtime) fn has(&self, local: SocketAddr) -> bool {
        self.sockets.has(local)
    }

    /// Whether there is a socket for peers of this one's family.
    pub(in crate::runtime) fn reaches(&self, peer: SocketAddr) -> bool {
        self.sockets.reaches(peer)
    }

    /// The engine's deadline may have passed.
    pub(in crate::runtime) fn timeout(&mut self, now: Instant) {
        self.engine.handle_timeout(now);
    }

    /// The next thing that the engine tells.
    pub(in crate::runtime) fn poll_event(&mut self, now: Instant) -> Option<E::Event> {
        self.engine.poll_event(now)
    }

    /// When [`timeout`](Self::timeout) is due.
    pub(in crate::runtime) fn poll_timeout(&self) -> Option<Instant> {
        self.engine.poll_timeout()
    }

    /// Closes all sockets.
    pub(in crate::runtime) fn close(&mut self, driver: &mut Driver) {
        self.sockets.close(driver);
    }

    /// Datagrams from a socket go into the engine, except those that `elsewhere` says belong to another thread.
    pub(in crate::runtime) fn received(
        &mut self,
        now: Instant,
        socket: SocketId,
        came: Datagrams,
        lent: &mut Lent,
        mut elsewhere: impl FnMut(&[u8]) -> Option<u8>,
        misplaced: &mut Vec<Misplaced>,
    ) {
        let Some(path) = self.sockets.path(socket, &came) else { return };
        let ecn = came.ecn.and_then(|ecn| Ecn::from_bits(ecn as u8));
        let Datagrams { mut data, stride, truncated, .. } = came;
        self.sockets.count_received(data.len(), stride, truncated);
        let pooled = Lent::is_pooled(&data);
        // A datagram may be empty, too.
        let mut more = !truncated;
        while more {
            let datagram = data.split_to(stride.max(1).min(data.len()));
            match elsewhere(&datagram) {
                Some(thread) => misplaced.push(Misplaced { thread, path, ecn, data: datagram }),
                None => self.engine.handle_datagram(now, path, ecn, datagram),
            }
            more = !data.is_empty();
        }
        if pooled {
            lent.push(data);
        }
    }

    /// Receives again after the driver ended a receive by an error.
    pub(in crate::runtime) fn resume(&mut self, driver: &mut Driver, socket: SocketId) {
        self.sockets.resume(driver, socket);
    }

    /// A datagram that another thread's socket received for this engine.
    pub(in crate::runtime) fn handed_over(&mut self, now: Instant, datagram: Misplaced) {
        let Misplaced { path, ecn, data, .. } = datagram;
        self.sockets.count_handed_over();
        self.engine.handle_datagram(now, path, ecn, data);
    }

    /// Whether a socket is full.
    pub(in crate::runtime) fn is_blocked(&self) -> bool {
        self.sockets.is_blocked()
    }

    /// Copies that waited in the driver are gone.
    pub(in crate::runtime) fn sent(&mut self, socket: SocketId) {
        self.sockets.sent(socket);
    }

    /// Sends what the engine has to send. `true`: there is more, and the thread should come back without sleeping.
    pub(in crate::runtime) fn sweep(
        &mut self,
        now: Instant,
        driver: &mut Driver,
        trains: &mut Trains,
    ) -> bool {
        for _ in 0..TRAINS_PER_SWEEP {
            // With a full socket the engine waits too: what it has not sent yet it can still change its mind about.
            if self.sockets.is_blocked() {
                trains.flush(driver, &mut self.sockets);
                return false;
            }
            let buffer = trains.next();
            let Some(transmit) = self.engine.poll_transmit(now, buffer) else {
                trains.flush(driver, &mut self.sockets);
                return false;
            };
            if trains.push(transmit, &mut self.sockets) {
                trains.flush(driver, &mut self.sockets);
            }
        }
        trains.flush(driver, &mut self.sockets);
        true
    }

    /// What went over its sockets, and what they can do.
    pub(in crate::runtime) fn stats(&self, driver: &Driver) -> PortStats {
        self.sockets.stats(driver)
    }
}
