//! `towline send`: gives files to `towline receive`.

use std::io::Read;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use clap::Args;
use serde_json::{Value, json};
use towline::{
    Address, Config, Connection, Context, Ended, Endpoint, Error, Event, Events, IntoAddresses,
    Message, RecvError, RequestError, SendError,
};

use super::lanes::{Job, Lanes};
use super::protocol::{self, Answer, CODE_FAILED, HEADER, Kind};
use super::source::{self, Source};
use crate::failure::{Failure, Outcome};
use crate::interrupt::{Interrupt, Signal};
use crate::output::progress::Progress;
use crate::output::text::hex;
use crate::output::{Notes, Output, json::SCHEMA_VERSION};
use crate::tls::ClientTls;
use crate::units::{self, show_bytes, show_rate};

/// Bytes accepted for sending and not acknowledged, on each lane.
const SEND_QUEUE: usize = 8 << 20;

/// How long the receiver may take for an answer; it may have to read what it has of a large file.
const PATIENCE: Duration = Duration::from_secs(600);

/// How often progress is shown.
const TICK: Duration = Duration::from_millis(100);

/// The pause before the second further attempt; it doubles.
const AGAIN: Duration = Duration::from_millis(100);

/// Send files and directories to a `towline receive`, over any wire.
///
/// Each file is checked by its BLAKE3 before it gets its name at the receiver. A transfer that was interrupted, on either side, goes on
/// where it was when the same command is run again; while it runs it does so by itself for as long as --retry says.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    towline send tcp://192.0.2.7:7001 holiday.mp4\n  \
    towline send tls://192.0.2.7:7001 --pin sha256:... photos notes.txt -P 8 --rate 50M\n  \
    tar c src | towline send tcp://192.0.2.7:7001 - --name src.tar")]
pub(crate) struct Arguments {
    /// Where the receiver listens; several divided by commas are tried in turn.
    #[arg(value_name = "URL[,URL...]")]
    url: String,
    /// What to send: files, directories, or - for standard input.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// The name at the receiver of what comes from standard input.
    #[arg(long, value_name = "NAME", default_value = "stdin")]
    name: String,
    /// Connections beside each other.
    #[arg(short = 'P', long, value_name = "CONNECTIONS", default_value = "4", value_parser = clap::value_parser!(u64).range(1..=64))]
    parallel: u64,
    /// Bits per second at most, over all connections.
    #[arg(long, value_name = "RATE", value_parser = units::rate)]
    rate: Option<u64>,
    /// Check SHA-256 as well, and print it.
    #[arg(long)]
    sha256: bool,
    /// How long to try again after a connection or the receiver was lost.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = units::duration)]
    retry: Duration,
    /// How long connecting may take.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = units::duration)]
    timeout: Duration,
    /// Print one JSON object at the end in place of text.
    #[arg(short = 'J', long)]
    json: bool,
    /// No progress bar.
    #[arg(long)]
    no_progress: bool,
    #[command(flatten)]
    tls: ClientTls,
}

/// Why an attempt ended.
enum Trouble {
    /// Another one may do better.
    Passing(Failure),
    /// It will not.
    Lasting(Failure),
}

impl<E: Into<Error>> From<E> for Trouble {
    fn from(error: E) -> Trouble {
        let error = error.into();
        let ended = match &error {
            Error::Send(SendError::Ended(ended))
            | Error::Recv(RecvError::Ended(ended))
            | Error::Request(RequestError::Ended(ended)) => Some(ended),
            _ => None,
        };
        match ended {
            Some(Ended::ByPeer { code: CODE_FAILED, reason }) => {
                Trouble::Lasting(Failure::Failed(format!("the receiver gave up: {reason}")))
            }
            Some(_) => Trouble::Passing(error.into()),
            None if matches!(error, Error::Request(RequestError::TimedOut { .. })) => {
                Trouble::Passing(error.into())
            }
            None => Trouble::Lasting(error.into()),
        }
    }
}

impl From<Signal> for Trouble {
    fn from(signal: Signal) -> Trouble {
        Trouble::Lasting(signal.into())
    }
}

type Tried<T = ()> = Result<T, Trouble>;

/// What was sent, or why not.
struct Sent {
    name: String,
    size: u64,
    blake3: Option<String>,
    sha256: Option<String>,
    error: Option<String>,
}

