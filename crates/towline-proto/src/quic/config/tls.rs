//! Certificates, trust and the cryptographic library.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, CipherSuite, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use crate::quic::error::ConfigError;

/// The library that seals, signs and agrees on keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Provider {
    /// ring.
    #[default]
    Ring,
    /// aws-lc-rs, with the Cargo feature of that name.
    #[cfg(feature = "aws-lc-rs")]
    AwsLcRs,
}

/// A cipher for QUIC packets (RFC 9001 section 5.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cipher {
    /// AES-128 in GCM.
    Aes128Gcm,
    /// AES-256 in GCM.
    Aes256Gcm,
    /// ChaCha20 with Poly1305.
    ChaCha20Poly1305,
}

/// A sink for TLS secrets in the NSS key log format. Called on the endpoint's thread during handshakes.
pub trait KeyLog: fmt::Debug + Send + Sync {
    /// One line, without its end: `label client_random secret`, the latter two in hexadecimal.
    fn line(&self, line: &str);
}

/// A certificate chain and its private key.
pub struct Identity {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
}

impl Identity {
    /// From DER: the chain with the own certificate first, and the key as PKCS#8, SEC1 or PKCS#1.
    pub fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Self {
        Self { chain, key }
    }

    /// From PEM text (`certfile`, `keyfile`): all certificates of the first, the first key of the second.
    ///
    /// # Errors
    /// When either is not PEM or holds none. Encrypted keys have to be decrypted before.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, ConfigError> {
        let chain = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| ConfigError::Tls(format!("certificate chain: {error}")))?;
        if chain.is_empty() {
            return Err(ConfigError::Tls(
                "certificate chain: no certificate in the PEM text".into(),
            ));
        }
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|error| ConfigError::Tls(format!("private key: {error}")))?;
        Ok(Self { chain, key })
    }
}

impl Clone for Identity {
    fn clone(&self) -> Self {
        Self { chain: self.chain.clone(), key: self.key.clone_key() }
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("certificates", &self.chain.len()).finish_non_exhaustive()
    }
}

/// How a client makes sure of the server.
#[derive(Clone, Debug)]
pub enum ServerVerification {
    /// By these trust anchors and the server's name.
    Roots(Vec<CertificateDer<'static>>),
    /// By the SHA-256 of its certificate's DER, any of these. Name and dates do not count.
    PinnedSha256(Vec<[u8; 32]>),
    /// Not at all, unless `custom_verify` leaves it to the application: whoever is on the path can pose as the server.
    DangerousNone,
}

/// How a server makes sure of its clients.
#[derive(Clone, Debug, Default)]
pub enum ClientVerification {
    /// It does not ask for certificates.
    #[default]
    None,
    /// A certificate under these trust anchors is required.
    Required(Vec<CertificateDer<'static>>),
    /// A certificate is asked for; one that is given must stand under these trust anchors.
    Optional(Vec<CertificateDer<'static>>),
    /// A certificate is asked for and any is taken, unless `custom_verify` leaves it to the application.
    DangerousAny,
}

pub(super) fn provider(
    which: Provider,
    ciphers: &[Cipher],
) -> Result<Arc<CryptoProvider>, ConfigError> {
    let mut provider = match which {
        Provider::Ring => rustls::crypto::ring::default_provider(),
        #[cfg(feature = "aws-lc-rs")]
        Provider::AwsLcRs => rustls::crypto::aws_lc_rs::default_provider(),
    };
    if !ciphers.is_empty() {
        let all = std::mem::take(&mut provider.cipher_suites);
        for cipher in ciphers {
            let name = match cipher {
                Cipher::Aes128Gcm => CipherSuite::TLS13_AES_128_GCM_SHA256,
                Cipher::Aes256Gcm => CipherSuite::TLS13_AES_256_GCM_SHA384,
                Cipher::ChaCha20Poly1305 => CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
            };
            let suite = all.iter().find(|suite| suite.suite() == name);
            provider.cipher_suites.push(*suite.ok_or_else(|| {
                ConfigError::Tls(format!("the cryptographic library does not have {cipher:?}"))
            })?);
        }
    }
    Ok(Arc::new(provider))
}

/// AES-128-GCM, which Initial packets are sealed with whatever the handshake agrees on (RFC 9001 section 5.2).
pub(super) fn initial_suite(which: Provider) -> Result<rustls::quic::Suite, ConfigError> {
    provider(which, &[Cipher::Aes128Gcm])?
        .cipher_suites
        .first()
        .and_then(|suite| suite.tls13())
        .and_then(|suite| suite.quic_suite())
        .ok_or_else(|| ConfigError::Tls("the cryptographic library cannot do QUIC".into()))
}

pub(super) struct KeyLogAdapter(pub(super) Arc<dyn KeyLog>);

impl fmt::Debug for KeyLogAdapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyLogAdapter")
    }
}

impl rustls::KeyLog for KeyLogAdapter {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        let mut line =
            String::with_capacity(label.len() + 2 + 2 * (client_random.len() + secret.len()));
        line.push_str(label);
        for part in [client_random, secret] {
            line.push(' ');
            for byte in part {
                use fmt::Write as _;
                let _ = write!(line, "{byte:02x}");
            }
        }
        self.0.line(&line);
    }
}

/// Checks signatures and, if there are any, pins; nothing else.
#[derive(Debug)]
pub(super) struct LooseServerVerifier {
    pub(super) algorithms: WebPkiSupportedAlgorithms,
    pub(super) pins: Option<Vec<[u8; 32]>>,
}

impl ServerCertVerifier for LooseServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(pins) = &self.pins else { return Ok(ServerCertVerified::assertion()) };
        let digest = ring::digest::digest(&ring::digest::SHA256, end_entity);
        if pins.iter().any(|pin| pin[..] == *digest.as_ref()) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("QUIC speaks TLS 1.3 only".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Asks clients for a certificate and checks only their signatures.
#[derive(Debug)]
pub(super) struct LooseClientVerifier {
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for LooseClientVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("QUIC speaks TLS 1.3 only".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
