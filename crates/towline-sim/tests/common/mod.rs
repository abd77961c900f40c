//! Two hosts and one link.

#![allow(dead_code, reason = "each test file uses a part")]

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use towline_sim::{Delivery, Ecn, LinkConfig, LinkId, LinkStats, Network, SocketId, TraceEvent};

pub(crate) fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

pub(crate) fn us(microseconds: u64) -> Duration {
    Duration::from_micros(microseconds)
}

pub(crate) fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A sender, a link and a receiver.
pub(crate) struct Pair {
    pub(crate) network: Network,
    pub(crate) from: SocketId,
    pub(crate) to: SocketAddr,
    pub(crate) link: LinkId,
}

impl Pair {
    pub(crate) fn new(seed: u64, config: &LinkConfig) -> Self {
        let mut network = Network::new(seed, Instant::now());
        let a = network.add_host("a", address("10.0.0.1:0").ip()).unwrap();
        let b = network.add_host("b", address("10.0.0.2:0").ip()).unwrap();
        let link = network.add_link(a, b, config).unwrap();
        let from = network.bind(a, address("10.0.0.1:1000")).unwrap();
        let to = address("10.0.0.2:2000");
        network.bind(b, to).unwrap();
        Pair { network, from, to, link }
    }

    pub(crate) fn send(&mut self, len: usize) {
        self.send_with(len, Ecn::NotCapable);
    }

    pub(crate) fn send_with(&mut self, len: usize, ecn: Ecn) {
        self.send_bytes(Bytes::from(vec![0x5A; len]), ecn);
    }

    pub(crate) fn send_bytes(&mut self, data: Bytes, ecn: Ecn) {
        self.network.send(self.from, self.to, ecn, data).unwrap();
    }

    pub(crate) fn run_to(&mut self, time: Duration) {
        self.network.advance_to(self.network.base() + time);
    }

    pub(crate) fn finish(&mut self) {
        while self.network.step().is_some() {}
    }

    /// What has come out, without moving time.
    pub(crate) fn deliveries(&mut self) -> Vec<Delivery> {
        if self.network.next_event_time() == Some(self.network.now()) {
            self.network.step();
        }
        std::iter::from_fn(|| self.network.poll_delivery()).collect()
    }

    /// Everything there will ever be: times since the base and numbers of the packets in order of sending.
    pub(crate) fn arrivals(&mut self) -> Vec<(Duration, u64)> {
        self.finish();
        let base = self.network.base();
        self.deliveries()
            .iter()
            .map(|delivery| (delivery.at - base, delivery.packet.number()))
            .collect()
    }

    pub(crate) fn stats(&mut self) -> LinkStats {
        self.network.link_stats(self.link).unwrap()
    }

    pub(crate) fn observe(&mut self) -> Rc<RefCell<Vec<TraceEvent>>> {
        let trace = Rc::new(RefCell::new(Vec::new()));
        let sink = trace.clone();
        self.network.observe(move |event| sink.borrow_mut().push(*event));
        trace
    }
}
