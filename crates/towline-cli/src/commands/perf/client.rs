//! `towline perf client`: runs a measurement against `towline perf server`.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};
use towline::{Address, Config, Connection, Endpoint, IntoAddresses};

use super::chart::{Chart, draw};
use super::control::{self, Plan, Scenario, Tally};
use super::flow::{Flow, FlowHandler, News};
use super::report::{Found, Interval, Report, Style};
use super::sender;
use super::{compare, handshakes};
use crate::failure::{Failure, Outcome};
use crate::interrupt::{Interrupt, Signal};
use crate::output::Notes;
use crate::tls::ClientTls;
use crate::units;

/// Bytes of a message in bulk, as iperf3 has it for TCP.
const BULK: usize = 128 << 10;

/// Bytes of a request.
const REQUEST: usize = 64;

/// Bytes accepted for sending and not acknowledged: what `-t` may overrun.
const SEND_QUEUE: usize = 4 << 20;

/// How often the client looks up: probes are sent as often, one per connection.
const TICK: Duration = Duration::from_millis(20);

/// How long the server may take for an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// The same after a signal.
const HURRY: Duration = Duration::from_secs(1);

/// Measure a connection to a perf server: throughput, message rate, round trips, CPU time.
///
/// Options are iperf3's where it has them. Sizes take the suffixes K, M, G and T in powers of 1024, rates in powers of 1000.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    towline perf client tcp://192.0.2.7:5201 -t 5\n  \
    towline perf client tls://192.0.2.7:5201 --pin sha256:... -n 1G -P 4 -R --json\n  \
    towline perf client tcp://192.0.2.7:5201 --scenario latency -l 64\n  \
    towline perf client --compare tcp,tls,ws -t 3")]
pub(crate) struct Arguments {
    /// The server, such as tcp://192.0.2.7:5201; with --compare nothing.
    #[arg(required_unless_present = "compare", conflicts_with = "compare")]
    url: Option<String>,
    /// Seconds to measure.
    #[arg(short, long, value_name = "SECONDS", default_value = "10", value_parser = units::duration, conflicts_with = "bytes")]
    time: Duration,
    /// Bytes to send on each connection, in place of a time.
    #[arg(short = 'n', long, value_name = "BYTES", value_parser = units::size)]
    bytes: Option<u64>,
    /// Seconds between reports; 0 for none.
    #[arg(short, long, value_name = "SECONDS", default_value = "1", value_parser = units::duration)]
    interval: Duration,
    /// Connections beside each other.
    #[arg(short = 'P', long, value_name = "CONNECTIONS", default_value = "1", value_parser = clap::value_parser!(u64).range(1..=1024))]
    parallel: u64,
    /// Bytes of a message [default: 128K in bulk, at most what the wire takes; 64 in requests]
    #[arg(short, long, value_name = "LENGTH", value_parser = units::size)]
    length: Option<u64>,
    /// Bits per second of each connection at most.
    #[arg(short, long, value_name = "RATE", value_parser = units::rate)]
    bitrate: Option<u64>,
    /// The server sends, and the client receives: the same as --scenario download.
    #[arg(short = 'R', long, conflicts_with = "scenario")]
    reverse: bool,
    /// Both directions at once, each on connections of its own.
    #[arg(long, conflicts_with_all = ["reverse", "scenario"])]
    bidir: bool,
    /// What is measured.
    #[arg(long, value_enum, default_value = "upload")]
    pub(super) scenario: Scenario,
    /// Leave out the first seconds, which come on top of --time.
    #[arg(short = 'O', long, value_name = "SECONDS", default_value = "0", value_parser = units::duration, conflicts_with = "bytes")]
    omit: Duration,
    /// Measure these wires in turn against a server in this process, over an emulated link if one is described, and print one table.
    #[arg(long, value_name = "WIRE,...", value_delimiter = ',')]
    pub(super) compare: Vec<String>,
    /// Draw throughput and round trips over time.
    #[arg(long, value_name = "FILE")]
    svg: Option<std::path::PathBuf>,
    /// Show a chart on the terminal while it runs.
    #[arg(long)]
    live: bool,
    /// Requests under way at once, with --scenario rps.
    #[arg(long, value_name = "NUMBER", default_value = "64", value_parser = clap::value_parser!(u64).range(1..=65_536))]
    in_flight: u64,
    /// Print one JSON object with iperf3's keys in place of text.
    #[arg(short = 'J', long)]
    pub(super) json: bool,
    /// Print one JSON object per line while it runs: start, interval and end events.
    #[arg(long, conflicts_with = "json")]
    json_stream: bool,
    #[command(flatten)]
    io: super::Io,
    #[command(flatten)]
    pub(super) tls: ClientTls,
    #[command(flatten)]
    pub(super) shape: crate::commands::link::Shape,
}

