//! permessage-deflate (RFC 7692; case 82).

use std::sync::Arc;
use std::time::Instant;

use super::super::frame::OpCode;
use super::super::*;
use super::support::*;

fn params(bits: (u8, u8), forgets: (bool, bool)) -> DeflateParams {
    DeflateParams {
        client_no_context_takeover: forgets.0,
        server_no_context_takeover: forgets.1,
        client_window_bits: bits.0,
        server_window_bits: bits.1,
    }
}

fn compressed(role: Role, config: &Config, params: DeflateParams, now: Instant) -> Connection {
    let compression =
        Compression { config: DeflateConfig { min_length: 1, ..DeflateConfig::default() }, params };
    Connection::new(role, Arc::new(config.clone()), Some(&compression), entropy(3), now)
}

/// What a server's end with full windows makes of frames, and the code of the close frame if it fails.
fn receive(config: &Config, bytes: &[u8], piece: usize) -> (Vec<(Kind, Vec<u8>)>, Option<u16>) {
    let now = Instant::now();
    let mut end = compressed(Role::Client, config, params((15, 15), (false, false)), now);
    let mut all = Vec::new();
    for chunk in bytes.chunks(piece) {
        feed(&mut end, now, chunk);
        while let Some(event) = end.poll_event() {
            if let Event::Message(Message { data, .. }) | Event::Part(Part { data, .. }) = &event {
                let length = data.len();
                end.credit(length).expect("within");
            }
            all.push(event);
        }
    }
    assert_eq!(end.take_credit(), bytes.len());
    (messages(&all), close_in(&written(&mut end, now)).map(|(code, _)| code))
}

fn deflated(fin: bool, rsv1: bool, opcode: OpCode, payload: &[u8]) -> Vec<u8> {
    raw_frame(false, fin, rsv1, opcode, payload)
}

/// The examples of RFC 7692 section 7.2.3, `docs/vectors/websocket.deflate.txt`.
#[test]
fn the_standards_examples() {
    const VECTORS: &str = include_str!("../../../../../docs/vectors/websocket.deflate.txt");
    let mut count = 0;
    for line in VECTORS.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (name, rest) = line.split_once(char::is_whitespace).expect("a name");
        let (frames, expected) = rest.split_once('=').expect("an outcome");
        let bytes = super::frame::hex(frames);
        let expected: Vec<_> = expected
            .split_whitespace()
            .map(|text| (Kind::Text, text.strip_prefix('.').unwrap_or(text).as_bytes().to_vec()))
            .collect();
        for piece in [1, 3, usize::MAX] {
            assert_eq!(
                receive(&quiet(), &bytes, piece),
                (expected.clone(), None),
                "{name} in pieces of {piece}"
            );
        }
        count += 1;
    }
    assert!(count >= 9, "the vectors are there");
}

#[test]
fn what_the_standard_forbids() {
    let code = |bytes: &[u8]| receive(&quiet(), bytes, usize::MAX).1;
    // RSV1 on a continuation and on control frames (section 6).
    let pieces = [
        deflated(false, true, OpCode::Text, &[0xf2]),
        deflated(true, true, OpCode::Continuation, &[0x48]),
    ];
    assert_eq!(code(&pieces.concat()), Some(1002));
    assert_eq!(code(&deflated(true, true, OpCode::Ping, b"")), Some(1002));
    assert_eq!(code(&deflated(true, true, OpCode::Close, b"")), Some(1002));
    // Not DEFLATE: a reserved block type.
    assert_eq!(code(&deflated(true, true, OpCode::Binary, &[0x07, 0xff, 0xff])), Some(1007));
    // Inflates to something that is not UTF-8: stored block with 0xff.
    assert_eq!(
        code(&deflated(true, true, OpCode::Text, &[0x00, 0x01, 0x00, 0xfe, 0xff, 0xff, 0x00])),
        Some(1007)
    );
    // RSV1 without the extension.
    let now = Instant::now();
    let mut end = end(Role::Client, &quiet(), now);
    feed(&mut end, now, &deflated(true, true, OpCode::Text, &[0x00]));
    let _ = events(&mut end);
    assert_eq!(close_in(&written(&mut end, now)).map(|(code, _)| code), Some(1002));
}

#[test]
fn every_agreement_carries_messages_both_ways() {
    for bits in [8, 9, 10, 12, 15] {
        for forgets in [(false, false), (true, false), (false, true), (true, true)] {
            let now = Instant::now();
            let agreed = params((bits, 23 - bits), forgets);
            for config in [
                quiet(),
                Config {
                    delivery: Delivery::Streamed { above: 1000 },
                    fragment: Some(300),
                    ..quiet()
                },
            ] {
                let mut ends =
                    [Role::Client, Role::Server].map(|role| compressed(role, &config, agreed, now));
                let mut dice = Dice::new(u64::from(bits));
                let mut expected = Vec::new();
                for round in 0..30 {
                    let size = [0, 1, 10, 500, 5000, 40_000][round % 6];
                    let message = dice.text(size);
                    expected.push((Kind::Text, message.clone().into_bytes()));
                    let from = round % 2;
                    ends[from].send_text(&message).expect("sent");
                    if round % 5 == 0 {
                        ends[from].ping(b"between").expect("sent");
                    }
                    let bytes = written(&mut ends[from], now);
                    let mut got = Vec::new();
                    for chunk in bytes.chunks(1 + dice.below(5000)) {
                        feed(&mut ends[1 - from], now, chunk);
                        got.extend(events(&mut ends[1 - from]));
                    }
                    assert_eq!(
                        messages(&got),
                        expected[round..],
                        "bits {bits}, {forgets:?}, round {round}"
                    );
                    ends[1 - from].credit(message.len()).expect("within");
                    let pong = written(&mut ends[1 - from], now);
                    feed(&mut ends[from], now, &pong);
                    let _ = events(&mut ends[from]);
                }
            }
        }
    }
}

