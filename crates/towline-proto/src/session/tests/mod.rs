//! Tests of the session, by what they are about.

mod random;
mod vectors;
