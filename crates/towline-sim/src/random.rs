//! The generator: xoshiro256++ (Blackman and Vigna, 2018) seeded through SplitMix64.
//!
//! Everything random in a simulation comes from here, in integers. A stream is named by the seed and a
//! list of keys (say: "link", the names of its ends, "loss"), never by the order of creation, so adding a
//! link, or switching on another impairment of the same link, leaves every other draw as it was.

/// A stream of pseudo-random numbers. Not for cryptography.
#[derive(Clone, Debug)]
pub struct Random {
    state: [u64; 4],
}

impl Random {
    /// The stream of `seed` itself.
    pub fn new(seed: u64) -> Self {
        Self::keyed(seed, &[])
    }

    /// The stream of `seed` that `keys` name. Equal arguments give equal streams on every machine.
    pub fn keyed(seed: u64, keys: &[u64]) -> Self {
        let mut mix = SplitMix(seed);
        for key in keys {
            mix = SplitMix(mix.next() ^ key.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        }
        Random { state: [mix.next(), mix.next(), mix.next(), mix.next()] }
    }

    /// The next 64 bits.
    #[inline]
    pub fn next_u64(&mut self) -> u64 {
        let [s0, s1, s2, s3] = &mut self.state;
        let result = s0.wrapping_add(*s3).rotate_left(23).wrapping_add(*s0);
        let shifted = *s1 << 17;
        *s2 ^= *s0;
        *s3 ^= *s1;
        *s1 ^= *s2;
        *s0 ^= *s3;
        *s2 ^= shifted;
        *s3 = s3.rotate_left(45);
        result
    }

    /// A number in `0..bound`; 0 when `bound` is 0. The bias is below `bound` / 2^64.
    #[inline]
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// A number in `low..=high`; `low` when the range is empty.
    #[inline]
    pub fn within(&mut self, low: u64, high: u64) -> u64 {
        match high.saturating_sub(low).checked_add(1) {
            Some(span) => low + self.below(span),
            None => self.next_u64(),
        }
    }

    /// True with the probability of `chance`; draws nothing when it is never or always.
    #[inline]
    pub fn chance(&mut self, chance: Chance) -> bool {
        match chance.0 {
            0 => false,
            Chance::ONE => true,
            threshold => self.next_u64() >> 1 < threshold,
        }
    }

    /// Fills `bytes`.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let word = self.next_u64().to_le_bytes();
            chunk.iter_mut().zip(word).for_each(|(byte, random)| *byte = random);
        }
    }
}

/// A probability as an integer number of 2^-63, so that a draw compares integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chance(u64);

impl Chance {
    const ONE: u64 = 1 << 63;

    /// Never.
    pub const NEVER: Chance = Chance(0);

    /// From a probability; `None` outside 0 to 1. Scaling by a power of two is exact in IEEE 754.
    pub fn new(probability: f64) -> Option<Self> {
        (0.0..=1.0)
            .contains(&probability)
            .then_some(Chance((probability * Self::ONE as f64) as u64))
    }
}

/// A name as a key of [`Random::keyed`] (FNV-1a).
pub(crate) fn key(name: &str) -> u64 {
    name.bytes().fold(0xCBF2_9CE4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    })
}

struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// First outputs of xoshiro256++ from the state 1, 2, 3, 4 (rand_xoshiro's and the authors' vector).
    #[test]
    fn xoshiro_gives_the_published_sequence() {
        let mut random = Random { state: [1, 2, 3, 4] };
        let expected = [
            41943041,
            58720359,
            3588806011781223,
            3591011842654386,
            9228616714210784205,
            9973669472204895162,
        ];
        for value in expected {
            assert_eq!(random.next_u64(), value);
        }
    }

    /// SplitMix64 from 1234567 (the published test vector of the algorithm).
    #[test]
    fn splitmix_gives_the_published_sequence() {
        let mut mix = SplitMix(1234567);
        assert_eq!(mix.next(), 6457827717110365317);
        assert_eq!(mix.next(), 3203168211198807973);
    }

    #[test]
    fn keys_name_independent_streams() {
        let draw = |keys: &[u64]| Random::keyed(7, keys).next_u64();
        assert_eq!(draw(&[1, 2]), draw(&[1, 2]));
        assert_ne!(draw(&[1, 2]), draw(&[2, 1]));
        assert_ne!(draw(&[1]), draw(&[1, 0]));
        assert_ne!(draw(&[]), draw(&[0]));
    }

    #[test]
    fn chances_at_the_ends_are_certain_and_draw_nothing() {
        let mut random = Random::new(1);
        let before = random.clone().next_u64();
        assert!(!random.chance(Chance::new(0.0).unwrap()));
        assert!(random.chance(Chance::new(1.0).unwrap()));
        assert_eq!(random.next_u64(), before);
        assert!(
            Chance::new(1.01).is_none()
                && Chance::new(-0.1).is_none()
                && Chance::new(f64::NAN).is_none()
        );
    }

    #[test]
    fn ranges_are_inclusive_and_reach_both_ends() {
        let mut random = Random::new(3);
        let drawn: Vec<u64> = (0..1000).map(|_| random.within(5, 9)).collect();
        assert_eq!((drawn.iter().min(), drawn.iter().max()), (Some(&5), Some(&9)));
        assert_eq!(random.within(9, 5), 9);
        assert_eq!(random.below(0), 0);
        random.within(0, u64::MAX);
    }
}
