//! The counter-based generator that both sides derive coefficients and supports from; `docs/code.md` specifies it.
//!
//! A stream is named by (nonce, domain, a, b), and word `i` of a stream is a function of that name and of `i` alone, so
//! any part of any stream is available without the parts before it. It is the SplitMix64 generator with a derived key. It is
//! no cipher: what must stay unpredictable to an adversary is kept so by the secrecy of the nonce.

/// 2^64 divided by the golden ratio.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// What a stream is for. The numbers are part of the specification.
#[derive(Clone, Copy, Debug)]
#[repr(u64)]
pub(crate) enum Domain {
    /// Coefficients of a repair column: a = batch id, b = column.
    Column = 1,
    /// Tables of one round of the permutation: a = round.
    Round = 2,
    /// Coefficients of a sliding-window repair: a = repair id.
    Window = 3,
    /// A relay's own random combinations: a = count.
    Recoding = 4,
}

/// The finaliser of SplitMix64 (variant 13 of David Stafford's).
const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// One stream of words.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stream {
    key: u64,
}

impl Stream {
    pub(crate) const fn new(nonce: u64, domain: Domain, a: u64, b: u64) -> Stream {
        let mut key = mix(nonce.wrapping_add(GOLDEN.wrapping_mul(domain as u64)));
        key = mix(key.wrapping_add(GOLDEN) ^ a);
        key = mix(key.wrapping_add(GOLDEN) ^ b);
        Stream { key }
    }

    /// Word `i`.
    #[inline]
    pub(crate) const fn word(self, i: u64) -> u64 {
        mix(self.key.wrapping_add(GOLDEN.wrapping_mul(i.wrapping_add(1))))
    }

    /// Appends coefficients 0..count of this stream: coefficient `i` comes from byte `i % 8` (least significant first) of word
    /// `i / 8`, mapped onto 1..=255.
    pub(crate) fn coefficients(self, count: usize, out: &mut Vec<u8>) {
        let mut left = count;
        let mut i = 0;
        while left > 0 {
            let word = self.word(i).to_le_bytes().map(coefficient);
            let take = left.min(8);
            out.extend_from_slice(&word[..take]);
            left -= take;
            i += 1;
        }
    }
}

/// Maps a uniform byte onto 1..=255; 1 comes up twice as often as the others.
#[inline]
pub(crate) const fn coefficient(byte: u8) -> u8 {
    ((byte as u16 * 255) >> 8) as u8 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_the_specification() {
        // docs/code.md, "The generator"; also in docs/vectors/code-prng.txt.
        let stream = Stream::new(0, Domain::Column, 0, 0);
        let again = Stream::new(0, Domain::Column, 0, 0);
        assert_eq!(stream.word(5), again.word(5));
        assert_ne!(stream.word(0), stream.word(1));
        assert_ne!(stream.word(0), Stream::new(0, Domain::Round, 0, 0).word(0));
        assert_ne!(stream.word(0), Stream::new(1, Domain::Column, 0, 0).word(0));
    }

    #[test]
    fn coefficients_are_never_zero_and_cover_the_field() {
        let values: std::collections::BTreeSet<u8> = (0..=255).map(coefficient).collect();
        assert_eq!(values.len(), 255);
        assert!(!values.contains(&0));
    }

    #[test]
    fn a_longer_draw_extends_a_shorter_one() {
        let stream = Stream::new(7, Domain::Column, 3, 1);
        let (mut short, mut long) = (Vec::new(), Vec::new());
        stream.coefficients(13, &mut short);
        stream.coefficients(40, &mut long);
        assert_eq!(short, long[..13]);
    }
}
