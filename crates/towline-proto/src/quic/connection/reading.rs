//! Reading streams of one connection: passively, actively with credit, and what is left at the end.

use bytes::Bytes;
use noq_proto as engine;

use super::Conn;
use super::streams::Chunk;
use crate::quic::config::ReadMode;
use crate::quic::error::StreamError;
use crate::quic::event::{Event, StreamEvent};
use crate::quic::types::StreamId;

impl Conn {
    pub(super) fn set_read_mode(
        &mut self,
        id: StreamId,
        mode: ReadMode,
    ) -> Result<(), StreamError> {
        let recv = self.streams.recv_side(id)?;
        recv.mode = match (recv.mode, mode) {
            (ReadMode::Count(left), ReadMode::Count(more)) => {
                count_or_passive(left.saturating_add(more))
            }
            (_, ReadMode::Count(count)) => count_or_passive(count),
            (_, mode) => mode,
        };
        recv.told = false;
        if recv.readable {
            self.streams.note_readable(id.as_u64(), &mut self.events);
        }
        Ok(())
    }

    pub(super) fn set_stream_ordered(
        &mut self,
        id: StreamId,
        ordered: bool,
    ) -> Result<(), StreamError> {
        let recv = self.streams.recv_side(id)?;
        if ordered && !recv.ordered {
            return Err(StreamError::Unordered);
        }
        recv.ordered = ordered;
        Ok(())
    }

    pub(super) fn read_stream(&mut self, id: StreamId, max: usize) -> Result<Chunk, StreamError> {
        let recv = self.streams.recv_side(id)?;
        if recv.is_active() {
            return Err(StreamError::Active);
        }
        recv.told = false;
        let chunk = self.read_engine(id, max);
        match &chunk {
            Ok(chunk) if chunk.fin => self.finish_recv(id, Some(StreamEvent::PeerSendShutdown)),
            Err(StreamError::Reset(code)) => {
                self.finish_recv(id, Some(StreamEvent::PeerSendAborted(*code)))
            }
            _ => {}
        }
        chunk
    }

    /// One chunk out of the engine.
    fn read_engine(&mut self, id: StreamId, max: usize) -> Result<Chunk, StreamError> {
        let recv = self.streams.recv_side(id)?;
        let mut stream = self.inner.recv_stream(id.engine());
        let mut chunks = stream.read(recv.ordered).map_err(|error| match error {
            engine::ReadableError::ClosedStream => StreamError::Closed,
            engine::ReadableError::IllegalOrderedRead => StreamError::Unordered,
        })?;
        let result = match chunks.next(max) {
            Ok(Some(chunk)) => {
                recv.end = recv.end.max(chunk.offset + chunk.bytes.len() as u64);
                // A look ahead, so that the end comes with the last bytes. It takes no bytes.
                let fin = matches!(chunks.next(0), Ok(None));
                Ok(Chunk { data: chunk.bytes, offset: chunk.offset, fin })
            }
            Ok(None) => Ok(Chunk { data: Bytes::new(), offset: recv.end, fin: true }),
            Err(engine::ReadError::Blocked) => {
                recv.readable = false;
                Err(StreamError::Blocked)
            }
            Err(engine::ReadError::Reset(code)) => Err(StreamError::Reset(code.into_inner())),
        };
        // The engine notes by itself which flow control it owes the peer.
        let _ = chunks.finalize();
        result
    }

    /// The next chunk of the streams that are read actively, as an event.
    pub(super) fn next_stream_data(&mut self) -> Option<Event> {
        while let Some(&id) = self.streams.readable.front() {
            let max = self.options().max_chunk;
            let Some(stream) = self.streams.table.get(&id) else {
                self.streams.readable.pop_front();
                continue;
            };
            let (id, early) = (stream.id, stream.early && !self.life.connected);
            let active = stream.recv.as_ref().is_some_and(|recv| !recv.done && recv.is_active());
            let result = if active { self.read_engine(id, max) } else { Err(StreamError::Blocked) };
            match result {
                Ok(chunk) => return Some(self.on_active_chunk(id, chunk, early)),
                Err(StreamError::Reset(code)) => {
                    self.unlist_front(id);
                    self.finish_recv(id, Some(StreamEvent::PeerSendAborted(code)));
                    return self.events.pop_front();
                }
                Err(_) => self.unlist_front(id),
            }
        }
        None
    }

    /// The connection has ended without our asking: what came in order and nobody has read yet is given out, however its stream is read. The windows bound it.
    pub(super) fn give_leftovers(&mut self) {
        let mut left: Vec<StreamId> = self.streams.table.values().map(|stream| stream.id).collect();
        left.sort_unstable();
        let max = self.options().max_chunk;
        for id in left {
            loop {
                match self.read_engine(id, max) {
                    Ok(Chunk { data, offset, fin }) => {
                        let data = StreamEvent::Data { data, offset, fin, early: false };
                        self.events.push_back(Event::Stream(id, data));
                        if fin {
                            self.finish_recv(id, Some(StreamEvent::PeerSendShutdown));
                            break;
                        }
                    }
                    Err(StreamError::Reset(code)) => {
                        self.finish_recv(id, Some(StreamEvent::PeerSendAborted(code)));
                        break;
                    }
                    Err(_) => break,
                }
            }
        }
    }

    fn unlist_front(&mut self, id: StreamId) {
        self.streams.readable.pop_front();
        if let Ok(recv) = self.streams.recv_side(id) {
            recv.listed = false;
        }
    }

    /// Counts a chunk against the stream's credit and moves the stream behind the others.
    fn on_active_chunk(&mut self, id: StreamId, chunk: Chunk, early: bool) -> Event {
        let Chunk { data, offset, fin } = chunk;
        self.streams.readable.pop_front();
        let mut passive = false;
        if let Ok(recv) = self.streams.recv_side(id) {
            recv.listed = false;
            if !fin {
                passive = spend(&mut recv.mode);
                if recv.is_active() {
                    recv.listed = true;
                    self.streams.readable.push_back(id.as_u64());
                }
            }
        }
        if passive {
            self.events.push_back(Event::Stream(id, StreamEvent::Passive));
        }
        if fin {
            self.finish_recv(id, Some(StreamEvent::PeerSendShutdown));
        }
        Event::Stream(id, StreamEvent::Data { data, offset, fin, early })
    }
}

fn count_or_passive(count: i16) -> ReadMode {
    if count > 0 { ReadMode::Count(count) } else { ReadMode::Passive }
}

/// Takes one from the credit; true when that was the last of a counted one.
fn spend(mode: &mut ReadMode) -> bool {
    match *mode {
        ReadMode::Once => {
            *mode = ReadMode::Passive;
            false
        }
        ReadMode::Count(left) => {
            *mode = count_or_passive(left - 1);
            matches!(*mode, ReadMode::Passive)
        }
        ReadMode::Active | ReadMode::Passive => false,
    }
}
