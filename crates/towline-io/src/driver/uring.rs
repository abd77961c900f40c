//! The driver over io_uring.
//!
//! `progress` turns what an entry asks for into submission entries; `poll` hands them over and waits in one system
//! call. Per socket at most one receive and one send are in the kernel: concurrent sends on a ring interleave. What
//! the kernel refers to lives in the entry, which stays until its last completion; `user_data` is the entry's index
//! and generation and the kind of operation, never an address.

mod datagrams;

use std::io;
use std::os::fd::{FromRawFd, RawFd};
use std::time::{Duration, Instant};

use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, Probe, cqueue, opcode, squeue};
use socket2::Socket;

use super::buffer_ring::BufferRing;
use super::{KernelOp, System, Timeout};
use crate::core::Core;
use crate::entry::{Body, Entry, Life, RecvFrame, SendFrame};
use crate::{Received, RecvError, SocketId, Without, sys};

/// Most segments in one kernel operation (`UIO_MAXIOV`).
const MAX_IOVECS: usize = 1024;
/// About how many bytes go into one kernel send: enough to amortise it, few enough that completions keep flowing.
const SEND_BYTES: usize = 1 << 20;
/// Posts up to this size are tried without a completion, together with the wait.
const SILENT_BYTES: usize = 64 * 1024;
/// Completion queue entries per submission queue entry.
const CQ_FACTOR: u32 = 4;
/// How long a dropped driver waits for the kernel to let go.
const SHUT_DOWN_PATIENCE: Duration = Duration::from_secs(5);

/// Kinds of operations that belong to no socket, beside those of [`KernelOp`].
const KIND_WAKE: u8 = 14;
const KIND_CANCEL: u8 = 15;

/// Buffer group of stream receives.
const STREAM_GROUP: u16 = 0;
/// Buffer group of datagram receives.
const DATAGRAM_GROUP: u16 = 1;

/// The system's part of the driver.
pub(crate) struct Uring {
    // Declared first, so that the ring is gone before the buffers that it refers to.
    ring: IoUring,
    streams: BufferRing,
    /// Made when the first datagram socket comes.
    datagrams: Option<BufferRing>,
    /// Operations whose last completion is to come, of sockets and others.
    in_flight: u64,
    /// Frames out of use. Boxed, as in the entries: their address must not change while the kernel has them.
    #[expect(clippy::vec_box)]
    recv_frames: Vec<Box<RecvFrame>>,
    #[expect(clippy::vec_box)]
    send_frames: Vec<Box<SendFrame>>,
    /// Sockets whose send posts a completion only if it fails (see `start_send`).
    silent: Vec<SocketId>,
    /// Such sends can be made: they need a kernel that reports a short send as one (6.1).
    can_be_silent: bool,
    /// The kernel refused multishot datagram receives (before 6.0): readiness and a batched call instead.
    no_multishot_recvmsg: bool,
}

/// The step that needs rings of buffers.
const BUFFERS: &str = "registering receive buffers (needs Linux 5.19)";

fn user_data(kind: u8, id: SocketId) -> u64 {
    u64::from(kind) << 60 | u64::from(id.generation) << 32 | u64::from(id.index)
}

