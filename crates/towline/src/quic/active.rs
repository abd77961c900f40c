//! A connection as its handler sees it: everything happens at once.

use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use rustls_pki_types::CertificateDer;
use towline_proto::quic as proto;

use super::{
    Chunk, Connection, ConnectionStats, DatagramError, DatagramId, DatagramOptions, Direction,
    OpenFlags, Opened, Options, ReadMode, SendId, SendOptions, Side, StreamError, StreamId,
    TooLate, Verdict,
};

/// A connection on its I/O thread, for the time of one call: in a [`Handler`](super::Handler)'s methods and in [`Connection::run`].
///
/// Nothing blocks and nothing waits; what is to be sent goes out when the call has returned. Streams opened here, and those that
/// [`Handler::new_stream`](super::Handler::new_stream) takes, are the handler's; streams of futures have the methods of
/// [`SendStream`](super::SendStream) and [`RecvStream`](super::RecvStream) instead.
pub struct Active<'a> {
    pub(crate) inner: proto::Connection<'a>,
    pub(crate) connection: &'a Connection,
    pub(crate) now: Instant,
    /// What the I/O thread has to do with sockets afterwards.
    pub(crate) migrate: &'a mut Option<SocketAddr>,
}

impl Active<'_> {
    /// The handle for other threads and for later.
    pub fn connection(&self) -> &Connection {
        self.connection
    }

    /// The time that this turn of the I/O thread began, which deadlines count from.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Which end this is.
    pub fn side(&self) -> Side {
        self.inner.side()
    }

    /// The options that it runs with.
    pub fn options(&self) -> &Options {
        self.inner.options()
    }

    /// The peer's address now.
    pub fn remote_address(&self) -> SocketAddr {
        self.inner.remote_address()
    }

    /// Whether 0-RTT data can be sent now.
    pub fn early_data_available(&self) -> bool {
        self.inner.early_data_available()
    }

    /// The application protocol, once agreed on.
    pub fn alpn(&self) -> Option<Bytes> {
        self.inner.alpn()
    }

    /// The peer's certificate chain, its own first, once verified.
    pub fn peer_certificates(&self) -> Option<Vec<CertificateDer<'static>>> {
        self.inner.peer_certificates()
    }

    /// Keying material bound to this session (RFC 8446 section 7.5); `false` before the handshake is complete.
    pub fn export_keying_material(&self, output: &mut [u8], label: &[u8], context: &[u8]) -> bool {
        self.inner.export_keying_material(output, label, context)
    }

    /// Counters.
    pub fn stats(&mut self) -> ConnectionStats {
        self.inner.stats()
    }

    /// The verdict that [`Handler::peer_cert_received`](super::Handler::peer_cert_received) put off.
    ///
    /// # Errors
    /// None is waited for any more.
    pub fn certificate_verdict(&mut self, verdict: Verdict) -> Result<(), TooLate> {
        self.inner.certificate_verdict(verdict)
    }

    /// Allows the peer this many open streams from now on.
    pub fn set_peer_streams(&mut self, direction: Direction, count: u64) {
        self.inner.set_peer_streams(direction, count);
    }

    /// Opens a stream.
    ///
    /// # Errors
    /// `LimitReached` with `fail_blocked`, `TooManyWaiting`, `ConnectionClosed`.
    pub fn open(&mut self, direction: Direction, flags: OpenFlags) -> Result<Opened, StreamError> {
        self.inner.open(direction, flags)
    }

    /// How many streams can be opened now.
    pub fn streams_available(&self, direction: Direction) -> u64 {
        self.inner.streams_available(direction)
    }

    /// Queues bytes on a stream, without a copy.
    ///
    /// # Errors
    /// `QueueFull` (`stream_writable` follows), `Closed`, `ConnectionClosed`.
    pub fn send(
        &mut self,
        stream: StreamId,
        data: Bytes,
        options: SendOptions,
    ) -> Result<SendId, StreamError> {
        self.inner.send(stream, data, options)
    }

    /// Copies bytes into a stream, as many as it takes, and returns how many.
    ///
    /// # Errors
    /// `Blocked` (`stream_writable` follows), `Stopped`, `Closed`, `ConnectionClosed`.
    pub fn write(&mut self, stream: StreamId, data: &[u8]) -> Result<usize, StreamError> {
        self.inner.write(stream, data)
    }

    /// Ends this side of a stream behind what is queued.
    ///
    /// # Errors
    /// `Closed`, `ConnectionClosed`.
    pub fn finish(&mut self, stream: StreamId) -> Result<(), StreamError> {
        self.inner.finish(stream)
    }

    /// Abandons this side of a stream with a code, at most 2^62 - 1 (RESET_STREAM).
    ///
    /// # Errors
    /// `Closed`, `CodeTooLarge`.
    pub fn reset(&mut self, stream: StreamId, code: u64) -> Result<(), StreamError> {
        self.inner.reset(stream, code)
    }

    /// Reads no more, and asks the peer to stop (STOP_SENDING).
    ///
    /// # Errors
    /// `Closed`, `CodeTooLarge`.
    pub fn stop(&mut self, stream: StreamId, code: u64) -> Result<(), StreamError> {
        self.inner.stop(stream, code)
    }

    /// Reads one run of at most `max` bytes of a stream that is read passively.
    ///
    /// # Errors
    /// `Blocked` (`stream_readable` follows), `Active`, `Reset`, `Closed`.
    pub fn read(&mut self, stream: StreamId, max: usize) -> Result<Chunk, StreamError> {
        self.inner.read(stream, max)
    }

    /// How a stream is read from now on (`active`).
    ///
    /// # Errors
    /// `Closed`.
    pub fn set_active(&mut self, stream: StreamId, mode: ReadMode) -> Result<(), StreamError> {
        self.inner.set_active(stream, mode)
    }

    /// Takes a stream's bytes as they arrive, with their offsets; there is no way back.
    ///
    /// # Errors
    /// `Closed`; `Unordered` for the way back.
    pub fn set_ordered(&mut self, stream: StreamId, ordered: bool) -> Result<(), StreamError> {
        self.inner.set_ordered(stream, ordered)
    }

    /// A stream's turn against the others, the greatest first; 32,767 by default.
    ///
    /// # Errors
    /// `Closed`.
    pub fn set_priority(&mut self, stream: StreamId, priority: u16) -> Result<(), StreamError> {
        self.inner.set_priority(stream, priority)
    }

    /// How far into the stream 0-RTT data reached, in bytes.
    pub fn early_length(&self, stream: StreamId) -> u64 {
        self.inner.early_length(stream)
    }

    /// Queues a datagram (RFC 9221).
    ///
    /// # Errors
    /// `Unsupported`, `TooLarge`, `QueueFull` (`dgrams_unblocked` follows), `ConnectionClosed`.
    pub fn send_datagram(
        &mut self,
        data: Bytes,
        options: DatagramOptions,
    ) -> Result<DatagramId, DatagramError> {
        self.inner.send_datagram(data, options)
    }

    /// The longest datagram now, in bytes; `None`: the peer takes none.
    pub fn max_datagram(&mut self) -> Option<usize> {
        self.inner.max_datagram()
    }

    /// Asks the peer for an acknowledgement, which gives a fresh round-trip time.
    pub fn ping(&mut self) {
        self.inner.ping();
    }

    /// Updates the keys now (RFC 9001 section 6); `false`: too early for another update.
    pub fn update_keys(&mut self) -> bool {
        self.inner.update_keys()
    }

    /// Moves to another local address, port 0 for any: a socket is bound there, the path is tried, and then comes
    /// [`local_address_changed`](super::Handler::local_address_changed) or [`migration_failed`](super::Handler::migration_failed).
    pub fn migrate(&mut self, local: SocketAddr) {
        *self.migrate = Some(local);
    }

    /// Closes with the application's code, at most 2^62 - 1, and text. What is unacknowledged is given up.
    pub fn close(&mut self, code: u64, reason: impl Into<Bytes>) {
        self.inner.close(self.now, code, reason.into());
    }

    /// Drops the connection without a word to the peer.
    pub fn abandon(&mut self) {
        self.inner.abandon();
    }
}

impl std::fmt::Debug for Active<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Active").field("connection", &self.connection).finish_non_exhaustive()
    }
}
