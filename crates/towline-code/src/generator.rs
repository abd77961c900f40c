//! The generator matrix: which source symbols a repair column sums, and with which coefficients.
//!
//! Repair columns take their source symbols from one endless sequence of rounds. A round is a random order of all K source
//! symbols, so after any number of whole rounds every source symbol has been covered equally often. `docs/code.md`
//! specifies it byte by byte.

use crate::{
    batch::{BatchId, BlockCode, Degrees},
    prng::{Domain, Stream},
};

/// One repair column: source symbols and their coefficients.
#[derive(Clone, Debug, Default)]
pub(crate) struct Column {
    pub(crate) symbols: Vec<u32>,
    pub(crate) coefficients: Vec<u8>,
    /// It takes the end of one round and the beginning of the next, so it may name a symbol twice; the coefficients then add.
    pub(crate) repeats: bool,
}

/// The order of one round, as a four-step Feistel network over a rectangle of `a` by `b` that holds at least K cells,
/// whose step functions are random tables. It gives any element without computing the others.
#[derive(Clone, Debug)]
struct Round {
    /// The round it is, or `u64::MAX` for none yet.
    number: u64,
    k: u32,
    a: u32,
    b: u32,
    /// Steps 0 and 2 have `b` entries below `a`, steps 1 and 3 have `a` entries below `b`.
    tables: [[u8; 256]; 4],
}

impl Round {
    fn new(k: u32) -> Round {
        let mut a = 1;
        while a * a < k {
            a += 1;
        }
        Round { number: u64::MAX, k, a, b: k.div_ceil(a), tables: [[0; 256]; 4] }
    }

    fn turn_to(&mut self, nonce: u64, number: u64) {
        if self.number == number {
            return;
        }
        self.number = number;
        let stream = Stream::new(nonce, Domain::Round, number, 0);
        let mut i = 0;
        for (step, table) in self.tables.iter_mut().enumerate() {
            let (entries, below) = if step % 2 == 0 { (self.b, self.a) } else { (self.a, self.b) };
            for entry in table.iter_mut().take(entries as usize) {
                // Multiply and shift maps the upper half of a word onto 0..below, which is at most 256.
                *entry = (((stream.word(i) >> 32) * u64::from(below)) >> 32) as u8;
                i += 1;
            }
        }
    }

    /// Appends the source symbols at `count` places of this round from `at` on, all below K.
    fn symbols(&self, at: u32, count: u32, out: &mut Vec<u32>) {
        let (mut row, mut column) = (at / self.b, at % self.b);
        out.extend((0..count).map(|_| {
            let symbol = self.permute(row, column);
            column += 1;
            if column == self.b {
                (row, column) = (row + 1, 0);
            }
            symbol
        }));
    }

    /// The symbol of one cell. Cells whose image lies outside the block are sent round again, which ends because the
    /// network permutes the cells.
    #[inline]
    fn permute(&self, mut l: u32, mut r: u32) -> u32 {
        let step = |x: u32, table: usize, y: u32, below: u32| {
            let sum = x + u32::from(self.tables[table][(y & 255) as usize]);
            // Both addends are below `below`; subtracting it once too often wraps to a large number.
            sum.min(sum.wrapping_sub(below))
        };
        loop {
            l = step(l, 0, r, self.a);
            r = step(r, 1, l, self.b);
            l = step(l, 2, r, self.a);
            r = step(r, 3, l, self.b);
            let symbol = l * self.b + r;
            if symbol < self.k {
                return symbol;
            }
        }
    }
}

/// Columns of the fountain's degree schedule, after which it repeats.
const CYCLE: u64 = 256;

/// The largest degree of the fountain's light columns.
const MAX_DEGREE: u32 = 64;

/// The degree schedule of a fountain over K symbols: the degrees of its first n columns, added up, for n from 0 to `CYCLE`.
///
/// Light columns take the quantiles of the ideal soliton distribution cut at `MAX_DEGREE`, in an order that spreads them. They
/// peel well but cover a symbol fewer than six times, so that under heavy loss some symbol would be missed. Every P-th column is
/// heavy instead and together they cover each symbol another log2(K) * 3/4 times.
fn schedule(k: u32) -> Vec<u32> {
    let period = u64::from((k / 16).clamp(4, 128).next_power_of_two());
    let heavy = (period as u32 * (k.ilog2() * 3 / 4)).clamp(1, k);
    let mut sums = vec![0];
    let mut sum = 0;
    for n in 0..CYCLE {
        // The ideal soliton gives a degree above d with probability 1/d. Multiples of 95 modulo 256 order the quantiles.
        let quantile = (n * 95 % CYCLE) as u32;
        let light = (CYCLE as u32 / (quantile + 1) + 1).min(MAX_DEGREE).min(k);
        sum += if n % period == period - 1 { heavy } else { light };
        sums.push(sum);
    }
    sums
}

/// Makes columns. It keeps the last round it used, so asking in order is cheapest.
#[derive(Clone, Debug)]
pub(crate) struct Generator {
    code: BlockCode,
    round: Round,
    /// For a fountain, see [`schedule`].
    sums: Vec<u32>,
}

