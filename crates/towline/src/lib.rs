//! Messages over connections that hold on bad networks.
//!
//! Under construction: see the README.

mod address;
#[cfg(feature = "bats")]
pub mod bats;
mod config;
mod connection;
mod context;
mod endpoint;
mod engine;
mod error;
mod events;
mod handler;
mod listener;
mod message;
#[cfg(feature = "quic")]
pub mod quic;
mod reader;
mod request;
mod runtime;
pub mod socket_factory;
mod stats;
pub mod tls;
mod waiter;
pub mod websocket;

pub use address::{Address, IntoAddresses, Wire};
pub use config::{Config, ConfigBuilder, Resend};
pub use connection::{Capabilities, Close, Connecting, Connection, Flush, Request, Send, Writable};
pub use context::{Context, ContextBuilder, DriverChoice, DriverKind};
pub use endpoint::Endpoint;
pub use error::{
    AddressError, ConfigError, ConnectError, ContextError, Ended, Error, Fault, FlushError,
    ListenError, RecvError, RequestError, SendError, TrySendError, WireError,
};
pub use events::{Events, NextEvent};
pub use handler::{Closed, Connected, Event, Handler, Redialing};
pub use listener::{Accept, Attacher, Listener};
pub use message::{Lane, Message, MessageId};
pub use reader::{Overflow, Reader, ReaderOptions, Recv};
pub use stats::{ConnectionStats, ContextStats};
