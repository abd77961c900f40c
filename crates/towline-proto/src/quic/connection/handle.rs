//! What an application does with a connection.

use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use noq_proto as engine;
use rustls_pki_types::CertificateDer;

use super::{Chunk, Conn, DatagramOptions, OpenFlags, Opened, SendOptions};
use crate::quic::config::{Options, ReadMode};
use crate::quic::congestion::PathReport;
use crate::quic::crypto::Verdict;
use crate::quic::endpoint::Queues;
use crate::quic::error::{DatagramError, MigrateError, StreamError, TooLate};
use crate::quic::stats::ConnectionStats;
use crate::quic::types::{
    ConnectionId, DatagramId, Direction, LocalAddress, SendId, Side, StreamId,
};

/// A connection, borrowed from its [`Endpoint`](crate::quic::Endpoint) for a moment.
///
/// Nothing here blocks or sends: what is to be sent comes out of the endpoint's next `poll_transmit`.
pub struct Connection<'a> {
    conn: &'a mut Conn,
    queues: &'a mut Queues,
}

impl<'a> Connection<'a> {
    pub(in crate::quic) fn new(conn: &'a mut Conn, queues: &'a mut Queues) -> Self {
        Self { conn, queues }
    }

    fn touched<T>(&mut self, result: T) -> T {
        self.queues.touch(self.conn);
        result
    }

    /// A call that found nothing to do leaves nothing to work on.
    fn touched_if_done<T>(&mut self, result: Result<T, StreamError>) -> Result<T, StreamError> {
        if matches!(result, Ok(_) | Err(StreamError::Reset(_))) {
            self.queues.touch(self.conn);
        }
        result
    }

    /// The connection's id.
    pub fn id(&self) -> ConnectionId {
        self.conn.id
    }

    /// Which end we are.
    pub fn side(&self) -> Side {
        self.conn.side
    }

    /// The options that it runs with.
    pub fn options(&self) -> &Options {
        self.conn.options()
    }

    /// The peer's address now.
    pub fn remote_address(&self) -> SocketAddr {
        self.conn.remote
    }

    /// The local address that it is bound to, if it is bound to one of its own.
    pub fn local_address(&self) -> Option<LocalAddress> {
        self.conn.local
    }

    /// Whether the handshake is still going on.
    pub fn is_handshaking(&self) -> bool {
        !self.conn.life.connected
    }

    /// Whether a client can send 0-RTT data now.
    pub fn early_data_available(&self) -> bool {
        self.conn.side == Side::Client && !self.conn.life.connected && self.conn.inner.has_0rtt()
    }

    /// The application protocol, once the handshake has agreed on one.
    pub fn alpn(&self) -> Option<Bytes> {
        self.conn.shared.facts().alpn
    }

    /// What TLS agreed on, once the handshake is complete.
    #[cfg(feature = "tls")]
    pub fn tls_state(&self) -> Option<crate::tls::TlsState> {
        if self.is_handshaking() {
            return None;
        }
        let facts = self.conn.shared.facts();
        let server_name = match self.conn.side {
            Side::Client => Some(self.conn.server_name.clone()),
            Side::Server => facts.asked_for,
        };
        Some(crate::tls::TlsState::of_quic(
            facts.cipher_suite,
            facts.alpn.as_deref(),
            self.peer_certificates().unwrap_or_default(),
            facts.is_resumed,
            server_name,
        ))
    }

