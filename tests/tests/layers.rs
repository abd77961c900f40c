//! Who may import whom, and which code may know of clocks, sockets and threads.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the root").to_path_buf()
}

/// The names in `[dependencies]` of a crate.
fn dependencies(name: &str) -> Vec<String> {
    let manifest = root().join("crates").join(name).join("Cargo.toml");
    let text =
        fs::read_to_string(&manifest).unwrap_or_else(|e| panic!("{}: {e}", manifest.display()));
    let mut inside = false;
    let mut found = Vec::new();
    for line in text.lines() {
        let line = line.trim();
        if line.starts_with('[') {
            inside = line == "[dependencies]" || line.ends_with(".dependencies]");
        } else if inside && !line.is_empty() && !line.starts_with('#') {
            let end = line.find(['.', ' ', '=']).unwrap_or(line.len());
            found.push(line[..end].to_owned());
        }
    }
    found
}

/// Rust files below a folder.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The code of a file without comments, and without its tests.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).expect("a source file");
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let lines = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn crates_import_only_the_layer_below() {
    let allowed: [(&str, &[&str]); 8] = [
        ("towline-code", &[]),
        ("towline-proto", &["towline-code"]),
        ("towline-io", &[]),
        ("towline-sim", &[]),
        ("towline-lab", &["towline-proto", "towline-sim"]),
        ("towline", &["towline-io", "towline-proto"]),
        // The emulator of `towline link` is the simulator's link on sockets of its own.
        ("towline-cli", &["towline", "towline-io", "towline-lab", "towline-sim"]),
        // `towline_core` is the crate `towline` under a name that differs from the library's own.
        ("towline-capi", &["towline_core", "towline-io"]),
    ];
    for (name, allowed) in allowed {
        let own = dependencies(name);
        assert!(name == "towline-code" || !own.is_empty(), "{name}: no dependencies were read");
        for dependency in own.iter().filter(|dependency| dependency.starts_with("towline")) {
            assert!(allowed.contains(&dependency.as_str()), "{name} must not import {dependency}");
        }
    }
}

#[test]
fn protocol_code_has_no_runtime_and_no_system_access() {
    let forbidden = ["tokio", "libc", "socket2", "io-uring", "getrandom", "mio", "rustix"];
    for name in ["towline-code", "towline-proto", "towline-sim"] {
        for dependency in dependencies(name) {
            assert!(
                !forbidden.contains(&dependency.as_str()),
                "{name} must not import {dependency}"
            );
        }
    }
}

#[test]
fn protocol_code_reads_no_clock_and_opens_nothing() {
    let forbidden = [
        "Instant::now",
        "SystemTime::now",
        "std::thread",
        "thread::sleep",
        "thread::spawn",
        "TcpStream",
        "TcpListener",
        "UdpSocket",
    ];
    let mut looked_at = 0;
    for name in ["towline-code", "towline-proto", "towline-sim"] {
        let mut files = Vec::new();
        sources(&root().join("crates").join(name).join("src"), &mut files);
        for file in files {
            let tests = file
                .components()
                .any(|part| part.as_os_str() == "tests" || part.as_os_str() == "testing");
            if tests || file.ends_with("tests.rs") || file.ends_with("fuzzing.rs") {
                continue;
            }
            looked_at += 1;
            let code = code(&file);
            for word in forbidden {
                assert!(!code.contains(word), "{}: {word}", file.display());
            }
        }
    }
    assert!(looked_at > 20, "only {looked_at} files were found");
}

#[test]
fn unsafe_stays_where_it_is_allowed() {
    for name in ["towline-proto", "towline-sim", "towline-lab", "towline", "towline-cli"] {
        let mut files = Vec::new();
        sources(&root().join("crates").join(name).join("src"), &mut files);
        assert!(!files.is_empty());
        for file in files {
            let code = code(&file);
            assert!(!code.contains("unsafe "), "{}", file.display());
            assert!(!code.contains("allow(unsafe_code)"), "{}", file.display());
        }
    }
}
