//! The life of a socket as a state machine: what may be called when, what is waiting for the owner, what was broken.

use std::collections::VecDeque;

use bytes::Bytes;

use super::Framing;
use super::socket::SocketError;
use crate::error::WireError;

/// Where a socket is in its life. Only ever goes forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Nothing was asked for yet.
    New,
    /// Asked to open, and not answered.
    Opening,
    /// Open.
    Open,
    /// Asked to close, and not answered.
    Closing,
    /// Closed, by the factory's word or for want of it.
    Closed,
}

/// What came in, in order.
#[derive(Debug)]
pub(crate) enum Arrival {
    Data(Bytes),
    Text(Bytes),
    CloseRequested { status: u16, message: String },
    End,
}

impl Arrival {
    pub(crate) fn len(&self) -> usize {
        match self {
            Arrival::Data(data) | Arrival::Text(data) => data.len(),
            Arrival::CloseRequested { .. } | Arrival::End => 0,
        }
    }
}

/// A response to the handshake that the factory did.
#[derive(Clone, Debug, Default)]
pub(crate) struct Response {
    pub(crate) status: u16,
    #[cfg_attr(not(feature = "websocket"), expect(dead_code, reason = "WebSocket's"))]
    pub(crate) headers: Vec<(String, String)>,
}

/// The state of a socket.
#[derive(Debug)]
pub(crate) struct Life {
    framing: Framing,
    phase: Phase,
    /// The socket was open, and the owner has not been told.
    opened: bool,
    was_open: bool,
    arrivals: VecDeque<Arrival>,
    /// Bytes handed up of which `completed_receive` has not told.
    unprocessed: usize,
    limit: usize,
    max_message: usize,
    ended: bool,
    pub(crate) response: Option<Response>,
    /// A certificate has to be shown before `opened`.
    pub(crate) wants_certificate: bool,
    /// How it ended, for the owner; comes behind everything that arrived.
    outcome: Option<Result<(), WireError>>,
    /// Breaches of the contract.
    pub(crate) breaches: u64,
}