#[test]
fn streamed_sending_is_compressed_too() {
    let now = Instant::now();
    let agreed = params((15, 15), (false, false));
    let mut client = compressed(Role::Client, &quiet(), agreed, now);
    let mut server = compressed(Role::Server, &quiet(), agreed, now);
    for _ in 0..3 {
        for at in 0..5 {
            client.send_part(Kind::Binary, vec![at; 1000].into(), false).expect("sent");
        }
        client.send_part(Kind::Binary, bytes::Bytes::new(), true).expect("sent");
    }
    let bytes = written(&mut client, now);
    assert!(bytes.len() < 1000);
    feed(&mut server, now, &bytes);
    let expected: Vec<u8> = (0..5).flat_map(|at| vec![at; 1000]).collect();
    assert_eq!(messages(&events(&mut server)), vec![(Kind::Binary, expected); 3]);
}

#[test]
fn context_makes_the_second_message_smaller_and_can_be_refused() {
    let size = |forgets| {
        let now = Instant::now();
        let mut client =
            compressed(Role::Client, &quiet(), params((15, 15), (forgets, false)), now);
        let message = Dice::new(4).text(2000);
        client.send_text(&message).expect("sent");
        let first = written(&mut client, now).len();
        client.send_text(&message).expect("sent");
        (first, written(&mut client, now).len())
    };
    let (first, second) = size(false);
    assert!(second < first / 5, "{first} then {second}");
    let (first, second) = size(true);
    assert_eq!(first, second);
}

#[test]
fn a_bomb_is_stopped_at_the_limit() {
    let now = Instant::now();
    let mut sender = compressed(
        Role::Server,
        &Config { max_queued: 1 << 30, ..quiet() },
        params((15, 15), (false, false)),
        now,
    );
    sender.send_binary(&vec![0; 32 << 20]).expect("sent");
    let bomb = written(&mut sender, now);
    assert!(bomb.len() < 400_000, "{}", bomb.len());
    for delivery in [Delivery::Whole, Delivery::Streamed { above: 1000 }] {
        let config = Config { max_message: 1 << 20, delivery, receive_window: 1 << 30, ..quiet() };
        let (messages, code) = receive(&config, &bomb, usize::MAX);
        assert_eq!(code, Some(1009));
        assert!(messages.iter().all(|(_, data)| data.len() <= (1 << 20)));
    }
    // Streamed with a window, memory follows the window whatever the ratio.
    let config = Config {
        max_message: u64::MAX,
        delivery: Delivery::Streamed { above: 0 },
        receive_window: 200_000,
        ..quiet()
    };
    let mut end = compressed(Role::Client, &config, params((15, 15), (false, false)), now);
    feed(&mut end, now, &bomb);
    let mut total = 0;
    loop {
        let part: usize = events(&mut end)
            .iter()
            .map(|event| match event {
                Event::Part(part) => part.data.len(),
                other => panic!("{other:?}"),
            })
            .sum();
        if part == 0 {
            break;
        }
        assert!(part < 200_000 + 128 * 1024, "{part} bytes at once");
        assert!(end.assembling() < 128 * 1024);
        total += part;
        end.credit(part).expect("within");
    }
    assert_eq!(total, 32 << 20);
    assert_eq!(end.take_credit(), bomb.len());
}

