//! What all nodes over QUIC share: an endpoint with at most one connection.

use std::net::SocketAddr;
use std::time::Instant;

use towline_proto::quic::{
    ClientConfig, ConnectParams, Connection, ConnectionId, Endpoint, EndpointEvent, Event,
};
use towline_sim::{Delivery, Transmit};

use crate::engine;

pub(crate) struct QuicNode {
    pub(crate) endpoint: Endpoint,
    dial: Option<(ClientConfig, SocketAddr, Instant)>,
    id: Option<ConnectionId>,
    buf: Vec<u8>,
    last_train: Option<Instant>,
    /// Why the connection ended, if it did.
    pub(crate) failure: Option<String>,
}

impl QuicNode {
    /// `dial` is whom to connect to, and when.
    pub(crate) fn new(
        endpoint: Endpoint,
        dial: Option<(ClientConfig, SocketAddr, Instant)>,
    ) -> Self {
        QuicNode { endpoint, dial, id: None, buf: Vec::new(), last_train: None, failure: None }
    }

    pub(crate) fn connection(&mut self) -> Option<Connection<'_>> {
        self.endpoint.connection(self.id?)
    }

    /// Connects when it is time.
    pub(crate) fn start(&mut self, now: Instant) {
        let Some((config, to, _)) = self.dial.take_if(|(_, _, at)| *at <= now) else { return };
        match self.endpoint.connect(now, &config, to, "lab", ConnectParams::default()) {
            Ok(id) => self.id = Some(id),
            Err(error) => self.failure = Some(error.to_string()),
        }
    }

    /// The next event of the connection.
    pub(crate) fn poll_event(&mut self, now: Instant) -> Option<Event> {
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

    pub(crate) fn handle_datagram(&mut self, now: Instant, datagram: Delivery) {
        engine::deliver(&mut self.endpoint, now, datagram);
    }

    pub(crate) fn poll_transmit(&mut self, now: Instant) -> Option<Transmit> {
        let transmit = self.endpoint.poll_transmit(now, &mut self.buf)?;
        self.last_train = Some(now);
        Some(engine::train(&transmit, &self.buf))
    }

    pub(crate) fn poll_timeout(&self, other: Option<Instant>) -> Option<Instant> {
        let own = [self.endpoint.poll_timeout(), other].into_iter().flatten().min();
        let start = self.dial.as_ref().map(|(_, _, at)| *at);
        [engine::coalesce(own, self.last_train), start].into_iter().flatten().min()
    }
}
