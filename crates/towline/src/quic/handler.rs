//! What an application hears of a connection, one method per event, and what it answers.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use rustls_pki_types::CertificateDer;
use towline_proto::quic::{
    CloseReason, DatagramId, DatagramState, Decision, Direction, EarlyData, Incoming, SendId,
    StreamId, Ticket, Verdict,
};

use super::{Active, Connection, Ended};

/// The handshake is complete.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Connected {
    /// Whether the session continues an earlier one.
    pub is_resumed: bool,
    /// The application protocol agreed on.
    pub alpn: Option<Bytes>,
    /// What became of 0-RTT data.
    pub early_data: EarlyData,
    /// Whether 1-RTT packets go without encryption: both ends asked for it.
    pub encryption_disabled: bool,
}

/// The end of a connection, once and last.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Closed {
    /// How it ended.
    pub ended: Ended,
    /// Whether the handshake had completed.
    pub is_handshake_completed: bool,
    /// Whether the peer is known to have seen the end.
    pub is_peer_acked: bool,
    /// Whether this application closed first.
    pub is_app_closing: bool,
}

/// What happens to a stream that the peer opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewStream {
    /// It goes to whoever calls [`Connection::accept_bi`] or [`Connection::accept_uni`].
    Queue,
    /// Its events go to this handler.
    Handle,
    /// It is refused with this application code, at most 2^62 - 1.
    Reject(u64),
}

