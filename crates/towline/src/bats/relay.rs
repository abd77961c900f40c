//! Relays: started, asked and stopped.

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use towline_proto::bats::endpoint::{RelayEvent, RelaySettings, RelayTotals};
use towline_proto::bats::quic_hop::{ALPN, HopConfig};

use crate::config::Config;
use crate::quic;
use crate::runtime::relay::{self as thread, Control as Orders};

/// Why a relay could not be started.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RelayError {
    /// The address stands for nothing.
    #[error("cannot resolve {address}: {reason}")]
    Resolve {
        /// As it was given.
        address: Box<str>,
        /// What the system says.
        reason: Arc<str>,
    },
    /// The system refused the socket or the thread.
    #[error("cannot listen on {address}: {error}")]
    Io {
        /// Where.
        address: Box<str>,
        /// What the system says.
        error: Arc<io::Error>,
    },
    /// An option of the relay is out of range.
    #[error("{0}")]
    Config(Box<str>),
    /// The TLS options do not serve a relay.
    #[error(transparent)]
    Tls(#[from] quic::ConfigError),
}

/// What a relay is made of.
#[derive(Clone)]
pub struct RelayBuilder {
    server: Config,
    client: Config,
    settings: RelaySettings,
    hop: HopConfig,
    max_flows: usize,
}

impl fmt::Debug for RelayBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RelayBuilder").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl RelayBuilder {
    /// Of `server` counts the certificate that those who come are shown, and whether they need one; of `client` whom the relay trusts where flows go on.
    pub fn new(server: &Config, client: &Config, settings: RelaySettings) -> RelayBuilder {
        let (server, client) = (server.clone(), client.clone());
        RelayBuilder { server, client, settings, hop: HopConfig::default(), max_flows: 1_024 }
    }

    /// Congestion control and time limits of every hop.
    #[must_use]
    pub fn hop(mut self, hop: HopConfig) -> Self {
        self.hop = hop;
        self
    }

    /// Flows at one time. Default 1,024.
    #[must_use]
    pub fn max_flows(mut self, flows: usize) -> Self {
        self.max_flows = flows;
        self
    }

    /// Binds `address` (`host:port`, port 0 for any free one) and carries flows from here on, on one thread of its own. `on_event` is called on that
    /// thread and must not block.
    ///
    /// # Errors
    /// See [`RelayError`].
    pub fn start(
        &self,
        address: &str,
        on_event: impl FnMut(&RelayEvent) + Send + 'static,
    ) -> Result<Relay, RelayError> {
        let io = |error: io::Error| {
            let (address, error) = (address.into(), Arc::new(error));
            RelayError::Io { address, error }
        };
        let found = address.to_socket_addrs().map_err(|error| RelayError::Resolve {
            address: address.into(),
            reason: error.to_string().into(),
        })?;
        let local = found.into_iter().next().ok_or_else(|| RelayError::Resolve {
            address: address.into(),
            reason: "the name has no address".into(),
        })?;
        let alpn = || [Bytes::from_static(ALPN)];
        let server = quic::server_config(&self.server, alpn(), self.hop.options())?;
        let client = quic::client_config(&self.client, alpn(), self.hop.options())?;
        let engine = thread::engine(self.settings.clone(), self.max_flows, (server, client))
            .map_err(|error| RelayError::Config(error.to_string().into()))?;
        let orders = Arc::new(Orders::default());
        let (local, thread) =
            thread::start(engine, local, Arc::clone(&orders), Box::new(on_event)).map_err(io)?;
        Ok(Relay { local, orders, thread: Some(thread) })
    }
}

/// A relay at work. Dropping it ends its flows at once.
#[derive(Debug)]
pub struct Relay {
    local: SocketAddr,
    orders: Arc<Orders>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    /// Where it listens, with the real port.
    pub fn local_address(&self) -> SocketAddr {
        self.local
    }

    /// What it did so far; `None` once it has ended. Asks its thread and waits for the answer.
    pub fn totals(&self) -> Option<RelayTotals> {
        self.orders.totals()
    }

    /// Takes no new flows, lets those that pass end by themselves within `limit`, ends the others, and gives what it did.
    pub fn stop(mut self, limit: Duration) -> Option<RelayTotals> {
        self.orders.stop(limit);
        self.join();
        self.orders.last()
    }

    fn join(&mut self) {
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("a relay's thread panicked");
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.orders.stop(Duration::ZERO);
        self.join();
    }
}
