//! The dense part: the residual rows over the inactive columns, factored into triangles.

use super::{
    equations::Sparse,
    order::{Order, Role},
};
use crate::gf256::{self, Rows};

/// Inactive columns treated at once while pivots are expressed in them: bounds the memory by this times the number of pivots.
const TILE: usize = 256;

/// The factored residual rows.
pub(super) struct Dense {
    /// Row i holds, below i, the multipliers of the lower triangle, and from i + 1 on the upper triangle, whose diagonal is 1.
    pub(super) factors: Rows,
    /// The residual row that became row i.
    pub(super) rows: Vec<u32>,
    /// What row i was scaled by.
    pub(super) scales: Vec<u8>,
    /// Inactive columns that the rows do not determine.
    pub(super) lacking: usize,
}

impl Dense {
    pub(super) fn new(matrix: &Sparse, order: &Order) -> Dense {
        let mut factors = express(matrix, order);
        let columns = order.inactive.len();
        let mut rows = order.residual.clone();
        let mut scales = Vec::with_capacity(columns);
        let mut rank = 0;
        for column in 0..columns {
            let Some(found) = (rank..rows.len()).find(|&row| factors.row(row)[column] != 0) else {
                continue;
            };
            factors.swap(rank, found);
            rows.swap(rank, found);
            let scale = gf256::inverse(factors.row(rank)[column]);
            gf256::scale(&mut factors.row_mut(rank)[column..], scale);
            scales.push(scale);
            for row in rank + 1..rows.len() {
                let factor = factors.row(row)[column];
                if factor != 0 {
                    factors.mul_add(row, rank, factor, column + 1..columns);
                }
            }
            rank += 1;
        }
        Dense { factors, rows, scales, lacking: columns - rank }
    }
}

/// The residual rows with every pivot column replaced by what it is in terms of inactive columns.
fn express(matrix: &Sparse, order: &Order) -> Rows {
    let (pivots, columns) = (order.pivots.len(), order.inactive.len());
    let mut out = Rows::new(order.residual.len(), columns);
    let mut first = 0;
    let mut terms = (Vec::new(), Vec::new());
    while first < columns {
        let width = TILE.min(columns - first);
        // One row for each pivot, and one to work in.
        let mut tile = Rows::new(pivots + 1, width);
        let sum = |row: u32,
                   skip: u32,
                   scale: u8,
                   dst: usize,
                   tile: &mut Rows,
                   terms: &mut (Vec<u32>, Vec<u8>)| {
            terms.0.clear();
            terms.1.clear();
            let (indices, values) = matrix.row(row as usize);
            for (&column, &value) in
                indices.iter().zip(values).filter(|(column, _)| **column != skip)
            {
                if let Role::Pivot(k) = order.roles[column as usize] {
                    terms.0.push(k);
                    terms.1.push(gf256::product(scale, value));
                }
            }
            tile.sum(dst, false, &terms.0, &terms.1, 0..width);
            for (&column, &value) in indices.iter().zip(values) {
                if let Role::Inactive(i) = order.roles[column as usize]
                    && let Some(at) = (i as usize).checked_sub(first)
                    && at < width
                {
                    tile.row_mut(dst)[at] ^= gf256::product(scale, value);
                }
            }
        };
        for (k, pivot) in order.pivots.iter().enumerate() {
            sum(pivot.row, pivot.column, gf256::inverse(pivot.value), k, &mut tile, &mut terms);
        }
        for (i, &row) in order.residual.iter().enumerate() {
            sum(row, u32::MAX, 1, pivots, &mut tile, &mut terms);
            out.row_mut(i)[first..first + width].copy_from_slice(tile.row(pivots));
        }
        first += width;
    }
    out
}
