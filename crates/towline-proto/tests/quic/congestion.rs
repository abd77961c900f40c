//! Congestion control, pacing, ECN, keys, memory: the options that change how packets flow.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use towline_proto::quic::*;

use crate::pair::*;

/// Sends so many bytes to the server and returns how long it took.
pub fn transfer(
    pair: &mut Pair,
    client: ConnectionId,
    server: ConnectionId,
    len: usize,
) -> Option<Duration> {
    let opened =
        pair.client_conn(client).open(Direction::Unidirectional, OpenFlags::default()).unwrap();
    let Opened::Stream(stream) = opened else { panic!("allowed") };
    let data = pattern(len);
    let (mut at, mut got) = (0, Vec::new());
    let start = pair.now;
    let ok = pair.drive_until(Duration::from_secs(600), |pair| {
        if pair.client.connection(client).is_none() || pair.server.connection(server).is_none() {
            return true;
        }
        while at < data.len()
            && let Ok(n) = pair.client_conn(client).write(stream, &data[at..])
        {
            at += n;
        }
        read_all(&mut pair.server_conn(server), stream, &mut got);
        got.len() == data.len()
    });
    if !ok {
        println!("{} of {} bytes", got.len(), data.len());
    }
    (ok && got == data).then(|| pair.now - start)
}

#[test]
fn every_controller_fills_a_clean_path() {
    for control in [CongestionControl::Cubic, CongestionControl::Bbr3, CongestionControl::NewReno] {
        let mut pair = Setup::new().options(|o| o.congestion_control = control.clone()).build();
        pair.links(|l| l.rate = Some((2_500_000, 100_000)));
        let (client, server) = pair.established();
        let took = transfer(&mut pair, client, server, 5 << 20).expect("delivered");
        let rate = (5 << 20) as f64 / took.as_secs_f64() / 2_500_000.0;
        println!("{control:?}: {rate:.2} of the rate");
        assert!(rate > 0.6, "{control:?} reached {rate:.2}");
    }
}

/// A controller of the application's own: a fixed rate, and a record of what it heard.
#[derive(Clone, Debug)]
struct Fixed {
    rate: u64,
    heard: Arc<Heard>,
}

#[derive(Debug, Default)]
struct Heard {
    sent: AtomicU64,
    acked: AtomicU64,
    lost: AtomicU64,
    signals: Mutex<Vec<CongestionSignal>>,
}

impl CongestionController for Fixed {
    fn on_packet_sent(&mut self, _: Instant, _: u64, _: u64) {
        self.heard.sent.fetch_add(1, Relaxed);
    }
    fn on_packet_acked(&mut self, packet: &AckedPacket) {
        assert!(packet.now >= packet.sent && packet.min_rtt <= packet.smoothed_rtt * 2);
        self.heard.acked.fetch_add(1, Relaxed);
    }
    fn on_acks_end(&mut self, _: Instant, _: u64, _: bool) {}
    fn on_packet_lost(&mut self, _: Instant, _: u64, _: u64) {
        self.heard.lost.fetch_add(1, Relaxed);
    }
    fn on_congestion(&mut self, signal: &CongestionSignal) {
        self.heard.signals.lock().unwrap().push(*signal);
    }
    fn on_mtu_update(&mut self, _: u16) {}
    fn window(&self) -> u64 {
        1 << 20
    }
    fn initial_window(&self) -> u64 {
        1 << 20
    }
    fn pacing_rate(&self) -> Option<u64> {
        Some(self.rate)
    }
    fn clone_box(&self) -> Box<dyn CongestionController> {
        Box::new(self.clone())
    }
}

#[derive(Debug)]
struct FixedFactory(Fixed);

impl CongestionFactory for FixedFactory {
    fn build(&self, _: Instant, mtu: u16, initial_window: u64) -> Box<dyn CongestionController> {
        assert_eq!(initial_window, 10 * u64::from(mtu));
        Box::new(self.0.clone())
    }
}

#[test]
fn an_applications_own_controller_sets_the_pace_and_hears_everything() {
    let heard = Arc::new(Heard::default());
    let fixed = Fixed { rate: 1_000_000, heard: heard.clone() };
    let factory: Arc<dyn CongestionFactory> = Arc::new(FixedFactory(fixed));
    let mut pair = Setup::new()
        .client(|c| c.options.congestion_control = CongestionControl::Custom(factory))
        .build();
    pair.up.loss = 0.05;
    let (client, server) = pair.established();
    let took = transfer(&mut pair, client, server, 2 << 20).expect("delivered");
    let goodput = (2 << 20) as f64 / took.as_secs_f64();
    assert!((850_000.0..1_000_000.0).contains(&goodput), "{goodput}");
    let (sent, acked, lost) =
        (heard.sent.load(Relaxed), heard.acked.load(Relaxed), heard.lost.load(Relaxed));
    assert!(acked + lost <= sent && sent - acked - lost < 50, "{sent} {acked} {lost}");
    assert!(lost > sent / 40 && !heard.signals.lock().unwrap().is_empty());
}

