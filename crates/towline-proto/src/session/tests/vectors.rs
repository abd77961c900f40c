//! docs/vectors/session.txt, in both directions.

use std::fmt::Write as _;

use bytes::{Bytes, BytesMut};

use super::super::frame::{
    DataHeader, Fields, MAX_DATA_HEADER, Part, Violation, decode_control, decode_data, is_data,
    kind, put_control, put_int, put_ints, put_reason,
};
use super::super::handshake::{Hello, LaneState, Welcome, decode_refuse};
use super::super::testing::{End, World, session_frames, small};
use super::super::{CloseCode, Handshake, LANES, Lane, MessageId, Payload, Refusal, SessionId};

const FILE: &str = include_str!("../../../../../docs/vectors/session.txt");

fn hex(octets: &[u8]) -> String {
    octets.iter().fold(String::new(), |mut out, octet| {
        let _ = write!(out, "{octet:02x}");
        out
    })
}

fn unhex(text: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).expect("hex");
    (0..text.len()).step_by(2).map(digit).collect()
}

/// Lines `name = hex : meaning` of one section.
fn section(name: &str) -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let begin = FILE.find(&format!("[{name}]\n")).expect("the section is there");
    let lines = FILE[begin..].lines().skip(1).take_while(|line| !line.starts_with('['));
    lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            let (name, rest) = line.split_once(" = ").expect("a name");
            let (octets, meaning) = rest.split_once(" : ").unwrap_or((rest, ""));
            (name, unhex(octets), meaning)
        })
        .collect()
}

fn lanes() -> [LaneState; LANES] {
    std::array::from_fn(|lane| LaneState {
        received: lane as u64 * 100,
        limit: 4_194_304 + lane as u64 * 100,
    })
}

fn hello() -> Hello {
    Hello {
        min_version: 1,
        max_version: 1,
        session: SessionId(*b"0123456789abcdef"),
        attempt: 3,
        epoch: 1,
        max_message: 16 << 20,
        lanes: lanes(),
    }
}

fn data(
    part: Part,
    lane: Lane,
    id: Option<u64>,
    reply_to: Option<u64>,
    payload: &[u8],
    total: u64,
) -> Bytes {
    let (id, reply_to) = (id.and_then(MessageId::new), reply_to.and_then(MessageId::new));
    let header = DataHeader { part, lane, id, reply_to, len: payload.len(), total, header: 0 };
    let mut octets = [0; MAX_DATA_HEADER];
    let used = header.encode(&mut octets);
    [&octets[..used], payload].concat().into()
}

fn control(kind: u8, fill: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut out = BytesMut::new();
    put_control(&mut out, kind, fill);
    out.freeze()
}

/// Every frame of the first section, made by the code.
fn frames() -> Vec<(&'static str, Bytes)> {
    let encoded = |encode: &dyn Fn(&mut BytesMut)| {
        let mut out = BytesMut::new();
        encode(&mut out);
        out.freeze()
    };
    let long = [0x61; 64];
    let reason = |out: &mut BytesMut| put_reason(out, CloseCode(1000), "schön");
    vec![
        ("hello", encoded(&|out| hello().encode(out))),
        (
            "welcome",
            encoded(&|out| {
                Welcome { version: 1, epoch: 1, max_message: 65_536, lanes: lanes() }.encode(out)
            }),
        ),
        ("refuse", Refusal { code: CloseCode::BUSY, reason: "full".into() }.encode()),
        ("ack", encoded(&|out| put_ints(out, kind::ACK, [2, 300, 4_194_604]))),
        ("ping", encoded(&|out| put_ints(out, kind::PING, [16_384]))),
        ("pong", encoded(&|out| put_ints(out, kind::PONG, [16_384]))),
        (
            "close",
            control(kind::CLOSE, |out| {
                put_int(out, 1);
                reason(out);
            }),
        ),
        ("closed", control(kind::CLOSED, |_| {})),
        ("fail", control(kind::FAIL, |out| put_reason(out, CloseCode::WINDOW, ""))),
        ("abort", control(kind::ABORT, reason)),
        ("data-empty", data(Part::Whole, Lane::URGENT, None, None, b"", 0)),
        ("data-id", data(Part::Whole, Lane::NORMAL, Some(300), None, b"hello", 5)),
        ("data-reply", data(Part::Whole, Lane::BULK, Some(1), Some((1 << 62) - 1), b"hi", 2)),
        ("data-64", data(Part::Whole, Lane::HIGH, None, Some(63), &long, 64)),
        ("data-first", data(Part::First, Lane::NORMAL, Some(7), None, b"abc", 70_000)),
        ("data-rest", data(Part::Rest, Lane::NORMAL, None, None, b"def", 0)),
    ]
}

