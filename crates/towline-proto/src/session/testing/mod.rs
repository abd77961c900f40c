//! Two sessions and the wires between them under virtual time, with an oracle: for tests and fuzz targets.
//!
//! The world is adversarial within the promise of a stream: wires deliver octets in order, in any pieces, and
//! break at any octet; each end may be told late or never; the server may be restarted.

mod interact;
mod oracle;

pub use interact::{interact, session_frames};
pub use oracle::{Ledger, payload};

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::{
    CloseCode, Config, Event, Handshake, Hello, Lane, Message, MessageId, Outgoing, Payload,
    Refusal, SendError, Session, SessionId, Violation, WireLoss,
};

/// Which end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The one that dials.
    Client,
    /// The one that is dialled.
    Server,
}

/// The server's end of a wire.
#[derive(Debug)]
enum Socket {
    Greeting(Handshake),
    Attached,
    Gone,
}

/// A stream of octets in both directions.
#[derive(Debug)]
pub struct Wire {
    /// The client's number for it.
    pub attempt: u64,
    /// Under way to the server.
    pub up: VecDeque<u8>,
    /// Under way to the client.
    pub down: VecDeque<u8>,
    /// Broken: what is under way still arrives, nothing is added, then both ends see the loss.
    pub cut: bool,
    /// Half open: nothing arrives any more and nobody is told.
    pub hole: bool,
    client_open: bool,
    socket: Socket,
}

/// What came of delivering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivered {
    /// So many octets.
    Octets(usize),
    /// The loss of the wire was told.
    Loss,
    /// Nothing to do.
    Nothing,
}

/// One side's session, queue and events.
#[derive(Debug)]
pub struct Side {
    /// The session; `None` for a server before its first HELLO.
    pub session: Option<Session>,
    /// What its application fills.
    pub outgoing: Outgoing,
    /// Every event but messages and acknowledgements, in order.
    pub events: Vec<Event>,
    /// Messages delivered and not consumed: lane and cost.
    pub unconsumed: VecDeque<(Lane, u64)>,
    /// Messages delivered, all told.
    pub delivered: usize,
    /// The last of them, up to 16.
    pub recent: VecDeque<Message>,
    config: Arc<Config>,
    /// Whether large payloads are read directly.
    pub direct: bool,
}

impl Side {
    fn new(config: Arc<Config>, session: Option<Session>) -> Side {
        Side {
            session,
            outgoing: Outgoing::new(&config.limits),
            events: Vec::new(),
            unconsumed: VecDeque::new(),
            delivered: 0,
            recent: VecDeque::new(),
            config,
            direct: false,
        }
    }

    /// Tells the application's consumption of the oldest `count` messages.
    pub fn consume(&mut self, count: usize) {
        for (lane, cost) in self.unconsumed.drain(..count.min(self.unconsumed.len())) {
            if let Some(session) = &mut self.session {
                session.consumed(lane, cost);
            }
        }
    }

    /// The session of a side that has one.
    pub fn session(&mut self) -> &mut Session {
        self.session.as_mut().expect("this side has a session")
    }
}

/// A configuration with small numbers, so that short tests reach every limit.
pub fn small() -> Config {
    let mut config = Config { window: 4096, ack_bytes: 512, ..Config::default() };
    config.limits.fragment = 256;
    config.limits.max_bytes = 1 << 20;
    config
}

/// Two ends and all wires that there ever were.
#[derive(Debug)]
pub struct World {
    /// The virtual time.
    pub now: Instant,
    /// The client.
    pub client: Side,
    /// The server.
    pub server: Side,
    /// Wires, the newest last.
    pub wires: Vec<Wire>,
    /// What was accepted and delivered.
    pub ledger: Ledger,
    /// Violations and refusals of the server's greeting side.
    pub refusals: Vec<Refusal>,
    /// Whether messages are consumed as they are delivered.
    pub consume: bool,
}

impl World {
    /// Both ends with the same configuration, no wire yet.
    pub fn new(config: Config) -> World {
        World::with(config.clone(), config)
    }

    /// Each end with its own configuration.
    pub fn with(client: Config, server: Config) -> World {
        let now = Instant::now();
        let (client, server) = (Arc::new(client), Arc::new(server));
        let session = Session::client(client.clone(), SessionId([7; 16]), now);
        World {
            now,
            client: Side::new(client, Some(session)),
            server: Side::new(server, None),
            wires: Vec::new(),
            ledger: Ledger::default(),
            refusals: Vec::new(),
            consume: true,
        }
    }