impl Uring {
    /// Builds a ring, or says which step failed.
    pub(crate) fn new(core: &mut Core) -> io::Result<Uring> {
        let without = core.config.without;
        let ring = build(core.config.queue_entries, without)
            .map_err(|error| explain("io_uring_setup", &error))?;
        let params = ring.params();
        if without.has(Without::FEATURES)
            || !params.is_feature_ext_arg()
            || !params.is_feature_nodrop()
            || !params.is_feature_fast_poll()
        {
            return Err(unsupported("the kernel's io_uring is older than 5.11"));
        }
        let mut probe = Probe::new();
        ring.submitter()
            .register_probe(&mut probe)
            .map_err(|error| explain("probing io_uring", &error))?;
        let needed = [
            ("recv", opcode::Recv::CODE),
            ("recvmsg", opcode::RecvMsg::CODE),
            ("send", opcode::Send::CODE),
            ("sendmsg", opcode::SendMsg::CODE),
            ("accept", opcode::Accept::CODE),
            ("connect", opcode::Connect::CODE),
            ("poll", opcode::PollAdd::CODE),
            ("cancel", opcode::AsyncCancel::CODE),
        ];
        if let Some((name, _)) = needed.iter().find(|(_, code)| {
            !probe.is_supported(*code)
                || (without.has(Without::OPERATION) && *code == opcode::Recv::CODE)
        }) {
            return Err(unsupported(&format!("the kernel's io_uring has no {name}")));
        }
        if without.has(Without::BUFFERS) {
            return Err(explain(BUFFERS, &io::Error::from_raw_os_error(libc::EINVAL)));
        }
        let streams =
            BufferRing::new(&ring, STREAM_GROUP, core.config.recv_buffers, &mut core.pool)
                .map_err(|error| explain(BUFFERS, &error))?;
        let can_be_silent =
            params.is_setup_single_issuer() && params.is_feature_skip_cqe_on_success();
        let mut uring = Uring {
            ring,
            streams,
            datagrams: None,
            in_flight: 0,
            recv_frames: Vec::new(),
            send_frames: Vec::new(),
            silent: Vec::new(),
            can_be_silent,
            no_multishot_recvmsg: without.has(Without::MULTISHOT),
        };
        uring.watch_waker(core);
        uring.submit().map_err(|error| explain("submitting to io_uring", &error))?;
        Ok(uring)
    }

    fn watch_waker(&mut self, core: &Core) {
        let entry = opcode::PollAdd::new(Fd(core.waker.raw_fd()), libc::POLLIN as _)
            .multi(true)
            .build()
            .user_data(user_data(KIND_WAKE, SocketId { index: 0, generation: 0 }));
        self.push(entry);
    }

