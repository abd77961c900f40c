//! A matrix of byte rows, aligned to cache lines, whose rows can be summed into one another.

use std::ops::Range;

use super::{FAN_IN, Kernel};

/// Sixty-four bytes at a cache line boundary.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Rows of one length in one allocation.
///
/// The distance between rows is an odd number of cache lines, so that the same offset of many rows does not fall into a few
/// sets of the cache.
#[derive(Clone)]
pub(crate) struct Rows {
    lines: Vec<Line>,
    /// Lines from one row to the next.
    stride: usize,
    /// Bytes in a row.
    len: usize,
    rows: usize,
    kernel: Kernel,
}

impl std::fmt::Debug for Rows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rows")
            .field("rows", &self.rows)
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

impl Rows {
    /// `rows` rows of `len` zero bytes.
    pub(crate) fn new(rows: usize, len: usize) -> Rows {
        let stride = len.div_ceil(64).max(1) | 1;
        Rows {
            lines: vec![Line([0; 64]); rows * stride],
            stride,
            len,
            rows,
            kernel: Kernel::active(),
        }
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    fn base(&self) -> *const u8 {
        self.lines.as_ptr().cast()
    }

    pub(crate) fn row(&self, row: usize) -> &[u8] {
        assert!(row < self.rows);
        // SAFETY: a row starts at `row * stride` lines, `len <= stride * 64`, and `rows * stride` lines are allocated and
        // initialised; a `Line` is 64 bytes without padding.
        unsafe { std::slice::from_raw_parts(self.base().add(row * self.stride * 64), self.len) }
    }

    pub(crate) fn row_mut(&mut self, row: usize) -> &mut [u8] {
        assert!(row < self.rows);
        // SAFETY: as in `row`, and `self` is borrowed exclusively.
        unsafe {
            std::slice::from_raw_parts_mut(
                self.lines.as_mut_ptr().cast::<u8>().add(row * self.stride * 64),
                self.len,
            )
        }
    }

    /// Four consecutive rows at once.
    pub(crate) fn four_mut(&mut self, first: usize) -> [&mut [u8]; 4] {
        assert!(first + 4 <= self.rows);
        let (stride, len) = (self.stride * 64, self.len);
        let base = self.lines.as_mut_ptr().cast::<u8>();
        // SAFETY: as in `row_mut`; rows do not overlap because `len <= stride`.
        [0, 1, 2, 3]
            .map(|i| unsafe { std::slice::from_raw_parts_mut(base.add((first + i) * stride), len) })
    }

    /// `dst = (add ? dst : 0) + sum of coefficient * row`, over the bytes in `range`.
    pub(crate) fn sum(
        &mut self,
        dst: usize,
        add: bool,
        rows: &[u32],
        coefficients: &[u8],
        range: Range<usize>,
    ) {
        assert!(
            dst < self.rows
                && range.start <= range.end
                && range.end <= self.len
                && rows.len() == coefficients.len()
        );
        assert!(rows.iter().all(|&r| (r as usize) < self.rows && r as usize != dst));
        let (stride, at, len) = (self.stride * 64, range.start, range.end - range.start);
        let base = self.lines.as_mut_ptr().cast::<u8>();
        let mut add = add;
        let mut sources = [std::ptr::null::<u8>(); FAN_IN];
        for (rows, coefficients) in rows.chunks(FAN_IN).zip(coefficients.chunks(FAN_IN)) {
            for (pointer, &row) in sources.iter_mut().zip(rows) {
                // SAFETY: `row < self.rows` and `range` lies within a row, both asserted above.
                *pointer = unsafe { base.add(row as usize * stride + at).cast_const() };
            }
            // SAFETY: the pointers are `rows.len()` rows of this matrix, none of them `dst` (asserted), so they are readable
            // for `len` bytes and do not overlap the destination; the kernel came from `Kernel::active`.
            unsafe {
                (self.kernel.dot)(
                    base.add(dst * stride + at),
                    len,
                    sources.as_ptr(),
                    coefficients.as_ptr(),
                    rows.len(),
                    add,
                );
            }
            add = true;
        }
        if !add {
            self.row_mut(dst)[range].fill(0);
        }
    }

    /// `dst += coefficient * src` over the bytes in `range`.
    #[inline]
    pub(crate) fn mul_add(&mut self, dst: usize, src: usize, coefficient: u8, range: Range<usize>) {
        assert!(
            dst < self.rows
                && src < self.rows
                && dst != src
                && range.start <= range.end
                && range.end <= self.len
        );
        let (stride, at, len) = (self.stride * 64, range.start, range.end - range.start);
        let base = self.lines.as_mut_ptr().cast::<u8>();
        // SAFETY: two different rows of this matrix and a range within a row, asserted above; kernel as in `sum`.
        unsafe {
            let source = base.add(src * stride + at).cast_const();
            (self.kernel.dot)(base.add(dst * stride + at), len, &source, &coefficient, 1, true);
        }
    }

    /// Keeps the first `rows` rows and gives the memory of the others back.
    pub(crate) fn truncate(&mut self, rows: usize) {
        if rows < self.rows {
            self.rows = rows;
            self.lines.truncate(rows * self.stride);
            self.lines.shrink_to_fit();
        }
    }

    pub(crate) fn swap(&mut self, a: usize, b: usize) {
        if a != b {
            let (low, high) = self.lines.split_at_mut(a.max(b) * self.stride);
            low[a.min(b) * self.stride..][..self.stride].swap_with_slice(&mut high[..self.stride]);
        }
    }
}
