//! One connection: two pipes, the handshake, and how it ends.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;

use super::config::{Attempt, Cut, Direction, Fault, StreamConfig};
use super::pipe::{Arrival, Pipe};
use super::{Closure, ConnectFailure, Owner, StreamError, StreamEventKind, StreamStats};
use crate::random::Random;
use crate::time::{NEVER, Nanos};

const CONNECTOR: usize = 0;
const ACCEPTOR: usize = 1;

/// What an end of the connection is, as its owner sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Opening,
    Open,
    /// Failed, reset or given up.
    Gone,
}

#[derive(Debug)]
pub(super) struct Connection {
    local: SocketAddr,
    peer: SocketAddr,
    owners: [Owner; 2],
    ends: [End; 2],
    /// The pipe of what each end writes, by its writer.
    pipes: [Pipe; 2],
    /// What the listening address will do, until it has done it.
    attempt: Option<Attempt>,
    /// When the attempt reaches the acceptor.
    request_at: Nanos,
    /// When the answer reaches the connector, and whether it is yes.
    answer: (Nanos, bool),
    /// When the connector gives up.
    deadline: Nanos,
    /// When each end is told of a reset.
    reset_at: [Nanos; 2],
    /// Cuts that wait, in order of offset, by direction.
    cuts: [VecDeque<Cut>; 2],
    events: VecDeque<(usize, Owner, StreamEventKind)>,
    /// When to look at it, as noted in the network's heap.
    pub(super) due: Nanos,
}

fn index(direction: Direction) -> usize {
    match direction {
        Direction::FromConnector => CONNECTOR,
        Direction::FromAcceptor => ACCEPTOR,
    }
}

fn other(side: usize) -> usize {
    1 - side
}

impl Connection {
    pub(super) fn new(
        owner: Owner,
        local: SocketAddr,
        peer: SocketAddr,
        configs: [StreamConfig; 2],
        seed: u64,
        now: Nanos,
    ) -> Self {
        let mut direction = 0;
        let pipes = configs.map(|config| {
            direction += 1;
            Pipe::new(config, Random::keyed(seed, &[direction]).next_u64(), now)
        });
        Connection {
            local,
            peer,
            owners: [owner, owner],
            ends: [End::Opening; 2],
            pipes,
            attempt: None,
            request_at: NEVER,
            answer: (NEVER, false),
            deadline: NEVER,
            reset_at: [NEVER; 2],
            cuts: Default::default(),
            events: VecDeque::new(),
            due: NEVER,
        }
    }

    /// The connector's request leaves now.
    pub(super) fn attempt(&mut self, now: Nanos, attempt: Attempt, deadline: Nanos) {
        self.deadline = deadline;
        if attempt != Attempt::Ignore {
            self.request_at = now.saturating_add(self.pipes[CONNECTOR].delay());
            self.attempt = Some(attempt);
        }
    }

    pub(super) fn is_between(&self, a: IpAddr, b: IpAddr) -> bool {
        let ends = (self.local.ip(), self.peer.ip());
        ends == (a, b) || ends == (b, a)
    }

    pub(super) fn set_partitioned(&mut self, partitioned: bool) {
        self.pipes.iter_mut().for_each(|pipe| pipe.set_partitioned(partitioned));
    }

    pub(super) fn room(&self, side: usize) -> usize {
        if self.ends[side] == End::Open { self.pipes[side].room() } else { 0 }
    }

    pub(super) fn readable(&self, side: usize) -> usize {
        self.pipes[other(side)].readable()
    }

    pub(super) fn write(&mut self, side: usize, data: &mut Bytes) -> Result<usize, StreamError> {
        self.check_writable(side)?;
        Ok(self.pipes[side].write(data))
    }

    pub(super) fn finish(&mut self, side: usize) -> Result<(), StreamError> {
        self.check_writable(side)?;
        self.pipes[side].finish();
        Ok(())
    }

