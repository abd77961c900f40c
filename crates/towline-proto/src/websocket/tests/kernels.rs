//! Masking and UTF-8: the fast forms against the plain ones.

use bytes::BytesMut;

use super::super::{Utf8Validator, mask};
use super::support::*;

#[test]
fn case_80_masking_agrees_at_every_offset_alignment_and_length() {
    let mut dice = Dice::new(1);
    let key = [0x12, 0x34, 0x56, 0x78];
    let source = dice.bytes(256);
    for offset in [0u64, 1, 2, 3, 4, 5, 6, 7, 1 << 40, u64::MAX, u64::MAX - 1] {
        for start in 0..16 {
            for length in 0..80 {
                let mut fast = source.clone();
                let mut plain = source.clone();
                mask::apply(&mut fast[start..start + length], key, offset);
                let range = plain[start..start + length].iter_mut().enumerate();
                range.for_each(|(at, byte)| *byte ^= key[((offset % 4) as usize + at) % 4]);
                assert_eq!(fast, plain, "offset {offset}, start {start}, length {length}");
                let mut scalar = source.clone();
                mask::apply_scalar(&mut scalar[start..start + length], key, offset);
                assert_eq!(scalar, plain);
            }
        }
    }
}

#[test]
fn masking_in_pieces_is_masking_at_once() {
    for seed in seeds(50) {
        let mut dice = Dice::new(seed);
        let length = dice.below(5000);
        let source = dice.bytes(length);
        let key: [u8; 4] = dice.bytes(4).try_into().expect("four");
        let mut whole = source.clone();
        mask::apply(&mut whole, key, 0);
        let mut pieces = source.clone();
        let mut at = 0;
        while at < length {
            let take = (1 + dice.below(100)).min(length - at);
            mask::apply(&mut pieces[at..at + take], key, at as u64);
            at += take;
        }
        assert_eq!(whole, pieces, "seed {seed}");
        let mut copied = BytesMut::from(&b"before"[..]);
        mask::append(&mut copied, &source, key, 0);
        assert_eq!(copied[6..], whole, "seed {seed}");
    }
}

#[test]
fn a_large_masked_copy_keeps_its_phase_over_blocks() {
    let source = Dice::new(3).bytes(100_001);
    let mut copied = BytesMut::new();
    mask::append(&mut copied, &source, [1, 2, 3, 4], 1);
    mask::apply_scalar(&mut copied, [1, 2, 3, 4], 1);
    assert_eq!(copied, source);
}

/// Whether the text is valid when fed in pieces of the given size, and after how many bytes it failed.
fn validate(text: &[u8], piece: usize) -> Result<(), usize> {
    let mut validator = Utf8Validator::default();
    let mut fed = 0;
    for chunk in text.chunks(piece) {
        fed += chunk.len();
        validator.feed(chunk).map_err(|_| fed)?;
    }
    validator.finish().map_err(|_| usize::MAX)
}

#[test]
fn case_76_utf8_agrees_with_the_standard_library_and_fails_at_the_first_bad_byte() {
    let samples: [&[u8]; 26] = [
        b"",
        b"plain",
        "κόσμε".as_bytes(),
        b"\xCE\xBA\xE1\xBD\xB9\xCF\x83\xCE\xBC\xCE\xB5\xED\xA0\x80edited",
        b"\xF4\x90\x80\x80",
        b"\xF4\x8F\xBF\xBF",
        b"\xED\x9F\xBF",
        b"\xEE\x80\x80",
        b"\xED\xA0\x80",
        b"\xC0\xAF",
        b"\xC1\xBF",
        b"\xC2\x80",
        b"\xE0\x80\xAF",
        b"\xE0\xA0\x80",
        b"\xF0\x80\x80\xAF",
        b"\xF0\x90\x80\x80",
        b"\xF5\x80\x80\x80",
        b"\xFE",
        b"\xFF",
        b"\x80",
        b"ok\xC3",
        b"ok\xE2\x82",
        b"ok\xF0\x9F\x98",
        b"\xC3(",
        b"\xE2\x28\xA1",
        b"\xF0\x9F\x98\x80\x80",
    ];
    for sample in samples {
        let padded = [&[b'a'; 70][..], sample].concat();
        for text in [sample, &padded] {
            let expected = std::str::from_utf8(text);
            for piece in 1..=9 {
                assert_eq!(
                    validate(text, piece).is_ok(),
                    expected.is_ok(),
                    "{text:x?} in pieces of {piece}"
                );
            }
            // Byte by byte the very byte that breaks it is found.
            if let Err(error) = expected {
                let breaks = (1..=text.len()).find(|&end| {
                    std::str::from_utf8(&text[..end])
                        .is_err_and(|error| error.error_len().is_some())
                });
                assert_eq!(
                    validate(text, 1),
                    Err(breaks.unwrap_or(usize::MAX)),
                    "{text:x?}: {error}"
                );
            }
        }
    }
}

#[test]
fn utf8_agrees_on_random_bytes_in_random_pieces() {
    for seed in seeds(300) {
        let mut dice = Dice::new(seed);
        let length = 1 + dice.below(300);
        let mut text = dice.text(length).into_bytes();
        if dice.one_in(2) {
            let at = dice.below(text.len());
            text[at] = dice.next() as u8;
        }
        let mut validator = Utf8Validator::default();
        let mut rest = &text[..];
        let mut result = Ok(());
        while !rest.is_empty() && result.is_ok() {
            let (piece, after) = rest.split_at((1 + dice.below(40)).min(rest.len()));
            result = validator.feed(piece);
            rest = after;
        }
        let result = result.and_then(|()| validator.finish());
        assert_eq!(result.is_ok(), std::str::from_utf8(&text).is_ok(), "seed {seed}");
    }
}
