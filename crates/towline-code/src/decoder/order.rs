//! Peeling with inactivation: finds an order in which most missing symbols follow from earlier ones.
//!
//! An equation with one unknown left gives that unknown. When none has, a column is set aside (inactivated) as if
//! it were known, and peeling goes on; the columns set aside are solved for by dense elimination.

use std::collections::BinaryHeap;

use super::equations::Sparse;

/// What became of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Not decided yet.
    Active,
    /// Given by the pivot of this number.
    Pivot(u32),
    /// Set aside, with this number.
    Inactive(u32),
}

/// One step: `row` gives `column` from earlier pivots and inactive columns.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pivot {
    pub(super) row: u32,
    pub(super) column: u32,
    /// The coefficient of `column` in `row`.
    pub(super) value: u8,
}

#[derive(Debug)]
pub(super) struct Order {
    pub(super) pivots: Vec<Pivot>,
    /// Columns set aside.
    pub(super) inactive: Vec<u32>,
    /// Rows that are no pivot: they tell about the inactive columns.
    pub(super) residual: Vec<u32>,
    pub(super) roles: Vec<Role>,
}

/// The search, with everything it counts.
struct Search<'a> {
    matrix: &'a Sparse,
    /// For each column the rows that contain it.
    starts: Vec<usize>,
    rows: Vec<u32>,
    /// Active columns in each row.
    degrees: Vec<u32>,
    used: Vec<bool>,
    roles: Vec<Role>,
    /// Rows with one active column.
    ready: Vec<u32>,
    /// For each column the rows with two active columns that contain it.
    pairs: Vec<u32>,
    /// Columns by `pairs`, with outdated entries left in.
    busiest: BinaryHeap<(u32, u32)>,
    /// Rows by degree, with outdated entries left in.
    by_degree: Vec<Vec<u32>>,
    /// No column below this is active.
    first_active: usize,
}

/// Rows above this degree share the last list of `by_degree`.
const DEGREES: usize = 256;

impl Order {
    pub(super) fn new(matrix: &Sparse, columns: usize) -> Order {
        let mut search = Search::new(matrix, columns);
        let mut pivots = Vec::with_capacity(columns);
        let mut inactive = Vec::new();
        loop {
            while let Some(row) = search.ready.pop() {
                if let Some((column, value)) = search.only_active(row) {
                    search.used[row as usize] = true;
                    search.settle(column, Role::Pivot(pivots.len() as u32));
                    pivots.push(Pivot { row, column, value });
                }
            }
            let Some(column) = search.choose() else { break };
            search.settle(column, Role::Inactive(inactive.len() as u32));
            inactive.push(column);
        }
        let residual =
            (0u32..).zip(&search.used).filter(|(_, used)| !**used).map(|(row, _)| row).collect();
        Order { pivots, inactive, residual, roles: search.roles }
    }
}

impl<'a> Search<'a> {
    fn new(matrix: &'a Sparse, columns: usize) -> Search<'a> {
        let mut starts = vec![0usize; columns + 1];
        for &column in &matrix.indices {
            starts[column as usize + 1] += 1;
        }
        for column in 0..columns {
            starts[column + 1] += starts[column];
        }
        let mut next = starts.clone();
        let mut rows = vec![0u32; matrix.indices.len()];
        let mut degrees = vec![0u32; matrix.rows()];
        for (row, degree) in degrees.iter_mut().enumerate() {
            let (indices, _) = matrix.row(row);
            *degree = indices.len() as u32;
            for &column in indices {
                rows[next[column as usize]] = row as u32;
                next[column as usize] += 1;
            }
        }
        let mut search = Search {
            matrix,
            starts,
            rows,
            used: vec![false; matrix.rows()],
            roles: vec![Role::Active; columns],
            ready: Vec::new(),
            pairs: vec![0; columns],
            busiest: BinaryHeap::new(),
            by_degree: vec![Vec::new(); DEGREES + 1],
            degrees,
            first_active: 0,
        };
        for row in (0..matrix.rows() as u32).rev() {
            search.filed(row);
        }
        search
    }

    /// Puts a row where its degree says.
    fn filed(&mut self, row: u32) {
        match self.degrees[row as usize] {
            0 => {}
            1 => self.ready.push(row),
            2 => {
                for &column in self.matrix.row(row as usize).0 {
                    if self.roles[column as usize] == Role::Active {
                        self.pairs[column as usize] += 1;
                        self.busiest.push((self.pairs[column as usize], column));
                    }
                }
            }
            degree => self.by_degree[(degree as usize).min(DEGREES)].push(row),
        }
    }

    fn only_active(&self, row: u32) -> Option<(u32, u8)> {
        let (indices, values) = self.matrix.row(row as usize);
        let at = indices.iter().position(|&column| self.roles[column as usize] == Role::Active)?;
        Some((indices[at], values[at]))
    }

    /// Takes a column out of the game.
    fn settle(&mut self, column: u32, role: Role) {
        self.roles[column as usize] = role;
        for at in self.starts[column as usize]..self.starts[column as usize + 1] {
            let row = self.rows[at];
            let degree = &mut self.degrees[row as usize];
            *degree -= 1;
            match *degree {
                0 => {}
                1 => {
                    // It was a pair: its other column has one pair less.
                    if let Some((other, _)) = self.only_active(row) {
                        self.pairs[other as usize] -= 1;
                    }
                    self.ready.push(row);
                }
                // Rows in the last list stay there until they have fewer columns than it counts.
                degree if degree as usize >= DEGREES => {}
                _ => self.filed(row),
            }
        }
    }

    /// The column to set aside: the one in most pairs, because each pair then gives a column; without pairs, one of the
    /// shortest row, the one that most rows contain.
    fn choose(&mut self) -> Option<u32> {
        while let Some((count, column)) = self.busiest.pop() {
            let now = self.pairs[column as usize];
            if self.roles[column as usize] != Role::Active || now == 0 {
                continue;
            }
            if now == count {
                return Some(column);
            }
            self.busiest.push((now, column));
        }
        for degree in 3..=DEGREES {
            while let Some(&row) = self.by_degree[degree].last() {
                let now = self.degrees[row as usize] as usize;
                if now.min(DEGREES) != degree || self.used[row as usize] {
                    self.by_degree[degree].pop();
                    continue;
                }
                let active = self.matrix.row(row as usize).0.iter().copied();
                let active = active.filter(|&column| self.roles[column as usize] == Role::Active);
                return active.max_by_key(|&column| {
                    self.starts[column as usize + 1] - self.starts[column as usize]
                });
            }
        }
        // Columns that no equation contains.
        while let Some(&role) = self.roles.get(self.first_active) {
            if role == Role::Active {
                return Some(self.first_active as u32);
            }
            self.first_active += 1;
        }
        None
    }
}
