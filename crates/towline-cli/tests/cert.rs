//! `towline cert`.

mod common;

use std::os::unix::fs::PermissionsExt;

use common::{Directory, run};

fn mode(path: &str) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn writes_both_files_and_prints_only_the_pin() {
    let directory = Directory::new("cert-writes");
    let (cert, key) = (directory.file("a.crt"), directory.file("a.key"));
    let made = run(&["cert", "--out-cert", &cert, "--out-key", &key]).expect(0);
    let pin = made.stdout.trim_end();
    assert!(pin.starts_with("sha256:") && pin.len() == 7 + 64, "{made:?}");
    assert!(made.stderr.contains("localhost, 127.0.0.1, ::1"), "{made:?}");
    assert!(std::fs::read_to_string(&cert).unwrap().contains("BEGIN CERTIFICATE"));
    assert!(std::fs::read_to_string(&key).unwrap().contains("PRIVATE KEY"));
    assert_eq!(mode(&key), 0o600);
}

#[test]
fn replaces_files_only_when_told() {
    let directory = Directory::new("cert-replaces");
    let (cert, key) = (directory.file("a.crt"), directory.file("a.key"));
    let arguments = ["cert", "-q", "--out-cert", &cert, "--out-key", &key];
    let first = run(&arguments).expect(0);
    let before = std::fs::read(&key).unwrap();
    run(&arguments).expect(1).says(&["a.key", "--overwrite"]);
    assert_eq!(std::fs::read(&key).unwrap(), before);

    let again = run(&[&arguments[..], &["--overwrite"]].concat()).expect(0);
    assert_ne!(first.stdout, again.stdout);
    assert_ne!(std::fs::read(&key).unwrap(), before);
    assert_eq!(mode(&key), 0o600);

    // The key's name is free, the certificate's is not: no key is left behind.
    let other = directory.file("b.key");
    run(&["cert", "--out-cert", &cert, "--out-key", &other]).expect(1).says(&["a.crt"]);
    assert!(!std::path::Path::new(&other).exists());
}

#[test]
fn json_names_everything() {
    let directory = Directory::new("cert-json");
    let (cert, key) = (directory.file("a.crt"), directory.file("a.key"));
    let made =
        run(&["cert", "--json", "--name", "a.example", "--out-cert", &cert, "--out-key", &key]);
    let value: serde_json::Value = serde_json::from_str(&made.expect(0).stdout).unwrap();
    assert_eq!(value["schema_version"], 1);
    assert_eq!(value["names"], serde_json::json!(["a.example"]));
    assert_eq!(value["certificate"], cert);
    assert!(value["pin"].as_str().unwrap().starts_with("sha256:"));
}

#[test]
fn refuses_what_cannot_be() {
    let directory = Directory::new("cert-refuses");
    let (cert, key) = (directory.file("a.crt"), directory.file("a.key"));
    run(&["cert", "--out-cert", &cert, "--out-key", &cert]).expect(2).says(&["two files"]);
    let nowhere = directory.file("none/a.key");
    run(&["cert", "--out-cert", &cert, "--out-key", &nowhere]).expect(1).says(&["none/a.key"]);
    assert!(!std::path::Path::new(&cert).exists() && !std::path::Path::new(&key).exists());
}