struct Sending<'a> {
    arguments: &'a Arguments,
    addresses: Vec<Address>,
    endpoint: Endpoint,
    sources: Vec<Source>,
    interrupt: &'a Interrupt,
    progress: Progress,
    begin: Instant,
    results: Vec<Option<Sent>>,
    resumed: u64,
    /// Something went through in this attempt.
    moved: bool,
}

pub(crate) fn run(arguments: &Arguments, notes: &Notes, interrupt: &Interrupt) -> Outcome {
    let addresses = arguments.url.as_str().into_addresses()?;
    let stream = arguments.paths.iter().any(|path| path.as_os_str() == "-");
    if stream && arguments.paths.len() > 1 {
        return Err(Failure::usage("- is sent alone"));
    }
    let sources = if stream { Vec::new() } else { source::gather(&arguments.paths, notes)? };
    let builder = Config::builder()
        .send_queue_bytes(SEND_QUEUE)
        .connect_timeout(arguments.timeout)
        .redial_window(arguments.retry.max(Duration::from_secs(1)));
    let config = arguments.tls.apply(builder, &addresses, notes)?.build()?;
    let context = Context::new()?;
    let results = sources.iter().map(|_| None).collect();
    let mut progress = Progress::new(notes);
    if arguments.no_progress {
        progress.hide();
    }
    let mut sending = Sending {
        arguments,
        addresses,
        endpoint: Endpoint::new(&context, &config),
        sources,
        interrupt,
        progress,
        begin: Instant::now(),
        results,
        resumed: 0,
        moved: false,
    };
    let mut last_move = Instant::now();
    let mut pause = AGAIN;
    let mut tries = 0u32;
    loop {
        let tried = if stream { sending.stream() } else { sending.attempt(tries) };
        if std::mem::take(&mut sending.moved) {
            (last_move, pause) = (Instant::now(), AGAIN);
        }
        match tried {
            Ok(()) => break,
            Err(Trouble::Lasting(failure)) => return Err(failure),
            Err(Trouble::Passing(failure)) => {
                let over = last_move.elapsed() >= arguments.retry;
                if stream || over {
                    return Err(hinted(failure, stream));
                }
                if let Some(text) = failure.message() {
                    notes.info(&format!("{text}; trying again"));
                }
            }
        }
        tries += 1;
        sending.progress.clear();
        interrupt.sleep_until(Instant::now() + pause)?;
        pause = (pause * 2).min(Duration::from_secs(2));
    }
    sending.report()
}

/// Says how to go on.
fn hinted(failure: Failure, stream: bool) -> Failure {
    match failure {
        Failure::Failed(text) if !stream => {
            Failure::Failed(format!("{text}; run the same command again, it goes on where it was"))
        }
        failure => failure,
    }
}

/// Whether the peer came back without its memory: it has never heard of this transfer.
fn has_forgotten(events: &mut Events) -> bool {
    std::iter::from_fn(|| events.try_next()).any(|event| matches!(event, Event::Reset { .. }))
}

fn unexpected() -> Trouble {
    Trouble::Lasting(Failure::failed("the peer does not answer as `towline receive` does"))
}

