//! What the flow does in BRCTP.

use std::time::Instant;

use super::super::config::Mode;
use super::super::event::{Closed, Event, code};
use super::super::rateless::{RatelessReceiver, RatelessSender, Taken};
use super::{Flow, NOTHING, REPORT, State, TAG_SHIFT};
use crate::bats::hop::{self, Hop};
use crate::bats::wire::{Done, Packet};

impl Flow {
    pub(super) fn begin_rateless(&mut self) {
        let sender = RatelessSender::new(&self.config);
        let receiver = RatelessReceiver::new(&self.config);
        self.rateless = Some(Box::new((sender, receiver)));
    }

    pub(super) fn on_rateless(&mut self, now: Instant, packet: &Packet) {
        let Some(rateless) = &mut self.rateless else { return };
        let receiver = &mut rateless.1;
        let taken = match packet {
            Packet::Source { number, symbol, .. } => receiver.on_source(*number, symbol),
            Packet::Mixed(mixed) => receiver.on_mixed(mixed),
            _ => return,
        };
        self.stats.restarted = receiver.restarted;
        match taken {
            Taken::New => self.stats.innovative += 1,
            Taken::Completed => {
                self.stats.innovative += 1;
                self.reporting.on_urgent(now);
            }
            Taken::Redundant => self.stats.dropped.redundant += 1,
            // The sender does not seem to know; it is on its way, or was lost.
            Taken::Whole => {
                self.stats.dropped.redundant += 1;
                self.reporting.again_at(now + self.path.rtt.max(super::MIN_DONE));
            }
            Taken::Malformed => self.stats.dropped.malformed += 1,
            Taken::BeyondWindow => self.stats.dropped.beyond_window += 1,
        }
    }

    pub(super) fn on_done(&mut self, now: Instant, done: &Done) {
        let Some(rateless) = &mut self.rateless else { return };
        match rateless.0.on_done(now, done) {
            Some(bytes) => self.stats.acknowledged_bytes += bytes as u64,
            None => self.stats.dropped.malformed += 1,
        }
    }

    /// Draws the conclusions from what came in.
    pub(super) fn update_rateless(&mut self, now: Instant) {
        let Some(rateless) = &mut self.rateless else { return };
        let (sender, receiver) = &mut **rateless;
        if receiver.limit() > self.told.0 && self.told.0 > 0 {
            self.reporting.on_change(now, &self.path);
        }
        if self.state == State::Established && self.ideal != self.config.max_send_buffer {
            // There is no feedback to size it by; a generation or two more than are under way cost only memory.
            self.ideal = self.config.max_send_buffer;
            self.events.push_back(Event::IdealBufferLengthChanged { length: self.ideal });
        }
        let mut acknowledged = 0;
        let alone = sender.give_up(now, &mut acknowledged);
        self.stats.acknowledged_bytes += acknowledged as u64;
        self.stats.receivers_lost = sender.lost;
        if alone {
            return self.fail(code::UNANSWERED, Closed::Unanswered);
        }
        if self.unconfirmed && sender.is_acknowledged() {
            self.unconfirmed = false;
            self.events.push_back(Event::AllDataAcknowledged);
        }
    }

    pub(super) fn transmit_rateless<H: Hop>(&mut self, now: Instant, hop: &mut H, most: usize) {
        debug_assert_eq!(self.config.mode, Mode::Brctp);
        let Some(rateless) = &mut self.rateless else { return };
        let sender = &mut rateless.0;
        // Nothing is cut before the parameters are agreed: a refusal would be known too late.
        let mut room = if self.state == State::Opening { 0 } else { hop.room(now) };
        while room > 0 {
            let Some(data) = sender.poll(now, most, &self.path, &mut self.stats) else { break };
            self.stats.packets_sent += 1;
            let packet = hop::Packet { data, tag: NOTHING << TAG_SHIFT, urgent: false };
            let pieces = self.outbox.send(now, hop, packet);
            room = room.saturating_sub(usize::from(pieces.max(1)));
        }
        self.room_left = room > 0;
        if self.unsent && sender.is_drained() && self.state != State::Opening {
            self.unsent = false;
            self.events.push_back(Event::SendComplete);
        }
    }

    pub(super) fn send_done<H: Hop>(&mut self, now: Instant, hop: &mut H) {
        let Some(rateless) = &mut self.rateless else { return };
        let done = rateless.1.done();
        self.told = (done.limit, done.next);
        self.reporting.on_sent(done.serial);
        self.stats.reports_sent += 1;
        let tag = REPORT << TAG_SHIFT | done.serial;
        hop.send(now, hop::Packet { data: done.encode(), tag, urgent: true });
    }
}