impl Arguments {
    fn style(&self) -> Style {
        match (self.json, self.json_stream) {
            (true, _) => Style::Json,
            (_, true) => Style::Stream,
            _ => Style::Text,
        }
    }
}

/// One connection.
struct Lane {
    connection: Connection,
    flow: Arc<Flow>,
    news: Receiver<News>,
    /// Download: what the server says that it sent.
    sent: Option<Value>,
    /// Upload: messages that the peer has, as last reported.
    delivered: Cell<u64>,
}

impl Lane {
    /// Messages of the measurement: sent by an upload, else received.
    fn messages(&self) -> u64 {
        self.flow.messages.load(Ordering::Relaxed)
    }

    /// Messages that the peer surely has: what is still queued or under way does not count yet. Never fewer than before.
    fn delivered(&self) -> u64 {
        // In this order, so that what is sent meanwhile makes it fewer and not more.
        let sent = self.messages();
        let there = sent.saturating_sub(self.connection.stats().unacknowledged);
        self.delivered.set(self.delivered.get().max(there));
        self.delivered.get()
    }

    /// Messages and bytes.
    fn received(&self) -> (u64, u64) {
        (self.messages(), self.flow.bytes.load(Ordering::Relaxed))
    }
}

pub(super) fn run(arguments: &Arguments, notes: &Notes, interrupt: &Interrupt) -> Outcome {
    if arguments.bytes.is_none() && (arguments.time.is_zero() || arguments.time > control::MAX_TIME)
    {
        return Err(Failure::usage("--time must be above 0 and at most a day"));
    }
    let Some(url) = &arguments.url else { return compare::run(arguments, notes, interrupt) };
    let (found, interrupted) =
        measure_with(arguments, &arguments.tls, url, arguments.style(), notes, interrupt)?;
    if let Some(path) = &arguments.svg {
        std::fs::write(path, draw(&found)).map_err(|error| {
            Failure::Failed(format!("cannot write {}: {error}", path.display()))
        })?;
    }
    let mut output = crate::output::Output::open()?;
    match arguments.style() {
        Style::Text => {
            output.line(&found.iter().map(|one| &*one.summary).collect::<Vec<_>>().join("\n"))?
        }
        Style::Json => output.line(&merged(&found).to_string())?,
        Style::Stream => {
            let end = merged(&found);
            output.line(&json!({"event": "end", "data": end["end"]}).to_string())?;
        }
        Style::Silent => {}
    }
    interrupted.map_or(Ok(()), |signal| Err(signal.into()))
}