    fn check_writable(&self, side: usize) -> Result<(), StreamError> {
        match self.ends[side] {
            End::Opening => Err(StreamError::NotConnected),
            End::Gone => Err(StreamError::Reset),
            End::Open if self.pipes[side].is_finishing() => Err(StreamError::Finished),
            End::Open => Ok(()),
        }
    }

    pub(super) fn read(&mut self, side: usize, max: usize) -> Result<Bytes, StreamError> {
        match self.ends[side] {
            End::Opening => Err(StreamError::NotConnected),
            End::Open | End::Gone => Ok(self.pipes[other(side)].read(max)),
        }
    }

    pub(super) fn stats(&self, direction: Direction) -> StreamStats {
        let Pipe { written, arrived, read, lost, .. } = self.pipes[index(direction)];
        StreamStats { written, arrived, read, lost }
    }

    pub(super) fn abort(&mut self, now: Nanos, side: usize) {
        if self.ends[side] == End::Gone {
            return;
        }
        self.ends[side] = End::Gone;
        self.reset_at[side] = NEVER;
        self.pipes.iter_mut().for_each(Pipe::cut);
        self.pipes[other(side)].discard();
        let peer = other(side);
        if side == CONNECTOR && self.ends[peer] == End::Opening {
            self.attempt = None;
            self.request_at = NEVER;
        } else {
            self.tell_reset(now, peer);
        }
    }

    /// A reset sets out towards `side`; one that is swallowed on the way never gets there.
    fn tell_reset(&mut self, now: Nanos, side: usize) {
        let way = &self.pipes[other(side)];
        if self.ends[side] != End::Gone && !way.is_muted() {
            self.reset_at[side] = self.reset_at[side].min(now.saturating_add(way.delay()));
        }
    }

    pub(super) fn strike(&mut self, now: Nanos, direction: Direction, fault: Fault) {
        let writer = index(direction);
        let reader = other(writer);
        match fault {
            Fault::Reset => {
                self.pipes.iter_mut().for_each(Pipe::cut);
                self.tell_reset(now, writer);
                if self.ends[reader] != End::Gone {
                    self.reset_at[reader] = now;
                }
            }
            Fault::Fin => {
                self.pipes[writer].end_here(now);
                self.pipes[reader].cut_short(now);
            }
            Fault::Silence => self.pipes.iter_mut().for_each(Pipe::mute),
            Fault::Mute => self.pipes[writer].mute(),
            Fault::Outage(time) => {
                let until = now.saturating_add(crate::time::nanos(time));
                self.pipes.iter_mut().for_each(|pipe| pipe.hold(until));
            }
        }
    }

    pub(super) fn poll_event(&mut self) -> Option<(usize, Owner, StreamEventKind)> {
        self.events.pop_front()
    }

    fn tell(&mut self, side: usize, kind: StreamEventKind) {
        self.events.push_back((side, self.owners[side], kind));
    }

    /// When something can happen next.
    pub(super) fn next_event(&self) -> Nanos {
        let way =
            |pipe: &Pipe, at: Nanos| if at == NEVER || pipe.is_partitioned() { NEVER } else { at };
        let deadline = if self.ends[CONNECTOR] == End::Opening { self.deadline } else { NEVER };
        let handshake = [
            way(&self.pipes[CONNECTOR], self.request_at),
            way(&self.pipes[ACCEPTOR], self.answer.0),
            deadline,
        ];
        let resets = [CONNECTOR, ACCEPTOR]
            .map(|side| self.pipes[other(side)].not_before(self.reset_at[side]));
        let pipes = [self.pipes[CONNECTOR].next_event(), self.pipes[ACCEPTOR].next_event()];
        [handshake.as_slice(), &resets, &pipes]
            .into_iter()
            .flatten()
            .copied()
            .min()
            .unwrap_or(NEVER)
    }

    /// Everything due now. `owner_at` says who listens at an address.
    pub(super) fn run(&mut self, now: Nanos, owner_at: &dyn Fn(SocketAddr) -> Option<Owner>) {
        self.run_handshake(now, owner_at);
        self.run_pipe(now, CONNECTOR);
        self.run_pipe(now, ACCEPTOR);
        self.run_resets(now);
    }

