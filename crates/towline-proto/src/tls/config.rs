//! The options, and what is built of them once.

use super::keylog::{self, KeyLog};
use super::pem::Source;
use super::verify::{ClientTrust, Trust};
use super::{Error, Pin};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoClientAuth, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls::{RootCertStore, SupportedProtocolVersion, version};
use rustls_pki_types::UnixTime;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

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

const VERSIONS: &[&SupportedProtocolVersion] = &[&version::TLS13];
const LEGACY_VERSIONS: &[&SupportedProtocolVersion] = &[&version::TLS13, &version::TLS12];

/// Wall-clock time for certificates and tickets.
type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// TLS options. The same value serves both roles, [`client`](Self::client) and [`server`](Self::server); options that mean something to one
/// role only say so.
#[derive(Clone)]
pub struct Config {
    identity: Option<(Source, Source)>,
    cas: Vec<Source>,
    system_roots: bool,
    pins: Vec<Pin>,
    client_auth: ClientAuth,
    alpn: Vec<Vec<u8>>,
    require_alpn: bool,
    key_log: Option<KeyLog>,
    resumption: bool,
    legacy_tls12: bool,
    cipher_suites: Vec<String>,
    max_handshake_bytes: usize,
    provider: Option<Provider>,
    clock: Option<Clock>,
    any_certificate: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            identity: None,
            cas: Vec::new(),
            system_roots: false,
            pins: Vec::new(),
            client_auth: ClientAuth::None,
            alpn: Vec::new(),
            require_alpn: false,
            key_log: None,
            resumption: true,
            legacy_tls12: false,
            cipher_suites: Vec::new(),
            max_handshake_bytes: 128 << 10,
            provider: None,
            clock: None,
            any_certificate: false,
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field(
                "identity",
                &self.identity.as_ref().map(|(certificate, _)| certificate.to_string()),
            )
            .field("cas", &self.cas.len())
            .field("system_roots", &self.system_roots)
            .field("pins", &self.pins)
            .field("client_auth", &self.client_auth)
            .field("legacy_tls12", &self.legacy_tls12)
            .field("any_certificate", &self.any_certificate)
            .finish_non_exhaustive()
    }
}

impl Config {
    /// TLS 1.3, verification on, nothing trusted yet, no identity.
    pub fn new() -> Self {
        Self::default()
    }

    /// This side's certificate chain (its own first) and private key, from PEM files. A server needs them; a client presents them
    /// when it is asked to. They are read by [`client`](Self::client) or [`server`](Self::server).
    pub fn identity_files(mut self, certificate: impl AsRef<Path>, key: impl AsRef<Path>) -> Self {
        self.identity = Some((
            Source::File(certificate.as_ref().to_owned()),
            Source::File(key.as_ref().to_owned()),
        ));
        self
    }

    /// The same from PEM text in memory.
    pub fn identity_pem(
        mut self,
        certificate: impl Into<Vec<u8>>,
        key: impl Into<Vec<u8>>,
    ) -> Self {
        self.identity =
            Some((Source::Memory(certificate.into().into()), Source::Memory(key.into().into())));
        self
    }

    /// Trusts every certificate in a PEM file as a CA. May be given several times.
    pub fn ca_file(mut self, path: impl AsRef<Path>) -> Self {
        self.cas.push(Source::File(path.as_ref().to_owned()));
        self
    }

