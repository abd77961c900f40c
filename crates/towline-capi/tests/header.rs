//! `towline.h` is what cbindgen makes of the sources. `cargo xtask header` writes it.

use std::fs;
use std::path::Path;

/// The sources in the order in which the header has their parts.
const SOURCES: [&str; 12] = [
    "entry.rs",
    "log.rs",
    "towline/context.rs",
    "towline/config.rs",
    "towline/message.rs",
    "towline/endpoint.rs",
    "towline/listener.rs",
    "towline/connection.rs",
    "towline/event.rs",
    "towline/request.rs",
    "towline/stats.rs",
    "towline/quic.rs",
];

fn generate() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(root.join("cbindgen.toml")).expect("cbindgen.toml");
    let mut builder = cbindgen::Builder::new().with_config(config);
    for source in SOURCES {
        builder = builder.with_src(root.join("src").join(source));
    }
    let mut text = Vec::new();
    builder.generate().expect("a header").write(&mut text);
    String::from_utf8(text).expect("text")
}

#[test]
fn the_committed_header_is_the_generated_one() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("include/c/towline.h");
    let generated = generate();
    if std::env::var_os("TOWLINE_WRITE_HEADER").is_some() {
        fs::write(&path, &generated).expect("writing the header");
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == generated, "towline.h is out of date; run `cargo xtask header`");
    let version = format!("#define TOWLINE_VERSION \"{}\"", env!("CARGO_PKG_VERSION"));
    assert!(committed.contains(&version), "{version} is missing; see cbindgen.toml");
}
