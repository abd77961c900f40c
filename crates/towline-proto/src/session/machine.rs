//! The session itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::config::Config;
use super::error::{CloseCode, Refusal};
use super::event::{Event, WireLoss};
use super::handshake::Hello;
use super::message::{Lane, Message, SessionId, Unacknowledged};
use super::outgoing::{Outgoing, Progress};

/// Where to read the rest of a large payload to.
#[derive(Debug)]
pub struct Direct {
    /// Append here, into spare capacity that is already there.
    pub buffer: BytesMut,
    /// At most so many octets; what arrives beyond goes to `handle_input` as usual, after `handle_direct`.
    pub want: usize,
}

/// One end of a session: everything between messages and the octets of whichever wire there is.
#[derive(Debug)]
pub struct Session {
    id: SessionId,
}

impl Session {
    /// A client's session, with no wire yet; the redial window runs from `now`.
    ///
    /// `id` must come from a strong source of randomness and be used once.
    pub fn client(config: Arc<Config>, id: SessionId, now: Instant) -> Session {
        let _ = (config, now);
        Session { id }
    }

    /// A server's session from the first HELLO that names it; the wire that brought it is attached.
    ///
    /// # Errors
    /// Versions or limits do not fit: answer with [`Refusal::encode`].
    pub fn server(config: Arc<Config>, hello: Hello, now: Instant) -> Result<Session, Refusal> {
        let _ = (config, now);
        Ok(Session { id: hello.session })
    }

    /// Client: a wire is up. Any earlier one is forgotten. Queues the HELLO.
    pub fn handle_open(&mut self, now: Instant) {
        let _ = now;
    }

    /// Server: the session came back on another wire, which replaces the present one, if any (S7.3).
    ///
    /// # Errors
    /// A stale attempt or positions that cannot be: answer with [`Refusal::encode`] on that wire and close
    /// it; the session is as before.
    pub fn handle_resume(&mut self, now: Instant, hello: Hello) -> Result<(), Refusal> {
        let _ = (now, hello);
        Ok(())
    }

    /// Moves everything that was accepted into the session, in O(runs), and tells `outgoing` what room there is.
    pub fn enqueue(&mut self, now: Instant, outgoing: &mut Outgoing) {
        let _ = (now, outgoing);
    }

    /// Octets from the wire, cut in any way. Then drain `poll_event`.
    pub fn handle_input(&mut self, now: Instant, data: Bytes) {
        let _ = (now, data);
    }

    /// Inside a large payload, with `poll_event` drained: the buffer to read the rest into.
    pub fn direct(&mut self) -> Option<Direct> {
        None
    }

    /// Takes the buffer of [`direct`](Self::direct) back, with 0 to `want` octets appended.
    pub fn handle_direct(&mut self, now: Instant, buffer: BytesMut) {
        let _ = (now, buffer);
    }

    /// The transport lost the wire.
    pub fn handle_lost(&mut self, now: Instant, loss: WireLoss) {
        let _ = (now, loss);
    }

    /// The time of `poll_timeout` has come. Calling it early or late does no harm.
    pub fn handle_timeout(&mut self, now: Instant) {
        let _ = now;
    }

    /// When `handle_timeout` is next due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// Appends what is to be written to the wire, in order, and returns its octets: about `max_bytes`, more by
    /// at most one run of frames (a fragment, or 16 KiB of small messages). Lanes are chosen here: what
    /// was handed out cannot be overtaken any more.
    pub fn poll_transmit(&mut self, now: Instant, max_bytes: usize, out: &mut Vec<Bytes>) -> usize {
        let _ = (now, max_bytes, out);
        0
    }

    /// The next thing to tell. Input is taken in here, so drain it after every `handle_*`.
    pub fn poll_event(&mut self) -> Option<Event> {
        None
    }

    /// The application has taken messages of this lane, of this total [`Message::cost`]: returns window. Then
    /// look at `poll_transmit`.
    pub fn consumed(&mut self, lane: Lane, cost: u64) {
        let _ = (lane, cost);
    }

    /// Asks the peer for its acknowledgements at once (a PING behind the data): makes `flush` one round trip.
    pub fn request_acknowledgement(&mut self) {}

    /// Ends in order: what was enqueued is delivered first, then [`Event::Closed`]; after
    /// [`Config::close_timeout`] in any case.
    pub fn close(&mut self, now: Instant, code: CloseCode, reason: &str) {
        let _ = (now, code, reason);
    }

    /// Ends at once, without an event. The peer is told if `poll_transmit` still gets to the wire. Returns what was
    /// not acknowledged.
    pub fn abort(&mut self) -> Vec<Unacknowledged> {
        Vec::<Message>::new()
    }

    /// Octets of payload and messages that were enqueued and not acknowledged, to a run of frames.
    pub fn unacknowledged(&self) -> (u64, u64) {
        (0, 0)
    }

    /// How much was acknowledged or given back: see [`Progress::reached`].
    pub fn acknowledged(&self) -> Progress {
        Progress::default()
    }

    /// Whether `poll_transmit` has anything now.
    pub fn wants_transmit(&self) -> bool {
        false
    }

    /// The session's id.
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// The number of the present or last wire, from 1; 0 before the first.
    pub fn attempt(&self) -> u64 {
        0
    }

    /// Both ends have agreed on the present wire.
    pub fn is_established(&self) -> bool {
        false
    }

    /// There is no wire, and one would be of use.
    pub fn is_down(&self) -> bool {
        true
    }

    /// Over; `poll_transmit` may still have last words.
    pub fn is_ended(&self) -> bool {
        false
    }

    /// Smoothed round-trip time, from PING and PONG; `None` before the first PONG.
    pub fn rtt(&self) -> Option<Duration> {
        None
    }

    /// Counts since the session began.
    pub fn stats(&self) -> Stats {
        Stats::default()
    }
}

/// Counts of a session since it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Messages enqueued.
    pub messages_enqueued: u64,
    /// Messages received whole.
    pub messages_received: u64,
    /// Octets handed out by `poll_transmit`.
    pub bytes_sent: u64,
    /// Octets taken from wires.
    pub bytes_received: u64,
    /// Octets of DATA frames handed out again after a resume.
    pub bytes_resent: u64,
    /// Resumes.
    pub resumes: u64,
    /// Times the peer had forgotten the session.
    pub resets: u64,
    /// Wires that were lost or failed.
    pub wires_lost: u64,
    /// Control frames of unknown type, skipped.
    pub unknown_frames: u64,
    /// Octets that arrived when there was no wire for them, dropped.
    pub bytes_ignored: u64,
}
