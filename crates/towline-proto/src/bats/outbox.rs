//! Hands packets to the hop, in pieces where they do not fit.

use std::time::Instant;

use bytes::Bytes;

use super::hop::{Hop, Packet};
use super::parts::split;

#[derive(Debug, Default)]
pub(crate) struct Outbox {
    /// Names packets that go in pieces.
    split: u16,
}

impl Outbox {
    /// Sends a packet; the number of pieces, 0 when it fits in no way.
    pub(crate) fn send<H: Hop>(&mut self, now: Instant, hop: &mut H, packet: Packet) -> u8 {
        let max = hop.max_packet();
        if packet.data.len() <= max {
            hop.send(now, packet);
            return 1;
        }
        self.split = self.split.wrapping_add(1);
        let pieces: Vec<Bytes> = split(&packet.data, self.split, max).unwrap_or_default();
        let count = pieces.len() as u8;
        for data in pieces {
            hop.send(now, Packet { data, ..packet });
        }
        count
    }
}
