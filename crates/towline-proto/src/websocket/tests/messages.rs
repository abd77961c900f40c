//! Messages: sizes, splits, fragments, limits, kinds (section D of the cases).

use std::time::Instant;

use bytes::Bytes;

use super::super::frame::{Header, OpCode};
use super::super::*;
use super::frame::code_for;
use super::support::*;

/// What a fresh end makes of `bytes` in pieces of `piece`.
fn receive(role: Role, config: &Config, bytes: &[u8], piece: usize) -> Vec<Event> {
    let now = Instant::now();
    let mut end = end(role, config, now);
    let mut out = Vec::new();
    for chunk in bytes.chunks(piece.max(1)) {
        feed(&mut end, now, chunk);
        for event in events(&mut end) {
            if let Event::Message(Message { data, .. }) | Event::Part(Part { data, .. }) = &event {
                end.credit(data.len()).expect("as delivered");
            }
            out.push(event);
        }
    }
    assert_eq!(end.take_credit(), bytes.len(), "every byte is credited");
    out
}

#[test]
fn case_70_sizes_and_splits_in_both_roles() {
    for role in [Role::Client, Role::Server] {
        for size in [0, 1, 125, 126, 1023, 1024, 1025, 65535, 65536, 1 << 20] {
            let content = Dice::new(size as u64).bytes(size);
            let bytes = frame_to(role, true, OpCode::Binary, &content);
            let pieces: &[usize] = if size > 70_000 {
                &[4096, usize::MAX]
            } else {
                &[1, 2, 3, 7, 13, 1000, usize::MAX]
            };
            for &piece in pieces {
                for delivery in [Delivery::Whole, Delivery::Streamed { above: 500 }] {
                    let events = receive(role, &Config { delivery, ..quiet() }, &bytes, piece);
                    assert_eq!(
                        messages(&events),
                        [(Kind::Binary, content.clone())],
                        "{size} in {piece}"
                    );
                }
            }
        }
    }
}

#[test]
fn case_70_a_header_is_split_anywhere_between_two_frames() {
    for role in [Role::Client, Role::Server] {
        for size in [0, 5, 126, 70_000] {
            let first = frame_to(role, true, OpCode::Text, b"first");
            let content = vec![b'x'; size];
            let bytes = [first.clone(), frame_to(role, true, OpCode::Text, &content)].concat();
            for cut in 0..(first.len() + 14).min(bytes.len()) {
                let now = Instant::now();
                let mut end = end(role, &quiet(), now);
                feed(&mut end, now, &bytes[..cut]);
                let mut all = events(&mut end);
                feed(&mut end, now, &bytes[cut..]);
                all.extend(events(&mut end));
                assert_eq!(
                    messages(&all),
                    [(Kind::Text, b"first".to_vec()), (Kind::Text, content.clone())]
                );
            }
        }
    }
}

#[test]
fn case_71_large_sends_of_a_client() {
    for size in [65535, 65536, 65537, 300_000] {
        let mut pair = Pair::new(&Config { fragment: None, ..quiet() });
        let content = Dice::new(5).bytes(size);
        pair.ends[CLIENT].send_binary(&content).expect("sent");
        let (bytes, _) = pending(&mut pair.ends[CLIENT]);
        let header = if size > 65535 { 14 } else { 8 };
        assert_eq!(bytes.len(), header + size);
        assert_eq!(frames(&bytes)[0].1, content);
    }
}

#[test]
fn case_72_control_frames_between_fragments() {
    for role in [Role::Client, Role::Server] {
        let bytes = [
            frame_to(role, false, OpCode::Text, b"a"),
            frame_to(role, true, OpCode::Ping, b"one"),
            frame_to(role, false, OpCode::Continuation, b"b"),
            frame_to(role, true, OpCode::Ping, b"two"),
            frame_to(role, true, OpCode::Pong, b""),
            frame_to(role, true, OpCode::Continuation, b"c"),
        ]
        .concat();
        for piece in [1, 2, 5, usize::MAX] {
            assert_eq!(
                messages(&receive(role, &quiet(), &bytes, piece)),
                [(Kind::Text, b"abc".to_vec())]
            );
        }
        let now = Instant::now();
        let mut end = end(role, &quiet(), now);
        feed(&mut end, now, &bytes);
        let _ = events(&mut end);
        let pongs: Vec<_> = frames(&written(&mut end, now))
            .into_iter()
            .map(|(header, body)| (header.opcode, body))
            .collect();
        assert_eq!(pongs, [(OpCode::Pong, b"one".to_vec()), (OpCode::Pong, b"two".to_vec())]);
    }
}

