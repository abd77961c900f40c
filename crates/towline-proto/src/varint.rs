//! Variable-length integers as in RFC 9000, section 16: the two top bits of the first octet say whether the
//! integer takes 1, 2, 4 or 8 octets; the rest is big-endian. The largest value is 2^62 - 1.

/// The largest value that a variable-length integer carries: 2^62 - 1.
pub const MAX: u64 = (1 << 62) - 1;

/// The most octets that an integer takes.
pub const MAX_LEN: usize = 8;

/// The octets that `value` takes in its shortest form. Values above [`MAX`] are counted as 8.
#[inline]
pub const fn len(value: u64) -> usize {
    if value < 1 << 6 {
        1
    } else if value < 1 << 14 {
        2
    } else if value < 1 << 30 {
        4
    } else {
        8
    }
}

/// Writes `value` in its shortest form to the start of `out` and returns the octets written.
///
/// Returns 0 and writes nothing when `out` is too short or `value` is above [`MAX`].
#[inline]
pub fn write(value: u64, out: &mut [u8]) -> usize {
    let len = len(value);
    let Some(slot) = out.get_mut(..len) else { return 0 };
    match slot {
        [a] => *a = value as u8,
        [a, b] => [*a, *b] = ((value as u16) | 0x4000).to_be_bytes(),
        [a, b, c, d] => [*a, *b, *c, *d] = ((value as u32) | 0x8000_0000).to_be_bytes(),
        _ => {
            if value > MAX {
                return 0;
            }
            slot.copy_from_slice(&(value | 0xc000_0000_0000_0000).to_be_bytes());
        }
    }
    len
}

/// Reads an integer from the start of `data`: the value and the octets it took, or `None` when `data` is too
/// short. Longer forms than needed are accepted, as RFC 9000 has it.
#[inline]
pub fn read(data: &[u8]) -> Option<(u64, usize)> {
    match data {
        [a, ..] if *a < 0x40 => Some((u64::from(*a), 1)),
        [a, b, ..] if *a < 0x80 => Some((u64::from(u16::from_be_bytes([*a & 0x3f, *b])), 2)),
        [a, b, c, d, ..] if *a >= 0x80 && *a < 0xc0 => {
            Some((u64::from(u32::from_be_bytes([*a & 0x3f, *b, *c, *d])), 4))
        }
        [a, b, c, d, e, f, g, h, ..] if *a >= 0xc0 => {
            Some((u64::from_be_bytes([*a & 0x3f, *b, *c, *d, *e, *f, *g, *h]), 8))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 9000, appendix A.1.
    #[test]
    fn reads_the_examples_of_rfc_9000() {
        let long = [0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c];
        assert_eq!(read(&long), Some((151_288_809_941_952_652, 8)));
        assert_eq!(read(&[0x9d, 0x7f, 0x3e, 0x7d]), Some((494_878_333, 4)));
        assert_eq!(read(&[0x7b, 0xbd]), Some((15_293, 2)));
        assert_eq!(read(&[0x25]), Some((37, 1)));
        assert_eq!(read(&[0x40, 0x25]), Some((37, 2)));
    }

    #[test]
    fn writes_what_it_reads_at_every_boundary() {
        for value in [0, 1, 63, 64, 16_383, 16_384, (1 << 30) - 1, 1 << 30, MAX] {
            let mut out = [0; MAX_LEN];
            let n = write(value, &mut out);
            assert_eq!(n, len(value));
            assert_eq!(read(&out), Some((value, n)));
            for cut in 0..n {
                assert_eq!(read(&out[..cut]), None, "{value} cut at {cut}");
                assert_eq!(write(value, &mut [0; MAX_LEN][..cut]), 0);
            }
        }
        assert_eq!(write(MAX + 1, &mut [0; MAX_LEN]), 0);
    }
}
