//! The receiving side: transfers, their files, and the connections that bring chunks.

use std::collections::HashMap;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use serde_json::{Value, json};
use towline::{Connection, Ended, Message, RecvError};

use super::held::Held;
use super::names;
use super::part::{self, Part};
use super::protocol::{self, Answer, Entry, Kind, MAX_CHUNKS, MAX_ENTRIES, text};
use super::tree::{self, ChunkHash};
use crate::failure::{Failure, Outcome};
use crate::interrupt::{Interrupt, Signal, block_on};
use crate::output::text::hex;
use crate::output::{Notes, Output};

/// Where files go.
pub(super) enum Target {
    Directory(PathBuf),
    Standard(Mutex<Output>),
}

/// What the options say, and what is under way.
pub(super) struct Receiver<'a> {
    pub(super) target: Target,
    pub(super) overwrite: bool,
    pub(super) sync: bool,
    /// Ends everything, at once or when its time to drain is over.
    pub(super) interrupt: &'a Interrupt,
    pub(super) notes: &'a Notes,
    pub(super) held: Held,
    pub(super) transfers: Mutex<HashMap<String, Arc<Transfer>>>,
    /// Tells each transfer that is over.
    pub(super) over: Box<dyn Fn(&Summary) + Send + Sync + 'a>,
}

/// One transfer, when it is over.
#[derive(Clone, Debug, Default)]
pub(super) struct Summary {
    pub(super) files: u64,
    pub(super) bytes: u64,
    pub(super) seconds: f64,
    pub(super) failed: Vec<String>,
}

/// What a sender gives.
pub(super) struct Transfer {
    chunk: u64,
    control: Connection,
    begin: std::time::Instant,
    files: RwLock<Vec<Arc<Incoming>>>,
    chunks: AtomicU64,
    summary: Mutex<Summary>,
}

pub(super) struct Incoming {
    entry: Entry,
    /// `None`: refused.
    path: Option<PathBuf>,
    state: Mutex<State>,
    /// Held by whoever writes to the file, so that a sender who takes it over can wait for that.
    writing: RwLock<()>,
}

/// What a sender is told whose file another one has begun to send.
const TAKEN: &str = "another sender has begun to send a file of this name";

impl Incoming {
    fn new(entry: Entry, path: Option<PathBuf>) -> Incoming {
        Incoming { entry, path, state: Mutex::default(), writing: RwLock::default() }
    }

    /// Another sender writes to the name from now on: nothing of this one reaches the file any more.
    pub(super) fn take(&self) {
        let _writing = self.writing.write().unwrap_or_else(PoisonError::into_inner);
        let mut state = lock(&self.state);
        if !state.done {
            (state.part, state.taken) = (None, true);
        }
    }
}

#[derive(Default)]
struct State {
    part: Option<Part>,
    /// Another sender has the name now.
    taken: bool,
    /// What the sender says of the whole.
    finish: Option<(String, Option<String>)>,
    /// The file is there already: this is its hash.
    there: Option<[u8; 32]>,
    done: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why a connection is ended by this side.
enum Fault {
    /// The peer does not keep to the conversation.
    Peer(String),
    /// This side cannot go on.
    Own(String),
}

fn peer(reason: &str) -> Fault {
    Fault::Peer(reason.to_owned())
}

/// A failure of this side's file system, and what to do about it.
fn own(path: &Path, error: &std::io::Error) -> Fault {
    let hint = match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            "; make room there and run the same command again, it goes on where it was"
        }
        std::io::ErrorKind::FileTooLarge => {
            "; the limit of the file system or of the process has to be raised"
        }
        std::io::ErrorKind::PermissionDenied => "; choose another directory with --out",
        _ => "",
    };
    Fault::Own(format!("cannot write {}: {error}{hint}", path.display()))
}

