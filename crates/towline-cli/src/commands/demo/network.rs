//! The demo's second part: a file and a stream of messages over each wire, through the same bad network, measured.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde_json::{Value, json};
use towline::{Config, Connection, Context, Endpoint, Handler, Message, Wire};

use super::route::{HOPS, LOSS, RATE, Route, Trust};
use crate::failure::{Failure, Outcome};
use crate::interrupt::Interrupt;
use crate::output::progress::Progress;
use crate::output::{svg, text};
use crate::units::{show_bytes, show_rate, show_time};

/// Application bytes of what a link carries: 29 bytes of headers in each datagram of 1,472, and Ethernet's framing.
const PAYLOAD: f64 = 0.953;

/// Wires that are measured, when they are asked for.
const WIRES: [Wire; 6] = [Wire::Tcp, Wire::Tls, Wire::Ws, Wire::Quic, Wire::Bats, Wire::Udp];

/// Bytes of the file in one message, and in one datagram.
const CHUNK: usize = 16 << 10;
const DATAGRAM: usize = 1_200;

/// Bytes of a message of the stream, and the time between two.
const NOTE: usize = 512;
const PACE: Duration = Duration::from_millis(10);

/// Bytes under way: some times what the network holds.
const FLIGHT: u64 = 512 << 10;

/// How long the file and the last answers may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// What comes so long after the last datagram does not come.
const SILENCE: Duration = Duration::from_millis(500);

/// Datagrams are sent at this share of what the network carries, whatever becomes of them.
const BLIND: f64 = 0.9;

const FILE: u8 = 0;
const ASKED: u8 = 1;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn limit() -> f64 {
    PAYLOAD * RATE as f64 * (1.0 - LOSS)
}

/// How much is sent.
pub(super) struct Size {
    pub(super) file: usize,
    pub(super) notes: u64,
}

pub(super) const FULL: Size = Size { file: 3 << 19, notes: 150 };
pub(super) const QUICK: Size = Size { file: 128 << 10, notes: 20 };

/// One wire's figures.
pub(super) struct Measured {
    wire: Wire,
    goodput: f64,
    share: f64,
    p50: Duration,
    p99: Duration,
    lost: u64,
    duplicated: u64,
    intact: bool,
}

/// Which numbered messages have come.
#[derive(Default)]
struct Seen {
    times: Vec<u32>,
}

impl Seen {
    fn note(&mut self, number: u64) {
        let at = usize::try_from(number).unwrap_or(usize::MAX);
        if let Some(times) = self.times.get_mut(at) {
            *times += 1;
        }
    }

    fn of(count: u64) -> Seen {
        Seen { times: vec![0; count as usize] }
    }

    fn lost(&self) -> u64 {
        self.times.iter().filter(|times| **times == 0).count() as u64
    }

    fn duplicated(&self) -> u64 {
        self.times.iter().map(|times| u64::from(times.saturating_sub(1))).sum()
    }
}

/// The file as the server gets it.
struct Arriving {
    file: Arc<[u8]>,
    chunk: usize,
    seen: Mutex<Seen>,
    bytes: AtomicU64,
    /// Chunks that are not what was sent.
    wrong: AtomicU64,
    last: Mutex<Instant>,
}

impl Arriving {
    fn new(file: Arc<[u8]>, chunk: usize) -> Arriving {
        let seen = Mutex::new(Seen::of(file.len().div_ceil(chunk) as u64));
        let last = Mutex::new(Instant::now());
        Arriving { file, chunk, seen, bytes: 0.into(), wrong: 0.into(), last }
    }

    fn take(&self, number: u64, data: &[u8]) {
        let at = usize::try_from(number).unwrap_or(usize::MAX).saturating_mul(self.chunk);
        let end = at.saturating_add(self.chunk).min(self.file.len());
        if self.file.get(at..end) != Some(data) {
            self.wrong.fetch_add(1, Relaxed);
        }
        lock(&self.seen).note(number);
        self.bytes.fetch_add(data.len() as u64, Relaxed);
        *lock(&self.last) = Instant::now();
    }
}

/// The server: takes the file, and answers everything else.
struct Server(Arc<Arriving>);

impl Handler for Server {
    fn message(&mut self, connection: &Connection, message: Message) {
        match split(&message.data) {
            Some((FILE, number, data)) => self.0.take(number, data),
            Some(_) => drop(connection.try_send(message.data)),
            None => drop(self.0.wrong.fetch_add(1, Relaxed)),
        }
    }
}

