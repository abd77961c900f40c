//! The block decoder.
//!
//! Split by its algebra: `Basis` (one directory up) tells at once whether a packet is new within its batch; `equations` collects
//! what the block's packets say about the missing source symbols; `order` finds a triangular order for most of them and
//! names the few columns that stand in the way; `dense` solves those; `pass` is the only part that touches symbols.

mod dense;
mod equations;
mod order;
mod pass;

use std::collections::{BTreeMap, VecDeque};

use crate::{
    basis::Basis,
    batch::{BatchId, BlockCode, Combination},
    error::DecodeError,
    generator::Generator,
    gf256::{Kernel, Rows},
};
use equations::{Equations, Payloads};

/// What a decoder may use. The parameters of a block come from a peer, so each bound has a default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecoderLimits {
    /// Most equations beyond K that are kept because earlier ones turned out dependent. Reaching it ends the decoder with
    /// [`DecodeError::TooManyDependent`]. An honest encoder needs a handful; 1,024 by default. It also bounds the number of
    /// attempts to solve: after the third failed one the wait doubles each time.
    pub max_dependent: usize,
    /// Most coefficients in the equations of one block. Each takes about 15 bytes while the block is solved; 2^26 by default, which
    /// suffices for K = 65,535 at the degrees that [`Degrees::for_missing`](crate::Degrees::for_missing) chooses.
    pub max_entries: usize,
    /// Most columns left for dense elimination. They take this number squared of memory and its cube over three of time: 8,192 by default,
    /// 64 MiB and some seconds.
    pub max_inactive: usize,
}

impl Default for DecoderLimits {
    fn default() -> DecoderLimits {
        DecoderLimits { max_dependent: 1024, max_entries: 1 << 26, max_inactive: 8192 }
    }
}

/// Whether a symbol helped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was new and is kept.
    Accepted,
    /// It told nothing new and is dropped.
    Redundant,
}

/// Where the decoder is after a symbol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Whether this symbol helped.
    pub outcome: Outcome,
    /// Dimensions known. Within a batch this is exact; equations of different repair batches count as
    /// independent until an attempt to solve the block shows otherwise.
    pub rank: usize,
    /// How many more innovative symbols are wanted; 0 when the block is decoded.
    pub deficit: usize,
    /// Source symbols that became available by this symbol; [`BlockDecoder::poll_available`] names them.
    pub available: usize,
}

/// Where a source symbol is.
#[derive(Debug)]
enum Slot<S> {
    Missing,
    /// As it was received.
    Received(S),
    /// Recovered within its batch.
    Resolved(Box<[u8]>),
    /// Recovered by solving the block: a row of `solved`.
    Solved(u32),
}

/// The mixed packets of a source batch.
#[derive(Debug)]
struct MixedBatch<S> {
    basis: Basis,
    packets: Vec<S>,
}

/// What is held of a repair batch.
#[derive(Debug)]
struct RepairBatch<S> {
    basis: Basis,
    columns: Vec<(u16, S)>,
    mixed: Vec<S>,
}

/// Decodes one block.
///
/// `S` holds a received symbol: a slice, a vector, a reference-counted buffer. A source symbol that arrives unmixed is available at
/// once and is never copied. Missing ones become available when their own batch determines them, or all together
/// when the deficit reaches zero.
#[derive(Debug)]
pub struct BlockDecoder<S> {
    code: BlockCode,
    limits: DecoderLimits,
    symbols: Vec<Slot<S>>,
    known: usize,
    source: Vec<Option<Box<MixedBatch<S>>>>,
    repair: BTreeMap<u32, RepairBatch<S>>,
    /// Symbols accepted: the rank, were all of them independent.
    accepted: usize,
    /// How many of them the last attempt found dependent.
    dependent: usize,
    /// The next attempt to solve is made when `accepted` reaches this.
    next_attempt: usize,
    attempts: u32,
    failed: Option<DecodeError>,
    solved: Rows,
    available: VecDeque<u32>,
    inactive: usize,
}

