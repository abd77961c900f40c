//! BATS: coded transport over one hop or many, with relays that recode.
//!
//! A [`Flow`](flow::Flow) is one end of a coded connection. It sees its
//! neighbour through the trait [`Hop`](hop::Hop) only. An [`Endpoint`](endpoint::Endpoint) has any number of flows over QUIC, and a relay passes them on. `docs/bats.md` specifies what they say to one another.

pub mod congestion;
mod control;
pub mod endpoint;
mod flight;
pub mod flow;
mod geometry;
pub mod hop;
mod outbox;
mod parts;
pub mod quic_hop;
pub mod wire;

#[cfg(test)]
mod toy;
