//! Congestion control: the engine's controllers, an application's own, and the wrapper that watches them all.

use std::any::Any;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, Instant};

use noq_proto::RttEstimator;
use noq_proto::congestion as engine;

use super::config::CongestionControl;
use super::observe::Observed;

/// What a controller hears of an acknowledged packet.
#[derive(Clone, Copy, Debug)]
pub struct AckedPacket {
    /// When the acknowledgement came.
    pub now: Instant,
    /// When the packet was sent.
    pub sent: Instant,
    /// Its size, bytes.
    pub bytes: u64,
    /// Its number.
    pub number: u64,
    /// Whether the application, not the network, was what held sending back.
    pub app_limited: bool,
    /// The smoothed round trip time.
    pub smoothed_rtt: Duration,
    /// The smallest round trip time seen.
    pub min_rtt: Duration,
}

/// What a controller hears of congestion.
#[derive(Clone, Copy, Debug)]
pub struct CongestionSignal {
    /// When it was noticed.
    pub now: Instant,
    /// When the newest of the packets concerned was sent.
    pub sent: Instant,
    /// Whether everything over the persistent congestion period was lost (RFC 9002 section 7.6).
    pub persistent: bool,
    /// Whether it is a mark (ECN-CE) rather than a loss.
    pub marked: bool,
    /// Bytes lost; 0 for a mark.
    pub lost_bytes: u64,
    /// The highest packet number concerned.
    pub largest_lost: u64,
}

/// What a controller has learnt of its path.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PathReport {
    /// What the path carries, bytes of UDP payload per second, whether or not it is used at the moment.
    pub rate: u64,
    /// What is sent at most now, bytes of UDP payload per second.
    pub pacing: u64,
    /// The smallest round trip time of late.
    pub min_rtt: Duration,
    /// The newest round trip time.
    pub last_rtt: Duration,
    /// The longest time of late between two acknowledgements while something was on its way.
    pub pause: Duration,
    /// The share of packets lost, 0 to 1, smoothed.
    pub loss: f64,
    /// How many packets are lost in a row on average, at least 1.
    pub burst: f64,
}

/// A congestion controller of the application's own, for one path of one connection.
///
/// Called on the endpoint's thread. Times come as arguments; nothing here reads a clock.
pub trait CongestionController: Debug + Send + Sync {
    /// A packet that calls for an acknowledgement was sent.
    fn on_packet_sent(&mut self, now: Instant, bytes: u64, number: u64);
    /// One packet was acknowledged.
    fn on_packet_acked(&mut self, packet: &AckedPacket);
    /// The batch of acknowledgements that came together is over; `in_flight` is what is still unacknowledged.
    fn on_acks_end(&mut self, now: Instant, in_flight: u64, app_limited: bool);
    /// One packet is thought lost.
    fn on_packet_lost(&mut self, now: Instant, bytes: u64, number: u64);
    /// Packets were lost or marked: once for those that were noticed together.
    fn on_congestion(&mut self, signal: &CongestionSignal);
    /// All packets that were thought lost have been acknowledged after all.
    fn on_spurious_congestion(&mut self) {}
    /// The path's largest UDP payload changed.
    fn on_mtu_update(&mut self, mtu: u16);
    /// Bytes that may be in flight, at least one packet.
    fn window(&self) -> u64;
    /// The window at the start.
    fn initial_window(&self) -> u64;
    /// Bytes per second to pace at; `None` spreads the window over the round trip.
    fn pacing_rate(&self) -> Option<u64> {
        None
    }
    /// Bytes that may leave as one train; `None` leaves it to the endpoint.
    fn send_quantum(&self) -> Option<u64> {
        None
    }
    /// What it has learnt of the path, if it keeps such things: asked for after each acknowledgement, and shown by `Connection::path_report`.
    fn report(&self) -> Option<PathReport> {
        None
    }
    /// A copy for a path that succeeds this one with the same properties (a NAT rebinding).
    fn clone_box(&self) -> Box<dyn CongestionController>;
}

/// Makes a controller for each new path.
pub trait CongestionFactory: Debug + Send + Sync {
    /// A fresh controller; `initial_window` comes from `initial_window_packets`, bytes; `mtu` is the UDP payload to start with.
    fn build(&self, now: Instant, mtu: u16, initial_window: u64) -> Box<dyn CongestionController>;
}

/// An application's controller as the engine wants it.
#[derive(Debug)]
struct Custom {
    inner: Box<dyn CongestionController>,
    observed: Arc<Observed>,
}

impl engine::Controller for Custom {
    fn on_packet_sent(&mut self, now: Instant, bytes: u16, pn: u64) {
        self.inner.on_packet_sent(now, bytes.into(), pn);
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        pn: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
        self.inner.on_packet_acked(&AckedPacket {
            now,
            sent,
            bytes,
            number: pn,
            app_limited,
            smoothed_rtt: rtt.get(),
            min_rtt: rtt.min(),
        });
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, _: Option<u64>) {
        self.inner.on_acks_end(now, in_flight, app_limited);
        if let Some(report) = self.inner.report() {
            self.observed.set_report(report);
        }
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        persistent: bool,
        marked: bool,
        lost_bytes: u64,
        largest_lost: u64,
    ) {
        self.inner.on_congestion(&CongestionSignal {
            now,
            sent,
            persistent,
            marked,
            lost_bytes,
            largest_lost,
        });
    }

    fn on_packet_lost(&mut self, lost_bytes: u16, pn: u64, now: Instant) {
        self.inner.on_packet_lost(now, lost_bytes.into(), pn);
    }

    fn on_spurious_congestion_event(&mut self) {
        self.inner.on_spurious_congestion();
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.inner.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        self.inner.window().saturating_add(self.observed.extra_window())
    }

