//! BATS: coded transport over one hop or many, with relays that recode.

pub mod hop;