#[test]
fn the_negotiation_at_the_server() {
    let ours = DeflateConfig::default();
    let small = DeflateConfig { client_window_bits: 10, server_window_bits: 11, ..ours.clone() };
    let answer = |config: &DeflateConfig, offer: &str| {
        DeflateParams::accept(config, offer).map(|agreed| agreed.answer())
    };
    for (config, offer, expected) in [
        (&ours, "permessage-deflate", Some("permessage-deflate")),
        (&ours, "Permessage-Deflate; client_max_window_bits", Some("permessage-deflate")),
        (
            &ours,
            "permessage-deflate; client_max_window_bits=9",
            Some("permessage-deflate; client_max_window_bits=9"),
        ),
        (
            &ours,
            "permessage-deflate; server_max_window_bits=8",
            Some("permessage-deflate; server_max_window_bits=8"),
        ),
        (
            &ours,
            "permessage-deflate; server_max_window_bits=\"10\"",
            Some("permessage-deflate; server_max_window_bits=10"),
        ),
        (
            &ours,
            "permessage-deflate;server_no_context_takeover",
            Some("permessage-deflate; server_no_context_takeover"),
        ),
        (
            &ours,
            "permessage-deflate;client_no_context_takeover",
            Some("permessage-deflate; client_no_context_takeover"),
        ),
        (&ours, "other, permessage-deflate", Some("permessage-deflate")),
        (&ours, "permessage-deflate; unknown, permessage-deflate", Some("permessage-deflate")),
        (
            &ours,
            "permessage-deflate; server_max_window_bits=7, permessage-deflate; server_max_window_bits=9, permessage-deflate",
            Some("permessage-deflate; server_max_window_bits=9"),
        ),
        (
            &small,
            "permessage-deflate; client_max_window_bits",
            Some("permessage-deflate; server_max_window_bits=11; client_max_window_bits=10"),
        ),
        // Without the hint the client cannot be told to use less.
        (&small, "permessage-deflate", None),
        (&ours, "", None),
        (&ours, "x-webkit-deflate-frame", None),
        (&ours, "permessage-deflate; client_max_window_bits=16", None),
        (&ours, "permessage-deflate; client_max_window_bits=08", None),
        (&ours, "permessage-deflate; client_max_window_bits=+9", None),
        (&ours, "permessage-deflate; server_max_window_bits", None),
        (&ours, "permessage-deflate; server_max_window_bits=9; server_max_window_bits=9", None),
        (&ours, "permessage-deflate; server_no_context_takeover=true", None),
        (&ours, "permessage-deflate; server_no_context_takeover; server_no_context_takeover", None),
        (&ours, "permessage-deflate; =3", None),
        (&ours, "permessage-deflate; a=\"b", None),
        (&ours, "permessage deflate", None),
    ] {
        assert_eq!(answer(config, offer).as_deref(), expected, "{offer}");
    }
}

#[test]
fn the_negotiation_at_the_client() {
    let any = DeflateConfig::default();
    let strict = DeflateConfig {
        server_window_bits: 10,
        client_window_bits: 12,
        server_no_context_takeover: true,
        ..any.clone()
    };
    assert_eq!(
        DeflateParams::offer(&strict),
        "permessage-deflate; client_max_window_bits=12; server_max_window_bits=10; server_no_context_takeover"
    );
    let confirm =
        |config: Option<&DeflateConfig>, answer: &str| DeflateParams::confirm(config, answer);
    let bits = |agreed: DeflateParams| (agreed.client_window_bits, agreed.server_window_bits);
    assert_eq!(confirm(Some(&any), ""), Ok(None));
    assert_eq!(confirm(None, ""), Ok(None));
    assert_eq!(
        confirm(Some(&any), "permessage-deflate").map(|agreed| agreed.map(bits)),
        Ok(Some((15, 15)))
    );
    assert_eq!(
        confirm(
            Some(&any),
            "permessage-deflate; server_max_window_bits=9; client_max_window_bits=10"
        )
        .map(|agreed| agreed.map(bits)),
        Ok(Some((10, 9)))
    );
    let good = "permessage-deflate; server_no_context_takeover; server_max_window_bits=10";
    assert_eq!(confirm(Some(&strict), good).map(|agreed| agreed.map(bits)), Ok(Some((12, 10))));
    for (config, answer, error) in [
        (None, "permessage-deflate", NegotiateError::NotOffered),
        (Some(&any), "x-other", NegotiateError::NotOffered),
        (Some(&any), "permessage-deflate, permessage-deflate", NegotiateError::NotOffered),
        (Some(&any), "permessage-deflate; unknown", NegotiateError::Parameter),
        (Some(&any), "permessage-deflate; client_max_window_bits", NegotiateError::Parameter),
        (Some(&any), "permessage-deflate; server_max_window_bits=16", NegotiateError::Parameter),
        (
            Some(&any),
            "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
            NegotiateError::Parameter,
        ),
        (Some(&any), ";;", NegotiateError::Malformed),
        (
            Some(&strict),
            "permessage-deflate; server_no_context_takeover",
            NegotiateError::Parameter,
        ),
        (Some(&strict), "permessage-deflate; server_max_window_bits=10", NegotiateError::Parameter),
        (
            Some(&strict),
            "permessage-deflate; server_no_context_takeover; server_max_window_bits=11",
            NegotiateError::Parameter,
        ),
    ] {
        assert_eq!(confirm(config, answer), Err(error), "{answer}");
    }
}

#[test]
fn options_out_of_range_are_named() {
    let default = DeflateConfig::default;
    for (config, option) in [
        (DeflateConfig { level: 0, ..default() }, "level"),
        (DeflateConfig { level: 10, ..default() }, "level"),
        (DeflateConfig { client_window_bits: 7, ..default() }, "client_window_bits"),
        (DeflateConfig { server_window_bits: 16, ..default() }, "server_window_bits"),
    ] {
        assert_eq!(config.validate().map_err(|error| error.option), Err(option));
    }
    assert!(default().validate().is_ok());
}
