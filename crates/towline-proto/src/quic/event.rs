//! What happens, and what the application decides.
//!
//! Events come out of [`Endpoint::poll_event`](super::Endpoint::poll_event) in the order in which they happened on their connection. Some of them wait for a
//! decision; each says which call gives it and what happens without one.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use rustls_pki_types::CertificateDer;

use super::config::ServerConfig;
use super::error::CloseReason;
use super::ticket::Ticket;
use super::types::{
    ConnectionId, DatagramId, Direction, IncomingId, OpenRequest, SendId, StreamId,
};

/// Something that an endpoint has to tell.
#[derive(Debug)]
pub enum EndpointEvent {
    /// A client asks for a connection (`new_conn` of the owner's contract): nothing of TLS has been answered. Decide with
    /// [`Endpoint::decide`](super::Endpoint::decide); without a decision within `gate_timeout` the attempt is ignored.
    Incoming(Box<Incoming>),
    /// Something on a connection.
    Connection(ConnectionId, Event),
}

/// A client's request for a connection, with its whole ClientHello.
#[derive(Debug)]
pub struct Incoming {
    /// What to call it in the decision.
    pub id: IncomingId,
    /// The QUIC version of the client's packets.
    pub version: u32,
    /// Our address that the client sent to.
    pub local: SocketAddr,
    /// The client's address.
    pub remote: SocketAddr,
    /// Whether the address is proven to be the client's (a Retry or NEW_TOKEN token came back, RFC 9000 section 8.1).
    pub address_validated: bool,
    /// Whether `Decision::Retry` is still possible: not after a first Retry.
    pub may_retry: bool,
    /// The server name that the client named (SNI, RFC 6066 section 3).
    pub server_name: Option<String>,
    /// The application protocols that the client offers, in its order (RFC 7301 section 3.1).
    pub client_alpns: Vec<Bytes>,
    /// The first of them that the server's configuration speaks.
    pub alpn: Option<Bytes>,
    /// The raw ClientHello message, from its type byte on (RFC 8446 section 4.1.2). Empty when the client split it further than `client_hello_limit`.
    pub client_hello: Bytes,
    /// The application's data inside the ticket that the client offers, if it offers one that we gave out and that is still good. The client has not yet proved that
    /// the ticket is its own: that follows in the handshake, and `Event::Resumed` tells.
    pub resumption: Option<Bytes>,
}

/// What to do with an [`Incoming`].
#[derive(Clone, Debug, Default)]
pub enum Decision {
    /// Go on with the handshake.
    #[default]
    Accept,
    /// Go on, otherwise than by default.
    AcceptWith(Acceptance),
    /// Answer CONNECTION_CLOSE with CONNECTION_REFUSED (RFC 9000 section 20.1).
    Refuse,
    /// Ask the client to prove its address first (RFC 9000 section 8.1.2). Falls back to `Refuse` after a first Retry.
    Retry,
    /// Answer nothing at all.
    Ignore,
}

/// How to go on with a handshake.
#[derive(Clone, Debug, Default)]
pub struct Acceptance {
    /// Another configuration than the endpoint's, for instance another certificate by server name.
    pub config: Option<Arc<ServerConfig>>,
    /// Refuse the offered ticket: the handshake becomes a full one and 0-RTT data is discarded.
    pub reject_resumption: bool,
    /// The application's data to put into the tickets that this connection gives out, at most [`MAX_TICKET_DATA`](super::MAX_TICKET_DATA) bytes.
    pub ticket_data: Option<Bytes>,
}

/// What became of 0-RTT data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EarlyData {
    /// None was possible.
    None,
    /// The server took it.
    Accepted,
    /// The server discarded it: streams opened before `Connected` are closed with `StreamClosed`, and the application sends again what it still wants to send.
    Rejected,
}