#[test]
fn marks_reach_the_controller_and_are_off_when_asked() {
    for ecn in [true, false] {
        let heard = Arc::new(Heard::default());
        let factory: Arc<dyn CongestionFactory> =
            Arc::new(FixedFactory(Fixed { rate: 1_000_000, heard: heard.clone() }));
        let mut pair = Setup::new()
            .client(|c| c.options.congestion_control = CongestionControl::Custom(factory))
            .options(|o| o.ecn = ecn)
            .build();
        pair.up.mark = 0.1;
        let (client, server) = pair.established();
        transfer(&mut pair, client, server, 500_000).expect("delivered");
        let marked = heard.signals.lock().unwrap().iter().any(|signal| signal.marked);
        assert_eq!((marked, pair.seen_up.marked > 100), (ecn, ecn));
    }
}

#[test]
fn pacing_spreads_a_window_and_its_absence_does_not() {
    let mut bursts = Vec::new();
    for pacing in [true, false] {
        let mut pair = Setup::new()
            .options(|o| {
                o.pacing = pacing;
                o.initial_window_packets = 300;
            })
            .build();
        pair.links(|l| l.delay = Duration::from_millis(50));
        let (client, server) = pair.established();
        let opened =
            pair.client_conn(client).open(Direction::Unidirectional, OpenFlags::default()).unwrap();
        let Opened::Stream(stream) = opened else { panic!("allowed") };
        pair.client_conn(client)
            .send(stream, Bytes::from(pattern(300_000)), SendOptions::default())
            .unwrap();
        let before = pair.seen_up.bytes;
        pair.work();
        bursts.push(pair.seen_up.bytes - before);
        assert!(pair.server.connection(server).is_some());
    }
    assert!(bursts[0] < 100_000 && bursts[1] > 290_000, "{bursts:?}");
}

#[test]
fn a_rate_cap_holds() {
    let mut pair = Setup::new().client(|c| c.options.max_send_rate = Some(500_000)).build();
    let (client, server) = pair.established();
    let took = transfer(&mut pair, client, server, 2 << 20).expect("delivered");
    let rate = (2 << 20) as f64 / took.as_secs_f64();
    assert!((400_000.0..520_000.0).contains(&rate), "{rate}");
}

#[test]
fn the_window_starts_where_it_is_told_to_and_again_after_a_pause() {
    let first_flight = |packets, pause: Option<Duration>, idle| {
        let mut pair = Setup::new()
            .options(|o| {
                o.pacing = false;
                o.initial_window_packets = packets;
                o.send_idle_timeout = idle;
            })
            .build();
        pair.links(|l| l.delay = Duration::from_millis(100));
        let (client, server) = pair.established();
        pair.drive(Duration::from_secs(1));
        if let Some(pause) = pause {
            transfer(&mut pair, client, server, 2 << 20).unwrap();
            pair.drive(pause);
        }
        let opened =
            pair.client_conn(client).open(Direction::Unidirectional, OpenFlags::default()).unwrap();
        let Opened::Stream(stream) = opened else { panic!("allowed") };
        pair.client_conn(client)
            .send(stream, Bytes::from(pattern(1 << 20)), SendOptions::default())
            .unwrap();
        let before = pair.seen_up.datagrams;
        pair.work();
        pair.seen_up.datagrams - before
    };
    let second = Duration::from_secs(1);
    // Packets of the size that the handshake starts with; by now they are larger and so fewer.
    assert!((8..=14).contains(&first_flight(10, None, second)));
    assert!((33..=50).contains(&first_flight(40, None, second)));
    let grown = first_flight(10, Some(Duration::from_millis(300)), second);
    assert!(grown > 200, "without a pause the window is kept: {grown}");
    let afresh = first_flight(10, Some(Duration::from_secs(2)), second);
    assert!(afresh <= 14, "after one it is not: {afresh}");
    let kept = first_flight(10, Some(Duration::from_secs(2)), Duration::ZERO);
    assert!(kept > 200, "unless the option is off: {kept}");
}

