//! The sending threads: each takes the next chunk that nobody has taken, reads it, hashes it, and sends it on its own connection.

use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use serde_json::json;
use towline::{Connection, Message, SendError};

use super::part::sha256_of;
use super::protocol::{self, HEADER};
use super::source::{OpenSource, Source};
use crate::interrupt::Interrupt;
use crate::output::text::hex;

/// How far behind its rate sending may catch up at once.
const BURST: Duration = Duration::from_millis(50);

/// One file that the receiver wants.
pub(super) struct Job {
    /// Its number.
    pub(super) file: usize,
    /// Chunks that the receiver has: hashed, not sent.
    pub(super) have: Vec<Range<u64>>,
}

struct Current {
    file: usize,
    have: Vec<Range<u64>>,
    open: Arc<OpenSource>,
    next: u64,
}

#[derive(Default)]
struct Queue {
    jobs: std::vec::IntoIter<Job>,
    current: Option<Current>,
}

/// A chunk to send.
struct Piece {
    file: usize,
    open: Arc<OpenSource>,
    index: u64,
    /// The receiver has it.
    have: bool,
}

/// What all lanes share.
pub(super) struct Lanes<'a> {
    pub(super) sources: &'a [Source],
    pub(super) chunk: u64,
    /// Carries what is not data.
    pub(super) control: &'a Connection,
    pub(super) stop: &'a Interrupt,
    pub(super) sha256: bool,
    /// Bits per second.
    pub(super) rate: Option<u64>,
    queue: Mutex<Queue>,
    due: Mutex<Instant>,
    /// Bytes of files that were sent or need not be.
    pub(super) bytes: AtomicU64,
    /// Bytes that the receiver had already.
    pub(super) resumed: AtomicU64,
}

impl<'a> Lanes<'a> {
    pub(super) fn new(
        sources: &'a [Source],
        chunk: u64,
        jobs: Vec<Job>,
        control: &'a Connection,
        stop: &'a Interrupt,
    ) -> Lanes<'a> {
        Lanes {
            sources,
            chunk,
            control,
            stop,
            sha256: false,
            rate: None,
            queue: Mutex::new(Queue { jobs: jobs.into_iter(), current: None }),
            due: Mutex::new(Instant::now()),
            bytes: AtomicU64::new(0),
            resumed: AtomicU64::new(0),
        }
    }

    /// Sends until there is nothing left to send.
    pub(super) fn run(&self, connection: &Connection) -> Result<(), SendError> {
        while let Some(piece) = self.take()? {
            if self.stop.signal().is_some() {
                break;
            }
            self.send(connection, &piece)?;
        }
        Ok(())
    }

    fn take(&self) -> Result<Option<Piece>, SendError> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(current) = &mut queue.current
                && current.next < current.open.chunks
            {
                let index = current.next;
                current.next += 1;
                return Ok(Some(Piece {
                    file: current.file,
                    open: Arc::clone(&current.open),
                    index,
                    have: current.have.iter().any(|range| range.contains(&index)),
                }));
            }
            queue.current = None;
            let Some(job) = queue.jobs.next() else { return Ok(None) };
            let Some(source) = self.sources.get(job.file) else { continue };
            match OpenSource::open(source, self.chunk) {
                Ok(open) => {
                    let (file, have, open) = (job.file, job.have, Arc::new(open));
                    queue.current = Some(Current { file, have, open, next: 0 });
                }
                Err(error) => self.abandon(job.file, &error.to_string())?,
            }
        }
    }

    /// Tells the receiver that a file will not come.
    fn abandon(&self, file: usize, reason: &str) -> Result<(), SendError> {
        let value = json!({"type": "abandon", "file": file, "reason": reason});
        self.say(self.control, protocol::control(&value))
    }

    fn say(&self, connection: &Connection, message: Message) -> Result<(), SendError> {
        match self.stop.wait_for(connection.send(message)) {
            Ok(sent) => sent.map(drop),
            // Whoever stops the lanes knows why.
            Err(_) => Ok(()),
        }
    }

    fn send(&self, connection: &Connection, piece: &Piece) -> Result<(), SendError> {
        let (start, length) = piece.open.place(piece.index);
        let mut message = BytesMut::zeroed(HEADER + length);
        let (header, data) = message.split_at_mut(HEADER);
        if let Err(error) = piece.open.file.read_exact_at(data, start) {
            self.skip(piece);
            let reason = match error.kind() {
                std::io::ErrorKind::UnexpectedEof => {
                    "it became shorter while it was read".to_owned()
                }
                _ => error.to_string(),
            };
            return self.abandon(piece.file, &reason);
        }
        let hash = piece.open.hash(data, piece.index);
        if piece.have {
            self.resumed.fetch_add(length as u64, Ordering::Relaxed);
        } else {
            protocol::put_header(header, piece.file, piece.index, &hash);
            self.pace(length);
            self.say(connection, Message::new(message.freeze()))?;
        }
        self.bytes.fetch_add(length as u64, Ordering::Relaxed);
        match piece.open.done(piece.index, hash) {
            Some(whole) => self.finish(piece, &whole),
            None => Ok(()),
        }
    }

    /// Nobody needs to read the rest of it.
    fn skip(&self, piece: &Piece) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.current.as_ref().is_some_and(|current| current.file == piece.file) {
            queue.current = None;
        }
    }

    fn finish(&self, piece: &Piece, hash: &[u8; 32]) -> Result<(), SendError> {
        let Some(source) = self.sources.get(piece.file) else { return Ok(()) };
        let sha256 = match self.sha256.then(|| sha256_of(&source.path)).transpose() {
            Ok(sha256) => sha256,
            Err(error) => return self.abandon(piece.file, &error.to_string()),
        };
        match piece.open.is_unchanged(source) {
            Ok(true) => {}
            Ok(false) => return self.abandon(piece.file, "it changed while it was read"),
            Err(error) => return self.abandon(piece.file, &error.to_string()),
        }
        let value = json!({
            "type": "finish",
            "file": piece.file,
            "blake3": hex(hash),
            "sha256": sha256,
        });
        self.say(self.control, protocol::control(&value))
    }

    /// Waits for the rate's sake; all lanes share it.
    fn pace(&self, bytes: usize) {
        let Some(rate) = self.rate else { return };
        let wake = {
            let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let earliest = now.checked_sub(BURST).unwrap_or(now);
            *due = (*due).max(earliest) + Duration::from_secs_f64(bytes as f64 * 8.0 / rate as f64);
            *due
        };
        self.stop.sleep_until(wake).ok();
    }
}