#[test]
fn case_73_a_new_message_inside_a_fragmented_one() {
    for role in [Role::Client, Role::Server] {
        for opcode in [OpCode::Text, OpCode::Binary] {
            let bytes =
                [frame_to(role, false, OpCode::Text, b"a"), frame_to(role, true, opcode, b"b")]
                    .concat();
            assert_eq!(code_for(role, &quiet(), &bytes), Some(1002));
        }
    }
}

#[test]
fn case_76_invalid_text_fails_before_its_end() {
    let role = Role::Server;
    // Autobahn 6.4: the fault is in the second of three fragments; the third never comes.
    let bytes = [
        frame_to(role, false, OpCode::Text, b"\xCE\xBA\xE1\xBD\xB9\xCF\x83\xCE\xBC\xCE\xB5\xF4"),
        frame_to(role, false, OpCode::Continuation, b"\x90"),
    ]
    .concat();
    assert_eq!(code_for(role, &quiet(), &bytes), Some(1007));
    // In the middle of a frame.
    let long = frame_to(role, true, OpCode::Text, &[b"ok\xED\xA0", &[b'x'; 5000][..]].concat());
    assert_eq!(code_for(role, &quiet(), &long[..12]), Some(1007));
    // An unfinished character at the end.
    assert_eq!(
        code_for(role, &quiet(), &frame_to(role, true, OpCode::Text, b"ok\xE2\x82")),
        Some(1007)
    );
    // Split characters are fine, also over empty fragments, and in both deliveries.
    let bytes = [
        frame_to(role, false, OpCode::Text, b"\xF0"),
        frame_to(role, false, OpCode::Continuation, b""),
        frame_to(role, false, OpCode::Continuation, b"\x9F\x98"),
        frame_to(role, true, OpCode::Continuation, b"\x80"),
    ]
    .concat();
    for delivery in [Delivery::Whole, Delivery::Streamed { above: 0 }] {
        let events = receive(role, &Config { delivery, ..quiet() }, &bytes, usize::MAX);
        assert_eq!(messages(&events), [(Kind::Text, "😀".as_bytes().to_vec())]);
    }
}

#[test]
fn case_77_limits_of_frames_and_messages() {
    let role = Role::Server;
    let config = Config { max_frame: 1000, max_message: 2500, ..quiet() };
    let frame = |fin, opcode, size| frame_to(role, fin, opcode, &vec![b'x'; size]);
    assert_eq!(code_for(role, &config, &frame(true, OpCode::Binary, 1000)), None);
    // The header is enough: nothing of the payload is waited for or stored.
    assert_eq!(code_for(role, &config, &frame(true, OpCode::Binary, 1001)[..8]), Some(1009));
    let mut bytes = frame(false, OpCode::Text, 1000);
    bytes.extend(frame(false, OpCode::Continuation, 1000));
    assert_eq!(
        code_for(role, &config, &[bytes.clone(), frame(true, OpCode::Continuation, 500)].concat()),
        None
    );
    assert_eq!(
        code_for(role, &config, &[bytes.clone(), frame(true, OpCode::Continuation, 501)].concat()),
        Some(1009)
    );
    let streamed = Config { delivery: Delivery::Streamed { above: 10 }, ..config };
    assert_eq!(
        code_for(role, &streamed, &[bytes, frame(true, OpCode::Continuation, 501)].concat()),
        Some(1009)
    );
}

#[test]
fn an_announced_length_takes_no_memory() {
    let now = Instant::now();
    let mut end =
        end(Role::Client, &Config { max_frame: 1 << 40, max_message: 1 << 40, ..quiet() }, now);
    feed(&mut end, now, &[0x82, 127, 0, 0, 0, 0x80, 0, 0, 0, 0]);
    feed(&mut end, now, &[1; 10]);
    assert!(events(&mut end).is_empty());
    assert_eq!(end.assembling(), 10);
    let direct = end.direct().expect("a large frame is going on");
    assert!(direct.buffer.capacity() < 1 << 20, "{}", direct.buffer.capacity());
}

#[test]
fn case_78_many_and_empty_fragments() {
    let role = Role::Server;
    let mut bytes = frame_to(role, false, OpCode::Text, b"");
    let mut expected = Vec::new();
    for at in 0..200u8 {
        bytes.extend(frame_to(
            role,
            false,
            OpCode::Continuation,
            &[b'a' + at % 26; 3][..usize::from(at % 4)],
        ));
        expected.extend(vec![b'a' + at % 26; usize::from(at % 4)]);
    }
    bytes.extend(frame_to(role, true, OpCode::Continuation, b""));
    for delivery in [Delivery::Whole, Delivery::Streamed { above: 100 }] {
        for piece in [1, 100, usize::MAX] {
            let events = receive(role, &Config { delivery, ..quiet() }, &bytes, piece);
            assert_eq!(messages(&events), [(Kind::Text, expected.clone())]);
        }
    }
}

