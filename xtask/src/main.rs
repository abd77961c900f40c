//! What the project does to itself: `cargo xtask test`.
fn main() {}
