//! The life of a socket against a model: random calls of both sides, in any order.

use std::collections::VecDeque;

use bytes::Bytes;

use super::life::{Arrival, Life, Phase};
use super::{Framing, SocketError};

/// What the model knows.
#[derive(Default)]
struct Model {
    started: bool,
    opened: bool,
    asked_to_close: bool,
    closed: bool,
    ended: bool,
    broken: bool,
    handed_up: usize,
    processed: usize,
    sent: u8,
    got: u8,
}

fn next(seed: &mut u64, bound: u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*seed >> 33) % bound
}

impl Model {
    /// One call of the factory's; compares what it answers with what the model expects.
    fn factory(&mut self, life: &mut Life, call: u64) {
        match call {
            0 => {
                let result = life.opened();
                let fits = self.started && !self.opened && !self.asked_to_close && !self.closed;
                assert_eq!(result.is_ok() && life.phase() == Phase::Open, fits && !self.broken);
                self.opened |= fits && !self.broken;
            }
            1..=3 => {
                let data = Bytes::from(vec![self.sent; usize::from(self.sent % 7)]);
                let bytes = data.len();
                let result = life.received(Arrival::Data(data));
                if self.opened && !self.closed && !self.ended && !self.broken {
                    assert_eq!(result, Ok(()));
                    self.handed_up += bytes;
                    self.sent = self.sent.wrapping_add(1);
                } else if self.asked_to_close && !self.opened && !self.closed {
                    assert_eq!(result, Ok(()), "nobody's bytes");
                } else {
                    assert!(result.is_err());
                    // What comes before `opened` breaks the socket.
                    self.broken |= !self.opened && !self.closed;
                }
            }
            4 => {
                let fits = self.opened && !self.closed && !self.ended && !self.broken;
                let result = life.received(Arrival::End);
                self.ended |= fits;
                let ignored = self.asked_to_close && !self.opened && !self.closed;
                assert_eq!(result.is_ok(), fits || ignored);
                self.broken |= !self.opened && !self.closed && !ignored;
            }
            _ => {
                let result = life.closed(Ok(()));
                match (self.started, self.closed) {
                    (_, true) => assert_eq!(result, Err(SocketError::Closed)),
                    (false, false) => assert_eq!(result, Err(SocketError::OutOfTurn)),
                    (true, false) => {
                        assert_eq!(result, Ok(()));
                        self.closed = true;
                        assert!(life.outcome().is_some());
                    }
                }
            }
        }
    }

    /// One step of the owner's.
    fn owner(&mut self, life: &mut Life, call: u64) {
        match call {
            0 => {
                life.start();
                self.started = true;
            }
            1..=3 => {
                let mut arrivals = VecDeque::new();
                life.take(&mut arrivals);
                for arrival in arrivals {
                    if let Arrival::Data(data) = &arrival {
                        assert_eq!(data.len(), usize::from(self.got % 7), "in order and once");
                        assert!(data.iter().all(|byte| *byte == self.got));
                        self.got = self.got.wrapping_add(1);
                    }
                    life.processed(arrival.len());
                    self.processed += arrival.len();
                }
            }
            4 => {
                let asked = life.close();
                assert_eq!(asked, self.started && !self.asked_to_close && !self.closed);
                self.closed |= !self.started;
                self.asked_to_close |= asked;
            }
            _ => {
                if self.asked_to_close && !self.closed {
                    assert!(life.expire());
                    self.closed = true;
                }
            }
        }
    }
}

#[test]
fn a_life_in_any_order_keeps_its_promises() {
    for round in 0..20_000_u64 {
        let mut seed = round;
        let mut life = Life::new(Framing::Bytes, 1 << 20);
        let mut model = Model::default();
        let mut phase = life.phase();
        for _ in 0..next(&mut seed, 40) {
            let (side, call) = (next(&mut seed, 2), next(&mut seed, 6));
            match side {
                0 => model.factory(&mut life, call),
                _ => model.owner(&mut life, call),
            }
            assert!(life.phase() >= phase, "round {round}: never backwards");
            phase = life.phase();
            assert_eq!(life.phase() == Phase::Closed, model.closed, "round {round}");
            assert_eq!(life.unprocessed(), model.handed_up - model.processed, "round {round}");
        }
    }
}
