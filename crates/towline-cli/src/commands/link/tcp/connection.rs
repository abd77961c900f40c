//! One connection: its two ends, each with a real socket, a sender towards the other end, and a receiver.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use towline_io::SocketId;

use super::receiver::Receiver;
use super::segment::{Ending, Segment};
use super::sender::Sender;
use crate::commands::link::path::End;

/// The first pause before asking for a connection again (RFC 6298 section 2); it doubles.
const OPEN_AGAIN: Duration = Duration::from_secs(1);

/// Attempts to open (Linux' `tcp_syn_retries` and the first).
const MAX_OPENS: u32 = 7;

/// Bytes handed to a socket and not yet taken, beyond which the receiver keeps what comes.
const MAX_HELD: usize = 1 << 20;

/// What a connection wants done.
pub(super) enum Order<'a> {
    /// Hand this packet in at that end.
    Packet(End, Bytes),
    Read(End, SocketId),
    Write(End, SocketId, Bytes),
    /// No more writes.
    Finish(SocketId),
    /// Connect to the target, and leave the socket there.
    Connect(SocketAddr, &'a mut Option<SocketId>),
}

/// How far the opening is, seen from one end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opening {
    /// Near: to ask at this time, for the so-manieth time. Far: not asked yet.
    Asking(Instant, u32),
    Closed,
    /// Far: the target is being connected to.
    Connecting,
    /// Far: the target is there; to be told.
    Answering,
    /// Far: the target is there, and the near end was told.
    Answered,
    /// Far: the target is not there; to be told.
    Refusing,
    Open,
}

struct Side {
    socket: Option<SocketId>,
    opening: Opening,
    sender: Sender,
    receiver: Receiver,
    reading: bool,
    /// The socket was told that no more comes.
    finished: bool,
    /// And has all of it.
    drained: bool,
}

impl Side {
    fn new(opening: Opening, window: u64) -> Side {
        Side {
            socket: None,
            opening,
            sender: Sender::new(window),
            receiver: Receiver::new(window),
            reading: false,
            finished: false,
            drained: false,
        }
    }
}

pub(super) struct Connection {
    serial: u32,
    target: SocketAddr,
    sides: [Side; 2],
    /// Resets that were delivered, refusals, and ends that nobody answers.
    reset: bool,
    timer: Option<Instant>,
}

const ENDS: [End; 2] = [End::Near, End::Far];

fn index(end: End) -> usize {
    match end {
        End::Near => 0,
        End::Far => 1,
    }
}

impl Connection {
    pub(super) fn new(
        serial: u32,
        target: SocketAddr,
        near: SocketId,
        window: u64,
        now: Instant,
    ) -> Connection {
        let mut near_side = Side::new(Opening::Asking(now, 0), window);
        near_side.socket = Some(near);
        let sides = [near_side, Side::new(Opening::Closed, window)];
        Connection { serial, target, sides, reset: false, timer: None }
    }

    fn side(&mut self, end: End) -> &mut Side {
        &mut self.sides[index(end)]
    }

    pub(super) fn socket(&self, end: End) -> Option<SocketId> {
        self.sides[index(end)].socket
    }

    pub(super) fn was_reset(&self) -> bool {
        self.reset
    }

    pub(super) fn cut(&mut self) {
        self.reset = true;
    }

    pub(super) fn retransmits(&self) -> u64 {
        self.sides.iter().map(|side| side.sender.resent).sum()
    }

    pub(super) fn handle_connected(&mut self, there: bool) {
        let far = self.side(End::Far);
        far.opening = if there { Opening::Answering } else { Opening::Refusing };
    }

    pub(super) fn handle_bytes(&mut self, end: End, data: Bytes) {
        let side = self.side(end);
        side.reading = false;
        side.sender.push(data);
    }

    pub(super) fn handle_end(&mut self, end: End) {
        let side = self.side(end);
        side.reading = false;
        side.sender.finish(Ending::Orderly);
    }

    /// The real connection at one end broke.
    pub(super) fn handle_failed(&mut self, end: End) {
        let side = self.side(end);
        if side.opening == Opening::Open || end == End::Near {
            side.sender.finish(Ending::Reset);
        } else {
            side.opening = Opening::Refusing;
        }
        side.reading = true;
    }

