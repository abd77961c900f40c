//! Events, and the handler that takes them.

use std::net::SocketAddr;
use std::time::Duration;

use crate::address::Address;
use crate::connection::Connection;
use crate::error::{Ended, WireError};
use crate::message::Message;
use crate::tls::TlsState;

/// There is a wire, and messages can flow.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Connected {
    /// The address that answered, as it was given; `None` on the accepting side.
    pub address: Option<Address>,
    /// This end of the wire.
    pub local: Option<SocketAddr>,
    /// The peer's end of the wire.
    pub peer: Option<SocketAddr>,
    /// Whether this wire continues an earlier one. `false` the first time, and after the peer restarted.
    pub resumed: bool,
    /// How the wire is secured.
    pub tls: Option<TlsState>,
}

/// The wire is gone and another one is being tried.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Redialing {
    /// Counts the attempts since the wire was lost, from 1.
    pub attempt: u32,
    /// The address that is tried.
    pub address: Address,
    /// How long ago the wire was lost.
    pub since: Duration,
}

/// The connection has ended. The last event of a connection, exactly once.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Closed {
    /// How it ended.
    pub ended: Ended,
    /// Every message that was accepted and that the peer has not acknowledged, in order of sending within each
    /// lane, with the ids that they had. On ftcp wires, what TCP had not acknowledged.
    pub unacknowledged: Vec<Message>,
}

/// Everything that can happen to a connection, in one place. [`Handler`] has a method for each.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// There is a wire: the first, or after a loss a new one.
    Connected(Connected),
    /// A message arrived.
    Message(Message),
    /// The send queue had been full (a `try_send` was refused) and has room again.
    Writable,
    /// Everything that was accepted so far has been acknowledged by the peer.
    Flushed,
    /// The wire was lost. If this side dialed, it redials at once; if it accepted, it waits for the peer to come back.
    Disconnected(WireError),
    /// A redial begins.
    Redialing(Redialing),
    /// The redial window is over without success. [`Event::Closed`] follows.
    GaveUp(WireError),
    /// The peer came back without its memory of this session, as after a restart. These messages were accepted and
    /// not acknowledged: each may have reached the old peer or not. The connection goes on as new.
    Reset(Vec<Message>),
    /// These messages are larger than the peer takes, which was not known yet when they were accepted. They were not
    /// sent, and all others are.
    TooLarge(Vec<Message>),
    /// [`Connection::ideal_buffer_length`] has changed by a quarter or more, to so many bytes. Only on `bats` wires.
    #[cfg(feature = "bats")]
    IdealBufferLength(usize),
    /// The end.
    Closed(Closed),
}

/// Takes the events of one connection, on the connection's I/O thread.
///
/// A connection's handler is never called by two threads at once, and always by the same thread. It must not block:
/// every connection of that thread waits meanwhile. All calls on [`Connection`] that do not block may be made from
/// inside, on this connection or any other. A handler that panics is dropped and called no more, also not with
/// `closed`; its connection ends as by [`Connection::abort`], with [`Ended::Panicked`], and everything else goes on.
///
/// ```
/// use towline::{Connection, Handler, Message};
///
/// /// Answers each message with the same data.
/// struct Echo;
///
/// impl Handler for Echo {
///     fn message(&mut self, connection: &Connection, message: Message) {
///         let reply = Message::reply_to(&message, message.data.clone());
///         if let Err(error) = connection.try_send(reply) {
///             eprintln!("no reply: {error}");
///         }
///     }
/// }
/// ```
#[expect(
    unused_variables,
    reason = "the parameters of the empty defaults are named for those who override them"
)]
pub trait Handler: Send + 'static {
    /// A message arrived. If a request of this side waits for it, that one gets it instead.
    fn message(&mut self, connection: &Connection, message: Message) {}

    /// There is a wire: the first, or after a loss a new one.
    fn connected(&mut self, connection: &Connection, connected: Connected) {}

    /// The send queue had been full and has room again.
    fn writable(&mut self, connection: &Connection) {}

    /// Everything accepted so far has been acknowledged by the peer.
    fn flushed(&mut self, connection: &Connection) {}

    /// The wire was lost.
    fn disconnected(&mut self, connection: &Connection, error: WireError) {}

    /// A redial begins.
    fn redialing(&mut self, connection: &Connection, redialing: Redialing) {}

    /// The redial window is over. `closed` follows.
    fn gave_up(&mut self, connection: &Connection, error: WireError) {}

    /// The peer restarted; these messages were not acknowledged by it.
    fn reset(&mut self, connection: &Connection, unacknowledged: Vec<Message>) {}

    /// These messages are larger than the peer takes, and were not sent.
    fn too_large(&mut self, connection: &Connection, messages: Vec<Message>) {}

    /// It is worth to have so many bytes under way.
    #[cfg(feature = "bats")]
    fn ideal_buffer_length(&mut self, connection: &Connection, length: usize) {}

    /// The end: called exactly once, last.
    fn closed(&mut self, connection: &Connection, closed: Closed) {}

    /// Every event comes through here first. Override it to see them all in one place.
    fn event(&mut self, connection: &Connection, event: Event) {
        match event {
            Event::Message(message) => self.message(connection, message),
            Event::Connected(connected) => self.connected(connection, connected),
            Event::Writable => self.writable(connection),
            Event::Flushed => self.flushed(connection),
            Event::Disconnected(error) => self.disconnected(connection, error),
            Event::Redialing(redialing) => self.redialing(connection, redialing),
            Event::GaveUp(error) => self.gave_up(connection, error),
            Event::Reset(unacknowledged) => self.reset(connection, unacknowledged),
            Event::TooLarge(messages) => self.too_large(connection, messages),
            #[cfg(feature = "bats")]
            Event::IdealBufferLength(length) => self.ideal_buffer_length(connection, length),
            Event::Closed(closed) => self.closed(connection, closed),
        }
    }
}

/// A closure that takes messages is a handler.
impl<F: FnMut(&Connection, Message) + Send + 'static> Handler for F {
    fn message(&mut self, connection: &Connection, message: Message) {
        self(connection, message);
    }
}
