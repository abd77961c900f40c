//! Two ends and a hop.

use std::time::{Duration, Instant};

use crate::bats::flow::{Event, Flow, FlowConfig};
use crate::bats::toy::{ToyHop, ToyLink, hop};

pub(super) struct Pair {
    pub(super) base: Instant,
    pub(super) now: Instant,
    pub(super) client: Flow,
    pub(super) server: Flow,
    pub(super) hops: (ToyHop, ToyHop),
    pub(super) client_events: Vec<Event>,
    pub(super) server_events: Vec<Event>,
}

impl Pair {
    pub(super) fn new(config: FlowConfig, link: ToyLink, seed: u64) -> Pair {
        let base = Instant::now();
        Pair {
            base,
            now: base,
            client: Flow::client(config, base).unwrap(),
            server: Flow::server(FlowConfig { seed: seed + 1, ..FlowConfig::default() }, base)
                .unwrap(),
            hops: hop(link, seed, base),
            client_events: Vec::new(),
            server_events: Vec::new(),
        }
    }

    pub(super) fn drive(&mut self) {
        self.hops.0.set_now(self.now);
        self.hops.1.set_now(self.now);
        self.hops.0.wire.borrow_mut().advance(self.now);
        self.client.handle_timeout(self.now);
        self.client.drive(self.now, &mut self.hops.0);
        self.server.handle_timeout(self.now);
        self.server.drive(self.now, &mut self.hops.1);
        self.client_events.extend(std::iter::from_fn(|| self.client.poll_event()));
        self.server_events.extend(std::iter::from_fn(|| self.server.poll_event()));
    }

    /// Moves to the next event, at most to `until`; false when that was reached.
    pub(super) fn step(&mut self, until: Instant) -> bool {
        let wire = self.hops.0.wire.borrow().next(self.now);
        let next = [self.client.poll_timeout(), self.server.poll_timeout(), wire];
        let next = next.into_iter().flatten().min().unwrap_or(until);
        // Hops pace in steps.
        self.now = next.max(self.now + Duration::from_micros(10)).min(until);
        self.drive();
        self.now < until
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.now - self.base
    }
}
