//! Nodes: an [`Endpoint`] where flows begin and end, and a [`Relay`] that they pass.
//!
//! A node owns a [`quic::Endpoint`](crate::quic::Endpoint) and has its doors: put datagrams in, then take events and transmits out until both give
//! nothing, then sleep until the deadline. Each hop of each flow is a connection of its own. A flow's first words on every hop are its [`Route`]: where it goes from there.

mod config;
mod dialing;
mod doors;
mod error;
mod leg;
mod node;
mod pattern;
mod relay;
mod route;
mod table;

pub use config::{ConfigError, ConnectConfig, ListenConfig, NodeConfig};
pub use error::{Ended, HopEnd, RefusalKind, refusal};
pub use node::{ConnectError, Endpoint, EndpointStats, Event, FlowId, FlowMut};
pub use relay::{Pattern, Relay, RelayEvent, RelayFlowId, RelaySettings, RelayTotals};
pub use route::{HopAddress, MAX_HOPS, MAX_ROUTE, Route, RouteError, RouteReader};
