//! `towline send` and `towline receive`: files and directories over any wire.

mod held;
mod lanes;
mod names;
mod part;
mod protocol;
pub(crate) mod receive;
mod receiver;
pub(crate) mod send;
mod source;
mod tree;
