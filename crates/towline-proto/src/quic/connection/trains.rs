//! Trains of datagrams: the engine's pacer grants one packet after the other, and a thread that wakes for each of them does little else.

use std::time::{Duration, Instant};

/// While datagrams wait for the pacer, they leave in trains this far apart. The pacer's bucket holds twice as much of its rate (2 ms), so no rate is lost by it.
const TRAIN: Duration = Duration::from_millis(1);

/// When a connection's next train may leave.
#[derive(Debug, Default)]
pub(super) struct Trains {
    begun: Option<Instant>,
    held: Option<Instant>,
}

impl Trains {
    /// Whether a train is being waited for.
    pub(super) fn holds(&mut self, now: Instant) -> bool {
        self.held = self.held.filter(|&at| now < at);
        self.held.is_some()
    }

    /// Something left.
    pub(super) fn on_sent(&mut self, now: Instant) {
        if self.begun.is_none_or(|at| at + TRAIN <= now) {
            self.begun = Some(now);
        }
    }

    /// The engine sends no more although there is something, and wants to be asked again at `next`: if that is soon, it is the pacer that it waits for.
    pub(super) fn on_blocked(&mut self, next: Option<Instant>) {
        let due = self.begun.map(|at| at + TRAIN);
        self.held = due.filter(|&due| next.is_some_and(|next| next <= due));
    }

    /// When the connection has to be looked at, if the engine says `next`.
    pub(super) fn due(&self, next: Option<Instant>) -> Option<Instant> {
        match (self.held, next) {
            (Some(held), Some(next)) => Some(next.max(held)),
            (held, next) => held.or(next),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocked_train_holds_until_the_next_one_and_nothing_else_does() {
        let base = Instant::now();
        let at = |micros| base + Duration::from_micros(micros);
        let mut trains = Trains::default();
        trains.on_blocked(Some(at(10)));
        assert!(!trains.holds(at(0)), "nothing has left yet");
        trains.on_sent(at(100));
        trains.on_sent(at(300));
        trains.on_blocked(Some(at(420)));
        assert!(trains.holds(at(420)) && trains.holds(at(1_099)));
        assert_eq!(trains.due(Some(at(420))), Some(at(1_100)));
        assert_eq!(trains.due(Some(at(9_000))), Some(at(9_000)));
        assert_eq!(trains.due(None), Some(at(1_100)));
        assert!(!trains.holds(at(1_100)));
        assert_eq!(trains.due(Some(at(1_150))), Some(at(1_150)));
        trains.on_sent(at(1_100));
        // The window is full, or the rate so low that packets are further apart than trains.
        trains.on_blocked(Some(at(2_101)));
        assert!(!trains.holds(at(1_200)));
        trains.on_blocked(None);
        assert!(!trains.holds(at(1_200)));
    }
}
