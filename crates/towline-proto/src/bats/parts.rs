//! Packets that do not fit the hop, which happens when a path's MTU shrinks under symbols already made.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::wire::Part;

/// Most packets that wait for pieces; one more drops the oldest.
const MAX_WAITING: usize = 256;

/// Cuts a packet into pieces of at most `max` bytes; `None` when more than four would be needed.
pub(crate) fn split(data: &Bytes, packet: u16, max: usize) -> Option<Vec<Bytes>> {
    let room = max.checked_sub(Part::HEADER).filter(|&room| room > 0)?;
    let count = u8::try_from(data.len().div_ceil(room)).ok()?.max(2);
    if count > Part::MAX_COUNT {
        return None;
    }
    let each = data.len().div_ceil(usize::from(count));
    let piece = |index: u8| {
        let from = (usize::from(index) * each).min(data.len());
        let data = data.slice(from..(from + each).min(data.len()));
        Part { packet, index, count, data }.encode()
    };
    Some((0..count).map(piece).collect())
}

#[derive(Debug)]
struct Waiting {
    packet: u16,
    pieces: Vec<Option<Bytes>>,
}

/// Puts pieces together again.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    waiting: VecDeque<Waiting>,
    /// Packets whose pieces did not all come.
    pub(crate) given_up: u64,
}

impl Pieces {
    /// Takes a piece; the packet, when it is whole.
    pub(crate) fn push(&mut self, part: Part) -> Option<Bytes> {
        let count = usize::from(part.count);
        let same =
            |waiting: &Waiting| waiting.packet == part.packet && waiting.pieces.len() == count;
        let place = match self.waiting.iter().position(same) {
            Some(place) => place,
            None => {
                if self.waiting.len() == MAX_WAITING {
                    self.waiting.pop_front();
                    self.given_up += 1;
                }
                let pieces = vec![None; count];
                self.waiting.push_back(Waiting { packet: part.packet, pieces });
                self.waiting.len() - 1
            }
        };
        let waiting = self.waiting.get_mut(place)?;
        *waiting.pieces.get_mut(usize::from(part.index))? = Some(part.data);
        if waiting.pieces.iter().any(Option::is_none) {
            return None;
        }
        let whole = self.waiting.remove(place)?;
        let mut out = BytesMut::with_capacity(whole.pieces.iter().flatten().map(Bytes::len).sum());
        whole.pieces.iter().flatten().for_each(|piece| out.extend_from_slice(piece));
        Some(out.freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bats::wire::Packet;

    fn part(data: Bytes) -> Part {
        match Packet::parse(data) {
            Ok(Packet::Part(part)) => part,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_packet_survives_a_smaller_hop() {
        let data: Bytes = (0..1440u32).map(|i| i as u8).collect();
        for max in [400, 724, 1200, 1439] {
            let pieces = split(&data, 7, max).unwrap();
            assert!(pieces.iter().all(|piece| piece.len() <= max));
            let mut waiting = Pieces::default();
            let mut whole = None;
            for piece in pieces.into_iter().rev() {
                assert_eq!(whole, None);
                whole = waiting.push(part(piece));
            }
            assert_eq!(whole, Some(data.clone()));
        }
        assert_eq!(split(&data, 7, 300), None);
        assert_eq!(split(&data, 7, 4), None);
    }

    #[test]
    fn pieces_that_never_meet_are_given_up() {
        let mut waiting = Pieces::default();
        for packet in 0..1000 {
            let pieces = split(&Bytes::from_static(&[1; 100]), packet, 60).unwrap();
            assert_eq!(waiting.push(part(pieces[0].clone())), None);
        }
        assert_eq!(waiting.given_up, 1000 - MAX_WAITING as u64);
    }
}
