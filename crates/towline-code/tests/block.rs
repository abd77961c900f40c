//! Blocks from end to end, with the source as the oracle.

use towline_code::*;

fn code(k: u32, size: usize, m: usize, degrees: Degrees, nonce: u64) -> BlockCode {
    BlockCode::new(BlockParameters {
        source_symbols: k,
        symbol_size: size,
        batch_size: m.try_into().unwrap(),
        degrees,
        nonce,
    })
    .unwrap()
}

#[test]
fn one_hop_loss_is_repaired() {
    for k in [1u32, 2, 7, 16, 64, 100, 256, 500] {
        for degrees in
            [Degrees::Even(1), Degrees::for_missing(k, f64::from(k) * 0.1), Degrees::Fountain]
        {
            let code = code(k, 48, 16, degrees, u64::from(k));
            let data: Vec<u8> = (0..k as usize * 48).map(|i| (i * 31 % 251) as u8).collect();
            let mut encoder = BlockEncoder::over(code, &data, 48).unwrap();
            let mut decoder = BlockDecoder::new(code, DecoderLimits::default());
            for index in (0..k).filter(|i| i % 7 != 3) {
                let (batch, column) = code.position_of(index);
                let progress = decoder
                    .push(
                        batch,
                        Combination::Column(column),
                        encoder.source(index).unwrap().to_vec(),
                    )
                    .unwrap();
                assert_eq!(progress.outcome, Outcome::Accepted);
                assert_eq!(progress.available, 1);
            }
            let mut n = 0;
            while !decoder.is_complete() {
                let (batch, column) = code.repair_position(n).unwrap();
                let mut out = vec![0; 48];
                encoder.symbol(batch, column, &mut out).unwrap();
                decoder.push(batch, Combination::Column(column), out).unwrap();
                n += 1;
                assert!(
                    n < 20 * u64::from(k) + 50,
                    "k {k} {degrees:?} rank {} deficit {}",
                    decoder.rank(),
                    decoder.deficit()
                );
            }
            for index in 0..k {
                assert_eq!(decoder.symbol(index).unwrap(), *encoder.source(index).unwrap());
            }
        }
    }
}
