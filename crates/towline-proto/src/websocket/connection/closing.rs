//! The closing handshake and every other way to the end (RFC 6455 sections 5.5.1 and 7).

use super::super::close::{CloseCode, CloseFrame, MAX_REASON};
use super::super::config::Role;
use super::super::error::Violation;
use super::{Cause, Closed, Connection, Event, Phase};

impl Connection {
    pub(super) fn on_close(&mut self, body: &[u8]) {
        let frame = match CloseFrame::parse(body) {
            Ok(frame) => frame,
            Err(violation) => return self.fail(violation),
        };
        self.received = Some(frame.clone());
        if self.sent.is_none() {
            self.events.push_back(Event::CloseRequested(frame.clone()));
            self.answered = true;
            // Section 5.5.1: the answer echoes the code.
            self.send_close(frame);
        }
        self.discard_input();
        self.advance_close();
    }

    /// RFC 6455 section 7.1.7.
    pub(super) fn fail(&mut self, violation: Violation) {
        if self.phase == Phase::Closed || self.violation.is_some() {
            return;
        }
        self.violation = Some(violation);
        if self.sent.is_none() {
            let reason = violation.to_string();
            let reason = if reason.len() <= MAX_REASON { reason } else { String::new() };
            self.send_close(CloseFrame { code: Some(violation.code()), reason });
        }
        self.discard_input();
        self.advance_close();
    }

    pub(super) fn send_close(&mut self, frame: CloseFrame) {
        self.encoder.close(&frame.encode());
        self.sent = Some(frame);
        self.late_pong = None;
        self.phase = Phase::Closing;
        let by = self.now.checked_add(self.config.close_timeout);
        self.close_by = self.close_by.or(by);
    }

    pub(super) fn discard_input(&mut self) {
        let rest = self.input.len();
        self.input.clear();
        self.receive.release(rest as u64);
    }

    /// Goes on with the closing handshake if the next step is due: everything must be said and written.
    pub(super) fn advance_close(&mut self) {
        let said = self.sent.is_some() && (self.received.is_some() || self.violation.is_some());
        if self.phase != Phase::Closing || !said || self.queued() > 0 {
            return;
        }
        if self.eof {
            return self.finish_exchanged();
        }
        self.phase = Phase::Lingering;
        let by = self.now.checked_add(self.config.linger);
        self.linger_by = match (by, self.close_by) {
            (Some(linger), Some(budget)) => Some(linger.min(budget)),
            (linger, budget) => linger.or(budget),
        };
        // Section 7.1.1: the server closes first; whoever fails the connection does not wait for the other.
        if (self.role == Role::Server || self.violation.is_some())
            && !std::mem::replace(&mut self.shut, true)
        {
            self.events.push_back(Event::ShutdownWrite);
        }
    }

    /// The transport's end, after everything that came before it.
    pub(super) fn on_eof(&mut self) {
        match self.phase {
            Phase::Closed => {}
            Phase::Lingering => self.finish_exchanged(),
            // The peer only ended its side: our answer still goes out.
            Phase::Closing if self.received.is_some() || self.violation.is_some() => {
                self.advance_close()
            }
            Phase::Open | Phase::Closing => self.finish(Cause::Transport),
        }
    }

    pub(super) fn finish_by_transport(&mut self) {
        if self.phase == Phase::Lingering || self.violation.is_some() {
            self.finish_exchanged()
        } else {
            self.finish(Cause::Transport)
        }
    }

    pub(super) fn finish_exchanged(&mut self) {
        let cause = match (self.violation, self.answered) {
            (Some(violation), _) => Cause::Violation(violation),
            (None, true) => Cause::Peer,
            (None, false) => Cause::Local,
        };
        self.finish(cause);
    }

    pub(super) fn finish(&mut self, cause: Cause) {
        if self.phase == Phase::Closed {
            return;
        }
        self.phase = Phase::Closed;
        self.encoder.clear();
        self.discard_input();
        let own = |violation: Violation| CloseFrame {
            code: Some(violation.code()),
            reason: violation.to_string(),
        };
        let frame = match (self.violation, self.received.take(), self.sent.take()) {
            (Some(violation), ..) => Some(own(violation)),
            (None, Some(received), _) => Some(received),
            // The peer vanished after our close frame: ours is the last word.
            (None, None, Some(sent)) if cause == Cause::Transport => Some(sent),
            _ => None,
        };
        let (code, reason) = match frame {
            Some(frame) => (frame.code.unwrap_or(CloseCode::NO_STATUS), frame.reason),
            None => (CloseCode::ABNORMAL, String::new()),
        };
        let clean = matches!(cause, Cause::Local | Cause::Peer);
        self.events.push_back(Event::Closed(Closed { code, reason, clean, cause }));
    }

    /// Input has no meaning any more: after the peer's close frame (RFC 6455 section 5.5.1), a violation, or the end.
    #[inline]
    pub(super) fn discards(&self) -> bool {
        self.phase != Phase::Open
            && (self.received.is_some() || self.violation.is_some() || self.phase == Phase::Closed)
    }
}
