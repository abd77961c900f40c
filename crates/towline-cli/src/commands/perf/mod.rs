//! `towline perf`: measures a wire from end to end.

mod chart;
mod client;
mod compare;
mod control;
mod flow;
mod handshakes;
mod report;
mod sender;
mod server;

use clap::{Args, Subcommand, ValueEnum};
use towline::{Context, DriverChoice};

use crate::failure::Outcome;
use crate::interrupt::Interrupt;
use crate::output::Notes;

/// Measure throughput, message rate, round trips and CPU time over any wire.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    towline perf server tcp://0.0.0.0:5201\n  \
    towline perf client tcp://192.0.2.7:5201 -t 5\n  \
    towline perf client --compare tcp,tls,ws -t 3")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    side: Side,
}

#[derive(Debug, Subcommand)]
enum Side {
    Server(server::Arguments),
    Client(Box<client::Arguments>),
}

/// How the I/O threads talk to the system.
#[derive(Debug, Args)]
struct Io {
    /// How the I/O threads talk to the system.
    #[arg(long, value_enum, value_name = "DRIVER", default_value = "auto")]
    driver: Driver,
    /// I/O threads [default: one per core]
    #[arg(long, value_name = "NUMBER")]
    threads: Option<usize>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Driver {
    /// What suits the system.
    Auto,
    IoUring,
    Epoll,
}

impl Io {
    fn context(&self) -> Outcome<Context> {
        let mut builder = Context::builder().driver(match self.driver {
            Driver::Auto => DriverChoice::Auto,
            Driver::IoUring => DriverChoice::IoUring,
            Driver::Epoll => DriverChoice::Epoll,
        });
        if let Some(threads) = self.threads {
            builder = builder.threads(threads);
        }
        Ok(builder.build()?)
    }
}

pub(crate) fn run(arguments: &Arguments, notes: &Notes, interrupt: &Interrupt) -> Outcome {
    match &arguments.side {
        Side::Server(arguments) => server::run(arguments, notes, interrupt),
        Side::Client(arguments) => client::run(arguments, notes, interrupt),
    }
}
