//! A file that is being received: its data beside its name, and a record of the chunks that are in it.
//!
//! The record is a line of JSON that says what the file is, and then for each chunk its number and hash, added after the chunk was written.
//! Whoever comes back reads it, checks each chunk against its hash, and asks for the rest.

use std::fs::{File, FileTimes, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::names::unfinished;
use super::protocol::{Entry, MAX_RANGES};
use super::tree::{self, ChunkHash};

/// Bytes of a chunk in the record.
const RECORD: usize = 36;

/// What a command line or a peer may set of the mode: no set-user-id, no sticky bit.
const MODE: u32 = 0o777;

pub(super) struct Part {
    path: PathBuf,
    part: PathBuf,
    state: PathBuf,
    entry: Entry,
    chunk: u64,
    hashes: Vec<Option<ChunkHash>>,
    missing: u64,
    data: File,
    record: Option<File>,
}

/// What the record says the file is.
fn identity(entry: &Entry, chunk: u64) -> Value {
    json!({
        "towline": 1,
        "size": entry.size,
        "mtime": [entry.modified.0, entry.modified.1],
        "chunk": chunk,
    })
}

fn time(modified: (i64, u32)) -> SystemTime {
    let (seconds, nanos) = modified;
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let base = match seconds < 0 {
        true => UNIX_EPOCH.checked_sub(whole),
        false => UNIX_EPOCH.checked_add(whole),
    };
    let at = base.and_then(|base| base.checked_add(Duration::from_nanos(nanos.into())));
    at.unwrap_or(UNIX_EPOCH)
}

impl Part {
    /// Opens what is there of the file, or begins it. The sizes were checked against the limits.
    pub(super) fn open(path: &Path, entry: &Entry, chunk: u64) -> std::io::Result<Part> {
        let size = entry.size.unwrap_or(0);
        let count = tree::chunks(size, chunk);
        let (part, state) = unfinished(path);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let mut options = OpenOptions::new();
        // O_NOFOLLOW: what is there under this name may be anything.
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        options.custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32);
        let data = options.open(&part)?;
        let mut this = Part {
            path: path.to_owned(),
            part,
            state,
            entry: entry.clone(),
            chunk,
            hashes: vec![None; usize::try_from(count).unwrap_or(0)],
            missing: count,
            data,
            record: None,
        };
        if count > 1 {
            this.recall().ok();
            this.remember(&options)?;
        }
        this.data.set_len(size)?;
        Ok(this)
    }

    /// Reads the record, and believes of it what the data confirms.
    fn recall(&mut self) -> std::io::Result<()> {
        let mut record = BufReader::new(File::open(&self.state)?);
        let mut line = String::new();
        record.by_ref().take(4096).read_line(&mut line)?;
        let known: Value = serde_json::from_str(&line).map_err(std::io::Error::other)?;
        if known != identity(&self.entry, self.chunk) {
            return Ok(());
        }
        let mut one = [0; RECORD];
        let mut data = Vec::new();
        while record.read_exact(&mut one).is_ok() {
            let (index, hash) = one.split_at(4);
            let index = u64::from(u32::from_be_bytes(index.try_into().unwrap_or_default()));
            let Some(bytes) = self.length_of(index) else { continue };
            data.resize(bytes, 0);
            let read = self.data.read_exact_at(&mut data, index * self.chunk);
            let found = tree::hash_chunk(&data, index, self.hashes.len() as u64, self.chunk);
            if read.is_ok() && found[..] == *hash {
                self.note(index, found);
            }
        }
        Ok(())
    }

    /// Writes the record anew with what was believed, and keeps it open.
    fn remember(&mut self, options: &OpenOptions) -> std::io::Result<()> {
        let mut record = options.clone().truncate(true).open(&self.state)?;
        let mut text = identity(&self.entry, self.chunk).to_string().into_bytes();
        text.push(b'\n');
        for (index, hash) in self.hashes.iter().enumerate() {
            if let Some(hash) = hash {
                text.extend_from_slice(&(index as u32).to_be_bytes());
                text.extend_from_slice(hash);
            }
        }
        record.write_all(&text)?;
        self.record = Some(record);
        Ok(())
    }

    fn note(&mut self, index: u64, hash: ChunkHash) {
        let place = usize::try_from(index).ok().and_then(|index| self.hashes.get_mut(index));
        if let Some(place) = place
            && place.replace(hash).is_none()
        {
            self.missing -= 1;
        }
    }

    /// Bytes of a chunk, if the file has it.
    pub(super) fn length_of(&self, index: u64) -> Option<usize> {
        let size = self.entry.size.unwrap_or(0);
        if index >= self.hashes.len() as u64 {
            return None;
        }
        let start = index.checked_mul(self.chunk)?;
        usize::try_from(size.saturating_sub(start).min(self.chunk)).ok()
    }

    pub(super) fn chunks(&self) -> u64 {
        self.hashes.len() as u64
    }

    pub(super) fn chunk_size(&self) -> u64 {
        self.chunk
    }

    /// Another handle on the data, to write beside others.
    pub(super) fn data(&self) -> std::io::Result<File> {
        self.data.try_clone()
    }

    /// A chunk was written.
    pub(super) fn written(&mut self, index: u64, hash: ChunkHash) -> std::io::Result<()> {
        if let Some(record) = &mut self.record {
            let mut one = [0; RECORD];
            let (number, value) = one.split_at_mut(4);
            number.copy_from_slice(&u32::try_from(index).unwrap_or(u32::MAX).to_be_bytes());
            value.copy_from_slice(&hash);
            record.write_all(&one)?;
        }
        self.note(index, hash);
        Ok(())
    }

    /// The chunks that are there.
    pub(super) fn have(&self) -> Vec<Range<u64>> {
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for (index, _) in self.hashes.iter().enumerate().filter(|(_, hash)| hash.is_some()) {
            let index = index as u64;
            let full = ranges.len() == MAX_RANGES;
            match ranges.last_mut() {
                Some(last) if last.end == index => last.end += 1,
                _ if full => break,
                _ => ranges.push(index..index + 1),
            }
        }
        ranges
    }

    pub(super) fn is_complete(&self) -> bool {
        self.missing == 0
    }

    /// Gives the complete file its name, if it is what the sender has. `Err(None)`: it is not.
    pub(super) fn finish(
        &mut self,
        hash: &[u8; 32],
        sha256: Option<&str>,
        overwrite: bool,
        sync: bool,
    ) -> Result<(), Option<std::io::Error>> {
        let hashes: Vec<ChunkHash> = self.hashes.iter().flatten().copied().collect();
        if tree::hash_file(&hashes) != *hash {
            self.forget();
            return Err(None);
        }
        if let Some(sha256) = sha256
            && sha256_of(&self.part)? != sha256
        {
            self.forget();
            return Err(None);
        }
        set_metadata(&self.data, &self.entry)?;
        if sync {
            self.data.sync_all()?;
        }
        put_in_place(&self.part, &self.path, overwrite)?;
        std::fs::remove_file(&self.state).ok();
        Ok(())
    }

    /// What is there is wrong: the next attempt begins anew.
    fn forget(&self) {
        std::fs::remove_file(&self.state).ok();
    }
}

