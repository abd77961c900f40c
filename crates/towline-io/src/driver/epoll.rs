//! The driver over epoll: edge-triggered readiness, turned into completions.
//!
//! A socket is registered once, for both directions and edge-triggered, so that issuing an operation costs no system
//! call of its own. Two flags per socket remember what the edges said; an operation is tried when its flag is set,
//! and a call that came up short clears the flag. Nothing is ever in the kernel between two calls, so cancelling and
//! closing are immediate.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use super::{KernelOp, System, Timeout};
use crate::core::Core;
use crate::entry::{Body, Entry, Life};
use crate::udp::Batch;
use crate::{Event, OpId, Received, RecvError, SocketId, sys};

/// Most segments in one call (`UIO_MAXIOV`).
const MAX_IOVECS: usize = 1024;
/// Batches of datagrams read from one socket before the others have their turn.
const DATAGRAM_TURNS: usize = 4;
/// The key of the waker.
const WAKER: u64 = u64::MAX;

/// The system's part of the driver.
pub(crate) struct Epoll {
    fd: OwnedFd,
    events: Vec<libc::epoll_event>,
    iovecs: Vec<libc::iovec>,
    /// `epoll_pwait2` is there (Linux 5.11).
    fine_timeout: bool,
}

impl std::fmt::Debug for Epoll {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Epoll").field("fd", &self.fd).finish_non_exhaustive()
    }
}

