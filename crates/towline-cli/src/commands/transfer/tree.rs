//! BLAKE3 by chunks: each chunk is hashed where it is in the cache, by whoever has it, and the file's hash is put together from them.
//!
//! Chunks are subtrees of BLAKE3's own tree (section 2.1 of its paper), so that the result is the file's ordinary BLAKE3.

use blake3::hazmat::{
    ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root,
};

/// The hash of a chunk.
pub(super) type ChunkHash = ChainingValue;

/// How many chunks a file of this size has. An empty file has one, of no bytes.
pub(super) fn chunks(size: u64, chunk: u64) -> u64 {
    size.div_ceil(chunk).max(1)
}

/// Hashes chunk `index` of `count` chunks of `chunk` bytes, a power of two.
pub(super) fn hash_chunk(data: &[u8], index: u64, count: u64, chunk: u64) -> ChunkHash {
    if count == 1 {
        return *blake3::hash(data).as_bytes();
    }
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(index.saturating_mul(chunk));
    hasher.update(data);
    hasher.finalize_non_root()
}

/// The hash of the whole file.
pub(super) fn hash_file(chunks: &[ChunkHash]) -> [u8; 32] {
    match chunks {
        [] => *blake3::hash(&[]).as_bytes(),
        [only] => *only,
        chunks => {
            let (left, right) = split(chunks);
            *merge_subtrees_root(&merge(left), &merge(right), Mode::Hash).as_bytes()
        }
    }
}

fn merge(chunks: &[ChunkHash]) -> ChunkHash {
    match chunks {
        [] => ChunkHash::default(),
        [only] => *only,
        chunks => {
            let (left, right) = split(chunks);
            merge_subtrees_non_root(&merge(left), &merge(right), Mode::Hash)
        }
    }
}

/// The left subtree is the largest full one that leaves something for the right.
fn split(chunks: &[ChunkHash]) -> (&[ChunkHash], &[ChunkHash]) {
    chunks.split_at(chunks.len().next_power_of_two() / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_make_the_ordinary_hash() {
        let data: Vec<u8> = (0..200_000u32).map(|i| (i % 251) as u8).collect();
        for chunk in [1024u64, 4096, 1 << 20] {
            for size in [0, 1, 1023, 1024, 1025, 2048, 4096, 4097, 99_999, 131_072, 200_000] {
                let data = &data[..size];
                let count = chunks(size as u64, chunk);
                let hashes: Vec<_> = (0..count)
                    .map(|index| {
                        let start = (index * chunk) as usize;
                        let end = size.min(start + chunk as usize);
                        hash_chunk(&data[start..end], index, count, chunk)
                    })
                    .collect();
                assert_eq!(hash_file(&hashes), *blake3::hash(data).as_bytes(), "{size} by {chunk}");
            }
        }
    }
}
