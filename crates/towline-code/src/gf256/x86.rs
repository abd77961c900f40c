//! Kernels for x86-64: AVX-512 with GFNI, AVX2 with GFNI, AVX2 and SSSE3.
//!
//! All have one shape: a tile of the destination stays in registers while every source passes by.

use std::arch::x86_64::*;

use super::{
    Kernel,
    scalar::{self, four_times},
    tables::{MATRIX, NIBBLES},
};

const AVX512: Kernel = Kernel { name: "avx512-gfni", dot: avx512_dot, dot4: avx512_dot4 };
const AVX2_GFNI: Kernel = Kernel { name: "avx2-gfni", dot: avx2_gfni_dot, dot4: avx2_gfni_dot4 };
const AVX2: Kernel = Kernel { name: "avx2", dot: avx2_dot, dot4: avx2_dot4 };
const SSSE3: Kernel = Kernel { name: "ssse3", dot: ssse3_dot, dot4: ssse3_dot4 };

pub(super) fn detect(kernels: &mut Vec<Kernel>) {
    let gfni = is_x86_feature_detected!("gfni");
    let avx2 = is_x86_feature_detected!("avx2");
    if gfni && is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") {
        kernels.push(AVX512);
    }
    if gfni && avx2 {
        kernels.push(AVX2_GFNI);
    }
    if avx2 {
        kernels.push(AVX2);
    }
    if is_x86_feature_detected!("ssse3") {
        kernels.push(SSSE3);
    }
}

/// Bytes in a 512-bit register.
const LINE: usize = 64;

/// Registers of the destination that one pass over the sources fills.
const LINES: usize = 12;

/// How many sources ahead of the one in use the cache is asked for.
const AHEAD: usize = 4;

/// # Safety
///
/// As for [`super::Dot`].
unsafe fn avx512_dot(
    dst: *mut u8,
    len: usize,
    sources: *const *const u8,
    coefficients: *const u8,
    count: usize,
    add: bool,
) {
    // SAFETY: this kernel is only handed out when `detect` saw the features; the rest is the caller's promise.
    unsafe { avx512_dot_inner(dst, len, sources, coefficients, count, add) }
}

/// # Safety
///
/// As for [`super::Dot`].
#[target_feature(enable = "avx512f,avx512bw,gfni")]
unsafe fn avx512_dot_inner(
    dst: *mut u8,
    len: usize,
    sources: *const *const u8,
    coefficients: *const u8,
    count: usize,
    add: bool,
) {
    let mut at = 0;
    // SAFETY: each tile lies within `at..len`; the masked one touches only its first `len - at` bytes.
    unsafe {
        while len - at >= LINES * LINE {
            avx512_tile::<LINES>(dst, at, sources, coefficients, count, add, u64::MAX);
            at += LINES * LINE;
        }
        let lines = (len - at).div_ceil(LINE);
        if lines == 0 {
            return;
        }
        let rest = (len - at) - (lines - 1) * LINE;
        let mask = u64::MAX >> (LINE - rest);
        match lines {
            1 => avx512_tile::<1>(dst, at, sources, coefficients, count, add, mask),
            2 => avx512_tile::<2>(dst, at, sources, coefficients, count, add, mask),
            3 => avx512_tile::<3>(dst, at, sources, coefficients, count, add, mask),
            4 => avx512_tile::<4>(dst, at, sources, coefficients, count, add, mask),
            5 => avx512_tile::<5>(dst, at, sources, coefficients, count, add, mask),
            6 => avx512_tile::<6>(dst, at, sources, coefficients, count, add, mask),
            7 => avx512_tile::<7>(dst, at, sources, coefficients, count, add, mask),
            8 => avx512_tile::<8>(dst, at, sources, coefficients, count, add, mask),
            9 => avx512_tile::<9>(dst, at, sources, coefficients, count, add, mask),
            10 => avx512_tile::<10>(dst, at, sources, coefficients, count, add, mask),
            11 => avx512_tile::<11>(dst, at, sources, coefficients, count, add, mask),
            _ => avx512_tile::<12>(dst, at, sources, coefficients, count, add, mask),
        }
    }
}

