//! Datagram sockets over io_uring: receives by multishot into a ring of buffers of their own, or by readiness and batched calls where the kernel has no
//! multishot receive of messages; sends by batched calls, with readiness asked for when the socket was full.

use std::io;

use io_uring::types::Fd;
use io_uring::{cqueue, opcode};

use super::{BufferRing, DATAGRAM_GROUP, Uring, outcome};
use crate::core::Core;
use crate::driver::KernelOp;
use crate::entry::{Entry, Life};
use crate::udp::{self, Batch};
use crate::{Completion, Event, OpId, SocketId, sys};

/// Datagram buffers offered to the kernel at most. It takes them in turn, so with many large ones each is cold in the processor's cache when its turn comes; what comes
/// while all are full waits in the socket.
const RING: usize = 16;

impl Uring {
    pub(super) fn start_datagrams(&mut self, core: &mut Core, id: SocketId) {
        if self.datagrams.is_none() && !self.no_multishot_recvmsg {
            let Core { config, datagram_pool, .. } = core;
            let buffers = config.recv_buffers.min(RING);
            self.datagrams =
                BufferRing::new(&self.ring, DATAGRAM_GROUP, buffers, datagram_pool).ok();
        }
        let Some(entry) = core.entry(id) else { return };
        let (fd, life) = (Fd(entry.fd()), entry.life);
        let Some(udp) = entry.udp() else { return };
        if udp.recv.is_none() || udp.recv_submitted || life != Life::Open {
            return;
        }
        if udp.recv_cancel {
            core.cancel_datagram_recv(id);
            return;
        }
        udp.recv_submitted = true;
        let multishot = udp.batch && !self.no_multishot_recvmsg && self.datagrams.is_some();
        let sqe = if multishot {
            let header = udp.header.get_or_insert_with(udp::multishot_header);
            opcode::RecvMsgMulti::new(fd, &raw const **header, DATAGRAM_GROUP).build()
        } else {
            udp.header = None;
            opcode::PollAdd::new(fd, libc::POLLIN as _).build()
        };
        self.push_op(core, id, KernelOp::Datagrams, sqe);
    }

    pub(super) fn watch_datagram_room(&mut self, core: &mut Core, id: SocketId) {
        let Some(entry) = core.entry(id) else { return };
        let fd = Fd(entry.fd());
        let Some(udp) = entry.udp() else { return };
        if udp.queue.is_empty() || udp.writable || udp.send_polled {
            return;
        }
        udp.send_polled = true;
        let sqe = opcode::PollAdd::new(fd, libc::POLLOUT as _).build();
        self.push_op(core, id, KernelOp::DatagramRoom, sqe);
    }

    pub(super) fn datagrams_received(
        &mut self,
        core: &mut Core,
        id: SocketId,
        result: i32,
        flags: u32,
    ) {
        let Core { sockets, datagram_pool, ready, stats, datagram_batch, .. } = core;
        let more = cqueue::more(flags);
        let buffer = cqueue::buffer_select(flags).zip(self.datagrams.as_mut());
        let Some(entry) = sockets.get_mut(id.index, id.generation) else { return };
        let (fd, tag, closing) = (entry.fd(), entry.tag, entry.life != Life::Open);
        let Some(udp) = entry.udp() else { return };
        if !more {
            udp.recv_submitted = false;
        }
        let op = OpId { socket: id, serial: udp.recv.unwrap_or(0) };
        let mut arrived = |datagrams| {
            let event = Event::Datagrams(datagrams);
            ready.push(Completion { socket: id, op, tag, event });
        };
        if let Some((index, ring)) = buffer {
            let length = usize::try_from(result).unwrap_or(0);
            if let Some(header) = &udp.header {
                ring.borrow(index, length, datagram_pool, |buffer, pool| {
                    if let Some(datagrams) = udp::unpack_multishot(buffer, header, pool) {
                        arrived(datagrams);
                    }
                });
            }
            return;
        }
        match outcome(result) {
            Ok(_) if udp.header.is_none() => {
                // The kernel says that there is something to read.
                let mut batch = datagram_batch.take().unwrap_or_else(Batch::new);
                stats.system_calls += 1;
                let failure = batch.receive(fd, udp.batch, datagram_pool, arrived).err();
                batch.release(datagram_pool);
                *datagram_batch = Some(batch);
                if let Some(error) = failure.filter(|error| !sys::would_block(error)) {
                    core.report(op, tag, Event::DatagramError(error));
                }
            }
            Ok(_) => {}
            Err(error) => {
                self.datagrams_failed(core, id, op, error, more, closing);
            }
        }
    }

    fn datagrams_failed(
        &mut self,
        core: &mut Core,
        id: SocketId,
        op: OpId,
        error: io::Error,
        more: bool,
        closing: bool,
    ) {
        let Some(entry) = core.entry(id) else { return };
        let tag = entry.tag;
        let Some(udp) = entry.udp() else { return };
        match error.raw_os_error() {
            // Buffers were replaced meanwhile; the receive is armed again.
            Some(libc::ENOBUFS) if !closing => {}
            Some(libc::EINVAL) if udp.header.is_some() && !self.no_multishot_recvmsg => {
                self.no_multishot_recvmsg = true;
            }
            Some(libc::ECANCELED | libc::EBADF | libc::EINVAL | libc::EOPNOTSUPP) => {
                if !more {
                    udp.recv = None;
                    core.report(op, tag, Event::DatagramsEnded(error));
                }
            }
            _ => core.report(op, tag, Event::DatagramError(error)),
        }
    }

    pub(super) fn datagram_room(core: &mut Core, id: SocketId) {
        if let Some(udp) = core.entry(id).and_then(Entry::udp) {
            (udp.send_polled, udp.writable) = (false, true);
        }
    }
}
