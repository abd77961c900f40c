//! What a node holds of one batch whose symbols differ in length.

use crate::{
    basis::Basis,
    batch::{BatchSize, Combination},
    error::RecodeError,
    gf256::Kernel,
    prng::{Domain, Stream},
};

/// Where a column of a batch is.
#[derive(Clone, Debug)]
enum Slot<S> {
    Missing,
    Received(S),
    Recovered(Box<[u8]>),
}

/// One batch at one node, be it source, relay or receiver: tells what is new, recovers columns as soon as they are determined, and
/// mixes what it holds.
///
/// Unlike the symbols of a block, those of a batch on its own may differ in length: a shorter one counts as if zeros followed, so a
/// recovered column is as long as the longest symbol held. Whoever makes the symbols must be able to tell where they
/// end. A batch may grow: a combination names the columns that it has, and those after them count as zero.
///
/// It holds at most M symbols and M vectors of M bytes.
#[derive(Clone, Debug)]
pub struct HeldBatch<S> {
    size: BatchSize,
    basis: Basis,
    columns: Vec<Slot<S>>,
    mixed: Vec<S>,
    /// The vectors of the mixed packets as they came, M bytes each.
    vectors: Vec<u8>,
    longest: usize,
    available: Vec<u16>,
}

impl<S: AsRef<[u8]>> HeldBatch<S> {
    /// Nothing held yet.
    pub fn new(size: BatchSize) -> HeldBatch<S> {
        HeldBatch {
            size,
            basis: Basis::new(size.columns(), true),
            columns: Vec::new(),
            mixed: Vec::new(),
            vectors: Vec::new(),
            longest: 0,
            available: Vec::new(),
        }
    }

    /// The size of the batch.
    pub fn size(&self) -> BatchSize {
        self.size
    }

    /// How many independent packets are held: at most M.
    pub fn rank(&self) -> usize {
        self.basis.rank()
    }

    /// Bytes of the longest symbol held.
    pub fn longest(&self) -> usize {
        self.longest
    }

    /// Whether mixed packets are held that determine no column yet.
    pub fn is_mixed(&self) -> bool {
        self.basis.rows() > 0
    }

    /// A column, when it is held or recovered. A recovered one may have zeros after its end.
    pub fn column(&self, column: u16) -> Option<&[u8]> {
        match self.columns.get(usize::from(column))? {
            Slot::Missing => None,
            Slot::Received(symbol) => Some(symbol.as_ref()),
            Slot::Recovered(symbol) => Some(symbol),
        }
    }

    /// The next column that mixed packets determined and that was not named before.
    pub fn poll_recovered(&mut self) -> Option<u16> {
        self.available.pop()
    }

    /// Takes a packet; false when it tells nothing new and is dropped. Coefficients may be fewer than M, the rest is zero.
    ///
    /// # Errors
    ///
    /// When the packet fits no batch of this size. Nothing has changed then.
    pub fn push(&mut self, combination: Combination<'_>, symbol: S) -> Result<bool, RecodeError> {
        let m = self.size.columns();
        let length = symbol.as_ref().len();
        let new = match combination {
            Combination::Column(column) => {
                let column = usize::from(column);
                if column >= m {
                    return Err(RecodeError::NoSuchColumn);
                }
                let new = self.basis.insert_column(column);
                if new {
                    self.put(column, Slot::Received(symbol));
                }
                new
            }
            Combination::Coefficients(vector) => {
                if vector.len() > m {
                    let actual = vector.len();
                    return Err(RecodeError::WrongCoefficients { expected: m, actual });
                }
                if vector.iter().all(|&c| c == 0) {
                    return Err(RecodeError::Zero);
                }
                let mut padded = [0; 64];
                let padded = &mut padded[..m];
                padded[..vector.len()].copy_from_slice(vector);
                let new = self.basis.insert_mixed(padded);
                if new {
                    self.vectors.extend_from_slice(padded);
                    self.mixed.push(symbol);
                }
                new
            }
        };
        if new {
            self.longest = self.longest.max(length);
            self.recover();
        }
        Ok(new)
    }

    /// Makes a fresh random combination of everything held: the symbol into `out`, as long as the longest one held, and
    /// one coefficient for each of the M columns into `coefficients`. (`seed`, `count`) name the draw; a node uses each `count` once.
    ///
    /// # Errors
    ///
    /// When nothing is held, or a buffer is not of [`longest`](Self::longest) or M bytes.
    pub fn combine(
        &self,
        seed: u64,
        count: u64,
        out: &mut [u8],
        coefficients: &mut [u8],
    ) -> Result<(), RecodeError> {
        let m = self.size.columns();
        if out.len() != self.longest {
            return Err(RecodeError::WrongSize { expected: self.longest, actual: out.len() });
        }
        if coefficients.len() != m {
            let actual = coefficients.len();
            return Err(RecodeError::WrongCoefficients { expected: m, actual });
        }
        if self.rank() == 0 {
            return Err(RecodeError::UnknownBatch);
        }
        let stream = Stream::new(seed, Domain::Recoding, count, 0);
        let mut draw = Vec::with_capacity(m);
        stream.coefficients(self.columns.len() + self.mixed.len(), &mut draw);
        let (of_columns, of_mixed) = draw.split_at(self.columns.len());
        coefficients.fill(0);
        let columns = (0u16..).zip(of_columns).filter_map(|(j, &c)| {
            let symbol = self.column(j)?;
            coefficients[usize::from(j)] = c;
            Some((symbol, c))
        });
        let columns: Vec<(&[u8], u8)> = columns.collect();
        // Mixed packets whose columns are all recovered tell nothing more.
        let mixed = self.mixed.iter().zip(of_mixed).take(if self.is_mixed() { m } else { 0 });
        let kernel = Kernel::active();
        for (vector, (_, &c)) in self.vectors.chunks_exact(m).zip(mixed.clone()) {
            kernel.mul_add(coefficients, vector, c);
        }
        let mixed = mixed.map(|(symbol, &c)| (symbol.as_ref(), c));
        sum_padded(out, columns.into_iter().chain(mixed));
        Ok(())
    }

