//! Streams and datagrams of an application's connection: to its handler, or to its futures.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use towline_proto::quic::{
    Direction, Endpoint as Engine, Event, OpenFlags, Opened, ReadMode, SendOptions, StreamError,
    StreamEvent, StreamId,
};

use crate::quic::{
    DATAGRAM_INBOX, Ended, NewStream, READ_AHEAD, ReadEnd, SEND_AHEAD, StreamShared, WriteEnd,
};

use super::app::{App, Opening};

/// Bytes read at a time.
const CHUNK: usize = 64 << 10;

/// Streams of one direction that wait to be accepted; further ones are refused with code 0. The peer's limit on open streams is usually less.
const UNACCEPTED: usize = 4096;

/// A stream of futures.
pub(super) struct Held {
    shared: Arc<StreamShared>,
    /// What the engine has had no room for.
    pending: VecDeque<(Bytes, bool)>,
}

impl Held {
    /// The connection has ended.
    pub(super) fn lost(&self, ended: &Ended) {
        self.shared.end_read(ReadEnd::Lost(ended.clone()));
        self.shared.end_write(WriteEnd::Lost(ended.clone()));
    }

    /// Hands what can be read to the reader, as far as it keeps up.
    fn read(&self, engine: &mut Engine, id: towline_proto::quic::ConnectionId) {
        let Some(mut conn) = engine.connection(id) else { return };
        let stream = self.shared.id;
        let mut came = false;
        let end = loop {
            let mut state = self.shared.state();
            if state.held >= READ_AHEAD {
                state.paused = true;
                break None;
            }
            drop(state);
            match conn.read(stream, CHUNK) {
                Ok(chunk) => {
                    if !chunk.data.is_empty() {
                        let mut state = self.shared.state();
                        state.held += chunk.data.len();
                        state.chunks.push_back(chunk.data);
                        came = true;
                    }
                    if chunk.fin {
                        break Some(ReadEnd::Fin);
                    }
                }
                Err(StreamError::Reset(code)) => break Some(ReadEnd::Reset(code)),
                Err(_) => break None,
            }
        };
        if let Some(end) = end {
            return self.shared.end_read(end);
        }
        if came {
            let wakers = self.shared.state().reader.take();
            wakers.wake();
        }
    }

    /// Gives the engine what it has room for.
    fn write(&mut self, engine: &mut Engine, id: towline_proto::quic::ConnectionId) {
        let Some(mut conn) = engine.connection(id) else { return };
        let mut taken = 0;
        while let Some((data, fin)) = self.pending.front() {
            let options = SendOptions { fin: *fin, allow_early: false, notify: false };
            match conn.send(self.shared.id, data.clone(), options) {
                Err(StreamError::QueueFull) => break,
                // The reason comes, or has come, as an event.
                Ok(_) | Err(_) => taken += data.len(),
            }
            self.pending.pop_front();
        }
        if taken == 0 {
            return;
        }
        let wakers = {
            let mut state = self.shared.state();
            state.unsent = state.unsent.saturating_sub(taken);
            match state.unsent < SEND_AHEAD {
                true => state.writer.take(),
                false => Default::default(),
            }
        };
        wakers.wake();
    }
}

impl App {
    fn hold(&mut self, stream: StreamId) -> Arc<StreamShared> {
        let shared = StreamShared::new(stream, Arc::clone(&self.shared));
        let held = Held { shared: Arc::clone(&shared), pending: VecDeque::new() };
        self.streams.insert(stream, held);
        shared
    }

    pub(super) fn open_for(&mut self, engine: &mut Engine, direction: Direction, answer: Opening) {
        let conn = self.id.and_then(|id| engine.connection(id));
        let opened = match conn {
            Some(mut conn) => conn.open(direction, OpenFlags::default()),
            None => Err(StreamError::ConnectionClosed),
        };
        match opened {
            Ok(Opened::Stream(stream)) => {
                if direction == Direction::Bidirectional {
                    self.read_passively(engine, stream);
                }
                answer.give(Ok(self.hold(stream)));
            }
            Ok(Opened::Waiting(request)) => {
                self.opening.insert(request, answer);
            }
            Err(error) => answer.give(Err(error.into())),
        }
    }

    fn read_passively(&self, engine: &mut Engine, stream: StreamId) {
        if let Some(mut conn) = self.id.and_then(|id| engine.connection(id)) {
            conn.set_active(stream, ReadMode::Passive).ok();
        }
    }

    pub(super) fn send_for(
        &mut self,
        engine: &mut Engine,
        stream: StreamId,
        data: Bytes,
        fin: bool,
    ) {
        let Some(id) = self.id else { return };
        if let Some(held) = self.streams.get_mut(&stream) {
            held.pending.push_back((data, fin));
            held.write(engine, id);
        }
    }

    pub(super) fn read_for(&mut self, engine: &mut Engine, stream: StreamId) {
        if let Some(id) = self.id
            && let Some(held) = self.streams.get(&stream)
        {
            held.read(engine, id);
        }
    }

