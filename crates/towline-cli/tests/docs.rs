//! Every shell command of the guide and the README's own, run as it is written.
//!
//! Blocks marked `sh` are scripts. Ports are exchanged for free ones, a line that ends in `&` is waited for until its port is listened on, and
//! what runs in the background ends with its block.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn guide() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/guide");
    let mut pages: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    pages.sort();
    pages
}

/// The scripts of a page, each with the line where it begins.
fn scripts(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut inside: Option<(usize, String)> = None;
    for (number, line) in text.lines().enumerate() {
        match (&mut inside, line.trim_end()) {
            (None, "```sh") => inside = Some((number + 2, String::new())),
            (Some(_), "```") => found.extend(inside.take()),
            (Some((_, script)), line) => {
                script.push_str(line);
                script.push('\n');
            }
            (None, _) => {}
        }
    }
    found
}

/// A port that nobody has, for connections and for datagrams.
fn free_port() -> u16 {
    loop {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        if UdpSocket::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// The script with other ports, and with waiting behind what runs in the background.
fn runnable(script: &str) -> String {
    let mut ports: BTreeMap<String, u16> = BTreeMap::new();
    let mut out = String::from("set -eu\ntrap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n");
    for line in script.lines() {
        let mut line = line.to_owned();
        let mut listening = None;
        let mut from = 0;
        while let Some(at) = line[from..].find("127.0.0.1:") {
            let start = from + at + "127.0.0.1:".len();
            let length = line[start..].bytes().take_while(u8::is_ascii_digit).count();
            let number = line[start..start + length].to_owned();
            from = start;
            if number.len() == 4 {
                let port = *ports.entry(number).or_insert_with(free_port);
                line.replace_range(start..start + length, &port.to_string());
                listening.get_or_insert(port);
            }
        }
        let _ = writeln!(out, "{line}");
        if let Some(port) = listening.filter(|_| line.trim_end().ends_with('&')) {
            // State 0A is LISTEN.
            let _ = writeln!(
                out,
                "for i in $(seq 3000); do grep -q ':{port:04X} 00000000:0000 0A' /proc/net/tcp && break; sleep 0.02; done"
            );
        }
    }
    out
}

#[test]
fn every_command_of_the_guide_works() {
    let bin = Path::new(env!("CARGO_BIN_EXE_towline")).parent().unwrap().to_owned();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let mut count = 0;
    for page in guide() {
        let text = std::fs::read_to_string(&page).unwrap();
        for (line, script) in scripts(&text) {
            let name = format!(
                "docs-{}-{line}-{}",
                page.file_stem().unwrap().display(),
                std::process::id()
            );
            let scratch = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
            std::fs::create_dir_all(&scratch).unwrap();
            let output = Command::new("timeout")
                .args(["60", "bash", "-c", &runnable(&script)])
                .current_dir(&scratch)
                .env("PATH", &path)
                .env_remove("RUST_LOG")
                .stdin(Stdio::null())
                .output()
                .unwrap();
            assert!(
                output.status.success(),
                "{}:{line}: {}\n{script}\n{}{}",
                page.display(),
                output.status,
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
            std::fs::remove_dir_all(&scratch).ok();
            count += 1;
        }
    }
    assert!(count >= 12, "only {count} scripts were found");
}

#[test]
fn the_summary_names_every_page() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    let summary = std::fs::read_to_string(docs.join("SUMMARY.md")).unwrap();
    for page in guide() {
        let name = format!("guide/{}", page.file_name().unwrap().display());
        assert!(summary.contains(&name), "{name}");
    }
    for link in summary.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
        assert!(docs.join(link).exists(), "{link}");
    }
}
