//! `towline perf client`: runs a measurement against `towline perf server`.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};
use towline::{Address, Config, Connection, Endpoint, IntoAddresses};

use super::control::{self, Plan, Scenario, Tally};
use super::flow::{Flow, FlowHandler, News};
use super::report::{Interval, Report};
use super::sender;
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
    towline perf client tcp://192.0.2.7:5201 --scenario latency -l 64")]
pub(crate) struct Arguments {
    /// The server, such as tcp://192.0.2.7:5201.
    url: String,
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
    /// What is measured.
    #[arg(long, value_enum, default_value = "upload")]
    scenario: Scenario,
    /// Requests under way at once, with --scenario rps.
    #[arg(long, value_name = "NUMBER", default_value = "64", value_parser = clap::value_parser!(u64).range(1..=65_536))]
    in_flight: u64,
    /// Print one JSON object with iperf3's keys in place of text.
    #[arg(short = 'J', long)]
    json: bool,
    #[command(flatten)]
    io: super::Io,
    #[command(flatten)]
    tls: ClientTls,
}

/// One connection.
struct Lane {
    connection: Connection,
    flow: Arc<Flow>,
    news: Receiver<News>,
    /// Download: what the server says that it sent.
    sent: Option<Value>,
}

pub(super) fn run(arguments: &Arguments, notes: &Notes, interrupt: &Interrupt) -> Outcome {
    let address = Address::parse(&arguments.url)?;
    let scenario = if arguments.reverse { Scenario::Download } else { arguments.scenario };
    if arguments.bytes.is_none() && (arguments.time.is_zero() || arguments.time > control::MAX_TIME)
    {
        return Err(Failure::usage("--time must be above 0 and at most a day"));
    }
    let addresses = address.clone().into_addresses()?;
    let builder = Config::builder().send_queue_bytes(SEND_QUEUE);
    let config = arguments.tls.apply(builder, &addresses, notes)?.build()?;
    let context = arguments.io.context()?;
    let endpoint = Endpoint::new(&context, &config);

    let mut lanes = Vec::new();
    for _ in 0..arguments.parallel {
        let (tell, news) = mpsc::channel();
        let flow = Flow::new();
        let handler =
            FlowHandler { flow: Arc::clone(&flow), ping_pong: scenario.is_ping_pong(), news: tell };
        let connection = interrupt.wait_for(endpoint.connect_with(&address, handler))??;
        lanes.push(Lane { connection, flow, news, sent: None });
    }
    let plan = plan(arguments, scenario, &lanes)?;
    let report = Report::new(&address, &context, &plan, lanes.iter().map(|lane| &lane.connection));
    let mut measurement = Measurement {
        lanes,
        plan,
        in_flight: if scenario == Scenario::Rps { arguments.in_flight } else { 1 },
        interval: arguments.interval,
        interrupt,
        report,
        json: arguments.json,
    };
    let outcome = measurement.run();
    for lane in &measurement.lanes {
        match &outcome {
            Ok(()) => drop(interrupt.wait_for(lane.connection.close())),
            Err(_) => lane.connection.abort(),
        }
    }
    outcome
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
        time: arguments.time,
        bytes: arguments.bytes,
        rate: arguments.bitrate,
    })
}

struct Measurement<'a> {
    lanes: Vec<Lane>,
    plan: Plan,
    in_flight: u64,
    interval: Duration,
    interrupt: &'a Interrupt,
    report: Report,
    json: bool,
}

impl Measurement<'_> {
    fn run(&mut self) -> Outcome {
        self.report.begin(self.json)?;
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
            Scenario::Rps | Scenario::Latency => self.ping_pong(begin)?,
        };
        let seconds = begin.elapsed().as_secs_f64();
        self.interval(begin, true)?;
        let cpu = control::cpu_time() - cpu;
        self.finish(begin, seconds, cpu, interrupted)?;
        interrupted.map_or(Ok(()), |signal| Err(signal.into()))
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
                sent.is_some_and(|sent| lane.flow.messages.load(Ordering::Relaxed) >= sent)
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

    /// Reports what happened since the last report.
    fn interval(&mut self, begin: Instant, last: bool) -> Outcome {
        let mut streams = Vec::new();
        for lane in &self.lanes {
            let stats = lane.connection.stats();
            let messages = lane.flow.messages.load(Ordering::Relaxed);
            let (messages, bytes) = match self.plan.scenario {
                // What the peer has; what is still queued or under way does not count yet.
                Scenario::Upload => {
                    let delivered = match last {
                        true => messages,
                        false => messages.saturating_sub(stats.unacknowledged),
                    };
                    (delivered, delivered * self.plan.length as u64)
                }
                _ => (messages, lane.flow.bytes.load(Ordering::Relaxed)),
            };
            streams.push((messages, bytes, stats.bytes_sent + stats.bytes_received));
        }
        let mut round_trips = super::flow::histogram();
        for lane in &self.lanes {
            lane.flow.take_round_trips(&mut round_trips);
        }
        let interval = Interval { at: begin.elapsed().as_secs_f64(), streams, round_trips };
        self.report.interval(interval, !last && !self.json)
    }

    /// Asks the server for its side of it, and reports both.
    fn finish(
        &mut self,
        begin: Instant,
        seconds: f64,
        cpu: f64,
        interrupted: Option<Signal>,
    ) -> Outcome {
        let patience = if interrupted.is_some() { HURRY } else { PATIENCE };
        let (mut local, mut remote) = (Vec::new(), Vec::new());
        for lane in &self.lanes {
            let messages = lane.flow.messages.load(Ordering::Relaxed);
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
            local.push(tally.with_stats(&lane.connection));
            remote.push(there.unwrap_or_default());
        }
        self.report.end(&local, &remote, self.json)
    }
}
