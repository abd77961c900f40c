//! What sender and receiver say to each other.
//!
//! A transfer has one control connection and any number of others, its lanes. Messages begin with an opening brace, JSON, or with 1, a chunk:
//! file (4 bytes), chunk (4 bytes), its hash (32 bytes), its data. The sender asks `hello` on each connection; then, on the control
//! connection, `entries` in batches, each answered by what the receiver has of them already; it sends chunks on all connections and `finish`
//! for each file, which the receiver answers by `done` when the file's hash is right and the file has its name.

use std::ops::Range;

use bytes::Bytes;
use serde_json::{Value, json};
use towline::Message;

use super::tree::ChunkHash;

/// The version of this conversation.
pub(super) const VERSION: u64 = 1;

/// The first byte of a chunk.
const CHUNK: u8 = 1;

/// Bytes before a chunk's data.
pub(super) const HEADER: usize = 41;

/// Bytes of a chunk where the wire takes messages of that size, and where it does not (ftcp).
pub(super) const LARGE: usize = 1 << 20;
pub(super) const SMALL: usize = 32 << 10;

/// Entries of one batch.
pub(super) const BATCH: usize = 128;

/// Entries of one transfer.
pub(super) const MAX_ENTRIES: usize = 1 << 20;

/// Chunks of one transfer: 16 TiB of large ones; the receiver keeps 40 bytes for each.
pub(super) const MAX_CHUNKS: u64 = 1 << 24;

/// The largest control message.
const MAX_CONTROL: usize = 4 << 20;

/// Ranges of one file that a receiver says it has; what is beyond is sent again.
pub(super) const MAX_RANGES: usize = 1024;

/// The close code of a receiver that cannot go on; trying again does not help until its user has done something.
pub(super) const CODE_FAILED: u64 = 257;

/// The close code for peers that do not keep to the conversation, or are not `towline send`.
pub(super) const CODE_REFUSED: u64 = 256;

/// The close code of a receiver that ends before the transfer does; whoever takes its place goes on where it was.
pub(super) const CODE_ENDING: u64 = 258;

/// A file or directory.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    /// Parts of the path, joined by `/`.
    pub(super) name: String,
    /// `None`: a directory.
    pub(super) size: Option<u64>,
    pub(super) mode: u32,
    /// Seconds and nanoseconds since 1970.
    pub(super) modified: (i64, u32),
}

impl Entry {
    pub(super) fn to_json(&self) -> Value {
        json!({
            "name": self.name,
            "size": self.size,
            "mode": self.mode,
            "mtime": [self.modified.0, self.modified.1],
        })
    }

    pub(super) fn from_json(value: &Value) -> Option<Entry> {
        let time = value.get("mtime")?;
        let size = value.get("size")?;
        Some(Entry {
            name: value.get("name")?.as_str()?.to_owned(),
            size: if size.is_null() { None } else { Some(size.as_u64()?) },
            mode: u32::try_from(value.get("mode")?.as_u64()?).ok()?,
            modified: (time.get(0)?.as_i64()?, u32::try_from(time.get(1)?.as_u64()?).ok()?),
        })
    }
}

/// What a receiver says of an entry.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Answer {
    /// Send it, but for these chunks.
    Wanted(Vec<Range<u64>>),
    /// It will not be written, and why.
    Refused(String),
}

impl Answer {
    pub(super) fn to_json(&self) -> Value {
        match self {
            Answer::Wanted(have) => {
                let have: Vec<[u64; 2]> =
                    have.iter().map(|range| [range.start, range.end]).collect();
                json!({ "have": have })
            }
            Answer::Refused(reason) => json!({ "refused": reason }),
        }
    }

    pub(super) fn from_json(value: &Value) -> Option<Answer> {
        if let Some(reason) = value.get("refused") {
            return Some(Answer::Refused(reason.as_str()?.to_owned()));
        }
        let range = |pair: &Value| Some(pair.get(0)?.as_u64()?..pair.get(1)?.as_u64()?);
        let have: Option<Vec<_>> =
            value.get("have")?.as_array()?.iter().take(MAX_RANGES).map(range).collect();
        have.map(Answer::Wanted)
    }
}

/// What a message is.
pub(super) enum Kind {
    Control(Value),
    Chunk { file: usize, chunk: u64, hash: ChunkHash, data: Bytes },
    Unknown,
}

pub(super) fn kind(message: &Message) -> Kind {
    let data = &message.data;
    match data.first() {
        Some(b'{') if data.len() <= MAX_CONTROL => {
            serde_json::from_slice(data).map_or(Kind::Unknown, Kind::Control)
        }
        Some(&CHUNK) => chunk(data).unwrap_or(Kind::Unknown),
        _ => Kind::Unknown,
    }
}

fn chunk(data: &Bytes) -> Option<Kind> {
    let (file, rest) = data.get(1..)?.split_first_chunk::<4>()?;
    let (chunk, rest) = rest.split_first_chunk::<4>()?;
    let (hash, _) = rest.split_first_chunk::<32>()?;
    Some(Kind::Chunk {
        file: u32::from_be_bytes(*file) as usize,
        chunk: u64::from(u32::from_be_bytes(*chunk)),
        hash: *hash,
        data: data.slice(HEADER..),
    })
}

/// Writes a chunk's header in front of its data.
pub(super) fn put_header(into: &mut [u8], file: usize, chunk: u64, hash: &ChunkHash) {
    let file = u32::try_from(file).unwrap_or(u32::MAX).to_be_bytes();
    let chunk = u32::try_from(chunk).unwrap_or(u32::MAX).to_be_bytes();
    let header = [CHUNK].into_iter().chain(file).chain(chunk).chain(*hash);
    into.iter_mut().zip(header).for_each(|(place, byte)| *place = byte);
}

/// A control message.
pub(super) fn control(value: &Value) -> Message {
    Message::new(value.to_string().into_bytes())
}

/// An answer to one.
pub(super) fn reply(to: &Message, value: &Value) -> Message {
    Message::reply_to(to, value.to_string().into_bytes())
}

/// A text of a control message.
pub(super) fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_and_answers_survive() {
        let file =
            Entry { name: "a/b".into(), size: Some(9), mode: 0o644, modified: (-1, 999_999_999) };
        let directory = Entry { size: None, ..file.clone() };
        for entry in [file, directory] {
            assert_eq!(Entry::from_json(&entry.to_json()), Some(entry));
        }
        for answer in [Answer::Wanted(vec![0..3, 5..6]), Answer::Refused("no".into())] {
            assert_eq!(Answer::from_json(&answer.to_json()), Some(answer));
        }
        for bad in
            [json!({}), json!([]), json!({"name": "x", "size": -1, "mode": 0, "mtime": [0, 0]})]
        {
            assert_eq!(Entry::from_json(&bad), None);
            assert_eq!(Answer::from_json(&bad), None);
        }
    }

    #[test]
    fn chunks_survive_and_short_ones_are_unknown() {
        let mut data = vec![0; HEADER];
        data.extend_from_slice(b"data");
        put_header(&mut data, 7, 9, &[5; 32]);
        let message = Message::new(data.clone());
        let Kind::Chunk { file: 7, chunk: 9, hash, data: rest } = kind(&message) else {
            panic!("no chunk")
        };
        assert_eq!((hash, &rest[..]), ([5; 32], &b"data"[..]));
        for length in 0..HEADER {
            assert!(matches!(kind(&Message::new(data[..length].to_vec())), Kind::Unknown));
        }
    }
}