    /// Puts an entry into the submission queue, making room first if it is full.
    fn push(&mut self, entry: squeue::Entry) {
        loop {
            // SAFETY: whatever `entry` refers to lives in a socket's entry, in a buffer ring or in the waker until
            // the completion; sockets are removed only when nothing of theirs is in flight.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                self.in_flight += 1;
                return;
            }
            // A failure (completion queue full) is met again, and reported, by the next `poll`; entries are taken by
            // the kernel one by one, so this ends.
            let _ = self.submit();
        }
    }

    /// Puts an entry of a socket into the submission queue.
    fn push_op(&mut self, core: &mut Core, id: SocketId, op: KernelOp, entry: squeue::Entry) {
        if let Some(socket) = core.entry(id) {
            socket.in_flight += 1;
            self.push(entry.user_data(user_data(op as u8, id)));
        }
    }

    fn submit(&mut self) -> io::Result<()> {
        self.ring.submitter().submit().map(drop)
    }

    fn start_connect(&mut self, core: &mut Core, id: SocketId) {
        let Some(entry) = core.entry(id) else { return };
        let fd = Fd(entry.fd());
        let Some(connect) = entry.stream().and_then(|stream| stream.connect.as_mut()) else {
            return;
        };
        if connect.started {
            return;
        }
        connect.started = true;
        let addr = &connect.addr;
        let sqe = opcode::Connect::new(fd, addr.as_ptr().cast(), addr.len()).build();
        self.push_op(core, id, KernelOp::Connect, sqe);
    }

    /// Hands the head of the queue to the kernel.
    ///
    /// A send whose success nobody wants to hear of is made with `MSG_DONTWAIT` and without a completion on success:
    /// it is over when its submission is, so that the same system call can go on to wait for something else. A short
    /// or failed one does post a completion (`MSG_WAITALL` makes a short send count as failed), and the rest is sent
    /// the usual way.
    fn start_send(&mut self, core: &mut Core, id: SocketId) {
        let Some(entry) = core.entry(id) else { return };
        let fd = Fd(entry.fd());
        let Some(stream) = entry.stream() else { return };
        if stream.send.is_locked() {
            return;
        }
        let mut flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
        let mut sqe_flags = squeue::Flags::empty();
        let silent = self.can_be_silent
            && stream.writable
            && stream.send.queued() <= SILENT_BYTES
            && stream.send.is_quiet();
        if silent {
            flags |= libc::MSG_DONTWAIT;
            sqe_flags = squeue::Flags::SKIP_SUCCESS;
            self.silent.push(id);
        }
        stream.silent = silent;
        let mut head = stream.send.head(MAX_IOVECS, SEND_BYTES);
        let Some(first) = head.next() else {
            // Nothing but empty sends.
            drop(head);
            stream.silent = false;
            core.advance_send(id, 0);
            return;
        };
        let Some(second) = head.next() else {
            let length = first.len().min(u32::MAX as usize >> 1);
            let sqe = opcode::Send::new(fd, first.as_ptr(), length as u32).flags(flags).build();
            drop(head);
            stream.send.lock(length);
            self.push_op(core, id, KernelOp::Send, sqe.flags(sqe_flags));
            return;
        };
        let mut frame = self.send_frames.pop().unwrap_or_else(|| {
            Box::new(SendFrame { header: sys::empty_msghdr(), iovecs: Vec::new() })
        });
        let mut total = 0;
        frame.iovecs.clear();
        frame.iovecs.extend([first, second].into_iter().chain(head).map(|slice| {
            total += slice.len();
            libc::iovec { iov_base: slice.as_ptr().cast_mut().cast(), iov_len: slice.len() }
        }));
        frame.header.msg_iov = frame.iovecs.as_mut_ptr();
        frame.header.msg_iovlen = frame.iovecs.len() as _;
        let sqe = opcode::SendMsg::new(fd, &raw const frame.header).flags(flags as u32).build();
        stream.send.lock(total);
        stream.send_frame = Some(frame);
        self.push_op(core, id, KernelOp::Send, sqe.flags(sqe_flags));
    }

    fn start_recv(&mut self, core: &mut Core, id: SocketId) {
        let Core { sockets, pool, .. } = core;
        let Some(entry) = sockets.get_mut(id.index, id.generation) else { return };
        let fd = Fd(entry.fd());
        let Some(stream) = entry.stream() else { return };
        // After a receive that drained the socket the kernel need not try before it waits.
        let poll_first = !stream.readable;
        let Some(recv) = stream.recv.as_mut().filter(|recv| !recv.submitted) else { return };
        recv.submitted = true;
        let ioprio = if poll_first { RECV_POLL_FIRST } else { 0 };
        let Some(direct) = &mut recv.direct else {
            if !poll_first {
                // There is more to read: into the buffer that was used last, which is still in the cache. The ring of
                // buffers goes round through all of them.
                let hot = recv.hot.insert(pool.take());
                let room = hot.spare_capacity_mut();
                let length = room.len().min(u32::MAX as usize) as u32;
                let sqe = opcode::Recv::new(fd, room.as_mut_ptr().cast(), length)
                    .flags(libc::MSG_DONTWAIT)
                    .build();
                self.push_op(core, id, KernelOp::Recv, sqe);
                return;
            }
            let sqe = opcode::Recv::new(fd, std::ptr::null_mut(), 0)
                .buf_group(STREAM_GROUP)
                .ioprio(ioprio)
                .build()
                .flags(squeue::Flags::BUFFER_SELECT);
            self.push_op(core, id, KernelOp::Recv, sqe);
            return;
        };
        let mut frame = self.recv_frames.pop().unwrap_or_else(|| Box::new(RecvFrame::new()));
        frame.pooled = pool.take();
        let spare = direct.spare_capacity_mut();
        recv.want = recv.want.min(spare.len());
        frame.iovecs[0] = libc::iovec { iov_base: spare.as_mut_ptr().cast(), iov_len: recv.want };
        let room = frame.pooled.spare_capacity_mut();
        let (base, length) = (room.as_mut_ptr(), sys::room_beyond(room.len()));
        frame.iovecs[1] = libc::iovec { iov_base: base.cast(), iov_len: length };
        frame.header.msg_iov = frame.iovecs.as_mut_ptr();
        frame.header.msg_iovlen = 2;
        let flags = if poll_first { 0 } else { libc::MSG_DONTWAIT as u32 };
        let sqe =
            opcode::RecvMsg::new(fd, &raw mut frame.header).ioprio(ioprio).flags(flags).build();
        recv.frame = Some(frame);
        self.push_op(core, id, KernelOp::Recv, sqe);
    }

    fn start_accept(&mut self, core: &mut Core, id: SocketId) {
        core.deliver_accepted(id);
        let Some(entry) = core.entry(id) else { return };
        let (fd, life) = (Fd(entry.fd()), entry.life);
        let Some(listener) = entry.listener() else { return };
        let pooled = listener.pool.len();
        let may_accept = life == Life::Open && listener.ready > 0 && !listener.paused;
        if may_accept && !listener.armed && pooled <= listener.ready / 2 {
            listener.armed = true;
            listener.stopping = false;
            let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
            let sqe = opcode::AcceptMulti::new(fd).flags(flags).build();
            self.push_op(core, id, KernelOp::Accept, sqe);
        }
        if may_accept && pooled > 0 {
            core.touch(id);
        }
    }

    /// Works off the completion queue.
    fn reap(&mut self, core: &mut Core) {
        // Completions are copied out one by one: handling one may push to the ring.
        while let Some(completion) = self.next_completion() {
            self.handle(core, &completion);
        }
    }

    fn next_completion(&mut self) -> Option<cqueue::Entry> {
        self.ring.completion().next()
    }

    fn handle(&mut self, core: &mut Core, completion: &cqueue::Entry) {
        let more = cqueue::more(completion.flags());
        let data = completion.user_data();
        let (kind, result) = ((data >> 60) as u8, completion.result());
        let generation = (data >> 32) as u32 & crate::slots::GENERATION_MASK;
        let id = SocketId { index: data as u32, generation };
        if !more {
            self.in_flight -= 1;
        }
        match kind {
            KIND_WAKE => {
                if !more {
                    self.watch_waker(core);
                }
                return;
            }
            KIND_CANCEL => return,
            _ => {}
        }
        if !more && let Some(entry) = core.entry(id) {
            entry.in_flight -= 1;
        }
        const RECV: u8 = KernelOp::Recv as u8;
        const SEND: u8 = KernelOp::Send as u8;
        const ACCEPT: u8 = KernelOp::Accept as u8;
        const CONNECT: u8 = KernelOp::Connect as u8;
        const DATAGRAMS: u8 = KernelOp::Datagrams as u8;
        const DATAGRAM_ROOM: u8 = KernelOp::DatagramRoom as u8;
        match kind {
            RECV => self.received(core, id, result, completion.flags()),
            SEND => self.sent(core, id, result),
            ACCEPT => self.accepted(core, id, result, more),
            CONNECT => core.end_connect(id, outcome(result).map(drop)),
            DATAGRAMS => self.datagrams_received(core, id, result, completion.flags()),
            DATAGRAM_ROOM => Self::datagram_room(core, id),
            _ => {}
        }
        self.finish(core, id);
    }

    /// After a completion: what follows from it for a socket that goes on, or the end of one that does not.
    fn finish(&mut self, core: &mut Core, id: SocketId) {
        let Some(entry) = core.entry(id) else { return };
        if entry.life == Life::Closing {
            if entry.in_flight == 0 {
                core.abandon(id);
            }
        } else {
            if entry.life == Life::Detaching {
                // What ended without having been cancelled is not started again.
                core.cancel_recv(id);
                core.cancel_datagram_recv(id);
                core.deliver_accepted(id);
            }
            core.touch(id);
        }
        super::settle(self, core, id);
    }

    fn received(&mut self, core: &mut Core, id: SocketId, result: i32, flags: u32) {
        let turn = core.turn;
        let Core { sockets, pool, .. } = core;
        let selected = cqueue::buffer_select(flags)
            .and_then(|index| self.streams.take(index, usize::try_from(result).unwrap_or(0), pool));
        let Some(entry) = sockets.get_mut(id.index, id.generation) else { return };
        let closing = entry.life != Life::Open;
        let Some(stream) = entry.stream() else { return };
        let Some(mut recv) = stream.recv.take() else { return };
        recv.submitted = false;
        let mut result = result;
        let mut selected = selected;
        if let Some(mut hot) = recv.hot.take() {
            if let Ok(length @ 1..) = usize::try_from(result) {
                // SAFETY: the kernel has initialised `length` bytes of the room that it was offered.
                unsafe { hot.set_len(length) };
                selected = Some(hot);
            } else {
                pool.put(hot);
            }
        }
        if result == -libc::EAGAIN {
            // It was not to wait; the next one does.
            if let Some(mut frame) = recv.frame.take() {
                pool.put(std::mem::take(&mut frame.pooled));
                self.recv_frames.push(frame);
            }
            if !closing && !recv.cancel {
                stream.readable = false;
                stream.recv = Some(recv);
                return;
            }
            result = -libc::ECANCELED;
        }
        if result == -libc::ENOBUFS {
            // More sockets received at once than there are buffers; those are replaced by now.
            if !closing && !recv.cancel {
                stream.recv = Some(recv);
                return;
            }
            result = -libc::ECANCELED;
        }
        let drained = !cqueue::sock_nonempty(flags);
        stream.readable = !drained || result == 0;
        stream.note_received(turn);
        let frame = recv.frame.take();
        let mut direct = recv.direct.take();
        let mut direct_len = 0;
        let pooled = match frame {
            None => selected.unwrap_or_default(),
            Some(mut frame) => {
                let mut pooled = std::mem::take(&mut frame.pooled);
                self.recv_frames.push(frame);
                let length = usize::try_from(result).unwrap_or(0);
                direct_len = length.min(recv.want);
                // SAFETY: the kernel has filled the vectors in order: `direct_len` bytes behind the contents of
                // the direct buffer, the rest in the pooled one.
                unsafe {
                    if let Some(direct) = &mut direct {
                        direct.set_len(direct.len() + direct_len);
                    }
                    pooled.set_len(length - direct_len);
                }
                if pooled.is_empty() {
                    pool.put(std::mem::take(&mut pooled));
                }
                pooled
            }
        };
        let result = match outcome(result) {
            Ok(length) => Ok(Received { direct, direct_len, pooled, end: length == 0, drained }),
            Err(error) => Err(RecvError { error, direct }),
        };
        core.end_recv(id, result, recv.serial);
    }

    /// After a submission: the silent sends that posted no completion have succeeded.
    fn resolve_silent(&mut self, core: &mut Core) {
        if self.silent.is_empty() {
            return;
        }
        let queue = self.ring.submission();
        if !queue.is_empty() || queue.cq_overflow() {
            // Some were not submitted yet, or completions are held back: it is not known yet.
            return;
        }
        drop(queue);
        let mut list = std::mem::take(&mut self.silent);
        for id in list.drain(..) {
            let Some(entry) = core.entry(id) else { continue };
            let Body::Stream(stream) = &mut entry.body else { continue };
            if !stream.silent {
                continue;
            }
            stream.silent = false;
            entry.in_flight -= 1;
            self.in_flight -= 1;
            self.send_frames.extend(stream.send_frame.take());
            let written = stream.send.locked();
            core.advance_send(id, written);
            self.follow_up_silent(core, id);
        }
        self.silent = list;
    }

    fn follow_up_silent(&mut self, core: &mut Core, id: SocketId) {
        let Some(entry) = core.entry(id) else { return };
        let Body::Stream(stream) = &entry.body else { return };
        if entry.life != Life::Open || !stream.send.is_empty() || stream.shutdown {
            core.sweep_sends(id);
            self.finish(core, id);
        }
    }

    fn sent(&mut self, core: &mut Core, id: SocketId, result: i32) {
        if let Some(stream) = core.entry(id).and_then(Entry::stream) {
            // After a silent send that did not get through, wait for room.
            stream.writable = !stream.silent;
            stream.silent = false;
            self.send_frames.extend(stream.send_frame.take());
        }
        match outcome(result) {
            Ok(written) => {
                core.advance_send(id, written);
                core.sweep_sends(id);
            }
            Err(error) => {
                core.advance_send(id, 0);
                let interrupted = [libc::ECANCELED, libc::EINTR, libc::EAGAIN];
                if error.raw_os_error().is_some_and(|code| interrupted.contains(&code)) {
                    // What was asked to be cancelled goes; the rest is submitted again.
                    core.sweep_sends(id);
                } else {
                    core.fail_sends(id, error);
                }
            }
        }
    }

    fn accepted(&mut self, core: &mut Core, id: SocketId, result: i32, more: bool) {
        let result = outcome(result).map(|fd| {
            // SAFETY: the kernel has opened this descriptor for us.
            unsafe { Socket::from_raw_fd(fd as RawFd) }
        });
        let Some(entry) = core.entry(id) else { return };
        let life = entry.life;
        let Some(listener) = entry.listener() else { return };
        if !more {
            (listener.armed, listener.stopping) = (false, false);
        }
        match result {
            Ok(socket) if life != Life::Closing => {
                listener.shortages = 0;
                listener.pool.push_back(socket);
                // Enough for now: the rest waits in the kernel's backlog. Some may come before this takes effect.
                let full = listener.pool.len() >= listener.ready.max(1);
                if full && listener.armed && !listener.stopping {
                    self.cancel_kernel(core, id, KernelOp::Accept);
                }
            }
            Ok(socket) => drop(socket),
            Err(error) if error.raw_os_error() == Some(libc::ECANCELED) => {}
            Err(error) => core.accept_failed(id, error),
        }
    }
}