    pub(super) fn tell_of_streams(&mut self, engine: &mut Engine, now: Instant, event: Event) {
        match event {
            Event::StreamsAvailable { bidirectional, unidirectional } => {
                self.call(engine, now, |h, a| {
                    h.streams_available(a, bidirectional, unidirectional)
                });
            }
            Event::PeerNeedsStreams(direction) => {
                self.call(engine, now, |h, a| {
                    if let Some(count) = h.peer_needs_streams(a, direction) {
                        a.set_peer_streams(direction, count);
                    }
                });
            }
            Event::NewStream { stream, early } => self.new_stream(engine, now, stream, early),
            Event::DatagramStateChanged { send_enabled, max_length } => {
                self.call(engine, now, |h, a| h.dgram_state_changed(a, send_enabled, max_length));
            }
            Event::Datagram { data, early } => {
                let left = self.call(engine, now, |h, a| h.dgram_recv(a, data, early));
                if let Some(data) = left.flatten() {
                    self.keep_datagram(data);
                }
            }
            Event::DatagramSendState { id, state } => {
                self.call(engine, now, |h, a| h.dgram_send_state(a, id, state));
            }
            Event::DatagramsUnblocked => {
                self.call(engine, now, |h, a| h.dgrams_unblocked(a));
            }
            Event::StreamStarted { request, stream } => match self.opening.remove(&request) {
                Some(answer) => {
                    let opened = match stream {
                        Some(stream) => Ok(self.hold(stream)),
                        None => Err(StreamError::ConnectionClosed.into()),
                    };
                    answer.give(opened);
                }
                None => {
                    if let Some(stream) = stream {
                        self.call(engine, now, |h, a| h.stream_started(a, stream));
                    }
                }
            },
            Event::Stream(stream, event) => match self.streams.contains_key(&stream) {
                true => self.held_event(engine, stream, event),
                false => self.handled_event(engine, now, stream, event),
            },
            _ => {}
        }
    }

    fn new_stream(&mut self, engine: &mut Engine, now: Instant, stream: StreamId, early: bool) {
        let direction = match stream.direction() {
            Direction::Bidirectional => 0,
            Direction::Unidirectional => 1,
        };
        let what = self.call(engine, now, |h, a| h.new_stream(a, stream, early));
        let code = match what {
            Some(NewStream::Handle) => return,
            Some(NewStream::Reject(code)) => code,
            Some(NewStream::Queue) => {
                self.read_passively(engine, stream);
                let shared = self.hold(stream);
                let mut state = self.shared.state();
                if let Some(queue) = state.incoming.get_mut(direction)
                    && queue.len() < UNACCEPTED
                {
                    queue.push_back(shared);
                    let wakers = state.waiting.take();
                    drop(state);
                    return wakers.wake();
                }
                drop(state);
                self.streams.remove(&stream);
                0
            }
            None => 0,
        };
        if let Some(mut conn) = self.id.and_then(|id| engine.connection(id)) {
            conn.reject_stream(stream, code).ok();
        }
    }

    fn keep_datagram(&mut self, data: Bytes) {
        let wakers = {
            let mut state = self.shared.state();
            state.datagram_bytes += data.len();
            state.datagrams.push_back(data);
            while state.datagram_bytes > DATAGRAM_INBOX
                && let Some(oldest) = state.datagrams.pop_front()
            {
                state.datagram_bytes -= oldest.len();
            }
            state.waiting.take()
        };
        wakers.wake();
    }

    /// An event of a stream of futures.
    fn held_event(&mut self, engine: &mut Engine, stream: StreamId, event: StreamEvent) {
        let Some(id) = self.id else { return };
        let Some(held) = self.streams.get_mut(&stream) else { return };
        match event {
            StreamEvent::Readable => held.read(engine, id),
            StreamEvent::Writable => held.write(engine, id),
            StreamEvent::Data { data, fin, .. } => {
                // What came before the stream was read passively.
                let wakers = {
                    let mut state = held.shared.state();
                    state.held += data.len();
                    state.chunks.push_back(data);
                    state.reader.take()
                };
                wakers.wake();
                if fin {
                    held.shared.end_read(ReadEnd::Fin);
                }
            }
            StreamEvent::PeerSendShutdown => held.shared.end_read(ReadEnd::Fin),
            StreamEvent::PeerSendAborted(code) => held.shared.end_read(ReadEnd::Reset(code)),
            StreamEvent::PeerReceiveAborted(code) => held.shared.end_write(WriteEnd::Stopped(code)),
            StreamEvent::SendShutdownComplete { graceful } => {
                held.shared.end_write(if graceful { WriteEnd::Done } else { WriteEnd::Reset });
            }
            StreamEvent::Closed => {
                let ended = self.ended.clone().unwrap_or(Ended::Closed);
                if let Some(held) = self.streams.remove(&stream) {
                    held.lost(&ended);
                }
            }
            _ => {}
        }
    }

    /// An event of a stream of the handler's.
    fn handled_event(
        &mut self,
        engine: &mut Engine,
        now: Instant,
        stream: StreamId,
        event: StreamEvent,
    ) {
        self.call(engine, now, |h, a| match event {
            StreamEvent::Started => h.stream_started(a, stream),
            StreamEvent::PeerAccepted => h.peer_accepted(a, stream),
            StreamEvent::Data { data, offset, fin, early } => {
                h.stream_data(a, stream, data, offset, fin, early);
            }
            StreamEvent::Readable => h.stream_readable(a, stream),
            StreamEvent::Passive => h.stream_passive(a, stream),
            StreamEvent::SendComplete { id, canceled } => h.send_complete(a, stream, id, canceled),
            StreamEvent::Writable => h.stream_writable(a, stream),
            StreamEvent::PeerSendShutdown => h.peer_send_shutdown(a, stream),
            StreamEvent::PeerSendAborted(code) => h.peer_send_aborted(a, stream, code),
            StreamEvent::PeerReceiveAborted(code) => h.peer_receive_aborted(a, stream, code),
            StreamEvent::SendShutdownComplete { graceful } => {
                h.send_shutdown_complete(a, stream, graceful);
            }
            StreamEvent::Closed => h.stream_closed(a, stream),
            _ => {}
        });
    }
}
