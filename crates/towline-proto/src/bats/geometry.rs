//! Which symbol is which column of which batch.

use towline_code::BatchSize;

/// Symbols are numbered from 0 in the order in which they are sent. A group of `interleave` batches is filled column by column, so
/// that neighbours in time are in different batches and a burst of losses is shared out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    pub(crate) size: BatchSize,
    interleave: u64,
}

impl Geometry {
    pub(crate) fn new(size: BatchSize, interleave: u8) -> Geometry {
        Geometry { size, interleave: u64::from(interleave.max(1)) }
    }

    /// Columns in a batch.
    pub(crate) fn columns(self) -> u64 {
        self.size.columns() as u64
    }

    /// Batches in a group.
    pub(crate) fn interleave(self) -> u64 {
        self.interleave
    }

    /// Symbols in a group.
    pub(crate) fn group(self) -> u64 {
        self.columns() * self.interleave
    }

    /// The batch and column of a symbol.
    pub(crate) fn position(self, number: u64) -> (u64, u16) {
        let (group, place) = (number / self.group(), number % self.group());
        (group * self.interleave + place % self.interleave, (place / self.interleave) as u16)
    }

    /// The symbol of a column. Batches beyond any that can be reached give a number beyond any that is sent.
    pub(crate) fn number(self, batch: u64, column: u16) -> u64 {
        let (group, place) = (batch / self.interleave, batch % self.interleave);
        let within = u64::from(column).saturating_mul(self.interleave).saturating_add(place);
        group.saturating_mul(self.group()).saturating_add(within)
    }

    /// How many columns of a batch come before symbol `end`.
    pub(crate) fn columns_before(self, batch: u64, end: u64) -> u64 {
        let first = self.number(batch, 0);
        end.saturating_sub(first).div_ceil(self.interleave).min(self.columns())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_symbol_is_one_column() {
        for (size, interleave) in [(BatchSize::M16, 1), (BatchSize::M8, 8), (BatchSize::M4, 3)] {
            let geometry = Geometry::new(size, interleave);
            for number in 0..1000 {
                let (batch, column) = geometry.position(number);
                assert!(u64::from(column) < geometry.columns());
                assert_eq!(geometry.number(batch, column), number);
                let before = (0..number).filter(|&n| geometry.position(n).0 == batch).count();
                assert_eq!(geometry.columns_before(batch, number), before as u64, "{number}");
            }
        }
    }
}
