//! BATS: coded transport over one hop or many, with relays that recode.
//!
//! A [`Flow`](flow::Flow) is one end of a coded connection. It sees its
//! neighbour through the trait [`Hop`](hop::Hop) only. `docs/bats.md` specifies what they say to one another.

pub mod congestion;
mod control;
pub mod endpoint;
pub mod flow;
mod geometry;
pub mod hop;
pub mod quic_hop;
pub mod route;
pub mod wire;

#[cfg(test)]
mod toy;