impl Receiver<'_> {
    /// Deals with one connection to its end.
    pub(super) fn serve(&self, connection: &Connection) -> Outcome {
        let Some((id, transfer, control)) = self.greet(connection)? else { return Ok(()) };
        let outcome = match &self.target {
            Target::Standard(output) => self.take_stream(connection, Some(output)),
            Target::Directory(_) => self.take_all(connection, &transfer),
        };
        if control {
            let mut transfers = lock(&self.transfers);
            if transfers.get(&id).is_some_and(|known| Arc::ptr_eq(known, &transfer)) {
                transfers.remove(&id);
            }
        }
        match outcome {
            Ok(()) => Ok(()),
            Err(Gone::Fault(fault)) => {
                let (code, reason) = match fault {
                    Fault::Peer(reason) => (protocol::CODE_REFUSED, reason),
                    Fault::Own(reason) => (protocol::CODE_FAILED, reason),
                };
                drop(transfer.control.close_with(code, &reason));
                self.interrupt.wait_for(connection.close_with(code, &reason))?.ok();
                Err(Failure::Failed(reason))
            }
            Err(Gone::Failure(Failure::Interrupted(Signal::Terminate))) => {
                block_on(connection.close_with(protocol::CODE_ENDING, "the receiver is ending"))
                    .ok();
                Err(Failure::Interrupted(Signal::Terminate))
            }
            Err(Gone::Failure(failure)) => Err(failure),
        }
    }

    /// The first message says which transfer the connection belongs to.
    fn greet(&self, connection: &Connection) -> Outcome<Option<(String, Arc<Transfer>, bool)>> {
        let message = match self.interrupt.wait_for(connection.recv())? {
            Ok(message) => message,
            Err(_) => return Ok(None),
        };
        let refuse = |reason: &str| {
            drop(connection.close_with(protocol::CODE_REFUSED, reason));
            self.notes.warn(&format!("a peer was turned away: {reason}"));
            Ok(None)
        };
        let Kind::Control(hello) = protocol::kind(&message) else {
            return refuse("this is `towline receive`: use `towline send`");
        };
        let number = |key: &str| hello.get(key).and_then(Value::as_u64);
        if text(&hello, "type") != "hello" {
            return refuse("this is `towline receive`: use `towline send`");
        }
        if number("version") != Some(protocol::VERSION) {
            return refuse(
                "another version of the conversation: use the same towline on both sides",
            );
        }
        let id = text(&hello, "transfer").to_owned();
        let chunk = number("chunk").unwrap_or(0);
        let known = chunk == protocol::LARGE as u64 || chunk == protocol::SMALL as u64;
        if id.is_empty() || id.len() > 64 || !known {
            return refuse("a hello without a transfer");
        }
        let control = text(&hello, "role") == "control";
        let transfer = {
            let mut transfers = lock(&self.transfers);
            match (control, transfers.get(&id)) {
                (false, Some(transfer)) => Some(Arc::clone(transfer)),
                (true, None) => {
                    let transfer = Arc::new(Transfer {
                        chunk,
                        control: connection.clone(),
                        begin: std::time::Instant::now(),
                        files: RwLock::default(),
                        chunks: AtomicU64::new(0),
                        summary: Mutex::default(),
                    });
                    transfers.insert(id.clone(), Arc::clone(&transfer));
                    Some(transfer)
                }
                _ => None,
            }
        };
        let Some(transfer) = transfer else { return refuse("no such transfer") };
        let stream = matches!(self.target, Target::Standard(_));
        let ready = json!({"type": "ready", "stream": stream});
        if connection.try_send(protocol::reply(&message, &ready)).is_err() {
            return Ok(None);
        }
        Ok(Some((id, transfer, control)))
    }

    fn next(&self, connection: &Connection) -> Result<Option<Message>, Gone> {
        let signal = |signal| Gone::Failure(Failure::Interrupted(signal));
        match self.interrupt.wait_for(connection.recv()).map_err(signal)? {
            Ok(message) => Ok(Some(message)),
            Err(RecvError::Ended(Ended::ByPeer { code: 0, .. } | Ended::Closed)) => Ok(None),
            Err(error) => Err(Gone::Failure(error.into())),
        }
    }

    fn take_all(&self, connection: &Connection, transfer: &Transfer) -> Result<(), Gone> {
        while let Some(message) = self.next(connection)? {
            match protocol::kind(&message) {
                Kind::Chunk { file, chunk, hash, data } => {
                    self.chunk(transfer, file, chunk, hash, &data)?;
                }
                Kind::Control(value) => match text(&value, "type") {
                    "entries" => {
                        let answers = self.entries(transfer, &value)?;
                        let reply = protocol::reply(&message, &json!({ "answers": answers }));
                        self.say(connection, reply)?;
                    }
                    "finish" => self.finish(transfer, &value)?,
                    "abandon" => self.abandon(transfer, &value)?,
                    "stream" => {
                        let name = text(&value, "name").to_owned();
                        return self.stream_file(connection, &message, &name);
                    }
                    "end" => {
                        self.end(transfer);
                        self.say(connection, protocol::reply(&message, &json!({})))?;
                    }
                    _ => return Err(peer("an unexpected message").into()),
                },
                Kind::Unknown => return Err(peer("an unexpected message").into()),
            }
        }
        Ok(())
    }

    fn say(&self, connection: &Connection, message: Message) -> Result<(), Gone> {
        let signal = |signal| Gone::Failure(Failure::Interrupted(signal));
        match self.interrupt.wait_for(connection.send(message)).map_err(signal)? {
            Ok(_) => Ok(()),
            Err(error) => Err(Gone::Failure(error.into())),
        }
    }

    /// Notes what is offered, and says what is there of it.
    fn entries(&self, transfer: &Transfer, value: &Value) -> Result<Vec<Value>, Fault> {
        let offered = value.get("entries").and_then(Value::as_array);
        let offered = offered.ok_or_else(|| peer("a batch without entries"))?;
        let mut files = transfer.files.write().unwrap_or_else(PoisonError::into_inner);
        let first = value.get("first").and_then(Value::as_u64);
        if first != Some(files.len() as u64) || files.len() + offered.len() > MAX_ENTRIES {
            return Err(peer("a batch out of order, or too many files"));
        }
        let mut answers = Vec::new();
        for entry in offered {
            let entry = Entry::from_json(entry).ok_or_else(|| peer("an entry that is none"))?;
            let chunks = tree::chunks(entry.size.unwrap_or(0), transfer.chunk);
            let before = transfer.chunks.fetch_add(chunks, Ordering::Relaxed);
            if before.saturating_add(chunks) > MAX_CHUNKS {
                return Err(peer("more data than one transfer may have"));
            }
            let (incoming, answer) = self.consider(entry, transfer.chunk)?;
            if let Answer::Refused(reason) = &answer {
                let text = format!("{}: {reason}", incoming.entry.name);
                lock(&transfer.summary).failed.push(text);
            }
            files.push(incoming);
            answers.push(answer.to_json());
        }
        Ok(answers)
    }

    fn consider(&self, entry: Entry, chunk: u64) -> Result<(Arc<Incoming>, Answer), Fault> {
        let Target::Directory(directory) = &self.target else {
            return Err(peer("entries for standard output"));
        };
        let refused =
            |entry, reason| Ok((Arc::new(Incoming::new(entry, None)), Answer::Refused(reason)));
        let path = match names::resolve(directory, &entry.name) {
            Ok(path) => path,
            Err(reason) => return refused(entry, reason),
        };
        if entry.size.is_none() {
            part::make_directory(&path).map_err(|error| own(&path, &error))?;
            let incoming = Arc::new(Incoming::new(entry, Some(path)));
            return Ok((incoming, Answer::Wanted(Vec::new())));
        }
        if let (false, Ok(found)) = (self.overwrite, path.symlink_metadata()) {
            let same = found.is_file() && Some(found.len()) == entry.size;
            let there = if same { part::blake3_of(&path).ok() } else { None };
            if there.is_none() {
                let reason = "it exists; --overwrite at the receiver replaces it".to_owned();
                return refused(entry, reason);
            }
            let all = 0..tree::chunks(entry.size.unwrap_or(0), chunk);
            let incoming = Arc::new(Incoming::new(entry, Some(path)));
            // The sender's hash tells whether it is the same.
            lock(&incoming.state).there = there;
            return Ok((incoming, Answer::Wanted(vec![all])));
        }
        let incoming = Arc::new(Incoming::new(entry, Some(path.clone())));
        // Locked until what is there was read: whoever comes next for the name waits for that.
        let mut state = lock(&incoming.state);
        self.held.take_over(&path, &incoming);
        let mut have = Vec::new();
        let (data, record) = names::unfinished(&path);
        if data.exists() && record.exists() {
            let part =
                Part::open(&path, &incoming.entry, chunk).map_err(|error| own(&path, &error))?;
            have = part.have();
            if !have.is_empty() {
                state.part = Some(part);
            }
        }
        drop(state);
        Ok((incoming, Answer::Wanted(have)))
    }

    fn file(&self, transfer: &Transfer, index: usize) -> Result<Arc<Incoming>, Fault> {
        let files = transfer.files.read().unwrap_or_else(PoisonError::into_inner);
        files.get(index).cloned().ok_or_else(|| peer("a file that was not offered"))
    }

    fn chunk(
        &self,
        transfer: &Transfer,
        file: usize,
        index: u64,
        hash: ChunkHash,
        data: &[u8],
    ) -> Result<(), Fault> {
        let incoming = self.file(transfer, file)?;
        let Some(path) = &incoming.path else { return Err(peer("a file that was refused")) };
        let _writing = incoming.writing.read().unwrap_or_else(PoisonError::into_inner);
        let (handle, length, count, chunk) = {
            let mut state = lock(&incoming.state);
            if state.taken {
                // Its sender is told when it has said everything.
                return Ok(());
            }
            if state.done || state.there.is_some() {
                return Err(peer("a file that is complete"));
            }
            let part = match &mut state.part {
                Some(part) => part,
                none => {
                    let part = Part::open(path, &incoming.entry, transfer.chunk);
                    none.insert(part.map_err(|error| own(path, &error))?)
                }
            };
            let handle = part.data().map_err(|error| own(path, &error))?;
            (handle, part.length_of(index), part.chunks(), part.chunk_size())
        };
        let length = length.ok_or_else(|| peer("a chunk beyond the end of its file"))?;
        if data.len() != length || tree::hash_chunk(data, index, count, chunk) != hash {
            return Err(peer("a chunk that is not what its hash says"));
        }
        handle
            .write_all_at(data, index.saturating_mul(chunk))
            .map_err(|error| own(path, &error))?;
        let mut state = lock(&incoming.state);
        if let Some(part) = &mut state.part {
            part.written(index, hash).map_err(|error| own(path, &error))?;
        }
        self.complete(transfer, file, &incoming, &mut state)
    }

    fn finish(&self, transfer: &Transfer, value: &Value) -> Result<(), Fault> {
        let file = number(value, "file")?;
        let incoming = self.file(transfer, file)?;
        let sha256 = value.get("sha256").and_then(Value::as_str).map(str::to_owned);
        let mut state = lock(&incoming.state);
        state.finish = Some((text(value, "blake3").to_owned(), sha256));
        self.complete(transfer, file, &incoming, &mut state)
    }

    /// Names the file if all of it is there.
    fn complete(
        &self,
        transfer: &Transfer,
        file: usize,
        incoming: &Incoming,
        state: &mut State,
    ) -> Result<(), Fault> {
        let Some((blake3, sha256)) = state.finish.clone() else { return Ok(()) };
        let Some(path) = &incoming.path else { return Err(peer("a file that was refused")) };
        let error = if state.taken {
            Some(TAKEN.to_owned())
        } else if let Some(there) = state.there {
            (hex(&there) != blake3).then(|| {
                "another file has that name; --overwrite at the receiver replaces it".to_owned()
            })
        } else {
            let Some(part) = state.part.as_mut().filter(|part| part.is_complete()) else {
                return Ok(());
            };
            let mut hash = [0; 32];
            let decoded = unhex(&blake3, &mut hash);
            match part.finish(&hash, sha256.as_deref(), self.overwrite, self.sync) {
                Ok(()) if decoded => None,
                Ok(()) | Err(None) => Some("its hash is wrong; send it again".to_owned()),
                Err(Some(error)) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                    Some("it exists; --overwrite at the receiver replaces it".to_owned())
                }
                Err(Some(error)) => return Err(own(path, &error)),
            }
        };
        (state.part, state.done) = (None, true);
        {
            let mut summary = lock(&transfer.summary);
            match &error {
                None => {
                    summary.files += 1;
                    summary.bytes += incoming.entry.size.unwrap_or(0);
                }
                Some(error) => summary.failed.push(format!("{}: {error}", incoming.entry.name)),
            }
        }
        self.tell(transfer, file, Some(&blake3), sha256.as_deref(), error.as_deref());
        Ok(())
    }

    /// Tells the sender what became of a file.
    fn tell(
        &self,
        transfer: &Transfer,
        file: usize,
        blake3: Option<&str>,
        sha256: Option<&str>,
        error: Option<&str>,
    ) {
        let value = json!({
            "type": "done", "file": file, "blake3": blake3, "sha256": sha256, "error": error,
        });
        // A sender that has gone asks again when it comes back.
        drop(self.interrupt.wait_for(transfer.control.send(protocol::control(&value))));
    }

    /// The sender cannot give a file; what is there of it stays.
    fn abandon(&self, transfer: &Transfer, value: &Value) -> Result<(), Fault> {
        let file = number(value, "file")?;
        let incoming = self.file(transfer, file)?;
        let reason: String = text(value, "reason").chars().take(500).collect();
        lock(&incoming.state).done = true;
        lock(&transfer.summary).failed.push(format!("{}: {reason}", incoming.entry.name));
        self.tell(transfer, file, None, None, Some(&reason));
        Ok(())
    }

    /// Everything was said: directories get their times, which making files in them changes.
    fn end(&self, transfer: &Transfer) {
        let files = transfer.files.read().unwrap_or_else(PoisonError::into_inner);
        for incoming in files.iter().rev().filter(|incoming| incoming.entry.size.is_none()) {
            if let Some(path) = &incoming.path
                && let Err(error) = part::finish_directory(path, &incoming.entry)
            {
                self.notes.warn(&format!("{}: {error}", path.display()));
            }
        }
        let mut summary = lock(&transfer.summary).clone();
        summary.seconds = transfer.begin.elapsed().as_secs_f64();
        (self.over)(&summary);
    }

    /// A stream for standard output: the sender asks for it first.
    fn take_stream(
        &self,
        connection: &Connection,
        output: Option<&Mutex<Output>>,
    ) -> Result<(), Gone> {
        let Some(message) = self.next(connection)? else { return Ok(()) };
        let Kind::Control(value) = protocol::kind(&message) else {
            return Err(peer("an unexpected message").into());
        };
        if text(&value, "type") != "stream" {
            return Err(Fault::Own(
                "this receiver writes to standard output: it takes one file".into(),
            )
            .into());
        }
        self.say(connection, protocol::reply(&message, &json!({})))?;
        let Some(output) = output else { return Ok(()) };
        let mut output = lock(output);
        let wrong = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::BrokenPipe => Gone::Failure(Failure::OutputClosed),
            _ => Fault::Own(format!("cannot write standard output: {error}")).into(),
        };
        self.pour(connection, |data| output.write_all(data).map_err(wrong), || Ok(None))?;
        Ok(output.flush()?)
    }

    /// A stream of unknown length into a file.
    fn stream_file(
        &self,
        connection: &Connection,
        asked: &Message,
        name: &str,
    ) -> Result<(), Gone> {
        let Target::Directory(directory) = &self.target else { return Ok(()) };
        let path = match names::resolve(directory, name) {
            Ok(path) if self.overwrite || path.symlink_metadata().is_err() => path,
            Ok(_) => {
                return self.refuse(
                    connection,
                    asked,
                    &format!("{name} exists; --overwrite at the receiver replaces it"),
                );
            }
            Err(reason) => return self.refuse(connection, asked, &reason),
        };
        let (part, _) = names::unfinished(&path);
        let fault = |error: std::io::Error| Gone::from(own(&path, &error));
        if let Some(parent) = part.parent() {
            std::fs::create_dir_all(parent).map_err(fault)?;
        }
        let entry = Entry { name: name.to_owned(), size: None, mode: 0, modified: (0, 0) };
        let incoming = Arc::new(Incoming::new(entry, Some(path.clone())));
        self.held.take_over(&path, &incoming);
        let mut file = std::fs::File::create(&part).map_err(fault)?;
        self.say(connection, protocol::reply(asked, &json!({})))?;
        let (overwrite, sync) = (self.overwrite, self.sync);
        let syncing = file.try_clone().map_err(fault)?;
        self.pour(
            connection,
            |data| {
                let _writing = incoming.writing.read().unwrap_or_else(PoisonError::into_inner);
                if lock(&incoming.state).taken {
                    return Err(peer(TAKEN).into());
                }
                file.write_all(data).map_err(fault)
            },
            || {
                let _writing = incoming.writing.read().unwrap_or_else(PoisonError::into_inner);
                if lock(&incoming.state).taken {
                    return Err(peer(TAKEN).into());
                }
                if sync {
                    syncing.sync_all().map_err(fault)?;
                }
                match part::put_in_place(&part, &path, overwrite) {
                    Ok(()) => Ok(None),
                    Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                        Ok(Some(format!("{name} exists; --overwrite at the receiver replaces it")))
                    }
                    Err(error) => Err(fault(error)),
                }
            },
        )
    }

    fn refuse(&self, connection: &Connection, asked: &Message, reason: &str) -> Result<(), Gone> {
        let value = json!({"type": "refused", "refused": reason});
        self.say(connection, protocol::reply(asked, &value))?;
        while self.next(connection)?.is_some() {}
        Ok(())
    }

    /// Takes chunks in order until the sender says what they should have been.
    fn pour(
        &self,
        connection: &Connection,
        mut write: impl FnMut(&[u8]) -> Result<(), Gone>,
        finish: impl FnOnce() -> Result<Option<String>, Gone>,
    ) -> Result<(), Gone> {
        let begin = std::time::Instant::now();
        let mut hash = blake3::Hasher::new();
        let mut bytes = 0;
        while let Some(message) = self.next(connection)? {
            match protocol::kind(&message) {
                Kind::Chunk { data, .. } => {
                    hash.update(&data);
                    bytes += data.len() as u64;
                    write(&data)?;
                }
                Kind::Control(value) if text(&value, "type") == "finish" => {
                    let same = hash.finalize().to_hex().as_str() == text(&value, "blake3");
                    let refused = match same {
                        true => finish()?,
                        false => Some("the hash is wrong; send it again".to_owned()),
                    };
                    let mut summary =
                        Summary { seconds: begin.elapsed().as_secs_f64(), ..Summary::default() };
                    let answer = match &refused {
                        Some(reason) => {
                            summary.failed.push(reason.clone());
                            json!({"type": "refused", "refused": reason})
                        }
                        None => {
                            (summary.files, summary.bytes) = (1, bytes);
                            json!({})
                        }
                    };
                    self.say(connection, protocol::reply(&message, &answer))?;
                    while self.next(connection)?.is_some() {}
                    (self.over)(&summary);
                    return Ok(());
                }
                _ => return Err(peer("an unexpected message").into()),
            }
        }
        Err(Gone::Failure(Failure::failed("the sender ended before the end of its stream")))
    }
}

fn number(value: &Value, key: &str) -> Result<usize, Fault> {
    let number = value.get(key).and_then(Value::as_u64);
    number
        .and_then(|number| usize::try_from(number).ok())
        .ok_or_else(|| peer("a message without its file"))
}

/// Reads hexadecimal into `bytes`; whether it was that.
fn unhex(text: &str, bytes: &mut [u8; 32]) -> bool {
    if text.len() != 64 || !text.is_ascii() {
        return false;
    }
    bytes.iter_mut().zip(text.as_bytes().chunks(2)).all(|(byte, digits)| {
        let parsed =
            std::str::from_utf8(digits).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok());
        parsed.map(|value| *byte = value).is_some()
    })
}

/// Why a connection is not served further.
enum Gone {
    Fault(Fault),
    Failure(Failure),
}

impl From<Fault> for Gone {
    fn from(fault: Fault) -> Gone {
        Gone::Fault(fault)
    }
}

impl From<std::io::Error> for Gone {
    fn from(error: std::io::Error) -> Gone {
        Gone::Failure(error.into())
    }
}
