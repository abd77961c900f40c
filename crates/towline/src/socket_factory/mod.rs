//! Sockets that the application brings: a platform's networking, a tunnel, a serial line, a test double.
//!
//! A [`SocketFactory`] opens sockets and moves their bytes or messages; Towline's framing, TLS, sessions and messages lie
//! on top, and everything that is promised of them holds. `docs/socket-factory.md` tells how to write one.
//!
//! A configuration names factories in one of two ways: [`ConfigBuilder::socket_factory`](crate::ConfigBuilder::socket_factory)
//! opens everything that its endpoints dial; [`ConfigBuilder::named_socket_factory`](crate::ConfigBuilder::named_socket_factory)
//! opens the addresses that name it in front of the wire, such as `serial+tcp://board`: a Towline session, as on
//! `tcp://`, over whatever the factory `serial` makes of the host `board`. Connections that come in are given to a
//! listener by [`Listener::attach`](crate::Listener::attach).
//!
//! # The contract
//!
//! Towline calls the factory, and the factory calls the [`FactorySocket`]:
//!
//! | Towline calls | how often | what the factory does, and calls in turn |
//! | --- | --- | --- |
//! | [`open`](SocketFactory::open), [`attached`](SocketFactory::attached) | one of the two, once, first | connects, then [`opened`](FactorySocket::opened), or [`closed`](FactorySocket::closed) with an error |
//! | [`write`](SocketFactory::write) | between `opened` and `close` | sends in the order of the calls, then [`completed_write`](FactorySocket::completed_write), in pieces or at once |
//! | [`completed_receive`](SocketFactory::completed_receive) | for all that was [`received`](FactorySocket::received) | reads on, if it had stopped for want of it |
//! | [`close`](SocketFactory::close) (bytes), [`request_close`](SocketFactory::request_close) (messages) | at most once, also before `opened` | sends what is queued, closes, then [`closed`](FactorySocket::closed) |
//! | [`dispose`](SocketFactory::dispose) | once, last, after `closed` | lets go of everything |
//!
//! - The calls for one socket come in order and never two at a time. Each comes with no lock of Towline's held, so any
//!   method of any socket may be called from inside of it; nothing is ever delivered inside of such a call.
//! - The socket's methods may be called on any thread, one after the other or at once, and never wait.
//! - A `close` that is not answered by `closed` within [`CLOSE_BUDGET`] counts as answered. Later calls are refused with
//!   [`SocketError::Closed`] and do no harm: a handle stays valid for as long as anybody keeps it.
//! - What breaks the contract is refused with an error, is logged, and, where bytes would be lost by it, ends that socket.
//! - A factory that panics loses the socket for which it was called, and nothing else.

mod builtin;
mod calls;
mod config;
mod life;
mod socket;
#[cfg(test)]
mod tests;

use std::time::Duration;

use bytes::Bytes;

#[cfg(feature = "tls")]
pub use self::builtin::TlsSockets;
pub use self::builtin::{InProcess, StreamListener, StreamSockets};
pub(crate) use self::calls::Call;
pub(crate) use self::config::Factories;
pub(crate) use self::life::{Arrival, Life, Phase};
pub(crate) use self::socket::{CertificateCheck, Owner, SocketShared};
pub use self::socket::{FactorySocket, Native, SocketError};

use crate::address::Address;

/// What a factory's sockets move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Framing {
    /// A stream of bytes. Everything that the address's scheme says lies on it: TLS, the WebSocket handshake, a session.
    #[default]
    Bytes,
    /// Whole messages, which the factory frames itself. On `ws` and `wss` they are the application's messages, text and
    /// binary; on the other wires they carry the bytes of the session, cut anywhere.
    None,
    /// A stream of bytes on which the factory has done TLS and the HTTP handshake of a WebSocket client, as it tells by
    /// [`FactorySocket::got_http_response`]: Towline adds the frames (RFC 6455 section 5). Only on `ws` and `wss`.
    WebSocketClient,
    /// The same of a WebSocket server; the response is then the one that the factory sent.
    WebSocketServer,
}

