//! Endpoints and relays over a simulated network.
#![cfg(feature = "bats")]
#![expect(unreachable_pub, reason = "modules of one test")]

mod direct;
mod hostile;
mod relays;
mod world;
