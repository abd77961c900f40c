//! Everything that can go wrong with TLS, each with what to do about it.

use super::{Pin, Version};
use rustls::{AlertDescription, CertificateError};
use std::{io, path::PathBuf, sync::Arc};

/// Why a configuration was refused or a connection failed. Cheap to clone.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A PEM file could not be read.
    #[error("cannot read {}: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: Arc<io::Error>,
    },
    /// PEM text holds no section of the needed kind, or a broken one.
    #[error("no usable {what} in {origin}: {reason}")]
    MalformedPem {
        /// `certificate` or `private key`.
        what: &'static str,
        /// The file, or `memory`.
        origin: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The private key is encrypted with a password.
    #[error(
        "the private key in {origin} is encrypted: decrypt it first, for instance with `openssl pkey -in KEY -out PLAIN`"
    )]
    EncryptedKey {
        /// The file, or `memory`.
        origin: String,
    },
    /// The private key does not belong to the certificate.
    #[error(
        "the private key in {key} does not belong to the certificate in {certificate}: pass the pair that was made together"
    )]
    WrongKey {
        /// Where the certificate came from.
        certificate: String,
        /// Where the key came from.
        key: String,
    },
    /// A certificate or key is of a kind that the provider cannot use.
    #[error("the certificate or key in {origin} cannot be used: {reason}")]
    UnusableIdentity {
        /// The file, or `memory`.
        origin: String,
        /// The provider's words.
        reason: String,
    },
    /// A server without certificate and key.
    #[error("a server needs a certificate and its key: set both, or make them with `towline cert`")]
    NoIdentity,
    /// A client that trusts nobody, or a server that asks for client certificates and trusts nobody.
    #[error("nothing to trust {whom} by: add a CA file, the system's roots or a pin")]
    NoTrust {
        /// `the server` or `clients`.
        whom: &'static str,
    },
    /// The system's root certificates could not be read.
    #[error(
        "cannot read the system's root certificates ({reason}): add a CA file or a pin instead"
    )]
    NoSystemRoots {
        /// What went wrong.
        reason: String,
    },
    /// An option contradicts another, or this build cannot honour it.
    #[error("the TLS option `{option}` cannot be honoured: {reason}")]
    BadOption {
        /// The option's name.
        option: &'static str,
        /// Why not.
        reason: String,
    },
    /// The key log file could not be opened.
    #[error("cannot open the key log {}: {error}", path.display())]
    KeyLog {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: Arc<io::Error>,
    },
    /// A name that no certificate can be checked against.
    #[error(
        "`{name}` is neither a DNS name nor an IP address, so no certificate can be checked against it"
    )]
    BadServerName {
        /// The name.
        name: String,
    },
    /// A pin that is not one.
    #[error("`{text}` is not a pin: write `sha256:` and 64 hex digits, or 44 characters of base64")]
    BadPin {
        /// What was given.
        text: String,
    },

    /// The peer's certificate is not signed by anything trusted here.
    #[error(
        "the peer's certificate is not trusted ({reason}): if it is the right one, trust its CA by a CA file or pin it with `{certificate_pin}`"
    )]
    NotTrusted {
        /// Why.
        reason: String,
        /// The pin of the certificate that was presented.
        certificate_pin: Pin,
        /// The pin of its public key, which survives a renewal with the same key.
        key_pin: Option<Pin>,
    },
    /// The peer's certificate matches none of the pins.
    #[error(
        "the peer's certificate has pin `{certificate_pin}`, which is not among those set: if the certificate was changed on purpose, pin the new one"
    )]
    PinMismatch {
        /// The pin of the certificate that was presented.
        certificate_pin: Pin,
        /// The pin of its public key.
        key_pin: Option<Pin>,
    },
    /// The peer's certificate is out of its time.
    #[error("the peer's certificate {}: renew it, or set the clock", if *not_yet { "is not valid yet" } else { "has expired" })]
    Expired {
        /// Its time has not begun, rather than ended.
        not_yet: bool,
    },
    /// The certificate names somebody else.
    #[error("the server's certificate is not valid for `{name}` (it names {}): connect by one of its names, or set the server name to check", if presented.is_empty() { "nobody".to_owned() } else { presented.join(", ") })]
    WrongName {
        /// The name that was to be checked.
        name: String,
        /// The names in the certificate.
        presented: Vec<String>,
    },
    /// The client presented no certificate and this server requires one.
    #[error(
        "the client presented no certificate, and this server requires one: give the client a certificate and key"
    )]
    NoClientCertificate,
    /// The server requires a client certificate.
    #[error("the server requires a client certificate: set a certificate and key that it trusts")]
    ClientCertificateRequired,
    /// No application protocol in common.
    #[error("no application protocol in common{}: set the same ALPN on both sides", if offered.is_empty() { String::new() } else { format!(" (here: {})", offered.join(", ")) })]
    AlpnMismatch {
        /// This side's protocols.
        offered: Vec<String>,
    },
    /// No TLS version in common.
    #[error(
        "the peer and this side have no TLS version in common (here: {} and up): have the peer speak TLS 1.3, or allow 1.2 with `legacy_tls12`",
        lowest
    )]
    VersionMismatch {
        /// The lowest version allowed here.
        lowest: Version,
    },
    /// The peer ended the connection with an alert.
    #[error("the peer ended the connection with the TLS alert `{description}`{hint}")]
    AlertReceived {
        /// The alert's name in RFC 8446 section 6.
        description: String,
        /// What it usually means, or nothing.
        hint: &'static str,
    },
    /// The stream ended without a `close_notify`, so data may be missing at the end (RFC 8446 section 6.1).
    #[error("the connection ended without the peer closing it: data may be missing at the end")]
    Truncated,
    /// The stream ended during the handshake.
    #[error(
        "the connection ended during the TLS handshake: the peer may not speak TLS, or refused it"
    )]
    HandshakeCut,
    /// The first bytes are not TLS.
    #[error(
        "the peer does not speak TLS: check the address and whether the scheme should be the one without TLS"
    )]
    NotTls,
    /// A handshake larger than [`super::Config::max_handshake_bytes`].
    #[error(
        "the peer's handshake is larger than {max} bytes: raise `max_handshake_bytes` if its certificates are that large"
    )]
    HandshakeTooLarge {
        /// The limit.
        max: usize,
    },
    /// A record failed its authentication: damaged or forged.
    #[error(
        "a TLS record failed authentication: the stream was damaged or tampered with on its way"
    )]
    BadRecord,
    /// The peer broke the protocol.
    #[error("the peer broke the TLS protocol: {reason}")]
    PeerMisbehaved {
        /// How.
        reason: String,
    },
    /// Data before the handshake is done, or after closing.
    #[error("cannot send: {reason}")]
    NotWritable {
        /// Why not.
        reason: &'static str,
    },
    /// Anything else the provider reports.
    #[error("TLS failed: {reason}")]
    Failed {
        /// The provider's words.
        reason: String,
    },
}