/// One tile of `N` lines at offset `at`; the last line is cut by `mask`.
///
/// # Safety
///
/// As for [`super::Dot`], for the bytes of the tile.
#[target_feature(enable = "avx512f,avx512bw,gfni")]
#[inline]
unsafe fn avx512_tile<const N: usize>(
    dst: *mut u8,
    at: usize,
    sources: *const *const u8,
    coefficients: *const u8,
    count: usize,
    add: bool,
    mask: u64,
) {
    // SAFETY: lines 0..N-1 are whole and lie within the caller's length; line N-1 is only touched under `mask`, and
    // masked-out bytes of a masked load or store do not fault.
    unsafe {
        let load = |p: *const u8, k: usize| {
            let p = p.add(k * LINE);
            if k == N - 1 {
                _mm512_maskz_loadu_epi8(mask, p.cast())
            } else {
                _mm512_loadu_si512(p.cast())
            }
        };
        let dst = dst.add(at);
        let mut sum = [_mm512_setzero_si512(); N];
        if add {
            for (k, s) in sum.iter_mut().enumerate() {
                *s = load(dst, k);
            }
        }
        let mut i = 0;
        while i + 2 <= count {
            let (a, b) = ((*sources.add(i)).add(at), (*sources.add(i + 1)).add(at));
            let ma = _mm512_set1_epi64(MATRIX[usize::from(*coefficients.add(i))] as i64);
            let mb = _mm512_set1_epi64(MATRIX[usize::from(*coefficients.add(i + 1))] as i64);
            // The sources lie scattered over the second-level cache, where no prefetcher follows: ask for the next but one pair.
            if i + AHEAD + 2 <= count {
                for next in i + AHEAD..i + AHEAD + 2 {
                    let next = (*sources.add(next)).add(at);
                    for k in 0..N {
                        _mm_prefetch::<_MM_HINT_T0>(next.add(k * LINE).cast());
                    }
                }
            }
            for (k, s) in sum.iter_mut().enumerate() {
                let x = _mm512_gf2p8affine_epi64_epi8::<0>(load(a, k), ma);
                let y = _mm512_gf2p8affine_epi64_epi8::<0>(load(b, k), mb);
                *s = _mm512_ternarylogic_epi64::<0x96>(*s, x, y);
            }
            i += 2;
        }
        if i < count {
            let a = (*sources.add(i)).add(at);
            let ma = _mm512_set1_epi64(MATRIX[usize::from(*coefficients.add(i))] as i64);
            for (k, s) in sum.iter_mut().enumerate() {
                *s = _mm512_xor_si512(*s, _mm512_gf2p8affine_epi64_epi8::<0>(load(a, k), ma));
            }
        }
        for (k, s) in sum.iter().enumerate() {
            let p = dst.add(k * LINE);
            if k == N - 1 {
                _mm512_mask_storeu_epi8(p.cast(), mask, *s)
            } else {
                _mm512_storeu_si512(p.cast(), *s)
            }
        }
    }
}

/// # Safety
///
/// As for [`super::Dot4`].
unsafe fn avx512_dot4(
    dst: *const *mut u8,
    len: usize,
    sources: *const *const u8,
    coefficients: *const u8,
    count: usize,
    add: bool,
) {
    // SAFETY: this kernel is only handed out when `detect` saw the features; the rest is the caller's promise.
    unsafe { avx512_dot4_inner(dst, len, sources, coefficients, count, add) }
}

/// # Safety
///
/// As for [`super::Dot4`].
#[target_feature(enable = "avx512f,avx512bw,gfni")]
unsafe fn avx512_dot4_inner(
    dst: *const *mut u8,
    len: usize,
    sources: *const *const u8,
    coefficients: *const u8,
    count: usize,
    add: bool,
) {
    // SAFETY: as in `avx512_dot_inner`.
    unsafe {
        let mut at = 0;
        while len - at >= 4 * LINE {
            avx512_tile4::<4>(dst, at, sources, coefficients, count, add, u64::MAX);
            at += 4 * LINE;
        }
        let lines = (len - at).div_ceil(LINE);
        if lines == 0 {
            return;
        }
        let rest = (len - at) - (lines - 1) * LINE;
        let mask = u64::MAX >> (LINE - rest);
        match lines {
            1 => avx512_tile4::<1>(dst, at, sources, coefficients, count, add, mask),
            2 => avx512_tile4::<2>(dst, at, sources, coefficients, count, add, mask),
            3 => avx512_tile4::<3>(dst, at, sources, coefficients, count, add, mask),
            _ => avx512_tile4::<4>(dst, at, sources, coefficients, count, add, mask),
        }
    }
}

