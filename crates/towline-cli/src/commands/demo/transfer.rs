//! What crosses the bad link: a file one way and numbered messages the other way, and the checks on the receiving sides.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use towline::{Connection, ConnectionStats, Listener, Message, RecvError};

use super::random::Random;
use crate::failure::{Failure, Outcome};
use crate::interrupt::Interrupt;

/// Bytes of the file in one message: fits ftcp's largest, 65,519 bytes, beside its number.
pub(super) const CHUNK: usize = 32 << 10;

/// Bytes of a numbered message from the server.
const NOTE: usize = 512;

/// Chunks on ftcp wires that wait for their replies at once.
pub(super) const WINDOW: u64 = 16;

/// What is sent, and where it goes.
pub(super) struct Load {
    pub(super) source: PathBuf,
    pub(super) hash: [u8; 32],
    pub(super) bytes: u64,
    /// Numbered messages from the server.
    pub(super) notes: u64,
}

impl Load {
    /// Writes the file.
    pub(super) fn generate(
        source: PathBuf,
        bytes: u64,
        notes: u64,
        seed: u64,
    ) -> std::io::Result<Load> {
        let mut random = Random::new(seed);
        let mut file = BufWriter::new(File::create(&source)?);
        let mut hash = Sha256::new();
        let mut buffer = vec![0; CHUNK];
        let mut left = bytes;
        while left > 0 {
            random.fill(&mut buffer);
            let data = buffer.get(..left.min(CHUNK as u64) as usize).unwrap_or_default();
            file.write_all(data)?;
            hash.update(data);
            left -= data.len() as u64;
        }
        file.into_inner()?.sync_all()?;
        Ok(Load { source, hash: hash.finalize().into(), bytes, notes })
    }

    pub(super) fn chunks(&self) -> u64 {
        self.bytes.div_ceil(CHUNK as u64)
    }

    /// Whether the file at `path` has the same SHA-256.
    pub(super) fn check(&self, path: &Path) -> Outcome {
        let mut hash = Sha256::new();
        let mut file = File::open(path).map_err(Failure::failed)?;
        let mut buffer = vec![0; CHUNK];
        loop {
            let count = file.read(&mut buffer).map_err(Failure::failed)?;
            if count == 0 {
                break;
            }
            hash.update(buffer.get(..count).unwrap_or_default());
        }
        match <[u8; 32]>::from(hash.finalize()) == self.hash {
            true => Ok(()),
            false => Err(Failure::failed("the received file differs from the sent one")),
        }
    }
}

/// What is seen while it runs.
pub(super) struct Watch {
    pub(super) bytes: AtomicU64,
    pub(super) messages: AtomicU64,
    pub(super) repeats: AtomicU64,
    gap: Mutex<(Instant, Duration)>,
}

impl Watch {
    pub(super) fn new() -> Watch {
        Watch {
            bytes: AtomicU64::new(0),
            messages: AtomicU64::new(0),
            repeats: AtomicU64::new(0),
            gap: Mutex::new((Instant::now(), Duration::ZERO)),
        }
    }

    /// A chunk of the file was delivered to the server.
    fn chunk(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.messages.fetch_add(1, Ordering::Relaxed);
        if let Ok(mut gap) = self.gap.lock() {
            let now = Instant::now();
            *gap = (now, gap.1.max(now - gap.0));
        }
    }

    /// The longest time between two deliveries of the file's chunks.
    pub(super) fn longest_gap(&self) -> Duration {
        self.gap.lock().map(|gap| gap.1).unwrap_or_default()
    }
}

/// A message: its number, and data.
fn numbered(number: u64, data: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(8 + data.len());
    message.extend_from_slice(&number.to_le_bytes());
    message.extend_from_slice(data);
    message
}

fn split(message: &Message) -> Outcome<(u64, &[u8])> {
    match message.data.split_first_chunk::<8>() {
        Some((number, data)) => Ok((u64::from_le_bytes(*number), data)),
        None => Err(Failure::failed("a message arrived without its number")),
    }
}

fn wrong_order(expected: u64, number: u64) -> Failure {
    Failure::Failed(match number < expected {
        true => format!("message {number} arrived twice"),
        false => format!("message {number} arrived in place of {expected}"),
    })
}

/// Reads the file chunk by chunk.
struct Chunks {
    file: BufReader<File>,
    next: u64,
}

impl Chunks {
    fn open(load: &Load) -> Outcome<Chunks> {
        let file = File::open(&load.source).map_err(Failure::failed)?;
        Ok(Chunks { file: BufReader::new(file), next: 0 })
    }

    fn next(&mut self) -> Outcome<Vec<u8>> {
        let mut data = Vec::with_capacity(CHUNK);
        let part = self.file.by_ref().take(CHUNK as u64);
        part.take(CHUNK as u64).read_to_end(&mut data).map_err(Failure::failed)?;
        let message = numbered(self.next, &data);
        self.next += 1;
        Ok(message)
    }
}

