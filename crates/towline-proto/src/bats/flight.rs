//! What is under way of one packet, and what its fates mean.

use super::hop::Outcome;

/// What to do after a fate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing, or not yet.
    Wait,
    /// The neighbour has it now and had not before.
    Arrived,
    /// Every copy is lost: it has to go again, this many times.
    Resend(usize),
}

/// The copies of one packet on one hop.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Flight {
    sends: u8,
    /// Copies or pieces whose fate is not known.
    flying: u8,
    arrived: bool,
    queued: bool,
    /// It went in pieces, which are of use together only.
    split: bool,
    torn: bool,
}

impl Flight {
    pub(crate) fn has_arrived(self) -> bool {
        self.arrived
    }

    pub(crate) fn is_queued(self) -> bool {
        self.queued
    }

    /// Whether it left exactly once.
    pub(crate) fn is_first(self) -> bool {
        self.sends == 1
    }

    /// Whether its pieces are under way, to which copies would only add confusion.
    pub(crate) fn is_split(self) -> bool {
        self.split && self.flying > 0
    }

    pub(crate) fn on_queued(&mut self) {
        self.queued = true;
    }

    /// It left, in this many pieces; 0 when it fits the hop in no way.
    pub(crate) fn on_sent(&mut self, pieces: u8) {
        self.queued = false;
        self.sends = self.sends.saturating_add(1);
        if pieces == 0 {
            return;
        }
        if pieces > 1 || self.split {
            (self.split, self.torn, self.flying) = (pieces > 1, false, pieces);
        } else {
            self.flying = self.flying.saturating_add(1);
        }
    }

    /// The hop is another one.
    pub(crate) fn reset(&mut self) {
        *self = Flight { sends: self.sends, queued: true, ..Flight::default() };
    }

    pub(crate) fn on_fate(&mut self, outcome: Outcome, loss: f64) -> Verdict {
        self.flying = self.flying.saturating_sub(1);
        if self.arrived {
            return Verdict::Wait;
        }
        let lost = outcome == Outcome::Lost;
        if self.split {
            self.torn |= lost;
            if self.flying > 0 {
                return Verdict::Wait;
            }
        }
        if if self.split { !self.torn } else { !lost } {
            self.arrived = true;
            return Verdict::Arrived;
        }
        if self.flying > 0 || self.queued {
            return Verdict::Wait;
        }
        self.queued = true;
        Verdict::Resend(copies(self.sends, loss))
    }
}

/// How often a packet goes out that was lost as often as it was sent. Everything behind it waits for what was lost again and again, so
/// that it goes out more than once where that is rare enough to cost less than the stated share of all packets.
fn copies(sends: u8, loss: f64) -> usize {
    const SHARE: f64 = 0.003;
    let rare = loss.clamp(0.001, 0.9).powi(i32::from(sends.max(1)));
    if sends < 2 { 1 } else { 1 + ((SHARE / rare) as usize).min(2) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_several_copies_is_enough() {
        let mut flight = Flight::default();
        flight.on_sent(1);
        flight.on_sent(1);
        assert_eq!(flight.on_fate(Outcome::Lost, 0.1), Verdict::Wait);
        assert_eq!(flight.on_fate(Outcome::Arrived, 0.1), Verdict::Arrived);
        assert_eq!(flight.on_fate(Outcome::Arrived, 0.1), Verdict::Wait);
    }

    #[test]
    fn pieces_are_of_use_together_only() {
        let mut flight = Flight::default();
        flight.on_sent(2);
        assert_eq!(flight.on_fate(Outcome::Lost, 0.1), Verdict::Wait);
        assert_eq!(flight.on_fate(Outcome::Arrived, 0.1), Verdict::Resend(1));
        flight.on_sent(2);
        assert_eq!(flight.on_fate(Outcome::Arrived, 0.1), Verdict::Wait);
        assert_eq!(flight.on_fate(Outcome::Arrived, 0.1), Verdict::Arrived);
    }

    #[test]
    fn what_is_lost_again_goes_more_than_once_where_that_is_rare() {
        assert_eq!(
            (copies(1, 0.001), copies(2, 0.3), copies(3, 0.1), copies(2, 0.01)),
            (1, 1, 3, 3)
        );
    }
}
