//! The receiver's window: decoding on the fly.
//!
//! The equations over the missing symbols are kept fully reduced: each has a pivot, a missing symbol that no other equation
//! contains. An equation that contains nothing but its pivot gives it away at once. Symbols that arrive or are given up leave the
//! equations, so their number never exceeds that of the missing symbols in the window.

use std::collections::VecDeque;

use super::{WindowConfig, WindowRepair};
use crate::{
    error::{DecodeError, ParameterError},
    gf256::{self, Kernel},
};

/// What a symbol did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowOutcome {
    /// It was new and is kept.
    Accepted,
    /// It told nothing new and is dropped.
    Redundant,
    /// It is too late: it belongs to, or spans, symbols that are no longer kept.
    Expired,
}

/// Where the decoder is after a symbol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowProgress {
    /// What this symbol did.
    pub outcome: WindowOutcome,
    /// Dimensions known among the symbols of the window: those available and the equations over the others.
    pub rank: usize,
    /// How many more repairs are wanted until everything in the window is available.
    pub deficit: usize,
    /// Source symbols that became available; [`WindowDecoder::poll_available`] names them.
    pub available: usize,
}

#[derive(Debug)]
enum Slot<S> {
    Missing,
    Received(S),
    Recovered(Box<[u8]>),
}

impl<S: AsRef<[u8]>> Slot<S> {
    fn bytes(&self) -> Option<&[u8]> {
        match self {
            Slot::Missing => None,
            Slot::Received(symbol) => Some(symbol.as_ref()),
            Slot::Recovered(symbol) => Some(symbol),
        }
    }
}

/// One equation over missing symbols.
#[derive(Debug)]
struct Row {
    pivot: u64,
    /// By number modulo the depth; zero for everything that is not missing.
    coefficients: Box<[u8]>,
    data: Box<[u8]>,
}

impl Row {
    /// Adds `factor` times `other`.
    fn add(&mut self, other: &Row, factor: u8) {
        let kernel = Kernel::active();
        kernel.mul_add(&mut self.coefficients, &other.coefficients, factor);
        kernel.mul_add(&mut self.data, &other.data, factor);
    }
}

/// Decodes a sliding window.
///
/// `S` holds a received source symbol, which is available at once and never copied.
#[derive(Debug)]
pub struct WindowDecoder<S> {
    config: WindowConfig,
    /// The oldest number kept and the one behind the newest seen.
    base: u64,
    end: u64,
    /// By number modulo the depth.
    slots: Vec<Slot<S>>,
    rows: Vec<Row>,
    known: usize,
    lost: u64,
    available: VecDeque<u64>,
    coefficients: Vec<u8>,
}

impl<S: AsRef<[u8]>> WindowDecoder<S> {
    /// A decoder that expects number 0 first.
    ///
    /// # Errors
    ///
    /// The first parameter that is out of its range.
    pub fn new(config: WindowConfig) -> Result<WindowDecoder<S>, ParameterError> {
        config.check()?;
        Ok(WindowDecoder {
            config,
            base: 0,
            end: 0,
            slots: std::iter::repeat_with(|| Slot::Missing).take(config.depth).collect(),
            rows: Vec::new(),
            known: 0,
            lost: 0,
            available: VecDeque::new(),
            coefficients: Vec::new(),
        })
    }

    /// The parameters.
    pub fn config(&self) -> &WindowConfig {
        &self.config
    }

    /// The oldest number kept.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// The number behind the newest one seen or spanned.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Symbols that were given up: they left the window while they were missing.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// How many more repairs are wanted until everything in the window is available.
    pub fn deficit(&self) -> usize {
        self.width() - self.known - self.rows.len()
    }