/// `IORING_RECVSEND_POLL_FIRST`: wait for readiness before the first try (Linux 5.19).
const RECV_POLL_FIRST: u16 = 1;

impl System for Uring {
    fn register(&mut self, core: &mut Core, id: SocketId) -> io::Result<()> {
        if let Some(stream) = core.entry(id).and_then(Entry::stream) {
            // Nothing is known to be there: the first receive waits for it.
            stream.readable = false;
        }
        Ok(())
    }

    fn forget(&mut self, _core: &mut Core, _id: SocketId) {}

    fn progress(&mut self, core: &mut Core, id: SocketId) {
        let turn = core.turn;
        let Some(entry) = core.entry(id) else { return };
        match &mut entry.body {
            Body::Stream(stream) => {
                if stream.connect.is_some() {
                    self.start_connect(core, id);
                    return;
                }
                let send = !stream.send.is_empty();
                let recv = stream.recv.is_some();
                let waits = stream.received_in(turn);
                if send && stream.holds_back(turn) {
                    // A receive that is to come completes at once, and one that has come will be answered.
                    if waits {
                        core.touch(id);
                    }
                } else if send {
                    self.start_send(core, id);
                }
                if recv {
                    self.start_recv(core, id);
                }
                super::shutdown_if_due(core, id);
            }
            Body::Listener(_) => self.start_accept(core, id),
            Body::Udp(_) => {
                super::flush_datagrams(core, id);
                self.watch_datagram_room(core, id);
                self.start_datagrams(core, id);
            }
        }
    }

