//! The baseline: KCP, from its crate, in the mode that its users call fast3 and without the parity packets that some tunnels add.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kcp::Kcp;
use towline_sim::{Delivery, Transmit};

use super::Transport;
use crate::cell::{Cell, LabError};
use crate::node::Place;

/// Both ends agree on it beforehand.
const CONVERSATION: u32 = 1;
/// How often KCP looks at what it has; it takes no less.
const INTERVAL: Duration = Duration::from_millis(10);
/// IP packets of 1,500 bytes.
const MTU: usize = 1_472;
/// Bytes of a stream that are given at a time; KCP takes less than 128 packets.
const CHUNK: usize = 64 << 10;
/// Unacknowledged packets after which a fast retransmission is made.
const FAST_RESEND: i32 = 2;

type Queue = Rc<RefCell<VecDeque<Bytes>>>;

/// Where KCP writes its datagrams.
struct Output(Queue);

impl Write for Output {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().push_back(Bytes::copy_from_slice(data));
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(crate) struct KcpEnd {
    kcp: Kcp<Output>,
    queue: Queue,
    base: Instant,
    /// The peer, for a server from its first datagram on.
    remote: Option<SocketAddr>,
    next: Instant,
    window: usize,
    failure: Option<String>,
}

impl KcpEnd {
    pub(crate) fn new(cell: &Cell, place: &Place) -> Result<Self, LabError> {
        let queue = Queue::default();
        let output = Output(queue.clone());
        let mut kcp = match cell.load.messages() {
            Some(_) => Kcp::new(CONVERSATION, output),
            None => Kcp::new_stream(CONVERSATION, output),
        };
        let refused = |error: kcp::Error| LabError::Parameter(error.to_string());
        kcp.set_mtu(MTU).map_err(refused)?;
        kcp.set_nodelay(true, INTERVAL.as_millis() as i32, FAST_RESEND, true);
        kcp.set_maximum_resend_times(u32::MAX);
        // There is no congestion control but the window, which its users size for the path.
        let round = cell.links.one_way(true) + cell.links.one_way(false) + INTERVAL;
        let window = cell.links.rate.as_bps() as f64 / 8.0 * round.as_secs_f64() / 1_514.0;
        let window = window.clamp(32.0, 60_000.0) as u16;
        kcp.set_wndsize(window, u16::MAX);
        Ok(KcpEnd {
            kcp,
            queue,
            base: place.now,
            remote: place.dials.map(|(to, _)| to),
            next: place.dials.map_or(place.now, |(_, at)| at),
            window: window.into(),
            failure: None,
        })
    }

    fn note<T>(&mut self, result: Result<T, kcp::Error>) {
        if let Err(error) = result {
            self.failure.get_or_insert(error.to_string());
        }
    }
}

impl Transport for KcpEnd {
    fn handle_datagram(&mut self, _now: Instant, datagram: Delivery) {
        self.remote.get_or_insert(datagram.source);
        let taken = self.kcp.input(&datagram.data);
        self.note(taken);
    }

    fn handle_timeout(&mut self, _now: Instant) {}

    fn poll_transmit(&mut self, now: Instant) -> Option<Transmit> {
        if now >= self.next {
            self.next = now + INTERVAL;
            let elapsed = now.saturating_duration_since(self.base).as_millis() as u32;
            let updated = self.kcp.update(elapsed);
            self.note(updated);
        }
        let remote = self.remote?;
        let data = self.queue.borrow_mut().pop_front()?;
        Some(Transmit::new(remote, data))
    }

    fn poll_timeout(&mut self) -> Option<Instant> {
        Some(self.next)
    }

    fn begin(&mut self, _now: Instant) {}

    fn is_open(&self) -> bool {
        self.remote.is_some()
    }

    fn write(&mut self, now: Instant, data: &Bytes) -> usize {
        let part = data.slice(..data.len().min(CHUNK));
        if self.send(now, &part) { part.len() } else { 0 }
    }

    fn send(&mut self, _now: Instant, message: &Bytes) -> bool {
        if self.kcp.wait_snd() >= 2 * self.window {
            return false;
        }
        let taken = self.kcp.send(message);
        let fits = taken.is_ok();
        self.note(taken);
        fits
    }

    fn recv(&mut self, _now: Instant) -> Option<Bytes> {
        let mut data = vec![0; self.kcp.peeksize().ok()?];
        let length = self.kcp.recv(&mut data).ok()?;
        data.truncate(length);
        Some(data.into())
    }

    fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }
}
