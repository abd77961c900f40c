//! The bodies of the fuzz targets, over what a fuzzer would begin with.

use super::super::fuzzing;
use super::support::*;

fn mutations(seed: &[u8], run: fn(&[u8])) {
    run(seed);
    for round in 0..200 {
        let mut dice = Dice::new(round);
        let mut data = seed.to_vec();
        for _ in 0..1 + dice.below(4) {
            let at = dice.below(data.len());
            match dice.below(4) {
                0 => data[at] = dice.next() as u8,
                1 => data[at] ^= 1 << dice.below(8),
                2 => data.truncate(at.max(1)),
                _ => data.insert(at, dice.next() as u8),
            }
        }
        run(&data);
    }
}

#[test]
fn frames() {
    use super::super::frame::OpCode::*;
    for role in [super::super::Role::Client, super::super::Role::Server] {
        let first = u8::from(role == super::super::Role::Server);
        let mut seed = vec![first, 3];
        seed.extend(frame_to(role, true, Text, "text ü".as_bytes()));
        seed.extend(frame_to(role, false, Binary, &[1; 300]));
        seed.extend(frame_to(role, true, Ping, b"ping"));
        seed.extend(frame_to(role, true, Continuation, &[2; 70]));
        seed.extend(frame_to(role, true, Close, &close_body(1000, b"bye")));
        mutations(&seed, fuzzing::frames);
    }
}

/// What the fuzzer found: bytes read directly into a message that failed there were never credited.
#[test]
fn found_frames() {
    fuzzing::frames(b"\x47\x08\x01\xfe\xff\xff\xff\xe0\xa1\xff\xff\xff\x0d");
}

#[test]
fn handshake() {
    let server = b"\x20GET /chat HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n";
    let client = b"\x09HTTP/1.1 101 OK\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n";
    let redirect = b"\x09HTTP/1.1 302 OK\r\nLocation: //h/../x\r\n\r\n";
    let seeds: [&[u8]; 6] = [
        server,
        client,
        redirect,
        b"\x01wss://u:p@[::1]:8/a/../b?c",
        b"\x01../../x?y#z",
        b"\x01permessage-deflate; server_max_window_bits=9; client_no_context_takeover",
    ];
    for seed in seeds {
        mutations(seed, fuzzing::handshake);
    }
}

#[test]
fn inflate() {
    let hello =
        [0x00, 0x02, 0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0xf2, 0x00, 0x11, 0x00, 0x00];
    mutations(&hello, fuzzing::inflate);
    let blocks = [
        0x04, 0x02, 0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00, 0x00, 0x05, 0x00, 0xfa, 0xff,
        0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00,
    ];
    mutations(&blocks, fuzzing::inflate);
}
