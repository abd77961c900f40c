//! Which combinations of one batch are held: incremental elimination on the coefficient vectors.
//!
//! Columns that came unmixed are one bit each. Mixed packets are rows kept in reduced form over the columns that are not
//! known: each row has a pivot, an unknown column that no other row contains. As long as nothing is mixed, which is the
//! rule on one hop, no row exists and nothing is computed.

use crate::gf256::{self, Kernel};

/// Most bytes in a row: M coefficients and M bytes of transform.
const MAX_WIDTH: usize = 128;

#[derive(Clone, Debug)]
pub(crate) struct Basis {
    m: u8,
    /// Bytes in a row: `m`, or `2 m` when the transform is kept.
    width: u8,
    /// Mixed packets accepted so far.
    mixed: u8,
    /// Columns that are known by themselves.
    known: u64,
    /// The rows, `width` bytes each: coefficients over the columns (known and unknown ones), then, when the transform is kept, the
    /// combination of the mixed packets, in order of acceptance, that this row is.
    rows: Vec<u8>,
    pivots: Vec<u8>,
}

impl Basis {
    pub(crate) fn new(m: usize, with_transform: bool) -> Basis {
        let width = if with_transform { 2 * m } else { m };
        Basis {
            m: m as u8,
            width: width as u8,
            mixed: 0,
            known: 0,
            rows: Vec::new(),
            pivots: Vec::new(),
        }
    }

    pub(crate) fn rank(&self) -> usize {
        self.known.count_ones() as usize + self.pivots.len()
    }

    pub(crate) fn is_known(&self, column: usize) -> bool {
        self.known >> column & 1 != 0
    }

    /// Number of rows, which is the number of mixed packets that are not yet resolved.
    pub(crate) fn rows(&self) -> usize {
        self.pivots.len()
    }

    /// Coefficients of row `row` over the columns.
    pub(crate) fn coefficients(&self, row: usize) -> &[u8] {
        &self.row(row)[..usize::from(self.m)]
    }

    /// What row `row` is made of: one coefficient for each mixed packet in order of acceptance.
    pub(crate) fn transform(&self, row: usize) -> &[u8] {
        &self.row(row)[usize::from(self.m)..]
    }

    fn row(&self, row: usize) -> &[u8] {
        let width = usize::from(self.width);
        &self.rows[row * width..][..width]
    }

    /// Adds an unmixed column; false when it tells nothing new.
    pub(crate) fn insert_column(&mut self, column: usize) -> bool {
        if self.is_known(column) {
            return false;
        }
        if let Some(row) = self.pivots.iter().position(|&p| usize::from(p) == column) {
            // The row loses its pivot and needs another; when it has no other unknown column it already said this one.
            let Some(pivot) = self.unknown_column(self.coefficients(row), self.known | 1 << column)
            else {
                return false;
            };
            self.known |= 1 << column;
            self.make_pivot(row, pivot);
        } else {
            self.known |= 1 << column;
        }
        true
    }

    /// Adds a mixed packet; false when it tells nothing new.
    pub(crate) fn insert_mixed(&mut self, vector: &[u8]) -> bool {
        let (m, width) = (usize::from(self.m), usize::from(self.width));
        let kernel = Kernel::active();
        let mut row = [0u8; MAX_WIDTH];
        let row = &mut row[..width];
        row[..m].copy_from_slice(vector);
        for (i, &pivot) in self.pivots.iter().enumerate() {
            let factor = row[usize::from(pivot)];
            if factor != 0 {
                kernel.mul_add(row, &self.rows[i * width..][..width], factor);
            }
        }
        let Some(pivot) = self.unknown_column(&row[..m], self.known) else { return false };
        if width > m {
            row[m + usize::from(self.mixed)] = 1;
        }
        self.mixed += 1;
        self.rows.extend_from_slice(row);
        self.pivots.push(0);
        self.make_pivot(self.pivots.len() - 1, pivot);
        true
    }

