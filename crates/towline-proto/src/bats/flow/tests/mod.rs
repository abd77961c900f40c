//! Flows over toy hops in virtual time.

mod brctp;
mod brtp;
mod btp;
mod packing;
mod pair;
