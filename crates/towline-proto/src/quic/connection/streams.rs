//! Streams of one connection: what the owner's contract adds to the engine's.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use noq_proto as engine;

use super::Conn;
use crate::quic::config::ReadMode;
use crate::quic::error::StreamError;
use crate::quic::event::{Event, StreamEvent};
use crate::quic::stream_hash::StreamHash;
use crate::quic::types::{Direction, OpenRequest, SendId, Side, StreamId};

/// How to open a stream (`start_flag`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenFlags {
    /// Tell the peer at once, with an empty STREAM frame (IMMEDIATE, 1); else the first data does.
    pub immediate: bool,
    /// Fail with `LimitReached` instead of waiting for the peer to allow another stream (FAIL_BLOCKED, 2).
    pub fail_blocked: bool,
    /// Report `StreamEvent::PeerAccepted` when the peer's limit includes the stream (INDICATE_PEER_ACCEPT, 8).
    pub indicate_peer_accept: bool,
    /// Report `StreamEvent::Started` also for a stream that opens at once (the owner's event mask 1).
    pub start_event: bool,
}

/// What became of an `open`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// The stream is open.
    Stream(StreamId),
    /// The peer allows no more now. `Event::StreamStarted` follows, and the peer is told that we are blocked.
    Waiting(OpenRequest),
}

/// How to send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SendOptions {
    /// End our side of the stream behind these bytes (FIN, 4).
    pub fin: bool,
    /// Allow the bytes to go as 0-RTT data, which an attacker can replay (ALLOW_0_RTT, 1); else they wait for the handshake.
    pub allow_early: bool,
    /// Report `StreamEvent::SendComplete` (SYNC, 4096).
    pub notify: bool,
}

/// Bytes of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// The bytes; empty only at the end of the stream.
    pub data: Bytes,
    /// Where they stand in the stream.
    pub offset: u64,
    /// Whether the stream ends here.
    pub fin: bool,
}

#[derive(Debug)]
struct Queued {
    data: Bytes,
    fin: bool,
    early: bool,
    notify: Option<SendId>,
}

/// Our side of a stream.
#[derive(Debug, Default)]
struct SendSide {
    queue: VecDeque<Queued>,
    queued: usize,
    /// The end is queued or with the engine: nothing more may be added.
    finishing: bool,
    /// A `write` was refused; `Writable` is owed.
    wants_write: bool,
    done: bool,
}

/// The peer's side of a stream.
#[derive(Debug)]
pub(super) struct RecvSide {
    pub(super) mode: ReadMode,
    pub(super) ordered: bool,
    /// In the list of streams that have something to read actively.
    pub(super) listed: bool,
    /// `Readable` was given out and nothing read since.
    pub(super) told: bool,
    /// The engine has, or may have, something to read.
    pub(super) readable: bool,
    pub(super) end: u64,
    pub(super) done: bool,
}

impl RecvSide {
    pub(super) fn is_active(&self) -> bool {
        match self.mode {
            ReadMode::Active | ReadMode::Once => true,
            ReadMode::Count(left) => left > 0,
            ReadMode::Passive => false,
        }
    }
}

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) id: StreamId,
    send: Option<SendSide>,
    pub(super) recv: Option<RecvSide>,
    pub(super) early: bool,
}

impl Stream {
    fn is_over(&self) -> bool {
        self.send.as_ref().is_none_or(|send| send.done)
            && self.recv.as_ref().is_none_or(|recv| recv.done)
    }
}

#[derive(Debug)]
struct WaitingOpen {
    request: OpenRequest,
    direction: Direction,
    flags: OpenFlags,
}

pub(super) struct Streams {
    side: Side,
    pub(super) table: HashMap<u64, Stream, StreamHash>,
    /// Streams with something to read actively, in turn.
    pub(super) readable: VecDeque<u64>,
    waiting: VecDeque<WaitingOpen>,
    next_request: u64,
    next_send: u64,
    /// How many we have opened, by direction.
    opened: [u64; 2],
    /// What `StreamsAvailable` last said, and at which limits of the peer's.
    told_limits: Option<[u64; 2]>,
    /// At which of our limits the peer was last reported to be blocked.
    told_blocked: [u64; 2],
}

