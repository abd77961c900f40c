//! BRCTP: a stream cut into generations, each coded without end until every receiver says that it has it whole.
//!
//! There is no feedback but "done". A generation is a block of the code: its source symbols go out once, then repair symbols, no two of them alike, so
//! that it does not matter which packets were lost, nor who lost them.

mod generation;
mod receiver;
mod sender;

pub(super) use receiver::{RatelessReceiver, Taken};
pub(super) use sender::RatelessSender;
