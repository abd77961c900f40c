//! The vectors of `docs/bats.md`, read both ways.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use towline_code::BatchSize;

use super::control::{Frame, FrameReader, Open};
use super::flow::{Framing, Mode};
use super::wire::{
    Credit, Done, Mixed, Packet, Part, Report, mark_again, put_mixed_header, source_header,
};

const VECTORS: &str = include_str!("../../../../docs/vectors/bats.txt");

fn bytes(hex: &str) -> Bytes {
    let hex: String = hex.split_whitespace().collect();
    let byte = |i: usize| u8::from_str_radix(&hex[i..i + 2], 16).unwrap();
    (0..hex.len()).step_by(2).map(byte).collect()
}

struct Fields<'a>(BTreeMap<&'a str, &'a str>);

impl Fields<'_> {
    fn number(&self, name: &str) -> u64 {
        self.0[name].parse().unwrap()
    }

    fn bytes(&self, name: &str) -> Bytes {
        bytes(self.0[name])
    }
}

/// The bytes of the fields, and what the bytes should be read as.
fn packet(kind: &str, fields: &Fields<'_>) -> Option<(Bytes, Packet)> {
    let again = fields.0.get("again") == Some(&"1");
    let mut out = BytesMut::new();
    let packet = match kind {
        "source" => {
            let (number, symbol) = (fields.number("number"), fields.bytes("symbol"));
            out.extend_from_slice(&source_header(number, again));
            out.extend_from_slice(&symbol);
            Packet::Source { number: number as u32 & 0x0fff_ffff, again, symbol }
        }
        "mixed" => {
            let (batch, symbol) = (fields.number("batch"), fields.bytes("symbol"));
            let coefficients = fields.bytes("coefficients");
            put_mixed_header(batch, false, &coefficients, &mut out);
            out.extend_from_slice(&symbol);
            if again {
                out = mark_again(&out).unwrap().into();
            }
            Packet::Mixed(Mixed { batch: batch as u32, again, coefficients, symbol })
        }
        "report" => {
            let deficits = fields.0["deficits"].split(',').filter_map(|pair| pair.split_once(':'));
            let deficits =
                deficits.map(|(b, d)| (b.parse().unwrap(), d.parse().unwrap())).collect();
            let [serial, next] = ["serial", "next"].map(|name| fields.number(name));
            let [limit, end] = ["limit", "end"].map(|name| fields.number(name));
            let report = Report { serial, next, limit, end, deficits };
            out.extend_from_slice(&report.encode(1200));
            Packet::Report(report)
        }
        "credit" => {
            let [serial, limit] = ["serial", "limit"].map(|name| fields.number(name));
            let credit = Credit { serial, limit, max_packet: fields.number("max_packet") };
            out.extend_from_slice(&credit.encode());
            Packet::Credit(credit)
        }
        "part" => {
            let [index, count] = ["index", "count"].map(|name| fields.number(name) as u8);
            let packet = fields.number("packet") as u16;
            let part = Part { packet, index, count, data: fields.bytes("data") };
            out.extend_from_slice(&part.encode());
            Packet::Part(part)
        }
        "done" => {
            let [serial, next] = ["serial", "next"].map(|name| fields.number(name));
            let [limit, receiver] = ["limit", "receiver"].map(|name| fields.number(name));
            let whole = fields.0["whole"].split(',').filter_map(|n| n.parse().ok()).collect();
            let done = Done { serial, receiver: receiver as u32, next, limit, whole };
            out.extend_from_slice(&done.encode());
            Packet::Done(done)
        }
        _ => return None,
    };
    Some((out.freeze(), packet))
}

fn frame(kind: &str, fields: &Fields<'_>) -> Option<Frame> {
    Some(match kind {
        "open" => {
            let flags = fields.number("flags");
            Frame::Open(Open {
                mode: Mode::from_number(fields.number("mode") as u8).unwrap(),
                framing: if flags & 2 == 0 { Framing::Stream } else { Framing::Messages },
                size: BatchSize::try_from(fields.number("columns") as usize).unwrap(),
                interleave: fields.number("interleave") as u8,
                hop_feedback: flags & 1 != 0,
                sealed: flags & 4 != 0,
                packed: flags & 8 != 0,
                deadline: Duration::from_micros(fields.number("deadline_us")),
                window: fields.number("window"),
            })
        }
        "accept" => Frame::Accept { window: fields.number("window") },
        "close" => {
            let reason = String::from_utf8(fields.bytes("reason").to_vec()).unwrap();
            Frame::Close { code: fields.number("code"), reason }
        }
        _ => return None,
    })
}

#[test]
fn packets_and_frames_are_those_of_the_specification() {
    let mut count = 0;
    for line in VECTORS.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let (head, hex) = line.split_once(" :").unwrap();
        let mut words = head.split(' ');
        let kind = words.next().unwrap();
        let fields = Fields(words.map(|word| word.split_once('=').unwrap()).collect());
        let expected = bytes(hex);
        if let Some((written, packet)) = packet(kind, &fields) {
            assert_eq!(written, expected, "{line}");
            assert_eq!(Packet::parse(expected), Ok(packet), "{line}");
        } else {
            let frame = frame(kind, &fields).expect("a packet or a frame");
            let mut written = BytesMut::new();
            frame.encode(&mut written);
            assert_eq!(written, expected, "{line}");
            let mut reader = FrameReader::default();
            reader.push(&expected);
            assert_eq!(reader.poll(), Ok(Some(frame)), "{line}");
        }
        count += 1;
    }
    assert!(count >= 11, "{count} vectors");
}
