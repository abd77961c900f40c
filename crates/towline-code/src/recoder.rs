//! The recoder of a relay.

use std::{collections::HashMap, hash::Hash};

use crate::{
    basis::Basis,
    batch::{BatchId, BatchSize, Combination, check_symbol_size},
    error::{ParameterError, RecodeError},
    gf256::Kernel,
    prng::{Domain, Stream},
};

/// The parameters of a [`Recoder`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecoderConfig {
    /// Columns in a batch.
    pub batch_size: BatchSize,
    /// Bytes in a symbol: 1 to 65,535.
    pub symbol_size: usize,
    /// Most batches held at once. One more evicts the batch that was least recently pushed to or combined from.
    /// Together they hold at most `max_batches * M` symbols and as many vectors of M bytes.
    pub max_batches: usize,
    /// Seeds the random combinations; relays should not share one.
    pub seed: u64,
}

/// What to do with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is innovative: send it on at once.
    Forward,
    /// It tells nothing that the batch did not have.
    Drop,
}

/// The answer to [`Recoder::push`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pushed<K> {
    /// Forward or drop.
    pub verdict: Verdict,
    /// The batch's rank now: how many independent packets of it are held.
    pub rank: usize,
    /// The batch that had to go to make room.
    pub evicted: Option<K>,
}

/// No neighbour in the list.
const NONE: usize = usize::MAX;

#[derive(Debug)]
struct Held<K, S> {
    key: K,
    basis: Basis,
    packets: Vec<S>,
    /// M bytes for each packet.
    vectors: Vec<u8>,
    newer: usize,
    older: usize,
}

/// Holds the innovative packets of recent batches and combines them at random.
///
/// `S` holds a symbol (a reference-counted buffer keeps this free of copies) and `K` names a batch: at a relay of many flows, the
/// flow, block and batch.
///
/// A batch that was closed or evicted is forgotten: a later packet of it begins it anew.
#[derive(Debug)]
pub struct Recoder<S, K = BatchId> {
    config: RecoderConfig,
    batches: HashMap<K, usize>,
    slots: Vec<Held<K, S>>,
    free: Vec<usize>,
    newest: usize,
    oldest: usize,
    combined: u64,
    scratch: Vec<u8>,
}

impl<S: AsRef<[u8]>, K: Copy + Eq + Hash> Recoder<S, K> {
    /// An empty recoder.
    ///
    /// # Errors
    ///
    /// When the symbol size is out of range or no batch may be held.
    pub fn new(config: RecoderConfig) -> Result<Recoder<S, K>, ParameterError> {
        check_symbol_size(config.symbol_size)?;
        if config.max_batches == 0 {
            return Err(ParameterError::Limit("max_batches"));
        }
        Ok(Recoder {
            config,
            batches: HashMap::new(),
            slots: Vec::new(),
            free: Vec::new(),
            newest: NONE,
            oldest: NONE,
            combined: 0,
            scratch: Vec::new(),
        })
    }

    /// The parameters.
    pub fn config(&self) -> &RecoderConfig {
        &self.config
    }

    /// Batches held.
    pub fn batches(&self) -> usize {
        self.batches.len()
    }

    /// The rank of a batch; 0 when nothing of it is held.
    pub fn rank(&self, batch: K) -> usize {
        self.batches.get(&batch).map_or(0, |&slot| self.slots[slot].packets.len())
    }

    /// Takes a packet. An innovative one is kept and should be forwarded as it is; any other is dropped.
    ///
    /// # Errors
    ///
    /// When the packet fits no batch of this configuration. Nothing has changed then.
    pub fn push(
        &mut self,
        batch: K,
        combination: Combination<'_>,
        symbol: S,
    ) -> Result<Pushed<K>, RecodeError> {
        let m = self.config.batch_size.columns();
        let (expected, actual) = (self.config.symbol_size, symbol.as_ref().len());
        if expected != actual {
            return Err(RecodeError::WrongSize { expected, actual });
        }
        match combination {
            Combination::Column(column) if usize::from(column) >= m => {
                return Err(RecodeError::NoSuchColumn);
            }
            Combination::Column(_) => {}
            Combination::Coefficients(vector) if vector.len() != m => {
                return Err(RecodeError::WrongCoefficients { expected: m, actual: vector.len() });
            }
            Combination::Coefficients(vector) if vector.iter().all(|&c| c == 0) => {
                return Err(RecodeError::Zero);
            }
            Combination::Coefficients(_) => {}
        }
        let (slot, evicted) = self.hold(batch);
        let held = &mut self.slots[slot];
        let innovative = match combination {
            Combination::Column(column) => held.basis.insert_column(usize::from(column)),
            Combination::Coefficients(vector) => held.basis.insert_mixed(vector),
        };
        if innovative {
            match combination {
                Combination::Column(column) => {
                    let at = held.vectors.len() + usize::from(column);
                    held.vectors.resize(held.vectors.len() + m, 0);
                    held.vectors[at] = 1;
                }
                Combination::Coefficients(vector) => held.vectors.extend_from_slice(vector),
            }
            held.packets.push(symbol);
        }
        let verdict = if innovative { Verdict::Forward } else { Verdict::Drop };
        Ok(Pushed { verdict, rank: held.packets.len(), evicted })
    }

