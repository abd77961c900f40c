//! Endpoints and relays over a simulated network.
#![cfg(feature = "bats")]

mod direct;
mod world;
