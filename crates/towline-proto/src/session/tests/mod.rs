//! Tests of the session, by what they are about.

mod ending;
mod flow;
mod liveness;
mod memory;
mod random;
mod resume;
mod spread;
mod vectors;
