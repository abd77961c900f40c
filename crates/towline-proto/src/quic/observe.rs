//! What the seams of one connection see: its keys see packets in the clear, its congestion controller sees what became of them.
//!
//! The engine owns both behind its own traits, so they report here. All of it happens on the endpoint's thread; the types are shareable because the engine's traits ask for
//! it, so the lock below is never contended, and it is only taken for packets that carry datagrams while their states are wanted.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::congestion::PathReport;
use super::event::DatagramState;
use super::frames::{Frame, scan};
use super::types::{DatagramId, Direction};

/// Streams whose 0-RTT bytes are counted at most; the peer's stream limits are far below.
const MAX_EARLY_STREAMS: usize = 1_024;

/// The peer has acknowledged a packet with the present keys.
const SETTLED: u64 = u64::MAX;
/// The keys are new and nothing was sent with them yet.
const UPDATED: u64 = u64::MAX - 1;

#[derive(Debug)]
pub(super) struct Observed {
    base: Instant,
    /// The peer's limits on the number of our streams, by direction.
    max_streams: [AtomicU64; 2],
    /// One more than the highest limit that the peer said it was blocked at, by direction; 0 for never.
    blocked_at: [AtomicU64; 2],
    /// Whether packets were sent since the last acknowledgement, and when (nanoseconds from `base`) the first of them was.
    outstanding: AtomicBool,
    progress: AtomicU64,
    /// `SETTLED`, `UPDATED`, or when (nanoseconds from `base`) the first packet with the present keys was sent.
    keys: AtomicU64,
    track_datagrams: bool,
    tracker: Mutex<Tracker>,
    early: Mutex<Early>,
    early_datagrams: AtomicU64,
    /// What the application's own controller last said of its path.
    report: Mutex<Option<PathReport>>,
    /// Bytes that may be in flight beyond the controller's window; see `Connection::allow_probe`.
    extra_window: AtomicU64,
}

/// Which datagrams are in which packets.
#[derive(Debug, Default)]
struct Tracker {
    /// Handed to the engine and not sent yet, in its order.
    queued: VecDeque<(DatagramId, usize)>,
    /// Of the packet that is being written now.
    written: Vec<DatagramId>,
    written_pn: u64,
    sent: HashMap<u64, SentPacket>,
    news: VecDeque<(DatagramId, DatagramState)>,
}

#[derive(Debug)]
struct SentPacket {
    at: Instant,
    bytes: u16,
    datagrams: Vec<DatagramId>,
}

