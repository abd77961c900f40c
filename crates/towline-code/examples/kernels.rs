//! The roofline of each kernel: gigabytes of source that it takes in each second, against memcpy in the same cache.
//!
//! `cargo run --release -p towline-code --example kernels`
//!
//! memcpy reads its source and writes as much; the fused kernel reads its sources and writes one destination for all of them. "fused 16"
//! sums 16 sources of 1,408 bytes into one destination, "fused 64" 64 of them; "single" is one multiply-add at a time.
#![allow(clippy::print_stdout)]

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use towline_code::gf256::Kernel;

const SYMBOL: usize = 1408;

fn main() {
    println!(
        "{:>12} {:>8} {:>12} {:>10} {:>10} {:>10} {:>16}",
        "working set", "memcpy", "kernel", "single", "fused 16", "fused 64", "best / memcpy"
    );
    for (name, bytes) in [("L1 24 KiB", 24 << 10), ("L2 1 MiB", 1 << 20), ("L3 32 MiB", 32 << 20)] {
        let count = bytes / SYMBOL;
        // From a cache line boundary on, as an allocator gives large buffers.
        let buffer: Vec<u8> = (0..count * SYMBOL + 64).map(|i| (i * 131 % 255) as u8).collect();
        let data = &buffer[buffer.as_ptr().align_offset(64)..][..count * SYMBOL];
        let symbols: Vec<&[u8]> = data.chunks(SYMBOL).collect();
        let mut out = vec![0u8; SYMBOL];
        let half = data.len() / 2;
        let mut copy = vec![0u8; half];
        let mut copying = || {
            copy.copy_from_slice(black_box(&data[..half]));
            black_box(&copy);
            half
        };
        for kernel in Kernel::available() {
            let coefficients: Vec<u8> = (0..64).map(|i| i * 3 + 2).collect();
            let fused = |many: usize, out: &mut [u8]| {
                let mut sum = 0;
                for group in symbols.chunks_exact(many.min(count)) {
                    kernel.dot_add(out, black_box(group), &coefficients[..group.len()]);
                    sum += group.len() * SYMBOL;
                }
                sum
            };
            // Interleaved, so that whatever else the machine does hits all of them.
            let mut best = [0f64; 4];
            for _ in 0..8 {
                best[0] = best[0].max(rate(&mut copying));
                best[1] = best[1].max(rate(|| {
                    symbols.iter().for_each(|s| kernel.mul_add(&mut out, black_box(s), 77));
                    count * SYMBOL
                }));
                best[2] = best[2].max(rate(|| fused(16, &mut out)));
                best[3] = best[3].max(rate(|| fused(64, &mut out)));
            }
            let [memcpy, single, few, many] = best;
            println!(
                "{name:>12} {memcpy:8.1} {:>12} {single:10.1} {few:10.1} {many:10.1} {:16.2}",
                kernel.name(),
                few.max(many) / memcpy
            );
        }
    }
}

/// Gigabytes each second of `work`, which says how many bytes it took.
fn rate(mut work: impl FnMut() -> usize) -> f64 {
    let began = Instant::now();
    let mut bytes = 0;
    while began.elapsed() < Duration::from_millis(12) {
        for _ in 0..4 {
            bytes += work();
        }
    }
    bytes as f64 / began.elapsed().as_secs_f64() / 1e9
}
