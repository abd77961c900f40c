//! `towline link`: a bad network in real time, for any program.

mod path;
mod report;
mod runtime;
mod shape;
mod tcp;
mod udp;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Args;

pub(crate) use self::runtime::{Proxy, Running, Spec};
pub(crate) use self::shape::Shape;
use crate::failure::{Failure, Outcome};
use crate::interrupt::{Interrupt, Signal};
use crate::metrics::{Counters, MetricsOption, Page};
use crate::output::{Notes, Output};
use crate::units;

/// Bytes that one TCP connection may have under way.
pub(crate) const WINDOW: u64 = 16 << 20;

/// Carry datagrams and connections over an emulated network: rate, delay, jitter, loss, reordering, outages.
///
/// It is the laboratory's link, driven by the clock: the same seed loses the same packets. Datagrams are carried as they are. A TCP
/// connection ends here on both sides; between them its bytes cross the link in segments of an emulated TCP (CUBIC, selective
/// acknowledgements, time-outs), so that loss and delay do to it what they do to a real one. SIGINT prints the statistics.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    towline link --udp 127.0.0.1:7001=127.0.0.1:7000 --rate 100M --delay 30ms --loss 2%\n  \
    towline link --tcp 127.0.0.1:2222=127.0.0.1:22 --rate 1G --delay 50ms --loss 2% --queue 11ms --bucket 10ms\n  \
    towline link --udp 127.0.0.1:0=192.0.2.7:443 --announce --up rate=5M --down rate=50M --outage 10s+2s --json")]
pub(crate) struct Arguments {
    /// Carry datagrams that come to LISTEN to TARGET, and the answers back; may be repeated.
    #[arg(long, value_name = "LISTEN=TARGET", value_parser = shape::parse_proxy)]
    udp: Vec<Proxy>,
    /// Carry connections in the same way; may be repeated.
    #[arg(long, value_name = "LISTEN=TARGET", value_parser = shape::parse_proxy)]
    tcp: Vec<Proxy>,
    #[command(flatten)]
    shape: Shape,
    /// Repeat a run: the seed decides which packets are lost, late, or come twice.
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// Bytes that one TCP connection may have under way.
    #[arg(long, value_name = "BYTES", default_value = "16M", value_parser = units::size)]
    tcp_window: u64,
    /// End after this time; without it a signal ends it.
    #[arg(short, long, value_name = "TIME", value_parser = units::duration)]
    time: Option<Duration>,
    /// Print statistics as often.
    #[arg(short, long, value_name = "TIME", value_parser = units::duration)]
    interval: Option<Duration>,
    /// Print `listening udp://ADDRESS` or `listening tcp://ADDRESS` for each port, first those of --udp.
    #[arg(long)]
    announce: bool,
    /// Print statistics as JSON, one object per line.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    metrics: MetricsOption,
}

/// Whether a wire crosses the link as datagrams, and not as connections.
pub(crate) fn is_datagram(scheme: &str) -> bool {
    matches!(scheme, "quic" | "bats" | "udp")
}

/// A seed that nobody asked for.
pub(crate) fn any_seed() -> u64 {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::from(clock.subsec_nanos())
}

pub(crate) fn run(arguments: &Arguments, notes: &Notes, interrupt: &Interrupt) -> Outcome {
    if arguments.udp.is_empty() && arguments.tcp.is_empty() {
        return Err(Failure::usage(
            "nothing to carry: say --udp LISTEN=TARGET or --tcp LISTEN=TARGET",
        ));
    }
    if !(64 << 10..=1 << 30).contains(&arguments.tcp_window) {
        return Err(Failure::usage("--tcp-window must be from 64K to 1G"));
    }
    let (up, down) = arguments.shape.links()?;
    let seed = arguments.seed.unwrap_or_else(any_seed);
    let spec = Spec {
        seed,
        up,
        down,
        udp: arguments.udp.clone(),
        tcp: arguments.tcp.clone(),
        window: arguments.tcp_window,
        incidents: arguments.shape.incidents(),
    };
    let running = Arc::new(Running::start(spec).map_err(Failure::failed)?);
    let own = Arc::clone(&running);
    let more = move |page: &mut Page| {
        if let Some(snapshot) = own.snapshot() {
            report::to_page(&snapshot, page);
        }
    };
    let metrics = arguments.metrics.serve(Arc::new(Counters::default()), more, notes)?;
    let mut output = Output::open()?;
    let listening = [("udp", &running.udp, &arguments.udp), ("tcp", &running.tcp, &arguments.tcp)];
    for (kind, addresses, proxies) in listening {
        for (address, proxy) in addresses.iter().zip(proxies) {
            notes.info(&format!("{kind} {address} is {} over the link", proxy.target));
            if arguments.announce {
                output.line(&format!("listening {kind}://{address}"))?;
            }
        }
    }
    let outcome = watch(arguments, &running, seed, interrupt, &mut output);
    let last = running.snapshot().ok_or_else(|| Failure::failed("the system refused to wait"))?;
    drop((metrics, running));
    print(arguments, &last, seed, &mut output)?;
    match outcome {
        // A service that is asked to end ends well.
        Err(Failure::Interrupted(Signal::Terminate)) => Ok(()),
        outcome => outcome,
    }
}

fn print(
    arguments: &Arguments,
    snapshot: &runtime::Snapshot,
    seed: u64,
    output: &mut Output,
) -> Outcome {
    let text = match arguments.json {
        true => report::to_json(snapshot, seed).to_string(),
        false => report::to_text(snapshot, seed),
    };
    Ok(output.line(&text)?)
}

/// Prints statistics until the time is over or a signal comes.
fn watch(
    arguments: &Arguments,
    running: &Running,
    seed: u64,
    interrupt: &Interrupt,
    output: &mut Output,
) -> Outcome {
    let begin = Instant::now();
    let end = arguments.time.map(|time| begin + time);
    let interval = arguments.interval.filter(|interval| !interval.is_zero());
    let mut next = interval.map(|interval| begin + interval);
    loop {
        let wake = [end, next].into_iter().flatten().min();
        match wake {
            Some(wake) => interrupt.sleep_until(wake)?,
            None => return Err(crate::interrupt::block_on(interrupt.watch()).into()),
        }
        let now = Instant::now();
        if end.is_some_and(|end| now >= end) {
            return Ok(());
        }
        let snapshot =
            running.snapshot().ok_or_else(|| Failure::failed("the system refused to wait"))?;
        print(arguments, &snapshot, seed, output)?;
        if let (Some(at), Some(interval)) = (&mut next, interval) {
            while *at <= now {
                *at += interval;
            }
        }
    }
}
