//! The example runs, and its own assertions hold.

#[path = "../examples/two_engines.rs"]
mod two_engines;

#[test]
fn two_engines_transfer_a_file() {
    two_engines::main().unwrap();
}