impl<S: AsRef<[u8]>> BlockDecoder<S> {
    /// A decoder that holds nothing yet.
    pub fn new(code: BlockCode, limits: DecoderLimits) -> BlockDecoder<S> {
        let k = code.source_symbols();
        BlockDecoder {
            code,
            limits,
            symbols: std::iter::repeat_with(|| Slot::Missing).take(k).collect(),
            known: 0,
            source: Vec::new(),
            repair: BTreeMap::new(),
            accepted: 0,
            dependent: 0,
            next_attempt: k,
            attempts: 0,
            failed: None,
            solved: Rows::new(0, 0),
            available: VecDeque::new(),
            inactive: 0,
        }
    }

    /// The code.
    pub fn code(&self) -> &BlockCode {
        &self.code
    }

    /// Whether every source symbol is available.
    pub fn is_complete(&self) -> bool {
        self.known == self.symbols.len()
    }

    /// Dimensions known; see [`Progress::rank`].
    pub fn rank(&self) -> usize {
        if self.is_complete() {
            self.known
        } else {
            (self.accepted - self.dependent).min(self.symbols.len())
        }
    }

    /// How many more innovative symbols are wanted.
    pub fn deficit(&self) -> usize {
        if self.is_complete() { 0 } else { self.next_attempt.saturating_sub(self.accepted) }
    }

    /// Symbols accepted so far. When the block is decoded, what this is above K is the overhead of the code.
    pub fn accepted(&self) -> usize {
        self.accepted
    }

    /// Columns that the last attempt to solve had to leave to dense elimination: what its cost depends on.
    pub fn inactive(&self) -> usize {
        self.inactive
    }

    /// Source symbol `index`, when it is available.
    pub fn symbol(&self, index: u32) -> Option<&[u8]> {
        match self.symbols.get(index as usize)? {
            Slot::Missing => None,
            Slot::Received(symbol) => Some(symbol.as_ref()),
            Slot::Resolved(symbol) => Some(symbol),
            Slot::Solved(row) => Some(self.solved.row(*row as usize)),
        }
    }

    /// The next source symbol that became available and was not yet named. Each is named once, in no particular order.
    pub fn poll_available(&mut self) -> Option<u32> {
        self.available.pop_front()
    }

    /// Takes a symbol of a batch, in any order and any number of times.
    ///
    /// # Errors
    ///
    /// When the symbol fits no batch of this code; nothing has changed then. [`DecodeError::TooDense`] and
    /// [`DecodeError::TooManyDependent`] are final: the block cannot be decoded within the limits, and every further call
    /// that is not a lost source symbol returns the same.
    pub fn push(
        &mut self,
        batch: BatchId,
        combination: Combination<'_>,
        symbol: S,
    ) -> Result<Progress, DecodeError> {
        self.check(batch, combination, symbol.as_ref().len())?;
        let before = self.known;
        let accepted = if self.is_complete() {
            false
        } else if self.code.is_source(batch) {
            match combination {
                Combination::Column(column) => self.push_source(batch, column, symbol),
                Combination::Coefficients(vector) => self.push_mixed(batch, vector, symbol),
            }
        } else {
            self.push_repair(batch, combination, symbol)?
        };
        if accepted {
            self.accepted += 1;
            if !self.is_complete() && self.accepted >= self.next_attempt {
                self.attempt()?;
            }
        }
        let outcome = if accepted { Outcome::Accepted } else { Outcome::Redundant };
        Ok(Progress {
            outcome,
            rank: self.rank(),
            deficit: self.deficit(),
            available: self.known - before,
        })
    }

    fn check(
        &self,
        batch: BatchId,
        combination: Combination<'_>,
        actual: usize,
    ) -> Result<(), DecodeError> {
        let expected = self.code.symbol_size();
        if actual != expected {
            return Err(DecodeError::WrongSize { expected, actual });
        }
        let columns = self.code.columns_of(batch);
        match combination {
            Combination::Column(column) if usize::from(column) >= columns => {
                Err(DecodeError::NoSuchColumn)
            }
            Combination::Column(_) => Ok(()),
            Combination::Coefficients(vector) => {
                let expected = self.code.batch_columns();
                let (Some(used), Some(unused)) =
                    (vector.get(..columns), vector.get(columns..expected))
                else {
                    return Err(DecodeError::WrongCoefficients { expected, actual: vector.len() });
                };
                if vector.len() != expected {
                    Err(DecodeError::WrongCoefficients { expected, actual: vector.len() })
                } else if unused.iter().any(|&c| c != 0) {
                    Err(DecodeError::NoSuchColumn)
                } else if used.iter().all(|&c| c == 0) {
                    Err(DecodeError::Zero)
                } else {
                    Ok(())
                }
            }
        }
    }