impl Epoll {
    pub(crate) fn new(core: &Core) -> io::Result<Epoll> {
        // SAFETY: plain system call without pointers.
        let fd = sys::check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) } as isize)?;
        // SAFETY: the descriptor was just opened for us.
        let fd = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
        let events = Vec::with_capacity(core.config.queue_entries as usize);
        let epoll = Epoll { fd, events, iovecs: Vec::new(), fine_timeout: true };
        epoll.control(libc::EPOLL_CTL_ADD, core.waker.raw_fd(), libc::EPOLLIN, WAKER)?;
        Ok(epoll)
    }

    fn control(&self, op: i32, fd: RawFd, interest: i32, key: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events: (interest | libc::EPOLLET) as u32, u64: key };
        // SAFETY: `event` is valid for the call.
        let result = unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), op, fd, &mut event) };
        sys::check(result as isize).map(drop)
    }

    fn connect(&mut self, core: &mut Core, id: SocketId) {
        let Some(entry) = core.entry(id) else { return };
        let Body::Stream(stream) = &mut entry.body else { return };
        let Some(connect) = &mut stream.connect else { return };
        let result = if !connect.started {
            connect.started = true;
            match sys::start_connect(&entry.socket, &connect.addr) {
                Ok(true) => Ok(()),
                Ok(false) => {
                    stream.writable = false;
                    return;
                }
                Err(error) => Err(error),
            }
        } else if stream.writable {
            match entry.socket.take_error() {
                Ok(None) if entry.socket.peer_addr().is_ok() => Ok(()),
                Ok(None) => {
                    // An edge from before the attempt.
                    stream.writable = false;
                    return;
                }
                Ok(Some(error)) | Err(error) => Err(error),
            }
        } else {
            return;
        };
        core.end_connect(id, result);
    }

    fn send(&mut self, core: &mut Core, id: SocketId) {
        loop {
            let Some(entry) = core.entry(id) else { return };
            let fd = entry.fd();
            let Body::Stream(stream) = &mut entry.body else { return };
            if stream.send.is_empty() || stream.connect.is_some() || !stream.writable {
                break;
            }
            self.iovecs.clear();
            let mut total = 0;
            self.iovecs.extend(stream.send.head(MAX_IOVECS, usize::MAX).map(|slice| {
                total += slice.len();
                libc::iovec { iov_base: slice.as_ptr().cast_mut().cast(), iov_len: slice.len() }
            }));
            if total == 0 {
                core.advance_send(id, 0);
                continue;
            }
            // SAFETY: the vectors describe segments of the queue, which is not changed before the call.
            let result = unsafe { sys::send_vectored(fd, &mut self.iovecs) };
            core.stats.system_calls += 1;
            match result {
                Ok(written) => {
                    if written < total
                        && let Some(stream) = core.entry(id).and_then(Entry::stream)
                    {
                        stream.writable = false;
                    }
                    core.advance_send(id, written);
                }
                Err(error) if sys::would_block(&error) => {
                    if let Some(stream) = core.entry(id).and_then(Entry::stream) {
                        stream.writable = false;
                    }
                }
                Err(error) => core.fail_sends(id, error),
            }
        }
        super::shutdown_if_due(core, id);
    }

    /// Sends, or has a look in the next turn, when the application has answered what was received.
    fn send_unless_held(&mut self, core: &mut Core, id: SocketId) {
        let turn = core.turn;
        if core.entry(id).and_then(Entry::stream).is_some_and(|stream| stream.holds_back(turn)) {
            return core.touch(id);
        }
        self.send(core, id);
    }

    fn recv(&mut self, core: &mut Core, id: SocketId) {
        let turn = core.turn;
        let Some(entry) = core.sockets.get_mut(id.index, id.generation) else { return };
        let fd = entry.fd();
        let Body::Stream(stream) = &mut entry.body else { return };
        if !stream.readable || stream.connect.is_some() {
            return;
        }
        let Some(recv) = &mut stream.recv else { return };
        let mut pooled = core.pool.take();
        let mut room = pooled.capacity();
        let direct = recv.direct.as_mut().map(|direct| (direct, recv.want));
        if let Some((direct, want)) = &direct {
            let want = (direct.capacity() - direct.len()).min(*want);
            room = want + sys::room_beyond(room);
        }
        core.stats.system_calls += 1;
        let result = match sys::receive(fd, direct, &mut pooled) {
            Ok((direct_len, pooled_len)) => {
                let length = direct_len + pooled_len;
                let drained = length < room;
                stream.readable = !drained || stream.hangup || length == 0;
                stream.note_received(turn);
                let end = length == 0;
                if pooled_len == 0 {
                    core.pool.put(std::mem::take(&mut pooled));
                }
                Ok((direct_len, pooled, end, drained))
            }
            Err(error) => {
                core.pool.put(pooled);
                if sys::would_block(&error) {
                    stream.readable = false;
                    return;
                }
                Err(error)
            }
        };
        let Some(recv) = stream.recv.take() else { return };
        let direct = recv.direct;
        let result = match result {
            Ok((direct_len, pooled, end, drained)) => {
                Ok(Received { direct, direct_len, pooled, end, drained })
            }
            Err(error) => Err(RecvError { error, direct }),
        };
        core.end_recv(id, result, recv.serial);
    }

    fn accept(core: &mut Core, id: SocketId) {
        let mut delivered = 0;
        loop {
            let Some(entry) = core.entry(id) else { return };
            let (fd, tag, life) = (entry.fd(), entry.tag, entry.life);
            let Some(listener) = entry.listener() else { return };
            if life != Life::Open || !listener.readable || listener.paused || listener.ready == 0 {
                return;
            }
            if delivered >= listener.ready {
                core.touch(id);
                return;
            }
            core.stats.system_calls += 1;
            match sys::accept(fd) {
                Ok((socket, peer)) => {
                    delivered += 1;
                    if let Some(listener) = core.entry(id).and_then(Entry::listener) {
                        listener.shortages = 0;
                    }
                    if let Ok(local) = socket.local_addr() {
                        core.report_accepted(id, tag, socket, local, peer);
                    }
                }
                Err(error) if sys::would_block(&error) => {
                    if let Some(listener) = core.entry(id).and_then(Entry::listener) {
                        listener.readable = false;
                    }
                }
                Err(error) => {
                    delivered += 1;
                    core.accept_failed(id, error);
                }
            }
        }
    }

    fn recv_datagrams(core: &mut Core, id: SocketId) {
        let mut batch = core.datagram_batch.take().unwrap_or_else(Batch::new);
        for turn in 0.. {
            let Core { sockets, datagram_pool, ready, stats, .. } = core;
            let Some(entry) = sockets.get_mut(id.index, id.generation) else { break };
            let (fd, tag) = (entry.fd(), entry.tag);
            let Some(udp) = entry.udp() else { break };
            let Some(serial) = udp.recv else { break };
            if !udp.readable {
                break;
            }
            if turn == DATAGRAM_TURNS {
                core.touch(id);
                break;
            }
            stats.system_calls += 1;
            let op = OpId { socket: id, serial };
            let result = batch.receive(fd, udp.batch, datagram_pool, |datagrams| {
                let event = Event::Datagrams(datagrams);
                ready.push(crate::Completion { socket: id, op, tag, event });
            });
            match result {
                // Only EAGAIN says that a datagram socket is empty.
                Ok(_) => {}
                Err(error) if sys::would_block(&error) => udp.readable = false,
                Err(error) => core.report(op, tag, Event::DatagramError(error)),
            }
        }
        batch.release(&mut core.datagram_pool);
        core.datagram_batch = Some(batch);
    }

    fn wait(&mut self, timeout: Timeout) -> io::Result<usize> {
        self.events.clear();
        let (fd, events) = (self.fd.as_raw_fd(), self.events.as_mut_ptr());
        let most = self.events.capacity() as i32;
        let result = match timeout {
            // SAFETY: `events` has room for `most` events.
            Timeout::None => unsafe { libc::epoll_wait(fd, events, most, 0) },
            // SAFETY: as above.
            Timeout::Infinite => unsafe { libc::epoll_wait(fd, events, most, -1) },
            Timeout::After(duration) if self.fine_timeout => {
                let spec = libc::timespec {
                    tv_sec: duration.as_secs().try_into().unwrap_or(libc::time_t::MAX),
                    tv_nsec: duration.subsec_nanos().into(),
                };
                // SAFETY: as above; no signal mask is given.
                unsafe {
                    libc::syscall(
                        libc::SYS_epoll_pwait2,
                        fd,
                        events,
                        most,
                        &raw const spec,
                        std::ptr::null::<libc::sigset_t>(),
                        0usize,
                    ) as i32
                }
            }
            // SAFETY: as above.
            Timeout::After(duration) => unsafe {
                libc::epoll_wait(fd, events, most, milliseconds(duration))
            },
        };
        match sys::check(result as isize) {
            Ok(count) => Ok(count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            Err(error) if error.raw_os_error() == Some(libc::ENOSYS) && self.fine_timeout => {
                self.fine_timeout = false;
                self.wait(timeout)
            }
            Err(error) => Err(error),
        }
    }
}

