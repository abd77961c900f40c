//! A line on standard error that says how far something is, on terminals only.

use std::io::Write;

use super::Notes;

/// Cells of the bar.
const WIDTH: u64 = 24;

/// A progress line; it disappears when dropped.
pub(crate) struct Progress {
    shown: bool,
    last: String,
}

impl Progress {
    pub(crate) fn new(notes: &Notes) -> Progress {
        Progress { shown: notes.shows_progress(), last: String::new() }
    }

    /// Shows `done` of `total` after a label, and more words after the bar.
    pub(crate) fn set(&mut self, label: &str, done: u64, total: u64, more: &str) {
        if !self.shown {
            return;
        }
        let cells = (done.min(total) * WIDTH / total.max(1)) as usize;
        let rest = WIDTH as usize - cells;
        let percent = done.min(total) * 100 / total.max(1);
        let bar = format!("{}{}", "#".repeat(cells), ".".repeat(rest));
        let line = format!("\r\x1b[K{label:<6} [{bar}] {percent:>3} %  {more}");
        if line != self.last {
            std::io::stderr().write_all(line.as_bytes()).ok();
            self.last = line;
        }
    }

    /// Shows nothing from now on.
    pub(crate) fn hide(&mut self) {
        self.clear();
        self.shown = false;
    }

    /// Takes the line away.
    pub(crate) fn clear(&mut self) {
        if !self.last.is_empty() {
            self.last.clear();
            std::io::stderr().write_all(b"\r\x1b[K").ok();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}