impl Sending<'_> {
    fn connect(&self, first: bool) -> Tried<Connection> {
        let connecting = self.endpoint.connect(self.addresses.clone());
        match self.interrupt.wait_for(connecting)? {
            Ok(connection) => Ok(connection),
            Err(error) if first => Err(Trouble::Lasting(error.into())),
            Err(error) => Err(Trouble::Passing(error.into())),
        }
    }

    fn ask(&self, connection: &Connection, value: &Value) -> Tried<Value> {
        let request = connection.request(protocol::control(value), PATIENCE);
        let reply = self.interrupt.wait_for(request)??;
        match protocol::kind(&reply) {
            Kind::Control(value) => match value.get("refused").and_then(Value::as_str) {
                Some(reason) if value.get("type").is_some() => Err(Trouble::Lasting(
                    Failure::Failed(format!("the receiver refuses: {reason}")),
                )),
                _ => Ok(value),
            },
            _ => Err(unexpected()),
        }
    }

    fn hello(&self, connection: &Connection, id: &str, chunk: usize, role: &str) -> Tried<Value> {
        self.ask(
            connection,
            &json!({
                "type": "hello",
                "version": protocol::VERSION,
                "transfer": id,
                "chunk": chunk,
                "role": role,
                "files": self.sources.len(),
            }),
        )
    }

    /// A name for this attempt, and the size of its chunks.
    fn name(&self, connection: &Connection) -> (String, usize) {
        let seed = format!(
            "{:?} {} {:?}",
            std::time::SystemTime::now(),
            std::process::id(),
            connection.local_address()
        );
        let id = hex(&blake3::hash(seed.as_bytes()).as_bytes()[..16]);
        let large = connection.capabilities().max_message >= protocol::LARGE + HEADER;
        (id, if large { protocol::LARGE } else { protocol::SMALL })
    }

    /// One attempt at everything that is not done yet.
    fn attempt(&mut self, tries: u32) -> Tried {
        let control = self.connect(tries == 0)?;
        let (id, chunk) = self.name(&control);
        let ready = self.hello(&control, &id, chunk, "control")?;
        if ready.get("stream").and_then(Value::as_bool) == Some(true) {
            return self.stream_file(&control);
        }
        let jobs = self.offer(&control)?;
        let mut others = Vec::new();
        let lanes = jobs.iter().map(|job| self.size(job.file)).sum::<u64>() / chunk as u64;
        for _ in 1..self.arguments.parallel.min(lanes.max(1)) {
            let lane = self.connect(false)?;
            self.hello(&lane, &id, chunk, "lane")?;
            others.push(lane);
        }
        let sent = self.send_all(&control, &others, jobs, chunk as u64);
        for lane in &others {
            match sent {
                Ok(()) => drop(self.interrupt.wait_for(lane.close())),
                Err(_) => lane.abort(),
            }
        }
        match sent {
            Ok(()) => {
                self.ask(&control, &json!({"type": "end"}))?;
                drop(self.interrupt.wait_for(control.close()));
                Ok(())
            }
            Err(trouble) => {
                control.abort();
                Err(trouble)
            }
        }
    }

    fn size(&self, file: usize) -> u64 {
        self.sources.get(file).and_then(|source| source.entry.size).unwrap_or(0)
    }

    /// Offers all entries; which files the receiver wants.
    fn offer(&mut self, control: &Connection) -> Tried<Vec<Job>> {
        let mut jobs = Vec::new();
        let mut first = 0;
        while first < self.sources.len() {
            let batch = self.sources.iter().skip(first).take(protocol::BATCH);
            let entries: Vec<Value> = batch.map(|source| source.entry.to_json()).collect();
            let count = entries.len();
            let reply =
                self.ask(control, &json!({"type": "entries", "first": first, "entries": entries}))?;
            let answers = reply.get("answers").and_then(Value::as_array).ok_or_else(unexpected)?;
            if answers.len() != count {
                return Err(unexpected());
            }
            for (file, answer) in (first..).zip(answers) {
                match Answer::from_json(answer).ok_or_else(unexpected)? {
                    Answer::Refused(reason) => self.record(file, None, None, Some(reason)),
                    Answer::Wanted(_) if self.is_done(file) => {}
                    Answer::Wanted(have) if self.is_file(file) => jobs.push(Job { file, have }),
                    Answer::Wanted(_) => self.record(file, None, None, None),
                }
            }
            first += count;
        }
        Ok(jobs)
    }

    fn is_file(&self, file: usize) -> bool {
        self.sources.get(file).is_some_and(|source| source.entry.size.is_some())
    }

    fn is_done(&self, file: usize) -> bool {
        matches!(self.results.get(file), Some(Some(result)) if result.error.is_none())
    }

    fn record(
        &mut self,
        file: usize,
        blake3: Option<String>,
        sha256: Option<String>,
        error: Option<String>,
    ) {
        let size = self.size(file);
        let Some(source) = self.sources.get(file) else { return };
        let name = source.entry.name.clone();
        if let Some(place) = self.results.get_mut(file) {
            *place = Some(Sent { name, size, blake3, sha256, error });
        }
    }

    /// Lanes send, and this thread hears what the receiver says of each file.
    fn send_all(
        &mut self,
        control: &Connection,
        others: &[Connection],
        jobs: Vec<Job>,
        chunk: u64,
    ) -> Tried {
        let stop = Interrupt::default();
        let sources = std::mem::take(&mut self.sources);
        let total: u64 = jobs
            .iter()
            .filter_map(|job| sources.get(job.file).and_then(|source| source.entry.size))
            .sum();
        let mut waiting = jobs.len();
        let mut lanes = Lanes::new(&sources, chunk, jobs, control, &stop);
        (lanes.sha256, lanes.rate) = (self.arguments.sha256, self.arguments.rate);
        let mut news = Vec::new();
        let mut events: Vec<_> =
            std::iter::once(control).chain(others).map(Connection::events).collect();
        let heard = std::thread::scope(|scope| {
            let lanes = &lanes;
            let threads: Vec<_> = std::iter::once(control)
                .chain(others)
                .map(|connection| {
                    scope.spawn(move || {
                        let sent = lanes.run(connection);
                        if sent.is_err() {
                            // Wakes the thread that listens; it finds out why.
                            lanes.control.abort();
                        }
                        sent
                    })
                })
                .collect();
            let mut heard = Ok(());
            while waiting > 0 && heard.is_ok() {
                heard = self.hear(control, &mut news).map(|count| waiting -= count.min(waiting));
                if heard.is_ok() && events.iter_mut().any(has_forgotten) {
                    let text = "the receiver was started anew";
                    heard = Err(Trouble::Passing(Failure::failed(text)));
                }
                let done = lanes.bytes.load(Ordering::Relaxed);
                self.show(done, total, lanes.resumed.load(Ordering::Relaxed));
            }
            if heard.is_err() {
                stop.trigger(Signal::Terminate);
                control.abort();
                others.iter().for_each(Connection::abort);
            }
            for thread in threads {
                match thread.join() {
                    Ok(Ok(())) => {}
                    // The first to fail knows why; those that were aborted for it do not.
                    Ok(Err(SendError::Ended(Ended::Closed))) => {}
                    Ok(Err(error)) => heard = Err(error.into()),
                    Err(_) => heard = Err(Trouble::Lasting(Failure::failed("a thread panicked"))),
                }
            }
            heard
        });
        self.moved = lanes.bytes.load(Ordering::Relaxed) > lanes.resumed.load(Ordering::Relaxed);
        self.resumed = self.resumed.max(lanes.resumed.load(Ordering::Relaxed));
        self.sources = sources;
        for (file, blake3, sha256, error) in news {
            self.record(file, blake3, sha256, error);
        }
        heard
    }

    /// Waits for a word about a file, a moment at most; how many it was.
    fn hear(&self, control: &Connection, news: &mut Vec<News>) -> Tried<usize> {
        control.set_read_deadline(Some(Instant::now() + TICK));
        let message = match self.interrupt.wait_for(control.recv())? {
            Ok(message) => message,
            Err(RecvError::Deadline) => return Ok(0),
            Err(RecvError::Ended(Ended::Closed)) => {
                return Err(Trouble::Passing(Failure::failed("a connection was lost")));
            }
            Err(error) => return Err(error.into()),
        };
        let Kind::Control(value) = protocol::kind(&message) else { return Err(unexpected()) };
        let file = value.get("file").and_then(Value::as_u64).ok_or_else(unexpected)?;
        let file = usize::try_from(file).map_err(|_| unexpected())?;
        let optional = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
        news.push((file, optional("blake3"), optional("sha256"), optional("error")));
        Ok(1)
    }

    fn show(&mut self, done: u64, total: u64, resumed: u64) {
        let seconds = self.begin.elapsed().as_secs_f64();
        let rate = done.saturating_sub(resumed) as f64 / seconds.max(0.001);
        let left = (total.saturating_sub(done)) as f64 / rate.max(1.0);
        let more = format!(
            "{} of {}, {}, {:.0} s left",
            show_bytes(done as f64),
            show_bytes(total as f64),
            show_rate(rate * 8.0),
            left
        );
        self.progress.set("send", done, total, &more);
    }

    /// One file, in order, to a receiver that writes a stream.
    fn stream_file(&mut self, control: &Connection) -> Tried {
        let [source] = &self.sources[..] else {
            return Err(Trouble::Lasting(Failure::failed(
                "the receiver writes to standard output: it takes one file",
            )));
        };
        let file = std::fs::File::open(&source.path);
        let file = file.map_err(|error| Trouble::Lasting(Failure::failed(error)))?;
        let name = source.entry.name.clone();
        let (size, hash) = self.send_stream(control, &name, file)?;
        self.results =
            vec![Some(Sent { name, size, blake3: Some(hash), sha256: None, error: None })];
        Ok(())
    }

    /// Standard input.
    fn stream(&mut self) -> Tried {
        let control = self.connect(true)?;
        let (id, chunk) = self.name(&control);
        self.hello(&control, &id, chunk, "control")?;
        let name = self.arguments.name.clone();
        let (size, hash) = self.send_stream(&control, &name, std::io::stdin().lock())?;
        self.results.push(Some(Sent { name, size, blake3: Some(hash), sha256: None, error: None }));
        Ok(())
    }

    fn send_stream(
        &mut self,
        control: &Connection,
        name: &str,
        mut from: impl Read,
    ) -> Tried<(u64, String)> {
        let chunk = self.name(control).1;
        self.ask(control, &json!({"type": "stream", "name": name}))?;
        let mut hash = blake3::Hasher::new();
        let (mut size, mut index) = (0u64, 0u64);
        loop {
            let mut message = BytesMut::zeroed(HEADER + chunk);
            let mut length = 0;
            while let Some(place) =
                message.get_mut(HEADER + length..).filter(|place| !place.is_empty())
            {
                match from.read(place) {
                    Ok(0) => break,
                    Ok(count) => length += count,
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(error) => {
                        control.abort();
                        let text = format!("cannot read {name}: {error}");
                        return Err(Trouble::Lasting(Failure::Failed(text)));
                    }
                }
            }
            if length == 0 {
                break;
            }
            message.truncate(HEADER + length);
            hash.update(message.get(HEADER..).unwrap_or_default());
            protocol::put_header(&mut message, 0, index, &[0; 32]);
            if let Some(rate) = self.arguments.rate {
                let at = Duration::from_secs_f64(size as f64 * 8.0 / rate as f64);
                self.interrupt.sleep_until(self.begin + at)?;
            }
            self.interrupt.wait_for(control.send(Message::new(message.freeze())))??;
            (size, index) = (size + length as u64, index + 1);
        }
        let hash = hash.finalize().to_hex().to_string();
        self.ask(control, &json!({"type": "finish", "size": size, "blake3": hash}))?;
        drop(self.interrupt.wait_for(control.close()));
        Ok((size, hash))
    }

    fn report(&mut self) -> Outcome {
        self.progress.clear();
        let seconds = self.begin.elapsed().as_secs_f64();
        let results: Vec<&Sent> = self.results.iter().flatten().collect();
        let failed = results.iter().filter(|result| result.error.is_some()).count();
        let sent = results.iter().filter(|result| result.error.is_none());
        let bytes: u64 = sent.clone().map(|result| result.size).sum();
        let files = sent.filter(|result| result.blake3.is_some()).count();
        let rate = bytes.saturating_sub(self.resumed) as f64 * 8.0 / seconds.max(1e-9);
        let mut output = Output::open()?;
        if self.arguments.json {
            let list: Vec<Value> = results
                .iter()
                .map(|result| {
                    json!({
                        "name": result.name,
                        "bytes": result.size,
                        "blake3": result.blake3,
                        "sha256": result.sha256,
                        "error": result.error,
                    })
                })
                .collect();
            let value = json!({
                "schema_version": SCHEMA_VERSION,
                "ok": failed == 0,
                "files": files,
                "bytes": bytes,
                "bytes_resumed": self.resumed,
                "seconds": seconds,
                "bits_per_second": rate,
                "entries": list,
            });
            output.line(&value.to_string())?;
        } else {
            for result in &results {
                if let Some(sha256) = &result.sha256 {
                    output.line(&format!("{sha256}  {}", result.name))?;
                }
            }
            let again = match self.resumed {
                0 => String::new(),
                resumed => format!(", {} of it were there", show_bytes(resumed as f64)),
            };
            output.line(&format!(
                "sent {files} files, {}{again}, in {seconds:.1} s, {}",
                show_bytes(bytes as f64),
                show_rate(rate)
            ))?;
        }
        let Some(first) = results.iter().find_map(|result| {
            result.error.as_ref().map(|error| format!("{}: {error}", result.name))
        }) else {
            return Ok(());
        };
        Err(Failure::Failed(match failed {
            1 => first,
            more => format!("{first}; and {} more were not sent", more - 1),
        }))
    }
}

/// What the receiver says of a file: its number, BLAKE3, SHA-256, and why it failed.
type News = (usize, Option<String>, Option<String>, Option<String>);