    /// The numbers in the window that are missing.
    pub fn missing(&self) -> impl Iterator<Item = u64> + '_ {
        (self.base..self.end).filter(|&number| self.is_missing(number))
    }

    /// Symbol `number`, when it is available and still kept.
    pub fn symbol(&self, number: u64) -> Option<&[u8]> {
        if number < self.base || number >= self.end {
            None
        } else {
            self.slots[self.at(number)].bytes()
        }
    }

    /// The next symbol that became available and was not yet named; each is named once, unless it left the window first.
    pub fn poll_available(&mut self) -> Option<u64> {
        loop {
            let number = self.available.pop_front()?;
            if number >= self.base {
                return Some(number);
            }
        }
    }

    /// Takes source symbol `number`.
    ///
    /// # Errors
    ///
    /// When it is not of the symbol size or too far ahead; nothing has changed then.
    pub fn push_source(&mut self, number: u64, symbol: S) -> Result<WindowProgress, DecodeError> {
        self.check_size(symbol.as_ref())?;
        self.check_ahead(number, 1)?;
        let before = self.known_ever();
        if number < self.base {
            return Ok(self.progress(WindowOutcome::Expired, before));
        }
        self.advance(number + 1);
        if !self.is_missing(number) {
            return Ok(self.progress(WindowOutcome::Redundant, before));
        }
        self.learn(number, symbol);
        Ok(self.progress(WindowOutcome::Accepted, before))
    }

    /// Takes a repair symbol.
    ///
    /// # Errors
    ///
    /// When it is not of the symbol size, its span is impossible or it is too far ahead; nothing has changed then.
    pub fn push_repair(
        &mut self,
        repair: WindowRepair,
        symbol: &[u8],
    ) -> Result<WindowProgress, DecodeError> {
        self.check_size(symbol)?;
        if repair.count == 0 || usize::from(repair.count) > self.config.window {
            return Err(DecodeError::BadSpan);
        }
        self.check_ahead(repair.first, u64::from(repair.count))?;
        let before = self.known_ever();
        if repair.first < self.base {
            return Ok(self.progress(WindowOutcome::Expired, before));
        }
        let end = repair.first + u64::from(repair.count);
        self.advance(end);
        if (repair.first..end).all(|number| !self.is_missing(number)) {
            return Ok(self.progress(WindowOutcome::Redundant, before));
        }
        let row = self.row(repair, symbol);
        let accepted = self.insert(row);
        self.release();
        Ok(self.progress(
            if accepted { WindowOutcome::Accepted } else { WindowOutcome::Redundant },
            before,
        ))
    }

    /// Gives up every symbol before `number`: too late to be of use. Those that are missing leave the equations; the equations keep what
    /// they say about the others. Returns how many were missing.
    pub fn expire(&mut self, number: u64) -> u64 {
        let before = self.lost;
        if number > self.end {
            // Nothing of the window stays, and what lies between was never seen.
            self.drop_until(self.end);
            self.lost += number - self.end;
            (self.base, self.end) = (number, number);
        } else {
            self.drop_until(number);
        }
        self.release();
        self.lost - before
    }

    fn at(&self, number: u64) -> usize {
        (number % self.config.depth as u64) as usize
    }

    fn width(&self) -> usize {
        (self.end - self.base) as usize
    }

    fn is_missing(&self, number: u64) -> bool {
        matches!(self.slots[self.at(number)], Slot::Missing)
    }

    /// A count that grows with each symbol that becomes available, whether or not others leave the window meanwhile.
    fn known_ever(&self) -> u64 {
        self.base + self.known as u64 - self.lost
    }

    fn progress(&self, outcome: WindowOutcome, before: u64) -> WindowProgress {
        WindowProgress {
            outcome,
            rank: self.known + self.rows.len(),
            deficit: self.deficit(),
            available: (self.known_ever() - before) as usize,
        }
    }

    fn check_size(&self, symbol: &[u8]) -> Result<(), DecodeError> {
        let (expected, actual) = (self.config.symbol_size, symbol.len());
        if expected == actual { Ok(()) } else { Err(DecodeError::WrongSize { expected, actual }) }
    }

    fn check_ahead(&self, first: u64, count: u64) -> Result<(), DecodeError> {
        let Some(end) = first.checked_add(count).filter(|&end| end < 1 << 63) else {
            return Err(DecodeError::BadSpan);
        };
        if end.saturating_sub(self.end) > self.config.max_skip {
            Err(DecodeError::TooFarAhead)
        } else {
            Ok(())
        }
    }

    /// Makes room for numbers up to `end`.
    fn advance(&mut self, end: u64) {
        if end > self.end {
            let base = end.saturating_sub(self.config.depth as u64);
            if base > self.base {
                self.expire(base);
            }
            self.end = end;
        }
    }

    fn drop_until(&mut self, number: u64) {
        while self.base < number {
            let at = self.at(self.base);
            if self.is_missing(self.base) {
                self.lost += 1;
                self.forget(self.base);
            } else {
                self.known -= 1;
                self.slots[at] = Slot::Missing;
            }
            self.base += 1;
        }
        if self.available.len() > 2 * self.config.depth {
            let base = self.base;
            self.available.retain(|&number| number >= base);
        }
    }

    /// Takes a missing symbol out of the equations: one that contains it is used up to clear it from the others.
    fn forget(&mut self, number: u64) {
        let at = self.at(number);
        let Some(found) = self.rows.iter().position(|row| row.coefficients[at] != 0) else {
            return;
        };
        let used = self.rows.swap_remove(found);
        let inverse = gf256::inverse(used.coefficients[at]);
        for row in &mut self.rows {
            let factor = row.coefficients[at];
            if factor != 0 {
                row.add(&used, gf256::product(factor, inverse));
            }
        }
    }

    /// The equation that a repair is, over the missing symbols.
    fn row(&mut self, repair: WindowRepair, symbol: &[u8]) -> Row {
        let mut drawn = std::mem::take(&mut self.coefficients);
        repair.coefficients(self.config.nonce, &mut drawn);
        let mut coefficients = vec![0; self.config.depth].into_boxed_slice();
        for (number, &coefficient) in (repair.first..).zip(&drawn) {
            if self.is_missing(number) {
                coefficients[self.at(number)] = coefficient;
            }
        }
        let known = (repair.first..)
            .zip(&drawn)
            .filter_map(|(number, &c)| Some((self.slots[self.at(number)].bytes()?, c)));
        let mut data: Box<[u8]> = symbol.into();
        Kernel::active().sum(&mut data, true, known);
        self.coefficients = drawn;
        Row { pivot: 0, coefficients, data }
    }

    /// Adds an equation; false when the others imply it.
    fn insert(&mut self, mut row: Row) -> bool {
        for other in &self.rows {
            let factor = row.coefficients[self.at(other.pivot)];
            if factor != 0 {
                row.add(other, factor);
            }
        }
        let Some(pivot) = self.first_of(&row) else { return false };
        self.rows.push(row);
        self.make_pivot(self.rows.len() - 1, pivot);
        true
    }

    fn first_of(&self, row: &Row) -> Option<u64> {
        (self.base..self.end).find(|&number| row.coefficients[self.at(number)] != 0)
    }

    /// Scales a row to 1 at `pivot` and clears that symbol in the others.
    fn make_pivot(&mut self, index: usize, pivot: u64) {
        let at = self.at(pivot);
        let mut row = self.rows.swap_remove(index);
        row.pivot = pivot;
        let inverse = gf256::inverse(row.coefficients[at]);
        gf256::scale(&mut row.coefficients, inverse);
        gf256::scale(&mut row.data, inverse);
        for other in &mut self.rows {
            let factor = other.coefficients[at];
            if factor != 0 {
                other.add(&row, factor);
            }
        }
        self.rows.push(row);
    }

    /// A missing symbol arrived: it leaves the equations.
    fn learn(&mut self, number: u64, symbol: S) {
        let at = self.at(number);
        let mut without_pivot = None;
        for (index, row) in self.rows.iter_mut().enumerate() {
            let factor = std::mem::take(&mut row.coefficients[at]);
            if factor != 0 {
                gf256::mul_add(&mut row.data, symbol.as_ref(), factor);
            }
            if row.pivot == number {
                without_pivot = Some(index);
            }
        }
        self.slots[at] = Slot::Received(symbol);
        self.known += 1;
        self.available.push_back(number);
        if let Some(index) = without_pivot {
            // It contains another missing symbol: otherwise this one would have been given away before.
            match self.first_of(&self.rows[index]) {
                Some(pivot) => self.make_pivot(index, pivot),
                None => drop(self.rows.swap_remove(index)),
            }
        }
        self.release();
    }

    /// Gives away the symbols that are alone in their equation.
    fn release(&mut self) {
        let mut index = 0;
        while index < self.rows.len() {
            let row = &self.rows[index];
            if row.coefficients.iter().filter(|c| **c != 0).count() == 1 {
                let row = self.rows.swap_remove(index);
                let at = self.at(row.pivot);
                self.slots[at] = Slot::Recovered(row.data);
                self.known += 1;
                self.available.push_back(row.pivot);
            } else {
                index += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::WindowEncoder;
    use super::*;

    fn config(window: usize) -> WindowConfig {
        WindowConfig::new(window, 20, 3)
    }

    fn symbol(number: u64) -> Vec<u8> {
        (0..20).map(|i| (number * 37 + i * 11) as u8).collect()
    }

    #[test]
    fn a_single_loss_is_repaired_by_the_next_repair() {
        let mut encoder = WindowEncoder::new(config(16)).unwrap();
        let mut decoder = WindowDecoder::new(config(16)).unwrap();
        for number in 0..10 {
            encoder.push(symbol(number)).unwrap();
            if number != 6 {
                decoder.push_source(number, symbol(number)).unwrap();
            }
        }
        assert_eq!((decoder.deficit(), decoder.missing().collect::<Vec<_>>()), (1, vec![6]));
        let mut out = [0; 20];
        let repair = encoder.repair(&mut out).unwrap();
        let progress = decoder.push_repair(repair, &out).unwrap();
        assert_eq!(
            progress,
            WindowProgress { outcome: WindowOutcome::Accepted, rank: 10, deficit: 0, available: 1 }
        );
        assert_eq!(decoder.symbol(6), Some(&symbol(6)[..]));
    }

    #[test]
    fn an_expired_symbol_leaves_the_equations_and_the_rest_decodes() {
        let mut encoder = WindowEncoder::new(config(16)).unwrap();
        let mut decoder = WindowDecoder::new(config(16)).unwrap();
        for number in 0..12 {
            encoder.push(symbol(number)).unwrap();
            if ![2, 7, 9].contains(&number) {
                decoder.push_source(number, symbol(number)).unwrap();
            }
        }
        let mut out = [0; 20];
        for _ in 0..2 {
            let repair = encoder.repair(&mut out).unwrap();
            assert_eq!(decoder.push_repair(repair, &out).unwrap().available, 0);
        }
        // Giving up 2 uses one of the two equations up.
        assert_eq!(decoder.expire(3), 1);
        assert_eq!((decoder.deficit(), decoder.lost()), (1, 1));
        encoder.expire(3);
        let repair = encoder.repair(&mut out).unwrap();
        assert_eq!(decoder.push_repair(repair, &out).unwrap().available, 2);
        assert_eq!(decoder.symbol(7), Some(&symbol(7)[..]));
        assert_eq!(decoder.symbol(9), Some(&symbol(9)[..]));
    }

    #[test]
    fn impossible_repairs_are_refused_and_late_ones_dropped() {
        let mut decoder = WindowDecoder::<Vec<u8>>::new(config(4)).unwrap();
        let repair = |first, count| WindowRepair { id: 0, first, count };
        assert_eq!(decoder.push_repair(repair(0, 0), &[0; 20]), Err(DecodeError::BadSpan));
        assert_eq!(decoder.push_repair(repair(0, 5), &[0; 20]), Err(DecodeError::BadSpan));
        assert_eq!(decoder.push_repair(repair(u64::MAX, 2), &[0; 20]), Err(DecodeError::BadSpan));
        assert_eq!(
            decoder.push_repair(repair(1 << 40, 2), &[0; 20]),
            Err(DecodeError::TooFarAhead)
        );
        assert_eq!(
            decoder.push_repair(repair(0, 2), &[0; 19]),
            Err(DecodeError::WrongSize { expected: 20, actual: 19 })
        );
        decoder.push_source(60, symbol(60)).unwrap();
        assert_eq!((decoder.base(), decoder.end(), decoder.lost()), (53, 61, 53));
        assert_eq!(
            decoder.push_repair(repair(52, 4), &[0; 20]).unwrap().outcome,
            WindowOutcome::Expired
        );
        assert_eq!(decoder.push_source(3, symbol(3)).unwrap().outcome, WindowOutcome::Expired);
    }
}
