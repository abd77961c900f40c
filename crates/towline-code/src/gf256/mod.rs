//! Arithmetic in GF(256) with the polynomial x^8 + x^4 + x^3 + x^2 + 1 (0x11D), the field of RFC 6330.
//!
//! Addition is exclusive or. Multiplication of single bytes is a table look-up; multiplication of whole symbols is
//! done by a kernel that is chosen once, at the first call, from what the processor offers:
//! AVX-512 with GFNI, AVX2 with GFNI, AVX2, SSSE3, NEON, or plain tables.
//! `TOWLINE_FORCE_SCALAR=1` in the environment of the process chooses the tables.
//!
//! The kernel that matters is the fused one, [`dot`]: it sums the products of many sources into one destination and keeps
//! the destination in registers meanwhile, so each source byte is loaded once and the destination is stored once.

use std::sync::OnceLock;

#[cfg(target_arch = "aarch64")]
mod aarch64;
pub(crate) mod rows;
mod scalar;
mod tables;
#[cfg(target_arch = "x86_64")]
mod x86;

pub(crate) use rows::Rows;

/// Most sources handed to a kernel in one call: their addresses live on the stack.
const FAN_IN: usize = 128;

/// `dst[..len] = (add ? dst : 0) + sum of coefficients[i] * sources[i][..len]`.
///
/// # Safety
///
/// `dst` must be valid for writes (and reads when `add`) of `len` bytes, each of the `count` sources for reads of `len` bytes,
/// and `coefficients` for `count` bytes. A source may be `dst` itself, and must not overlap it in any other way.
/// The processor must have the features the kernel was chosen for.
type Dot = unsafe fn(
    dst: *mut u8,
    len: usize,
    sources: *const *const u8,
    coefficients: *const u8,
    count: usize,
    add: bool,
);

/// The same for four destinations that share their sources: `coefficients` holds four bytes for each source.
///
/// # Safety
///
/// As for [`Dot`], for each of the four destinations, which must not overlap one another or any source.
type Dot4 = unsafe fn(
    dst: *const *mut u8,
    len: usize,
    sources: *const *const u8,
    coefficients: *const u8,
    count: usize,
    add: bool,
);

/// One implementation of the arithmetic.
#[derive(Clone, Copy)]
pub struct Kernel {
    name: &'static str,
    dot: Dot,
    dot4: Dot4,
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Kernel").field(&self.name).finish()
    }
}

impl PartialEq for Kernel {
    fn eq(&self, other: &Kernel) -> bool {
        self.name == other.name
    }
}

impl Eq for Kernel {}

static ACTIVE: OnceLock<Kernel> = OnceLock::new();

impl Kernel {
    /// The kernel that this process uses, chosen at the first call.
    pub fn active() -> Kernel {
        *ACTIVE.get_or_init(|| {
            if std::env::var_os("TOWLINE_FORCE_SCALAR").is_some_and(|v| v == "1") {
                return scalar::KERNEL;
            }
            Kernel::available()[0]
        })
    }

    /// Every kernel that this processor can run, fastest first. The last one is always the scalar twin.
    pub fn available() -> Vec<Kernel> {
        let mut kernels = Vec::new();
        #[cfg(target_arch = "x86_64")]
        x86::detect(&mut kernels);
        #[cfg(target_arch = "aarch64")]
        aarch64::detect(&mut kernels);
        kernels.push(scalar::KERNEL);
        kernels
    }

    /// The plain table kernel, the reference that the others are tested against.
    pub fn scalar() -> Kernel {
        scalar::KERNEL
    }

    /// A short name, such as `avx512-gfni`.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// [`dot`] with this kernel.
    pub fn dot(&self, dst: &mut [u8], sources: &[&[u8]], coefficients: &[u8]) {
        assert_eq!(sources.len(), coefficients.len(), "one coefficient for each source");
        self.sum(dst, false, sources.iter().copied().zip(coefficients.iter().copied()));
    }

    /// [`dot_add`] with this kernel.
    pub fn dot_add(&self, dst: &mut [u8], sources: &[&[u8]], coefficients: &[u8]) {
        assert_eq!(sources.len(), coefficients.len(), "one coefficient for each source");
        self.sum(dst, true, sources.iter().copied().zip(coefficients.iter().copied()));
    }

    /// [`mul`] with this kernel.
    pub fn mul(&self, dst: &mut [u8], src: &[u8], coefficient: u8) {
        self.one(dst, src, coefficient, false);
    }

    /// [`mul_add`] with this kernel.
    pub fn mul_add(&self, dst: &mut [u8], src: &[u8], coefficient: u8) {
        self.one(dst, src, coefficient, true);
    }

    fn one(&self, dst: &mut [u8], src: &[u8], coefficient: u8, add: bool) {
        assert!(src.len() >= dst.len(), "a source is shorter than the destination");
        let source = src.as_ptr();
        // SAFETY: `src` is at least as long as `dst`, which is exclusive, so they do not overlap; features as in `scale`.
        unsafe { (self.dot)(dst.as_mut_ptr(), dst.len(), &source, &coefficient, 1, add) }
    }

    /// [`scale`] with this kernel.
    pub fn scale(&self, dst: &mut [u8], coefficient: u8) {
        let (pointer, source) = (dst.as_mut_ptr(), dst.as_ptr());
        // SAFETY: the one source is the destination itself, which `Dot` allows; both are `dst`, valid for its length.
        // A kernel is only handed out by `available` and `active` when the processor has its features.
        unsafe { (self.dot)(pointer, dst.len(), &source, &coefficient, 1, false) }
    }

