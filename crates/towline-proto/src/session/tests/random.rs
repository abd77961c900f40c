//! Random interactions under the oracle of `testing`.

use super::super::testing::{interact, session_frames};

/// SplitMix64: enough randomness for tests.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

fn octets(seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    let len = 20 + random.next() as usize % 1500;
    (0..len).map(|_| random.next() as u8).collect()
}

/// Set `SESSION_SEED` to repeat one case, `SESSION_CASES` for more of them.
#[test]
fn whatever_happens_each_message_arrives_once_and_in_order_or_comes_back() {
    let read = |name| std::env::var(name).ok().and_then(|value: String| value.parse::<u64>().ok());
    let (from, count) = match read("SESSION_SEED") {
        Some(seed) => (seed, 1),
        None => (1, read("SESSION_CASES").unwrap_or(4000)),
    };
    for seed in from..from + count {
        let case = std::panic::catch_unwind(|| interact(&octets(seed)));
        assert!(case.is_ok(), "failed with SESSION_SEED={seed}");
    }
}

#[test]
fn octets_of_any_kind_end_in_an_error_at_worst() {
    for seed in 0..150 {
        let mut data = octets(seed);
        data.truncate(200);
        // Mostly frames that almost parse: small first octets and lengths.
        if seed % 2 == 0 {
            data.iter_mut().for_each(|octet| *octet &= 0x9f);
        }
        session_frames(&data);
    }
}
