//! What all drivers share: the sockets, the timers, the buffers and the completions to be reported.

use std::io;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use socket2::{SockAddr, Socket};

use crate::buffer::Pool;
use crate::entry::{Body, Entry, Life};
use crate::error::cancelled;
use crate::send_queue::SendOp;
use crate::slots::Slots;
use crate::timer::{Purpose, Timers};
use crate::waker::Waker;
use crate::{
    Accepted, Completion, DriverConfig, DriverStats, Event, IssueError, OpId, Received, RecvError,
    SocketId, sys, udp,
};

/// The state of a driver apart from the system's part.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) sockets: Slots<Entry>,
    pub(crate) timers: Timers,
    /// Buffers for streams.
    pub(crate) pool: Pool,
    /// Buffers for datagrams, large enough for a coalesced train.
    pub(crate) datagram_pool: Pool,
    /// Completions to be reported.
    pub(crate) ready: Vec<Completion>,
    /// Sockets to look at before the next wait.
    pub(crate) dirty: Vec<SocketId>,
    /// The memory of the list that was worked off last.
    pub(crate) dirty_spare: Vec<SocketId>,
    /// The present turn of the loop, from 1.
    pub(crate) turn: u32,
    pub(crate) waker: Waker,
    pub(crate) stats: DriverStats,
    pub(crate) datagram_batch: Option<Box<udp::Batch>>,
    pub(crate) config: DriverConfig,
}

impl Core {
    pub(crate) fn new(config: &DriverConfig) -> io::Result<Core> {
        Ok(Core {
            sockets: Slots::new(),
            timers: Timers::new(),
            pool: Pool::new(config.recv_buffer_size, config.recv_buffers),
            datagram_pool: Pool::new(udp::BUFFER_SIZE, config.recv_buffers),
            ready: Vec::new(),
            dirty: Vec::new(),
            dirty_spare: Vec::new(),
            turn: 0,
            waker: Waker::new()?,
            stats: DriverStats::default(),
            datagram_batch: None,
            config: config.clone(),
        })
    }

    pub(crate) fn insert(&mut self, socket: Socket, tag: u64, body: Body) -> SocketId {
        let (index, generation) = self.sockets.insert(|index, generation| {
            Entry::new(socket, SocketId { index, generation }, tag, body)
        });
        SocketId { index, generation }
    }

    pub(crate) fn entry(&mut self, id: SocketId) -> Option<&mut Entry> {
        self.sockets.get_mut(id.index, id.generation)
    }

    /// The entry if it takes operations.
    pub(crate) fn open_entry(&mut self, id: SocketId) -> Result<&mut Entry, IssueError> {
        let entry = self.entry(id).ok_or(IssueError::Stale)?;
        if entry.life == Life::Open { Ok(entry) } else { Err(IssueError::Closing) }
    }

    /// Puts a socket on the list of those to look at.
    pub(crate) fn touch(&mut self, id: SocketId) {
        if let Some(entry) = self.sockets.get_mut(id.index, id.generation)
            && !entry.dirty
        {
            entry.dirty = true;
            self.dirty.push(id);
        }
    }

    pub(crate) fn report(&mut self, op: OpId, tag: u64, event: Event) {
        self.ready.push(Completion { socket: op.socket, op, tag, event });
    }

    /// Reports an event of a socket that is not the completion of an operation.
    pub(crate) fn report_plain(&mut self, socket: SocketId, tag: u64, event: Event) {
        self.ready.push(Completion { socket, op: OpId::NONE, tag, event });
    }

    /// Reports a send that is complete, failed or cancelled.
    pub(crate) fn report_sent(
        &mut self,
        id: SocketId,
        tag: u64,
        op: SendOp,
        result: io::Result<()>,
    ) {
        let written = op.written();
        let result = match result {
            Ok(()) if op.quiet => return,
            Ok(()) => Ok(written),
            Err(error) => Err(error),
        };
        self.report(OpId { socket: id, serial: op.serial }, tag, Event::Sent(result));
    }

    /// Takes `written` bytes off a stream's queue and reports what is complete by that.
    pub(crate) fn advance_send(&mut self, id: SocketId, written: usize) {
        let Core { sockets, ready, .. } = self;
        let Some(entry) = sockets.get_mut(id.index, id.generation) else { return };
        let tag = entry.tag;
        let Some(stream) = entry.stream() else { return };
        stream.send.advance(written, |op| {
            if !op.quiet {
                let id = OpId { socket: id, serial: op.serial };
                let event = Event::Sent(Ok(op.written()));
                ready.push(Completion { socket: id.socket, op: id, tag, event });
            }
        });
    }

    /// Reports and removes the sends that were asked to be cancelled and are not in the kernel.
    pub(crate) fn sweep_sends(&mut self, id: SocketId) {
        let Some(entry) = self.entry(id) else { return };
        let tag = entry.tag;
        let Some(stream) = entry.stream() else { return };
        let mut removed = Vec::new();
        stream.send.sweep(|op| removed.push(op));
        self.report_removed(id, tag, removed);
    }