    /// Trusts every certificate in PEM text as a CA. May be given several times.
    pub fn ca_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.cas.push(Source::Memory(pem.into().into()));
        self
    }

    /// Trusts the system's roots, besides any CA given. Needs the feature `system-roots`.
    pub fn system_roots(mut self) -> Self {
        self.system_roots = true;
        self
    }

    /// Accepts only a peer whose own certificate, or its public key, has one of the pins given.
    ///
    /// Without any CA the pin is all that is asked, also of a self-signed certificate, whatever its name and time; with CAs the chain must
    /// be valid besides.
    pub fn pin(mut self, pin: Pin) -> Self {
        self.pins.push(pin);
        self
    }

    /// Which client certificates a server wants; nothing to a client. They are verified by the CAs and pins given. Default none.
    pub fn client_auth(mut self, auth: ClientAuth) -> Self {
        self.client_auth = auth;
        self
    }

    /// Application protocols (RFC 7301), the preferred first, each of 1 to 255 bytes. Default none.
    ///
    /// When both sides name some and have none in common, the handshake fails; when only one does, none is agreed.
    pub fn alpn(mut self, protocols: impl IntoIterator<Item = impl Into<Vec<u8>>>) -> Self {
        self.alpn = protocols.into_iter().map(Into::into).collect();
        self
    }

    /// Fails the handshake unless a protocol was agreed by [`alpn`](Self::alpn), also with a peer that does not speak ALPN.
    pub fn require_alpn(mut self) -> Self {
        self.require_alpn = true;
        self
    }

    /// Writes the secrets of every connection to a log, for Wireshark. Whoever reads it reads the traffic.
    pub fn key_log(mut self, log: KeyLog) -> Self {
        self.key_log = Some(log);
        self
    }

    /// Whether a connection may resume an earlier one with the same peer. Default on; it costs a client up to 256 remembered servers, and a
    /// server 256 remembered sessions.
    pub fn resumption(mut self, on: bool) -> Self {
        self.resumption = on;
        self
    }

    /// Allows TLS 1.2 besides 1.3, for peers that cannot do better.
    pub fn legacy_tls12(mut self) -> Self {
        self.legacy_tls12 = true;
        self
    }

    /// Restricts the cipher suites to those named, the preferred first, such as `TLS13_AES_128_GCM_SHA256`. Default: the provider's, AES-256 first.
    pub fn cipher_suites(mut self, names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.cipher_suites = names.into_iter().map(Into::into).collect();
        self
    }

    /// Largest amount of unfinished handshake kept for one connection, in bytes. Default 128 KiB, at least 4 KiB.
    pub fn max_handshake_bytes(mut self, max: usize) -> Self {
        self.max_handshake_bytes = max;
        self
    }

    /// Where the cryptography comes from. Default: ring if built in, else aws-lc-rs.
    pub fn provider(mut self, provider: Provider) -> Self {
        self.provider = Some(provider);
        self
    }

    /// Where the wall-clock time comes from, by which certificates and tickets are judged. Default: the system's clock.
    pub fn clock(mut self, clock: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        self.clock = Some(Arc::new(clock));
        self
    }

    /// Accepts whatever certificate the peer presents: no protection at all against an active attacker. Prefer [`pin`](Self::pin).
    pub fn dangerous_accept_any_certificate(mut self) -> Self {
        self.any_certificate = true;
        self
    }

    /// Checks the options for connecting and reads the files.
    ///
    /// # Errors
    /// Which option is wrong, and what to do: everything in [`Error`] down to [`Error::BadPin`].
    pub fn client(&self) -> Result<ClientConfig, Error> {
        let checked = self.check()?;
        let algorithms = checked.provider.signature_verification_algorithms;
        let chain = match self.roots("the server")? {
            Some(roots) => {
                let verifier =
                    WebPkiServerVerifier::builder_with_provider(roots, checked.provider.clone())
                        .build()
                        .map_err(|error| bad("ca_file", error.to_string()))?;
                Some(verifier as Arc<dyn ServerCertVerifier>)
            }
            None => None,
        };
        let trust = Trust { chain, pins: self.pins.clone(), any: self.any_certificate, algorithms };
        let builder =
            rustls::ClientConfig::builder_with_details(checked.provider.clone(), checked.time)
                .with_protocol_versions(checked.versions)
                .map_err(|error| bad("cipher_suites", error.to_string()))?
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(trust));
        let mut config = match checked.identity {
            Some(identity) => builder.with_client_cert_resolver(Arc::new(
                rustls::sign::SingleCertAndKey::from(identity),
            )),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols.clone_from(&self.alpn);
        if !self.resumption {
            config.resumption = rustls::client::Resumption::disabled();
        }
        if let Some(log) = checked.key_log {
            config.key_log = log;
        }
        Ok(ClientConfig { rustls: Arc::new(config), limits: self.limits() })
    }

    /// Checks the options for accepting and reads the files.
    ///
    /// # Errors
    /// Which option is wrong, and what to do: everything in [`Error`] down to [`Error::BadPin`].
    pub fn server(&self) -> Result<ServerConfig, Error> {
        let checked = self.check()?;
        let identity = checked.identity.ok_or(Error::NoIdentity)?;
        let verifier = match self.client_auth {
            ClientAuth::None => Arc::new(NoClientAuth) as Arc<dyn ClientCertVerifier>,
            auth => self.client_verifier(&checked.provider, auth == ClientAuth::Required)?,
        };
        let mut config = rustls::ServerConfig::builder_with_details(checked.provider, checked.time)
            .with_protocol_versions(checked.versions)
            .map_err(|error| bad("cipher_suites", error.to_string()))?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(identity.clone())));
        config.alpn_protocols.clone_from(&self.alpn);
        if !self.resumption {
            config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        if let Some(log) = checked.key_log {
            config.key_log = log;
        }
        Ok(ServerConfig {
            rustls: Arc::new(config),
            identity: Arc::new(identity),
            limits: self.limits(),
        })
    }

    fn client_verifier(
        &self,
        provider: &Arc<CryptoProvider>,
        required: bool,
    ) -> Result<Arc<dyn ClientCertVerifier>, Error> {
        let algorithms = provider.signature_verification_algorithms;
        let chain = match self.roots("clients")? {
            Some(roots) => Some(
                WebPkiClientVerifier::builder_with_provider(roots, provider.clone())
                    .build()
                    .map_err(|error| bad("ca_file", error.to_string()))?,
            ),
            None => None,
        };
        let trust = Trust { chain, pins: self.pins.clone(), any: self.any_certificate, algorithms };
        Ok(Arc::new(ClientTrust { trust, algorithms, required }))
    }

    /// The CAs; `None` when trust does not rest on any.
    fn roots(&self, whom: &'static str) -> Result<Option<Arc<RootCertStore>>, Error> {
        let mut roots = RootCertStore::empty();
        for source in &self.cas {
            for certificate in source.certificates()? {
                roots.add(certificate).map_err(|error| Error::MalformedPem {
                    what: "certificate",
                    origin: source.to_string(),
                    reason: error.to_string(),
                })?;
            }
        }
        if self.system_roots {
            add_system_roots(&mut roots)?;
        }
        if !roots.is_empty() {
            return Ok(Some(Arc::new(roots)));
        }
        if self.pins.is_empty() && !self.any_certificate {
            return Err(Error::NoTrust { whom });
        }
        Ok(None)
    }

    fn check(&self) -> Result<Checked, Error> {
        if self.max_handshake_bytes < 4096 {
            return Err(bad(
                "max_handshake_bytes",
                "a handshake does not fit less than 4096 bytes",
            ));
        }
        if self.alpn.iter().any(|name| name.is_empty() || name.len() > 255) {
            return Err(bad("alpn", "a protocol's name has 1 to 255 bytes"));
        }
        if self.require_alpn && self.alpn.is_empty() {
            return Err(bad("require_alpn", "no protocol is named by `alpn`"));
        }
        let provider = Arc::new(self.crypto()?);
        let identity = match &self.identity {
            Some((certificate, key)) => Some(identity(certificate, key, &provider)?),
            None => None,
        };
        let versions = if self.legacy_tls12 { LEGACY_VERSIONS } else { VERSIONS };
        let time: Arc<dyn TimeProvider> = match &self.clock {
            Some(clock) => Arc::new(Time(clock.clone())),
            None => Arc::new(rustls::time_provider::DefaultTimeProvider),
        };
        let key_log = self.key_log.as_ref().map(keylog::open).transpose()?;
        Ok(Checked { provider, identity, versions, time, key_log })
    }

    fn crypto(&self) -> Result<CryptoProvider, Error> {
        let wanted = self.provider.unwrap_or(if cfg!(feature = "ring") {
            Provider::Ring
        } else {
            Provider::AwsLcRs
        });
        let mut provider = built_in(wanted)?;
        if !self.cipher_suites.is_empty() {
            let known = std::mem::take(&mut provider.cipher_suites);
            for name in &self.cipher_suites {
                let suite = known.iter().find(|suite| suite.suite().as_str() == Some(name));
                provider.cipher_suites.push(*suite.ok_or_else(|| {
                    let names: Vec<_> =
                        known.iter().filter_map(|suite| suite.suite().as_str()).collect();
                    bad(
                        "cipher_suites",
                        format!("`{name}` is unknown; there are {}", names.join(", ")),
                    )
                })?);
            }
        }
        Ok(provider)
    }

    fn limits(&self) -> Limits {
        Limits {
            max_handshake_bytes: self.max_handshake_bytes,
            require_alpn: self.require_alpn,
            legacy_tls12: self.legacy_tls12,
        }
    }
}

