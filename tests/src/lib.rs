//! Tests that cross crates live beside this file. The Rust of the README and of the guide is compiled and run here.

#[doc = include_str!("../../README.md")]
#[cfg(doctest)]
pub struct Readme;

#[doc = include_str!("../../docs/guide/start.md")]
#[cfg(doctest)]
pub struct Start;

#[doc = include_str!("../../docs/guide/api.md")]
#[cfg(doctest)]
pub struct Api;