/// What happened on a connection.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// The handshake is complete (`connected`).
    Connected {
        /// Whether the session continues an earlier one (a ticket was taken).
        is_resumed: bool,
        /// The application protocol agreed on.
        alpn: Option<Bytes>,
        /// What became of 0-RTT data.
        early_data: EarlyData,
        /// Whether 1-RTT packets go without encryption: both ends asked for it.
        encryption_disabled: bool,
    },
    /// The peer is known to have completed the handshake as well (RFC 9001 section 4.1.2).
    HandshakeConfirmed,
    /// The peer's certificate chain (`peer_cert_received`), only with `custom_verify`. The handshake stands still until
    /// [`Connection::certificate_verdict`](super::Connection::certificate_verdict); without one within `verdict_timeout` the handshake fails with the alert
    /// `certificate_unknown`.
    PeerCertificate {
        /// The chain, the peer's own certificate first.
        chain: Vec<CertificateDer<'static>>,
        /// What our own verification says, if the configuration has trust anchors; the verdict is taken in addition to it.
        verified: Option<Result<(), Arc<str>>>,
    },
    /// The server took a ticket of an earlier session (`resumed`), before `Connected`. What the application put into it is here. To refuse a ticket, see
    /// [`Incoming::resumption`].
    Resumed {
        /// The application's data, empty when it gave none.
        data: Bytes,
    },
    /// The server gave out a ticket (`nst_received`), only with `nst_events`: keep it and give it to a later connection's `nst`.
    NewSessionTicket(Ticket),
    /// The connection ends for a reason of the transport's (`transport_shutdown`); `Closed` follows.
    TransportShutdown(CloseReason),
    /// The peer's application closed the connection (`shutdown`); `Closed` follows.
    Shutdown {
        /// The peer's code, at most 2^62 - 1.
        code: u64,
        /// The peer's text.
        reason: Bytes,
    },
    /// The end (`closed`): exactly once, and the connection's last event. Its id finds nothing from here on.
    Closed {
        /// Whether the handshake had completed.
        is_handshake_completed: bool,
        /// Whether the peer is known to have seen the end: it closed first, or answered our close.
        is_peer_acked: bool,
        /// Whether our application closed first.
        is_app_closing: bool,
    },
    /// The local address changed (`local_address_changed`): a migration succeeded, or the driver rebound the socket.
    LocalAddressChanged(SocketAddr),
    /// A migration did not: the new path answered nothing, the connection stays where it was.
    MigrationFailed {
        /// The address that was tried.
        local: SocketAddr,
    },
    /// The peer migrated or was rebound, and its new path is in use (`peer_address_changed`).
    PeerAddressChanged(SocketAddr),
    /// How many streams we may open now (`streams_available`), after the handshake and whenever the peer raises a limit.
    StreamsAvailable {
        /// Bidirectional ones.
        bidirectional: u64,
        /// Unidirectional ones.
        unidirectional: u64,
    },
    /// The peer would open streams but has reached our limit (`peer_needs_streams`). Answer with
    /// [`Connection::set_peer_streams`](super::Connection::set_peer_streams), or leave it as it is.
    PeerNeedsStreams(Direction),
    /// The peer opened a stream (`new_stream`). It is taken by default; [`Connection::reject_stream`](super::Connection::reject_stream) refuses it. It begins
    /// passive or active as the configuration says.
    NewStream {
        /// The stream.
        stream: StreamId,
        /// Whether it came with 0-RTT data.
        early: bool,
    },
    /// Datagrams can be sent, or cannot, or their limit changed (`dgram_state_changed`).
    DatagramStateChanged {
        /// Whether the peer takes datagrams.
        send_enabled: bool,
        /// The longest datagram now, bytes.
        max_length: usize,
    },
    /// A datagram came (`dgram_recv`).
    Datagram {
        /// Its bytes.
        data: Bytes,
        /// Whether it came as 0-RTT data.
        early: bool,
    },
    /// What became of a datagram that we sent (`dgram_send_state`), only with `datagram_states`.
    DatagramSendState {
        /// Which.
        id: DatagramId,
        /// What.
        state: DatagramState,
    },
    /// The queue of datagrams has room again after `DatagramError::QueueFull`.
    DatagramsUnblocked,
    /// Something on a stream.
    Stream(StreamId, StreamEvent),
    /// A stream that had to wait for the peer is open now, or will never be (`start_completed`).
    StreamStarted {
        /// The request that `open` gave.
        request: OpenRequest,
        /// The stream, or that the connection ended before.
        stream: Option<StreamId>,
    },
}

/// What became of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatagramState {
    /// It is in a packet on its way.
    Sent,
    /// Its packet is thought lost. It is not sent again.
    Lost,
    /// Its packet was acknowledged.
    Acknowledged,
    /// It expired in the queue, or the path became too small for it, before it was sent.
    Expired,
    /// It was dropped from the queue or the connection ended first.
    Canceled,
    /// It was sent and will not be heard of: its packet left on a path that the connection has left.
    Unknown,
}

/// What happened on a stream.
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StreamEvent {
    /// Our stream is open and has its identifier (`start_completed`), with `START_EVENT`.
    Started,
    /// The peer allows the stream (`peer_accepted`), with `INDICATE_PEER_ACCEPT`.
    PeerAccepted,
    /// Bytes of an actively read stream; or what of any stream nobody had read when the connection ended without our asking for it.
    Data {
        /// The bytes; empty for a bare end of stream.
        data: Bytes,
        /// Where they stand in the stream.
        offset: u64,
        /// Whether the stream ends here.
        fin: bool,
        /// Whether they came while the handshake was still going on, as 0-RTT data.
        early: bool,
    },
    /// A passively read stream has something to read: bytes, its end, or a reset (`continue`).
    Readable,
    /// The credit of an active stream is used up and it is passive now (`passive`).
    Passive,
    /// A queued send is in the engine's hands, or will never be (`send_complete`).
    SendComplete {
        /// Which send.
        id: SendId,
        /// Whether it was given up: the stream was reset or the connection ended.
        canceled: bool,
    },
    /// A `write` that was refused as blocked may succeed now.
    Writable,
    /// The peer finished its side (`peer_send_shutdown`): everything before the end has been delivered.
    PeerSendShutdown,
    /// The peer abandoned its side with this code (`peer_send_aborted`).
    PeerSendAborted(u64),
    /// The peer stopped reading with this code (`peer_receive_aborted`); what is queued is given up.
    PeerReceiveAborted(u64),
    /// Our side is over (`send_shutdown_complete`).
    SendShutdownComplete {
        /// Whether everything including the end was acknowledged; false after a reset.
        graceful: bool,
    },
    /// Both sides are over (`stream_closed`): the stream's last event.
    Closed,
}