fn numbered(kind: u8, number: u64, data: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(9 + data.len());
    message.push(kind);
    message.extend_from_slice(&number.to_le_bytes());
    message.extend_from_slice(data);
    message
}

fn split(data: &[u8]) -> Option<(u8, u64, &[u8])> {
    let (kind, rest) = data.split_first()?;
    let (number, rest) = rest.split_first_chunk::<8>()?;
    Some((*kind, u64::from_le_bytes(*number), rest))
}

/// Every wire in turn.
pub(super) fn run(
    wanted: impl Fn(Wire) -> bool,
    size: &Size,
    file: &Arc<[u8]>,
    seed: u64,
    progress: &mut Progress,
    interrupt: &Interrupt,
) -> Outcome<Vec<Measured>> {
    let trust = Trust::new()?;
    let wires = WIRES.into_iter().filter(|wire| wanted(*wire));
    wires
        .map(|wire| {
            let turn = Turn { wire, size, file, interrupt };
            turn.run(&trust, seed, progress).map_err(|failure| match failure.message() {
                Some(words) => Failure::Failed(format!("{wire}, over the bad network: {words}")),
                None => failure,
            })
        })
        .collect()
}

/// One wire's turn.
struct Turn<'a> {
    wire: Wire,
    size: &'a Size,
    file: &'a Arc<[u8]>,
    interrupt: &'a Interrupt,
}

impl Turn<'_> {
    fn run(&self, trust: &Trust, seed: u64, progress: &mut Progress) -> Outcome<Measured> {
        let common = || Config::builder().receive_window(FLIGHT);
        let (there, here) = (trust.server(common())?, trust.client(common())?);
        let (far, near) =
            (Context::builder().threads(1).build()?, Context::builder().threads(1).build()?);
        let chunk = if self.is_blind() { DATAGRAM } else { CHUNK };
        let arriving = Arc::new(Arriving::new(Arc::clone(self.file), chunk));
        let taken = Arc::clone(&arriving);
        let listen = format!("{}://127.0.0.1:0", self.wire.scheme());
        let listener = Endpoint::new(&far, &there)
            .listen_with(&listen, move |_: &Connection| Server(Arc::clone(&taken)))?;
        let route = Route::to(self.wire, listener.local_address(), trust, seed)?;
        let client = Endpoint::new(&near, &here);
        let connection = self.interrupt.wait_for(client.connect(&route.url))??;
        connection.set_deadline(Some(Instant::now() + PATIENCE));

        let begun = Instant::now();
        let sent = self.send_file(&connection, &arriving, progress);
        progress.clear();
        sent?;
        // Until the last byte that came.
        let took = lock(&arriving.last).saturating_duration_since(begun);
        let goodput = arriving.bytes.load(Relaxed) as f64 * 8.0 / took.as_secs_f64().max(1e-3);
        let (times, answered) = self.send_notes(&connection)?;
        connection.abort();
        // Both ends go while there is a way between them for their last words: without it each would wait for the other.
        drop((connection, client, near));
        drop((listener, far, route));
        let seen = lock(&arriving.seen);
        let percentile = |share| Duration::from_micros(times.value_at_quantile(share));
        let (lost, duplicated) =
            (seen.lost() + answered.lost(), seen.duplicated() + answered.duplicated());
        let wrong = arriving.wrong.load(Relaxed);
        Ok(Measured {
            wire: self.wire,
            goodput,
            share: goodput / limit(),
            p50: percentile(0.5),
            p99: percentile(0.99),
            lost,
            duplicated,
            intact: wrong == 0 && (self.is_blind() || (lost, duplicated) == (0, 0)),
        })
    }

    /// Nobody there says what has arrived.
    fn is_blind(&self) -> bool {
        self.wire == Wire::Udp
    }

    fn send_file(
        &self,
        connection: &Connection,
        arriving: &Arriving,
        progress: &mut Progress,
    ) -> Outcome {
        let chunk = arriving.chunk;
        let gap = Duration::from_secs_f64(chunk as f64 * 8.0 / (BLIND * limit()));
        let begun = Instant::now();
        for (number, data) in self.file.chunks(chunk).enumerate() {
            if self.is_blind() {
                self.interrupt.sleep_until(begun + gap * number as u32)?;
            }
            let message = numbered(FILE, number as u64, data);
            self.interrupt.wait_for(connection.send(message))??;
            let bytes = arriving.bytes.load(Relaxed);
            progress.set(self.wire.scheme(), bytes, self.file.len() as u64, "");
        }
        if self.is_blind() {
            return Ok(self.interrupt.sleep_until(Instant::now() + SILENCE)?);
        }
        Ok(self.interrupt.wait_for(connection.flush())??)
    }

    /// A message at each beat, whatever has been answered: the times of the answers in microseconds, and which came.
    fn send_notes(&self, connection: &Connection) -> Outcome<(Histogram<u64>, Seen)> {
        let longest = PATIENCE.as_micros() as u64 * 2;
        let mut times = Histogram::new_with_bounds(1, longest, 3).map_err(Failure::failed)?;
        let mut seen = Seen::of(self.size.notes);
        let begun = Instant::now();
        let due = |number: u64| begun + PACE * number as u32;
        let all = due(self.size.notes);
        let mut next = 0;
        // Answers to all of them, or silence for too long.
        while seen.lost() > 0 {
            if next < self.size.notes && Instant::now() >= due(next) {
                let note = numbered(ASKED, next, &[0x2e; NOTE - 9]);
                self.interrupt.wait_for(connection.send(note))??;
                next += 1;
                continue;
            }
            let patience = if self.is_blind() { SILENCE } else { PATIENCE };
            let until = if next < self.size.notes { due(next) } else { all + patience };
            connection.set_read_deadline(Some(until));
            let Ok(message) = self.interrupt.wait_for(connection.recv())? else {
                if next == self.size.notes {
                    break;
                }
                self.interrupt.sleep_until(due(next))?;
                continue;
            };
            if let Some((ASKED, number, _)) = split(&message.data) {
                let took = Instant::now().saturating_duration_since(due(number));
                times.saturating_record(took.as_micros() as u64);
                seen.note(number);
            }
        }
        Ok((times, seen))
    }
}