    /// Makes a fresh random combination of everything held of a batch: the symbol into `out` and its M coefficients into `coefficients`.
    /// Each call gives another one. It costs one multiply-add of a symbol for each rank.
    ///
    /// # Errors
    ///
    /// When nothing of the batch is held or a buffer has the wrong length.
    pub fn combine(
        &mut self,
        batch: K,
        out: &mut [u8],
        coefficients: &mut [u8],
    ) -> Result<(), RecodeError> {
        let m = self.config.batch_size.columns();
        let (expected, actual) = (self.config.symbol_size, out.len());
        if expected != actual {
            return Err(RecodeError::WrongSize { expected, actual });
        }
        if coefficients.len() != m {
            return Err(RecodeError::WrongCoefficients { expected: m, actual: coefficients.len() });
        }
        let slot = *self.batches.get(&batch).ok_or(RecodeError::UnknownBatch)?;
        self.touch(slot);
        let held = &self.slots[slot];
        if held.packets.is_empty() {
            return Err(RecodeError::UnknownBatch);
        }
        let stream = Stream::new(self.config.seed, Domain::Recoding, self.combined, 0);
        self.combined += 1;
        self.scratch.clear();
        stream.coefficients(held.packets.len(), &mut self.scratch);
        let kernel = Kernel::active();
        kernel.sum(
            coefficients,
            false,
            held.vectors.chunks_exact(m).zip(self.scratch.iter().copied()),
        );
        kernel.sum(
            out,
            false,
            held.packets.iter().map(AsRef::as_ref).zip(self.scratch.iter().copied()),
        );
        Ok(())
    }

    /// Forgets a batch; says whether anything of it was held.
    pub fn close(&mut self, batch: K) -> bool {
        let Some(slot) = self.batches.remove(&batch) else { return false };
        self.unlink(slot);
        self.slots[slot].packets.clear();
        self.slots[slot].vectors.clear();
        self.free.push(slot);
        true
    }

    /// The slot of a batch, made if need be, and the batch evicted for it.
    fn hold(&mut self, batch: K) -> (usize, Option<K>) {
        if let Some(&slot) = self.batches.get(&batch) {
            self.touch(slot);
            return (slot, None);
        }
        let mut evicted = None;
        if self.batches.len() >= self.config.max_batches {
            let oldest = self.slots[self.oldest].key;
            self.close(oldest);
            evicted = Some(oldest);
        }
        let basis = Basis::new(self.config.batch_size.columns(), false);
        let slot = if let Some(slot) = self.free.pop() {
            self.slots[slot].key = batch;
            self.slots[slot].basis = basis;
            slot
        } else {
            self.slots.push(Held {
                key: batch,
                basis,
                packets: Vec::new(),
                vectors: Vec::new(),
                newer: NONE,
                older: NONE,
            });
            self.slots.len() - 1
        };
        self.batches.insert(batch, slot);
        self.link(slot);
        (slot, evicted)
    }

    fn touch(&mut self, slot: usize) {
        if self.newest != slot {
            self.unlink(slot);
            self.link(slot);
        }
    }

    fn link(&mut self, slot: usize) {
        self.slots[slot].older = self.newest;
        self.slots[slot].newer = NONE;
        match self.newest {
            NONE => self.oldest = slot,
            newest => self.slots[newest].newer = slot,
        }
        self.newest = slot;
    }

    fn unlink(&mut self, slot: usize) {
        let (newer, older) = (self.slots[slot].newer, self.slots[slot].older);
        match newer {
            NONE => self.newest = older,
            newer => self.slots[newer].older = older,
        }
        match older {
            NONE => self.oldest = newer,
            older => self.slots[older].newer = newer,
        }
    }
}
