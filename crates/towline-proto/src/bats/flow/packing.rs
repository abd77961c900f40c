//! Compression, message by message: one byte says what follows.
//!
//! The client's open frame says whether payload is packed at all, and each end for itself whether it compresses what it sends. A stream
//! is cut into records of at most [`MAX_RECORD`], each packed like a message. Packing comes before sealing, so the lengths of records show how well their
//! content compresses: who sends secrets next to what an attacker can choose leaves it off.

use bytes::{BufMut, Bytes, BytesMut};

use super::message::Broken;
use crate::varint;

/// Bytes of a stream that a record holds at most.
pub(super) const MAX_RECORD: usize = 64 * 1024;
/// Bytes that packing adds at most.
pub(super) const OVERHEAD: usize = 1;
/// What is shorter is not worth a try.
const WORTH: usize = 64;

/// What follows is as it was.
const PLAIN: u8 = 0;
/// What follows is its length (varint), then an LZ4 block.
const LZ4: u8 = 1;

/// What one end of a flow does about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Packing {
    /// Payload is as it is.
    #[default]
    None,
    /// Payload is packed; this end compresses nothing.
    Plain,
    /// This end compresses what becomes shorter by it.
    Lz4,
}

impl Packing {
    pub(super) fn new(packed: bool, compress: bool) -> Packing {
        match (packed, compress) {
            (false, _) => Packing::None,
            (true, false) => Packing::Plain,
            (true, true) => Packing::Lz4,
        }
    }

    pub(super) fn is_on(self) -> bool {
        self != Packing::None
    }

    /// How much longer than its payload a message may be on its way.
    pub(super) fn overhead(self) -> usize {
        if self.is_on() { OVERHEAD } else { 0 }
    }

    /// The form in which `data` travels.
    pub(super) fn pack(self, data: Bytes) -> Bytes {
        if self == Packing::None {
            return data;
        }
        if self == Packing::Lz4 && data.len() >= WORTH {
            let mut out = vec![LZ4; 1 + varint::MAX_LEN];
            let mut length = [0; varint::MAX_LEN];
            let end = varint::write(data.len() as u64, &mut length);
            out.truncate(1);
            out.extend_from_slice(length.get(..end).unwrap_or_default());
            let front = out.len();
            out.resize(front + lz4_flex::block::get_maximum_output_size(data.len()), 0);
            let block = out.get_mut(front..).unwrap_or_default();
            if let Ok(size) = lz4_flex::block::compress_into(&data, block)
                && front + size < data.len()
            {
                out.truncate(front + size);
                return out.into();
            }
        }
        let mut out = BytesMut::with_capacity(data.len() + OVERHEAD);
        out.put_u8(PLAIN);
        out.extend_from_slice(&data);
        out.freeze()
    }

    /// The payload of what came, at most `most` bytes.
    pub(super) fn unpack(self, mut data: Bytes, most: usize) -> Result<Bytes, Broken> {
        if self == Packing::None {
            return Ok(data);
        }
        let form = data.first().copied().ok_or(Broken::Packed)?;
        let _form = data.split_to(1);
        match form {
            PLAIN if data.len() <= most => Ok(data),
            PLAIN => Err(Broken::TooLarge),
            LZ4 => {
                let (length, used) = varint::read(&data).ok_or(Broken::Packed)?;
                let length = usize::try_from(length).ok().filter(|&length| length <= most);
                let length = length.ok_or(Broken::TooLarge)?;
                let block = data.get(used..).unwrap_or_default();
                // No block grows by more than this, so that a short one cannot ask for much memory.
                if length / 256 > block.len() {
                    return Err(Broken::Packed);
                }
                let mut out = vec![0; length];
                match lz4_flex::block::decompress_into(block, &mut out) {
                    Ok(size) if size == length => Ok(out.into()),
                    _ => Err(Broken::Packed),
                }
            }
            _ => Err(Broken::Packed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [Packing; 3] = [Packing::None, Packing::Plain, Packing::Lz4];

    #[test]
    fn what_was_packed_comes_back() {
        let text: Vec<u8> =
            b"a lake, a boat, a rope; ".iter().copied().cycle().take(50_000).collect();
        let noise: Vec<u8> =
            (0..50_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        for packing in BOTH {
            for data in [&b""[..], b"x", &text[..63], &text[..64], &text, &noise] {
                let packed = packing.pack(Bytes::copy_from_slice(data));
                assert!(packed.len() <= data.len() + packing.overhead());
                assert_eq!(packing.unpack(packed, data.len()).unwrap(), data);
            }
        }
        assert!(Packing::Lz4.pack(text.clone().into()).len() < text.len() / 50);
        assert_eq!(Packing::Plain.pack(text.clone().into()).len(), text.len() + 1);
    }

    #[test]
    fn what_is_no_packed_message_is_refused_before_memory_is_taken() {
        let packed = Packing::Lz4.pack(vec![7; 10_000].into());
        assert_eq!(Packing::Plain.unpack(packed.clone(), 9_999), Err(Broken::TooLarge));
        for end in 0..packed.len() {
            assert_eq!(Packing::Lz4.unpack(packed.slice(..end), 10_000), Err(Broken::Packed));
        }
        let huge = [&[LZ4, 0xbf, 0xff, 0xff, 0xff][..], &[0; 100]].concat();
        assert_eq!(Packing::Lz4.unpack(huge.into(), 1 << 30), Err(Broken::Packed));
        assert_eq!(Packing::Plain.unpack(Bytes::from_static(&[2, 1]), 10), Err(Broken::Packed));
        assert_eq!(Packing::Plain.unpack(Bytes::from_static(&[0, 1, 1]), 1), Err(Broken::TooLarge));
    }
}
