//! The options, and what is built of them once.
use super::{Error, Pin};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

/// Which client certificates a server wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientAuth {
    /// None is asked for.
    #[default]
    None,
    /// One is asked for, and verified when presented.
    Optional,
    /// A connection without one is refused.
    Required,
}

/// Where the cryptography comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Provider {
    /// ring (feature `ring`).
    Ring,
    /// aws-lc-rs (feature `aws-lc-rs`).
    AwsLcRs,
}

/// Where the secrets of each connection are written, in the NSS key log format that Wireshark reads.
#[derive(Clone)]
pub enum KeyLog {
    /// Appended to a file.
    File(PathBuf),
    /// Given to a function as whole lines without newline.
    Callback(Arc<dyn Fn(&str) + Send + Sync>),
}

/// TLS options for both roles.
#[derive(Clone, Default)]
pub struct Config;
impl Config {
    /// Defaults: TLS 1.3, verification on, nothing trusted yet, no identity.
    pub fn new() -> Self {
        Self
    }
    /// This side's certificate chain and key, from PEM files. A server needs one; on a client it is its client certificate.
    pub fn identity_files(self, certificate: impl AsRef<Path>, key: impl AsRef<Path>) -> Self {
        let _ = (certificate, key);
        self
    }
    /// The same from PEM text in memory.
    pub fn identity_pem(self, certificate: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        let _ = (certificate.into(), key.into());
        self
    }
    /// Trusts the certificates in a PEM file as CAs. May be given several times.
    pub fn ca_file(self, path: impl AsRef<Path>) -> Self {
        let _ = path;
        self
    }
    /// Trusts the certificates in PEM text as CAs.
    pub fn ca_pem(self, pem: impl Into<Vec<u8>>) -> Self {
        let _ = pem.into();
        self
    }
    /// Trusts the system's roots (feature `system-roots`).
    pub fn system_roots(self) -> Self {
        self
    }
    /// Accepts only a peer whose certificate or public key has this pin.
    pub fn pin(self, pin: Pin) -> Self {
        let _ = pin;
        self
    }
    /// Client certificates (server only). Default none.
    pub fn client_auth(self, auth: ClientAuth) -> Self {
        let _ = auth;
        self
    }
    /// Application protocols, the preferred first.
    pub fn alpn(self, protocols: impl IntoIterator<Item = impl Into<Vec<u8>>>) -> Self {
        let _ = protocols.into_iter().map(Into::into).collect::<Vec<Vec<u8>>>();
        self
    }
    /// Fails the handshake unless one of [`Config::alpn`] was agreed.
    pub fn require_alpn(self) -> Self {
        self
    }
    /// Writes the connections' secrets.
    pub fn key_log(self, log: KeyLog) -> Self {
        let _ = log;
        self
    }
    /// Resumption of earlier connections. Default on.
    pub fn resumption(self, on: bool) -> Self {
        let _ = on;
        self
    }
    /// Allows TLS 1.2 too.
    pub fn legacy_tls12(self) -> Self {
        self
    }
    /// Largest handshake data kept for one connection, in bytes. Default 128 KiB.
    pub fn max_handshake_bytes(self, max: usize) -> Self {
        let _ = max;
        self
    }
    /// Where the cryptography comes from. Default: the first of ring and aws-lc-rs that is built in.
    pub fn provider(self, provider: Provider) -> Self {
        let _ = provider;
        self
    }
    /// Accepts whatever certificate the peer presents: no protection against an active attacker.
    pub fn dangerous_accept_any_certificate(self) -> Self {
        self
    }
    /// Checks the options for connecting and reads the files.
    ///
    /// # Errors
    /// The option that is wrong, and what to do.
    pub fn client(&self) -> Result<ClientConfig, Error> {
        unimplemented!()
    }
    /// Checks the options for accepting and reads the files.
    ///
    /// # Errors
    /// The option that is wrong, and what to do.
    pub fn server(&self) -> Result<ServerConfig, Error> {
        unimplemented!()
    }
}

/// Checked options for connecting. Cloning it costs a reference count; clones share resumption.
#[derive(Clone)]
pub struct ClientConfig;
/// Checked options for accepting. Cloning it costs a reference count; clones share resumption.
#[derive(Clone)]
pub struct ServerConfig;
