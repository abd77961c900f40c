//! The block encoder.

use crate::{
    batch::{BatchId, BlockCode},
    error::EncodeError,
    generator::{Column, Generator},
    gf256::Kernel,
};

/// Encodes one block: hands out its source symbols untouched and makes repair symbols without end.
///
/// `S` is whatever holds a symbol: `&[u8]`, `Vec<u8>`, a reference-counted buffer. The encoder never copies or changes
/// one. It keeps no other state than a scratch column, so any repair symbol may be asked for at any time and in any order;
/// the order of batches and columns is the cheapest.
#[derive(Clone, Debug)]
pub struct BlockEncoder<S> {
    code: BlockCode,
    symbols: Vec<S>,
    generator: Generator,
    columns: [Column; 4],
}

impl<'a> BlockEncoder<&'a [u8]> {
    /// An encoder over one buffer that holds the K source symbols one after another, `stride` bytes from one to the next.
    ///
    /// # Errors
    ///
    /// [`EncodeError::WrongSize`] when the buffer does not hold K symbols at that stride or the stride is below the symbol size.
    pub fn over(
        code: BlockCode,
        buffer: &'a [u8],
        stride: usize,
    ) -> Result<BlockEncoder<&'a [u8]>, EncodeError> {
        let (k, size) = (code.source_symbols(), code.symbol_size());
        let expected = stride.saturating_mul(k - 1).saturating_add(size);
        if stride < size || buffer.len() < expected {
            return Err(EncodeError::WrongSize { expected, actual: buffer.len() });
        }
        BlockEncoder::new(
            code,
            buffer.chunks(stride).take(k).map(|symbol| &symbol[..size]).collect(),
        )
    }
}

impl<S: AsRef<[u8]>> BlockEncoder<S> {
    /// An encoder over K symbols of the symbol size.
    ///
    /// # Errors
    ///
    /// When there are not K symbols or one is not of the symbol size.
    pub fn new(code: BlockCode, symbols: Vec<S>) -> Result<BlockEncoder<S>, EncodeError> {
        if symbols.len() != code.source_symbols() {
            return Err(EncodeError::WrongCount {
                expected: code.source_symbols(),
                actual: symbols.len(),
            });
        }
        for symbol in &symbols {
            check_size(code.symbol_size(), symbol.as_ref().len())?;
        }
        Ok(BlockEncoder {
            code,
            symbols,
            generator: Generator::new(code),
            columns: Default::default(),
        })
    }

    /// The code.
    pub fn code(&self) -> &BlockCode {
        &self.code
    }

    /// Source symbol `index`, by reference; `None` from K on.
    pub fn source(&self, index: u32) -> Option<&S> {
        self.symbols.get(index as usize)
    }

    /// Gives the source symbols back.
    pub fn into_source(self) -> Vec<S> {
        self.symbols
    }

    /// Writes the symbol of a column into `out`, which must be of the symbol size. A column of a source batch is copied, a column of a
    /// repair batch is computed: about K * c / missing multiply-adds of a symbol, see [`Degrees`](crate::Degrees).
    ///
    /// # Errors
    ///
    /// When the batch has no such column or `out` is not of the symbol size.
    pub fn symbol(
        &mut self,
        batch: BatchId,
        column: u16,
        out: &mut [u8],
    ) -> Result<(), EncodeError> {
        check_size(self.code.symbol_size(), out.len())?;
        if usize::from(column) >= self.code.columns_of(batch) {
            return Err(EncodeError::NoSuchColumn);
        }
        if let Some(index) = self.code.source_index(batch, column) {
            out.copy_from_slice(self.symbols[index as usize].as_ref());
            return Ok(());
        }
        self.generator.column(batch, column, &mut self.columns[0]);
        let Column { symbols, coefficients, .. } = &self.columns[0];
        let terms =
            symbols.iter().zip(coefficients).map(|(&s, &c)| (self.symbols[s as usize].as_ref(), c));
        Kernel::active().sum(out, false, terms);
        Ok(())
    }

    /// Makes consecutive repair symbols in one pass, one into each buffer of `out`: repair symbol `first` (counted from the first
    /// repair batch on, see [`BlockCode::repair_position`]) and those after it.
    ///
    /// Where columns share their source symbols ([`Degrees::Even`](crate::Degrees) of 1) each source symbol is loaded once for
    /// four of them.
    ///
    /// # Errors
    ///
    /// When the batch ids run out or a buffer is not of the symbol size; buffers before the failing one may be filled.
    pub fn repair<B: AsMut<[u8]>>(&mut self, first: u64, out: &mut [B]) -> Result<(), EncodeError> {
        let full = self.generator.is_full();
        let mut n = first;
        for group in out.chunks_mut(4) {
            if full && let [a, b, c, d] = &mut *group {
                self.four([a.as_mut(), b.as_mut(), c.as_mut(), d.as_mut()], n)?;
                n += 4;
                continue;
            }
            for buffer in group {
                let (batch, column) =
                    self.code.repair_position(n).ok_or(EncodeError::NoSuchColumn)?;
                self.symbol(batch, column, buffer.as_mut())?;
                n += 1;
            }
        }
        Ok(())
    }

    /// Four columns that sum all source symbols.
    fn four(&mut self, out: [&mut [u8]; 4], n: u64) -> Result<(), EncodeError> {
        for (i, buffer) in out.iter().enumerate() {
            check_size(self.code.symbol_size(), buffer.len())?;
            let (batch, column) =
                self.code.repair_position(n + i as u64).ok_or(EncodeError::NoSuchColumn)?;
            self.generator.column(batch, column, &mut self.columns[i]);
        }
        let [a, b, c, d] = &self.columns;
        let coefficients =
            a.coefficients.iter().zip(&b.coefficients).zip(&c.coefficients).zip(&d.coefficients);
        let terms = self
            .symbols
            .iter()
            .zip(coefficients)
            .map(|(symbol, (((&a, &b), &c), &d))| (symbol.as_ref(), [a, b, c, d]));
        Kernel::active().sum4(out, false, terms);
        Ok(())
    }
}

pub(crate) fn check_size(expected: usize, actual: usize) -> Result<(), EncodeError> {
    if expected == actual { Ok(()) } else { Err(EncodeError::WrongSize { expected, actual }) }
}
