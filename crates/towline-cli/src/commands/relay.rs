//! `towline relay`: carries coded flows on to where they go, without any key to them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};
use towline::bats::{
    HopAddress, Pattern, Relay, RelayBuilder, RelayEvent, RelaySettings, RelayStats, RelayTotals,
};
use towline::tls::Pin;
use towline::{Address, Config, Wire};

use crate::failure::{Failure, Outcome};
use crate::interrupt::{Interrupt, Signal};
use crate::metrics::{Counters, MetricsOption, Page};
use crate::output::{Notes, Output};
use crate::tls::ServerTls;
use crate::units;

/// Carry coded flows (bats://) on to their next hop, recoding on the way.
///
/// A relay has no key to what it carries. It goes on to the node that the sender names, if --allow has it, or else to --next. After
/// SIGTERM it takes no new flows, lets those that pass end within --drain, and ends with 0.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    towline relay bats://0.0.0.0:7000 --next server.example:7000 --cert FILE --key FILE\n  \
    towline relay bats://[::]:7000 --allow '*.example:7000' --allow 10.0.0.0/8:*\n  \
    towline relay bats://127.0.0.1:0 --allow '*' --next-ca ca.pem --announce --json --interval 1s")]
pub(crate) struct Arguments {
    /// Where to listen, such as bats://0.0.0.0:7000; port 0 is any free one.
    url: String,
    /// Where flows go that do not say so themselves.
    #[arg(long, value_name = "HOST:PORT")]
    next: Option<HopAddress>,
    /// Where senders may have their flows go: host:port, where the host may be *, *.domain, or a network such as 10.0.0.0/8, and the port *; * alone is
    /// everywhere. May be repeated. Without it, nowhere but to --next.
    #[arg(long, value_name = "PATTERN")]
    allow: Vec<Pattern>,
    /// Flows at one time.
    #[arg(long, value_name = "NUMBER", default_value = "1024")]
    max_flows: usize,
    /// Memory for packets of all flows together.
    #[arg(long, value_name = "BYTES", default_value = "2G", value_parser = units::size)]
    max_memory: u64,
    /// Trust next hops whose certificate is signed by the CAs in this PEM file, and no longer the system's; may be repeated.
    #[arg(long, value_name = "FILE")]
    next_ca: Vec<std::path::PathBuf>,
    /// Trust only next hops with this pin; may be repeated.
    #[arg(long, value_name = "PIN")]
    next_pin: Vec<Pin>,
    /// Accept any certificate of next hops. What flows carry is sealed from end to end all the same, but anyone can pose as the next hop.
    #[arg(long, conflicts_with_all = ["next_ca", "next_pin"])]
    next_insecure: bool,
    /// After a signal, how long flows may take to end by themselves.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = units::duration)]
    drain: Duration,
    /// Print `listening URL` with the real port as the first line on standard output.
    #[arg(long)]
    announce: bool,
    /// Print statistics as often.
    #[arg(short, long, value_name = "TIME", value_parser = units::duration)]
    interval: Option<Duration>,
    /// Print statistics as JSON, one object per line.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    metrics: MetricsOption,
    #[command(flatten)]
    tls: ServerTls,
}

/// The host and port of a bats:// URL.
fn parse(url: &str) -> Outcome<Address> {
    match Address::parse(url)? {
        address if address.wire() == Wire::Bats && address.path() == "/" => Ok(address),
        _ => Err(Failure::Usage(format!("a relay listens on bats://host:port, not on `{url}`"))),
    }
}

pub(crate) fn run(arguments: &Arguments, notes: &Notes, interrupt: &Interrupt) -> Outcome {
    let address = parse(&arguments.url)?;
    if arguments.next.is_none() && arguments.allow.is_empty() {
        return Err(Failure::usage(
            "nothing could go on from here: say --next HOST:PORT, or --allow PATTERN (* is everywhere)",
        ));
    }
    let server = arguments.tls.apply(Config::builder(), &address, notes)?.build()?;
    let mut client = Config::builder();
    for file in &arguments.next_ca {
        client = client.ca_file(file);
    }
    for pin in &arguments.next_pin {
        client = client.pin(*pin);
    }
    if arguments.next_insecure {
        notes.warn("--next-insecure: the certificates of next hops are not checked");
        client = client.dangerous_accept_any_certificate();
    }
    let settings = RelaySettings {
        next: arguments.next.clone(),
        allow: arguments.allow.clone(),
        max_memory: arguments.max_memory,
        ..RelaySettings::default()
    };
    let builder = RelayBuilder::new(&server, &client.build()?, settings);
    let (host, port) = (address.host(), address.port());
    let listen =
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let log = *notes;
    let relay = builder
        .max_flows(arguments.max_flows)
        .start(&listen, move |event| tell(&log, event))
        .map_err(Failure::failed)?;
    let relay = Arc::new(relay);
    let watched = Arc::downgrade(&relay);
    let more = move |page: &mut Page| {
        if let Some(totals) = watched.upgrade().and_then(|relay| relay.totals()) {
            render(&totals, page);
        }
    };
    let metrics = arguments.metrics.serve(Arc::new(Counters::default()), more, notes)?;
    let mut output = Output::open()?;
    let url = format!("bats://{}", relay.local_address());
    if arguments.announce {
        output.line(&format!("listening {url}"))?;
    }
    notes.detail(&format!("listening on {url}"));
    let outcome = watch(arguments, &relay, interrupt, &mut output);
    drop(metrics);
    if let Some(totals) = Arc::into_inner(relay).and_then(|relay| relay.stop(arguments.drain)) {
        print(arguments, &totals, &mut output)?;
    }
    match outcome {
        Err(Failure::Interrupted(Signal::Terminate)) => Ok(()),
        outcome => outcome,
    }
}

