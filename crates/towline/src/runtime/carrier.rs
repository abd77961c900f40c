//! Carriers: what a link's bytes travel on.
//!
//! A link wants a stream of bytes in each direction, with back-pressure, and knows nothing else of what brings them. Each
//! kind of carrier is a variant of [`Carrier`], a value that names it in its table; the doors below are all that links
//! call, and what comes back is one of these, never inside of a door:
//!
//! | event | method of `Runtime` | when |
//! | --- | --- | --- |
//! | opened | `connected` | a dial's carrier is open, or failed to; once, first |
//! | received | `received`, `receive_failed` | once for each `carrier_receive`: bytes, the end, or a failure |
//! | sent | `sent` | what was sent with a report has left the queue |
//! | failed | `link_failed` | a send failed: the carrier is only good for closing |
//! | closed | `link_closed` | once, last, after `carrier_close`: the link's place is free |
//! | detached | `detached` | after `carrier_detach`: the carrier can move to another thread |
//!
//! Reading is asked for, once for each time: a carrier to which bytes come unasked keeps them, up to a bound of its own,
//! and holds its peer back beyond.

use std::net::SocketAddr;

use bytes::BytesMut;
use towline_io::SocketId;

use super::Runtime;

/// What carries a link's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carrier {
    /// A stream socket in this thread's driver.
    Socket(SocketId),
    /// A socket of an application's factory: its place in this thread's table, and its number.
    Factory { slot: usize, id: u64 },
}

impl Carrier {
    /// Whether a receive may name the memory that the bytes go to.
    pub(super) fn takes_direct(self) -> bool {
        match self {
            Carrier::Socket(_) => true,
            Carrier::Factory { .. } => false,
        }
    }
}

impl Runtime {
    /// Asks for bytes, once. With `direct`, up to so many go behind the contents of that buffer, and only what comes
    /// beyond goes elsewhere. `false`: nothing will come.
    #[inline]
    pub(super) fn carrier_receive(
        &mut self,
        carrier: Carrier,
        direct: Option<(BytesMut, usize)>,
    ) -> bool {
        match (carrier, direct) {
            (Carrier::Socket(id), Some((buffer, want))) => {
                self.driver.recv_into(id, buffer, want).is_ok()
            }
            (Carrier::Socket(id), None) => self.driver.recv(id).is_ok(),
            (Carrier::Factory { slot, id }, _) => self.socket_receive(slot, id),
        }
    }

    /// Queues what is in `scratch.wire` behind what is queued already. With `report`, `sent` follows when it is gone.
    /// `false`: the carrier takes no more. There is no bound here: the caller bounds by `carrier_queued`.
    #[inline]
    pub(super) fn carrier_send(&mut self, carrier: Carrier, report: bool) -> bool {
        match (carrier, report) {
            (Carrier::Socket(id), true) => {
                self.driver.send(id, self.scratch.wire.drain(..)).is_ok()
            }
            (Carrier::Socket(id), false) => {
                self.driver.post(id, self.scratch.wire.drain(..)).is_ok()
            }
            (Carrier::Factory { slot, id }, report) => self.socket_send(slot, id, report),
        }
    }

    /// Bytes queued and not yet on their way.
    #[inline]
    pub(super) fn carrier_queued(&self, carrier: Carrier) -> usize {
        match carrier {
            Carrier::Socket(id) => self.driver.queued(id),
            Carrier::Factory { slot, .. } => self.socket_queued(slot),
        }
    }

    /// Ends the sending side, behind what is queued.
    pub(super) fn carrier_finish(&mut self, carrier: Carrier) {
        match carrier {
            Carrier::Socket(id) => self.driver.shutdown_write(id),
            Carrier::Factory { slot, id } => self.socket_finish(slot, id, 1000, ""),
        }
    }

    /// Closes at once, both ways: what is queued is lost.
    pub(super) fn carrier_close(&mut self, carrier: Carrier) {
        match carrier {
            Carrier::Socket(id) => self.driver.close(id),
            Carrier::Factory { slot, id } => self.socket_close(slot, id),
        }
    }

    /// Takes it from this thread, after what is queued; a receive that waits fails.
    pub(super) fn carrier_detach(&mut self, carrier: Carrier) {
        match carrier {
            Carrier::Socket(id) => self.driver.detach(id),
            Carrier::Factory { slot, id } => self.socket_detach(slot, id),
        }
    }

    /// Our address, where it has one.
    pub(super) fn carrier_local(&self, carrier: Carrier) -> Option<SocketAddr> {
        match carrier {
            Carrier::Socket(id) => self.driver.local_addr(id),
            Carrier::Factory { .. } => None,
        }
    }

    /// How many bytes, of all that were sent, the peer's side is known to have, where that is known at all.
    pub(super) fn carrier_acknowledged(&self, carrier: Carrier) -> Option<u64> {
        match carrier {
            Carrier::Socket(id) => {
                let socket = self.driver.socket(id)?;
                towline_io::tcp_acknowledged(&socket)
            }
            // On their way is the most that a factory knows.
            Carrier::Factory { slot, .. } => {
                self.sockets.get(slot).map(|socket| socket.shared.completed())
            }
        }
    }
}
