//! Events: as callbacks, and pulled from a queue.

use std::ffi::{CString, c_char, c_void};
use std::ptr::null;
use std::sync::{Arc, Mutex, PoisonError};

use towline_core::{Event, Events, Message};

use super::connection::{self, towline_connection};
use super::failure;
use super::kind;
use super::message::towline_message;
use crate::entry::{Failure, code, put, run, towline_result, wanted};
use crate::handle::Table;
use crate::wait::block_on;

/// What happened to a connection. Everything that it points to is the library's: valid during the callback, or until the next
/// towline_events_next.
#[repr(C)]
pub struct towline_event {
    /// `sizeof(towline_event)` of the library; fields beyond what you know are new.
    pub struct_size: usize,
    /// One of the `TOWLINE_EVENT_` values.
    pub kind: i32,
    /// DISCONNECTED, GAVE_UP, CLOSED: why. TOWLINE_OK in CLOSED: in order, by either side.
    pub result: towline_result,
    /// MESSAGE: the message. RESET, TOO_LARGE, CLOSED: the first of those that were not acknowledged. NULL if there is none.
    pub messages: *const towline_message,
    /// How many messages there are.
    pub message_count: usize,
    /// CONNECTED, REDIALING: the URL as it was given. Else, and on the accepting side, NULL.
    pub url: *const c_char,
    /// DISCONNECTED, GAVE_UP, CLOSED: why, in English. Else NULL.
    pub text: *const c_char,
    /// CLOSED by the peer: the code that it gave. Else 0.
    pub close_code: u64,
    /// REDIALING: counts the attempts since the wire was lost, from 1.
    pub attempt: u32,
    /// CONNECTED: 1 when this wire continues an earlier one.
    pub resumed: i32,
}

/// There is a wire: the first, or after a loss a new one.
pub const TOWLINE_EVENT_CONNECTED: i32 = 1;
/// A message arrived. Only in callbacks; programs that pull use towline_connection_receive.
pub const TOWLINE_EVENT_MESSAGE: i32 = 2;
/// A send was refused with TOWLINE_ERROR_FULL, and there is room again.
pub const TOWLINE_EVENT_WRITABLE: i32 = 3;
/// Everything accepted so far was acknowledged by the peer.
pub const TOWLINE_EVENT_FLUSHED: i32 = 4;
/// The wire was lost. A dialed connection redials, an accepted one waits for its peer.
pub const TOWLINE_EVENT_DISCONNECTED: i32 = 5;
/// A redial begins.
pub const TOWLINE_EVENT_REDIALING: i32 = 6;
/// The redial window is over. CLOSED follows.
pub const TOWLINE_EVENT_GAVE_UP: i32 = 7;
/// The peer restarted: these messages were accepted and not acknowledged. The connection goes on as new.
pub const TOWLINE_EVENT_RESET: i32 = 8;
/// These messages are larger than the peer takes, and were not sent.
pub const TOWLINE_EVENT_TOO_LARGE: i32 = 9;
/// The end: the last event, exactly once.
pub const TOWLINE_EVENT_CLOSED: i32 = 10;

/// Takes the events of one connection, on the connection's I/O thread: always the same thread, never two calls at once. It must not block: all
/// connections of that thread wait meanwhile, and the log says so. Inside, every call of this library is allowed but
/// towline_context_free, and those with a timeout only with 0; also towline_connection_free of this connection, after which
/// no further event comes.
pub type towline_event_callback = Option<
    unsafe extern "C" fn(
        connection: *mut towline_connection,
        event: *const towline_event,
        user: *mut c_void,
    ),
>;

fn c_text(text: impl std::fmt::Display) -> CString {
    CString::new(text.to_string().replace('\0', " ")).unwrap_or_default()
}

/// An event with what it points to.
#[derive(Default)]
struct Owned {
    kind: i32,
    result: towline_result,
    kept: Vec<Message>,
    views: Vec<towline_message>,
    url: Option<CString>,
    text: Option<CString>,
    close_code: u64,
    attempt: u32,
    resumed: bool,
}

// SAFETY: the views point into `kept`, whose storage is shared between threads by counting; they go where `kept` goes.
unsafe impl Send for Owned {}

