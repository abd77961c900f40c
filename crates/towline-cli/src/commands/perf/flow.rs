//! One connection of the client: what its handler counts, on the I/O thread.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde_json::Value;
use towline::{Closed, Connection, Ended, Handler, Lane, Message};

use super::control::{self, Kind};

/// The longest round trip that the histogram tells apart, in nanoseconds.
const MAX_RTT: u64 = 60_000_000_000;

/// Significant digits of round trips.
const DIGITS: u8 = 3;

/// Round trips in nanoseconds.
pub(super) fn histogram() -> Histogram<u64> {
    let full = Histogram::new_with_bounds(1, MAX_RTT, DIGITS);
    full.unwrap_or_else(|_| unreachable!("1 <= 2 * 1 <= MAX_RTT and DIGITS <= 5"))
}

/// What came to the main thread's attention.
pub(super) enum News {
    /// The server has sent everything; it says how much.
    End(Value),
    /// The connection has ended.
    Closed(Ended),
}

/// What the handler and the main thread share.
pub(super) struct Flow {
    /// Messages of data sent or received, whichever the scenario is about.
    pub(super) messages: AtomicU64,
    pub(super) bytes: AtomicU64,
    /// Ping-pong: no more requests.
    pub(super) stopping: AtomicBool,
    /// Ping-pong: requests under way.
    pub(super) under_way: AtomicU64,
    round_trips: Mutex<RoundTrips>,
    /// When the last message of data came.
    last: Mutex<Option<Instant>>,
}

struct RoundTrips {
    histogram: Histogram<u64>,
    /// When what is not answered yet was sent; replies come in order.
    sent: VecDeque<Instant>,
}

/// Probes without an answer beyond which no more are sent.
const MAX_PROBES: usize = 64;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Flow {
    pub(super) fn new() -> Arc<Flow> {
        Arc::new(Flow {
            messages: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
            under_way: AtomicU64::new(0),
            round_trips: Mutex::new(RoundTrips { histogram: histogram(), sent: VecDeque::new() }),
            last: Mutex::new(None),
        })
    }

    /// Takes the round trips so far.
    pub(super) fn take_round_trips(&self, into: &mut Histogram<u64>) {
        let mut round_trips = lock(&self.round_trips);
        into.add(&round_trips.histogram).ok();
        round_trips.histogram.reset();
    }

    /// Seconds from `begin` to the last message of data.
    pub(super) fn seconds_since(&self, begin: Instant) -> f64 {
        lock(&self.last).map_or(0.0, |last| last.saturating_duration_since(begin).as_secs_f64())
    }

    /// Sends a probe, unless many are without an answer.
    pub(super) fn probe(&self, connection: &Connection) {
        let mut round_trips = lock(&self.round_trips);
        if round_trips.sent.len() < MAX_PROBES {
            let probe = Message::new(vec![control::PROBE]).on(Lane::URGENT);
            if connection.try_send(probe).is_ok() {
                round_trips.sent.push_back(Instant::now());
            }
        }
    }

    /// Sends one request of a ping-pong.
    pub(super) fn ask(&self, connection: &Connection, message: Message) -> bool {
        // The lock is held until the time is noted: the reply, on another thread, must find it.
        let mut round_trips = lock(&self.round_trips);
        let asked = connection.try_send(message).is_ok();
        if asked {
            round_trips.sent.push_back(Instant::now());
            self.under_way.fetch_add(1, Ordering::AcqRel);
        }
        asked
    }

    fn answered(&self) {
        let mut round_trips = lock(&self.round_trips);
        if let Some(sent) = round_trips.sent.pop_front() {
            let nanos = u64::try_from(sent.elapsed().as_nanos()).unwrap_or(MAX_RTT);
            round_trips.histogram.saturating_record(nanos.clamp(1, MAX_RTT));
        }
    }

    fn count(&self, bytes: usize) {
        self.messages.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        *lock(&self.last) = Some(Instant::now());
    }
}

/// The handler of a client's connection.
pub(super) struct FlowHandler {
    pub(super) flow: Arc<Flow>,
    /// Data is a reply, and asks for the next request.
    pub(super) ping_pong: bool,
    pub(super) news: Sender<News>,
}

impl Handler for FlowHandler {
    fn message(&mut self, connection: &Connection, message: Message) {
        match control::kind(&message) {
            Kind::Data => {
                self.flow.count(message.data.len());
                if self.ping_pong {
                    self.flow.answered();
                    if !self.flow.stopping.load(Ordering::Acquire) {
                        self.flow.ask(connection, Message::new(message.data));
                    }
                    // Last, so that none under way means that none follows.
                    self.flow.under_way.fetch_sub(1, Ordering::AcqRel);
                }
            }
            Kind::Probe => self.flow.answered(),
            Kind::Control(value) if control::kind_of(&value) == "end" => {
                self.news.send(News::End(value)).ok();
            }
            Kind::Control(_) | Kind::Unknown => {
                drop(connection.close_with(256, "an unexpected message"));
            }
        }
    }

    fn closed(&mut self, _: &Connection, closed: Closed) {
        self.news.send(News::Closed(closed.ended)).ok();
    }
}

/// The percentiles that are reported, by their names.
pub(super) fn percentiles(histogram: &Histogram<u64>) -> [(&'static str, Duration); 5] {
    let at = |quantile| Duration::from_nanos(histogram.value_at_quantile(quantile));
    [
        ("p50", at(0.5)),
        ("p90", at(0.9)),
        ("p99", at(0.99)),
        ("max", Duration::from_nanos(histogram.max())),
        ("mean", Duration::from_nanos(histogram.mean() as u64)),
    ]
}