fn tell(notes: &Notes, event: &RelayEvent) {
    match event {
        RelayEvent::Opened { from, to, .. } => notes.detail(&format!("flow from {from} to {to}")),
        RelayEvent::Refused { from, reason, .. } => {
            notes.info(&format!("flow from {from} refused: {reason}"));
        }
        RelayEvent::Closed { reason, .. } if !reason.is_empty() => {
            notes.detail(&format!("flow over: {reason}"));
        }
        _ => {}
    }
}

fn watch(
    arguments: &Arguments,
    relay: &Relay,
    interrupt: &Interrupt,
    output: &mut Output,
) -> Outcome {
    let Some(interval) = arguments.interval.filter(|interval| !interval.is_zero()) else {
        return Err(crate::interrupt::block_on(interrupt.watch()).into());
    };
    let mut next = Instant::now() + interval;
    loop {
        interrupt.sleep_until(next)?;
        let totals = relay.totals().ok_or_else(|| Failure::failed("the relay has ended"))?;
        print(arguments, &totals, output)?;
        next = (next + interval).max(Instant::now());
    }
}

fn print(arguments: &Arguments, totals: &RelayTotals, output: &mut Output) -> Outcome {
    let text = match arguments.json {
        true => to_json(totals).to_string(),
        false => to_text(totals),
    };
    Ok(output.line(&text)?)
}

fn render(totals: &RelayTotals, page: &mut Page) {
    page.gauge("towline_relay_flows", "Flows that pass now.", totals.flows as f64);
    page.counter("towline_relay_opened_flows", "Flows that were let pass.", totals.opened as f64);
    let refused: u64 = totals.refused.values().sum();
    page.counter("towline_relay_refused_flows", "Flows that were refused.", refused as f64);
    page.gauge("towline_relay_held_packets", "Packets kept to recode from.", totals.held as f64);
    let [to_servers, to_clients] = &totals.packets;
    let both = |count: fn(&RelayStats) -> u64| [count(to_servers), count(to_clients)];
    page.directions(
        "towline_relay_forwarded_packets",
        "Packets that went on as they came; up is towards servers.",
        both(|stats| stats.forwarded),
    );
    page.directions(
        "towline_relay_recoded_packets",
        "Packets that were made of others.",
        both(|stats| stats.recoded),
    );
    let dropped = |stats: &RelayStats| {
        let dropped = &stats.dropped;
        dropped.redundant + dropped.malformed + dropped.over_credit + dropped.early
    };
    page.directions("towline_relay_dropped_packets", "Packets that were of no use.", both(dropped));
}

fn direction(stats: &RelayStats) -> Value {
    let dropped = &stats.dropped;
    json!({
        "received": stats.received, "forwarded": stats.forwarded, "recoded": stats.recoded, "repaired": stats.repaired,
        "protective": stats.protective, "protective_withheld": stats.protective_withheld, "reports": stats.reports,
        "dropped": {
            "redundant": dropped.redundant, "malformed": dropped.malformed, "over_credit": dropped.over_credit,
            "early": dropped.early, "evicted_batches": dropped.evicted_batches,
        },
    })
}

fn to_json(totals: &RelayTotals) -> Value {
    let mut refused: Vec<_> =
        totals.refused.iter().map(|(kind, count)| (format!("{kind:?}"), *count)).collect();
    refused.sort();
    let refused: serde_json::Map<String, Value> =
        refused.into_iter().map(|(kind, count)| (kind, count.into())).collect();
    let [down, up] = &totals.packets;
    json!({
        "flows": totals.flows, "opened": totals.opened, "refused": refused, "held": totals.held, "promised_bytes": totals.promised,
        "to_servers": direction(down), "to_clients": direction(up),
    })
}

fn to_text(totals: &RelayTotals) -> String {
    let [down, up] = &totals.packets;
    let refused: u64 = totals.refused.values().sum();
    let line = |stats: &RelayStats| {
        let dropped = &stats.dropped;
        let all = dropped.redundant + dropped.malformed + dropped.over_credit + dropped.early;
        format!(
            "{} forwarded, {} recoded, {} repaired, {all} dropped",
            stats.forwarded, stats.recoded, stats.repaired
        )
    };
    format!(
        "{} flows, {} passed, {refused} refused; to servers: {}; to clients: {}",
        totals.flows,
        totals.opened,
        line(down),
        line(up)
    )
}