impl Streams {
    pub(super) fn new(side: Side) -> Self {
        Self {
            side,
            table: HashMap::default(),
            readable: VecDeque::new(),
            waiting: VecDeque::new(),
            next_request: 0,
            next_send: 0,
            opened: [0; 2],
            told_limits: None,
            told_blocked: [0; 2],
        }
    }

    pub(super) fn has_readable(&self) -> bool {
        !self.readable.is_empty()
    }

    fn insert(&mut self, id: StreamId, mode: ReadMode, early: bool) {
        let ours = id.initiator() == self.side;
        let both = id.direction() == Direction::Bidirectional;
        let recv = RecvSide {
            mode,
            ordered: true,
            listed: false,
            told: false,
            readable: false,
            end: 0,
            done: false,
        };
        let stream = Stream {
            id,
            send: (ours || both).then(SendSide::default),
            recv: (!ours || both).then_some(recv),
            early,
        };
        self.table.insert(id.as_u64(), stream);
    }

    fn send_side(&mut self, id: StreamId) -> Result<&mut SendSide, StreamError> {
        let side = self.table.get_mut(&id.as_u64()).and_then(|stream| stream.send.as_mut());
        side.filter(|send| !send.done).ok_or(StreamError::Closed)
    }

    pub(super) fn recv_side(&mut self, id: StreamId) -> Result<&mut RecvSide, StreamError> {
        let side = self.table.get_mut(&id.as_u64()).and_then(|stream| stream.recv.as_mut());
        side.filter(|recv| !recv.done).ok_or(StreamError::Closed)
    }

    /// The server did not take our 0-RTT data: the streams that carried it are gone, and their identifiers begin anew.
    pub(super) fn on_early_data_rejected(&mut self, events: &mut VecDeque<Event>) {
        let mut gone: Vec<u64> = self.table.keys().copied().collect();
        gone.sort_unstable();
        for id in gone {
            if let Some(stream) = self.table.remove(&id) {
                cancel(stream, events);
            }
        }
        self.readable.clear();
        self.opened = [0; 2];
    }

    /// The connection ends: every stream and every request hears of it.
    pub(super) fn on_end(&mut self, events: &mut VecDeque<Event>) {
        let mut left: Vec<u64> = self.table.keys().copied().collect();
        left.sort_unstable();
        for id in left {
            if let Some(stream) = self.table.remove(&id) {
                cancel(stream, events);
            }
        }
        self.readable.clear();
        for waiting in self.waiting.drain(..) {
            events.push_back(Event::StreamStarted { request: waiting.request, stream: None });
        }
    }

    /// Lists a stream for active reading, or tells of it once.
    pub(super) fn note_readable(&mut self, id: u64, events: &mut VecDeque<Event>) {
        let Some(stream) = self.table.get_mut(&id) else { return };
        let Some(recv) = stream.recv.as_mut().filter(|recv| !recv.done) else { return };
        recv.readable = true;
        if recv.is_active() {
            if !recv.listed {
                recv.listed = true;
                self.readable.push_back(id);
            }
        } else if !recv.told {
            recv.told = true;
            events.push_back(Event::Stream(stream.id, StreamEvent::Readable));
        }
    }

    fn close_if_over(&mut self, id: StreamId, events: &mut VecDeque<Event>) {
        if self.table.get(&id.as_u64()).is_some_and(Stream::is_over) {
            self.table.remove(&id.as_u64());
            events.push_back(Event::Stream(id, StreamEvent::Closed));
        }
    }
}

/// Gives up what is queued on a stream and closes it.
fn cancel(stream: Stream, events: &mut VecDeque<Event>) {
    if let Some(send) = stream.send {
        cancel_queue(stream.id, send.queue, events);
    }
    events.push_back(Event::Stream(stream.id, StreamEvent::Closed));
}

