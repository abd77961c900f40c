//! stub
use clap::Args;
use crate::{failure::Outcome, interrupt::Interrupt, output::Notes};
/// Stub
#[derive(Debug, Args)]
pub(crate) struct Arguments {}
pub(crate) fn run(_: &Arguments, _: &Notes, _: &Interrupt) -> Outcome { Ok(()) }