/// How far each stream's 0-RTT bytes reach.
type Early = HashMap<u64, u64>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Observed {
    pub(super) fn new(now: Instant, track_datagrams: bool) -> Self {
        Self {
            base: now,
            max_streams: [AtomicU64::new(0), AtomicU64::new(0)],
            blocked_at: [AtomicU64::new(0), AtomicU64::new(0)],
            outstanding: AtomicBool::new(false),
            progress: AtomicU64::new(0),
            keys: AtomicU64::new(SETTLED),
            track_datagrams,
            tracker: Mutex::default(),
            early: Mutex::default(),
            early_datagrams: AtomicU64::new(0),
            report: Mutex::default(),
            extra_window: AtomicU64::new(0),
        }
    }

    pub(super) fn tracks_datagrams(&self) -> bool {
        self.track_datagrams
    }

    // Streams.

    pub(super) fn raise_max_streams(&self, direction: Direction, limit: u64) {
        if let Some(max) = self.max_streams.get(direction.index()) {
            max.fetch_max(limit, Relaxed);
        }
    }

    pub(super) fn max_streams(&self, direction: Direction) -> u64 {
        self.max_streams.get(direction.index()).map_or(0, |max| max.load(Relaxed))
    }

    /// A 1-RTT packet that came, in the clear. Returns its length without the padding at its end.
    pub(super) fn on_received(&self, payload: &[u8]) -> usize {
        let direction = |bidirectional| {
            if bidirectional { Direction::Bidirectional } else { Direction::Unidirectional }
        };
        scan(payload, |frame| match frame {
            Frame::MaxStreams { bidirectional, limit } => {
                self.raise_max_streams(direction(bidirectional), limit)
            }
            Frame::StreamsBlocked { bidirectional, limit } => {
                if let Some(blocked) = self.blocked_at.get(direction(bidirectional).index()) {
                    blocked.fetch_max(limit.saturating_add(1), Relaxed);
                }
            }
            _ => {}
        })
    }

    /// One more than the highest limit that the peer said it was blocked at; 0 for never.
    pub(super) fn blocked_at(&self, direction: Direction) -> u64 {
        self.blocked_at.get(direction.index()).map_or(0, |limit| limit.load(Relaxed))
    }

    /// The same for a 0-RTT packet.
    pub(super) fn on_received_early(&self, payload: &[u8]) -> usize {
        let mut early = lock(&self.early);
        scan(payload, |frame| match frame {
            Frame::Stream { id, end }
                if early.len() < MAX_EARLY_STREAMS || early.contains_key(&id) =>
            {
                let length = early.entry(id).or_default();
                *length = (*length).max(end);
            }
            Frame::Datagram { .. } => {
                self.early_datagrams.fetch_add(1, Relaxed);
            }
            _ => {}
        })
    }

    pub(super) fn early_length(&self, stream: u64) -> u64 {
        lock(&self.early).get(&stream).copied().unwrap_or(0)
    }

    /// Whether the next datagram to be read came as 0-RTT data.
    pub(super) fn take_early_datagram(&self) -> bool {
        let left = self.early_datagrams.load(Relaxed);
        if left > 0 {
            self.early_datagrams.store(left - 1, Relaxed);
        }
        left > 0
    }

    // Progress.

    pub(super) fn outstanding(&self) -> bool {
        self.outstanding.load(Relaxed)
    }

    /// Since when nothing of what was sent has been acknowledged.
    pub(super) fn silent_since(&self) -> Option<Instant> {
        self.outstanding().then(|| self.base + Duration::from_nanos(self.progress.load(Relaxed)))
    }

    /// Nanoseconds from `base`; some 580 years fit.
    fn nanos(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.base).as_nanos())
            .map_or(UPDATED - 1, |n| n.min(UPDATED - 1))
    }

    /// The keys were updated, by either end.
    pub(super) fn on_key_update(&self) {
        self.keys.store(UPDATED, Relaxed);
    }

    /// Whether a key update may be begun: not before the peer has acknowledged a packet with the present keys (RFC 9001 section 6.1). The engine is content with a packet
    /// from the peer; when both ends update at once and packets are lost, the two would then lose each other's keys.
    pub(super) fn may_update_keys(&self) -> bool {
        self.keys.load(Relaxed) == SETTLED
    }

    pub(super) fn on_packet_sent(&self, now: Instant, bytes: u16, pn: u64) {
        if !self.outstanding.swap(true, Relaxed) {
            self.progress.store(self.nanos(now), Relaxed);
        }
        if self.keys.load(Relaxed) == UPDATED {
            self.keys.store(self.nanos(now), Relaxed);
        }
        if !self.track_datagrams {
            return;
        }
        let tracker = &mut *lock(&self.tracker);
        if !tracker.written.is_empty() && tracker.written_pn == pn {
            let datagrams = std::mem::take(&mut tracker.written);
            tracker.news.extend(datagrams.iter().map(|&id| (id, DatagramState::Sent)));
            tracker.sent.insert(pn, SentPacket { at: now, bytes, datagrams });
        }
    }

    pub(super) fn on_packet_acked(&self, sent: Instant, bytes: u64, pn: u64) {
        let since = self.keys.load(Relaxed);
        // Strictly later, since a packet with the old keys may have left at the same moment.
        if since < UPDATED && self.nanos(sent) > since {
            self.keys.store(SETTLED, Relaxed);
        }
        if !self.track_datagrams {
            return;
        }
        // Packet numbers of the handshake's spaces overlap with those of the data space; time and size tell them apart.
        self.settle(pn, DatagramState::Acknowledged, |packet| {
            packet.at == sent && u64::from(packet.bytes) == bytes
        });
    }

    // The application's own congestion controller.

    pub(super) fn set_report(&self, report: PathReport) {
        *lock(&self.report) = Some(report);
    }

    pub(super) fn report(&self) -> Option<PathReport> {
        *lock(&self.report)
    }

    pub(super) fn extra_window(&self) -> u64 {
        self.extra_window.load(Relaxed)
    }

    pub(super) fn allow_probe(&self, bytes: u64) {
        self.extra_window.fetch_add(bytes, Relaxed);
    }

    /// Acknowledgements came. What is still in flight will be sent again if it is lost, and then counts anew.
    pub(super) fn on_acks_end(&self) {
        self.extra_window.store(0, Relaxed);
        self.outstanding.store(false, Relaxed);
    }

    pub(super) fn on_packet_lost(&self, bytes: u16, pn: u64) {
        if self.track_datagrams {
            self.settle(pn, DatagramState::Lost, |packet| packet.bytes == bytes);
        }
    }

    fn settle(&self, pn: u64, state: DatagramState, is_it: impl Fn(&SentPacket) -> bool) {
        let tracker = &mut *lock(&self.tracker);
        if tracker.sent.get(&pn).is_some_and(is_it)
            && let Some(packet) = tracker.sent.remove(&pn)
        {
            tracker.news.extend(packet.datagrams.into_iter().map(|id| (id, state)));
        }
    }

    /// The connection moves to another path: the engine says nothing more about packets sent on the old one.
    pub(super) fn on_path_replaced(&self) {
        if self.track_datagrams {
            let tracker = &mut *lock(&self.tracker);
            for (_, packet) in tracker.sent.drain() {
                tracker
                    .news
                    .extend(packet.datagrams.into_iter().map(|id| (id, DatagramState::Unknown)));
            }
        }
    }

    // Datagrams.

    pub(super) fn queue_datagram(&self, id: DatagramId, len: usize) {
        lock(&self.tracker).queued.push_back((id, len));
    }

    /// A packet with application data that is about to be sealed.
    pub(super) fn on_written(&self, pn: u64, payload: &[u8]) {
        scan(payload, |frame| {
            let Frame::Datagram { len } = frame else { return };
            let tracker = &mut *lock(&self.tracker);
            if tracker.written_pn != pn {
                tracker.written.clear();
            }
            tracker.written_pn = pn;
            // The engine sends in order and drops what became too long for the path, so whatever stands before one of this length was dropped.
            while let Some((id, queued)) = tracker.queued.pop_front() {
                if queued == len {
                    tracker.written.push(id);
                    return;
                }
                tracker.news.push_back((id, DatagramState::Expired));
            }
        });
    }

    pub(super) fn next_datagram_news(&self) -> Option<(DatagramId, DatagramState)> {
        lock(&self.tracker).news.pop_front()
    }

    pub(super) fn has_datagram_news(&self) -> bool {
        self.track_datagrams && !lock(&self.tracker).news.is_empty()
    }

    /// The connection is over: tells of everything that is still open.
    pub(super) fn cancel_datagrams(&self) {
        let tracker = &mut *lock(&self.tracker);
        while let Some((id, _)) = tracker.queued.pop_front() {
            tracker.news.push_back((id, DatagramState::Canceled));
        }
        let mut left: Vec<DatagramId> =
            tracker.sent.drain().flat_map(|(_, packet)| packet.datagrams).collect();
        left.sort_unstable();
        tracker.news.extend(left.into_iter().map(|id| (id, DatagramState::Unknown)));
    }
}
