//! What the project does to itself. `cargo xtask` lists the commands.

mod fuzz;
mod package;
mod run;
mod soak;
mod suite;

use std::process::ExitCode;

const USAGE: &str = "\
cargo xtask <command>

  test                     everything that has to pass, below 25 minutes with an empty build cache
  bench NAME [OPTIONS]     compare with the peers, in the same run: messaging, quic, bats, websocket, io, code, capi, send
  fuzz TARGET [SECONDS]    one fuzz target, 60 seconds if not told; without a target, their names
  fuzz all [SECONDS]       every fuzz target, one after the other
  soak [SECONDS]           sessions under random cuts, 60 seconds if not told
  deny                     licences, advisories and sources of all dependencies (installs cargo-deny)
  examples                 the SDK's examples in C and C++, into build/example/
  install --prefix DIR     headers, libraries, package descriptions, the command with its pages
  header                   write include/c/towline.h from the sources
  features                 every combination of features that means something builds
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["test"] => suite::test(),
        ["bench", name, options @ ..] => suite::bench(name, options),
        ["fuzz"] => fuzz::list(),
        ["fuzz", "all", rest @ ..] => fuzz::all(rest.first().copied()),
        ["fuzz", target, rest @ ..] => fuzz::one(target, rest.first().copied()),
        ["soak", rest @ ..] => soak::soak(rest.first().copied()),
        ["deny"] => suite::deny(),
        ["examples", options @ ..] => package::examples(options),
        ["install", options @ ..] => package::install(options),
        ["header"] => suite::header(),
        ["features"] => suite::features(),
        _ => Err(USAGE.to_owned()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            run::say(&message);
            ExitCode::FAILURE
        }
    }
}