impl System for Epoll {
    fn register(&mut self, core: &mut Core, id: SocketId) -> io::Result<()> {
        let Some(entry) = core.entry(id) else { return Ok(()) };
        let interest = match entry.body {
            Body::Listener(_) => libc::EPOLLIN,
            Body::Stream(_) => libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP,
            Body::Udp(_) => libc::EPOLLIN | libc::EPOLLOUT,
        };
        let key = u64::from(id.generation) << 32 | u64::from(id.index);
        self.control(libc::EPOLL_CTL_ADD, entry.fd(), interest, key)
    }

    // Closing alone would not do if the user kept a duplicate of the descriptor.
    fn forget(&mut self, core: &mut Core, id: SocketId) {
        if let Some(entry) = core.entry(id) {
            let _ = self.control(libc::EPOLL_CTL_DEL, entry.fd(), 0, 0);
        }
    }

    fn progress(&mut self, core: &mut Core, id: SocketId) {
        let turn = core.turn;
        let Some(entry) = core.entry(id) else { return };
        match &mut entry.body {
            Body::Stream(stream) => {
                let connects = stream.connect.is_some();
                let sends = !stream.send.is_empty() || stream.shutdown;
                let receives = stream.recv.is_some() && stream.readable;
                let held = sends && !connects && stream.holds_back(turn);
                if held {
                    self.recv(core, id);
                    return self.send_unless_held(core, id);
                }
                if connects {
                    self.connect(core, id);
                }
                if sends || connects {
                    self.send(core, id);
                }
                if receives || connects {
                    self.recv(core, id);
                }
            }
            Body::Listener(_) => Self::accept(core, id),
            Body::Udp(_) => {
                super::flush_datagrams(core, id);
                Self::recv_datagrams(core, id);
            }
        }
    }

    fn poll(&mut self, core: &mut Core, timeout: Timeout) -> io::Result<()> {
        core.stats.system_calls += 1;
        let count = self.wait(timeout)?;
        // SAFETY: the kernel has filled in `count` events, which is at most the capacity.
        unsafe { self.events.set_len(count) };
        for at in 0..count {
            let Some(&libc::epoll_event { events, u64: key }) = self.events.get(at) else { break };
            if key == WAKER {
                continue;
            }
            let id = SocketId { index: key as u32, generation: (key >> 32) as u32 };
            let Some(entry) = core.entry(id) else { continue };
            let is = |flags: i32| events & flags as u32 != 0;
            let over = is(libc::EPOLLHUP | libc::EPOLLERR);
            let readable = over || is(libc::EPOLLIN | libc::EPOLLRDHUP);
            let writable = over || is(libc::EPOLLOUT);
            match &mut entry.body {
                Body::Stream(stream) => {
                    stream.readable |= readable;
                    stream.writable |= writable;
                    stream.hangup |= over || is(libc::EPOLLRDHUP);
                }
                Body::Listener(listener) => listener.readable |= readable,
                Body::Udp(udp) => {
                    udp.readable |= readable;
                    udp.writable |= writable;
                }
            }
            self.progress(core, id);
            super::settle(self, core, id);
        }
        Ok(())
    }

    fn cancel_kernel(&mut self, _core: &mut Core, _id: SocketId, _what: KernelOp) {}

    fn has_prepared(&mut self) -> bool {
        false
    }

    fn may_have_events(&mut self) -> bool {
        true
    }

    fn shut_down(&mut self, _core: &mut Core) {}
}

/// Rounded up: waking early would make the caller wait again and again.
fn milliseconds(duration: Duration) -> i32 {
    duration.as_nanos().div_ceil(1_000_000).try_into().unwrap_or(i32::MAX)
}
