//! `towline receive`: takes files from `towline send`.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;
use towline::{Address, Config, Context, Endpoint};

use super::held::Held;
use super::receiver::{Receiver, Summary, Target};
use crate::failure::{Failure, Outcome};
use crate::interrupt::{Interrupt, Signal};
use crate::metrics::{Counters, MetricsOption};
use crate::output::{Notes, Output, json::SCHEMA_VERSION};
use crate::tls::ServerTls;
use crate::units::{show_bytes, show_rate};

/// Connections at once: lanes of several senders.
const MAX_CONNECTIONS: usize = 1024;

/// What one lane may send ahead of the disk.
const RECEIVE_WINDOW: u64 = 16 << 20;

/// How long a sender whose connection was lost is waited for before its lane is given up; it can come back later all the same.
const REDIAL: Duration = Duration::from_secs(30);

/// How long transfers may go on after SIGTERM; what is not there by then can be resumed.
const DRAIN: Duration = Duration::from_secs(5);

/// Receive files and directories from `towline send`, over any wire.
///
/// Files appear under their names when they are complete and their BLAKE3 is right; until then they end in .towline-part, and what is
/// there of them is not sent again. Names that lead out of the directory are refused, and nothing is overwritten unless told. When two
/// senders give one name, the later one has it. After SIGTERM nothing new is accepted, transfers have 5 seconds to come to their ends, and
/// senders whose transfers do not are told; they try again for as long as their --retry says.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    towline receive tcp://0.0.0.0:7001 --out incoming\n  \
    towline receive tls://[::]:7001 --cert host.crt --key host.key --out incoming --overwrite\n  \
    towline receive tcp://127.0.0.1:7001 --once --out - | tar x")]
pub(crate) struct Arguments {
    /// Where to listen, such as tcp://0.0.0.0:7001; port 0 is any free one.
    url: String,
    /// The directory for what comes, or - for standard output.
    #[arg(short, long, value_name = "DIRECTORY", default_value = ".")]
    out: PathBuf,
    /// Replace files that exist.
    #[arg(long)]
    overwrite: bool,
    /// End after one transfer; one that is interrupted is waited for.
    #[arg(short = '1', long)]
    once: bool,
    /// Flush each file to the disk before it gets its name.
    #[arg(long)]
    fsync: bool,
    /// Print `listening URL` with the real port as the first line on standard output.
    #[arg(long, conflicts_with = "port_file")]
    announce: bool,
    /// Write the real port to this file.
    #[arg(long, value_name = "FILE")]
    port_file: Option<PathBuf>,
    /// Print one JSON object per transfer.
    #[arg(short = 'J', long)]
    json: bool,
    #[command(flatten)]
    metrics: MetricsOption,
    #[command(flatten)]
    tls: ServerTls,
}

