//! The sender's window.

use std::collections::VecDeque;

use super::{WindowConfig, WindowRepair};
use crate::{
    encoder::check_size,
    error::{EncodeError, ParameterError},
    gf256::Kernel,
};

/// Keeps the latest source symbols and makes repairs of them.
#[derive(Clone, Debug)]
pub struct WindowEncoder<S> {
    config: WindowConfig,
    /// The number of the oldest symbol held.
    first: u64,
    symbols: VecDeque<S>,
    repairs: u64,
    coefficients: Vec<u8>,
}

impl<S: AsRef<[u8]>> WindowEncoder<S> {
    /// An empty window; the first symbol will have number 0.
    ///
    /// # Errors
    ///
    /// The first parameter that is out of its range.
    pub fn new(config: WindowConfig) -> Result<WindowEncoder<S>, ParameterError> {
        config.check()?;
        Ok(WindowEncoder {
            config,
            first: 0,
            symbols: VecDeque::new(),
            repairs: 0,
            coefficients: Vec::new(),
        })
    }

    /// The parameters.
    pub fn config(&self) -> &WindowConfig {
        &self.config
    }

    /// Symbols held.
    pub fn len(&self) -> usize {
        self.symbols.len()
    }

    /// Whether no symbol is held.
    pub fn is_empty(&self) -> bool {
        self.symbols.is_empty()
    }

    /// The number that the next symbol will have.
    pub fn next(&self) -> u64 {
        self.first + self.symbols.len() as u64
    }

    /// Takes the next source symbol into the window and returns its number. The oldest symbol leaves when the window is full.
    ///
    /// # Errors
    ///
    /// When it is not of the symbol size.
    pub fn push(&mut self, symbol: S) -> Result<u64, EncodeError> {
        check_size(self.config.symbol_size, symbol.as_ref().len())?;
        if self.symbols.len() == self.config.window {
            self.symbols.pop_front();
            self.first += 1;
        }
        self.symbols.push_back(symbol);
        Ok(self.next() - 1)
    }

    /// Forgets the symbols before `number`: they arrived, or are too late. Repairs no longer span them, which makes
    /// repairs cheaper and the symbols in them better protected.
    pub fn expire(&mut self, number: u64) {
        while self.first < number && self.symbols.pop_front().is_some() {
            self.first += 1;
        }
    }

    /// Makes a repair of everything in the window. It costs one multiply-add of a symbol for each symbol held.
    ///
    /// # Errors
    ///
    /// When the window is empty or `out` is not of the symbol size.
    pub fn repair(&mut self, out: &mut [u8]) -> Result<WindowRepair, EncodeError> {
        check_size(self.config.symbol_size, out.len())?;
        if self.symbols.is_empty() {
            return Err(EncodeError::Empty);
        }
        let repair =
            WindowRepair { id: self.repairs, first: self.first, count: self.symbols.len() as u16 };
        self.repairs += 1;
        repair.coefficients(self.config.nonce, &mut self.coefficients);
        let terms = self.symbols.iter().map(AsRef::as_ref).zip(self.coefficients.iter().copied());
        Kernel::active().sum(out, false, terms);
        Ok(repair)
    }
}

/// Spreads repairs evenly between source symbols.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RepairPace {
    rate: f64,
    owed: f64,
}

impl RepairPace {
    /// `rate` repairs for each source symbol, for example 0.1; taken as 0 to 16.
    pub fn new(rate: f64) -> RepairPace {
        let mut pace = RepairPace { rate: 0.0, owed: 0.0 };
        pace.set_rate(rate);
        pace
    }

    /// Changes the rate from the next symbol on.
    pub fn set_rate(&mut self, rate: f64) {
        self.rate = if rate.is_nan() { 0.0 } else { rate.clamp(0.0, 16.0) };
    }

    /// A source symbol was sent: how many repairs to send behind it.
    pub fn on_source(&mut self) -> usize {
        self.owed += self.rate;
        let due = self.owed.floor();
        self.owed -= due;
        due as usize
    }
}
