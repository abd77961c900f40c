//! A chain of lossy hops over coefficients, for the examples and the tests: symbols of a few bytes stand for whole ones.

#![allow(dead_code, unreachable_pub)]

use towline_code::*;

/// SplitMix64: the same numbers on every machine.
pub struct Random(pub u64);

impl Random {
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// True with probability `p`.
    pub fn chance(&mut self, p: f64) -> bool {
        ((self.word() >> 11) as f64) < p * (1u64 << 53) as f64
    }
}

/// What a relay does with a batch once it is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relaying {
    /// Sends what it received and fills up to M with combinations.
    Systematic,
    /// Sends M combinations.
    Dense,
    /// Sends what its table says for the batch's rank.
    Adaptive,
}

/// A packet on a link: an unmixed column or a vector, and its symbol.
#[derive(Clone, Debug)]
pub struct Packet {
    pub column: Option<u16>,
    pub vector: Vec<u8>,
    pub symbol: Vec<u8>,
}

impl Packet {
    pub fn combination(&self) -> Combination<'_> {
        match self.column {
            Some(column) => Combination::Column(column),
            None => Combination::Coefficients(&self.vector),
        }
    }
}

/// Links of one loss rate with a recoding relay between each two.
pub struct Chain {
    pub loss: f64,
    pub m: usize,
    pub relays: Vec<Recoder<Vec<u8>>>,
    pub relaying: Relaying,
    pub tables: Vec<RecodingTable>,
    pub random: Random,
}

impl Chain {
    pub fn new(
        hops: usize,
        loss: f64,
        m: usize,
        symbol_size: usize,
        relaying: Relaying,
        seed: u64,
    ) -> Chain {
        let relay = |hop: usize| {
            let batch_size = m.try_into().expect("a batch size");
            let seed = seed ^ (hop as u64 + 1) << 48;
            Recoder::new(RecoderConfig { batch_size, symbol_size, max_batches: 4, seed })
                .expect("a recoder")
        };
        Chain {
            loss,
            m,
            relays: (1..hops).map(relay).collect(),
            relaying,
            tables: Vec::new(),
            random: Random(seed),
        }
    }

    /// Sends the packets of a batch along all hops; what reaches the end. `ranks` counts the rank of the batch behind each hop but the last.
    pub fn carry(
        &mut self,
        batch: BatchId,
        mut packets: Vec<Packet>,
        mut ranks: impl FnMut(usize, usize),
    ) -> Vec<Packet> {
        for hop in 0..self.relays.len() {
            let mut forwarded = Vec::with_capacity(self.m);
            for packet in packets {
                if self.random.chance(self.loss) {
                    continue;
                }
                let pushed = self.relays[hop]
                    .push(batch, packet.combination(), packet.symbol.clone())
                    .expect("a packet");
                if pushed.verdict == Verdict::Forward {
                    forwarded.push(packet);
                }
            }
            let rank = self.relays[hop].rank(batch);
            ranks(hop, rank);
            if rank == 0 {
                return Vec::new();
            }
            let total = match self.relaying {
                Relaying::Systematic => self.m,
                Relaying::Dense => {
                    forwarded.clear();
                    self.m
                }
                Relaying::Adaptive => self.tables[hop].packets(rank, self.random.word()),
            };
            // With a small budget not even everything received is sent on; combinations of all of it serve better then.
            if total < forwarded.len() {
                forwarded.clear();
            }
            while forwarded.len() < total {
                let mut symbol = vec![0; self.relays[hop].config().symbol_size];
                let mut vector = vec![0; self.m];
                self.relays[hop].combine(batch, &mut symbol, &mut vector).expect("a held batch");
                forwarded.push(Packet { column: None, vector, symbol });
            }
            self.relays[hop].close(batch);
            packets = forwarded;
        }
        packets.retain(|_| !self.random.chance(self.loss));
        packets
    }
}

