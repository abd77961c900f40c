//! The receiving half: symbols of several generations become bytes in order.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Bytes, BytesMut};
use towline_code::{
    BatchId, BatchSize, BlockDecoder, Combination, DecodeError, DecoderLimits, Outcome,
};

use super::generation::{LAST, LENGTH, MAX_OPEN, MAX_SYMBOLS, Shape, of_wire, wire_batch};
use crate::bats::flow::config::FlowConfig;
use crate::bats::flow::sealing::Source;
use crate::bats::wire::{Done, Mixed, expand};

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::bats::flow) enum Taken {
    New,
    /// Of a generation that has become whole by it.
    Completed,
    Redundant,
    /// Of a generation that is whole, as its sender does not seem to know.
    Whole,
    /// Fits no batch, is of another size than the others, or its generation's shape is not known yet.
    Malformed,
    BeyondWindow,
}

/// A generation under way.
#[derive(Debug)]
enum Generation {
    Decoding(Box<BlockDecoder<Bytes>>),
    Whole(Bytes),
}

#[derive(Debug)]
pub(in crate::bats::flow) struct RatelessReceiver {
    size: BatchSize,
    /// What tells this receiver from others of the same flow.
    name: u32,
    /// Generations that may be open or not read.
    window: u64,
    /// Every generation before this one was delivered.
    next: u64,
    open: BTreeMap<u64, Generation>,
    ready: VecDeque<Bytes>,
    finished: bool,
    serial: u64,
    /// Generations that could not be decoded from what had come, and were begun anew.
    pub(in crate::bats::flow) restarted: u64,
}

/// Generations that a window of so many symbols holds.
pub(in crate::bats::flow) fn generations(window: u64) -> u64 {
    (window / MAX_SYMBOLS).clamp(1, MAX_OPEN)
}

impl RatelessReceiver {
    pub(in crate::bats::flow) fn new(config: &FlowConfig) -> RatelessReceiver {
        // Any mixing of the seed tells nodes apart that were given different ones.
        let name = config.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        RatelessReceiver {
            size: config.batch,
            name: name as u32,
            window: generations(config.receive_window),
            next: 0,
            open: BTreeMap::new(),
            ready: VecDeque::new(),
            finished: false,
            serial: 0,
            restarted: 0,
        }
    }

    pub(in crate::bats::flow) fn is_finished(&self) -> bool {
        self.finished
    }

    /// The first generation that may not be sent yet.
    pub(in crate::bats::flow) fn limit(&self) -> u64 {
        (self.next + self.window).saturating_sub(self.ready.len() as u64)
    }

    /// What a number is restored by: any generation that may come is nearer to this one than half of all numbers.
    fn expected(&self) -> u64 {
        wire_batch(self.next, BatchId(0)).unwrap_or(u64::MAX)
    }

    /// A column as its source made it.
    pub(in crate::bats::flow) fn on_source(&mut self, low: u32, symbol: &Bytes) -> Taken {
        let columns = self.size.columns() as u64;
        let number = expand(low, self.expected().saturating_mul(columns));
        let Some((shape, size)) = Shape::split(symbol) else { return Taken::Malformed };
        let (generation, batch) = of_wire(number / columns);
        if let Some(taken) = self.refuse(generation) {
            return taken;
        }
        if !self.open.contains_key(&generation) {
            let Some(code) = shape.code(generation, size, self.size) else {
                return Taken::Malformed;
            };
            let decoder = BlockDecoder::new(code, DecoderLimits::default());
            self.open.insert(generation, Generation::Decoding(Box::new(decoder)));
        }
        let column = Combination::Column((number % columns) as u16);
        self.push(generation, batch, column, symbol.slice(symbol.len() - size..))
    }

    /// A combination that a relay made. The shape in front of it was mixed as well and says nothing.
    pub(in crate::bats::flow) fn on_mixed(&mut self, mixed: &Mixed) -> Taken {
        let (generation, batch) = of_wire(expand(mixed.batch, self.expected()));
        if let Some(taken) = self.refuse(generation) {
            return taken;
        }
        let mut coefficients = [0; crate::bats::wire::MAX_COLUMNS];
        let given = mixed.coefficients.len();
        let (Some(coefficients), Some((_, size))) =
            (coefficients.get_mut(..self.size.columns()), Shape::split(&mixed.symbol))
        else {
            return Taken::Malformed;
        };
        let Some(front) = coefficients.get_mut(..given) else { return Taken::Malformed };
        front.copy_from_slice(&mixed.coefficients);
        let symbol = mixed.symbol.slice(mixed.symbol.len() - size..);
        self.push(generation, batch, Combination::Coefficients(coefficients), symbol)
    }

    fn refuse(&self, generation: u64) -> Option<Taken> {
        if generation < self.next {
            Some(Taken::Whole)
        } else if generation >= self.limit() {
            Some(Taken::BeyondWindow)
        } else {
            None
        }
    }

    fn push(
        &mut self,
        generation: u64,
        batch: BatchId,
        combination: Combination<'_>,
        symbol: Bytes,
    ) -> Taken {
        let decoder = match self.open.get_mut(&generation) {
            Some(Generation::Decoding(decoder)) => decoder,
            Some(Generation::Whole(_)) => return Taken::Whole,
            None => return Taken::Malformed,
        };
        match decoder.push(batch, combination, symbol) {
            Ok(progress) if progress.outcome == Outcome::Redundant => return Taken::Redundant,
            Ok(_) => {}
            Err(DecodeError::TooDense(_) | DecodeError::TooManyDependent) => {
                // No sender makes such equations. What comes from now on may be better.
                self.open.remove(&generation);
                self.restarted += 1;
                return Taken::Malformed;
            }
            Err(_) => return Taken::Malformed,
        }
        if !decoder.is_complete() {
            return Taken::New;
        }
        let whole = assemble(decoder);
        self.open.insert(generation, Generation::Whole(whole));
        self.deliver();
        Taken::Completed
    }

    fn deliver(&mut self) {
        while let Some(Generation::Whole(_)) = self.open.get(&self.next) {
            let Some(Generation::Whole(data)) = self.open.remove(&self.next) else { return };
            self.next += 1;
            let Some((&length, rest)) = data.split_first_chunk() else { continue };
            let word = u32::from_be_bytes(length);
            let length = rest.len().min((word & !LAST) as usize);
            if length > 0 && !self.finished {
                self.ready.push_back(data.slice(LENGTH..LENGTH + length));
            }
            self.finished |= word & LAST != 0;
        }
    }

    /// What the sender should know.
    pub(in crate::bats::flow) fn done(&mut self) -> Done {
        self.serial += 1;
        let whole = self.open.iter().filter(|(_, open)| matches!(open, Generation::Whole(_)));
        Done {
            serial: self.serial,
            receiver: self.name,
            next: self.next,
            limit: self.limit(),
            whole: whole.map(|(&generation, _)| generation).collect(),
        }
    }
}

impl Source for RatelessReceiver {
    fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    fn read(&mut self) -> Option<Bytes> {
        self.ready.pop_front()
    }
}

/// The symbols one after another.
fn assemble(decoder: &BlockDecoder<Bytes>) -> Bytes {
    let code = decoder.code();
    let mut data = BytesMut::with_capacity(code.source_symbols() * code.symbol_size());
    for index in 0..code.source_symbols() as u32 {
        data.extend_from_slice(decoder.symbol(index).unwrap_or_default());
    }
    data.freeze()
}