    /// The first column of `vector` that is not zero and not in `known`.
    fn unknown_column(&self, vector: &[u8], known: u64) -> Option<usize> {
        vector.iter().enumerate().position(|(j, &c)| c != 0 && known >> j & 1 == 0)
    }

    /// Scales `row` to 1 at `pivot` and clears that column in all other rows.
    fn make_pivot(&mut self, row: usize, pivot: usize) {
        let width = usize::from(self.width);
        let kernel = Kernel::active();
        let mut own = [0u8; MAX_WIDTH];
        let own = &mut own[..width];
        own.copy_from_slice(self.row(row));
        kernel.scale(own, gf256::inverse(own[pivot]));
        for (i, other) in self.rows.chunks_exact_mut(width).enumerate() {
            if i == row {
                other.copy_from_slice(own);
            } else if other[pivot] != 0 {
                let factor = other[pivot];
                kernel.mul_add(other, own, factor);
            }
        }
        self.pivots[row] = pivot as u8;
    }

    /// A row that has one unknown column left, and that column: its pivot.
    pub(crate) fn determined(&self) -> Option<(usize, usize)> {
        (0..self.rows()).find_map(|row| {
            let pivot = usize::from(self.pivots[row]);
            let rest = self.known | 1 << pivot;
            self.unknown_column(self.coefficients(row), rest).is_none().then_some((row, pivot))
        })
    }

    /// Turns a determined row into a known column.
    pub(crate) fn resolve(&mut self, row: usize) {
        let width = usize::from(self.width);
        self.known |= 1 << self.pivots.swap_remove(row);
        let last = self.rows.len() - width;
        self.rows.copy_within(last.., row * width);
        self.rows.truncate(last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prng::{Domain, Stream};

    /// Plain Gaussian elimination as the oracle.
    fn rank_of(vectors: &[Vec<u8>], m: usize) -> usize {
        let mut rows = vectors.to_vec();
        let mut rank = 0;
        for column in 0..m {
            let Some(found) = (rank..rows.len()).find(|&r| rows[r][column] != 0) else { continue };
            rows.swap(rank, found);
            let inverse = gf256::inverse(rows[rank][column]);
            let pivot: Vec<u8> = rows[rank].iter().map(|&x| gf256::product(x, inverse)).collect();
            for row in rows.iter_mut().skip(rank + 1) {
                let factor = row[column];
                row.iter_mut().zip(&pivot).for_each(|(x, &p)| *x ^= gf256::product(factor, p));
            }
            rank += 1;
        }
        rank
    }

    #[test]
    fn rank_agrees_with_gaussian_elimination() {
        for seed in 0..400u64 {
            let stream = Stream::new(seed, Domain::Recoding, 0, 0);
            let m = [4, 8, 16, 32, 64][(seed % 5) as usize];
            let mut basis = Basis::new(m, seed % 2 == 0);
            let mut vectors: Vec<Vec<u8>> = Vec::new();
            for i in 0..2 * m as u64 {
                let word = stream.word(1000 + i);
                let mut vector = vec![0u8; m];
                let accepted = if word.is_multiple_of(3) {
                    let column = (word >> 8) as usize % m;
                    vector[column] = 1;
                    basis.insert_column(column)
                } else {
                    // Few distinct vectors, so that dependence is common.
                    let sparse = (word >> 32) as usize % m + 1;
                    let source = Stream::new(seed, Domain::Recoding, 1 + word % 7, 0);
                    for (j, c) in vector.iter_mut().enumerate().step_by(sparse) {
                        *c = source.word(j as u64) as u8 % 3;
                    }
                    vector.iter().any(|&c| c != 0) && basis.insert_mixed(&vector)
                };
                let before = rank_of(&vectors, m);
                vectors.push(vector);
                let after = rank_of(&vectors, m);
                assert_eq!(accepted, after > before, "seed {seed}, step {i}");
                assert_eq!(basis.rank(), after, "seed {seed}, step {i}");
                while let Some((row, _)) = basis.determined() {
                    basis.resolve(row);
                }
                assert_eq!(basis.rank(), after, "seed {seed}, step {i}");
            }
        }
    }
}
