//! What an emulated link did, as text and as JSON.

use serde_json::{Value, json};
use towline_sim::LinkStats;

use super::runtime::Snapshot;
use crate::metrics::Page;
use crate::output::{json::SCHEMA_VERSION, text};
use crate::units::{show_bytes, show_rate, show_time};

fn per_second(count: u64, snapshot: &Snapshot) -> f64 {
    let seconds = snapshot.elapsed.as_secs_f64();
    if seconds > 0.0 { count as f64 / seconds } else { 0.0 }
}

fn direction(stats: &LinkStats, snapshot: &Snapshot) -> Value {
    json!({
        "offered_packets": stats.offered.packets,
        "offered_bytes": stats.offered.bytes,
        "delivered_packets": stats.delivered.packets,
        "delivered_bytes": stats.delivered.bytes,
        "delivered_bits_per_second": per_second(stats.delivered.bytes * 8, snapshot),
        "lost": stats.dropped_loss.packets,
        "dropped_queue": stats.dropped_queue.packets,
        "dropped_outage": stats.dropped_outage.packets,
        "dropped_mtu": stats.dropped_mtu.packets,
        "duplicated": stats.duplicated,
        "reordered": stats.reordered,
        "corrupted": stats.corrupted,
        "queue_us": {
            "p50": stats.queue_delay.percentile(50).as_micros() as u64,
            "p99": stats.queue_delay.percentile(99).as_micros() as u64,
            "max": stats.queue_delay.max().as_micros() as u64,
        },
        "max_queued_bytes": stats.max_queued_bytes,
    })
}

/// One object.
pub(super) fn to_json(snapshot: &Snapshot, seed: u64) -> Value {
    let late = |quantile| snapshot.lateness.value_at_quantile(quantile) as f64 / 1000.0;
    json!({
        "schema_version": SCHEMA_VERSION,
        "seed": seed,
        "seconds": snapshot.elapsed.as_secs_f64(),
        "up": direction(&snapshot.up, snapshot),
        "down": direction(&snapshot.down, snapshot),
        "udp": {
            "flows": snapshot.udp.flows,
            "refused": snapshot.udp.refused,
            "dropped_by_sockets": snapshot.udp.dropped,
        },
        "tcp": {
            "connections": snapshot.tcp.connections,
            "refused": snapshot.tcp.refused,
            "cut": snapshot.tcp.cut,
            "retransmits": snapshot.tcp.retransmits,
        },
        "lateness_us": {"p50": late(0.5), "p99": late(0.99), "max": snapshot.lateness.max() as f64 / 1000.0},
    })
}

/// For scrapers.
pub(super) fn to_page(snapshot: &Snapshot, page: &mut Page) {
    let both = [&snapshot.up, &snapshot.down];
    let bytes = both.map(|stats| stats.delivered.bytes);
    page.directions("towline_link_delivered_bytes", "Bytes delivered, headers included.", bytes);
    let packets = both.map(|stats| stats.delivered.packets);
    page.directions("towline_link_delivered_packets", "Packets delivered.", packets);
    let lost = both.map(LinkStats::dropped);
    page.directions("towline_link_lost_packets", "Packets lost or dropped for any reason.", lost);
}

/// A table.
pub(super) fn to_text(snapshot: &Snapshot, seed: u64) -> String {
    let row = |name: &str, stats: &LinkStats| -> Vec<String> {
        vec![
            name.to_owned(),
            stats.offered.packets.to_string(),
            stats.delivered.packets.to_string(),
            show_bytes(stats.delivered.bytes as f64),
            show_rate(per_second(stats.delivered.bytes * 8, snapshot)),
            stats.dropped_loss.packets.to_string(),
            stats.dropped_queue.packets.to_string(),
            (stats.dropped_outage.packets + stats.dropped_mtu.packets).to_string(),
            stats.duplicated.to_string(),
            show_time(stats.queue_delay.percentile(99)),
        ]
    };
    let head = [
        "direction",
        "offered",
        "delivered",
        "bytes",
        "rate",
        "lost",
        "queue full",
        "outage, MTU",
        "twice",
        "queue p99",
    ];
    let head = head.map(str::to_owned).to_vec();
    let late = std::time::Duration::from_nanos(snapshot.lateness.value_at_quantile(0.99));
    format!(
        "{}{:.1} s, {} flows, {} connections, {} segments sent again; 99 % of packets at most {} late; --seed {seed} repeats it",
        text::table(&[head, row("up", &snapshot.up), row("down", &snapshot.down)]),
        snapshot.elapsed.as_secs_f64(),
        snapshot.udp.flows,
        snapshot.tcp.connections,
        snapshot.tcp.retransmits,
        show_time(late),
    )
}