    /// Established, with nothing under way.
    pub fn connected(config: Config) -> World {
        let mut world = World::new(config);
        world.dial();
        world.drive();
        assert!(world.client.session().is_established());
        world
    }

    /// One of the sides.
    pub fn side(&mut self, end: End) -> &mut Side {
        match end {
            End::Client => &mut self.client,
            End::Server => &mut self.server,
        }
    }

    /// Accepts a message at one end.
    pub fn push(
        &mut self,
        end: End,
        lane: Lane,
        len: usize,
        reply_to: Option<MessageId>,
    ) -> Result<MessageId, SendError> {
        let data = payload(self.ledger.next_number(), len);
        let outgoing = &mut self.side(end).outgoing;
        let shared = data[0] & 1 == 0;
        let id = outgoing.push(
            lane,
            None,
            reply_to,
            if shared { data.clone().into() } else { Payload::Slice(&data) },
        )?;
        self.ledger.accepted(end, lane, id, reply_to, data);
        Ok(id)
    }

    /// Pushes on the default lane and expects that it is accepted.
    pub fn send(&mut self, end: End, len: usize) -> MessageId {
        self.push(end, Lane::NORMAL, len, None).expect("accepted")
    }

    /// The client opens another wire; the earlier one is closed by it.
    pub fn dial(&mut self) {
        if let Some(wire) = self.wires.last_mut() {
            wire.client_open = false;
        }
        self.client.session().handle_open(self.now);
        let attempt = self.client.session().attempt();
        if self.client.session().is_ended() {
            return;
        }
        self.wires.push(Wire {
            attempt,
            up: VecDeque::new(),
            down: VecDeque::new(),
            cut: false,
            hole: false,
            client_open: true,
            socket: Socket::Greeting(Handshake::new()),
        });
    }

    /// Moves what was accepted into the session and up to about `max` octets from there to the wire.
    pub fn transmit(&mut self, end: End, max: usize) -> usize {
        let now = self.now;
        let mut out = Vec::new();
        let side = self.side(end);
        let Some(session) = &mut side.session else { return 0 };
        let had = side.outgoing.messages();
        session.enqueue(now, &mut side.outgoing);
        let moved = had - side.outgoing.messages();
        let wants = session.wants_transmit();
        let sent = session.poll_transmit(now, max, &mut out);
        assert_eq!(sent, out.iter().map(Bytes::len).sum::<usize>());
        assert!(wants || sent == 0 || max == 0, "it sends only what it has announced");
        let (attempt, up) = (session.attempt(), !session.is_down() && !session.is_ended());
        self.ledger.enqueued(end, moved);
        self.events(end);
        for wire in self.wires.iter_mut().filter(|wire| wire.attempt == attempt) {
            let open = match end {
                End::Client => wire.client_open,
                End::Server => matches!(wire.socket, Socket::Attached),
            };
            if open && !wire.cut && !wire.hole {
                let queue = if end == End::Client { &mut wire.up } else { &mut wire.down };
                out.iter().for_each(|part| queue.extend(part));
            }
            // After its last words a session has no use for the wire.
            if !up {
                match end {
                    End::Client => wire.client_open = false,
                    End::Server => wire.socket = Socket::Gone,
                }
            }
        }
        sent
    }

    /// Delivers up to `max` octets of a wire to one end, or the news that it is lost.
    pub fn deliver(&mut self, index: usize, to: End, max: usize) -> Delivered {
        let Some(wire) = self.wires.get_mut(index).filter(|wire| !wire.hole) else {
            return Delivered::Nothing;
        };
        let attempt = wire.attempt;
        let (queue, listening, other_closed) = match to {
            End::Client => (&mut wire.down, wire.client_open, matches!(wire.socket, Socket::Gone)),
            End::Server => (&mut wire.up, !matches!(wire.socket, Socket::Gone), !wire.client_open),
        };
        if !listening {
            return Delivered::Nothing;
        }
        let octets: Vec<u8> = queue.drain(..max.min(queue.len())).collect();
        if octets.is_empty() {
            if max == 0 || !(other_closed || wire.cut) {
                return Delivered::Nothing;
            }
            self.lose(index, to, attempt);
            return Delivered::Loss;
        }
        let len = octets.len();
        match to {
            End::Client => self.input(End::Client, octets.into()),
            End::Server => self.arrive(index, octets.into()),
        }
        Delivered::Octets(len)
    }

