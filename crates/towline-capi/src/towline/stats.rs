//! Counters.

use super::connection::{self, towline_connection};
use super::context::{self, towline_context};
use crate::entry::{Failure, put, run, towline_result, wanted};

/// Counters of a connection since it was made.
#[repr(C)]
pub struct towline_connection_statistics {
    /// `sizeof(towline_connection_statistics)`, filled in by you.
    pub struct_size: usize,
    /// Messages accepted for sending and handed to the protocol.
    pub messages_sent: u64,
    /// Messages received.
    pub messages_received: u64,
    /// Bytes given to wires, framing and repetitions included, encryption not.
    pub bytes_sent: u64,
    /// Bytes taken from wires, framing included, encryption not.
    pub bytes_received: u64,
    /// Bytes sent once more after a wire was lost.
    pub bytes_resent: u64,
    /// Messages accepted and not acknowledged.
    pub unacknowledged: u64,
    /// Wires that were lost.
    pub wires_lost: u64,
    /// Dials begun.
    pub dials: u64,
    /// Times that the peer came back without its memory.
    pub resets: u64,
    /// Replies that came after their request's deadline.
    pub late_replies: u64,
    /// Replies to requests that had been answered.
    pub duplicate_replies: u64,
    /// The smoothed round-trip time in microseconds; 0 until it was measured.
    pub round_trip_us: u64,
}

/// What the I/O threads of a context hold.
#[repr(C)]
pub struct towline_context_statistics {
    /// `sizeof(towline_context_statistics)`, filled in by you.
    pub struct_size: usize,
    /// Connections that have not ended.
    pub connections: u64,
    /// Sockets.
    pub wires: u64,
    /// Entries in the queues of timers.
    pub timers: u64,
}

fn check<T>(place: *mut T, size: impl FnOnce() -> usize) -> Result<(), Failure> {
    wanted(place, "statistics")?;
    if size() != size_of::<T>() {
        return Err(Failure::invalid("statistics.struct_size is not the size of the struct"));
    }
    Ok(())
}

/// The counters of a connection, as of its I/O thread's last look at it. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn towline_connection_get_statistics(
    connection: *const towline_connection,
    statistics: *mut towline_connection_statistics,
) -> towline_result {
    run(|| {
        // SAFETY: looked at only when not NULL, and by contract readable then.
        check(statistics, || unsafe { (*statistics).struct_size })?;
        let stats = connection::established(connection)?.stats();
        let value = towline_connection_statistics {
            struct_size: size_of::<towline_connection_statistics>(),
            messages_sent: stats.messages_sent,
            messages_received: stats.messages_received,
            bytes_sent: stats.bytes_sent,
            bytes_received: stats.bytes_received,
            bytes_resent: stats.bytes_resent,
            unacknowledged: stats.unacknowledged,
            wires_lost: stats.wires_lost,
            dials: stats.dials,
            resets: stats.resets,
            late_replies: stats.late_replies,
            duplicate_replies: stats.duplicate_replies,
            round_trip_us: stats.round_trip.map_or(0, |time| time.as_micros() as u64),
        };
        // SAFETY: checked above, and by contract writable.
        unsafe { put(statistics, value) };
        Ok(())
    })
}

/// What the context holds now. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn towline_context_get_statistics(
    context: *const towline_context,
    statistics: *mut towline_context_statistics,
) -> towline_result {
    run(|| {
        // SAFETY: looked at only when not NULL, and by contract readable then.
        check(statistics, || unsafe { (*statistics).struct_size })?;
        let stats = context::with(context, |context| Ok(context.stats()))?;
        let value = towline_context_statistics {
            struct_size: size_of::<towline_context_statistics>(),
            connections: stats.connections as u64,
            wires: stats.wires as u64,
            timers: stats.timers as u64,
        };
        // SAFETY: checked above, and by contract writable.
        unsafe { put(statistics, value) };
        Ok(())
    })
}
