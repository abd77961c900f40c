//! What leaves the command: data and results on standard output, notes and progress on standard error.

pub(crate) mod json;
pub(crate) mod progress;
pub(crate) mod svg;
pub(crate) mod text;

use std::fs::File;
use std::io::{BufWriter, IsTerminal, Write};
use std::os::fd::AsFd;

use tracing_subscriber::EnvFilter;

use crate::arguments::{LogFormat, Verbosity};

/// Sends the library's log to standard error. `RUST_LOG` goes before `--quiet` and `--verbose`.
pub(crate) fn start_logging(verbosity: Verbosity, format: LogFormat) {
    let default = match verbosity {
        Verbosity::Quiet => "error",
        Verbosity::Normal => "warn",
        Verbosity::Verbose => "info",
        Verbosity::Everything => "debug",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => log.with_ansi(colours()).init(),
        LogFormat::Json => log.json().init(),
    }
}

/// Whether standard error is a terminal that is wanted in colour (<https://no-color.org>).
fn colours() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::io::stderr().is_terminal()
}

/// Lines for people, on standard error.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Notes {
    verbosity: Verbosity,
    colours: bool,
}

impl Notes {
    pub(crate) fn new(verbosity: Verbosity) -> Notes {
        Notes { verbosity, colours: colours() }
    }

    /// What someone may have to know to go on: printed also when quiet.
    pub(crate) fn always(&self, text: &str) {
        self.line("", text);
    }

    /// What is good to know.
    pub(crate) fn info(&self, text: &str) {
        if self.verbosity >= Verbosity::Normal {
            self.line("", text);
        }
    }

    /// What only helps to follow along.
    pub(crate) fn detail(&self, text: &str) {
        if self.verbosity >= Verbosity::Verbose {
            self.line("", text);
        }
    }

    /// What may be a mistake.
    pub(crate) fn warn(&self, text: &str) {
        if self.verbosity >= Verbosity::Normal {
            self.line(if self.colours { "\x1b[33mwarning:\x1b[0m " } else { "warning: " }, text);
        }
    }

    /// Why the command fails.
    pub(crate) fn error(&self, text: &str) {
        self.line(if self.colours { "\x1b[31merror:\x1b[0m " } else { "error: " }, text);
    }

    /// Whether progress is to be shown: on a terminal, and not when quiet.
    pub(crate) fn shows_progress(&self) -> bool {
        self.verbosity >= Verbosity::Normal && std::io::stderr().is_terminal()
    }

    /// One write for the whole line, so that lines of several threads do not mix. A closed standard error is ignored.
    fn line(&self, kind: &str, text: &str) {
        std::io::stderr().write_all(format!("towline: {kind}{text}\n").as_bytes()).ok();
    }
}

/// Standard output, buffered by blocks: whoever writes says when it is to be seen.
pub(crate) struct Output(BufWriter<File>);

impl Output {
    pub(crate) fn open() -> std::io::Result<Output> {
        let own = std::io::stdout().as_fd().try_clone_to_owned()?;
        Ok(Output(BufWriter::with_capacity(64 << 10, File::from(own))))
    }

    /// A line that is seen at once.
    pub(crate) fn line(&mut self, text: &str) -> std::io::Result<()> {
        self.0.write_all(text.as_bytes())?;
        self.0.write_all(b"\n")?;
        self.0.flush()
    }
}

impl Write for Output {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        self.0.write(data)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}
