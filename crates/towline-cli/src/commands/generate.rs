//! `towline completions` and `towline man`: what packagers install beside the command.

use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;

use crate::failure::{Failure, Outcome};
use crate::output::Output;

/// Print completions for a shell.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    towline completions bash > /usr/share/bash-completion/completions/towline\n  \
    towline completions zsh > /usr/share/zsh/site-functions/_towline\n  \
    towline completions fish > /usr/share/fish/vendor_completions.d/towline.fish")]
pub(crate) struct Completions {
    /// Whose.
    #[arg(value_enum)]
    shell: Shell,
}

/// Write the manual pages: one for the command and one for each sub-command.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    towline man\n  \
    towline man --out /usr/share/man/man1\n  \
    towline man | man -l -")]
pub(crate) struct Manual {
    /// The directory for all pages; without it the command's own goes to standard output.
    #[arg(short, long, value_name = "DIRECTORY")]
    out: Option<PathBuf>,
}

pub(crate) fn completions(arguments: &Completions) -> Outcome {
    let mut command = crate::arguments::Arguments::command();
    let mut text = Vec::new();
    clap_complete::generate(arguments.shell, &mut command, "towline", &mut text);
    Ok(std::io::Write::write_all(&mut Output::open()?, &text)?)
}

pub(crate) fn manual(arguments: &Manual) -> Outcome {
    let mut command = crate::arguments::Arguments::command();
    command.build();
    match &arguments.out {
        None => Ok(Man::new(command).render(&mut Output::open()?)?),
        Some(directory) => {
            std::fs::create_dir_all(directory).map_err(|error| unwritable(directory, &error))?;
            write(&command, "towline", directory)
        }
    }
}

fn unwritable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::Failed(format!("cannot write {}: {error}", path.display()))
}

fn write(command: &clap::Command, name: &str, directory: &Path) -> Outcome {
    let path = directory.join(format!("{name}.1"));
    let mut page = Vec::new();
    // Pages are found by one word: towline-perf-client.
    Man::new(command.clone()).title(name.to_owned()).render(&mut page)?;
    std::fs::write(&path, page).map_err(|error| unwritable(&path, &error))?;
    for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help") {
        write(inner, &format!("{name}-{}", inner.get_name()), directory)?;
    }
    Ok(())
}