impl Life {
    pub(crate) fn new(framing: Framing, max_message: usize) -> Life {
        Life {
            framing,
            phase: Phase::New,
            opened: false,
            was_open: false,
            arrivals: VecDeque::new(),
            unprocessed: 0,
            limit: super::RECEIVE_LIMIT.saturating_add(max_message),
            max_message,
            ended: false,
            response: None,
            wants_certificate: false,
            outcome: None,
            breaches: 0,
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    pub(crate) fn was_open(&self) -> bool {
        self.was_open
    }

    pub(crate) fn unprocessed(&self) -> usize {
        self.unprocessed
    }

    // ---- what the factory tells ----

    pub(crate) fn opened(&mut self) -> Result<(), SocketError> {
        match self.phase {
            // It was found broken before, which the owner is about to hear.
            Phase::Opening if self.outcome.is_some() => Err(SocketError::Closed),
            Phase::Opening if self.wants_certificate => {
                let words = "its factory showed no certificate, which a check was to see";
                self.fail(WireError::WebSocketClosed { code: 1011, reason: words.into() });
                Err(self.breach(SocketError::NoCertificate))
            }
            Phase::Opening => {
                self.phase = Phase::Open;
                (self.opened, self.was_open) = (true, true);
                Ok(())
            }
            // Towline gave up in the meantime: nobody's fault.
            Phase::Closing if !self.was_open => Ok(()),
            Phase::Closed => Err(SocketError::Closed),
            Phase::New | Phase::Open | Phase::Closing => Err(self.breach(SocketError::OutOfTurn)),
        }
    }

    pub(crate) fn received(&mut self, arrival: Arrival) -> Result<(), SocketError> {
        match self.phase {
            Phase::Closed => return Err(SocketError::Closed),
            // Asked to close before it was open: what the factory still says is for nobody.
            Phase::Closing if !self.was_open => return Ok(()),
            Phase::New | Phase::Opening => {
                let error = self.breach(SocketError::OutOfTurn);
                self.fail(WireError::Protocol("its factory received before it had opened".into()));
                return Err(error);
            }
            Phase::Open | Phase::Closing => {}
        }
        if self.outcome.is_some() {
            return Err(SocketError::Closed);
        }
        if self.ended {
            return Err(self.breach(SocketError::AfterEnd));
        }
        if matches!(arrival, Arrival::Text(_) | Arrival::CloseRequested { .. })
            && self.framing != Framing::None
        {
            return Err(self.breach(SocketError::OutOfTurn));
        }
        let bytes = arrival.len();
        if self.framing == Framing::None && bytes > self.max_message {
            let limit = self.max_message;
            self.fail(WireError::WebSocketClosed {
                code: 1009,
                reason: format!("a message of {bytes} bytes is above `max_message`, {limit}")
                    .into(),
            });
            return Err(SocketError::TooLarge { bytes, limit });
        }
        if let Arrival::Text(data) = &arrival
            && std::str::from_utf8(data).is_err()
        {
            let words = "a text message is not UTF-8";
            self.fail(WireError::WebSocketClosed { code: 1007, reason: words.into() });
            return Err(self.breach(SocketError::NotText));
        }
        if self.unprocessed.saturating_add(bytes) > self.limit {
            let limit = self.limit;
            let error = self.breach(SocketError::Overrun { limit });
            let words = format!("its factory handed up more than {limit} bytes ahead");
            self.fail(WireError::Protocol(words.into()));
            return Err(error);
        }
        self.ended = matches!(arrival, Arrival::End);
        self.unprocessed += bytes;
        self.arrivals.push_back(arrival);
        Ok(())
    }

    /// The factory has closed the socket. `true` the first time.
    pub(crate) fn closed(&mut self, how: Result<(), WireError>) -> Result<(), SocketError> {
        if self.phase == Phase::Closed {
            return Err(SocketError::Closed);
        }
        if self.phase == Phase::New {
            return Err(self.breach(SocketError::OutOfTurn));
        }
        self.phase = Phase::Closed;
        self.outcome.get_or_insert(how);
        Ok(())
    }

    /// Something was broken by which bytes are lost or by which memory would grow: the owner is told of an end.
    pub(crate) fn fail(&mut self, error: WireError) {
        self.outcome.get_or_insert(Err(error));
    }

    pub(crate) fn breach(&mut self, error: SocketError) -> SocketError {
        self.breaches += 1;
        error
    }

    // ---- what the owner does ----

    pub(crate) fn start(&mut self) {
        if self.phase == Phase::New {
            self.phase = Phase::Opening;
        }
    }

    /// Whether the factory may still be asked to write.
    pub(crate) fn may_write(&self) -> bool {
        self.phase == Phase::Open
    }

    /// `true`: the factory has to be asked to close.
    pub(crate) fn close(&mut self) -> bool {
        match self.phase {
            Phase::New => {
                self.phase = Phase::Closed;
                false
            }
            Phase::Opening | Phase::Open => {
                self.phase = Phase::Closing;
                true
            }
            Phase::Closing | Phase::Closed => false,
        }
    }

    /// The factory has not answered in time.
    pub(crate) fn expire(&mut self) -> bool {
        let expired = self.phase < Phase::Closed;
        self.phase = Phase::Closed;
        if expired {
            self.outcome.get_or_insert(Err(WireError::TimedOut(super::CLOSE_BUDGET)));
        }
        expired
    }

    /// The owner has processed so many bytes.
    pub(crate) fn processed(&mut self, bytes: usize) {
        self.unprocessed = self.unprocessed.saturating_sub(bytes);
    }

    /// Moves what has arrived behind what is in `into`; tells whether the socket opened since the last call.
    pub(crate) fn take(&mut self, into: &mut VecDeque<Arrival>) -> bool {
        into.append(&mut self.arrivals);
        std::mem::take(&mut self.opened)
    }

    /// Whether something has arrived that nobody has taken.
    pub(crate) fn has_arrivals(&self) -> bool {
        !self.arrivals.is_empty()
    }

    pub(crate) fn outcome(&self) -> Option<Result<(), WireError>> {
        self.outcome.clone()
    }
}
