//! How fast the simulator is: packet-hops per second on one core, and nothing else to compare with.
//!
//!     cargo run --release -p towline-sim --example throughput
//!
//! Each row sends full datagrams at the link rate through a chain of laboratory links (token bucket, queue,
//! delay, loss) for 10 virtual seconds: once with calls of the network alone, once with nodes in a simulation.

use std::error::Error;
use std::io::Write;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use towline_sim::{Bitrate, Delivery, Ecn, LinkConfig, Network, Node, Simulation, Transmit};

fn run(hops: usize, rate: Bitrate, loss: f64, seconds: u64) -> Result<(u64, u64), Box<dyn Error>> {
    let mut network = Network::new(1, Instant::now());
    let chain = network.chain(hops, &LinkConfig::lab(rate, Duration::from_millis(10), loss))?;
    let ends = [chain.hosts[0], chain.hosts[hops]];
    let address = [network.address(ends[0])?, network.address(ends[1])?];
    let from = network.bind(ends[0], SocketAddr::new(address[0], 4000))?;
    let to = SocketAddr::new(address[1], 4000);
    network.bind(ends[1], to)?;

    let payload = Bytes::from(vec![0; 1472]);
    let mut received = 0;
    for packet in 0.. {
        let at = rate.time_of(1514 * packet);
        if at > Duration::from_secs(seconds) {
            break;
        }
        network.advance_to(network.base() + at);
        network.send(from, to, Ecn::Ect0, payload.clone())?;
        while network.poll_delivery().is_some() {
            received += 1;
        }
    }
    Ok((network.stats().hops, received))
}

type Run = fn(usize, Bitrate, f64, u64) -> Result<(u64, u64), Box<dyn Error>>;

/// Sends full datagrams at a pace, one deadline each: what an engine with a pacer costs the runner at least.
struct Source {
    to: SocketAddr,
    interval: Duration,
    due: Instant,
    ready: bool,
    payload: Bytes,
}

impl Node for Source {
    fn handle_timeout(&mut self, _now: Instant) {
        self.ready = true;
        self.due += self.interval;
    }

    fn poll_transmit(&mut self, _now: Instant) -> Option<Transmit> {
        std::mem::take(&mut self.ready).then(|| Transmit::new(self.to, self.payload.clone()))
    }

    fn poll_timeout(&mut self) -> Option<Instant> {
        Some(self.due)
    }
}

#[derive(Default)]
struct Sink(u64);

impl Node for Sink {
    fn handle_datagram(&mut self, _now: Instant, _datagram: Delivery) {
        self.0 += 1;
    }
}

fn run_nodes(
    hops: usize,
    rate: Bitrate,
    loss: f64,
    seconds: u64,
) -> Result<(u64, u64), Box<dyn Error>> {
    let mut sim = Simulation::new(1, Instant::now());
    let chain = sim.network.chain(hops, &LinkConfig::lab(rate, Duration::from_millis(10), loss))?;
    let to = SocketAddr::new(sim.network.address(chain.hosts[hops])?, 4000);
    let from = SocketAddr::new(sim.network.address(chain.hosts[0])?, 4000);
    let (due, payload) = (sim.now(), Bytes::from(vec![0; 1472]));
    let source = Source { to, interval: rate.time_of(1514), due, ready: false, payload };
    let source = sim.add_node("source", chain.hosts[0], source);
    sim.bind(source, from)?;
    let sink = sim.add_node("sink", chain.hosts[hops], Sink::default());
    sim.bind(sink, to)?;
    sim.run_to(Duration::from_secs(seconds))?;
    Ok((sim.network.stats().hops, sim.node(sink).0))
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{:>8} {:>5} {:>8} {:>5} {:>11} {:>9} {:>10}",
        "driven", "hops", "rate", "loss", "packet-hops", "received", "Mhops/s"
    )?;
    for (hops, rate, loss) in [
        (1, Bitrate::from_gbps(1), 0.0),
        (1, Bitrate::from_gbps(1), 0.05),
        (3, Bitrate::from_gbps(1), 0.05),
        (10, Bitrate::from_gbps(1), 0.01),
        (1, Bitrate::from_gbps(2), 0.05),
    ] {
        for (how, run) in [("network", run as Run), ("nodes", run_nodes)] {
            let start = Instant::now();
            let (crossed, received) = run(hops, rate, loss, 10)?;
            let speed = crossed as f64 / start.elapsed().as_secs_f64() / 1e6;
            let rate = rate.to_string();
            writeln!(
                out,
                "{how:>8} {hops:>5} {rate:>8} {loss:>5} {crossed:>11} {received:>9} {speed:>10.2}"
            )?;
        }
    }
    Ok(())
}
