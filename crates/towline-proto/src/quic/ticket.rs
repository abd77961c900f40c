//! Session tickets as a client keeps them.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::Tls13ClientSessionValue;
use rustls_pki_types::ServerName;

/// A ticket of an earlier session, for `ClientConfig::nst`.
///
/// It is a handle within this process. The TLS library gives no bytes for it, so it cannot be written to a file; `docs/quic.md` says so under `nst`.
/// It serves once, its clones together: using a ticket again lets an observer link the connections (RFC 8446 appendix C.4).
#[derive(Clone)]
pub struct Ticket {
    pub(super) server_name: ServerName<'static>,
    early_data: bool,
    value: Arc<Mutex<Option<Tls13ClientSessionValue>>>,
}

impl Ticket {
    /// The server that gave it out.
    pub fn server_name(&self) -> String {
        self.server_name.to_str().into_owned()
    }

    /// Whether the server allows 0-RTT data with it.
    pub fn allows_early_data(&self) -> bool {
        self.early_data
    }

    pub(super) fn new(server_name: ServerName<'static>, value: Tls13ClientSessionValue) -> Self {
        let early_data = value.max_early_data_size() > 0;
        Self { server_name, early_data, value: Arc::new(Mutex::new(Some(value))) }
    }

    /// Takes the session out, once.
    pub(super) fn take(&self) -> Option<Tls13ClientSessionValue> {
        self.value.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}