fn cancel_queue(id: StreamId, queue: VecDeque<Queued>, events: &mut VecDeque<Event>) {
    let notify = queue.into_iter().filter_map(|queued| queued.notify);
    events.extend(
        notify
            .map(|send| Event::Stream(id, StreamEvent::SendComplete { id: send, canceled: true })),
    );
}

pub(super) fn code(value: u64) -> Result<engine::VarInt, StreamError> {
    engine::VarInt::from_u64(value).map_err(|_| StreamError::CodeTooLarge)
}

impl Conn {
    // What the engine says.

    pub(super) fn on_stream_event(&mut self, event: engine::StreamEvent) {
        match event {
            engine::StreamEvent::Opened { dir } => self.accept_streams(dir),
            engine::StreamEvent::Readable { id } => {
                self.streams.note_readable(u64::from(id), &mut self.events)
            }
            engine::StreamEvent::Writable { id } => self.flush_stream(StreamId::from_engine(id)),
            engine::StreamEvent::Finished { id } => {
                self.finish_send(
                    StreamId::from_engine(id),
                    StreamEvent::SendShutdownComplete { graceful: true },
                );
            }
            engine::StreamEvent::Stopped { id, error_code } => self.on_stopped(id, error_code),
            engine::StreamEvent::Available { .. } => {}
        }
    }

    fn accept_streams(&mut self, dir: engine::Dir) {
        let mode = self.options().active;
        while let Some(id) = self.inner.streams().accept(dir) {
            let stream = StreamId::from_engine(id);
            let early = self.side == Side::Server && !self.life.connected;
            self.streams.insert(stream, mode, early);
            self.events.push_back(Event::NewStream { stream, early });
            self.streams.note_readable(stream.as_u64(), &mut self.events);
        }
    }

    fn on_stopped(&mut self, id: engine::StreamId, error_code: engine::VarInt) {
        let stream = StreamId::from_engine(id);
        if self.streams.send_side(stream).is_err() {
            return;
        }
        self.events.push_back(Event::Stream(
            stream,
            StreamEvent::PeerReceiveAborted(error_code.into_inner()),
        ));
        // RFC 9000 section 3.5: STOP_SENDING is answered with RESET_STREAM and its code. A stream that is finished already has nothing left to reset.
        let _ = self.inner.send_stream(id).reset(error_code);
        self.finish_send(stream, StreamEvent::SendShutdownComplete { graceful: false });
    }

    fn finish_send(&mut self, id: StreamId, last: StreamEvent) {
        let Ok(send) = self.streams.send_side(id) else { return };
        send.done = true;
        let queue = std::mem::take(&mut send.queue);
        cancel_queue(id, queue, &mut self.events);
        self.events.push_back(Event::Stream(id, last));
        self.streams.close_if_over(id, &mut self.events);
    }

    pub(super) fn finish_recv(&mut self, id: StreamId, last: Option<StreamEvent>) {
        let Ok(recv) = self.streams.recv_side(id) else { return };
        recv.done = true;
        self.events.extend(last.map(|event| Event::Stream(id, event)));
        self.streams.close_if_over(id, &mut self.events);
    }

    /// Limits on streams, both ways.
    pub(super) fn check_streams(&mut self) {
        let limits = Direction::BOTH.map(|direction| self.observed.max_streams(direction));
        if self.streams.told_limits != Some(limits) {
            self.streams.told_limits = Some(limits);
            self.start_waiting();
            if self.options().streams_available_events {
                let [bidirectional, unidirectional] =
                    Direction::BOTH.map(|direction| self.streams_available(direction));
                self.events.push_back(Event::StreamsAvailable { bidirectional, unidirectional });
            }
        }
        for direction in Direction::BOTH {
            let blocked = self.observed.blocked_at(direction);
            let told = self.streams.told_blocked.get_mut(direction.index());
            if let Some(told) = told.filter(|told| **told < blocked) {
                *told = blocked;
                self.events.push_back(Event::PeerNeedsStreams(direction));
            }
        }
    }

