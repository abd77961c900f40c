//! Sockets between two ends in one process.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::super::{FactorySocket, Framing, OpenOptions, RECEIVE_WINDOW, SocketFactory};
use crate::address::Address;
use crate::error::WireError;
use crate::listener::Attacher;

/// Sockets within this process: an address's host names a listener that was [registered](InProcess::register), and no
/// operating system is in between. For tests, and for programs whose parts may be in one process or in several.
///
/// ```
/// use std::sync::Arc;
/// use towline::socket_factory::{Framing, InProcess};
/// use towline::{Config, Context, Endpoint, Message};
///
/// let sockets = Arc::new(InProcess::new(Framing::Bytes));
/// let config = Config::builder().named_socket_factory("local", sockets.clone()).build()?;
/// let context = Context::new()?;
/// let endpoint = Endpoint::new(&context, &config);
///
/// let listener = endpoint.listen("local+tcp://desk")?;
/// sockets.register("desk", listener.attacher());
/// let connection = endpoint.connect_blocking("local+tcp://desk")?;
/// connection.send_blocking(Message::new("hello"))?;
/// let accepted = listener.accept_blocking()?;
/// assert_eq!(accepted.recv_blocking()?.data, "hello");
/// # Ok::<(), towline::Error>(())
/// ```
pub struct InProcess {
    framing: Framing,
    listeners: Arc<Mutex<HashMap<String, Attacher>>>,
}

impl InProcess {
    /// Sockets with this framing. The WebSocket framings are those of the side that opens; the other side has the other.
    pub fn new(framing: Framing) -> InProcess {
        InProcess { framing, listeners: Arc::default() }
    }

    /// Connections to this name go to this listener, in the place of the one before.
    pub fn register(&self, name: impl Into<String>, listener: Attacher) {
        lock(&self.listeners).insert(name.into(), listener);
    }

    /// Connections to this name are refused from now on.
    pub fn unregister(&self, name: &str) {
        lock(&self.listeners).remove(name);
    }

    /// The factory of the sockets at the other ends.
    fn other_end(&self) -> InProcess {
        let framing = match self.framing {
            Framing::WebSocketClient => Framing::WebSocketServer,
            Framing::WebSocketServer => Framing::WebSocketClient,
            framing => framing,
        };
        InProcess { framing, listeners: Arc::clone(&self.listeners) }
    }
}

/// What one end writes and the other has not taken.
#[derive(Default)]
struct Way {
    /// With `true`, a text message.
    waiting: VecDeque<(Bytes, bool)>,
    /// The writing end closes behind what waits; messages with a status and words.
    closing: Option<(u16, String)>,
    closed: bool,
}

/// Both ends and the ways between them.
struct Pair {
    framing: Framing,
    /// Each has what this end writes.
    ways: [Mutex<Way>; 2],
    ends: Mutex<[Option<FactorySocket>; 2]>,
}

/// One end's state of its socket.
struct End {
    pair: Arc<Pair>,
    side: usize,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pair {
    fn end(&self, side: usize) -> Option<FactorySocket> {
        lock(&self.ends).get(side).cloned().flatten()
    }

    /// Moves what this side has written to the other end, as far as that one has room.
    fn pump(&self, side: usize) {
        let (Some(own), Some(way)) = (self.end(side), self.ways.get(side)) else { return };
        let other = self.end(1 - side);
        let mut way = lock(way);
        let Some(other) = other else {
            // An end that is gone, or not there yet: who closes now has nothing to wait for.
            if way.closing.is_some() {
                let left = way.waiting.drain(..).map(|(data, _)| data.len()).sum();
                own.completed_write(left).ok();
                way.closed = true;
            }
            return;
        };
        while other.unprocessed() < RECEIVE_WINDOW {
            let Some((data, text)) = way.waiting.pop_front() else { break };
            let bytes = data.len();
            // An end that is closed reads no more: what it is sent is gone, as on any wire.
            match text {
                true => other.received_text(data).ok(),
                false => other.received(data).ok(),
            };
            own.completed_write(bytes).ok();
        }
        if !way.waiting.is_empty() || way.closed {
            return;
        }
        let Some((status, message)) = way.closing.clone() else { return };
        way.closed = true;
        if self.framing == Framing::None {
            other.close_requested(status, &message).ok();
        } else {
            other.end_of_stream().ok();
        }
    }

    /// This side is asked to close.
    fn close(&self, side: usize, status: u16, message: &str) {
        if let Some(way) = self.ways.get(side) {
            lock(way).closing.get_or_insert((status, message.to_owned()));
        }
        self.pump(side);
        self.settle(side);
    }

    /// Bytes: an end that has said everything is closed. Messages: both ends have to have asked for it.
    fn settle(&self, side: usize) {
        let said = self.ways.each_ref().map(|way| lock(way).closed);
        let done = |side: usize| said.get(side).copied().unwrap_or(true);
        let alone = self.end(1 - side).is_none();
        let over = match self.framing {
            Framing::None if !alone => done(0) && done(1),
            _ => done(side),
        };
        if !over {
            return;
        }
        for end in [side, 1 - side] {
            if (end == side || self.framing == Framing::None)
                && let Some(socket) = self.end(end)
            {
                socket.closed(Ok(())).ok();
            }
        }
    }

    /// This end has read: there is room for the other's words.
    fn read(&self, side: usize) {
        let other = 1 - side;
        let waits = self.ways.get(other).is_some_and(|way| {
            let way = lock(way);
            !way.waiting.is_empty() || (way.closing.is_some() && !way.closed)
        });
        if waits {
            self.pump(other);
            self.settle(other);
        }
    }

    fn write(&self, side: usize, data: Bytes, text: bool) {
        if let Some(way) = self.ways.get(side) {
            lock(way).waiting.push_back((data, text));
        }
        self.pump(side);
    }

    /// This end is gone: what the other still writes goes nowhere.
    fn dispose(&self, side: usize) {
        if let Some(way) = self.ways.get(side) {
            let mut way = lock(way);
            way.waiting.clear();
            way.closed = true;
        }
        let other = self.end(1 - side);
        if self.framing == Framing::None
            && let Some(other) = &other
        {
            other.closed(Err(WireError::End)).ok();
        } else if let Some(other) = &other {
            other.end_of_stream().ok();
        }
        if let Some(end) = lock(&self.ends).get_mut(side) {
            *end = None;
        }
        // Nobody reads any more: what waits counts as sent.
        let left: Vec<usize> = self.ways.get(1 - side).map_or_else(Vec::new, |way| {
            lock(way).waiting.drain(..).map(|(data, _)| data.len()).collect()
        });
        if let Some(other) = other {
            other.completed_write(left.into_iter().sum()).ok();
        }
    }
}

fn with_end(socket: &FactorySocket, act: impl FnOnce(&Pair, usize)) {
    if let Some(end) = socket.native_as::<End>() {
        act(&end.pair, end.side);
    }
}

impl SocketFactory for InProcess {
    fn framing(&self) -> Framing {
        self.framing
    }