/// One transfer: what all its threads share.
pub(super) struct Transfer<'a> {
    pub(super) load: &'a Load,
    pub(super) watch: &'a Watch,
    pub(super) interrupt: &'a Interrupt,
    pub(super) target: &'a Path,
}

impl Transfer<'_> {
    /// Session wires, client: sends the file, and waits until the peer has acknowledged it.
    pub(super) fn send_file(&self, connection: &Connection) -> Outcome {
        let mut chunks = Chunks::open(self.load)?;
        for _ in 0..self.load.chunks() {
            self.interrupt.wait_for(connection.send(chunks.next()?))??;
        }
        Ok(self.interrupt.wait_for(connection.flush())??)
    }

    /// Session wires, server: sends the numbered messages.
    pub(super) fn send_notes(&self, connection: &Connection) -> Outcome {
        for number in 0..self.load.notes {
            self.interrupt.wait_for(connection.send(numbered(number, &[0x2e; NOTE - 8])))??;
        }
        Ok(self.interrupt.wait_for(connection.flush())??)
    }

    /// Session wires, client: takes the numbered messages, which must come in order, each once.
    pub(super) fn receive_notes(&self, connection: &Connection) -> Outcome {
        for expected in 0..self.load.notes {
            let message = self.interrupt.wait_for(connection.recv())??;
            let (number, _) = split(&message)?;
            if number != expected {
                return Err(wrong_order(expected, number));
            }
            self.watch.messages.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Session wires, server: writes the file from chunks, which must come in order, each once.
    pub(super) fn receive_file(&self, connection: &Connection) -> Outcome {
        let mut file = BufWriter::new(File::create(self.target).map_err(Failure::failed)?);
        for expected in 0..self.load.chunks() {
            let message = self.interrupt.wait_for(connection.recv())??;
            let (number, data) = split(&message)?;
            if number != expected {
                return Err(wrong_order(expected, number));
            }
            file.write_all(data).map_err(Failure::failed)?;
            self.watch.chunk(data.len());
        }
        file.flush().map_err(Failure::failed)
    }

    /// After the end of a connection: nothing more may have come than was sent.
    pub(super) fn nothing_more(&self, connection: &Connection) -> Outcome {
        match self.interrupt.wait_for(connection.recv())? {
            Err(RecvError::Ended(_)) => Ok(()),
            Err(error) => Err(error.into()),
            Ok(message) => Err(wrong_order(u64::MAX, split(&message)?.0)),
        }
    }

    /// ftcp wires, client: sends the file; every chunk is answered, and a window of them is under way at once.
    /// The connection keeps what is not answered and sends it again after a cut.
    pub(super) fn ask_file(&self, connection: &Connection) -> Outcome {
        let mut chunks = Chunks::open(self.load)?;
        let mut answered = 0;
        while answered < self.load.chunks() {
            while chunks.next < self.load.chunks() && chunks.next < answered + WINDOW {
                self.interrupt.wait_for(connection.send(chunks.next()?))??;
            }
            let reply = self.interrupt.wait_for(connection.recv())??;
            let (number, _) = split(&reply)?;
            match number.cmp(&answered) {
                // Asked again after a cut, and answered again.
                std::cmp::Ordering::Less => {}
                std::cmp::Ordering::Equal => {
                    answered += 1;
                    self.watch.messages.fetch_add(1, Ordering::Relaxed);
                }
                std::cmp::Ordering::Greater => return Err(wrong_order(answered, number)),
            }
        }
        Ok(())
    }

    /// ftcp wires, server: answers every chunk, and writes those that it has not seen. Every cut brings a new connection.
    /// `done` ends it. Returns the counters of its connections.
    pub(super) fn answer_file(
        &self,
        listener: &Listener,
        done: &Interrupt,
        deadline: Instant,
    ) -> Outcome<Vec<ConnectionStats>> {
        let mut file = BufWriter::new(File::create(self.target).map_err(Failure::failed)?);
        let (mut expected, mut stats) = (0, Vec::new());
        while let Ok(accepted) = done.wait_for(listener.accept()) {
            let connection = accepted?;
            connection.set_deadline(Some(deadline));
            while let Ok(Ok(message)) = done.wait_for(connection.recv()) {
                let (number, data) = split(&message)?;
                match number.cmp(&expected) {
                    std::cmp::Ordering::Less => {
                        self.watch.repeats.fetch_add(1, Ordering::Relaxed);
                    }
                    std::cmp::Ordering::Equal => {
                        file.write_all(data).map_err(Failure::failed)?;
                        self.watch.chunk(data.len());
                        expected += 1;
                    }
                    std::cmp::Ordering::Greater => return Err(wrong_order(expected, number)),
                }
                if expected == self.load.chunks() {
                    file.flush().map_err(Failure::failed)?;
                }
                let reply = Message::reply_to(&message, number.to_le_bytes().to_vec());
                // A cut in between is no matter: the chunk comes again, and is answered then.
                done.wait_for(connection.send(reply)).ok();
            }
            stats.push(connection.stats());
            connection.abort();
        }
        Ok(stats)
    }
}
