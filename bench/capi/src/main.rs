//! The C API against the Rust API, and `socket_iocp` against a plain epoll loop in C and libuv.
//!
//! Contestants take turns within each round; what is printed is the median over the rounds of the ratio to the contestant named in the line.

mod echo;
mod messages;

use std::path::{Path, PathBuf};
use std::process::Command;

/// What to run.
pub(crate) struct Options {
    pub(crate) rounds: usize,
    pub(crate) ms: u64,
    pub(crate) messages: usize,
    pub(crate) same_core: bool,
}

fn number(words: &[String], name: &str, usual: u64) -> u64 {
    let at = words.iter().position(|word| word == name);
    let value = at.and_then(|at| words.get(at + 1)).and_then(|value| value.parse().ok());
    value.unwrap_or(usual)
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    // The Rust twin of messages.c, in a process of its own, too.
    if let [twin, kind, count] = words.as_slice()
        && twin == "--twin"
    {
        return messages::twin(kind, count.parse().expect("a number"));
    }
    let options = Options {
        rounds: number(&words, "--rounds", 7) as usize,
        ms: number(&words, "--ms", 300),
        messages: number(&words, "--messages", 300_000) as usize,
        same_core: words.iter().any(|word| word == "--same-core"),
    };
    let programs = Programs::build();
    messages::compare(&programs, &options);
    for connections in [1, 64] {
        echo::compare(&programs, &options, connections);
    }
}

/// The C programs, built against the release library.
pub(crate) struct Programs {
    folder: PathBuf,
}

impl Programs {
    fn build() -> Programs {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = here.join("../..");
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["build", "--release", "--quiet", "-p", "towline-capi"]).current_dir(&root);
        run(cargo.env_remove("CARGO_TARGET_DIR"));
        let folder = here.join("target/programs");
        std::fs::create_dir_all(&folder).expect("a folder");
        for name in ["echo_epoll", "echo_uv", "echo_iocp", "messages"] {
            let mut compiler = Command::new("gcc");
            compiler.args(["-O2", "-std=gnu11", "-Wall", "-Wextra", "-pthread", "-I"]);
            compiler.arg(root.join("crates/towline-capi/include/c"));
            compiler.arg(here.join("src").join(format!("{name}.c"))).arg("-o").arg(folder.join(name));
            match name {
                "echo_uv" => drop(compiler.arg("-luv")),
                "echo_epoll" => {}
                _ => {
                    compiler.arg(root.join("target/release/libtowline.a"));
                    compiler.args(["-lgcc_s", "-lm", "-ldl"]);
                }
            }
            run(&mut compiler);
        }
        Programs { folder }
    }

    pub(crate) fn command(&self, name: &str) -> Command {
        Command::new(self.folder.join(name))
    }
}

fn run(command: &mut Command) {
    let status = command.status().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?}: {status}");
}

/// The middle one.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Runs a command on one core.
pub(crate) fn pinned(command: &Command, core: usize) -> Command {
    let mut taskset = Command::new("taskset");
    taskset.args(["-c", &core.to_string()]).arg(command.get_program()).args(command.get_args());
    taskset
}