    fn push_source(&mut self, batch: BatchId, column: u16, symbol: S) -> bool {
        let index = batch.0 as usize * self.code.batch_columns() + usize::from(column);
        if !matches!(self.symbols[index], Slot::Missing) {
            return false;
        }
        self.learn(index, Slot::Received(symbol));
        if let Some(Some(mixed)) = self.source.get_mut(batch.0 as usize) {
            let new = mixed.basis.insert_column(usize::from(column));
            debug_assert!(new, "a determined column is resolved at once");
            self.resolve(batch);
        }
        true
    }

    fn push_mixed(&mut self, batch: BatchId, vector: &[u8], symbol: S) -> bool {
        let m = self.code.batch_columns();
        let first = batch.0 as usize * m;
        if self.source.is_empty() {
            self.source.resize_with(self.code.source_batches() as usize, || None);
        }
        let symbols = &self.symbols;
        let mixed = self.source[batch.0 as usize].get_or_insert_with(|| {
            let mut basis = Basis::new(m, true);
            for (column, slot) in symbols[first..].iter().take(m).enumerate() {
                if !matches!(slot, Slot::Missing) {
                    basis.insert_column(column);
                }
            }
            Box::new(MixedBatch { basis, packets: Vec::new() })
        });
        if !mixed.basis.insert_mixed(vector) {
            return false;
        }
        mixed.packets.push(symbol);
        self.resolve(batch);
        true
    }

    /// Recovers the source symbols that the mixed packets of their own batch determine.
    fn resolve(&mut self, batch: BatchId) {
        let first = batch.0 as usize * self.code.batch_columns();
        while let Some(Some(mixed)) = self.source.get(batch.0 as usize)
            && let Some((row, pivot)) = mixed.basis.determined()
        {
            let packets = mixed
                .packets
                .iter()
                .map(AsRef::as_ref)
                .zip(mixed.basis.transform(row).iter().copied());
            let known = (0u32..)
                .zip(mixed.basis.coefficients(row))
                .filter(|&(j, &c)| c != 0 && j as usize != pivot);
            let known = known.filter_map(|(j, &c)| Some((self.symbol(first as u32 + j)?, c)));
            let mut out = vec![0; self.code.symbol_size()].into_boxed_slice();
            Kernel::active().sum(&mut out, false, packets.chain(known));
            self.learn(first + pivot, Slot::Resolved(out));
            if let Some(Some(mixed)) = self.source.get_mut(batch.0 as usize) {
                mixed.basis.resolve(row);
            }
        }
    }

    fn learn(&mut self, index: usize, slot: Slot<S>) {
        self.symbols[index] = slot;
        self.known += 1;
        self.available.push_back(index as u32);
    }

