//! The reference kernel: one table row for each coefficient.

use super::{Kernel, tables::PRODUCT};

pub(super) const KERNEL: Kernel = Kernel { name: "scalar", dot, dot4: by_dot4 };

/// # Safety
///
/// As for [`super::Dot`].
pub(super) unsafe fn dot(
    dst: *mut u8,
    len: usize,
    sources: *const *const u8,
    coefficients: *const u8,
    count: usize,
    add: bool,
) {
    // SAFETY: the caller's promise; a source that is the destination itself is read byte by byte before the byte is written.
    unsafe {
        let mut first = !add;
        if count == 0 && first {
            std::ptr::write_bytes(dst, 0, len);
        }
        for i in 0..count {
            let source = *sources.add(i);
            let row = &PRODUCT[usize::from(*coefficients.add(i))];
            for at in 0..len {
                let value = row[usize::from(*source.add(at))];
                *dst.add(at) = if first { value } else { *dst.add(at) ^ value };
            }
            first = false;
        }
    }
}

/// # Safety
///
/// As for [`super::Dot4`].
unsafe fn by_dot4(
    dst: *const *mut u8,
    len: usize,
    sources: *const *const u8,
    coefficients: *const u8,
    count: usize,
    add: bool,
) {
    // SAFETY: the caller's promise is that of `dot` for each destination.
    unsafe { four_times(dot, dst, len, sources, coefficients, count, add) }
}

/// Four destinations one after another, for kernels whose registers do not hold four.
///
/// # Safety
///
/// As for [`super::Dot4`], and `dot` must be callable on this processor. `count` is at most `FAN_IN`.
pub(super) unsafe fn four_times(
    dot: super::Dot,
    dst: *const *mut u8,
    len: usize,
    sources: *const *const u8,
    coefficients: *const u8,
    count: usize,
    add: bool,
) {
    for d in 0..4 {
        let mut own = [0u8; super::FAN_IN];
        for (i, coefficient) in own.iter_mut().enumerate().take(count) {
            // SAFETY: the caller promises four coefficients for each of `count` sources.
            *coefficient = unsafe { *coefficients.add(4 * i + d) };
        }
        // SAFETY: `dst` holds four destinations; the rest is the caller's promise.
        unsafe { dot(*dst.add(d), len, sources, own.as_ptr(), count, add) }
    }
}
