//! Tests that cross crates live beside this file. The README's example is compiled here.

#[doc = include_str!("../../README.md")]
#[cfg(doctest)]
pub struct Readme;
