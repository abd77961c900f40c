//! `towline demo`: a file and a stream of messages over every wire, over a link that is cut again and again, and through a network of three bad links.

mod network;
mod proxy;
mod random;
mod route;
mod transfer;

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Args;
use serde_json::{Value, json};
use towline::{Config, Context, DriverKind, Endpoint, Resend, Wire};

use self::proxy::Proxy;
use self::random::Random;
use self::transfer::{Load, Transfer, Watch};
use crate::failure::{Failure, Outcome};
use crate::interrupt::{Interrupt, Signal};
use crate::output::progress::Progress;
use crate::output::{Notes, Output, json::SCHEMA_VERSION, text};
use crate::tls::{LOCAL_NAMES, make_certificate};
use crate::units::{show_bytes, show_time};

/// Send a file and messages over every wire, over a link that is cut several times and over a network that loses packets, and check what arrives.
///
/// Servers, clients, relays and links run in this process. Ends with 0 only if everything arrived intact, in order, once; udp alone, which promises
/// nothing, may lose.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  towline demo\n  towline demo --seed 7\n  towline demo --json")]
pub(crate) struct Arguments {
    /// Repeat a run: the seed decides the file and the cuts.
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// Only this wire; may be repeated.
    #[arg(long = "wire", value_name = "SCHEME", value_parser = parse_wire)]
    wires: Vec<Wire>,
    /// Print one JSON object in place of the table.
    #[arg(long)]
    json: bool,
    /// Where the picture goes.
    #[arg(long, value_name = "FILE", default_value = "towline-demo.svg")]
    svg: PathBuf,
    /// A small file and few cuts.
    #[arg(long, hide = true)]
    quick: bool,
}

fn parse_wire(scheme: &str) -> Result<Wire, String> {
    Wire::ALL.into_iter().find(|wire| wire.scheme() == scheme).ok_or_else(|| {
        let mut schemes = Wire::ALL.map(Wire::scheme).to_vec();
        schemes.dedup();
        format!("one of {}", schemes.join(", "))
    })
}

/// How much is sent how fast, and how often it is cut.
struct Scale {
    bytes: u64,
    notes: u64,
    cuts: usize,
    /// Bytes per second in each direction.
    rate: u64,
}

const FULL: Scale = Scale { bytes: 5 << 20, notes: 1500, cuts: 6, rate: 4 << 20 };
const QUICK: Scale = Scale { bytes: 1 << 20, notes: 250, cuts: 3, rate: 8 << 20 };

/// How long one wire may take before it counts as failed.
const PATIENCE: Duration = Duration::from_secs(45);

/// Bytes under way on a session wire; on ftcp wires it is the window of unanswered messages.
const FLIGHT: u64 = transfer::WINDOW * transfer::CHUNK as u64;

/// The longest pause between two redials.
const BACKOFF_CAP: Duration = Duration::from_millis(250);

/// How often progress is shown.
const TICK: Duration = Duration::from_millis(40);

/// One wire's line in the table.
struct Row {
    wire: Wire,
    driver: DriverKind,
    bytes: u64,
    messages: u64,
    cuts: u32,
    refused_for: Duration,
    resent: u64,
    repeats: u64,
    longest_gap: Duration,
    took: Duration,
    outcome: Result<(), String>,
}

