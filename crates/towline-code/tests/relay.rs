//! The recoder by itself, and the rank that chains of it keep.

#[path = "../examples/simulation/mod.rs"]
mod simulation;

use simulation::{Relaying, rank_ratio};
use towline_code::*;

fn recoder(max_batches: usize) -> Recoder<Vec<u8>> {
    Recoder::new(RecoderConfig { batch_size: BatchSize::M4, symbol_size: 3, max_batches, seed: 5 })
        .unwrap()
}

#[test]
fn the_batch_least_recently_used_is_evicted() {
    let mut recoder = recoder(2);
    let push = |recoder: &mut Recoder<Vec<u8>>, batch, column| {
        recoder.push(BatchId(batch), Combination::Column(column), vec![1, 2, 3]).unwrap()
    };
    assert_eq!(
        push(&mut recoder, 1, 0),
        Pushed { verdict: Verdict::Forward, rank: 1, evicted: None }
    );
    assert_eq!(push(&mut recoder, 2, 0).evicted, None);
    // Combining counts as use.
    recoder.combine(BatchId(1), &mut [0; 3], &mut [0; 4]).unwrap();
    assert_eq!(push(&mut recoder, 3, 0).evicted, Some(BatchId(2)));
    assert_eq!(
        recoder.combine(BatchId(2), &mut [0; 3], &mut [0; 4]),
        Err(RecodeError::UnknownBatch)
    );
    // So does a packet, even a repeated one.
    assert_eq!(push(&mut recoder, 1, 0).verdict, Verdict::Drop);
    assert_eq!(push(&mut recoder, 4, 1).evicted, Some(BatchId(3)));
    assert!(recoder.close(BatchId(1)) && !recoder.close(BatchId(1)));
    assert_eq!(push(&mut recoder, 5, 1).evicted, None);
    assert_eq!(recoder.batches(), 2);
}

#[test]
fn a_full_batch_forwards_nothing_more_and_its_combinations_span_it() {
    let mut recoder = recoder(1);
    for column in 0..4 {
        recoder.push(BatchId(0), Combination::Column(column), vec![column as u8; 3]).unwrap();
    }
    let pushed =
        recoder.push(BatchId(0), Combination::Coefficients(&[1, 2, 3, 4]), vec![0; 3]).unwrap();
    assert_eq!((pushed.verdict, pushed.rank), (Verdict::Drop, 4));
    let mut next = Recoder::<Vec<u8>>::new(*recoder.config()).unwrap();
    let mut sent = 0;
    while next.rank(BatchId(0)) < 4 {
        let (mut symbol, mut vector) = (vec![0; 3], [0; 4]);
        recoder.combine(BatchId(0), &mut symbol, &mut vector).unwrap();
        next.push(BatchId(0), Combination::Coefficients(&vector), symbol).unwrap();
        sent += 1;
    }
    assert!(sent <= 6, "{sent} combinations");
}

#[test]
fn impossible_packets_are_refused() {
    let mut recoder = recoder(1);
    let size = RecodeError::WrongSize { expected: 3, actual: 2 };
    assert_eq!(recoder.push(BatchId(0), Combination::Column(0), vec![0; 2]), Err(size));
    assert_eq!(
        recoder.push(BatchId(0), Combination::Column(4), vec![0; 3]),
        Err(RecodeError::NoSuchColumn)
    );
    assert_eq!(
        recoder.push(BatchId(0), Combination::Coefficients(&[0; 4]), vec![0; 3]),
        Err(RecodeError::Zero)
    );
    let vector = RecodeError::WrongCoefficients { expected: 4, actual: 5 };
    assert_eq!(
        recoder.push(BatchId(0), Combination::Coefficients(&[1; 5]), vec![0; 3]),
        Err(vector)
    );
    assert_eq!(
        recoder.combine(BatchId(0), &mut [0; 3], &mut [0; 4]),
        Err(RecodeError::UnknownBatch)
    );
    assert_eq!(recoder.batches(), 0);
}

/// A few cells of the table in docs/code.md; `--example ranks` measures all of them closely.
#[test]
fn the_expected_rank_over_hops_is_that_of_the_table() {
    use Relaying::{Adaptive, Dense, Systematic};
    for (loss, m, relaying, hops, expected) in [
        (0.02, 16, Systematic, 1, 0.9800),
        (0.05, 8, Systematic, 3, 0.8888),
        (0.10, 16, Systematic, 3, 0.8362),
        (0.10, 16, Dense, 3, 0.8362),
        (0.10, 16, Adaptive, 3, 0.8526),
        (0.20, 8, Adaptive, 10, 0.6146),
        (0.20, 32, Systematic, 10, 0.6869),
        (0.05, 64, Systematic, 4, 0.9211),
    ] {
        let ratio = rank_ratio(hops, loss, m, relaying, 3000, 1);
        assert!(
            (ratio - expected).abs() < 0.006,
            "p {loss} M {m} {relaying:?} {hops} hops: {ratio} instead of {expected}"
        );
    }
}