    fn metrics(&self) -> engine::ControllerMetrics {
        let mut metrics = engine::ControllerMetrics::default();
        metrics.congestion_window = self.inner.window();
        metrics.pacing_rate = self.inner.pacing_rate();
        metrics.send_quantum = self.inner.send_quantum();
        metrics
    }

    fn clone_box(&self) -> Box<dyn engine::Controller> {
        Box::new(Self { inner: self.inner.clone_box(), observed: self.observed.clone() })
    }

    fn initial_window(&self) -> u64 {
        self.inner.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// What every connection's controllers are made from.
#[derive(Clone, Debug)]
pub(super) struct Recipe {
    pub(super) control: CongestionControl,
    pub(super) initial_window_packets: u32,
    pub(super) send_idle_timeout: Duration,
    pub(super) pacing: bool,
}

impl Recipe {
    fn controller(
        &self,
        now: Instant,
        mtu: u16,
        observed: &Arc<Observed>,
    ) -> Box<dyn engine::Controller> {
        use engine::ControllerFactory as _;
        let window = u64::from(self.initial_window_packets) * u64::from(mtu);
        match &self.control {
            CongestionControl::Cubic => {
                let mut config = engine::CubicConfig::default();
                config.initial_window(window);
                Arc::new(config).build(now, mtu)
            }
            CongestionControl::Bbr3 => {
                let mut config = engine::Bbr3Config::default();
                config.initial_window(window);
                Arc::new(config).build(now, mtu)
            }
            CongestionControl::NewReno => {
                let mut config = engine::NewRenoConfig::default();
                config.initial_window(window);
                Arc::new(config).build(now, mtu)
            }
            CongestionControl::Custom(factory) => {
                let inner = factory.build(now, mtu, window);
                Box::new(Custom { inner, observed: observed.clone() })
            }
        }
    }
}

/// Makes the watched controllers of one connection.
pub(super) struct Factory {
    pub(super) recipe: Recipe,
    pub(super) observed: Arc<Observed>,
}

impl engine::ControllerFactory for Factory {
    fn build(self: Arc<Self>, now: Instant, mtu: u16) -> Box<dyn engine::Controller> {
        self.observed.on_path_replaced();
        let inner = self.recipe.controller(now, mtu, &self.observed);
        Box::new(Watched { inner, factory: self, mtu, last_sent: None })
    }
}

/// A controller, and beside it what the connection's own features need to see: progress for `disconnect_timeout`, each packet for the states of datagrams, the pause
/// before sending for `send_idle_timeout`.
struct Watched {
    inner: Box<dyn engine::Controller>,
    factory: Arc<Factory>,
    mtu: u16,
    last_sent: Option<Instant>,
}

impl Debug for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.inner.fmt(f)
    }
}

impl engine::Controller for Watched {
    fn on_sent(&mut self, now: Instant, bytes: u64, largest_pn: u64) {
        self.inner.on_sent(now, bytes, largest_pn);
    }

    fn on_packet_sent(&mut self, now: Instant, bytes: u16, pn: u64) {
        let idle = self.factory.recipe.send_idle_timeout;
        let paused = self.last_sent.is_some_and(|last| now.saturating_duration_since(last) >= idle);
        if !idle.is_zero() && paused && !self.factory.observed.outstanding() {
            let factory = &self.factory;
            self.inner = factory.recipe.controller(now, self.mtu, &factory.observed);
        }
        self.last_sent = Some(now);
        self.factory.observed.on_packet_sent(now, bytes, pn);
        self.inner.on_packet_sent(now, bytes, pn);
    }

    fn on_cwnd_limited(&mut self) {
        self.inner.on_cwnd_limited();
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        pn: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
        self.factory.observed.on_packet_acked(sent, bytes, pn);
        self.inner.on_ack(now, sent, bytes, pn, app_limited, rtt);
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        largest: Option<u64>,
    ) {
        self.factory.observed.on_acks_end();
        self.inner.on_end_acks(now, in_flight, app_limited, largest);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        persistent: bool,
        marked: bool,
        lost_bytes: u64,
        largest_lost: u64,
    ) {
        self.inner.on_congestion_event(now, sent, persistent, marked, lost_bytes, largest_lost);
    }

    fn on_packet_lost(&mut self, lost_bytes: u16, pn: u64, now: Instant) {
        self.factory.observed.on_packet_lost(lost_bytes, pn);
        self.inner.on_packet_lost(lost_bytes, pn, now);
    }

    fn on_spurious_congestion_event(&mut self) {
        self.inner.on_spurious_congestion_event();
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = new_mtu;
        self.inner.on_mtu_update(new_mtu);
    }

    fn on_ack_frequency_update(&mut self, threshold: u64, max_ack_delay: Duration) {
        self.inner.on_ack_frequency_update(threshold, max_ack_delay);
    }

    fn window(&self) -> u64 {
        self.inner.window()
    }

    fn metrics(&self) -> engine::ControllerMetrics {
        let mut metrics = self.inner.metrics();
        if !self.factory.recipe.pacing {
            // The engine does not pace windows of more than 2^32 bytes that come without a rate; this number serves its pacer only.
            metrics.congestion_window = u64::MAX;
            metrics.pacing_rate = None;
            metrics.send_quantum = None;
        }
        metrics
    }

    fn clone_box(&self) -> Box<dyn engine::Controller> {
        self.factory.observed.on_path_replaced();
        Box::new(Self {
            inner: self.inner.clone_box(),
            factory: self.factory.clone(),
            mtu: self.mtu,
            last_sent: self.last_sent,
        })
    }

    fn initial_window(&self) -> u64 {
        self.inner.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