    fn may_block(&self) -> bool {
        false
    }

    fn open(&self, socket: &FactorySocket, address: &Address, options: &OpenOptions) {
        let listener = lock(&self.listeners).get(address.host()).cloned();
        let pair = Arc::new(Pair {
            framing: self.framing,
            ways: Default::default(),
            ends: Mutex::new([Some(socket.clone()), None]),
        });
        socket.set_native(Some(Arc::new(End { pair: Arc::clone(&pair), side: 0 })));
        let refused = |error: &dyn std::fmt::Display| {
            let words = error.to_string();
            let error = std::io::Error::new(std::io::ErrorKind::ConnectionRefused, words);
            socket.closed(Err(error.into())).ok();
        };
        let Some(listener) = listener else { return refused(&"nobody listens to this name") };
        // Both sides know what would be agreed: a session, if it is asked for.
        if options.subprotocols.iter().any(|name| name == "towline.1") {
            socket.got_http_response(101, agreed()).ok();
        }
        let session = options.subprotocols.iter().any(|name| name == "towline.1");
        let native = Arc::new(Arriving { pair, session });
        if let Err(error) = listener.attach(Arc::new(self.other_end()), Some(native)) {
            refused(&error);
        }
    }

    fn attached(&self, socket: &FactorySocket) {
        let Some(arriving) = socket.native_as::<Arriving>() else { return };
        let pair = Arc::clone(&arriving.pair);
        if let Some(end) = lock(&pair.ends).get_mut(1) {
            *end = Some(socket.clone());
        }
        socket.set_native(Some(Arc::new(End { pair: Arc::clone(&pair), side: 1 })));
        if arriving.session {
            socket.got_http_response(101, agreed()).ok();
        }
        socket.opened().ok();
        if let Some(first) = pair.end(0) {
            first.opened().ok();
        } else {
            socket.end_of_stream().ok();
        }
    }

    fn write(&self, socket: &FactorySocket, data: Bytes) {
        with_end(socket, |pair, side| pair.write(side, data, false));
    }

    fn write_text(&self, socket: &FactorySocket, data: Bytes) {
        with_end(socket, |pair, side| pair.write(side, data, true));
    }

    fn completed_receive(&self, socket: &FactorySocket, _: usize) {
        with_end(socket, Pair::read);
    }

    fn close(&self, socket: &FactorySocket) {
        self.request_close(socket, 1000, "");
    }

    fn request_close(&self, socket: &FactorySocket, status: u16, message: &str) {
        let mut known = false;
        with_end(socket, |pair, side| {
            known = true;
            pair.close(side, status, message);
        });
        if !known || !socket.was_opened() {
            socket.closed(Ok(())).ok();
        }
    }

    fn dispose(&self, socket: &FactorySocket) {
        with_end(socket, Pair::dispose);
        socket.set_native(None);
    }
}

/// The state of an end between `attach` and `attached`.
struct Arriving {
    pair: Arc<Pair>,
    session: bool,
}

fn agreed() -> [(&'static str, &'static str); 2] {
    [("Sec-WebSocket-Protocol", "towline.1"), ("Towline-Session", "1")]
}