pub(crate) fn run(arguments: &Arguments, notes: &Notes, interrupt: &Interrupt) -> Outcome {
    let address = Address::parse(&arguments.url)?;
    let standard = arguments.out.as_os_str() == "-";
    if standard && !arguments.once {
        return Err(Failure::usage("--out - takes one transfer: add --once"));
    }
    if standard && (arguments.announce || arguments.json) {
        return Err(Failure::usage(
            "--out - leaves standard output to the data: use --port-file in place of --announce, and no --json",
        ));
    }
    let builder = Config::builder()
        .max_connections(MAX_CONNECTIONS)
        .receive_window(RECEIVE_WINDOW)
        .redial_window(REDIAL);
    let config = arguments.tls.apply(builder, &address, notes)?.build()?;
    let context = Context::new()?;
    let listener = Endpoint::new(&context, &config).listen(&address)?;
    if arguments.announce {
        Output::open()?.line(&format!("listening {}", listener.url()))?;
    }
    if let Some(file) = &arguments.port_file {
        std::fs::write(file, format!("{}\n", listener.local_address().port())).map_err(
            |error| Failure::Failed(format!("cannot write {}: {error}", file.display())),
        )?;
    }
    notes.detail(&format!("listening on {}", listener.url()));
    let counters = Arc::new(Counters::default());
    let _metrics = arguments.metrics.serve(Arc::clone(&counters), |_| {}, notes)?;
    let target = match standard {
        true => Target::Standard(Mutex::new(Output::open()?)),
        false => Target::Directory(arguments.out.clone()),
    };
    // With --once the first transfer that is over ends everything.
    let done = Interrupt::default();
    // Transfers end at once on SIGINT, and when they had their time on SIGTERM.
    let stop = Interrupt::default();
    let failed: Mutex<Vec<String>> = Mutex::default();
    let receiver = Receiver {
        target,
        overwrite: arguments.overwrite,
        sync: arguments.fsync,
        interrupt: &stop,
        notes,
        held: Held::default(),
        transfers: Mutex::new(HashMap::new()),
        over: Box::new(|summary: &Summary| {
            counters.files.fetch_add(summary.files, Ordering::Relaxed);
            counters.bytes.fetch_add(summary.bytes, Ordering::Relaxed);
            counters.failures.fetch_add(summary.failed.len() as u64, Ordering::Relaxed);
            for text in &summary.failed {
                notes.warn(text);
            }
            if !standard && report(arguments, summary).is_err() {
                interrupt.trigger(Signal::Terminate);
            }
            if arguments.once {
                *failed.lock().unwrap_or_else(PoisonError::into_inner) = summary.failed.clone();
                done.trigger(Signal::Terminate);
            }
        }),
    };
    let outcome = std::thread::scope(|scope| {
        let idle = Interrupt::default();
        let serving = Arc::new(Serving(idle.clone()));
        let signal = loop {
            let accepted = {
                let mut accepting = std::pin::pin!(listener.accept());
                let mut over = std::pin::pin!(done.watch());
                interrupt.wait_for(std::future::poll_fn(|cx| {
                    use std::future::Future;
                    if over.as_mut().poll(cx).is_ready() {
                        return std::task::Poll::Ready(None);
                    }
                    accepting.as_mut().poll(cx).map(Some)
                }))
            };
            let connection = match accepted {
                Ok(Some(accepted)) => accepted.inspect_err(|_| stop.trigger(Signal::Terminate))?,
                Ok(None) => {
                    drop(serving);
                    match interrupt.wait_for(idle.watch()) {
                        Ok(_) => return Ok(()),
                        Err(signal) => break signal,
                    }
                }
                Err(signal) => {
                    drop(serving);
                    break signal;
                }
            };
            let serving = Arc::clone(&serving);
            let (receiver, done, counters, stop) = (&receiver, &done, &counters, &stop);
            let serve = move || {
                let _serving = serving;
                counters.connections.fetch_add(1, Ordering::Relaxed);
                counters.open.fetch_add(1, Ordering::Relaxed);
                let outcome = receiver.serve(&connection);
                counters.open.fetch_sub(1, Ordering::Relaxed);
                if let Err(Failure::OutputClosed) = outcome {
                    done.trigger(Signal::Terminate);
                } else if let Err(failure) = outcome
                    && let Some(text) = failure.message()
                {
                    notes.warn(&text);
                }
                if stop.signal().is_some() {
                    connection.abort();
                }
            };
            std::thread::Builder::new()
                .name("transfer".into())
                .spawn_scoped(scope, serve)
                .inspect_err(|_| stop.trigger(Signal::Terminate))
                .map_err(|error| Failure::Failed(format!("cannot start a thread: {error}")))?;
        };
        if signal == Signal::Terminate {
            idle.sleep_until(Instant::now() + DRAIN).ok();
        }
        stop.trigger(signal);
        Err(signal.into())
    });
    drop(receiver);
    match outcome {
        Err(Failure::Interrupted(Signal::Terminate)) => return Ok(()),
        outcome => outcome?,
    }
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    match failed.len() {
        0 => Ok(()),
        count => Err(Failure::Failed(format!("{count} files were not received"))),
    }
}

/// Held by every connection that is served: tells when the last of them has gone.
struct Serving(Interrupt);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.trigger(Signal::Terminate);
    }
}

fn report(arguments: &Arguments, summary: &Summary) -> Outcome {
    let rate = summary.bytes as f64 * 8.0 / summary.seconds.max(1e-9);
    let text = match arguments.json {
        true => json!({
            "schema_version": SCHEMA_VERSION,
            "ok": summary.failed.is_empty(),
            "files": summary.files,
            "bytes": summary.bytes,
            "seconds": summary.seconds,
            "bits_per_second": rate,
            "failed": summary.failed,
        })
        .to_string(),
        false => format!(
            "received {} files, {} in {:.1} s, {}",
            summary.files,
            show_bytes(summary.bytes as f64),
            summary.seconds,
            show_rate(rate)
        ),
    };
    Ok(Output::open()?.line(&text)?)
}