    fn lose(&mut self, index: usize, to: End, attempt: u64) {
        let now = self.now;
        match to {
            End::Client => self.wires[index].client_open = false,
            End::Server => {
                if let Socket::Greeting(_) =
                    std::mem::replace(&mut self.wires[index].socket, Socket::Gone)
                {
                    return;
                }
            }
        }
        self.side(to).session().handle_lost(now, WireLoss { attempt });
        self.events(to);
    }

    /// Octets for the server: a greeting, or input of the attached wire.
    fn arrive(&mut self, index: usize, octets: Bytes) {
        let wire = &mut self.wires[index];
        let Socket::Greeting(handshake) = &mut wire.socket else {
            self.input(End::Server, octets);
            return;
        };
        match handshake.handle_input(octets) {
            Ok(None) => {}
            Ok(Some((hello, rest))) => {
                assert_eq!(hello.attempt, wire.attempt);
                match self.attach(index, hello) {
                    Ok(()) => self.input(End::Server, rest),
                    Err(refusal) => self.refuse(index, refusal),
                }
            }
            Err(violation) => self.refuse(index, violation.into()),
        }
    }

    fn refuse(&mut self, index: usize, refusal: Refusal) {
        let wire = &mut self.wires[index];
        wire.socket = Socket::Gone;
        if !wire.cut {
            wire.down.extend(refusal.encode());
        }
        self.refusals.push(refusal);
    }

    fn attach(&mut self, index: usize, hello: Hello) -> Result<(), Refusal> {
        let now = self.now;
        match self.server.session.as_mut().filter(|session| !session.is_ended()) {
            Some(session) => {
                let result = session.handle_resume(now, hello);
                self.events(End::Server);
                result?;
            }
            None => {
                self.crash();
                self.server.session =
                    Some(Session::server(self.server.config.clone(), hello, now)?);
            }
        }
        for wire in &mut self.wires {
            if matches!(wire.socket, Socket::Attached) {
                wire.socket = Socket::Gone;
            }
        }
        self.wires[index].socket = Socket::Attached;
        self.events(End::Server);
        Ok(())
    }

    /// The server's program dies: everything it knew is gone, its wires break.
    pub fn crash(&mut self) {
        let direct = self.server.direct;
        self.server = Side::new(self.server.config.clone(), None);
        self.server.direct = direct;
        self.ledger.forget(End::Server);
        for wire in &mut self.wires {
            if matches!(wire.socket, Socket::Attached) {
                wire.socket = Socket::Gone;
            }
        }
    }

    fn input(&mut self, to: End, mut octets: Bytes) {
        let now = self.now;
        let side = self.side(to);
        let direct = side.direct;
        let session = side.session();
        if direct && let Some(mut direct) = session.direct() {
            let take = direct.want.min(octets.len());
            assert!(
                direct.buffer.capacity() - direct.buffer.len() >= direct.want,
                "room is there already"
            );
            direct.buffer.extend_from_slice(&octets.split_to(take));
            session.handle_direct(now, direct.buffer);
        }
        if !octets.is_empty() {
            session.handle_input(now, octets);
        }
        self.events(to);
    }

    /// Drains the events of one end and checks them.
    pub fn events(&mut self, end: End) {
        let consume = self.consume;
        let side = match end {
            End::Client => &mut self.client,
            End::Server => &mut self.server,
        };
        let Some(session) = &mut side.session else { return };
        while let Some(event) = session.poll_event() {
            match event {
                Event::Message(message) => {
                    self.ledger.delivered(end, &message);
                    side.delivered += 1;
                    side.recent.push_back(message.clone());
                    if side.recent.len() > 16 {
                        side.recent.pop_front();
                    }
                    if consume {
                        session.consumed(message.lane, message.cost());
                    } else {
                        side.unconsumed.push_back((message.lane, message.cost()));
                    }
                }
                Event::Acknowledged { bytes, messages } => {
                    self.ledger.acknowledged(end, bytes, messages)
                }
                event => {
                    match &event {
                        Event::Reset { unacknowledged }
                        | Event::Closed { unacknowledged, .. }
                        | Event::GaveUp { unacknowledged, .. } => {
                            self.ledger.returned(end, unacknowledged)
                        }
                        Event::TooLargeForPeer { messages, .. } => {
                            self.ledger.withdrawn(end, messages)
                        }
                        _ => {}
                    }
                    side.events.push(event);
                }
            }
        }
        assert!(session.poll_event().is_none(), "drained stays drained");
    }

