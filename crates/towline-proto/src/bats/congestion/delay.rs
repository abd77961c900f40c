//! Delay: the path's own, and what queues add to it.

use std::time::{Duration, Instant};

/// How long a smallest delay counts at least; at most twice as long. A path that became longer is known by then.
const WINDOW: Duration = Duration::from_secs(5);

/// The smallest round trip time of the last 5 to 10 seconds.
#[derive(Clone, Debug, Default)]
pub(super) struct BaseDelay {
    current: Option<(Instant, Duration)>,
    previous: Option<Duration>,
}

impl BaseDelay {
    pub(super) fn add(&mut self, now: Instant, rtt: Duration) {
        match &mut self.current {
            Some((since, smallest)) if now.saturating_duration_since(*since) < WINDOW => {
                *smallest = rtt.min(*smallest);
            }
            current => {
                self.previous = current.map(|(_, smallest)| smallest);
                *current = Some((now, rtt));
            }
        }
    }

    pub(super) fn smallest(&self) -> Option<Duration> {
        let current = self.current.map(|(_, smallest)| smallest)?;
        Some(self.previous.map_or(current, |previous| previous.min(current)))
    }
}

/// The longest pause of the last 5 to 10 seconds between acknowledgements. Where several in a row are lost, a sender that soon stops waits long: what it sends
/// is what calls for the next one.
#[derive(Clone, Debug, Default)]
pub(super) struct Pauses {
    current: Option<(Instant, Duration)>,
    previous: Duration,
}

impl Pauses {
    pub(super) fn add(&mut self, now: Instant, pause: Duration) {
        match &mut self.current {
            Some((since, longest)) if now.saturating_duration_since(*since) < WINDOW => {
                *longest = pause.max(*longest);
            }
            current => {
                self.previous = current.map_or(Duration::ZERO, |(_, longest)| longest);
                *current = Some((now, pause));
            }
        }
    }

    pub(super) fn longest(&self) -> Duration {
        self.current.map_or(self.previous, |(_, longest)| longest.max(self.previous))
    }
}

/// The newest few round trip times; the smallest of them is a delay without the jitter of single packets.
#[derive(Clone, Debug, Default)]
pub(super) struct Recent {
    samples: [Duration; 4],
    count: usize,
}

impl Recent {
    pub(super) fn add(&mut self, rtt: Duration) {
        let at = self.count % self.samples.len();
        if let Some(sample) = self.samples.get_mut(at) {
            *sample = rtt;
        }
        self.count += 1;
    }

    /// None before there are as many as it keeps.
    pub(super) fn smallest(&self) -> Option<Duration> {
        if self.count < self.samples.len() {
            return None;
        }
        self.samples.iter().min().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_base_follows_a_path_that_became_longer() {
        let (mut base, start) = (BaseDelay::default(), Instant::now());
        let ms = Duration::from_millis;
        base.add(start, ms(10));
        for second in 1..=10 {
            base.add(start + Duration::from_secs(second), ms(30));
            let expected = if second < 10 { ms(10) } else { ms(30) };
            assert_eq!(base.smallest(), Some(expected), "{second}");
        }
        base.add(start + Duration::from_secs(11), ms(20));
        assert_eq!(base.smallest(), Some(ms(20)));
    }
}