pub(crate) fn run(arguments: &Arguments, notes: &Notes, interrupt: &Interrupt) -> Outcome {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seed = arguments.seed.unwrap_or(u64::from(clock.subsec_nanos()));
    let scale = if arguments.quick { &QUICK } else { &FULL };
    let directory = Directory::new(seed)?;
    let source = directory.0.join("sent");
    let load = Load::generate(source, scale.bytes, scale.notes, seed)
        .map_err(|error| Failure::Failed(format!("cannot write the file to send: {error}")))?;
    let mut progress = Progress::new(notes);
    let mut rows = Vec::new();
    for (number, wire) in Wire::ALL.into_iter().enumerate() {
        let wanted = arguments.wires.is_empty() || arguments.wires.contains(&wire);
        // What is cut here are connections; a wire over datagrams has none.
        if !wanted || crate::commands::link::is_datagram(wire.scheme()) {
            continue;
        }
        let mut random = Random::new(seed ^ (number as u64 + 1) << 32);
        let target = directory.0.join(format!("received-{wire}"));
        let run = Run { wire, scale, load: &load, target, interrupt };
        rows.push(run.go(&mut random, &mut progress)?);
        if let Some(signal) = interrupt.signal() {
            return Err(signal.into());
        }
    }
    progress.clear();
    let wanted = |wire| arguments.wires.is_empty() || arguments.wires.contains(&wire);
    let size = if arguments.quick { &network::QUICK } else { &network::FULL };
    let mut file = vec![0; size.file];
    Random::new(seed).fill(&mut file);
    let measured = network::run(wanted, size, &file.into(), seed, &mut progress, interrupt)?;
    let picture = network::draw(&measured);
    std::fs::write(&arguments.svg, picture).map_err(|error| {
        let path = arguments.svg.display();
        Failure::Failed(format!("cannot write {path}: {error}; --svg FILE names another place"))
    })?;
    let mut output = Output::open()?;
    match arguments.json {
        true => {
            let mut value = document(&rows, seed);
            value["network"] = measured.iter().map(network::Measured::to_json).collect();
            value["svg"] = arguments.svg.to_string_lossy().into();
            output.line(&value.to_string())?;
        }
        false => {
            let mut parts = Vec::new();
            if !rows.is_empty() {
                parts.push(report(&rows, &load));
            }
            if !measured.is_empty() {
                parts.push(network::report(&measured, size));
            }
            let path = arguments.svg.display();
            parts.push(format!("The picture is {path}; --seed {seed} repeats this run."));
            output.line(&parts.join("\n\n"))?;
        }
    }
    if let Some(wrong) = measured.iter().find(|one| !one.is_intact()) {
        return Err(Failure::Failed(format!("not everything arrived: {}", wrong.to_json())));
    }
    let failed: Vec<String> = rows
        .iter()
        .filter_map(|row| Some(format!("{}: {}", row.wire, row.outcome.as_ref().err()?)))
        .collect();
    match failed.is_empty() {
        true => Ok(()),
        false => {
            Err(Failure::Failed(format!("{}; repeat it with --seed {seed}", failed.join("; "))))
        }
    }
}

/// A directory for the files, removed in the end.
struct Directory(PathBuf);

