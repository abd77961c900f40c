//! BATS: coded transport over one hop or many, with relays that recode.
//!
//! A [`Flow`](flow::Flow) is one end of a coded connection, a [`RelayFlow`](relay::RelayFlow) what a relay does for it. They see their
//! neighbours through the trait [`Hop`](hop::Hop) only. An [`Endpoint`](endpoint::Endpoint) has any number of flows over QUIC, and a
//! [`Relay`](endpoint::Relay) passes them on. `docs/bats.md` specifies what they say to one another.

pub mod congestion;
mod control;
pub mod endpoint;
mod flight;
pub mod flow;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod geometry;
pub mod hop;
mod mixer;
mod outbox;
mod parts;
pub mod plain;
pub mod quic_hop;
pub mod relay;
mod runs;
pub mod seal;
mod seen;
pub mod wire;

#[cfg(test)]
mod toy;
#[cfg(test)]
mod vectors;
