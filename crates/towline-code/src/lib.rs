//! The batched network code of Towline: encode, recode at a relay, decode.

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
pub use recoder::{Pushed, Recoder, RecoderConfig, Verdict};
pub use window::{
    RepairPace, WindowConfig, WindowDecoder, WindowEncoder, WindowOutcome, WindowProgress,
    WindowRepair,
};