    /// Sums `terms` into `dst`: the body of every call with one destination. Sources longer than `dst` are cut.
    pub(crate) fn sum<'a>(
        &self,
        dst: &mut [u8],
        mut add: bool,
        terms: impl Iterator<Item = (&'a [u8], u8)>,
    ) {
        let mut sources = [std::ptr::null::<u8>(); FAN_IN];
        let mut coefficients = [0u8; FAN_IN];
        let mut count = 0;
        for (source, coefficient) in terms {
            assert!(source.len() >= dst.len(), "a source is shorter than the destination");
            if count == FAN_IN {
                // SAFETY: every pointer in `sources` comes from a live shared slice of at least `dst.len()` bytes, so it is
                // readable and does not overlap the exclusive `dst`; the kernel's features are present, see `scale`.
                unsafe {
                    (self.dot)(
                        dst.as_mut_ptr(),
                        dst.len(),
                        sources.as_ptr(),
                        coefficients.as_ptr(),
                        count,
                        add,
                    )
                };
                (add, count) = (true, 0);
            }
            sources[count] = source.as_ptr();
            coefficients[count] = coefficient;
            count += 1;
        }
        if count > 0 || !add {
            // SAFETY: as above.
            unsafe {
                (self.dot)(
                    dst.as_mut_ptr(),
                    dst.len(),
                    sources.as_ptr(),
                    coefficients.as_ptr(),
                    count,
                    add,
                )
            };
        }
    }

    /// Sums `terms` into four destinations of one length, loading each source once.
    pub(crate) fn sum4<'a>(
        &self,
        dst: [&mut [u8]; 4],
        mut add: bool,
        terms: impl Iterator<Item = (&'a [u8], [u8; 4])>,
    ) {
        let len = dst[0].len();
        assert!(dst.iter().all(|d| d.len() == len), "destinations of one length");
        let pointers = dst.map(<[u8]>::as_mut_ptr);
        let mut sources = [std::ptr::null::<u8>(); FAN_IN];
        let mut coefficients = [[0u8; 4]; FAN_IN];
        let mut count = 0;
        for (source, four) in terms {
            assert!(source.len() >= len, "a source is shorter than the destination");
            if count == FAN_IN {
                // SAFETY: the destinations are exclusive slices of `len` bytes and so disjoint; the sources are live shared
                // slices of at least `len` bytes; `coefficients` has four bytes for each; features as in `scale`.
                unsafe {
                    (self.dot4)(
                        pointers.as_ptr(),
                        len,
                        sources.as_ptr(),
                        coefficients.as_ptr().cast(),
                        count,
                        add,
                    )
                };
                (add, count) = (true, 0);
            }
            sources[count] = source.as_ptr();
            coefficients[count] = four;
            count += 1;
        }
        if count > 0 || !add {
            // SAFETY: as above.
            unsafe {
                (self.dot4)(
                    pointers.as_ptr(),
                    len,
                    sources.as_ptr(),
                    coefficients.as_ptr().cast(),
                    count,
                    add,
                )
            };
        }
    }
}

/// The product of two bytes.
#[inline]
pub fn product(a: u8, b: u8) -> u8 {
    tables::PRODUCT[usize::from(a)][usize::from(b)]
}

/// The inverse of a byte: `product(a, inverse(a)) == 1`. The inverse of 0 is 0, which has none.
#[inline]
pub fn inverse(a: u8) -> u8 {
    tables::INVERSE[usize::from(a)]
}

/// `dst = sum of coefficients[i] * sources[i]`, over the length of `dst`.
///
/// # Panics
///
/// When there is not one coefficient for each source, or a source is shorter than `dst`.
pub fn dot(dst: &mut [u8], sources: &[&[u8]], coefficients: &[u8]) {
    Kernel::active().dot(dst, sources, coefficients);
}

/// `dst += sum of coefficients[i] * sources[i]`, over the length of `dst`.
///
/// # Panics
///
/// When there is not one coefficient for each source, or a source is shorter than `dst`.
pub fn dot_add(dst: &mut [u8], sources: &[&[u8]], coefficients: &[u8]) {
    Kernel::active().dot_add(dst, sources, coefficients);
}

/// `dst = coefficient * src`, over the length of `dst`.
///
/// # Panics
///
/// When `src` is shorter than `dst`.
pub fn mul(dst: &mut [u8], src: &[u8], coefficient: u8) {
    Kernel::active().mul(dst, src, coefficient);
}

/// `dst += coefficient * src`, over the length of `dst`.
///
/// # Panics
///
/// When `src` is shorter than `dst`.
pub fn mul_add(dst: &mut [u8], src: &[u8], coefficient: u8) {
    Kernel::active().mul_add(dst, src, coefficient);
}

/// `dst += src`, which in this field is exclusive or.
///
/// # Panics
///
/// When `src` is shorter than `dst`.
pub fn xor(dst: &mut [u8], src: &[u8]) {
    Kernel::active().mul_add(dst, src, 1);
}

/// `dst = coefficient * dst`.
pub fn scale(dst: &mut [u8], coefficient: u8) {
    Kernel::active().scale(dst, coefficient);
}

#[cfg(test)]
mod tests;
