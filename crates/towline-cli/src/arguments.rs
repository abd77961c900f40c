//! The command line: the sub-commands and what they share.

use clap::{ArgAction, Parser, Subcommand};

use crate::commands::transfer::{receive, send};
use crate::commands::{cert, connect, demo, generate, lab, link, listen, perf, relay};

/// Messages over connections that hold on bad networks.
///
/// URLs name the wire: tcp://, tls://, quic:// and bats:// with host:port carry a session that survives lost connections, bats:// over coded packets and relays
/// (?via=relay:port,relay:port); ?mode=btp and udp://host:port carry single messages, ftcp:// and ftcps:// speak ftcp's own bytes.
///
/// Exit codes: 0 ok, 1 failure, 2 usage, 130 after SIGINT. RUST_LOG sets log filters, NO_COLOR turns colours off.
#[derive(Debug, Parser)]
#[command(
    name = "towline",
    version,
    propagate_version = true,
    max_term_width = 100,
    after_help = "Examples:\n  \
        towline demo\n  \
        towline listen tcp://127.0.0.1:7000 --echo\n  \
        towline connect tcp://127.0.0.1:7000 --message hello --request\n  \
        towline send tcp://192.0.2.7:7001 holiday.mp4"
)]
pub(crate) struct Arguments {
    /// Only errors on standard error.
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,

    /// More on standard error; twice for everything.
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,

    /// How the log on standard error is written; RUST_LOG says what is in it.
    #[arg(long, global = true, value_enum, value_name = "FORMAT", default_value = "text")]
    pub(crate) log_format: LogFormat,

    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What the command can do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Cert(cert::Arguments),
    Listen(listen::Arguments),
    Connect(connect::Arguments),
    Perf(perf::Arguments),
    Send(Box<send::Arguments>),
    Receive(receive::Arguments),
    Link(Box<link::Arguments>),
    Relay(Box<relay::Arguments>),
    Demo(demo::Arguments),
    Lab(Box<lab::Arguments>),
    Completions(generate::Completions),
    Man(generate::Manual),
}

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object per line.
    Json,
}

/// How much goes to standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verbosity {
    Quiet,
    Normal,
    Verbose,
    Everything,
}

impl Arguments {
    pub(crate) fn verbosity(&self) -> Verbosity {
        match (self.quiet, self.verbose) {
            (true, _) => Verbosity::Quiet,
            (false, 0) => Verbosity::Normal,
            (false, 1) => Verbosity::Verbose,
            (false, _) => Verbosity::Everything,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_sub_command_shows_examples() {
        let mut command = Arguments::command();
        command.build();
        let mut waiting = vec![command];
        while let Some(mut command) = waiting.pop() {
            if command.get_name() == "help" {
                continue;
            }
            let help = command.render_long_help().to_string();
            let examples = help.lines().filter(|line| line.starts_with("  towline ")).count();
            assert!((2..=4).contains(&examples), "{}:\n{help}", command.get_name());
            waiting.extend(command.get_subcommands().cloned());
        }
    }
}
