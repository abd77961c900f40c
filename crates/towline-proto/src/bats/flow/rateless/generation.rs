//! Where symbols stand: generations, their shape, and the numbers of their columns.

use towline_code::{BatchId, BatchSize, BlockCode, BlockParameters, Degrees};

/// Most source symbols in a generation. More cost less in symbols, and a pause of the receiver's thread while it solves: some tens of
/// milliseconds at this size and 10 % loss.
pub(super) const MAX_SYMBOLS: u64 = 8192;
/// Most generations under way, whatever window the receiver has.
pub(in crate::bats::flow) const MAX_OPEN: u64 = 16;
/// Batches of a generation that have numbers. Nothing is sent after the last one.
const BATCHES: u64 = 1 << 16;
/// Bytes in front of every symbol: its generation's shape.
pub(super) const SHAPE: usize = 2;
/// Bytes at the beginning of a generation: its length, and whether the stream ends with it.
pub(super) const LENGTH: usize = 4;
/// The bit of the length that says so.
pub(super) const LAST: u32 = 1 << 31;

/// What both ends have to know of a generation, besides the size of its symbols, which is that of its packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// Source symbols, 1 to 8,192.
    pub(super) symbols: u16,
    /// Repair symbols are made for a loss of 1 in 2 to the power of this, 1 to 7; 0 for receivers that hold nothing.
    pub(super) density: u8,
}

impl Shape {
    /// For this many symbols and the loss that is thought likely. Less loss than that only wastes some repair symbols; more costs work.
    pub(super) fn new(symbols: u64, loss: f64) -> Shape {
        // What was never seen is taken as 1 in 16.
        let loss = if loss > 0.0 { loss } else { 1.0 / 16.0 };
        let density = (-loss.log2()).ceil().clamp(1.0, 7.0) as u8;
        Shape { symbols: symbols.clamp(1, MAX_SYMBOLS) as u16, density }
    }

    pub(super) fn encode(self) -> [u8; SHAPE] {
        (u16::from(self.density) << 13 | (self.symbols - 1)).to_be_bytes()
    }

    /// The shape in front of a symbol, and the symbol's bytes.
    pub(super) fn split(symbol: &[u8]) -> Option<(Shape, usize)> {
        let (&[high, low], rest) = symbol.split_first_chunk()?;
        let word = u16::from_be_bytes([high, low]);
        let shape = Shape { symbols: (word & 0x1fff) + 1, density: (word >> 13) as u8 };
        (!rest.is_empty()).then_some((shape, rest.len()))
    }

    /// The code of a generation.
    pub(super) fn code(
        self,
        generation: u64,
        symbol_size: usize,
        batch_size: BatchSize,
    ) -> Option<BlockCode> {
        let k = u32::from(self.symbols);
        let degrees = match self.density {
            0 => Degrees::Fountain,
            power => Degrees::for_missing(k, f64::from(k) / f64::from(1u32 << power)),
        };
        let parameters = BlockParameters {
            source_symbols: k,
            symbol_size,
            batch_size,
            degrees,
            nonce: generation,
        };
        BlockCode::new(parameters).ok()
    }
}

/// The number on the wire of a generation's batch.
pub(super) fn wire_batch(generation: u64, batch: BatchId) -> Option<u64> {
    let batch = Some(u64::from(batch.0)).filter(|&batch| batch < BATCHES)?;
    generation.checked_mul(BATCHES)?.checked_add(batch)
}

/// The generation and batch of a number on the wire.
pub(super) fn of_wire(batch: u64) -> (u64, BatchId) {
    (batch / BATCHES, BatchId((batch % BATCHES) as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_survive_the_wire() {
        for (symbols, loss) in [(1, 0.0), (8192, 0.4), (8192, 0.001), (500, 0.1)] {
            let shape = Shape::new(symbols, loss);
            let mut symbol = shape.encode().to_vec();
            assert_eq!(Shape::split(&symbol), None);
            symbol.push(7);
            assert_eq!(Shape::split(&symbol), Some((shape, 1)));
            assert!(shape.code(3, 1400, BatchSize::M16).is_some());
        }
        assert_eq!(Shape::new(10, 0.1).density, 4);
        assert_eq!(Shape::new(10, 0.9).density, 1);
    }

    #[test]
    fn every_shape_of_a_peer_is_a_code() {
        for word in 0..=u16::MAX {
            let [high, low] = word.to_be_bytes();
            let (shape, size) = Shape::split(&[high, low, 0]).unwrap();
            assert!(shape.code(1, size, BatchSize::M4).is_some(), "{word}");
        }
    }

    #[test]
    fn numbers_end_where_the_next_generation_begins() {
        let last = BatchId(BATCHES as u32 - 1);
        assert_eq!(wire_batch(3, last).map(of_wire), Some((3, last)));
        assert_eq!(wire_batch(3, BatchId(BATCHES as u32)), None);
        assert_eq!(wire_batch(u64::MAX, last), None);
    }
}
