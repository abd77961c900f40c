//! `towline perf server`: counts what comes, answers, or sends, as clients ask.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use clap::Args;
use serde_json::{Value, json};
use towline::{Address, Closed, Config, Connection, Endpoint, Handler, Message};

use super::control::{self, Kind, Plan, Tally};
use super::sender;
use crate::failure::Outcome;
use crate::interrupt::{Interrupt, Signal};
use crate::metrics::{Counters, MetricsOption};
use crate::output::{Notes, Output, json::SCHEMA_VERSION};
use crate::tls::ServerTls;
use crate::units::{show_bytes, show_rate};

/// Connections measured at once.
const MAX_CONNECTIONS: usize = 1024;

/// Serve measurements until SIGINT or SIGTERM.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    towline perf server tcp://0.0.0.0:5201\n  \
    towline perf server tls://127.0.0.1:0 --announce -1\n  \
    towline perf server tls://[::]:5201 --cert host.crt --key host.key --json")]
pub(crate) struct Arguments {
    /// Where to listen; port 0 is any free one.
    url: String,
    /// Print `listening URL` with the real port as the first line on standard output.
    #[arg(long)]
    announce: bool,
    /// End after one test.
    #[arg(short = '1', long)]
    one_off: bool,
    /// Print one JSON object per finished test.
    #[arg(short = 'J', long)]
    json: bool,
    #[command(flatten)]
    metrics: MetricsOption,
    #[command(flatten)]
    io: super::Io,
    #[command(flatten)]
    tls: ServerTls,
}

/// A server in this process, for comparisons.
pub(super) struct Own {
    server: Arc<Server>,
    listener: towline::Listener,
    _context: towline::Context,
}

impl Own {
    /// Serves one wire on loopback; encrypted wires get a certificate, whose pin is returned.
    pub(super) fn start(scheme: &str, notes: &Notes) -> Outcome<(Own, Option<towline::tls::Pin>)> {
        let address = Address::parse(&format!("{scheme}://127.0.0.1:0"))?;
        let mut builder = Config::builder().max_connections(MAX_CONNECTIONS);
        let mut pin = None;
        if address.wire().is_encrypted() {
            let made = crate::tls::make_certificate(&crate::tls::LOCAL_NAMES)?;
            pin = Some(made.pin);
            builder = builder.certificate_pem(made.certificate_pem, made.key_pem);
        }
        let context = towline::Context::new()?;
        let server = Arc::new(Server {
            counters: Arc::default(),
            stop: Interrupt::default(),
            one_off: false,
            json: true,
            silent: true,
            notes: *notes,
            tests: Mutex::default(),
            output: Mutex::new(Output::open()?),
        });
        let own = Arc::clone(&server);
        let factory = move |_: &Connection| Session { server: Arc::clone(&own), test: None };
        let endpoint = Endpoint::new(&context, &builder.build()?);
        let listener = endpoint.listen_with(&address, factory)?;
        Ok((Own { server, listener, _context: context }, pin))
    }

    pub(super) fn address(&self) -> std::net::SocketAddr {
        self.listener.local_address()
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        self.server.stop.trigger(Signal::Terminate);
    }
}

pub(super) fn run(arguments: &Arguments, notes: &Notes, interrupt: &Interrupt) -> Outcome {
    let address = Address::parse(&arguments.url)?;
    let builder = Config::builder().max_connections(MAX_CONNECTIONS);
    let config = arguments.tls.apply(builder, &address, notes)?.build()?;
    let context = arguments.io.context()?;
    let counters = Arc::new(Counters::default());
    let _metrics = arguments.metrics.serve(Arc::clone(&counters), |_| {}, notes)?;
    let mut output = Output::open()?;
    let server = Arc::new(Server {
        counters,
        stop: Interrupt::default(),
        one_off: arguments.one_off,
        json: arguments.json,
        silent: false,
        notes: *notes,
        tests: Mutex::default(),
        output: Mutex::new(Output::open()?),
    });
    let own = Arc::clone(&server);
    let factory = move |_: &Connection| Session { server: Arc::clone(&own), test: None };
    let listener = Endpoint::new(&context, &config).listen_with(&address, factory)?;
    if arguments.announce {
        output.line(&format!("listening {}", listener.url()))?;
    }
    notes.detail(&format!("listening on {}", listener.url()));
    // Ends by a signal, or by the first test's end when there is to be only one.
    let ended = interrupt.wait_for(server.stop.watch());
    server.stop.trigger(Signal::Terminate);
    drop(listener);
    drop(context);
    match ended {
        Ok(_) | Err(Signal::Terminate) => Ok(()),
        Err(signal) => Err(signal.into()),
    }
}

