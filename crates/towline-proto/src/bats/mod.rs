//! BATS: coded transport over one hop or many, with relays that recode.

pub mod congestion;
pub mod hop;
pub mod quic_hop;