impl Owned {
    fn new(event: Event) -> Owned {
        use towline_core::Ended;
        let mut owned = Owned::default();
        match event {
            Event::Connected(connected) => {
                owned.kind = TOWLINE_EVENT_CONNECTED;
                owned.url = connected.address.map(c_text);
                owned.resumed = connected.resumed;
            }
            Event::Message(message) => {
                owned.kind = TOWLINE_EVENT_MESSAGE;
                owned.kept = vec![message];
            }
            Event::Writable => owned.kind = TOWLINE_EVENT_WRITABLE,
            Event::Flushed => owned.kind = TOWLINE_EVENT_FLUSHED,
            Event::Disconnected(error) => {
                owned.kind = TOWLINE_EVENT_DISCONNECTED;
                (owned.result, owned.text) = (failure::wire(&error), Some(c_text(error)));
            }
            Event::Redialing(redialing) => {
                owned.kind = TOWLINE_EVENT_REDIALING;
                owned.url = Some(c_text(&redialing.address));
                owned.attempt = redialing.attempt;
            }
            Event::GaveUp(error) => {
                owned.kind = TOWLINE_EVENT_GAVE_UP;
                (owned.result, owned.text) = (failure::wire(&error), Some(c_text(error)));
            }
            Event::Reset(messages) => {
                owned.kind = TOWLINE_EVENT_RESET;
                owned.kept = messages;
            }
            Event::TooLarge(messages) => {
                owned.kind = TOWLINE_EVENT_TOO_LARGE;
                owned.kept = messages;
            }
            Event::Closed(closed) => {
                owned.kind = TOWLINE_EVENT_CLOSED;
                owned.kept = closed.unacknowledged;
                owned.result = failure::ended(&closed.ended);
                owned.text = Some(c_text(&closed.ended));
                if let Ended::ByPeer { code, .. } = closed.ended {
                    owned.close_code = code;
                }
            }
            // A kind that came later than this file: of no name here, and harmless.
            _ => {}
        }
        owned.views = owned.kept.iter().map(towline_message::view).collect();
        owned
    }

    fn raw(&self) -> towline_event {
        let text = |text: &Option<CString>| text.as_ref().map_or(null(), |text| text.as_ptr());
        towline_event {
            struct_size: size_of::<towline_event>(),
            kind: self.kind,
            result: self.result,
            messages: if self.views.is_empty() { null() } else { self.views.as_ptr() },
            message_count: self.views.len(),
            url: text(&self.url),
            text: text(&self.text),
            close_code: self.close_code,
            attempt: self.attempt,
            resumed: self.resumed.into(),
        }
    }
}

const EMPTY: towline_event = towline_event {
    struct_size: size_of::<towline_event>(),
    kind: 0,
    result: 0,
    messages: null(),
    message_count: 0,
    url: null(),
    text: null(),
    close_code: 0,
    attempt: 0,
    resumed: 0,
};

/// Shows an event to a function. A message costs no allocation.
pub(super) fn show(event: Event, shown: impl FnOnce(&towline_event)) {
    if let Event::Message(message) = &event {
        let view = towline_message::view(message);
        return shown(&towline_event {
            kind: TOWLINE_EVENT_MESSAGE,
            messages: &raw const view,
            message_count: 1,
            ..EMPTY
        });
    }
    let owned = Owned::new(event);
    if owned.kind != 0 {
        shown(&owned.raw());
    }
}

/// A queue of a connection's events, messages excepted, for programs that pull. Holds at most 256, the oldest are dropped beyond.
pub struct towline_events {
    _opaque: [u8; 0],
}

struct Queue {
    events: Events,
    shown: Owned,
    raw: Box<towline_event>,
}

// SAFETY: `raw` points into `shown`, which is beside it.
unsafe impl Send for Queue {}

static EVENTS: Table<Mutex<Queue>> = Table::new(kind::EVENTS, "queue of events");

/// Opens a queue of the connection's events from now on. Free it with towline_events_free, before or after the connection.
///
/// Any thread. Errors: TOWLINE_ERROR_NOT_CONNECTED before the first wire.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn towline_connection_events(
    connection: *mut towline_connection,
    events: *mut *mut towline_events,
) -> towline_result {
    run(|| {
        wanted(events, "events")?;
        let queue = connection::established(connection)?.events();
        let raw = Box::new(Owned::default().raw());
        let queue = Queue { events: queue, shown: Owned::default(), raw };
        let handle = EVENTS.insert(Arc::new(Mutex::new(queue)));
        let handle = handle.ok_or_else(|| Failure::internal("too many queues of events"))?;
        // SAFETY: checked above, and by contract writable.
        unsafe { put(events, handle as *mut towline_events) };
        Ok(())
    })
}

/// The next event, waiting for it as long as `timeout_ms` says (negative: for ever). It stays valid until the next call with this queue, or its end.
///
/// Any thread, one at a time. Errors: TOWLINE_ERROR_TIMED_OUT; TOWLINE_ERROR_ENDED after TOWLINE_EVENT_CLOSED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn towline_events_next(
    events: *mut towline_events,
    timeout_ms: i64,
    event: *mut *const towline_event,
) -> towline_result {
    run(|| {
        wanted(event, "event")?;
        let queue = EVENTS.get(events as usize)?;
        let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
        let next = block_on(queue.events.next(), timeout_ms)?;
        let next = next
            .ok_or_else(|| Failure::new(code::TOWLINE_ERROR_ENDED, "the connection has ended"))?;
        queue.shown = Owned::new(next);
        *queue.raw = queue.shown.raw();
        // SAFETY: checked above, and by contract writable.
        unsafe { put(event, &raw const *queue.raw) };
        Ok(())
    })
}

/// Ends the queue.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn towline_events_free(events: *mut towline_events) -> towline_result {
    run(|| EVENTS.remove(events as usize).map(drop))
}