    fn push_repair(
        &mut self,
        batch: BatchId,
        combination: Combination<'_>,
        symbol: S,
    ) -> Result<bool, DecodeError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let m = self.code.batch_columns();
        let held = self.repair.entry(batch.0).or_insert_with(|| RepairBatch {
            basis: Basis::new(m, true),
            columns: Vec::new(),
            mixed: Vec::new(),
        });
        Ok(match combination {
            Combination::Column(column) => {
                let new = held.basis.insert_column(usize::from(column));
                if new {
                    held.columns.push((column, symbol));
                }
                new
            }
            Combination::Coefficients(vector) => {
                let new = held.basis.insert_mixed(vector);
                if new {
                    held.mixed.push(symbol);
                }
                new
            }
        })
    }

    /// Tries to solve the block.
    fn attempt(&mut self) -> Result<(), DecodeError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        self.attempts += 1;
        match self.solve() {
            Ok(0) => {
                self.dependent = self.accepted - self.symbols.len();
                self.repair = BTreeMap::new();
                self.source = Vec::new();
                Ok(())
            }
            Ok(lacking) => {
                let k = self.symbols.len();
                self.dependent = self.accepted + lacking - k;
                // Equations are only ever added, so at least `lacking` more are needed. An honest encoder gets there with the first
                // retry or two; for others the number of attempts must not grow with the number of packets.
                let wait =
                    if self.attempts > 3 { 1usize << (self.attempts - 3).min(32) } else { 0 };
                self.next_attempt = self.accepted + lacking.max(wait);
                if self.dependent > self.limits.max_dependent {
                    return Err(self.give_up(DecodeError::TooManyDependent));
                }
                Ok(())
            }
            Err(error) => Err(self.give_up(error)),
        }
    }

    fn give_up(&mut self, error: DecodeError) -> DecodeError {
        self.failed = Some(error);
        self.repair = BTreeMap::new();
        self.next_attempt = usize::MAX;
        error
    }

    /// Solves for the missing source symbols. The number of dimensions that lack, 0 when it succeeded.
    fn solve(&mut self) -> Result<usize, DecodeError> {
        let equations = self.equations()?;
        let missing = equations.missing.len();
        let order = order::Order::new(&equations.unknown, missing);
        self.inactive = order.inactive.len();
        if order.inactive.len() > self.limits.max_inactive {
            return Err(DecodeError::TooDense("max_inactive"));
        }
        if order.residual.len() < order.inactive.len() {
            return Ok(order.inactive.len() - order.residual.len());
        }
        let dense = dense::Dense::new(&equations.unknown, &order);
        if dense.lacking > 0 {
            return Ok(dense.lacking);
        }
        let solved =
            pass::solve(&equations, &order, &dense, &self.payloads(), self.code.symbol_size());
        let missing = equations.missing;
        for (row, index) in missing.into_iter().enumerate() {
            self.learn(index as usize, Slot::Solved(row as u32));
        }
        self.solved = solved;
        Ok(0)
    }

    /// Everything that an equation may refer to: the source symbols (those that are missing stay empty), then the held
    /// packets in the order in which [`Self::equations`] counts them.
    fn payloads(&self) -> Vec<&[u8]> {
        let mut all: Vec<&[u8]> =
            Vec::with_capacity(self.symbols.len() + self.accepted - self.known);
        all.extend((0..self.symbols.len() as u32).map(|index| self.symbol(index).unwrap_or(&[])));
        for mixed in self.source.iter().flatten() {
            all.extend(mixed.packets.iter().map(AsRef::as_ref));
        }
        for batch in self.repair.values() {
            all.extend(batch.columns.iter().map(|(_, symbol)| symbol.as_ref()));
            all.extend(batch.mixed.iter().map(AsRef::as_ref));
        }
        all
    }

    /// What the held packets say about the missing source symbols.
    fn equations(&self) -> Result<Equations, DecodeError> {
        let mut generator = Generator::new(self.code);
        let known: Vec<bool> =
            self.symbols.iter().map(|slot| !matches!(slot, Slot::Missing)).collect();
        let mut equations = Equations::new(&known, self.limits.max_entries, generator.is_full());
        let mut payloads = Payloads { next: self.symbols.len() as u32 };
        for (batch, mixed) in (0u32..).zip(&self.source) {
            if let Some(mixed) = mixed {
                let packets = payloads.take(mixed.packets.len());
                equations.source_batch(
                    batch * self.code.batch_columns() as u32,
                    &mixed.basis,
                    packets,
                )?;
            }
        }
        for (&batch, held) in &self.repair {
            let columns: Vec<(u16, u32)> = held
                .columns
                .iter()
                .map(|&(column, _)| column)
                .zip(payloads.take(held.columns.len()))
                .collect();
            let mixed = payloads.take(held.mixed.len());
            equations.repair_batch(&mut generator, BatchId(batch), &held.basis, &columns, mixed)?;
        }
        Ok(equations)
    }
}
