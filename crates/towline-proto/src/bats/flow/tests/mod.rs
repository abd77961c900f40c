//! Flows over toy hops in virtual time.

mod brtp;
mod btp;
mod pair;
