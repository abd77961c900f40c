//! When to dial which address: back-off with full jitter, several addresses with head starts, and an end.
//!
//! [`Redial`] knows no socket and no clock: [`Redial::poll`] says what is due, and the caller tells it what became
//! of each dial. A *round* tries every address once, the one that answered last first, each with a head start
//! before the next (as RFC 8305 does for the addresses of one name). The first round begins at once; each later one
//! after a delay drawn evenly from zero to `base * 2^n`, at most `cap`: full jitter spreads the clients of a server
//! that comes back.
//!
//! Addresses are listed in order of preference. Where [`Policy::prefer`] asks for it, the better ones are tried again
//! while a session runs over a worse one, and the session moves when one of them answers.

use std::time::{Duration, Instant};

/// How many addresses are used; those beyond are not dialled.
pub const MAX_ADDRESSES: usize = 64;

/// No dial takes longer.
const LONGEST_DIAL: Duration = Duration::from_secs(86_400);

/// How to redial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The longest delay before the second round; each further round doubles it. Default 20 ms.
    pub base: Duration,
    /// The longest delay of all. Default 5 s.
    pub cap: Duration,
    /// After so long without an established session it is over. Default 60 s.
    pub window: Duration,
    /// What an address is given before the next one is dialled beside it. Default 250 ms.
    pub head_start: Duration,
    /// How long one dial may take, until the session is established. Default 10 s, at most a day.
    pub dial_timeout: Duration,
    /// A wire that lived shorter than this does not reset the back-off. Default 1 s.
    pub stable: Duration,
    /// While the session runs over another address than the first, how often the better ones are tried again. A wire that
    /// answers and then does not carry the session doubles it, up to 64 times. Default `None`: never.
    pub prefer: Option<Duration>,
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            base: Duration::from_millis(20),
            cap: Duration::from_secs(5),
            window: Duration::from_secs(60),
            head_start: Duration::from_millis(250),
            dial_timeout: Duration::from_secs(10),
            stable: Duration::from_secs(1),
            prefer: None,
        }
    }
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Dial the address of this index; others may be under way and go on.
    Dial {
        /// Index into the list of addresses.
        address: usize,
        /// Counts the dials since `start`, from 1.
        attempt: u64,
    },
    /// Try a better address than the one over which the session runs, which goes on meanwhile. If it answers, move the
    /// session there and call [`Redial::handle_moving`].
    Probe {
        /// Index into the list of addresses.
        address: usize,
    },
    /// This dial has taken too long: cancel it. It counts as failed.
    Cancel {
        /// Index into the list of addresses.
        address: usize,
    },
    /// The window is over: cancel what is under way. Nothing follows until `start`.
    GiveUp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing is wanted, or the session is established.
    Idle,
    /// The next address of this round is due then.
    Next(Instant),
    /// Every address of this round was dialled.
    Dialled,
    /// The next round begins then.
    Waiting(Instant),
}

/// The state of redialling for one connection.
#[derive(Clone, Debug)]
pub struct Redial {
    policy: Policy,
    random: u64,
    state: State,
    /// When each dial that is under way is to be cancelled.
    dials: Vec<Option<Instant>>,
    /// The address that begins a round, and how many of this round were dialled.
    first: usize,
    dialled: usize,
    /// Rounds that failed since the last stable wire.
    rounds: u32,
    attempt: u64,
    until: Option<Instant>,
    established: Option<Instant>,
    probes: Probes,
}

/// Trying better addresses.
#[derive(Clone, Debug, Default)]
struct Probes {
    /// The next one is due then.
    due: Option<Instant>,
    next: usize,
    under_way: Option<usize>,
    /// The session is moving there.
    moving_to: Option<usize>,
    /// Moves in a row that came to nothing.
    failures: u32,
}