/// One tile of `N` lines for four destinations.
///
/// # Safety
///
/// As for [`super::Dot4`], for the bytes of the tile.
#[target_feature(enable = "avx512f,avx512bw,gfni")]
#[inline]
unsafe fn avx512_tile4<const N: usize>(
    dst: *const *mut u8,
    at: usize,
    sources: *const *const u8,
    coefficients: *const u8,
    count: usize,
    add: bool,
    mask: u64,
) {
    // SAFETY: as in `avx512_tile`; `dst` holds four pointers and `coefficients` four bytes for each source.
    unsafe {
        let load = |p: *const u8, k: usize| {
            let p = p.add(k * LINE);
            if k == N - 1 {
                _mm512_maskz_loadu_epi8(mask, p.cast())
            } else {
                _mm512_loadu_si512(p.cast())
            }
        };
        let matrix = |i: usize, d: usize| {
            _mm512_set1_epi64(MATRIX[usize::from(*coefficients.add(4 * i + d))] as i64)
        };
        let mut sum = [[_mm512_setzero_si512(); N]; 4];
        if add {
            for (d, row) in sum.iter_mut().enumerate() {
                for (k, s) in row.iter_mut().enumerate() {
                    *s = load((*dst.add(d)).add(at), k);
                }
            }
        }
        let mut i = 0;
        while i + 2 <= count {
            let (a, b) = ((*sources.add(i)).add(at), (*sources.add(i + 1)).add(at));
            if i + AHEAD + 2 <= count {
                for next in i + AHEAD..i + AHEAD + 2 {
                    let next = (*sources.add(next)).add(at);
                    for k in 0..N {
                        _mm_prefetch::<_MM_HINT_T0>(next.add(k * LINE).cast());
                    }
                }
            }
            let ma = [matrix(i, 0), matrix(i, 1), matrix(i, 2), matrix(i, 3)];
            let mb = [matrix(i + 1, 0), matrix(i + 1, 1), matrix(i + 1, 2), matrix(i + 1, 3)];
            for k in 0..N {
                let (x, y) = (load(a, k), load(b, k));
                for ((row, ma), mb) in sum.iter_mut().zip(ma).zip(mb) {
                    let x = _mm512_gf2p8affine_epi64_epi8::<0>(x, ma);
                    let y = _mm512_gf2p8affine_epi64_epi8::<0>(y, mb);
                    row[k] = _mm512_ternarylogic_epi64::<0x96>(row[k], x, y);
                }
            }
            i += 2;
        }
        if i < count {
            let a = (*sources.add(i)).add(at);
            for k in 0..N {
                let x = load(a, k);
                for (d, row) in sum.iter_mut().enumerate() {
                    row[k] = _mm512_xor_si512(
                        row[k],
                        _mm512_gf2p8affine_epi64_epi8::<0>(x, matrix(i, d)),
                    );
                }
            }
        }
        for (d, row) in sum.iter().enumerate() {
            for (k, s) in row.iter().enumerate() {
                let p = (*dst.add(d)).add(at + k * LINE);
                if k == N - 1 {
                    _mm512_mask_storeu_epi8(p.cast(), mask, *s)
                } else {
                    _mm512_storeu_si512(p.cast(), *s)
                }
            }
        }
    }
}

/// # Safety
///
/// As for [`super::Dot`].
unsafe fn avx2_gfni_dot(
    dst: *mut u8,
    len: usize,
    sources: *const *const u8,
    coefficients: *const u8,
    count: usize,
    add: bool,
) {
    // SAFETY: this kernel is only handed out when `detect` saw the features; the rest is the caller's promise.
    unsafe { avx2_gfni_dot_inner(dst, len, sources, coefficients, count, add) }
}

