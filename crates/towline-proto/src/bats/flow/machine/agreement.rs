//! Control frames: how both ends come to agree, and how one tells the other of the end.

use std::time::Instant;

use super::super::config::{Framing, Mode};
use super::super::event::{Closed, Event, code};
use super::super::packing::Packing;
use super::super::sealing::Sealing;
use super::{Flow, State};
use crate::bats::control::{Frame, Open};

impl Flow {
    pub(super) fn on_control(&mut self, now: Instant, data: &[u8]) {
        if self.is_closed() {
            return;
        }
        self.control_in.push(data);
        loop {
            match self.control_in.poll() {
                Ok(None) => return,
                Ok(Some(frame)) => self.on_frame(now, frame),
                Err(_) => return self.fail(code::VIOLATION, Closed::Violation("a control frame")),
            }
        }
    }

    fn on_frame(&mut self, now: Instant, frame: Frame) {
        match frame {
            Frame::Open(open) if self.state == State::Opening && !self.has_begun() => {
                self.config.mode = open.mode;
                self.config.framing = open.framing;
                self.config.batch = open.size;
                self.config.interleave = open.interleave;
                self.config.hop_feedback = open.hop_feedback;
                self.config.deadline = open.deadline;
                let rateless = open.mode == Mode::Brctp;
                let wrong = rateless && (open.interleave != 1 || open.framing == Framing::Stream);
                if open.mode == Mode::Transparent || wrong {
                    return self.fail(code::VIOLATION, Closed::Violation("a mode without a flow"));
                }
                if let Some((serves, framing)) = self.serves
                    && (serves, framing) != (open.mode, open.framing)
                {
                    return self.fail(code::OTHER_MODE, Closed::OtherMode { serves });
                }
                if !self.begin_sealing(&open) {
                    return self
                        .fail(code::SEAL, Closed::Violation("sealed or not: the ends disagree"));
                }
                self.packing = Packing::new(open.packed, self.config.compress);
                let window = self.config.receive_window;
                Frame::Accept { window }.encode(&mut self.control_out);
                self.begin(now);
                (self.open, self.agreed) = (Some(open), Some(open.window));
                self.establish(now);
            }
            Frame::Accept { window } if self.agreed.is_none() && self.has_begun() => {
                self.agreed = Some(window);
                self.establish(now);
            }
            // On a new path both say it again, for the relays and in case it was lost.
            Frame::Open(open) if !self.is_client && self.open == Some(open) => {
                let window = self.config.receive_window;
                Frame::Accept { window }.encode(&mut self.control_out);
            }
            Frame::Accept { .. } if self.is_client => {}
            Frame::Open(_) | Frame::Accept { .. } => {
                self.fail(code::VIOLATION, Closed::Violation("a control frame out of order"));
            }
            Frame::Close { code: code::NONE, .. } if self.is_received() => {
                // It says so when it has everything, and this may overtake the report.
                if std::mem::take(&mut self.unconfirmed) {
                    self.events.push_back(Event::AllDataAcknowledged);
                }
                self.end(Closed::Finished);
            }
            Frame::Close { code, reason } => self.end(Closed::Peer { code, reason }),
            Frame::Seal(data) => self.on_seal(now, &data),
        }
    }

    /// A server's answer to whether the client seals; false when the ends disagree.
    fn begin_sealing(&mut self, open: &Open) -> bool {
        match (&self.seal, open.sealed) {
            (Some((seal, _)), true) => match Sealing::begin(seal, open.parameters()) {
                Some(sealing) => {
                    self.sealing = sealing;
                    true
                }
                None => false,
            },
            (Some((_, require)), false) => !require,
            (None, sealed) => !sealed,
        }
    }

    fn on_seal(&mut self, now: Instant, data: &[u8]) {
        match self.sealing.handle_input(data, &mut self.control_out) {
            Ok(None) => {}
            Ok(Some((own, peer))) => {
                if let Some(datagrams) = &mut self.datagrams {
                    datagrams.0.on_key(own);
                    datagrams.1.on_key(peer);
                    self.sealing = Sealing::None;
                } else {
                    self.sealing.on_stream_keys(own, peer);
                }
                self.establish(now);
            }
            Err(reason) => self.fail(code::SEAL, Closed::Seal { reason }),
        }
    }

    /// Once both ends agree and, if payload is sealed, the keys are there.
    fn establish(&mut self, now: Instant) {
        let Some(window) = self.agreed.filter(|_| self.sealing.is_ready()) else { return };
        if self.state != State::Opening {
            return;
        }
        self.state = State::Established;
        self.events.push_back(Event::Established);
        if let Some(sender) = &mut self.sender {
            sender.on_window(window);
        }
        if let Some(rateless) = &mut self.rateless {
            rateless.0.on_window(window);
        }
        for packet in std::mem::take(&mut self.early) {
            self.on_packet(now, packet);
        }
    }
}