pub(super) fn failed(reason: impl Into<String>) -> Error {
    Error::Failed { reason: reason.into() }
}

pub(super) fn misbehaved(reason: impl Into<String>) -> Error {
    Error::PeerMisbehaved { reason: reason.into() }
}

pub(super) fn alert_received(description: AlertDescription) -> Error {
    match description {
        AlertDescription::CertificateRequired => Error::ClientCertificateRequired,
        AlertDescription::NoApplicationProtocol => Error::AlpnMismatch { offered: Vec::new() },
        _ => Error::AlertReceived { description: alert_name(description), hint: hint(description) },
    }
}

fn alert_name(description: AlertDescription) -> String {
    match description.as_str() {
        Some(name) => name.to_owned(),
        None => format!("number {}", u8::from(description)),
    }
}

fn hint(description: AlertDescription) -> &'static str {
    match description {
        AlertDescription::UnknownCA
        | AlertDescription::CertificateUnknown
        | AlertDescription::BadCertificate => {
            ": it does not trust this side's certificate; have it trust the CA or the pin, or present another certificate"
        }
        AlertDescription::CertificateExpired => ": this side's certificate has expired; renew it",
        AlertDescription::UnsupportedCertificate => {
            ": this side's certificate is of a kind that it does not take"
        }
        AlertDescription::ProtocolVersion => ": it has no TLS version in common with this side",
        AlertDescription::HandshakeFailure => ": it found no parameters in common with this side",
        AlertDescription::AccessDenied => {
            ": it has no certificate for what it was asked, or requires an application protocol (ALPN)"
        }
        AlertDescription::UnrecognisedName => ": it does not know the server name",
        AlertDescription::BadRecordMac => ": the stream was damaged on its way",
        _ => "",
    }
}

