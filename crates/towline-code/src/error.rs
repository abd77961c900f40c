//! One error for each action.

use std::fmt;

/// Parameters that no code has. The caller's fault; trying again does not help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParameterError {
    /// K is 0 or above 65,535.
    SourceSymbols(u32),
    /// The symbol size is 0 or above 65,535 bytes.
    SymbolSize(usize),
    /// The batch size is none of 4, 8, 16, 32 and 64.
    BatchSize(usize),
    /// `Degrees::Even` of 0, or above K.
    Degrees(u16),
    /// The window is 0 or above 256 symbols.
    Window(usize),
    /// A limit that must be at least one is zero; its name.
    Limit(&'static str),
}

impl fmt::Display for ParameterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ParameterError::SourceSymbols(k) => write!(f, "{k} source symbols, not 1 to 65535"),
            ParameterError::SymbolSize(n) => write!(f, "symbols of {n} bytes, not 1 to 65535"),
            ParameterError::BatchSize(m) => {
                write!(f, "batches of {m} columns, not 4, 8, 16, 32 or 64")
            }
            ParameterError::Degrees(n) => {
                write!(f, "{n} source symbols in a column, not 1 to their number")
            }
            ParameterError::Window(n) => write!(f, "a window of {n} symbols, not 1 to 256"),
            ParameterError::Limit(name) => write!(f, "the limit {name} is zero"),
        }
    }
}

impl std::error::Error for ParameterError {}

/// A symbol could not be made. The caller's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EncodeError {
    /// Not K symbols.
    WrongCount {
        /// How many there should be.
        expected: usize,
        /// How many there are.
        actual: usize,
    },
    /// A symbol, or the buffer for one, is not of the symbol size.
    WrongSize {
        /// Bytes there should be.
        expected: usize,
        /// Bytes there are.
        actual: usize,
    },
    /// The batch has no such column.
    NoSuchColumn,
    /// There is nothing to combine: the window is empty.
    Empty,
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EncodeError::WrongCount { expected, actual } => {
                write!(f, "{actual} symbols instead of {expected}")
            }
            EncodeError::WrongSize { expected, actual } => {
                write!(f, "{actual} bytes instead of {expected}")
            }
            EncodeError::NoSuchColumn => write!(f, "the batch has no such column"),
            EncodeError::Empty => write!(f, "the window is empty"),
        }
    }
}

impl std::error::Error for EncodeError {}

/// A symbol was refused and changed nothing. The sender's fault, or that of whoever altered the symbol on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DecodeError {
    /// The symbol is not of the symbol size.
    WrongSize {
        /// Bytes there should be.
        expected: usize,
        /// Bytes there are.
        actual: usize,
    },
    /// Not one coefficient for each of the M columns.
    WrongCoefficients {
        /// Coefficients there should be.
        expected: usize,
        /// Coefficients there are.
        actual: usize,
    },
    /// The batch has no such column, or a coefficient is given for a column that it does not have.
    NoSuchColumn,
    /// Every coefficient is zero.
    Zero,
    /// The block's equations do not fit into the named limit of [`DecoderLimits`](crate::DecoderLimits); this decoder is given up.
    TooDense(&'static str),
    /// More equations turned out dependent than an honest encoder produces; this decoder is given up.
    TooManyDependent,
    /// A window repair spans no symbols, more than the window, or numbers beyond 2^63.
    BadSpan,
    /// The symbol's number is further ahead of the newest one than
    /// [`WindowConfig::max_skip`](crate::WindowConfig) allows.
    TooFarAhead,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DecodeError::WrongSize { expected, actual } => {
                write!(f, "{actual} bytes instead of {expected}")
            }
            DecodeError::WrongCoefficients { expected, actual } => {
                write!(f, "{actual} coefficients instead of {expected}")
            }
            DecodeError::NoSuchColumn => write!(f, "the batch has no such column"),
            DecodeError::Zero => write!(f, "all coefficients are zero"),
            DecodeError::TooDense(limit) => write!(f, "the block needs more than {limit} allows"),
            DecodeError::TooManyDependent => write!(f, "too many dependent symbols"),
            DecodeError::BadSpan => write!(f, "the repair spans an impossible range"),
            DecodeError::TooFarAhead => write!(f, "the symbol is too far ahead of the window"),
        }
    }
}

impl std::error::Error for DecodeError {}

/// A symbol was refused by a relay and changed nothing, or nothing could be combined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RecodeError {
    /// The symbol, or the buffer for one, is not of the symbol size.
    WrongSize {
        /// Bytes there should be.
        expected: usize,
        /// Bytes there are.
        actual: usize,
    },
    /// Not one coefficient for each of the M columns.
    WrongCoefficients {
        /// Coefficients there should be.
        expected: usize,
        /// Coefficients there are.
        actual: usize,
    },
    /// The column is not below M.
    NoSuchColumn,
    /// Every coefficient is zero.
    Zero,
    /// Nothing of this batch is held: it never came, was closed, or was evicted.
    UnknownBatch,
}

impl fmt::Display for RecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecodeError::WrongSize { expected, actual } => {
                write!(f, "{actual} bytes instead of {expected}")
            }
            RecodeError::WrongCoefficients { expected, actual } => {
                write!(f, "{actual} coefficients instead of {expected}")
            }
            RecodeError::NoSuchColumn => write!(f, "the batch has no such column"),
            RecodeError::Zero => write!(f, "all coefficients are zero"),
            RecodeError::UnknownBatch => write!(f, "nothing of this batch is held"),
        }
    }
}

impl std::error::Error for RecodeError {}