#[test]
fn keys_are_updated_by_volume() {
    let mut pair = Setup::new().options(|o| o.max_bytes_per_key = 200_000).build();
    let (client, server) = pair.established();
    transfer(&mut pair, client, server, 2 << 20).expect("delivered");
    let updates = pair.client_conn(client).stats().key_updates;
    assert!((8..=11).contains(&updates), "{updates}");
}

#[test]
fn without_1rtt_encryption_the_bytes_are_readable_and_all_else_works() {
    let contains = |pair: &Pair| {
        let capture = pair.capture.as_ref().unwrap();
        capture.iter().any(|(_, datagram)| datagram.windows(10).any(|w| w == b"plain text"))
    };
    for (client_wants, server_wants) in [(true, true), (true, false), (false, true)] {
        let mut pair = Setup::new()
            .client(|c| c.options.disable_1rtt_encryption = client_wants)
            .server(|s| s.options.disable_1rtt_encryption = server_wants)
            .options(|o| o.datagram_states = true)
            .build();
        pair.links(|l| l.loss = 0.02);
        pair.capture = Some(Vec::new());
        let (client, server) = pair.established();
        let plain = client_wants && server_wants;
        for (events, id) in [(&pair.client_events, client), (&pair.server_events, server)] {
            let told = of(events, id)
                .any(|e| matches!(e, Event::Connected { encryption_disabled: true, .. }));
            assert_eq!(told, plain);
        }
        pair.client_conn(client)
            .send_datagram(Bytes::from_static(b"some plain text"), DatagramOptions::default())
            .unwrap();
        pair.client_conn(client).update_keys();
        transfer(&mut pair, client, server, 1 << 20).expect("delivered");
        assert_eq!(contains(&pair), plain);
    }
}

#[test]
fn the_path_mtu_is_found_and_a_smaller_one_later_too() {
    let mut pair = Setup::new().options(|o| o.maximum_mtu = 9_000).build();
    pair.links(|l| l.mtu = 4_000);
    pair.server_config.options();
    let (client, server) = pair.established();
    pair.drive(Duration::from_secs(10));
    // Peers are told to send 1,472 at most unless the endpoint says otherwise.
    assert_eq!(pair.client_conn(client).stats().mtu, 1_472);
    transfer(&mut pair, client, server, 100_000).expect("delivered");
    pair.links(|l| l.mtu = 1_260);
    let took = transfer(&mut pair, client, server, 1 << 20);
    let ends = |events: &[(ConnectionId, Event)]| {
        events
            .iter()
            .filter(|(_, e)| matches!(e, Event::TransportShutdown(_)))
            .map(|e| format!("{e:?}"))
            .collect::<Vec<_>>()
    };
    assert!(took.is_some(), "{:?} {:?}", ends(&pair.client_events), ends(&pair.server_events));
    let stats = pair.client_conn(client).stats();
    assert!(stats.mtu <= 1_260 && stats.black_holes == 1, "{stats:?}");
}

#[test]
fn large_packets_are_used_where_both_ends_and_the_path_take_them() {
    let mut setup = Setup::new().options(|o| o.maximum_mtu = 9_000);
    setup.client_endpoint.max_udp_payload = 8_972;
    setup.server_endpoint.max_udp_payload = 8_972;
    let mut pair = setup.build();
    pair.links(|l| l.mtu = 4_000);
    let (client, _) = pair.established();
    pair.drive(Duration::from_secs(20));
    let mtu = pair.client_conn(client).stats().mtu;
    assert!((3_950..=4_000).contains(&mtu), "{mtu}");
}

#[test]
fn acknowledgements_become_fewer_when_asked_for() {
    let mut counts = Vec::new();
    for ack_frequency in [None, Some(AckFrequency::default())] {
        let mut pair = Setup::new().options(|o| o.ack_frequency = ack_frequency).build();
        let (client, server) = pair.established();
        transfer(&mut pair, client, server, 4 << 20).expect("delivered");
        counts.push(pair.server_conn(server).stats().acks_sent);
    }
    assert!(counts[1] * 3 < counts[0], "{counts:?}");
}

