//! Who is trusted: CAs, pins, or (only where an option says `dangerous`) anybody.

use super::{Error, Pin};
use rustls::DigitallySignedStruct;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DistinguishedName, OtherError, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::sync::Arc;

/// What both roles share. `V` verifies a chain against CAs.
///
/// With pins, the peer's own certificate must match one of them; with CAs, its chain must be valid; with both, both. A pin alone stands
/// for the certificate as it is: neither names nor times are looked at. That the peer holds the key is always verified.
pub(super) struct Trust<V: ?Sized> {
    pub(super) chain: Option<Arc<V>>,
    pub(super) pins: Vec<Pin>,
    pub(super) any: bool,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

impl<V: ?Sized> std::fmt::Debug for Trust<V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trust")
            .field("pins", &self.pins)
            .field("any", &self.any)
            .finish_non_exhaustive()
    }
}

impl<V: ?Sized> Trust<V> {
    fn verify(
        &self,
        certificate: &CertificateDer<'_>,
        chain: impl FnOnce(&V) -> Result<(), rustls::Error>,
    ) -> Result<(), rustls::Error> {
        if self.any {
            return Ok(());
        }
        if !self.pins.is_empty() && !self.pins.iter().any(|pin| pin.matches(certificate)) {
            let (certificate_pin, key_pin) = pins_of(certificate);
            return Err(refuse(Error::PinMismatch { certificate_pin, key_pin }));
        }
        match &self.chain {
            Some(verifier) => chain(verifier).map_err(|error| explain(error, certificate)),
            None if self.pins.is_empty() => {
                Err(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer))
            }
            None => Ok(()),
        }
    }
}

fn pins_of(certificate: &CertificateDer<'_>) -> (Pin, Option<Pin>) {
    (Pin::of_certificate(certificate), Pin::of_public_key(certificate))
}

fn refuse(error: Error) -> rustls::Error {
    rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
}

/// Adds the pin to refusals that a pin would answer; the others keep their own alert.
fn explain(error: rustls::Error, certificate: &CertificateDer<'_>) -> rustls::Error {
    let rustls::Error::InvalidCertificate(error) = error else { return error };
    let reason = match &error {
        CertificateError::UnknownIssuer => "it is not signed by a trusted CA".to_owned(),
        CertificateError::BadSignature => "its signature is wrong".to_owned(),
        CertificateError::BadEncoding => "it is malformed".to_owned(),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "it is not meant for this role".to_owned()
        }
        CertificateError::Other(reason) if reason.to_string().contains("CaUsedAsEndEntity") => {
            "it is a CA's own certificate".to_owned()
        }
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. }
        | CertificateError::NotValidForName
        | CertificateError::NotValidForNameContext { .. } => {
            return rustls::Error::InvalidCertificate(error);
        }
        other => other.to_string(),
    };
    let (certificate_pin, key_pin) = pins_of(certificate);
    refuse(Error::NotTrusted { reason, certificate_pin, key_pin })
}

/// What both verifier traits ask for in the same words.
macro_rules! verify_signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            verify_tls12_signature(message, certificate, signature, &self.algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            verify_tls13_signature(message, certificate, signature, &self.algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.algorithms.supported_schemes()
        }
    };
}

impl ServerCertVerifier for Trust<dyn ServerCertVerifier> {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(certificate, |verifier| {
            verifier.verify_server_cert(certificate, intermediates, name, ocsp, now).map(|_| ())
        })?;
        Ok(ServerCertVerified::assertion())
    }

    verify_signatures!();
}

/// A server's trust, and whether a client must have a certificate.
#[derive(Debug)]
pub(super) struct ClientTrust {
    pub(super) trust: Trust<dyn ClientCertVerifier>,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
    pub(super) required: bool,
}

impl ClientCertVerifier for ClientTrust {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.trust.chain.as_ref().map_or(&[], |verifier| verifier.root_hint_subjects())
    }

    fn client_auth_mandatory(&self) -> bool {
        self.required
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.trust.verify(certificate, |verifier| {
            verifier.verify_client_cert(certificate, intermediates, now).map(|_| ())
        })?;
        Ok(ClientCertVerified::assertion())
    }

    verify_signatures!();
}