#[test]
fn empty_fragments_without_end_are_a_flood() {
    let role = Role::Server;
    let config = Config { control_burst: 50, ..quiet() };
    let mut bytes = frame_to(role, false, OpCode::Text, b"");
    bytes.extend(frame_to(role, false, OpCode::Continuation, b"").repeat(100));
    assert_eq!(code_for(role, &config, &bytes), Some(1008));
}

#[test]
fn case_79_kinds_and_empty_messages_are_kept() {
    let mut pair = Pair::new(&quiet());
    pair.ends[CLIENT].send_text("text").expect("sent");
    pair.ends[CLIENT].send_binary(b"binary").expect("sent");
    pair.ends[CLIENT].send_text("").expect("sent");
    pair.ends[CLIENT].send_binary(b"").expect("sent");
    pair.settle();
    let expected = [
        (Kind::Text, b"text".to_vec()),
        (Kind::Binary, b"binary".to_vec()),
        (Kind::Text, vec![]),
        (Kind::Binary, vec![]),
    ];
    assert_eq!(pair.messages(SERVER), expected);
}

#[test]
fn case_80_mask_keys_are_fresh_and_come_from_the_given_source() {
    let now = Instant::now();
    let mut end = end(Role::Client, &quiet(), now);
    for _ in 0..100 {
        end.send_binary(&[0; 16]).expect("sent");
    }
    end.ping(b"x").expect("sent");
    end.close(now, CloseCode::NORMAL, "").expect("valid");
    let keys: Vec<[u8; 4]> = frames(&written(&mut end, now))
        .iter()
        .map(|(header, _)| header.mask.expect("masked"))
        .collect();
    assert_eq!(keys.len(), 102);
    let mut source = ChaChaEntropy::from_seed([7; 32]);
    let expected: std::collections::HashSet<[u8; 4]> =
        (0..102).map(|_| source.mask_key()).collect();
    assert_eq!(keys.iter().copied().collect::<std::collections::HashSet<_>>(), expected);
}

#[test]
fn case_83_work_grows_with_bytes_not_with_fragments_times_size() {
    let role = Role::Client;
    let size = if cfg!(debug_assertions) { 1 << 20 } else { 4 << 20 };
    let mut bytes = frame_to(role, false, OpCode::Text, &[b'x'; 64]);
    let middle = frame_to(role, false, OpCode::Continuation, &[b'x'; 64]);
    for _ in 0..size / 64 {
        bytes.extend_from_slice(&middle);
    }
    bytes.extend(frame_to(role, true, OpCode::Continuation, &[b'x'; 64]));
    // Quadratic work would be 16 thousand times a mebibyte; this stays far below a second even unoptimised.
    let begin = Instant::now();
    let events = receive(role, &quiet(), &bytes, 4096);
    assert_eq!(messages(&events)[0].1.len(), size + 128);
    assert!(begin.elapsed() < std::time::Duration::from_secs(5), "{:?}", begin.elapsed());
}

#[test]
fn replies_and_small_messages_leave_in_one_write() {
    let mut pair = Pair::new(&quiet());
    for at in 0..20 {
        pair.ends[SERVER].send_text(&format!("reply {at}")).expect("sent");
    }
    let mut out = Vec::new();
    pair.ends[SERVER].poll_transmit(usize::MAX, &mut out);
    assert_eq!(out.len(), 1);
}

#[test]
fn large_payloads_are_not_copied_by_a_server_nor_by_a_client_that_owns_them() {
    for role in [Role::Client, Role::Server] {
        let now = Instant::now();
        let mut end = end(role, &Config { fragment: None, ..quiet() }, now);
        let payload = Bytes::from(vec![9; 100_000]);
        let place = payload.as_ptr();
        end.send(Kind::Binary, payload).expect("sent");
        let mut out = Vec::new();
        end.poll_transmit(usize::MAX, &mut out);
        assert!(out.iter().any(|segment| segment.as_ptr() == place), "{role:?}");
    }
    // Shared with somebody, a client's payload is copied and theirs stays as it is.
    let now = Instant::now();
    let mut end = end(Role::Client, &quiet(), now);
    let payload = Bytes::from(vec![9; 100_000]);
    end.send(Kind::Binary, payload.clone()).expect("sent");
    assert!(payload.iter().all(|&byte| byte == 9));
    assert!(frames(&written(&mut end, now))[0].1.iter().all(|&byte| byte == 9));
}

