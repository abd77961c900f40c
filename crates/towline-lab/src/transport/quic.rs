//! What all ends over QUIC share: an endpoint with at most one connection, and how it is driven.

use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use towline_proto::quic::{
    ClientConfig, ConnectParams, Connection, ConnectionId, Endpoint, EndpointEvent, Event,
};
use towline_sim::{Delivery, Transmit};

use super::Transport;
use crate::engine;

/// How an end uses its connection.
pub(crate) trait Carrier {
    /// Something happened on the connection.
    fn on_event(&mut self, event: Event);
    /// Looks at the connection after that.
    fn begin(&mut self, _now: Instant, _connection: Connection<'_>) {}
    /// Passes on what the application gave.
    fn finish(&mut self, _connection: Connection<'_>) {}
    /// A deadline of its own.
    fn poll_timeout(&self) -> Option<Instant> {
        None
    }
    /// As [`Transport`] has them, with the connection once there is one.
    fn is_open(&self) -> bool;
    fn write(&mut self, now: Instant, data: &Bytes, connection: Option<Connection<'_>>) -> usize;
    fn send(&mut self, now: Instant, message: &Bytes, connection: Option<Connection<'_>>) -> bool;
    fn recv(&mut self) -> Option<Bytes>;
}

/// An end over QUIC.
pub(crate) struct OverQuic<C> {
    node: QuicNode,
    carrier: C,
}

impl<C> OverQuic<C> {
    pub(crate) fn new(node: QuicNode, carrier: C) -> Self {
        OverQuic { node, carrier }
    }
}

impl<C: Carrier> Transport for OverQuic<C> {
    fn handle_datagram(&mut self, now: Instant, datagram: Delivery) {
        engine::deliver(&mut self.node.endpoint, now, datagram);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.node.endpoint.handle_timeout(now);
    }

    fn poll_transmit(&mut self, now: Instant) -> Option<Transmit> {
        self.node.poll_transmit(now)
    }

    fn poll_timeout(&mut self) -> Option<Instant> {
        self.node.poll_timeout(self.carrier.poll_timeout())
    }

    fn begin(&mut self, now: Instant) {
        self.node.start(now);
        while let Some(event) = self.node.poll_event(now) {
            self.carrier.on_event(event);
        }
        if let Some(connection) = self.node.connection() {
            self.carrier.begin(now, connection);
        }
    }

    fn finish(&mut self, _now: Instant) {
        if let Some(connection) = self.node.connection() {
            self.carrier.finish(connection);
        }
    }

    fn is_open(&self) -> bool {
        self.carrier.is_open()
    }

    fn write(&mut self, now: Instant, data: &Bytes) -> usize {
        self.carrier.write(now, data, self.node.connection())
    }

    fn send(&mut self, now: Instant, message: &Bytes) -> bool {
        self.carrier.send(now, message, self.node.connection())
    }

    fn recv(&mut self, _now: Instant) -> Option<Bytes> {
        self.carrier.recv()
    }

    fn failure(&self) -> Option<&str> {
        self.node.failure.as_deref()
    }
}

pub(crate) struct QuicNode {
    endpoint: Endpoint,
    dial: Option<(ClientConfig, SocketAddr, Instant)>,
    id: Option<ConnectionId>,
    buf: Vec<u8>,
    last_train: Option<Instant>,
    /// Why the connection ended, if it did.
    failure: Option<String>,
}

impl QuicNode {
    /// `dial` is whom to connect to, and when.
    pub(crate) fn new(
        endpoint: Endpoint,
        dial: Option<(ClientConfig, SocketAddr, Instant)>,
    ) -> Self {
        QuicNode { endpoint, dial, id: None, buf: Vec::new(), last_train: None, failure: None }
    }

    fn connection(&mut self) -> Option<Connection<'_>> {
        self.endpoint.connection(self.id?)
    }

    /// Connects when it is time.
    fn start(&mut self, now: Instant) {
        let Some((config, to, _)) = self.dial.take_if(|(_, _, at)| *at <= now) else { return };
        match self.endpoint.connect(now, &config, to, "lab", ConnectParams::default()) {
            Ok(id) => self.id = Some(id),
            Err(error) => self.failure = Some(error.to_string()),
        }
    }

    /// The next event of the connection.
    fn poll_event(&mut self, now: Instant) -> Option<Event> {
        loop {
            let EndpointEvent::Connection(id, event) = self.endpoint.poll_event(now)? else {
                continue;
            };
            self.id.get_or_insert(id);
            if let Event::TransportShutdown(reason) = &event {
                self.failure = Some(format!("{reason:?}"));
            }
            return Some(event);
        }
    }

    fn poll_transmit(&mut self, now: Instant) -> Option<Transmit> {
        let transmit = self.endpoint.poll_transmit(now, &mut self.buf)?;
        self.last_train = Some(now);
        Some(engine::train(&transmit, &self.buf))
    }

    fn poll_timeout(&self, other: Option<Instant>) -> Option<Instant> {
        let own = [self.endpoint.poll_timeout(), other].into_iter().flatten().min();
        let start = self.dial.as_ref().map(|(_, _, at)| *at);
        [engine::coalesce(own, self.last_train), start].into_iter().flatten().min()
    }
}
