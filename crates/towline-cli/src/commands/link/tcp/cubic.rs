//! The congestion window of the emulated TCP: slow start and CUBIC (RFC 5681, RFC 9438), in segments.

use std::time::{Duration, Instant};

/// The window at the start (RFC 6928 section 2).
const INITIAL: f64 = 10.0;

/// How steep the cubic is (RFC 9438 section 5).
const C: f64 = 0.4;

/// What is left of the window after a loss (RFC 9438 section 4.6).
const BETA: f64 = 0.7;

/// The least.
const MINIMUM: f64 = 2.0;

#[derive(Debug)]
pub(super) struct Cubic {
    window: f64,
    threshold: f64,
    /// The window at the last loss.
    plateau: f64,
    climb: Option<Climb>,
}

/// The way back up after a loss.
#[derive(Clone, Copy, Debug)]
struct Climb {
    begin: Instant,
    /// Seconds to the plateau.
    takes: f64,
    /// The plateau.
    top: f64,
    /// What Reno's window would be.
    reno: f64,
}

impl Cubic {
    pub(super) fn new() -> Cubic {
        Cubic { window: INITIAL, threshold: f64::INFINITY, plateau: 0.0, climb: None }
    }

    /// Segments that may be under way.
    pub(super) fn window(&self) -> f64 {
        self.window
    }

    /// So many segments were acknowledged; `limited` when more would have been sent with a larger window.
    pub(super) fn acknowledged(
        &mut self,
        now: Instant,
        segments: f64,
        round_trip: Duration,
        limited: bool,
    ) {
        if !limited {
            // RFC 9438 section 5.8: a window that is not used does not grow.
            return;
        }
        if self.window < self.threshold {
            self.window += segments;
            return;
        }
        let Climb { begin, takes, top, reno } = *self.climb.get_or_insert_with(|| {
            let top = self.plateau.max(self.window);
            Climb { begin: now, takes: ((top - self.window) / C).cbrt(), top, reno: self.window }
        });
        let time = (now.saturating_duration_since(begin) + round_trip).as_secs_f64();
        let target = C * (time - takes).powi(3) + top;
        let target = target.clamp(self.window, 1.5 * self.window);
        self.window += (target - self.window) / self.window * segments;
        // RFC 9438 section 4.3: not below what Reno would have.
        let rise = 3.0 * (1.0 - BETA) / (1.0 + BETA);
        let reno = reno + rise * segments / self.window;
        self.climb = Some(Climb { begin, takes, top, reno });
        self.window = self.window.max(reno);
    }

    /// Something was lost, for the first time in this round trip.
    pub(super) fn lost(&mut self) {
        // RFC 9438 section 4.7: one that is losing ground makes room.
        self.plateau = match self.window < self.plateau {
            true => self.window * (1.0 + BETA) / 2.0,
            false => self.window,
        };
        self.window = (self.window * BETA).max(MINIMUM);
        self.threshold = self.window;
        self.climb = None;
    }

    /// Nothing has come back for a whole time-out (RFC 5681 section 3.1).
    pub(super) fn timed_out(&mut self, under_way: f64) {
        self.plateau = self.window;
        self.threshold = (under_way * BETA).max(MINIMUM);
        self.window = 1.0;
        self.climb = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_doubles_at_first_and_then_follows_the_cubic() {
        let mut cubic = Cubic::new();
        let (mut now, round_trip) = (Instant::now(), Duration::from_millis(100));
        for _ in 0..4 {
            cubic.acknowledged(now, cubic.window(), round_trip, true);
            now += round_trip;
        }
        assert_eq!(cubic.window(), 160.0);
        cubic.lost();
        assert_eq!(cubic.window(), 112.0);
        // 160 again after cbrt(48 / 0.4) = 4.9 s, slowly around it, faster after it.
        let mut at = Vec::new();
        for _ in 0..80 {
            for _ in 0..10 {
                cubic.acknowledged(now, cubic.window() / 10.0, round_trip, true);
                now += round_trip / 10;
            }
            at.push(cubic.window());
        }
        assert!((150.0..165.0).contains(&at[48]), "{}", at[48]);
        assert!(at[10] - at[0] > at[48] - at[38] && at[79] - at[69] > at[48] - at[38], "{at:?}");
        let before = cubic.window();
        cubic.acknowledged(now, 100.0, round_trip, false);
        assert_eq!(cubic.window(), before);
        cubic.timed_out(100.0);
        assert_eq!(cubic.window(), 1.0);
    }
}
