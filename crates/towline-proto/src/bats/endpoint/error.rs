//! How flows end that do not end by themselves, and what relays refuse.

use super::route::RouteError;
use crate::bats::flow;
use crate::quic::CloseReason;

/// Codes with which a relay or a server refuses or ends a flow. They travel as the code of a Close frame and of the hop's connection.
pub mod refusal {
    /// The relay does not carry flows to where this one wants to go.
    pub const NOT_ALLOWED: u64 = 16;
    /// The next hop could not be reached.
    pub const UNREACHABLE: u64 = 17;
    /// As many flows are carried already as may be, or as memory allows.
    pub const TOO_MANY: u64 = 18;
    /// The stream did not begin with a route, or the route is too long.
    pub const BAD_ROUTE: u64 = 19;
    /// The flow wants to go on from a node that is no relay.
    pub const NOT_A_RELAY: u64 = 20;
    /// The next hop was lost while the flow was going on.
    pub const HOP_LOST: u64 = 21;
    /// The node is being stopped.
    pub const STOPPING: u64 = 22;
    /// The neighbour sent more than it may.
    pub const ABUSE: u64 = 23;
    /// The server serves another mode, or messages where the flow is a stream.
    pub const OTHER_MODE: u64 = crate::bats::flow::code::OTHER_MODE;
}

/// Why a relay or a server refused a flow, or gave it up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RefusalKind {
    /// [`refusal::NOT_ALLOWED`]: whoever runs the relay has to allow it. Trying again does not help.
    NotAllowed,
    /// [`refusal::UNREACHABLE`]: trying again may help.
    Unreachable,
    /// [`refusal::TOO_MANY`]: trying again later may help.
    TooMany,
    /// [`refusal::BAD_ROUTE`]: this end's fault.
    BadRoute,
    /// [`refusal::NOT_A_RELAY`]: `via` names a node that is none.
    NotARelay,
    /// [`refusal::HOP_LOST`]: trying again may help.
    HopLost,
    /// [`refusal::STOPPING`]: trying again helps when the node is back.
    Stopping,
    /// [`refusal::ABUSE`]: this end's fault.
    Abuse,
    /// [`refusal::OTHER_MODE`]: the reason says which mode the server serves. Trying again does not help.
    OtherMode,
}

impl RefusalKind {
    /// The refusal that a code of [`refusal`] stands for.
    pub fn from_code(code: u64) -> Option<RefusalKind> {
        Some(match code {
            refusal::NOT_ALLOWED => RefusalKind::NotAllowed,
            refusal::UNREACHABLE => RefusalKind::Unreachable,
            refusal::TOO_MANY => RefusalKind::TooMany,
            refusal::BAD_ROUTE => RefusalKind::BadRoute,
            refusal::NOT_A_RELAY => RefusalKind::NotARelay,
            refusal::HOP_LOST => RefusalKind::HopLost,
            refusal::STOPPING => RefusalKind::Stopping,
            refusal::ABUSE => RefusalKind::Abuse,
            refusal::OTHER_MODE => RefusalKind::OtherMode,
            _ => return None,
        })
    }
}

/// How the connection to a neighbour ended.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HopEnd {
    /// The transport ended it: nobody answers, a certificate was refused, the protocol is another one.
    #[error("{}", describe(.0))]
    Transport(CloseReason),
    /// The neighbour closed it.
    #[error("closed by the neighbour: code {code} {reason:?}")]
    Closed {
        /// Its code.
        code: u64,
        /// Its text.
        reason: String,
    },
    /// It is gone, and nothing is known.
    #[error("the connection is gone")]
    Vanished,
}

fn describe(reason: &CloseReason) -> String {
    match reason {
        CloseReason::IdleTimeout => "nothing came from it for too long".into(),
        CloseReason::HandshakeTimeout => "nobody answers there".into(),
        CloseReason::Unreachable => "it does not answer any more".into(),
        CloseReason::StatelessReset => {
            "it knows nothing of this connection, and was probably restarted".into()
        }
        CloseReason::VersionMismatch => "it speaks another version of QUIC".into(),
        CloseReason::Refused => "it refused the connection".into(),
        CloseReason::CertificateRejected { reason, .. } => format!("certificate: {reason}"),
        // RFC 9001, section 4.8, and RFC 7301, section 3.2: no_application_protocol.
        other if other.code() == 0x178 => "it does not speak towline-bats/1 there".into(),
        CloseReason::LocalTransportError { code, reason } => {
            format!("protocol error {code:#x}: {reason}")
        }
        CloseReason::PeerTransportError { code, reason } => {
            format!("it reports protocol error {code:#x}: {reason}")
        }
    }
}

/// How a flow of an endpoint ended.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Ended {
    /// By itself.
    #[error(transparent)]
    Flow(flow::Closed),
    /// A relay or the server refused it or gave it up.
    #[error("refused on the way: {reason}")]
    Refused {
        /// Why.
        kind: RefusalKind,
        /// For people: which node, and what it says.
        reason: String,
    },
    /// The hop ended under it. What was not acknowledged may not have arrived.
    #[error("the hop ended: {0}")]
    Hop(HopEnd),
    /// The far end did not answer within `connect_timeout`.
    #[error("no answer within the time for connecting")]
    ConnectTimeout,
    /// A client's stream did not begin with a route.
    #[error("not a route: {0}")]
    Route(RouteError),
}

impl Ended {
    /// Whether trying again may help.
    pub fn may_retry(&self) -> bool {
        match self {
            Ended::Flow(_) | Ended::Route(_) => false,
            Ended::Refused { kind, .. } => matches!(
                kind,
                RefusalKind::Unreachable
                    | RefusalKind::TooMany
                    | RefusalKind::HopLost
                    | RefusalKind::Stopping
            ),
            Ended::Hop(HopEnd::Transport(reason)) => matches!(
                reason,
                CloseReason::IdleTimeout
                    | CloseReason::HandshakeTimeout
                    | CloseReason::Unreachable
                    | CloseReason::StatelessReset
                    | CloseReason::Refused
            ),
            Ended::Hop(_) | Ended::ConnectTimeout => true,
        }
    }
}
