//! The linear equations of a block over its missing source symbols.

use std::ops::Range;

use crate::{
    basis::Basis,
    batch::BatchId,
    error::DecodeError,
    generator::{Column, Generator},
    gf256,
};

/// Marks a source symbol that is known in [`Equations::place`].
const KNOWN: u32 = u32::MAX;

/// Rows of (index, coefficient) pairs.
#[derive(Debug)]
pub(super) struct Sparse {
    starts: Vec<usize>,
    pub(super) indices: Vec<u32>,
    pub(super) values: Vec<u8>,
}

impl Sparse {
    fn new() -> Sparse {
        Sparse { starts: vec![0], indices: Vec::new(), values: Vec::new() }
    }

    fn push(&mut self, index: u32, value: u8) {
        self.indices.push(index);
        self.values.push(value);
    }

    fn close(&mut self) {
        self.starts.push(self.indices.len());
    }

    pub(super) fn rows(&self) -> usize {
        self.starts.len() - 1
    }

    pub(super) fn range(&self, row: usize) -> Range<usize> {
        self.starts[row]..self.starts[row + 1]
    }

    pub(super) fn row(&self, row: usize) -> (&[u32], &[u8]) {
        let range = self.range(row);
        (&self.indices[range.clone()], &self.values[range])
    }
}

/// Numbers the held packets behind the source symbols.
pub(super) struct Payloads {
    pub(super) next: u32,
}

impl Payloads {
    pub(super) fn take(&mut self, count: usize) -> Range<u32> {
        let first = self.next;
        self.next += count as u32;
        first..self.next
    }
}

/// `unknown * missing symbols = known * payloads`, row by row.
#[derive(Debug)]
pub(super) struct Equations {
    /// The source symbols that are missing: the columns of `unknown`.
    pub(super) missing: Vec<u32>,
    /// Over the missing symbols.
    pub(super) unknown: Sparse,
    /// Over source symbols and held packets, source symbols first.
    pub(super) known: Sparse,
    /// How many entries of a row of `known` are source symbols.
    pub(super) sources: Vec<u32>,
    /// Whether rows may share their source symbols.
    pub(super) full: bool,
    place: Vec<u32>,
    limit: usize,
    /// A dense accumulator over the source symbols for rows that are sums of columns, with the symbols it holds.
    sum: Vec<u8>,
    seen: Vec<bool>,
    touched: Vec<u32>,
    column: Column,
}

impl Equations {
    pub(super) fn new(known: &[bool], limit: usize, full: bool) -> Equations {
        let mut missing = Vec::new();
        let mut place = vec![KNOWN; known.len()];
        for (index, _) in known.iter().enumerate().filter(|(_, known)| !**known) {
            place[index] = missing.len() as u32;
            missing.push(index as u32);
        }
        Equations {
            missing,
            unknown: Sparse::new(),
            known: Sparse::new(),
            sources: Vec::new(),
            full,
            place,
            limit,
            sum: vec![0; known.len()],
            seen: vec![false; known.len()],
            touched: Vec::new(),
            column: Column::default(),
        }
    }

    fn put(&mut self, symbol: u32, coefficient: u8) {
        match self.place[symbol as usize] {
            KNOWN => self.known.push(symbol, coefficient),
            place => self.unknown.push(place, coefficient),
        }
    }

    /// Ends a row whose entries have been put and whose packets are `payloads`.
    fn close(&mut self, payloads: impl Iterator<Item = (u32, u8)>) -> Result<(), DecodeError> {
        let first = self.known.starts.last().copied().unwrap_or(0);
        self.sources.push((self.known.indices.len() - first) as u32);
        for (payload, coefficient) in payloads.filter(|&(_, c)| c != 0) {
            self.known.push(payload, coefficient);
        }
        self.known.close();
        self.unknown.close();
        if self.known.indices.len() + self.unknown.indices.len() > self.limit {
            return Err(DecodeError::TooDense("max_entries"));
        }
        Ok(())
    }

    /// The unresolved rows of a source batch whose first symbol is `first`.
    pub(super) fn source_batch(
        &mut self,
        first: u32,
        basis: &Basis,
        packets: Range<u32>,
    ) -> Result<(), DecodeError> {
        for row in 0..basis.rows() {
            for (j, &c) in (0u32..).zip(basis.coefficients(row)).filter(|(_, c)| **c != 0) {
                self.put(first + j, c);
            }
            self.close(packets.clone().zip(basis.transform(row).iter().copied()))?;
        }
        Ok(())
    }

    /// A repair batch: its unmixed `columns` with their payloads, and the rows of its mixed packets.
    pub(super) fn repair_batch(
        &mut self,
        generator: &mut Generator,
        batch: BatchId,
        basis: &Basis,
        columns: &[(u16, u32)],
        mixed: Range<u32>,
    ) -> Result<(), DecodeError> {
        for &(column, payload) in columns {
            self.unmixed_column(generator, batch, column);
            self.close(std::iter::once((payload, 1)))?;
        }
        for row in 0..basis.rows() {
            let coefficients = basis.coefficients(row);
            for (j, &c) in (0u16..).zip(coefficients).filter(|(_, c)| **c != 0) {
                if !basis.is_known(usize::from(j)) {
                    self.add_column(generator, batch, j, c);
                }
            }
            self.put_sum();
            let unmixed =
                columns.iter().map(|&(j, payload)| (payload, coefficients[usize::from(j)]));
            self.close(unmixed.chain(mixed.clone().zip(basis.transform(row).iter().copied())))?;
        }
        Ok(())
    }

    /// A column by itself.
    fn unmixed_column(&mut self, generator: &mut Generator, batch: BatchId, column: u16) {
        generator.column(batch, column, &mut self.column);
        if self.column.repeats {
            self.add(1);
            return self.put_sum();
        }
        let Equations { place, known, unknown, column: own, .. } = self;
        // At low loss these are most of the equations' entries, nearly all of them known: space first, then no calls.
        let start = known.indices.len();
        known.indices.resize(start + own.symbols.len(), 0);
        known.values.resize(start + own.symbols.len(), 0);
        let mut slots = known.indices[start..].iter_mut().zip(&mut known.values[start..]);
        let mut missing = 0;
        for (&symbol, &coefficient) in own.symbols.iter().zip(&own.coefficients) {
            match place[symbol as usize] {
                KNOWN => {
                    if let Some((index, value)) = slots.next() {
                        (*index, *value) = (symbol, coefficient);
                    }
                }
                place => {
                    unknown.push(place, coefficient);
                    missing += 1;
                }
            }
        }
        known.indices.truncate(known.indices.len() - missing);
        known.values.truncate(known.values.len() - missing);
    }

    fn add_column(&mut self, generator: &mut Generator, batch: BatchId, column: u16, factor: u8) {
        generator.column(batch, column, &mut self.column);
        self.add(factor);
    }

    /// Adds the column to the accumulator.
    fn add(&mut self, factor: u8) {
        for (&symbol, &coefficient) in self.column.symbols.iter().zip(&self.column.coefficients) {
            let at = symbol as usize;
            if !self.seen[at] {
                self.seen[at] = true;
                self.touched.push(symbol);
            }
            self.sum[at] ^= gf256::product(factor, coefficient);
        }
    }

    fn put_sum(&mut self) {
        let touched = std::mem::take(&mut self.touched);
        for &symbol in &touched {
            let coefficient = std::mem::take(&mut self.sum[symbol as usize]);
            self.seen[symbol as usize] = false;
            if coefficient != 0 {
                self.put(symbol, coefficient);
            }
        }
        self.touched = touched;
        self.touched.clear();
    }
}