/// For errors outside the handshake, where nothing about the configuration explains them.
pub(super) fn from_records(error: &rustls::Error) -> Error {
    match error {
        rustls::Error::DecryptError => Error::BadRecord,
        rustls::Error::AlertReceived(description) => alert_received(*description),
        rustls::Error::PeerMisbehaved(reason) => misbehaved(format!("{reason:?}")),
        rustls::Error::InvalidMessage(reason) => {
            misbehaved(format!("malformed message, {reason:?}"))
        }
        rustls::Error::InappropriateMessage { .. }
        | rustls::Error::InappropriateHandshakeMessage { .. } => {
            misbehaved(format!("message out of place, {error}"))
        }
        rustls::Error::PeerSentOversizedRecord => misbehaved("it sent a record over the limit"),
        error => failed(error.to_string()),
    }
}

/// What a connection knows to explain an error by.
pub(super) struct Context {
    alpn: Vec<String>,
    lowest: Version,
    server_name: Option<String>,
}

impl Context {
    pub(super) fn new(alpn: &[Vec<u8>], legacy_tls12: bool, server_name: Option<&str>) -> Self {
        Self {
            alpn: alpn.iter().map(|name| name.escape_ascii().to_string()).collect(),
            lowest: if legacy_tls12 { Version::Tls12 } else { Version::Tls13 },
            server_name: server_name.map(str::to_owned),
        }
    }

    pub(super) fn no_alpn(&self) -> Error {
        Error::AlpnMismatch { offered: self.alpn.clone() }
    }

    pub(super) fn explain(&self, error: rustls::Error) -> Error {
        use rustls::{Error as Tls, PeerIncompatible};
        match error {
            Tls::InvalidCertificate(error) => self.explain_certificate(error),
            Tls::NoCertificatesPresented => Error::NoClientCertificate,
            Tls::NoApplicationProtocol
            | Tls::AlertReceived(AlertDescription::NoApplicationProtocol) => self.no_alpn(),
            Tls::AlertReceived(AlertDescription::ProtocolVersion)
            | Tls::PeerIncompatible(
                PeerIncompatible::ServerDoesNotSupportTls12Or13
                | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
                | PeerIncompatible::SupportedVersionsExtensionRequired
                | PeerIncompatible::Tls12NotOffered
                | PeerIncompatible::Tls12NotOfferedOrEnabled,
            ) => Error::VersionMismatch { lowest: self.lowest },
            Tls::PeerIncompatible(reason) => misbehaved(format!("nothing in common, {reason:?}")),
            error => from_records(&error),
        }
    }

    fn explain_certificate(&self, error: CertificateError) -> Error {
        let name = || self.server_name.clone().unwrap_or_default();
        match error {
            CertificateError::Other(other) => match other.0.downcast_ref::<Error>() {
                Some(error) => error.clone(),
                None => failed(format!("the peer's certificate was refused: {other}")),
            },
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                Error::Expired { not_yet: false }
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                Error::Expired { not_yet: true }
            }
            CertificateError::NotValidForName => {
                Error::WrongName { name: name(), presented: Vec::new() }
            }
            CertificateError::NotValidForNameContext { presented, .. } => {
                Error::WrongName { name: name(), presented }
            }
            error => failed(format!("the peer's certificate was refused: {error}")),
        }
    }
}