    fn put(&mut self, column: usize, slot: Slot<S>) {
        if self.columns.len() <= column {
            self.columns.resize_with(column + 1, || Slot::Missing);
        }
        self.columns[column] = slot;
    }

    fn recover(&mut self) {
        while let Some((row, pivot)) = self.basis.determined() {
            let mixed = self.mixed.iter().map(AsRef::as_ref);
            let mixed = mixed.zip(self.basis.transform(row).iter().copied());
            let known = (0u16..)
                .zip(self.basis.coefficients(row))
                .filter(|&(j, &c)| c != 0 && usize::from(j) != pivot)
                .filter_map(|(j, &c)| Some((self.column(j)?, c)));
            let mut out = vec![0; self.longest].into_boxed_slice();
            sum_padded(&mut out, mixed.chain(known).filter(|&(_, c)| c != 0));
            self.basis.resolve(row);
            self.put(pivot, Slot::Recovered(out));
            self.available.push(pivot as u16);
        }
    }
}

/// Sums `terms` into `out`, each as if zeros followed it: those of full length in one pass, the others one by one.
fn sum_padded<'a>(out: &mut [u8], terms: impl Iterator<Item = (&'a [u8], u8)>) {
    let kernel = Kernel::active();
    let (full, short): (Vec<_>, Vec<_>) = terms.partition(|(symbol, _)| symbol.len() >= out.len());
    kernel.sum(out, false, full.into_iter());
    for (symbol, coefficient) in short {
        kernel.mul_add(&mut out[..symbol.len()], symbol, coefficient);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn symbols(count: u64, seed: u64) -> Vec<Vec<u8>> {
        let stream = Stream::new(seed, Domain::Round, 0, 0);
        let symbol = |i: u64| {
            let length = 1 + stream.word(i) % 90;
            (0..length).map(|j| stream.word(100 + i * 100 + j) as u8 | 1).collect()
        };
        (0..count).map(symbol).collect()
    }

    fn is_padded(actual: &[u8], expected: &[u8]) -> bool {
        actual.get(..expected.len()) == Some(expected)
            && actual[expected.len()..].iter().all(|&b| b == 0)
    }

    #[test]
    fn symbols_of_any_length_survive_a_relay_that_lost_some() {
        for seed in 0..200u64 {
            let size = [BatchSize::M4, BatchSize::M8, BatchSize::M16][(seed % 3) as usize];
            let m = size.columns() as u64;
            let columns = 1 + seed % m;
            let originals = symbols(columns, seed);
            let mut source = HeldBatch::new(size);
            for (j, symbol) in (0..).zip(&originals) {
                assert!(source.push(Combination::Column(j), symbol.clone()).unwrap());
            }
            let (mut relay, mut receiver) = (HeldBatch::new(size), HeldBatch::new(size));
            let mut coefficients = vec![0; size.columns()];
            for (j, symbol) in (0..).zip(&originals) {
                if !(seed + u64::from(j)).is_multiple_of(3) {
                    relay.push(Combination::Column(j), symbol.clone()).unwrap();
                }
            }
            let mut count = 0;
            while relay.rank() < columns as usize {
                let mut out = vec![0; source.longest()];
                source.combine(seed, count, &mut out, &mut coefficients).unwrap();
                relay.push(Combination::Coefficients(&coefficients), out).unwrap();
                count += 1;
            }
            assert!(count <= columns + 2, "seed {seed}");
            while receiver.rank() < columns as usize {
                let mut out = vec![0; relay.longest()];
                relay.combine(!seed, count, &mut out, &mut coefficients).unwrap();
                receiver.push(Combination::Coefficients(&coefficients), out).unwrap();
                count += 1;
            }
            assert!(count <= 2 * columns + 6, "seed {seed}");
            for (j, symbol) in (0..).zip(&originals) {
                assert!(is_padded(receiver.column(j).unwrap(), symbol), "seed {seed}, column {j}");
            }
            let mut recovered: Vec<u16> =
                std::iter::from_fn(|| receiver.poll_recovered()).collect();
            recovered.sort_unstable();
            assert!(recovered.into_iter().eq(0..columns as u16), "seed {seed}");
        }
    }

    #[test]
    fn what_fits_no_batch_is_refused_and_changes_nothing() {
        let mut held: HeldBatch<Vec<u8>> = HeldBatch::new(BatchSize::M8);
        assert_eq!(held.push(Combination::Column(8), vec![1]), Err(RecodeError::NoSuchColumn));
        assert_eq!(held.push(Combination::Coefficients(&[0; 4]), vec![1]), Err(RecodeError::Zero));
        let wrong = RecodeError::WrongCoefficients { expected: 8, actual: 9 };
        assert_eq!(held.push(Combination::Coefficients(&[1; 9]), vec![1]), Err(wrong));
        assert_eq!((held.rank(), held.longest()), (0, 0));
        assert_eq!(held.combine(1, 0, &mut [], &mut [0; 8]), Err(RecodeError::UnknownBatch));
        assert_eq!(held.push(Combination::Column(0), vec![1]), Ok(true));
        assert_eq!(held.push(Combination::Column(0), vec![1]), Ok(false));
        assert_eq!(held.push(Combination::Coefficients(&[5]), vec![5]), Ok(false));
    }
}
