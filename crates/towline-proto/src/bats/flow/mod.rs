//! One end of a coded flow.
//!
//! A [`Flow`] does no I/O and reads no clock. Its doors: [`Flow::drive`] after anything happened on the hop or the application gave
//! something, [`Flow::handle_timeout`] at [`Flow::poll_timeout`], and after either [`Flow::poll_event`] until it returns `None`.

mod clock;
mod config;
mod datagram;
mod event;
mod machine;
mod message;
mod packing;
mod rateless;
mod receiver;
pub(super) mod repeats;
mod reporting;
mod sealing;
mod sender;
mod stats;

#[cfg(test)]
mod tests;

pub use towline_code::BatchSize;

pub use config::{
    ConfigError, FlowConfig, Framing, HOP_WINDOW, INITIAL_WINDOW, MAX_WINDOW, Mode, Protection,
};
pub use event::{Closed, Event, SendError, code};
pub use machine::Flow;
pub(super) use machine::UNKNOWN_PATH;
pub(super) use reporting::Reporting;
pub(super) use sender::mix;
pub use stats::{Dropped, FlowStats};