fn built_in(provider: Provider) -> Result<CryptoProvider, Error> {
    match provider {
        #[cfg(feature = "ring")]
        Provider::Ring => Ok(rustls::crypto::ring::default_provider()),
        #[cfg(feature = "aws-lc-rs")]
        Provider::AwsLcRs => Ok(rustls::crypto::aws_lc_rs::default_provider()),
        #[cfg(not(all(feature = "ring", feature = "aws-lc-rs")))]
        other => {
            Err(bad("provider", format!("this build has no {other:?}: build with its feature")))
        }
    }
}

struct Checked {
    provider: Arc<CryptoProvider>,
    identity: Option<CertifiedKey>,
    versions: &'static [&'static SupportedProtocolVersion],
    time: Arc<dyn TimeProvider>,
    key_log: Option<Arc<dyn rustls::KeyLog>>,
}

fn bad(option: &'static str, reason: impl Into<String>) -> Error {
    Error::BadOption { option, reason: reason.into() }
}

fn identity(
    certificate: &Source,
    key: &Source,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, Error> {
    let chain = certificate.certificates()?;
    CertifiedKey::from_der(chain, key.private_key()?, provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            Error::WrongKey { certificate: certificate.to_string(), key: key.to_string() }
        }
        rustls::Error::InvalidCertificate(error) => Error::UnusableIdentity {
            origin: certificate.to_string(),
            reason: format!("its first certificate is malformed ({error})"),
        },
        error => Error::UnusableIdentity { origin: key.to_string(), reason: error.to_string() },
    })
}

