//! The NEON kernel: two 16-byte table look-ups for each 16 bytes of source.

use std::arch::aarch64::*;

use super::{
    Kernel,
    scalar::{self, four_times},
    tables::NIBBLES,
};

const NEON: Kernel = Kernel { name: "neon", dot, dot4 };

pub(super) fn detect(kernels: &mut Vec<Kernel>) {
    if std::arch::is_aarch64_feature_detected!("neon") {
        kernels.push(NEON);
    }
}

/// # Safety
///
/// As for [`super::Dot`].
unsafe fn dot(
    dst: *mut u8,
    len: usize,
    sources: *const *const u8,
    coefficients: *const u8,
    count: usize,
    add: bool,
) {
    // SAFETY: this kernel is only handed out when `detect` saw the feature; the rest is the caller's promise.
    unsafe { dot_inner(dst, len, sources, coefficients, count, add) }
}

/// # Safety
///
/// As for [`super::Dot`].
#[target_feature(enable = "neon")]
unsafe fn dot_inner(
    dst: *mut u8,
    len: usize,
    sources: *const *const u8,
    coefficients: *const u8,
    count: usize,
    add: bool,
) {
    // SAFETY: each tile lies within `at..len`; `rest` holds as many pointers as are read, each valid for `len - at` bytes.
    unsafe {
        let mut at = 0;
        while len - at >= 128 {
            tile::<8>(dst, at, sources, coefficients, count, add);
            at += 128;
        }
        while len - at >= 16 {
            tile::<1>(dst, at, sources, coefficients, count, add);
            at += 16;
        }
        if at < len {
            let mut rest = [std::ptr::null::<u8>(); super::FAN_IN];
            for (i, pointer) in rest.iter_mut().enumerate().take(count) {
                *pointer = (*sources.add(i)).add(at);
            }
            scalar::dot(dst.add(at), len - at, rest.as_ptr(), coefficients, count, add);
        }
    }
}

/// # Safety
///
/// As for [`super::Dot`], for the `N * 16` bytes at `at`.
#[target_feature(enable = "neon")]
#[inline]
unsafe fn tile<const N: usize>(
    dst: *mut u8,
    at: usize,
    sources: *const *const u8,
    coefficients: *const u8,
    count: usize,
    add: bool,
) {
    // SAFETY: the caller's promise covers every byte of the tile; a row of NIBBLES is 32 bytes.
    unsafe {
        let dst = dst.add(at);
        let low = vdupq_n_u8(0x0F);
        let mut sum = [vdupq_n_u8(0); N];
        if add {
            for (k, s) in sum.iter_mut().enumerate() {
                *s = vld1q_u8(dst.add(16 * k));
            }
        }
        for i in 0..count {
            let source = (*sources.add(i)).add(at);
            let table = NIBBLES.0[usize::from(*coefficients.add(i))].as_ptr();
            let first = vld1q_u8(table);
            let second = vld1q_u8(table.add(16));
            for (k, s) in sum.iter_mut().enumerate() {
                let x = vld1q_u8(source.add(16 * k));
                let l = vqtbl1q_u8(first, vandq_u8(x, low));
                let h = vqtbl1q_u8(second, vshrq_n_u8::<4>(x));
                *s = veorq_u8(*s, veorq_u8(l, h));
            }
        }
        for (k, s) in sum.iter().enumerate() {
            vst1q_u8(dst.add(16 * k), *s);
        }
    }
}

/// # Safety
///
/// As for [`super::Dot4`].
unsafe fn dot4(
    dst: *const *mut u8,
    len: usize,
    sources: *const *const u8,
    coefficients: *const u8,
    count: usize,
    add: bool,
) {
    // SAFETY: the caller's promise; features as in `dot`.
    unsafe { four_times(dot, dst, len, sources, coefficients, count, add) }
}
