//! Which ends of a connection are no failure.

use towline::{Connection, Ended, WireError};

/// WebSocket's codes for an end that was meant (RFC 6455 section 7.4.1): normal, going away as a page that is left, and none given.
const MEANT: [u64; 3] = [1000, 1001, 1005];

/// Whether the peer meant to end it. Where there is no session, closing the wire may be the only way to say so.
pub(super) fn is_orderly(ended: &Ended, connection: &Connection) -> bool {
    let session = connection.capabilities().session;
    match ended {
        Ended::Closed | Ended::ByPeer { code: 0, .. } => true,
        Ended::ByPeer { code, .. } => !session && MEANT.contains(code),
        Ended::Lost(WireError::End) => !session,
        _ => false,
    }
}
