//! The futures of a connection's calls: cancelled by dropping, woken from the I/O thread, polled under any executor.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use towline_proto::session::Progress;

use super::{Connection, Phase, Push, Shared};
use crate::error::{ConnectError, Ended, FlushError, RequestError, SendError};
use crate::message::{Message, MessageId};
use crate::waiter::WaitKey;

/// The future of [`Connection::send`].
#[must_use = "futures do nothing unless polled"]
pub struct Send<'a> {
    pub(super) shared: &'a Arc<Shared>,
    pub(super) message: Message,
    pub(super) key: WaitKey,
}

impl Future for Send<'_> {
    type Output = Result<MessageId, SendError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        // Twice, because room may come between the attempt and the registration.
        for _ in 0..2 {
            match this.shared.push(&mut this.message, None) {
                Ok(id) => return Poll::Ready(Ok(id)),
                Err(Push::Never(error)) => return Poll::Ready(Err(Push::into_send_error(error))),
                Err(Push::Full) => {}
            }
            if let Some(error) = this.shared.poll_room(&mut this.key, cx.waker(), None) {
                return Poll::Ready(Err(error));
            }
        }
        Poll::Pending
    }
}

impl Drop for Send<'_> {
    fn drop(&mut self) {
        if self.key.is_some() {
            self.shared.out().room.forget(self.key);
        }
    }
}

/// The future of [`Connection::writable`].
#[must_use = "futures do nothing unless polled"]
pub struct Writable<'a> {
    pub(super) shared: &'a Arc<Shared>,
    pub(super) key: WaitKey,
}

impl Future for Writable<'_> {
    type Output = Result<(), SendError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        if let Some(error) = this.shared.poll_room(&mut this.key, cx.waker(), None) {
            return Poll::Ready(Err(error));
        }
        match this.shared.out().outgoing.has_room() {
            true => Poll::Ready(Ok(())),
            false => Poll::Pending,
        }
    }
}

impl Drop for Writable<'_> {
    fn drop(&mut self) {
        if self.key.is_some() {
            self.shared.out().room.forget(self.key);
        }
    }
}

pub(super) enum RequestState {
    Sending(Message),
    Waiting(MessageId),
    Done,
}

/// The future of [`Connection::request`].
#[must_use = "futures do nothing unless polled"]
pub struct Request<'a> {
    pub(super) shared: &'a Arc<Shared>,
    pub(super) state: RequestState,
    pub(super) after: Duration,
    pub(super) deadline: Option<Instant>,
    pub(super) key: WaitKey,
}

impl Request<'_> {
    fn poll_send(&mut self, waker: &Waker) -> Poll<Result<MessageId, RequestError>> {
        let RequestState::Sending(message) = &mut self.state else { return Poll::Pending };
        for _ in 0..2 {
            match self.shared.push(message, Some(self.deadline)) {
                Ok(id) => return Poll::Ready(Ok(id)),
                Err(Push::Never(error)) => return Poll::Ready(Err(error)),
                Err(Push::Full) => {}
            }
            if let Some(error) = self.shared.poll_room(&mut self.key, waker, self.deadline) {
                return Poll::Ready(Err(error.into()));
            }
        }
        Poll::Pending
    }
}

impl Future for Request<'_> {
    type Output = Result<Message, RequestError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        if let RequestState::Sending(_) = this.state {
            match this.poll_send(cx.waker()) {
                Poll::Ready(Ok(id)) => this.state = RequestState::Waiting(id),
                Poll::Ready(Err(error)) => {
                    this.state = RequestState::Done;
                    return Poll::Ready(Err(error));
                }
                Poll::Pending => {}
            }
        }
        if let RequestState::Waiting(id) = this.state
            && let Some(outcome) = this.shared.requests().poll(id, cx.waker())
        {
            this.state = RequestState::Done;
            return Poll::Ready(outcome);
        }
        if this.deadline.is_some_and(|at| Instant::now() >= at) {
            this.give_up();
            return Poll::Ready(Err(RequestError::TimedOut { after: this.after }));
        }
        Poll::Pending
    }
}

