//! Streams as futures.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use bytes::Bytes;

use crate::waiter::WakerSet;

use super::connection::{Op, Shared};
use super::{Connection, Ended, IoError, StreamId};

/// Bytes of a stream that may wait for the I/O thread to take them.
pub(crate) const SEND_AHEAD: usize = 512 << 10;

/// Bytes of a stream that wait for the reader before the I/O thread stops reading, which in turn holds the peer back.
pub(crate) const READ_AHEAD: usize = 512 << 10;

/// What the I/O thread and a stream's two halves share.
pub(crate) struct StreamShared {
    pub(crate) id: StreamId,
    pub(crate) connection: Arc<Shared>,
    state: Mutex<StreamState>,
}

/// Inside the lock.
#[derive(Default)]
pub(crate) struct StreamState {
    pub(crate) chunks: VecDeque<Bytes>,
    pub(crate) held: usize,
    /// The I/O thread has stopped reading.
    pub(crate) paused: bool,
    pub(crate) read_end: Option<ReadEnd>,
    pub(crate) reader: WakerSet,
    /// Bytes on their way to the I/O thread, or held there.
    pub(crate) unsent: usize,
    pub(crate) write_end: Option<WriteEnd>,
    pub(crate) writer: WakerSet,
}

/// Why there is no more to read.
#[derive(Clone)]
pub(crate) enum ReadEnd {
    Fin,
    Reset(u64),
    Lost(Ended),
}

/// Why nothing more is sent.
#[derive(Clone)]
pub(crate) enum WriteEnd {
    /// The peer has everything.
    Done,
    Stopped(u64),
    /// Reset by this side.
    Reset,
    Lost(Ended),
}

impl StreamShared {
    pub(crate) fn new(id: StreamId, connection: Arc<Shared>) -> Arc<StreamShared> {
        Arc::new(StreamShared { id, connection, state: Mutex::default() })
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, StreamState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends reading, unless it has ended.
    pub(crate) fn end_read(&self, end: ReadEnd) {
        let wakers = {
            let mut state = self.state();
            state.read_end.get_or_insert(end);
            state.reader.take()
        };
        wakers.wake();
    }

    /// Ends writing, unless it has ended.
    pub(crate) fn end_write(&self, end: WriteEnd) {
        let wakers = {
            let mut state = self.state();
            state.write_end.get_or_insert(end);
            state.unsent = 0;
            state.writer.take()
        };
        wakers.wake();
    }
}

/// The sending half of a stream.
///
/// Dropped without [`finish`](Self::finish), it is reset with code 0, so that the peer does not take a part for the whole.
pub struct SendStream {
    stream: Arc<StreamShared>,
    connection: Connection,
    finished: bool,
}

impl SendStream {
    pub(crate) fn new(stream: Arc<StreamShared>, connection: Connection) -> SendStream {
        SendStream { stream, connection, finished: false }
    }

    /// The stream's identifier.
    pub fn id(&self) -> StreamId {
        self.stream.id
    }

    /// The connection that it is a stream of.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Sends bytes, without a copy; waits while 512 KiB wait already.
    ///
    /// # Errors
    /// The peer stopped reading, this side has ended the stream, or the connection ended.
    pub async fn write(&mut self, data: impl Into<Bytes>) -> Result<(), IoError> {
        self.room().await?;
        self.push(data.into(), false)
    }

    fn push(&mut self, data: Bytes, fin: bool) -> Result<(), IoError> {
        if self.finished {
            return Err(IoError::Finished);
        }
        self.stream.state().unsent += data.len();
        self.finished = fin;
        self.stream.connection.push(Op::Send(self.stream.id, data, fin)).map_err(IoError::Ended)
    }

    async fn room(&self) -> Result<(), IoError> {
        let mut key = None;
        std::future::poll_fn(|cx| {
            let mut state = self.stream.state();
            if let Some(end) = &state.write_end {
                return Poll::Ready(Err(end.error()));
            }
            if state.unsent < SEND_AHEAD {
                return Poll::Ready(Ok(()));
            }
            state.writer.register(&mut key, cx.waker());
            Poll::Pending
        })
        .await
    }

    /// Ends the stream behind what was written.
    ///
    /// # Errors
    /// It had been ended, or the connection ended.
    pub fn finish(&mut self) -> Result<(), IoError> {
        self.push(Bytes::new(), true)
    }

    /// [`write`](Self::write) and [`finish`](Self::finish) in one, which often saves a packet.
    ///
    /// # Errors
    /// Those of `write`.
    pub async fn write_last(&mut self, data: impl Into<Bytes>) -> Result<(), IoError> {
        self.room().await?;
        self.push(data.into(), true)
    }

