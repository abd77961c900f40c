//! A node at the end of a flow: a transport, and the application over it.

use std::net::SocketAddr;
use std::time::Instant;

use towline_sim::{Delivery, Node, Transmit};

use crate::cell::{Cell, LabError};
use crate::load::App;
use crate::transport::{self, Transport};

/// Where a node stands.
pub(crate) struct Place {
    pub(crate) now: Instant,
    pub(crate) seed: [u8; 32],
    /// Whom to connect to and when; the other end waits.
    pub(crate) dials: Option<(SocketAddr, Instant)>,
    /// Whether relays are between the ends.
    pub(crate) relayed: bool,
}

pub(crate) struct FlowNode {
    transport: Box<dyn Transport>,
    pub(crate) app: App,
    /// Something happened since the application was last asked.
    touched: bool,
}

impl FlowNode {
    /// One end of a flow.
    pub(crate) fn new(cell: &Cell, place: &Place) -> Result<Self, LabError> {
        let app = App::new(cell, place.dials.is_some(), place.now);
        Ok(FlowNode { transport: transport::make(cell, place)?, app, touched: true })
    }

    /// Why it failed, if it did.
    pub(crate) fn failure(&self) -> Option<&str> {
        self.transport.failure()
    }

    fn pump(&mut self, now: Instant) -> bool {
        self.transport.begin(now);
        let moved = self.app.exchange(now, &mut *self.transport);
        self.transport.finish(now);
        moved
    }
}

impl Node for FlowNode {
    fn handle_datagram(&mut self, now: Instant, datagram: Delivery) {
        self.touched = true;
        self.transport.handle_datagram(now, datagram);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.touched = true;
        self.transport.handle_timeout(now);
    }

    fn poll_transmit(&mut self, now: Instant) -> Option<Transmit> {
        if std::mem::take(&mut self.touched) {
            self.pump(now);
        }
        let mut settled = false;
        loop {
            if let Some(transmit) = self.transport.poll_transmit(now) {
                return Some(transmit);
            }
            if settled {
                return None;
            }
            // Whatever the application did or only looked at, the transport is asked once more.
            settled = !self.pump(now);
        }
    }

    fn poll_timeout(&mut self) -> Option<Instant> {
        [self.transport.poll_timeout(), self.app.poll_timeout()].into_iter().flatten().min()
    }
}