/// Measures one wire: one result, or two when both directions were asked for.
pub(super) fn measure_with(
    arguments: &Arguments,
    tls: &ClientTls,
    url: &str,
    style: Style,
    notes: &Notes,
    interrupt: &Interrupt,
) -> Outcome<(Vec<Found>, Option<Signal>)> {
    let address = Address::parse(url)?;
    let scenario = if arguments.reverse { Scenario::Download } else { arguments.scenario };
    let addresses = address.clone().into_addresses()?;
    let builder = Config::builder().send_queue_bytes(SEND_QUEUE);
    let config = tls.apply(builder, &addresses, notes)?.build()?;
    let context = arguments.io.context()?;
    let endpoint = Endpoint::new(&context, &config);
    if scenario == Scenario::Hps {
        let found =
            handshakes::run(&endpoint, &address, arguments.time, arguments.parallel, interrupt)?;
        return Ok((vec![found], interrupt.signal()));
    }
    let prepare = |scenario: Scenario, style: Style| -> Outcome<Measurement<'_>> {
        let mut lanes = Vec::new();
        for _ in 0..arguments.parallel {
            let (tell, news) = mpsc::channel();
            let flow = Flow::new();
            let ping_pong = scenario.is_ping_pong();
            let handler = FlowHandler { flow: Arc::clone(&flow), ping_pong, news: tell };
            let connection = interrupt.wait_for(endpoint.connect_with(&address, handler))??;
            lanes.push(Lane { connection, flow, news, sent: None, delivered: Cell::new(0) });
        }
        let plan = plan(arguments, scenario, &lanes)?;
        let connections = lanes.iter().map(|lane| &lane.connection);
        let report = Report::new(&address, &context, &plan, arguments.omit, connections);
        let chart = (arguments.live && style != Style::Silent).then(|| Chart::new(notes));
        Ok(Measurement {
            lanes,
            plan,
            in_flight: if scenario == Scenario::Rps { arguments.in_flight } else { 1 },
            interval: arguments.interval,
            omit: arguments.omit,
            base: None,
            interrupt,
            report,
            style,
            chart,
        })
    };
    if !arguments.bidir {
        let (found, signal) = prepare(scenario, style)?.whole()?;
        return Ok((vec![found], signal));
    }
    let mut up = prepare(Scenario::Upload, style)?;
    let mut down = prepare(Scenario::Download, Style::Silent)?;
    std::thread::scope(|scope| {
        let other = scope.spawn(move || down.whole());
        let up = up.whole();
        let down =
            other.join().map_err(|_| Failure::failed("the other direction's thread panicked"))?;
        let ((up, signal), (down, _)) = (up?, down?);
        Ok((vec![up, down], signal))
    })
}

/// One document; the other direction of both has iperf3's keys.
fn merged(found: &[Found]) -> Value {
    let mut whole = found.first().map(|one| one.document.clone()).unwrap_or_default();
    if let Some(other) = found.get(1) {
        for key in ["sum_sent", "sum_received"] {
            whole["end"][format!("{key}_bidir_reverse")] = other.document["end"][key].clone();
        }
        let reverse = other.document["intervals"].as_array().cloned().unwrap_or_default();
        if let Some(intervals) = whole["intervals"].as_array_mut() {
            for (interval, other) in intervals.iter_mut().zip(reverse) {
                interval["sum_bidir_reverse"] = other["sum"].clone();
            }
        }
    }
    whole
}

fn plan(arguments: &Arguments, scenario: Scenario, lanes: &[Lane]) -> Outcome<Plan> {
    let most = lanes.iter().map(|lane| lane.connection.capabilities().max_message).min();
    let most = most.unwrap_or(BULK);
    let length = match arguments.length {
        Some(length) => usize::try_from(length).unwrap_or(usize::MAX),
        None if scenario.is_ping_pong() => REQUEST,
        None => BULK.min(most),
    };
    if !(1..=most).contains(&length) {
        return Err(Failure::Usage(format!("--length must be from 1 to {most} on this wire")));
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let port = lanes.first().and_then(|lane| lane.connection.local_address());
    let test = format!(
        "{:x}-{:x}-{:x}",
        now.unwrap_or_default().as_nanos(),
        std::process::id(),
        port.map_or(0, |address| address.port())
    );
    Ok(Plan {
        test,
        connections: arguments.parallel,
        scenario,
        length,
        time: arguments.time + arguments.omit,
        bytes: arguments.bytes,
        rate: arguments.bitrate,
    })
}

struct Measurement<'a> {
    lanes: Vec<Lane>,
    plan: Plan,
    in_flight: u64,
    interval: Duration,
    omit: Duration,
    /// What had been counted when the omitted time was over.
    base: Option<Base>,
    interrupt: &'a Interrupt,
    report: Report,
    style: Style,
    chart: Option<Chart>,
}

/// The state at a moment.
struct Base {
    cpu: f64,
    seconds: f64,
    /// Messages and bytes of each connection.
    counts: Vec<(u64, u64)>,
}

