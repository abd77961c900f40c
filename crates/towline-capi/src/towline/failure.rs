//! The errors of the Rust API as results.

use towline_core::{
    ConfigError, ConnectError, ContextError, Ended, FlushError, ListenError, RecvError,
    RequestError, SendError, TrySendError, WireError,
};

use crate::entry::{Failure, code, towline_result};

macro_rules! failures {
    ($($error:ty => |$bound:ident| $code:expr;)*) => {
        $(impl From<$error> for Failure {
            fn from($bound: $error) -> Failure {
                Failure::new($code, &$bound)
            }
        })*
    };
}

failures! {
    ConfigError => |_error| code::TOWLINE_ERROR_CONFIG;
    ContextError => |error| match error {
        ContextError::Config(_) => code::TOWLINE_ERROR_CONFIG,
        _ => code::TOWLINE_ERROR_IO,
    };
    ConnectError => |error| connect(&error);
    ListenError => |error| match error {
        ListenError::Address(_) => code::TOWLINE_ERROR_ADDRESS,
        ListenError::NoCertificate { .. } => code::TOWLINE_ERROR_CONFIG,
        ListenError::Stopped | ListenError::Closed => code::TOWLINE_ERROR_ENDED,
        _ => code::TOWLINE_ERROR_LISTEN,
    };
    SendError => |error| send(&error);
    TrySendError => |error| match &error {
        TrySendError::Failed { error, .. } => send(error),
        _ => code::TOWLINE_ERROR_FULL,
    };
    RecvError => |error| match error {
        RecvError::Deadline => code::TOWLINE_ERROR_TIMED_OUT,
        _ => code::TOWLINE_ERROR_ENDED,
    };
    RequestError => |error| match &error {
        RequestError::Send(error) => send(error),
        RequestError::TimedOut { .. } => code::TOWLINE_ERROR_TIMED_OUT,
        RequestError::DuplicateId { .. } => code::TOWLINE_ERROR_DUPLICATE,
        RequestError::Unsupported { .. } => code::TOWLINE_ERROR_UNSUPPORTED,
        RequestError::Reset => code::TOWLINE_ERROR_RESET,
        _ => code::TOWLINE_ERROR_ENDED,
    };
    FlushError => |error| match error {
        FlushError::Reset { .. } => code::TOWLINE_ERROR_RESET,
        _ => code::TOWLINE_ERROR_UNACKNOWLEDGED,
    };
}

pub(super) fn connect(error: &ConnectError) -> towline_result {
    match error {
        ConnectError::Address(_) | ConnectError::MixedWires => code::TOWLINE_ERROR_ADDRESS,
        ConnectError::Stopped | ConnectError::Closed => code::TOWLINE_ERROR_ENDED,
        _ => code::TOWLINE_ERROR_CONNECT,
    }
}

fn send(error: &SendError) -> towline_result {
    match error {
        SendError::Ended(_) => code::TOWLINE_ERROR_ENDED,
        SendError::Deadline => code::TOWLINE_ERROR_TIMED_OUT,
        _ => code::TOWLINE_ERROR_MESSAGE,
    }
}

/// How a connection ended: `TOWLINE_OK` when it was closed in order by either side. Codes from 1 to 255 are the protocol's own errors.
pub(super) fn ended(ended: &Ended) -> towline_result {
    match ended {
        Ended::Closed | Ended::ByPeer { code: 0 | 256.., .. } => code::TOWLINE_OK,
        Ended::NeverConnected(error) => connect(error),
        _ => code::TOWLINE_ERROR_ENDED,
    }
}

/// Why a wire was lost.
pub(super) fn wire(error: &WireError) -> towline_result {
    match error {
        WireError::TimedOut(_) | WireError::Silent(_) => code::TOWLINE_ERROR_TIMED_OUT,
        _ => code::TOWLINE_ERROR_IO,
    }
}