impl Generator {
    pub(crate) fn new(code: BlockCode) -> Generator {
        let k = code.parameters().source_symbols;
        let sums =
            if code.parameters().degrees == Degrees::Fountain { schedule(k) } else { Vec::new() };
        Generator { code, round: Round::new(k), sums }
    }

    /// Whether every column sums all source symbols in their own order.
    pub(crate) fn is_full(&self) -> bool {
        matches!(self.code.parameters().degrees, Degrees::Even(degree) if usize::from(degree) == self.code.source_symbols())
    }

    /// Column `column` of repair batch `batch` into `out`, which is cleared first. The batch must be a repair batch and the column
    /// one that it has.
    pub(crate) fn column(&mut self, batch: BatchId, column: u16, out: &mut Column) {
        let parameters = *self.code.parameters();
        let (k, m) = (parameters.source_symbols, self.code.batch_columns() as u64);
        let n = u64::from(batch.0 - self.code.source_batches()) * m + u64::from(column);
        out.symbols.clear();
        out.coefficients.clear();
        let (first, degree) = match parameters.degrees {
            Degrees::Even(degree) if u32::from(degree) == k => {
                out.symbols.extend(0..k);
                (0, 0)
            }
            Degrees::Even(degree) => (n * u64::from(degree), u32::from(degree)),
            Degrees::Fountain => {
                let slot = (n % CYCLE) as usize;
                let first =
                    n / CYCLE * u64::from(self.sums[CYCLE as usize]) + u64::from(self.sums[slot]);
                (first, self.sums[slot + 1] - self.sums[slot])
            }
        };
        // A column lies within one round or within two, because no degree is above K.
        let (number, at) = (first / u64::from(k), (first % u64::from(k)) as u32);
        let here = degree.min(k - at);
        if here > 0 {
            self.round.turn_to(parameters.nonce, number);
            self.round.symbols(at, here, &mut out.symbols);
        }
        out.repeats = here < degree;
        if out.repeats {
            self.round.turn_to(parameters.nonce, number + 1);
            self.round.symbols(0, degree - here, &mut out.symbols);
        }
        let stream =
            Stream::new(parameters.nonce, Domain::Column, u64::from(batch.0), u64::from(column));
        stream.coefficients(out.symbols.len(), &mut out.coefficients);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{BatchSize, BlockParameters};

    fn generator(k: u32, degrees: Degrees) -> Generator {
        let parameters = BlockParameters {
            source_symbols: k,
            symbol_size: 1,
            batch_size: BatchSize::M16,
            degrees,
            nonce: 9,
        };
        Generator::new(BlockCode::new(parameters).unwrap())
    }

    #[test]
    fn a_round_covers_every_source_symbol_once() {
        for k in [1, 2, 3, 5, 16, 17, 63, 64, 65, 255, 256, 257, 1000, 1024, 4097, 65_535] {
            for degree in [1, 2, 3, 7, 100, 1024, k].into_iter().filter(|&d| d <= k) {
                let mut generator = generator(k, Degrees::Even(degree as u16));
                let first = generator.code.source_batches();
                let (mut column, mut seen) = (Column::default(), vec![0; k as usize]);
                for n in 0..(2 * k).div_ceil(degree) {
                    generator.column(BatchId(first + n / 16), (n % 16) as u16, &mut column);
                    assert_eq!(column.symbols.len(), column.coefficients.len());
                    for (i, &symbol) in (0..).zip(&column.symbols) {
                        let round = (n * degree + i) / k;
                        assert_eq!(
                            seen[symbol as usize], round,
                            "k {k}, degree {degree}, round {round}"
                        );
                        seen[symbol as usize] += 1;
                    }
                }
            }
        }
    }

    #[test]
    fn a_fountain_covers_evenly_and_its_degrees_follow_the_soliton() {
        let mut generator = generator(1000, Degrees::Fountain);
        let first = generator.code.source_batches();
        let mut column = Column::default();
        let mut seen = vec![0u32; 1000];
        for n in 0..1024 {
            generator.column(BatchId(first + n / 16), (n % 16) as u16, &mut column);
            column.symbols.iter().for_each(|&s| seen[s as usize] += 1);
        }
        let (least, most) = (seen.iter().min().unwrap(), seen.iter().max().unwrap());
        assert!(most - least <= 1, "covered {least} to {most} times");
        let degrees: Vec<u32> = generator.sums.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let twos = degrees.iter().filter(|&&d| d == 2).count();
        assert!((120..=128).contains(&twos), "{twos} columns of degree 2");
        assert_eq!(degrees.iter().max(), Some(&(64 * 6)));
    }

    #[test]
    fn columns_do_not_depend_on_what_was_asked_before() {
        for degrees in [Degrees::Even(5), Degrees::Fountain] {
            let mut one = generator(300, degrees);
            let mut other = generator(300, degrees);
            let first = one.code.source_batches();
            let (mut a, mut b) = (Column::default(), Column::default());
            for n in (0..200).rev() {
                one.column(BatchId(first + n / 16), (n % 16) as u16, &mut a);
            }
            other.column(BatchId(first), 0, &mut b);
            assert_eq!((a.symbols, a.coefficients), (b.symbols, b.coefficients));
        }
    }
}
