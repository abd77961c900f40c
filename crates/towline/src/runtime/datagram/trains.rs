//! Trains of datagrams on their way from an engine to the kernel.

use towline_io::{Driver, TransmitRef};
use towline_proto::quic::Transmit;

use super::sockets::{Route, Sockets};

/// Trains sent by one system call at most.
const BATCH: usize = 32;

/// Bytes after which a batch is sent: more would leave the processor's cache before the kernel reads it.
const BATCH_BYTES: usize = 32 << 10;

/// Buffers that engines write their trains into, and what to do with those written. One per I/O thread; the buffers keep their
/// memory.
#[derive(Default)]
pub(in crate::runtime) struct Trains {
    buffers: Vec<Vec<u8>>,
    routes: Vec<(Route, usize)>,
    bytes: usize,
}

impl Trains {
    /// The buffer for the next train.
    pub(super) fn next(&mut self) -> &mut Vec<u8> {
        let index = self.routes.len();
        if self.buffers.len() <= index {
            self.buffers.resize_with(index + 1, Vec::new);
        }
        &mut self.buffers[index]
    }

    /// Keeps the train just written, if a socket can send it. `true`: it is time to flush.
    pub(super) fn push(&mut self, transmit: Transmit, sockets: &mut Sockets) -> bool {
        let Some(route) = sockets.route(&transmit) else { return false };
        self.bytes += transmit.size;
        self.routes.push((route, transmit.size));
        self.routes.len() == BATCH || self.bytes >= BATCH_BYTES
    }

    /// Sends what was kept, in one system call per run of the same socket.
    pub(super) fn flush(&mut self, driver: &mut Driver, sockets: &mut Sockets) {
        let Trains { buffers, routes, bytes } = self;
        let mut trains = routes.iter().zip(buffers.iter()).peekable();
        while let Some(((first, size), buffer)) = trains.next() {
            let mut batch = [borrowed(first, *size, buffer); BATCH];
            let mut count = 1;
            while let Some(((route, size), buffer)) =
                trains.next_if(|((route, _), _)| route.socket == first.socket)
                && let Some(place) = batch.get_mut(count)
            {
                *place = borrowed(route, *size, buffer);
                count += 1;
            }
            sockets.send(driver, first.socket, batch.get(..count).unwrap_or_default());
        }
        routes.clear();
        *bytes = 0;
    }
}

/// Engines say how much of the buffer is theirs.
fn borrowed<'a>(route: &Route, size: usize, buffer: &'a [u8]) -> TransmitRef<'a> {
    TransmitRef {
        destination: route.destination,
        source: route.source,
        ecn: route.ecn,
        segment_size: route.segment_size,
        contents: buffer.get(..size).unwrap_or(buffer),
    }
}