impl Redial {
    /// For `addresses` addresses (at least 1 is assumed, at most [`MAX_ADDRESSES`] are used); `seed` feeds the
    /// jitter and should differ between processes.
    pub fn new(policy: Policy, addresses: usize, seed: u64) -> Redial {
        Redial {
            policy,
            random: seed,
            state: State::Idle,
            dials: vec![None; addresses.clamp(1, MAX_ADDRESSES)],
            first: 0,
            dialled: 0,
            rounds: 0,
            attempt: 0,
            until: None,
            established: None,
            probes: Probes::default(),
        }
    }

    /// There is no wire and one is wanted. The first dial is due at once, unless the last wire lived shorter than
    /// [`Policy::stable`]: then the back-off goes on where it was.
    pub fn start(&mut self, now: Instant) {
        let lived = self.established.take().map(|at| now.saturating_duration_since(at));
        self.dials.fill(None);
        (self.probes.due, self.probes.under_way) = (None, None);
        (self.dialled, self.attempt) = (0, 0);
        self.until = now.checked_add(self.policy.window);
        self.state = match lived {
            Some(lived) if lived < self.policy.stable => self.back_off(now),
            _ => {
                self.rounds = 0;
                State::Next(now)
            }
        };
    }

    /// What is due at `now`; call until `None`, after every `handle_*` and when [`poll_timeout`](Self::poll_timeout)
    /// has come.
    pub fn poll(&mut self, now: Instant) -> Option<Action> {
        if self.state == State::Idle {
            return self.poll_probe(now);
        }
        if self.until.is_some_and(|until| until <= now) {
            self.stop();
            return Some(Action::GiveUp);
        }
        let late = |at: &Option<Instant>| at.is_some_and(|at| at <= now);
        if let Some(address) = self.dials.iter().position(late) {
            self.handle_failed(now, address);
            return Some(Action::Cancel { address });
        }
        match self.state {
            State::Waiting(at) if at <= now => self.dialled = 0,
            State::Next(at) if at <= now => {}
            _ => return None,
        }
        let count = self.dials.len();
        let address = (self.first + self.dialled) % count;
        self.dialled += 1;
        self.attempt += 1;
        let next = now.checked_add(self.policy.head_start).filter(|_| self.dialled < count);
        self.state = next.map_or(State::Dialled, State::Next);
        if let Some(slot) = self.dials.get_mut(address) {
            *slot = Some(now + self.policy.dial_timeout.min(LONGEST_DIAL));
        }
        Some(Action::Dial { address, attempt: self.attempt })
    }

