//! What both ends agree on: batches, columns, and the parameters of a block.

use crate::error::ParameterError;

/// Columns in a batch: the most packets that a relay may mix with one another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum BatchSize {
    /// Four columns.
    M4,
    /// Eight columns: thin flows.
    M8,
    /// Sixteen columns: the default.
    #[default]
    M16,
    /// Thirty-two columns: long chains without feedback at each hop.
    M32,
    /// Sixty-four columns.
    M64,
}

impl BatchSize {
    /// The number of columns, M.
    pub const fn columns(self) -> usize {
        match self {
            BatchSize::M4 => 4,
            BatchSize::M8 => 8,
            BatchSize::M16 => 16,
            BatchSize::M32 => 32,
            BatchSize::M64 => 64,
        }
    }
}

impl TryFrom<usize> for BatchSize {
    type Error = ParameterError;

    fn try_from(columns: usize) -> Result<BatchSize, ParameterError> {
        Ok(match columns {
            4 => BatchSize::M4,
            8 => BatchSize::M8,
            16 => BatchSize::M16,
            32 => BatchSize::M32,
            64 => BatchSize::M64,
            _ => return Err(ParameterError::BatchSize(columns)),
        })
    }
}

/// The number of a batch within its block. Source batches come first, then repair batches without end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchId(pub u32);

/// Which combination of its batch a symbol is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Combination<'a> {
    /// Column `j` of the batch, unmixed, as the source made it.
    Column(u16),
    /// Mixed by a relay: one coefficient for each of the M columns.
    Coefficients(&'a [u8]),
}

/// How many source symbols each repair column sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Degrees {
    /// Every column sums this many source symbols, between 1 and K; K means all of them. For receivers that hold most of the
    /// source symbols: see [`Degrees::for_missing`].
    Even(u16),
    /// Many sparse columns and few dense ones, for receivers that may hold nothing (BRCTP): any K repair symbols and a few
    /// more decode with work that stays far below K squared. Columns still cover the source in turn.
    Fountain,
}

impl Degrees {
    /// The sparsest even columns that still decode without noticeable overhead when about `missing` of the `k` source symbols
    /// have to be repaired.
    ///
    /// A column that meets none of the missing symbols is useless; with c of them expected in each column that happens with
    /// probability e^-c, for `missing` columns in all, so c grows with the logarithm of `missing`. See `docs/code.md`.
    pub fn for_missing(k: u32, missing: f64) -> Degrees {
        let k = k.clamp(1, MAX_SOURCE_SYMBOLS);
        let missing = missing.clamp(1.0, f64::from(k));
        let met = missing.ln() + Degrees::MARGIN;
        let degree = (f64::from(k) * met / missing).ceil();
        // Columns of all symbols share them, which is worth more than leaving out less than half.
        let degree = if degree * 2.0 > f64::from(k) { f64::from(k) } else { degree };
        Degrees::Even(degree as u16)
    }

    /// What `for_missing` adds to the logarithm.
    const MARGIN: f64 = 3.9;
}

/// The parameters of a block, which both ends must share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockParameters {
    /// Source symbols, K: 1 to 65,535.
    pub source_symbols: u32,
    /// Bytes in a symbol: 1 to 65,535.
    pub symbol_size: usize,
    /// Columns in a batch.
    pub batch_size: BatchSize,
    /// How dense repair columns are.
    pub degrees: Degrees,
    /// Names the random choices. Blocks may share one; an adversary should not know it.
    pub nonce: u64,
}

/// A checked set of parameters with what follows from them. Cheap to copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockCode {
    parameters: BlockParameters,
}

/// Most source symbols in a block.
pub const MAX_SOURCE_SYMBOLS: u32 = 65_535;

/// Most bytes in a symbol.
pub const MAX_SYMBOL_SIZE: usize = 65_535;

impl BlockCode {
    /// Checks the parameters.
    ///
    /// # Errors
    ///
    /// The first parameter that is out of its range.
    pub fn new(parameters: BlockParameters) -> Result<BlockCode, ParameterError> {
        let BlockParameters { source_symbols, symbol_size, degrees, .. } = parameters;
        if source_symbols == 0 || source_symbols > MAX_SOURCE_SYMBOLS {
            return Err(ParameterError::SourceSymbols(source_symbols));
        }
        check_symbol_size(symbol_size)?;
        if let Degrees::Even(degree) = degrees
            && (degree == 0 || u32::from(degree) > source_symbols)
        {
            return Err(ParameterError::Degrees(degree));
        }
        Ok(BlockCode { parameters })
    }

    /// The parameters.
    pub fn parameters(&self) -> &BlockParameters {
        &self.parameters
    }

    /// Source symbols, K.
    pub fn source_symbols(&self) -> usize {
        self.parameters.source_symbols as usize
    }

    /// Bytes in a symbol.
    pub fn symbol_size(&self) -> usize {
        self.parameters.symbol_size
    }

    /// Columns in a batch, M.
    pub fn batch_columns(&self) -> usize {
        self.parameters.batch_size.columns()
    }

    /// Batches that carry source symbols; also the id of the first repair batch.
    pub fn source_batches(&self) -> u32 {
        self.parameters.source_symbols.div_ceil(self.batch_columns() as u32)
    }

    /// Whether the columns of this batch are source symbols.
    pub fn is_source(&self, batch: BatchId) -> bool {
        batch.0 < self.source_batches()
    }

    /// Columns that this batch really has: M, except that the last source batch may have fewer.
    pub fn columns_of(&self, batch: BatchId) -> usize {
        let m = self.batch_columns();
        if !self.is_source(batch) {
            return m;
        }
        m.min(self.source_symbols() - batch.0 as usize * m)
    }

    /// The batch and column of source symbol `index`, which must be below K.
    pub fn position_of(&self, index: u32) -> (BatchId, u16) {
        let m = self.batch_columns() as u32;
        (BatchId(index / m), (index % m) as u16)
    }

    /// The source symbol that a column of a source batch is, if it is one.
    pub fn source_index(&self, batch: BatchId, column: u16) -> Option<u32> {
        if !self.is_source(batch) || usize::from(column) >= self.columns_of(batch) {
            return None;
        }
        Some(batch.0 * self.batch_columns() as u32 + u32::from(column))
    }

    /// The batch and column of repair symbol `n`, counted from the first repair batch on; `None` past the last batch id.
    pub fn repair_position(&self, n: u64) -> Option<(BatchId, u16)> {
        let m = self.batch_columns() as u64;
        let batch = u64::from(self.source_batches()).checked_add(n / m)?;
        Some((BatchId(u32::try_from(batch).ok()?), (n % m) as u16))
    }
}

pub(crate) fn check_symbol_size(size: usize) -> Result<(), ParameterError> {
    if size == 0 || size > MAX_SYMBOL_SIZE {
        return Err(ParameterError::SymbolSize(size));
    }
    Ok(())
}
