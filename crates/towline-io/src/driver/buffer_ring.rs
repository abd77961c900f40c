//! Receive buffers that the kernel picks from when data has come, so that waiting holds none.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use bytes::BytesMut;
use io_uring::IoUring;
use io_uring::types::BufRingEntry;

use crate::buffer::Pool;

/// The kernel wants the table on a page of its own.
const PAGE: usize = 4096;

/// A table of buffers shared with the kernel. The place of a buffer is its id; a buffer that was handed up is
/// replaced at once, so all places are always filled.
#[derive(Debug)]
pub(super) struct BufferRing {
    table: NonNull<BufRingEntry>,
    layout: Layout,
    buffers: Vec<BytesMut>,
    tail: u16,
    mask: u16,
}

impl BufferRing {
    /// Registers about `count` buffers of `pool` as a group. The ring must be gone before the result is.
    pub(super) fn new(
        ring: &IoUring,
        group: u16,
        count: usize,
        pool: &mut Pool,
    ) -> io::Result<Self> {
        let count = count.next_power_of_two().min(1 << 15);
        let mask = (count - 1) as u16;
        let layout = Layout::array::<BufRingEntry>(count)
            .and_then(|layout| layout.align_to(PAGE))
            .map_err(io::Error::other)?;
        // SAFETY: the layout is not empty.
        let memory = unsafe { alloc_zeroed(layout) };
        let Some(table) = NonNull::new(memory.cast::<BufRingEntry>()) else {
            handle_alloc_error(layout)
        };
        let mut this = BufferRing { table, layout, buffers: Vec::new(), tail: 0, mask };
        for index in 0..count as u16 {
            this.buffers.push(pool.take());
            this.provide(index);
        }
        // SAFETY: the table stays where it is until `this` is dropped, which is after the ring, and so do the
        // buffers, unless they are taken and replaced.
        unsafe {
            let address = table.as_ptr() as u64;
            ring.submitter().register_buf_ring_with_flags(address, count as u16, group, 0)?;
        }
        this.publish();
        Ok(this)
    }

    /// Writes the entry that offers buffer `index`; the kernel sees it after `publish`.
    fn provide(&mut self, index: u16) {
        let buffer = &mut self.buffers[usize::from(index)];
        let room = buffer.spare_capacity_mut();
        // SAFETY: the place is within the table, and the kernel does not read it before the tail passes it.
        let entry = unsafe { &mut *self.table.as_ptr().add(usize::from(self.tail & self.mask)) };
        entry.set_addr(room.as_mut_ptr() as u64);
        entry.set_len(room.len() as u32);
        entry.set_bid(index);
        self.tail = self.tail.wrapping_add(1);
    }

    fn publish(&mut self) {
        // SAFETY: the tail lies in the first entry of the table, aligned for `u16`; the kernel only reads it.
        let tail = unsafe { &*BufRingEntry::tail(self.table.as_ptr()).cast::<AtomicU16>() };
        tail.store(self.tail, Ordering::Release);
    }

    /// Takes the buffer that the kernel picked and filled with `length` bytes, and offers another one instead.
    pub(super) fn take(&mut self, index: u16, length: usize, pool: &mut Pool) -> Option<BytesMut> {
        let mut taken = None;
        self.borrow(index, length, pool, |buffer, pool| {
            if length > 0 {
                taken = Some(std::mem::replace(buffer, pool.take()));
            }
        });
        taken
    }

    /// Shows the buffer that the kernel picked and filled with `length` bytes, to be used or replaced, and offers
    /// what is left in its place.
    pub(super) fn borrow(
        &mut self,
        index: u16,
        length: usize,
        pool: &mut Pool,
        use_it: impl FnOnce(&mut BytesMut, &mut Pool),
    ) {
        let Some(buffer) = self.buffers.get_mut(usize::from(index)) else { return };
        // SAFETY: the kernel has initialised `length` bytes, which is at most what was offered.
        unsafe { buffer.set_len(length.min(buffer.capacity())) };
        use_it(buffer, pool);
        buffer.clear();
        self.provide(index);
        self.publish();
    }

    /// Gives the memory up without freeing it, because the kernel may still write to it.
    pub(super) fn leak(&mut self) {
        std::mem::forget(std::mem::take(&mut self.buffers));
        self.layout = Layout::new::<()>();
    }
}

impl Drop for BufferRing {
    fn drop(&mut self) {
        if self.layout.size() > 0 {
            // SAFETY: the table was allocated with this layout and the ring that referred to it is gone.
            unsafe { dealloc(self.table.as_ptr().cast(), self.layout) };
        }
    }
}
