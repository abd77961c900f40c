//! Every kernel against the scalar twin, and the scalar twin against the definition.

use super::*;
use crate::prng::{Domain, Stream};

fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let stream = Stream::new(seed, Domain::Recoding, 0, 0);
    (0..len as u64).map(|i| stream.word(i) as u8).collect()
}

/// Multiplication from the definition.
fn slow(mut a: u8, mut b: u8) -> u8 {
    let mut sum = 0;
    while b != 0 {
        if b & 1 != 0 {
            sum ^= a;
        }
        a = (a << 1) ^ if a & 0x80 != 0 { 0x1D } else { 0 };
        b >>= 1;
    }
    sum
}

#[test]
fn products_and_inverses_follow_the_polynomial() {
    for a in 0..=255 {
        for b in 0..=255 {
            assert_eq!(product(a, b), slow(a, b), "{a} * {b}");
        }
        assert_eq!(product(a, inverse(a)), u8::from(a != 0));
    }
    // 2 generates the multiplicative group.
    let mut power = 1;
    assert!((1..255).all(|_| {
        power = product(power, 2);
        power != 1
    }));
}

#[test]
fn every_kernel_agrees_with_the_scalar_twin_at_every_length_and_alignment() {
    let data = bytes(1, 4096);
    for kernel in Kernel::available() {
        for len in 0..=257 {
            for offset in 0..64 {
                let coefficient = (len * 7 + offset * 31) as u8;
                let source = &data[offset..offset + len];
                for add in [false, true] {
                    // The destination is at another alignment, between guards.
                    let at = (offset * 5 + len) % 64;
                    let mut own = bytes(2, 512);
                    let mut twin = own.clone();
                    let term = [(source, coefficient)];
                    kernel.sum(&mut own[at..at + len], add, term.into_iter());
                    Kernel::scalar().sum(&mut twin[at..at + len], add, term.into_iter());
                    assert_eq!(
                        own,
                        twin,
                        "{} length {len} offset {offset} add {add}",
                        kernel.name()
                    );
                }
            }
        }
    }
}

#[test]
fn every_kernel_multiplies_by_every_coefficient() {
    let source: Vec<u8> = (0..=255).collect();
    for kernel in Kernel::available() {
        for coefficient in 0..=255 {
            let mut out = vec![0xAA; 256];
            kernel.mul(&mut out, &source, coefficient);
            for (a, &value) in (0..=255).zip(&out) {
                assert_eq!(value, product(a, coefficient), "{} {a} * {coefficient}", kernel.name());
            }
            let mut scaled = source.clone();
            kernel.scale(&mut scaled, coefficient);
            assert_eq!(scaled, out, "{}", kernel.name());
        }
    }
}

#[test]
fn fused_sums_agree_with_the_scalar_twin_for_any_number_of_sources() {
    let data: Vec<Vec<u8>> = (0..300).map(|i| bytes(100 + i, 1500)).collect();
    let coefficients = bytes(3, 300);
    for kernel in Kernel::available() {
        for count in [0, 1, 2, 3, 4, 5, 15, 16, 17, 127, 128, 129, 255, 256, 257, 300] {
            for len in
                [1, 15, 16, 31, 33, 63, 64, 65, 127, 255, 256, 257, 511, 512, 513, 704, 1408, 1437]
            {
                let offset = (count + len) % 61;
                let sources: Vec<&[u8]> =
                    data[..count].iter().map(|d| &d[offset..offset + len]).collect();
                let start = bytes(4, len);
                let (mut own, mut twin) = (start.clone(), start.clone());
                kernel.dot_add(&mut own, &sources, &coefficients[..count]);
                Kernel::scalar().dot_add(&mut twin, &sources, &coefficients[..count]);
                assert_eq!(own, twin, "{} {count} sources of {len}", kernel.name());
                kernel.dot(&mut own, &sources, &coefficients[..count]);
                own.iter_mut().zip(&start).for_each(|(a, b)| *a ^= b);
                assert_eq!(own, twin, "{} {count} sources of {len}, replaced", kernel.name());
            }
        }
    }
}

#[test]
fn four_destinations_agree_with_one_at_a_time() {
    let data: Vec<Vec<u8>> = (0..140).map(|i| bytes(500 + i, 600)).collect();
    for kernel in Kernel::available() {
        for count in [0, 1, 2, 3, 16, 127, 128, 129, 140] {
            for len in (0..=257).chain([511, 512, 513, 600]) {
                for add in [false, true] {
                    let four =
                        |i: usize| [i as u8, (i * 3) as u8, (i * 7 + 1) as u8, (255 - i) as u8];
                    let mut own = [bytes(1, len), bytes(2, len), bytes(3, len), bytes(4, len)];
                    let mut twin = own.clone();
                    let terms = data[..count].iter().enumerate().map(|(i, d)| (&d[..len], four(i)));
                    kernel.sum4(own.each_mut().map(|v| &mut v[..]), add, terms);
                    for (d, twin) in twin.iter_mut().enumerate() {
                        let terms =
                            data[..count].iter().enumerate().map(|(i, s)| (&s[..len], four(i)[d]));
                        Kernel::scalar().sum(twin, add, terms);
                    }
                    assert_eq!(own, twin, "{} {count} sources of {len}, add {add}", kernel.name());
                }
            }
            if cfg!(debug_assertions) && count > 16 && kernel == Kernel::scalar() {
                break;
            }
        }
    }
}

#[test]
fn rows_sum_into_one_another() {
    for len in [1, 63, 64, 65, 128, 200] {
        let mut rows = Rows::new(5, len);
        let contents: Vec<Vec<u8>> = (0..5).map(|i| bytes(i, len)).collect();
        for (row, content) in contents.iter().enumerate() {
            rows.row_mut(row).copy_from_slice(content);
            assert_eq!(rows.row(row).as_ptr() as usize % 64, 0);
        }
        rows.sum(2, true, &[0, 4], &[3, 7], 0..len);
        let expected: Vec<u8> = (0..len)
            .map(|i| contents[2][i] ^ product(3, contents[0][i]) ^ product(7, contents[4][i]))
            .collect();
        assert_eq!(rows.row(2), expected);
        rows.swap(2, 1);
        assert_eq!((rows.row(1), rows.row(2)), (&expected[..], &contents[1][..]));
        rows.sum(0, false, &[], &[], 0..len);
        assert!(rows.row(0).iter().all(|&b| b == 0));
    }
}

#[test]
#[should_panic(expected = "shorter")]
fn a_short_source_is_refused() {
    dot(&mut [0; 10], &[&[0; 9]], &[1]);
}
