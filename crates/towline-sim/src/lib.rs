//! Under construction.
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