    fn cancel_kernel(&mut self, core: &mut Core, id: SocketId, what: KernelOp) {
        match core.entry(id).map(|entry| &mut entry.body) {
            Some(Body::Listener(listener)) => listener.stopping = true,
            Some(Body::Udp(udp)) => udp.recv_cancel |= what == KernelOp::Datagrams,
            Some(Body::Stream(stream)) => {
                if let Some(recv) = stream.recv.as_mut().filter(|_| what == KernelOp::Recv) {
                    recv.cancel = true;
                }
            }
            None => return,
        }
        let sqe = opcode::AsyncCancel::new(user_data(what as u8, id))
            .build()
            .user_data(user_data(KIND_CANCEL, id));
        self.push(sqe);
    }

    fn poll(&mut self, core: &mut Core, timeout: Timeout) -> io::Result<()> {
        core.stats.system_calls += 1;
        let submitter = self.ring.submitter();
        let result = match timeout {
            Timeout::None => submitter.submit_and_wait(0),
            Timeout::Infinite => submitter.submit_and_wait(1),
            Timeout::After(duration) => {
                let spec = Timespec::from(duration);
                submitter.submit_with_args(1, &SubmitArgs::new().timespec(&spec))
            }
        };
        self.reap(core);
        self.resolve_silent(core);
        core.stats.in_flight = self.in_flight;
        match result {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                // Out of time, interrupted, or completions had to be taken first.
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(error),
            },
        }
    }

    fn has_prepared(&mut self) -> bool {
        !self.ring.submission().is_empty()
    }

    fn may_have_events(&mut self) -> bool {
        if !self.has_task_flag() || !self.ring.completion().is_empty() {
            return true;
        }
        let queue = self.ring.submission();
        !queue.is_empty() || queue.taskrun() || queue.cq_overflow()
    }

    fn shut_down(&mut self, core: &mut Core) {
        let sqe = opcode::AsyncCancel2::new(io_uring::types::CancelBuilder::any().all())
            .build()
            .user_data(user_data(KIND_CANCEL, SocketId { index: 0, generation: 0 }));
        self.push(sqe);
        let end = Instant::now() + SHUT_DOWN_PATIENCE;
        while self.in_flight > 0 && Instant::now() < end {
            let spec = Timespec::from(Duration::from_millis(100));
            let args = SubmitArgs::new().timespec(&spec);
            let _ = self.ring.submitter().submit_with_args(1, &args);
            while let Some(completion) = self.next_completion() {
                // An operation with several completions is over, and its memory free, with the last one only.
                if !cqueue::more(completion.flags()) {
                    self.in_flight -= 1;
                }
                let accepted = (completion.user_data() >> 60) as u8 == KernelOp::Accept as u8;
                if accepted
                    && let Ok(fd) = RawFd::try_from(completion.result())
                    && fd >= 0
                {
                    // SAFETY: the kernel has opened this descriptor for us.
                    drop(unsafe { Socket::from_raw_fd(fd) });
                }
            }
        }
        if self.in_flight > 0 {
            // The kernel may still write: better to lose the memory than to free it.
            tracing::error!(in_flight = self.in_flight, "operations outlive their driver");
            std::mem::forget(std::mem::replace(&mut core.sockets, crate::slots::Slots::new()));
            self.streams.leak();
            if let Some(ring) = &mut self.datagrams {
                ring.leak();
            }
        }
    }
}

