//! The one pass over symbols.
//!
//! Everything before this was arithmetic on coefficients. Here each used equation is first reduced to its known side (many
//! sources, one destination, whole symbols); then the triangular order is followed, tile by tile, so that what
//! depends on one another stays in cache.

use super::{
    dense::Dense,
    equations::Equations,
    order::{Order, Role},
};
use crate::gf256::{self, Kernel, Rows};

/// Bytes of a tile over all rows, about half of a second-level cache.
const TILE_BUDGET: usize = 768 * 1024;

/// Smallest tile: below it the kernels spend more on addresses than on bytes.
const MIN_TILE: usize = 256;

/// `row = (add ? row : 0) + sum of terms`, for each operation in turn.
#[derive(Default)]
struct Schedule {
    operations: Vec<Operation>,
    rows: Vec<u32>,
    coefficients: Vec<u8>,
}

struct Operation {
    row: u32,
    add: bool,
    /// Where the operation's terms end; they begin where those of the one before end.
    end: usize,
}

impl Schedule {
    fn term(&mut self, row: usize, coefficient: u8) {
        self.rows.push(row as u32);
        self.coefficients.push(coefficient);
    }

    fn close(&mut self, row: usize, add: bool) {
        self.operations.push(Operation { row: row as u32, add, end: self.rows.len() });
    }

    fn run(&self, rows: &mut Rows, size: usize) {
        let tile = (TILE_BUDGET / rows.rows().max(1)).max(MIN_TILE).next_multiple_of(64);
        let mut at = 0;
        while at < size {
            let range = at..size.min(at + tile);
            let mut start = 0;
            for operation in &self.operations {
                let terms = start..operation.end;
                rows.sum(
                    operation.row as usize,
                    operation.add,
                    &self.rows[terms.clone()],
                    &self.coefficients[terms],
                    range.clone(),
                );
                start = operation.end;
            }
            at += tile;
        }
    }
}

/// The missing symbols, in their order.
pub(super) fn solve(
    equations: &Equations,
    order: &Order,
    dense: &Dense,
    payloads: &[&[u8]],
    size: usize,
) -> Rows {
    let missing = equations.missing.len();
    // Rows 0..missing are the symbols, behind them the known sides: those of the pivots, then those of the dense rows.
    let used = order
        .pivots
        .iter()
        .map(|pivot| pivot.row)
        .chain(dense.rows[..order.inactive.len()].iter().copied());
    let used: Vec<u32> = used.collect();
    let mut rows = Rows::new(missing + used.len(), size);
    known_sides(equations, &used, payloads, &mut rows, missing);
    schedule(equations, order, dense, missing).run(&mut rows, size);
    rows.truncate(missing);
    rows
}

/// Sums the known side of each used equation into its row.
fn known_sides(
    equations: &Equations,
    used: &[u32],
    payloads: &[&[u8]],
    rows: &mut Rows,
    first: usize,
) {
    let kernel = Kernel::active();
    let mut done = 0;
    while done < used.len() {
        if equations.full
            && done + 4 <= used.len()
            && four_known_sides(equations, &used[done..done + 4], payloads, rows, first + done)
        {
            done += 4;
            continue;
        }
        let (indices, values) = equations.known.row(used[done] as usize);
        let terms = indices.iter().zip(values).map(|(&i, &c)| (payloads[i as usize], c));
        kernel.sum(rows.row_mut(first + done), false, terms);
        done += 1;
    }
}

/// The same for four equations at once when they refer to the same source symbols; false when they do not.
fn four_known_sides(
    equations: &Equations,
    used: &[u32],
    payloads: &[&[u8]],
    rows: &mut Rows,
    first: usize,
) -> bool {
    let kernel = Kernel::active();
    let of = |i: usize| {
        let sources = equations.sources[used[i] as usize] as usize;
        let (indices, values) = equations.known.row(used[i] as usize);
        (indices.split_at(sources), values.split_at(sources))
    };
    let all = [of(0), of(1), of(2), of(3)];
    let ((shared, _), _) = all[0];
    if shared.is_empty() || all.iter().any(|((own, _), _)| *own != shared) {
        return false;
    }
    let values = all.map(|(_, (values, _))| values);
    let terms =
        shared.iter().enumerate().map(|(i, &s)| (payloads[s as usize], values.map(|v| v[i])));
    kernel.sum4(rows.four_mut(first), false, terms);
    for (i, ((_, packets), (_, values))) in all.iter().enumerate() {
        let terms = packets.iter().zip(*values).map(|(&p, &c)| (payloads[p as usize], c));
        kernel.sum(rows.row_mut(first + i), true, terms);
    }
    true
}

fn schedule(equations: &Equations, order: &Order, dense: &Dense, missing: usize) -> Schedule {
    let mut schedule = Schedule::default();
    let inactive = order.inactive.len();
    // Pivots as if the inactive columns were zero.
    let pivot = |k: usize, with_inactive: bool, schedule: &mut Schedule| {
        let pivot = order.pivots[k];
        let scale = gf256::inverse(pivot.value);
        let (indices, values) = equations.unknown.row(pivot.row as usize);
        schedule.term(missing + k, scale);
        for (&column, &value) in
            indices.iter().zip(values).filter(|(column, _)| **column != pivot.column)
        {
            if with_inactive || matches!(order.roles[column as usize], Role::Pivot(_)) {
                schedule.term(column as usize, gf256::product(scale, value));
            }
        }
        schedule.close(pivot.column as usize, false);
    };
    for k in 0..order.pivots.len() {
        pivot(k, false, &mut schedule);
    }
    if inactive == 0 {
        return schedule;
    }
    // The lower triangle: what the pivots leave of each dense row, less the rows above it.
    for i in 0..inactive {
        let scale = dense.scales[i];
        schedule.term(missing + order.pivots.len() + i, scale);
        let (indices, values) = equations.unknown.row(dense.rows[i] as usize);
        for (&column, &value) in indices.iter().zip(values) {
            if matches!(order.roles[column as usize], Role::Pivot(_)) {
                schedule.term(column as usize, gf256::product(scale, value));
            }
        }
        for (j, &value) in dense.factors.row(i)[..i].iter().enumerate().filter(|(_, v)| **v != 0) {
            schedule.term(order.inactive[j] as usize, gf256::product(scale, value));
        }
        schedule.close(order.inactive[i] as usize, false);
    }
    // The upper triangle, from its end.
    for i in (0..inactive).rev() {
        for (j, &value) in
            dense.factors.row(i).iter().enumerate().skip(i + 1).filter(|(_, v)| **v != 0)
        {
            schedule.term(order.inactive[j] as usize, value);
        }
        schedule.close(order.inactive[i] as usize, true);
    }
    // The pivots again, from their original sparse rows.
    for k in 0..order.pivots.len() {
        pivot(k, true, &mut schedule);
    }
    schedule
}