/// One method per event of a connection, with empty defaults. What a method returns decides.
///
/// All methods run on the connection's I/O thread, never two at once for one connection, and must not block: every connection of that thread
/// waits. [`Active`] does at once what is asked of it; [`Active::connection`] is the handle for other threads. A handler that panics is called no
/// more, and its connection is abandoned.
pub trait Handler: Send + 'static {
    /// The handshake is complete (`connected`).
    fn connected(&mut self, _: &mut Active<'_>, _: &Connected) {}

    /// The peer is known to have completed the handshake as well (RFC 9001 section 4.1.2).
    fn handshake_confirmed(&mut self, _: &mut Active<'_>) {}

    /// The peer's certificate chain, its own first (`peer_cert_received`), with [`Options::custom_verify`](super::Options::custom_verify) only; `verified` is what the
    /// configured trust says. `None` decides later: the handshake stands still until [`Connection::certificate_verdict`], or
    /// `verdict_timeout`, which refuses. By default what the configured trust says goes, and without any the certificate is refused.
    fn peer_cert_received(
        &mut self,
        _: &mut Active<'_>,
        _chain: &[CertificateDer<'static>],
        verified: Option<&Result<(), Arc<str>>>,
    ) -> Option<Verdict> {
        Some(match verified {
            Some(Ok(())) => Verdict::Accept,
            // bad_certificate, RFC 8446 section 6.2.
            _ => Verdict::Reject(42),
        })
    }

    /// A server took this connection's ticket of an earlier session (`resumed`), with what the application had put into it. `false` closes the connection. To make the
    /// handshake a full one instead, see [`Acceptor::resume`].
    fn resumed(&mut self, _: &mut Active<'_>, _data: &Bytes) -> bool {
        true
    }

    /// The server gave out a ticket (`nst_received`), with [`Options::nst_events`](super::Options::nst_events) only.
    fn nst_received(&mut self, _: &mut Active<'_>, _: Ticket) {}

    /// The connection ends for a reason of the transport's (`transport_shutdown`).
    fn transport_shutdown(&mut self, _: &mut Active<'_>, _: &CloseReason) {}

    /// The peer's application closed the connection (`shutdown`).
    fn shutdown(&mut self, _: &mut Active<'_>, _code: u64, _reason: &Bytes) {}

    /// The end (`closed`): once, and last.
    fn closed(&mut self, _: &Connection, _: &Closed) {}

    /// The connection has another local address now (`local_address_changed`).
    fn local_address_changed(&mut self, _: &mut Active<'_>, _: SocketAddr) {}

    /// A migration found nobody on the new path; the connection stays where it was.
    fn migration_failed(&mut self, _: &mut Active<'_>, _: SocketAddr) {}

    /// The peer has another address now (`peer_address_changed`).
    fn peer_address_changed(&mut self, _: &mut Active<'_>, _: SocketAddr) {}

    /// How many streams may be opened now (`streams_available`).
    fn streams_available(&mut self, _: &mut Active<'_>, _bidirectional: u64, _unidirectional: u64) {
    }

    /// The peer would open more streams than it may (`peer_needs_streams`). `Some(n)`: it may have `n` open from now on.
    fn peer_needs_streams(&mut self, _: &mut Active<'_>, _: Direction) -> Option<u64> {
        None
    }

    /// The peer opened a stream (`new_stream`); `early`: by 0-RTT data.
    fn new_stream(&mut self, _: &mut Active<'_>, _: StreamId, _early: bool) -> NewStream {
        NewStream::Queue
    }

    /// A datagram came (`dgram_recv`). What is handed back waits for [`Connection::read_datagram`].
    fn dgram_recv(&mut self, _: &mut Active<'_>, data: Bytes, _early: bool) -> Option<Bytes> {
        Some(data)
    }

    /// Datagrams can be sent or not, or their longest length changed, in bytes (`dgram_state_changed`).
    fn dgram_state_changed(&mut self, _: &mut Active<'_>, _enabled: bool, _max_length: usize) {}

    /// What became of a datagram (`dgram_send_state`), with [`Options::datagram_states`](super::Options::datagram_states) only.
    fn dgram_send_state(&mut self, _: &mut Active<'_>, _: DatagramId, _: DatagramState) {}

    /// The queue of datagrams has room again.
    fn dgrams_unblocked(&mut self, _: &mut Active<'_>) {}

    /// A stream that [`Active::open`] made wait, or that was opened with `start_event`, is open (`start_completed`).
    fn stream_started(&mut self, _: &mut Active<'_>, _: StreamId) {}

    /// Bytes of a stream that is read actively; or, when the connection ends without this side asking for it, what of any stream was left unread. `offset`: where they stand; `fin`: the stream ends behind them; `early`: they are 0-RTT data.
    fn stream_data(
        &mut self,
        _: &mut Active<'_>,
        _: StreamId,
        _data: Bytes,
        _offset: u64,
        _fin: bool,
        _early: bool,
    ) {
    }

    /// A stream that is read passively has something to [`read`](Active::read) (`continue`).
    fn stream_readable(&mut self, _: &mut Active<'_>, _: StreamId) {}

    /// The credit of a stream is used up; it is read passively from now on (`passive`).
    fn stream_passive(&mut self, _: &mut Active<'_>, _: StreamId) {}

    /// A send is with the transport, or, `canceled`, will never be (`send_complete`).
    fn send_complete(&mut self, _: &mut Active<'_>, _: StreamId, _: SendId, _canceled: bool) {}

    /// A write that was refused as blocked may succeed now.
    fn stream_writable(&mut self, _: &mut Active<'_>, _: StreamId) {}

    /// The peer has ended its side, and everything before the end has been read (`peer_send_shutdown`).
    fn peer_send_shutdown(&mut self, _: &mut Active<'_>, _: StreamId) {}

    /// The peer abandoned its side (`peer_send_aborted`).
    fn peer_send_aborted(&mut self, _: &mut Active<'_>, _: StreamId, _code: u64) {}

    /// The peer reads no more (`peer_receive_aborted`).
    fn peer_receive_aborted(&mut self, _: &mut Active<'_>, _: StreamId, _code: u64) {}

    /// This side of a stream is over; `graceful`: the peer has acknowledged all of it (`send_shutdown_complete`).
    fn send_shutdown_complete(&mut self, _: &mut Active<'_>, _: StreamId, _graceful: bool) {}

    /// The peer allows the stream (`peer_accepted`), with `indicate_peer_accept` only.
    fn peer_accepted(&mut self, _: &mut Active<'_>, _: StreamId) {}

    /// Both sides of a stream are over (`stream_closed`), its last event.
    fn stream_closed(&mut self, _: &mut Active<'_>, _: StreamId) {}
}

/// A connection whose streams and datagrams are all taken by futures.
impl Handler for () {}

/// Who decides about clients, on the I/O threads.
pub trait Acceptor: Send + Sync + 'static {
    /// A client asks for a connection (`new_conn`): nothing of TLS has been answered. Must not block, and decides at once: what takes longer can be
    /// put off to [`Handler::peer_cert_received`], whose verdict may come later, or with `Ignore`, upon which the client asks again.
    fn new_conn(&self, _: &Incoming) -> Decision {
        Decision::Accept
    }

    /// The client offers a ticket with this data of the application's in it; `false`: the handshake is a full one, and 0-RTT data is discarded. Asked when
    /// [`new_conn`](Self::new_conn) accepts.
    fn resume(&self, _: &Incoming, _data: &Bytes) -> bool {
        true
    }

    /// The handler of a client that was accepted; before any event.
    fn handler(&self, connection: &Connection) -> Box<dyn Handler>;
}

/// Every client is accepted, and `self` makes its handler.
impl<F, H> Acceptor for F
where
    F: Fn(&Connection) -> H + Send + Sync + 'static,
    H: Handler,
{
    fn handler(&self, connection: &Connection) -> Box<dyn Handler> {
        Box::new(self(connection))
    }
}