fn set_metadata(file: &File, entry: &Entry) -> std::io::Result<()> {
    file.set_permissions(std::fs::Permissions::from_mode(entry.mode & MODE))?;
    file.set_times(FileTimes::new().set_modified(time(entry.modified)))
}

/// Makes a directory, or takes one that is there.
pub(super) fn make_directory(path: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(path)
}

/// Gives a directory its mode and time, when everything in it is there.
pub(super) fn finish_directory(path: &Path, entry: &Entry) -> std::io::Result<()> {
    set_metadata(&File::open(path)?, entry)
}

/// Gives a finished file its name. Without `overwrite` a file that has come there meanwhile stays.
pub(super) fn put_in_place(from: &Path, to: &Path, overwrite: bool) -> std::io::Result<()> {
    if overwrite {
        return std::fs::rename(from, to);
    }
    match std::fs::hard_link(from, to) {
        Ok(()) => std::fs::remove_file(from),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(error),
        // A file system without hard links.
        Err(_) if !to.exists() => std::fs::rename(from, to),
        Err(error) => Err(error),
    }
}

/// The SHA-256 of a file, in hexadecimal.
pub(super) fn sha256_of(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        hash.update(buffer.get(..count).unwrap_or_default());
    }
    Ok(crate::output::text::hex(&hash.finalize()))
}

/// The BLAKE3 of a file.
pub(super) fn blake3_of(path: &Path) -> std::io::Result<[u8; 32]> {
    let mut hash = blake3::Hasher::new();
    std::io::copy(&mut File::open(path)?, &mut hash)?;
    Ok(*hash.finalize().as_bytes())
}
