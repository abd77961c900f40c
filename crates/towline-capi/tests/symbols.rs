//! The shared library exports the API and nothing else, under its SONAME.

mod support;

use std::process::Command;

use support::{library, ok, root};

#[test]
fn only_what_the_headers_declare_is_exported() {
    let shared = library().join("libtowline.so");
    let output = ok(Command::new("nm").args(["-D", "--defined-only"]).arg(shared));
    let text = String::from_utf8(output.stdout).expect("text");
    let mut exported: Vec<&str> =
        text.lines().filter_map(|line| line.split_whitespace().last()).collect();
    exported.sort_unstable();
    let list = root().join("crates/towline-capi/symbols.txt");
    if std::env::var_os("TOWLINE_WRITE_HEADER").is_some() {
        std::fs::write(&list, exported.join("\n") + "\n").expect("writing the list");
    }
    let list = std::fs::read_to_string(list).expect("symbols.txt");
    let listed: Vec<&str> = list.lines().collect();
    assert_eq!(
        exported, listed,
        "symbols.txt has what the library exports; a change of it is one of the ABI"
    );

    let mut headers = String::new();
    for (path, _) in support::headers() {
        headers += &std::fs::read_to_string(path).expect("a header");
    }
    for symbol in listed {
        assert!(headers.contains(&format!("{symbol}(")), "no header declares {symbol}");
    }
}

#[test]
fn the_shared_library_has_a_soname_with_the_version() {
    let shared = library().join("libtowline.so");
    let output = ok(Command::new("objdump").arg("-p").arg(shared));
    let soname = concat!("libtowline.so.", env!("CARGO_PKG_VERSION"));
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find(|line| line.contains("SONAME")).expect("a SONAME");
    assert!(line.ends_with(soname), "{line}");
}
