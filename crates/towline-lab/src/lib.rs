//! Towline's laboratory: a network in virtual time, our endpoints and relays or a baseline over it, and what came out.
//!
//! A [`Cell`] says everything about one run; [`run`] runs it and gives a [`Report`]. The same cell gives the same report on every machine: time is virtual,
//! and every random number comes from the cell's seed (handshakes draw their own keys, which nothing depends on). The exception is the baseline with BBRv3, whose engine
//! draws the length of its waits itself.

mod cell;
mod engine;
mod links;
mod load;
mod network;
mod node;
mod report;
mod scenario;
mod transport;

pub use cell::{Cell, LabError, Mode, run};
pub use links::{Change, Links, Outage, Override};
pub use load::Load;
pub use report::{Percentiles, Report};
pub use scenario::{Changes, Scenario};
pub use towline_proto::bats::congestion::Control;