    fn run_handshake(&mut self, now: Nanos, owner_at: &dyn Fn(SocketAddr) -> Option<Owner>) {
        let passable = !self.pipes[CONNECTOR].is_partitioned();
        if self.request_at <= now && passable {
            self.request_at = NEVER;
            let answered = now.saturating_add(self.pipes[ACCEPTOR].delay());
            match (self.attempt.take(), owner_at(self.peer)) {
                (Some(Attempt::Accept(cuts)), Some(owner)) => {
                    self.owners[ACCEPTOR] = owner;
                    self.ends[ACCEPTOR] = End::Open;
                    self.answer = (answered, true);
                    self.plan(cuts);
                    self.tell(
                        ACCEPTOR,
                        StreamEventKind::Accepted { local: self.peer, peer: self.local },
                    );
                }
                _ => self.answer = (answered, false),
            }
        }
        if self.ends[CONNECTOR] != End::Opening {
            return;
        }
        if self.answer.0 <= now && passable {
            if self.answer.1 {
                self.ends[CONNECTOR] = End::Open;
                self.tell(CONNECTOR, StreamEventKind::Connected);
                self.run_cuts(now);
            } else {
                self.fail(now, ConnectFailure::Refused);
            }
            self.answer.0 = NEVER;
        } else if self.deadline <= now {
            self.fail(now, ConnectFailure::TimedOut);
        }
    }

    fn fail(&mut self, now: Nanos, why: ConnectFailure) {
        self.abort(now, CONNECTOR);
        self.answer.0 = NEVER;
        self.tell(CONNECTOR, StreamEventKind::Failed(why));
    }

    fn plan(&mut self, mut cuts: Vec<Cut>) {
        cuts.sort_by_key(|cut| cut.offset);
        for cut in cuts {
            self.cuts[index(cut.direction)].push_back(cut);
        }
    }

    /// Faults whose position has been reached.
    fn run_cuts(&mut self, now: Nanos) {
        for writer in [CONNECTOR, ACCEPTOR] {
            while let Some(cut) = self.cuts[writer]
                .front()
                .copied()
                .filter(|cut| cut.offset <= self.pipes[writer].arrived)
            {
                self.cuts[writer].pop_front();
                self.strike(now, cut.direction, cut.fault);
            }
        }
    }

    fn run_pipe(&mut self, now: Nanos, writer: usize) {
        let reader = other(writer);
        self.pipes[writer].transmit(now);
        let mut told = false;
        loop {
            let arrived = self.pipes[writer].arrived;
            let limit = self.cuts[writer]
                .front()
                .map_or(u64::MAX, |cut| cut.offset.saturating_sub(arrived));
            match self.pipes[writer].poll_arrival(now, limit) {
                None => break,
                Some(Arrival::Fin) => self.tell(reader, StreamEventKind::Closed(Closure::Fin)),
                Some(Arrival::Data) => {
                    if !told {
                        told = true;
                        self.tell(reader, StreamEventKind::Readable);
                    }
                    self.run_cuts(now);
                }
            }
        }
        if self.ends[writer] == End::Open && self.pipes[writer].take_writable() {
            self.tell(writer, StreamEventKind::Writable);
        }
    }

    fn run_resets(&mut self, now: Nanos) {
        for side in [CONNECTOR, ACCEPTOR] {
            if self.pipes[other(side)].not_before(self.reset_at[side]) > now {
                continue;
            }
            self.reset_at[side] = NEVER;
            match std::mem::replace(&mut self.ends[side], End::Gone) {
                End::Open => self.tell(side, StreamEventKind::Closed(Closure::Reset)),
                End::Opening if side == CONNECTOR => {
                    self.answer.0 = NEVER;
                    self.tell(side, StreamEventKind::Failed(ConnectFailure::Refused));
                }
                End::Opening | End::Gone => {}
            }
        }
    }
}
