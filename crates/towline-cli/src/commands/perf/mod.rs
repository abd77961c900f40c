//! `towline perf`: measures a wire from end to end.

mod client;
mod control;
mod flow;
mod report;
mod sender;
mod server;

use clap::{Args, Subcommand};

use crate::failure::Outcome;
use crate::interrupt::Interrupt;
use crate::output::Notes;

/// Measure throughput, message rate, round trips and CPU time over any wire.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    towline perf server tcp://0.0.0.0:5201\n  \
    towline perf client tcp://192.0.2.7:5201 -t 5")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    side: Side,
}

#[derive(Debug, Subcommand)]
enum Side {
    Server(server::Arguments),
    Client(Box<client::Arguments>),
}

pub(crate) fn run(arguments: &Arguments, notes: &Notes, interrupt: &Interrupt) -> Outcome {
    match &arguments.side {
        Side::Server(arguments) => server::run(arguments, notes, interrupt),
        Side::Client(arguments) => client::run(arguments, notes, interrupt),
    }
}