/// How long a factory may take to answer `close` or `request_close` by `closed`, all in all.
pub const CLOSE_BUDGET: Duration = Duration::from_secs(5);

/// How many bytes a factory should hand up, beyond those of which `completed_receive` told, before it stops reading.
pub const RECEIVE_WINDOW: usize = 256 << 10;

/// With this many bytes handed up and not processed, beyond the configured
/// [`max_message`](crate::ConfigBuilder::max_message), the socket is closed for want of flow control.
pub const RECEIVE_LIMIT: usize = 64 << 20;

/// What a socket is opened for, beside the address.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct OpenOptions {
    /// WebSocket: the subprotocols to ask for, the preferred first.
    pub subprotocols: Vec<String>,
    /// WebSocket: further headers of the request.
    pub headers: Vec<(String, String)>,
    /// After this time Towline gives up and calls `close`.
    pub timeout: Duration,
    /// The connection is one of Towline's sessions: with a peer that does not confirm it
    /// (`Sec-WebSocket-Protocol: towline.1` and `Towline-Session: 1`), opening fails.
    pub needs_session: bool,
}

/// Opens sockets and moves their bytes or messages; the [module](self) has the contract.
///
/// Everything is asynchronous: a method starts something and returns, and what comes of it is told by the methods of the
/// [`FactorySocket`], from inside of the call or from any thread. The state of a socket can be kept in it:
/// [`FactorySocket::set_native`].
pub trait SocketFactory: Send + Sync + 'static {
    /// What this factory's sockets move. Asked once for each socket, before anything else.
    fn framing(&self) -> Framing {
        Framing::Bytes
    }

    /// Whether the methods may block, which is safe to say and costs a thread's hand-over for each call: they then run on
    /// threads of their own and delay nobody. A factory that never blocks says `false`, and is called on I/O threads.
    fn may_block(&self) -> bool {
        true
    }

    /// Opens a socket to an address. Ends in one call of `opened` or of `closed`.
    fn open(&self, socket: &FactorySocket, address: &Address, options: &OpenOptions);

    /// A connection that came in was given to a listener, with its [native state](FactorySocket::native). Ends in one call
    /// of `opened` or of `closed`. By default: `opened`.
    fn attached(&self, socket: &FactorySocket) {
        socket.opened().ok();
    }

    /// Sends bytes, or one whole binary message, behind what was written before. When they are on their way,
    /// `completed_write` tells how many, in one call or in several; their sum is exactly the sum of what was written.
    fn write(&self, socket: &FactorySocket, data: Bytes);

    /// Sends one whole text message ([`Framing::None`]); valid UTF-8. By default the same as [`SocketFactory::write`].
    fn write_text(&self, socket: &FactorySocket, data: Bytes) {
        self.write(socket, data);
    }

    /// So many bytes that were handed up by `received` have been processed.
    fn completed_receive(&self, socket: &FactorySocket, byte_count: usize);

    /// Closes a socket that moves bytes: no more is written; what was written is sent, what still comes in may be handed
    /// up, and then follows `closed`. Before `opened`: give up, then `closed`.
    fn close(&self, socket: &FactorySocket);

    /// Closes a socket that moves messages ([`Framing::None`]): tells the peer the status (RFC 6455 section 7.4) and the
    /// words, waits for its answer, handing up what still comes in, and then calls `closed`. It is also the answer to
    /// `close_requested`. Before `opened`: give up, then `closed`. By default the same as [`SocketFactory::close`].
    fn request_close(&self, socket: &FactorySocket, status: u16, message: &str) {
        let _ = (status, message);
        self.close(socket);
    }

    /// The socket is closed and Towline is done with it. The last call.
    fn dispose(&self, socket: &FactorySocket) {
        let _ = socket;
    }
}
