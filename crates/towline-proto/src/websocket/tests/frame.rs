//! The header's vectors in both directions, and everything a header may not say (RFC 6455 section 5).

use std::time::Instant;

use super::super::frame::{Header, MAX_HEADER, OpCode};
use super::super::*;
use super::support::*;

/// `docs/vectors/websocket.frames.txt`: name, role of the sender, fin, rsv1, opcode, key, payload, and the frame.
const VECTORS: &str = include_str!("../../../../../docs/vectors/websocket.frames.txt");

pub(super) fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|byte| byte.is_ascii_hexdigit()).collect();
    let digit = |byte: u8| char::from(byte).to_digit(16).expect("hex") as u8;
    digits.chunks(2).map(|pair| digit(pair[0]) * 16 + digit(pair[1])).collect()
}

/// `xx*n` repeats a byte.
fn payload(text: &str) -> Vec<u8> {
    match text.split_once('*') {
        Some((byte, times)) => vec![hex(byte)[0]; times.parse().expect("a number")],
        None if text == "-" => Vec::new(),
        None => hex(text),
    }
}

#[test]
fn vectors_hold_in_both_directions() {
    let mut count = 0;
    for line in VECTORS.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [name, fin, opcode, key, content, header_bytes] = fields[..] else {
            panic!("fields of {line}")
        };
        let content = payload(content);
        let opcode =
            OpCode::from_bits(u8::from_str_radix(opcode, 16).expect("hex")).expect("opcode");
        let mask = (key != "-").then(|| hex(key).try_into().expect("four bytes"));
        let header =
            Header { fin: fin == "1", rsv1: false, opcode, mask, length: content.len() as u64 };
        let expected = hex(header_bytes);

        let mut bytes = [0; MAX_HEADER];
        let length = header.encode(&mut bytes);
        assert_eq!(bytes[..length], expected[..length], "{name}");
        assert_eq!(length, header.encoded_len(), "{name}");
        assert_eq!(Header::parse(&expected).expect(name), Some((header, length)), "{name}");
        for cut in 0..length {
            assert_eq!(Header::parse(&expected[..cut]).expect(name), None, "{name} cut at {cut}");
        }
        // Short frames stand there with their masked payload.
        if expected.len() > length {
            let mut body = expected[length..].to_vec();
            mask::apply(&mut body, mask.unwrap_or_default(), 0);
            assert_eq!(body, content, "{name}");
        }
        count += 1;
    }
    assert!(count >= 15, "the vectors are there");
}

#[test]
fn any_two_bytes_give_a_header_or_an_error() {
    for first in 0..=255u8 {
        for second in 0..=255u8 {
            let mut bytes = [0x80; MAX_HEADER];
            (bytes[0], bytes[1]) = (first, second);
            // A length of 126 or 127 with the rest 0x80..: valid as 16 bits, top bit set as 64.
            let Ok(Some((header, length))) = Header::parse(&bytes) else { continue };
            let mut again = [0; MAX_HEADER];
            assert_eq!(header.encode(&mut again), length);
            assert_eq!(again[..length], bytes[..length]);
        }
    }
}

/// Feeds `bytes` to a fresh end and returns the code of the close frame it answers with.
pub(super) fn code_for(role: Role, config: &Config, bytes: &[u8]) -> Option<u16> {
    let now = Instant::now();
    let mut end = end(role, config, now);
    feed(&mut end, now, bytes);
    let _ = events(&mut end);
    close_in(&written(&mut end, now)).map(|(code, _)| code)
}

#[test]
fn case_74_reserved_bits_opcodes_and_control_frames() {
    for role in [Role::Client, Role::Server] {
        let code = |bytes: &[u8]| code_for(role, &quiet(), bytes);
        let mut good = frame_to(role, true, OpCode::Text, b"x");
        assert_eq!(code(&good), None);
        for rsv in [0x40, 0x20, 0x10, 0x70] {
            good[0] = 0x81 | rsv;
            assert_eq!(code(&good), Some(1002), "rsv {rsv:#x}");
        }
        for opcode in (0x3..=0x7).chain(0xB..=0xF) {
            good[0] = 0x80 | opcode;
            assert_eq!(code(&good), Some(1002), "opcode {opcode:#x}");
        }
        for opcode in [OpCode::Ping, OpCode::Pong, OpCode::Close] {
            assert_eq!(
                code(&frame_to(role, false, opcode, b"")),
                Some(1002),
                "fragmented {opcode:?}"
            );
            assert_eq!(
                code(&frame_to(role, true, opcode, &[b'x'; 126])),
                Some(1002),
                "long {opcode:?}"
            );
        }
        assert_eq!(code(&frame_to(role, true, OpCode::Ping, &[b'x'; 125])), None);
        assert_eq!(code(&frame_to(role, true, OpCode::Continuation, b"x")), Some(1002));
        assert_eq!(code(&frame_to(role, false, OpCode::Continuation, b"x")), Some(1002));
    }
}

#[test]
fn case_75_masks_where_they_belong() {
    let masked = raw_frame(true, true, false, OpCode::Binary, b"x");
    let plain = raw_frame(false, true, false, OpCode::Binary, b"x");
    assert_eq!(code_for(Role::Server, &quiet(), &plain), Some(1002));
    assert_eq!(code_for(Role::Client, &quiet(), &masked), Some(1002));
    assert_eq!(code_for(Role::Server, &quiet(), &masked), None);
    assert_eq!(code_for(Role::Client, &quiet(), &plain), None);
    // Control frames too (section 5.1 says all frames).
    assert_eq!(
        code_for(Role::Server, &quiet(), &raw_frame(false, true, false, OpCode::Ping, b"")),
        Some(1002)
    );
    assert_eq!(
        code_for(Role::Client, &quiet(), &raw_frame(true, true, false, OpCode::Ping, b"")),
        Some(1002)
    );
}

#[test]
fn case_81_lengths_are_minimal_and_below_two_to_the_63() {
    let code = |bytes: &[u8]| code_for(Role::Client, &quiet(), bytes);
    assert_eq!(code(&[0x82, 126, 0, 125]), Some(1002));
    assert_eq!(code(&[0x82, 127, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF]), Some(1002));
    assert_eq!(code(&[0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0]), Some(1002));
    assert_eq!(code(&[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]), None);
}

#[test]
fn a_fault_in_the_first_byte_fails_at_once() {
    assert_eq!(code_for(Role::Server, &quiet(), &[0x83]), Some(1002));
    assert_eq!(code_for(Role::Server, &quiet(), &[0x91]), Some(1002));
}

#[test]
fn case_33_close_bodies() {
    for role in [Role::Client, Role::Server] {
        let code =
            |body: &[u8]| code_for(role, &quiet(), &frame_to(role, true, OpCode::Close, body));
        assert_eq!(code(&[3]), Some(1002), "one byte");
        for bad in [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535] {
            assert_eq!(code(&close_body(bad, b"")), Some(1002), "code {bad}");
        }
        for good in [
            1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999,
            4000, 4999,
        ] {
            assert_eq!(code(&close_body(good, b"bye")), Some(good), "code {good} is echoed");
        }
        assert_eq!(code(&close_body(1000, b"\xCE\xBA\xE1")), Some(1007), "reason is not utf-8");
        assert_eq!(code(&close_body(1000, &[b'x'; 123])), Some(1000), "longest reason");
    }
}
