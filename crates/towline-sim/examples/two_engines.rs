//! Two sans-IO engines over a bad network: a file is sent in numbered blocks, each acknowledged, with a window
//! and a fixed timeout. It shows how an engine becomes a `Node`, how a network changes during a run, and what
//! the statistics say afterwards.
//!
//!     cargo run -p towline-sim --example two_engines

use std::collections::{BTreeMap, VecDeque};
use std::error::Error;
use std::io::Write;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use towline_sim::{
    Bitrate, Delivery, LinkChange, LinkConfig, Loss, Node, Simulation, Stop, Transmit,
};

const BLOCK: usize = 1000;
const WINDOW: usize = 64;
const TIMEOUT: Duration = Duration::from_millis(250);

/// Keeps a window of blocks in flight and sends each again until it is acknowledged.
struct Sender {
    peer: SocketAddr,
    unsent: VecDeque<(u32, Bytes)>,
    in_flight: BTreeMap<u32, (Instant, Bytes)>,
    outbox: VecDeque<u32>,
    resent: u64,
}

impl Sender {
    fn new(peer: SocketAddr, file: Bytes) -> Self {
        let block = |n: usize| (n as u32, file.slice(n * BLOCK..file.len().min((n + 1) * BLOCK)));
        let unsent = (0..file.len().div_ceil(BLOCK)).map(block).collect();
        Sender { peer, unsent, in_flight: BTreeMap::new(), outbox: VecDeque::new(), resent: 0 }
    }

    fn is_done(&self) -> bool {
        self.unsent.is_empty() && self.in_flight.is_empty()
    }
}

impl Node for Sender {
    fn handle_datagram(&mut self, _now: Instant, datagram: Delivery) {
        if let Some(number) = datagram.data.first_chunk() {
            self.in_flight.remove(&u32::from_be_bytes(*number));
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        for (number, (due, _)) in &mut self.in_flight {
            if *due <= now {
                *due = now + TIMEOUT;
                self.outbox.push_back(*number);
                self.resent += 1;
            }
        }
    }

    fn poll_transmit(&mut self, now: Instant) -> Option<Transmit> {
        if self.in_flight.len() < WINDOW
            && let Some((number, block)) = self.unsent.pop_front()
        {
            self.in_flight.insert(number, (now + TIMEOUT, block));
            self.outbox.push_back(number);
        }
        let number = self.outbox.pop_front()?;
        let (_, block) = self.in_flight.get(&number)?;
        let mut contents = BytesMut::with_capacity(4 + block.len());
        contents.put_u32(number);
        contents.put_slice(block);
        Some(Transmit::new(self.peer, contents.freeze()))
    }

    fn poll_timeout(&mut self) -> Option<Instant> {
        self.in_flight.values().map(|(due, _)| *due).min()
    }
}

/// Acknowledges every block and keeps the first copy of it.
#[derive(Default)]
struct Receiver {
    blocks: BTreeMap<u32, Bytes>,
    outbox: VecDeque<Transmit>,
}

impl Node for Receiver {
    fn handle_datagram(&mut self, _now: Instant, mut datagram: Delivery) {
        if datagram.data.len() >= 4 {
            let number = datagram.data.split_to(4);
            if let Some(bytes) = number.first_chunk() {
                self.blocks.entry(u32::from_be_bytes(*bytes)).or_insert(datagram.data);
            }
            self.outbox.push_back(Transmit::new(datagram.source, number));
        }
    }

    fn poll_transmit(&mut self, _now: Instant) -> Option<Transmit> {
        self.outbox.pop_front()
    }
}

pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    let file = Bytes::from((0..1_000_000u32).map(|n| (n / 3) as u8).collect::<Vec<u8>>());

    let mut sim = Simulation::new(2024, Instant::now());
    let link = LinkConfig::new()
        .rate(Bitrate::from_mbps(20))
        .delay(Duration::from_millis(15))
        .loss(Loss::Burst { mean: 0.05, burst: 4.0 })
        .duplicate(0.01)
        .at(Duration::from_millis(300), LinkChange::Rate(Some(Bitrate::from_mbps(5))))
        .outage(Duration::from_millis(600), Duration::from_millis(900));
    let chain = sim.network.chain(2, &link)?;
    let peer = "10.0.0.3:9000".parse()?;
    let sender = sim.add_node("sender", chain.hosts[0], Sender::new(peer, file.clone()));
    sim.bind(sender, "10.0.0.1:0".parse()?)?;
    let receiver = sim.add_node("receiver", chain.hosts[2], Receiver::default());
    sim.bind(receiver, peer)?;

    let stop = sim.run_until(Duration::from_secs(60), |sim| sim.node(sender).is_done())?;
    assert_eq!(stop, Stop::Condition, "the transfer takes too long");
    let received: Vec<u8> = sim.node(receiver).blocks.values().flatten().copied().collect();
    assert!(received == file, "the file is damaged");

    let mut out = std::io::stdout().lock();
    let resent = sim.node(sender).resent;
    writeln!(out, "{} bytes in {:?}, {resent} blocks sent again", file.len(), sim.elapsed())?;
    for link in chain.forward {
        let stats = sim.network.link_stats(link)?;
        writeln!(
            out,
            "{link}: {} offered, {} delivered, lost {} to loss, {} to the outage, {} to the queue; queue p99 {:?}",
            stats.offered.packets,
            stats.delivered.packets,
            stats.dropped_loss.packets,
            stats.dropped_outage.packets,
            stats.dropped_queue.packets,
            stats.queue_delay.percentile(99),
        )?;
    }
    Ok(())
}