/// What a frame means, in words.
fn meaning(frame: &[u8]) -> Result<String, Violation> {
    let incomplete = Violation::MalformedControl(0);
    let &first = frame.first().ok_or(incomplete)?;
    if is_data(first) {
        let header = decode_data(frame)?.ok_or(incomplete)?;
        assert_eq!(frame.len(), header.header + header.len);
        let DataHeader { part, lane, id, reply_to, total, len, .. } = header;
        return Ok(format!(
            "DATA {part:?} lane {} id {id:?} reply-to {reply_to:?} length {len} total {total}",
            lane.index()
        ));
    }
    let (number, header, len) = decode_control(frame)?.ok_or(incomplete)?;
    let body = frame.get(header..header + len).ok_or(incomplete)?;
    let mut fields = Fields::new(number, body);
    Ok(match number {
        kind::HELLO => {
            let (hello, rest) =
                Handshake::new().handle_input(Bytes::copy_from_slice(frame))?.ok_or(incomplete)?;
            assert!(rest.is_empty());
            let Hello { min_version, max_version, session, attempt, epoch, max_message, lanes } =
                hello;
            format!(
                "HELLO versions {min_version} to {max_version} session {} attempt {attempt} epoch {epoch} max_message {max_message} lanes {}",
                hex(&session.0),
                states(&lanes)
            )
        }
        kind::WELCOME => {
            let Welcome { version, epoch, max_message, lanes } = Welcome::decode(body)?;
            format!(
                "WELCOME version {version} epoch {epoch} max_message {max_message} lanes {}",
                states(&lanes)
            )
        }
        kind::REFUSE => {
            let (CloseCode(code), reason) = decode_refuse(body)?;
            format!("REFUSE code {code} reason {reason:?}")
        }
        kind::ACK => format!(
            "ACK lane {} position {} limit {}",
            fields.lane()?.index(),
            fields.int()?,
            fields.int()?
        ),
        kind::PING => format!("PING {}", fields.int()?),
        kind::PONG => format!("PONG {}", fields.int()?),
        kind::CLOSED => "CLOSED".into(),
        kind::CLOSE | kind::FAIL | kind::ABORT => {
            let flags = if number == kind::CLOSE {
                format!("CLOSE flags {}", fields.int()?)
            } else {
                String::new()
            };
            let name = ["", "FAIL", "ABORT"][usize::from(number.saturating_sub(8))];
            let (CloseCode(code), reason) = fields.reason()?;
            format!("{flags}{name} code {code} reason {reason:?}")
        }
        _ => format!("unknown type {number}"),
    })
}

fn states(lanes: &[LaneState; LANES]) -> String {
    lanes.map(|lane| format!("{}/{}", lane.received, lane.limit)).join(" ")
}

#[test]
fn frames_are_encoded_as_in_the_vectors() {
    let file = section("frames");
    let made = frames();
    assert_eq!(file.len(), made.len());
    for ((name, octets, _), (made_name, made)) in file.iter().zip(&made) {
        assert_eq!(name, made_name);
        assert_eq!(hex(octets), hex(made), "{name} : {:?}", meaning(made));
    }
}

