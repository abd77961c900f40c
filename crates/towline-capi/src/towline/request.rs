//! Requests and their replies.

use std::ffi::c_void;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use towline_core::{Message, RequestError};

use super::connection::{self, Conn, towline_connection};
use super::message::{self, towline_message, towline_received};
use crate::entry::{Failure, code, remember, run, towline_result, wanted};
use crate::gate::User;
use crate::wait::block_on;

/// Takes the reply to a request: `result` is TOWLINE_OK and `reply` is valid during the call, or `result` says what happened, with the text in
/// towline_last_error, and `reply` is NULL. Comes exactly once, unless the connection is freed before; never inside the call that made the
/// request. It runs on the connection's I/O thread, or, when a call ends the waiting, such as towline_connection_close, on that call's thread. It must not
/// block; inside, the same calls are allowed as in a towline_event_callback.
pub type towline_reply_callback = Option<
    unsafe extern "C" fn(
        connection: *mut towline_connection,
        result: towline_result,
        reply: *const towline_message,
        user: *mut c_void,
    ),
>;

type ReplyFunction = unsafe extern "C" fn(
    *mut towline_connection,
    towline_result,
    *const towline_message,
    *mut c_void,
);

type Outcome = Result<Message, RequestError>;

/// Sends a message and waits for its reply, `timeout_ms` milliseconds (1 to about a month). Free the reply with towline_received_free. Any number of threads may have
/// requests on one connection; a reply that comes later is counted and dropped.
///
/// Any thread but those of callbacks. Errors: TOWLINE_ERROR_TIMED_OUT, TOWLINE_ERROR_MESSAGE, TOWLINE_ERROR_ENDED, TOWLINE_ERROR_RESET, TOWLINE_ERROR_UNSUPPORTED on
/// wires without ids.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn towline_connection_request(
    connection: *mut towline_connection,
    message: *const towline_message,
    timeout_ms: i64,
    reply: *mut *mut towline_received,
) -> towline_result {
    run(|| {
        wanted(reply, "reply")?;
        let connection = connection::established(connection)?;
        // SAFETY: by contract NULL or readable, with its data.
        let message = unsafe { towline_message::read(message) }?;
        let outcome = block_on(connection.request(message, time(timeout_ms)?), -1)??;
        // SAFETY: checked above, and by contract writable.
        unsafe { message::give(outcome, reply) }
    })
}

/// Sends a message and has `callback` take its reply. Messages are refused while the queue is full only by waiting: the time runs meanwhile.
///
/// Any thread, also in callbacks. Errors, without a callback to come: as towline_connection_request.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn towline_connection_request_async(
    connection: *mut towline_connection,
    message: *const towline_message,
    timeout_ms: i64,
    callback: towline_reply_callback,
    user: *mut c_void,
) -> towline_result {
    run(|| {
        let function = callback.ok_or_else(|| Failure::invalid("the callback is NULL"))?;
        let conn = connection::get(connection)?;
        let requested = conn.established()?.clone();
        // SAFETY: by contract NULL or readable, with its data.
        let message = unsafe { towline_message::read(message) }?;
        let timeout = time(timeout_ms)?;
        let future = Box::pin(async move { requested.request(message, timeout).await });
        let waiting = Arc::new(Waiting {
            future: Mutex::new(Some(future)),
            conn,
            handle: connection as usize,
            function,
            user: User(user),
        });
        match waiting.poll() {
            Some(Err(error)) => Err(error.into()),
            Some(outcome) => {
                waiting.tell(outcome);
                Ok(())
            }
            None => Ok(()),
        }
    })
}

/// The time for a reply.
fn time(timeout_ms: i64) -> Result<Duration, Failure> {
    match u64::try_from(timeout_ms) {
        Ok(ms @ 1..=2_592_000_000) => Ok(Duration::from_millis(ms)),
        _ => {
            let range = "a request takes 1 to 2,592,000,000 ms";
            Err(Failure::new(code::TOWLINE_ERROR_INVALID_ARGUMENT, range))
        }
    }
}

/// A request whose reply goes to a callback.
struct Waiting {
    future: Mutex<Option<Pin<Box<dyn Future<Output = Outcome> + Send>>>>,
    conn: Arc<Conn>,
    handle: usize,
    function: ReplyFunction,
    user: User,
}

impl Waiting {
    /// The outcome, the first time that there is one.
    fn poll(self: &Arc<Self>) -> Option<Outcome> {
        let waker = Waker::from(Arc::clone(self));
        let mut future = self.future.lock().unwrap_or_else(PoisonError::into_inner);
        let polled = future.as_mut()?.as_mut().poll(&mut Context::from_waker(&waker));
        let Poll::Ready(outcome) = polled else { return None };
        let over = future.take();
        drop(future);
        drop(over);
        Some(outcome)
    }

    fn tell(&self, outcome: Outcome) {
        let (result, view) = match &outcome {
            Ok(reply) => (code::TOWLINE_OK, Some(towline_message::view(reply))),
            Err(error) => {
                let failure = Failure::from(error.clone());
                remember(&failure.text);
                (failure.code, None)
            }
        };
        let reply = view.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        self.conn.gate.enter(|| {
            let handle = self.handle as *mut towline_connection;
            // SAFETY: the application promised a function of this type; the reply lives for the call.
            unsafe { (self.function)(handle, result, reply, self.user.0) };
        });
    }
}

impl Wake for Waiting {
    fn wake(self: Arc<Self>) {
        if let Some(outcome) = self.poll() {
            self.tell(outcome);
        }
    }
}
