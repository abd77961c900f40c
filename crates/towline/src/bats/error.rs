//! Why there is no flow.

use towline_proto::bats::endpoint::{ConfigError, ConnectError, Ended, HopEnd, RefusalKind};
use towline_proto::bats::flow::Closed;
use towline_proto::quic::CloseReason;

use crate::error::{Fault, WireError};

/// Why a flow could not be begun, or how it ended.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FlowError {
    /// An option is out of range, or a certificate is none.
    #[error(transparent)]
    Config(ConfigError),
    /// It could not be begun; nothing was sent.
    #[error(transparent)]
    Connect(ConnectError),
    /// How it ended.
    #[error("{0}{hint}", hint = hint(.0))]
    Ended(Ended),
}

impl FlowError {
    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        match self {
            FlowError::Config(_) | FlowError::Connect(_) => Fault::Caller,
            FlowError::Ended(Ended::ConnectTimeout | Ended::Hop(_)) => Fault::Network,
            FlowError::Ended(Ended::Refused { kind, .. }) => match kind {
                RefusalKind::BadRoute | RefusalKind::NotARelay | RefusalKind::OtherMode => {
                    Fault::Caller
                }
                RefusalKind::Unreachable | RefusalKind::HopLost => Fault::Network,
                _ => Fault::Peer,
            },
            FlowError::Ended(_) => Fault::Peer,
        }
    }

    /// Whether trying again may help.
    pub fn can_retry(&self) -> bool {
        matches!(self, FlowError::Ended(ended) if ended.may_retry())
    }
}

impl From<FlowError> for WireError {
    fn from(error: FlowError) -> WireError {
        WireError::Bats(std::sync::Arc::new(error))
    }
}

/// What to do about it.
fn hint(ended: &Ended) -> &'static str {
    match ended {
        Ended::Refused { kind, .. } => match kind {
            RefusalKind::NotAllowed => "; whoever runs the relay has to allow it (`--allow`)",
            RefusalKind::Unreachable => {
                "; is it running, and does the relay trust its certificate?"
            }
            RefusalKind::TooMany => "; try again later",
            RefusalKind::NotARelay => {
                "; `via` names relays (`towline relay`), the server comes last"
            }
            RefusalKind::OtherMode => "; say so in the address (`mode=`)",
            _ => "",
        },
        Ended::Hop(HopEnd::Transport(reason)) => match reason {
            CloseReason::CertificateRejected { .. } => {
                "; trust its authority (`ca_file`), or say which name it has (`server_name`)"
            }
            CloseReason::HandshakeTimeout => "; is the address right, and the peer running?",
            other if other.code() == 0x178 => "; is it a bats:// listener, or a relay?",
            _ => "",
        },
        Ended::Flow(Closed::Seal { .. }) => {
            "; trust its authority (`ca_file`), or say which name it has (`server_name`)"
        }
        Ended::ConnectTimeout => "; are the addresses right, and is everything on the way running?",
        _ => "",
    }
}