impl Directory {
    fn new(seed: u64) -> Outcome<Directory> {
        let name = format!("towline-demo-{}-{seed:x}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).map_err(|error| {
            Failure::Failed(format!(
                "cannot make the directory {}: {error}; TMPDIR can name another place",
                path.display()
            ))
        })?;
        Ok(Directory(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

/// One wire's turn.
struct Run<'a> {
    wire: Wire,
    scale: &'a Scale,
    load: &'a Load,
    target: PathBuf,
    interrupt: &'a Interrupt,
}

impl Run<'_> {
    fn go(&self, random: &mut Random, progress: &mut Progress) -> Outcome<Row> {
        let (server_config, client_config) = self.configs()?;
        let server_context = Context::builder().threads(1).build()?;
        let client_context = Context::builder().threads(1).build()?;
        let server = Endpoint::new(&server_context, &server_config);
        let client = Endpoint::new(&client_context, &client_config);
        let driver = client_context.drivers().first().copied();
        let driver = driver.ok_or_else(|| Failure::failed("there is no I/O thread"))?;

        let listener = server.listen(format!("{}://127.0.0.1:0", self.wire))?;
        let cuts = proxy::plan(random, self.scale.cuts, self.scale.bytes);
        let proxy = Proxy::start(listener.local_address(), self.scale.rate, cuts)
            .map_err(|error| Failure::Failed(format!("cannot start the proxy: {error}")))?;
        let url = format!("{}://{}", self.wire, proxy.address());

        let begin = Instant::now();
        let watch = Watch::new();
        let transfer = Transfer {
            load: self.load,
            watch: &watch,
            interrupt: self.interrupt,
            target: &self.target,
        };
        let transferred = match self.wire.has_session() {
            true => self.session(&transfer, &client, &url, &listener, progress),
            false => self.ftcp(&transfer, &client, &url, &listener, progress),
        };
        let took = begin.elapsed();
        let checked = match &transferred {
            Ok(_) => self.load.check(&self.target),
            Err(_) => Ok(()),
        };
        std::fs::remove_file(&self.target).ok();
        let messages = watch.messages.load(Ordering::Relaxed);
        let resent = transferred.as_ref().map_or(0, |resent| *resent);
        let outcome = transferred.map(drop).and(checked).and_then(|()| {
            match proxy.cuts() as usize == self.scale.cuts {
                true => Ok(()),
                false => Err(Failure::failed("the link was not cut as often as planned")),
            }
        });
        Ok(Row {
            wire: self.wire,
            driver,
            bytes: watch.bytes.load(Ordering::Relaxed),
            messages,
            cuts: proxy.cuts(),
            refused_for: proxy.refused_for(),
            resent,
            repeats: watch.repeats.load(Ordering::Relaxed),
            longest_gap: watch.longest_gap(),
            took,
            outcome: outcome.map_err(|failure| failure.message().unwrap_or("interrupted".into())),
        })
    }

    fn configs(&self) -> Outcome<(Config, Config)> {
        // Little is under way on so slow a link, so little has to be sent again. The pause between redials grows with
        // every wire that lived less than a second, as most do here; its usual cap of 5 s would be most of the demo.
        let common = || {
            Config::builder().receive_window(FLIGHT).backoff(Duration::from_millis(20), BACKOFF_CAP)
        };
        // What is not answered is kept and sent again; ftcp's other policies would lose some of it.
        let mut client = common().ftcp_resend(Resend::UntilReply);
        let mut server = common();
        if self.wire.is_encrypted() {
            let made = make_certificate(&LOCAL_NAMES)?;
            client = client.pin(made.pin);
            server = server.certificate_pem(made.certificate_pem, made.key_pem);
        }
        Ok((server.build()?, client.build()?))
    }

    /// Shows progress until the threads are done.
    fn watch(&self, watch: &Watch, progress: &mut Progress, finished: impl Fn() -> bool) {
        while !finished() {
            let bytes = watch.bytes.load(Ordering::Relaxed);
            let messages = watch.messages.load(Ordering::Relaxed);
            let more = format!("{}, {messages} messages", show_bytes(bytes as f64));
            progress.set(self.wire.scheme(), bytes, self.load.bytes, &more);
            if self.interrupt.sleep_until(Instant::now() + TICK).is_err() {
                return;
            }
        }
    }

    /// Both directions at once over a session. Returns the bytes that were sent again.
    fn session(
        &self,
        transfer: &Transfer<'_>,
        client: &Endpoint,
        url: &str,
        listener: &towline::Listener,
        progress: &mut Progress,
    ) -> Outcome<u64> {
        let deadline = Instant::now() + PATIENCE;
        let near = self.interrupt.wait_for(client.connect(url))??;
        near.set_deadline(Some(deadline));
        let far = self.interrupt.wait_for(listener.accept())??;
        far.set_deadline(Some(deadline));
        let first_failure = Mutex::new(None);
        // One that fails ends the others, which fail because of it.
        let guard = |outcome: Outcome| {
            if let Err(failure) = outcome {
                lock(&first_failure).get_or_insert(failure);
                near.abort();
                far.abort();
            }
        };
        std::thread::scope(|scope| {
            let threads = [
                scope.spawn(|| guard(transfer.send_file(&near))),
                scope.spawn(|| guard(transfer.send_notes(&far))),
                scope.spawn(|| guard(transfer.receive_file(&far))),
                scope.spawn(|| guard(transfer.receive_notes(&near))),
            ];
            self.watch(transfer.watch, progress, || threads.iter().all(|t| t.is_finished()));
        });
        if let Some(failure) = lock(&first_failure).take() {
            return Err(failure);
        }
        self.interrupt.wait_for(near.close())??;
        transfer.nothing_more(&far)?;
        transfer.nothing_more(&near)?;
        Ok(near.stats().bytes_resent + far.stats().bytes_resent)
    }

    /// The file by request and reply. Returns the bytes that were sent again.
    fn ftcp(
        &self,
        transfer: &Transfer<'_>,
        client: &Endpoint,
        url: &str,
        listener: &towline::Listener,
        progress: &mut Progress,
    ) -> Outcome<u64> {
        let deadline = Instant::now() + PATIENCE;
        let near = self.interrupt.wait_for(client.connect(url))??;
        near.set_deadline(Some(deadline));
        let done = Interrupt::default();
        let far = std::thread::scope(|scope| {
            let asking = scope.spawn(|| {
                let asked = transfer.ask_file(&near);
                done.trigger(Signal::Terminate);
                asked
            });
            let answering = scope.spawn(|| {
                transfer.answer_file(listener, &done, deadline).inspect_err(|_| near.abort())
            });
            self.watch(transfer.watch, progress, || asking.is_finished());
            let asked = asking.join().unwrap_or_else(panicked);
            // If both failed, the server's words are the cause: it ends the client.
            let answered = answering.join().unwrap_or_else(panicked)?;
            asked.map(|()| answered)
        })?;
        self.interrupt.wait_for(near.close())??;
        let answers: u64 = far.iter().map(|stats| stats.bytes_resent).sum();
        Ok(near.stats().bytes_resent + answers)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn panicked<T>(_: Box<dyn std::any::Any + Send>) -> Outcome<T> {
    Err(Failure::failed("a thread of the demo panicked"))
}

fn guarantee(wire: Wire) -> &'static str {
    match wire.has_session() {
        true => "exactly once, by the session",
        false => "at least once; repeats dropped here",
    }
}

/// The table and what it shows.
fn report(rows: &[Row], load: &Load) -> String {
    let head = [
        "wire",
        "driver",
        "bytes",
        "messages",
        "cuts survived",
        "resent bytes",
        "repeats",
        "longest gap",
        "time",
        "guarantee",
        "result",
    ];
    let mut table = vec![head.map(str::to_owned).to_vec()];
    for row in rows {
        table.push(vec![
            row.wire.to_string(),
            row.driver.to_string(),
            row.bytes.to_string(),
            row.messages.to_string(),
            row.cuts.to_string(),
            row.resent.to_string(),
            row.repeats.to_string(),
            show_time(row.longest_gap),
            show_time(row.took),
            guarantee(row.wire).to_owned(),
            match &row.outcome {
                Ok(()) => "intact, in order, once".to_owned(),
                Err(_) => "FAILED".to_owned(),
            },
        ]);
    }
    let cuts: u32 = rows.iter().map(|row| row.cuts).sum();
    let refused: Duration = rows.iter().map(|row| row.refused_for).sum();
    format!(
        "{}\n\
        A file of {} crossed each wire in numbered messages, on all but ftcp with {} messages the other way meanwhile, while\n\
        the link below was cut {cuts} times by resets and closes at arbitrary bytes and refused connections for {} in all;\n\
        a result is good only if the SHA-256 is the same and every number came in order, once.\n\
        A session (tcp, tls, ws, wss) sees to that by itself, whereas ftcp has no acknowledgements: there every message is answered,\n\
        what is unanswered is sent again after a cut, and the receiving program drops repeats by their numbers.",
        text::table(&table),
        show_bytes(load.bytes as f64),
        load.notes,
        show_time(refused),
    )
}

fn document(rows: &[Row], seed: u64) -> Value {
    let rows: Vec<Value> = rows
        .iter()
        .map(|row| {
            json!({
                "wire": row.wire.scheme(),
                "driver": row.driver.to_string(),
                "bytes": row.bytes,
                "messages": row.messages,
                "cuts": row.cuts,
                "refused_seconds": row.refused_for.as_secs_f64(),
                "bytes_resent": row.resent,
                "repeats_dropped": row.repeats,
                "longest_gap_seconds": row.longest_gap.as_secs_f64(),
                "seconds": row.took.as_secs_f64(),
                "guarantee": guarantee(row.wire),
                "ok": row.outcome.is_ok(),
                "error": row.outcome.as_ref().err(),
            })
        })
        .collect();
    json!({
        "schema_version": SCHEMA_VERSION,
        "seed": seed,
        "ok": rows.iter().all(|row| row["ok"] == true),
        "wires": rows,
    })
}
