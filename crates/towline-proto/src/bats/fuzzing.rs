//! The bodies of the fuzz targets: any bytes may come, and what must hold is asserted.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::control::FrameReader;
use super::flow::{Flow, FlowConfig};
use super::hop::{Fate, Hop, Outcome, Packet, Path};
use super::relay::{RelayConfig, RelayFlow};
use super::wire;

/// A hop whose far end is the fuzzer.
#[derive(Default)]
struct Hostile {
    packets: VecDeque<Bytes>,
    control: VecDeque<Bytes>,
    fates: VecDeque<Fate>,
    sent: VecDeque<Packet>,
    small: bool,
}

impl Hop for Hostile {
    fn max_packet(&self) -> usize {
        if self.small { 300 } else { 1200 }
    }
    fn room(&mut self, _: Instant) -> usize {
        64usize.saturating_sub(self.sent.len())
    }
    fn send(&mut self, _: Instant, packet: Packet) {
        assert!(packet.data.len() <= self.max_packet(), "a packet that does not fit");
        if self.sent.len() < 256 {
            self.sent.push_back(packet);
        }
    }
    fn poll_packet(&mut self) -> Option<Bytes> {
        self.packets.pop_front()
    }
    fn poll_fate(&mut self) -> Option<Fate> {
        self.fates.pop_front()
    }
    fn write_control(&mut self, data: &[u8]) -> usize {
        data.len()
    }
    fn poll_control(&mut self) -> Option<Bytes> {
        self.control.pop_front()
    }
    fn path(&self) -> Path {
        let rtt = Duration::from_millis(20);
        let pause = Duration::ZERO;
        Path { rtt, min_rtt: rtt, pause, loss: 0.1, burst: 1.0, rate: 1_000_000 }
    }
}

impl Hostile {
    /// What one step of the input does to this hop.
    fn act(&mut self, kind: u8, data: &[u8]) {
        match kind & 7 {
            0..=2 => self.packets.push_back(Bytes::copy_from_slice(data)),
            3 => self.control.push_back(Bytes::copy_from_slice(data)),
            4 | 5 => {
                let outcome = if kind & 8 == 0 { Outcome::Arrived } else { Outcome::Lost };
                let sent = self.sent.pop_front();
                self.fates.extend(sent.map(|packet| Fate { tag: packet.tag, outcome }));
            }
            6 => self.small = kind & 8 != 0,
            _ => {
                let tag = data.iter().take(8).fold(0, |tag, &byte| tag << 8 | u64::from(byte));
                self.fates.push_back(Fate { tag, outcome: Outcome::Lost });
            }
        }
    }
}

/// Steps of the input: a kind, a length, that many bytes.
fn steps(mut data: &[u8], mut step: impl FnMut(u8, &[u8])) {
    while let [kind, length, rest @ ..] = data {
        let (taken, rest) = rest.split_at(usize::from(*length).min(rest.len()));
        step(*kind, taken);
        data = rest;
    }
}

/// Any bytes as a packet and as a control stream.
pub fn parse(data: &[u8]) {
    let bytes = Bytes::copy_from_slice(data);
    match wire::Packet::parse(bytes.clone()) {
        Ok(wire::Packet::Report(report)) => {
            let again = wire::Packet::parse(report.encode(usize::MAX));
            assert_eq!(again, Ok(wire::Packet::Report(report)));
        }
        Ok(wire::Packet::Credit(credit)) => {
            assert_eq!(wire::Packet::parse(credit.encode()), Ok(wire::Packet::Credit(credit)));
        }
        Ok(wire::Packet::Done(done)) => {
            assert_eq!(wire::Packet::parse(done.encode()), Ok(wire::Packet::Done(done)));
        }
        Ok(wire::Packet::Part(part)) => assert_eq!(part.encode()[3..], bytes[3..]),
        _ => {}
    }
    let mut reader = FrameReader::default();
    reader.push(data);
    while let Ok(Some(_)) = reader.poll() {}
}

/// A flow whose neighbour says anything.
pub fn flow(data: &[u8]) {
    let Some((&choice, data)) = data.split_first() else { return };
    let mut now = Instant::now();
    let config = match choice & 3 {
        1 => FlowConfig::btp(),
        3 => FlowConfig::brctp(),
        _ => FlowConfig::default(),
    };
    let config = FlowConfig { hop_feedback: choice & 2 == 0, ..config };
    let flow = if choice & 4 == 0 { Flow::client(config, now) } else { Flow::server(config, now) };
    let Ok(mut flow) = flow else { return };
    let mut hop = Hostile::default();
    let mut closed = 0;
    steps(data, |kind, bytes| {
        now += Duration::from_millis(u64::from(kind >> 4));
        hop.act(kind, bytes);
        if kind & 7 == 6 {
            let _ = flow.write(bytes);
            let _ = flow.send(Bytes::copy_from_slice(bytes));
        }
        flow.handle_timeout(now);
        flow.drive(now, &mut hop);
        while let Some(event) = flow.poll_event() {
            assert_eq!(closed, 0, "an event after the last one");
            closed += u32::from(matches!(event, super::flow::Event::Closed(_)));
        }
        while flow.read().or_else(|| flow.recv()).is_some() {}
        let _ = flow.poll_timeout();
    });
}

/// A relay whose neighbours say anything.
pub fn relay(data: &[u8]) {
    let mut now = Instant::now();
    let config = RelayConfig { max_packets: 4096, ..RelayConfig::default() };
    let Ok(mut relay) = RelayFlow::new(config, now) else { return };
    let (mut up, mut down) = (Hostile::default(), Hostile::default());
    steps(data, |kind, bytes| {
        now += Duration::from_millis(u64::from(kind >> 5));
        if kind & 16 == 0 {
            up.act(kind, bytes)
        } else {
            down.act(kind, bytes)
        }
        relay.drive(now, &mut up, &mut down);
        let _ = relay.poll_timeout();
        assert!(
            relay.stats().iter().all(|stats| stats.held <= 2 * 4096 + 1024),
            "beyond its bound"
        );
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bats::toy::Dice;

    /// Bytes that are mostly well-formed packets, so that they get further than the parser.
    fn input(seed: u64) -> Vec<u8> {
        let mut dice = Dice::new(seed);
        let mut out = vec![dice.below(8) as u8];
        if dice.chance(0.8) {
            let mut open = bytes::BytesMut::new();
            super::super::control::Frame::Accept { window: 5000 }.encode(&mut open);
            if out[0] & 4 != 0 || dice.chance(0.5) {
                open = [
                    &[1, 10, 1, dice.below(3) as u8, 8, 1 + dice.below(8) as u8][..],
                    &[dice.below(4) as u8, 0x80, 0, 0x20, 0, 0x10],
                ]
                .concat()[..]
                    .into();
            }
            out.extend_from_slice(&[3, open.len() as u8]);
            out.extend_from_slice(&open);
        }
        for _ in 0..dice.below(300) {
            let kind = dice.below(256) as u8;
            let length = dice.below(60) as usize;
            let mut body: Vec<u8> = (0..length).map(|_| dice.word() as u8).collect();
            if let [first, a, b, c, ..] = &mut body[..] {
                *first &= 0x9f;
                if dice.chance(0.8) {
                    (*a, *b, *c) = (0, 0, *c & 63);
                    *first &= 0xf0;
                }
            }
            out.extend_from_slice(&[kind, length as u8]);
            out.extend_from_slice(&body);
        }
        out
    }

    #[test]
    fn hostile_neighbours_are_survived() {
        for seed in 0..400 {
            let input = input(seed);
            flow(&input);
            relay(&input);
            parse(&input);
        }
    }
}
