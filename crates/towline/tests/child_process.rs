//! Runs the example: a program of its own, because it starts itself as a child.

#[path = "../examples/child_process.rs"]
mod example;

fn main() -> Result<(), towline::Error> {
    example::main()
}
