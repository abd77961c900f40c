//! What the flow gives to its hop: reports and credit, what the halves have, and control frames.

use std::time::{Duration, Instant};

use super::super::datagram;
use super::super::event::Event;
use super::{CREDIT, Flow, MAX_CONTROL_OUT, NOTHING, REPORT, SYMBOL, State, TAG_SHIFT};
use crate::bats::geometry::Geometry;
use crate::bats::hop::{self, Hop};
use crate::bats::wire::{Credit, Part};

impl Flow {
    pub(super) fn transmit<H: Hop>(&mut self, now: Instant, hop: &mut H) {
        if self.is_closed() {
            return;
        }
        if self.reporting.is_due(now) {
            self.send_report(now, hop);
        }
        if self.crediting.is_due(now) {
            self.send_credit(now, hop);
        }
        let max_packet = hop.max_packet().min(self.max_packet);
        if self.datagrams.is_some() {
            return self.transmit_datagrams(now, hop, max_packet);
        }
        if self.rateless.is_some() {
            return self.transmit_rateless(now, hop, max_packet);
        }
        let Some(sender) = &mut self.sender else { return };
        let mut room = hop.room(now);
        while room > 0 {
            let Some(out) = sender.poll(now, max_packet, &self.path, &mut self.stats) else {
                break;
            };
            self.stats.packets_sent += 1;
            let tag =
                out.number.map_or(NOTHING << TAG_SHIFT, |number| SYMBOL << TAG_SHIFT | number);
            let packet = hop::Packet { data: out.data, tag, urgent: out.urgent };
            let pieces = self.outbox.send(now, hop, packet);
            if let Some(number) = out.number {
                sender.on_sent(number, pieces);
            }
            room = room.saturating_sub(usize::from(pieces.max(1)));
        }
        self.room_left = room > 0;
        if self.unsent && sender.is_drained() && self.state != State::Opening {
            self.unsent = false;
            self.events.push_back(Event::SendComplete);
        }
    }

    fn transmit_datagrams<H: Hop>(&mut self, now: Instant, hop: &mut H, max_packet: usize) {
        let Some(datagrams) = &mut self.datagrams else { return };
        let sender = &mut datagrams.0;
        let geometry = Geometry::new(self.config.batch, self.config.interleave);
        self.max_datagram = datagram::symbol_room(max_packet, geometry) * datagram::MAX_SYMBOLS;
        sender.expire(now);
        let dropped = sender.take_expired();
        if dropped > 0 {
            self.stats.dropped.expired_messages += dropped;
            self.events.push_back(Event::SendError { dropped });
        }
        let mut room = hop.room(now);
        while room > 0 {
            let Some(mixed) = sender.poll(now, max_packet, &self.path, &mut self.stats) else {
                break;
            };
            self.stats.packets_sent += 1;
            let packet = hop::Packet { data: mixed.data, tag: NOTHING << TAG_SHIFT, urgent: true };
            let pieces = self.outbox.send(now, hop, packet);
            room = room.saturating_sub(usize::from(pieces.max(1)));
        }
        self.room_left = room > 0;
        let drained = sender.waiting() == 0;
        if self.unsent && drained && self.state != State::Opening {
            self.unsent = false;
            self.events.push_back(Event::SendComplete);
        }
    }

    fn send_report<H: Hop>(&mut self, now: Instant, hop: &mut H) {
        if self.rateless.is_some() {
            return self.send_done(now, hop);
        }
        let Some(receiver) = &mut self.receiver else { return };
        let pause = Duration::from_millis(30) + self.path.rtt / 4;
        let report = receiver.report(self.last_symbol.is_none_or(|at| at + pause <= now));
        self.told = (report.limit, report.next);
        self.reporting.on_sent(report.serial);
        if !self.config.hop_feedback && receiver.has_gaps() {
            self.reporting.again_at(now + self.path.rtt.max(Duration::from_millis(10)));
        }
        self.stats.reports_sent += 1;
        let data = report.encode(hop.max_packet());
        let tag = REPORT << TAG_SHIFT | report.serial;
        hop.send(now, hop::Packet { data, tag, urgent: true });
    }

    /// An end takes whatever its window allows; only relays count what is sent on the hop.
    fn send_credit<H: Hop>(&mut self, now: Instant, hop: &mut H) {
        self.credit_serial += 1;
        self.crediting.on_sent(self.credit_serial);
        let max_packet = Part::HEADER as u64 + u64::from(u16::MAX);
        let credit = Credit { serial: self.credit_serial, limit: crate::varint::MAX, max_packet };
        let tag = CREDIT << TAG_SHIFT | self.credit_serial;
        hop.send(now, hop::Packet { data: credit.encode(), tag, urgent: true });
    }

    pub(super) fn flush_control<H: Hop>(&mut self, hop: &mut H) {
        if !self.control_out.is_empty() {
            let taken = hop.write_control(&self.control_out).min(self.control_out.len());
            let _sent = self.control_out.split_to(taken);
        }
        debug_assert!(self.control_out.len() <= MAX_CONTROL_OUT);
    }
}