/// `noq-proto` ends a connection whose stream holds more than 1,024 separate runs. True when this network does not get a transfer there.
fn survives(window: u64, rate: u64, seed: u64, change: impl Fn(&mut Link)) -> bool {
    let control = CongestionControl::Custom(Arc::new(Flood(rate)));
    let mut pair = Setup::new()
        .seed(seed)
        .client(|c| c.options.congestion_control = control)
        .server(|s| {
            s.options.stream_recv_window = window;
            s.options.risk_gap_overflow = window > 768_000;
        })
        .build();
    pair.links(|l| {
        l.delay = Duration::from_millis(100);
        l.jitter = Duration::from_millis(30);
    });
    let (client, server) = pair.established();
    change(&mut pair.up);
    let opened =
        pair.client_conn(client).open(Direction::Unidirectional, OpenFlags::default()).unwrap();
    let Opened::Stream(stream) = opened else { panic!("allowed") };
    let data = pattern(2 << 20);
    let (mut at, mut got) = (0, Vec::new());
    pair.drive_until(Duration::from_secs(20), |pair| {
        if pair.server.connection(server).is_none() || pair.client.connection(client).is_none() {
            return true;
        }
        while at < data.len()
            && let Ok(n) = pair.client_conn(client).write(stream, &data[at..])
        {
            at += n;
        }
        read_all(&mut pair.server_conn(server), stream, &mut got);
        got.len() == data.len()
    });
    assert!(data.starts_with(&got));
    let ended = |(_, event): &(ConnectionId, Event)| matches!(event, Event::TransportShutdown(_));
    !pair.server_events.iter().chain(&pair.client_events).any(ended)
}

#[test]
fn no_network_drives_a_stream_into_too_many_gaps() {
    let window = Options::default().stream_recv_window;
    assert!(survives(window, 12_500_000, 1, |l| l.alternate = true));
    for (seed, loss) in [0.1, 0.3, 0.5].into_iter().enumerate() {
        assert!(survives(window, 125_000_000, seed as u64, |l| l.loss = loss), "loss {loss}");
    }
}

/// The trap itself, so that it shows when the engine has it no more.
#[test]
fn a_larger_window_is_a_risk_on_a_path_that_loses() {
    assert!(!survives(4 << 20, 125_000_000, 1, |l| l.loss = 0.1));
}

/// Sends at a fixed rate whatever is lost.
#[derive(Debug)]
struct Flood(u64);

impl CongestionFactory for Flood {
    fn build(&self, _: Instant, _: u16, _: u64) -> Box<dyn CongestionController> {
        Box::new(Wide(self.0))
    }
}

#[derive(Clone, Debug)]
struct Wide(u64);

impl CongestionController for Wide {
    fn on_packet_sent(&mut self, _: Instant, _: u64, _: u64) {}
    fn on_packet_acked(&mut self, _: &AckedPacket) {}
    fn on_acks_end(&mut self, _: Instant, _: u64, _: bool) {}
    fn on_packet_lost(&mut self, _: Instant, _: u64, _: u64) {}
    fn on_congestion(&mut self, _: &CongestionSignal) {}
    fn on_mtu_update(&mut self, _: u16) {}
    fn window(&self) -> u64 {
        64 << 20
    }
    fn initial_window(&self) -> u64 {
        64 << 20
    }
    fn pacing_rate(&self) -> Option<u64> {
        Some(self.0)
    }
    fn clone_box(&self) -> Box<dyn CongestionController> {
        Box::new(self.clone())
    }
}

#[derive(Debug)]
struct Trace(Arc<Mutex<Vec<u8>>>);

impl QlogSink for Trace {
    fn open(
        &self,
        _: Side,
        _: std::net::SocketAddr,
        dcid: &[u8],
    ) -> Option<Box<dyn std::io::Write + Send + Sync>> {
        assert_eq!(dcid.len(), 16);
        Some(Box::new(Writer(self.0.clone())))
    }
}

struct Writer(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_qlog_trace_can_be_had_with_its_feature_and_is_refused_without() {
    let text = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::new(Trace(text.clone()));
    if cfg!(not(feature = "qlog")) {
        let mut settings = client_settings();
        settings.options.qlog = Some(sink);
        let error = ClientConfig::new(settings).unwrap_err();
        assert!(matches!(&error, ConfigError::Refused { option: "qlog", .. }), "{error}");
        assert!(error.to_string().contains("Cargo feature `qlog`"), "{error}");
        return;
    }
    let mut pair = Setup::new().client(|c| c.options.qlog = Some(sink)).build();
    let (client, server) = pair.established();
    transfer(&mut pair, client, server, 10_000).expect("delivered");
    let text = String::from_utf8(text.lock().unwrap().clone()).unwrap();
    assert!(
        text.contains("packet_sent")
            && text.contains("packet_received")
            && text.lines().count() > 20
    );
}
