//! Randomness comes from the caller: masking keys must be unpredictable (RFC 6455 sections 5.3 and 10.3), and
//! this crate seeds nothing itself.

use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// A source of unpredictable bytes.
///
/// Any `FnMut(&mut [u8])` is one, for instance a call of the system's generator.
pub trait Entropy {
    /// Fills `out`.
    fn fill(&mut self, out: &mut [u8]);

    /// A fresh masking key.
    fn mask_key(&mut self) -> [u8; 4] {
        let mut key = [0; 4];
        self.fill(&mut key);
        key
    }
}

impl<F: FnMut(&mut [u8])> Entropy for F {
    fn fill(&mut self, out: &mut [u8]) {
        self(out);
    }
}

/// A ChaCha stream keyed by the caller: the usual source, four bytes cost a few instructions.
///
/// Whoever knows the seed knows every key, so it must come from the system's generator, one per connection.
/// In tests a fixed seed makes every run the same.
#[derive(Debug, Clone)]
pub struct ChaChaEntropy(ChaCha12Rng);

impl ChaChaEntropy {
    /// A stream from 32 unpredictable bytes.
    pub fn from_seed(seed: [u8; 32]) -> ChaChaEntropy {
        ChaChaEntropy(ChaCha12Rng::from_seed(seed))
    }
}

impl Entropy for ChaChaEntropy {
    fn fill(&mut self, out: &mut [u8]) {
        self.0.fill_bytes(out);
    }

    #[inline]
    fn mask_key(&mut self) -> [u8; 4] {
        self.0.next_u32().to_ne_bytes()
    }
}
