//! The test vectors of docs/vectors, both ways: what the code makes is what they say, and what they say decodes.

use std::fmt::Write;

use crate::{
    generator::{Column, Generator},
    prng::{Domain, Stream},
    *,
};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2)
        .map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).expect("hex"))
        .collect()
}

/// The lines of a file without comments.
fn lines(file: &str) -> impl Iterator<Item = Vec<&str>> {
    file.lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .map(|line| line.split(' ').collect())
}

fn degrees(word: &str) -> Degrees {
    word.parse().map_or(Degrees::Fountain, Degrees::Even)
}

fn code(k: &str, size: &str, m: &str, degree: &str, nonce: &str) -> BlockCode {
    BlockCode::new(BlockParameters {
        source_symbols: k.parse().expect("K"),
        symbol_size: size.parse().expect("a size"),
        batch_size: m.parse::<usize>().expect("M").try_into().expect("M"),
        degrees: degrees(degree),
        nonce: u64::from_str_radix(nonce, 16).expect("a nonce"),
    })
    .expect("a code")
}

type Block = (BlockEncoder<Vec<u8>>, BlockDecoder<Vec<u8>>);
type Window = (WindowEncoder<Vec<u8>>, WindowDecoder<Vec<u8>>, Vec<Vec<u8>>);

/// Compares a file with what its inputs give now.
fn check(file: &str, mut now: impl FnMut(&[&str]) -> String) {
    let mut text = String::new();
    let mut count = 0;
    for words in lines(file) {
        writeln!(text, "{}", now(&words)).expect("a string");
        count += 1;
    }
    let was: String = file
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .fold(String::new(), |t, l| t + l + "\n");
    assert!(count > 0 && text == was, "the vectors are now\n{text}");
}

#[test]
fn words_of_the_generator() {
    check(include_str!("../../../docs/vectors/code-prng.txt"), |words| {
        let [nonce, domain, a, b, i, ..] = words else { panic!("five numbers and a word") };
        let number = |text: &str| u64::from_str_radix(text, 16).expect("hex");
        let domain = match *domain {
            "1" => Domain::Column,
            "2" => Domain::Round,
            "3" => Domain::Window,
            _ => Domain::Recoding,
        };
        let word = Stream::new(number(nonce), domain, number(a), number(b)).word(number(i));
        format!("{} {word:016x}", words[..5].join(" "))
    });
}

#[test]
fn columns_of_the_generator_matrix() {
    check(include_str!("../../../docs/vectors/code-columns.txt"), |words| {
        let [k, m, degree, nonce, batch, column, ..] = words else {
            panic!("six parameters and a column")
        };
        let mut generator = Generator::new(code(k, "1", m, degree, nonce));
        let mut out = Column::default();
        generator.column(
            BatchId(batch.parse().expect("a batch")),
            column.parse().expect("a column"),
            &mut out,
        );
        let terms: Vec<String> = out
            .symbols
            .iter()
            .zip(&out.coefficients)
            .map(|(s, c)| format!("{s}:{c:02x}"))
            .collect();
        format!("{} {}", words[..6].join(" "), terms.join(" "))
    });
}

#[test]
fn blocks_encode_recode_and_decode() {
    let file = include_str!("../../../docs/vectors/code-block.txt");
    let mut state: Option<Block> = None;
    check(file, |words| match words {
        ["block", k, size, m, degree, nonce, source] => {
            let code = code(k, size, m, degree, nonce);
            let symbols: Vec<Vec<u8>> =
                unhex(source).chunks(code.symbol_size()).map(<[u8]>::to_vec).collect();
            let decoder = BlockDecoder::new(code, DecoderLimits::default());
            state = Some((BlockEncoder::new(code, symbols).expect("K symbols"), decoder));
            words.join(" ")
        }
        ["symbol", batch, column, symbol] => {
            let (encoder, decoder) = state.as_mut().expect("a block");
            let (batch_id, column_id) =
                (BatchId(batch.parse().expect("a batch")), column.parse().expect("a column"));
            let mut out = vec![0; encoder.code().symbol_size()];
            encoder.symbol(batch_id, column_id, &mut out).expect("a symbol");
            decoder
                .push(batch_id, Combination::Column(column_id), unhex(symbol))
                .expect("a symbol");
            format!("symbol {batch} {column} {}", hex(&out))
        }
        ["mixed", batch, vector, symbol] => {
            let (encoder, decoder) = state.as_mut().expect("a block");
            let batch_id = BatchId(batch.parse().expect("a batch"));
            let coefficients = unhex(vector);
            let mut sum = vec![0; encoder.code().symbol_size()];
            for (column, &c) in (0u16..).zip(&coefficients).filter(|(_, c)| **c != 0) {
                let mut out = sum.clone();
                encoder.symbol(batch_id, column, &mut out).expect("a symbol");
                gf256::mul_add(&mut sum, &out, c);
            }
            decoder
                .push(batch_id, Combination::Coefficients(&coefficients), unhex(symbol))
                .expect("a symbol");
            format!("mixed {batch} {vector} {}", hex(&sum))
        }
        ["decoded"] => {
            let (encoder, decoder) = state.as_ref().expect("a block");
            let k = encoder.code().source_symbols() as u32;
            assert!((0..k).all(|i| decoder.symbol(i) == encoder.source(i).map(|s| &s[..])));
            "decoded".into()
        }
        _ => panic!("no such line: {words:?}"),
    });
}

#[test]
fn window_repairs() {
    let file = include_str!("../../../docs/vectors/code-window.txt");
    let mut state: Option<Window> = None;
    check(file, |words| match words {
        ["window", window, size, nonce] => {
            let nonce = u64::from_str_radix(nonce, 16).expect("a nonce");
            let config =
                WindowConfig::new(window.parse().expect("W"), size.parse().expect("a size"), nonce);
            state = Some((
                WindowEncoder::new(config).expect("a window"),
                WindowDecoder::new(config).expect("a window"),
                Vec::new(),
            ));
            words.join(" ")
        }
        [kind @ ("source" | "lost"), number, symbol] => {
            let (encoder, decoder, sent) = state.as_mut().expect("a window");
            let given = encoder.push(unhex(symbol)).expect("a symbol");
            if *kind == "source" {
                decoder.push_source(given, unhex(symbol)).expect("a symbol");
            }
            sent.push(unhex(symbol));
            assert_eq!(*number, given.to_string());
            words.join(" ")
        }
        ["repair", _, _, _, symbol] => {
            let (encoder, decoder, _) = state.as_mut().expect("a window");
            let mut out = vec![0; encoder.config().symbol_size];
            let repair = encoder.repair(&mut out).expect("a repair");
            decoder.push_repair(repair, &unhex(symbol)).expect("a repair");
            format!("repair {} {} {} {}", repair.id, repair.first, repair.count, hex(&out))
        }
        ["decoded"] => {
            let (_, decoder, sent) = state.as_ref().expect("a window");
            assert!(
                (decoder.base()..decoder.end())
                    .all(|n| decoder.symbol(n) == sent.get(n as usize).map(|s| &s[..]))
            );
            "decoded".into()
        }
        _ => panic!("no such line: {words:?}"),
    });
}
