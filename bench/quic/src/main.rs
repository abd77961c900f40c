//! Towline's QUIC, quinn and noq with its own driver: the same work over loopback in the same run, contenders in turns.
//!
//!     cargo run --release -- [--rounds N] [--megabytes N] [--only CONTENDER]...
//!
//! Both ends are in this process, each on one I/O thread of its own. All use rustls with ring, TLS_AES_128_GCM_SHA256, CUBIC, packets of at most 1,500
//! bytes, and otherwise their defaults. Processor time is that of the whole process: both ends, kernel included. Figures are medians over the rounds,
//! ratios are of one round's figures and then the median.

mod others;
mod towline_peer;

use std::time::{Duration, Instant};

/// What is measured of one contender in one round.
#[derive(Clone, Copy, Default)]
pub struct Figures {
    /// One connection, one stream: gigabits per second.
    bulk: f64,
    /// Processor seconds per gigabyte of it, both ends.
    cpu: f64,
    /// 64 bytes there and back on one stream: microseconds, the median and the 99th percentile.
    p50: f64,
    p99: f64,
    /// Requests of 64 bytes on streams of their own, 32 at once: per second.
    requests: f64,
    /// Full handshakes, one after the other: per second.
    handshakes: f64,
}

/// The work of one round.
#[derive(Clone, Copy)]
pub struct Work {
    pub bulk: usize,
    pub pings: usize,
    pub requests: usize,
    pub at_once: usize,
    pub handshakes: usize,
}

pub struct Cert {
    pub pem: String,
    pub key: String,
}

/// Processor time of this process so far.
pub fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Raw results, as every contender brings them.
pub struct Raw {
    pub bulk: (Duration, Duration),
    pub pings: Vec<Duration>,
    pub requests: Duration,
    pub handshakes: Duration,
}

impl Raw {
    fn figures(mut self, work: Work) -> Figures {
        self.pings.sort_unstable();
        let at = |share: f64| {
            let index = (self.pings.len() as f64 * share) as usize;
            self.pings[index.min(self.pings.len() - 1)].as_secs_f64() * 1e6
        };
        Figures {
            bulk: work.bulk as f64 * 8e-9 / self.bulk.0.as_secs_f64(),
            cpu: self.bulk.1.as_secs_f64() * 1e9 / work.bulk as f64,
            p50: at(0.5),
            p99: at(0.99),
            requests: work.requests as f64 / self.requests.as_secs_f64(),
            handshakes: work.handshakes as f64 / self.handshakes.as_secs_f64(),
        }
    }
}

type Contender = (&'static str, fn(&Cert, Work) -> Raw);

const CONTENDERS: [Contender; 3] =
    [("towline", towline_peer::run), ("quinn", others::quinn::run), ("noq", others::noq::run)];

fn main() {
    let (mut rounds, mut megabytes, mut only) = (5, 256, Vec::new());
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().expect("a value");
        match argument.as_str() {
            "--rounds" => rounds = value().parse().expect("a number"),
            "--megabytes" => megabytes = value().parse().expect("a number"),
            "--only" => only.push(value()),
            other => panic!("{other}: the options are --rounds, --megabytes and --only"),
        }
    }
    let params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let cert = Cert { pem: params.self_signed(&key).unwrap().pem(), key: key.serialize_pem() };
    let work = Work { bulk: megabytes << 20, pings: 5_000, requests: 10_000, at_once: 32, handshakes: 200 };
    let chosen: Vec<Contender> =
        CONTENDERS.into_iter().filter(|(name, _)| only.is_empty() || only.iter().any(|o| o == name)).collect();
    let mut table: Vec<Vec<Figures>> = vec![Vec::new(); chosen.len()];
    let begin = Instant::now();
    for round in 0..rounds {
        for (row, (name, run)) in table.iter_mut().zip(&chosen) {
            row.push(run(&cert, work).figures(work));
            eprintln!("{:5.0} s: round {} of {rounds}: {name}", begin.elapsed().as_secs_f64(), round + 1);
        }
    }
    print(&chosen, &table);
}

const MEASURES: [(&str, fn(&Figures) -> f64); 6] = [
    ("bulk, Gb/s", |f| f.bulk),
    ("CPU s per GB", |f| f.cpu),
    ("ping p50, us", |f| f.p50),
    ("ping p99, us", |f| f.p99),
    ("requests per s", |f| f.requests),
    ("handshakes per s", |f| f.handshakes),
];

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn print(chosen: &[Contender], table: &[Vec<Figures>]) {
    print!("{:18}", "");
    chosen.iter().for_each(|(name, _)| print!("{name:>12}"));
    chosen.iter().skip(1).for_each(|(name, _)| print!("{:>16}", format!("{}/{name}", chosen[0].0)));
    println!();
    for (name, of) in MEASURES {
        print!("{name:18}");
        for row in table {
            print!("{:12.2}", median(row.iter().map(of).collect()));
        }
        for row in table.iter().skip(1) {
            let ratios = table[0].iter().zip(row).map(|(ours, theirs)| of(ours) / of(theirs));
            print!("{:16.2}", median(ratios.collect()));
        }
        println!();
    }
}