#[cfg(feature = "system-roots")]
fn add_system_roots(roots: &mut RootCertStore) -> Result<(), Error> {
    let found = rustls_native_certs::load_native_certs();
    // A store may hold certificates that cannot serve as a root; the others still do.
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let reasons: Vec<_> = found.errors.iter().map(ToString::to_string).collect();
        let reason =
            if reasons.is_empty() { "none were found".to_owned() } else { reasons.join("; ") };
        return Err(Error::NoSystemRoots { reason });
    }
    Ok(())
}

#[cfg(not(feature = "system-roots"))]
fn add_system_roots(_: &mut RootCertStore) -> Result<(), Error> {
    Err(bad(
        "system_roots",
        "this build has no access to them: build with the feature `system-roots`",
    ))
}

struct Time(Clock);

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Time")
    }
}

impl TimeProvider for Time {
    fn current_time(&self) -> Option<UnixTime> {
        let since = (self.0)().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Some(UnixTime::since_unix_epoch(since))
    }
}

/// What a [`super::Stream`] itself has to know.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) max_handshake_bytes: usize,
    pub(super) require_alpn: bool,
    pub(super) legacy_tls12: bool,
}

/// Checked options for connecting. Cloning it costs a reference count, and clones share what they remember for resumption.
#[derive(Clone)]
pub struct ClientConfig {
    pub(crate) rustls: Arc<rustls::ClientConfig>,
    pub(super) limits: Limits,
}

/// Checked options for accepting. Cloning it costs a reference count, and clones share what they remember for resumption.
#[derive(Clone)]
pub struct ServerConfig {
    pub(crate) rustls: Arc<rustls::ServerConfig>,
    pub(super) identity: Arc<CertifiedKey>,
    pub(super) limits: Limits,
}

#[cfg(feature = "quic")]
impl ClientConfig {
    pub(crate) fn rustls(&self) -> &rustls::ClientConfig {
        &self.rustls
    }
}

#[cfg(feature = "quic")]
impl ServerConfig {
    pub(crate) fn rustls(&self) -> &rustls::ServerConfig {
        &self.rustls
    }
}

impl ServerConfig {
    /// The pin of the certificate that this server presents.
    pub fn pin(&self) -> Pin {
        self.identity
            .cert
            .first()
            .map_or_else(|| Pin::of_certificate(&[]), |own| Pin::of_certificate(own))
    }
}

impl fmt::Debug for ClientConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientConfig").finish_non_exhaustive()
    }
}

impl fmt::Debug for ServerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerConfig").finish_non_exhaustive()
    }
}