impl Request<'_> {
    /// Waits no more.
    fn give_up(&mut self) {
        if self.key.is_some() {
            self.shared.out().room.forget(self.key.take());
        }
        if let RequestState::Waiting(id) = std::mem::replace(&mut self.state, RequestState::Done) {
            self.shared.requests().remove(id);
        }
    }
}

impl Drop for Request<'_> {
    fn drop(&mut self) {
        self.give_up();
    }
}

/// The future of [`Connection::flush`].
#[must_use = "futures do nothing unless polled"]
pub struct Flush<'a> {
    pub(super) shared: &'a Arc<Shared>,
    pub(super) goal: Progress,
    pub(super) resets: u32,
    pub(super) key: WaitKey,
}

impl Future for Flush<'_> {
    type Output = Result<(), FlushError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let mut out = this.shared.out();
        if out.resets != this.resets {
            let unacknowledged = out.returned;
            return Poll::Ready(Err(FlushError::Reset { unacknowledged }));
        }
        if let Some((ended, unacknowledged)) = out.ended.as_deref() {
            if *unacknowledged == 0 {
                return Poll::Ready(Ok(()));
            }
            let (ended, unacknowledged) = (ended.clone(), *unacknowledged);
            return Poll::Ready(Err(FlushError::Ended { ended, unacknowledged }));
        }
        if out.acknowledged.reached(&this.goal) {
            return Poll::Ready(Ok(()));
        }
        out.flushed.register(&mut this.key, cx.waker());
        Poll::Pending
    }
}

impl Drop for Flush<'_> {
    fn drop(&mut self) {
        if self.key.is_some() {
            self.shared.out().flushed.forget(self.key);
        }
    }
}

/// The future of [`Connection::close`].
#[must_use = "the closing goes on by itself; await this to see it end"]
pub struct Close<'a> {
    pub(super) shared: &'a Arc<Shared>,
    pub(super) key: WaitKey,
}

impl Future for Close<'_> {
    type Output = Result<(), FlushError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let mut out = this.shared.out();
        let (Some((ended, unacknowledged)), true) = (out.ended.as_deref(), out.told) else {
            out.flushed.register(&mut this.key, cx.waker());
            return Poll::Pending;
        };
        let (ended, unacknowledged) = (ended.clone(), *unacknowledged);
        Poll::Ready(match (unacknowledged, &ended) {
            (0, _) => Ok(()),
            (_, Ended::Closed) => {
                let after = this.shared.config.0.plain.close_timeout;
                Err(FlushError::TimedOut { after, unacknowledged })
            }
            _ => Err(FlushError::Ended { ended, unacknowledged }),
        })
    }
}

impl Drop for Close<'_> {
    fn drop(&mut self) {
        if self.key.is_some() {
            self.shared.out().flushed.forget(self.key);
        }
    }
}

/// The future of [`Endpoint::connect`](crate::Endpoint::connect). The attempt begins at once; dropping the future
/// before it ends gives the connection up.
#[must_use = "futures do nothing unless polled"]
pub struct Connecting {
    pub(crate) connection: Option<Connection>,
    pub(crate) key: WaitKey,
}

impl Future for Connecting {
    type Output = Result<Connection, ConnectError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let Some(connection) = &this.connection else { return Poll::Pending };
        let outcome = {
            let mut link = connection.shared.link();
            match &link.phase {
                Phase::Connecting | Phase::Connected | Phase::Down if !link.handed_over => {
                    link.changed.register(&mut this.key, cx.waker());
                    return Poll::Pending;
                }
                Phase::Ended(Ended::NeverConnected(error)) => Err((**error).clone()),
                Phase::Ended(Ended::Stopped) => Err(ConnectError::Stopped),
                Phase::Ended(Ended::Closed) => Err(ConnectError::Closed),
                _ => Ok(()),
            }
        };
        let connection = this.connection.take();
        match (outcome, connection) {
            (Ok(()), Some(connection)) => Poll::Ready(Ok(connection)),
            (Err(error), _) => Poll::Ready(Err(error)),
            (Ok(()), None) => Poll::Pending,
        }
    }
}

impl Drop for Connecting {
    fn drop(&mut self) {
        if let Some(connection) = &self.connection {
            connection.abort();
        }
    }
}