    pub(super) fn streams_available(&self, direction: Direction) -> u64 {
        let opened = self.streams.opened.get(direction.index()).copied().unwrap_or(0);
        self.observed.max_streams(direction).saturating_sub(opened)
    }

    // Opening.

    pub(super) fn open_stream(
        &mut self,
        direction: Direction,
        flags: OpenFlags,
    ) -> Result<Opened, StreamError> {
        self.check_open()?;
        if let Some(id) = self.try_open(direction, flags) {
            if flags.start_event {
                self.events.push_back(Event::Stream(id, StreamEvent::Started));
            }
            return Ok(Opened::Stream(id));
        }
        if flags.fail_blocked {
            return Err(StreamError::LimitReached);
        }
        if self.streams.waiting.len() >= self.options().max_waiting_opens {
            return Err(StreamError::TooManyWaiting);
        }
        // Asking the engine in vain makes it tell the peer that we are blocked (RFC 9000 section 19.14).
        let _ = self.inner.streams().open(direction.engine());
        let request = OpenRequest(self.streams.next_request);
        self.streams.next_request += 1;
        self.streams.waiting.push_back(WaitingOpen { request, direction, flags });
        Ok(Opened::Waiting(request))
    }

    fn try_open(&mut self, direction: Direction, flags: OpenFlags) -> Option<StreamId> {
        if self.streams_available(direction) == 0 {
            return None;
        }
        let id = StreamId::from_engine(self.inner.streams().open(direction.engine())?);
        if let Some(opened) = self.streams.opened.get_mut(direction.index()) {
            *opened += 1;
        }
        let mode = self.options().active;
        self.streams.insert(id, mode, false);
        if flags.immediate {
            // An empty write queues an empty STREAM frame.
            let _ = self.inner.send_stream(id.engine()).write(&[]);
        }
        if flags.indicate_peer_accept {
            self.events.push_back(Event::Stream(id, StreamEvent::PeerAccepted));
        }
        Some(id)
    }

    fn start_waiting(&mut self) {
        let mut still = VecDeque::new();
        while let Some(waiting) = self.streams.waiting.pop_front() {
            match self.try_open(waiting.direction, waiting.flags) {
                Some(id) => {
                    self.events.push_back(Event::StreamStarted {
                        request: waiting.request,
                        stream: Some(id),
                    });
                }
                None => still.push_back(waiting),
            }
        }
        self.streams.waiting = still;
        for direction in Direction::BOTH {
            if self.streams.waiting.iter().any(|waiting| waiting.direction == direction) {
                let _ = self.inner.streams().open(direction.engine());
            }
        }
    }

    pub(super) fn check_open(&self) -> Result<(), StreamError> {
        if self.life.ending || self.inner.is_closed() {
            Err(StreamError::ConnectionClosed)
        } else {
            Ok(())
        }
    }

    // Sending.

    /// Whether bytes may go now: 0-RTT data only when the caller allowed it.
    fn may_send(&self, early: bool) -> bool {
        self.life.connected || self.side == Side::Server || early
    }

    pub(super) fn send_stream(
        &mut self,
        id: StreamId,
        data: Bytes,
        options: SendOptions,
    ) -> Result<SendId, StreamError> {
        self.check_open()?;
        let limit = self.options().stream_send_queue;
        let send_id = SendId(self.streams.next_send);
        let send = self.streams.send_side(id)?;
        if send.finishing {
            return Err(StreamError::Closed);
        }
        if send.queued > 0 && send.queued.saturating_add(data.len()) > limit {
            send.wants_write = true;
            return Err(StreamError::QueueFull);
        }
        send.queued = send.queued.saturating_add(data.len());
        send.finishing = options.fin;
        send.queue.push_back(Queued {
            data,
            fin: options.fin,
            early: options.allow_early,
            notify: options.notify.then_some(send_id),
        });
        self.streams.next_send += 1;
        self.flush_stream(id);
        Ok(send_id)
    }

