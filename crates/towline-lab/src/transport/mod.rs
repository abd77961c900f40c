//! What carries an application's bytes: ours, and the baselines, behind the same few doors.

mod coded;
mod kcp;
mod quic;
mod raw;
mod streams;

use std::time::Instant;

use bytes::Bytes;
use towline_proto::bats::congestion::Control;
use towline_sim::{Delivery, Transmit};

pub(crate) use self::coded::RelayNode;
use crate::cell::{Cell, LabError, Mode};
use crate::node::Place;

/// One end of a connection without an application. After any `handle_*` come `begin`, the application's calls and `finish`, then
/// `poll_transmit` until it gives nothing, then `poll_timeout`.
pub(crate) trait Transport {
    fn handle_datagram(&mut self, now: Instant, datagram: Delivery);
    fn handle_timeout(&mut self, now: Instant);
    fn poll_transmit(&mut self, now: Instant) -> Option<Transmit>;
    fn poll_timeout(&mut self) -> Option<Instant>;
    /// Looks at what happened.
    fn begin(&mut self, now: Instant);
    /// Passes on what the application gave.
    fn finish(&mut self, _now: Instant) {}
    /// Whether both ends agree.
    fn is_open(&self) -> bool;
    /// Takes the front of a stream's next bytes; how many.
    fn write(&mut self, now: Instant, data: &Bytes) -> usize;
    /// Takes a message; whether there was room.
    fn send(&mut self, now: Instant, message: &Bytes) -> bool;
    /// The next bytes, or the next message.
    fn recv(&mut self, now: Instant) -> Option<Bytes>;
    /// Why it failed, if it did.
    fn failure(&self) -> Option<&str>;
}

/// One end of a flow of a cell.
pub(crate) fn make(cell: &Cell, place: &Place) -> Result<Box<dyn Transport>, LabError> {
    Ok(match cell.mode {
        Mode::Brtp | Mode::Btp | Mode::Brctp | Mode::EndCode => {
            Box::new(coded::CodedEnd::new(cell, place)?)
        }
        Mode::Raw => Box::new(raw::RawHop::end(cell, place)),
        Mode::QuicCubic => Box::new(streams::QuicStreams::end(Control::Cubic, cell, place)),
        Mode::QuicBbr => Box::new(streams::QuicStreams::end(Control::Bbr3, cell, place)),
        Mode::Kcp => Box::new(kcp::KcpEnd::new(cell, place)?),
    })
}
