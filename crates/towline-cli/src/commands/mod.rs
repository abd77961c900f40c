//! One file or directory for each sub-command.

pub(crate) mod cert;
pub(crate) mod connect;
pub(crate) mod demo;
mod ended;
mod exec;
pub(crate) mod generate;
pub(crate) mod lab;
pub(crate) mod link;
pub(crate) mod listen;
pub(crate) mod perf;
pub(crate) mod relay;
mod streams;
pub(crate) mod transfer;

use crate::arguments::{Arguments, Command};
use crate::failure::{Failure, Outcome};
use crate::interrupt::Interrupt;
use crate::output::Notes;

/// Runs what was asked for.
pub(crate) fn run(arguments: &Arguments, notes: &Notes) -> Outcome {
    let interrupt = || {
        Interrupt::install()
            .map_err(|error| Failure::Failed(format!("cannot take over signals: {error}")))
    };
    match &arguments.command {
        Command::Completions(arguments) => generate::completions(arguments),
        Command::Man(arguments) => generate::manual(arguments),
        Command::Cert(arguments) => cert::run(arguments, notes),
        Command::Link(arguments) => link::run(arguments, notes, &interrupt()?),
        Command::Listen(arguments) => listen::run(arguments, notes, &interrupt()?),
        Command::Connect(arguments) => connect::run(arguments, notes, &interrupt()?),
        Command::Perf(arguments) => perf::run(arguments, notes, &interrupt()?),
        Command::Relay(arguments) => relay::run(arguments, notes, &interrupt()?),
        Command::Send(arguments) => transfer::send::run(arguments, notes, &interrupt()?),
        Command::Receive(arguments) => transfer::receive::run(arguments, notes, &interrupt()?),
        Command::Lab(arguments) => lab::run(arguments, notes),
        Command::Demo(arguments) => demo::run(arguments, notes, &interrupt()?),
    }
}
