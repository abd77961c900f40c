//! The batched network code of Towline: encode, recode at a relay, decode.
//!
//! Pure arithmetic: no packet headers, sockets, clocks or threads. Time does not occur, randomness is an argument (a nonce or a
//! seed), and nothing here allocates by what a peer claims before it was checked against a limit that has a name.
//!
//! # What is what
//!
//! A *block* has K source *symbols* of one size. They are cut into *batches* of M *columns*: the source batches come first and their
//! columns are the source symbols themselves; repair batches follow without end, and each of their columns sums
//! some source symbols with coefficients that both sides derive from (nonce, batch id, column). A relay may mix the packets of one batch:
//! such a packet carries the M coefficients of its mixture, all others carry their column number.
//!
//! | part | type |
//! | --- | --- |
//! | parameters of a block | [`BlockCode`], [`BlockParameters`], [`Degrees`] |
//! | sender | [`BlockEncoder`] |
//! | relay | [`Recoder`], [`RecodingTable`], [`packets_for_deficit`] |
//! | a batch on its own, at any node | [`HeldBatch`] |
//! | receiver | [`BlockDecoder`], [`DecoderLimits`] |
//! | low latency without blocks | [`WindowEncoder`], [`WindowDecoder`], [`RepairPace`] |
//! | the field | [`gf256`] |
//!
//! The construction is specified in `docs/code.md` with test vectors in `docs/vectors/`.
//!
//! # Example
//!
//! ```
//! use towline_code::*;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let code = BlockCode::new(BlockParameters {
//!     source_symbols: 100,
//!     symbol_size: 1408,
//!     batch_size: BatchSize::M16,
//!     degrees: Degrees::for_missing(100, 10.0),
//!     nonce: 0x5EED,
//! })?;
//! let object = vec![42; 100 * 1408];
//! let mut encoder = BlockEncoder::over(code, &object, 1408)?;
//! let mut decoder = BlockDecoder::new(code, DecoderLimits::default());
//!
//! // Source symbols go out as they are; every ninth is lost.
//! for index in (0..100).filter(|index| index % 9 != 0) {
//!     let (batch, column) = code.position_of(index);
//!     decoder.push(batch, Combination::Column(column), *encoder.source(index).unwrap())?;
//! }
//! // The receiver says how many dimensions it lacks, and any repair symbols serve.
//! let mut repair = vec![vec![0; 1408]; decoder.deficit() + 1];
//! encoder.repair(0, &mut repair)?;
//! for (n, symbol) in (0..).zip(&repair) {
//!     let (batch, column) = code.repair_position(n).unwrap();
//!     decoder.push(batch, Combination::Column(column), symbol)?;
//! }
//! assert!(decoder.is_complete());
//! assert_eq!(decoder.symbol(9), Some(&object[9 * 1408..10 * 1408]));
//! # Ok(())
//! # }
//! ```

mod adaptive;
mod basis;
mod batch;
mod decoder;
mod encoder;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod generator;
#[allow(unsafe_code)]
pub mod gf256;
mod held;
mod prng;
mod recoder;
#[cfg(test)]
mod vectors;
pub mod window;

pub use adaptive::{RecodingTable, packets_for_deficit};
pub use batch::{
    BatchId, BatchSize, BlockCode, BlockParameters, Combination, Degrees, MAX_SOURCE_SYMBOLS,
    MAX_SYMBOL_SIZE,
};
pub use decoder::{BlockDecoder, DecoderLimits, Outcome, Progress};
pub use encoder::BlockEncoder;
pub use error::{DecodeError, EncodeError, ParameterError, RecodeError};
pub use held::HeldBatch;
pub use recoder::{Pushed, Recoder, RecoderConfig, Verdict};
pub use window::{
    RepairPace, WindowConfig, WindowDecoder, WindowEncoder, WindowOutcome, WindowProgress,
    WindowRepair,
};
