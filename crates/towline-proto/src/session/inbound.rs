//! From input to events: messages, control frames, the WELCOME.

use bytes::Bytes;

use super::closing::abort_frame;
use super::error::{CloseCode, WireError};
use super::event::Event;
use super::frame::{Fields, Violation, kind};
use super::handshake::{Welcome, decode_refuse};
use super::log::Freed;
use super::machine::{Phase, Session};
use super::message::Lane;
use super::receive::{Item, Rules};

impl Session {
    /// The next thing to tell. Input is taken in here, so drain it after every `handle_*`.
    #[inline]
    pub fn poll_event(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            if self.phase == Phase::Up && self.closing.is_none() {
                let (window, max_message) = (self.config.window, self.config.max_message as u64);
                if let Some(message) =
                    self.reader.next_message(&mut self.incoming, window, max_message)
                {
                    self.on_received(message.lane);
                    self.stats.messages_received += 1;
                    return Some(Event::Message(message));
                }
            }
            if self.reader.is_drained() {
                // Without the detour by the queue, which is empty here.
                return self.take_freed();
            }
            match self.next_item() {
                Ok(Some(Item::Message(message))) => {
                    self.on_received(message.lane);
                    self.stats.messages_received += 1;
                    return Some(Event::Message(message));
                }
                Ok(Some(Item::Fragment(lane))) => self.on_received(lane),
                Ok(Some(Item::Control(kind, body))) => {
                    if let Err(violation) = self.on_control(kind, &body) {
                        self.violated(violation);
                    }
                }
                Ok(None) => {
                    self.report_freed();
                    return self.events.pop_front();
                }
                Err(violation) => self.violated(violation),
            }
        }
    }

    #[inline(never)]
    fn next_item(&mut self) -> Result<Option<Item>, Violation> {
        match self.phase {
            Phase::Greeting | Phase::Up => {
                let rules = self.rules();
                self.reader.next(&mut self.incoming, &rules)
            }
            Phase::Down | Phase::Ended => Ok(None),
        }
    }

    /// What DATA must keep to now.
    fn rules(&self) -> Rules {
        let data = if self.phase != Phase::Up {
            Err(Violation::NotTowline)
        } else if self.closing.as_ref().is_some_and(|closing| closing.received) {
            Err(Violation::DataAfterClose)
        } else {
            Ok(())
        };
        Rules { window: self.config.window, max_message: self.config.max_message as u64, data }
    }

    /// S5.5: a frame has come whole; its acknowledgement goes with the next DATA, after `ack_delay`, or now
    /// when `ack_bytes` have come.
    #[inline]
    pub(super) fn on_received(&mut self, lane: Lane) {
        let bit = 1 << lane.index();
        self.ack_pending |= bit;
        self.progressed();
        if let Some(incoming) = &self.incoming[lane.index()]
            && incoming.received - incoming.acknowledged >= self.config.ack_bytes
        {
            self.ack_now |= bit;
        } else if self.ack_at.is_none() {
            self.ack_at = self.now.checked_add(self.config.ack_delay);
        }
    }

    fn on_control(&mut self, kind: u8, body: &Bytes) -> Result<(), Violation> {
        match (kind, self.phase) {
            (kind::ACK, Phase::Up) => self.on_ack(body),
            (kind::PING, Phase::Up) => {
                // Only the last counts (S7.8), so that nothing piles up.
                self.pong = Some(Fields::new(kind, body).int()?);
                self.ack_now |= self.ack_pending;
                Ok(())
            }
            (kind::PONG, Phase::Up) => {
                let token = Fields::new(kind, body).int()?;
                self.on_pong(token);
                Ok(())
            }
            (kind::WELCOME, Phase::Greeting) => self.on_welcome(&Welcome::decode(body)?),
            (kind::REFUSE, Phase::Greeting) => {
                let (code, reason) = decode_refuse(body)?;
                self.fail(WireError::Refused { code, reason }, false);
                Ok(())
            }
            (kind::CLOSE, Phase::Up) => self.on_close(body),
            (kind::CLOSED, Phase::Up) => self.on_closed(),
            (kind::FAIL, Phase::Up) => self.on_fail(body),
            (kind::ABORT, Phase::Up) => self.on_abort(body),
            (kind::HELLO..=kind::ABORT, _) => Err(Violation::UnexpectedFrame(kind)),
            // S2.6: what later versions add is skipped.
            _ => {
                self.stats.unknown_frames += 1;
                Ok(())
            }
        }
    }

    fn on_ack(&mut self, body: &[u8]) -> Result<(), Violation> {
        let mut fields = Fields::new(kind::ACK, body);
        let lane = fields.lane()?;
        let (position, limit) = (fields.int()?, fields.int()?);
        let before = self.freed;
        let possible = match &mut self.logs[lane.index()] {
            Some(log) => log.acknowledge(position, &mut self.freed),
            None => position == 0,
        };
        if !possible {
            return Err(Violation::BadAcknowledgement(lane));
        }
        let known = &mut self.peer_limits[lane.index()];
        if limit < *known {
            return Err(Violation::WindowReduced(lane));
        }
        *known = limit;
        if before != self.freed {
            self.progressed();
        }
        if self.closing.is_some() {
            self.check_closed();
        }
        Ok(())
    }

    /// S3.6: the server's side as it is; the same epoch resumes, another begins anew.
    fn on_welcome(&mut self, welcome: &Welcome) -> Result<(), Violation> {
        let lanes = welcome.lanes.map(|lane| (lane.received, lane.limit));
        if welcome.epoch == self.epoch {
            if welcome.max_message < self.peer_max_message {
                return Err(Violation::BadParameter);
            }
            let places = self.locate(&lanes)?;
            self.peer_max_message = welcome.max_message;
            self.settle();
            self.resume(&lanes, &places);
            self.stats.resumes += 1;
            self.events.push_back(Event::Established { resumed: true });
            return Ok(());
        }
        // An epoch is the number of one of this client's later attempts; nothing has crossed in it.
        if welcome.epoch <= self.epoch || welcome.epoch > self.attempt {
            return Err(Violation::BadParameter);
        }
        if let Some(lane) =
            Lane::ALL.into_iter().find(|lane| welcome.lanes[lane.index()].received != 0)
        {
            return Err(Violation::BadResume(lane));
        }
        let known = std::mem::replace(&mut self.epoch, welcome.epoch) != 0;
        self.settle();
        if known {
            if self.closing.is_some() {
                // There is nobody left to drain to; the newcomer need not wait for this client.
                self.last_words = abort_frame(CloseCode::ENDED, "the session was closing");
                self.finish(CloseCode::ENDED);
                return Ok(());
            }
            self.restart();
        }
        self.peer_limits = lanes.map(|(_, limit)| limit);
        self.peer_max_message = welcome.max_message;
        self.events.push_back(Event::Established { resumed: false });
        self.withdraw();
        Ok(())
    }

    /// S7.7: the peer is another one than before.
    fn restart(&mut self) {
        self.report_freed();
        let unacknowledged = self.give_back();
        self.incoming.iter_mut().flatten().for_each(|lane| lane.restart());
        self.stats.resets += 1;
        self.events.push_back(Event::Reset { unacknowledged });
    }

    /// Queues what acknowledgements have freed, as one event.
    pub(super) fn report_freed(&mut self) {
        let event = self.take_freed();
        self.events.extend(event);
    }

    #[inline]
    fn take_freed(&mut self) -> Option<Event> {
        let Freed { bytes, messages } = std::mem::take(&mut self.freed);
        (bytes | messages != 0).then_some(Event::Acknowledged { bytes, messages })
    }
}