    pub(super) fn write_stream(&mut self, id: StreamId, data: &[u8]) -> Result<usize, StreamError> {
        self.check_open()?;
        let may_send = self.may_send(false);
        let send = self.streams.send_side(id)?;
        if send.finishing {
            return Err(StreamError::Closed);
        }
        if !send.queue.is_empty() || !may_send {
            send.wants_write = true;
            return Err(StreamError::Blocked);
        }
        match self.inner.send_stream(id.engine()).write(data) {
            Ok(written) => {
                // The engine tells of room only after it has refused.
                Ok(written)
            }
            Err(engine::WriteError::Blocked) => {
                if let Ok(send) = self.streams.send_side(id) {
                    send.wants_write = true;
                }
                Err(StreamError::Blocked)
            }
            Err(engine::WriteError::Stopped(code)) => Err(StreamError::Stopped(code.into_inner())),
            Err(engine::WriteError::ClosedStream) => Err(StreamError::Closed),
        }
    }

    /// Hands queued bytes to the engine as far as it takes them.
    fn flush_stream(&mut self, id: StreamId) {
        let may_send = self.may_send(false);
        let Ok(send) = self.streams.send_side(id) else { return };
        while let Some(front) = send.queue.front_mut() {
            if !may_send && !front.early {
                break;
            }
            if !front.data.is_empty() {
                let len = front.data.len();
                let mut chunks = std::slice::from_mut(&mut front.data);
                let result = self.inner.send_stream(id.engine()).write_chunks(&mut chunks);
                send.queued = send.queued.saturating_sub(len - front.data.len());
                match result {
                    Ok(_) if front.data.is_empty() => {}
                    Ok(_) => continue,
                    // A stopped stream is told of by its own event.
                    Err(_) => break,
                }
            }
            if front.fin {
                let _ = self.inner.send_stream(id.engine()).finish();
            }
            if let Some(done) = send.queue.pop_front()
                && let Some(notify) = done.notify
            {
                let event = StreamEvent::SendComplete { id: notify, canceled: false };
                self.events.push_back(Event::Stream(id, event));
            }
        }
        if send.wants_write && send.queue.is_empty() && may_send {
            send.wants_write = false;
            self.events.push_back(Event::Stream(id, StreamEvent::Writable));
        }
    }

    /// The handshake is over: what was not allowed as 0-RTT data goes now.
    pub(super) fn flush_held_streams(&mut self) {
        let mut waiting: Vec<StreamId> = self
            .streams
            .table
            .values()
            .filter(|stream| {
                stream.send.as_ref().is_some_and(|send| !send.queue.is_empty() || send.wants_write)
            })
            .map(|stream| stream.id)
            .collect();
        waiting.sort_unstable();
        for id in waiting {
            self.flush_stream(id);
        }
    }

    pub(super) fn reset_stream(
        &mut self,
        id: StreamId,
        error_code: u64,
    ) -> Result<(), StreamError> {
        let error_code = code(error_code)?;
        self.streams.send_side(id)?;
        self.inner.send_stream(id.engine()).reset(error_code).map_err(|_| StreamError::Closed)?;
        self.finish_send(id, StreamEvent::SendShutdownComplete { graceful: false });
        Ok(())
    }

    pub(super) fn stop_stream(&mut self, id: StreamId, error_code: u64) -> Result<(), StreamError> {
        let error_code = code(error_code)?;
        self.streams.recv_side(id)?;
        self.inner.recv_stream(id.engine()).stop(error_code).map_err(|_| StreamError::Closed)?;
        self.finish_recv(id, None);
        Ok(())
    }

    pub(super) fn set_stream_priority(
        &mut self,
        id: StreamId,
        priority: u16,
    ) -> Result<(), StreamError> {
        self.streams.send_side(id)?;
        // The engine's own default is 0; ours, 32,767, is the same middle.
        let priority = i32::from(priority) - 0x7fff;
        self.inner.send_stream(id.engine()).set_priority(priority).map_err(|_| StreamError::Closed)
    }
}