/// # Safety
///
/// As for [`super::Dot`].
#[target_feature(enable = "avx2,gfni")]
unsafe fn avx2_gfni_dot_inner(
    dst: *mut u8,
    len: usize,
    sources: *const *const u8,
    coefficients: *const u8,
    count: usize,
    add: bool,
) {
    // SAFETY: each tile lies within `at..len`; what is left goes to the narrower kernel.
    unsafe {
        let mut at = 0;
        while len - at >= 256 {
            avx2_gfni_tile::<8>(dst, at, sources, coefficients, count, add);
            at += 256;
        }
        while len - at >= 32 {
            avx2_gfni_tile::<1>(dst, at, sources, coefficients, count, add);
            at += 32;
        }
        ssse3_from(at, dst, len, sources, coefficients, count, add);
    }
}

/// # Safety
///
/// As for [`super::Dot`], for the `N * 32` bytes at `at`.
#[target_feature(enable = "avx2,gfni")]
#[inline]
unsafe fn avx2_gfni_tile<const N: usize>(
    dst: *mut u8,
    at: usize,
    sources: *const *const u8,
    coefficients: *const u8,
    count: usize,
    add: bool,
) {
    // SAFETY: the caller's promise covers every byte of the tile.
    unsafe {
        let dst = dst.add(at);
        let mut sum = [_mm256_setzero_si256(); N];
        if add {
            for (k, s) in sum.iter_mut().enumerate() {
                *s = _mm256_loadu_si256(dst.add(32 * k).cast());
            }
        }
        for i in 0..count {
            let source = (*sources.add(i)).add(at);
            let matrix = _mm256_set1_epi64x(MATRIX[usize::from(*coefficients.add(i))] as i64);
            for (k, s) in sum.iter_mut().enumerate() {
                let x = _mm256_loadu_si256(source.add(32 * k).cast());
                *s = _mm256_xor_si256(*s, _mm256_gf2p8affine_epi64_epi8::<0>(x, matrix));
            }
        }
        for (k, s) in sum.iter().enumerate() {
            _mm256_storeu_si256(dst.add(32 * k).cast(), *s);
        }
    }
}

/// # Safety
///
/// As for [`super::Dot4`].
unsafe fn avx2_gfni_dot4(
    dst: *const *mut u8,
    len: usize,
    sources: *const *const u8,
    coefficients: *const u8,
    count: usize,
    add: bool,
) {
    // SAFETY: the caller's promise; features as in `avx2_gfni_dot`.
    unsafe { four_times(avx2_gfni_dot, dst, len, sources, coefficients, count, add) }
}

/// # Safety
///
/// As for [`super::Dot`].
unsafe fn avx2_dot(
    dst: *mut u8,
    len: usize,
    sources: *const *const u8,
    coefficients: *const u8,
    count: usize,
    add: bool,
) {
    // SAFETY: this kernel is only handed out when `detect` saw the features; the rest is the caller's promise.
    unsafe { avx2_dot_inner(dst, len, sources, coefficients, count, add) }
}

/// # Safety
///
/// As for [`super::Dot`].
#[target_feature(enable = "avx2")]
unsafe fn avx2_dot_inner(
    dst: *mut u8,
    len: usize,
    sources: *const *const u8,
    coefficients: *const u8,
    count: usize,
    add: bool,
) {
    // SAFETY: each tile lies within `at..len`; what is left goes to the narrower kernel.
    unsafe {
        let mut at = 0;
        while len - at >= 256 {
            avx2_tile::<8>(dst, at, sources, coefficients, count, add);
            at += 256;
        }
        while len - at >= 32 {
            avx2_tile::<1>(dst, at, sources, coefficients, count, add);
            at += 32;
        }
        ssse3_from(at, dst, len, sources, coefficients, count, add);
    }
}