#[test]
fn large_received_payloads_are_slices_of_the_input() {
    let now = Instant::now();
    let mut end = end(Role::Server, &quiet(), now);
    let input =
        bytes::BytesMut::from(&frame_to(Role::Server, true, OpCode::Binary, &[7; 5000])[..]);
    let range = input.as_ptr_range();
    end.handle_input(now, input);
    let Some(Event::Message(message)) = end.poll_event() else { panic!("no message") };
    assert!(range.contains(&message.data.as_ptr()));
    assert_eq!(message.data, vec![7; 5000]);
}

#[test]
fn an_input_of_small_messages_can_be_reclaimed() {
    let now = Instant::now();
    let mut end = end(Role::Server, &quiet(), now);
    let mut input = bytes::BytesMut::with_capacity(4096);
    let place = input.as_ptr();
    for _ in 0..10 {
        input.extend_from_slice(&frame_to(Role::Server, true, OpCode::Binary, &[7; 64]));
    }
    end.handle_input(now, input);
    assert_eq!(events(&mut end).len(), 10);
    let mut back = end.reclaim().expect("used up");
    assert!(back.is_empty() && back.try_reclaim(4096));
    assert_eq!(back.as_ptr(), place);
    assert!(end.reclaim().is_none());
}

#[test]
fn messages_are_cut_so_that_control_frames_pass() {
    let now = Instant::now();
    let mut end = end(Role::Client, &Config { fragment: Some(1000), ..quiet() }, now);
    end.send_binary(&[1; 3500]).expect("sent");
    let mut out = Vec::new();
    // A part of the first frame leaves, then a ping is asked for.
    assert_eq!(end.poll_transmit(100, &mut out), 100);
    end.ping(b"now").expect("sent");
    while end.poll_transmit(777, &mut out) > 0 {}
    let frames = frames(&out.concat());
    let kinds: Vec<_> =
        frames.iter().map(|(header, body)| (header.opcode, header.fin, body.len())).collect();
    let data: usize =
        kinds.iter().filter(|(opcode, ..)| !opcode.is_control()).map(|(.., length)| length).sum();
    assert_eq!(data, 3500);
    assert_eq!(kinds.iter().filter(|(opcode, ..)| *opcode == OpCode::Ping).count(), 1);
}

#[test]
fn a_ping_passes_queued_frames_but_not_the_inside_of_one() {
    let now = Instant::now();
    let mut end = end(Role::Server, &Config { fragment: Some(10_000), ..quiet() }, now);
    end.send(Kind::Binary, Bytes::from(vec![1; 45_000])).expect("sent");
    let mut out = Vec::new();
    assert_eq!(end.poll_transmit(5000, &mut out), 5000);
    end.ping(b"p").expect("sent");
    while end.poll_transmit(3333, &mut out) > 0 {}
    let order: Vec<OpCode> =
        frames(&out.concat()).iter().map(|(header, _)| header.opcode).collect();
    let expected = [
        OpCode::Binary,
        OpCode::Ping,
        OpCode::Continuation,
        OpCode::Continuation,
        OpCode::Continuation,
    ];
    assert_eq!(order[..5], expected);
}

#[test]
fn parts_make_a_message_and_nothing_goes_between() {
    let mut pair = Pair::new(&quiet());
    let client = &mut pair.ends[CLIENT];
    client.send_part(Kind::Text, Bytes::from_static(b"\xF0\x9F"), false).expect("sent");
    assert_eq!(client.send_text("other"), Err(SendError::Unfinished));
    assert_eq!(client.send_part(Kind::Binary, Bytes::new(), true), Err(SendError::Unfinished));
    assert_eq!(
        client.send_part(Kind::Text, Bytes::from_static(b"("), false),
        Err(SendError::InvalidUtf8)
    );
    assert_eq!(
        client.send_part(Kind::Text, Bytes::new(), true),
        Err(SendError::InvalidUtf8),
        "cut short"
    );
    client.ping(b"between").expect("control frames may");
    client.send_part(Kind::Text, Bytes::from_static(b"\x98\x80"), true).expect("sent");
    client.send_text("other").expect("sent");
    assert_eq!(client.send(Kind::Text, Bytes::from_static(b"\xFF")), Err(SendError::InvalidUtf8));
    pair.settle();
    let expected = [(Kind::Text, "😀".as_bytes().to_vec()), (Kind::Text, b"other".to_vec())];
    assert_eq!(pair.messages(SERVER), expected);
    assert!(
        matches!(&pair.events[CLIENT][..], [Event::Pong(payload)] if &payload[..] == b"between")
    );
}

