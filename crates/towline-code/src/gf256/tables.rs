//! Constant tables, computed at compile time from the polynomial.

/// x^8 + x^4 + x^3 + x^2 + 1.
const POLYNOMIAL: u16 = 0x11D;

/// Carry-less multiplication, reduced: the definition that every table comes from.
const fn multiply(a: u8, b: u8) -> u8 {
    let (mut a, mut b, mut sum) = (a as u16, b as u16, 0u16);
    while b != 0 {
        if b & 1 != 0 {
            sum ^= a;
        }
        a <<= 1;
        if a & 0x100 != 0 {
            a ^= POLYNOMIAL;
        }
        b >>= 1;
    }
    sum as u8
}

const fn products() -> [[u8; 256]; 256] {
    let mut table = [[0u8; 256]; 256];
    let mut a = 0;
    while a < 256 {
        // Products are linear in b: the eight products with powers of two give all others by addition.
        let mut b = 1usize;
        while b < 256 {
            let low = b & b.wrapping_neg();
            table[a][b] = if low == b {
                multiply(a as u8, b as u8)
            } else {
                table[a][low] ^ table[a][b ^ low]
            };
            b += 1;
        }
        a += 1;
    }
    table
}

const fn inverses() -> [u8; 256] {
    let mut table = [0u8; 256];
    let mut a = 1usize;
    while a < 256 {
        let mut b = 1usize;
        while PRODUCT[a][b] != 1 {
            b += 1;
        }
        table[a] = b as u8;
        a += 1;
    }
    table
}

/// `PRODUCT[a][b] == a * b`.
pub(super) static PRODUCT: [[u8; 256]; 256] = products();

/// `INVERSE[a] * a == 1`; zero for zero.
pub(super) static INVERSE: [u8; 256] = inverses();

/// For each coefficient the products with 0..16 and with 0, 16, .., 240: what a byte shuffle looks up.
#[repr(align(32))]
pub(super) struct Nibbles(pub(super) [[u8; 32]; 256]);

const fn nibbles() -> Nibbles {
    let mut table = [[0u8; 32]; 256];
    let mut c = 0;
    while c < 256 {
        let mut i = 0;
        while i < 16 {
            table[c][i] = PRODUCT[c][i];
            table[c][16 + i] = PRODUCT[c][i << 4];
            i += 1;
        }
        c += 1;
    }
    Nibbles(table)
}

pub(super) static NIBBLES: Nibbles = nibbles();

/// For each coefficient the 8x8 bit matrix that GF2P8AFFINEQB multiplies a byte by: bit i of the result is the
/// parity of the input and byte 7 - i of the matrix.
#[cfg(target_arch = "x86_64")]
pub(super) static MATRIX: [u64; 256] = matrices();

#[cfg(target_arch = "x86_64")]
const fn matrices() -> [u64; 256] {
    let mut table = [0u64; 256];
    let mut c = 0;
    while c < 256 {
        let mut bit = 0;
        while bit < 8 {
            let mut row = 0u64;
            let mut j = 0;
            while j < 8 {
                row |= ((PRODUCT[c][1 << j] as u64 >> bit) & 1) << j;
                j += 1;
            }
            table[c] |= row << (8 * (7 - bit));
            bit += 1;
        }
        c += 1;
    }
    table
}