#[test]
fn frames_of_the_vectors_are_decoded_to_their_meaning() {
    for (name, octets, expected) in section("frames").into_iter().chain(section("accepted")) {
        assert_eq!(meaning(&octets).as_deref(), Ok(expected), "{name}");
    }
}

#[test]
fn frames_that_must_be_refused_are_refused_by_the_rule() {
    let refused = section("refused");
    assert!(refused.len() > 20);
    for (name, octets, expected) in refused {
        let mut world = World::connected(small());
        world.ledger.trusting = false;
        world.inject(End::Server, &octets);
        let seen = world.violated(End::Server).map(|violation| format!("{violation:?}"));
        assert_eq!(seen.as_deref(), Some(expected), "{name}");
        // S7.2: the peer is told, with the code.
        let code = world.violated(End::Server).map(|violation| violation.code());
        world.drive();
        let told = world.client.events.iter().find_map(|event| match event {
            super::super::Event::WireFailed(super::super::WireError::PeerFailed {
                code, ..
            }) => Some(*code),
            _ => None,
        });
        assert_eq!(told, code, "{name}");
    }
}

/// Two greetings, a request and its answer, a large message, the end. Returns what each side sent.
fn conversation() -> [BytesMut; 2] {
    let mut config = small();
    config.limits.fragment = 16;
    let mut world = World::new(config);
    let mut sent = [BytesMut::new(), BytesMut::new()];
    let push = |world: &mut World, end, id: Option<u64>, reply: Option<u64>, data: &[u8]| {
        let (id, reply) = (id.and_then(MessageId::new), reply.and_then(MessageId::new));
        world
            .side(end)
            .outgoing
            .push(Lane::NORMAL, id, reply, Payload::Slice(data))
            .expect("accepted");
    };
    world.ledger.trusting = false;
    world.dial();
    push(&mut world, End::Client, None, None, b"question");
    push(&mut world, End::Client, None, None, b"another");
    for step in 0..8 {
        match step {
            2 => push(&mut world, End::Server, Some(500), Some(1), b"answer"),
            3 => {
                push(&mut world, End::Server, None, None, b"a message of three fragments, in order")
            }
            4 => world.close(End::Client, CloseCode::NORMAL),
            _ => {}
        }
        for (end, sent) in [End::Client, End::Server].into_iter().zip(&mut sent) {
            world.transmit(end, usize::MAX);
            let wire = &world.wires[0];
            sent.extend(if end == End::Client { &wire.up } else { &wire.down });
            let to = if end == End::Client { End::Server } else { End::Client };
            world.deliver(0, to, usize::MAX);
        }
    }
    assert!(world.ended(End::Client).is_some() && world.ended(End::Server).is_some());
    sent
}

#[test]
fn a_conversation_has_the_octets_of_the_vectors() {
    let file = section("conversation");
    let made = conversation();
    for ((name, octets, _), made) in file.iter().zip(&made) {
        assert_eq!(hex(octets), hex(made), "{name}");
    }
    assert_eq!(file.len(), 2);
}

/// Prints the sections that the code makes: run with `--ignored --nocapture` after a change of the format.
#[test]
#[ignore = "prints vectors"]
#[allow(clippy::print_stdout)]
fn print_vectors() {
    println!("[frames]");
    for (name, octets) in frames() {
        println!("{name} = {} : {}", hex(&octets), meaning(&octets).expect("it decodes"));
    }
    println!("[conversation]");
    for (name, octets) in ["client", "server"].into_iter().zip(conversation()) {
        println!("{name} = {}", hex(&octets));
    }
}

#[test]
fn every_vector_and_every_cut_of_it_ends_without_a_panic() {
    for (_, octets, _) in
        ["frames", "accepted", "refused", "conversation"].into_iter().flat_map(section)
    {
        for cut in 0..=octets.len().min(40) {
            session_frames(&octets[..cut]);
        }
        session_frames(&octets);
    }
}
