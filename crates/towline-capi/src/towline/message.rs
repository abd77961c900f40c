//! Messages at the border: views that borrow, and received ones that the program owns.

use std::cell::RefCell;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use towline_core::{Lane, Message, MessageId};

use super::kind;
use crate::entry::{Failure, bytes, put, run, towline_result, wanted};
use crate::handle::Table;

/// A message. To send one, fill in `struct_size`, `data` and `length`; 0 is good for the rest. The data is copied by the call
/// that sends it. In a callback, and from towline_received_message, the data belongs to the library.
#[repr(C)]
pub struct towline_message {
    /// `sizeof(towline_message)`.
    pub struct_size: usize,
    /// The message's id. 0 in a message to send: the next one.
    pub id: u64,
    /// The id of the message that this one answers; 0: of none.
    pub reply_to: u64,
    /// The bytes; NULL is fine when there are none.
    pub data: *const u8,
    /// How many.
    pub length: usize,
    /// One of the `TOWLINE_LANE_` values; order is kept within a lane.
    pub lane: u32,
    /// `TOWLINE_MESSAGE_TEXT` or 0.
    pub flags: u32,
}

/// The default lane.
pub const TOWLINE_LANE_NORMAL: u32 = 0;
/// Before all others.
pub const TOWLINE_LANE_URGENT: u32 = 1;
/// Before normal traffic.
pub const TOWLINE_LANE_HIGH: u32 = 2;
/// What can wait.
pub const TOWLINE_LANE_BULK: u32 = 3;
/// A WebSocket text message, whose data is UTF-8. Other wires do not carry the distinction.
pub const TOWLINE_MESSAGE_TEXT: u32 = 1;

/// A received message that the program owns, until towline_received_free.
pub struct towline_received {
    _opaque: [u8; 0],
}

static RECEIVED: Table<Message> = Table::new(kind::RECEIVED, "received message");

/// Copies up to this size go through a buffer of the thread's, from where the send queue copies them on at once.
const SMALL: usize = 4 << 10;
const BUFFER: usize = 64 << 10;

thread_local! {
    static SCRATCH: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

/// The caller's bytes as a payload. Small ones cost a copy and no allocation.
pub(crate) fn payload(data: &[u8]) -> Bytes {
    if data.len() > SMALL {
        return Bytes::copy_from_slice(data);
    }
    let small = SCRATCH.try_with(|scratch| {
        let mut scratch = scratch.borrow_mut();
        if scratch.capacity() < data.len() {
            // Takes the same memory again when nobody keeps a slice of it.
            scratch.reserve(BUFFER);
        }
        scratch.extend_from_slice(data);
        scratch.split().freeze()
    });
    small.unwrap_or_else(|_| Bytes::copy_from_slice(data))
}

impl towline_message {
    pub(super) fn view(message: &Message) -> towline_message {
        towline_message {
            struct_size: size_of::<towline_message>(),
            id: message.id.map_or(0, |id| id.0),
            reply_to: message.reply_to.map_or(0, |id| id.0),
            data: message.data.as_ptr(),
            length: message.data.len(),
            lane: match message.lane {
                Lane::URGENT => TOWLINE_LANE_URGENT,
                Lane::HIGH => TOWLINE_LANE_HIGH,
                Lane::BULK => TOWLINE_LANE_BULK,
                _ => TOWLINE_LANE_NORMAL,
            },
            flags: if message.is_text { TOWLINE_MESSAGE_TEXT } else { 0 },
        }
    }

    /// The message to send.
    ///
    /// # Safety
    ///
    /// `message` is NULL or readable, and so are its data for the call.
    pub(super) unsafe fn read(message: *const towline_message) -> Result<Message, Failure> {
        // SAFETY: by contract NULL or readable.
        let Some(view) = (unsafe { message.as_ref() }) else {
            return Err(Failure::invalid("the message is NULL"));
        };
        if view.struct_size != size_of::<towline_message>() {
            return Err(Failure::invalid("message.struct_size is not sizeof(towline_message)"));
        }
        if view.flags & !TOWLINE_MESSAGE_TEXT != 0 {
            return Err(Failure::invalid(format!("{:#x} are no flags of messages", view.flags)));
        }
        // SAFETY: by contract readable for the call.
        let mut message = Message::new(payload(unsafe { bytes(view.data, view.length) }?));
        message.id = (view.id != 0).then_some(MessageId(view.id));
        message.reply_to = (view.reply_to != 0).then_some(MessageId(view.reply_to));
        message.is_text = view.flags & TOWLINE_MESSAGE_TEXT != 0;
        message.lane = match view.lane {
            TOWLINE_LANE_NORMAL => Lane::NORMAL,
            TOWLINE_LANE_URGENT => Lane::URGENT,
            TOWLINE_LANE_HIGH => Lane::HIGH,
            TOWLINE_LANE_BULK => Lane::BULK,
            other => return Err(Failure::invalid(format!("{other} is no lane"))),
        };
        Ok(message)
    }
}

/// Gives a message to the program.
///
/// # Safety
///
/// `place` is writable.
pub(super) unsafe fn give(
    message: Message,
    place: *mut *mut towline_received,
) -> Result<(), Failure> {
    let handle = RECEIVED.insert(Arc::new(message));
    let handle = handle.ok_or_else(|| Failure::internal("too many received messages"))?;
    // SAFETY: by contract writable.
    unsafe { put(place, handle as *mut towline_received) };
    Ok(())
}

/// What a received message holds. Its data stays valid until towline_received_free. Fill in `message->struct_size` before.
///
/// Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn towline_received_message(
    received: *const towline_received,
    message: *mut towline_message,
) -> towline_result {
    run(|| {
        wanted(message, "message")?;
        // SAFETY: not NULL, and by contract readable.
        if unsafe { (*message).struct_size } != size_of::<towline_message>() {
            return Err(Failure::invalid("message.struct_size is not sizeof(towline_message)"));
        }
        let held = RECEIVED.get(received as usize)?;
        // SAFETY: not NULL, and by contract writable.
        unsafe { put(message, towline_message::view(&held)) };
        Ok(())
    })
}

/// Frees a received message and its data.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn towline_received_free(received: *mut towline_received) -> towline_result {
    run(|| RECEIVED.remove(received as usize).map(drop))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_payloads_use_the_same_memory_again() {
        let mut seen = std::collections::HashSet::new();
        for round in 0..1000u32 {
            let data = payload(&round.to_le_bytes().repeat(256));
            assert_eq!(data[..4], round.to_le_bytes());
            seen.insert(data.as_ptr() as usize);
        }
        assert!(seen.len() <= BUFFER / 1024 + 1, "{} places", seen.len());
    }

    #[test]
    fn a_kept_payload_keeps_its_bytes() {
        let kept: Vec<Bytes> = (0..200u8).map(|n| payload(&[n; 3000])).collect();
        for (n, data) in (0..200u8).zip(&kept) {
            assert!(data.iter().all(|byte| *byte == n));
        }
    }
}