    /// Reports sends that were taken out of the queue: what was written of them counts.
    pub(crate) fn report_removed(&mut self, id: SocketId, tag: u64, removed: Vec<SendOp>) {
        for op in removed {
            if op.is_complete() {
                self.report_sent(id, tag, op, Ok(()));
            } else if op.written() > 0 {
                let event = Event::Sent(Ok(op.written()));
                self.report(OpId { socket: id, serial: op.serial }, tag, event);
            } else {
                self.report_sent(id, tag, op, Err(cancelled()));
            }
        }
    }

    /// A stream's sending side failed: the first send gets the error, the others are cancelled, later ones refused.
    pub(crate) fn fail_sends(&mut self, id: SocketId, error: io::Error) {
        let Some(entry) = self.entry(id) else { return };
        let tag = entry.tag;
        let Some(stream) = entry.stream() else { return };
        stream.send_over = true;
        stream.shutdown = false;
        let mut removed = Vec::new();
        stream.send.clear(|op| removed.push(op));
        let mut error = Some(error);
        for op in removed {
            let result =
                if op.is_complete() { Ok(()) } else { Err(error.take().unwrap_or_else(cancelled)) };
            self.report_sent(id, tag, op, result);
        }
    }

    /// Ends a stream's receive.
    pub(crate) fn end_recv(
        &mut self,
        id: SocketId,
        result: Result<Received, RecvError>,
        serial: u64,
    ) {
        let Some(entry) = self.entry(id) else { return };
        let (op, tag) = (entry.op(serial), entry.tag);
        self.report(op, tag, Event::Received(result));
    }

    /// Cancels a stream's receive, unless the kernel has it.
    pub(crate) fn cancel_recv(&mut self, id: SocketId) {
        let Some(entry) = self.entry(id) else { return };
        let Some(stream) = entry.stream() else { return };
        if let Some(recv) = stream.recv.take_if(|recv| !recv.submitted) {
            let error = RecvError { error: cancelled(), direct: recv.direct };
            self.end_recv(id, Err(error), recv.serial);
        }
    }

    /// An attempt to connect is over.
    pub(crate) fn end_connect(&mut self, id: SocketId, result: io::Result<()>) {
        let Some(entry) = self.entry(id) else { return };
        let tag = entry.tag;
        let Some(stream) = entry.stream() else { return };
        let Some(connect) = stream.connect.take() else { return };
        let failed = result.is_err();
        if failed {
            (stream.recv_over, stream.send_over) = (true, true);
        }
        self.report(OpId { socket: id, serial: connect.serial }, tag, Event::Connected(result));
        if failed {
            self.cancel_recv(id);
            self.fail_sends(id, cancelled());
        }
    }

    /// Completes whatever the kernel does not have, for a socket that is closed.
    pub(crate) fn abandon(&mut self, id: SocketId) {
        let Some(entry) = self.entry(id) else { return };
        let in_kernel = entry.in_flight > 0;
        match &mut entry.body {
            Body::Stream(stream) => {
                let send_in_kernel = stream.send.is_locked();
                if stream.connect.is_some() {
                    // What waits for the connection ends behind the attempt.
                    if !in_kernel {
                        self.end_connect(id, Err(cancelled()));
                    }
                    return;
                }
                self.cancel_recv(id);
                if !send_in_kernel {
                    self.fail_sends(id, cancelled());
                }
            }
            Body::Listener(listener) => listener.pool.clear(),
            Body::Udp(_) => self.abandon_udp(id, in_kernel),
        }
    }

    fn abandon_udp(&mut self, id: SocketId, in_kernel: bool) {
        let Some(entry) = self.entry(id) else { return };
        let tag = entry.tag;
        let Some(udp) = entry.udp() else { return };
        let unsent: Vec<_> = udp.queue.drain(..).collect();
        udp.queued = 0;
        if !in_kernel {
            udp.recv_submitted = false;
        }
        for item in unsent {
            self.report_datagrams(id, tag, item.cancelled());
        }
        self.cancel_datagram_recv(id);
    }

    /// Cancels an armed datagram receive, unless the kernel has it.
    pub(crate) fn cancel_datagram_recv(&mut self, id: SocketId) {
        let Some(entry) = self.entry(id) else { return };
        let tag = entry.tag;
        let Some(udp) = entry.udp() else { return };
        if !udp.recv_submitted
            && let Some(serial) = udp.recv.take()
        {
            self.report(OpId { socket: id, serial }, tag, Event::DatagramsEnded(cancelled()));
        }
    }

    /// Reports what became of a transmit.
    pub(crate) fn report_datagrams(&mut self, id: SocketId, tag: u64, outcome: udp::Outcome) {
        self.ready.push(outcome.completion(id, tag));
    }

