//! Fuzzing with libFuzzer, without further programs: the compiler's coverage instrumentation is switched on by hand, as
//! cargo-fuzz does.

use crate::run::{Outcome, cargo, root, say, step};
use crate::suite::TARGET;

const FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Zsanitizer=address --cfg fuzzing \
    -Ccodegen-units=1 -Cdebug-assertions -Coverflow-checks";

fn targets() -> Result<Vec<String>, String> {
    let folder = root().join("fuzz/fuzz_targets");
    let entries = std::fs::read_dir(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(".rs")?.to_owned()))
        .collect();
    names.sort();
    Ok(names)
}

/// The names of the targets.
pub(crate) fn list() -> Outcome {
    for name in targets()? {
        say(&name);
    }
    Ok(())
}

/// Every target in turn.
pub(crate) fn all(seconds: Option<&str>) -> Outcome {
    for name in targets()? {
        one(&name, seconds)?;
    }
    Ok(())
}

/// One target. What it finds is kept in `fuzz/artifacts`, what it learns in `fuzz/corpus`.
pub(crate) fn one(target: &str, seconds: Option<&str>) -> Outcome {
    if !targets()?.iter().any(|name| name == target) {
        return Err(format!("there is no fuzz target `{target}`; `cargo xtask fuzz` lists them"));
    }
    let seconds: u32 = seconds
        .unwrap_or("60")
        .parse()
        .map_err(|_| "the time is a whole number of seconds".to_owned())?;
    let root = root();
    let corpus = root.join("fuzz/corpus").join(target);
    let artifacts = root.join("fuzz/artifacts").join(target);
    for folder in [&corpus, &artifacts] {
        std::fs::create_dir_all(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    }
    let manifest = root.join("fuzz/Cargo.toml");
    let mut command = cargo(&["run", "--release", "--target", TARGET, "--bin", target]);
    command
        .arg("--manifest-path")
        .arg(manifest)
        .arg("--")
        .arg(&corpus)
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .args(["-rss_limit_mb=4096", "-timeout=10"])
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", FLAGS);
    step(&format!("fuzz {target} for {seconds} s"), &mut command)
}
