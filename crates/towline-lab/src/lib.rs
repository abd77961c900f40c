//! Towline's laboratory: a network in virtual time, our endpoints and relays or a baseline over it, and what came out.
//!
//! A [`Cell`] says everything about one run; [`run`] runs it and gives a [`Report`]. The same cell gives the same report on every machine: time is virtual,
//! and every random number comes from the cell's seed (handshakes draw their own keys, which nothing depends on).

mod bulk;
mod cell;
mod chain;
mod coded;
mod engine;
mod fairness;
mod flow;
mod quic_node;
mod raw;
mod report;
mod scenario;

pub use cell::{Cell, LabError, Mode, run};
pub use report::Report;
pub use scenario::{Changes, Scenario};