impl Measured {
    pub(super) fn is_intact(&self) -> bool {
        self.intact
    }

    fn is_blind(&self) -> bool {
        self.wire == Wire::Udp
    }

    pub(super) fn to_json(&self) -> Value {
        json!({
            "wire": self.wire.scheme(),
            "goodput_mbps": self.goodput / 1e6,
            "share_of_limit": self.share,
            "rtt_ms": {"p50": self.p50.as_secs_f64() * 1e3, "p99": self.p99.as_secs_f64() * 1e3},
            "lost": self.lost,
            "duplicated": self.duplicated,
            "promises_delivery": !self.is_blind(),
            "ok": self.intact,
        })
    }
}

/// The table and what it shows.
pub(super) fn report(measured: &[Measured], size: &Size) -> String {
    let head = ["wire", "goodput", "of the limit", "RTT p50", "RTT p99", "lost", "duplicated"];
    let mut table = vec![head.map(str::to_owned).to_vec()];
    for one in measured {
        table.push(vec![
            one.wire.to_string(),
            show_rate(one.goodput),
            format!("{:.0} %", one.share * 100.0),
            show_time(one.p50),
            show_time(one.p99),
            one.lost.to_string(),
            one.duplicated.to_string(),
        ]);
    }
    format!(
        "{}\n\
        A file of {} and then {} messages, one every {} ms and each answered, went over {HOPS} links of 20 Mbit/s, 5 ms and 1 % loss: bats through a relay\n\
        between any two of them, where lost packets are made up for, the others from end to end. What takes loss for congestion slows down, and what waits\n\
        for a lost packet holds up the messages behind it; udp, sent at {:.0} % of the limit, shows what the network does to those who do nothing.",
        text::table(&table),
        show_bytes(size.file as f64),
        size.notes,
        PACE.as_millis(),
        BLIND * 100.0,
    )
}

/// The picture of it.
pub(super) fn draw(measured: &[Measured]) -> String {
    let rows: Vec<(String, f64, String)> = measured
        .iter()
        .map(|one| {
            let lost = if one.lost > 0 { format!(", {} lost", one.lost) } else { String::new() };
            let words = format!(
                "{}, {:.0} %, RTT p99 {}{lost}",
                show_rate(one.goodput),
                one.share * 100.0,
                show_time(one.p99)
            );
            (one.wire.to_string(), one.share, words)
        })
        .collect();
    let under = "towline demo: three links of 20 Mbit/s, 5 ms and 1 % loss, with two relays for bats; a whole bar is what they could carry";
    svg::bars("Goodput of a file over a bad network", &rows, under)
}