    /// The peer's certificate chain, its own first (`peercert`), once it has been verified.
    pub fn peer_certificates(&self) -> Option<Vec<CertificateDer<'static>>> {
        let identity = self.conn.inner.crypto_session().peer_identity()?;
        identity.downcast::<Vec<CertificateDer<'static>>>().ok().map(|chain| *chain)
    }

    /// Keying material for another protocol, bound to this session (RFC 8446 section 7.5). False before the handshake is complete or for too long an output.
    pub fn export_keying_material(&self, output: &mut [u8], label: &[u8], context: &[u8]) -> bool {
        self.conn.inner.crypto_session().export_keying_material(output, label, context).is_ok()
    }

    /// What is known of it.
    pub fn stats(&mut self) -> ConnectionStats {
        let all = self.conn.inner.stats();
        let path = self.conn.inner.path_stats(engine::PathId::ZERO).unwrap_or_default();
        ConnectionStats {
            rtt: path.rtt,
            congestion_window: path.cwnd,
            bandwidth: path.bandwidth_estimate,
            mtu: path.current_mtu,
            datagrams_sent: all.udp_tx.datagrams,
            bytes_sent: all.udp_tx.bytes,
            datagrams_received: all.udp_rx.datagrams,
            bytes_received: all.udp_rx.bytes,
            packets_sent: all.sent_packets,
            packets_lost: all.lost_packets,
            bytes_lost: all.lost_bytes,
            congestion_events: path.congestion_events,
            spurious_congestion_events: path.spurious_congestion_events,
            black_holes: path.black_holes_detected,
            acks_sent: all.frame_tx.acks,
            acks_received: all.frame_rx.acks,
            stream_frames_sent: all.frame_tx.stream,
            stream_frames_received: all.frame_rx.stream,
            datagram_frames_sent: all.frame_tx.datagram,
            datagram_frames_received: all.frame_rx.datagram,
            streams_blocked_received: all.frame_rx.streams_blocked_bidi
                + all.frame_rx.streams_blocked_uni,
            path_challenges_received: all.frame_rx.path_challenge,
            key_updates: self.conn.key_updates,
            datagrams_expired: self.conn.datagrams.expired(),
        }
    }

    /// What the application's own congestion controller says of the path, once something was acknowledged.
    pub fn path_report(&self) -> Option<PathReport> {
        self.conn.observed.report()
    }

    /// Since when nothing of what was sent has been acknowledged; `None` when nothing is outstanding.
    pub fn silent_since(&self) -> Option<Instant> {
        self.conn.observed.silent_since()
    }

    /// Lets one more packet out beyond the window of an application's own controller, until the next acknowledgement: while nothing comes back, such packets find out that
    /// the path is alive again sooner than the engine's probes, whose distance doubles (RFC 9002 section 6.2.1).
    pub fn allow_probe(&mut self) {
        self.conn.observed.allow_probe(self.conn.inner.current_mtu().into());
        self.touched(());
    }

    // Decisions.

    /// The verdict on [`Event::PeerCertificate`](crate::quic::Event::PeerCertificate).
    ///
    /// # Errors
    /// When none is waited for any more.
    pub fn certificate_verdict(&mut self, verdict: Verdict) -> Result<(), TooLate> {
        let held = self.conn.held.as_ref().ok_or(TooLate)?;
        let decided = held.hold.decide(verdict);
        self.touched(decided.then_some(()).ok_or(TooLate))
    }

    /// Allows the peer this many streams in a direction from now on, the answer to `PeerNeedsStreams`. A smaller number takes effect as streams close.
    pub fn set_peer_streams(&mut self, direction: Direction, count: u64) {
        let count = engine::VarInt::from_u64(count.min(1 << 60)).unwrap_or(engine::VarInt::MAX);
        self.conn.inner.set_max_concurrent_streams(direction.engine(), count);
        self.touched(());
    }

    /// Refuses a stream of the peer's: stops its data and resets ours, with the same code.
    ///
    /// # Errors
    /// `Closed` when it is over already, `CodeTooLarge`.
    pub fn reject_stream(&mut self, id: StreamId, code: u64) -> Result<(), StreamError> {
        let stopped = self.conn.stop_stream(id, code);
        let reset = match id.direction() {
            Direction::Bidirectional => self.conn.reset_stream(id, code),
            Direction::Unidirectional => stopped,
        };
        self.touched(stopped.or(reset))
    }

    // Streams.

    /// Opens a stream (`start_stream`).
    ///
    /// # Errors
    /// `LimitReached` with `fail_blocked`, `TooManyWaiting`, `ConnectionClosed`.
    pub fn open(&mut self, direction: Direction, flags: OpenFlags) -> Result<Opened, StreamError> {
        let opened = self.conn.open_stream(direction, flags);
        self.touched_if_done(opened)
    }

    /// How many streams we may open now.
    pub fn streams_available(&self, direction: Direction) -> u64 {
        self.conn.streams_available(direction)
    }

    /// Queues bytes on a stream without copying them. With `fin` they are the last.
    ///
    /// # Errors
    /// `QueueFull` (then `Writable` follows), `Closed`, `ConnectionClosed`.
    pub fn send(
        &mut self,
        id: StreamId,
        data: Bytes,
        options: SendOptions,
    ) -> Result<SendId, StreamError> {
        let sent = self.conn.send_stream(id, data, options);
        self.touched_if_done(sent)
    }

    /// Copies bytes into a stream, as many as it takes, and returns how many.
    ///
    /// # Errors
    /// `Blocked` (then `Writable` follows), `Stopped` with the peer's code, `Closed`, `ConnectionClosed`.
    pub fn write(&mut self, id: StreamId, data: &[u8]) -> Result<usize, StreamError> {
        let written = self.conn.write_stream(id, data);
        self.touched_if_done(written)
    }

    /// Ends our side of a stream behind what is queued (graceful shutdown).
    ///
    /// # Errors
    /// `Closed`, `ConnectionClosed`.
    pub fn finish(&mut self, id: StreamId) -> Result<(), StreamError> {
        let options = SendOptions { fin: true, allow_early: true, notify: false };
        self.send(id, Bytes::new(), options).map(|_| ())
    }

    /// Abandons our side of a stream with a code (ABORT_SEND; RFC 9000 section 19.4).
    ///
    /// # Errors
    /// `Closed`, `CodeTooLarge`.
    pub fn reset(&mut self, id: StreamId, code: u64) -> Result<(), StreamError> {
        let reset = self.conn.reset_stream(id, code);
        self.touched_if_done(reset)
    }

    /// Stops reading a stream and asks the peer to stop sending (ABORT_RECEIVE; RFC 9000 section 19.5).
    ///
    /// # Errors
    /// `Closed`, `CodeTooLarge`.
    pub fn stop(&mut self, id: StreamId, code: u64) -> Result<(), StreamError> {
        let stopped = self.conn.stop_stream(id, code);
        self.touched_if_done(stopped)
    }

    /// Reads a passive stream: one run of at most `max` bytes.
    ///
    /// # Errors
    /// `Blocked` (then `Readable` follows), `Active`, `Reset` with the peer's code, `Closed`.
    pub fn read(&mut self, id: StreamId, max: usize) -> Result<Chunk, StreamError> {
        let chunk = self.conn.read_stream(id, max.max(1));
        self.touched_if_done(chunk)
    }

    /// How a stream is read from now on (`active`).
    ///
    /// # Errors
    /// `Closed`.
    pub fn set_active(&mut self, id: StreamId, mode: ReadMode) -> Result<(), StreamError> {
        let set = self.conn.set_read_mode(id, mode);
        self.touched_if_done(set)
    }

    /// Takes a stream's bytes as they arrive instead of in order (`disable_fpbuffer`); there is no way back.
    ///
    /// # Errors
    /// `Closed`; `Unordered` for the way back.
    pub fn set_ordered(&mut self, id: StreamId, ordered: bool) -> Result<(), StreamError> {
        self.conn.set_stream_ordered(id, ordered)
    }

    /// A stream's turn against the others: the greatest number first, streams of the same number as `send_fairness` says. 32,767 when nothing is set.
    ///
    /// # Errors
    /// `Closed`.
    pub fn set_priority(&mut self, id: StreamId, priority: u16) -> Result<(), StreamError> {
        self.conn.set_stream_priority(id, priority)
    }

    /// How far into the stream 0-RTT data reached (`0rtt_length`).
    pub fn early_length(&self, id: StreamId) -> u64 {
        self.conn.observed.early_length(id.as_u64())
    }

    // Datagrams.

    /// Queues a datagram (RFC 9221).
    ///
    /// # Errors
    /// `Unsupported`, `TooLarge`, `QueueFull` (then `DatagramsUnblocked` follows), `ConnectionClosed`.
    pub fn send_datagram(
        &mut self,
        data: Bytes,
        options: DatagramOptions,
    ) -> Result<DatagramId, DatagramError> {
        let sent = self.conn.send_datagram(data, options);
        if sent.is_ok() {
            self.queues.touch(self.conn);
        }
        sent
    }

    /// Bytes of datagrams that wait to be sent.
    pub fn datagrams_queued(&mut self) -> usize {
        self.conn.datagrams_queued()
    }

    /// The longest datagram now; `None` when the peer takes none.
    pub fn max_datagram(&mut self) -> Option<usize> {
        self.conn.max_datagram()
    }

    // The connection itself.

    /// Asks the peer for an acknowledgement, which gives a fresh round trip time.
    pub fn ping(&mut self) {
        self.conn.inner.ping();
        self.touched(());
    }

    /// Updates the keys now (RFC 9001 section 6). False when none may be begun yet: the peer has to acknowledge a packet with the present ones first.
    pub fn update_keys(&mut self) -> bool {
        let updated = self.conn.update_keys();
        self.touched(updated)
    }

    /// Moves to another local address (RFC 9000 section 9): tries the path first; `LocalAddressChanged` or `MigrationFailed` tells. The driver must have a socket there
    /// whose datagrams reach this endpoint.
    ///
    /// # Errors
    /// See [`MigrateError`].
    pub fn migrate(&mut self, now: Instant, local: SocketAddr) -> Result<(), MigrateError> {
        let migrated = self.conn.migrate(now, local);
        self.touched(migrated)
    }

    /// Tells that the socket under the connection has another address now.
    pub fn rebound(&mut self, now: Instant, local: SocketAddr) {
        self.conn.rebound(now, local);
        self.touched(());
    }

    /// Closes with the application's code, at most 2^62 - 1 (greater ones count as that), and text (RFC 9000 section 10.2). What is unacknowledged is given up; finish the streams and wait
    /// for `SendShutdownComplete` first if it matters.
    pub fn close(&mut self, now: Instant, code: u64, reason: Bytes) {
        self.conn.close(now, code, reason);
        self.touched(());
    }

    /// Drops the connection without a word to the peer (SILENT, 1).
    pub fn abandon(&mut self) {
        self.conn.abandon();
        self.queues.abandon(self.conn);
        self.touched(());
    }
}

impl Conn {
    fn close(&mut self, now: Instant, code: u64, reason: Bytes) {
        if self.life.ending {
            return;
        }
        let code = engine::VarInt::from_u64(code).unwrap_or(engine::VarInt::MAX);
        self.life.app_closing = true;
        self.inner.close(now, code, reason);
        self.begin_end();
    }

    fn abandon(&mut self) {
        if !self.life.ending {
            self.life.app_closing = true;
            self.begin_end();
        }
    }
}
