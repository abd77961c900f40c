//! The `towline` command: measures, carries and shows messages over every wire that Towline has.
//!
//! Standard output carries data and machine-readable results only; notes, progress and logs go to standard error.
//! The command ends with 0 when everything went well, 1 when it did not, 2 when it was asked for something that cannot
//! be, and 130 after SIGINT.

mod arguments;
mod commands;
mod failure;
mod framing;
mod interrupt;
mod metrics;
mod output;
mod queue;
mod tls;
mod units;

use std::process::ExitCode;

use clap::Parser;

use crate::arguments::Arguments;
use crate::output::Notes;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    output::start_logging(arguments.verbosity(), arguments.log_format);
    let notes = Notes::new(arguments.verbosity());
    match commands::run(&arguments, &notes) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if let Some(text) = failure.message() {
                notes.error(&text);
            }
            ExitCode::from(failure.exit_code())
        }
    }
}
