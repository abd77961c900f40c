//! Masking (RFC 6455 section 5.3): byte `i` of the payload is XORed with byte `i mod 4` of the key.

use bytes::BytesMut;

/// XORs `data` with the key, where `data[0]` is byte `offset` of the frame's payload.
///
/// Masking and unmasking are the same operation. Eight bytes at a time, which compilers widen to
/// the vectors of the target; the speed is that of memory beyond the caches.
#[inline]
pub fn apply(data: &mut [u8], key: [u8; 4], offset: u64) {
    // Rotated so that the first byte of the data meets the right byte of the key.
    let word = u32::from_ne_bytes(key);
    let shift = 8 * (offset % 4) as u32;
    let word = if cfg!(target_endian = "little") {
        word.rotate_right(shift)
    } else {
        word.rotate_left(shift)
    };
    let wide = u64::from(word) | (u64::from(word) << 32);
    let mut chunks = data.chunks_exact_mut(8);
    for chunk in &mut chunks {
        if let Ok(block) = <&mut [u8; 8]>::try_from(chunk) {
            *block = (u64::from_ne_bytes(*block) ^ wide).to_ne_bytes();
        }
    }
    for (byte, key) in chunks.into_remainder().iter_mut().zip(wide.to_ne_bytes()) {
        *byte ^= key;
    }
}

/// The specification as code: the twin that [`apply`] is tested against.
pub fn apply_scalar(data: &mut [u8], key: [u8; 4], offset: u64) {
    for (byte, position) in data.iter_mut().zip(offset % 4..) {
        *byte ^= key[(position % 4) as usize];
    }
}

/// Appends `data` to `out`, masked, where `data[0]` is byte `offset` of the payload.
///
/// Goes in blocks that stay in the first-level cache, so that a large payload passes through memory once.
pub fn append(out: &mut BytesMut, data: &[u8], key: [u8; 4], offset: u64) {
    /// Half of the smallest first-level cache in use; a multiple of four, so that the key's phase holds.
    const BLOCK: usize = 16 * 1024;
    out.reserve(data.len());
    for block in data.chunks(BLOCK) {
        let start = out.len();
        out.extend_from_slice(block);
        apply(&mut out[start..], key, offset);
    }
}