impl Uring {
    /// Whether the kernel raises a flag when it has work for us, so that spinning needs no system call.
    fn has_task_flag(&self) -> bool {
        // All modes that `build` tries but the last ask for it.
        self.ring.params().is_setup_single_issuer()
    }
}

/// The newest mode that the kernel has: one thread that runs its own completions (6.1), completions without
/// interrupting the thread (5.19), or plain.
fn build(entries: u32, without: Without) -> io::Result<IoUring> {
    if without.has(Without::RING) {
        return Err(io::Error::from_raw_os_error(libc::ENOSYS));
    }
    let mut builder = IoUring::builder();
    builder.setup_cqsize(entries.next_power_of_two() * CQ_FACTOR).setup_clamp().setup_submit_all();
    builder.dontfork();
    let mut newest = builder.clone();
    newest.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag();
    let mut newer = builder.clone();
    newer.setup_coop_taskrun().setup_taskrun_flag();
    let mut result = Err(io::Error::from_raw_os_error(libc::EINVAL));
    let modes = [
        (newest, without.has(Without::SINGLE_ISSUER)),
        (newer, without.has(Without::TASKRUN)),
        (builder, false),
    ];
    for (mode, unknown) in modes {
        match &result {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) && !unknown => {
                result = mode.build(entries);
            }
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            _ => break,
        }
    }
    result
}

fn outcome(result: i32) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result))
}

fn explain(step: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{step}: {error}"))
}

fn unsupported(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, message)
}
