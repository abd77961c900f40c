//! One hop of a node: a QUIC connection, what the coded engine sees of it, and how it ends.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::error::{Ended, HopEnd};
use crate::bats::control::Frame;
use crate::bats::hop::Hop;
use crate::bats::quic_hop::QuicHop;
use crate::quic::{self, ConnectionId, Event, StreamEvent};

/// How long the last words on a control stream may take to be acknowledged before the connection is closed over them.
const LAST_WORDS: Duration = Duration::from_secs(3);
/// Most bytes of control messages from a neighbour that wait here.
pub(super) const MAX_CONTROL_WAITING: usize = 128 << 10;

/// Where a hop is in its life.
#[derive(Debug)]
enum State {
    Open,
    /// The control stream is finished; when it is acknowledged, or at this moment, the connection is closed.
    Finishing(Instant, u64, Bytes),
    /// Closed here; the connection's last event is still to come.
    Closing,
    /// The connection is gone.
    Gone,
}

/// What an event of the connection means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Happened {
    /// Something that the engine should see.
    Progress,
    Connected,
    /// The peer, or the path, ended the connection. Its engine cannot go on with it.
    Lost,
    /// The connection's number finds nothing any more.
    Gone,
}

#[derive(Debug)]
pub(super) struct Leg {
    pub(super) id: ConnectionId,
    pub(super) hop: QuicHop,
    state: State,
    /// Why the connection ended, if not by us.
    end: Option<HopEnd>,
    /// Bytes that waited in QUIC when the engine was last driven.
    queued: usize,
}

impl Leg {
    pub(super) fn new(id: ConnectionId, connects: bool) -> Leg {
        let hop = QuicHop::new(connects);
        Leg { id, hop, state: State::Open, end: None, queued: 0 }
    }

    pub(super) fn is_gone(&self) -> bool {
        matches!(self.state, State::Gone)
    }

    /// Why the connection ended without our doing.
    pub(super) fn end(&self) -> Option<&HopEnd> {
        self.end.as_ref()
    }

    pub(super) fn ended(&self) -> Ended {
        Ended::Hop(self.end.clone().unwrap_or(HopEnd::Vanished))
    }

    pub(super) fn on_event(
        &mut self,
        now: Instant,
        quic: &mut quic::Endpoint,
        event: Event,
    ) -> Happened {
        match self.hop.handle_event(event) {
            Some(Event::Connected { .. }) => return Happened::Connected,
            Some(Event::TransportShutdown(reason)) => {
                self.end.get_or_insert(HopEnd::Transport(reason));
                return Happened::Lost;
            }
            Some(Event::Shutdown { code, reason }) => {
                let reason = String::from_utf8_lossy(&reason).into_owned();
                // What the connection's end says is the flow's last word, if the stream did not say it before.
                let mut last = BytesMut::new();
                Frame::Close { code, reason: reason.clone() }.encode(&mut last);
                self.hop.append_control(last.freeze());
                self.end.get_or_insert(HopEnd::Closed { code, reason });
                return Happened::Lost;
            }
            Some(Event::Closed { .. }) => {
                self.state = State::Gone;
                return Happened::Gone;
            }
            // The last words arrived.
            Some(Event::Stream(_, StreamEvent::SendShutdownComplete { .. })) => {
                if let State::Finishing(_, code, reason) = &self.state {
                    let (code, reason) = (*code, reason.clone());
                    self.close(now, quic, code, reason);
                }
            }
            Some(_) | None => {}
        }
        Happened::Progress
    }

    /// Before the engine is driven.
    pub(super) fn begin(&mut self, now: Instant, quic: &mut quic::Endpoint) {
        if let Some(mut connection) = quic.connection(self.id) {
            self.hop.begin(now, &mut connection);
        }
    }

    /// After the engine was driven. Whether packets wait to leave, so that there will be room again.
    pub(super) fn finish(&mut self, quic: &mut quic::Endpoint) -> bool {
        let Some(mut connection) = quic.connection(self.id) else {
            self.queued = 0;
            return false;
        };
        self.hop.finish(&mut connection);
        self.queued = connection.datagrams_queued();
        self.queued > 0
    }

    /// Whether packets have left since. None of one that is gone: its flow would be worked on for ever.
    pub(super) fn has_sent(&self, quic: &mut quic::Endpoint) -> bool {
        let mut left = || quic.connection(self.id).map_or(0, |mut it| it.datagrams_queued());
        self.queued > 0 && left() < self.queued
    }

    /// Finishes the control stream, and closes the connection when what is in it was acknowledged: the neighbour learns of the
    /// end by the stream, in order, also when packets are lost.
    pub(super) fn finish_and_close(
        &mut self,
        now: Instant,
        quic: &mut quic::Endpoint,
        code: u64,
        reason: Bytes,
    ) {
        if !matches!(self.state, State::Open) {
            return;
        }
        let finished = match quic.connection(self.id) {
            Some(mut connection) if self.end.is_none() => self.hop.finish_control(&mut connection),
            _ => false,
        };
        match finished {
            true => self.state = State::Finishing(now + LAST_WORDS, code, reason),
            false => self.close(now, quic, code, reason),
        }
    }

    /// Closes the connection at once.
    pub(super) fn close(
        &mut self,
        now: Instant,
        quic: &mut quic::Endpoint,
        code: u64,
        reason: Bytes,
    ) {
        if matches!(self.state, State::Closing | State::Gone) {
            return;
        }
        match quic.connection(self.id) {
            Some(mut connection) => {
                connection.close(now, code, reason);
                self.state = State::Closing;
            }
            None => self.state = State::Gone,
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant, quic: &mut quic::Endpoint) {
        if let State::Finishing(at, code, reason) = &self.state
            && *at <= now
        {
            let (code, reason) = (*code, reason.clone());
            self.close(now, quic, code, reason);
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        match &self.state {
            State::Open => self.hop.poll_timeout(),
            State::Finishing(at, ..) => Some(*at),
            State::Closing | State::Gone => None,
        }
    }

    /// Forgets what came: the engine that would take it is over.
    pub(super) fn discard(&mut self) {
        while self.hop.poll_packet().is_some() {}
        while self.hop.poll_fate().is_some() {}
        while self.hop.poll_control().is_some() {}
    }
}
