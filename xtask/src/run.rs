//! Running other programs.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// The outcome of a command: what to say when it failed.
pub(crate) type Outcome = Result<(), String>;

/// The checkout's root.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// A line on standard error, where everything that is not a result goes.
pub(crate) fn say(line: &str) {
    writeln!(std::io::stderr(), "{line}").ok();
}

/// `cargo` with these arguments, in the root.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.args(arguments).current_dir(root());
    command
}

/// Runs a step, with its name before and its time behind it.
pub(crate) fn step(name: &str, command: &mut Command) -> Outcome {
    say(&format!("\n== {name}"));
    let begun = Instant::now();
    let status = command.status().map_err(|error| format!("{name}: cannot start: {error}"))?;
    say(&format!("== {name}: {status} after {:.0} s", begun.elapsed().as_secs_f64()));
    if status.success() { Ok(()) } else { Err(format!("{name} failed")) }
}

/// Installs Debian packages whose programs or files are missing.
pub(crate) fn debian(needed: &[(&str, &str)]) -> Outcome {
    let there = |what: &str| match what.starts_with('/') {
        true => Path::new(what).exists(),
        false => Command::new("sh")
            .args(["-c", &format!("command -v {what}")])
            .stdout(Stdio::null())
            .status()
            .is_ok_and(|status| status.success()),
    };
    let missing: Vec<&str> =
        needed.iter().filter(|(what, _)| !there(what)).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    let install = format!("apt-get update -qq && apt-get install -y -qq {list}");
    step(&format!("install {list}"), Command::new("sh").args(["-c", &install]))
        .map_err(|error| format!("{error}; install {list} by your system's package manager"))
}
