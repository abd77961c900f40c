//! A deterministic network in virtual time.
//!
//! Protocol engines that take bytes and `now`, and give bytes and their next deadline, can be tested without a
//! socket, a thread or a second of waiting. This crate is the network between them: links with rate, queue,
//! delay, jitter, loss, reordering, duplication, corruption, outages and schedules of change; chains of hosts;
//! partitions and changes of address; byte streams that are cut at any offset. The same seed gives the same
//! bytes at the same nanosecond, in every build and on every machine.
//!
//! # Sending datagrams
//!
//! A [`Network`] has hosts, [links](LinkConfig) between them and sockets on them. Time moves when it is told to.
//!
//! ```
//! use std::time::{Duration, Instant};
//! use bytes::Bytes;
//! use towline_sim::{Bitrate, Ecn, LinkConfig, Loss, Network};
//!
//! let base = Instant::now(); // any instant: only differences are seen
//! let mut network = Network::new(42, base);
//! let link = LinkConfig::new()
//!     .rate(Bitrate::from_mbps(100))
//!     .delay(Duration::from_millis(10))
//!     .loss(Loss::Independent(0.05));
//! let chain = network.chain(3, &link)?; // h0 .. h3, 10.0.0.1 .. 10.0.0.4
//! let sender = network.bind(chain.hosts[0], "10.0.0.1:4000".parse().unwrap())?;
//! let receiver = network.bind(chain.hosts[3], "10.0.0.4:4000".parse().unwrap())?;
//!
//! let to = network.local_address(receiver)?;
//! for _ in 0..100 {
//!     network.send(sender, to, Ecn::Ect0, Bytes::from(vec![0; 1200]))?;
//! }
//! let mut arrived = 0;
//! while network.step().is_some() {
//!     while let Some(delivery) = network.poll_delivery() {
//!         assert!(delivery.at >= base + Duration::from_millis(30));
//!         arrived += 1;
//!     }
//! }
//! let lost: u64 = chain.forward.iter().map(|link| network.link_stats(*link).unwrap().dropped_loss.packets).sum();
//! assert_eq!(arrived + lost, 100);
//! # Ok::<(), towline_sim::NetworkError>(())
//! ```
//!
//! # Running engines
//!
//! A [`Simulation`] drives [nodes](Node). A node is an engine behind the doors that all engines here have:
//! `handle_datagram` and `handle_timeout` in, `poll_transmit` and `poll_timeout` out. This one sends a word
//! until it is echoed:
//!
//! ```
//! use std::net::SocketAddr;
//! use std::time::{Duration, Instant};
//! use bytes::Bytes;
//! use towline_sim::{Delivery, LinkConfig, Loss, Node, Simulation, Stop, Transmit};
//!
//! struct Client { peer: SocketAddr, resend: Option<Instant>, due: bool, tries: u32 }
//!
//! impl Node for Client {
//!     fn handle_datagram(&mut self, _now: Instant, datagram: Delivery) {
//!         assert_eq!(datagram.data, "word");
//!         self.resend = None;
//!     }
//!     fn handle_timeout(&mut self, now: Instant) {
//!         self.due = true;
//!         self.resend = Some(now + Duration::from_millis(100));
//!     }
//!     fn poll_transmit(&mut self, _now: Instant) -> Option<Transmit> {
//!         std::mem::take(&mut self.due).then(|| {
//!             self.tries += 1;
//!             Transmit::new(self.peer, Bytes::from_static(b"word"))
//!         })
//!     }
//!     fn poll_timeout(&mut self) -> Option<Instant> {
//!         self.resend
//!     }
//! }
//!
//! #[derive(Default)]
//! struct Echo(Vec<Transmit>);
//!
//! impl Node for Echo {
//!     fn handle_datagram(&mut self, _now: Instant, datagram: Delivery) {
//!         self.0.push(Transmit::new(datagram.source, datagram.data));
//!     }
//!     fn poll_transmit(&mut self, _now: Instant) -> Option<Transmit> {
//!         self.0.pop()
//!     }
//! }
//!
//! let mut sim = Simulation::new(1, Instant::now());
//! // The first two packets of the way there are lost.
//! let link = LinkConfig::new().delay(Duration::from_millis(10)).loss(Loss::Listed([0, 1].into()));
//! let chain = sim.network.chain_with(1, |_, forward| if forward { link.clone() } else { LinkConfig::new() })?;
//! let peer = "10.0.0.2:7".parse().unwrap();
//! let resend = Some(sim.now());
//! let client = sim.add_node("client", chain.hosts[0], Client { peer, resend, due: false, tries: 0 });
//! sim.bind(client, "10.0.0.1:0".parse().unwrap())?;
//! let echo = sim.add_node("echo", chain.hosts[1], Echo::default());
//! sim.bind(echo, peer)?;
//!
//! assert_eq!(sim.run_to(Duration::from_secs(60))?, Stop::Idle);
//! assert_eq!(sim.node(client).tries, 3);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`Simulation::run_until`] stops on a condition, [`Simulation::at`] runs a script at a time, and a node that keeps
//! itself busy without letting time move is an [error](ScenarioError::Livelock) with its name. An engine with a
//! bug of that kind stops the test instead of hanging it. `examples/two_engines.rs` is a whole
//! transfer with its statistics.
//!
//! # Byte streams
//!
//! Engines that run over TCP get a [`StreamNetwork`]: connections that may be refused or never answered, bytes
//! in pieces of any size, bounded buffers that push back, and [faults](Fault) at any offset of the stream. A
//! [script](StreamNetwork::script) says what each attempt to connect meets, so that redialing is tested too. In a
//! simulation it is `sim.streams`, and a node's doors are [`Node::handle_stream`] and [`Node::poll_streams`].
//!
//! # In real time
//!
//! Nothing in a [`Network`] knows that its time is virtual. A program that calls
//! [`advance_to`](Network::advance_to) with the clock's instants, and sleeps until
//! [`next_event_time`](Network::next_event_time) or its sockets, is an emulator with the same links.
//!
//! # What "deterministic" means here
//!
//! * Time is an integer number of nanoseconds since the base; instants are base plus offset. Rates are kept to
//!   the fraction of a nanosecond: the part below one is carried from packet to packet.
//! * Random numbers are xoshiro256++ in integers. Each impairment of each link has its own stream, named by the
//!   seed, the names of the hosts at its ends and the impairment. Adding a link or an impairment leaves all
//!   other draws as they were, so two runs can be compared packet by packet.
//! * Probabilities become integers by `f64` addition, multiplication and division, which IEEE 754 defines to the
//!   bit. No other function of floats is used.
//! * No order depends on a hash table or on memory. Simultaneous events have a fixed order: scheduled
//!   changes, then links in order of creation; within a link the order in which packets left the queue.
//! * [`Network::digest`] proves it: a digest of everything that happened, with payloads.
//!
//! # What it models, and what it does not
//!
//! A packet is dropped, delayed or marked by itself: a buffer that a driver would hand to the kernel for
//! segmentation is [cut](Transmit::segment_size) before it reaches the first link, so that 5 % loss is 5 % of
//! packets. Packets count against the rate with their headers and framing. Queues are drop-tail, with an ECN
//! threshold if wanted. There is no fragmentation, no ICMP (a packet over the MTU is silently gone) and no
//! address resolution. Byte streams have no packets: delay, rate and buffers only.
//!
//! Memory: a link holds what waits in its queue and what is on its way. The defaults bound the queue at 100 ms of the
//! rate. A packet costs its [`Bytes`](bytes::Bytes) and about 130 bytes of bookkeeping, allocated once and used
//! again.

mod agenda;
mod link;
mod network;
mod random;
mod rate;
mod scenario;
mod stream;
mod time;
mod trace;

pub use link::{
    Burst, ConfigError, Count, DelayHistogram, JitterShape, LinkChange, LinkConfig, LinkStats,
    Loss, QueueLimit, Reorder,
};
pub use network::{
    Action, Chain, Delivery, Ecn, HOP_LIMIT, HostId, LinkId, Network, NetworkError, NetworkStats,
    Readdressed, SocketId,
};
pub use random::{Chance, Random};
pub use rate::Bitrate;
pub use scenario::{Activity, Node, NodeId, ScenarioError, Simulation, Stop, StreamIo, Transmit};
pub use stream::{
    Attempt, Chunking, Closure, ConnectFailure, Cut, Direction, Fault, Owner, StreamConfig,
    StreamError, StreamEvent, StreamEventKind, StreamId, StreamNetwork, StreamStats,
};
pub use trace::{Dropped, PacketId, TraceEvent, TraceKind};
