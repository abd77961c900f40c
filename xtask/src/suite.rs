//! `test` and its relatives.

use std::process::Command;

use crate::run::{Outcome, cargo, debian, root, step};

/// The target that the sanitizer is built for: naming it keeps build scripts and procedural macros out.
pub(crate) const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Everything that has to pass.
pub(crate) fn test() -> Outcome {
    // Other people's programs, which the tests talk to.
    debian(&[
        ("python3", "python3 python3-venv"),
        ("node", "nodejs"),
        ("npm", "npm"),
        ("chromium", "chromium"),
        ("valgrind", "valgrind"),
        // What C and C++ programs are built with.
        ("gcc", "gcc"),
        ("g++", "g++"),
        ("clang", "clang"),
        ("cmake", "cmake"),
        ("pkg-config", "pkg-config"),
        ("openssl", "openssl"),
    ])?;
    step("formatting", &mut cargo(&["fmt", "--all", "--check"]))?;
    let lints = ["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"];
    step("lints", &mut cargo(&lints))?;
    step(
        "documentation",
        cargo(&["doc", "--workspace", "--no-deps", "--quiet"]).env("RUSTDOCFLAGS", "-D warnings"),
    )?;
    // The library for C is nobody's dependency: a build of everything makes it, of the same parts as the tests.
    step("build", &mut cargo(&["build", "--workspace", "--all-targets"]))?;
    let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    let target = root().join(target);
    step("tests", cargo(&["test", "--workspace"]).env("TOWLINE_BUILT", target.join("debug")))?;
    step(
        "the code without its vector kernels",
        cargo(&["test", "-p", "towline-code", "--tests"]).env("TOWLINE_FORCE_SCALAR", "1"),
    )?;
    step(
        "without TLS",
        &mut cargo(&["check", "-p", "towline", "--no-default-features", "--quiet"]),
    )?;
    let fuzz = root().join("fuzz/Cargo.toml");
    let mut fuzz = cargo(&[
        "check",
        "--quiet",
        "--no-default-features",
        "--manifest-path",
        &fuzz.to_string_lossy(),
    ]);
    // What is compiled for the workspace already serves here as well.
    step("fuzz targets build", fuzz.arg("--target-dir").arg(&target))?;
    address_sanitizer()?;
    memcheck()
}

/// The crates with `unsafe` under AddressSanitizer, which the stable compiler has when told to.
fn address_sanitizer() -> Outcome {
    let arguments = [
        "test",
        "-p",
        "towline-io",
        "-p",
        "towline-code",
        "--tests",
        "--target",
        TARGET,
        "--target-dir",
        "target/sanitized",
    ];
    step(
        "AddressSanitizer",
        cargo(&arguments)
            .env("RUSTC_BOOTSTRAP", "1")
            .env("RUSTFLAGS", "-Zsanitizer=address -Cdebuginfo=line-tables-only"),
    )
}

/// The epoll driver under valgrind, which does not know io_uring.
fn memcheck() -> Outcome {
    let arguments = [
        "test",
        "-p",
        "towline-io",
        "--test",
        "driver",
        "--",
        "over_epoll",
        "--test-threads",
        "1",
        // It lowers the limit on descriptors, which valgrind needs some of.
        "--skip",
        "running_out_of",
    ];
    let valgrind = "valgrind --quiet --error-exitcode=99 --leak-check=full --show-leak-kinds=definite \
        --errors-for-leak-kinds=definite --fair-sched=yes";
    step(
        "valgrind",
        cargo(&arguments).env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER", valgrind),
    )
}

/// Writes `towline.h`, and the list of exported symbols, from the sources.
pub(crate) fn header() -> Outcome {
    let arguments =
        ["test", "--quiet", "-p", "towline-capi", "--test", "header", "--test", "symbols"];
    step("towline.h", cargo(&arguments).env("TOWLINE_WRITE_HEADER", "1"))
}

/// One of the comparisons; the options go to it.
pub(crate) fn bench(name: &str, options: &[&str]) -> Outcome {
    match name {
        "send" => return bench_send(options),
        "bats" => return bench_bats(options),
        _ => {}
    }
    let manifest = root().join("bench").join(name).join("Cargo.toml");
    if !manifest.exists() {
        return Err(format!("there is no bench `{name}`; see the folders of bench/"));
    }
    if name == "messaging" {
        debian(&[("/usr/include/nng/nng.h", "libnng-dev"), ("/usr/include/zmq.h", "libzmq3-dev")])?;
    }
    if name == "capi" {
        debian(&[("/usr/include/uv.h", "libuv1-dev"), ("gcc", "gcc"), ("taskset", "util-linux")])?;
    }
    let mut command = cargo(&[
        "run",
        "--quiet",
        "--release",
        "--manifest-path",
        &manifest.to_string_lossy(),
        "--",
    ]);
    step(&format!("bench {name}"), command.args(options))
}

/// Files against scp and rsync over the same emulated link: a script, since the peers are commands.
fn bench_send(options: &[&str]) -> Outcome {
    let packages =
        [("/usr/sbin/sshd", "openssh-server"), ("scp", "openssh-client"), ("rsync", "rsync")];
    debian(&packages)?;
    step("the command", &mut cargo(&["build", "--release", "--quiet", "-p", "towline-cli"]))?;
    let mut script = Command::new(root().join("bench/send/run"));
    step("bench send", script.args(options).current_dir(root()))
}

/// Coded flows in real time, over emulated links, relays and virtual devices: a script, since all of these are commands.
fn bench_bats(options: &[&str]) -> Outcome {
    let packages = [
        ("python3", "python3"),
        ("ip", "iproute2"),
        ("/usr/sbin/nft", "nftables"),
        ("/usr/sbin/ethtool", "ethtool"),
    ];
    debian(&packages)?;
    step("the command", &mut cargo(&["build", "--release", "--quiet", "-p", "towline-cli"]))?;
    let mut script = Command::new(root().join("bench/bats/run"));
    step("bench bats", script.args(options).current_dir(root()))
}

/// Licences, advisories and sources of all dependencies.
pub(crate) fn deny() -> Outcome {
    let installed = Command::new("cargo-deny").arg("--version").output().is_ok();
    if !installed {
        step("install cargo-deny", &mut cargo(&["install", "--locked", "cargo-deny"]))?;
    }
    step("cargo deny", &mut cargo(&["deny", "--workspace", "check"]))
}

/// Every combination of features that means something.
pub(crate) fn features() -> Outcome {
    for (package, features) in [
        ("towline", ""),
        ("towline", "tls"),
        ("towline", "tls,aws-lc-rs"),
        ("towline", "tls,cert"),
        ("towline", "quic"),
        ("towline", "quic,qlog"),
        ("towline-proto", ""),
        ("towline-proto", "tls"),
        ("towline-proto", "tls,ring,aws-lc-rs,system-roots,cert,fuzzing"),
    ] {
        let arguments =
            ["check", "--quiet", "-p", package, "--no-default-features", "--features", features];
        step(&format!("{package} with [{features}]"), &mut cargo(&arguments))?;
    }
    // What is off by default is on in a test of the whole workspace.
    let refused = ["test", "--quiet", "-p", "towline-proto", "--test", "quic", "qlog"];
    step("a trace is refused without its feature", &mut cargo(&refused))
}