struct Server {
    counters: Arc<Counters>,
    stop: Interrupt,
    one_off: bool,
    json: bool,
    /// Somebody else reports.
    silent: bool,
    notes: Notes,
    /// The tests under way, by name: connections still to end, and what the ended ones did.
    tests: Mutex<HashMap<String, (u64, Vec<Tally>)>>,
    output: Mutex<Output>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Server {
    /// One connection of a test has ended.
    fn finish(&self, plan: &Plan, tally: Tally) {
        self.counters.connections.fetch_add(1, Ordering::Relaxed);
        self.counters.messages.fetch_add(tally.messages, Ordering::Relaxed);
        self.counters.bytes.fetch_add(tally.bytes, Ordering::Relaxed);
        let done = {
            let mut tests = lock(&self.tests);
            let (left, tallies) =
                tests.entry(plan.test.clone()).or_insert_with(|| (plan.connections, Vec::new()));
            *left = left.saturating_sub(1);
            tallies.push(tally);
            match *left {
                0 => tests.remove(&plan.test).map(|(_, tallies)| tallies),
                _ => None,
            }
        };
        let Some(tallies) = done.filter(|_| !self.silent) else { return };
        let sum = Tally::sum(&tallies);
        let line = match self.json {
            true => json!({
                "schema_version": SCHEMA_VERSION,
                "scenario": plan.scenario.name(),
                "num_streams": tallies.len(),
                "blksize": plan.length,
                "sum": Value::Object(sum.to_json()),
            })
            .to_string(),
            false => format!(
                "{}: {} in {} messages, {:.2} s, {}",
                plan.scenario.name(),
                show_bytes(sum.bytes as f64),
                sum.messages,
                sum.seconds,
                show_rate(sum.bytes as f64 * 8.0 / sum.seconds.max(1e-9)),
            ),
        };
        let printed = lock(&self.output).line(&line);
        if self.one_off || printed.is_err() {
            self.stop.trigger(Signal::Terminate);
        }
    }
}

/// One connection's test.
struct Test {
    plan: Plan,
    cpu: f64,
    /// When the client was told to begin.
    begun: Instant,
    last: Option<Instant>,
    messages: u64,
    bytes: u64,
    /// The client's `end`, to be answered when so many messages are here.
    end: Option<(Message, u64)>,
    /// What the sending thread sent.
    sent: Arc<Mutex<Option<Tally>>>,
}

impl Test {
    fn tally(&self, connection: &Connection) -> Tally {
        if let Some(sent) = *lock(&self.sent) {
            return sent;
        }
        let seconds = self.last.map_or(0.0, |last| (last - self.begun).as_secs_f64());
        Tally {
            messages: self.messages,
            bytes: self.bytes,
            seconds,
            cpu_seconds: control::cpu_time() - self.cpu,
            ..Tally::default()
        }
        .with_stats(connection)
    }
}

/// The close code for peers that do not keep to the conversation. Codes below 256 are the protocol's own.
const CODE_REFUSED: u64 = 256;

/// The handler of one connection.
struct Session {
    server: Arc<Server>,
    test: Option<Test>,
}

impl Session {
    /// Ends a connection that does not keep to the conversation.
    fn refuse(&self, connection: &Connection, reason: &str) {
        self.server.notes.warn(&format!("a peer was turned away: {reason}"));
        drop(connection.close_with(CODE_REFUSED, reason));
    }

