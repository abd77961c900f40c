//! An installation serves programs through pkg-config and CMake.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::{ok, scratch};

/// Installs into a folder of its own.
fn install() -> PathBuf {
    let prefix = scratch().join(format!("prefix-{}", std::process::id()));
    ok(support::xtask(&["install", "--prefix"]).arg(&prefix).arg("--debug"));
    prefix
}

const PROGRAM: &str = r#"
#include <stdio.h>
#include <string.h>
#include <c_bats_api.h>
#include <socket_iocp.h>
#include <towline.h>

int main(void) {
    towline_context *context;
    if (strcmp(towline_version(), TOWLINE_VERSION) != 0 || towline_context_new(NULL, &context) != TOWLINE_OK) {
        return 1;
    }
    towline_context_free(context);
    bats_config_destroy(bats_config_create());
    puts("ok");
    return 0;
}
"#;

fn words(command: &mut Command) -> Vec<String> {
    let output = ok(command);
    let text = String::from_utf8(output.stdout).expect("text");
    text.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn an_installation_serves_pkg_config_and_cmake() {
    let prefix = install();
    for file in [
        "lib/libtowline.a",
        "lib/libtowline.so",
        concat!("lib/libtowline.so.", env!("CARGO_PKG_VERSION")),
        "include/towline/c/towline.h",
        "include/towline/cpp/bats_protocol.h",
    ] {
        assert!(prefix.join(file).exists(), "{file} is missing");
    }
    if std::env::var_os("TOWLINE_BUILT").is_some() {
        // The whole workspace was built, the command with it.
        for file in [
            "bin/towline",
            "share/man/man1/towline.1",
            "share/man/man1/towline-perf-client.1",
            "share/bash-completion/completions/towline",
            "share/zsh/site-functions/_towline",
            "share/fish/vendor_completions.d/towline.fish",
        ] {
            let written = fs::metadata(prefix.join(file)).map_or(0, |found| found.len());
            assert!(written > 0, "{file} is missing");
        }
    }
    let source = prefix.join("program.c");
    fs::write(&source, PROGRAM).expect("a file");
    let run = |program: &Path| {
        let output = ok(Command::new(program).env("LD_LIBRARY_PATH", prefix.join("lib")));
        assert_eq!(output.stdout, b"ok\n");
    };

    let mut private = Vec::new();
    for (package, kind) in [("towline", ""), ("bats", ""), ("bats", "--static")] {
        let mut describe = Command::new("pkg-config");
        describe
            .args(["--cflags", "--libs", package])
            .env("PKG_CONFIG_PATH", prefix.join("lib/pkgconfig"));
        if !kind.is_empty() {
            describe.arg(kind);
        }
        let mut flags = words(&mut describe);
        if !kind.is_empty() {
            private = flags.iter().filter(|flag| *flag != "-ltowline").cloned().collect();
            // The archive in place of the shared library, and what it needs behind it.
            for flag in flags.iter_mut().filter(|flag| *flag == "-ltowline") {
                *flag = "-l:libtowline.a".to_owned();
            }
        }
        let program = prefix.join(format!("by-pkg-config-{package}{kind}"));
        ok(Command::new("gcc").arg("-std=c11").arg(&source).arg("-o").arg(&program).args(flags));
        run(&program);
    }

    let project = prefix.join("project");
    fs::create_dir_all(&project).expect("a folder");
    fs::write(
        project.join("CMakeLists.txt"),
        "cmake_minimum_required(VERSION 3.16)\nproject(user C CXX)\nfind_package(towline 0.1 REQUIRED)\n\
         add_executable(shared ../program.c)\ntarget_link_libraries(shared towline::towline)\n\
         get_target_property(needs towline::static INTERFACE_LINK_LIBRARIES)\nmessage(STATUS \"needs ${needs}.\")\n",
    )
    .expect("a file");
    let built = prefix.join("built");
    let mut cmake = Command::new("cmake");
    cmake.arg("-S").arg(&project).arg("-B").arg(&built);
    let configured = ok(cmake.arg(format!("-DCMAKE_PREFIX_PATH={}", prefix.display())));
    // A static link takes long, and it was done by pkg-config: that both name the same libraries is enough.
    let said = String::from_utf8_lossy(&configured.stdout).replace("Threads::Threads", "pthread");
    for library in private.iter().filter_map(|flag| flag.strip_prefix("-l")) {
        let named = [format!("{library};"), format!("{library}.")];
        assert!(named.iter().any(|name| said.contains(name)), "CMake lacks {library}: {said}");
    }
    ok(Command::new("cmake").arg("--build").arg(&built));
    run(&built.join("shared"));
    fs::remove_dir_all(&prefix).expect("cleaning up");
}
