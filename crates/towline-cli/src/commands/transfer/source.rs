//! What is sent: the files and directories that were named, and all that is in them.

use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::protocol::{Entry, MAX_CHUNKS, MAX_ENTRIES};
use super::tree::{self, ChunkHash};
use crate::failure::{Failure, Outcome};
use crate::output::Notes;

/// A file or directory to send.
pub(super) struct Source {
    pub(super) path: PathBuf,
    pub(super) entry: Entry,
}

fn entry(name: String, found: &Metadata) -> Entry {
    Entry {
        name,
        size: found.is_file().then_some(found.len()),
        mode: found.mode() & 0o7777,
        modified: (found.mtime(), u32::try_from(found.mtime_nsec()).unwrap_or(0)),
    }
}

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::Failed(format!("cannot read {}: {error}", path.display()))
}

/// Everything below the paths that were named. Symbolic links that were named are followed, those found are left out.
pub(super) fn gather(paths: &[PathBuf], notes: &Notes) -> Outcome<Vec<Source>> {
    let mut sources = Vec::new();
    for path in paths {
        let found = std::fs::metadata(path).map_err(|error| unreadable(path, &error))?;
        let whole = std::fs::canonicalize(path).map_err(|error| unreadable(path, &error))?;
        let name = whole.file_name().and_then(|name| name.to_str()).ok_or_else(|| {
            Failure::Usage(format!("{} has no name that can be sent", path.display()))
        })?;
        add(&mut sources, path, name.to_owned(), &found, notes)?;
    }
    let mut names: Vec<&str> = sources.iter().map(|source| source.entry.name.as_str()).collect();
    names.sort_unstable();
    if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(Failure::Usage(format!("two things named {} cannot be sent at once", pair[0])));
    }
    Ok(sources)
}

fn add(
    sources: &mut Vec<Source>,
    path: &Path,
    name: String,
    found: &Metadata,
    notes: &Notes,
) -> Outcome {
    if sources.len() >= MAX_ENTRIES {
        return Err(Failure::Usage(format!("more than {MAX_ENTRIES} files: send them in parts")));
    }
    if !found.is_file() && !found.is_dir() {
        notes.warn(&format!("{} is no file and no directory: left out", path.display()));
        return Ok(());
    }
    sources.push(Source { path: path.to_owned(), entry: entry(name.clone(), found) });
    if !found.is_dir() {
        return Ok(());
    }
    let inside = std::fs::read_dir(path).map_err(|error| unreadable(path, &error))?;
    let mut inside: Vec<_> =
        inside.collect::<Result<_, _>>().map_err(|error| unreadable(path, &error))?;
    inside.sort_by_key(std::fs::DirEntry::file_name);
    for item in inside {
        let path = item.path();
        let found = item.metadata().map_err(|error| unreadable(&path, &error))?;
        match item.file_name().to_str() {
            Some(own) => add(sources, &path, format!("{name}/{own}"), &found, notes)?,
            None => notes.warn(&format!("{}: the name is not UTF-8: left out", path.display())),
        }
    }
    Ok(())
}

/// A file while it is sent.
pub(super) struct OpenSource {
    pub(super) file: File,
    pub(super) size: u64,
    pub(super) chunks: u64,
    chunk: u64,
    progress: Mutex<Progress>,
}

struct Progress {
    hashes: Vec<ChunkHash>,
    left: u64,
}

impl OpenSource {
    pub(super) fn open(source: &Source, chunk: u64) -> std::io::Result<OpenSource> {
        let file = File::open(&source.path)?;
        let size = source.entry.size.unwrap_or(0);
        let chunks = tree::chunks(size, chunk);
        if chunks > MAX_CHUNKS {
            return Err(std::io::Error::other("the file is too large for one transfer"));
        }
        let hashes = vec![ChunkHash::default(); usize::try_from(chunks).unwrap_or(0)];
        let progress = Mutex::new(Progress { hashes, left: chunks });
        Ok(OpenSource { file, size, chunks, chunk, progress })
    }

    /// Where a chunk begins, and its length.
    pub(super) fn place(&self, index: u64) -> (u64, usize) {
        let start = index * self.chunk;
        let length = self.size.saturating_sub(start).min(self.chunk);
        (start, usize::try_from(length).unwrap_or(0))
    }

    pub(super) fn hash(&self, data: &[u8], index: u64) -> ChunkHash {
        tree::hash_chunk(data, index, self.chunks, self.chunk)
    }

    /// A chunk has been dealt with; the file's hash when it was the last.
    pub(super) fn done(&self, index: u64, hash: ChunkHash) -> Option<[u8; 32]> {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let index = usize::try_from(index).ok()?;
        *progress.hashes.get_mut(index)? = hash;
        progress.left -= 1;
        (progress.left == 0).then(|| tree::hash_file(&progress.hashes))
    }

    /// Whether the file is still what it was when it was listed.
    pub(super) fn is_unchanged(&self, source: &Source) -> std::io::Result<bool> {
        let now = entry(source.entry.name.clone(), &self.file.metadata()?);
        Ok(now.size == source.entry.size && now.modified == source.entry.modified)
    }
}