#[test]
fn streamed_parts_arrive_before_the_message_is_whole() {
    let now = Instant::now();
    let mut end =
        end(Role::Client, &Config { delivery: Delivery::Streamed { above: 1000 }, ..quiet() }, now);
    let bytes = frame_to(Role::Client, true, OpCode::Binary, &[5; 10_000]);
    feed(&mut end, now, &bytes[..3000]);
    let [Event::Part(part)] = &events(&mut end)[..] else { panic!("one part") };
    assert!(part.first && !part.last && part.data.len() == 2996);
    feed(&mut end, now, &bytes[3000..]);
    let [Event::Part(part)] = &events(&mut end)[..] else { panic!("one part") };
    assert!(!part.first && part.last && part.data.len() == 7004);
    // A message of unknown size is put together up to the limit and streamed from there.
    feed(&mut end, now, &frame_to(Role::Client, false, OpCode::Binary, &[6; 900]));
    assert!(events(&mut end).is_empty());
    feed(&mut end, now, &frame_to(Role::Client, false, OpCode::Continuation, &[6; 101]));
    let [Event::Part(part)] = &events(&mut end)[..] else { panic!("one part") };
    assert!(part.first && !part.last && part.data.len() == 1001);
    feed(&mut end, now, &frame_to(Role::Client, true, OpCode::Continuation, &[]));
    let [Event::Part(part)] = &events(&mut end)[..] else { panic!("one part") };
    assert!(!part.first && part.last && part.data.is_empty());
}

#[test]
fn large_frames_are_read_into_their_place() {
    for (role, kind) in [(Role::Client, OpCode::Binary), (Role::Server, OpCode::Text)] {
        let now = Instant::now();
        let mut end = end(role, &quiet(), now);
        let content = Dice::new(9).text(200_000).into_bytes();
        let bytes =
            [frame_to(role, true, kind, &content), frame_to(role, true, OpCode::Ping, b"behind")]
                .concat();
        feed(&mut end, now, &bytes[..100]);
        assert!(events(&mut end).is_empty());
        let mut at = 100;
        let mut steps = 0;
        let mut all = Vec::new();
        while let Some(mut direct) = end.direct() {
            assert!(end.direct().is_none(), "lent once");
            // Also nothing, and at the end more than was asked for.
            let extra = if at + direct.want >= content.len() { 20 } else { 0 };
            let take = if steps % 3 == 0 { 0 } else { direct.want + extra }.min(bytes.len() - at);
            direct.buffer.extend_from_slice(&bytes[at..at + take]);
            end.handle_direct(now, direct.buffer);
            at += take;
            steps += 1;
            all.extend(events(&mut end));
        }
        feed(&mut end, now, &bytes[at..]);
        all.extend(events(&mut end));
        assert_eq!(messages(&all)[0].1, content);
        assert!(steps >= 3);
        assert_eq!(frames(&written(&mut end, now)).len(), 1, "the ping behind it is answered");
        end.credit(content.len()).expect("as delivered");
        assert_eq!(end.take_credit(), bytes.len());
    }
}

#[test]
fn invalid_text_is_found_in_a_direct_read() {
    let now = Instant::now();
    let mut end = end(Role::Client, &quiet(), now);
    let bytes = frame_to(Role::Client, true, OpCode::Text, &[0xFF; 50_000]);
    feed(&mut end, now, &bytes[..10]);
    // The fault is in the first bytes already.
    assert!(events(&mut end).iter().all(|event| !matches!(event, Event::Message(_))));
    assert!(end.direct().is_none());
    let header =
        Header { fin: true, rsv1: false, opcode: OpCode::Text, mask: None, length: 50_000 };
    let mut good = [0; frame::MAX_HEADER];
    let length = header.encode(&mut good);
    let mut end = support_end(now);
    feed(&mut end, now, &good[..length]);
    assert!(events(&mut end).is_empty());
    let mut direct = end.direct().expect("large");
    direct.buffer.extend_from_slice(&[0xFF; 100]);
    end.handle_direct(now, direct.buffer);
    let _ = events(&mut end);
    assert_eq!(end.take_credit(), length + 100, "what was read is credited");
    assert_eq!(close_in(&written(&mut end, now)).map(|(code, _)| code), Some(1007));
}

fn support_end(now: Instant) -> Connection {
    end(Role::Client, &quiet(), now)
}
