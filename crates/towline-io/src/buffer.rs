//! Pooled receive buffers.

use bytes::BytesMut;

/// Buffers of one size, reused when nothing else refers to them.
#[derive(Debug)]
pub(crate) struct Pool {
    size: usize,
    keep: usize,
    free: Vec<BytesMut>,
    /// Small pieces are cut from here, so that a kept piece does not keep a whole buffer.
    scrap: BytesMut,
    pub(crate) allocated: u64,
    pub(crate) recycled: u64,
}

impl Pool {
    /// A pool of buffers of `size` bytes that keeps at most `keep` unused ones.
    pub(crate) fn new(size: usize, keep: usize) -> Self {
        let (free, scrap) = (Vec::new(), BytesMut::new());
        Pool { size, keep, free, scrap, allocated: 0, recycled: 0 }
    }

    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// An empty buffer with at least `size` bytes of room.
    pub(crate) fn take(&mut self) -> BytesMut {
        if let Some(buffer) = self.free.pop() {
            return buffer;
        }
        self.allocated += 1;
        let mut buffer = BytesMut::with_capacity(self.size);
        // Splitting makes the buffer reference-counted once and for all, so that `freeze` and `try_into_mut` do not
        // allocate for each receive.
        drop(buffer.split_off(buffer.capacity()));
        buffer
    }

    /// Keeps an unused buffer of this pool.
    pub(crate) fn put(&mut self, mut buffer: BytesMut) {
        if self.free.len() < self.keep {
            buffer.clear();
            self.free.push(buffer);
        }
    }

    /// Takes back what was handed up. `Err` returns an unshared buffer that is of another size.
    pub(crate) fn recycle(&mut self, mut buffer: BytesMut) -> Result<(), BytesMut> {
        buffer.clear();
        if buffer.capacity() < self.size && !buffer.try_reclaim(self.size) {
            return Err(buffer);
        }
        self.recycled += 1;
        self.put(buffer);
        Ok(())
    }

    /// A copy of `bytes` that shares its memory with other small pieces.
    pub(crate) fn pack(&mut self, bytes: &[u8]) -> BytesMut {
        if self.scrap.capacity() < bytes.len() && !self.scrap.try_reclaim(self.size) {
            self.scrap = self.take();
        }
        self.scrap.extend_from_slice(bytes);
        self.scrap.split()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recycled_buffer_is_the_same_memory_again_without_allocation() {
        let mut pool = Pool::new(4096, 4);
        let mut buffer = pool.take();
        buffer.extend_from_slice(b"abc");
        let address = buffer.as_ptr();
        let frozen = buffer.freeze();
        let kept = frozen.slice(1..2);
        assert!(frozen.try_into_mut().is_err(), "still shared");
        pool.recycle(kept.try_into_mut().unwrap()).unwrap();
        let again = pool.take();
        assert_eq!((again.as_ptr(), again.len(), again.capacity()), (address, 0, 4096));
        assert_eq!((pool.allocated, pool.recycled), (1, 1));
    }

    #[test]
    fn packed_pieces_share_a_buffer_and_do_not_overlap() {
        let mut pool = Pool::new(4096, 4);
        let pieces: Vec<BytesMut> = (0..10u8).map(|i| pool.pack(&[i; 300])).collect();
        for (i, piece) in pieces.iter().enumerate() {
            assert_eq!(piece[..], [i as u8; 300]);
        }
        assert_eq!(pool.allocated, 1);
    }

    #[test]
    fn no_more_than_keep_unused_buffers_stay() {
        let mut pool = Pool::new(4096, 2);
        let taken: Vec<_> = (0..5).map(|_| pool.take()).collect();
        for buffer in taken {
            pool.recycle(buffer).unwrap();
        }
        assert_eq!(pool.free.len(), 2);
    }
}