    fn control(&mut self, connection: &Connection, message: Message, value: &Value) {
        match control::kind_of(value) {
            "start" if self.test.is_none() => match Plan::from_json(value) {
                Ok(plan) => self.start(connection, &message, plan),
                Err(reason) => self.refuse(connection, &reason),
            },
            "end" if self.test.is_some() => {
                let expected = value.get("messages").and_then(Value::as_u64).unwrap_or_default();
                if let Some(test) = &mut self.test {
                    test.end = Some((message, expected));
                }
                self.answer_end(connection);
            }
            _ => self.refuse(connection, "an unexpected control message"),
        }
    }

    fn start(&mut self, connection: &Connection, message: &Message, plan: Plan) {
        let most = connection.capabilities().max_message;
        if plan.length > most {
            let reason = format!("messages have at most {most} bytes on this wire");
            return self.refuse(connection, &reason);
        }
        let test = Test {
            cpu: control::cpu_time(),
            begun: Instant::now(),
            last: None,
            messages: 0,
            bytes: 0,
            end: None,
            sent: Arc::default(),
            plan,
        };
        let ready = json!({"type": "ready", "version": env!("CARGO_PKG_VERSION")});
        if connection.try_send(control::reply(message, &ready)).is_err() {
            return self.refuse(connection, "no room for a reply");
        }
        if test.plan.scenario == control::Scenario::Download {
            let (plan, sent) = (test.plan.clone(), Arc::clone(&test.sent));
            let (own, stop) = (connection.clone(), self.server.stop.clone());
            let download = move || download(&own, &plan, &stop, &sent);
            if std::thread::Builder::new().name("download".into()).spawn(download).is_err() {
                return self.refuse(connection, "this server has no thread for it");
            }
        }
        self.test = Some(test);
    }

    fn data(&mut self, connection: &Connection, message: &Message) {
        let Some(test) = &mut self.test else {
            return self.refuse(connection, "data before the start of a test");
        };
        test.last = Some(Instant::now());
        test.messages += 1;
        test.bytes += message.data.len() as u64;
        if test.plan.scenario.is_ping_pong() {
            let reply = Message::reply_to(message, message.data.clone());
            if connection.try_send(reply).is_err() {
                return self.refuse(connection, "replies are not taken");
            }
        }
        self.answer_end(connection);
    }

    /// Answers the client's `end` once everything is here.
    fn answer_end(&mut self, connection: &Connection) {
        let Some(test) = &mut self.test else { return };
        let Some((request, _)) = test.end.take_if(|(_, expected)| test.messages >= *expected)
        else {
            return;
        };
        let mut value = test.tally(connection).to_json();
        value.insert("type".into(), "result".into());
        connection.try_send(control::reply(&request, &Value::Object(value))).ok();
    }
}

impl Handler for Session {
    fn message(&mut self, connection: &Connection, message: Message) {
        match control::kind(&message) {
            Kind::Data => self.data(connection, &message),
            Kind::Probe => {
                let reply = Message::reply_to(&message, message.data.clone());
                // A probe without an answer is one sample less.
                connection.try_send(reply).ok();
            }
            Kind::Control(value) => self.control(connection, message, &value),
            Kind::Unknown => {
                self.refuse(connection, "this is `towline perf server`: use `towline perf client`")
            }
        }
    }

    fn closed(&mut self, connection: &Connection, _: Closed) {
        if let Some(test) = self.test.take() {
            self.server.finish(&test.plan, test.tally(connection));
        }
    }
}

/// Sends what the client asked for, and then says how much it was.
fn download(connection: &Connection, plan: &Plan, stop: &Interrupt, sent: &Mutex<Option<Tally>>) {
    let (begin, cpu) = (Instant::now(), control::cpu_time());
    let Ok(messages) = sender::send(connection, plan, stop, || {}) else { return };
    if !matches!(stop.wait_for(connection.flush()), Ok(Ok(()))) {
        return;
    }
    let tally = Tally {
        messages,
        bytes: messages * plan.length as u64,
        seconds: begin.elapsed().as_secs_f64(),
        cpu_seconds: control::cpu_time() - cpu,
        ..Tally::default()
    }
    .with_stats(connection);
    *lock(sent) = Some(tally);
    let mut value = tally.to_json();
    value.insert("type".into(), "end".into());
    connection.try_send(control::message(&Value::Object(value))).ok();
}
