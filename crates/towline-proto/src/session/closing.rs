//! Ending in order and at once (docs/session.md, section 8).

use std::time::Instant;

use bytes::{Bytes, BytesMut};

use super::error::{CloseCode, Refusal, WireError};
use super::event::Event;
use super::frame::{Fields, Violation, cut_reason, kind, put_control, put_int, put_reason};
use super::machine::{Phase, Session};
use super::message::Unacknowledged;

/// The ABORT frame (S8.6).
pub(super) fn abort_frame(code: CloseCode, reason: &str) -> Bytes {
    let mut out = BytesMut::new();
    put_control(&mut out, kind::ABORT, |body| put_reason(body, code, reason));
    out.freeze()
}

/// An end that is under way, begun by either side.
#[derive(Debug)]
pub(super) struct Closing {
    /// Of whoever closed first.
    code: CloseCode,
    reason: String,
    by_peer: bool,
    pub(super) until: Option<Instant>,
    /// CLOSE went out once: no new message may follow (S8.3).
    pub(super) announced: bool,
    /// CLOSE went out on this wire, and whether it said that the peer's had come.
    pub(super) sent: Option<bool>,
    /// The peer's CLOSE came.
    pub(super) received: bool,
    /// The peer's CLOSE said that ours had come.
    answered: bool,
}

impl Session {
    /// Ends in order: what was enqueued is delivered first, then [`Event::Closed`]; after
    /// [`Config::close_timeout`](super::Config::close_timeout) in any case. Call `enqueue` before it
    /// and go on redialling while [`is_down`](Self::is_down): a wire that is lost now is resumed like any other.
    pub fn close(&mut self, now: Instant, code: CloseCode, reason: &str) {
        self.now = now;
        if self.phase == Phase::Ended || self.closing.is_some() {
            return;
        }
        self.begin_closing(code, cut_reason(reason).to_owned(), false);
        // Nobody has ever heard of it: there is no one to drain to.
        if self.epoch == 0 && self.unacknowledged() == (0, 0) {
            self.finish(code);
        }
    }

    /// Ends at once, without an event, as [`abort_with`](Self::abort_with) does with [`CloseCode::ABORTED`].
    pub fn abort(&mut self) -> Vec<Unacknowledged> {
        self.abort_with(CloseCode::ABORTED, "")
    }

    /// Ends at once, without an event. The peer is told if `poll_transmit` still gets to the wire. Returns what
    /// was not acknowledged.
    pub fn abort_with(&mut self, code: CloseCode, reason: &str) -> Vec<Unacknowledged> {
        if self.phase == Phase::Up && self.greeting_due {
            // The WELCOME has not gone out: the client still waits for one word or the other.
            self.last_words = Refusal { code, reason: reason.to_owned() }.encode();
        } else if self.phase == Phase::Up {
            let mut out = self.final_acknowledgements();
            out.extend_from_slice(&abort_frame(code, reason));
            self.last_words = out.freeze();
        }
        self.end()
    }

    fn begin_closing(&mut self, code: CloseCode, reason: String, by_peer: bool) {
        let until = self.now.checked_add(self.config.close_timeout);
        self.closing = Some(Box::new(Closing {
            code,
            reason,
            by_peer,
            until,
            announced: false,
            sent: None,
            received: false,
            answered: false,
        }));
    }

    /// Whether CLOSE is to be sent: everything is out, and the last CLOSE does not say all (S8.4).
    pub(super) fn close_due(&self) -> bool {
        let Some(closing) = &self.closing else { return false };
        self.phase == Phase::Up
            && closing.sent != Some(closing.received)
            && self.logs.iter().flatten().all(|log| log.all_sent())
    }

    pub(super) fn put_close(&mut self, out: &mut BytesMut) {
        let Some(closing) = &mut self.closing else { return };
        let answer = closing.received;
        put_control(out, kind::CLOSE, |body| {
            put_int(body, u64::from(answer));
            put_reason(body, closing.code, &closing.reason);
        });
        closing.sent = Some(answer);
        closing.announced = true;
    }

    /// CLOSE: the peer sends no more messages.
    pub(super) fn on_close(&mut self, body: &[u8]) -> Result<(), Violation> {
        let mut fields = Fields::new(kind::CLOSE, body);
        let answered = fields.int()? & 1 != 0;
        let (code, reason) = fields.reason()?;
        if self.closing.is_none() {
            self.begin_closing(code, reason.clone(), true);
        }
        self.ack_now |= self.ack_pending;
        let Some(closing) = &mut self.closing else { return Ok(()) };
        // S8.4: an answer to what was not said.
        if answered && !closing.announced {
            return Err(Violation::UnexpectedFrame(kind::CLOSE));
        }
        closing.answered |= answered;
        if !std::mem::replace(&mut closing.received, true) {
            self.events.push_back(Event::PeerClosing { code, reason });
        }
        self.check_closed();
        Ok(())
    }

    /// CLOSED: the peer has everything and is gone.
    pub(super) fn on_closed(&mut self) -> Result<(), Violation> {
        if !self.closing.as_ref().is_some_and(|closing| closing.announced && closing.received) {
            return Err(Violation::UnexpectedFrame(kind::CLOSED));
        }
        self.finish(CloseCode::NORMAL);
        Ok(())
    }

    /// ABORT: the peer has ended at once.
    pub(super) fn on_abort(&mut self, body: &[u8]) -> Result<(), Violation> {
        let (code, reason) = Fields::new(kind::ABORT, body).reason()?;
        self.last_words = Bytes::new();
        let unacknowledged = self.end();
        self.events.push_back(Event::Closed { code, reason, unacknowledged });
        Ok(())
    }

    /// FAIL: the peer leaves this wire and says why.
    pub(super) fn on_fail(&mut self, body: &[u8]) -> Result<(), Violation> {
        let (code, reason) = Fields::new(kind::FAIL, body).reason()?;
        self.fail(WireError::PeerFailed { code, reason }, false);
        Ok(())
    }

    /// S8.5: both have said all, both have all.
    pub(super) fn check_closed(&mut self) {
        let Some(closing) = &self.closing else { return };
        let said = closing.sent.is_some() && closing.answered;
        if self.phase == Phase::Up
            && said
            && self.logs.iter().flatten().all(|log| log.all_acknowledged())
        {
            let mut out = self.final_acknowledgements();
            put_control(&mut out, kind::CLOSED, |_| {});
            self.last_words = out.freeze();
            self.finish(CloseCode::NORMAL);
        }
    }

    /// The end of an orderly end: `code` counts only when messages are left and this side began.
    pub(super) fn finish(&mut self, code: CloseCode) {
        if self.phase == Phase::Ended {
            return;
        }
        let unacknowledged = self.end();
        let Some(closing) = self.closing.take() else { return };
        let code = if unacknowledged.is_empty() || closing.by_peer { closing.code } else { code };
        self.events.push_back(Event::Closed { code, reason: closing.reason, unacknowledged });
    }
}