/// What one block took.
#[derive(Clone, Copy, Debug)]
pub struct Trial {
    /// Innovative symbols beyond K.
    pub overhead: usize,
    /// Symbols that arrived and told nothing new within their batch.
    pub redundant: usize,
    /// Sum of the ranks of the source batches at the end of the chain, and how many columns they have.
    pub rank: usize,
    pub columns: usize,
    pub inactive: usize,
}

/// Sends one block over the chain until it is decoded, and checks every symbol.
pub fn trial(code: BlockCode, chain: &mut Chain) -> Trial {
    let (k, size) = (code.source_symbols(), code.symbol_size());
    let data: Vec<u8> = (0..k * size).map(|_| chain.random.word() as u8).collect();
    let mut encoder = BlockEncoder::over(code, &data, size).expect("an encoder");
    let mut decoder = BlockDecoder::new(code, DecoderLimits::default());
    let mut result = Trial { overhead: 0, redundant: 0, rank: 0, columns: 0, inactive: 0 };
    for batch in (0..).map(BatchId) {
        let columns = code.columns_of(batch);
        let packets = (0..columns as u16).map(|column| {
            let mut symbol = vec![0; size];
            encoder.symbol(batch, column, &mut symbol).expect("a column");
            Packet { column: Some(column), vector: Vec::new(), symbol }
        });
        let packets = packets.collect();
        let source = code.is_source(batch);
        result.columns += if source { columns } else { 0 };
        for packet in chain.carry(batch, packets, |_, _| {}) {
            let progress =
                decoder.push(batch, packet.combination(), packet.symbol.clone()).expect("a packet");
            match progress.outcome {
                Outcome::Accepted => result.rank += usize::from(source),
                Outcome::Redundant => result.redundant += 1,
            }
            if decoder.is_complete() {
                break;
            }
        }
        if decoder.is_complete() {
            break;
        }
    }
    for (index, symbol) in (0u32..).zip(data.chunks(size)) {
        assert_eq!(decoder.symbol(index), Some(symbol), "symbol {index}");
    }
    result.overhead = decoder.accepted() - k;
    result.inactive = decoder.inactive();
    result
}

/// The expected rank of a batch behind `hops` links in M, by simulation, and the adaptive tables made on the way.
pub fn rank_ratio(
    hops: usize,
    loss: f64,
    m: usize,
    relaying: Relaying,
    batches: usize,
    seed: u64,
) -> f64 {
    let mut chain = Chain::new(hops, loss, m, 1, relaying, seed);
    if relaying == Relaying::Adaptive {
        // Each relay's table follows from the ranks that the relays before it produce: make them from the source on.
        for hop in 0..hops - 1 {
            let mut counts = vec![0.0; m + 1];
            let mut prefix = Chain::new(hop + 2, loss, m, 1, relaying, seed ^ 0x5555);
            prefix.tables = chain.tables.clone();
            prefix.tables.push(
                RecodingTable::new(&vec![1.0; m + 1], loss, m as f64, 8 * m).expect("a table"),
            );
            for batch in 0..batches as u32 {
                let mut last = 0;
                prefix.carry(BatchId(batch), unit_packets(m), |at, rank| {
                    last = if at == hop { rank } else { last }
                });
                counts[last] += 1.0;
            }
            chain.tables.push(RecodingTable::new(&counts, loss, m as f64, 8 * m).expect("a table"));
        }
    }
    let mut end = Recoder::<Vec<u8>>::new(RecoderConfig {
        batch_size: m.try_into().expect("a batch size"),
        symbol_size: 1,
        max_batches: 1,
        seed: 0,
    })
    .expect("a recoder");
    let mut sum = 0;
    for batch in (0..batches as u32).map(BatchId) {
        for packet in chain.carry(batch, unit_packets(m), |_, _| {}) {
            end.push(batch, packet.combination(), packet.symbol.clone()).expect("a packet");
        }
        sum += end.rank(batch);
        end.close(batch);
    }
    sum as f64 / (batches * m) as f64
}

fn unit_packets(m: usize) -> Vec<Packet> {
    (0..m as u16)
        .map(|column| Packet { column: Some(column), vector: Vec::new(), symbol: vec![0] })
        .collect()
}