    /// Waits until the peer has acknowledged everything, or has stopped reading.
    ///
    /// # Errors
    /// The peer stopped reading, this side reset the stream, or the connection ended.
    pub async fn acknowledged(&mut self) -> Result<(), IoError> {
        let mut key = None;
        std::future::poll_fn(|cx| {
            let mut state = self.stream.state();
            match &state.write_end {
                Some(WriteEnd::Done) => Poll::Ready(Ok(())),
                Some(end) => Poll::Ready(Err(end.error())),
                None => {
                    state.writer.register(&mut key, cx.waker());
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Abandons the stream with a code of the application's, at most 2^62 - 1 (RESET_STREAM).
    pub fn reset(&mut self, code: u64) {
        self.finished = true;
        let id = self.stream.id;
        self.stream.end_write(WriteEnd::Reset);
        self.connection.run(move |active| active.reset(id, code).unwrap_or(())).ok();
    }

    /// Its turn against the connection's other streams, the greatest first; 32,767 by default.
    pub fn set_priority(&mut self, priority: u16) {
        let id = self.stream.id;
        self.connection.run(move |active| active.set_priority(id, priority).unwrap_or(())).ok();
    }
}

impl WriteEnd {
    fn error(&self) -> IoError {
        match self {
            WriteEnd::Done | WriteEnd::Reset => IoError::Finished,
            WriteEnd::Stopped(code) => IoError::Stopped(*code),
            WriteEnd::Lost(ended) => IoError::Ended(ended.clone()),
        }
    }
}

impl Drop for SendStream {
    fn drop(&mut self) {
        if !self.finished && self.stream.state().write_end.is_none() {
            self.reset(0);
        }
    }
}

/// The receiving half of a stream. Dropped before its end, it asks the peer to stop, with code 0.
pub struct RecvStream {
    stream: Arc<StreamShared>,
    connection: Connection,
    over: bool,
}

impl RecvStream {
    pub(crate) fn new(stream: Arc<StreamShared>, connection: Connection) -> RecvStream {
        RecvStream { stream, connection, over: false }
    }

    /// The stream's identifier.
    pub fn id(&self) -> StreamId {
        self.stream.id
    }

    /// The connection that it is a stream of.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The next bytes, in order; `None` at the end.
    ///
    /// # Errors
    /// The peer abandoned its side, or the connection ended.
    pub async fn read(&mut self) -> Result<Option<Bytes>, IoError> {
        let mut key = None;
        let stream = &self.stream;
        let (read, resume) = std::future::poll_fn(|cx| {
            let mut state = stream.state();
            if let Some(chunk) = state.chunks.pop_front() {
                state.held -= chunk.len();
                let resume = state.paused && state.held < READ_AHEAD / 2;
                state.paused &= !resume;
                return Poll::Ready((Ok(Some(chunk)), resume));
            }
            let end = match &state.read_end {
                None => {
                    state.reader.register(&mut key, cx.waker());
                    return Poll::Pending;
                }
                Some(ReadEnd::Fin) => Ok(None),
                Some(ReadEnd::Reset(code)) => Err(IoError::Reset(*code)),
                Some(ReadEnd::Lost(ended)) => Err(IoError::Ended(ended.clone())),
            };
            Poll::Ready((end, false))
        })
        .await;
        if resume {
            stream.connection.push(Op::ReadOn(stream.id)).ok();
        }
        self.over |= !matches!(read, Ok(Some(_)));
        read
    }

    /// Everything up to the end, if it is no longer than `limit` bytes.
    ///
    /// # Errors
    /// Those of [`read`](Self::read); [`IoError::TooLong`].
    pub async fn read_to_end(&mut self, limit: usize) -> Result<Vec<u8>, IoError> {
        let mut all = Vec::new();
        while let Some(chunk) = self.read().await? {
            if all.len() + chunk.len() > limit {
                return Err(IoError::TooLong(limit));
            }
            all.extend_from_slice(&chunk);
        }
        Ok(all)
    }

    /// Reads no more, and asks the peer to stop with this code of the application's, at most 2^62 - 1 (STOP_SENDING).
    pub fn stop(&mut self, code: u64) {
        self.over = true;
        let id = self.stream.id;
        self.connection.run(move |active| active.stop(id, code).unwrap_or(())).ok();
    }
}

impl Drop for RecvStream {
    fn drop(&mut self) {
        if !self.over && self.stream.state().read_end.is_none() {
            self.stop(0);
        }
    }
}

impl std::fmt::Debug for SendStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SendStream").field("id", &self.id()).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for RecvStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RecvStream").field("id", &self.id()).finish_non_exhaustive()
    }
}