    /// Lets the time pass.
    pub fn advance(&mut self, by: Duration) {
        self.now += by;
        for end in [End::Client, End::Server] {
            let now = self.now;
            if let Some(session) = &mut self.side(end).session
                && session.poll_timeout().is_some_and(|at| at <= now)
            {
                session.handle_timeout(now);
                assert!(
                    session.poll_timeout().is_none_or(|at| at > now),
                    "a timeout that is handled is over"
                );
                self.events(end);
            }
        }
    }

    /// Transmits and delivers everything on every wire, once; false when there was nothing.
    pub fn step(&mut self) -> bool {
        let mut busy = false;
        for end in [End::Client, End::Server] {
            busy |= self.transmit(end, usize::MAX) > 0;
        }
        for index in 0..self.wires.len() {
            for to in [End::Server, End::Client] {
                busy |= self.deliver(index, to, usize::MAX) != Delivered::Nothing;
            }
        }
        busy
    }

    /// Steps until nothing moves without time passing.
    pub fn drive(&mut self) {
        for _ in 0..10_000 {
            if !self.step() {
                return;
            }
        }
        panic!("the two ends never come to rest");
    }

    /// Drives, and lets time pass to the next deadline, until nothing is unacknowledged at either end.
    pub fn settle(&mut self) {
        for _ in 0..200 {
            self.drive();
            let open = [End::Client, End::Server].into_iter().any(|end| {
                let side = self.side(end);
                side.session.as_ref().is_some_and(|session| {
                    !session.is_ended() && session.unacknowledged() != (0, 0)
                })
            });
            if !open {
                return;
            }
            if self.client.session().is_down() {
                self.dial();
                continue;
            }
            self.advance(Duration::from_millis(20));
        }
        panic!("messages stay unacknowledged: {}", self.summary());
    }

    /// Breaks the newest wire: of what is under way, so many octets arrive at either end.
    pub fn cut(&mut self, up: usize, down: usize) {
        if let Some(wire) = self.wires.last_mut() {
            wire.up.truncate(up);
            wire.down.truncate(down);
            wire.cut = true;
        }
    }

    /// What ended the session at one end, if it is over.
    pub fn ended(&mut self, end: End) -> Option<&Event> {
        self.side(end)
            .events
            .iter()
            .find(|event| matches!(event, Event::Closed { .. } | Event::GaveUp { .. }))
    }

    /// Closes one end in order, with everything accepted so far.
    pub fn close(&mut self, end: End, code: CloseCode) {
        let now = self.now;
        let side = self.side(end);
        let Some(session) = &mut side.session else { return };
        let had = side.outgoing.messages();
        session.enqueue(now, &mut side.outgoing);
        let moved = had - side.outgoing.messages();
        session.close(now, code, "done");
        side.outgoing.close();
        self.ledger.enqueued(end, moved);
        self.events(end);
    }

    /// Whether one end saw this violation of the other.
    pub fn violated(&mut self, end: End) -> Option<Violation> {
        self.side(end).events.iter().find_map(|event| match event {
            Event::WireFailed(super::WireError::Violation(violation)) => Some(*violation),
            _ => None,
        })
    }

    /// What happened, in short, for the message of a failed test.
    pub fn summary(&mut self) -> String {
        let mut out = String::new();
        for end in [End::Client, End::Server] {
            let (pending, queued) = (self.ledger.pending(end), self.ledger.queued(end));
            let side = self.side(end);
            let session = side.session.as_ref().map(|session| {
                (
                    session.is_established(),
                    session.is_ended(),
                    session.unacknowledged(),
                    session.stats(),
                )
            });
            out += &format!(
                "\n{end:?}: pending {pending}, queued {queued}, session {session:?}, acknowledged {:?} of {:?}, events {:?}",
                side.session.as_ref().map(|session| session.acknowledged()),
                side.outgoing.accepted(),
                side.events
                    .iter()
                    .map(|event| format!("{event:?}").chars().take(60).collect())
                    .collect::<Vec<String>>(),
            );
        }
        out
    }

    /// Gives octets to one end as if the wire had brought them.
    pub fn inject(&mut self, to: End, octets: &[u8]) {
        self.input(to, BytesMut::from(octets).freeze());
    }
}