    /// Whether a socket that is being detached or closed has nothing going on any more.
    pub(crate) fn is_settled(&mut self, id: SocketId) -> bool {
        let Some(entry) = self.entry(id) else { return false };
        if entry.life == Life::Open || entry.in_flight > 0 {
            return false;
        }
        match &entry.body {
            Body::Stream(stream) => {
                stream.connect.is_none()
                    && stream.recv.is_none()
                    && stream.send.is_empty()
                    && !stream.shutdown
            }
            Body::Listener(_) => true,
            Body::Udp(udp) => udp.recv.is_none() && udp.queue.is_empty(),
        }
    }

    /// Removes a settled socket and reports its end.
    pub(crate) fn remove(&mut self, id: SocketId) {
        let Some(entry) = self.sockets.remove(id.index, id.generation) else { return };
        let event = match entry.life {
            Life::Detaching => Event::Detached(entry.socket),
            Life::Open | Life::Closing => {
                drop(entry.socket);
                Event::Closed
            }
        };
        self.report_plain(id, entry.tag, event);
    }

    /// Reports accepted connections: at most `ready` of them, or all when the listener is being detached.
    pub(crate) fn deliver_accepted(&mut self, id: SocketId) {
        let mut delivered = 0;
        loop {
            let Some(entry) = self.entry(id) else { return };
            let (tag, life) = (entry.tag, entry.life);
            let Some(listener) = entry.listener() else { return };
            if life == Life::Open && delivered >= listener.ready {
                return;
            }
            let Some(socket) = listener.pool.pop_front() else { return };
            delivered += 1;
            // A peer that has gone already has no address any more, and nobody misses the connection.
            if let (Ok(local), Ok(peer)) = (socket.local_addr(), socket.peer_addr()) {
                self.report_accepted(id, tag, socket, local, peer);
            }
        }
    }

    /// Reports one accepted connection.
    pub(crate) fn report_accepted(
        &mut self,
        id: SocketId,
        tag: u64,
        socket: Socket,
        local: SockAddr,
        peer: SockAddr,
    ) {
        self.report_plain(id, tag, Event::Accepted(Box::new(Accepted { socket, local, peer })));
    }

    /// Accepting failed. Pauses the listener if trying at once is of no use; from the third time in a row one
    /// waiting connection is turned away per pause, so that its peer learns instead of waiting for ever.
    pub(crate) fn accept_failed(&mut self, id: SocketId, error: io::Error) {
        let Some(entry) = self.entry(id) else { return };
        let (tag, fd) = (entry.tag, entry.fd());
        if let Some(listener) = entry.listener()
            && !sys::is_passing(&error)
        {
            listener.paused = true;
            listener.shortages += 1;
            if sys::is_shortage(&error)
                && listener.shortages >= 3
                && listener.reserve.take().is_some()
            {
                drop(sys::accept(fd));
                listener.reserve = sys::reserve_descriptor();
            }
            let at = Instant::now() + listener.pause();
            self.stats.accept_pauses += 1;
            self.timers.set(at, Purpose::Accept(id));
        }
        self.report_plain(id, tag, Event::AcceptFailed(error));
    }

    /// Reports the timers that are due.
    pub(crate) fn fire_timers(&mut self) {
        if self.timers.is_empty() {
            return;
        }
        let now = Instant::now();
        while let Some((id, purpose)) = self.timers.pop(now) {
            match purpose {
                Purpose::User(tag) => {
                    let event = Event::Timer(id);
                    self.ready.push(Completion {
                        socket: SocketId::NONE,
                        op: OpId::NONE,
                        tag,
                        event,
                    });
                }
                Purpose::Accept(socket) => {
                    if let Some(listener) = self.entry(socket).and_then(Entry::listener) {
                        listener.paused = false;
                        listener.readable = true;
                        self.touch(socket);
                    }
                }
            }
        }
    }

    pub(crate) fn report_woken(&mut self) {
        self.stats.wakes += 1;
        let (socket, op) = (SocketId::NONE, OpId::NONE);
        self.ready.push(Completion { socket, op, tag: 0, event: Event::Woken });
    }

    pub(crate) fn recycle(&mut self, buffer: Bytes) {
        if let Ok(buffer) = buffer.try_into_mut() {
            self.recycle_mut(buffer);
        }
    }

    pub(crate) fn recycle_mut(&mut self, buffer: BytesMut) {
        // The larger size first: a buffer of it would fit the other pool, too.
        let Core { pool, datagram_pool, .. } = self;
        let (larger, smaller) = if pool.size() > datagram_pool.size() {
            (pool, datagram_pool)
        } else {
            (datagram_pool, pool)
        };
        if let Err(buffer) = larger.recycle(buffer) {
            let _ = smaller.recycle(buffer);
        }
    }
}