impl Measurement<'_> {
    /// Runs, and ends the connections.
    fn whole(&mut self) -> Outcome<(Found, Option<Signal>)> {
        let outcome = self.run();
        for lane in &self.lanes {
            match &outcome {
                Ok(_) => drop(self.interrupt.wait_for(lane.connection.close())),
                Err(_) => lane.connection.abort(),
            }
        }
        outcome
    }

    fn run(&mut self) -> Outcome<(Found, Option<Signal>)> {
        self.report.begin(self.style)?;
        // The server begins a download when it is asked, not when its answer has come.
        let begin = Instant::now();
        let cpu = control::cpu_time();
        for lane in &self.lanes {
            let start = control::message(&self.plan.to_json());
            self.interrupt.wait_for(lane.connection.request(start, PATIENCE))??;
        }
        let interrupted = match self.plan.scenario {
            Scenario::Upload => self.upload(begin)?,
            Scenario::Download => self.download(begin)?,
            Scenario::Rps | Scenario::Latency | Scenario::Hps => self.ping_pong(begin)?,
        };
        let seconds = begin.elapsed().as_secs_f64();
        self.interval(begin, true)?;
        let cpu = control::cpu_time() - cpu;
        let found = self.finish(begin, seconds, cpu, interrupted)?;
        Ok((found, interrupted))
    }

    /// Threads send, and this one watches.
    fn upload(&mut self, begin: Instant) -> Outcome<Option<Signal>> {
        let stop = Interrupt::default();
        let plan = self.plan.clone();
        let work: Vec<_> = self
            .lanes
            .iter()
            .map(|lane| (lane.connection.clone(), Arc::clone(&lane.flow)))
            .collect();
        std::thread::scope(|scope| {
            let threads: Vec<_> = work
                .iter()
                .map(|(connection, flow)| {
                    let (plan, stop) = (&plan, &stop);
                    scope.spawn(move || {
                        sender::send(connection, plan, stop, || {
                            flow.messages.fetch_add(1, Ordering::Relaxed);
                        })
                    })
                })
                .collect();
            let watched = self.watch(begin, |_| threads.iter().all(|thread| thread.is_finished()));
            stop.trigger(Signal::Terminate);
            for thread in threads {
                match thread.join() {
                    Ok(sent) => sent.map(drop)?,
                    Err(_) => return Err(Failure::failed("a sending thread panicked")),
                }
            }
            watched
        })
    }

    /// The server sends until it says that it is done and everything is here.
    fn download(&mut self, begin: Instant) -> Outcome<Option<Signal>> {
        self.watch(begin, |lanes| {
            lanes.iter().all(|lane| {
                let sent = lane.sent.as_ref().map(|sent| Tally::from_json(sent).messages);
                sent.is_some_and(|sent| lane.messages() >= sent)
            })
        })
    }

    /// The handlers keep it going until the time is over.
    fn ping_pong(&mut self, begin: Instant) -> Outcome<Option<Signal>> {
        for lane in &self.lanes {
            for _ in 0..self.in_flight {
                lane.flow.ask(&lane.connection, self.plan.message());
            }
        }
        let (time, bytes) = (self.plan.time, self.plan.bytes);
        let enough = move |lanes: &[Lane]| match bytes {
            Some(bytes) => {
                lanes.iter().all(|lane| lane.flow.bytes.load(Ordering::Relaxed) >= bytes)
            }
            None => begin.elapsed() >= time,
        };
        let interrupted = self.watch(begin, enough)?;
        for lane in &self.lanes {
            lane.flow.stopping.store(true, Ordering::Release);
        }
        // The last replies.
        let idle =
            |lanes: &[Lane]| lanes.iter().all(|l| l.flow.under_way.load(Ordering::Acquire) == 0);
        let until = Instant::now() + HURRY;
        while !idle(&self.lanes) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(interrupted)
    }

    /// Reports intervals and sends probes until `done`, a signal or the end of a connection.
    fn watch(&mut self, begin: Instant, done: impl Fn(&[Lane]) -> bool) -> Outcome<Option<Signal>> {
        let probes = !self.plan.scenario.is_ping_pong();
        let mut next = begin + self.interval;
        let mut limit = None;
        loop {
            for lane in &mut self.lanes {
                match lane.news.try_recv() {
                    Ok(News::End(value)) => lane.sent = Some(value),
                    Ok(News::Closed(ended)) => return Err(towline::RecvError::Ended(ended).into()),
                    Err(TryRecvError::Empty | TryRecvError::Disconnected) => {}
                }
            }
            if done(&self.lanes) {
                return Ok(None);
            }
            // The server ends a download by itself; one that does not is given up on.
            if self.plan.scenario == Scenario::Download && self.plan.bytes.is_none() {
                let limit = *limit.get_or_insert(begin + self.plan.time + PATIENCE);
                if Instant::now() > limit {
                    return Err(Failure::failed(
                        "the server does not say that it has sent everything",
                    ));
                }
            }
            let now = Instant::now();
            if self.base.is_none() && !self.omit.is_zero() && now >= begin + self.omit {
                self.interval(begin, false)?;
                self.base = Some(self.state(begin));
                self.report.forget_round_trips();
                next = now + self.interval;
            }
            if !self.interval.is_zero() && now >= next {
                self.interval(begin, false)?;
                while next <= now {
                    next += self.interval;
                }
            }
            if probes {
                for lane in &self.lanes {
                    lane.flow.probe(&lane.connection);
                }
            }
            let wake = if self.interval.is_zero() { now + TICK } else { next.min(now + TICK) };
            if let Err(signal) = self.interrupt.sleep_until(wake) {
                return Ok(Some(signal));
            }
        }
    }

    /// What has been counted until now.
    fn state(&self, begin: Instant) -> Base {
        let counts = self.lanes.iter().map(|lane| match self.plan.scenario {
            Scenario::Upload => {
                let there = lane.delivered();
                (there, there * self.plan.length as u64)
            }
            _ => lane.received(),
        });
        let counts = counts.collect();
        Base { cpu: control::cpu_time(), seconds: begin.elapsed().as_secs_f64(), counts }
    }

    /// Reports what happened since the last report.
    fn interval(&mut self, begin: Instant, last: bool) -> Outcome {
        let mut streams = Vec::new();
        for lane in &self.lanes {
            let (messages, bytes) = match self.plan.scenario {
                Scenario::Upload => {
                    let delivered = if last { lane.messages() } else { lane.delivered() };
                    (delivered, delivered * self.plan.length as u64)
                }
                _ => lane.received(),
            };
            let stats = lane.connection.stats();
            streams.push((messages, bytes, stats.bytes_sent + stats.bytes_received));
        }
        let mut round_trips = super::flow::histogram();
        for lane in &self.lanes {
            lane.flow.take_round_trips(&mut round_trips);
        }
        let interval = Interval { at: begin.elapsed().as_secs_f64(), streams, round_trips };
        let sum = self.report.interval(interval, last, self.style)?;
        if let Some(chart) = &mut self.chart {
            chart.add(sum);
        }
        Ok(())
    }

    /// Asks the server for its side of it, and reports both.
    fn finish(
        &mut self,
        begin: Instant,
        seconds: f64,
        cpu: f64,
        interrupted: Option<Signal>,
    ) -> Outcome<Found> {
        let patience = if interrupted.is_some() { HURRY } else { PATIENCE };
        let (mut local, mut remote) = (Vec::new(), Vec::new());
        for lane in &self.lanes {
            let messages = lane.messages();
            let bytes = match self.plan.scenario {
                Scenario::Upload => messages * self.plan.length as u64,
                _ => lane.flow.bytes.load(Ordering::Relaxed),
            };
            let seconds = match self.plan.scenario {
                Scenario::Download => lane.flow.seconds_since(begin),
                _ => seconds,
            };
            let tally = Tally { messages, bytes, seconds, cpu_seconds: cpu, ..Tally::default() };
            let there = match self.plan.scenario {
                Scenario::Download => lane.sent.as_ref().map(Tally::from_json),
                _ => {
                    let end = control::message(&json!({"type": "end", "messages": messages}));
                    match crate::interrupt::block_on(lane.connection.request(end, patience)) {
                        Ok(reply) => match control::kind(&reply) {
                            control::Kind::Control(value) => Some(Tally::from_json(&value)),
                            _ => {
                                return Err(Failure::failed(
                                    "the server's result is unreadable; is it `towline perf server`?",
                                ));
                            }
                        },
                        Err(_) if interrupted.is_some() => None,
                        Err(error) => return Err(error.into()),
                    }
                }
            };
            let (mut here, mut there) =
                (tally.with_stats(&lane.connection), there.unwrap_or_default());
            if let Some(base) = &self.base {
                let counts = base.counts.get(local.len()).copied().unwrap_or_default();
                here = here.since(base.seconds, counts);
                there = there.since(base.seconds, counts);
                here.cpu_seconds = control::cpu_time() - base.cpu;
            }
            local.push(here);
            remote.push(there);
        }
        self.chart = None;
        Ok(self.report.end(&local, &remote))
    }
}