/// # Safety
///
/// As for [`super::Dot`], for the `N * 32` bytes at `at`.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn avx2_tile<const N: usize>(
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
        let low = _mm256_set1_epi8(0x0F);
        let mut sum = [_mm256_setzero_si256(); N];
        if add {
            for (k, s) in sum.iter_mut().enumerate() {
                *s = _mm256_loadu_si256(dst.add(32 * k).cast());
            }
        }
        for i in 0..count {
            let source = (*sources.add(i)).add(at);
            let table = NIBBLES.0[usize::from(*coefficients.add(i))].as_ptr();
            let first = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.cast()));
            let second = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.add(16).cast()));
            for (k, s) in sum.iter_mut().enumerate() {
                let x = _mm256_loadu_si256(source.add(32 * k).cast());
                let l = _mm256_shuffle_epi8(first, _mm256_and_si256(x, low));
                let h =
                    _mm256_shuffle_epi8(second, _mm256_and_si256(_mm256_srli_epi64::<4>(x), low));
                *s = _mm256_xor_si256(*s, _mm256_xor_si256(l, h));
            }
        }
        for (k, s) in sum.iter().enumerate() {
            _mm256_storeu_si256(dst.add(32 * k).cast(), *s);
        }
    }
}

/// # Safety
///
/// As for [`super::Dot4`].
unsafe fn avx2_dot4(
    dst: *const *mut u8,
    len: usize,
    sources: *const *const u8,
    coefficients: *const u8,
    count: usize,
    add: bool,
) {
    // SAFETY: the caller's promise; features as in `avx2_dot`.
    unsafe { four_times(avx2_dot, dst, len, sources, coefficients, count, add) }
}

/// # Safety
///
/// As for [`super::Dot`].
unsafe fn ssse3_dot(
    dst: *mut u8,
    len: usize,
    sources: *const *const u8,
    coefficients: *const u8,
    count: usize,
    add: bool,
) {
    // SAFETY: this kernel is only handed out when `detect` saw the feature; the rest is the caller's promise.
    unsafe { ssse3_from(0, dst, len, sources, coefficients, count, add) }
}

/// The bytes from `at` on: 16-byte tiles, then the last few by table.
///
/// # Safety
///
/// As for [`super::Dot`]; `at` is at most `len`.
#[target_feature(enable = "ssse3")]
unsafe fn ssse3_from(
    mut at: usize,
    dst: *mut u8,
    len: usize,
    sources: *const *const u8,
    coefficients: *const u8,
    count: usize,
    add: bool,
) {
    // SAFETY: each tile lies within `at..len`; `rest` holds as many pointers as are read, each valid for `len - at` bytes.
    unsafe {
        while len - at >= 64 {
            ssse3_tile::<4>(dst, at, sources, coefficients, count, add);
            at += 64;
        }
        while len - at >= 16 {
            ssse3_tile::<1>(dst, at, sources, coefficients, count, add);
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
#[target_feature(enable = "ssse3")]
#[inline]
unsafe fn ssse3_tile<const N: usize>(
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
        let low = _mm_set1_epi8(0x0F);
        let mut sum = [_mm_setzero_si128(); N];
        if add {
            for (k, s) in sum.iter_mut().enumerate() {
                *s = _mm_loadu_si128(dst.add(16 * k).cast());
            }
        }
        for i in 0..count {
            let source = (*sources.add(i)).add(at);
            let table = NIBBLES.0[usize::from(*coefficients.add(i))].as_ptr();
            let first = _mm_loadu_si128(table.cast());
            let second = _mm_loadu_si128(table.add(16).cast());
            for (k, s) in sum.iter_mut().enumerate() {
                let x = _mm_loadu_si128(source.add(16 * k).cast());
                let l = _mm_shuffle_epi8(first, _mm_and_si128(x, low));
                let h = _mm_shuffle_epi8(second, _mm_and_si128(_mm_srli_epi64::<4>(x), low));
                *s = _mm_xor_si128(*s, _mm_xor_si128(l, h));
            }
        }
        for (k, s) in sum.iter().enumerate() {
            _mm_storeu_si128(dst.add(16 * k).cast(), *s);
        }
    }
}

/// # Safety
///
/// As for [`super::Dot4`].
unsafe fn ssse3_dot4(
    dst: *const *mut u8,
    len: usize,
    sources: *const *const u8,
    coefficients: *const u8,
    count: usize,
    add: bool,
) {
    // SAFETY: the caller's promise; features as in `ssse3_dot`.
    unsafe { four_times(ssse3_dot, dst, len, sources, coefficients, count, add) }
}
