//! What the runner drives: an engine behind a few doors.

use std::any::Any;
use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;

use crate::network::{Delivery, Ecn, Readdressed};
use crate::stream::{Owner, StreamError, StreamEvent, StreamId, StreamNetwork};

/// A datagram that a node wants to send, or several in one buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// From which of the node's sockets, by its own address; `None` is the node's first.
    pub source: Option<SocketAddr>,
    /// To where.
    pub destination: SocketAddr,
    /// The ECN field.
    pub ecn: Ecn,
    /// When set, `contents` is as many datagrams of this size, the last one maybe shorter, as with UDP GSO. Each
    /// crosses the network by itself: loss takes single packets.
    pub segment_size: Option<usize>,
    /// The payload.
    pub contents: Bytes,
}

impl Transmit {
    /// One datagram from the first socket, not ECN-capable.
    pub fn new(destination: SocketAddr, contents: Bytes) -> Self {
        Transmit { source: None, destination, ecn: Ecn::NotCapable, segment_size: None, contents }
    }
}

/// An engine, or a program around one, that a [`Simulation`](crate::Simulation) drives.
///
/// The runner calls `handle_*` for what happens, then drains the node: `poll_streams`, `poll_transmit` until it
/// returns `None`, and `poll_timeout`, in this order. A deadline in the past counts as now. The node never
/// blocks and asks nobody for the time.
pub trait Node: Any {
    /// A datagram arrived at one of the node's sockets.
    fn handle_datagram(&mut self, now: Instant, datagram: Delivery) {
        let _ = (now, datagram);
    }

    /// The deadline that `poll_timeout` gave has come.
    fn handle_timeout(&mut self, now: Instant) {
        let _ = now;
    }

    /// The host moved one of the node's sockets to another address.
    fn handle_readdressed(&mut self, now: Instant, change: Readdressed) {
        let _ = (now, change);
    }

    /// Something happened to one of the node's byte-stream connections.
    fn handle_stream(&mut self, now: Instant, event: StreamEvent, io: &mut StreamIo<'_>) {
        let _ = (now, event, io);
    }

    /// The node may connect, write and read now.
    fn poll_streams(&mut self, now: Instant, io: &mut StreamIo<'_>) {
        let _ = (now, io);
    }

    /// The next datagram to send.
    fn poll_transmit(&mut self, now: Instant) -> Option<Transmit> {
        let _ = now;
        None
    }

    /// When `handle_timeout` wants to be called; asked after every drain.
    fn poll_timeout(&mut self) -> Option<Instant> {
        None
    }
}

/// A node's access to the byte-stream network, for the time of one call.
#[derive(Debug)]
pub struct StreamIo<'a> {
    pub(super) streams: &'a mut StreamNetwork,
    pub(super) owner: Owner,
}

impl StreamIo<'_> {
    /// See [`StreamNetwork::listen`].
    ///
    /// # Errors
    ///
    /// The same.
    pub fn listen(&mut self, address: SocketAddr) -> Result<(), StreamError> {
        self.streams.listen(self.owner, address)
    }

    /// See [`StreamNetwork::unlisten`].
    pub fn unlisten(&mut self, address: SocketAddr) {
        self.streams.unlisten(address);
    }

    /// See [`StreamNetwork::connect`].
    pub fn connect(&mut self, local: SocketAddr, peer: SocketAddr) -> StreamId {
        self.streams.connect(self.owner, local, peer)
    }

    /// See [`StreamNetwork::write`].
    ///
    /// # Errors
    ///
    /// The same.
    pub fn write(&mut self, stream: StreamId, data: &mut Bytes) -> Result<usize, StreamError> {
        self.streams.write(stream, data)
    }

    /// See [`StreamNetwork::room`].
    pub fn room(&self, stream: StreamId) -> usize {
        self.streams.room(stream)
    }

    /// See [`StreamNetwork::read`].
    ///
    /// # Errors
    ///
    /// The same.
    pub fn read(&mut self, stream: StreamId, max: usize) -> Result<Bytes, StreamError> {
        self.streams.read(stream, max)
    }

    /// See [`StreamNetwork::readable`].
    pub fn readable(&self, stream: StreamId) -> usize {
        self.streams.readable(stream)
    }

    /// See [`StreamNetwork::finish`].
    ///
    /// # Errors
    ///
    /// The same.
    pub fn finish(&mut self, stream: StreamId) -> Result<(), StreamError> {
        self.streams.finish(stream)
    }

    /// See [`StreamNetwork::abort`].
    pub fn abort(&mut self, stream: StreamId) {
        self.streams.abort(stream);
    }
}
