//! What a handshake agreed on.

use rustls_pki_types::CertificateDer;
use std::sync::Arc;

/// A TLS version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Version {
    /// TLS 1.2, only with [`super::Config::legacy_tls12`].
    Tls12,
    /// TLS 1.3.
    Tls13,
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tls12 => "TLS 1.2",
            Self::Tls13 => "TLS 1.3",
        })
    }
}

/// What the handshake agreed on. Cloning it costs a reference count.
#[derive(Clone, Debug)]
pub struct TlsState(Arc<Agreed>);

#[derive(Debug)]
pub(super) struct Agreed {
    pub(super) version: Version,
    pub(super) cipher_suite: &'static str,
    pub(super) alpn: Option<Vec<u8>>,
    pub(super) peer_certificates: Vec<CertificateDer<'static>>,
    pub(super) resumed: bool,
    pub(super) server_name: Option<String>,
}

impl TlsState {
    pub(super) fn new(agreed: Agreed) -> Self {
        Self(Arc::new(agreed))
    }

    #[cfg(feature = "quic")]
    pub(crate) fn of_quic(
        cipher_suite: Option<&'static str>,
        alpn: Option<&[u8]>,
        peer_certificates: Vec<CertificateDer<'static>>,
        resumed: bool,
        server_name: Option<String>,
    ) -> Self {
        Self::new(Agreed {
            version: Version::Tls13,
            cipher_suite: cipher_suite.unwrap_or("unknown"),
            alpn: alpn.map(<[u8]>::to_vec),
            peer_certificates,
            resumed,
            server_name,
        })
    }

    /// The protocol version.
    pub fn version(&self) -> Version {
        self.0.version
    }

    /// The cipher suite's IANA name, such as `TLS13_AES_128_GCM_SHA256`.
    pub fn cipher_suite(&self) -> &'static str {
        self.0.cipher_suite
    }

    /// The application protocol agreed by ALPN, if any.
    pub fn alpn(&self) -> Option<&[u8]> {
        self.0.alpn.as_deref()
    }

    /// The peer's certificates as DER, its own first; empty when it presented none. A resumed connection has those of the first.
    pub fn peer_certificates(&self) -> &[CertificateDer<'static>] {
        &self.0.peer_certificates
    }

    /// Whether an earlier connection was resumed instead of a full handshake.
    pub fn resumed(&self) -> bool {
        self.0.resumed
    }

    /// On a client the name that the certificate was checked against, on a server the name that the client asked for (SNI).
    pub fn server_name(&self) -> Option<&str> {
        self.0.server_name.as_deref()
    }
}