    /// A packet has come out at one end.
    pub(super) fn handle_packet(&mut self, now: Instant, end: End, packet: &Bytes) {
        let Some((serial, segment)) = Segment::decode(packet) else { return };
        if serial != self.serial {
            return;
        }
        let side = self.side(end);
        match (segment, end) {
            (Segment::Open, End::Far) => match side.opening {
                Opening::Closed => side.opening = Opening::Connecting,
                Opening::Answered => side.opening = Opening::Answering,
                _ => {}
            },
            (Segment::Opened, End::Near) => {
                side.opening = Opening::Open;
                side.receiver.greet();
            }
            (Segment::Refused, End::Near) => self.reset = true,
            (Segment::Data { offset, number, last, data }, _) => {
                side.confirm();
                side.receiver.handle_data(now, offset, number, last, data);
                if side.receiver.ended() == Some(Ending::Reset) {
                    self.reset = true;
                }
            }
            (Segment::Ack(ack), _) => {
                side.confirm();
                side.sender.handle_ack(now, &ack);
            }
            _ => {}
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.timer = self.timer.filter(|at| *at > now);
    }

    /// When to look again, if that is earlier than what was said before.
    pub(super) fn take_timer(&mut self, now: Instant) -> Option<Instant> {
        let mut next = None;
        let mut note = |at: Option<Instant>| {
            next = match (next, at) {
                (Some(a), Some(b)) => Some(std::cmp::min(a, b)),
                (a, b) => a.or(b),
            }
        };
        for side in &self.sides {
            note(side.sender.timeout());
            note(side.receiver.timeout());
            if let Opening::Asking(at, _) = side.opening {
                note(Some(at));
            }
        }
        let next = next?.max(now);
        if self.timer.is_some_and(|before| before <= next) {
            return None;
        }
        self.timer = Some(next);
        Some(next)
    }

    /// Everything was carried in both directions, or a reset.
    pub(super) fn is_over(&self) -> bool {
        self.reset || self.sides.iter().all(|side| side.drained)
    }

    /// Says what is to be done now. `held` are the bytes that wait in the near and the far socket's queue.
    pub(super) fn poll(
        &mut self,
        now: Instant,
        held: [usize; 2],
        mut order: impl FnMut(Order<'_>),
    ) {
        for end in ENDS {
            self.poll_opening(now, end, &mut order);
            self.poll_stream(now, end, held[index(end)], &mut order);
        }
    }

    fn poll_opening(&mut self, now: Instant, end: End, order: &mut impl FnMut(Order<'_>)) {
        let (serial, target) = (self.serial, self.target);
        let side = self.side(end);
        let mut say = |segment: Segment| order(Order::Packet(end, segment.encode(serial)));
        match side.opening {
            Opening::Asking(at, times) if at <= now => {
                if times >= MAX_OPENS {
                    self.reset = true;
                    return;
                }
                side.opening = Opening::Asking(now + OPEN_AGAIN * (1 << times), times + 1);
                say(Segment::Open);
            }
            Opening::Connecting if side.socket.is_none() => {
                order(Order::Connect(target, &mut side.socket));
            }
            Opening::Answering => {
                side.opening = Opening::Answered;
                say(Segment::Opened);
            }
            Opening::Refusing => {
                // Lost, it is asked for again, and the target with it.
                side.opening = Opening::Closed;
                side.socket = None;
                say(Segment::Refused);
            }
            _ => {}
        }
    }

    fn poll_stream(
        &mut self,
        now: Instant,
        end: End,
        held: usize,
        order: &mut impl FnMut(Order<'_>),
    ) {
        let serial = self.serial;
        let side = self.side(end);
        if side.opening != Opening::Open {
            return;
        }
        let Some(socket) = side.socket else { return };
        let mut held = held;
        while held < MAX_HELD
            && let Some(data) = side.receiver.poll_data()
        {
            held += data.len();
            order(Order::Write(end, socket, data));
        }
        if side.receiver.ended() == Some(Ending::Orderly) && !side.finished {
            side.finished = true;
            order(Order::Finish(socket));
        }
        side.drained = side.finished && held == 0;
        if !side.reading && side.sender.has_room() {
            side.reading = true;
            order(Order::Read(end, socket));
        }
        let mut say = |segment: Segment| order(Order::Packet(end, segment.encode(serial)));
        if let Some(probe) = side.sender.handle_timeout(now) {
            say(probe);
        }
        while let Some(segment) = side.sender.poll(now) {
            say(segment);
        }
        if let Some(ack) = side.receiver.poll_ack(now, held as u64) {
            say(ack);
        }
        if side.sender.has_given_up() {
            self.reset = true;
        }
    }
}

impl Side {
    /// The near end knows that the connection is open, or it would not send.
    fn confirm(&mut self) {
        if matches!(self.opening, Opening::Answered | Opening::Answering) {
            self.opening = Opening::Open;
        }
    }
}
