//! What nodes are set to.

use std::time::Duration;

use bytes::Bytes;

use super::relay::RelaySettings;
use crate::bats::flow::{self, FlowConfig, Framing, Mode};
use crate::bats::quic_hop::{ALPN, HopConfig};
use crate::quic::{self, ClientSettings, ServerSettings};
use crate::tls;

/// A configuration that was refused.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// An option of the flow.
    #[error(transparent)]
    Flow(#[from] flow::ConfigError),
    /// An option of the hop, or its certificates.
    #[error(transparent)]
    Hop(#[from] quic::ConfigError),
    /// An option of the node.
    #[error("bats option {option} must be {expected}")]
    Node {
        /// Its name.
        option: &'static str,
        /// What it may be.
        expected: &'static str,
    },
}

/// What connects: TLS and hop of the connection to the first node, and the flow.
#[derive(Clone)]
pub struct ConnectConfig {
    pub(super) hop: quic::ClientConfig,
    pub(super) flow: FlowConfig,
    pub(super) connect_timeout: Duration,
    /// How the far end proves itself to a flow through relays.
    pub(super) seal: Option<tls::ClientConfig>,
    pub(super) target_name: Option<String>,
    pub(super) unsealed: bool,
}

impl ConnectConfig {
    /// Checks everything. The application protocol of `tls` and its options are replaced by a hop's.
    ///
    /// # Errors
    /// Names the first option that is out of range, or what is wrong with a certificate.
    pub fn new(
        tls: ClientSettings,
        hop: &HopConfig,
        flow: FlowConfig,
    ) -> Result<Self, ConfigError> {
        ConnectConfig::with_tls(hop_client(tls, hop)?, flow)
    }

    /// The same from a configuration that was built with [`ALPN`] and [`HopConfig::options`].
    ///
    /// # Errors
    /// Names the first option that is out of range.
    pub fn with_tls(hop: quic::ClientConfig, flow: FlowConfig) -> Result<Self, ConfigError> {
        flow.check()?;
        let connect_timeout = Duration::from_secs(30);
        Ok(ConnectConfig {
            hop,
            flow,
            connect_timeout,
            target_name: None,
            seal: None,
            unsealed: false,
        })
    }

    /// Seals flows from end to end when relays are in the path: the far end proves itself to `tls` by the target's name, and relays need not be trusted. Flows
    /// without relays have the hop's own TLS and are not sealed twice. Where the path names one node only and that one is a relay with a next hop of its own, say so by
    /// [`FlowConfig::relayed`] and name the far end by [`target_name`](Self::target_name).
    #[must_use]
    pub fn seal(mut self, tls: tls::ClientConfig) -> Self {
        self.seal = Some(tls);
        self
    }

    /// The name that the far end's certificate must have, where it is not the last node's of the path. Without relays it is the name on the hop, too.
    #[must_use]
    pub fn target_name(mut self, name: impl Into<String>) -> Self {
        self.target_name = Some(name.into());
        self
    }

    /// Allows flows through relays that are not sealed: every relay can then read and alter what they carry.
    #[must_use]
    pub fn dangerous_trust_relays(mut self) -> Self {
        self.unsealed = true;
        self
    }

    /// How long the far end may take to agree, relays and certificates included. Default 30 s.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// The flow's parameters.
    pub fn flow(&self) -> &FlowConfig {
        &self.flow
    }
}

/// The client's end of a hop.
pub(super) fn hop_client(
    mut tls: ClientSettings,
    hop: &HopConfig,
) -> Result<quic::ClientConfig, quic::ConfigError> {
    tls.alpn = vec![Bytes::from_static(ALPN)];
    tls.options = hop.options();
    quic::ClientConfig::new(tls)
}

/// What listens: TLS and hop of every connection, and what flows may be.
#[derive(Clone)]
pub struct ListenConfig {
    pub(super) hop: quic::ServerConfig,
    pub(super) flow: FlowConfig,
    pub(super) seal: Option<tls::ServerConfig>,
    pub(super) unsealed: bool,
    pub(super) serves: Option<(Mode, Framing)>,
}

impl ListenConfig {
    /// Checks everything. The application protocol of `tls` and its options are replaced by a hop's. Of `flow` count what is not the client's to say.
    ///
    /// # Errors
    /// Names the first option that is out of range, or what is wrong with a certificate.
    pub fn new(
        tls: ServerSettings,
        hop: &HopConfig,
        flow: FlowConfig,
    ) -> Result<Self, ConfigError> {
        ListenConfig::with_tls(hop_server(tls, hop)?, flow)
    }

    /// The same from a configuration that was built with [`ALPN`] and [`HopConfig::options`].
    ///
    /// # Errors
    /// Names the first option that is out of range.
    pub fn with_tls(hop: quic::ServerConfig, flow: FlowConfig) -> Result<Self, ConfigError> {
        flow.check()?;
        Ok(ListenConfig { hop, flow, seal: None, unsealed: false, serves: None })
    }

    /// With what this end proves itself to flows through relays, which are refused without.
    #[must_use]
    pub fn seal(mut self, tls: tls::ServerConfig) -> Self {
        self.seal = Some(tls);
        self
    }

    /// Refuses flows of any other mode or framing, with [`refusal::OTHER_MODE`](super::refusal::OTHER_MODE).
    #[must_use]
    pub fn serve_only(mut self, mode: Mode, framing: Framing) -> Self {
        self.serves = Some((mode, framing));
        self
    }

    /// Takes flows through relays that are not sealed: every relay can then read and alter what they carry.
    #[must_use]
    pub fn dangerous_trust_relays(mut self) -> Self {
        self.unsealed = true;
        self
    }
}

/// The server's end of a hop.
pub(super) fn hop_server(
    mut tls: ServerSettings,
    hop: &HopConfig,
) -> Result<quic::ServerConfig, quic::ConfigError> {
    tls.alpn = vec![Bytes::from_static(ALPN)];
    tls.options = hop.options();
    quic::ServerConfig::new(tls)
}

/// Limits of a node: an endpoint, or a relay.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// The QUIC endpoint below: its secret, the shape of its connection ids, the size of trains. `gate` is turned off and `max_connections` follows `max_flows`.
    pub quic: quic::EndpointConfig,
    /// Flows at one time, those that are just beginning included. Further ones are refused. Default 1,024.
    pub max_flows: usize,
    /// How long a client may take to say where its flow goes, and a next hop to be reached. Default 10 s.
    pub setup_timeout: Duration,
}

impl Default for NodeConfig {
    fn default() -> Self {
        let quic = HopConfig::adapt(quic::EndpointConfig::default());
        NodeConfig { quic, max_flows: 1_024, setup_timeout: Duration::from_secs(10) }
    }
}

impl NodeConfig {
    pub(super) fn to_quic(&self, connections: usize) -> Result<quic::EndpointConfig, ConfigError> {
        let refuse = |option, expected| Err(ConfigError::Node { option, expected });
        if !(1..=1 << 20).contains(&self.max_flows) {
            return refuse("max_flows", "from 1 to 1,048,576");
        }
        if self.setup_timeout.is_zero() {
            return refuse("setup_timeout", "above 0");
        }
        Ok(quic::EndpointConfig { gate: false, max_connections: connections, ..self.quic.clone() })
    }
}

impl RelaySettings {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let refuse = |option, expected| Err(ConfigError::Node { option, expected });
        if self.next.is_none() && self.allow.is_empty() {
            return refuse(
                "allow",
                "given when there is no next hop: nothing could go on from here",
            );
        }
        if self.max_memory < 64 << 20 {
            return refuse("max_memory", "at least 64 MiB");
        }
        self.flow.check()?;
        Ok(())
    }
}