    /// When [`poll`](Self::poll) has something next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let due = match self.state {
            State::Idle => {
                let dials = self.dials.iter().copied().flatten();
                return dials.chain(self.probes.due).min();
            }
            State::Next(at) | State::Waiting(at) => Some(at),
            State::Dialled => None,
        };
        self.dials.iter().copied().chain([due, self.until]).flatten().min()
    }

    /// A dial failed, or its wire failed before the session was established on it.
    pub fn handle_failed(&mut self, now: Instant, address: usize) {
        let Some(slot) = self.dials.get_mut(address) else { return };
        if slot.take().is_none() {
            return;
        }
        if self.probes.under_way == Some(address) {
            return self.probe_failed(now, address);
        }
        match self.state {
            // The next one need not wait for its turn.
            State::Next(_) => self.state = State::Next(now),
            State::Dialled if self.dialled < self.dials.len() => self.state = State::Next(now),
            State::Dialled if self.dials.iter().all(Option::is_none) => {
                self.state = self.back_off(now)
            }
            _ => {}
        }
    }

    /// The session leaves its wire for this one, which answered a probe. If it is not established there soon, the address
    /// that it came from is dialled again.
    pub fn handle_moving(&mut self, now: Instant, address: usize) {
        let from = self.first;
        self.stop();
        self.probes.moving_to = Some(address);
        (self.first, self.dialled, self.attempt) = (from, 0, 0);
        self.established = None;
        self.until = now.checked_add(self.policy.window);
        let head_start = now.checked_add(self.policy.head_start);
        self.state = head_start.map_or(State::Dialled, State::Next);
        if let Some(slot) = self.dials.get_mut(address) {
            *slot = Some(now + self.policy.dial_timeout.min(LONGEST_DIAL));
        }
    }

    fn poll_probe(&mut self, now: Instant) -> Option<Action> {
        if let Some(address) = self.probes.under_way {
            let late = self.dials.get(address).copied().flatten().is_some_and(|at| at <= now);
            if late {
                self.handle_failed(now, address);
                return Some(Action::Cancel { address });
            }
            return None;
        }
        self.probes.due.filter(|at| *at <= now)?;
        let address = self.probes.next;
        (self.probes.due, self.probes.under_way) = (None, Some(address));
        if let Some(slot) = self.dials.get_mut(address) {
            *slot = Some(now + self.policy.dial_timeout.min(LONGEST_DIAL));
        }
        Some(Action::Probe { address })
    }

    /// The next better address has its turn, or all of them after a while.
    fn probe_failed(&mut self, now: Instant, address: usize) {
        self.probes.under_way = None;
        self.probes.next = address + 1;
        self.probes.due = Some(now);
        if self.probes.next >= self.first {
            self.schedule_probe(now);
        }
    }

    fn schedule_probe(&mut self, now: Instant) {
        self.probes.next = 0;
        let every = self.policy.prefer.filter(|_| self.first > 0);
        self.probes.due = every.and_then(|every| {
            let every = every.saturating_mul(1 << self.probes.failures.min(6));
            // Up to a quarter more, so that the clients of one server do not come together.
            let nanos = u64::try_from(every.as_nanos() / 4).unwrap_or(u64::MAX);
            now.checked_add(every)?.checked_add(Duration::from_nanos(self.draw(nanos)))
        });
    }

    /// The session is established over this address. Abandon the other dials.
    pub fn handle_established(&mut self, now: Instant, address: usize) {
        self.stop();
        self.first = address.min(self.dials.len() - 1);
        self.established = Some(now);
        self.probes.failures = match self.probes.moving_to.take() {
            Some(target) if target != address => self.probes.failures.saturating_add(1),
            Some(_) => 0,
            None => self.probes.failures,
        };
        self.schedule_probe(now);
    }

    /// Nothing is due until `start`.
    pub fn stop(&mut self) {
        self.state = State::Idle;
        self.dials.fill(None);
        self.until = None;
        (self.probes.due, self.probes.under_way) = (None, None);
    }

    /// Rounds that failed in a row.
    pub fn rounds(&self) -> u32 {
        self.rounds
    }

    fn back_off(&mut self, now: Instant) -> State {
        let longest =
            self.policy.base.saturating_mul(1 << self.rounds.min(31)).min(self.policy.cap);
        self.rounds = self.rounds.saturating_add(1);
        let nanos = u64::try_from(longest.as_nanos()).unwrap_or(u64::MAX);
        let delay = Duration::from_nanos(self.draw(nanos));
        now.checked_add(delay).map_or(State::Next(now), State::Waiting)
    }

    /// An even draw from 0 to `bound`, by SplitMix64 (Steele, Lea and Flood, 2014); good enough for jitter.
    fn draw(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        let scaled = (u128::from(z) * (u128::from(bound) + 1)) >> 64;
        scaled as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dial(address: usize, attempt: u64) -> Option<Action> {
        Some(Action::Dial { address, attempt })
    }

    /// Polls at the next deadline.
    fn next(redial: &mut Redial, now: &mut Instant) -> Option<Action> {
        *now = redial.poll_timeout()?.max(*now);
        redial.poll(*now)
    }

    #[test]
    fn the_first_dial_is_immediate() {
        let now = Instant::now();
        let mut redial = Redial::new(Policy::default(), 1, 1);
        assert_eq!(redial.poll(now), None);
        redial.start(now);
        assert_eq!(redial.poll_timeout(), Some(now));
        assert_eq!(redial.poll(now), dial(0, 1));
        assert_eq!(redial.poll(now), None);
    }

    #[test]
    fn delays_are_drawn_evenly_below_a_doubling_bound_with_a_cap() {
        let policy = Policy { cap: Duration::from_millis(100), ..Policy::default() };
        let (seeds, mut sums) = (400, [Duration::ZERO; 6]);
        for seed in 0..seeds {
            let mut now = Instant::now();
            let mut redial = Redial::new(policy.clone(), 1, seed);
            redial.start(now);
            assert_eq!(redial.poll(now), dial(0, 1));
            for (round, sum) in sums.iter_mut().enumerate() {
                let failed = now;
                redial.handle_failed(now, 0);
                assert_eq!(next(&mut redial, &mut now), dial(0, round as u64 + 2));
                let bound = Duration::from_millis([20, 40, 80, 100, 100, 100][round]);
                assert!(now - failed <= bound, "seed {seed} round {round}");
                *sum += now - failed;
            }
        }
        for (sum, bound) in sums.into_iter().zip([20, 40, 80, 100, 100, 100]) {
            let mean = sum.as_secs_f64() / seeds as f64 / (f64::from(bound) / 1000.0);
            assert!((0.4..0.6).contains(&mean), "mean {mean} of {bound} ms");
        }
    }

    #[test]
    fn every_address_gets_a_head_start_and_a_failure_brings_the_next_at_once() {
        let mut now = Instant::now();
        let begun = now;
        let mut redial = Redial::new(Policy::default(), 3, 1);
        redial.start(now);
        assert_eq!(redial.poll(now), dial(0, 1));
        assert_eq!(next(&mut redial, &mut now), dial(1, 2));
        assert_eq!(now - begun, Duration::from_millis(250));
        redial.handle_failed(now, 0);
        assert_eq!(redial.poll(now), dial(2, 3));
        redial.handle_failed(now, 1);
        assert_eq!(redial.poll(now), None, "the last dial of the round is still under way");
        redial.handle_failed(now, 2);
        assert_eq!(redial.poll(now), None, "the next round waits");
        assert_eq!(next(&mut redial, &mut now), dial(0, 4));
    }

    #[test]
    fn the_address_that_answered_is_dialled_first_the_next_time() {
        let now = Instant::now();
        let mut redial = Redial::new(Policy::default(), 3, 1);
        redial.start(now);
        redial.poll(now);
        redial.handle_failed(now, 0);
        assert_eq!(redial.poll(now), dial(1, 2));
        redial.handle_established(now, 1);
        assert_eq!((redial.poll(now), redial.poll_timeout()), (None, None));
        let later = now + Duration::from_secs(5);
        redial.start(later);
        assert_eq!(redial.poll(later), dial(1, 1));
    }

    #[test]
    fn a_wire_that_dies_at_once_does_not_reset_the_back_off() {
        let mut now = Instant::now();
        let mut redial = Redial::new(Policy::default(), 1, 1);
        redial.start(now);
        for round in 0..5 {
            assert_eq!(redial.poll(now), dial(0, 1));
            redial.handle_established(now, 0);
            redial.start(now);
            assert_eq!(redial.rounds(), round + 1);
            now = redial.poll_timeout().expect("a round is to come");
        }
        assert_eq!(redial.poll(now), dial(0, 1));
        redial.handle_established(now, 0);
        redial.start(now + Duration::from_secs(1));
        assert_eq!(redial.rounds(), 0);
    }

    #[test]
    fn a_dial_that_hangs_is_cancelled_and_the_window_ends_it_all() {
        let policy = Policy { window: Duration::from_secs(15), ..Policy::default() };
        let mut now = Instant::now();
        let begun = now;
        let mut redial = Redial::new(policy, 1, 1);
        redial.start(now);
        assert_eq!(redial.poll(now), dial(0, 1));
        assert_eq!(next(&mut redial, &mut now), Some(Action::Cancel { address: 0 }));
        assert_eq!(now - begun, Duration::from_secs(10));
        assert_eq!(next(&mut redial, &mut now), dial(0, 2));
        assert_eq!(next(&mut redial, &mut now), Some(Action::GiveUp));
        assert_eq!(now - begun, Duration::from_secs(15));
        assert_eq!((redial.poll(now), redial.poll_timeout()), (None, None));
        redial.start(now);
        assert!(redial.poll_timeout().is_some(), "it can begin again");
    }

    #[test]
    fn better_addresses_are_tried_again_while_a_worse_one_serves() {
        let every = Duration::from_secs(10);
        let policy = Policy { prefer: Some(every), ..Policy::default() };
        let mut now = Instant::now();
        let mut redial = Redial::new(policy, 3, 1);
        redial.start(now);
        redial.poll(now);
        redial.handle_established(now, 2);
        let begun = now;
        assert_eq!(next(&mut redial, &mut now), Some(Action::Probe { address: 0 }));
        assert!(now - begun >= every && now - begun <= every + every / 4);
        assert_eq!(redial.poll(now), None);
        redial.handle_failed(now, 0);
        assert_eq!(redial.poll(now), Some(Action::Probe { address: 1 }));
        // Not heard of any more: cancelled, and after a while from the begin again.
        assert_eq!(next(&mut redial, &mut now), Some(Action::Cancel { address: 1 }));
        let begun = now;
        assert_eq!(next(&mut redial, &mut now), Some(Action::Probe { address: 0 }));
        assert!(now - begun >= every);
        redial.handle_moving(now, 0);
        redial.handle_established(now, 0);
        assert_eq!((redial.poll(now), redial.poll_timeout()), (None, None), "there is none better");
    }

    #[test]
    fn a_better_address_that_does_not_carry_the_session_is_left_and_tried_less_often() {
        let every = Duration::from_secs(10);
        let policy = Policy { prefer: Some(every), ..Policy::default() };
        let mut now = Instant::now();
        let mut redial = Redial::new(policy, 2, 1);
        redial.start(now);
        redial.poll(now);
        redial.handle_established(now, 1);
        for failures in 0..8 {
            let begun = now;
            assert_eq!(next(&mut redial, &mut now), Some(Action::Probe { address: 0 }));
            let least = every * (1 << failures.min(6));
            assert!(now - begun >= least && now - begun <= least + least / 4, "{failures}");
            redial.handle_moving(now, 0);
            match failures % 2 {
                // It fails at once, or is silent for longer than its head start.
                0 => redial.handle_failed(now, 0),
                _ => now += Duration::from_millis(250),
            }
            assert_eq!(redial.poll(now), dial(1, 1), "back to the one that served");
            redial.handle_established(now, 1);
        }
    }

    #[test]
    fn durations_without_end_never_come() {
        let forever = Duration::MAX;
        let policy = Policy {
            window: forever,
            head_start: forever,
            dial_timeout: forever,
            cap: forever,
            ..Policy::default()
        };
        let mut now = Instant::now();
        let mut redial = Redial::new(policy, 2, 1);
        redial.start(now);
        for round in 0..40 {
            assert_eq!(next(&mut redial, &mut now), dial(0, round * 2 + 1));
            redial.handle_failed(now, 0);
            assert_eq!(redial.poll(now), dial(1, round * 2 + 2), "a failure brings the next");
            redial.handle_failed(now, 1);
        }
    }

    #[test]
    fn it_always_ends_or_waits_for_something() {
        for seed in 0..200 {
            let mut now = Instant::now();
            let mut redial = Redial::new(Policy::default(), 1 + seed as usize % 5, seed);
            redial.start(now);
            let mut given_up = false;
            for step in 0..100_000u64 {
                match next(&mut redial, &mut now) {
                    Some(Action::Dial { address, .. }) if (step + seed) % 3 != 0 => {
                        redial.handle_failed(now, address)
                    }
                    Some(Action::GiveUp) => {
                        given_up = true;
                        break;
                    }
                    _ => {}
                }
            }
            assert!(given_up, "seed {seed}");
        }
    }
}
